# SPDX-License-Identifier: GPL-2.0-only
"""Geometry of slab caches: what ``kmem_cache_create`` makes of a size, an alignment and flags.

The kernel spreads this over ``mm/slab_common.c`` (alignment, merging, the list
of caches) and the set-up half of ``mm/slub.c`` (sizes, orders, limits of the
partial lists).  Nothing here allocates: the SLUB runtime takes a
:class:`CacheGeometry` and works with its numbers.

:class:`SlabConfig` is what the answer depends on besides the request: word
size, CPUs, cache line, build options and the boot options ``slub_*``.
:class:`SlabCaches` is the kernel's list of caches, newest first.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmem.mm.slab_flags import (
    SLAB_DEBUG_FLAGS,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TYPESAFE_BY_RCU,
)

__all__ = ["CacheGeometry"]


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
        Red zone in front of each object; 0 without SLAB_RED_ZONE.
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
