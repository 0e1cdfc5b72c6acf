# SPDX-License-Identifier: GPL-2.0-only
"""The state of memory as the kernel prints it with a failure, or when asked to (sysrq-m).

The texts are those of lib/show_mem.c and mm/page_alloc.c:show_free_areas, from
Linux 2.6.32 to 6.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

__all__ = ["MemInfo", "ZoneInfo", "read_mem_info"]

_NAMES = r"(DMA32|DMA|Normal|HighMem|Movable|Device)"
_ZONE = re.compile(rf"(?:Node (\d+),? )?{_NAMES} free: ?\d+kB\b")
_COUNTER = re.compile(r"(\w+(?:\(\w+\))?): ?(-?\d{1,15})\s?[kK][bB]\b")
_RESERVE = re.compile(r"lowmem_reserve\[\]:((?: -?\d{1,15}\b)+)")
_BLOCKS = re.compile(rf"(?:Node (\d+) )?{_NAMES}: ((?:\d+[*_]\d+kB ?(?:\([A-Z]*\) ?)*)+)=(?: ?(\d{{1,15}})kB)?")
_BLOCK = re.compile(r"(\d{1,15})[*_](\d{1,9})kB(?: \(([A-Z]*)\))?")
_GLOBAL = re.compile(r"\b([a-z_]+):(\d{1,15})(?![\dkK])")
_MOST_COUNTER_TEXT = 4000


@dataclass(slots=True)
class ZoneInfo:
    """One zone of a Mem-Info block; sizes in kB as printed, None where the log does not say.

    Attributes
    ----------
    node : int
    name : str
    counters : dict of str to int
        ``free``, ``min``, ``low``, ``high``, ``boost``, ``present``, ``managed``, ``active_file`` ...
    lowmem_reserve : list of int or None
        Pages, by zone index.
    blocks : list of (int, str) or None
        Free blocks of each order, and the letters of the migrate types that have any.
    """

    node: int
    name: str
    counters: dict[str, int] = field(default_factory=dict)
    lowmem_reserve: list[int] | None = None
    blocks: list[tuple[int, str]] | None = None


@dataclass(slots=True)
class MemInfo:
    """What the kernel printed of its memory.

    Attributes
    ----------
    zones : list of ZoneInfo
        In the order printed; zones that the request could not use are left out by newer kernels.
    counters : dict of str to int
        Global counters in pages: ``free``, ``free_pcp``, ``slab_unreclaimable`` ...
    pages_ram, pages_highmem, pages_reserved : int or None
        Frames of the machine.
    swap_free_kb, swap_total_kb : int or None
    hugepage_kb : int or None
        Size of a huge page.
    page_kb : int
        Size of a page.
    numa : bool
        Whether the free blocks stand under ``Node N``, as they do on machines with NUMA and on all later kernels.
    damage : str
        Why the block cannot be relied upon, empty if it can.
    complete : bool
        Whether every zone came with its free blocks.
    """

    zones: list[ZoneInfo] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    pages_ram: int | None = None
    pages_highmem: int | None = None
    pages_reserved: int | None = None
    swap_free_kb: int | None = None
    swap_total_kb: int | None = None
    hugepage_kb: int | None = None
    page_kb: int = 4
    numa: bool = False
    damage: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is a zone, each has its watermarks, reserve and free blocks, and no line got lost."""
        return not self.damage and bool(self.zones) and all(_whole(zone, self.page_kb) for zone in self.zones)


def _whole(zone: ZoneInfo, page_kb: int) -> bool:
    """Whether a zone is all there, with numbers that can be true."""
    if zone.blocks is None or zone.lowmem_reserve is None or not {"free", "min"} <= set(zone.counters):
        return False
    # kernels differ in what they count as present; what is twice that is damaged
    managed = max(zone.counters.get("managed", 0), zone.counters.get("present", 0))
    listed = sum(count << order for order, (count, _) in enumerate(zone.blocks)) * page_kb
    return not managed or max(listed, zone.counters["free"]) <= 2 * managed


def read_mem_info(block: list[str], damage: str = "") -> MemInfo:
    """Read a Mem-Info block; whatever is missing or damaged is left out.

    Parameters
    ----------
    block : list of str
        Its lines, as far as they are there; others between them do no harm.
    damage : str
        What is known to be wrong with them.
    """
    # what stands for line breaks inside one message in stored logs
    text = " ".join(" ".join(block).replace("#012", " ").replace("\\x0a", " ").split())
    info = MemInfo(damage=damage)
    zones: dict[tuple[int, str], ZoneInfo] = {}
    starts = [*_ZONE.finditer(text)]
    for match, after in itertools.zip_longest(starts, starts[1:]):
        piece = text[match.start() : after.start() if after else len(text)]
        reserve = _RESERVE.search(piece)
        zone = ZoneInfo(int(match[1] or 0), match[2])
        line = piece[: reserve.start()] if reserve else piece
        zone.counters = {name: int(value) for name, value in _COUNTER.findall(line[:_MOST_COUNTER_TEXT])}
        zone.lowmem_reserve = [int(value) for value in reserve[1].split()] if reserve else None
        if (zone.node, zone.name) in zones:
            info.damage = info.damage or "a zone is there twice: lines of two reports are mixed"
        zones.setdefault((zone.node, zone.name), zone)
    for match in _BLOCKS.finditer(text):
        found = zones.get((int(match[1] or 0), match[2]))
        info.numa = info.numa or match[1] is not None
        if found is None:
            info.damage = info.damage or "a zone's line is missing"
        elif found.blocks is None:
            blocks = [(int(count), int(kb), letters) for count, kb, letters in _BLOCK.findall(match[3])]
            found.blocks = [(count, letters) for count, _, letters in blocks]
            info.damage = info.damage or _contradiction(blocks, match[4])
    info.zones = list(zones.values())
    head = text[: starts[0].start()] if starts else text
    info.counters = {name: int(value) for name, value in _GLOBAL.findall(head)}
    info.pages_ram = _count(text, r"(\d+) pages (?:of )?RAM")
    info.pages_highmem = _count(text, r"(\d+) pages (?:of )?HighMem")
    info.pages_reserved = _count(text, r"(\d+) (?:pages reserved|reserved pages)")
    info.swap_free_kb = _count(text, r"Free swap ?[=:] *(\d+)kB")
    info.swap_total_kb = _count(text, r"Total swap ?= ?(\d+)kB")
    info.hugepage_kb = _count(text, r"hugepages_size=(\d+)kB")
    info.page_kb = _count(text, r": \d+[*_](\d+)kB ") or 4
    return info


def _contradiction(blocks: list[tuple[int, int, str]], total: str | None) -> str:
    """What is wrong with free blocks: each is twice as large as the one before, and the kernel adds them up."""
    if any(kb != blocks[0][1] << order for order, (_, kb, _) in enumerate(blocks)):
        return "lines of two reports are mixed"
    if total is not None and int(total) != sum(count * kb for count, kb, _ in blocks):
        return "the free blocks of a zone do not add up to what the log says"
    return ""


def _count(text: str, pattern: str) -> int | None:
    match = re.search(pattern, text)
    return int(match[1]) if match and len(match[1]) < 16 else None
