# SPDX-License-Identifier: GPL-2.0-only
"""Memory that is contiguous in addresses only: ``vmalloc``, ``vmap`` and their kin.

An allocation takes a range of addresses from the vmalloc area
(:class:`~kmem.mm.vmap.VmapSpace`), one page longer than asked so that running
over its end hits nothing, and then single page frames from the page allocator,
wherever there are some::

    addresses   | frame 7 | frame 3 | frame 90 | guard |
                ^ what vmalloc() returns

Areas are aligned to a page only.  An area of ``ioremap`` is aligned to its own
size, up to 512 KiB.  ``vmalloc_huge`` tries blocks of 2 MiB at addresses
aligned to 2 MiB, where the machine maps such, and falls back on single pages.

Given the kernel's page tables, areas are mapped there page by page, which takes frames for tables, and unmapped when
they are freed; tables stay.

Source: mm/vmalloc.c @6.1.192
Differs: the kernel's own bookkeeping (areas, arrays of page pointers of at most one page) takes no memory of the
modelled machine; a larger array of page pointers is an area itself, as in the kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kmem.errors import StateError
from kmem.mm import gfp as flag
from kmem.mm.gfp import GFP_DMA, GFP_DMA32, GFP_KERNEL
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.pgtable import _PAGE_NX, PAGE_KERNEL, PageTable
from kmem.mm.vmap import PAGE_SHIFT, PAGE_SIZE, VmapArea, VmapSpace

__all__ = [
    "VM_ALLOC",
    "VM_ALLOW_HUGE_VMAP",
    "VM_DMA_COHERENT",
    "VM_FLUSH_RESET_PERMS",
    "VM_IOREMAP",
    "VM_MAP",
    "VM_MAP_PUT_PAGES",
    "VM_NO_GUARD",
    "VM_USERMAP",
    "VmStruct",
    "Vmalloc",
]

# Uses of an area. Source: include/linux/vmalloc.h @6.1.192
VM_IOREMAP: Final = 0x1
VM_ALLOC: Final = 0x2
VM_MAP: Final = 0x4
VM_USERMAP: Final = 0x8
VM_DMA_COHERENT: Final = 0x10
VM_NO_GUARD: Final = 0x40
VM_FLUSH_RESET_PERMS: Final = 0x100
VM_MAP_PUT_PAGES: Final = 0x200
VM_ALLOW_HUGE_VMAP: Final = 0x400

#: Words that /proc/vmallocinfo has for the uses of an area, in its order.
_AREA_NAMES: Final = (
    (VM_IOREMAP, "ioremap"),
    (VM_ALLOC, "vmalloc"),
    (VM_MAP, "vmap"),
    (VM_USERMAP, "user"),
    (VM_DMA_COHERENT, "dma-coherent"),
)
_MAX_NR_ZONES: Final = 5
PMD_SHIFT: Final = 21
_IOREMAP_MAX_ORDER: Final = 7 + PAGE_SHIFT
_BULK_PAGES: Final = 100
# Inside a class a name with two leading underscores would be another name.
_GFP_HIGHMEM: Final = flag.__GFP_HIGHMEM
_GFP_NOFAIL: Final = flag.__GFP_NOFAIL
_GFP_NOWARN: Final = flag.__GFP_NOWARN
_GFP_ZERO: Final = flag.__GFP_ZERO
_GFP_RECLAIM_MASK: Final = (
    flag.__GFP_RECLAIM
    | flag.__GFP_HIGH
    | flag.__GFP_IO
    | flag.__GFP_FS
    | flag.__GFP_NOWARN
    | flag.__GFP_RETRY_MAYFAIL
    | flag.__GFP_NOFAIL
    | flag.__GFP_NORETRY
    | flag.__GFP_MEMALLOC
    | flag.__GFP_NOMEMALLOC
    | flag.__GFP_ATOMIC
)
_GFP_VMALLOC32: Final = GFP_DMA32 | GFP_KERNEL


@dataclass(slots=True)
class VmStruct:
    """What a busy area is used for.

    Attributes
    ----------
    addr, size : int
        Address and size in bytes, guard page included.
    flags : int
        ``VM_*``.
    nr_pages : int
        Frames that belong to the area.
    pages : list of int
        Their frame numbers in the order of addresses; empty in a space without a page allocator.
    page_order : int
        Order of the blocks that the frames were taken in.
    pages_array : int or None
        Address of the array of page pointers, if it is an area of its own.
    caller : str
        Who asked.
    phys_addr : int
        Physical address of the device memory that an ``ioremap`` area shows, 0 for others.
    host : object
        A view of all its frames in one piece, once somebody has asked for it.

    Source: include/linux/vmalloc.h:struct vm_struct @6.1.192
    """

    addr: int
    size: int
    flags: int
    nr_pages: int = 0
    pages: list[int] = field(default_factory=list)
    page_order: int = 0
    pages_array: int | None = None
    caller: str = ""
    phys_addr: int = 0
    host: Any = field(default=None, repr=False, compare=False)

    @property
    def mapped(self) -> bool:
        """Whether the area has frames of its own behind all of its pages."""
        return bool(self.pages) and len(self.pages) << PAGE_SHIFT == self.usable_size

    @property
    def usable_size(self) -> int:
        """Size in bytes without the guard page.

        Source: include/linux/vmalloc.h:get_vm_area_size @6.1.192
        """
        return self.size if self.flags & VM_NO_GUARD else self.size - PAGE_SIZE


class Vmalloc:
    """The vmalloc functions of one machine.

    Parameters
    ----------
    space : VmapSpace
        The address space.
    page_alloc : PageAllocator, optional
        Where frames come from; without one only addresses are handed out.
    totalram_pages : int
        Pages of the machine; a request for more is refused at once.
    warn : callable, optional
        Called with the text of the kernel's warning when a request fails and did not ask for silence.
    init_mm : PageTable, optional
        The kernel's page tables; without them nothing is mapped.
    warn_alloc : callable, optional
        Called with GFP flags and text where the kernel's warning shows the state of memory; ``warn`` by default.

    Notes
    -----
    All allocating methods return an address, or None where the kernel returns NULL.  They may sleep, so they are for
    process context only.
    """

    def __init__(
        self,
        space: VmapSpace,
        page_alloc: PageAllocator | None = None,
        *,
        totalram_pages: int,
        warn: Callable[[str], None] | None = None,
        init_mm: PageTable | None = None,
        warn_alloc: Callable[[int, str], None] | None = None,
    ) -> None:
        self.init_mm = init_mm
        self.warn_alloc = warn_alloc
        self.space = space
        self.page_alloc = page_alloc
        self.totalram_pages = totalram_pages
        self.warn = warn
        self.nr_vmalloc_pages = 0
        self._deferred: list[int] = []

    # ------------------------------------------------------------ areas

    def get_vm_area(
        self,
        size: int,
        flags: int,
        *,
        align: int = 1,
        shift: int = PAGE_SHIFT,
        start: int | None = None,
        end: int | None = None,
        gfp: int = GFP_KERNEL,
        caller: str = "",
    ) -> VmStruct | None:
        """Reserve addresses, without frames behind them.

        Parameters
        ----------
        size : int
            Bytes, rounded up to `shift`; a guard page is added unless `flags` have ``VM_NO_GUARD``.
        flags : int
            ``VM_*``; with ``VM_IOREMAP`` the area is aligned to its size.
        align : int
            Alignment in bytes, a power of two.
        shift : int
            Size of the pages to be mapped, as a power of two.
        start, end : int, optional
            Limits, by default those of the vmalloc area.
        gfp : int
            With ``__GFP_NOWARN`` nothing is said of a failure.

        Returns
        -------
        VmStruct or None
            None for no bytes, or if the address space is exhausted.

        Source: mm/vmalloc.c:__get_vm_area_node @6.1.192
        """
        size = _bytes(size + (1 << shift) - 1, self.space) & -(1 << shift)
        if not size:
            return None
        if flags & VM_IOREMAP:
            align = 1 << min(max((size - 1).bit_length(), PAGE_SHIFT), _IOREMAP_MAX_ORDER)
        if not flags & VM_NO_GUARD:
            size += PAGE_SIZE
        layout = self.space.layout
        va = self.space.alloc_vmap_area(
            size, align, layout.vmalloc_start if start is None else start, layout.vmalloc_end if end is None else end
        )
        if va is None:
            self._warn(gfp, f"vmap allocation for size {size} failed: use vmalloc=<size> to increase size")
            return None
        area = VmStruct(va.va_start, size, flags, caller=caller)
        va.vm = area
        return area

    def find_vm_area(self, addr: int) -> VmStruct | None:
        """Return the area that an address lies in, None if it lies in none.

        Source: mm/vmalloc.c:find_vm_area @6.1.192
        """
        va = self.space.busy.find(addr)
        return va.vm if va is not None and isinstance(va.vm, VmStruct) else None

    def remove_vm_area(self, addr: int) -> VmStruct | None:
        """Take an area out of use; its addresses are lazy from now on.

        Source: mm/vmalloc.c:remove_vm_area @6.1.192
        """
        va = self.space.busy.find(addr)
        if va is None or not isinstance(va.vm, VmStruct):
            return None
        area, va.vm = va.vm, None
        area.host = None
        self._unmap(va.va_start, va.va_end)
        self.space.free_vmap_area_noflush(va)
        return area

    def _map(self, addr: int, frames: Sequence[int], prot: int = PAGE_KERNEL, page_order: int = 0) -> bool:
        """Map frames from an address on, in blocks of an order; False if there was no memory for a table.

        Source: mm/vmalloc.c:vmap_pages_range @6.1.192
        """
        if self.init_mm is None:
            return True
        if not page_order:
            return self.init_mm.map_pages(addr, frames, prot)
        size = PAGE_SIZE << page_order
        blocks = range(0, len(frames), 1 << page_order)
        return all(
            self.init_mm.map_range(addr + (place << PAGE_SHIFT), frames[place] << PAGE_SHIFT, size, prot)
            for place in blocks
        )

    def _unmap(self, start: int, end: int) -> None:
        """Source: mm/vmalloc.c:vunmap_range_noflush @6.1.192."""
        if self.init_mm is not None:
            self.init_mm.unmap_range(start, end)

    def is_vmalloc_addr(self, addr: int) -> bool:
        """Whether an address lies in the vmalloc area.

        Source: include/linux/mm.h:is_vmalloc_addr @6.1.192
        """
        return self.space.layout.vmalloc_start <= addr < self.space.layout.vmalloc_end

    def vmalloc_to_pfn(self, addr: int) -> int | None:
        """Return the frame behind an address, None if there is none.

        Source: mm/vmalloc.c:vmalloc_to_pfn @6.1.192
        Differs: without page tables it is looked up in the area.
        """
        if self.init_mm is not None:
            return self.init_mm.walk(addr).pfn if self.is_vmalloc_addr(addr) else None
        area = self.find_vm_area(addr)
        index = 0 if area is None else (addr - area.addr) >> PAGE_SHIFT
        return area.pages[index] if area is not None and index < len(area.pages) else None

    # ------------------------------------------------------------ allocation

    def vmalloc(self, size: int) -> int | None:
        """Allocate `size` bytes from any frames, high memory first.

        Source: mm/vmalloc.c:vmalloc @6.1.192
        """
        return self.vmalloc_node_range(size, 1, GFP_KERNEL, caller="vmalloc")

    def vzalloc(self, size: int) -> int | None:
        """Allocate `size` zeroed bytes.

        Source: mm/vmalloc.c:vzalloc @6.1.192
        """
        return self.vmalloc_node_range(size, 1, GFP_KERNEL | _GFP_ZERO, caller="vzalloc")

    def vmalloc_gfp(self, size: int, gfp: int) -> int | None:
        """Allocate `size` bytes with GFP flags of the caller's: the kernel's ``__vmalloc``.

        Source: mm/vmalloc.c:__vmalloc @6.1.192
        """
        return self.vmalloc_node_range(size, 1, gfp, caller="__vmalloc")

    def vmalloc_32(self, size: int) -> int | None:
        """Allocate `size` bytes from frames that 32 bits can address.

        Source: mm/vmalloc.c:vmalloc_32 @6.1.192
        """
        return self.vmalloc_node_range(size, 1, _GFP_VMALLOC32, caller="vmalloc_32")

    def vmalloc_user(self, size: int) -> int | None:
        """Allocate `size` zeroed bytes that may be mapped into user space.

        Source: mm/vmalloc.c:vmalloc_user @6.1.192
        """
        gfp = GFP_KERNEL | _GFP_ZERO
        return self.vmalloc_node_range(size, PAGE_SIZE, gfp, VM_USERMAP, caller="vmalloc_user")

    def vmalloc_32_user(self, size: int) -> int | None:
        """Allocate `size` zeroed bytes that 32 bits can address and that may be mapped into user space.

        Source: mm/vmalloc.c:vmalloc_32_user @6.1.192
        """
        gfp = _GFP_VMALLOC32 | _GFP_ZERO
        return self.vmalloc_node_range(size, PAGE_SIZE, gfp, VM_USERMAP, caller="vmalloc_32_user")

    def vmalloc_huge(self, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """Allocate `size` bytes from blocks of 2 MiB if it is at least one and the machine maps such.

        Source: mm/vmalloc.c:vmalloc_huge @6.1.192
        """
        return self.vmalloc_node_range(size, 1, gfp, VM_ALLOW_HUGE_VMAP, caller="vmalloc_huge")

    def vmalloc_node_range(
        self,
        size: int,
        align: int,
        gfp: int,
        flags: int = 0,
        *,
        start: int | None = None,
        end: int | None = None,
        node: int = -1,
        caller: str = "",
    ) -> int | None:
        """Allocate addresses and the frames behind them.

        Parameters
        ----------
        size, align : int
            Bytes; `align` is a power of two.
        gfp : int
            Flags for the frames; high memory is allowed unless they name a DMA zone.
        flags : int
            ``VM_*`` beside ``VM_ALLOC``.
        start, end : int, optional
            Limits of the addresses, by default those of the vmalloc area.
        node : int
            Node of the frames, -1 for any.

        Raises
        ------
        ValueError
            A size that no word of the machine holds.
        StateError
            The request must not fail, but would have to wait.

        Source: mm/vmalloc.c:__vmalloc_node_range @6.1.192
        """
        size = _bytes(size, self.space)
        if not size:
            return None
        if size >> PAGE_SHIFT > self.totalram_pages:
            self._warn_alloc(gfp, f"vmalloc error: size {size}, exceeds total pages")
            return None
        shift = self._huge_shift(size, flags, node)
        while True:
            area = self.get_vm_area(
                size, VM_ALLOC | flags, align=max(align, 1 << shift) if shift > PAGE_SHIFT else align, shift=shift,
                start=start, end=end, gfp=gfp, caller=caller,
            )  # fmt: skip
            if area is None:
                nofail = bool(gfp & _GFP_NOFAIL)
                retrying = ". Retrying." if nofail else ""
                self._warn_alloc(gfp, f"vmalloc error: size {size}, vm_struct allocation failed{retrying}")
                if nofail:
                    raise StateError(f"no addresses for {size} bytes: a request that must not fail would wait here")
            elif self._populate(area, gfp, shift - PAGE_SHIFT, node):
                return area.addr
            if shift == PAGE_SHIFT:
                return None
            shift = PAGE_SHIFT

    def _huge_shift(self, size: int, flags: int, node: int) -> int:
        """Return the size of the pages to map, as a power of two."""
        if not (self.space.layout.huge and flags & VM_ALLOW_HUGE_VMAP):
            return PAGE_SHIFT
        nodes = self.page_alloc.nr_nodes if self.page_alloc is not None and node == -1 else 1
        return PMD_SHIFT if size // nodes >= 1 << PMD_SHIFT else PAGE_SHIFT

    def _populate(self, area: VmStruct, gfp: int, page_order: int, node: int) -> bool:
        """Put frames behind an area; on failure the area is freed.

        The kernel says nothing of these failures: it has put ``__GFP_NOWARN`` into the flags that it asks.

        Source: mm/vmalloc.c:__vmalloc_area_node @6.1.192
        """
        try:
            if self._fill(area, gfp, page_order, node):
                return True
        except BaseException:
            # A task that is killed while it waits for memory, or a wrong argument: nothing stays behind.
            self._give_up(area)
            raise
        self._give_up(area)
        return False

    def _give_up(self, area: VmStruct) -> None:
        """Free an area that did not get all of its frames."""
        area.nr_pages = len(area.pages)
        self.nr_vmalloc_pages += area.nr_pages
        self.vfree(area.addr)

    def _fill(self, area: VmStruct, gfp: int, page_order: int, node: int) -> bool:
        """Get frames for an area and map them; False if there were not enough."""
        nested_gfp = (gfp & _GFP_RECLAIM_MASK) | _GFP_ZERO
        gfp |= _GFP_NOWARN
        if not gfp & (GFP_DMA | GFP_DMA32):
            gfp |= _GFP_HIGHMEM
        nr_pages = area.usable_size >> PAGE_SHIFT
        array_bytes = nr_pages * (self.space.layout.bits_per_long // 8)
        if array_bytes > PAGE_SIZE:
            area.pages_array = self.vmalloc_node_range(array_bytes, 1, nested_gfp, node=node, caller=area.caller)
            if area.pages_array is None:
                return False
        area.page_order = page_order
        if self.page_alloc is not None:
            self._alloc_pages(self.page_alloc, area.pages, gfp, node, page_order, nr_pages)
            if len(area.pages) != nr_pages or not self._map(area.addr, area.pages, page_order=page_order):
                return False
        area.nr_pages = nr_pages
        self.nr_vmalloc_pages += nr_pages
        return True

    def _alloc_pages(
        self, page_alloc: PageAllocator, frames: list[int], gfp: int, node: int, order: int, nr_pages: int
    ) -> None:
        """Append up to `nr_pages` frames: in bulk, then one by one; blocks of an order above 0 are split.

        Source: mm/vmalloc.c:vm_area_alloc_pages @6.1.192
        """
        while not order and len(frames) < nr_pages:
            wanted = min(_BULK_PAGES, nr_pages - len(frames))
            got = page_alloc.alloc_pages_bulk(gfp & ~_GFP_NOFAIL, wanted, node)
            frames += got
            if len(got) != wanted:
                break
        if order:
            gfp &= ~_GFP_NOFAIL
        while len(frames) < nr_pages:
            pfn = page_alloc.alloc_pages(gfp, order, node)
            if pfn < 0:
                break
            if order:
                page_alloc.split_page(pfn, order)
            frames += range(pfn, pfn + (1 << order))

    def _warn(self, gfp: int, text: str) -> None:
        if self.warn is not None and not gfp & _GFP_NOWARN:
            self.warn(text)

    def _warn_alloc(self, gfp: int, text: str) -> None:
        """Source: mm/page_alloc.c:warn_alloc @6.1.192."""
        if self.warn_alloc is None:
            self._warn(gfp, text)
        elif not gfp & _GFP_NOWARN:
            self.warn_alloc(gfp, text)

    # ------------------------------------------------------------ freeing

    def vfree(self, addr: int | None) -> None:
        """Free what an allocating method returned; None is ignored.

        The addresses become lazy first, then the frames go back one by one, lowest address first.

        Raises
        ------
        StateError
            Nothing was allocated at this address: the kernel warns and does nothing.

        Source: mm/vmalloc.c:vfree @6.1.192
        """
        self._vunmap(addr, deallocate_pages=True)

    def vunmap(self, addr: int | None) -> None:
        """Undo :meth:`vmap`: the addresses go, the frames stay.

        Raises
        ------
        StateError
            Nothing is mapped at this address.

        Source: mm/vmalloc.c:vunmap @6.1.192
        """
        self._vunmap(addr, deallocate_pages=False)

    def vfree_atomic(self, addr: int | None) -> None:
        """Put an area aside to be freed by :meth:`free_work`: for contexts that must not sleep.

        Source: mm/vmalloc.c:vfree_atomic @6.1.192
        """
        if addr is not None:
            self._deferred.append(addr)

    @property
    def has_deferred(self) -> bool:
        """Whether something was put aside."""
        return bool(self._deferred)

    def free_work(self) -> None:
        """Free what was put aside, the last one first: the work of the worker thread.

        Source: mm/vmalloc.c:free_work @6.1.192
        """
        deferred, self._deferred = self._deferred, []
        for addr in reversed(deferred):
            self._vunmap(addr, deallocate_pages=True)

    def _vunmap(self, addr: int | None, deallocate_pages: bool) -> None:
        """Source: mm/vmalloc.c:__vunmap @6.1.192."""
        if addr is None:
            return
        if addr % PAGE_SIZE:
            raise StateError(f"Trying to vfree() bad address ({addr:#x})")
        area = self.find_vm_area(addr)
        if area is None:
            raise StateError(f"Trying to vfree() nonexistent vm area ({addr:#x})")
        self.remove_vm_area(area.addr)
        if area.flags & VM_FLUSH_RESET_PERMS:
            self.space.vm_unmap_aliases()
        if not deallocate_pages:
            return
        if self.page_alloc is not None:
            for pfn in area.pages:
                self.page_alloc.free_pages(pfn, 0)
        if not area.flags & VM_MAP_PUT_PAGES:
            self.nr_vmalloc_pages -= area.nr_pages
        if area.pages_array is not None:
            self._vunmap(area.pages_array, deallocate_pages=True)

    # ------------------------------------------------------------ mapping of given frames

    def vmap(
        self, frames: Sequence[int], flags: int = VM_MAP, prot: int = PAGE_KERNEL, *, caller: str = "vmap"
    ) -> int | None:
        """Map frames of the caller's, in their order.

        Parameters
        ----------
        frames : sequence of int
            Frame numbers.
        flags : int
            ``VM_*``; with ``VM_MAP_PUT_PAGES`` :meth:`vfree` frees the frames too.
        prot : int
            Protection of the pages; they are never executable.

        Source: mm/vmalloc.c:vmap @6.1.192
        """
        if len(frames) > self.totalram_pages:
            return None
        # The guard page behind an area protects the next one as well: it is not the caller's to waive.
        area = self.get_vm_area(len(frames) << PAGE_SHIFT, flags & ~VM_NO_GUARD, caller=caller)
        if area is None:
            return None
        if not self._map(area.addr, frames, prot | _PAGE_NX):
            self.vunmap(area.addr)
            return None
        if flags & VM_MAP_PUT_PAGES:
            area.pages, area.nr_pages = list(frames), len(frames)
        return area.addr

    def ioremap(self, phys: int, size: int, prot: int = PAGE_KERNEL, *, caller: str = "ioremap") -> int | None:
        """Map device memory.

        Parameters
        ----------
        phys, size : int
            Physical address and bytes; neither need be whole pages.
        prot : int
            Protection and memory type of the pages.

        Returns
        -------
        int or None
            The address that shows `phys`; None if there is no address space, or no memory for a table.

        Source: arch/x86/mm/ioremap.c:__ioremap_caller @6.1.192
        """
        offset = phys % PAGE_SIZE
        area = self.get_vm_area(-(-(offset + size) // PAGE_SIZE) * PAGE_SIZE, VM_IOREMAP, caller=caller)
        if area is None:
            return None
        area.phys_addr = phys - offset
        # Large pages where both sides are aligned to one, as ioremap_page_range() does on x86-64.
        large = self.space.layout.huge
        if self.init_mm is not None and not self.init_mm.map_range(
            area.addr, area.phys_addr, area.usable_size, prot, large=large
        ):
            self.remove_vm_area(area.addr)
            return None
        return area.addr + offset

    def vm_map_ram(self, frames: Sequence[int]) -> int | None:
        """Map frames for a short time: up to 64 (32-bit: 32) of them in a block shared with others.

        Source: mm/vmalloc.c:vm_map_ram @6.1.192
        """
        layout = self.space.layout
        addr: int | None
        if len(frames) <= layout.vmap_max_alloc:
            addr = self.space.vb_alloc(len(frames))
        else:
            size = len(frames) << PAGE_SHIFT
            va = self.space.alloc_vmap_area(size, PAGE_SIZE, layout.vmalloc_start, layout.vmalloc_end)
            addr = None if va is None else va.va_start
        if addr is not None and not self._map(addr, frames):
            self.vm_unmap_ram(addr, len(frames))
            return None
        return addr

    def vm_unmap_ram(self, addr: int, nr_pages: int) -> None:
        """Undo :meth:`vm_map_ram` of as many frames.

        Raises
        ------
        StateError
            There is no such mapping.

        Source: mm/vmalloc.c:vm_unmap_ram @6.1.192
        """
        if nr_pages <= self.space.layout.vmap_max_alloc:
            self.space.vb_free(addr, nr_pages)
            self._unmap(addr, addr + (nr_pages << PAGE_SHIFT))
            return
        va = self.space.busy.find(addr)
        if va is None or va.va_start != addr or va.nr_pages != nr_pages or va.vm is not None:
            raise StateError(f"no mapping of {nr_pages} pages at {addr:#x} was made by vm_map_ram")
        self._unmap(va.va_start, va.va_end)
        self.space.free_vmap_area_noflush(va)

    # ------------------------------------------------------------ views and checks

    def vm_areas(self) -> list[VmapArea]:
        """Return the busy areas, lowest first; those of :meth:`vm_map_ram` have no ``vm``."""
        return self.space.busy.areas()

    def vmallocinfo(self) -> str:
        """Return what ``/proc/vmallocinfo`` shows to root: an area a line.

        Source: mm/vmalloc.c:s_show @6.1.192
        Differs: addresses are shown as under no_hash_pointers, and callers are places in Python code.
        """
        digits = self.space.layout.bits_per_long // 4
        nodes = self.page_alloc is not None and self.space.layout.bits_per_long == 64
        lines = []
        for va in self.space.busy.areas():
            line = f"0x{va.va_start:0{digits}x}-0x{va.va_end:0{digits}x} {va.size:7d}"
            area = va.vm
            lines.append(line + (_area_text(area, digits) if isinstance(area, VmStruct) else " vm_map_ram"))
            if nodes and isinstance(area, VmStruct):
                lines[-1] += self._numa_info(area)
        if lines:
            lines += [
                f"0x{va.va_start:0{digits}x}-0x{va.va_end:0{digits}x} {va.size:7d} unpurged vm_area"
                for va in self.space.lazy.areas()
            ]
        return "".join(f"{line}\n" for line in lines)

    def _numa_info(self, area: VmStruct) -> str:
        """Return how many frames of an area each node has.

        Source: mm/vmalloc.c:show_numa_info @6.1.192
        """
        assert self.page_alloc is not None
        zones = self.page_alloc.memmap.pages_array["zone"]
        counts: dict[int, int] = {}
        for pfn in area.pages:
            node = int(zones[pfn]) // _MAX_NR_ZONES
            counts[node] = counts.get(node, 0) + 1
        return "".join(f" N{node}={counts[node]}" for node in sorted(counts))

    def validate(self) -> None:
        """Check the address space, and that each area and its frames agree with it.

        Raises
        ------
        StateError
            They do not.  O(n log n).
        """
        self.space.validate()
        frames: set[int] = set()
        for va in self.space.busy.areas():
            area = va.vm
            if not isinstance(area, VmStruct):
                continue
            if (area.addr, area.size) != (va.va_start, va.size):
                raise StateError(f"the area at {va.va_start:#x} is described as {area.addr:#x}, {area.size} bytes")
            if area.flags & VM_ALLOC:
                if frames.intersection(area.pages):
                    raise StateError(f"a frame of the area at {area.addr:#x} belongs to another area too")
                frames.update(area.pages)
            if area.pages_array is not None and self.find_vm_area(area.pages_array) is None:
                raise StateError(f"the page array of the area at {area.addr:#x} is gone")
        if self.init_mm is not None:
            self._validate_mapping(self.init_mm)

    def _validate_mapping(self, init_mm: PageTable) -> None:
        """Check that the page tables map each area's frames, and nothing where no area is, or behind one."""
        layout = self.space.layout
        mapped = dict(init_mm.mapped_frames(layout.vmalloc_start, layout.vmalloc_end))
        for va in self.space.busy.areas():
            area = va.vm
            if not isinstance(area, VmStruct) or not area.mapped:
                continue
            for place, pfn in enumerate(area.pages):
                addr = area.addr + (place << PAGE_SHIFT)
                got = mapped.pop(addr, None)
                if (init_mm.walk(addr).pfn if got is None else got) != pfn:
                    raise StateError(f"{addr:#x} should show frame {pfn:#x}, which is not what the page tables say")
        for addr, pfn in mapped.items():
            found = self.space.busy.find(addr)
            area = None if found is None else found.vm
            if found is None or (isinstance(area, VmStruct) and addr >= area.addr + area.usable_size):
                raise StateError(f"frame {pfn:#x} is mapped at {addr:#x}, where no area is in use")


def _area_text(area: VmStruct, digits: int) -> str:
    """Return what is said of an area behind its addresses and size."""
    words = [area.caller] if area.caller else []
    if area.nr_pages:
        words.append(f"pages={area.nr_pages}")
    if area.phys_addr:
        words.append(f"phys=0x{area.phys_addr:0{digits}x}")
    words += [name for bit, name in _AREA_NAMES if area.flags & bit]
    if area.pages_array is not None:
        words.append("vpages")
    return "".join(f" {word}" for word in words)


def _bytes(size: int, space: VmapSpace) -> int:
    """Return a size as the kernel's ``unsigned long`` would hold it.

    Raises
    ------
    ValueError
        It does not hold it.
    """
    size = operator.index(size)
    if not 0 <= size <= space.layout.ulong_max:
        raise ValueError(f"a size of {size} bytes does not fit into {space.layout.bits_per_long} bits")
    return size
