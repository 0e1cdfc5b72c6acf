# SPDX-License-Identifier: GPL-2.0-only
"""Physical memory as the boot code knows it: ranges of memory and who took a piece of them.

Before there is a page allocator the kernel keeps two sorted lists of address
ranges: the memory that exists (each range on one node) and the part of it that
is reserved.  Zone limits are computed from the first; when the page allocator
takes over it is given the difference, from low to high addresses.

Source: mm/memblock.c @6.1.192
Differs: ranges are kept in bytes and Python integers; there are no flags
(hotplug, mirror, nomap), which the modelled machines do not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kmem.errors import ConfigError

__all__ = ["MAX_ORDER", "PAGE_SHIFT", "PAGE_SIZE", "MemBlock", "MemoryRange", "PfnRange", "free_blocks"]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

#: Number of orders: the largest block has order ``MAX_ORDER - 1``.
MAX_ORDER = 11


class MemoryRange(NamedTuple):
    """Addresses ``start`` to ``end - 1`` (bytes), on one node."""

    start: int
    end: int
    node: int = 0


class PfnRange(NamedTuple):
    """Frames ``start`` to ``end - 1``, on one node."""

    start: int
    end: int
    node: int = 0

    def __len__(self) -> int:
        return self.end - self.start


def _merged(ranges: Iterable[MemoryRange]) -> list[MemoryRange]:
    """Sort `ranges` and join neighbours of the same node; of two that overlap, the first in order wins."""
    result: list[MemoryRange] = []
    for current in sorted(ranges):
        if result:
            last = result[-1]
            if current.end <= last.end:
                continue
            if current.start < last.end:
                current = MemoryRange(last.end, current.end, current.node)
            if current.start == last.end and current.node == last.node:
                result[-1] = MemoryRange(last.start, current.end, last.node)
                continue
        result.append(current)
    return result


@dataclass(slots=True)
class MemBlock:
    """The boot-time memory map.

    Attributes
    ----------
    memory : list of MemoryRange
        Memory that exists, sorted, without overlap, in bytes.
    reserved : list of MemoryRange
        What the kernel keeps from the page allocator, sorted, in bytes. May
        reach beyond ``memory``: only the common part counts.
    """

    memory: list[MemoryRange] = field(default_factory=list)
    reserved: list[MemoryRange] = field(default_factory=list)

    def add(self, start: int, size_bytes: int, node: int = 0) -> None:
        """Add memory.

        Raises
        ------
        ConfigError
            If the range is empty or negative.
        """
        if start < 0 or size_bytes <= 0:
            raise ConfigError(
                f"memory range of {size_bytes} bytes at {start:#x}",
                remedy="a range begins at 0 or above and has a positive size",
            )
        self.memory = _merged([*self.memory, MemoryRange(start, start + size_bytes, node)])

    def reserve(self, start: int, size_bytes: int) -> None:
        """Keep addresses from the page allocator; nothing happens for an empty range."""
        if size_bytes > 0:
            self.reserved = _merged([*self.reserved, MemoryRange(start, start + size_bytes)])

    def remove(self, start: int, end: int) -> None:
        """Take the addresses `start` to `end` - 1 out of the memory that exists."""
        kept: list[MemoryRange] = []
        for piece in self.memory:
            if piece.start < min(piece.end, start):
                kept.append(MemoryRange(piece.start, min(piece.end, start), piece.node))
            if max(piece.start, end) < piece.end:
                kept.append(MemoryRange(max(piece.start, end), piece.end, piece.node))
        self.memory = kept

    def trim_memory(self, align: int = PAGE_SIZE) -> None:
        """Throw away what is no whole page at either end of each range.

        Source: mm/memblock.c:memblock_trim_memory @6.1.192
        """
        trimmed = [
            MemoryRange((piece.start + align - 1) // align * align, piece.end // align * align, piece.node)
            for piece in self.memory
        ]
        self.memory = [piece for piece in trimmed if piece.start < piece.end]

    def set_node(self, start: int, end: int, node: int) -> None:
        """Assign the memory between `start` and `end` to `node`, splitting ranges at the border.

        Source: mm/memblock.c:memblock_set_node @6.1.192
        """
        pieces: list[MemoryRange] = []
        for piece in self.memory:
            low, high = max(piece.start, start), min(piece.end, end)
            if low >= high:
                pieces.append(piece)
                continue
            if piece.start < low:
                pieces.append(MemoryRange(piece.start, low, piece.node))
            pieces.append(MemoryRange(low, high, node))
            if high < piece.end:
                pieces.append(MemoryRange(high, piece.end, piece.node))
        self.memory = _merged(pieces)

    def pfn_ranges(self, node: int | None = None) -> list[PfnRange]:
        """Return the frames that exist, of one node or of all.

        Source: mm/memblock.c:__next_mem_pfn_range @6.1.192
        """
        found: list[PfnRange] = []
        for piece in self.memory:
            start, end = (piece.start + PAGE_SIZE - 1) >> PAGE_SHIFT, piece.end >> PAGE_SHIFT
            if start < end and node in (None, piece.node):
                found.append(PfnRange(start, end, piece.node))
        return found

    def nodes(self) -> list[int]:
        """Return the numbers of the nodes that have memory, ascending."""
        return sorted({piece.node for piece in self.pfn_ranges()})

    def node_span(self, node: int) -> tuple[int, int]:
        """Return first frame and end of a node, holes included; (0, 0) if it has no memory.

        Source: mm/page_alloc.c:get_pfn_range_for_nid @6.1.192
        """
        ranges = self.pfn_ranges(node)
        return (ranges[0].start, ranges[-1].end) if ranges else (0, 0)

    def end_pfn(self) -> int:
        """Return the frame after the last frame of memory; 0 if there is none."""
        ranges = self.pfn_ranges()
        return ranges[-1].end if ranges else 0

    def absent_pages(self, start_pfn: int, end_pfn: int, node: int | None = None) -> int:
        """Return how many of the frames `start_pfn` to `end_pfn` - 1 do not exist on `node` (on any, if None).

        Source: mm/page_alloc.c:__absent_pages_in_range @6.1.192
        """
        present = 0
        for piece in self.pfn_ranges(node):
            present += max(0, min(piece.end, end_pfn) - max(piece.start, start_pfn))
        return end_pfn - start_pfn - present

    def free_ranges(self) -> Iterator[PfnRange]:
        """Yield the frames that are memory and not reserved, ascending.

        A page of which any byte is reserved is not free.

        Source: mm/memblock.c:__next_mem_range, __free_memory_core @6.1.192
        """
        taken = [(piece.start >> PAGE_SHIFT, (piece.end + PAGE_SIZE - 1) >> PAGE_SHIFT) for piece in self.reserved]
        for piece in self.pfn_ranges():
            position = piece.start
            for low, high in taken:
                if high <= position or low >= piece.end:
                    continue
                if low > position:
                    yield PfnRange(position, low, piece.node)
                position = max(position, high)
            if position < piece.end:
                yield PfnRange(position, piece.end, piece.node)

    def alloc(
        self, size_bytes: int, *, align: int = PAGE_SIZE, limit: int | None = None, node: int | None = None
    ) -> int:
        """Reserve memory from the highest place that has room; return its address.

        Parameters
        ----------
        size_bytes, align : int
            Size and alignment in bytes; the alignment is a power of two.
        limit : int, optional
            Address that the piece has to end below.
        node : int, optional
            Node to take it from; any, if it has no room or none is given.

        Raises
        ------
        ConfigError
            If there is no room anywhere.

        Source: mm/memblock.c:memblock_alloc_range_nid, __memblock_find_range_top_down @6.1.192
        """
        for wanted in (node, None) if node is not None else (None,):
            for piece in reversed(list(self.free_ranges())):
                end = piece.end << PAGE_SHIFT if limit is None else min(piece.end << PAGE_SHIFT, limit)
                start = (end - size_bytes) & -align
                if start >= piece.start << PAGE_SHIFT and wanted in (None, piece.node):
                    self.reserve(start, size_bytes)
                    return start
        raise ConfigError(
            f"no room for {size_bytes >> 10} KiB that the kernel needs at boot", remedy="describe a larger machine"
        )

    def reserved_in(self, start_pfn: int, end_pfn: int) -> int:
        """Return how many existing frames of a range are reserved."""
        present = end_pfn - start_pfn - self.absent_pages(start_pfn, end_pfn)
        free = sum(max(0, min(piece.end, end_pfn) - max(piece.start, start_pfn)) for piece in self.free_ranges())
        return present - free


def free_blocks(start_pfn: int, end_pfn: int) -> Iterator[tuple[int, int]]:
    """Yield (pfn, order) of the blocks in which a range of frames is handed to the page allocator.

    Each block is the largest that its address allows and the range has room
    for; order ``MAX_ORDER - 1`` at most.

    Source: mm/memblock.c:__free_pages_memory @6.1.192
    """
    while start_pfn < end_pfn:
        order = min(MAX_ORDER - 1, (start_pfn & -start_pfn).bit_length() - 1) if start_pfn else MAX_ORDER - 1
        while start_pfn + (1 << order) > end_pfn:
            order -= 1
        yield start_pfn, order
        start_pfn += 1 << order
