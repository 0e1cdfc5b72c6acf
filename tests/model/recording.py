# SPDX-License-Identifier: GPL-2.0-only
"""Records of a real kernel (`*.jsonl.gz`) for the naive models: reading, starting a model, comparing with a dump."""

from __future__ import annotations

import gzip
import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

from .naive_page_alloc import NaivePageAllocator
from .naive_slub import Cache, CacheNode, CpuSlab, NaiveSlub, Slab
from .naive_zone import MIGRATE_TYPES, PcpSet, Zone

Record = dict[str, Any]


def read_records(path: Path) -> Iterator[Record]:
    """The records of one file, gzip, zstd or plain."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    for line in data.splitlines():
        if line:
            yield orjson.loads(line)


@dataclass
class Dump:
    """The records between `dump` and `enddump`, by what they tell of."""

    name: str = ""
    globals: Record = field(default_factory=dict)
    nodes: list[Record] = field(default_factory=list)
    zones: list[Record] = field(default_factory=list)
    of_zone: dict[tuple[int, str], list[Record]] = field(default_factory=dict)  # (node, zone) -> its lists
    other: list[Record] = field(default_factory=list)  # caches and the like

    def add(self, record: Record) -> None:
        kind = record["t"]
        if kind == "globals":
            self.globals = record
        elif kind == "node":
            self.nodes.append(record)
        elif kind == "zone":
            self.zones.append(record)
        elif kind in ("area", "free", "pcp", "pcp_mt", "lru", "pageblocks", "zstat"):
            self.of_zone.setdefault((record.get("node", 0), record["zone"]), []).append(record)
        else:
            self.other.append(record)


def group_dumps(records: Iterable[Record]) -> Iterator[Record | Dump]:
    """Operations as they are, each dump as one."""
    dump: Dump | None = None
    for record in records:
        kind = record.get("t")
        if kind == "dump":
            dump = Dump(record["name"])
        elif kind == "enddump":
            assert dump is not None
            yield dump
            dump = None
        elif dump is not None:
            dump.add(record)
        else:
            yield record


def zone_from_dump(dump: Dump, zone: Record, nr_cpus: int) -> Zone:
    """A zone without its lists."""
    return Zone(
        node=zone.get("node", 0),
        index=zone["idx"],
        name=zone["name"],
        start_pfn=zone["start_pfn"],
        spanned=zone["spanned"],
        present=zone["present"],
        managed=zone["managed"],
        watermark=[zone["wm_min"], zone["wm_low"], zone["wm_high"], zone["wm_promo"]],
        lowmem_reserve=zone["lowmem_reserve"],
        block_types=[],
        pcp=[PcpSet(zone["pageset_high"], zone["pageset_batch"]) for _ in range(nr_cpus)],
        boost=zone["boost"],
        nr_reserved_highatomic=zone["nr_highatomic"],
        flags=zone["flags"],
        free_pages=zone["vm_stat"][0],
    )


def allocator_from_dump(dump: Dump, model: type[NaivePageAllocator] = NaivePageAllocator) -> NaivePageAllocator:
    """A naive page allocator in the state that a dump shows."""
    populated = [record for record in dump.zones if record["spanned"]]
    rows = [row for records in dump.of_zone.values() for row in records]
    nr_cpus = 1 + max((row["cpu"] for row in rows if row["t"] == "pcp"), default=0)
    zones = {(record.get("node", 0), record["name"]): zone_from_dump(dump, record, nr_cpus) for record in populated}
    names = {record["name"] for record in dump.zones}
    zonelists = []
    for node in dump.nodes:
        nodes = node.get("zonelist_nodes") or [node.get("node", 0)] * len(node["zonelist"])
        fallback = [zones[at] for at in zip(nodes, node["zonelist"], strict=True)]
        thisnode = [zones[at, name] for name, at in node.get("thisnode_zonelist", [])]
        zonelists.append((fallback, thisnode or fallback))
    pageblock_order = next(row["pageblock_order"] for row in rows if row["t"] == "pageblocks")
    allocator = model(
        list(zones.values()),
        zonelists,
        pageblock_order=pageblock_order,
        nr_online_nodes=len(dump.nodes),
        has_dma32="DMA32" in names,
        has_highmem="HighMem" in names,
        cma=bool(dump.globals.get("cma", 0)),
        cpu_node=dump.globals.get("cpu_node", [0] * nr_cpus),
        watermark_boost_factor=dump.globals.get("watermark_boost_factor", 15000),
        page_group_by_mobility_disabled=bool(dump.globals.get("page_group_by_mobility_disabled", 0)),
    )
    for at, zone in zones.items():
        record = next(r for r in populated if (r.get("node", 0), r["name"]) == at)
        for cpu, pcp in enumerate(zone.pcp):
            if cpu == 0 and "vm_stat_diff" in record:
                pcp.stat_threshold = record["stat_threshold"]
                pcp.free_diff = record["vm_stat_diff"][0]
        fill_zone(allocator, zone, dump.of_zone[at])
    return allocator


def fill_zone(allocator: NaivePageAllocator, zone: Zone, rows: list[Record]) -> None:
    """Free lists, per-CPU lists, page blocks and movable pages as the rows say."""
    own_types: dict[int, int] = {}
    for row in rows:
        kind = row["t"]
        if kind == "free":
            for pfn in row["pfns"]:
                allocator.add_to_free_list(zone, pfn, row["order"], row["mt"], tail=True)
        elif kind == "pcp":
            pcp = zone.pcp[row["cpu"]]
            pcp.high, pcp.batch = row["high"], row["batch"]
            pcp.count, pcp.free_factor = row["count"], row["free_factor"]
            pcp.lists = [deque(pages) for pages in row["lists"]]
            for pindex, pages in enumerate(row["lists"]):
                allocator.pcp_type.update(dict.fromkeys(pages, pindex % 3))
        elif kind == "pcp_mt":
            own_types.update(map(tuple, row["differs"]))
        elif kind == "zstat":
            zone.pcp[row["cpu"]].stat_threshold = row["stat_threshold"]
            zone.pcp[row["cpu"]].free_diff = row["vm_stat_diff"][0]
        elif kind == "lru":
            for start, length in row["ranges"]:
                allocator.lru.update(range(start, start + length))
        elif kind == "pageblocks":
            zone.block_types = [None if digit == "x" else int(digit) for digit in row["types"]]
    allocator.pcp_type.update(own_types)
    free_cma = sum(len(lists[MIGRATE_TYPES - 1]) << order for order, lists in enumerate(zone.free_list))
    zone.free_cma_pages = free_cma
    zone.nr_isolate_pageblock = zone.block_types.count(4)


def differences(allocator: NaivePageAllocator, dump: Dump) -> Iterator[str]:
    """What differs from a dump, one line for each place; nothing if all is the same."""
    theirs = dict(allocator_from_dump(dump).state())
    for where, ours in allocator.state():
        expected = theirs.pop(where)
        if ours != expected:
            yield f"{dump.name}: {where}: expected {expected!r:.200}, got {ours!r:.200}"
    for where in theirs:
        yield f"{dump.name}: {where}: not in the model"


def cache_from_record(slub: NaiveSlub, record: Record) -> Cache:
    """A cache with the geometry and the slabs that a record (`c`, `cache` or `mycache`) shows."""
    cache = slub.new_cache(
        name=record["name"],
        size=record["size"],
        order=record["order"],
        objects=record["objects"],
        min_order=record["min_order"],
        min_objects=record["min_objects"],
        min_partial=record["min_partial"],
        cpu_partial_slabs=record["cpu_partial_slabs"],
        flags=int(record["flags"], 16),
        allocflags=int(record["allocflags"], 16),
        random_seq=record.get("random_seq") if record["has_random_seq"] else None,
    )

    def slab_of(shown: Record) -> Slab:
        order = cache.order if shown["objects"] == cache.objects else cache.min_order
        pfn = shown["pfn"]
        freelist = shown["freelist"][::-1]
        slab = Slab(pfn, order, slub.pages.zone_of(pfn).node, cache, shown["objects"], freelist)
        slab.inuse, slab.frozen = shown["inuse"], bool(shown["frozen"])
        slub.slabs[pfn] = slab
        slub.pages.allocated[pfn] = order
        return slab

    for shown in record.get("cpus") or [{"cpu": 0, **record["cpu"]}]:
        c: CpuSlab = cache.cpus[shown["cpu"]]
        c.slab = shown["slab"] and slab_of(shown["slab"])
        c.freelist = shown["freelist"][::-1]
        for entry in reversed(shown["partial"]):
            c.partial.append(slab_of(entry["s"]))
            c.partial[-1].slabs = entry["slabs"]
    for shown in record["nodes"]:
        node: CacheNode = cache.nodes[shown["node"]]
        node.nr_slabs = shown["nr_slabs"]
        for slab in map(slab_of, shown["partial"]):
            node.add_partial(slab, tail=True)
        # What is not free in a full slab cannot be told from a dump; only the list matters.
        for pfn in shown["full"]:
            full = {"pfn": pfn, "freelist": [], "objects": cache.objects, "inuse": cache.objects, "frozen": 0}
            node.full[pfn] = slab_of(full)
    return cache


def cache_differences(slub: NaiveSlub, cache: Cache, record: Record, dump: str) -> Iterator[str]:
    """What differs between a cache and its record in a dump."""
    expected = dict(shown_state(record))
    for where, ours in slub.state(cache):
        if ours != expected.get(where):
            yield f"{dump}: {where}: expected {expected.get(where)!r:.200}, got {ours!r:.200}"


def shown_state(record: Record) -> Iterator[tuple[str, Any]]:
    """A record of a cache in the form of `NaiveSlub.state`."""

    def shown(slab: Record) -> tuple[int, int, int, bool, list[int]]:
        return (slab["pfn"], slab["inuse"], slab["objects"], bool(slab["frozen"]), slab["freelist"])

    name = record["name"]
    for c in record.get("cpus") or [{"cpu": 0, **record["cpu"]}]:
        cpu = c["cpu"]
        yield f"{name} cpu {cpu} slab", None if c["slab"] is None else shown(c["slab"])
        yield f"{name} cpu {cpu} freelist", c["freelist"]
        yield (f"{name} cpu {cpu} partial", [(entry["slabs"], *shown(entry["s"])) for entry in c["partial"]])
    for node in record["nodes"]:
        yield f"{name} node {node['node']} nr_slabs", node["nr_slabs"]
        yield (f"{name} node {node['node']} partial", [shown(slab) for slab in node["partial"]])
        yield f"{name} node {node['node']} full", node["full"]
