# SPDX-License-Identifier: GPL-2.0-only
"""The buddy system: a zone's free blocks, their splitting, merging and stealing.

This is the part of the page allocator that the kernel runs under
``zone->lock``.  What comes before it (per-CPU lists, zone choice, watermarks)
is :mod:`kmem.mm.page_alloc`.

Free memory of a zone stands on one list for each order and migrate type.
List order is part of the state: which of two free blocks is taken, and so the
page frame a caller gets, depends on it.

Source: mm/page_alloc.c @6.1.192
"""

import cython
from cython.cimports.kmem.mm.mmzone import (
    WMARK_HIGH,
    ZONE_BOOSTED_WATERMARK,
    MemMap,
    PerCpuPages,
    Zone,
)
from cython.cimports.kmem.mm.page import (
    MAX_ORDER,
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    PG_ALLOCATED,
    PG_BUDDY,
    PG_FREE,
    PG_PCP,
    PGF_LRU,
    Page,
    list_add,
    list_add_tail,
    list_del,
)
from cython.cimports.kmem.mm.tracepoint import (
    TP_MM_PAGE_ALLOC_EXTFRAG,
    TP_MM_PAGE_ALLOC_ZONE_LOCKED,
    TraceRecord,
)

from kmem.mm.page import NO_PAGE
from kmem.mm.tracepoint import Tracepoints as NewTracepoints

_NONE = cython.declare(cython.uint, NO_PAGE)


@cython.cfunc
@cython.inline
@cython.exceptval(-1)
def fallback_type(migratetype: cython.uint, i: cython.int) -> cython.int:
    """The `i`-th migrate type to steal from, MIGRATE_TYPES at the end.

    Source: mm/page_alloc.c:fallbacks @6.1.192
    """
    if migratetype == MIGRATE_UNMOVABLE:
        return MIGRATE_RECLAIMABLE if i == 0 else (MIGRATE_MOVABLE if i == 1 else MIGRATE_TYPES)
    if migratetype == MIGRATE_MOVABLE:
        return MIGRATE_RECLAIMABLE if i == 0 else (MIGRATE_UNMOVABLE if i == 1 else MIGRATE_TYPES)
    if migratetype == MIGRATE_RECLAIMABLE:
        return MIGRATE_UNMOVABLE if i == 0 else (MIGRATE_MOVABLE if i == 1 else MIGRATE_TYPES)
    return MIGRATE_TYPES


@cython.cclass
class Buddy:
    """Free lists of all zones of one :class:`~kmem.mm.mmzone.MemMap`."""

    def __init__(self, memmap: MemMap):
        self.memmap = memmap
        self.trace = NewTracepoints()
        self.nr_cpus = memmap.nr_cpus
        self.pageblock_order = memmap.pageblock_order
        self.pageblock_nr_pages = 1 << memmap.pageblock_order
        self.watermark_boost_factor = 15000
        self.page_group_by_mobility_disabled = False
        self.cpu = 0
        self.reattach()

    def reattach(self):
        """Take the arrays of the memory map again, after they were replaced."""
        self.pages = self.memmap.pages
        self.zones = self.memmap.zones
        self.pagesets = self.memmap.pagesets
        self.pageblocks = self.memmap.pageblocks

    def mod_free_pages(self, zone, delta):
        """Change the zone's NR_FREE_PAGES by `delta`, through this CPU's difference.

        Source: mm/vmstat.c:__mod_zone_page_state @6.1.192
        """
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        pcp: cython.pointer(PerCpuPages) = cython.address(self.pagesets[z.pageset + self.cpu])
        x: cython.long = delta + pcp.stat_diff
        if x > z.stat_threshold or -x > z.stat_threshold:
            z.free_pages += x
            x = 0
        pcp.stat_diff = x
        return 0

    def mod_free_cma_pages(self, zone, delta):
        """The same for NR_FREE_CMA_PAGES."""
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        pcp: cython.pointer(PerCpuPages) = cython.address(self.pagesets[z.pageset + self.cpu])
        x: cython.long = delta + pcp.cma_diff
        if x > z.stat_threshold or -x > z.stat_threshold:
            z.free_cma_pages += x
            x = 0
        pcp.cma_diff = x
        return 0

    def del_page_from_free_list(self, pfn, zone, order):
        """Take a free block off its list."""
        list_del(self.pages, pfn)
        self.pages[pfn].kind = PG_FREE
        self.zones[zone].nr_free[order] -= 1
        return 0

    def isolate_free_page(self, pfn):
        """Take a free block out of its zone, to be used by whoever is arranging memory; the order of the block.

        The block is allocated afterwards. One that fills half a page block or more makes its page
        blocks movable, since what comes into it is.

        Raises
        ------
        ValueError
            If no free block begins at this frame.

        Source: mm/page_alloc.c:__isolate_free_page @6.1.192
        Differs: the caller has looked at the watermark.
        """
        first: cython.uint = pfn
        block: cython.uint
        index: cython.uint
        if self.pages[first].kind != PG_BUDDY:
            raise ValueError(f"no free block begins at frame {pfn}")
        zone: cython.uint = self.pages[first].zone
        order: cython.uint = self.pages[first].order
        index = (first >> self.pageblock_order) + self.zones[zone].block_offset
        self.del_page_from_free_list(first, zone, order)
        if self.pageblocks[index] != MIGRATE_ISOLATE:
            self.mod_free_pages(zone, -(cython.cast(cython.long, 1) << order))
            if self.pageblocks[index] == MIGRATE_CMA:
                self.mod_free_cma_pages(zone, -(cython.cast(cython.long, 1) << order))
        self.pages[first].kind = PG_ALLOCATED
        self.pages[first].order = order
        self.pages[first].flags = 0
        if order + 1 >= self.pageblock_order:
            for block in range(first, first + (1 << order), self.pageblock_nr_pages):
                index = (block >> self.pageblock_order) + self.zones[zone].block_offset
                if self.pageblocks[index] < MIGRATE_PCPTYPES:
                    self.pageblocks[index] = MIGRATE_MOVABLE
        return order

    def free_one_page(self, pfn, zone, order, migratetype, fpi):
        """Put a block on its free list, merged with its free buddies.

        The block goes to the head of the list, or to the tail if the buddy of
        the next order up is free too, since it is then likely to merge soon.

        Complexity: O(log(block of the highest order)).

        Source: mm/page_alloc.c:__free_one_page, buddy_merge_likely @6.1.192
        Differs: no page reporting, guard pages, shuffling or compaction capture.
        """
        page: cython.pointer(Page)
        buddy_pfn: cython.uint = 0
        buddy_mt: cython.uint
        head: cython.uint
        higher: cython.uint
        to_tail: cython.bint
        zone_u1: cython.uchar = zone
        if migratetype != MIGRATE_ISOLATE:
            self.mod_free_pages(zone, cython.cast(cython.long, 1) << order)
            if migratetype == MIGRATE_CMA:
                self.mod_free_cma_pages(zone, cython.cast(cython.long, 1) << order)
        while order < MAX_ORDER - 1:
            buddy_pfn = pfn ^ (cython.cast(cython.uint, 1) << order)
            page = cython.address(self.pages[buddy_pfn])
            if page.kind != PG_BUDDY or page.order != order or page.zone != zone_u1:
                break
            if order >= self.pageblock_order:
                # Free pages of HIGHATOMIC, ISOLATE and CMA blocks are counted by
                # block: they never merge with pages of another type.
                buddy_mt = self.pageblocks[(buddy_pfn >> self.pageblock_order) + self.zones[zone].block_offset]
                if migratetype != buddy_mt and (migratetype >= MIGRATE_PCPTYPES or buddy_mt >= MIGRATE_PCPTYPES):
                    break
            self.del_page_from_free_list(buddy_pfn, zone, order)
            self.pages[pfn].kind = PG_FREE
            pfn &= buddy_pfn
            order += 1
        page = cython.address(self.pages[pfn])
        page.kind = PG_BUDDY
        page.order = order
        to_tail = fpi & 2
        if not to_tail and order < MAX_ORDER - 2:
            higher = pfn & buddy_pfn
            # The pair may begin in the zone below (i386: HighMem starts anywhere).
            zone_u1 = self.pages[higher].zone
            page = cython.address(self.pages[higher ^ (cython.cast(cython.uint, 1) << (order + 1))])
            to_tail = page.kind == PG_BUDDY and page.order == order + 1 and page.zone == zone_u1
        head = self.zones[zone].lists + order * MIGRATE_TYPES + migratetype
        if to_tail:
            list_add_tail(self.pages, head, pfn)
        else:
            list_add(self.pages, head, pfn)
        self.zones[zone].nr_free[order] += 1
        return 0

    def rmqueue_smallest(self, zone, order, migratetype):
        """Take the smallest sufficient block of one migrate type, splitting it.

        Source: mm/page_alloc.c:__rmqueue_smallest, expand @6.1.192
        """
        current: cython.uint
        head: cython.uint
        pfn: cython.uint
        half: cython.uint
        lists: cython.uint = self.zones[zone].lists
        for current in range(order, MAX_ORDER):
            head = lists + current * MIGRATE_TYPES + migratetype
            pfn = self.pages[head].next
            if pfn == head:
                continue
            self.del_page_from_free_list(pfn, zone, current)
            while current > order:
                current -= 1
                half = pfn + (cython.cast(cython.uint, 1) << current)
                self.pages[half].kind = PG_BUDDY
                self.pages[half].order = current
                list_add(self.pages, lists + current * MIGRATE_TYPES + migratetype, half)
                self.zones[zone].nr_free[current] += 1
            self.pages[pfn].kind = PG_ALLOCATED
            self.pages[pfn].order = order
            self.pages[pfn].migratetype = migratetype
            if self.trace.enabled:
                self.trace.page_event(TP_MM_PAGE_ALLOC_ZONE_LOCKED, pfn, order, 0, migratetype, zone)
            return pfn
        return _NONE

    def rmqueue_zone(self, zone, order, migratetype, alloc_flags):
        """Take a block of `order` from the zone, stealing if its type has none.

        The caller accounts for the pages.

        Source: mm/page_alloc.c:__rmqueue @6.1.192
        """
        pfn: cython.uint
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        if alloc_flags & ALLOC_CMA and max(z.free_cma_pages, 0) > max(z.free_pages, 0) // 2:
            pfn = self.rmqueue_smallest(zone, order, MIGRATE_CMA)
            if pfn != _NONE:
                return pfn
        while True:
            pfn = self.rmqueue_smallest(zone, order, migratetype)
            if pfn != _NONE:
                return pfn
            if alloc_flags & ALLOC_CMA:
                pfn = self.rmqueue_smallest(zone, order, MIGRATE_CMA)
                if pfn != _NONE:
                    return pfn
            if not self.rmqueue_fallback(zone, order, migratetype, alloc_flags):
                return _NONE

    def rmqueue_bulk(self, zone, order, count, head, migratetype, alloc_flags):
        """Move up to `count` blocks to the tail of list `head`; return how many.

        Source: mm/page_alloc.c:rmqueue_bulk @6.1.192
        """
        allocated: cython.int = 0
        pfn: cython.uint
        while allocated < count:
            pfn = self.rmqueue_zone(zone, order, migratetype, alloc_flags)
            if pfn == _NONE:
                break
            self.pages[pfn].kind = PG_PCP
            list_add_tail(self.pages, head, pfn)
            allocated += 1
            if self.pages[pfn].migratetype == MIGRATE_CMA:
                self.mod_free_cma_pages(zone, -(cython.cast(cython.long, 1) << order))
        self.mod_free_pages(zone, -(cython.cast(cython.long, allocated) << order))
        return allocated

    def can_steal_fallback(self, order, migratetype):
        """Whether a request of this type may take a whole block over.

        Source: mm/page_alloc.c:can_steal_fallback @6.1.192
        """
        return (
            order >= self.pageblock_order // 2
            or migratetype == MIGRATE_RECLAIMABLE
            or migratetype == MIGRATE_UNMOVABLE
            or self.page_group_by_mobility_disabled
        )

    def find_suitable_fallback(self, zone, order, migratetype):
        """The first other type with a free block of exactly `order`, -1 if none.

        Source: mm/page_alloc.c:find_suitable_fallback @6.1.192
        """
        i: cython.int = 0
        other: cython.int
        head: cython.uint
        if self.zones[zone].nr_free[order] == 0:
            return -1
        while True:
            other = fallback_type(migratetype, i)
            if other == MIGRATE_TYPES:
                return -1
            head = self.zones[zone].lists + order * MIGRATE_TYPES + other
            if self.pages[head].next != head:
                return other
            i += 1

    def rmqueue_fallback(self, zone, order, migratetype, alloc_flags):
        """Put a block of another type on the free list of `migratetype`.

        Takes the largest such block, or the smallest sufficient one if a
        movable request may not claim the whole page block.

        Source: mm/page_alloc.c:__rmqueue_fallback @6.1.192
        """
        current: cython.int
        low: cython.int = order
        min_order: cython.int = order
        other: cython.int = -1
        can_steal: cython.bint = False
        pfn: cython.uint
        if order < self.pageblock_order and alloc_flags & ALLOC_NOFRAGMENT:
            min_order = self.pageblock_order
        for current in range(MAX_ORDER - 1, min_order - 1, -1):
            other = self.find_suitable_fallback(zone, current, migratetype)
            if other != -1:
                can_steal = self.can_steal_fallback(current, migratetype)
                break
        else:
            return False
        if not can_steal and migratetype == MIGRATE_MOVABLE and current > low:
            for current in range(low, MAX_ORDER):
                other = self.find_suitable_fallback(zone, current, migratetype)
                if other != -1:
                    can_steal = self.can_steal_fallback(current, migratetype)
                    break
        pfn = self.pages[self.zones[zone].lists + current * MIGRATE_TYPES + other].next
        self.nr_extfrag += 1
        self.steal_suitable_fallback(zone, pfn, alloc_flags, migratetype, can_steal)
        if self.trace.enabled >> TP_MM_PAGE_ALLOC_EXTFRAG & 1:
            record: cython.pointer(TraceRecord) = self.trace.emit(TP_MM_PAGE_ALLOC_EXTFRAG)
            record.ptr = pfn
            record.order = order
            record.migratetype = migratetype
            record.bytes_req = current
            record.bytes_alloc = other
            record.zone = zone
            record.gfp = 0
            record.cache = 0xFFFF
        return True

    def boost_watermark(self, zone):
        """Raise the zone's boost by a page block; whether it may be boosted.

        Source: mm/page_alloc.c:boost_watermark @6.1.192
        """
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        max_boost: cython.long
        high: cython.long = z.watermark[WMARK_HIGH]
        if not self.watermark_boost_factor:
            return False
        if cython.cast(cython.long, self.pageblock_nr_pages) * 4 > z.managed:
            return False
        # in two steps as the kernel's mult_frac, so that it rounds alike
        max_boost = high // 10000 * self.watermark_boost_factor + high % 10000 * self.watermark_boost_factor // 10000
        if not max_boost:
            return False
        max_boost = max(cython.cast(cython.long, self.pageblock_nr_pages), max_boost)
        z.watermark_boost = min(z.watermark_boost + self.pageblock_nr_pages, max_boost)
        return True

    def steal_suitable_fallback(self, zone, pfn, alloc_flags, start_type, whole_block):
        """Move a block, and if allowed its whole page block, to `start_type`.

        The page block changes its type when at least half of it is free or in
        use for the like.

        Source: mm/page_alloc.c:steal_suitable_fallback @6.1.192
        """
        current: cython.uint = self.pages[pfn].order
        block: cython.uint = (pfn >> self.pageblock_order) + self.zones[zone].block_offset
        old_type: cython.uint = self.pageblocks[block]
        free_pages: cython.int = 0
        movable: cython.int = 0
        alike: cython.int = 0
        i: cython.uint
        if old_type != MIGRATE_HIGHATOMIC:
            if current >= self.pageblock_order:
                for i in range(cython.cast(cython.uint, 1) << (current - self.pageblock_order)):
                    self.pageblocks[block + i] = start_type
            else:
                if self.boost_watermark(zone) and alloc_flags & ALLOC_KSWAPD:
                    self.zones[zone].flags |= ZONE_BOOSTED_WATERMARK
                if whole_block:
                    free_pages = self.move_freepages_block(zone, pfn, start_type, cython.address(movable))
        if free_pages:
            if start_type == MIGRATE_MOVABLE:
                alike = movable
            elif old_type == MIGRATE_MOVABLE:
                alike = cython.cast(cython.int, self.pageblock_nr_pages) - (free_pages + movable)
            if free_pages + alike >= 1 << (self.pageblock_order - 1) or self.page_group_by_mobility_disabled:
                self.pageblocks[block] = start_type
            return 0
        list_del(self.pages, pfn)
        list_add_tail(self.pages, self.zones[zone].lists + current * MIGRATE_TYPES + start_type, pfn)
        return 0

    def move_freepages_block(self, zone, pfn, migratetype, num_movable):
        """Move the free blocks of a page block to the tails of another type's lists.

        Returns the pages moved; counts in `num_movable`, unless NULL, the
        pages in use that could be migrated.

        Source: mm/page_alloc.c:move_freepages_block, move_freepages @6.1.192
        """
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        start: cython.uint = pfn & ~(self.pageblock_nr_pages - 1)
        end: cython.uint = start + self.pageblock_nr_pages
        page: cython.pointer(Page)
        moved: cython.int = 0
        order: cython.uint
        if num_movable != cython.NULL:
            num_movable[0] = 0
        if start < z.start_pfn:
            start = pfn
        if end > z.start_pfn + z.spanned:
            return 0
        pfn = start
        while pfn < end:
            page = cython.address(self.pages[pfn])
            if page.kind != PG_BUDDY:
                if num_movable != cython.NULL and page.flags & PGF_LRU:
                    num_movable[0] += 1
                pfn += 1
                continue
            order = page.order
            list_del(self.pages, pfn)
            list_add_tail(self.pages, z.lists + order * MIGRATE_TYPES + migratetype, pfn)
            pfn += cython.cast(cython.uint, 1) << order
            moved += 1 << order
        return moved

    def reserve_highatomic_pageblock(self, pfn, zone):
        """Reserve the page block of `pfn` for high-order atomic requests, within 1 %.

        Source: mm/page_alloc.c:reserve_highatomic_pageblock @6.1.192
        """
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        limit: cython.long = cython.cast(cython.long, z.managed) // 100 + self.pageblock_nr_pages
        if z.nr_reserved_highatomic >= limit:
            return 0
        block: cython.uint = (pfn >> self.pageblock_order) + z.block_offset
        if self.pageblocks[block] < MIGRATE_PCPTYPES:
            z.nr_reserved_highatomic += self.pageblock_nr_pages
            self.pageblocks[block] = MIGRATE_HIGHATOMIC
            self.move_freepages_block(zone, pfn, MIGRATE_HIGHATOMIC, cython.NULL)
        return 0

    def unreserve_highatomic_zone(self, zone, migratetype, force):
        """Give one reserved page block back to `migratetype`; pages moved (0: none).

        Source: mm/page_alloc.c:unreserve_highatomic_pageblock @6.1.192
        """
        z: cython.pointer(Zone) = cython.address(self.zones[zone])
        order: cython.uint
        head: cython.uint
        pfn: cython.uint
        block: cython.uint
        moved: cython.int
        if not force and z.nr_reserved_highatomic <= self.pageblock_nr_pages:
            return 0
        for order in range(MAX_ORDER):
            head = z.lists + order * MIGRATE_TYPES + MIGRATE_HIGHATOMIC
            pfn = self.pages[head].next
            if pfn == head:
                continue
            block = (pfn >> self.pageblock_order) + z.block_offset
            if self.pageblocks[block] == MIGRATE_HIGHATOMIC:
                z.nr_reserved_highatomic -= min(
                    cython.cast(cython.long, self.pageblock_nr_pages), z.nr_reserved_highatomic
                )
            self.pageblocks[block] = migratetype
            moved = self.move_freepages_block(zone, pfn, migratetype, cython.NULL)
            if moved:
                return moved
        return 0
