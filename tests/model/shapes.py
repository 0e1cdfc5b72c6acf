# SPDX-License-Identifier: GPL-2.0-only
"""Small invented machines, as state dumps in the recordings' form, so that both models load the same thing.

What is drawn from the seed: watermarks, per-CPU limits, counters' thresholds, the types of the page blocks, and which
frames are somebody else's.  What is not in use is free, in the largest blocks that fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from .recording import Dump, Record

NAMES_64 = ("DMA", "DMA32", "Normal", "Movable", "Device")
NAMES_32 = ("DMA", "Normal", "HighMem", "Movable")
MAX_ORDER = 11
NR_PCP_LISTS = 14


@dataclass(frozen=True)
class Shape:
    """Zones of a machine: (node, name, first frame, end), low memory first."""

    name: str
    zones: tuple[tuple[int, str, int, int], ...]
    names: tuple[str, ...]
    pageblock_order: int
    nr_cpus: int = 1
    cma: bool = False

    @property
    def nr_nodes(self) -> int:
        return 1 + max(node for node, *_ in self.zones)

    @property
    def nr_frames(self) -> int:
        return max(end for *_, end in self.zones)

    def cpu_node(self, cpu: int) -> int:
        """CPUs are dealt out to the nodes in turn."""
        return cpu % self.nr_nodes


SHAPES = {
    shape.name: shape
    for shape in (
        #  frame    1        1024          2048                                4096
        #           | DMA     | DMA32       | Normal                            |
        Shape("tiny", ((0, "DMA", 1, 1024), (0, "DMA32", 1024, 2048), (0, "Normal", 2048, 4096)), NAMES_64, 6),
        Shape("tiny2", ((0, "DMA", 1, 512), (0, "DMA32", 512, 4096)), NAMES_64, 5, nr_cpus=2),
        #  Page blocks as large as on amd64, so a zone has only a few.
        Shape("block9", ((0, "DMA", 1, 1024), (0, "DMA32", 1024, 4096)), NAMES_64, 9, nr_cpus=2),
        #  i386: Normal ends within a page block, the rest of which is HighMem's; the last block is cut short.
        #  frame    1        1024                   2526                      4000
        #           | DMA     | Normal               | HighMem                 |
        Shape("i386", ((0, "DMA", 1, 1024), (0, "Normal", 1024, 2526), (0, "HighMem", 2526, 4000)), NAMES_32, 6),
        Shape("i386-10", ((0, "DMA", 1, 2048), (0, "Normal", 2048, 7230), (0, "HighMem", 7230, 14000)), NAMES_32, 10),
        #  frame    1        512           1536       2048            3072              4096
        #           | DMA  0  | DMA32  0    | Normal 0 | Normal  1      | Movable  1       |
        Shape(
            "numa",
            (
                (0, "DMA", 1, 512),
                (0, "DMA32", 512, 1536),
                (0, "Normal", 1536, 2048),
                (1, "Normal", 2048, 3072),
                (1, "Movable", 3072, 4096),
            ),
            NAMES_64,
            6,
            nr_cpus=3,
        ),
        Shape("numa-dma32", ((0, "DMA", 1, 1024), (0, "DMA32", 1024, 2560), (1, "DMA32", 2560, 4096)), NAMES_64, 7, 2),
        Shape("cma", ((0, "DMA", 1, 1024), (0, "DMA32", 1024, 4096)), NAMES_64, 6, nr_cpus=2, cma=True),
        Shape("large", ((0, "DMA", 1, 4096), (0, "DMA32", 4096, 32768), (0, "Normal", 32768, 65024)), NAMES_64, 9, 4),
        Shape(
            "large-i386", ((0, "DMA", 1, 4096), (0, "Normal", 4096, 30718), (0, "HighMem", 30718, 60000)), NAMES_32, 10
        ),
    )
}


def free_runs(rng: Random, start: int, end: int, used_share: float) -> Iterator[tuple[int, int]]:
    """Runs of free frames between runs of frames in use."""
    at = start
    while at < end:
        free = rng.choice((1, 7, 60, 500, 3000)) if used_share else end
        last = min(at + free, end)
        yield at, last
        at = last + (rng.randrange(1, 200) if rng.random() < used_share else 1)


def blocks_of(start: int, end: int) -> Iterator[tuple[int, int]]:
    """A run of frames as aligned blocks: (first frame, order)."""
    while start < end:
        order = min((start & -start).bit_length() - 1 if start else MAX_ORDER - 1, (end - start).bit_length() - 1)
        order = min(order, MAX_ORDER - 1)
        yield start, order
        start += 1 << order


def same_kind(start: int, end: int, types: list[int], first_block: int, block: int) -> Iterator[tuple[int, int]]:
    """A run cut where CMA begins or ends: free blocks do not merge across that."""
    while start < end:
        cma = types[start // block - first_block] == 5
        at = start
        while at < end and (types[at // block - first_block] == 5) == cma:
            at = (at // block + 1) * block
        yield start, min(at, end)
        start = min(at, end)


def block_types(rng: Random, shape: Shape, name: str, count: int) -> list[int]:
    """Mostly movable; with CMA, some blocks of that.  A zone's first block is never CMA's."""
    weights = (1, 4, 1, 0, 0, 2 if shape.cma and name != "DMA" else 0)
    types = rng.choices(range(6), weights, k=count)
    return types if shape.cma else [mt if mt < 3 else 1 for mt in types]


def zone_records(rng: Random, shape: Shape, zone: tuple[int, str, int, int], used_share: float) -> Iterator[Record]:
    """The records of one zone and its lists."""
    node, name, start, end = zone
    block = 1 << shape.pageblock_order
    first_block = start // block
    types = block_types(rng, shape, name, -(-end // block) - first_block)
    lists: dict[tuple[int, int], list[int]] = {}
    lru: list[tuple[int, int]] = []
    free_pages = 0
    in_use_from = start
    for first, last in free_runs(rng, start, end, used_share):
        if first > in_use_from and rng.random() < 0.5:
            lru.append((in_use_from, first - in_use_from))
        in_use_from = last
        for part, part_end in same_kind(first, last, types, first_block, block):
            for pfn, order in blocks_of(part, part_end):
                lists.setdefault((order, types[pfn // block - first_block]), []).append(pfn)
                free_pages += 1 << order
    managed = end - start
    low = rng.randrange(4, 12) * managed // 1000
    step = max(1, low // 4)
    reserve = [0 if shape.names.index(name) >= idx else managed // rng.randrange(20, 80) for idx in range(5)]
    batch = rng.choice((1, 2, 7, 15, 31))
    high = batch * rng.choice((1, 2, 4, 9, 40)) + rng.randrange(batch + 1)
    threshold = rng.choice((1, 2, 6, 12, 30))
    at = {"node": node, "zone": name}
    yield {
        "t": "zone",
        "node": node,
        "idx": shape.names.index(name),
        "name": name,
        "start_pfn": start,
        "spanned": managed,
        "present": managed,
        "managed": managed,
        "wm_min": low,
        "wm_low": low + step,
        "wm_high": low + 2 * step,
        "wm_promo": low + 3 * step,
        "boost": 0,
        "nr_highatomic": 0,
        "flags": 0,
        "pageset_high": high,
        "pageset_batch": batch,
        "lowmem_reserve": reserve[: len(shape.names)],
        "vm_stat": [free_pages, *[0] * 10],
        "stat_threshold": threshold,
        "vm_stat_diff": [0] * 11,
    }
    for order in range(MAX_ORDER):
        counts = 0
        for mt in range(6):
            frames = lists.get((order, mt), [])
            rng.shuffle(frames)
            counts += len(frames)
            if frames:
                yield {"t": "free", **at, "order": order, "mt": mt, "pfns": frames}
        yield {"t": "area", **at, "order": order, "nr_free": counts}
    for cpu in range(shape.nr_cpus):
        empty: list[list[int]] = [[] for _ in range(NR_PCP_LISTS)]
        limits = {"high": high, "batch": batch, "count": 0, "free_factor": 0, "expire": 0}
        yield {"t": "pcp", **at, "cpu": cpu, **limits, "lists": empty}
        yield {"t": "zstat", **at, "cpu": cpu, "stat_threshold": threshold, "vm_stat_diff": [0] * 11}
    yield {"t": "pcp_mt", **at, "differs": []}
    yield {"t": "lru", **at, "ranges": lru}
    yield {
        "t": "pageblocks",
        **at,
        "first_pfn": first_block * block,
        "pageblock_order": shape.pageblock_order,
        "types": "".join(map(str, types)),
    }


def node_records(shape: Shape) -> Iterator[Record]:
    """Fallback orders: a node's own zones from the highest down, then the other node's."""
    for node in range(shape.nr_nodes):
        local = [(name, at) for at, name, *_ in reversed(shape.zones) if at == node]
        remote = [(name, at) for at, name, *_ in reversed(shape.zones) if at != node]
        yield {
            "t": "node",
            "node": node,
            "zonelist": [name for name, _ in local + remote],
            "zonelist_nodes": [at for _, at in local + remote],
            "thisnode_zonelist": local,
        }


def dump_records(shape: Shape, seed: int) -> list[Record]:
    """The records of a dump of the machine."""
    rng = Random(f"{shape.name} {seed}")
    used_share = rng.choice((0.0, 0.2, 0.6))
    records = list(node_records(shape))
    for zone in shape.zones:
        records += zone_records(rng, shape, zone, used_share)
    populated = {(node, name) for node, name, *_ in shape.zones}
    for node in range(shape.nr_nodes):
        for idx, name in enumerate(shape.names):
            if (node, name) not in populated:
                empty = dict.fromkeys(
                    ("start_pfn", "spanned", "present", "managed", "boost", "nr_highatomic", "flags"), 0
                )
                marks = dict.fromkeys(("wm_min", "wm_low", "wm_high", "wm_promo"), 0)
                limits = {"pageset_high": 4, "pageset_batch": 1, "lowmem_reserve": [0] * len(shape.names)}
                records.append(
                    {
                        "t": "zone",
                        "node": node,
                        "idx": idx,
                        "name": name,
                        **empty,
                        **marks,
                        **limits,
                        "vm_stat": [0] * 11,
                    }
                )
    records.append(
        {
            "t": "globals",
            "watermark_boost_factor": rng.choice((0, 15000, 15000)),
            "page_group_by_mobility_disabled": int(rng.random() < 0.1),
            "cma": int(shape.cma),
            "cpu_node": [shape.cpu_node(cpu) for cpu in range(shape.nr_cpus)],
        }
    )
    return records


def dump_of(name: str, records: list[Record]) -> Dump:
    """The dump for the naive models."""
    dump = Dump(name)
    for record in records:
        dump.add(record)
    return dump


def situation(
    shape: Shape,
    free: dict[tuple[str, int, int], list[int]],
    types: dict[str, str],
    *,
    high: int = 0,
    batch: int = 1,
    marks: tuple[int, int, int] = (0, 0, 0),
    boost_factor: int = 0,
    lru: dict[str, list[tuple[int, int]]] | None = None,
) -> list[Record]:
    """The records of a machine whose free blocks are given: `free[zone, order, type]`, head first; `types[zone]`.

    A `high` of 0 keeps nothing on the per-CPU lists: what is freed goes straight to the buddy lists.
    """
    records = dump_records(shape, 0)
    records = [record for record in records if record["t"] not in ("free", "area")]
    for record in records:
        if record["t"] == "zone" and record["spanned"]:
            lists = {key: pfns for key, pfns in free.items() if key[0] == record["name"]}
            record["vm_stat"][0] = sum(len(pfns) << order for (_, order, _), pfns in lists.items())
            record["wm_min"], record["wm_low"], record["wm_high"] = marks
            record["lowmem_reserve"] = [0] * len(shape.names)
            record["pageset_high"], record["pageset_batch"] = high, batch
            record["stat_threshold"] = 0
        elif record["t"] == "pcp":
            record["high"], record["batch"] = high, batch
        elif record["t"] == "zstat":
            record["stat_threshold"] = 0
        elif record["t"] == "pageblocks":
            record["types"] = types[record["zone"]]
        elif record["t"] == "lru":
            record["ranges"] = (lru or {}).get(record["zone"], [])
        elif record["t"] == "globals":
            record["watermark_boost_factor"] = boost_factor
            record["page_group_by_mobility_disabled"] = 0
    for (zone, order, mt), pfns in free.items():
        records.append({"t": "free", "node": 0, "zone": zone, "order": order, "mt": mt, "pfns": pfns})
    return records
