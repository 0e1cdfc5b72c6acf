# SPDX-License-Identifier: GPL-2.0-only
"""Reading the ring buffer: trace.dat, versions 6 and 7, and folders with raw pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kmem.errors import InputError
from kmem.profile import Profile
from kmem.trace.binary_reader import BinaryReader
from kmem.trace.dat_file import DatFile
from kmem.trace.mapped_file import MappedFile
from kmem.trace.scan_ring import DONE, FULL, RingScanner
from kmem.trace.symbols import Symbols

if TYPE_CHECKING:
    from kmem.trace.raw_folder import RawFolder

__all__ = ["DatReader", "RawReader"]


class _RingReader(BinaryReader):
    """What the readers of ring-buffer pages share."""

    _scanner: RingScanner
    _dat: DatFile | RawFolder

    def _describe(self, symbols: Symbols | None) -> None:
        """Tell the scanner what the recording says about itself."""
        scanner = self._scanner
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
        if not self._dat.options.counts_nanoseconds:
            yield f"{self.path}: the trace clock {self._dat.clock!r} has no unit; times are its counts"
        if self._dat.options.guest:
            yield f"{self.path}: times are the guest's own, not those of its host"


class DatReader(_RingReader):
    """Reader of trace.dat, versions 6 and 7."""

    def __init__(
        self, file: MappedFile, profile: Profile, batch_events: int, symbols: Symbols | None, note: str = ""
    ) -> None:
        super().__init__(file, profile, RingScanner(max(batch_events, 2)), "trace.dat", note)
        self._dat = DatFile(file)
        self._describe(symbols)


class RawReader(_RingReader):
    """Reader of a folder with raw pages, copied from tracefs.

    Parameters
    ----------
    folder : RawFolder
        Closed with this.
    profile : Profile
    batch_events : int
    symbols : Symbols or None
        Used instead of the folder's own.
    name : str, optional
        What messages call the folder, if not by its path.
    """

    def __init__(
        self, folder: RawFolder, profile: Profile, batch_events: int, symbols: Symbols | None, name: str = ""
    ) -> None:
        folder.name = name or folder.name
        super().__init__(folder, profile, RingScanner(max(batch_events, 2)), "trace_pipe_raw", "")
        self._dat = self._folder = folder
        self._describe(symbols)

    def _first_damage(self) -> str:
        file, byte = self._folder.place(int(self._scanner.first_damaged_byte))
        return f"{file} byte {byte}"
