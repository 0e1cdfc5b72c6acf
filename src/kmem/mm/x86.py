# SPDX-License-Identifier: GPL-2.0-only
"""x86 memory set-up: from the firmware's memory map and the command line to zone limits.

Two configurations are known: x86-64 (sparse memory, NUMA) and i386 with a 3G/1G
split and without PAE, on which all memory that has no place in the kernel's
part of the address space is high memory.

Source: arch/x86/kernel/{e820,setup}.c, arch/x86/mm/{init,init_32,numa_emulation,pgtable_32}.c @6.1.192
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kmem.errors import ConfigError
from kmem.mm.memblock import PAGE_SHIFT, PAGE_SIZE, MemBlock, MemoryRange
from kmem.mm.mm_init import ArchZones, KernelCore, SystemZones, parse_size_or_percent

__all__ = [
    "ARCHITECTURES",
    "I386",
    "X86_64",
    "BootOptions",
    "I386Layout",
    "machine_zones",
    "memparse",
    "pc_memory_map",
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MAX_DMA_PFN = 16 * MIB >> PAGE_SHIFT
MAX_DMA32_PFN = 4 * GIB >> PAGE_SHIFT
BIOS_BEGIN, BIOS_END = 0xA0000, 0x100000
FAKE_NODE_MIN_SIZE = 32 * MIB

X86_64 = ArchZones(
    arch="x86_64",
    zone_names=("DMA", "DMA32", "Normal", "Movable", "Device"),
    normal=2,
    movable=3,
    highmem=None,
    pageblock_order=9,
    lowmem_reserve_ratio=(256, 256, 32, 0, 0),
)

I386 = ArchZones(
    arch="i386",
    zone_names=("DMA", "Normal", "HighMem", "Movable"),
    normal=1,
    movable=3,
    highmem=2,
    pageblock_order=10,
    lowmem_reserve_ratio=(256, 32, 0, 0),
)

#: The architectures by every name they are known under.
ARCHITECTURES = {"x86_64": X86_64, "amd64": X86_64, "i386": I386, "i686": I386}

_SUFFIXES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def memparse(text: str) -> int:
    """Return the bytes that a size on the command line stands for.

    Decimal, ``0x`` hexadecimal or octal with a leading 0, then one of
    ``K M G T P E`` in either case, or nothing.

    Raises
    ------
    ConfigError
        If `text` is no size.

    Source: lib/cmdline.c:memparse @6.1.192
    """
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([kKmMgGtTpPeE]?)", text.strip())
    if not match:
        raise ConfigError(f"{text!r} is no size", remedy="write it as 4096, 512M, 0x1000 or 2G")
    digits = match[1]
    base = 16 if digits[:2] in ("0x", "0X") else 8 if len(digits) > 1 and digits[0] == "0" else 10
    try:
        return int(digits, base) << _SUFFIXES[match[2].lower()]
    except ValueError:
        raise ConfigError(f"{text!r} is no size", remedy="a leading 0 means octal") from None


@dataclass(frozen=True, slots=True)
class BootOptions:
    """The kernel command line, as far as it concerns memory.

    Attributes
    ----------
    mem_bytes : int or None
        ``mem=``: memory at and above this address is not used.
    vmalloc_bytes : int or None
        ``vmalloc=`` (i386): size of the vmalloc area.
    highmem_bytes : int or None
        ``highmem=`` (i386): how much high memory there is to be.
    core : KernelCore
        ``kernelcore=`` and ``movablecore=``.
    numa_fake : str or None
        ``numa=fake=``: a number of nodes, or a size.
    transparent_hugepage : str
        ``always``, ``madvise`` or ``never``.
    """

    mem_bytes: int | None = None
    vmalloc_bytes: int | None = None
    highmem_bytes: int | None = None
    core: KernelCore = field(default_factory=KernelCore)
    numa_fake: str | None = None
    transparent_hugepage: str = "always"

    @classmethod
    def parse(cls, cmdline: str) -> BootOptions:
        """Read a command line; options that do not concern memory are passed over, of repeated ones the last counts.

        Raises
        ------
        ConfigError
            If the value of a known option is malformed.
        """
        options = cls()
        for word in cmdline.split():
            name, _, value = word.partition("=")
            if name == "mem" and value != "nopentium":
                options = replace(options, mem_bytes=memparse(value))
            elif name == "vmalloc":
                options = replace(options, vmalloc_bytes=memparse(value))
            elif name == "highmem":
                options = replace(options, highmem_bytes=memparse(value))
            elif name in ("kernelcore", "movablecore"):
                options = replace(options, core=_parse_core(options.core, name, value))
            elif name == "numa" and value.startswith("fake="):
                options = replace(options, numa_fake=value.removeprefix("fake="))
            elif name == "transparent_hugepage" and value in ("always", "madvise", "never"):
                options = replace(options, transparent_hugepage=value)
        return options


def _parse_core(core: KernelCore, name: str, value: str) -> KernelCore:
    if value == "mirror":
        raise ConfigError("kernelcore=mirror is not modelled", remedy="give a size, or leave it out")
    pages, percent = parse_size_or_percent(name, value, None if value.endswith("%") else memparse(value))
    return replace(core, **{name: pages, f"{name}_percent": percent})


@dataclass(frozen=True, slots=True)
class I386Layout:
    """How a 32-bit kernel divides its part of the address space, from the top down.

    Fixed mappings, CPU entry areas (one for each possible CPU), the LDT
    remap, the kmap window and, below it, the vmalloc area; each begins on a
    page-table border of 4 MiB. What is left above PAGE_OFFSET is low memory.
    With the numbers of the usual configuration it ends below 876 MiB, not at
    the 896 MiB of older kernels.

    Attributes
    ----------
    page_offset, fixaddr_top : int
        First kernel address and end of the fixed mappings.
    fixmap_pages : int
        Permanent and boot-time fixed mappings (``FIXADDR_TOT_SIZE``).
    nr_cpus : int
        CPUs the kernel is configured for (CONFIG_NR_CPUS).
    cpu_entry_area_pages : int
        Pages of one ``struct cpu_entry_area``.
    vmalloc_reserve : int
        Bytes kept for the vmalloc area; ``vmalloc=`` sets it.

    Source: arch/x86/include/asm/pgtable_32_areas.h @6.1.192
    """

    page_offset: int = 0xC0000000
    fixaddr_top: int = 0xFFFFF000
    fixmap_pages: int = 1538
    nr_cpus: int = 32
    cpu_entry_area_pages: int = 43
    vmalloc_reserve: int = 128 * MIB

    VMALLOC_OFFSET = 8 * MIB
    PMD_SIZE = 4 * MIB

    @property
    def pkmap_base(self) -> int:
        """Start of the kmap window."""
        cpu_entry_base = (
            self.fixaddr_top - (self.fixmap_pages + self.nr_cpus * self.cpu_entry_area_pages + 1) * PAGE_SIZE
        )
        address = cpu_entry_base & -self.PMD_SIZE
        for _ in ("LDT", "kmap"):
            address = (address - PAGE_SIZE) & -self.PMD_SIZE
        return address

    @property
    def vmalloc_end(self) -> int:
        """End of the vmalloc area, two guard pages below the kmap window."""
        return self.pkmap_base - 2 * PAGE_SIZE

    @property
    def maxmem_pfn(self) -> int:
        """The frame at which low memory ends at the latest.

        Raises
        ------
        ConfigError
            If the vmalloc area leaves no room for low memory.
        """
        size = self.vmalloc_end - self.page_offset - self.vmalloc_reserve
        if size < 2 * self.PMD_SIZE:
            raise ConfigError(
                f"vmalloc={self.vmalloc_reserve - self.VMALLOC_OFFSET} leaves no low memory",
                remedy=f"use at most {(self.vmalloc_end - self.page_offset >> 20) - 64}M",
            )
        return size >> PAGE_SHIFT

    @classmethod
    def of(cls, options: BootOptions) -> I386Layout:
        """Return the layout that a command line asks for.

        Source: arch/x86/mm/pgtable_32.c:parse_vmalloc @6.1.192
        """
        if options.vmalloc_bytes is None:
            return cls()
        return cls(vmalloc_reserve=options.vmalloc_bytes + cls.VMALLOC_OFFSET)


def pc_memory_map(ram_bytes: int) -> list[MemoryRange]:
    """Return the usable ranges of a PC with so much memory, as its firmware reports them.

    From 3.5 GiB on the memory above 3 GiB is moved behind the 4 GiB border;
    35 pages below the end of the lower part hold firmware tables.

    Parameters
    ----------
    ram_bytes : int
        Size of the installed memory in bytes.

    Raises
    ------
    ConfigError
        If there is not even the first megabyte.
    """
    if ram_bytes < 2 * MIB:
        raise ConfigError(f"{ram_bytes} bytes of memory are too few for a PC", remedy="give at least 2M")
    low = ram_bytes if ram_bytes < 0xE0000000 else 0xC0000000
    ranges = [MemoryRange(0, 0x9FC00), MemoryRange(BIOS_END, low - 35 * PAGE_SIZE)]
    if ram_bytes > low:
        ranges.append(MemoryRange(4 * GIB, 4 * GIB + ram_bytes - low))
    return ranges


def e820_memblock_setup(arch: ArchZones, e820: Sequence[MemoryRange], options: BootOptions) -> MemBlock:
    """Turn the firmware's usable ranges into the boot-time memory map.

    Page 0 and the BIOS area are taken out; memory above ``mem=`` and, on
    i386, ranges that do not end below 4 GiB are not used.

    Source: arch/x86/kernel/e820.c:e820__memblock_setup, parse_memopt, arch/x86/kernel/setup.c:trim_bios_range @6.1.192
    """
    memblock = MemBlock()
    for piece in e820:
        if arch.highmem is not None and piece.end >= 4 * GIB:
            continue
        memblock.add(piece.start, piece.end - piece.start, piece.node)
    if options.mem_bytes:
        memblock.remove(options.mem_bytes, 1 << 64)
    memblock.remove(0, PAGE_SIZE)
    memblock.remove(BIOS_BEGIN, BIOS_END)
    memblock.trim_memory()
    return memblock


def max_low_pfn(arch: ArchZones, max_pfn: int, options: BootOptions) -> tuple[int, int]:
    """Return (max_low_pfn, max_pfn): where low memory and all memory end.

    On i386 ``highmem=`` can move the border down, or leave memory unused.

    Source: arch/x86/mm/init_32.c:find_low_pfn_range @6.1.192
    """
    if arch.highmem is None:
        return max_pfn, max_pfn
    maxmem = I386Layout.of(options).maxmem_pfn
    highmem = None if options.highmem_bytes is None else options.highmem_bytes >> PAGE_SHIFT
    if max_pfn <= maxmem:
        if not highmem or highmem >= max_pfn or max_pfn - highmem < 64 * MIB >> PAGE_SHIFT:
            return max_pfn, max_pfn
        return max_pfn - highmem, max_pfn
    if highmem is not None and highmem + maxmem < max_pfn:
        max_pfn = maxmem + highmem
    return maxmem, max_pfn


def zone_sizes(arch: ArchZones, low_pfn: int, max_pfn: int) -> list[int]:
    """Return for each zone type the frame at which it ends at the latest.

    Source: arch/x86/mm/init.c:zone_sizes_init @6.1.192
    """
    ends = [0] * arch.nr_zones
    ends[0] = min(MAX_DMA_PFN, low_pfn)
    if "DMA32" in arch.zone_names:
        ends[arch.zone_names.index("DMA32")] = min(MAX_DMA32_PFN, low_pfn)
    ends[arch.normal] = low_pfn
    if arch.highmem is not None:
        ends[arch.highmem] = max_pfn
    return ends


def numa_emulation(memblock: MemBlock, text: str) -> int:
    """Split memory into pretended nodes as ``numa=fake=`` asks; return how many there are.

    Parameters
    ----------
    memblock : MemBlock
        Memory of one node; its ranges are given new nodes.
    text : str
        A number of nodes, or the size of a node with M or G.

    Raises
    ------
    ConfigError
        If there is not enough memory for so many nodes, or `text` says neither.

    Source: arch/x86/mm/numa_emulation.c:split_nodes_interleave, split_nodes_size_interleave @6.1.192
    """
    limit = memblock.end_pfn() << PAGE_SHIFT
    memory = limit - _hole(memblock, 0, limit)
    by_size = re.fullmatch(r"\d+[MG]", text)
    if by_size:
        size = max(memparse(text), -(-memory // MAX_FAKE_NODES // FAKE_NODE_MIN_SIZE) * FAKE_NODE_MIN_SIZE)
        size = size // FAKE_NODE_MIN_SIZE * FAKE_NODE_MIN_SIZE
        nr_nodes, big = MAX_FAKE_NODES, 0
    elif text.isdigit() and int(text) > 0:
        nr_nodes = int(text)
        per_node = (memory >> PAGE_SHIFT) // nr_nodes << PAGE_SHIFT
        size = per_node // FAKE_NODE_MIN_SIZE * FAKE_NODE_MIN_SIZE
        big = (per_node - size) * nr_nodes // FAKE_NODE_MIN_SIZE
    else:
        raise ConfigError(f"numa=fake={text} is not modelled", remedy="give a number of nodes, or a size as in 512M")
    if not size:
        raise ConfigError(f"numa=fake={text}: not enough memory for each node", remedy="a node has 32M at least")
    start = node = 0
    while start < limit:
        end = _fake_node_end(memblock, start, limit, size, extra=node < big)
        memblock.set_node(start, end, node % nr_nodes)
        start, node = end, node + 1
    return min(node, nr_nodes)


MAX_FAKE_NODES = 1024


def _fake_node_end(memblock: MemBlock, start: int, limit: int, size: int, *, extra: bool) -> int:
    """Return where a pretended node that begins at `start` ends."""
    dma32_end = MAX_DMA32_PFN << PAGE_SHIFT
    end = start + size + (FAKE_NODE_MIN_SIZE if extra else 0)
    while end - start - _hole(memblock, start, end) < size:
        end += FAKE_NODE_MIN_SIZE
        if end > limit:
            end = limit
            break
    if end < dma32_end and dma32_end - end - _hole(memblock, end, dma32_end) < FAKE_NODE_MIN_SIZE:
        end = dma32_end
    if limit - end - _hole(memblock, end, limit) < size:
        end = limit
    return min(end, limit)


def _hole(memblock: MemBlock, start: int, end: int) -> int:
    """Return the bytes between two addresses that are no memory, by whole pages."""
    first, last = (start + PAGE_SIZE - 1) >> PAGE_SHIFT, end >> PAGE_SHIFT
    return memblock.absent_pages(first, last) << PAGE_SHIFT if first < last else 0


def machine_zones(
    arch: ArchZones,
    e820: Sequence[MemoryRange],
    options: BootOptions | None = None,
    *,
    nr_cpus: int = 1,
    cpus_of_node: Sequence[int] | None = None,
    distance: Sequence[Sequence[int]] | None = None,
) -> tuple[MemBlock, SystemZones]:
    """Set up memory map and zones of an x86 machine up to the point where nothing has been reserved.

    Parameters
    ----------
    arch : ArchZones
        :data:`X86_64` or :data:`I386`.
    e820 : sequence of MemoryRange
        Usable memory as the firmware reports it, in bytes.
    options : BootOptions, optional
        The command line.
    nr_cpus : int
        CPUs online.
    cpus_of_node, distance
        As for :class:`~kmem.mm.mm_init.SystemZones`. With pretended nodes
        every CPU belongs to all of them, at equal distance.

    Returns
    -------
    memblock : MemBlock
    system : SystemZones
        With limits and ``present`` set and ``managed`` equal to ``present``.

    Raises
    ------
    ConfigError
        If the description leaves no memory to use, or asks for what no kernel does.
    """
    options = options or BootOptions()
    memblock = e820_memblock_setup(arch, e820, options)
    if arch.highmem is None and options.numa_fake:
        nr_nodes = numa_emulation(memblock, options.numa_fake)
        cpus_of_node, distance = [nr_cpus] * nr_nodes, None
    low_pfn, max_pfn = max_low_pfn(arch, memblock.end_pfn(), options)
    system = SystemZones.free_area_init(
        arch,
        memblock,
        zone_sizes(arch, low_pfn, max_pfn),
        core=options.core,
        nr_cpus=nr_cpus,
        cpus_of_node=cpus_of_node,
        distance=distance,
    )
    return memblock, system
