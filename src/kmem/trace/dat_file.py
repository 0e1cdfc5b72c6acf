# SPDX-License-Identifier: GPL-2.0-only
"""The structure of a trace.dat, versions 6 and 7.

Version 6 is a fixed sequence: the description of the kernel's events, the
number of CPUs, options, and a table that says where each CPU's ring-buffer
pages lie.  Version 7 has sections that options point to, each of which may be
compressed; a buffer's pages then come as a chain of compressed chunks.

Nothing is believed: offsets and lengths are compared with the file, sections
are visited once, chunks are unpacked one at a time and to no more than they
announce.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kmem.errors import InputError, KmemError, NotSupportedError
from kmem.trace.mapped_file import Cursor, MappedFile
from kmem.trace.tracing_data import read_preamble
from kmem.trace.unpack import Unpack, unpacker

__all__ = ["CpuData", "DatFile", "DatOptions"]

_WINDOW_BYTES = 1 << 22
_WINDOWS_BYTES = 1 << 26  # of all CPUs together
_UNPACKED_BYTES = 1 << 28
_LARGEST_SECTION = 1 << 28
_LARGEST_CHUNK = 1 << 26
_MOST_CPUS = 8192
_MOST_STREAMS = 65536
_MOST_OPTION_SECTIONS = 4096
_COMPRESSED = 1

# options
_DONE = 0
_DATE = 1
_CPUSTAT = 2
_BUFFER = 3
_TRACECLOCK = 4
_UNAME = 5
_OFFSET = 7
_CPUCOUNT = 8
_TIME_SHIFT = 12
_TSC2NSEC = 14
_HEADER_INFO = 16
_FTRACE_EVENTS = 17
_EVENT_FORMATS = 18
_KALLSYMS = 19
_PRINTK = 20
_CMDLINES = 21
_BUFFER_TEXT = 22
_SECTIONS = (_HEADER_INFO, _FTRACE_EVENTS, _EVENT_FORMATS, _KALLSYMS, _PRINTK, _CMDLINES)

_NANOSECOND_CLOCKS = ("local", "global", "uptime", "perf", "mono", "mono_raw", "boot", "tai", "tsc2nsec")


@dataclass(frozen=True, slots=True)
class CpuData:
    """Where the pages of one CPU lie.

    Attributes
    ----------
    cpu : int
    buffer : str
        Name of the trace instance, empty for the main one.
    offset, size : int
        Bytes in the file, compressed if the buffer is.
    compressed : bool
    page_bytes : int
    """

    cpu: int
    buffer: str
    offset: int
    size: int
    compressed: bool
    page_bytes: int


@dataclass(slots=True)
class DatOptions:
    """What the options say."""

    offset_ns: int = 0
    mult: int = 0
    shift: int = 0
    clock: str = ""
    uname: str = ""
    cpu_count: int = 0
    sections: dict[int, int] = field(default_factory=dict)
    buffers: list[tuple[int, bytes]] = field(default_factory=list)
    texts: int = 0
    guest: bool = False
    stats: list[str] = field(default_factory=list)

    @property
    def counts_nanoseconds(self) -> bool:
        """Whether the time stamps are nanoseconds (or are turned into them)."""
        return bool(self.mult) or self.clock in ("", *_NANOSECOND_CLOCKS) or self.clock.startswith("mono")


class DatFile:
    """A trace.dat, opened.

    Parameters
    ----------
    file : MappedFile

    Attributes
    ----------
    data : TracingData
        What the recorded kernel says about its events.
    streams : list of CpuData
        One per CPU and trace instance with something in it.
    nr_cpus : int
        CPUs of the recorded machine, 0 if the file does not say.
    clock : str
        Trace clock, empty if the file does not say.
    notes : list of str
        What a user should know.

    Raises
    ------
    InputError
        The file is damaged, or was recorded without kmem events.
    NotSupportedError
        It has the latency format, a newer version or an unknown compression.
    """

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.notes: list[str] = []
        self.nr_cpus = 0
        self.streams: list[CpuData] = []
        self.options = DatOptions()
        self._unpack: Unpack | None = None
        cursor = Cursor(file.view, file.name)
        self.data = read_preamble(cursor)
        cursor = Cursor(file.view, file.name, big_endian=self.data.big_endian)
        cursor.at = 10 + len(str(self.data.version)) + 1 + 6
        if self.data.version >= 7:
            self._read_version_7(cursor)
        elif self.data.version == 6:
            self._read_version_6(cursor)
        else:
            raise NotSupportedError(
                f"version {self.data.version} of trace.dat is not known", file=file.name, byte=10, remedy="record anew"
            )
        self.clock = self.options.clock
        self.data.check()

    # --- version 6

    def _read_version_6(self, cursor: Cursor) -> None:
        data = self.data
        data.read_headers(cursor)
        data.read_ftrace_events(cursor)
        data.read_events(cursor)
        data.read_symbols(cursor)
        data.read_printk(cursor)
        data.read_comms(cursor)
        self.nr_cpus = self._cpus(cursor, cursor.number(4, "number of CPUs"))
        self._buffer_6(cursor, "")
        main = list(self.streams)
        self.streams = []
        for offset, rest in self.options.buffers:
            name = bytes(rest).split(b"\0")[0].decode("utf-8", "replace")
            place = Cursor(self.file.view, self.file.name, big_endian=data.big_endian)
            self.file.at(offset, 10, f"buffer {name!r}")
            place.at = offset
            self._buffer_6(place, name)
        self.streams = main + self.streams

    def _cpus(self, cursor: Cursor, number: int) -> int:
        if not 0 < number <= _MOST_CPUS:
            cursor.at -= 4
            raise cursor.error(f"{number} CPUs cannot be right")
        return number

    def _buffer_6(self, cursor: Cursor, name: str) -> None:
        """Read options and the table of CPUs of one buffer."""
        kind = bytes(cursor.take(10, "kind of the data"))
        if kind.startswith(b"options"):
            self._options(cursor, last=_DONE)
            kind = bytes(cursor.take(10, "kind of the data"))
        if kind.startswith(b"latency"):
            raise self._latency(cursor.at - 10)
        if not kind.startswith(b"flyrecord"):
            cursor.at -= 10
            raise cursor.error(f"no trace data where it should be, but {kind!r}")
        cpus = self._cpus(cursor, self.options.cpu_count) if self.options.cpu_count else self.nr_cpus
        for cpu in range(cpus):
            offset = cursor.number(8, f"place of CPU {cpu}'s data")
            size = cursor.number(8, f"size of CPU {cpu}'s data")
            self._add(cursor, CpuData(cpu, name, offset, size, False, self.data.page_bytes))

    def _latency(self, byte: int) -> NotSupportedError:
        return NotSupportedError(
            "it holds a latency trace as text",
            file=self.file.name,
            byte=byte,
            remedy="turn it into text with `trace-cmd report FILE > trace.txt`",
        )

    def _add(self, cursor: Cursor, found: CpuData) -> None:
        """Take in where a CPU's data lies."""
        if not found.size:
            return
        if found.offset > self.file.size or found.size > self.file.size - found.offset:
            cursor.at -= 16
            raise cursor.error(
                f"the data of CPU {found.cpu} should reach from byte {found.offset} to {found.offset + found.size}, "
                f"but the file ends at byte {self.file.size}"
            )
        if len(self.streams) >= _MOST_STREAMS:
            raise cursor.error(f"more than {_MOST_STREAMS} buffers")
        self.streams.append(found)

    # --- options

    def _options(self, cursor: Cursor, last: int | None) -> int:
        """Read options up to the end mark; returns where the next options section lies, 0 for nowhere."""
        while True:
            option = cursor.number(2, "an option")
            if option == last:
                return 0
            size = cursor.number(4, f"size of option {option}")
            piece = bytes(cursor.take(size, f"option {option}"))
            if option == _DONE:
                return self._number(cursor, piece, 0, 8)
            self._option(cursor, option, piece)

    def _number(self, cursor: Cursor, piece: bytes, at: int, size: int) -> int:
        if len(piece) < at + size:
            raise cursor.error(f"an option of {len(piece)} bytes is too short")
        return int.from_bytes(piece[at : at + size], "big" if self.data.big_endian else "little")

    def _option(self, cursor: Cursor, option: int, piece: bytes) -> None:
        options = self.options
        text = piece.split(b"\0")[0].decode("utf-8", "replace")
        if option == _DATE:
            options.offset_ns += _integer(text) * 1000
        elif option == _OFFSET:
            options.offset_ns += _integer(text)
        elif option == _TSC2NSEC and len(piece) >= 16:
            options.mult = self._number(cursor, piece, 0, 4)
            options.shift = self._number(cursor, piece, 4, 4)
            if options.shift > 63:
                raise cursor.error(f"a clock shift of {options.shift} bits cannot be right")
        elif option == _TIME_SHIFT:
            options.guest = True
        elif option == _CPUCOUNT:
            options.cpu_count = self._number(cursor, piece, 0, 4)
        elif option == _TRACECLOCK:
            options.clock = text.partition("[")[2].partition("]")[0]
        elif option == _UNAME:
            options.uname = text
        elif option == _CPUSTAT:
            options.stats.append(text)
        elif option == _BUFFER:
            options.buffers.append((self._number(cursor, piece, 0, 8), piece[8:]))
        elif option == _BUFFER_TEXT:
            options.texts += 1
        elif option in _SECTIONS:
            options.sections.setdefault(option, self._number(cursor, piece, 0, 8))

    # --- version 7

    def _read_version_7(self, cursor: Cursor) -> None:
        at = cursor.at
        kind = cursor.string("name of the compression", 64)
        cursor.string("version of the compression", 64)
        if kind != "none":
            self._unpack = unpacker(kind, self.file.name, at)
        place = cursor.number(8, "place of the options")
        seen: set[int] = set()
        while place:
            if place in seen or len(seen) > _MOST_OPTION_SECTIONS:
                raise InputError("the options sections form a circle", file=self.file.name, byte=place)
            seen.add(place)
            section, _ = self._section(place, _DONE)
            place = self._options(section, last=None)
        self._read_sections()
        for offset, rest in self.options.buffers:
            self._buffer_7(offset, rest)
        if not self.options.buffers and self.options.texts:
            raise self._latency(at)
        self.nr_cpus = self.nr_cpus or self.options.cpu_count

    def _header(self, place: int, expected: int) -> tuple[int, int, int]:
        """Read a section's header: returns flags, where its content begins, and its size."""
        head = Cursor(
            self.file.at(place, 16, f"header of section {expected}"),
            self.file.name,
            place,
            big_endian=self.data.big_endian,
        )
        found = head.number(2, "section")
        if found != expected:
            head.at = 0
            raise head.error(f"section {expected} should be here, but it is section {found}")
        flags = head.number(2, "flags")
        head.number(4, "description")
        return flags, place + 16, head.number(8, "size")

    def _section(self, place: int, expected: int) -> tuple[Cursor, int]:
        """Read a section of metadata, unpacked; returns it and its flags."""
        flags, at, size = self._header(place, expected)
        big = self.data.big_endian
        content = self.file.at(at, size, f"section {expected}")
        if flags & _COMPRESSED:
            head = Cursor(content, self.file.name, at, big_endian=big)
            packed = head.number(4, "compressed size")
            whole = head.number(4, "size")
            content = memoryview(self._unpacked(head.take(packed, f"section {expected}"), whole, at, _LARGEST_SECTION))
        return Cursor(content, self.file.name, at, big_endian=big), flags

    def _unpacked(self, packed: memoryview, size: int, byte: int, most: int) -> bytes:
        if self._unpack is None:
            raise InputError("compressed, but the file names no compression", file=self.file.name, byte=byte)
        if size > most:
            raise InputError(f"{size} unpacked bytes cannot be right", file=self.file.name, byte=byte)
        try:
            return self._unpack(packed, size)
        except KmemError as error:
            raise error.at(byte=byte) from None

    def _read_sections(self) -> None:
        data = self.data
        readers = {
            _HEADER_INFO: data.read_headers,
            _FTRACE_EVENTS: data.read_ftrace_events,
            _EVENT_FORMATS: data.read_events,
            _KALLSYMS: data.read_symbols,
            _PRINTK: data.read_printk,
            _CMDLINES: data.read_comms,
        }
        for option, read in readers.items():
            if option in self.options.sections:
                read(self._section(self.options.sections[option], option)[0])

    def _buffer_7(self, offset: int, rest: bytes) -> None:
        """Take in the CPUs of one buffer, as its option lists them."""
        cursor = Cursor(rest, self.file.name, offset, big_endian=self.data.big_endian)
        name = cursor.string("name of a buffer", 4096)
        clock = cursor.string("clock of a buffer", 256)
        page_bytes = cursor.number(4, "size of a page")
        if not 256 <= page_bytes <= 1 << 24:
            raise cursor.error(f"a page of {page_bytes} bytes cannot be right")
        if not name and not self.options.clock:
            self.options.clock = clock
        flags, _, _ = self._header(offset, _BUFFER)
        count = cursor.number(4, "number of CPUs")
        if count > _MOST_CPUS:
            raise cursor.error(f"{count} CPUs cannot be right")
        if not name:
            self.nr_cpus = max(self.nr_cpus, count)
        for _ in range(count):
            cpu = cursor.number(4, "a CPU")
            if cpu > _MOST_CPUS:
                raise cursor.error(f"CPU {cpu} cannot be right")
            place = cursor.number(8, f"place of CPU {cpu}'s data")
            size = cursor.number(8, f"size of CPU {cpu}'s data")
            self._add(cursor, CpuData(cpu, name, place, size, bool(flags & _COMPRESSED), page_bytes))

    # --- pages

    def windows(self, stream: CpuData) -> Iterator[tuple[memoryview, int]]:
        """Yield the pages of a CPU in pieces of whole pages, each with its place in the file.

        Raises
        ------
        InputError
            A compressed chunk lies, or lies about its size.
        """
        if not stream.compressed:
            window = min(_WINDOW_BYTES, _WINDOWS_BYTES // len(self.streams))
            step = max(window // stream.page_bytes, 1) * stream.page_bytes
            for start in range(stream.offset, stream.offset + stream.size, step):
                size = min(step, stream.offset + stream.size - start)
                yield self.file.at(start, size, f"data of CPU {stream.cpu}"), start
                self.file.release(start, start + size)
            return
        # the size does not count the word that says how many chunks there are
        room = min(stream.size + 4, self.file.size - stream.offset)
        cursor = Cursor(
            self.file.at(stream.offset, room, f"data of CPU {stream.cpu}"),
            self.file.name,
            stream.offset,
            big_endian=self.data.big_endian,
        )
        # each CPU has a chunk unpacked at any time; trace-cmd makes chunks of ten pages
        largest = min(_LARGEST_CHUNK, max(_UNPACKED_BYTES // len(self.streams), 16 * stream.page_bytes))
        for _ in range(cursor.number(4, "number of chunks")):
            packed = cursor.number(4, "compressed size")
            size = cursor.number(4, "size of a chunk")
            place = cursor.base + cursor.at
            if size % stream.page_bytes:
                raise cursor.error(f"a chunk of {size} bytes is no number of pages of {stream.page_bytes}")
            chunk = self._unpacked(cursor.take(packed, "a chunk"), size, place, largest)
            if chunk:
                yield memoryview(chunk), place


def _integer(text: str) -> int:
    """Read a number as C's strtoll does, 0 if there is none."""
    text = text.strip()
    if len(text) > 24:
        return 0
    try:
        return int(text, 0)
    except ValueError:
        return int(text) if text.lstrip("+-").isdigit() else 0
