# SPDX-License-Identifier: GPL-2.0-only
"""What the naive page allocator works on: zones, their free lists and per-CPU sets; constants of Linux 6.1."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

MAX_ORDER = 11  # orders 0 to 10
PAGE_SHIFT = 12
COSTLY_ORDER = 3
PCP_BATCH_SCALE_MAX = 5
MAX_RECLAIM_RETRIES = 16

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE, CMA = range(6)
MIGRATE_TYPES = 6
PCPTYPES = 3  # the first three have per-CPU lists and merge with each other
NR_LOWORDER_PCP_LISTS = 12
NR_PCP_LISTS = 14

FALLBACKS = {UNMOVABLE: (RECLAIMABLE, MOVABLE), MOVABLE: (RECLAIMABLE, UNMOVABLE), RECLAIMABLE: (UNMOVABLE, MOVABLE)}

GFP_DMA, GFP_HIGHMEM, GFP_DMA32, GFP_MOVABLE, GFP_RECLAIMABLE = 0x1, 0x2, 0x4, 0x8, 0x10
GFP_HIGH, GFP_IO, GFP_ATOMIC, GFP_DIRECT_RECLAIM, GFP_KSWAPD_RECLAIM = (0x20, 0x40, 0x200, 0x400, 0x800)
GFP_RETRY_MAYFAIL, GFP_NOFAIL, GFP_NORETRY, GFP_MEMALLOC = (0x4000, 0x8000, 0x10000, 0x20000)
GFP_COMP, GFP_NOMEMALLOC, GFP_THISNODE = 0x40000, 0x80000, 0x200000

WMARK_MIN, WMARK_LOW, WMARK_HIGH = 0, 1, 2
ALLOC_NO_WATERMARKS = 0x04
ALLOC_WMARK_MASK = 0x03
ALLOC_OOM = 0x08
ALLOC_NON_BLOCK = 0x10
ALLOC_MIN_RESERVE = 0x20
ALLOC_CMA = 0x80
ALLOC_NOFRAGMENT = 0x100
ALLOC_HIGHATOMIC = 0x200
ALLOC_KSWAPD = 0x800
ALLOC_RESERVES = ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC | ALLOC_OOM

ZONE_BOOSTED_WATERMARK = 1
ZONE_RECLAIM_ACTIVE = 2


class FreeList(OrderedDict[int, None]):
    """The free blocks of one order and migrate type, head first: frame -> None."""

    def __init__(self, order: int, migratetype: int) -> None:
        super().__init__()
        self.order = order
        self.migratetype = migratetype

    def add(self, pfn: int) -> None:
        """Put `pfn` before all others."""
        self[pfn] = None
        self.move_to_end(pfn, last=False)

    def add_tail(self, pfn: int) -> None:
        """Put `pfn` behind all others."""
        self[pfn] = None


@dataclass(slots=True)
class PcpSet:
    """The pages that one CPU keeps of one zone, with the CPU's share of the zone's counters."""

    high: int
    batch: int
    count: int = 0
    free_factor: int = 0
    stat_threshold: int = 0
    free_diff: int = 0  # vm_stat_diff[NR_FREE_PAGES]
    cma_diff: int = 0  # vm_stat_diff[NR_FREE_CMA_PAGES]
    lists: list[deque[int]] = field(default_factory=lambda: [deque() for _ in range(NR_PCP_LISTS)])


@dataclass(slots=True, eq=False)
class Zone:
    """One zone of one node."""

    node: int
    index: int
    name: str
    start_pfn: int
    spanned: int
    present: int
    managed: int
    watermark: list[int]
    lowmem_reserve: list[int]
    block_types: list[int | None]  # migrate type of each page block, from the one that holds start_pfn
    pcp: list[PcpSet]
    end_pfn: int = 0
    boost: int = 0
    nr_reserved_highatomic: int = 0
    flags: int = 0
    free_pages: int = 0  # vm_stat[NR_FREE_PAGES], without what CPUs have not folded in
    free_cma_pages: int = 0
    nr_isolate_pageblock: int = 0
    nr_free: list[int] = field(default_factory=lambda: [0] * MAX_ORDER)
    free_list: list[list[FreeList]] = field(
        default_factory=lambda: [[FreeList(order, mt) for mt in range(MIGRATE_TYPES)] for order in range(MAX_ORDER)]
    )
    buddy: dict[int, FreeList] = field(default_factory=dict)  # head of a free block -> the list it is on

    def __post_init__(self) -> None:
        self.end_pfn = self.start_pfn + self.spanned

    def spans(self, pfn: int) -> bool:
        return self.start_pfn <= pfn < self.end_pfn
