# SPDX-License-Identifier: GPL-2.0-only
"""Folios: what is known about a page that processes or files use.

The page allocator's record of a frame says who owns it; what the owner does
with it (how often it is mapped, which file or process it belongs to, which
list of reclaim it is on) is a :class:`Folio` in :class:`Folios`, kept only
for pages of user space and of the page cache.  Rmap, page faults, the page
cache and reclaim share them.

Source: include/linux/mm_types.h:struct folio, include/linux/page-flags.h, mm/swap.c:__folio_put @6.1.192
Differs: flags are numbered as is convenient here; ``mapping`` is the object itself, not a tagged pointer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from kmem.errors import StateError
from kmem.mm.gfp import __GFP_COMP, __GFP_ZERO
from kmem.mm.page_alloc import NO_FRAME, PageAllocator
from kmem.mm.ram import Ram

__all__ = [
    "PG_ACTIVE",
    "PG_DIRTY",
    "PG_FLAG_NAMES",
    "PG_LOCKED",
    "PG_LRU",
    "PG_MLOCKED",
    "PG_RECLAIM",
    "PG_REFERENCED",
    "PG_SWAPBACKED",
    "PG_SWAPCACHE",
    "PG_UNEVICTABLE",
    "PG_UPTODATE",
    "PG_WORKINGSET",
    "PG_WRITEBACK",
    "Folio",
    "Folios",
    "LruLists",
]

PG_LOCKED = 0x1
PG_REFERENCED = 0x2
PG_UPTODATE = 0x4
PG_DIRTY = 0x8
PG_LRU = 0x10
PG_ACTIVE = 0x20
PG_WORKINGSET = 0x40
PG_RECLAIM = 0x80
PG_SWAPBACKED = 0x100
PG_UNEVICTABLE = 0x200
PG_MLOCKED = 0x400
PG_WRITEBACK = 0x800
PG_SWAPCACHE = 0x1000

#: Names of the flags, lowest bit first, as reports print them.
PG_FLAG_NAMES = (
    "locked",
    "referenced",
    "uptodate",
    "dirty",
    "lru",
    "active",
    "workingset",
    "reclaim",
    "swapbacked",
    "unevictable",
    "mlocked",
    "writeback",
    "swapcache",
)

_PAGE_SHIFT = 12
_PGF_HEAD = 2
_COMP, _ZERO = __GFP_COMP, __GFP_ZERO


class Folio:
    """One page, or one compound page, in use by processes or files.

    Attributes
    ----------
    pfn, order : int
        Its frames.
    refcount : int
        Everybody who holds it: one for each mapping, one for the page or
        swap cache, one for each caller that is working with it.
    mapcount : int
        Page table entries that map it. A huge mapping counts as one.
    mapping : object or None
        :class:`kmem.mm.rmap.AnonVma` of an anonymous page, the address space
        (file) of any other; None before the first mapping.
    index : int
        Page offset in `mapping`: of an anonymous page the page offset that its vma gave it.
    flags : int
        ``PG_*``.
    exclusive_map : int
        One bit a page: whether it belongs to one process alone.
    entire_mapcount : int
        Entries that map a compound page as a whole.
    page_mapcounts : list of int or None
        Entries that map single pages of a compound page.
    swap : int
        Swap entry, while ``PG_SWAPCACHE`` is set.
    """

    __slots__ = (
        "anon",
        "entire_mapcount",
        "exclusive_map",
        "flags",
        "index",
        "mapcount",
        "mapping",
        "order",
        "page_mapcounts",
        "pfn",
        "refcount",
        "swap",
    )

    def __init__(self, pfn: int, order: int = 0) -> None:
        self.pfn = pfn
        self.order = order
        self.refcount = 1
        self.mapcount = 0
        self.mapping: Any = None
        self.anon = False
        self.index = 0
        self.flags = 0
        self.exclusive_map = 0
        self.entire_mapcount = 0
        self.page_mapcounts: list[int] | None = None
        self.swap = 0

    @property
    def nr_pages(self) -> int:
        """Frames it consists of."""
        return 1 << self.order

    def is_exclusive(self, pfn: int) -> bool:
        """Whether an anonymous page belongs to one process alone: a write needs no copy (PageAnonExclusive)."""
        return bool(self.exclusive_map >> (pfn - self.pfn) & 1)

    def set_exclusive(self, pfn: int) -> None:
        """Note that a page belongs to one process alone."""
        self.exclusive_map |= 1 << (pfn - self.pfn)

    def clear_exclusive(self, pfn: int) -> None:
        """Note that a page may be shared by processes."""
        self.exclusive_map &= ~(1 << (pfn - self.pfn))

    def pmd_to_ptes(self) -> None:
        """Count one mapping of the whole as one of each page."""
        if self.page_mapcounts is None:
            self.page_mapcounts = [0] * self.nr_pages
        self.page_mapcounts = [count + 1 for count in self.page_mapcounts]
        self.entire_mapcount -= 1
        self.mapcount += self.nr_pages - 1

    @property
    def swapcache(self) -> bool:
        """Whether it is in the swap cache."""
        return bool(self.flags & PG_SWAPCACHE)

    def flag_names(self) -> list[str]:
        """Return the names of its flags."""
        return [name for bit, name in enumerate(PG_FLAG_NAMES) if self.flags >> bit & 1]

    def __repr__(self) -> str:
        kind = "anon" if self.anon else "file" if self.mapping is not None else "new"
        flags = "|".join(self.flag_names())
        return f"<Folio pfn={self.pfn:#x} order={self.order} {kind} ref={self.refcount} map={self.mapcount} {flags}>"


class LruLists(Protocol):
    """What folios ask of reclaim; :attr:`Folios.lru` is such an object, or None."""

    def folio_add_lru(self, folio: Folio) -> None:
        """Put a new folio on the lists (mm/swap.c:folio_add_lru); a batch holds it, and a reference, first."""

    def folio_del_lru(self, folio: Folio) -> None:
        """Take a folio that is about to be freed off the lists, if it is on one."""

    def lru_add_drain(self) -> None:
        """Empty the batches of this CPU: references held by them are dropped."""

    def mark_page_accessed(self, folio: Folio) -> None:
        """Note a use of the folio (mm/swap.c:folio_mark_accessed)."""


class Folios:
    """All folios of a machine, by their first frame.

    Parameters
    ----------
    page_alloc : PageAllocator
        Where their frames come from and go to.
    ram : Ram or None
        Memory to zero; without it nothing is.

    Attributes
    ----------
    lru : LruLists or None
        Lists of reclaim, which forget a folio that is freed.
    """

    def __init__(self, page_alloc: PageAllocator, ram: Ram | None) -> None:
        self._page_alloc = page_alloc
        self._ram = ram
        self._folios: dict[int, Folio] = {}
        self._largest = 0
        self.lru: LruLists | None = None
        #: Zero all fresh pages (init_on_alloc), not only those asked for with __GFP_ZERO.
        self.init_on_alloc = True

    def __len__(self) -> int:
        return len(self._folios)

    def __iter__(self) -> Iterator[Folio]:
        return iter(self._folios.values())

    def get(self, pfn: int) -> Folio | None:
        """Return the folio that a frame belongs to; None if it is none's.

        Notes
        -----
        Complexity: O(1) for single pages, one more look-up for each larger order in use.
        """
        folio = self._folios.get(pfn)
        if folio is None:
            for order in range(1, self._largest + 1):
                head = self._folios.get(pfn >> order << order)
                if head is not None and head.order >= order:
                    return head
        return folio

    def add(self, pfn: int, order: int = 0) -> Folio:
        """Make a folio of allocated frames; its one reference is the caller's.

        Raises
        ------
        StateError
            If the frame already is one.
        """
        if pfn in self._folios:
            raise StateError(f"frame {pfn:#x} is a folio already")
        folio = self._folios[pfn] = Folio(pfn, order)
        self._largest = max(self._largest, order)
        return folio

    def alloc(self, gfp: int, order: int = 0, node: int = -1) -> Folio | None:
        """Allocate a folio; None if there is no memory. Sleeps if `gfp` allows it.

        Source: mm/mempolicy.c:vma_alloc_folio @6.1.192
        """
        if order:
            gfp |= _COMP
        pfn = self._page_alloc.alloc_pages(gfp, order, node)
        if pfn == NO_FRAME:
            return None
        if self._ram is not None and (self.init_on_alloc or gfp & _ZERO):
            self._ram.clear(pfn << _PAGE_SHIFT, 1 << order + _PAGE_SHIFT)
        return self.add(pfn, order)

    def put(self, folio: Folio) -> None:
        """Drop a reference; the last one frees the folio.

        Source: mm/swap.c:__folio_put @6.1.192
        """
        folio.refcount -= 1
        if not folio.refcount:
            self._release(folio)
        elif folio.refcount < 0:
            raise StateError(f"{folio!r} is put once too often")

    def release_pages(self, folios: Iterable[Folio]) -> None:
        """Drop a reference to each of many; single pages that become free go back last one first.

        Source: mm/swap.c:release_pages @6.1.192
        """
        free = []
        for folio in folios:
            folio.refcount -= 1
            if folio.refcount < 0:
                raise StateError(f"{folio!r} is put once too often")
            if folio.refcount == 0:
                if folio.order:
                    self._release(folio)
                else:
                    free.append(folio)
        for folio in reversed(free):
            self._release(folio)

    def _release(self, folio: Folio) -> None:
        if folio.mapcount:
            raise StateError(f"{folio!r} is freed while it is mapped")
        if self.lru is not None:
            self.lru.folio_del_lru(folio)
        del self._folios[folio.pfn]
        self._page_alloc.free_pages(folio.pfn, folio.order)

    def split(self, folio: Folio) -> list[Folio]:
        """Make single pages of a compound folio that is on no list and mapped page by page; return them, itself first.

        Each has a reference for each of its mappings, and one for the caller.

        Source: mm/huge_memory.c:__split_huge_page @6.1.192
        """
        counts = folio.page_mapcounts or [0] * folio.nr_pages
        order, exclusive = folio.order, folio.exclusive_map
        self._page_alloc.memmap.pages_array["flags"][folio.pfn] &= ~_PGF_HEAD & 0xFF
        self._page_alloc.split_page(folio.pfn, order)
        pages = [folio]
        for i in range(1, 1 << order):
            page = self.add(folio.pfn + i)
            page.mapping, page.anon, page.index, page.flags = folio.mapping, folio.anon, folio.index + i, folio.flags
            pages.append(page)
        for i, page in enumerate(pages):
            page.order, page.page_mapcounts, page.entire_mapcount = 0, None, 0
            page.mapcount = counts[i]
            page.refcount = counts[i] + 1
            page.exclusive_map = exclusive >> i & 1
        return pages

    def replace_frame(self, folio: Folio, pfn: int) -> None:
        """Give a folio another frame, as migration does; the old one is the caller's then.

        Source: mm/migrate.c:folio_migrate_mapping @6.1.192
        """
        if pfn in self._folios:
            raise StateError(f"frame {pfn:#x} is a folio already")
        del self._folios[folio.pfn]
        folio.pfn = pfn
        self._folios[pfn] = folio
