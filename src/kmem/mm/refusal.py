# SPDX-License-Identifier: GPL-2.0-only
"""Why a request for pages is refused: the comparisons of the watermark check, with their numbers.

Source: mm/page_alloc.c:__zone_watermark_ok @6.1.192
"""

import cython
from cython.cimports.kmem.mm.mmzone import WMARK_MIN, Zone
from cython.cimports.kmem.mm.page import MAX_ORDER
from cython.cimports.kmem.mm.page_alloc import GFP_ATOMIC_BIT, AllocContext, PageAllocator


def refusal(allocator: PageAllocator, gfp, order, node=-1):
    """Why a request would be refused by the zone it prefers, in the state of now.

    Returns
    -------
    zone : str
        Name of the preferred zone, empty if the request may use none.
    reason : str
        ``below-watermark``: too few pages are free; ``no-block-of-order``:
        enough are, but none in a block of `order`; ``order-too-large``:
        no zone ever holds such a block; ``none``: it would not be refused.
    """
    ac: AllocContext
    zone: cython.uint
    z: cython.pointer(Zone)
    alloc_flags: cython.uint
    mark: cython.long
    if order >= MAX_ORDER:
        return "", "order-too-large"
    allocator.prepare(cython.address(ac), node, gfp)
    if ac.preferred < 0:
        return "", "below-watermark"
    zone = allocator.zonelists[ac.row, ac.preferred]
    z = cython.address(allocator.zones[zone])
    alloc_flags = allocator.gfp_to_alloc_flags(gfp, order, ac.migratetype)
    mark = z.watermark[WMARK_MIN] + z.watermark_boost
    name = allocator.memmap.zone_name(zone)
    if allocator.pfmemalloc_flags(gfp):
        mark = 0
    if allocator.watermark_ok(z, order, mark, ac.highest_zoneidx, alloc_flags, max(z.free_pages, 0)):
        return name, "none"
    # the same pages asked for one by one: is it their number or their arrangement?
    if allocator.watermark_ok(z, 0, mark, ac.highest_zoneidx, alloc_flags, max(z.free_pages, 0) - (1 << order) + 1):
        return name, "no-block-of-order"
    return name, "below-watermark"


def zone_verdict(allocator: PageAllocator, zone, gfp, order, node=-1):
    """How one zone compares with a request on its last attempt before reclaim, in the state of now.

    Returns
    -------
    dict
        ``verdict``: ``ok``, ``below-watermark``, ``no-block-of-order`` or
        ``not-eligible``; and in pages: ``free``, ``unusable`` (free, but not
        for this request), ``mark`` (the watermark that it has to respect)
        and ``reserve`` (``lowmem_reserve``). The zone is refused for its
        number of pages if ``free - unusable <= mark + reserve``.
    """
    ac: AllocContext
    z: cython.pointer(Zone) = cython.address(allocator.zones[zone])
    alloc_flags: cython.uint
    mark: cython.long
    allocator.prepare(cython.address(ac), node, gfp)
    free: cython.long = max(z.free_pages, 0)
    alloc_flags = allocator.gfp_to_alloc_flags(gfp, order, ac.migratetype)
    mark = z.watermark[WMARK_MIN] + z.watermark_boost
    if allocator.pfmemalloc_flags(gfp):
        mark = 0
    elif not order and gfp & GFP_ATOMIC_BIT:
        mark = z.watermark[WMARK_MIN]
    answer = {
        "free": free,
        "unusable": allocator.unusable_free(z, order, alloc_flags),
        "mark": allocator.reduced_mark(mark, alloc_flags),
        "reserve": z.lowmem_reserve[ac.highest_zoneidx],
    }
    row = [int(entry) for entry in allocator.zonelists_array[ac.row]]
    if zone not in row or z.index > ac.highest_zoneidx:
        verdict = "not-eligible"
    elif free - answer["unusable"] <= answer["mark"] + answer["reserve"]:
        verdict = "below-watermark"
    elif allocator.watermark_ok(z, order, mark, ac.highest_zoneidx, alloc_flags, free):
        verdict = "ok"
    else:
        verdict = "no-block-of-order"
    return {"verdict": verdict, **answer}
