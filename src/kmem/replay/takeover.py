# SPDX-License-Identifier: GPL-2.0-only
"""Taking a recorded answer over: the model's state is made what it must have been.

Used by :mod:`kmem.replay.fidelity` after the model has given another answer
than the recorded kernel; each use is counted there.  Nothing else may call it.
"""

import cython
from cython.cimports.kmem.mm.mmzone import PerCpuPages
from cython.cimports.kmem.mm.page import (
    MAX_ORDER,
    NO_OBJECT,
    NR_PCP_LISTS,
    PG_ALLOCATED,
    PG_BUDDY,
    PG_FREE,
    PG_PCP,
    PG_RESERVED,
    PG_SLAB,
    PG_TAIL,
    Page,
    list_add,
    list_del,
)
from cython.cimports.kmem.mm.page_alloc import PageAllocator
from cython.cimports.kmem.mm.slab import NO_SLAB, NULL_OBJECT, CacheCpu
from cython.cimports.kmem.mm.slub import Slub

from kmem.mm.slub_state import waits


def own_block(allocator: PageAllocator, pfn: cython.uint, order: cython.uint) -> bool:
    """Make frames in use by somebody unknown an allocated block; False if they are not that."""
    frame: cython.uint
    if order >= MAX_ORDER or pfn + (cython.cast(cython.uint, 1) << order) > allocator.memmap.nr_frames:
        return False
    for frame in range(pfn, pfn + (cython.cast(cython.uint, 1) << order)):
        if allocator.pages[frame].kind != PG_RESERVED:
            return False
    allocator.pages[pfn].kind = PG_ALLOCATED
    allocator.pages[pfn].order = order
    allocator.pages[pfn].flags = 0
    allocator.zones[allocator.pages[pfn].zone].foreign -= cython.cast(cython.uint, 1) << order
    return True


def take_page(allocator: PageAllocator, pfn: cython.uint, order: cython.uint) -> bool:
    """Take one certain free block off whatever list it is on; False if it is not free."""
    page: cython.pointer(Page)
    head: cython.uint
    o: cython.uint
    half: cython.uint
    zone: cython.uint
    if order >= MAX_ORDER or pfn >= allocator.memmap.nr_frames:
        return False
    page = cython.address(allocator.pages[pfn])
    zone = page.zone
    if page.kind == PG_PCP and page.order == order:
        return _take_from_pcp(allocator, pfn, order)
    for o in range(order, MAX_ORDER):
        head = pfn & ~((cython.cast(cython.uint, 1) << o) - 1)
        if allocator.pages[head].kind == PG_BUDDY and allocator.pages[head].order == o:
            break
    else:
        return False
    allocator.del_page_from_free_list(head, zone, o)
    allocator.mod_free_pages(zone, -(cython.cast(cython.long, 1) << o))
    while o > order:
        o -= 1
        half = cython.cast(cython.uint, 1) << o
        if pfn & half:
            _give_half(allocator, head, zone, o)
            head += half
        else:
            _give_half(allocator, head + half, zone, o)
    page.kind = PG_ALLOCATED
    page.order = order
    page.flags = 0
    return True


@cython.cfunc
@cython.exceptval(-1)
def _give_half(allocator: PageAllocator, pfn: cython.uint, zone: cython.uint, order: cython.uint) -> cython.int:
    block: cython.uint = (pfn >> allocator.pageblock_order) + allocator.zones[zone].block_offset
    return allocator.free_one_page(pfn, zone, order, allocator.pageblocks[block], 0)


@cython.cfunc
@cython.exceptval(-1, check=True)
def _take_from_pcp(allocator: PageAllocator, pfn: cython.uint, order: cython.uint) -> cython.bint:
    cpu: cython.int
    pcp: cython.pointer(PerCpuPages)
    entry: cython.uint = allocator.pages[pfn].next
    while entry < allocator.memmap.nr_frames:
        entry = allocator.pages[entry].next
    for cpu in range(allocator.nr_cpus):
        pcp = cython.address(allocator.pagesets[allocator.zones[allocator.pages[pfn].zone].pageset + cpu])
        if pcp.lists <= entry < pcp.lists + NR_PCP_LISTS:
            list_del(allocator.pages, pfn)
            pcp.count -= 1 << order
            allocator.pages[pfn].kind = PG_ALLOCATED
            allocator.pages[pfn].flags = 0
            return True
    return False


def give_page_back(allocator: PageAllocator, pfn: cython.uint, order: cython.uint) -> None:
    """Put a block that was just taken back to where it came from: the head of its per-CPU list, or the zone."""
    pcp: cython.pointer(PerCpuPages)
    page: cython.pointer(Page) = cython.address(allocator.pages[pfn])
    if order > 3 or page.migratetype > 2:
        allocator.free_pages_order(pfn, order)
        return
    pcp = cython.address(allocator.pagesets[allocator.zones[page.zone].pageset + allocator.cpu])
    allocator.free_pages_prepare(pfn, order)
    page.kind = PG_PCP
    page.order = order
    list_add(allocator.pages, pcp.lists + order * 3 + page.migratetype, pfn)
    pcp.count += 1 << order


def exchange(allocator: PageAllocator, old: cython.uint, new: cython.uint) -> bool:
    """Put `new`, just taken, in the place of `old` on a per-CPU list; `old` is the allocated one then."""
    page: cython.pointer(Page) = cython.address(allocator.pages[old])
    other: cython.pointer(Page) = cython.address(allocator.pages[new])
    if page.kind != PG_PCP or other.kind != PG_ALLOCATED or page.order != other.order or page.zone != other.zone:
        return False
    allocator.free_pages_prepare(new, other.order)
    other.next = page.next
    other.prev = page.prev
    allocator.pages[other.next].prev = new
    allocator.pages[other.prev].next = new
    other.kind = PG_PCP
    page.kind = PG_ALLOCATED
    page.flags = 0
    return True


def move_slab(slub: Slub, old: cython.uint, new: cython.uint) -> bool:
    """Move a slab with all it is to another allocated block; the old one becomes an allocated block."""
    page: cython.pointer(Page)
    other: cython.pointer(Page)
    c: cython.pointer(CacheCpu)
    cpu: cython.int
    entry: cython.uint
    tail: cython.uint
    listed: cython.bint = False
    page = cython.address(slub.pages[old])
    other = cython.address(slub.pages[new])
    if page.kind != PG_SLAB or other.kind != PG_ALLOCATED or other.order != page.order or waits(slub, old):
        return False
    for cpu in range(slub.nr_cpus):
        c = cython.address(slub.cpus[page.cache * slub.nr_cpus + cpu])
        if c.slab == old:
            c.slab = new
            listed = True
        if c.partial == old:
            c.partial = new
            listed = True
        entry = c.partial
        while entry != NO_SLAB and entry != new:
            if slub.pages[entry].next == old:
                slub.pages[entry].next = new
                listed = True
            entry = slub.pages[entry].next
    if not listed and page.freelist != NO_OBJECT:
        slub.pages[page.next].prev = new
        slub.pages[page.prev].next = new
    other.next = page.next
    other.prev = page.prev
    other.kind = PG_SLAB
    other.flags = page.flags
    other.frozen = page.frozen
    other.cache = page.cache
    other.inuse = page.inuse
    other.objects = page.objects
    other.freelist = page.freelist
    other.slabs = page.slabs
    other.slots = page.slots
    for tail in range(1, cython.cast(cython.uint, 1) << page.order):
        slub.pages[new + tail].kind = PG_TAIL
        slub.pages[new + tail].head = new
        slub.pages[old + tail].kind = PG_FREE  # an allocated block that is not compound
    page.kind = PG_ALLOCATED
    page.flags = 0
    return True


def swap_slab(slub: Slub, slab: cython.uint, pfn: cython.uint) -> bool:
    """Move a slab to a block on a per-CPU list, and its own block to the place of that; False if it is on none."""
    page: cython.pointer(Page) = cython.address(slub.pages[pfn])
    other: cython.pointer(Page) = cython.address(slub.pages[slab])
    after: cython.uint = page.next
    before: cython.uint = page.prev
    if page.kind != PG_PCP or page.order != other.order or page.zone != other.zone or waits(slub, slab):
        return False
    page.kind = PG_ALLOCATED
    move_slab(slub, slab, pfn)
    other.kind = PG_PCP
    other.migratetype = page.migratetype
    other.next = after
    other.prev = before
    slub.pages[after].prev = slab
    slub.pages[before].next = slab
    return True


def alloc_from_new_slab(slub: Slub, cache: cython.uint, gfp: cython.uint) -> int:
    """An object of a slab made for it, although there are free ones in others; 0 if there is no memory.

    What is left of the CPU's slab goes to its partial list: an object had been freed there, and put
    it on that list, after the kernel had looked.
    """
    c: cython.pointer(CacheCpu) = cython.address(slub.cpus[cache * slub.nr_cpus + slub.allocator.cpu])
    partial: cython.uint
    address: cython.ulonglong
    first: cython.int = cache * slub.nr_nodes
    nodes = slub.nodes_array[first : first + slub.nr_nodes]
    if c.slab != NO_SLAB and c.freelist != NO_OBJECT and slub.pages[c.slab].freelist == NO_OBJECT:
        _put_on_partial_list(slub, cache, c)
    partial = c.partial
    c.partial = NO_SLAB
    hidden = nodes["nr_partial"].copy()
    nodes["nr_partial"] = 0
    address = slub.slab_alloc(cache, gfp, -1)
    nodes["nr_partial"] += hidden
    c = cython.address(slub.cpus[cache * slub.nr_cpus + slub.allocator.cpu])
    c.partial = partial
    return 0 if address == NULL_OBJECT else address


@cython.cfunc
@cython.exceptval(-1, check=True)
def _put_on_partial_list(slub: Slub, cache: cython.uint, c: cython.pointer(CacheCpu)) -> cython.int:
    """Make the CPU's slab the first of its partial list, with what is on the CPU's freelist."""
    page: cython.pointer(Page) = cython.address(slub.pages[c.slab])
    slab: cython.uint = c.slab
    index: cython.ushort = c.freelist
    page.freelist = index
    while index != NO_OBJECT:
        page.inuse -= 1
        index = slub.links[page.slots + index]
    c.slab = NO_SLAB
    c.freelist = NO_OBJECT
    return slub.put_cpu_partial(cache, slab, 0)


def exchange_cpu_slab(slub: Slub, cache: cython.uint, slab: cython.uint) -> bool:
    """Make a partial slab the CPU's current one, and that the one in its place; False if it is on no list."""
    c: cython.pointer(CacheCpu) = cython.address(slub.cpus[cache * slub.nr_cpus + slub.allocator.cpu])
    page: cython.pointer(Page) = cython.address(slub.pages[slab])
    old: cython.uint = c.slab
    other: cython.pointer(Page)
    index: cython.ushort = c.freelist
    entry: cython.uint = c.partial
    before: cython.uint = NO_SLAB
    if page.kind != PG_SLAB or page.cache != cache or page.freelist == NO_OBJECT or waits(slub, slab):
        return False
    if old == NO_SLAB or index == NO_OBJECT or slub.pages[old].freelist != NO_OBJECT or slab == old:
        return False
    other = cython.address(slub.pages[old])
    if page.frozen:
        while entry != NO_SLAB and entry != slab:
            before = entry
            entry = slub.pages[entry].next
        if entry == NO_SLAB:
            return False
        other.slabs = page.slabs
        if before == NO_SLAB:
            c.partial = old
        else:
            slub.pages[before].next = old
    else:
        slub.pages[page.prev].next = old
        slub.pages[page.next].prev = old
        other.prev = page.prev
        other.frozen = 0
    other.next = page.next
    other.freelist = index
    while index != NO_OBJECT:
        other.inuse -= 1
        index = slub.links[other.slots + index]
    c.slab = slab
    c.slots = page.slots
    c.freelist = page.freelist
    page.freelist = NO_OBJECT
    page.inuse = page.objects
    page.frozen = 1
    return True


def end_grace_period(slub: Slub, pfn: cython.uint) -> bool:
    """Give back the pages of one slab that waits for a grace period; False if it does not wait."""
    slab: cython.uint = slub.rcu_first
    before: cython.uint = NO_SLAB
    while slab != NO_SLAB and slab != pfn:
        before = slab
        slab = slub.pages[slab].next
    if slab == NO_SLAB:
        return False
    if before == NO_SLAB:
        slub.rcu_first = slub.pages[slab].next
    else:
        slub.pages[before].next = slub.pages[slab].next
    if slub.rcu_last == slab:
        slub.rcu_last = before
    slub.rcu_pending -= 1
    slub.free_slab_pages(slab)
    return True
