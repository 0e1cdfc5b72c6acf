# SPDX-License-Identifier: GPL-2.0-only
"""Watermarks: how much of a zone a request must leave free.

The short cut for single pages is in :mod:`kmem.mm.page_alloc`, where every
request passes; what is here runs when the short cut does not decide.

Source: mm/page_alloc.c:__zone_watermark_ok @6.1.192
"""

import cython
from cython.cimports.kmem.mm.buddy import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
)
from cython.cimports.kmem.mm.mmzone import Zone
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    MAX_ORDER,
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_TYPES,
)
from cython.cimports.kmem.mm.pcp import PcpLists


@cython.cclass
class Watermarks(PcpLists):
    """Decides whether a zone has enough left for a request.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    cma : bool
        Whether the kernel has CMA areas configured.
    """

    def __init__(self, memmap, cma):
        PcpLists.__init__(self, memmap)
        self.cma = cma

    def unusable_free(self, z, order, alloc_flags):
        """Free pages that do not count for a request of `order`.

        Source: mm/page_alloc.c:__zone_watermark_unusable_free @6.1.192
        """
        unusable: cython.long = (cython.cast(cython.long, 1) << order) - 1
        if not alloc_flags & ALLOC_RESERVES:
            unusable += z.nr_reserved_highatomic
        if self.cma and not alloc_flags & ALLOC_CMA:
            unusable += max(z.free_cma_pages, 0)
        return unusable

    def reduced_mark(self, mark, alloc_flags):
        """What is left of a watermark for a request that may go below it.

        Source: mm/page_alloc.c:__zone_watermark_ok @6.1.192
        """
        minimum: cython.long = mark
        if alloc_flags & ALLOC_RESERVES:
            if alloc_flags & ALLOC_MIN_RESERVE:
                minimum -= minimum // 2
                if alloc_flags & ALLOC_NON_BLOCK:
                    minimum -= minimum // 4
            if alloc_flags & ALLOC_OOM:
                minimum -= minimum // 2
        return minimum

    def watermark_ok(self, z, order, mark, highest_zoneidx, alloc_flags, free_pages):
        """Whether `free_pages` leave the watermark intact and a block of `order` exists.

        Source: mm/page_alloc.c:__zone_watermark_ok, __zone_watermark_unusable_free @6.1.192
        """
        o: cython.uint
        mt: cython.uint
        head: cython.uint
        free_pages -= self.unusable_free(z, order, alloc_flags)
        if free_pages <= self.reduced_mark(mark, alloc_flags) + z.lowmem_reserve[highest_zoneidx]:
            return False
        if not order:
            return True
        for o in range(order, MAX_ORDER):
            if not z.nr_free[o]:
                continue
            for mt in range(MIGRATE_TYPES):
                if mt == MIGRATE_ISOLATE:
                    continue
                if mt == MIGRATE_CMA and not alloc_flags & ALLOC_CMA:
                    continue
                if mt == MIGRATE_HIGHATOMIC and not alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM):
                    continue
                head = z.lists + o * MIGRATE_TYPES + mt
                if self.pages[head].next != head:
                    return True
        return False

    def zone_watermark_ok(self, zone, order, mark, highest_zoneidx, alloc_flags=0, free_pages=None):
        """Whether a zone has enough left for a request, its free pages being `free_pages` (those of now if None).

        Source: mm/page_alloc.c:zone_watermark_ok, zone_watermark_ok_safe @6.1.192
        """
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        if not 0 <= order < MAX_ORDER or not 0 <= highest_zoneidx < MAX_NR_ZONES:
            raise ValueError(f"order {order}, zone index {highest_zoneidx}")
        if free_pages is None:
            free_pages = max(z.free_pages, 0)
        return bool(self.watermark_ok(z, order, mark, highest_zoneidx, alloc_flags, free_pages))
