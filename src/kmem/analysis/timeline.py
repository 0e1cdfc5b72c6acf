# SPDX-License-Identifier: GPL-2.0-only
"""Free memory over time, and how broken up it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kmem.analysis.fragmentation import fragmentation_index, unusable_free_index
from kmem.profile import REFERENCE
from kmem.replay.replay import Replay

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Timeline", "ZoneName", "timeline"]

_PER_NODE = 5


@dataclasses.dataclass(frozen=True, slots=True)
class ZoneName:
    """Which zone: number in the model's arrays, node and the kernel's name."""

    index: int
    node: int
    name: str

    def __str__(self) -> str:
        return self.name if self.node == 0 else f"{self.name} (node {self.node})"


@dataclasses.dataclass(frozen=True, slots=True)
class Timeline:
    """The samples of a replay as arrays.

    Attributes
    ----------
    zones : tuple of ZoneName
        Zones with memory, lowest first.
    time_ns, events, slab_pages : ndarray of int64, shape (samples,)
        When: time of the trace, and events replayed before; pages of slabs then.
    failures, fallbacks : ndarray of int64, shape (samples,)
        Requests refused before, and those served from another migrate type.
    free_blocks : ndarray of int64, shape (samples, zones, orders, migrate types)
    pcp_pages : ndarray of int64, shape (samples, zones)
        Pages on per-CPU lists, which the kernel counts as neither used nor free.
    """

    zones: tuple[ZoneName, ...]
    time_ns: npt.NDArray[np.int64]
    events: npt.NDArray[np.int64]
    slab_pages: npt.NDArray[np.int64]
    failures: npt.NDArray[np.int64]
    fallbacks: npt.NDArray[np.int64]
    free_blocks: npt.NDArray[np.int64]
    pcp_pages: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.events)

    @property
    def nr_free(self) -> npt.NDArray[np.int64]:
        """Free blocks by sample, zone and order."""
        blocks: npt.NDArray[np.int64] = self.free_blocks.sum(axis=3)
        return blocks

    @property
    def free_pages(self) -> npt.NDArray[np.int64]:
        """Pages on the buddy lists by sample and zone."""
        pages: npt.NDArray[np.int64] = np.left_shift(self.nr_free, np.arange(self.free_blocks.shape[2])).sum(axis=2)
        return pages

    def thinned(self, most: int) -> Timeline:
        """Return at most so many samples, evenly chosen by number, first and last included."""
        if len(self) <= most:
            return self
        # without np.unique(), which imports masked arrays
        chosen = np.array(sorted(set(np.linspace(0, len(self) - 1, most).round().astype(int).tolist())))
        return dataclasses.replace(
            self,
            time_ns=self.time_ns[chosen],
            events=self.events[chosen],
            slab_pages=self.slab_pages[chosen],
            failures=self.failures[chosen],
            fallbacks=self.fallbacks[chosen],
            free_blocks=self.free_blocks[chosen],
            pcp_pages=self.pcp_pages[chosen],
        )

    def to_arrow(self) -> pa.Table:
        """Return free memory by sample, zone, order and migrate type: a row for each that is not zero.

        Columns: ``time_ns``, ``events``, ``node``, ``zone``, ``order``, ``migratetype``, ``blocks``.
        """
        import pyarrow as pa  # slow to import, and a report needs none

        sample, zone, order, mt = np.nonzero(self.free_blocks)
        names = pa.array([name.name for name in self.zones], pa.string())
        types = pa.array(REFERENCE.migrate_types + ("CMA",), pa.string())
        return pa.table(
            {
                "time_ns": self.time_ns[sample],
                "events": self.events[sample],
                "node": np.array([name.node for name in self.zones], np.int32)[zone],
                "zone": pa.DictionaryArray.from_arrays(pa.array(zone.astype(np.int32)), names),
                "order": order.astype(np.uint8),
                "migratetype": pa.DictionaryArray.from_arrays(pa.array(mt.astype(np.int32)), types),
                "blocks": self.free_blocks[sample, zone, order, mt],
            }
        )

    def fragmentation_to_arrow(self) -> pa.Table:
        """Return both indexes by sample, zone and order, in thousandths.

        Columns: ``time_ns``, ``events``, ``node``, ``zone``, ``order``,
        ``unusable_free_index``, ``fragmentation_index``.
        """
        import pyarrow as pa

        samples, zones, orders = self.nr_free.shape
        sample, zone, order = (axis.ravel() for axis in np.indices((samples, zones, orders)))
        indexes = [
            np.stack([index(self.nr_free, each) for each in range(orders)], axis=2).ravel()
            for index in (unusable_free_index, fragmentation_index)
        ]
        names = pa.array([name.name for name in self.zones], pa.string())
        return pa.table(
            {
                "time_ns": self.time_ns[sample],
                "events": self.events[sample],
                "node": np.array([name.node for name in self.zones], np.int32)[zone],
                "zone": pa.DictionaryArray.from_arrays(pa.array(zone.astype(np.int32)), names),
                "order": order.astype(np.uint8),
                "unusable_free_index": indexes[0],
                "fragmentation_index": indexes[1],
            }
        )


def _zones(run: Replay) -> Iterator[ZoneName]:
    memmap = run.machine.memmap
    for index in np.flatnonzero(memmap.zones_array["managed"]):
        yield ZoneName(int(index), int(memmap.zones_array["node"][index]), memmap.zone_name(int(index)))


def timeline(run: Replay) -> Timeline:
    """Return the samples of a replay."""
    zones = tuple(_zones(run))
    chosen = [zone.index for zone in zones]
    samples = run.samples
    return Timeline(
        zones=zones,
        time_ns=np.array([sample.time_ns for sample in samples], np.int64),
        events=np.array([sample.events for sample in samples], np.int64),
        slab_pages=np.array([sample.slab_pages for sample in samples], np.int64),
        failures=np.array([sample.failures for sample in samples], np.int64),
        fallbacks=np.array([sample.fallbacks for sample in samples], np.int64),
        free_blocks=np.stack([sample.free_blocks[chosen] for sample in samples]),
        pcp_pages=np.stack([sample.pcp_pages[chosen] for sample in samples]),
    )
