# SPDX-License-Identifier: GPL-2.0-only
"""Where the recorded kernel mapped its physical memory, by the trace itself.

With KASLR the direct map begins at another address at each boot.  A slab's
pages are allocated just before the first object in them is handed out, so the
frame of a page allocation and the pointer of an object soon after it often
belong together.  Their difference is the base of the map, which is a multiple
of 1 GiB: chance alone makes one in hundreds of thousands of pairs look so.

Source: arch/x86/mm/kaslr.c:kernel_randomize_memory @6.1.192
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from kmem.trace.events import Event, EventBatch, EventFlag

__all__ = ["DirectMapVotes"]

_BASE_SHIFT = 30  # the map begins at a multiple of 1 GiB (PUD_SIZE)
_PAGE_SHIFT = 12
_LOOKAHEAD = 3  # events between a slab's pages and its first object
_FEWEST = 2


class DirectMapVotes:
    """Votes of pairs of events for the base of the direct map."""

    def __init__(self) -> None:
        self._votes: Counter[int] = Counter()

    def add(self, batch: EventBatch) -> None:
        """Count the pairs of one batch. O(events)."""
        usable = (batch.flags & (EventFlag.FAILED | EventFlag.NO_POINTER)) == 0
        pages = np.flatnonzero(usable & (batch.event == Event.MM_PAGE_ALLOC))
        objects = usable & (batch.event > 0) & (batch.event <= Event.KMEM_CACHE_ALLOC_NODE)
        for ahead in range(1, _LOOKAHEAD + 1):
            first = pages[pages + ahead < len(batch)]
            first = first[objects[first + ahead]]
            start = batch.target[first] << np.uint64(_PAGE_SHIFT)
            pointer = batch.target[first + ahead]
            size = np.uint64(1) << (batch.order[first].astype(np.uint64) + np.uint64(_PAGE_SHIFT))
            inside = (pointer >= start) & ((pointer - start) & np.uint64((1 << _BASE_SHIFT) - 1) < size)
            bases = (pointer[inside] - start[inside]) >> np.uint64(_BASE_SHIFT)
            for base, votes in zip(*np.unique(bases, return_counts=True), strict=True):
                self._votes[int(base)] += int(votes)

    @property
    def base(self) -> int | None:
        """Address of frame 0, None if too few pairs agree on one."""
        ranked = self._votes.most_common(2)
        if not ranked or ranked[0][1] < _FEWEST or (len(ranked) > 1 and ranked[1][1] * 2 > ranked[0][1]):
            return None
        return ranked[0][0] << _BASE_SHIFT
