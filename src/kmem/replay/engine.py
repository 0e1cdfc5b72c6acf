# SPDX-License-Identifier: GPL-2.0-only
"""The replay loop: every request of a trace, made to the model.

A trace says what was asked (size, cache, gfp, order, CPU) and what the
recorded kernel answered (a pointer or a frame).  The engine asks the model
the same and keeps which of the model's objects stands for which of the
trace's, so that a later free finds it.  The recorded answer steers nothing:
it is a name.

Three things a trace does not say outright are worked out here.

*Which cache.*  Kernels before 6.6 name the cache only when an object is
freed.  The first time that happens to an object of a call site, the site's
requests of that size are bound to that cache.

*Which pages belong to slabs.*  A slab's pages appear in the trace as a page
allocation of their own just before the object that needed them.  The model
makes its own slabs, so such a page allocation must not be made a second time:
one that looks like SLUB's (``__GFP_NORETRY|__GFP_NOWARN``) or like a large
kmalloc's (``__GFP_COMP``) waits for the next few events of its CPU, and is
dropped if one of them is an object within it.

*What was lost.*  A free of something never seen was allocated before the
trace; a second allocation at a live pointer means that a free was lost (or,
with hashed pointers, that two objects share a hash): the old one is freed.
Both are counted.  Of pages, a lost free is noticed when the same first frame
is handed out again.
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.page import MAX_ORDER, PGF_HEAD, Page
from cython.cimports.kmem.mm.page_alloc import PageAllocator
from cython.cimports.kmem.mm.slub import Slub
from cython.cimports.kmem.trace.scan_columns import (
    EF_FAILED,
    EF_NO_POINTER,
    EV_KFREE,
    EV_KMALLOC,
    EV_KMALLOC_NODE,
    EV_KMEM_CACHE_ALLOC_NODE,
    EV_KMEM_CACHE_FREE,
    EV_MM_PAGE_ALLOC,
    EV_MM_PAGE_FREE,
)
from cython.cimports.libc.stdint import int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

ENTRY_DTYPE = np.dtype(
    [
        ("key", "u8"),
        ("target", "u8"),
        ("bytes_req", "u4"),
        ("bytes_alloc", "u4"),
        ("site", "u4"),
        ("cache", "u2"),
        ("kind", "u1"),
        ("order", "u1"),
    ],
)

USAGE_DTYPE = np.dtype(
    [
        (name, "u8")
        for name in (
            "allocs",
            "frees",
            "failures",
            "bytes_req",
            "bytes_alloc",
            "live",
            "live_req",
            "live_alloc",
            "peak",
            "peak_alloc",
            "cross_cpu_frees",
        )
    ]
)

BINDING_DTYPE = np.dtype([("bytes_req", "u4"), ("bytes_alloc", "u4"), ("cache", "u4")])

_CANDIDATE_DTYPE = np.dtype(
    [
        ("pfn", "u8"),
        ("time_ns", "i8"),
        ("gfp", "u4"),
        ("pid", "i4"),
        ("order", "u1"),
        ("patience", "u1"),
        ("failed", "u1"),
    ],
    align=True,
)
CPU_STATE_DTYPE = np.dtype([("last_pfn", "u8"), ("last_order", "u4"), ("waiting", "u4"), ("base", "u4")], align=True)

#: "No cache" and "no name" in the tables of this module.
UNBOUND = 0xFFFF
UNNAMED = 0
ZERO_SIZE_PTR = cython.declare(uint64_t, 16)

_NULL = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
_ZERO_SIZE = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFE)
_NO_FRAME = cython.declare(uint32_t, 0xFFFFFFFF)
_NO_PFN = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
_UNBOUND = cython.declare(uint32_t, UNBOUND)
_UNNAMED = cython.declare(uint32_t, UNNAMED)
_GFP_MOVABLE = cython.declare(uint32_t, 0x08)
_GFP_NOWARN_NORETRY = cython.declare(uint32_t, 0x12000)
_GFP_NOFAIL = cython.declare(uint32_t, 0x8000)
_GFP_COMP = cython.declare(uint32_t, 0x40000)
_MOST_BYTES = cython.declare(uint64_t, 0xFFFFFFFF)
_PATIENCE = cython.declare(uint8_t, 8)
_CPU_SHIFT = cython.declare(cython.int, 48)
_TARGET_MASK = cython.declare(uint64_t, (1 << 48) - 1)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # the multiplication is meant to wrap
def hash_key(key: uint64_t) -> uint64_t:
    return (key * cython.cast(uint64_t, 0x9E3779B97F4A7C15)) >> 20


@cython.final
@cython.cclass
class LiveTable:
    """Live objects by their pointer in the trace: an open-addressing table.

    Parameters
    ----------
    size : int, optional
        Slots to begin with, a power of two; 32 bytes each.

    Attributes
    ----------
    count : int
        Live entries.

    Notes
    -----
    Allocators give the same addresses out again and again, so a removed entry
    keeps its key and waits for it.  When five eighths of the slots have a key
    the table is made anew without those that wait, and larger if most are
    live: memory follows the live set, not the trace's length.
    """

    def __init__(self, size: int = 1 << 14):
        self.array = _aligned(size)
        self.entries = self.array
        self.mask = size - 1
        self.count = 0
        self.used = 0

    def find(self, key):
        """The entry of `key`: a live one, or else the one that it would take."""
        i: uint64_t = hash_key(key) & self.mask
        while self.entries[i].kind != EMPTY and self.entries[i].key != key:
            i = (i + 1) & self.mask
        return cython.address(self.entries[i])

    def find_room(self, key):
        """The same, with room made for one more entry: it may be taken."""
        if self.used * 8 >= self.mask * 5:
            self.grow()
        return self.find(key)

    def take(self, entry, key, kind):
        """Make an entry that is not live that of `key`."""
        self.used += entry.kind == EMPTY
        self.count += 1
        entry.key = key
        entry.kind = kind
        return 0

    def remove(self, entry):
        """Make an entry wait for its key to come again."""
        entry.kind = GONE
        self.count -= 1
        return 0

    def grow(self):
        """Make the table anew without the entries that are gone, larger if it has to be."""
        old = self.array
        i: uint64_t
        j: uint64_t
        before: Entry[::1] = old
        size = len(old)
        if self.count * 8 >= size * 3:
            size *= 2 if size >= 1 << 18 else 4
        self.array = _aligned(size)
        self.entries = self.array
        self.mask = size - 1
        self.look_here(self.look)
        self.used = self.count
        for i in range(before.shape[0]):
            if before[i].kind >= OBJECT:
                j = hash_key(before[i].key) & self.mask
                while self.entries[j].kind != EMPTY:
                    j = (j + 1) & self.mask
                self.entries[j] = before[i]
        return 0

    def look_here(self, look):
        """Keep `look` pointing at the entries, wherever they move."""
        self.look = look
        if look != cython.NULL:
            look.entries = cython.address(self.entries[0])
            look.mask = self.mask
        return 0

    def live(self):
        """The entries in use, as a NumPy array of dtype :data:`ENTRY_DTYPE`, in the order of their keys."""
        taken = self.array[np.isin(self.array["kind"], (OBJECT, PAGES, SLAB_PAGES))]
        return taken[np.argsort(taken["key"], kind="stable")]


@cython.cfunc
@cython.inline
@cython.exceptval(-1)
def count_live(usage: cython.pointer(Usage), bytes_req: uint64_t, bytes_alloc: uint64_t) -> cython.int:
    """Count what is live, whether the trace asked for it or had it before."""
    usage.live += 1
    usage.live_req += bytes_req
    usage.live_alloc += bytes_alloc
    if usage.live > usage.peak:
        usage.peak = usage.live
    if usage.live_alloc > usage.peak_alloc:
        usage.peak_alloc = usage.live_alloc
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(-1)
def count_alloc(usage: cython.pointer(Usage), bytes_req: uint64_t, bytes_alloc: uint64_t) -> cython.int:
    usage.allocs += 1
    usage.bytes_req += bytes_req
    usage.bytes_alloc += bytes_alloc
    return count_live(usage, bytes_req, bytes_alloc)


@cython.cfunc
@cython.inline
@cython.exceptval(-1)
def count_free(usage: cython.pointer(Usage), bytes_req: uint64_t, bytes_alloc: uint64_t) -> cython.int:
    usage.frees += 1
    usage.live -= 1
    usage.live_req -= bytes_req
    usage.live_alloc -= bytes_alloc
    return 0


@cython.final
@cython.cclass
class ReplayEngine:
    """Drives a model with the events of a trace.

    Parameters
    ----------
    allocator : kmem.mm.page_alloc.PageAllocator
    slub : kmem.mm.slub.Slub
        The machine to drive, with its kmalloc caches set up.
    cold : object
        What to do when a rare thing happens: ``new_cache(site, bytes_req,
        bytes_alloc, name)``, ``name_cache(engine, cache, name, site,
        bytes_req, bytes_alloc)`` return a cache index; ``failure(engine,
        kind, order, size, gfp, site, cache)`` takes note of a refused request.
    page_offset : int, optional
        Address of frame 0 in the direct map if the trace has real pointers,
        0 if they are hashed.
    nr_cpus : int
        CPUs of the machine; CPU numbers of the trace beyond it wrap around.

    Notes
    -----
    Constant time for each event, apart from what the model itself needs.
    """

    def __init__(self, allocator: PageAllocator, slub: Slub, cold, page_offset: int = 0):
        self.allocator = allocator
        self.slub = slub
        self.cold = cold
        self.page_offset = page_offset
        self.objects = LiveTable()
        self.blocks = LiveTable()
        self.objects.look_here(cython.address(self.look[0]))
        self.blocks.look_here(cython.address(self.look[1]))
        self.nr_cpus = allocator.nr_cpus
        self.cpus_array = np.zeros(self.nr_cpus, CPU_STATE_DTYPE)
        self.cpus_array["last_pfn"] = _NO_PFN
        self.cpus_array["base"] = np.arange(self.nr_cpus) * 4
        self.cpus = self.cpus_array
        self.candidates_array = np.zeros(self.nr_cpus * 4, _CANDIDATE_DTYPE)
        self.candidates = self.candidates_array
        self.orders_array = np.zeros(MAX_ORDER * 4, USAGE_DTYPE)
        self.orders = self.orders_array
        self.sites_array = np.zeros(0, USAGE_DTYPE)
        self.name_caches_array = np.zeros(0, np.uint32)
        self.caches_array = np.zeros(0, USAGE_DTYPE)
        self.cache_names_array = np.zeros(0, np.uint32)
        self.reserve(1, 1, 1)

    def reserve(self, sites: int, names: int, caches: int) -> None:
        """Make room for so many call sites, cache names and caches."""
        if sites > len(self.sites_array):
            self.sites_array = _grown(self.sites_array, sites, 0)
            self.sites = self.sites_array
            bindings = np.zeros(len(self.sites_array), BINDING_DTYPE)
            bindings["cache"] = UNBOUND
            if self.bindings_array is not None:
                bindings[: len(self.bindings_array)] = self.bindings_array
            self.bindings_array = bindings
            self.bindings = bindings
        if names > len(self.name_caches_array):
            self.name_caches_array = _grown(self.name_caches_array, names, UNBOUND)
            self.name_caches = self.name_caches_array
        if caches > len(self.caches_array):
            self.caches_array = _grown(self.caches_array, caches, 0)
            self.caches = self.caches_array
            self.cache_names_array = _grown(self.cache_names_array, caches, UNNAMED)
            self.cache_names = self.cache_names_array

    def feed(self, batch, start: cython.Py_ssize_t, stop: cython.Py_ssize_t) -> None:
        """Replay the events `start` to `stop` of a batch.

        Parameters
        ----------
        batch : kmem.trace.events.EventBatch
            Events; its codes index what :meth:`reserve` made room for.
        start, stop : int
            Rows of the batch.
        """
        time_ns: int64_t[::1] = batch.time_ns
        target: uint64_t[::1] = batch.target
        bytes_req: uint64_t[::1] = batch.bytes_req
        bytes_alloc: uint64_t[::1] = batch.bytes_alloc
        pid: int32_t[::1] = batch.pid
        cache: uint32_t[::1] = batch.cache
        call_site: uint32_t[::1] = batch.call_site
        gfp: uint32_t[::1] = batch.gfp
        cpu: uint16_t[::1] = batch.cpu
        flags: uint16_t[::1] = batch.flags
        node: int16_t[::1] = batch.node
        event: uint8_t[::1] = batch.event
        order: uint8_t[::1] = batch.order
        i: cython.Py_ssize_t
        e: cython.uint
        here: cython.uint
        entry: cython.pointer(Entry)
        pages: Page[::1] = self.slub.pages
        c: cython.pointer(CpuState)
        failed: cython.bint
        wish: cython.int
        allocator: PageAllocator = self.allocator
        nr_cpus: cython.uint = self.nr_cpus
        nr_nodes: cython.int = allocator.nr_nodes
        # What is live, and the pages it stands for, is scattered over memory: fetch it some events ahead.
        for i in range(start, stop):
            if i + FAR < stop:
                prefetch(self.slot_of(event[i + FAR], target[i + FAR]))
                entry = self.slot_of(event[i + NEAR], target[i + NEAR])
                prefetch(cython.address(pages[(entry.target & _TARGET_MASK) >> 12]))
            e = event[i]
            here = cpu[i]
            if here >= nr_cpus:
                here %= nr_cpus
            allocator.cpu = here
            self.time_ns = time_ns[i]
            c = cython.address(self.cpus[here])
            if e == EV_KFREE or e == EV_KMEM_CACHE_FREE:
                if c.waiting:
                    self.settle(c, False)
                self.release(target[i], cache[i])
            elif EV_KMALLOC <= e <= EV_KMEM_CACHE_ALLOC_NODE:
                failed = (flags[i] & (EF_FAILED | EF_NO_POINTER)) != 0
                if (c.waiting or c.last_pfn != _NO_PFN) and not failed:
                    self.claim_pages(c, target[i], bytes_alloc[i], pid[i])
                wish = node[i]
                if wish >= nr_nodes:
                    wish = -1
                self.allocate(e, target[i], bytes_req[i], bytes_alloc[i], gfp[i], call_site[i], cache[i], wish, failed)
            elif e == EV_MM_PAGE_ALLOC:
                if c.waiting:
                    self.settle(c, False)
                self.page_event(c, target[i], order[i], gfp[i], pid[i], (flags[i] & EF_FAILED) != 0)
            elif e == EV_MM_PAGE_FREE:
                if c.waiting:
                    self.settle(c, False)
                self.release_pages(target[i], order[i])
        self.nr_events += stop - start

    def slot_of(self, event, key):
        """Where the search for the object or block of an event begins."""
        # an index and not a condition: the CPU could not foresee which table it is
        table: cython.pointer(Look) = cython.address(self.look[event > EV_KMEM_CACHE_FREE])
        return table.entries + (hash_key(key) & table.mask)

    def finish(self) -> None:
        """Carry out what still waits, at the end of the trace."""
        here: cython.int
        for here in range(self.nr_cpus):
            self.allocator.cpu = here
            self.settle(cython.address(self.cpus[here]), True)

    # -- what there was before the trace --------------------------------------

    def adopt_object(self, key: uint64_t, address: uint64_t, cache: uint32_t, size: uint64_t) -> None:
        """Let a pointer of the trace stand for an object of the model that is in use already.

        Parameters
        ----------
        key, address : int
            Pointer in the trace, and physical address in the model.
        cache : int
            The object's cache.
        size : int
            Bytes that it takes.
        """
        entry: cython.pointer(Entry) = self.objects.find_room(key)
        if entry.kind >= OBJECT:
            return
        self.reserve(0, 0, cache + 1)
        self.objects.take(entry, key, OBJECT)
        entry.target = address | cython.cast(uint64_t, self.allocator.cpu) << _CPU_SHIFT
        entry.bytes_req = size
        entry.bytes_alloc = size
        entry.site = 0
        entry.cache = cache
        count_live(cython.address(self.sites[0]), size, size)
        count_live(cython.address(self.caches[cache]), size, size)

    def adopt_block(self, key: uint64_t, pfn: uint32_t, order: uint32_t) -> None:
        """Let a frame of the trace stand for an allocated block of the model."""
        size: uint64_t = cython.cast(uint64_t, 4096) << order
        entry: cython.pointer(Entry) = self.take_block(key, PAGES, order)
        entry.target = cython.cast(uint64_t, pfn) << 12
        entry.cache = 0
        count_live(cython.address(self.orders[order * 4]), size, size)

    def rename_block(self, key: uint64_t, new: uint64_t) -> bool:
        """Let another frame of the trace stand for a single page of the model; False if the first stands for none."""
        entry: cython.pointer(Entry) = self.blocks.find(key)
        saved: Entry = entry[0]
        if saved.kind != PAGES or saved.order != 0:
            return False
        self.blocks.remove(entry)
        entry = self.take_block(new, PAGES, 0)
        entry.target = saved.target
        entry.cache = saved.cache
        return True

    def adopt_slab(self, key: uint64_t, order: uint32_t) -> None:
        """Take frames of the trace for a slab's, for which the model has one of its own."""
        self.take_block(key, SLAB_PAGES, order)

    # -- objects ------------------------------------------------------------

    def find_cache(self, site, bytes_req, bytes_alloc, name):
        """The cache that a request goes to; a new one if nothing is known of it yet."""
        binding: cython.pointer(Binding)
        cache: uint32_t
        if name != _UNNAMED:
            cache = self.name_caches[name]
            if cache != _UNBOUND:
                return cache
        else:
            binding = cython.address(self.bindings[site])
            if binding.cache != _UNBOUND and binding.bytes_req == bytes_req and binding.bytes_alloc == bytes_alloc:
                return binding.cache
        cache = self.cold.new_cache(self, site, bytes_req, bytes_alloc, name)
        self.reserve(0, 0, cache + 1)
        if name != _UNNAMED:
            self.name_caches[name] = cache
            self.cache_names[cache] = name
        else:
            binding = cython.address(self.bindings[site])
            binding.bytes_req = bytes_req
            binding.bytes_alloc = bytes_alloc
            binding.cache = cache
        return cache

    def allocate(self, kind, key, bytes_req, bytes_alloc, gfp, site, name, node, failed):
        entry: cython.pointer(Entry)
        address: uint64_t
        cache: uint32_t = _UNBOUND
        self.nr_requests += 1
        self.nr_failed_in_trace += failed
        # damaged sizes; what is counted at the allocation must be counted at the free
        if bytes_req > _MOST_BYTES:
            bytes_req = _MOST_BYTES
        if bytes_alloc > _MOST_BYTES:
            bytes_alloc = _MOST_BYTES
        gfp &= ~_GFP_NOFAIL  # nothing here could wait for memory
        if kind <= EV_KMALLOC_NODE:
            address = self.slub.kmalloc_node(bytes_req, gfp, node)
            cache = self.slub.kmalloc_cache
        else:
            cache = self.find_cache(site, bytes_req, bytes_alloc, name)
            address = self.slub.cache_alloc(cache, gfp, node)
        if address == _NULL:
            self.failed_node = node
            self.failure(kind, 0, bytes_req, gfp, site, cache)
            if failed:
                return 0
            entry = self.objects.find_room(key)
            if entry.kind >= OBJECT:
                self.nr_double_allocations += 1
                self.free_entry(entry)
            self.objects.take(entry, key, REFUSED)  # its free will come, and is not unknown
            entry.cache = _UNBOUND
            entry.site = site
            return 0
        if address == _ZERO_SIZE:
            return 0
        if failed:  # the real kernel had none; what the model gave has no one to free it
            return self.slub.kfree_object(address)
        entry = self.objects.find_room(key)
        if entry.kind >= OBJECT:
            self.nr_double_allocations += 1
            self.free_entry(entry)
        self.objects.take(entry, key, OBJECT)
        entry.target = address | cython.cast(uint64_t, self.allocator.cpu) << _CPU_SHIFT
        entry.bytes_req = bytes_req
        entry.bytes_alloc = bytes_alloc
        entry.site = site
        entry.cache = cache
        count_alloc(cython.address(self.sites[site]), bytes_req, bytes_alloc)
        if cache != _UNBOUND:
            if cache >= cython.cast(uint32_t, self.caches.shape[0]):
                self.reserve(0, 0, cache + 1)
            count_alloc(cython.address(self.caches[cache]), bytes_req, bytes_alloc)
        return 0

    def free_entry(self, entry):
        """Free an object in the model and forget it."""
        address: uint64_t = entry.target & _TARGET_MASK
        if entry.kind == REFUSED:
            return self.objects.remove(entry)
        count_free(cython.address(self.sites[entry.site]), entry.bytes_req, entry.bytes_alloc)
        if entry.cache != _UNBOUND:
            count_free(cython.address(self.caches[entry.cache]), entry.bytes_req, entry.bytes_alloc)
        if entry.target >> _CPU_SHIFT != cython.cast(uint64_t, self.allocator.cpu):
            self.sites[entry.site].cross_cpu_frees += 1
        self.objects.remove(entry)
        return self.slub.kfree_object(address)

    def release(self, key, name):
        """An object of the trace is freed."""
        entry: cython.pointer(Entry)
        cache: uint32_t
        if key <= ZERO_SIZE_PTR:
            return 0  # kfree(NULL), or of what a request of no bytes got
        entry = self.objects.find(key)
        self.nr_frees += 1
        if entry.kind < OBJECT:
            self.nr_unknown_frees += 1
            return 0
        if name != _UNNAMED and entry.cache != _UNBOUND and self.cache_names[entry.cache] != name:
            cache = self.cold.name_cache(self, entry.cache, name, entry.site, entry.bytes_req, entry.bytes_alloc)
            self.reserve(0, 0, cache + 1)
            self.cache_names[cache] = name
            self.name_caches[name] = cache
            if self.bindings[entry.site].cache == entry.cache:
                self.bindings[entry.site].cache = cache
        return self.free_entry(entry)

    # -- pages --------------------------------------------------------------

    def page_event(self, c, pfn, order, gfp, pid, failed):
        """A page allocation of the trace: carried out, or kept waiting if it may be a slab's."""
        candidate: cython.pointer(Candidate)
        slab_like: cython.bint = (gfp & _GFP_NOWARN_NORETRY) == _GFP_NOWARN_NORETRY and not gfp & _GFP_MOVABLE
        if order >= MAX_ORDER:
            return 0
        if slab_like or (order >= 2 and gfp & _GFP_COMP and not gfp & _GFP_MOVABLE):
            if c.waiting == 4:
                candidate = cython.address(self.candidates[c.base + 0])
                self.allocate_pages(candidate.pfn, candidate.order, candidate.gfp, candidate.failed)
                self.drop_candidate(c, 0)
            candidate = cython.address(self.candidates[c.base + c.waiting])
            c.waiting += 1
            candidate.pfn = pfn
            candidate.order = order
            candidate.gfp = gfp
            candidate.pid = pid
            candidate.time_ns = self.time_ns
            candidate.patience = _PATIENCE
            candidate.failed = failed
            return 0
        c.last_pfn = pfn if not failed else _NO_PFN
        c.last_order = order
        return self.allocate_pages(pfn, order, gfp, failed)

    def drop_candidate(self, c, index):
        i: uint32_t
        c.waiting -= 1
        for i in range(index, c.waiting):
            self.candidates[c.base + i] = self.candidates[c.base + i + 1]
        return 0

    def settle(self, c, all):
        """Carry out the page allocations that have waited long enough."""
        i: uint32_t = 0
        candidate: Candidate
        while i < c.waiting:
            if self.candidates[c.base + i].patience and not all:
                self.candidates[c.base + i].patience -= 1
                i += 1
                continue
            candidate = self.candidates[c.base + i]
            self.drop_candidate(c, i)
            self.allocate_pages(candidate.pfn, candidate.order, candidate.gfp, candidate.failed)
        return 0

    def claim_pages(self, c, key, bytes_alloc, pid):
        """An object was allocated: pages that it lies in belong to its slab.

        With hashed pointers the youngest waiting allocation of the same task
        is taken to be the slab's.
        """
        i: uint32_t = c.waiting
        pfn: uint64_t = _NO_PFN
        first: uint64_t
        entry: cython.pointer(Entry)
        usage: cython.pointer(Usage)
        mine: cython.bint
        if self.page_offset:
            if key < self.page_offset:
                return 0
            pfn = (key - self.page_offset) >> 12
        while i > 0:
            i -= 1
            if self.page_offset:
                first = self.candidates[c.base + i].pfn
                mine = first <= pfn < first + (cython.cast(uint64_t, 1) << self.candidates[c.base + i].order)
            else:
                mine = self.candidates[c.base + i].pid == pid
            if mine and not self.candidates[c.base + i].failed:
                self.take_block(self.candidates[c.base + i].pfn, SLAB_PAGES, self.candidates[c.base + i].order)
                self.nr_slab_pages += 1
                self.drop_candidate(c, i)
                self.settle(c, False)
                return 0
        if c.waiting:
            self.settle(c, False)
        if self.page_offset and c.last_pfn <= pfn < c.last_pfn + (cython.cast(uint64_t, 1) << c.last_order):
            # SLUB's second try, for its smallest order, carries the caller's own flags
            entry = self.blocks.find(c.last_pfn)
            if entry.kind == PAGES:
                # never a request of its own: as if it had not been made, but for the peaks
                self.nr_requests -= 1
                usage = cython.address(self.orders[entry.order * 4 + entry.cache])
                self.free_block(entry)
                usage.allocs -= 1
                usage.frees -= 1
                usage.bytes_req -= cython.cast(uint64_t, 4096) << c.last_order
                usage.bytes_alloc -= cython.cast(uint64_t, 4096) << c.last_order
                self.blocks.take(entry, c.last_pfn, SLAB_PAGES)
                entry.order = c.last_order
                self.nr_slab_pages += 1
        c.last_pfn = _NO_PFN
        return 0

    def allocate_pages(self, pfn, order, gfp, failed):
        got: uint32_t
        entry: cython.pointer(Entry)
        usage: cython.pointer(Usage)
        size: uint64_t = cython.cast(uint64_t, 4096) << order
        self.nr_requests += 1
        self.nr_failed_in_trace += failed
        if (gfp >> 3) & 3 == 3:
            gfp &= ~_GFP_MOVABLE  # contradictory: no kernel asks for both
        usage = cython.address(self.orders[order * 4 + ((gfp >> 3) & 3)])
        got = self.allocator.alloc_pages_node(-1, gfp & ~_GFP_NOFAIL, order)
        if got == _NO_FRAME:
            usage.failures += 1
            self.failed_node = -1
            self.failure(EV_MM_PAGE_ALLOC, order, size, gfp, 0, _UNBOUND)
            if failed:
                return 0
            self.take_block(pfn, SLAB_PAGES, order)
            return 0
        if failed:
            return self.allocator.free_pages_order(got, order)
        entry = self.take_block(pfn, PAGES, order)
        entry.target = cython.cast(uint64_t, got) << 12
        entry.cache = (gfp >> 3) & 3
        count_alloc(usage, size, size)
        return 0

    def take_block(self, pfn, kind, order):
        """A live entry for a block of the trace; one that is live already lost its free, and is freed."""
        entry: cython.pointer(Entry) = self.blocks.find_room(pfn)
        if entry.kind >= OBJECT:
            self.nr_double_allocations += entry.kind == PAGES
            self.free_block(entry)
        self.blocks.take(entry, pfn, kind)
        entry.order = order
        return entry

    def free_block(self, entry):
        """Free a block in the model, unless it is a slab's, and forget it."""
        pfn: uint32_t = cython.cast(uint32_t, entry.target >> 12)
        order: uint32_t = entry.order
        kind: uint32_t = entry.kind
        size: uint64_t = cython.cast(uint64_t, 4096) << order
        if kind == PAGES:
            count_free(cython.address(self.orders[order * 4 + entry.cache]), size, size)
        self.blocks.remove(entry)
        if kind == PAGES:
            return self.allocator.free_pages_order(pfn, order)
        return 0

    def split_block(self, pfn, order):
        """Make a live block of the trace single pages, as split_page() or a split huge page would."""
        entry: cython.pointer(Entry) = self.blocks.find(pfn)
        saved: Entry = entry[0]
        size: uint64_t = cython.cast(uint64_t, 4096) << saved.order
        first: uint32_t = cython.cast(uint32_t, saved.target >> 12)
        i: uint64_t
        count_free(cython.address(self.orders[saved.order * 4 + saved.cache]), size, size)
        self.blocks.remove(entry)
        self.allocator.pages[first].flags &= ~PGF_HEAD
        self.allocator.split_page(first, saved.order)
        for i in range(cython.cast(uint64_t, 1) << saved.order):
            entry = self.take_block(pfn + i, PAGES, 0)
            entry.target = (first + i) << 12
            entry.cache = saved.cache
            count_alloc(cython.address(self.orders[saved.cache]), 4096, 4096)
        return 0

    def release_pages(self, pfn, order):
        """Pages of the trace are freed, as they were allocated or in part."""
        entry: cython.pointer(Entry) = self.blocks.find(pfn)
        i: uint64_t
        o: uint32_t
        here: cython.int
        back: cython.int
        c: cython.pointer(CpuState)
        self.nr_frees += 1
        if order >= MAX_ORDER:
            self.nr_unknown_page_frees += 1
            return 0
        if entry.kind < OBJECT:
            for here in range(self.nr_cpus):  # allocated a moment ago, and still waiting?
                c = cython.address(self.cpus[here])
                for o in range(c.waiting):
                    if self.candidates[c.base + o].pfn == pfn:
                        back = self.allocator.cpu
                        self.allocator.cpu = here  # made where it was asked for
                        self.settle(c, True)
                        self.allocator.cpu = back
                        if self.blocks.find(pfn).kind < OBJECT:
                            return 0
                        self.nr_frees -= 1  # counted again
                        return self.release_pages(pfn, order)
            for o in range(order + 1, MAX_ORDER):
                entry = self.blocks.find(pfn & ~((cython.cast(uint64_t, 1) << o) - 1))
                if entry.kind >= OBJECT and entry.order >= o:
                    break
            else:
                self.nr_unknown_page_frees += 1
                return 0
        if entry.kind == PAGES and entry.order != order:
            if entry.order > order:
                self.split_block(entry.key, order)
            for i in range(cython.cast(uint64_t, 1) << order):
                entry = self.blocks.find(pfn + i)
                if entry.kind == PAGES:
                    self.free_block(entry)
            return 0
        return self.free_block(entry)

    # -- failures -----------------------------------------------------------

    def failure(self, kind, order, size, gfp, site, cache):
        self.nr_failures += 1
        if kind != EV_MM_PAGE_ALLOC:
            self.sites[site].failures += 1
            if cache != _UNBOUND and cache < cython.cast(uint32_t, self.caches.shape[0]):
                self.caches[cache].failures += 1
        self.cold.failure(self, kind, order, size, gfp, site, cache)
        return 0


def _aligned(size):
    """Empty entries, none of which crosses a cache line."""
    raw = np.zeros(size * ENTRY_DTYPE.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * ENTRY_DTYPE.itemsize].view(ENTRY_DTYPE)


def _grown(array, size, fill):
    """A copy of `array` with room for at least `size` entries, doubled."""
    bigger = np.full(max(size, 2 * len(array), 64), fill, array.dtype)
    bigger[: len(array)] = array
    return bigger
