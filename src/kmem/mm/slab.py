# SPDX-License-Identifier: GPL-2.0-only
"""Slabs: the blocks of pages that objects are cut from, and the caches they belong to.

A slab is a block of pages cut into objects of one size.  This module makes and
releases slabs, keeps the lists of each node (partially used slabs and, for
caches that track their users, full ones) and the storage behind all of it;
:mod:`kmem.mm.slub` hands out the objects.

An *object* is named by its physical address: ``pfn << PAGE_SHIFT`` plus the
offset in the page, 64 bits on every machine; on the direct map the kernel's
pointer is that plus ``PAGE_OFFSET``.  Physical address 0 is an address like
any other, so "no object" is ``NULL_OBJECT``, all ones.

Freelists do not lie in the objects, which the model does not have, but in one
array of 16-bit links, packed slab by slab: ``links[Page.slots + n]`` is the
number of the object that follows object `n`, ``NO_OBJECT`` at the end of a
list and ``IN_USE`` while the object is handed out.  The last makes a double
free visible at the price of a store.  All state is in flat arrays.

Source: mm/slab.h, mm/slub.c @6.1.192
Differs: ``struct kmem_cache`` and its parts take no memory of the modelled
machine; debug caches follow the debug paths, but have no bytes to check.
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    MAX_ORDER,
    NO_OBJECT,
    PG_SLAB,
    PG_TAIL,
    list_add,
    list_add_tail,
    list_del,
    list_init,
)
from cython.cimports.kmem.mm.page_alloc import (
    GFP_DIRECT_RECLAIM_BIT,
    GFP_KSWAPD_RECLAIM_BIT,
    GFP_NOFAIL_BIT,
    GFP_NOMEMALLOC_BIT,
    GFP_NORETRY_BIT,
    GFP_NOWARN_BIT,
)

from kmem.errors import StateError, UsageError
from kmem.mm.page import NO_PAGE

CACHE_DTYPE = np.dtype(
    [
        ("size", "u4"),
        ("red_left_pad", "u4"),
        ("flags", "u4"),
        ("allocflags", "u4"),
        ("min_partial", "u4"),
        ("cpu_partial_slabs", "u4"),
        ("remote_ratio", "u4"),
        ("random_seq", "u4"),
        ("ksize", "u4"),
        ("objects", "u2"),
        ("min_objects", "u2"),
        ("order", "u1"),
        ("min_order", "u1"),
        ("debug", "u1"),
        ("live", "u1"),
        ("new_slabs", "u4"),
        ("freed_slabs", "u4"),
        ("order_fallbacks", "u4"),
        ("failures", "u4"),
    ],
    align=True,
)
NODE_DTYPE = np.dtype(
    [
        ("nr_partial", "u4"),
        ("partial", "u4"),
        ("full", "u4"),
        ("unseen", "u4"),
        ("nr_slabs", "i8"),
        ("total_objects", "i8"),
    ],
    align=True,
)
CPU_DTYPE = np.dtype(
    [
        ("slab", "u4"),
        ("partial", "u4"),
        ("slots", "u4"),
        ("size", "u4"),
        ("reciprocal", "u4"),
        ("red_left_pad", "u4"),
        ("freelist", "u2"),
        ("spare", "u2"),
        ("spare2", "u4"),
    ],
    align=True,
)

# What a row of caches takes over from a CacheGeometry by name.
_GEOMETRY_FIELDS = (
    *("size", "flags", "allocflags", "min_partial", "cpu_partial_slabs", "remote_ratio", "ksize"),
    *("objects", "min_objects", "order", "min_order", "debug"),
)

# Links are given out in chunks of a multiple of this many.
_CHUNK = cython.declare(cython.uint, 8)
_PAGE_SHIFT = cython.declare(cython.uint, 12)

# GFP_RECLAIM_MASK | GFP_CONSTRAINT_MASK: all that a slab allocation takes over from its request.
# Source: mm/internal.h
_GFP_SLAB_MASK = cython.declare(cython.uint, 0x3BEEE0)
_GFP_RECLAIM = cython.declare(cython.uint, GFP_DIRECT_RECLAIM_BIT | GFP_KSWAPD_RECLAIM_BIT)

_SLAB_RED_ZONE = cython.declare(cython.uint, 0x400)
_SLAB_STORE_USER = cython.declare(cython.uint, 0x10000)
_SLAB_TYPESAFE_BY_RCU = cython.declare(cython.uint, 0x80000)


@cython.cclass
class Slabs:
    """The slabs of all caches of a machine, over one page allocator.

    Parameters
    ----------
    allocator : kmem.mm.page_alloc.PageAllocator
        Where slabs come from. Its ``cpu`` is the CPU that every call runs on.
    seed : int, optional
        Seed of the freelist randomisation.

    Attributes
    ----------
    geometries : dict of int to CacheGeometry
        The live caches by their index.
    start_object : int
        Number of the object that the next shuffled slab hands out first; -1
        (the default) draws the start. Only a position in the cache's random
        sequence follows from it, as in a recording that does not tell the draw.
    """

    def __init__(self, allocator, seed: int = 0):
        self.allocator = allocator
        self.memmap = allocator.memmap
        self.pages = self.memmap.pages
        self.nr_cpus = self.memmap.nr_cpus
        self.nr_nodes = self.memmap.nr_nodes
        self.nr_caches = 0
        self.geometries = {}
        self.free_indexes = []
        self.links_array = np.zeros(1 << 12, np.uint16)
        self.links_end = 0
        self.chunks_array = np.full(MAX_OBJS_PER_PAGE // _CHUNK + 2, 0xFFFFFFFF, np.uint32)
        self.sequences_array = np.zeros(1 << 10, np.uint16)
        self.sequences_end = 0
        self.caches_array = np.zeros(0, CACHE_DTYPE)
        self.nodes_array = np.zeros(0, NODE_DTYPE)
        self.cpus_array = np.zeros(0, CPU_DTYPE)
        self.grow_caches()
        self.rcu_first = NO_SLAB
        self.rcu_last = NO_SLAB
        self.rcu_pending = 0
        self.random_state = seed & 0xFFFFFFFFFFFFFFFF
        self.start_object = -1
        self.shuffled_slabs = 0

    # ------------------------------------------------------------------ caches

    def kmem_cache_create(self, geometry, random_seq=None) -> int:
        """Set up an empty cache.

        Parameters
        ----------
        geometry : CacheGeometry
            Layout and limits; kept, not copied.
        random_seq : sequence of int, optional
            Order of the objects on a shuffled freelist, a permutation of
            ``range(geometry.objects)``. Drawn if `geometry` asks for one.

        Returns
        -------
        int
            Index of the cache, which names it in every other call.

        Raises
        ------
        UsageError
            If the geometry or the sequence cannot be right.

        Source: mm/slub.c:__kmem_cache_create @6.1.192
        """
        g = geometry
        if not 0 < g.size < 1 << 23 or not 0 < g.min_objects <= g.objects <= MAX_OBJS_PER_PAGE:
            raise UsageError(f"cache {g.name}: {g.objects} objects of {g.size} bytes in a slab")
        if (
            not 0 <= g.min_order <= g.order < MAX_ORDER
            or g.objects * g.size > 4096 << g.order
            or g.min_objects * g.size > 4096 << g.min_order
        ):
            raise UsageError(f"cache {g.name}: {g.objects} objects of {g.size} bytes do not fit in order {g.order}")
        if random_seq is None and g.has_random_seq and g.objects > 1:
            random_seq = self.draw_sequence(g.objects)
        if random_seq is not None and sorted(random_seq) != list(range(g.objects)):
            raise UsageError(f"cache {g.name}: random_seq is not a permutation of 0 to {g.objects - 1}")
        index: cython.uint
        if self.free_indexes:
            index = self.free_indexes.pop()
        else:
            if self.nr_caches == len(self.caches_array):
                self.grow_caches()
            index = self.nr_caches
            self.nr_caches += 1
        row = self.caches_array[index]
        for field in _GEOMETRY_FIELDS:
            row[field] = getattr(g, field)
        row["red_left_pad"] = g.red_left_pad if g.flags & _SLAB_RED_ZONE else 0
        row["random_seq"] = NO_PAGE if random_seq is None else self.store_sequence(random_seq)
        for field in ("new_slabs", "freed_slabs", "order_fallbacks", "failures"):
            row[field] = 0
        row["live"] = 1
        cpus = self.cpus_array[index * self.nr_cpus : (index + 1) * self.nr_cpus]
        cpus["slab"] = cpus["partial"] = NO_PAGE
        cpus["freelist"] = NO_OBJECT
        cpus["size"] = g.size
        cpus["reciprocal"] = min(-(-(1 << 32) // g.size), 0xFFFFFFFF)
        cpus["red_left_pad"] = row["red_left_pad"]
        node: cython.uint
        for node in range(index * self.nr_nodes, (index + 1) * self.nr_nodes):
            list_init(self.pages, self.nodes[node].partial)
            list_init(self.pages, self.nodes[node].full)
            self.nodes[node].nr_partial = 0
            self.nodes[node].nr_slabs = 0
            self.nodes[node].total_objects = 0
            self.nodes[node].unseen = 0
        self.geometries[index] = g
        return index

    def draw_sequence(self, count: int) -> list:
        """Draw a random order of `count` objects.

        Source: mm/slab_common.c:freelist_randomize @6.1.192
        """
        sequence = list(range(count))
        for i in range(count - 1, 0, -1):
            j = self.random_below(i + 1)
            sequence[i], sequence[j] = sequence[j], sequence[i]
        return sequence

    def store_sequence(self, sequence) -> int:
        """Append a random sequence to the array of all of them, and return where it starts."""
        start = self.sequences_end
        end = start + len(sequence)
        while end > len(self.sequences_array):
            self.sequences_array = np.concatenate([self.sequences_array, np.zeros_like(self.sequences_array)])
        self.sequences = self.sequences_array
        self.sequences_array[start:end] = sequence
        self.sequences_end = end
        return start

    def drop_random_seq(self, cache: int) -> None:
        """Make the freelists of a cache's future slabs linear."""
        self.check_cache(cache)
        self.caches[cache].random_seq = NO_SLAB

    def check_cache(self, cache: int) -> None:
        """Refuse an index that names no live cache."""
        if cache not in self.geometries:
            raise UsageError(f"no slab cache with index {cache}")

    def nr_slabs(self, cache: int) -> int:
        """Return how many slabs a cache has on all nodes."""
        rows = self.nodes_array[cache * self.nr_nodes : (cache + 1) * self.nr_nodes]
        return int(rows["nr_slabs"].sum())

    def has_normal_memory(self, node):
        """Tell whether a node has memory that slabs can be made of.

        Source: mm/slub.c:slab_nodes, N_NORMAL_MEMORY @6.1.192
        """
        zone: cython.int
        if node < self.nr_nodes:
            for zone in range(node * MAX_NR_ZONES, node * MAX_NR_ZONES + self.memmap.zone_normal + 1):
                if self.memmap.zones[zone].present:
                    return True
        return False

    def grow_caches(self):
        """Make room for more caches: twice as many, with list heads for all of them."""
        old: cython.uint = len(self.caches_array)
        new = 64 if old == 0 else 2 * old
        if new > NO_CACHE:
            raise UsageError(f"more than {old} slab caches")
        self.caches_array = np.concatenate([self.caches_array, np.zeros(new - old, CACHE_DTYPE)])
        self.nodes_array = np.concatenate([self.nodes_array, np.zeros((new - old) * self.nr_nodes, NODE_DTYPE)])
        self.cpus_array = np.concatenate([self.cpus_array, np.zeros((new - old) * self.nr_cpus, CPU_DTYPE)])
        added = slice(old * self.nr_nodes, new * self.nr_nodes)
        heads = self.memmap.reserve_heads(2 * (new - old) * self.nr_nodes)
        self.nodes_array["partial"][added] = heads + 2 * np.arange((new - old) * self.nr_nodes)
        self.nodes_array["full"][added] = self.nodes_array["partial"][added] + 1
        self.reattach()
        return 0

    def reattach(self):
        """Work on the arrays that the ``*_array`` attributes, here and in `memmap`, hold now."""
        self.pages = self.memmap.pages
        self.caches = self.caches_array
        self.nodes = self.nodes_array
        self.cpus = self.cpus_array
        self.links = self.links_array
        self.chunks = self.chunks_array
        self.sequences = self.sequences_array

    # ------------------------------------------------------------------ slabs from the page allocator, and back

    def new_slab(self, cache, gfp, node):
        """Take pages for a slab, of the preferred order or else of the minimum, and link its objects.

        The first attempt must not press: it neither warns nor reclaims when a
        smaller slab would do.

        Source: mm/slub.c:new_slab, allocate_slab @6.1.192
        """
        s: cython.pointer(Cache) = cython.address(self.caches[cache])
        flags: cython.uint = (gfp & _GFP_SLAB_MASK) | s.allocflags
        attempt: cython.uint = (flags | GFP_NOWARN_BIT | GFP_NORETRY_BIT) & ~GFP_NOFAIL_BIT
        order: cython.uint = s.order
        objects: cython.ushort = s.objects
        slab: cython.uint
        if attempt & GFP_DIRECT_RECLAIM_BIT and order > s.min_order:
            attempt = (attempt | GFP_NOMEMALLOC_BIT) & ~_GFP_RECLAIM
        slab = self.allocator.alloc_pages_node(node, attempt, order)
        if slab == NO_SLAB:
            s = cython.address(self.caches[cache])
            order = s.min_order
            objects = s.min_objects
            slab = self.allocator.alloc_pages_node(node, flags, order)
            if slab == NO_SLAB:
                return NO_SLAB
            self.caches[cache].order_fallbacks += 1
        self.caches[cache].new_slabs += 1
        self.pages[slab].kind = PG_SLAB
        self.pages[slab].order = order
        self.pages[slab].cache = cache
        self.pages[slab].objects = objects
        self.pages[slab].inuse = 0
        self.pages[slab].frozen = 0
        self.pages[slab].slabs = 0
        self.pages[slab].slots = self.alloc_links(objects)
        if objects < 2 or self.caches[cache].random_seq == NO_SLAB:
            self.init_freelist(slab)
        else:
            self.shuffle_freelist(cache, slab)
        return slab

    def init_freelist(self, slab):
        """Link the objects of a fresh slab in the order of their addresses."""
        slots: cython.uint = self.pages[slab].slots
        last: cython.uint = self.pages[slab].objects - 1
        n: cython.uint
        for n in range(last):
            self.links[slots + n] = n + 1
        self.links[slots + last] = NO_OBJECT
        self.pages[slab].freelist = 0
        return 0

    def shuffle_freelist(self, cache, slab):
        """Link the objects of a fresh slab in the cache's random order, from a random place on.

        Source: mm/slub.c:shuffle_freelist, next_freelist_entry @6.1.192
        """
        base: cython.uint = self.caches[cache].random_seq
        count: cython.uint = self.caches[cache].objects
        objects: cython.uint = self.pages[slab].objects
        slots: cython.uint = self.pages[slab].slots
        place: cython.uint
        left: cython.uint = objects
        link: cython.uint = NO_SLAB
        n: cython.ushort
        self.shuffled_slabs += 1
        if self.start_object < 0:
            place = self.random_below(count)
        else:
            place = 0
            while place < count and self.sequences[base + place] != self.start_object:
                place += 1
            if place == count:
                place = 0
        while left:
            n = self.sequences[base + place]
            place += 1
            if place == count:
                place = 0
            if n >= objects:
                continue  # a slab of the minimum order has fewer
            if link == NO_SLAB:
                self.pages[slab].freelist = n
            else:
                self.links[link] = n
            link = slots + n
            left -= 1
        self.links[link] = NO_OBJECT
        return 0

    def discard_slab(self, cache, slab):
        """Count a slab out of its cache and give its pages back, at once or after a grace period.

        Source: mm/slub.c:discard_slab @6.1.192
        """
        self.count_slab(cache, slab, -1)
        return self.release_slab(cache, slab)

    def release_slab(self, cache, slab):
        """Give a slab's pages back; those of a SLAB_TYPESAFE_BY_RCU cache wait for :meth:`rcu_barrier`.

        Source: mm/slub.c:free_slab @6.1.192
        """
        self.caches[cache].freed_slabs += 1
        self.pages[slab].frozen = 0
        if not self.caches[cache].flags & _SLAB_TYPESAFE_BY_RCU:
            return self.free_slab_pages(slab)
        self.pages[slab].next = NO_SLAB
        if self.rcu_first == NO_SLAB:
            self.rcu_first = slab
        else:
            self.pages[self.rcu_last].next = slab
        self.rcu_last = slab
        self.rcu_pending += 1
        return 0

    def free_slab_pages(self, slab):
        """Turn a slab back into a plain block and free it.

        Source: mm/slub.c:__free_slab @6.1.192
        """
        order: cython.uint = self.pages[slab].order
        self.free_links(self.pages[slab].slots, self.pages[slab].objects)
        self.pages[slab].inuse = 0
        self.pages[slab].objects = 0
        self.pages[slab].freelist = NO_OBJECT
        return self.allocator.free_pages_order(slab, order)

    def rcu_barrier(self) -> int:
        """Let a grace period pass: the pages of released SLAB_TYPESAFE_BY_RCU slabs go back, oldest first.

        Returns
        -------
        int
            How many slabs were freed.
        """
        slab: cython.uint = self.rcu_first
        following: cython.uint
        count = self.rcu_pending
        self.rcu_first = NO_SLAB
        self.rcu_last = NO_SLAB
        self.rcu_pending = 0
        while slab != NO_SLAB:
            following = self.pages[slab].next
            self.free_slab_pages(slab)
            slab = following
        return count

    # ------------------------------------------------------------------ lists and counters of a node

    def slab_node(self, cache, slab):
        """Return the per-node part of a cache for the node that a slab lies on."""
        return cython.address(self.nodes[cache * self.nr_nodes + self.pages[slab].zone // MAX_NR_ZONES])

    def add_partial(self, cache, slab, tail):
        """Put a slab on its node's partial list."""
        n: cython.pointer(CacheNode) = self.slab_node(cache, slab)
        n.nr_partial += 1
        if tail:
            return list_add_tail(self.pages, n.partial, slab)
        return list_add(self.pages, n.partial, slab)

    def remove_partial(self, cache, slab):
        """Take a slab off its node's partial list."""
        self.slab_node(cache, slab).nr_partial -= 1
        return list_del(self.pages, slab)

    def add_full(self, cache, slab):
        """Put a slab on the list of full slabs, which only SLAB_STORE_USER caches keep."""
        if self.caches[cache].flags & _SLAB_STORE_USER:
            list_add(self.pages, self.slab_node(cache, slab).full, slab)
        return 0

    def remove_full(self, cache, slab):
        """Take a slab off the list of full slabs, if its cache keeps one."""
        if self.caches[cache].flags & _SLAB_STORE_USER:
            list_del(self.pages, slab)
        return 0

    def count_slab(self, cache, slab, sign):
        """Count a slab and its objects into (1) or out of (-1) its node.

        Source: mm/slub.c:inc_slabs_node, dec_slabs_node @6.1.192
        """
        n: cython.pointer(CacheNode) = self.slab_node(cache, slab)
        n.nr_slabs += sign
        n.total_objects += sign * cython.cast(cython.int, self.pages[slab].objects)
        return 0

    def shrink_node(self, cache, node):
        """Give a node's empty slabs back and sort the others: fewest free objects first.

        Slabs with more than SHRINK_PROMOTE_MAX free objects keep their order
        behind the sorted ones.

        Source: mm/slub.c:__kmem_cache_do_shrink @6.1.192
        """
        n: cython.pointer(CacheNode) = cython.address(self.nodes[cache * self.nr_nodes + node])
        promote: cython.uint[32]
        discard: cython.uint = NO_SLAB
        slab: cython.uint
        following: cython.uint
        anchor: cython.uint
        free: cython.uint
        i: cython.int
        for i in range(SHRINK_PROMOTE_MAX):
            promote[i] = NO_SLAB
        slab = self.pages[n.partial].next
        while slab != n.partial:
            following = self.pages[slab].next
            free = self.pages[slab].objects - self.pages[slab].inuse
            if self.pages[slab].inuse == 0:
                self.remove_partial(cache, slab)
                self.count_slab(cache, slab, -1)
                self.pages[slab].next = discard
                discard = slab
            elif free <= SHRINK_PROMOTE_MAX:
                list_del(self.pages, slab)
                self.pages[slab].next = promote[free - 1]
                promote[free - 1] = slab
            slab = following
        for i in range(SHRINK_PROMOTE_MAX - 1, -1, -1):
            slab = promote[i]
            anchor = n.partial
            while slab != NO_SLAB:
                following = self.pages[slab].next
                list_add(self.pages, anchor, slab)
                anchor = slab
                slab = following
        while discard != NO_SLAB:
            following = self.pages[discard].next
            self.release_slab(cache, discard)
            discard = following
        return 0

    def free_partial(self, cache, node):
        """Give a node's empty slabs back, the last of its list first.

        Source: mm/slub.c:free_partial @6.1.192
        """
        head: cython.uint = self.nodes[cache * self.nr_nodes + node].partial
        slab: cython.uint = self.pages[head].next
        discard: cython.uint = NO_SLAB
        following: cython.uint
        while slab != head:
            following = self.pages[slab].next
            if self.pages[slab].inuse == 0:
                self.remove_partial(cache, slab)
                self.pages[slab].next = discard
                discard = slab
            slab = following
        while discard != NO_SLAB:
            following = self.pages[discard].next
            self.discard_slab(cache, discard)
            discard = following
        return 0

    # ------------------------------------------------------------------ objects

    def object_address(self, cache, slab, index):
        """Return the address of object number `index` of a slab."""
        s: cython.pointer(Cache) = cython.address(self.caches[cache])
        return (cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT) + s.red_left_pad + index * s.size

    def slab_of(self, address):
        """Return the head frame of the slab that an address lies in, NO_SLAB if in none."""
        pfn: cython.ulonglong = address >> _PAGE_SHIFT
        if pfn >= self.memmap.nr_frames:
            return NO_SLAB
        if self.pages[pfn].kind == PG_TAIL:
            pfn = self.pages[pfn].head
        return cython.cast(cython.uint, pfn) if self.pages[pfn].kind == PG_SLAB else NO_SLAB

    def locate(self, address, index):
        """Return the slab of an object that is in use, and its number in `index[0]`; refuse anything else."""
        pfn: cython.ulonglong = address >> _PAGE_SHIFT
        slab: cython.uint
        c: cython.pointer(CacheCpu)
        offset: cython.ulonglong
        number: cython.ulonglong
        if pfn >= self.memmap.nr_frames:
            raise StateError(f"object {address:#x}: beyond the end of memory")
        slab = cython.cast(cython.uint, pfn)
        if self.pages[slab].kind == PG_TAIL:
            slab = self.pages[slab].head
        if self.pages[slab].kind != PG_SLAB:
            raise StateError(f"object {address:#x}: frame {pfn} is not in a slab")
        c = cython.address(self.cpus[self.pages[slab].cache * self.nr_cpus])
        offset = address - (cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT)
        if offset < c.red_left_pad:
            raise StateError(f"object {address:#x}: not the start of an object of slab {slab}")
        offset -= c.red_left_pad
        number = (offset * c.reciprocal) >> 32
        if number >= self.pages[slab].objects or number * c.size != offset:
            raise StateError(f"object {address:#x}: not the start of an object of slab {slab}")
        if self.links[self.pages[slab].slots + number] != IN_USE:
            raise StateError(f"object {address:#x}: object {number} of slab {slab} is already free")
        index[0] = cython.cast(cython.ushort, number)
        return slab

    def where(self, address: int) -> tuple:
        """Return slab and object number of an address in a slab, whether in use or not."""
        slab: cython.uint = self.slab_of(address)
        if slab == NO_SLAB:
            raise StateError(f"address {address:#x} is not in a slab")
        s: cython.pointer(Cache) = cython.address(self.caches[self.pages[slab].cache])
        return slab, (address - (cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT) - s.red_left_pad) // s.size

    def slab_of_frame(self, pfn: int):
        """Return the head frame of the slab that a frame is in, or None."""
        slab: cython.uint = self.slab_of(pfn << 12)
        return None if slab == NO_SLAB else slab

    def slab_objects(self, slab: int) -> int:
        """Return how many objects a slab has."""
        return self.pages[slab].objects

    def slab_cache(self, slab: int) -> int:
        """Return the index of the cache that a slab is of."""
        return self.pages[slab].cache

    # ------------------------------------------------------------------ links and random numbers

    def alloc_links(self, objects):
        """Return the start of a chunk of links for a slab of `objects` objects.

        A free chunk's first two links hold the start of the next free one of
        its size, in units of _CHUNK links.
        """
        size_class: cython.uint = (objects + _CHUNK - 1) // _CHUNK
        slots: cython.uint
        following: cython.uint
        chunk: cython.uint = self.chunks[size_class]
        if chunk != NO_SLAB:
            slots = chunk * _CHUNK
            following = self.links[slots] | (cython.cast(cython.uint, self.links[slots + 1]) << 16)
            self.chunks[size_class] = following
            return slots
        slots = self.links_end
        if slots + size_class * _CHUNK > cython.cast(cython.uint, self.links.shape[0]):
            self.links_array = np.concatenate([self.links_array, np.zeros_like(self.links_array)])
            self.links = self.links_array
            return self.alloc_links(objects)
        self.links_end = slots + size_class * _CHUNK
        return slots

    def free_links(self, slots, objects):
        """Take a chunk of links back."""
        size_class: cython.uint = (objects + _CHUNK - 1) // _CHUNK
        chunk: cython.uint = self.chunks[size_class]
        self.links[slots] = chunk & 0xFFFF
        self.links[slots + 1] = chunk >> 16
        self.chunks[size_class] = slots // _CHUNK
        return 0

    @cython.overflowcheck(False)
    def random_below(self, limit):
        """Draw a number below `limit`: splitmix64, then the multiplication that the kernel uses too."""
        # Named, because a literal above 2**63 would be a Python number; products wrap on purpose.
        gamma: cython.ulonglong = 0x9E3779B97F4A7C15
        first: cython.ulonglong = 0xBF58476D1CE4E5B9
        second: cython.ulonglong = 0x94D049BB133111EB
        z: cython.ulonglong
        self.random_state += gamma
        z = self.random_state
        z = (z ^ (z >> 30)) * first
        z = (z ^ (z >> 27)) * second
        z ^= z >> 31
        return cython.cast(cython.uint, ((z & 0xFFFFFFFF) * limit) >> 32)
