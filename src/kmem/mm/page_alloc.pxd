# C-level interface of kmem.mm.page_alloc.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.mmzone cimport MemMap, PerCpuPages, Zone
from kmem.mm.page cimport Page

cdef struct AllocContext:         # struct alloc_context
    uint32_t zonelist             # row of PageAllocator.zonelists
    int32_t preferred             # position in the zonelist, -1 if none
    int32_t highest_zoneidx
    uint32_t migratetype

cdef class PageAllocator:
    cdef readonly MemMap memmap
    cdef Page[::1] pages
    cdef Zone[::1] zones
    cdef PerCpuPages[::1] pagesets
    cdef public int cpu           # smp_processor_id()
    # Frame of a fresh block, or NO_PAGE.  `node` -1 is the node of this CPU.
    cdef uint32_t alloc_pages_node(self, int node, uint32_t gfp, uint32_t order) except? 0xFFFFFFFE
    # Give a block back; 0.
    cdef int free_pages_order(self, uint32_t pfn, uint32_t order) except -1
