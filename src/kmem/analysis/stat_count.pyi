# SPDX-License-Identifier: GPL-2.0-only
from typing import Any

import numpy as np
import numpy.typing as npt

from kmem.trace.events import EventBatch

GROUP_DTYPE: np.dtype[Any]
TASK_DTYPE: np.dtype[Any]
PAGE_GROUP_DTYPE: np.dtype[Any]
OBJECT_DTYPE: np.dtype[Any]
ADDRESS_DTYPE: np.dtype[Any]
LIFE_DTYPE: np.dtype[Any]
STEPS: int
LIFE_CLASSES: int
MOST_LIVES: int

def life_class(lifetime_ns: int) -> int: ...

class LiveTable:
    count: int
    def rows(self) -> npt.NDArray[Any]: ...

class StatCounter:
    objects: LiveTable
    pages: LiveTable
    nodes_known: bool
    first_ns: int
    last_ns: int
    bucket_ns: int
    origin_ns: int
    events: int
    lost_marks: int
    live_bytes: int
    unknown_frees: int
    null_frees: int
    lost_frees: int
    unknown_page_frees: int
    unknown_page_bytes: int
    lost_page_frees: int
    page_frees: int
    page_bytes_freed: int
    freed_pages: int
    freed_page_bytes: int
    fallbacks: dict[tuple[int, int, int, int, int], int]
    blame: dict[tuple[int, int, int, int, int], int]
    def __init__(
        self,
        *,
        node_of_cpu: dict[int, int] | None = None,
        addresses: bool = False,
        stacks: bool = False,
        lifetimes: bool = False,
        first_ns: int | None = None,
    ) -> None: ...
    def feed(self, batch: EventBatch, wanted: npt.NDArray[np.bool_] | None = None) -> None: ...
    def group_rows(self) -> npt.NDArray[Any]: ...
    def task_rows(self) -> npt.NDArray[Any]: ...
    def page_group_rows(self) -> npt.NDArray[Any]: ...
    def life_rows(self) -> npt.NDArray[Any]: ...
    def address_rows(self) -> npt.NDArray[Any]: ...
    def timeline(self) -> npt.NDArray[np.uint64]: ...
    def stack_totals(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]: ...
