# SPDX-License-Identifier: GPL-2.0-only
"""Memory pools against a naive model: random programs, with requests made to fail; and many tasks at once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import DeadlockError
from kmem.linux.delay import msleep, udelay
from kmem.linux.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOIO, GFP_NOWAIT
from kmem.linux.mempool import (
    KernelMempool,
    mempool_alloc,
    mempool_create,
    mempool_destroy,
    mempool_free,
    mempool_kfree,
    mempool_kmalloc,
    mempool_resize,
)
from kmem.linux.timer import Timer, jiffies, mod_timer, timer_delete
from tests.model.naive_mempool import NaiveMempool

STEPS = 500


class Recorded:
    """``kmalloc()`` as a pool's allocator, with its calls written down."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Any]] = []
        self.given_back: list[Any] = []

    def alloc(self, gfp: int, size: int) -> int | None:
        element = mempool_kmalloc(gfp, size)
        self.calls.append((gfp, element))
        return element

    def free(self, element: int, size: int) -> None:
        self.given_back.append(element)
        mempool_kfree(element, size)


class Pair:
    """A pool of the machine and a naive one, doing the same."""

    def __init__(self, m: Machine, seed: int) -> None:
        self.m = m
        self.random = random.Random(seed)
        self.recorded = Recorded()
        self.held: list[int] = []
        m.failslab.configure(probability=0, times=-1, verbose=0, ignore_gfp_wait=False)
        pool = mempool_create(4, self.recorded.alloc, self.recorded.free, 72)
        assert pool is not None
        self.pool: KernelMempool = pool
        self.naive = NaiveMempool(4)
        self.follow()
        assert self.naive.fill()

    def follow(self) -> None:
        """Give the naive pool the answers that its twin has had."""
        self.naive.calls.extend(self.recorded.calls)
        self.recorded.calls.clear()

    def compare(self) -> None:
        assert not self.naive.calls, "the naive pool makes fewer calls"
        assert self.pool.elements == self.naive.reserve
        assert self.pool.min_nr == self.naive.min_nr
        assert self.recorded.given_back == self.naive.given_back
        assert not set(self.held) & set(self.pool.elements)
        self.pool.validate()

    def step(self) -> None:
        self.m.failslab.probability = self.random.choice((0, 0, 50, 90, 100))
        self.random.choices((self.alloc, self.free, self.resize), (10, 9, 1))[0]()
        self.compare()

    def alloc(self) -> None:
        gfp = self.random.choice((GFP_ATOMIC, GFP_NOWAIT, GFP_ATOMIC, GFP_NOIO))
        if gfp & 0x400 and not self.pool.elements:
            self.m.failslab.probability = 0  # it would wait, which is the other test's business
        got = mempool_alloc(self.pool, gfp)
        self.follow()
        assert got == self.naive.alloc(gfp)
        if got is not None:
            self.held.append(got)

    def free(self) -> None:
        if self.held:
            element = self.held.pop(self.random.randrange(len(self.held)))
            mempool_free(element, self.pool)
            self.naive.free(element)

    def resize(self) -> None:
        min_nr = self.random.randint(1, 9)
        if mempool_resize(self.pool, min_nr) == 0:
            self.follow()
            self.naive.resize(min_nr)


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("seed", range(4))
def test_random_programs(arch: str, seed: int) -> None:
    with Machine.boot(arch, ram="128M", seed=seed) as m:
        pair = Pair(m, seed)
        for _ in range(STEPS):
            pair.step()
        m.failslab.probability = 0
        for element in pair.held:
            mempool_free(element, pair.pool)
            pair.naive.free(element)
        mempool_destroy(pair.pool)
        pair.naive.destroy()
        assert pair.recorded.given_back == pair.naive.given_back
        m.validate()


@pytest.mark.parametrize("seed", range(6))
def test_many_tasks_share_a_pool(seed: int) -> None:
    """Nobody gets what another has; all get something in the end; the reserve is full again."""
    chance = random.Random(seed)
    with Machine.boot("x86_64", ram="128M", seed=seed) as m:
        pool = mempool_create(3, mempool_kmalloc, mempool_kfree, 72)
        assert pool is not None
        m.failslab.configure(probability=chance.choice((60, 100)), times=-1, verbose=0, ignore_gfp_wait=False)
        held: dict[int, str] = {}
        in_timer: list[int] = []
        rounds: dict[str, int] = {}

        def user(name: str) -> None:
            for _ in range(8):
                element = mempool_alloc(pool, chance.choice((GFP_NOIO, GFP_KERNEL)))
                assert element is not None and element not in held
                held[element] = name
                chance.choice((msleep, udelay))(chance.randrange(1, 30))
                assert held.pop(element) == name
                rounds[name] = rounds.get(name, 0) + 1
                mempool_free(element, pool)

        def tick(timer: Timer) -> None:
            # an interrupt takes elements too, holds one for a while, and never waits
            if in_timer:
                mempool_free(in_timer.pop(), pool)
            else:
                element = mempool_alloc(pool, GFP_ATOMIC)
                assert element not in held
                if element is not None:
                    in_timer.append(element)
            mod_timer(timer, jiffies() + chance.randrange(3))

        timer = Timer(tick)
        mod_timer(timer, jiffies())
        for name in "abcdef":
            m.spawn(user, name, name=name)
        try:
            m.run()
        except DeadlockError as error:
            pytest.fail(str(error))
        timer_delete(timer)
        for element in in_timer:
            mempool_free(element, pool)
        assert rounds == dict.fromkeys("abcdef", 8) and not held
        assert pool.curr_nr == 3 and not pool.waiters.entries
        pool.validate()
        m.validate()
