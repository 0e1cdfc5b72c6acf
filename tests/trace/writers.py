# SPDX-License-Identifier: GPL-2.0-only
"""Writers of small binary recordings, of any byte order and word size, to read back.

An event is a dictionary: ``time`` (ns), ``cpu``, ``pid``, ``event`` and the
fields of that event.  Nothing here is shared with the readers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import zstandard

Fields = dict[str, Any]

GFP_NAMES = (
    (0xCC0, "GFP_KERNEL"),
    (0xA20, "GFP_ATOMIC"),
    (0x100, "__GFP_ZERO"),
    (0x400000, "__GFP_ACCOUNT"),
)
_COMMON = (("unsigned short", "common_type", 2, 0), ("unsigned char", "common_flags", 1, 0))
_COMMON += (("unsigned char", "common_preempt_count", 1, 0), ("int", "common_pid", 4, 1))
_LAYOUTS: dict[str, tuple[int, list[tuple[str, str, int, int]]]] = {
    # size 0: as large as a long
    "kmalloc": (
        552,
        [
            ("unsigned long", "call_site", 0, 0),
            ("const void *", "ptr", 0, 0),
            ("size_t", "bytes_req", 0, 0),
            ("size_t", "bytes_alloc", 0, 0),
            ("unsigned long", "gfp_flags", 0, 0),
            ("int", "node", 4, 1),
        ],
    ),
    "kfree": (551, [("unsigned long", "call_site", 0, 0), ("const void *", "ptr", 0, 0)]),
    "kmem_cache_alloc": (
        553,
        [
            ("unsigned long", "call_site", 0, 0),
            ("const void *", "ptr", 0, 0),
            ("size_t", "bytes_req", 0, 0),
            ("size_t", "bytes_alloc", 0, 0),
            ("unsigned long", "gfp_flags", 0, 0),
            ("int", "node", 4, 1),
            ("bool", "accounted", 1, 0),
        ],
    ),
    "kmem_cache_free": (
        550,
        [("unsigned long", "call_site", 0, 0), ("const void *", "ptr", 0, 0), ("__data_loc char[]", "name", 4, 1)],
    ),
    "mm_page_alloc": (
        547,
        [
            ("unsigned long", "pfn", 0, 0),
            ("unsigned int", "order", 4, 0),
            ("unsigned long", "gfp_flags", 0, 0),
            ("int", "migratetype", 4, 1),
        ],
    ),
    "mm_page_free": (549, [("unsigned long", "pfn", 0, 0), ("unsigned int", "order", 4, 0)]),
    "rss_stat": (543, [("unsigned int", "mm_id", 4, 0)]),
}
_FLAGS = ", ".join(f'{{( unsigned long)0x{bits:x}u, "{name}"}}' for bits, name in GFP_NAMES)
_GFP = f'(REC->gfp_flags) ? __print_flags(REC->gfp_flags, "|", {_FLAGS} ) : "none"'
_OBJECT = "call_site=%pS ptr=%p bytes_req=%zu bytes_alloc=%zu gfp_flags=%s node=%d accounted=%s"
_OBJECT_ARGS = f"(void *)REC->call_site, REC->ptr, REC->bytes_req, REC->bytes_alloc, {_GFP}, REC->node"
_PRINT = {
    "kmalloc": f'"{_OBJECT}", {_OBJECT_ARGS}, (1 && (REC->gfp_flags & ( unsigned long)0x400000u)) ? "true" : "false"',
    "kfree": '"call_site=%pS ptr=%p", (void *)REC->call_site, REC->ptr',
    "kmem_cache_alloc": f'"{_OBJECT}", {_OBJECT_ARGS}, REC->accounted ? "true" : "false"',
    "kmem_cache_free": '"call_site=%pS ptr=%p name=%s", (void *)REC->call_site, REC->ptr, __get_str(name)',
    "mm_page_alloc": '"page=%p pfn=0x%lx order=%d migratetype=%d gfp_flags=%s", '
    "REC->pfn != -1UL ? (((struct page *)vmemmap_base) + (REC->pfn)) : ((void *)0), "
    f"REC->pfn != -1UL ? REC->pfn : 0, REC->order, REC->migratetype, {_GFP}",
    "mm_page_free": '"page=%p pfn=0x%lx order=%d", (((struct page *)vmemmap_base) + (REC->pfn)), REC->pfn, REC->order',
    "rss_stat": '"mm_id=%u", REC->mm_id',
}


class Kernel:
    """The recorded machine.

    Parameters
    ----------
    big_endian : bool
    long_bytes : int
        4 or 8.
    page_bytes : int
        Of the ring buffer.
    """

    def __init__(self, big_endian: bool = False, long_bytes: int = 8, page_bytes: int = 4096) -> None:
        self.big_endian = big_endian
        self.order = ">" if big_endian else "<"
        self.long_bytes = long_bytes
        self.page_bytes = page_bytes

    def pack(self, code: str, *values: int) -> bytes:
        """Pack numbers in the byte order of the machine."""
        return struct.pack(self.order + code, *values)

    def layout(self, event: str) -> tuple[list[tuple[str, str, int, int, int]], int]:
        """Fields of an event as (type, name, offset, size, signed), and the size of the whole."""
        at = 0
        found = []
        for kind, name, size, signed in (*_COMMON, *_LAYOUTS[event][1]):
            size = size or self.long_bytes
            at = -(-at // size) * size
            found.append((kind, name, at, size, signed))
            at += size
        return found, -(-at // self.long_bytes) * self.long_bytes

    def format(self, event: str) -> bytes:
        """The format file of an event."""
        lines = [f"name: {event}", f"ID: {_LAYOUTS[event][0]}", "format:"]
        for number, (kind, name, offset, size, signed) in enumerate(self.layout(event)[0]):
            lines.append(f"\tfield:{kind} {name};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
            if number == 3:
                lines.append("")
        return "\n".join([*lines, "", f"print fmt: {_PRINT[event]}", ""]).encode()

    def record(self, event: Fields) -> bytes:
        """The binary record of an event."""
        fields, size = self.layout(event["event"])
        data = bytearray(size)
        values = {"common_type": _LAYOUTS[event["event"]][0], "common_pid": event["pid"], **event}
        tail = b""
        for _, name, offset, width, signed in fields:
            value = values.get(name, 0)
            if name == "name":
                tail = value.encode() + b"\0"
                tail += bytes(-len(tail) % 4)
                value = size | (len(value) + 1) << 16
            code = {1: "b", 2: "h", 4: "i", 8: "q"}[width]
            if not signed:
                code = code.upper()
                value &= (1 << 8 * width) - 1
            data[offset : offset + width] = self.pack(code, value)
        return bytes(data) + tail

    def tracing_data(
        self, events: Sequence[str] = tuple(_LAYOUTS), kallsyms: bytes = b"", version: bytes = b"6"
    ) -> bytes:
        """What the kernel says about its events, as version 6 of trace.dat has it, without command lines."""
        return b"".join(
            [
                b"\x17\x08\x44tracing" + version + b"\0",
                bytes([self.big_endian, self.long_bytes]) + self.pack("I", self.page_bytes),
                self.headers(),
                self.pack("I", 0),
                self.formats(events),
                self.pack("I", len(kallsyms)) + kallsyms,
                self.pack("I", 0),
            ]
        )

    def headers(self) -> bytes:
        """header_page and header_event."""
        size = self.long_bytes
        page = (
            "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
            f"\tfield: local_t commit;\toffset:8;\tsize:{size};\tsigned:1;\n"
            f"\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
            f"\tfield: char data;\toffset:{8 + size};\tsize:{self.page_bytes - 8 - size};\tsigned:1;\n"
        ).encode()
        event = b"# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n"
        return b"".join(
            name + b"\0" + self.pack("Q", len(text)) + text
            for name, text in ((b"header_page", page), (b"header_event", event))
        )

    def formats(self, events: Sequence[str] = tuple(_LAYOUTS)) -> bytes:
        """Formats of all events of the one system there is."""
        parts = [self.pack("I", 1), b"kmem\0", self.pack("I", len(events))]
        for event in events:
            text = self.format(event)
            parts.append(self.pack("Q", len(text)) + text)
        return b"".join(parts)

    # --- trace.dat

    def ring_event(self, delta: int, data: bytes) -> bytes:
        """An event of the ring buffer, long deltas before it."""
        out = b""
        if delta >= 1 << 27:
            out = self._head(30, delta & ((1 << 27) - 1)) + self.pack("I", delta >> 27)
            delta = 0
        data += bytes(-len(data) % 4)
        if len(data) <= 112:
            return out + self._head(len(data) // 4, delta) + data
        return out + self._head(0, delta) + self.pack("I", len(data) + 4) + data

    def _head(self, kind: int, delta: int) -> bytes:
        return self.pack("I", kind << 27 | delta if self.big_endian else delta << 5 | kind)

    def stamp(self, time: int) -> bytes:
        """An absolute time stamp."""
        return self._head(31, time & ((1 << 27) - 1)) + self.pack("I", time >> 27 & 0xFFFFFFFF)

    def padding(self, delta: int, size: int) -> bytes:
        """A discarded event that has `size` bytes behind its head."""
        return self._head(29, delta) + self.pack("I", size) + bytes(size - 4)

    def page(self, time: int, content: bytes, *, missed: int | None = None) -> bytes:
        """A page of the ring buffer; `missed` events before it (0: it is not known how many)."""
        commit = len(content)
        room = self.page_bytes - 8 - self.long_bytes
        assert commit + self.long_bytes <= room
        code = "Q" if self.long_bytes == 8 else "I"
        if missed is not None:
            commit |= 1 << 31
        if missed:
            commit |= 1 << 30
            content += self.pack(code, missed)
        return self.pack("Q", time) + self.pack(code, commit) + content.ljust(room, b"\0")

    def pages(self, events: Iterable[Fields]) -> bytes:
        """Pages with the events of one CPU."""
        room = self.page_bytes - 8 - 2 * self.long_bytes
        pages: list[bytes] = []
        content, begin, last = b"", 0, 0
        for event in events:
            if not content:
                begin = last = event["time"]
            piece = self.ring_event(event["time"] - last, self.record(event))
            if len(content) + len(piece) > room:
                pages.append(self.page(begin, content))
                begin = event["time"]
                content, piece = b"", self.ring_event(0, self.record(event))
            content += piece
            last = event["time"]
        if content:
            pages.append(self.page(begin, content))
        return b"".join(pages)

    def dat_6(
        self,
        cpus: Sequence[bytes],
        comms: dict[int, str] | None = None,
        *,
        kallsyms: bytes = b"",
        buffers: dict[str, Sequence[bytes]] | None = None,
        options: Sequence[tuple[int, bytes]] = (),
    ) -> bytes:
        """A trace.dat of version 6 with these pages by CPU."""
        lines = "".join(f"{pid} {comm}\n" for pid, comm in (comms or {}).items()).encode()
        head = self.tracing_data(kallsyms=kallsyms) + self.pack("Q", len(lines)) + lines + self.pack("I", len(cpus))
        head += b"options  \0"
        all_options = list(options)
        if not any(option == 4 for option, _ in all_options):
            all_options.append((4, b"[local] global counter\0"))
        size = len(head) + sum(6 + len(data) for _, data in all_options)
        for name in buffers or {}:
            size += 6 + 8 + len(name) + 1
        size += 2 + 10 + 16 * len(cpus)
        clock = b"[local] global counter"
        size += 8 + len(clock)
        place = -(-size // self.page_bytes) * self.page_bytes
        blob = b""
        tables = {}
        for name, pages_by_cpu in {"": cpus, **(buffers or {})}.items():
            table = b"" if not name else b"flyrecord\0"
            if name:
                tables[name] = place + len(blob)
                here = -(-(place + len(blob) + 10 + 16 * len(cpus)) // self.page_bytes) * self.page_bytes
            else:
                here = place
            data = b""
            for pages in pages_by_cpu:
                table += self.pack("QQ", here + len(data), len(pages))
                data += pages
            if name:
                blob += table.ljust(here - place - len(blob), b"\0") + data
            else:
                main, blob = table, data
        for option, data in all_options:
            head += self.pack("HI", option, len(data)) + data
        for name, offset in tables.items():
            head += self.pack("HIQ", 3, 8 + len(name) + 1, offset) + name.encode() + b"\0"
        head += self.pack("H", 0) + b"flyrecord\0" + main + self.pack("Q", len(clock)) + clock
        return head.ljust(place, b"\0") + blob

    def dat_7(
        self,
        cpus: Sequence[bytes],
        comms: dict[int, str] | None = None,
        *,
        kind: str = "zstd",
        chunk_pages: int = 2,
    ) -> bytes:
        """A trace.dat of version 7, compressed as `kind` says, a chunk of so many pages at a time."""
        pack = {"none": bytes, "zstd": lambda data: zstandard.compress(data, 1), "zlib": zlib.compress}[kind]
        out = bytearray(b"\x17\x08\x44tracing7\0" + bytes([self.big_endian, self.long_bytes]))
        out += self.pack("I", self.page_bytes) + kind.encode() + b"\0" + b"1\0"
        hole = len(out)
        out += bytes(8)
        places = {}
        lines = "".join(f"{pid} {comm}\n" for pid, comm in (comms or {}).items()).encode()
        sections = {
            16: self.headers(),
            17: self.pack("I", 0),
            18: self.formats(),
            21: self.pack("Q", len(lines)) + lines,
        }
        for number, content in sections.items():
            places[number] = len(out)
            out += self._section(number, content, pack, kind)
        buffer = len(out)
        out += self.pack("HHIQ", 3, int(kind != "none"), 0, 0)
        table = b""
        for cpu, pages in enumerate(cpus):
            begin = len(out)
            if kind == "none":
                out += pages
                size = len(pages)
            else:
                step = chunk_pages * self.page_bytes
                chunks = [pages[at : at + step] for at in range(0, len(pages), step)]
                out += self.pack("I", len(chunks))
                begin_chunks = len(out)
                for chunk in chunks:
                    packed = pack(chunk)
                    out += self.pack("II", len(packed), len(chunk)) + packed
                size = len(out) - begin_chunks
            table += self.pack("IQQ", cpu, begin, size if pages else 0)
        options = b"".join(self.pack("HIQ", number, 8, place) for number, place in places.items())
        data = self.pack("Q", buffer) + b"\0local\0" + self.pack("II", self.page_bytes, len(cpus)) + table
        options += self.pack("HI", 3, len(data)) + data
        options += self.pack("HIQ", 0, 8, 0)
        out[hole : hole + 8] = self.pack("Q", len(out))
        out += self._section(0, options, pack, kind)
        return bytes(out)

    def _section(self, number: int, content: bytes, pack: Any, kind: str) -> bytes:
        if kind == "none":
            return self.pack("HHIQ", number, 0, 0, len(content)) + content
        packed = pack(content)
        body = self.pack("II", len(packed), len(content)) + packed
        return self.pack("HHIQ", number, 1, 0, len(body)) + body

    # --- perf.data

    #: IDENTIFIER|IP|TID|TIME|CPU|PERIOD|RAW
    SAMPLE_TYPE = 1 << 16 | 1 | 2 | 4 | 1 << 7 | 1 << 8 | 1 << 10

    def attribute(self, event: str, sample_type: int = SAMPLE_TYPE) -> bytes:
        """perf_event_attr of an event, 128 bytes."""
        flags = 1 << 63 - 18 if self.big_endian else 1 << 18
        head = self.pack("IIQQQQQ", 2, 128, _LAYOUTS[event][0], 1, sample_type, 4 | 16, flags)
        return head.ljust(128, b"\0")

    def perf_record(self, kind: int, body: bytes) -> bytes:
        """A record."""
        body += bytes(-len(body) % 8)
        return self.pack("IHH", kind, 0, 8 + len(body)) + body

    def _facts(self, event: Fields) -> bytes:
        return self.pack("IIQII", event["pid"], event["pid"], event["time"], event.get("cpu", 0), 0)

    def sample(self, event: Fields, chain: Sequence[int] | None = None) -> bytes:
        """A sample, with a call chain if there is one."""
        number = _LAYOUTS[event["event"]][0] - 500
        raw = self.record(event)
        raw += bytes(-(len(raw) + 4) % 8)
        body = self.pack("QQ", number, 0xFFFFFFFF81000000) + self._facts(event) + self.pack("Q", 1)
        if chain is not None:
            body += self.pack("Q", len(chain)) + b"".join(self.pack("Q", address) for address in chain)
        return self.perf_record(9, body + self.pack("I", len(raw)) + raw)

    def _trailer(self, event: Fields) -> bytes:
        return self._facts(event) + self.pack("Q", 52)

    def kernel_map(self, address: int) -> bytes:
        """Where the kernel's `_text` was loaded."""
        text = b"[kernel.kallsyms]_text\0"
        text += bytes(-len(text) % 8)
        trailer = self._trailer({"pid": 0, "time": 0})
        return self.perf_record(1, self.pack("iIQQQ", -1, 0, address, 1 << 24, address) + text + trailer)

    def comm(self, event: Fields, comm: str) -> bytes:
        """A thread gets a name."""
        text = comm.encode() + b"\0"
        text += bytes(-len(text) % 8)
        return self.perf_record(3, self.pack("II", event["pid"], event["pid"]) + text + self._trailer(event))

    def fork(self, event: Fields, parent: int) -> bytes:
        """A thread begins."""
        pid = event["pid"]
        body = self.pack("IIIIQ", pid, parent, pid, parent, event["time"])
        return self.perf_record(7, body + self._trailer(event))

    def lost(self, event: Fields, number: int) -> bytes:
        """Events were lost."""
        return self.perf_record(2, self.pack("QQ", 52, number) + self._trailer(event))

    def round(self) -> bytes:
        """The end of a round."""
        return self.perf_record(68, b"")

    def compressed(self, data: bytes, packer: Any, size: int = 30000) -> bytes:
        """Records as compressed ones, cut anywhere; `packer` goes on from one to the next."""
        out = b""
        for at in range(0, len(data), size):
            packed = packer.compress(data[at : at + size]) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            out += self.pack("IHH", 81, 0, 8 + len(packed)) + packed
        return out

    def perf_file(self, data: bytes, *, sample_type: int = SAMPLE_TYPE, tracing: bytes | None = None) -> bytes:
        """A perf.data in file mode."""
        events = list(_LAYOUTS)
        tracing = self.tracing_data(version=b"0.6") + self.pack("Q", 0) if tracing is None else tracing
        ids = b"".join(self.pack("Q", _LAYOUTS[event][0] - 500) for event in events)
        attrs_at = 104 + len(ids)
        attrs = b"".join(
            self.attribute(event, sample_type) + self.pack("QQ", 104 + 8 * number, 8)
            for number, event in enumerate(events)
        )
        data_at = attrs_at + len(attrs)
        table_at = data_at + len(data)
        magic = b"PERFILE2"[::-1] if self.big_endian else b"PERFILE2"
        head = magic + self.pack("QQQQQQQQ", 104, 144, attrs_at, len(attrs), data_at, len(data), 0, 0)
        head += self.pack("QQQQ", 1 << 1, 0, 0, 0)
        return head + ids + attrs + data + self.pack("QQ", table_at + 16, len(tracing)) + tracing

    def perf_pipe(self, data: bytes, *, sample_type: int = SAMPLE_TYPE) -> bytes:
        """A perf.data in pipe mode."""
        out = (b"PERFILE2"[::-1] if self.big_endian else b"PERFILE2") + self.pack("Q", 16)
        for event, (number, _) in _LAYOUTS.items():
            out += self.perf_record(64, self.attribute(event, sample_type) + self.pack("Q", number - 500))
        tracing = self.tracing_data(version=b"0.6") + self.pack("Q", 0)
        tracing += bytes(-len(tracing) % 8)
        out += self.perf_record(66, self.pack("I", len(tracing))) + tracing
        return out + data
