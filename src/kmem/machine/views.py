# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel shows of its memory, as plain values.

A view is a copy: it holds what ``/proc`` would show at one moment, for a real
machine or a modelled one, and does not change with the machine.  All sizes are
in pages unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kmem.machine.table import Table

__all__ = ["CacheView", "IomemRange", "MachineView", "NodeView", "PagesetView", "VmallocView", "ZoneView"]


@dataclass(frozen=True, slots=True)
class PagesetView:
    """A per-CPU page set of a zone, as ``/proc/zoneinfo`` shows it.

    Parameters
    ----------
    cpu : int
        Number of the CPU.
    count, high, batch : int
        Pages on its lists, the mark above which they are given back, and how many at a time.
    stat_threshold : int or None
        How far this CPU's counters may drift before they are folded into the
        zone's; None on kernels without SMP.
    """

    cpu: int
    count: int
    high: int
    batch: int
    stat_threshold: int | None = None


@dataclass(frozen=True, slots=True)
class ZoneView:
    """One zone of one node.

    Parameters
    ----------
    node : int
        The node it belongs to.
    name : str
        ``"DMA"``, ``"DMA32"``, ``"Normal"``, ``"HighMem"``, ``"Movable"`` or ``"Device"``.
    nr_free : tuple of int
        Free blocks per order (``/proc/buddyinfo``).
    free : tuple of tuple of int
        Free blocks per migrate type and order (``/proc/pagetypeinfo``); the
        kernel stops counting at 100,000.
    blocks : tuple of int
        Page blocks per migrate type.
    free_pages, boost, min, low, high, spanned, present, managed, cma : int
        As in ``/proc/zoneinfo``.
    protection : tuple of int
        ``lowmem_reserve``, per zone index.
    stats : mapping of str to int
        The zone's counters, with those of NUMA, in the kernel's order.
    pagesets : tuple of PagesetView
        One for each online CPU.
    unreclaimable : bool
        Whether kswapd has given up on the node.
    start_pfn : int
        First frame that the zone spans.
    """

    node: int
    name: str
    nr_free: tuple[int, ...] = ()
    free: tuple[tuple[int, ...], ...] = ()
    blocks: tuple[int, ...] = ()
    free_pages: int = 0
    boost: int = 0
    min: int = 0
    low: int = 0
    high: int = 0
    spanned: int = 0
    present: int = 0
    managed: int = 0
    cma: int = 0
    protection: tuple[int, ...] = ()
    stats: Mapping[str, int] = field(default_factory=dict)
    pagesets: tuple[PagesetView, ...] = ()
    unreclaimable: bool = False
    start_pfn: int = 0

    @property
    def populated(self) -> bool:
        """Whether the zone has any memory; only such zones are in buddyinfo and pagetypeinfo."""
        return self.present > 0 or bool(self.nr_free)


@dataclass(frozen=True, slots=True)
class NodeView:
    """One memory node: its zones, lowest first, and its own counters in the kernel's order."""

    node: int
    zones: tuple[ZoneView, ...]
    stats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheView:
    """One line of ``/proc/slabinfo``.

    Parameters
    ----------
    name : str
        The cache's name.
    active_objs, num_objs : int
        Objects in use (as the kernel counts: those on the CPU slabs too) and in all.
    size_bytes : int
        Size of an object with all metadata.
    objperslab, pagesperslab : int
        Objects in a slab of the preferred order, and its pages.
    active_slabs, num_slabs : int
        Slabs; SLUB shows the same number twice.
    limit, batchcount, shared, sharedavail : int
        Tunables of SLAB; 0 with SLUB.
    """

    name: str
    active_objs: int
    num_objs: int
    size_bytes: int
    objperslab: int
    pagesperslab: int
    active_slabs: int
    num_slabs: int
    limit: int = 0
    batchcount: int = 0
    shared: int = 0
    sharedavail: int = 0


@dataclass(frozen=True, slots=True)
class IomemRange:
    """One line of ``/proc/iomem``: physical addresses from `start` to `end`, both included."""

    start: int
    end: int
    name: str
    depth: int = 0


@dataclass(frozen=True, slots=True)
class VmallocView:
    """One line of ``/proc/vmallocinfo``.

    Parameters
    ----------
    start, end : int
        Virtual addresses, the guard page included; 0 where the kernel hides them.
    size_bytes : int
        Size of the area, its guard page included.
    caller : str
        Who made it, as in ``kernel_clone+0xbf/0x430``; empty if the line does not say.
    pages : int
        Frames that it holds; 0 of those that only map what others hold.
    kind : str
        ``"vmalloc"``, ``"vmap"``, ``"ioremap"``, ``"vm_map_ram"``, ``"unpurged vm_area"`` or the like.
    """

    start: int
    end: int
    size_bytes: int
    caller: str = ""
    pages: int = 0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class MachineView:
    """A whole machine as ``/proc`` shows it.

    Parameters
    ----------
    nodes : tuple of NodeView
        Nodes with memory.
    caches : tuple of CacheView
        Slab caches, newest first as the kernel lists them.
    pageblock_order : int or None
        Order of a page block; None if unknown.
    migrate_types : tuple of str
        Names of the migrate types by number.
    iomem : tuple of IomemRange
        The physical memory map; empty if unknown.
    meminfo_kb : mapping of str to int
        ``/proc/meminfo`` in KiB; counts of huge pages as they are.
    """

    nodes: tuple[NodeView, ...] = ()
    caches: tuple[CacheView, ...] = ()
    pageblock_order: int | None = None
    migrate_types: tuple[str, ...] = ()
    iomem: tuple[IomemRange, ...] = ()
    meminfo_kb: Mapping[str, int] = field(default_factory=dict)

    @property
    def zones(self) -> tuple[ZoneView, ...]:
        """All zones of all nodes."""
        return tuple(zone for node in self.nodes for zone in node.zones)

    def zone_table(self) -> Table:
        """Return the zones with memory, a row each: pages free and managed, watermarks, free blocks by order."""
        zones = [zone for zone in self.zones if zone.populated]
        names = ("node", "name", "start_pfn", "managed", "free_pages", "min", "low", "high", "nr_free")
        return Table.of("Zones, in pages", {name: [getattr(zone, name) for zone in zones] for name in names})

    def cache_table(self) -> Table:
        """Return the slab caches, a row each, those with most memory first."""
        caches = sorted(self.caches, key=lambda cache: (-cache.num_slabs * cache.pagesperslab, cache.name))
        names = ("name", "active_objs", "num_objs", "size_bytes", "objperslab", "pagesperslab", "num_slabs")
        return Table.of("Slab caches", {name: [getattr(cache, name) for cache in caches] for name in names})

    def _repr_html_(self) -> str:
        """Return zones and caches as notebooks show them."""
        return self.zone_table()._repr_html_() + self.cache_table()._repr_html_()
