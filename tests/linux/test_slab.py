# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/slab.h>`` as kernel code uses it: addresses, sizes, contents, caches, constructors."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelWarning
from kmem.linux.gfp import *
from kmem.linux.slab import *
from kmem.linux.string import kmemdup, kstrdup, kstrndup
from kmem.mm.kmalloc import kmalloc_index

MACHINES = {"x86_64": 0xFFFF888000000000, "i386": 0xC0000000}


class XjUnit(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("name", ctypes.c_char * 28)]


@pytest.fixture(params=MACHINES)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="1G", seed=1) as machine:
        yield machine
        machine.validate()


@pytest.mark.parametrize("arguments", [(None,), (None, None), ()], ids=["five", "six", "four"])
def test_the_example_of_the_tutorials(arguments: tuple[None, ...]) -> None:
    with Machine.boot("i386", ram="2G") as m:
        cache = kmem_cache_create("xjslab", XjUnit, 0, SLAB_CACHE_DMA | SLAB_PANIC, *arguments)
        assert cache is not None and cache.name == "xjslab"
        assert cache.type is XjUnit and cache.object_size == 32 == kmem_cache_size(cache)
        unit = kmem_cache_alloc(cache, GFP_KERNEL)
        assert unit is not None and unit - 0xC0000000 < 16 << 20  # memory that old devices reach
        view = m.struct(unit, XjUnit)
        view.id, view.name = 7, b"seven"
        assert (m.struct(unit, XjUnit).id, m.struct(unit, XjUnit).name) == (7, b"seven")
        assert m.read(unit, 4) == b"\x07\0\0\0"
        kmem_cache_free(cache, unit)
        kmem_cache_destroy(cache)
        assert not cache.live
        m.validate()


def test_kmalloc_lies_at_a_fixed_offset_from_its_physical_address(m: Machine) -> None:
    offset = MACHINES[m.arch]
    for size in (1, 8, 9, 64, 65, 96, 97, 192, 193, 1000, 4096, 8192, 8193, 100_000, KMALLOC_MAX_SIZE):
        addr = kmalloc(size, GFP_KERNEL)
        assert addr is not None
        assert m.virt_to_phys(addr) == addr - offset
        assert m.phys_to_virt(addr - offset) == addr
        assert page_address(virt_to_page(addr)) == addr & -4096
        usable = ksize(addr)
        assert usable >= size
        if size & (size - 1) == 0 and size >= 8:
            assert addr % size == 0  # powers of two are aligned to themselves
        if size <= 8192:
            assert m.slub.slab_of_frame(addr - offset >> 12) is not None
            assert usable == m.cache(f"kmalloc-{_name(usable)}").object_size
        else:
            assert usable == 4096 << get_order(size)
        m.write(addr, b"\xa5" * size)
        kfree(addr)


def _name(size: int) -> str:
    assert kmalloc_index(size)
    return str(size) if size < 1024 else f"{size >> 10}k"


def test_no_bytes_and_null(m: Machine) -> None:
    assert kmalloc(0, GFP_KERNEL) == ZERO_SIZE_PTR == 16 == kzalloc(0, GFP_KERNEL) == kcalloc(0, 8, GFP_KERNEL)
    assert ksize(None) == ksize(0) == ksize(ZERO_SIZE_PTR) == 0
    before = m.digest()
    kfree(None)
    kfree(0)
    kfree(ZERO_SIZE_PTR)
    kfree_sensitive(None)
    kmem_cache_destroy(None)
    assert m.digest() == before


def test_fresh_memory_reads_as_zero(m: Machine) -> None:
    """The reference kernels are built with INIT_ON_ALLOC_DEFAULT_ON."""
    addr = kmalloc(512, GFP_KERNEL)
    assert addr is not None
    for size, again in ((512, kmalloc), (512, kzalloc), (3 << 12, kmalloc), (3 << 12, kzalloc)):
        addr = again(size, GFP_KERNEL)
        assert addr is not None and m.read(addr, size) == bytes(size)
        m.write(addr, b"\xff" * size)
        kfree(addr)
        addr = again(size, GFP_KERNEL)
        assert addr is not None and m.read(addr, size) == bytes(size)
        m.write(addr, b"\xff" * size)
        kfree(addr)


def test_without_init_on_alloc_old_contents_show() -> None:
    with Machine.boot("x86_64", ram="256M", cmdline="init_on_alloc=0") as m:
        first = kmalloc(20_000, GFP_KERNEL)
        assert first is not None
        m.write(first, b"secret")
        kfree(first)
        assert m.read(first, 6) == b"secret"
        second = kmalloc(20_000, GFP_KERNEL)
        assert second == first and m.read(second, 6) == b"secret"
        kfree_sensitive(second)
        assert m.read(first, 6) == bytes(6)
        m.write(first, b"secret")
        assert kzalloc(20_000, GFP_KERNEL) == first
        assert m.read(first, 6) == bytes(6)
    with Machine.boot("x86_64", ram="256M", cmdline="init_on_alloc=0 init_on_free=1") as m:
        page = __get_free_page(GFP_KERNEL)
        assert page is not None
        m.write(page, b"secret")
        free_page(page)
        assert m.read(page, 6) == bytes(6)


def test_krealloc_keeps_the_contents(m: Machine) -> None:
    addr = krealloc(None, 60, GFP_KERNEL)
    assert addr is not None and ksize(addr) == 64
    m.write(addr, bytes(range(64)))
    assert krealloc(addr, 40, GFP_KERNEL) == addr
    assert m.read(addr, 64) == bytes(range(40)) + bytes(24)  # what is given up is zeroed
    m.write(addr, bytes(range(64)))
    bigger = krealloc(addr, 65, GFP_KERNEL)
    assert bigger is not None and bigger != addr
    assert m.read(bigger, 96) == bytes(range(64)) + bytes(32)
    assert krealloc(bigger, KMALLOC_MAX_SIZE + 1, GFP_KERNEL | __GFP_NOWARN) is None
    assert m.read(bigger, 64) == bytes(range(64))
    assert krealloc(bigger, 0, GFP_KERNEL) == ZERO_SIZE_PTR
    array = krealloc_array(ZERO_SIZE_PTR, 10, 100, GFP_KERNEL)
    assert array is not None and ksize(array) == 1024
    assert krealloc_array(array, 1 << 31, 1 << 33 if m.arch == "x86_64" else 2, GFP_KERNEL) is None
    assert ksize(array) == 1024
    kfree(array)


def test_arrays_that_overflow_are_null(m: Machine) -> None:
    most = m.kernel.ulong_max
    assert kmalloc_array(most, 2, GFP_KERNEL) is None
    assert kcalloc(2, most // 2 + 1, GFP_KERNEL) is None
    assert m.dmesg() == ""  # refused before anybody looks at the size
    addr = kcalloc(10, 10, GFP_KERNEL)
    assert addr is not None and ksize(addr) == 128 and m.read(addr, 128) == bytes(128)
    kfree(addr)


def test_copies(m: Machine) -> None:
    text = kstrdup("Tannenbaum \N{DECIDUOUS TREE}", GFP_KERNEL)
    assert text is not None
    assert m.read(text, 15) == "Tannenbaum \N{DECIDUOUS TREE}".encode()[:15]
    same = kstrdup(text, GFP_KERNEL)
    assert same is not None and same != text and m.read(same, 16) == m.read(text, 16)
    short = kstrndup(text, 4, GFP_KERNEL)
    assert short is not None and ksize(short) == 8 and m.read(short, 5) == b"Tann\0"
    assert kstrndup("ab", 10, GFP_KERNEL) is not None
    assert kstrdup(None, GFP_KERNEL) is None is kstrndup(None, 3, GFP_KERNEL)
    copy = kmemdup(text, 5, GFP_KERNEL)
    assert copy is not None and m.read(copy, 5) == b"Tanne"
    raw = kmemdup(bytearray(range(100)), 100, GFP_KERNEL)
    assert raw is not None and m.read(raw, 100) == bytes(range(100))


def test_objects_of_a_cache_in_bulk(m: Machine) -> None:
    cache = kmem_cache_create("bulk", 200, 0, SLAB_HWCACHE_ALIGN | SLAB_RECLAIM_ACCOUNT)
    assert cache is not None and cache.align == 64 and cache.size == 256
    objects: list[int | None] = [None]
    assert kmem_cache_alloc_bulk(cache, GFP_KERNEL, 100, objects) == 100 == len(set(objects))
    assert all(addr is not None and addr % 64 == 0 for addr in objects)
    kmem_cache_free_bulk(cache, 60, objects)
    kfree_bulk(40, objects[60:])
    mixed = [kmalloc(10, GFP_KERNEL), kmalloc(20_000, GFP_KERNEL), kmem_cache_zalloc(cache, GFP_KERNEL)]
    kfree_bulk(3, mixed)
    assert kmem_cache_shrink(cache) == 0  # no slab is left
    one = kmem_cache_alloc_node(cache, GFP_KERNEL, NUMA_NO_NODE)
    assert kmem_cache_shrink(cache) == 1
    kmem_cache_free(cache, one)
    kmem_cache_destroy(cache)


def test_merged_caches_are_one(m: Machine) -> None:
    one = kmem_cache_create("one", 5008)
    two = kmem_cache_create("two", 5004)
    assert one is two is not None and one.name == "one" and one.refcount == 2
    assert m.cache("two") is one
    kmem_cache_destroy(one)
    assert one.live
    kmem_cache_free(one, kmem_cache_alloc(one, GFP_KERNEL))
    kmem_cache_destroy(two)
    assert not one.live


def test_constructors_run_once_for_each_object_when_its_slab_is_made(m: Machine) -> None:
    made: list[int] = []

    def construct(addr: int) -> None:
        made.append(addr)
        m.write(addr, b"made")

    cache = kmem_cache_create("ctor", 512, 0, 0, construct)
    assert cache is not None and not made
    first = kmem_cache_alloc(cache, GFP_KERNEL)
    objects = m.geometry(cache).objects
    assert len(made) == objects == len(set(made)) and first in made
    held = [first, *(kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(objects - 1))]
    assert sorted(held) == sorted(made)  # type: ignore[type-var]
    for addr in held:
        assert addr is not None and m.read(addr, 4) == b"made"
        m.write(addr, b"used")
        kmem_cache_free(cache, addr)
    again = kmem_cache_alloc(cache, GFP_KERNEL)
    assert again is not None and m.read(again, 4) == b"used" and len(made) == objects
    kmem_cache_free(cache, again)
    kmem_cache_destroy(cache)


def test_methods_act_on_their_own_machine() -> None:
    with Machine.boot("x86_64", ram="256M") as outer, Machine.boot("i386", ram="256M") as inner:
        theirs, mine = outer.kmalloc(100, GFP_KERNEL), kmalloc(100, GFP_KERNEL)
        assert theirs is not None and mine is not None
        assert theirs >= MACHINES["x86_64"] and mine < 1 << 32
        assert outer.ksize(theirs) == 128 == inner.ksize(mine)
        outer.kfree(theirs)
        inner.kfree(mine)
        outer.validate()
        inner.validate()
    assert Machine.kmalloc is kmalloc
    assert Machine.kmalloc.__doc__ == kmalloc.__doc__


@pytest.mark.parametrize("arch", MACHINES)
def test_the_same_calls_give_the_same_answers(arch: str) -> None:
    def run(seed: int) -> list[int | None]:
        rng = random.Random(seed)
        answers: list[int | None] = []
        with Machine.boot(arch, ram="256M", seed=5) as m:
            held: list[int | None] = []
            for _ in range(2000):
                if rng.random() < 0.45 and held:
                    kfree(held.pop(rng.randrange(len(held))))
                else:
                    held.append(kmalloc(rng.choice((7, 60, 100, 700, 5000, 30_000)), GFP_KERNEL))
                    answers.append(held[-1])
            m.validate()
        return answers

    assert run(3) == run(3)


def test_contents_of_objects_in_use_are_nobody_elses(m: Machine) -> None:
    """What each owner wrote is still there after thousands of others came and went."""
    rng = random.Random(9)
    held: dict[int, bytes] = {}
    for step in range(3000):
        if held and rng.random() < 0.48:
            addr = rng.choice(list(held))
            assert m.read(addr, len(held[addr])) == held.pop(addr)
            kfree(addr)
            continue
        size = rng.choice((8, 24, 64, 90, 300, 2000, 9000))
        new = kmalloc(size, GFP_KERNEL)
        assert new is not None
        held[new] = step.to_bytes(4, "little") * (size // 4)
        m.write(new, held[new])
    for addr, content in held.items():
        assert m.read(addr, len(content)) == content
        kfree(addr)


def test_a_cache_with_objects_in_use_stays(m: Machine) -> None:
    cache = kmem_cache_create("busy", 100, 0, SLAB_NOLEAKTRACE)
    assert cache is not None
    addr = kmem_cache_alloc(cache, GFP_KERNEL)
    with pytest.raises(KernelWarning, match="Objects remaining in busy on __kmem_cache_shutdown"):
        kmem_cache_destroy(cache)
    assert f"Object 0x{addr:0{m.kernel.bits_per_long // 4}x} @offset=" in m.dmesg()
    assert "Slab cache still has objects" in m.dmesg()
    kmem_cache_free(cache, addr)
