# SPDX-License-Identifier: GPL-2.0-only
"""Reading ``/proc`` files of a real machine into views.

Fields are found by name, not by place, so that files of other kernels are
read as far as they show the same things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kmem.errors import InputError
from kmem.machine.views import CacheView, IomemRange, MachineView, NodeView, PagesetView, VmallocView, ZoneView

__all__ = [
    "parse_buddyinfo",
    "parse_iomem",
    "parse_meminfo",
    "parse_pagetypeinfo",
    "parse_slabinfo",
    "parse_vmallocinfo",
    "parse_zoneinfo",
    "read_proc_folder",
]

_T = TypeVar("_T")

# More digits than any page count has: what is longer is no number of a kernel.
_NUMBER = r"(\d{1,19})"
_NODE_ZONE = re.compile(r"Node +(\d{1,4}), zone +(\S{1,16})(.*)")
_LIMITS = {
    "pages free": "free_pages",
    "boost": "boost",
    "min": "min",
    "low": "low",
    "high": "high",
    "spanned": "spanned",
    "present": "present",
    "managed": "managed",
    "cma": "cma",
}


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.split("\n"), 1)


def _numbers(text: str, line: int) -> tuple[int, ...]:
    try:
        return tuple(int(word.lstrip(">")) for word in text.split())
    except ValueError:
        raise InputError(f"expected numbers, found {text.strip()[:60]!r}", line=line) from None


def parse_buddyinfo(text: str) -> tuple[ZoneView, ...]:
    """Read ``/proc/buddyinfo``.

    Returns
    -------
    tuple of ZoneView
        Populated zones, with nothing but `nr_free`.

    Raises
    ------
    InputError
        A line is not one of this file; the error names the line.
    """
    zones = []
    for line, row in _lines(text):
        if not row:
            continue
        match = _NODE_ZONE.fullmatch(row)
        if match is None:
            raise InputError(f"not a line of buddyinfo: {row[:60]!r}", line=line)
        counts = _numbers(match[3], line)
        if not 1 <= len(counts) <= 32:
            raise InputError(f"{len(counts)} orders", line=line, remedy="a zone has one number for each order")
        zones.append(ZoneView(int(match[1]), match[2], nr_free=counts))
    if not zones:
        raise InputError("no zone in buddyinfo")
    return tuple(zones)


_TYPE_ROW = re.compile(r"Node +(\d{1,4}), zone +(\S{1,16}), type +(\S{1,16}) +([>\d ]+)")


def parse_pagetypeinfo(text: str) -> MachineView:
    """Read ``/proc/pagetypeinfo``.

    Returns
    -------
    MachineView
        Populated zones with `free` and `blocks`, the migrate types' names and
        the order of page blocks. A count that the kernel cut off (``>100000``)
        is 100,000.

    Raises
    ------
    InputError
        A line is not one of this file; the error names the line.
    """
    order: int | None = None
    free: dict[tuple[int, str], dict[str, tuple[int, ...]]] = {}
    blocks: dict[tuple[int, str], tuple[int, ...]] = {}
    types: tuple[str, ...] = ()
    for line, row in _lines(text):
        if not row or row.startswith(("Free pages count", "Pages per block:", "Number of mixed")):
            continue
        if match := re.fullmatch(r"Page block order: +(\d{1,2})", row):
            order = int(match[1])
        elif match := _TYPE_ROW.fullmatch(row):
            free.setdefault((int(match[1]), match[2]), {})[match[3]] = _numbers(match[4], line)
        elif row.startswith("Number of blocks type"):
            types = tuple(row.removeprefix("Number of blocks type").split())
        elif (match := _NODE_ZONE.fullmatch(row)) and types:
            counts = _numbers(match[3], line)
            if len(counts) != len(types):
                raise InputError(f"{len(counts)} numbers for {len(types)} migrate types", line=line)
            blocks.setdefault((int(match[1]), match[2]), counts)
        else:
            raise InputError(f"not a line of pagetypeinfo: {row[:60]!r}", line=line)
    if order is None or not types or not free:
        raise InputError("pagetypeinfo is cut off", remedy="it has a table of free pages and a table of blocks")
    zones = []
    for (node, name), rows in free.items():
        if tuple(rows) != types or (node, name) not in blocks:
            raise InputError(f"pagetypeinfo: the two tables disagree on node {node}, zone {name}")
        zones.append(ZoneView(node, name, free=tuple(rows.values()), blocks=blocks[node, name]))
    return MachineView(nodes=_by_node(zones), pageblock_order=order, migrate_types=types)


def _by_node(zones: list[ZoneView]) -> tuple[NodeView, ...]:
    nodes: dict[int, list[ZoneView]] = {}
    for zone in zones:
        nodes.setdefault(zone.node, []).append(zone)
    return tuple(NodeView(node, tuple(members)) for node, members in nodes.items())


_STAT = re.compile(r" {2,}([a-z_][a-z0-9_]{0,63}) +" + _NUMBER)
_LIMIT = re.compile(r" +(pages free|boost|min|low|high|spanned|present|managed|cma) +" + _NUMBER)
_PROTECTION = re.compile(r" +protection: \(([\d, ]*)\)")
_PAGESET = re.compile(r" +(cpu|count|high|batch|high_min|high_max|vm stats threshold): +" + _NUMBER)
_LAST = re.compile(r" +(node_unreclaimable|all_unreclaimable|start_pfn|node_inactive_ratio|inactive_ratio): +(\d+)")


class _ZoneinfoReader:
    """Collects the zones of a zoneinfo file, line by line."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[dict[str, int], list[ZoneView]]] = {}
        self.zone: dict[str, Any] = {}
        self.stats: dict[str, int] = {}
        self.pagesets: list[dict[str, int]] = []
        self.in_node_stats = False

    def finish_zone(self) -> None:
        """Put the zone that was being read among those of its node."""
        if not self.zone:
            return
        sets = tuple(
            PagesetView(p["cpu"], p.get("count", 0), p.get("high", 0), p.get("batch", 0), p.get("vm stats threshold"))
            for p in self.pagesets
        )
        zone = ZoneView(**self.zone, stats=self.stats, pagesets=sets)
        self.nodes[zone.node][1].append(zone)
        self.zone, self.stats, self.pagesets = {}, {}, []

    def line(self, row: str) -> bool:
        """Take one line; False if it is not one of this file."""
        if match := _NODE_ZONE.fullmatch(row):
            if match[3].strip():
                return False
            self.finish_zone()
            self.zone = {"node": int(match[1]), "name": match[2]}
            self.nodes.setdefault(int(match[1]), ({}, []))
            self.in_node_stats = False
            return True
        if not self.zone:
            return False
        stripped = row.strip()
        if stripped == "per-node stats":
            self.in_node_stats = True
        elif stripped == "pagesets":
            self.pagesets = []
        elif (match := _LIMIT.fullmatch(row)) and (match[1] == "pages free" or "free_pages" in self.zone):
            self.in_node_stats = False
            self.zone[_LIMITS[match[1]]] = int(match[2])
        elif match := _PROTECTION.fullmatch(row):
            self.zone["protection"] = tuple(int(word) for word in match[1].replace(",", " ").split())
        elif match := _PAGESET.fullmatch(row):
            if match[1] == "cpu":
                self.pagesets.append({})
            if not self.pagesets:
                return False
            self.pagesets[-1][match[1]] = int(match[2])
        elif match := _LAST.fullmatch(row):
            if match[1] == "start_pfn":
                self.zone["start_pfn"] = int(match[2])
            elif match[1].endswith("unreclaimable"):
                self.zone["unreclaimable"] = match[2] != "0"
        elif match := _STAT.fullmatch(row):
            stats = self.nodes[self.zone["node"]][0] if self.in_node_stats else self.stats
            stats[match[1]] = int(match[2])
        else:
            return False
        return True


def parse_zoneinfo(text: str) -> tuple[NodeView, ...]:
    """Read ``/proc/zoneinfo``.

    Returns
    -------
    tuple of NodeView
        Nodes with all zones, populated or not.

    Raises
    ------
    InputError
        A line is not one of this file; the error names the line.
    """
    reader = _ZoneinfoReader()
    for line, row in _lines(text):
        if row and not reader.line(row):
            raise InputError(f"not a line of zoneinfo: {row[:60]!r}", line=line)
    reader.finish_zone()
    if not reader.nodes:
        raise InputError("no zone in zoneinfo")
    return tuple(NodeView(node, tuple(zones), stats) for node, (stats, zones) in reader.nodes.items())


_CACHE = re.compile(
    r"(\S{1,200}) +"
    + r" +".join([_NUMBER] * 5)
    + r" +: tunables +"
    + r" +".join([_NUMBER] * 3)
    + r" +: slabdata +"
    + r" +".join([_NUMBER] * 3)
    + r"( : .*)?"
)


def parse_slabinfo(text: str) -> tuple[CacheView, ...]:
    """Read ``/proc/slabinfo`` (version 2.1).

    Returns
    -------
    tuple of CacheView
        In the file's order, newest cache first.

    Raises
    ------
    InputError
        A line is not one of this file; the error names the line.
    """
    caches = []
    for line, row in _lines(text):
        if line == 1 and not row.startswith("slabinfo - version: 2."):
            raise InputError(f"not a slabinfo file: {row[:60]!r}", line=1)
        if not row or row.startswith(("#", "slabinfo - version")):
            continue
        match = _CACHE.fullmatch(row)
        if match is None:
            raise InputError(f"not a line of slabinfo: {row[:60]!r}", line=line)
        n = [int(word) for word in match.groups()[1:12]]
        caches.append(CacheView(match[1], n[0], n[1], n[2], n[3], n[4], n[8], n[9], n[5], n[6], n[7], n[10]))
    return tuple(caches)


_IOMEM = re.compile(r"( *)([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")


def parse_iomem(text: str) -> tuple[IomemRange, ...]:
    """Read ``/proc/iomem`` as root sees it.

    Raises
    ------
    InputError
        A line is not one of this file, or all addresses are 0 (read without
        being root); the error names the line.
    """
    ranges = []
    for line, row in _lines(text):
        if not row:
            continue
        match = _IOMEM.fullmatch(row)
        if match is None:
            raise InputError(f"not a line of iomem: {row[:60]!r}", line=line)
        start, end = int(match[2], 16), int(match[3], 16)
        if end < start:
            raise InputError(f"a range that ends before it begins: {row.strip()[:60]}", line=line)
        ranges.append(IomemRange(start, end, match[4], len(match[1]) // 2))
    if ranges and not any(entry.end for entry in ranges):
        raise InputError("all addresses are 0", line=1, remedy="read /proc/iomem as root")
    return tuple(ranges)


_AREA = re.compile(r"0x(\w{1,16}|\(\w{1,20}\))-0x(\w{1,16}|\(\w{1,20}\)) +" + _NUMBER + r"((?: .*)?)")
#: What stands behind the caller: numbers, and words for what the area is.
_AREA_NUMBER = re.compile(r"(pages|phys|N\d{1,4})=(\S+)")
_AREA_KINDS = ("ioremap", "vmalloc", "vmap", "user", "dma-coherent", "sparse")
_AREA_ALONE = ("vm_map_ram", "unpurged vm_area")


def parse_vmallocinfo(text: str) -> tuple[VmallocView, ...]:
    """Read ``/proc/vmallocinfo``.

    Returns
    -------
    tuple of VmallocView
        In the file's order; none of a kernel that has used nothing of the address space.

    Raises
    ------
    InputError
        A line is not one of this file; the error names the line.
    """
    areas = []
    for line, row in _lines(text):
        if not row:
            continue
        match = _AREA.fullmatch(row.rstrip())
        if match is None:
            raise InputError(f"not a line of vmallocinfo: {row[:60]!r}", line=line, remedy="the file may be cut off")
        start, end = (_address(word) for word in match.group(1, 2))
        areas.append(VmallocView(start, end, int(match[3]), *_area_words(match[4].strip(), line)))
    return tuple(areas)


def _address(word: str) -> int:
    """Return an address, 0 where something else is shown in its place."""
    try:
        return int(word, 16)
    except ValueError:
        return 0


def _area_words(text: str, line: int) -> tuple[str, int, str]:
    """Caller, pages and kind of an area."""
    if text in _AREA_ALONE:
        return "", 0, text
    words = text.split()
    first = next((i for i, word in enumerate(words) if word in _AREA_KINDS or _AREA_NUMBER.fullmatch(word)), len(words))
    pages = 0
    for word in words[first:]:
        found = _AREA_NUMBER.fullmatch(word)
        if found is not None and found[1] == "pages":
            if not found[2].isascii() or not found[2].isdecimal():
                raise InputError(f"not a number of pages: {word[:60]!r}", line=line)
            pages = int(found[2])
    kind = " ".join(word for word in words[first:] if word in _AREA_KINDS)
    return " ".join(words[:first]), pages, kind


def parse_meminfo(text: str) -> dict[str, int]:
    """Read ``/proc/meminfo``: KiB by name (counts of huge pages as they are).

    Raises
    ------
    InputError
        A line is not one of this file; the error names the line.
    """
    values = {}
    for line, row in _lines(text):
        if not row:
            continue
        match = re.fullmatch(r"([A-Za-z0-9_()]{1,64}): +" + _NUMBER + r"( kB)?", row)
        if match is None:
            raise InputError(f"not a line of meminfo: {row[:60]!r}", line=line)
        values[match[1]] = int(match[2])
    return values


def _read(folder: Path, name: str, parse: Callable[[str], _T], *, partial: bool = False) -> _T | None:
    for path in (folder / name, folder / f"{name}.txt"):
        if not path.is_file():
            continue
        try:
            return parse(path.read_text(encoding="ascii"))
        except UnicodeDecodeError as error:
            raise InputError("not a text file", file=path, byte=error.start) from None
        except OSError as error:
            if partial and isinstance(error, PermissionError):
                return None
            raise InputError(f"cannot be read: {error.strerror}", file=path) from None
        except InputError as error:
            raise error.at(file=path) from None
    return None


def read_proc_folder(folder: Path, *, partial: bool = False) -> MachineView:
    """Read a folder with copies of ``/proc`` files.

    Parameters
    ----------
    folder : Path
        Holds ``zoneinfo``, and any of ``buddyinfo``, ``pagetypeinfo``,
        ``slabinfo``, ``iomem`` and ``meminfo``, also with the suffix ``.txt``.
    partial : bool
        Whether ``zoneinfo`` may be missing; zones are then those of ``buddyinfo`` or
        ``pagetypeinfo``, with nothing but free blocks. Nor need this user be
        allowed to read every file.

    Returns
    -------
    MachineView
        What the files say, put together.

    Raises
    ------
    InputError
        ``zoneinfo`` is missing, or a file is not what its name says.
    """
    if not folder.is_dir():
        raise InputError("no such folder", file=folder)
    nodes = _read(folder, "zoneinfo", parse_zoneinfo, partial=partial)
    if nodes is None and not partial:
        raise InputError("no zoneinfo in this folder", file=folder, remedy="copy /proc/zoneinfo into it")
    types = _read(folder, "pagetypeinfo", parse_pagetypeinfo, partial=partial)
    listed = _read(folder, "buddyinfo", parse_buddyinfo, partial=partial) or ()
    buddy = {(zone.node, zone.name): zone.nr_free for zone in listed}
    typed = {(zone.node, zone.name): zone for zone in types.zones} if types else {}
    if nodes is None:
        nodes = _by_node(list(listed)) or (types.nodes if types else ())

    def merged(zone: ZoneView) -> ZoneView:
        other = typed.get((zone.node, zone.name))
        nr_free = buddy.get((zone.node, zone.name))
        if nr_free is None and other is not None:
            nr_free = tuple(sum(column) for column in zip(*other.free, strict=True))
        return replace(
            zone,
            nr_free=nr_free or (),
            free=other.free if other else (),
            blocks=other.blocks if other else (),
        )

    return MachineView(
        nodes=tuple(replace(node, zones=tuple(merged(zone) for zone in node.zones)) for node in nodes),
        caches=_read(folder, "slabinfo", parse_slabinfo, partial=partial) or (),
        pageblock_order=types.pageblock_order if types else None,
        migrate_types=types.migrate_types if types else (),
        iomem=_read(folder, "iomem", parse_iomem, partial=partial) or (),
        meminfo_kb=_read(folder, "meminfo", parse_meminfo, partial=partial) or {},
    )
