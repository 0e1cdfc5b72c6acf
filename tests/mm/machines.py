# SPDX-License-Identifier: GPL-2.0-only
"""Small machines for tests of the page allocator, built by hand."""

from __future__ import annotations

from collections.abc import Iterable

from kmem.mm.mmzone import ZONE_NAMES_64, MemMap
from kmem.mm.page_alloc import PageAllocator

GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT = 0xCC0, 0xA20, 0x800
GFP_HIGHUSER_MOVABLE, GFP_RECLAIMABLE = 0x100CCA, 0xCD0
UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE, CMA = range(6)


def one_zone(
    frames: int = 4096,
    *,
    cpus: int = 1,
    free: Iterable[tuple[int, int]] | None = None,
    marks: tuple[int, int, int, int] = (0, 0, 0, 0),
    pcp: tuple[int, int] = (0, 1),
    pageblock_order: int = 9,
    stat_threshold: int = 0,
) -> PageAllocator:
    """A machine with the single zone Normal.

    Parameters
    ----------
    free : iterable of (pfn, order), optional
        Blocks given to the zone, in this order; by default all of it in
        blocks of the highest order.
    marks : tuple of int
        Watermarks min, low, high, promo.
    pcp : tuple of int
        High and batch of the per-CPU lists; high 0 sends every free straight
        back to the zone.
    """
    memmap = MemMap(frames, 1, cpus, pageblock_order, ZONE_NAMES_64, spare_heads=1024)
    normal = memmap.zone_id("Normal")
    zone = memmap.zones_array[normal]
    zone["spanned"] = zone["present"] = frames
    zone["watermark"] = marks
    zone["stat_threshold"] = stat_threshold
    memmap.pages_array["zone"][:frames] = normal
    for cpu in range(cpus):
        pageset = memmap.pagesets_array[normal * cpus + cpu]
        pageset["high"], pageset["batch"] = pcp
    allocator = PageAllocator(memmap, {(0, False): [normal], (0, True): [normal]})
    for pfn, order in [(pfn, 10) for pfn in range(0, frames, 1024)] if free is None else free:
        allocator.free_pages_core(pfn, order)
    return allocator


def normal_lists(allocator: PageAllocator) -> dict[tuple[int, int], list[int]]:
    """The non-empty free lists of zone Normal: (order, migrate type) -> frames, head first."""
    memmap = allocator.memmap
    normal = memmap.zone_id("Normal")
    lists = {(order, mt): memmap.free_list(normal, order, mt) for order in range(11) for mt in range(6)}
    return {key: frames for key, frames in lists.items() if frames}
