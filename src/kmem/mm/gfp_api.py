# SPDX-License-Identifier: GPL-2.0-only
"""``alloc_pages()``, ``__get_free_pages()`` and their kin, as kernel code calls them.

The functions have the kernel's names, arguments and answers, and act on the
current kernel.  Those whose names speak of pages answer and take a
:class:`~kmem.mm.struct_page.Page`, the others a kernel address; both answer
None where the kernel answers NULL or 0.

Source: include/linux/gfp.h, mm/page_alloc.c @6.1.192
Differs: freeing what is not allocated is refused, where the kernel would lose count of the page's users.
"""

import operator

import cython
from cython.cimports.kmem.mm.page import MAX_ORDER, PG_SLAB

from kmem.errors import UsageError
from kmem.mm import slab_misuse
from kmem.mm.struct_page import Page, page_address

_PAGE_SIZE = 4096
_GFP_DMA = cython.declare(cython.uint, 0x1)
_GFP_HIGHMEM = cython.declare(cython.uint, 0x2)
_GFP_ZERO = cython.declare(cython.uint, 0x100)
_GFP_COMP = cython.declare(cython.uint, 0x40000)
_GFP_MOVABLE_MASK = cython.declare(cython.uint, 0x18)
# Combinations of the zone bits that name two zones, one bit each. Source: include/linux/gfp.h:GFP_ZONE_BAD
_GFP_ZONE_BAD = cython.declare(cython.uint, 0b1110_1000_1110_1000)


# ---------------------------------------------------------------------- what the calls share


def as_order(value):
    """Convert an order."""
    return bad_number(value, "order", 0x7FFFFFFF)


def alloc_block(kernel, gfp, order, node, tell=True):
    """Take a block of pages, with all that belongs to a request of the caller's.

    Source: mm/page_alloc.c:__alloc_pages, prepare_alloc_pages @6.1.192
    """
    pfn: cython.uint
    aids: cython.int = 0
    if order >= MAX_ORDER:
        if kernel.watch & WATCH_CLOSED:
            kernel.watched(0)
        slab_misuse.order_too_large(kernel, gfp)
        return NO_FRAME_U32
    if (_GFP_ZONE_BAD >> (gfp & 15)) & 1:
        raise UsageError(f"gfp {gfp:#x} names two zones", remedy="give one of __GFP_DMA, __GFP_DMA32, __GFP_HIGHMEM")
    if gfp & _GFP_MOVABLE_MASK == _GFP_MOVABLE_MASK:
        raise UsageError(f"gfp {gfp:#x}: __GFP_MOVABLE and __GFP_RECLAIMABLE contradict each other")
    if kernel.watch:
        aids = kernel.watched(gfp)
    pfn = kernel.page_alloc.alloc_pages_node(node, gfp, cython.cast(cython.uint, order))
    if aids and tell and pfn != NO_FRAME_U32:
        kernel.tell_page_alloc(pfn, order, gfp)
    return pfn


def free_block(kernel, pfn, order, function):
    """Give a block of pages back."""
    if kernel.watch & WATCH_CLOSED:
        kernel.watched(0)
    if pfn >= kernel.page_alloc.memmap.nr_frames:
        raise UsageError(
            f"{function}: no page frame {pfn:#x}", remedy="free_pages() takes addresses, __free_pages() pages"
        )
    if kernel.page_alloc.pages[pfn].kind == PG_SLAB:
        raise UsageError(f"{function}: frame {pfn:#x} belongs to a slab", remedy="free its objects with kfree()")
    if order >= MAX_ORDER:
        raise UsageError(f"{function}: no block of order {order} at frame {pfn:#x}", remedy="the largest order is 10")
    try:
        kernel.page_alloc.free_pages_order(cython.cast(cython.uint, pfn), cython.cast(cython.uint, order))
    except ValueError as error:
        raise UsageError(f"{function}: {error}") from None
    if kernel.watch & WATCH_AIDS:
        kernel.tell_page_free(pfn, order)
    return 0


# ---------------------------------------------------------------------- pages


def alloc_pages(gfp, order):
    """Allocate 2**`order` physically contiguous pages.

    Parameters
    ----------
    gfp : int
        GFP mask: which memory, and what may be done to get it.
    order : int
        0 to 10; larger ones fail, with a warning in the log.

    Returns
    -------
    Page or None
        The first page; None if the request failed.

    Notes
    -----
    Aligned to their size. May sleep if `gfp` has __GFP_DIRECT_RECLAIM. Pages
    of high memory have no address until they are mapped.

    Source: mm/mempolicy.c:alloc_pages, mm/page_alloc.c:__alloc_pages @6.1.192
    """
    pfn: cython.uint = alloc_block(running(), as_gfp(gfp), as_order(order), -1)
    return None if pfn == NO_FRAME_U32 else Page(pfn)


def alloc_page(gfp):
    """Allocate one page. Otherwise as :func:`alloc_pages`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages; no address if high.

    Source: include/linux/gfp.h:alloc_page @6.1.192
    """
    return alloc_pages(gfp, 0)


def alloc_pages_node(nid, gfp_mask, order):
    """Allocate pages, of node `nid` if there are some; NUMA_NO_NODE is no wish. Otherwise as :func:`alloc_pages`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages; no address if high.

    Source: include/linux/gfp.h:alloc_pages_node @6.1.192
    """
    kernel: Kernel = running()
    pfn: cython.uint = alloc_block(kernel, as_gfp(gfp_mask), as_order(order), slab_misuse.node_number(kernel, nid))
    return None if pfn == NO_FRAME_U32 else Page(pfn)


def __free_pages(page, order):
    """Give back what :func:`alloc_pages` gave, with the same order. Any context but hard interrupts and NMI.

    Raises
    ------
    UsageError
        If no block of this order is allocated there.

    Source: mm/page_alloc.c:__free_pages @6.1.192
    """
    free_block(
        running(), as_addr(page if page.__class__ is int else operator.index(page)), as_order(order), "__free_pages"
    )


def __free_page(page):
    """Give one page back. Otherwise as :func:`__free_pages`.

    Never sleeps; any context but NMIs.

    Source: include/linux/gfp.h:__free_page @6.1.192
    """
    __free_pages(page, 0)


def split_page(page, order):
    """Make a block 2**`order` single pages, each to be freed alone. It must not be compound.

    Never sleeps; any context.

    Source: mm/page_alloc.c:split_page @6.1.192
    """
    kernel: Kernel = running()
    pfn = as_addr(operator.index(page))
    if pfn >= kernel.page_alloc.memmap.nr_frames:
        raise UsageError(f"split_page: no page frame {pfn:#x}")
    try:
        kernel.page_alloc.split_page(pfn, as_order(order))
    except ValueError as error:
        raise UsageError(f"split_page: {error}") from None


# ---------------------------------------------------------------------- addresses


def __get_free_pages(gfp_mask, order):
    """Allocate 2**`order` contiguous pages of low memory: their address, None if the request failed.

    Otherwise as :func:`alloc_pages`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages, with an address.

    Source: mm/page_alloc.c:__get_free_pages @6.1.192
    """
    kernel: Kernel = running()
    gfp: cython.uint = as_gfp(gfp_mask) & ~_GFP_HIGHMEM
    pfn: cython.uint = alloc_block(kernel, gfp, as_order(order), -1)
    if pfn == NO_FRAME_U32:
        return None
    if pfn < kernel.max_low_pfn:
        return kernel.page_offset + (cython.cast(cython.ulonglong, pfn) << 12)
    return page_address(Page(pfn))


def __get_free_page(gfp_mask):
    """Allocate one page of low memory: its address. Otherwise as :func:`__get_free_pages`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages, with an address.

    Source: include/linux/gfp.h:__get_free_page @6.1.192
    """
    return __get_free_pages(gfp_mask, 0)


def get_zeroed_page(gfp_mask):
    """Allocate one page of low memory that reads as zero: its address.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages, with an address.

    Source: mm/page_alloc.c:get_zeroed_page @6.1.192
    """
    return __get_free_pages(as_gfp(gfp_mask) | _GFP_ZERO, 0)


def __get_dma_pages(gfp_mask, order):
    """Allocate contiguous pages that old devices can address (the first 16 MiB): their address.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages, below 16 MiB.

    Source: include/linux/gfp.h:__get_dma_pages @6.1.192
    """
    return __get_free_pages(as_gfp(gfp_mask) | _GFP_DMA, order)


def free_pages(addr, order):
    """Give back what :func:`__get_free_pages` gave, with the same order. None and 0 are fine.

    Raises
    ------
    UsageError
        If no block of this order is allocated there.
    TypeError
        If it is given a page.

    Notes
    -----
    Never sleeps; any context but NMIs.

    Source: mm/page_alloc.c:free_pages @6.1.192
    """
    kernel: Kernel
    start: cython.ulonglong
    if isinstance(addr, Page):
        raise TypeError("free_pages() takes an address; give a page to __free_pages()")
    if addr is None or addr == 0:
        return
    kernel = running()
    start = as_addr(addr)
    if start < kernel.page_offset or start - kernel.page_offset >= kernel.lowmem_bytes:
        raise UsageError(f"free_pages({start:#x}): no address of the linear map", remedy="give pages to __free_pages()")
    free_block(kernel, (start - kernel.page_offset) >> 12, as_order(order), "free_pages")


def free_page(addr):
    """Give one page back by its address. Otherwise as :func:`free_pages`.

    Never sleeps; any context but NMIs.

    Source: include/linux/gfp.h:free_page @6.1.192
    """
    free_pages(addr, 0)


def alloc_pages_exact(size, gfp_mask):
    """Allocate `size` bytes of contiguous pages, without rounding up to a power of two: their address.

    Parameters
    ----------
    size : int
        Bytes, rounded up to whole pages. The rest of the block goes back at once.
    gfp_mask : int
        GFP mask without __GFP_COMP and __GFP_HIGHMEM.

    Notes
    -----
    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages.

    Source: mm/page_alloc.c:alloc_pages_exact @6.1.192
    """
    return _exact(running(), -1, size, gfp_mask, "mm/page_alloc.c:5930", "alloc_pages_exact")


def alloc_pages_exact_nid(nid, size, gfp_mask):
    """Allocate contiguous pages, of node `nid` if there are some. Otherwise as :func:`alloc_pages_exact`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous, whole pages.

    Source: mm/page_alloc.c:alloc_pages_exact_nid @6.1.192
    """
    kernel: Kernel = running()
    node = slab_misuse.node_number(kernel, nid)
    return _exact(kernel, node, size, gfp_mask, "mm/page_alloc.c:5955", "alloc_pages_exact_nid")


def _exact(kernel: Kernel, node, size, gfp_mask, place, function):
    """Allocate whole pages, and give the rest of their block back.

    Source: mm/page_alloc.c:make_alloc_exact @6.1.192
    """
    gfp: cython.uint = as_gfp(gfp_mask)
    pfn: cython.uint
    order = get_order(size)
    if gfp & (_GFP_COMP | _GFP_HIGHMEM):
        slab_misuse.warn_once(kernel, place, function)
        gfp &= ~(_GFP_COMP | _GFP_HIGHMEM)
    pfn = alloc_block(kernel, gfp, order, node, False)
    if pfn == NO_FRAME_U32:
        return None
    nr_pages = (operator.index(size) + _PAGE_SIZE - 1) // _PAGE_SIZE
    kernel.page_alloc.make_alloc_exact(pfn, order, nr_pages)
    if kernel.watch & WATCH_AIDS:
        for page in range(pfn, pfn + nr_pages):
            kernel.tell_page_alloc(page, 0, gfp)
    return kernel.page_offset + (cython.cast(cython.ulonglong, pfn) << 12)


def free_pages_exact(virt, size):
    """Give back what :func:`alloc_pages_exact` gave, page by page.

    Never sleeps; any context but NMIs.

    Source: mm/page_alloc.c:free_pages_exact @6.1.192
    """
    addr = as_addr(0 if virt is None else virt)
    for offset in range(0, as_size(size), _PAGE_SIZE):
        free_pages(addr + offset, 0)


# ---------------------------------------------------------------------- many pages


def alloc_pages_bulk_array(gfp, nr_pages, page_array):
    """Fill the empty entries among the first `nr_pages` of a list with pages.

    Parameters
    ----------
    gfp : int
        GFP mask.
    nr_pages : int
        How many entries.
    page_array : list
        Entries that are None are filled; it grows if it is shorter.

    Returns
    -------
    int
        Entries filled from the start on, those that were full before included. It may be less than `nr_pages`.

    Notes
    -----
    Single pages, not contiguous. At least one is tried by every means that
    `gfp` allows, the others only while there is plenty.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. Memory:
    single pages, anywhere.

    Source: mm/page_alloc.c:__alloc_pages_bulk @6.1.192
    """
    return _bulk_array(running(), -1, gfp, nr_pages, page_array)


def alloc_pages_bulk_array_node(gfp, nid, nr_pages, page_array):
    """Fill a list with pages, of node `nid` if there are some. Otherwise as :func:`alloc_pages_bulk_array`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. Memory:
    single pages, anywhere.

    Source: include/linux/gfp.h:alloc_pages_bulk_array_node @6.1.192
    """
    kernel: Kernel = running()
    return _bulk_array(kernel, slab_misuse.node_number(kernel, nid), gfp, nr_pages, page_array)


def alloc_pages_bulk_list(gfp, nr_pages, list):
    """Put up to `nr_pages` pages at the head of a list, and return how many.

    Otherwise as :func:`alloc_pages_bulk_array`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. Memory:
    single pages, anywhere.

    Source: include/linux/gfp.h:alloc_pages_bulk_list @6.1.192
    """
    if not hasattr(list, "insert"):
        raise TypeError(f"the list is {type(list).__name__}, not a list")
    frames = _bulk(running(), -1, as_gfp(gfp), bad_number(nr_pages, "nr_pages", 0x7FFFFFFF), 0)
    for pfn in frames:
        list.insert(0, Page(pfn))
    return len(frames)


def _bulk_array(kernel: Kernel, node, gfp, nr_pages, page_array):
    """Fill the empty entries of an array.

    Source: mm/page_alloc.c:__alloc_pages_bulk @6.1.192
    """
    wanted = bad_number(nr_pages, "nr_pages", 0x7FFFFFFF)
    if not hasattr(page_array, "extend"):
        raise TypeError(f"the page array is {type(page_array).__name__}, not a list")
    page_array.extend([None] * (wanted - len(page_array)))
    empty = [place for place in range(wanted) if page_array[place] is None]
    if not empty:
        return wanted
    frames = _bulk(kernel, node, as_gfp(gfp), wanted, wanted - len(empty))
    for place, pfn in zip(empty, frames, strict=False):
        page_array[place] = Page(pfn)
    left = empty[len(frames) :]
    return left[0] if left else wanted


def _bulk(kernel: Kernel, node, gfp, nr_pages, populated):
    """Take single pages."""
    aids: cython.int = kernel.watched(gfp) if kernel.watch else 0
    frames = kernel.page_alloc.alloc_pages_bulk(gfp, nr_pages, node, populated)
    if aids:
        for pfn in frames:
            kernel.tell_page_alloc(pfn, 0, gfp)
    return frames


# ---------------------------------------------------------------------- sizes and flags


def get_order(size):
    """Return the order of the smallest block that holds `size` bytes.

    For 0 it is that of the whole address space, as in the kernel.

    Never sleeps; any context.

    Source: include/asm-generic/getorder.h:get_order @6.1.192
    """
    number = int(as_size(size))
    if not number:
        return running().bits_per_long - 12
    return ((number - 1) >> 12).bit_length()


def gfpflags_allow_blocking(gfp_flags):
    """Whether a request with these flags may sleep.

    Source: include/linux/gfp.h:gfpflags_allow_blocking @6.1.192
    """
    return bool(as_gfp(gfp_flags) & 0x400)


def gfp_has_io_fs(gfp):
    """Whether reclaim for a request with these flags may start I/O and call file systems.

    Never sleeps; any context.

    Source: include/linux/gfp.h:gfp_has_io_fs @6.1.192
    """
    return as_gfp(gfp) & 0xC0 == 0xC0


def gfp_migratetype(gfp_flags):
    """Return the migrate type that flags ask for: 0 unmovable, 1 movable, 2 reclaimable.

    Never sleeps; any context.

    Source: include/linux/gfp.h:gfp_migratetype @6.1.192
    """
    return (as_gfp(gfp_flags) & 0x18) >> 3
