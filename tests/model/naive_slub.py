# SPDX-License-Identifier: GPL-2.0-only
"""A naive SLUB on top of the naive page allocator: Linux 6.1's slab run time, said as plainly as Python can say it.

An object is a pair (first frame of its slab, object number); a free list is a Python list whose last element is the
head.  Where a shuffled free list starts is chance in the kernel and an input here (`random_start`).

Source: mm/slub.c, mm/slab_common.c @6.1.192
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .naive_page_alloc import NaivePageAllocator
from .naive_zone import (
    ALLOC_NO_WATERMARKS,
    GFP_COMP,
    GFP_DIRECT_RECLAIM,
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHMEM,
    GFP_KSWAPD_RECLAIM,
    GFP_NOFAIL,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_RECLAIMABLE,
    GFP_THISNODE,
    PAGE_SHIFT,
)

GFP_FS, GFP_NOWARN, GFP_RETRY_MAYFAIL, GFP_MEMALLOC, GFP_HARDWALL = (0x80, 0x2000, 0x4000, 0x20000, 0x100000)
GFP_ACCOUNT = 0x400000
# What of a request's mask reaches the page allocator: how to reclaim, and where.
GFP_OF_SLAB = (
    (GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM | 0x20 | 0x40 | GFP_FS | GFP_NOWARN | GFP_RETRY_MAYFAIL | GFP_NOFAIL)
    | (GFP_NORETRY | GFP_MEMALLOC | GFP_NOMEMALLOC | 0x200)
    | (GFP_HARDWALL | GFP_THISNODE)
)

SLAB_STORE_USER = 0x10000
SLAB_TYPESAFE_BY_RCU = 0x80000
SLAB_DEBUG_FLAGS = 0x100 | 0x400 | 0x800 | SLAB_STORE_USER | 0x200000
SHRINK_PROMOTE_MAX = 32
KMALLOC_MAX_CACHE_SIZE = 8192

Object = tuple[int, int]


@dataclass(slots=True, eq=False)
class Slab:
    """A block of pages cut into objects."""

    pfn: int
    order: int
    node: int
    cache: Cache
    objects: int
    freelist: list[int]
    inuse: int = 0
    frozen: bool = False
    slabs: int = 0  # on a per-CPU partial list: how many slabs from here to its end
    pfmemalloc: bool = False


@dataclass(slots=True, eq=False)
class CpuSlab:
    """What one CPU has of one cache."""

    slab: Slab | None = None
    freelist: list[int] = field(default_factory=list)
    partial: list[Slab] = field(default_factory=list)  # the last one is the head


@dataclass(slots=True, eq=False)
class CacheNode:
    """What one node has of one cache; lists head first."""

    partial: OrderedDict[int, Slab] = field(default_factory=OrderedDict)
    full: OrderedDict[int, Slab] = field(default_factory=OrderedDict)  # debug caches with STORE_USER
    nr_slabs: int = 0

    def add_partial(self, slab: Slab, *, tail: bool) -> None:
        self.partial[slab.pfn] = slab
        self.partial.move_to_end(slab.pfn, last=tail)


@dataclass(slots=True, eq=False)
class Cache:
    """struct kmem_cache as far as it matters once the cache is made."""

    name: str
    size: int
    order: int
    objects: int
    min_order: int
    min_objects: int
    min_partial: int
    cpu_partial_slabs: int
    flags: int
    allocflags: int
    random_seq: list[int] | None
    cpus: list[CpuSlab]
    nodes: list[CacheNode]

    @property
    def debug(self) -> bool:
        return bool(self.flags & SLAB_DEBUG_FLAGS)


class NaiveSlub:
    """Slab caches of a machine.

    Parameters
    ----------
    pages
        Where slabs come from.
    nr_nodes
        Number of nodes.
    random_start
        Called for each shuffled slab: the position in `random_seq` at which its free list starts.
    """

    def __init__(
        self, pages: NaivePageAllocator, *, nr_nodes: int = 1, random_start: Callable[[Cache], int] = lambda cache: 0
    ) -> None:
        self.pages = pages
        self.nr_cpus = len(pages.cpu_node)
        self.nr_nodes = nr_nodes
        self.random_start = random_start
        self.slabs: dict[int, Slab] = {}
        self.rcu: list[Slab] = []  # to be freed after a grace period
        self.large: dict[int, int] = {}  # large kmalloc: frame -> order
        self.kmalloc_caches: list[list[Cache | None]] = []  # [type][index]

    def new_cache(self, **fields: Any) -> Cache:
        """A cache of the given geometry, with nothing in it."""
        cpus = [CpuSlab() for _ in range(self.nr_cpus)]
        return Cache(**fields, cpus=cpus, nodes=[CacheNode() for _ in range(self.nr_nodes)])

    # ---- slabs come and go

    def shuffled(self, cache: Cache, objects: int) -> list[int]:
        """Object numbers in the order in which a new slab hands them out."""
        if objects < 2 or cache.random_seq is None:
            return list(range(objects))
        start = self.random_start(cache)
        sequence = cache.random_seq[start:] + cache.random_seq[:start]
        return [number for number in sequence if number < objects]

    def allocate_slab(self, cache: Cache, gfp: int, cpu: int, node: int | None) -> Slab | None:
        """The preferred order without much effort, then the smallest order with all the caller allows."""
        if gfp & (GFP_DMA32 | GFP_HIGHMEM):
            gfp &= ~(GFP_DMA32 | GFP_HIGHMEM)
        gfp = (gfp & GFP_OF_SLAB) | cache.allocflags
        attempt = (gfp | GFP_NOWARN | GFP_NORETRY) & ~GFP_NOFAIL
        if attempt & GFP_DIRECT_RECLAIM and cache.order > cache.min_order:
            attempt = (attempt | GFP_NOMEMALLOC) & ~(GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM)
        order, objects = cache.order, cache.objects
        pfn = self.pages.alloc_pages(attempt, order, cpu, node)
        if pfn is None:
            order, objects = cache.min_order, cache.min_objects
            pfn = self.pages.alloc_pages(gfp, order, cpu, node)
            if pfn is None:
                return None
        freelist = self.shuffled(cache, objects)[::-1]
        slab = Slab(pfn, order, self.pages.zone_of(pfn).node, cache, objects, freelist)
        slab.pfmemalloc = pfn in self.pages.pfmemalloc
        self.slabs[pfn] = slab
        return slab

    def free_slab(self, slab: Slab, cpu: int) -> None:
        del self.slabs[slab.pfn]
        if slab.cache.flags & SLAB_TYPESAFE_BY_RCU:
            self.rcu.append(slab)
        else:
            self.pages.free_pages(slab.pfn, slab.order, cpu)

    def rcu_barrier(self, cpu: int = 0) -> None:
        """The grace period is over: the callbacks run in the order in which they were queued."""
        for slab in self.rcu:
            self.pages.free_pages(slab.pfn, slab.order, cpu)
        self.rcu.clear()

    def discard_slab(self, slab: Slab, cpu: int) -> None:
        slab.cache.nodes[slab.node].nr_slabs -= 1
        self.free_slab(slab, cpu)

    # ---- partial lists

    def pfmemalloc_match(self, slab: Slab, gfp: int) -> bool:
        return not slab.pfmemalloc or self.pages.reserve_flags(gfp) == ALLOC_NO_WATERMARKS

    def put_cpu_partial(self, cache: Cache, slab: Slab, cpu: int, *, drain: bool) -> None:
        """A frozen slab becomes the head of the CPU's list; a full list goes to the nodes first."""
        c = cache.cpus[cpu]
        unfreeze: list[Slab] = []
        if drain and c.partial and c.partial[-1].slabs >= cache.cpu_partial_slabs:
            unfreeze, c.partial = c.partial, []
        slab.slabs = c.partial[-1].slabs + 1 if c.partial else 1
        c.partial.append(slab)
        self.unfreeze(cache, unfreeze, cpu)

    def unfreeze(self, cache: Cache, partial: list[Slab], cpu: int) -> None:
        """__unfreeze_partials: from the head on to the nodes' tails; the empty ones too many go, last found first."""
        discard = []
        for slab in reversed(partial):
            node = cache.nodes[slab.node]
            slab.frozen = False
            if slab.inuse == 0 and len(node.partial) >= cache.min_partial:
                discard.append(slab)
            else:
                node.add_partial(slab, tail=True)
        for slab in reversed(discard):
            self.discard_slab(slab, cpu)

    def unfreeze_partials(self, cache: Cache, cpu: int) -> None:
        c = cache.cpus[cpu]
        partial, c.partial = c.partial, []
        self.unfreeze(cache, partial, cpu)

    def deactivate_slab(self, cache: Cache, slab: Slab, freelist: list[int], cpu: int) -> None:
        """The CPU gives its slab back: its free objects come before those that others freed meanwhile."""
        node = cache.nodes[slab.node]
        tail = bool(slab.freelist)
        slab.inuse -= len(freelist)
        slab.freelist = slab.freelist + freelist
        slab.frozen = False
        if slab.inuse == 0 and len(node.partial) >= cache.min_partial:
            self.discard_slab(slab, cpu)
        elif slab.freelist:
            node.add_partial(slab, tail=tail)
        elif cache.flags & SLAB_STORE_USER:
            self.add_full(cache, node, slab)

    def add_full(self, cache: Cache, node: CacheNode, slab: Slab) -> None:
        if cache.flags & SLAB_STORE_USER:
            node.full[slab.pfn] = slab
            node.full.move_to_end(slab.pfn, last=False)

    def get_partial_node(self, cache: Cache, node: CacheNode, gfp: int, cpu: int) -> tuple[Slab, list[int]] | None:
        """The first slab of the node's list for the CPU, and some more for its partial list."""
        found: tuple[Slab, list[int]] | None = None
        more = 0
        for slab in list(node.partial.values()):
            if not self.pfmemalloc_match(slab, gfp):
                continue
            del node.partial[slab.pfn]
            slab.frozen = True
            if found is None:
                found = slab, slab.freelist
                slab.freelist, slab.inuse = [], slab.objects
            else:
                self.put_cpu_partial(cache, slab, cpu, drain=False)
                more += 1
            if more > cache.cpu_partial_slabs // 2:
                break
        return found

    def searched_nodes(self, cache: Cache, gfp: int, cpu: int, node: int | None) -> Iterator[CacheNode]:
        """Nodes to look for partial slabs on: the wanted one, then, if any will do, those with slabs to spare."""
        yield cache.nodes[self.pages.cpu_node[cpu] if node is None else node]
        if node is None and self.nr_nodes > 1:
            for zone in self.pages.prepare(gfp, cpu, None).zonelist:
                other = cache.nodes[zone.node]
                if len(other.partial) > cache.min_partial:
                    yield other

    # ---- objects

    def kmem_cache_alloc(self, cache: Cache, gfp: int, cpu: int = 0, node: int | None = None) -> Object | None:
        """(frame of the slab, number of the object), or None."""
        c = cache.cpus[cpu]
        if c.freelist and c.slab is not None and (node is None or c.slab.node == node):
            return c.slab.pfn, c.freelist.pop()
        return self.slab_alloc_slow(cache, gfp, cpu, node)

    def slab_alloc_slow(self, cache: Cache, gfp: int, cpu: int, node: int | None) -> Object | None:
        """___slab_alloc: CPU slab, CPU partial list, node partial lists, new slab."""
        if cache.debug:
            return self.debug_alloc(cache, gfp, cpu, node)
        c = cache.cpus[cpu]
        while True:
            slab = c.slab
            if slab is not None:
                if (node is not None and slab.node != node) or not self.pfmemalloc_match(slab, gfp):
                    freelist, c.slab, c.freelist = c.freelist, None, []
                    self.deactivate_slab(cache, slab, freelist, cpu)
                elif c.freelist:
                    return slab.pfn, c.freelist.pop()
                elif slab.freelist:  # take over what others have freed
                    c.freelist, slab.freelist = slab.freelist, []
                    slab.inuse = slab.objects
                    return slab.pfn, c.freelist.pop()
                else:  # full: it is nobody's until something in it is freed
                    slab.frozen = False
                    c.slab = None
            if not c.partial:
                break
            c.slab = c.partial.pop()

        for cache_node in self.searched_nodes(cache, gfp, cpu, node):
            found = self.get_partial_node(cache, cache_node, gfp, cpu)
            if found is not None:
                c.slab, c.freelist = found
                return c.slab.pfn, c.freelist.pop()

        slab = self.allocate_slab(cache, gfp, cpu, node)
        if slab is None:
            return None
        cache.nodes[slab.node].nr_slabs += 1
        freelist, slab.freelist = slab.freelist, []
        slab.inuse, slab.frozen = slab.objects, True
        number = freelist.pop()
        if not self.pfmemalloc_match(slab, gfp):  # not for those who may not use the reserves
            self.deactivate_slab(cache, slab, freelist, cpu)
        else:
            c.slab, c.freelist = slab, freelist
        return slab.pfn, number

    def debug_alloc(self, cache: Cache, gfp: int, cpu: int, node: int | None) -> Object | None:
        """A debug cache has no CPU slab: one object, the slab stays on its node's list."""
        for cache_node in self.searched_nodes(cache, gfp, cpu, node):
            for slab in cache_node.partial.values():
                if self.pfmemalloc_match(slab, gfp):
                    number = slab.freelist.pop()
                    slab.inuse += 1
                    if slab.inuse == slab.objects:
                        del cache_node.partial[slab.pfn]
                        self.add_full(cache, cache_node, slab)
                    return slab.pfn, number
        fresh = self.allocate_slab(cache, gfp, cpu, node)
        if fresh is None:
            return None
        number = fresh.freelist.pop()
        fresh.inuse = 1
        cache_node = cache.nodes[fresh.node]
        if fresh.inuse == fresh.objects:
            self.add_full(cache, cache_node, fresh)
        else:
            cache_node.add_partial(fresh, tail=False)
        cache_node.nr_slabs += 1
        return fresh.pfn, number

    def kmem_cache_free(self, pfn: int, number: int, cpu: int = 0) -> None:
        self.slab_free(self.slabs[pfn], [number], cpu)

    def slab_free(self, slab: Slab, numbers: list[int], cpu: int) -> None:
        """Objects of one slab, the last of `numbers` becoming the head of a free list."""
        cache = slab.cache
        c = cache.cpus[cpu]
        if slab is c.slab:
            c.freelist.extend(numbers)
            return
        if cache.debug:
            return self.debug_free(cache, slab, numbers, cpu)
        had_free = bool(slab.freelist)
        slab.freelist.extend(numbers)
        slab.inuse -= len(numbers)
        if slab.frozen:
            return
        if not had_free:  # it was full and on no list
            slab.frozen = True
            self.put_cpu_partial(cache, slab, cpu, drain=True)
            return
        node = cache.nodes[slab.node]
        if slab.inuse == 0 and len(node.partial) >= cache.min_partial:
            del node.partial[slab.pfn]
            self.discard_slab(slab, cpu)

    def debug_free(self, cache: Cache, slab: Slab, numbers: list[int], cpu: int) -> None:
        node = cache.nodes[slab.node]
        had_free = bool(slab.freelist)
        slab.freelist.extend(numbers)
        slab.inuse -= len(numbers)
        free = slab.inuse == 0 and len(node.partial) >= cache.min_partial
        if not had_free:
            node.full.pop(slab.pfn, None)
            if not free:
                node.add_partial(slab, tail=True)
        elif free:
            del node.partial[slab.pfn]
        if free:
            self.discard_slab(slab, cpu)

    # ---- many at once

    def kmem_cache_alloc_bulk(self, cache: Cache, gfp: int, count: int, cpu: int = 0) -> list[Object]:
        """All or nothing."""
        c = cache.cpus[cpu]
        taken: list[Object] = []
        for _ in range(count):
            if c.freelist and c.slab is not None:
                taken.append((c.slab.pfn, c.freelist.pop()))
                continue
            one = self.slab_alloc_slow(cache, gfp, cpu, None)
            if one is None:
                self.kmem_cache_free_bulk(taken, cpu)
                return []
            taken.append(one)
        return taken

    def kmem_cache_free_bulk(self, objects: list[Object], cpu: int = 0) -> None:
        """From the last object backwards, those of the same slab together, looking past three others."""
        left = list(objects)
        while left:
            size = len(left) - 1
            pfn, number = left[size]
            batch = [number]
            same = size
            lookahead = 3
            while size:
                size -= 1
                if left[size][0] == pfn:
                    batch.append(left[size][1])
                    same -= 1
                    if size != same:
                        left[size], left[same] = left[same], left[size]
                    continue
                lookahead -= 1
                if not lookahead:
                    break
            del left[same:]
            # The hook that looks at each object on the way turns the chain round: the first one taken is its head.
            self.slab_free(self.slabs[pfn], batch[::-1], cpu)

    # ---- shrink

    def flush_all(self, cache: Cache) -> None:
        for cpu, c in enumerate(cache.cpus):
            if c.slab is not None:
                slab, freelist, c.slab, c.freelist = c.slab, c.freelist, None, []
                self.deactivate_slab(cache, slab, freelist, cpu)
            self.unfreeze_partials(cache, cpu)

    def kmem_cache_shrink(self, cache: Cache, cpu: int = 0) -> bool:
        """Empty slabs go, nearly full ones come first; True if slabs are left."""
        self.flush_all(cache)
        for node in cache.nodes:
            discard: list[Slab] = []
            promote: list[list[Slab]] = [[] for _ in range(SHRINK_PROMOTE_MAX)]
            rest: list[Slab] = []
            for slab in node.partial.values():
                free = slab.objects - slab.inuse
                if free == slab.objects:
                    discard.insert(0, slab)
                elif free <= SHRINK_PROMOTE_MAX:
                    promote[free - 1].insert(0, slab)
                else:
                    rest.append(slab)
            ordered = [slab for row in promote for slab in row] + rest
            node.partial = OrderedDict((slab.pfn, slab) for slab in ordered)
            for slab in discard:
                self.discard_slab(slab, cpu)
        return any(node.nr_slabs for node in cache.nodes)

    def kmem_cache_destroy(self, cache: Cache, cpu: int = 0) -> bool:
        """Give all slabs back; False if objects are left, on the first node that has any."""
        self.flush_all(cache)
        for node in cache.nodes:
            empty = [slab for slab in node.partial.values() if slab.inuse == 0]
            for slab in empty:
                del node.partial[slab.pfn]
            for slab in reversed(empty):
                self.discard_slab(slab, cpu)
            if node.partial or node.nr_slabs:
                return False
        if cache.flags & SLAB_TYPESAFE_BY_RCU:
            self.rcu_barrier(cpu)  # done later in the kernel, before the cache itself goes
        return True

    # ---- kmalloc

    def kmalloc_index(self, size: int) -> int:
        if 64 < size <= 96:
            return 1
        if 128 < size <= 192:
            return 2
        return max(3, (size - 1).bit_length())

    def kmalloc_type(self, gfp: int) -> int:
        """Row of kmalloc_caches: normal 0, DMA 3, reclaimable 2, accounted 1."""
        if gfp & GFP_DMA:
            return 3
        if gfp & GFP_RECLAIMABLE:
            return 2
        return 1 if gfp & GFP_ACCOUNT else 0

    def kmalloc(self, size: int, gfp: int, cpu: int = 0) -> Object | None:
        """An object, or (frame, -1) of a large one, which is pages of its own."""
        if size > KMALLOC_MAX_CACHE_SIZE:
            order = ((size - 1) >> PAGE_SHIFT).bit_length()
            pfn = self.pages.alloc_pages((gfp & ~(GFP_DMA32 | GFP_HIGHMEM)) | GFP_COMP, order, cpu)
            if pfn is None:
                return None
            self.large[pfn] = order
            return pfn, -1
        cache = self.kmalloc_caches[self.kmalloc_type(gfp)][self.kmalloc_index(size)]
        assert cache is not None
        return self.kmem_cache_alloc(cache, gfp, cpu)

    def kfree(self, pfn: int, number: int, cpu: int = 0) -> None:
        if number < 0:
            self.pages.free_pages(pfn, self.large.pop(pfn), cpu)
        else:
            self.kmem_cache_free(pfn, number, cpu)

    def ksize(self, one: Object) -> int:
        """How many bytes the owner of a kmalloc object may use: all of it, in a cache without debugging."""
        pfn, number = one
        return 1 << (self.large[pfn] + PAGE_SHIFT) if number < 0 else self.slabs[pfn].cache.size

    def krealloc(self, one: Object, size: int, gfp: int, cpu: int = 0) -> Object | None:
        """The same object if the size fits into it, else a new one."""
        if self.ksize(one) >= size:
            return one
        new = self.kmalloc(size, gfp, cpu)
        if new is not None:
            self.kfree(*one, cpu)
        return new

    # ---- what there is to compare

    def state(self, cache: Cache) -> Iterator[tuple[str, Any]]:
        """Everything a full dump shows of a cache, as (where, value); lists head first."""

        def shown(slab: Slab) -> tuple[int, int, int, bool, list[int]]:
            return slab.pfn, slab.inuse, slab.objects, slab.frozen, slab.freelist[::-1]

        for cpu, c in enumerate(cache.cpus):
            yield (f"{cache.name} cpu {cpu} slab", None if c.slab is None else shown(c.slab))
            yield f"{cache.name} cpu {cpu} freelist", c.freelist[::-1]
            yield (f"{cache.name} cpu {cpu} partial", [(slab.slabs, *shown(slab)) for slab in reversed(c.partial)])
        for number, node in enumerate(cache.nodes):
            yield f"{cache.name} node {number} nr_slabs", node.nr_slabs
            yield (f"{cache.name} node {number} partial", [shown(slab) for slab in node.partial.values()])
            yield f"{cache.name} node {number} full", list(node.full)
