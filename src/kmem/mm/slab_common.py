# SPDX-License-Identifier: GPL-2.0-only
"""Geometry of slab caches: what ``kmem_cache_create`` makes of a size, an alignment and flags.

The kernel spreads this over ``mm/slab_common.c`` (alignment, merging, the list
of caches) and the set-up half of ``mm/slub.c`` (sizes, orders, limits of the
partial lists).  Nothing here allocates: the SLUB runtime takes a
:class:`CacheGeometry` and works with its numbers.

:class:`SlabConfig` is what the answer depends on besides the request: word
size, CPUs, cache line, build options and the boot options ``slub_*``.
:class:`CacheList` is the kernel's list of caches, newest first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from kmem.errors import UsageError
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slab_flags import (
    CACHE_CREATE_MASK,
    CMPXCHG_DOUBLE,
    DEBUG_METADATA_FLAGS,
    OBJECT_POISON,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_DEBUG_FLAGS,
    SLAB_FLAGS_PERMITTED,
    SLAB_HWCACHE_ALIGN,
    SLAB_KMALLOC,
    SLAB_MERGE_SAME,
    SLAB_NEVER_MERGE,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.mm.slub_debug import SlubDebug, kmem_cache_flags

__all__ = [
    "CacheCreateError",
    "CacheGeometry",
    "CacheList",
    "SlabConfig",
    "calculate_alignment",
    "calculate_order",
    "geometry_from_sizes",
    "get_order",
    "kmem_cache_open",
]

# Of include/linux/gfp_types.h; only these end up in a cache's allocflags.
_GFP_DMA: Final = 0x01
_GFP_DMA32: Final = 0x04
_GFP_RECLAIMABLE: Final = 0x10
_GFP_COMP: Final = 0x40000

_U32: Final = 0xFFFFFFFF
_MIN_PARTIAL: Final = 5
_MAX_PARTIAL: Final = 10
_OO_MASK: Final = 0xFFFF
# slab->objects has 15 bits
_MAX_OBJS_PER_PAGE: Final = 32767
# Checking or reading these while another CPU changes freelist and counters in one instruction would be a race.
_SLAB_NO_CMPXCHG: Final = SLAB_CONSISTENCY_CHECKS | SLAB_STORE_USER | SLAB_TRACE


class CacheCreateError(UsageError):
    """``kmem_cache_create`` refuses: the kernel would return NULL.

    Attributes
    ----------
    errno : int
        The kernel's reason, positive (EINVAL, ENOMEM).
    """

    def __init__(self, message: str, reason: int = errno.EINVAL, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.errno = reason


def _align(value: int, align: int) -> int:
    """Round up as the kernel's ``ALIGN`` on unsigned int: by mask, whatever `align` is."""
    return (value + align - 1) & ~(align - 1) & _U32


def get_order(size_bytes: int, page_bytes: int = 4096) -> int:
    """Return the smallest order whose pages hold `size_bytes` (> 0).

    Source: include/asm-generic/getorder.h:get_order @6.1.192
    """
    return ((size_bytes - 1) // page_bytes).bit_length()


def calculate_alignment(flags: int, align: int, size: int, config: SlabConfig) -> int:
    """Return the alignment of a cache's objects, in bytes.

    Parameters
    ----------
    flags : int
        ``SLAB_*``; with SLAB_HWCACHE_ALIGN small objects share a cache line in equal parts.
    align : int
        Alignment asked for, in bytes; 0 for none.
    size : int
        Size of the object, in bytes.
    config : SlabConfig
        Cache line and minimum alignment.

    Notes
    -----
    Source: mm/slab_common.c:calculate_alignment @6.1.192
    """
    if flags & SLAB_HWCACHE_ALIGN:
        ralign = config.cache_line_bytes
        while ralign > 1 and size <= ralign // 2:
            ralign //= 2
        align = max(align, ralign)
    return _align(max(align, config.minalign_bytes), config.word_bytes)


def _order_objects(order: int, size: int, config: SlabConfig) -> int:
    return ((config.page_bytes << order) & _U32) // size


def _calc_slab_order(size: int, min_objects: int, max_order: int, fract_leftover: int, config: SlabConfig) -> int:
    """Return the first order that wastes at most 1/`fract_leftover`, or one above `max_order`.

    Source: mm/slub.c:calc_slab_order @6.1.192
    """
    min_order = config.slub_min_order
    if _order_objects(min_order, size, config) > _MAX_OBJS_PER_PAGE:
        return get_order(size * _MAX_OBJS_PER_PAGE & _U32, config.page_bytes) - 1
    order = max(min_order, get_order(min_objects * size & _U32, config.page_bytes))
    while order <= max_order:
        slab_size = (config.page_bytes << order) & _U32
        if slab_size % size <= slab_size // fract_leftover:
            break
        order += 1
    return order


def calculate_order(size: int, config: SlabConfig) -> int:
    """Return the preferred order of a slab of objects of `size` bytes.

    The more CPUs, the more objects a slab shall hold: 4 * (fls(CPUs) + 1),
    unless ``slub_min_objects`` says how many. Waste is accepted up to a
    sixteenth, an eighth, a quarter of the slab, then fewer objects.

    Parameters
    ----------
    size : int
        Bytes from one object to the next, metadata included.
    config : SlabConfig
        CPUs and ``slub_*`` boot options.

    Returns
    -------
    int
        The order, or a negative number if no slab is large enough.

    Notes
    -----
    Source: mm/slub.c:calculate_order @6.1.192
    """
    min_objects = config.slub_min_objects
    if not min_objects:
        nr_cpus = config.cpus if config.cpus > 1 and config.version >= (5, 12) else config.nr_cpu_ids
        min_objects = 4 * (nr_cpus.bit_length() + 1)
    min_objects = min(min_objects, _order_objects(config.slub_max_order, size, config))
    if config.version >= (6, 7):
        return _calculate_order_6_7(size, min_objects, config)
    for wanted in range(min_objects, 1, -1):
        for fraction in (16, 8, 4):
            order = _calc_slab_order(size, wanted, config.slub_max_order, fraction, config)
            if order <= config.slub_max_order:
                return order
    order = _calc_slab_order(size, 1, config.slub_max_order, 1, config)
    if order <= config.slub_max_order:
        return order
    order = _calc_slab_order(size, 1, config.max_order, 1, config)
    return order if order < config.max_order else -errno.ENOSYS


def _calculate_order_6_7(size: int, min_objects: int, config: SlabConfig) -> int:
    """The same since 6.7: the number of objects stands, and up to half of the slab may be wasted.

    Source: mm/slub.c:calculate_order @6.7
    """
    least = max(config.slub_min_order, get_order(max(min_objects, 1) * size, config.page_bytes))
    for fraction in (16, 8, 4, 2):
        for order in range(least, config.slub_max_order + 1):
            slab_bytes = config.page_bytes << order
            if slab_bytes % size <= slab_bytes // fraction:
                return order
    order = get_order(size, config.page_bytes)
    return order if order < config.max_order else -errno.ENOSYS


@dataclass(slots=True)
class CacheGeometry:
    """The layout and limits of one slab cache: ``struct kmem_cache`` without its slabs.

    Sizes and offsets are in bytes, orders are powers of two of pages.

    Attributes
    ----------
    name : str
        Name that the cache was first created with.
    object_size : int
        Size without metadata; grows when a larger request is merged into the cache.
    size : int
        Distance from one object to the next, metadata included.
    align : int
        Alignment of the objects, after all adjustments.
    inuse : int
        Offset of the metadata behind the object.
    offset : int
        Offset of the free pointer, from the start of the object.
    red_left_pad : int
        Red zone in front of each object; only SLAB_RED_ZONE gives it a meaning.
    flags : int
        ``SLAB_*`` with SLUB's own bits.
    order, objects : int
        Preferred slab: order of its pages and objects in it.
    min_order, min_objects : int
        The slab that is taken when the preferred order cannot be had.
    min_partial : int
        Empty slabs are kept while the node has fewer partial slabs than this.
    cpu_partial, cpu_partial_slabs : int
        Limit of a CPU's partial list, in objects and in slabs; 0 for debug caches.
    useroffset, usersize : int
        Region that may be copied to and from user space.
    refcount : int
        Users of the cache (aliases included); negative: never merged.
    ctor : bool
        Whether the cache has a constructor.
    allocflags : int
        GFP bits added to each slab allocation.
    remote_ratio : int
        ``remote_node_defrag_ratio``, tenths of a percent; 0 without NUMA.
    has_random_seq : bool
        Whether freelists of new slabs are shuffled.
    """

    name: str
    object_size: int
    size: int
    align: int
    inuse: int
    offset: int
    red_left_pad: int
    flags: int
    order: int
    objects: int
    min_order: int
    min_objects: int
    min_partial: int
    cpu_partial: int
    cpu_partial_slabs: int
    useroffset: int
    usersize: int
    refcount: int
    ctor: bool
    allocflags: int
    remote_ratio: int
    has_random_seq: bool

    @property
    def debug(self) -> bool:
        """Whether the cache takes the debug paths: no CPU slab, no per-CPU partial list.

        Source: mm/slub.c:kmem_cache_debug @6.1.192
        """
        return bool(self.flags & SLAB_DEBUG_FLAGS)

    @property
    def ksize(self) -> int:
        """Bytes that the owner of an object may use, as ``ksize()`` reports them.

        Source: mm/slab.h:slab_ksize @6.1.192
        """
        if self.flags & (SLAB_RED_ZONE | SLAB_POISON):
            return self.object_size
        if self.flags & (SLAB_TYPESAFE_BY_RCU | SLAB_STORE_USER):
            return self.inuse
        return self.size


def _calculate_sizes(s: CacheGeometry, config: SlabConfig) -> bool:
    """Lay out object, free pointer, red zones and tracks, and choose the orders.

    Fills in what depends on it; False if no slab can hold the object.
    `red_left_pad` is only ever set, so that it outlives a second pass
    without SLAB_RED_ZONE, as in the kernel.

    Source: mm/slub.c:calculate_sizes @6.1.192
    """
    word = config.word_bytes
    flags = s.flags
    size = _align(s.object_size, word)

    # Poisoning the object itself is out of the question where its user may touch it while it is free.
    if flags & SLAB_POISON and not flags & SLAB_TYPESAFE_BY_RCU and not s.ctor:
        s.flags |= OBJECT_POISON
    else:
        s.flags &= ~OBJECT_POISON

    # A red zone needs at least one byte behind the object.
    if flags & SLAB_RED_ZONE and size == s.object_size:
        size += word
    s.inuse = size

    if flags & (SLAB_TYPESAFE_BY_RCU | SLAB_POISON) or (flags & SLAB_RED_ZONE and s.object_size < word) or s.ctor:
        # The free pointer must not overwrite the object.
        s.offset = size
        size += word
    else:
        # In the middle, where an overflow of a neighbour does not reach it.
        s.offset = s.object_size // 2 & ~(word - 1)

    if flags & SLAB_STORE_USER:
        size += 2 * config.track_bytes
        if flags & SLAB_KMALLOC:
            size += 4  # the size that was asked of kmalloc

    if flags & SLAB_RED_ZONE:
        size += word
        s.red_left_pad = _align(word, s.align)
        size += s.red_left_pad

    size = _align(size, s.align)
    s.size = size
    if size == 0:
        return False
    order = calculate_order(size, config)
    if order < 0:
        return False

    s.allocflags = _GFP_COMP if order else 0
    if s.flags & SLAB_CACHE_DMA:
        s.allocflags |= _GFP_DMA
    if s.flags & SLAB_CACHE_DMA32:
        s.allocflags |= _GFP_DMA32
    if s.flags & SLAB_RECLAIM_ACCOUNT:
        s.allocflags |= _GFP_RECLAIMABLE

    s.order = order
    s.objects = _order_objects(order, size, config) & _OO_MASK
    s.min_order = get_order(size, config.page_bytes)
    s.min_objects = _order_objects(s.min_order, size, config) & _OO_MASK
    return s.objects != 0


def _set_cpu_partial(s: CacheGeometry, config: SlabConfig) -> None:
    """Limit the per-CPU partial list, in objects and (half-full slabs assumed) in slabs.

    Source: mm/slub.c:set_cpu_partial, slub_set_cpu_partial @6.1.192
    """
    if config.version < (5, 16):  # counted in objects until then
        large, middle, small, tiny = 2, 6, 13, 30
    else:
        large, middle, small, tiny = 6, 24, 52, 120
    if not config.cpu_partial or s.debug:
        nr_objects = 0
    elif s.size >= config.page_bytes:
        nr_objects = large
    elif s.size >= 1024:
        nr_objects = middle
    elif s.size >= 256:
        nr_objects = small
    else:
        nr_objects = tiny
    s.cpu_partial = nr_objects
    s.cpu_partial_slabs = -(-nr_objects * 2 // s.objects)


def kmem_cache_open(
    name: str,
    object_size: int,
    align: int,
    flags: int,
    config: SlabConfig,
    *,
    ctor: bool = False,
    useroffset: int = 0,
    usersize: int = 0,
) -> CacheGeometry:
    """Compute the geometry of a cache of its own, without any merging.

    Parameters
    ----------
    name : str
        Name of the cache (``slub_debug=`` goes by it).
    object_size : int
        Size of the objects, in bytes.
    align : int
        Alignment, as :func:`calculate_alignment` returned it.
    flags : int
        ``SLAB_*``.
    config : SlabConfig
        Machine and boot options.
    ctor : bool
        Whether the cache has a constructor.
    useroffset, usersize : int
        Region open to user copies, in bytes.

    Returns
    -------
    CacheGeometry
        With a reference count of 1.

    Raises
    ------
    CacheCreateError
        If no slab that the page allocator serves can hold an object.

    Notes
    -----
    Source: mm/slub.c:kmem_cache_open @6.1.192
    Differs: objects of size 0, on which the kernel divides by zero, are refused.
    """
    s = CacheGeometry(
        name=name,
        object_size=object_size,
        size=object_size,
        align=align,
        inuse=0,
        offset=0,
        red_left_pad=0,
        flags=kmem_cache_flags(flags, name, config.slub_debug),
        order=0,
        objects=0,
        min_order=0,
        min_objects=0,
        min_partial=0,
        cpu_partial=0,
        cpu_partial_slabs=0,
        useroffset=useroffset,
        usersize=usersize,
        refcount=1,
        ctor=ctor,
        allocflags=0,
        remote_ratio=1000 if config.numa else 0,
        has_random_seq=False,
    )
    fits = _calculate_sizes(s, config)
    if (
        fits
        and config.slub_debug.disable_higher_order
        and get_order(s.size, config.page_bytes) > get_order(s.object_size, config.page_bytes)
    ):
        s.flags &= ~DEBUG_METADATA_FLAGS
        s.offset = 0
        fits = _calculate_sizes(s, config)
    if not fits:
        raise CacheCreateError(
            f"cache {name}: no slab holds an object of {object_size} bytes",
            remedy=f"sizes from 1 to {config.page_bytes << (config.max_order - 1)} bytes can be had",
        )
    if config.cmpxchg_double and not s.flags & _SLAB_NO_CMPXCHG:
        s.flags |= CMPXCHG_DOUBLE
    s.min_partial = max(_MIN_PARTIAL, min(_MAX_PARTIAL, (s.size.bit_length() - 1) // 2))
    _set_cpu_partial(s, config)
    s.has_random_seq = config.freelist_random and s.objects > 1
    return s


@dataclass(slots=True)
class CacheList:
    """The kernel's list of slab caches, and the rules by which a new one joins it or an old one.

    Attributes
    ----------
    config : SlabConfig
        Machine and boot options; the same for all caches.
    slab_caches : list of CacheGeometry
        Newest first, as the kernel's list of the same name.
    """

    config: SlabConfig
    slab_caches: list[CacheGeometry] = field(default_factory=list)

    def adopt(self, caches: Iterable[CacheGeometry]) -> None:
        """Replace the list by caches that are already there, newest first."""
        self.slab_caches = list(caches)

    def slab_unmergeable(self, s: CacheGeometry) -> bool:
        """Whether no request may ever share the cache `s`.

        Source: mm/slab_common.c:slab_unmergeable @6.1.192
        """
        return (
            self.config.slab_nomerge or bool(s.flags & SLAB_NEVER_MERGE) or s.ctor or s.usersize > 0 or s.refcount < 0
        )

    def find_mergeable(self, name: str, size: int, align: int, flags: int, ctor: bool = False) -> CacheGeometry | None:
        """Return the oldest cache that can serve the request with less than a word of waste.

        Parameters
        ----------
        name, size, align, flags, ctor
            As for :meth:`kmem_cache_create`.

        Returns
        -------
        CacheGeometry or None
            None: the request needs a cache of its own.

        Notes
        -----
        Linear in the number of caches.

        Source: mm/slab_common.c:find_mergeable @6.1.192
        """
        config = self.config
        if config.slab_nomerge or ctor:
            return None
        size = _align(size, config.word_bytes)
        align = calculate_alignment(flags, align, size, config)
        size = _align(size, align)
        flags = kmem_cache_flags(flags, name, config.slub_debug)
        if flags & SLAB_NEVER_MERGE:
            return None
        for s in reversed(self.slab_caches):
            if (
                size <= s.size < size + config.word_bytes
                and not (flags ^ s.flags) & SLAB_MERGE_SAME
                and s.size & ~(align - 1) == s.size
                and not self.slab_unmergeable(s)
            ):
                return s
        return None

    def kmem_cache_create(
        self,
        name: str,
        size: int,
        align: int = 0,
        flags: int = 0,
        *,
        ctor: bool = False,
        useroffset: int = 0,
        usersize: int = 0,
    ) -> CacheGeometry:
        """Create a cache, or share one (``kmem_cache_create_usercopy``).

        Parameters
        ----------
        name : str
            Name of the cache.
        size : int
            Size of its objects, in bytes.
        align : int
            Alignment asked for, in bytes; 0 for none.
        flags : int
            ``SLAB_*``.
        ctor : bool
            Whether objects are constructed when a slab is made.
        useroffset, usersize : int
            Region of the object open to user copies, in bytes. A region that
            does not lie within the object is closed altogether.

        Returns
        -------
        CacheGeometry
            The new cache, now the first of the list; or the shared one, its
            reference count raised and its `object_size` and `inuse` widened.

        Raises
        ------
        CacheCreateError
            Where the kernel would return NULL: flags that nobody may ask
            for, or objects for which there is no slab.

        Notes
        -----
        Source: mm/slab_common.c:kmem_cache_create_usercopy, create_cache,
        mm/slub.c:__kmem_cache_alias @6.1.192
        """
        if not name:
            raise CacheCreateError("a cache without a name", errno.ENOMEM, remedy="give it one")
        if flags & ~SLAB_FLAGS_PERMITTED:
            raise CacheCreateError(f"cache {name}: flags {flags & ~SLAB_FLAGS_PERMITTED:#x} are the allocator's own")
        flags &= CACHE_CREATE_MASK
        if (not usersize and useroffset) or size < usersize or size - usersize < useroffset:
            usersize = useroffset = 0
        if not usersize:
            shared = self.find_mergeable(name, size, align, flags, ctor)
            if shared is not None:
                shared.refcount += 1
                shared.object_size = max(shared.object_size, size)
                shared.inuse = max(shared.inuse, _align(size, self.config.word_bytes))
                return shared
        s = kmem_cache_open(
            name,
            size,
            calculate_alignment(flags, align, size, self.config),
            flags,
            self.config,
            ctor=ctor,
            useroffset=useroffset,
            usersize=usersize,
        )
        self.slab_caches.insert(0, s)
        return s

    def create_boot_cache(
        self, name: str, size: int, flags: int, *, useroffset: int = 0, usersize: int = 0
    ) -> CacheGeometry:
        """Compute a cache that the kernel makes for itself before kmalloc works; it is not yet listed.

        Objects of a power of two are aligned to their size, whatever the debug options.

        Source: mm/slab_common.c:create_boot_cache @6.1.192
        """
        align = self.config.minalign_bytes
        if size & (size - 1) == 0:
            align = max(align, size)
        align = calculate_alignment(flags, align, size, self.config)
        s = kmem_cache_open(name, size, align, flags, self.config, useroffset=useroffset, usersize=usersize)
        s.refcount = -1
        return s

    def kmem_cache_destroy(self, s: CacheGeometry) -> bool:
        """Give up one use of a cache; True if it was the last and the cache is gone from the list.

        A shared cache keeps the sizes that its users gave it.

        Source: mm/slab_common.c:kmem_cache_destroy @6.1.192
        """
        s.refcount -= 1
        if s.refcount:
            return False
        for place, listed in enumerate(self.slab_caches):
            if listed is s:
                del self.slab_caches[place]
                break
        return True


def geometry_from_sizes(
    name: str, bytes_req: int, bytes_alloc: int, config: SlabConfig, *, order: int | None = None
) -> CacheGeometry:
    """Guess the geometry of a cache of which only the sizes are known.

    A trace shows what a cache was asked for and what the object takes
    (``bytes_req``, ``bytes_alloc`` of ``kmem_cache_alloc``), not its flags.
    The orders and limits follow from the size alone; alignment and the place
    of the free pointer are the plainest that fit.

    Parameters
    ----------
    name : str
        Name of the cache.
    bytes_req : int
        ``object_size``, in bytes.
    bytes_alloc : int
        ``size``: bytes from one object to the next.
    config : SlabConfig
        Machine and boot options.
    order : int, optional
        Order of the slabs where it is known (from slabinfo); else computed.

    Returns
    -------
    CacheGeometry
        With a reference count of 1.

    Raises
    ------
    UsageError
        If the sizes contradict each other or fit no slab.
    """
    if not 0 < bytes_req <= bytes_alloc:
        raise UsageError(f"cache {name}: objects of {bytes_req} bytes in slots of {bytes_alloc} bytes")
    if bytes_alloc % config.word_bytes:
        raise UsageError(
            f"cache {name}: a slot of {bytes_alloc} bytes is no multiple of a {config.word_bytes}-byte pointer",
            remedy="check the architecture of the machine",
        )
    # Room for a free pointer behind the object, or none: either way the slot's size decides about the slab.
    largest_align = bytes_alloc & -bytes_alloc
    align = min(largest_align, config.cache_line_bytes) if bytes_req < bytes_alloc else config.minalign_bytes
    align = min(max(align, config.word_bytes), largest_align)
    plain = replace(config, slub_debug=SlubDebug())
    s = kmem_cache_open(name, bytes_alloc, align, 0, plain)
    s.object_size = bytes_req
    s.inuse = _align(bytes_req, config.word_bytes)
    s.offset = bytes_req // 2 & ~(config.word_bytes - 1)
    if order is not None and order != s.order:
        s.order = order
        s.objects = _order_objects(order, s.size, config) & _OO_MASK
        if not 0 <= order < config.max_order or not s.objects:
            raise UsageError(f"cache {name}: objects of {bytes_alloc} bytes in slabs of order {order}")
        s.allocflags = _GFP_COMP if order else 0
        s.has_random_seq = config.freelist_random and s.objects > 1
        _set_cpu_partial(s, config)
    return s
