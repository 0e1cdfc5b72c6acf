# SPDX-License-Identifier: GPL-2.0-only
"""State dumps of a real kernel: reading them, starting the model from one.

A recording is JSON Lines; a state dump is the run of records between
``{"t": "dump"}`` and ``{"t": "enddump"}``.  :func:`read_records` yields the
records of a file with their line numbers, :class:`StateDump` gathers those of
one dump, and :func:`load_page_allocator` starts a model from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kmem.errors import InputError
from kmem.machine.records import Record, open_recording, read_records, text
from kmem.mm.mmzone import ZONE_NAMES_32, ZONE_NAMES_64, MemMap
from kmem.mm.page import PAGE_DTYPE
from kmem.mm.page_alloc import PageAllocator

__all__ = ["StateDump", "link_list", "load_page_allocator", "open_recording", "read_records"]

_BUDDY, _PCP, _FREE = 1, 2, 7
_LRU_FLAG = 1
_MAX_NR_ZONES = 5
_NR_ORDERS = 11
_MAX_PFN = 1 << 31
_MANY_BLOCKS_BELOW = 6  # this order: there are many small blocks, and few large ones
_TAKEN_AT_ITS_WORD = 1 << 22  # frames; more of them have to be shown by page blocks
_LARGEST_HOLE = 1 << 24  # frames that belong to no zone


@dataclass
class StateDump:
    """The records of one state dump, sorted by what they describe.

    Attributes
    ----------
    name : str
        Name the recording gave the dump.
    nodes, zones : list of dict
        ``node`` and ``zone`` records.
    others : dict of str to list of dict
        All further records by their ``t``.
    what : str
        The parts that the recorder was asked for: ``z`` zones, ``c`` the recording's
        own caches, ``a`` all caches. Empty if the recording does not say.
    """

    name: str
    file: Path
    line: int
    nodes: list[Record] = field(default_factory=list)
    zones: list[Record] = field(default_factory=list)
    others: dict[str, list[Record]] = field(default_factory=dict)
    what: str = ""

    def add(self, record: Record) -> None:
        """Take in one record of the dump."""
        kind = record.get("t")
        if kind == "node":
            self.nodes.append(record)
        elif kind == "zone":
            self.zones.append(record)
        else:
            self.others.setdefault(str(kind), []).append(record)

    def of(self, kind: str) -> list[Record]:
        """Records of one kind, in their order."""
        return self.others.get(kind, [])

    @classmethod
    def collect(cls, head: Record, records: Iterator[tuple[int, Record]], file: Path, line: int) -> StateDump:
        """Read on from a ``dump`` record to its ``enddump``.

        Raises
        ------
        InputError
            If the recording ends first, or was truncated by the recorder.
        """
        dump = cls(str(head.get("name", "")), file, line, what=str(head.get("what", "")))
        for number, record in records:
            if record.get("t") == "enddump":
                if record.get("truncated"):
                    raise InputError(f"state dump {dump.name!r} was truncated by the recorder", file=file, line=number)
                return dump
            if "op" in record:
                raise InputError(f"an operation inside the state dump {dump.name!r}", file=file, line=number)
            dump.add(record)
        raise InputError(f"the recording ends inside the state dump {dump.name!r}", file=file, line=line)

    @property
    def empty(self) -> bool:
        """Whether there is nothing between the dump's first and last line."""
        return not (self.nodes or self.zones or self.others)

    @property
    def zone_names(self) -> tuple[str, ...]:
        """Names of the machine's zone indexes, lowest first."""
        names = tuple(str(zone["name"]) for zone in self.zones if zone.get("node", 0) == 0)
        for known in (ZONE_NAMES_64, ZONE_NAMES_32):
            if set(names) <= set(known) and ("DMA32" in names) == ("DMA32" in known):
                return known
        raise InputError(f"zones {', '.join(names)} are of no machine that is modelled", file=self.file, line=self.line)

    @property
    def globals(self) -> Record:
        """The ``globals`` record, empty if there is none."""
        records = self.of("globals")
        return records[0] if records else {}

    @property
    def nr_cpus(self) -> int:
        """CPUs that the dump shows per-CPU lists of."""
        return 1 + max((int(record.get("cpu", 0)) for record in self.of("pcp")), default=0)

    @property
    def cpu(self) -> int:
        """The CPU that the dump was taken on: the one it shows, 0 if it shows several."""
        shown = {int(record.get("cpu", 0)) for record in self.of("pcp")}
        return shown.pop() if len(shown) == 1 else 0

    @property
    def nr_nodes(self) -> int:
        """NUMA nodes that the dump shows."""
        return 1 + max((int(record["node"]) for record in self.nodes), default=0)

    def pageblock_order(self) -> int:
        """Order of a page block, 9 if the dump does not say."""
        blocks = self.of("pageblocks")
        return int(blocks[0]["pageblock_order"]) if blocks else 9


def load_page_allocator(dump: StateDump, *, cma: bool = False) -> PageAllocator:
    """Start a page allocator from the recorded state.

    Parameters
    ----------
    dump : StateDump
    cma : bool
        Whether the kernel has CMA areas: free blocks of type 5, ``free_cma`` of zones.

    Frames that the dump shows neither free nor on a per-CPU list are in use
    by somebody the model does not know; they can not be freed.

    Raises
    ------
    InputError
        If the dump is incomplete or contradicts itself.
    """
    try:
        return _load(dump, cma)
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"state dump {dump.name!r} is unusable: {what}", file=dump.file, line=dump.line) from None


def _load(dump: StateDump, cma: bool) -> PageAllocator:
    if not dump.zones:
        raise ValueError("it has no zones")
    names = dump.zone_names
    frames = max(int(zone["start_pfn"]) + int(zone["spanned"]) for zone in dump.zones)
    if not 0 < frames < _MAX_PFN:
        raise ValueError(f"{frames} page frames")
    if frames > _TAKEN_AT_ITS_WORD:
        _check_size(dump, frames)
    memmap = MemMap(frames, dump.nr_nodes, dump.nr_cpus, dump.pageblock_order(), names, flatmem=names == ZONE_NAMES_32)
    allocator = PageAllocator(memmap, _zonelists(dump, memmap), cma)
    _load_zones(dump, memmap)
    _load_lists(dump, memmap)
    for zone in memmap.zones_array:
        per_cpu = memmap.pagesets_array["count"][zone["pageset"] : zone["pageset"] + memmap.nr_cpus].sum()
        free = int((zone["nr_free"].astype(np.int64) << np.arange(_NR_ORDERS)).sum()) + int(per_cpu)
        if free > zone["managed"]:
            raise ValueError(f"a zone manages {zone['managed']} pages, but {free} are free")
        zone["foreign"] = zone["managed"] - free
    knobs = dump.globals
    allocator.watermark_boost_factor = int(knobs.get("watermark_boost_factor", 15000))
    allocator.page_group_by_mobility_disabled = bool(knobs.get("page_group_by_mobility_disabled", 0))
    return allocator


def _check_size(dump: StateDump, frames: int) -> None:
    """Refuse a large machine that is only claimed: memory for its frames follows what the dump itself shows."""
    blocks = sum(len(text(record, "types")) for record in dump.of("pageblocks"))
    spanned = sum(int(zone["spanned"]) for zone in dump.zones)
    if spanned > (blocks + len(dump.zones)) << dump.pageblock_order() or frames > spanned + _LARGEST_HOLE:
        raise ValueError(f"{frames} page frames, of which the zones and their {blocks} page blocks hold far less")


def _zonelists(dump: StateDump, memmap: MemMap) -> dict[tuple[int, bool], list[int]]:
    lists: dict[tuple[int, bool], list[int]] = {}
    for node in dump.nodes:
        own = int(node["node"])
        nodes = node.get("zonelist_nodes") or _zonelist_nodes(node["zonelist"], own, memmap)
        lists[own, False] = [memmap.zone_id(name, nid) for name, nid in zip(node["zonelist"], nodes, strict=True)]
        local = node.get("thisnode_zonelist")
        if local is None:
            local = [(name, nid) for name, nid in zip(node["zonelist"], nodes, strict=True) if nid == own]
        lists[own, True] = [memmap.zone_id(name, nid) for name, nid in local]
    return lists


def _zonelist_nodes(names: list[str], own: int, memmap: MemMap) -> list[int]:
    """Nodes of a zonelist's zones where the dump does not tell.

    Each node's zones follow one another, highest first; the nodes are taken to
    follow one another by number, from the list's own on, as they do if all are
    equally far.
    """
    nodes: list[int] = []
    last = -1
    for name in names:
        index = memmap.zone_names.index(name)
        if nodes:
            own = own if index < last else (own + 1) % memmap.nr_nodes
        nodes.append(own)
        last = index
    return nodes


def _load_zones(dump: StateDump, memmap: MemMap) -> None:
    pages, zones, pagesets = memmap.pages_array, memmap.zones_array, memmap.pagesets_array
    for record in dump.zones:
        zone_id = memmap.zone_id(record["name"], record.get("node", 0))
        zone = zones[zone_id]
        for name in ("start_pfn", "spanned", "present", "managed"):
            zone[name] = record[name]
        zone["watermark"] = [record["wm_min"], record["wm_low"], record["wm_high"], record["wm_promo"]]
        zone["watermark_boost"] = record["boost"]
        zone["nr_reserved_highatomic"] = record["nr_highatomic"]
        zone["flags"] = int(record["flags"]) & 3
        reserve = record["lowmem_reserve"]
        zone["lowmem_reserve"][: len(reserve)] = reserve
        zone["free_pages"] = record["vm_stat"][0]
        zone["free_cma_pages"] = record.get("free_cma", 0)
        zone["stat_threshold"] = record.get("stat_threshold", 0)
        start, spanned = int(record["start_pfn"]), int(record["spanned"])
        if spanned:
            pages["zone"][start : start + spanned] = zone_id
        for cpu in range(memmap.nr_cpus):
            pageset = pagesets[zone_id * memmap.nr_cpus + cpu]
            pageset["high"] = record["pageset_high"]
            pageset["batch"] = record["pageset_batch"]
        pagesets[zone_id * memmap.nr_cpus + dump.cpu]["stat_diff"] = record.get("vm_stat_diff", [0])[0]
    for record in dump.of("zstat"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        pagesets[zone_id * memmap.nr_cpus + record["cpu"]]["stat_diff"] = record["vm_stat_diff"][0]
    for record in dump.of("pageblocks"):
        types = np.frombuffer(text(record, "types").encode(), np.uint8) - ord("0")
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        blocks = memmap.pageblock_slice(zone_id, int(record["first_pfn"]), len(types))
        blocks[:] = np.where(types <= 5, types, blocks)


def _load_lists(dump: StateDump, memmap: MemMap) -> None:
    pages = memmap.pages_array
    for record in dump.of("free"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        order, migratetype = int(record["order"]), int(record["mt"])
        link_list(
            memmap, int(memmap.zones_array[zone_id]["lists"]) + order * 6 + migratetype, record["pfns"], order, _BUDDY
        )
        memmap.zones_array[zone_id]["nr_free"][order] += len(record["pfns"])
    for record in dump.of("pcp"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        pageset = memmap.pagesets_array[zone_id * memmap.nr_cpus + record.get("cpu", 0)]
        for name in ("count", "high", "batch", "free_factor", "expire"):
            pageset[name] = record[name]
        for pindex, frames in enumerate(record["lists"]):
            order = memmap.pageblock_order if pindex >= 12 else pindex // 3
            link_list(memmap, int(pageset["lists"]) + pindex, frames, order, _PCP)
            pages["migratetype"][frames] = pindex % 3
    for record in dump.of("pcp_mt"):
        for pfn, migratetype in record["differs"]:
            pages["migratetype"][pfn] = migratetype
    for record in dump.of("lru"):
        for start, length in record["ranges"]:
            pages["flags"][start : start + length] |= _LRU_FLAG


def link_list(memmap: MemMap, head: int, frames: list[int], order: int, kind: int) -> None:
    """Make `frames`, none of which is in use, the list of blocks at record `head`, in this order.

    Raises
    ------
    ValueError
        If a frame lies outside the machine or is on another list.
    """
    if not frames:
        return
    pages = memmap.pages_array
    ring = np.array([head, *frames], PAGE_DTYPE["next"])
    if ring[1:].max() >= memmap.nr_frames:
        raise ValueError(f"frame {ring[1:].max()} lies outside the machine")
    if (pages["kind"][ring[1:]] != 0).any():
        raise ValueError(f"frame {ring[1:][pages['kind'][ring[1:]] != 0][0]} is on two lists")
    pages["next"][ring] = np.roll(ring, -1)
    pages["prev"][ring] = np.roll(ring, 1)
    if 0 < order < _MANY_BLOCKS_BELOW:
        inner = (ring[1:, np.newaxis].astype(np.int64) + np.arange(1, 1 << order)).ravel()
        pages["kind"][inner[inner < memmap.nr_frames]] = _FREE
    for pfn in frames if order >= _MANY_BLOCKS_BELOW else ():
        pages["kind"][pfn + 1 : pfn + (1 << order)] = _FREE
    pages["kind"][frames] = kind
    pages["order"][frames] = order
