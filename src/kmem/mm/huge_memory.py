# SPDX-License-Identifier: GPL-2.0-only
"""Transparent huge pages: one entry of the level above for a whole table of pages.

The first write to an aligned stretch of an anonymous area takes a compound
page if there is one to be had at once.  A table for single pages is put by
each time, so that splitting the entry can never fail.

Source: mm/huge_memory.c, mm/pgtable-generic.c @6.1.192
Differs: reads of untouched memory map the small zero page, never the huge one; khugepaged does not run; a huge page
that lost part of its mappings is split when reclaim comes to it, not by a shrinker of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.mm.folio import Folio
from kmem.mm.gfp import __GFP_DIRECT_RECLAIM, GFP_TRANSHUGE_LIGHT
from kmem.mm.mm_types import MM_ANONPAGES, VM_HUGEPAGE, VM_NOHUGEPAGE, VM_SHARED, VM_SPECIAL, MmStruct, VmArea
from kmem.mm.pgalloc import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PSE,
    PAGE_RW,
    PAGE_SOFT_DIRTY,
    PAGE_TABLE,
)
from kmem.mm.pgprot import maybe_mkwrite, mkdirty, pte_modify, vma_page_prot
from kmem.mm.rmap import (
    anon_vma_prepare,
    page_add_new_anon_rmap,
    page_mappings,
    page_move_anon_rmap,
    page_remove_rmap,
)

if TYPE_CHECKING:
    from kmem.mm.mmu_gather import MmuGather
    from kmem.mm.vm import Vm

__all__ = [
    "change_huge_pmd",
    "copy_huge_pmd",
    "do_huge_pmd_anonymous_page",
    "do_huge_pmd_wp_page",
    "hugepage_suitable",
    "split_huge_page",
    "split_huge_pmd",
    "split_huge_pmd_address",
    "zap_huge_pmd",
]

_DIRECT_RECLAIM = __GFP_DIRECT_RECLAIM


def hugepage_suitable(vm: Vm, vma: VmArea, addr: int) -> bool:
    """Whether a fault at `addr` may be answered with a huge page.

    Source: mm/huge_memory.c:hugepage_vma_check, include/linux/huge_mm.h:transhuge_vma_suitable @6.1.192
    """
    if not vma.anonymous or vma.vm_flags & (VM_SPECIAL | VM_NOHUGEPAGE):
        return False
    if vm.thp == "never" or (vm.thp == "madvise" and not vma.vm_flags & VM_HUGEPAGE):
        return False
    size = vm.layout.pmd_size
    start = addr & -size
    return vma.vm_start <= start and start + size <= vma.vm_end


def _pmd(vm: Vm, mm: MmStruct, addr: int) -> tuple[int, int]:
    """Physical address and value of the entry that maps, or would map, a huge page."""
    at = mm.page_table.alloc(addr, vm.layout.last - 1)
    assert at is not None  # a huge page is mapped there, or the caller has made the tables
    return at, mm.page_table.read(at)


def do_huge_pmd_anonymous_page(vm: Vm, vma: VmArea, addr: int) -> bool | None:
    """Map a fresh huge page for a write at `addr`.

    Returns
    -------
    bool or None
        True: done. False: use a small page. None: there is not even memory for a table.

    Source: mm/huge_memory.c:do_huge_pmd_anonymous_page @6.1.192
    """
    mm, table = vma.vm_mm, vma.vm_mm.page_table
    if not anon_vma_prepare(vm, vma):
        return None
    gfp = GFP_TRANSHUGE_LIGHT | (_DIRECT_RECLAIM if vma.vm_flags & VM_HUGEPAGE else 0)
    order = vm.layout.shifts[-2] - 12
    folio = vm.folios.alloc(gfp, order)
    if folio is None:
        vm.count("thp_fault_fallback")
        return False
    spare = table.alloc_spare()
    if spare is None:
        vm.folios.put(folio)
        return None
    start = addr & -vm.layout.pmd_size
    vm.ram.clear(folio.pfn << 12, vm.layout.pmd_size)
    page_add_new_anon_rmap(vm, folio, vma, start)
    vm.lru_cache_add(folio)
    at, _ = _pmd(vm, mm, start)
    entry = maybe_mkwrite(mkdirty(vm.layout, vma_page_prot(vm.layout, vma) | PAGE_PSE), vma)
    table.write(at, table.pfn_pte(folio.pfn, entry))
    table.deposit(at, spare)
    vm.mod_node(folio.pfn, "nr_anon_transparent_hugepages", 1)
    mm.rss_stat[MM_ANONPAGES] += folio.nr_pages
    vm.count("thp_fault_alloc")
    return True


def do_huge_pmd_wp_page(vm: Vm, vma: VmArea, addr: int) -> bool:
    """Make a huge page writable that is this process's alone; else split its entry and return False.

    Source: mm/huge_memory.c:do_huge_pmd_wp_page @6.1.192
    """
    start = addr & -vm.layout.pmd_size
    at, entry = _pmd(vm, vma.vm_mm, start)
    folio = _folio(vm, vma.vm_mm, entry)
    if not folio.is_exclusive(folio.pfn):
        if folio.refcount > 1:
            split_huge_pmd(vm, vma, start)
            return False
        page_move_anon_rmap(folio, vma)
    vma.vm_mm.page_table.write(at, maybe_mkwrite(mkdirty(vm.layout, entry | PAGE_ACCESSED), vma))
    return True


def _folio(vm: Vm, mm: MmStruct, entry: int) -> Folio:
    folio = vm.folios.get(mm.page_table.pte_pfn(entry))
    assert folio is not None  # an entry of a huge page holds a reference
    return folio


def split_huge_pmd(vm: Vm, vma: VmArea, start: int) -> None:
    """Map a huge page by the table that was put by, page by page. The page itself stays one.

    Source: mm/huge_memory.c:__split_huge_pmd_locked @6.1.192
    """
    mm, table = vma.vm_mm, vma.vm_mm.page_table
    at, huge = _pmd(vm, mm, start)
    folio = _folio(vm, mm, huge)
    if huge & PAGE_DIRTY:
        vm.set_page_dirty(folio)
    folio.refcount += folio.nr_pages - 1
    prot = vma_page_prot(vm.layout, vma)
    prot = maybe_mkwrite(prot, vma) if huge & PAGE_RW else prot & ~PAGE_RW
    if not huge & PAGE_ACCESSED:
        prot &= ~PAGE_ACCESSED
    if vm.layout.soft_dirty:
        prot |= huge & PAGE_SOFT_DIRTY
    exclusive = folio.is_exclusive(folio.pfn)
    frame = table.withdraw(at)
    for i in range(folio.nr_pages):
        if exclusive:
            folio.set_exclusive(folio.pfn + i)
        table.write((frame << 12) + i * vm.layout.entry_size, table.pfn_pte(folio.pfn + i, prot))
    folio.pmd_to_ptes()
    if not folio.entire_mapcount:
        vm.mod_node(folio.pfn, "nr_anon_transparent_hugepages", -1)
    table.write(at, frame << 12 | PAGE_TABLE)
    vm.count("thp_split_pmd")


def split_huge_pmd_address(vm: Vm, mm: MmStruct, addr: int) -> None:
    """Split the entry of a huge page if `addr`, where an area is going to begin or end, lies inside it.

    Source: mm/huge_memory.c:split_huge_pmd_if_needed @6.1.192
    """
    size = vm.layout.pmd_size
    if addr % size == 0 or not mm.page_table.huge(addr):
        return
    vma = mm.vma_lookup(addr & -size)
    assert vma is not None  # a huge page lies in one area
    split_huge_pmd(vm, vma, addr & -size)


def zap_huge_pmd(vm: Vm, vma: VmArea, start: int, tlb: MmuGather) -> None:
    """Unmap a huge page.

    Source: mm/huge_memory.c:zap_huge_pmd @6.1.192
    """
    mm, table = vma.vm_mm, vma.vm_mm.page_table
    at, huge = _pmd(vm, mm, start)
    folio = _folio(vm, mm, huge)
    table.write(at, 0)
    page_remove_rmap(vm, folio, folio.pfn, huge=True)
    table.free_spare(table.withdraw(at))
    mm.rss_stat[MM_ANONPAGES] -= folio.nr_pages
    tlb.remove_page(folio)


def copy_huge_pmd(vm: Vm, src_vma: VmArea, dst_vma: VmArea, start: int) -> bool:
    """Share a huge page with the child of a fork, written by neither; False if there is no memory.

    Source: mm/huge_memory.c:copy_huge_pmd @6.1.192
    """
    src, dst = src_vma.vm_mm, dst_vma.vm_mm
    spare = dst.page_table.alloc_spare()
    if spare is None:
        return False
    dst_at = dst.page_table.alloc(start, vm.layout.last - 1)
    if dst_at is None:
        dst.page_table.free_spare(spare)
        return False
    at, huge = _pmd(vm, src, start)
    folio = _folio(vm, src, huge)
    folio.refcount += 1
    folio.mapcount += 1
    folio.entire_mapcount += 1
    folio.exclusive_map = 0
    dst.rss_stat[MM_ANONPAGES] += folio.nr_pages
    dst.page_table.deposit(dst_at, spare)
    src.page_table.write(at, huge & ~PAGE_RW)
    dst.page_table.write(dst_at, huge & ~(PAGE_RW | PAGE_ACCESSED))
    return True


def change_huge_pmd(vm: Vm, vma: VmArea, start: int) -> None:
    """Give the entry of a huge page the rights that its area has now.

    Source: mm/huge_memory.c:change_huge_pmd @6.1.192
    """
    table = vma.vm_mm.page_table
    at, huge = _pmd(vm, vma.vm_mm, start)
    entry = pte_modify(table, huge, vma_page_prot(vm.layout, vma), keep=PAGE_PSE)
    table.write(at, entry if vma.vm_flags & VM_SHARED else entry & ~PAGE_RW)


def split_huge_page(vm: Vm, folio: Folio) -> list[Folio] | None:
    """Make single pages of a huge page that reclaim has isolated; None if somebody else holds it.

    Returns
    -------
    list of Folio or None
        The pages, the first one being `folio` itself; each has a reference for the caller. Pages that
        nobody maps any more are freed, and not among them.

    Source: mm/huge_memory.c:split_huge_page_to_list @6.1.192
    """
    if not folio.anon or folio.refcount != folio.mapcount + 1:
        return None
    for vma, addr, _, _ in list(page_mappings(vm, folio.pfn)):
        if vma.vm_mm.page_table.huge(addr):
            split_huge_pmd(vm, vma, addr)
    pages = vm.folios.split(folio)
    vm.count("thp_split_page")
    kept = [page for page in pages if page is folio or page.mapcount]
    for page in pages:
        if page is not folio and not page.mapcount:
            vm.folios.put(page)
    return kept
