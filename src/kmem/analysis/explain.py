# SPDX-License-Identifier: GPL-2.0-only
"""Why an allocation failed, from the kernel's own report of it.

:func:`explain` goes from a report (:mod:`kmem.trace.failures`) to the request in
the reference kernel's terms, the comparison at which each zone refused, the
model's own run of the request on the printed state, and remedies that were
tried on it.  What the log does not say stays None.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kmem.analysis.rebuild import Rebuilt, largest_order, rebuild, zone_set
from kmem.analysis.remedies import PageRequest, Remedy, Scene, falling_mark_refuses, find_remedies, run
from kmem.errors import InputError, KmemError
from kmem.mm.gfp import (
    __GFP_COMP,
    __GFP_DIRECT_RECLAIM,
    __GFP_DMA,
    __GFP_DMA32,
    __GFP_HARDWALL,
    __GFP_HIGH,
    __GFP_MEMALLOC,
    __GFP_NOFAIL,
    __GFP_NOMEMALLOC,
    __GFP_NORETRY,
    __GFP_THISNODE,
    GFP_KERNEL,
)
from kmem.mm.refusal import zone_verdict
from kmem.profile import REFERENCE, profile_for
from kmem.profile.legacy import gfp_in_reference, gfp_names_in_reference, legacy_gfp_names
from kmem.trace.failures import FailureReport
from kmem.trace.mem_info import MemInfo, ZoneInfo

__all__ = ["Explanation", "ZoneVerdict", "explain", "iter_explanations", "may_use"]

_MAX_ORDER = 10
_LARGEST_ANYWHERE = 14  # orders that some kernel is built with
_MODEL_ORDERS = 11
_MOST_PAGES = 1 << 16
_ABSURD_ORDER = 40
_PAGES_ASKED = ("page-allocation-failure", "slub-unable", "oom")
_SAME_CALL_US = 1_000_000  # between a page request's report and that of the slab it was for
# names that begin with two underscores are not to be had inside a class
_COMP, _DIRECT_RECLAIM, _NOFAIL, _THISNODE = __GFP_COMP, __GFP_DIRECT_RECLAIM, __GFP_NOFAIL, __GFP_THISNODE
_HARDWALL, _NORETRY = __GFP_HARDWALL, __GFP_NORETRY
_DMA, _DMA32, _ZERO, _BOTH_MOBILITIES, _MOVABLE = __GFP_DMA, __GFP_DMA32, 0x100, 0x18, 0x8
_FALLING_MARK_UNTIL = (4, 4)
_HALF = (0.38, 0.62)  # shares that people call half
_MUCH_SET_ASIDE = 0.5  # of what is free in the zones
#: Functions of the allocators, and of those who print reports: whoever called them asked.
_INNER = re.compile(
    r"_*(?:"
    # printing
    r"dump_stack|dump_backtrace|unwind_backtrace|show_stack|show_trace|show_regs|c_backtrace|warn_slowpath|"
    r"warn(?:_alloc|_slowpath|ed)?(?:$|[._])|report_bug|handle_bug|exc_invalid_op|asm_exc_invalid_op|do_error_trap|"
    r"do_invalid_op|invalid_op|fixup_bug|do_trap|ud2|handle_BUG|bug_handler|dump_header|"
    # pages
    r"alloc_pages|alloc_frozen_pages|alloc_page_|alloc_pages_|alloc_kmem_pages|alloc_contig|alloc_slab_page|"
    r"get_page_from|get_free_page|get_zeroed|folio_alloc|filemap_alloc_folio|vma_alloc_folio|page_cache_alloc|"
    r"alloc_page_frag|page_frag|"
    # slabs
    r"slab_out_of|allocate_slab|new_slab|slab_alloc|slab_do_alloc|kmem_cache_alloc|kmem_getpages|cache_alloc|"
    r"cache_grow|fallback_alloc|slub_alloc|kmalloc|do_kmalloc|kzalloc|kcalloc|kmemdup|krealloc|kvmalloc|kvzalloc|"
    r"kvcalloc|mempool_alloc|"
    # the vmalloc area
    r"vmalloc|vzalloc|vm_area_alloc|alloc_vmap|get_vm_area|vmap_area|vm_map_ram|"
    # running out
    r"oom_kill|out_of_memory|pagefault_out_of|try_charge|charge_memcg|"
    r"(?:mem_cgroup|memcg|obj_cgroup)_\w*(?:charge|oom|out_of_memory|post_alloc)|"
    r"pcpu_alloc"
    r")"
)
_SLAB_PAGES = re.compile(r"_*(?:allocate_slab|new_slab|alloc_slab_page|cache_grow|kmem_getpages)")
#: How far down a call trace whose entries are all uncertain can still be the allocators'.
_DOUBTFUL_DEPTH = 14


@dataclass(frozen=True, slots=True)
class ZoneVerdict:
    """How one zone compared with the request; numbers in pages, None where the log does not say.

    Attributes
    ----------
    node : int
    name : str
    eligible : bool
        Whether the request may use the zone.
    verdict : str
        ``ok``, ``below-watermark``, ``no-block-of-order`` or ``not-eligible``.
    free : int or None
    unusable : int or None
        Free pages that do not count for this request.
    mark, reserve : int or None
        The watermark it has to respect, and ``lowmem_reserve``.
    """

    node: int
    name: str
    eligible: bool
    verdict: str
    free: int | None = None
    unusable: int | None = None
    mark: int | None = None
    reserve: int | None = None

    def comparison(self) -> str:
        """The comparison as a formula, empty if the log does not give the numbers."""
        if self.free is None or self.mark is None or self.unusable is None or self.reserve is None:
            return ""
        sign = "<=" if self.verdict == "below-watermark" else ">"
        return (
            f"free {self.free} - {self.unusable} unusable {sign} {self.mark} watermark + {self.reserve} lowmem_reserve"
        )


@dataclass(slots=True)
class Explanation:
    """What became known of one report.

    Attributes
    ----------
    report : FailureReport
        What the log says.
    reason : str or None
        See ``docs/explain-json.md``; None if the log leaves it open.
    gfp : int or None
        Flags in the layout of the reference kernel.
    order, size_bytes : int or None
    zones : list of ZoneVerdict
    model_agrees : bool or None
        Whether the model fails the request too; None if the log lacks the state.
    cause : str or None
        ``state-changed`` where the printed state would serve the request.
    summary : list of str
        Sentences, the most important first.
    unknown : list of str
        What the log does not say.
    remedies : list of Remedy
    """

    report: FailureReport
    reason: str | None = None
    gfp: int | None = None
    order: int | None = None
    size_bytes: int | None = None
    zones: list[ZoneVerdict] = field(default_factory=list)
    model_agrees: bool | None = None
    cause: str | None = None
    summary: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    remedies: list[Remedy] = field(default_factory=list)

    @property
    def caller(self) -> str | None:
        """The first function of the call trace outside the allocators."""
        stack = self.report.stack
        if self.report.stack_certain:
            return next((fn for fn in stack if not _INNER.match(fn)), None)
        # what is left over from earlier calls stands between the entries: behind the last of the allocators' own
        inner = [at for at, fn in enumerate(stack[:_DOUBTFUL_DEPTH]) if _INNER.match(fn)]
        return next((fn for fn in stack[inner[-1] + 1 :] if not _INNER.match(fn)), None) if inner else None

    @property
    def reserves(self) -> list[str] | None:
        """Which reserves the request may use: ``min`` (a part of the watermark), ``highatomic``, ``all``."""
        return None if self.gfp is None else _reserves(self.gfp, self.order or 0)

    @property
    def gfp_names(self) -> str | None:
        """The flags as the log prints them or, failing that, by their names in the kernel that wrote it."""
        report = self.report
        if report.gfp_names or report.gfp is None:
            return report.gfp_names
        version = _version(report.kernel)
        return legacy_gfp_names(report.gfp, version, profile_for(version) if version else REFERENCE)


def explain(reports: Iterable[FailureReport]) -> list[Explanation]:
    """Explain each report of a log; see :func:`iter_explanations`."""
    return list(iter_explanations(reports))


def iter_explanations(reports: Iterable[FailureReport]) -> Iterator[Explanation]:
    """Explain each report of a log, one after the other.

    Parameters
    ----------
    reports : iterable of FailureReport
        In the order of the log: a slab's failure is explained with the state
        printed for the page request just before it.

    Notes
    -----
    Complexity: some 40 runs of the model for a report with a Mem-Info block.
    """
    before: FailureReport | None = None
    for report in reports:
        yield _Explainer(report, before).answer()
        before = report


class _Explainer:
    def __init__(self, report: FailureReport, before: FailureReport | None) -> None:
        self.out = Explanation(report, order=report.order, size_bytes=report.size_bytes)
        self.info = report.meminfo
        if report.kind == "slub-unable" and self.info is None and before is not None and _same_call(before, report):
            # the page request of the same call, printed a moment earlier
            self.info = before.meminfo
            report = dataclasses.replace(
                report,
                stack=report.stack or before.stack,
                stack_certain=before.stack_certain,
                in_interrupt=before.in_interrupt,
                comm=report.comm or before.comm,
                pid=before.pid if report.pid is None else report.pid,
                kernel=before.kernel,
                nodes=before.nodes,
                mems_allowed=before.mems_allowed,
            )
            self.out.report = report
        self.report = report
        self.version = _version(report.kernel)

    def answer(self) -> Explanation:
        out, report = self.out, self.report
        self.flags()
        if report.kind in _PAGES_ASKED:
            if report.kind != "slub-unable" and report.order is not None:
                out.size_bytes = _size_bytes(report.order, self.info.page_kb if self.info else 4)
            self.pages()
        elif report.kind == "memcg-oom":
            self.cgroup()
        elif report.kind == "order-warning":
            out.reason = "order-too-large"
            out.summary.append(
                f"The request is larger than the page allocator's largest block (order {_MAX_ORDER}, 4 MiB, if pages "
                "have 4 KiB): no amount of free memory would serve it."
            )
            out.unknown += ["the order and the flags of the request: this warning does not print them"]
        elif report.kind == "vmalloc-failure":
            self.vmalloc()
        else:
            out.reason = "none"
            self.show_mem()
        if "suppressed" in report.detail:
            out.unknown.append(f"{report.detail['suppressed']} reports just before, which the kernel left out")
        return out

    def cgroup(self) -> None:
        out = self.out
        out.reason = "cgroup-limit"
        out.size_bytes = None if self.report.order is None else _size_bytes(self.report.order, 4)
        limit = self.report.detail.get("limit_kb")
        out.summary.append(
            "The memory cgroup is at its limit"
            + (f" of {limit} kB" if limit else "")
            + "; the machine may have plenty."
        )
        if not limit:
            out.unknown.append("the limit: the kernel prints it at a lower level (KERN_INFO)")

    # -- the request --------------------------------------------------------

    def flags(self) -> None:
        report = self.report
        if report.gfp is None and not report.gfp_names:
            return
        if report.gfp_names:
            self.out.gfp, unknown = gfp_names_in_reference(report.gfp_names)
            if unknown:
                self.out.unknown.append(f"what {', '.join(unknown)} means: it is none of the flags known here")
        else:
            assert report.gfp is not None
            profile = profile_for(self.version) if self.version else REFERENCE
            self.out.gfp = gfp_in_reference(report.gfp, self.version, profile)
        # no caller asks for both; the model refuses what the kernel only warns of
        if self.out.gfp & _BOTH_MOBILITIES == _BOTH_MOBILITIES:
            self.out.gfp &= ~_MOVABLE

    def pages(self) -> None:
        out, info, report = self.out, self.info, self.report
        if report.detail.get("asked") == "sysrq-f":
            out.reason = "none"
            out.summary.append("No failure: somebody had the OOM killer choose a process (sysrq-f).")
            return
        if out.order is None:
            out.unknown.append("the order of the request")
        elif out.order > (largest_order(info) if info is not None and info.complete else _LARGEST_ANYWHERE):
            out.reason = "order-too-large"
            out.summary.append(f"No zone of the machine ever has a block of order {out.order}.")
            return
        if report.kind == "oom":
            out.reason = "memory-exhausted"
        if info is None or not info.complete:
            self.no_state()
            return
        if out.gfp is None or out.order is None:
            out.unknown.append("the flags of the request")
            return
        if out.order >= _MODEL_ORDERS:
            out.unknown.append(f"whether the model agrees: it has no blocks of order {out.order}")
            return
        try:
            self.on_the_model(info)
        except KmemError as error:
            out.unknown.append(f"a state that fits the Mem-Info block: {error.message}")

    def no_state(self) -> None:
        out, info = self.out, self.info
        out.unknown.append(f"the state of memory: {_what_is_wrong(info)}")
        if self.report.kind == "oom":
            out.summary.append("Memory and swap were used up, and a process was killed to free some.")
        elif re.search(r"\(\d+:", str(self.report.detail.get("cache", ""))):
            out.unknown.append("whether it was the limit of the memory cgroup that this cache is of")

    def on_the_model(self, info: MemInfo) -> None:
        """Compare the request with each zone, run it on the printed state, and look for remedies."""
        out, report = self.out, self.report
        assert out.gfp is not None and out.order is not None
        gfp = out.gfp & ~_NOFAIL
        if report.kind == "slub-unable":
            gfp = (gfp | _COMP) & ~_ZERO  # as SLUB asks for its slabs; it zeroes objects itself
        kernel_zones = zone_set(info)
        gfp &= ~((_DMA if "DMA" not in kernel_zones else 0) | (_DMA32 if "DMA32" not in kernel_zones else 0))
        scene = Scene(
            info,
            self.allowed_nodes(info, gfp),
            self.falling_mark(),
            report.in_interrupt,
            _slab_order(report, info.page_kb) if report.kind == "slub-unable" or _for_slab(report) else None,
            report.kind == "oom",
            self.version,
        )
        rebuilt = rebuild(info, nodes=scene.nodes)
        request = PageRequest(gfp, out.order, self.node_of(rebuilt, gfp, out.order))
        out.zones = _verdicts(rebuilt, scene, request)
        served = run(scene, request)
        out.model_agrees = not served
        if served:
            out.cause = "state-changed"
        self.reason()
        self.sentences(scene, request)
        if not served:
            out.remedies = find_remedies(scene, request)

    def falling_mark(self) -> bool:
        """Whether the kernel is so old that its watermark falls from order to order."""
        if self.version is not None:
            return self.version < _FALLING_MARK_UNTIL
        report = self.report
        return report.gfp is not None and report.gfp_names is None and not report.gfp & 0x2400000

    def allowed_nodes(self, info: MemInfo, gfp: int) -> frozenset[int] | None:
        """The nodes that the log restricts the request to, None if it does not."""
        printed = {zone.node for zone in info.zones}
        allowed = set(printed)
        if self.report.nodes is not None:
            allowed &= self.report.nodes
        if self.report.mems_allowed is not None and gfp & _HARDWALL:
            allowed &= self.report.mems_allowed
        return frozenset(allowed) if allowed and allowed != printed else None

    def node_of(self, rebuilt: Rebuilt, gfp: int, order: int) -> int:
        """The node that the request preferred: with __GFP_THISNODE, the first that refuses it."""
        nodes = sorted({node for node, _ in rebuilt.zones})
        asked = self.report.detail.get("node")
        if isinstance(asked, int) and asked in nodes:
            return asked
        if not gfp & _THISNODE:
            return nodes[0]
        for node in nodes:
            verdicts = [
                zone_verdict(rebuilt.allocator, zone, gfp, order, node)["verdict"]
                for (at, _), zone in rebuilt.zones.items()
                if at == node
            ]
            if "ok" not in verdicts:
                return node
        return nodes[0]

    def reason(self) -> None:
        verdicts = {zone.verdict for zone in self.out.zones if zone.eligible}
        if not self.out.order:
            broken = False
        elif self.out.cause:
            # what was missing came up since; where pages were plenty, it was a block
            broken = "no-block-of-order" in verdicts or "below-watermark" not in verdicts
        else:
            broken = "no-block-of-order" in verdicts
        if broken:
            self.out.reason = "no-block-of-order"
        elif self.report.kind != "oom":
            self.out.reason = "below-watermark"

    # -- words --------------------------------------------------------------

    def sentences(self, scene: Scene, request: PageRequest) -> None:
        out, info = self.out, scene.info
        mib = info.page_kb / 1024
        eligible = [zone for zone in out.zones if zone.eligible]
        names = ", ".join(dict.fromkeys(zone.name for zone in eligible))
        usable = sum(zone.free or 0 for zone in eligible)
        # the kernel counts what is free in zones that it does not print, too
        refused = info.counters.get("free", sum(zone.free or 0 for zone in out.zones)) - usable
        if out.cause:
            out.summary.append(
                "The state had changed: what was printed after the last attempt would serve the request. "
                "It failed on a state a moment earlier."
            )
        if out.reason != "no-block-of-order" and not out.cause and refused > 2 * usable and refused * mib >= 4:
            out.summary.append("Plenty is free, but in a zone that this request may not use.")
        if out.reason == "no-block-of-order":
            out.summary += _shape(info, {(zone.node, zone.name) for zone in eligible}, request.order, bool(out.cause))
            if (
                scene.falling_mark
                and not out.cause
                and any(self.large_enough(info, zone, request.order) for zone in eligible)
            ):
                out.summary.append(
                    f"Kernels before {_FALLING_MARK_UNTIL[0]}.{_FALLING_MARK_UNTIL[1]} do not hand out the last large "
                    "blocks: a falling part of the watermark has to be left in blocks of each order."
                )
        elif out.reason == "below-watermark" and not out.cause:
            out.summary.append(f"Each zone that the request may use ({names}) has too few free pages left for it.")
        elif out.reason == "memory-exhausted":
            out.summary.append(
                f"Memory was used up in each zone that the request may use ({names}), and "
                + ("there is no swap." if not info.swap_total_kb else f"{info.swap_free_kb} kB of swap were free.")
            )
        self.set_aside(info, request, eligible, usable)
        out.summary += [self.waiting(request), may_use(request.gfp, request.order)]

    def large_enough(self, info: MemInfo, verdict: ZoneVerdict, order: int) -> bool:
        """Whether a zone has a block of an order, or a larger one."""
        return any(
            count
            for zone in info.zones
            if (zone.node, zone.name) == (verdict.node, verdict.name)
            for count, _ in (zone.blocks or [])[order:]
        )

    def set_aside(self, info: MemInfo, request: PageRequest, eligible: list[ZoneVerdict], usable: int) -> None:
        """Say if much of what is free is kept for others: for devices (CMA), or for atomic requests of some order."""
        zones = {(zone.node, zone.name) for zone in eligible}
        cma = sum(zone.counters.get("free_cma", 0) for zone in info.zones if (zone.node, zone.name) in zones)
        if request.gfp & _MOVABLE:
            cma = 0
        # the rest of what does not count, but no more than is free
        high = (
            sum(min((zone.unusable or 0) - (1 << request.order) + 1, zone.free or 0) for zone in eligible)
            - cma // info.page_kb
        )
        if high > _MUCH_SET_ASIDE * usable:
            kept = high * info.page_kb
            self.out.summary.append(f"{kept} kB of it count as kept for atomic requests of order 1 and larger.")
        if cma // info.page_kb > _MUCH_SET_ASIDE * usable:
            self.out.summary.append(
                f"{cma >> 10} MiB of what is free are in CMA areas, kept for devices: only movable pages may lie there."
            )

    def waiting(self, request: PageRequest) -> str:
        if not request.gfp & _DIRECT_RECLAIM:
            return "The caller may not wait: nothing could be reclaimed or compacted for it."
        tried = "reclaim and compaction were" if request.order else "reclaim was"
        return f"The caller may wait: {tried} tried first" + (", once." if request.gfp & _NORETRY else ".")

    def show_mem(self) -> None:
        out, info, detail = self.out, self.info, self.report.detail
        if "stalled_ms" in detail:
            out.summary.append(f"No failure yet: the request had been waiting for {detail['stalled_ms']} ms.")
        elif detail.get("asked"):
            out.summary.append("No failure: somebody asked for the state of memory (sysrq-m).")
        else:
            out.summary.append(
                "The state of memory, and no failed request before it: somebody asked for it (sysrq-m does), "
                "or the log begins too late."
            )
        if info is None or not info.complete:
            out.unknown.append(f"part of the state of memory: {_what_is_wrong(info)}")
        if info is None or not info.zones:
            return
        kb = info.page_kb
        out.zones = [
            ZoneVerdict(zone.node, zone.name, True, "ok", zone.counters.get("free", 0) // kb) for zone in info.zones
        ]
        out.summary += _shape(info, {(zone.node, zone.name) for zone in info.zones}, None)
        if not info.complete or "stalled_ms" in detail:
            return
        with suppress(KmemError):  # no state fits the block: nothing to agree with
            # the kernel tells of no failure; the model agrees if it has none either
            out.model_agrees = run(Scene(info), PageRequest(GFP_KERNEL, 0)) or None

    # -- vmalloc ------------------------------------------------------------

    def vmalloc(self) -> None:
        out, info = self.out, self.info
        what = str(self.report.detail.get("what", ""))
        size = out.size_bytes
        total = None
        if info is not None and info.pages_ram:
            total = info.pages_ram - (info.pages_reserved or 0)
        too_large = None if total is None or not size or info is None else size // (info.page_kb << 10) > total
        if "exceeds total pages" in what or (what == "allocation failure" and too_large):
            out.reason = "size-too-large"
            out.summary.append("The request is larger than all memory of the machine.")
            out.model_agrees = too_large
            if total is not None and size and info is not None:
                out.summary.append(
                    f"It asks for {size >> 20} MiB; the machine manages {total * info.page_kb >> 10} MiB."
                )
        elif "no room" in what or "vm_struct" in what or "exceeds requested range" in what:
            self.no_addresses(info)
        elif what == "allocation failure":
            out.summary.append("No area was made: the request is larger than all memory, or no gap of addresses is.")
            out.unknown.append("which of the two: the kernel says so in a line before, unless it printed too many")
        else:
            out.reason = "memory-exhausted"
            out.summary.append("There were too few free pages to fill the area with.")
            self.single_page(info, what)

    def no_addresses(self, info: MemInfo | None) -> None:
        out = self.out
        out.reason = "address-space"
        out.summary.append(
            "The vmalloc area has no gap of this size: addresses are short, not pages. "
            "On a 32-bit machine vmalloc=SIZE on the command line makes the area larger."
        )
        out.unknown.append("which areas are in use: /proc/vmallocinfo tells")
        size = out.size_bytes
        if info is None or not info.complete or out.gfp is None or not size:
            return
        request = PageRequest(out.gfp & ~_NOFAIL, 0)  # high memory would do, too, but is not printed
        scene = Scene(info, self.allowed_nodes(info, out.gfp))
        try:
            pages = -(-size // (info.page_kb << 10))
            if pages <= _MOST_PAGES and run(scene, request, times=pages):
                out.summary.append(f"The {pages} pages for it are there: the model finds them in the printed state.")
        except KmemError as error:
            out.unknown.append(f"a state that fits the Mem-Info block: {error.message}")
            return
        # with the gaps that the kernel says there are, no number of pages would serve it
        out.model_agrees = True

    def single_page(self, info: MemInfo | None, what: str) -> None:
        """Whether the printed state has another page, or block, for an area that could not be filled."""
        out = self.out
        if info is None or not info.complete or out.gfp is None:
            return
        order = re.search(r"page order (\d+)", what)
        request = PageRequest(out.gfp & ~_NOFAIL, int(order[1]) if order and len(order[1]) < 2 else 0)
        scene = Scene(info, self.allowed_nodes(info, out.gfp), self.falling_mark())
        try:
            out.zones = _verdicts(rebuild(info, nodes=scene.nodes), scene, request)
            out.model_agrees = not run(scene, request)
        except KmemError as error:
            out.unknown.append(f"a state that fits the Mem-Info block: {error.message}")
            return
        out.cause = None if out.model_agrees else "state-changed"


def _reserves(gfp: int, order: int) -> list[str]:
    """Which reserves a request may use.

    Source: mm/page_alloc.c:gfp_to_alloc_flags @6.1.192
    """
    if gfp & __GFP_MEMALLOC and not gfp & __GFP_NOMEMALLOC:
        return ["all"]
    if not gfp & __GFP_HIGH:
        return []
    return ["min", "highatomic"] if order and not gfp & (__GFP_DIRECT_RECLAIM | __GFP_NOMEMALLOC) else ["min"]


def may_use(gfp: int, order: int) -> str:
    """Say which reserves a request may use."""
    reserves = _reserves(gfp, order)
    if not reserves:
        return "It may use no reserve."
    if reserves == ["all"]:
        return "It may use all reserves: no watermark holds for it."
    share = "half" if gfp & (__GFP_DIRECT_RECLAIM | __GFP_NOMEMALLOC) else "three eighths"
    more = " and what is kept for atomic requests of some order" if "highatomic" in reserves else ""
    return f"It may use a part of the reserve: memory down to {share} of the min watermark{more}."


def _what_is_wrong(info: MemInfo | None) -> str:
    """Why there is no complete state."""
    if info is None or not info.zones:
        return "the Mem-Info block is missing"
    return info.damage or "the Mem-Info block is cut off"


def _size_bytes(order: int, page_kb: int) -> int | None:
    """The size of a block, None for what cannot be an order."""
    return page_kb << (10 + order) if order < _ABSURD_ORDER else None


def _same_call(pages: FailureReport, slab: FailureReport) -> bool:
    """Whether a page request was one for the slab that is reported next."""
    if pages.kind != "page-allocation-failure" or pages.order != (slab.order or 0) or "node" not in slab.detail:
        return False
    if pages.time_us is not None and slab.time_us is not None and slab.time_us - pages.time_us > _SAME_CALL_US:
        return False
    return not pages.stack or any("slab" in fn or "kmem_cache" in fn or "kmem_getpages" in fn for fn in pages.stack)


def _for_slab(report: FailureReport) -> bool:
    """Whether the pages were to be a slab: it asks for the least that will do, and nobody chooses."""
    for fn in report.stack:
        if not _INNER.match(fn):
            return False
        if _SLAB_PAGES.match(fn):
            return True
    return False


def _slab_order(report: FailureReport, page_kb: int) -> int | None:
    """The order that an object of this size needs; the cache's if debugging data did not raise that."""
    size, order = report.size_bytes, report.order
    if size is None or order is None or "debug" not in report.detail:
        return order
    return max(-(-size // (page_kb << 10)) - 1, 0).bit_length()


def _version(kernel: str | None) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", kernel or "")
    return (int(match[1]), int(match[2])) if match else None


def _verdicts(rebuilt: Rebuilt, scene: Scene, request: PageRequest) -> list[ZoneVerdict]:
    verdicts = []
    for (node, name), zone in sorted(rebuilt.zones.items(), key=lambda item: item[1]):
        got = zone_verdict(rebuilt.allocator, zone, request.gfp, request.order, request.node)
        numbers = {key: int(got[key]) for key in ("free", "unusable", "mark", "reserve")}
        verdict = got["verdict"]
        if verdict == "ok" and scene.falling_mark and request.order:
            refused = falling_mark_refuses(rebuilt, zone, request.gfp, request.order)
            verdict = "no-block-of-order" if refused else verdict
        verdicts.append(ZoneVerdict(node, name, verdict != "not-eligible", verdict, **numbers))
    for info_zone in scene.info.zones:  # on nodes that the request may not use
        if (info_zone.node, info_zone.name) not in rebuilt.zones:
            free = info_zone.counters.get("free", 0) // scene.info.page_kb
            verdicts.append(ZoneVerdict(info_zone.node, info_zone.name, False, "not-eligible", free))
    return verdicts + _unprinted(scene.info)


def _unprinted(info: MemInfo) -> list[ZoneVerdict]:
    """Zones that the kernel left out because the request may not use them.

    ``lowmem_reserve`` of a lower zone grows with the memory of each higher one,
    so its steps tell which zones there are; what is free in them is the total
    less what was printed.
    """
    names = zone_set(info)
    printed = {zone.name for zone in info.zones}
    hidden = []
    for zone in info.zones:
        reserve = zone.lowmem_reserve or []
        for index in range(1, min(len(reserve), len(names))):
            if reserve[index] > reserve[index - 1] and names[index] not in printed:
                hidden.append(names[index])
    hidden = list(dict.fromkeys(hidden))
    listed = sum(zone.counters.get("free", 0) for zone in info.zones) // info.page_kb
    left = info.counters["free"] - listed if "free" in info.counters else None
    free = max(left, 0) if left is not None and len(hidden) == 1 else None
    return [ZoneVerdict(0, name, False, "not-eligible", free) for name in hidden]


def _shape(info: MemInfo, zones: set[tuple[int, str]], order: int | None, changed: bool = False) -> list[str]:
    """Say in what pieces the free memory of some zones is, unless that has `changed` so that it does not matter."""
    chosen = [zone for zone in info.zones if (zone.node, zone.name) in zones and zone.blocks]
    counts = [0] * 32
    for zone in chosen:
        for at, (count, _letters) in enumerate(zone.blocks or ()):
            counts[min(at, 31)] += count << at
    free = sum(counts)
    managed = sum(_managed(zone) for zone in chosen) // info.page_kb
    if not free or not managed:
        return []
    share = free / managed
    amount = "half the memory" if _HALF[0] <= share <= _HALF[1] else f"{share:.0%} of the memory"
    largest = max(at for at, pages in enumerate(counts) if pages)
    typical = next(at for at in range(32) if sum(counts[: at + 1]) >= 0.9 * free)
    if order is None and typical > 3:
        return []
    if order is not None and typical >= order:
        size = f"order {order} ({info.page_kb << order} kB)"
        return (
            []
            if changed
            else [f"Free blocks of {size} are there, but none that this request may use: {amount} is free."]
        )
    if typical == 0:
        pieces = "in single pages"
    else:
        most = "" if largest == typical else "mostly "
        pieces = f"{most}in blocks of at most {info.page_kb << typical} kB (order {typical})"
    text = f"{amount} is free, but {pieces}."
    if order is None:
        return [f"It is fragmented: {text}"]
    if largest >= order:
        return [f"Large blocks are few: {text}"]
    return [f"No block of order {order} ({info.page_kb << order} kB) is free: {text}"]


def _managed(zone: ZoneInfo) -> int:
    return zone.counters.get("managed", zone.counters.get("present", 0))


def nothing_found(name: str) -> InputError:
    """The error for a log without any report."""
    return InputError(
        "no failed allocation and no Mem-Info in this log",
        file=name,
        remedy="give the output of dmesg or journalctl -k from the boot in which it failed",
    )


def as_dict(answer: Explanation) -> dict[str, Any]:
    """Return an explanation as ``--json`` prints it; see ``docs/explain-json.md``."""
    report = answer.report
    entry = {
        "kind": report.kind,
        "line": report.line,
        "time_us": report.time_us,
        "kernel": report.kernel,
        "comm": report.comm,
        "pid": report.pid,
        "order": answer.order,
        "gfp": None if report.gfp is None else f"{report.gfp:#x}",
        "gfp_names": answer.gfp_names,
        "bytes": answer.size_bytes,
        "caller": answer.caller,
        "may_sleep": None if answer.gfp is None else bool(answer.gfp & _DIRECT_RECLAIM),
        "reserves": answer.reserves,
        "reason": answer.reason,
        "zones": [
            {
                "node": zone.node,
                "name": zone.name,
                "eligible": zone.eligible,
                "verdict": zone.verdict,
                "free": zone.free,
                "unusable": zone.unusable,
                "watermark": zone.mark,
                "lowmem_reserve": zone.reserve,
            }
            for zone in answer.zones
        ],
        "model_agrees": answer.model_agrees,
        "cause": answer.cause,
        "summary": answer.summary,
        "unknown": answer.unknown,
        "remedies": [
            {"kind": r.kind, "change": r.change, "text": r.text, "succeeded": r.succeeded} for r in answer.remedies
        ],
        "detail": report.detail,
    }
    return {key: _printable(value) for key, value in entry.items()}


def _printable(value: Any) -> Any:
    """A value with None for numbers that no kernel prints, and JSON has no room for."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return None
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value
