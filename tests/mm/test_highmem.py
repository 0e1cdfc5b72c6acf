# SPDX-License-Identifier: GPL-2.0-only
"""kmap() and kmap_local_page(): addresses for pages that have none.

The maps show the count of the first places of the kmap window: 0 empty, 1 idle but still mapped, more: users + 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import DeadlockError, KernelBug, KernelOops
from kmem.linux.gfp import GFP_HIGHUSER, GFP_KERNEL
from kmem.linux.highmem import (
    PageHighMem,
    clear_highpage,
    copy_highpage,
    kmap,
    kmap_atomic,
    kmap_flush_unused,
    kmap_local_page,
    kmap_to_page,
    kunmap,
    kunmap_atomic,
    kunmap_local,
    memcpy_from_page,
    memcpy_to_page,
    nr_free_highpages,
    totalhigh_pages,
    zero_user,
)
from kmem.mm.struct_page import Page, page_address

PAGE = 4096


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine.boot("i386", ram="2G", cpus=2) as machine:
        yield machine
        if not machine.kernel.closed:
            machine.kernel.highmem.validate()


def pages(m: Machine, count: int) -> list[Page]:
    return [m.pfn_to_page(m.page_alloc.alloc_pages(GFP_HIGHUSER, 0)) for _ in range(count)]


def drawn(m: Machine, places: int = 8) -> str:
    return "".join(str(count) for count in m.kernel.highmem.pkmap_count[:places])


def test_places_are_handed_out_upwards_and_stay_mapped_until_the_window_was_gone_through(m: Machine) -> None:
    base = m.kernel.layout.pkmap_base
    assert base == 0xFEC00000
    a, b = pages(m, 2)
    assert PageHighMem(a)
    assert page_address(a) is None
    first = kmap(a)
    assert (first, drawn(m)) == (base + PAGE, "02000000")  # place 0 is used after the first flush
    assert kmap(a) == first
    assert drawn(m) == "03000000"
    kmap(b)
    assert drawn(m) == "03200000"
    kunmap(a)
    kunmap(a)
    assert drawn(m) == "01200000"
    assert page_address(a) == first  # still mapped
    m.write(first, b"kept")
    kmap_flush_unused()
    assert drawn(m) == "00200000"
    assert page_address(a) is None
    with pytest.raises(KernelOops):
        m.read(first, 1)
    assert m.read(kmap(a), 4) == b"kept"
    assert drawn(m) == "00220000"


def test_the_window_is_swept_when_it_was_gone_through(m: Machine) -> None:
    many = pages(m, 1100)
    for page in many:
        kmap(page)
        kunmap(page)
    assert drawn(m).startswith("1111")
    assert sum(count == 1 for count in m.kernel.highmem.pkmap_count) == 1100 - 1023


def test_a_full_window_makes_kmap_wait(m: Machine) -> None:
    many = pages(m, 1025)
    for page in many[:1024]:
        kmap(page)
    with pytest.raises(DeadlockError, match=r"waits for a free place of kmap\(\)"):
        kmap(many[1024])
    waiting = m.spawn(lambda: kmap(many[1024]), name="waiting")
    m.spawn(lambda: kunmap(many[7]), name="giving")
    assert m.join(waiting) == m.kernel.layout.pkmap_base + 8 * PAGE  # type: ignore[operator]


def test_giving_up_what_was_not_mapped_is_a_bug(m: Machine) -> None:
    (page,) = pages(m, 1)
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/highmem.c:358!"):
        kunmap(page)
    kmap(page)
    kunmap(page)
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/highmem.c:368!"):
        kunmap(page)


def test_local_mappings_are_a_stack_of_each_cpu(m: Machine) -> None:
    a, b = pages(m, 2)
    first, second = kmap_local_page(a), kmap_local_page(b)
    assert (first, second) == (0xFFFFF000 - 68 * PAGE, 0xFFFFF000 - 69 * PAGE)
    m.write(second + 4, b"local")
    assert memcpy_from_page(b, 4, 5) == b"local"
    assert kmap_to_page(second) == b
    kunmap_local(second + 123)
    kunmap_local(first)
    with pytest.raises(KernelOops):
        m.read(first, 1)
    m.cpu = 1
    assert kmap_local_page(a) == first - 16 * PAGE
    kunmap_local(first - 16 * PAGE)


def test_too_many_local_mappings_are_a_bug(m: Machine) -> None:
    (page,) = pages(m, 1)
    taken = [kmap_local_page(page) for _ in range(15)]
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/highmem.c:467!"):
        kmap_local_page(page)
    for addr in reversed(taken):
        kunmap_local(addr)


def test_kmap_atomic_forbids_sleeping(m: Machine) -> None:
    (page,) = pages(m, 1)
    addr = kmap_atomic(page)
    assert m.kernel.preempt_count == 1
    kunmap_atomic(addr)
    assert m.kernel.preempt_count == 0


def test_a_task_gets_its_local_mappings_back(m: Machine) -> None:
    seen = []

    def user(page: Page) -> None:
        addr = kmap_local_page(page)
        m.schedule_timeout(1)  # others run meanwhile, and use the same place
        seen.append((addr, kmap_to_page(addr) == page))
        kunmap_local(addr)

    for page in pages(m, 3):
        m.spawn(lambda page=page: user(page), name="user")
    m.run()
    assert seen == [(0xFFFFF000 - 68 * PAGE, True)] * 3


def test_pages_are_cleared_and_copied_wherever_they_lie(m: Machine) -> None:
    a, b = pages(m, 2)
    low = m.virt_to_page(m.phys_to_virt(0x3000000))
    memcpy_to_page(a, 100, b"content")
    copy_highpage(b, a)
    copy_highpage(low, b)
    assert m.read(m.phys_to_virt(0x3000000) + 100, 7) == b"content"
    zero_user(b, 102, 3)
    assert memcpy_from_page(b, 100, 7) == b"co\0\0\0nt"
    clear_highpage(a)
    assert not any(memcpy_from_page(a, 0, PAGE))


def test_low_memory_and_x86_64_need_no_places() -> None:
    with Machine.boot("x86_64", ram="512M") as m:
        page = m.pfn_to_page(m.page_alloc.alloc_pages(GFP_HIGHUSER, 0))
        linear = page_address(page)
        assert kmap(page) == kmap_local_page(page) == kmap_atomic(page) == linear
        kunmap_atomic(linear)  # type: ignore[arg-type]
        kunmap_local(linear)  # type: ignore[arg-type]
        kunmap(page)
        assert totalhigh_pages() == nr_free_highpages() == 0


def test_high_pages_are_counted(m: Machine) -> None:
    assert totalhigh_pages() == m.kernel.layout.max_pfn - m.kernel.max_low_pfn
    free = nr_free_highpages()
    assert 0 < free <= totalhigh_pages()


@pytest.mark.parametrize(("arch", "lines"), [("x86_64", (166, None)), ("i386", (44, 55))])
def test_where_kmap_and_kunmap_say_that_they_sleep(arch: str, lines: tuple[int, int | None]) -> None:
    """Without high memory unmapping is nothing, and checks nothing."""
    with Machine.boot(arch, ram="256M", reports="log") as m:
        page = m.alloc_pages(GFP_KERNEL, 0)
        for call, line in zip((kmap, kunmap), lines, strict=True):
            first = len(m.log.lines)
            with m.preempt_disabled():
                call(page)
            places = [entry.text for entry in m.log.lines[first:] if "invalid context" in entry.text]
            assert len(places) == (line is not None)
            assert all(place.endswith(f"include/linux/highmem-internal.h:{line}") for place in places)
