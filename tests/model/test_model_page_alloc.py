# SPDX-License-Identifier: GPL-2.0-only
"""The compiled page allocator against the naive one: at random, in chosen situations, and that a difference is found.

In the maps a letter is a frame: the page block's type in the upper row (U unmovable, M movable, R reclaimable, H
high-atomic, I isolated, C CMA), the frame's use in the lower (digit: in a free block of that order, x: in use,
l: in use and could be migrated).
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from kmem.verify.pages import verify_pages

from .driver import MASKS, Difference, Failure, Pair, replay, run_seed
from .naive_page_alloc import AllocContext, NaivePageAllocator
from .naive_zone import (
    ALLOC_NON_BLOCK,
    CMA,
    GFP_KSWAPD_RECLAIM,
    HIGHATOMIC,
    ISOLATE,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    PcpSet,
    Zone,
)
from .run_recording import Runner, run
from .shapes import NAMES_32, NAMES_64, SHAPES, Shape, situation

FIRST_SEED = int(os.environ.get("KMEM_MODEL_SEED", "0"))
OPS_PER_SEED = 25_000
SEEDS = {"tiny": 14, "tiny2": 12, "block9": 10, "i386": 10, "i386-10": 6, "numa": 10, "numa-dma32": 8, "cma": 10}
SEEDS_LARGE = {"large": 2, "large-i386": 2}
DATA = Path(__file__).parent.parent / "data"

GFP_KERNEL_NOSLEEP = 0x8C0
GFP_MOVABLE_NOSLEEP = 0x1008CA
GFP_ATOMIC = 0xA20


def test_two_million_operations_are_run() -> None:
    """What the random tests below add up to."""
    assert OPS_PER_SEED * sum((SEEDS | SEEDS_LARGE).values()) >= 2_000_000


@pytest.mark.parametrize(
    ("shape", "seed"), [(name, seed) for name, count in (SEEDS | SEEDS_LARGE).items() for seed in range(count)]
)
def test_random_operations(shape: str, seed: int) -> None:
    failure = run_seed(SHAPES[shape], FIRST_SEED + seed, OPS_PER_SEED)
    assert failure is None, str(failure)


# ---- that a difference would be found


class AlwaysHead(NaivePageAllocator):
    def buddy_merge_likely(self, zone: Zone, pfn: int, buddy_pfn: int, order: int) -> bool:
        return False


class NeverDoubles(NaivePageAllocator):
    def nr_pcp_free(self, pcp: PcpSet, high: int, free_high: bool) -> int:
        count = super().nr_pcp_free(pcp, high, free_high)
        pcp.free_factor = 0
        return count


class NoNofragment(NaivePageAllocator):
    def flags_nofragment(self, preferred: Zone | None, gfp: int) -> int:
        return gfp & GFP_KSWAPD_RECLAIM


class MovableUncounted(NaivePageAllocator):
    def move_freepages_block(self, zone: Zone, pfn: int, mt: int) -> tuple[int, int]:
        return super().move_freepages_block(zone, pfn, mt)[0], 0


class NoExtraForNonBlocking(NaivePageAllocator):
    def gfp_to_alloc_flags(self, gfp: int, order: int) -> int:
        return super().gfp_to_alloc_flags(gfp, order) & ~ALLOC_NON_BLOCK


class CountsAtOnce(NaivePageAllocator):
    def mod_free_pages(self, zone: Zone, delta: int, cpu: int) -> None:
        zone.free_pages += delta


class NoHighatomic(NaivePageAllocator):
    def reserve_highatomic_pageblock(self, zone: Zone, pfn: int) -> None:
        pass


class BoostForgotten(NaivePageAllocator):
    def boost_watermark(self, zone: Zone) -> bool:
        return False


MUTANTS = {
    AlwaysHead: "tiny2",
    NeverDoubles: "tiny2",
    NoNofragment: "tiny",
    MovableUncounted: "block9",
    NoExtraForNonBlocking: "tiny",
    CountsAtOnce: "numa",
    NoHighatomic: "i386",
    BoostForgotten: "tiny2",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_rule_is_found(mutant: type[NaivePageAllocator]) -> None:
    """One rule of the naive model broken: some seed shows it, in operations few enough to read."""
    shape = SHAPES[MUTANTS[mutant]]
    make = partial(Pair, model=mutant)
    failures = (run_seed(shape, seed, 6000, make) for seed in range(1, 9))
    failure = next((found for found in failures if found is not None), None)
    assert failure is not None, "no seed shows the broken rule"
    assert replay(shape, failure.seed, failure.ops, make) is not None, "the shrunk list shows it too"
    assert replay(shape, failure.seed, failure.ops) is None, "the right rule has no difference"
    assert f"--seed {failure.seed}" in str(failure)


def test_shrinking_leaves_only_what_matters() -> None:
    """No operation of the shrunk list can be left out."""
    shape = SHAPES["numa"]
    make = partial(Pair, model=CountsAtOnce)
    found = run_seed(shape, 1, 3000, make)
    assert isinstance(found, Failure)
    for left_out in range(len(found.ops)):
        rest = found.ops[:left_out] + found.ops[left_out + 1 :]
        assert replay(shape, 1, rest, make) is None, f"{found.ops[left_out]} is not needed"


def test_random_operations_reach_the_rare_paths() -> None:
    """Stealing, reserving, boosting, giving up and the rest do happen in what the generator makes."""
    seen: set[str] = set()

    class Watched(NaivePageAllocator):
        def steal_suitable_fallback(
            self, zone: Zone, pfn: int, alloc_flags: int, start_mt: int, whole_block: bool
        ) -> None:
            before = self.get_pageblock_migratetype(zone, pfn)
            super().steal_suitable_fallback(zone, pfn, alloc_flags, start_mt, whole_block)
            claimed = before != start_mt and self.get_pageblock_migratetype(zone, pfn) == start_mt
            seen.add("block claimed" if claimed else "block not claimed")
            if zone.boost:
                seen.add("watermark boosted")

        def reserve_highatomic_pageblock(self, zone: Zone, pfn: int) -> None:
            super().reserve_highatomic_pageblock(zone, pfn)
            seen.add("reserve asked")

        def unreserve_highatomic_pageblock(self, ac: AllocContext, *, force: bool) -> bool:
            found = super().unreserve_highatomic_pageblock(ac, force=force)
            if found:
                seen.add("reserve given back")
            return found

        def nr_pcp_free(self, pcp: PcpSet, high: int, free_high: bool) -> int:
            if free_high:
                seen.add("whole per-CPU set freed")
            count = super().nr_pcp_free(pcp, high, free_high)
            if pcp.free_factor == 5:
                seen.add("free_factor at its limit")
            return count

        def alloc_pages(self, gfp: int, order: int, cpu: int = 0, node: int | None = None) -> int | None:
            pfn = super().alloc_pages(gfp, order, cpu, node)
            if pfn is None:
                seen.add("failed")
            elif pfn in self.pfmemalloc:
                seen.add("from the reserves")
            return pfn

    for name, seed in (("tiny2", 0), ("tiny2", 1), ("tiny2", 2), ("tiny2", 3), ("i386-10", 0)):
        assert run_seed(SHAPES[name], seed, 10_000, partial(Pair, model=Watched, validate=False)) is None
    assert seen == {
        "block claimed",
        "block not claimed",
        "watermark boosted",
        "reserve asked",
        "reserve given back",
        "whole per-CPU set freed",
        "free_factor at its limit",
        "failed",
        "from the reserves",
    }


# ---- chosen situations

ONE = Shape("one", ((0, "DMA32", 64, 128),), NAMES_64, 4)
ONE_CMA = Shape("one-cma", ((0, "DMA32", 64, 128),), NAMES_64, 4, cma=True)
TWO_CPUS = Shape("two-cpus", ((0, "DMA32", 64, 128),), NAMES_64, 4, nr_cpus=2)
BOUNDARY = Shape("boundary", ((0, "Normal", 64, 82), (0, "HighMem", 82, 128)), NAMES_32, 4)


def free_lists(pair: Pair) -> dict[tuple[str, int, int], list[int]]:
    """The compiled allocator's free lists that are not empty."""
    found = {}
    for zone in pair.naive.zones:
        for order in range(11):
            for mt in range(6):
                pfns = list(pair.memmap.free_list(pair.zone_ids[id(zone)], order, mt))
                if pfns:
                    found[zone.name, order, mt] = pfns
    return found


def types(pair: Pair, zone: str) -> str:
    """The compiled allocator's page block types."""
    naive = next(z for z in pair.naive.zones if z.name == zone)
    blocks = pair.memmap.pageblock_slice(pair.zone_ids[id(naive)], naive.start_pfn, len(naive.block_types))
    return "".join(map(str, blocks.tolist()))


def start(shape: Shape, records: list[dict[str, object]], taken: dict[int, tuple[int, int]] | None = None) -> Pair:
    """Both models in the situation; `taken` are blocks in use that may be freed: slot -> (frame, order)."""
    pair = Pair(shape, 0, records=records, validate=False)
    pages = pair.memmap.pages_array
    for slot, (pfn, order) in (taken or {}).items():
        pages["kind"][pfn], pages["order"][pfn] = 3, order
        pair.naive.allocated[pfn] = order
        pair.slots[slot] = [(pfn, order)]
    return pair


@pytest.mark.parametrize(
    ("higher_is_free", "expected"), [(True, [72, 76, 64]), (False, [64, 72, 76])], ids=["tail", "head"]
)
def test_freed_page_goes_behind_others_if_it_may_merge_soon(higher_is_free: bool, expected: list[int]) -> None:
    """Frame 64 is freed while 65 is in use.

    ::

                64  66  68      72      76      80
                |   |   |       |       |       |
        blocks  M M M M M M M M M M M M M M M M |
        before  x x 1 1 x x x x 0 x x x 0 x x x     order 0: 72, 76
        after   0 x 1 1 x x x x 0 x x x 0 x x x     order 0: 72, 76, 64   66 is free: 64..67 may merge soon
        after   0 x x x x x x x 0 x x x 0 x x x     order 0: 64, 72, 76   66 is in use
    """
    free = {("DMA32", 0, MOVABLE): [72, 76]}
    if higher_is_free:
        free["DMA32", 1, MOVABLE] = [66]
    pair = start(ONE, situation(ONE, free, {"DMA32": "1111"}), {0: (64, 0)})
    pair.apply(("f", 0, 0))
    pair.compare_state()
    assert free_lists(pair)["DMA32", 0, MOVABLE] == expected


def test_merge_rule_looks_at_the_zone_of_the_pair() -> None:
    """HighMem begins at 82, within 80..83: the pair that 82..83 may become part of is Normal's, its buddy HighMem's.

    ::

                76      80  82  84      88      92
                |       |   |   |       |       |
        zone    Normal      |HighMem
        before  x x x x x x x x 2 2 2 2 x x x x ...   order 1: 100
        after   x x x x x x 1 1 2 2 2 2 x x x x ...   order 1: 82, 100   not behind 100, though 84 is free
    """
    free = {("HighMem", 1, MOVABLE): [100], ("HighMem", 2, MOVABLE): [84]}
    pair = start(BOUNDARY, situation(BOUNDARY, free, {"Normal": "11", "HighMem": "111"}), {0: (82, 1)})
    pair.apply(("f", 0, 0))
    pair.compare_state()
    assert free_lists(pair)["HighMem", 1, MOVABLE] == [82, 100]


def test_no_merge_with_a_highatomic_block() -> None:
    """A whole free block beside a free high-atomic one stays apart from it.

    ::

                64              80              96
                |               |               |
        blocks  H H H H H H H H M M M M M M M M |
        before  4 4 4 4 4 4 4 4 x x x x x x x x      high-atomic: 64
        after   4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4      high-atomic: 64, movable: 80
    """
    free = {("DMA32", 4, HIGHATOMIC): [64]}
    pair = start(ONE, situation(ONE, free, {"DMA32": "3111"}), {0: (80, 4)})
    pair.apply(("f", 0, 0))
    pair.compare_state()
    assert free_lists(pair) == {("DMA32", 4, HIGHATOMIC): [64], ("DMA32", 4, MOVABLE): [80]}


@pytest.mark.parametrize(("used", "claimed"), [(4, True), (12, True)], ids=["mostly free", "mostly in use"])
def test_unmovable_request_claims_a_movable_block(used: int, claimed: bool) -> None:
    """In a movable block, frames in use that cannot be migrated count as if they were unmovable's.

    ::

                64      68      72      76      80
                |       |       |       |       |
        blocks  M M M M M M M M M M M M M M M M |
        before  x x x x 2 2 2 2 3 3 3 3 3 3 3 3      movable: order 2: 68, order 3: 72
        blocks  U U U U U U U U U U U U U U U U |
        after   x x x x 2 2 2 2 x 0 1 1 2 2 2 2      unmovable: order 0: 73, order 1: 74, order 2: 76, 68
    """
    free = {("DMA32", 2, MOVABLE): [76]}
    if used == 4:
        free = {("DMA32", 2, MOVABLE): [68], ("DMA32", 3, MOVABLE): [72]}
    pair = start(ONE, situation(ONE, free, {"DMA32": "1111"}))
    pair.apply(("a", 0, GFP_KERNEL_NOSLEEP, 0, 0, None))
    pair.compare_state()
    assert types(pair, "DMA32")[0] == str(UNMOVABLE if claimed else MOVABLE)
    assert all(mt == UNMOVABLE for _, _, mt in free_lists(pair))


@pytest.mark.parametrize(("movable", "expected"), [(3, UNMOVABLE), (4, MOVABLE)])
def test_movable_request_needs_half_of_an_unmovable_block(movable: int, expected: int) -> None:
    """Free frames and frames that could be migrated must make half of the block before its type changes.

    ::

                64      68      72              80
                |       |       |               |
        blocks  U U U U U U U U U U U U U U U U |
        before  2 2 2 2 l l l x x x x x x x x x      4 free + 3 movable: under 8, the block stays unmovable
        before  2 2 2 2 l l l l x x x x x x x x      4 free + 4 movable: 8 of 16, the block becomes movable
    """
    free = {("DMA32", 2, UNMOVABLE): [64]}
    pair = start(ONE, situation(ONE, free, {"DMA32": "0000"}, lru={"DMA32": [(68, movable)]}))
    pair.apply(("a", 0, GFP_MOVABLE_NOSLEEP, 0, 0, None))
    pair.compare_state()
    assert types(pair, "DMA32")[0] == str(expected)
    assert {mt for _, _, mt in free_lists(pair)} == {MOVABLE}, "the free frames go to movable either way"


def test_small_fallback_of_a_movable_request_takes_the_smallest_block() -> None:
    """Blocks too small to be worth a page block: the smallest that will do is taken, the rest is left alone.

    ::

                64      68      72              80
                |       |       |               |
        blocks  R R R R R R R R R R R R R R R R |
        before  1 1 x x 0 x x x x x x x x x x x      reclaimable: order 0: 68, order 1: 64
        after   1 1 x x x x x x x x x x x x x x      reclaimable: order 1: 64
    """
    free = {("DMA32", 0, RECLAIMABLE): [68], ("DMA32", 1, RECLAIMABLE): [64]}
    pair = start(ONE, situation(ONE, free, {"DMA32": "2222"}))
    pair.apply(("a", 0, GFP_MOVABLE_NOSLEEP, 0, 0, None))
    pair.compare_state()
    assert pair.slots[0] == [(68, 0)]
    assert free_lists(pair) == {("DMA32", 1, RECLAIMABLE): [64]}


def test_refill_is_in_the_order_of_frames() -> None:
    """An empty per-CPU list takes a batch from the buddy lists, added at its tail.

    ::

                64              72              80
        before  4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4      order 4: 64
        after   x p p p 2 2 2 2 3 3 3 3 3 3 3 3      64 given out, per-CPU list: 65, 66, 67
    """
    records = situation(ONE, {("DMA32", 4, UNMOVABLE): [64]}, {"DMA32": "0000"}, high=40, batch=4)
    pair = start(ONE, records)
    pair.apply(("a", 0, GFP_KERNEL_NOSLEEP, 0, 0, None))
    pair.compare_state()
    zone = pair.zone_ids[id(pair.naive.zones[0])]
    assert pair.slots[0] == [(64, 0)]
    assert list(pair.memmap.pcp_list(zone, 0, 0)) == [65, 66, 67]
    assert free_lists(pair) == {("DMA32", 2, UNMOVABLE): [68], ("DMA32", 3, UNMOVABLE): [72]}


def test_counters_of_a_remote_drain_belong_to_the_cpu_that_does_it() -> None:
    """CPU 1 empties the list of CPU 0; the pages are counted in CPU 1's difference.

    ::

                64              72              80
        before  x p p p 2 2 2 2 3 3 3 3 3 3 3 3      NR_FREE_PAGES 16, differences -4 and 0
        after   x 0 1 1 2 2 2 2 3 3 3 3 3 3 3 3      NR_FREE_PAGES 16, differences -4 and +3
    """
    records = situation(TWO_CPUS, {("DMA32", 4, UNMOVABLE): [64]}, {"DMA32": "0000"}, high=40, batch=4)
    for record in records:
        if "stat_threshold" in record:
            record["stat_threshold"] = 10
    pair = start(TWO_CPUS, records)
    pair.apply(("a", 0, GFP_KERNEL_NOSLEEP, 0, 0, None))
    pair.apply(("drain_all", 1))
    pair.compare_state()
    zone = pair.zone_ids[id(pair.naive.zones[0])]
    assert [int(diff) for diff in pair.counters[0][zone * 2 : zone * 2 + 2]] == [-4, 3]


def test_page_of_an_isolated_block_skips_the_per_cpu_lists() -> None:
    """It goes to the isolated list at once and is not counted as free.

    ::

                64              80
                |               |
        blocks  I I I I I I I I I I I I I I I I |
        before  x 0 x x x x x x x x x x x x x x      isolated: order 0: 65         NR_FREE_PAGES 0
        after   1 1 x x x x x x x x x x x x x x      isolated: order 1: 64         NR_FREE_PAGES 0
    """
    records = situation(ONE, {("DMA32", 0, ISOLATE): [65]}, {"DMA32": "4111"}, high=40, batch=4)
    for record in records:
        if record["t"] == "zone" and record["spanned"]:
            record["vm_stat"][0] = 0
    pair = start(ONE, records, {0: (64, 0)})
    zone = pair.zone_ids[id(pair.naive.zones[0])]
    pair.memmap.zones_array[zone]["nr_isolate_pageblock"] = 1
    pair.apply(("f", 0, 0))
    pair.compare_state()
    assert free_lists(pair) == {("DMA32", 1, ISOLATE): [64]}
    assert pair.free_pages[zone] == 0


def test_cma_serves_movable_requests_when_it_is_more_than_half_of_what_is_free() -> None:
    """Only movable requests may have it, and they get it first while it is plentiful.

    ::

                64              80              96
                |               |               |
        blocks  C C C C C C C C M M M M M M M M |
        before  4 4 4 4 4 4 4 4 3 3 3 3 x x x x      CMA 16 of 24 free
        after   x 0 1 1 2 2 3 3 3 3 3 3 x x x x      64 to the movable request, 80 to the unmovable one
    """
    free = {("DMA32", 4, CMA): [64], ("DMA32", 3, MOVABLE): [80]}
    pair = start(ONE_CMA, situation(ONE_CMA, free, {"DMA32": "5111"}))
    pair.apply(("a", 0, GFP_MOVABLE_NOSLEEP, 0, 0, None))
    pair.apply(("a", 1, GFP_KERNEL_NOSLEEP, 0, 0, None))
    pair.compare_state()
    assert pair.slots[0][0][0] // 16 == 4, "from the CMA block"
    assert pair.slots[1][0][0] // 16 == 5, "not from the CMA block"


def test_highatomic_block_is_reserved_and_given_back_before_a_request_fails() -> None:
    """The first high-order atomic request reserves its block; one that may sleep takes the reserve apart.

    ::

                64              80
                |               |
        blocks  U U U U U U U U U U U U U U U U |
        before  4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4      low watermark above what is free: atomic goes the slow way
        blocks  H H H H H H H H H H H H H H H H |
        atomic  x x 1 1 2 2 2 2 3 3 3 3 3 3 3 3      reserved: 16 frames
        blocks  U U U U U U U U U U U U U U U U |
        sleeps  x x 1 1 2 2 2 2 x x x x x x x x      nothing else is left: given back
    """
    free = {("DMA32", 4, UNMOVABLE): [64]}
    pair = start(ONE, situation(ONE, free, {"DMA32": "0000"}, marks=(0, 40, 50)))
    pair.apply(("a", 0, GFP_ATOMIC, 1, 0, None))
    pair.compare_state()
    assert types(pair, "DMA32")[0] == str(HIGHATOMIC)
    pair.apply(("a", 1, 0xCC0, 3, 0, None))
    pair.compare_state()
    assert pair.slots[1] == [(72, 3)]
    assert types(pair, "DMA32")[0] == str(UNMOVABLE)


# ---- hypothesis


class PageAllocatorMachine(RuleBasedStateMachine):
    """Allocations, frees and drains in any order on a machine of 63 frames and two CPUs."""

    blocks: Bundle[int] = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        shape = Shape("hypothesis", ((0, "DMA", 1, 32), (0, "DMA32", 32, 64)), NAMES_64, 4, nr_cpus=2)
        self.pair = Pair(shape, 5)
        self.next_slot = 0

    @rule(
        target=blocks,
        gfp=st.sampled_from([mask for mask, _ in MASKS]),
        order=st.integers(0, 5),
        cpu=st.integers(0, 1),
    )
    def alloc(self, gfp: int, order: int, cpu: int) -> int | MultipleResults[int]:
        slot = self.next_slot
        self.next_slot += 1
        self.pair.apply(("a", slot, gfp, order, cpu, None))
        return slot if slot in self.pair.slots else multiple()

    @rule(slot=consumes(blocks), cpu=st.integers(0, 1))
    def free(self, slot: int, cpu: int) -> None:
        self.pair.apply(("f", slot, cpu))

    @rule(target=blocks, count=st.integers(1, 20), cpu=st.integers(0, 1))
    def bulk(self, count: int, cpu: int) -> int | MultipleResults[int]:
        slot = self.next_slot
        self.next_slot += 1
        self.pair.apply(("bulk", slot, GFP_KERNEL_NOSLEEP, count, cpu, None))
        return slot if slot in self.pair.slots else multiple()

    @rule(cpu=st.integers(0, 1))
    def drain(self, cpu: int) -> None:
        self.pair.apply(("drain", cpu))

    @rule(cpu=st.integers(0, 1))
    def drain_all(self, cpu: int) -> None:
        self.pair.apply(("drain_all", cpu))

    @invariant()
    def same(self) -> None:
        self.pair.compare_state()


PageAllocatorMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHypothesis = PageAllocatorMachine.TestCase


# ---- the naive model itself


RECORDINGS = sorted(path for folder in ("pages", "model") for path in (DATA / folder).glob("*/pages-*.jsonl*"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}/{path.name.split('.')[0]}")
def test_naive_model_repeats_a_recording(path: Path) -> None:
    """The yardstick is held to real kernels too."""
    *problems, summary = run(path)
    assert not problems, f"{summary}\n" + "\n".join(problems[:5])


@pytest.mark.parametrize(
    ("recording", "mutant"),
    [
        ("model/amd64-3700M/pages-00.jsonl.gz", NoNofragment),
        ("model/amd64-128M-movable/pages-03.jsonl.gz", MovableUncounted),
        ("model/amd64-128M-movable/pages-04.jsonl.gz", MovableUncounted),
        ("pages/amd64-512M-full/pages-07.jsonl.gz", AlwaysHead),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_recording_decides_a_rule(recording: str, mutant: type[NaivePageAllocator]) -> None:
    """A real kernel contradicts the broken rule.

    In amd64-3700M, Normal has free blocks of half a page block only: unmovable requests go to DMA32 instead of
    stealing them.  In amd64-128M-movable, movable pages in use decide whether a stolen page block changes its type.
    """
    *problems, _ = run(DATA / recording, Runner(model=mutant))
    assert problems, "the recording does not tell the rules apart"
    result = verify_pages(DATA / recording)
    assert result.held, result.differences[:3]
    assert result.operations == result.identical > 1000


def test_a_difference_is_an_exception_with_both_answers() -> None:
    pair = Pair(SHAPES["tiny"], 0)
    pair.naive.alloc_pages(GFP_KERNEL_NOSLEEP, 0)
    with pytest.raises(Difference, match="naive .*, compiled "):
        pair.apply(("a", 0, GFP_KERNEL_NOSLEEP, 0, 0, None))
