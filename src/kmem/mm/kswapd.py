# SPDX-License-Identifier: GPL-2.0-only
"""kswapd: the thread of each node that frees memory before anybody has to wait for it.

It is woken when a zone falls below its low watermark and works until one that
the waker could use is above its high watermark.  With a scheduler it is a
kernel thread; without one its work is done at once, on the waker's time, as if
it had been given the CPU; a waker that may not be preempted leaves the work to
the next who can.

Source: mm/vmscan.c:kswapd, balance_pgdat, wakeup_kswapd @6.1.192
Differs: no freezing, no memory cgroups, and per-CPU counters keep their thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.mm.lru import LRU_ACTIVE_ANON, LRU_INACTIVE_ANON
from kmem.mm.task import PF_KSWAPD, PF_KTHREAD, PF_MEMALLOC, TASK_INTERRUPTIBLE, Task
from kmem.mm.vmscan import DEF_PRIORITY, MAX_RECLAIM_RETRIES, SWAP_CLUSTER_MAX, ScanControl, Vmscan, inactive_is_low

if TYPE_CHECKING:
    from kmem.mm.reclaim import Pgdat, Reclaim

__all__ = ["Kswapd"]

_MAX_NR_ZONES = 5
_GFP_KERNEL = 0xCC0
_GFP_DIRECT_RECLAIM = 0x400
_ZONE_RECLAIM_ACTIVE = 2
_SHORT_SLEEP_NS = 100_000_000  # HZ/10
_FIRST_PID = 30


class Kswapd:
    """The kswapd threads of a machine.

    Parameters
    ----------
    reclaim : Reclaim
        The parts that they work on.
    vmscan : Vmscan
        How pages are found.

    Attributes
    ----------
    tasks : list of Task
        One a node.
    """

    def __init__(self, reclaim: Reclaim, vmscan: Vmscan) -> None:
        self.reclaim = reclaim
        self.vmscan = vmscan
        self.stat = reclaim.stat
        flags = PF_MEMALLOC | PF_KSWAPD | PF_KTHREAD
        self.tasks = [Task(_FIRST_PID + pgdat.node, f"kswapd{pgdat.node}", flags) for pgdat in reclaim.pgdats]
        self._threads: list[Task | None] = [None for _ in reclaim.pgdats]
        self._waiting: list[list[Task]] = [[] for _ in reclaim.pgdats]
        self._running: set[int] = set()
        self._pending: set[int] = set()

    # What is balanced

    def pgdat_balanced(self, pgdat: Pgdat, order: int, highest_zoneidx: int) -> bool:
        """Whether some zone up to `highest_zoneidx` is above its high watermark for `order`.

        Source: mm/vmscan.c:pgdat_balanced @6.1.192
        """
        reclaim = self.reclaim
        found = False
        for zone in reclaim.managed_zones(pgdat.node, highest_zoneidx):
            found = True
            mark = reclaim.high_wmark_pages(zone)
            if reclaim.page_alloc.zone_watermark_ok(zone, order, mark, highest_zoneidx):
                return True
        return not found

    def pgdat_watermark_boosted(self, pgdat: Pgdat, highest_zoneidx: int) -> bool:
        """Whether the watermarks of some zone are raised for the moment.

        Source: mm/vmscan.c:pgdat_watermark_boosted @6.1.192
        """
        zones = self.reclaim.managed_zones(pgdat.node, highest_zoneidx)
        return any(int(self.reclaim.zones["watermark_boost"][zone]) for zone in zones)

    # Waking it

    def wakeup(self, zone: int, gfp: int, order: int, highest_zoneidx: int) -> None:
        """Have kswapd see to a zone's node, or kcompactd if only compaction would help.

        Notes
        -----
        Context: any.

        Source: mm/vmscan.c:wakeup_kswapd @6.1.192
        """
        reclaim = self.reclaim
        if not reclaim.zones["managed"][zone]:
            return
        pgdat = reclaim.pgdats[zone // _MAX_NR_ZONES]
        if pgdat.kswapd_highest_zoneidx == _MAX_NR_ZONES or pgdat.kswapd_highest_zoneidx < highest_zoneidx:
            pgdat.kswapd_highest_zoneidx = highest_zoneidx
        pgdat.kswapd_order = max(pgdat.kswapd_order, order)
        if pgdat.node in self._running:
            return
        balanced = self.pgdat_balanced(pgdat, order, highest_zoneidx)
        hopeless = pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES
        if hopeless or (balanced and not self.pgdat_watermark_boosted(pgdat, highest_zoneidx)):
            if not gfp & _GFP_DIRECT_RECLAIM:
                reclaim.compaction.wakeup_kcompactd(pgdat, order, highest_zoneidx)
            return
        self._wake(pgdat)

    def _wake(self, pgdat: Pgdat) -> None:
        sched = self.reclaim.kernel.sched
        if sched is not None:
            task = self._threads[pgdat.node]
            if task is None:
                self._running.add(pgdat.node)
                name = self.tasks[pgdat.node].comm
                task = sched.kthread_run(lambda: self._thread(pgdat), name, daemon=True)
                task.flags |= PF_MEMALLOC | PF_KSWAPD | PF_KTHREAD
                self._threads[pgdat.node] = task
            elif pgdat.node not in self._running:
                self._running.add(pgdat.node)
                sched.wake_up(task)
            return
        self._pending.add(pgdat.node)
        self.run_pending()

    def run_pending(self) -> None:
        """Do the work that could not be done when it was asked for, if now it can.

        Notes
        -----
        Context: any; nothing happens where sleeping is not allowed. Only without a scheduler is
        there anything to do.
        """
        if not self._pending or self._running or self.reclaim.in_atomic():
            return
        while self._pending:
            node = min(self._pending)
            self._pending.discard(node)
            self._running.add(node)
            try:
                with self.reclaim.acting_as(self.tasks[node]):
                    self._work(self.reclaim.pgdats[node])
            finally:
                self._running.discard(node)

    def wait_for_reserves(self, pgdat: Pgdat, *, forever: bool) -> None:
        """Let the caller sleep until kswapd has freed half of the least reserve, or for a second.

        Source: mm/vmscan.c:throttle_direct_reclaim @6.1.192
        """
        self._wake(pgdat)
        sched = self.reclaim.kernel.sched
        if sched is None:
            return
        task = self.reclaim.kernel.current
        while not self.vmscan.allow_direct_reclaim(pgdat) and not self.reclaim.fatal_signal_pending():
            self._waiting[pgdat.node].append(task)
            woken = sched.schedule("pfmemalloc_wait", None if forever else 1_000_000_000)
            if task in self._waiting[pgdat.node]:
                self._waiting[pgdat.node].remove(task)
            if not woken:
                return

    def _wake_waiting(self, pgdat: Pgdat) -> None:
        waiting, self._waiting[pgdat.node] = self._waiting[pgdat.node], []
        for task in waiting:
            self.reclaim.kernel.sched.wake_up(task)

    # The thread

    def _thread(self, pgdat: Pgdat) -> None:
        """Source: mm/vmscan.c:kswapd @6.1.192."""
        sched = self.reclaim.kernel.sched
        self.reclaim.page_alloc.task_flags = self.tasks[pgdat.node].flags
        try:
            while True:
                self._running.add(pgdat.node)
                self._work(pgdat)
                self._running.discard(pgdat.node)
                sched.schedule("kswapd_wait", state=TASK_INTERRUPTIBLE)
        finally:  # a shrinker raised something: the next one who needs kswapd makes another
            self._running.discard(pgdat.node)
            self._threads[pgdat.node] = None

    def _work(self, pgdat: Pgdat) -> None:
        """Balance the node until kswapd may go to sleep.

        Source: mm/vmscan.c:kswapd, kswapd_try_to_sleep @6.1.192
        Differs: the tenth of a second for which kswapd sleeps lightly first is left out.
        """
        highest = _MAX_NR_ZONES - 1
        while True:
            alloc_order = pgdat.kswapd_order
            if pgdat.kswapd_highest_zoneidx != _MAX_NR_ZONES:
                highest = pgdat.kswapd_highest_zoneidx
            pgdat.kswapd_order = 0
            pgdat.kswapd_highest_zoneidx = _MAX_NR_ZONES
            reclaim_order = self.balance_pgdat(pgdat, alloc_order, highest)
            if reclaim_order >= alloc_order:
                alloc_order = reclaim_order = pgdat.kswapd_order
                if pgdat.kswapd_highest_zoneidx != _MAX_NR_ZONES:
                    highest = pgdat.kswapd_highest_zoneidx
            if self._may_sleep(pgdat, reclaim_order, highest):
                self.reclaim.compaction.reset_isolation_suitable(pgdat)
                self.reclaim.compaction.wakeup_kcompactd(pgdat, alloc_order, highest)
                return
            self.stat.count("kswapd_high_wmark_hit_quickly")

    def _may_sleep(self, pgdat: Pgdat, order: int, highest_zoneidx: int) -> bool:
        """Source: mm/vmscan.c:prepare_kswapd_sleep @6.1.192."""
        self._wake_waiting(pgdat)
        if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:
            return True
        if not self.pgdat_balanced(pgdat, order, highest_zoneidx):
            return False
        self.reclaim.lru.nodes[pgdat.node].congested = False
        pgdat.dirty = pgdat.writeback = False
        return True

    def _set_reclaim_active(self, pgdat: Pgdat, highest_zoneidx: int, active: bool) -> None:
        """Have the per-CPU lists hold less while pages are reclaimed.

        Source: mm/vmscan.c:update_reclaim_active @6.1.192
        """
        flags = self.reclaim.zones["flags"]
        for zone in self.reclaim.managed_zones(pgdat.node, highest_zoneidx):
            if active:
                flags[zone] |= _ZONE_RECLAIM_ACTIVE
            else:
                flags[zone] &= 0xFF & ~_ZONE_RECLAIM_ACTIVE

    def balance_pgdat(self, pgdat: Pgdat, order: int, highest_zoneidx: int) -> int:
        """Reclaim until some zone is balanced, or in vain; the order that was worked for in the end.

        Source: mm/vmscan.c:balance_pgdat @6.1.192
        """
        reclaim = self.reclaim
        sc = ScanControl(0, _GFP_KERNEL, order, highest_zoneidx)
        self.stat.count("pageoutrun")
        boosts = {
            zone: int(reclaim.zones["watermark_boost"][zone])
            for zone in reclaim.managed_zones(pgdat.node, highest_zoneidx)
        }
        boosts = {zone: boost for zone, boost in boosts.items() if boost}
        try:
            self._balance(pgdat, sc, highest_zoneidx, sum(boosts.values()))
        finally:
            self._set_reclaim_active(pgdat, highest_zoneidx, False)
        for zone, boost in boosts.items():
            now = int(reclaim.zones["watermark_boost"][zone])
            reclaim.zones["watermark_boost"][zone] = now - min(now, boost)
        if boosts:
            reclaim.compaction.wakeup_kcompactd(pgdat, reclaim.pageblock_order, highest_zoneidx)
        self.vmscan.snapshot_refaults(pgdat.node)
        return sc.order

    def _balance(self, pgdat: Pgdat, sc: ScanControl, highest_zoneidx: int, nr_boost_reclaim: int) -> None:
        """The loop over priorities of balance_pgdat(); the part that it is about.

        Source: mm/vmscan.c:balance_pgdat @6.1.192
        """
        self._set_reclaim_active(pgdat, highest_zoneidx, True)
        sc.priority = DEF_PRIORITY
        while sc.priority >= 1:
            before = sc.nr_reclaimed
            raise_priority = True
            sc.reclaim_idx = highest_zoneidx
            balanced = self.pgdat_balanced(pgdat, sc.order, highest_zoneidx)
            if not balanced and nr_boost_reclaim:
                nr_boost_reclaim = 0
                sc.priority = DEF_PRIORITY
                continue
            if not nr_boost_reclaim and balanced:
                return
            if nr_boost_reclaim and sc.priority == DEF_PRIORITY - 2:
                raise_priority = False
            sc.may_writepage = sc.may_swap = not nr_boost_reclaim
            self._age_node(pgdat, sc)
            if sc.priority < DEF_PRIORITY - 2:
                sc.may_writepage = True
            sc.nr_scanned = 0
            if self._shrink_node(pgdat, sc):
                raise_priority = False
            if self.vmscan.allow_direct_reclaim(pgdat):
                self._wake_waiting(pgdat)
            freed = sc.nr_reclaimed - before
            nr_boost_reclaim -= min(nr_boost_reclaim, freed)
            if nr_boost_reclaim and not freed:
                break
            if raise_priority or not freed:
                sc.priority -= 1
        if not sc.nr_reclaimed:
            pgdat.kswapd_failures += 1

    def _age_node(self, pgdat: Pgdat, sc: ScanControl) -> None:
        """Keep the inactive list of anonymous pages from running short.

        Source: mm/vmscan.c:kswapd_age_node @6.1.192
        """
        lruvec = self.reclaim.lru.nodes[pgdat.node]
        if self.stat.swap_pages and inactive_is_low(lruvec.pages[LRU_INACTIVE_ANON], lruvec.pages[LRU_ACTIVE_ANON]):
            self.vmscan.shrink_active_list(SWAP_CLUSTER_MAX, lruvec, sc, LRU_ACTIVE_ANON)

    def _shrink_node(self, pgdat: Pgdat, sc: ScanControl) -> bool:
        """Reclaim as much as the high watermarks add up to; whether so much was looked at.

        Source: mm/vmscan.c:kswapd_shrink_node @6.1.192
        """
        zones = self.reclaim.managed_zones(pgdat.node, sc.reclaim_idx)
        sc.nr_to_reclaim = sum(max(self.reclaim.high_wmark_pages(zone), SWAP_CLUSTER_MAX) for zone in zones)
        self.vmscan.shrink_node(pgdat, sc)
        if sc.order and sc.nr_reclaimed >= 2 << sc.order:
            sc.order = 0
        return sc.nr_scanned >= sc.nr_to_reclaim
