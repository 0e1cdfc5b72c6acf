# SPDX-License-Identifier: GPL-2.0-only
"""Objects damaged on purpose: the cases of the kernel's ``lib/slub_kunit.c``, in our words.

Followed is Linux 6.1 (its five cases) and, where the feature is in 6.1 too, the
cases that later versions added: an access behind a ``kmalloc()`` of an odd size
(6.2) is judged as 6.1 judges it, which has no red zone there.  Not applicable:
``test_kfree_rcu`` and ``test_leak_destroy`` (6.12) with ``kfree_rcu()``; the
leak itself is below.

A case damages one thing, has the whole cache checked, and counts errors as the
kernel's ``slab_errors`` does: one for a report, one for each repair.  Beside the
count, the lines of the report are held here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelWarning
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.slab_api import KmemCache
from kmem.mm.slab_flags import SLAB_NO_USER_FLAGS, SLAB_POISON, SLAB_RED_ZONE, SLAB_TYPESAFE_BY_RCU


@pytest.fixture(params=["x86_64", "i386"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="128M", reports="log") as machine:
        yield machine
        machine.validate()


def new_object(m: Machine, name: str, flags: int) -> tuple[KmemCache, int]:
    cache = m.kmem_cache_create(name, 64, 0, flags | SLAB_NO_USER_FLAGS)
    address = m.kmem_cache_alloc(cache, GFP_KERNEL)
    assert cache is not None and address is not None
    return cache, address


def errors_of(m: Machine, cache: KmemCache) -> int:
    before = m.slab_errors()
    assert m.validate_slab_cache(cache) == 1
    return m.slab_errors() - before


def said(m: Machine) -> list[str]:
    """First line of each report and each repair, addresses taken out."""
    lines = [line for line in m.log.text().splitlines() if line.startswith(("BUG ", "FIX "))]
    return [
        re.sub(r" \((?:Not tainted|Tainted: [^)]*)\)|(?<= )0x[0-9a-f-]+x[0-9a-f]+(?==)", "", line) for line in lines
    ]


def test_red_zone_of_an_object_in_use(m: Machine) -> None:
    """
    [ bb..bb | object 64 | cc cc .. ]
                          ^ 12
    """
    cache, p = new_object(m, "red", SLAB_RED_ZONE)
    m.memory(p + 64, 1)[:] = b"\x12"
    assert errors_of(m, cache) == 2
    assert said(m) == ["BUG red: Right Redzone overwritten", "FIX red: Restoring Right Redzone =0xcc"]
    assert errors_of(m, cache) == 0
    m.kmem_cache_free(cache, p)
    m.kmem_cache_destroy(cache)


def test_free_pointer_of_a_free_object(m: Machine) -> None:
    cache, p = new_object(m, "next", SLAB_POISON)
    m.kmem_cache_free(cache, p)
    where = m.memory(p + cache.geometry.offset, 8 if m.arch == "x86_64" else 4)
    before = bytes(where)
    where[0] ^= 0xFF
    # the broken chain, the count that is wrong now, and its repair
    assert errors_of(m, cache) == 3
    objects = cache.geometry.objects
    assert said(m) == [
        "BUG next: Freechain corrupt",
        f"BUG next: Wrong object count. Counter is 0 but counted were {objects - 1}",
        "FIX next: Object count adjusted",
    ]
    # with the pointer as it was, the count is wrong again
    where[:] = before
    assert errors_of(m, cache) == 2
    assert errors_of(m, cache) == 0
    m.kmem_cache_destroy(cache)


@pytest.mark.parametrize(("place", "value"), [(0, 0x78), (50, 0x9A)])
def test_poison_of_a_free_object(m: Machine, place: int, value: int) -> None:
    cache, p = new_object(m, "poison", SLAB_POISON)
    m.kmem_cache_free(cache, p)
    m.memory(p + place, 1)[0] = value
    assert errors_of(m, cache) == 2
    assert said(m) == ["BUG poison: Poison overwritten", "FIX poison: Restoring Poison =0x6b"]
    assert f"@offset={p % 4096 + place}. First byte 0x{value:x} instead of 0x6b" in m.log.text()
    m.kmem_cache_destroy(cache)


def test_end_of_the_poison(m: Machine) -> None:
    cache, p = new_object(m, "end", SLAB_POISON)
    m.kmem_cache_free(cache, p)
    m.memory(p + 63, 1)[0] = 0x6B
    assert errors_of(m, cache) == 2
    assert said(m) == ["BUG end: End Poison overwritten", "FIX end: Restoring End Poison =0xa5"]
    m.kmem_cache_destroy(cache)


def test_red_zone_of_a_free_object(m: Machine) -> None:
    cache, p = new_object(m, "free", SLAB_RED_ZONE)
    m.kmem_cache_free(cache, p)
    m.memory(p + 64, 1)[0] = 0xAB
    assert errors_of(m, cache) == 2
    assert said(m) == ["BUG free: Right Redzone overwritten", "FIX free: Restoring Right Redzone =0xbb"]
    m.kmem_cache_destroy(cache)


def test_left_red_zone(m: Machine) -> None:
    cache, p = new_object(m, "left", SLAB_RED_ZONE)
    m.memory(p - 1, 1)[0] = 0
    assert errors_of(m, cache) == 2
    assert said(m) == ["BUG left: Left Redzone overwritten", "FIX left: Restoring Left Redzone =0xcc"]
    m.kmem_cache_free(cache, p)
    m.kmem_cache_destroy(cache)


def test_padding_behind_the_last_object(m: Machine) -> None:
    cache, p = new_object(m, "pad", SLAB_POISON | SLAB_RED_ZONE)
    geometry = cache.geometry
    left = 4096 - geometry.objects * geometry.size
    assert left > 0
    m.memory((p & ~0xFFF) + 4096 - left, left)[left - 1] = 0
    assert errors_of(m, cache) == 2
    (bug, fix) = said(m)
    assert bug.startswith("BUG pad: Padding overwritten. 0x")
    assert fix == "FIX pad: Restoring slab padding =0x5a"
    assert "Padding  " not in m.log.text() and "Padding " in m.log.text()  # of the slab, not of an object
    m.kmem_cache_free(cache, p)
    m.kmem_cache_destroy(cache)


def test_bytes_behind_a_kmalloc_of_an_odd_size() -> None:
    """6.1 guards the whole object of a kmalloc cache, not the size that was asked for."""
    with Machine.boot("x86_64", ram="128M", cmdline="slub_debug=FZPU", reports="log") as m:
        p = m.kzalloc(18, GFP_KERNEL)
        assert p is not None
        m.memory(p + 18, 1)[0] = 0xAB
        cache = m.kernel.slub.slab_cache(m.kernel.slub.where(p - m.page_offset)[0])
        m.kernel.slub.validate_slab_cache(cache)
        assert m.slab_errors() == 0
        m.memory(p + 32, 1)[0] = 0xAB
        m.kernel.slub.validate_slab_cache(cache)
        assert m.slab_errors() == 2
        m.kfree(p)


def test_objects_of_an_rcu_cache_are_not_poisoned(m: Machine) -> None:
    """A reader may still look at them: only what lies around them is checked."""
    cache, p = new_object(m, "rcu", SLAB_POISON | SLAB_RED_ZONE | SLAB_TYPESAFE_BY_RCU)
    m.memory(p, 64)[:] = bytes(range(64))
    m.kmem_cache_free(cache, p)
    assert bytes(m.memory(p, 64)) == bytes(range(64))
    assert errors_of(m, cache) == 0
    m.kmem_cache_destroy(cache)


def test_an_object_left_at_destroy(m: Machine) -> None:
    cache, p = new_object(m, "left_behind", SLAB_POISON)
    before = m.slab_errors()
    m.kmem_cache_destroy(cache)
    assert m.slab_errors() - before == 1
    lines = m.log.text().splitlines()
    assert any(line.endswith("Objects remaining in left_behind on __kmem_cache_shutdown()") for line in lines)
    assert f"Object 0x{p:0{16 if m.arch == 'x86_64' else 8}x} @offset={p % 4096}" in lines
    assert any(
        line.startswith("kmem_cache_destroy left_behind: Slab cache still has objects when called from")
        for line in lines
    )


def test_reports_as_exceptions() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        cache, p = new_object(m, "raised", SLAB_RED_ZONE)
        m.memory(p + 64, 1)[0] = 0x12
        with pytest.raises(KernelWarning, match="Right Redzone overwritten"):
            m.validate_slab_cache(cache)
        assert m.validate_slab_cache(cache) == 1
        m.kmem_cache_free(cache, p)
        m.kmem_cache_destroy(cache)
        m.validate()
