# SPDX-License-Identifier: GPL-2.0-only
"""Counting who allocates what, event by event.

One pass over the batches of a trace fills a few tables: allocations of one
sort (call site, size, cache) in *groups*, threads, page requests by order,
migrate type and flags, and what is live by its address.  Everything that
``kmem stat`` shows is put together from these at the end, so the pass costs a
hash lookup for the object and rarely more.

An object that is allocated where one is live already means that its free was
lost: the old one is dropped, and counted.  A free of what is not live is
counted as such and changes nothing else.
"""

import cython
import numpy as np
from cython.cimports.kmem.trace.scan_columns import (
    EF_CHANGE_OWNERSHIP,
    EF_FAILED,
    EF_NO_POINTER,
    EV_KFREE,
    EV_KMALLOC_NODE,
    EV_KMEM_CACHE_ALLOC_NODE,
    EV_KMEM_CACHE_FREE,
    EV_LOST,
    EV_MM_PAGE_ALLOC,
    EV_MM_PAGE_ALLOC_EXTFRAG,
    EV_MM_PAGE_FREE,
    spread,
)
from cython.cimports.libc.stdint import int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, realloc
from cython.cimports.libc.string import memcpy, memset

GROUP_DTYPE = np.dtype(
    [("size", "u8"), ("site", "u4"), ("cache", "u4"), ("named", "u4"), ("kind", "u1"), ("flavour", "u1")]
    + [("spare", "u2")]
    + [(name, "u8") for name in ("hits", "failed", "bytes_req", "bytes_alloc")]
    + [(name, "u8") for name in ("frees", "bytes_freed", "pingpong", "cross_node")]
)
TASK_DTYPE = np.dtype(
    [("pid", "i4"), ("comm", "u4")]
    + [(name, "u8") for name in ("hits", "failed", "bytes_req", "bytes_alloc", "frees", "bytes_freed")]
    + [(name, "u8") for name in ("page_hits", "page_bytes", "page_frees")]
)
PAGE_GROUP_DTYPE = np.dtype(
    [("gfp_text", "u4"), ("gfp", "u4"), ("order", "u1"), ("migratetype", "i1"), ("spare", "u2"), ("pad", "u4")]
    + [(name, "u8") for name in ("hits", "failed", "frees", "bytes_freed")]
)
OBJECT_DTYPE = np.dtype(
    [("key", "u8"), ("bytes_req", "u8"), ("time_ns", "i8"), ("group", "u4"), ("task", "u4"), ("stack", "u4")]
    + [("cpu", "u2"), ("order", "u1"), ("used", "u1")]
)
ADDRESS_DTYPE = np.dtype(
    [(name, "u8") for name in ("key", "hits", "bytes_req", "bytes_alloc", "pingpong")]
    + [("site", "u4"), ("used", "u4")]
)

LIFE_DTYPE = np.dtype([("total_ns", "u8"), ("max_ns", "u8"), ("classes", "u8", (NR_LIFE,))])

STEPS = NR_BUCKETS  #: of the timeline
LIFE_CLASSES = NR_LIFE  #: of lifetimes: four to a power of two
MOST_LIVES = 1 << 16  #: call sites whose objects' lifetimes are counted
FIRST_BUCKET_NS = 1 << 20
GFP_DMA = cython.declare(uint32_t, 0x01)
GFP_RECLAIMABLE = cython.declare(uint32_t, 0x10)
GFP_ACCOUNT = cython.declare(uint32_t, 0x400000)
MOST_LIFE_SITES = cython.declare(uint32_t, MOST_LIVES)
MOST_GROUPS = cython.declare(uint32_t, 1 << 20)
PAGE_SHIFT = cython.declare(uint32_t, 12)
AHEAD = cython.declare(cython.int, 12)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # bits that are shifted out are not needed
def group_key(site: uint64_t, cache: uint64_t, size: uint64_t, kind: uint64_t, flavour: uint64_t) -> uint64_t:
    """A hash of what makes a group."""
    return spread(site ^ (cache << 24) ^ (size << 40) ^ ((flavour * 4 + kind) << 60))


@cython.ccall
@cython.nogil
@cython.exceptval(check=False)
def life_class(lifetime_ns: int64_t) -> cython.int:
    """The class of a lifetime: below four nanoseconds each its own, then four to a power of two."""
    ns: uint64_t
    power: cython.int
    if lifetime_ns < 4:
        return cython.cast(cython.int, max(lifetime_ns, 0))
    ns = lifetime_ns
    power = 63 - __builtin_clzll(ns)
    return min((power - 1) * 4 + cython.cast(cython.int, (ns >> (power - 2)) & 3), NR_LIFE - 1)


@cython.cclass
class LiveTable:
    """What is live, by address or frame: open addressing, with removal; for compiled callers only."""

    def __cinit__(self):
        self.mask = 4095
        self.count = 0
        self.slots = cython.cast(cython.pointer(Object), calloc(self.mask + 1, cython.sizeof(Object)))
        if self.slots is cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)

    def rows(self):
        """Return a copy of all entries, in order of time and then of address."""
        found = np.empty(self.count, OBJECT_DTYPE)
        i: uint64_t
        n: cython.Py_ssize_t = 0
        into: cython.uchar[::1] = found.view(np.uint8)
        for i in range(self.mask + 1):
            if self.slots[i].used:
                memcpy(cython.address(into[n]), cython.address(self.slots[i]), cython.sizeof(Object))
                n += cython.sizeof(Object)
        return found[np.lexsort((found["key"], found["time_ns"]))]

    @cython.cfunc
    @cython.nogil
    @cython.inline
    @cython.exceptval(check=False)
    def find(self, key: uint64_t) -> cython.pointer(Object):
        """The entry of a key, NULL if there is none."""
        at: uint64_t = spread(key) & self.mask
        while self.slots[at].used:
            if self.slots[at].key == key:
                return cython.address(self.slots[at])
            at = (at + 1) & self.mask
        return cython.NULL

    @cython.cfunc
    @cython.nogil
    @cython.inline
    @cython.exceptval(-1, check=False)
    def reserve(self) -> cython.int:
        """Make room for one more entry."""
        if self.count * 2 > self.mask:
            self.grow()
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.inline
    @cython.exceptval(check=False)
    def add(self, key: uint64_t) -> cython.pointer(Object):
        """An entry for a key that has none; there must be room."""
        at: uint64_t = spread(key) & self.mask
        while self.slots[at].used:
            at = (at + 1) & self.mask
        self.slots[at].key = key
        self.slots[at].used = 1
        self.count += 1
        return cython.address(self.slots[at])

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    @cython.overflowcheck(
        False
    )  # distances around the table wrap; the checks know no difference of pointers to structs
    def remove(self, slot: cython.pointer(Object)) -> cython.int:
        """Remove an entry; those behind it move up, so that no mark has to be left."""
        hole: uint64_t = slot - self.slots
        at: uint64_t = hole
        home: uint64_t
        while True:
            at = (at + 1) & self.mask
            if not self.slots[at].used:
                break
            home = spread(self.slots[at].key) & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.slots[hole] = self.slots[at]
                hole = at
        self.slots[hole].used = 0
        self.count -= 1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def grow(self) -> cython.int:
        """Double the table."""
        old: cython.pointer(Object) = self.slots
        room: uint64_t = self.mask + 1
        slots: cython.pointer(Object) = cython.cast(cython.pointer(Object), calloc(room * 2, cython.sizeof(Object)))
        if slots is cython.NULL:
            with cython.gil:
                raise MemoryError
        i: uint64_t
        at: uint64_t
        self.slots = slots
        self.mask = room * 2 - 1
        for i in range(room):
            if old[i].used:
                at = spread(old[i].key) & self.mask
                while slots[at].used:
                    at = (at + 1) & self.mask
                slots[at] = old[i]
        free(old)
        return 0


@cython.cclass
class StatCounter:
    """All counts of a trace.

    Parameters
    ----------
    node_of_cpu : dict of int to int, optional
        NUMA node by CPU; without it nothing is said about nodes.
    addresses : bool
        Whether to count by address, too; takes memory for each that occurs.
    stacks : bool
        Whether to count by call chain, too.
    lifetimes : bool
        Whether to count how long objects live, by call site.
    first_ns : int, optional
        Where the timeline begins; with the first event, if omitted.

    Attributes
    ----------
    objects, pages : LiveTable
        What is live.
    nodes_known : bool
    first_ns, last_ns : int
        Time of the first and the last event.
    bucket_ns, origin_ns : int
        Length of a step of the timeline, and where it begins.
    events, lost_marks : int
    live_bytes : int
        Of all live objects.
    unknown_frees, null_frees, lost_frees : int
        Frees of what was not live, frees of nothing, objects whose free was lost.
    unknown_page_frees, unknown_page_bytes, lost_page_frees : int
        The same of pages.
    page_frees, page_bytes_freed : int
        All frees of pages.
    freed_pages, freed_page_bytes : int
        Frees of pages that were live.
    fallbacks : dict
        (order, fallback order, migrate type, fallback type, block changed) to count.
    blame : dict
        (call site, task, migrate type, fallback type, stack) to count.

    Notes
    -----
    Time is O(1) per event; memory follows what is live and the number of
    different groups and threads.
    """

    def __cinit__(self, *, node_of_cpu=None, addresses=False, stacks=False, lifetimes=False, first_ns=None):
        self.groups = cython.NULL
        self.tasks = cython.NULL
        self.page_groups = cython.NULL
        self.group_slots = cython.NULL
        self.task_slots = cython.NULL
        self.buckets = cython.NULL
        self.addresses = cython.NULL
        self.lives = cython.NULL
        self.room_lives = 0
        self.room_groups = self.room_tasks = self.room_page_groups = 0
        self.group_mask = self.task_mask = 0
        self.objects = LiveTable()
        self.pages = LiveTable()
        self.keep_addresses = addresses
        self.keep_stacks = stacks
        self.keep_lifetimes = lifetimes
        self.stack_hits = np.zeros(1024, np.uint64)
        self.stack_bytes = np.zeros(1024, np.uint64)
        self.node_of_cpu = np.full(MOST_CPUS + 1, -1, np.int16)
        self.nodes_known = bool(node_of_cpu)
        for cpu, node in (node_of_cpu or {}).items():
            if 0 <= cpu <= MOST_CPUS:
                self.node_of_cpu[cpu] = node
        self.bucket_ns = FIRST_BUCKET_NS
        self.origin_ns = -1 if first_ns is None else first_ns
        self.fallbacks = {}
        self.blame = {}
        self.pending_pid = np.zeros(MOST_CPUS + 1, np.int32)
        self.pending_stack = np.zeros(MOST_CPUS + 1, np.uint32)
        self.pending_types = np.zeros(MOST_CPUS + 1, np.uint16)
        self.last_task = NONE
        if addresses:
            self.address_mask = 4095
            self.addresses = cython.cast(cython.pointer(Address), calloc(4096, cython.sizeof(Address)))
            if self.addresses is cython.NULL:
                raise MemoryError

    def __dealloc__(self):
        free(self.groups)
        free(self.tasks)
        free(self.page_groups)
        free(self.group_slots)
        free(self.task_slots)
        free(self.buckets)
        free(self.addresses)
        free(self.lives)

    def feed(self, batch, wanted=None) -> None:
        """Count the events of a batch.

        Parameters
        ----------
        batch : EventBatch
        wanted : ndarray of bool, optional
            Which allocations to count; a free counts if its allocation did.
        """
        n: cython.Py_ssize_t = len(batch)
        if n == 0:
            return
        event: uint8_t[::1] = batch.event
        time_ns: int64_t[::1] = batch.time_ns
        target: uint64_t[::1] = batch.target
        bytes_req: uint64_t[::1] = batch.bytes_req
        bytes_alloc: uint64_t[::1] = batch.bytes_alloc
        pid: int32_t[::1] = batch.pid
        comm: uint32_t[::1] = batch.comm
        cache: uint32_t[::1] = batch.cache
        call_site: uint32_t[::1] = batch.call_site
        gfp: uint32_t[::1] = batch.gfp
        gfp_text: uint32_t[::1] = batch.gfp_text
        cpu: uint16_t[::1] = batch.cpu
        flags: uint16_t[::1] = batch.flags
        node: int16_t[::1] = batch.node
        order: uint8_t[::1] = batch.order
        fallback_order: uint8_t[::1] = batch.fallback_order
        migratetype: int8_t[::1] = batch.migratetype
        fallback_migratetype: int8_t[::1] = batch.fallback_migratetype
        mask: uint8_t[::1] = np.ones(1, np.uint8) if wanted is None else np.ascontiguousarray(wanted).view(np.uint8)
        filtered: cython.bint = wanted is not None
        has_stack: cython.bint = self.keep_stacks and batch.stack is not None
        stack: uint32_t[::1] = batch.stack if has_stack else np.zeros(1, np.uint32)
        if has_stack:
            top: cython.Py_ssize_t = int(batch.stack.max()) + 1
            if top > self.stack_hits.shape[0]:
                self.stack_hits = np.concatenate([self.stack_hits, np.zeros(top, np.uint64)])
                self.stack_bytes = np.concatenate([self.stack_bytes, np.zeros(top, np.uint64)])
        objects: LiveTable = self.objects
        pages: LiveTable = self.pages
        i: cython.Py_ssize_t
        e: cython.int
        here: cython.int
        kind: cython.int
        flavour: cython.int
        g: uint32_t
        t: uint32_t
        s: uint32_t = 0
        size: uint64_t
        group: cython.pointer(Group)
        task: cython.pointer(Task)
        page_group: cython.pointer(PageGroup)
        live: cython.pointer(Object)
        slot: cython.pointer(Object)
        row: cython.pointer(Address)
        if self.origin_ns < 0:
            self.origin_ns = time_ns[0]
        if self.events == 0:
            self.first_ns = time_ns[0]
        # another thread may read the next batch meanwhile
        with cython.nogil:
            for i in range(n):
                e = event[i]
                if i + AHEAD < n and event[i + AHEAD] <= EV_KMEM_CACHE_FREE:
                    # an object's place is rarely in the processor's cache: ask for it, and what lies behind, early
                    slot = cython.address(objects.slots[spread(target[i + AHEAD]) & objects.mask])
                    __builtin_prefetch(slot)
                    __builtin_prefetch(slot + 2)
                if e == EV_LOST:
                    self.lost_marks += 1
                    continue
                self.events += 1
                if time_ns[i] > self.last_ns:
                    self.last_ns = time_ns[i]
                here = min(cpu[i], MOST_CPUS)
                if e <= EV_KMEM_CACHE_ALLOC_NODE:
                    if filtered and not mask[i]:
                        continue
                    kind = KIND_KMALLOC if e <= EV_KMALLOC_NODE else KIND_CACHE
                    flavour = 0
                    if kind == KIND_KMALLOC:
                        if gfp[i] & GFP_DMA:
                            flavour = 1
                        elif gfp[i] & GFP_RECLAIMABLE:
                            flavour = 2
                        elif gfp[i] & GFP_ACCOUNT:
                            flavour = 3
                    size = bytes_alloc[i]
                    g = self.group_of(call_site[i], cache[i], size, kind, flavour)
                    group = cython.address(self.groups[g])
                    t = self.task_of(pid[i], comm[i])
                    task = cython.address(self.tasks[t])
                    if self.nr_pending and self.pending_types[here]:
                        self.settle(here, pid[i], call_site[i], t)
                    if flags[i] & EF_FAILED:
                        group.failed += 1
                        task.failed += 1
                        continue
                    group.hits += 1
                    group.bytes_req += bytes_req[i]
                    group.bytes_alloc += size
                    task.hits += 1
                    task.bytes_req += bytes_req[i]
                    task.bytes_alloc += size
                    if node[i] >= 0 and self.node_of_cpu[here] >= 0 and node[i] != self.node_of_cpu[here]:
                        group.cross_node += 1
                    if has_stack:
                        s = stack[i]
                        self.stack_hits[s] += 1
                        self.stack_bytes[s] += size
                    self.buckets[cython.cast(uint64_t, g) * NR_BUCKETS + self.bucket(time_ns[i])] += size
                    if flags[i] & EF_NO_POINTER:
                        continue
                    live = objects.find(target[i])
                    if live is cython.NULL:
                        objects.reserve()
                        live = objects.add(target[i])
                    else:
                        self.lost_frees += 1
                        self.live_bytes -= self.groups[live.group].size
                    self.live_bytes += size
                    live.bytes_req = bytes_req[i]
                    live.time_ns = time_ns[i]
                    live.group = g
                    live.task = t
                    live.stack = s
                    live.cpu = here
                    if self.keep_addresses:
                        self.reserve_address()
                        row = self.address(target[i])
                        row.hits += 1
                        row.bytes_req += bytes_req[i]
                        row.bytes_alloc += size
                        row.site = call_site[i]
                elif e <= EV_KMEM_CACHE_FREE:
                    if target[i] == 0:
                        self.null_frees += 1
                        continue
                    live = objects.find(target[i])
                    if live is cython.NULL:
                        if not flags[i] & EF_NO_POINTER:
                            self.unknown_frees += 1
                        continue
                    group = cython.address(self.groups[live.group])
                    group.frees += 1
                    group.bytes_freed += group.size
                    if live.cpu != here:
                        group.pingpong += 1
                        if self.keep_addresses:
                            self.reserve_address()
                            row = self.address(target[i])
                            row.pingpong += 1
                    if self.keep_lifetimes:
                        self.lived(group.site, time_ns[i] - live.time_ns)
                    if e != EV_KFREE and cache[i]:
                        group.named = cache[i]
                    task = cython.address(self.tasks[live.task])
                    task.frees += 1
                    task.bytes_freed += group.size
                    self.live_bytes -= group.size
                    objects.remove(live)
                elif e == EV_MM_PAGE_ALLOC:
                    if filtered and not mask[i]:
                        continue
                    g = self.page_group_of(gfp_text[i], gfp[i], order[i], migratetype[i])
                    page_group = cython.address(self.page_groups[g])
                    t = self.task_of(pid[i], comm[i])
                    if self.nr_pending and self.pending_types[here] & 0x8000:
                        self.settle(here, pid[i], 0, t)
                    elif self.nr_pending and self.pending_types[here]:
                        self.pending_types[here] |= 0x8000
                    if flags[i] & EF_FAILED:
                        page_group.failed += 1
                        continue
                    page_group.hits += 1
                    size = cython.cast(uint64_t, 1) << (PAGE_SHIFT + order[i])
                    task = cython.address(self.tasks[t])
                    task.page_hits += 1
                    task.page_bytes += size
                    live = pages.find(target[i])
                    if live is cython.NULL:
                        pages.reserve()
                        live = pages.add(target[i])
                    else:
                        self.lost_page_frees += 1
                    live.bytes_req = size
                    live.time_ns = time_ns[i]
                    live.group = g
                    live.task = t
                    live.stack = stack[i] if has_stack else 0
                    live.cpu = here
                    live.order = order[i]
                elif e == EV_MM_PAGE_FREE:
                    size = cython.cast(uint64_t, 1) << (PAGE_SHIFT + order[i])
                    self.page_frees += 1
                    self.page_bytes_freed += size
                    live = pages.find(target[i])
                    if live is cython.NULL:
                        self.unknown_page_frees += 1
                        self.unknown_page_bytes += size
                        continue
                    self.freed_pages += 1
                    self.freed_page_bytes += size
                    page_group = cython.address(self.page_groups[live.group])
                    page_group.frees += 1
                    page_group.bytes_freed += size
                    self.tasks[live.task].page_frees += 1
                    pages.remove(live)
                elif e == EV_MM_PAGE_ALLOC_EXTFRAG:
                    self.fallback(
                        order[i],
                        fallback_order[i],
                        migratetype[i],
                        fallback_migratetype[i],
                        flags[i] & EF_CHANGE_OWNERSHIP != 0,
                    )
                    t = self.task_of(pid[i], comm[i])
                    if self.pending_types[here]:
                        self.settle(here, pid[i], 0, t)
                    self.nr_pending += 1
                    self.pending_pid[here] = pid[i]
                    self.pending_stack[here] = stack[i] if has_stack else 0
                    self.pending_types[here] = 0x4000 | ((migratetype[i] & 15) << 4) | (fallback_migratetype[i] & 15)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def settle(self, cpu: cython.int, pid: int32_t, site: uint32_t, task: uint32_t) -> cython.int:
        """Say who caused the last fallback on a CPU: the object that a slab was made for, or just the thread."""
        types: cython.int = self.pending_types[cpu]
        if self.pending_pid[cpu] != pid:
            site = 0
        with cython.gil:
            key = (site, task, (types >> 4) & 15, types & 15, self.pending_stack[cpu])
            self.blame[key] = self.blame.get(key, 0) + 1
        self.pending_types[cpu] = 0
        self.nr_pending -= 1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def fallback(
        self,
        order: cython.int,
        fallback_order: cython.int,
        migratetype: cython.int,
        fallback_type: cython.int,
        changed: cython.bint,
    ) -> cython.int:
        """Count a fallback."""
        with cython.gil:
            key = (order, fallback_order, migratetype, fallback_type, int(changed))
            self.fallbacks[key] = self.fallbacks.get(key, 0) + 1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def group_of(
        self, site: uint32_t, cache: uint32_t, size: uint64_t, kind: cython.int, flavour: cython.int
    ) -> uint32_t:
        """The number of a group, a new one if it has not been seen."""
        key: uint64_t = group_key(site, cache, size, kind, flavour)
        at: uint64_t = key & self.group_mask
        g: uint32_t
        group: cython.pointer(Group)
        if self.nr_groups:
            while self.group_slots[at]:
                g = self.group_slots[at] - 1
                group = cython.address(self.groups[g])
                if (
                    group.site == site
                    and group.size == size
                    and group.cache == cache
                    and group.kind == kind
                    and group.flavour == flavour
                ):
                    return g
                at = (at + 1) & self.group_mask
        if self.nr_groups >= MOST_GROUPS:
            with cython.gil:
                raise MemoryError("more than a million different sorts of allocations")
        if self.nr_groups == self.room_groups:
            room: uint32_t = max(512, self.room_groups * 2)
            groups: cython.pointer(Group) = cython.cast(
                cython.pointer(Group), realloc(self.groups, room * cython.sizeof(Group))
            )
            if groups is cython.NULL:
                with cython.gil:
                    raise MemoryError
            self.groups = groups
            buckets: cython.pointer(uint64_t) = cython.cast(
                cython.pointer(uint64_t), realloc(self.buckets, cython.cast(cython.size_t, room) * NR_BUCKETS * 8)
            )
            if buckets is cython.NULL:
                with cython.gil:
                    raise MemoryError
            memset(
                buckets + cython.cast(cython.size_t, self.room_groups) * NR_BUCKETS,
                0,
                cython.cast(cython.size_t, room - self.room_groups) * NR_BUCKETS * 8,
            )
            self.buckets = buckets
            self.room_groups = room
            free(self.group_slots)
            self.group_mask = room * 4 - 1
            self.group_slots = cython.cast(cython.pointer(uint32_t), calloc(room * 4, 4))
            if self.group_slots is cython.NULL:
                with cython.gil:
                    raise MemoryError
            for g in range(self.nr_groups):
                group = cython.address(self.groups[g])
                at = group_key(group.site, group.cache, group.size, group.kind, group.flavour) & self.group_mask
                while self.group_slots[at]:
                    at = (at + 1) & self.group_mask
                self.group_slots[at] = g + 1
            at = key & self.group_mask
            while self.group_slots[at]:
                at = (at + 1) & self.group_mask
        g = self.nr_groups
        memset(cython.address(self.groups[g]), 0, cython.sizeof(Group))
        self.groups[g].site = site
        self.groups[g].cache = cache
        self.groups[g].size = size
        self.groups[g].kind = kind
        self.groups[g].flavour = flavour
        self.group_slots[at] = g + 1
        self.nr_groups += 1
        return g

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def task_of(self, pid: int32_t, comm: uint32_t) -> uint32_t:
        """The number of a thread under its present name, a new one if it has not been seen."""
        t: uint32_t = self.last_task
        if t != NONE and self.tasks[t].pid == pid and self.tasks[t].comm == comm:
            return t
        key: uint64_t = spread((cython.cast(uint64_t, comm) << 32) | cython.cast(uint32_t, pid))
        at: uint64_t = key & self.task_mask
        if self.nr_tasks:
            while self.task_slots[at]:
                t = self.task_slots[at] - 1
                if self.tasks[t].pid == pid and self.tasks[t].comm == comm:
                    self.last_task = t
                    return t
                at = (at + 1) & self.task_mask
        if self.nr_tasks == self.room_tasks:
            room: uint32_t = max(256, self.room_tasks * 2)
            tasks: cython.pointer(Task) = cython.cast(
                cython.pointer(Task), realloc(self.tasks, cython.cast(cython.size_t, room) * cython.sizeof(Task))
            )
            if tasks is cython.NULL:
                with cython.gil:
                    raise MemoryError
            self.tasks = tasks
            self.room_tasks = room
            free(self.task_slots)
            self.task_mask = cython.cast(uint64_t, room) * 4 - 1
            self.task_slots = cython.cast(cython.pointer(uint32_t), calloc(cython.cast(cython.size_t, room) * 4, 4))
            if self.task_slots is cython.NULL:
                with cython.gil:
                    raise MemoryError
            for t in range(self.nr_tasks):
                at = (
                    spread((cython.cast(uint64_t, self.tasks[t].comm) << 32) | cython.cast(uint32_t, self.tasks[t].pid))
                    & self.task_mask
                )
                while self.task_slots[at]:
                    at = (at + 1) & self.task_mask
                self.task_slots[at] = t + 1
            at = key & self.task_mask
            while self.task_slots[at]:
                at = (at + 1) & self.task_mask
        t = self.nr_tasks
        memset(cython.address(self.tasks[t]), 0, cython.sizeof(Task))
        self.tasks[t].pid = pid
        self.tasks[t].comm = comm
        self.task_slots[at] = t + 1
        self.nr_tasks += 1
        self.last_task = t
        return t

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def page_group_of(self, gfp_text: uint32_t, gfp: uint32_t, order: cython.int, migratetype: cython.int) -> uint32_t:
        """The number of a group of page requests; there are few, so they are searched in a row."""
        g: uint32_t
        group: cython.pointer(PageGroup)
        for g in range(self.nr_page_groups):
            group = cython.address(self.page_groups[g])
            if group.gfp_text == gfp_text and group.order == order and group.migratetype == migratetype:
                return g
        if self.nr_page_groups >= MOST_GROUPS:
            with cython.gil:
                raise MemoryError("more than a million different sorts of page requests")
        if self.nr_page_groups == self.room_page_groups:
            room: uint32_t = max(64, self.room_page_groups * 2)
            groups: cython.pointer(PageGroup) = cython.cast(
                cython.pointer(PageGroup), realloc(self.page_groups, room * cython.sizeof(PageGroup))
            )
            if groups is cython.NULL:
                with cython.gil:
                    raise MemoryError
            self.page_groups = groups
            self.room_page_groups = room
        g = self.nr_page_groups
        memset(cython.address(self.page_groups[g]), 0, cython.sizeof(PageGroup))
        self.page_groups[g].gfp_text = gfp_text
        self.page_groups[g].gfp = gfp
        self.page_groups[g].order = order
        self.page_groups[g].migratetype = migratetype
        self.nr_page_groups += 1
        return g

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def reserve_address(self) -> cython.int:
        """Make room for one more row in the table of addresses."""
        if self.nr_addresses * 2 <= self.address_mask:
            return 0
        old: cython.pointer(Address) = self.addresses
        room: uint64_t = self.address_mask + 1
        i: uint64_t
        at: uint64_t
        rows: cython.pointer(Address) = cython.cast(cython.pointer(Address), calloc(room * 2, cython.sizeof(Address)))
        if rows is cython.NULL:
            with cython.gil:
                raise MemoryError
        self.addresses = rows
        self.address_mask = room * 2 - 1
        for i in range(room):
            if old[i].used:
                at = spread(old[i].key) & self.address_mask
                while rows[at].used:
                    at = (at + 1) & self.address_mask
                rows[at] = old[i]
        free(old)
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def address(self, key: uint64_t) -> cython.pointer(Address):
        """The row of an address, a new one if it has none; there must be room."""
        at: uint64_t = spread(key) & self.address_mask
        while self.addresses[at].used:
            if self.addresses[at].key == key:
                return cython.address(self.addresses[at])
            at = (at + 1) & self.address_mask
        self.addresses[at].key = key
        self.addresses[at].used = 1
        self.nr_addresses += 1
        return cython.address(self.addresses[at])

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def bucket(self, time_ns: int64_t) -> cython.int:
        """The step of the timeline that a time lies in; the steps double when they do not reach."""
        since: int64_t = time_ns - self.origin_ns
        if since < 0:
            return 0
        while since // self.bucket_ns >= NR_BUCKETS:
            self.fold()
        return cython.cast(cython.int, since // self.bucket_ns)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def fold(self) -> cython.int:
        """Double the steps of the timeline."""
        g: uint64_t
        b: cython.int
        row: cython.pointer(uint64_t)
        self.bucket_ns *= 2
        for g in range(self.nr_groups):
            row = self.buckets + g * NR_BUCKETS
            for b in range(NR_BUCKETS // 2):
                row[b] = row[2 * b] + row[2 * b + 1]
            memset(row + NR_BUCKETS // 2, 0, NR_BUCKETS // 2 * 8)
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def lived(self, site: uint32_t, lifetime_ns: int64_t) -> cython.int:
        """Count how long an object lived."""
        if site >= self.room_lives:
            if site >= MOST_LIFE_SITES:
                return 0
            room: uint32_t = max(256, self.room_lives)
            while room <= site:
                room *= 2
            lives: cython.pointer(Life) = cython.cast(
                cython.pointer(Life), realloc(self.lives, cython.cast(cython.size_t, room) * cython.sizeof(Life))
            )
            if lives is cython.NULL:
                with cython.gil:
                    raise MemoryError
            memset(
                lives + self.room_lives,
                0,
                cython.cast(cython.size_t, room - self.room_lives) * cython.sizeof(Life),
            )
            self.lives = lives
            self.room_lives = room
        life: cython.pointer(Life) = cython.address(self.lives[site])
        ns: uint64_t = max(lifetime_ns, 0)
        life.total_ns += ns
        life.max_ns = max(life.max_ns, ns)
        life.classes[life_class(lifetime_ns)] += 1
        return 0

    def life_rows(self):
        """Return how long freed objects lived, by the code of their call site."""
        found = np.zeros(self.room_lives, LIFE_DTYPE)
        if self.room_lives:
            into: cython.uchar[::1] = found.view(np.uint8)
            memcpy(
                cython.address(into[0]),
                self.lives,
                cython.cast(cython.size_t, self.room_lives) * cython.sizeof(Life),
            )
        return found

    def group_rows(self):
        """Return the groups, in the order in which they were first seen."""
        found = np.empty(self.nr_groups, GROUP_DTYPE)
        if self.nr_groups:
            into: cython.uchar[::1] = found.view(np.uint8)
            memcpy(cython.address(into[0]), self.groups, self.nr_groups * cython.sizeof(Group))
        return found

    def task_rows(self):
        """Return the threads, in the order in which they were first seen."""
        found = np.empty(self.nr_tasks, TASK_DTYPE)
        if self.nr_tasks:
            into: cython.uchar[::1] = found.view(np.uint8)
            memcpy(cython.address(into[0]), self.tasks, self.nr_tasks * cython.sizeof(Task))
        return found

    def page_group_rows(self):
        """Return the groups of page requests, in the order in which they were first seen."""
        found = np.empty(self.nr_page_groups, PAGE_GROUP_DTYPE)
        if self.nr_page_groups:
            into: cython.uchar[::1] = found.view(np.uint8)
            memcpy(cython.address(into[0]), self.page_groups, self.nr_page_groups * cython.sizeof(PageGroup))
        return found

    def address_rows(self):
        """Return the rows by address, in order of address."""
        found = np.empty(self.nr_addresses, ADDRESS_DTYPE)
        i: uint64_t
        n: cython.Py_ssize_t = 0
        if not self.nr_addresses:
            return found
        into: cython.uchar[::1] = found.view(np.uint8)
        for i in range(self.address_mask + 1):
            if self.addresses[i].used:
                memcpy(cython.address(into[n]), cython.address(self.addresses[i]), cython.sizeof(Address))
                n += cython.sizeof(Address)
        return found[np.argsort(found["key"])]

    def timeline(self):
        """Return the bytes given out by each group in each step of the timeline."""
        found = np.zeros((self.nr_groups, NR_BUCKETS), np.uint64)
        if self.nr_groups:
            into: uint64_t[:, ::1] = found
            memcpy(cython.address(into[0, 0]), self.buckets, self.nr_groups * NR_BUCKETS * 8)
        return found

    def stack_totals(self):
        """Return allocations and bytes by the code of the call chain."""
        return np.asarray(self.stack_hits), np.asarray(self.stack_bytes)
