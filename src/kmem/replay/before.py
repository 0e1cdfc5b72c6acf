# SPDX-License-Identifier: GPL-2.0-only
"""What a trace tells of the time before it, and of requests that it does not show.

Copies of ``/proc`` files count blocks, slabs and objects; what is freed in a
trace without having been allocated in it was among those counted.  From the
order of events alone follows

- which pages were in use before: a free without an allocation;
- which frames were slabs before, of which cache, and which of their objects
  were free then: those that are allocated before they are freed;
- which cache a call site allocates from, where the trace does not name it: that
  of other objects in the same slab, or the only one of the size, or of those the one that
  the function is called after;
- how many pages ``vmalloc()`` takes in bulk, without an event: its array of pages
  has one, and so have the pages when they are given back;
- which pages compaction moved: the old page's free is kcompactd's, and the new one, taken without
  an event, is freed by somebody later.

With hashed pointers frames of objects are not known; of the objects freed then,
only those are that a cache is named for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from kmem.machine.running import KnownSlab
from kmem.machine.slabinfo import SlabinfoRow
from kmem.mm.kmalloc import kmalloc_cache_name, kmalloc_index, kmalloc_type
from kmem.mm.slab_config import SlabConfig
from kmem.trace.events import Event, EventBatch, EventFlag

__all__ = ["BulkRequest", "Move", "PriorState"]

_PAGE_SHIFT = 12
_KMALLOC_MAX_CACHE_SIZE = 8192
_MAX_ORDER = 11
_LIVE, _FREED = 1, 2
_GFP_ACCOUNT = 0x400000
_GFP_HIGHMEM = 0x2
_ARRAY_SITES = ("__vmalloc_node_range", "__vmalloc_area_node")
_MOVER = "kcompactd"
_VUNMAP_SITES = ("__vunmap", "vfree")
_MOST_FREED = 1 << 16  # pages of one vmalloc area
_KMALLOC_NODE, _KMEM_CACHE_ALLOC_NODE = int(Event.KMALLOC_NODE), int(Event.KMEM_CACHE_ALLOC_NODE)
_KFREE, _KMEM_CACHE_FREE = int(Event.KFREE), int(Event.KMEM_CACHE_FREE)
_PAGE_ALLOC, _PAGE_FREE = int(Event.MM_PAGE_ALLOC), int(Event.MM_PAGE_FREE)
_FAILED, _NO_ANSWER = int(EventFlag.FAILED), int(EventFlag.FAILED | EventFlag.NO_POINTER)

Site = tuple[str, int, int]  #: call site, bytes asked for, bytes given


@dataclass(slots=True)
class BulkRequest:
    """Pages that were taken at once without an event.

    Attributes
    ----------
    after : int
        Number of the event, counted from 0, that it follows.
    gfp, count : int
    frames : list of int
        Where the trace gives them back, as far as it does.
    """

    after: int
    gfp: int
    count: int
    frames: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Move:
    """A page that kcompactd moved.

    Attributes
    ----------
    at : int
        Number of the event that frees its old frame.
    source : int
        That frame.
    freed : int
        Number of the event that frees its new frame; -1 if none does.
    target : int
        That frame. Which of several moved pages it is cannot be told: it is the one moved first.
    """

    at: int
    source: int
    freed: int = -1
    target: int = -1


@dataclass(slots=True)
class _Page:
    """A page of a slab."""

    before: bool
    name: str = ""
    sites: set[Site] = field(default_factory=set)
    first: dict[int, int] = field(default_factory=dict)  # of slabs before: CPU that allocated it first, -1: freed first
    live: set[int] = field(default_factory=set)  # pointers allocated by an event


class PriorState:
    """Collects what events tell, in one pass.

    Parameters
    ----------
    page_offset : int
        Address of frame 0 in the direct map, 0 if pointers are hashed.
    config : SlabConfig
        Which kmalloc caches there are.
    nr_frames : int
        Frames of the machine; events of others are damage.

    Attributes
    ----------
    events : int
        Events seen.
    blocks : dict of int to int
        Order of blocks that were in use, by first frame.
    bulk : list of BulkRequest
        In the order of events.
    moves : list of Move
        In the order of events.
    hidden_frees : int
        Pages freed that were neither in use before nor allocated by an event.
    hidden_objects : Counter of str
        The same of objects, by cache.

    Notes
    -----
    Complexity: O(events). Memory: a byte for each frame, and what objects are live or were before.
    """

    def __init__(self, page_offset: int, config: SlabConfig, nr_frames: int = 1 << 20) -> None:
        self.page_offset = page_offset
        self.config = config
        self.events = 0
        self.blocks: dict[int, int] = {}
        self.bulk: list[BulkRequest] = []
        self.moves: list[Move] = []
        self.hidden_frees = 0
        self.hidden_objects: Counter[str] = Counter()
        self._frames = bytearray(nr_frames)  # what page events said last of each frame, 0 nothing
        self._pages: dict[int, _Page] = {}
        self._former: list[tuple[int, _Page]] = []  # of slabs before that have been given back
        self._slab_frees: set[int] = set()
        self._sites: set[Site] = set()  # that allocate from a cache which the trace does not name
        self._votes: dict[Site, Counter[str]] = {}
        self._arrays: dict[int, BulkRequest] = {}
        self._freed: dict[int, deque[int]] = {}
        self._moved: deque[Move] = deque()  # whose new frames have not been freed
        self._came_back: dict[int, Move] = {}  # by new frame, where it was freed last
        self._hashed: dict[int, tuple[str, bool]] = {}  # by pointer: cache, whether in use before

    def add(self, batch: EventBatch) -> None:
        """Take the events of a batch into account."""
        strings = batch.strings
        nr_frames = len(self._frames)
        sites = [strings.call_sites[n] for n in range(len(strings.call_sites))]
        caches = [strings.caches[n] for n in range(len(strings.caches))]
        columns = (
            batch.event,
            batch.target,
            batch.bytes_req,
            batch.bytes_alloc,
            batch.order,
            batch.gfp,
            batch.cache,
            batch.call_site,
            batch.flags,
            batch.cpu,
            batch.pid,
            batch.comm,
        )
        movers = {code for code in range(len(strings.comms)) if strings.comms[code].startswith(_MOVER)}
        for event, target, req, alloc, order, gfp, cache, site, flags, cpu, pid, comm in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            if event == _PAGE_ALLOC:
                if not flags & _FAILED and order < _MAX_ORDER and target < nr_frames:
                    self._page_alloc(target, order)
            elif event == _PAGE_FREE:
                if order < _MAX_ORDER and target < nr_frames:
                    if comm in movers and not order:
                        self._page_moved(target)
                    else:
                        self._page_free(target, order, pid)
            elif 0 < event <= _KMEM_CACHE_ALLOC_NODE:
                if not flags & _NO_ANSWER:
                    kmalloc = event <= _KMALLOC_NODE
                    self._allocated(target, (sites[site], req, alloc), kmalloc, gfp, caches[cache], cpu)
                    if kmalloc and sites[site].startswith(_ARRAY_SITES):
                        self._array(target, req, gfp)
            elif target and (event == _KFREE or event == _KMEM_CACHE_FREE):
                self._released(target, caches[cache])
                if event == _KFREE and target in self._arrays and sites[site].startswith(_VUNMAP_SITES):
                    self._unmapped(target, pid)
            self.events += 1

    # -- pages --------------------------------------------------------------

    def _page_alloc(self, pfn: int, order: int) -> None:
        frames = range(pfn, min(pfn + (1 << order), len(self._frames)))
        self._frames[frames.start : frames.stop] = bytes((_LIVE,)) * len(frames)
        for frame in frames:
            self._forget(frame)

    def _page_free(self, pfn: int, order: int, pid: int) -> None:
        frames = range(pfn, min(pfn + (1 << order), len(self._frames)))
        said = self._frames[pfn]
        if said != _LIVE:
            slab = [page for frame in frames if (page := self._pages.get(frame)) is not None and page.before]
            if slab and not _is_large(slab, self._address(pfn)):
                self._slab_frees.add(pfn)
            elif said == _FREED:
                self.hidden_frees += 1
                self._remember_free(pfn, order, pid)
                if self._moved and not order:
                    move = self._came_back[pfn] = self._moved.popleft()
                    move.freed, move.target = self.events, pfn
            else:
                self.blocks[pfn] = order
                self._remember_free(pfn, order, pid)
                for frame in frames:
                    self._pages.pop(frame, None)
        self._frames[frames.start : frames.stop] = bytes((_FREED,)) * len(frames)
        for frame in frames:
            self._forget(frame)

    def _page_moved(self, pfn: int) -> None:
        """Kcompactd frees a page: one that it has moved, or one that it had taken and did not need."""
        if self._frames[pfn] == _FREED:
            return
        if self._frames[pfn] != _LIVE:
            self.blocks[pfn] = 0
        self._frames[pfn] = _FREED
        self._forget(pfn)
        self.moves.append(Move(self.events, pfn))
        self._moved.append(self.moves[-1])

    def _forget(self, frame: int) -> None:
        """A frame begins a new life: what was in it before is done with."""
        page = self._pages.get(frame)
        if page is not None:
            self._vote(page)
            del self._pages[frame]
            if page.before:
                self._former.append((frame, page))

    def _remember_free(self, pfn: int, order: int, pid: int) -> None:
        if not order:
            self._freed.setdefault(pid, deque(maxlen=_MOST_FREED)).append(pfn)

    def _address(self, pfn: int) -> int:
        return self.page_offset + (pfn << _PAGE_SHIFT)

    # -- bulk requests ------------------------------------------------------

    def _array(self, pointer: int, size: int, gfp: int) -> None:
        """An array for the pages of a vmalloc area was allocated: the pages follow, without an event."""
        request = BulkRequest(self.events, (gfp & ~_GFP_ACCOUNT) | _GFP_HIGHMEM, size // self.config.word_bytes)
        self.bulk.append(request)
        self._arrays[pointer] = request

    def _unmapped(self, pointer: int, pid: int) -> None:
        """Such an array is freed: the pages freed just before were its own, not in use before the trace."""
        request = self._arrays.pop(pointer)
        freed = self._freed.pop(pid, deque())
        for _ in range(min(request.count, len(freed))):
            frame = freed.pop()
            request.frames.append(frame)
            if self.blocks.pop(frame, None) is None:
                self.hidden_frees -= 1
            move = self._came_back.pop(frame, None)
            if move is not None:  # it was no moved page
                move.freed = move.target = -1
                self._moved.appendleft(move)

    # -- objects ------------------------------------------------------------

    def _allocated(self, pointer: int, site: Site, kmalloc: bool, gfp: int, name: str, cpu: int) -> None:
        if kmalloc:
            if not 0 < site[1] <= _KMALLOC_MAX_CACHE_SIZE:
                return
            name = kmalloc_cache_name(kmalloc_type(gfp, self.config), kmalloc_index(site[1]))
        elif not name:
            self._sites.add(site)
        if not self.page_offset:
            known, before = self._hashed.get(pointer, (name, False))
            self._hashed[pointer] = (known or name, before)
            return
        page = self._page_of(pointer)
        if page is None:
            return
        if name:
            page.name = name
        else:
            page.sites.add(site)
        page.live.add(pointer)
        if page.before:
            page.first.setdefault(pointer, cpu)

    def _released(self, pointer: int, name: str) -> None:
        if not self.page_offset:
            if pointer not in self._hashed:
                self._hashed[pointer] = (name, True)
            elif name:
                self._hashed[pointer] = (name, self._hashed[pointer][1])
            return
        page = self._page_of(pointer)
        if page is None:
            return
        if name:
            page.name = name
        if pointer in page.live:
            page.live.remove(pointer)
        elif page.before and pointer not in page.first:
            page.first[pointer] = -1
        else:
            self.hidden_objects[page.name] += 1

    def _page_of(self, pointer: int) -> _Page | None:
        """The slab page that a pointer lies in; None if it is no slab's any more, as far as the events tell."""
        if pointer < self.page_offset:
            return None
        frame = (pointer - self.page_offset) >> _PAGE_SHIFT
        page = self._pages.get(frame)
        if page is None:
            if frame >= len(self._frames) or self._frames[frame] == _FREED:
                return None  # damaged, or taken without an event
            page = self._pages[frame] = _Page(before=self._frames[frame] != _LIVE)
        return page

    def _vote(self, page: _Page) -> None:
        if page.name:
            for site in page.sites:
                self._votes.setdefault(site, Counter())[page.name] += 1

    # -- what came out ------------------------------------------------------

    def resolve(self, caches: Mapping[str, SlabinfoRow]) -> dict[Site, str]:
        """Name the cache of each call site and slab page, as far as other objects in the same slabs, or sizes, tell it.

        To be called once, before :meth:`slabs` and :meth:`objects`.
        """
        for page in self._pages.values():
            self._vote(page)
        pages = [*self._former, *self._pages.items()]
        names = {site: votes.most_common(1)[0][0] for site, votes in self._votes.items()}
        for site in sorted(self._sites - names.keys()):
            of_size = [row.name for row in caches.values() if row.objsize == site[2]]
            called_so = [name for name in of_size if name in site[0]]  # as vmap_area by alloc_vmap_area()
            if len(of_size) == 1 or len(called_so) == 1:
                names[site] = (called_so or of_size)[0]
        heads: dict[int, str] = {}
        for frame, page in pages:
            page.name = page.name or next((names[site] for site in sorted(page.sites) if site in names), "")
            if page.before and page.name in caches:
                heads[frame >> caches[page.name].order << caches[page.name].order] = page.name
        for frame, page in pages:
            for order in range(1, 4) if page.before and not page.name else ():
                name = heads.get(frame >> order << order, "")
                if name and caches[name].order >= order:
                    page.name = name  # another page of a slab that is known
        return names

    def slabs(self, caches: Mapping[str, SlabinfoRow]) -> dict[str, list[KnownSlab]]:
        """Slabs that existed before, by cache; those that the trace names first come first."""
        grouped: dict[str, dict[int, dict[int, int]]] = {}
        for frame, page in (*self._former, *self._pages.items()):
            if page.before and (row := caches.get(page.name)) is not None:
                head = frame >> row.order << row.order
                grouped.setdefault(page.name, {}).setdefault(head, {}).update(page.first)
        return {
            name: [self._known(head, objects, caches[name]) for head, objects in heads.items()]
            for name, heads in grouped.items()
        }

    def _known(self, head: int, objects: Mapping[int, int], row: SlabinfoRow) -> KnownSlab:
        base = self._address(head)
        free = []
        cpu = -1
        for pointer, first in objects.items():
            number, rest = divmod(pointer - base, row.objsize)
            if first >= 0 and not rest and number < row.objperslab:
                free.append(number)
                cpu = first if cpu < 0 else cpu
        return KnownSlab(head, tuple(sorted(free)), cpu)

    def objects(self, caches: Mapping[str, SlabinfoRow]) -> dict[int, str]:
        """Objects that were in use before and are freed, by pointer: the name of their cache."""
        if not self.page_offset:
            return {pointer: name for pointer, (name, before) in self._hashed.items() if before and name in caches}
        return {
            pointer: page.name
            for _, page in (*self._former, *self._pages.items())
            if page.before and page.name in caches
            for pointer, first in page.first.items()
            if first < 0
        }

    @property
    def slab_frees(self) -> set[int]:
        """First frames of slabs that existed before and are given back."""
        return self._slab_frees


def _is_large(pages: list[_Page], address: int) -> bool:
    """Whether what lies in freed pages is one large kmalloc, not a slab: a single object, at their beginning."""
    objects = {pointer for page in pages for pointer in page.first}
    return objects == {address} and not any(page.name or page.sites for page in pages)
