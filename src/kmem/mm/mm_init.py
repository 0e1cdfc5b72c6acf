# SPDX-License-Identifier: GPL-2.0-only
"""Zones: their limits, watermarks, reserves and per-CPU list sizes.

The arithmetic by which the kernel divides memory into zones at boot and by
which it decides how much of each zone to keep back.  All of it runs at boot or
when a sysctl is written, so it is plain Python; :mod:`kmem.machine.boot`
copies the results into the arrays of the compiled core.

Units are page frames throughout, unless a name says otherwise.

Source: mm/page_alloc.c, mm/vmstat.c, mm/khugepaged.c @6.1.192
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isqrt

from kmem.errors import ConfigError
from kmem.mm.memblock import MAX_ORDER, PAGE_SHIFT, PAGE_SIZE, MemBlock

__all__ = ["ArchZones", "KernelCore", "SystemZones", "Tunables", "ZoneSetup", "parse_size_or_percent"]

MIGRATE_PCPTYPES = 3
MAX_ORDER_NR_PAGES = 1 << (MAX_ORDER - 1)
MIN_PERCPU_PAGELIST_HIGH_FRACTION = 8
SWAP_CLUSTER_MAX = 32
PENALTY_FOR_NODE_WITH_CPUS = 1
MAX_NUMNODES = 1024  #: CONFIG_NODES_SHIFT=10; only the weight of a node's load depends on it
LOCAL_DISTANCE = 10


@dataclass(frozen=True, slots=True)
class ArchZones:
    """What an architecture and its configuration lay down about zones.

    Attributes
    ----------
    arch : str
        ``"x86_64"`` or ``"i386"``.
    zone_names : tuple of str
        Names of all zone types, by index; the length is MAX_NR_ZONES.
    normal, movable : int
        Indexes of ZONE_NORMAL and ZONE_MOVABLE.
    highmem : int or None
        Index of ZONE_HIGHMEM where the configuration has it.
    pageblock_order : int
        Order of a page block, which is also that of a transparent huge page.
    lowmem_reserve_ratio : tuple of int
        Boot-time value of the sysctl, one entry for each zone type.
    """

    arch: str
    zone_names: tuple[str, ...]
    normal: int
    movable: int
    highmem: int | None
    pageblock_order: int
    lowmem_reserve_ratio: tuple[int, ...]

    @property
    def nr_zones(self) -> int:
        """MAX_NR_ZONES."""
        return len(self.zone_names)


@dataclass(slots=True)
class Tunables:
    """The sysctls that zone set-up reads, as they stand.

    ``user_min_free_kbytes`` is -1 until ``vm.min_free_kbytes`` has been
    written: a value that a user chose is not lowered by what the kernel
    computes later.
    """

    lowmem_reserve_ratio: list[int]
    min_free_kbytes: int = 1024
    user_min_free_kbytes: int = -1
    watermark_scale_factor: int = 10
    watermark_boost_factor: int = 15000
    percpu_pagelist_high_fraction: int = 0


@dataclass(frozen=True, slots=True)
class KernelCore:
    """``kernelcore=`` and ``movablecore=``: how much memory goes to ZONE_MOVABLE.

    Each is a number of pages, or a percentage of memory; None if not given.
    """

    kernelcore: int | None = None
    kernelcore_percent: int | None = None
    movablecore: int | None = None
    movablecore_percent: int | None = None

    def required(self, totalpages: int) -> int:
        """Return the pages that stay usable for the kernel, 0 if there is to be no ZONE_MOVABLE.

        Source: mm/page_alloc.c:find_zone_movable_pfns_for_nodes @6.1.192
        """
        kernelcore, movablecore = self.kernelcore or 0, self.movablecore or 0
        if self.kernelcore_percent:
            kernelcore = totalpages * 100 * self.kernelcore_percent // 10000
        if self.movablecore_percent:
            movablecore = totalpages * 100 * self.movablecore_percent // 10000
        if movablecore:
            movablecore = min(totalpages, -(-movablecore // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES)
            kernelcore = max(kernelcore, totalpages - movablecore)
        return 0 if kernelcore >= totalpages else kernelcore


def parse_size_or_percent(name: str, text: str, size_bytes: int | None) -> tuple[int | None, int | None]:
    """Return (pages, percent) for the value of ``kernelcore=`` or ``movablecore=``; one of them is None.

    Parameters
    ----------
    name : str
        The option, for the message.
    text : str
        Its value.
    size_bytes : int or None
        `text` as a size, None if it is none.

    Raises
    ------
    ConfigError
        If it is neither a size nor a percentage from 0 to 100.
    """
    if text.endswith("%") and text[:-1].isdigit() and int(text[:-1]) <= 100:
        return None, int(text[:-1])
    if size_bytes is None:
        raise ConfigError(f"{name}={text} is no size", remedy="write it as 512M, 1G or 25%")
    return size_bytes >> PAGE_SHIFT, None


@dataclass(slots=True)
class ZoneSetup:
    """One zone of one node, as set-up leaves it.

    Attributes
    ----------
    node, index : int
        Node, and zone type within :attr:`ArchZones.zone_names`.
    start_pfn, spanned, present, managed : int
        First frame (0 for an empty zone); frames from first to last; frames
        that exist; frames that the page allocator was given.
    watermark : list of int
        min, low, high and promo, without the boost.
    watermark_boost : int
        Added to every watermark while a boost lasts.
    lowmem_reserve : list of int
        What a request that prefers a higher zone must leave in this one, by
        the index of the preferred zone.
    pageset_high, pageset_batch : int
        Sizes of the zone's per-CPU lists.
    stat_threshold : int
        How much of a counter a CPU may keep to itself.
    percpu_drift_mark : int
        Below this many free pages the exact count is taken; 0 for never.
    """

    node: int
    index: int
    name: str
    start_pfn: int = 0
    spanned: int = 0
    present: int = 0
    managed: int = 0
    watermark: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    watermark_boost: int = 0
    lowmem_reserve: list[int] = field(default_factory=list)
    pageset_high: int = 0
    pageset_batch: int = 1
    stat_threshold: int = 0
    percpu_drift_mark: int = 0

    @property
    def end_pfn(self) -> int:
        """The frame after the last."""
        return self.start_pfn + self.spanned

    def wmark(self, which: int) -> int:
        """Return a watermark with the boost, as the allocator compares it."""
        return self.watermark[which] + self.watermark_boost


class SystemZones:
    """All zones of a machine, and everything the kernel derives from their sizes.

    Parameters
    ----------
    arch : ArchZones
        Zone types and page-block order.
    nodes : sequence of int
        Online nodes, ascending.
    nr_cpus : int
        CPUs online.
    cpus_of_node : sequence of int, optional
        How many CPUs each of `nodes` has; all on the first if not given.
    distance : sequence of sequence of int, optional
        Node distances, by position in `nodes`; all local if not given.

    Attributes
    ----------
    zones : list of ZoneSetup
        Every zone type of every node, node by node, empty zones included.
    movable_zone : int
        The zone type that ZONE_MOVABLE takes its memory from.
    totalreserve : dict of int to int
        ``totalreserve_pages`` of each node.
    """

    def __init__(
        self,
        arch: ArchZones,
        nodes: Sequence[int] = (0,),
        *,
        nr_cpus: int = 1,
        cpus_of_node: Sequence[int] | None = None,
        distance: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.arch = arch
        self.nodes = list(nodes)
        self.nr_cpus = nr_cpus
        self.cpus_of_node = list(cpus_of_node) if cpus_of_node else [nr_cpus] + [0] * (len(self.nodes) - 1)
        self.distance = [list(row) for row in distance] if distance else [[LOCAL_DISTANCE] * len(nodes) for _ in nodes]
        self.movable_zone = arch.normal
        self.tunables = Tunables(list(arch.lowmem_reserve_ratio))
        self.totalreserve = dict.fromkeys(self.nodes, 0)
        self.zones = [
            ZoneSetup(node, index, name, lowmem_reserve=[0] * arch.nr_zones)
            for node in self.nodes
            for index, name in enumerate(arch.zone_names)
        ]

    # Limits

    @classmethod
    def free_area_init(
        cls,
        arch: ArchZones,
        memblock: MemBlock,
        max_zone_pfn: Sequence[int],
        *,
        core: KernelCore | None = None,
        nr_cpus: int = 1,
        cpus_of_node: Sequence[int] | None = None,
        distance: Sequence[Sequence[int]] | None = None,
    ) -> SystemZones:
        """Divide the memory of `memblock` into zones.

        Parameters
        ----------
        max_zone_pfn : sequence of int
            For each zone type the frame at which it ends at the latest, as
            the architecture says; 0 where it sets no limit.

        Raises
        ------
        ConfigError
            If there is no memory at all.

        Source: mm/page_alloc.c:free_area_init, calculate_node_totalpages @6.1.192
        """
        nodes = memblock.nodes()
        if not nodes:
            raise ConfigError(
                "the machine has no memory", remedy="describe at least one memory range of a page or more"
            )
        system = cls(arch, nodes, nr_cpus=nr_cpus, cpus_of_node=cpus_of_node, distance=distance)
        limits: list[tuple[int, int]] = []
        start_pfn = memblock.pfn_ranges()[0].start
        for index in range(arch.nr_zones):
            if index == arch.movable:
                limits.append((0, 0))
                continue
            end_pfn = max(max_zone_pfn[index], start_pfn)
            limits.append((start_pfn, end_pfn))
            start_pfn = end_pfn
        system.movable_zone = max(i for i, (low, high) in enumerate(limits) if high > low)
        movable_pfn = _movable_starts(memblock, core or KernelCore(), limits[system.movable_zone][0])
        for zone in system.zones:
            system._set_limits(zone, memblock, limits, movable_pfn.get(zone.node, 0))
        return system

    def _set_limits(self, zone: ZoneSetup, memblock: MemBlock, limits: list[tuple[int, int]], movable_pfn: int) -> None:
        """Set start, spanned and present of a zone; managed is all that is present until memory is reserved.

        Source: mm/page_alloc.c:zone_spanned_pages_in_node, adjust_zone_range_for_zone_movable @6.1.192
        """
        node_start, node_end = memblock.node_span(zone.node)
        low, high = limits[zone.index]
        start, end = min(max(node_start, low), high), min(max(node_end, low), high)
        if movable_pfn:
            if zone.index == self.arch.movable:
                start, end = movable_pfn, min(node_end, limits[self.movable_zone][1])
            elif start < movable_pfn < end:
                end = movable_pfn
            elif start >= movable_pfn:
                start = end
        if end < node_start or start > node_end:
            return
        start, end = max(start, node_start), min(end, node_end)
        if start >= end:
            return
        zone.start_pfn, zone.spanned = start, end - start
        zone.present = zone.spanned - memblock.absent_pages(start, end, zone.node)
        zone.managed = zone.present

    # Look-ups

    def zone(self, node: int, index: int) -> ZoneSetup:
        """Return one zone; `node` must be online."""
        return self.zones[self.nodes.index(node) * self.arch.nr_zones + index]

    def node_zones(self, node: int) -> list[ZoneSetup]:
        """Return the zones of a node, lowest first."""
        first = self.nodes.index(node) * self.arch.nr_zones
        return self.zones[first : first + self.arch.nr_zones]

    def zone_of_pfn(self, pfn: int) -> ZoneSetup | None:
        """Return the zone whose span holds a frame, None if there is none."""
        return next((zone for zone in self.zones if zone.start_pfn <= pfn < zone.end_pfn), None)

    def populated_zones(self) -> Iterator[ZoneSetup]:
        """Yield the zones that have frames, node by node."""
        return (zone for zone in self.zones if zone.present)

    def is_highmem(self, zone: ZoneSetup) -> bool:
        """Return whether a zone lies outside the kernel's direct mapping.

        Source: include/linux/mmzone.h:is_highmem_idx @6.1.192
        """
        highmem = self.arch.highmem
        return highmem is not None and (
            zone.index == highmem or (zone.index == self.arch.movable and self.movable_zone == highmem)
        )

    def totalram_pages(self) -> int:
        """Return the frames that the page allocator was given, in all zones."""
        return sum(zone.managed for zone in self.zones)

    # Fallback order

    def node_order(self, node: int) -> list[int]:
        """Return the nodes in the order in which a request from `node` tries them.

        Source: mm/page_alloc.c:build_zonelists, find_next_best_node @6.1.192
        """
        return self._node_orders()[node]

    def _node_orders(self) -> dict[int, list[int]]:
        """Return the order of every node; the load that one node's list adds counts in those built after it."""
        load = dict.fromkeys(self.nodes, 0)
        orders: dict[int, list[int]] = {}
        for local in self.nodes:
            order = [local]
            row = self.distance[self.nodes.index(local)]
            previous = local
            while len(order) < len(self.nodes):
                best = min(
                    (other for other in self.nodes if other not in order),
                    key=lambda other: self._node_cost(local, other, load[other]),
                )
                if row[self.nodes.index(best)] != row[self.nodes.index(previous)]:
                    load[best] += 1
                order.append(best)
                previous = best
            orders[local] = order
        return orders

    def _node_cost(self, local: int, other: int, load: int) -> int:
        position = self.nodes.index(other)
        cost = self.distance[self.nodes.index(local)][position] + (other < local)
        if self.cpus_of_node[position]:
            cost += PENALTY_FOR_NODE_WITH_CPUS
        return cost * MAX_NUMNODES + load

    def zonelist(self, node: int, *, thisnode: bool = False) -> list[ZoneSetup]:
        """Return the zones that a request from `node` may fall back to, best first.

        Parameters
        ----------
        node : int
            Where the request comes from.
        thisnode : bool
            The list used with ``__GFP_THISNODE``: zones of `node` only.

        Source: mm/page_alloc.c:build_zonerefs_node, build_zonelists_in_node_order @6.1.192
        """
        order = [node] if thisnode else self.node_order(node)
        return [zone for other in order for zone in reversed(self.node_zones(other)) if zone.present]

    # Reserves and watermarks

    def nr_free_buffer_pages(self) -> int:
        """Return the frames above the high watermark in the zones that a GFP_USER request may use.

        Source: mm/page_alloc.c:nr_free_zone_pages @6.1.192
        """
        return sum(
            max(0, zone.managed - zone.wmark(2)) for zone in self.populated_zones() if zone.index <= self.arch.normal
        )

    def calculate_min_free_kbytes(self) -> None:
        """Set ``min_free_kbytes`` by the square root of low memory, unless a user asked for as much or more.

        Source: mm/page_alloc.c:calculate_min_free_kbytes @6.1.192
        """
        computed = isqrt(self.nr_free_buffer_pages() * (PAGE_SIZE >> 10) * 16)
        if computed > self.tunables.user_min_free_kbytes:
            self.tunables.min_free_kbytes = min(max(computed, 128), 262144)

    def setup_per_zone_wmarks(self) -> None:
        """Recompute watermarks from ``min_free_kbytes`` and what hangs on them; a boost ends.

        Source: mm/page_alloc.c:__setup_per_zone_wmarks, setup_per_zone_wmarks @6.1.192
        """
        pages_min = self.tunables.min_free_kbytes >> (PAGE_SHIFT - 10)
        lowmem_pages = sum(zone.managed for zone in self.zones if not self.is_highmem(zone))
        if not lowmem_pages:
            raise ConfigError("no low memory is left for the page allocator", remedy="describe a larger machine")
        for zone in self.zones:
            share = pages_min * zone.managed // lowmem_pages
            if self.is_highmem(zone):
                minimum = min(max(zone.managed // 1024, SWAP_CLUSTER_MAX), 128)
            else:
                minimum = share
            step = max(share >> 2, _mult_frac(zone.managed, self.tunables.watermark_scale_factor, 10000))
            zone.watermark_boost = 0
            zone.watermark = [minimum, minimum + step, minimum + 2 * step, minimum + 3 * step]
        self.calculate_totalreserve_pages()
        for zone in self.zones:
            self.zone_set_pageset_high_and_batch(zone)

    def setup_per_zone_lowmem_reserve(self) -> None:
        """Recompute what each zone keeps back from requests that could use a higher one.

        Source: mm/page_alloc.c:setup_per_zone_lowmem_reserve @6.1.192
        """
        for node in self.nodes:
            zones = self.node_zones(node)
            for zone in zones[:-1]:
                ratio = self.tunables.lowmem_reserve_ratio[zone.index]
                above = 0
                for upper in zones[zone.index + 1 :]:
                    above += upper.managed
                    zone.lowmem_reserve[upper.index] = above // ratio if ratio and zone.managed else 0
        self.calculate_totalreserve_pages()

    def calculate_totalreserve_pages(self) -> None:
        """Recompute each node's ``totalreserve_pages``: largest reserve plus high watermark of each zone.

        Source: mm/page_alloc.c:calculate_totalreserve_pages @6.1.192
        """
        for node in self.nodes:
            self.totalreserve[node] = sum(
                min(max(0, *zone.lowmem_reserve[zone.index :]) + zone.wmark(2), zone.managed)
                for zone in self.node_zones(node)
            )

    # Per-CPU lists and counters

    def zone_batchsize(self, zone: ZoneSetup) -> int:
        """Return how many pages go to or from a per-CPU list at a time: 2^n - 1, about 0.1 % of the zone or less.

        Source: mm/page_alloc.c:zone_batchsize @6.1.192
        """
        batch = max(1, min(zone.managed >> 10, (1 << 20) // PAGE_SIZE) // 4)
        return (1 << ((batch + batch // 2).bit_length() - 1)) - 1

    def zone_highsize(self, zone: ZoneSetup, batch: int) -> int:
        """Return how many pages a per-CPU list may hold: a CPU's share of the low watermark, or of the zone.

        Source: mm/page_alloc.c:zone_highsize @6.1.192
        """
        fraction = self.tunables.percpu_pagelist_high_fraction
        total = zone.managed // fraction if fraction else zone.wmark(1)
        cpus = self.cpus_of_node[self.nodes.index(zone.node)] or self.nr_cpus
        return max(total // cpus, batch << 2)

    def zone_set_pageset_high_and_batch(self, zone: ZoneSetup) -> None:
        """Recompute the sizes of a zone's per-CPU lists.

        Source: mm/page_alloc.c:zone_set_pageset_high_and_batch @6.1.192
        """
        zone.pageset_batch = max(1, self.zone_batchsize(zone))
        zone.pageset_high = self.zone_highsize(zone, zone.pageset_batch)

    def calculate_normal_threshold(self, zone: ZoneSetup, nr_cpus: int | None = None) -> int:
        """Return how far a CPU's share of a counter may drift while memory is plentiful.

        Source: mm/vmstat.c:calculate_normal_threshold @6.1.192
        """
        mem = zone.managed >> (27 - PAGE_SHIFT)
        return min(125, 2 * (nr_cpus or self.nr_cpus).bit_length() * (1 + mem.bit_length()))

    def calculate_pressure_threshold(self, zone: ZoneSetup) -> int:
        """Return how far it may drift while kswapd runs: not past the min watermark even with all CPUs together.

        Source: mm/vmstat.c:calculate_pressure_threshold @6.1.192
        """
        return min(125, max(1, (zone.wmark(1) - zone.wmark(0)) // self.nr_cpus))

    def refresh_zone_stat_thresholds(self, nr_cpus: int | None = None) -> None:
        """Recompute thresholds and drift marks with `nr_cpus` CPUs online (all, if None).

        A drift mark is only ever set, never taken back.

        Source: mm/vmstat.c:refresh_zone_stat_thresholds @6.1.192
        """
        online = nr_cpus or self.nr_cpus
        for zone in self.populated_zones():
            zone.stat_threshold = self.calculate_normal_threshold(zone, online)
            max_drift = online * zone.stat_threshold
            if max_drift > zone.wmark(1) - zone.wmark(0):
                zone.percpu_drift_mark = zone.wmark(2) + max_drift

    # Boot, in the order in which it happens

    def vmstat_cpus_online(self) -> None:
        """Do what each further CPU does as it comes up, before any watermark has been set.

        Source: mm/vmstat.c:vmstat_cpu_online @6.1.192
        """
        for online in range(2, self.nr_cpus + 1):
            self.refresh_zone_stat_thresholds(online)

    def init_per_zone_wmark_min(self) -> None:
        """Set everything that follows from zone sizes for the first time.

        Source: mm/page_alloc.c:init_per_zone_wmark_min @6.1.192
        """
        self.calculate_min_free_kbytes()
        self.setup_per_zone_wmarks()
        self.refresh_zone_stat_thresholds()
        self.setup_per_zone_lowmem_reserve()

    def set_recommended_min_free_kbytes(self, *, enabled: bool = True) -> None:
        """Raise ``min_free_kbytes`` so that whole page blocks stay free for huge pages.

        Parameters
        ----------
        enabled : bool
            Whether transparent huge pages are on in any form. If not, the
            ordinary value is computed anew, now above the watermarks.

        Source: mm/khugepaged.c:set_recommended_min_free_kbytes @6.1.192
        """
        if enabled:
            nr_zones = sum(1 for zone in self.populated_zones() if zone.index <= self.arch.normal)
            per_zone = 2 + MIGRATE_PCPTYPES * MIGRATE_PCPTYPES
            recommended = (nr_zones * per_zone) << self.arch.pageblock_order
            recommended = min(recommended, self.nr_free_buffer_pages() // 20) << (PAGE_SHIFT - 10)
            self.tunables.min_free_kbytes = max(self.tunables.min_free_kbytes, recommended)
        else:
            self.calculate_min_free_kbytes()
        self.setup_per_zone_wmarks()

    def hugepage_init(self, *, enabled: bool = True) -> None:
        """Start transparent huge pages: not on machines with less than 512 MiB.

        Source: mm/huge_memory.c:hugepage_init @6.1.192
        """
        if self.totalram_pages() >= 512 << (20 - PAGE_SHIFT):
            self.set_recommended_min_free_kbytes(enabled=enabled)

    # Sysctls

    def sysctl(self, name: str, value: int | Sequence[int]) -> None:
        """Write a sysctl and recompute what the kernel's handler recomputes.

        Parameters
        ----------
        name : str
            ``min_free_kbytes``, ``watermark_scale_factor``,
            ``watermark_boost_factor``, ``percpu_pagelist_high_fraction`` or
            ``lowmem_reserve_ratio``, with or without ``vm.`` before it.
        value : int or sequence of int
            The new value; for ``lowmem_reserve_ratio`` one for each zone
            type from the lowest on, missing ones stay and surplus ones are
            ignored.

        Raises
        ------
        ConfigError
            If there is no such sysctl or the kernel would refuse the value.

        Source: mm/page_alloc.c:*_sysctl_handler, kernel/sysctl.c:vm_table @6.1.192
        """
        key = name.removeprefix("vm.")
        if key == "lowmem_reserve_ratio":
            self._write_lowmem_reserve_ratio([value] if isinstance(value, int) else list(value))
            return
        if key not in _RANGES:
            known = ", ".join(sorted([*_RANGES, "lowmem_reserve_ratio"]))
            raise ConfigError(f"unknown sysctl {name!r}", remedy=f"known here: {known}")
        low, high = _RANGES[key]
        if not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(
                f"vm.{key}={value!r} is refused by the kernel", remedy=f"use a number from {low} to {high}"
            )
        if key == "percpu_pagelist_high_fraction":
            self._write_high_fraction(value)
            return
        setattr(self.tunables, key, value)
        if key == "min_free_kbytes":
            self.tunables.user_min_free_kbytes = value
        if key != "watermark_boost_factor":
            self.setup_per_zone_wmarks()

    def _write_high_fraction(self, value: int) -> None:
        if value and value < MIN_PERCPU_PAGELIST_HIGH_FRACTION:
            raise ConfigError(
                f"vm.percpu_pagelist_high_fraction={value} is refused by the kernel",
                remedy=f"use 0 or a number from {MIN_PERCPU_PAGELIST_HIGH_FRACTION} on",
            )
        if value != self.tunables.percpu_pagelist_high_fraction:
            self.tunables.percpu_pagelist_high_fraction = value
            for zone in self.populated_zones():
                self.zone_set_pageset_high_and_batch(zone)

    def _write_lowmem_reserve_ratio(self, values: list[int]) -> None:
        ratios = self.tunables.lowmem_reserve_ratio
        for index, value in enumerate(values[: len(ratios)]):
            ratios[index] = max(0, value)
        self.setup_per_zone_lowmem_reserve()


_INT_MAX = (1 << 31) - 1
_RANGES = {
    "min_free_kbytes": (0, _INT_MAX),
    "watermark_scale_factor": (1, 3000),
    "watermark_boost_factor": (0, _INT_MAX),
    "percpu_pagelist_high_fraction": (0, _INT_MAX),
}


def _mult_frac(x: int, numerator: int, denominator: int) -> int:
    """Scale `x` without overflow, as the kernel's macro of that name does."""
    return x // denominator * numerator + x % denominator * numerator // denominator


def _movable_starts(memblock: MemBlock, core: KernelCore, usable_start: int) -> dict[int, int]:
    """Return for each node the frame at which ZONE_MOVABLE begins; nodes without one are left out.

    Kernel memory is spread evenly over the nodes. A node that has too little
    passes the rest on to the others, in further rounds.

    Source: mm/page_alloc.c:find_zone_movable_pfns_for_nodes @6.1.192
    """
    nodes = memblock.nodes()
    required = core.required(sum(len(piece) for piece in memblock.pfn_ranges()))
    if not required:
        return {}
    starts = dict.fromkeys(nodes, 0)
    usable_nodes = len(nodes)
    while True:
        per_node = required // usable_nodes
        for node in nodes:
            if required < per_node:
                per_node = required // usable_nodes
            starts[node], required = _fill_kernelcore(memblock, node, starts[node], usable_start, per_node, required)
        usable_nodes -= 1
        if not usable_nodes or required <= usable_nodes:
            break
    aligned = {node: -(-pfn // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES for node, pfn in starts.items()}
    return {node: pfn for node, pfn in aligned.items() if 0 < pfn < memblock.node_span(node)[1]}


def _fill_kernelcore(
    memblock: MemBlock, node: int, movable_pfn: int, usable_start: int, remaining: int, required: int
) -> tuple[int, int]:
    """Give up to `remaining` frames of a node to the kernel; return where its ZONE_MOVABLE begins, and what is
    still required."""
    for piece in memblock.pfn_ranges(node):
        start = max(piece.start, movable_pfn)
        if start >= piece.end:
            continue
        if start < usable_start:
            kernel_only = min(piece.end, usable_start) - start
            remaining -= min(kernel_only, remaining)
            required -= min(kernel_only, required)
            if piece.end <= usable_start:
                movable_pfn = piece.end
                continue
            start = usable_start
        size = min(piece.end - start, remaining)
        movable_pfn = start + size
        required -= min(required, size)
        remaining -= size
        if not remaining:
            break
    return movable_pfn, required
