# SPDX-License-Identifier: GPL-2.0-only
"""The map of virtual addresses: who lives where, and what the linear map translates.

i386 gives each process the lower three gigabytes and keeps the upper one::

    0          0xc0000000     high_memory   +8 MiB      PKMAP_BASE        4 GiB
    | user 3G  | low memory, linear | hole | vmalloc .. | kmap | LDT | CPU | fixmap |

Low memory is mapped at a fixed offset; frames behind it are high memory and
have no address until somebody maps them (``kmap``, ``vmalloc``, user space).

x86-64 has room for everything: all memory is mapped linearly, and vmalloc has
32 TiB of its own::

    0 .. 0x7fff_ffff_f000        user
    0xffff_8880_0000_0000        linear map, 64 TiB
    0xffff_c900_0000_0000        vmalloc, 32 TiB
    0xffff_ea00_0000_0000        page structures (vmemmap)
    0xffff_ffff_8000_0000        kernel image, 0xffff_ffff_c000_0000 modules

Both without address space randomisation (``nokaslr``), x86-64 with four levels of page tables.

Source: arch/x86/include/asm/{page_64_types,page_32_types,pgtable_64_types,pgtable_32_areas,fixmap}.h @6.1.192
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmem.errors import StateError, UsageError
from kmem.mm.vmap import PAGE_SHIFT, PAGE_SIZE, VmapLayout
from kmem.mm.x86 import I386Layout

__all__ = ["KM_MAX_IDX", "LAST_PKMAP", "KernelSection", "Layout", "Level", "Region"]

_PGDIR: Final = 1 << 39
_TOP: Final = 1 << 64

# x86-64, four levels, nokaslr. Source: arch/x86/include/asm/pgtable_64_types.h @6.1.192
_PAGE_OFFSET_64: Final = 0xFFFF888000000000
_VMEMMAP_64: Final = 0xFFFFEA0000000000
_START_KERNEL_MAP: Final = 0xFFFFFFFF80000000
_KERNEL_IMAGE_SIZE: Final = 1 << 30
_MODULES_END_64: Final = 0xFFFFFFFFFF000000
_FIXADDR_TOP_64: Final = 0xFFFFFFFFFF7FF000
_EFI_VA: Final = (0xFFFFFFEF00000000, 0xFFFFFFFF00000000)
_TASK_SIZE_MAX_64: Final = (1 << 47) - PAGE_SIZE
_STRUCT_PAGE_SIZE_64: Final = 64

# Fixed mappings of the reference kernels: how many are permanent, and where those of kmap_local_page begin.
# i386: a hole, two early consoles, the local APIC, 64 I/O APICs; 16 slots for each of 32 CPUs; PCI, two for firmware.
# x86-64: the vsyscall page is number 511; consoles, the local APIC, 128 I/O APICs, Xen, two for firmware follow.
# Source: arch/x86/include/asm/fixmap.h:enum fixed_addresses @6.1.192
_FIX_KMAP_BEGIN_32: Final = 68
_FIX_PERMANENT_32: Final = 583
_FIX_PERMANENT_64: Final = 646

#: Mappings that one task can hold at a time through kmap_local_page (KM_MAX_IDX).
KM_MAX_IDX: Final = 16
#: Pages of the kmap window (LAST_PKMAP, without PAE).
LAST_PKMAP: Final = 1024


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the address space.

    Attributes
    ----------
    name : str
    start, end : int
        First address, and the one behind the last.
    note : str
        What it is for.
    """

    name: str
    start: int
    end: int
    note: str = ""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.end - self.start

    def __contains__(self, addr: object) -> bool:
        return isinstance(addr, int) and self.start <= addr < self.end


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the page tables.

    Attributes
    ----------
    name : str
        ``PGD``, ``PUD``, ``PMD``, ``PTE``.
    shift : int
        Bytes that one entry stands for, as a power of two.
    bits : int
        Entries of a table, as a power of two.
    large : bool
        Whether an entry may map memory itself (PSE).
    """

    name: str
    shift: int
    bits: int
    large: bool = False


@dataclass(frozen=True, slots=True)
class KernelSection:
    """A part of the kernel image that is mapped in one way.

    Attributes
    ----------
    name : str
    start, end : int
        Physical addresses.
    writable, executable : bool
    """

    name: str
    start: int
    end: int
    writable: bool
    executable: bool


_LEVELS_64: Final = (
    Level("PGD", 39, 9),
    Level("PUD", 30, 9, large=True),
    Level("PMD", 21, 9, large=True),
    Level("PTE", 12, 9),
)
_LEVELS_32: Final = (Level("PGD", 22, 10, large=True), Level("PTE", 12, 10))


@dataclass(frozen=True, slots=True)
class Layout:
    """Addresses of one machine, and what can be computed from them alone.

    Made by :meth:`x86_64` or :meth:`i386`.

    Attributes
    ----------
    arch : str
        ``"x86_64"`` or ``"i386"``.
    max_low_pfn, max_pfn : int
        The frames at which the linear map and all memory end.
    page_offset : int
        Address of physical address 0 in the linear map (PAGE_OFFSET).
    task_size : int
        End of user space (TASK_SIZE_MAX).
    vmap : VmapLayout
        Limits of the vmalloc area.
    levels : tuple of Level
        Of the page tables, top first.
    fixaddr_start, fixaddr_top : int
        Fixed mappings.
    modules_vaddr, modules_end : int
        Where modules are loaded; on i386 the vmalloc area.
    pkmap_base : int or None
        The kmap window, on machines with high memory.
    fixed : I386Layout or None
        The fixed part of an i386 kernel's addresses.
    """

    arch: str
    max_low_pfn: int
    max_pfn: int
    page_offset: int
    task_size: int
    vmap: VmapLayout
    levels: tuple[Level, ...]
    fixaddr_start: int
    fixaddr_top: int
    modules_vaddr: int
    modules_end: int
    pkmap_base: int | None = None
    fixed: I386Layout | None = None

    @classmethod
    def x86_64(cls, max_pfn: int) -> Layout:
        """Return the layout of an x86-64 machine whose memory ends at a frame."""
        return cls(
            arch="x86_64",
            max_low_pfn=max_pfn,
            max_pfn=max_pfn,
            page_offset=_PAGE_OFFSET_64,
            task_size=_TASK_SIZE_MAX_64,
            vmap=VmapLayout.x86_64(),
            levels=_LEVELS_64,
            fixaddr_start=_FIXADDR_TOP_64 - (_FIX_PERMANENT_64 << PAGE_SHIFT),
            fixaddr_top=_FIXADDR_TOP_64,
            modules_vaddr=_START_KERNEL_MAP + _KERNEL_IMAGE_SIZE,
            modules_end=_MODULES_END_64,
        )

    @classmethod
    def i386(cls, max_low_pfn: int, max_pfn: int | None = None, fixed: I386Layout | None = None) -> Layout:
        """Return the layout of an i386 machine with 3 GiB for user space.

        Parameters
        ----------
        max_low_pfn, max_pfn : int
            The frames at which low memory and all memory end.
        fixed : I386Layout, optional
            The fixed part, on which ``vmalloc=`` of the command line has an influence.
        """
        fixed = fixed or I386Layout()
        vmap = VmapLayout.i386(max_low_pfn, fixed)
        return cls(
            arch="i386",
            max_low_pfn=max_low_pfn,
            max_pfn=max_low_pfn if max_pfn is None else max_pfn,
            page_offset=fixed.page_offset,
            task_size=fixed.page_offset,
            vmap=vmap,
            levels=_LEVELS_32,
            fixaddr_start=fixed.fixaddr_top - (_FIX_PERMANENT_32 << PAGE_SHIFT),
            fixaddr_top=fixed.fixaddr_top,
            modules_vaddr=vmap.vmalloc_start,
            modules_end=vmap.vmalloc_end,
            pkmap_base=fixed.pkmap_base,
            fixed=fixed,
        )

    # What follows

    @property
    def bits_per_long(self) -> int:
        """64 or 32."""
        return self.vmap.bits_per_long

    @property
    def high_memory(self) -> int:
        """Address at which the linear map ends."""
        return self.page_offset + (self.max_low_pfn << PAGE_SHIFT)

    @property
    def vmalloc_start(self) -> int:
        """First address of the vmalloc area (VMALLOC_START)."""
        return self.vmap.vmalloc_start

    @property
    def vmalloc_end(self) -> int:
        """End of the vmalloc area (VMALLOC_END); on x86-64 the kernel takes one byte off."""
        return self.vmap.vmalloc_end

    @property
    def highmem(self) -> bool:
        """Whether some frames have no address in the linear map."""
        return self.max_pfn > self.max_low_pfn

    @property
    def kernel_map(self) -> int:
        """Address of physical address 0 in the mapping of the kernel image."""
        return self.page_offset if self.arch == "i386" else _START_KERNEL_MAP

    def regions(self) -> list[Region]:
        """Return the parts of the address space, lowest first; what is between them is not used."""
        parts = self._regions_32() if self.fixed is not None else self._regions_64()
        return [part for part in parts if part.size > 0]

    def _regions_32(self) -> list[Region]:
        fixed = self.fixed
        assert fixed is not None and self.pkmap_base is not None
        pmd = fixed.PMD_SIZE
        ldt = self.pkmap_base + pmd
        return [
            Region("user", 0, self.task_size, "each process its own"),
            Region("lowmem", self.page_offset, self.high_memory, "linear map of low memory"),
            Region("vmalloc", self.vmalloc_start, self.vmalloc_end, "vmalloc, vmap, ioremap, modules"),
            Region("pkmap", self.pkmap_base, self.pkmap_base + LAST_PKMAP * PAGE_SIZE, "kmap of high memory"),
            Region("ldt", ldt, ldt + pmd, "descriptor tables of processes"),
            Region("cpu entry", ldt + pmd, fixed.fixaddr_top - (fixed.fixmap_pages << PAGE_SHIFT), "entry stacks"),
            Region("fixmap", self.fixaddr_start, self.fixaddr_top, "fixed mappings, kmap_local_page"),
        ]

    def _regions_64(self) -> list[Region]:
        ldt = _TOP - 240 * _PGDIR
        cpu_entry = _TOP - 4 * _PGDIR
        espfix = _TOP - 2 * _PGDIR
        vmemmap = _VMEMMAP_64 + self.max_pfn * _STRUCT_PAGE_SIZE_64
        return [
            Region("user", 0, self.task_size, "each process its own"),
            Region("guard hole", _TOP - 256 * _PGDIR, ldt, "for hypervisors"),
            Region("ldt", ldt, ldt + _PGDIR, "descriptor tables of processes"),
            Region("direct map", self.page_offset, self.high_memory, "linear map of all memory"),
            Region("vmalloc", self.vmalloc_start, self.vmalloc_end, "vmalloc, vmap, ioremap, stacks"),
            Region("vmemmap", _VMEMMAP_64, vmemmap, "page structures"),
            Region("cpu entry", cpu_entry, cpu_entry + _PGDIR, "entry stacks"),
            Region("espfix", espfix, espfix + _PGDIR, "stacks for 16-bit returns"),
            Region("efi", *_EFI_VA, "firmware"),
            Region("kernel", _START_KERNEL_MAP, self.modules_vaddr, "text and data"),
            Region("modules", self.modules_vaddr, self.modules_end, "modules and programs of BPF"),
            Region("fixmap", self.fixaddr_start, self.fixaddr_top, "fixed mappings, vsyscall page"),
        ]

    def region(self, addr: int) -> Region | None:
        """Return the part that an address lies in, None for a hole."""
        return next((part for part in reversed(self.regions()) if addr in part), None)

    # Addresses

    def phys_to_virt(self, phys: int) -> int:
        """Return the address of a physical address in the linear map: a fixed offset.

        Raises
        ------
        UsageError
            If it is high memory, which the linear map does not reach.

        Source: arch/x86/include/asm/io.h:phys_to_virt @6.1.192
        Differs: the kernel would compute an address of something else.
        """
        if not 0 <= phys < self.max_low_pfn << PAGE_SHIFT:
            raise UsageError(
                f"physical address {phys:#x} is not in the linear map", remedy="map it with kmap(), vmap() or ioremap()"
            )
        return self.page_offset + phys

    def virt_to_phys(self, addr: int) -> int:
        """Return the physical address behind an address of the linear map, or of the kernel image.

        Raises
        ------
        UsageError
            If it is an address of neither.

        Source: arch/x86/include/asm/page_64.h:__phys_addr_nodebug @6.1.192
        Differs: the kernel would compute nonsense, unless built to check (CONFIG_DEBUG_VIRTUAL).
        """
        if self.page_offset <= addr < self.high_memory:
            return addr - self.page_offset
        if self.arch == "x86_64" and _START_KERNEL_MAP <= addr < _START_KERNEL_MAP + _KERNEL_IMAGE_SIZE:
            return addr - _START_KERNEL_MAP
        raise UsageError(f"{addr:#x} is no address of the linear map", remedy="of vmalloc's, vmalloc_to_page() tells")

    def virt_to_pfn(self, addr: int) -> int:
        """Return the frame behind an address of the linear map."""
        return self.virt_to_phys(addr) >> PAGE_SHIFT

    def lowmem_address(self, pfn: int) -> int | None:
        """Return the address of a frame in the linear map; None for high memory.

        Source: mm/highmem.c:page_address @6.1.192, of low memory only
        """
        return self.page_offset + (pfn << PAGE_SHIFT) if pfn < self.max_low_pfn else None

    def is_vmalloc_addr(self, addr: int) -> bool:
        """Whether an address lies in the vmalloc area.

        Source: include/linux/mm.h:is_vmalloc_addr @6.1.192
        """
        return self.vmalloc_start <= addr < self.vmalloc_end

    def is_user_addr(self, addr: int) -> bool:
        """Whether an address belongs to processes."""
        return 0 <= addr < self.task_size

    def is_canonical(self, addr: int) -> bool:
        """Whether the processor knows the address at all: on x86-64 bits 47 to 63 must be equal."""
        if self.arch == "i386":
            return 0 <= addr < 1 << 32
        return 0 <= addr < 1 << 47 or _TOP - (1 << 47) <= addr < _TOP

    def fix_to_virt(self, index: int) -> int:
        """Return the address of a fixed mapping.

        Source: include/asm-generic/fixmap.h:__fix_to_virt @6.1.192
        """
        return self.fixaddr_top - (index << PAGE_SHIFT)

    def kmap_local_address(self, index: int) -> int:
        """Return the address of a slot of kmap_local_page, `index` counted over all CPUs.

        Raises
        ------
        StateError
            On a machine without high memory support, which has no such slots.
        """
        if self.fixed is None:
            raise StateError(f"{self.arch} has no slots for kmap_local_page: all memory has an address")
        return self.fix_to_virt(_FIX_KMAP_BEGIN_32 + index)
