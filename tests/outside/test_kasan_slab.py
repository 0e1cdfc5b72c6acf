# SPDX-License-Identifier: GPL-2.0-only
"""Misuse of slab memory: those cases of KASAN's own tests that SLUB's debugging can see, told anew.

Follows ``mm/kasan/kasan_test.c`` of Linux 6.1, on a machine with
``slub_debug=FZPU``.  KASAN checks each access; SLUB finds what an access has
damaged when the object is freed, allocated again or validated.  So a case is
done here in two steps: the write, which nobody sees, and the look that finds it.

What does not apply, and why:

- reads beyond an object or after its free (``kmalloc_node_oob_right``,
  ``kmalloc_oob_16``, ``kmalloc_uaf_16``, ``kasan_mem*``, ``kasan_strings``):
  they damage nothing;
- writes between the size asked for and the size of the kmalloc cache
  (``ptr[size]`` of ``kmalloc_oob_right``, ``krealloc_*_oob`` inside one
  object): SLUB checks that space from 6.2 on only;
- page allocations (``kmalloc_pagealloc_oob_right``, ``pagealloc_*``): they have
  no red zones; a large ``kmalloc()`` freed at a wrong address is seen;
- stacks, globals, allocas, bit operations, tags of ARM, ``vmalloc_oob``: not
  slab memory, or hardware that is not modelled.

The mempool cases of later kernels (6.9 on) are about pools whose elements KASAN poisons; SLUB's debugging does not.
"""

from __future__ import annotations

import re

import pytest

from kmem import Machine
from kmem.errors import KernelReport
from kmem.linux.gfp import *
from kmem.linux.slab import *
from kmem.linux.vmalloc import vmalloc

BUG = re.compile(r"BUG (\S+) \(.*\): (.*)")


class Kunit:
    """A machine, and what its kernel has reported since the last look."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self._seen = 0

    def reports(self) -> list[tuple[str, str]]:
        lines = self.m.log.lines[self._seen :]
        self._seen += len(lines)
        return [(match[1], match[2]) for line in lines if (match := BUG.match(line.text))]

    def validate(self, cache: str) -> None:
        self.m.sys(f"kernel/slab/{cache}/validate", 1)


@pytest.fixture
def kunit():
    with Machine.boot("x86_64", ram="256M", cmdline="slub_debug=FZPU", reports="log") as m:
        test = Kunit(m)
        yield test
        assert test.reports() == []
        m.validate()


def write(kunit: Kunit, addr: int, data: bytes = b"x") -> None:
    kunit.m.write(addr, data)
    assert kunit.reports() == [], "nobody sees the write itself"


def test_kmalloc_oob_right(kunit):
    size = 128 - 8 - 5
    ptr = kmalloc(size, GFP_KERNEL)
    write(kunit, ptr + size)  # still inside the object of 128 bytes
    kunit.validate("kmalloc-128")
    assert kunit.reports() == []
    write(kunit, ptr + 128, b"y")
    kfree(ptr)
    assert kunit.reports() == [("kmalloc-128", "Right Redzone overwritten")]


def test_kmalloc_oob_left(kunit):
    ptr = kmalloc(15, GFP_KERNEL)
    write(kunit, ptr - 1)
    kfree(ptr)
    assert kunit.reports() == [("kmalloc-16", "Left Redzone overwritten")]


def test_kmalloc_large_oob_right(kunit):
    size = KMALLOC_MAX_CACHE_SIZE - 256
    ptr = kmalloc(size, GFP_KERNEL)
    write(kunit, ptr + KMALLOC_MAX_CACHE_SIZE)
    kfree(ptr)
    assert kunit.reports() == [("kmalloc-8k", "Right Redzone overwritten")]


def test_kmalloc_pagealloc_invalid_free(kunit):
    """Without KASAN the kernel frees the pages; the model warns, and keeps them."""
    ptr = kmalloc(KMALLOC_MAX_CACHE_SIZE + 10, GFP_KERNEL)
    kfree(ptr + 1)
    assert "WARNING: CPU: 0 PID: 1 at mm/slab_common.c" in kunit.m.log.text()
    assert ksize(ptr) == 16384
    kfree(ptr)


@pytest.mark.parametrize(("size1", "size2"), [(100, 201), (201, 600)], ids=["more", "much more"])
def test_krealloc_more_oob(kunit, size1, size2):
    middle = size1 + (size2 - size1) // 2
    ptr = kmalloc(size1, GFP_KERNEL)
    kunit.m.write(ptr, bytes(range(100)))
    ptr = krealloc(ptr, size2, GFP_KERNEL)
    assert kunit.m.read(ptr, 100) == bytes(range(100)), "what was there has moved along"
    for at in (size1 - 1, size1, middle, size2 - 1):
        write(kunit, ptr + at)
    write(kunit, ptr + ksize(ptr))
    kfree(ptr)
    assert [text for _, text in kunit.reports()] == ["Right Redzone overwritten"]


def test_krealloc_less_stays_in_place(kunit):
    ptr = kmalloc(235, GFP_KERNEL)
    assert krealloc(ptr, 201, GFP_KERNEL) == ptr
    write(kunit, ptr + 200)
    write(kunit, ptr + 256)
    kfree(ptr)
    assert kunit.reports() == [("kmalloc-256", "Right Redzone overwritten")]


def test_krealloc_uaf(kunit):
    ptr = kmalloc(201, GFP_KERNEL)
    kfree(ptr)
    with pytest.raises((KernelReport, ValueError, RuntimeError)):
        krealloc(ptr, 235, GFP_KERNEL)
    kunit.reports()


@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_kmalloc_oob_memset(kunit, width):
    """A range that begins inside the object and ends behind it."""
    size = 128
    ptr = kmalloc(size, GFP_KERNEL)
    write(kunit, ptr + size + 1 - width, b"\x02" * width)
    kfree(ptr)
    assert kunit.reports() == [("kmalloc-128", "Right Redzone overwritten")]


def test_kmalloc_uaf(kunit):
    ptr = kmalloc(10, GFP_KERNEL)
    kfree(ptr)
    write(kunit, ptr + 8)
    kunit.validate("kmalloc-16")
    assert kunit.reports() == [("kmalloc-16", "Poison overwritten")]


def test_kmalloc_uaf_memset(kunit):
    ptr = kmalloc(33, GFP_KERNEL)
    kfree(ptr)
    write(kunit, ptr, bytes(33))
    assert kmalloc(33, GFP_KERNEL) != ptr, "its slab is not used any more"
    assert kunit.reports() == [("kmalloc-64", "Poison overwritten")], "found when it was to be handed out again"


def test_kmalloc_uaf2(kunit):
    """The freed object is written to while its place has another owner already, which nobody can tell."""
    first = kmalloc(43, GFP_KERNEL)
    kfree(first)
    second = None
    while second != first:
        second = kmalloc(43, GFP_KERNEL)
    write(kunit, first + 40)
    kunit.validate("kmalloc-64")
    assert kunit.reports() == []


def test_kmem_cache_oob(kunit):
    cache = kmem_cache_create("test_cache", 200, 0, 0, None)
    p = kmem_cache_alloc(cache, GFP_KERNEL)
    write(kunit, p + 200)
    kmem_cache_free(cache, p)
    assert kunit.reports() == [("test_cache", "Right Redzone overwritten")]
    kmem_cache_destroy(cache)
    # A damaged object is never free again.
    assert kunit.reports() == [("test_cache", "Objects remaining in test_cache on __kmem_cache_shutdown()")]


def test_kmem_cache_accounted(kunit):
    cache = kmem_cache_create("test_cache", 200, 0, SLAB_ACCOUNT, None)
    assert cache.flags & SLAB_ACCOUNT
    objects = []
    for _ in range(5):
        objects.append(kmem_cache_alloc(cache, GFP_KERNEL))
        kmem_cache_free(cache, objects[-1])
        kunit.m.kernel.clock.advance(100_000_000)
    assert None not in objects
    assert not kmem_cache_shrink(cache)
    kmem_cache_destroy(cache)
    assert not cache.live
    assert kunit.reports() == []


def test_kmem_cache_bulk(kunit):
    cache = kmem_cache_create("test_cache", 200, 0, 0, None)
    p: list[int] = []
    assert kmem_cache_alloc_bulk(cache, GFP_KERNEL, 10, p) == 10
    for addr in p:
        write(kunit, addr, b"\x2a")
        write(kunit, addr + 199, b"\x2a")
    kmem_cache_free_bulk(cache, 10, p)
    kmem_cache_destroy(cache)
    assert kunit.reports() == []


def test_ksize_covers_the_whole_object(kunit):
    ptr = kmalloc(123, GFP_KERNEL)
    real_size = ksize(ptr)
    assert real_size == 128
    write(kunit, ptr, b"x" * real_size)
    kunit.validate("kmalloc-128")
    assert kunit.reports() == []
    write(kunit, ptr + real_size)
    kfree(ptr)
    assert kunit.reports() == [("kmalloc-128", "Right Redzone overwritten")]


def test_kmem_cache_double_free(kunit):
    cache = kmem_cache_create("test_cache", 200, 0, 0, None)
    keep = kmem_cache_alloc(cache, GFP_KERNEL)
    p = kmem_cache_alloc(cache, GFP_KERNEL)
    kmem_cache_free(cache, p)
    kmem_cache_free(cache, p)
    assert kunit.reports() == [("test_cache", "Object already free")]
    # The second free has cut the freelist off behind the object before anybody looked, as in the kernel.
    kmem_cache_free(cache, keep)
    assert kunit.reports() == [("test_cache", "Wrong object count. Counter is 1 but counted were 12")]


def test_kmem_cache_invalid_free(kunit):
    cache = kmem_cache_create("test_cache", 200, 0, SLAB_TYPESAFE_BY_RCU, None)
    p = kmem_cache_alloc(cache, GFP_KERNEL)
    kmem_cache_free(cache, p + 1)
    assert [text.split("(0x")[0] for _, text in kunit.reports()] == [f"Invalid object pointer {p + 1:#x}"]
    kmem_cache_free(cache, p)
    kmem_cache_destroy(cache)


def test_kmem_cache_double_destroy(kunit):
    cache = kmem_cache_create("test_cache", 200, 0, 0, lambda addr: None)
    kmem_cache_destroy(cache)
    with pytest.raises((KernelReport, ValueError, RuntimeError)):
        kmem_cache_destroy(cache)


def test_kmalloc_double_kzfree(kunit):
    keep, ptr = kmalloc(16, GFP_KERNEL), kmalloc(16, GFP_KERNEL)
    kfree_sensitive(ptr)
    with pytest.raises((KernelReport, ValueError, RuntimeError)):
        kfree_sensitive(ptr)
    kunit.reports()
    kfree(keep)


def test_kfree_via_page_and_phys(kunit):
    """An object is the same by whatever way its address was found."""
    ptr = kmalloc(1000, GFP_KERNEL)
    assert page_address(virt_to_page(ptr)) + (ptr & 0xFFF) == ptr
    kfree(kunit.m.phys_to_virt(kunit.m.virt_to_phys(ptr)))
    ptr = kmalloc(1000, GFP_KERNEL)
    kfree(page_address(virt_to_page(ptr)) + (ptr & 0xFFF))


def test_what_is_no_slab_memory(kunit):
    area = vmalloc(100)
    before = kunit.m.digest()
    with pytest.raises((KernelReport, ValueError, RuntimeError)):
        kfree(area)
    assert kunit.m.digest() == before
    kunit.reports()
