# SPDX-License-Identifier: GPL-2.0-only
"""kcompactd: the thread of each node that compacts for requests which cannot wait.

kswapd wakes it when it goes to sleep after working for a larger order, and
requests that may not reclaim do when there is enough free memory in blocks too
small.  As with kswapd, its work is done at once where there is no scheduler.

Source: mm/compaction.c:kcompactd @6.1.192
Differs: no proactive compaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.mm.task import PF_KTHREAD, TASK_INTERRUPTIBLE, Task

if TYPE_CHECKING:
    from kmem.mm.reclaim import Pgdat, Reclaim

__all__ = ["Kcompactd"]

_FIRST_PID = 40


class Kcompactd:
    """The kcompactd threads of a machine.

    Parameters
    ----------
    reclaim : Reclaim
        The parts that they work on.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self.tasks = [Task(_FIRST_PID + pgdat.node, f"kcompactd{pgdat.node}", PF_KTHREAD) for pgdat in reclaim.pgdats]
        self._threads: list[Task | None] = [None for _ in reclaim.pgdats]
        self._running: set[int] = set()
        self._pending: set[int] = set()

    def wake(self, pgdat: Pgdat) -> None:
        """Have a node compacted.

        Notes
        -----
        Context: any.
        """
        node, sched = pgdat.node, self.reclaim.kernel.sched
        if node in self._running:
            return
        if sched is None:
            self._pending.add(node)
            self.run_pending()
            return
        self._running.add(node)
        task = self._threads[node]
        if task is None:
            self._threads[node] = task = sched.kthread_run(
                lambda: self._thread(pgdat), self.tasks[node].comm, daemon=True
            )
            task.flags |= PF_KTHREAD
        else:
            sched.wake_up(task)

    def run_pending(self) -> None:
        """Do the work that could not be done when it was asked for, if now it can.

        See :meth:`kmem.mm.kswapd.Kswapd.run_pending`.
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

    def _thread(self, pgdat: Pgdat) -> None:
        """Source: mm/compaction.c:kcompactd @6.1.192."""
        try:
            while True:
                self._running.add(pgdat.node)
                self._work(pgdat)
                self._running.discard(pgdat.node)
                self.reclaim.kernel.sched.schedule("kcompactd_wait", state=TASK_INTERRUPTIBLE)
        finally:
            self._running.discard(pgdat.node)
            self._threads[pgdat.node] = None

    def _work(self, pgdat: Pgdat) -> None:
        if pgdat.kcompactd_max_order > 0:
            self.reclaim.compaction.kcompactd_do_work(pgdat)
