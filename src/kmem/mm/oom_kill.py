# SPDX-License-Identifier: GPL-2.0-only
"""The OOM killer: which process dies when nothing else is left to free.

Each process has points: the pages it occupies, its page tables and swap
included, moved up or down by ``oom_score_adj`` thousandths of all memory.  The
one with the most is killed, and its memory freed at once.

Source: mm/oom_kill.c @6.1.192
Differs: no memory cgroups, cpusets or memory policies; the victim's memory is
freed when it is chosen, not when it comes round to exiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmem.errors import KernelPanic
from kmem.mm.hooks import Request
from kmem.mm.mm_types import MM_ANONPAGES, MM_FILEPAGES, MM_SHMEMPAGES, MM_SWAPENTS, MmStruct
from kmem.mm.printk import KERN_ERR, KERN_INFO, KERN_WARNING
from kmem.mm.ratelimit import Ratelimit
from kmem.mm.show_mem import nodelist
from kmem.mm.task import PF_KTHREAD, Task
from kmem.profile import format_gfp

if TYPE_CHECKING:
    from kmem.mm.reclaim import Reclaim

__all__ = ["OOM_SCORE_ADJ_MAX", "OOM_SCORE_ADJ_MIN", "OomKiller", "SlabUsage", "oom_badness"]

OOM_SCORE_ADJ_MIN = -1000
OOM_SCORE_ADJ_MAX = 1000

_GFP_FS = 0x80
_INIT_PID = 1
_MAX_NR_ZONES = 5


@dataclass(frozen=True, slots=True)
class SlabUsage:
    """What a slab cache occupies, for the list of an OOM report.

    Attributes
    ----------
    name : str
    active_objs, num_objs : int
        Objects in use, and in all slabs.
    size : int
        Bytes from one object to the next.
    reclaimable : bool
        Whether shrinkers free them.
    """

    name: str
    active_objs: int
    num_objs: int
    size: int
    reclaimable: bool


def oom_unkillable_task(task: Task) -> bool:
    """Whether a task may not be killed at all: init and kernel threads.

    Source: mm/oom_kill.c:oom_unkillable_task @6.1.192
    """
    return task.pid == _INIT_PID or bool(task.flags & PF_KTHREAD)


def oom_badness(task: Task, totalpages: int) -> int | None:
    """Points of a process; None if it is not to be killed.

    Parameters
    ----------
    task : Task
    totalpages : int
        Memory and swap, in pages.

    Source: mm/oom_kill.c:oom_badness @6.1.192
    """
    mm: MmStruct | None = task.mm
    if oom_unkillable_task(task) or mm is None or mm.oom_skip or task.oom_score_adj == OOM_SCORE_ADJ_MIN:
        return None
    points = mm.rss + mm.rss_stat[MM_SWAPENTS] + mm.pgtables_bytes // 4096
    return points + task.oom_score_adj * (totalpages // 1000)


def _kb(pages: int) -> int:
    return pages << 2


class OomKiller:
    """The OOM killer of a machine.

    Parameters
    ----------
    reclaim : Reclaim
        Processes, counters and log.

    Attributes
    ----------
    panic_on_oom, oom_kill_allocating_task, oom_dump_tasks : int
        The sysctls of these names.
    slab_usage : callable
        Gives the slab caches, for the report.
    killed : list of Task
        Everybody who was killed, in order.
    notifiers : list of callable
        Asked first; each returns how many pages it has freed.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self.panic_on_oom = 0
        self.oom_kill_allocating_task = 0
        self.oom_dump_tasks = 1
        self.slab_usage: Callable[[], Iterable[SlabUsage]] = tuple
        self.killed: list[Task] = []
        self.notifiers: list[Callable[[], int]] = []
        self._ratelimit = Ratelimit()

    def totalpages(self) -> int:
        """Memory and swap together, in pages."""
        return int(self.reclaim.zones["managed"].sum()) + self.reclaim.stat.swap_pages

    def out_of_memory(self, request: Request) -> bool:
        """Kill something for a request; whether there is hope now.

        Raises
        ------
        KernelPanic
            If nothing can be killed, or the sysctl ``vm.panic_on_oom`` says so.

        Notes
        -----
        Context: process context, called for requests that may sleep.

        Source: mm/oom_kill.c:out_of_memory @6.1.192
        """
        if sum(notify() for notify in self.notifiers) > 0:
            return True
        current = self.reclaim.kernel.current
        if current.killed:
            return False  # it has had its share of the reserves; let it fail, and die
        if not request.gfp & _GFP_FS:
            return True
        if self.panic_on_oom:
            self._dump_header(request, None)
            kind = "compulsory" if self.panic_on_oom == 2 else "system-wide"
            self._panic(f"Out of memory: {kind} panic_on_oom is enabled")
        if self.oom_kill_allocating_task and oom_badness(current, 0) is not None:
            self._kill(request, current, "Out of memory (oom_kill_allocating_task)")
            return True
        victim = self.select_bad_process()
        if victim is None:
            self._dump_header(request, None)
            self._print("Out of memory and no killable processes...", KERN_WARNING)
            self._panic("System is deadlocked on memory")
        else:
            self._kill(request, victim, "Out of memory")
        return True

    def select_bad_process(self) -> Task | None:
        """Return the process with the most points, the youngest of several; None if there is none.

        Source: mm/oom_kill.c:select_bad_process @6.1.192
        """
        totalpages = self.totalpages()
        chosen, most = None, 0
        for task in self.reclaim.processes():
            points = oom_badness(task, totalpages)
            if points is not None and (chosen is None or points >= most):
                chosen, most = task, points
        return chosen

    # What is printed

    def _print(self, text: str, level: int = KERN_INFO) -> None:
        self.reclaim.kernel.printk.printk(text, level)

    def _panic(self, text: str) -> None:
        self._print(f"Kernel panic - not syncing: {text}", 0)
        raise KernelPanic(f"Kernel panic - not syncing: {text}")

    def _dump_header(self, request: Request, victim: Task | None) -> None:
        """Source: mm/oom_kill.c:dump_header @6.1.192."""
        current = self.reclaim.kernel.current
        self._print(
            f"{current.comm} invoked oom-killer: gfp_mask={request.gfp:#x}({format_gfp(request.gfp)}), "
            f"order={request.order}, oom_score_adj={current.oom_score_adj}",
            KERN_WARNING,
        )
        self._print(self.reclaim.dump_stack(), KERN_WARNING)
        self._print(self.reclaim.mem_info(max_zone_idx=request.highest_zoneidx), KERN_WARNING)
        if self._should_dump_unreclaim_slab():
            self._dump_unreclaimable_slab()
        if self.oom_dump_tasks:
            self.dump_tasks()
        if victim is not None:
            allowed = nodelist(self.reclaim.online_nodes())
            self._print(
                f"oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed={allowed},global_oom,"
                f"task_memcg=/,task={victim.comm},pid={victim.pid},uid=0"
            )

    def dump_tasks(self) -> None:
        """Print the table of all processes that could be killed.

        Source: mm/oom_kill.c:dump_tasks, dump_task @6.1.192
        """
        self._print("Tasks state (memory values in pages):")
        self._print("[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name")
        for task in self.reclaim.processes():
            mm = task.mm
            if oom_unkillable_task(task) or mm is None:
                continue
            self._print(
                f"[{task.pid:7d}] {0:5d} {task.pid:5d} {mm.total_vm:8d} {mm.rss:8d} {mm.pgtables_bytes:8d} "
                f"{mm.rss_stat[MM_SWAPENTS]:8d}         {task.oom_score_adj:5d} {task.comm}"
            )

    def _should_dump_unreclaim_slab(self) -> bool:
        """Source: mm/oom_kill.c:should_dump_unreclaim_slab @6.1.192."""
        state = self.reclaim.stat.global_node_page_state
        names = ("active_anon", "inactive_anon", "active_file", "inactive_file", "isolated_anon", "isolated_file")
        return state("nr_slab_unreclaimable") > sum(state(f"nr_{name}") for name in (*names, "unevictable"))

    def _dump_unreclaimable_slab(self) -> None:
        """Source: mm/slab_common.c:dump_unreclaimable_slab @6.1.192."""
        self._print("Unreclaimable slab info:")
        self._print("Name                      Used          Total")
        for cache in self.slab_usage():
            if not cache.reclaimable and cache.num_objs:
                used, total = cache.active_objs * cache.size >> 10, cache.num_objs * cache.size >> 10
                self._print(f"{cache.name:<17} {used:10d}KB {total:10d}KB")

    # Killing

    def _kill(self, request: Request, victim: Task, message: str) -> None:
        """Source: mm/oom_kill.c:oom_kill_process, __oom_kill_process @6.1.192."""
        if self._ratelimit.allow(self.reclaim.kernel.clock):
            self._dump_header(request, victim)
        mm: MmStruct = victim.mm
        self.reclaim.stat.count("oom_kill")
        self._print(
            f"{message}: Killed process {victim.pid} ({victim.comm}) total-vm:{_kb(mm.total_vm)}kB, "
            f"anon-rss:{_kb(mm.rss_stat[MM_ANONPAGES])}kB, file-rss:{_kb(mm.rss_stat[MM_FILEPAGES])}kB, "
            f"shmem-rss:{_kb(mm.rss_stat[MM_SHMEMPAGES])}kB, UID:0 pgtables:{mm.pgtables_bytes >> 10}kB "
            f"oom_score_adj:{victim.oom_score_adj}",
            KERN_ERR,
        )
        sharing = [task for task in self.reclaim.processes() if task is not victim and task.mm is mm]
        self.killed.append(victim)
        self.reclaim.kill(victim)
        for task in sharing:
            if not task.flags & PF_KTHREAD:
                self.reclaim.kill(task)
