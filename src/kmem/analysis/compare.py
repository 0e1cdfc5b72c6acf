# SPDX-License-Identifier: GPL-2.0-only
"""Two replays of one trace side by side: the figures that decide, and where they differ."""

from __future__ import annotations

import dataclasses

from kmem.analysis.summary import Analysis, ZoneState

__all__ = ["FIGURES", "CacheDifference", "Comparison", "Difference", "ZoneDifference", "compare", "figures"]

_PAGE_BYTES = 4096
_MAX_ORDER = 11

#: What each figure is, in words.
FIGURES = {
    "failures": "requests refused",
    "atomic_failures": "GFP_ATOMIC requests refused",
    "peak_used_pages": "most pages in use at one time",
    "lowest_free_pages": "fewest pages free",
    "free_pages": "pages free at the end",
    "peak_slab_bytes": "most bytes of slabs",
    "slab_bytes": "bytes of slabs at the end",
    "slab_slack_bytes": "bytes of slabs at the end that nobody asked for",
    "large_bytes": "bytes of large kmallocs at the end",
    "fallbacks": "migrate-type fallbacks",
    "largest_free_order": "largest order free at the end",
    **{f"free_order_{order}": f"free blocks of order {order} at the end" for order in range(_MAX_ORDER)},
    "kvmalloc_fallbacks": "kvmallocs that got single pages",
    "mempool_served": "requests served from mempools",
    "mempool_slept": "requests that would sleep for a mempool",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A figure that two replays do not agree on.

    Attributes
    ----------
    figure : str
        A key of :data:`FIGURES`.
    base, variant : int
    """

    figure: str
    base: int
    variant: int

    @property
    def change(self) -> int:
        """The variant's figure less the base's."""
        return self.variant - self.base


@dataclasses.dataclass(frozen=True, slots=True)
class CacheDifference:
    """A cache whose slabs differ at the end: pages of slabs and their order, -1 where there is no such cache."""

    cache: str
    base_pages: int
    variant_pages: int
    base_order: int
    variant_order: int


@dataclasses.dataclass(frozen=True, slots=True)
class ZoneDifference:
    """A zone that has other pages or watermarks; None where a machine has no such zone.

    Attributes
    ----------
    node : int
    zone : str
    base, variant : dict of str to int, or None
        ``managed``, ``min``, ``low``, ``high`` and ``lowest_free_pages``, in pages.
    """

    node: int
    zone: str
    base: dict[str, int] | None
    variant: dict[str, int] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two replays.

    Attributes
    ----------
    base, variant : dict of str to int
        All figures.
    differences : tuple of Difference
        In the order of :data:`FIGURES`.
    caches : tuple of CacheDifference
        The largest difference first.
    zones : tuple of ZoneDifference
        By node, the lowest zone first.
    failures : dict of (zone, order, reason) to (int, int)
        Refused requests that differ, base and variant.
    notes : tuple of str
        What is said of the variant's trace and machine only.
    """

    base: dict[str, int]
    variant: dict[str, int]
    differences: tuple[Difference, ...]
    caches: tuple[CacheDifference, ...]
    zones: tuple[ZoneDifference, ...]
    failures: dict[tuple[str, int, str], tuple[int, int]]
    notes: tuple[str, ...]


def figures(analysis: Analysis) -> dict[str, int]:
    """Return the figures that decide between two settings, under the keys of :data:`FIGURES`."""
    a = analysis
    nr_free = [sum(zone.nr_free[order] for zone in a.zones) for order in range(_MAX_ORDER)]
    return {
        "failures": a.requests.failures,
        "atomic_failures": a.requests.atomic_failures,
        "peak_used_pages": a.memory.managed - a.memory.lowest_free,
        "lowest_free_pages": a.memory.lowest_free,
        "free_pages": a.memory.free_at_end,
        "peak_slab_bytes": a.slab.peak_slab_pages * _PAGE_BYTES,
        "slab_bytes": a.slab.slab_pages * _PAGE_BYTES,
        "slab_slack_bytes": sum(cache.wasted_bytes for cache in a.caches),
        "large_bytes": a.slab.large_pages * _PAGE_BYTES,
        "fallbacks": a.fallbacks.count,
        "largest_free_order": max((order for order in range(_MAX_ORDER) if nr_free[order]), default=-1),
        **{f"free_order_{order}": nr_free[order] for order in range(_MAX_ORDER)},
        "kvmalloc_fallbacks": a.changes.kvmalloc_fallbacks,
        "mempool_served": sum(pool.served for pool in a.changes.mempools),
        "mempool_slept": sum(pool.slept for pool in a.changes.mempools),
    }


def compare(base: Analysis, variant: Analysis) -> Comparison:
    """Compare two replays of the same trace.

    Notes
    -----
    Complexity: O(caches + zones).
    """
    one, other = figures(base), figures(variant)
    caches_of = [{cache.name: cache for cache in each.caches if cache.slab_pages} for each in (base, variant)]
    caches = []
    for name in sorted(set(caches_of[0]) | set(caches_of[1])):
        mine, its = (found.get(name) for found in caches_of)
        row = CacheDifference(
            name,
            mine.slab_pages if mine else 0,
            its.slab_pages if its else 0,
            mine.order if mine else -1,
            its.order if its else -1,
        )
        if (row.base_pages, row.base_order) != (row.variant_pages, row.variant_order):
            caches.append(row)
    keys = sorted(set(base.failure_counts) | set(variant.failure_counts))
    counts = {key: (base.failure_counts.get(key, 0), variant.failure_counts.get(key, 0)) for key in keys}
    return Comparison(
        base=one,
        variant=other,
        differences=tuple(Difference(key, one[key], other[key]) for key in FIGURES if one[key] != other[key]),
        caches=tuple(sorted(caches, key=lambda row: (-abs(row.variant_pages - row.base_pages), row.cache))),
        zones=_zones(base, variant),
        failures={key: pair for key, pair in counts.items() if pair[0] != pair[1]},
        notes=tuple(note for note in variant.notes if note not in base.notes),
    )


def _zones(base: Analysis, variant: Analysis) -> tuple[ZoneDifference, ...]:
    one, other = ({(zone.node, zone.name): _limits(zone) for zone in each.zones} for each in (base, variant))
    found = []
    for node, name in dict.fromkeys((*one, *other)):
        mine, its = one.get((node, name)), other.get((node, name))
        limits = [{**each, "lowest_free_pages": 0} if each else each for each in (mine, its)]
        if limits[0] != limits[1]:
            found.append(ZoneDifference(node, name, mine, its))
    return tuple(found)


def _limits(zone: ZoneState) -> dict[str, int]:
    names = ("managed", "min", "low", "high", "lowest_free_pages")
    return {name: int(getattr(zone, name)) for name in names}
