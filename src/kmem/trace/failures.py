# SPDX-License-Identifier: GPL-2.0-only
"""Reports of failed allocations in a kernel log, and the memory state printed with them.

The texts are those of mm/page_alloc.c:warn_alloc, mm/slub.c:slab_out_of_memory,
mm/oom_kill.c and mm/vmalloc.c, from Linux 2.6.32 to 6.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kmem.trace.dmesg import LogLine
from kmem.trace.mem_info import MemInfo, ZoneInfo, read_mem_info

__all__ = ["FailureReport", "MemInfo", "ZoneInfo", "find_failures", "iter_failures"]

_MAX_BLOCK_LINES = 400  # of a Mem-Info block
_MAX_LINES = 300  # of a report without one
_MAX_FRAMES = 64
_MAX_DETAILS = 40
_PAUSE_US = 10_000_000  # nothing that belongs together is this far apart
_REBOOT_US = 10_000_000  # CPUs' clocks differ by less than this
_MOST_TRACKS = 1000
_MOST_HOSTS = 1000
_STALE_LINES = 5000
_NEAR = 200
_MOST_GUARD_BYTES = 1 << 20
_NO_ROOM, _SOMEHOW = "no room in the vmalloc area", "allocation failure"


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
        Functions of the call trace, innermost first; uncertain ones left out if there are others.
    stack_certain : bool
        Whether the entries of the call trace are sure; else some are left over from earlier calls.
    in_interrupt : bool
        Whether the call trace shows an interrupt, or the idle task asked: nobody there may wait.
    nodes : frozenset of int or None
        The only nodes that the request may use, if the log says so.
    mems_allowed : frozenset of int or None
        The nodes that the task's cpuset allows.
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
    stack_certain: bool = True
    in_interrupt: bool = False
    nodes: frozenset[int] | None = None
    mems_allowed: frozenset[int] | None = None
    meminfo: MemInfo | None = None


_GFP = r"(?P<gfp>0x[0-9a-fA-F]{1,16})(?:\((?P<names>[^)]*)\))?"
_PAGE = re.compile(
    rf"(?:(?P<comm>\S.*?): )?page allocation failure[:.]? ?order:(?P<order>\d{{1,9}}), ?mode:{_GFP}(?P<rest>.*)"
)
_PAGE_CUT = re.compile(r"page allocation failure[:.]? ?order:(?P<order>\d{1,9})\s*$")
_MODE = re.compile(rf"\s*, mode:{_GFP}")
_STALL = re.compile(r"(?P<comm>\S.*?): page allocation stalls for (?P<ms>\d+)ms, order:(?P<order>\d+), ?mode:" + _GFP)
_OOM = re.compile(rf"(?P<comm>\S.*?) invoked oom-killer: gfp_mask={_GFP},(?P<rest>.*?)order=(?P<order>-?\d{{1,9}})")
_KILLED = re.compile(
    r"(?P<memcg>Memory cgroup out of memory|[Oo]ut of [Mm]emory[^:]*): [Kk]ill(?:ed)? process (\d+),? \(?([^),]*)"
)
_SLUB = re.compile(
    r"SL[AU]B: Unable to allocate memory on (?:CPU ?#?\d+ \(of node -?\d+\) on )?"
    rf"node (?P<node>-?\d+)(?:,| ?\() ?gfp[=:] ?{_GFP}"
)
_SLUB_CACHE = re.compile(
    r"\s*cache: (\S+), object size: (\d+), "
    r"(?:buffer size: (\d+), default order: (\d+), min order: (\d+)|order: (\d+))"
)
_SLUB_NODE = re.compile(r"\s*node (\d+): slabs: ([\d/]+), objs: ([\d/]+), free: (\d+)")
_SLUB_DEBUG = re.compile(r"\S+ debugging increased min order")
_VMAP = re.compile(
    r"vmap allocation for size (?P<size>\d+) failed"
    r"|vmalloc_node_range for size (?P<size2>\d+) failed: Address range restricted"
    r"|allocation failed: out of vmalloc space|allocation failed.*use vmalloc="
)
_VMALLOC = re.compile(
    r"(?P<comm>\S.*?): vmalloc (?:error: size (?P<size>\d+),|size (?P<size2>\d+) allocation failure:)"
    rf" ?(?P<what>.*?),? ?mode:{_GFP}(?P<rest>.*)"
)
_VMALLOC_OLD = re.compile(
    r"(?:(?P<comm>\S.*?): )?vmalloc: allocation failure(?:: (?P<size>\d+)|, allocated \d+ of (?P<size2>\d+)) bytes"
    rf"(?:,? ?(?:order:\d+, )?mode:{_GFP}(?P<rest>.*))?"
)
_ORDER = re.compile(
    r"WARNING: (?:CPU: (?P<cpu>\d+) PID: (?P<pid>\d+) )?(?:at )?(?:\S*/)?mm/page_alloc\.c:\d+ "
    r"(?:at )?(?P<fn>_*(?:alloc_pages|alloc_frozen_pages)\w*)"
)
_WHO = re.compile(
    r"CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (\S.*?) (?:Kdump: loaded )?(?:Tainted:|Not tainted).*?"
    r"(?<![\w.])(\d+\.\d+\.\d+\S*|\d+\.\d+-\S+|\d+\.\d+)(?= |$)"
)
_OLD_WHO = re.compile(r"Pid: (\d+), comm: (\S.*?) (?:Tainted:|Not tainted|[( ]).*?(\d+\.\d+\.\d+\S*)")
_BANNER = re.compile(r"Linux version (\d\S*)")
_BOOT = re.compile(r"-+ ?(?:Boot [0-9a-f]{8,}|Reboot) ?-+")
_FRAME = re.compile(
    r"\s*(?:<\w+>\s*)?\(?(?:\[<?[0-9a-f]{8,16}>?\]\s*){0,2}(?P<doubt>\? )?\.?\(?(?P<fn>[A-Za-z_][\w.]*)"
    r"(?:\+0x[0-9a-f]+/0x[0-9a-f]+|(?: \[\w+\])?\)? from )"
)
_IN_INTERRUPT = re.compile(
    r"(?:__)?do_softirq|handle_softirqs|(?:__)?irq_exit|do_IRQ|(?:asm_)?common_interrupt|__irq_svc|el1h?_(?:64_)?irq|"
    r"gic_handle_irq|handle_irq|(?:__)?handle_domain_irq|call_softirq|tasklet_action|net_rx_action|run_ksoftirqd|"
    r"do_softirq|invoke_softirq|asm_sysvec_|run_timer_softirq"
)
_SUPPRESSED = re.compile(r"(\w+): (\d+) callbacks suppressed")
_RATE_LIMITED = ("warn_alloc", "slab_out_of_memory", "oom_kill_process", "dump_header", "alloc_vmap_area")
_LOST = re.compile(r"\*\* ?\d+ printk messages dropped|Missed \d+ kernel messages|messages suppressed ?\*\*")
_MEMORY_LIMIT = re.compile(r"^memory: usage (\d+)kB, limit (\d+)kB")
_OTHER_REPORT = re.compile(
    r"-{8,}\[ cut here|BUG: |kernel BUG |Oops|INFO: (?:task|rcu)|general protection|Unable to handle kernel|"
    r"Kernel panic|(?:NMI )?watchdog: |rcu: INFO"
)
_NODEMASK = re.compile(r"nodemask=(\d[\d,-]*\d|\d)(?=,|\s|$)")
_MEMS = re.compile(r"\bmems_allowed=(\d[\d,-]*\d|\d)(?=,|\s|$)")
_MEM_INFO = re.compile(r"\s*Mem-[Ii]nfo:")
_ZONE_LINE = re.compile(r"(?:DMA|DMA32|Normal|HighMem|Movable) free: ?\d+kB .*min: ?\d+kB")

#: Functions of the allocators that print a report, and what was being reported.
_REPORTERS = {"warn_alloc": "page-allocation-failure", "dump_header": "oom", "oom_kill": "oom"}


class _Track:
    """What one task or CPU is printing."""

    def __init__(self) -> None:
        self.report: FailureReport | None = None
        self.block: list[str] | None = None
        self.damage = ""
        self.first = ""  # the last of its first lines
        self.lines = 0
        self.last = 0  # the number of its last line
        self.time_us: int | None = None
        self.doubtful: list[str] = []
        self.loose: list[str] = []  # a call trace before any report: the log begins within one
        self.started: tuple[str, LogLine] | None = None  # a first line that was cut short


class _Finder:
    """State while going through the log of one machine."""

    def __init__(self, reports: deque[tuple[FailureReport, _Track]]) -> None:
        self.reports = reports  # of all machines
        self.tracks: dict[str, _Track] = {}
        self.kernel: str | None = None
        self.time_us = 0
        self.suppressed = 0
        self.sysrq = False

    def feed(self, line: LogLine) -> None:
        """Take one line."""
        text = line.text
        if self.new_boot(line):
            return
        track = self.track(line.caller)
        if track.report is not None and self.over(track, line):
            self.close(track)
        track.time_us, track.last = line.time_us, line.number
        track.lines += 1
        if self.start(track, line):
            return
        if track.block is not None and len(track.block) < _MAX_BLOCK_LINES:
            track.block.append(text)
        if track.report is not None:
            self.more(track, track.report, text)
        else:
            self.loose(track, text)

    def track(self, caller: str) -> _Track:
        """What a task or CPU is printing; all is one where the log does not say whose a line is."""
        track = self.tracks.get(caller)
        if track is None:
            if len(self.tracks) > _MOST_TRACKS:
                self.tracks = {name: busy for name, busy in self.tracks.items() if busy.report is not None}
            track = self.tracks[caller] = _Track()
        return track

    def new_boot(self, line: LogLine) -> bool:
        """Close everything where another boot begins; whether the line says no more than that."""
        text, time_us = line.text, line.time_us
        banner = _BANNER.search(text) if "Linux version" in text else None
        boot = banner is None and text.startswith("--") and _BOOT.match(text)
        if time_us is not None:
            back = time_us + _REBOOT_US < self.time_us
            self.time_us = time_us
        else:
            back = False
        if banner or boot or back:
            self.close_all()
            self.tracks.clear()
            self.kernel = banner[1] if banner else None
            self.suppressed, self.sysrq = 0, False
            if boot:
                self.time_us = 0
        return bool(banner or boot)

    def close_all(self) -> None:
        """End what is open."""
        for track in self.tracks.values():
            self.close(track)

    def close_stale(self, number: int) -> None:
        """End reports that nobody went on with for long, so that later ones need not wait for them."""
        for track in self.tracks.values():
            if track.report is not None and number - track.last > _STALE_LINES:
                self.close(track)

    def over(self, track: _Track, line: LogLine) -> bool:
        """Whether a line cannot belong to the open report any more."""
        report = track.report
        assert report is not None
        if line.time_us is not None and track.time_us is not None and line.time_us - track.time_us > _PAUSE_US:
            return True
        if report.kind in ("oom", "memcg-oom"):
            return False  # the list of tasks may be long; the kill ends it
        if track.block is None and track.lines > _MAX_LINES:
            return True
        return track.lines > 1 and _OTHER_REPORT.search(line.text) is not None

    # -- beginnings ---------------------------------------------------------

    def start(self, track: _Track, line: LogLine) -> bool:
        """Begin a report if the line is the first of one."""
        text = line.text
        if track.started is not None:
            first, at = track.started
            track.started = None
            if (report := _first_line(f"{first.rstrip()} {text.lstrip()}")) is not None:
                self.begin(track, report, at)
                return True
        if (report := _first_line(text)) is not None:
            return self.continues(track, report, text) or self.begin(track, report, line)
        if not line.stamped and ("page allocation failure" in text or "oom-killer" in text):
            track.started = text, line
        if "em-" in text and _MEM_INFO.match(text):
            self.state(track, line)
            return True
        if "ill process" in text or "illed process" in text:
            return self.killed(track, line)
        if "free:" in text and track.block is None and _ZONE_LINE.search(text):
            self.state(track, line)  # "Mem-Info:" itself is lost
            track.block = []
            track.damage = "the beginning of the Mem-Info block is missing"
            return False
        if "SysRq" in text or "sysrq" in text:
            self.sysrq = self.sysrq or "Show Memory" in text
        if "suppressed" in text and (match := _SUPPRESSED.search(text)) and match[1].startswith(_RATE_LIMITED):
            self.suppressed = int(match[2])
            return True
        return False

    def begin(self, track: _Track, report: FailureReport, line: LogLine) -> bool:
        """Open a report."""
        self.close(track)
        report.line, report.time_us, report.text = line.number, line.time_us, line.text
        report.kernel = self.kernel
        if self.suppressed:
            report.detail["suppressed"], self.suppressed = self.suppressed, 0
        track.report, track.first, track.lines, track.loose = report, line.text, 0, []
        self.reports.append((report, track))
        return True

    def continues(self, track: _Track, new: FailureReport, text: str) -> bool:
        """Whether a first line only says more of the failure that is open: vmalloc tells of one in up to three."""
        old = track.report
        if old is None or old.kind != "vmalloc-failure" or track.block is not None or old.stack or track.lines > 4:
            return False
        if new.kind == "vmalloc-failure" and old.comm is None and new.detail["what"] != _NO_ROOM:
            guard = (old.size_bytes or 0) - (new.size_bytes or 0)
            if old.size_bytes and new.size_bytes and not 0 <= guard <= _MOST_GUARD_BYTES:
                return False
            if new.detail["what"] != _SOMEHOW:
                old.detail["what"] = new.detail["what"]
            old.size_bytes = new.size_bytes or old.size_bytes
        elif new.kind != "page-allocation-failure" or new.order or old.gfp is not None or "vmalloc:" not in track.first:
            return False  # up to 4.9, the page allocator's line stands behind vmalloc's, with a made-up order
        old.comm, old.gfp, old.gfp_names = new.comm or old.comm, new.gfp, new.gfp_names
        old.nodes, old.mems_allowed = new.nodes, new.mems_allowed
        track.first = text
        return True

    def state(self, track: _Track, line: LogLine) -> None:
        """A Mem-Info block begins."""
        report = track.report
        if track.block is not None:
            if not any("pagecache pages" in text or "pages RAM" in text for text in track.block):
                track.damage = "lines of two reports are mixed"
                return
            self.close(track)
            report = None
        if report is None or report.kind in ("order-warning", "slub-unable"):
            frames = track.loose
            reporter = next((kind for fn in frames for name, kind in _REPORTERS.items() if fn.startswith(name)), None)
            self.begin(track, FailureReport(reporter or "show-mem", 0, None, line.text), line)
            assert track.report is not None
            if reporter:
                track.report.stack = frames
            elif self.sysrq:
                track.report.detail["asked"] = "sysrq-m"
            self.sysrq = False
        track.block = [line.text.partition(":")[2]]  # what follows was run together with it

    def killed(self, track: _Track, line: LogLine) -> bool:
        match = _KILLED.search(_near(line.text, "f memory") or line.text[: 10 * _NEAR])
        if match is None:
            return False
        report = track.report
        if report is not None and report.kind == "show-mem" and "asked" not in report.detail:
            report.kind = "oom"  # the log begins within its report
        if report is None or report.kind not in ("oom", "memcg-oom"):
            self.begin(track, FailureReport("oom", 0, None, line.text), line)
            report = track.report
        assert report is not None
        if match["memcg"].startswith("Memory cgroup"):
            report.kind = "memcg-oom"
        report.detail["killed_pid"], report.detail["killed_comm"] = int(match[2]), match[3]
        self.close(track)
        return True

    def close(self, track: _Track) -> None:
        """End the open report."""
        report = track.report
        if report is not None:
            if track.block is not None:
                report.meminfo = read_mem_info(track.block, track.damage)
            if not report.stack and track.doubtful:
                report.stack, report.stack_certain = track.doubtful, False
            report.in_interrupt |= report.pid == 0 or (report.comm or "").startswith("swapper/")
        track.report = track.block = None
        track.damage, track.doubtful, track.loose = "", [], []

    # -- further lines ------------------------------------------------------

    def loose(self, track: _Track, text: str) -> None:
        """A line outside of reports: remember a call trace that may be the rest of one."""
        if "+0x" in text and (match := _FRAME.match(text)):
            if len(track.loose) < _MAX_FRAMES and not match["doubt"]:
                track.loose.append(match["fn"])
        elif "Call Trace" in text or "cut here" in text:
            track.loose = []

    def more(self, track: _Track, report: FailureReport, text: str) -> None:
        """Take what a further line says of an open report."""
        if track.block is None and ("+0x" in text or " from " in text) and (match := _FRAME.match(text)):
            self.frame(track, report, match)
        elif track.block is None and "<" in text and ("<IRQ>" in text or "<SOFTIRQ>" in text):
            report.in_interrupt = True
        elif report.pid is None and "omm: " in text and (match := _WHO.search(_near(text, "omm: "))):
            report.cpu, report.pid, report.kernel = int(match[1]), int(match[2]), match[4]
            report.comm = report.comm or match[3]
            self.kernel = match[4]
        elif report.kind == "order-warning" and "omm: " in text and (match := _WHO.search(_near(text, "omm: "))):
            if int(match[2]) == report.pid:
                report.comm, report.kernel = match[3], match[4]
                self.kernel = match[4]
        elif report.pid is None and "comm: " in text and (match := _OLD_WHO.search(_near(text, "omm: "))):
            report.pid, report.kernel = int(match[1]), match[3]
            report.comm = report.comm or match[2]
            self.kernel = match[3]
        elif report.gfp is None and "mode:" in text and (match := _MODE.match(text)):
            report.gfp, report.gfp_names = int(match["gfp"], 16), match["names"]
        elif report.kind == "slub-unable":
            _slab_line(report, text)
        elif report.kind == "oom" and ((match := _MEMORY_LIMIT.search(text)) or "CONSTRAINT_MEMCG" in text):
            report.kind = "memcg-oom"
            if match:
                report.detail["usage_kb"], report.detail["limit_kb"] = int(match[1]), int(match[2])
        elif "mems_allowed=" in text and report.mems_allowed is None:
            _places(report, text)
        elif _LOST.search(text):
            track.damage = track.damage or "the kernel's log lost lines"

    def frame(self, track: _Track, report: FailureReport, match: re.Match[str]) -> None:
        """Take a line of the call trace."""
        fn = match["fn"]
        frames = track.doubtful if match["doubt"] else report.stack
        if len(frames) < _MAX_FRAMES and frames[-1:] != [fn]:
            frames.append(fn)
        if not match["doubt"] and _IN_INTERRUPT.match(fn):
            report.in_interrupt = True
        if "<IRQ>" in match.string or "<SOFTIRQ>" in match.string:
            report.in_interrupt = True


def _slab_line(report: FailureReport, text: str) -> None:
    if match := _SLUB_CACHE.match(text):
        report.detail["cache"], report.size_bytes = match[1], int(match[2])
        if match[3]:
            report.detail["slab_bytes"], report.detail["default_order"] = int(match[3]), int(match[4])
        report.order = int(match[5] or match[6])
    elif (match := _SLUB_NODE.match(text)) and len(report.detail) < _MAX_DETAILS:
        report.detail[f"node{match[1]}"] = f"{match[2]} slabs, {match[3]} objects, {match[4]} free"
    elif _SLUB_DEBUG.search(text):
        report.detail["debug"] = "increased min order"


def _nodes(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last.isdigit() or not last):
            found.update(range(int(first), min(int(last or first), int(first) + 1023) + 1))
    return frozenset(found)


def _places(report: FailureReport, text: str) -> None:
    """Read which nodes a request may use."""
    if match := _NODEMASK.search(text):
        report.nodes = _nodes(match[1])
    if match := _MEMS.search(text):
        report.mems_allowed = _nodes(match[1])


def _is_order_warning(report: FailureReport) -> bool:
    """Whether a warning of the page allocator is the one for orders.

    The slow path warned of large orders until 4.19, and warns of other things since.
    """
    match = re.match(r"(\d+)\.(\d+)", report.kernel or "")
    return "slowpath" not in report.text or match is None or (int(match[1]), int(match[2])) < (4, 20)


# -- first lines --------------------------------------------------------------


def _report(kind: str, match: re.Match[str]) -> FailureReport:
    groups = match.groupdict()
    report = FailureReport(kind, 0, None, "", comm=groups.get("comm"))
    if groups.get("gfp"):
        report.gfp = int(groups["gfp"], 16)
        report.gfp_names = (groups.get("names") or "").replace(" ", "") or None
    if groups.get("order"):
        report.order = int(groups["order"])
    if groups.get("rest"):
        _places(report, groups["rest"])
    return report


def _near(text: str, marker: str) -> str:
    """The part of a line around some words, empty if it has them not: lines can be long, and patterns slow."""
    at = text.find(marker)
    return text[max(at - _NEAR, 0) : at + 10 * _NEAR] if at >= 0 else ""


def _first_line(text: str) -> FailureReport | None:
    """The report that a line begins, None if it begins none."""
    if near := _near(text, "page allocation failure"):
        # the second is printed piece by piece, with others' lines between
        match = _PAGE.search(near) or _PAGE_CUT.search(near)
        return _report("page-allocation-failure", match) if match else None
    if (near := _near(text, "page allocation stalls")) and (match := _STALL.search(near)):
        report = _report("show-mem", match)
        report.detail["stalled_ms"] = int(match["ms"])
        return report
    if (near := _near(text, "invoked oom-killer")) and (match := _OOM.search(near)):
        report = _report("oom", match)
        if report.order is not None and report.order < 0:
            report.order, report.detail["asked"] = None, "sysrq-f"
        return report
    if (near := _near(text, "Unable to allocate memory on")) and (match := _SLUB.search(near)):
        report = _report("slub-unable", match)
        report.detail["node"] = int(match["node"])
        return report
    if "vm" in text:
        for marker in ("vmap allocation", "vmalloc error", "vmalloc size", "vmalloc:", "vmalloc_node", "use vmalloc="):
            if near := _near(text, marker):
                return _vmalloc(near)
    if (near := _near(text, "mm/page_alloc.c")) and (match := _ORDER.search(near)):
        report = _report("order-warning", match)
        if match["cpu"]:
            report.cpu, report.pid = int(match["cpu"]), int(match["pid"])
        return report
    return None


def _vmalloc(text: str) -> FailureReport | None:
    match = _VMALLOC.search(text) or _VMALLOC_OLD.search(text)
    if match:
        report = _report("vmalloc-failure", match)
        report.size_bytes = int(match["size"] or match["size2"])
        what = match.groupdict().get("what")
        report.detail["what"] = what or ("too few pages" if "allocated" in match[0] else _SOMEHOW)
        return report
    match = _VMAP.search(text)
    if match:
        report = FailureReport("vmalloc-failure", 0, None, "")
        size = match["size"] or match["size2"]
        report.size_bytes = int(size) if size else None
        report.detail["what"] = _NO_ROOM
        return report
    return None


def iter_failures(lines: Iterable[LogLine]) -> Iterator[FailureReport]:
    """Yield the reports in a log as they are complete, in their order.

    Parameters
    ----------
    lines : iterable of LogLine

    Yields
    ------
    FailureReport
        What the log says of it, and no more. A Mem-Info block that belongs to
        no failure is one of kind ``show-mem``.

    Notes
    -----
    Memory does not grow with the log.  Reports that several tasks or CPUs print
    at the same time are kept apart where each line says whose it is, and so are
    those of several machines in one log.
    """
    reports: deque[tuple[FailureReport, _Track]] = deque()
    finders: dict[str, _Finder] = {}
    check = 0
    for line in lines:
        if line.foreign:
            continue
        if not line.host and line.text.startswith("--") and _BOOT.match(line.text):
            for each in finders.values():  # the journal's own line names no machine
                each.new_boot(line)
        finder = finders.get(line.host)
        if finder is None:
            if len(finders) >= _MOST_HOSTS:
                finders.pop(next(iter(finders))).close_all()
            finder = finders[line.host] = _Finder(reports)
        finder.feed(line)
        if reports and line.number >= check:
            check = line.number + _STALE_LINES
            for each in finders.values():
                each.close_stale(line.number)
        if reports:
            yield from _finished(reports)
    for finder in finders.values():
        finder.close_all()
    yield from _finished(reports)


def _finished(reports: deque[tuple[FailureReport, _Track]]) -> Iterator[FailureReport]:
    """Hand out the reports that are finished, in their order."""
    while reports and reports[0][1].report is not reports[0][0]:
        report = reports.popleft()[0]
        if report.kind != "order-warning" or _is_order_warning(report):
            yield report


def find_failures(lines: Iterable[LogLine]) -> list[FailureReport]:
    """Return the reports in a log, in their order; see :func:`iter_failures`."""
    return list(iter_failures(lines))
