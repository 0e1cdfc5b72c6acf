# SPDX-License-Identifier: GPL-2.0-only
"""Memory pools: who is asked first, with which flags, and what the reserve holds."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from kmem.errors import StateError
from kmem.machine.machine import Machine
from kmem.mm.mempool import (
    Mempool,
    mempool_alloc,
    mempool_create,
    mempool_create_kmalloc_pool,
    mempool_create_page_pool,
    mempool_create_slab_pool,
    mempool_destroy,
    mempool_free,
    mempool_resize,
)
from tests.mm.machines import normal_lists, one_zone

GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT, GFP_NOIO = 0xCC0, 0xA20, 0x800, 0xC00
DIRECT_RECLAIM, IO = 0x400, 0x40
NOMEMALLOC_NORETRY_NOWARN = 0x80000 | 0x10000 | 0x2000


class Numbers:
    """An allocator of numbers that can be told to fail, and notes its calls."""

    def __init__(self, fail: int = 0) -> None:
        self.fail = fail
        self.next = 0
        self.flags: list[int] = []
        self.freed: list[int] = []

    def alloc(self, gfp: int, data: Any) -> int | None:
        assert data == "data"
        self.flags.append(gfp)
        if self.fail:
            self.fail -= 1
            return None
        self.next += 1
        return self.next

    def free(self, element: int, data: Any) -> None:
        assert data == "data"
        self.freed.append(element)

    def pool(self, min_nr: int, **options: Any) -> Mempool:
        pool = mempool_create(min_nr, self.alloc, self.free, "data", **options)
        assert pool is not None
        self.flags.clear()
        return pool


def test_creation_fills_the_reserve() -> None:
    numbers = Numbers()
    pool = mempool_create(3, numbers.alloc, numbers.free, "data")
    assert pool is not None
    assert (pool.min_nr, pool.curr_nr, pool.elements) == (3, 3, [1, 2, 3])
    assert numbers.flags == [GFP_KERNEL] * 3
    pool.validate()


def test_creation_that_fails_gives_everything_back_the_last_first() -> None:
    numbers = Numbers()

    def alloc(gfp: int, data: Any) -> int | None:
        return None if numbers.next == 3 else numbers.alloc(gfp, data)

    assert mempool_create(5, alloc, numbers.free, "data") is None
    assert numbers.freed == [3, 2, 1]
    with pytest.raises(ValueError, match="cannot hold back -1"):
        mempool_create(-1, numbers.alloc, numbers.free, "data")


def test_an_exception_of_the_allocator_leaves_nothing_behind() -> None:
    numbers = Numbers()

    def alloc(gfp: int, data: Any) -> int | None:
        if numbers.next == 2:
            raise KeyError("broken")
        return numbers.alloc(gfp, data)

    with pytest.raises(KeyError):
        mempool_create(5, alloc, numbers.free, "data")
    assert numbers.freed == [2, 1]


def test_the_allocator_comes_first_and_then_the_top_of_the_reserve() -> None:
    numbers = Numbers()
    pool = numbers.pool(3)
    assert mempool_alloc(pool, GFP_KERNEL) == 4
    assert pool.elements == [1, 2, 3]
    numbers.fail = 99
    assert [mempool_alloc(pool, GFP_KERNEL) for _ in range(2)] == [3, 2]
    assert pool.elements == [1]
    pool.validate()


@pytest.mark.parametrize(
    ("gfp", "seen"),
    [
        (GFP_KERNEL, [0x92880, 0x92CC0]),
        (GFP_NOIO, [0x92800, 0x92C00]),
        (GFP_ATOMIC, [0x92A20]),
        (GFP_ATOMIC | IO, [0x92A20, 0x92A60]),
        (GFP_NOWAIT, [0x92800]),
    ],
)
def test_the_flags_the_allocator_sees_on_an_empty_pool(gfp: int, seen: list[int]) -> None:
    assert seen[-1] == gfp | NOMEMALLOC_NORETRY_NOWARN
    numbers = Numbers()
    pool = numbers.pool(0)
    numbers.fail = 99
    if gfp & DIRECT_RECLAIM:
        with pytest.raises(StateError, match="the kernel would sleep here"):
            mempool_alloc(pool, gfp)
    else:
        assert mempool_alloc(pool, gfp) is None
    assert numbers.flags == seen


def test_with_a_reserve_the_allocator_is_asked_once() -> None:
    numbers = Numbers()
    pool = numbers.pool(1)
    numbers.fail = 99
    assert mempool_alloc(pool, GFP_KERNEL) == 1
    assert numbers.flags == [0x92880]


def test_the_second_round_may_be_the_one_that_succeeds() -> None:
    numbers = Numbers()
    pool = numbers.pool(0)
    numbers.fail = 1
    assert mempool_alloc(pool, GFP_KERNEL) == 1
    assert numbers.flags == [0x92880, 0x92CC0]


def test_a_request_that_sleeps_gets_what_is_freed_meanwhile() -> None:
    numbers = Numbers()
    held: list[int] = []
    waits = []

    def wait(pool: Mempool) -> None:
        waits.append(pool.curr_nr)
        if len(waits) == 3:  # the first two wake up for nothing
            mempool_free(held.pop(), pool)

    pool = numbers.pool(2, wait=wait)
    numbers.fail = 99
    held += [mempool_alloc(pool, GFP_KERNEL) for _ in range(2)]
    assert mempool_alloc(pool, GFP_KERNEL) == 1
    assert waits == [0, 0, 0]
    # Both first rounds, then all flags before each sleep and after the last.
    assert numbers.flags == [0x92880] * 2 + [0x92880, 0x92CC0] + [0x92CC0] * 3
    assert numbers.freed == []


def test_frees_refill_the_reserve_before_the_allocator_gets_anything() -> None:
    numbers = Numbers()
    pool = numbers.pool(2)
    first, second = mempool_alloc(pool, GFP_KERNEL), mempool_alloc(pool, GFP_KERNEL)
    numbers.fail = 99
    assert mempool_alloc(pool, GFP_KERNEL) == 2
    mempool_free(second, pool)
    assert (pool.elements, numbers.freed) == ([1, second], [])
    mempool_free(first, pool)
    assert (pool.elements, numbers.freed) == ([1, second], [first])
    mempool_free(None, pool)
    pool.validate()


def test_resizing() -> None:
    numbers = Numbers()
    pool = numbers.pool(4)
    assert mempool_resize(pool, 2) == 0
    assert (pool.min_nr, pool.elements, numbers.freed) == (2, [1, 2], [4, 3])
    assert mempool_resize(pool, 5) == 0
    assert (pool.min_nr, pool.elements, numbers.flags) == (5, [1, 2, 5, 6, 7], [GFP_KERNEL] * 3)
    assert mempool_resize(pool, 5) == 0
    numbers.fail = 1
    assert mempool_resize(pool, 8) == 0
    assert (pool.min_nr, pool.curr_nr) == (8, 5)
    mempool_free(mempool_alloc(pool, GFP_KERNEL), pool)  # later frees make up for what is missing
    assert pool.elements == [1, 2, 5, 6, 7, 8]
    for wrong in (0, -3):
        with pytest.raises(StateError, match="kernel BUG at mm/mempool.c"):
            mempool_resize(pool, wrong)
    pool.validate()


def test_a_smaller_reserve_that_is_empty_gives_nothing_back() -> None:
    numbers = Numbers()
    pool = numbers.pool(4)
    numbers.fail = 99
    for _ in range(3):
        mempool_alloc(pool, GFP_ATOMIC)
    assert mempool_resize(pool, 2) == 0
    assert (pool.min_nr, pool.elements, numbers.freed) == (2, [1], [])


def test_destruction_gives_the_reserve_back_the_last_first() -> None:
    numbers = Numbers()
    pool = numbers.pool(3)
    mempool_destroy(pool)
    mempool_destroy(None)
    assert numbers.freed == [3, 2, 1]
    for use in (
        lambda: mempool_alloc(pool, GFP_ATOMIC),
        lambda: mempool_free(1, pool),
        lambda: mempool_resize(pool, 4),
        lambda: mempool_destroy(pool),
    ):
        with pytest.raises(StateError, match="has been destroyed"):
            use()


def test_an_element_freed_twice_is_noticed() -> None:
    numbers = Numbers(fail=0)
    pool = numbers.pool(2)
    numbers.fail = 99
    element = mempool_alloc(pool, GFP_ATOMIC)
    other = mempool_alloc(pool, GFP_ATOMIC)
    mempool_free(element, pool)
    with pytest.raises(StateError, match="freed twice"):
        mempool_free(element, pool)
    mempool_free(other, pool)
    pool.validate()
    pool.elements.append(other)
    with pytest.raises(StateError, match="holds 3 elements, 2 at most"):
        pool.validate()


def test_a_pool_of_pages() -> None:
    allocator = one_zone()
    before = normal_lists(allocator)
    pool = mempool_create_page_pool(3, allocator, 2)
    assert pool is not None
    held = []
    while (pfn := mempool_alloc(pool, GFP_NOWAIT)) is not None:
        held.append(pfn)
    # All of the machine, the reserve last, its top first.
    assert sorted(held) == list(range(0, 4096, 4))
    assert pool.elements == []
    for pfn in held:
        mempool_free(pfn, pool)
    assert pool.elements == held[:3]
    mempool_destroy(pool)
    frames = {key[0]: sorted(frames) for key, frames in normal_lists(allocator).items()}
    assert frames == {key[0]: sorted(frames) for key, frames in before.items()}


def test_pools_of_slab_objects_and_of_kmalloc() -> None:
    with Machine.boot("x86_64", ram="256M") as machine:
        slub = machine.slub
        index = next(index for index, geometry in slub.geometries.items() if geometry.name == "kmalloc-96")
        pools = [mempool_create_slab_pool(4, slub, index), mempool_create_kmalloc_pool(4, slub, 3000)]
        for pool, size in zip(pools, (96, 4096), strict=True):
            assert pool is not None
            held = [mempool_alloc(pool, GFP_KERNEL) for _ in range(10)]
            everything = [*held, *pool.elements]
            assert len(set(everything)) == 14
            assert {slub.ksize(address) for address in everything} == {size}
            for address in held:
                mempool_free(address, pool)
            assert pool.curr_nr == 4
            mempool_destroy(pool)
            with pytest.raises((StateError, ValueError)):
                slub.kfree(held[0])  # it went back to the cache
        with pytest.raises(ValueError, match="pieces of 0 bytes"):
            mempool_create_kmalloc_pool(1, slub, 0)
        machine.validate()


@pytest.mark.parametrize("seed", range(8))
def test_random_use_neither_loses_nor_doubles_an_element(seed: int) -> None:
    rng = random.Random(seed)
    numbers = Numbers()
    pool = numbers.pool(rng.randrange(1, 6))
    held: list[int] = []
    for _ in range(400):
        step = rng.random()
        numbers.fail = rng.choice([0, 0, 1, 99])
        if step < 0.05:
            before = pool.curr_nr
            wanted = rng.randrange(1, 9)
            mempool_resize(pool, wanted)
            assert pool.min_nr == wanted
            assert pool.curr_nr == min(before, wanted) or not numbers.fail
        elif step < 0.5 and held:
            short = pool.curr_nr < pool.min_nr
            element = held.pop(rng.randrange(len(held)))
            mempool_free(element, pool)
            assert (pool.elements[-1:] == [element]) == short
            assert (numbers.freed[-1:] == [element]) == (not short)
        else:
            top, fresh = pool.elements[-1:], numbers.next + 1
            got = mempool_alloc(pool, GFP_ATOMIC)
            assert [got] == ([fresh] if numbers.next == fresh else top or [None])
            if got is not None:
                held.append(got)
        pool.validate()
        known = Counter([*held, *pool.elements, *numbers.freed])
        assert known == Counter(range(1, numbers.next + 1))
