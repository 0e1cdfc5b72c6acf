# SPDX-License-Identifier: GPL-2.0-only
"""The comparison of two replays, as tables and as JSON-serialisable values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from kmem.analysis.compare import FIGURES, Comparison
from kmem.analysis.summary import Analysis
from kmem.report.section import Section

__all__ = ["comparison_to_dict", "report_comparison"]

_MOST_CACHES = 10


def _change(base: int, variant: int) -> str:
    difference = variant - base
    share = f" ({difference / base:+.1%})" if base else ""
    return f"{difference:+,}{share}"


def report_comparison(comparison: Comparison, *, source: str) -> list[Section]:
    """Return what differs between two replays as tables: figures, zones, refused requests, caches."""
    c = comparison
    if not c.differences and not c.caches and not c.zones:
        return [Section(f"{source}: base and variant do not differ", lines=c.notes)]
    rows = tuple((FIGURES[d.figure], d.base, d.variant, _change(d.base, d.variant)) for d in c.differences)
    notes = tuple(f"note: {note}" for note in c.notes)
    if rows:
        sections = [Section(f"{source}: what differs", ("figure", "base", "variant", "change"), rows, notes)]
    else:
        sections = [Section(f"{source}: the figures do not differ", lines=notes)]
    if c.zones:
        titles = ("zone", "", "managed", "min", "low", "high", "fewest pages free")
        sections.append(Section("Zones, in pages", titles, tuple(_zone_rows(c))))
    if c.failures:
        refused = tuple((zone or "-", order, reason, *pair) for (zone, order, reason), pair in c.failures.items())
        sections.append(Section("Requests refused", ("zone", "order", "reason", "base", "variant"), refused))
    if c.caches:
        orders = [(_order(row.base_order), _order(row.variant_order)) for row in c.caches]
        caches = tuple(
            (row.cache, row.base_pages, row.variant_pages, row.variant_pages - row.base_pages, *pair)
            for row, pair in zip(c.caches, orders, strict=True)
        )
        left = len(caches) - _MOST_CACHES
        sections.append(
            Section(
                "Slab pages at the end",
                ("cache", "base", "variant", "change", "order", "variant's order"),
                caches[:_MOST_CACHES],
                (f"and {left} more caches; --json has all",) if left > 0 else (),
            )
        )
    return sections


def _zone_rows(comparison: Comparison) -> Iterator[tuple[object, ...]]:
    several = any(each.node for each in comparison.zones)
    for each in comparison.zones:
        name = f"{each.zone} of node {each.node}" if several else each.zone
        for title, limits in (("base", each.base), ("variant", each.variant)):
            if limits is not None:
                yield (name, title, *limits.values())


def _order(order: int) -> int | None:
    return order if order >= 0 else None


def comparison_to_dict(comparison: Comparison, base: Analysis, variant: Analysis, *, source: str) -> dict[str, Any]:
    """Return a comparison under the keys of ``docs/sweep.md``."""
    c = comparison
    return {
        "trace": source,
        "base": {"machine": _machine(base), "figures": c.base},
        "variant": {"machine": _machine(variant), "figures": c.variant},
        "differences": [{**dataclasses.asdict(each), "change": each.change} for each in c.differences],
        "failures": [
            {"zone": zone, "order": order, "reason": reason, "base": pair[0], "variant": pair[1]}
            for (zone, order, reason), pair in c.failures.items()
        ],
        "zones": [dataclasses.asdict(each) for each in c.zones],
        "caches": [dataclasses.asdict(row) for row in c.caches],
        "notes": list(c.notes),
    }


def _machine(analysis: Analysis) -> dict[str, Any]:
    return {"name": analysis.machine, "cpus": analysis.cpus, "memory_bytes": analysis.memory_bytes}
