# SPDX-License-Identifier: GPL-2.0-only
"""Zones, page blocks and per-CPU page sets: the memory map of a machine.

:class:`MemMap` owns every array that the page allocator and SLUB work on.  It
knows where things are, not what to do with them: allocation is
:mod:`kmem.mm.page_alloc`, slabs are :mod:`kmem.mm.slub`.

Zones are numbered ``node * MAX_NR_ZONES + index``; a zone that a node does not
have is an entry whose counts are all zero, as in the kernel.

Source: include/linux/mmzone.h @6.1.192
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    MAX_ORDER,
    MIGRATE_MOVABLE,
    MIGRATE_TYPES,
    NR_PCP_LISTS,
    list_init,
)

from kmem.mm.page import NO_PAGE as PY_NO_PAGE
from kmem.mm.page import PAGE_DTYPE

ZONE_DTYPE = np.dtype(
    [
        ("free_pages", "i8"),
        ("free_cma_pages", "i8"),
        ("watermark", "i8", (4,)),
        ("watermark_boost", "i8"),
        ("nr_reserved_highatomic", "i8"),
        ("lowmem_reserve", "i8", (5,)),
        ("start_pfn", "u4"),
        ("spanned", "u4"),
        ("present", "u4"),
        ("managed", "u4"),
        ("nr_free", "u4", (11,)),
        ("lists", "u4"),
        ("pageset", "u4"),
        ("nr_isolate_pageblock", "u4"),
        ("block_offset", "u4"),
        ("foreign", "u4"),
        ("stat_threshold", "i4"),
        ("node", "u1"),
        ("index", "u1"),
        ("flags", "u1"),
        ("spare", "u1"),
    ],
    align=True,
)

PAGESET_DTYPE = np.dtype(
    [
        ("count", "i4"),
        ("high", "i4"),
        ("batch", "i4"),
        ("free_factor", "i4"),
        ("expire", "i4"),
        ("stat_diff", "i4"),
        ("cma_diff", "i4"),
        ("lists", "u4"),
    ],
    align=True,
)

#: List heads kept for SLUB: two (partial, full) for each cache and node.
MAX_CACHES = 8192

#: Zone names by index, for the two configurations of x86.
ZONE_NAMES_64 = ("DMA", "DMA32", "Normal", "Movable", "Device")
ZONE_NAMES_32 = ("DMA", "Normal", "HighMem", "Movable")


@cython.cclass
class MemMap:
    """The page array, the zones and the page sets of one machine.

    Parameters
    ----------
    nr_frames : int
        One more than the highest page frame number; rounded up to a whole
        block of the highest order.
    nr_nodes, nr_cpus : int
        NUMA nodes and CPUs, each at least 1.
    pageblock_order : int
        9 on x86-64, 10 on i386 without PAE.
    zone_names : tuple of str
        Names of the zone indexes, lowest first (at most five).
    flatmem : bool, optional
        Whether each zone keeps migrate types of its own for a page block that
        it shares with a neighbour, as FLATMEM kernels (i386) do; with
        SPARSEMEM (x86-64) they share it.
    spare_heads : int, optional
        List heads to keep free behind those of the zones, for SLUB.

    Notes
    -----
    Costs 32 bytes a frame, taken lazily from the operating system.
    """

    def __init__(self, nr_frames, nr_nodes, nr_cpus, pageblock_order, zone_names, flatmem=False, spare_heads=None):
        if nr_nodes < 1 or nr_cpus < 1:
            raise ValueError("a machine has at least one node and one CPU")
        if not 1 <= len(zone_names) <= MAX_NR_ZONES:
            raise ValueError(f"between 1 and {MAX_NR_ZONES} zone names, not {len(zone_names)}")
        block = 1 << (MAX_ORDER - 1)
        self.nr_frames = -(-nr_frames // block) * block
        self.nr_nodes = nr_nodes
        self.nr_cpus = nr_cpus
        self.nr_zones = nr_nodes * MAX_NR_ZONES
        self.pageblock_order = pageblock_order
        self.zone_names = tuple(zone_names)
        self.zone_normal = self.zone_names.index("Normal")
        self.has_dma32 = "DMA32" in self.zone_names
        if spare_heads is None:
            spare_heads = MAX_CACHES * nr_nodes * 2
        zone_heads = self.nr_zones * (MAX_ORDER * MIGRATE_TYPES + nr_cpus * NR_PCP_LISTS)
        records = self.nr_frames + zone_heads + spare_heads
        if records >= PY_NO_PAGE:
            raise ValueError(f"{nr_frames} page frames are more than the model numbers (32 bits)")
        self.attach(
            np.zeros(records, PAGE_DTYPE),
            np.zeros(self.nr_zones, ZONE_DTYPE),
            np.zeros(self.nr_zones * nr_cpus, PAGESET_DTYPE),
            np.full((self.nr_frames >> pageblock_order) + self.nr_zones, MIGRATE_MOVABLE, np.uint8),
        )
        self.next_head = self.nr_frames
        self._init_zones(flatmem)

    def attach(self, pages, zones, pagesets, pageblocks):
        """Work on these arrays from now on (NumPy, of the dtypes of this module).

        Raises
        ------
        ValueError
            If a layout differs from the compiled one.
        """
        self.pages_array, self.zones_array = pages, zones
        self.pagesets_array, self.pageblocks_array = pagesets, pageblocks
        self.pages = pages
        self.zones = zones
        self.pagesets = pagesets
        self.pageblocks = pageblocks
        self.nr_records = len(pages)

    def _init_zones(self, flatmem):
        zone: cython.int
        cpu: cython.int
        for zone in range(self.nr_zones):
            self.zones[zone].node = zone // MAX_NR_ZONES
            self.zones[zone].index = zone % MAX_NR_ZONES
            self.zones[zone].block_offset = zone if flatmem else 0
            self.zones[zone].lists = self.reserve_heads(MAX_ORDER * MIGRATE_TYPES)
            self.zones[zone].pageset = zone * self.nr_cpus
            for cpu in range(self.nr_cpus):
                self.pagesets[zone * self.nr_cpus + cpu].lists = self.reserve_heads(NR_PCP_LISTS)
                self.pagesets[zone * self.nr_cpus + cpu].batch = 1

    def reserve_heads(self, count):
        """Hand out `count` empty list heads; return the index of the first.

        Raises
        ------
        MemoryError
            If the machine was made with too few.
        """
        first: cython.uint = self.next_head
        i: cython.uint
        if count < 0 or first + count > self.nr_records:
            raise MemoryError("no list heads left: make the machine with more spare_heads")
        for i in range(first, first + count):
            list_init(self.pages, i)
        self.next_head = first + count
        return first

    def zone_id(self, name, node=0):
        """Number of the zone called `name` on `node`; ValueError if there is none."""
        if not 0 <= node < self.nr_nodes:
            raise ValueError(f"no node {node}: this machine has {self.nr_nodes}")
        if name not in self.zone_names:
            raise ValueError(f"no zone {name!r}: this machine has {', '.join(self.zone_names)}")
        return node * MAX_NR_ZONES + self.zone_names.index(name)

    def zone_name(self, zone):
        """Name of the zone numbered `zone`."""
        return self.zone_names[zone % MAX_NR_ZONES]

    def pageblock_slice(self, zone, first_pfn, count):
        """Migrate types of `count` page blocks from that of `first_pfn` on; a view, dtype uint8.

        Source: mm/page_alloc.c:pfn_to_bitidx, get_pageblock_bitmap @6.1.192
        """
        first = (first_pfn >> self.pageblock_order) + int(self.zones_array[zone]["block_offset"])
        return self.pageblocks_array[first : first + count]

    def list_frames(self, head):
        """Frames on the list whose head is record `head`, head first."""
        frames = []
        entry: cython.uint = self.pages[head].next
        while entry != head:
            frames.append(entry)
            entry = self.pages[entry].next
            if len(frames) > self.nr_records:
                raise RuntimeError(f"list {head} does not close")
        return frames

    def free_list_lengths(self, zone, order):
        """Free blocks of one order by migrate type: a list of six numbers.

        Complexity: O(free blocks of the order).
        """
        lengths = [0] * MIGRATE_TYPES
        mt: cython.int
        head: cython.uint
        entry: cython.uint
        count: cython.long
        for mt in range(MIGRATE_TYPES):
            head = self.zones[zone].lists + order * MIGRATE_TYPES + mt
            entry = self.pages[head].next
            count = 0
            while entry != head:
                count += 1
                entry = self.pages[entry].next
            lengths[mt] = count
        return lengths

    def free_list(self, zone, order, migratetype):
        """Frames of one free list, head first."""
        return self.list_frames(self.zones_array[zone]["lists"] + order * MIGRATE_TYPES + migratetype)

    def pcp_list(self, zone, cpu, pindex):
        """Frames of one per-CPU list, head first."""
        return self.list_frames(self.pagesets_array[zone * self.nr_cpus + cpu]["lists"] + pindex)
