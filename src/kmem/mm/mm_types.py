# SPDX-License-Identifier: GPL-2.0-only
"""An address space and its areas: struct mm_struct and struct vm_area_struct.

Source: include/linux/mm_types.h, include/linux/mm.h, include/linux/mman.h @6.1.192
Differs: areas lie in a sorted list instead of a maple tree, whose nodes are not modelled; there is no lock, since
only one task runs at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kmem.errors import StateError

if TYPE_CHECKING:
    from kmem.mm.folio import Folio
    from kmem.mm.pgalloc import UserPageTable
    from kmem.mm.rmap import AnonVma

__all__ = [
    "MM_ANONPAGES",
    "MM_FILEPAGES",
    "MM_SHMEMPAGES",
    "MM_SWAPENTS",
    "PAGE_MASK",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "VM_ACCESS_FLAGS",
    "VM_ACCOUNT",
    "VM_DENYWRITE",
    "VM_DONTCOPY",
    "VM_DONTEXPAND",
    "VM_EXEC",
    "VM_GROWSDOWN",
    "VM_HUGEPAGE",
    "VM_IO",
    "VM_LOCKED",
    "VM_MAYEXEC",
    "VM_MAYREAD",
    "VM_MAYSHARE",
    "VM_MAYWRITE",
    "VM_NOHUGEPAGE",
    "VM_NORESERVE",
    "VM_PFNMAP",
    "VM_READ",
    "VM_SHARED",
    "VM_SOFTDIRTY",
    "VM_SPECIAL",
    "VM_WIPEONFORK",
    "VM_WRITE",
    "Mapping",
    "MmStruct",
    "Rlimits",
    "VmArea",
    "page_align",
]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = ~(PAGE_SIZE - 1)

VM_READ = 0x1
VM_WRITE = 0x2
VM_EXEC = 0x4
VM_SHARED = 0x8
VM_MAYREAD = 0x10
VM_MAYWRITE = 0x20
VM_MAYEXEC = 0x40
VM_MAYSHARE = 0x80
VM_GROWSDOWN = 0x100
VM_PFNMAP = 0x400
VM_DENYWRITE = 0x800
VM_LOCKED = 0x2000
VM_IO = 0x4000
VM_DONTCOPY = 0x20000
VM_DONTEXPAND = 0x40000
VM_ACCOUNT = 0x100000
VM_NORESERVE = 0x200000
VM_WIPEONFORK = 0x2000000
VM_SOFTDIRTY = 0x8000000
VM_MIXEDMAP = 0x10000000
VM_HUGEPAGE = 0x20000000
VM_NOHUGEPAGE = 0x40000000
VM_ACCESS_FLAGS = VM_READ | VM_WRITE | VM_EXEC
VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP

#: Counters of resident pages, in the order of :attr:`MmStruct.rss_stat`.
MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES = range(4)

#: Page faults between two updates of the counters of resident pages (TASK_RSS_EVENTS_THRESH).
_TASK_RSS_EVENTS_THRESH = 64


def page_align(value: int) -> int:
    """Round up to whole pages."""
    return (value + PAGE_SIZE - 1) & PAGE_MASK


class Mapping(Protocol):
    """The pages of a file, as memory management sees them (struct address_space).

    Attributes
    ----------
    name : str
        What ``/proc/PID/maps`` prints, such as ``/usr/bin/cat``.
    shmem : bool
        Whether it lives in memory alone (shared anonymous memory, tmpfs).
    i_mmap : list of VmArea
        Areas that map it, oldest first; kept by :mod:`kmem.mm.mmap`.
    """

    name: str
    shmem: bool
    i_mmap: list[VmArea]

    def charge(self, mm: MmStruct, flags: int) -> bool:
        """Promise the memory that mapping it takes; False if that is too much."""

    def fault(self, pgoff: int, gfp: int) -> Folio | None:
        """Return the up-to-date folio at a page offset, with a reference for the caller.

        None if there is no memory. May sleep.

        Raises
        ------
        IndexError
            If the offset lies behind the end of the file (the process gets SIGBUS).
        """

    def find(self, pgoff: int) -> Folio | None:
        """Return the up-to-date folio at a page offset if it is in memory, with a reference for the caller."""

    def set_page_dirty(self, folio: Folio) -> None:
        """Note that the folio differs from what the file holds."""

    def get(self) -> None:
        """Take a reference: an area maps the file."""

    def put(self) -> None:
        """Drop a reference; the last one frees the pages of memory-only files."""


@dataclass
class Rlimits:
    """Resource limits of a process, in bytes; None is unlimited.

    Source: include/asm-generic/resource.h @6.1.192
    """

    stack: int = 8 << 20
    data: int | None = None
    address_space: int | None = None
    memlock: int = 8 << 20


class VmArea:
    """A stretch of an address space with one set of rights (struct vm_area_struct).

    Attributes
    ----------
    vm_mm : MmStruct
    vm_start, vm_end : int
        Addresses, the second one the first behind it.
    vm_flags : int
        ``VM_*``.
    vm_pgoff : int
        Page offset of the start in the file; of anonymous areas their page number when they were made.
    vm_file : Mapping or None
    anon_vma : AnonVma or None
        Where fresh anonymous pages go; set by the first of them.
    anon_vma_chain : list of AnonVma
        All whose pages may be mapped here, newest first.
    object : int
        Physical address of the kernel's structure in the cache ``vm_area_struct``.
    name : str or None
        Name of a mapping of the kernel's own (``[vdso]``); it is never joined with others, nor split.
    """

    __slots__ = (
        "anon_vma",
        "anon_vma_chain",
        "avc_objects",
        "name",
        "object",
        "vm_end",
        "vm_file",
        "vm_flags",
        "vm_mm",
        "vm_pgoff",
        "vm_start",
    )

    def __init__(self, mm: MmStruct, start: int, end: int, flags: int, pgoff: int) -> None:
        self.vm_mm = mm
        self.vm_start = start
        self.vm_end = end
        self.vm_flags = flags
        self.vm_pgoff = pgoff
        self.vm_file: Mapping | None = None
        self.anon_vma: AnonVma | None = None
        self.anon_vma_chain: list[AnonVma] = []
        self.avc_objects: list[int] = []
        self.object = 0
        self.name: str | None = None

    @property
    def nr_pages(self) -> int:
        """Length in pages (vma_pages)."""
        return (self.vm_end - self.vm_start) >> PAGE_SHIFT

    @property
    def anonymous(self) -> bool:
        """Whether no file is behind it (vma_is_anonymous)."""
        return self.vm_file is None

    @property
    def accessible(self) -> bool:
        """Whether any access is allowed (vma_is_accessible)."""
        return bool(self.vm_flags & VM_ACCESS_FLAGS)

    @property
    def cow(self) -> bool:
        """Whether writes go to private copies (is_cow_mapping)."""
        return self.vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE

    def page_index(self, addr: int) -> int:
        """Return the page offset of an address (linear_page_index)."""
        return ((addr - self.vm_start) >> PAGE_SHIFT) + self.vm_pgoff

    def page_address(self, index: int) -> int | None:
        """Return the address of a page offset; None if it lies outside (vma_address)."""
        addr = self.vm_start + ((index - self.vm_pgoff) << PAGE_SHIFT)
        return addr if self.vm_start <= addr < self.vm_end else None

    def perms(self) -> str:
        """Return the rights as ``/proc/PID/maps`` prints them, such as ``rw-p``."""
        bits = ((VM_READ, "r"), (VM_WRITE, "w"), (VM_EXEC, "x"))
        text = "".join(letter if self.vm_flags & flag else "-" for flag, letter in bits)
        return text + ("s" if self.vm_flags & VM_MAYSHARE else "p")

    def __repr__(self) -> str:
        return f"<VmArea {self.vm_start:#x}-{self.vm_end:#x} {self.perms()}>"


@dataclass(eq=False)
class MmStruct:
    """An address space.

    Attributes
    ----------
    task_size : int
        End of user addresses.
    mmap_base : int
        Where the search for free addresses begins, downward.
    page_table : UserPageTable
    vmas : list of VmArea
        By address.
    rss_stat : list of int
        Pages mapped: file, anonymous, swap entries, shared memory (``MM_*``), as others see them.
    rss_cached, rss_events : list of int, int
        What the task has not added to that yet: it does so at every 65th of its page faults, and whenever it
        unmaps pages. Until then ``/proc`` shows too little, as in life.
    total_vm, data_vm, exec_vm, stack_vm, locked_vm, pinned_vm : int
        Pages, as in the kernel.
    hiwater_rss, hiwater_vm : int
        Highest resident and total size seen when it was about to shrink, in pages.
    start_code, end_code, start_data, end_data, start_brk, brk, start_stack : int
        Addresses that execve() sets, and the current end of the heap.
    malloc_state : int
        Where the C library keeps its allocator's state; 0 before its first use.
    mm_users : int
        Tasks that use it.
    privileged : bool
        Whether its process is root's: some limits do not hold for it.
    oom_skip : bool
        Its memory is gone already, or on its way.
    """

    task_size: int
    mmap_base: int
    page_table: UserPageTable
    owner: Any = None
    object: int = 0
    vmas: list[VmArea] = field(default_factory=list)
    rss_stat: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    rss_cached: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    rss_events: int = 0
    total_vm: int = 0
    data_vm: int = 0
    exec_vm: int = 0
    stack_vm: int = 0
    locked_vm: int = 0
    pinned_vm: int = 0
    hiwater_rss: int = 0
    hiwater_vm: int = 0
    def_flags: int = 0
    start_code: int = 0
    end_code: int = 0
    start_data: int = 0
    end_data: int = 0
    start_brk: int = 0
    brk: int = 0
    start_stack: int = 0
    malloc_state: int = 0
    mm_users: int = 1
    privileged: bool = False
    rlimits: Rlimits = field(default_factory=Rlimits)
    oom_skip: bool = False

    def handle_mm_fault(self, addr: int, error_code: int) -> None:
        """Answer a page fault that the processor raised; see :func:`kmem.mm.user_fault.handle_user_fault`."""
        from kmem.mm.user_fault import handle_user_fault

        handle_user_fault(self.page_table.vm, self.owner, addr, error_code)

    # The areas

    @property
    def map_count(self) -> int:
        """How many areas there are."""
        return len(self.vmas)

    def _position(self, addr: int) -> int:
        """Index of the first area that ends above `addr`."""
        return bisect_right(self.vmas, addr, key=lambda vma: vma.vm_end)

    def find_vma(self, addr: int) -> VmArea | None:
        """Return the first area that ends above `addr`, which may lie below it; None if there is none.

        Notes
        -----
        Complexity: O(log areas).

        Source: mm/mmap.c:find_vma @6.1.192
        """
        i = self._position(addr)
        return self.vmas[i] if i < len(self.vmas) else None

    def find_vma_prev(self, addr: int) -> tuple[VmArea | None, VmArea | None]:
        """Return what :meth:`find_vma` does, and the area before it.

        Source: mm/mmap.c:find_vma_prev @6.1.192
        """
        i = self._position(addr)
        return (self.vmas[i] if i < len(self.vmas) else None), (self.vmas[i - 1] if i else None)

    def vma_lookup(self, addr: int) -> VmArea | None:
        """Return the area that `addr` lies in; None if there is none."""
        vma = self.find_vma(addr)
        return vma if vma is not None and vma.vm_start <= addr else None

    def find_vma_intersection(self, start: int, end: int) -> VmArea | None:
        """Return the first area that has an address of a range; None if there is none.

        Source: mm/mmap.c:find_vma_intersection @6.1.192
        """
        vma = self.find_vma(start)
        return vma if vma is not None and vma.vm_start < end else None

    def vma_range(self, start: int, end: int) -> Iterator[VmArea]:
        """Yield the areas that have an address of a range, lowest first; the list may not change meanwhile."""
        for i in range(self._position(start), len(self.vmas)):
            if self.vmas[i].vm_start >= end:
                return
            yield self.vmas[i]

    def prev_next(self, vma: VmArea) -> tuple[VmArea | None, VmArea | None]:
        """Return the neighbours of an area."""
        i = self.vmas.index(vma) if vma.vm_start == vma.vm_end else self._position(vma.vm_start)
        return (self.vmas[i - 1] if i else None), (self.vmas[i + 1] if i + 1 < len(self.vmas) else None)

    def insert_vma(self, vma: VmArea) -> None:
        """Add an area.

        Raises
        ------
        StateError
            If it overlaps another one.
        """
        i = self._position(vma.vm_start)
        if i < len(self.vmas) and self.vmas[i].vm_start < vma.vm_end:
            raise StateError(f"{vma!r} overlaps {self.vmas[i]!r}")
        self.vmas.insert(i, vma)

    def remove_vma(self, vma: VmArea) -> None:
        """Take an area out."""
        i = self._position(vma.vm_start)
        if i >= len(self.vmas) or self.vmas[i] is not vma:
            i = self.vmas.index(vma)
        del self.vmas[i]

    # The counters

    @property
    def rss(self) -> int:
        """Resident pages: of files, anonymous and shared memory (get_mm_rss)."""
        return sum(max(self.rss_stat[kind], 0) for kind in (MM_FILEPAGES, MM_ANONPAGES, MM_SHMEMPAGES))

    @property
    def pgtables_bytes(self) -> int:
        """Bytes of page tables, without the top one."""
        return self.page_table.nr_tables << PAGE_SHIFT

    def inc_mm_counter_fast(self, member: int, change: int = 1) -> None:
        """Count a page that the running task's own fault has mapped: later, see :meth:`sync_mm_rss`.

        Source: mm/memory.c:add_mm_counter_fast @6.1.192
        """
        self.rss_cached[member] += change

    def check_sync_rss_stat(self) -> None:
        """Add the task's counts at every 65th of its faults.

        Source: mm/memory.c:check_sync_rss_stat @6.1.192
        """
        self.rss_events += 1
        if self.rss_events > _TASK_RSS_EVENTS_THRESH + 1:
            self.sync_mm_rss()

    def sync_mm_rss(self) -> None:
        """Add the counts that the task keeps to itself to those that everybody sees.

        Source: mm/memory.c:sync_mm_rss @6.1.192
        """
        for member, change in enumerate(self.rss_cached):
            self.rss_stat[member] += change
        self.rss_cached = [0, 0, 0, 0]
        self.rss_events = 0

    def update_hiwater_rss(self) -> None:
        """Note the resident size, which is about to shrink."""
        self.hiwater_rss = max(self.hiwater_rss, self.rss)

    def update_hiwater_vm(self) -> None:
        """Note the total size, which is about to shrink."""
        self.hiwater_vm = max(self.hiwater_vm, self.total_vm)

    def vm_stat_account(self, flags: int, nr_pages: int) -> None:
        """Count pages of an area, or uncount them.

        Source: mm/mmap.c:vm_stat_account @6.1.192
        """
        self.total_vm += nr_pages
        if flags & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC:
            self.exec_vm += nr_pages
        elif flags & VM_GROWSDOWN:
            self.stack_vm += nr_pages
        elif flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE:
            self.data_vm += nr_pages

    def may_expand_vm(self, flags: int, nr_pages: int) -> bool:
        """Whether the resource limits allow so many more pages.

        Source: mm/mmap.c:may_expand_vm @6.1.192
        """
        limit = self.rlimits.address_space
        if limit is not None and self.total_vm + nr_pages > limit >> PAGE_SHIFT:
            return False
        data = flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE
        limit = self.rlimits.data
        return not (data and limit is not None and self.data_vm + nr_pages > limit >> PAGE_SHIFT)

    def __repr__(self) -> str:
        return f"<MmStruct {self.map_count} areas, {self.total_vm} pages, {self.rss} resident>"
