# SPDX-License-Identifier: GPL-2.0-only
"""Why the model refused a request of a replay: each zone's comparison in words, and what would have helped.

The numbers were taken at the moment of the failure from the machine itself
(:mod:`kmem.replay.refused`); here they are worded as :mod:`kmem.analysis.explain`
words those of a kernel's log.  Remedies are tried on a rebuilt state, as for a
log, once for each kind of failure.  A replay has no page cache to give back, so
what helps by reclaiming is not found this way: that takes a replay with another
setting (:mod:`kmem.replay.variant`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmem.analysis.explain import ZoneVerdict, may_use
from kmem.analysis.remedies import PageRequest, Remedy, Scene, find_remedies, run
from kmem.analysis.summary import Analysis
from kmem.errors import KmemError
from kmem.mm.gfp import __GFP_DIRECT_RECLAIM
from kmem.replay.refused import MAX_ORDER, Failure, PagesWanted, RefusedZone, ZoneRecord
from kmem.trace.mem_info import MemInfo, ZoneInfo

__all__ = ["FailureKind", "explain_failure", "explain_kinds", "zone_verdicts"]

_PAGE_KB = 4
_PAGEBLOCK_ORDER = 9  # of a machine that does not say
_LETTERS = "UMEHIC"  # by migrate type
_REMEDIED = ("below-watermark", "no-block-of-order")
_SLEEPS = "The caller may wait: a kernel would have reclaimed and compacted first; a replay has nothing to reclaim."
_ATOMIC = "The caller may not wait: nothing could be reclaimed or compacted for it."


@dataclass(frozen=True, slots=True)
class FailureKind:
    """All failures of one preferred zone, order and reason.

    Attributes
    ----------
    first : Failure
    count : int
    sentences : tuple of str
        Why the first of them was refused.
    remedies : tuple of Remedy or None
        What would have let the first of them succeed; None if that was not tried.
    """

    first: Failure
    count: int
    sentences: tuple[str, ...]
    remedies: tuple[Remedy, ...] | None


def zone_verdicts(failure: Failure) -> list[ZoneVerdict]:
    """Return how each zone compared with the request."""
    return [
        ZoneVerdict(
            zone.node,
            zone.name,
            zone.verdict != "not-eligible",
            zone.verdict,
            zone.free,
            zone.unusable,
            zone.mark,
            zone.reserve,
        )
        for zone in failure.zones
    ]


def explain_failure(failure: Failure) -> list[str]:
    """Say why a request was refused, the most important first."""
    if failure.reason == "order-too-large":
        most = MAX_ORDER - 1
        return [
            f"No zone ever has a block of order {failure.order}: {most} ({_PAGE_KB << most >> 10} MiB) is the largest."
        ]
    eligible = [zone for zone in failure.zones if zone.verdict != "not-eligible"]
    if not eligible:
        return ["The machine has no zone that this request may use.", *_elsewhere(failure)]
    found: list[str] = []
    if failure.reason != "no-block-of-order":
        found += _elsewhere(failure)
    refusing = [zone for zone in eligible if zone.verdict != "ok"]
    if not refusing:
        found.append("The state right after the attempt would serve it: the attempt itself made room.")
    fragmented = [zone for zone in refusing if zone.verdict == "no-block-of-order"]
    short = [zone for zone in refusing if zone.verdict == "below-watermark"]
    if fragmented:
        names = ", ".join(dict.fromkeys(zone.name for zone in fragmented))
        wanted = f"{1 << failure.order} side by side" if failure.order else "one that it may take"
        found.append(f"Enough pages are free in {names}, but not {wanted}.")
        found += _shape(fragmented, failure.order)
    if short:
        names = ", ".join(dict.fromkeys(zone.name for zone in short))
        which = "Each zone that the request may use" if len(short) == len(eligible) else "Of the others, each"
        found.append(f"{which} ({names}) has too few free pages left for it.")
    waiting = _SLEEPS if failure.gfp & __GFP_DIRECT_RECLAIM else _ATOMIC
    return [*found, waiting, may_use(failure.gfp, failure.order)]


def _elsewhere(failure: Failure) -> list[str]:
    """Say so if most of what is free lies in zones that the request may not use, and is worth speaking of."""
    free = {True: 0, False: 0}
    for zone in failure.zones:
        free[zone.verdict != "not-eligible"] += zone.free
    if free[False] > 2 * free[True] and free[False] * _PAGE_KB >= 4096:
        return ["Plenty is free, but in a zone that this request may not use."]
    return []


def _shape(zones: Sequence[RefusedZone], order: int) -> list[str]:
    """Say in what pieces the free memory of zones is that have no block of an order."""
    counts = [sum(zone.nr_free[at] for zone in zones) << at for at in range(MAX_ORDER)]
    free = sum(counts)
    if not order or not free:
        return []
    share = free / sum(zone.managed for zone in zones)
    amount = "half the memory" if 0.4 <= share <= 0.6 else f"{share:.0%} of the memory"
    largest = max(at for at, pages in enumerate(counts) if pages)
    typical = next(at for at in range(MAX_ORDER) if sum(counts[: at + 1]) >= 0.9 * free)
    if largest >= order:
        return [f"Blocks of order {order} are there, but of a kind that is not for this request: {amount} is free."]
    mostly = "" if largest == typical else "mostly "
    pieces = f"in blocks of at most {_PAGE_KB << typical} kB (order {typical})" if typical else "in single pages"
    return [f"No block of order {order} ({_PAGE_KB << order} kB) is free: {amount} is free, but {mostly}{pieces}."]


def explain_kinds(analysis: Analysis, *, remedied: int = 0) -> list[FailureKind]:
    """Explain the first failure of each kind, the most frequent kind first.

    Parameters
    ----------
    analysis : Analysis
    remedied : int
        For how many kinds to look for remedies.

    Notes
    -----
    Complexity: for each kind with remedies some 40 runs of the model, each O(free blocks).
    """
    found = []
    for number, (kind, count) in enumerate(analysis.failure_counts.items()):
        failure = analysis.first_failures[kind]
        remedies = None
        if number < remedied and kind in analysis.failure_states and failure.reason in _REMEDIED:
            wanted, zones = analysis.failure_states[kind]
            remedies = tuple(_remedies(wanted, zones, analysis.view.pageblock_order or _PAGEBLOCK_ORDER))
        found.append(FailureKind(failure, count, tuple(explain_failure(failure)), remedies))
    return found


def _remedies(wanted: PagesWanted, zones: Sequence[ZoneRecord], pageblock_order: int) -> list[Remedy]:
    info = mem_info(zones, pageblock_order)
    scene = Scene(info, slab_order=wanted.order if wanted.slab else None)
    request = PageRequest(wanted.gfp, wanted.order, max(wanted.node, 0))
    try:
        return [] if run(scene, request) else find_remedies(scene, request)
    except KmemError:  # a machine that cannot be rebuilt from these figures
        return []


def mem_info(zones: Sequence[ZoneRecord], pageblock_order: int) -> MemInfo:
    """Return zones as a log would show them, with nothing on their LRU lists."""
    info = MemInfo(
        hugepage_kb=_PAGE_KB << pageblock_order,
        page_kb=_PAGE_KB,
        swap_free_kb=0,
        swap_total_kb=0,
        numa=len(zones[0].lowmem_reserve) > 4,  # as 64-bit kernels print it
    )
    for zone in zones:
        pages = {
            "free": zone.free,
            "boost": zone.boost,
            "min": zone.min + zone.boost,
            "low": zone.low + zone.boost,
            "high": zone.high + zone.boost,
            "reserved_highatomic": zone.highatomic,
            "present": zone.present,
            "managed": zone.managed,
        }
        blocks = [
            (count, "".join(_LETTERS[each] for each in types))
            for count, types in zip(zone.nr_free, zone.types, strict=True)
        ]
        counters = {name: count * _PAGE_KB for name, count in pages.items()}
        info.zones.append(ZoneInfo(zone.node, zone.name, counters, list(zone.lowmem_reserve), blocks))
    return info
