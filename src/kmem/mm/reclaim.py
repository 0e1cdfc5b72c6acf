# SPDX-License-Identifier: GPL-2.0-only
"""Everything that frees memory when it runs short, in one place.

:class:`Reclaim` puts together the LRU lists, the page cache, swap, reclaim
itself, kswapd, compaction, shrinkers and the OOM killer of one kernel, and
offers what they all need: watermarks, zonelists, waiting.

Source: include/linux/mmzone.h:struct pglist_data, mm/vmscan.c @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from kmem.errors import StateError
from kmem.mm.compaction import Compaction
from kmem.mm.dump_stack import dump_stack
from kmem.mm.filemap import Filemap
from kmem.mm.folio import PG_SWAPCACHE, Folio, Folios
from kmem.mm.hooks import Request
from kmem.mm.kcompactd import Kcompactd
from kmem.mm.kswapd import Kswapd
from kmem.mm.lru import Lru
from kmem.mm.oom_kill import OomKiller
from kmem.mm.show_mem import show_mem
from kmem.mm.shrinker import Shrinker
from kmem.mm.swapfile import SwapInfo
from kmem.mm.task import PF_KSWAPD, PF_KTHREAD, PF_MEMALLOC, Task
from kmem.mm.vmscan import Vmscan
from kmem.mm.vmstat import VmStat

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel
    from kmem.mm.mm_types import VmArea
    from kmem.mm.vm import Vm

__all__ = ["Pgdat", "Reclaim"]

_MAX_NR_ZONES = 5
_GFP_THISNODE = 0x200000
_NO_ZONE = 255
_ZONE_SUFFIXES = {"DMA": "dma", "DMA32": "dma32", "Normal": "normal", "HighMem": "high", "Movable": "movable"}


@dataclass
class Pgdat:
    """What reclaim keeps of a node.

    Attributes
    ----------
    kswapd_order, kswapd_highest_zoneidx : int
        What kswapd was last woken for; 5 if for nothing.
    kswapd_failures : int
        Runs in a row that freed nothing. From 16 on, kswapd leaves the node alone.
    kcompactd_max_order, kcompactd_highest_zoneidx : int
        What kcompactd was last woken for.
    dirty, writeback : bool
        kswapd found nothing but dirty pages, or pages that are being written.

    Source: include/linux/mmzone.h:struct pglist_data @6.1.192
    """

    node: int
    kswapd_order: int = 0
    kswapd_highest_zoneidx: int = _MAX_NR_ZONES
    kswapd_failures: int = 0
    kcompactd_max_order: int = 0
    kcompactd_highest_zoneidx: int = _MAX_NR_ZONES - 1
    dirty: bool = False
    writeback: bool = False


class PageMappings(Protocol):
    """What reclaim asks of reverse mapping (:class:`kmem.mm.rmap.Rmap`)."""

    def page_mapped(self, pfn: int) -> bool:
        """Whether any process maps a page."""

    def page_referenced(self, pfn: int) -> tuple[int, int]:
        """Through how many mappings a page was used since the last call, and the flags of their areas."""

    def try_to_unmap(self, pfn: int, swap_entry: int | None = None) -> bool:
        """Remove every mapping of a page; whether nothing maps it any more."""

    def page_mappings(self, pfn: int) -> Iterator[tuple[VmArea, int, int, int]]:
        """Each mapping of a page: area, address, physical address of its entry, the entry."""


class _Unmapped:
    """A machine without processes."""

    def page_mapped(self, pfn: int) -> bool:
        return False

    def page_referenced(self, pfn: int) -> tuple[int, int]:
        return 0, 0

    def try_to_unmap(self, pfn: int, swap_entry: int | None = None) -> bool:
        return True

    def page_mappings(self, pfn: int) -> Iterator[tuple[VmArea, int, int, int]]:
        return iter(())


class Reclaim:
    """Reclaim, compaction and OOM of one kernel.

    Parameters
    ----------
    kernel : Kernel
        Page allocator, clock, log, running task and scheduler.

    Attributes
    ----------
    stat : VmStat
        Counters.
    lru, filemap, swap, vmscan, kswapd, compaction, kcompactd, oom : object
        The parts.
    shrinkers : list of Shrinker
        Registered ones, oldest first.
    pgdats : list of Pgdat
        One a node.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.page_alloc = kernel.page_alloc
        self.memmap = kernel.page_alloc.memmap
        self.folios = Folios(kernel.page_alloc, kernel.ram)
        self.vm: Vm | None = None
        self.rmap: PageMappings = _Unmapped()
        self.stat = VmStat(self.memmap.nr_nodes, self.memmap.nr_zones)
        self.pgdats = [Pgdat(node) for node in range(self.memmap.nr_nodes)]
        for pgdat in self.pgdats:
            pgdat.kcompactd_highest_zoneidx = self.nr_zones(pgdat.node) - 1
        self.shrinkers: list[Shrinker] = []
        self.lru = Lru(self.memmap, self.folios, self.stat)
        self.filemap = Filemap(self)
        self.swap = SwapInfo(self)
        self.compaction = Compaction(self)
        self.vmscan = Vmscan(self)
        self.kswapd = Kswapd(self, self.vmscan)
        self.kcompactd = Kcompactd(self)
        self.oom = OomKiller(self)
        self.folios.lru = self.lru
        self.slab_pages: Callable[[], list[tuple[int, int]]] = list

    def attach(self, vm: Vm) -> None:
        """Take on the processes of a machine: they share folios, counters and swap with the page cache from now on."""
        self.folios.init_on_alloc = vm.folios.init_on_alloc
        vm.folios = self.folios
        vm.stat = self.stat
        vm.swap = self.swap
        self.vm = vm
        self.rmap = vm.rmap

    # The machine

    @property
    def zones(self) -> npt.NDArray[Any]:
        """The zones' records."""
        zones: npt.NDArray[Any] = self.memmap.zones_array
        return zones

    @property
    def pageblock_order(self) -> int:
        """Order of a page block."""
        return self.memmap.pageblock_order

    @property
    def zone_normal(self) -> int:
        """Index of zone Normal."""
        return self.memmap.zone_names.index("Normal")

    @property
    def totalreserve_pages(self) -> int:
        """Pages that user space should not count on.

        Source: mm/page_alloc.c:calculate_totalreserve_pages @6.1.192
        """
        zones = self.zones
        reserve = zones["lowmem_reserve"].max(axis=1) + zones["watermark"][:, 2] + zones["watermark_boost"]
        return int(np.minimum(reserve, zones["managed"]).sum())

    def zone_suffix(self, index: int) -> str:
        """Return what the counters of a zone index end in."""
        names = self.memmap.zone_names
        return _ZONE_SUFFIXES.get(names[min(index, len(names) - 1)], "device")

    def managed_zones(self, node: int, highest_zoneidx: int = _MAX_NR_ZONES - 1) -> Iterator[int]:
        """Zones of a node up to an index that have memory to manage, lowest first."""
        managed = self.zones["managed"]
        first = node * _MAX_NR_ZONES
        return (zone for zone in range(first, first + min(highest_zoneidx + 1, _MAX_NR_ZONES)) if managed[zone])

    def populated_zones(self, node: int, highest_zoneidx: int = _MAX_NR_ZONES - 1) -> Iterator[int]:
        """Zones of a node up to an index that have memory, lowest first."""
        present = self.zones["present"]
        first = node * _MAX_NR_ZONES
        return (zone for zone in range(first, first + min(highest_zoneidx + 1, _MAX_NR_ZONES)) if present[zone])

    def nr_zones(self, node: int) -> int:
        """One more than the highest index of a node's zones that have memory."""
        return max((zone % _MAX_NR_ZONES + 1 for zone in self.populated_zones(node)), default=0)

    def min_wmark_pages(self, zone: int) -> int:
        """Min watermark, boost included."""
        return int(self.zones["watermark"][zone][0]) + int(self.zones["watermark_boost"][zone])

    def high_wmark_pages(self, zone: int) -> int:
        """High watermark, boost included."""
        return int(self.zones["watermark"][zone][2]) + int(self.zones["watermark_boost"][zone])

    def has_free(self, zone: int, order: int, migratetype: int) -> bool:
        """Whether a free list has any block."""
        head = int(self.zones["lists"][zone]) + order * 6 + migratetype
        return bool(self.memmap.pages_array["next"][head] != head)

    def zonelist(self, request: Request) -> list[int]:
        """Zones that a request may use, in the order of fallback.

        Source: include/linux/mmzone.h:for_each_zone_zonelist_nodemask @6.1.192
        """
        row = request.node + (self.memmap.nr_nodes if request.gfp & _GFP_THISNODE else 0)
        zones = []
        for zone in self.page_alloc.zonelists_array[row].tolist():
            if zone == _NO_ZONE:
                break
            if zone % _MAX_NR_ZONES <= request.highest_zoneidx:
                zones.append(zone)
        return zones

    def freed_slab_pages(self) -> int:
        """Pages of all slabs that were ever given back."""
        caches = self.kernel.slub.caches_array
        return int((caches["freed_slabs"].astype(np.int64) << caches["order"]).sum())

    # Reports

    def dump_stack(self) -> str:
        """Return the lines about the running task and its callers."""
        return "".join(f"{line}\n" for line in dump_stack(self.kernel))

    def online_nodes(self) -> list[int]:
        """Nodes that have memory."""
        return [pgdat.node for pgdat in self.pgdats if any(True for _ in self.populated_zones(pgdat.node))]

    def update_slab_counters(self) -> None:
        """Count the pages of slabs, which are not counted as they come and go."""
        for node, (reclaimable, unreclaimable) in enumerate(self.slab_pages()):
            self.stat.node[node]["nr_slab_reclaimable"] = reclaimable
            self.stat.node[node]["nr_slab_unreclaimable"] = unreclaimable

    def mem_info(self, *, max_zone_idx: int = _MAX_NR_ZONES - 1, nodes: Collection[int] | None = None) -> str:
        """Return the ``Mem-Info`` block of now; see :func:`kmem.mm.show_mem.show_mem`."""
        self.update_slab_counters()
        return show_mem(
            self.memmap,
            self.stat,
            max_zone_idx=max_zone_idx,
            nodes=nodes,
            cpu=self.page_alloc.cpu,
            kswapd_failures=[pgdat.kswapd_failures for pgdat in self.pgdats],
        )

    def processes(self) -> list[Task]:
        """All processes, oldest first."""
        return [] if self.vm is None else list(self.vm.tasks.values())

    def kill(self, task: Task) -> None:
        """Kill a process: its memory is free when this returns, and the process ends where it waits.

        A process that is in a system call itself ends when it leaves that, and may use the reserves until then.

        Source: mm/oom_kill.c:__oom_kill_process, oom_reap_task @6.1.192
        """
        task.killed = True
        if self.vm is not None and task.pid in self.vm.tasks:
            from kmem.mm.fork import kill_process  # which imports what imports this

            kill_process(self.vm, task)
        if self.kernel.sched is not None and task.sched is not None and task is not self.kernel.current:
            self.kernel.sched.wake_up(task)

    # Pages

    def remove_mapping(self, folio: Folio) -> bool:
        """Take a page that reclaim holds from its file or its swap slot, unless somebody else uses it.

        Source: mm/vmscan.c:__remove_mapping @6.1.192
        """
        if folio.mapcount:
            return False
        if folio.flags & PG_SWAPCACHE:
            return self.swap.remove_mapping(folio)
        if folio.anon or folio.mapping is None or not hasattr(folio.mapping, "shadows"):
            return False
        return self.filemap.remove_mapping(folio)

    # Who runs, and whether it may wait

    @property
    def current_is_kswapd(self) -> bool:
        """Whether it is kswapd that runs."""
        return bool(self.kernel.current.flags & PF_KSWAPD)

    def in_atomic(self) -> bool:
        """Whether the running code must not be preempted."""
        return bool(self.kernel.preempt_count or self.kernel.irqs_disabled)

    def fatal_signal_pending(self) -> bool:
        """Whether the running task is being killed."""
        return self.kernel.current.killed

    @contextmanager
    def acting_as(self, task: Task) -> Iterator[None]:
        """Run the block as another task would, with its right to the reserves."""
        kernel, before, flags = self.kernel, self.kernel.current, self.page_alloc.task_flags
        kernel.current = task
        self.page_alloc.task_flags = task.flags
        try:
            yield
        finally:
            kernel.current = before
            self.page_alloc.task_flags = flags

    @contextmanager
    def noreclaim(self) -> Iterator[None]:
        """Let the running task use the reserves, and never reclaim for itself, while it frees memory.

        Source: include/linux/sched/mm.h:memalloc_noreclaim_save @6.1.192
        """
        task, flags = self.kernel.current, self.page_alloc.task_flags
        before = task.flags & PF_MEMALLOC
        task.flags |= PF_MEMALLOC
        self.page_alloc.task_flags = flags | PF_MEMALLOC
        try:
            yield
        finally:
            task.flags = task.flags & ~PF_MEMALLOC | before
            self.page_alloc.task_flags = flags

    def cond_resched(self) -> None:
        """Let others run that can."""
        if self.kernel.sched is not None and not self.in_atomic():
            self.kernel.sched.cond_resched()

    def sleep(self, why: str, ns: int) -> None:
        """Let time pass: others run meanwhile if there is a scheduler."""
        if self.kernel.sched is not None:
            self.kernel.sched.schedule(why, ns)
        else:
            self.kernel.clock.advance(ns)

    def reclaim_throttle(self, reason: str, timeout_ns: int) -> None:
        """Slow a reclaimer down that gets nowhere.

        Source: mm/vmscan.c:reclaim_throttle @6.1.192
        Differs: it sleeps for the whole time, nobody wakes it early.
        """
        if self.kernel.current.flags & PF_KTHREAD and not self.current_is_kswapd:
            self.cond_resched()
            return
        self.sleep(f"reclaim throttled: {reason}", timeout_ns)
        self.filemap.complete_writes()

    def validate(self) -> None:
        """Check lists, counters and swap.

        Raises
        ------
        StateError
            At the first contradiction.
        """
        self.lru.validate()
        self.swap.validate()
        for mapping in self.filemap.files.values():
            for pgoff, folio in mapping.pages.items():
                if folio.mapping is not mapping or folio.index != pgoff or self.folios.get(folio.pfn) is not folio:
                    raise StateError(f"page {pgoff} of {mapping.name} is {folio!r}")
