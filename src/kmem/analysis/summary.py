# SPDX-License-Identifier: GPL-2.0-only
"""Everything that is said of a replay, as plain values."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kmem.analysis.fragmentation import extfrag_for_order, fragmentation_index, unusable_free_index
from kmem.analysis.timeline import Timeline, timeline
from kmem.analysis.usage import CacheUsage, PageUsage, Usage, cache_usage, page_usage, site_usage, to_arrow
from kmem.machine.table import Table
from kmem.machine.views import MachineView
from kmem.mm.page import KIND_NAMES
from kmem.profile import REFERENCE
from kmem.replay.refused import Failure, Kind, PagesWanted, ZoneRecord
from kmem.replay.replay import Replay
from kmem.trace.reader import TraceStats

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Analysis",
    "Changes",
    "Fallbacks",
    "FreeMemory",
    "PoolUse",
    "Requests",
    "SlabMemory",
    "ZoneState",
    "analyse",
    "failures_to_arrow",
    "fallbacks",
]

_LARGE = KIND_NAMES.index("large")


@dataclasses.dataclass(frozen=True, slots=True)
class Requests:
    """What the trace asked for, and how much of it could not be followed.

    Attributes
    ----------
    requests, frees : int
        Requests made to the model, and frees in the trace.
    failures : int
        Requests that the model refused.
    failed_in_trace : int
        Requests that the recorded kernel refused.
    unknown_object_frees, unknown_page_frees : int
        Frees of what the trace does not show the allocation of.
    double_allocations : int
        Allocations at a place still in use: a free was lost, or two hashed
        pointers are alike.
    slab_allocations : int
        Page allocations of the trace that were slabs, and large kmallocs; the
        model makes its own.
    atomic_failures : int
        Those of `failures` that were GFP_ATOMIC; for most others a kernel
        would reclaim memory first.
    """

    requests: int
    frees: int
    failures: int
    failed_in_trace: int
    unknown_object_frees: int
    unknown_page_frees: int
    double_allocations: int
    slab_allocations: int
    atomic_failures: int = 0

    @property
    def operations(self) -> int:
        """Requests and frees."""
        return self.requests + self.frees

    @property
    def unknown_frees(self) -> int:
        """Unknown frees of objects and of pages."""
        return self.unknown_object_frees + self.unknown_page_frees

    def share(self, count: int) -> float:
        """Return `count` as a share of all operations, 0.0 to 1.0."""
        return count / self.operations if self.operations else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class ZoneState:
    """One zone with memory at the end.

    Attributes
    ----------
    node : int
    name : str
    managed, free_pages, pcp_pages : int
        Pages in all, on the buddy lists, on per-CPU lists.
    min, low, high : int
        Watermarks in pages, boost included.
    lowest_free_pages : int
        The fewest pages on the buddy lists in any sample.
    nr_free : tuple of int
        Free blocks by order.
    free : dict of str to tuple of int
        The same by migrate type.
    unusable_free_index, fragmentation_index : tuple of int
        By order, in thousandths.
    extfrag_percent : tuple of int
        By order: percentage of free pages in smaller blocks.
    """

    node: int
    name: str
    managed: int
    free_pages: int
    pcp_pages: int
    min: int
    low: int
    high: int
    lowest_free_pages: int
    nr_free: tuple[int, ...]
    free: dict[str, tuple[int, ...]]
    unusable_free_index: tuple[int, ...]
    fragmentation_index: tuple[int, ...]
    extfrag_percent: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FreeMemory:
    """The machine's pages at the beginning and the end, and the extremes between.

    Attributes
    ----------
    managed : int
        Pages of the page allocator.
    free_at_start, free_at_end, lowest_free : int
        Pages on the buddy and per-CPU lists; the lowest is that of the samples.
    page_requests : int
        Pages that were asked for directly and not given back.
    """

    managed: int
    free_at_start: int
    free_at_end: int
    lowest_free: int
    page_requests: int


@dataclasses.dataclass(frozen=True, slots=True)
class SlabMemory:
    """All slab caches together, at the end.

    Attributes
    ----------
    slab_pages, peak_slab_pages : int
        Pages of slabs at the end, and the most of the samples.
    large_pages : int
        Pages of live kmallocs that are too large for a cache.
    slabs, partial_slabs, cpu_slabs : int
        Slabs; those on the nodes' partial lists; those that CPUs keep.
    objects, objects_in_use : int
        Room in the slabs, and objects handed out and not freed.
    live_req, live_alloc : int
        Bytes asked for and bytes given of everything that is live, large
        kmallocs included.
    total_req, total_alloc : int
        The same of all requests of the whole trace.
    """

    slab_pages: int
    peak_slab_pages: int
    large_pages: int
    slabs: int
    partial_slabs: int
    cpu_slabs: int
    objects: int
    objects_in_use: int
    live_req: int
    live_alloc: int
    total_req: int
    total_alloc: int


@dataclasses.dataclass(frozen=True, slots=True)
class Fallbacks:
    """Requests served from the free list of another migrate type.

    Attributes
    ----------
    count : int
        All of them.
    kept : int
        Those with a record each; the first 65,536.
    time_ns : ndarray of int64, shape (kept,)
        Time of the trace, as exactly as the samples are taken.
    wanted, taken : ndarray of uint8, shape (kept,)
        Migrate type asked for, and that of the block broken up.
    order, block_order : ndarray of uint8, shape (kept,)
        Order asked for, and that of the block.
    pfn : ndarray of uint64, shape (kept,)
        First frame of the block.
    """

    count: int
    time_ns: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.uint8]
    taken: npt.NDArray[np.uint8]
    order: npt.NDArray[np.uint8]
    block_order: npt.NDArray[np.uint8]
    pfn: npt.NDArray[np.uint64]

    @property
    def kept(self) -> int:
        """Fallbacks with a record."""
        return len(self.time_ns)

    def by_type(self) -> list[tuple[str, str, int, dict[int, int]]]:
        """Return (from, to, count, count by order of the block) for each pair of types, most frequent first."""
        names = REFERENCE.migrate_types + ("CMA",)
        blocks: dict[tuple[int, int], Counter[int]] = {}
        for wanted, taken, order in zip(
            self.wanted.tolist(), self.taken.tolist(), self.block_order.tolist(), strict=True
        ):
            blocks.setdefault((taken, wanted), Counter())[order] += 1
        rows = [
            (names[taken], names[wanted], orders.total(), dict(sorted(orders.items())))
            for (taken, wanted), orders in blocks.items()
        ]
        return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))

    def to_arrow(self) -> pa.Table:
        """Return a row for each fallback that has a record."""
        import pyarrow as pa

        names = pa.array(REFERENCE.migrate_types + ("CMA",), pa.string())
        return pa.table(
            {
                "time_ns": self.time_ns,
                "pfn": self.pfn,
                "order": self.order,
                "block_order": self.block_order,
                "wanted": pa.DictionaryArray.from_arrays(pa.array(self.wanted.astype(np.int32)), names),
                "taken": pa.DictionaryArray.from_arrays(pa.array(self.taken.astype(np.int32)), names),
            }
        )


@dataclasses.dataclass(frozen=True, slots=True)
class PoolUse:
    """A memory pool that was put in front of a cache.

    Attributes
    ----------
    cache : str
    min_nr, lowest : int
        Elements that it is meant to hold, and the fewest that it held.
    served : int
        Requests that the cache refused and an element was given to.
    slept, refused : int
        Requests that found the pool empty: such as may sleep, and such as may not.
    """

    cache: str
    min_nr: int
    lowest: int
    served: int
    slept: int
    refused: int


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """What came of the changes to a trace.

    Attributes
    ----------
    scale_load : int
        How many times every request was made.
    dropped : int
        Requests that were left out.
    kvmalloc_fallbacks : int
        kvmallocs that got single pages, for want of a block.
    mempools : tuple of PoolUse
    """

    scale_load: int = 1
    dropped: int = 0
    kvmalloc_fallbacks: int = 0
    mempools: tuple[PoolUse, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Analysis:
    """All figures of a replay.

    Attributes
    ----------
    machine : str
        Name of the machine.
    arch : str
    cpus : int
    memory_bytes : int
        Memory by the firmware's map.
    assumed : tuple of str
        What was inferred or assumed about the machine.
    notes : tuple of str
        What else has to be known: from the machine's boot and the trace.
    trace : TraceStats
    first_ns, last_ns : int
        Time span of the trace.
    requests : Requests
    memory : FreeMemory
    slab : SlabMemory
    zones : tuple of ZoneState
        Zones with memory.
    call_sites : tuple of Usage
    caches : tuple of CacheUsage
    page_orders : tuple of PageUsage
    failure_counts : dict of (zone, order, reason) to int
        All failures.
    failures : tuple of Failure
        The first 1000.
    first_failures, failure_states : dict
        The first failure of each kind, and the machine's state then; see :class:`~kmem.replay.replay.Replay`.
    fallbacks : Fallbacks
    timeline : Timeline
    view : MachineView
        What ``/proc`` would show at the end.
    changes : Changes
        What came of changes to the trace.
    """

    machine: str
    arch: str
    cpus: int
    memory_bytes: int
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    trace: TraceStats
    first_ns: int
    last_ns: int
    requests: Requests
    memory: FreeMemory
    slab: SlabMemory
    zones: tuple[ZoneState, ...]
    call_sites: tuple[Usage, ...]
    caches: tuple[CacheUsage, ...]
    page_orders: tuple[PageUsage, ...]
    failure_counts: dict[tuple[str, int, str], int]
    failures: tuple[Failure, ...]
    fallbacks: Fallbacks
    timeline: Timeline
    view: MachineView
    changes: Changes = Changes()
    first_failures: Mapping[Kind, Failure] = dataclasses.field(default_factory=dict)
    failure_states: Mapping[Kind, tuple[PagesWanted, tuple[ZoneRecord, ...]]] = dataclasses.field(default_factory=dict)

    def tables(self) -> dict[str, Table]:
        """Return every table of the analysis by name, for data frames.

        ``call_sites``, ``caches``, ``page_orders``, ``failures``, ``fallbacks``, ``free_memory`` and
        ``fragmentation``; each has ``to_arrow()``, ``to_polars()`` and ``to_pandas()``.
        """
        return {
            "call_sites": Table("Call sites", to_arrow(self.call_sites)),
            "caches": Table("Slab caches", to_arrow(self.caches, CacheUsage)),
            "page_orders": Table("Pages by order and migrate type", to_arrow(self.page_orders, PageUsage)),
            "failures": Table("Failures", failures_to_arrow(self.failures)),
            "fallbacks": Table("Fallbacks", self.fallbacks.to_arrow()),
            "free_memory": Table("Free memory over time", self.timeline.to_arrow()),
            "fragmentation": Table("Fragmentation over time", self.timeline.fragmentation_to_arrow()),
        }

    def _repr_html_(self) -> str:
        """Return call sites, caches and failures as notebooks show them."""
        tables = self.tables()
        shown = ("call_sites", "caches", "failures") if self.failures else ("call_sites", "caches")
        return "".join(tables[name]._repr_html_() for name in shown)


def fallbacks(run: Replay) -> Fallbacks:
    """Return the migrate-type fallbacks of a replay."""
    records = run.fallbacks
    return Fallbacks(
        count=int(run.machine.page_alloc.nr_extfrag) - run.extfrag_before,
        time_ns=records["time_ns"].astype(np.int64),
        wanted=records["migratetype"],
        taken=records["bytes_alloc"].astype(np.uint8),
        order=records["order"],
        block_order=records["bytes_req"].astype(np.uint8),
        pfn=records["ptr"],
    )


def failures_to_arrow(failures: Sequence[Failure]) -> pa.Table:
    """Return failures as an Arrow table, a row each: the attributes of :class:`Failure` as columns, but for `zones`."""
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64()}
    fields = [field for field in dataclasses.fields(Failure) if field.name != "zones"]
    schema = pa.schema([(field.name, types[str(field.type)]) for field in fields])
    rows = [{field.name: getattr(failure, field.name) for field in fields} for failure in failures]
    return pa.Table.from_pylist(rows, schema=schema)


def _requests(run: Replay) -> Requests:
    engine = run.engine
    return Requests(
        requests=engine.nr_requests - (run.transformer.dropped if run.transformer is not None else 0),
        frees=engine.nr_frees,
        failures=engine.nr_failures - run.nr_reserved,
        atomic_failures=run.atomic_failures,
        failed_in_trace=engine.nr_failed_in_trace,
        unknown_object_frees=engine.nr_unknown_frees,
        unknown_page_frees=engine.nr_unknown_page_frees,
        double_allocations=engine.nr_double_allocations,
        slab_allocations=engine.nr_slab_pages,
    )


def _changes(run: Replay) -> Changes:
    transformer = run.transformer
    if transformer is None:
        return Changes()
    names = [field.name for field in dataclasses.fields(PoolUse)]
    return Changes(
        scale_load=transformer.transform.scale_load,
        dropped=transformer.dropped,
        kvmalloc_fallbacks=transformer.kvmalloc_fallbacks,
        mempools=tuple(PoolUse(**{name: getattr(pool, name) for name in names}) for pool in transformer.pools),
    )


def _zone_states(run: Replay, times: Timeline, view: MachineView) -> list[ZoneState]:
    views = {(zone.node, zone.name): zone for zone in view.zones}
    nr_free, lowest = times.nr_free[-1], times.free_pages.min(axis=0)
    states = []
    for i, zone in enumerate(times.zones):
        shown = views[zone.node, zone.name]
        orders = range(nr_free.shape[1])
        states.append(
            ZoneState(
                node=zone.node,
                name=zone.name,
                managed=shown.managed,
                free_pages=int(times.free_pages[-1, i]),
                pcp_pages=int(times.pcp_pages[-1, i]),
                min=shown.min,
                low=shown.low,
                high=shown.high,
                lowest_free_pages=int(lowest[i]),
                nr_free=tuple(nr_free[i].tolist()),
                free=dict(zip(view.migrate_types, shown.free, strict=False)),
                unusable_free_index=tuple(int(unusable_free_index(nr_free[i], order)) for order in orders),
                fragmentation_index=tuple(int(fragmentation_index(nr_free[i], order)) for order in orders),
                extfrag_percent=tuple(int(extfrag_for_order(nr_free[i], order)) for order in orders),
            )
        )
    return states


def _slab_memory(run: Replay, times: Timeline, sites: Sequence[Usage], caches: Sequence[CacheUsage]) -> SlabMemory:
    memmap = run.machine.memmap
    pages = memmap.pages_array[: memmap.nr_frames]
    large = pages["order"][pages["kind"] == _LARGE].astype(np.int64)
    return SlabMemory(
        slab_pages=sum(cache.slab_pages for cache in caches),
        peak_slab_pages=int(times.slab_pages.max()),
        large_pages=int((1 << large).sum()),
        slabs=sum(cache.slabs for cache in caches),
        partial_slabs=sum(cache.partial_slabs for cache in caches),
        cpu_slabs=sum(cache.cpu_slabs for cache in caches),
        objects=sum(cache.slab_objects for cache in caches),
        objects_in_use=sum(cache.live for cache in caches),
        live_req=sum(site.live_req for site in sites),
        live_alloc=sum(site.live_alloc for site in sites),
        total_req=sum(site.bytes_req for site in sites),
        total_alloc=sum(site.bytes_alloc for site in sites),
    )


def _free_memory(times: Timeline, zones: Sequence[ZoneState], pages: Sequence[PageUsage]) -> FreeMemory:
    free = (times.free_pages + times.pcp_pages).sum(axis=1)
    return FreeMemory(
        managed=sum(zone.managed for zone in zones),
        free_at_start=int(free[0]),
        free_at_end=int(free[-1]),
        lowest_free=int(free.min()),
        page_requests=sum(usage.live << usage.order for usage in pages),
    )


def analyse(run: Replay) -> Analysis:
    """Compute all figures of a replay.

    Notes
    -----
    Complexity: O(frames + call sites + samples).
    """
    description = run.machine.description
    times, view = timeline(run), run.machine.view()
    sites, caches, pages = site_usage(run), cache_usage(run), page_usage(run)
    zones = _zone_states(run, times, view)
    return Analysis(
        machine=description.name,
        arch=description.arch,
        cpus=description.cpus,
        memory_bytes=description.memory_bytes,
        assumed=tuple(run.assumed),
        notes=(*run.machine.notes, *run.notes, *run.stats.notes),
        trace=run.stats,
        first_ns=run.first_ns,
        last_ns=run.last_ns,
        requests=_requests(run),
        memory=_free_memory(times, zones, pages),
        slab=_slab_memory(run, times, sites, caches),
        zones=tuple(zones),
        call_sites=tuple(sites),
        caches=tuple(caches),
        page_orders=tuple(pages),
        failure_counts=dict(sorted(run.failure_counts.items(), key=lambda item: (-item[1], item[0]))),
        failures=tuple(run.failures),
        fallbacks=fallbacks(run),
        timeline=times,
        view=view,
        changes=_changes(run),
        first_failures=dict(run.first_failures),
        failure_states=dict(run.failure_states),
    )
