# SPDX-License-Identifier: GPL-2.0-only
"""Slabs from the page allocator and back, and the lists that each node keeps of them.

A node lists its partially used slabs and, for caches that track their users,
the full ones.

Source: mm/slub.c @6.1.192
"""

import cython
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    NO_OBJECT,
    PG_RESERVED,
    PG_SLAB,
    PG_TAIL,
    list_add,
    list_add_tail,
    list_del,
)
from cython.cimports.kmem.mm.page_alloc import (
    GFP_DIRECT_RECLAIM_BIT,
    GFP_KSWAPD_RECLAIM_BIT,
    GFP_NOFAIL_BIT,
    GFP_NOMEMALLOC_BIT,
    GFP_NORETRY_BIT,
    GFP_NOWARN_BIT,
)
from cython.cimports.kmem.mm.slab import NO_SLAB, SHRINK_PROMOTE_MAX, Cache, CacheNode, Slabs

from kmem.errors import UsageError

_PAGE_SHIFT = cython.declare(cython.uint, 12)

# GFP_RECLAIM_MASK | GFP_CONSTRAINT_MASK: all that a slab allocation takes over from its request.
# Source: mm/internal.h
_GFP_SLAB_MASK = cython.declare(cython.uint, 0x3BEEE0)
_GFP_RECLAIM = cython.declare(cython.uint, GFP_DIRECT_RECLAIM_BIT | GFP_KSWAPD_RECLAIM_BIT)

_SLAB_STORE_USER = cython.declare(cython.uint, 0x10000)
_SLAB_TYPESAFE_BY_RCU = cython.declare(cython.uint, 0x80000)


@cython.cclass
class SlabPages(Slabs):
    """Slabs that come and go; see :class:`kmem.mm.slab.Slabs` for the parameters."""

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
        slab = self.take_slab_pages(cache, attempt, order, node)
        if slab == NO_SLAB:
            s = cython.address(self.caches[cache])
            order = s.min_order
            objects = s.min_objects
            slab = self.take_slab_pages(cache, flags, order, node)
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
        if self.ram_base:
            self.setup_bytes(cache, slab)
        return slab

    def take_slab_pages(self, cache, gfp, order, node):
        """Take the pages of a slab from the allocator, or from :attr:`page_source` if there is one.

        Source: mm/slub.c:alloc_slab_page @6.1.192
        """
        slab: cython.uint
        tail: cython.uint
        if self.page_source is None:
            return self.allocator.alloc_pages_node(node, gfp, order)
        pfn = self.page_source(cache, order)
        if pfn is None:
            return NO_SLAB
        slab = pfn
        self.pages[slab].flags = 2 if order else 0  # PGF_HEAD
        for tail in range(slab + 1, slab + (cython.cast(cython.uint, 1) << order)):
            self.pages[tail].kind = PG_TAIL
            self.pages[tail].head = slab
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
        if self.checker is not None and self.caches[self.pages[slab].cache].debug:
            self.checker.free_slab(self.pages[slab].cache, slab)
        self.free_links(self.pages[slab].slots, self.pages[slab].objects)
        self.pages[slab].inuse = 0
        self.pages[slab].objects = 0
        self.pages[slab].freelist = NO_OBJECT
        if self.wild:
            self.wild.pop(slab, None)
        if self.page_source is not None:
            tail: cython.uint
            for tail in range(slab, slab + (cython.cast(cython.uint, 1) << order)):
                self.pages[tail].kind = PG_RESERVED
                self.pages[tail].flags = 0
            return 0
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

    def setup_bytes(self, cache, slab):
        """Fill a fresh slab: zeroes, then what debugging or a constructor writes, then the free pointers.

        Source: mm/slub.c:allocate_slab, setup_object @6.1.192
        """
        index: cython.ushort
        if not self.allocator.ram_base and (self.init_on_alloc or self.init_on_free):
            # else the page allocator has done so
            self.zero_bytes(
                cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT,
                cython.cast(cython.ulonglong, 4096) << self.pages[slab].order,
            )
        if self.caches[cache].setup:
            try:
                self.checker.setup_slab(cache, slab, self.ctors.get(cache))
            except BaseException:
                # The constructor gave up: as if the slab had never been.
                self.caches[cache].new_slabs -= 1
                self.caches[cache].failures += 1
                self.caches[cache].debug, debug = 0, self.caches[cache].debug
                self.free_slab_pages(slab)
                self.caches[cache].debug = debug
                raise
            return 0
        index = self.pages[slab].freelist
        while index != NO_OBJECT:
            self.write_link(cache, slab, index, self.links[self.pages[slab].slots + index])
            index = self.links[self.pages[slab].slots + index]
        return 0

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

    def relist(self, cache: int, slab: int, how: str) -> None:
        """Move a debug cache's slab between its node's lists, for the checker.

        Parameters
        ----------
        how : {"partial-head", "partial-tail", "full", "not-partial", "not-full"}
        """
        if how == "partial-head":
            self.add_partial(cache, slab, False)
        elif how == "partial-tail":
            self.add_partial(cache, slab, True)
        elif how == "full":
            self.add_full(cache, slab)
        elif how == "not-partial":
            self.remove_partial(cache, slab)
        elif how == "not-full":
            self.remove_full(cache, slab)
        else:
            raise UsageError(f"relist({how!r})")

    def count_in(self, cache: int, slab: int) -> None:
        """Count a slab into its cache, for the checker."""
        self.count_slab(cache, slab, 1)

    def drop_slab(self, cache: int, slab: int) -> None:
        """Count a slab out of its cache and give its pages back, for the checker."""
        self.discard_slab(cache, slab)
