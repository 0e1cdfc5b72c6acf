# SPDX-License-Identifier: GPL-2.0-only
"""SLUB's partially used slabs: on their way to a CPU, from it, and between lists.

Source: mm/slub.c @6.1.192
"""

import cython
from cython.cimports.kmem.mm.page import MAX_NR_ZONES, NO_OBJECT, PGF_PFMEMALLOC, list_del
from cython.cimports.kmem.mm.page_alloc import GFP_THISNODE_BIT
from cython.cimports.kmem.mm.slab import IN_USE, NO_SLAB, WILD, CacheCpu, CacheNode
from cython.cimports.kmem.mm.slab_pages import SlabPages


@cython.cclass
class PartialSlabs(SlabPages):
    """Slabs with free objects; see :class:`kmem.mm.slab.Slabs` for the parameters.

    Attributes
    ----------
    cpu_partial : bool
        Whether CPUs keep lists of partial slabs (SLUB_CPU_PARTIAL, the default).
    """

    def __init__(self, allocator, seed: int = 0):
        SlabPages.__init__(self, allocator, seed)
        self.cpu_partial = True

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
                if index[0] == NO_OBJECT:
                    slab = following  # found damaged, and taken off the list
                    continue
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
        if self.checker is not None:
            return self.checker.alloc_single_from_partial(cache, slab)
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
        if self.checker is not None:
            return self.checker.alloc_single_from_new_slab(cache, slab)
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
        while index < WILD:
            last = index
            count += 1
            if self.ram_base:
                self.links[slots + index] = self.next_link(cache, slab, index)
            index = self.links[slots + index]
        if index == WILD:
            self.checker.wild_in_list(cache, self.wild.pop(slab, 0))
        if last != NO_OBJECT:
            self.links[slots + last] = self.pages[slab].freelist
            if self.ram_base:
                self.write_link(cache, slab, last, self.pages[slab].freelist)
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


def pfmemalloc_match(allocator, page_flags, gfp):
    """Tell whether a request may have objects of a slab: those out of the reserves are for who may use these.

    Source: mm/slub.c:pfmemalloc_match, mm/page_alloc.c:gfp_pfmemalloc_allowed @6.1.192
    """
    return not page_flags & PGF_PFMEMALLOC or allocator.pfmemalloc_flags(gfp) != 0
