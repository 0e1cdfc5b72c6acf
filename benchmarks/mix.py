# SPDX-License-Identifier: GPL-2.0-only
"""The synthetic mix that replay speed is quoted on.

About 70 % of the events are slab events (half kmalloc, half named caches), 25 %
order-0 pages, 5 % other orders and large kmallocs; some 500,000 objects are
live on a 4 GiB machine, and frees are mostly of recent objects.  One seed, one
mix: the draws come from NumPy's PCG64, event by event.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kmem.trace import Event
from kmem.trace.scan_columns import COLUMNS

__all__ = ["KMALLOC_SIZES", "NAMED_CACHES", "Mix", "generate"]

KMALLOC_SIZES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
#: The named caches: name, object size in bytes, share of the requests for named caches.
NAMED_CACHES = (
    ("dentry", 192, 0.30),
    ("ext4_inode_cache", 1064, 0.08),
    ("filp", 256, 0.17),
    ("vm_area_struct", 184, 0.15),
    ("anon_vma", 104, 0.12),
    ("buffer_head", 104, 0.12),
    ("radix_tree_node", 576, 0.06),
)
GFP_KERNEL = 0xCC0
GFP_MOVABLE = 0xCCA

CACHE_ALLOC, CACHE_FREE, KMALLOC, KFREE, PAGES_ALLOC, PAGES_FREE = range(6)
_EVENTS = np.array(
    [
        Event.KMEM_CACHE_ALLOC,
        Event.KMEM_CACHE_FREE,
        Event.KMALLOC,
        Event.KFREE,
        Event.MM_PAGE_ALLOC,
        Event.MM_PAGE_FREE,
    ],
    np.uint8,
)
_BLOCK = 1 << 16  # events whose draws are made together
_SLAB, _PAGE, _OTHER = range(3)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Requests, one an entry of each array.

    Attributes
    ----------
    op : ndarray of uint8
        ``CACHE_ALLOC`` to ``PAGES_FREE``.
    slot : ndarray of uint32
        Which live thing: a small number, used again after its free.
    ptr : ndarray of uint64
        The slot, scrambled into 56 bits as a pointer is.
    size : ndarray of uint32
        Index of the cache behind those of kmalloc, bytes, or page order.
    gfp : ndarray of uint32
        0 for frees.
    """

    op: npt.NDArray[np.uint8]
    slot: npt.NDArray[np.uint32]
    ptr: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint32]
    gfp: npt.NDArray[np.uint32]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the requests as columns of the event table.

        Caches are codes 1 to 7 of ``NAMED_CACHES``; pages are named by their slot.
        """
        count = len(self.op)
        columns = {name: np.zeros(count, dtype) for name, dtype in COLUMNS.items()}
        columns["event"] = _EVENTS[self.op]
        pages = self.op >= PAGES_ALLOC
        columns["target"] = np.where(pages, self.slot.astype(np.uint64), self.ptr)
        columns["order"] = np.where(pages, self.size, 0).astype(np.uint8)
        named = self.op == CACHE_ALLOC
        code = np.where(named, self.size - len(KMALLOC_SIZES) + 1, 0).astype(np.uint32)
        sizes = np.array([0, *(size for _, size, _ in NAMED_CACHES)], np.uint64)
        columns["bytes_req"] = np.where(self.op == KMALLOC, self.size, sizes[code]).astype(np.uint64)
        columns["bytes_alloc"] = columns["bytes_req"].copy()
        columns["cache"] = code
        columns["gfp"] = self.gfp.copy()
        columns["node"][:] = -1
        columns["time_ns"] = np.arange(count, dtype=np.int64) * 1000
        return columns


def generate(events: int = 5_000_000, live: int = 500_000, seed: int = 1) -> Mix:
    """Make a mix.

    Parameters
    ----------
    events : int
        How many.
    live : int
        About how many objects are live once it is under way.
    seed : int
        Seed of the draws.

    Notes
    -----
    O(events); about two microseconds for each.
    """
    op = np.zeros(events, np.uint8)
    slot = np.zeros(events, np.uint32)
    size = np.zeros(events, np.uint32)
    gfp = np.zeros(events, np.uint32)
    at = 0
    state = _State(live)
    for count, draws in _draws(events, seed):
        rows = [state.event(*draw) for draw in zip(*draws, strict=True)]
        part = np.array(rows, np.uint32)
        op[at : at + count], slot[at : at + count] = part[:, 0], part[:, 1]
        size[at : at + count], gfp[at : at + count] = part[:, 2], part[:, 3]
        at += count
    scrambled = (slot.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    scrambled ^= scrambled >> np.uint64(29)
    scrambled *= np.uint64(0xBF58476D1CE4E5B9)
    scrambled ^= scrambled >> np.uint64(32)
    return Mix(op, slot, scrambled >> np.uint64(8), size, gfp)


def _draws(events: int, seed: int) -> Iterator[tuple[int, list[list[float]]]]:
    """Five uniform numbers for each event, in blocks."""
    chance = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, events, _BLOCK):
        count = min(_BLOCK, events - start)
        yield count, [column.tolist() for column in chance.random((5, count))]


class _State:
    """What is live while a mix is made."""

    def __init__(self, live: int) -> None:
        self.target = (live * 0.70, live * 0.29, live * 0.01)
        self.live: tuple[list[int], list[int], list[int]] = ([], [], [])
        self.free_slots: list[int] = []
        self.made: list[tuple[int, int]] = []  # (op, size) by slot
        shares = np.cumsum([share for _, _, share in NAMED_CACHES]).tolist()
        self.shares = [(limit, len(KMALLOC_SIZES) + n) for n, limit in enumerate(shares)]

    def event(self, a: float, b: float, c: float, d: float, e: float) -> tuple[int, int, int, int]:
        """One event: (op, slot, size, gfp) from five draws."""
        kind = _SLAB if a < 0.70 else _PAGE if a < 0.95 else _OTHER
        live = self.live[kind]
        fill = len(live) / self.target[kind]
        grow = 0.80 if fill < 0.9 else 0.5 + (1.0 - fill) * 2
        if live and b >= grow:
            last = len(live) - 1
            window = min(len(live), 64) if c < 0.6 else len(live)
            chosen = last - int(d * window)
            slot = live[chosen]
            live[chosen] = live[last]
            live.pop()
            self.free_slots.append(slot)
            op, size = self.made[slot]
            return op + 1, slot, size if op == PAGES_ALLOC else 0, 0
        op, size, gfp = self.request(kind, c, d, e)
        if self.free_slots:
            slot = self.free_slots.pop()
            self.made[slot] = (op, size)
        else:
            slot = len(self.made)
            self.made.append((op, size))
        live.append(slot)
        return op, slot, size, gfp

    def request(self, kind: int, c: float, d: float, e: float) -> tuple[int, int, int]:
        """A new allocation of one kind: (op, size, gfp)."""
        if kind == _PAGE:
            return PAGES_ALLOC, 0, GFP_MOVABLE if c < 0.8 else GFP_KERNEL
        if kind == _OTHER:
            if c < 0.3:
                return KMALLOC, 8193 + int(d * 57344), GFP_KERNEL
            order = 1 + int(d / 0.9 * 3) if d < 0.9 else 9
            return PAGES_ALLOC, order, GFP_MOVABLE if e < 0.5 else GFP_KERNEL
        if c < 0.5:
            if d < 0.90:
                return KMALLOC, int(8 * 2 ** (e * 5.5)), GFP_KERNEL
            if d < 0.985:
                return KMALLOC, int(256 * 2 ** (e * 3)), GFP_KERNEL
            return KMALLOC, min(int(2048 * 2 ** (e * 2)), 8192), GFP_KERNEL
        for limit, index in self.shares:
            if d < limit:
                return CACHE_ALLOC, index, GFP_KERNEL
        return CACHE_ALLOC, self.shares[-1][1], GFP_KERNEL
