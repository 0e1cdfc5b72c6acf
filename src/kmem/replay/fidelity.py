# SPDX-License-Identifier: GPL-2.0-only
"""Replay from a recorded state, against the recorded answers.

A trace between two full state dumps says which frame and which object the
real kernel gave to each request.  The model starts from the first dump and gets
the requests alone; each answer is compared, and after a difference the recorded
one is taken over (:mod:`kmem.replay.takeover`), counted under its cause.

What the trace does not show is worked out from it beforehand:

- which page allocations are slabs': those that an object turns up in. They are
  not requested; the model's own slab has to come out there;
- that pages are freed in a batch: when the batch says so, not when it is gathered;
- which cache an unnamed request goes to: that of the slab the recorded pointer
  lies in, or the one that the same call site used, or the name at the free;
- how many pages vmalloc takes in bulk: its array of pages has an event;
- nodes of the maple tree taken and given in bulk (:mod:`kmem.replay.maple`);
- what kswapd does to zones while it is at work (:mod:`kmem.replay.kswapd_rounds`).

The recorded pointer also tells where a new slab's random freelist starts.
Nothing else of an answer reaches the model before the comparison.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kmem.errors import InputError, KmemError
from kmem.machine.statedump import StateDump, load_page_allocator, read_records
from kmem.machine.statedump_slab import load_slub
from kmem.mm.kmalloc import kmalloc_index
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.slub import Slub
from kmem.mm.slub_state import adopt_full_slab, take_object
from kmem.replay.kswapd_rounds import KSWAPD_WAKE, KswapdRounds, find_rounds
from kmem.replay.maple import MapleNodes
from kmem.replay.replay import readable_twice
from kmem.replay.slab_frames import SlabFrames
from kmem.replay.takeover import (
    alloc_from_new_slab,
    exchange,
    exchange_cpu_slab,
    give_page_back,
    move_slab,
    own_block,
    take_page,
)
from kmem.trace.events import Event, EventFlag
from kmem.trace.reader import open_trace

__all__ = ["CAUSES", "Fidelity", "measure_fidelity", "read_dump"]

Progress = Callable[[int, int | None], None]

#: Why an answer differed.
CAUSES = ("bulk", "compaction", "interrupt", "slab", "unknown")

#: Events of compaction that has looked for pages to move, not only whether it should.
_COMPACTION = ("mm_compaction_begin", "mm_compaction_isolate_migratepages", "mm_compaction_migratepages")
_PAGE_SHIFT = 12
_GFP_HIGHMEM = 0x2
_GFP_ACCOUNT = 0x400000
_KMALLOC_MAX_CACHE_SIZE = 8192
_NR_KMALLOC_INDEXES = 14
_NO_CACHE = 0xFFFF
_BUDDY, _PCP, _ALLOCATED, _SLAB, _LARGE, _TAIL, _FREE = range(1, 8)
_MOST_AHEAD = 64  # pages that are looked at
_MOST_FREES = 200  # of one run of an interrupt
_NEAR = 12  # events within which two swapped lines lie
_ALLOCS = (Event.KMALLOC, Event.KMALLOC_NODE, Event.KMEM_CACHE_ALLOC, Event.KMEM_CACHE_ALLOC_NODE)
_KMALLOCS = (Event.KMALLOC, Event.KMALLOC_NODE)
_FREES = (Event.KFREE, Event.KMEM_CACHE_FREE)


@dataclass(slots=True)
class Fidelity:
    """How often the model gave the recorded answer.

    Attributes
    ----------
    frames, frames_identical : int
        Page allocations that are not slabs', and those predicted.
    objects, objects_identical : int
        Objects and large kmallocs, and those at the predicted address.
    divergences : dict of str to int
        Answers taken over, by cause: ``bulk`` (a bulk request without an
        event), ``compaction``, ``interrupt`` (two lines swapped), ``slab`` (the model
        has a slab where the kernel has none, or none where it has one), ``unknown``.
    named_by_pointer, starts_by_pointer, bulk_pages, bulk_objects : int
        What was taken from recorded pointers, and what was inferred.
    zones : list of dict
        Each zone's free pages and free blocks by order, modelled and real.
    caches : list of dict
        Each cache's slabs and objects in use, modelled and real.
    slab_pages : dict of str to int
        Pages of all slabs, modelled and real; empty if the caches were not compared.
    notes : list of str
    """

    frames: int = 0
    frames_identical: int = 0
    objects: int = 0
    objects_identical: int = 0
    divergences: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    named_by_pointer: int = 0
    starts_by_pointer: int = 0
    bulk_pages: int = 0
    bulk_objects: int = 0
    zones: list[dict[str, object]] = field(default_factory=list)
    caches: list[dict[str, object]] = field(default_factory=list)
    slab_pages: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_dump(path: Path) -> StateDump:
    """Read the first state dump of a file.

    Raises
    ------
    InputError
        If there is none, or it is cut off.
    """
    records = read_records(path)
    for line, record in records:
        if record.get("t") == "dump":
            return StateDump.collect(record, records, path, line)
    raise InputError("no state dump in this file", file=path, remedy="give a recording's before.dump.jsonl.gz")


class _Events:
    """The events of a trace in plain lists, and what later events tell of earlier ones."""

    def __init__(self, trace: str, page_offset: int, progress: Progress | None) -> None:
        columns: dict[str, list[int]] = defaultdict(list)
        with open_trace(trace) as reader:
            for batch in reader:
                for name in _COLUMNS:
                    columns[name].extend(getattr(batch, name).tolist())
                strings = batch.strings
                if progress is not None:
                    progress(*reader.progress)
            self.skipped = dict(reader.stats.skipped_events)
        if not columns:
            raise InputError("no kmem event", file=trace)
        for name in _COLUMNS:
            setattr(self, name, columns[name])
        self.caches = [strings.caches[n] for n in range(len(strings.caches))]
        self.sites = [strings.call_sites[n] for n in range(len(strings.call_sites))]
        self.page_offset = page_offset
        self.slab_pages: set[int] = set()
        self.first_objects: dict[int, int] = {}
        self.first_of: dict[int, int] = {}
        self.batched: set[int] = set()
        self.named: dict[int, int] = {}
        self.mentions: dict[int, list[int]] = defaultdict(list)
        self.page_mentions: dict[int, list[int]] = defaultdict(list)
        self.reclaimed = KSWAPD_WAKE in self.skipped
        self.rounds = find_rounds(trace, self.time_ns, self.pid) if self.reclaimed else []
        self._look_ahead()

    time_ns: list[int]
    event: list[int]
    target: list[int]
    bytes_req: list[int]
    bytes_alloc: list[int]
    order: list[int]
    gfp: list[int]
    cache: list[int]
    call_site: list[int]
    flags: list[int]
    cpu: list[int]
    pid: list[int]

    def _look_ahead(self) -> None:
        owner: dict[int, int] = {}
        freed: dict[int, int] = {}
        for i, (event, target) in enumerate(zip(self.event, self.target, strict=True)):
            if event <= Event.KMEM_CACHE_FREE:
                if target < self.page_offset:
                    continue
                self.mentions[target].append(i)
                if event not in _FREES:
                    page = (target - self.page_offset) >> _PAGE_SHIFT
                    if page in owner and owner[page] not in self.slab_pages:
                        self.slab_pages.add(owner[page])
                        self.first_objects[i] = owner[page]
                        self.first_of[owner[page]] = i
            elif event == Event.MM_PAGE_ALLOC and not self.flags[i] & EventFlag.FAILED:
                self.page_mentions[target].append(i)
                for page in range(target, target + (1 << self.order[i])):
                    owner[page] = i
            elif event == Event.MM_PAGE_FREE:
                freed[target] = i
                self.page_mentions[target].append(i)
            elif event == Event.MM_PAGE_FREE_BATCHED and target in freed:
                self.batched.add(freed.pop(target))
        live: dict[int, int] = {}
        for i in range(len(self.event) - 1, -1, -1):
            if self.event[i] == Event.KMEM_CACHE_FREE:
                live[self.target[i]] = self.cache[i]
            elif self.event[i] in _ALLOCS:
                self.named[i] = live.pop(self.target[i], 0)

    def site(self, i: int) -> str:
        """Name of the function that made a request."""
        return self.sites[self.call_site[i]] if self.call_site[i] else ""

    def made_in_bulk(self, i: int) -> bool:
        """Whether a slab is made for nodes of the maple tree that are taken in bulk: its first object comes later."""
        first = self.first_of[i]
        if not self.site(first).startswith("mas_") and self.caches[self.named.get(first, 0)] != "maple_node":
            return False
        following = (j for j in range(i + 1, first + 1) if self.cpu[j] == self.cpu[i])
        return next(j for j in following if self.event[j] <= Event.KMEM_CACHE_FREE) != first

    def next_mention(self, pointer: int, after: int) -> int | None:
        """The next event that names an object."""
        places = self.mentions.get(pointer, [])
        at = bisect.bisect_right(places, after)
        return places[at] if at < len(places) else None

    def page_taken_by_then(self, pfn: int, after: int) -> bool:
        """Whether a page must be in use after an event: the trace frees it before it allocates it again."""
        places = self.page_mentions.get(pfn, [])
        at = bisect.bisect_right(places, after)
        return at < len(places) and self.event[places[at]] == Event.MM_PAGE_FREE

    def taken_by_then(self, pointer: int, after: int) -> bool:
        """Whether an object must be in use after an event: the trace frees it before it allocates it again."""
        i = self.next_mention(pointer, after)
        if i is None or self.event[i] not in _FREES:
            return False
        return not self.site(i).startswith("mas_destroy")


_COLUMNS = (
    "time_ns",
    "event",
    "target",
    "bytes_req",
    "bytes_alloc",
    "order",
    "gfp",
    "cache",
    "call_site",
    "flags",
    "cpu",
    "pid",
)


class _Run:
    def __init__(self, before: StateDump, events: _Events) -> None:
        self.events = events
        self.out = Fidelity()
        self.allocator: PageAllocator = load_page_allocator(before)
        self.slub: Slub = load_slub(before, self.allocator).slub
        self.pages = self.allocator.memmap.pages_array
        self.names = {geometry.name: index for index, geometry in self.slub.geometries.items()}
        self.slabs = {int(record["pfn"]) for record in before.of("sp")}
        for record in before.of("sp"):
            if self.pages["kind"][record["pfn"]] != _SLAB and record["cache"] in self.names:
                adopt_full_slab(self.slub, self.names[record["cache"]], record["pfn"], record["objects"])
        self.alias: dict[int, int] = {}
        self.owed: dict[int, tuple[int, int]] = {}
        self.learned: dict[tuple[int, int, int], int] = {}
        maple = self.names.get("maple_node")
        self.maple = None if maple is None else MapleNodes(self.slub, maple, self.in_use, self.settle)
        self.frames = SlabFrames(self.allocator, self.slub, events, self.slab_diverged)
        self.compacted = any(name in _COMPACTION for name in events.skipped)
        self.rounds = KswapdRounds(self.allocator, events.rounds)

    def in_use(self, address: int, event: int) -> bool:
        """Whether an object must be in use after an event."""
        return self.events.taken_by_then(address + self.events.page_offset, event)

    def settle(self, address: int, event: int) -> int:
        """Have slabs just made where they were made; where an object is then."""
        self.frames.after_object(self.events.first_of.get(event, event), settled=False)
        pfn = address >> _PAGE_SHIFT
        for old, new in self.frames.moved.items():
            if old <= pfn < old + (1 << int(self.pages["order"][new])):
                return address + ((new - old) << _PAGE_SHIFT)
        return address

    def run(self, progress: Progress | None) -> None:
        events = self.events
        nr_cpus = self.allocator.nr_cpus
        for i, event in enumerate(events.event):
            self.allocator.cpu = events.cpu[i] if events.cpu[i] < nr_cpus else 0
            if i >= self.rounds.due:
                self.rounds.advance(i)
            if self.owed and events.pid[i] in self.owed:
                self.pay(events.pid[i])
            if event in _ALLOCS:
                self.allocate(i)
                self.frames.after_object(i)
            elif event in _FREES:
                self.free(i)
                self.frames.after_object(i)
            elif event == Event.MM_PAGE_ALLOC:
                self.allocate_pages(i)
            elif event == Event.MM_PAGE_FREE and i not in events.batched:
                self.free_pages(i, events.order[i])
            elif event == Event.MM_PAGE_FREE_BATCHED:
                self.free_pages(i, 0)
            self.frames.forget()
            if progress is not None and not i & 0xFFFF:
                progress(i, len(events.event))
        if self.maple is not None:
            self.out.bulk_objects = self.maple.nr_inferred

    # -- pages --------------------------------------------------------------

    def allocate_pages(self, i: int) -> None:
        events = self.events
        wanted, order = events.target[i], events.order[i]
        if events.flags[i] & EventFlag.FAILED:
            return
        if i in events.slab_pages:
            self.slabs.add(wanted)
            if self.maple is not None and events.made_in_bulk(i):
                with self.frames.kept(self.maple.cache):
                    self.maple.overflow(i, lambda: int(self.pages["kind"][wanted]) == _SLAB)
            return
        got = self.allocator.alloc_pages(events.gfp[i], order, -1)
        self.out.frames += 1
        if got == wanted:
            self.out.frames_identical += 1
            return
        kind = int(self.pages["kind"][wanted])
        self.diverged(self.frame_cause(i, got, wanted))
        if got < 0:
            take_page(self.allocator, wanted, order)
        elif kind == _PCP:
            self.take_from_list(i, got, wanted, order)
        elif kind == _SLAB:
            # the model keeps its slab, elsewhere
            if not move_slab(self.slub, wanted, got):
                self.alias_page(wanted, got)
        elif take_page(self.allocator, wanted, order):
            give_page_back(self.allocator, got, order)
        else:
            self.alias_page(wanted, got)

    def take_from_list(self, i: int, got: int, wanted: int, order: int) -> None:
        """Hand out a page from within a per-CPU list; those before it are in use if the trace frees them next."""
        before = int(self.pages["prev"][wanted])
        for _ in range(_MOST_AHEAD):
            if before >= self.allocator.memmap.nr_frames:
                break
            further = int(self.pages["prev"][before])
            if self.events.page_taken_by_then(before, i):
                take_page(self.allocator, before, order)
                self.out.bulk_pages += 1
            before = further
        if self.events.page_taken_by_then(got, i) or not exchange(self.allocator, wanted, got):
            take_page(self.allocator, wanted, order)

    def alias_page(self, wanted: int, got: int) -> None:
        self.alias[-wanted - 1] = got

    def frame_cause(self, i: int, got: int, wanted: int) -> str:
        events = self.events
        if int(self.pages["kind"][wanted]) in (_SLAB, _TAIL):
            return "bulk" if self.bulk_cache(wanted) else "slab"
        if i and events.event[i - 1] in (Event.MM_PAGE_FREE, Event.MM_PAGE_FREE_BATCHED):
            return "interrupt"  # pages freed between the request and its event
        for near in range(i + 1, min(i + _NEAR, len(events.event))):
            if events.event[near] == Event.MM_PAGE_ALLOC and events.target[near] == got:
                return "interrupt"
        return "compaction" if self.compacted else "unknown"

    def bulk_cache(self, pfn: int) -> bool:
        """Whether a frame is in a slab of a cache that is used in bulk."""
        return self.maple is not None and self.cache_at(pfn << _PAGE_SHIFT) == self.maple.cache

    def slab_diverged(self, pfn: int) -> None:
        self.diverged("bulk" if self.maple is not None and self.pages["cache"][pfn] == self.maple.cache else "slab")

    def diverged(self, cause: str) -> None:
        self.out.divergences[cause] += 1

    def free_pages(self, i: int, order: int) -> None:
        pfn = self.alias.pop(-self.events.target[i] - 1, self.events.target[i])
        if not 0 <= pfn < self.allocator.memmap.nr_frames:
            return
        kind = int(self.pages["kind"][pfn])
        if pfn in self.slabs:
            self.slabs.discard(pfn)
            self.frames.freed(pfn, order)
            if kind != 0:
                return  # else a slab of a cache that the dump does not show
        if kind == 0:
            if not own_block(self.allocator, pfn, order):
                self.diverged("unknown")
                return
        elif kind != _ALLOCATED:
            if kind == _LARGE:
                return  # its kfree() has an event of its own
            if kind in (_BUDDY, _PCP, _FREE):
                self.diverged("bulk")  # taken without an event
            return
        try:
            self.allocator.free_pages(pfn, order)
        except ValueError:
            self.diverged("unknown")

    # -- objects ------------------------------------------------------------

    def cache_of(self, i: int) -> int | None:
        """The cache that an unnamed request goes to."""
        events = self.events
        key = (events.call_site[i], events.bytes_req[i], events.bytes_alloc[i])
        named = self.names.get(events.caches[events.named.get(i, 0)]) if events.named.get(i) else None
        if named is None:
            named = self.cache_at(events.target[i] - events.page_offset)
            if named is not None and self.slub.geometries[named].object_size < events.bytes_req[i]:
                named = None
            self.out.named_by_pointer += named is not None
        if named is None:
            return self.learned.get(key)
        self.learned[key] = named
        return named

    def allocate(self, i: int) -> None:
        events = self.events
        pointer = events.target[i]
        if events.flags[i] & (EventFlag.FAILED | EventFlag.NO_POINTER) or pointer < events.page_offset:
            return
        wanted = pointer - events.page_offset
        self.out.objects += 1
        cache = self.kmalloc_cache(i) if events.event[i] in _KMALLOCS else self.cache_of(i)
        small = events.event[i] not in _KMALLOCS or 0 < events.bytes_req[i] <= _KMALLOC_MAX_CACHE_SIZE
        if cache is None and small:
            self.diverged("unknown")  # a cache that the dump does not show
            return
        drawn = self.slub.shuffled_slabs
        self.slub.start_object = -1 if cache is None else self.start_of(cache, wanted)
        if events.event[i] in _KMALLOCS:
            got = self.slub.kmalloc(events.bytes_req[i], events.gfp[i])
        else:
            assert cache is not None
            got = self.slub.kmem_cache_alloc(cache, events.gfp[i])
        self.slub.start_object = -1
        self.out.starts_by_pointer += int(self.slub.shuffled_slabs - drawn)
        if got == wanted:
            self.out.objects_identical += 1
        else:
            self.take_over_object(i, cache, got, wanted)
        self.hidden_requests(i, cache, wanted)

    def kmalloc_cache(self, i: int) -> int | None:
        """The cache of a kmalloc request; None for a large one."""
        gfp, size = self.events.gfp[i], self.events.bytes_req[i]
        if not 0 < size <= _KMALLOC_MAX_CACHE_SIZE:
            return None
        kind = 3 if gfp & 0x1 else 2 if gfp & 0x10 else 1 if gfp & _GFP_ACCOUNT else 0
        cache = int(self.slub.kmalloc_array[kind * _NR_KMALLOC_INDEXES + kmalloc_index(size)])
        return None if cache == _NO_CACHE else cache

    def start_of(self, cache: int, address: int) -> int:
        """Object number of an address in a slab of the cache's preferred order."""
        geometry = self.slub.geometries[cache]
        slab = (address >> _PAGE_SHIFT) >> geometry.order << geometry.order
        offset = address - (slab << _PAGE_SHIFT) - geometry.red_left_pad
        return offset // geometry.size if offset >= 0 and offset % geometry.size == 0 else -1

    def take_over_object(self, i: int, cache: int | None, got: int | None, wanted: int) -> None:
        bulk = self.maple is not None and cache == self.maple.cache
        if not bulk and cache is not None and got is not None and self.before_the_frees(i, cache, got, wanted):
            self.diverged("interrupt")
            return
        if not bulk and cache is not None and got is not None and i in self.events.first_objects:
            wanted_page = self.events.target[self.events.first_objects[i]]
            if int(self.pages["kind"][wanted_page]) not in (_SLAB, _LARGE):
                self.diverged("interrupt")  # what an interrupt freed came too late for the kernel, which made a slab
                self.in_a_new_slab(i, cache, got, wanted)
                return
        self.diverged("bulk" if bulk else self.object_cause(i, wanted))
        if cache is None or got is None:
            if got is not None:
                self.alias[wanted] = got
            return
        if bulk:
            assert self.maple is not None
            with self.frames.kept(cache):
                found = self.maple.skip_to(i, self.settle(got, i), wanted)
            if not found:
                stand_in = self.slub.kmem_cache_alloc(cache, self.events.gfp[i])
                if stand_in is not None:
                    self.alias[wanted] = stand_in
            return
        if not self.in_use(got, i) and self.from_another_slab(i, cache, got, wanted):
            return
        if take_object(self.slub, wanted):
            if not self.in_use(got, i):
                self.slub.kfree(got)  # else somebody has it, without an event
            return
        if self.cache_at(wanted) == cache:
            # freed without an event: whoever has it by the model has it no more
            self.slub.kfree(got)
            return
        self.alias[wanted] = got

    def in_a_new_slab(self, i: int, cache: int, got: int, wanted: int) -> None:
        """Have the model make the slab that the kernel made for an object, and hand out that."""
        with self.frames.kept(cache):
            self.slub.kfree(got)
            self.slub.start_object = self.start_of(cache, wanted)
            again = alloc_from_new_slab(self.slub, cache, self.events.gfp[i])
            self.slub.start_object = -1
            if not again:
                return
            again = self.settle(again, i)
            if again != wanted:
                if take_object(self.slub, wanted):
                    self.slub.kfree(again)
                else:
                    self.alias[wanted] = again

    def from_another_slab(self, i: int, cache: int, got: int, wanted: int) -> bool:
        """If the recorded object is in a partial slab, make that the CPU's, and the CPU's slab the partial one."""
        slab = self.slub.slab_of_frame(wanted >> _PAGE_SHIFT)
        if slab is None or self.cache_at(wanted) != cache or self.cache_at(got) != cache:
            return False
        with self.frames.kept(cache):
            self.slub.kfree(got)
            exchange_cpu_slab(self.slub, cache, slab)
            again = self.slub.kmem_cache_alloc(cache, self.events.gfp[i])
            if again == wanted:
                return True
            if take_object(self.slub, wanted):
                if again is not None:
                    self.slub.kfree(again)
                return True
            if again is not None and again != got:
                self.slub.kfree(again)
                take_object(self.slub, got)
        return False

    def before_the_frees(self, i: int, cache: int, got: int, wanted: int) -> bool:
        """Whether the recorded object is what would have come before the frees just before this event.

        An object's event follows the allocation, a free's precedes it: what an
        interrupt frees in between stands in the trace as if it had come first.
        If so, the state is as if the allocation had.
        """
        if not i or self.events.event[i - 1] not in _FREES:
            return False
        freed: list[int] = []
        self.slub.kfree(got)
        for j in range(i - 1, max(i - _MOST_FREES, -1), -1):
            address = self.events.target[j] - self.events.page_offset
            if self.events.event[j] not in _FREES or address < 0 or not take_object(self.slub, address):
                break
            freed.append(address)
        again = self.slub.kmem_cache_alloc(cache, self.events.gfp[i]) if freed else None
        if again is not None and again != wanted:
            self.slub.kfree(again)
        for address in reversed(freed):
            self.slub.kfree(address)
        if again == wanted:
            return True
        take_object(self.slub, got)  # as it was
        return False

    def cache_at(self, address: int) -> int | None:
        """Cache of the slab that an address lies in, if it lies in one."""
        slab = self.slub.slab_of_frame(address >> _PAGE_SHIFT)
        return None if slab is None else self.slub.slab_cache(slab)

    def object_cause(self, i: int, wanted: int) -> str:
        kind = int(self.pages["kind"][wanted >> _PAGE_SHIFT])
        if i and self.events.event[i - 1] in _FREES and kind in (_SLAB, _TAIL):
            return "interrupt"  # objects freed between the request and its event
        return "slab" if kind not in (_SLAB, _TAIL) else "compaction" if self.compacted else "unknown"

    def hidden_requests(self, i: int, cache: int | None, wanted: int) -> None:
        """Make the requests without an event that follow this one."""
        site = self.events.site(i)
        if self.maple is not None and cache == self.maple.cache and site.startswith("mas_alloc_nodes"):
            self.maple.allocated(i)
        elif site.startswith(("__vmalloc_node_range", "__vmalloc_area_node")) and self.events.event[i] in _KMALLOCS:
            word = 8 if self.allocator.memmap.has_dma32 else 4
            gfp = (self.events.gfp[i] & ~_GFP_ACCOUNT) | _GFP_HIGHMEM
            # the task may be preempted here: it goes on with its next event
            self.owed[self.events.pid[i]] = (gfp, self.events.bytes_req[i] // word)

    def pay(self, pid: int) -> None:
        """Make the bulk request that a task had yet to make."""
        gfp, count = self.owed.pop(pid)
        self.out.bulk_pages += len(self.allocator.alloc_pages_bulk(gfp, count))

    def free(self, i: int) -> None:
        events = self.events
        pointer = events.target[i]
        if pointer < events.page_offset:
            return
        wanted = pointer - events.page_offset
        address = self.alias.pop(wanted, wanted)
        try:
            with self.frames.freeing(i, address):
                self.slub.kfree(address)
        except KmemError:
            if self.maple is not None and self.bulk_cache(address >> _PAGE_SHIFT) and self.maple.freed(address):
                self.slub.kfree(address)
            elif take_object(self.slub, address):  # allocated without an event
                self.diverged("unknown")
                self.slub.kfree(address)
            else:
                self.diverged("slab")


def measure_fidelity(
    trace: str, before: Path, after: Path | None = None, *, progress: Progress | None = None
) -> Fidelity:
    """Replay a trace from a recorded state and compare every answer with the recorded one.

    Parameters
    ----------
    trace : str
        A trace with real pointers.
    before, after : Path
        Full state dumps around it; the latter is compared with the state that the model ends in.
    progress : callable, optional
        Called with events done and in all.

    Raises
    ------
    InputError
        If a file is damaged or not of the kind asked for.

    Notes
    -----
    Complexity: O(events); events are kept in memory, some 100 bytes each.
    """
    dump = read_dump(before)
    if not dump.of("sp") or not dump.of("kmalloc_cache"):
        raise InputError(
            f"state dump {dump.name!r} does not show the slabs of all caches",
            file=before,
            line=dump.line,
            remedy="a trace can be replayed from a dump of the whole machine (zones, all caches, slab pages)",
        )
    try:
        page_offset = int(str(dump.globals["PAGE_OFFSET"]), 16)
    except (KeyError, ValueError):
        raise InputError("the state dump does not say PAGE_OFFSET", file=before, line=dump.line) from None
    with readable_twice(trace) as (path, _):
        events = _Events(path, page_offset, progress)
    run = _Run(dump, events)
    shown = {int(record["cpu"]) for record in dump.of("pcp")}
    unseen = sorted(set(events.cpu) - shown)
    if unseen:
        run.out.notes.append(
            f"the dump does not show the lists of CPU {', '.join(map(str, unseen))}: what lay there cannot be told, "
            "and answers drift apart"
        )
    run.run(progress)
    if events.reclaimed and not events.rounds:
        run.out.notes.append(
            "when kswapd was at work is not known: that is read from text of ftrace or trace-cmd report only"
        )
    if after is not None:
        _compare(run, read_dump(after))
    return run.out


def _compare(run: _Run, dump: StateDump) -> None:
    """Compare the end states: free blocks by zone and order, slabs and objects by cache."""
    real = load_page_allocator(dump)
    slub = load_slub(dump, real).slub
    model = run.allocator
    for number, (got, want) in enumerate(zip(model.memmap.zones_array, real.memmap.zones_array, strict=True)):
        if not want["managed"]:
            continue
        free = [_free_pages(each, number) for each in (model, real)]
        run.out.zones.append(
            {
                "zone": model.memmap.zone_name(number),
                "node": int(want["node"]),
                "free_pages": {"modelled": free[0], "real": free[1]},
                "free_blocks": {"modelled": got["nr_free"].tolist(), "real": want["nr_free"].tolist()},
            }
        )
    numbers = {geometry.name: index for index, geometry in slub.geometries.items()}
    for name, index in sorted(run.names.items()):
        other = numbers.get(name)
        if other is None:
            continue
        pairs = [_usage(run.slub, index), _usage(slub, other)]
        run.out.caches.append(
            {
                "cache": name,
                "slabs": {"modelled": pairs[0][0], "real": pairs[1][0]},
                "objects": {"modelled": pairs[0][1], "real": pairs[1][1]},
                "bytes": pairs[1][0] * (4096 << slub.geometries[other].order),
            }
        )


def _free_pages(allocator: PageAllocator, zone: int) -> int:
    record = allocator.memmap.zones_array[zone]
    sets = allocator.memmap.pagesets_array
    cpus = allocator.nr_cpus
    pcp = int(sets["count"][record["pageset"] : record["pageset"] + cpus].sum())
    return int((record["nr_free"].astype(np.int64) << np.arange(len(record["nr_free"]))).sum()) + pcp


def _usage(slub: Slub, cache: int) -> tuple[int, int]:
    """Slabs of a cache, and its objects in use as slabinfo counts them: all but the free ones of listed slabs."""
    nodes = slub.dump(cache)["nodes"]
    slabs = sum(node["nr_slabs"] for node in nodes)
    objects = sum(node["total_objects"] for node in nodes)
    free = sum(entry["objects"] - entry["inuse"] for node in nodes for entry in node["partial"])
    return slabs, objects - free
