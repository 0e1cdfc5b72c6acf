# SPDX-License-Identifier: GPL-2.0-only
"""``kmalloc()``, ``kmem_cache_alloc()`` and their kin, as kernel code calls them.

The functions have the kernel's names, arguments and answers.  They act on the
current kernel, take and return kernel addresses, and answer None where the
kernel answers NULL.  The objects come from :class:`kmem.mm.slub.Slub`, which
knows them by their physical addresses; a fast path is its answer plus the
offset of the linear map.

Misuse that a kernel notices is reported in its words (:mod:`kmem.mm.slab_misuse`);
misuse that would silently destroy a kernel's data is refused with an error.

Source: include/linux/slab.h, mm/slab_common.c, mm/slub.c @6.1.192
Differs: a constructor may fail, by raising an exception; the slab goes back, and the exception to the caller.
"""

import ctypes
import operator

import cython
import numpy as np
from cython.cimports.kmem.mm.page import PG_LARGE, PG_SLAB, PG_TAIL
from cython.cimports.kmem.mm.slab import NO_CACHE, NO_SLAB, NR_KMALLOC_INDEXES, NULL_OBJECT
from cython.cimports.libc.string import memcpy, memset

from kmem.errors import KernelWarning, StateError, UsageError
from kmem.mm import slab_misuse
from kmem.mm.fault_create import cache_create_fails
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.slab_common import CacheCreateError, get_order

#: What a request of no bytes is given; it may be freed, but holds nothing.
ZERO_SIZE_PTR = 16
#: Largest request that a slab cache serves, and the largest of all, in bytes.
KMALLOC_MAX_CACHE_SIZE = 8192
KMALLOC_MAX_SIZE = 1 << 22
KMALLOC_MIN_SIZE = 8
NUMA_NO_NODE = -1

_ZERO = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFE)
_GFP_ZERO = cython.declare(cython.uint, 0x100)
_MAX_ORDER = 11


@cython.final
@cython.cclass
class KmemCache:
    """``struct kmem_cache``: a slab cache, as ``kmem_cache_create()`` answers it.

    Attributes
    ----------
    kernel : Kernel
        Whose it is.
    index : int
        Its number in ``kernel.slub``.
    name : str
        Name under which it was made first; caches that share it have names of their own.
    type : type or None
        The ``ctypes`` structure that was given as the size.
    ctor : callable or None
        Called with the address of each object when its slab is made.
    live : bool
        Whether it still exists.
    """

    def __init__(self, kernel: Kernel, index: int, name: str, type=None, ctor=None):
        self.kernel = kernel
        self.index = index
        self.name = name
        self.type = type
        self.ctor = ctor
        self.live = True
        self.plain = ctor is None
        self.constructing = False

    @property
    def geometry(self):
        """Layout and limits, :class:`kmem.mm.slab_common.CacheGeometry`."""
        usable(self.kernel, self)
        return self.kernel.slub.geometries[self.index]

    @property
    def object_size(self):
        """Bytes of an object that belong to its user."""
        return self.geometry.object_size

    @property
    def size(self):
        """Bytes from one object to the next."""
        return self.geometry.size

    @property
    def align(self):
        """Alignment of the objects, in bytes."""
        return self.geometry.align

    @property
    def flags(self):
        """``SLAB_*``, those that debugging options added included."""
        return self.geometry.flags

    @property
    def refcount(self):
        """How many users share it."""
        return self.geometry.refcount

    def forget(self):
        """Take note that the cache is gone."""
        self.live = False
        self.plain = False

    def construct(self, phys):
        """Run the constructor on an object of a fresh slab."""
        watch: cython.uint = self.kernel.watch & WATCH_CTOR
        self.constructing = True
        self.kernel.watch |= WATCH_CTOR
        try:
            self.ctor(self.kernel.page_offset + phys)
        finally:
            self.constructing = False
            self.kernel.watch = (self.kernel.watch & ~cython.cast(cython.uint, WATCH_CTOR)) | watch

    def __index__(self):
        return self.index

    def __repr__(self):
        return f"<KmemCache {self.name}{'' if self.live else ' (destroyed)'}>"


# ---------------------------------------------------------------------- caches


def cache_object(kernel: Kernel, index: int) -> KmemCache:
    """Return the KmemCache that names a cache of the machine's."""
    cache = kernel.kmem_caches.get(index)
    if cache is None:
        cache = kernel.kmem_caches[index] = KmemCache(kernel, index, kernel.caches.geometry(index).name)
    return cache


def forget_caches(kernel: Kernel):
    """Find out which caches are still there, after the machine has gone back to another state."""
    for index, cache in list(kernel.kmem_caches.items()):
        known = kernel.slub.geometries.get(index)
        if known is None or known.name != cache.name or cache.ctor is not None:
            cache.forget()
            del kernel.kmem_caches[index]


def usable(kernel, s):
    """Refuse a cache that is gone, or of another machine."""
    if s.kernel is not kernel:
        raise UsageError(f"cache {s.name} is of another machine", remedy="create one on this machine")
    if not s.live:
        raise StateError(f"cache {s.name} has been destroyed", remedy="use it before kmem_cache_destroy()")
    return 0


def kmem_cache_create(name, size, align=0, flags=0, ctor=None, dtor=None):
    """Create a slab cache, or share one that fits.

    Parameters
    ----------
    name : str
        Name in ``/proc/slabinfo``.
    size : int or type
        Bytes of an object, or a ``ctypes.Structure`` that stands for its layout.
    align : int
        Alignment in bytes, rounded up to whole words; 0 for none in particular.
    flags : int
        ``SLAB_*``.
    ctor : callable, optional
        Called once with the address of every object when its slab is made.
    dtor : None
        The destructor that kernels before 2.6.23 took here; only None is accepted.

    Returns
    -------
    KmemCache or None
        None where the kernel returns NULL: a bad request without SLAB_PANIC, or a fault that is
        injected (``m.failslab``). The log says why.

    Raises
    ------
    KernelPanic
        If the request is refused and has SLAB_PANIC.
    UsageError, TypeError
        If an argument is none that C could pass.

    Notes
    -----
    May sleep; not to be called in interrupts.

    Source: mm/slab_common.c:kmem_cache_create @6.1.192
    """
    if dtor is not None:
        raise UsageError("slab caches have no destructors", remedy="pass None, or leave the sixth argument out")
    return kmem_cache_create_usercopy(name, size, align, flags, 0, 0, ctor)


def kmem_cache_create_usercopy(name, size, align, flags, useroffset, usersize, ctor=None):
    """Create a slab cache whose objects are open to user copies in one region only.

    Parameters
    ----------
    name, size, align, flags, ctor
        As for :func:`kmem_cache_create`.
    useroffset, usersize : int
        The region, in bytes. One that does not lie within the object is closed altogether.

    Returns
    -------
    KmemCache or None

    Notes
    -----
    May sleep; not to be called in interrupts.

    Source: mm/slab_common.c:kmem_cache_create_usercopy @6.1.192
    """
    kernel: Kernel = running()
    if kernel.watch & WATCH_CTOR:
        raise UsageError("kmem_cache_create() called by a constructor", remedy="create caches beforehand")
    if kernel.watch:
        kernel.watched(0)
        check_may_sleep(kernel, "kernel/locking/mutex.c", 283)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the name of a cache is a str, not {type(name).__name__}")
    if ctor is not None and not callable(ctor):
        raise TypeError(f"a constructor is a function of one address, not {type(ctor).__name__}")
    kind = None
    if isinstance(size, type):
        try:
            kind, size = size, ctypes.sizeof(size)
        except TypeError:
            raise TypeError(f"{size.__name__} has no layout: give a ctypes.Structure, or bytes") from None
    numbers = {"size": size, "align": align, "flags": flags, "useroffset": useroffset, "usersize": usersize}
    for what, value in numbers.items():
        bad_number(value, what, 0xFFFFFFFF)
    if not size:
        raise UsageError("a cache of objects of 0 bytes", remedy="the kernel would divide by zero here")
    slab_misuse.check_create(kernel, size, useroffset, usersize)
    if kernel.watch & WATCH_AIDS:
        reason = cache_create_fails(
            kernel, name, size, align, flags, ctor=ctor is not None, useroffset=useroffset, usersize=usersize
        )
        if reason:
            return slab_misuse.create_failed(kernel, name, flags, reason)
    try:
        index = kernel.caches.kmem_cache_create(
            name or "", size, align, flags, ctor=ctor is not None, useroffset=useroffset, usersize=usersize
        )
    except CacheCreateError as error:
        return slab_misuse.create_failed(kernel, name, flags, error.errno)
    cache = kernel.kmem_caches.get(index)
    if cache is None:
        cache = kernel.kmem_caches[index] = KmemCache(kernel, index, kernel.caches.geometry(index).name, kind, ctor)
        if ctor is not None:
            kernel.slub.set_ctor(index, cache.construct)
    if kernel.watch & WATCH_AIDS:
        for aid in kernel.aids:
            aid.cache_create(index, name, cache.object_size)
    return cache


def kmem_cache_destroy(s):
    """Give up a cache; the last user's call gives its slabs back. None is fine.

    Objects that are still in use are reported, and the cache stays.

    Notes
    -----
    May sleep; not to be called in interrupts. O(slabs).

    Source: mm/slab_common.c:kmem_cache_destroy @6.1.192
    """
    if s is None:
        return
    kernel: Kernel = running()
    cache: KmemCache = s
    usable(kernel, cache)
    if kernel.watch & WATCH_CTOR:
        raise UsageError("kmem_cache_destroy() called by a constructor", remedy="destroy caches afterwards")
    if kernel.watch:
        kernel.watched(0)
        check_may_sleep(kernel, "include/linux/percpu-rwsem.h", 49)
    if cache.geometry.refcount < 0:
        raise UsageError(f"cache {cache.name} is the kernel's own", remedy="destroy only what you created")
    if kernel.watch & WATCH_AIDS:
        for aid in kernel.aids:
            aid.cache_destroy(cache.index)
    done = kernel.caches.kmem_cache_destroy(cache.index)
    if cache.index not in kernel.slub.geometries:
        del kernel.kmem_caches[cache.index]
        cache.forget()
    elif not done:
        slab_misuse.still_has_objects(kernel, cache)


def kmem_cache_shrink(s: KmemCache):
    """Give back as many slabs of a cache as possible; 0 if it has none left.

    Notes
    -----
    May sleep. O(slabs).

    Source: mm/slab_common.c:kmem_cache_shrink @6.1.192
    """
    kernel: Kernel = running()
    usable(kernel, s)
    if kernel.watch:
        kernel.watched(0)
        check_may_sleep(kernel, "include/linux/percpu-rwsem.h", 49)
    return int(kernel.slub.kmem_cache_shrink(s.index))


def kmem_cache_size(s: KmemCache):
    """Return the size of a cache's objects, in bytes. Any context.

    Source: mm/slab_common.c:kmem_cache_size @6.1.192
    """
    return s.object_size


# ---------------------------------------------------------------------- objects of a cache


def kmem_cache_alloc(s: KmemCache, flags):
    """Allocate an object of a cache: its address, None if there is no memory.

    Parameters
    ----------
    s : KmemCache
    flags : int
        GFP mask: GFP_KERNEL where sleeping is allowed, GFP_ATOMIC or GFP_NOWAIT where it is not.

    Notes
    -----
    Physically contiguous. Constant time but for a new slab.

    Source: mm/slub.c:kmem_cache_alloc @6.1.192
    """
    return alloc_object(s, as_gfp(flags), -1)


def kmem_cache_alloc_node(s: KmemCache, flags, node):
    """Allocate an object on a NUMA node; NUMA_NO_NODE is no wish. Otherwise as :func:`kmem_cache_alloc`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: mm/slub.c:kmem_cache_alloc_node @6.1.192
    """
    return alloc_object(s, as_gfp(flags), slab_misuse.node_number(running(), node))


def kmem_cache_zalloc(s: KmemCache, flags):
    """Allocate an object that reads as zero. Otherwise as :func:`kmem_cache_alloc`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:kmem_cache_zalloc @6.1.192
    """
    return alloc_object(s, as_gfp(flags) | _GFP_ZERO, -1)


def alloc_object(s, gfp, node):
    """Allocate an object on the fast path, unless something asks for more care."""
    kernel: Kernel = running()
    phys: cython.ulonglong
    if not s.plain or s.kernel is not kernel or kernel.watch or gfp & GFP_BAD_FOR_SLABS:
        return alloc_object_slow(kernel, s, gfp, node)
    phys = kernel.slub.cache_alloc(s.index, gfp, node)
    if phys == NULL_OBJECT:
        return None
    return kernel.page_offset + phys


def alloc_object_slow(kernel, s, gfp, node, size=0):
    """Allocate an object with all that may happen beside it; for a ``kmalloc()`` of `size` bytes if that is not 0.

    Source: mm/slab.h:slab_pre_alloc_hook, slab_post_alloc_hook, mm/slub.c:new_slab @6.1.192
    """
    phys: cython.ulonglong
    aids: cython.int = 0
    usable(kernel, s)
    if kernel.watch:
        aids = kernel.watched(gfp)
        if s.constructing:
            raise StateError(f"cache {s.name}: its constructor allocates from it", remedy="the kernel would recurse")
        if aids and kernel.should_failslab(s, gfp):
            return None
    slabs = kernel.slub.caches[s.index].new_slabs
    if size:
        phys = kernel.slub.kmalloc_node(size, gfp, node)
    else:
        phys = kernel.slub.cache_alloc(s.index, gfp, node)
    if slabs != kernel.slub.caches[s.index].new_slabs:
        try:
            slab_misuse.new_slab_flags(kernel, s, gfp)
        except KernelWarning:
            if phys != NULL_OBJECT:
                kernel.slub.cache_free(phys)
            raise
    if phys == NULL_OBJECT:
        return None
    if aids:
        kernel.tell_slab_alloc(kernel.page_offset + phys, s.object_size, s, gfp)
    return kernel.page_offset + phys


def kmem_cache_free(s: KmemCache, x):
    """Give an object back to its cache. Any context. Constant time but for a released slab.

    Parameters
    ----------
    s : KmemCache
    x : int
        Address of the object.

    Raises
    ------
    KernelReport
        What the kernel reports: an object of another cache (and frees it into that), an object freed twice.
    UsageError
        If `x` is no object that is in use, and the kernel would not notice.

    Source: mm/slub.c:kmem_cache_free @6.1.192
    """
    kernel: Kernel = running()
    addr: cython.ulonglong = as_addr(0 if x is None else x)
    if s.live and s.kernel is kernel and not kernel.watch and free_to_cpu(kernel, addr, s.index):
        return
    free_object(kernel, s, addr)


def free_to_cpu(kernel, addr, cache):
    """Give an object back the quickest way; False if that will not do. `cache` NO_CACHE is any."""
    phys: cython.ulonglong
    slab: cython.uint
    if addr < kernel.page_offset or addr - kernel.page_offset >= kernel.lowmem_bytes:
        return False
    phys = addr - kernel.page_offset
    slab = cython.cast(cython.uint, phys >> 12)
    if kernel.slub.pages[slab].kind == PG_TAIL:
        slab = kernel.slub.pages[slab].head
    if kernel.slub.pages[slab].kind != PG_SLAB or not kernel.slub.ram_base or kernel.page_alloc.trace.enabled:
        return False
    if cache != NO_CACHE and kernel.slub.pages[slab].cache != cache:
        return False
    return kernel.slub.slab_free_cpu(kernel.slub.pages[slab].cache, slab, phys)


def free_object(kernel, s, addr):
    """Give an object back to its cache, whatever there is to it."""
    slab: cython.uint
    phys: cython.ulonglong
    if addr < kernel.page_offset or addr - kernel.page_offset >= kernel.lowmem_bytes:
        slab_misuse.no_linear_address(kernel, addr, "kmem_cache_free")
        return 0
    phys = addr - kernel.page_offset
    usable(kernel, s)
    if kernel.watch & WATCH_CLOSED:
        kernel.watched(0)
    slab = kernel.slub.slab_of(phys)
    if slab == NO_SLAB or kernel.slub.pages[slab].cache != s.index:
        if not slab_misuse.wrong_cache(kernel, s, addr):
            return 0
    try:
        kernel.slub.cache_free(phys)
    except StateError as error:
        slab_misuse.bad_free(kernel, addr, "kmem_cache_free", error)
        return 0
    if kernel.watch & WATCH_AIDS:
        kernel.tell_slab_free(addr)
    return 0


def kmem_cache_alloc_bulk(s: KmemCache, flags, size, p):
    """Allocate many objects of a cache: all of them, or none.

    Parameters
    ----------
    s : KmemCache
    flags : int
        GFP mask.
    size : int
        How many.
    p : list
        Its first `size` entries become the addresses; it grows if it is shorter.

    Returns
    -------
    int
        `size`, or 0 if one of them could not be had.

    Notes
    -----
    Interrupts must be on. Linear in `size`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs, with
    interrupts on. Memory: each object physically contiguous.

    Source: mm/slub.c:kmem_cache_alloc_bulk @6.1.192
    """
    kernel: Kernel = running()
    count = _count(size)
    gfp: cython.uint = as_gfp(flags)
    aids: cython.int = 0
    usable(kernel, s)
    if kernel.watch:
        aids = kernel.watched(gfp)
        if s.constructing:
            raise StateError(f"cache {s.name}: its constructor allocates from it", remedy="the kernel would recurse")
        if aids and kernel.should_failslab(s, gfp):
            return 0
    slabs = kernel.slub.caches[s.index].new_slabs
    objects = np.zeros(count, np.uint64)
    try:
        if count and not kernel.slub.alloc_bulk(s.index, gfp, objects):
            return 0
        if slabs != kernel.slub.caches[s.index].new_slabs:
            slab_misuse.new_slab_flags(kernel, s, gfp)
    except BaseException:
        if objects.any():
            kernel.slub.free_bulk(objects[objects != 0])
        raise
    got = [kernel.page_offset + phys for phys in objects.tolist()]
    if aids:
        for addr in got:
            kernel.tell_slab_alloc(addr, s.object_size, s, gfp)
    p[:count] = got
    return count


def kmem_cache_free_bulk(s, size, p):
    """Give the first `size` objects of `p` back, slab by slab; with None for `s` of any caches.

    Notes
    -----
    Interrupts must be on. Linear in `size`.

    Never sleeps; any context with interrupts on.

    Source: mm/slub.c:kmem_cache_free_bulk @6.1.192
    """
    kernel: Kernel = running()
    count = _count(size)
    if not isinstance(p, (list, tuple)):
        raise TypeError(f"the objects are {type(p).__name__}, not a list of addresses")
    if count > len(p):
        raise UsageError(f"{count} objects of a list of {len(p)}")
    if s is not None:
        usable(kernel, s)
    elif kernel.watch & WATCH_CLOSED:
        kernel.watched(0)
    addresses = [as_addr(0 if entry is None else entry) for entry in p[:count]]
    check_bulk(kernel, s, addresses)
    if not addresses:
        return
    if kernel.watch & WATCH_AIDS:
        for addr in addresses:
            kernel.tell_slab_free(addr)
    kernel.slub.free_bulk(np.array([addr - kernel.page_offset for addr in addresses], np.uint64))
    if kernel.slub.pending:
        kernel.slub.checker.deliver()


def check_bulk(kernel, s, addresses):
    """Refuse a list with an address that is no allocation in use, before anything is freed."""
    phys: cython.ulonglong
    slab: cython.uint
    index: cython.ushort = 0
    function = "kfree_bulk" if s is None else "kmem_cache_free_bulk"
    if len(set(addresses)) != len(addresses):
        raise UsageError(f"{function}: an object is in the list twice")
    for addr in addresses:
        if not kernel.virt_addr_valid(addr):
            slab_misuse.no_linear_address(kernel, addr, function)
        phys = addr - kernel.page_offset
        if s is None and not phys & 0xFFF and kernel.slub.pages[phys >> 12].kind == PG_LARGE:
            continue
        try:
            slab = kernel.slub.locate(phys, cython.address(index))
        except StateError as error:
            slab_misuse.bad_free(kernel, addr, function, error)
            raise
        if s is not None and kernel.slub.pages[slab].cache != s.index:
            slab_misuse.wrong_cache(kernel, s, addr)
    return 0


def kfree_bulk(size, p):
    """Give the first `size` allocations of `p` back. Any context but hard interrupts.

    Source: include/linux/slab.h:kfree_bulk @6.1.192
    """
    kmem_cache_free_bulk(None, size, p)


# ---------------------------------------------------------------------- kmalloc


def kmalloc(size, flags):
    """Allocate `size` bytes: an address, None if there is no memory.

    Parameters
    ----------
    size : int
        Bytes. Up to 8 KiB come from a slab cache, more straight from the page allocator;
        no bytes give ZERO_SIZE_PTR, more than KMALLOC_MAX_SIZE give None.
    flags : int
        GFP mask.

    Notes
    -----
    Physically contiguous, at a fixed offset from its physical address, and
    aligned to 8 bytes at least, to its size if that is a power of two. May
    sleep if `flags` have __GFP_DIRECT_RECLAIM.

    Source: include/linux/slab.h:kmalloc, mm/slab_common.c:__kmalloc @6.1.192
    """
    return kmalloc_bytes(running(), as_size(size), as_gfp(flags), -1)


def kmalloc_node(size, flags, node):
    """Allocate `size` bytes on a NUMA node; NUMA_NO_NODE is no wish. Otherwise as :func:`kmalloc`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:kmalloc_node @6.1.192
    """
    kernel: Kernel = running()
    return kmalloc_bytes(kernel, as_size(size), as_gfp(flags), slab_misuse.node_number(kernel, node))


def kzalloc(size, flags):
    """Allocate `size` bytes that read as zero. Otherwise as :func:`kmalloc`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:kzalloc @6.1.192
    """
    return kmalloc_bytes(running(), as_size(size), as_gfp(flags) | _GFP_ZERO, -1)


def kzalloc_node(size, flags, node):
    """Allocate zeroed bytes on a NUMA node. Otherwise as :func:`kmalloc_node`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:kzalloc_node @6.1.192
    """
    return kmalloc_node(size, as_gfp(flags) | _GFP_ZERO, node)


def kmalloc_array(n, size, flags):
    """Allocate `n` times `size` bytes; None, too, if the product fits no word. Otherwise as :func:`kmalloc`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:kmalloc_array @6.1.192
    """
    kernel: Kernel = running()
    largest = kernel.ulong_max
    total = int(bad_number(n, "n", largest)) * int(bad_number(size, "size", largest))
    gfp: cython.uint = as_gfp(flags)
    if total > largest:
        return None
    return kmalloc_bytes(kernel, total, gfp, -1)


def kcalloc(n, size, flags):
    """Allocate `n` times `size` bytes that read as zero. Otherwise as :func:`kmalloc_array`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:kcalloc @6.1.192
    """
    return kmalloc_array(n, size, as_gfp(flags) | _GFP_ZERO)


def kmalloc_bytes(kernel, size, gfp, node):
    """Allocate bytes on the fast path, unless something asks for more care."""
    phys: cython.ulonglong
    if kernel.watch or size > KMALLOC_MAX_CACHE_BYTES or gfp & GFP_BAD_FOR_SLABS:
        return kmalloc_slow(kernel, size, gfp, node)
    phys = kernel.slub.kmalloc_node(size, gfp, node)
    if phys < _ZERO:
        return kernel.page_offset + phys
    return None if phys == NULL_OBJECT else ZERO_SIZE_PTR


def kmalloc_slow(kernel, size, gfp, node):
    """Allocate bytes with all that may happen beside it."""
    kind: cython.uint = 0
    place: cython.uint
    if kernel.watch & WATCH_CLOSED:
        kernel.watched(0)
    if size == 0:
        return ZERO_SIZE_PTR
    if size > KMALLOC_MAX_CACHE_BYTES:
        return kmalloc_large(kernel, size, gfp, node)
    if gfp & 0x400011:  # __GFP_DMA before __GFP_RECLAIMABLE before __GFP_ACCOUNT
        kind = 3 if gfp & 1 else 2 if gfp & 0x10 else 1
    place = kind * NR_KMALLOC_INDEXES + kernel.slub.kmalloc_indexes[(size + 7) >> 3]
    # the object comes from the cache that the fast path would take
    return alloc_object_slow(kernel, cache_object(kernel, kernel.slub.kmalloc_caches[place]), gfp, node, size)


def kmalloc_large(kernel, size, gfp, node):
    """Allocate a compound page.

    Source: mm/slab_common.c:__kmalloc_large_node @6.1.192
    """
    phys: cython.ulonglong
    aids: cython.int
    if size > kernel.ulong_max:
        raise UsageError(f"a size of {size} bytes does not fit into {kernel.bits_per_long} bits")
    if gfp & GFP_BAD_FOR_SLABS:
        slab_misuse.fix_flags(kernel, gfp)
        gfp &= ~cython.cast(cython.uint, GFP_BAD_FOR_SLABS)
    if get_order(size) >= _MAX_ORDER:
        slab_misuse.order_too_large(kernel, gfp)
        return None
    aids = kernel.watched(gfp) if kernel.watch else 0
    phys = kernel.slub.kmalloc_node(size, gfp, node)
    if phys == NULL_OBJECT:
        return None
    if aids:
        kernel.tell_slab_alloc(kernel.page_offset + phys, size, None, gfp)
    return kernel.page_offset + phys


def kfree(object):
    """Give back what ``kmalloc()`` and its kin gave; None and ZERO_SIZE_PTR are fine.

    Raises
    ------
    KernelReport
        What the kernel reports: memory freed twice, or never allocated.
    UsageError
        If it is no allocation in use, and the kernel would not notice.

    Notes
    -----
    Any context. Constant time but for a released slab.

    Source: mm/slab_common.c:kfree @6.1.192
    """
    kernel: Kernel
    addr: cython.ulonglong
    if object is None:
        return
    kernel = running()
    addr = as_addr(object)
    if kernel.watch or not free_to_cpu(kernel, addr, NO_CACHE):
        free_address(kernel, addr)


def free_address(kernel, addr):
    """Give back an allocation by its address."""
    phys: cython.ulonglong
    if addr <= 16:
        if addr == 16:
            kernel.slub.kfree_object(_ZERO)
        return 0
    if addr < kernel.page_offset or addr - kernel.page_offset >= kernel.lowmem_bytes:
        slab_misuse.no_linear_address(kernel, addr, "kfree")
        return 0
    phys = addr - kernel.page_offset
    if kernel.watch & WATCH_CLOSED:
        kernel.watched(0)
    try:
        kernel.slub.kfree_object(phys)
    except (StateError, ValueError) as error:
        slab_misuse.bad_free(kernel, addr, "kfree", error)
        return 0
    if kernel.watch & WATCH_AIDS:
        kernel.tell_slab_free(addr)
    return 0


def kfree_sensitive(p):
    """Zero an allocation, then give it back; for secrets. Any context.

    Source: mm/slab_common.c:kfree_sensitive @6.1.192
    """
    kernel: Kernel = running()
    size: cython.size_t = ksize(p)
    if size and kernel.ram_base:
        memset(cython.cast(cython.p_char, kernel.ram_base + low_phys(kernel, p)), 0, size)
    kfree(p)


def ksize(objp):
    """Return how many bytes of an allocation its owner may use; 0 for None and ZERO_SIZE_PTR.

    Never sleeps; any context.

    Source: mm/slab_common.c:ksize @6.1.192
    """
    kernel: Kernel = running()
    addr: cython.ulonglong = as_addr(0 if objp is None else objp)
    if addr <= 16:
        return 0
    try:
        return kernel.slub.ksize(low_phys(kernel, addr))
    except StateError as error:
        return slab_misuse.bad_ksize(kernel, addr, error)


def low_phys(kernel, addr):
    """Return the physical address behind an address of the linear map."""
    if addr < kernel.page_offset or addr - kernel.page_offset >= kernel.lowmem_bytes:
        raise UsageError(f"{addr:#x} is no address of the linear map", remedy="pass what kmalloc() returned")
    return addr - kernel.page_offset


def krealloc(p, new_size, flags):
    """Resize an allocation: its address, a new one if it has to move.

    The contents stay, up to the smaller size. On failure (None) the old
    allocation stays as it is. No bytes free it and give ZERO_SIZE_PTR.

    Parameters
    ----------
    p : int or None
        What ``kmalloc()`` gave; None for a new allocation.
    new_size : int
        Bytes.
    flags : int
        GFP mask.

    Notes
    -----
    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: mm/slab_common.c:krealloc @6.1.192
    """
    kernel: Kernel = running()
    size: cython.ulonglong = as_size(new_size)
    gfp: cython.uint = as_gfp(flags)
    old: cython.ulonglong = as_addr(0 if p is None else p)
    usable_bytes: cython.size_t
    if size == 0:
        kfree(p)
        return ZERO_SIZE_PTR
    usable_bytes = ksize(p) if old > 16 else 0
    if old > 16 and not usable_bytes:
        return None  # it was no allocation, and that has been reported
    if usable_bytes >= size:
        if kernel.ram_base and slab_misuse.want_init_on_alloc(kernel, gfp):
            memset(
                cython.cast(cython.p_char, kernel.ram_base + (old - kernel.page_offset) + size),
                0,
                cython.cast(cython.size_t, usable_bytes - size),
            )
        return p
    new = kmalloc_bytes(kernel, size, gfp, -1)
    if new is not None and old > 16:
        if kernel.ram_base:
            memcpy(
                cython.cast(cython.p_char, kernel.ram_base + (as_addr(new) - kernel.page_offset)),
                cython.cast(cython.p_char, kernel.ram_base + (old - kernel.page_offset)),
                usable_bytes,
            )
        kfree(p)
    return new


def krealloc_array(p, new_n, new_size, flags):
    """Resize an array; None, with the old one kept, if the product fits no word. Otherwise as :func:`krealloc`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: include/linux/slab.h:krealloc_array @6.1.192
    """
    largest = running().ulong_max
    total = int(bad_number(new_n, "new_n", largest)) * int(bad_number(new_size, "new_size", largest))
    as_gfp(flags)
    return None if total > largest else krealloc(p, total, flags)


def _count(size):
    """Return a number of objects."""
    count = operator.index(size)
    if not 0 <= count < 1 << 31:
        raise UsageError(f"{count} objects")
    return count
