# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.replay.engine.
cimport cython
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.page_alloc cimport PageAllocator
from kmem.mm.slub cimport Slub

cdef extern from *:               # a hint of the compiler: has no effect but on time
    void prefetch "__builtin_prefetch" (const void *address) noexcept nogil

cdef enum:                        # how many events ahead memory is fetched
    FAR = 16                      # its entry
    NEAR = 6                      # the page that it stands for

cdef enum:                        # Entry.kind; from OBJECT on it is live
    EMPTY = 0
    GONE = 1                      # keeps its key, which will come again
    OBJECT = 2                    # from a cache or kmalloc
    PAGES = 3                     # from the page allocator
    SLAB_PAGES = 4                # pages of the trace that the model has none for: a slab's, a large kmalloc's, refused ones
    REFUSED = 5                   # an object that the trace has and the model could not give

cdef struct Entry:                # what is live in the trace: half a cache line
    uint64_t key                  # its pointer or frame number there
    uint64_t target               # its physical address in the model; the CPU in the top 16 bits
    uint32_t bytes_req
    uint32_t bytes_alloc
    uint32_t site
    uint16_t cache                # of pages: their migrate type
    uint8_t kind
    uint8_t order

cdef struct Look:                 # a live table, for looking ahead
    Entry *entries
    uint64_t mask

@cython.final
cdef class LiveTable:
    cdef readonly object array
    cdef Entry[::1] entries
    cdef readonly uint64_t count
    cdef uint64_t mask, used      # used: slots with a key, live or gone
    cdef Look *look
    cdef int look_here(self, Look *look) except -1
    cdef Entry *find(self, uint64_t key) except NULL
    cdef Entry *find_room(self, uint64_t key) except NULL
    cdef int take(self, Entry *entry, uint64_t key, uint8_t kind) except -1
    cdef int remove(self, Entry *entry) except -1
    cdef int grow(self) except -1

cdef struct Usage:                # of a call site, a cache or a page order
    uint64_t allocs
    uint64_t frees
    uint64_t failures
    uint64_t bytes_req            # sums over all allocations
    uint64_t bytes_alloc
    uint64_t live                 # now
    uint64_t live_req
    uint64_t live_alloc
    uint64_t peak                 # most at one time
    uint64_t peak_alloc
    uint64_t cross_cpu_frees

cdef struct Binding:              # which cache a call site allocates from
    uint32_t bytes_req
    uint32_t bytes_alloc
    uint32_t cache

cdef struct Candidate:            # a page allocation that may belong to a slab
    uint64_t pfn
    int64_t time_ns
    uint32_t gfp
    int32_t pid
    uint8_t order
    uint8_t patience              # events of this CPU that it still waits for
    uint8_t failed

cdef struct CpuState:
    uint64_t last_pfn             # last page allocation that was carried out
    uint32_t last_order
    uint32_t waiting
    uint32_t base                 # first of its four places in ReplayEngine.candidates

@cython.final
cdef class ReplayEngine:
    cdef readonly PageAllocator allocator
    cdef readonly Slub slub
    cdef readonly LiveTable objects
    cdef readonly LiveTable blocks
    cdef readonly object cold                     # kmem.replay.replay.Cold: names, failures
    cdef readonly object sites_array, caches_array, orders_array, bindings_array, cpus_array, candidates_array
    cdef readonly object cache_names_array, name_caches_array
    cdef Usage[::1] sites
    cdef Usage[::1] caches
    cdef Usage[::1] orders                        # order * 4 + migrate type
    cdef Binding[::1] bindings
    cdef CpuState[::1] cpus
    cdef Candidate[::1] candidates
    cdef uint32_t[::1] cache_names                # name code of each cache, 0 unknown
    cdef uint32_t[::1] name_caches                # cache of each name code, 0xFFFF unknown
    cdef public uint64_t page_offset              # of the direct map, 0 if pointers are hashed
    cdef readonly int nr_cpus
    cdef readonly uint64_t nr_events, nr_requests, nr_frees, nr_failures, nr_failed_in_trace
    cdef readonly uint64_t nr_unknown_frees, nr_unknown_page_frees, nr_double_allocations, nr_slab_pages
    cdef readonly int64_t time_ns
    cdef readonly int failed_node                 # that the last refused request preferred, -1 for none

    cdef Look look[2]                             # objects, blocks

    cdef Entry *slot_of(self, uint32_t event, uint64_t key) except NULL
    cdef int allocate(self, uint32_t kind, uint64_t key, uint64_t bytes_req, uint64_t bytes_alloc, uint32_t gfp, uint32_t site, uint32_t name, int node, bint failed) except -1
    cdef int release(self, uint64_t key, uint32_t name) except -1
    cdef int free_entry(self, Entry *entry) except -1
    cdef int allocate_pages(self, uint64_t pfn, uint32_t order, uint32_t gfp, bint failed) except -1
    cdef int release_pages(self, uint64_t pfn, uint32_t order) except -1
    cdef Entry *take_block(self, uint64_t pfn, uint8_t kind, uint32_t order) except NULL
    cdef int free_block(self, Entry *entry) except -1
    cdef int split_block(self, uint64_t pfn, uint32_t order) except -1
    cdef uint32_t find_cache(self, uint32_t site, uint64_t bytes_req, uint64_t bytes_alloc, uint32_t name) except? 0xFFFFFFFE
    cdef int page_event(self, CpuState *c, uint64_t pfn, uint32_t order, uint32_t gfp, int pid, bint failed) except -1
    cdef int claim_pages(self, CpuState *c, uint64_t key, uint64_t bytes_alloc, int pid) except -1
    cdef int settle(self, CpuState *c, bint all) except -1
    cdef int drop_candidate(self, CpuState *c, uint32_t index) except -1
    cdef int failure(self, uint32_t kind, uint32_t order, uint64_t size, uint32_t gfp, uint32_t site, uint32_t cache) except -1
