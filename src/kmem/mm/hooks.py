# SPDX-License-Identifier: GPL-2.0-only
"""What the page allocator asks of the layers above it when memory runs short.

The kernel's allocator calls upward into reclaim, compaction and the OOM
killer.  Here it calls a :class:`Hooks` object that the machine registers at
boot; the base class answers as a kernel whose reclaim never finds anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class CompactResult(IntEnum):
    """Outcome of a direct compaction.

    Source: include/linux/compaction.h:enum compact_result @6.1.192
    """

    NOT_SUITABLE_ZONE = 0
    SKIPPED = 1
    DEFERRED = 2
    NO_SUITABLE_PAGE = 3
    CONTINUE = 4
    COMPLETE = 5
    PARTIAL_SKIPPED = 6
    CONTENDED = 7
    SUCCESS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """A page request on the slow path.

    Attributes
    ----------
    gfp, order, alloc_flags : int
        As the kernel's; `alloc_flags` are the ``ALLOC_*`` bits in force.
    node : int
        Node that the request prefers.
    highest_zoneidx : int
        Highest zone index that may serve it.
    migratetype : int
        Migrate type of the request.
    """

    gfp: int
    order: int
    alloc_flags: int
    node: int
    highest_zoneidx: int
    migratetype: int


class Hooks:
    """Reclaim, compaction and OOM as the page allocator sees them."""

    def wakeup_kswapd(self, zone: int, gfp: int, order: int, highest_zoneidx: int) -> None:
        """Wake the reclaim thread of the zone's node.

        Source: mm/vmscan.c:wakeup_kswapd @6.1.192
        """

    def direct_compact(self, request: Request, priority: int) -> CompactResult:
        """Compact for `request`; anything but SKIPPED makes the allocator look again.

        Source: mm/compaction.c:try_to_compact_pages @6.1.192
        """
        return CompactResult.SKIPPED

    def direct_reclaim(self, request: Request) -> int:
        """Reclaim for `request`; pages of progress made, 0 if none.

        Source: mm/vmscan.c:try_to_free_pages @6.1.192
        """
        return 0

    def zone_reclaimable_pages(self, zone: int) -> int:
        """Pages on the zone's LRU lists that reclaim could free.

        Source: mm/vmscan.c:zone_reclaimable_pages @6.1.192
        """
        return 0

    def should_compact_retry(self, request: Request, result: CompactResult, retries: int) -> bool:
        """Whether compaction is worth another round after progress in reclaim.

        Source: mm/page_alloc.c:should_compact_retry @6.1.192
        """
        return False

    def out_of_memory(self, request: Request) -> bool:
        """Kill something; whether that will free memory.

        Source: mm/oom_kill.c:out_of_memory @6.1.192
        """
        return False

    def wait(self, request: Request) -> bool:
        """Let others run before a ``__GFP_NOFAIL`` request tries again; False if nobody can."""
        return False

    def warn_alloc(self, request: Request) -> None:
        """The request fails for good: the kernel would print a report here.

        Source: mm/page_alloc.c:warn_alloc @6.1.192
        """

    def slab_out_of_memory(self, cache: int, gfp: int, node: int) -> None:
        """A slab cache got no page for a new slab: the kernel would print a report here.

        Source: mm/slub.c:slab_out_of_memory @6.1.192
        """
