# SPDX-License-Identifier: GPL-2.0-only
"""Memory pools of the running kernel: memory they take, waiting, misuse, poison, failures of their allocators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import DeadlockError, KernelBug, KernelWarning, StateError, UsageError
from kmem.linux.delay import msleep
from kmem.linux.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOIO, GFP_NOWAIT
from kmem.linux.interrupt import hardirq
from kmem.linux.mempool import (
    KernelMempool,
    mempool_alloc,
    mempool_alloc_slab,
    mempool_create,
    mempool_create_kmalloc_pool,
    mempool_create_node,
    mempool_create_page_pool,
    mempool_create_slab_pool,
    mempool_destroy,
    mempool_exit,
    mempool_free,
    mempool_free_slab,
    mempool_init,
    mempool_init_kmalloc_pool,
    mempool_init_page_pool,
    mempool_init_slab_pool,
    mempool_initialized,
    mempool_kfree,
    mempool_kmalloc,
    mempool_resize,
)
from kmem.linux.slab import kmem_cache_create, kmem_cache_destroy, ksize
from kmem.linux.timer import Timer, jiffies, mod_timer
from kmem.mm.fault_inject import FailingAllocator
from kmem.mm.struct_page import Page


@pytest.fixture(params=["x86_64", "i386"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="128M") as machine:
        yield machine
        machine.validate()


def failing(min_nr: int = 2) -> tuple[KernelMempool, FailingAllocator]:
    """A pool of 100 bytes whose allocator can be told to fail."""
    alloc = FailingAllocator(mempool_kmalloc, times=0)
    pool = mempool_create(min_nr, alloc, mempool_kfree, 100)
    assert pool is not None
    return pool, alloc


def test_elements_are_what_the_allocators_give(m: Machine) -> None:
    cache = kmem_cache_create("units", 200, 0, 0, None)
    slab, memory, pages = (
        mempool_create_slab_pool(3, cache),
        mempool_create_kmalloc_pool(2, 500),
        mempool_create_page_pool(2, 1),
    )
    assert slab is not None and memory is not None and pages is not None
    element = mempool_alloc(slab, GFP_KERNEL)
    assert element >= m.page_offset and ksize(element) >= 200
    mempool_free(element, slab)
    piece = mempool_alloc(memory, GFP_ATOMIC)
    assert ksize(piece) == 512
    mempool_free(piece, memory)
    page = mempool_alloc(pages, GFP_NOIO)
    assert isinstance(page, Page)
    mempool_free(page, pages)
    mempool_free(None, pages)
    for pool in (slab, memory, pages):
        pool.validate()
        mempool_destroy(pool)
    mempool_destroy(None)
    kmem_cache_destroy(cache)


def test_the_pool_itself_takes_memory(m: Machine) -> None:
    bits = m.kernel.bits_per_long
    pool = mempool_create_kmalloc_pool(100, 64)
    assert pool is not None and pool.address is not None and pool.array is not None
    assert ksize(pool.address) == (96 if bits == 64 else 64)
    assert ksize(pool.array) == (1024 if bits == 64 else 512)
    assert mempool_initialized(pool)
    assert mempool_resize(pool, 300) == 0
    assert ksize(pool.array) == (4096 if bits == 64 else 2048)
    assert pool.curr_nr == 300
    assert mempool_resize(pool, 2) == 0 and pool.curr_nr == 2
    array, address = pool.array, pool.address
    mempool_destroy(pool)
    assert not mempool_initialized(pool)
    for gone in (array, address, *pool.elements):
        with pytest.raises((KernelBug, KernelWarning, StateError, ValueError)):
            m.kfree(gone)


def test_pools_that_the_caller_makes(m: Machine) -> None:
    cache = kmem_cache_create("units", 200, 0, 0, None)
    pool = KernelMempool()
    assert not mempool_initialized(pool)
    mempool_exit(pool)  # as of a structure that kzalloc() has made
    with pytest.raises(StateError, match="not been initialised"):
        mempool_alloc(pool, GFP_KERNEL)
    for init in (
        lambda: mempool_init_slab_pool(pool, 2, cache),
        lambda: mempool_init_kmalloc_pool(pool, 2, 64),
        lambda: mempool_init_page_pool(pool, 2, 0),
        lambda: mempool_init(pool, 2, mempool_alloc_slab, mempool_free_slab, cache),
    ):
        assert init() == 0
        with pytest.raises(StateError, match="in use"):
            init()
        mempool_free(mempool_alloc(pool, GFP_KERNEL), pool)
        mempool_exit(pool)
    kmem_cache_destroy(cache)


def test_the_reserve_is_used_the_last_first_and_refilled_first(m: Machine) -> None:
    pool, alloc = failing(3)
    reserve = list(pool.elements)
    alloc.times = -1
    taken = [mempool_alloc(pool, GFP_ATOMIC) for _ in range(3)]
    assert taken == reserve[::-1]
    assert mempool_alloc(pool, GFP_ATOMIC) is None
    assert mempool_alloc(pool, GFP_NOWAIT) is None
    for element in taken:
        mempool_free(element, pool)
    assert pool.elements == taken
    alloc.times = 0
    mempool_free(mempool_alloc(pool, GFP_KERNEL), pool)
    assert pool.elements == taken


def test_who_finds_nothing_sleeps_until_an_element_is_freed(m: Machine) -> None:
    pool, alloc = failing(1)
    alloc.times = -1
    got: list[tuple[str, int, int]] = []

    def user(name: str) -> None:
        element = mempool_alloc(pool, GFP_NOIO)
        got.append((name, element, jiffies()))
        msleep(20)
        mempool_free(element, pool)

    for name in "abc":
        m.spawn(user, name, name=name)
    m.run()
    assert sorted(name for name, _, _ in got) == ["a", "b", "c"]
    assert len({element for _, element, _ in got}) == 1
    assert [when for _, _, when in got] == [0, 7, 14]
    assert pool.curr_nr == 1 and not pool.waiters.entries


def test_a_timer_wakes_a_sleeper(m: Machine) -> None:
    pool, alloc = failing(1)
    alloc.times = -1
    held = mempool_alloc(pool, GFP_ATOMIC)
    mod_timer(Timer(lambda _: mempool_free(held, pool)), jiffies() + 9)
    assert mempool_alloc(pool, GFP_KERNEL) == held
    assert jiffies() == 10


def test_a_sleeper_looks_again_after_five_seconds(m: Machine) -> None:
    pool, alloc = failing(1)
    alloc.times = -1
    assert mempool_alloc(pool, GFP_KERNEL) is not None
    mod_timer(Timer(lambda _: setattr(alloc, "times", 0)), jiffies() + 50)
    assert mempool_alloc(pool, GFP_KERNEL) is not None
    assert jiffies() == 1280  # five seconds are 1250 ticks, which the timer wheel rounds up to 64


def test_nobody_left_to_free_an_element(m: Machine) -> None:
    pool, alloc = failing(2)
    alloc.times = -1
    held: list[Any] = []

    def greedy() -> None:
        held.append(mempool_alloc(pool, GFP_KERNEL))
        msleep(4)
        held.append(mempool_alloc(pool, GFP_KERNEL))

    for name in ("one", "two"):
        m.spawn(greedy, name=name)
    with pytest.raises(DeadlockError, match="one/.* waits for an element of the empty mempool 0x.*two/"):
        m.run()
    assert len(held) == 2
    mempool_free(held.pop(), pool)
    mempool_free(held.pop(), pool)
    m.run()
    assert len(held) == 2 and pool.curr_nr == 0


def test_sleeping_where_one_must_not(m: Machine) -> None:
    pool, _ = failing()
    for section in (hardirq(), m.preempt_disabled(), m.irqs_disabled()):
        with section:
            element = mempool_alloc(pool, GFP_ATOMIC)
            mempool_free(element, pool)
            with pytest.raises(KernelWarning, match=r"include/linux/sched/mm\.h:274"):
                mempool_alloc(pool, GFP_KERNEL)
            with pytest.raises(KernelWarning, match=r"mm/mempool\.c:325"):
                mempool_resize(pool, 4)
    assert pool.curr_nr == 2


def test_without_memory_there_is_no_pool_and_nothing_is_lost(m: Machine) -> None:
    calls: list[int] = []

    def alloc(gfp: int, data: Any) -> int | None:
        calls.append(gfp)
        return None if len(calls) == 3 else mempool_kmalloc(gfp, data)

    freed: list[int] = []

    def free(element: int, data: Any) -> None:
        freed.append(element)
        mempool_kfree(element, data)

    assert mempool_create(5, alloc, free, 64) is None
    assert len(freed) == 2
    m.failslab.configure(probability=100, times=-1, verbose=0, ignore_gfp_wait=False)
    assert mempool_create_kmalloc_pool(2, 64) is None
    assert mempool_init_kmalloc_pool(KernelMempool(), 2, 64) == -12
    m.failslab.configure(times=0)
    pool = mempool_create_kmalloc_pool(2, 64)
    assert pool is not None
    m.failslab.configure(times=1)
    assert mempool_resize(pool, 9) == -12 and pool.min_nr == 2
    m.failslab.configure(times=-1)
    assert [mempool_alloc(pool, GFP_ATOMIC) is None for _ in range(3)] == [False, False, True]


def test_exceptions_of_the_allocator_leave_the_pool_valid(m: Machine) -> None:
    broken = False

    def alloc(gfp: int, data: Any) -> int | None:
        if broken:
            raise ZeroDivisionError("alloc")
        return mempool_kmalloc(gfp, data)

    def free(element: int, data: Any) -> None:
        mempool_kfree(element, data)
        if broken:
            raise ZeroDivisionError("free")

    pool = mempool_create_node(3, alloc, free, 64, GFP_KERNEL, -1)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    broken = True
    for call in (
        lambda: mempool_free(element, pool),  # the reserve is full
        lambda: mempool_alloc(pool, GFP_KERNEL),
        lambda: mempool_resize(pool, 6),
        lambda: mempool_resize(pool, 2),
        lambda: mempool_create(2, alloc, free, 64),
    ):
        with pytest.raises(ZeroDivisionError):
            call()
        pool.validate()
    with pytest.raises(ZeroDivisionError):
        mempool_destroy(pool)
    assert not pool.elements and not mempool_initialized(pool)


def test_misuse(m: Machine) -> None:
    pool, _ = failing()
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/mempool\.c:324!"):
        mempool_resize(pool, 0)
    with pytest.raises(ValueError, match="cannot hold back -1"):
        mempool_create_kmalloc_pool(-1, 64)
    with pytest.raises(TypeError, match="KmemCache"):
        mempool_create_slab_pool(2, 64)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="alloc_fn is int"):
        mempool_create(2, 7, mempool_kfree, 64)  # type: ignore[arg-type]
    element = mempool_alloc(pool, GFP_KERNEL)
    held = list(pool.elements)
    with pytest.raises(StateError, match="freed twice"):
        mempool_free(held[0], pool)
    with Machine.boot("x86_64", ram="128M"), pytest.raises(UsageError, match="another machine"):
        mempool_alloc(pool, GFP_KERNEL)
    mempool_free(element, pool)
    mempool_destroy(pool)
    for call in (
        lambda: mempool_alloc(pool, GFP_KERNEL),
        lambda: mempool_destroy(pool),
        lambda: mempool_free(element, pool),
        lambda: mempool_resize(pool, 3),
    ):
        with pytest.raises(StateError, match="has been destroyed"):
            call()


def test_poison_of_the_reserve(m: Machine) -> None:
    pool = KernelMempool(poison=True)
    assert mempool_init_kmalloc_pool(pool, 2, 60) == 0
    address = pool.elements[-1]
    view = m.memory(address, 64)
    assert bytes(view) == b"\x6b" * 63 + b"\xa5"
    m.failslab.configure(probability=100, times=-1, verbose=0)
    assert mempool_alloc(pool, GFP_ATOMIC) == address
    assert bytes(view) == b"\x5a" * 64
    mempool_free(address, pool)
    view[9] = 0
    with pytest.raises(KernelWarning) as caught:
        mempool_alloc(pool, GFP_ATOMIC)
    lines = caught.value.lines
    assert lines[:2] == ["BUG: mempool element poison mismatch", "Mempool 0 size 64"]
    longs = m.kernel.bits_per_long // 8
    shown = "6b " * longs + "0 " + "6b " * (longs - 1)
    assert lines[2] == f" nr=1 @ {address:x}: ... 0x{shown}..."
    m.failslab.configure(times=0)
    mempool_exit(pool)


def test_poison_of_pages(m: Machine) -> None:
    pool = KernelMempool(poison=True)
    assert mempool_init_page_pool(pool, 1, 1) == 0
    view = m.kernel.ram.view(int(pool.elements[0]) << 12, 8192)
    end = b"\x6b" * 4095 + b"\xa5"
    assert bytes(view) == (end * 2 if m.arch == "i386" else b"\x6b" * 8191 + b"\xa5")
    mempool_exit(pool)
