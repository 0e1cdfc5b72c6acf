# SPDX-License-Identifier: GPL-2.0-only
"""The compiled SLUB against the naive one: at random, in chosen situations, and that a difference is found.

In the maps a slab of four objects is four letters: x an object in use, c one on the CPU's free list, f one on the
slab's own free list.  `cpu`, `partial` and `node` are the CPU slab, the CPU's and the node's partial list, head first.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from kmem.mm.slab_common import CacheGeometry

from .driver import replay, run_seed
from .naive_slub import SLAB_STORE_USER, Cache, CacheNode, NaiveSlub, Object, Slab
from .run_recording import run
from .shapes import NAMES_64, SHAPES, Shape
from .slub_driver import KINDS, SLAB_POISON, SlubPair, geometry

FIRST_SEED = int(os.environ.get("KMEM_MODEL_SEED", "0"))
OPS_PER_SEED = 10_000
SEEDS = {"tiny": 7, "tiny2": 7, "block9": 5, "i386": 5, "i386-10": 6, "numa": 7, "numa-dma32": 5, "cma": 3}
SEEDS_LARGE = {"large": 4, "large-i386": 4}
DATA = Path(__file__).parent.parent / "data"
GFP = 0x8C0


def test_half_a_million_operations_are_run() -> None:
    """What the random tests below add up to."""
    assert OPS_PER_SEED * sum((SEEDS | SEEDS_LARGE).values()) >= 500_000


@pytest.mark.parametrize(
    ("shape", "seed"), [(name, seed) for name, count in (SEEDS | SEEDS_LARGE).items() for seed in range(count)]
)
def test_random_operations(shape: str, seed: int) -> None:
    failure = run_seed(SHAPES[shape], FIRST_SEED + seed, OPS_PER_SEED, SlubPair)
    assert failure is None, str(failure)


# ---- that a difference would be found


class NeverDrains(NaiveSlub):
    def put_cpu_partial(self, cache: Cache, slab: Slab, cpu: int, *, drain: bool) -> None:
        super().put_cpu_partial(cache, slab, cpu, drain=False)


class UnfreezesBackwards(NaiveSlub):
    def unfreeze(self, cache: Cache, partial: list[Slab], cpu: int) -> None:
        super().unfreeze(cache, partial[::-1], cpu)


class AlwaysDeactivatesToTail(NaiveSlub):
    def deactivate_slab(self, cache: Cache, slab: Slab, freelist: list[int], cpu: int) -> None:
        super().deactivate_slab(cache, slab, freelist, cpu)
        if slab.pfn in cache.nodes[slab.node].partial:
            cache.nodes[slab.node].partial.move_to_end(slab.pfn)


class NoGracePeriod(NaiveSlub):
    def free_slab(self, slab: Slab, cpu: int) -> None:
        del self.slabs[slab.pfn]
        self.pages.free_pages(slab.pfn, slab.order, cpu)


class TakesOneSlab(NaiveSlub):
    def get_partial_node(self, cache: Cache, node: CacheNode, gfp: int, cpu: int) -> tuple[Slab, list[int]] | None:
        slabs, cache.cpu_partial_slabs = cache.cpu_partial_slabs, -2
        try:
            return super().get_partial_node(cache, node, gfp, cpu)
        finally:
            cache.cpu_partial_slabs = slabs


class BulkFreeKeepsOrder(NaiveSlub):
    def kmem_cache_free_bulk(self, objects: list[Object], cpu: int = 0) -> None:
        for pfn, number in objects:
            self.kmem_cache_free(pfn, number, cpu)


class NoOrderFallback(NaiveSlub):
    def allocate_slab(self, cache: Cache, gfp: int, cpu: int, node: int | None) -> Slab | None:
        order, cache.min_order = cache.min_order, cache.order
        objects, cache.min_objects = cache.min_objects, cache.objects
        try:
            return super().allocate_slab(cache, gfp, cpu, node)
        finally:
            cache.min_order, cache.min_objects = order, objects


class ReservesForAll(NaiveSlub):
    def pfmemalloc_match(self, slab: Slab, gfp: int) -> bool:
        return True


MUTANTS = {
    NeverDrains: "tiny2",
    UnfreezesBackwards: "tiny",
    AlwaysDeactivatesToTail: "numa",
    NoGracePeriod: "tiny",
    TakesOneSlab: "tiny",
    BulkFreeKeepsOrder: "tiny2",
    NoOrderFallback: "block9",
    ReservesForAll: "tiny",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_rule_is_found(mutant: type[NaiveSlub]) -> None:
    """One rule of the naive model broken: some seed shows it, and the list that shows it is right without the fault."""
    shape = SHAPES[MUTANTS[mutant]]
    make = partial(SlubPair, slub_model=mutant, validate=False)
    failures = (run_seed(shape, seed, 4000, make, tries=60) for seed in range(1, 9))
    failure = next((found for found in failures if found is not None), None)
    assert failure is not None, "no seed shows the broken rule"
    assert replay(shape, failure.seed, failure.ops, make) is not None, "the shrunk list shows it too"
    assert replay(shape, failure.seed, failure.ops, SlubPair) is None, "the right rule has no difference"
    assert f"--slub --shape {shape.name} --seed {failure.seed}" in str(failure)


# ---- chosen situations

SMALL = Shape("small", ((0, "DMA", 1, 256), (0, "DMA32", 256, 2048)), NAMES_64, 6)
SIZE = 1024  # four objects in a slab of one page


def four(name: str, *, flags: int = 0, min_partial: int = 2, slabs: int = 2, shuffled: bool = False) -> CacheGeometry:
    """A cache with four objects in a slab."""
    made = geometry(name, Random(0), SIZE, 0, flags, 0)
    made.min_partial, made.cpu_partial_slabs, made.cpu_partial = min_partial, slabs, slabs * 2
    made.has_random_seq = shuffled
    return made


class Bench:
    """A pair with one more cache, on which objects are taken and freed by name."""

    def __init__(self, made: CacheGeometry) -> None:
        self.pair = SlubPair(SMALL, 0, validate=True)
        self.pair.add_cache(Random(0), made)
        self.cache = len(self.pair.caches) - 1
        self.next_slot = 0

    def take(self, count: int = 1) -> list[int]:
        """Slots of fresh objects."""
        slots = []
        for _ in range(count):
            self.pair.apply(("k", self.next_slot, self.cache, GFP, 0, None, 0))
            slots.append(self.next_slot)
            self.next_slot += 1
        return slots

    def free(self, *slots: int) -> None:
        for slot in slots:
            self.pair.apply(("K", slot, 0))

    def slab(self, slot: int) -> int:
        return self.pair.objects[slot][0][0]

    def shown(self) -> tuple[int | None, list[int], list[int]]:
        """The compiled one's CPU slab, CPU partial list and node partial list, after a full comparison."""
        self.pair.compare_state()
        dump = self.pair.slub.dump(self.pair.indexes[self.cache])
        cpu, node = dump["cpus"][0], dump["nodes"][0]
        slab = cpu["slab"] and cpu["slab"]["pfn"]
        return slab, [entry["s"]["pfn"] for entry in cpu["partial"]], [shown["pfn"] for shown in node["partial"]]


def test_free_into_a_full_slab_freezes_it_on_the_cpu_partial_list() -> None:
    """A full slab is on no list; its first free object brings it to the CPU that freed it.

    ::

                A       B
        before  xxxx    xccc     cpu B    partial -        node -
        after   fxxx    xccc     cpu B    partial A        node -
    """
    bench = Bench(four("situation"))
    a = bench.take(4)
    b = bench.take(1)
    slab_a, slab_b = bench.slab(a[0]), bench.slab(b[0])
    assert bench.shown() == (slab_b, [], [])
    bench.free(a[0])
    assert bench.shown() == (slab_b, [slab_a], [])


def test_full_cpu_partial_list_goes_to_the_tail_of_the_nodes() -> None:
    """Two slabs are all that the CPU may keep; the third drives them out, the head first.

    ::

                A    B    C    D
        before  fxxx fxxx xxxx xccc     cpu D    partial B, A     node -
        after   fxxx fxxx fxxx xccc     cpu D    partial C        node B, A
    """
    bench = Bench(four("situation", slabs=2))
    a, b, c = bench.take(4), bench.take(4), bench.take(4)
    d = bench.take(1)
    slabs = [bench.slab(slots[0]) for slots in (a, b, c, d)]
    bench.free(a[0], b[0])
    assert bench.shown() == (slabs[3], [slabs[1], slabs[0]], [])
    bench.free(c[0])
    assert bench.shown() == (slabs[3], [slabs[2]], [slabs[1], slabs[0]])


def test_empty_slabs_over_min_partial_are_given_back() -> None:
    """With min_partial 1, unfreezing keeps the first empty slab it comes to and releases the other.

    ::

                A    B    C    D
        before  ffff ffff xxxx xccc     cpu D    partial B, A     node -
        after   gone ffff fxxx xccc     cpu D    partial C        node B
    """
    bench = Bench(four("situation", slabs=2, min_partial=1))
    a, b, c = bench.take(4), bench.take(4), bench.take(4)
    d = bench.take(1)
    slabs = [bench.slab(slots[0]) for slots in (a, b, c, d)]
    bench.free(*a, *b)
    assert bench.shown() == (slabs[3], [slabs[1], slabs[0]], [])
    bench.free(c[0])
    assert bench.shown() == (slabs[3], [slabs[2]], [slabs[1]])
    assert bench.pair.slub.slab_of_frame(slabs[0]) is None, "its page went back"


def test_cpu_takes_over_what_was_freed_remotely() -> None:
    """CPU 1 frees into CPU 0's slab: the object waits on the slab's list until CPU 0 has none left.

    ::

                A                        A
        before  xxcc     cpu A           xfcc     after CPU 1's free
        after   xxxx     cpu A           the two of the CPU's own list are given out first, then the one of the slab's
    """
    pair = SlubPair(SHAPES["tiny2"], 0, validate=True)
    pair.add_cache(Random(0), four("situation"))
    cache = len(pair.caches) - 1
    for slot in range(2):
        pair.apply(("k", slot, cache, GFP, 0, None, 0))
    freed = pair.objects[1][0]
    pair.apply(("K", 1, 1))
    for slot in range(2, 5):
        pair.apply(("k", slot, cache, GFP, 0, None, 0))
    pair.compare_state()
    assert [pair.objects[slot][0][1] for slot in (2, 3)] == [2, 3]
    assert pair.objects[4][0] == freed


def test_debug_cache_leaves_its_slabs_on_the_nodes_lists() -> None:
    """No CPU slab: the slab is on the partial list while it has free objects, then on the full list.

    ::

                A       B
        before  xxxx    xfff     cpu -    partial -        node B        full A
        after   fxxx    xfff     cpu -    partial -        node B, A     full -
    """
    bench = Bench(four("situation", flags=SLAB_POISON | SLAB_STORE_USER))
    a = bench.take(4)
    b = bench.take(1)
    slab_a, slab_b = bench.slab(a[0]), bench.slab(b[0])
    assert bench.shown() == (None, [], [slab_b])
    bench.free(a[0])
    assert bench.shown() == (None, [], [slab_b, slab_a])


def test_shrink_puts_the_fullest_slabs_first() -> None:
    """Empty slabs go; the others are sorted by how little is free in them.

    ::

                A    B    C    D
        before  ffff ffxx fxxx xccc     cpu D    partial C, B, A  node -
        after   gone ffxx fxxx xfff     cpu -    partial -        node C, B, D
    """
    bench = Bench(four("situation", slabs=4))
    a, b, c = bench.take(4), bench.take(4), bench.take(4)
    d = bench.take(1)
    slabs = [bench.slab(slots[0]) for slots in (a, b, c, d)]
    bench.free(*a, *b[:2], c[0])
    assert bench.shown() == (slabs[3], [slabs[2], slabs[1], slabs[0]], [])
    bench.pair.apply(("shrink", bench.cache, 0))
    assert bench.shown() == (None, [], [slabs[2], slabs[1], slabs[3]])


def test_bulk_free_makes_the_last_object_the_first_to_come_back() -> None:
    """The objects of a slab are chained from the last one backwards and turned round on the way to the free list.

    ::

                A
        before  xxxx     freed in bulk: 0, 1, 2
        after   fffx     free list: 2, 1, 0
    """
    bench = Bench(four("situation"))
    slots = bench.take(4)
    bench.pair.apply(("Kb", tuple(slots[:3]), 0))
    bench.pair.compare_state()
    again = bench.take(3)
    assert [bench.pair.objects[slot][0][1] for slot in again] == [2, 1, 0]


# ---- hypothesis


class SlubMachine(RuleBasedStateMachine):
    """Objects of three caches in any order on two CPUs, one of the caches a debug cache, on little memory."""

    held: Bundle[int] = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.pair = SlubPair(Shape("hypothesis", ((0, "DMA", 1, 32), (0, "DMA32", 32, 128)), NAMES_64, 4, nr_cpus=2), 2)
        self.first = len(self.pair.caches)
        for number, flags in enumerate((0, SLAB_STORE_USER)):
            self.pair.add_cache(Random(number), four(f"small{number}", flags=flags, min_partial=1, slabs=1))
        self.pair.add_cache(Random(2), four("shuffled", shuffled=True))
        self.next_slot = 0

    def new_slot(self) -> int:
        self.next_slot += 1
        return self.next_slot

    @rule(
        target=held,
        cache=st.integers(0, 2),
        gfp=st.sampled_from((0xCC0, 0x8C0, 0xA20, 0x208C0)),
        cpu=st.integers(0, 1),
        start=st.integers(0, 3),
    )
    def alloc(self, cache: int, gfp: int, cpu: int, start: int) -> int | MultipleResults[int]:
        slot = self.new_slot()
        self.pair.apply(("k", slot, self.first + cache, gfp, cpu, None, start))
        return slot if slot in self.pair.objects else multiple()

    @rule(target=held, cache=st.integers(0, 1), count=st.integers(1, 9), cpu=st.integers(0, 1))
    def alloc_bulk(self, cache: int, count: int, cpu: int) -> int | MultipleResults[int]:
        slot = self.new_slot()
        self.pair.apply(("kb", slot, self.first + cache, 0x8C0, count, cpu, 0))
        return slot if slot in self.pair.objects else multiple()

    @rule(slot=consumes(held), cpu=st.integers(0, 1))
    def free(self, slot: int, cpu: int) -> None:
        self.pair.apply(("K", slot, cpu))

    @rule(one=consumes(held), two=consumes(held), cpu=st.integers(0, 1))
    def free_bulk(self, one: int, two: int, cpu: int) -> None:
        self.pair.apply(("Kb", tuple({one, two}), cpu))

    @rule(cache=st.integers(0, 2), cpu=st.integers(0, 1))
    def shrink(self, cache: int, cpu: int) -> None:
        self.pair.apply(("shrink", self.first + cache, cpu))

    @invariant()
    def same(self) -> None:
        self.pair.compare_state()


SlubMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHypothesis = SlubMachine.TestCase


# ---- the naive model itself


@pytest.mark.parametrize("path", sorted(DATA.glob("slab/**/*.jsonl*")), ids=lambda path: path.name)
def test_naive_model_repeats_a_recording(path: Path) -> None:
    """The yardstick is held to real kernels too."""
    *problems, summary = run(path)
    assert not problems, f"{summary}\n" + "\n".join(problems[:5])


def test_caches_of_every_kind_are_driven() -> None:
    """Plain, reclaimable, DMA, RCU and debug caches, small and large slabs."""
    flags = 0
    for _, _, of_kind, _ in KINDS:
        flags |= of_kind
    assert flags & SLAB_STORE_USER
    assert {order for _, order, _, _ in KINDS} >= {0, 1, 2, 3}


def test_random_operations_reach_the_rare_paths() -> None:
    """Smaller slabs, slabs from the reserves, failures and discards do happen in what the generator makes."""
    seen: set[str] = set()

    class Watched(NaiveSlub):
        def allocate_slab(self, cache: Cache, gfp: int, cpu: int, node: int | None) -> Slab | None:
            slab = super().allocate_slab(cache, gfp, cpu, node)
            if slab is None:
                seen.add("no slab to be had")
            elif slab.order < cache.order:
                seen.add("slab of the smallest order")
            if slab is not None and slab.pfmemalloc:
                seen.add("slab from the reserves")
            return slab

        def discard_slab(self, slab: Slab, cpu: int) -> None:
            seen.add("slab discarded")
            super().discard_slab(slab, cpu)

        def rcu_barrier(self, cpu: int = 0) -> None:
            if self.rcu:
                seen.add("slabs freed after a grace period")
            super().rcu_barrier(cpu)

        def kfree(self, pfn: int, number: int, cpu: int = 0) -> None:
            if number < 0:
                seen.add("large kmalloc freed")
            super().kfree(pfn, number, cpu)

    for seed in range(4):
        assert run_seed(SHAPES["tiny2"], seed, 10_000, partial(SlubPair, slub_model=Watched, validate=False)) is None
    assert seen == {
        "no slab to be had",
        "slab of the smallest order",
        "slab from the reserves",
        "slab discarded",
        "slabs freed after a grace period",
        "large kmalloc freed",
    }
