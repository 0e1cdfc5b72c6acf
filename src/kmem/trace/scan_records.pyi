# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Callable, Mapping, Sequence

from kmem.trace.scan_binary import BinaryScanner

END: int
FULL: int
SPECIAL: int
CUT: int
DAMAGED: int

class RecordScanner(BinaryScanner):
    max_time: int
    late_events: int
    rounds: int
    kernel_map: tuple[str, int] | None
    when_mapped: Callable[[], None] | None
    keeps_stacks: bool
    def keep_stacks(self) -> None: ...
    def stacks(self) -> list[tuple[int, ...]]: ...
    def add_layout(self, layout: Mapping[str, int], name: str, ids: Sequence[int]) -> None: ...
    def find_layout_by(self, id_at: int, id_back: int) -> None: ...
    def scan(self, data: bytes | memoryview, start: int, end: int, file_offset: int) -> tuple[int, int]: ...
    def finish(self) -> bool: ...
