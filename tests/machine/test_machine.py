# SPDX-License-Identifier: GPL-2.0-only
"""A whole machine: life, state, sysctls, hooks, and that one seed gives one result."""

from __future__ import annotations

import random

import pytest

from kmem.errors import ConfigError, KernelWarning, StateError, UsageError
from kmem.machine.machine import Machine, current_machine
from kmem.mm.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from kmem.mm.hooks import Hooks, Request

MACHINES = [
    {"machine": "x86_64", "ram": "256M"},
    {"machine": "x86_64", "ram": "1G", "cpus": 2, "nodes": 2},
    {"machine": "i386", "ram": "1G", "cpus": 2},
]


def workload(machine: Machine, seed: int, operations: int = 3000) -> list[int | None]:
    """Do things at random; return every address and frame that came back."""
    rng = random.Random(seed)
    cache = machine.kmem_cache_create(f"work-{seed}", rng.choice([24, 200, 1500]), 0, 0)
    assert cache is not None
    held: list[tuple[str, int, int]] = []
    answers: list[int | None] = []
    for _ in range(operations):
        machine.cpu = rng.randrange(machine.description.cpus)
        what = rng.choice(("page", "object", "kmalloc", "free", "free"))
        if what == "free" and held:
            kind, address, order = held.pop(rng.randrange(len(held)))
            if kind == "page":
                machine.__free_pages(address, order)
            elif kind == "object":
                machine.kmem_cache_free(cache, address)
            else:
                machine.kfree(address)
            continue
        order = rng.choice((0, 0, 0, 1, 2, 3, 9))
        if what == "page":
            got = machine.alloc_pages(rng.choice((GFP_KERNEL, GFP_HIGHUSER_MOVABLE)), order)
        elif what == "object":
            got = machine.kmem_cache_alloc(cache, GFP_KERNEL)
        elif what == "kmalloc":
            got = machine.kmalloc(rng.choice((8, 100, 3000, 20000)), rng.choice((GFP_KERNEL, GFP_ATOMIC)))
        else:
            continue
        answers.append(got)
        if got is not None:
            held.append((what, got, order))
    return answers


@pytest.mark.parametrize("arguments", MACHINES, ids=str)
def test_same_seed_same_answers_same_digest(arguments: dict[str, object]) -> None:
    results = []
    for seed in (1, 1, 2):
        with Machine.boot(seed=seed, **arguments) as machine:  # type: ignore[arg-type]
            answers = workload(machine, 7)
            machine.validate()
            results.append((answers, machine.digest()))
    assert results[0] == results[1]
    assert results[0][1] != results[2][1]  # another seed shuffles other freelists


@pytest.mark.parametrize("arguments", MACHINES, ids=str)
def test_snapshot_and_restore_bring_everything_back(arguments: dict[str, object]) -> None:
    with Machine.boot(**arguments) as machine:  # type: ignore[arg-type]
        workload(machine, 1)
        digest, state = machine.digest(), machine.snapshot()
        first = workload(machine, 2)
        for number in range(80):  # more caches than there was room for
            machine.kmem_cache_create(f"many-{number}", 400 + 8 * number, 0, 0)
        machine.sysctl("vm.min_free_kbytes", 4000)
        later, after = machine.snapshot(), machine.digest()
        assert after != digest
        machine.restore(state)
        assert machine.digest() == digest
        machine.validate()
        assert workload(machine, 2) == first
        machine.restore(later)
        assert machine.digest() == after
        assert machine.sysctl("vm.min_free_kbytes") == 4000
        machine.validate()
        with pytest.raises(UsageError):
            machine.cache("many-80")
        assert machine.geometry(machine.cache("many-79")).size >= 400 + 8 * 79


def test_a_snapshot_of_another_machine_is_refused() -> None:
    with Machine.boot("x86_64", ram="128M") as one, Machine.boot("x86_64", ram="256M") as other:
        with pytest.raises(UsageError, match="another machine"):
            other.restore(one.snapshot())
        other.validate()


def test_the_current_machine_is_the_innermost() -> None:
    with pytest.raises(StateError, match="no machine is running"):
        current_machine()
    with Machine.boot("x86_64", ram="128M") as outer:
        with Machine.boot("i386", ram="128M") as inner:
            assert current_machine() is inner
        assert current_machine() is outer
        with pytest.raises(StateError, match="shut down"):
            inner.kmalloc(8, GFP_KERNEL)
        for gone in (inner.validate, inner.digest, inner.snapshot, inner.view, inner.__enter__):
            with pytest.raises(StateError, match="shut down"):
                gone()
    with pytest.raises(StateError):
        current_machine()


def test_an_error_inside_the_block_still_shuts_the_machine_down() -> None:
    with pytest.raises(ZeroDivisionError), Machine.boot("x86_64", ram="128M") as machine:
        _ = 1 // 0
    assert "shut down" in repr(machine)
    with pytest.raises(StateError):
        current_machine()


def test_sysctls_recompute_and_reach_the_allocator() -> None:
    with Machine.boot("x86_64", ram="512M") as machine:
        before = machine.zones.zone(0, 1).watermark[0]
        assert machine.sysctl("vm.min_free_kbytes", 20000) == 20000
        assert machine.zones.zone(0, 1).watermark[0] > 2 * before
        assert int(machine.memmap.zones_array[1]["watermark"][0]) == machine.zones.zone(0, 1).watermark[0]
        assert machine.sysctl("lowmem_reserve_ratio", [100, 50]) == [100, 50, 32, 0, 0]
        assert int(machine.memmap.zones_array[0]["lowmem_reserve"][1]) == machine.zones.zone(0, 1).managed // 100
        assert machine.sysctl("watermark_boost_factor", 0) == 0
        assert machine.page_alloc.watermark_boost_factor == 0
        for name, value in (("vm.nonsense", 1), ("vm.nonsense", None), ("vm.watermark_scale_factor", 0)):
            with pytest.raises(ConfigError):
                machine.sysctl(name, value)


def test_watermarks_stop_ordinary_requests_and_hooks_are_asked() -> None:
    asked: list[Request] = []

    class Counting(Hooks):
        def direct_reclaim(self, request: Request) -> int:
            asked.append(request)
            return 0

    with Machine.boot("x86_64", ram="128M") as machine:
        machine.hooks = Counting()
        while machine.alloc_page(GFP_KERNEL & ~0x400 | 0x2000) is not None:
            pass
        assert not asked  # may not reclaim
        assert machine.alloc_page(GFP_KERNEL | 0x10000 | 0x2000) is None
        assert asked and asked[0].order == 0
        zone = machine.zones.zone(0, 1)
        assert 0 < machine.nr_free_pages() <= zone.watermark[1] + zone.lowmem_reserve[1] + 3840
        with pytest.raises(UsageError):
            machine.hooks = object()  # type: ignore[assignment]
        machine.validate()


def test_merged_caches_share_an_index_until_the_last_is_destroyed() -> None:
    with Machine.boot("x86_64", ram="128M") as machine:
        one, two = (machine.kmem_cache_create(name, 5008, 0, 0) for name in ("one", "two"))
        assert one == two == machine.cache("one") == machine.cache("two")
        address = machine.kmem_cache_alloc(one, GFP_KERNEL)
        assert address is not None
        machine.kmem_cache_destroy(one)
        with pytest.raises(KernelWarning, match="Objects remaining in one on __kmem_cache_shutdown"):
            machine.kmem_cache_destroy(two)
        with pytest.raises(UsageError, match="the kernel's own"):
            machine.kmem_cache_destroy(machine.cache("kmalloc-64"))
        machine.validate()


def test_addresses_of_the_direct_mapping() -> None:
    with Machine.boot("i386", ram="128M") as machine:
        address = machine.kmalloc(100, GFP_KERNEL)
        assert address is not None
        assert machine.virt_to_phys(address) == address - 0xC0000000
        assert machine.phys_to_virt(machine.virt_to_phys(address)) == address
        assert machine.page_address(machine.virt_to_page(address)) == address & ~0xFFF
        with pytest.raises(UsageError):
            machine.virt_to_phys(4096)
        assert machine.ksize(address) == 128
        bigger = machine.krealloc(address, 5000, GFP_KERNEL)
        assert machine.ksize(bigger) == 8192
        machine.kfree(bigger)
        machine.kfree(None)


def test_cpus_and_their_nodes() -> None:
    with Machine.boot("x86_64", ram="1G", cpus=4, nodes=2) as machine:
        for cpu, node in enumerate((0, 0, 1, 1)):
            machine.cpu = cpu
            pfn = machine.alloc_page(GFP_KERNEL)
            assert pfn is not None
            zone = machine.zones.zone_of_pfn(pfn)
            assert zone is not None and zone.node == node == machine.page_alloc.node
        for cpu in (-1, 4):
            with pytest.raises(UsageError, match="no CPU"):
                machine.cpu = cpu
    with Machine.boot("x86_64", ram="1G", cpus=3, cmdline="numa=fake=2") as machine:
        assert [machine._booted.node_of_cpu[cpu] for cpu in range(3)] == [0, 1, 0]
        assert machine.nr_nodes == 2


def test_what_is_given_beside_a_full_description_is_refused() -> None:
    with Machine.boot("x86_64", ram="128M") as machine:
        description = machine.description
    with pytest.raises(ConfigError, match="ram, cpus given"):
        Machine.boot(description, ram="1G", cpus=2)
    with pytest.raises(ConfigError, match="no machine 'nothing-like-it'"):
        Machine.boot("nothing-like-it")
    with Machine.boot(description, knobs={"vm.min_free_kbytes": 5000}) as machine:
        assert machine.sysctl("min_free_kbytes") == 5000
