# SPDX-License-Identifier: GPL-2.0-only
"""Why an allocation failed, from the kernel's own report of it.

:func:`explain` goes from a report (:mod:`kmem.trace.failures`) to the request in
the reference kernel's terms, the comparison at which each zone refused, the
model's own run of the request on the printed state, and remedies that were
tried on it.  What the log does not say stays None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kmem.analysis.rebuild import Rebuilt, rebuild, zone_names
from kmem.analysis.remedies import PageRequest, Remedy, find_remedies, run
from kmem.errors import InputError, KmemError
from kmem.mm.gfp import __GFP_COMP, __GFP_DIRECT_RECLAIM, __GFP_NOFAIL, __GFP_THISNODE
from kmem.mm.refusal import zone_verdict
from kmem.profile import REFERENCE, format_gfp, profile_for
from kmem.profile.legacy import gfp_in_reference, gfp_names_in_reference
from kmem.trace.failures import FailureReport, MemInfo, ZoneInfo

__all__ = ["Explanation", "ZoneVerdict", "explain"]

_MAX_ORDER = 10
# names that begin with two underscores are not to be had inside a class
_COMP, _DIRECT_RECLAIM, _NOFAIL, _THISNODE = __GFP_COMP, __GFP_DIRECT_RECLAIM, __GFP_NOFAIL, __GFP_THISNODE
_INNER = re.compile(
    r"(dump_stack|warn_alloc|__?alloc_pages|alloc_pages|alloc_page_|get_page_from|__get_free|get_zeroed|slab_out_of|"
    r"allocate_slab|new_slab|_+slab_alloc|slab_alloc|kmem_cache_alloc|_*kmalloc|kmalloc|__do_kmalloc|kzalloc|kcalloc|"
    r"dump_header|oom_kill|out_of_memory|mem_cgroup_out|mem_cgroup_oom|try_charge|__?vmalloc|vmalloc|vzalloc|"
    r"vm_area_alloc|alloc_vmap|__get_vm_area|get_vm_area|kvmalloc|show_stack|warn_slowpath|__warn|warn_alloc_failed|"
    r"__show_regs|show_regs|report_bug|handle_bug|exc_invalid_op|asm_exc_invalid_op|krealloc|kmemdup|folio_alloc|"
    r"__folio_alloc|vma_alloc_folio|asm_exc_page_fault_dummy|_cond_resched|dump_backtrace|unwind_backtrace|"
    r"mempool_alloc|cache_alloc|cache_grow|kmem_getpages|fallback_alloc|ret_from_exception_dummy)"
)


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
        """The first function of the call trace outside the allocator."""
        return next((fn for fn in self.report.stack if not _INNER.match(fn)), None)

    @property
    def gfp_names(self) -> str | None:
        """The flags as the log or, failing that, the reference kernel prints them."""
        if self.report.gfp_names:
            return self.report.gfp_names
        return None if self.gfp is None else format_gfp(self.gfp)


def explain(reports: Iterable[FailureReport]) -> list[Explanation]:
    """Explain each report of a log.

    Parameters
    ----------
    reports : iterable of FailureReport
        In the order of the log: a slab's failure is explained with the state
        printed for the page request just before it.
    """
    answers: list[Explanation] = []
    before: FailureReport | None = None
    for report in reports:
        answers.append(_Explainer(report, before).answer())
        before = report
    return answers


class _Explainer:
    def __init__(self, report: FailureReport, before: FailureReport | None) -> None:
        self.report = report
        self.out = Explanation(report, order=report.order, size_bytes=report.size_bytes)
        self.info = report.meminfo
        if report.kind == "slub-unable" and self.info is None and before is not None:
            # the page request of the same call, printed a moment earlier
            if before.kind == "page-allocation-failure" and before.order == (report.order or 0):
                self.info = before.meminfo
                report.stack = report.stack or before.stack
                report.comm, report.pid = report.comm or before.comm, report.pid or before.pid

    def answer(self) -> Explanation:
        out, report = self.out, self.report
        self.flags()
        if report.kind in ("page-allocation-failure", "slub-unable", "oom"):
            if report.kind != "slub-unable" and report.order is not None:
                out.size_bytes = (self.info.page_kb if self.info else 4) << (10 + report.order)
            self.pages()
        elif report.kind == "memcg-oom":
            out.reason = "cgroup-limit"
            out.size_bytes = None if report.order is None else 4096 << report.order
            limit = report.detail.get("limit_kb")
            out.summary.append(
                "The memory cgroup is at its limit"
                + (f" of {limit} kB" if limit else "")
                + "; the machine may have plenty."
            )
        elif report.kind == "order-warning":
            out.reason = "order-too-large"
            out.summary.append(
                f"The request is larger than the page allocator's largest block (order {_MAX_ORDER}, 4 MiB): "
                "no amount of free memory would serve it."
            )
            out.unknown += ["the order and the flags of the request: this warning does not print them"]
        elif report.kind == "vmalloc-failure":
            self.vmalloc()
        else:
            out.reason = "none"
            self.show_mem()
        return out

    # -- the request --------------------------------------------------------

    def flags(self) -> None:
        report = self.report
        if report.gfp is None and not report.gfp_names:
            return
        version = _version(report.kernel)
        if report.gfp_names:
            self.out.gfp, unknown = gfp_names_in_reference(report.gfp_names)
            if unknown:
                self.out.unknown.append(f"what {', '.join(unknown)} means: no known kernel has it")
        else:
            assert report.gfp is not None
            profile = profile_for(version) if version else REFERENCE
            self.out.gfp = gfp_in_reference(report.gfp, version, profile)
        # no caller asks for both; the model refuses what the kernel only warns of
        if self.out.gfp & 0x18 == 0x18:
            self.out.gfp &= ~0x8

    def pages(self) -> None:
        out, info = self.out, self.info
        if out.order is None:
            out.unknown.append("the order of the request")
        elif out.order > _MAX_ORDER:
            out.reason = "order-too-large"
            out.summary.append(f"No zone ever has a block of order {out.order}: {_MAX_ORDER} is the largest.")
            return
        if info is None or not info.complete:
            what = "cut off" if info is not None and info.zones else "missing"
            out.unknown.append(f"the state of memory: the Mem-Info block is {what}")
            if self.report.kind == "oom":
                out.reason = "memory-exhausted"
                out.summary.append("Memory and swap were used up, and a process was killed to free some.")
            return
        if out.gfp is None or out.order is None:
            out.unknown.append("the flags of the request")
            return
        gfp = out.gfp & ~_NOFAIL
        if self.report.kind == "slub-unable":
            gfp = (gfp | _COMP) & ~0x100  # as SLUB asks for its slabs; it zeroes objects itself
        try:
            rebuilt = rebuild(info)
        except KmemError as error:
            out.unknown.append(f"a state that fits the Mem-Info block: {error.message}")
            return
        node = self.node_of(rebuilt, gfp, out.order)
        request = PageRequest(gfp, out.order, node)
        out.zones = _verdicts(rebuilt, info, request)
        served = run(info, request)
        out.model_agrees = not served
        if served:
            out.cause = "state-changed"
        self.reason()
        self.sentences(info, request)
        if not served:
            out.remedies = find_remedies(info, request, slab=self.report.kind == "slub-unable")

    def node_of(self, rebuilt: Rebuilt, gfp: int, order: int) -> int:
        """The node that the request preferred: with __GFP_THISNODE, the first that refuses it."""
        nodes = sorted({node for node, _ in rebuilt.zones})
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
        if self.report.kind == "oom":
            self.out.reason = "memory-exhausted"
        elif "no-block-of-order" in verdicts:
            self.out.reason = "no-block-of-order"
        else:
            self.out.reason = "below-watermark"

    # -- words --------------------------------------------------------------

    def sentences(self, info: MemInfo, request: PageRequest) -> None:
        out = self.out
        mib = info.page_kb / 1024
        eligible = [zone for zone in out.zones if zone.eligible]
        names = ", ".join(dict.fromkeys(zone.name for zone in eligible))
        refused = sum(zone.free or 0 for zone in out.zones if not zone.eligible)
        usable = sum(zone.free or 0 for zone in eligible)
        if out.cause:
            out.summary.append(
                "The state had changed: what was printed after the last attempt would serve the request. "
                "It failed on a state a moment earlier."
            )
        if out.reason != "no-block-of-order" and refused > 2 * usable and refused * mib >= 4:
            out.summary.append("Plenty is free, but in a zone that this request may not use.")
        if out.reason == "no-block-of-order":
            out.summary += _shape(info, {(zone.node, zone.name) for zone in eligible}, request.order)
        elif out.reason == "below-watermark":
            out.summary.append(f"Each zone that the request may use ({names}) has too few free pages left for it.")
        elif out.reason == "memory-exhausted":
            out.summary.append(
                f"Memory was used up in each zone that the request may use ({names}), and "
                + ("there is no swap." if not info.swap_total_kb else f"{info.swap_free_kb} kB of swap were free.")
            )
        out.summary.append(
            "The caller may wait: reclaim and compaction were tried first."
            if request.gfp & _DIRECT_RECLAIM
            else "The caller may not wait: nothing could be reclaimed or compacted for it."
        )

    def show_mem(self) -> None:
        out, info = self.out, self.info
        if info is None or not info.complete:
            out.unknown.append("part of the state of memory: the Mem-Info block is cut off")
        if info is None or not info.zones:
            return
        kb = info.page_kb
        out.zones = [
            ZoneVerdict(zone.node, zone.name, True, "ok", zone.counters.get("free", 0) // kb) for zone in info.zones
        ]
        out.summary.append("No failure: somebody asked for the state of memory (sysrq-m).")
        out.summary += _shape(info, {(zone.node, zone.name) for zone in info.zones}, None)

    # -- vmalloc ------------------------------------------------------------

    def vmalloc(self) -> None:
        out, info = self.out, self.info
        what = str(self.report.detail.get("what", ""))
        size = out.size_bytes
        if "exceeds total pages" in what:
            out.reason = "size-too-large"
            out.summary.append("The request is larger than all memory of the machine.")
            if info is not None and info.pages_ram and size:
                total = info.pages_ram - (info.pages_reserved or 0)
                out.model_agrees = size // (info.page_kb << 10) > total
                out.summary.append(
                    f"It asks for {size >> 20} MiB; the machine manages {total * info.page_kb >> 10} MiB."
                )
        elif "no room" in what or "vm_struct" in what:
            out.reason = "address-space"
            out.summary.append(
                "The vmalloc area has no gap of this size: addresses are short, not pages. "
                "On a 32-bit machine vmalloc=SIZE on the command line makes the area larger."
            )
            out.unknown.append("which areas are in use: /proc/vmallocinfo tells")
        else:
            out.reason = "memory-exhausted"
            out.summary.append("There were too few free pages to fill the area with.")
            if info is not None and info.complete and out.gfp is not None:
                request = PageRequest(out.gfp & ~_NOFAIL, 0)
                rebuilt = rebuild(info)
                out.zones = _verdicts(rebuilt, info, request)
                out.model_agrees = not run(info, request)
                out.cause = None if out.model_agrees else "state-changed"
        if info is not None and info.complete and out.model_agrees is None and out.reason == "address-space":
            out.unknown.append("whether the model agrees: the areas are not printed")


def _version(kernel: str | None) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", kernel or "")
    return (int(match[1]), int(match[2])) if match else None


def _verdicts(rebuilt: Rebuilt, info: MemInfo, request: PageRequest) -> list[ZoneVerdict]:
    verdicts = []
    for (node, name), zone in sorted(rebuilt.zones.items(), key=lambda item: item[1]):
        got = zone_verdict(rebuilt.allocator, zone, request.gfp, request.order, request.node)
        numbers = {key: int(got[key]) for key in ("free", "unusable", "mark", "reserve")}
        verdicts.append(ZoneVerdict(node, name, got["verdict"] != "not-eligible", got["verdict"], **numbers))
    return verdicts + _unprinted(info)


def _unprinted(info: MemInfo) -> list[ZoneVerdict]:
    """Zones that the kernel left out because the request may not use them.

    ``lowmem_reserve`` of a lower zone grows with the memory of each higher one,
    so its steps tell which zones there are; what is free in them is the total
    less what was printed.
    """
    names = zone_names(info)
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


def _shape(info: MemInfo, zones: set[tuple[int, str]], order: int | None) -> list[str]:
    """Say in what pieces the free memory of some zones is."""
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
    amount = "half the memory" if 0.4 <= share <= 0.6 else f"{share:.0%} of the memory"
    largest = max(at for at, pages in enumerate(counts) if pages)
    typical = next(at for at in range(32) if sum(counts[: at + 1]) >= 0.9 * free)
    if order is None and typical > 3:
        return []
    if typical == 0:
        pieces = "in single pages"
    else:
        pieces = f"in blocks of at most {info.page_kb << typical} kB (order {typical})"
    text = f"{amount} is free, but {pieces}."
    if order is None:
        return [f"It is fragmented: {text}"]
    if largest >= order:
        return [f"Large blocks are few: {text}"]
    return [f"No block of order {order} ({info.page_kb << order} kB) is free: {text}"]


def _managed(zone: ZoneInfo) -> int:
    return zone.counters.get("managed", zone.counters.get("present", 0))


def check(explanations: list[Explanation], name: str) -> None:
    """Refuse a log without any report.

    Raises
    ------
    InputError
        If there is nothing to explain.
    """
    if not explanations:
        raise InputError(
            "no failed allocation and no Mem-Info in this log",
            file=name,
            remedy="give the output of dmesg or journalctl -k from the boot in which it failed",
        )


def as_dict(answer: Explanation) -> dict[str, Any]:
    """Return an explanation as ``--json`` prints it; see ``docs/explain-json.md``."""
    report = answer.report
    return {
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
