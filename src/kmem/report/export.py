# SPDX-License-Identifier: GPL-2.0-only
"""Writing the event table for other programs: Parquet, Arrow IPC, Perfetto.

A file appears under its name only when it is complete.  Parquet and Arrow are
written batch by batch and hold the whole table; for Perfetto, which draws
lines, memory is sampled at most `MOST_SAMPLES` times a counter.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from heapq import nlargest
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np

from kmem.errors import InputError, UsageError
from kmem.trace.events import METADATA_KEY, Event, EventBatch, EventFlag, event_schema
from kmem.trace.reader import TraceReader

__all__ = ["FORMATS", "convert", "format_of"]

MOST_SAMPLES = 4096
_MOST_INSTANTS = 20_000
_MOST_CACHES = 40
# plain numbers: a comparison with a member of an enumeration costs as much as the rest of an event
_FAILED = int(EventFlag.FAILED)
_LAST_KMALLOC = int(Event.KMALLOC_NODE)
_LAST_SLAB_ALLOC = int(Event.KMEM_CACHE_ALLOC_NODE)
_SLAB_FREES = (int(Event.KFREE), int(Event.KMEM_CACHE_FREE))
_PAGE_ALLOC = int(Event.MM_PAGE_ALLOC)
_PAGE_FREE = int(Event.MM_PAGE_FREE)
_RARE = (int(Event.MM_PAGE_ALLOC_EXTFRAG), int(Event.LOST))

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
    batches, schema = _begun(reader, event_schema())
    # times and addresses hardly repeat: a dictionary of them would only be built and thrown away
    repeating = [name for name in schema.names if name not in ("time_ns", "ptr", "pfn")]
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": repeating}
    with pa.parquet.ParquetWriter(file, schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch.to_arrow())
            events += len(batch)
    return events


def _begun(reader: TraceReader, schema: Any) -> tuple[Iterator[EventBatch], Any]:
    """The batches, and the schema with what no column says; some of that shows only when reading has begun."""
    batches = iter(reader)
    first = next(batches, None)
    facts = {
        "format": reader.format,
        "pointer_digits": reader.pointer_digits,
        "nr_cpus": reader.nr_cpus,
        "overwritten_events": reader.stats.overwritten_events,
    }
    whole = itertools.chain(() if first is None else (first,), batches)
    return whole, schema.with_metadata({METADATA_KEY: json.dumps(facts)})


def _arrow(reader: TraceReader, file: IO[bytes], path: Path) -> int:
    """Arrow's file format wants one dictionary for all batches, so strings are written out."""
    import pyarrow as pa

    schema = pa.schema(
        [pa.field(each.name, pa.string()) if pa.types.is_dictionary(each.type) else each for each in event_schema()]
    )
    events = 0
    batches, schema = _begun(reader, schema)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch.to_arrow().cast(schema))
            events += len(batch)
    return events


class _Perfetto:
    """Trace-event JSON, as ui.perfetto.dev opens it: counters, and instants for what is rare."""

    def __init__(self, reader: TraceReader) -> None:
        self.reader = reader
        self.first_ns = 0
        self.pages = 0
        self.bytes_by_cache: defaultdict[str, int] = defaultdict(int)
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
        live, blocks, by_cache = self.live, self.blocks, self.bytes_by_cache
        columns = (batch.event, batch.target, batch.bytes_alloc, batch.cache, batch.order, batch.flags)
        names = {code: caches[code] for code in np.unique(batch.cache).tolist()}
        next_sample = self.interval - self.seen % self.interval
        for i, (event, target, size, cache, order, flags) in enumerate(
            zip(*(np.asarray(column).tolist() for column in columns), strict=True)
        ):
            failed = flags & _FAILED
            if event <= _LAST_SLAB_ALLOC and not failed:
                name = names[cache] or ("kmalloc" if event <= _LAST_KMALLOC else f"{size} bytes")
                old = live.get(target)
                if old is not None:
                    by_cache[old[0]] -= old[1]
                live[target] = name, size
                by_cache[name] += size
            elif event in _SLAB_FREES:
                old = live.pop(target, None)
                if old is not None:
                    by_cache[old[0]] -= old[1]
            elif event == _PAGE_ALLOC and not failed:
                self.pages += (1 << order) - blocks.get(target, 0)
                blocks[target] = 1 << order
            elif event == _PAGE_FREE:
                self.pages -= blocks.pop(target, 0)
            if failed or event in _RARE:
                self._instant(batch, i, bool(failed), sites)
            self.seen += 1
            next_sample -= 1
            if not next_sample:
                self._sample(int(batch.time_ns[i]))
                next_sample = self.interval - self.seen % self.interval

    def _sample(self, time: int) -> None:
        self.samples.append(
            (time, self.pages, dict(nlargest(_MOST_CACHES, self.bytes_by_cache.items(), key=itemgetter(1))))
        )
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
