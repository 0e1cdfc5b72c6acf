# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/slab.h>``: memory by the byte and by the object, under the kernel's names.

>>> from kmem import Machine
>>> from kmem.linux.slab import *
>>> hex(SLAB_HWCACHE_ALIGN | SLAB_PANIC)
'0x42000'
>>> with Machine.boot("x86_64", ram="1G"):
...     buffer = kmalloc(100, GFP_KERNEL)
...     print(ksize(buffer))
...     kfree(buffer)
128
"""

from kmem.linux.types import NULL
from kmem.mm import slab_flags
from kmem.mm.gfp import GFP_ATOMIC, GFP_DMA, GFP_KERNEL, GFP_KERNEL_ACCOUNT, GFP_NOFS, GFP_NOIO, GFP_NOWAIT, GFP_USER
from kmem.mm.slab_api import (
    KMALLOC_MAX_CACHE_SIZE,
    KMALLOC_MAX_SIZE,
    KMALLOC_MIN_SIZE,
    NUMA_NO_NODE,
    ZERO_SIZE_PTR,
    KmemCache,
    kcalloc,
    kfree,
    kfree_bulk,
    kfree_sensitive,
    kmalloc,
    kmalloc_array,
    kmalloc_node,
    kmem_cache_alloc,
    kmem_cache_alloc_bulk,
    kmem_cache_alloc_node,
    kmem_cache_create,
    kmem_cache_create_usercopy,
    kmem_cache_destroy,
    kmem_cache_free,
    kmem_cache_free_bulk,
    kmem_cache_shrink,
    kmem_cache_size,
    kmem_cache_zalloc,
    krealloc,
    krealloc_array,
    ksize,
    kzalloc,
    kzalloc_node,
)
from kmem.mm.slab_flags import *
from kmem.mm.slub_validate import validate_slab_cache
from kmem.mm.util import kmemdup, kstrdup, kstrndup
from kmem.mm.vmalloc_api import (
    kvcalloc,
    kvfree,
    kvfree_sensitive,
    kvmalloc,
    kvmalloc_array,
    kvmalloc_node,
    kvrealloc,
    kvzalloc,
    kvzalloc_node,
)

__all__ = [
    *slab_flags.__all__,
    "GFP_ATOMIC",
    "GFP_DMA",
    "GFP_KERNEL",
    "GFP_KERNEL_ACCOUNT",
    "GFP_NOFS",
    "GFP_NOIO",
    "GFP_NOWAIT",
    "GFP_USER",
    "KMALLOC_MAX_CACHE_SIZE",
    "KMALLOC_MAX_SIZE",
    "KMALLOC_MIN_SIZE",
    "KmemCache",
    "NULL",
    "NUMA_NO_NODE",
    "ZERO_SIZE_PTR",
    "kcalloc",
    "kfree",
    "kfree_bulk",
    "kfree_sensitive",
    "kmalloc",
    "kmalloc_array",
    "kmalloc_node",
    "kmem_cache_alloc",
    "kmem_cache_alloc_bulk",
    "kmem_cache_alloc_node",
    "kmem_cache_create",
    "kmem_cache_create_usercopy",
    "kmem_cache_destroy",
    "kmem_cache_free",
    "kmem_cache_free_bulk",
    "kmem_cache_shrink",
    "kmem_cache_size",
    "kmem_cache_zalloc",
    "kmemdup",
    "krealloc",
    "krealloc_array",
    "ksize",
    "kstrdup",
    "kstrndup",
    "kvcalloc",
    "kvfree",
    "kvfree_sensitive",
    "kvmalloc",
    "kvmalloc_array",
    "kvmalloc_node",
    "kvrealloc",
    "kvzalloc",
    "kvzalloc_node",
    "kzalloc",
    "kzalloc_node",
    "validate_slab_cache",
]
