# SPDX-License-Identifier: GPL-2.0-only
"""Reclaim: which pages are taken from their owners, and how hard it tries.

:class:`Vmscan` ages the LRU lists of a node and frees what nobody has used
lately: pages of files that are clean, and anonymous pages if there is swap.
:meth:`Vmscan.try_to_free_pages` is direct reclaim, on behalf of a request
that found too little free; kswapd is :mod:`kmem.mm.kswapd`.

Source: mm/vmscan.c @6.1.192
Differs: no memory cgroups, no demotion to slower nodes, no large folios, no
multi-generational LRU (off by default); pages are never locked or pinned by
somebody else, so no page is kept for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

from kmem.mm.folio import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_RECLAIM,
    PG_REFERENCED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_WORKINGSET,
    PG_WRITEBACK,
    Folio,
)
from kmem.mm.hooks import CompactResult, Request
from kmem.mm.huge_memory import split_huge_page
from kmem.mm.lru import (
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    Lruvec,
    folio_is_file_lru,
    is_file_lru,
)
from kmem.mm.mm_types import VM_EXEC, VM_LOCKED
from kmem.mm.shrinker import SHRINK_EMPTY, ShrinkControl, do_shrink_slab
from kmem.mm.task import PF_KTHREAD

if TYPE_CHECKING:
    from kmem.mm.reclaim import Pgdat, Reclaim

__all__ = ["DEF_PRIORITY", "MAX_RECLAIM_RETRIES", "SWAP_CLUSTER_MAX", "ScanControl", "Vmscan", "scan_targets"]

DEF_PRIORITY = 12
SWAP_CLUSTER_MAX = 32
MAX_RECLAIM_RETRIES = 16
PAGE_ALLOC_COSTLY_ORDER = 3

_GFP_IO = 0x40
_GFP_FS = 0x80
_MAX_NR_ZONES = 5
_DEACTIVATE_ANON = 1
_DEACTIVATE_FILE = 2
_EVICTABLE = (LRU_INACTIVE_ANON, LRU_ACTIVE_ANON, LRU_INACTIVE_FILE, LRU_ACTIVE_FILE)
_PAGE_SHIFT = 12
_TICK_NS = 4_000_000  # of HZ 250
_SCAN_KIND = {False: "pgscan_anon", True: "pgscan_file"}
_STEAL_KIND = {False: "pgsteal_anon", True: "pgsteal_file"}


@dataclass(slots=True)
class ScanControl:
    """How one run of reclaim goes about it, and what it has achieved.

    Attributes
    ----------
    nr_to_reclaim : int
        Pages to free.
    gfp_mask, order, reclaim_idx : int
        Request behind it: flags, order, highest zone index that helps it.
    priority : int
        12 to 0; each list is scanned by 1/2**priority of its length.
    may_writepage, may_unmap, may_swap : bool
        Whether dirty pages may be written, mapped ones unmapped, anonymous ones swapped out.
    nr_scanned, nr_reclaimed : int
        Pages looked at in this pass, and freed in all.

    Source: mm/vmscan.c:struct scan_control @6.1.192
    """

    nr_to_reclaim: int
    gfp_mask: int
    order: int
    reclaim_idx: int
    priority: int = DEF_PRIORITY
    may_writepage: bool = True
    may_unmap: bool = True
    may_swap: bool = True
    may_deactivate: int = 0
    force_deactivate: bool = False
    skipped_deactivate: bool = False
    compaction_ready: bool = False
    cache_trim_mode: bool = False
    file_is_tiny: bool = False
    anon_cost: int = 0
    file_cost: int = 0
    nr_scanned: int = 0
    nr_reclaimed: int = 0
    # what shrink_node() saw of dirty pages
    dirty: int = 0
    unqueued_dirty: int = 0
    congested: int = 0
    writeback: int = 0
    immediate: int = 0
    file_taken: int = 0
    taken: int = 0

    def clear_seen(self) -> None:
        """Forget what was seen of dirty pages."""
        self.dirty = self.unqueued_dirty = self.congested = self.writeback = 0
        self.immediate = self.file_taken = self.taken = 0


@dataclass(slots=True)
class _ReclaimStat:
    """Source: include/linux/vmstat.h:struct reclaim_stat @6.1.192."""

    nr_dirty: int = 0
    nr_unqueued_dirty: int = 0
    nr_congested: int = 0
    nr_writeback: int = 0
    nr_immediate: int = 0
    nr_pageout: int = 0


def inactive_is_low(inactive: int, active: int) -> bool:
    """Whether an inactive list is short, measured by its active one, so that pages should be moved.

    Source: mm/vmscan.c:inactive_is_low @6.1.192
    """
    gb = (inactive + active) >> (30 - _PAGE_SHIFT)
    return inactive * (isqrt(10 * gb) if gb else 1) < active


def scan_targets(sizes: Iterable[int], sc: ScanControl, *, swappiness: int, can_reclaim_anon: bool) -> list[int]:
    """How many pages of each list to look at.

    Parameters
    ----------
    sizes : iterable of int
        Lengths of the lists: inactive and active anonymous, inactive and active file.
    sc : ScanControl
        Priority, costs and what was found out about the node.
    swappiness : int
        0 to 200; 60 is the default, 100 weighs both kinds alike.
    can_reclaim_anon : bool
        Whether there is free swap space.

    Returns
    -------
    list of int
        One number for each of `sizes`.

    Source: mm/vmscan.c:get_scan_count @6.1.192
    """
    scans = [size >> sc.priority for size in sizes]
    anon, file = (False, False, True, True), (True, True, False, False)
    if not sc.may_swap or not can_reclaim_anon:
        return [0 if left_out else scan for scan, left_out in zip(scans, file, strict=True)]
    if not sc.priority and swappiness:
        return scans
    if sc.file_is_tiny:
        return [0 if left_out else scan for scan, left_out in zip(scans, anon, strict=True)]
    if sc.cache_trim_mode:
        return [0 if left_out else scan for scan, left_out in zip(scans, file, strict=True)]
    total = sc.anon_cost + sc.file_cost
    anon_cost, file_cost = total + sc.anon_cost, total + sc.file_cost
    total = anon_cost + file_cost
    ap = swappiness * (total + 1) // (anon_cost + 1)
    fp = (200 - swappiness) * (total + 1) // (file_cost + 1)
    return [scan * (fp if is_file else ap) // (ap + fp) for scan, is_file in zip(scans, anon, strict=True)]


class Vmscan:
    """Reclaim of one machine.

    Parameters
    ----------
    reclaim : Reclaim
        The parts that it works on.

    Attributes
    ----------
    swappiness : int
        The sysctl ``vm.swappiness``.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self.lru = reclaim.lru
        self.stat = reclaim.stat
        self.swappiness = 60
        self._reclaimed_slab = 0

    # What there is to take

    def can_reclaim_anon_pages(self) -> bool:
        """Whether anonymous pages have somewhere to go.

        Source: mm/vmscan.c:can_reclaim_anon_pages @6.1.192
        """
        return self.stat.swap_free_pages > 0

    def zone_reclaimable_pages(self, zone: int) -> int:
        """Pages of a zone that reclaim could free; its free pages if there are none.

        Source: mm/vmscan.c:zone_reclaimable_pages @6.1.192
        """
        state = self.stat.zone[zone]
        nr = state["nr_zone_inactive_file"] + state["nr_zone_active_file"]
        if self.can_reclaim_anon_pages():
            nr += state["nr_zone_inactive_anon"] + state["nr_zone_active_anon"]
        return nr or self.reclaim.page_alloc.zone_page_state_snapshot(zone)

    def _low(self, lruvec: Lruvec, inactive: int) -> bool:
        return inactive_is_low(lruvec.pages[inactive], lruvec.pages[inactive + 1])

    # A list

    def isolate_lru_folios(self, nr_to_scan: int, lruvec: Lruvec, sc: ScanControl, lru: int) -> tuple[list[Folio], int]:
        """Take up to `nr_to_scan` pages off the tail of a list; the folios, and how many pages were looked at.

        Pages of zones that do not help the request go to the head of the list and do not count.

        Source: mm/vmscan.c:isolate_lru_folios @6.1.192
        """
        src = lruvec.lists[lru]
        taken: list[Folio] = []
        skipped: list[Folio] = []
        scan = total_scan = 0
        while scan < nr_to_scan and src:
            folio = next(iter(src))
            total_scan += folio.nr_pages
            if self.lru.zone_of(folio) % _MAX_NR_ZONES > sc.reclaim_idx:
                del src[folio]
                skipped.append(folio)
                continue
            scan += folio.nr_pages
            if not sc.may_unmap and folio.mapcount:
                src.move_to_end(folio)
                continue
            self.lru.isolate(folio)
            taken.append(folio)
        src.update(dict.fromkeys(skipped))
        for folio in skipped:
            suffix = self.reclaim.zone_suffix(self.lru.zone_of(folio) % _MAX_NR_ZONES)
            self.stat.count(f"pgskip_{suffix}", folio.nr_pages)
        return taken, total_scan

    def _isolated(self, lruvec: Lruvec, file: bool, delta: int) -> None:
        self.stat.node[lruvec.node]["nr_isolated_file" if file else "nr_isolated_anon"] += delta

    def _move_to_lru(self, folios: Iterable[Folio], lruvec: Lruvec) -> int:
        """Put isolated pages back at the head of their lists, in this order; how many.

        Source: mm/vmscan.c:move_folios_to_lru @6.1.192
        """
        moved = 0
        free = []
        for folio in folios:
            if folio.flags & PG_UNEVICTABLE:
                self.lru.putback(folio)
                continue
            folio.refcount -= 1
            if not folio.refcount:  # its last user went while it was isolated
                folio.refcount = 1
                free.append(folio)
                continue
            self.lru.add_to_list(folio)
            moved += folio.nr_pages
            if folio.flags & PG_ACTIVE:
                lruvec.nonresident_age += folio.nr_pages
        self.reclaim.folios.release_pages(free)
        return moved

    def shrink_inactive_list(self, nr_to_scan: int, lruvec: Lruvec, sc: ScanControl, lru: int) -> int:
        """Look at pages of an inactive list, and free what can be freed; how many were.

        Source: mm/vmscan.c:shrink_inactive_list @6.1.192
        """
        file = is_file_lru(lru)
        if self._too_many_isolated(lruvec, file, sc):
            self.reclaim.reclaim_throttle("isolated", _TICK_NS * 5)
            if self._too_many_isolated(lruvec, file, sc):
                return 0
        self.lru.lru_add_drain()
        taken, nr_scanned = self.isolate_lru_folios(nr_to_scan, lruvec, sc, lru)
        nr_taken = sum(folio.nr_pages for folio in taken)
        self._isolated(lruvec, file, nr_taken)
        self.stat.count("pgscan_kswapd" if self.reclaim.current_is_kswapd else "pgscan_direct", nr_scanned)
        self.stat.count(_SCAN_KIND[file], nr_scanned)
        if not taken:
            return 0
        seen = _ReclaimStat()
        kept, nr_reclaimed = self.shrink_folio_list(taken, self.reclaim.pgdats[lruvec.node], sc, seen)
        self._move_to_lru(kept, lruvec)
        self._isolated(lruvec, file, -nr_taken)
        self.stat.count("pgsteal_kswapd" if self.reclaim.current_is_kswapd else "pgsteal_direct", nr_reclaimed)
        self.stat.count(_STEAL_KIND[file], nr_reclaimed)
        self.lru.note_cost(lruvec, file, seen.nr_pageout)
        if seen.nr_unqueued_dirty == nr_taken:
            self.reclaim.filemap.wakeup_flusher_threads()
        sc.dirty += seen.nr_dirty
        sc.congested += seen.nr_congested
        sc.unqueued_dirty += seen.nr_unqueued_dirty
        sc.writeback += seen.nr_writeback
        sc.immediate += seen.nr_immediate
        sc.taken += nr_taken
        if file:
            sc.file_taken += nr_taken
        return nr_reclaimed

    def _too_many_isolated(self, lruvec: Lruvec, file: bool, sc: ScanControl) -> bool:
        """Source: mm/vmscan.c:too_many_isolated @6.1.192."""
        if self.reclaim.current_is_kswapd:
            return False
        inactive = lruvec.pages[LRU_INACTIVE_FILE if file else LRU_INACTIVE_ANON]
        if sc.gfp_mask & (_GFP_IO | _GFP_FS) == _GFP_IO | _GFP_FS:
            inactive >>= 3
        return self.stat.node[lruvec.node]["nr_isolated_file" if file else "nr_isolated_anon"] > inactive

    def shrink_active_list(self, nr_to_scan: int, lruvec: Lruvec, sc: ScanControl, lru: int) -> None:
        """Move pages from an active list to its inactive one, except code that is in use.

        Source: mm/vmscan.c:shrink_active_list @6.1.192
        """
        file = is_file_lru(lru)
        self.lru.lru_add_drain()
        taken, nr_scanned = self.isolate_lru_folios(nr_to_scan, lruvec, sc, lru)
        nr_taken = sum(folio.nr_pages for folio in taken)
        self._isolated(lruvec, file, nr_taken)
        self.stat.count("pgrefill", nr_scanned)
        active, inactive = [], []
        for folio in taken:
            if folio.flags & PG_UNEVICTABLE:
                self.lru.putback(folio)
                continue
            referenced, vm_flags = self.reclaim.rmap.page_referenced(folio.pfn)
            if referenced and vm_flags & VM_EXEC and file:
                active.append(folio)
                continue
            folio.flags = folio.flags & ~PG_ACTIVE | PG_WORKINGSET
            inactive.append(folio)
        self._move_to_lru(active, lruvec)
        self.stat.count("pgdeactivate", self._move_to_lru(inactive, lruvec))
        self._isolated(lruvec, file, -nr_taken)

    # Pages

    def shrink_folio_list(
        self, folios: Iterable[Folio], pgdat: Pgdat, sc: ScanControl, seen: _ReclaimStat
    ) -> tuple[list[Folio], int]:
        """Free what can be freed of isolated pages; those that stay, and how many pages were freed.

        Source: mm/vmscan.c:shrink_folio_list @6.1.192
        """
        kept: list[Folio] = []
        freed: list[Folio] = []
        activated = 0
        queue = deque(folios)
        while queue:
            folio = queue.popleft()
            sc.nr_scanned += folio.nr_pages
            verdict = self._shrink_folio(folio, pgdat, sc, seen, queue)
            if verdict == "free":
                freed.append(folio)
                continue
            if verdict == "activate":
                if folio.flags & PG_SWAPCACHE and self.reclaim.swap.is_full():
                    self.reclaim.swap.free_swap_cache(folio)
                if not folio.flags & PG_UNEVICTABLE:
                    folio.flags |= PG_ACTIVE
                    activated += folio.nr_pages
            kept.append(folio)
        nr_reclaimed = sum(folio.nr_pages for folio in freed)
        # the last one found is the first to go back
        self.reclaim.folios.release_pages(freed)
        self.stat.count("pgactivate", activated)
        return kept, nr_reclaimed

    def _shrink_folio(
        self, folio: Folio, pgdat: Pgdat, sc: ScanControl, seen: _ReclaimStat, queue: deque[Folio]
    ) -> str:
        """One page: ``free``, ``keep`` or ``activate``. The rest of a huge page that is split joins the queue."""
        if folio.flags & PG_UNEVICTABLE:
            return "activate"
        if not sc.may_unmap and folio.mapcount:
            return "keep"
        verdict = self._look_at_writing(folio, pgdat, seen)
        if verdict:
            return verdict
        references = self.folio_check_references(folio)
        if references in ("activate", "keep"):
            return references
        if folio.anon and not folio.flags & PG_SWAPCACHE:
            if not sc.gfp_mask & _GFP_IO:
                return "keep"
            if folio.order and not self._split(folio, queue):
                return "activate"
            if not self.reclaim.swap.add_to_swap(folio):
                return "activate"
        if folio.mapcount and not self._try_to_unmap(folio):
            return "activate"
        if folio.flags & PG_DIRTY:
            verdict = self._write_out(folio, pgdat, sc, seen, references)
            if verdict:
                return verdict
        return "free" if self.reclaim.remove_mapping(folio) else "keep"

    def _split(self, folio: Folio, queue: deque[Folio]) -> bool:
        """Make single pages of a huge one, if there is swap for any; all but the first join the queue.

        Source: mm/vmscan.c:shrink_folio_list, mm/huge_memory.c:can_split_folio @6.1.192
        """
        if self.reclaim.vm is None or not self.stat.swap_free_pages:
            return False
        pages = split_huge_page(self.reclaim.vm, folio)
        if pages is None:
            return False
        queue.extend(pages[1:])
        return True

    def _try_to_unmap(self, folio: Folio) -> bool:
        entry = folio.swap if folio.anon else None
        return self.reclaim.rmap.try_to_unmap(folio.pfn, entry)

    def _look_at_writing(self, folio: Folio, pgdat: Pgdat, seen: _ReclaimStat) -> str:
        """Count dirty pages of files; pages that are being written are left alone.

        Source: mm/vmscan.c:shrink_folio_list, folio_check_dirty_writeback @6.1.192
        """
        file = folio_is_file_lru(folio)
        dirty = file and folio.flags & PG_DIRTY
        writeback = folio.flags & PG_WRITEBACK
        if dirty or (file and writeback):
            seen.nr_dirty += folio.nr_pages
            if not writeback:
                seen.nr_unqueued_dirty += folio.nr_pages
        if not writeback:
            return ""
        if folio.flags & PG_RECLAIM:
            if file:
                seen.nr_congested += folio.nr_pages
            if self.reclaim.current_is_kswapd and pgdat.writeback:
                seen.nr_immediate += folio.nr_pages
                return "activate"
        folio.flags |= PG_RECLAIM
        seen.nr_writeback += folio.nr_pages
        return "activate"

    def folio_check_references(self, folio: Folio) -> str:
        """What the page's use since the last look says: reclaim, reclaim_clean, keep or activate.

        Source: mm/vmscan.c:folio_check_references @6.1.192
        """
        referenced_ptes, vm_flags = self.reclaim.rmap.page_referenced(folio.pfn)
        referenced_folio = folio.flags & PG_REFERENCED
        folio.flags &= ~PG_REFERENCED
        if vm_flags & VM_LOCKED:
            return "activate"
        file = folio_is_file_lru(folio)
        if referenced_ptes:
            folio.flags |= PG_REFERENCED
            if referenced_folio or referenced_ptes > 1:
                return "activate"
            return "activate" if vm_flags & VM_EXEC and file else "keep"
        return "reclaim_clean" if referenced_folio and file else "reclaim"

    def _write_out(self, folio: Folio, pgdat: Pgdat, sc: ScanControl, seen: _ReclaimStat, references: str) -> str:
        """Write a dirty page out, or leave it; nothing if it is clean now and can be freed.

        Source: mm/vmscan.c:shrink_folio_list, mm/vmscan.c:pageout @6.1.192
        """
        kswapd = self.reclaim.current_is_kswapd
        file = folio_is_file_lru(folio)
        if file and (not kswapd or not folio.flags & PG_RECLAIM or not pgdat.dirty):
            # the flusher writes files; this page goes first when that is done
            self.stat.node[pgdat.node]["nr_vmscan_immediate_reclaim"] += folio.nr_pages
            folio.flags |= PG_RECLAIM
            return "activate"
        may_enter_fs = sc.gfp_mask & _GFP_FS or (folio.flags & PG_SWAPCACHE and sc.gfp_mask & _GFP_IO)
        if references == "reclaim_clean" or not may_enter_fs or not sc.may_writepage:
            return "keep"
        if folio.refcount != 2 or folio.mapping is None:
            return "keep"
        if folio.flags & PG_SWAPCACHE:
            self.reclaim.swap.swap_writepage(folio)
        elif file:
            folio.flags |= PG_RECLAIM
            self.reclaim.filemap.writepage(folio)
        else:  # shared memory that has no swap slot stays
            return "activate"
        self.stat.node[pgdat.node]["nr_vmscan_write"] += folio.nr_pages
        seen.nr_pageout += folio.nr_pages
        return "keep" if folio.flags & (PG_WRITEBACK | PG_DIRTY) else ""

    # A node

    def shrink_lruvec(self, lruvec: Lruvec, sc: ScanControl) -> None:
        """Scan the lists of a node by what the priority says, both kinds in proportion.

        Source: mm/vmscan.c:shrink_lruvec @6.1.192
        """
        sizes = [self.lru.size(lruvec, lru, sc.reclaim_idx) for lru in _EVICTABLE]
        nr = scan_targets(sizes, sc, swappiness=self.swappiness, can_reclaim_anon=self.can_reclaim_anon_pages())
        targets = list(nr)
        nr_reclaimed = 0
        proportional = not self.reclaim.current_is_kswapd and sc.priority == DEF_PRIORITY
        while nr[LRU_INACTIVE_ANON] or nr[LRU_ACTIVE_FILE] or nr[LRU_INACTIVE_FILE]:
            for lru in _EVICTABLE:
                if nr[lru]:
                    nr_to_scan = min(nr[lru], SWAP_CLUSTER_MAX)
                    nr[lru] -= nr_to_scan
                    nr_reclaimed += self._shrink_list(lru, nr_to_scan, lruvec, sc)
            self.reclaim.cond_resched()
            if nr_reclaimed < sc.nr_to_reclaim or proportional:
                continue
            if not _balance_scan(nr, targets):
                break
        sc.nr_reclaimed += nr_reclaimed
        if self.stat.swap_pages and self._low(lruvec, LRU_INACTIVE_ANON):
            self.shrink_active_list(SWAP_CLUSTER_MAX, lruvec, sc, LRU_ACTIVE_ANON)

    def _shrink_list(self, lru: int, nr_to_scan: int, lruvec: Lruvec, sc: ScanControl) -> int:
        """Source: mm/vmscan.c:shrink_list @6.1.192."""
        if lru in (LRU_INACTIVE_ANON, LRU_INACTIVE_FILE):
            return self.shrink_inactive_list(nr_to_scan, lruvec, sc, lru)
        if sc.may_deactivate & (1 << is_file_lru(lru)):
            self.shrink_active_list(nr_to_scan, lruvec, sc, lru)
        else:
            sc.skipped_deactivate = True
        return 0

    def _prepare_scan_count(self, lruvec: Lruvec, sc: ScanControl) -> None:
        """Find out about a node what decides between anonymous and file pages.

        Source: mm/vmscan.c:prepare_scan_count @6.1.192
        """
        counters = self.stat.node[lruvec.node]
        sc.anon_cost, sc.file_cost = lruvec.anon_cost, lruvec.file_cost
        sc.may_deactivate = _DEACTIVATE_ANON | _DEACTIVATE_FILE
        if not sc.force_deactivate:
            anon, file = counters["workingset_activate_anon"], counters["workingset_activate_file"]
            if anon == lruvec.refaults[0] and not self._low(lruvec, LRU_INACTIVE_ANON):
                sc.may_deactivate &= ~_DEACTIVATE_ANON
            if file == lruvec.refaults[1] and not self._low(lruvec, LRU_INACTIVE_FILE):
                sc.may_deactivate &= ~_DEACTIVATE_FILE
        inactive_file = lruvec.pages[LRU_INACTIVE_FILE]
        sc.cache_trim_mode = bool(inactive_file >> sc.priority) and not sc.may_deactivate & _DEACTIVATE_FILE
        free = high = 0
        for zone in self.reclaim.managed_zones(lruvec.node):
            free += max(int(self.reclaim.zones["free_pages"][zone]), 0)
            high += self.reclaim.high_wmark_pages(zone)
        file = inactive_file + lruvec.pages[LRU_ACTIVE_FILE]
        anon = lruvec.pages[LRU_INACTIVE_ANON]
        sc.file_is_tiny = file + free <= high and not sc.may_deactivate & _DEACTIVATE_ANON and bool(anon >> sc.priority)

    def shrink_node(self, pgdat: Pgdat, sc: ScanControl) -> None:
        """Free pages and slab objects of one node.

        Source: mm/vmscan.c:shrink_node @6.1.192
        """
        lruvec = self.lru.nodes[pgdat.node]
        reclaimable = False
        while True:
            sc.clear_seen()
            before = sc.nr_reclaimed
            self._prepare_scan_count(lruvec, sc)
            self.shrink_lruvec(lruvec, sc)
            self.shrink_slab(sc.gfp_mask, pgdat.node, sc.priority)
            sc.nr_reclaimed += self._reclaimed_slab
            self._reclaimed_slab = 0
            reclaimable = reclaimable or sc.nr_reclaimed > before
            self._throttle_on_writing(pgdat, lruvec, sc)
            if not self._should_continue_reclaim(pgdat, sc.nr_reclaimed - before, sc):
                break
        if reclaimable:
            pgdat.kswapd_failures = 0

    def _throttle_on_writing(self, pgdat: Pgdat, lruvec: Lruvec, sc: ScanControl) -> None:
        """Source: mm/vmscan.c:shrink_node @6.1.192."""
        if self.reclaim.current_is_kswapd:
            if sc.writeback and sc.writeback == sc.taken:
                pgdat.writeback = True
            if sc.unqueued_dirty == sc.file_taken:
                pgdat.dirty = True
            if sc.immediate:
                self.reclaim.reclaim_throttle("writeback", _TICK_NS * 25)
            if sc.dirty and sc.dirty == sc.congested:
                lruvec.congested = True
        elif lruvec.congested and not self._skip_throttle_noprogress(pgdat):
            self.reclaim.reclaim_throttle("congested", _TICK_NS)

    def _skip_throttle_noprogress(self, pgdat: Pgdat) -> bool:
        """Source: mm/vmscan.c:skip_throttle_noprogress @6.1.192."""
        if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:
            return True
        zones = list(self.reclaim.managed_zones(pgdat.node))
        reclaimable = sum(self.zone_reclaimable_pages(zone) for zone in zones)
        pending = sum(self.stat.zone[zone]["nr_zone_write_pending"] for zone in zones)
        return 2 * pending <= reclaimable

    def shrink_slab(self, gfp: int, node: int, priority: int) -> int:
        """Call every shrinker; objects freed.

        Source: mm/vmscan.c:shrink_slab @6.1.192
        """
        shrinkers = list(self.reclaim.shrinkers)
        if not shrinkers:
            return 0
        freed = 0
        slab_pages = self.reclaim.freed_slab_pages()
        for shrinker in shrinkers:
            answer = do_shrink_slab(ShrinkControl(gfp, node), shrinker, priority, self.stat, self.reclaim.cond_resched)
            freed += 0 if answer == SHRINK_EMPTY else answer
        self._reclaimed_slab += self.reclaim.freed_slab_pages() - slab_pages
        return freed

    def in_reclaim_compaction(self, sc: ScanControl) -> bool:
        """Whether reclaim makes room for compaction.

        Source: mm/vmscan.c:in_reclaim_compaction @6.1.192
        """
        return bool(sc.gfp_mask & _GFP_IO and sc.order) and (
            sc.order > PAGE_ALLOC_COSTLY_ORDER or sc.priority < DEF_PRIORITY - 2
        )

    def _should_continue_reclaim(self, pgdat: Pgdat, nr_reclaimed: int, sc: ScanControl) -> bool:
        """Source: mm/vmscan.c:should_continue_reclaim @6.1.192."""
        if not self.in_reclaim_compaction(sc) or not nr_reclaimed:
            return False
        suitable = self.reclaim.compaction.compaction_suitable
        for zone in self.reclaim.managed_zones(pgdat.node, sc.reclaim_idx):
            if suitable(zone, sc.order, 0, sc.reclaim_idx) in (CompactResult.SUCCESS, CompactResult.CONTINUE):
                return False
        lruvec = self.lru.nodes[pgdat.node]
        inactive = lruvec.pages[LRU_INACTIVE_FILE]
        if self.can_reclaim_anon_pages():
            inactive += lruvec.pages[LRU_INACTIVE_ANON]
        return inactive > 2 << sc.order

    # Direct reclaim

    def _compaction_ready(self, zone: int, sc: ScanControl) -> bool:
        """Whether compaction can do better than more reclaim.

        Source: mm/vmscan.c:compaction_ready @6.1.192
        """
        if not sc.gfp_mask & _GFP_IO:
            return False
        suitable = self.reclaim.compaction.compaction_suitable(zone, sc.order, 0, sc.reclaim_idx)
        if suitable == CompactResult.SUCCESS:
            return True
        if suitable == CompactResult.SKIPPED:
            return False
        mark = self.reclaim.high_wmark_pages(zone) + (2 << sc.order)
        return self.reclaim.page_alloc.zone_watermark_ok(zone, 0, mark, sc.reclaim_idx)

    def _shrink_zones(self, zonelist: list[int], sc: ScanControl) -> None:
        """Source: mm/vmscan.c:shrink_zones @6.1.192."""
        last = first = -1
        for zone in zonelist:
            if sc.order > PAGE_ALLOC_COSTLY_ORDER and self._compaction_ready(zone, sc):
                sc.compaction_ready = True
                continue
            node = zone // _MAX_NR_ZONES
            if node == last:
                continue
            first = node if first < 0 else first
            last = node
            self.shrink_node(self.reclaim.pgdats[node], sc)
        if first >= 0 and sc.nr_reclaimed <= sc.nr_scanned >> 3 and sc.priority == 1 and not sc.nr_reclaimed:
            if not self._skip_throttle_noprogress(self.reclaim.pgdats[first]):
                self.reclaim.reclaim_throttle("no progress", _TICK_NS)

    def do_try_to_free_pages(self, zonelist: list[int], sc: ScanControl) -> int:
        """Raise the priority until enough is free; pages freed, 1 if compaction should go ahead.

        Source: mm/vmscan.c:do_try_to_free_pages @6.1.192
        """
        initial = sc.priority
        while True:
            self.stat.count(f"allocstall_{self.reclaim.zone_suffix(sc.reclaim_idx)}")
            while sc.priority >= 0:
                sc.nr_scanned = 0
                self._shrink_zones(zonelist, sc)
                if sc.nr_reclaimed >= sc.nr_to_reclaim or sc.compaction_ready:
                    break
                if sc.priority < DEF_PRIORITY - 2:
                    sc.may_writepage = True
                sc.priority -= 1
            for node in dict.fromkeys(zone // _MAX_NR_ZONES for zone in zonelist):
                self.snapshot_refaults(node)
            if sc.nr_reclaimed:
                return sc.nr_reclaimed
            if sc.compaction_ready:
                return 1
            if not sc.skipped_deactivate:
                return 0
            sc.priority = initial
            sc.force_deactivate = True
            sc.skipped_deactivate = False

    def snapshot_refaults(self, node: int) -> None:
        """Remember the refaults of now, to see whether more come.

        Source: mm/vmscan.c:snapshot_refaults @6.1.192
        """
        counters = self.stat.node[node]
        self.lru.nodes[node].refaults = [counters["workingset_activate_anon"], counters["workingset_activate_file"]]

    def try_to_free_pages(self, request: Request) -> int:
        """Reclaim on behalf of a request; pages freed.

        Source: mm/vmscan.c:try_to_free_pages @6.1.192
        """
        sc = ScanControl(
            nr_to_reclaim=SWAP_CLUSTER_MAX,
            gfp_mask=request.gfp,
            order=request.order,
            reclaim_idx=request.highest_zoneidx,
        )
        zonelist = self.reclaim.zonelist(request)
        if self._throttle_direct_reclaim(zonelist, request):
            return 1
        return self.do_try_to_free_pages(zonelist, sc)

    def allow_direct_reclaim(self, pgdat: Pgdat) -> bool:
        """Whether at least half of the least reserve is free.

        Source: mm/vmscan.c:allow_direct_reclaim @6.1.192
        """
        if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:
            return True
        reserve = free = 0
        for zone in self.reclaim.managed_zones(pgdat.node, self.reclaim.zone_normal):
            if self.zone_reclaimable_pages(zone):
                reserve += self.reclaim.min_wmark_pages(zone)
                free += max(int(self.reclaim.zones["free_pages"][zone]), 0)
        return not reserve or free > reserve // 2

    def _throttle_direct_reclaim(self, zonelist: list[int], request: Request) -> bool:
        """Let a process wait for kswapd when the reserves run out; whether it is being killed.

        Source: mm/vmscan.c:throttle_direct_reclaim @6.1.192
        Differs: without a scheduler there is nobody to wait for: kswapd runs at once.
        """
        if self.reclaim.kernel.current.flags & PF_KTHREAD or self.reclaim.fatal_signal_pending():
            return False
        for zone in zonelist:
            if zone % _MAX_NR_ZONES > self.reclaim.zone_normal:
                continue
            pgdat = self.reclaim.pgdats[zone // _MAX_NR_ZONES]
            if self.allow_direct_reclaim(pgdat):
                return False
            self.stat.count("pgscan_direct_throttle")
            pgdat.kswapd_highest_zoneidx = min(pgdat.kswapd_highest_zoneidx, self.reclaim.zone_normal)
            self.reclaim.kswapd.wait_for_reserves(pgdat, forever=bool(request.gfp & _GFP_FS))
            return self.reclaim.fatal_signal_pending()
        return False


def _balance_scan(nr: list[int], targets: list[int]) -> bool:
    """Enough was freed: stop with the kind that has less left, scan the other as far as that got.

    Returns whether to go on at all.

    Source: mm/vmscan.c:shrink_lruvec @6.1.192
    """
    nr_file = nr[LRU_INACTIVE_FILE] + nr[LRU_ACTIVE_FILE]
    nr_anon = nr[LRU_INACTIVE_ANON] + nr[LRU_ACTIVE_ANON]
    if not nr_file or not nr_anon:
        return False
    if nr_file > nr_anon:
        stop, go_on = LRU_INACTIVE_ANON, LRU_INACTIVE_FILE
        percentage = nr_anon * 100 // (targets[LRU_INACTIVE_ANON] + targets[LRU_ACTIVE_ANON] + 1)
    else:
        stop, go_on = LRU_INACTIVE_FILE, LRU_INACTIVE_ANON
        percentage = nr_file * 100 // (targets[LRU_INACTIVE_FILE] + targets[LRU_ACTIVE_FILE] + 1)
    nr[stop] = nr[stop + 1] = 0
    for lru in (go_on, go_on + 1):
        scanned = targets[lru] - nr[lru]
        nr[lru] = targets[lru] * (100 - percentage) // 100
        nr[lru] -= min(nr[lru], scanned)
    return True
