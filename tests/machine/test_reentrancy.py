# SPDX-License-Identifier: GPL-2.0-only
"""The allocators while a request sleeps inside them: others allocate and free meanwhile, from the same cache.

::

    kmem_cache_alloc(GFP_KERNEL)      needs a slab: pages are short
      direct reclaim
        shrinker                      frees objects of the same cache and pages
          cond_resched()  --------->  another task allocates from the same cache, may need a slab as well
      the slab is there               but the CPU has got another one meanwhile
"""

from __future__ import annotations

import random

import pytest

from kmem import Machine
from kmem.linux.delay import msleep
from kmem.linux.gfp import __GFP_NOWARN, GFP_KERNEL, GFP_NOWAIT, __free_pages, alloc_pages
from kmem.linux.sched import cond_resched, get_current
from kmem.linux.shrinker import ShrinkControl, Shrinker, register_shrinker
from kmem.linux.slab import SLAB_RECLAIM_ACCOUNT, kfree, kmalloc, kmem_cache_alloc, kmem_cache_create, kmem_cache_free
from kmem.linux.timer import Timer, jiffies, mod_timer, timer_delete


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("size", [64, 192, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_others_allocate_while_a_request_reclaims(arch: str, size: int, seed: int) -> None:
    chance = random.Random(seed)
    with Machine.boot(arch, ram="128M", seed=seed) as m:
        cache = kmem_cache_create("objects", size, 0, SLAB_RECLAIM_ACCOUNT, None)
        idle: list[int] = []  # objects that the shrinker may free
        held: set[int] = set()
        pieces: set[int] = set()
        hog = []
        while (page := alloc_pages(GFP_NOWAIT | __GFP_NOWARN, 0)) is not None:
            hog.append(page)
        switches_inside = 0

        def count(shrinker: Shrinker, control: ShrinkControl) -> int:
            return len(idle) + len(hog)

        def scan(shrinker: Shrinker, control: ShrinkControl) -> int:
            nonlocal switches_inside
            freed = 0
            while freed < min(control.nr_to_scan, 12) and (idle or hog):
                if idle and chance.random() < 0.5:
                    kmem_cache_free(cache, idle.pop())
                elif hog:
                    __free_pages(hog.pop(), 0)
                freed += 1
            turns = m.kernel.clock.time_ns
            me = get_current()
            cond_resched()
            switches_inside += me.comm.startswith("worker") and m.sched.log[-1].time_ns > turns
            return freed

        register_shrinker(Shrinker(count, scan), "objects")

        def worker() -> None:
            for _ in range(60):
                for _ in range(chance.randrange(30)):
                    obj = kmem_cache_alloc(cache, GFP_KERNEL)
                    assert obj is not None and obj not in held and obj not in idle
                    held.add(obj)
                    piece = kmalloc(size, GFP_KERNEL)
                    assert piece is not None and piece not in pieces
                    pieces.add(piece)
                for _ in range(chance.randrange(len(held) + 1)):
                    obj = chance.choice(sorted(held))
                    held.remove(obj)
                    idle.append(obj) if chance.random() < 0.6 else kmem_cache_free(cache, obj)
                for _ in range(chance.randrange(len(pieces) + 1)):
                    piece = chance.choice(sorted(pieces))
                    pieces.remove(piece)
                    kfree(piece)
                if chance.random() < 0.2:
                    msleep(1)
                while chance.random() < 0.7 and (page := alloc_pages(GFP_NOWAIT | __GFP_NOWARN, 0)) is not None:
                    hog.append(page)

        def interrupt(timer: Timer) -> None:
            obj = kmem_cache_alloc(cache, GFP_NOWAIT | __GFP_NOWARN)
            assert obj not in held and obj not in idle
            if obj is not None:
                kmem_cache_free(cache, obj)
            mod_timer(timer, jiffies())

        timer = Timer(interrupt)
        mod_timer(timer, jiffies())
        for number in range(4):
            m.spawn(worker, name=f"worker/{number}")
        m.run()
        timer_delete(timer)
        assert switches_inside > 5, switches_inside
        m.validate()
        for obj in sorted(held) + idle:
            kmem_cache_free(cache, obj)
        for piece in sorted(pieces):
            kfree(piece)
        m.kmem_cache_destroy(cache)
        m.validate()
