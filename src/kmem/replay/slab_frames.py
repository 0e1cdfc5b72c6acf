# SPDX-License-Identifier: GPL-2.0-only
"""The frames of slabs, in a replay against the recorded answers.

A trace shows each page allocation and each free of SLUB's own. The model makes
and drops its slabs by itself; where it does so at another moment than the
recorded kernel, one list of pages would be a page longer than it was, and each
answer from then on another. So each time an object has been dealt with, what
the model did with slabs is held against what the trace says was done, and a
difference is put right there and then:

======================  =====================================================
the model, not kernel   what is done
======================  =====================================================
made a slab             nothing in it is in use: it is given back. Else it stays.
dropped a slab          prevented where it shows in time. Else its block is held,
                        for nobody, until the kernel frees it
did not make a slab     the kernel's block is held; its objects lie elsewhere
made it elsewhere       it is moved, and its block takes the other's place
did not drop a slab     its objects are freed, and it is dropped
======================  =====================================================

None of this is an answer, but each counts as one taken over; the objects
concerned are compared, and their differences counted, on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from kmem.mm.page_alloc import PageAllocator
from kmem.mm.slub import Slub
from kmem.mm.slub_state import evict_slab
from kmem.mm.tracepoint import EVENT_NAMES
from kmem.replay.takeover import end_grace_period, give_page_back, move_slab, swap_slab, take_page
from kmem.trace.events import Event

__all__ = ["SlabFrames"]

_SLAB, _LARGE, _TAIL = 4, 5, 6
_IN_USE = 0xFFFE
_MM_PAGE_ALLOC = EVENT_NAMES.index("mm_page_alloc")
_NO_SLAB = _NEVER = 0xFFFFFFFF
_NO_OBJECT = 0xFFFF
_MAX_NR_ZONES = 5
_WINDOW = 16  # events in which the free of a slab's pages follows that of its last object


class _Events(Protocol):
    event: list[int]
    target: list[int]
    order: list[int]
    cpu: list[int]
    first_objects: dict[int, int]


class SlabFrames:
    """Keeps the frames of the model's slabs those of the recorded kernel's.

    Parameters
    ----------
    allocator : PageAllocator
        Its trace events about pages are enabled.
    slub : Slub
    events : object
        The trace; ``first_objects`` has, by the first object in each slab, the allocation of its pages.
    diverged : callable
        Called with a frame wherever model and kernel differ.
    """

    def __init__(self, allocator: PageAllocator, slub: Slub, events: _Events, diverged: Callable[[int], None]) -> None:
        self.allocator = allocator
        self.slub = slub
        self.events = events
        self.diverged = diverged
        self.pages = allocator.memmap.pages_array
        self.held: dict[int, int] = {}
        self.moved: dict[int, int] = {}
        allocator.trace.enable("mm_page_alloc", "mm_page_free")

    def forget(self) -> None:
        """What the model did just now is known already."""
        if self.allocator.trace.count:
            self.allocator.trace.drain()

    def after_object(self, i: int, *, settled: bool = True) -> None:
        """Hold what an object's event made the model do with slabs against the trace.

        Unless it is settled with that, slabs are only moved.
        """
        made: list[tuple[int, int]] = []
        self.moved.clear()
        if self.allocator.trace.count:
            for record in self.allocator.trace.drain():
                pfn, order = int(record["ptr"]), int(record["order"])
                if record["event"] == _MM_PAGE_ALLOC:
                    made.append((pfn, order))
                elif (pfn, order) in made:
                    made.remove((pfn, order))
                elif not self.freed_next(i, pfn):
                    self.hold(pfn, order)
        allocation = self.events.first_objects.get(i)
        if allocation is not None:
            pfn, order = self.events.target[allocation], self.events.order[allocation]
            made = self.put_in_place(pfn, order, made)
            if settled and pfn not in self.held and self.pages["kind"][pfn] not in (_SLAB, _LARGE, _TAIL):
                self.hold(pfn, order)
        for pfn, _ in made:
            if settled and self.pages["kind"][pfn] == _SLAB and not self.objects_in_use(pfn):
                self.undo(pfn)
        self.forget()

    @contextmanager
    def kept(self, cache: int) -> Iterator[None]:
        """No slab of a cache is given back meanwhile."""
        record = self.slub.caches_array[cache]
        before = record["min_partial"]
        record["min_partial"] = _NEVER
        try:
            yield
        finally:
            record["min_partial"] = before

    def freeing(self, i: int, address: int) -> AbstractContextManager[None]:
        """Keep the slabs that freeing an object would drop, and count them, unless the trace frees pages just then."""
        slab = self.slub.slab_of_frame(address >> 12)
        dropped = [] if slab is None else self.dropped_by_free(slab)
        if not dropped or self.freed_next(i):
            return nullcontext()
        for each in dropped:
            self.diverged(each)
        return self.kept(int(self.pages["cache"][slab]))

    def dropped_by_free(self, slab: int) -> list[int]:
        """Slabs that the model would give back if one object of a slab was freed.

        Source: mm/slub.c:__slab_free, put_cpu_partial, __unfreeze_partials @6.1.192
        """
        slub, page = self.slub, self.pages[slab]
        cache = int(page["cache"])
        if page["frozen"]:
            return []  # a CPU's
        limit = int(slub.caches_array["min_partial"][cache])
        nodes = slub.nodes_array["nr_partial"][cache * slub.nr_nodes : (cache + 1) * slub.nr_nodes]
        if page["freelist"] != _NO_OBJECT or slub.caches_array["debug"][cache]:
            partial = int(nodes[int(page["zone"]) // _MAX_NR_ZONES])
            return [slab] if page["inuse"] == 1 and partial >= limit else []
        # it was full: it goes on the CPU's list, which is moved to the nodes' if it is long enough
        oldest = int(slub.cpus_array["partial"][cache * slub.nr_cpus + self.allocator.cpu])
        if oldest == _NO_SLAB or self.pages["slabs"][oldest] < slub.caches_array["cpu_partial_slabs"][cache]:
            return []
        counts, dropped = nodes.tolist(), []
        while oldest != _NO_SLAB:
            node = int(self.pages["zone"][oldest]) // _MAX_NR_ZONES
            if self.pages["inuse"][oldest] == 0 and counts[node] >= limit:
                dropped.append(oldest)
            else:
                counts[node] += 1
            oldest = int(self.pages["next"][oldest])
        return dropped

    def freed_next(self, i: int, pfn: int | None = None) -> bool:
        """Whether the trace frees pages (or these) right after an event, on the same CPU."""
        events = self.events
        for j in range(i + 1, min(i + 1 + _WINDOW, len(events.event))):
            if events.cpu[j] != events.cpu[i]:
                continue
            if events.event[j] != Event.MM_PAGE_FREE:
                return False
            if pfn is None or events.target[j] == pfn:
                return True
        return False

    def put_in_place(self, pfn: int, order: int, made: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """See to it that the slab that the kernel made is where it made it; what the model made besides is returned."""
        others = [(each, size) for each, size in made if each != pfn]
        if self.pages["kind"][pfn] in (_SLAB, _LARGE, _TAIL) or pfn in self.held:
            return others
        for each, size in others:
            if size != order or self.pages["kind"][each] != _SLAB:
                continue
            if not swap_slab(self.slub, each, pfn):
                if not take_page(self.allocator, pfn, order):
                    continue
                move_slab(self.slub, each, pfn)
                give_page_back(self.allocator, each, order)
            self.moved[each] = pfn
            return [other for other in others if other != (each, size)]
        return others

    def hold(self, pfn: int, order: int) -> None:
        """Take a block out of use."""
        if take_page(self.allocator, pfn, order):
            self.held[pfn] = order
            self.diverged(pfn)

    def objects_in_use(self, slab: int) -> int:
        """Objects of a slab that the model has handed out."""
        slots, objects = int(self.pages["slots"][slab]), int(self.pages["objects"][slab])
        return int((self.slub.links_array[slots : slots + objects] == _IN_USE).sum())

    def undo(self, slab: int) -> None:
        """Give back the pages of a slab that the kernel does not have."""
        self.diverged(slab)
        evict_slab(self.slub, slab)
        end_grace_period(self.slub, slab)

    def freed(self, pfn: int, order: int) -> None:
        """The trace frees the pages of a slab."""
        if self.held.pop(pfn, None) is not None:
            self.allocator.free_pages(pfn, order)
        elif self.pages["kind"][pfn] == _SLAB and not end_grace_period(self.slub, pfn):
            self.undo(pfn)
