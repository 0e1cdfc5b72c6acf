# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.buddy.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.mmzone cimport MemMap, PerCpuPages, Zone
from kmem.mm.page cimport Page
from kmem.mm.tracepoint cimport Tracepoints

cdef enum:                        # alloc_flags
    ALLOC_WMARK_MIN = 0
    ALLOC_WMARK_LOW = 1
    ALLOC_WMARK_HIGH = 2
    ALLOC_WMARK_MASK = 3
    ALLOC_NO_WATERMARKS = 0x04
    ALLOC_OOM = 0x08
    ALLOC_NON_BLOCK = 0x10
    ALLOC_MIN_RESERVE = 0x20      # the same bit as __GFP_HIGH
    ALLOC_CPUSET = 0x40
    ALLOC_CMA = 0x80
    ALLOC_NOFRAGMENT = 0x100
    ALLOC_HIGHATOMIC = 0x200
    ALLOC_KSWAPD = 0x800          # the same bit as __GFP_KSWAPD_RECLAIM
    ALLOC_RESERVES = 0x238        # NON_BLOCK | MIN_RESERVE | HIGHATOMIC | OOM

cdef enum:
    FPI_NONE = 0
    FPI_TO_TAIL = 2

cdef class Buddy:
    cdef readonly MemMap memmap
    cdef Page[::1] pages
    cdef Zone[::1] zones
    cdef PerCpuPages[::1] pagesets
    cdef uint8_t[::1] pageblocks
    cdef readonly Tracepoints trace
    cdef public int cpu                           # smp_processor_id()
    cdef readonly int nr_cpus
    cdef readonly uint32_t pageblock_order
    cdef readonly uint32_t pageblock_nr_pages
    cdef public int64_t watermark_boost_factor
    cdef public bint page_group_by_mobility_disabled
    cdef public uint64_t nr_extfrag             # fallbacks so far

    cdef int mod_free_pages(self, uint32_t zone, int64_t delta) except -1
    cdef int mod_free_cma_pages(self, uint32_t zone, int64_t delta) except -1
    cdef int del_page_from_free_list(self, uint32_t pfn, uint32_t zone, uint32_t order) except -1
    cdef int free_one_page(self, uint32_t pfn, uint32_t zone, uint32_t order, uint32_t migratetype, int fpi) except -1
    cdef uint32_t rmqueue_smallest(self, uint32_t zone, uint32_t order, uint32_t migratetype) except? 0xFFFFFFFE
    cdef uint32_t rmqueue_zone(self, uint32_t zone, uint32_t order, uint32_t migratetype, uint32_t alloc_flags) except? 0xFFFFFFFE
    cdef int rmqueue_bulk(self, uint32_t zone, uint32_t order, int count, uint32_t head, uint32_t migratetype, uint32_t alloc_flags) except -1
    cdef bint rmqueue_fallback(self, uint32_t zone, uint32_t order, uint32_t migratetype, uint32_t alloc_flags) except? -1
    cdef int find_suitable_fallback(self, uint32_t zone, uint32_t order, uint32_t migratetype) except -2
    cdef bint can_steal_fallback(self, uint32_t order, uint32_t migratetype) except? -1
    cdef int steal_suitable_fallback(self, uint32_t zone, uint32_t pfn, uint32_t alloc_flags, uint32_t start_type, bint whole_block) except -1
    cdef int move_freepages_block(self, uint32_t zone, uint32_t pfn, uint32_t migratetype, int *num_movable) except -1
    cdef bint boost_watermark(self, uint32_t zone) except? -1
    cdef int reserve_highatomic_pageblock(self, uint32_t pfn, uint32_t zone) except -1
    cdef int unreserve_highatomic_zone(self, uint32_t zone, uint32_t migratetype, bint force) except -1
