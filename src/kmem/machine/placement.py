# SPDX-License-Identifier: GPL-2.0-only
"""Where free blocks and their holders may lie, when only their numbers are known.

``/proc/pagetypeinfo`` counts the free blocks of each order and migrate type
and does not say where they are.  :class:`Holes` is the memory of a zone as boot
left it, in blocks aligned to their size.  Free blocks are cut out of it so that
no two of them could merge, holders out of what is left::

    order 3    |       free        |       hole        |  its buddy is free: the hole is
                                                          never given away as one free block
    order 2                        |  free   |  hole   |
    order 1                                  |free|held|

Whatever is not cut out at the end is in use by somebody unknown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

__all__ = ["Holes"]

_MAX_ORDER = 11
_ANY = -1


class Holes:
    """Room in a zone.

    Parameters
    ----------
    blocks : iterable of (int, int)
        Frame and order of the blocks that are free after boot.
    pageblock_order : int
        Order of a page block.
    quota : mapping of int to int, optional
        How many page blocks are of each migrate type; without it, as many as needed.

    Attributes
    ----------
    types : dict of int to int
        Migrate type of the page blocks, by their number, that a free block was cut from.

    Notes
    -----
    Deterministic: of equally good places the lowest is taken. Complexity: O(log holes) for each block.
    """

    def __init__(
        self, blocks: Iterable[tuple[int, int]], pageblock_order: int, quota: Mapping[int, int] | None = None
    ) -> None:
        self.pageblock_order = pageblock_order
        self.quota = None if quota is None else dict(quota)
        self.types: dict[int, int] = {}
        self._holes: dict[int, tuple[int, bool]] = {}
        self._heaps: dict[tuple[int, bool, int], list[int]] = {}
        for pfn, order in blocks:
            self._add(pfn, order, False)

    @property
    def pages(self) -> int:
        """Pages that are not cut out yet."""
        return sum(1 << order for order, _ in self._holes.values())

    def rest(self) -> list[tuple[int, int]]:
        """Frame and order of every block that is not cut out, from low to high."""
        return sorted((pfn, order) for pfn, (order, _) in self._holes.items())

    def take(self, pfn: int, order: int) -> bool:
        """Cut out a certain block; False if part of it is not there."""
        if pfn & ((1 << order) - 1):
            return False
        for have in range(order, _MAX_ORDER):
            head = pfn >> have << have
            found = self._holes.get(head)
            if found is None or found[0] != have:
                continue
            del self._holes[head]
            while have > order:
                have -= 1
                half = 1 << have
                keep = head + half if pfn & half == 0 else head
                self._add(keep, have, False)
                head = head + half if pfn & half else head
            return True
        return False

    def take_free(self, pfn: int, order: int, migratetype: int) -> bool:
        """Cut out a certain free block; False if part of it is not there."""
        tainted = order, True
        if self._holes.get(pfn) == tainted or not self.take(pfn, order):
            return False
        buddy = pfn ^ (1 << order)
        if order + 1 < _MAX_ORDER and self._holes.get(buddy) == (order, False):
            self._add(buddy, order, True)
        self._settle(pfn, order, migratetype)
        return True

    def place_free(self, order: int, migratetype: int) -> int | None:
        """Cut out a free block, next to others of its type if possible; None if there is no room."""
        room_for_type = self.quota is None or self.quota.get(migratetype, 0) > 0
        for kinds in ((migratetype,), (_ANY,) if room_for_type else (), (_ANY, *range(6))):
            for have in range(order, _MAX_ORDER):
                for tainted in (True, False) if have > order else (False,):
                    for kind in kinds:
                        pfn = self._pop(have, tainted, kind)
                        if pfn is not None:
                            self._split(pfn, have, order, free=True)
                            self._settle(pfn, order, migratetype)
                            return pfn
        return None

    def place_held(self, order: int) -> int | None:
        """Cut out a block for a holder, from the smallest place that will do; None if there is no room."""
        for have in range(order, _MAX_ORDER):
            for tainted in (True, False):
                for kind in (0, 2, _ANY, 1, 3, 4, 5):
                    pfn = self._pop(have, tainted, kind)
                    if pfn is not None:
                        self._split(pfn, have, order, free=False)
                        return pfn
        return None

    def _type_of(self, pfn: int) -> int:
        return self.types.get(pfn >> self.pageblock_order, _ANY)

    def _add(self, pfn: int, order: int, tainted: bool) -> None:
        self._holes[pfn] = order, tainted
        heapq.heappush(self._heaps.setdefault((order, tainted, self._type_of(pfn)), []), pfn)

    def _pop(self, order: int, tainted: bool, kind: int) -> int | None:
        """The lowest hole of a kind, taken out; entries that are no longer true are put right on the way."""
        heap = self._heaps.get((order, tainted, kind))
        while heap:
            pfn = heapq.heappop(heap)
            if self._holes.get(pfn) != (order, tainted):
                continue
            if self._type_of(pfn) != kind:  # its page block got a type meanwhile
                heapq.heappush(self._heaps.setdefault((order, tainted, self._type_of(pfn)), []), pfn)
                continue
            del self._holes[pfn]
            return pfn
        return None

    def _split(self, pfn: int, have: int, order: int, *, free: bool) -> None:
        """Give back what is left of a hole when its first part is used."""
        while have > order:
            have -= 1
            self._add(pfn + (1 << have), have, free and have == order)

    def _settle(self, pfn: int, order: int, migratetype: int) -> None:
        """Make the page blocks of a free block its type's, if they are nobody's yet."""
        first = pfn >> self.pageblock_order
        for block in range(first, first + (1 << max(0, order - self.pageblock_order))):
            if block not in self.types:
                self.types[block] = migratetype
                if self.quota is not None:
                    self.quota[migratetype] = self.quota.get(migratetype, 0) - 1
