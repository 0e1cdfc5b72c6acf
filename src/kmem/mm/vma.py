# SPDX-License-Identifier: GPL-2.0-only
"""Areas of an address space: made, split, merged with their neighbours, shifted.

Which areas may become one follows from their flags, file, page offsets and
AnonVmas; the eight ways of merging are those of the kernel's ``vma_merge()``.

Source: mm/mmap.c @6.1.192
Differs: no memory policies, userfaultfd or named anonymous areas.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from os import strerror
from typing import TYPE_CHECKING, NoReturn

from kmem.mm.huge_memory import split_huge_pmd_address
from kmem.mm.mm_types import PAGE_SHIFT, VM_SOFTDIRTY, VM_SPECIAL, Mapping, MmStruct, VmArea
from kmem.mm.rmap import AnonVma, anon_vma_clone, anon_vma_merge

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = [
    "can_vma_merge_after",
    "can_vma_merge_before",
    "fail",
    "link_file",
    "split_vma",
    "unlink_file",
    "vm_area_alloc",
    "vm_area_dup",
    "vm_area_free",
    "vma_expand",
    "vma_merge",
]


def fail(errno: int) -> NoReturn:
    """End a system call with an error.

    Raises
    ------
    OSError
        Always.
    """
    raise OSError(errno, strerror(errno))


def vm_area_alloc(vm: Vm, mm: MmStruct, start: int, end: int, flags: int, pgoff: int) -> VmArea | None:
    """Make an area; None if there is no memory for its structure. May sleep.

    Source: kernel/fork.c:vm_area_alloc @6.1.192
    """
    obj = vm.alloc_object("vm_area_struct")
    if obj is None:
        return None
    vma = VmArea(mm, start, end, flags, pgoff)
    vma.object = obj
    return vma


def vm_area_dup(vm: Vm, orig: VmArea) -> VmArea | None:
    """Copy an area, without its chains; None if there is no memory.

    Source: kernel/fork.c:vm_area_dup @6.1.192
    """
    vma = vm_area_alloc(vm, orig.vm_mm, orig.vm_start, orig.vm_end, orig.vm_flags, orig.vm_pgoff)
    if vma is not None:
        vma.vm_file, vma.name, vma.anon_vma = orig.vm_file, orig.name, orig.anon_vma
    return vma


def vm_area_free(vm: Vm, vma: VmArea) -> None:
    """Free the structure of an area."""
    vm.free_object("vm_area_struct", vma.object)


def link_file(vma: VmArea) -> None:
    """Let the file of an area know of it, and hold the file."""
    if vma.vm_file is not None:
        vma.vm_file.get()
        vma.vm_file.i_mmap.append(vma)


def unlink_file(vma: VmArea) -> None:
    """Undo :func:`link_file`, the hold of the file aside."""
    if vma.vm_file is not None:
        vma.vm_file.i_mmap.remove(vma)


def _drop(vm: Vm, mm: MmStruct, vma: VmArea, into: VmArea) -> None:
    """Remove an area that has become part of another."""
    mm.remove_vma(vma)
    unlink_file(vma)
    if vma.vm_file is not None:
        vma.vm_file.put()
    if vma.anon_vma is not None:
        anon_vma_merge(vm, into, vma)
    vm_area_free(vm, vma)


# Merging


def _is_mergeable_vma(vma: VmArea, file: Mapping | None, flags: int) -> bool:
    """Source: mm/mmap.c:is_mergeable_vma @6.1.192."""
    return not (vma.vm_flags ^ flags) & ~VM_SOFTDIRTY and vma.vm_file is file and vma.name is None


def _is_mergeable_anon_vma(one: AnonVma | None, other: AnonVma | None, vma: VmArea | None) -> bool:
    """Source: mm/mmap.c:is_mergeable_anon_vma @6.1.192.

    An area that came of a fork has several chains and is left alone unless both have the same AnonVma.
    """
    if (one is None or other is None) and (vma is None or len(vma.anon_vma_chain) == 1):
        return True
    return one is other


def can_vma_merge_before(vma: VmArea, flags: int, anon_vma: AnonVma | None, file: Mapping | None, pgoff: int) -> bool:
    """Whether something that ends where `vma` starts may become part of it.

    Source: mm/mmap.c:can_vma_merge_before @6.1.192
    """
    return (
        _is_mergeable_vma(vma, file, flags)
        and _is_mergeable_anon_vma(anon_vma, vma.anon_vma, vma)
        and vma.vm_pgoff == pgoff
    )


def can_vma_merge_after(vma: VmArea, flags: int, anon_vma: AnonVma | None, file: Mapping | None, pgoff: int) -> bool:
    """Whether something that starts where `vma` ends may become part of it.

    Source: mm/mmap.c:can_vma_merge_after @6.1.192
    """
    return (
        _is_mergeable_vma(vma, file, flags)
        and _is_mergeable_anon_vma(anon_vma, vma.anon_vma, vma)
        and vma.vm_pgoff + vma.nr_pages == pgoff
    )


def _import_anon_vma(vm: Vm, importer: VmArea, exporter: VmArea) -> bool:
    """Let an area that takes pages of another over have its AnonVma; False if there is no memory."""
    if exporter.anon_vma is None or importer.anon_vma is not None:
        return True
    importer.anon_vma = exporter.anon_vma
    return anon_vma_clone(vm, importer, exporter)


def vma_merge(
    vm: Vm,
    mm: MmStruct,
    prev: VmArea | None,
    addr: int,
    end: int,
    flags: int,
    anon_vma: AnonVma | None,
    file: Mapping | None,
    pgoff: int,
) -> VmArea | None:
    """Make a range part of its neighbours if they are alike.

    Parameters
    ----------
    vm, mm : Vm, MmStruct
    prev : VmArea or None
        The area before the range, or the one that the range is the end of.
    addr, end : int
        The range: free, or part of one area whose flags are about to change.
    flags : int
        Flags that the range shall have.
    anon_vma, file, pgoff
        What it has already, if it is part of an area.

    Returns
    -------
    VmArea or None
        The area that the range belongs to now; None if it was not merged.

    Source: mm/mmap.c:vma_merge, __vma_adjust @6.1.192
    """
    if flags & VM_SPECIAL:
        return None
    mid = mm.find_vma(prev.vm_end if prev is not None else 0)
    following = mid
    if following is not None and following.vm_end == end:
        following = mm.find_vma(following.vm_end)
    nr_pages = (end - addr) >> PAGE_SHIFT
    merge_prev = prev is not None and prev.vm_end == addr and can_vma_merge_after(prev, flags, anon_vma, file, pgoff)
    merge_next = (
        following is not None
        and following.vm_start == end
        and can_vma_merge_before(following, flags, anon_vma, file, pgoff + nr_pages)
    )
    if merge_prev:
        assert prev is not None
        both = merge_next and following is not None
        if both and following is not None and _is_mergeable_anon_vma(prev.anon_vma, following.anon_vma, None):
            return prev if _extend(vm, mm, prev, following.vm_end) else None  # cases 1 and 6
        return prev if _extend(vm, mm, prev, end) else None  # cases 2, 5 and 7
    if merge_next:
        assert following is not None
        return following if _extend_down(vm, mm, following, prev, mid, addr) else None  # cases 3, 4 and 8
    return None


def _extend(vm: Vm, mm: MmStruct, vma: VmArea, end: int) -> bool:
    """Let an area end at `end`; areas in its way lose what lies below that, or go."""
    gone = list(mm.vma_range(vma.vm_end, end))
    if gone:
        exporter = gone[1] if len(gone) > 1 and gone[0].anon_vma is None else gone[0]
        if not _import_anon_vma(vm, vma, exporter):
            return False
    split_huge_pmd_address(vm, mm, end)
    for other in gone:
        if other.vm_end <= end:
            _drop(vm, mm, other, vma)
        else:
            other.vm_pgoff += (end - other.vm_start) >> PAGE_SHIFT
            other.vm_start = end
    vma.vm_end = end
    return True


def _extend_down(vm: Vm, mm: MmStruct, vma: VmArea, prev: VmArea | None, mid: VmArea | None, addr: int) -> bool:
    """Let an area start at `addr`; the one in its way loses its end, or goes."""
    exporter = None
    if prev is not None and addr < prev.vm_end:
        exporter = prev
    elif mid is not None and mid is not vma:
        exporter = mid
    if exporter is not None and not _import_anon_vma(vm, vma, exporter):
        return False
    split_huge_pmd_address(vm, mm, addr)
    if exporter is prev and prev is not None:
        prev.vm_end = addr
    elif exporter is not None:
        _drop(vm, mm, exporter, vma)
    vma.vm_pgoff -= (vma.vm_start - addr) >> PAGE_SHIFT
    vma.vm_start = addr
    return True


def vma_expand(vm: Vm, mm: MmStruct, vma: VmArea, start: int, end: int, pgoff: int, following: VmArea | None) -> bool:
    """Let an area grow over free addresses, and over the next area if it ends where that ends.

    Source: mm/mmap.c:vma_expand @6.1.192
    """
    remove = following if following is not None and following is not vma and following.vm_end == end else None
    if remove is not None and not _import_anon_vma(vm, vma, remove):
        return False
    if remove is not None:
        _drop(vm, mm, remove, vma)
    vma.vm_start, vma.vm_end, vma.vm_pgoff = start, end, pgoff
    return True


# Splitting


def split_vma(vm: Vm, mm: MmStruct, vma: VmArea, addr: int, new_below: bool, limit: bool = True) -> None:
    """Cut an area in two at `addr`; the new one is the lower part or the upper one.

    Raises
    ------
    OSError
        ENOMEM: too many areas, or no memory. EINVAL: a mapping of the kernel's own. Nothing has changed then.

    Source: mm/mmap.c:split_vma, __split_vma, special_mapping_split @6.1.192
    """
    if limit and mm.map_count >= vm.sysctls.max_map_count:
        fail(ENOMEM)
    if vma.name is not None:
        fail(EINVAL)  # what the kernel maps for a process is whole or gone
    new = vm_area_dup(vm, vma)
    if new is None:
        fail(ENOMEM)
    if new_below:
        new.vm_end = addr
    else:
        new.vm_start = addr
        new.vm_pgoff += (addr - vma.vm_start) >> PAGE_SHIFT
    if not anon_vma_clone(vm, new, vma):
        vm_area_free(vm, new)
        fail(ENOMEM)
    split_huge_pmd_address(vm, mm, addr)
    if new_below:
        vma.vm_pgoff += (addr - vma.vm_start) >> PAGE_SHIFT
        vma.vm_start = addr
    else:
        vma.vm_end = addr
    link_file(new)
    mm.insert_vma(new)
