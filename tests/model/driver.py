# SPDX-License-Identifier: GPL-2.0-only
"""Random operations through the naive page allocator and the compiled one, every return and the state compared.

An operation is a tuple that means something by itself, so that a list of them can be run again, cut shorter, and
printed: ``("a", slot, gfp, order, cpu, node)`` allocates into a slot, ``("f", slot, cpu)`` frees what the slot holds,
and so on (see `Pair.apply`).  What refers to an empty slot, or would fill a full one, is passed over.

``python -m tests.model.driver --shape tiny --seed 7`` runs one seed again and prints the shortest list of operations
that shows the difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from kmem.errors import StateError
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.mm.debug_vm import validate_pages
from kmem.mm.page_alloc import PageAllocator

from .naive_page_alloc import NaivePageAllocator, WouldLoopForever
from .naive_zone import MAX_ORDER, MIGRATE_TYPES, NR_PCP_LISTS
from .recording import allocator_from_dump
from .shapes import SHAPES, Shape, dump_of, dump_records

Op = tuple[Any, ...]

SMALL_FRAMES = 4096
STATE_EVERY = 2000  # operations between comparisons of the whole state
SHRINK_OPS = 1_000_000  # operations that shrinking may run
VALIDATE_EVERY = 1000  # on machines larger than SMALL_FRAMES
PGF_PFMEMALLOC = 4
PG_ALLOCATED = 3
ZONE_RECLAIM_ACTIVE = 2
PF_MEMALLOC = 0x800

# What callers use: (mask, weight).  __GFP_DIRECT_RECLAIM is 0x400, __GFP_KSWAPD_RECLAIM 0x800.
MASKS: tuple[tuple[int, int], ...] = (
    (0xCC0, 10),  # GFP_KERNEL
    (0x8C0, 10),  # the same with interrupts off
    (0x1008CA, 16),  # GFP_HIGHUSER_MOVABLE without direct reclaim
    (0x100CCA, 8),  # GFP_HIGHUSER_MOVABLE
    (0x1008C2, 3),  # GFP_HIGHUSER without direct reclaim
    (0x8D0, 8),  # GFP_KERNEL | __GFP_RECLAIMABLE without direct reclaim
    (0xA20, 8),  # GFP_ATOMIC
    (0x800, 4),  # GFP_NOWAIT
    (0x40800, 2),  # GFP_NOWAIT | __GFP_COMP
    (0x8C1, 2),  # __GFP_DMA
    (0x8C4, 3),  # __GFP_DMA32
    (0x8CC, 1),  # __GFP_DMA32 | __GFP_MOVABLE
    (0x0C8, 1),  # movable, wakes nobody
    (0x208C0, 1),  # __GFP_MEMALLOC
    (0xA0A20, 1),  # __GFP_MEMALLOC | __GFP_NOMEMALLOC
    (0x80A20, 1),  # GFP_ATOMIC | __GFP_NOMEMALLOC
    (0x820, 2),  # __GFP_HIGH, may be GFP_NOWAIT's stronger brother
    (0x10CC0, 1),  # GFP_KERNEL | __GFP_NORETRY
    (0x4CC0, 1),  # GFP_KERNEL | __GFP_RETRY_MAYFAIL
    (0x8CC0, 1),  # GFP_KERNEL | __GFP_NOFAIL
    (0xC40, 1),  # GFP_NOFS
    (0xC00, 1),  # GFP_NOIO
    (0x2008C0, 2),  # __GFP_THISNODE
    (0x3008CA, 2),  # __GFP_THISNODE, movable
)
RARE = ("bulk", "bulk", "exact", "split", "split", "thin", "drain", "drain_all", "kswapd", "kswapd", "memalloc")
ORDERS = (30, 8, 5, 4, 2, 3, 2, 1, 1, 1, 1)


class Difference(Exception):
    """The models do not agree."""


@dataclass(frozen=True)
class Failure:
    """A difference, with the operations that lead to it."""

    shape: Shape
    seed: int
    ops: list[Op]
    reason: str
    kind: str = "pages"

    def __str__(self) -> str:
        lines = [f"{self.shape.name}, seed {self.seed}: {self.reason}", f"after {len(self.ops)} operations:"]
        lines += [f"  {op}" for op in self.ops[:200]]
        lines.append(f"again: python -m tests.model.driver --{self.kind} --shape {self.shape.name} --seed {self.seed}")
        return "\n".join(lines)


def load_compiled(shape: Shape, records: list[dict[str, Any]]) -> PageAllocator:
    """The compiled allocator from the records of a dump."""
    dump = StateDump(shape.name, Path(shape.name), 0)
    for record in records:
        dump.add(record)
    allocator = load_page_allocator(dump)
    if shape.cma:
        rows: dict[tuple[int, bool], list[int]] = {}
        memmap = allocator.memmap
        for record in dump.nodes:
            both = zip(record["zonelist"], record["zonelist_nodes"], strict=True)
            rows[record["node"], False] = [memmap.zone_id(name, node) for name, node in both]
            rows[record["node"], True] = [memmap.zone_id(name, node) for name, node in record["thisnode_zonelist"]]
        boost = allocator.watermark_boost_factor
        grouping_off = allocator.page_group_by_mobility_disabled
        allocator = PageAllocator(memmap, rows, cma=True)
        allocator.watermark_boost_factor = boost
        allocator.page_group_by_mobility_disabled = grouping_off
        for zone in memmap.zones_array:
            lists = [memmap.list_frames(int(zone["lists"]) + order * MIGRATE_TYPES + 5) for order in range(MAX_ORDER)]
            if zone["spanned"]:
                zone["free_cma_pages"] = sum(len(frames) << order for order, frames in enumerate(lists))
    return allocator


@dataclass
class Pair:
    """The two allocators in the same state, and what has been allocated from them."""

    shape: Shape
    seed: int
    model: type[NaivePageAllocator] = NaivePageAllocator
    validate: bool = True
    records: list[dict[str, Any]] | None = None  # to start from instead of what the seed gives
    slots: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    count: int = 0
    kind: ClassVar[str] = "pages"

    def __post_init__(self) -> None:
        records = dump_records(self.shape, self.seed) if self.records is None else self.records
        self.naive = allocator_from_dump(dump_of(self.shape.name, records), self.model)
        self.compiled = load_compiled(self.shape, records)
        memmap = self.compiled.memmap
        self.memmap = memmap
        self.zone_ids = {id(zone): memmap.zone_id(zone.name, zone.node) for zone in self.naive.zones}
        self.free_pages = memmap.zones_array["free_pages"]
        self.boost = memmap.zones_array["watermark_boost"]
        self.flags = memmap.zones_array["flags"]
        self.highatomic = memmap.zones_array["nr_reserved_highatomic"]
        self.counters = [memmap.pagesets_array[name] for name in ("stat_diff", "count", "free_factor")]
        self.validate_every = 1 if self.shape.nr_frames <= SMALL_FRAMES else VALIDATE_EVERY

    def operations(self, rng: Random, count: int) -> Iterator[Op]:
        """Random operations that suit the state at each moment."""
        return page_operations(self, rng, count)

    def free_everything(self) -> Iterator[Op]:
        """What gives back all that is in use."""
        for slot in list(self.slots):
            yield ("f", slot, 0)

    # ---- operations

    def apply(self, op: Op) -> None:
        """Do one operation on both and compare what it returns and the counters it moves.

        Raises
        ------
        Difference
            If the two do not agree, or the compiled one's state is not sound.
        """
        handler: Callable[..., bool] = getattr(self, f"op_{op[0]}")
        try:
            done = handler(*op[1:])
        except (StateError, ValueError, AssertionError, IndexError) as error:
            raise Difference(f"{op}: {type(error).__name__}: {error}") from error
        if not done:
            return
        self.compare_counters(op)
        self.count += 1
        if self.validate and self.count % self.validate_every == 0:
            self.check_sound(op)
        if self.count % STATE_EVERY == 0:
            self.compare_state()

    def on(self, cpu: int) -> None:
        self.compiled.cpu = cpu
        self.compiled.node = self.naive.cpu_node[cpu]

    def same(self, op: Op, naive: Any, compiled: Any) -> None:
        if naive != compiled:
            raise Difference(f"{op}: naive {naive}, compiled {compiled}")

    def both(self, naive: Callable[[], Any], compiled: Callable[[], Any]) -> tuple[Any, Any]:
        """What each returns; None and -1 where it finds that the kernel would never return."""
        loops = False
        try:
            ours = naive()
        except WouldLoopForever:
            ours, loops = None, True
        try:
            theirs = compiled()
        except RuntimeError as error:
            if not loops:
                raise Difference(f"naive {ours}, compiled {error}") from None
            return None, -1
        if loops:
            raise Difference(f"naive would loop for ever, compiled {theirs}")
        return ours, theirs

    def op_a(self, slot: int, gfp: int, order: int, cpu: int, node: int | None) -> bool:
        """alloc_pages."""
        if slot in self.slots:
            return False
        self.on(cpu)
        naive, compiled = self.both(
            lambda: self.naive.alloc_pages(gfp, order, cpu, node),
            lambda: self.compiled.alloc_pages(gfp, order, -1 if node is None else node),
        )
        self.same(("a", slot, hex(gfp), order, cpu, node), -1 if naive is None else naive, compiled)
        if naive is not None:
            self.slots[slot] = [(naive, order)]
        return True

    def op_f(self, slot: int, cpu: int) -> bool:
        """__free_pages of all that the slot holds."""
        if slot not in self.slots:
            return False
        self.on(cpu)
        for pfn, order in self.slots.pop(slot):
            self.naive.free_pages(pfn, order, cpu)
            self.compiled.free_pages(pfn, order)
        return True

    def op_bulk(self, slot: int, gfp: int, count: int, cpu: int, node: int | None) -> bool:
        """__alloc_pages_bulk."""
        if slot in self.slots:
            return False
        self.on(cpu)
        naive = self.naive.alloc_pages_bulk(gfp, count, cpu, node)
        compiled = self.compiled.alloc_pages_bulk(gfp, count, -1 if node is None else node)
        self.same(("bulk", slot, hex(gfp), count, cpu, node), naive, list(compiled))
        if naive:
            self.slots[slot] = [(pfn, 0) for pfn in naive]
        return True

    def op_exact(self, slot: int, gfp: int, count: int, cpu: int) -> bool:
        """alloc_pages_exact."""
        if slot in self.slots:
            return False
        self.on(cpu)
        naive = self.naive.alloc_pages_exact(count << 12, gfp, cpu)
        compiled = self.compiled.alloc_pages_exact(count, gfp)
        self.same(("exact", slot, hex(gfp), count, cpu), -1 if naive is None else naive, compiled)
        if naive is not None:
            self.slots[slot] = [(naive + page, 0) for page in range(count)]
        return True

    def op_split(self, slot: int) -> bool:
        """split_page of the first block in the slot, unless it is compound."""
        if slot not in self.slots or self.slots[slot][0][1] == 0:
            return False
        (pfn, order), *rest = self.slots[slot]
        if self.compiled.page_info(pfn)["flags"] & 2:
            return False
        self.naive.split_page(pfn, order)
        self.compiled.split_page(pfn, order)
        self.slots[slot] = [(page, 0) for page in range(pfn, pfn + (1 << order))] + rest
        return True

    def op_thin(self, slot: int, cpu: int) -> bool:
        """Free every second block of the slot: what is left keeps the free pages apart."""
        if len(self.slots.get(slot, ())) < 2:
            return False
        self.on(cpu)
        for pfn, order in self.slots[slot][1::2]:
            self.naive.free_pages(pfn, order, cpu)
            self.compiled.free_pages(pfn, order)
        self.slots[slot] = self.slots[slot][::2]
        return True

    def op_drain(self, cpu: int) -> bool:
        """drain_local_pages."""
        self.on(cpu)
        self.naive.drain_local_pages(cpu)
        self.compiled.drain_pages(cpu)
        return True

    def op_drain_all(self, cpu: int) -> bool:
        """drain_all_pages."""
        self.on(cpu)
        self.naive.drain_all_pages(cpu)
        self.compiled.drain_all_pages()
        return True

    def op_memalloc(self, on: bool) -> bool:
        """The task that makes the requests gets or loses PF_MEMALLOC."""
        self.naive.pf_memalloc = on
        self.compiled.task_flags = PF_MEMALLOC if on else 0
        return True

    def op_kswapd(self, number: int, active: bool) -> bool:
        """What kswapd leaves in a zone: its boost is gone, and it is at work or not."""
        zone = self.naive.zones[number % len(self.naive.zones)]
        zone.boost = 0
        zone.flags = ZONE_RECLAIM_ACTIVE if active else 0
        zone_id = self.zone_ids[id(zone)]
        self.boost[zone_id] = 0
        self.flags[zone_id] = zone.flags
        return True

    # ---- comparisons

    def compare_counters(self, op: Op) -> None:
        """NR_FREE_PAGES, boost, reserve and the per-CPU counters of every zone."""
        nr_cpus = self.shape.nr_cpus
        stat_diff, count, free_factor = self.counters
        for zone in self.naive.zones:
            at = self.zone_ids[id(zone)]
            naive: list[int] = [zone.free_pages, zone.boost, zone.nr_reserved_highatomic]
            compiled = [self.free_pages[at], self.boost[at], self.highatomic[at]]
            for cpu, pcp in enumerate(zone.pcp):
                row = at * nr_cpus + cpu
                naive += (pcp.free_diff, pcp.count, pcp.free_factor)
                compiled += (stat_diff[row], count[row], free_factor[row])
            if naive != compiled:
                what = "NR_FREE_PAGES, boost, nr_highatomic, then diff, pcp count, free_factor of each CPU"
                got = [int(value) for value in compiled]
                raise Difference(f"{op}: zone {zone.name} of node {zone.node}: {what}: naive {naive}, compiled {got}")

    def check_sound(self, op: Op) -> None:
        try:
            validate_pages(self.compiled)
        except StateError as error:
            raise Difference(f"{op}: {error}") from error

    def compare_state(self) -> None:
        """Everything: lists in order, types, counters."""
        ours = dict(self.naive.state())
        theirs = dict(self.compiled_state())
        for where, value in ours.items():
            if value != theirs[where]:
                raise Difference(f"{where}: naive {value!r:.300}, compiled {theirs[where]!r:.300}")
        pages = self.memmap.pages_array
        reserved = pages["flags"] & PGF_PFMEMALLOC
        from_reserves = set(reserved.nonzero()[0].tolist()) & self.naive.allocated.keys()
        if from_reserves != self.naive.pfmemalloc:
            raise Difference(f"pfmemalloc pages: naive {self.naive.pfmemalloc}, compiled {from_reserves}")

    def compiled_state(self) -> Iterator[tuple[str, Any]]:
        """The compiled allocator's state in the form of `NaivePageAllocator.state`."""
        memmap, nr_cpus = self.memmap, self.shape.nr_cpus
        own_type = memmap.pages_array["migratetype"]
        for zone in self.naive.zones_by_index():
            at = f"node {zone.node} zone {zone.name}"
            zone_id = self.zone_ids[id(zone)]
            record = memmap.zones_array[zone_id]
            yield f"{at} NR_FREE_PAGES", int(record["free_pages"])
            yield f"{at} NR_FREE_CMA_PAGES", int(record["free_cma_pages"])
            yield f"{at} boost", int(record["watermark_boost"])
            yield f"{at} nr_highatomic", int(record["nr_reserved_highatomic"])
            yield f"{at} flags", int(record["flags"])
            yield f"{at} watermarks", tuple(int(mark) for mark in record["watermark"])
            blocks = memmap.pageblock_slice(zone_id, zone.start_pfn, len(zone.block_types))
            yield f"{at} page blocks", "".join(map(str, blocks.tolist()))
            for order in range(MAX_ORDER):
                yield f"{at} order {order} nr_free", int(record["nr_free"][order])
                for mt in range(MIGRATE_TYPES):
                    yield f"{at} order {order} type {mt} free list", list(memmap.free_list(zone_id, order, mt))
            for cpu in range(nr_cpus):
                pcp = memmap.pagesets_array[zone_id * nr_cpus + cpu]
                yield f"{at} cpu {cpu} NR_FREE_PAGES diff", int(pcp["stat_diff"])
                yield f"{at} cpu {cpu} NR_FREE_CMA_PAGES diff", int(pcp["cma_diff"])
                limits = tuple(int(pcp[name]) for name in ("count", "high", "batch", "free_factor"))
                yield f"{at} cpu {cpu} pcp", limits
                for pindex in range(NR_PCP_LISTS):
                    pages = list(memmap.pcp_list(zone_id, cpu, pindex))
                    yield f"{at} cpu {cpu} pcp list {pindex}", pages
                    yield f"{at} cpu {cpu} pcp list {pindex} own types", own_type[pages].tolist() if pages else []


# ---- operations at random


def special(pair: Pair, rng: Random, cpu: int, live: Sequence[int], slot: int, node: int | None) -> Op:
    """One of the rarer operations."""
    kind = rng.choice(
        ("bulk", "bulk", "exact", "split", "split", "thin", "drain", "drain_all", "kswapd", "kswapd", "memalloc")
    )
    gfp = rng.choice((0x8C0, 0x1008CA, 0xCC0, 0xA20, 0x8D0))
    if kind == "bulk":
        return ("bulk", slot, gfp, rng.choice((1, 2, 4, 16, 64, 200)), cpu, node)
    if kind == "exact":
        return ("exact", slot, gfp, rng.choice((1, 3, 5, 9, 33, 100, 300)), cpu)
    if kind == "split" and live:
        return ("split", rng.choice(live))
    if kind == "thin" and live:
        return ("thin", rng.choice(live), cpu)
    if kind == "memalloc":
        return ("memalloc", rng.random() < 0.2)
    if kind == "kswapd":
        return ("kswapd", rng.randrange(5), rng.random() < 0.2)
    return ("drain" if kind == "drain" else "drain_all", cpu)


def page_operations(pair: Pair, rng: Random, count: int) -> Iterator[Op]:
    """Operations that suit the state of `pair`, phase by phase."""
    masks = [mask for mask, _ in MASKS]
    cumulative = [sum(weight for _, weight in MASKS[: i + 1]) for i in range(len(MASKS))]
    live: list[int] = []
    next_slot = 0
    left = count
    nodes: list[int | None] = [None, *range(pair.shape.nr_nodes)] if pair.shape.nr_nodes > 1 else [None]
    while left > 0:
        phase = rng.choice(
            ("mixed", "mixed", "fill", "exhaust", "empty", "small", "large", "atomic", "sawtooth", "one")
        )
        share = {
            "mixed": 0.5,
            "fill": 0.65,
            "exhaust": 0.97,
            "empty": rng.choice((0.0, 0.05, 0.2)),
            "small": 0.52,
            "large": 0.6,
        }.get(phase, 0.55)
        weights = {"small": (40, 4, 1), "large": (1, 1, 1, 3, 4, 6, 6, 6, 4, 6, 5), "one": (1,)}.get(phase, ORDERS)
        orders = list(range(len(weights)))
        one_mask = rng.choices(masks, cum_weights=cumulative)[0] if phase == "one" else 0
        for step in range(min(left, rng.choice((50, 300, 1500)))):
            left -= 1
            cpu = rng.randrange(pair.shape.nr_cpus)
            if phase == "sawtooth" and step % 128 == 0:
                share = 1.2 - share
            draw = rng.random()
            if draw < 0.02:
                op = special(pair, rng, cpu, live, next_slot, rng.choice(nodes))
                next_slot += 1
            elif rng.random() < share or not live:
                gfp = one_mask or rng.choices(masks, cum_weights=cumulative)[0]
                order = rng.choices(orders, weights)[0]
                if phase == "atomic" and rng.random() < 0.7:
                    gfp, order = 0xA20, rng.randrange(1, 5)
                node = rng.choice(nodes) if rng.random() < 0.2 else None
                op = ("a", next_slot, gfp, order, cpu, node)
                next_slot += 1
            else:
                at = rng.randrange(len(live)) if rng.random() < 0.8 else len(live) - 1
                live[at], live[-1] = live[-1], live[at]
                op = ("f", live.pop(), cpu)
            yield op
            if op[0] in ("a", "bulk", "exact") and op[1] in pair.slots:
                live.append(op[1])


Make = Callable[[Shape, int], Pair]


def run_seed(shape: Shape, seed: int, count: int, make: Make = Pair, tries: int = 400) -> Failure | None:
    """`count` random operations; the first difference, cut short in at most `tries` runs, or None."""
    pair = make(shape, seed)
    done: list[Op] = []
    try:
        for op in pair.operations(Random(f"ops {shape.name} {seed}"), count):
            done.append(op)
            pair.apply(op)
        for op in pair.free_everything():
            done.append(op)
            pair.apply(op)
        pair.compare_state()
    except Difference as difference:
        return shrink(Failure(shape, seed, done, str(difference), pair.kind), make, tries)
    return None


def replay(shape: Shape, seed: int, ops: Sequence[Op], make: Make = Pair) -> str | None:
    """Run a given list; why the two differ, or None."""
    pair = make(shape, seed)
    try:
        for op in ops:
            pair.apply(op)
        pair.compare_state()
    except Difference as difference:
        return str(difference)
    return None


def shrink(failure: Failure, make: Make, tries: int) -> Failure:
    """Leave out operations, in ever smaller pieces, as long as some difference remains."""
    ops, reason = failure.ops, failure.reason
    piece = max(1, len(ops) // 2)
    budget = SHRINK_OPS
    while tries > 0 and budget > 0:
        at = 0
        shorter = False
        while at < len(ops) and tries > 0 and budget > 0:
            candidate = ops[:at] + ops[at + piece :]
            tries -= 1
            budget -= len(candidate)
            found = replay(failure.shape, failure.seed, candidate, make)
            if found is None:
                at += piece
            else:
                ops, reason, shorter = candidate, found, True
        if piece == 1 and not shorter:
            break
        piece = max(1, piece // 2)
    return replace(failure, ops=ops, reason=reason)


def main() -> int:
    """Run one seed of one shape."""
    from .slub_driver import SlubPair

    parser = argparse.ArgumentParser(description="Random operations, naive models against the compiled core")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--pages", action="store_const", const=Pair, dest="make", default=Pair)
    what.add_argument("--slub", action="store_const", const=SlubPair, dest="make")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--ops", type=int, default=40_000)
    arguments = parser.parse_args()
    failure = run_seed(SHAPES[arguments.shape], arguments.seed, arguments.ops, arguments.make)
    print(failure or f"{arguments.shape}, seed {arguments.seed}: {arguments.ops} operations, no difference")
    return int(failure is not None)


if __name__ == "__main__":
    from tests.model.driver import main as imported_main  # the module that slub_driver imports, not a second one

    sys.exit(imported_main())
