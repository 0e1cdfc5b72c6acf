# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel says about its own trace events: the part that trace.dat and perf.data share.

Both begin it alike: magic, version, byte order, size of a long, size of a page;
then ``header_page`` and ``header_event`` (how the ring buffer is built), the
formats of all events, kernel symbols, ``trace_printk`` formats and saved
command lines.  Version 7 of trace.dat puts the same parts into sections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kmem.errors import InputError, NotSupportedError
from kmem.trace.event_format import KMEM_EVENTS, EventFormat, FieldFormat, parse_event_format, parse_fields
from kmem.trace.mapped_file import Cursor
from kmem.trace.symbols import Symbols

__all__ = ["LARGEST_PAGE", "MAGIC", "TracingData", "read_preamble"]

MAGIC = b"\x17\x08\x44tracing"
LARGEST_PAGE = 1 << 24
_MOST_SYSTEMS = 65536
_NAME = re.compile(rb"name: ([^\s\x00]{1,128})\s+ID: (\d{1,5})\s")


@dataclass(slots=True)
class TracingData:
    """The recorded kernel's description of its trace events.

    Attributes
    ----------
    name : str
        The file that it is in, for messages.
    version : int
        Of the format.
    big_endian : bool
    long_bytes : int
        4 or 8.
    page_bytes : int
        Size of a page of the ring buffer.
    page_fields : dict of str to FieldFormat
        ``timestamp``, ``commit`` and ``data`` of such a page.
    events : dict of int to EventFormat
        Events of the table, by their number.
    names : dict of int to str
        Names of all events by their number.
    symbols : Symbols or None
        Kernel symbols, if they were recorded.
    comms : dict of int to str
        Command names by thread.
    """

    name: str
    version: int
    big_endian: bool
    long_bytes: int
    page_bytes: int
    page_fields: dict[str, FieldFormat] = field(default_factory=dict)
    events: dict[int, EventFormat] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    symbols: Symbols | None = None
    comms: dict[int, str] = field(default_factory=dict)

    def read_headers(self, cursor: Cursor) -> None:
        """Read header_page and header_event."""
        for expected in ("header_page", "header_event"):
            at = cursor.at
            if cursor.string(expected, 64) != expected:
                cursor.at = at
                raise cursor.error(f"no {expected} where it should be")
            size = cursor.number(8, f"size of {expected}")
            text = bytes(cursor.take(size, expected))
            if expected == "header_page":
                self.page_fields = parse_fields(text.decode("latin-1"), LARGEST_PAGE)

    def read_ftrace_events(self, cursor: Cursor) -> None:
        """Read the formats of ftrace's own events."""
        for _ in range(cursor.number(4, "number of ftrace events")):
            self.add_format(_format(cursor), "ftrace")

    def read_events(self, cursor: Cursor) -> None:
        """Read the formats of all other events, group by group."""
        for _ in range(cursor.number(4, "number of event groups")):
            system = cursor.string("name of an event group", 256)
            for _ in range(cursor.number(4, f"number of {system} events")):
                self.add_format(_format(cursor), system)

    def add_format(self, text: bytes, system: str) -> None:
        """Take in the format of an event of a group, as its file in tracefs has it."""
        head = _NAME.match(text)
        if not head:
            return
        name = head[1].decode("latin-1")
        number = int(head[2])
        self.names[number] = name if system == "kmem" else f"{system}:{name}"
        if system == "kmem" and name in KMEM_EVENTS:
            found = parse_event_format(text.decode("latin-1"), system)
            if found is not None:
                self.events[number] = found

    def read_symbols(self, cursor: Cursor) -> None:
        """Read the copy of ``/proc/kallsyms``."""
        text = cursor.take(cursor.number(4, "size of the kernel symbols"), "kernel symbols")
        if len(text):
            self.symbols = Symbols(bytes(text))

    def read_printk(self, cursor: Cursor) -> None:
        """Pass over the formats of trace_printk."""
        cursor.take(cursor.number(4, "size of the printk formats"), "printk formats")

    def read_comms(self, cursor: Cursor) -> None:
        """Read the saved command lines."""
        self.add_comms(bytes(cursor.take(cursor.number(8, "size of the command lines"), "command lines")))

    def add_comms(self, text: bytes) -> None:
        """Take in command lines, as ``saved_cmdlines`` of tracefs has them."""
        for line in text.split(b"\n"):
            number, _, comm = line.partition(b" ")
            if number.isdigit() and len(number) < 8:
                self.comms[int(number)] = comm.decode("utf-8", "backslashreplace")

    def check(self) -> None:
        """Refuse a recording whose kmem events cannot be read."""
        if not self.events:
            raise InputError(
                "it describes no kmem event", file=self.name, remedy="record with events/kmem enabled (-e kmem)"
            )


def _format(cursor: Cursor) -> bytes:
    return bytes(cursor.take(cursor.number(8, "size of an event format"), "event format"))


def read_preamble(cursor: Cursor) -> TracingData:
    """Read magic, version, byte order, size of a long and size of a page.

    Raises
    ------
    InputError
        One of them cannot be right.
    NotSupportedError
        The version is newer than all that are known.
    """
    if bytes(cursor.take(len(MAGIC), "magic")) != MAGIC:
        cursor.at -= len(MAGIC)
        raise cursor.error("no tracing data: wrong magic")
    at = cursor.at
    version = cursor.string("version", 16)
    found = re.match(r"(?:0\.)?(\d{1,3})$", version)
    if not found:
        cursor.at = at
        raise cursor.error(f"strange version {version[:16]!r}")
    if int(found[1]) > 7 or int(found[1]) < 5:
        raise NotSupportedError(
            f"version {version} of the format is not known",
            file=cursor.name,
            byte=cursor.base + at,
            remedy="convert it with `trace-cmd convert --file-version 7`",
        )
    big_endian = cursor.number(1, "byte order")
    long_bytes = cursor.number(1, "size of a long")
    cursor.order = ">" if big_endian else "<"
    page_bytes = cursor.number(4, "size of a page")
    if big_endian > 1 or long_bytes not in (4, 8):
        cursor.at -= 6
        raise cursor.error(f"byte order {big_endian} and a long of {long_bytes} bytes cannot be right")
    if not 256 <= page_bytes <= 1 << 24:
        cursor.at -= 4
        raise cursor.error(f"a page of {page_bytes} bytes cannot be right")
    return TracingData(cursor.name, int(found[1]), bool(big_endian), long_bytes, page_bytes)
