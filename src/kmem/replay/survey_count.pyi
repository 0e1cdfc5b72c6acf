# SPDX-License-Identifier: GPL-2.0-only
from kmem.trace.events import EventBatch

class Tally:
    found: dict[int, tuple[int, int]]

class SurveyCounter:
    @property
    def frames(self) -> Tally: ...
    @property
    def mapped(self) -> Tally: ...
    @property
    def bases(self) -> Tally: ...
    events: int
    pointers: int
    aligned: int
    wide: int
    kernel_32: int
    kernel_64: int
    max_low: int
    first_ns: int
    last_ns: int
    max_pfn: int
    named_allocations: bool
    def add(self, batch: EventBatch) -> list[tuple[int, int]]: ...
    def cpus(self) -> dict[int, tuple[int, int]]: ...
