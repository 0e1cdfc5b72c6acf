# SPDX-License-Identifier: GPL-2.0-only
"""Fault injection where the kernel allocates for itself: making a cache, a work queue, a thread.

The objects that hold a cache, a queue or a thread are Python's here, and take
nothing of the machine's memory.  Whoever makes one is asked all the same
whether the kernel's own requests for them fail.

Source: mm/slab_common.c:create_cache, mm/slub.c:kmem_cache_open @6.1.192
Differs: only requests for objects are asked about; they never lack pages.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.slab_flags import CACHE_CREATE_MASK, SLAB_FLAGS_PERMITTED

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["cache_create_fails", "kmalloc_fails"]

#: Bytes of the kernel's own structures, by bits of a word; a ``struct kmem_cache`` ends with a pointer for each node.
_KMEM_CACHE: Final = {64: 216, 32: 136}
_KMEM_CACHE_NODE: Final = {64: 64, 32: 32}
_KMALLOC_LARGEST: Final = 8192


class _Cache(NamedTuple):
    """A cache as fault injection sees it."""

    name: str
    object_size: int


def kmalloc_fails(kernel: Kernel, size: int, gfp: int = GFP_KERNEL) -> bool:
    """Whether a ``kmalloc()`` of the kernel's own is to fail; larger ones than a slab serves never are.

    Parameters
    ----------
    kernel : Kernel
    size : int
        Bytes.
    gfp : int
        GFP mask.
    """
    if not kernel.aids or size > _KMALLOC_LARGEST:
        return False
    sizes = [1 << order for order in range(3, 14)] + [96, 192]
    fits = min(fit for fit in sizes if fit >= size)
    short = f"{fits >> 10}k" if fits >= 1024 else f"{fits}"
    return kernel.should_failslab(_Cache(f"kmalloc-{short}", fits), gfp)


def cache_create_fails(
    kernel: Kernel, name: str, size: int, align: int, flags: int, *, ctor: bool, useroffset: int, usersize: int
) -> int:
    """Return why making a cache is to fail: an error number, or 0.

    The name's copy and the cache itself lack memory; what goes wrong once the cache is laid out (a
    structure for each node) the kernel calls a wrong argument.

    Parameters
    ----------
    kernel : Kernel
    name, size, align, flags, ctor, useroffset, usersize
        As for ``kmem_cache_create_usercopy()``. A request that shares a cache needs no memory, and one
        that is refused gets none.

    Source: mm/slab_common.c:kmem_cache_create_usercopy, create_cache, mm/slub.c:kmem_cache_open @6.1.192
    """
    if not kernel.aids or not name or flags & ~SLAB_FLAGS_PERMITTED:
        return 0
    if not usersize or size < usersize or size - usersize < useroffset:
        if kernel.caches.list.find_mergeable(name, size, align, flags & CACHE_CREATE_MASK, ctor) is not None:
            return 0
    word_bits = kernel.bits_per_long
    if kmalloc_fails(kernel, len(name.encode()) + 1):
        return errno.ENOMEM
    cache_bytes = _KMEM_CACHE[word_bits] + kernel.page_alloc.nr_nodes * word_bits // 8
    if kernel.should_failslab(_Cache("kmem_cache", cache_bytes), GFP_KERNEL):
        return errno.ENOMEM
    node = _Cache("kmem_cache_node", _KMEM_CACHE_NODE[word_bits])
    if any(kernel.should_failslab(node, GFP_KERNEL) for _ in range(kernel.page_alloc.nr_nodes)):
        return errno.EINVAL
    return 0
