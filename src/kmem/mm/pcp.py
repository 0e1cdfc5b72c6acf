# SPDX-License-Identifier: GPL-2.0-only
"""Per-CPU page lists: the stock of free pages that each CPU keeps of each zone.

Blocks of order 0 to 3, and of page-block order for huge pages, are taken from
and given to these lists; the buddy system (:mod:`kmem.mm.buddy`) is asked only
to refill or to take back many at once.

Source: mm/page_alloc.c (pcplists) @6.1.192
"""

import cython
from cython.cimports.kmem.mm.buddy import FPI_NONE, Buddy
from cython.cimports.kmem.mm.mmzone import ZONE_RECLAIM_ACTIVE, MemMap, PerCpuPages, Zone
from cython.cimports.kmem.mm.page import (
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    NR_LOWORDER_PCP_LISTS,
    NR_PCP_LISTS,
    PAGE_ALLOC_COSTLY_ORDER,
    PG_PCP,
    Page,
    list_add,
    list_del,
)
from cython.cimports.kmem.mm.tracepoint import TP_MM_PAGE_PCPU_DRAIN

from kmem.mm.page import NO_PAGE

_NONE = cython.declare(cython.uint, NO_PAGE)
#: CONFIG_PCP_BATCH_SCALE_MAX: at most this many doublings of a batch.
PCP_BATCH_SCALE_MAX = cython.declare(cython.int, 5)


@cython.cclass
class PcpLists(Buddy):
    """The per-CPU lists of all zones and CPUs of one :class:`~kmem.mm.mmzone.MemMap`."""

    def __init__(self, memmap: MemMap):
        Buddy.__init__(self, memmap)
        self.pcp_thp = True

    def rmqueue_pcplist(self, zone, order, alloc_flags, migratetype, decay):
        """Take a block from this CPU's list, refilled from the zone if empty.

        Source: mm/page_alloc.c:rmqueue_pcplist, __rmqueue_pcplist @6.1.192
        """
        pcp: cython.pointer(PerCpuPages) = cython.address(self.pagesets[self.zones[zone].pageset + self.cpu])
        pindex: cython.uint = 3 * order + migratetype
        head: cython.uint
        pfn: cython.uint
        batch: cython.int
        if order > PAGE_ALLOC_COSTLY_ORDER:
            pindex = NR_LOWORDER_PCP_LISTS + (migratetype == MIGRATE_MOVABLE)
        if decay:
            pcp.free_factor >>= 1
        head = pcp.lists + pindex
        pfn = self.pages[head].next
        if pfn == head:
            batch = pcp.batch
            if batch > 1:
                batch = max(batch >> order, 2)
            pcp.count += self.rmqueue_bulk(zone, order, batch, head, migratetype, alloc_flags) << order
            pfn = self.pages[head].next
            if pfn == head:
                return _NONE
        list_del(self.pages, pfn)
        pcp.count -= 1 << order
        return pfn

    def free_unref_page(self, pfn, order):
        """Put a block on this CPU's list, and some of the list back into the zone if it is full.

        Source: mm/page_alloc.c:free_unref_page, free_unref_page_commit @6.1.192
        """
        page: cython.pointer(Page) = cython.address(self.pages[pfn])
        zone: cython.uint = page.zone
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        pcp: cython.pointer(PerCpuPages) = cython.address(self.pagesets[z.pageset + self.cpu])
        migratetype: cython.uint = self.pageblocks[(pfn >> self.pageblock_order) + z.block_offset]
        pindex: cython.int
        high: cython.int
        free_high: cython.bint
        page.migratetype = migratetype
        if migratetype >= MIGRATE_PCPTYPES:
            if migratetype == MIGRATE_ISOLATE:
                return self.free_one_page(pfn, zone, order, migratetype, FPI_NONE)
            migratetype = MIGRATE_MOVABLE
        pindex = 3 * order + migratetype
        if order > PAGE_ALLOC_COSTLY_ORDER:
            pindex = NR_LOWORDER_PCP_LISTS + (migratetype == MIGRATE_MOVABLE)
        page.kind = PG_PCP
        list_add(self.pages, pcp.lists + pindex, pfn)
        pcp.count += 1 << order
        free_high = pcp.free_factor and order and order <= PAGE_ALLOC_COSTLY_ORDER
        high = 0 if free_high else pcp.high
        if high and z.flags & ZONE_RECLAIM_ACTIVE:
            high = min(pcp.batch << 2, high)
        if pcp.count >= high:
            self.free_pcppages_bulk(zone, self.nr_pcp_free(pcp, high, free_high), pcp, pindex)
        return 0

    def nr_pcp_free(self, pcp, high, free_high):
        """How many pages to move from the per-CPU lists to the zone.

        Doubles with each time in a row.

        Source: mm/page_alloc.c:nr_pcp_free @6.1.192
        """
        batch: cython.int = pcp.batch
        most: cython.int = high - batch
        if free_high:
            return pcp.count
        if high < batch:
            return 1
        batch <<= pcp.free_factor
        if batch < most and pcp.free_factor < PCP_BATCH_SCALE_MAX:
            pcp.free_factor += 1
        return min(max(batch, pcp.batch), most)

    def free_pcppages_bulk(self, zone, count, pcp, pindex):
        """Move `count` pages from the tails of the per-CPU lists to the zone.

        Starts at list `pindex` and empties one list after the other; lists
        found empty at either end are not looked at again.

        Source: mm/page_alloc.c:free_pcppages_bulk @6.1.192
        """
        low: cython.int = 0
        high: cython.int = NR_PCP_LISTS - 1
        head: cython.uint
        pfn: cython.uint
        order: cython.uint
        mt: cython.uint
        count = min(pcp.count, count)
        pindex -= 1
        while count > 0:
            while True:
                pindex += 1
                if pindex > high:
                    pindex = low
                head = pcp.lists + pindex
                if self.pages[head].next != head:
                    break
                if pindex == high:
                    high -= 1
                if pindex == low:
                    low += 1
                if low > high:
                    raise RuntimeError(f"zone {zone}: per-CPU lists hold fewer pages than their count says")
            order = self.pageblock_order if pindex >= NR_LOWORDER_PCP_LISTS else pindex // 3
            while count > 0:
                pfn = self.pages[head].prev
                if pfn == head:
                    break
                list_del(self.pages, pfn)
                count -= 1 << order
                pcp.count -= 1 << order
                mt = self.pages[pfn].migratetype
                if self.zones[zone].nr_isolate_pageblock:
                    mt = self.pageblocks[(pfn >> self.pageblock_order) + self.zones[zone].block_offset]
                self.free_one_page(pfn, zone, order, mt, FPI_NONE)
                if self.trace.enabled:
                    self.trace.page_event(TP_MM_PAGE_PCPU_DRAIN, pfn, order, 0, mt, zone)
        return 0

    def drain_pages(self, cpu=None, zone=-1):
        """Empty a CPU's lists of one zone, or of all (-1), run on that CPU (the current one if None).

        Source: mm/page_alloc.c:drain_local_pages, drain_pages_zone @6.1.192
        """
        here: cython.int = self.cpu
        self.cpu = here if cpu is None else cpu
        if not 0 <= self.cpu < self.nr_cpus:
            self.cpu = here
            raise ValueError(f"no CPU {cpu}")
        try:
            self._drain(self.cpu, zone)
        finally:
            self.cpu = here

    def drain_all_pages(self, zone=-1):
        """Empty the lists of all CPUs, of one zone or of all (-1); the CPU that does it counts the freed pages.

        Source: mm/page_alloc.c:drain_all_pages @6.1.192
        """
        for cpu in range(self.nr_cpus):
            self._drain(cpu, zone)

    def _drain(self, cpu: cython.int, only: cython.int):
        """Empty the lists of `cpu` (of zone `only`, if that is one), working on this CPU.

        Source: mm/page_alloc.c:drain_pages, drain_pages_zone @6.1.192
        """
        zone: cython.uint
        pcp: cython.pointer(PerCpuPages)
        for zone in range(self.memmap.nr_zones):
            if only >= 0 and cython.cast(cython.int, zone) != only:
                continue
            pcp = cython.address(self.pagesets[self.zones[zone].pageset + cpu])
            while pcp.count:
                self.free_pcppages_bulk(zone, min(pcp.count, pcp.batch << PCP_BATCH_SCALE_MAX), pcp, 0)
