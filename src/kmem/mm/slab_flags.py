# SPDX-License-Identifier: GPL-2.0-only
"""Flags of a slab cache (``SLAB_*``) and the masks that SLUB builds from them.

Values are those of a kernel with SLUB, SLUB_DEBUG and MEMCG_KMEM, and without
KASAN, KFENCE, FAILSLAB and DEBUG_OBJECTS; flags of features that are built
out are 0, as in the kernel's own headers.

Source: include/linux/slab.h, mm/slab.h, mm/slab_common.c, mm/slub.c @6.1.192
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CACHE_CREATE_MASK",
    "CMPXCHG_DOUBLE",
    "DEBUG_DEFAULT_FLAGS",
    "DEBUG_METADATA_FLAGS",
    "OBJECT_POISON",
    "SLAB_ACCOUNT",
    "SLAB_CACHE_DMA",
    "SLAB_CACHE_DMA32",
    "SLAB_CACHE_FLAGS",
    "SLAB_CONSISTENCY_CHECKS",
    "SLAB_CORE_FLAGS",
    "SLAB_DEBUG_FLAGS",
    "SLAB_DEBUG_OBJECTS",
    "SLAB_FAILSLAB",
    "SLAB_FLAGS_PERMITTED",
    "SLAB_HWCACHE_ALIGN",
    "SLAB_KMALLOC",
    "SLAB_MEM_SPREAD",
    "SLAB_MERGE_SAME",
    "SLAB_NEVER_MERGE",
    "SLAB_NOLEAKTRACE",
    "SLAB_NO_USER_FLAGS",
    "SLAB_PANIC",
    "SLAB_POISON",
    "SLAB_RECLAIM_ACCOUNT",
    "SLAB_RED_ZONE",
    "SLAB_STORE_USER",
    "SLAB_TEMPORARY",
    "SLAB_TRACE",
    "SLAB_TYPESAFE_BY_RCU",
]

# Asked for by kmem_cache_create(), or set by slub_debug=.
SLAB_CONSISTENCY_CHECKS: Final = 0x00000100
SLAB_RED_ZONE: Final = 0x00000400
SLAB_POISON: Final = 0x00000800
SLAB_KMALLOC: Final = 0x00001000
SLAB_HWCACHE_ALIGN: Final = 0x00002000
SLAB_CACHE_DMA: Final = 0x00004000
SLAB_CACHE_DMA32: Final = 0x00008000
SLAB_STORE_USER: Final = 0x00010000
SLAB_RECLAIM_ACCOUNT: Final = 0x00020000
SLAB_TEMPORARY: Final = SLAB_RECLAIM_ACCOUNT
SLAB_PANIC: Final = 0x00040000
SLAB_TYPESAFE_BY_RCU: Final = 0x00080000
SLAB_MEM_SPREAD: Final = 0x00100000
SLAB_TRACE: Final = 0x00200000
SLAB_DEBUG_OBJECTS: Final = 0
SLAB_NOLEAKTRACE: Final = 0x00800000
SLAB_FAILSLAB: Final = 0
SLAB_ACCOUNT: Final = 0x04000000
SLAB_NO_USER_FLAGS: Final = 0x10000000

# SLUB's own bits, never asked for. The kernel writes both with two leading underscores.
CMPXCHG_DOUBLE: Final = 0x40000000
OBJECT_POISON: Final = 0x80000000

SLAB_CORE_FLAGS: Final = (
    SLAB_HWCACHE_ALIGN | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_PANIC | SLAB_TYPESAFE_BY_RCU | SLAB_DEBUG_OBJECTS
)
SLAB_DEBUG_FLAGS: Final = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER | SLAB_TRACE | SLAB_CONSISTENCY_CHECKS
SLAB_CACHE_FLAGS: Final = SLAB_NOLEAKTRACE | SLAB_RECLAIM_ACCOUNT | SLAB_TEMPORARY | SLAB_ACCOUNT | SLAB_NO_USER_FLAGS

# What kmem_cache_create() lets through to SLUB, and what it does not refuse outright.
CACHE_CREATE_MASK: Final = SLAB_CORE_FLAGS | SLAB_DEBUG_FLAGS | SLAB_CACHE_FLAGS
SLAB_FLAGS_PERMITTED: Final = CACHE_CREATE_MASK | SLAB_MEM_SPREAD

# A cache with one of these stays on its own; two caches that share agree in these.
# SLAB_CONSISTENCY_CHECKS is in neither, so checks alone do not keep caches apart.
SLAB_NEVER_MERGE: Final = (
    SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER | SLAB_TRACE | SLAB_TYPESAFE_BY_RCU | SLAB_NOLEAKTRACE | SLAB_FAILSLAB
)
SLAB_MERGE_SAME: Final = SLAB_RECLAIM_ACCOUNT | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_ACCOUNT

# slub_debug without letters; and what slub_debug=O takes away again from a cache that would outgrow its order.
DEBUG_DEFAULT_FLAGS: Final = SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER
DEBUG_METADATA_FLAGS: Final = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER
