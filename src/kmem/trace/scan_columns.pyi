# SPDX-License-Identifier: GPL-2.0-only
from typing import Any

import numpy.typing as npt

from kmem.trace.scan_strings import StringTable

COLUMNS: dict[str, str]

class EventColumns:
    comms: StringTable
    caches: StringTable
    call_sites: StringTable
    gfps: StringTable
    columns: dict[str, npt.NDArray[Any]]
    capacity: int
    count: int
    nr_lines: int
    nr_bytes: int
    nr_events: int
    nr_unknown: int
    lost_events: int
    lost_markers: int
    damaged_lines: int
    damaged_bytes: int
    first_damaged_line: int
    first_damaged_byte: int
    pointer_digits: int
    def __init__(self, capacity: int = 65536) -> None: ...
    def new_batch(self) -> None: ...
    def unknown_events(self) -> dict[str, int]: ...
