# SPDX-License-Identifier: GPL-2.0-only
"""What-if changes of a trace: what becomes of the requests, and that the model stays sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmem.analysis.summary import analyse
from kmem.errors import ConfigError
from kmem.mm.debug_vm import validate_pages
from kmem.replay.replay import Replay, replay
from kmem.replay.transform import Transform
from kmem.replay.variant import Variant
from tests.replay.made_traces import exhausted

BOOT = str(Path(__file__).parent.parent / "data/boot.trace.txt.gz")


def allocs(run: Replay, function: str) -> int:
    sites = run.reader.strings.call_sites
    usage = run.engine.sites_array
    return sum(int(usage["allocs"][i]) for i in range(len(sites)) if sites[i].startswith(function + "+"))


def changed(**changes: object) -> Replay:
    run = replay(BOOT, transform=Transform(**changes))  # type: ignore[arg-type]
    run.machine.slub.validate()
    validate_pages(run.machine.page_alloc)
    return run


@pytest.fixture(scope="module")
def base() -> Replay:
    return replay(BOOT)


def test_a_scaled_load_is_that_many_times_each_count(base: Replay) -> None:
    run = changed(scale_load=3)
    for name in ("nr_requests", "nr_frees", "nr_unknown_frees", "nr_unknown_page_frees", "nr_slab_pages"):
        assert getattr(run.engine, name) == 3 * getattr(base.engine, name)
    assert run.engine.objects.count == 3 * base.engine.objects.count
    assert run.engine.blocks.count == 3 * base.engine.blocks.count
    assert run.engine.nr_double_allocations == base.engine.nr_double_allocations == 0
    assert analyse(run).slab.slab_pages > analyse(base).slab.slab_pages


def test_a_dropped_call_site_takes_its_frees_along(base: Replay) -> None:
    count = allocs(base, "getname_flags.part.0")
    run = changed(drop=("getname_flags.part.0", "no_such_function"))
    assert count == 275
    assert allocs(run, "getname_flags.part.0") == 0
    assert analyse(run).requests.requests == analyse(base).requests.requests - count
    assert run.engine.nr_unknown_frees == base.engine.nr_unknown_frees
    assert run.engine.nr_slab_pages == base.engine.nr_slab_pages  # its slabs' pages are no one's own requests
    assert run.notes == ["the trace has no requests at no_such_function that could be changed"]


def test_everything_dropped_leaves_pages_only() -> None:
    run = changed(drop=("*",))
    assert run.engine.objects.count == 0
    assert analyse(run).slab.slab_pages == 0


def test_resized_kmallocs_ask_for_so_much(base: Replay) -> None:
    count = allocs(base, "security_task_alloc")
    run = changed(resize=(("security_task_alloc", 100),))
    sites = run.reader.strings.call_sites
    rows = [run.engine.sites_array[i] for i in range(len(sites)) if sites[i].startswith("security_task_alloc+")]
    assert sum(int(row["allocs"]) for row in rows) == count > 0
    assert sum(int(row["bytes_req"]) for row in rows) == 100 * count
    assert sum(int(row["bytes_alloc"]) for row in rows) == 128 * count
    assert run.engine.nr_slab_pages == base.engine.nr_slab_pages
    assert run.engine.nr_unknown_frees == base.engine.nr_unknown_frees


# A machine so small, and with so large a reserve, that part of 64 times the load is refused.
SMALL = ("ram=128M", "vm.min_free_kbytes=70000", "scale_load=64")


def pressed(*settings: str) -> Replay:
    run = Variant().with_settings([*SMALL, *settings]).replay(BOOT)
    run.machine.slub.validate()
    validate_pages(run.machine.page_alloc)
    return run


@pytest.fixture(scope="module")
def refused() -> Replay:
    return pressed()


def test_atomic_requests_become_kernel_ones(tmp_path: Path) -> None:
    trace = str(exhausted(tmp_path / "full.txt"))
    machine = Variant(ram="96M")
    one = machine.replay(trace)
    atomic = [failure for failure in one.failures if failure.call_site == "rx_refill+0x1c"]
    assert one.atomic_failures > 0
    assert all(failure.gfp & 0x220 for failure in atomic)
    other = machine.with_settings(["atomic_to_kernel=rx_*"]).replay(trace)
    assert other.atomic_failures == 0
    # what may not dip into the reserve is refused earlier; a kernel would reclaim first
    assert allocs(other, "rx_refill") < allocs(one, "rx_refill")


def test_a_mempool_serves_what_the_cache_refuses(refused: Replay) -> None:
    assert "inode_cache" in {failure.cache for failure in refused.failures}
    run = pressed("mempool.inode_cache=8")
    assert run.transformer is not None
    (pool,) = run.transformer.pools
    assert pool.served >= 8
    assert pool.slept > 0
    assert pool.lowest == 0 <= pool.elements <= pool.min_nr == 8
    assert run.nr_reserved == pool.served + pool.slept
    assert "inode_cache" not in {failure.cache for failure in run.failures}
    analysis = analyse(run)
    assert analysis.requests.failures == run.engine.nr_failures - run.nr_reserved
    assert analysis.changes.mempools[0].served == pool.served
    assert {cache.name: cache.failures for cache in analysis.caches}["inode_cache"] == 0


def test_a_mempool_that_is_not_needed_costs_its_elements(base: Replay) -> None:
    run = changed(mempools=(("kmalloc-64", 5), ("anon_vma_chain", 4)))
    assert run.transformer is not None
    assert [(pool.served, pool.lowest) for pool in run.transformer.pools] == [(0, 5), (0, 4)]
    assert run.engine.objects.count == base.engine.objects.count + 9


def test_kvmalloc_gets_single_pages_where_there_is_no_block() -> None:
    # The requests grow to half a megabyte each: the last blocks of that size are soon gone, single pages are not.
    large = ("resize.security_task_alloc=500000", "ram=128M", "scale_load=64")
    plain = Variant().with_settings(large).replay(BOOT)
    run = Variant().with_settings([*large, "kvmalloc_above=4096"]).replay(BOOT)
    validate_pages(run.machine.page_alloc)
    assert run.transformer is not None
    assert run.transformer.kvmalloc_fallbacks > 0
    assert run.engine.blocks.count > plain.engine.blocks.count


def test_a_kvmalloc_that_gets_no_pages_either_is_one_refusal_and_leaves_nothing(tmp_path: Path) -> None:
    full = exhausted(tmp_path / "full.txt", pages=16_000, burst=0)
    with full.open("a") as file:
        for number in range(3):
            file.write(
                f"   sh-1   [000] .....  3.00000{number}: kmalloc: call_site=f+0x1c/0x90 ptr=0xffff8880f{number}000000 "
                "bytes_req=60000 bytes_alloc=65536 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
            )
    variant = Variant(ram="96M")
    plain = variant.replay(str(full))
    run = variant.with_settings(["kvmalloc_above=8192"]).replay(str(full))
    validate_pages(run.machine.page_alloc)
    assert run.transformer is not None
    assert run.transformer.kvmalloc_fallbacks == 0
    before, after = analyse(plain), analyse(run)
    assert after.requests.failures == before.requests.failures
    assert after.memory.free_at_end == before.memory.free_at_end
    assert {usage.order: usage.failures for usage in after.page_orders if usage.failures} == {
        0: sum(usage.failures for usage in before.page_orders) + 3
    }
    assert sum(usage.failures for usage in after.call_sites) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["slub_frobnicate=1"], "unknown setting 'slub_frobnicate'"),
        (["cpus=none"], "whole number"),
        (["ram=lots"], "no size"),
        (["slub_min_order=11"], "would panic"),
        (["slub_min_order="], "has no value"),
        (["movablecore=x"], "no size"),
        (["scale_load=0"], "whole number"),
        (["scale_load=65"], "a load scaled by 65"),
        (["mempool.bio-0=x"], "whole number"),
        (["slab_order.dentry=11"], "largest order"),
        (["profile=7.0"], "kernel profile"),
        (["cpus=1", "cpus=2"], "two values"),
    ],
)
def test_settings_that_are_none(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Variant().with_settings(settings)


def test_a_mempool_of_an_unknown_cache() -> None:
    with pytest.raises(ConfigError, match="no cache 'nonesuch' for a mempool"):
        replay(BOOT, transform=Transform(mempools=(("nonesuch", 1),)))


def test_boot_options_reach_the_slab_caches() -> None:
    run = Variant().with_settings(["slub_max_order=0", "slab_nomerge", "min-free-kbytes=4096"]).replay(BOOT)
    assert {cache.order for cache in analyse(run).caches if cache.size_bytes <= 4096} == {0}
    assert run.machine.zones.tunables.min_free_kbytes == 4096
    assert run.machine.description.cmdline == "slub_max_order=0 slab_nomerge"
    debug = Variant().with_settings(["slub_debug=FZPU"]).replay(BOOT)
    sizes = {cache.name: cache.size_bytes for cache in analyse(run).caches}
    larger = {cache.name: cache.size_bytes for cache in analyse(debug).caches}
    assert larger["dentry"] > sizes["dentry"]


def test_the_order_of_one_cache() -> None:
    run = Variant().with_settings(["slab_order.dentry=3"]).replay(BOOT)
    assert {cache.name: cache.order for cache in analyse(run).caches}["dentry"] == 3
