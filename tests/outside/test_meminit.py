# SPDX-License-Identifier: GPL-2.0-only
"""Memory reads as zero when it is handed out: the cases of ``lib/test_meminit.c``, told anew.

Follows Linux 6.1.  The kernel's test wants ``init_on_alloc=1`` (the default
here, as in the reference kernel) or ``init_on_free=1``; both are run.

What does not apply: nothing.  RCU critical sections around the look at a freed
object are not needed where nothing runs at the same time, but are kept.
"""

from __future__ import annotations

import pytest

from kmem import Machine
from kmem.linux.gfp import *
from kmem.linux.rcupdate import rcu_read_lock, rcu_read_unlock
from kmem.linux.slab import *
from kmem.linux.vmalloc import vfree, vmalloc

GARBAGE = bytes.fromhex("9ebaa709")
CTOR_PATTERN = b"AAAA"
SIZES = [8 << n for n in range(10)]


@pytest.fixture(params=["", "init_on_alloc=0 init_on_free=1"], ids=["init_on_alloc", "init_on_free"])
def m(request):
    with Machine.boot("x86_64", ram="256M", cmdline=request.param) as machine:
        yield machine
        machine.validate()


def fill(m: Machine, addr: int, size: int, skip: int = 0) -> None:
    m.write(addr + skip, (GARBAGE * (size // 4 + 1))[: size - skip])


def is_zero(m: Machine, addr: int, size: int) -> bool:
    return not any(m.read(addr, size))


def construct(addr: int) -> None:
    from kmem.machine.machine import current_machine

    current_machine().write(addr, CTOR_PATTERN)


@pytest.mark.parametrize("order", range(11))
def test_pages(m, order):
    size = 4096 << order
    for _ in range(2):
        page = alloc_pages(GFP_KERNEL, order)
        addr = page_address(page)
        assert is_zero(m, addr, size)
        fill(m, addr, size)
        __free_pages(page, order)


@pytest.mark.parametrize("size", [1 << n for n in range(20)])
def test_kmalloc_and_vmalloc(m, size):
    for alloc, free in ((lambda n: kmalloc(n, GFP_KERNEL), kfree), (vmalloc, vfree)):
        for _ in range(2):
            addr = alloc(size)
            assert is_zero(m, addr, size)
            fill(m, addr, size)
            free(addr)


def fresh_as_wanted(m: Machine, addr: int, size: int, ctor: bool, rcu: bool, zero: bool) -> bool:
    if zero:
        return is_zero(m, addr, size)
    if ctor:
        return m.read(addr, 4) == CTOR_PATTERN
    return rcu or is_zero(m, addr, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("ctor", "rcu", "zero"),
    [
        (ctor, rcu, zero)
        for ctor in (False, True)
        for rcu in (False, True)
        for zero in (False, True)
        if not (ctor and zero)
    ],
)
def test_caches(m, size, ctor, rcu, zero):
    cache = kmem_cache_create("test_cache", size, 1, SLAB_TYPESAFE_BY_RCU if rcu else 0, construct if ctor else None)
    gfp = GFP_KERNEL | (__GFP_ZERO if zero else 0)
    for _ in range(10):
        if not rcu and not ctor:
            objects: list[int] = []
            assert kmem_cache_alloc_bulk(cache, gfp, 100, objects) == 100
            assert all(fresh_as_wanted(m, addr, size, ctor, rcu, zero) for addr in objects)
            kmem_cache_free_bulk(cache, 100, objects)
        addr = kmem_cache_alloc(cache, gfp)
        assert fresh_as_wanted(m, addr, size, ctor, rcu, zero)
        fill(m, addr, size, 4 if ctor else 0)
        if not rcu:
            kmem_cache_free(cache, addr)
            continue
        # What others may still look at is not wiped.
        rcu_read_lock()
        before = m.read(addr, size)
        kmem_cache_free(cache, addr)
        assert m.read(addr, size) == before
        assert not ctor or before[:4] == CTOR_PATTERN
        rcu_read_unlock()
    kmem_cache_destroy(cache)


@pytest.mark.parametrize("size", SIZES)
def test_an_rcu_object_survives_reallocation(m, size):
    cache = kmem_cache_create("test_cache", size, size, SLAB_TYPESAFE_BY_RCU, None)
    first = kmem_cache_alloc(cache, GFP_KERNEL)
    fill(m, first, size)
    before = m.read(first, size)
    kmem_cache_free(cache, first)
    used = []
    while first not in used and len(used) < 1024:
        used.append(kmem_cache_alloc(cache, GFP_KERNEL))
    assert used[-1] == first, "the object freed last is the next one handed out"
    assert m.read(first, size) == before
    for addr in used:
        kmem_cache_free(cache, addr)
    kmem_cache_destroy(cache)


@pytest.mark.parametrize("size", SIZES)
def test_bulks(m, size):
    cache = kmem_cache_create("test_cache", size, size, 0, None)
    for _ in range(256):
        objects: list[int] = []
        assert kmem_cache_alloc_bulk(cache, GFP_KERNEL, 10, objects) == 10
        for addr in objects:
            assert is_zero(m, addr, size)
            fill(m, addr, size)
        kmem_cache_free_bulk(cache, 10, objects)
    kmem_cache_destroy(cache)
