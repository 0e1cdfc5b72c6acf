# SPDX-License-Identifier: GPL-2.0-only
"""From the rights of an area to the flags of its page table entries.

Source: arch/x86/mm/pgprot.c, arch/x86/include/asm/pgtable.h @6.1.192
"""

from __future__ import annotations

from kmem.mm.mm_types import VM_ACCESS_FLAGS, VM_EXEC, VM_SHARED, VM_WRITE, VmArea
from kmem.mm.pgalloc import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PROTNONE,
    PAGE_RW,
    PAGE_SOFT_DIRTY,
    PAGE_SPECIAL,
    PAGE_USER,
    TableLayout,
    UserPageTable,
)

__all__ = [
    "SWP_EXCLUSIVE",
    "maybe_mkwrite",
    "mkdirty",
    "pte_modify",
    "pte_present",
    "pte_to_swp_entry",
    "swp_entry",
    "swp_entry_to_pte",
    "vm_get_page_prot",
    "vma_page_prot",
]

#: In the entry of a page in swap: it was this process's alone when it left (x86-64 only).
SWP_EXCLUSIVE = 0x8
_OFFSET_BITS_64 = 50


def swp_entry(layout: TableLayout, area: int, offset: int) -> int:
    """Return the swap entry of a slot: the number of the swap area above the offset in it.

    Source: include/linux/swapops.h:swp_entry @6.1.192
    """
    return area << (58 if layout.entry_size == 8 else 26) | offset


def swp_entry_to_pte(layout: TableLayout, entry: int, exclusive: bool = False) -> int:
    """Return the page table entry that stands for a page in swap.

    Source: include/linux/swapops.h:swp_entry_to_pte, arch/x86/include/asm/pgtable_64.h:__swp_entry,
    arch/x86/include/asm/pgtable-2level.h:__swp_entry @6.1.192
    """
    if layout.entry_size == 8:
        area, offset = entry >> 58, entry & ((1 << 58) - 1)
        inverted = ~offset & ((1 << _OFFSET_BITS_64) - 1)
        return area << 59 | inverted << 9 | (SWP_EXCLUSIVE if exclusive else 0)
    return entry >> 26 << 1 | (entry & ((1 << 26) - 1)) << 9


def pte_to_swp_entry(layout: TableLayout, pte: int) -> int:
    """Return the swap entry that a page table entry stands for.

    Source: include/linux/swapops.h:pte_to_swp_entry @6.1.192
    """
    if layout.entry_size == 8:
        return swp_entry(layout, pte >> 59, ~(pte >> 9) & ((1 << _OFFSET_BITS_64) - 1))
    return swp_entry(layout, pte >> 1 & 0x1F, pte >> 9)


def pte_present(entry: int) -> bool:
    """Whether an entry stands for a page in memory, even if nobody may touch it.

    Source: arch/x86/include/asm/pgtable.h:pte_present @6.1.192
    """
    return entry & (PAGE_PRESENT | PAGE_PROTNONE) != 0


def vm_get_page_prot(layout: TableLayout, flags: int) -> int:
    """Return the entry flags for an area's ``VM_*`` flags; private pages are not writable at first.

    Source: arch/x86/mm/pgprot.c:vm_get_page_prot @6.1.192
    """
    if not flags & VM_ACCESS_FLAGS:
        return PAGE_PROTNONE | PAGE_ACCESSED
    prot = PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED
    if flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED:
        prot |= PAGE_RW
    if layout.nx and not flags & VM_EXEC:
        prot |= PAGE_NX
    return prot


def vma_page_prot(layout: TableLayout, vma: VmArea) -> int:
    """Return the entry flags of an area; of a shared file that is written back, the first write is to be seen.

    Source: mm/mmap.c:vma_set_page_prot, vma_wants_writenotify @6.1.192
    """
    flags = vma.vm_flags
    if vma.vm_file is not None and not vma.vm_file.shmem:
        flags &= ~VM_SHARED
    return vm_get_page_prot(layout, flags)


def mkdirty(layout: TableLayout, entry: int) -> int:
    """Return an entry marked as written to.

    Source: arch/x86/include/asm/pgtable.h:pte_mkdirty @6.1.192
    """
    return entry | PAGE_DIRTY | (PAGE_SOFT_DIRTY if layout.soft_dirty else 0)


def maybe_mkwrite(entry: int, vma: VmArea) -> int:
    """Return an entry made writable if the area is.

    Source: include/linux/mm.h:maybe_mkwrite @6.1.192
    """
    return entry | PAGE_RW if vma.vm_flags & VM_WRITE else entry


def pte_modify(table: UserPageTable, entry: int, prot: int, keep: int = 0) -> int:
    """Return an entry with new rights; page and marks stay.

    Source: arch/x86/include/asm/pgtable.h:pte_modify @6.1.192
    """
    kept = PAGE_SPECIAL | PAGE_ACCESSED | PAGE_DIRTY | keep
    if table.layout.soft_dirty:
        kept |= PAGE_SOFT_DIRTY
    return table.pfn_pte(table.pte_pfn(entry), entry & kept | prot & ~kept)
