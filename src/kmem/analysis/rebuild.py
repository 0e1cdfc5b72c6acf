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

from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.mm.mmzone import ZONE_NAMES_32, ZONE_NAMES_64
from kmem.mm.page_alloc import PageAllocator
from kmem.trace.failures import MemInfo, ZoneInfo

__all__ = ["Rebuilt", "rebuild"]

_NR_ORDERS = 11
_TYPES = {"U": 0, "M": 1, "E": 2, "R": 0, "H": 3, "C": 5, "I": 4}
#: No list is made longer than this many frames: beyond it, length decides nothing.
_LIST_FRAMES = 1 << 19
_ALLOCATED = 3  # kmem.mm.page.KIND_NAMES
_MOST_LRU = 1 << 18
_BATCH = 63


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
    names : tuple of str
        The machine's zone names by index.
    """

    allocator: PageAllocator
    zones: dict[tuple[int, str], int]
    lru: dict[int, list[int]]
    names: tuple[str, ...]


def zone_names(info: MemInfo) -> tuple[str, ...]:
    """Zone names of the machine that printed a block."""
    printed = {zone.name for zone in info.zones}
    reserves = max((len(zone.lowmem_reserve or ()) for zone in info.zones), default=5)
    if (
        "HighMem" in printed
        or (info.pages_highmem and "DMA32" not in printed)
        or (reserves <= 4 and "DMA32" not in printed)
    ):
        return ZONE_NAMES_32
    return ZONE_NAMES_64


def rebuild(info: MemInfo, *, swap_pages: int = 0, together: bool = False) -> Rebuilt:
    """Make a page allocator in the state of a Mem-Info block.

    Parameters
    ----------
    info : MemInfo
        A complete one.
    swap_pages : int
        Room for anonymous memory in swap, beyond what the log says is free.
    together : bool
        Whether reclaimable pages lie side by side; by default no two do, so
        that reclaiming them makes no block.

    Notes
    -----
    What the log leaves open: blocks of one order are shared out evenly between
    the types that have any; no two free blocks are neighbours; per-CPU lists
    are empty; zones that were not printed have no page.
    """
    names = zone_names(info)
    dump = StateDump("Mem-Info", Path("log"), 0)
    pageblock_order = 10 if info.hugepage_kb == 4096 or (names == ZONE_NAMES_32 and info.hugepage_kb is None) else 9
    nodes = sorted({zone.node for zone in info.zones} | {0})
    ordered = sorted(info.zones, key=lambda zone: (zone.node, names.index(zone.name)))
    swap = (info.swap_free_kb or 0) // info.page_kb + swap_pages
    at = 0
    lru_frames: list[tuple[int, range]] = []
    keys = []
    for zone in ordered:
        builder = _ZoneLayout(zone, info, at)
        for record in builder.records(pageblock_order):
            dump.add(record)
        reclaimable, swap = _reclaimable(zone, info.page_kb, swap)
        step = 1 if together else 2
        frames = range(builder.end, builder.end + step * min(reclaimable, _MOST_LRU), step)
        at = _align(frames.stop, 1 << (_NR_ORDERS - 1))
        dump.add(builder.zone_record(at, names, len(frames)))
        keys.append((zone.node, zone.name))
        lru_frames.append((zone.node, frames))
    for node in range(max(nodes) + 1):
        own = [z for z in reversed(ordered) if z.node == node]
        others = [z for z in reversed(ordered) if z.node != node]
        others.sort(key=lambda z: (z.node - node) % (max(nodes) + 1))
        dump.add(
            {"t": "node", "node": node, "zonelist": [z.name for z in own + others]}
            | {"zonelist_nodes": [z.node for z in own + others]}
            | {"thisnode_zonelist": [[z.name, z.node] for z in own]}
        )
    allocator = load_page_allocator(dump)
    zones = {key: allocator.memmap.zone_id(key[1], key[0]) for key in keys}
    lru = {zones[key]: list(frames) for key, (_, frames) in zip(keys, lru_frames, strict=True)}
    pages = allocator.memmap.pages_array
    for zone_id, held in lru.items():
        pages["kind"][held] = _ALLOCATED
        allocator.memmap.zones_array["foreign"][zone_id] -= len(held)
    return Rebuilt(allocator, zones, lru, names)


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

    def __init__(self, zone: ZoneInfo, info: MemInfo, start: int) -> None:
        self.zone = zone
        self.page_kb = info.page_kb
        self.start = self.end = start
        self.listed = 0
        self.regions: list[tuple[int, int]] = []

    def pages(self, name: str, default: int = 0) -> int:
        return self.zone.counters.get(name, default * self.page_kb) // self.page_kb

    def records(self, pageblock_order: int) -> Iterator[dict[str, Any]]:
        blocks = (self.zone.blocks or [])[:_NR_ORDERS]
        for letter_type in sorted(set(_TYPES.values())):
            begin = self.end
            for order in range(len(blocks) - 1, -1, -1):
                count = _share(blocks[order], letter_type, self.pages("reserved_highatomic") >> order)
                count = min(count, max(_LIST_FRAMES >> order, 1))
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

    def zone_record(self, end: int, names: tuple[str, ...], lru: int) -> dict[str, Any]:
        boost = self.pages("boost")
        marks = {f"wm_{name}": self.pages(name, self.pages("min")) - boost for name in ("min", "low", "high")}
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
            "nr_highatomic": self.pages("reserved_highatomic"),
            "flags": 1 if boost else 0,
            "lowmem_reserve": (self.zone.lowmem_reserve or [])[: len(names)],
            # what the lists hold beyond the counter is in the CPU's difference, as in the kernel
            "vm_stat": [free],
            "vm_stat_diff": [self.listed - free],
            "stat_threshold": abs(self.listed - free) + _BATCH,
            "pageset_high": 6 * _BATCH,
            "pageset_batch": _BATCH,
        }


def _share(block: tuple[int, str], migratetype: int, most_reserved: int) -> int:
    """How many of the blocks of one order are taken to be of a migrate type."""
    count, letters = block
    types = sorted({_TYPES[letter] for letter in letters if letter in _TYPES}) or [0]
    if migratetype not in types:
        return 0
    reserved = min(max(most_reserved, 1), count // len(types) or 1) if 3 in types else 0
    if migratetype == 3:
        return reserved
    others = [mt for mt in types if mt != 3]
    share, more = divmod(count - reserved, len(others))
    return share + (others.index(migratetype) < more)
