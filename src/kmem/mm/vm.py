# SPDX-License-Identifier: GPL-2.0-only
"""What the address spaces of one machine share: folios, counters, sysctls, the zero page.

Source: mm/memory.c, mm/mmap.c, mm/util.c, mm/mm_init.c, include/linux/vm_event_item.h @6.1.192
Differs: these are globals in the kernel; a machine here has one :class:`Vm`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from kmem.errors import ConfigError, StateError
from kmem.mm.folio import PG_DIRTY, PG_SWAPBACKED, PG_SWAPCACHE, PG_UNEVICTABLE, Folio, Folios
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.mm_types import MmStruct
from kmem.mm.pgalloc import LAYOUTS, TableLayout
from kmem.mm.printk import KERN_WARNING
from kmem.mm.rmap import AnonVma, Rmap
from kmem.mm.slab_flags import SLAB_ACCOUNT, SLAB_HWCACHE_ALIGN, SLAB_PANIC, SLAB_TYPESAFE_BY_RCU
from kmem.mm.task import Task
from kmem.mm.vmstat import VmStat

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["OVERCOMMIT_ALWAYS", "OVERCOMMIT_GUESS", "OVERCOMMIT_NEVER", "Swap", "Vm", "VmSysctls"]

OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER = range(3)
_MAX_NR_ZONES = 5
#: Below 512 MiB of memory there are no huge pages. Source: mm/huge_memory.c:hugepage_init @6.1.192
_THP_MIN_PAGES = 512 << 20 - 12

#: Bytes of the kernel's structures: x86-64, i386, as the reference kernels' caches have them.
_CACHES: dict[str, tuple[int, int, int]] = {
    "task_struct": (6208, 2944, SLAB_PANIC | SLAB_ACCOUNT),
    "mm_struct": (1104, 564, SLAB_HWCACHE_ALIGN | SLAB_PANIC | SLAB_ACCOUNT),
    "vm_area_struct": (152, 72, SLAB_PANIC | SLAB_ACCOUNT),
    "anon_vma_chain": (64, 32, SLAB_PANIC | SLAB_ACCOUNT),
    "anon_vma": (96, 52, SLAB_TYPESAFE_BY_RCU | SLAB_PANIC | SLAB_ACCOUNT),
}
_CONSTRUCTED = {"anon_vma"}


class Swap(Protocol):
    """What page faults and rmap ask of swap; :attr:`Vm.swap` is such an object, or None where there is no swap.

    An entry is a number: offset, and the number of the swap area above it, as the kernel's ``swp_entry_t``.
    """

    #: Slots whose folio is in memory.
    cache: dict[int, Folio]

    @property
    def total_swap_pages(self) -> int:
        """Slots in all."""

    def swap_duplicate(self, entry: int) -> None:
        """One more page table entry refers to the slot."""

    def swap_free(self, entry: int) -> None:
        """One page table entry fewer refers to the slot; the last one frees it, and its folio in the swap cache."""

    def swapin(self, entry: int, gfp: int) -> Folio | None:
        """Return the folio of the slot, read in if it is not in the swap cache, with a reference for the caller.

        None if there is no memory for it.
        """

    def free_swap_cache(self, folio: Folio) -> None:
        """Take the folio out of the swap cache if no page table entry refers to its slot."""


class VmSysctls:
    """``/proc/sys/vm`` as far as processes go; defaults are the kernel's.

    Source: mm/util.c, mm/mmap.c @6.1.192
    """

    def __init__(self) -> None:
        self.overcommit_memory = OVERCOMMIT_GUESS
        self.overcommit_ratio = 50
        self.overcommit_kbytes = 0
        self.max_map_count = 65530
        self.mmap_min_addr = 65536
        self.admin_reserve_kbytes = 1 << 13
        self.user_reserve_kbytes = 1 << 17


class Vm:
    """Virtual memory of one machine.

    Parameters
    ----------
    kernel : Kernel
        Whose memory it is: frames, slab caches, log.
    totalram_pages : int
        Managed pages of all zones.
    cmdline : str
        ``transparent_hugepage=``, ``stack_guard_gap=``, ``init_on_alloc=`` are heeded.

    Attributes
    ----------
    folios, stat : Folios, VmStat
        Pages in use and counters; those of reclaim, if there is one.
    zero_pfn : int
        The page of zeros that reads of untouched memory map.
    committed_as : int
        Pages that were promised.
    tasks : dict of int to Task
        Processes by pid.
    swap : Swap or None
    rmap : Rmap
        From frames to the entries that map them.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        totalram_pages: int,
        cmdline: str = "",
    ) -> None:
        self.kernel = kernel
        self.arch = kernel.arch
        self.layout: TableLayout = LAYOUTS[kernel.arch]
        self.page_alloc = kernel.page_alloc
        self.ram = kernel.ram
        self.printk = kernel.printk
        self.totalram_pages = totalram_pages
        memmap = kernel.page_alloc.memmap
        self._zone_of = memmap.pages_array["zone"]
        self.stat = VmStat(memmap.nr_nodes, memmap.nr_zones)
        self.folios = Folios(kernel.page_alloc, kernel.ram)
        self.sysctls = VmSysctls()
        self.committed_as = 0
        self.swap: Swap | None = None
        self.tasks: dict[int, Task] = {}
        self.anon_vmas: dict[AnonVma, None] = {}
        self.rmap = Rmap(self)
        self.mms: list[MmStruct] = []
        #: Who holds each process, by pid (:class:`kmem.mm.process.Process`).
        self.processes: dict[int, Any] = {}
        #: Structure and kernel stack of each task, and stacks kept for the next ones, by CPU.
        self.task_memory: dict[int, tuple[int, int]] = {}
        self.cached_stacks: dict[int, list[int]] = {}
        #: Page faults by pid and whether they had to wait for a disk.
        self.busy: Counter[int] = Counter()
        #: Processes that are to end when they leave the kernel, and how often each is in it.
        self.killed: set[int] = set()
        self.faults: Counter[tuple[int, bool]] = Counter()
        self.stack_guard_gap = 256 << 12
        self.thp = "always"
        self._parse(cmdline)
        self._caches = self._create_caches()
        self.zero_pfn: int = kernel.init_mm.zero_pfn
        if self.zero_pfn < 0:
            raise StateError("the kernel's image has no page of zeros")
        if totalram_pages < _THP_MIN_PAGES:
            self.thp = "never"

    def _parse(self, cmdline: str) -> None:
        for word in cmdline.split():
            key, _, value = word.partition("=")
            if key == "transparent_hugepage":
                if value not in ("always", "madvise", "never"):
                    raise ConfigError(f"transparent_hugepage={value}", remedy="give always, madvise or never")
                self.thp = value
            elif key == "stack_guard_gap" and value.isdigit():
                self.stack_guard_gap = int(value) << 12
            elif key == "init_on_alloc":
                self.folios.init_on_alloc = value not in ("0", "off", "n", "no")

    def _create_caches(self) -> dict[str, int]:
        """Source: kernel/fork.c:proc_caches_init, fork_init, mm/rmap.c:anon_vma_init @6.1.192"""
        caches = self.kernel.caches
        column = 0 if self.arch == "x86_64" else 1
        created = {}
        for name, entry in _CACHES.items():
            index = caches.find(name)
            if index is None:
                align = 64 if name == "task_struct" else 0
                index = caches.kmem_cache_create(name, entry[column], align, entry[2], ctor=name in _CONSTRUCTED)
            created[name] = index
        return created

    def alloc_pid(self) -> int:
        """Return the next number of a process that is free.

        Source: kernel/pid.c:alloc_pid @6.1.192
        """
        return int(self.kernel.sched.alloc_pid())

    def count_fault(self, task: Task, major: bool) -> None:
        """Count a page fault of a process, as ``min_flt`` or ``maj_flt``.

        Source: mm/memory.c:mm_account_fault @6.1.192
        """
        self.faults[task.pid, major] += 1

    def pgd_ctor(self, pgd: int) -> None:
        """Fill the kernel's half of a process's top table in.

        Source: arch/x86/mm/pgtable.c:pgd_ctor @6.1.192
        """
        self.kernel.init_mm.pgd_ctor(pgd)

    def pgd_dtor(self, pgd: int) -> None:
        """A process's top table is about to be freed.

        Source: arch/x86/mm/pgtable.c:pgd_dtor @6.1.192
        """
        self.kernel.init_mm.pgd_dtor(pgd)

    # The kernel's own structures

    def alloc_object(self, cache: str, gfp: int = GFP_KERNEL) -> int | None:
        """Allocate one of the kernel's structures; its physical address, None if there is no memory."""
        index = self._caches[cache]
        kernel = self.kernel
        if kernel.aids and any(aid.should_failslab(kernel.slub.geometries[index], gfp) for aid in kernel.aids):
            return None
        address: int | None = kernel.slub.kmem_cache_alloc(index, gfp)
        return address

    def free_object(self, cache: str, address: int) -> None:
        """Free one of the kernel's structures."""
        self.kernel.slub.kmem_cache_free(self._caches[cache], address)

    # Reclaim and swap, where there is any

    def lru_add_drain(self) -> None:
        """Empty the batches of the LRU lists."""
        if self.folios.lru is not None:
            self.folios.lru.lru_add_drain()

    def lru_cache_add(self, folio: Folio) -> None:
        """Put a new folio on the LRU lists, those of anonymous pages if it is one.

        Source: mm/swap.c:lru_cache_add_inactive_or_unevictable @6.1.192
        """
        if folio.flags & PG_SWAPBACKED and not folio.anon:
            folio.flags |= PG_UNEVICTABLE  # shared memory is not swapped out
        if self.folios.lru is not None:
            self.folios.lru.folio_add_lru(folio)

    def mark_page_accessed(self, folio: Folio) -> None:
        """Note a use of a page.

        Source: mm/swap.c:mark_page_accessed @6.1.192
        """
        if self.folios.lru is not None:
            self.folios.lru.mark_page_accessed(folio)

    def set_page_dirty(self, folio: Folio) -> None:
        """Note that a page differs from its copy on disk.

        Source: mm/page-writeback.c:folio_mark_dirty @6.1.192
        """
        if folio.anon:
            folio.flags |= PG_DIRTY
        else:
            folio.mapping.set_page_dirty(folio)

    # Counters

    def count(self, event: str, delta: int = 1) -> None:
        """Count an event of ``/proc/vmstat``."""
        self.stat.count(event, delta)

    def mod_node(self, pfn: int, name: str, change: int) -> None:
        """Change a counter of the node that a frame is on."""
        zone = int(self._zone_of[pfn])
        self.stat.node[zone // _MAX_NR_ZONES][name] += change

    def free_swap_cache(self, folio: Folio) -> None:
        """Let go of a folio's swap slot if nothing else needs it.

        Source: mm/swap_state.c:free_swap_cache @6.1.192
        """
        if folio.flags & PG_SWAPCACHE and not folio.mapcount and self.swap is not None:
            self.swap.free_swap_cache(folio)

    # Commitments

    @property
    def total_swap_pages(self) -> int:
        """Pages of all swap areas."""
        return 0 if self.swap is None else self.swap.total_swap_pages

    @property
    def commit_limit(self) -> int:
        """Pages that may be promised under overcommit_memory 2.

        Source: mm/util.c:vm_commit_limit @6.1.192
        """
        sysctls = self.sysctls
        if sysctls.overcommit_kbytes:
            allowed = sysctls.overcommit_kbytes >> 2
        else:
            allowed = self.totalram_pages * sysctls.overcommit_ratio // 100
        return allowed + self.total_swap_pages

    def vm_enough_memory(self, mm: MmStruct | None, pages: int, cap_sys_admin: bool = True) -> bool:
        """Promise pages; False, and a warning in the log, if that would be too much.

        Source: mm/util.c:__vm_enough_memory @6.1.192
        Differs: processes run as root, as those of the recordings do.
        """
        self.committed_as += pages
        if self._may_commit(mm, pages, cap_sys_admin):
            return True
        owner = None if mm is None else mm.owner
        pid, comm = (0, "swapper/0") if owner is None else (owner.pid, owner.comm)
        self.printk.printk(
            f"__vm_enough_memory: pid: {pid}, comm: {comm}, no enough memory for the allocation", KERN_WARNING
        )
        self.committed_as -= pages
        return False

    def _may_commit(self, mm: MmStruct | None, pages: int, cap_sys_admin: bool) -> bool:
        sysctls = self.sysctls
        if sysctls.overcommit_memory == OVERCOMMIT_ALWAYS:
            return True
        if sysctls.overcommit_memory == OVERCOMMIT_GUESS:
            return pages <= self.totalram_pages + self.total_swap_pages
        allowed = self.commit_limit
        if not cap_sys_admin:
            allowed -= sysctls.admin_reserve_kbytes >> 2
        if mm is not None:
            allowed -= min(mm.total_vm // 32, sysctls.user_reserve_kbytes >> 2)
        return self.committed_as < allowed

    def vm_unacct_memory(self, pages: int) -> None:
        """Take back a promise."""
        self.committed_as -= pages
