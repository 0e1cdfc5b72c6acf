# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.analysis.stat_count: who allocates, counted event by event.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    void __builtin_prefetch(const void *) nogil
    int __builtin_clzll(unsigned long long) nogil

cdef enum:
    NR_BUCKETS = 32           # of the timeline
    NONE = 0xFFFFFFFF
    KIND_KMALLOC = 1
    KIND_CACHE = 2
    MOST_CPUS = 8192
    NR_LIFE = 188             # classes of lifetimes: four to a power of two, up to 2 ** 48 ns

cdef struct Group:            # allocations of one sort from one place
    uint64_t size             # bytes given for each
    uint32_t site, cache
    uint32_t named            # the cache that a free of one of them named
    uint8_t kind, flavour
    uint16_t spare
    uint64_t hits, failed, bytes_req, bytes_alloc
    uint64_t frees, bytes_freed, pingpong, cross_node

cdef struct Task:
    int32_t pid
    uint32_t comm
    uint64_t hits, failed, bytes_req, bytes_alloc, frees, bytes_freed
    uint64_t page_hits, page_bytes, page_frees

cdef struct PageGroup:
    uint32_t gfp_text
    uint32_t gfp
    uint8_t order
    int8_t migratetype
    uint16_t spare
    uint64_t hits, failed, frees, bytes_freed

cdef struct Object:           # what is live: an object by its address, or a block by its first frame
    uint64_t key
    uint64_t bytes_req
    int64_t time_ns
    uint32_t group, task, stack
    uint16_t cpu
    uint8_t order, used

cdef struct Address:          # one row of the table of addresses
    uint64_t key
    uint64_t hits, bytes_req, bytes_alloc, pingpong
    uint32_t site
    uint32_t used

cdef struct Life:             # how long the freed objects of a call site lived
    uint64_t total_ns, max_ns
    uint64_t classes[NR_LIFE]

cdef class LiveTable:
    cdef Object *slots
    cdef uint64_t mask
    cdef readonly uint64_t count
    cdef Object *find(self, uint64_t key) noexcept nogil
    cdef int reserve(self) except -1 nogil
    cdef Object *add(self, uint64_t key) noexcept nogil
    cdef int remove(self, Object *slot) noexcept nogil
    cdef int grow(self) except -1 nogil

cdef class StatCounter:
    cdef Group *groups
    cdef uint32_t nr_groups, room_groups
    cdef uint32_t *group_slots
    cdef uint64_t group_mask
    cdef Task *tasks
    cdef uint32_t nr_tasks, room_tasks
    cdef uint32_t *task_slots
    cdef uint64_t task_mask
    cdef uint32_t last_task
    cdef PageGroup *page_groups
    cdef uint32_t nr_page_groups, room_page_groups
    cdef uint64_t *buckets
    cdef readonly LiveTable objects, pages
    cdef Address *addresses
    cdef uint64_t address_mask, nr_addresses
    cdef Life *lives          # by call site
    cdef uint32_t room_lives
    cdef bint keep_addresses, keep_stacks, keep_lifetimes
    cdef uint64_t[::1] stack_hits, stack_bytes
    cdef int16_t[::1] node_of_cpu
    cdef readonly bint nodes_known
    cdef readonly int64_t first_ns, last_ns, bucket_ns, origin_ns
    cdef readonly uint64_t events, lost_marks, live_bytes
    cdef readonly uint64_t unknown_frees, null_frees, lost_frees, unknown_page_frees, unknown_page_bytes
    cdef readonly uint64_t lost_page_frees, page_frees, page_bytes_freed, freed_pages, freed_page_bytes
    cdef readonly dict fallbacks, blame
    cdef int32_t[::1] pending_pid
    cdef uint32_t[::1] pending_stack
    cdef uint16_t[::1] pending_types
    cdef int nr_pending

    cdef uint32_t group_of(self, uint32_t site, uint32_t cache, uint64_t size, int kind, int flavour) except? 0xFFFFFFFE nogil
    cdef uint32_t task_of(self, int32_t pid, uint32_t comm) except? 0xFFFFFFFE nogil
    cdef uint32_t page_group_of(self, uint32_t gfp_text, uint32_t gfp, int order, int migratetype) except? 0xFFFFFFFE nogil
    cdef int bucket(self, int64_t time_ns) except -1 nogil
    cdef int lived(self, uint32_t site, int64_t lifetime_ns) except -1 nogil
    cdef int fold(self) except -1 nogil
    cdef int reserve_address(self) except -1 nogil
    cdef Address *address(self, uint64_t key) noexcept nogil
    cdef int settle(self, int cpu, int32_t pid, uint32_t site, uint32_t task) except -1 nogil
    cdef int fallback(self, int order, int fallback_order, int migratetype, int fallback_type, bint changed) except -1 nogil
