# SPDX-License-Identifier: GPL-2.0-only
"""One program, one log: a memory pool, a timer in softirq and memory pressure, a hundred times over.

::

    init        fills memory until little is left, makes the pool's allocator fail, and starts the others
    writer/n    takes elements of the pool (GFP_NOIO) and pages (GFP_KERNEL): sleeps for the one, reclaims for the other
    timer       in softirq: takes a page with GFP_ATOMIC, frees one, gives an element back to the pool
    shrinker    pages that go when memory is short, but for requests that may not enter a file system
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmem import Machine
from kmem.errors import DeadlockError
from kmem.linux.delay import msleep
from kmem.linux.gfp import (
    __GFP_FS,
    __GFP_NOFAIL,
    __GFP_NOWARN,
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOWAIT,
    __free_pages,
    alloc_pages,
)
from kmem.linux.mempool import (
    mempool_alloc,
    mempool_create_slab_pool,
    mempool_free,
)
from kmem.linux.preempt import in_serving_softirq
from kmem.linux.sched import get_current
from kmem.linux.shrinker import ShrinkControl, Shrinker, register_shrinker
from kmem.linux.slab import kmem_cache_alloc, kmem_cache_create
from kmem.linux.timer import Timer, jiffies, mod_timer, timer_delete


def program(arch: str, seed: int) -> tuple[str, str, str]:
    """Run it; return the kernel's log, the schedule log and the digest of all state."""
    with Machine.boot(arch, ram="128M", seed=seed) as m:
        cache = kmem_cache_create("requests", 200, 0, 0, None)
        pool = mempool_create_slab_pool(4, cache)
        assert pool is not None
        hog = []
        while (page := alloc_pages(GFP_NOWAIT | __GFP_NOWARN, 0)) is not None:
            hog.append(page)
        m.failslab.configure(probability=100, times=-1, verbose=0, ignore_gfp_wait=False, cache_filter=True)
        m.failslab.caches.add("requests")
        cached = [hog.pop() for _ in range(3000)]
        in_flight: list[int] = []

        def count(shrinker: Shrinker, control: ShrinkControl) -> int:
            return len(cached) if control.gfp_mask & __GFP_FS else 0

        def scan(shrinker: Shrinker, control: ShrinkControl) -> int:
            m.log.printk(f"{get_current().comm} shrinks by {control.nr_to_scan}")
            taken = cached[: control.nr_to_scan]
            del cached[: len(taken)]
            for page in taken:
                __free_pages(page, 0)
            return len(taken)

        register_shrinker(Shrinker(count, scan), "pages-%d", 1)

        def writer(number: int) -> None:
            for turn in range(4):
                begin = jiffies()
                element = mempool_alloc(pool, GFP_NOIO)
                if jiffies() > begin:
                    m.log.printk(
                        f"{get_current().comm} has waited {jiffies() - begin} ticks for an element of the pool"
                    )
                pages = [alloc_pages(GFP_KERNEL, 0) for _ in range(50)]
                assert None not in pages
                hog.extend(pages)
                m.log.printk(f"{get_current().comm} turn {turn}: {element:#x}, pages {pages[:3]}")
                in_flight.append(element)
                msleep(3 * number + 1)

        def complete_one(timer: Timer) -> None:
            page = alloc_pages(GFP_ATOMIC | __GFP_NOWARN, 0)
            m.log.printk(f"softirq {in_serving_softirq():#x} on top of {get_current().comm}: page {page!r}")
            if page is not None:
                hog.append(page)
            if in_flight:
                mempool_free(in_flight.pop(0), pool)
            mod_timer(timer, jiffies() + 1)

        timer = Timer(complete_one)
        mod_timer(timer, jiffies() + 1)
        for number in range(3):
            m.spawn(writer, number, name=f"writer/{number}")
        m.run()
        timer_delete(timer)
        pool.validate()
        m.validate()
        return m.dmesg(), m.sched.text(), m.digest()


def test_a_hundred_runs_have_the_same_log() -> None:
    first = program("x86_64", 7)
    assert "writer/2 turn 3" in first[0] and "softirq 0x100 on top of swapper/0" in first[0]
    assert "writer/0 shrinks by" in first[0] or "kswapd0 shrinks by" in first[0]
    assert "ticks for an element of the pool" in first[0] and "prev_comm=writer/1 prev_pid=" in first[1]
    for _ in range(99):
        assert program("x86_64", 7) == first


def test_other_processes_have_the_same_log() -> None:
    """Neither the order of hashes nor addresses of the host find their way into it."""
    code = "import tests.machine.test_same_log as t; print(t.program('i386', 5))"
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_another_seed_gives_another_order(arch: str) -> None:
    runs = {program(arch, seed)[1] for seed in range(4)}
    assert len(runs) > 1
    assert program(arch, 3) == program(arch, 3)


def test_a_program_that_deadlocks_is_reported_the_same_way() -> None:
    """Two tasks hold half of a pool each, and each wants the other half."""

    def run() -> tuple[str, str]:
        with Machine.boot("x86_64", ram="128M", seed=7) as m:
            cache = kmem_cache_create("requests", 200, 0, 0, None)
            pool = mempool_create_slab_pool(2, cache)
            assert pool is not None
            while alloc_pages(GFP_NOWAIT | __GFP_NOWARN, 0) is not None:
                pass
            while kmem_cache_alloc(cache, GFP_ATOMIC | __GFP_NOWARN) is not None:
                pass

            def greedy() -> None:
                first = mempool_alloc(pool, GFP_NOIO)
                msleep(10)
                second = mempool_alloc(pool, GFP_NOIO)
                mempool_free(second, pool)
                mempool_free(first, pool)

            for name in ("left", "right"):
                m.spawn(greedy, name=name)
            with pytest.raises(DeadlockError) as caught:
                m.run()
            m.validate()
            return str(caught.value), m.dmesg()

    text, log = run()
    assert text.startswith("all tasks wait, and nobody is left to wake them: left/")
    assert text.count("waits for an element of the empty mempool 0xffff8880") == 2
    assert "since 0.0" in text and "greedy (test_same_log.py:" in text
    assert "task:left            state:D" in log
    assert run() == (text, log)


def test_requests_that_must_not_fail_wait_for_others_or_are_a_deadlock() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        hog = []
        while (page := alloc_pages(GFP_NOWAIT | __GFP_NOWARN, 0)) is not None:
            hog.append(page)
        got: list[object] = []

        def needs(pages: int) -> None:
            for _ in range(pages):
                got.append(alloc_pages(GFP_NOFS | __GFP_NOFAIL, 0))

        def helps() -> None:
            msleep(500)
            for _ in range(1500):
                __free_pages(hog.pop(), 0)

        m.spawn(needs, 1400, name="needs")
        m.spawn(helps, name="helps")
        m.run()
        assert len(got) == 1400 and None not in got and jiffies() > 125
        m.spawn(needs, 5000, name="needs-more")
        with pytest.raises(DeadlockError, match="needs-more/.* waits for memory"):
            m.run()
        m.validate()
