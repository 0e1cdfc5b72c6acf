# SPDX-License-Identifier: GPL-2.0-only
"""A folder copied from tracefs: ``per_cpu/cpuN/trace_pipe_raw`` with the formats of the events beside.

The files lie in it as in tracefs (or as in one of its instances)::

    per_cpu/cpu0/trace_pipe_raw   whole pages of the ring buffer, one file per CPU
    per_cpu/cpu0/stats            optional: how many events were overwritten
    events/header_page            how such a page is laid out
    events/GROUP/EVENT/format     of the kmem group at least; of others, their names
    saved_cmdlines, trace_clock, kallsyms, printk_formats   optional

tracefs does not say in which byte order the kernel wrote, so the pages are
asked: only one order gives fill levels that fit into a page.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kmem.errors import InputError
from kmem.trace.dat_file import CpuData, DatOptions
from kmem.trace.event_format import parse_fields
from kmem.trace.mapped_file import MappedFile
from kmem.trace.symbols import Symbols
from kmem.trace.tracing_data import LARGEST_PAGE, TracingData

__all__ = ["RawFolder"]

_WINDOW_BYTES = 1 << 22
_WINDOWS_BYTES = 1 << 26  # of all CPUs together
_LARGEST_TEXT = 1 << 20
_LARGEST_SYMBOLS = 1 << 28
_MOST_CPUS = 8192
_MOST_EVENTS = 65536
_PROBED_PAGES = 64
_MISSED_BITS = 3 << 30
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_CPU = re.compile(r"cpu(\d{1,4})")


def _cpu_folders(path: Path) -> Iterator[tuple[int, Path]]:
    """The CPUs that have raw pages in a folder or in its ``per_cpu``."""
    with contextlib.suppress(OSError):
        per_cpu = path / "per_cpu"
        for each in (per_cpu if per_cpu.is_dir() else path).iterdir():
            found = _CPU.fullmatch(each.name)
            if found and os.path.lexists(each / "trace_pipe_raw"):
                yield int(found[1]), each


class RawFolder:
    """A folder with raw ring-buffer pages, opened.

    Parameters
    ----------
    path : Path
        The folder.

    Attributes
    ----------
    name : str
        What messages call it.
    size : int
        Bytes of the pages of all CPUs together.
    data : TracingData
        What the formats say.
    streams : list of CpuData
        One per CPU with something in it. Offsets count through the files of
        all CPUs in turn; :meth:`place` tells which file one is in.
    nr_cpus : int
        CPUs that have a file.
    clock : str
        Trace clock, empty if the folder does not say.
    notes : list of str
        What a user should know.
    options : DatOptions
        The same facts as those that a trace.dat has as options.

    Raises
    ------
    InputError
        A file that is needed is missing, or cannot be right.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.size = 0
        self.notes: list[str] = []
        self.options = DatOptions()
        self.streams: list[CpuData] = []
        self._files: list[MappedFile] = []
        cpus = sorted(_cpu_folders(path))
        # the formats lie beside per_cpu, of which the inside may be what was named
        self._root = path if (path / "events").is_dir() or (path / "per_cpu").is_dir() else path.absolute().parent
        if not cpus or len(cpus) > _MOST_CPUS:
            raise InputError(
                "cannot be opened: a folder without per_cpu/cpuN/trace_pipe_raw"
                if not cpus
                else f"{len(cpus)} CPUs cannot be right",
                file=self.name,
                remedy="name a trace file inside it",
            )
        self.nr_cpus = cpus[-1][0] + 1
        self._read_formats()
        try:
            for cpu, folder in cpus:
                self._add(cpu, folder)
            if not self.streams:
                raise InputError(
                    "all its trace_pipe_raw are empty",
                    file=self.name,
                    remedy="copy them with cat, one per CPU: tracefs shows no sizes",
                )
            self.data.big_endian = self._is_big_endian()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    # --- the texts

    def _text(self, path: Path, *, most: int = _LARGEST_TEXT, needed: bool = False) -> bytes:
        """Read a small file, empty if it is not there and not needed."""
        try:
            with open(path, "rb", opener=_open_file) as file:
                text = file.read(most + 1)
        except OSError as error:
            if not needed and isinstance(error, FileNotFoundError):
                return b""
            raise InputError(
                f"cannot be opened: {error.strerror or error}",
                file=str(path),
                remedy="copy events/header_page and events/kmem/*/format from the same tracefs" if needed else None,
            ) from None
        if len(text) > most:
            raise InputError(f"more than {most} bytes cannot be right", file=str(path))
        return text

    def _read_formats(self) -> None:
        """Read how pages and events are laid out, and the optional texts."""
        events = self._root / "events"
        path = events / "header_page"
        fields = parse_fields(self._text(path, needed=True).decode("latin-1"), LARGEST_PAGE)
        try:
            page_bytes = fields["data"].offset + fields["data"].size
            long_bytes = fields["commit"].size
        except KeyError as error:
            raise InputError(f"it has no field {error}", file=str(path)) from None
        if long_bytes not in (4, 8) or not 256 <= page_bytes <= LARGEST_PAGE:
            raise InputError(
                f"a page of {page_bytes} bytes with a long of {long_bytes} cannot be right", file=str(path)
            )
        self.data = TracingData(self.name, 0, sys.byteorder == "big", long_bytes, page_bytes, fields)
        formats = sorted(events.glob("*/*/format"))
        if len(formats) > _MOST_EVENTS:
            raise InputError(f"{len(formats)} events cannot be right", file=str(events))
        for each in formats:
            self.data.add_format(self._text(each), each.parent.parent.name)
        self.data.check()
        self.data.add_comms(self._text(self._root / "saved_cmdlines", most=_LARGEST_SYMBOLS))
        symbols = self._text(self._root / "kallsyms", most=_LARGEST_SYMBOLS)
        if symbols:
            self.data.symbols = Symbols(symbols)
        clocks = self._text(self._root / "trace_clock").decode("latin-1")
        self.clock = self.options.clock = clocks.partition("[")[2].partition("]")[0]

    # --- the pages

    def _add(self, cpu: int, folder: Path) -> None:
        """Take in the pages of a CPU."""
        path = folder / "trace_pipe_raw"
        self.options.stats.append(self._text(folder / "stats").decode("latin-1"))
        try:
            file = open(path, "rb", opener=_open_file)  # noqa: SIM115  closed by close()
        except OSError as error:
            raise InputError(f"cannot be opened: {error.strerror or error}", file=str(path)) from None
        if not os.fstat(file.fileno()).st_size:
            file.close()
            return
        mapped = MappedFile(file, str(path))
        self._files.append(mapped)
        self.streams.append(CpuData(cpu, "", self.size, mapped.size, False, self.data.page_bytes))
        self.size += mapped.size

    def _is_big_endian(self) -> bool:
        """Ask the pages for the byte order that their fill levels make sense in."""
        commit, start = self.data.page_fields["commit"], self.data.page_fields["data"].offset
        size = self.data.page_bytes
        fit = {"little": 0, "big": 0}
        for file in self._files:
            for page in range(0, min(file.size, _PROBED_PAGES * size), size):
                word = bytes(file.view[page + commit.offset : page + commit.offset + commit.size])
                for order in _ORDERS:
                    level = int.from_bytes(word, order) & ~_MISSED_BITS
                    fit[order] += len(word) == commit.size and level <= size - start
        if not any(fit.values()):
            raise InputError(
                "no page with a fill level that fits",
                file=self._files[0].name,
                byte=commit.offset,
                remedy="copy events/header_page from the same tracefs",
            )
        if fit["little"] == fit["big"]:
            return sys.byteorder == "big"
        return fit["big"] > fit["little"]

    def place(self, offset: int) -> tuple[str, int]:
        """The file that an offset lies in, and where in it."""
        for stream, file in zip(self.streams, self._files, strict=True):
            if offset < stream.offset + stream.size:
                return file.name, offset - stream.offset
        return self.name, offset

    def windows(self, stream: CpuData) -> Iterator[tuple[memoryview, int]]:
        """Yield the pages of a CPU in pieces of whole pages, each with its offset."""
        file = self._files[self.streams.index(stream)]
        window = min(_WINDOW_BYTES, _WINDOWS_BYTES // len(self.streams))
        step = max(window // stream.page_bytes, 1) * stream.page_bytes
        for start in range(0, stream.size, step):
            size = min(step, stream.size - start)
            yield file.at(start, size, f"data of CPU {stream.cpu}"), stream.offset + start
            file.release(start, start + size)


def _open_file(path: str, flags: int) -> int:
    """Open an ordinary file; a pipe or device among them is refused and not waited for."""
    number = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(None, "not an ordinary file")
    return number
