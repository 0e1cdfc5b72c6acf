# SPDX-License-Identifier: GPL-2.0-only
"""What ``kmem top`` shows, as text and as data.

Caches are printed as ``slabtop --once`` prints them; zones and users of memory
follow in the same manner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from kmem.analysis.top import (
    CALL_SITES,
    CacheRow,
    CacheTotals,
    Look,
    SiteRow,
    TraceClock,
    ZoneRow,
    printable,
    sort_caches,
    sort_sites,
    total,
)
from kmem.errors import InputError

__all__ = [
    "VIEWS",
    "cache_lines",
    "clock_text",
    "look_to_dict",
    "missing_of",
    "site_lines",
    "top_text",
    "total_lines",
    "zone_lines",
]

#: What can be looked at.
VIEWS = ("caches", "zones", "sites")

#: The file of ``/proc`` that each of them needs.
_FILES = {"caches": "slabinfo", "zones": "buddyinfo", "sites": "vmallocinfo"}
_KIB = 1024


def top_text(
    look: Look, *, view: str = "all", cache_key: str = "o", site_key: str = "c", most: int | None = None
) -> str:
    """Return a look as text.

    Parameters
    ----------
    look : Look
    view : str
        One of :data:`VIEWS`, or ``all``.
    cache_key, site_key : str
        Letters to sort by.
    most : int, optional
        Rows of caches and of users of memory at most; all if omitted.

    Raises
    ------
    InputError
        Nothing is known of what is wanted; the message says why.
    """
    parts: list[list[str]] = []
    if look.clock is not None and view == "all":
        parts.append([f"{look.source}: {clock_text(look.clock)}"])
    for name in VIEWS if view == "all" else (view,):
        absent = missing_of(look, name)
        if absent is None:
            parts.append(list(_view(look, name, cache_key, site_key, most)))
        elif view != "all":
            raise InputError(absent)
    return "\n".join("".join(f"{line.rstrip()}\n" for line in lines) for lines in parts)


def missing_of(look: Look, view: str) -> str | None:
    """Return why there is nothing to see in one of :data:`VIEWS`, None if there is."""
    shown = {"caches": look.caches, "zones": look.zones, "sites": look.sites}[view]
    return None if shown else next((line for line in look.missing if f"/{_FILES[view]}" in line), None)


def _view(look: Look, name: str, cache_key: str, site_key: str, most: int | None) -> Iterator[str]:
    if name == "caches":
        yield from cache_lines(sort_caches(look.caches, cache_key)[:most], total(look.caches))
    elif name == "zones":
        yield from zone_lines(look.zones)
    else:
        yield from site_lines(sort_sites(look.sites, site_key)[:most], look.sites_are)


def clock_text(clock: TraceClock) -> str:
    """Return in words how far a replay has come."""
    words = [clock.state]
    if clock.state == "reading":
        words = ["looking through the trace"]
    if clock.done is not None and clock.state != "ended":
        words[0] += f" ({100 * clock.done:.0f} %)"
    if clock.state != "reading":
        words += [
            f"{clock.time_ns / 1e9:.3f} s",
            f"{clock.events:,} events",
            f"{clock.requests:,} requests",
            f"{clock.failures:,} refused",
        ]
    if clock.speed is not None and clock.state != "ended":
        words.append(f"speed {clock.speed:g}")
    return ", ".join(words)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0.0:.1f}%"


def total_lines(t: CacheTotals) -> Iterator[str]:
    """Yield the head of ``slabtop``."""
    objects = f"{t.active_objs} / {t.num_objs} ({_share(t.active_objs, t.num_objs)})"
    yield f" {'Active / Total Objects (% used)':<35}: {objects}"
    slabs = f"{t.active_slabs} / {t.num_slabs} ({_share(t.active_slabs, t.num_slabs)})"
    yield f" {'Active / Total Slabs (% used)':<35}: {slabs}"
    caches = f"{t.active_caches} / {t.num_caches} ({_share(t.active_caches, t.num_caches)})"
    yield f" {'Active / Total Caches (% used)':<35}: {caches}"
    sizes = f"{t.active_bytes / _KIB:.2f}K / {t.num_bytes / _KIB:.2f}K ({_share(t.active_bytes, t.num_bytes)})"
    yield f" {'Active / Total Size (% used)':<35}: {sizes}"
    range_ = f"{t.smallest / _KIB:.2f}K / {t.mean / _KIB:.2f}K / {t.largest / _KIB:.2f}K"
    yield f" {'Minimum / Average / Maximum Object':<35}: {range_}"


def cache_lines(rows: Sequence[CacheRow], totals: CacheTotals) -> Iterator[str]:
    """Yield caches as ``slabtop`` prints them: sums over all, then a line for each of `rows`."""
    yield from total_lines(totals)
    yield ""
    yield f"{'OBJS':>6} {'ACTIVE':>6} {'USE':>4} {'OBJ SIZE':>8} {'SLABS':>6} {'OBJ/SLAB':>8} {'CACHE SIZE':>10} NAME"
    for row in rows:
        yield (
            f"{row.num_objs:6d} {row.active_objs:6d} {row.use_percent:3d}% {row.objsize / _KIB:7.2f}K"
            f" {row.num_slabs:6d} {row.objperslab:8d} {row.cache_bytes // _KIB:9d}K {printable(row.name)}"
        )


def _number(value: int | None, width: int) -> str:
    return f"{'-' if value is None else value:>{width}}"


def zone_lines(rows: Sequence[ZoneRow]) -> Iterator[str]:
    """Yield zones: pages, watermarks, and free blocks by order."""
    orders = max((len(row.nr_free) for row in rows), default=0)
    head = f"NODE {'ZONE':<8} {'FREE':>9} {'MANAGED':>9} {'MIN':>7} {'LOW':>7} {'HIGH':>7} {'PCP':>6}"
    yield head + "".join(f" {order:>6}" for order in range(orders))
    for row in rows:
        yield (
            f"{row.node:4d} {row.name:<8} {row.free:9d} {_number(row.managed, 9)} {_number(row.min, 7)}"
            f" {_number(row.low, 7)} {_number(row.high, 7)} {_number(row.pcp, 6)}"
            + "".join(f" {count:6d}" for count in row.nr_free)
        )


def site_lines(rows: Sequence[SiteRow], sites_are: str) -> Iterator[str]:
    """Yield users of memory: call sites of a trace, or those who made vmalloc areas."""
    if sites_are == CALL_SITES:
        yield f"{'BYTES':>10} {'LIVE':>8} {'USE':>4} {'PEAK':>10} {'ALLOCS':>9} {'FAILED':>6} CALL SITE"
        for row in rows:
            yield (
                f"{row.bytes:10d} {row.count:8d} {row.use_percent:3d}% {_number(row.peak, 10)}"
                f" {_number(row.allocs, 9)} {_number(row.failures, 6)} {printable(row.name)}"
            )
    else:
        yield f"{'SIZE':>9} {'AREAS':>6} {'PAGES':>8} {'KIND':<11} CALLER"
        for row in rows:
            kind = printable(row.kind)
            yield f"{row.bytes // _KIB:8d}K {row.count:6d} {_number(row.pages, 8)} {kind:<11} {printable(row.name)}"


def look_to_dict(look: Look, *, cache_key: str = "o", site_key: str = "c", most: int | None = None) -> dict[str, Any]:
    """Return a look as data for JSON, sorted; what is not known is null.

    Parameters
    ----------
    look : Look
    cache_key, site_key : str
        Letters to sort by.
    most : int, optional
        Rows of caches and of users of memory at most; all if omitted.
    """
    sums = total(look.caches)
    return {
        "source": look.source,
        "replay": _attributes(look.clock) if look.clock is not None else None,
        "totals": _attributes(sums) if look.caches else None,
        "caches": [
            {**_attributes(row), "cache_bytes": row.cache_bytes, "use_percent": row.use_percent}
            for row in sort_caches(look.caches, cache_key)[:most]
        ],
        "zones": [{**_attributes(row), "largest_order": row.largest_order} for row in look.zones],
        "sites_are": look.sites_are,
        "sites": [_attributes(row) for row in sort_sites(look.sites, site_key)[:most]],
        "missing": list(look.missing),
    }


def _attributes(value: Any) -> dict[str, Any]:
    """Fields of one of the plain values above, without changes since another look: there is none."""
    names = [field.name for field in dataclasses.fields(value) if field.name not in ("change", "page_bytes")]
    return {name: getattr(value, name) for name in names}
