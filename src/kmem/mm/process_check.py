# SPDX-License-Identifier: GPL-2.0-only
"""Whether address spaces, page tables, folios and counters of a machine agree.

Source: mm/mmap.c:validate_mm, mm/memory.c:check_mm @6.1.192, and what follows from the rest of mm
"""

from __future__ import annotations

from collections import Counter

from kmem.errors import StateError
from kmem.mm.folio import Folio
from kmem.mm.mm_types import (
    MM_SWAPENTS,
    PAGE_MASK,
    PAGE_SIZE,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_SHARED,
    VM_WRITE,
    MmStruct,
)
from kmem.mm.pgalloc import PAGE_RW, PAGE_SPECIAL
from kmem.mm.pgprot import pte_present
from kmem.mm.rmap import mm_counter, page_mappings
from kmem.mm.vm import Vm

__all__ = ["validate_mm", "validate_processes"]


def validate_mm(vm: Vm, mm: MmStruct) -> None:
    """Check one address space: areas, counters, page table entries.

    Raises
    ------
    StateError
        At the first contradiction.

    Notes
    -----
    Complexity: O(pages).
    """
    last = 0
    sizes: Counter[str] = Counter()
    for vma in mm.vmas:
        if vma.vm_mm is not mm or not last <= vma.vm_start < vma.vm_end <= mm.task_size:
            raise StateError(f"{vma!r} is out of order")
        if (vma.vm_start | vma.vm_end) & ~PAGE_MASK:
            raise StateError(f"{vma!r} is no whole number of pages")
        last = vma.vm_end
        sizes["total"] += vma.nr_pages
        kind = vma.vm_flags & (VM_EXEC | VM_WRITE | VM_SHARED | VM_GROWSDOWN)
        if kind & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC:
            sizes["exec"] += vma.nr_pages
        elif kind & VM_GROWSDOWN:
            sizes["stack"] += vma.nr_pages
        elif kind & (VM_WRITE | VM_SHARED) == VM_WRITE:
            sizes["data"] += vma.nr_pages
        if vma.anon_vma is not None and vma.anon_vma not in vma.anon_vma_chain:
            raise StateError(f"{vma!r} is not chained to its own AnonVma")
        if any(vma not in anon_vma.vmas for anon_vma in vma.anon_vma_chain):
            raise StateError(f"{vma!r} is chained to an AnonVma that does not know it")
    counted = {"total": mm.total_vm, "exec": mm.exec_vm, "stack": mm.stack_vm, "data": mm.data_vm}
    for name, count in counted.items():
        if sizes[name] != count:
            raise StateError(f"{mm!r} counts {count} pages as {name}, its areas have {sizes[name]}")
    _validate_entries(vm, mm)


def _validate_entries(vm: Vm, mm: MmStruct) -> None:
    rss = [0, 0, 0, 0]
    for addr, level, _, entry in mm.page_table.entries(0, mm.task_size):
        vma = mm.vma_lookup(addr)
        if vma is None:
            raise StateError(f"{addr:#x} is mapped outside of all areas")
        if not pte_present(entry):
            rss[MM_SWAPENTS] += 1
            continue
        pfn = mm.page_table.pte_pfn(entry)
        if entry & PAGE_RW and not vma.vm_flags & VM_WRITE:
            raise StateError(f"{addr:#x} is writable in {vma!r}")
        if entry & PAGE_SPECIAL:
            if pfn != vm.zero_pfn or entry & PAGE_RW:
                raise StateError(f"{addr:#x} maps frame {pfn:#x} as if it were the page of zeros")
            continue
        folio = vm.folios.get(pfn)
        if folio is None:
            raise StateError(f"{addr:#x} maps frame {pfn:#x}, which is nobody's")
        if folio.anon and entry & PAGE_RW and not folio.is_exclusive(pfn):
            raise StateError(f"{addr:#x} may write to frame {pfn:#x}, which is shared")
        rss[mm_counter(folio)] += 1 if level == vm.layout.last else vm.layout.pmd_size // PAGE_SIZE
    counted = [seen + cached for seen, cached in zip(mm.rss_stat, mm.rss_cached, strict=True)]
    if rss != counted:
        raise StateError(f"{mm!r} counts {counted} resident pages, its page tables have {rss}")
    tables = len(list(mm.page_table.tables(0, mm.page_table.ceiling))) + len(mm.page_table.spares)
    if tables != mm.page_table.nr_tables:
        raise StateError(f"{mm!r} counts {mm.page_table.nr_tables} page tables, there are {tables}")


def validate_processes(vm: Vm) -> None:
    """Check all address spaces, and that folios and promises add up over them.

    Raises
    ------
    StateError
        At the first contradiction.

    Notes
    -----
    Complexity: O(pages).
    """
    mapped: Counter[int] = Counter()
    entire: Counter[int] = Counter()
    promised = 0
    for mm in vm.mms:
        validate_mm(vm, mm)
        promised += sum(vma.nr_pages for vma in mm.vmas if vma.vm_flags & VM_ACCOUNT)
        for _, level, _, entry in mm.page_table.entries(0, mm.task_size):
            if pte_present(entry) and not entry & PAGE_SPECIAL:
                pfn = mm.page_table.pte_pfn(entry)
                (mapped if level == vm.layout.last else entire)[pfn] += 1
    for folio in vm.folios:
        _validate_folio(vm, folio, mapped, entire)
    shared = {id(vma.vm_file): vma.vm_file for mm in vm.mms for vma in mm.vmas if vma.vm_file is not None}
    promised += sum(getattr(mapping, "nr_charged", 0) for mapping in shared.values())
    if promised != vm.committed_as:
        raise StateError(f"{vm.committed_as} pages are promised, areas account for {promised}")


def _validate_folio(vm: Vm, folio: Folio, mapped: Counter[int], entire: Counter[int]) -> None:
    pages = range(folio.pfn, folio.pfn + folio.nr_pages)
    mappings = entire[folio.pfn] + sum(mapped[pfn] for pfn in pages)
    if mappings != folio.mapcount or entire[folio.pfn] != folio.entire_mapcount:
        raise StateError(f"{folio!r} is mapped by {mappings} entries")
    if folio.refcount < max(folio.mapcount, 1):
        raise StateError(f"{folio!r} has fewer references than mappings")
    # two batches of the LRU lists may hold it
    if folio.anon and not folio.swapcache and folio.refcount > folio.mapcount + 2:
        raise StateError(f"{folio!r} has references that nobody accounts for")
    if folio.mapcount and len(list(page_mappings(vm, folio.pfn))) != mappings:
        raise StateError(f"not all mappings of {folio!r} are found from it")
    if vm.page_alloc.page_info(folio.pfn)["order"] != folio.order:
        raise StateError(f"{folio!r} is no block of its order in the page allocator")
    if folio.anon and folio.mapcount > 1 and folio.order == 0 and folio.is_exclusive(folio.pfn):
        raise StateError(f"{folio!r} is one process's alone, and mapped by several")
