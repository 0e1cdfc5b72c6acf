# SPDX-License-Identifier: GPL-2.0-only
"""Page faults, and taking mappings away again.

A page of a process comes into being when it is touched: a read of untouched
memory maps the one page of zeros, a write a fresh page of its own, a write to
a page that a fork shares a copy of it, unless nobody else is left.

Source: mm/memory.c @6.1.192
Differs: no locks and so no retries, no userfaultfd, NUMA balancing, memory cgroups or device memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

from kmem.mm.folio import PG_LRU, PG_SWAPBACKED, Folio
from kmem.mm.gfp import __GFP_ZERO, GFP_HIGHUSER_MOVABLE
from kmem.mm.huge_memory import (
    do_huge_pmd_anonymous_page,
    do_huge_pmd_wp_page,
    hugepage_suitable,
    split_huge_pmd,
    zap_huge_pmd,
)
from kmem.mm.mm_types import (
    MM_ANONPAGES,
    MM_SWAPENTS,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    VM_SHARED,
    VM_WRITE,
    Mapping,
    MmStruct,
    VmArea,
)
from kmem.mm.mmu_gather import MmuGather
from kmem.mm.pgalloc import PAGE_ACCESSED, PAGE_DIRTY, PAGE_RW, PAGE_SPECIAL
from kmem.mm.pgprot import SWP_EXCLUSIVE, maybe_mkwrite, mkdirty, pte_present, pte_to_swp_entry, vma_page_prot
from kmem.mm.rmap import (
    anon_vma_prepare,
    mm_counter,
    page_add_anon_rmap,
    page_add_file_rmap,
    page_add_new_anon_rmap,
    page_move_anon_rmap,
    page_remove_rmap,
    unlink_anon_vmas,
)

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = ["FaultResult", "free_pgtables", "handle_mm_fault", "unmap_region", "zap_range"]

_GFP_USER_ZEROED = GFP_HIGHUSER_MOVABLE | __GFP_ZERO
#: Pages of a file that one read fault maps if they are in memory (fault_around_bytes).
_FAULT_AROUND = 16


class FaultResult(IntFlag):
    """How a page fault ended.

    Source: include/linux/mm_types.h:enum vm_fault_reason @6.1.192
    """

    DONE = 0
    OOM = 0x1
    SIGBUS = 0x2
    MAJOR = 0x4
    SIGSEGV = 0x40


@dataclass(slots=True)
class _Fault:
    """One fault on its way (struct vm_fault)."""

    vm: Vm
    vma: VmArea
    addr: int
    write: bool
    #: Physical address of the entry, once its table is known to be there.
    at: int = 0
    entry: int = 0

    @property
    def mm(self) -> MmStruct:
        return self.vma.vm_mm

    def count(self, member: int, change: int = 1) -> None:
        if self.vm.kernel.current.mm is self.mm:
            self.mm.inc_mm_counter_fast(member, change)
        else:
            self.mm.rss_stat[member] += change

    def set(self, entry: int) -> None:
        self.mm.page_table.write(self.at, entry)

    def mk_pte(self, folio: Folio) -> int:
        prot = vma_page_prot(self.vm.layout, self.vma)
        pfn = folio.pfn
        return self.mm.page_table.pfn_pte(pfn, prot)

    def writable(self, entry: int) -> int:
        return maybe_mkwrite(mkdirty(self.vm.layout, entry), self.vma)


def handle_mm_fault(vm: Vm, vma: VmArea, address: int, write: bool) -> FaultResult:
    """Bring the page at an address in, after the area was found to allow the access. May sleep.

    Parameters
    ----------
    vm, vma : Vm, VmArea
    address : int
        In `vma`.
    write : bool
        Whether the page is to be written to.

    Source: mm/memory.c:handle_mm_fault, __handle_mm_fault @6.1.192
    """
    vm.count("pgfault")
    if vm.kernel.current.mm is vma.vm_mm:
        vma.vm_mm.check_sync_rss_stat()
    mm, layout, addr = vma.vm_mm, vm.layout, address & PAGE_MASK
    at = mm.page_table.alloc(addr, layout.last - 1)
    if at is None:
        return FaultResult.OOM
    pmd = mm.page_table.read(at)
    if not pmd and write and hugepage_suitable(vm, vma, addr):
        done = do_huge_pmd_anonymous_page(vm, vma, addr)
        if done is not False:
            return FaultResult.DONE if done else FaultResult.OOM
    elif pmd and not mm.page_table.is_table(layout.last - 1, pmd):
        if not write or pmd & PAGE_RW or do_huge_pmd_wp_page(vm, vma, addr):
            return FaultResult.DONE
    return _handle_pte_fault(_Fault(vm, vma, addr, write))


def _handle_pte_fault(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:handle_pte_fault @6.1.192."""
    table = fault.mm.page_table
    fault.at = table.offset(fault.addr) or 0
    fault.entry = table.read(fault.at) if fault.at else 0
    if not fault.entry:
        return _do_anonymous_page(fault) if fault.vma.anonymous else _do_fault(fault)
    if not pte_present(fault.entry):
        return _do_swap_page(fault)
    if fault.write and not fault.entry & PAGE_RW:
        return _do_wp_page(fault)
    entry = fault.entry | PAGE_ACCESSED
    fault.set(mkdirty(fault.vm.layout, entry) if fault.write else entry)
    return FaultResult.DONE


def _pte_alloc(fault: _Fault) -> bool:
    fault.at = fault.mm.page_table.alloc(fault.addr) or 0
    return fault.at != 0


# Anonymous memory


def _do_anonymous_page(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:do_anonymous_page @6.1.192."""
    vm, vma = fault.vm, fault.vma
    if not _pte_alloc(fault):
        return FaultResult.OOM
    if not fault.write:
        prot = vma_page_prot(vm.layout, vma)
        fault.set(fault.mm.page_table.pfn_pte(vm.zero_pfn, prot | PAGE_SPECIAL))
        return FaultResult.DONE
    if not anon_vma_prepare(vm, vma):
        return FaultResult.OOM
    folio = vm.folios.alloc(_GFP_USER_ZEROED)
    if folio is None:
        return FaultResult.OOM
    fault.count(MM_ANONPAGES)
    page_add_new_anon_rmap(vm, folio, vma, fault.addr)
    vm.lru_cache_add(folio)
    entry = fault.mk_pte(folio)
    fault.set(fault.writable(entry) if vma.vm_flags & VM_WRITE else entry)
    return FaultResult.DONE


def _do_wp_page(fault: _Fault) -> FaultResult:
    """A write to a page that is mapped read-only.

    Source: mm/memory.c:do_wp_page @6.1.192
    """
    vm, vma = fault.vm, fault.vma
    if fault.entry & PAGE_SPECIAL:
        return _wp_page_copy(fault, None)
    pfn = fault.mm.page_table.pte_pfn(fault.entry)
    folio = vm.folios.get(pfn)
    assert folio is not None  # a present entry holds a reference
    if folio.anon:
        if not folio.is_exclusive(pfn):
            if not _may_reuse(vm, folio):
                return _wp_page_copy(fault, folio)
            page_move_anon_rmap(folio, vma)
        _wp_page_reuse(fault)
        return FaultResult.DONE
    if vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED:
        _wp_page_reuse(fault)
        vm.set_page_dirty(folio)
        return FaultResult.DONE
    return _wp_page_copy(fault, folio)


def _may_reuse(vm: Vm, folio: Folio) -> bool:
    """Whether the mapping that is being written to is all that is left of a page."""
    if folio.order or folio.refcount > 3:
        return False
    if not folio.flags & PG_LRU:
        vm.lru_add_drain()
    if folio.refcount > 1 + folio.swapcache:
        return False
    if folio.swapcache and vm.swap is not None:
        vm.swap.free_swap_cache(folio)
    return folio.refcount == 1


def _wp_page_reuse(fault: _Fault) -> None:
    """Source: mm/memory.c:wp_page_reuse @6.1.192."""
    fault.set(fault.writable(fault.entry | PAGE_ACCESSED))
    fault.vm.count("pgreuse")


def _wp_page_copy(fault: _Fault, old: Folio | None) -> FaultResult:
    """Give the process a copy; `old` is None for the zero page.

    Source: mm/memory.c:wp_page_copy @6.1.192
    """
    vm, vma, mm = fault.vm, fault.vma, fault.mm
    if not anon_vma_prepare(vm, vma):
        return FaultResult.OOM
    if old is not None:
        old.refcount += 1
    new = vm.folios.alloc(_GFP_USER_ZEROED if old is None else GFP_HIGHUSER_MOVABLE)
    if new is None:
        if old is not None:
            vm.folios.put(old)
        return FaultResult.OOM
    if mm.page_table.read(fault.at) != fault.entry:
        # reclaim, run to find a page, has changed the entry: the process tries again
        vm.folios.put(new)
        if old is not None:
            vm.folios.put(old)
        return FaultResult.DONE
    pfn = mm.page_table.pte_pfn(fault.entry)
    if old is not None:
        vm.ram.view(new.pfn << PAGE_SHIFT, PAGE_SIZE)[:] = vm.ram.view(pfn << PAGE_SHIFT, PAGE_SIZE)
    if old is None or not old.anon:
        if old is not None:
            fault.count(mm_counter(old), -1)
        fault.count(MM_ANONPAGES)
    page_add_new_anon_rmap(vm, new, vma, fault.addr)
    vm.lru_cache_add(new)
    fault.set(fault.writable(fault.mk_pte(new)))
    if old is not None:
        page_remove_rmap(vm, old, pfn)
        vm.folios.put(old)
        vm.free_swap_cache(old)
        vm.folios.put(old)
    return FaultResult.DONE


# Files, and memory shared by processes


def _do_fault(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:do_fault @6.1.192."""
    if not fault.write:
        return _do_read_fault(fault)
    if not fault.vma.vm_flags & VM_SHARED:
        return _do_cow_fault(fault)
    return _do_shared_fault(fault)


def _file_page(fault: _Fault) -> tuple[Folio | None, FaultResult]:
    """The page of the file, with a reference, and how getting it went (__do_fault)."""
    mapping = fault.vma.vm_file
    assert mapping is not None
    major = not mapping.shmem and not _in_memory(fault, mapping)
    try:
        folio = mapping.fault(fault.vma.page_index(fault.addr), GFP_HIGHUSER_MOVABLE)
    except IndexError:
        return None, FaultResult.SIGBUS
    if folio is None:
        return None, FaultResult.OOM
    return folio, FaultResult.MAJOR if major else FaultResult.DONE


def _in_memory(fault: _Fault, mapping: Mapping) -> bool:
    folio = mapping.find(fault.vma.page_index(fault.addr))
    if folio is not None:
        fault.vm.folios.put(folio)
    return folio is not None


def _do_read_fault(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:do_read_fault @6.1.192."""
    if _do_fault_around(fault):
        return FaultResult.DONE
    folio, result = _file_page(fault)
    if folio is None:
        return result
    return result | _finish_fault(fault, folio)


def _do_fault_around(fault: _Fault) -> bool:
    """Map the pages near a read that are in memory already; whether the one that is wanted was among them.

    Source: mm/memory.c:do_fault_around, mm/filemap.c:filemap_map_pages @6.1.192
    """
    vm, vma, addr = fault.vm, fault.vma, fault.addr
    assert vma.vm_file is not None
    start = max(addr & -(_FAULT_AROUND * PAGE_SIZE), vma.vm_start)
    end = min(start + _FAULT_AROUND * PAGE_SIZE, (start & -vm.layout.pmd_size) + vm.layout.pmd_size, vma.vm_end)
    found = []
    for address in range(start, end, PAGE_SIZE):
        folio = vma.vm_file.find(vma.page_index(address))
        if folio is not None:
            found.append((address, folio))
    if not found or not _pte_alloc(fault):
        for _, folio in found:
            vm.folios.put(folio)
        return False
    done = False
    for address, folio in found:
        at = fault.mm.page_table.offset(address)
        assert at is not None  # the same table as that of the fault
        if fault.mm.page_table.read(at):
            vm.folios.put(folio)
            continue
        page = _Fault(vm, vma, address, False, at)
        _do_set_pte(page, folio)
        done = done or address == addr
    return done


def _do_cow_fault(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:do_cow_fault @6.1.192."""
    vm = fault.vm
    if not anon_vma_prepare(vm, fault.vma):
        return FaultResult.OOM
    copy = vm.folios.alloc(GFP_HIGHUSER_MOVABLE)
    if copy is None:
        return FaultResult.OOM
    folio, result = _file_page(fault)
    if folio is None:
        vm.folios.put(copy)
        return result
    vm.ram.view(copy.pfn << PAGE_SHIFT, PAGE_SIZE)[:] = vm.ram.view(folio.pfn << PAGE_SHIFT, PAGE_SIZE)
    result |= _finish_fault(fault, copy)
    vm.folios.put(folio)
    return result


def _do_shared_fault(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:do_shared_fault @6.1.192."""
    folio, result = _file_page(fault)
    if folio is None:
        return result
    result |= _finish_fault(fault, folio)
    if not result & FaultResult.OOM:
        fault.vm.set_page_dirty(folio)
    return result


def _finish_fault(fault: _Fault, folio: Folio) -> FaultResult:
    """Map a page that the caller's reference is handed over with; it is put if there is no memory for a table.

    Source: mm/memory.c:finish_fault @6.1.192
    """
    if not _pte_alloc(fault):
        fault.vm.folios.put(folio)
        return FaultResult.OOM
    _do_set_pte(fault, folio)
    return FaultResult.DONE


def _do_set_pte(fault: _Fault, folio: Folio) -> None:
    """Source: mm/memory.c:do_set_pte @6.1.192."""
    vm, vma = fault.vm, fault.vma
    entry = fault.mk_pte(folio)
    if fault.write:
        entry = fault.writable(entry)
    if fault.write and not vma.vm_flags & VM_SHARED:
        fault.count(MM_ANONPAGES)
        page_add_new_anon_rmap(vm, folio, vma, fault.addr)
        vm.lru_cache_add(folio)
    else:
        fault.count(mm_counter(folio))
        page_add_file_rmap(vm, folio)
    fault.set(entry)


# Swap


def _do_swap_page(fault: _Fault) -> FaultResult:
    """Source: mm/memory.c:do_swap_page @6.1.192."""
    vm, vma = fault.vm, fault.vma
    if vm.swap is None:
        return FaultResult.SIGBUS
    swap_entry = pte_to_swp_entry(vm.layout, fault.entry)
    if not anon_vma_prepare(vm, vma):
        return FaultResult.OOM
    major = swap_entry not in vm.swap.cache
    folio = vm.swap.swapin(swap_entry, GFP_HIGHUSER_MOVABLE)
    if folio is None:
        return FaultResult.OOM
    if fault.mm.page_table.read(fault.at) != fault.entry:
        vm.folios.put(folio)
        return FaultResult.DONE
    result = FaultResult.DONE
    if major:
        vm.count("pgmajfault")
        result = FaultResult.MAJOR
    if fault.write:
        vm.lru_add_drain()
    exclusive = vm.layout.entry_size == 8 and bool(fault.entry & SWP_EXCLUSIVE)
    vm.swap.swap_free(swap_entry)
    if folio.swapcache and fault.write and folio.refcount == 2:
        vm.swap.free_swap_cache(folio)
    fault.count(MM_ANONPAGES)
    fault.count(MM_SWAPENTS, -1)
    entry = fault.mk_pte(folio)
    exclusive = exclusive or folio.refcount == 1
    write = fault.write
    if exclusive and write:
        entry = fault.writable(entry)
        write = False
    folio.flags |= PG_SWAPBACKED
    page_add_anon_rmap(vm, folio, vma, fault.addr, exclusive)
    fault.set(entry)
    if write:
        fault.entry = entry
        result |= _do_wp_page(fault)
    return result


# Taking mappings away


def zap_range(vm: Vm, mm: MmStruct, vma: VmArea, start: int, end: int, tlb: MmuGather) -> None:
    """Unmap the pages of a part of an area; the gather structure takes them.

    Source: mm/memory.c:unmap_page_range, zap_pte_range @6.1.192
    """
    table = mm.page_table
    last, size = vm.layout.last, vm.layout.pmd_size
    if vm.kernel.current.mm is mm and any(level == last for _, level in table.tables(start, end)):
        mm.sync_mm_rss()
    for addr, level, at, entry in list(table.entries(start, end)):
        if level < last:
            if start <= addr and addr + size <= end:
                zap_huge_pmd(vm, vma, addr, tlb)
            else:
                split_huge_pmd(vm, vma, addr)
                zap_range(vm, mm, vma, max(start, addr), min(end, addr + size), tlb)
            continue
        table.write(at, 0)
        if not pte_present(entry):
            mm.rss_stat[MM_SWAPENTS] -= 1
            if vm.swap is not None:
                vm.swap.swap_free(pte_to_swp_entry(vm.layout, entry))
        elif not entry & PAGE_SPECIAL:
            _zap_page(vm, mm, table.pte_pfn(entry), entry, tlb)


def _zap_page(vm: Vm, mm: MmStruct, pfn: int, entry: int, tlb: MmuGather) -> None:
    folio = vm.folios.get(pfn)
    assert folio is not None  # the entry holds a reference
    if not folio.anon:
        if entry & PAGE_DIRTY:
            vm.set_page_dirty(folio)
        if entry & PAGE_ACCESSED:
            vm.mark_page_accessed(folio)
    mm.rss_stat[mm_counter(folio)] -= 1
    page_remove_rmap(vm, folio, pfn)
    tlb.remove_page(folio)


def free_pgtables(vm: Vm, mm: MmStruct, vmas: list[VmArea], floor: int, ceiling: int, tlb: MmuGather) -> None:
    """Free the page tables of areas that are gone, and unlink these from what rmap looks at.

    Source: mm/memory.c:free_pgtables @6.1.192
    """
    size = vm.layout.pmd_size
    i = 0
    while i < len(vmas):
        first = i
        _unlink(vm, vmas[i])
        while i + 1 < len(vmas) and vmas[i + 1].vm_start <= vmas[i].vm_end + size:
            i += 1
            _unlink(vm, vmas[i])
        above = vmas[i + 1].vm_start if i + 1 < len(vmas) else ceiling
        mm.page_table.free_range(vmas[first].vm_start, vmas[i].vm_end, floor, above, tlb.remove_table)
        i += 1


def _unlink(vm: Vm, vma: VmArea) -> None:
    unlink_anon_vmas(vm, vma)
    if vma.vm_file is not None:
        vma.vm_file.i_mmap.remove(vma)


def unmap_region(
    vm: Vm, mm: MmStruct, vmas: list[VmArea], start: int, end: int, floor: int, ceiling: int, tlb: MmuGather
) -> None:
    """Unmap areas that were taken out of the address space already, and free their page tables.

    Source: mm/mmap.c:unmap_region @6.1.192
    """
    vm.lru_add_drain()
    mm.update_hiwater_rss()
    for vma in vmas:
        zap_range(vm, mm, vma, max(start, vma.vm_start), min(end, vma.vm_end), tlb)
    free_pgtables(vm, mm, vmas, floor, ceiling, tlb)
