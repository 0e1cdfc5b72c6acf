# SPDX-License-Identifier: GPL-2.0-only
"""The replay loop, event by event."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from kmem.replay.engine import LiveTable
from kmem.trace import Event, EventFlag
from tests.replay.batches import (
    GFP_KERNEL,
    GFP_SLAB,
    PAGE_OFFSET,
    Bench,
    batch,
    cache_alloc,
    cache_free,
    kfree,
    kmalloc,
    page_alloc,
    page_free,
)


def usage(array: np.ndarray, index: int) -> dict[str, int]:
    return {name: int(array[name][index]) for name in array.dtype.names}


def test_an_object_lives_from_its_allocation_to_its_free() -> None:
    bench = Bench()
    engine = bench.feed(kmalloc(0x1000, 60, bytes_alloc=64, call_site=3), kmalloc(0x2000, 60, call_site=3))
    assert (engine.nr_requests, engine.objects.count) == (2, 2)
    assert usage(engine.sites_array, 3) == {
        "allocs": 2,
        "frees": 0,
        "failures": 0,
        "bytes_req": 120,
        "bytes_alloc": 124,
        "live": 2,
        "live_req": 120,
        "live_alloc": 124,
        "peak": 2,
        "peak_alloc": 124,
        "cross_cpu_frees": 0,
    }
    engine = bench.feed(kfree(0x1000), kfree(0x2000))
    assert engine.objects.count == 0
    assert engine.nr_unknown_frees == 0
    after = usage(engine.sites_array, 3)
    assert (after["frees"], after["live"], after["live_alloc"], after["peak_alloc"]) == (2, 0, 0, 124)


def test_the_model_answers_and_the_trace_only_names() -> None:
    """The same requests under other pointers leave the machine in the same state."""
    digests = set()
    for base in (0x1000, 0xFFFF888001234000):
        bench = Bench()
        rows = [kmalloc(base + 64 * i, 8 + i % 200) for i in range(500)]
        rows += [kfree(base + 64 * i) for i in range(0, 500, 3)]
        bench.feed(*rows)
        digests.add(bench.machine.digest())
    assert len(digests) == 1


def test_frees_of_nothing_known_are_counted_apart_and_free_nothing() -> None:
    bench = Bench()
    before = bench.free_pages()
    engine = bench.feed(kfree(0x1000), cache_free(0x2000), page_free(77), page_free(80, 3))
    assert (engine.nr_unknown_frees, engine.nr_unknown_page_frees, engine.nr_frees) == (2, 2, 4)
    assert bench.free_pages() == before


def test_freeing_null_and_nothing_is_no_event() -> None:
    engine = Bench().feed(kmalloc(16, 0), kfree(0), kfree(16))
    assert (engine.nr_frees, engine.nr_unknown_frees, engine.objects.count) == (0, 0, 0)


def test_a_double_allocation_frees_the_old_object() -> None:
    bench = Bench()
    engine = bench.feed(kmalloc(0x1000, 64, call_site=1), kmalloc(0x1000, 4096, call_site=2))
    assert (engine.nr_double_allocations, engine.objects.count) == (1, 1)
    assert usage(engine.sites_array, 1)["live"] == 0
    assert usage(engine.sites_array, 2)["live_req"] == 4096
    engine = bench.feed(page_alloc(5, 0), page_alloc(5, 2))
    assert (engine.nr_double_allocations, engine.blocks.count) == (2, 1)
    bench.feed(kfree(0x1000), page_free(5, 2))
    assert engine.objects.count == engine.blocks.count == 0
    assert engine.nr_unknown_frees == engine.nr_unknown_page_frees == 0


def test_hashed_pointers_that_collide_never_corrupt_the_model() -> None:
    """Many live objects under few pointers: each second one is a double allocation."""
    bench = Bench(page_offset=0)
    chance = np.random.Generator(np.random.PCG64(3))
    rows = []
    for _ in range(5000):
        pointer = int(chance.integers(17, 200))
        if chance.random() < 0.6:
            rows.append(kmalloc(pointer, int(chance.integers(1, 9000))))
        else:
            rows.append(kfree(pointer))
    engine = bench.feed(*rows)
    assert engine.nr_double_allocations > 500
    assert engine.objects.count <= 183
    live = engine.objects.live()
    assert len(np.unique(live["key"])) == len(live) == engine.objects.count
    assert usage(engine.sites_array, 0)["live"] == engine.objects.count


def test_pages_of_a_slab_are_not_allocated_twice() -> None:
    """With real pointers: the object lies in the pages."""
    bench = Bench()
    object_at = PAGE_OFFSET + (0x500 << 12) + 192
    rows = [page_alloc(0x500, 1, GFP_SLAB), cache_alloc(object_at, 192)]
    engine = bench.feed(*rows)
    assert (engine.nr_slab_pages, engine.nr_requests) == (1, 1)
    # the recorded kernel gives the slab back: the model has its own
    engine = bench.feed(cache_free(object_at), page_free(0x500, 1))
    assert (engine.nr_unknown_page_frees, engine.blocks.count) == (0, 0)


def test_slab_like_pages_that_nobody_claims_are_carried_out() -> None:
    bench = Bench()
    engine = bench.feed(page_alloc(0x500, 1, GFP_SLAB), cache_alloc(PAGE_OFFSET + (0x900 << 12)))
    assert (engine.nr_slab_pages, engine.nr_requests, engine.blocks.count) == (0, 2, 1)
    bench.feed(page_free(0x500, 1))
    assert engine.nr_unknown_page_frees == 0


def test_pages_of_a_slab_with_hashed_pointers_are_told_by_order() -> None:
    bench = Bench(page_offset=0)
    engine = bench.feed(page_alloc(0x500, 1, GFP_SLAB, pid=7), cache_alloc(0x1234567, pid=7))
    assert (engine.nr_slab_pages, engine.nr_requests) == (1, 1)


def test_a_large_kmalloc_claims_its_pages() -> None:
    bench = Bench()
    at = PAGE_OFFSET + (0x800 << 12)
    rows = [page_alloc(0x800, 3, GFP_KERNEL | 0x40000), kmalloc(at, 20000, bytes_alloc=32768)]
    engine = bench.feed(*rows)
    assert (engine.nr_slab_pages, engine.nr_requests, engine.objects.count) == (1, 1, 1)
    engine = bench.feed(page_free(0x800, 3), kfree(at))
    assert (engine.nr_unknown_frees, engine.nr_unknown_page_frees) == (0, 0)
    assert engine.objects.count == engine.blocks.count == 0


def test_pages_freed_in_parts() -> None:
    """A block that is split is given back page by page."""
    bench = Bench()
    before = bench.free_pages()
    bench.feed(page_alloc(64, 2))
    engine = bench.feed(page_free(65, 0), page_free(64, 0), page_free(66, 1))
    assert (engine.nr_unknown_page_frees, engine.blocks.count) == (0, 0)
    assert bench.free_pages() == before


def test_failures_are_counted_and_told() -> None:
    bench = Bench()
    engine = bench.feed(*(page_alloc(i << 10, 10, call_site=0) for i in range(64)))
    assert engine.nr_failures == len(bench.cold.failures) > 20
    kind, order, size, _, _, _ = bench.cold.failures[0]
    assert (kind, order, size) == (Event.MM_PAGE_ALLOC, 10, 4096 << 10)
    assert int(engine.orders_array["failures"].sum()) == engine.nr_failures
    # the recorded kernel had no failure and frees the block; it is not one from before the trace
    last = bench.feed(page_free(63 << 10, 10))
    assert last.nr_unknown_page_frees == 0
    last = bench.feed(page_free(63 << 10, 10))
    assert last.nr_unknown_page_frees == 1


def test_what_failed_in_the_trace_stays_free() -> None:
    bench = Bench()
    before = bench.free_pages()
    engine = bench.feed(page_alloc(0, 3, flags=int(EventFlag.FAILED)), page_alloc(0, 0, flags=int(EventFlag.FAILED)))
    assert (engine.nr_failed_in_trace, engine.blocks.count) == (2, 0)
    assert bench.free_pages() == before


@pytest.mark.parametrize("order", [11, 18])
def test_orders_beyond_the_kernels_are_no_request(order: int) -> None:
    engine = Bench().feed(page_alloc(0, order), page_free(0, order))
    assert (engine.nr_requests, engine.nr_unknown_page_frees) == (0, 1)


def test_sizes_beyond_memory_fail() -> None:
    bench = Bench()
    engine = bench.feed(kmalloc(0x1000, 1 << 61), kmalloc(0x2000, 5 << 20))
    assert (engine.nr_failures, len(engine.objects.live())) == (2, 0)
    engine = bench.feed(kfree(0x1000), kfree(0x2000))
    assert (engine.nr_unknown_frees, engine.objects.count) == (0, 0)


def test_cpus_are_kept_apart_and_cross_frees_counted() -> None:
    bench = Bench(cpus=2)
    engine = bench.feed(kmalloc(0x1000, cpu=0, call_site=5), kfree(0x1000, cpu=1), kmalloc(0x2000, cpu=3, call_site=5))
    assert usage(engine.sites_array, 5)["cross_cpu_frees"] == 1
    engine = bench.feed(kfree(0x2000, cpu=1))
    assert usage(engine.sites_array, 5)["cross_cpu_frees"] == 1  # CPU 3 of the trace is CPU 1 of two


def test_a_cache_is_named_by_a_free() -> None:
    bench = Bench()
    bench.feed(cache_alloc(0x1000, call_site=1), cache_free(0x1000, cache=9))
    assert [name for _, name in bench.cold.named] == [9]
    bench.feed(cache_alloc(0x1000, call_site=1), cache_free(0x1000, cache=9))
    assert len(bench.cold.named) == 1


def test_one_trace_one_state_however_it_is_cut() -> None:
    chance = np.random.Generator(np.random.PCG64(7))
    rows, live = [], []
    for _ in range(3000):
        if live and chance.random() < 0.45:
            row = live.pop(int(chance.integers(len(live))))
            page = row["event"] == Event.MM_PAGE_ALLOC
            rows.append(page_free(row["target"], row["order"]) if page else kfree(row["target"]))
        elif chance.random() < 0.3:
            live.append(page_alloc(int(chance.integers(1 << 20)) << 4, int(chance.integers(0, 4))))
            rows.append(live[-1])
        else:
            live.append(kmalloc(int(chance.integers(1 << 40)), int(chance.integers(1, 10000))))
            rows.append(live[-1])
    events = batch(rows)
    digests = set()
    for step in (3000, 1, 37):
        bench = Bench()
        for start in range(0, len(rows), step):
            bench.engine.feed(events, start, min(start + step, len(rows)))
        bench.engine.finish()
        bench.machine.validate()
        digests.add((bench.machine.digest(), bench.engine.objects.count, bench.engine.blocks.count))
    assert len(digests) == 1


def test_memory_does_not_grow_with_the_trace() -> None:
    """A million events over ever new pointers, but few live at a time."""
    bench = Bench(page_offset=0)
    count = 1 << 13
    rows = [kmalloc(0, 256) for _ in range(count)] + [kfree(0) for _ in range(count)]
    events = batch(rows)
    pointers = np.arange(count, dtype=np.uint64) << np.uint64(5)
    engine = bench.engine

    def run(rounds: range) -> int:
        for turn in rounds:
            events.target[:count] = events.target[count:] = pointers + np.uint64((turn + 1) << 20)
            engine.feed(events, 0, 2 * count)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = run(range(8))
    after = run(range(8, 64))
    assert engine.nr_frees == engine.nr_requests == 64 * count
    assert engine.nr_unknown_frees == engine.objects.count == 0
    assert len(engine.objects.array) <= 8 * count
    assert after - before < 4096  # KiB


def test_a_live_table_starts_empty() -> None:
    table = LiveTable()
    assert table.count == 0
    assert len(table.live()) == 0


def test_a_free_of_waiting_pages_is_one_free() -> None:
    bench = Bench()
    engine = bench.feed(page_alloc(8, 0, gfp=GFP_SLAB), page_free(8, 0))
    assert (engine.nr_requests, engine.nr_frees, engine.nr_unknown_page_frees) == (1, 1, 0)
    assert engine.blocks.count == 0


def test_waiting_pages_are_made_on_the_cpu_that_asked() -> None:
    """CPU 1 frees what CPU 0 asked for: the page comes from CPU 0's list."""
    bench = Bench(cpus=2)
    bench.feed(page_alloc(8, 0, gfp=GFP_SLAB, cpu=0), page_free(8, 0, cpu=1))
    counts = bench.machine.memmap.pagesets_array["count"].reshape(-1, 2).sum(axis=0)
    assert counts[0] > 1
    assert counts[1] == 1


def test_contradictory_mobility_is_counted_alike_at_both_ends() -> None:
    bench = Bench()
    engine = bench.feed(page_alloc(8, 0, gfp=GFP_KERNEL | 0x18), page_free(8, 0))
    used = [usage(engine.orders_array, index) for index in range(4)]
    assert [entry["allocs"] for entry in used] == [entry["frees"] for entry in used] == [0, 0, 1, 0]
    assert [entry["live"] for entry in used] == [0, 0, 0, 0]


def test_pages_of_slubs_second_try_are_no_request() -> None:
    """For its smallest order SLUB asks with the caller's own flags, just before the object appears in the page."""
    bench = Bench()
    engine = bench.feed(page_alloc(8, 0, gfp=GFP_KERNEL), kmalloc(PAGE_OFFSET + (8 << 12), 64))
    assert (engine.nr_requests, engine.nr_slab_pages) == (1, 1)
    used = usage(engine.orders_array, 0)
    assert (used["allocs"], used["frees"], used["live"], used["bytes_req"]) == (0, 0, 0, 0)
