# SPDX-License-Identifier: GPL-2.0-only
"""The kmalloc caches: size classes, types, and what ``ksize`` and ``krealloc`` follow from.

Requests up to 8 KiB come from one of 13 caches of each type (8 to 8192 bytes
by powers of two, with 96 and 192 between); larger ones straight from the page
allocator.  Tables and rules only: the fast path is the SLUB runtime's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from kmem.errors import UsageError
from kmem.mm.slab_common import CacheGeometry, CacheList, SlabConfig, get_order
from kmem.mm.slab_flags import SLAB_ACCOUNT, SLAB_CACHE_DMA, SLAB_KMALLOC, SLAB_RECLAIM_ACCOUNT

__all__ = [
    "KMALLOC_INDEX_SIZES",
    "KMALLOC_MAX_CACHE_SIZE",
    "KMALLOC_MAX_SIZE",
    "KMALLOC_SHIFT_HIGH",
    "KMALLOC_SHIFT_LOW",
    "SIZE_INDEX",
    "ZERO_SIZE_PTR",
    "KmallocCaches",
    "KmallocType",
    "create_kmalloc_caches",
    "kmalloc_cache_name",
    "kmalloc_index",
    "kmalloc_ksize",
    "kmalloc_large_order",
    "kmalloc_type",
    "kmalloc_types",
    "krealloc_in_place",
]

_GFP_DMA: Final = 0x01
_GFP_RECLAIMABLE: Final = 0x10
_GFP_ACCOUNT: Final = 0x400000

KMALLOC_SHIFT_LOW: Final = 3
KMALLOC_SHIFT_HIGH: Final = 13
KMALLOC_MAX_CACHE_SIZE: Final = 1 << KMALLOC_SHIFT_HIGH
"""Largest request that a cache serves, in bytes."""
KMALLOC_MAX_SIZE: Final = 1 << 22
"""Largest request that the page allocator serves, in bytes."""
ZERO_SIZE_PTR: Final = 16
"""Address that a request of 0 bytes gets."""

KMALLOC_INDEX_SIZES: Final[tuple[int, ...]] = (0, 96, 192, *(1 << n for n in range(3, KMALLOC_SHIFT_HIGH + 1)))
"""Object size of each index of ``kmalloc_caches[type][]``; index 0 has no cache."""


class KmallocType(IntEnum):
    """Kinds of kmalloc caches, numbered as in a kernel with MEMCG_KMEM and ZONE_DMA.

    Source: include/linux/slab.h:kmalloc_cache_type @6.1.192
    """

    NORMAL = 0
    CGROUP = 1
    RECLAIM = 2
    DMA = 3


_NAME_PREFIX: Final = {
    KmallocType.NORMAL: "kmalloc-",
    KmallocType.CGROUP: "kmalloc-cg-",
    KmallocType.RECLAIM: "kmalloc-rcl-",
    KmallocType.DMA: "dma-kmalloc-",
}

KmallocCaches = dict[KmallocType, list[CacheGeometry | None]]
"""For each type the cache of each index (None for index 0); types that a kernel lacks share NORMAL's list."""


def kmalloc_index(size: int) -> int:
    """Return the index in ``kmalloc_caches[type][]`` that serves `size` bytes.

    Parameters
    ----------
    size : int
        Bytes, 0 to KMALLOC_MAX_CACHE_SIZE; 0 has index 0.

    Raises
    ------
    UsageError
        If the size is negative or for the page allocator.

    Notes
    -----
    Source: include/linux/slab.h:__kmalloc_index, mm/slab_common.c:kmalloc_slab @6.1.192
    """
    if not 0 <= size <= KMALLOC_MAX_CACHE_SIZE:
        raise UsageError(
            f"no kmalloc cache for {size} bytes", remedy=f"caches serve 0 to {KMALLOC_MAX_CACHE_SIZE} bytes"
        )
    if not size:
        return 0
    if 64 < size <= 96:
        return 1
    if 128 < size <= 192:
        return 2
    return max(KMALLOC_SHIFT_LOW, (size - 1).bit_length())


SIZE_INDEX: Final[tuple[int, ...]] = tuple(kmalloc_index(size) for size in range(8, 193, 8))
"""Index for sizes up to 192 bytes by ``(size - 1) // 8``; above, it is ``fls(size - 1)``."""


def kmalloc_types(config: SlabConfig) -> tuple[KmallocType, ...]:
    """Return the types that a kernel has, in the order of its table.

    Source: include/linux/slab.h:kmalloc_cache_type @6.1.192
    """
    types = [KmallocType.NORMAL]
    if config.memcg_kmem:
        types.append(KmallocType.CGROUP)
    types.append(KmallocType.RECLAIM)
    if config.zone_dma:
        types.append(KmallocType.DMA)
    return tuple(types)


def kmalloc_type(gfp: int, config: SlabConfig) -> KmallocType:
    """Return the kind of cache for a request: __GFP_DMA before __GFP_RECLAIMABLE before __GFP_ACCOUNT.

    Parameters
    ----------
    gfp : int
        GFP mask.
    config : SlabConfig
        Whether the kernel has DMA and accounted caches.

    Notes
    -----
    Source: include/linux/slab.h:kmalloc_type @6.1.192
    """
    if config.zone_dma and gfp & _GFP_DMA:
        return KmallocType.DMA
    if gfp & _GFP_RECLAIMABLE:
        return KmallocType.RECLAIM
    if config.memcg_kmem and gfp & _GFP_ACCOUNT:
        return KmallocType.CGROUP
    return KmallocType.NORMAL


def kmalloc_cache_name(kind: KmallocType, index: int) -> str:
    """Return a cache's name, such as ``kmalloc-cg-2k``: from 1024 on sizes are written in KiB.

    Source: mm/slab_common.c:kmalloc_info @6.1.192
    """
    size = KMALLOC_INDEX_SIZES[index]
    return _NAME_PREFIX[kind] + (f"{size >> 10}k" if size >= 1024 else str(size))


def _new_kmalloc_cache(caches: CacheList, table: KmallocCaches, kind: KmallocType, index: int) -> CacheGeometry:
    """Make one kmalloc cache; unaccounted normal ones never merge in a kernel that accounts.

    Source: mm/slab_common.c:new_kmalloc_cache, create_kmalloc_cache @6.1.192
    """
    config = caches.config
    flags = SLAB_KMALLOC
    if kind is KmallocType.RECLAIM:
        flags |= SLAB_RECLAIM_ACCOUNT
    elif kind is KmallocType.CGROUP:
        if config.nokmem:
            normal = table[KmallocType.NORMAL][index]
            assert normal is not None  # the normal caches come first
            return normal
        flags |= SLAB_ACCOUNT
    elif kind is KmallocType.DMA:
        flags |= SLAB_CACHE_DMA
    size = KMALLOC_INDEX_SIZES[index]
    s = caches.create_boot_cache(kmalloc_cache_name(kind, index), size, flags, usersize=size)
    s.refcount = -1 if kind is KmallocType.NORMAL and config.memcg_kmem else 1
    caches.slab_caches.insert(0, s)
    return s


def create_kmalloc_caches(caches: CacheList) -> KmallocCaches:
    """Make the kmalloc caches of all types, in the kernel's order, and list them in `caches`.

    Parameters
    ----------
    caches : CacheList
        The list that they join.

    Returns
    -------
    dict
        For each type 14 entries by index. A type that the kernel lacks, and the
        accounted caches under ``cgroup.memory=nokmem``, are the normal ones.

    Notes
    -----
    Source: mm/slab_common.c:create_kmalloc_caches @6.1.192
    """
    table: KmallocCaches = {}
    for kind in kmalloc_types(caches.config):
        row: list[CacheGeometry | None] = [None] * (KMALLOC_SHIFT_HIGH + 1)
        table[kind] = row
        # 96 and 192 come right after the power of two below them.
        for index in (3, 4, 5, 6, 1, 7, 2, *range(8, KMALLOC_SHIFT_HIGH + 1)):
            row[index] = _new_kmalloc_cache(caches, table, kind, index)
    for kind in KmallocType:
        table.setdefault(kind, table[KmallocType.NORMAL])
    return table


def kmalloc_large_order(size: int) -> int:
    """Return the page order of a request above KMALLOC_MAX_CACHE_SIZE, in bytes.

    The page allocator refuses orders above 10, that is more than KMALLOC_MAX_SIZE.

    Source: mm/slab_common.c:__kmalloc_large_node @6.1.192
    """
    return get_order(size)


def kmalloc_ksize(size: int, gfp: int, table: KmallocCaches, config: SlabConfig) -> int:
    """Return the bytes that the owner of a fresh object may use.

    Parameters
    ----------
    size : int
        Bytes asked for.
    gfp : int
        GFP mask.
    table : dict
        What :func:`create_kmalloc_caches` returned.
    config : SlabConfig
        The machine's configuration.

    Returns
    -------
    int
        0 for a request of 0 bytes.

    Notes
    -----
    Source: mm/slab_common.c:__ksize @6.1.192
    """
    if size > KMALLOC_MAX_CACHE_SIZE:
        return config.page_bytes << kmalloc_large_order(size)
    cache = table[kmalloc_type(gfp, config)][kmalloc_index(size)]
    return 0 if cache is None else cache.ksize


def krealloc_in_place(ksize: int, new_size: int) -> bool:
    """Whether ``krealloc`` keeps the object: it does whenever the new size fits, however small it is.

    Parameters
    ----------
    ksize : int
        Usable bytes of the old object, 0 if there was none.
    new_size : int
        Bytes asked for; 0 frees the object.

    Notes
    -----
    Source: mm/slab_common.c:krealloc, __do_krealloc @6.1.192
    """
    return 0 < new_size <= ksize
