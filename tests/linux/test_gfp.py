# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/gfp.h>`` as kernel code uses it: pages, addresses, bulk and exact requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kmem.linux.gfp
from kmem import Machine
from kmem.linux.gfp import *


@pytest.fixture(params=["x86_64", "i386"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="2G", seed=1) as machine:
        yield machine
        machine.validate()


def free_pages_of(m: Machine) -> int:
    """Free pages, once those on per-CPU lists have gone back and all CPUs' counts are in."""
    m.page_alloc.drain_all_pages()
    return sum(m.page_alloc.zone_page_state_snapshot(zone) for zone in range(m.memmap.nr_zones))


def test_a_star_import_brings_the_names_with_underscores() -> None:
    assert __GFP_ZERO == 0x100
    assert {"__get_free_pages", "__free_pages", "__get_dma_pages", "GFP_KERNEL"} <= set(kmem.linux.gfp.__all__)
    assert all(hasattr(kmem.linux.gfp, name) for name in kmem.linux.gfp.__all__)


def test_pages_and_their_addresses(m: Machine) -> None:
    free = free_pages_of(m)
    for order in range(11):
        page = alloc_pages(GFP_KERNEL, order)
        assert page is not None and page.pfn % (1 << order) == 0
        addr = page_address(page)
        assert addr == m.page_offset + (page.pfn << 12)
        assert virt_to_page(addr + (1 << order + 12) - 1) == page + (1 << order) - 1
        assert page_to_pfn(pfn_to_page(page.pfn)) == page
        __free_pages(page, order)
    same = __get_free_pages(GFP_KERNEL, 3)
    assert same is not None and same % (8 << 12) == 0
    free_pages(same, 3)
    free_pages(None, 3)
    free_page(0)
    assert free_pages_of(m) == free


def test_frame_0_is_a_page() -> None:
    assert Page(0) and Page(0) == 0 and repr(Page(18)) == "Page(0x12)"


def test_high_memory_has_no_address() -> None:
    with Machine.boot("i386", ram="2G"):
        page = alloc_page(GFP_HIGHUSER)
        assert page is not None and page_address(page) is None
        __free_page(page)
        addr = __get_free_page(GFP_HIGHUSER)  # __GFP_HIGHMEM is left out
        assert addr is not None and 0xC0000000 <= addr < 0xF7000000
        free_page(addr)


def test_zeroed_and_dma_pages(m: Machine) -> None:
    addr = get_zeroed_page(GFP_KERNEL)
    assert addr is not None and m.read(addr, 4096) == bytes(4096)
    m.write(addr, b"x" * 4096)
    free_page(addr)
    assert get_zeroed_page(GFP_KERNEL) == addr
    assert m.read(addr, 4096) == bytes(4096)
    dma = __get_dma_pages(GFP_KERNEL, 2)
    assert dma is not None and m.virt_to_phys(dma) < 16 << 20


def test_orders_that_no_block_has(m: Machine) -> None:
    assert alloc_pages(GFP_KERNEL | __GFP_NOWARN, 11) is None
    assert m.dmesg() == ""
    assert alloc_pages(GFP_KERNEL, 11) is None
    assert "WARNING: CPU: 0 PID: 1 at mm/page_alloc.c:5634 __alloc_pages" in m.log.text()
    lines = len(m.log.lines)
    assert alloc_pages(GFP_KERNEL, 40) is None
    assert len(m.log.lines) == lines  # it warns once


def test_get_order(m: Machine) -> None:
    assert [get_order(size) for size in (1, 4096, 4097, 8192, 8193, 4 << 20)] == [0, 0, 1, 1, 2, 10]
    assert get_order(0) == m.kernel.bits_per_long - 12


def test_exact_requests_give_the_rest_back(m: Machine) -> None:
    free = free_pages_of(m)
    addr = alloc_pages_exact(5 * 4096 + 1, GFP_KERNEL)
    assert addr is not None
    assert free - free_pages_of(m) == 6
    m.write(addr, b"y" * (6 * 4096))
    free_pages_exact(addr, 5 * 4096 + 1)
    assert free_pages_of(m) == free
    assert alloc_pages_exact(8 << 20, GFP_KERNEL | __GFP_NOWARN) is None
    assert alloc_pages_exact(0, GFP_KERNEL | __GFP_NOWARN) is None


def test_splitting_a_block(m: Machine) -> None:
    page = alloc_pages(GFP_KERNEL, 2)
    assert page is not None
    split_page(page, 2)
    for each in range(4):
        __free_page(page + each)


def test_bulk_requests_fill_what_is_empty(m: Machine) -> None:
    pages: list[Page | None] = [None] * 8
    assert alloc_pages_bulk_array(GFP_KERNEL, 8, pages) == 8
    kept = list(pages)
    for place in (2, 5):
        __free_page(pages[place])
        pages[place] = None
    assert alloc_pages_bulk_array(GFP_KERNEL, 8, pages) == 8
    assert [new for place, new in enumerate(pages) if place not in (2, 5)] == [
        old for place, old in enumerate(kept) if place not in (2, 5)
    ]
    assert alloc_pages_bulk_array(GFP_KERNEL, 8, pages) == 8  # nothing to do
    grown: list[Page] = []
    assert alloc_pages_bulk_array(GFP_KERNEL, 3, grown) == 3 == len(set(grown))
    listed: list[Page] = []
    assert alloc_pages_bulk_list(GFP_KERNEL, 4, listed) == 4 == len(listed)
    for page in (*pages, *grown, *listed):
        __free_page(page)


def test_nodes() -> None:
    with Machine.boot("x86_64", ram="1G", cpus=2, nodes=2) as m:
        for node in (0, 1):
            page = alloc_pages_node(node, GFP_KERNEL, 1)
            assert page is not None
            zone = m.zones.zone_of_pfn(page)
            assert zone is not None and zone.node == node
            __free_pages(page, 1)
        assert alloc_pages_node(-1, GFP_KERNEL, 0) is not None


def test_flags() -> None:
    assert gfpflags_allow_blocking(GFP_KERNEL) and not gfpflags_allow_blocking(GFP_ATOMIC)
    assert gfp_has_io_fs(GFP_KERNEL) and not gfp_has_io_fs(GFP_NOFS)
    assert [gfp_migratetype(gfp) for gfp in (GFP_KERNEL, GFP_HIGHUSER_MOVABLE, __GFP_RECLAIMABLE)] == [0, 1, 2]
