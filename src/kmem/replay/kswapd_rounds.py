# SPDX-License-Identifier: GPL-2.0-only
"""When kswapd was at work, by the events of a recording.

While it balances a node, no more than four batches of pages stay on a per-CPU list,
and when it is done, the boost of watermarks that it began with is taken back.  Neither has an
event.  A round begins with ``mm_vmscan_kswapd_wake``; it ends when kswapd asks
for compaction, or with the last that is seen of it before it wakes again or sleeps.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from kmem.mm.page_alloc import PageAllocator
from kmem.trace.marks import find_marks

__all__ = ["KSWAPD_WAKE", "KswapdRounds", "find_rounds"]

#: The event that begins a round.
KSWAPD_WAKE = "mm_vmscan_kswapd_wake"

_SLEEP = "mm_vmscan_kswapd_sleep"
_AT_WORK = ("mm_vmscan_kswapd_", "mm_vmscan_lru_", "mm_shrink_slab_", "mm_compaction_suitable", "mm_compaction_wakeup")
_ZONE_RECLAIM_ACTIVE = 2
_NEVER = 1 << 62


def find_rounds(trace: str, time_ns: Sequence[int], pids: Sequence[int]) -> list[tuple[int, int]]:
    """Find the rounds of kswapd in a trace.

    Parameters
    ----------
    trace : str
        The recording.
    time_ns, pids : sequence of int
        Of the events of the table, in their order.

    Returns
    -------
    list of (int, int)
        Number of the first event of a round, and of the first after it. None in recordings that are no text.
    """
    rounds: list[tuple[int, int]] = []
    marks = find_marks(trace, _AT_WORK)
    for place, wake in enumerate(marks):
        if wake.event != KSWAPD_WAKE:
            continue
        until = _NEVER
        last = wake.time_ns
        for mark in marks[place + 1 :]:
            if mark.pid != wake.pid:
                continue
            if mark.event in (KSWAPD_WAKE, _SLEEP) or mark.event.startswith("mm_compaction"):
                until = mark.time_ns
                break
            last = mark.time_ns
        first = bisect.bisect_left(time_ns, wake.time_ns)
        end = bisect.bisect_right(time_ns, last)
        for i in range(end, bisect.bisect_left(time_ns, min(until, time_ns[-1] + 1))):
            if pids[i] == wake.pid:
                end = i + 1
        rounds.append((first, end))
    return rounds


class KswapdRounds:
    """Does to zones what kswapd does without an event.

    Attributes
    ----------
    due : int
        Number of the event before which :meth:`advance` is to be called.
    """

    def __init__(self, allocator: PageAllocator, rounds: Sequence[tuple[int, int]]) -> None:
        self.zones = allocator.memmap.zones_array
        self._changes = [change for first, end in rounds for change in ((first, True), (end, False))]
        self._boost = self.zones["watermark_boost"].copy()
        self.due = self._changes[0][0] if self._changes else _NEVER

    def advance(self, event: int) -> None:
        """Begin and end the rounds that begin and end before an event."""
        while self._changes and self._changes[0][0] <= event:
            _, active = self._changes.pop(0)
            if active:
                self.zones["flags"] |= _ZONE_RECLAIM_ACTIVE
                self._boost = self.zones["watermark_boost"].copy()
            else:
                self.zones["flags"] &= 0xFF & ~_ZONE_RECLAIM_ACTIVE
                boost = self.zones["watermark_boost"]
                boost -= boost.clip(max=self._boost)
        self.due = self._changes[0][0] if self._changes else _NEVER
