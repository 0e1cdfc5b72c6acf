# SPDX-License-Identifier: GPL-2.0-only
"""Reading binary recordings, trace.dat and perf.data, as the same batches that texts give."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

from kmem.profile import Profile
from kmem.trace.ahead import read_ahead
from kmem.trace.events import EventBatch
from kmem.trace.mapped_file import MappedFile
from kmem.trace.reader import TraceReader
from kmem.trace.scan_binary import BinaryScanner
from kmem.trace.symbols import Symbols

__all__ = ["BinaryReader", "binary_reader"]


class Recording(Protocol):
    """The bytes of a recording: one mapped file, or several."""

    name: str
    size: int

    def close(self) -> None:
        """Close what is open."""


class BinaryReader(TraceReader):
    """What the readers of binary recordings share."""

    _scanner: BinaryScanner

    def __init__(self, file: Recording, profile: Profile, scanner: BinaryScanner, kind: str, note: str) -> None:
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

    def read_ahead(self) -> Generator[EventBatch]:
        """Iterate over the batches, which are read in a second thread."""
        yield from read_ahead(self)

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
    # each kind brings its own modules along: the other's need not be imported
    if bytes(file.at(0, min(16, file.size), "magic")).startswith((b"PERFILE2", b"2ELIFREP")):
        from kmem.trace.perf_reader import PerfReader

        return PerfReader(file, profile, batch_events, symbols, note, stacks)
    from kmem.trace.dat_reader import DatReader

    return DatReader(file, profile, batch_events, symbols, note)
