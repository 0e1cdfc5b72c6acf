# SPDX-License-Identifier: GPL-2.0-only
"""O(n) checks of the page allocator's state, for tests and doubt.

What the kernel asserts under CONFIG_DEBUG_VM one page at a time is checked
here for the whole machine at once: every list closes and holds what it says,
counters agree with lists, no two free buddies are left unmerged, and no page
is lost: free + per-CPU + allocated + in use by others = managed.
"""

import cython
from cython.cimports.kmem.mm.mmzone import PerCpuPages, Zone
from cython.cimports.kmem.mm.page import (
    MAX_ORDER,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_TYPES,
    NR_LOWORDER_PCP_LISTS,
    NR_PCP_LISTS,
    PG_ALLOCATED,
    PG_BUDDY,
    PG_LARGE,
    PG_PCP,
    PG_TAIL,
    Page,
)
from cython.cimports.kmem.mm.page_alloc import PageAllocator

from kmem.errors import StateError


def validate_pages(allocator: PageAllocator):
    """Check every zone of a page allocator.

    Raises
    ------
    kmem.errors.StateError
        At the first thing that is wrong, with the frame or list and the zone.

    Notes
    -----
    Complexity: O(frames of the machine).
    """
    zone: cython.uint
    for zone in range(allocator.memmap.nr_zones):
        if allocator.zones[zone].spanned:
            _Zone(allocator, zone).run()


@cython.cclass
class _Zone:
    """The checks of one zone."""

    allocator = cython.declare(PageAllocator)
    zone = cython.declare(cython.uint)
    isolated = cython.declare(cython.long)

    def __init__(self, allocator: PageAllocator, zone: cython.uint):
        self.allocator = allocator
        self.zone = zone
        self.isolated = 0

    def fail(self, what):
        z: cython.pointer(Zone) = cython.address(self.allocator.zones[self.zone])
        raise StateError(f"zone {self.allocator.memmap.zone_name(self.zone)}, node {z.node}: {what}")

    def run(self):
        free_pages: cython.long = self.free_lists()
        pcp_pages: cython.long = self.page_sets()
        self.frames(free_pages, pcp_pages)

    @cython.cfunc
    def walk(self, head: cython.uint, kind: cython.uint, order: cython.uint) -> cython.long:
        """Length of a list of blocks of `kind` and `order`."""
        z: cython.pointer(Zone) = cython.address(self.allocator.zones[self.zone])
        entry: cython.uint = self.allocator.pages[head].next
        before: cython.uint = head
        page: cython.pointer(Page)
        length: cython.long = 0
        while entry != head:
            page = cython.address(self.allocator.pages[entry])
            if page.prev != before:
                self.fail(f"frame {entry} links back to {page.prev}, not to {before}")
            if page.kind != kind or page.order != order or page.zone != self.zone:
                self.fail(
                    f"frame {entry} is on a list for kind {kind}, order {order}, but is of kind {page.kind}, "
                    f"order {page.order}, zone {page.zone}"
                )
            if entry & ((1 << order) - 1) or entry < z.start_pfn or entry + (1 << order) > z.start_pfn + z.spanned:
                self.fail(f"block of order {order} at frame {entry} is misplaced")
            length += 1
            if length > z.spanned:
                self.fail(f"list {head} does not close")
            before = entry
            entry = page.next
        if self.allocator.pages[head].prev != before:
            self.fail(f"list {head} ends at {self.allocator.pages[head].prev}, not at {before}")
        return length

    @cython.cfunc
    def free_lists(self) -> cython.long:
        """Check the free lists and counters; pages on them."""
        z: cython.pointer(Zone) = cython.address(self.allocator.zones[self.zone])
        order: cython.uint
        mt: cython.uint
        blocks: cython.long
        length: cython.long
        total: cython.long = 0
        cma: cython.long = 0
        counted: cython.long = z.free_pages
        counted_cma: cython.long = z.free_cma_pages
        cpu: cython.int
        for order in range(MAX_ORDER):
            blocks = 0
            for mt in range(MIGRATE_TYPES):
                length = self.walk(z.lists + order * MIGRATE_TYPES + mt, PG_BUDDY, order)
                blocks += length
                if mt == MIGRATE_ISOLATE:
                    self.isolated += length << order
                if mt == MIGRATE_CMA:
                    cma += length << order
            if blocks != z.nr_free[order]:
                self.fail(f"nr_free of order {order} is {z.nr_free[order]}, but {blocks} blocks are listed")
            total += blocks << order
        for cpu in range(self.allocator.nr_cpus):
            counted += self.allocator.pagesets[z.pageset + cpu].stat_diff
            counted_cma += self.allocator.pagesets[z.pageset + cpu].cma_diff
        if counted != total - self.isolated:
            self.fail(f"NR_FREE_PAGES is {counted}, but {total - self.isolated} pages are on the free lists")
        if counted_cma != cma:
            self.fail(f"NR_FREE_CMA_PAGES is {counted_cma}, but {cma} such pages are on the free lists")
        return total

    @cython.cfunc
    def page_sets(self) -> cython.long:
        """Check the per-CPU lists; pages on them."""
        z: cython.pointer(Zone) = cython.address(self.allocator.zones[self.zone])
        pcp: cython.pointer(PerCpuPages)
        cpu: cython.int
        pindex: cython.uint
        order: cython.uint
        pages: cython.long
        total: cython.long = 0
        for cpu in range(self.allocator.nr_cpus):
            pcp = cython.address(self.allocator.pagesets[z.pageset + cpu])
            pages = 0
            for pindex in range(NR_PCP_LISTS):
                order = self.allocator.pageblock_order if pindex >= NR_LOWORDER_PCP_LISTS else pindex // 3
                pages += self.walk(pcp.lists + pindex, PG_PCP, order) << order
            if pages != pcp.count:
                self.fail(f"CPU {cpu}: pcp count is {pcp.count}, but {pages} pages are listed")
            if pcp.stat_diff > z.stat_threshold or -pcp.stat_diff > z.stat_threshold:
                self.fail(f"CPU {cpu}: difference {pcp.stat_diff} is beyond the threshold {z.stat_threshold}")
            total += pages
        return total

    @cython.cfunc
    def frames(self, free_pages: cython.long, pcp_pages: cython.long) -> cython.int:
        """Walk the zone's frames: no overlap, no unmerged buddies, no page lost."""
        z: cython.pointer(Zone) = cython.address(self.allocator.zones[self.zone])
        pfn: cython.uint = z.start_pfn
        end: cython.uint = z.start_pfn + z.spanned
        covered: cython.uint = pfn
        page: cython.pointer(Page)
        found_free: cython.long = 0
        found_pcp: cython.long = 0
        allocated: cython.long = 0
        for pfn in range(z.start_pfn, end):
            page = cython.address(self.allocator.pages[pfn])
            if page.zone != self.zone:
                continue
            if page.kind != PG_BUDDY and page.kind != PG_PCP and not PG_ALLOCATED <= page.kind <= PG_LARGE:
                if page.kind == PG_TAIL and pfn >= covered:
                    self.fail(f"frame {pfn} is a tail, but no block covers it")
                continue
            if pfn < covered:
                self.fail(f"frame {pfn} heads a block inside another block")
            covered = pfn + (cython.cast(cython.uint, 1) << page.order)
            if page.kind == PG_BUDDY:
                found_free += covered - pfn
                self.unmerged(pfn, page.order)
            elif page.kind == PG_PCP:
                found_pcp += covered - pfn
            else:
                allocated += covered - pfn
        if found_free != free_pages:
            self.fail(f"{found_free} pages are in free blocks, but {free_pages} on free lists")
        if found_pcp != pcp_pages:
            self.fail(f"{found_pcp} pages are marked as per-CPU, but {pcp_pages} on per-CPU lists")
        if found_free + found_pcp + allocated + z.foreign != z.managed:
            self.fail(
                f"free {found_free} + per-CPU {found_pcp} + allocated {allocated} + in use by others {z.foreign} "
                f"is not managed {z.managed}"
            )
        return 0

    @cython.cfunc
    def unmerged(self, pfn: cython.uint, order: cython.uint) -> cython.int:
        """Fail if the block's buddy is free too and should have merged with it.

        Whole page blocks may stay apart: a block that was HIGHATOMIC when its
        buddy was freed does not merge when it becomes an ordinary one again.
        """
        a = self.allocator
        buddy: cython.uint = pfn ^ (cython.cast(cython.uint, 1) << order)
        if order >= a.pageblock_order:
            return 0
        if a.pages[buddy].kind != PG_BUDDY or a.pages[buddy].order != order or a.pages[buddy].zone != self.zone:
            return 0
        self.fail(f"free blocks of order {order} at frames {min(pfn, buddy)} and {max(pfn, buddy)} are not merged")
        return 0
