# SPDX-License-Identifier: GPL-2.0-only
"""Objects of caches of any geometry lie where the geometry says, on a running machine.

No formula of the model is repeated here: objects must not overlap, must be
aligned, must lie in slabs of the announced size, and must all come back.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmem.errors import StateError, UsageError
from kmem.mm.kmalloc import KMALLOC_MAX_CACHE_SIZE, KMALLOC_MAX_SIZE
from kmem.mm.kmem_cache import KmemCaches
from kmem.mm.slab_common import CacheGeometry, SlabConfig
from kmem.mm.slab_flags import (
    SLAB_ACCOUNT,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.mm.slub import ZERO_SIZE_OBJECT, Slub
from kmem.mm.slub_state import dump_cache, load_state, save_state, validate_caches
from tests.mm.machines import GFP_KERNEL, one_zone

PAGE = 4096
CONFIGS = st.builds(
    SlabConfig.for_arch,
    st.sampled_from(["amd64", "i386"]),
    cpus=st.sampled_from([1, 2, 8]),
    cmdline=st.sampled_from(
        ["", "", "slab_nomerge", "slub_debug=FZPU", "slub_debug=OZU", "slub_max_order=0", "slub_min_order=2"]
    ),
)
FLAG_SETS = st.lists(
    st.sampled_from(
        [
            *(SLAB_HWCACHE_ALIGN, SLAB_RECLAIM_ACCOUNT, SLAB_ACCOUNT, SLAB_TYPESAFE_BY_RCU, SLAB_RED_ZONE),
            *(SLAB_POISON, SLAB_STORE_USER, SLAB_CONSISTENCY_CHECKS),
        ]
    ),
    max_size=3,
    unique=True,
).map(sum)
REQUESTS = st.fixed_dictionaries(
    {
        "size": st.one_of(st.integers(1, 300), st.integers(1, 5000), st.integers(5000, 40000)),
        "align": st.sampled_from([0, 0, 8, 64, 512]),
        "flags": FLAG_SETS,
        "ctor": st.booleans(),
    }
)


def machine(config: SlabConfig, *, frames: int = 4096, cpus: int = 1, seed: int = 1) -> KmemCaches:
    return KmemCaches(Slub(one_zone(frames, cpus=cpus), seed), config)


def free_frames(caches: KmemCaches) -> int:
    memmap = caches.slub.memmap
    return int(memmap.zones_array[memmap.zone_id("Normal")]["free_pages"])


def assert_apart(objects: list[tuple[int, int]]) -> None:
    """No two of the (address, length) overlap."""
    objects = sorted(objects)
    for (low, length), (high, _) in pairwise(objects):
        assert low + length <= high


def assert_placed(caches: KmemCaches, cache: int, address: int, size: int) -> None:
    """An object lies in a slab of its cache, aligned, with all its metadata inside its own slot."""
    geometry = caches.geometry(cache)
    slab, number = caches.slub.where(address)
    objects = caches.slub.slab_objects(slab)
    assert caches.slub.slab_cache(slab) == cache
    assert objects in (geometry.objects, geometry.min_objects)
    order = geometry.order if objects == geometry.objects else geometry.min_order
    offset = address - slab * PAGE
    assert 0 <= offset and offset + geometry.inuse <= PAGE << order
    assert offset // geometry.size == number < objects
    assert address % geometry.align == 0
    assert geometry.ksize >= size


@settings(max_examples=60, derandomize=True, deadline=None)
@given(CONFIGS, st.lists(REQUESTS, min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_objects_of_any_cache(
    config: SlabConfig, requests: list[dict[str, int]], seed: int, data: st.DataObject
) -> None:
    caches = machine(config, seed=seed)
    slub, before = caches.slub, free_frames(caches)
    live: dict[int, tuple[int, int]] = {}
    numbers = []
    for n, request in enumerate(requests):
        cache = caches.kmem_cache_create(f"c{n}", **request)
        numbers.append(cache)
        for _ in range(data.draw(st.integers(0, 80))):
            address = slub.kmem_cache_alloc(cache, GFP_KERNEL)
            assert address is not None and address not in live
            live[address] = (cache, request["size"])
            assert_placed(caches, cache, address, request["size"])
        geometry = caches.geometry(cache)
        for address in data.draw(st.permutations(sorted(live)))[::3]:
            slub.kmem_cache_free(live.pop(address)[0], address)
        state = dump_cache(slub, cache)
        for cpu in state["cpus"]:
            assert len(cpu["partial"]) <= geometry.cpu_partial_slabs
            assert not geometry.debug or cpu["slab"] is None
    validate_caches(slub)
    assert_apart([(address, size) for address, (_, size) in live.items()])
    for address, (cache, _) in live.items():
        slub.kmem_cache_free(cache, address)
    for cache in numbers:
        assert caches.kmem_cache_destroy(cache)
    slub.rcu_barrier()
    slub.allocator.drain_all_pages()
    assert caches.list.slab_caches == []
    assert free_frames(caches) == before


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    CONFIGS,
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 300), st.integers(0, KMALLOC_MAX_CACHE_SIZE), st.integers(8000, 60000)),
            st.sampled_from([0xCC0, 0xCD0, 0x400CC0, 0x400CD0]),
        ),
        max_size=60,
    ),
)
def test_kmalloc_of_any_size(config: SlabConfig, requests: list[tuple[int, int]]) -> None:
    caches = machine(config)
    slub, before = caches.slub, free_frames(caches)
    table = caches.create_kmalloc_caches()
    live = []
    for size, gfp in requests:
        address = slub.kmalloc(size, gfp)
        assert address is not None
        if size == 0:
            assert address == ZERO_SIZE_OBJECT and slub.ksize(address) == 0
            continue
        ksize = slub.ksize(address)
        assert ksize >= size
        # Powers of two are aligned to themselves, whatever the debug options.
        assert address % (min(ksize, PAGE) if ksize & (ksize - 1) == 0 else 8) == 0
        assert size > 192 or ksize in (8, 16, 32, 64, 96, 128, 192)
        live.append((address, ksize))
        assert slub.krealloc(address, ksize, gfp) == address
    assert_apart(live)
    validate_caches(slub)
    for address, _ in live:
        slub.kfree(address)
    for row in table.values():
        for geometry in row:
            if geometry is not None:
                assert not slub.kmem_cache_shrink(caches.index_of(geometry))
    slub.allocator.drain_all_pages()
    assert free_frames(caches) == before


@pytest.mark.parametrize("cmdline", ["", "cgroup.memory=nokmem"])
def test_accounted_requests_come_from_accounted_caches(cmdline: str) -> None:
    caches = machine(SlabConfig.for_arch("amd64", cmdline=cmdline))
    caches.create_kmalloc_caches()
    address = caches.slub.kmalloc(100, 0x400CC0)
    slab, _ = caches.slub.where(address)
    name = caches.geometry(caches.slub.slab_cache(slab)).name
    assert name == ("kmalloc-128" if cmdline else "kmalloc-cg-128")


def test_kmalloc_above_the_largest_block_fails() -> None:
    caches = machine(SlabConfig.for_arch("amd64"))
    caches.create_kmalloc_caches()
    assert caches.slub.kmalloc(KMALLOC_MAX_SIZE, GFP_KERNEL) is not None
    assert caches.slub.kmalloc(KMALLOC_MAX_SIZE + 1, GFP_KERNEL | 0x2000) is None


def test_small_slabs_where_large_blocks_are_gone() -> None:
    """Without blocks of the preferred order the minimum order serves, with as many objects as it holds."""
    caches = KmemCaches(Slub(one_zone(64, free=[(pfn, 0) for pfn in range(0, 64, 2)])), SlabConfig.for_arch("amd64"))
    cache = caches.kmem_cache_create("c", 1000)
    geometry = caches.geometry(cache)
    assert (geometry.order, geometry.min_order, geometry.min_objects) == (1, 0, 4)
    address = caches.slub.kmem_cache_alloc(cache, GFP_KERNEL)
    slab, _ = caches.slub.where(address)
    assert caches.slub.slab_objects(slab) == 4
    assert_placed(caches, cache, address, 1000)
    validate_caches(caches.slub)


def test_shared_caches_are_destroyed_by_their_last_user() -> None:
    caches = machine(SlabConfig.for_arch("amd64"))
    first = caches.kmem_cache_create("first", 60)
    second = caches.kmem_cache_create("second", 64)
    assert first == second
    assert caches.geometry(first).refcount == 2
    assert caches.find("first") == first
    assert caches.find("second") == first  # a shared cache is found by all its names
    address = caches.slub.kmem_cache_alloc(second, GFP_KERNEL)
    assert caches.kmem_cache_destroy(first)
    assert not caches.kmem_cache_destroy(second)  # an object is still out
    assert caches.geometry(first).refcount == 0
    caches.slub.kmem_cache_free(first, address)
    with pytest.raises(UsageError):
        caches.kmem_cache_destroy(99)


def test_a_cache_that_cannot_be_set_up_is_not_listed() -> None:
    caches = machine(SlabConfig.for_arch("amd64"))
    with pytest.raises(UsageError, match="permutation"):
        caches.kmem_cache_create("c", 64, random_seq=[0, 0])
    assert caches.list.slab_caches == []


def test_snapshot_of_the_list_of_caches() -> None:
    caches = machine(SlabConfig.for_arch("amd64"))
    first = caches.kmem_cache_create("first", 60)
    objects, listed = save_state(caches.slub), caches.save_state()
    caches.kmem_cache_create("second", 64)
    other = caches.kmem_cache_create("third", 200)
    with pytest.raises(StateError, match="different times"):
        caches.load_state(listed)
    load_state(caches.slub, objects)
    caches.load_state(listed)
    assert [cache.name for cache in caches.list.slab_caches] == ["first"]
    assert (caches.geometry(first).refcount, caches.geometry(first).object_size) == (1, 60)
    assert caches.kmem_cache_create("third", 200) == other


def test_a_cache_known_by_its_sizes_only() -> None:
    caches = machine(SlabConfig.for_arch("amd64"))
    geometry = CacheGeometry("seen", 60, 64, 64, 64, 24, 0, 0, 0, 64, 0, 64, 5, 120, 4, 0, 0, 1, False, 0, 1000, False)
    cache = caches.add(geometry)
    assert caches.geometry(cache) is geometry
    assert caches.find("seen") == cache
    assert caches.slub.kmem_cache_alloc(cache, GFP_KERNEL) % 64 == 0
