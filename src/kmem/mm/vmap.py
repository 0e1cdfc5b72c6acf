# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's virtual address space: which parts are busy, free, or freed lazily.

Every address belongs to one of three sets of areas.  *Busy* areas are handed
out.  A freed area becomes *lazy* first: its translations may still be cached
by some CPU, so its addresses must not be used again.  When enough of them have
gathered, or when somebody asks, they are purged: they become *free* together,
for the price of one flush.  Lazy and free areas merge with their neighbours of
the same set, busy ones do not.

::

    free  |      |busy A|      free       |busy B|  free
                 ^ freed: A is lazy, and the space does not serve anybody
    free  |      |lazy A|      free       |busy B|  free
                 ^ purged
    free  |             free              |busy B|  free

Free areas hang in an augmented red-black tree (:mod:`kmem.mm.rbtree`), which
serves the lowest fitting one.

Mappings of a few pages (``vm_map_ram``) are carved out of blocks, each of
which is one busy area: :class:`VmapBlock`.

Source: mm/vmalloc.c @6.1.192
Differs: areas are described by Python objects and take no memory of the modelled machine; translations and their
caches are not modelled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self

from kmem.errors import StateError
from kmem.mm.rbtree import LEFT, RIGHT, RbNode, RbTree
from kmem.mm.x86 import I386Layout

__all__ = ["PAGE_SHIFT", "PAGE_SIZE", "AreaList", "FreeAreas", "VmapArea", "VmapBlock", "VmapLayout", "VmapSpace"]

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

_LAZY_BYTES_PER_LOG_CPU: Final = 32 << 20
_VMAP_BBMAP_BITS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class VmapLayout:
    """Where a machine keeps its vmalloc area, and what follows from its word size.

    Parameters
    ----------
    vmalloc_start, vmalloc_end : int
        Limits of the vmalloc area, in bytes; the end itself is outside.
    bits_per_long : int
        64 or 32.
    config_nr_cpus : int
        How many CPUs the kernel is configured for (CONFIG_NR_CPUS); it decides on the size of vmap blocks.
    huge : bool
        Whether ``vmalloc_huge`` maps 2 MiB pages (HAVE_ARCH_HUGE_VMALLOC).
    """

    vmalloc_start: int
    vmalloc_end: int
    bits_per_long: int
    config_nr_cpus: int
    huge: bool = False

    @classmethod
    def x86_64(cls) -> Self:
        """Return the layout of x86-64 with four-level page tables, without address space randomisation.

        Source: arch/x86/include/asm/pgtable_64_types.h:VMALLOC_START @6.1.192
        """
        start = 0xFFFFC90000000000
        return cls(start, start + (32 << 40) - 1, 64, 8192, huge=True)

    @classmethod
    def i386(cls, max_low_pfn: int | None = None, layout: I386Layout | None = None) -> Self:
        """Return the layout of i386 with 3 GiB for user space.

        A hole of 8 MiB behind low memory catches stray accesses.

        Parameters
        ----------
        max_low_pfn : int, optional
            Frame at which low memory ends; by default as much as fits, as on any machine with high memory.
        layout : I386Layout, optional
            Fixed parts of the kernel's address space.

        Source: arch/x86/include/asm/pgtable_32_areas.h:VMALLOC_START @6.1.192
        """
        fixed = layout or I386Layout()
        low_pfn = fixed.maxmem_pfn if max_low_pfn is None else max_low_pfn
        high_memory = fixed.page_offset + (low_pfn << PAGE_SHIFT)
        return cls(high_memory + fixed.VMALLOC_OFFSET, fixed.vmalloc_end, 32, fixed.nr_cpus)

    @property
    def ulong_max(self) -> int:
        """Largest address."""
        return (1 << self.bits_per_long) - 1

    @property
    def vmap_max_alloc(self) -> int:
        """Pages of the largest mapping that comes out of a block (VMAP_MAX_ALLOC)."""
        return self.bits_per_long

    @property
    def vmap_bbmap_bits(self) -> int:
        """Pages of a block (VMAP_BBMAP_BITS).

        Source: mm/vmalloc.c:VMAP_BBMAP_BITS @6.1.192
        """
        space = 128 << (30 if self.bits_per_long == 64 else 20)
        cpus = 1 << (self.config_nr_cpus - 1).bit_length()
        return min(_VMAP_BBMAP_BITS_MAX, max(2 * self.vmap_max_alloc, (space >> PAGE_SHIFT) // cpus // 16))


class VmapArea(RbNode):
    """A range of addresses.

    Parameters
    ----------
    va_start, va_end : int
        First address, and the one behind the last.
    vm : object, optional
        What the area is used for, if it is busy and not a block: a ``VmStruct``.
    """

    __slots__ = ("va_end", "va_start", "vm")

    def __init__(self, va_start: int, va_end: int, vm: object | None = None) -> None:
        super().__init__()
        self.va_start = va_start
        self.va_end = va_end
        self.vm = vm

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.va_end - self.va_start

    @property
    def nr_pages(self) -> int:
        """Size in pages."""
        return (self.va_end - self.va_start) >> PAGE_SHIFT

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.va_start:#x}, {self.va_end:#x})"


class AreaList:
    """Areas in the order of their addresses; no two overlap.

    Finding takes O(log n); inserting and removing move references, which is fast for some 10,000 areas.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._areas: list[VmapArea] = []

    def __len__(self) -> int:
        return len(self._areas)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the start and end of each area, lowest first."""
        return [(area.va_start, area.va_end) for area in self._areas]

    def areas(self) -> list[VmapArea]:
        """Return the areas, lowest first."""
        return list(self._areas)

    def find(self, addr: int) -> VmapArea | None:
        """Return the area that an address lies in.

        Source: mm/vmalloc.c:__find_vmap_area @6.1.192
        """
        place = bisect_right(self._starts, addr) - 1
        if place >= 0 and addr < self._areas[place].va_end:
            return self._areas[place]
        return None

    def insert(self, area: VmapArea) -> None:
        """Add an area.

        Raises
        ------
        StateError
            It overlaps with another.

        Source: mm/vmalloc.c:insert_vmap_area @6.1.192
        """
        place = bisect_left(self._starts, area.va_start)
        for other in self._areas[max(place - 1, 0) : place + 1]:
            if other.va_start < area.va_end and area.va_start < other.va_end:
                raise StateError(
                    f"vmalloc bug: {area.va_start:#x}-{area.va_end:#x} overlaps with "
                    f"{other.va_start:#x}-{other.va_end:#x}"
                )
        self._starts.insert(place, area.va_start)
        self._areas.insert(place, area)

    def remove(self, area: VmapArea) -> None:
        """Take an area out.

        Source: mm/vmalloc.c:unlink_va @6.1.192
        """
        place = bisect_left(self._starts, area.va_start)
        del self._starts[place], self._areas[place]

    def move_start(self, area: VmapArea, va_start: int) -> None:
        """Let an area begin elsewhere, between its neighbours."""
        place = bisect_left(self._starts, area.va_start)
        self._starts[place] = area.va_start = va_start

    def clear(self) -> list[VmapArea]:
        """Empty the list, and return what was on it."""
        areas, self._areas, self._starts = self._areas, [], []
        return areas

    def merge_or_add(self, area: VmapArea) -> VmapArea:
        """Add an area, making it one with the neighbours that it touches.

        The upper neighbour grows downwards first; if the lower one is touched too, it takes in both.

        Returns
        -------
        VmapArea
            The area that now holds the addresses.

        Source: mm/vmalloc.c:__merge_or_add_vmap_area @6.1.192
        """
        place = bisect_left(self._starts, area.va_start)
        below = self._areas[place - 1] if place else None
        above = self._areas[place] if place < len(self._areas) else None
        merged: VmapArea | None = None
        if above is not None and above.va_start == area.va_end:
            self.move_start(above, area.va_start)
            merged = above
        if below is not None and below.va_end == area.va_start:
            if merged is not None:
                self.remove(merged)
            below.va_end = area.va_end if merged is None else merged.va_end
            merged = below
        if merged is None:
            self.insert(area)
            return area
        return merged


class FreeAreas(AreaList):
    """Free areas, in a tree as well that finds the lowest which is large enough."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: RbTree[VmapArea] = RbTree()

    def insert(self, area: VmapArea) -> None:
        """Add an area to list and tree.

        Source: mm/vmalloc.c:insert_vmap_area_augment @6.1.192
        """
        super().insert(area)
        parent: VmapArea | None = None
        node, side = self.tree.root, LEFT
        while node is not None:
            parent = node
            side = LEFT if area.va_end <= node.va_start else RIGHT
            node = node.child[side]
        self.tree.insert(area, parent, side)
        self.tree.propagate(area)

    def remove(self, area: VmapArea) -> None:
        """Take an area out of list and tree.

        Source: mm/vmalloc.c:unlink_va_augment @6.1.192
        """
        super().remove(area)
        self.tree.erase(area)

    def clear(self) -> list[VmapArea]:
        """Empty list and tree, and return what was in them."""
        self.tree = RbTree()
        return super().clear()

    def merge_or_add(self, area: VmapArea) -> VmapArea:
        """Add an area, making it one with the neighbours that it touches.

        Source: mm/vmalloc.c:merge_or_add_vmap_area_augment @6.1.192
        """
        merged = super().merge_or_add(area)
        self.tree.propagate(merged)
        return merged

    def find_lowest_match(self, size: int, align: int, vstart: int, adjust_search_size: bool) -> VmapArea | None:
        """Return the lowest free area that the tree offers for a request.

        With `adjust_search_size` only subtrees are entered whose largest area is sure to hold an aligned range;
        nodes on the way are tried for what they really hold.

        Parameters
        ----------
        size, align : int
            Of the request, in bytes; `align` is a power of two.
        vstart : int
            The lowest address that will do.
        adjust_search_size : bool
            Whether the search allows for the worst case of alignment.

        Notes
        -----
        O(log n), as long as no alignment above a page makes it turn back.

        Source: mm/vmalloc.c:find_vmap_lowest_match @6.1.192
        """
        length = size + align - 1 if adjust_search_size else size
        node = self.tree.root
        while node is not None:
            left, right = node.child
            if left is not None and left.subtree_max_size >= length and vstart < node.va_start:
                node = left
                continue
            if _is_within(node, size, align, vstart):
                return node
            if right is not None and right.subtree_max_size >= length:
                node = right
                continue
            # Nothing below: climb to the first node whose right side has not been seen.
            while (node := node.parent) is not None:
                if _is_within(node, size, align, vstart):
                    return node
                right = node.child[RIGHT]
                if right is not None and right.subtree_max_size >= length and vstart <= node.va_start:
                    # One above the start of this node, or the search would come down here again.
                    vstart = node.va_start + 1
                    node = right
                    break
        return None

    def cut(self, area: VmapArea, start: int, size: int) -> None:
        """Take a range out of a free area; what is left of it below and above stays free.

        Source: mm/vmalloc.c:adjust_va_to_fit_type @6.1.192
        """
        end = start + size
        if area.va_start == start and area.va_end == end:
            self.remove(area)
            return
        rest: VmapArea | None = None
        if area.va_start == start:
            self.move_start(area, end)
        elif area.va_end == end:
            area.va_end = start
        else:
            rest = VmapArea(area.va_start, start)
            self.move_start(area, end)
        self.tree.propagate(area)
        if rest is not None:
            self.insert(rest)


def _is_within(area: VmapArea, size: int, align: int, vstart: int) -> bool:
    """Whether an aligned range at or above `vstart` fits into an area.

    Source: mm/vmalloc.c:is_within_this_va @6.1.192
    """
    return _aligned_start(area, align, vstart) + size <= area.va_end


def _aligned_start(area: VmapArea, align: int, vstart: int) -> int:
    return -(-max(area.va_start, vstart) // align) * align


class VmapBlock:
    """A busy area out of which small mappings are carved, upwards and once.

    Attributes
    ----------
    va : VmapArea
        The area.
    free, dirty : int
        Pages never handed out, and pages handed out and back.
    dirty_min, dirty_max : int
        Lowest and highest page given back, as page numbers in the block.
    cpu : int
        CPU whose queue it is on.

    Source: mm/vmalloc.c:struct vmap_block @6.1.192
    """

    __slots__ = ("cpu", "dirty", "dirty_max", "dirty_min", "free", "va")

    def __init__(self, va: VmapArea, nr_pages: int, cpu: int) -> None:
        self.va = va
        self.free = nr_pages
        self.dirty = 0
        self.dirty_min = nr_pages
        self.dirty_max = 0
        self.cpu = cpu


class VmapSpace:
    """Busy, free and lazily freed areas of one machine.

    Parameters
    ----------
    layout : VmapLayout
        Limits of the address space.
    busy : iterable of VmapArea
        Areas that are in use already; free is what lies between them.
    free, lazy : iterable of VmapArea, optional
        Areas as a dump shows them. A dump does not show the shape of the tree: they are inserted lowest first.
    online_cpus : int
        CPUs that run.
    schedule_work : callable, optional
        Called with the work that purges when too much is lazy; the kernel gives it to a worker thread. By default it
        is done at once.

    Attributes
    ----------
    busy, lazy : AreaList
        Areas in use, and areas waiting for the next purge.
    free : FreeAreas
        Areas that can be handed out.
    nr_lazy : int
        Pages of the lazy areas (``vmap_lazy_nr``).
    cpu : int
        The CPU that calls are made on; it has its own queue of blocks.
    """

    def __init__(
        self,
        layout: VmapLayout,
        busy: Iterable[VmapArea] = (),
        free: Iterable[VmapArea] | None = None,
        lazy: Iterable[VmapArea] = (),
        *,
        online_cpus: int = 1,
        schedule_work: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.layout = layout
        self.online_cpus = online_cpus
        self.schedule_work = schedule_work
        self.drain_pending = False
        self.busy, self.free, self.lazy = AreaList(), FreeAreas(), AreaList()
        self.nr_lazy = 0
        self.cpu = 0
        self.purge_notifiers: list[Callable[[], int]] = []
        self._blocks: dict[int, VmapBlock] = {}
        self._queues: dict[int, list[VmapBlock]] = {}
        for area in busy:
            self.busy.insert(area)
        for area in lazy:
            self.lazy.insert(area)
            self.nr_lazy += area.nr_pages
        for area in self._init_free_space() if free is None else free:
            self.free.insert(area)

    def _init_free_space(self) -> list[VmapArea]:
        """Return what is neither busy nor lazy, lowest first.

        Source: mm/vmalloc.c:vmap_init_free_space @6.1.192
        """
        free, start = [], 1
        for taken_start, taken_end in sorted(self.busy.ranges() + self.lazy.ranges()):
            if taken_start > start:
                free.append(VmapArea(start, taken_start))
            start = taken_end
        if self.layout.ulong_max > start:
            free.append(VmapArea(start, self.layout.ulong_max))
        return free

    # ------------------------------------------------------------ areas

    def alloc_vmap_area(self, size: int, align: int, vstart: int, vend: int) -> VmapArea | None:
        """Take an area out of the free ones.

        If none fits, everything lazy is purged and the search repeated; then those are asked who registered in
        ``purge_notifiers``, as long as they give something up.

        Parameters
        ----------
        size : int
            In bytes, whole pages.
        align : int
            A power of two, in bytes.
        vstart, vend : int
            Limits that the area must lie between.

        Returns
        -------
        VmapArea or None
            The area, busy from now on; None if the address space is exhausted.

        Source: mm/vmalloc.c:alloc_vmap_area @6.1.192
        """
        if size <= 0 or size % PAGE_SIZE or align <= 0 or align & (align - 1):
            raise ValueError(f"an area of {size} bytes aligned to {align}: pages and powers of two are needed")
        purged = False
        while True:
            start = self._alloc_free_range(size, align, vstart, vend)
            if start is not None:
                area = VmapArea(start, start + size)
                self.busy.insert(area)
                return area
            if not purged:
                self.purge_vmap_area_lazy()
                purged = True
            elif sum(notifier() for notifier in list(self.purge_notifiers)) > 0:
                purged = False
            else:
                return None

    def _alloc_free_range(self, size: int, align: int, vstart: int, vend: int) -> int | None:
        """Source: mm/vmalloc.c:__alloc_vmap_area @6.1.192."""
        # A range that must fill its limits exactly would never be found with room to spare.
        adjust = align > PAGE_SIZE and vend - vstart != size
        area = self.free.find_lowest_match(size, align, vstart, adjust)
        if area is None:
            return None
        start = _aligned_start(area, align, vstart)
        if start + size > vend:
            return None
        self.free.cut(area, start, size)
        return start

    def free_vmap_area_noflush(self, area: VmapArea) -> None:
        """Make a busy area lazy; when more is lazy than :meth:`lazy_max_pages`, a purge is scheduled.

        Source: mm/vmalloc.c:free_vmap_area_noflush @6.1.192
        """
        self.busy.remove(area)
        self.nr_lazy += area.nr_pages
        self.lazy.merge_or_add(area)
        if self.nr_lazy > self.lazy_max_pages() and not self.drain_pending:
            self.drain_pending = True
            if self.schedule_work is None:
                self.drain_vmap_area_work()
            else:
                self.schedule_work(self.drain_vmap_area_work)

    def lazy_max_pages(self) -> int:
        """Return how many pages may be lazy before a purge is scheduled: 32 MiB, more on machines with many CPUs.

        Source: mm/vmalloc.c:lazy_max_pages @6.1.192
        """
        return self.online_cpus.bit_length() * (_LAZY_BYTES_PER_LOG_CPU // PAGE_SIZE)

    def drain_vmap_area_work(self) -> None:
        """Purge until no more is lazy than may be: the work of the worker thread.

        Source: mm/vmalloc.c:drain_vmap_area_work @6.1.192
        """
        self.drain_pending = False
        while True:
            self._purge()
            if self.nr_lazy <= self.lazy_max_pages():
                return

    def purge_vmap_area_lazy(self) -> None:
        """Give up blocks that serve nobody, and make everything lazy free.

        Source: mm/vmalloc.c:purge_vmap_area_lazy @6.1.192
        """
        for cpu in sorted(self._queues):
            self._purge_fragmented_blocks(cpu)
        self._purge()

    def vm_unmap_aliases(self) -> None:
        """Make sure that no old translation is left: everything lazy is purged.

        Source: mm/vmalloc.c:vm_unmap_aliases @6.1.192
        """
        self.purge_vmap_area_lazy()

    def _purge(self) -> None:
        """Source: mm/vmalloc.c:__purge_vmap_area_lazy @6.1.192."""
        for area in self.lazy.clear():
            nr_pages = area.nr_pages
            self.free.merge_or_add(area)
            self.nr_lazy -= nr_pages

    # ------------------------------------------------------------ blocks

    def vb_alloc(self, nr_pages: int) -> int | None:
        """Return the address of a range of a block, of the next power of two of pages.

        Parameters
        ----------
        nr_pages : int
            At most ``layout.vmap_max_alloc``.

        Source: mm/vmalloc.c:vb_alloc @6.1.192
        """
        if not 0 < nr_pages <= self.layout.vmap_max_alloc:
            raise ValueError(f"{nr_pages} pages are not mapped through a block")
        taken = 1 << (nr_pages - 1).bit_length()
        for block in self._queues.get(self.cpu, ()):
            if block.free >= taken:
                return self._carve(block, taken)
        return self._new_vmap_block(taken)

    def _carve(self, block: VmapBlock, taken: int) -> int:
        addr = block.va.va_start + ((self.layout.vmap_bbmap_bits - block.free) << PAGE_SHIFT)
        block.free -= taken
        if block.free == 0:
            self._queues[block.cpu].remove(block)
        return addr

    def _new_vmap_block(self, taken: int) -> int | None:
        """Source: mm/vmalloc.c:new_vmap_block @6.1.192."""
        size = self.layout.vmap_bbmap_bits << PAGE_SHIFT
        area = self.alloc_vmap_area(size, size, self.layout.vmalloc_start, self.layout.vmalloc_end)
        if area is None:
            return None
        block = VmapBlock(area, self.layout.vmap_bbmap_bits, self.cpu)
        block.free -= taken
        self._blocks[area.va_start] = block
        self._queues.setdefault(self.cpu, []).append(block)
        return area.va_start

    def vb_free(self, addr: int, nr_pages: int) -> None:
        """Give a range of a block back; the block goes when all of it has been handed out and back.

        Raises
        ------
        StateError
            There is no block at the address.

        Source: mm/vmalloc.c:vb_free @6.1.192
        """
        bits = self.layout.vmap_bbmap_bits
        block = self._blocks.get(addr & -(bits << PAGE_SHIFT))
        taken = 1 << max(nr_pages - 1, 0).bit_length()
        if block is None or nr_pages <= 0 or block.dirty + taken > bits - block.free or addr % PAGE_SIZE:
            raise StateError(f"no mapping of {nr_pages} pages at {addr:#x} was made by vm_map_ram")
        offset = (addr - block.va.va_start) >> PAGE_SHIFT
        block.dirty_min = min(block.dirty_min, offset)
        block.dirty_max = max(block.dirty_max, offset + taken)
        block.dirty += taken
        if block.dirty == bits:
            self._free_vmap_block(block)

    def _free_vmap_block(self, block: VmapBlock) -> None:
        """Source: mm/vmalloc.c:free_vmap_block @6.1.192."""
        del self._blocks[block.va.va_start]
        self.free_vmap_area_noflush(block.va)

    def _purge_fragmented_blocks(self, cpu: int) -> None:
        """Give up the blocks of one CPU of which everything handed out has come back.

        Source: mm/vmalloc.c:purge_fragmented_blocks @6.1.192
        """
        bits = self.layout.vmap_bbmap_bits
        idle = [block for block in self._queues[cpu] if block.free + block.dirty == bits and block.dirty != bits]
        for block in idle:
            block.free, block.dirty = 0, bits
            block.dirty_min, block.dirty_max = 0, bits
            self._queues[cpu].remove(block)
        for block in idle:
            self._free_vmap_block(block)

    # ------------------------------------------------------------ checks

    def validate(self) -> None:
        """Check that the three sets make up the address space, and that tree, blocks and counter agree with them.

        Raises
        ------
        StateError
            They do not.  O(n log n).
        """
        everything = sorted(self.busy.ranges() + self.free.ranges() + self.lazy.ranges())
        end = 1
        for start, next_end in everything:
            if start != end or next_end <= start:
                raise StateError(f"address {min(start, end):#x} belongs to no area or to two")
            end = next_end
        if end != self.layout.ulong_max:
            raise StateError(f"the areas end at {end:#x}, the address space at {self.layout.ulong_max:#x}")
        try:
            hanging = self.free.tree.validate()
        except ValueError as error:
            raise StateError(f"free areas: {error}") from None
        if hanging != len(self.free):
            raise StateError(f"{hanging} free areas in the tree, {len(self.free)} on the list")
        if self.nr_lazy != sum(area.nr_pages for area in self.lazy.areas()):
            raise StateError(f"{self.nr_lazy} pages are counted as lazy, which is not what the lazy areas hold")
        for start, block in self._blocks.items():
            if (
                self.busy.find(start) is not block.va
                or not 0 <= block.free + block.dirty <= self.layout.vmap_bbmap_bits
            ):
                raise StateError(f"the vmap block at {start:#x} is no busy area, or hands out more than it has")
