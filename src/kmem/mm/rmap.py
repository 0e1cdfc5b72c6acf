# SPDX-License-Identifier: GPL-2.0-only
"""Reverse mapping: from a page to the page table entries that map it.

An anonymous page knows the :class:`AnonVma` of the area that it was made in.
That knows every area that may map the page: the first one, those split from
it, and those that fork made of it.  In each of them the page can only lie at
one address, which follows from its index.  Pages of files are found likewise
through the areas that map the file.

:class:`Rmap` is what reclaim and compaction call.

Source: mm/rmap.c @6.1.192
Differs: areas of an AnonVma stand in a list in the order in which they came, not in an interval tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kmem.mm.folio import PG_SWAPBACKED, Folio
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.mm_types import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    VM_ACCESS_FLAGS,
    VM_LOCKED,
    VM_SOFTDIRTY,
    MmStruct,
    VmArea,
)
from kmem.mm.pgalloc import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_PROTNONE
from kmem.mm.pgprot import swp_entry_to_pte

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = [
    "AnonVma",
    "Rmap",
    "anon_vma_clone",
    "anon_vma_fork",
    "anon_vma_merge",
    "anon_vma_prepare",
    "mm_counter",
    "page_add_anon_rmap",
    "page_add_file_rmap",
    "page_add_new_anon_rmap",
    "page_dup_anon_rmap",
    "page_mapcount",
    "page_mapped",
    "page_mappings",
    "page_move_anon_rmap",
    "page_referenced",
    "page_remove_rmap",
    "try_to_unmap",
    "unlink_anon_vmas",
]


class AnonVma:
    """The areas that may map the anonymous pages of one area.

    Attributes
    ----------
    root, parent : AnonVma
        The one that the oldest ancestor made, and the one of the process that forked; itself if it has none.
    refcount : int
        Areas chained to it; of a root, also its descendants.
    num_children : int
        Children, and itself for a root.
    num_active_vmas : int
        Areas that put fresh pages here.
    vmas : list of VmArea
        All areas chained to it, oldest first.
    object : int
        Physical address of the kernel's structure.
    """

    __slots__ = ("num_active_vmas", "num_children", "object", "parent", "refcount", "root", "vmas")

    def __init__(self, obj: int) -> None:
        self.root: AnonVma = self
        self.parent: AnonVma = self
        self.refcount = 1
        self.num_children = 0
        self.num_active_vmas = 0
        self.vmas: list[VmArea] = []
        self.object = obj


def _anon_vma_alloc(vm: Vm) -> AnonVma | None:
    obj = vm.alloc_object("anon_vma", GFP_KERNEL)
    if obj is None:
        return None
    anon_vma = AnonVma(obj)
    vm.anon_vmas[anon_vma] = None
    return anon_vma


def _put_anon_vma(vm: Vm, anon_vma: AnonVma) -> None:
    """Source: mm/rmap.c:__put_anon_vma @6.1.192"""
    anon_vma.refcount -= 1
    if anon_vma.refcount:
        return
    root = anon_vma.root
    del vm.anon_vmas[anon_vma]
    vm.free_object("anon_vma", anon_vma.object)
    if root is not anon_vma:
        _put_anon_vma(vm, root)


def _chain_link(vma: VmArea, anon_vma: AnonVma, avc: int) -> None:
    """Source: mm/rmap.c:anon_vma_chain_link @6.1.192"""
    vma.anon_vma_chain.insert(0, anon_vma)
    vma.avc_objects.insert(0, avc)
    anon_vma.vmas.append(vma)


def _reusable_anon_vma(old: VmArea, a: VmArea, b: VmArea) -> AnonVma | None:
    """Source: mm/mmap.c:reusable_anon_vma, anon_vma_compatible @6.1.192"""
    compatible = (
        a.vm_end == b.vm_start
        and a.vm_file is b.vm_file
        and not (a.vm_flags ^ b.vm_flags) & ~(VM_ACCESS_FLAGS | VM_SOFTDIRTY)
        and b.vm_pgoff == a.vm_pgoff + a.nr_pages
    )
    return old.anon_vma if compatible and len(old.anon_vma_chain) == 1 else None


def find_mergeable_anon_vma(vma: VmArea) -> AnonVma | None:
    """Return the AnonVma of a neighbour that `vma` may become one area with; None if there is none.

    Source: mm/mmap.c:find_mergeable_anon_vma @6.1.192
    """
    prev, following = vma.vm_mm.prev_next(vma)
    found = None
    if following is not None:
        found = _reusable_anon_vma(following, vma, following)
    if found is None and prev is not None:
        found = _reusable_anon_vma(prev, prev, vma)
    return found


def anon_vma_prepare(vm: Vm, vma: VmArea) -> bool:
    """Give an area its AnonVma before its first anonymous page; False if there is no memory. May sleep.

    Source: mm/rmap.c:__anon_vma_prepare @6.1.192
    """
    if vma.anon_vma is not None:
        return True
    avc = vm.alloc_object("anon_vma_chain")
    if avc is None:
        return False
    anon_vma = find_mergeable_anon_vma(vma)
    if anon_vma is None:
        anon_vma = _anon_vma_alloc(vm)
        if anon_vma is None:
            vm.free_object("anon_vma_chain", avc)
            return False
        anon_vma.num_children += 1
    vma.anon_vma = anon_vma
    _chain_link(vma, anon_vma, avc)
    anon_vma.num_active_vmas += 1
    return True


def anon_vma_clone(vm: Vm, dst: VmArea, src: VmArea) -> bool:
    """Chain `dst` to every AnonVma of `src`; False, and nothing done, if there is no memory.

    Where `dst` has none of its own yet, one that lost all its areas is used again.

    Source: mm/rmap.c:anon_vma_clone @6.1.192
    """
    for anon_vma in reversed(src.anon_vma_chain):
        avc = vm.alloc_object("anon_vma_chain")
        if avc is None:
            dst.anon_vma = None
            unlink_anon_vmas(vm, dst)
            return False
        _chain_link(dst, anon_vma, avc)
        free = anon_vma.num_children < 2 and anon_vma.num_active_vmas == 0
        if dst.anon_vma is None and src.anon_vma is not None and free:
            dst.anon_vma = anon_vma
    if dst.anon_vma is not None:
        dst.anon_vma.num_active_vmas += 1
    return True


def _forget(vma: VmArea) -> None:
    vma.anon_vma = None


def anon_vma_fork(vm: Vm, vma: VmArea, pvma: VmArea) -> bool:
    """Chain a child's area to its parent's and give it an AnonVma of its own; False if there is no memory.

    Source: mm/rmap.c:anon_vma_fork @6.1.192
    """
    if pvma.anon_vma is None:
        return True
    _forget(vma)
    if not anon_vma_clone(vm, vma, pvma):
        return False
    if vma.anon_vma is not None:
        return True
    anon_vma = _anon_vma_alloc(vm)
    if anon_vma is None:
        unlink_anon_vmas(vm, vma)
        return False
    anon_vma.num_active_vmas += 1
    avc = vm.alloc_object("anon_vma_chain")
    if avc is None:
        _put_anon_vma(vm, anon_vma)
        unlink_anon_vmas(vm, vma)
        return False
    anon_vma.root, anon_vma.parent = pvma.anon_vma.root, pvma.anon_vma
    anon_vma.root.refcount += 1
    vma.anon_vma = anon_vma
    _chain_link(vma, anon_vma, avc)
    anon_vma.parent.num_children += 1
    return True


def unlink_anon_vmas(vm: Vm, vma: VmArea) -> None:
    """Take an area out of all its chains; what nothing is chained to any more is freed.

    Source: mm/rmap.c:unlink_anon_vmas @6.1.192
    """
    empty = []
    for anon_vma, avc in zip(vma.anon_vma_chain, vma.avc_objects, strict=True):
        anon_vma.vmas.remove(vma)
        if anon_vma.vmas:
            vm.free_object("anon_vma_chain", avc)
        else:
            anon_vma.parent.num_children -= 1
            empty.append((anon_vma, avc))
    if vma.anon_vma is not None:
        vma.anon_vma.num_active_vmas -= 1
        vma.anon_vma = None
    vma.anon_vma_chain.clear()
    vma.avc_objects.clear()
    for anon_vma, avc in empty:
        _put_anon_vma(vm, anon_vma)
        vm.free_object("anon_vma_chain", avc)


def anon_vma_merge(vm: Vm, vma: VmArea, other: VmArea) -> None:
    """Unchain `other`, which becomes part of `vma`.

    Source: include/linux/rmap.h:anon_vma_merge @6.1.192
    """
    unlink_anon_vmas(vm, other)


# Counting


def mm_counter(folio: Folio) -> int:
    """Return which resident counter a page belongs to (``MM_*``).

    Source: include/linux/mm.h:mm_counter @6.1.192
    """
    if folio.anon:
        return MM_ANONPAGES
    return MM_SHMEMPAGES if folio.flags & PG_SWAPBACKED else MM_FILEPAGES


def _account_mapped(vm: Vm, folio: Folio, change: int) -> None:
    vm.mod_node(folio.pfn, "nr_anon_pages" if folio.anon else "nr_mapped", change)


def page_add_new_anon_rmap(vm: Vm, folio: Folio, vma: VmArea, addr: int) -> None:
    """Count the first mapping of a fresh anonymous page, small or huge.

    Source: mm/rmap.c:page_add_new_anon_rmap @6.1.192
    """
    folio.flags |= PG_SWAPBACKED
    folio.set_exclusive(folio.pfn)
    folio.mapcount = 1
    folio.entire_mapcount = 1 if folio.order else 0
    folio.anon = True
    folio.mapping = vma.anon_vma
    folio.index = vma.page_index(addr)
    _account_mapped(vm, folio, folio.nr_pages)


def page_add_anon_rmap(vm: Vm, folio: Folio, vma: VmArea, addr: int, exclusive: bool) -> None:
    """Count a mapping of an anonymous page that comes back from swap.

    Source: mm/rmap.c:page_add_anon_rmap, __page_set_anon_rmap @6.1.192
    """
    if not folio.anon:
        anon_vma = vma.anon_vma
        assert anon_vma is not None  # every caller prepared it
        folio.anon = True
        folio.mapping = anon_vma if exclusive else anon_vma.root
        folio.index = vma.page_index(addr)
    if exclusive:
        folio.set_exclusive(folio.pfn)
    folio.mapcount += 1
    if folio.mapcount == 1:
        _account_mapped(vm, folio, 1)


def page_add_file_rmap(vm: Vm, folio: Folio) -> None:
    """Count a mapping of a page of a file.

    Source: mm/rmap.c:page_add_file_rmap @6.1.192
    """
    folio.mapcount += 1
    if folio.mapcount == 1:
        _account_mapped(vm, folio, 1)


def page_dup_anon_rmap(folio: Folio, pfn: int) -> None:
    """Count one more mapping of a page that a fork shares.

    Source: include/linux/mm.h:page_try_dup_anon_rmap @6.1.192
    """
    folio.clear_exclusive(pfn)
    folio.mapcount += 1
    if folio.page_mapcounts is not None:
        folio.page_mapcounts[pfn - folio.pfn] += 1


def page_move_anon_rmap(folio: Folio, vma: VmArea) -> None:
    """Make a page that only one process is left with that process's own.

    Source: mm/rmap.c:page_move_anon_rmap @6.1.192
    """
    folio.mapping = vma.anon_vma
    folio.set_exclusive(folio.pfn)


def page_remove_rmap(vm: Vm, folio: Folio, pfn: int, huge: bool = False) -> None:
    """Uncount a mapping, of a single page or of a huge one as a whole.

    Source: mm/rmap.c:page_remove_rmap @6.1.192
    """
    folio.mapcount -= 1
    gone = 0
    if huge:
        folio.entire_mapcount -= 1
        if not folio.entire_mapcount:
            vm.mod_node(folio.pfn, "nr_anon_transparent_hugepages", -1)
            gone = sum(not count for count in folio.page_mapcounts or [0] * folio.nr_pages)
    elif folio.page_mapcounts is not None:
        folio.page_mapcounts[pfn - folio.pfn] -= 1
        gone = int(not folio.page_mapcounts[pfn - folio.pfn] and not folio.entire_mapcount)
    elif not folio.mapcount:
        gone = 1
    if gone:
        _account_mapped(vm, folio, -gone)


# Looking from the page


def _areas(folio: Folio) -> list[VmArea]:
    if folio.mapping is None:
        return []
    return list(folio.mapping.vmas if folio.anon else folio.mapping.i_mmap)


def page_mappings(vm: Vm, pfn: int) -> Iterator[tuple[VmArea, int, int, int]]:
    """Yield each mapping of a page: area, address, physical address of its entry, the entry.

    Source: mm/rmap.c:rmap_walk_anon, rmap_walk_file, mm/page_vma_mapped.c @6.1.192
    """
    folio = vm.folios.get(pfn)
    if folio is None:
        return
    for vma in _areas(folio):
        table = vma.vm_mm.page_table
        start = vma.vm_start + ((folio.index - vma.vm_pgoff) << 12)
        first, last = max(start, vma.vm_start), min(start + (folio.nr_pages << 12), vma.vm_end)
        if first >= last:
            continue
        for addr, _, at, entry in table.entries(first, last):
            frame = table.pte_pfn(entry)
            if entry & (PAGE_PRESENT | PAGE_PROTNONE) and folio.pfn <= frame < folio.pfn + folio.nr_pages:
                yield vma, addr, at, entry


def page_mapcount(vm: Vm, pfn: int) -> int:
    """Return how many page table entries map a page; 0 if it is nobody's.

    Source: include/linux/mm.h:page_mapcount @6.1.192
    """
    folio = vm.folios.get(pfn)
    if folio is None:
        return 0
    if folio.page_mapcounts is not None:
        return folio.page_mapcounts[pfn - folio.pfn] + folio.entire_mapcount
    return folio.mapcount


def page_mapped(vm: Vm, pfn: int) -> bool:
    """Whether any process maps a page.

    Source: include/linux/mm.h:folio_mapped @6.1.192
    """
    return page_mapcount(vm, pfn) > 0


def page_referenced(vm: Vm, pfn: int) -> tuple[int, int]:
    """Return through how many mappings a page was used since the last call, and the flags of their areas.

    The CPU's marks in the entries are cleared. A mapping in a locked area counts as used for ever:
    the flags then have ``VM_LOCKED``, and nothing else is looked at.

    Source: mm/rmap.c:folio_referenced, folio_referenced_one @6.1.192
    """
    referenced = flags = 0
    for vma, _, at, entry in page_mappings(vm, pfn):
        if vma.vm_flags & VM_LOCKED:
            return referenced, flags | VM_LOCKED
        if entry & PAGE_ACCESSED:
            vma.vm_mm.page_table.write(at, entry & ~PAGE_ACCESSED)
            referenced += 1
            flags |= vma.vm_flags & ~VM_LOCKED
    return referenced, flags


def try_to_unmap(vm: Vm, pfn: int, swap_entry: int | None = None, *, ignore_mlock: bool = False) -> bool:
    """Remove every mapping of a page.

    Parameters
    ----------
    vm : Vm
    pfn : int
    swap_entry : int, optional
        Where an anonymous page has its place in swap: the entries then hold it. Without one, anonymous
        pages stay mapped.
    ignore_mlock : bool
        Take it out of locked areas, too.

    Returns
    -------
    bool
        Whether nothing maps it any more. The references of the mappings are dropped.

    Source: mm/rmap.c:try_to_unmap, try_to_unmap_one @6.1.192
    """
    folio = vm.folios.get(pfn)
    if folio is None or folio.order:
        return False
    for vma, _, at, entry in list(page_mappings(vm, pfn)):
        if vma.vm_flags & VM_LOCKED and not ignore_mlock:
            return False
        if folio.anon and (swap_entry is None or vm.swap is None):
            return False
        _unmap_one(vm, folio, vma.vm_mm, at, entry, swap_entry)
    return folio.mapcount == 0


def _unmap_one(vm: Vm, folio: Folio, mm: MmStruct, at: int, entry: int, swap_entry: int | None) -> None:
    left = 0
    if entry & PAGE_DIRTY:
        vm.set_page_dirty(folio)
    mm.update_hiwater_rss()
    mm.rss_stat[mm_counter(folio)] -= 1
    if folio.anon and swap_entry is not None and vm.swap is not None:
        vm.swap.swap_duplicate(swap_entry)
        left = swp_entry_to_pte(vm.layout, swap_entry, folio.is_exclusive(folio.pfn))
        folio.clear_exclusive(folio.pfn)
        mm.rss_stat[MM_SWAPENTS] += 1
    mm.page_table.write(at, left)
    page_remove_rmap(vm, folio, folio.pfn)
    vm.folios.put(folio)


class Rmap:
    """Reverse mapping by frame number, for those who have nothing but that.

    Parameters
    ----------
    vm : Vm
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def page_mapped(self, pfn: int) -> bool:
        """Whether any process maps a page; see :func:`page_mapped`."""
        return page_mapped(self._vm, pfn)

    def page_mapcount(self, pfn: int) -> int:
        """Return how many entries map a page; see :func:`page_mapcount`."""
        return page_mapcount(self._vm, pfn)

    def page_mappings(self, pfn: int) -> Iterator[tuple[VmArea, int, int, int]]:
        """Yield each mapping of a page; see :func:`page_mappings`."""
        return page_mappings(self._vm, pfn)

    def page_referenced(self, pfn: int) -> tuple[int, int]:
        """Return through how many mappings a page was used; see :func:`page_referenced`."""
        return page_referenced(self._vm, pfn)

    def try_to_unmap(self, pfn: int, swap_entry: int | None = None) -> bool:
        """Remove every mapping of a page; see :func:`try_to_unmap`."""
        return try_to_unmap(self._vm, pfn, swap_entry)
