# SPDX-License-Identifier: GPL-2.0-only
"""Geometry of slab caches: the kernel's rules, one by one, and what must hold for any request.

What whole kernels answered stands in ``tests/verify/test_geometry.py``; here
are numbers of single caches that kernels print in ``/proc/slabinfo``, and
properties.
"""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmem.errors import ConfigError, UsageError
from kmem.mm.kmalloc import (
    KMALLOC_INDEX_SIZES,
    KMALLOC_MAX_CACHE_SIZE,
    SIZE_INDEX,
    KmallocType,
    create_kmalloc_caches,
    kmalloc_cache_name,
    kmalloc_index,
    kmalloc_ksize,
    kmalloc_large_order,
    kmalloc_type,
    kmalloc_types,
    krealloc_in_place,
)
from kmem.mm.slab_common import (
    CacheCreateError,
    CacheGeometry,
    CacheList,
    SlabConfig,
    calculate_alignment,
    calculate_order,
    geometry_from_sizes,
    get_order,
    kmem_cache_open,
)
from kmem.mm.slab_flags import (
    CACHE_CREATE_MASK,
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_DEBUG_FLAGS,
    SLAB_HWCACHE_ALIGN,
    SLAB_KMALLOC,
    SLAB_MEM_SPREAD,
    SLAB_NOLEAKTRACE,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.mm.slub_debug import SlubDebug, kmem_cache_flags, setup_slub_debug

AMD64, I386 = SlabConfig.for_arch("amd64"), SlabConfig.for_arch("i386")
FZPU = SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER

# -- single rules ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_bytes", "order"), [(1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (1 << 22, 10), ((1 << 22) + 1, 11)]
)
def test_get_order(size_bytes: int, order: int) -> None:
    assert get_order(size_bytes) == order


@pytest.mark.parametrize(
    ("flags", "align", "size", "expected"),
    [
        (0, 0, 100, 8),
        (0, 1, 100, 8),
        (0, 64, 1, 64),
        (0, 12, 100, 16),
        (SLAB_HWCACHE_ALIGN, 0, 100, 64),
        (SLAB_HWCACHE_ALIGN, 0, 33, 64),
        (SLAB_HWCACHE_ALIGN, 0, 32, 32),
        (SLAB_HWCACHE_ALIGN, 0, 9, 16),
        (SLAB_HWCACHE_ALIGN, 0, 1, 8),
        (SLAB_HWCACHE_ALIGN, 128, 1, 128),
    ],
)
def test_calculate_alignment(flags: int, align: int, size: int, expected: int) -> None:
    assert calculate_alignment(flags, align, size, AMD64) == expected


# (size, CPUs) -> order, as /proc/slabinfo of 6.1 shows pagesperslab
@pytest.mark.parametrize(
    ("size", "cpus", "order"),
    [
        (8, 1, 0),
        (192, 1, 0),
        (512, 1, 0),
        (1024, 1, 1),
        (2048, 1, 2),
        (4096, 1, 3),
        (8192, 1, 3),
        (512, 4, 1),
        (1024, 4, 2),
        (2048, 4, 3),
        (32768, 4, 3),
        (32769, 4, 4),
        (1 << 22, 4, 10),
    ],
)
def test_calculate_order(size: int, cpus: int, order: int) -> None:
    assert calculate_order(size, SlabConfig(cpus=cpus, nr_cpu_ids=cpus)) == order


def test_one_present_cpu_makes_the_possible_ones_count() -> None:
    assert calculate_order(1024, SlabConfig(cpus=1, nr_cpu_ids=4)) == 2
    assert calculate_order(1024, SlabConfig(cpus=2, nr_cpu_ids=64)) == calculate_order(1024, SlabConfig(cpus=2))


def test_an_object_larger_than_the_largest_block_has_no_order() -> None:
    assert calculate_order((1 << 22) + 8, AMD64) == -errno.ENOSYS


def test_a_constructor_moves_the_free_pointer_behind_the_object() -> None:
    plain = kmem_cache_open("c", 100, 8, 0, AMD64)
    built = kmem_cache_open("c", 100, 8, 0, AMD64, ctor=True)
    assert (plain.inuse, plain.offset, plain.size) == (104, 48, 104)
    assert (built.inuse, built.offset, built.size) == (104, 104, 112)


@pytest.mark.parametrize(("config", "track"), [(AMD64, 32), (I386, 20)])
def test_owners_are_stored_behind_the_object(config: SlabConfig, track: int) -> None:
    assert config.track_bytes == track
    assert kmem_cache_open("c", 64, 8, SLAB_STORE_USER, config).size == 64 + 2 * track
    # kmalloc also keeps the size it was asked for
    assert kmem_cache_open("c", 64, 4, SLAB_STORE_USER | SLAB_KMALLOC, config).size == 64 + 2 * track + 4


def test_a_debug_cache_has_no_cpu_partial_list() -> None:
    for flag in (SLAB_CONSISTENCY_CHECKS, SLAB_RED_ZONE, SLAB_POISON, SLAB_STORE_USER):
        cache = kmem_cache_open("c", 64, 8, flag, AMD64)
        assert (cache.debug, cache.cpu_partial, cache.cpu_partial_slabs) == (True, 0, 0)


def test_ksize_depends_on_the_debug_flags() -> None:
    assert kmem_cache_open("c", 100, 64, 0, AMD64).ksize == 128
    assert kmem_cache_open("c", 100, 64, SLAB_RED_ZONE, AMD64).ksize == 100
    assert kmem_cache_open("c", 100, 64, SLAB_TYPESAFE_BY_RCU, AMD64).ksize == 104
    assert kmem_cache_open("c", 100, 64, SLAB_STORE_USER, AMD64).ksize == 104


# -- slub_debug -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "flags", "blocks"),
    [
        ("", FZPU, ""),
        ("=", FZPU, ""),
        ("=FZ", SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE, ""),
        ("=fzpu", FZPU, ""),
        ("=FZ-", 0, ""),
        ("=-", 0, ""),
        ("=FQX", SLAB_CONSISTENCY_CHECKS, ""),
        ("=,dentry", 0, ",dentry"),
        ("=P,dentry", 0, "P,dentry"),
        ("=P,dentry;F", SLAB_CONSISTENCY_CHECKS, "P,dentry;F"),
    ],
)
def test_setup_slub_debug(value: str, flags: int, blocks: str) -> None:
    assert setup_slub_debug(value) == SlubDebug(flags, blocks, False)


@pytest.mark.parametrize(
    ("value", "name", "flags"),
    [
        ("=ZP,kmalloc-64", "kmalloc-64", SLAB_RED_ZONE | SLAB_POISON),
        ("=ZP,kmalloc-64", "kmalloc-6", 0),
        ("=ZP,kmalloc-64", "kmalloc-640", 0),
        ("=ZP,kmalloc-*", "kmalloc-640", SLAB_RED_ZONE | SLAB_POISON),
        ("=,dentry", "dentry", FZPU),
        ("=Z,a,b", "b", SLAB_RED_ZONE),
        ("=F;Z,a", "a", SLAB_RED_ZONE),
        ("=F;Z,a", "b", SLAB_CONSISTENCY_CHECKS),
        ("=F;-,a", "a", 0),
        ("=Z,a;P,a", "a", SLAB_RED_ZONE),
        # The separators before a further ";" count as part of the last pattern of a block.
        ("=Z,a;;P,b", "a", 0),
        ("=Z,a;;P,b", "b", SLAB_POISON),
        ("=Z,a;", "a", 0),
        ("=Z,a*;;P,b", "ab", SLAB_RED_ZONE),
    ],
)
def test_kmem_cache_flags_by_name(value: str, name: str, flags: int) -> None:
    assert kmem_cache_flags(0, name, setup_slub_debug(value)) == flags


def test_caches_that_are_exempt_from_slub_debug() -> None:
    debug = setup_slub_debug("")
    assert kmem_cache_flags(0x10000000, "c", debug) == 0x10000000
    assert kmem_cache_flags(SLAB_NOLEAKTRACE, "c", debug) == SLAB_NOLEAKTRACE | FZPU & ~SLAB_STORE_USER


def test_higher_order_debug_is_given_up_where_it_costs_an_order() -> None:
    config = SlabConfig.for_arch("amd64", cmdline="slub_debug=OFZPU")
    small, page = (kmem_cache_open("c", size, 8, 0, config) for size in (64, 4096))
    assert small.flags & SLAB_DEBUG_FLAGS == FZPU
    assert page.flags & SLAB_DEBUG_FLAGS == SLAB_CONSISTENCY_CHECKS
    assert (page.size, page.inuse, page.offset) == (4096, 4096, 2048)
    assert page.red_left_pad == 8  # left from the first attempt, as the kernel leaves it


# -- the command line -----------------------------------------------------------------


def test_boot_options_are_read_in_order() -> None:
    config = SlabConfig.for_arch(
        "amd64", cpus=2, cmdline='quiet slub_max_order=2 "slub-min-objects=0x10" slub_nomerge -- slub_min_order=5'
    )
    assert (config.slub_max_order, config.slub_min_objects, config.slub_min_order) == (2, 16, 0)
    assert config.slab_nomerge
    assert (config.cpus, config.nr_cpu_ids) == (2, 2)
    assert not config.with_cmdline("slab_merge").slab_nomerge
    assert config.with_cmdline("slub_max_order=99").slub_max_order == 10
    assert config.with_cmdline("slub_max_order=").slub_max_order == 2
    assert config.with_cmdline("slub_max_order=010").slub_max_order == 8
    assert config.with_cmdline("slub_max_order=x").slub_max_order == 0
    assert config.with_cmdline("cgroup.memory=nosocket,nokmem").nokmem


@pytest.mark.parametrize("option", ["slub_min_order=11", "slub_min_order=-1"])
def test_options_that_no_kernel_boots_with(option: str) -> None:
    with pytest.raises(ConfigError, match="slub_min_order"):
        SlabConfig.for_arch("amd64", cmdline=option)


@pytest.mark.parametrize("fault", [{"word_bytes": 2}, {"cpus": 0}, {"page_bytes": 3000}, {"cache_line_bytes": 0}])
def test_impossible_machines(fault: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        SlabConfig(**fault)
    with pytest.raises(ConfigError, match="sparc"):
        SlabConfig.for_arch("sparc")


# -- the list of caches ---------------------------------------------------------------


def test_a_cache_is_shared_with_the_oldest_that_fits() -> None:
    caches = CacheList(AMD64)
    first = caches.kmem_cache_create("first", 60)
    second = caches.kmem_cache_create("second", 64, ctor=True)
    assert caches.slab_caches == [second, first]
    shared = caches.kmem_cache_create("third", 63)
    assert shared is first
    assert (first.refcount, first.object_size, first.inuse, first.offset) == (2, 63, 64, 24)
    assert not caches.kmem_cache_destroy(shared)
    assert caches.kmem_cache_destroy(first)
    assert caches.slab_caches == [second]


@pytest.mark.parametrize(
    "asked",
    [
        {"size": 56},
        {"size": 65},
        {"size": 64, "align": 128},
        {"size": 64, "flags": SLAB_ACCOUNT},
        {"size": 64, "flags": SLAB_RECLAIM_ACCOUNT},
        {"size": 64, "flags": SLAB_CACHE_DMA},
        {"size": 64, "flags": SLAB_RED_ZONE},
        {"size": 64, "flags": SLAB_TYPESAFE_BY_RCU},
        {"size": 64, "flags": SLAB_NOLEAKTRACE},
        {"size": 64, "ctor": True},
        {"size": 64, "usersize": 8},
    ],
)
def test_what_keeps_a_cache_apart(asked: dict[str, int]) -> None:
    caches = CacheList(AMD64)
    old = caches.kmem_cache_create("old", 64)
    assert caches.kmem_cache_create("new", **asked) is not old


@pytest.mark.parametrize("flags", [SLAB_CONSISTENCY_CHECKS, SLAB_HWCACHE_ALIGN, SLAB_MEM_SPREAD])
def test_what_does_not_keep_a_cache_apart(flags: int) -> None:
    caches = CacheList(AMD64)
    old = caches.kmem_cache_create("old", 64)
    assert caches.kmem_cache_create("new", 64, 0, flags) is old
    assert not old.flags & flags


def test_nomerge_keeps_all_apart() -> None:
    caches = CacheList(SlabConfig.for_arch("amd64", cmdline="slab_nomerge"))
    assert caches.kmem_cache_create("a", 64) is not caches.kmem_cache_create("b", 64)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"name": "", "size": 8}, errno.ENOMEM),
        ({"name": "c", "size": 8, "flags": SLAB_KMALLOC}, errno.EINVAL),
        ({"name": "c", "size": 8, "flags": 0x80000000}, errno.EINVAL),
        ({"name": "c", "size": (1 << 22) + 1}, errno.EINVAL),
        ({"name": "c", "size": 0}, errno.EINVAL),
    ],
)
def test_refused_caches(asked: dict[str, object], reason: int) -> None:
    caches = CacheList(AMD64)
    with pytest.raises(CacheCreateError) as refused:
        caches.kmem_cache_create(**asked)  # type: ignore[arg-type]
    assert refused.value.errno == reason
    assert caches.slab_caches == []


@pytest.mark.parametrize(("useroffset", "usersize"), [(8, 0), (60, 8), (0, 65)])
def test_a_user_region_outside_the_object_is_closed(useroffset: int, usersize: int) -> None:
    cache = CacheList(AMD64).kmem_cache_create("c", 64, useroffset=useroffset, usersize=usersize)
    assert (cache.useroffset, cache.usersize) == (0, 0)


# -- kmalloc --------------------------------------------------------------------------


def test_every_size_has_the_smallest_class_that_holds_it() -> None:
    classes = sorted(size for size in KMALLOC_INDEX_SIZES if size)
    assert classes == [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192]
    for size in range(1, KMALLOC_MAX_CACHE_SIZE + 1):
        assert KMALLOC_INDEX_SIZES[kmalloc_index(size)] == next(c for c in classes if c >= size)
        if size <= 192:
            assert SIZE_INDEX[(size - 1) // 8] == kmalloc_index(size)
    assert kmalloc_index(0) == 0
    for size in (-1, KMALLOC_MAX_CACHE_SIZE + 1):
        with pytest.raises(UsageError):
            kmalloc_index(size)


@pytest.mark.parametrize(
    ("gfp", "kind"),
    [
        (0xCC0, KmallocType.NORMAL),
        (0xCC1, KmallocType.DMA),
        (0xCD0, KmallocType.RECLAIM),
        (0x400CC0, KmallocType.CGROUP),
        (0x400CD0, KmallocType.RECLAIM),
        (0x400CC1, KmallocType.DMA),
        (0x400CD1, KmallocType.DMA),
        (0xCC4, KmallocType.NORMAL),
    ],
)
def test_kmalloc_type_precedence(gfp: int, kind: KmallocType) -> None:
    assert kmalloc_type(gfp, AMD64) is kind


def test_types_of_smaller_kernels() -> None:
    plain = replace(AMD64, memcg_kmem=False, zone_dma=False)
    assert kmalloc_types(plain) == (KmallocType.NORMAL, KmallocType.RECLAIM)
    assert kmalloc_type(0x400CC1, plain) is KmallocType.NORMAL
    assert kmalloc_type(0xCD1, plain) is KmallocType.RECLAIM
    caches = CacheList(plain)
    table = create_kmalloc_caches(caches)
    assert len(caches.slab_caches) == 2 * 13
    assert table[KmallocType.CGROUP] is table[KmallocType.DMA] is table[KmallocType.NORMAL]
    assert {cache.refcount for cache in caches.slab_caches} == {1}


def test_kmalloc_caches_of_a_debian_kernel() -> None:
    caches = CacheList(AMD64)
    table = create_kmalloc_caches(caches)
    assert len(caches.slab_caches) == 4 * 13
    assert caches.slab_caches[0].name == "dma-kmalloc-8k"
    assert [cache.name for cache in caches.slab_caches[-7:]] == [
        *("kmalloc-192", "kmalloc-128", "kmalloc-96", "kmalloc-64", "kmalloc-32", "kmalloc-16", "kmalloc-8")
    ]
    for kind, row in table.items():
        for index, cache in enumerate(row):
            if cache is None:
                assert index == 0
                continue
            assert cache.name == kmalloc_cache_name(kind, index)
            assert cache.object_size == cache.size == cache.usersize == cache.ksize == KMALLOC_INDEX_SIZES[index]
            assert cache.refcount == (-1 if kind is KmallocType.NORMAL else 1)
            assert cache.size % cache.align == 0
            if cache.size & (cache.size - 1) == 0:
                assert cache.align == cache.size


def test_without_accounting_the_accounted_caches_are_the_normal_ones() -> None:
    caches = CacheList(SlabConfig.for_arch("amd64", cmdline="cgroup.memory=nokmem"))
    table = create_kmalloc_caches(caches)
    assert table[KmallocType.CGROUP] == table[KmallocType.NORMAL]
    assert len(caches.slab_caches) == 3 * 13


def test_a_power_of_two_keeps_its_alignment_under_debugging() -> None:
    config = SlabConfig.for_arch("amd64", cmdline="slub_debug=FZPU")
    cache = create_kmalloc_caches(CacheList(config))[KmallocType.NORMAL][kmalloc_index(64)]
    assert cache is not None
    assert (cache.align, cache.red_left_pad, cache.size, cache.ksize) == (64, 64, 256, 64)


@pytest.mark.parametrize(
    ("size", "order", "ksize"),
    [(8193, 2, 16384), (16385, 3, 32768), (100000, 5, 131072), (1 << 22, 10, 1 << 22)],
)
def test_large_requests_take_pages(size: int, order: int, ksize: int) -> None:
    table = create_kmalloc_caches(CacheList(AMD64))
    assert kmalloc_large_order(size) == order
    assert kmalloc_ksize(size, 0xCC0, table, AMD64) == ksize
    assert kmalloc_ksize(0, 0xCC0, table, AMD64) == 0


def test_krealloc_stays_whenever_it_fits() -> None:
    assert krealloc_in_place(32, 32)
    assert krealloc_in_place(8192, 1)
    assert not krealloc_in_place(32, 33)
    assert not krealloc_in_place(32, 0)
    assert not krealloc_in_place(0, 1)


# -- what must hold for any cache -----------------------------------------------------

CONFIGS = st.builds(
    SlabConfig.for_arch,
    st.sampled_from(["amd64", "i386"]),
    cpus=st.sampled_from([1, 2, 3, 4, 8, 64, 512]),
    cmdline=st.sampled_from(
        [
            *("", "slub_debug=FZPU", "slub_debug=O", "slub_debug=OZ", "slub_max_order=0", "slub_max_order=10"),
            *("slub_min_order=1", "slub_min_order=4", "slub_min_objects=1", "slub_min_objects=1000", "slab_nomerge"),
        ]
    ),
)
SIZES = st.one_of(st.integers(1, 600), st.integers(1, 70000), st.integers(1, 1 << 21))
ALIGNS = st.sampled_from([0, 0, 1, 8, 16, 64, 256, 4096])
FLAGS = st.lists(
    st.sampled_from([1 << bit for bit in range(32) if CACHE_CREATE_MASK >> bit & 1]), max_size=4, unique=True
).map(sum)


def check(cache: CacheGeometry, config: SlabConfig) -> None:
    """What any kernel's cache obeys, written from the layout of a slot rather than from the formulas."""
    word, page = config.word_bytes, config.page_bytes
    # slub_debug=O leaves the pad of a red zone that was given up; without the flag it means nothing.
    pad = cache.red_left_pad if cache.flags & SLAB_RED_ZONE else 0
    assert cache.size % cache.align == 0
    assert cache.align % word == 0
    assert cache.objects == (page << cache.order) // cache.size > 0
    assert cache.min_objects == (page << cache.min_order) // cache.size > 0
    assert (page << cache.min_order) // 2 < max(cache.size, page // 2 + 1)
    assert cache.min_order <= cache.order < config.max_order
    assert cache.objects <= 32767
    assert cache.object_size <= cache.inuse <= cache.size - pad
    assert cache.inuse - cache.object_size <= word
    assert cache.offset % word == 0
    outside = cache.offset >= cache.inuse
    assert outside == bool(
        cache.ctor
        or cache.flags & (SLAB_TYPESAFE_BY_RCU | SLAB_POISON)
        or (cache.flags & SLAB_RED_ZONE and cache.object_size < word)
    )
    assert cache.offset + word <= cache.size - pad
    if not outside:
        assert cache.offset + word <= max(cache.object_size, word)
    room = cache.size - cache.inuse - (word if outside else 0)
    if cache.flags & SLAB_RED_ZONE:
        assert pad == -(-word // cache.align) * cache.align
        assert cache.inuse > cache.object_size
        room -= pad + word
    if cache.flags & SLAB_STORE_USER:
        room -= 2 * config.track_bytes
    assert room >= 0
    assert 5 <= cache.min_partial <= 10
    assert cache.cpu_partial_slabs == -(-2 * cache.cpu_partial // cache.objects)
    assert (cache.cpu_partial == 0) == cache.debug
    assert bool(cache.allocflags & 0x40000) == (cache.order > 0)
    assert cache.object_size <= cache.ksize <= cache.size
    assert cache.useroffset + cache.usersize <= cache.object_size


@settings(max_examples=600, derandomize=True)
@given(CONFIGS, SIZES, ALIGNS, FLAGS, st.booleans())
def test_layout_of_any_cache(config: SlabConfig, size: int, align: int, flags: int, ctor: bool) -> None:
    cache = CacheList(config).kmem_cache_create("any", size, align, flags, ctor=ctor)
    check(cache, config)
    assert cache.object_size == size


@settings(max_examples=100, derandomize=True)
@given(CONFIGS, st.data())
def test_any_history_of_a_list_of_caches(config: SlabConfig, data: st.DataObject) -> None:
    """References add up, shared caches fit all their users, and destroying everything empties the list."""
    caches = CacheList(config)
    create_kmalloc_caches(caches)
    start = list(caches.slab_caches)
    users: list[tuple[CacheGeometry, int]] = []
    for number in range(data.draw(st.integers(1, 25))):
        if users and data.draw(st.booleans()):
            cache, _ = users.pop(data.draw(st.integers(0, len(users) - 1)))
            gone = caches.kmem_cache_destroy(cache)
            assert gone == all(other is not cache for other, _ in users)
        else:
            size, align, flags = data.draw(st.integers(1, 200)), data.draw(ALIGNS), data.draw(FLAGS)
            cache = caches.kmem_cache_create(f"c{number}", size, align, flags, ctor=data.draw(st.booleans()))
            users.append((cache, size))
        for cache, size in users:
            assert cache.object_size >= size
            assert cache.refcount == sum(other is cache for other, _ in users)
    for cache, _ in users:
        caches.kmem_cache_destroy(cache)
    assert caches.slab_caches == start


@settings(max_examples=300, derandomize=True)
@given(CONFIGS, st.integers(1, 5000), st.sampled_from([0, 0, 8, 24, 100]))
def test_geometry_from_the_sizes_of_a_trace(config: SlabConfig, bytes_req: int, slack: int) -> None:
    bytes_alloc = -(-(bytes_req + slack) // 8) * 8
    cache = geometry_from_sizes("seen", bytes_req, bytes_alloc, config)
    assert (cache.object_size, cache.size) == (bytes_req, bytes_alloc)
    assert not cache.debug
    assert cache.size % cache.align == 0
    assert cache.order == calculate_order(bytes_alloc, config)
    assert cache.objects == (config.page_bytes << cache.order) // bytes_alloc


@pytest.mark.parametrize(("bytes_req", "bytes_alloc"), [(0, 8), (-1, 8), (9, 8), (7, 7), (1, 1 << 23)])
def test_sizes_that_no_cache_has(bytes_req: int, bytes_alloc: int) -> None:
    with pytest.raises(UsageError):
        geometry_from_sizes("seen", bytes_req, bytes_alloc, AMD64)
