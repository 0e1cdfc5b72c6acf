# SPDX-License-Identifier: GPL-2.0-only
"""Page tables: trees of page frames whose entries are bytes in the machine's memory.

The processor reads them, and so does :meth:`PageTable.translate`, which is what
a processor does with an address.  x86-64 has four levels of 512 entries of 8
bytes, i386 two levels of 1,024 entries of 4 bytes::

    x86-64   | PGD 9 bits | PUD 9 | PMD 9 | PTE 9 | offset 12 |     an entry of PMD or PUD may
    i386     | PGD 10 bits              | PTE 10  | offset 12 |     map 2 MiB / 1 GiB (4 MiB) itself

Every process has a tree of its own.  The kernel's part is the same for all:
their top tables hold the same entries there, which point to the same tables.
``init_mm`` is the reference; an entry that the kernel adds to it later is
copied to all others at once.

Translations are not cached: a change is seen by the next access.

Source: arch/x86/include/asm/pgtable_types.h, arch/x86/mm/{init_64,init_32,pgtable,fault}.c, mm/memory.c @6.1.192
Differs: there is no TLB; the fifth level does not exist and the P4D is folded into the PGD.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from kmem.errors import StateError
from kmem.mm import gfp as flag
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.layout import Layout, Level
from kmem.mm.ram import Ram
from kmem.mm.vmap import PAGE_SHIFT, PAGE_SIZE

__all__ = [
    "PAGE_KERNEL",
    "PAGE_KERNEL_EXEC",
    "PAGE_KERNEL_RO",
    "PAGE_KERNEL_ROX",
    "PF_INSTR",
    "PF_PROT",
    "PF_USER",
    "PF_WRITE",
    "_PAGE_ACCESSED",
    "_PAGE_DIRTY",
    "_PAGE_GLOBAL",
    "_PAGE_NX",
    "_PAGE_PCD",
    "_PAGE_PRESENT",
    "_PAGE_PROTNONE",
    "_PAGE_PSE",
    "_PAGE_PWT",
    "_PAGE_RW",
    "_PAGE_TABLE",
    "_PAGE_USER",
    "PageFault",
    "PageTable",
    "Step",
    "Walk",
    "entry_flags",
]

# Bits of an entry. Source: arch/x86/include/asm/pgtable_types.h @6.1.192
_PAGE_PRESENT: Final = 0x001
_PAGE_RW: Final = 0x002
_PAGE_USER: Final = 0x004
_PAGE_PWT: Final = 0x008
_PAGE_PCD: Final = 0x010
_PAGE_ACCESSED: Final = 0x020
_PAGE_DIRTY: Final = 0x040
_PAGE_PSE: Final = 0x080
_PAGE_GLOBAL: Final = 0x100
#: Without the present bit: mapped, but nobody may touch it (PROT_NONE).
_PAGE_PROTNONE: Final = _PAGE_GLOBAL
_PAGE_NX: Final = 1 << 63
#: What an entry that points to a table holds; what a user may do is decided by the last level.
_PAGE_TABLE: Final = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY

# Protections of the kernel's mappings. i386 without PAE has no NX bit: it is dropped there.
PAGE_KERNEL: Final = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_GLOBAL | _PAGE_NX
PAGE_KERNEL_EXEC: Final = PAGE_KERNEL & ~_PAGE_NX
PAGE_KERNEL_RO: Final = PAGE_KERNEL & ~_PAGE_RW
PAGE_KERNEL_ROX: Final = PAGE_KERNEL_RO & ~_PAGE_NX

# Error code of a fault. Source: arch/x86/include/asm/trap_pf.h @6.1.192
PF_PROT: Final = 0x1
PF_WRITE: Final = 0x2
PF_USER: Final = 0x4
PF_INSTR: Final = 0x10

_PFN_MASK_64: Final = 0x000FFFFFFFFFF000
_PFN_MASK_32: Final = 0xFFFFF000
_GFP_PGTABLE_KERNEL: Final = GFP_KERNEL | flag.__GFP_ZERO

_FLAG_NAMES: Final = (
    (_PAGE_PRESENT, "Present"),
    (_PAGE_RW, "RW"),
    (_PAGE_USER, "User"),
    (_PAGE_PWT, "PWT"),
    (_PAGE_PCD, "PCD"),
    (_PAGE_ACCESSED, "Accessed"),
    (_PAGE_DIRTY, "Dirty"),
    (_PAGE_PSE, "PSE"),
    (_PAGE_GLOBAL, "Global"),
    (_PAGE_NX, "NX"),
)


class _Frames(Protocol):
    """Where frames for tables come from: the page allocator."""

    def alloc_pages(self, gfp: int, order: int, node: int = -1) -> int: ...


class PageFault(Exception):
    """The processor could not translate an address; the kernel decides what becomes of it.

    Attributes
    ----------
    addr : int
        The address (CR2).
    error_code : int
        ``PF_PROT`` (a page is there, but may not be used so), ``PF_WRITE``, ``PF_USER``, ``PF_INSTR``.
    """

    def __init__(self, addr: int, error_code: int) -> None:
        super().__init__(f"page fault at {addr:#x}, error code {error_code:#x}")
        self.addr = addr
        self.error_code = error_code


def entry_flags(value: int) -> tuple[str, ...]:
    """Return the names of the bits of an entry: ``("Present", "RW", ...)``.

    In the last level the bit of PSE chooses a memory type, and is not used.
    """
    return tuple(name for bit, name in _FLAG_NAMES if value & bit)


@dataclass(frozen=True, slots=True)
class Step:
    """One level of a walk.

    Attributes
    ----------
    level : Level
    table_pfn : int
        Frame that the table is in.
    index : int
        Number of the entry in it.
    phys : int
        Physical address of the entry.
    value : int
        The entry.
    leaf : bool
        Whether it maps memory, and does not point to a further table.
    """

    level: Level
    table_pfn: int
    index: int
    phys: int
    value: int
    leaf: bool

    @property
    def name(self) -> str:
        """``PGD``, ``PUD``, ``PMD`` or ``PTE``."""
        return self.level.name

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the bits that are set."""
        return entry_flags(self.value)

    @property
    def present(self) -> bool:
        """Whether the processor uses the entry."""
        return bool(self.value & _PAGE_PRESENT)

    @property
    def size(self) -> int:
        """Bytes that the entry stands for."""
        return 1 << self.level.shift


class Walk(list[Step]):
    """The way of an address through the tables, top first, as far as it goes.

    Parameters
    ----------
    addr : int
    steps : sequence of Step
    phys : int or None
        Physical address that it leads to, None if it leads nowhere.
    digits : int
        Hexadecimal digits of an entry.
    """

    def __init__(self, addr: int, steps: Sequence[Step], phys: int | None, digits: int) -> None:
        super().__init__(steps)
        self.addr = addr
        self.phys = phys
        self._digits = digits

    @property
    def pfn(self) -> int | None:
        """The frame that the address leads to, None if it leads nowhere."""
        return None if self.phys is None else self.phys >> PAGE_SHIFT

    def __repr__(self) -> str:
        lines = [f"{self.addr:0{self._digits}x}"]
        for step in self:
            place = f"{step.name}[{step.index}] in frame {step.table_pfn:#x}"
            flags = " ".join(step.flags) if step.value else "none"
            lines.append(f"  {place:28} {step.value:0{self._digits}x}  {flags}")
        end = "not mapped" if self.phys is None else f"physical {self.phys:#x}, frame {self.pfn:#x}"
        return "\n".join([*lines, f"  {end}"])


class PageTable:
    """The page tables at one top table, as the processor sees them: those of a process, or the kernel's.

    Parameters
    ----------
    init_mm : PageTable
        The kernel's own tables.
    pgd : int
        Frame of the top table.

    Attributes
    ----------
    pgd : int
    layout : Layout
    ram : Ram
    pgd_list : list of int
        Of ``init_mm``: frames of the top tables of all processes.
    nr_tables : int
        Tables below the top one that were made here.

    See Also
    --------
    kmem.mm.pgalloc : the user's part of a process's tables, where its tables are made and freed.
    """

    def __init__(self, init_mm: PageTable, pgd: int) -> None:
        self._setup(init_mm.ram, init_mm.layout, init_mm.page_alloc, init_mm)
        self.pgd = pgd

    @classmethod
    def boot(cls, ram: Ram, layout: Layout, frames: Iterator[int], page_alloc: _Frames) -> PageTable:
        """Return the kernel's own tables, empty.

        Parameters
        ----------
        frames : iterator of int
            Reserved frames for the tables that are made until :meth:`boot_done` is called.
        page_alloc
            Where frames of later tables come from.

        Source: arch/x86/kernel/head_64.S:init_top_pgt, arch/x86/kernel/head_32.S:swapper_pg_dir @6.1.192
        """
        table = cls.__new__(cls)
        table._setup(ram, layout, page_alloc, None)
        table._boot_frames = frames
        table.pgd = table._new_table(0)
        return table

    def _setup(self, ram: Ram, layout: Layout, page_alloc: _Frames, init_mm: PageTable | None) -> None:
        self.ram = ram
        self.layout = layout
        self.page_alloc = page_alloc
        self.init_mm = self if init_mm is None else init_mm
        self.pgd_list: list[int] = []
        self._views: dict[int, PageTable] = {}
        #: Frames (first, end) that the page allocator manages, on ``init_mm``.
        self.managed_ranges: list[tuple[int, int]] = []
        self.nr_tables = 0
        # Where the entry of each table is that was made after boot, and its place in the top table or -1.
        self._made: list[tuple[int, int]] = []
        #: Oopses so far, counted on ``init_mm`` (``die_counter``).
        self.die_counter = 0
        self._boot_frames: Iterator[int] | None = None
        #: Tables that were there when boot was done.
        self.boot_tables = 0
        #: Frame of the page of zeros, on ``init_mm``; -1 if there is none.
        self.zero_pfn = -1
        wide = layout.bits_per_long == 64
        self._entries = ram.u64 if wide else ram.u32
        self._shift = 3 if wide else 2
        self._pfn_mask = _PFN_MASK_64 if wide else _PFN_MASK_32
        self._all_bits = (1 << layout.bits_per_long) - 1
        self._levels = [(level.shift, (1 << level.bits) - 1, level) for level in layout.levels]
        self._last = len(self._levels) - 1
        self._addr_mask = (1 << (layout.levels[0].shift + layout.levels[0].bits)) - 1

    # Frames of tables

    def _new_table(self, depth: int) -> int:
        """Return a zeroed frame for a table of a level; -1 if there is none.

        Source: include/asm-generic/pgalloc.h:__pte_alloc_one_kernel @6.1.192
        """
        if self._boot_frames is not None:
            pfn = next(self._boot_frames, -1)
            if pfn < 0:
                raise StateError("the kernel image has no room for the page tables of so much memory")
            self.ram.clear(pfn << PAGE_SHIFT, PAGE_SIZE)
        else:
            pfn = self.page_alloc.alloc_pages(_GFP_PGTABLE_KERNEL, 0)
            if pfn < 0:
                return -1
        if depth:
            self.nr_tables += 1
        return pfn

    def boot_done(self) -> None:
        """From now on frames of tables come from the page allocator; one more of the image is the page of zeros.

        Source: arch/x86/kernel/head_64.S:empty_zero_page @6.1.192
        """
        if self._boot_frames is not None:
            self.zero_pfn = next(self._boot_frames, -1)
            if self.zero_pfn >= 0:
                self.ram.clear(self.zero_pfn << PAGE_SHIFT, PAGE_SIZE)
        self._boot_frames = None
        self.boot_tables = self.nr_tables

    def forget_tables(self, nr_tables: int) -> None:
        """Take the latest tables out of the tree until so many are left; their frames are somebody else's business.

        Parameters
        ----------
        nr_tables : int
            What :attr:`nr_tables` was at the time to go back to. Tables are never freed, so those made since come last.
        """
        while self.nr_tables > nr_tables:
            where, index = self._made.pop()
            self._write(where, 0)
            if index >= 0:
                self._sync(index, 0)
            self.nr_tables -= 1

    # The kernel's part

    @property
    def kernel_index(self) -> int:
        """Number of the first entry of the top table that belongs to the kernel."""
        shift, mask, _ = self._levels[0]
        return (self.layout.page_offset >> shift) & mask

    def pgd_ctor(self, pgd: int) -> None:
        """Give a new top table the kernel's entries, and keep them up to date from now on.

        Parameters
        ----------
        pgd : int
            Frame of the top table of a new process.

        Source: arch/x86/mm/pgtable.c:pgd_ctor @6.1.192
        """
        first = self.kernel_index << self._shift
        source, target = self.init_mm.pgd << PAGE_SHIFT, pgd << PAGE_SHIFT
        size = PAGE_SIZE - first
        self.ram.view(target + first, size)[:] = self.ram.view(source + first, size)
        self.init_mm.pgd_list.append(pgd)

    def pgd_dtor(self, pgd: int) -> None:
        """Forget the top table of a process that ends.

        Source: arch/x86/mm/pgtable.c:pgd_dtor @6.1.192
        """
        self.init_mm.pgd_list.remove(pgd)
        self.init_mm._views.pop(pgd, None)

    def of(self, pgd: int) -> PageTable:
        """Return the page tables of a process by the frame of its top table."""
        table = self._views.get(pgd)
        if table is None:
            table = self._views[pgd] = PageTable(self, pgd)
        return table

    def _sync(self, index: int, value: int) -> None:
        """Copy a new entry of the kernel's top table to those of all processes.

        Source: arch/x86/mm/init_64.c:sync_global_pgds_l4, arch/x86/mm/fault.c:vmalloc_sync_one @6.1.192
        """
        if index >= self.kernel_index:
            for pgd in self.pgd_list:
                self._entries[((pgd << PAGE_SHIFT) >> self._shift) + index] = value

    # Entries

    def _read(self, phys: int) -> int:
        return self._entries[phys >> self._shift]

    def _write(self, phys: int, value: int) -> None:
        self._entries[phys >> self._shift] = value & self._all_bits

    def pte_offset(self, addr: int) -> int | None:
        """Return where the last-level entry of an address is, a physical address; None if there is no table for it.

        Source: include/linux/pgtable.h:pte_offset_kernel @6.1.192
        """
        table = self.pgd << PAGE_SHIFT
        for shift, mask, _ in self._levels[:-1]:
            value = self._read(table + (((addr >> shift) & mask) << self._shift))
            if not value & _PAGE_PRESENT or value & _PAGE_PSE:
                return None
            table = value & self._pfn_mask
        shift, mask, _ = self._levels[-1]
        return table + (((addr >> shift) & mask) << self._shift)

    def pte_alloc(self, addr: int) -> int | None:
        """Return where the last-level entry of an address is, making the tables that lead to it.

        Returns
        -------
        int or None
            A physical address; None if there is no memory for a table.

        Raises
        ------
        StateError
            If the address is mapped by a large page.

        Notes
        -----
        May sleep, as frames are asked for with GFP_KERNEL.

        Source: mm/memory.c:__pud_alloc, __pmd_alloc, __pte_alloc, __pte_alloc_kernel @6.1.192
        """
        return self.table_alloc(addr, self._last)

    def table_alloc(self, addr: int, depth: int) -> int | None:
        """Return where the entry of an address is in the table of a level, making the tables that lead to it.

        Parameters
        ----------
        addr : int
        depth : int
            Number of the level in ``layout.levels``, from 0.

        Raises
        ------
        StateError
            If the address is mapped by a large page of a level above.
        """
        table = self.pgd << PAGE_SHIFT
        for number in range(depth):
            shift, mask, level = self._levels[number]
            index = (addr >> shift) & mask
            where = table + (index << self._shift)
            value = self._read(where)
            if not value & _PAGE_PRESENT:
                pfn = self._new_table(number + 1)
                if pfn < 0:
                    return None
                value = (pfn << PAGE_SHIFT) | _PAGE_TABLE
                self._write(where, value)
                if self._boot_frames is None:
                    self._made.append((where, index if number == 0 else -1))
                if number == 0 and self.init_mm is self:
                    self._sync(index, value)
            elif value & _PAGE_PSE and level.large:
                raise StateError(f"{addr:#x} is mapped by a large page")
            table = value & self._pfn_mask
        shift, mask, _ = self._levels[depth]
        return table + (((addr >> shift) & mask) << self._shift)

    def get_pte(self, addr: int) -> int:
        """Return the last-level entry of an address, 0 if there is none."""
        where = self.pte_offset(addr)
        return 0 if where is None else self._read(where)

    def set_pte(self, addr: int, value: int) -> None:
        """Write the last-level entry of an address, whose table must exist.

        Raises
        ------
        StateError
            If there is no table for it.

        Source: arch/x86/include/asm/pgtable.h:set_pte_at @6.1.192
        """
        where = self.pte_offset(addr)
        if where is None:
            raise StateError(f"no page table for {addr:#x}")
        self._write(where, value)

    def mk_pte(self, pfn: int, prot: int) -> int:
        """Return the entry that maps a frame with a protection.

        Source: arch/x86/include/asm/pgtable.h:mk_pte @6.1.192
        """
        return ((pfn << PAGE_SHIFT) | prot) & self._all_bits

    def pte_pfn(self, value: int) -> int:
        """Return the frame of an entry.

        Source: arch/x86/include/asm/pgtable.h:pte_pfn @6.1.192
        """
        return (value & self._pfn_mask) >> PAGE_SHIFT

    def entries(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (address, entry) for each last-level entry between two addresses that is not empty.

        Tables that do not exist are skipped in one step; large pages are left out.
        """
        yield from self._entries_of(0, self.pgd << PAGE_SHIFT, start, end)

    def _entries_of(self, depth: int, table: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        shift, mask, _ = self._levels[depth]
        addr = start
        while addr < end:
            behind = min(((addr >> shift) + 1) << shift, end)
            value = self._read(table + (((addr >> shift) & mask) << self._shift))
            if depth == self._last:
                if value:
                    yield addr & -(1 << shift), value
            elif value & _PAGE_PRESENT and not value & _PAGE_PSE:
                yield from self._entries_of(depth + 1, value & self._pfn_mask, addr, behind)
            addr = behind

    # Mapping

    def map_page(self, addr: int, pfn: int, prot: int = PAGE_KERNEL) -> bool:
        """Map one page.

        Parameters
        ----------
        addr : int
            Page-aligned.
        pfn : int
        prot : int
            ``_PAGE_*`` bits.

        Returns
        -------
        bool
            False if there is no memory for a table.

        Source: mm/vmalloc.c:vmap_pages_pte_range @6.1.192
        """
        where = self.pte_alloc(addr)
        if where is None:
            return False
        self._write(where, (pfn << PAGE_SHIFT) | prot)
        return True

    def unmap_page(self, addr: int) -> int:
        """Empty the last-level entry of an address, and return what it was; tables stay.

        Source: arch/x86/include/asm/pgtable.h:ptep_get_and_clear @6.1.192
        """
        where = self.pte_offset(addr)
        if where is None:
            return 0
        value = self._read(where)
        self._write(where, 0)
        return value

    def map_pages(self, addr: int, frames: Sequence[int], prot: int = PAGE_KERNEL) -> bool:
        """Map frames one behind the other; False if there was no memory for a table.

        Tables are made from the lowest address on, as they are needed.

        Source: mm/vmalloc.c:vmap_small_pages_range_noflush @6.1.192
        """
        per_table = 1 << self._levels[-1][2].bits
        place = 0
        while place < len(frames):
            where = self.pte_alloc(addr)
            if where is None:
                return False
            count = min(per_table - ((addr >> PAGE_SHIFT) & (per_table - 1)), len(frames) - place)
            first = where >> self._shift
            bits = self._all_bits
            for offset in range(count):
                self._entries[first + offset] = ((frames[place + offset] << PAGE_SHIFT) | prot) & bits
            place += count
            addr += count << PAGE_SHIFT
        return True

    def map_range(self, addr: int, phys: int, size: int, prot: int = PAGE_KERNEL, *, large: bool = True) -> bool:
        """Map a range of physical addresses, with large pages where both sides are aligned to one.

        Source: mm/vmalloc.c:vmap_range_noflush @6.1.192; arch/x86/mm/init_64.c:phys_pmd_init @6.1.192
        """
        end = addr + size
        depth_large = self._last - 1
        span = 1 << self._levels[depth_large][0]
        while addr < end:
            if large and not (addr | phys) % span and end - addr >= span:
                where = self.table_alloc(addr, depth_large)
                if where is None:
                    return False
                shift, mask, _ = self._levels[depth_large]
                count = min(mask + 1 - ((addr >> shift) & mask), (end - addr) >> shift)
                for index in range(where >> self._shift, (where >> self._shift) + count):
                    self._entries[index] = (phys | prot | _PAGE_PSE) & self._all_bits
                    phys += span
                addr += count * span
                continue
            stop = min(end, (addr // span + 1) * span)
            count = (stop - addr) >> PAGE_SHIFT
            if not self.map_pages(addr, range(phys >> PAGE_SHIFT, (phys >> PAGE_SHIFT) + count), prot):
                return False
            addr, phys = stop, phys + (count << PAGE_SHIFT)
        return True

    def unmap_range(self, start: int, end: int) -> None:
        """Empty all entries of a range of pages; large pages that lie inside are emptied too, tables stay.

        Source: mm/vmalloc.c:vunmap_range_noflush @6.1.192
        """
        self._unmap_range(0, self.pgd << PAGE_SHIFT, start, end)

    def _unmap_range(self, depth: int, table: int, start: int, end: int) -> None:
        shift, mask, _ = self._levels[depth]
        if depth == self._last:
            first = (table >> self._shift) + ((start >> shift) & mask)
            for index in range(first, first + ((end - start) >> shift)):
                self._entries[index] = 0
            return
        addr = start
        while addr < end:
            behind = min(((addr >> shift) + 1) << shift, end)
            where = table + (((addr >> shift) & mask) << self._shift)
            value = self._read(where)
            if value & _PAGE_PRESENT:
                if value & _PAGE_PSE:
                    self._write(where, 0)
                else:
                    self._unmap_range(depth + 1, value & self._pfn_mask, addr, behind)
            addr = behind

    # What a processor does

    def translate(self, addr: int, write: bool = False, user: bool = False, execute: bool = False) -> int:
        """Return the physical address behind an address, as the processor finds it.

        The accessed bit is set on the way, the dirty bit by a write.

        Parameters
        ----------
        addr : int
        write, execute : bool
            What is to be done there.
        user : bool
            Whether code of a process does it.

        Raises
        ------
        PageFault
            If it may not.
        """
        code = (PF_WRITE if write else 0) | (PF_USER if user else 0) | (PF_INSTR if execute else 0)
        table = self.pgd << PAGE_SHIFT
        rights = _PAGE_RW | _PAGE_USER
        no_execute = 0
        for number, (shift, mask, level) in enumerate(self._levels):
            where = table + (((addr >> shift) & mask) << self._shift)
            value = self._entries[where >> self._shift]
            if not value & _PAGE_PRESENT:
                raise PageFault(addr, code)
            rights &= value
            no_execute |= value & _PAGE_NX
            if number == self._last or (value & _PAGE_PSE and level.large):
                break
            if not value & _PAGE_ACCESSED:
                self._write(where, value | _PAGE_ACCESSED)
            table = value & self._pfn_mask
        if (write and not rights & _PAGE_RW) or (user and not rights & _PAGE_USER) or (execute and no_execute):
            raise PageFault(addr, code | PF_PROT)
        used = value | _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)
        if used != value:
            self._write(where, used)
        offset = (1 << shift) - 1
        return (value & self._pfn_mask & ~offset) | (addr & offset)

    def walk(self, addr: int) -> Walk:
        """Return the entries that lead to an address, top first, without touching their bits."""
        steps: list[Step] = []
        table = self.pgd << PAGE_SHIFT
        phys: int | None = None
        for number, (shift, mask, level) in enumerate(self._levels):
            index = (addr >> shift) & mask
            where = table + (index << self._shift)
            value = self._read(where)
            present = bool(value & _PAGE_PRESENT)
            leaf = present and (number == self._last or bool(value & _PAGE_PSE and level.large))
            steps.append(Step(level, table >> PAGE_SHIFT, index, where, value, leaf))
            if leaf:
                offset = (1 << shift) - 1
                phys = (value & self._pfn_mask & ~offset) | (addr & offset)
            if leaf or not present:
                break
            table = value & self._pfn_mask
        return Walk(addr, steps, phys, self.layout.bits_per_long // 4)

    def mapped_frames(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (address, frame) of every present page of a range, large pages left out."""
        for addr, value in self.entries(start, end):
            if value & _PAGE_PRESENT:
                yield addr, self.pte_pfn(value)

    def validate(self) -> None:
        """Check that every process shares the kernel's part with ``init_mm``.

        Raises
        ------
        StateError
            One does not.
        """
        first = self.kernel_index << self._shift
        kernel = bytes(self.ram.view((self.init_mm.pgd << PAGE_SHIFT) + first, PAGE_SIZE - first))
        for pgd in self.init_mm.pgd_list:
            if bytes(self.ram.view((pgd << PAGE_SHIFT) + first, PAGE_SIZE - first)) != kernel:
                raise StateError(f"the page tables at frame {pgd:#x} do not share the kernel's part")
