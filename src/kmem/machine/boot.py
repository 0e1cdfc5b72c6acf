# SPDX-License-Identifier: GPL-2.0-only
"""Boot: from a machine's description to a page allocator with all free memory in it.

What the kernel keeps for itself before there is an allocator is an estimate,
made of pieces whose sizes are known for the Debian 6.1 kernels (see
:class:`KernelImage`).  The pieces are reserved in the order and at the places
in which the kernel reserves them, and the rest is handed over as memblock does
it: from low to high addresses, in the largest blocks that fit, each at the tail
of its list.

How good the estimate is: on the recorded machines (128 MiB to 5 GiB on x86-64,
64 MiB to 3 GiB on i386, one to three CPUs, one to three nodes) ``managed`` of
each zone comes out within 4 pages of the real one, mostly exactly, and with it
the watermarks, once the size of the initrd is given (it is freed after they
were computed).  Other kernel builds differ by the size of their image.  What a running system has
allocated since (30 to 60 MiB on these machines until there is a shell) is not
there: the machine is as it is before the first allocation.  With the
``managed`` of a real machine in the description the reserved memory is
corrected to it, page by page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kmem.errors import ConfigError
from kmem.machine.description import MachineDescription
from kmem.mm.memblock import MAX_ORDER, PAGE_SHIFT, PAGE_SIZE, MemBlock, PfnRange, free_blocks
from kmem.mm.mm_init import SystemZones, ZoneSetup
from kmem.mm.mmzone import MemMap
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.x86 import GIB, KIB, MIB, machine_zones

__all__ = ["BootedMemory", "KernelImage", "apply_zones", "boot_memory", "take_zones", "write_sysctl"]

MAX_NR_ZONES = 5
MIGRATE_UNMOVABLE = 0
PAGES_PER_SECTION = 1 << 15  #: 128 MiB on x86-64
SWIOTLB_BYTES = 64 * MIB
SWIOTLB_SLOT_BYTES = 24 * (SWIOTLB_BYTES >> 11)  #: one struct io_tlb_slot for each 2 KiB
MIN_MANAGED_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class KernelImage:
    """Where a kernel lies in memory and what else it takes at boot.

    Attributes
    ----------
    start, end : int
        Addresses of the image, text to bss.
    freed : tuple of (int, int)
        Address and pages of its parts that are freed once it runs: init code
        and data, and the gaps between sections.
    size_of_page : int
        Bytes of ``struct page``.
    percpu_pages, pgdat_pages : int
        Pages for each CPU's static data, and for each node's.
    misc_pages, misc_low_pages : int
        Further small allocations: at the top of memory, and beside the image.

    Notes
    -----
    The numbers are those of Debian's 6.1.0-56-amd64 and 6.1.0-50-686.
    """

    start: int
    end: int
    freed: tuple[tuple[int, int], ...]
    size_of_page: int
    percpu_pages: int
    pgdat_pages: int
    misc_pages: int
    misc_low_pages: int


KERNEL_IMAGES = {
    "x86_64": KernelImage(
        start=0x1000000,
        end=0x4400000,
        freed=((0x1E02000, 510), (0x28EB000, 277), (0x2C49000, 706), (0x4000000, 509)),
        size_of_page=64,
        percpu_pages=62,
        pgdat_pages=43,
        misc_pages=17,
        misc_low_pages=8,
    ),
    "i386": KernelImage(
        start=0x1000000,
        end=0x1EE6000,
        freed=((0x1D71000, 228), (0x1E55000, 8)),
        size_of_page=40,
        percpu_pages=33,
        pgdat_pages=0,
        misc_pages=17,
        misc_low_pages=0,
    ),
}


@dataclass(slots=True)
class BootedMemory:
    """A machine's memory after boot.

    Attributes
    ----------
    description : MachineDescription
    memblock : MemBlock
        Memory and what is reserved of it for good.
    system : SystemZones
        The zones' limits, watermarks and reserves, and the sysctls.
    memmap : MemMap
        The arrays of the compiled core.
    page_alloc : PageAllocator
    node_of_cpu : list of int
        Node of each CPU.
    notes : list of str
        What the kernel would have warned of.
    """

    description: MachineDescription
    memblock: MemBlock
    system: SystemZones
    memmap: MemMap
    page_alloc: PageAllocator
    node_of_cpu: list[int]
    notes: list[str] = field(default_factory=list)


def boot_memory(description: MachineDescription) -> BootedMemory:
    """Boot a machine as far as its page allocator.

    Raises
    ------
    ConfigError
        If the machine is too small, or its options and knobs contradict each
        other or leave nothing to run with.

    Notes
    -----
    Complexity: O(frames). The page records take 32 bytes a frame.
    """
    _check_options(description)
    arch = description.zone_types
    node_of_cpu, cpus_of_node = _cpu_nodes(description)
    memblock, system = machine_zones(
        arch,
        description.memory,
        description.options,
        nr_cpus=description.cpus,
        cpus_of_node=cpus_of_node,
        distance=_distance(description),
    )
    if "numa=fake=" in description.cmdline:
        node_of_cpu = [cpu % len(system.nodes) for cpu in range(description.cpus)]
    image = KERNEL_IMAGES[arch.arch]
    _reserve(memblock, system, image, node_of_cpu)
    late = [*_late_ranges(memblock, image), *_initrd(memblock, system, description)]
    for zone in system.zones:
        zone.managed = zone.present - memblock.reserved_in(zone.start_pfn, zone.end_pfn)
    _correct(memblock, system, description, late)
    _check_size(system, description)
    _compute(system, description)
    memmap = _memmap(system, memblock, arch.arch == "i386")
    page_alloc = PageAllocator(memmap, _zonelists(system))
    page_alloc.watermark_boost_factor = system.tunables.watermark_boost_factor
    # build_all_zonelists(): too little memory to keep page blocks apart by mobility
    grouping_pages = (1 << arch.pageblock_order) * 5
    page_alloc.page_group_by_mobility_disabled = sum(zone.managed for zone in system.zones) < grouping_pages
    _free_all(memblock, system, page_alloc)
    for piece in late:
        memblock_release(memblock, piece)
        _free_range(page_alloc, piece)
    take_zones(system, memmap)
    apply_zones(system, memmap)
    booted = BootedMemory(description, memblock, system, memmap, page_alloc, node_of_cpu, _notes(description, memblock))
    for name, value in description.knobs.items():
        write_sysctl(booted, name, value)
    return booted


def write_sysctl(booted: BootedMemory, name: str, value: int | tuple[int, ...]) -> None:
    """Write a ``vm.`` sysctl of a booted machine and let everything that depends on it follow.

    Raises
    ------
    ConfigError
        If there is no such sysctl, the kernel would refuse the value, or no
        memory would be left to allocate.
    """
    key = name.removeprefix("vm.")
    system = booted.system
    lowmem_kbytes = sum(zone.managed for zone in system.zones if not system.is_highmem(zone)) << (PAGE_SHIFT - 10)
    if key == "min_free_kbytes" and isinstance(value, int) and value >= lowmem_kbytes:
        raise ConfigError(
            f"vm.min_free_kbytes={value} keeps all memory back",
            remedy=f"the machine has {lowmem_kbytes} KiB of low memory",
        )
    take_zones(system, booted.memmap)
    system.sysctl(key, value if isinstance(value, int) else list(value))
    apply_zones(system, booted.memmap)
    booted.page_alloc.watermark_boost_factor = system.tunables.watermark_boost_factor


def take_zones(system: SystemZones, memmap: MemMap) -> None:
    """Take over from the core what changes while the machine runs: ``managed`` and the watermark boost."""
    for zone in system.zones:
        record = memmap.zones_array[zone.node * MAX_NR_ZONES + zone.index]
        zone.managed = int(record["managed"])
        zone.watermark_boost = int(record["watermark_boost"])


def apply_zones(system: SystemZones, memmap: MemMap) -> None:
    """Copy limits, watermarks, reserves and list sizes into the arrays of the core; lists are left alone."""
    for zone in system.zones:
        number = zone.node * MAX_NR_ZONES + zone.index
        record = memmap.zones_array[number]
        record["start_pfn"], record["spanned"] = zone.start_pfn, zone.spanned
        record["present"], record["managed"] = zone.present, zone.managed
        record["watermark"] = zone.watermark
        record["watermark_boost"] = zone.watermark_boost
        record["lowmem_reserve"][: len(zone.lowmem_reserve)] = zone.lowmem_reserve
        record["stat_threshold"] = zone.stat_threshold
        pagesets = memmap.pagesets_array[number * memmap.nr_cpus : (number + 1) * memmap.nr_cpus]
        pagesets["high"] = zone.pageset_high
        pagesets["batch"] = zone.pageset_batch


def memblock_release(memblock: MemBlock, piece: PfnRange) -> None:
    """Take a range of frames out of what is reserved."""
    start, end = piece.start << PAGE_SHIFT, piece.end << PAGE_SHIFT
    holes = MemBlock(memory=list(memblock.reserved))
    holes.remove(start, end)
    memblock.reserved = holes.memory


# What the kernel takes


def _reserve(memblock: MemBlock, system: SystemZones, image: KernelImage, node_of_cpu: list[int]) -> None:
    """Reserve what the kernel occupies, in the order in which it does."""
    memory = {piece.node for piece in memblock.pfn_ranges()}
    if memblock.absent_pages(image.start >> PAGE_SHIFT, (image.end >> PAGE_SHIFT) + image.misc_low_pages):
        raise ConfigError(
            f"no memory at {image.start:#x} to {image.end:#x}, where the kernel lies",
            remedy=f"an {system.arch.arch} machine needs {_round_up_mib(image.end + 8 * MIB)} MiB from address 0 on",
        )
    memblock.reserve(0, MIB)
    memblock.reserve(image.start, image.end + image.misc_low_pages * PAGE_SIZE - image.start)
    low_end = None
    if system.arch.highmem is not None:
        low_end = max(zone.end_pfn for zone in system.zones if not system.is_highmem(zone)) << PAGE_SHIFT
    for node in sorted(memory):
        memblock.alloc(max(1, image.pgdat_pages) * PAGE_SIZE, limit=low_end, node=node)
    _reserve_memmap(memblock, system, image, low_end)
    for node in node_of_cpu:
        memblock.alloc(image.percpu_pages * PAGE_SIZE, limit=low_end, node=node)
    _reserve_hashes(memblock, system, low_end)
    if system.arch.highmem is None and memblock.end_pfn() << PAGE_SHIFT > 4 * GIB:
        memblock.alloc(SWIOTLB_BYTES, limit=4 * GIB)
        memblock.alloc(SWIOTLB_SLOT_BYTES, limit=low_end)
    memblock.alloc(image.misc_pages * PAGE_SIZE, limit=low_end)


def _initrd(memblock: MemBlock, system: SystemZones, description: MachineDescription) -> list[PfnRange]:
    """Reserve the initrd below 4 GiB, on i386 in low memory; return its frames, which are freed when it is unpacked."""
    if not description.initrd_bytes:
        return []
    limit = 4 * GIB
    if system.arch.highmem is not None:
        limit = max(zone.end_pfn for zone in system.zones if not system.is_highmem(zone)) << PAGE_SHIFT
    pages = -(-description.initrd_bytes // PAGE_SIZE)
    pfn = memblock.alloc(pages * PAGE_SIZE, limit=limit) >> PAGE_SHIFT
    zone = system.zone_of_pfn(pfn)
    return [PfnRange(pfn, pfn + pages, zone.node if zone else 0)]


def _reserve_memmap(memblock: MemBlock, system: SystemZones, image: KernelImage, low_end: int | None) -> None:
    """Reserve the page structures: one buffer for the sections of each node, or one array for all memory.

    Source: mm/sparse.c:sparse_init_nid, mm/page_alloc.c:alloc_node_mem_map @6.1.192
    """
    if system.arch.highmem is None:
        sections: dict[int, int] = {}
        for piece in memblock.pfn_ranges():
            for section in range(piece.start // PAGES_PER_SECTION, -(-piece.end // PAGES_PER_SECTION)):
                sections.setdefault(section, piece.node)
        section_bytes = PAGES_PER_SECTION * image.size_of_page
        for node, count in Counter(sections.values()).items():
            try:
                memblock.alloc(count * section_bytes, align=section_bytes, node=node)
            except ConfigError:  # no such piece in one: section by section
                for _ in range(count):
                    memblock.alloc(section_bytes, align=section_bytes, node=node)
        return
    frames = -(-max(zone.end_pfn for zone in system.zones) >> (MAX_ORDER - 1)) << (MAX_ORDER - 1)
    memblock.alloc(-(-frames * image.size_of_page // PAGE_SIZE) * PAGE_SIZE, limit=low_end)


def _reserve_hashes(memblock: MemBlock, system: SystemZones, low_end: int | None) -> None:
    """Reserve the dentry and inode hash tables; with several nodes they come from vmalloc later.

    Source: mm/page_alloc.c:alloc_large_system_hash @6.1.192
    """
    if len(system.nodes) > 1:
        return
    bucket_bytes = 8 if system.arch.highmem is None else 4
    kernel_pages = sum(_freesize(system, zone) for zone in system.zones if not system.is_highmem(zone))
    entries = -(-kernel_pages // (MIB // PAGE_SIZE)) * (MIB // PAGE_SIZE)
    scale = 13
    adapt = 64 * GIB >> PAGE_SHIFT
    while bucket_bytes == 8 and adapt < entries:
        scale, adapt = scale + 1, adapt << 2
    for extra in (0, 1):
        buckets = 1 << (max(1, entries >> (scale + extra - PAGE_SHIFT)) - 1).bit_length()
        memblock.alloc(max(buckets * bucket_bytes, PAGE_SIZE), limit=low_end)


def _freesize(system: SystemZones, zone: ZoneSetup) -> int:
    """Return a zone's frames without those that its page structures take.

    Source: mm/page_alloc.c:free_area_init_core, calc_memmap_size @6.1.192
    """
    size = KERNEL_IMAGES[system.arch.arch].size_of_page
    pages = zone.spanned
    if system.arch.highmem is None and zone.spanned > zone.present + (zone.present >> 4):
        pages = zone.present
    return max(0, zone.present - -(-pages * size // PAGE_SIZE))


def _late_ranges(memblock: MemBlock, image: KernelImage) -> list[PfnRange]:
    """Return the parts of the image that are freed once the kernel runs."""
    nodes = {piece.start: piece.node for piece in memblock.pfn_ranges()}
    node = nodes[max(start for start in nodes if start <= image.start >> PAGE_SHIFT)]
    return [PfnRange(start >> PAGE_SHIFT, (start >> PAGE_SHIFT) + pages, node) for start, pages in image.freed]


def _correct(memblock: MemBlock, system: SystemZones, description: MachineDescription, late: list[PfnRange]) -> None:
    """Reserve more, or give memory back, until each zone manages what the description says it does."""
    for (node, name), managed in description.managed.items():
        if node not in system.nodes or name not in system.arch.zone_names:
            raise ConfigError(f"no zone {name} on node {node}", remedy="leave 'managed' of other machines out")
        zone = system.zone(node, system.arch.zone_names.index(name))
        if not 0 <= managed <= zone.present:
            raise ConfigError(f"zone {name}: {managed} pages managed of {zone.present}", remedy="correct 'managed'")
        freed = sum(len(piece) for piece in late if zone.start_pfn <= piece.start < zone.end_pfn)
        surplus = zone.managed + freed - managed
        if surplus > 0:
            _reserve_top(memblock, zone, surplus)
        elif surplus < 0:
            _release_top(memblock, zone, -surplus, late)
        zone.managed -= surplus


def _reserve_top(memblock: MemBlock, zone: ZoneSetup, pages: int) -> None:
    for piece in reversed(list(memblock.free_ranges())):
        start, end = max(piece.start, zone.start_pfn), min(piece.end, zone.end_pfn)
        if piece.node == zone.node and start < end and pages:
            take = min(pages, end - start)
            memblock.reserve((end - take) << PAGE_SHIFT, take << PAGE_SHIFT)
            pages -= take


def _release_top(memblock: MemBlock, zone: ZoneSetup, pages: int, late: list[PfnRange]) -> None:
    """Give back reserved frames of a zone from the top, but none of those that are freed later anyhow."""
    kept = MemBlock(memory=list(memblock.reserved))
    for piece in late:
        kept.remove(piece.start << PAGE_SHIFT, piece.end << PAGE_SHIFT)
    for held in reversed(kept.pfn_ranges()):
        for piece in reversed(memblock.pfn_ranges(zone.node)):
            start = max(held.start, piece.start, zone.start_pfn)
            end = min(held.end, piece.end, zone.end_pfn)
            if start < end and pages:
                take = min(pages, end - start)
                memblock_release(memblock, PfnRange(end - take, end))
                pages -= take


# Setting up the core


def _compute(system: SystemZones, description: MachineDescription) -> None:
    """Compute watermarks and reserves as the kernel does before it frees its own boot-time memory."""
    system.vmstat_cpus_online()
    system.init_per_zone_wmark_min()
    system.hugepage_init(enabled=description.options.transparent_hugepage != "never")


def _memmap(system: SystemZones, memblock: MemBlock, flatmem: bool) -> MemMap:
    """Make the arrays of the core, with every frame in its zone and reserved."""
    frames = max(zone.end_pfn for zone in system.zones)
    try:
        memmap = MemMap(
            frames,
            len(system.nodes),
            system.nr_cpus,
            system.arch.pageblock_order,
            system.arch.zone_names,
            flatmem=flatmem,
        )
    except (ValueError, MemoryError) as error:
        raise ConfigError(f"the machine cannot be modelled: {error}", remedy="describe a smaller one") from None
    for zone in system.zones:
        number = zone.node * MAX_NR_ZONES + zone.index
        record = memmap.zones_array[number]
        record["start_pfn"], record["spanned"], record["present"] = zone.start_pfn, zone.spanned, zone.present
        for start, end in _sections(memblock, zone, flatmem):
            memmap.pages_array["zone"][start:end] = number
    return memmap


def _sections(memblock: MemBlock, zone: ZoneSetup, flatmem: bool) -> Iterator[tuple[int, int]]:
    """Yield the frames of a zone that have page structures: all of them, or those of sections with memory."""
    if flatmem:
        yield zone.start_pfn, zone.end_pfn
        return
    for piece in memblock.pfn_ranges(zone.node):
        start = piece.start // PAGES_PER_SECTION * PAGES_PER_SECTION
        end = -(-piece.end // PAGES_PER_SECTION) * PAGES_PER_SECTION
        yield max(start, zone.start_pfn), max(zone.start_pfn, min(end, zone.end_pfn))


def _zonelists(system: SystemZones) -> dict[tuple[int, bool], list[int]]:
    return {
        (node, thisnode): [zone.node * MAX_NR_ZONES + zone.index for zone in system.zonelist(node, thisnode=thisnode)]
        for node in system.nodes
        for thisnode in (False, True)
    }


def _free_all(memblock: MemBlock, system: SystemZones, page_alloc: PageAllocator) -> None:
    """Hand all free memory to the page allocator.

    High memory is freed first and page by page, so that its largest blocks end
    up with the highest at the head of the list; the same order comes from
    freeing its ranges from the top down.

    Source: mm/memblock.c:memblock_free_all, arch/x86/mm/highmem_32.c:set_highmem_pages_init @6.1.192
    Differs: initialising page structures late (DEFERRED_STRUCT_PAGE_INIT) frees the same blocks in the same order.
    """
    low_end = max((zone.end_pfn for zone in system.zones if not system.is_highmem(zone)), default=0)
    for piece in memblock.free_ranges():
        _free_range(page_alloc, PfnRange(piece.start, min(piece.end, low_end)))
    end_pfn = max(zone.end_pfn for zone in system.zones)
    for piece in memblock.free_ranges():
        start, end = max(piece.start, low_end), min(piece.end, end_pfn)
        for pfn, order in reversed(list(free_blocks(start, end))):
            page_alloc.free_pages_core(pfn, order)
    _unmovable_blocks(memblock, system, page_alloc.memmap)


def _free_range(page_alloc: PageAllocator, piece: PfnRange) -> None:
    for pfn, order in free_blocks(piece.start, piece.end):
        page_alloc.free_pages_core(pfn, order)


def _unmovable_blocks(memblock: MemBlock, system: SystemZones, memmap: MemMap) -> None:
    """Leave page blocks unmovable whose first page was reserved when their structures were initialised late.

    The kernel initialises the first section and more of a node's last zone
    early, and there makes every page block movable.

    Source: mm/page_alloc.c:defer_init, deferred_free_range @6.1.192
    """
    if system.arch.highmem is not None:
        return
    for node in system.nodes:
        zone = [zone for zone in system.node_zones(node) if zone.present][-1]
        first = -(-(zone.start_pfn + PAGES_PER_SECTION) // PAGES_PER_SECTION) * PAGES_PER_SECTION
        blocks = np.arange(first, zone.end_pfn, 1 << memmap.pageblock_order)
        free = np.zeros(len(blocks), bool)
        for piece in memblock.free_ranges():
            free |= (blocks >= piece.start) & (blocks < piece.end)
        memmap.pageblocks_array[blocks[~free] >> memmap.pageblock_order] = MIGRATE_UNMOVABLE


# Checks and small things


def _check_options(description: MachineDescription) -> None:
    """Refuse what no kernel would boot with, or what it would quietly ignore."""
    options = description.options
    if options.mem_bytes == 0:
        raise ConfigError("mem=0 leaves no memory", remedy="give the memory to use, as in mem=512M")
    if description.arch == "i386" and options.numa_fake:
        raise ConfigError("numa=fake= on i386, which has no NUMA", remedy="use x86_64, or leave it out")
    if options.numa_fake and len(description.nodes) > 1:
        raise ConfigError("numa=fake= on a machine with real nodes is not modelled", remedy="use one of the two")
    if description.arch != "i386" and (options.vmalloc_bytes is not None or options.highmem_bytes is not None):
        raise ConfigError("vmalloc= and highmem= are options of i386", remedy="leave them out on x86_64")
    total = description.memory_bytes >> PAGE_SHIFT
    core = options.core
    kernel = (core.kernelcore or 0) + total * (core.kernelcore_percent or 0) // 100
    movable = (core.movablecore or 0) + total * (core.movablecore_percent or 0) // 100
    if movable >= total or kernel > total:
        raise ConfigError(
            f"kernelcore= or movablecore= asks for more than the {total >> (20 - PAGE_SHIFT)} MiB there are",
            remedy="leave memory for the kernel",
        )
    if kernel + movable > total:
        raise ConfigError(
            f"kernelcore= and movablecore= together exceed the {total >> (20 - PAGE_SHIFT)} MiB there are",
            remedy="give one of them only",
        )


def _check_size(system: SystemZones, description: MachineDescription) -> None:
    lowmem = sum(zone.managed for zone in system.zones if not system.is_highmem(zone))
    if lowmem << PAGE_SHIFT < MIN_MANAGED_BYTES:
        raise ConfigError(
            f"{description.name} is too small to boot: {lowmem << PAGE_SHIFT >> 10} KiB of low memory would be left",
            remedy=f"a kernel needs {MIN_MANAGED_BYTES // KIB} KiB beside its own image",
        )


def _cpu_nodes(description: MachineDescription) -> tuple[list[int], list[int]]:
    """Return the node of each CPU and the CPUs of each node; without a word about it CPUs are spread evenly."""
    nodes = description.nodes
    if description.cpus_of_node:
        node_of_cpu = [node for node, cpus in zip(nodes, description.cpus_of_node, strict=True) for _ in range(cpus)]
    else:
        node_of_cpu = sorted(nodes[cpu % len(nodes)] for cpu in range(description.cpus))
    return node_of_cpu, [node_of_cpu.count(node) for node in nodes]


def _distance(description: MachineDescription) -> list[list[int]] | None:
    if description.distance:
        return [list(row) for row in description.distance]
    nodes = description.nodes
    return [[10 if a == b else 20 for b in nodes] for a in nodes] if len(nodes) > 1 else None


def _notes(description: MachineDescription, memblock: MemBlock) -> list[str]:
    used = sum(piece.end - piece.start for piece in memblock.memory)
    unused = description.memory_bytes - used
    if unused >= MIB and description.options.mem_bytes is None:
        return [f"{unused >> 20} MiB are not used: a kernel without PAE reaches 4 GiB of addresses"]
    return []


def _round_up_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
