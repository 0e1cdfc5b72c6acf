# SPDX-License-Identifier: GPL-2.0-only
"""Changing the rights of mapped memory.

Source: mm/mprotect.c, mm/madvise.c @6.1.192
Differs: no protection keys.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM
from typing import TYPE_CHECKING

from kmem.mm.huge_memory import change_huge_pmd, split_huge_pmd
from kmem.mm.memory import zap_range
from kmem.mm.mm_types import (
    PAGE_MASK,
    PAGE_SHIFT,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_WRITE,
    MmStruct,
    VmArea,
    page_align,
)
from kmem.mm.mman import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    PROT_WRITE,
)
from kmem.mm.mmap import calc_vm_prot_bits
from kmem.mm.mmu_gather import MmuGather
from kmem.mm.pgalloc import PAGE_DIRTY, PAGE_RW, PAGE_SPECIAL
from kmem.mm.pgprot import pte_modify, pte_present, vma_page_prot
from kmem.mm.vma import fail, split_vma, vma_merge

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = ["do_madvise", "do_mprotect"]


def do_mprotect(vm: Vm, mm: MmStruct, start: int, length: int, prot: int) -> None:
    """Change the rights of a range, area by area; what was done before an error stays done.

    Raises
    ------
    OSError
        As the system call fails.

    Source: mm/mprotect.c:do_mprotect_pkey @6.1.192
    """
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start & ~PAGE_MASK:
        fail(EINVAL)
    if not length:
        return
    end = start + page_align(length)
    if end >= 1 << (64 if vm.arch == "x86_64" else 32):
        fail(ENOMEM)
    if prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | 0x8):
        fail(EINVAL)
    vma = mm.find_vma(start)
    if vma is None:
        fail(ENOMEM)
    if grows & PROT_GROWSDOWN:
        if vma.vm_start >= end:
            fail(ENOMEM)
        start = vma.vm_start
        if not vma.vm_flags & VM_GROWSDOWN:
            fail(EINVAL)
    elif vma.vm_start > start:
        fail(ENOMEM)
    if grows & PROT_GROWSUP:
        fail(EINVAL)
    _each_area(vm, mm, vma, start, end, prot)


def _each_area(vm: Vm, mm: MmStruct, vma: VmArea, start: int, end: int, prot: int) -> None:
    prev = vma if start > vma.vm_start else mm.prev_next(vma)[0]
    while True:
        flags = calc_vm_prot_bits(prot) | vma.vm_flags & ~VM_ACCESS_FLAGS
        if flags & ~(flags >> 4) & VM_ACCESS_FLAGS:
            fail(EACCES)
        prev = _mprotect_fixup(vm, mm, vma, prev, start, min(end, vma.vm_end), flags)
        start = prev.vm_end
        if start >= end:
            return
        following = mm.find_vma(prev.vm_end)
        if following is None or following.vm_start != start:
            fail(ENOMEM)
        vma = following


def _mprotect_fixup(vm: Vm, mm: MmStruct, vma: VmArea, prev: VmArea | None, start: int, end: int, flags: int) -> VmArea:
    """Change a part of one area; return the area that it belongs to now.

    Source: mm/mprotect.c:mprotect_fixup @6.1.192
    """
    old, nr_pages, charged = vma.vm_flags, (end - start) >> PAGE_SHIFT, 0
    if flags == old:
        return vma
    if flags & VM_WRITE:
        if not mm.may_expand_vm(flags, nr_pages) and mm.may_expand_vm(old, nr_pages):
            fail(ENOMEM)
        if not old & (VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE):
            charged = nr_pages
            if not vm.vm_enough_memory(mm, charged, mm.privileged):
                fail(ENOMEM)
            flags |= VM_ACCOUNT
    pgoff = vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)
    merged = vma_merge(vm, mm, prev, start, end, flags, vma.anon_vma, vma.vm_file, pgoff)
    if merged is not None:
        vma = merged
    else:
        try:
            if start != vma.vm_start:
                split_vma(vm, mm, vma, start, new_below=True)
            if end != vma.vm_end:
                split_vma(vm, mm, vma, end, new_below=False)
        except OSError:
            vm.vm_unacct_memory(charged)
            raise
    vma.vm_flags = flags
    change_protection(vm, vma, start, end)
    mm.vm_stat_account(old, -nr_pages)
    mm.vm_stat_account(flags, nr_pages)
    return vma


def change_protection(vm: Vm, vma: VmArea, start: int, end: int) -> None:
    """Give the entries of a part of an area the rights that the area has now.

    Pages that the process alone has written to become writable at once; others wait for the next write.

    Source: mm/mprotect.c:change_pte_range, can_change_pte_writable @6.1.192
    """
    table = vma.vm_mm.page_table
    prot = vma_page_prot(vm.layout, vma)
    for addr, level, at, entry in list(table.entries(start, end)):
        if level < vm.layout.last:
            if addr < start or addr + vm.layout.pmd_size > end:
                split_huge_pmd(vm, vma, addr)
                change_protection(vm, vma, max(start, addr), min(end, addr + vm.layout.pmd_size))
            else:
                change_huge_pmd(vm, vma, addr)
        elif pte_present(entry):
            entry = pte_modify(table, entry, prot)
            if vma.vm_flags & VM_WRITE and not entry & PAGE_RW and _can_change_writable(vm, vma, entry):
                entry |= PAGE_RW
            table.write(at, entry)


def _can_change_writable(vm: Vm, vma: VmArea, entry: int) -> bool:
    if not entry & PAGE_DIRTY:
        return False
    if vma.vm_flags & VM_SHARED:
        return True
    if entry & PAGE_SPECIAL:
        return False
    pfn = vma.vm_mm.page_table.pte_pfn(entry)
    folio = vm.folios.get(pfn)
    return folio is not None and folio.anon and folio.is_exclusive(pfn)


def do_madvise(vm: Vm, mm: MmStruct, start: int, length: int, advice: int) -> None:
    """Give advice about a range.

    ``MADV_DONTNEED`` drops its pages, ``MADV_HUGEPAGE`` and ``MADV_NOHUGEPAGE`` ask for huge pages or none.

    Raises
    ------
    OSError
        As the system call fails; other advice than the above is EINVAL.

    Source: mm/madvise.c:do_madvise @6.1.192
    """
    if advice not in (MADV_NORMAL, MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE) or start & ~PAGE_MASK:
        fail(EINVAL)
    end = start + page_align(length)
    hole = False
    at = start
    while at < end:
        vma = mm.find_vma_intersection(at, end)
        if vma is None:
            hole = True
            break
        if vma.vm_start > at:
            hole, at = True, vma.vm_start
        stop = min(end, vma.vm_end)
        _advise(vm, mm, vma, at, stop, advice)
        at = stop
    if hole:
        fail(ENOMEM)


def _advise(vm: Vm, mm: MmStruct, vma: VmArea, start: int, end: int, advice: int) -> None:
    """Source: mm/madvise.c:madvise_vma_behavior, madvise_update_vma @6.1.192."""
    if advice == MADV_DONTNEED:
        if vma.vm_flags & (VM_LOCKED | VM_SPECIAL):
            fail(EINVAL)
        vm.lru_add_drain()
        mm.update_hiwater_rss()
        with MmuGather(vm) as tlb:
            zap_range(vm, mm, vma, start, end, tlb)
        return
    flags = vma.vm_flags
    if advice == MADV_HUGEPAGE:
        flags = flags & ~VM_NOHUGEPAGE | VM_HUGEPAGE
    elif advice == MADV_NOHUGEPAGE:
        flags = flags & ~VM_HUGEPAGE | VM_NOHUGEPAGE
    if not (flags ^ vma.vm_flags) & ~VM_SOFTDIRTY:
        return
    prev = vma if start > vma.vm_start else mm.prev_next(vma)[0]
    pgoff = vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)
    merged = vma_merge(vm, mm, prev, start, end, flags, vma.anon_vma, vma.vm_file, pgoff)
    if merged is None:
        if start != vma.vm_start:
            split_vma(vm, mm, vma, start, new_below=True)
        if end != vma.vm_end:
            split_vma(vm, mm, vma, end, new_below=False)
        merged = vma
    merged.vm_flags = flags
