# SPDX-License-Identifier: GPL-2.0-only
"""Reports of failed allocations in a kernel log, and the memory state printed with them.

The texts are those of mm/page_alloc.c:warn_alloc, mm/slub.c:slab_out_of_memory,
mm/oom_kill.c, mm/vmalloc.c and lib/show_mem.c, from Linux 3 to 6.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kmem.trace.dmesg import LogLine

__all__ = ["FailureReport", "MemInfo", "ZoneInfo", "find_failures"]

_MAX_BLOCK_LINES = 400  # of a Mem-Info block and the tasks behind it


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
        In the order printed; zones that the request could not use are left out by the kernel.
    counters : dict of str to int
        Global counters in pages: ``free``, ``free_pcp``, ``slab_unreclaimable`` ...
    pages_ram, pages_highmem, pages_reserved : int or None
        Frames of the machine.
    swap_free_kb, swap_total_kb : int or None
    hugepage_kb : int or None
        Size of a huge page.
    page_kb : int
        Size of a page.
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

    @property
    def complete(self) -> bool:
        """Whether there is a zone, and each has its watermarks, reserve and free blocks."""
        return bool(self.zones) and all(
            zone.blocks is not None and zone.lowmem_reserve is not None and {"free", "min"} <= set(zone.counters)
            for zone in self.zones
        )


@dataclass(slots=True)
class FailureReport:
    """One report, as far as the log goes.

    Attributes
    ----------
    kind : str
        ``page-allocation-failure``, ``slub-unable``, ``oom``, ``memcg-oom``,
        ``vmalloc-failure``, ``order-warning`` or ``show-mem``.
    line : int
        Line of the log where it begins.
    time_us : int or None
    text : str
        Its first line.
    comm : str or None
    pid, cpu : int or None
    kernel : str or None
        Release of the kernel, as ``uname -r``.
    order : int or None
    gfp : int or None
        As printed, in the layout of that kernel.
    gfp_names : str or None
        Names that the log prints with it.
    size_bytes : int or None
        Of a vmalloc request or a slab object.
    detail : dict
        What only this kind has.
    stack : list of str
        Functions of the call trace, innermost first; uncertain ones left out.
    meminfo : MemInfo or None
    """

    kind: str
    line: int
    time_us: int | None
    text: str
    comm: str | None = None
    pid: int | None = None
    cpu: int | None = None
    kernel: str | None = None
    order: int | None = None
    gfp: int | None = None
    gfp_names: str | None = None
    size_bytes: int | None = None
    detail: dict[str, str | int] = field(default_factory=dict)
    stack: list[str] = field(default_factory=list)
    meminfo: MemInfo | None = None


_GFP = r"(?P<gfp>0x[0-9a-fA-F]+)(?:\((?P<names>[^)]*)\))?"
_PAGE = re.compile(
    rf"(?P<comm>\S.*?): page allocation failure[:.] ?order:(?P<order>\d{{1,9}}), ?mode:{_GFP}(?P<rest>.*)"
)
_OOM = re.compile(rf"(?P<comm>\S.*?) invoked oom-killer: gfp_mask={_GFP},.*?order=(?P<order>-?\d{{1,9}})")
_KILLED = re.compile(
    r"(?P<memcg>Memory cgroup out of memory|Out of memory[^:]*): Kill(?:ed)? process (\d+),? \(?([^),]*)"
)
_SLUB = re.compile(
    rf"SLUB: Unable to allocate memory on (?:CPU#?\d+ \(of )?node (?P<node>-?\d+)\)?,? ?\(?gfp[=:] ?{_GFP}"
)
_SLUB_CACHE = re.compile(
    r"\s*cache: (\S+), object size: (\d+), buffer size: (\d+), default order: (\d+), min order: (\d+)"
)
_SLUB_NODE = re.compile(r"\s*node (\d+): slabs: (\d+), objs: (\d+), free: (\d+)")
_VMAP = re.compile(r"vmap allocation for size (?P<size>\d+) failed")
_VMALLOC = re.compile(
    r"(?P<comm>\S.*?): vmalloc (?:error: size (?P<size>\d+),|size (?P<size2>\d+) allocation failure:)"
    rf" ?(?P<what>.*?),? ?mode:{_GFP}"
)
_VMALLOC_OLD = re.compile(
    rf"(?P<comm>\S.*?): vmalloc: allocation failure(?:: (?P<size>\d+) bytes|, allocated \d+ of (?P<size2>\d+) bytes)"
    rf"(?:,? ?(?:order:\d+, )?mode:{_GFP})?"
)
_VMALLOC_SPACE = re.compile(
    r"allocation failed: out of vmalloc space - use vmalloc=<size>|allocation failed.*use vmalloc="
)
_ORDER = re.compile(
    r"WARNING: CPU: (?P<cpu>\d+) PID: (?P<pid>\d+) at (?:\S*/)?mm/page_alloc\.c:\d+ (?P<fn>\w*alloc_pages\w*)"
)
_SYSRQ = re.compile(r"(?:sysrq|SysRq) ?: (?:Show Memory|HELP)?", re.IGNORECASE)
_WHO = re.compile(r"CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (\S.*?) (?:Tainted:|Not tainted).*?(\d+\.\d+\S*)")
_OLD_WHO = re.compile(r"Pid: (\d+), comm: (\S+).*?(\d+\.\d+\.\d+\S*)")
_BANNER = re.compile(r"Linux version (\S+)")
_FRAME = re.compile(r"\s*(?:\[<[0-9a-f]+>\] )?(?P<doubt>\? )?(?P<fn>[A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_MEMORY_LIMIT = re.compile(r"memory: usage (\d+)kB, limit (\d+)kB")
_CONSTRAINT = re.compile(r"oom-kill:constraint=(\w+),")
_ZONE = re.compile(r"(?:Node (\d+) )?(DMA32|DMA|Normal|HighMem|Movable|Device) free: ?\d+kB\b")
_COUNTER = re.compile(r"(\w+(?:\(\w+\))?): ?(-?\d+)\s?[kK][bB]\b")
_RESERVE = re.compile(r"lowmem_reserve\[\]:((?: -?\d+)+)")
_BLOCKS = re.compile(
    r"(?:Node (\d+) )?(DMA32|DMA|Normal|HighMem|Movable|Device): ((?:\d+\*\d+kB ?(?:\([A-Z]*\) ?)*)+)="
)
_BLOCK = re.compile(r"(\d+)\*\d+kB(?: \(([A-Z]*)\))?")
_GLOBAL = re.compile(r"\b([a-z_]+):(\d+)(?![\dkK])")


class _Finder:
    """State while going through a log."""

    def __init__(self) -> None:
        self.reports: list[FailureReport] = []
        self.open: FailureReport | None = None
        self.block: list[str] | None = None
        self.kernel: str | None = None

    def feed(self, line: LogLine) -> None:
        text = line.text
        if "Linux version" in text and (match := _BANNER.search(text)):
            self.close()
            self.kernel = match[1]
            return
        if self.start(line):
            return
        if self.block is not None and len(self.block) < _MAX_BLOCK_LINES:
            self.block.append(text)
        if self.open is not None:
            self.more(self.open, text)

    def start(self, line: LogLine) -> bool:
        """Begin a report if the line is the first of one."""
        text = line.text
        for marker, take in _STARTS:
            if marker in text and (report := take(text)) is not None:
                report.line, report.time_us, report.text = line.number, line.time_us, text
                self.begin(report)
                return True
        if text.strip().startswith("Mem-Info:") or text.strip() == "Mem-info:":
            if self.open is None or self.open.meminfo is not None or self.open.kind in ("order-warning", "slub-unable"):
                self.begin(FailureReport("show-mem", line.number, line.time_us, text))
            self.block = []
            return True
        if "ill process" in text or "illed process" in text:
            return self.killed(line)
        return False

    def killed(self, line: LogLine) -> bool:
        match = _KILLED.search(line.text)
        if match is None:
            return False
        if self.open is None or self.open.kind not in ("oom", "memcg-oom"):
            self.begin(FailureReport("oom", line.number, line.time_us, line.text))
        assert self.open is not None
        if match["memcg"].startswith("Memory cgroup"):
            self.open.kind = "memcg-oom"
        self.open.detail["killed_pid"], self.open.detail["killed_comm"] = int(match[2]), match[3]
        self.close()
        return True

    def begin(self, report: FailureReport) -> None:
        self.close()
        report.kernel = self.kernel
        self.open = report
        self.reports.append(report)

    def close(self) -> None:
        if self.open is not None and self.block is not None:
            self.open.meminfo = _meminfo(self.block)
        self.open = self.block = None

    def more(self, report: FailureReport, text: str) -> None:
        """Take what a further line says of an open report."""
        if "omm: " in text and (match := _WHO.search(text)):
            report.cpu, report.pid, report.kernel = int(match[1]), int(match[2]), match[4]
            report.comm = report.comm or match[3]
            self.kernel = match[4]
        elif "comm: " in text and (match := _OLD_WHO.search(text)):
            report.pid, report.kernel = int(match[1]), match[3]
            self.kernel = match[3]
        elif self.block is None and "+0x" in text and (match := _FRAME.match(text)):
            if not match["doubt"] and len(report.stack) < 64:
                report.stack.append(match["fn"])
        elif report.kind == "slub-unable" and (match := _SLUB_CACHE.match(text)):
            report.detail["cache"] = match[1]
            report.size_bytes, report.detail["slab_bytes"] = int(match[2]), int(match[3])
            report.detail["default_order"], report.order = int(match[4]), int(match[5])
        elif report.kind == "slub-unable" and (match := _SLUB_NODE.match(text)):
            report.detail[f"node{match[1]}"] = f"{match[2]} slabs, {match[3]} objects, {match[4]} free"
        elif report.kind == "oom" and (_MEMORY_LIMIT.search(text) or "CONSTRAINT_MEMCG" in text):
            report.kind = "memcg-oom"
            if match := _MEMORY_LIMIT.search(text):
                report.detail["usage_kb"], report.detail["limit_kb"] = int(match[1]), int(match[2])


def _gfp_of(match: re.Match[str]) -> tuple[int | None, str | None]:
    printed = match["gfp"]
    return (int(printed, 16) if printed else None), (match["names"] or "").replace(" ", "") or None


def _page(text: str) -> FailureReport | None:
    match = _PAGE.search(text)
    if match is None:
        return None
    gfp, names = _gfp_of(match)
    report = FailureReport("page-allocation-failure", 0, None, text, comm=match["comm"], order=int(match["order"]))
    report.gfp, report.gfp_names = gfp, names
    return report


def _oom(text: str) -> FailureReport | None:
    match = _OOM.search(text)
    if match is None:
        return None
    gfp, names = _gfp_of(match)
    return FailureReport(
        "oom", 0, None, text, comm=match["comm"], order=max(int(match["order"]), 0), gfp=gfp, gfp_names=names
    )


def _slub(text: str) -> FailureReport | None:
    match = _SLUB.search(text)
    if match is None:
        return None
    gfp, names = _gfp_of(match)
    return FailureReport("slub-unable", 0, None, text, gfp=gfp, gfp_names=names, detail={"node": int(match["node"])})


def _vmalloc(text: str) -> FailureReport | None:
    for pattern in (_VMALLOC, _VMALLOC_OLD):
        match = pattern.search(text)
        if match:
            gfp, names = _gfp_of(match)
            report = FailureReport("vmalloc-failure", 0, None, text, comm=match["comm"], gfp=gfp, gfp_names=names)
            report.size_bytes = int(match["size"] or match["size2"])
            report.detail["what"] = match.groupdict().get("what") or "allocation failure"
            return report
    match = _VMAP.search(text)
    if match:
        what: dict[str, str | int] = {"what": "no room in the vmalloc area"}
        return FailureReport("vmalloc-failure", 0, None, text, size_bytes=int(match["size"]), detail=what)
    if _VMALLOC_SPACE.search(text):
        return FailureReport("vmalloc-failure", 0, None, text, detail={"what": "no room in the vmalloc area"})
    return None


def _order(text: str) -> FailureReport | None:
    match = _ORDER.search(text)
    if match is None:
        return None
    return FailureReport("order-warning", 0, None, text, cpu=int(match["cpu"]), pid=int(match["pid"]))


_STARTS: tuple[tuple[str, Callable[[str], FailureReport | None]], ...] = (
    ("page allocation failure", _page),
    ("invoked oom-killer", _oom),
    ("SLUB: Unable to allocate", _slub),
    ("vmalloc", _vmalloc),
    ("vmap allocation", _vmalloc),
    ("mm/page_alloc.c", _order),
)


def _meminfo(block: list[str]) -> MemInfo:
    """Read a Mem-Info block; whatever is missing or damaged is left out."""
    text = " ".join(" ".join(block).split())
    info = MemInfo()
    zones: dict[tuple[int, str], ZoneInfo] = {}
    starts = [*_ZONE.finditer(text)]
    for match, after in itertools.zip_longest(starts, starts[1:]):
        piece = text[match.start() : after.start() if after else len(text)]
        reserve = _RESERVE.search(piece)
        zone = ZoneInfo(int(match[1] or 0), match[2])
        line = piece[: reserve.start()] if reserve else piece
        zone.counters = {name: int(value) for name, value in _COUNTER.findall(line[:4000])}
        zone.lowmem_reserve = [int(value) for value in reserve[1].split()] if reserve else None
        zones.setdefault((zone.node, zone.name), zone)
    for match in _BLOCKS.finditer(text):
        found = zones.get((int(match[1] or 0), match[2]))
        if found is not None and found.blocks is None:
            found.blocks = [(int(count), letters) for count, letters in _BLOCK.findall(match[3])]
    info.zones = list(zones.values())
    head = text[: starts[0].start()] if starts else text
    info.counters = {name: int(value) for name, value in _GLOBAL.findall(head)}
    info.pages_ram = _count(text, r"(\d+) pages (?:of )?RAM")
    info.pages_highmem = _count(text, r"(\d+) pages (?:of )?HighMem")
    info.pages_reserved = _count(text, r"(\d+) (?:pages reserved|reserved pages)")
    info.swap_free_kb = _count(text, r"Free swap ?= ?(\d+)kB")
    info.swap_total_kb = _count(text, r"Total swap ?= ?(\d+)kB")
    info.hugepage_kb = _count(text, r"hugepages_size=(\d+)kB")
    info.page_kb = _count(text, r": \d+\*(\d+)kB ") or 4
    return info


def _count(text: str, pattern: str) -> int | None:
    match = re.search(pattern, text)
    return int(match[1]) if match else None


def find_failures(lines: Iterable[LogLine]) -> list[FailureReport]:
    """Return the reports in a log, in their order.

    Parameters
    ----------
    lines : iterable of LogLine

    Returns
    -------
    list of FailureReport
        Each with what the log says of it, and no more. A Mem-Info block that
        belongs to no failure is one of kind ``show-mem``.

    Notes
    -----
    Memory does not grow with the log, but with the number of reports in it.
    """
    finder = _Finder()
    for line in lines:
        finder.feed(line)
    finder.close()
    return finder.reports
