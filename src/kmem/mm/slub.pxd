# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.slub.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.slab cimport Cache, CacheCpu
from kmem.mm.slub_partial cimport PartialSlabs

@cython.final
cdef class Slub(PartialSlabs):
    cdef public object kmalloc_array
    cdef uint16_t[::1] kmalloc_caches       # type * NR_KMALLOC_INDEXES + index
    cdef uint8_t[::1] kmalloc_indexes       # by (size + 7) / 8
    cdef uint32_t kmalloc_cache             # that the last kmalloc() went to; NO_CACHE for none
    cdef public object on_track             # called where the stack of a STORE_USER cache's user is saved

    # An object is its physical address, NULL_OBJECT none.  Node -1 is no wish.
    cdef uint64_t cache_alloc(self, uint32_t cache, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef int cache_free(self, uint64_t address) except -1
    cdef uint64_t kmalloc_node(self, uint64_t size, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef int kfree_object(self, uint64_t address) except -1
    cdef int alloc_bulk(self, uint32_t cache, uint32_t gfp, uint64_t[::1] objects) except -1
    cdef int free_bulk(self, uint64_t[::1] objects) except -1

    cdef uint64_t slab_alloc(self, uint32_t cache, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef int slab_free(self, uint64_t address) except -1
    cdef int object_event(self, uint32_t event, uint64_t address, uint64_t size, uint32_t cache, uint32_t gfp) except -1
    cdef uint64_t slab_alloc_slow(self, uint32_t cache, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t load_freelist(self, CacheCpu *c, uint32_t slab, uint16_t index) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t take_from_reserve_slab(self, uint32_t cache, uint32_t slab, uint16_t index) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t take_debug_object(self, uint32_t cache, uint32_t slab, uint16_t index, uint32_t gfp) except? 0xFFFFFFFFFFFFFFFD
    cdef int slab_free_slow(self, uint32_t cache, uint32_t slab, uint16_t head, uint16_t tail, uint16_t count) except -1
    cdef int free_to_partial_list(self, uint32_t cache, uint32_t slab, uint16_t head, uint16_t tail, uint16_t count) except -1
    cdef uint64_t kmalloc_large(self, uint64_t size, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t slab_alloc_bytes(self, uint32_t cache, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t finish_alloc(self, uint32_t cache, uint64_t address, uint32_t gfp) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t alloc_wild(self, CacheCpu *c) except? 0xFFFFFFFFFFFFFFFD
    cdef uint64_t word_at(self, uint64_t phys) noexcept
    cdef uint64_t hidden_word(self, Cache *s, uint64_t pointer, uint64_t phys) noexcept
    cdef bint slab_free_cpu(self, uint32_t cache, uint32_t slab, uint64_t address) except? -1
    cdef int slab_free_bytes(self, uint64_t address) except -1
    cdef int checker_free_again(self, uint32_t cache, uint32_t slab, uint64_t address, uint16_t head) except -1
    cdef int detached_bytes(self, uint32_t cache, uint32_t slab, uint16_t head) except -1
    cdef int free_detached(self, uint32_t slab, uint16_t head, uint16_t tail, uint16_t count) except -1
