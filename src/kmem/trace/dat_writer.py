# SPDX-License-Identifier: GPL-2.0-only
"""Writing a trace.dat, version 6, from what tracefs gives."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["DatContents", "write_dat"]

_CPUSTAT = 2
_TRACECLOCK = 4
_UNAME = 5
_VERSION = 9
_LONG_BYTES = struct.calcsize("l")


@dataclass(slots=True)
class DatContents:
    """What goes into a trace.dat; texts are copies of the files of tracefs.

    Attributes
    ----------
    header_page, header_event : bytes
    ftrace_formats : list of bytes
    formats : dict of str to list of bytes
        Formats of events by their group.
    kallsyms, printk_formats, saved_cmdlines : bytes
    clock : str
        Name of the trace clock.
    cpu_stats : list of bytes
        ``per_cpu/cpuN/stats``.
    version : str
        The program that writes it.
    """

    header_page: bytes
    header_event: bytes
    ftrace_formats: list[bytes] = field(default_factory=list)
    formats: dict[str, list[bytes]] = field(default_factory=dict)
    kallsyms: bytes = b""
    printk_formats: bytes = b""
    saved_cmdlines: bytes = b""
    clock: str = "local"
    cpu_stats: list[bytes] = field(default_factory=list)
    version: str = ""


def _head(contents: DatContents, nr_cpus: int, page_bytes: int) -> bytes:
    """Everything before the table of CPUs."""
    parts = [b"\x17\x08\x44tracing6\0", bytes([sys.byteorder == "big", _LONG_BYTES]), struct.pack("=I", page_bytes)]
    for name, text in ((b"header_page\0", contents.header_page), (b"header_event\0", contents.header_event)):
        parts += [name, struct.pack("=Q", len(text)), text]
    parts.append(struct.pack("=I", len(contents.ftrace_formats)))
    for text in contents.ftrace_formats:
        parts += [struct.pack("=Q", len(text)), text]
    parts.append(struct.pack("=I", len(contents.formats)))
    for system, formats in contents.formats.items():
        parts += [system.encode() + b"\0", struct.pack("=I", len(formats))]
        for text in formats:
            parts += [struct.pack("=Q", len(text)), text]
    for text in (contents.kallsyms, contents.printk_formats):
        parts += [struct.pack("=I", len(text)), text]
    parts += [struct.pack("=Q", len(contents.saved_cmdlines)), contents.saved_cmdlines, struct.pack("=I", nr_cpus)]
    clock = f"[{contents.clock}]\0".encode()
    uname = os.uname()
    options = [(_CPUSTAT, text + b"\0") for text in contents.cpu_stats]
    options += [
        (_UNAME, " ".join((uname.sysname, uname.nodename, uname.release, uname.machine)).encode() + b"\0"),
        (_VERSION, contents.version.encode() + b"\0"),
        (_TRACECLOCK, clock),
    ]
    parts.append(b"options  \0")
    for option, data in options:
        parts += [struct.pack("=HI", option, len(data)), data]
    parts += [struct.pack("=H", 0), b"flyrecord\0"]
    return b"".join(parts)


def write_dat(file: IO[bytes], contents: DatContents, cpus: Sequence[Path], page_bytes: int) -> None:
    """Write a trace.dat.

    Parameters
    ----------
    file : file object
        Open for writing in binary mode.
    contents : DatContents
    cpus : sequence of Path
        A file with the pages of each CPU.
    page_bytes : int
        Size of a page.
    """
    head = _head(contents, len(cpus), page_bytes)
    clock = f"[{contents.clock}]".encode()
    tail = struct.pack("=Q", len(clock)) + clock
    place = len(head) + 16 * len(cpus) + len(tail)
    table = b""
    offsets = []
    for path in cpus:
        place = -(-place // page_bytes) * page_bytes
        size = path.stat().st_size
        table += struct.pack("=QQ", place, size)
        offsets.append(place)
        place += size
    file.write(head + table + tail)
    for path, offset in zip(cpus, offsets, strict=True):
        file.write(bytes(offset - file.tell()))
        with path.open("rb") as pages:
            shutil.copyfileobj(pages, file, 1 << 20)
