# SPDX-License-Identifier: GPL-2.0-only
"""Page tables of a process: tables made on demand, freed with the last area that needs them.

The tables lie in frames of the page allocator; an entry is bytes in modelled
memory.  Levels are counted from the top: level 0 is the table that the CPU's
register points at, the last one holds the entries of pages.

Source: include/asm-generic/pgalloc.h, arch/x86/mm/pgtable.c, arch/x86/include/asm/pgtable_types.h,
mm/memory.c:free_pgd_range, __pte_alloc @6.1.192
Differs: page-table isolation allocates the second half of the top table, but nothing is mapped there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kmem.errors import StateError
from kmem.mm.gfp import __GFP_ACCOUNT, __GFP_HIGHMEM, __GFP_ZERO, GFP_KERNEL
from kmem.mm.page_alloc import NO_FRAME

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = [
    "GFP_PGTABLE_USER",
    "I386",
    "LAYOUTS",
    "PAGE_ACCESSED",
    "PAGE_DIRTY",
    "PAGE_NX",
    "PAGE_PRESENT",
    "PAGE_PROTNONE",
    "PAGE_PSE",
    "PAGE_RW",
    "PAGE_SOFT_DIRTY",
    "PAGE_SPECIAL",
    "PAGE_TABLE",
    "PAGE_USER",
    "X86_64",
    "TableLayout",
    "UserPageTable",
]

GFP_PGTABLE_USER = GFP_KERNEL | __GFP_ZERO | __GFP_ACCOUNT
_HIGHMEM = __GFP_HIGHMEM

PAGE_PRESENT = 0x1
PAGE_RW = 0x2
PAGE_USER = 0x4
PAGE_ACCESSED = 0x20
PAGE_DIRTY = 0x40
PAGE_PSE = 0x80
#: In an entry that the CPU takes for absent: there is a page, but no access (the bit of global pages).
PAGE_PROTNONE = 0x100
#: No page structure is to be counted for this entry: the zero page.
PAGE_SPECIAL = 0x200
PAGE_SOFT_DIRTY = 0x800
PAGE_NX = 1 << 63
#: Flags of an entry that points at a table.
PAGE_TABLE = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY

_PAGE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class TableLayout:
    """How a processor finds an entry.

    Attributes
    ----------
    shifts : tuple of int
        Lowest address bit that selects an entry, top level first.
    bits : int
        Address bits that one table resolves.
    entry_size : int
        Bytes of an entry.
    frame_mask : int
        Bits of an entry that hold the physical address.
    pgd_order : int
        Order of the block that the top table lies in.
    nx, soft_dirty, invert : bool
        Whether there is a no-execute bit, the kernel's own mark of changed pages, and whether frame numbers in
        entries that the CPU takes for absent are inverted, so that it cannot speculate on them.
    highpte : bool
        Whether tables of pages may lie in high memory.
    names : tuple of str
        Names of the levels.
    """

    shifts: tuple[int, ...]
    bits: int
    entry_size: int
    frame_mask: int
    pgd_order: int
    nx: bool
    soft_dirty: bool
    invert: bool
    highpte: bool
    names: tuple[str, ...]

    @property
    def last(self) -> int:
        """Number of the level that holds the entries of pages."""
        return len(self.shifts) - 1

    @property
    def pmd_size(self) -> int:
        """Bytes that one table of pages covers, which is also the size of a huge page."""
        return 1 << self.shifts[-2]


#: Four levels of 512 entries.
X86_64 = TableLayout((39, 30, 21, 12), 9, 8, 0xFFFFFFFFFF000, 1, True, True, True, False, ("pgd", "pud", "pmd", "pte"))
#: Two levels of 1024 entries (no PAE).
I386 = TableLayout((22, 12), 10, 4, 0xFFFFF000, 0, False, False, False, True, ("pgd", "pte"))
LAYOUTS = {"x86_64": X86_64, "i386": I386}


class UserPageTable:
    """The user half of a process's page tables.

    Parameters
    ----------
    vm : Vm
        Whose memory the tables lie in.
    pgd : int
        Frame of the top table, zeroed or with the kernel's half filled in.

    Attributes
    ----------
    nr_tables : int
        Tables below the top one, those put by for huge pages included.
    """

    def __init__(self, vm: Vm, pgd: int) -> None:
        self.vm = vm
        self.layout = layout = vm.layout
        self.pgd = pgd
        self.nr_tables = 0
        self._spares: dict[int, list[int]] = {}
        self._ram = ram = vm.ram
        self._read = ram.read_u64 if layout.entry_size == 8 else ram.read_u32
        self._write = ram.write_u64 if layout.entry_size == 8 else ram.write_u32
        self._dtype = np.dtype("<u8" if layout.entry_size == 8 else "<u4")

    # Entries

    def _entry(self, table: int, level: int, addr: int) -> int:
        layout = self.layout
        return table + (addr >> layout.shifts[level] & ((1 << layout.bits) - 1)) * layout.entry_size

    def is_table(self, level: int, entry: int) -> bool:
        """Whether an entry of a level points at a table below."""
        return level < self.layout.last and entry & (PAGE_PRESENT | PAGE_PSE) == PAGE_PRESENT

    def offset(self, addr: int, level: int = -1) -> int | None:
        """Return the physical address of the entry for `addr` on a level; None if there is no such table.

        Parameters
        ----------
        addr : int
        level : int
            0 for the top; by default the last.
        """
        table = self.pgd << 12
        for i in range(self.layout.last if level < 0 else level):
            entry = self._read(self._entry(table, i, addr))
            if not self.is_table(i, entry):
                return None
            table = entry & self.layout.frame_mask
        return self._entry(table, self.layout.last if level < 0 else level, addr)

    def alloc(self, addr: int, level: int = -1) -> int | None:
        """Return the physical address of an entry, making the tables above it; None if there is no memory.

        Where a huge page is mapped on the way, this is an error of the caller.

        Source: mm/memory.c:__pud_alloc, __pmd_alloc, __pte_alloc @6.1.192
        """
        last = self.layout.last if level < 0 else level
        table = self.pgd << 12
        for i in range(last):
            at = self._entry(table, i, addr)
            entry = self._read(at)
            if not entry:
                frame = self._alloc_table(i + 1)
                if frame is None:
                    return None
                entry = frame << 12 | PAGE_TABLE
                self._write(at, entry)
            elif not self.is_table(i, entry):
                raise StateError(f"a huge page is mapped at {addr:#x}")
            table = entry & self.layout.frame_mask
        return self._entry(table, last, addr)

    def _alloc_table(self, level: int) -> int | None:
        gfp = GFP_PGTABLE_USER
        if level == self.layout.last and self.layout.highpte:
            gfp |= _HIGHMEM
        frame = self.vm.page_alloc.alloc_pages(gfp, 0)
        if frame == NO_FRAME:
            return None
        self._ram.clear(frame << 12, _PAGE_SIZE)
        self.nr_tables += 1
        self.vm.mod_node(frame, "nr_page_table_pages", 1)
        return frame

    @property
    def ceiling(self) -> int:
        """End of the user half."""
        return 1 << 47 if self.layout.entry_size == 8 else 0xC0000000

    # Tables put by for huge pages

    def alloc_spare(self) -> int | None:
        """Return the frame of an empty table of pages that is in no other table yet; None if there is no memory."""
        return self._alloc_table(self.layout.last)

    def free_spare(self, frame: int) -> None:
        """Free a table that is in no other table."""
        self.nr_tables -= 1
        self.vm.mod_node(frame, "nr_page_table_pages", -1)
        self.vm.page_alloc.free_pages(frame, 0)

    def deposit(self, at: int, frame: int) -> None:
        """Put a table by for the huge page whose entry is at `at`; they are kept for each table of such entries.

        Source: mm/pgtable-generic.c:pgtable_trans_huge_deposit @6.1.192
        """
        spares = self._spares.setdefault(at >> 12, [])
        if spares:
            spares.append(spares.pop(0))
        spares.insert(0, frame)

    def withdraw(self, at: int) -> int:
        """Take back one of the tables that were put by.

        Source: mm/pgtable-generic.c:pgtable_trans_huge_withdraw @6.1.192
        """
        spares = self._spares[at >> 12]
        frame = spares.pop(0)
        if not spares:
            del self._spares[at >> 12]
        return frame

    @property
    def spares(self) -> list[int]:
        """Frames of all tables that are put by."""
        return [frame for frames in self._spares.values() for frame in frames]

    def pte_pfn(self, entry: int) -> int:
        """Return the frame that an entry holds.

        Source: arch/x86/include/asm/pgtable-invert.h @6.1.192
        """
        if self.layout.invert and not entry & PAGE_PRESENT:
            entry = ~entry
        return (entry & self.layout.frame_mask) >> 12

    def pfn_pte(self, pfn: int, prot: int) -> int:
        """Return the entry that maps a frame with the flags `prot`."""
        phys = pfn << 12
        if self.layout.invert and not prot & PAGE_PRESENT:
            phys = ~phys & self.layout.frame_mask
        return phys | prot

    def read(self, at: int) -> int:
        """Return the entry at a physical address."""
        return self._read(at)

    def write(self, at: int, entry: int) -> None:
        """Set the entry at a physical address."""
        self._write(at, entry)

    def get(self, addr: int) -> int:
        """Return the entry of a page, 0 if there is none (or only a huge one)."""
        at = self.offset(addr)
        return 0 if at is None else self._read(at)

    def huge(self, addr: int) -> int:
        """Return the entry of a huge page, 0 if none is mapped at `addr`."""
        level = self.layout.last - 1
        at = self.offset(addr, level)
        entry = 0 if at is None else self._read(at)
        return 0 if not entry or self.is_table(level, entry) else entry

    def entries(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the entries of pages in a range, huge ones too: address, level, physical address, entry.

        What is empty is skipped. Entries may be changed meanwhile, tables may not be freed.
        """
        yield from self._walk(self.pgd << 12, 0, start, end)

    def _walk(self, table: int, level: int, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        layout = self.layout
        shift = layout.shifts[level]
        base = start >> shift + layout.bits << shift + layout.bits
        first, last = (start - base) >> shift, (end - 1 - base) >> shift
        size = layout.entry_size
        raw = np.frombuffer(self._ram.view(table + first * size, (last - first + 1) * size), self._dtype)
        for i in np.flatnonzero(raw).tolist():
            entry = int(raw[i])
            addr = base + (first + i << shift)
            if self.is_table(level, entry):
                below = max(start, addr), min(end, addr + (1 << shift))
                yield from self._walk(entry & layout.frame_mask, level + 1, *below)
            else:
                yield addr, level, table + (first + i) * size, entry

    def tables(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield frame and level of each table below the top one that serves a range."""
        yield from self._tables(self.pgd << 12, 0, start, end)

    def _tables(self, table: int, level: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        shift = self.layout.shifts[level]
        addr = start >> shift << shift
        while addr < end:
            entry = self._read(self._entry(table, level, addr))
            if self.is_table(level, entry):
                frame = entry & self.layout.frame_mask
                yield frame >> 12, level + 1
                if level + 1 < self.layout.last:
                    yield from self._tables(frame, level + 1, max(start, addr), min(end, addr + (1 << shift)))
            addr += 1 << shift

    # Freeing tables

    def free_range(self, addr: int, end: int, floor: int, ceiling: int, free: Callable[[int], None]) -> None:
        """Free the tables that serve `addr` to `end` and nothing from `floor` down or `ceiling` up.

        Parameters
        ----------
        addr, end : int
            The area that goes; its entries are empty.
        floor, ceiling : int
            End of the area below, and start of the one above.
        free : callable
            Takes the frame of each table.

        Source: mm/memory.c:free_pgd_range @6.1.192
        """
        pmd_size = self.layout.pmd_size
        addr &= -pmd_size
        if addr < floor:
            addr += pmd_size
        ceiling &= -pmd_size
        if end > ceiling:
            end -= pmd_size
        if addr < end:
            self._free_level(self.pgd << 12, 0, addr, end, floor, ceiling, free)

    def _free_level(
        self, table: int, level: int, start: int, end: int, floor: int, ceiling: int, free: Callable[[int], None]
    ) -> None:
        """Free the tables that the entries of `table` for a range point at."""
        size = 1 << self.layout.shifts[level]
        addr = start
        while addr < end:
            following = min((addr & -size) + size, end)
            at = self._entry(table, level, addr)
            entry = self._read(at)
            if self.is_table(level, entry):
                below = entry & self.layout.frame_mask
                if level + 1 < self.layout.last:
                    self._free_level(below, level + 1, addr, following, floor, ceiling, free)
                if addr & -size >= floor and following <= ceiling & -size:
                    self._write(at, 0)
                    self.nr_tables -= 1
                    free(below >> 12)
            addr = following
