# SPDX-License-Identifier: GPL-2.0-only
"""Who used how much memory: by call site, by cache, by order and migrate type."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kmem.mm.page import KIND_NAMES
from kmem.profile import REFERENCE
from kmem.replay.replay import Replay

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CacheUsage", "PageUsage", "Usage", "cache_usage", "page_usage", "site_usage", "to_arrow"]

_SLAB = KIND_NAMES.index("slab")
_GFP_TYPES = 4  # migrate types that GFP flags can ask for; the last of them is contradictory

_Row = TypeVar("_Row", bound="Usage")


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Requests and live memory of one user.

    Attributes
    ----------
    name : str
        Call site, cache, or order with migrate type.
    allocs, frees, failures : int
        Requests granted, objects or blocks given back, requests refused.
    bytes_req, bytes_alloc : int
        Bytes asked for and bytes given, over all allocations.
    live, live_req, live_alloc : int
        Objects or blocks not given back yet, and their bytes.
    peak, peak_alloc : int
        The most objects or blocks, and bytes given, at one time.
    cross_cpu_frees : int
        Objects freed on another CPU than they were allocated on; call sites only.
    """

    name: str
    allocs: int
    frees: int
    failures: int
    bytes_req: int
    bytes_alloc: int
    live: int
    live_req: int
    live_alloc: int
    peak: int
    peak_alloc: int
    cross_cpu_frees: int

    @property
    def slack_bytes(self) -> int:
        """Bytes given beyond those asked for, of what is live."""
        return self.live_alloc - self.live_req


@dataclasses.dataclass(frozen=True, slots=True)
class CacheUsage(Usage):
    """Use of one slab cache, with the state of its slabs at the end.

    Attributes
    ----------
    size_bytes : int
        Bytes from one object to the next.
    order, objperslab : int
        Order of a slab and objects in it, where memory is plentiful.
    slabs, slab_pages : int
        Slabs, and pages in them.
    partial_slabs : int
        Slabs on the nodes' partial lists.
    cpu_slabs : int
        Slabs that CPUs keep to themselves: the one in use and those set aside.
    slab_objects : int
        Objects that the slabs have room for.
    """

    size_bytes: int
    order: int
    objperslab: int
    slabs: int
    slab_pages: int
    partial_slabs: int
    cpu_slabs: int
    slab_objects: int

    @property
    def free_objects(self) -> int:
        """Objects in slabs that are not in use."""
        return self.slab_objects - self.live

    @property
    def utilisation(self) -> float:
        """Objects in use by objects in slabs; 1.0 for a cache without slabs."""
        return self.live / self.slab_objects if self.slab_objects else 1.0

    @property
    def wasted_bytes(self) -> int:
        """Bytes of the slabs in which no requested byte lies."""
        return (self.slab_pages << 12) - self.live_req


@dataclasses.dataclass(frozen=True, slots=True)
class PageUsage(Usage):
    """Pages asked for directly, of one order and one migrate type."""

    order: int
    migratetype: str


def _counters(record: np.void) -> dict[str, int]:
    return {name: int(record[name]) for name in record.dtype.names or ()}


def _largest_first(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: (-row.peak_alloc, -row.allocs, row.name))


def site_usage(run: Replay) -> list[Usage]:
    """Return the use of slab memory by call site, the largest peak first.

    Sites that the trace does not name are put together under an empty name.
    """
    names = run.reader.strings.call_sites
    array = run.engine.sites_array
    used = np.flatnonzero((array["allocs"] != 0) | (array["failures"] != 0))
    return _largest_first(Usage(name=names[int(i)] if i else "", **_counters(array[i])) for i in used)


def cache_usage(run: Replay) -> list[CacheUsage]:
    """Return the use of each slab cache that had a request or has a slab, the largest peak first.

    Notes
    -----
    Complexity: O(frames).
    """
    slub, memmap = run.machine.slub, run.machine.memmap
    nodes = slub.nodes_array.reshape(-1, memmap.nr_nodes)
    pages = memmap.pages_array[: memmap.nr_frames]
    heads = pages[pages["kind"] == _SLAB]
    room = len(nodes)
    sizes = np.bincount(heads["cache"], weights=np.left_shift(1, heads["order"].astype(np.int64)), minlength=room)
    frozen = np.bincount(heads["cache"][heads["frozen"] != 0], minlength=room)
    rows = []
    for index, geometry in slub.geometries.items():
        counters = run.engine.caches_array[index] if index < len(run.engine.caches_array) else None
        slabs = int(nodes["nr_slabs"][index].sum())
        if counters is None or not (slabs or counters["allocs"] or counters["failures"]):
            continue
        rows.append(
            CacheUsage(
                name=geometry.name,
                **_counters(counters),
                size_bytes=geometry.size,
                order=geometry.order,
                objperslab=geometry.objects,
                slabs=slabs,
                slab_pages=int(sizes[index]),
                partial_slabs=int(nodes["nr_partial"][index].sum()),
                cpu_slabs=int(frozen[index]),
                slab_objects=int(nodes["total_objects"][index].sum()),
            )
        )
    return _largest_first(rows)


def page_usage(run: Replay) -> list[PageUsage]:
    """Return the use of pages that were not a slab's, by order and migrate type, lowest order first."""
    rows = []
    array = run.engine.orders_array
    for index in np.flatnonzero((array["allocs"] != 0) | (array["failures"] != 0)):
        order, mt = divmod(int(index), _GFP_TYPES)
        name = REFERENCE.migrate_types[mt]
        rows.append(PageUsage(name=f"order {order} {name}", **_counters(array[index]), order=order, migratetype=name))
    return rows


def to_arrow(rows: Sequence[Usage], kind: type[Usage] = Usage) -> pa.Table:
    """Return rows as an Arrow table, one column for each attribute.

    Parameters
    ----------
    rows : sequence of Usage
        Rows of one kind.
    kind : type, optional
        Which, for a table without rows.
    """
    import pyarrow as pa  # slow to import, and a report needs none

    kind = type(rows[0]) if rows else kind
    texts = {"name", "migratetype"}
    schema = pa.schema(
        [(field.name, pa.string() if field.name in texts else pa.int64()) for field in dataclasses.fields(kind)]
    )
    data: list[dict[str, Any]] = [dataclasses.asdict(row) for row in rows]
    return pa.Table.from_pylist(data, schema=schema)
