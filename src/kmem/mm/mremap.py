# SPDX-License-Identifier: GPL-2.0-only
"""Mappings that grow, shrink or move with their pages.

Source: mm/mremap.c @6.1.192
Differs: tables of a gigabyte do not move as one; MREMAP_DONTUNMAP is refused.
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM
from typing import TYPE_CHECKING

from kmem.mm.huge_memory import split_huge_pmd
from kmem.mm.mm_types import (
    PAGE_MASK,
    PAGE_SHIFT,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    MmStruct,
    VmArea,
    page_align,
)
from kmem.mm.mman import MAP_FIXED, MAP_SHARED, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from kmem.mm.mmap import do_munmap, get_unmapped_area, mlock_future_check, mm_populate
from kmem.mm.pgalloc import PAGE_SOFT_DIRTY
from kmem.mm.pgprot import pte_present
from kmem.mm.rmap import anon_vma_clone
from kmem.mm.vma import fail, link_file, vm_area_dup, vm_area_free, vma_merge

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = ["do_mremap"]


def do_mremap(vm: Vm, mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int = 0, new_addr: int = 0) -> int:
    """Change the size of a mapping, moving it if that is allowed and needed; return its address.

    Raises
    ------
    OSError
        As the system call fails.

    Source: mm/mremap.c:SYSCALL_DEFINE5(mremap) @6.1.192
    """
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE) or flags & MREMAP_DONTUNMAP:
        fail(EINVAL)
    if (flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE) or addr & ~PAGE_MASK:
        fail(EINVAL)
    old_len, new_len = page_align(old_len), page_align(new_len)
    if not new_len:
        fail(EINVAL)
    if mm.vma_lookup(addr) is None:
        fail(EFAULT)
    if flags & MREMAP_FIXED:
        return _mremap_to(vm, mm, addr, old_len, new_addr, new_len)
    if old_len >= new_len:
        if old_len > new_len:
            do_munmap(vm, mm, addr + new_len, old_len - new_len)
        return addr
    vma = _vma_to_resize(mm, addr, old_len, new_len)
    if old_len == vma.vm_end - addr and _expandable(vm, vma, new_len - old_len):
        return _expand(vm, mm, vma, addr, old_len, new_len)
    if not flags & MREMAP_MAYMOVE:
        fail(ENOMEM)
    new_addr = get_unmapped_area(vm, mm, 0, new_len, MAP_SHARED if vma.vm_flags & VM_MAYSHARE else 0)
    return _move_vma(vm, vma, addr, old_len, new_len, new_addr)


def _expand(vm: Vm, mm: MmStruct, vma: VmArea, addr: int, old_len: int, new_len: int) -> int:
    nr_pages = (new_len - old_len) >> PAGE_SHIFT
    if vma.vm_flags & VM_ACCOUNT and not vm.vm_enough_memory(mm, nr_pages, mm.privileged):
        fail(ENOMEM)
    start, end = addr + old_len, addr + new_len
    pgoff = vma.page_index(start)
    merged = vma_merge(vm, mm, vma, start, end, vma.vm_flags, vma.anon_vma, vma.vm_file, pgoff)
    if merged is None:
        vm.vm_unacct_memory(nr_pages)
        fail(ENOMEM)
    mm.vm_stat_account(merged.vm_flags, nr_pages)
    if merged.vm_flags & VM_LOCKED:
        mm.locked_vm += nr_pages
        mm_populate(vm, mm, start, new_len - old_len)
    return addr


def _expandable(vm: Vm, vma: VmArea, delta: int) -> bool:
    """Source: mm/mremap.c:vma_expandable @6.1.192."""
    end = vma.vm_end + delta
    if vma.vm_mm.find_vma_intersection(vma.vm_end, end) is not None:
        return False
    try:
        get_unmapped_area(vm, vma.vm_mm, vma.vm_start, end - vma.vm_start, MAP_FIXED)
    except OSError:
        return False
    return True


def _vma_to_resize(mm: MmStruct, addr: int, old_len: int, new_len: int) -> VmArea:
    """Source: mm/mremap.c:vma_to_resize @6.1.192."""
    vma = mm.vma_lookup(addr)
    if vma is None:
        fail(EFAULT)
    if not old_len and not vma.vm_flags & VM_MAYSHARE:
        fail(EINVAL)
    if old_len > vma.vm_end - addr:
        fail(EFAULT)
    if new_len == old_len:
        return vma
    if vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP):
        fail(EFAULT)
    if not mlock_future_check(mm, vma.vm_flags, new_len - old_len):
        fail(EAGAIN)
    if not mm.may_expand_vm(vma.vm_flags, (new_len - old_len) >> PAGE_SHIFT):
        fail(ENOMEM)
    return vma


def _mremap_to(vm: Vm, mm: MmStruct, addr: int, old_len: int, new_addr: int, new_len: int) -> int:
    """Source: mm/mremap.c:mremap_to @6.1.192."""
    if new_addr & ~PAGE_MASK or new_len > mm.task_size or new_addr > mm.task_size - new_len:
        fail(EINVAL)
    if addr + old_len > new_addr and new_addr + new_len > addr:
        fail(EINVAL)
    if mm.map_count + 2 >= vm.sysctls.max_map_count - 3:
        fail(ENOMEM)
    do_munmap(vm, mm, new_addr, new_len)
    if old_len > new_len:
        do_munmap(vm, mm, addr + new_len, old_len - new_len)
        old_len = new_len
    vma = _vma_to_resize(mm, addr, old_len, new_len)
    get_unmapped_area(vm, mm, new_addr, new_len, MAP_FIXED)
    return _move_vma(vm, vma, addr, old_len, new_len, new_addr)


def _move_vma(vm: Vm, vma: VmArea, old_addr: int, old_len: int, new_len: int, new_addr: int) -> int:
    """Source: mm/mremap.c:move_vma @6.1.192."""
    mm, flags = vma.vm_mm, vma.vm_flags
    grow = (new_len - old_len) >> PAGE_SHIFT
    if mm.map_count >= vm.sysctls.max_map_count - 3:
        fail(ENOMEM)
    if flags & VM_ACCOUNT and not vm.vm_enough_memory(mm, grow, mm.privileged):
        fail(ENOMEM)
    copied = _copy_vma(vm, vma, new_addr, new_len, vma.page_index(old_addr))
    if copied is None:
        vm.vm_unacct_memory(grow if flags & VM_ACCOUNT else 0)
        fail(ENOMEM)
    vma, new_vma = copied
    moved = _move_page_tables(vm, vma, old_addr, new_vma, new_addr, old_len)
    failed = moved < old_len
    if failed:
        _move_page_tables(vm, new_vma, new_addr, vma, old_addr, moved)
        vma, old_len, old_addr = new_vma, new_len, new_addr
    excess = split = False
    if flags & VM_ACCOUNT:
        # the old range's promise is the new one's: hide it from the unmapping below
        vma.vm_flags &= ~VM_ACCOUNT
        excess = vma.vm_end - vma.vm_start != old_len
        split = old_addr > vma.vm_start and old_addr + old_len < vma.vm_end
    hiwater_vm = mm.hiwater_vm
    mm.vm_stat_account(flags, new_len >> PAGE_SHIFT)
    try:
        do_munmap(vm, mm, old_addr, old_len)
    except OSError:
        vm.committed_as += old_len >> PAGE_SHIFT if flags & VM_ACCOUNT else 0
        excess = False
    if flags & VM_LOCKED:
        mm.locked_vm += new_len >> PAGE_SHIFT
    mm.hiwater_vm = hiwater_vm
    if excess:
        vma.vm_flags |= VM_ACCOUNT
        upper = mm.find_vma(vma.vm_end) if split else None
        if upper is not None:
            upper.vm_flags |= VM_ACCOUNT
    if failed:
        vm.vm_unacct_memory(new_len >> PAGE_SHIFT if flags & VM_ACCOUNT else 0)
        fail(ENOMEM)
    return new_addr


def _copy_vma(vm: Vm, vma: VmArea, addr: int, length: int, pgoff: int) -> tuple[VmArea, VmArea] | None:
    """The area at the new place, and the old one, which may have become part of it.

    Source: mm/mmap.c:copy_vma @6.1.192
    """
    mm, start = vma.vm_mm, vma.vm_start
    if vma.anonymous and vma.anon_vma is None:
        pgoff = addr >> PAGE_SHIFT
    prev = mm.find_vma_prev(addr)[1]
    new = vma_merge(vm, mm, prev, addr, addr + length, vma.vm_flags, vma.anon_vma, vma.vm_file, pgoff)
    if new is not None:
        return (new, new) if new.vm_start <= start < new.vm_end else (vma, new)
    new = vm_area_dup(vm, vma)
    if new is None:
        return None
    new.vm_start, new.vm_end, new.vm_pgoff = addr, addr + length, pgoff
    if not anon_vma_clone(vm, new, vma):
        vm_area_free(vm, new)
        return None
    link_file(new)
    mm.insert_vma(new)
    return vma, new


def _move_page_tables(vm: Vm, vma: VmArea, old_addr: int, new_vma: VmArea, new_addr: int, length: int) -> int:
    """Move entries to the new place; the bytes that were dealt with before memory for a table ran out.

    Piece by piece, as far as one table of pages reaches on either side. A whole table, or a huge page, moves as one
    entry of the level above.

    Source: mm/mremap.c:move_page_tables @6.1.192
    """
    size, table = vm.layout.pmd_size, vma.vm_mm.page_table
    level = vm.layout.last - 1
    done = 0
    while done < length:
        old, new = old_addr + done, new_addr + done
        extent = min(size - old % size, size - new % size, length - done)
        old_at = table.offset(old, level)
        entry = 0 if old_at is None else table.read(old_at)
        if old_at is None or not entry:
            done += extent
            continue
        new_at = table.alloc(new, level)
        if new_at is None:
            return done
        if extent == size and not table.read(new_at):
            _move_pmd(vm, old_at, new_at, vma)
        else:
            if not table.is_table(level, entry):
                split_huge_pmd(vm, vma, old & -size)
            if table.alloc(new) is None:
                return done
            _move_ptes(vm, vma, old, new, extent)
        done += extent
    return done


def _move_pmd(vm: Vm, old_at: int, new_at: int, vma: VmArea) -> None:
    """Source: mm/mremap.c:move_normal_pmd, mm/huge_memory.c:move_huge_pmd @6.1.192."""
    table = vma.vm_mm.page_table
    entry = table.read(old_at)
    table.write(old_at, 0)
    if not table.is_table(vm.layout.last - 1, entry):
        table.deposit(new_at, table.withdraw(old_at))
        if vm.layout.soft_dirty:
            entry |= PAGE_SOFT_DIRTY
    table.write(new_at, entry)


def _move_ptes(vm: Vm, vma: VmArea, old: int, new: int, extent: int) -> None:
    """Source: mm/mremap.c:move_ptes @6.1.192."""
    table = vma.vm_mm.page_table
    for addr, _, at, entry in list(table.entries(old, old + extent)):
        target = table.offset(addr - old + new)
        assert target is not None  # its table was made before
        table.write(at, 0)
        if vm.layout.soft_dirty and pte_present(entry):
            entry |= PAGE_SOFT_DIRTY
        table.write(target, entry)
