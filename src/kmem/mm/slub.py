# SPDX-License-Identifier: GPL-2.0-only
"""SLUB at run time: who gets which object.

Each CPU owns one slab of a cache (frozen: nobody else touches its lists) with
a private freelist, and a short list of further frozen slabs; each node keeps a
list of partially used slabs.  Full slabs are on no list.  Caches with debug
flags go without the per-CPU part: every object is taken from, and returned to,
the node's lists.

Objects are named by their physical address, see :mod:`kmem.mm.slab`.  The
methods for Python answer ``None`` for the kernel's NULL, and
:data:`ZERO_SIZE_OBJECT` to a request of no bytes.

Source: mm/slub.c @6.1.192
Differs: one thread of control, so the retry loops around ``cmpxchg`` are gone;
memory control groups charge nothing.
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    MAX_ORDER,
    NO_OBJECT,
    PG_LARGE,
    PGF_PFMEMALLOC,
    Page,
    list_del,
)
from cython.cimports.kmem.mm.page_alloc import (
    GFP_COMP_BIT,
    GFP_DIRECT_RECLAIM_BIT,
    GFP_DMA32_BIT,
    GFP_DMA_BIT,
    GFP_HIGHMEM_BIT,
    GFP_NOWARN_BIT,
    GFP_RECLAIMABLE_BIT,
    GFP_THISNODE_BIT,
    PageAllocator,
)
from cython.cimports.kmem.mm.slab import (
    IN_USE,
    KMALLOC_MAX_CACHE_SIZE,
    NO_CACHE,
    NO_SLAB,
    NR_KMALLOC_INDEXES,
    NR_KMALLOC_TYPES,
    NULL_OBJECT,
    CacheCpu,
    CacheNode,
    Slabs,
)
from cython.cimports.kmem.mm.tracepoint import TP_KFREE, TP_KMALLOC, TP_KMEM_CACHE_ALLOC, TP_KMEM_CACHE_FREE

from kmem.errors import StateError, UsageError
from kmem.mm.kmalloc import kmalloc_index

#: What a request of no bytes is given; freeing it does nothing.
ZERO_SIZE_OBJECT = 0xFFFFFFFFFFFFFFFE

_ZERO = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFE)
_PAGE_SHIFT = cython.declare(cython.uint, 12)
_GFP_ACCOUNT = cython.declare(cython.uint, 0x400000)
_SLAB_STORE_USER = cython.declare(cython.uint, 0x10000)
_SLAB_TYPESAFE_BY_RCU = cython.declare(cython.uint, 0x80000)


@cython.final
@cython.cclass
class Slub(Slabs):
    """All slab caches of a machine, over one page allocator.

    Parameters
    ----------
    allocator : kmem.mm.page_alloc.PageAllocator
        Where slabs come from. Its ``cpu`` and ``node`` are those that every call runs on.
    seed : int, optional
        Seed of the freelist randomisation.

    Attributes
    ----------
    cpu_partial : bool
        Whether CPUs keep lists of partial slabs (SLUB_CPU_PARTIAL, the default).
    on_track : callable or None
        Called as ``on_track(freeing, gfp)`` where the kernel saves the stack
        of a SLAB_STORE_USER cache's user, which may take pages of its own.
    """

    def __init__(self, allocator, seed: int = 0):
        Slabs.__init__(self, allocator, seed)
        self.kmalloc_array = np.full(NR_KMALLOC_TYPES * NR_KMALLOC_INDEXES, NO_CACHE, np.uint16)
        self.kmalloc_caches = self.kmalloc_array
        indexes = [kmalloc_index(8 * n) for n in range(KMALLOC_MAX_CACHE_SIZE // 8 + 1)]
        self.kmalloc_indexes = np.array(indexes, np.uint8)
        self.cpu_partial = True
        self.on_track = None

    # ------------------------------------------------------------------ allocation

    def cache_alloc(self, cache, gfp, node):
        """Take an object of a cache: its address, or NULL_OBJECT. Constant time but for a new slab.

        Source: mm/slub.c:kmem_cache_alloc_node @6.1.192
        """
        address: cython.ulonglong = self.slab_alloc(cache, gfp, node)
        if self.allocator.trace.enabled >> TP_KMEM_CACHE_ALLOC & 1:
            self.object_event(TP_KMEM_CACHE_ALLOC, address, self.geometries[cache].object_size, cache, gfp)
        return address

    def slab_alloc(self, cache, gfp, node):
        """Take an object from this CPU's freelist, or else from further away.

        Source: mm/slub.c:slab_alloc_node @6.1.192
        """
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        index: cython.ushort = c.freelist
        link: cython.uint
        if index == NO_OBJECT or (node >= 0 and self.pages[c.slab].zone // MAX_NR_ZONES != node):
            return self.slab_alloc_slow(cache, gfp, node)
        link = c.slots + index
        c.freelist = self.links[link]
        self.links[link] = IN_USE
        return (cython.cast(cython.ulonglong, c.slab) << _PAGE_SHIFT) + c.red_left_pad + index * c.size

    def slab_alloc_slow(self, cache, gfp, node):
        """Find an object where this CPU's freelist has none: own slabs, the nodes' slabs, a new slab.

        Source: mm/slub.c:___slab_alloc @6.1.192
        """
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        slab: cython.uint
        index: cython.ushort = NO_OBJECT
        debug: cython.bint = self.caches[cache].debug
        if node >= 0 and not self.has_normal_memory(node):
            node = -1  # a wish that can not be met is ignored
        while True:
            slab = c.slab
            if slab == NO_SLAB:
                slab = c.partial
                if slab == NO_SLAB:
                    break
                c.partial = self.pages[slab].next
                c.slab = slab
            index = c.freelist
            if (node >= 0 and self.pages[slab].zone // MAX_NR_ZONES != node) or not pfmemalloc_match(
                self.allocator, self.pages[slab].flags, gfp
            ):
                c.slab = NO_SLAB
                c.freelist = NO_OBJECT
                self.deactivate_slab(cache, slab, index)
                continue
            if index == NO_OBJECT:
                # get_freelist(): what others have freed into this slab, all at once
                index = self.pages[slab].freelist
                self.pages[slab].freelist = NO_OBJECT
                self.pages[slab].inuse = self.pages[slab].objects
                if index == NO_OBJECT:
                    self.pages[slab].frozen = 0
                    c.slab = NO_SLAB
                    continue
            return self.load_freelist(c, slab, index)

        slab = self.get_partial(cache, gfp, node, cython.address(index))
        if slab == NO_SLAB:
            slab = self.new_slab(cache, gfp, node)
            if slab == NO_SLAB:
                self.caches[cache].failures += 1
                return NULL_OBJECT
            if debug:
                index = self.alloc_single_from_new_slab(cache, slab)
            else:
                index = self.pages[slab].freelist
                self.pages[slab].freelist = NO_OBJECT
                self.pages[slab].inuse = self.pages[slab].objects
                self.pages[slab].frozen = 1
                self.count_slab(cache, slab, 1)
                if not pfmemalloc_match(self.allocator, self.pages[slab].flags, gfp):
                    return self.take_from_reserve_slab(cache, slab, index)
        if debug:
            return self.take_debug_object(cache, slab, index, gfp)
        # The page allocator's hooks may have come through here meanwhile.
        c = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        while c.slab != NO_SLAB:
            self.flush_slab(cache, self.allocator.cpu)
        return self.load_freelist(c, slab, index)

    def load_freelist(self, c, slab, index):
        """Make `slab` this CPU's, its free objects from `index` on the CPU's freelist, and take the first."""
        slots: cython.uint = self.pages[slab].slots
        c.slab = slab
        c.slots = slots
        c.freelist = self.links[slots + index]
        self.links[slots + index] = IN_USE
        return (cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT) + c.red_left_pad + index * c.size

    def take_from_reserve_slab(self, cache, slab, index):
        """Take one object of a slab out of the emergency reserves that the request may not share."""
        slots: cython.uint = self.pages[slab].slots
        following: cython.ushort = self.links[slots + index]
        self.links[slots + index] = IN_USE
        self.deactivate_slab(cache, slab, following)
        return self.object_address(cache, slab, index)

    def take_debug_object(self, cache, slab, index, gfp):
        """Finish a debug cache's allocation: the object is the caller's, its user is on record."""
        if self.on_track is not None and self.caches[cache].flags & _SLAB_STORE_USER:
            self.on_track(False, gfp & ~GFP_DIRECT_RECLAIM_BIT)
        return self.object_address(cache, slab, index)

    # ------------------------------------------------------------------ slabs from the nodes' lists

    def get_partial(self, cache, gfp, node, index):
        """Take a partially used slab off a node's list, nearest node first; NO_SLAB if there is none.

        Source: mm/slub.c:get_partial @6.1.192
        """
        slab: cython.uint
        slab = self.get_partial_node(cache, gfp, node if node >= 0 else self.allocator.node, index)
        if slab != NO_SLAB or node >= 0 or self.nr_nodes == 1:
            return slab
        return self.get_any_partial(cache, gfp, index)

    def get_partial_node(self, cache, gfp, node, index):
        """Take the first fitting slab of one node's list, and some more for the CPU's partial list.

        The slab is returned frozen, with its first free object in `index[0]`;
        of a debug cache's slab, only that object is taken.

        Source: mm/slub.c:get_partial_node, acquire_slab @6.1.192
        """
        n: cython.pointer(CacheNode) = cython.address(self.nodes[cache * self.nr_nodes + node])
        slab: cython.uint
        following: cython.uint
        taken: cython.uint = NO_SLAB
        extra: cython.uint = 0
        if n.nr_partial == 0:
            return NO_SLAB
        slab = self.pages[n.partial].next
        while slab != n.partial:
            following = self.pages[slab].next
            if not pfmemalloc_match(self.allocator, self.pages[slab].flags, gfp):
                slab = following
                continue
            if self.caches[cache].debug:
                index[0] = self.alloc_single_from_partial(cache, slab)
                return slab
            list_del(self.pages, slab)
            n.nr_partial -= 1
            self.pages[slab].frozen = 1
            if taken == NO_SLAB:
                index[0] = self.pages[slab].freelist
                self.pages[slab].freelist = NO_OBJECT
                self.pages[slab].inuse = self.pages[slab].objects
                taken = slab
            else:
                self.put_cpu_partial(cache, slab, False)
                extra += 1
            if not self.cpu_partial or extra > self.caches[cache].cpu_partial_slabs // 2:
                break
            slab = following
        return taken

    def get_any_partial(self, cache, gfp, index):
        """Take a slab of another node that has more than it must keep, in zonelist order.

        Source: mm/slub.c:get_any_partial @6.1.192
        Differs: the kernel looks at the low bits of the time stamp counter and, at
        the default ratio of 1000, stays on its node 23 times in 1024; the model
        always looks further unless the ratio is 0.
        """
        place: cython.int = 0
        zone: cython.uchar
        slab: cython.uint
        highest: cython.uchar = self.allocator.gfp_zones[gfp & 15]
        row: cython.int = self.allocator.node
        if not self.caches[cache].remote_ratio:
            return NO_SLAB
        if gfp & GFP_THISNODE_BIT:
            row += self.nr_nodes
        while True:
            zone = self.allocator.zonelists[row, place]
            if zone == 255:
                return NO_SLAB
            place += 1
            if zone % MAX_NR_ZONES > highest:
                continue
            if self.nodes[cache * self.nr_nodes + zone // MAX_NR_ZONES].nr_partial > self.caches[cache].min_partial:
                slab = self.get_partial_node(cache, gfp, zone // MAX_NR_ZONES, index)
                if slab != NO_SLAB:
                    return slab

    def alloc_single_from_partial(self, cache, slab):
        """Take one object of a debug cache's slab and leave the slab on its list, unless it is full now.

        Source: mm/slub.c:alloc_single_from_partial @6.1.192
        """
        link: cython.uint
        index: cython.ushort = self.pages[slab].freelist
        link = self.pages[slab].slots + index
        self.pages[slab].freelist = self.links[link]
        self.links[link] = IN_USE
        self.pages[slab].inuse += 1
        if self.pages[slab].inuse == self.pages[slab].objects:
            self.remove_partial(cache, slab)
            self.add_full(cache, slab)
        return index

    def alloc_single_from_new_slab(self, cache, slab):
        """Take one object of a debug cache's fresh slab and put the slab on the head of its list.

        Source: mm/slub.c:alloc_single_from_new_slab @6.1.192
        """
        link: cython.uint
        index: cython.ushort = self.pages[slab].freelist
        link = self.pages[slab].slots + index
        self.pages[slab].freelist = self.links[link]
        self.links[link] = IN_USE
        self.pages[slab].inuse = 1
        if self.pages[slab].objects == 1:
            self.add_full(cache, slab)
        else:
            self.add_partial(cache, slab, False)
        self.count_slab(cache, slab, 1)
        return index

    # ------------------------------------------------------------------ slabs leaving a CPU

    def deactivate_slab(self, cache, slab, freelist):
        """Take a slab from its CPU: `freelist`, the CPU's own, goes in front of what others freed.

        Source: mm/slub.c:deactivate_slab @6.1.192
        """
        n: cython.pointer(CacheNode) = self.slab_node(cache, slab)
        tail: cython.bint = self.pages[slab].freelist != NO_OBJECT
        slots: cython.uint = self.pages[slab].slots
        index: cython.ushort = freelist
        last: cython.ushort = NO_OBJECT
        count: cython.ushort = 0
        while index != NO_OBJECT:
            last = index
            count += 1
            index = self.links[slots + index]
        if last != NO_OBJECT:
            self.links[slots + last] = self.pages[slab].freelist
            self.pages[slab].freelist = freelist
            self.pages[slab].inuse -= count
        self.pages[slab].frozen = 0
        if self.pages[slab].inuse == 0 and n.nr_partial >= self.caches[cache].min_partial:
            return self.discard_slab(cache, slab)
        if self.pages[slab].freelist != NO_OBJECT:
            return self.add_partial(cache, slab, tail)
        return self.add_full(cache, slab)

    def unfreeze_partials(self, cache, slab):
        """Move a CPU's partial list, `slab` first, to the nodes' lists; empty ones above the limit go.

        Slabs are appended in list order, but those to be given back are given
        back in reverse, after all others have moved.

        Source: mm/slub.c:__unfreeze_partials @6.1.192
        """
        n: cython.pointer(CacheNode)
        following: cython.uint
        discard: cython.uint = NO_SLAB
        while slab != NO_SLAB:
            following = self.pages[slab].next
            n = self.slab_node(cache, slab)
            self.pages[slab].frozen = 0
            if self.pages[slab].inuse == 0 and n.nr_partial >= self.caches[cache].min_partial:
                self.pages[slab].next = discard
                discard = slab
            else:
                self.add_partial(cache, slab, True)
            slab = following
        while discard != NO_SLAB:
            following = self.pages[discard].next
            self.discard_slab(cache, discard)
            discard = following
        return 0

    def put_cpu_partial(self, cache, slab, drain):
        """Put a slab that was just frozen on this CPU's partial list; `drain` empties a full list first.

        Source: mm/slub.c:put_cpu_partial @6.1.192
        """
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        oldest: cython.uint = c.partial
        unfreeze: cython.uint = NO_SLAB
        count: cython.ushort = 0
        if oldest != NO_SLAB:
            if drain and self.pages[oldest].slabs >= self.caches[cache].cpu_partial_slabs:
                unfreeze = oldest
                oldest = NO_SLAB
            else:
                count = self.pages[oldest].slabs
        self.pages[slab].slabs = count + 1
        self.pages[slab].next = oldest
        c.partial = slab
        if unfreeze != NO_SLAB:
            self.unfreeze_partials(cache, unfreeze)
        return 0

    def flush_slab(self, cache, cpu):
        """Take a CPU's current slab from it.

        Source: mm/slub.c:flush_slab @6.1.192
        """
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + cpu])
        slab: cython.uint = c.slab
        freelist: cython.ushort = c.freelist
        c.slab = NO_SLAB
        c.freelist = NO_OBJECT
        if slab != NO_SLAB:
            self.deactivate_slab(cache, slab, freelist)
        return 0

    def flush_cpu_slab(self, cache, cpu):
        """Take all slabs of a cache from one CPU. Runs on that CPU.

        Source: mm/slub.c:flush_cpu_slab @6.1.192
        """
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + cpu])
        here: cython.int = self.allocator.cpu
        partial: cython.uint
        self.allocator.cpu = cpu
        self.flush_slab(cache, cpu)
        partial = c.partial
        c.partial = NO_SLAB
        self.unfreeze_partials(cache, partial)
        self.allocator.cpu = here
        return 0

    # ------------------------------------------------------------------ freeing

    def cache_free(self, address):
        """Give an object back to the cache that it is of. Constant time but for released slabs.

        Source: mm/slub.c:kmem_cache_free @6.1.192
        """
        if self.allocator.trace.enabled >> TP_KMEM_CACHE_FREE & 1:
            slab: cython.uint = self.slab_of(address)
            cache: cython.uint = NO_CACHE if slab == NO_SLAB else self.pages[slab].cache
            self.allocator.trace.object_event(TP_KMEM_CACHE_FREE, address, 0, 0, 0, cache)
        return self.slab_free(address)

    def slab_free(self, address):
        """Give an object back to this CPU's freelist, or else to its slab.

        Source: mm/slub.c:do_slab_free @6.1.192
        """
        index: cython.ushort = 0
        slab: cython.uint = self.locate(address, cython.address(index))
        cache: cython.uint = self.pages[slab].cache
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        if c.slab != slab:
            return self.slab_free_slow(cache, slab, index, index, 1)
        self.links[c.slots + index] = c.freelist
        c.freelist = index
        return 0

    def slab_free_slow(self, cache, slab, head, tail, count):
        """Give `count` linked objects, `head` to `tail`, back to a slab that is not this CPU's current one.

        Source: mm/slub.c:__slab_free @6.1.192
        """
        page: cython.pointer(Page) = cython.address(self.pages[slab])
        prior: cython.ushort = page.freelist
        if self.caches[cache].debug:
            return self.free_to_partial_list(cache, slab, head, tail, count)
        self.links[page.slots + tail] = prior
        page.freelist = head
        page.inuse -= count
        if page.frozen:
            return 0
        if prior == NO_OBJECT and self.cpu_partial:
            # On no list so far: it goes to this CPU, to be used again soon.
            page.frozen = 1
            return self.put_cpu_partial(cache, slab, True)
        if page.inuse == 0 and self.slab_node(cache, slab).nr_partial >= self.caches[cache].min_partial:
            if prior != NO_OBJECT:
                self.remove_partial(cache, slab)
            return self.discard_slab(cache, slab)
        if prior == NO_OBJECT:
            return self.add_partial(cache, slab, True)
        return 0

    def free_to_partial_list(self, cache, slab, head, tail, count):
        """Give objects back to a debug cache's slab, which is on the node's partial or full list.

        Source: mm/slub.c:free_to_partial_list @6.1.192
        """
        page: cython.pointer(Page) = cython.address(self.pages[slab])
        prior: cython.ushort = page.freelist
        empty: cython.bint
        if self.on_track is not None and self.caches[cache].flags & _SLAB_STORE_USER:
            self.on_track(True, GFP_NOWARN_BIT)
        self.links[page.slots + tail] = prior
        page.freelist = head
        page.inuse -= count
        empty = page.inuse == 0 and self.slab_node(cache, slab).nr_partial >= self.caches[cache].min_partial
        if prior == NO_OBJECT:
            self.remove_full(cache, slab)
            if not empty:
                self.add_partial(cache, slab, True)
        elif empty:
            self.remove_partial(cache, slab)
        if empty:
            self.discard_slab(cache, slab)
        return 0

    # ------------------------------------------------------------------ kmalloc

    def kmalloc_node(self, size, gfp, node):
        """Take memory of at least `size` bytes: its address, ZERO_SIZE_OBJECT or NULL_OBJECT.

        Source: mm/slab_common.c:__do_kmalloc_node @6.1.192
        """
        kind: cython.uint = 0  # KMALLOC_NORMAL
        cache: cython.uint
        address: cython.ulonglong
        self.kmalloc_cache = NO_CACHE
        if size == 0:
            return _ZERO
        if size > KMALLOC_MAX_CACHE_SIZE:
            return self.kmalloc_large(size, gfp, node)
        if gfp & (GFP_DMA_BIT | GFP_RECLAIMABLE_BIT | _GFP_ACCOUNT):
            kind = 3 if gfp & GFP_DMA_BIT else 2 if gfp & GFP_RECLAIMABLE_BIT else 1
        cache = self.kmalloc_caches[kind * NR_KMALLOC_INDEXES + self.kmalloc_indexes[(size + 7) >> 3]]
        if cache == NO_CACHE:
            raise StateError(f"kmalloc({size}, {gfp:#x}): this machine has no such kmalloc cache")
        self.kmalloc_cache = cache
        address = self.slab_alloc(cache, gfp, node)
        if self.allocator.trace.enabled >> TP_KMALLOC & 1:
            self.object_event(TP_KMALLOC, address, size, cache, gfp)
        return address

    def object_event(self, event, address, size, cache, gfp):
        """Write a trace record of an allocation."""
        return self.allocator.trace.object_event(event, address, size, self.caches[cache].size, gfp, cache)

    def kmalloc_large(self, size, gfp, node):
        """Take a compound page of at least `size` bytes straight from the page allocator.

        Source: mm/slab_common.c:__kmalloc_large_node @6.1.192
        """
        order: cython.uint = 0
        pfn: cython.uint
        address: cython.ulonglong = NULL_OBJECT
        while order < MAX_ORDER and (cython.cast(cython.ulonglong, 1) << (_PAGE_SHIFT + order)) < size:
            order += 1
        if order == MAX_ORDER:
            return NULL_OBJECT
        pfn = self.allocator.alloc_pages_node(node, (gfp & ~(GFP_HIGHMEM_BIT | GFP_DMA32_BIT)) | GFP_COMP_BIT, order)
        if pfn != NO_SLAB:
            self.pages[pfn].kind = PG_LARGE
            address = cython.cast(cython.ulonglong, pfn) << _PAGE_SHIFT
        if self.allocator.trace.enabled >> TP_KMALLOC & 1:
            self.allocator.trace.object_event(
                TP_KMALLOC, address, size, cython.cast(cython.ulonglong, 1) << (_PAGE_SHIFT + order), gfp, NO_CACHE
            )
        return address

    def kfree_object(self, address):
        """Give back what any kmalloc() gave: an object, a large page, ZERO_SIZE_OBJECT or NULL_OBJECT.

        Source: mm/slab_common.c:kfree @6.1.192
        """
        pfn: cython.ulonglong
        if self.allocator.trace.enabled >> TP_KFREE & 1:
            self.allocator.trace.object_event(TP_KFREE, address, 0, 0, 0, NO_CACHE)
        if address >= _ZERO:
            return 0
        pfn = address >> _PAGE_SHIFT
        if pfn < self.memmap.nr_frames and self.pages[pfn].kind == PG_LARGE:
            if address & 0xFFF:
                raise StateError(f"kfree({address:#x}): not the start of a large allocation")
            return self.allocator.free_pages_order(cython.cast(cython.uint, pfn), self.pages[pfn].order)
        return self.slab_free(address)

    # ------------------------------------------------------------------ many objects at once

    def alloc_bulk(self, cache, gfp, objects):
        """Fill `objects` with objects of a cache; 0, with none taken, if one cannot be had.

        Source: mm/slub.c:kmem_cache_alloc_bulk @6.1.192
        """
        n: cython.Py_ssize_t
        for n in range(objects.shape[0]):
            objects[n] = self.slab_alloc(cache, gfp, -1)
            if objects[n] == NULL_OBJECT:
                self.free_bulk(objects[:n])
                return 0
        return 1

    def free_bulk(self, objects):
        """Give objects and large pages back, slab by slab. Reorders `objects`.

        Objects of one slab are collected into one list as long as no more than
        three others stand between them, and freed together.

        Source: mm/slub.c:kmem_cache_free_bulk, build_detached_freelist, slab_free_freelist_hook @6.1.192
        """
        size: cython.Py_ssize_t = objects.shape[0]
        same: cython.Py_ssize_t
        slab: cython.uint
        index: cython.ushort = 0
        head: cython.ushort
        tail: cython.ushort
        count: cython.ushort
        lookahead: cython.int
        pfn: cython.ulonglong
        other: cython.ulonglong
        while size:
            size -= 1
            pfn = objects[size] >> _PAGE_SHIFT
            if pfn < self.memmap.nr_frames and self.pages[pfn].kind == PG_LARGE:
                self.kfree_object(objects[size])
                continue
            slab = self.locate(objects[size], cython.address(index))
            head = tail = index
            count = 1
            same = size
            lookahead = 3
            self.links[self.pages[slab].slots + tail] = NO_OBJECT
            while size:
                size -= 1
                if self.slab_of(objects[size]) == slab:
                    self.locate(objects[size], cython.address(index))
                    # Collected head first, then turned round by slab_free_freelist_hook().
                    self.links[self.pages[slab].slots + tail] = index
                    self.links[self.pages[slab].slots + index] = NO_OBJECT
                    tail = index
                    count += 1
                    same -= 1
                    if size != same:
                        other = objects[size]
                        objects[size] = objects[same]
                        objects[same] = other
                    continue
                lookahead -= 1
                if lookahead == 0:
                    break
            size = same
            self.free_detached(slab, head, tail, count)
        return 0

    def free_detached(self, slab, head, tail, count):
        """Give a list of objects of one slab back.

        Source: mm/slub.c:do_slab_free @6.1.192
        """
        cache: cython.uint = self.pages[slab].cache
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        if c.slab != slab:
            return self.slab_free_slow(cache, slab, head, tail, count)
        self.links[c.slots + tail] = c.freelist
        c.freelist = head
        return 0

    # ------------------------------------------------------------------ for Python

    def kmem_cache_alloc(self, cache: int, gfp: int, node: int = -1):
        """Take an object of a cache: its address, or None. `node` -1 is no wish."""
        self.check_cache(cache)
        address: cython.ulonglong = self.cache_alloc(cache, gfp, node)
        return None if address == NULL_OBJECT else address

    def kmem_cache_free(self, cache: int, address: int) -> None:
        """Give an object of a cache back.

        Raises
        ------
        StateError
            If it is not an object of this cache in use. The kernel, built with
            hardening, warns and frees it into its own cache.
        """
        self.check_cache(cache)
        slab: cython.uint = self.slab_of(address)
        if slab != NO_SLAB and self.pages[slab].cache != cache:
            other = self.geometries[self.pages[slab].cache].name
            raise StateError(f"object {address:#x} is of cache {other}, not {self.geometries[cache].name}")
        self.cache_free(address)

    def kmem_cache_alloc_bulk(self, cache: int, gfp: int, count: int) -> list:
        """Take `count` objects of a cache; an empty list if they cannot all be had."""
        self.check_cache(cache)
        objects = np.zeros(count, np.uint64)
        return objects.tolist() if count and self.alloc_bulk(cache, gfp, objects) else []

    def kmem_cache_free_bulk(self, addresses) -> None:
        """Give many objects of any caches back, slab by slab."""
        if len(addresses):
            self.free_bulk(np.array(addresses, np.uint64))

    def flush_all(self, cache: int) -> None:
        """Take all slabs of a cache from the CPUs.

        Source: mm/slub.c:flush_all @6.1.192
        """
        self.check_cache(cache)
        for cpu in range(self.nr_cpus):
            self.flush_cpu_slab(cache, cpu)

    def kmem_cache_shrink(self, cache: int) -> bool:
        """Take all slabs from the CPUs, give the empty ones back and sort the rest.

        The CPUs do their part one after the other, in order; in the kernel they do it at once.

        Returns
        -------
        bool
            Whether the cache has slabs left.

        Source: mm/slub.c:__kmem_cache_shrink @6.1.192
        """
        self.check_cache(cache)
        for cpu in range(self.nr_cpus):
            self.flush_cpu_slab(cache, cpu)
        for node in range(self.nr_nodes):
            self.shrink_node(cache, node)
        return self.nr_slabs(cache) > 0

    def kmem_cache_destroy(self, cache: int) -> bool:
        """Give all of a cache's slabs back and forget the cache.

        Returns
        -------
        bool
            False if objects are still in use: the cache stays, without the empty slabs
            of the nodes up to the first that has objects in use.

        Source: mm/slub.c:__kmem_cache_shutdown, mm/slab_common.c:shutdown_cache @6.1.192
        """
        self.check_cache(cache)
        for cpu in range(self.nr_cpus):
            self.flush_cpu_slab(cache, cpu)
        for node in range(self.nr_nodes):
            self.free_partial(cache, node)
            if self.nodes[cache * self.nr_nodes + node].nr_slabs:
                return False  # the nodes behind it are left as they are
        if self.caches[cache].flags & _SLAB_TYPESAFE_BY_RCU:
            self.rcu_barrier()
        self.caches[cache].live = 0
        del self.geometries[cache]
        self.free_indexes.append(cache)
        return True

    def kmalloc(self, size: int, gfp: int, node: int = -1):
        """Take memory of at least `size` bytes: its address, ZERO_SIZE_OBJECT for no bytes, or None."""
        if size < 0:
            raise UsageError(f"kmalloc of {size} bytes")
        address: cython.ulonglong = self.kmalloc_node(min(size, 1 << 40), gfp, node)
        return None if address == NULL_OBJECT else address

    def kfree(self, address) -> None:
        """Give back what :meth:`kmalloc` gave; None and ZERO_SIZE_OBJECT are fine.

        Raises
        ------
        StateError
            If `address` is not that of an allocation in use.
        """
        if address is not None:
            self.kfree_object(address)

    def ksize(self, address) -> int:
        """Return how many bytes at an address its owner may use.

        Source: mm/slab_common.c:__ksize @6.1.192
        """
        if address is None or address == ZERO_SIZE_OBJECT:
            return 0
        pfn: cython.ulonglong = address >> 12
        if pfn < self.memmap.nr_frames and self.pages[pfn].kind == PG_LARGE:
            return 4096 << self.pages[pfn].order
        index: cython.ushort = 0
        return self.caches[self.pages[self.locate(address, cython.address(index))].cache].ksize

    def large_order(self, address: int) -> int:
        """Return the page order of a large allocation; -1 if the address is not that of one."""
        pfn: cython.ulonglong = address >> 12
        if pfn < self.memmap.nr_frames and self.pages[pfn].kind == PG_LARGE:
            return self.pages[pfn].order
        return -1

    def krealloc(self, address, size: int, gfp: int):
        """Resize an allocation: its address, which is a new one only if it grows out of its object.

        Source: mm/slab_common.c:krealloc, __do_krealloc @6.1.192
        """
        if size == 0:
            self.kfree(address)
            return ZERO_SIZE_OBJECT
        if self.ksize(address) >= size:
            return address
        new = self.kmalloc(size, gfp)
        if new is not None and address is not None:
            self.kfree(address)
        return new

    def validate(self) -> None:
        """Check every slab and every list; see :func:`kmem.mm.slub_state.validate_caches`."""
        from kmem.mm.slub_state import validate_caches

        validate_caches(self)

    def dump(self, cache: int) -> dict:
        """Return the lists of a cache as plain data; see :mod:`kmem.mm.slub_state`."""
        from kmem.mm.slub_state import dump_cache

        return dump_cache(self, cache)

    def set_kmalloc_cache(self, kind: int, index: int, cache: int) -> None:
        """Enter a cache as ``kmalloc_caches[kind][index]``: kind 0 normal, 1 cgroup, 2 reclaimable, 3 DMA."""
        self.check_cache(cache)
        self.kmalloc_array[kind * NR_KMALLOC_INDEXES + index] = cache


@cython.cfunc
@cython.inline
@cython.exceptval(-1, check=True)
def pfmemalloc_match(allocator: PageAllocator, page_flags: cython.uchar, gfp: cython.uint) -> cython.bint:
    """Tell whether a request may have objects of a slab: those out of the reserves are for who may use these.

    Source: mm/slub.c:pfmemalloc_match, mm/page_alloc.c:gfp_pfmemalloc_allowed @6.1.192
    """
    return not page_flags & PGF_PFMEMALLOC or allocator.pfmemalloc_flags(gfp) != 0
