# SPDX-License-Identifier: GPL-2.0-only
"""Requests that the model refused, with what each zone compared.

All of it is taken right after the attempt, from the machine itself: for the
first :data:`MAX_FAILURES` failures the numbers of each zone, some microseconds'
work, and for the first failure of a kind, of :data:`MAX_STATES` kinds, the
state of the zones.  What the numbers mean is said by :mod:`kmem.analysis.failures`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kmem.mm.gfp import __GFP_COMP, __GFP_DMA32, __GFP_HIGHMEM
from kmem.mm.mmzone import MemMap
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.refusal import refusal, zone_verdict
from kmem.mm.slub import Slub

__all__ = ["MAX_FAILURES", "MAX_ORDER", "MAX_STATES", "Failure", "Kind", "PagesWanted", "RefusedZone", "ZoneRecord"]

MAX_FAILURES = 1000  #: failures kept one by one, each with the numbers of its zones; all are counted
MAX_STATES = 16  #: kinds of failures of which the state of the zones is kept, too
MAX_ORDER = 11  #: orders are 0 to 10

_PAGE_SHIFT = 12
_NR_TYPES = 6
#: What a slab allocation takes over of its request's flags. Source: mm/internal.h:GFP_RECLAIM_MASK @6.1.192
_SLAB_MASK = 0x3BEEE0

#: Preferred zone, order, reason: what failures are counted by.
Kind = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class PagesWanted:
    """The request for pages behind a refused request.

    Attributes
    ----------
    gfp, order : int
        As the page allocator was asked in the end: a slab's second attempt, of its smallest order.
    node : int
        -1: that of the CPU.
    slab : bool
        Whether the pages were for a slab, whose order is not the caller's to choose.
    """

    gfp: int
    order: int
    node: int
    slab: bool


@dataclass(frozen=True, slots=True)
class RefusedZone:
    """What one zone compared with a request; pages.

    Attributes
    ----------
    node : int
    name : str
    verdict : str
        ``ok``, ``below-watermark``, ``no-block-of-order`` or ``not-eligible``; see
        :func:`kmem.mm.refusal.zone_verdict`.
    free, unusable, mark, reserve : int
        Free pages, those that do not count, the watermark to be kept, and ``lowmem_reserve``.
    managed : int
    nr_free : tuple of int
        Free blocks by order.
    """

    node: int
    name: str
    verdict: str
    free: int
    unusable: int
    mark: int
    reserve: int
    managed: int
    nr_free: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that the model refused.

    Attributes
    ----------
    time_ns, cpu : int
        When and where, by the trace.
    event : str
        ``kmalloc``, ``kmem_cache_alloc`` or ``mm_page_alloc``.
    size_bytes, order, gfp : int
        What was asked; `order` of page requests, or of the slab that was missing.
    call_site, cache : str
        Who asked, and for an object of which cache; empty if the trace does not say.
    zone : str
        First zone that the request was eligible for.
    reason : str
        ``below-watermark``, ``no-block-of-order``, ``order-too-large`` or ``none``.
    zones : tuple of RefusedZone
        Each zone with memory, right after the attempt; none where no zone ever holds such a block.
    """

    time_ns: int
    cpu: int
    event: str
    size_bytes: int
    order: int
    gfp: int
    call_site: str
    cache: str
    zone: str
    reason: str
    zones: tuple[RefusedZone, ...] = ()

    @property
    def kind(self) -> Kind:
        """What the failure is counted by."""
        return self.zone, self.order, self.reason


@dataclass(frozen=True, slots=True)
class ZoneRecord:
    """A zone at the moment of a failure; pages.

    Attributes
    ----------
    node : int
    name : str
    free, present, managed, highatomic : int
        `highatomic` is what is set aside for atomic requests of higher orders.
    min, low, high, boost : int
        Watermarks without the boost, and the boost.
    lowmem_reserve : tuple of int
        By zone index.
    nr_free : tuple of int
        Free blocks by order.
    types : tuple of tuple of int
        By order: the migrate types that have any of these.
    """

    node: int
    name: str
    free: int
    present: int
    managed: int
    highatomic: int
    min: int
    low: int
    high: int
    boost: int
    lowmem_reserve: tuple[int, ...]
    nr_free: tuple[int, ...]
    types: tuple[tuple[int, ...], ...]


def pages_wanted(
    slub: Slub, *, event: str, size_bytes: int, order: int, gfp: int, cache: int, node: int
) -> PagesWanted:
    """Return the request for pages that a request comes down to.

    Parameters
    ----------
    slub : Slub
    event : str
        ``kmalloc``, ``kmem_cache_alloc`` or ``mm_page_alloc``.
    size_bytes, order, gfp, node : int
        What was asked.
    cache : int
        The cache that was asked; any other number for none.
    """
    if event == "mm_page_alloc":
        return PagesWanted(gfp, order, node, slab=False)
    if cache in slub.geometries:
        geometry = slub.geometries[cache]
        return PagesWanted((gfp & _SLAB_MASK) | geometry.allocflags, geometry.min_order, node, slab=True)
    order = max(0, (max(size_bytes, 1) - 1).bit_length() - _PAGE_SHIFT)
    return PagesWanted((gfp & ~(__GFP_HIGHMEM | __GFP_DMA32)) | __GFP_COMP, order, node, slab=False)


def why_refused(allocator: PageAllocator, wanted: PagesWanted) -> tuple[str, str]:
    """Return the preferred zone, and why it refuses; see :func:`kmem.mm.refusal.refusal`."""
    return refusal(allocator, wanted.gfp, wanted.order, wanted.node)


def refused_zones(allocator: PageAllocator, wanted: PagesWanted) -> tuple[RefusedZone, ...]:
    """Return what each zone with memory compares with a request, in the state of now."""
    if wanted.order >= MAX_ORDER:
        return ()
    memmap = allocator.memmap
    zones = memmap.zones_array
    found = []
    for zone in np.flatnonzero(zones["managed"]).tolist():
        numbers = zone_verdict(allocator, zone, wanted.gfp, wanted.order, wanted.node)
        found.append(
            RefusedZone(
                node=int(zones["node"][zone]),
                name=memmap.zone_name(zone),
                verdict=numbers["verdict"],
                free=int(numbers["free"]),
                unusable=int(numbers["unusable"]),
                mark=int(numbers["mark"]),
                reserve=int(numbers["reserve"]),
                managed=int(zones["managed"][zone]),
                nr_free=tuple(zones["nr_free"][zone].tolist()),
            )
        )
    return tuple(found)


def zone_records(memmap: MemMap) -> tuple[ZoneRecord, ...]:
    """Return the state of each zone with memory, lowest first."""
    zones, following = memmap.zones_array, memmap.pages_array["next"]
    found = []
    for index in np.flatnonzero(zones["managed"]).tolist():
        zone = zones[index]
        minimum, low, high, _ = zone["watermark"].tolist()
        # heads of the free lists lie behind the frames; an empty list's points to itself
        heads = int(zone["lists"]) + np.arange(MAX_ORDER * _NR_TYPES).reshape(MAX_ORDER, _NR_TYPES)
        found.append(
            ZoneRecord(
                node=int(zone["node"]),
                name=memmap.zone_name(index),
                free=max(int(zone["free_pages"]), 0),
                present=int(zone["present"]),
                managed=int(zone["managed"]),
                highatomic=int(zone["nr_reserved_highatomic"]),
                min=minimum,
                low=low,
                high=high,
                boost=int(zone["watermark_boost"]),
                lowmem_reserve=tuple(zone["lowmem_reserve"][: len(memmap.zone_names)].tolist()),
                nr_free=tuple(zone["nr_free"].tolist()),
                types=tuple(tuple(np.flatnonzero(following[row] != row).tolist()) for row in heads),
            )
        )
    return tuple(found)
