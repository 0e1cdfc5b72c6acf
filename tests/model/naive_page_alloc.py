# SPDX-License-Identifier: GPL-2.0-only
"""A naive page allocator: what Linux 6.1 does, said as plainly as Python can say it.

It exists to be compared with the compiled one.  It was written from the kernel's source alone and shares no code and
no data layout with it: free lists are ordered dictionaries, per-CPU lists are deques, page blocks are a Python list.
Nothing in it is clever, so that where the two disagree, this is the one to read first.

Source: mm/page_alloc.c, mm/vmstat.c, mm/page_isolation.c, include/linux/{gfp,gfp_types,mmzone}.h @6.1.192
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .naive_zone import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    ALLOC_WMARK_MASK,
    CMA,
    COSTLY_ORDER,
    FALLBACKS,
    GFP_ATOMIC,
    GFP_COMP,
    GFP_DIRECT_RECLAIM,
    GFP_HIGH,
    GFP_HIGHMEM,
    GFP_IO,
    GFP_KSWAPD_RECLAIM,
    GFP_MEMALLOC,
    GFP_MOVABLE,
    GFP_NOFAIL,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_RECLAIMABLE,
    GFP_RETRY_MAYFAIL,
    GFP_THISNODE,
    HIGHATOMIC,
    ISOLATE,
    MAX_ORDER,
    MAX_RECLAIM_RETRIES,
    MIGRATE_TYPES,
    MOVABLE,
    NR_LOWORDER_PCP_LISTS,
    NR_PCP_LISTS,
    PAGE_SHIFT,
    PCP_BATCH_SCALE_MAX,
    PCPTYPES,
    RECLAIMABLE,
    UNMOVABLE,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    ZONE_BOOSTED_WATERMARK,
    ZONE_RECLAIM_ACTIVE,
    PcpSet,
    Zone,
)


class WouldLoopForever(Exception):
    """A request that must not fail finds nothing: the kernel would try again and again."""


@dataclass(slots=True)
class AllocContext:
    """What one request has worked out about itself."""

    zonelist: list[Zone]  # only zones at or below highest_zoneidx
    highest_zoneidx: int
    migratetype: int


class NaivePageAllocator:
    """The zones of a machine and the requests on them.

    Parameters
    ----------
    zones
        Every populated zone.
    zonelists
        For each node: the fallback order, and the order for __GFP_THISNODE.
    pageblock_order
        9 on amd64, 10 on i386.
    zone_normal
        Index of ZONE_NORMAL: 2 with a DMA32 zone type, else 1.
    has_dma32, has_highmem, cma
        Build options of the kernel.
    cpu_node
        The node of each CPU.
    """

    def __init__(
        self,
        zones: list[Zone],
        zonelists: Sequence[tuple[list[Zone], list[Zone]]],
        *,
        pageblock_order: int,
        nr_online_nodes: int = 1,
        has_dma32: bool = True,
        has_highmem: bool = False,
        cma: bool = False,
        cpu_node: Sequence[int] = (0,),
        watermark_boost_factor: int = 15000,
        page_group_by_mobility_disabled: bool = False,
    ) -> None:
        self.zones = sorted(zones, key=lambda zone: zone.start_pfn)
        self.zone_ends = [zone.end_pfn for zone in self.zones]
        self.pageblock_order = pageblock_order
        self.pageblock_nr_pages = 1 << pageblock_order
        self.nr_online_nodes = nr_online_nodes
        self.has_dma32 = has_dma32
        self.cma = cma
        self.cpu_node = list(cpu_node)
        self.watermark_boost_factor = watermark_boost_factor
        self.page_group_by_mobility_disabled = page_group_by_mobility_disabled
        self.pf_memalloc = False  # the current task has PF_MEMALLOC
        self.lru: set[int] = set()  # frames in use that could be migrated
        self.pcp_type: dict[int, int] = {}  # page->index of the blocks on per-CPU lists
        self.allocated: dict[int, int] = {}  # blocks given out: frame -> order
        self.pfmemalloc: set[int] = set()  # of those, the ones that ignored the watermarks

        zone_normal = 2 if has_dma32 else 1
        highmem = zone_normal + 1 if has_highmem else zone_normal
        movable = zone_normal + 1 + has_highmem
        dma32 = 1 if has_dma32 else zone_normal
        self.zone_normal = zone_normal
        self.zone_of_gfp = {0: zone_normal, 1: 0, 2: highmem, 4: dma32, 8: zone_normal, 9: 0, 10: movable, 12: dma32}
        self.populated = {(zone.node, zone.index) for zone in zones}
        # zonelist[node][thisnode][highest zone index]
        self.zonelist = [
            [[[zone for zone in row if zone.index <= highest] for highest in range(movable + 1)] for row in rows]
            for rows in zonelists
        ]

    # ---- page blocks and counters

    def zone_of(self, pfn: int) -> Zone:
        """The zone that the frame's page record names; a hole belongs to the zone behind it."""
        return self.zones[min(bisect_right(self.zone_ends, pfn), len(self.zones) - 1)]

    def get_pageblock_migratetype(self, zone: Zone, pfn: int) -> int:
        mt = zone.block_types[(pfn >> self.pageblock_order) - (zone.start_pfn >> self.pageblock_order)]
        assert mt is not None, f"page block of frame {pfn} has no memory"
        return mt

    def set_pageblock_migratetype(self, zone: Zone, pfn: int, mt: int) -> None:
        if self.page_group_by_mobility_disabled and mt < PCPTYPES:
            mt = UNMOVABLE
        zone.block_types[(pfn >> self.pageblock_order) - (zone.start_pfn >> self.pageblock_order)] = mt

    def mod_free_pages(self, zone: Zone, delta: int, cpu: int) -> None:
        """NR_FREE_PAGES: kept on the CPU until it is more than the threshold, then folded whole."""
        pcp = zone.pcp[cpu]
        diff = pcp.free_diff + delta
        if abs(diff) > pcp.stat_threshold:
            zone.free_pages += diff
            diff = 0
        pcp.free_diff = diff

    def mod_free_cma_pages(self, zone: Zone, delta: int, cpu: int) -> None:
        pcp = zone.pcp[cpu]
        diff = pcp.cma_diff + delta
        if abs(diff) > pcp.stat_threshold:
            zone.free_cma_pages += diff
            diff = 0
        pcp.cma_diff = diff

    def mod_freepage_state(self, zone: Zone, delta: int, mt: int, cpu: int) -> None:
        self.mod_free_pages(zone, delta, cpu)
        if mt == CMA:
            self.mod_free_cma_pages(zone, delta, cpu)

    # ---- free lists

    def add_to_free_list(self, zone: Zone, pfn: int, order: int, mt: int, *, tail: bool = False) -> None:
        free_list = zone.free_list[order][mt]
        if tail:
            free_list.add_tail(pfn)
        else:
            free_list.add(pfn)
        zone.buddy[pfn] = free_list
        zone.nr_free[order] += 1

    def move_to_free_list(self, zone: Zone, pfn: int, mt: int) -> None:
        """A free block goes to the tail of another list of its order (or of its own)."""
        old = zone.buddy[pfn]
        del old[pfn]
        new = zone.free_list[old.order][mt]
        new.add_tail(pfn)
        zone.buddy[pfn] = new

    def del_page_from_free_list(self, zone: Zone, pfn: int) -> int:
        """Take a free block off its list; its order."""
        free_list = zone.buddy.pop(pfn)
        del free_list[pfn]
        zone.nr_free[free_list.order] -= 1
        return free_list.order

    def buddy_merge_likely(self, zone: Zone, pfn: int, buddy_pfn: int, order: int) -> bool:
        """The buddy of the next order is free: this block may soon be part of something bigger."""
        if order >= MAX_ORDER - 2:
            return False
        higher_pfn = pfn & buddy_pfn
        if not zone.spans(higher_pfn):
            zone = self.zone_of(higher_pfn)
        other = zone.buddy.get(higher_pfn ^ (1 << (order + 1)))
        return other is not None and other.order == order + 1

    def free_one_page(
        self, zone: Zone, pfn: int, order: int, mt: int, cpu: int, *, to_tail: bool = False, account: bool = True
    ) -> None:
        """__free_one_page: merge with free buddies, then on to a list."""
        if account and mt != ISOLATE:
            self.mod_freepage_state(zone, 1 << order, mt, cpu)
        buddy_pfn = 0
        while order < MAX_ORDER - 1:
            buddy_pfn = pfn ^ (1 << order)
            buddy = zone.buddy.get(buddy_pfn)
            if buddy is None or buddy.order != order:
                break
            if order >= self.pageblock_order:
                buddy_mt = self.get_pageblock_migratetype(zone, buddy_pfn)
                if mt != buddy_mt and (mt >= PCPTYPES or buddy_mt >= PCPTYPES):
                    break
            self.del_page_from_free_list(zone, buddy_pfn)
            pfn &= buddy_pfn
            order += 1
        tail = to_tail or self.buddy_merge_likely(zone, pfn, buddy_pfn, order)
        self.add_to_free_list(zone, pfn, order, mt, tail=tail)

    def rmqueue_smallest(self, zone: Zone, order: int, mt: int) -> int | None:
        """The first block of the smallest sufficient order, what is left over given back half by half."""
        for current in range(order, MAX_ORDER):
            free_list = zone.free_list[current][mt]
            if not free_list:
                continue
            pfn = next(iter(free_list))
            self.del_page_from_free_list(zone, pfn)
            while current > order:
                current -= 1
                self.add_to_free_list(zone, pfn + (1 << current), current, mt)
            self.pcp_type[pfn] = mt
            return pfn
        return None

    # ---- fallback: blocks of another migrate type

    def move_freepages_block(self, zone: Zone, pfn: int, mt: int) -> tuple[int, int]:
        """All free blocks of the page block of `pfn` to the lists of `mt`: (frames moved, movable frames in use)."""
        start = pfn & -self.pageblock_nr_pages
        end = start + self.pageblock_nr_pages
        if not zone.spans(start):
            start = pfn
        if not zone.spans(end - 1):
            return 0, 0
        moved = movable = 0
        at = start
        while at < end:
            free_list = zone.buddy.get(at)
            if free_list is None:
                movable += at in self.lru
                at += 1
                continue
            self.move_to_free_list(zone, at, mt)
            moved += 1 << free_list.order
            at += 1 << free_list.order
        return moved, movable

    def can_steal_fallback(self, order: int, start_mt: int) -> bool:
        return (
            order >= self.pageblock_order // 2
            or start_mt in (RECLAIMABLE, UNMOVABLE)
            or self.page_group_by_mobility_disabled
        )

    def find_suitable_fallback(self, zone: Zone, order: int, mt: int) -> int | None:
        """The first migrate type in the fallback order that has a free block of exactly `order`."""
        if zone.nr_free[order]:
            for fallback in FALLBACKS.get(mt, ()):
                if zone.free_list[order][fallback]:
                    return fallback
        return None

    def boost_watermark(self, zone: Zone) -> bool:
        if not self.watermark_boost_factor or self.pageblock_nr_pages * 4 > zone.managed:
            return False
        max_boost = zone.watermark[WMARK_HIGH] * self.watermark_boost_factor // 10000
        if not max_boost:
            return False
        max_boost = max(self.pageblock_nr_pages, max_boost)
        zone.boost = min(zone.boost + self.pageblock_nr_pages, max_boost)
        return True

    def steal_suitable_fallback(self, zone: Zone, pfn: int, alloc_flags: int, start_mt: int, whole_block: bool) -> None:
        """Make the free block at `pfn` one of `start_mt`, with more of its page block if that pays."""
        order = zone.buddy[pfn].order
        old_block_type = self.get_pageblock_migratetype(zone, pfn)
        if old_block_type == HIGHATOMIC:
            return self.move_to_free_list(zone, pfn, start_mt)
        if order >= self.pageblock_order:
            for block_pfn in range(pfn, pfn + (1 << order), self.pageblock_nr_pages):
                self.set_pageblock_migratetype(zone, block_pfn, start_mt)
            return self.move_to_free_list(zone, pfn, start_mt)
        if self.boost_watermark(zone) and alloc_flags & ALLOC_KSWAPD:
            zone.flags |= ZONE_BOOSTED_WATERMARK
        if not whole_block:
            return self.move_to_free_list(zone, pfn, start_mt)

        moved, movable = self.move_freepages_block(zone, pfn, start_mt)
        if not moved:  # the page block crosses the end of the zone
            return self.move_to_free_list(zone, pfn, start_mt)
        if start_mt == MOVABLE:
            alike = movable
        elif old_block_type == MOVABLE:
            alike = self.pageblock_nr_pages - moved - movable
        else:
            alike = 0
        if moved + alike >= self.pageblock_nr_pages // 2 or self.page_group_by_mobility_disabled:
            self.set_pageblock_migratetype(zone, pfn, start_mt)
        return None

    def rmqueue_fallback(self, zone: Zone, order: int, mt: int, alloc_flags: int) -> bool:
        """Bring a block of another type to the lists of `mt`: the largest, or for movable pages the smallest."""
        min_order = order
        if order < self.pageblock_order and alloc_flags & ALLOC_NOFRAGMENT:
            min_order = self.pageblock_order
        for current in range(MAX_ORDER - 1, min_order - 1, -1):
            fallback = self.find_suitable_fallback(zone, current, mt)
            if fallback is None:
                continue
            can_steal = self.can_steal_fallback(current, mt)
            if not can_steal and mt == MOVABLE and current > order:
                for current in range(order, MAX_ORDER):
                    fallback = self.find_suitable_fallback(zone, current, mt)
                    if fallback is not None:
                        break
                can_steal = self.can_steal_fallback(current, mt)
            assert fallback is not None
            pfn = next(iter(zone.free_list[current][fallback]))
            self.steal_suitable_fallback(zone, pfn, alloc_flags, mt, can_steal)
            return True
        return False

    def rmqueue(self, zone: Zone, order: int, mt: int, alloc_flags: int) -> int | None:
        """__rmqueue: a block off the buddy lists, from another migrate type if need be."""
        if alloc_flags & ALLOC_CMA and max(zone.free_cma_pages, 0) > max(zone.free_pages, 0) // 2:
            pfn = self.rmqueue_smallest(zone, order, CMA)
            if pfn is not None:
                return pfn
        while True:
            pfn = self.rmqueue_smallest(zone, order, mt)
            if pfn is None and alloc_flags & ALLOC_CMA:
                pfn = self.rmqueue_smallest(zone, order, CMA)
            if pfn is not None or not self.rmqueue_fallback(zone, order, mt, alloc_flags):
                return pfn

    # ---- the high-atomic reserve

    def reserve_highatomic_pageblock(self, zone: Zone, pfn: int) -> None:
        if zone.nr_reserved_highatomic >= zone.managed // 100 + self.pageblock_nr_pages:
            return
        if self.get_pageblock_migratetype(zone, pfn) < PCPTYPES:
            zone.nr_reserved_highatomic += self.pageblock_nr_pages
            self.set_pageblock_migratetype(zone, pfn, HIGHATOMIC)
            self.move_freepages_block(zone, pfn, HIGHATOMIC)

    def unreserve_highatomic_pageblock(self, ac: AllocContext, *, force: bool) -> bool:
        for zone in ac.zonelist:
            if not force and zone.nr_reserved_highatomic <= self.pageblock_nr_pages:
                continue
            for order in range(MAX_ORDER):
                free_list = zone.free_list[order][HIGHATOMIC]
                if not free_list:
                    continue
                pfn = next(iter(free_list))
                if self.get_pageblock_migratetype(zone, pfn) == HIGHATOMIC:
                    zone.nr_reserved_highatomic -= min(self.pageblock_nr_pages, zone.nr_reserved_highatomic)
                self.set_pageblock_migratetype(zone, pfn, ac.migratetype)
                moved, _ = self.move_freepages_block(zone, pfn, ac.migratetype)
                if moved:
                    return True
        return False

    # ---- per-CPU lists

    def pindex(self, mt: int, order: int) -> int:
        if order > COSTLY_ORDER:
            return NR_LOWORDER_PCP_LISTS + (mt == MOVABLE)
        return PCPTYPES * order + mt

    def pcp_order(self, pindex: int) -> int:
        return self.pageblock_order if pindex >= NR_LOWORDER_PCP_LISTS else pindex // PCPTYPES

    def rmqueue_bulk(self, zone: Zone, order: int, count: int, mt: int, alloc_flags: int, cpu: int) -> list[int]:
        """Up to `count` blocks off the buddy lists; the free pages are counted down once for all of them."""
        taken: list[int] = []
        while len(taken) < count:
            pfn = self.rmqueue(zone, order, mt, alloc_flags)
            if pfn is None:
                break
            taken.append(pfn)
            if self.pcp_type[pfn] == CMA:
                self.mod_free_cma_pages(zone, -(1 << order), cpu)
        self.mod_free_pages(zone, -(len(taken) << order), cpu)
        return taken

    def rmqueue_pcplist_locked(self, zone: Zone, order: int, mt: int, alloc_flags: int, cpu: int) -> int | None:
        """__rmqueue_pcplist: the head of the CPU's list, refilled at its tail when it is empty."""
        pcp = zone.pcp[cpu]
        pages = pcp.lists[self.pindex(mt, order)]
        if not pages:
            batch = max(pcp.batch >> order, 2) if pcp.batch > 1 else pcp.batch
            taken = self.rmqueue_bulk(zone, order, batch, mt, alloc_flags, cpu)
            pages.extend(taken)
            pcp.count += len(taken) << order
            if not pages:
                return None
        pcp.count -= 1 << order
        return pages.popleft()

    def free_pcppages_bulk(self, zone: Zone, count: int, pcp: PcpSet, pindex: int, cpu: int) -> None:
        """Frames from the tails of the lists back to the buddy lists, `pindex` first, then round and round.

        `cpu` is the one that does it and counts the free pages; `pcp` may be another's.
        """
        count = min(pcp.count, count)
        low, high = 0, NR_PCP_LISTS - 1
        pindex -= 1
        while count > 0:
            while True:
                pindex += 1
                if pindex > high:
                    pindex = low
                if pcp.lists[pindex]:
                    break
                if pindex == high:
                    high -= 1
                if pindex == low:
                    low += 1
            order = self.pcp_order(pindex)
            pages = pcp.lists[pindex]
            while count > 0 and pages:
                pfn = pages.pop()
                mt = self.pcp_type.pop(pfn)
                count -= 1 << order
                pcp.count -= 1 << order
                if zone.nr_isolate_pageblock:
                    mt = self.get_pageblock_migratetype(zone, pfn)
                self.free_one_page(zone, pfn, order, mt, cpu)

    def nr_pcp_free(self, pcp: PcpSet, high: int, free_high: bool) -> int:
        """How many frames to give back; twice as many each time if nothing is allocated in between."""
        if free_high:
            return pcp.count
        if high < pcp.batch:
            return 1
        batch = pcp.batch << pcp.free_factor
        if batch < high - pcp.batch and pcp.free_factor < PCP_BATCH_SCALE_MAX:
            pcp.free_factor += 1
        # clamp(): when the bounds cross, the lower one is applied first and the upper one wins.
        return min(max(batch, pcp.batch), high - pcp.batch)

    def nr_pcp_high(self, zone: Zone, pcp: PcpSet, free_high: bool) -> int:
        if not pcp.high or free_high:
            return 0
        if zone.flags & ZONE_RECLAIM_ACTIVE:
            return min(pcp.batch << 2, pcp.high)
        return pcp.high

    def free_unref_page(self, zone: Zone, pfn: int, order: int, cpu: int) -> None:
        """A block goes to the head of a per-CPU list; when the CPU has too many, some go on to the buddy lists."""
        mt = self.get_pageblock_migratetype(zone, pfn)
        if mt == ISOLATE:
            return self.free_one_page(zone, pfn, order, mt, cpu)
        self.pcp_type[pfn] = mt
        pcp = zone.pcp[cpu]
        pindex = self.pindex(mt if mt < PCPTYPES else MOVABLE, order)
        pcp.lists[pindex].appendleft(pfn)
        pcp.count += 1 << order
        free_high = pcp.free_factor > 0 and 0 < order <= COSTLY_ORDER
        high = self.nr_pcp_high(zone, pcp, free_high)
        if pcp.count >= high:
            self.free_pcppages_bulk(zone, self.nr_pcp_free(pcp, high, free_high), pcp, pindex, cpu)
        return None

    def zones_by_index(self) -> list[Zone]:
        """for_each_populated_zone: node by node, zone type by zone type."""
        return sorted(self.zones, key=lambda zone: (zone.node, zone.index))

    def drain_pages(self, of_cpu: int, cpu: int) -> None:
        """Empty the lists of `of_cpu`, the work being done on `cpu`."""
        for zone in self.zones_by_index():
            pcp = zone.pcp[of_cpu]
            count = pcp.count
            while count:
                to_drain = min(count, pcp.batch << PCP_BATCH_SCALE_MAX)
                self.free_pcppages_bulk(zone, to_drain, pcp, 0, cpu)
                count -= to_drain

    def drain_local_pages(self, cpu: int = 0) -> None:
        self.drain_pages(cpu, cpu)

    def drain_all_pages(self, cpu: int = 0) -> None:
        for of_cpu in range(len(self.cpu_node)):
            self.drain_pages(of_cpu, cpu)

    # ---- watermarks

    def unusable_free(self, zone: Zone, order: int, alloc_flags: int) -> int:
        unusable = (1 << order) - 1
        if not alloc_flags & ALLOC_RESERVES:
            unusable += zone.nr_reserved_highatomic
        if self.cma and not alloc_flags & ALLOC_CMA:
            unusable += max(zone.free_cma_pages, 0)
        return unusable

    def watermark_ok(self, zone: Zone, order: int, mark: int, highest: int, alloc_flags: int, free: int) -> bool:
        """__zone_watermark_ok: enough frames above the mark, and a block that is large enough."""
        free -= self.unusable_free(zone, order, alloc_flags)
        minimum = mark
        if alloc_flags & ALLOC_MIN_RESERVE:
            minimum -= minimum // 2
            if alloc_flags & ALLOC_NON_BLOCK:
                minimum -= minimum // 4
        if alloc_flags & ALLOC_OOM:
            minimum -= minimum // 2
        if free <= minimum + zone.lowmem_reserve[highest]:
            return False
        if order == 0:
            return True
        for current in range(order, MAX_ORDER):
            if not zone.nr_free[current]:
                continue
            lists = zone.free_list[current]
            if any(lists[:PCPTYPES]):
                return True
            if alloc_flags & ALLOC_CMA and lists[CMA]:
                return True
            if alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM) and lists[HIGHATOMIC]:
                return True
        return False

    def watermark_fast(self, zone: Zone, order: int, mark: int, highest: int, alloc_flags: int, gfp: int) -> bool:
        free = max(zone.free_pages, 0)
        if order == 0:
            usable = free - min(free, self.unusable_free(zone, 0, alloc_flags))
            if usable > mark + zone.lowmem_reserve[highest]:
                return True
        if self.watermark_ok(zone, order, mark, highest, alloc_flags, free):
            return True
        # The boost is there to wake kswapd early; it must not make an atomic request fail.
        if order == 0 and gfp & GFP_ATOMIC and zone.boost and alloc_flags & ALLOC_WMARK_MASK == WMARK_MIN:
            return self.watermark_ok(zone, order, zone.watermark[WMARK_MIN], highest, alloc_flags, free)
        return False

    # ---- requests

    def gfp_migratetype(self, gfp: int) -> int:
        if self.page_group_by_mobility_disabled:
            return UNMOVABLE
        return (gfp & (GFP_MOVABLE | GFP_RECLAIMABLE)) >> 3

    def flags_cma(self, gfp: int) -> int:
        return ALLOC_CMA if self.cma and self.gfp_migratetype(gfp) == MOVABLE else 0

    def flags_nofragment(self, preferred: Zone | None, gfp: int) -> int:
        flags = gfp & GFP_KSWAPD_RECLAIM
        if not self.has_dma32 or preferred is None or preferred.index != self.zone_normal:
            return flags
        if self.nr_online_nodes > 1 and (preferred.node, preferred.index - 1) not in self.populated:
            return flags
        return flags | ALLOC_NOFRAGMENT

    def rmqueue_zone(self, zone: Zone, order: int, mt: int, alloc_flags: int, cpu: int) -> int | None:
        """rmqueue: from the per-CPU list if the order has one, else from the buddy lists."""
        pfn = None
        if order <= COSTLY_ORDER or order == self.pageblock_order:
            if not self.cma or alloc_flags & ALLOC_CMA or mt != MOVABLE:
                zone.pcp[cpu].free_factor >>= 1
                pfn = self.rmqueue_pcplist_locked(zone, order, mt, alloc_flags, cpu)
                if pfn is not None:
                    del self.pcp_type[pfn]
        if pfn is None:
            pfn = self.rmqueue_buddy(zone, order, mt, alloc_flags, cpu)
        zone.flags &= ~ZONE_BOOSTED_WATERMARK  # kswapd is woken here
        return pfn

    def rmqueue_buddy(self, zone: Zone, order: int, mt: int, alloc_flags: int, cpu: int) -> int | None:
        pfn = None
        if alloc_flags & ALLOC_HIGHATOMIC:
            pfn = self.rmqueue_smallest(zone, order, HIGHATOMIC)
        if pfn is None:
            pfn = self.rmqueue(zone, order, mt, alloc_flags)
            if pfn is None and alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK):
                pfn = self.rmqueue_smallest(zone, order, HIGHATOMIC)
            if pfn is None:
                return None
        self.mod_freepage_state(zone, -(1 << order), self.pcp_type.pop(pfn), cpu)
        return pfn

    def get_page_from_freelist(self, gfp: int, order: int, alloc_flags: int, ac: AllocContext, cpu: int) -> int | None:
        """Zone by zone, the first that has enough above its watermark and a block to give."""
        while True:
            no_fallback = alloc_flags & ALLOC_NOFRAGMENT
            for zone in ac.zonelist:
                if no_fallback and self.nr_online_nodes > 1 and zone.node != ac.zonelist[0].node:
                    break  # a local page that fragments is better than a remote one
                if not alloc_flags & ALLOC_NO_WATERMARKS:
                    mark = zone.watermark[alloc_flags & ALLOC_WMARK_MASK] + zone.boost
                    if not self.watermark_fast(zone, order, mark, ac.highest_zoneidx, alloc_flags, gfp):
                        continue
                pfn = self.rmqueue_zone(zone, order, ac.migratetype, alloc_flags, cpu)
                if pfn is None:
                    continue
                self.allocated[pfn] = order
                if alloc_flags & ALLOC_NO_WATERMARKS:
                    self.pfmemalloc.add(pfn)
                if alloc_flags & ALLOC_HIGHATOMIC:
                    self.reserve_highatomic_pageblock(zone, pfn)
                return pfn
            if not no_fallback:
                return None
            alloc_flags &= ~ALLOC_NOFRAGMENT

    def gfp_to_alloc_flags(self, gfp: int, order: int) -> int:
        flags = WMARK_MIN | (gfp & (GFP_HIGH | GFP_KSWAPD_RECLAIM))  # the bits are the same
        if not gfp & GFP_DIRECT_RECLAIM and not gfp & GFP_NOMEMALLOC:
            flags |= ALLOC_NON_BLOCK
            if order > 0 and flags & ALLOC_MIN_RESERVE:
                flags |= ALLOC_HIGHATOMIC
        return flags | self.flags_cma(gfp)

    def reserve_flags(self, gfp: int) -> int:
        """__gfp_pfmemalloc_flags of a task that is no victim of the OOM killer."""
        return ALLOC_NO_WATERMARKS if (gfp & GFP_MEMALLOC or self.pf_memalloc) and not gfp & GFP_NOMEMALLOC else 0

    def slowpath(self, gfp: int, order: int, ac: AllocContext, cpu: int) -> int | None:
        """__alloc_pages_slowpath where compaction is skipped, reclaim frees nothing and the OOM killer kills nobody."""
        if gfp & GFP_ATOMIC and gfp & GFP_DIRECT_RECLAIM:
            gfp &= ~GFP_ATOMIC
        can_direct_reclaim = gfp & GFP_DIRECT_RECLAIM
        costly = order > COSTLY_ORDER
        alloc_flags = self.gfp_to_alloc_flags(gfp, order)
        pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac, cpu)
        if pfn is not None or not ac.zonelist:
            return pfn
        if can_direct_reclaim and gfp & GFP_IO and costly and gfp & GFP_NORETRY and not self.reserve_flags(gfp):
            return None
        no_progress_loops = 0
        while True:
            reserve_flags = self.reserve_flags(gfp)
            if reserve_flags:
                alloc_flags = reserve_flags | self.flags_cma(gfp) | (alloc_flags & ALLOC_KSWAPD)
            pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac, cpu)
            if pfn is not None or not can_direct_reclaim or self.pf_memalloc:
                return pfn
            if gfp & GFP_NORETRY:
                return None
            if costly and not (gfp & GFP_IO and gfp & GFP_RETRY_MAYFAIL):
                return None
            no_progress_loops += 1
            if self.should_reclaim_retry(order, ac, alloc_flags, no_progress_loops):
                continue
            return self.may_oom(gfp, order, ac, cpu)

    def may_oom(self, gfp: int, order: int, ac: AllocContext, cpu: int) -> int | None:
        """__alloc_pages_may_oom with nobody to kill: one more look, then all there is if it must not fail."""
        pfn = self.get_page_from_freelist(gfp & ~GFP_DIRECT_RECLAIM, order, WMARK_HIGH, ac, cpu)
        if pfn is not None or order > COSTLY_ORDER or ac.highest_zoneidx < self.zone_normal:
            return pfn
        if gfp & GFP_NOFAIL and not gfp & (GFP_RETRY_MAYFAIL | GFP_THISNODE):
            pfn = self.get_page_twice(gfp, order, ALLOC_NO_WATERMARKS, ac, cpu)
        return pfn

    def get_page_twice(self, gfp: int, order: int, alloc_flags: int, ac: AllocContext, cpu: int) -> int | None:
        """__alloc_pages_cpuset_fallback: with the task's cpuset and without, which is the same here."""
        pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac, cpu)
        return self.get_page_from_freelist(gfp, order, alloc_flags, ac, cpu) if pfn is None else pfn

    def should_reclaim_retry(self, order: int, ac: AllocContext, alloc_flags: int, no_progress_loops: int) -> bool:
        if no_progress_loops <= MAX_RECLAIM_RETRIES:
            for zone in ac.zonelist:
                free = max(zone.free_pages + sum(pcp.free_diff for pcp in zone.pcp), 0)
                mark = zone.watermark[WMARK_MIN] + zone.boost
                if self.watermark_ok(zone, order, mark, ac.highest_zoneidx, alloc_flags, free):
                    return True
        return self.unreserve_highatomic_pageblock(ac, force=True)

    def prepare(self, gfp: int, cpu: int, node: int | None) -> AllocContext:
        highest = self.zone_of_gfp[gfp & 0xF]
        rows = self.zonelist[self.cpu_node[cpu] if node is None else node]
        zonelist = rows[1 if gfp & GFP_THISNODE and self.nr_online_nodes > 1 else 0][highest]
        return AllocContext(zonelist, highest, self.gfp_migratetype(gfp))

    def alloc_pages(self, gfp: int, order: int, cpu: int = 0, node: int | None = None) -> int | None:
        """The first frame of a block of 2**order, or None; WouldLoopForever if it must not fail but does."""
        if order >= MAX_ORDER:
            return None
        ac = self.prepare(gfp, cpu, node)
        alloc_flags = WMARK_LOW | self.flags_cma(gfp)
        alloc_flags |= self.flags_nofragment(ac.zonelist[0] if ac.zonelist else None, gfp)
        pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac, cpu)
        if pfn is None:
            pfn = self.slowpath(gfp, order, ac, cpu)
        if pfn is None and gfp & GFP_NOFAIL and gfp & GFP_DIRECT_RECLAIM:
            # Help from the reserves; nobody frees anything, so trying again would go on for ever.
            pfn = self.get_page_twice(gfp, order, ALLOC_MIN_RESERVE, ac, cpu)
            if pfn is None:
                raise WouldLoopForever(f"order {order}")
        return pfn

    def free_pages(self, pfn: int, order: int, cpu: int = 0) -> None:
        """__free_pages of a block that has one user."""
        assert self.allocated.pop(pfn) == order
        self.pfmemalloc.discard(pfn)
        zone = self.zone_of(pfn)
        if order <= COSTLY_ORDER or order == self.pageblock_order:
            self.free_unref_page(zone, pfn, order, cpu)
        else:
            self.free_one_page(zone, pfn, order, self.get_pageblock_migratetype(zone, pfn), cpu)

    def alloc_pages_bulk(self, gfp: int, nr_pages: int, cpu: int = 0, node: int | None = None) -> list[int]:
        """__alloc_pages_bulk: order-0 pages off one zone's per-CPU list; one page, if that cannot be."""
        if nr_pages <= 0:
            return []
        taken: list[int] = []
        if nr_pages > 1:
            ac = self.prepare(gfp, cpu, node)
            alloc_flags = WMARK_LOW | self.flags_cma(gfp)
            zone = self.bulk_zone(gfp, nr_pages, alloc_flags, ac)
            while zone is not None and len(taken) < nr_pages:
                pfn = self.rmqueue_pcplist_locked(zone, 0, ac.migratetype, alloc_flags, cpu)
                if pfn is None:
                    break
                del self.pcp_type[pfn]
                self.allocated[pfn] = 0
                taken.append(pfn)
        if not taken:
            pfn = self.alloc_pages(gfp, 0, cpu, node)
            if pfn is not None:
                taken.append(pfn)
        return taken

    def bulk_zone(self, gfp: int, nr_pages: int, alloc_flags: int, ac: AllocContext) -> Zone | None:
        """The first zone of the preferred node that stays above its low watermark."""
        for zone in ac.zonelist:
            preferred = ac.zonelist[0]
            if zone.node != preferred.node:
                return None
            mark = zone.watermark[WMARK_LOW] + zone.boost + nr_pages
            if self.watermark_fast(zone, 0, mark, preferred.index, alloc_flags, gfp):
                return zone
        return None

    def split_page(self, pfn: int, order: int) -> None:
        """An allocated block becomes 2**order pages, each to be freed for itself."""
        assert self.allocated.pop(pfn) == order
        self.allocated.update(dict.fromkeys(range(pfn, pfn + (1 << order)), 0))

    def alloc_pages_exact(self, size_bytes: int, gfp: int, cpu: int = 0) -> int | None:
        """A block of just enough pages; the rest goes straight back to the tails of the buddy lists."""
        nr_pages = -(-size_bytes >> PAGE_SHIFT)
        order = (nr_pages - 1).bit_length()
        pfn = self.alloc_pages(gfp & ~(GFP_COMP | GFP_HIGHMEM), order, cpu)
        if pfn is None:
            return None
        self.split_page(pfn, order)
        zone = self.zone_of(pfn)
        for tail in range(pfn + nr_pages, pfn + (1 << order)):
            del self.allocated[tail]
            self.free_one_page(zone, tail, 0, self.get_pageblock_migratetype(zone, tail), cpu, to_tail=True)
        return pfn

    def free_pages_exact(self, pfn: int, size_bytes: int, cpu: int = 0) -> None:
        for page in range(pfn, pfn + (-(-size_bytes >> PAGE_SHIFT))):
            self.free_pages(page, 0, cpu)

    # ---- isolation

    def isolate_pageblock(self, pfn: int, cpu: int = 0) -> bool:
        """set_migratetype_isolate of a page block that holds nothing unmovable; False if it is isolated already."""
        zone = self.zone_of(pfn)
        mt = self.get_pageblock_migratetype(zone, pfn)
        if mt == ISOLATE:
            return False
        self.set_pageblock_migratetype(zone, pfn, ISOLATE)
        zone.nr_isolate_pageblock += 1
        moved, _ = self.move_freepages_block(zone, pfn, ISOLATE)
        self.mod_freepage_state(zone, -moved, mt, cpu)
        return True

    def unisolate_pageblock(self, pfn: int, mt: int, cpu: int = 0) -> None:
        """unset_migratetype_isolate: the page block gets a type again, a large free block may merge again."""
        zone = self.zone_of(pfn)
        if self.get_pageblock_migratetype(zone, pfn) != ISOLATE:
            return
        free_list = zone.buddy.get(pfn)
        if free_list is not None and self.pageblock_order <= free_list.order < MAX_ORDER - 1:
            order = free_list.order
            buddy = zone.buddy.get(pfn ^ (1 << order))
            if (
                buddy is not None
                and buddy.order == order
                and self.get_pageblock_migratetype(zone, pfn ^ (1 << order)) != ISOLATE
            ):
                self.del_page_from_free_list(zone, pfn)
                self.set_pageblock_migratetype(zone, pfn, mt)
                self.free_one_page(zone, pfn, order, mt, cpu, to_tail=True)
                zone.nr_isolate_pageblock -= 1
                return
        moved, _ = self.move_freepages_block(zone, pfn, mt)
        self.mod_freepage_state(zone, moved, mt, cpu)
        self.set_pageblock_migratetype(zone, pfn, mt)
        zone.nr_isolate_pageblock -= 1

    # ---- what there is to compare

    def state(self) -> Iterator[tuple[str, Any]]:
        """Everything a dump shows, as (where, value); lists head first."""
        for zone in self.zones_by_index():
            at = f"node {zone.node} zone {zone.name}"
            yield f"{at} NR_FREE_PAGES", zone.free_pages
            yield f"{at} NR_FREE_CMA_PAGES", zone.free_cma_pages
            yield f"{at} boost", zone.boost
            yield f"{at} nr_highatomic", zone.nr_reserved_highatomic
            yield f"{at} flags", zone.flags
            yield f"{at} watermarks", tuple(zone.watermark)
            yield (f"{at} page blocks", "".join("x" if mt is None else str(mt) for mt in zone.block_types))
            for order in range(MAX_ORDER):
                yield f"{at} order {order} nr_free", zone.nr_free[order]
                for mt in range(MIGRATE_TYPES):
                    yield (f"{at} order {order} type {mt} free list", list(zone.free_list[order][mt]))
            for cpu, pcp in enumerate(zone.pcp):
                yield f"{at} cpu {cpu} NR_FREE_PAGES diff", pcp.free_diff
                yield (f"{at} cpu {cpu} pcp", (pcp.count, pcp.high, pcp.batch, pcp.free_factor))
                for pindex, pages in enumerate(pcp.lists):
                    yield f"{at} cpu {cpu} pcp list {pindex}", list(pages)
                    yield (f"{at} cpu {cpu} pcp list {pindex} own types", [self.pcp_type[pfn] for pfn in pages])
