# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.slub.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.slab cimport CacheCpu, Slabs

@cython.final
cdef class Slub(Slabs):
    cdef public object kmalloc_array
    cdef uint16_t[::1] kmalloc_caches       # type * NR_KMALLOC_INDEXES + index
    cdef uint8_t[::1] kmalloc_indexes       # by (size + 7) / 8
    cdef uint32_t kmalloc_cache             # that the last kmalloc() went to; NO_CACHE for none
    cdef public bint cpu_partial            # CONFIG_SLUB_CPU_PARTIAL
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
    cdef int slab_free_slow(self, uint32_t cache, uint32_t slab, uint16_t head, uint16_t tail, uint16_t count) except -1
    cdef int free_to_partial_list(self, uint32_t cache, uint32_t slab, uint16_t head, uint16_t tail, uint16_t count) except -1
    cdef uint64_t kmalloc_large(self, uint64_t size, uint32_t gfp, int node) except? 0xFFFFFFFFFFFFFFFD
    cdef int free_detached(self, uint32_t slab, uint16_t head, uint16_t tail, uint16_t count) except -1
