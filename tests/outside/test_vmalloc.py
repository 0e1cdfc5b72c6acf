# SPDX-License-Identifier: GPL-2.0-only
"""The cases of the kernel's own test of vmalloc, told in our words.

They follow lib/test_vmalloc.c of Linux 6.1, in its order, with fewer rounds (there one million).  One of them must
fail: an alignment can be larger than the address space.

What does not apply: ``pcpu_alloc_test``, since there is no per-CPU allocator to test, and the two ``kvfree_rcu``
tests, since there is no RCU to wait for.  ``vm_map_ram_test`` belongs to later kernels.  The kernel's run on several
workers at a time is left out, as one task runs at a time here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from kmem import Machine
from kmem.linux.gfp import __GFP_ZERO, GFP_KERNEL
from kmem.linux.vmalloc import __vmalloc_node, vfree, vmalloc
from kmem.mm.kernel import current_kernel

PAGE_SIZE = 4096
ROUNDS = 200
NUMA_NO_NODE = -1
#: A kernel stack's alignment; the kernel doubles it for guard pages.
THREAD_ALIGN = {64: 4 * PAGE_SIZE, 32: 2 * PAGE_SIZE}


def _touch(addr: int, value: int) -> None:
    from kmem.mm.access import write

    write(current_kernel(), addr, bytes([value]))


def fix_size_alloc_test() -> bool:
    """One size, again and again."""
    for _ in range(ROUNDS):
        addr = vmalloc(PAGE_SIZE)
        if addr is None:
            return False
        _touch(addr, 0)
        vfree(addr)
    return True


def full_fit_alloc_test() -> bool:
    """Holes of exactly the size that is asked for: as many as may be lazy, between pages that stay."""
    count = 32 * 1024 * 1024 // PAGE_SIZE
    kept, holes = [], []
    for _ in range(count):
        kept.append(vmalloc(PAGE_SIZE))
        holes.append(vmalloc(PAGE_SIZE))
    for addr in holes:
        vfree(addr)
    passed = True
    for _ in range(ROUNDS):
        addr = vmalloc(PAGE_SIZE)
        if addr is None:
            passed = False
            break
        _touch(addr, 1)
        vfree(addr)
    for addr in kept:
        vfree(addr)
    return passed


def long_busy_list_alloc_test() -> bool:
    """Thousands of areas in use, and more come and go behind them."""
    busy = [vmalloc(PAGE_SIZE) for _ in range(15000)]
    passed = True
    for _ in range(ROUNDS):
        large, small = vmalloc(100 * PAGE_SIZE), vmalloc(PAGE_SIZE)
        if large is None or small is None:
            passed = False
            break
        _touch(large, 0)
        _touch(small, 1)
        vfree(large)
        vfree(small)
    for addr in busy:
        vfree(addr)
    return passed


def random_size_alloc_test() -> bool:
    """1 to 100 pages."""
    sizes = random.Random(1)
    for _ in range(ROUNDS):
        addr = vmalloc(sizes.randint(1, 100) * PAGE_SIZE)
        if addr is None:
            return False
        _touch(addr, 1)
        vfree(addr)
    return True


def fix_align_alloc_test() -> bool:
    """Five pages, aligned as two kernel stacks are."""
    align = THREAD_ALIGN[current_kernel().bits_per_long] << 1
    for _ in range(ROUNDS):
        addr = __vmalloc_node(5 * PAGE_SIZE, align, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE, None)
        if addr is None or addr % align:
            return False
        vfree(addr)
    return True


def random_size_align_alloc_test() -> bool:
    """1 to 10 pages, aligned to up to 1,024."""
    numbers = random.Random(2)
    for _ in range(ROUNDS):
        number = numbers.randrange(256)
        align = 1 << number % 23
        addr = __vmalloc_node((number % 10 + 1) * PAGE_SIZE, align, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE, None)
        if addr is None or addr % align:
            return False
        vfree(addr)
    return True


def align_shift_alloc_test() -> bool:
    """A page with every alignment that a word can hold: the larger ones cannot be had."""
    for shift in range(current_kernel().bits_per_long):
        addr = __vmalloc_node(PAGE_SIZE, 1 << shift, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE, None)
        if addr is None:
            return False
        vfree(addr)
    return True


CASES: tuple[tuple[Callable[[], bool], bool], ...] = (
    (fix_size_alloc_test, True),
    (full_fit_alloc_test, True),
    (long_busy_list_alloc_test, True),
    (random_size_alloc_test, True),
    (fix_align_alloc_test, True),
    (random_size_align_alloc_test, True),
    (align_shift_alloc_test, False),
)


@pytest.fixture(params=["x86_64", "i386"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    # i386 has some 120 MiB for vmalloc; vmalloc= makes room for the cases that fill it, as it would on a real one.
    cmdline = "vmalloc=512M" if request.param == "i386" else ""
    with Machine.boot(request.param, ram="1G", cmdline=cmdline, reports="log") as m:
        yield m


@pytest.mark.parametrize(("case", "passes"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_a_case_of_the_kernels(machine: Machine, case: Callable[[], bool], passes: bool) -> None:
    before = machine.kernel.vmalloc.nr_vmalloc_pages
    assert case() == passes
    machine.vm_unmap_aliases()
    machine.kernel.vmalloc.validate()
    assert machine.kernel.vmalloc.nr_vmalloc_pages == before
    assert not machine.kernel.vmalloc.vm_areas()
