# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.slub_partial.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from kmem.mm.page_alloc cimport PageAllocator
from kmem.mm.slab_pages cimport SlabPages

cdef class PartialSlabs(SlabPages):
    cdef public bint cpu_partial            # CONFIG_SLUB_CPU_PARTIAL

    cdef uint32_t get_partial(self, uint32_t cache, uint32_t gfp, int node, uint16_t *index) except? 0xFFFFFFFE
    cdef uint32_t get_any_partial(self, uint32_t cache, uint32_t gfp, uint16_t *index) except? 0xFFFFFFFE
    cdef uint32_t get_partial_node(self, uint32_t cache, uint32_t gfp, int node, uint16_t *index) except? 0xFFFFFFFE
    cdef uint16_t alloc_single_from_partial(self, uint32_t cache, uint32_t slab) except? 0xFFFD
    cdef uint16_t alloc_single_from_new_slab(self, uint32_t cache, uint32_t slab) except? 0xFFFD
    cdef int deactivate_slab(self, uint32_t cache, uint32_t slab, uint16_t freelist) except -1
    cdef int unfreeze_partials(self, uint32_t cache, uint32_t slab) except -1
    cdef int put_cpu_partial(self, uint32_t cache, uint32_t slab, bint drain) except -1
    cdef int flush_slab(self, uint32_t cache, int cpu) except -1
    cdef int flush_cpu_slab(self, uint32_t cache, int cpu) except -1

cdef bint pfmemalloc_match(PageAllocator allocator, uint8_t page_flags, uint32_t gfp) except -1
