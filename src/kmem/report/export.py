# SPDX-License-Identifier: GPL-2.0-only
"""Writing the event table for other programs: Parquet, Arrow IPC, Perfetto.

A file appears under its name only when it is complete.  Parquet and Arrow are
written batch by batch and hold the whole table; for Perfetto, which draws
lines, memory is sampled at most `MOST_SAMPLES` times a counter.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from kmem.errors import InputError, UsageError
from kmem.trace.events import Event, EventFlag, event_schema
from kmem.trace.reader import TraceReader

__all__ = ["FORMATS", "convert", "format_of"]

MOST_SAMPLES = 4096
_MOST_INSTANTS = 20_000
_MOST_CACHES = 40

#: Formats by the ending of a file's name.
FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".json": "perfetto",
    ".json.gz": "perfetto",
}


def format_of(path: Path) -> str:
    """Return the format that a file's name asks for.

    Raises
    ------
    UsageError
        It ends in none of the known ways.
    """
    for ending, name in FORMATS.items():
        if path.name.endswith(ending):
            return name
    raise UsageError(f"no format is known for {path.name}", remedy=f"end it in {', '.join(FORMATS)}")


def convert(reader: TraceReader, path: Path, kind: str) -> int:
    """Write a trace's events into a file.

    Parameters
    ----------
    reader : TraceReader
    path : Path
        The file to write; one that is there already is replaced when the new
        one is complete.
    kind : str
        ``parquet``, ``arrow`` or ``perfetto``.

    Returns
    -------
    int
        Events written.

    Raises
    ------
    InputError
        The trace cannot be read to its end, or the file cannot be written.
    """
    try:
        with _complete(path) as file:
            return _WRITERS[kind](reader, file, path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path) from None


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name at the end, and leaves nothing behind if there is no end."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _parquet(reader: TraceReader, file: IO[bytes], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    events = 0
    with pa.parquet.ParquetWriter(file, event_schema(), compression="zstd", compression_level=1) as writer:
        for batch in reader:
            writer.write_batch(batch.to_arrow())
            events += len(batch)
    return events


def _arrow(reader: TraceReader, file: IO[bytes], path: Path) -> int:
    """Arrow's file format wants one dictionary for all batches, so strings are written out."""
    import pyarrow as pa

    schema = pa.schema(
        [pa.field(each.name, pa.string()) if pa.types.is_dictionary(each.type) else each for each in event_schema()]
    )
    events = 0
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in reader:
            writer.write_batch(batch.to_arrow().cast(schema))
            events += len(batch)
    return events


class _Perfetto:
    """Trace-event JSON, as ui.perfetto.dev opens it: counters, and instants for what is rare."""

    def __init__(self, reader: TraceReader) -> None:
        self.reader = reader
        self.first_ns = 0
        self.pages = 0
        self.bytes_by_cache: Counter[str] = Counter()
        self.live: dict[int, tuple[str, int]] = {}
        self.blocks: dict[int, int] = {}
        self.samples: list[tuple[int, int, dict[str, int]]] = []
        self.instants: list[dict[str, Any]] = []
        self.skipped = 0
        self.interval = 1
        self.seen = 0

    def add(self, batch: Any) -> None:
        if not self.seen and len(batch):
            self.first_ns = int(batch.time_ns[0])
        caches, sites = batch.strings.caches, batch.strings.call_sites
        columns = (batch.event, batch.target, batch.bytes_alloc, batch.cache, batch.order, batch.flags, batch.time_ns)
        for i, (event, target, size, cache, order, flags, time) in enumerate(
            zip(*(np.asarray(column).tolist() for column in columns), strict=True)
        ):
            failed = flags & EventFlag.FAILED
            if event <= Event.KMEM_CACHE_ALLOC_NODE and not failed:
                name = caches[cache] or ("kmalloc" if event <= Event.KMALLOC_NODE else f"{size} bytes")
                old = self.live.get(target)
                if old is not None:
                    self.bytes_by_cache[old[0]] -= old[1]
                self.live[target] = name, size
                self.bytes_by_cache[name] += size
            elif event in (Event.KFREE, Event.KMEM_CACHE_FREE):
                old = self.live.pop(target, None)
                if old is not None:
                    self.bytes_by_cache[old[0]] -= old[1]
            elif event == Event.MM_PAGE_ALLOC and not failed:
                self.pages += (1 << order) - self.blocks.get(target, 0)
                self.blocks[target] = 1 << order
            elif event == Event.MM_PAGE_FREE:
                self.pages -= self.blocks.pop(target, 0)
            if failed or event in (Event.MM_PAGE_ALLOC_EXTFRAG, Event.LOST):
                self._instant(batch, i, bool(failed), sites)
            self.seen += 1
            if self.seen % self.interval == 0:
                self._sample(time)

    def _sample(self, time: int) -> None:
        self.samples.append((time, self.pages, dict(self.bytes_by_cache.most_common(_MOST_CACHES))))
        if len(self.samples) >= MOST_SAMPLES:
            del self.samples[1::2]
            self.interval *= 2

    def _instant(self, batch: Any, i: int, failed: bool, sites: Any) -> None:
        if len(self.instants) >= _MOST_INSTANTS:
            self.skipped += 1
            return
        kind = Event(int(batch.event[i]))
        name = "allocation failed" if failed else "events lost" if kind is Event.LOST else "fallback"
        self.instants.append(
            {
                "name": name,
                "ph": "i",
                "s": "g",
                "ts": self._time(int(batch.time_ns[i])),
                "pid": 1,
                "tid": int(batch.cpu[i]),
                "args": {
                    "order": int(batch.order[i]),
                    "bytes": int(batch.bytes_req[i]),
                    "thread": batch.strings.comms[int(batch.comm[i])],
                    "call_site": sites[int(batch.call_site[i])],
                },
            }
        )

    def _time(self, time_ns: int) -> float:
        return (time_ns - self.first_ns) / 1000

    def events(self) -> Iterator[dict[str, Any]]:
        """All trace events, what they are called first."""
        yield {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "kernel memory"}}
        shown: set[str] = set()
        for time, pages, caches in self.samples:
            yield {
                "name": "pages in use since the start",
                "ph": "C",
                "pid": 1,
                "ts": self._time(time),
                "args": {"KiB": pages * 4},
            }
            shown.update(caches)
            for name in sorted(shown):
                value = {"KiB": caches.get(name, 0) / 1024}
                yield {"name": f"slab {name}", "ph": "C", "pid": 1, "ts": self._time(time), "args": value}
        yield from self.instants


def _perfetto(reader: TraceReader, file: IO[bytes], path: Path) -> int:
    import gzip

    import orjson

    found = _Perfetto(reader)
    for batch in reader:
        found.add(batch)
    out: Any = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if path.name.endswith(".gz") else file
    out.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
    for number, event in enumerate(found.events()):
        out.write((b",\n" if number else b"") + orjson.dumps(event))
    out.write(b"\n]}\n")
    if out is not file:
        out.close()
    return found.seen


_WRITERS: dict[str, Callable[[TraceReader, IO[bytes], Path], int]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "perfetto": _perfetto,
}
