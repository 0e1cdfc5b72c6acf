# SPDX-License-Identifier: GPL-2.0-only
"""Run recordings of page and slab operations through the naive models: `python -m tests.model.run_recording FILE...`

Exit status 1 if anything differed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .naive_page_alloc import NaivePageAllocator
from .naive_slub import SLAB_STORE_USER, Cache, NaiveSlub, Object
from .recording import (
    Dump,
    Record,
    allocator_from_dump,
    cache_differences,
    cache_from_record,
    differences,
    group_dumps,
    read_records,
)

STACK_ALLOC_ORDER = 2


class Difference(Exception):
    """An operation came out differently."""


def expect(what: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise Difference(f"{what} {got}, expected {expected}")


class Runner:
    """The naive models in the state of a recording, and its operations on them."""

    def __init__(self, model: type[NaivePageAllocator] = NaivePageAllocator, slub: type[NaiveSlub] = NaiveSlub) -> None:
        self.model = model
        self.slub_model = slub
        self.pages: NaivePageAllocator | None = None
        self.slub: NaiveSlub
        self.created: dict[int, Record] = {}  # `c` records, before the first dump
        self.caches: dict[int | str, Cache] = {}  # by number (`c`) or by name (the kernel's own)
        self.blocks: dict[int, tuple[int, int]] = {}
        self.objects: dict[int, Object] = {}
        self.first_object = 0  # what this operation's new slab hands out first, if it makes one
        self.depot = {"k", "K"}  # of these, the first on a STORE_USER cache makes the stack depot take pages
        self.unlocked = False  # interrupts are on again: only the script's own caches can be followed

    def begin(self, dump: Dump) -> None:
        """Start from the first dump."""
        self.pages = allocator_from_dump(dump, self.model)
        self.slub = self.slub_model(self.pages, nr_nodes=len(dump.nodes), random_start=self.random_start)
        for record in dump.other:
            if record["t"] == "cache":
                self.caches[record["name"]] = cache_from_record(self.slub, record)
            elif record["t"] == "mycache":
                self.caches[record["cid"]] = cache_from_record(self.slub, record)
        self.slub.kmalloc_caches = [[None] * 14 for _ in range(4)]
        for record in dump.other:
            if record["t"] == "kmalloc_cache" and record["name"]:
                self.slub.kmalloc_caches[record["type"]][record["index"]] = self.caches[record["name"]]

    def random_start(self, cache: Cache) -> int:
        assert cache.random_seq is not None
        return cache.random_seq.index(self.first_object)

    def check_dump(self, dump: Dump) -> Iterator[str]:
        """Compare a later dump with the models."""
        assert self.pages is not None
        if dump.zones and not self.unlocked:
            yield from differences(self.pages, dump)
        for record in dump.other:
            if record["t"] in ("cache", "mycache"):
                cache = self.caches[record["cid"] if "cid" in record else record["name"]]
                yield from cache_differences(self.slub, cache, record, dump.name)

    def operation(self, record: Record) -> bool:
        """Do what a record did and compare; False if it is not one to compare."""
        op, cpu = record["op"], record.get("cpu", 0)
        if op in ("L", "skip") or record.get("skip"):
            return False
        if self.pages is None:
            return False
        if op == "a":
            self.alloc_pages(record, cpu)
        elif op == "f":
            pfn, order = self.blocks.pop(record["slot"])
            self.pages.free_pages(pfn, order, cpu)
            self.check_zone(record, pfn, cpu)
        elif op in ("k", "m"):
            self.alloc_object(record, cpu)
        elif op in ("K", "M"):
            self.free_object(record, cpu)
        elif op == "drain":
            self.pages.drain_local_pages(cpu)
            return False
        elif op == "U":
            self.unlocked = True
            return False
        elif op == "s":
            expect("slabs left", self.slub.kmem_cache_shrink(self.caches[record["cid"]], cpu), bool(record["ret"]))
        elif op == "r":
            self.caches[record["cid"]].random_seq = None
            return False
        else:
            return False
        return True

    def alloc_pages(self, record: Record, cpu: int) -> None:
        assert self.pages is not None
        pfn = self.pages.alloc_pages(int(record["gfp"], 16), record["order"], cpu)
        expect("frame", -1 if pfn is None else pfn, record["pfn"])
        if pfn is not None:
            self.blocks[record["slot"]] = pfn, record["order"]
            self.check_zone(record, pfn, cpu)

    def check_zone(self, record: Record, pfn: int, cpu: int) -> None:
        assert self.pages is not None
        zone = self.pages.zone_of(pfn)
        pcp = zone.pcp[cpu]
        got = [pfn, zone.name, zone.node, zone.free_pages, pcp.free_diff, pcp.count, pcp.free_factor]
        recorded = [record["pfn"], record["zone"], record.get("node", zone.node)]
        expect("frame, zone, node, nf, nfd, pc, ff", got, recorded + [record[key] for key in ("nf", "nfd", "pc", "ff")])

    def stack_depot(self, record: Record, cache: Cache, gfp: int, cpu: int) -> None:
        """The depot takes pages at the first allocation and at the first free that stores a stack."""
        if cache.flags & SLAB_STORE_USER and record["op"] in self.depot:
            assert self.pages is not None
            self.depot.remove(record["op"])
            self.pages.alloc_pages((gfp & 0xEE0 & ~0x400) | 0x2000, STACK_ALLOC_ORDER, cpu)

    def alloc_object(self, record: Record, cpu: int) -> None:
        gfp = int(record["gfp"], 16)
        self.first_object = record.get("idx", 0)
        if record["op"] == "m":
            got = self.slub.kmalloc(record["size"], gfp, cpu)
        else:
            got = self.slub.kmem_cache_alloc(self.caches[record["cid"]], gfp, cpu)
        if int(record["addr"], 16) == 0 or got is None:
            expect("object", got, None if int(record["addr"], 16) == 0 else record["addr"])
            return
        self.objects[record["slot"]] = got
        if got[1] < 0:
            expect("frame, order", [got[0], self.slub.large[got[0]]], [record.get("pfn"), record.get("pgorder")])
            return
        expect("slab, object", list(got), [record["slab"], record.get("idx")])
        slab = self.slub.slabs[got[0]]
        self.stack_depot(record, slab.cache, gfp, cpu)
        self.check_slab(record, slab.cache, got[0], cpu)

    def free_object(self, record: Record, cpu: int) -> None:
        pfn, number = self.objects.pop(record["slot"])
        if number < 0:
            self.slub.kfree(pfn, number, cpu)
            expect("frame", pfn, record["pfn"])
            return
        cache = self.slub.slabs[pfn].cache
        self.stack_depot(record, cache, 0, cpu)
        self.slub.kmem_cache_free(pfn, number, cpu)
        self.check_slab(record, cache, pfn, cpu)

    def check_slab(self, record: Record, cache: Cache, pfn: int, cpu: int) -> None:
        slab = self.slub.slabs.get(pfn)
        if record["slab"] is None:
            expect("slab after its last object's free", slab, None)
            return
        assert slab is not None or any(slab.pfn == pfn for slab in self.slub.rcu)
        slab = slab or next(slab for slab in self.slub.rcu if slab.pfn == pfn)
        c, node = cache.cpus[cpu], cache.nodes[slab.node]
        got = [pfn, slab.inuse, int(slab.frozen), c.slab.pfn if c.slab else -1, len(node.partial), node.nr_slabs]
        keys = ("slab", "inuse", "frozen", "cpuslab", "npart", "nslabs")
        expect("slab, inuse, frozen, cpuslab, npart, nslabs", got, [record[key] for key in keys])


def run(path: Path, runner: Runner | None = None) -> Iterator[str]:
    """Every difference between the recording and the naive models; the last line is a summary."""
    runner = runner or Runner()
    operations = dumps = 0
    seconds = 0.0
    for item in group_dumps(read_records(path)):
        if isinstance(item, Dump):
            if runner.pages is None:
                runner.begin(item)
            else:
                dumps += 1
                yield from runner.check_dump(item)
        elif "op" in item:
            begin = time.perf_counter()
            try:
                operations += runner.operation(item)
            except Difference as difference:
                yield f"operation {item['i']} {item}: {difference}"
                break
            seconds += time.perf_counter() - begin
    yield f"{path}: {operations} operations, {dumps} later dumps, {operations / max(seconds, 1e-9):,.0f} operations/s"


def main() -> int:
    """Run the files named on the command line."""
    differ = False
    for name in sys.argv[1:]:
        *problems, summary = run(Path(name))
        for problem in problems[:10]:
            print(problem)
        print(summary)
        differ |= bool(problems)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
