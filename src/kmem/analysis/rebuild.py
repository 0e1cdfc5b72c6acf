# SPDX-License-Identifier: GPL-2.0-only
"""A machine in the state that a Mem-Info block shows.

The log says how many free blocks there are of each order, and which migrate
types have any; it does not say where they lie, nor how many are of which type.
Both are made up here in one fixed way (:func:`rebuild`), which no watermark and
no list's being empty depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmem.errors import InputError
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.mm.mmzone import ZONE_NAMES_32, ZONE_NAMES_64
from kmem.mm.page_alloc import PageAllocator
from kmem.trace.mem_info import MemInfo, ZoneInfo

__all__ = ["Rebuilt", "largest_order", "rebuild", "zone_set"]

_NR_ORDERS = 11
_MAX_NODES = 64
#: By letter; reserved blocks (R, until 4.3) are for anybody in need, as unmovable ones are.
_TYPES = {"U": 0, "M": 1, "E": 2, "R": 0, "H": 3, "C": 5, "I": 4}
_HIGHATOMIC, _CMA = 3, 5
#: No list is made longer than this many frames: beyond it, length decides nothing.
_LIST_FRAMES = 1 << 19
_LARGE_LIST_FRAMES = 1 << 16  # on machines with much free memory
_MUCH_FREE = 1 << 21
_ALLOCATED = 3  # kmem.mm.page.KIND_NAMES
_MOST_LRU = 1 << 17
_BATCH = 63

#: Zones that kernels are built with, lowest first; where several fit, the first is taken.
_ZONE_SETS = (
    ("Normal", "Movable"),
    ("DMA", "Normal", "Movable"),
    ("Normal", "HighMem", "Movable"),
    ("DMA32", "Normal", "Movable"),
    ("Normal", "Movable", "Device"),
    ("DMA", "DMA32", "Normal", "Movable"),
    ("DMA", "Normal", "HighMem", "Movable"),
    ("DMA", "Normal", "Movable", "Device"),
    ("DMA32", "Normal", "Movable", "Device"),
    ("Normal", "HighMem", "Movable", "Device"),
    ("DMA", "DMA32", "Normal", "Movable", "Device"),
    ("DMA", "Normal", "HighMem", "Movable", "Device"),
    # before there was a movable zone
    ("Normal",),
    ("DMA", "Normal"),
    ("DMA", "Normal", "HighMem"),
)


@dataclass(slots=True)
class Rebuilt:
    """A page allocator in the printed state.

    Attributes
    ----------
    allocator : PageAllocator
    zones : dict of (int, str) to int
        Zone numbers of the printed zones.
    lru : dict of int to list of int
        Frames, by zone number, that reclaim could free: clean page cache, and
        anonymous memory as far as swap has room for it.
    """

    allocator: PageAllocator
    zones: dict[tuple[int, str], int]
    lru: dict[int, list[int]]


def zone_set(info: MemInfo) -> tuple[str, ...]:
    """Names of the zones that the kernel which printed a block is built with, lowest first.

    ``lowmem_reserve`` has a number for each of them, which is 0 up to the zone itself.
    """
    printed = {zone.name for zone in info.zones}
    sizes = {len(zone.lowmem_reserve) for zone in info.zones if zone.lowmem_reserve}
    fitting = [
        names
        for names in _ZONE_SETS
        if printed <= {*names}
        and all(len(names) == size for size in sizes)
        and all(not any((zone.lowmem_reserve or [])[: names.index(zone.name) + 1]) for zone in info.zones)
    ]
    if not fitting:
        return ZONE_NAMES_32 if "HighMem" in printed else ZONE_NAMES_64
    if "DMA32" not in printed and not info.numa:  # of two that fit, the one without nodes
        fitting.sort(key=lambda names: "DMA32" in names)
    return fitting[0]


def largest_order(info: MemInfo) -> int:
    """The largest order that the kernel which printed a block has."""
    return max((len(zone.blocks) for zone in info.zones if zone.blocks), default=_NR_ORDERS) - 1


def rebuild(
    info: MemInfo, *, nodes: frozenset[int] | None = None, swap_pages: int = 0, together: bool = False
) -> Rebuilt:
    """Make a page allocator in the state of a Mem-Info block.

    Parameters
    ----------
    info : MemInfo
        A complete one.
    nodes : frozenset of int or None
        The nodes to make; None means all.
    swap_pages : int
        Room for anonymous memory in swap, beyond what the log says is free.
    together : bool
        Whether reclaimable pages lie side by side; by default no two do, so
        that reclaiming them makes no block.

    Raises
    ------
    InputError
        If the numbers contradict each other, or are of a machine that is not modelled.

    Notes
    -----
    What the log leaves open: blocks of one order are shared out evenly between
    the types that have any; no two free blocks are neighbours; per-CPU lists
    are empty; zones that were not printed have no page.
    """
    kernel_names = zone_set(info)
    names = ZONE_NAMES_64 if "DMA32" in kernel_names else ZONE_NAMES_32
    dump = StateDump("Mem-Info", Path("log"), 0)
    pageblock_order = 10 if info.hugepage_kb == 4096 or (names == ZONE_NAMES_32 and info.hugepage_kb is None) else 9
    chosen = [zone for zone in info.zones if zone.name in names and (nodes is None or zone.node in nodes)]
    ordered = sorted(chosen, key=lambda zone: (zone.node, names.index(zone.name)))
    nr_nodes = max((zone.node for zone in ordered), default=0) + 1
    if not ordered or nr_nodes > _MAX_NODES:
        raise InputError(f"{len(ordered)} zones on {nr_nodes} nodes", remedy="see the log for itself")
    free = sum(zone.counters.get("free", 0) for zone in ordered) // info.page_kb
    most = _LIST_FRAMES if free <= _MUCH_FREE else _LARGE_LIST_FRAMES
    swap = (info.swap_free_kb or 0) // info.page_kb + swap_pages
    at = 0
    lru_frames: list[range] = []
    for zone in ordered:
        builder = _ZoneLayout(zone, info, at, most)
        for record in builder.records(pageblock_order):
            dump.add(record)
        reclaimable, swap = _reclaimable(zone, info.page_kb, swap)
        step = 1 if together else 2
        frames = range(builder.end, builder.end + step * min(reclaimable, _MOST_LRU), step)
        at = _align(frames.stop, 1 << (_NR_ORDERS - 1))
        dump.add(builder.zone_record(at, _reserves(zone, kernel_names, names), len(frames)))
        lru_frames.append(frames)
    for node in range(nr_nodes):
        dump.add(_node_record(node, ordered, nr_nodes))
    allocator = load_page_allocator(dump, cma=any(zone.counters.get("free_cma") for zone in ordered))
    zones = {(zone.node, zone.name): allocator.memmap.zone_id(zone.name, zone.node) for zone in ordered}
    lru = {zone: list(frames) for zone, frames in zip(zones.values(), lru_frames, strict=True)}
    pages = allocator.memmap.pages_array
    for zone_id, frames in zip(lru, lru_frames, strict=True):
        pages["kind"][frames.start : frames.stop : frames.step] = _ALLOCATED
        allocator.memmap.zones_array["foreign"][zone_id] -= len(frames)
    return Rebuilt(allocator, zones, lru)


def _reserves(zone: ZoneInfo, kernel_names: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """``lowmem_reserve`` by the model's zone indexes; a request for a zone that the kernel lacks is one for Normal."""
    printed = zone.lowmem_reserve or []
    given = dict(zip(kernel_names, printed, strict=False))
    return [given.get(name, given.get("Normal", 0) if index else 0) for index, name in enumerate(names)]


def _node_record(node: int, ordered: list[ZoneInfo], nr_nodes: int) -> dict[str, Any]:
    own = [zone for zone in reversed(ordered) if zone.node == node]
    others = [zone for zone in reversed(ordered) if zone.node != node]
    others.sort(key=lambda zone: (zone.node - node) % nr_nodes)
    return {
        "t": "node",
        "node": node,
        "zonelist": [zone.name for zone in own + others],
        "zonelist_nodes": [zone.node for zone in own + others],
        "thisnode_zonelist": [[zone.name, zone.node] for zone in own],
    }


def _align(value: int, to: int) -> int:
    return -(-value // to) * to


def _reclaimable(zone: ZoneInfo, page_kb: int, swap: int) -> tuple[int, int]:
    """Pages of a zone that reclaim could free at once, and the swap space that is left then."""
    kb = zone.counters
    file = kb.get("active_file", 0) + kb.get("inactive_file", 0)
    dirty = kb.get("writepending", kb.get("dirty", 0) + kb.get("writeback", 0))
    clean = max(file - dirty, 0) // page_kb
    anon = min((kb.get("active_anon", 0) + kb.get("inactive_anon", 0)) // page_kb, swap)
    return clean + anon, swap - anon


class _ZoneLayout:
    """Lays out the free blocks of one zone from frame `start` on."""

    def __init__(self, zone: ZoneInfo, info: MemInfo, start: int, most: int) -> None:
        self.zone = zone
        self.most = most
        self.page_kb = info.page_kb
        self.start = self.end = start
        self.listed = 0
        self.regions: list[tuple[int, int]] = []

    def pages(self, name: str, default: int = 0) -> int:
        return self.zone.counters.get(name, default * self.page_kb) // self.page_kb

    def records(self, pageblock_order: int) -> Iterator[dict[str, Any]]:
        blocks = _folded(self.zone.blocks or [])
        for letter_type in sorted(set(_TYPES.values())):
            begin = self.end
            for order in range(len(blocks) - 1, -1, -1):
                count = _share(blocks[order], letter_type, self.pages("reserved_highatomic") >> order)
                count = min(count, max(self.most >> order, 1))
                stride = (1 << order) if order == _NR_ORDERS - 1 else (2 << order)
                first = _align(self.end, stride)
                if not count:
                    continue
                pfns = list(range(first, first + count * stride, stride))
                self.end = first + count * stride
                self.listed += count << order
                yield self._free(order, letter_type, pfns)
            self.end = _align(self.end, 1 << (_NR_ORDERS - 1))
            self.regions += [(letter_type, (self.end - begin) >> pageblock_order)]
        types = "".join(str(mt) * count for mt, count in self.regions)
        if types:
            yield {
                "t": "pageblocks",
                "zone": self.zone.name,
                "node": self.zone.node,
                "first_pfn": self.start,
                "types": types,
                "pageblock_order": pageblock_order,
            }

    def _free(self, order: int, mt: int, pfns: list[int]) -> dict[str, Any]:
        return {"t": "free", "zone": self.zone.name, "node": self.zone.node, "order": order, "mt": mt, "pfns": pfns}

    def zone_record(self, end: int, reserves: list[int], lru: int) -> dict[str, Any]:
        counters = self.zone.counters
        boost = self.pages("boost")
        least = self.pages("min")
        marks = {f"wm_{name}": max(self.pages(name, least), least) - boost for name in ("min", "low", "high")}
        free = self.pages("free")
        managed = max(self.pages("managed", self.pages("present")), self.listed + lru)
        return {
            "t": "zone",
            "name": self.zone.name,
            "node": self.zone.node,
            **marks,
            "wm_promo": marks["wm_high"],
            "start_pfn": self.start,
            "spanned": end - self.start,
            "present": max(self.pages("present"), managed),
            "managed": managed,
            "boost": boost,
            # from 6.13 on, only what is free of it is held back
            "nr_highatomic": self.pages("free_highatomic" if "free_highatomic" in counters else "reserved_highatomic"),
            "flags": 1 if boost else 0,
            "lowmem_reserve": reserves,
            "free_cma": self.pages("free_cma"),
            # what the lists hold beyond the counter is in the CPU's difference, as in the kernel
            "vm_stat": [free],
            "vm_stat_diff": [self.listed - free],
            "stat_threshold": abs(self.listed - free) + _BATCH,
            "pageset_high": 6 * _BATCH,
            "pageset_batch": _BATCH,
        }


def _folded(blocks: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Blocks with those larger than the model has any as blocks of its largest order."""
    folded = blocks[:_NR_ORDERS]
    for order, (count, letters) in enumerate(blocks[_NR_ORDERS:], 1):
        had, types = folded[-1]
        folded[-1] = had + (count << order), types + letters
    return folded


def _share(block: tuple[int, str], migratetype: int, most_reserved: int) -> int:
    """How many of the blocks of one order are taken to be of a migrate type."""
    count, letters = block
    types = sorted({_TYPES[letter] for letter in letters if letter in _TYPES}) or [0]
    if migratetype not in types:
        return 0
    reserved = min(max(most_reserved, 1), count // len(types) or 1) if _HIGHATOMIC in types else 0
    if migratetype == _HIGHATOMIC:
        return reserved
    others = [mt for mt in types if mt != _HIGHATOMIC]
    share, more = divmod(count - reserved, len(others))
    return share + (others.index(migratetype) < more)
