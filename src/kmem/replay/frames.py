# SPDX-License-Identifier: GPL-2.0-only
"""What every page frame is used for at moments of a replay: the film of physical memory.

Taking a picture looks at every frame, so pictures are taken only when somebody
asked for them, outside the replay's loop, and at most `MAX_MOMENTS` are kept.
Between two pictures little changes, but each is packed by itself: a page frame
costs two bytes before packing, and some hundredths of one after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kmem.mm.mmzone import MemMap
from kmem.mm.page import KIND_NAMES
from kmem.replay.engine import ReplayEngine

__all__ = ["FIRST_CACHE", "MAX_MOMENTS", "OWNERS", "FrameMoment", "frame_owners", "most_moments", "pageblock_types"]

#: Owners of frames by number; a slab's is ``FIRST_CACHE`` and the number of its cache.
OWNERS = (
    "no memory, or the kernel image",
    "free",
    "free on a per-CPU list",
    "in use since before the trace",
    "unmovable pages",
    "movable pages",
    "reclaimable pages",
    "other pages",
    "large kmalloc",
)
FIRST_CACHE = 16
MAX_MOMENTS = 64

_MOST_FRAMES = 1 << 27  # in all pictures of a replay together: of huge machines fewer are taken
_FEWEST_MOMENTS = 8
_NO_TYPE = 255
_BUDDY, _PCP, _ALLOCATED, _SLAB, _LARGE = (
    KIND_NAMES.index(name) for name in ("buddy", "pcp", "allocated", "slab", "large")
)
_KIND_OWNERS = {_BUDDY: 1, _PCP: 2, _ALLOCATED: 3, _LARGE: 8}
_PAGES = 3  # Entry.kind of the engine
_TARGET = np.uint64((1 << 48) - 1)


@dataclass(frozen=True, slots=True)
class FrameMoment:
    """All page frames at one moment.

    Attributes
    ----------
    time_ns, events : int
        Time of the trace, and events replayed before.
    packed : bytes
        The arrays of :attr:`owners` and :attr:`types`, packed.
    nr_frames : int
    """

    time_ns: int
    events: int
    packed: bytes
    nr_frames: int

    @classmethod
    def take(cls, memmap: MemMap, engine: ReplayEngine, time_ns: int) -> FrameMoment:
        """Look at all frames as they are now; O(frames)."""
        owners = frame_owners(memmap, engine)
        raw = owners.astype("<u2").tobytes() + pageblock_types(memmap).tobytes()
        import zstandard

        packed = zstandard.ZstdCompressor(level=1).compress(raw)
        return cls(time_ns, int(engine.nr_events), packed, memmap.nr_frames)

    def _raw(self) -> bytes:
        import zstandard

        return zstandard.ZstdDecompressor().decompress(self.packed)

    @property
    def owners(self) -> npt.NDArray[np.uint16]:
        """Owner of each frame: an index of :data:`OWNERS`, or from `FIRST_CACHE` on a slab cache."""
        owners: npt.NDArray[np.uint16] = np.frombuffer(self._raw(), "<u2", self.nr_frames)
        return owners

    @property
    def types(self) -> npt.NDArray[np.uint8]:
        """Migrate type of each page block; 255 where there is none."""
        return np.frombuffer(self._raw(), np.uint8, offset=2 * self.nr_frames)


def most_moments(nr_frames: int) -> int:
    """How many pictures to keep of a machine with so many frames."""
    return max(_FEWEST_MOMENTS, min(MAX_MOMENTS, _MOST_FRAMES // max(nr_frames, 1)))


def frame_owners(memmap: MemMap, engine: ReplayEngine) -> npt.NDArray[np.uint16]:
    """Return the owner of each frame.

    The record of a block's first frame says what the block is; those behind it
    may hold what they were before, so blocks are painted over them, small ones first.

    Notes
    -----
    Complexity: O(frames).
    """
    pages = memmap.pages_array[: memmap.nr_frames]
    kind = np.ascontiguousarray(pages["kind"])
    owners = np.zeros(memmap.nr_frames, np.uint16)
    heads = np.flatnonzero((kind >= _BUDDY) & (kind <= _LARGE))
    head_kind, order = kind[heads], pages["order"][heads]
    table = np.zeros(len(KIND_NAMES), np.uint16)
    for each, owner in _KIND_OWNERS.items():
        table[each] = owner
    value = table[head_kind]
    slabs = head_kind == _SLAB
    value[slabs] = pages["cache"][heads[slabs]] + np.uint16(FIRST_CACHE)
    _paint(owners, heads, order, value)
    _paint_requests(owners, engine)
    return owners


def _paint(owners: npt.NDArray[np.uint16], heads: npt.NDArray[Any], order: npt.NDArray[Any], value: Any) -> None:
    """Give the blocks that start at `heads` their values."""
    for each in np.unique(order).tolist():
        chosen = order == each
        if not each:
            owners[heads[chosen]] = value[chosen]
            continue
        frames = heads[chosen][:, None] + np.arange(1 << each)
        inside = frames[:, -1] < len(owners)
        owners[frames[inside]] = value[chosen][inside][:, None]


def _paint_requests(owners: npt.NDArray[np.uint16], engine: ReplayEngine) -> None:
    """Pages that the trace asked for directly are known by their migrate type."""
    entries = engine.blocks.array
    held = np.flatnonzero(entries["kind"] == _PAGES)
    pfns = ((entries["target"][held] & _TARGET) >> 12).astype(np.int64)
    types = np.minimum(entries["cache"][held], 3) + np.uint16(4)
    _paint(owners, pfns, entries["order"][held], types)


def pageblock_types(memmap: MemMap) -> npt.NDArray[np.uint8]:
    """Return the migrate type of each page block, 255 where no zone has frames."""
    order = memmap.pageblock_order
    types = np.full(-(-memmap.nr_frames >> order) or 1, _NO_TYPE, np.uint8)
    for index in np.flatnonzero(memmap.zones_array["managed"]).tolist():
        zone = memmap.zones_array[index]
        first = int(zone["start_pfn"]) >> order
        end = min(len(types), -(-(int(zone["start_pfn"]) + int(zone["spanned"])) >> order))
        found = memmap.pageblock_slice(index, first << order, end - first)
        types[first : first + len(found)] = found
    return types
