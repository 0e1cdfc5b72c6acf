# SPDX-License-Identifier: GPL-2.0-only
"""Misuse of memory pools: the mempool cases of ``mm/kasan/kasan_test.c``, told anew.

Follows Linux 6.8, which was the first to have them: 6.1 says nothing about the
elements of a pool.  KASAN notices the access itself.  The reference kernel has
no KASAN; what notices here is SLUB's debugging (``slub_debug=``), when the
object is checked, the poison of a reserve, when the element leaves it, and the
pool, where an element comes back that it holds.

What does not apply, and why: reads after free or beyond the end (no memory of
the model is forbidden to read); ``page_alloc_uaf`` without poison (pages have no
red zone); invalid frees into a reserve that is not full (the pool takes any
pointer, as the kernel's does; the free that follows at the pool's end reports it).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kmem import Machine
from kmem.errors import KernelReport, KernelWarning, KmemError, StateError
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.mempool import (
    KernelMempool,
    mempool_alloc,
    mempool_exit,
    mempool_free,
    mempool_init_kmalloc_pool,
    mempool_init_page_pool,
    mempool_init_slab_pool,
)
from kmem.linux.slab import kmem_cache_create

SIZE, LARGE = 128 - 13, 8192 + 5
POOLS: dict[str, Callable[[KernelMempool], int]] = {
    "kmalloc": lambda pool: mempool_init_kmalloc_pool(pool, 4, SIZE),
    "kmalloc_large": lambda pool: mempool_init_kmalloc_pool(pool, 4, LARGE),
    "slab": lambda pool: mempool_init_slab_pool(pool, 4, kmem_cache_create("test_cache", SIZE, 0, 0, None)),
    "page_alloc": lambda pool: mempool_init_page_pool(pool, 4, 2),
}


def preallocated(m: Machine, pool: KernelMempool) -> object:
    """Return an element of the reserve, as ``mempool_alloc_preallocated()`` of later kernels does."""
    m.faults.failslab.configure(probability=100, times=-1, verbose=0, ignore_gfp_wait=False)
    m.faults.fail_page_alloc.configure(
        probability=100, times=-1, verbose=0, ignore_gfp_wait=False, min_order=0, ignore_gfp_highmem=False
    )
    element = mempool_alloc(pool, GFP_KERNEL)
    m.faults.failslab.times = m.faults.fail_page_alloc.times = 0
    assert element is not None and pool.curr_nr == pool.min_nr - 1
    return element


@pytest.mark.parametrize("kind", ["kmalloc", "slab"])
def test_oob_right(kind: str) -> None:
    with Machine.boot("x86_64", ram="128M", cmdline="slub_debug=FZ", reports="log") as m:
        pool = KernelMempool()
        assert POOLS[kind](pool) == 0
        element = preallocated(m, pool)
        assert isinstance(element, int)
        m.write(element + (128 if kind == "kmalloc" else SIZE), b"x")
        mempool_free(element, pool)
        assert "Redzone overwritten" not in m.dmesg()
        mempool_exit(pool)
        cache = "kmalloc-128" if kind == "kmalloc" else "test_cache"
        assert f"BUG {cache} " in m.dmesg() and "Redzone overwritten" in m.dmesg()


@pytest.mark.parametrize("kind", POOLS)
def test_use_after_free(kind: str) -> None:
    """A write to an element that the reserve holds is found when it is handed out again."""
    with Machine.boot("x86_64", ram="128M") as m:
        pool = KernelMempool(poison=True)
        assert POOLS[kind](pool) == 0
        element = preallocated(m, pool)
        mempool_free(element, pool)
        address = m.page_address(element) if kind == "page_alloc" else element
        m.write(address, b"x")
        with pytest.raises(KernelWarning, match="BUG: mempool element poison mismatch"):
            preallocated(m, pool)
        pool.poison = False
        mempool_exit(pool)
        m.validate()


@pytest.mark.parametrize("kind", POOLS)
def test_double_free(kind: str) -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        pool = KernelMempool()
        assert POOLS[kind](pool) == 0
        first, second = mempool_alloc(pool, GFP_KERNEL), preallocated(m, pool)
        mempool_free(second, pool)
        with pytest.raises(StateError, match="freed twice"):
            mempool_free(second, pool)
        mempool_free(first, pool)
        with pytest.raises(KmemError):
            mempool_free(first, pool)  # beyond the reserve it is the allocator that is given it twice
        pool.validate()


@pytest.mark.parametrize("kind", ["kmalloc", "slab"])
def test_invalid_free(kind: str) -> None:
    with Machine.boot("x86_64", ram="128M", cmdline="slub_debug=F") as m:
        pool = KernelMempool()
        assert POOLS[kind](pool) == 0
        element = mempool_alloc(pool, GFP_KERNEL)
        with pytest.raises((KernelReport, KmemError)):
            mempool_free(element + 1, pool)
        mempool_free(element, pool)
        mempool_exit(pool)
        m.validate()
