# SPDX-License-Identifier: GPL-2.0-only
"""Slab caches and the objects in their slabs: where everything is, and what stands there.

A slab is a block of pages cut into objects of one size.  This module holds the
caches, the storage behind all their slabs, and the objects by address;
:mod:`kmem.mm.slab_pages` makes and releases slabs and keeps the lists of each
node, :mod:`kmem.mm.slub_partial` those of CPUs, and :mod:`kmem.mm.slub` hands
out the objects.

An *object* is named by its physical address: ``pfn << PAGE_SHIFT`` plus the
offset in the page, 64 bits on every machine; on the direct map the kernel's
pointer is that plus ``PAGE_OFFSET``.  Physical address 0 is an address like
any other, so "no object" is ``NULL_OBJECT``, all ones.

Freelists are kept in one array of 16-bit links, packed slab by slab:
``links[Page.slots + n]`` is the number of the object that follows object `n`,
``NO_OBJECT`` at the end of a list and ``IN_USE`` while the object is handed
out.  The last makes a double free visible at the price of a store.  All state
is in flat arrays.

Where the machine's memory has bytes (:meth:`Slabs.attach_ram`), the free
pointers lie in the objects as well, hidden as the kernel hides them.  What
stands there decides: a pointer that is not the one that the links hold was
overwritten, and is followed as the kernel would follow it (``WILD``).

Source: mm/slab.h, mm/slub.c @6.1.192
Differs: ``struct kmem_cache`` and its parts take no memory of the modelled
machine; without memory, debug caches follow the debug paths, but have no bytes to check.
"""

import zlib

import cython
import numpy as np
from cython.cimports.kmem.mm.page import MAX_NR_ZONES, MAX_ORDER, NO_OBJECT, PG_SLAB, PG_TAIL, list_init
from cython.cimports.libc.string import memset

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
        ("object_size", "u4"),
        ("fp_offset", "u4"),
        ("init", "u1"),
        ("setup", "u1"),
        ("spare", "u2"),
        ("random", "u8"),
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
    *("objects", "min_objects", "order", "min_order", "debug", "object_size"),
)

# Links are given out in chunks of a multiple of this many.
_CHUNK = cython.declare(cython.uint, 8)
_PAGE_SHIFT = cython.declare(cython.uint, 12)

_SLAB_RED_ZONE = cython.declare(cython.uint, 0x400)
_SLAB_POISON = cython.declare(cython.uint, 0x800)
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
        self.seed = seed & 0xFFFFFFFFFFFFFFFF
        self.ram_base = 0
        self.page_offset = 0
        self.word_bytes = 8
        self.init_on_alloc = True
        self.wild = {}
        self.ctors = {}

    # ------------------------------------------------------------------ caches

    def kmem_cache_create(self, geometry, random_seq=None, random=None) -> int:
        """Set up an empty cache.

        Parameters
        ----------
        geometry : CacheGeometry
            Layout and limits; kept, not copied.
        random_seq : sequence of int, optional
            Order of the objects on a shuffled freelist, a permutation of
            ``range(geometry.objects)``. Drawn if `geometry` asks for one.
        random : int, optional
            What free pointers are hidden with; drawn if not given.

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
        row["fp_offset"] = g.offset
        row["random"] = self.cache_random(index, g.name) if random is None else random
        row["live"] = 1
        self.ctors.pop(index, None)
        self.set_init(index)
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

    def cache_random(self, index: int, name: str) -> int:
        """Return the number that a cache's free pointers are hidden with: by seed and cache alone.

        Source: mm/slub.c:kmem_cache_open @6.1.192
        """
        mask = 0xFFFFFFFFFFFFFFFF
        seed: object = self.seed
        z = ((seed + 1) * 0x9E3779B97F4A7C15 + (zlib.crc32(name.encode()) << 32) + index) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def set_init_options(self, init_on_alloc: bool, init_on_free: bool) -> None:
        """Take over the boot options of the same names, for the caches that exist and those to come."""
        self.init_on_alloc = init_on_alloc
        self.init_on_free = init_on_free
        for cache in self.geometries:
            self.set_init(cache)

    def set_init(self, cache: int) -> None:
        """Work out when a cache's objects are zeroed, and how its slabs are set up.

        Source: mm/slab.h:slab_want_init_on_alloc, slab_want_init_on_free @6.1.192
        """
        row = self.caches_array[cache]
        flags = int(row["flags"])
        ctor = self.geometries[cache].ctor if cache in self.geometries else False
        ctor = ctor or cache in self.ctors
        keeps = ctor or flags & (_SLAB_TYPESAFE_BY_RCU | _SLAB_POISON)
        init = 0
        if self.init_on_alloc:
            init = INIT_NEVER if ctor else 0 if keeps else INIT_ON_ALLOC
        if self.init_on_free and not keeps:
            init |= INIT_ON_FREE
        row["init"] = init
        row["setup"] = cache in self.ctors or flags & (_SLAB_STORE_USER | _SLAB_RED_ZONE | _SLAB_POISON) != 0

    def set_ctor(self, cache: int, ctor) -> None:
        """Have a function called for each object when a slab of a cache is made; None for none.

        Parameters
        ----------
        cache : int
        ctor : callable or None
            Called with the object's physical address. It runs while the slab belongs to nobody; what it
            raises goes to whoever wanted the object, after the slab is given back.
        """
        self.check_cache(cache)
        if ctor is None:
            self.ctors.pop(cache, None)
        else:
            self.ctors[cache] = ctor
        self.set_init(cache)

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

    # ------------------------------------------------------------------ bytes

    def attach_ram(
        self,
        base: int,
        *,
        checker,
        page_offset: int,
        word_bytes: int = 8,
    ) -> None:
        """Give the objects bytes: from now on free pointers, poison and red zones are in memory.

        Slabs that exist already get the bytes that they would have now. Linear in their objects.

        Parameters
        ----------
        base : int
            Host address of physical address 0; all frames are mapped from there on.
        checker : kmem.mm.slub_check.SlubChecker
            Sets up and checks the slabs of debug caches.
        page_offset : int
            Kernel address of physical address 0.
        word_bytes : int
            Size of a pointer.
        """
        self.checker = checker
        self.page_offset = page_offset
        self.word_bytes = word_bytes
        self.ram_base = base
        checker.adopt_slabs()

    def write_links(self, slab: int) -> None:
        """Write the free pointers of a slab that has none in memory yet."""
        cache: cython.uint = self.pages[slab].cache
        index: cython.uint
        link: cython.ushort
        for index in range(self.pages[slab].objects):
            link = self.links[self.pages[slab].slots + index]
            if link != IN_USE:
                self.write_link(cache, slab, index, link)

    def hidden(self, cache, pointer, phys):
        """Return a free pointer as it stands in memory at `phys`, or what one that stands there says.

        Source: mm/slub.c:freelist_ptr @6.1.192 (CONFIG_SLAB_FREELIST_HARDENED)
        """
        at: cython.ulonglong = self.page_offset + phys
        if self.word_bytes == 8:
            return pointer ^ self.caches[cache].random ^ swab64(at)
        return (pointer ^ self.caches[cache].random ^ swab32(cython.cast(cython.uint, at & 0xFFFFFFFF))) & 0xFFFFFFFF

    def read_link(self, cache, address):
        """Return the free pointer of the object at a physical address.

        Source: mm/slub.c:get_freepointer @6.1.192
        """
        phys: cython.ulonglong = address + self.caches[cache].fp_offset
        at: cython.size_t = cython.cast(cython.size_t, self.ram_base + phys)
        if self.word_bytes == 8:
            return self.hidden(cache, cython.cast(cython.pointer(cython.ulonglong), at)[0], phys)
        return self.hidden(cache, cython.cast(cython.pointer(cython.uint), at)[0], phys)

    def link_pointer(self, cache, slab, link):
        """Return the kernel address that a link stands for."""
        if link == NO_OBJECT:
            return 0
        if link == WILD:
            return self.wild.get(slab, 0)
        return self.page_offset + self.object_address(cache, slab, link)

    def write_link(self, cache, slab, index, link):
        """Write the free pointer of an object.

        Source: mm/slub.c:set_freepointer @6.1.192
        """
        phys: cython.ulonglong = self.object_address(cache, slab, index) + self.caches[cache].fp_offset
        word: cython.ulonglong = self.hidden(cache, self.link_pointer(cache, slab, link), phys)
        at: cython.size_t = cython.cast(cython.size_t, self.ram_base + phys)
        if self.word_bytes == 8:
            cython.cast(cython.pointer(cython.ulonglong), at)[0] = word
        else:
            cython.cast(cython.pointer(cython.uint), at)[0] = cython.cast(cython.uint, word)
        return 0

    def next_link(self, cache, slab, index):
        """Return the link behind a free object: the one that memory says."""
        link: cython.ushort = self.links[self.pages[slab].slots + index]
        pointer: cython.ulonglong = self.read_link(cache, self.object_address(cache, slab, index))
        if pointer == self.link_pointer(cache, slab, link):
            return link
        return self.wild_link(slab, link, pointer)

    def wild_link(self, slab, link, pointer):
        """Follow a free pointer that was overwritten: the objects behind it are lost for good."""
        slots: cython.uint = self.pages[slab].slots
        following: cython.ushort
        while link < WILD:
            following = self.links[slots + link]
            self.links[slots + link] = IN_USE
            link = following
        self.wild.pop(slab, None)
        if pointer == 0:
            return NO_OBJECT
        self.wild[slab] = pointer
        return WILD

    def zero_bytes(self, phys, size):
        """Zero memory."""
        memset(
            cython.cast(cython.p_void, cython.cast(cython.size_t, self.ram_base + phys)),
            0,
            cython.cast(cython.size_t, size),
        )
        return 0

    def init_on_free_bytes(self, cache, address):
        """Zero an object that is freed, its metadata too but for the red zone in front of the next one.

        Source: mm/slub.c:slab_free_hook @6.1.192
        """
        size: cython.uint
        inuse: cython.uint
        if self.caches[cache].init & INIT_ON_FREE:
            geometry = self.geometries[cache]
            size = geometry.size
            inuse = geometry.inuse
            self.zero_bytes(address, self.caches[cache].object_size)
            self.zero_bytes(address + inuse, size - inuse - self.caches[cache].red_left_pad)
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
