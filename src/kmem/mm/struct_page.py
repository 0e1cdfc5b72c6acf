# SPDX-License-Identifier: GPL-2.0-only
"""``struct page`` as callers hold it, and the ways between pages, frames and addresses.

A :class:`Page` is what the kernel's ``struct page *`` is to a driver: the
answer of ``alloc_pages()``, and the argument of ``__free_pages()``.  Its value
as a number is the frame's, but it is true even for frame 0, which is a frame
like any other.

All functions act on the current kernel, never sleep and may be called in any
context.

Source: include/linux/mm.h, include/asm-generic/memory_model.h,
arch/x86/include/asm/page.h @6.1.192
"""

from __future__ import annotations

from kmem.errors import UsageError
from kmem.mm.kernel import current_kernel

__all__ = [
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "Page",
    "page_address",
    "page_to_pfn",
    "page_to_phys",
    "page_to_virt",
    "pfn_to_page",
    "phys_to_page",
    "phys_to_virt",
    "virt_addr_valid",
    "virt_to_page",
    "virt_to_phys",
]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


class Page(int):
    """A page frame: as a number its pfn, and always true.

    Source: include/linux/mm_types.h:struct page @6.1.192
    """

    __slots__ = ()

    @property
    def pfn(self) -> int:
        """Page frame number."""
        return int(self)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Page({int(self):#x})"


def page_to_pfn(page: Page | int) -> int:
    """Return the number of a page's frame.

    Never sleeps; any context.

    Source: include/asm-generic/memory_model.h:page_to_pfn @6.1.192
    """
    return int(page)


def pfn_to_page(pfn: int) -> Page:
    """Return the page of a frame.

    Raises
    ------
    UsageError
        If the machine has no such frame.

    Notes
    -----
    Never sleeps; any context.

    Source: include/asm-generic/memory_model.h:pfn_to_page @6.1.192
    """
    if not 0 <= pfn < current_kernel().page_alloc.memmap.nr_frames:
        raise UsageError(f"no page frame {pfn:#x}")
    return Page(pfn)


def page_address(page: Page | int) -> int | None:
    """Return the kernel address of a page; None for a page of high memory that is not mapped by ``kmap()``.

    Never sleeps; any context.

    Source: mm/highmem.c:page_address, include/linux/mm.h:lowmem_page_address @6.1.192
    """
    kernel = current_kernel()
    if page < kernel.max_low_pfn:
        return kernel.page_offset + (int(page) << PAGE_SHIFT)
    return kernel.page_address_map.get(int(page))


def page_to_virt(page: Page | int) -> int:
    """Return the address of a page of low memory.

    Raises
    ------
    UsageError
        If it is a page of high memory.

    Source: include/linux/mm.h:page_to_virt @6.1.192
    """
    return current_kernel().phys_to_virt(int(page) << PAGE_SHIFT)


def page_to_phys(page: Page | int) -> int:
    """Return the physical address of a page.

    Source: arch/x86/include/asm/io.h:page_to_phys @6.1.192
    """
    return int(page) << PAGE_SHIFT


def phys_to_page(phys: int) -> Page:
    """Return the page that a physical address lies in.

    Source: arch/x86/include/asm/page.h @6.1.192
    """
    return pfn_to_page(phys >> PAGE_SHIFT)


def virt_to_page(addr: int) -> Page:
    """Return the page behind an address of the linear map.

    Raises
    ------
    UsageError
        For any other address; those of ``vmalloc()`` want ``vmalloc_to_page()``.

    Notes
    -----
    Never sleeps; any context.

    Source: arch/x86/include/asm/page.h:virt_to_page @6.1.192
    """
    return Page(current_kernel().virt_to_phys(addr) >> PAGE_SHIFT)


def phys_to_virt(phys: int) -> int:
    """Return the kernel address of a physical address in low memory.

    Source: arch/x86/include/asm/io.h:phys_to_virt @6.1.192
    """
    return current_kernel().phys_to_virt(phys)


def virt_to_phys(addr: int) -> int:
    """Return the physical address behind an address of the linear map.

    Source: arch/x86/include/asm/io.h:virt_to_phys @6.1.192
    """
    return current_kernel().virt_to_phys(addr)


def virt_addr_valid(addr: int) -> bool:
    """Whether an address lies in the linear map.

    Source: arch/x86/mm/physaddr.c:__virt_addr_valid @6.1.192
    """
    return current_kernel().virt_addr_valid(addr)
