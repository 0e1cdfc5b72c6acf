# SPDX-License-Identifier: GPL-2.0-only
"""What a debugging aid hears of the calls that kernel code makes.

Fault injection, leak detection, page_owner and allocation profiling derive
from :class:`Aid` and are registered with ``kernel.add_aid()``.  As long as
none is, a call costs one test more.

Addresses are kernel addresses, as the caller sees them.

Source: mm/slab.h:slab_pre_alloc_hook, slab_post_alloc_hook @6.1.192
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmem.mm.slab_common import CacheGeometry

__all__ = ["Aid"]


class Aid:
    """Hears of allocations; override what is of interest."""

    def should_failslab(self, cache: CacheGeometry, gfp: int) -> bool:
        """Whether a request for an object is to fail.

        Source: mm/slab_common.c:should_failslab @6.1.192
        """
        return False

    def slab_alloc(self, addr: int, size: int, cache: CacheGeometry | None, gfp: int) -> None:
        """Take note of an object of `size` bytes at `addr`; `cache` is None if it is a large ``kmalloc()``."""

    def slab_free(self, addr: int) -> None:
        """Take note that the object at `addr` is about to be given back."""

    def cache_create(self, index: int, name: str, object_size: int) -> None:
        """Take note that ``kmem_cache_create()`` made cache number `index` under this name, or shared it."""

    def cache_destroy(self, index: int) -> None:
        """Take note that one use of a cache is about to be given up."""

    def page_alloc(self, pfn: int, order: int, gfp: int) -> None:
        """Take note of a block of pages that was handed out."""

    def page_free(self, pfn: int, order: int) -> None:
        """Take note that a block of pages is about to be given back."""

    def vmalloc(self, addr: int, size: int, gfp: int) -> None:
        """Take note of `size` bytes of virtually contiguous memory at `addr`."""

    def vfree(self, addr: int) -> None:
        """Take note that the memory at `addr` is about to be given back."""
