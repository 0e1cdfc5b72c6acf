# SPDX-License-Identifier: GPL-2.0-only
"""SLUB on small machines: who gets which object, and which slabs stay."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from kmem.errors import StateError, UsageError
from kmem.mm.debug_vm import validate_pages
from kmem.mm.kmalloc import KmallocType, create_kmalloc_caches
from kmem.mm.mmzone import ZONE_NAMES_64, MemMap
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.slab_common import CacheGeometry, CacheList, kmem_cache_open
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slab_flags import (
    SLAB_CONSISTENCY_CHECKS,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.mm.slub import ZERO_SIZE_OBJECT, Slub
from kmem.mm.slub_state import load_state, save_state
from kmem.mm.stackdepot import StackDepot

from .machines import GFP_ATOMIC, GFP_KERNEL, GFP_NOWAIT, one_zone

GFP_MEMALLOC = 0x20000
LINEAR = SlabConfig(freelist_random=False)


def geometry(size: int, flags: int = 0, *, config: SlabConfig = LINEAR, **fields: int) -> CacheGeometry:
    made = kmem_cache_open(f"test-{size}", size, 8, flags, config)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def page_slabs(size: int, **fields: int) -> CacheGeometry:
    """A cache whose slabs are single pages."""
    count = 4096 // size
    return geometry(size, order=0, objects=count, min_order=0, min_objects=count, **fields)


def machine(frames: int = 4096, cpus: int = 1, **options) -> Slub:
    return Slub(one_zone(frames, cpus=cpus, **options))


def two_nodes(frames: int = 2048) -> Slub:
    """Two nodes of one zone Normal and one CPU each."""
    memmap = MemMap(2 * frames, 2, 2, 9, ZONE_NAMES_64, spare_heads=1024)
    zones = [memmap.zone_id("Normal", node) for node in (0, 1)]
    for node, zone in enumerate(zones):
        row = memmap.zones_array[zone]
        row["start_pfn"], row["spanned"], row["present"] = node * frames, frames, frames
        memmap.pages_array["zone"][node * frames : (node + 1) * frames] = zone
    lists = {(0, False): zones, (1, False): zones[::-1], (0, True): zones[:1], (1, True): zones[1:]}
    allocator = PageAllocator(memmap, lists)
    for pfn in range(0, 2 * frames, 1024):
        allocator.free_pages_core(pfn, 10)
    return Slub(allocator)


def take(slub: Slub, cache: int, count: int, gfp: int = GFP_KERNEL, node: int = -1) -> list[int]:
    objects = [slub.kmem_cache_alloc(cache, gfp, node) for _ in range(count)]
    assert None not in objects
    return objects


def numbers(slub: Slub, objects: list[int]) -> list[int]:
    return [slub.where(address)[1] for address in objects]


def free_pages(slub: Slub) -> int:
    """Free frames of the machine, those on per-CPU lists included."""
    memmap = slub.memmap
    pagesets = memmap.pagesets_array
    return int(memmap.zones_array["free_pages"].sum() + pagesets["stat_diff"].sum() + pagesets["count"].sum())


# ---------------------------------------------------------------- objects


def test_objects_of_a_linear_slab_come_in_order_and_back_last_in_first_out() -> None:
    slub = machine()
    cache = slub.kmem_cache_create(geometry(64))
    objects = take(slub, cache, 4)
    assert numbers(slub, objects) == [0, 1, 2, 3]
    assert [b - a for a, b in pairwise(objects)] == [64, 64, 64]
    for n in (0, 2, 1):
        slub.kmem_cache_free(cache, objects[n])
    assert numbers(slub, take(slub, cache, 4)) == [1, 2, 0, 4]
    slub.validate()


def test_a_red_zone_moves_the_objects() -> None:
    slub = machine()
    made = geometry(64, SLAB_RED_ZONE)
    cache = slub.kmem_cache_create(made)
    first = take(slub, cache, 1)[0]
    assert first % 4096 == made.red_left_pad > 0
    assert slub.where(first)[1] == 0


def test_a_shuffled_slab_starts_where_it_is_told() -> None:
    slub = machine()
    cache = slub.kmem_cache_create(page_slabs(1024, has_random_seq=True), [2, 0, 3, 1])
    slub.start_object = 3
    assert numbers(slub, take(slub, cache, 4)) == [3, 1, 2, 0]
    assert slub.shuffled_slabs == 1


def test_a_smaller_slab_skips_what_it_does_not_have() -> None:
    slub = machine(frames=1024, free=[(pfn, 0) for pfn in range(0, 64, 2)])
    made = geometry(1024, has_random_seq=True)
    made.order, made.objects, made.min_order, made.min_objects = 2, 16, 0, 4
    cache = slub.kmem_cache_create(made, [9, 3, 12, 0, 15, 1, 8, 2, 4, 5, 6, 7, 10, 11, 13, 14])
    slub.start_object = 0
    assert numbers(slub, take(slub, cache, 4)) == [0, 1, 2, 3]
    slab = slub.where(take(slub, cache, 1)[0])[0]
    assert slub.slab_objects(slab) == 4
    assert slub.caches_array[cache]["order_fallbacks"] == 2
    slub.validate()


def test_randomisation_follows_the_seed() -> None:
    def orders(seed: int) -> list[int]:
        slub = Slub(one_zone(), seed=seed)
        cache = slub.kmem_cache_create(geometry(64, has_random_seq=True))
        return numbers(slub, take(slub, cache, 200))

    assert orders(1) == orders(1) != orders(2)
    assert sorted(orders(1)[:64]) == list(range(64))


# ---------------------------------------------------------------- slabs


def test_a_full_slab_with_one_free_object_goes_to_the_cpu() -> None:
    slub = machine()
    cache = slub.kmem_cache_create(page_slabs(1024))
    objects = take(slub, cache, 12)  # three slabs of four
    slub.kmem_cache_free(cache, objects[0])
    state = slub.dump(cache)
    assert [entry["s"]["pfn"] for entry in state["cpus"][0]["partial"]] == [slub.where(objects[0])[0]]
    assert state["nodes"][0]["nr_partial"] == 0
    assert take(slub, cache, 1) == [objects[0]]
    slub.validate()


def test_a_full_partial_list_moves_to_the_node_and_empty_slabs_above_the_limit_go() -> None:
    slub = machine()
    made = page_slabs(2048, cpu_partial_slabs=3, min_partial=2)
    cache = slub.kmem_cache_create(made)
    objects = take(slub, cache, 14)
    slabs = [slub.where(address)[0] for address in objects[::2]]
    for n in (0, 1, 2):  # three slabs, emptied, make the list full
        slub.kmem_cache_free(cache, objects[2 * n])
        slub.kmem_cache_free(cache, objects[2 * n + 1])
    assert slub.nr_slabs(cache) == 7
    slub.kmem_cache_free(cache, objects[6])
    state = slub.dump(cache)
    # Newest first: slabs 2 and 1 fill the node's list up to min_partial, slab 0 is given back.
    assert [slab["pfn"] for slab in state["nodes"][0]["partial"]] == [slabs[2], slabs[1]]
    assert [entry["s"]["pfn"] for entry in state["cpus"][0]["partial"]] == [slabs[3]]
    assert slub.nr_slabs(cache) == 6
    slub.validate()


def test_an_empty_slab_on_the_nodes_list_goes_at_min_partial() -> None:
    slub = machine()
    cache = slub.kmem_cache_create(geometry(64, SLAB_CONSISTENCY_CHECKS, min_partial=2))
    objects = take(slub, cache, 128)
    for address in (*objects[:64], *objects[64:127]):
        slub.kmem_cache_free(cache, address)
    assert slub.nr_slabs(cache) == 2
    slub.kmem_cache_free(cache, objects[127])
    assert slub.nr_slabs(cache) == 1
    slub.validate()


def test_more_partial_slabs_come_along() -> None:
    slub = machine()
    made = page_slabs(1024, cpu_partial_slabs=4, min_partial=10)
    cache = slub.kmem_cache_create(made)
    objects = take(slub, cache, 40)
    for address in objects[:36:4]:
        slub.kmem_cache_free(cache, address)
    slub.kmem_cache_shrink(cache)
    assert slub.dump(cache)["nodes"][0]["nr_partial"] == 9
    take(slub, cache, 1)
    state = slub.dump(cache)
    # One to take from, and cpu_partial_slabs / 2 + 1 more for later.
    assert len(state["cpus"][0]["partial"]) == 3
    assert state["nodes"][0]["nr_partial"] == 5
    slub.validate()


def test_without_cpu_partial_lists_slabs_go_to_the_node() -> None:
    slub = machine()
    slub.cpu_partial = False
    cache = slub.kmem_cache_create(page_slabs(1024, cpu_partial_slabs=0, min_partial=2))
    objects = take(slub, cache, 16)
    slabs = [slub.where(address)[0] for address in objects[::4]]
    for n in (0, 4, 8):
        slub.kmem_cache_free(cache, objects[n])
    assert [slab["pfn"] for slab in slub.dump(cache)["nodes"][0]["partial"]] == slabs[:3]
    for n in (1, 2, 3):
        slub.kmem_cache_free(cache, objects[n])
    assert [slab["pfn"] for slab in slub.dump(cache)["nodes"][0]["partial"]] == slabs[1:3]
    assert take(slub, cache, 1) == [objects[4]]
    assert slub.dump(cache)["cpus"][0]["partial"] == []
    slub.validate()


def test_what_another_cpu_frees_stays_with_the_slab() -> None:
    slub = machine(cpus=2)
    cache = slub.kmem_cache_create(page_slabs(1024))
    objects = take(slub, cache, 4)
    slub.allocator.cpu = 1
    slub.kmem_cache_free(cache, objects[2])
    slub.kmem_cache_free(cache, objects[1])
    owner, other = slub.dump(cache)["cpus"]
    assert owner["slab"]["freelist"] == [1, 2]
    assert owner["freelist"] == []
    assert other["slab"] is None
    slub.validate()
    slub.allocator.cpu = 0
    assert numbers(slub, take(slub, cache, 2)) == [1, 2]
    slub.validate()


def test_a_debug_cache_has_no_cpu_slab_and_lists_full_slabs_if_it_tracks_users() -> None:
    slub = machine()
    tracks: list[tuple[bool, int]] = []
    slub.on_track = lambda freeing, gfp: tracks.append((freeing, gfp))
    cache = slub.kmem_cache_create(geometry(900, SLAB_STORE_USER | SLAB_POISON))
    slots = slub.geometries[cache].objects
    objects = take(slub, cache, slots + 1)
    state = slub.dump(cache)
    assert state["cpus"][0] == {"cpu": 0, "slab": None, "freelist": [], "partial": []}
    assert state["nodes"][0]["full"] == [slub.where(objects[0])[0]]
    assert state["nodes"][0]["nr_partial"] == 1
    slub.kmem_cache_free(cache, objects[0])
    assert slub.dump(cache)["nodes"][0]["full"] == []
    assert tracks == [(False, GFP_KERNEL & ~0x400)] * (slots + 1) + [(True, 0x2000)]
    slub.validate()


def test_rcu_slabs_go_back_after_a_grace_period() -> None:
    slub = machine()
    cache = slub.kmem_cache_create(geometry(2048, SLAB_TYPESAFE_BY_RCU))
    before = free_pages(slub)
    objects = take(slub, cache, 40)
    slub.kmem_cache_free_bulk(objects)
    assert slub.kmem_cache_shrink(cache) is False
    assert slub.nr_slabs(cache) == 0
    assert slub.rcu_pending > 0
    assert free_pages(slub) < before
    slub.validate()
    with pytest.raises(StateError, match="already free"):
        slub.kmem_cache_free(cache, objects[0])
    assert slub.rcu_barrier() > 0
    assert slub.rcu_pending == 0
    assert free_pages(slub) == before
    slub.validate()


def test_shrink_sorts_by_free_objects_and_drops_empty_slabs() -> None:
    slub = machine()
    made = page_slabs(512, cpu_partial_slabs=1, min_partial=10)
    cache = slub.kmem_cache_create(made)
    objects = take(slub, cache, 48)
    slabs = [slub.where(objects[8 * n])[0] for n in range(6)]
    for slab, free in enumerate((3, 8, 1, 3, 5)):
        slub.kmem_cache_free_bulk(objects[8 * slab : 8 * slab + free])
    assert slub.kmem_cache_shrink(cache) is True
    state = slub.dump(cache)["nodes"][0]
    assert [slab["inuse"] for slab in state["partial"]] == [7, 5, 5, 3]
    assert slabs[1] not in [slab["pfn"] for slab in state["partial"]]
    assert state["nr_slabs"] == 5
    slub.validate()


def test_destroy_gives_all_back_unless_objects_are_in_use() -> None:
    slub = machine()
    before = free_pages(slub)
    cache = slub.kmem_cache_create(geometry(96))
    objects = take(slub, cache, 500)
    slub.kmem_cache_free_bulk(objects[1:])
    assert slub.kmem_cache_destroy(cache) is False
    assert slub.nr_slabs(cache) == 1
    slub.kmem_cache_free(cache, objects[0])
    assert slub.kmem_cache_destroy(cache) is True
    assert free_pages(slub) == before
    with pytest.raises(UsageError, match="no slab cache"):
        slub.kmem_cache_alloc(cache, GFP_KERNEL)
    assert slub.kmem_cache_create(geometry(32)) == cache
    slub.validate()


# ---------------------------------------------------------------- memory short


def test_failure_gives_none_and_counts() -> None:
    slub = machine(frames=1024, free=[(0, 1)])
    cache = slub.kmem_cache_create(page_slabs(4096))
    take(slub, cache, 2)
    assert slub.kmem_cache_alloc(cache, GFP_ATOMIC) is None
    assert slub.caches_array[cache]["failures"] == 1
    assert slub.kmem_cache_alloc_bulk(cache, GFP_ATOMIC, 2) == []
    slub.validate()


def test_bulk_allocation_is_all_or_nothing() -> None:
    slub = machine(frames=1024, free=[(0, 1)])
    cache = slub.kmem_cache_create(page_slabs(1024))
    assert slub.kmem_cache_alloc_bulk(cache, GFP_NOWAIT, 9) == []
    assert len(set(slub.kmem_cache_alloc_bulk(cache, GFP_NOWAIT, 8))) == 8
    slub.validate()


def test_objects_out_of_the_reserves_are_for_memalloc_alone() -> None:
    slub = machine(frames=1024, cpus=2, free=[(0, 2), (8, 2)], marks=(6, 7, 8, 9))
    cache = slub.kmem_cache_create(page_slabs(1024))
    while slub.kmem_cache_alloc(cache, GFP_NOWAIT) is not None:
        pass
    assert free_pages(slub) > 0
    rescued = take(slub, cache, 1, GFP_NOWAIT | GFP_MEMALLOC)
    slab = slub.where(rescued[0])[0]
    assert slub.memmap.pages_array[slab]["flags"] & 4
    # The CPU's own freelist asks no questions.
    rescued += take(slub, cache, 3, GFP_NOWAIT)
    slub.allocator.cpu = 1
    slub.kmem_cache_free(cache, rescued[0])
    slub.allocator.cpu = 0
    assert slub.kmem_cache_alloc(cache, GFP_NOWAIT) is None
    assert slub.dump(cache)["cpus"][0]["slab"] is None
    assert [entry["pfn"] for entry in slub.dump(cache)["nodes"][0]["partial"]] == [slab]
    assert take(slub, cache, 1, GFP_NOWAIT | GFP_MEMALLOC) == rescued[:1]
    slub.validate()


# ---------------------------------------------------------------- nodes


def test_a_wish_for_a_node_is_met_by_a_slab_of_that_node() -> None:
    slub = two_nodes()
    cache = slub.kmem_cache_create(geometry(256))
    local = slub.where(take(slub, cache, 1)[0])[0]
    remote = slub.where(take(slub, cache, 1, node=1)[0])[0]
    assert local < 2048 <= remote
    assert [node["nr_slabs"] for node in slub.dump(cache)["nodes"]] == [1, 1]
    # The other node's slab had to leave the CPU; it is this node's partial slab now.
    assert slub.dump(cache)["nodes"][0]["nr_partial"] == 1
    assert slub.where(take(slub, cache, 1, node=0)[0])[0] == local
    assert slub.where(take(slub, cache, 1, node=7)[0])[0] == local
    slub.validate()


@pytest.mark.parametrize("ratio", [0, 1000])
def test_other_nodes_help_out_when_they_have_more_than_they_must_keep(ratio: int) -> None:
    slub = two_nodes()
    made = geometry(1024, SLAB_CONSISTENCY_CHECKS, min_partial=2, remote_ratio=ratio)
    cache = slub.kmem_cache_create(made)
    objects = take(slub, cache, 3 * made.objects, node=1)
    for address in objects[:: made.objects]:
        slub.kmem_cache_free(cache, address)
    slab = slub.where(take(slub, cache, 1)[0])[0]
    assert (slab >= 2048) == bool(ratio)
    slub.validate()


# ---------------------------------------------------------------- kmalloc


@pytest.fixture
def kmalloc_machine() -> Slub:
    slub = Slub(one_zone(8192))
    table = create_kmalloc_caches(CacheList(LINEAR))
    made: dict[int, int] = {}
    for kind in KmallocType:
        for index in range(1, 14):
            cache = table[kind][index]
            number = made.get(id(cache))
            if number is None:
                number = made[id(cache)] = slub.kmem_cache_create(cache)
            slub.set_kmalloc_cache(int(kind), index, number)
    return slub


@pytest.mark.parametrize(
    ("size", "gfp", "name"),
    [
        (1, GFP_KERNEL, "kmalloc-8"),
        (8, GFP_KERNEL, "kmalloc-8"),
        (65, GFP_KERNEL, "kmalloc-96"),
        (97, GFP_KERNEL, "kmalloc-128"),
        (192, GFP_KERNEL, "kmalloc-192"),
        (193, GFP_KERNEL, "kmalloc-256"),
        (8192, GFP_KERNEL, "kmalloc-8k"),
        (100, GFP_KERNEL | 0x400000, "kmalloc-cg-128"),
        (100, GFP_KERNEL | 0x400010, "kmalloc-rcl-128"),
        (100, 0x400011, "dma-kmalloc-128"),
    ],
)
def test_kmalloc_takes_the_right_cache(kmalloc_machine: Slub, size: int, gfp: int, name: str) -> None:
    slub = kmalloc_machine
    address = slub.kmalloc(size, gfp & ~1) if not gfp & 1 else slub.kmalloc(size, gfp & ~0x400)
    if gfp & 1:
        # This machine has no DMA zone, so the DMA cache finds no memory; the cache that failed is the answer.
        failed = [n for n, row in enumerate(slub.caches_array) if row["failures"]]
        assert [slub.geometries[n].name for n in failed] == [name]
        assert address is None
        return
    assert slub.geometries[slub.slab_cache(slub.where(address)[0])].name == name
    assert slub.ksize(address) >= size
    slub.kfree(address)
    slub.validate()


def test_large_kmalloc_is_a_compound_page(kmalloc_machine: Slub) -> None:
    slub = kmalloc_machine
    before = free_pages(slub)
    address = slub.kmalloc(8193, GFP_KERNEL)
    assert slub.large_order(address) == 2
    assert slub.ksize(address) == 16384
    assert free_pages(slub) == before - 4
    with pytest.raises(StateError, match="not the start"):
        slub.kfree(address + 8)
    slub.kfree(address)
    assert free_pages(slub) == before
    assert slub.kmalloc((4 << 20) + 1, GFP_KERNEL) is None
    assert slub.kmalloc(1 << 63, GFP_KERNEL) is None
    with pytest.raises(StateError):
        slub.kfree(address)


def test_no_bytes_and_nothing(kmalloc_machine: Slub) -> None:
    slub = kmalloc_machine
    assert slub.kmalloc(0, GFP_KERNEL) == ZERO_SIZE_OBJECT
    assert slub.ksize(ZERO_SIZE_OBJECT) == slub.ksize(None) == 0
    slub.kfree(ZERO_SIZE_OBJECT)
    slub.kfree(None)
    with pytest.raises(UsageError):
        slub.kmalloc(-1, GFP_KERNEL)


def test_krealloc_moves_only_when_it_must(kmalloc_machine: Slub) -> None:
    slub = kmalloc_machine
    address = slub.krealloc(None, 60, GFP_KERNEL)
    assert slub.krealloc(address, 64, GFP_KERNEL) == address
    assert slub.krealloc(address, 1, GFP_KERNEL) == address
    moved = slub.krealloc(address, 65, GFP_KERNEL)
    assert slub.ksize(moved) == 96
    with pytest.raises(StateError, match="already free"):
        slub.kfree(address)
    assert slub.krealloc(moved, 0, GFP_KERNEL) == ZERO_SIZE_OBJECT
    slub.validate()


# ---------------------------------------------------------------- wrong use


def test_wrong_frees_are_refused_and_change_nothing() -> None:
    slub = machine()
    cache, other = slub.kmem_cache_create(geometry(64)), slub.kmem_cache_create(geometry(96))
    address = take(slub, cache, 2)[0]
    frame = slub.allocator.alloc_pages(GFP_KERNEL, 0)
    state = slub.dump(cache)
    for wrong, message in (
        (address + 8, "not the start of an object"),
        (address + 10 * 64, "already free"),
        (frame << 12, "is not in a slab"),
        (1 << 50, "beyond the end"),
    ):
        with pytest.raises(StateError, match=message):
            slub.kmem_cache_free(cache, wrong)
    with pytest.raises(StateError, match="is of cache test-64, not test-96"):
        slub.kmem_cache_free(other, address)
    slub.kmem_cache_free(cache, address)
    with pytest.raises(StateError, match="already free"):
        slub.kmem_cache_free(cache, address)
    slub.kmem_cache_alloc(cache, GFP_KERNEL)
    assert slub.dump(cache) == state
    slub.validate()


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0},
        {"objects": 0},
        {"objects": 40000},
        {"order": 11},
        {"min_objects": 65},
        {"objects": 65},
        {"order": -1},
    ],
)
def test_an_impossible_geometry_is_refused(fields: dict[str, int]) -> None:
    slub = machine()
    made = geometry(64)
    for name, value in fields.items():
        setattr(made, name, value)
    with pytest.raises(UsageError):
        slub.kmem_cache_create(made)
    assert slub.nr_caches == 0


def test_more_caches_than_the_first_table_holds() -> None:
    slub = machine()
    caches = [slub.kmem_cache_create(geometry(64)) for _ in range(200)]
    objects = [take(slub, cache, 3) for cache in caches]
    assert len({address for some in objects for address in some}) == 600
    slub.validate()


# ---------------------------------------------------------------- the state as a whole


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_keep_every_structure_valid(seed: int) -> None:
    random = Random(seed)
    free = [(0, 9)] if seed % 2 else None
    slub = Slub(one_zone(512 if seed % 2 else 4096, cpus=2, pcp=(64, 8), free=free), seed=seed)
    kinds = [
        (16, 0, {}),
        (700, 0, {"has_random_seq": True}),
        (5000, 0, {}),
        (200, SLAB_TYPESAFE_BY_RCU, {"has_random_seq": True}),
        (300, SLAB_STORE_USER | SLAB_RED_ZONE, {}),
        (90, SLAB_CONSISTENCY_CHECKS, {"min_partial": 1}),
    ]
    caches = [slub.kmem_cache_create(geometry(size, flags, **fields)) for size, flags, fields in kinds]
    live: list[tuple[int, int]] = []
    for step in range(4000):
        slub.allocator.cpu = random.randrange(2)
        what = random.random()
        if what < (0.58 if step // 1000 % 2 == 0 else 0.38):
            cache = random.choice(caches)
            if (address := slub.kmem_cache_alloc(cache, random.choice((GFP_ATOMIC, GFP_NOWAIT)))) is not None:
                live.append((cache, address))
        elif what < 0.6:
            cache = random.choice(caches)
            live += [(cache, address) for address in slub.kmem_cache_alloc_bulk(cache, GFP_NOWAIT, random.randrange(9))]
        elif what < 0.63:
            random.shuffle(live)
            some, live = live[:20], live[20:]
            slub.kmem_cache_free_bulk([address for _, address in some])
        elif what < 0.635:
            slub.kmem_cache_shrink(random.choice(caches))
        elif what < 0.64:
            slub.rcu_barrier()
        elif live:
            slub.kmem_cache_free(*live.pop(random.randrange(len(live))))
        assert len({address for _, address in live}) == len(live)
        slub.validate()
        if step % 100 == 0:
            validate_pages(slub.allocator)
    for cache, address in live:
        slub.kmem_cache_free(cache, address)
    for cache in caches:
        assert slub.kmem_cache_destroy(cache)
    slub.rcu_barrier()
    slub.allocator.drain_all_pages()
    assert free_pages(slub) == (512 if seed % 2 else 4096)


def test_a_saved_state_comes_back() -> None:
    slub = machine(cpus=2)
    caches = [slub.kmem_cache_create(geometry(size, has_random_seq=True)) for size in (32, 500)]
    objects = take(slub, caches[0], 300) + take(slub, caches[1], 30)
    pages, state = slub.memmap.pages_array.copy(), save_state(slub)
    zones, pagesets = slub.memmap.zones_array.copy(), slub.memmap.pagesets_array.copy()

    def go_on() -> list[int]:
        slub.kmem_cache_free_bulk(objects[::3])
        return [address for cache in caches for address in take(slub, cache, 400)]

    first = go_on()
    slub.memmap.pages_array[:], slub.memmap.zones_array[:] = pages, zones
    slub.memmap.pagesets_array[:] = pagesets
    load_state(slub, state)
    slub.validate()
    assert go_on() == first


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda slub, slab: slub.memmap.pages_array["inuse"].__setitem__(slab, 1), "in use"),
        (lambda slub, slab: slub.memmap.pages_array["frozen"].__setitem__(slab, 0), "not frozen"),
        (lambda slub, slab: slub.nodes_array["nr_slabs"].__setitem__(0, 9), "nr_slabs"),
        (lambda slub, slab: slub.nodes_array["total_objects"].__setitem__(0, 9), "total_objects"),
        (lambda slub, slab: slub.nodes_array["nr_partial"].__setitem__(0, 3), "nr_partial"),
        (lambda slub, slab: slub.cpus_array["freelist"].__setitem__(0, 5), "handed out"),
        (lambda slub, slab: slub.memmap.pages_array["kind"].__setitem__(slab, 3), "not a slab"),
    ],
)
def test_validate_sees_what_contradicts_itself(alter, message: str) -> None:
    slub = machine()
    cache = slub.kmem_cache_create(geometry(64))
    slab = slub.where(take(slub, cache, 1)[0])[0]
    slub.validate()
    alter(slub, slab)
    with pytest.raises(StateError, match=message):
        slub.validate()


def test_trace_events_of_the_callers(kmalloc_machine: Slub) -> None:
    slub = kmalloc_machine
    cache = slub.kmem_cache_create(geometry(100))
    trace = slub.allocator.trace
    trace.enable("kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free")
    object_ = slub.kmem_cache_alloc(cache, GFP_KERNEL)
    small, large = slub.kmalloc(50, GFP_ATOMIC), slub.kmalloc(9000, GFP_KERNEL)
    slub.kmem_cache_free(cache, object_)
    slub.kfree(small)
    records = trace.drain()
    assert records["event"].tolist() == [1, 0, 0, 3, 2]
    assert records["ptr"].tolist() == [object_, small, large, object_, small]
    assert records["bytes_req"].tolist() == [100, 50, 9000, 0, 0]
    assert records["bytes_alloc"].tolist() == [104, 64, 16384, 0, 0]
    assert records["cache"].tolist()[0] == cache
    assert np.count_nonzero(records["gfp"]) == 3


# ---------------------------------------------------------------- the stack depot


def test_the_stack_depot_takes_a_block_for_now_and_one_for_later() -> None:
    allocator = one_zone()
    depot = StackDepot(allocator)
    assert depot.save("alloc", GFP_KERNEL)
    assert depot.save("alloc", GFP_KERNEL)
    assert depot.blocks == 1
    assert depot.save("free", 0x2000)
    assert depot.blocks == 2
    for n in range(98):  # 16 KiB of stacks of 160 bytes: 102
        assert depot.save(n, GFP_KERNEL)
    assert depot.blocks == 2
    for n in range(98, 102):
        assert depot.save(n, GFP_KERNEL)
    assert depot.blocks == 3
    assert depot.save("alloc", GFP_KERNEL)


def test_a_stack_depot_without_memory_stores_nothing() -> None:
    depot = StackDepot(one_zone(1024, free=[]))
    assert not depot.save("alloc", GFP_ATOMIC)
    assert depot.blocks == 0
