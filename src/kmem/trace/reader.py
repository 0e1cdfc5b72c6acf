# SPDX-License-Identifier: GPL-2.0-only
"""Reading a trace: detect the format, scan it in batches, keep the counts.

The format is told by the content, never by the file's name.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kmem.errors import InputError, UsageError
from kmem.profile import REFERENCE, Profile, parse_gfp
from kmem.trace.events import Dictionaries, EventBatch, Strings, event_schema
from kmem.trace.scan_columns import EventColumns
from kmem.trace.scan_ftrace import FtraceScanner
from kmem.trace.scan_perf import PerfScanner
from kmem.trace.source import BINARY_MAGIC, CHUNK_BYTES, TABLE_MAGIC, ByteSource

if TYPE_CHECKING:
    import pyarrow as pa

    from kmem.trace.mapped_file import MappedFile

__all__ = ["BATCH_EVENTS", "TraceReader", "TraceStats", "open_trace", "read_table"]

BATCH_EVENTS = 65536
_DETECT_BYTES = 1 << 20
_MAGIC_BYTES = 10
_VOTES = 50  # lines that settle the format
_SCANNERS: dict[str, type[FtraceScanner] | type[PerfScanner]] = {"ftrace": FtraceScanner, "perf script": PerfScanner}
_RECORD = "record with `trace-cmd record -e kmem`, `perf record -e 'kmem:*' -a` or tracefs"


@dataclasses.dataclass(frozen=True, slots=True)
class TraceStats:
    """What a trace held, as far as it has been read.

    Attributes
    ----------
    lines, bytes : int
        Lines and bytes of uncompressed text, records and bytes of a binary
        recording.
    events : int
        Rows of the event table, without the marks of lost events.
    skipped_events : dict of str to int
        Events that the table has no place for, by name.
    lost_events, lost_markers : int
        Events that the recorder said it dropped, and how often it said so
        (not every mark has a number).
    overwritten_events : int
        Events that were overwritten before the first one here, by ftrace's
        own header.
    damaged_lines, damaged_bytes : int
        Lines or records that cannot be right and were skipped.
    first_damage : str
        ``FILE:LINE byte N`` (``FILE byte N``) of the first of them, empty if there is none.
    unknown_gfp : tuple of str
        GFP names that the reference kernel does not have; their bits are left
        out.
    notes : tuple of str
        What else a user should know, a sentence each.
    """

    lines: int
    bytes: int
    events: int
    skipped_events: dict[str, int]
    lost_events: int
    lost_markers: int
    overwritten_events: int
    damaged_lines: int
    damaged_bytes: int
    first_damage: str
    unknown_gfp: tuple[str, ...]
    notes: tuple[str, ...]


class TraceReader:
    """A trace being read: iterate over it to get its batches, once.

    Use :func:`open_trace` to make one.

    Attributes
    ----------
    path : str
        Name of the file.
    format : str
        ``ftrace`` (also ``trace-cmd report``), ``perf script``, ``trace.dat``,
        ``trace_pipe_raw``, ``perf.data``, ``parquet`` or ``arrow``.
    strings : Strings
        Strings behind the codes, shared by all batches.
    pointer_digits : int
        16 or 8 if the kernel itself printed the pointers (``%p``): 64 or 32
        bits, possibly hashed; of a binary recording, the width of its pointers.
        0 if a tool printed raw pointers.

    Notes
    -----
    Memory does not grow with the length of the trace.
    """

    format: str

    def __init__(self, source: ByteSource, chunks: Iterator[bytes], profile: Profile, batch_events: int) -> None:
        self._source = source
        head = _head_of(chunks, _DETECT_BYTES)
        self.format = _detect(head, source.name, source.note)
        self._chunks = itertools.chain(head, chunks)
        self._set_up(source.name, profile, _SCANNERS[self.format](batch_events))

    _source: ByteSource | None = None

    def _set_up(self, path: str, profile: Profile, scanner: EventColumns) -> None:
        self.path = path
        self._profile = profile
        self._scanner: Any = scanner
        self.strings = Strings(
            comms=scanner.comms, caches=scanner.caches, call_sites=scanner.call_sites, gfps=scanner.gfps
        )
        self._gfp_bits: list[int] = []
        self._gfp_masks: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._unknown_gfp: dict[str, None] = {}
        self._odd_gfp: dict[int, dict[str, None]] = {}  # by code, until an event has it

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._source is not None:
            self._source.close()

    def __iter__(self) -> Iterator[EventBatch]:
        scanner = self._scanner
        for chunk in self._chunks:
            at = 0
            while True:
                at = scanner.feed(chunk, at)
                if scanner.count < scanner.capacity:
                    break
                yield self._batch()
        note = self._source.note if self._source is not None else ""
        scanner.finish(bool(note) and "trailing" not in note)
        if scanner.count:
            yield self._batch()
        if not scanner.nr_events:
            raise self._no_events()

    def read_ahead(self) -> Generator[EventBatch]:
        """Iterate over the batches, those of a binary recording being read in a second thread.

        Close the generator before the reader.  While it runs the reader's
        `strings` may hold more than the batches that have been given out
        speak of, and nothing may be added to them.
        """
        yield from self

    def _no_events(self) -> InputError:
        skipped = self._scanner.unknown_events()
        found = ", ".join(sorted(skipped)[:4])
        what = f"no kmem events, only {found}" if found else "no events"
        return InputError(what, file=self.path, remedy="enable events/kmem before recording")

    def _batch(self) -> EventBatch:
        """Hand out the scanner's batch, with the GFP texts turned into bits."""
        count = self._scanner.count
        columns = {name: column[:count] for name, column in self._scanner.columns.items()}
        self._scanner.new_batch()
        texts = self.strings.gfps.strings(len(self._gfp_bits))
        if texts:
            for text in texts:
                self._gfp_bits.append(self._gfp(text))
            self._gfp_masks = np.array(self._gfp_bits, np.uint32)
        codes = columns.pop("gfp")
        if self._odd_gfp:
            # A damaged line may have brought in a text that no event has.
            used = np.bincount(codes, minlength=len(self._gfp_bits))
            for code in [code for code in self._odd_gfp if used[code]]:
                self._unknown_gfp.update(self._odd_gfp.pop(code))
        return EventBatch(**columns, gfp=self._gfp_masks[codes], gfp_text=codes, strings=self.strings)

    def _gfp(self, text: str) -> int:
        """Bits of a GFP text; words that the kernel does not have are kept aside."""
        mask = 0
        for word in text.split("|") if text else ():
            try:
                mask |= parse_gfp(word, self._profile)
            except UsageError:
                self._odd_gfp.setdefault(len(self._gfp_bits), {})[word] = None
        return mask

    @property
    def progress(self) -> tuple[int, int | None]:
        """Bytes of the file read so far, and of how many (None: not known)."""
        assert self._source is not None
        return self._source.consumed_bytes, self._source.size_bytes

    @property
    def pointer_digits(self) -> int:
        """Digits of the pointers that the kernel itself printed."""
        return int(self._scanner.pointer_digits)

    @property
    def comments(self) -> tuple[str, ...]:
        """First comment lines of the trace."""
        return tuple(self._scanner.comments)

    @property
    def nr_cpus(self) -> int:
        """CPUs of the recorded machine by the trace's own header, 0 if it does not say."""
        for line in self.comments:
            found = re.search(r"#P:(\d+)|^cpus=(\d+)|# nrcpus (?:online|avail) : (\d+)", line)
            if found:
                return int(next(group for group in found.groups() if group))
        return 0

    @property
    def stats(self) -> TraceStats:
        """Counts up to now; final once the iteration has ended."""
        scanner = self._scanner
        first = ""
        if scanner.damaged_lines:
            first = self._first_damage()
        return TraceStats(
            lines=int(scanner.nr_lines),
            bytes=int(scanner.nr_bytes),
            events=int(scanner.nr_events),
            skipped_events=scanner.unknown_events(),
            lost_events=int(scanner.lost_events),
            lost_markers=int(scanner.lost_markers),
            overwritten_events=self._overwritten(),
            damaged_lines=int(scanner.damaged_lines),
            damaged_bytes=int(scanner.damaged_bytes),
            first_damage=first,
            unknown_gfp=tuple(sorted(self._unknown_gfp)),
            notes=tuple(self._notes()),
        )

    def _first_damage(self) -> str:
        return f"{self.path}:{self._scanner.first_damaged_line} byte {self._scanner.first_damaged_byte}"

    def _overwritten(self) -> int:
        for line in self.comments:
            found = re.search(r"entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})", line)
            if found:
                return max(int(found[2]) - int(found[1]), 0)
        return 0

    def _notes(self) -> Iterator[str]:
        if self._source is not None and self._source.note:
            yield f"{self.path}: {self._source.note}"
        if self._unknown_gfp:
            names = ", ".join(sorted(self._unknown_gfp)[:4])
            yield f"{self.path}: GFP flags unknown to Linux {self._profile.name} are left out: {names}"


def open_trace(
    path: str | os.PathLike[str],
    *,
    profile: Profile = REFERENCE,
    batch_events: int = BATCH_EVENTS,
    chunk_bytes: int = CHUNK_BYTES,
    name: str = "",
    kallsyms: str | os.PathLike[str] | None = None,
    stacks: bool = False,
) -> TraceReader:
    """Open a trace: text of ftrace, ``trace-cmd report`` or ``perf script``, trace.dat, perf.data or raw pages.

    Parameters
    ----------
    path : str or os.PathLike
        The file, plain or packed with gzip, zstd or xz; ``-`` is standard
        input.  A folder is one copied from tracefs, with
        ``per_cpu/cpuN/trace_pipe_raw`` and the formats of the events.  A
        Parquet or Arrow IPC file holds the event table itself.
    profile : Profile
        Kernel by whose names GFP texts are read.
    batch_events : int
        Events per batch, at least 1 (2 for binary recordings).
    chunk_bytes : int
        Bytes read at a time.  The result does not depend on it.
    name : str, optional
        What messages call the file, if not by its path.
    kallsyms : str or os.PathLike, optional
        Copy of the recorded machine's ``/proc/kallsyms``, for the call sites
        of a binary recording that has no symbols itself.
    stacks : bool
        Whether the reader of a perf.data also gives the column ``stack``.

    Returns
    -------
    TraceReader
        Iterate over it for :class:`EventBatch`; close it, or use ``with``.

    Raises
    ------
    InputError
        The file cannot be opened, is empty, damaged or of another format.
    """
    if batch_events < 1 or chunk_bytes < 1:
        raise UsageError("batch_events and chunk_bytes are at least 1")
    if os.fspath(path) != "-" and os.path.isdir(path):
        return _open_folder(path, profile, batch_events, name, kallsyms)
    source = ByteSource(path, chunk_bytes, name)
    try:
        chunks = source.chunks()
        head = _head_of(chunks, _MAGIC_BYTES)
        chunks = itertools.chain(head, chunks)
        start = b"".join(head)
        if start.startswith(BINARY_MAGIC):
            return _open_binary(source, chunks, profile, batch_events, kallsyms, stacks)
        for magic, kind in TABLE_MAGIC.items():
            if start.startswith(magic):
                return _open_table(source, chunks, kind, profile, batch_events)
        return TraceReader(source, chunks, profile, batch_events)
    except BaseException:
        source.close()
        raise


def _open_folder(
    path: str | os.PathLike[str],
    profile: Profile,
    batch_events: int,
    name: str,
    kallsyms: str | os.PathLike[str] | None,
) -> TraceReader:
    """Open a folder with raw pages of the ring buffer."""
    from kmem.trace.dat_reader import RawReader
    from kmem.trace.raw_folder import RawFolder
    from kmem.trace.symbols import read_kallsyms

    symbols = read_kallsyms(kallsyms) if kallsyms is not None else None
    folder = RawFolder(Path(path))
    try:
        return RawReader(folder, profile, batch_events, symbols, name)
    except BaseException:
        folder.close()
        raise


def _open_table(
    source: ByteSource, chunks: Iterator[bytes], kind: str, profile: Profile, batch_events: int
) -> TraceReader:
    """Open a Parquet or Arrow file with the event table."""
    from kmem.trace.table_reader import TableReader

    mapped = _mapped(source, chunks)
    try:
        return TableReader(mapped, kind, profile, batch_events, source.note)
    except BaseException:
        mapped.close()
        raise


def _mapped(source: ByteSource, chunks: Iterator[bytes]) -> MappedFile:
    """The file's bytes: mapped if it is an ordinary file, else through a temporary copy. Closes the source."""
    from kmem.trace.mapped_file import MappedFile

    file = source.mapped()
    mapped = (
        MappedFile(file, source.name)
        if file is not None
        else MappedFile.spooled(chunks, source.name, source.size_bytes if source.compression else None)
    )
    source.close()
    return mapped


def _open_binary(
    source: ByteSource,
    chunks: Iterator[bytes],
    profile: Profile,
    batch_events: int,
    kallsyms: str | os.PathLike[str] | None,
    stacks: bool,
) -> TraceReader:
    """Open a binary recording."""
    from kmem.trace.binary_reader import binary_reader
    from kmem.trace.symbols import read_kallsyms

    symbols = read_kallsyms(kallsyms) if kallsyms is not None else None
    mapped = _mapped(source, chunks)
    try:
        return binary_reader(
            mapped, profile, batch_events=batch_events, symbols=symbols, note=source.note, stacks=stacks
        )
    except BaseException:
        mapped.close()
        raise


def _head_of(chunks: Iterator[bytes], size: int) -> list[bytes]:
    """Take chunks until there are `size` bytes."""
    head: list[bytes] = []
    have = 0
    while have < size:
        chunk = next(chunks, None)
        if chunk is None:
            break
        head.append(chunk)
        have += len(chunk)
    return head


def read_table(path: str | os.PathLike[str], **options: Any) -> pa.Table:
    """Read a whole trace into an Arrow table with :data:`EVENT_SCHEMA`.

    Parameters
    ----------
    path : str or os.PathLike
        The trace, as for :func:`open_trace`.
    **options
        Passed on to :func:`open_trace`.

    Returns
    -------
    pyarrow.Table
        About 100 bytes per event.

    Raises
    ------
    InputError
        As for :func:`open_trace`.
    """
    import pyarrow as pa

    with open_trace(path, **options) as trace:
        batches = list(trace)
        texts = Dictionaries.of(trace.strings)
    return pa.Table.from_batches([batch.with_dictionaries(texts) for batch in batches], schema=event_schema())


def _detect(head: list[bytes], name: str, note: str) -> str:
    """Tell the format by the lines that can belong to only one of them."""
    text = b"".join(head)[:_DETECT_BYTES]
    if not text.strip():
        raise InputError(
            f"nothing readable in it: {note}" if note else "the file is empty",
            file=name,
            remedy="copy the file again" if note else "record with tracing_on=1 and events/kmem/enable=1",
        )
    probes = {format: scanner(1) for format, scanner in _SCANNERS.items()}
    votes = dict.fromkeys(probes, 0)
    for line in text.split(b"\n"):
        for format, probe in probes.items():
            votes[format] += probe.try_line(line)
        if max(votes.values()) == _VOTES:
            break
    if any(votes.values()):
        return max(votes, key=votes.__getitem__)
    if text.startswith(b"# tracer:"):
        return "ftrace"
    odd = sum(byte < 9 or 13 < byte < 32 or byte == 127 for byte in text[:4096])
    if odd * 20 > len(text[:4096]):
        raise InputError("is a binary file, not a trace text", file=name, byte=0, remedy=_RECORD)
    raise InputError("no line of an ftrace, trace-cmd or perf script text", file=name, line=1, remedy=_RECORD)
