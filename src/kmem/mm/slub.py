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
from cython.cimports.kmem.mm.page import MAX_NR_ZONES, MAX_ORDER, NO_OBJECT, PG_LARGE, Page
from cython.cimports.kmem.mm.page_alloc import (
    GFP_COMP_BIT,
    GFP_DIRECT_RECLAIM_BIT,
    GFP_DMA32_BIT,
    GFP_DMA_BIT,
    GFP_HIGHMEM_BIT,
    GFP_NOWARN_BIT,
    GFP_RECLAIMABLE_BIT,
)
from cython.cimports.kmem.mm.slab import (
    IN_USE,
    INIT_NEVER,
    INIT_ON_ALLOC,
    INIT_ON_FREE,
    KMALLOC_MAX_CACHE_SIZE,
    NO_CACHE,
    NO_SLAB,
    NR_KMALLOC_INDEXES,
    NR_KMALLOC_TYPES,
    NULL_OBJECT,
    WILD,
    Cache,
    CacheCpu,
    swab32,
    swab64,
)
from cython.cimports.kmem.mm.slub_partial import PartialSlabs, pfmemalloc_match
from cython.cimports.kmem.mm.tracepoint import TP_KFREE, TP_KMALLOC, TP_KMEM_CACHE_ALLOC, TP_KMEM_CACHE_FREE
from cython.cimports.libc.string import memmove, memset

from kmem.errors import StateError, UsageError
from kmem.mm.kmalloc import kmalloc_index

#: What a request of no bytes is given; freeing it does nothing.
ZERO_SIZE_OBJECT = 0xFFFFFFFFFFFFFFFE

_ZERO = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFE)
_PAGE_SHIFT = cython.declare(cython.uint, 12)
_GFP_ACCOUNT = cython.declare(cython.uint, 0x400000)
_GFP_ZERO = cython.declare(cython.uint, 0x100)
_SLAB_STORE_USER = cython.declare(cython.uint, 0x10000)
_SLAB_TYPESAFE_BY_RCU = cython.declare(cython.uint, 0x80000)


@cython.final
@cython.cclass
class Slub(PartialSlabs):
    """All slab caches of a machine, over one page allocator.

    Parameters
    ----------
    allocator : kmem.mm.page_alloc.PageAllocator
        Where slabs come from. Its ``cpu`` and ``node`` are those that every call runs on.
    seed : int, optional
        Seed of the freelist randomisation.

    Attributes
    ----------
    on_track : callable or None
        Called as ``on_track(freeing, gfp)`` where the kernel saves the stack
        of a SLAB_STORE_USER cache's user, which may take pages of its own.
    """

    def __init__(self, allocator, seed: int = 0):
        PartialSlabs.__init__(self, allocator, seed)
        self.kmalloc_array = np.full(NR_KMALLOC_TYPES * NR_KMALLOC_INDEXES, NO_CACHE, np.uint16)
        self.kmalloc_caches = self.kmalloc_array
        indexes = [kmalloc_index(8 * n) for n in range(KMALLOC_MAX_CACHE_SIZE // 8 + 1)]
        self.kmalloc_indexes = np.array(indexes, np.uint8)
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
        if self.ram_base:
            return self.slab_alloc_bytes(cache, gfp, node)
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        index: cython.ushort = c.freelist
        link: cython.uint
        if index == NO_OBJECT or (node >= 0 and self.pages[c.slab].zone // MAX_NR_ZONES != node):
            return self.slab_alloc_slow(cache, gfp, node)
        link = c.slots + index
        c.freelist = self.links[link]
        self.links[link] = IN_USE
        return (cython.cast(cython.ulonglong, c.slab) << _PAGE_SHIFT) + c.red_left_pad + index * c.size

    def slab_alloc_bytes(self, cache, gfp, node):
        """Take an object where objects have bytes: its free pointer in memory says what comes next.

        Source: mm/slub.c:slab_alloc_node, get_freepointer_safe @6.1.192
        """
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        index: cython.ushort = c.freelist
        if index >= WILD or (node >= 0 and self.pages[c.slab].zone // MAX_NR_ZONES != node):
            return self.finish_alloc(cache, self.slab_alloc_slow(cache, gfp, node), gfp)
        s: cython.pointer(Cache) = cython.address(self.caches[cache])
        first: cython.ulonglong = (cython.cast(cython.ulonglong, c.slab) << _PAGE_SHIFT) + c.red_left_pad
        address: cython.ulonglong = first + index * c.size
        following: cython.ushort = self.links[c.slots + index]
        pointer: cython.ulonglong = 0 if following == NO_OBJECT else self.page_offset + first + following * c.size
        self.links[c.slots + index] = IN_USE
        if following == WILD or self.word_at(address + s.fp_offset) != self.hidden_word(
            s, pointer, address + s.fp_offset
        ):
            self.links[c.slots + index] = following
            c.freelist = self.next_link(cache, c.slab, index)
            self.links[c.slots + index] = IN_USE
            return self.finish_alloc(cache, address, gfp)
        c.freelist = following
        if s.init & INIT_ON_FREE or self.pending:
            return self.finish_alloc(cache, address, gfp)
        if s.init & INIT_ON_ALLOC or (gfp & _GFP_ZERO and not s.init & INIT_NEVER):
            memset(cython.cast(cython.p_char, self.ram_base + address), 0, s.object_size)
        return address

    def word_at(self, phys):
        """Return the machine word in memory at a physical address."""
        if self.word_bytes == 8:
            return cython.cast(cython.pointer(cython.ulonglong), self.ram_base + phys)[0]
        return cython.cast(cython.pointer(cython.uint), self.ram_base + phys)[0]

    def hidden_word(self, s, pointer, phys):
        """Return a free pointer as it stands in memory at `phys`; the same as :meth:`Slabs.hidden`.

        Source: mm/slub.c:freelist_ptr @6.1.192 (CONFIG_SLAB_FREELIST_HARDENED)
        """
        at: cython.ulonglong = self.page_offset + phys
        if self.word_bytes == 8:
            return pointer ^ s.random ^ swab64(at)
        return (pointer ^ s.random ^ swab32(cython.cast(cython.uint, at & 0xFFFFFFFF))) & 0xFFFFFFFF

    def finish_alloc(self, cache, address, gfp):
        """Zero the bytes of an object that is handed out, where somebody wants that, and report what was found.

        Source: mm/slub.c:maybe_wipe_obj_freeptr, mm/slab.h:slab_post_alloc_hook @6.1.192
        """
        init: cython.uint
        if address != NULL_OBJECT:
            init = self.caches[cache].init
            if init & INIT_ON_FREE:
                self.zero_bytes(address + self.caches[cache].fp_offset, self.word_bytes)
            if init & INIT_ON_ALLOC or (gfp & _GFP_ZERO and not init & INIT_NEVER):
                self.zero_bytes(address, self.caches[cache].object_size)
        if self.pending:
            try:
                self.checker.deliver()
            except BaseException:
                # Whoever catches the report has no object.
                if address != NULL_OBJECT:
                    self.checker.muted = True
                    try:
                        self.slab_free(address)
                    finally:
                        self.checker.muted = False
                raise
        return address

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
            if index == WILD:
                return self.alloc_wild(c)
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
                self.allocator.hooks.slab_out_of_memory(cache, gfp, node)
                return NULL_OBJECT
            if debug:
                index = self.alloc_single_from_new_slab(cache, slab)
                if index == NO_OBJECT:
                    return self.slab_alloc_slow(cache, gfp, node)  # its bytes changed at once: another one
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
        if self.ram_base:
            c.freelist = self.next_link(self.pages[slab].cache, slab, index)
        else:
            c.freelist = self.links[slots + index]
        self.links[slots + index] = IN_USE
        return (cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT) + c.red_left_pad + index * c.size

    def take_from_reserve_slab(self, cache, slab, index):
        """Take one object of a slab out of the emergency reserves that the request may not share."""
        slots: cython.uint = self.pages[slab].slots
        following: cython.ushort = self.links[slots + index]
        if self.ram_base:
            following = self.next_link(cache, slab, index)
        self.links[slots + index] = IN_USE
        self.deactivate_slab(cache, slab, following)
        return self.object_address(cache, slab, index)

    def take_debug_object(self, cache, slab, index, gfp):
        """Finish a debug cache's allocation: the object is the caller's, its user is on record."""
        if self.caches[cache].flags & _SLAB_STORE_USER:
            if self.on_track is not None:
                self.on_track(False, gfp & ~GFP_DIRECT_RECLAIM_BIT)
            if self.checker is not None:
                self.checker.set_alloc_track(cache, self.object_address(cache, slab, index))
        return self.object_address(cache, slab, index)

    def alloc_wild(self, c):
        """Take the object that an overwritten free pointer names, wherever that is, as the kernel does.

        Raises
        ------
        KernelOops
            If no memory is there.
        """
        slab: cython.uint = c.slab
        cache: cython.uint = self.pages[slab].cache
        pointer: cython.ulonglong = self.wild[slab]
        following: cython.ulonglong
        end: cython.ulonglong = cython.cast(cython.ulonglong, self.memmap.nr_frames) << _PAGE_SHIFT
        at: cython.ulonglong = self.caches[cache].fp_offset + self.word_bytes
        if pointer < self.page_offset or pointer - self.page_offset > end - at:
            self.checker.wild_access(cache, self.wild[slab])
        following = self.read_link(cache, pointer - self.page_offset)
        if following:
            self.wild[slab] = following
        else:
            del self.wild[slab]
            c.freelist = NO_OBJECT
        return pointer - self.page_offset

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
        if self.ram_base:
            return self.slab_free_bytes(address)
        index: cython.ushort = 0
        slab: cython.uint = self.locate(address, cython.address(index))
        cache: cython.uint = self.pages[slab].cache
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        if c.slab != slab:
            return self.slab_free_slow(cache, slab, index, index, 1)
        self.links[c.slots + index] = c.freelist
        c.freelist = index
        return 0

    def slab_free_bytes(self, address):
        """Give an object back where objects have bytes: checked, wiped, its free pointer in memory.

        Source: mm/slub.c:slab_free, slab_free_freelist_hook, do_slab_free @6.1.192
        """
        index: cython.ushort = 0
        slab: cython.uint = self.slab_of(address)
        cache: cython.uint
        c: cython.pointer(CacheCpu)
        if slab == NO_SLAB:
            self.locate(address, cython.address(index))  # says what is there instead
        cache = self.pages[slab].cache
        if self.slab_free_cpu(cache, slab, address):
            return 0
        if self.caches[cache].debug:
            self.checker.free(cache, slab, address)
            if self.pending:
                self.checker.deliver()
            return 0
        c = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        self.checker_free_again(cache, slab, address, c.freelist if c.slab == slab else self.pages[slab].freelist)
        self.locate(address, cython.address(index))
        self.init_on_free_bytes(cache, address)
        if c.slab != slab:
            self.slab_free_slow(cache, slab, index, index, 1)
        else:
            self.write_link(cache, slab, index, c.freelist)
            self.links[c.slots + index] = c.freelist
            c.freelist = index
        if self.pending:
            self.checker.deliver()
        return 0

    def slab_free_cpu(self, cache, slab, address):
        """Give an object of this CPU's slab back; False if there is more to do than that, or something is wrong.

        Source: mm/slub.c:do_slab_free @6.1.192
        """
        s: cython.pointer(Cache) = cython.address(self.caches[cache])
        c: cython.pointer(CacheCpu) = cython.address(self.cpus[cache * self.nr_cpus + self.allocator.cpu])
        first: cython.ulonglong = (cython.cast(cython.ulonglong, slab) << _PAGE_SHIFT) + c.red_left_pad
        number: cython.ulonglong
        pointer: cython.ulonglong = 0
        at: cython.ulonglong
        if c.slab != slab or s.debug or s.init & INIT_ON_FREE or self.pending or c.freelist == WILD or address < first:
            return False
        number = ((address - first) * c.reciprocal) >> 32
        if number >= self.pages[slab].objects or number * c.size != address - first:
            return False
        if self.links[c.slots + number] != IN_USE:
            return False
        if c.freelist != NO_OBJECT:
            pointer = self.page_offset + first + c.freelist * c.size
        at = address + s.fp_offset
        if self.word_bytes == 8:
            cython.cast(cython.pointer(cython.ulonglong), self.ram_base + at)[0] = self.hidden_word(s, pointer, at)
        else:
            cython.cast(cython.pointer(cython.uint), self.ram_base + at)[0] = cython.cast(
                cython.uint, self.hidden_word(s, pointer, at)
            )
        self.links[c.slots + number] = c.freelist
        c.freelist = cython.cast(cython.ushort, number)
        return True

    def checker_free_again(self, cache, slab, address, head):
        """Report an object that is freed while it is the first of its freelist, which the kernel notices.

        Source: mm/slub.c:set_freepointer @6.1.192
        """
        if head < WILD and self.object_address(cache, slab, head) == address:
            self.checker.free_again(cache)
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
        if self.ram_base:
            self.write_link(cache, slab, tail, prior)
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
        self.orig_size = size
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
            if self.ram_base and not self.allocator.ram_base and (self.init_on_alloc or gfp & _GFP_ZERO):
                self.zero_bytes(address, cython.cast(cython.ulonglong, 4096) << order)
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
        if self.ram_base and self.detached_bytes(cache, slab, head):
            return 0
        if c.slab != slab:
            return self.slab_free_slow(cache, slab, head, tail, count)
        self.links[c.slots + tail] = c.freelist
        if self.ram_base:
            self.write_link(cache, slab, tail, c.freelist)
        c.freelist = head
        return 0

    def detached_bytes(self, cache, slab, head):
        """Write the free pointers of a list of objects; those of a debug cache are freed here, and 1 returned.

        A list of a debug cache is freed from its end, one by one, which leaves the same freelist.
        """
        index: cython.ushort = head
        slots: cython.uint = self.pages[slab].slots
        following: cython.ushort
        freed: list = []
        while index != NO_OBJECT:
            following = self.links[slots + index]
            if self.caches[cache].debug:
                freed.append(self.object_address(cache, slab, index))
                self.links[slots + index] = IN_USE
            else:
                self.init_on_free_bytes(cache, self.object_address(cache, slab, index))
                self.write_link(cache, slab, index, following)
            index = following
        if not freed:
            return 0
        for address in reversed(freed):
            self.checker.free(cache, slab, address)
        if self.pending:
            self.checker.deliver()
        return 1

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
            if self.checker is None:
                other = self.geometries[self.pages[slab].cache].name
                raise StateError(f"object {address:#x} is of cache {other}, not {self.geometries[cache].name}")
            self.checker.wrong_cache(cache, self.pages[slab].cache, address)
        self.cache_free(address)
        if self.pending:
            self.checker.deliver()

    def kmem_cache_alloc_bulk(self, cache: int, gfp: int, count: int) -> list:
        """Take `count` objects of a cache; an empty list if they cannot all be had."""
        self.check_cache(cache)
        objects = np.zeros(count, np.uint64)
        return objects.tolist() if count and self.alloc_bulk(cache, gfp, objects) else []

    def kmem_cache_free_bulk(self, addresses) -> None:
        """Give many objects of any caches back, slab by slab."""
        if len(addresses):
            objects = np.array(addresses, np.uint64)
            self.check_bulk(objects)
            self.free_bulk(objects)

    def check_bulk(self, objects):
        """Refuse a list of objects to free if one of them is not in use, or named twice, before any is freed."""
        index: cython.ushort = 0
        if len(np.unique(objects)) != len(objects):
            raise StateError("an object is named twice among those to be freed")
        for address in objects.tolist():
            if self.large_order(address) < 0:
                self.locate(address, cython.address(index))

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
        if self.pending:
            self.checker.deliver()
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
            if self.checker is not None:
                self.checker.list_slab_objects(cache, node)
            self.free_partial(cache, node)
            if self.nodes[cache * self.nr_nodes + node].nr_slabs:
                if self.checker is not None:
                    self.checker.still_has_objects(cache)  # delivered by whoever called
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
            if self.ram_base and address != ZERO_SIZE_OBJECT:
                self.copy_bytes(new, address, self.ksize(address))
            self.kfree(address)
        return new

    def copy_bytes(self, to: int, source: int, size: int) -> None:
        """Copy bytes from one physical address to another."""
        memmove(
            cython.cast(cython.p_void, cython.cast(cython.size_t, self.ram_base + to)),
            cython.cast(cython.p_void, cython.cast(cython.size_t, self.ram_base + source)),
            cython.cast(cython.size_t, size),
        )

    def validate_slab_cache(self, cache: int) -> int:
        """Check every object of a cache's listed slabs, as writing to ``/sys/kernel/slab/NAME/validate`` does.

        Parameters
        ----------
        cache : int

        Returns
        -------
        int
            Slabs that were looked at. Errors are reported, and counted by
            :attr:`kmem.mm.slub_check.SlubChecker.errors`.

        Source: mm/slub.c:validate_slab_cache @6.1.192
        """
        self.check_cache(cache)
        if self.checker is None:
            raise StateError("this machine's objects have no bytes to check", remedy="use the machine's kernel")
        for cpu in range(self.nr_cpus):
            self.flush_cpu_slab(cache, cpu)
        count = self.checker.validate_slab_cache(cache)
        self.checker.deliver()
        return count

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
