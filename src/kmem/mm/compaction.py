# SPDX-License-Identifier: GPL-2.0-only
"""Compaction: movable pages are moved to one end of a zone, so that large blocks become free at the other.

Two scanners walk towards each other: one from below takes pages that can be
moved, one from above takes free pages to move them into.  A direct compactor
stops when the block it wants is there; kcompactd works for requests that
cannot wait.  A zone in which it failed is left alone for a while.

Source: mm/compaction.c @6.1.192
Differs: a block that becomes free while it is compacted is not kept for the
compactor; large folios are not moved; no proactive compaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kmem.mm.compaction_fast import fast_find_migrateblock, fast_isolate_freepages
from kmem.mm.folio import PG_UNEVICTABLE, PG_WRITEBACK, Folio
from kmem.mm.hooks import CompactResult, Request
from kmem.mm.lru import folio_is_file_lru

if TYPE_CHECKING:
    from kmem.mm.reclaim import Pgdat, Reclaim

__all__ = ["CompactControl", "Compaction", "ZoneCompaction", "fragmentation_index"]

COMPACT_CLUSTER_MAX = 32
COMPACT_MAX_DEFER_SHIFT = 6
PAGE_ALLOC_COSTLY_ORDER = 3
MAX_COMPACT_RETRIES = 16

#: Modes of migration.
MIGRATE_ASYNC, MIGRATE_SYNC_LIGHT, MIGRATE_SYNC = range(3)
#: Priorities of direct compaction (enum compact_priority).
COMPACT_PRIO_SYNC_FULL, COMPACT_PRIO_SYNC_LIGHT, COMPACT_PRIO_ASYNC = range(3)

_MAX_ORDER = 11
_MAX_NR_ZONES = 5
_MOVABLE, _CMA = 1, 5
_PG_BUDDY, _PG_RESERVED, _PG_TAIL = 1, 0, 6
_PGF_LRU, _PGF_HEAD = 1, 2
_GFP_IO, _GFP_FS, _GFP_KERNEL = 0x40, 0x80, 0xCC0
_ALLOC_WMARK_MASK = 3
_ALLOC_CMA = 0x80
_NO_MIGRATION = CompactResult.SUCCESS, CompactResult.SKIPPED
#: Where a request of each type may look if its own lists are empty, by preference.
_FALLBACKS = {0: (2, 1), 1: (2, 0), 2: (0, 1)}


def fragmentation_index(nr_free: list[int], order: int) -> int:
    """Why a request of `order` would fail: towards 0 for want of memory, towards 1000 by fragmentation.

    Parameters
    ----------
    nr_free : list of int
        Free blocks of each order.
    order : int

    Returns
    -------
    int
        -1000 if it would not fail; 0 to 1000 otherwise.

    Source: mm/vmstat.c:__fragmentation_index @6.1.192
    """
    blocks = sum(nr_free)
    if not blocks:
        return 0
    if any(nr_free[order:]):
        return -1000
    pages = sum(count << size for size, count in enumerate(nr_free))
    return 1000 - (1000 + pages * 1000 // (1 << order)) // blocks


@dataclass
class ZoneCompaction:
    """What compaction remembers of a zone between two runs.

    Attributes
    ----------
    considered, defer_shift, order_failed : int
        How often it was asked for since it last failed, how often that is to be refused (as a
        power of two), and from which order on.
    cached_migrate_pfn : list of int
        Where the migration scanner begins, asynchronous and synchronous.
    cached_free_pfn, init_migrate_pfn, init_free_pfn : int
        Where the free scanner begins; where both begin after a reset.
    blockskip_flush : bool
        Whether kswapd is to forget about skipped blocks when it goes to sleep.
    skip : set of int
        Page blocks that are not worth scanning.

    Source: include/linux/mmzone.h:struct zone @6.1.192
    """

    considered: int = 0
    defer_shift: int = 0
    order_failed: int = 0
    cached_migrate_pfn: list[int] = field(default_factory=lambda: [0, 0])
    cached_free_pfn: int = 0
    init_migrate_pfn: int = 0
    init_free_pfn: int = 0
    blockskip_flush: bool = False
    skip: set[int] = field(default_factory=set)


@dataclass
class CompactControl:
    """One run of compaction over one zone.

    Source: mm/internal.h:struct compact_control @6.1.192
    """

    zone: int
    order: int
    gfp_mask: int = _GFP_KERNEL
    mode: int = MIGRATE_SYNC_LIGHT
    alloc_flags: int = 0
    highest_zoneidx: int = 0
    direct_compaction: bool = False
    whole_zone: bool = False
    ignore_skip_hint: bool = False
    ignore_block_suitable: bool = False
    migratetype: int = 0
    migrate_pfn: int = 0
    free_pfn: int = 0
    rescan: bool = False
    migratepages: list[Folio] = field(default_factory=list)
    freepages: list[int] = field(default_factory=list)
    total_migrate_scanned: int = 0
    total_free_scanned: int = 0
    search_order: int = 0
    fast_search_fail: int = 0
    fast_start_pfn: int = 0  # -1: used up


class Compaction:
    """Compaction of one machine.

    Parameters
    ----------
    reclaim : Reclaim
        The parts that it works on.

    Attributes
    ----------
    zones : list of ZoneCompaction
    extfrag_threshold : int
        The sysctl ``vm.extfrag_threshold``: an index up to this means want of memory.
    compact_unevictable_allowed : int
        The sysctl ``vm.compact_unevictable_allowed``.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self.stat = reclaim.stat
        self.lru = reclaim.lru
        self.page_alloc = reclaim.page_alloc
        self.zones = [ZoneCompaction() for _ in range(len(reclaim.zones))]
        self.extfrag_threshold = 500
        self.compact_unevictable_allowed = 1
        self.block_pages = 1 << reclaim.pageblock_order
        pages = reclaim.memmap.pages_array
        self._kind, self._order, self._flags, self._zone = (pages[name] for name in ("kind", "order", "flags", "zone"))
        for zone in np.flatnonzero(reclaim.zones["spanned"]).tolist():
            self._reset_cached_positions(zone)

    # Whether to do it at all

    def block_start(self, pfn: int) -> int:
        """First frame of a page block."""
        return pfn & ~(self.block_pages - 1)

    def _block_end(self, pfn: int) -> int:
        return self.block_start(pfn) + self.block_pages

    def zone_range(self, zone: int) -> tuple[int, int]:
        """First frame of a zone, and the one behind its last."""
        z = self.reclaim.zones[zone]
        return int(z["start_pfn"]), int(z["start_pfn"]) + int(z["spanned"])

    def _suitable(self, zone: int, order: int, alloc_flags: int, highest_zoneidx: int, free: int) -> CompactResult:
        """Source: mm/compaction.c:__compaction_suitable @6.1.192."""
        if order == -1:
            return CompactResult.CONTINUE
        marks = self.reclaim.zones["watermark"][zone]
        boost = int(self.reclaim.zones["watermark_boost"][zone])
        ok = self.page_alloc.zone_watermark_ok
        if ok(zone, order, int(marks[alloc_flags & _ALLOC_WMARK_MASK]) + boost, highest_zoneidx, alloc_flags):
            return CompactResult.SUCCESS
        mark = int(marks[1 if order > PAGE_ALLOC_COSTLY_ORDER else 0]) + boost + (2 << order)
        if not ok(zone, 0, mark, highest_zoneidx, _ALLOC_CMA, free):
            return CompactResult.SKIPPED
        return CompactResult.CONTINUE

    def compaction_suitable(self, zone: int, order: int, alloc_flags: int, highest_zoneidx: int) -> CompactResult:
        """SUCCESS if a request would succeed as it is, SKIPPED if too little is free, else CONTINUE.

        Source: mm/compaction.c:compaction_suitable @6.1.192
        """
        free = max(int(self.reclaim.zones["free_pages"][zone]), 0)
        result = self._suitable(zone, order, alloc_flags, highest_zoneidx, free)
        if result == CompactResult.CONTINUE and order > PAGE_ALLOC_COSTLY_ORDER:
            index = fragmentation_index([int(count) for count in self.reclaim.zones["nr_free"][zone]], order)
            if 0 <= index <= self.extfrag_threshold:
                return CompactResult.SKIPPED
        return result

    def zonelist_suitable(self, request: Request) -> bool:
        """Whether compaction could go ahead in some zone, were a part of the reclaimable pages free.

        Source: mm/compaction.c:compaction_zonelist_suitable @6.1.192
        """
        for zone in self.reclaim.zonelist(request):
            available = self.reclaim.vmscan.zone_reclaimable_pages(zone) // request.order
            available += self.page_alloc.zone_page_state_snapshot(zone)
            result = self._suitable(zone, request.order, request.alloc_flags, request.highest_zoneidx, available)
            if result == CompactResult.CONTINUE:
                return True
        return False

    def should_compact_retry(
        self, request: Request, result: CompactResult, priority: int, retries: int
    ) -> tuple[bool, int, int]:
        """Whether to compact again, with which priority, and after how many rounds that made progress.

        Source: mm/page_alloc.c:should_compact_retry @6.1.192
        """
        costly = request.order > PAGE_ALLOC_COSTLY_ORDER
        if not request.order or self.reclaim.fatal_signal_pending():
            return False, priority, retries
        if result == CompactResult.SUCCESS:
            retries += 1
        if result == CompactResult.SKIPPED:  # too little is free: only reclaim can help
            return self.zonelist_suitable(request), priority, retries
        gave_up = result in (CompactResult.COMPLETE, CompactResult.DEFERRED, CompactResult.CONTENDED)
        gave_up = gave_up or result == CompactResult.PARTIAL_SKIPPED
        if not gave_up and retries <= (MAX_COMPACT_RETRIES // 4 if costly else MAX_COMPACT_RETRIES):
            return True, priority, retries
        if priority > (COMPACT_PRIO_SYNC_LIGHT if costly else COMPACT_PRIO_SYNC_FULL):
            return True, priority - 1, 0
        return False, priority, retries

    # Putting it off

    def defer(self, zone: int, order: int) -> None:
        """Refuse to compact a zone for `order` for a while, twice as long as the last time.

        Source: mm/compaction.c:defer_compaction @6.1.192
        """
        z = self.zones[zone]
        z.considered = 0
        z.defer_shift = min(z.defer_shift + 1, COMPACT_MAX_DEFER_SHIFT)
        z.order_failed = min(z.order_failed, order)

    def deferred(self, zone: int, order: int) -> bool:
        """Whether compaction of a zone for `order` is to be left out this time.

        Source: mm/compaction.c:compaction_deferred @6.1.192
        """
        z = self.zones[zone]
        if order < z.order_failed:
            return False
        z.considered += 1
        if z.considered >= 1 << z.defer_shift:
            z.considered = 1 << z.defer_shift
            return False
        return True

    def defer_reset(self, zone: int, order: int, *, alloc_success: bool) -> None:
        """A request of `order` succeeded, or is expected to.

        Source: mm/compaction.c:compaction_defer_reset @6.1.192
        """
        z = self.zones[zone]
        if alloc_success:
            z.considered = z.defer_shift = 0
        z.order_failed = max(z.order_failed, order + 1)

    def _restarting(self, zone: int, order: int) -> bool:
        z = self.zones[zone]
        if order < z.order_failed or z.defer_shift < COMPACT_MAX_DEFER_SHIFT:
            return False
        return z.considered >= 1 << z.defer_shift

    def _reset_cached_positions(self, zone: int) -> None:
        start, end = self.zone_range(zone)
        z = self.zones[zone]
        z.cached_migrate_pfn = [start, start]
        z.cached_free_pfn = self.block_start(end - 1)

    def reset_isolation_suitable(self, pgdat: Pgdat) -> None:
        """Forget which page blocks were not worth scanning, if a full run has ended lately.

        Source: mm/compaction.c:reset_isolation_suitable @6.1.192
        """
        for zone in self.reclaim.populated_zones(pgdat.node):
            if self.zones[zone].blockskip_flush:
                self._reset_isolation(zone)

    def _reset_isolation(self, zone: int) -> None:
        """Source: mm/compaction.c:__reset_isolation_suitable @6.1.192."""
        z = self.zones[zone]
        if not z.blockskip_flush:
            return
        z.blockskip_flush = False
        start, end = self.zone_range(zone)
        migrate_pfn, free_pfn = start, end - 1
        reset_migrate, reset_free = free_pfn, migrate_pfn
        source_set = free_set = False
        while migrate_pfn < free_pfn:
            if self._reset_block(zone, migrate_pfn, True, source_set) and migrate_pfn < reset_migrate:
                source_set = True
                reset_migrate = z.init_migrate_pfn = migrate_pfn
                z.cached_migrate_pfn = [reset_migrate, reset_migrate]
            if self._reset_block(zone, free_pfn, free_set, True) and free_pfn > reset_free:
                free_set = True
                reset_free = z.init_free_pfn = z.cached_free_pfn = free_pfn
            migrate_pfn += self.block_pages
            free_pfn -= self.block_pages
        if reset_migrate >= reset_free:
            z.cached_migrate_pfn = [migrate_pfn, migrate_pfn]
            z.cached_free_pfn = free_pfn

    def _reset_block(self, zone: int, pfn: int, check_source: bool, check_target: bool) -> bool:
        """Whether a page block is worth scanning again, by every eighth of its pages.

        Source: mm/compaction.c:__reset_isolation_pfn @6.1.192
        """
        z = self.zones[zone]
        block = pfn >> self.reclaim.pageblock_order
        if self._zone[pfn] != zone:
            return False
        if check_source and check_target and block not in z.skip:
            return True
        if not check_source and check_target and self._block_type(pfn) != _MOVABLE:
            return False
        start, end = self.zone_range(zone)
        first, last = max(self.block_start(pfn), start), min(self._block_end(pfn), end)
        lru = bool((self._flags[first:last:8] & _PGF_LRU).any())
        buddy = bool((self._kind[first:last:8] == _PG_BUDDY).any())
        if (check_source and lru) or (check_target and buddy):
            z.skip.discard(block)
            return True
        return False

    def _block_type(self, pfn: int) -> int:
        return int(self.reclaim.memmap.pageblock_slice(int(self._zone[pfn]), pfn, 1)[0])

    def block_in_zone(self, start: int, end: int, zone: int) -> bool:
        """Whether a page block lies in one zone as a whole.

        Source: mm/page_alloc.c:__pageblock_pfn_to_page @6.1.192
        """
        return bool(self._zone[start] == zone and self._zone[end - 1] == zone)

    # The free scanner

    def _isolate_free_page(self, zone: int, pfn: int, order: int) -> bool:
        """Take a free block, unless too little would be left.

        Source: mm/page_alloc.c:__isolate_free_page @6.1.192
        """
        mark = int(self.reclaim.zones["watermark"][zone][0]) + (1 << order)
        if not self.page_alloc.zone_watermark_ok(zone, 0, mark, 0, _ALLOC_CMA):
            return False
        self.page_alloc.isolate_free_page(pfn)
        return True

    def take_free_block(self, cc: CompactControl, pfn: int, order: int) -> bool:
        """Take a free block for pages to move to; False if too little would be left."""
        if not self._isolate_free_page(cc.zone, pfn, order):
            return False
        # split_map_pages() stacks the pages up: the last one is used first
        if order:
            self.page_alloc.split_page(pfn, order)
        cc.freepages.extend(range(pfn, pfn + (1 << order)))
        self.stat.count("compact_isolated", 1 << order)
        return True

    def isolate_freepages_block(self, cc: CompactControl, start: int, end: int, stride: int) -> tuple[int, int]:
        """Take free pages of one page block; where it stopped, and how many pages it took.

        Source: mm/compaction.c:isolate_freepages_block @6.1.192
        """
        pfn, isolated, scanned = start, 0, 0
        while pfn < end:
            scanned += 1
            if self._flags[pfn] & _PGF_HEAD:
                pfn += (1 << int(self._order[pfn])) - 1 + stride
                continue
            if self._kind[pfn] != _PG_BUDDY:
                pfn += stride
                continue
            order = int(self._order[pfn])
            if not self.take_free_block(cc, pfn, order):
                break
            nr_pages = 1 << order
            scanned += nr_pages - 1
            isolated += nr_pages
            if len(cc.migratepages) <= len(cc.freepages):
                pfn += nr_pages
                break
            pfn += nr_pages - 1 + stride
        cc.total_free_scanned += scanned
        return min(pfn, end), isolated

    def _isolate_freepages(self, cc: CompactControl) -> None:
        """Take free pages from the highest page blocks that are good for it, until there are enough.

        Source: mm/compaction.c:isolate_freepages @6.1.192
        """
        z = self.zones[cc.zone]
        fast_isolate_freepages(self, cc)
        if cc.freepages:
            return
        _, zone_end = self.zone_range(cc.zone)
        isolate_start = cc.free_pfn
        block_start = self.block_start(isolate_start)
        block_end = min(block_start + self.block_pages, zone_end)
        low_pfn = self._block_end(cc.migrate_pfn)
        stride = COMPACT_CLUSTER_MAX if cc.mode == MIGRATE_ASYNC else 1
        while block_start >= low_pfn:
            if self._target_suitable(cc, block_start, block_end):
                isolate_start, nr_isolated = self.isolate_freepages_block(cc, isolate_start, block_end, stride)
                if isolate_start == block_end:
                    z.skip.add(block_start >> self.reclaim.pageblock_order)
                    z.cached_free_pfn = min(z.cached_free_pfn, block_start)
                if len(cc.freepages) >= len(cc.migratepages):
                    if isolate_start >= block_end:
                        isolate_start = block_start - self.block_pages
                    break
                if isolate_start < block_end:
                    break
                stride = 1 if nr_isolated else min(COMPACT_CLUSTER_MAX, stride << 1)
            block_end = block_start
            block_start -= self.block_pages
            isolate_start = block_start
        cc.free_pfn = isolate_start

    def _target_suitable(self, cc: CompactControl, start: int, end: int) -> bool:
        """Source: mm/compaction.c:suitable_migration_target, isolation_suitable @6.1.192."""
        if not self.block_in_zone(start, end, cc.zone):
            return False
        if self._kind[start] == _PG_BUDDY and self._order[start] >= self.reclaim.pageblock_order:
            return False
        if not cc.ignore_block_suitable and self._block_type(start) not in (_MOVABLE, _CMA):
            return False
        return cc.ignore_skip_hint or start >> self.reclaim.pageblock_order not in self.zones[cc.zone].skip

    # The migration scanner

    def _isolate_migratepages_block(self, cc: CompactControl, low_pfn: int, end_pfn: int) -> None:
        """Take pages that can be moved off the LRU lists, up to 32.

        Source: mm/compaction.c:isolate_migratepages_block @6.1.192
        """
        z = self.zones[cc.zone]
        shift = self.reclaim.pageblock_order
        skip_on_failure = cc.direct_compaction and cc.mode == MIGRATE_ASYNC
        next_skip = (low_pfn | ((1 << cc.order) - 1)) + 1 if skip_on_failure else 0
        scanned = isolated = 0
        whole = low_pfn == self.block_start(low_pfn)
        pfn = low_pfn
        while pfn < end_pfn:
            if skip_on_failure and pfn >= next_skip:
                if isolated:
                    break
                next_skip = (pfn | ((1 << cc.order) - 1)) + 1
            scanned += 1
            if whole and pfn == low_pfn and not cc.ignore_skip_hint and pfn >> shift in z.skip:
                pfn = end_pfn
                break
            kind = int(self._kind[pfn])
            if kind == _PG_BUDDY:
                pfn += 1 << int(self._order[pfn])
                continue
            if self._flags[pfn] & _PGF_HEAD:
                pfn += (1 << int(self._order[pfn])) - 1
            elif self._isolate_for_migration(cc, pfn):
                isolated += 1
                pfn += 1
                if len(cc.migratepages) >= COMPACT_CLUSTER_MAX and not cc.rescan:
                    break
                continue
            pfn += 1
            if skip_on_failure:
                if isolated:
                    self._putback(cc)
                    isolated = 0
                if pfn <= next_skip:
                    pfn = next_skip
                    next_skip += 1 << cc.order
        pfn = min(pfn, end_pfn)
        if pfn == end_pfn and (not isolated or cc.rescan):
            if whole and not cc.ignore_skip_hint:
                z.skip.add(low_pfn >> shift)
            self._update_cached_migrate(cc, pfn)
        cc.total_migrate_scanned += scanned
        if isolated:
            self.stat.count("compact_isolated", isolated)
        cc.migrate_pfn = pfn

    def _isolate_for_migration(self, cc: CompactControl, pfn: int) -> bool:
        if not self._flags[pfn] & _PGF_LRU:
            return False
        folio = self.reclaim.folios.get(pfn)
        if folio is None or folio.order:
            return False
        mapping = None if folio.anon else folio.mapping
        if mapping is None and folio.refcount > folio.mapcount + folio.swapcache:
            return False
        if not cc.gfp_mask & _GFP_FS and mapping is not None:
            return False
        if folio.flags & PG_UNEVICTABLE and not self.compact_unevictable_allowed:
            return False
        if cc.mode != MIGRATE_SYNC and folio.flags & PG_WRITEBACK:
            return False
        self.lru.isolate(folio)
        self._isolated(folio, 1)
        cc.migratepages.append(folio)
        return True

    def _isolated(self, folio: Folio, delta: int) -> None:
        name = "nr_isolated_file" if folio_is_file_lru(folio) else "nr_isolated_anon"
        self.stat.node[self.lru.lruvec_of(folio).node][name] += delta

    def _putback(self, cc: CompactControl) -> None:
        """Source: mm/migrate.c:putback_movable_pages @6.1.192."""
        for folio in reversed(cc.migratepages):
            self._isolated(folio, -1)
            self.lru.putback(folio)
        cc.migratepages.clear()

    def _update_cached_migrate(self, cc: CompactControl, pfn: int) -> None:
        """Source: mm/compaction.c:update_cached_migrate @6.1.192."""
        z = self.zones[cc.zone]
        pfn = pfn if pfn == self.block_start(pfn) else self._block_end(pfn)
        z.cached_migrate_pfn[0] = max(z.cached_migrate_pfn[0], pfn)
        if cc.mode != MIGRATE_ASYNC:
            z.cached_migrate_pfn[1] = max(z.cached_migrate_pfn[1], pfn)

    def _isolate_migratepages(self, cc: CompactControl) -> bool:
        """Find the next page block with pages to move, and take them; whether there are any.

        Source: mm/compaction.c:isolate_migratepages @6.1.192
        """
        start, _ = self.zone_range(cc.zone)
        before = cc.migrate_pfn
        low_pfn = fast_find_migrateblock(self, cc)
        found = low_pfn != before and not cc.fast_search_fail
        block_start = max(self.block_start(low_pfn), start)
        block_end = self._block_end(low_pfn)
        while block_end <= cc.free_pfn:
            if self._source_suitable(cc, low_pfn, block_start, block_end, found):
                self._isolate_migratepages_block(cc, low_pfn, block_end)
                break
            found = False
            cc.migrate_pfn = low_pfn = block_start = block_end
            block_end += self.block_pages
        return bool(cc.migratepages)

    def _source_suitable(self, cc: CompactControl, low_pfn: int, start: int, end: int, found: bool) -> bool:
        """Source: mm/compaction.c:suitable_migration_source @6.1.192."""
        if not self.block_in_zone(start, end, cc.zone):
            return False
        skipped = low_pfn >> self.reclaim.pageblock_order in self.zones[cc.zone].skip
        if low_pfn == self.block_start(low_pfn) and not found and not cc.ignore_skip_hint and skipped:
            return False
        if cc.mode == MIGRATE_ASYNC and cc.direct_compaction:
            block_type = self._block_type(start)
            wanted = (_MOVABLE, _CMA) if cc.migratetype == _MOVABLE else (cc.migratetype,)
            if block_type not in wanted:
                self._update_cached_migrate(cc, end)
                return False
        return True

    # Moving pages

    def _migrate_pages(self, cc: CompactControl) -> bool:
        """Move the isolated pages; False if pages were left for want of free ones.

        Source: mm/migrate.c:migrate_pages, mm/compaction.c:compaction_alloc @6.1.192
        """
        enough = True
        left: list[Folio] = []
        moved = failed = 0
        for folio in reversed(cc.migratepages):
            if self._unused(folio):
                continue
            if enough and not cc.freepages:
                self._isolate_freepages(cc)
                enough = bool(cc.freepages)
                failed += not enough  # those behind it are not tried
            if not enough:
                left.append(folio)
                continue
            if folio.flags & PG_WRITEBACK and cc.mode != MIGRATE_SYNC:
                left.append(folio)
                failed += 1
                continue
            self._move(folio, cc.freepages.pop())
            moved += 1
        self.stat.count("pgmigrate_success", moved)
        if failed:
            self.stat.count("pgmigrate_fail", failed)
        cc.migratepages = left[::-1]
        return enough

    def _unused(self, folio: Folio) -> bool:
        """Free a page that lost its last user while it was isolated."""
        if folio.refcount != 1:
            return False
        self._isolated(folio, -1)
        self.reclaim.folios.put(folio)
        return True

    def _move(self, folio: Folio, pfn: int) -> None:
        """Give a page another frame: bytes, page table entries and all.

        Source: mm/migrate.c:move_to_new_folio, remove_migration_ptes @6.1.192
        """
        old = folio.pfn
        self._isolated(folio, -1)
        ram = self.reclaim.kernel.ram
        ram.view(pfn << 12, 4096)[:] = ram.view(old << 12, 4096)
        for vma, _, at, entry in list(self.reclaim.rmap.page_mappings(old)):
            table = vma.vm_mm.page_table
            table.write(at, table.pfn_pte(pfn, entry & ~table.layout.frame_mask))
        self.reclaim.folios.replace_frame(folio, pfn)
        mapped = folio.mapcount
        self.lru.putback(folio)
        if mapped:
            self.lru.lru_add_drain()
        if self.page_alloc.watch is not None:
            self.page_alloc.watch.migrated(old, pfn, "compaction")
        self.page_alloc.free_pages(old, 0)

    # A run

    def compact_zone(self, cc: CompactControl) -> CompactResult:
        """Compact one zone until a block of the order is there, or the scanners meet.

        Source: mm/compaction.c:compact_zone @6.1.192
        """
        cc.migratetype = (cc.gfp_mask >> 3) & 3
        result = self.compaction_suitable(cc.zone, cc.order, cc.alloc_flags, cc.highest_zoneidx)
        if result in _NO_MIGRATION:
            return result
        if self._restarting(cc.zone, cc.order):
            self._reset_isolation(cc.zone)
        self._place_scanners(cc)
        last_migrated = 0
        self.lru.lru_add_drain()
        while True:
            result = self._finished(cc)
            if result != CompactResult.CONTINUE:
                break
            start = cc.migrate_pfn
            cc.rescan = bool(last_migrated) and self.block_start(last_migrated) == self.block_start(start)
            if self._isolate_migratepages(cc):
                last_migrated = start
                enough = self._migrate_pages(cc)
                if cc.migratepages:
                    self._putback(cc)
                    if not enough and not self._scanners_met(cc):
                        result = CompactResult.CONTENDED
                        break
                    if cc.direct_compaction and cc.mode == MIGRATE_ASYNC:
                        cc.migrate_pfn = ((cc.migrate_pfn - 1) | ((1 << cc.order) - 1)) + 1
                        last_migrated = 0
            if cc.order > 0 and last_migrated and last_migrated < cc.migrate_pfn >> cc.order << cc.order:
                self.lru.lru_add_drain()
                self.page_alloc.drain_pages(None, cc.zone)
                last_migrated = 0
            self.reclaim.cond_resched()
        self._release_freepages(cc)
        self.stat.count("compact_migrate_scanned", cc.total_migrate_scanned)
        self.stat.count("compact_free_scanned", cc.total_free_scanned)
        return result

    def _place_scanners(self, cc: CompactControl) -> None:
        """Source: mm/compaction.c:compact_zone @6.1.192."""
        z = self.zones[cc.zone]
        cc.fast_start_pfn = 0
        start, end = self.zone_range(cc.zone)
        sync = cc.mode != MIGRATE_ASYNC
        if cc.whole_zone:
            cc.migrate_pfn, cc.free_pfn = start, self.block_start(end - 1)
            return
        cc.migrate_pfn, cc.free_pfn = z.cached_migrate_pfn[sync], z.cached_free_pfn
        if not start <= cc.free_pfn < end:
            cc.free_pfn = z.cached_free_pfn = self.block_start(end - 1)
        if not start <= cc.migrate_pfn < end:
            cc.migrate_pfn = start
            z.cached_migrate_pfn = [start, start]
        cc.whole_zone = cc.migrate_pfn <= z.init_migrate_pfn

    def _scanners_met(self, cc: CompactControl) -> bool:
        shift = self.reclaim.pageblock_order
        return cc.free_pfn >> shift <= cc.migrate_pfn >> shift

    def _finished(self, cc: CompactControl) -> CompactResult:
        """Source: mm/compaction.c:__compact_finished @6.1.192."""
        if self._scanners_met(cc):
            self._reset_cached_positions(cc.zone)
            if cc.direct_compaction:
                self.zones[cc.zone].blockskip_flush = True
            return CompactResult.COMPLETE if cc.whole_zone else CompactResult.PARTIAL_SKIPPED
        if cc.order == -1 or cc.migrate_pfn != self.block_start(cc.migrate_pfn):
            return CompactResult.CONTINUE
        for order in range(cc.order, _MAX_ORDER):
            if self.reclaim.has_free(cc.zone, order, cc.migratetype) or self._stealable(cc, order):
                return CompactResult.SUCCESS
        return CompactResult.CONTENDED if self.reclaim.fatal_signal_pending() else CompactResult.CONTINUE

    def _stealable(self, cc: CompactControl, order: int) -> bool:
        """Whether a block of another type is free that a request may have its page block changed for.

        Source: mm/page_alloc.c:find_suitable_fallback, can_steal_fallback @6.1.192
        """
        unmovable = cc.migratetype in (0, 2) or self.page_alloc.page_group_by_mobility_disabled
        if order < self.reclaim.pageblock_order // 2 and not unmovable:
            return False
        return any(self.reclaim.has_free(cc.zone, order, other) for other in _FALLBACKS.get(cc.migratetype, ()))

    def _release_freepages(self, cc: CompactControl) -> None:
        """Source: mm/compaction.c:release_freepages @6.1.192."""
        if not cc.freepages:
            return
        z = self.zones[cc.zone]
        highest = self.block_start(max(cc.freepages))
        for pfn in reversed(cc.freepages):
            self.page_alloc.free_pages(pfn, 0)
        cc.freepages.clear()
        z.cached_free_pfn = max(z.cached_free_pfn, highest)

    # Who asks for it

    def try_to_compact_pages(self, request: Request, priority: int) -> CompactResult:
        """Compact zone after zone on behalf of a request.

        Source: mm/compaction.c:try_to_compact_pages @6.1.192
        """
        if not request.gfp & _GFP_IO:
            return CompactResult.SKIPPED
        best = CompactResult.SKIPPED
        full = priority == COMPACT_PRIO_SYNC_FULL
        for zone in self.reclaim.zonelist(request):
            if not full and self.deferred(zone, request.order):
                best = max(best, CompactResult.DEFERRED)
                continue
            control = CompactControl(
                zone,
                request.order,
                request.gfp,
                MIGRATE_ASYNC if priority == COMPACT_PRIO_ASYNC else MIGRATE_SYNC_LIGHT,
                request.alloc_flags,
                request.highest_zoneidx,
                direct_compaction=True,
                whole_zone=full,
                ignore_skip_hint=full,
                ignore_block_suitable=full,
                search_order=request.order,
            )
            status = self.compact_zone(control)
            best = max(best, status)
            if status == CompactResult.SUCCESS:
                self.defer_reset(zone, request.order, alloc_success=False)
                break
            if priority != COMPACT_PRIO_ASYNC and status in (CompactResult.COMPLETE, CompactResult.PARTIAL_SKIPPED):
                self.defer(zone, request.order)
            if self.reclaim.fatal_signal_pending():
                break
        return best

    def compact_node(self, node: int) -> None:
        """Compact all zones of a node completely (``/proc/sys/vm/compact_memory``).

        Source: mm/compaction.c:compact_node @6.1.192
        """
        self.lru.lru_add_drain_all()
        for zone in self.reclaim.populated_zones(node):
            self.compact_zone(CompactControl(zone, -1, mode=MIGRATE_SYNC, whole_zone=True, ignore_skip_hint=True))

    def wakeup_kcompactd(self, pgdat: Pgdat, order: int, highest_zoneidx: int) -> None:
        """Have kcompactd see to a node, if it can do anything for `order`.

        Source: mm/compaction.c:wakeup_kcompactd @6.1.192
        """
        if not order:
            return
        pgdat.kcompactd_max_order = max(pgdat.kcompactd_max_order, order)
        pgdat.kcompactd_highest_zoneidx = min(pgdat.kcompactd_highest_zoneidx, highest_zoneidx)
        order, highest = pgdat.kcompactd_max_order, pgdat.kcompactd_highest_zoneidx
        zones = self.reclaim.populated_zones(pgdat.node, highest)
        if any(self.compaction_suitable(zone, order, 0, highest) == CompactResult.CONTINUE for zone in zones):
            self.reclaim.kcompactd.wake(pgdat)

    def kcompactd_do_work(self, pgdat: Pgdat) -> None:
        """One round of kcompactd.

        Source: mm/compaction.c:kcompactd_do_work @6.1.192
        """
        order, highest = pgdat.kcompactd_max_order, pgdat.kcompactd_highest_zoneidx
        self.stat.count("compact_daemon_wake")
        for zone in self.reclaim.populated_zones(pgdat.node, highest):
            if self.deferred(zone, order):
                continue
            if self.compaction_suitable(zone, order, 0, zone % _MAX_NR_ZONES) != CompactResult.CONTINUE:
                continue
            control = CompactControl(zone, order, highest_zoneidx=highest, search_order=order)
            status = self.compact_zone(control)
            if status == CompactResult.SUCCESS:
                self.defer_reset(zone, order, alloc_success=False)
            elif status in (CompactResult.PARTIAL_SKIPPED, CompactResult.COMPLETE):
                self.page_alloc.drain_all_pages(zone)
                self.defer(zone, order)
            self.stat.count("compact_daemon_migrate_scanned", control.total_migrate_scanned)
            self.stat.count("compact_daemon_free_scanned", control.total_free_scanned)
        if pgdat.kcompactd_max_order <= order:
            pgdat.kcompactd_max_order = 0
        if pgdat.kcompactd_highest_zoneidx >= highest:
            pgdat.kcompactd_highest_zoneidx = self.reclaim.nr_zones(pgdat.node) - 1
