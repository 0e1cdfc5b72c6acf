# SPDX-License-Identifier: GPL-2.0-only
"""The explanation of a failed allocation, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from kmem.analysis.explain import Explanation, ZoneVerdict
from kmem.analysis.remedies import Remedy

__all__ = ["explanation_lines", "remedy_lines", "wrapped", "zone_lines"]

_WIDTH = 100
_TITLES = {
    "page-allocation-failure": "page allocation failure",
    "slub-unable": "no memory for a slab",
    "oom": "out of memory",
    "memcg-oom": "out of memory in a memory cgroup",
    "vmalloc-failure": "vmalloc failure",
    "order-warning": "request larger than any block",
    "show-mem": "state of memory",
}
_VERDICTS = {
    "ok": "would serve it",
    "below-watermark": "too few pages",
    "no-block-of-order": "no block of this order",
    "not-eligible": "may not be used",
}


def explanation_lines(answer: Explanation, name: str) -> Iterator[str]:
    """Yield the lines that explain one report.

    Parameters
    ----------
    answer : Explanation
    name : str
        What the log is called.
    """
    report = answer.report
    yield f"{name}:{report.line}: {_TITLES[report.kind]}"
    yield from _field("request", _request(answer))
    for sentence in answer.summary:
        yield from _field("", sentence)
    if answer.zones:
        yield from zone_lines(answer.zones)
    if answer.model_agrees is not None:
        yield from _field("model", _model(answer))
    for text in answer.unknown:
        yield from _field("unknown", text)
    yield from remedy_lines(answer.remedies)


def _request(answer: Explanation) -> str:
    report = answer.report
    who = report.comm or "somebody"
    if report.pid is not None:
        who += f" (pid {report.pid})"
    if answer.reason == "none" and answer.order is None:
        return "none"
    size = "" if answer.size_bytes is None else f"{answer.size_bytes:,} bytes"
    order = "" if answer.order is None else f"order {answer.order}"
    what = ", ".join(part for part in (size, order) if part) or "memory"
    flags = f" with {answer.gfp_names}" if answer.gfp_names else ""
    where = f", called from {answer.caller}()" if answer.caller else ""
    cache = f" for cache {report.detail['cache']}" if "cache" in report.detail else ""
    return f"{who} asked for {what}{flags}{cache}{where}"


def remedy_lines(remedies: Iterable[Remedy]) -> Iterator[str]:
    """Yield what would have helped, under a heading if there is anything."""
    for number, remedy in enumerate(remedies):
        if not number:
            yield "  would have helped (each tried on the model):"
        yield from wrapped(f"    - {remedy.kind}: ", remedy.text)


def zone_lines(zones: Iterable[ZoneVerdict]) -> Iterator[str]:
    """Yield a line for each zone: its verdict, and the numbers compared."""
    for zone in zones:
        label = f"node {zone.node} {zone.name}"
        numbers = zone.comparison() if zone.eligible else ("" if zone.free is None else f"{zone.free} pages free")
        yield f"    {label:<16}{_VERDICTS[zone.verdict]:<24}{numbers}".rstrip()


def _model(answer: Explanation) -> str:
    if answer.model_agrees and answer.reason == "address-space":
        return "fails the same request, with no gap of this size"
    if answer.model_agrees and answer.reason == "none":
        return "serves a page for GFP_KERNEL on the printed state: nothing need fail"
    if answer.model_agrees:
        return "fails the same request on the printed state, too"
    return "serves the request on the printed state: the state had changed since the kernel tried"


def _field(label: str, text: str) -> Iterator[str]:
    yield from wrapped(f"  {label + ':' if label else '':<9}", text)


def wrapped(head: str, text: str) -> Iterator[str]:
    """Yield a text broken into lines, the first behind `head`, the others below it."""
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
