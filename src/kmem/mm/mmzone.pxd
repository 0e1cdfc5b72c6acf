# SPDX-License-Identifier: GPL-2.0-only
# C-level types of kmem.mm.mmzone: zones, per-CPU page sets and their home.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.page cimport Page

cdef enum:
    WMARK_MIN = 0
    WMARK_LOW = 1
    WMARK_HIGH = 2
    WMARK_PROMO = 3
    NR_WMARK = 4
    ZONE_BOOSTED_WATERMARK = 1    # Zone.flags
    ZONE_RECLAIM_ACTIVE = 2

cdef struct Zone:
    int64_t free_pages            # vm_stat[NR_FREE_PAGES], the global part
    int64_t free_cma_pages        # vm_stat[NR_FREE_CMA_PAGES]
    int64_t watermark[4]          # WMARK_*; without the boost
    int64_t watermark_boost
    int64_t nr_reserved_highatomic
    int64_t lowmem_reserve[5]
    uint32_t start_pfn
    uint32_t spanned
    uint32_t present
    uint32_t managed
    uint32_t nr_free[11]          # free blocks of each order
    uint32_t lists                # first free-list head: + order * MIGRATE_TYPES + type
    uint32_t pageset              # first page set: + cpu
    uint32_t nr_isolate_pageblock
    uint32_t block_offset         # added to a page block's number: 0, or the index on FLATMEM
    uint32_t foreign              # managed frames in use by somebody the model does not know
    int32_t stat_threshold
    uint8_t node
    uint8_t index                 # DMA, DMA32, NORMAL ... as MachineConfig counts them
    uint8_t flags
    uint8_t spare

cdef struct PerCpuPages:          # one per zone and CPU
    int32_t count
    int32_t high
    int32_t batch
    int32_t free_factor
    int32_t expire
    int32_t stat_diff             # vm_stat_diff[NR_FREE_PAGES]
    int32_t cma_diff
    uint32_t lists                # first list head: + pindex

cdef class MemMap:
    cdef public object pages_array          # NumPy arrays behind the views below
    cdef public object zones_array
    cdef public object pagesets_array
    cdef public object pageblocks_array
    cdef Page[::1] pages
    cdef Zone[::1] zones
    cdef PerCpuPages[::1] pagesets
    cdef uint8_t[::1] pageblocks            # migrate types: (pfn >> pageblock_order) + Zone.block_offset
    cdef readonly uint32_t nr_frames        # frames 0 .. nr_frames - 1
    cdef readonly uint32_t nr_records       # frames and list heads
    cdef public uint32_t next_head        # first list head not handed out yet
    cdef readonly int nr_zones
    cdef readonly int nr_cpus
    cdef readonly int nr_nodes
    cdef readonly int pageblock_order
    cdef readonly int zone_normal           # index of ZONE_NORMAL
    cdef readonly bint has_dma32
    cdef readonly tuple zone_names
