# SPDX-License-Identifier: GPL-2.0-only
"""The page allocator on machines small enough to draw.

Maps: one column for each block, frame numbers below; ``.`` free, ``#`` in
use, letters name what the text speaks of.
"""

from __future__ import annotations

import pytest

from kmem.errors import StateError
from kmem.mm.debug_vm import validate_pages
from kmem.mm.hooks import CompactResult, Hooks, Request
from kmem.mm.page_alloc import PageAllocator
from tests.mm.machines import (
    GFP_ATOMIC,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOWAIT,
    GFP_RECLAIMABLE,
    HIGHATOMIC,
    MOVABLE,
    UNMOVABLE,
    normal_lists,
    one_zone,
)

GFP_NOFAIL, GFP_COMP, GFP_MEMALLOC = 0x8000, 0x40000, 0x20000


def zone(allocator: PageAllocator):
    return allocator.memmap.zones_array[allocator.memmap.zone_id("Normal")]


def test_split_hands_out_the_lower_half() -> None:
    """A movable request splits the first block of order 10 down to order 4.

    before   |............... 0 ...............|
    after    |A . .. .... ........ (512)       |
              0 16 32 64   128   256   512
    """
    allocator = one_zone(1024)
    assert allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 4) == 0
    assert normal_lists(allocator) == {(order, MOVABLE): [1 << order] for order in range(4, 10)}
    validate_pages(allocator)


def test_free_merges_back() -> None:
    """
    before   |A . .. .... ........ |
    after    |.....................|
    """
    allocator = one_zone(1024)
    before = normal_lists(allocator)
    pfn = allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 4)
    allocator.free_pages(pfn, 4)
    assert normal_lists(allocator) == before
    validate_pages(allocator)


def test_free_goes_to_the_tail_if_the_pair_above_is_free() -> None:
    """Blocks of order 4; freeing A while C (order 5) is free puts A to the tail.

             |A   B   | C C     |     |D   E   |F   G   |
              0   16    32             64  80    96  112
    A's buddy B is in use, but C, the buddy of A+B, is free: A may merge soon.
    D's buddy E is in use and so is half of F+G: D goes to the head.
    """
    allocator = one_zone(1024)
    taken = [allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 4) for _ in range(8)]
    assert taken == [0, 16, 32, 48, 64, 80, 96, 112]
    for pfn in (32, 48):
        allocator.free_pages(pfn, 4)
    assert normal_lists(allocator)[5, MOVABLE] == [32]
    allocator.free_pages(64, 4)
    allocator.free_pages(0, 4)
    assert normal_lists(allocator)[4, MOVABLE] == [64, 0]
    validate_pages(allocator)


def test_pcp_refill_and_order() -> None:
    """A request for one page moves a batch of four to the CPU's list, in frame order.

    before   |.......... |       CPU: -
    after    |A 1 2 3 ...|       CPU: 1 2 3
    """
    allocator = one_zone(1024, pcp=(8, 4))
    normal = allocator.memmap.zone_id("Normal")
    assert allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 0) == 0
    assert allocator.memmap.pcp_list(normal, 0, MOVABLE) == [1, 2, 3]
    allocator.free_pages(0, 0)
    assert allocator.memmap.pcp_list(normal, 0, MOVABLE) == [0, 1, 2, 3]
    validate_pages(allocator)


def test_pcp_bulk_free_takes_the_tail_and_doubles() -> None:
    """The fifth free reaches high: `batch` pages go back, and twice as many next time."""
    allocator = one_zone(1024, pcp=(5, 1))
    taken = [allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 0) for _ in range(12)]
    normal = allocator.memmap.zone_id("Normal")
    for pfn in taken[:5]:
        allocator.free_pages(pfn, 0)
    assert allocator.memmap.pcp_list(normal, 0, MOVABLE) == [4, 3, 2, 1]
    pageset = allocator.memmap.pagesets_array[normal]
    assert pageset["free_factor"] == 1
    allocator.free_pages(taken[5], 0)
    assert allocator.memmap.pcp_list(normal, 0, MOVABLE) == [5, 4, 3]
    assert pageset["free_factor"] == 2
    allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 0)
    assert pageset["free_factor"] == 1
    validate_pages(allocator)


def test_unmovable_request_claims_a_movable_block() -> None:
    """An unmovable page steals the largest movable block, and the page block with it.

    before   |M M M M M M M M|M M M M M M M M|   two page blocks, all movable
    after    |M M M M M M M M|U . . . . . . .|   or the first: the head of the list
    """
    allocator = one_zone(1024, pageblock_order=9)
    pfn = allocator.alloc_pages(GFP_KERNEL, 0)
    assert pfn == 0
    assert allocator.memmap.pageblocks_array[:2].tolist() == [UNMOVABLE, UNMOVABLE]
    assert allocator.nr_extfrag == 1
    validate_pages(allocator)


def test_boost_after_a_fallback_within_a_page_block() -> None:
    """Breaking up less than a page block boosts the watermark by a page block.

    before   |M M M . . . . .| block 0 half used by movable pages
    after    |M M M U . . . .|
    """
    allocator = one_zone(8192, free=[(512, 8)], marks=(40, 50, 1000, 1200))
    zone(allocator)["managed"] += 4096
    zone(allocator)["foreign"] += 4096
    zone(allocator)["watermark"] = (4, 5, 1000, 1200)
    assert allocator.alloc_pages(GFP_KERNEL, 0) == 512
    assert zone(allocator)["watermark_boost"] == 512
    validate_pages(allocator)


@pytest.mark.parametrize(
    ("gfp", "left"),
    [
        (GFP_KERNEL & ~0x400, 100),  # no reclaim, no reserve
        (GFP_NOWAIT, 100),
        (GFP_ATOMIC, 100 // 2 - 100 // 8),  # half, and a quarter of what is left
        (0x820, 50),  # __GFP_HIGH without __GFP_ATOMIC, not blocking: the same rule
        (GFP_KERNEL | GFP_MEMALLOC, 0),
    ],
)
def test_how_deep_a_request_may_dip(gfp: int, left: int) -> None:
    """Pages left when the zone refuses, with a min watermark of 100."""
    allocator = one_zone(1024, marks=(100, 125, 150, 175), pcp=(0, 1))
    while allocator.alloc_pages(gfp, 0) >= 0:
        pass
    expected = {50: 50 - 50 // 4}.get(left, left)
    assert zone(allocator)["free_pages"] == expected
    validate_pages(allocator)


def test_highatomic_reserve_and_unreserve() -> None:
    """A high-order atomic request reserves its page block; a failing one frees it again.

    before   |M M M M|M M M M|
    after    |H H H H|M M M M|   H: only for high-order atomic requests
    """
    allocator = one_zone(4096, marks=(64, 80, 96, 112), pcp=(0, 1))
    low = zone(allocator)
    while low["free_pages"] > 70:
        allocator.alloc_pages(GFP_NOWAIT, 0)
    pfn = allocator.alloc_pages(GFP_ATOMIC, 1)
    assert pfn >= 0
    assert low["nr_reserved_highatomic"] == 512
    assert allocator.memmap.pageblocks_array[pfn >> 9] == HIGHATOMIC
    validate_pages(allocator)
    # plain requests do not count the reserve as free; the last resort gives it back
    assert allocator.alloc_pages(GFP_KERNEL, 0) >= 0
    assert low["nr_reserved_highatomic"] == 0
    validate_pages(allocator)


def test_compound_and_exact() -> None:
    """alloc_pages_exact(5) keeps five single pages of a block of eight.

    before   |. . . . . . . .|
    after    |A A A A A . . .|
    """
    allocator = one_zone(1024)
    pfn = allocator.alloc_pages_exact(5, GFP_HIGHUSER_MOVABLE)
    assert normal_lists(allocator)[0, MOVABLE] == [pfn + 5]
    assert normal_lists(allocator)[1, MOVABLE] == [pfn + 6]
    validate_pages(allocator)
    for i in range(5):
        allocator.free_pages(pfn + i, 0)
    compound = allocator.alloc_pages(GFP_KERNEL | GFP_COMP, 3)
    with pytest.raises(ValueError, match="compound"):
        allocator.split_page(compound, 3)
    allocator.free_pages(compound, 3)
    validate_pages(allocator)


def test_bulk_stops_at_the_low_watermark() -> None:
    """Bulk allocation takes a batch while the zone stays above low + n, else one page."""
    allocator = one_zone(1024, marks=(10, 500, 600, 700), pcp=(64, 16))
    assert len(allocator.alloc_pages_bulk(GFP_KERNEL, 100)) == 100
    validate_pages(allocator)
    assert len(allocator.alloc_pages_bulk(GFP_KERNEL, 600)) == 1
    assert allocator.alloc_pages_bulk(GFP_KERNEL, 0) == []
    validate_pages(allocator)


def test_free_factor_of_high_orders_drains_everything() -> None:
    """Freeing an order-1 block while free_factor is set empties all lists."""
    allocator = one_zone(1024, pcp=(8, 2))
    normal = allocator.memmap.zone_id("Normal")
    pageset = allocator.memmap.pagesets_array[normal]
    pfn = allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 1)
    pageset["free_factor"] = 1
    allocator.free_pages(pfn, 1)
    assert pageset["count"] == 0
    validate_pages(allocator)


class Reclaimer(Hooks):
    """Frees one page it was given each time it is asked."""

    def __init__(self, allocator: PageAllocator, frames: list[int]) -> None:
        self.allocator, self.frames = allocator, frames
        self.calls: list[str] = []

    def wakeup_kswapd(self, zone: int, gfp: int, order: int, highest_zoneidx: int) -> None:
        self.calls.append("kswapd")

    def direct_reclaim(self, request: Request) -> int:
        self.calls.append("reclaim")
        if not self.frames:
            return 0
        self.allocator.free_pages(self.frames.pop(), 0)
        return 1

    def direct_compact(self, request: Request, priority: int) -> CompactResult:
        self.calls.append("compact")
        return CompactResult.SKIPPED

    def out_of_memory(self, request: Request) -> bool:
        self.calls.append("oom")
        return False

    def warn_alloc(self, request: Request) -> None:
        self.calls.append("warn")


def test_hooks_reclaim_then_oom() -> None:
    allocator = one_zone(1024, marks=(20, 25, 30, 35))
    taken = []
    while (pfn := allocator.alloc_pages(GFP_NOWAIT, 0)) >= 0:
        taken.append(pfn)
    allocator.hooks = hooks = Reclaimer(allocator, taken[:1])
    assert allocator.alloc_pages(GFP_KERNEL, 0) >= 0
    assert hooks.calls[:2] == ["kswapd", "kswapd"] and "reclaim" in hooks.calls and "oom" not in hooks.calls
    hooks.calls.clear()
    assert allocator.alloc_pages(GFP_KERNEL, 0) == -1
    assert hooks.calls[-2:] == ["oom", "warn"]
    with pytest.raises(RuntimeError, match="NOFAIL"):
        while allocator.alloc_pages(GFP_KERNEL | GFP_NOFAIL, 0) >= 0:
            pass
    validate_pages(allocator)


def test_trace_events() -> None:
    allocator = one_zone(1024)
    allocator.trace.enable("mm_page_alloc", "mm_page_free", "mm_page_alloc_extfrag")
    pfn = allocator.alloc_pages(GFP_RECLAIMABLE, 2)
    allocator.free_pages(pfn, 2)
    records = allocator.trace.drain()
    assert records["event"].tolist() == [8, 4, 5]
    assert records["order"].tolist() == [2, 2, 2]
    assert records["bytes_req"][0] == 10 and records["bytes_alloc"][0] == MOVABLE
    assert len(allocator.trace.drain()) == 0
    with pytest.raises(ValueError, match="no event"):
        allocator.trace.enable("mm_page_fault")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: a.free_pages(7, 0), "freed twice, or never allocated"),
        (lambda a: a.free_pages(-1, 0), "no block"),
        (lambda a: a.free_pages(1 << 31, 0), "no block"),
        (lambda a: a.free_pages(a.alloc_pages(GFP_KERNEL, 1), 0), "allocated with order 1, not 0"),
        (lambda a: a.alloc_pages(-1, 0), "32-bit"),
        (lambda a: a.alloc_pages(1 << 40, 0), "32-bit"),
        (lambda a: a.alloc_pages(0x18, 0), "contradict"),
        (lambda a: a.alloc_pages(GFP_KERNEL, -1), "order"),
        (lambda a: a.alloc_pages(GFP_KERNEL, 0, 3), "no node 3"),
        (lambda a: a.alloc_pages_exact(0, GFP_KERNEL), "0 pages"),
        (lambda a: a.drain_pages(5), "no CPU 5"),
    ],
)
def test_misuse_is_refused_and_leaves_the_state_valid(call, message: str) -> None:
    allocator = one_zone(1024)
    with pytest.raises(ValueError, match=message):
        call(allocator)
    validate_pages(allocator)


def test_orders_beyond_the_highest_fail() -> None:
    allocator = one_zone(1024)
    assert allocator.alloc_pages(GFP_KERNEL, 11) == -1
    assert allocator.alloc_pages(GFP_KERNEL, 99) == -1
    assert allocator.nr_failed == 2


@pytest.mark.parametrize(
    ("damage", "report"),
    [
        (lambda m, z: m.pages_array["order"].__setitem__(512, 8), "is on a list for kind 1, order 9"),
        (lambda m, z: m.pages_array["prev"].__setitem__(512, 3), "links back to 3"),
        (lambda m, z: z["nr_free"].__setitem__(9, 7), "nr_free of order 9 is 7, but 1 blocks"),
        (lambda m, z: z.__setitem__("free_pages", 1), "NR_FREE_PAGES is 1"),
        (lambda m, z: z.__setitem__("managed", 1025), "is not managed 1025"),
        (lambda m, z: m.pages_array["kind"].__setitem__(600, 3), "frame 600 heads a block inside another block"),
        (lambda m, z: m.pages_array["kind"].__setitem__(0, 0), "is not managed 1024"),
    ],
)
def test_validate_reports_damage(damage, report: str) -> None:
    """Corrupted on purpose: the first check that sees it says what and where."""
    allocator = one_zone(1024)
    allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 4)
    validate_pages(allocator)
    damage(allocator.memmap, zone(allocator))
    with pytest.raises(StateError, match=report):
        validate_pages(allocator)
