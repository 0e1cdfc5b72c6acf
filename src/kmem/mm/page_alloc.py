# SPDX-License-Identifier: GPL-2.0-only
"""The page allocator: zone choice, watermarks, the slow path.

A request passes from :meth:`PageAllocator.alloc_pages` through the zonelist
(:meth:`get_page_from_freelist`) to the per-CPU lists (:mod:`kmem.mm.pcp`) or
the buddy system of one zone (:mod:`kmem.mm.buddy`).  What reclaim, compaction and the OOM killer
do on the slow path is behind :class:`kmem.mm.hooks.Hooks`.

Source: mm/page_alloc.c @6.1.192
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.buddy import (
    ALLOC_CMA,
    ALLOC_CPUSET,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MASK,
    ALLOC_WMARK_MIN,
    FPI_NONE,
    FPI_TO_TAIL,
)
from cython.cimports.kmem.mm.mmzone import (
    WMARK_MIN,
    ZONE_BOOSTED_WATERMARK,
    MemMap,
    Zone,
)
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    MAX_ORDER,
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
    PAGE_ALLOC_COSTLY_ORDER,
    PG_ALLOCATED,
    PG_FREE,
    PG_LARGE,
    PG_SLAB,
    PG_TAIL,
    PGF_HEAD,
    PGF_PFMEMALLOC,
    Page,
)
from cython.cimports.kmem.mm.page_prep import PagePrep
from cython.cimports.kmem.mm.tracepoint import TP_MM_PAGE_ALLOC, TP_MM_PAGE_FREE, TP_WATCH

from kmem.mm.hooks import CompactResult, Hooks, Request
from kmem.mm.page import NO_PAGE

#: "No frame", as the Python methods of this module return it.
NO_FRAME = -1
_NONE = cython.declare(cython.uint, NO_PAGE)
#: No frame yet: the slow path is to go round once more.
_RETRY = cython.declare(cython.uint, 0xFFFFFFFD)
PF_MEMALLOC = 0x800
MAX_RECLAIM_RETRIES = 16


@cython.final
@cython.cclass
class PageAllocator(PagePrep):
    """alloc_pages() and __free_pages() of one machine.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    zonelists : dict
        ``(node, thisnode)`` -> zone numbers in the order of fallback.
    cma : bool, optional
        Whether the kernel has CMA areas configured.

    Attributes
    ----------
    cpu, node : int
        The CPU that the calls run on, and its node.
    watch : kmem.mm.page_watch.PageWatch or None
        Who is asked before each request and told of each block; None while no debugging aid wants it.
    hooks : kmem.mm.hooks.Hooks or None
        Reclaim, compaction and OOM.
    """

    def __init__(self, memmap: MemMap, zonelists, cma=False):
        PagePrep.__init__(self, memmap, cma)
        self.hooks = Hooks()
        self._watch = None
        self.nr_nodes = memmap.nr_nodes
        self.has_dma32 = memmap.has_dma32
        self.zone_normal = memmap.zone_normal
        self.node = 0
        self.task_flags = 0
        self.set_zonelists(zonelists)
        self._init_gfp_zones()

    @property
    def watch(self):
        """Who is asked before each request and told of each block; None while no debugging aid wants it."""
        return self._watch

    @watch.setter
    def watch(self, watch):
        self._watch = watch
        # The test that trace events cost anyway leads there, too.
        if watch is None:
            self.trace.enabled &= ~(cython.cast(cython.uint, 1) << TP_WATCH)
        else:
            self.trace.enabled |= cython.cast(cython.uint, 1) << TP_WATCH

    def set_zonelists(self, zonelists):
        """Set the fallback order; see the class."""
        rows = np.full((2 * self.nr_nodes, self.memmap.nr_zones + 1), 255, np.uint8)
        for (node, thisnode), zones in zonelists.items():
            rows[node + (self.nr_nodes if thisnode else 0), : len(zones)] = zones
        self.zonelists_array = rows
        self.zonelists = rows
        self.first_zones = self._first_zones(rows)

    def _first_zones(self, rows):
        """Position, in each zonelist, of the first zone for each highest zone index; -1 if there is none."""
        firsts = np.full((len(rows), MAX_NR_ZONES), -1, np.int32)
        for row, zones in enumerate(rows.tolist()):
            for highest in range(MAX_NR_ZONES):
                fit = [i for i, zone in enumerate(zones) if zone != 255 and zone % MAX_NR_ZONES <= highest]
                if fit:
                    firsts[row, highest] = fit[0]
        return firsts

    def _init_gfp_zones(self):
        """Zone index for each combination of the zone bits of gfp.

        Source: include/linux/gfp.h:GFP_ZONE_TABLE @6.1.192
        """
        names = self.memmap.zone_names
        normal = names.index("Normal")
        highmem = names.index("HighMem") if "HighMem" in names else normal
        dma32 = names.index("DMA32") if "DMA32" in names else normal
        dma = names.index("DMA") if "DMA" in names else normal
        movable = names.index("Movable")
        table = dict.fromkeys(range(16), 0)
        table.update({0: normal, 1: dma, 2: highmem, 4: dma32, 8: normal, 9: dma, 10: movable, 12: dma32})
        for bits, zone in table.items():
            self.gfp_zones[bits] = zone

    # -- watermarks ---------------------------------------------------------

    def watermark_fast(self, z, order, mark, highest_zoneidx, alloc_flags, gfp):
        """The same for the zone as it is, with a short cut for single pages.

        Source: mm/page_alloc.c:zone_watermark_fast @6.1.192
        """
        free_pages: cython.long = max(z.free_pages, 0)
        usable: cython.long
        if not order:
            usable = free_pages
            if not alloc_flags & ALLOC_RESERVES:
                usable -= min(usable, z.nr_reserved_highatomic)
            if self.cma and not alloc_flags & ALLOC_CMA:
                usable -= min(usable, max(z.free_cma_pages, 0))
            if usable > mark + z.lowmem_reserve[highest_zoneidx]:
                return True
        if self.watermark_ok(z, order, mark, highest_zoneidx, alloc_flags, free_pages):
            return True
        if (
            not order
            and gfp & GFP_ATOMIC_BIT
            and z.watermark_boost
            and (alloc_flags & ALLOC_WMARK_MASK) == ALLOC_WMARK_MIN
        ):
            # the boost is kswapd's business, not an atomic request's
            return self.watermark_ok(z, order, z.watermark[WMARK_MIN], highest_zoneidx, alloc_flags, free_pages)
        return False

    # -- taking pages -------------------------------------------------------

    def rmqueue_buddy(self, zone, order, alloc_flags, migratetype):
        """Take a block from the zone itself.

        Source: mm/page_alloc.c:rmqueue_buddy @6.1.192
        """
        pfn: cython.uint = _NONE
        if alloc_flags & ALLOC_HIGHATOMIC:
            pfn = self.rmqueue_smallest(zone, order, MIGRATE_HIGHATOMIC)
        if pfn == _NONE:
            pfn = self.rmqueue_zone(zone, order, migratetype, alloc_flags)
            if pfn == _NONE and alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK):
                pfn = self.rmqueue_smallest(zone, order, MIGRATE_HIGHATOMIC)
            if pfn == _NONE:
                return _NONE
        self.mod_free_pages(zone, -(cython.cast(cython.long, 1) << order))
        if self.pages[pfn].migratetype == MIGRATE_CMA:
            self.mod_free_cma_pages(zone, -(cython.cast(cython.long, 1) << order))
        return pfn

    def rmqueue(self, zone, order, alloc_flags, migratetype):
        """Take a block from one zone, by way of the per-CPU lists where the order has any.

        Source: mm/page_alloc.c:rmqueue @6.1.192
        """
        pfn: cython.uint = _NONE
        if order <= PAGE_ALLOC_COSTLY_ORDER or (self.pcp_thp and order == self.pageblock_order):
            if not self.cma or alloc_flags & ALLOC_CMA or migratetype != MIGRATE_MOVABLE:
                pfn = self.rmqueue_pcplist(zone, order, alloc_flags, migratetype, True)
        if pfn == _NONE:
            pfn = self.rmqueue_buddy(zone, order, alloc_flags, migratetype)
        if self.zones[zone].flags & ZONE_BOOSTED_WATERMARK:
            self.zones[zone].flags &= ~ZONE_BOOSTED_WATERMARK
            self.hooks.wakeup_kswapd(zone, 0, 0, zone % MAX_NR_ZONES)
        return pfn

    def prep_new_page(self, pfn, order, gfp, alloc_flags):
        """Make a taken block an allocated one, compound if asked.

        Source: mm/page_alloc.c:prep_new_page, prep_compound_page @6.1.192
        """
        page: cython.pointer(Page) = cython.address(self.pages[pfn])
        tail: cython.uint
        page.kind = PG_ALLOCATED
        page.flags = PGF_PFMEMALLOC if alloc_flags & ALLOC_NO_WATERMARKS else 0
        if order and gfp & GFP_COMP_BIT:
            page.flags |= PGF_HEAD
            for tail in range(pfn + 1, pfn + (cython.cast(cython.uint, 1) << order)):
                self.pages[tail].kind = PG_TAIL
                self.pages[tail].head = pfn
        if self.ram_base:
            return self.init_pages(pfn, order, gfp)
        return 0

    def alloc_flags_nofragment(self, ac, gfp):
        """ALLOC_KSWAPD as gfp has it, and ALLOC_NOFRAGMENT where Normal is preferred.

        Source: mm/page_alloc.c:alloc_flags_nofragment @6.1.192
        """
        flags: cython.uint = gfp & GFP_KSWAPD_RECLAIM_BIT
        zone: cython.uint
        if not self.has_dma32 or ac.preferred < 0:
            return flags
        zone = self.zonelists[ac.row, ac.preferred]
        if self.zones[zone].index != self.zone_normal:
            return flags
        if self.nr_nodes > 1 and not self.zones[zone - 1].present:
            return flags
        return flags | ALLOC_NOFRAGMENT

    def get_page_from_freelist(self, gfp, order, alloc_flags, ac):
        """Take a block from the first zone of the zonelist with enough free.

        A single page of a zone with plenty is the common case, and goes without
        the rest of the walk.

        Source: mm/page_alloc.c:get_page_from_freelist @6.1.192
        Differs: no cpusets, no dirty-page spreading, no node reclaim (off by default).
        """
        zone: cython.uint
        pfn: cython.uint
        z: cython.pointer(Zone)
        if ac.preferred < 0:
            return _NONE
        if order or self.cma:
            return self.walk_zonelist(gfp, order, alloc_flags, ac, ac.preferred)
        zone = self.zonelists[ac.row, ac.preferred]
        z = cython.address(self.zones[zone])
        if z.free_pages - z.nr_reserved_highatomic <= (
            z.watermark[alloc_flags & ALLOC_WMARK_MASK] + z.watermark_boost + z.lowmem_reserve[ac.highest_zoneidx]
        ):
            return self.walk_zonelist(gfp, order, alloc_flags, ac, ac.preferred)
        pfn = self.rmqueue(zone, 0, alloc_flags, ac.migratetype)
        if pfn == _NONE:
            return self.walk_zonelist(gfp, order, alloc_flags, ac, ac.preferred + 1)
        self.prep_new_page(pfn, 0, gfp, alloc_flags)
        if alloc_flags & ALLOC_HIGHATOMIC:
            self.reserve_highatomic_pageblock(pfn, zone)
        return pfn

    def walk_zonelist(self, gfp, order, alloc_flags, ac, start):
        """Walk the zonelist from position `start` on, and once more without ALLOC_NOFRAGMENT.

        Source: mm/page_alloc.c:get_page_from_freelist @6.1.192
        """
        i: cython.int = start
        zone: cython.uint
        preferred_zone: cython.uint
        pfn: cython.uint
        z: cython.pointer(Zone)
        no_fallback: cython.bint
        restart: cython.bint
        preferred_zone = self.zonelists[ac.row, ac.preferred]
        while True:
            no_fallback = (alloc_flags & ALLOC_NOFRAGMENT) != 0
            restart = False
            while True:
                zone = self.zonelists[ac.row, i]
                i += 1
                if zone == 255:
                    break
                z = cython.address(self.zones[zone])
                if z.index > ac.highest_zoneidx:
                    continue
                if (
                    no_fallback
                    and self.nr_nodes > 1
                    and zone != preferred_zone
                    and z.node != self.zones[preferred_zone].node
                ):
                    # a local block of another type is better than a remote one
                    restart = True
                    break
                if (
                    not self.watermark_fast(
                        z,
                        order,
                        z.watermark[alloc_flags & ALLOC_WMARK_MASK] + z.watermark_boost,
                        ac.highest_zoneidx,
                        alloc_flags,
                        gfp,
                    )
                    and not alloc_flags & ALLOC_NO_WATERMARKS
                ):
                    continue
                pfn = self.rmqueue(zone, order, alloc_flags, ac.migratetype)
                if pfn != _NONE:
                    self.prep_new_page(pfn, order, gfp, alloc_flags)
                    if alloc_flags & ALLOC_HIGHATOMIC:
                        self.reserve_highatomic_pageblock(pfn, zone)
                    return pfn
            if not restart and not no_fallback:
                return _NONE
            alloc_flags &= ~cython.cast(cython.uint, ALLOC_NOFRAGMENT)
            i = ac.preferred

    def prepare(self, ac, node, gfp):
        """Fill the request's context from its gfp.

        Source: mm/page_alloc.c:prepare_alloc_pages, include/linux/gfp.h:gfp_migratetype @6.1.192
        """
        if node < 0:
            node = self.node
        ac.highest_zoneidx = self.gfp_zones[gfp & 15]
        ac.row = node + (self.nr_nodes if gfp & GFP_THISNODE_BIT else 0)
        ac.migratetype = MIGRATE_UNMOVABLE if self.page_group_by_mobility_disabled else (gfp >> 3) & 3
        ac.preferred = self.first_zones[ac.row, ac.highest_zoneidx]
        return 0

    def alloc_pages_node(self, node, gfp, order):
        """One request from one node: the fast path, then the slow path; the head frame or none.

        Source: mm/page_alloc.c:__alloc_pages @6.1.192
        """
        ac: AllocContext
        pfn: cython.uint
        alloc_flags: cython.uint = ALLOC_WMARK_LOW
        if order >= MAX_ORDER:
            self.nr_failed += 1
            return _NONE
        if self.trace.enabled and self._watch is not None and self._watch.should_fail(gfp, order):
            return _NONE
        self.prepare(cython.address(ac), node, gfp)
        if self.cma and ac.migratetype == MIGRATE_MOVABLE:
            alloc_flags |= ALLOC_CMA
        alloc_flags |= self.alloc_flags_nofragment(cython.address(ac), gfp)
        pfn = self.get_page_from_freelist(gfp, order, alloc_flags, cython.address(ac))
        if pfn == _NONE:
            pfn = self.slowpath(gfp, order, cython.address(ac))
            if pfn == _NONE:
                self.nr_failed += 1
        if self.trace.enabled:
            self.trace.page_event(
                TP_MM_PAGE_ALLOC, pfn, order, gfp, ac.migratetype, 255 if pfn == _NONE else self.pages[pfn].zone
            )
            if self._watch is not None and pfn != _NONE:
                self._watch.allocated(pfn, order, gfp)
        return pfn

    # -- the slow path ------------------------------------------------------

    def gfp_to_alloc_flags(self, gfp, order, migratetype):
        """What the request may do beyond the low watermark.

        Source: mm/page_alloc.c:gfp_to_alloc_flags @6.1.192
        Differs: no real-time tasks.
        """
        flags: cython.uint = ALLOC_WMARK_MIN | ALLOC_CPUSET
        flags |= gfp & (GFP_HIGH_BIT | GFP_KSWAPD_RECLAIM_BIT)
        if not gfp & GFP_DIRECT_RECLAIM_BIT:
            if not gfp & GFP_NOMEMALLOC_BIT:
                flags |= ALLOC_NON_BLOCK
                if order > 0 and flags & ALLOC_MIN_RESERVE:
                    flags |= ALLOC_HIGHATOMIC
            if flags & ALLOC_MIN_RESERVE:
                flags &= ~cython.cast(cython.uint, ALLOC_CPUSET)
        if self.cma and migratetype == MIGRATE_MOVABLE:
            flags |= ALLOC_CMA
        return flags

    def wake_all_kswapds(self, order, gfp, ac):
        """Tell the hooks about each node whose kswapd the kernel would wake, once a node."""
        i: cython.int = 0
        zone: cython.uint
        last_node: cython.int = -1
        while True:
            zone = self.zonelists[ac.row, i]
            i += 1
            if zone == 255:
                return 0
            if zone % MAX_NR_ZONES > ac.highest_zoneidx or not self.zones[zone].managed:
                continue
            if self.zones[zone].node != last_node:
                last_node = self.zones[zone].node
                self.hooks.wakeup_kswapd(zone, gfp, order, ac.highest_zoneidx)

    def slowpath(self, gfp, order, ac):
        """The second and later attempts, after the low watermark refused.

        Source: mm/page_alloc.c:__alloc_pages_slowpath @6.1.192
        Differs: no cpusets; what happens inside reclaim, compaction and OOM is
        up to the hooks.
        """
        pfn: cython.uint
        alloc_flags: cython.uint
        can_reclaim: cython.bint = (gfp & GFP_DIRECT_RECLAIM_BIT) != 0
        if gfp & GFP_ATOMIC_BIT and can_reclaim:
            gfp &= ~cython.cast(cython.uint, GFP_ATOMIC_BIT)
        alloc_flags = self.gfp_to_alloc_flags(gfp, order, ac.migratetype)
        if ac.preferred >= 0:
            if alloc_flags & ALLOC_KSWAPD:
                self.wake_all_kswapds(order, gfp, ac)
            pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac)
            if pfn != _NONE:
                return pfn
            if can_reclaim:
                return self.slowpath_reclaim(gfp, order, alloc_flags, ac)
            pfn = self.retry_with_reserves(gfp, order, cython.address(alloc_flags), ac)
            if pfn != _NONE:
                return pfn
        self.hooks.warn_alloc(self.request(gfp, order, alloc_flags, ac))
        return _NONE

    def request(self, gfp, order, alloc_flags, ac):
        """What the hooks are told of a request."""
        return Request(gfp, order, alloc_flags, ac.row % self.nr_nodes, ac.highest_zoneidx, ac.migratetype)

    def retry_with_reserves(self, gfp, order, alloc_flags, ac):
        """One round of the slow path's loop up to the point where it would reclaim."""
        reserve_flags: cython.uint = self.pfmemalloc_flags(gfp)
        if alloc_flags[0] & ALLOC_KSWAPD:
            self.wake_all_kswapds(order, gfp, ac)
        if reserve_flags:
            alloc_flags[0] = reserve_flags | (alloc_flags[0] & ALLOC_KSWAPD)
            if self.cma and ac.migratetype == MIGRATE_MOVABLE:
                alloc_flags[0] |= ALLOC_CMA
        return self.get_page_from_freelist(gfp, order, alloc_flags[0], ac)

    def slowpath_reclaim(self, gfp, order, alloc_flags, ac):
        """The slow path of a request that may sleep.

        Source: mm/page_alloc.c:__alloc_pages_slowpath from its compaction on @6.1.192
        """
        pfn: cython.uint
        costly: cython.bint = order > PAGE_ALLOC_COSTLY_ORDER
        can_compact: cython.bint = (gfp & GFP_IO_BIT) != 0
        no_progress: cython.int = 0
        compactions: cython.int = 0
        priority: cython.int = 1  # COMPACT_PRIO_SYNC_LIGHT
        request = self.request(gfp, order, alloc_flags, ac)
        result = CompactResult.SKIPPED
        if (
            can_compact
            and not self.pfmemalloc_flags(gfp)
            and (costly or (order > 0 and ac.migratetype != MIGRATE_MOVABLE))
        ):
            result = self.hooks.direct_compact(request, 2)
            if result != CompactResult.SKIPPED:
                pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac)
                if pfn != _NONE:
                    return pfn
            if costly and gfp & GFP_NORETRY_BIT:
                priority = 2  # COMPACT_PRIO_ASYNC
                if result in (CompactResult.SKIPPED, CompactResult.DEFERRED) or gfp & GFP_THISNODE_BIT:
                    pfn = self.nopage(gfp, order, ac, request)
                    if pfn != _RETRY:
                        return pfn
        while True:
            pfn = self.retry_with_reserves(gfp, order, cython.address(alloc_flags), ac)
            if pfn != _NONE:
                return pfn
            if self.task_flags & PF_MEMALLOC:  # it is reclaim itself that asks
                pfn = self.nopage(gfp, order, ac, request)
                if pfn != _RETRY:
                    return pfn
                continue
            progress = self.hooks.direct_reclaim(request)
            pfn = self.after_reclaim(gfp, order, alloc_flags, ac) if progress else _NONE
            if pfn == _NONE and order:
                result = self.hooks.direct_compact(request, priority)
                if result != CompactResult.SKIPPED:
                    pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac)
            if pfn != _NONE:
                return pfn
            if not gfp & GFP_NORETRY_BIT and not (costly and not (can_compact and gfp & GFP_RETRY_MAYFAIL_BIT)):
                no_progress = 0 if progress and not costly else no_progress + 1
                if self.should_reclaim_retry(order, alloc_flags, no_progress, ac):
                    continue
                if order and progress and can_compact and self.hooks.should_compact_retry(request, result, compactions):
                    compactions += 1
                    continue
                pfn = self.may_oom(gfp, order, ac, request)
                if pfn == _RETRY:
                    no_progress = 0
                    continue
                if pfn != _NONE:
                    return pfn
            pfn = self.nopage(gfp, order, ac, request)
            if pfn != _RETRY:
                return pfn

    def after_reclaim(self, gfp, order, alloc_flags, ac):
        """Look again after progress; once more with the reserves and per-CPU lists emptied.

        Source: mm/page_alloc.c:__alloc_pages_direct_reclaim @6.1.192
        """
        pfn: cython.uint = self.get_page_from_freelist(gfp, order, alloc_flags, ac)
        if pfn == _NONE:
            self.unreserve_highatomic(ac, False)
            self.drain_all_pages()
            pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac)
        return pfn

    def cpuset_fallback(self, gfp, order, alloc_flags, ac):
        """Two attempts: within the task's cpuset, then anywhere, which is the same here.

        Source: mm/page_alloc.c:__alloc_pages_cpuset_fallback @6.1.192
        """
        pfn: cython.uint = self.get_page_from_freelist(gfp, order, alloc_flags | ALLOC_CPUSET, ac)
        if pfn == _NONE:
            pfn = self.get_page_from_freelist(gfp, order, alloc_flags, ac)
        return pfn

    def nopage(self, gfp, order, ac, request):
        """Fail; or help a ``__GFP_NOFAIL`` request with half the reserves, or have it try again.

        Returns the frame, _NONE for a failure, or _RETRY.

        Raises
        ------
        RuntimeError
            For a ``__GFP_NOFAIL`` request that has nobody to wait for: the
            kernel loops forever here.

        Source: mm/page_alloc.c:__alloc_pages_slowpath from nopage on @6.1.192
        """
        pfn: cython.uint
        if not gfp & GFP_NOFAIL_BIT:
            self.hooks.warn_alloc(request)
            return _NONE
        pfn = self.cpuset_fallback(gfp, order, ALLOC_MIN_RESERVE, ac)
        if pfn != _NONE:
            return pfn
        if not self.hooks.wait(request):
            raise RuntimeError(
                f"order-{order} __GFP_NOFAIL request cannot be met: nothing is left to reclaim, "
                "the kernel would loop forever"
            )
        return _RETRY

    def may_oom(self, gfp, order, ac, request):
        """Look once more with the high watermark, then ask the OOM killer if it may help.

        Returns the frame, _RETRY if something was killed, or _NONE.

        Source: mm/page_alloc.c:__alloc_pages_may_oom @6.1.192
        Differs: no task is an OOM victim itself, so none gets ALLOC_OOM.
        """
        pfn: cython.uint = self.get_page_from_freelist(
            (gfp | GFP_HARDWALL_BIT) & ~cython.cast(cython.uint, GFP_DIRECT_RECLAIM_BIT),
            order,
            ALLOC_WMARK_HIGH | ALLOC_CPUSET,
            ac,
        )
        if (
            pfn != _NONE
            or order > PAGE_ALLOC_COSTLY_ORDER
            or gfp & (GFP_RETRY_MAYFAIL_BIT | GFP_THISNODE_BIT)
            or cython.cast(cython.int, ac.highest_zoneidx) < self.memmap.zone_normal
        ):
            return pfn
        killed: cython.bint = self.hooks.out_of_memory(request)
        if gfp & GFP_NOFAIL_BIT:  # helped whether or not something was killed
            pfn = self.cpuset_fallback(gfp, order, ALLOC_NO_WATERMARKS, ac)
        return _RETRY if pfn == _NONE and killed else pfn

    def should_reclaim_retry(self, order, alloc_flags, no_progress, ac):
        """Whether the request could be met if all that is reclaimable were reclaimed.

        Source: mm/page_alloc.c:should_reclaim_retry @6.1.192
        """
        i: cython.int = 0
        zone: cython.uint
        if no_progress <= MAX_RECLAIM_RETRIES:
            while self.zonelists[ac.row, i] != 255:
                zone = self.zonelists[ac.row, i]
                i += 1
                if zone % MAX_NR_ZONES > ac.highest_zoneidx:
                    continue
                available = self.hooks.zone_reclaimable_pages(zone) + self.zone_page_state_snapshot(zone)
                if self.watermark_ok(
                    cython.address(self.zones[zone]),
                    order,
                    self.zones[zone].watermark[WMARK_MIN] + self.zones[zone].watermark_boost,
                    ac.highest_zoneidx,
                    alloc_flags,
                    available,
                ):
                    return True
        return self.unreserve_highatomic(ac, True)

    def unreserve_highatomic(self, ac, force):
        """Give a reserved page block of an eligible zone back; whether pages moved.

        Source: mm/page_alloc.c:unreserve_highatomic_pageblock @6.1.192
        """
        i: cython.int = 0
        zone: cython.uint
        while self.zonelists[ac.row, i] != 255:
            zone = self.zonelists[ac.row, i]
            i += 1
            if zone % MAX_NR_ZONES <= ac.highest_zoneidx and self.unreserve_highatomic_zone(
                zone, ac.migratetype, force
            ):
                return True
        return False

    def pfmemalloc_flags(self, gfp):
        """ALLOC_NO_WATERMARKS for those who help to free memory.

        Source: mm/page_alloc.c:__gfp_pfmemalloc_flags @6.1.192
        """
        if gfp & GFP_NOMEMALLOC_BIT:
            return 0
        if gfp & GFP_MEMALLOC_BIT or self.task_flags & PF_MEMALLOC:
            return ALLOC_NO_WATERMARKS
        return 0

    def zone_page_state_snapshot(self, zone):
        """NR_FREE_PAGES of a zone with what the CPUs have not folded in yet.

        Source: include/linux/vmstat.h:zone_page_state_snapshot @6.1.192
        """
        total: cython.long = self.zones[zone].free_pages
        cpu: cython.int
        for cpu in range(self.nr_cpus):
            total += self.pagesets[self.zones[zone].pageset + cpu].stat_diff
        return max(total, 0)

    # -- giving pages back --------------------------------------------------

    def free_pages_prepare(self, pfn, order):
        """Check that the block is an allocated one and undo its preparation.

        Returns 0, or -2 with an exception where the kernel reports a bad page.

        Source: mm/page_alloc.c:free_pages_prepare @6.1.192
        """
        page: cython.pointer(Page)
        tail: cython.uint
        if pfn >= self.memmap.nr_frames or order >= MAX_ORDER:
            raise ValueError(f"no block of order {order} at frame {pfn}")
        page = cython.address(self.pages[pfn])
        if page.kind != PG_ALLOCATED and page.kind != PG_SLAB and page.kind != PG_LARGE:
            raise ValueError(f"frame {pfn} is not the head of an allocated block: freed twice, or never allocated")
        if page.order != order:
            raise ValueError(f"frame {pfn} was allocated with order {page.order}, not {order}")
        if page.flags & PGF_HEAD:
            for tail in range(pfn + 1, pfn + (cython.cast(cython.uint, 1) << order)):
                self.pages[tail].kind = PG_FREE
        page.flags = 0
        if self.ram_base and self.init_on_free:
            return self.clear_pages(pfn, order)
        return 0

    def free_pages_order(self, pfn, order):
        """Source: mm/page_alloc.c:__free_pages, free_the_page @6.1.192"""
        self.free_pages_prepare(pfn, order)
        if self.trace.enabled:
            self.trace.page_event(TP_MM_PAGE_FREE, pfn, order, 0, 0, self.pages[pfn].zone)
            if self._watch is not None:
                self._watch.freed(pfn, order)
        if order <= PAGE_ALLOC_COSTLY_ORDER or (self.pcp_thp and order == self.pageblock_order):
            return self.free_unref_page(pfn, order)
        return self.free_to_buddy(pfn, order, FPI_NONE)

    def free_to_buddy(self, pfn, order, fpi):
        """Source: mm/page_alloc.c:__free_pages_ok, free_one_page @6.1.192"""
        zone: cython.uint = self.pages[pfn].zone
        block: cython.uint = (pfn >> self.pageblock_order) + self.zones[zone].block_offset
        return self.free_one_page(pfn, zone, order, self.pageblocks[block], fpi)

    # -- the calls ----------------------------------------------------------

    def alloc_pages(self, gfp, order, node=-1):
        """Allocate 2**`order` frames; the first one's number, or -1 if it failed.

        Source: mm/page_alloc.c:__alloc_pages @6.1.192
        """
        pfn: cython.uint
        _check_request(gfp, order, node, self.nr_nodes)
        pfn = self.alloc_pages_node(node, gfp, order)
        return NO_FRAME if pfn == _NONE else pfn

    def free_pages(self, pfn, order):
        """Free a block that :meth:`alloc_pages` returned.

        Raises
        ------
        ValueError
            If no block of this order was allocated there.
        """
        if pfn < 0 or order < 0:
            raise ValueError(f"no block of order {order} at frame {pfn}")
        self.free_pages_order(pfn, order)

    def alloc_pages_exact(self, nr_pages, gfp, node=-1):
        """Allocate `nr_pages` contiguous frames, giving back the rest of the block.

        Each frame is to be freed alone, with order 0.

        Source: mm/page_alloc.c:alloc_pages_exact, make_alloc_exact @6.1.192
        """
        if nr_pages < 1:
            raise ValueError(f"cannot allocate {nr_pages} pages")
        order = (nr_pages - 1).bit_length()
        gfp &= ~(GFP_COMP_BIT | GFP_HIGHMEM_BIT)
        pfn = self.alloc_pages(gfp, order, node)
        if pfn == NO_FRAME:
            return NO_FRAME
        self.make_alloc_exact(pfn, order, nr_pages)
        return pfn

    def make_alloc_exact(self, pfn, order, nr_pages):
        """Split a block, and give back what lies behind its first `nr_pages` frames.

        Source: mm/page_alloc.c:make_alloc_exact @6.1.192
        """
        first: cython.uint = pfn
        i: cython.uint
        self.split_page(pfn, order)
        for i in range(first + nr_pages, first + (1 << order)):
            if self._watch is not None:
                self._watch.freed(i, 0)
            self.free_pages_prepare(i, 0)
            self.free_to_buddy(i, 0, FPI_TO_TAIL)

    def alloc_pages_bulk(self, gfp, nr_pages, node=-1, populated=0):
        """Allocate single frames at once, up to `nr_pages` less the `populated` that the caller has; a list of them.

        At least one is tried by every means; the rest only while the zone is
        above its low watermark.

        Source: mm/page_alloc.c:__alloc_pages_bulk @6.1.192
        Differs: no memory cgroups, so ``__GFP_ACCOUNT`` does not force single pages.
        """
        ac: AllocContext
        i: cython.int
        zone: cython.uint = 255
        pfn: cython.uint
        preferred: cython.uint
        z: cython.pointer(Zone)
        frames = []
        _check_request(gfp, 0, node, self.nr_nodes)
        if nr_pages <= populated:
            return frames
        if nr_pages - populated > 1 and self._watch is not None and self._watch.should_fail(gfp, 0):
            return frames
        self.prepare(cython.address(ac), node, gfp)
        if nr_pages - populated > 1 and ac.preferred >= 0:
            i = ac.preferred
            preferred = self.zonelists[ac.row, i]
            while True:
                zone = self.zonelists[ac.row, i]
                i += 1
                if zone == 255:
                    break
                if zone % MAX_NR_ZONES > ac.highest_zoneidx:
                    continue
                z = cython.address(self.zones[zone])
                if z.node != self.zones[preferred].node:
                    zone = 255
                    break
                if self.watermark_fast(
                    z,
                    0,
                    z.watermark[ALLOC_WMARK_LOW] + z.watermark_boost + nr_pages,
                    preferred % MAX_NR_ZONES,
                    self._bulk_flags(ac.migratetype),
                    gfp,
                ):
                    break
        while zone != 255 and len(frames) < nr_pages - populated:
            pfn = self.rmqueue_pcplist(zone, 0, self._bulk_flags(ac.migratetype), ac.migratetype, False)
            if pfn == _NONE:
                break
            self.prep_new_page(pfn, 0, gfp, 0)
            if self._watch is not None:
                self._watch.allocated(pfn, 0, gfp)
            frames.append(pfn)
        if not frames:
            pfn = self.alloc_pages_node(node, gfp, 0)
            if pfn != _NONE:
                frames.append(pfn)
        return frames

    def _bulk_flags(self, migratetype):
        return ALLOC_WMARK_LOW | (ALLOC_CMA if self.cma and migratetype == MIGRATE_MOVABLE else 0)

    def free_pages_core(self, pfn, order):
        """Give a block to its zone for the first time, at boot.

        Source: mm/page_alloc.c:__free_pages_core @6.1.192
        """
        first: cython.uint = pfn
        nr_pages: cython.uint = 1 << order
        self.zones[self.pages[first].zone].managed += nr_pages
        self.free_to_buddy(first, order, FPI_TO_TAIL)


def _check_request(gfp, order, node, nr_nodes):
    if not 0 <= gfp < 1 << 32:
        raise ValueError(f"gfp {gfp:#x} is not a 32-bit mask")
    if gfp & 0x18 == 0x18:
        raise ValueError(f"gfp {gfp:#x}: __GFP_MOVABLE and __GFP_RECLAIMABLE contradict each other")
    if not 0 <= order < 1 << 31:
        raise ValueError(f"order {order} is no order")
    if not -1 <= node < nr_nodes:
        raise ValueError(f"no node {node}: this machine has {nr_nodes}")
