# SPDX-License-Identifier: GPL-2.0-only
"""Sweeps: one or more traces replayed under a grid of settings, on as many machines as there are.

A *cell* is one trace under one combination of settings.  Cells run as tasks of
Dask's ``distributed``: on workers started here, or on those of a cluster.  The
process that started the sweep writes each result as it arrives, to a file of
its own that is renamed into place when it is complete::

    DIR/cells/1f0c...parquet     one row: the settings, and the figures of the replay
    DIR/results.parquet          all rows of the sweep, written at the end

So whatever is killed, a cell's file is there as a whole or not at all, and the
same sweep started again computes only the cells whose files are missing.  A
cell's name is the fingerprint of its trace and settings: changing either makes
another cell.

Each trace is unpacked and scanned once, by a task of its own; what its cells get
is a mapped file of columns (:mod:`kmem.replay.prepared`).  A worker that cannot
reach that file, being on another machine, makes one for itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import gc
import glob
import hashlib
import importlib
import itertools
import logging
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kmem import __version__
from kmem.analysis import processes
from kmem.analysis.compare import FIGURES, figures
from kmem.analysis.summary import analyse
from kmem.errors import ConfigError, InputError, KmemError, NotSupportedError, UsageError
from kmem.mm.x86 import memparse
from kmem.replay.prepared import PreparedTrace, prepare
from kmem.replay.replay import Replay
from kmem.replay.variant import Variant, canonical

__all__ = ["GOALS", "MAX_CELLS", "Axis", "Cell", "Sweep", "find_traces", "make_grid", "pareto", "run_cell", "sweep"]

MAX_CELLS = 100_000
#: What a sweep tries to have little of: the Pareto front is taken over these.
GOALS = ("failures", "peak_used_pages", "peak_slab_bytes", "fallbacks")
_HEAD_BYTES = 1 << 20
_RETRIES = 3  #: of a cell whose worker was lost
_CONNECT_TIMEOUT = "10s"
_NO_MEMORY = "the worker has too little memory for a model of this machine"
_one_at_a_time = threading.Lock()  # a worker of several threads decodes a trace once

Axis = tuple[str, tuple[str, ...]]
Told = Callable[[int, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One replay of a sweep.

    Attributes
    ----------
    trace : str
        Path or URL.
    base : Variant
        What all cells have in common.
    settings : tuple of (str, str)
        Name and value of each setting that the sweep varies.
    seed : int
    key : str
        Name of its result.
    """

    trace: str
    base: Variant
    settings: tuple[tuple[str, str], ...]
    seed: int
    key: str

    @property
    def variant(self) -> Variant:
        """What is replayed."""
        return self.base.with_settings([f"{name}={value}" for name, value in self.settings])


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that has ended.

    Attributes
    ----------
    axes : tuple of (str, tuple of str)
        What was varied.
    rows : list of dict
        A row for each cell: ``trace``, a column for each axis, ``error``
        (empty, or why this machine could not be had), the figures of
        :data:`kmem.analysis.compare.FIGURES`, and ``pareto``.
    computed, kept : int
        Cells computed now, and cells whose results were there.
    """

    axes: tuple[Axis, ...]
    rows: list[dict[str, Any]]
    computed: int
    kept: int

    def to_arrow(self) -> pa.Table:
        """Return the rows as a table."""
        return pa.Table.from_pylist(self.rows)


def find_traces(patterns: Sequence[str]) -> list[str]:
    """Return the traces that paths, patterns and URLs stand for, each once.

    Raises
    ------
    InputError
        If one stands for no file.
    NotSupportedError
        If a URL needs a package that is not there.
    """
    found: list[str] = []
    for pattern in patterns:
        if pattern == "-":
            raise InputError("a sweep reads its traces many times", file="-", remedy="give a file")
        if "://" in pattern:
            found += _remote_files(pattern)
            continue
        names = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        files = [name for name in names if not Path(name).is_dir()]
        if not files:
            raise InputError("no such trace", file=pattern, remedy="give a file, a pattern in quotes, or a URL")
        found += files
    return list(dict.fromkeys(found))


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        fsspec: Any = importlib.import_module("fsspec")
    except ImportError:
        raise NotSupportedError(f"{url} needs the package fsspec", remedy="pip install 'kmem[sweep]'") from None
    try:
        system, path = fsspec.core.url_to_fs(url)
        return system, str(path)
    except ImportError as error:
        raise NotSupportedError(f"{url} cannot be read: {error}", remedy="install what it names") from None
    except Exception as error:  # each kind of storage has errors of its own
        raise InputError(f"cannot be read: {_worded(error)}", file=url, remedy="check the URL") from None


@contextlib.contextmanager
def _of_storage(url: str) -> Iterator[None]:
    """Turn what goes wrong with a storage into a message; its package has errors of its own kind."""
    try:
        yield
    except KmemError:
        raise
    except Exception as error:
        raise InputError(f"cannot be read: {_worded(error)}", file=url, remedy="check the URL and the login") from None


def _worded(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _remote_files(url: str) -> list[str]:
    system, path = _filesystem(url)
    with _of_storage(url):
        names = sorted(system.glob(path)) if any(sign in path for sign in "*?[") else [path]
        names = [name for name in names if system.isfile(name)]
        if not names:
            raise InputError("no such trace", file=url, remedy="check the URL")
        return [str(system.unstrip_protocol(name)) for name in names]


def make_grid(
    traces: Sequence[str], vary: Sequence[str], *, base: Variant | None = None, seed: int = 0
) -> tuple[tuple[Axis, ...], list[Cell]]:
    """Return the axes and the cells of a sweep.

    Parameters
    ----------
    traces : sequence of str
        Paths and URLs; see :func:`find_traces`.
    vary : sequence of str
        ``NAME=A,B,C`` for each axis; see :mod:`kmem.replay.variant`. Values
        with commas of their own are separated by semicolons.
    base : Variant, optional
        What all cells have in common.
    seed : int
        Seed of every replay.

    Raises
    ------
    ConfigError, UsageError
        If the grid is empty or too large, or a setting is unknown.
    InputError
        If a trace cannot be read.
    """
    base = base if base is not None else Variant()
    axes = tuple(_axis(text) for text in vary)
    names = [name for name, _ in axes]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UsageError(f"--vary gives {double} twice", remedy="give all its values at once")
    if not axes or not traces:
        raise UsageError("the grid is empty", remedy="give a trace, and at least one --vary NAME=VALUE,VALUE")
    size = len(traces)
    for _, values in axes:
        size *= len(values)
    if size > MAX_CELLS:
        raise UsageError(f"a grid of {size:,} cells", remedy=f"{MAX_CELLS:,} are the most; vary less at once")
    marks = {trace: _fingerprint(trace) for trace in traces}
    cells = []
    for trace in traces:
        for values in itertools.product(*(values for _, values in axes)):
            settings = tuple(zip(names, values, strict=True))
            said = repr((__version__, marks[trace], trace, base, sorted(settings), seed))
            cell = Cell(trace, base, settings, seed, hashlib.sha256(said.encode()).hexdigest()[:24])
            _ = cell.variant  # a setting that is none is told before anything runs
            cells.append(cell)
    return axes, cells


def _axis(text: str) -> Axis:
    name, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(";" if ";" in values else ",")]
    if not equals or not name.strip() or not all(parts):
        raise UsageError(
            f"--vary {text}: no values", remedy="write NAME=VALUE,VALUE, as in vm.min_free_kbytes=4096,8192"
        )
    return canonical(name), tuple(dict.fromkeys(parts))


def _fingerprint(trace: str) -> str:
    """A mark that another content of the file changes: its size, and its first and last megabyte."""
    if "://" in trace:
        system, path = _filesystem(trace)
        with _of_storage(trace):
            return str(system.ukey(path))
    try:
        with open(trace, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(file.read(_HEAD_BYTES))
            file.seek(max(0, size - _HEAD_BYTES))
            digest.update(file.read(_HEAD_BYTES))
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror or error}", file=trace) from None
    return f"{size}:{digest.hexdigest()}"


def prepare_trace(trace: str) -> PreparedTrace | str:
    """Look through a trace for all of its cells; why it cannot be read, if it cannot."""
    try:
        with _local(trace) as path:
            return prepare(path, **_named(trace))
    except KmemError as refused:
        return str(refused)
    except MemoryError:
        return _NO_MEMORY


def run_cell(cell: Cell, prepared: PreparedTrace | str | None = None) -> dict[str, Any]:
    """Replay a cell and return its row; a machine that cannot be had is a row, too.

    Parameters
    ----------
    cell : Cell
    prepared : PreparedTrace or str, optional
        From :func:`prepare_trace`; the row is the same without it.
    """
    row: dict[str, Any] = {"trace": cell.trace, **dict(cell.settings)}
    numbers: dict[str, int | None] = dict.fromkeys(FIGURES)
    if isinstance(prepared, str):
        return {**row, "error": prepared, **numbers}
    error = ""
    run: Replay | None = None
    try:
        with _source(cell.trace, prepared) as path:
            run = cell.variant.replay(path, seed=cell.seed, prepared=prepared, **_named(cell.trace))
            numbers.update(figures(analyse(run)))
    except KmemError as refused:
        error = str(refused)
    except MemoryError:
        error = _NO_MEMORY
    run = None
    gc.collect()  # a machine is full of cycles; the next one takes its memory
    return {**row, "error": error, **numbers}


def _named(trace: str) -> dict[str, Any]:
    """What messages shall call a trace of which a copy is read."""
    return {"name": trace} if "://" in trace else {}


@contextlib.contextmanager
def _source(trace: str, prepared: PreparedTrace | None) -> Iterator[str]:
    """What a replay is to open: the trace, or only its name if its events are at hand."""
    if prepared is not None and prepared.lost:
        with _one_at_a_time:
            if prepared.lost:
                with _local(trace) as path:
                    prepared.decoded = prepare(path, **_named(trace)).decoded
    if prepared is not None and prepared.self_contained:
        yield trace
        return
    with _local(trace) as path:
        yield path


@contextlib.contextmanager
def _local(trace: str) -> Iterator[str]:
    """A file with the trace; of a URL, a copy for as long as it is needed."""
    if "://" not in trace:
        yield str(Path(trace).resolve())
        return
    system, path = _filesystem(trace)
    with tempfile.TemporaryDirectory(prefix="kmem-") as folder:
        copy = os.path.join(folder, os.path.basename(path) or "trace")
        with _of_storage(trace):
            system.get_file(path, copy)
        yield copy


# Results on disk


def _schema(axes: Sequence[Axis]) -> pa.Schema:
    texts = [("trace", pa.string()), *((name, pa.string()) for name, _ in axes), ("error", pa.string())]
    return pa.schema([*texts, *((name, pa.int64()) for name in FIGURES)])


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table so that the file is there as a whole or not at all.

    Raises
    ------
    ConfigError
        If it cannot be written; nothing is left behind.
    """
    part = path.with_name(f".part-{os.getpid()}-{path.stem}")  # whoever takes all *.parquet must not meet it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror or error}",
            remedy="finished cells are kept: make room, and start the sweep again",
        ) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only sweep that writes to a folder; what killed ones left half-written is cleared away.

    Raises
    ------
    ConfigError
        If another sweep writes there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written: {error.strerror or error}", remedy="give another folder"
        ) from None
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{folder}: another sweep is writing there", remedy="wait for it, or give another folder"
                ) from None
        for left in (*folder.glob(".part-*"), *folder.glob("cells/.part-*")):
            with contextlib.suppress(OSError):
                left.unlink()
        yield
    finally:
        os.close(handle)


def _read_cell(path: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """The row of a cell that was finished before, None if there is none that can be read."""
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException):
        return None
    return dict(rows[0]) if len(rows) == 1 and set(names) <= set(rows[0]) else None


# Running


def sweep(
    axes: Sequence[Axis],
    cells: Sequence[Cell],
    *,
    output: Path | None = None,
    workers: int = 2,
    scheduler: str | None = None,
    told: Told | None = None,
    said: Callable[[str], None] | None = None,
) -> Sweep:
    """Run the cells of a grid that are not finished yet.

    Parameters
    ----------
    axes, cells
        From :func:`make_grid`.
    output : Path, optional
        Folder that keeps results; without one an interrupted sweep starts over.
    workers : int
        Processes to start here, if there is no `scheduler`.
    scheduler : str
        Address of a Dask cluster, as in ``tcp://host:8786``; its workers need
        kmem, and the traces under the same names.
    told : callable, optional
        Called as ``told(finished, kept, all)`` when a cell is finished.
    said : callable, optional
        Called with a sentence that whoever waits should know.

    Raises
    ------
    NotSupportedError
        If ``distributed`` is not installed.
    ConfigError
        If the scheduler does not answer, a result cannot be written, or a
        cell lost its worker again and again. What is finished is kept.
    """
    with _alone(output) if output is not None else contextlib.nullcontext():
        rows: dict[str, dict[str, Any]] = {}
        if output is not None:
            rows = _kept(output, cells, _schema(axes).names)
        kept = len(rows)
        missing = {cell.key: cell for cell in cells if cell.key not in rows}
        if told is not None:
            told(kept, kept, len(cells))
        if missing:
            with _client(min(workers, len(missing)), scheduler, said) as client:
                for key, row in _results(client, missing):
                    # what failed is told, and tried again by the next run: a trace may turn up, a worker grow
                    if output is not None and not row["error"]:
                        table = pa.Table.from_pylist([row], schema=_schema(axes))
                        write_table(table, output / "cells" / f"{key}.parquet")
                    rows[key] = row
                    if told is not None:
                        told(len(rows), kept, len(cells))
        ordered = [rows[cell.key] for cell in cells]
        for row, best in zip(ordered, pareto(ordered), strict=True):
            row["pareto"] = best
        if output is not None:
            schema = _schema(axes).append(pa.field("pareto", pa.bool_()))
            write_table(pa.Table.from_pylist(ordered, schema=schema), output / "results.parquet")
    return Sweep(tuple(axes), ordered, len(cells) - kept, kept)


def _kept(folder: Path, cells: Sequence[Cell], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the cells that were finished before, by the cells' names."""
    found = {cell.key: _read_cell(folder / "cells" / f"{cell.key}.parquet", names) for cell in cells}
    return {key: row for key, row in found.items() if row is not None}


def _results(client: Any, missing: dict[str, Cell]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results as they arrive; a cell whose worker is lost is computed by another."""
    distributed: Any = importlib.import_module("distributed")
    futures = _submit(client, missing)
    for future in distributed.as_completed(list(futures)):
        try:
            yield futures[future], future.result()
        except distributed.KilledWorker:
            cell = missing[futures[future]]
            said = ", ".join(f"{name}={value}" for name, value in cell.settings)
            raise ConfigError(
                f"{cell.trace} with {said}: its workers were lost again and again",
                remedy="give the workers more memory; finished cells are kept",
            ) from None
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the cluster's workers cannot run kmem: {error}", remedy=f"install kmem {__version__} there"
            ) from None
        except (asyncio.CancelledError, concurrent.futures.CancelledError, OSError) as error:
            raise ConfigError(
                f"the cluster was lost: {str(error) or type(error).__name__}",
                remedy="finished cells are kept: start the sweep again",
            ) from None
        future.release()


def _submit(client: Any, missing: dict[str, Cell]) -> dict[Any, str]:
    """Hand all cells to the scheduler, trace by trace; what takes longest first, so that no worker is left over."""
    by_trace: dict[str, list[tuple[str, Cell]]] = {}
    for key, cell in missing.items():
        by_trace.setdefault(cell.trace, []).append((key, cell))
    futures: dict[Any, str] = {}
    for place, trace in enumerate(sorted(by_trace, key=_size_of, reverse=True)):
        # a trace's cells go before the next trace, or all of them would be decoded before the first cell is run
        options = {"retries": _RETRIES, "pure": False, "priority": -place}
        cells = sorted(by_trace[trace], key=lambda item: -item[1].variant.transform.scale_load)
        # a name of its own: what another sweep on this cluster knows of an older file is not meant
        shared = client.submit(eval, _PREPARE, {"what": _packed(trace)}, key=f"kmem_trace-0-{cells[0][0]}", **options)
        for key, cell in cells:
            what = {"what": _packed(cell), "shared": shared}
            futures[client.submit(eval, _RUN, what, key=f"kmem_cell-0-{key}", **options)] = key
    return futures


# A worker that gets a function which it cannot import ends, and takes the user's cluster with it. What it is asked to
# do is therefore said in words that every worker knows; without kmem that fails as a task, with a message.
_HERE = "__import__('kmem.analysis.sweep', fromlist=['sweep'])"
_PREPARE = f"{_HERE}.prepare_trace({_HERE}.unpacked(what))"
_RUN = f"{_HERE}.run_cell({_HERE}.unpacked(what), shared)"


def _packed(what: object) -> bytes:
    return pickle.dumps((__version__, what))


def unpacked(packed: bytes) -> Any:
    """Unpack what a worker is to work on.

    Raises
    ------
    ImportError
        If the sweep is of another version of kmem: what is packed, and what comes out, may be different there.
    """
    version, what = pickle.loads(packed)
    if version != __version__:
        raise ImportError(f"a worker has kmem {__version__}")
    return what


def _size_of(trace: str) -> int:
    """Bytes of a trace's file, 0 if that cannot be told."""
    try:
        if "://" in trace:
            system, path = _filesystem(trace)
            with _of_storage(trace):
                return int(system.size(path) or 0)
        return os.stat(trace).st_size
    except (OSError, KmemError):
        return 0


#: Options of a cluster of this machine's processes.
_LOCAL = {
    "distributed.scheduler.allowed-failures": _RETRIES,
    "distributed.admin.log-format": "%(message)s",
    # cells wait with the scheduler, and go to whoever is free; where the trace lies is the same for all
    "distributed.scheduler.rootish-taskgroup": MAX_CELLS,
    "distributed.scheduler.rootish-taskgroup-dependencies": MAX_CELLS,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.multiprocessing-method": processes.METHOD,
}


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None, said: Callable[[str], None] | None = None) -> Iterator[Any]:
    try:
        dask: Any = importlib.import_module("dask")
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise NotSupportedError("sweeps need the package distributed", remedy="pip install 'kmem[sweep]'") from None
    if scheduler is not None:
        with distributed.utils.silence_logging_cmgr(logging.CRITICAL), _connected(scheduler, said) as client:
            yield client
        return
    processes.get_ready()
    if hasattr(distributed.utils, "_forkserver_preload_set"):
        distributed.utils._forkserver_preload_set = True  # or else it would import pandas and more, here and there
    with dask.config.set(_LOCAL):
        cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
        with cluster, distributed.Client(cluster) as client:
            yield client


@contextlib.contextmanager
def _connected(scheduler: str, said: Callable[[str], None] | None) -> Iterator[Any]:
    """A client of somebody's cluster."""
    distributed: Any = importlib.import_module("distributed")
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_TIMEOUT)
    except Exception as error:  # what answers may be anything, and is not always understood to be no scheduler
        raise ConfigError(
            f"no scheduler answers at {scheduler}: {str(error) or type(error).__name__}",
            remedy="give its address, as in tcp://host:8786",
        ) from None
    with client:
        if said is not None and not client.scheduler_info().get("workers"):
            said(f"the cluster at {scheduler} has no workers yet: waiting for one")
        yield client


def pareto(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Say of each row whether no other of its trace and load is as good in all goals and better in one.

    Memory that was varied (``ram``) is a goal, too: the less the better.

    Notes
    -----
    Complexity: O(rows times the length of the front), for each trace.
    """
    points: dict[tuple[object, ...], set[tuple[int, ...]]] = {}
    for row in rows:
        mine = _goals(row)
        if mine is not None:
            points.setdefault(_load(row), set()).add(mine)
    fronts = {load: _front(found) for load, found in points.items()}
    return [_goals(row) in fronts.get(_load(row), ()) for row in rows]


def _load(row: dict[str, Any]) -> tuple[object, ...]:
    """What a row has to carry: less of it is no better setting."""
    names = sorted(name for name in row if name.partition(".")[0] in ("scale_load", "drop", "resize"))
    return (row["trace"], *(row[name] for name in names))


def _goals(row: dict[str, Any]) -> tuple[int, ...] | None:
    if row["error"]:
        return None
    return (*(row[goal] for goal in GOALS), memparse(row["ram"]) if "ram" in row else 0)


def _front(points: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """The points that no other is as small as in all, and smaller in one."""
    front: list[tuple[int, ...]] = []
    for point in sorted(points):  # what beats a point stands before it
        if not any(all(a <= b for a, b in zip(other, point, strict=True)) for other in front):
            front.append(point)
    return set(front)
