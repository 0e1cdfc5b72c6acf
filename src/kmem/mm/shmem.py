# SPDX-License-Identifier: GPL-2.0-only
"""Memory that processes share: the pages of a nameless file that lives in memory alone.

``mmap(MAP_SHARED | MAP_ANONYMOUS)`` makes one; a fork shares it.

Source: mm/shmem.c @6.1.192
Differs: pages are not swapped out, and never huge (CONFIG_TRANSPARENT_HUGEPAGE's shmem_enabled is "never" by default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.mm.folio import PG_DIRTY, PG_SWAPBACKED, PG_UPTODATE, Folio
from kmem.mm.mm_types import PAGE_SHIFT, VM_NORESERVE, MmStruct, VmArea

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = ["ShmemMapping"]


class ShmemMapping:
    """A file in memory.

    Parameters
    ----------
    vm : Vm
    size_bytes : int
        Its size, whole pages.

    Attributes
    ----------
    pages : dict of int to Folio
        Pages that were touched, by page offset; each has a reference of the file's.
    nr_charged : int
        Pages that were promised for it.
    """

    shmem = True

    def __init__(self, vm: Vm, size_bytes: int, name: str = "/dev/zero (deleted)") -> None:
        self._vm = vm
        self.name = name
        self.size_bytes = size_bytes
        self.i_mmap: list[VmArea] = []
        self.pages: dict[int, Folio] = {}
        self._users = 0
        self.nr_charged = 0

    def charge(self, mm: MmStruct, flags: int) -> bool:
        """Promise the memory of the whole file, as each file in memory does once; False if that is too much.

        Source: mm/shmem.c:__shmem_file_setup, shmem_acct_size @6.1.192
        """
        if not flags & VM_NORESERVE and not self._users:
            if not self._vm.vm_enough_memory(mm, self.size_bytes >> PAGE_SHIFT, mm.privileged):
                return False
            self.nr_charged = self.size_bytes >> PAGE_SHIFT
        return True

    def fault(self, pgoff: int, gfp: int) -> Folio | None:
        """Return the page at an offset, made if it was never touched, with a reference for the caller.

        Raises
        ------
        IndexError
            If the offset lies behind the end.

        Source: mm/shmem.c:shmem_get_folio_gfp @6.1.192
        """
        if pgoff >= self.size_bytes >> PAGE_SHIFT:
            raise IndexError(f"page {pgoff} of {self.size_bytes} bytes")
        folio = self.find(pgoff)
        if folio is not None:
            return folio
        folio = self._vm.folios.alloc(gfp)
        if folio is None:
            return None
        self._vm.ram.clear(folio.pfn << PAGE_SHIFT, 1 << PAGE_SHIFT)
        folio.flags |= PG_SWAPBACKED | PG_UPTODATE | PG_DIRTY
        folio.mapping, folio.index = self, pgoff
        folio.refcount += 1
        self.pages[pgoff] = folio
        for name in ("nr_shmem", "nr_file_pages"):
            self._vm.mod_node(folio.pfn, name, 1)
        self._vm.lru_cache_add(folio)
        return folio

    def find(self, pgoff: int) -> Folio | None:
        """Return the page at an offset if it was touched, with a reference for the caller."""
        folio = self.pages.get(pgoff)
        if folio is not None:
            folio.refcount += 1
        return folio

    def set_page_dirty(self, folio: Folio) -> None:
        """Nothing to note: there is no other copy."""

    def get(self) -> None:
        """Take a reference."""
        self._users += 1

    def put(self) -> None:
        """Drop a reference; the last one frees the pages.

        Source: mm/shmem.c:shmem_evict_inode @6.1.192
        """
        self._users -= 1
        if self._users:
            return
        for pgoff in sorted(self.pages):
            folio = self.pages.pop(pgoff)
            for name in ("nr_shmem", "nr_file_pages"):
                self._vm.mod_node(folio.pfn, name, -1)
            folio.mapping = None
            self._vm.folios.put(folio)
        self._vm.vm_unacct_memory(self.nr_charged)
        self.nr_charged = 0
