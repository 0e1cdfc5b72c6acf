# SPDX-License-Identifier: GPL-2.0-only
"""Shrinkers: how many objects they are asked to look at, and that reclaim calls them."""

from __future__ import annotations

from typing import Any

import pytest

from kmem import Machine
from kmem.errors import ConfigError, StateError, UsageError
from kmem.linux.gfp import GFP_ATOMIC, GFP_KERNEL, alloc_pages
from kmem.linux.shrinker import (
    DEFAULT_SEEKS,
    SHRINK_EMPTY,
    SHRINK_STOP,
    SHRINKER_NUMA_AWARE,
    ShrinkControl,
    Shrinker,
    register_shrinker,
    synchronize_shrinkers,
    unregister_shrinker,
)
from kmem.linux.slab import SLAB_RECLAIM_ACCOUNT, kmem_cache_alloc, kmem_cache_create, kmem_cache_free
from kmem.mm.shrinker import do_shrink_slab
from kmem.mm.vmstat import VmStat


class Cache:
    """A cache of `count` objects that counts what it is asked for."""

    def __init__(self, count: int, **options: Any) -> None:
        self.count, self.batches, self.stop = count, list[int](), False
        self.shrinker = Shrinker(lambda s, c: self.count, self._scan, **options)
        self.shrinker.nr_deferred = [0]

    def _scan(self, shrinker: Shrinker, control: ShrinkControl) -> int:
        self.batches.append(control.nr_to_scan)
        if self.stop:
            return SHRINK_STOP
        freed = min(control.nr_to_scan, self.count)
        self.count -= freed
        return freed

    def shrink(self, priority: int) -> int:
        return do_shrink_slab(ShrinkControl(GFP_KERNEL), self.shrinker, priority, VmStat(1, 5))


@pytest.mark.parametrize(
    ("count", "priority", "options", "batches", "deferred"),
    [
        (100_000, 12, {}, [], 48),  # 24 * 4 / 2
        (100_000, 10, {}, [128], 194 - 128),
        (100_000, 9, {}, [128, 128, 128], 390 - 384),
        (100_000, 9, {"seeks": 1}, [128] * 6, 780 - 768),
        (100_000, 9, {"seeks": 8}, [], 97),
        (1000, 12, {"seeks": 0}, [128, 128, 128], 500 - 384),  # costs nothing: half of them
        (1000, 9, {"batch": 2}, [2], 0),  # 1 * 4 / 2
        (40, 0, {}, [80], 0),  # fewer than a batch, but all of them and twice
        (40, 3, {}, [], 10),
    ],
)
def test_how_many_objects(count: int, priority: int, options: Any, batches: list[int], deferred: int) -> None:
    cache = Cache(count, **options)
    cache.shrink(priority)
    assert cache.batches == batches
    assert cache.shrinker.nr_deferred == [deferred]


def test_what_is_left_over_is_done_the_next_time() -> None:
    cache = Cache(10_000)
    for _ in range(16):
        cache.shrink(12)  # 4 each time
    assert cache.batches == [] and cache.shrinker.nr_deferred == [64]
    cache.shrink(6)  # 312 new ones, and 64 / 64 of the old
    assert cache.batches == [128, 128]
    assert cache.shrinker.nr_deferred == [64 + 312 - 256]


def test_deferred_work_is_bounded() -> None:
    cache = Cache(100)
    cache.shrinker.nr_deferred = [10**9]
    cache.stop = True
    cache.shrink(12)
    assert cache.shrinker.nr_deferred == [200]


def test_stop_ends_a_run_and_empty_is_passed_on() -> None:
    cache = Cache(100_000)
    cache.stop = True
    assert cache.shrink(4) == 0
    assert cache.batches == [128]
    empty = Shrinker(lambda s, c: SHRINK_EMPTY, lambda s, c: 0)
    assert do_shrink_slab(ShrinkControl(0), empty, 0, VmStat(1, 5)) == SHRINK_EMPTY


def test_objects_of_a_slab_cache_make_room_for_requests() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        cache = kmem_cache_create("kept", 1024, 0, SLAB_RECLAIM_ACCOUNT, None)
        kept: list[int] = []
        while len(kept) < 200_000:
            address = kmem_cache_alloc(cache, GFP_ATOMIC | 0x2000)
            if address is None:
                break
            kept.append(address)
        for _ in range(400):
            kmem_cache_free(cache, kept.pop())
        assert len(kept) > 30_000
        calls = []

        def scan(shrinker: Shrinker, control: ShrinkControl) -> int:
            calls.append(control)
            # a shrinker may need memory itself, even of the cache that it shrinks
            address = kmem_cache_alloc(cache, GFP_KERNEL)
            if address is not None:
                kmem_cache_free(cache, address)
            for _ in range(control.nr_to_scan):
                if kept:
                    kmem_cache_free(cache, kept.pop(0))
            return control.nr_to_scan

        shrinker = Shrinker(lambda s, c: len(kept) or SHRINK_EMPTY, scan)
        assert register_shrinker(shrinker, "kept-%d", 1) == 0
        assert shrinker.name == "kept-1"
        before = len(kept)
        pages = [alloc_pages(GFP_KERNEL, 0) for _ in range(2000)]
        assert None not in pages
        assert calls and len(kept) < before
        assert m.kernel.reclaim.stat.events["slabs_scanned"] >= before - len(kept)
        m.validate()
        unregister_shrinker(shrinker)
        count = len(calls)
        m.drop_caches(2)
        assert len(calls) == count
        synchronize_shrinkers()


def test_every_node_is_asked_if_the_shrinker_knows_about_nodes() -> None:
    with Machine.boot("x86_64", ram="512M", nodes=2) as m:
        seen: dict[str, set[int]] = {"aware": set(), "unaware": set()}

        def count(name: str) -> Any:
            return lambda s, c: seen[name].add(c.nid) or 0

        register_shrinker(Shrinker(count("aware"), lambda s, c: 0, flags=SHRINKER_NUMA_AWARE), "aware")
        register_shrinker(Shrinker(count("unaware"), lambda s, c: 0), "unaware")
        m.drop_caches(2)
        assert seen["aware"] == {0, 1}


def test_misuse() -> None:
    with pytest.raises(UsageError):
        Shrinker(None, lambda s, c: 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Shrinker(lambda s, c: 0, lambda s, c: 0, seeks=-1)
    assert DEFAULT_SEEKS == 2
    with Machine.boot("x86_64", ram="128M") as m:
        with pytest.raises(TypeError):
            register_shrinker(lambda: 0)  # type: ignore[arg-type]
        shrinker = Shrinker(lambda s, c: 1000, lambda s, c: None)  # type: ignore[arg-type,return-value]
        register_shrinker(shrinker, "wrong")
        with pytest.raises(StateError):
            register_shrinker(shrinker, "wrong")
        with pytest.raises(UsageError, match="scan_objects of shrinker 'wrong' returned None"):
            m.drop_caches(2)
        unregister_shrinker(shrinker)
        unregister_shrinker(shrinker)
        m.validate()
        with pytest.raises(UsageError):
            m.drop_caches(4)
        with pytest.raises(ConfigError):
            m.sysctl("vm.swappiness", 201)
        assert m.sysctl("vm.swappiness", 10) == m.kernel.reclaim.vmscan.swappiness == 10


def test_a_shrinker_that_raises_leaves_everything_in_order() -> None:
    with pytest.raises(ValueError, match="no"), Machine.boot("x86_64", ram="128M") as m:
        m.open_file("f", 100 << 20)
        m.read_file("f")

        def scan(shrinker: Shrinker, control: ShrinkControl) -> int:
            raise ValueError("no")

        shrinker = Shrinker(lambda s, c: 1 << 20, scan)
        register_shrinker(shrinker, "raises")
        with pytest.raises(ValueError, match="no"):
            m.drop_caches(2)
        for _ in range(3000):
            try:
                alloc_pages(GFP_KERNEL, 2)
            except ValueError:
                break
        assert m.page_alloc.task_flags == 0
        m.validate()
        unregister_shrinker(shrinker)
        for _ in range(500):  # reclaim goes on as if nothing had been, kswapd too
            assert alloc_pages(GFP_KERNEL, 2) is not None
        m.validate()
        m.sched.run()  # what kswapd died of comes out here, if it did not out of a request


def test_a_slab_cache_without_memory_says_so() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        cache = kmem_cache_create("hungry", 512, 0, 0, None)
        while m.page_alloc.alloc_pages(GFP_ATOMIC | 0x2000, 0) >= 0:
            pass
        while kmem_cache_alloc(cache, GFP_ATOMIC) is not None:
            pass
        text = m.log.text()
        assert (
            "SLUB: Unable to allocate memory on node -1, gfp=0xa20(GFP_ATOMIC)\n  cache: hungry, object size: 512"
            in text
        )
        assert "  node 0: slabs: " in text
        assert text.index("page allocation failure") < text.index("SLUB: Unable")
