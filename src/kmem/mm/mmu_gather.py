# SPDX-License-Identifier: GPL-2.0-only
"""Gathering pages that are unmapped, to free them together after the TLB flush.

What is seen of it is the order in which frames go back to the page allocator,
and the pages that the kernel takes for its own lists meanwhile.

Source: mm/mmu_gather.c, include/asm-generic/tlb.h @6.1.192
Differs: tables go back at the end of the flush; the kernel waits for a grace period of RCU first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.mm.folio import Folio
from kmem.mm.gfp import __GFP_NOWARN, GFP_NOWAIT
from kmem.mm.page_alloc import NO_FRAME

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = ["MmuGather"]

#: Pages that fit into the gather structure itself.
MMU_GATHER_BUNDLE = 8
_GFP_BATCH = GFP_NOWAIT | __GFP_NOWARN


class MmuGather:
    """Pages and tables on their way out of one address space.

    Parameters
    ----------
    vm : Vm
        The machine's virtual memory.

    Notes
    -----
    Used as a context manager, it is flushed at the end (tlb_finish_mmu).
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        entry = vm.layout.entry_size
        #: Pages that one page of pointers holds, and how many such pages are used at most.
        self._max_batch = (4096 - 2 * entry if entry == 8 else 4096 - 12) // entry
        self._max_batches = 10000 // self._max_batch
        self._max_tables = (4096 - (24 if entry == 8 else 12)) // entry
        self._batches: list[list[Folio]] = [[]]
        self._batch_frames: list[int] = []
        self._tables: list[int] = []
        self._table_batch = NO_FRAME

    def __enter__(self) -> MmuGather:
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()

    def remove_page(self, folio: Folio) -> None:
        """Take over the reference of a mapping that is gone.

        Source: mm/mmu_gather.c:__tlb_remove_page_size @6.1.192
        """
        batch = self._batches[-1]
        batch.append(folio)
        limit = MMU_GATHER_BUNDLE if len(self._batches) == 1 else self._max_batch
        if len(batch) == limit and not self._next_batch():
            self.flush()

    def _next_batch(self) -> bool:
        """Source: mm/mmu_gather.c:tlb_next_batch @6.1.192"""
        used = len(self._batches) - 1
        if used < len(self._batch_frames):
            self._batches.append([])
            return True
        if len(self._batch_frames) == self._max_batches:
            return False
        frame = self._vm.page_alloc.alloc_pages(_GFP_BATCH, 0)
        if frame == NO_FRAME:
            return False
        self._batch_frames.append(frame)
        self._batches.append([])
        return True

    def remove_table(self, frame: int) -> None:
        """Take over the frame of a page table that nothing points at any more.

        Source: mm/mmu_gather.c:tlb_remove_table @6.1.192
        """
        self._vm.mod_node(frame, "nr_page_table_pages", -1)
        if self._table_batch == NO_FRAME:
            self._table_batch = self._vm.page_alloc.alloc_pages(_GFP_BATCH, 0)
            if self._table_batch == NO_FRAME:
                self._vm.page_alloc.free_pages(frame, 0)
                return
        self._tables.append(frame)
        if len(self._tables) == self._max_tables:
            self._free_tables()

    def _free_tables(self) -> None:
        page_alloc = self._vm.page_alloc
        for frame in self._tables:
            page_alloc.free_pages(frame, 0)
        self._tables.clear()
        if self._table_batch != NO_FRAME:
            page_alloc.free_pages(self._table_batch, 0)
            self._table_batch = NO_FRAME

    def flush(self) -> None:
        """Free what was gathered so far.

        Source: mm/mmu_gather.c:tlb_batch_pages_flush, mm/swap_state.c:free_pages_and_swap_cache @6.1.192
        """
        vm = self._vm
        for batch in self._batches:
            for first in range(0, len(batch), 512):
                pages = batch[first : first + 512]
                vm.lru_add_drain()
                for folio in pages:
                    vm.free_swap_cache(folio)
                vm.folios.release_pages(pages)
        self._batches = [[]]

    def finish(self) -> None:
        """Free everything, the lists' own pages last.

        Source: mm/mmu_gather.c:tlb_finish_mmu @6.1.192
        """
        self.flush()
        self._free_tables()
        for frame in self._batch_frames:
            self._vm.page_alloc.free_pages(frame, 0)
        self._batch_frames.clear()
