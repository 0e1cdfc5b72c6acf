# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.slab_pages.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from kmem.mm.slab cimport CacheNode, Slabs

cdef class SlabPages(Slabs):
    cdef uint32_t new_slab(self, uint32_t cache, uint32_t gfp, int node) except? 0xFFFFFFFE
    cdef int init_freelist(self, uint32_t slab) except -1
    cdef int shuffle_freelist(self, uint32_t cache, uint32_t slab) except -1
    cdef int discard_slab(self, uint32_t cache, uint32_t slab) except -1
    cdef int release_slab(self, uint32_t cache, uint32_t slab) except -1
    cdef int free_slab_pages(self, uint32_t slab) except -1
    cdef int add_partial(self, uint32_t cache, uint32_t slab, bint tail) except -1
    cdef int remove_partial(self, uint32_t cache, uint32_t slab) except -1
    cdef int add_full(self, uint32_t cache, uint32_t slab) except -1
    cdef int remove_full(self, uint32_t cache, uint32_t slab) except -1
    cdef int count_slab(self, uint32_t cache, uint32_t slab, int sign) except -1
    cdef int shrink_node(self, uint32_t cache, int node) except -1
    cdef int free_partial(self, uint32_t cache, int node) except -1
    cdef uint32_t take_slab_pages(self, uint32_t cache, uint32_t gfp, uint32_t order, int node) except? 0xFFFFFFFE
    cdef int setup_bytes(self, uint32_t cache, uint32_t slab) except -1
    cdef CacheNode *slab_node(self, uint32_t cache, uint32_t slab) except NULL
