# SPDX-License-Identifier: GPL-2.0-only
"""Reading perf.data, in file mode and in pipe mode."""

from __future__ import annotations

from collections.abc import Iterator

from kmem.profile import Profile
from kmem.trace.binary_reader import BinaryReader
from kmem.trace.mapped_file import MappedFile
from kmem.trace.perf_file import PerfFile
from kmem.trace.scan_records import RecordScanner
from kmem.trace.symbols import Symbols

__all__ = ["PerfReader"]


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
