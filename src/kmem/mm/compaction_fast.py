# SPDX-License-Identifier: GPL-2.0-only
"""Compaction's short cuts: looking into the free lists before scanning.

A free block on a list of movable pages says that its page block is worth a
look: high in the zone as a target, low in it as a source.  The searches leave
the lists turned, so that the next one looks at other blocks first; that is part
of which block a later request gets.

Source: mm/compaction.c:fast_isolate_freepages, fast_find_migrateblock @6.1.192
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmem.mm.compaction import CompactControl, Compaction

__all__ = ["fast_find_migrateblock", "fast_isolate_freepages"]

_MOVABLE = 1
_MIGRATE_TYPES = 6
_COSTLY_ORDER = 3
_CLUSTER_MAX = 32
_MIGRATE_ASYNC = 0


def _scan_limit(cc: CompactControl) -> int:
    """Source: mm/compaction.c:freelist_scan_limit @6.1.192."""
    return (_CLUSTER_MAX >> min(63, cc.fast_search_fail)) + 1


class _FreeList:
    """One free list of movable blocks, turned by moving its head."""

    def __init__(self, compaction: Compaction, zone: int, order: int) -> None:
        pages = compaction.reclaim.memmap.pages_array
        self.next, self.prev = pages["next"], pages["prev"]
        self.head = int(compaction.reclaim.zones["lists"][zone]) + order * _MIGRATE_TYPES + _MOVABLE

    def _put_head(self, before: int, after: int) -> None:
        head = self.head
        self.next[before], self.prev[head] = head, before
        self.next[head], self.prev[after] = after, head

    def _take_head(self) -> None:
        before, after = int(self.prev[self.head]), int(self.next[self.head])
        self.next[before], self.prev[after] = after, before

    def begin_with(self, pfn: int) -> None:
        """Source: mm/compaction.c:move_freelist_head @6.1.192."""
        if self.next[self.head] != pfn:
            self._take_head()
            self._put_head(int(self.prev[pfn]), pfn)

    def end_with(self, pfn: int) -> None:
        """Source: mm/compaction.c:move_freelist_tail @6.1.192."""
        if self.prev[self.head] != pfn:
            self._take_head()
            self._put_head(pfn, int(self.next[pfn]))


def _next_search_order(cc: CompactControl, order: int) -> int:
    """Source: mm/compaction.c:next_search_order @6.1.192."""
    order -= 1
    if order < 0:
        order = cc.order - 1
    if order == cc.search_order:
        cc.search_order = cc.search_order - 1 if cc.search_order else cc.order - 1
        return -1
    return order


class _TargetSearch:
    """A search for free blocks in the upper part of the zone; see :func:`fast_isolate_freepages`."""

    def __init__(self, compaction: Compaction, cc: CompactControl) -> None:
        self.compaction, self.cc = compaction, cc
        self.zone_start = compaction.zone_range(cc.zone)[0]
        self.limit = max(1, _scan_limit(cc) >> 1)
        self.scan_start = cc.free_pfn >= compaction.zones[cc.zone].init_free_pfn
        if self.scan_start:
            self.limit = compaction.block_pages >> 1
        distance = cc.free_pfn - cc.migrate_pfn
        self.min_pfn = compaction.block_start(cc.free_pfn - (distance >> 1))
        self.low_pfn = max(compaction.block_start(cc.free_pfn - (distance >> 2)), self.min_pfn)
        self.highest = 0
        self.scanned = 0

    def look(self, order: int) -> int:
        """Look through the blocks of one order; the first frame of the one that was taken, or -1."""
        free = _FreeList(self.compaction, self.cc.zone, order)
        looked, found, best = 0, -1, 0
        entry = int(free.prev[free.head])
        while entry != free.head:
            looked += 1
            if entry >= self.highest:
                self.highest = max(self.compaction.block_start(entry), self.zone_start)
            if entry >= self.low_pfn:
                self.cc.fast_search_fail, self.cc.search_order = 0, order
                found = entry
                break
            if entry >= self.min_pfn and entry > best:
                best = entry
                self.limit >>= 1
            if looked >= self.limit:
                break
            entry = int(free.prev[entry])
        self.scanned += looked
        if found < 0 and best:
            found = entry = best
        if entry != free.head:
            free.begin_with(entry)
        self._looked = looked
        return found

    def run(self) -> int:
        """Go through the orders; the frame that was found, or -1."""
        cc = self.cc
        cc.search_order = min(cc.order - 1, cc.search_order)
        order, found = cc.search_order, -1
        while found < 0 and order >= 0:
            if self.compaction.reclaim.zones["nr_free"][cc.zone][order]:
                found = self.look(order)
                if found >= 0:
                    if self.compaction.take_free_block(cc, found, order):
                        self.scanned += (1 << order) - 1
                    else:
                        order, found = cc.search_order + 1, -1
                if self._looked >= self.limit:
                    self.limit = max(1, self.limit >> 1)
            if found < 0:
                order = _next_search_order(cc, order)
        return found


def fast_isolate_freepages(compaction: Compaction, cc: CompactControl) -> None:
    """Take a free block out of a list, and what else is free around it.

    Source: mm/compaction.c:fast_isolate_freepages, fast_isolate_around @6.1.192
    """
    if cc.order <= 0:
        return
    z = compaction.zones[cc.zone]
    search = _TargetSearch(compaction, cc)
    found = search.run()
    if found < 0:
        cc.fast_search_fail += 1
        if search.scan_start:
            if search.highest >= search.min_pfn:
                found = cc.free_pfn = search.highest
            elif cc.direct_compaction:
                found = cc.free_pfn = search.min_pfn
    if search.highest and search.highest >= z.cached_free_pfn:
        z.cached_free_pfn = search.highest - compaction.block_pages
    cc.total_free_scanned += search.scanned
    if found < 0 or len(cc.freepages) >= len(cc.migratepages):
        return
    if cc.direct_compaction and cc.mode == _MIGRATE_ASYNC:
        return
    zone_start, zone_end = compaction.zone_range(cc.zone)
    start = max(compaction.block_start(found), zone_start)
    end = min(compaction.block_start(found) + compaction.block_pages, zone_end)
    if not compaction.block_in_zone(start, end, cc.zone):
        return
    compaction.isolate_freepages_block(cc, start, end, 1)
    if len(cc.freepages) < len(cc.migratepages):
        z.skip.add(start >> compaction.reclaim.pageblock_order)


def fast_find_migrateblock(compaction: Compaction, cc: CompactControl) -> int:
    """Return where to look for pages to move: a page block low in the zone that is partly free, if a list shows one.

    Source: mm/compaction.c:fast_find_migrateblock @6.1.192
    """
    pfn = cc.migrate_pfn
    start, _ = compaction.zone_range(cc.zone)
    if cc.ignore_skip_hint or (pfn != start and pfn != compaction.block_start(pfn)):
        return pfn
    if cc.order <= _COSTLY_ORDER or (cc.direct_compaction and cc.migratetype != _MOVABLE):
        return pfn
    limit, scanned = _scan_limit(cc), 0
    distance = (cc.free_pfn - pfn) >> 1
    if pfn != start:
        distance >>= 2
    high_pfn = compaction.block_start(pfn + distance)
    skip, shift = compaction.zones[cc.zone].skip, compaction.reclaim.pageblock_order
    found = -1
    for order in range(cc.order - 1, _COSTLY_ORDER - 1, -1):
        if found >= 0 or scanned >= limit:
            break
        if not compaction.reclaim.zones["nr_free"][cc.zone][order]:
            continue
        free = _FreeList(compaction, cc.zone, order)
        entry = int(free.next[free.head])
        while entry != free.head:
            scanned += 1
            if scanned > limit:
                free.end_with(entry)
                break
            if entry < high_pfn and entry >> shift not in skip:
                free.end_with(entry)
                found = max(compaction.block_start(entry), start)
                if cc.fast_start_pfn >= 0:
                    cc.fast_start_pfn = min(cc.fast_start_pfn or entry, entry)
                cc.fast_search_fail = 0
                skip.add(entry >> shift)
                break
            entry = int(free.next[entry])
    cc.total_migrate_scanned += scanned
    if found >= 0:
        return found
    cc.fast_search_fail += 1
    if cc.fast_start_pfn > 0:
        cc.migrate_pfn, cc.fast_start_pfn = cc.fast_start_pfn, -1
    return cc.migrate_pfn
