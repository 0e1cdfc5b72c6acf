# SPDX-License-Identifier: GPL-2.0-only
"""Objects with bytes: free pointers in memory, zeroing, constructors, and what happens when memory is overwritten.

A slab of a plain cache, three objects handed out (x), the rest linked in memory::

    | 0 x | 1 -> 4 | 2 x | 3 -> NULL | 4 -> 3 | 5 x |     CPU freelist: 1
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelBug, KernelOops, KernelWarning, KmemError, StateError, UsageError
from kmem.mm.gfp import __GFP_ZERO, GFP_KERNEL
from kmem.mm.slab_api import KmemCache
from kmem.mm.slab_flags import (
    SLAB_CONSISTENCY_CHECKS,
    SLAB_NO_USER_FLAGS,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.mm.slub_bytes import ObjectLayout

ALL = SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER


@pytest.fixture(params=["x86_64", "i386"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="128M", cmdline="slub_nomerge", reports="log", seed=3) as machine:
        yield machine
        machine.validate()


def cache_of(m: Machine, size: int = 64, flags: int = 0, **more: object) -> KmemCache:
    # the flag keeps a cache of its own from being shared
    cache = m.kmem_cache_create("it", size, 0, flags | SLAB_NO_USER_FLAGS, **more)
    assert cache is not None
    return cache


def objects_of(m: Machine, cache: KmemCache, count: int) -> list[int]:
    found = [m.kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(count)]
    assert all(found)
    return [int(address) for address in found if address is not None]


def layout_of(m: Machine, cache: KmemCache) -> ObjectLayout:
    checker = m.slub.checker
    assert checker is not None
    return checker.layout(cache.index)


def chain_in_memory(m: Machine, cache: KmemCache, first: int) -> list[int]:
    """Follow free pointers through memory, by the formula of the kernel's hardening alone."""
    word = 8 if m.arch == "x86_64" else 4
    mask = (1 << 8 * word) - 1
    secret = int(m.slub.caches_array[cache.index]["random"]) & mask
    found = []
    while first:
        found.append(first)
        at = first + cache.geometry.offset
        stored = int.from_bytes(m.memory(at, word), "little")
        first = stored ^ secret ^ int.from_bytes(at.to_bytes(word, "little"), "big")
        assert len(found) <= cache.geometry.objects
    return found


def cpu_freelist(m: Machine, cache: KmemCache) -> list[int]:
    state = m.slub.dump(cache.index)["cpus"][0]
    start = m.page_offset + state["slab"]["pfn"] * 4096
    return [start + number * cache.size for number in state["freelist"]]


# ---------------------------------------------------------------------- free pointers


@pytest.mark.parametrize("size", [8, 64, 100, 1000])
@pytest.mark.parametrize("flags", [0, SLAB_TYPESAFE_BY_RCU])
def test_free_pointers_in_memory_are_the_freelist(m: Machine, size: int, flags: int) -> None:
    cache, rng = cache_of(m, size, flags), random.Random(size)
    held: list[int] = objects_of(m, cache, 3)
    for _ in range(200):
        if held and rng.random() < 0.5:
            m.kmem_cache_free(cache, held.pop(rng.randrange(len(held))))
        else:
            held += objects_of(m, cache, 1)
        freelist = cpu_freelist(m, cache)
        if freelist:
            assert chain_in_memory(m, cache, freelist[0]) == freelist
    for address in held:
        m.kmem_cache_free(cache, address)


def test_free_pointers_of_slabs_that_left_their_cpu(m: Machine) -> None:
    cache = cache_of(m, 500)
    held = objects_of(m, cache, 40)
    for address in held[::2]:
        m.kmem_cache_free(cache, address)
    m.slub.flush_all(cache.index)
    slabs = m.slub.dump(cache.index)["nodes"][0]["partial"]
    assert len(slabs) > 3
    for slab in slabs:
        start = m.page_offset + slab["pfn"] * 4096
        freelist = [start + number * cache.size for number in slab["freelist"]]
        assert chain_in_memory(m, cache, freelist[0]) == freelist


def test_bulk_frees_write_free_pointers(m: Machine) -> None:
    cache = cache_of(m, 200)
    held = objects_of(m, cache, 10)
    m.kmem_cache_free_bulk(cache, 10, held)
    freelist = cpu_freelist(m, cache)
    assert chain_in_memory(m, cache, freelist[0]) == freelist


def test_slabs_that_were_there_before_the_bytes() -> None:
    machine = Machine.boot("x86_64", ram="128M")
    cache = machine.caches.kmem_cache_create("early", 64, 0, SLAB_NO_USER_FLAGS)
    debug = machine.caches.kmem_cache_create("early_debug", 64, 0, ALL)
    objects = [machine.slub.kmem_cache_alloc(index, GFP_KERNEL) for index in (cache, debug) for _ in range(3)]
    machine.slub.kmem_cache_free(cache, objects[0])
    with machine as m:
        checker = m.kernel.slub.checker
        assert checker is not None
        assert m.slub.validate_slab_cache(debug) == 1
        assert checker.errors == 0
        for index, address in zip((cache, cache, debug, debug, debug), objects[1:], strict=True):
            m.slub.kmem_cache_free(index, address)
        assert checker.errors == 0
        m.validate()


# ---------------------------------------------------------------------- zeroing


@pytest.mark.parametrize(
    ("cmdline", "gfp", "zero"),
    [
        ("", GFP_KERNEL, True),
        ("init_on_alloc=0", GFP_KERNEL, False),
        ("init_on_alloc=0", GFP_KERNEL | __GFP_ZERO, True),
        ("init_on_alloc=off init_on_free=on", GFP_KERNEL, True),
    ],
)
def test_what_a_reused_object_holds(cmdline: str, gfp: int, zero: bool) -> None:
    with Machine.boot("x86_64", ram="128M", cmdline=f"slub_nomerge {cmdline}") as m:
        cache = cache_of(m, 100)
        (address,) = objects_of(m, cache, 1)
        m.memory(address, 100)[:] = b"A" * 100
        m.kmem_cache_free(cache, address)
        assert m.kmem_cache_alloc(cache, gfp) == address
        offset = cache.geometry.offset
        data = bytes(m.memory(address, 100))
        left = data[:offset] + data[offset + 8 :]
        assert left == bytes(92) if zero else left == b"A" * 92


@pytest.mark.parametrize("flags", [SLAB_POISON, SLAB_TYPESAFE_BY_RCU, SLAB_POISON | SLAB_TYPESAFE_BY_RCU])
def test_poisoned_and_rcu_caches_are_zeroed_on_request_only(m: Machine, flags: int) -> None:
    cache = cache_of(m, 64, flags)
    (address,) = objects_of(m, cache, 1)
    m.memory(address, 64)[:] = b"A" * 64
    m.kmem_cache_free(cache, address)
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == address
    data = bytes(m.memory(address, 64))
    assert data == (b"A" * 64 if flags & SLAB_TYPESAFE_BY_RCU else b"k" * 63 + b"\xa5")
    m.kmem_cache_free(cache, address)
    assert m.kmem_cache_alloc(cache, GFP_KERNEL | __GFP_ZERO) == address
    assert bytes(m.memory(address, 64)) == bytes(64)


# ---------------------------------------------------------------------- constructors


@pytest.mark.parametrize("flags", [0, ALL])
def test_a_constructor_runs_once_for_each_object_in_freelist_order(m: Machine, flags: int) -> None:
    made: list[int] = []

    def construct(address: int) -> None:
        made.append(address)
        m.memory(address, 8)[:] = len(made).to_bytes(8, "little")

    cache = cache_of(m, 64, flags, ctor=construct)
    (first,) = objects_of(m, cache, 1)
    assert len(made) == cache.geometry.objects == len(set(made))
    assert first == made[0]
    rest = objects_of(m, cache, cache.geometry.objects - 1)
    assert [first, *rest] == made
    assert [int.from_bytes(m.memory(address, 8), "little") for address in made] == list(range(1, len(made) + 1))
    m.kmem_cache_free(cache, first)
    assert objects_of(m, cache, 1) == [first]  # constructed still, not zeroed
    assert int.from_bytes(m.memory(first, 8), "little") == 1
    assert len(made) == cache.geometry.objects


@pytest.mark.parametrize("flags", [0, ALL])
@pytest.mark.parametrize("fails_at", [1, 3])
def test_the_engine_survives_a_constructor_that_raises(flags: int, fails_at: int) -> None:
    with Machine.boot("x86_64", ram="128M", cmdline="slub_nomerge") as m:
        index = m.caches.kmem_cache_create("it", 64, 0, flags | SLAB_NO_USER_FLAGS, ctor=True)
        calls = []

        def construct(physical: int) -> None:
            calls.append(physical)
            if len(calls) == fails_at:
                raise ZeroDivisionError

        m.slub.set_ctor(index, construct)
        with pytest.raises(ZeroDivisionError):
            m.slub.kmem_cache_alloc(index, GFP_KERNEL)
        assert len(calls) == fails_at
        m.validate()
        assert m.slub.nr_slabs(index) == 0
        assert m.slub.kmem_cache_alloc(index, GFP_KERNEL) == calls[fails_at]
        m.validate()
        with pytest.raises(UsageError):
            m.slub.set_ctor(999, construct)


# ---------------------------------------------------------------------- overwritten free pointers of plain caches


def test_a_wild_free_pointer_is_followed_at_the_second_allocation(m: Machine) -> None:
    cache = cache_of(m)
    first, second = objects_of(m, cache, 2)
    m.kmem_cache_free(cache, second)
    m.kmem_cache_free(cache, first)
    m.memory(first + cache.geometry.offset, 8 if m.arch == "x86_64" else 4)[:] = b"\x41" * (
        8 if m.arch == "x86_64" else 4
    )
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == first
    m.validate()
    for _ in range(2):  # the CPU's freelist stays what it is
        with pytest.raises(KernelOops) as caught:
            m.kmem_cache_alloc(cache, GFP_KERNEL)
        assert "address" in caught.value.text
        m.validate()
    # what is freed goes in front of it, and can be had again
    m.kmem_cache_free(cache, first)
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == first
    m.slub.flush_all(cache.index)  # the kernel would die here, too; the model gives the pointer up
    m.validate()
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) is not None


def test_a_free_pointer_into_other_memory_hands_that_out(m: Machine) -> None:
    cache, victim = cache_of(m), m.kmalloc(64, GFP_KERNEL)
    assert victim is not None
    (first,) = objects_of(m, cache, 1)
    m.kmem_cache_free(cache, first)
    s = layout_of(m, cache)
    checker = m.slub.checker
    assert checker is not None
    checker.memory.set_freepointer(s, first, victim)
    checker.memory.set_freepointer(s, victim, 0)
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == first
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == victim
    again = m.kmem_cache_alloc(cache, GFP_KERNEL)  # its pointer was NULL: from a new slab
    assert again is not None and again >> 12 != first >> 12
    m.validate()


def test_a_free_pointer_that_was_cleared_loses_the_rest(m: Machine) -> None:
    cache = cache_of(m)
    (first,) = objects_of(m, cache, 1)
    m.kmem_cache_free(cache, first)
    checker = m.slub.checker
    assert checker is not None
    checker.memory.set_freepointer(layout_of(m, cache), first, 0)
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == first
    assert cpu_freelist(m, cache) == []
    other = m.kmem_cache_alloc(cache, GFP_KERNEL)
    assert other is not None and other >> 12 != first >> 12
    m.validate()


def test_a_double_free_of_the_first_free_object_is_a_bug(m: Machine) -> None:
    cache = cache_of(m)
    first, second = objects_of(m, cache, 2)
    m.kmem_cache_free(cache, second)
    m.kmem_cache_free(cache, first)
    before = chain_in_memory(m, cache, first)
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/slub\.c:419!") as caught:
        m.kmem_cache_free(cache, first)
    assert caught.value.lines[:3] == [
        "------------[ cut here ]------------",
        "kernel BUG at mm/slub.c:419!",
        caught.value.lines[2],
    ]
    assert caught.value.lines[2].startswith("invalid opcode: 0000 [#1]")
    assert chain_in_memory(m, cache, first) == before
    with pytest.raises(KmemError):  # not the first one: the kernel's freelist would become a ring
        m.kmem_cache_free(cache, second)
    m.validate()


# ---------------------------------------------------------------------- debug caches


@pytest.mark.parametrize("size", [1, 8, 24, 100, 700, 5000])
@pytest.mark.parametrize(
    "flags",
    [
        *(SLAB_CONSISTENCY_CHECKS, SLAB_RED_ZONE, SLAB_POISON, SLAB_STORE_USER, ALL),
        *(SLAB_RED_ZONE | SLAB_STORE_USER, ALL | SLAB_TYPESAFE_BY_RCU, SLAB_POISON | SLAB_STORE_USER),
    ],
)
def test_ordinary_use_of_a_debug_cache_reports_nothing(m: Machine, size: int, flags: int) -> None:
    cache, rng = cache_of(m, size, flags), random.Random(size)
    held: list[int] = []
    for step in range(80):
        if held and rng.random() < 0.48:
            m.kmem_cache_free(cache, held.pop(rng.randrange(len(held))))
        else:
            held += objects_of(m, cache, 1)
            m.memory(held[-1], size)[:] = rng.randbytes(size)
        if step % 40 == 0:
            m.validate_slab_cache(cache)
            m.validate()
    for address in held:
        m.kmem_cache_free(cache, address)
    m.kmem_cache_shrink(cache)
    m.kmem_cache_destroy(cache)
    m.kernel.slub.rcu_barrier()
    assert m.slab_errors() == 0
    assert "BUG" not in m.log.text()


def test_every_damaged_byte_of_a_slot_is_found_or_nobodys(m: Machine) -> None:
    """Byte by byte: what belongs to the user or to a track may change, everything else is reported."""
    cache = cache_of(m, 20, ALL)
    objects_of(m, cache, 2)
    (address,) = objects_of(m, cache, 1)
    s = layout_of(m, cache)
    for place in range(-s.red_left_pad, s.size_from_object):
        byte = m.memory(address + place, 1)
        before, errors = byte[0], m.slab_errors()
        byte[0] = before ^ 0x55
        m.validate_slab_cache(cache)
        found = m.slab_errors() - errors
        free_of_checks = 0 <= place < s.object_size or s.info_end <= place < s.tracks_end
        assert (found == 0) == free_of_checks, place
        byte[0] = before
        if s.offset <= place < s.info_end:
            # the check has replaced it by NULL, which the byte put back has spoilt
            checker = m.slub.checker
            assert checker is not None
            checker.memory.set_freepointer(s, address, 0)
    m.kmem_cache_free(cache, address)


def test_a_slab_that_is_given_up_frees_nothing(m: Machine) -> None:
    cache = cache_of(m, 100, ALL)
    first, second, third = objects_of(m, cache, 3)
    m.kmem_cache_free(cache, first)
    m.memory(first, 1)[0] = 0
    (fresh,) = objects_of(m, cache, 1)
    assert fresh >> 12 != first >> 12
    m.log.lines.clear()
    m.kmem_cache_free(cache, second)
    text = m.log.text()
    assert "Slab disabled since SLUB metadata consistency check failed" in text
    assert f"FIX it: Object at 0x{second:0{16 if m.arch == 'x86_64' else 8}x} not freed" in text
    m.validate()
    assert third


def test_an_allocation_that_raises_gives_nothing_away() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        cache = cache_of(m, 100, ALL)
        (first,) = objects_of(m, cache, 1)
        m.kmem_cache_free(cache, first)
        m.memory(first, 1)[0] = 0
        with pytest.raises(KernelWarning, match="Poison overwritten"):
            m.kmem_cache_alloc(cache, GFP_KERNEL)
        slabs = [slab for node in m.slub.dump(cache.index)["nodes"] for slab in node["partial"]]
        assert [slab["inuse"] for slab in slabs] == [0]
        assert m.kmem_cache_alloc(cache, GFP_KERNEL) is not None
        m.validate()


def test_traces_of_a_cache(m: Machine) -> None:
    cache = cache_of(m, 20, SLAB_TRACE)
    (address,) = objects_of(m, cache, 1)
    m.kmem_cache_free(cache, address)
    shown = [line.text for line in m.log.lines if line.level == 6]
    assert shown[0].startswith(f"TRACE it alloc 0x{address:x} inuse=1 fp=0x".replace("0x0x", "0x"))
    assert shown[1].startswith("TRACE it free ")
    assert shown[2].startswith("Object ")
    assert m.slab_errors() == 0


# ---------------------------------------------------------------------- snapshots, seeds, misuse


@pytest.mark.parametrize("flags", [0, ALL])
def test_a_restored_state_has_its_free_pointers(m: Machine, flags: int) -> None:
    cache = cache_of(m, 64, flags)
    first, second, third = objects_of(m, cache, 3)
    m.kmem_cache_free(cache, second)
    m.memory(first, 8)[:] = b"first is"
    state, digest = m.snapshot(), m.digest()
    m.kmem_cache_free(cache, first)
    for _ in range(5):
        m.kmem_cache_alloc(cache, GFP_KERNEL)
    m.restore(state)
    assert m.digest() == digest
    assert m.kmem_cache_alloc(cache, GFP_KERNEL) == second
    m.kmem_cache_free(cache, third)
    m.kmem_cache_free(cache, first)
    assert m.slab_errors() == 0
    m.validate()


def test_one_seed_one_memory() -> None:
    def program(seed: int) -> bytes:
        with Machine.boot("x86_64", ram="128M", cmdline="slub_debug=FZPU", seed=seed) as m:
            cache = cache_of(m, 100)
            held = objects_of(m, cache, 5)
            m.kmem_cache_free(cache, held[2])
            start = held[0] & ~0xFFF
            return bytes(m.memory(start, 4096))

    assert program(1) == program(1)
    assert program(1) != program(2)


def test_without_memory_there_is_nothing_to_check() -> None:
    machine = Machine.boot("x86_64", ram="128M")
    index = machine.caches.kmem_cache_create("early", 64, 0, ALL)
    with pytest.raises(StateError, match="no bytes to check"):
        machine.slub.validate_slab_cache(index)
    with pytest.raises(UsageError):
        machine.slub.relist(index, 0, "somewhere")  # type: ignore[arg-type]
