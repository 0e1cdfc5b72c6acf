# SPDX-License-Identifier: GPL-2.0-only
"""Swap: where anonymous pages go that nobody uses.

One swap area of any size.  A slot counts the page table entries that refer to
it; while its page is in the swap cache, page and slot hold the same bytes.
Reading and writing take no time, as with compressed memory.

Source: mm/swapfile.c, mm/swap_state.c, mm/page_io.c @6.1.192
Differs: one area; slots are handed out one by one in ascending order, without
clusters and per-CPU caches; no reading ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.errors import StateError, UsageError
from kmem.mm.folio import PG_DIRTY, PG_SWAPBACKED, PG_SWAPCACHE, PG_UPTODATE, PG_WRITEBACK, Folio
from kmem.mm.lru import Shadow

if TYPE_CHECKING:
    from kmem.mm.reclaim import Reclaim

__all__ = ["SwapInfo"]

_PAGE_SHIFT = 12
_PAGE_SIZE = 1 << _PAGE_SHIFT
_ENTRY_MASK = (1 << 64) - 1


class SwapInfo:
    """The swap area of a machine; empty until :meth:`swapon`.

    Parameters
    ----------
    reclaim : Reclaim
        Folios, lists and counters.

    Attributes
    ----------
    cache : dict
        Slot -> the folio in the swap cache that belongs to it.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self.stat = reclaim.stat
        self.cache: dict[int, Folio] = {}
        self._count: list[int] = []
        self._data: dict[int, bytes] = {}
        self._shadows: dict[int, Shadow] = {}
        self._next = 1

    @property
    def total_swap_pages(self) -> int:
        """Slots in all."""
        return self.stat.swap_pages

    def swapon(self, size_bytes: int) -> int:
        """Make a swap area of `size_bytes`, its first page being the header; the usable pages.

        Raises
        ------
        UsageError
            If there is one already, or it would hold nothing.

        Source: mm/swapfile.c:sys_swapon @6.1.192
        """
        if self._count:
            raise UsageError("there is a swap area already", remedy="swapoff() first")
        slots = size_bytes // _PAGE_SIZE
        if slots < 2:
            raise UsageError(f"a swap area of {size_bytes} bytes holds no page")
        self._count = [0] * slots
        self._next = 1
        self.stat.swap_pages = self.stat.swap_free_pages = slots - 1
        self.reclaim.kernel.printk.printk(
            f"Adding {(slots - 1) << 2}k swap on swap.  Priority:-2 extents:1 across:{(slots - 1) << 2}k SS"
        )
        return slots - 1

    def swapoff(self) -> None:
        """Give the swap area up.

        Raises
        ------
        StateError
            If something is still in it.
        """
        if any(self._count) or self.cache:
            raise StateError("the swap area is in use", remedy="end the processes whose pages are in it")
        self._count = []
        self._data.clear()
        self.stat.swap_pages = self.stat.swap_free_pages = 0

    def is_full(self) -> bool:
        """Whether more than half of the slots are in use, so that none should be wasted.

        Source: include/linux/swap.h:vm_swap_full @6.1.192
        """
        return self.stat.swap_free_pages * 2 < self.stat.swap_pages

    # Slots

    def _get_slot(self) -> int:
        if not self.stat.swap_free_pages:
            return 0
        slots = len(self._count)
        slot = self._next
        while self._count[slot] or slot in self.cache:
            slot = slot + 1 if slot + 1 < slots else 1
        self._next = slot + 1 if slot + 1 < slots else 1
        self.stat.swap_free_pages -= 1
        return slot

    def _put_slot(self, slot: int) -> None:
        self._data.pop(slot, None)
        self._shadows.pop(slot, None)
        self.stat.swap_free_pages += 1

    def swap_duplicate(self, entry: int) -> None:
        """One more page table entry refers to the slot.

        Source: mm/swapfile.c:swap_duplicate @6.1.192
        """
        self._count[entry] += 1

    def swap_count(self, entry: int) -> int:
        """Page table entries that refer to the slot.

        Source: mm/swapfile.c:__swap_count @6.1.192
        """
        return self._count[entry]

    def swap_free(self, entry: int) -> None:
        """One page table entry fewer refers to the slot; the last one frees it, with its page if nobody uses that.

        Source: mm/swapfile.c:swap_free, free_swap_and_cache @6.1.192
        """
        if not self._count[entry]:
            raise StateError(f"swap slot {entry} is freed once too often")
        self._count[entry] -= 1
        if self._count[entry]:
            return
        folio = self.cache.get(entry)
        if folio is None:
            self._put_slot(entry)
        elif folio.refcount == 1 and not folio.mapcount and not folio.flags & PG_WRITEBACK:
            self._delete_from_cache(folio)
            self.reclaim.folios.put(folio)

    # The swap cache

    def _cached(self, folio: Folio, delta: int) -> None:
        node = self.stat.node[self.reclaim.lru.lruvec_of(folio).node]
        node["nr_swapcached"] += delta
        node["nr_file_pages"] += delta

    def _add_to_cache(self, folio: Folio, slot: int) -> None:
        self.cache[slot] = folio
        folio.swap = slot
        folio.flags |= PG_SWAPCACHE
        folio.refcount += 1
        self._cached(folio, 1)

    def _delete_from_cache(self, folio: Folio) -> None:
        """Take a folio out of the swap cache; the caller drops the cache's reference."""
        slot = folio.swap
        del self.cache[slot]
        folio.swap = 0
        folio.flags &= ~PG_SWAPCACHE
        self._cached(folio, -1)
        if not self._count[slot]:
            self._put_slot(slot)

    def add_to_swap(self, folio: Folio) -> bool:
        """Give an anonymous page a slot; False if there is none left.

        Source: mm/swap_state.c:add_to_swap @6.1.192
        """
        slot = self._get_slot() if self._count else 0
        if not slot:
            return False
        self._add_to_cache(folio, slot)
        folio.flags |= PG_DIRTY
        return True

    def swap_writepage(self, folio: Folio) -> None:
        """Write a page of the swap cache to its slot; it is clean afterwards.

        Source: mm/page_io.c:swap_writepage @6.1.192
        """
        data = bytes(self.reclaim.kernel.ram.view(folio.pfn << _PAGE_SHIFT, _PAGE_SIZE))
        if any(data):
            self._data[folio.swap] = data
        else:
            self._data.pop(folio.swap, None)
        folio.flags &= ~PG_DIRTY
        self.stat.count("pswpout")

    def remove_mapping(self, folio: Folio) -> bool:
        """Take a page that reclaim holds out of the swap cache, unless somebody else uses it.

        Source: mm/vmscan.c:__remove_mapping @6.1.192
        """
        if folio.refcount != 2 or folio.flags & (PG_DIRTY | PG_WRITEBACK):
            return False
        slot = folio.swap
        self._shadows[slot] = self.reclaim.lru.workingset_eviction(folio)
        self._delete_from_cache(folio)
        folio.refcount -= 1
        return True

    def free_swap_cache(self, folio: Folio) -> None:
        """Take a folio out of the swap cache if no page table entry refers to its slot.

        Source: mm/swapfile.c:folio_free_swap @6.1.192
        """
        if folio.flags & PG_SWAPCACHE and not folio.flags & PG_WRITEBACK and not self._count[folio.swap]:
            self._delete_from_cache(folio)
            folio.flags |= PG_DIRTY
            self.reclaim.folios.put(folio)

    def swapin(self, entry: int, gfp: int) -> Folio | None:
        """Return the folio of a slot with a reference for the caller, read in if need be; None without memory.

        Notes
        -----
        Context: may sleep.

        Source: mm/swap_state.c:read_swap_cache_async @6.1.192
        """
        folio = self.cache.get(entry)
        if folio is not None:
            folio.refcount += 1
            return folio
        folio = self.reclaim.folios.alloc(gfp)
        if folio is None:
            return None
        other = self.cache.get(entry)
        if other is not None:  # it came in while this one waited for memory
            self.reclaim.folios.put(folio)
            other.refcount += 1
            return other
        view = self.reclaim.kernel.ram.view(folio.pfn << _PAGE_SHIFT, _PAGE_SIZE)
        view[:] = self._data.get(entry) or bytes(_PAGE_SIZE)
        folio.flags |= PG_SWAPBACKED | PG_UPTODATE
        self._add_to_cache(folio, entry)
        shadow = self._shadows.pop(entry, None)
        if shadow is not None:
            self.reclaim.lru.workingset_refault(folio, shadow)
        self.reclaim.lru.folio_add_lru(folio)
        self.stat.count("pswpin")
        return folio

    # Entries

    def to_pte(self, entry: int) -> int:
        """Return the page table entry that stands for a slot: not present, the offset where frames have none.

        Source: arch/x86/include/asm/pgtable_64.h:__swp_entry, pgtable-2level.h:__swp_entry @6.1.192
        """
        if self.reclaim.kernel.arch == "i386":
            return entry << 9
        return ((~entry << 14) & _ENTRY_MASK) >> 5

    def from_pte(self, pte: int) -> int:
        """Return the slot of a page table entry.

        Source: arch/x86/include/asm/pgtable_64.h:__swp_offset, pgtable-2level.h:__swp_offset @6.1.192
        """
        if self.reclaim.kernel.arch == "i386":
            return pte >> 9
        return (~pte << 5 & _ENTRY_MASK) >> 14

    def validate(self) -> None:
        """Check that counters and slots agree; StateError if not. O(slots)."""
        used = sum(1 for slot, count in enumerate(self._count) if count or slot in self.cache)
        if self.stat.swap_pages - used != self.stat.swap_free_pages:
            raise StateError(f"{used} swap slots are in use, {self.stat.swap_free_pages} are counted free")
        for slot, folio in self.cache.items():
            if folio.swap != slot or not folio.flags & PG_SWAPCACHE:
                raise StateError(f"{folio!r} is in the swap cache under slot {slot}")
