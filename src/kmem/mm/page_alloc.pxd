# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.page_alloc.
cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.mmzone cimport MemMap, PerCpuPages, Zone
from kmem.mm.page cimport Page
from kmem.mm.page_prep cimport PagePrep

cdef enum:                        # gfp bits of the reference kernel that decide something here
    GFP_DMA_BIT = 0x01
    GFP_HIGHMEM_BIT = 0x02
    GFP_DMA32_BIT = 0x04
    GFP_MOVABLE_BIT = 0x08
    GFP_RECLAIMABLE_BIT = 0x10
    GFP_HIGH_BIT = 0x20
    GFP_ATOMIC_BIT = 0x200
    GFP_DIRECT_RECLAIM_BIT = 0x400
    GFP_KSWAPD_RECLAIM_BIT = 0x800
    GFP_NOWARN_BIT = 0x2000
    GFP_RETRY_MAYFAIL_BIT = 0x4000
    GFP_NOFAIL_BIT = 0x8000
    GFP_NORETRY_BIT = 0x10000
    GFP_MEMALLOC_BIT = 0x20000
    GFP_COMP_BIT = 0x40000
    GFP_NOMEMALLOC_BIT = 0x80000
    GFP_HARDWALL_BIT = 0x100000
    GFP_THISNODE_BIT = 0x200000
    GFP_IO_BIT = 0x40

cdef struct AllocContext:         # struct alloc_context
    uint32_t row                  # of PageAllocator.zonelists
    int32_t preferred             # position in that zonelist, -1 if no zone will do
    uint32_t highest_zoneidx
    uint32_t migratetype

@cython.final
cdef class PageAllocator(PagePrep):
    cdef public object hooks                      # kmem.mm.hooks.Hooks, or None
    cdef object _watch                            # kmem.mm.page_watch.PageWatch, or None
    cdef readonly object zonelists_array          # (2 * nodes, entries) uint8, 255 ends a row
    cdef uint8_t[:, ::1] zonelists
    cdef uint8_t[16] gfp_zones                    # zone index by the low four gfp bits
    cdef public int node                          # numa_node_id()
    cdef readonly int nr_nodes
    cdef int32_t[:, ::1] first_zones              # by zonelist and highest zone index: a position in it, or -1
    cdef bint has_dma32
    cdef int zone_normal
    cdef public uint32_t task_flags               # PF_MEMALLOC of the current task
    cdef public uint64_t nr_failed

    # Frame of a fresh block, or NO_PAGE.  `node` -1 is the node of this CPU.
    cdef uint32_t alloc_pages_node(self, int node, uint32_t gfp, uint32_t order) except? 0xFFFFFFFE
    # Give a block back.
    cdef int free_pages_order(self, uint32_t pfn, uint32_t order) except -1

    cdef bint watermark_fast(self, Zone *z, uint32_t order, int64_t mark, uint32_t highest_zoneidx, uint32_t alloc_flags, uint32_t gfp) except? -1
    cdef uint32_t get_page_from_freelist(self, uint32_t gfp, uint32_t order, uint32_t alloc_flags, AllocContext *ac) except? 0xFFFFFFFE
    cdef uint32_t walk_zonelist(self, uint32_t gfp, uint32_t order, uint32_t alloc_flags, AllocContext *ac, int start) except? 0xFFFFFFFE
    cdef uint32_t rmqueue(self, uint32_t zone, uint32_t order, uint32_t alloc_flags, uint32_t migratetype) except? 0xFFFFFFFE
    cdef uint32_t rmqueue_buddy(self, uint32_t zone, uint32_t order, uint32_t alloc_flags, uint32_t migratetype) except? 0xFFFFFFFE
    cdef uint32_t alloc_flags_nofragment(self, AllocContext *ac, uint32_t gfp) except? 0xFFFFFFFE
    cdef uint32_t gfp_to_alloc_flags(self, uint32_t gfp, uint32_t order, uint32_t migratetype) except? 0xFFFFFFFE
    cdef int prepare(self, AllocContext *ac, int node, uint32_t gfp) except -1
    cdef uint32_t slowpath(self, uint32_t gfp, uint32_t order, AllocContext *ac) except? 0xFFFFFFFE
    cdef int prep_new_page(self, uint32_t pfn, uint32_t order, uint32_t gfp, uint32_t alloc_flags) except -1
    cdef int free_pages_prepare(self, uint32_t pfn, uint32_t order) except -1
    cdef int free_to_buddy(self, uint32_t pfn, uint32_t order, int fpi) except -1
    cdef uint32_t retry_with_reserves(self, uint32_t gfp, uint32_t order, uint32_t *alloc_flags, AllocContext *ac) except? 0xFFFFFFFE
    cdef uint32_t slowpath_reclaim(self, uint32_t gfp, uint32_t order, uint32_t alloc_flags, AllocContext *ac) except? 0xFFFFFFFE
    cdef uint32_t cpuset_fallback(self, uint32_t gfp, uint32_t order, uint32_t alloc_flags, AllocContext *ac) except? 0xFFFFFFFE
    cdef uint32_t nopage(self, uint32_t gfp, uint32_t order, AllocContext *ac, object request) except? 0xFFFFFFFE
    cdef uint32_t after_reclaim(self, uint32_t gfp, uint32_t order, uint32_t alloc_flags, AllocContext *ac) except? 0xFFFFFFFE
    cdef object request(self, uint32_t gfp, uint32_t order, uint32_t alloc_flags, AllocContext *ac)
    cdef uint32_t pfmemalloc_flags(self, uint32_t gfp) except? 0xFFFFFFFE
    cdef uint32_t may_oom(self, uint32_t gfp, uint32_t order, AllocContext *ac, object request) except? 0xFFFFFFFE
    cdef bint should_reclaim_retry(self, uint32_t order, uint32_t alloc_flags, int no_progress, AllocContext *ac) except? -1
    cdef bint unreserve_highatomic(self, AllocContext *ac, bint force) except? -1
    cdef int wake_all_kswapds(self, uint32_t order, uint32_t gfp, AllocContext *ac) except -1
