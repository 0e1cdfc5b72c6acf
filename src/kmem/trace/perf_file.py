# SPDX-License-Identifier: GPL-2.0-only
"""The structure of a perf.data, in file mode and in pipe mode.

A file has a header, the attributes of its events, the records, and behind them
feature sections; a pipe has records only, some of which carry attributes,
features and the description of the kernel's trace events.  How a record is laid
out follows from its event's attributes, word by word; :func:`sample_layout`
works that out.

Source: include/uapi/linux/perf_event.h, tools/perf/util/header.c @6.1.192
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from kmem.errors import InputError, NotSupportedError
from kmem.trace.mapped_file import Cursor, MappedFile
from kmem.trace.scan_records import CUT, DAMAGED, END, FULL, SPECIAL, RecordScanner
from kmem.trace.symbols import Symbols
from kmem.trace.tracing_data import TracingData, read_preamble

__all__ = ["MAGIC", "Attribute", "PerfFile", "sample_layout"]

MAGIC = b"PERFILE2"
MAGIC_SWAPPED = MAGIC[::-1]

_HEADER_BYTES = 104
_PIPE_HEADER_BYTES = 16
_MOST_ATTRIBUTES = 4096
_MOST_IDS = 1 << 20
_MOST_STRING = 1 << 16
_WINDOW_BYTES = 1 << 25
_ZSTD_STEP = 1 << 10
_MOST_UNPACKED = 1 << 27
_MOST_KEPT = 1 << 27

_PERF_TYPE_TRACEPOINT = 2

# perf_event_attr.sample_type
_IP, _TID, _TIME, _ADDR, _READ, _CALLCHAIN, _ID, _CPU = (1 << bit for bit in range(8))
_PERIOD, _STREAM_ID, _RAW = (1 << bit for bit in range(8, 11))
_IDENTIFIER = 1 << 16
_SAMPLE_ID_ALL_BIT = 18

# records
_SAMPLE = 9
_HEADER_ATTR = 64
_TRACING_DATA = 66
_AUXTRACE = 71
_HEADER_FEATURE = 80
_COMPRESSED = 81
_COMPRESSED2 = 83

# features
_F_TRACING_DATA = 1
_F_HOSTNAME = 3
_F_OSRELEASE = 4
_F_ARCH = 6
_F_NRCPUS = 7
_F_CMDLINE = 11
_F_EVENT_DESC = 12
_F_NUMA_TOPOLOGY = 14
_FEATURE_STRINGS = {_F_HOSTNAME: "hostname", _F_OSRELEASE: "osrelease", 5: "perf version", _F_ARCH: "arch"}


@dataclass(frozen=True, slots=True)
class Attribute:
    """What perf_event_attr says of an event, as far as it matters.

    Attributes
    ----------
    type, config : int
    sample_type, read_format : int
    sample_id_all : bool
        Whether records that are no samples end with the same facts.
    ids : tuple of int
    """

    type: int
    config: int
    sample_type: int
    read_format: int
    sample_id_all: bool
    ids: tuple[int, ...]


def sample_layout(attribute: Attribute) -> dict[str, int]:
    """Work out where a sample, and the end of every other record, holds what.

    Parameters
    ----------
    attribute : Attribute

    Returns
    -------
    dict of str to int
        The members of the scanner's ``SampleLayout``: bytes from the beginning
        of a sample, or from the end of another record; -1 for what is not there.
    """
    kind = attribute.sample_type
    found = dict.fromkeys(("tid", "time", "cpu", "id"), -1)
    at = 8
    for bit, name in (
        (_IDENTIFIER, "id"),
        (_IP, ""),
        (_TID, "tid"),
        (_TIME, "time"),
        (_ADDR, ""),
        (_ID, "id"),
        (_STREAM_ID, ""),
        (_CPU, "cpu"),
        (_PERIOD, ""),
    ):
        if kind & bit:
            if name and found[name] < 0:
                found[name] = at
            at += 8
    back = dict.fromkeys(("tid", "time", "cpu", "id"), -1)
    from_end = 0
    if attribute.sample_id_all:
        for bit, name in (
            (_IDENTIFIER, "id"),
            (_CPU, "cpu"),
            (_STREAM_ID, ""),
            (_ID, "id"),
            (_TIME, "time"),
            (_TID, "tid"),
        ):
            if kind & bit:
                from_end += 8
                if name and back[name] < 0:
                    back[name] = from_end
    return {
        **{name: found[name] for name in ("tid", "time", "cpu")},
        "fixed_end": at,
        "id": found["id"],
        "back_tid": back["tid"],
        "back_time": back["time"],
        "back_cpu": back["cpu"],
        "back_id": back["id"],
        "has_read": int(bool(kind & _READ)),
        "has_callchain": int(bool(kind & _CALLCHAIN)),
        "has_raw": int(bool(kind & _RAW)),
        "read_format": attribute.read_format & 0xFFFFFFFF,
    }


@dataclass(slots=True)
class _Facts:
    """What the feature sections say about the recorded machine."""

    strings: dict[str, str] = field(default_factory=dict)
    nr_cpus: int = 0
    nodes: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of events, by the id of their records
    names_by_config: dict[tuple[int, int], str] = field(default_factory=dict)


class PerfFile:
    """A perf.data, opened, that feeds a scanner.

    Parameters
    ----------
    file : MappedFile
    scanner : RecordScanner
        Gets formats, layouts and records.
    symbols : Symbols, optional
        Kernel symbols, if the file's own are not to be used.

    Attributes
    ----------
    data : TracingData or None
        What the recorded kernel says about its events; of a pipe, None until
        that record has come.
    facts : dict of str to str
        ``hostname``, ``osrelease``, ``arch``, ``cmdline`` ... as far as recorded.
    nr_cpus : int
        CPUs of the recorded machine, 0 if the file does not say.
    notes : list of str
        What a user should know.

    Raises
    ------
    InputError
        The file is damaged, or was recorded without kmem events.
    """

    def __init__(self, file: MappedFile, scanner: RecordScanner, symbols: Symbols | None = None) -> None:
        self.file = file
        self.scanner = scanner
        self._symbols = symbols
        self.notes: list[str] = []
        self.data: TracingData | None = None
        self.big_endian = bytes(file.at(0, 8, "magic")) == MAGIC_SWAPPED
        self._attributes: list[Attribute] = []
        self._facts = _Facts()
        self._unpack: Any = None
        self._kept: list[list[bytes]] = [[]]
        self._rest = b""
        self._prepared = False
        self._rounds = 0
        scanner.describe(big_endian=self.big_endian, long_bytes=8)
        scanner.when_mapped = self._move_symbols
        cursor = Cursor(file.view, file.name, big_endian=self.big_endian)
        cursor.at = 8
        header = cursor.number(8, "size of the header")
        self.pipe = header == _PIPE_HEADER_BYTES
        if self.pipe:
            self.start, self.end = _PIPE_HEADER_BYTES, file.size
        elif header < _HEADER_BYTES:
            cursor.at = 8
            raise cursor.error(f"a header of {header} bytes cannot be right")
        else:
            self._read_header(cursor)

    @property
    def facts(self) -> dict[str, str]:
        """What the recording says about its machine."""
        return self._facts.strings

    @property
    def nr_cpus(self) -> int:
        """CPUs of the recorded machine."""
        return self._facts.nr_cpus

    @property
    def node_of_cpu(self) -> dict[int, int]:
        """NUMA node by CPU, empty if the file does not say."""
        return {cpu: node for node, cpus in self._facts.nodes.items() for cpu in _cpu_list(cpus)}

    # --- file mode

    def _read_header(self, cursor: Cursor) -> None:
        attr_bytes = cursor.number(8, "size of an attribute")
        attrs = cursor.number(8, "place of the attributes"), cursor.number(8, "size of the attributes")
        self.start = cursor.number(8, "place of the records")
        size = cursor.number(8, "size of the records")
        cursor.take(16, "event types")
        features = [cursor.number(8, "features") for _ in range(4)]
        self._read_attributes(attr_bytes, *attrs)
        if size == 0:
            raise InputError(
                "it says that it holds no record",
                file=self.file.name,
                byte=48,
                remedy="perf record was killed before it could finish the file; record again",
            )
        self.file.at(self.start, size, "the records")
        self.end = self.start + size
        numbers = [64 * word + bit for word, bits in enumerate(features) for bit in range(64) if bits >> bit & 1]
        table = Cursor(self.file.view, self.file.name, big_endian=self.big_endian)
        table.at = self.end
        sections = [
            (number, table.number(8, f"place of feature {number}"), table.number(8, f"size of feature {number}"))
            for number in numbers
        ]
        for number, offset, length in sections:
            content = self.file.at(offset, length, f"feature {number}")
            if number == _F_TRACING_DATA:
                self._read_tracing_data(Cursor(content, self.file.name, offset))
            else:
                self._feature(number, Cursor(content, self.file.name, offset, big_endian=self.big_endian))

    def _read_attributes(self, each: int, offset: int, size: int) -> None:
        if size and (each < 64 + 16 or each > 65536 or size % each or size // each > _MOST_ATTRIBUTES):
            raise InputError(
                f"{size} bytes of attributes of {each} bytes cannot be right", file=self.file.name, byte=16
            )
        table = Cursor(self.file.at(offset, size, "the attributes"), self.file.name, offset, big_endian=self.big_endian)
        while table.left:
            at = table.at
            attribute = table.take(each - 16, "an attribute")
            place, length = table.number(8, "place of the ids"), table.number(8, "size of the ids")
            if length % 8 or length > 8 * _MOST_IDS:
                table.at -= 8
                raise table.error(f"{length} bytes of ids cannot be right")
            ids = Cursor(
                self.file.at(place, length, "the ids of an event"), self.file.name, place, big_endian=self.big_endian
            )
            self._add_attribute(
                Cursor(attribute, self.file.name, offset + at, big_endian=self.big_endian),
                tuple(ids.number(8, "an id") for _ in range(length // 8)),
            )

    def _add_attribute(self, cursor: Cursor, ids: tuple[int, ...]) -> None:
        kind = cursor.number(4, "type")
        cursor.number(4, "size")
        config = cursor.number(8, "config")
        cursor.number(8, "period")
        sample_type = cursor.number(8, "sample type")
        read_format = cursor.number(8, "read format")
        bits = cursor.number(8, "flags")
        # bit fields begin at the other end of the word on the other byte order
        bit = 63 - _SAMPLE_ID_ALL_BIT if self.big_endian else _SAMPLE_ID_ALL_BIT
        if len(self._attributes) >= _MOST_ATTRIBUTES:
            raise cursor.error(f"more than {_MOST_ATTRIBUTES} events")
        self._attributes.append(Attribute(kind, config, sample_type, read_format, bool(bits >> bit & 1), ids))

    def _read_tracing_data(self, cursor: Cursor) -> int:
        """Read the description of the kernel's trace events; returns its size."""
        data = read_preamble(cursor)
        data.read_headers(cursor)
        data.read_ftrace_events(cursor)
        data.read_events(cursor)
        data.read_symbols(cursor)
        data.read_printk(cursor)
        if data.version >= 6 and cursor.left >= 8:
            data.read_comms(cursor)
        self.data = data
        return cursor.at

    def _feature(self, number: int, cursor: Cursor) -> None:
        facts = self._facts
        if number in _FEATURE_STRINGS:
            facts.strings[_FEATURE_STRINGS[number]] = self._text(cursor)
        elif number == _F_NRCPUS:
            facts.nr_cpus = min(cursor.number(4, "CPUs"), 65536)
            online = cursor.number(4, "CPUs online")
            facts.nr_cpus = online if 0 < online <= 65536 else facts.nr_cpus
        elif number == _F_CMDLINE:
            words = cursor.number(4, "words of the command line")
            texts: list[str] = []
            while len(texts) < min(words, 4096) and cursor.left:
                texts.append(self._text(cursor))
            facts.strings["cmdline"] = " ".join(texts)
        elif number == _F_NUMA_TOPOLOGY:
            for _ in range(min(cursor.number(4, "nodes"), 1024)):
                node = cursor.number(4, "a node")
                cursor.take(16, "memory of a node")
                facts.nodes[node] = self._text(cursor)
        elif number == _F_EVENT_DESC:
            self._event_names(cursor)

    def _event_names(self, cursor: Cursor) -> None:
        events = cursor.number(4, "number of events")
        each = cursor.number(4, "size of an attribute")
        for _ in range(min(events, _MOST_ATTRIBUTES)):
            attribute = Cursor(cursor.take(each, "an attribute"), self.file.name, big_endian=self.big_endian)
            number = cursor.number(4, "number of ids")
            name = self._text(cursor)
            if each >= 16:
                kind, _, config = (
                    attribute.number(4, "type"),
                    attribute.number(4, "size"),
                    attribute.number(8, "config"),
                )
                self._facts.names_by_config[kind, config] = name
            for _ in range(number):
                self._facts.names[cursor.number(8, "an id")] = name

    def _text(self, cursor: Cursor) -> str:
        size = cursor.number(4, "length of a text")
        if size > _MOST_STRING:
            cursor.at -= 4
            raise cursor.error(f"a text of {size} bytes cannot be right")
        return bytes(cursor.take(size, "a text")).split(b"\0")[0].decode("utf-8", "replace")

    # --- what the scanner must know

    def _prepare(self) -> None:
        """Give the scanner the formats and layouts, once both are known."""
        if self._prepared:
            return
        self._prepared = True
        if self.data is None:
            raise InputError(
                "it holds no description of trace events",
                file=self.file.name,
                remedy="record tracepoints: perf record -e 'kmem:*' -a",
            )
        self.data.check()
        if not self._attributes:
            raise InputError("it describes no event", file=self.file.name, byte=self.start, remedy="record again")
        scanner = self.scanner
        scanner.describe(big_endian=self.big_endian, long_bytes=self.data.long_bytes)
        scanner.use_symbols(self._symbols or self.data.symbols)
        self._move_symbols()
        for number, name in self.data.names.items():
            scanner.add_name(number, name)
        for format in self.data.events.values():
            if not scanner.add_format(format):
                self.notes.append(f"{self.file.name}: {format.name} lacks fields of the table and is left out")
        layouts = [sample_layout(attribute) for attribute in self._attributes]
        tracepoints = [each for each in self._attributes if each.type == _PERF_TYPE_TRACEPOINT]
        if tracepoints and not any(each.sample_type & _RAW for each in tracepoints):
            raise InputError(
                "its samples hold no raw trace data",
                file=self.file.name,
                remedy="record with perf record --raw-samples",
            )
        for attribute, layout in zip(self._attributes, layouts, strict=True):
            scanner.add_layout(layout, self._name(attribute), attribute.ids)
        if any(layout != layouts[0] for layout in layouts):
            places = {(layout["id"], layout["back_id"]) for layout in layouts}
            starts = {layout["id"] for layout in layouts}
            if len(starts) > 1 or starts == {-1}:
                raise NotSupportedError(
                    "its events differ in layout and their records do not say which is which", file=self.file.name
                )
            backs = {back for _, back in places if back > 0}
            scanner.find_layout_by(starts.pop(), backs.pop() if len(backs) == 1 else -1)

    def _name(self, attribute: Attribute) -> str:
        names = self._facts.names
        name = next((names[each] for each in attribute.ids if each in names), "")
        name = name or self._facts.names_by_config.get((attribute.type, attribute.config), "")
        if attribute.type == _PERF_TYPE_TRACEPOINT and self.data is not None:
            name = name or self.data.names.get(attribute.config, "")
        return name.removeprefix("kmem:") or f"event-{attribute.type}-{attribute.config:#x}"

    # --- records

    def batches(self) -> Iterator[None]:
        """Scan all records; yields whenever the scanner's batch is full, and once at the end.

        Raises
        ------
        InputError
            A record cannot be right.
        """
        if not self.pipe:
            self._prepare()
        at = self.start
        while at < self.end:
            # a piece at a time, so that what has been read can be given back
            stop = min(self.end, at + _WINDOW_BYTES)
            while at < stop:
                end = stop if self._prepared else self._before_formats(at)
                what, at = self._scan(self.file.view, at, end, 0)
                if what == FULL:
                    yield
                elif what == CUT and end < self.end:
                    stop = min(self.end, stop + 65536)
                elif what in (CUT, DAMAGED):
                    raise self._bad_record(at)
                elif what == SPECIAL:
                    at = yield from self._special(at)
            self.file.release(max(self.start, at - 4 * _WINDOW_BYTES), at)
        if self._rest:
            raise InputError("the compressed records end within a record", file=self.file.name, byte=self.end)
        self._prepare()
        while not self.scanner.finish():
            yield
        if self.scanner.late_events:
            self.notes.append(
                f"{self.file.name}: {self.scanner.late_events} events came too late to be put into the order of time"
            )
        yield

    def _move_symbols(self) -> None:
        """Allow for a kernel that was loaded elsewhere than the one that the symbols are from."""
        symbols, found = self.scanner.symbols, self.scanner.kernel_map
        if symbols is None or found is None or symbols.shift:
            return
        name, address = found
        there = symbols.address_of(name.partition("]")[2] or "_text")
        if there is not None:
            symbols.shift = address - there

    def _scan(self, data: memoryview | bytes, at: int, stop: int, file_offset: int) -> tuple[int, int]:
        """Scan a piece; what was unpacked for the round before the last one is not needed any more."""
        found = self.scanner.scan(data, at, stop, file_offset)
        if self.scanner.rounds != self._rounds:
            self._rounds = self.scanner.rounds
            self._kept.append([])
            del self._kept[:-3]
        return found

    def _before_formats(self, at: int) -> int:
        """Return the end of the record at `at` of a pipe; its first sample needs all that was said before it."""
        head = Cursor(self.file.view[at : self.end], self.file.name, at, big_endian=self.big_endian)
        kind = head.number(4, "type of a record")
        head.number(2, "misc")
        if kind == _SAMPLE:
            self._prepare()
        return min(self.end, at + max(head.number(2, "size of a record"), 8))

    def _bad_record(self, at: int) -> InputError:
        size = int.from_bytes(bytes(self.file.view[at + 6 : at + 8]), "big" if self.big_endian else "little")
        return InputError(
            f"a record of {size} bytes cannot be right, {self.end - at} are left",
            file=self.file.name,
            byte=at,
            remedy="the file is damaged or cut off; copy or record it again",
        )

    def _special(self, at: int) -> Generator[None, None, int]:
        """Handle a record of perf itself; returns where the next one begins."""
        cursor = Cursor(self.file.view[at : self.end], self.file.name, at, big_endian=self.big_endian)
        kind = cursor.number(4, "type")
        cursor.number(2, "misc")
        size = cursor.number(2, "size")
        content = Cursor(cursor.take(size - 8, "a record"), self.file.name, at + 8, big_endian=self.big_endian)
        if kind == _HEADER_ATTR and self.pipe:
            self._attribute_record(content)
        elif kind == _HEADER_FEATURE:
            self._feature(content.number(8, "feature"), content)
        elif kind == _TRACING_DATA:
            length = content.number(4, "size of the tracing data")
            data = Cursor(cursor.take(length, "tracing data"), self.file.name, at + size)
            if self.data is None:
                self._read_tracing_data(data)
        elif kind == _AUXTRACE:
            cursor.take(content.number(8, "size of the trace data"), "trace data")
        elif kind in (_COMPRESSED, _COMPRESSED2):
            packed = content.take(content.left, "compressed records")
            if kind == _COMPRESSED2:
                length = int.from_bytes(bytes(packed[:8]), "big" if self.big_endian else "little")
                packed = packed[8 : 8 + length]
            self._prepare()
            yield from self._compressed(packed, at)
        return at + cursor.at

    def _attribute_record(self, content: Cursor) -> None:
        """Take in the attributes and ids of one event of a pipe."""
        kind_at = content.at
        size = int.from_bytes(bytes(content.data[4:8]), "big" if self.big_endian else "little")
        if size < 64 or size > content.left:
            raise content.error(f"an attribute of {size} bytes cannot be right")
        if self._prepared:
            raise content.error("the attributes of an event come after its records")
        content.at = kind_at
        attribute = Cursor(content.take(size, "attribute"), self.file.name, content.base, big_endian=self.big_endian)
        ids = tuple(content.number(8, "an id") for _ in range(content.left // 8))
        self._add_attribute(attribute, ids)

    def _compressed(self, packed: memoryview, at: int) -> Iterator[None]:
        """Scan the records in a compressed one; a record may go on in the next."""
        import zstandard

        if self._unpack is None:
            self._unpack = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        pieces = [self._rest]
        total = len(self._rest)
        for start in range(0, len(packed), _ZSTD_STEP):
            try:
                piece = self._unpack.decompress(packed[start : start + _ZSTD_STEP])
            except (zstandard.ZstdError, MemoryError) as error:
                raise InputError(
                    f"compressed records cannot be unpacked: {error}", file=self.file.name, byte=at
                ) from None
            total += len(piece)
            if total > _MOST_UNPACKED:
                raise InputError(
                    f"a compressed record unpacks to more than {_MOST_UNPACKED} bytes", file=self.file.name, byte=at
                )
            pieces.append(piece)
        data = b"".join(pieces)
        self._rest = b""
        self._kept[-1].append(data)
        if sum(map(len, itertools.chain.from_iterable(self._kept))) > _MOST_KEPT + len(data):
            # rounds without an end: let everything go that waits, rather than keep the whole recording
            while not self.scanner.finish():
                yield
            self._kept = [[data]]
        place = 0
        while place < len(data):
            what, place = self._scan(data, place, len(data), at)
            if not self._kept[-1] or self._kept[-1][-1] is not data:
                self._kept[-1].append(data)  # a round has ended in it: what follows belongs to the next one
            if what == FULL:
                yield
            elif what == CUT:
                self._rest = data[place:]
                if len(self._rest) > 65536:
                    raise self._bad_record(at)
                return
            elif what == DAMAGED:
                raise InputError("a compressed record of no length", file=self.file.name, byte=at)
            elif what != END:
                place += int.from_bytes(data[place + 6 : place + 8], "big" if self.big_endian else "little")


def _cpu_list(text: str) -> Iterator[int]:
    """Numbers of a list such as ``0-3,8``."""
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if low.isdigit() and (high.isdigit() or not high):
            yield from range(int(low), min(int(high or low), int(low) + 8192) + 1)
