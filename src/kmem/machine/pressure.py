# SPDX-License-Identifier: GPL-2.0-only
"""What a machine does when memory runs short: the page allocator's calls, answered.

The allocator asks a :class:`kmem.mm.hooks.Hooks` object for reclaim,
compaction and the OOM killer.  :class:`Pressure` is the one of a machine whose
kernel runs; replaying a trace or checking a recording goes without.

Source: mm/page_alloc.c:__alloc_pages_direct_reclaim, __alloc_pages_direct_compact, warn_alloc @6.1.192
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kmem.errors import ConfigError
from kmem.machine.observe import slab_pages, view_caches
from kmem.mm.gfp import __GFP_DMA, __GFP_DMA32, __GFP_FS, __GFP_NOWARN
from kmem.mm.hooks import CompactResult, Hooks, Request
from kmem.mm.oom_kill import SlabUsage
from kmem.mm.printk import KERN_WARNING
from kmem.mm.ratelimit import Ratelimit
from kmem.mm.reclaim import Reclaim
from kmem.mm.show_mem import SlabNode, slab_out_of_memory, warn_alloc, warn_alloc_nodes
from kmem.mm.slab_flags import SLAB_RECLAIM_ACCOUNT
from kmem.mm.task import PF_MEMALLOC

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["PRESSURE_SYSCTLS", "Pressure", "make_reclaim", "pressure_sysctl"]

_DMA, _DMA32, _FS, _NOWARN = __GFP_DMA, __GFP_DMA32, __GFP_FS, __GFP_NOWARN
_RETRY_NS = 100_000_000
_MAX_REQUESTS = 64

#: Sysctls of reclaim: which part keeps them, and the highest value that the kernel takes.
PRESSURE_SYSCTLS: Mapping[str, tuple[str, int]] = {
    "swappiness": ("vmscan", 200),
    "dirty_background_ratio": ("filemap", 100),
    "dirty_ratio": ("filemap", 100),
    "extfrag_threshold": ("compaction", 1000),
    "compact_unevictable_allowed": ("compaction", 1),
    "panic_on_oom": ("oom", 2),
    "oom_kill_allocating_task": ("oom", (1 << 31) - 1),
    "oom_dump_tasks": ("oom", (1 << 31) - 1),
}


def pressure_sysctl(reclaim: Reclaim, key: str, value: object = None) -> int:
    """Read a sysctl of reclaim, or write it first; its value.

    Parameters
    ----------
    reclaim : Reclaim
    key : str
        ``swappiness``, ``dirty_background_ratio``, ``dirty_ratio``, ``extfrag_threshold``,
        ``compact_unevictable_allowed``, ``panic_on_oom``, ``oom_kill_allocating_task`` or ``oom_dump_tasks``.
    value : int, optional

    Raises
    ------
    ConfigError
        If the kernel would refuse the value.

    Source: kernel/sysctl.c:vm_table, mm/oom_kill.c:vm_oom_kill_table @6.1.192
    """
    part, highest = PRESSURE_SYSCTLS[key]
    if value is not None:
        if not isinstance(value, int) or not 0 <= value <= highest:
            raise ConfigError(f"{value!r} for vm.{key}", remedy=f"give a number from 0 to {highest}")
        setattr(getattr(reclaim, part), key, value)
    return int(getattr(getattr(reclaim, part), key))


class Pressure(Hooks):
    """Answers the page allocator of one kernel.

    Parameters
    ----------
    reclaim : Reclaim
        Who does the work.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self._nopage_rs = Ratelimit(10_000_000_000, 1)
        self._slub_rs = Ratelimit()
        #: Requests that compact again: the request, its priority, rounds that made progress.
        self._compacting: list[tuple[Request, int, int]] = []

    def wakeup_kswapd(self, zone: int, gfp: int, order: int, highest_zoneidx: int) -> None:
        """Wake kswapd of the zone's node; see :meth:`kmem.mm.kswapd.Kswapd.wakeup`."""
        self.reclaim.kswapd.wakeup(zone, gfp, order, highest_zoneidx)

    def direct_compact(self, request: Request, priority: int) -> CompactResult:
        """Compact for a request.

        Source: mm/page_alloc.c:__alloc_pages_direct_compact @6.1.192
        Differs: whether the request succeeded is judged by what compaction expects.
        """
        reclaim = self.reclaim
        for known, lowered, _ in self._compacting:
            if known is request:
                priority = min(priority, lowered)
        with reclaim.noreclaim():
            result = reclaim.compaction.try_to_compact_pages(request, priority)
        if result > CompactResult.DEFERRED:
            reclaim.stat.count("compact_stall")
            reclaim.stat.count("compact_success" if result == CompactResult.SUCCESS else "compact_fail")
        reclaim.cond_resched()
        return result

    def should_compact_retry(self, request: Request, result: CompactResult, retries: int) -> bool:
        """Whether compaction is worth another round; see :meth:`kmem.mm.compaction.Compaction.should_compact_retry`."""
        priority, retries = 1, 0
        for known, lowered, rounds in self._compacting:
            if known is request:
                priority, retries = lowered, rounds
        again, priority, retries = self.reclaim.compaction.should_compact_retry(request, result, priority, retries)
        others = [entry for entry in self._compacting if entry[0] is not request][-_MAX_REQUESTS:]
        self._compacting = [*others, (request, priority, retries)] if again else others
        return again

    def direct_reclaim(self, request: Request) -> int:
        """Reclaim for a request; pages freed.

        Source: mm/page_alloc.c:__perform_reclaim @6.1.192
        """
        reclaim = self.reclaim
        reclaim.cond_resched()
        with reclaim.noreclaim():
            progress = reclaim.vmscan.try_to_free_pages(request)
        reclaim.cond_resched()
        return progress

    def zone_reclaimable_pages(self, zone: int) -> int:
        """Pages of a zone that reclaim could free."""
        return self.reclaim.vmscan.zone_reclaimable_pages(zone)

    def out_of_memory(self, request: Request) -> bool:
        """Kill a process; see :meth:`kmem.mm.oom_kill.OomKiller.out_of_memory`.

        Raises
        ------
        DeadlockError
            If the request may not enter file systems, and so waits for others of whom there are none.

        Source: mm/page_alloc.c:__alloc_pages_may_oom @6.1.192
        Differs: such a request tries again without a pause in the kernel.
        """
        hope = self.reclaim.oom.out_of_memory(request)
        if hope and not request.gfp & _FS and not self.reclaim.kernel.current.killed:
            return self._wait("memory that only others can free", 10 * _RETRY_NS)
        return hope

    def wait(self, request: Request) -> bool:
        """Let others run for a while before a request tries again that must not fail; False if there is nobody else.

        Raises
        ------
        DeadlockError
            If nobody else has done anything for long.
        """
        return self._wait("memory that must not be refused", _RETRY_NS)

    def _wait(self, why: str, timeout_ns: int) -> bool:
        sched = self.reclaim.kernel.sched
        if sched is None:
            return False
        sched.schedule(why, timeout_ns, retry=True)
        return True

    def warn_alloc(self, request: Request) -> None:
        """Print the report of a failed request, at most one in ten seconds.

        Source: mm/page_alloc.c:warn_alloc @6.1.192
        Differs: nothing for a task that is being killed, which would have got its page from the reserves.
        """
        if self.reclaim.kernel.current.killed:
            return
        self._warn_alloc(request.gfp, request.order, request.highest_zoneidx)

    def vmalloc_error(self, gfp: int, what: str) -> None:
        """Print the report of a failed ``vmalloc()``; both sorts together at most one in ten seconds.

        Source: mm/page_alloc.c:warn_alloc @6.1.192
        """
        memmap = self.reclaim.memmap
        highest = 0 if gfp & _DMA else 1 if gfp & _DMA32 and memmap.has_dma32 else memmap.zone_normal
        self._warn_alloc(gfp, 0, highest, what)

    def _warn_alloc(self, gfp: int, order: int, max_zone_idx: int, what: str = "") -> None:
        reclaim = self.reclaim
        kernel = reclaim.kernel
        if gfp & _NOWARN or not self._nopage_rs.allow(kernel.clock):
            return
        if gfp & _DMA and not self._has_managed_dma():
            return
        task = kernel.current
        allowed = reclaim.online_nodes()
        nodes = warn_alloc_nodes(
            gfp,
            allowed,
            may_use_reserves=bool(task.flags & PF_MEMALLOC) or task.killed,
            in_task=not kernel.preempt_count >> 8,
        )
        text = warn_alloc(
            task.comm,
            order,
            gfp,
            allowed=allowed,
            stack=reclaim.dump_stack(),
            mem_info=reclaim.mem_info(max_zone_idx=max_zone_idx, nodes=nodes),
            what=what,
        )
        kernel.printk.printk(text, KERN_WARNING)

    def _has_managed_dma(self) -> bool:
        names = self.reclaim.memmap.zone_names
        managed = self.reclaim.zones["managed"]
        return "DMA" in names and any(managed[node * 5] for node in range(self.reclaim.memmap.nr_nodes))

    def slab_out_of_memory(self, cache: int, gfp: int, node: int) -> None:
        """Print the report of a slab cache that got no page.

        Source: mm/slub.c:slab_out_of_memory @6.1.192
        """
        kernel = self.reclaim.kernel
        if gfp & _NOWARN or not self._slub_rs.allow(kernel.clock):
            return
        geometry = kernel.slub.geometries[cache]
        nodes = [self._slab_node(cache, each) for each in self.reclaim.online_nodes()]
        text = slab_out_of_memory(
            geometry.name,
            node=node,
            gfp=gfp,
            object_size=geometry.object_size,
            size=geometry.size,
            default_order=geometry.order,
            min_order=geometry.min_order,
            nodes=nodes,
        )
        kernel.printk.printk(text, KERN_WARNING)

    def _slab_node(self, cache: int, node: int) -> SlabNode:
        slub, pages = self.reclaim.kernel.slub, self.reclaim.memmap.pages_array
        record = slub.nodes_array[cache * self.reclaim.memmap.nr_nodes + node]
        partial = self.reclaim.memmap.list_frames(int(record["partial"]))
        free = sum(int(pages["objects"][pfn]) - int(pages["inuse"][pfn]) for pfn in partial)
        return SlabNode(node, int(record["nr_slabs"]), int(record["total_objects"]), free)


def _slab_usage(kernel: Kernel) -> Iterable[SlabUsage]:
    flags = {geometry.name: geometry.flags for geometry in kernel.slub.geometries.values()}
    for cache in view_caches(kernel.slub):
        reclaimable = bool(flags.get(cache.name, 0) & SLAB_RECLAIM_ACCOUNT)
        yield SlabUsage(cache.name, cache.active_objs, cache.num_objs, cache.size_bytes, reclaimable)


def make_reclaim(kernel: Kernel) -> Reclaim:
    """Give a kernel what it needs when memory runs short, and register it with the page allocator.

    Hooks that somebody has registered already are left in place.
    """
    reclaim = Reclaim(kernel)
    reclaim.slab_pages = lambda: slab_pages(reclaim.memmap, kernel.slub)
    reclaim.oom.slab_usage = lambda: _slab_usage(kernel)
    if type(kernel.page_alloc.hooks) is Hooks:
        kernel.page_alloc.hooks = Pressure(reclaim)
    return reclaim
