# SPDX-License-Identifier: GPL-2.0-only
"""A machine's address space at the end of boot: its layout, and the kernel's page tables.

The linear map covers what the firmware calls memory, in large pages where the
kernel uses them: the first 4 MiB of i386 and the ragged ends of ranges are in
pages of 4 KiB, all else in pages of 4 or 2 MiB.  Frames for the tables lie
behind the kernel image, where the kernel keeps its first ones, and in it, so
that the allocator's state does not change.

How good it is: on the recorded machines the sum of ``DirectMap4k`` and
``DirectMap2M`` (``4M``) in ``/proc/meminfo`` is exact; some 2 MiB pages more
are split there by the time that the kernel has protected its text and loaded
modules.

Source: arch/x86/mm/init.c:init_mem_mapping, split_mem_range @6.1.192
Differs: no pages of 1 GiB, as on the recorded processor; tables are made lowest address first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kmem.machine.boot import KERNEL_IMAGES, BootedMemory
from kmem.mm.layout import LAST_PKMAP, KernelSection, Layout
from kmem.mm.memblock import PAGE_SHIFT, PAGE_SIZE
from kmem.mm.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX,
    PageTable,
)
from kmem.mm.ram import Ram
from kmem.mm.x86 import I386Layout

if TYPE_CHECKING:
    from kmem.mm.page_alloc import PageAllocator

__all__ = ["KERNEL_SECTIONS", "make_init_mm", "make_layout"]

_ISA_END: Final = 0x100000

#: The image as it stays mapped at the end of boot on x86-64, of Debian's 6.1.0-56-amd64.
KERNEL_SECTIONS: Final = (
    KernelSection("text", 0x1000000, 0x1E02000, writable=False, executable=True),
    KernelSection("rodata", 0x2000000, 0x28EB000, writable=False, executable=False),
    KernelSection("data", 0x2A00000, 0x2C49000, writable=True, executable=False),
    KernelSection("data and bss", 0x2F0B000, 0x4000000, writable=True, executable=False),
    KernelSection("brk", 0x41FD000, 0x4400000, writable=True, executable=False),
)


def make_layout(booted: BootedMemory) -> Layout:
    """Return the layout of a booted machine's addresses."""
    system = booted.system
    zones = [zone for zone in system.zones if zone.present]
    max_pfn = max(zone.end_pfn for zone in zones)
    if system.arch.highmem is None:
        return Layout.x86_64(max_pfn)
    low = max(zone.end_pfn for zone in zones if not system.is_highmem(zone))
    return Layout.i386(low, max_pfn, I386Layout.of(booted.description.options))


def make_init_mm(booted: BootedMemory, layout: Layout, ram: Ram, page_alloc: PageAllocator) -> PageTable:
    """Return the kernel's page tables: linear map, kernel image, and empty tables for kmap and fixed mappings.

    Notes
    -----
    Complexity: O(large pages), some 10 ms for 64 GiB.

    Source: arch/x86/mm/init_32.c:paging_init, arch/x86/mm/init_64.c:mem_init @6.1.192
    """
    init_mm = PageTable.boot(ram, layout, _table_frames(booted), page_alloc)
    limit = layout.max_low_pfn << PAGE_SHIFT
    _map_linear(init_mm, booted, 0, min(_ISA_END, limit))
    for piece in booted.memblock.pfn_ranges():
        start, end = max(piece.start << PAGE_SHIFT, _ISA_END), min(piece.end << PAGE_SHIFT, limit)
        if start < end:
            _map_linear(init_mm, booted, start, end)
    if layout.arch == "x86_64":
        for section in KERNEL_SECTIONS:
            rights = {(True, False): PAGE_KERNEL, (False, False): PAGE_KERNEL_RO, (False, True): PAGE_KERNEL_ROX}
            prot = rights[section.writable, section.executable]
            init_mm.map_range(layout.kernel_map + section.start, section.start, section.end - section.start, prot)
        _preallocate_vmalloc(init_mm)
    else:
        assert layout.pkmap_base is not None
        for start, end in (
            (layout.pkmap_base, layout.pkmap_base + LAST_PKMAP * PAGE_SIZE),
            (layout.fixaddr_start, layout.fixaddr_top),
        ):
            span = 1 << layout.levels[0].shift
            for addr in range(start & -span, end, span):
                init_mm.pte_alloc(addr)
    init_mm.boot_done()
    init_mm.managed_ranges = [(piece.start, piece.end) for piece in booted.memblock.free_ranges()]
    return init_mm


def _map_linear(init_mm: PageTable, booted: BootedMemory, start: int, end: int) -> None:
    """Map one range of memory at its fixed offset.

    Source: arch/x86/mm/init.c:split_mem_range @6.1.192
    """
    layout = init_mm.layout
    span = 1 << layout.levels[-2].shift
    for piece, large in _split(booted, layout, start, end, span):
        prot = PAGE_KERNEL if layout.arch == "x86_64" else PAGE_KERNEL_EXEC
        init_mm.map_range(layout.page_offset + piece.start, piece.start, len(piece), prot, large=large)


def _split(booted: BootedMemory, layout: Layout, start: int, end: int, span: int) -> Iterator[tuple[range, bool]]:
    """Yield the pieces of a range: its ragged ends in small pages, unless memory goes on around them."""
    i386 = layout.arch == "i386"
    first = min(span if i386 and start == 0 else -(-start // span) * span, end)
    last = max(end // span * span, first)
    for piece in (range(start, first), range(last, end)):
        if not piece:
            continue
        low, high = piece.start // span * span, -(-piece.stop // span) * span
        beyond = i386 and high >> PAGE_SHIFT > layout.max_low_pfn
        if not beyond and _is_memory(booted, low, high):
            yield range(low, high), True
        else:
            yield piece, False
    if first < last:
        yield range(first, last), True


def _is_memory(booted: BootedMemory, start: int, end: int) -> bool:
    """Whether a range lies inside one piece of memory.

    Source: mm/memblock.c:memblock_is_region_memory @6.1.192
    """
    return any(
        piece.start << PAGE_SHIFT <= start and end <= piece.end << PAGE_SHIFT for piece in booted.memblock.pfn_ranges()
    )


def _preallocate_vmalloc(init_mm: PageTable) -> None:
    """Make the tables below the top one for all of the vmalloc area, so that no process ever lacks one.

    Source: arch/x86/mm/init_64.c:preallocate_vmalloc_pages @6.1.192
    """
    layout = init_mm.layout
    for addr in range(layout.vmalloc_start, layout.vmalloc_end, 1 << layout.levels[0].shift):
        init_mm.table_alloc(addr, 1)


def _table_frames(booted: BootedMemory) -> Iterator[int]:
    """Yield frames that stay reserved: the top table's in the image, those behind the image, and then more of it.

    Source: arch/x86/mm/init.c:early_alloc_pgt_buf @6.1.192
    Differs: when those behind the image are used up the kernel takes free memory, which is left alone here.
    """
    image = KERNEL_IMAGES[booted.system.arch.arch]
    first, end = image.start >> PAGE_SHIFT, image.end >> PAGE_SHIFT
    reserved = [(piece.start >> PAGE_SHIFT, piece.end >> PAGE_SHIFT) for piece in booted.memblock.reserved]

    def usable(pfns: range) -> Iterator[int]:
        return (pfn for pfn in pfns if any(start <= pfn < stop for start, stop in reserved))

    inside = usable(range(end - 1, first, -1))
    yield next(inside)
    # The first page behind the image holds other small things.
    yield from usable(range(end + 1, end + image.misc_low_pages))
    yield from inside
