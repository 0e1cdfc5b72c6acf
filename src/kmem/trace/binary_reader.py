# SPDX-License-Identifier: GPL-2.0-only
"""Reading binary recordings: trace.dat and perf.data, as the same batches that texts give."""

from __future__ import annotations

from collections.abc import Iterator

from kmem.errors import InputError
from kmem.profile import Profile
from kmem.trace.dat_file import DatFile
from kmem.trace.events import EventBatch
from kmem.trace.mapped_file import MappedFile
from kmem.trace.perf_file import MAGIC as PERF_MAGIC
from kmem.trace.perf_file import MAGIC_SWAPPED, PerfFile
from kmem.trace.reader import TraceReader
from kmem.trace.scan_binary import BinaryScanner
from kmem.trace.scan_records import RecordScanner
from kmem.trace.scan_ring import DONE, FULL, RingScanner
from kmem.trace.symbols import Symbols
from kmem.trace.tracing_data import MAGIC as TRACING_MAGIC

__all__ = ["DatReader", "PerfReader", "binary_reader"]


class BinaryReader(TraceReader):
    """What the readers of binary recordings share."""

    _scanner: BinaryScanner

    def __init__(self, file: MappedFile, profile: Profile, scanner: BinaryScanner, kind: str, note: str) -> None:
        self._file = file
        self.format = kind
        self._note = note
        self._set_up(file.name, profile, scanner)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scan(self) -> Iterator[None]:
        """Fill the scanner's batches one after the other."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[EventBatch]:
        for _ in self._scan():
            if self._scanner.count:
                yield self._batch()
        if not self._scanner.nr_events:
            raise self._no_events()

    @property
    def progress(self) -> tuple[int, int | None]:
        """Bytes of the recording read so far, and of how many."""
        return min(int(self._scanner.nr_bytes), self._file.size), self._file.size

    @property
    def comments(self) -> tuple[str, ...]:
        """Binary recordings have none."""
        return ()

    def _first_damage(self) -> str:
        return f"{self.path} byte {self._scanner.first_damaged_byte}"

    def _notes(self) -> Iterator[str]:
        if self._note:
            yield f"{self.path}: {self._note}"
        yield from super()._notes()


class DatReader(BinaryReader):
    """Reader of trace.dat, versions 6 and 7."""

    _scanner: RingScanner

    def __init__(
        self, file: MappedFile, profile: Profile, batch_events: int, symbols: Symbols | None, note: str = ""
    ) -> None:
        scanner = RingScanner(max(batch_events, 2))
        super().__init__(file, profile, scanner, "trace.dat", note)
        self._dat = DatFile(file)
        data = self._dat.data
        scanner.describe(big_endian=data.big_endian, long_bytes=data.long_bytes)
        scanner.use_symbols(symbols or data.symbols)
        options = self._dat.options
        scanner.set_clock(mult=options.mult, shift=options.shift, offset=options.offset_ns)
        self._left_out: list[str] = []
        for number, name in data.names.items():
            scanner.add_name(number, name)
        for format in data.events.values():
            if not scanner.add_format(format):
                self._left_out.append(format.name)
        for pid, comm in data.comms.items():
            scanner.name_thread(pid, comm)
        self._set_page()

    def _set_page(self) -> None:
        """Tell the scanner how a page is laid out."""
        fields = self._dat.data.page_fields
        sizes = {stream.page_bytes for stream in self._dat.streams}
        if len(sizes) > 1:
            raise InputError("its buffers have pages of several sizes", file=self.path, remedy="record them one by one")
        try:
            timestamp, commit, data = fields["timestamp"], fields["commit"], fields["data"]
            if timestamp.size != 8 or commit.size not in (4, 8):
                raise ValueError("a time stamp has 8 bytes and a commit word 4 or 8")
            self._scanner.set_page(
                page_bytes=sizes.pop() if sizes else self._dat.data.page_bytes,
                timestamp_at=timestamp.offset,
                commit_at=commit.offset,
                commit_size=commit.size,
                data_at=data.offset,
            )
        except KeyError as error:
            raise InputError(f"header_page has no field {error}", file=self.path) from None
        except ValueError as error:
            raise InputError(f"header_page cannot be right: {error}", file=self.path) from None

    @property
    def nr_cpus(self) -> int:
        """CPUs of the recorded machine, 0 if the file does not say."""
        return self._dat.nr_cpus

    def _scan(self) -> Iterator[None]:
        scanner = self._scanner
        windows = []
        for stream in self._dat.streams:
            scanner.add_stream(stream.cpu)
            windows.append(self._dat.windows(stream))
        while True:
            wanted = scanner.scan()
            if wanted == FULL:
                yield
            elif wanted == DONE:
                break
            else:
                window = next(windows[wanted], None)
                if window is None:
                    scanner.end_stream(wanted)
                else:
                    scanner.give(wanted, *window)
        yield

    def _overwritten(self) -> int:
        """Events that the kernel's own statistics say were overwritten."""
        total = 0
        for text in self._dat.options.stats:
            for line in text.splitlines():
                key, _, value = line.partition(":")
                if key.strip() == "overrun" and value.strip().isdigit() and len(value.strip()) < 19:
                    total += int(value)
        return total

    def _notes(self) -> Iterator[str]:
        yield from super()._notes()
        yield from self._dat.notes
        if self._left_out:
            yield f"{self.path}: events without the fields of the table are left out: {', '.join(self._left_out)}"
        if not self._dat.counts_nanoseconds:
            yield f"{self.path}: the trace clock {self._dat.clock!r} has no unit; times are its counts"
        if self._dat.options.guest:
            yield f"{self.path}: times are the guest's own, not those of its host"


class PerfReader(BinaryReader):
    """Reader of perf.data, in file mode and in pipe mode."""

    _scanner: RecordScanner

    def __init__(
        self,
        file: MappedFile,
        profile: Profile,
        batch_events: int,
        symbols: Symbols | None,
        note: str = "",
        stacks: bool = False,
    ) -> None:
        scanner = RecordScanner(max(batch_events, 2))
        super().__init__(file, profile, scanner, "perf.data", note)
        if stacks:
            scanner.keep_stacks()
        self._perf = PerfFile(file, scanner, symbols)

    @property
    def facts(self) -> dict[str, str]:
        """What the recording says about its machine: ``hostname``, ``osrelease``, ``arch`` ..."""
        return self._perf.facts

    @property
    def node_of_cpu(self) -> dict[int, int]:
        """NUMA node by CPU, empty if the recording does not say."""
        return self._perf.node_of_cpu

    @property
    def symbols(self) -> Symbols | None:
        """The kernel symbols in use."""
        return self._scanner.symbols

    def stacks(self) -> list[tuple[int, ...]]:
        """Return the kernel's call chains by the codes of the column ``stack``, innermost first."""
        return self._scanner.stacks()

    @property
    def nr_cpus(self) -> int:
        """CPUs of the recorded machine, 0 if the file does not say."""
        return self._perf.nr_cpus

    def _scan(self) -> Iterator[None]:
        return self._perf.batches()

    def _notes(self) -> Iterator[str]:
        yield from super()._notes()
        yield from self._perf.notes


def binary_reader(
    file: MappedFile,
    profile: Profile,
    *,
    batch_events: int,
    symbols: Symbols | None = None,
    note: str = "",
    stacks: bool = False,
) -> BinaryReader:
    """Make the reader that fits the file's magic."""
    head = bytes(file.at(0, min(16, file.size), "magic"))
    if head.startswith((PERF_MAGIC, MAGIC_SWAPPED)):
        return PerfReader(file, profile, batch_events, symbols, note, stacks)
    assert head.startswith(TRACING_MAGIC)
    return DatReader(file, profile, batch_events, symbols, note)
