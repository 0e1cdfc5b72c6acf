# SPDX-License-Identifier: GPL-2.0-only
# C-level types of kmem.mm.slab: caches, their per-CPU and per-node parts, and the slabs.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.mmzone cimport MemMap
from kmem.mm.page cimport Page
from kmem.mm.page_alloc cimport PageAllocator

cdef enum:
    NO_SLAB = 0xFFFFFFFF          # no frame: NO_PAGE
cdef enum:
    NULL_OBJECT = 0xFFFFFFFFFFFFFFFF

cdef extern from *:
    uint64_t swab64 "__builtin_bswap64" (uint64_t value) nogil
    uint32_t swab32 "__builtin_bswap32" (uint32_t value) nogil

cdef enum:
    NO_CACHE = 0xFFFF
    IN_USE = 0xFFFE               # freelist link of an object that is handed out
    WILD = 0xFFFD                 # freelist link that somebody overwrote in memory: see Slabs.wild
    MAX_OBJS_PER_PAGE = 32767
    NR_KMALLOC_TYPES = 4
    NR_KMALLOC_INDEXES = 14       # kmalloc_caches[type][0 .. KMALLOC_SHIFT_HIGH]
    KMALLOC_MAX_CACHE_SIZE = 8192
    SHRINK_PROMOTE_MAX = 32

cdef struct Cache:                # struct kmem_cache, what is shared by all CPUs and nodes
    uint32_t size
    uint32_t red_left_pad         # 0 without SLAB_RED_ZONE
    uint32_t flags
    uint32_t allocflags
    uint32_t min_partial
    uint32_t cpu_partial_slabs
    uint32_t remote_ratio         # remote_node_defrag_ratio
    uint32_t random_seq           # where its sequence starts in Slub.sequences; NO_PAGE: linear freelists
    uint32_t ksize
    uint16_t objects              # of a slab of the preferred order
    uint16_t min_objects
    uint8_t order
    uint8_t min_order
    uint8_t debug                 # kmem_cache_debug()
    uint8_t live
    uint32_t new_slabs            # ALLOC_SLAB
    uint32_t freed_slabs          # FREE_SLAB
    uint32_t order_fallbacks      # ORDER_FALLBACK
    uint32_t failures             # requests that got no object
    uint32_t object_size
    uint32_t fp_offset            # of the free pointer, from the start of the object
    uint8_t init                  # INIT_*
    uint8_t setup                 # slabs are set up object by object: debug bytes, or a constructor
    uint16_t spare
    uint64_t random               # what free pointers are hidden with

cdef enum:                        # Cache.init: when objects are zeroed
    INIT_ON_ALLOC = 1             # always when handed out
    INIT_ON_FREE = 2              # when freed
    INIT_NEVER = 4                # not even if asked for: there is a constructor

cdef struct CacheNode:            # struct kmem_cache_node
    uint32_t nr_partial
    uint32_t partial              # list head
    uint32_t full                 # list head, used by SLAB_STORE_USER caches
    uint32_t unseen               # slabs that a recorded state counts but does not show
    int64_t nr_slabs
    int64_t total_objects

cdef struct CacheCpu:             # struct kmem_cache_cpu, with what the fast paths need of the cache
    uint32_t slab                 # NO_PAGE if none
    uint32_t partial              # first slab of the partial list, linked by Page.next
    uint32_t slots                # Page.slots of the slab
    uint32_t size
    uint32_t reciprocal           # ceil(2 ** 32 / size)
    uint32_t red_left_pad
    uint16_t freelist             # first free object of this CPU
    uint16_t spare
    uint32_t spare2

cdef class Slabs:
    cdef readonly PageAllocator allocator
    cdef readonly MemMap memmap
    cdef public object caches_array         # NumPy arrays behind the views below
    cdef public object nodes_array
    cdef public object cpus_array
    cdef public object links_array
    cdef public object chunks_array
    cdef public object sequences_array
    cdef Page[::1] pages
    cdef Cache[::1] caches
    cdef CacheNode[::1] nodes               # cache * nr_nodes + node
    cdef CacheCpu[::1] cpus                 # cache * nr_cpus + cpu
    cdef uint16_t[::1] links                # freelist links of all slabs
    cdef uint32_t[::1] chunks               # first free chunk of links, by size class
    cdef uint16_t[::1] sequences            # random sequences of all caches
    cdef public dict geometries             # index of a live cache: its CacheGeometry
    cdef public list free_indexes
    cdef readonly int nr_cpus
    cdef readonly int nr_nodes
    cdef readonly uint32_t nr_caches        # indexes given out so far, dead ones included
    cdef uint32_t links_end
    cdef uint32_t sequences_end
    cdef readonly uint32_t rcu_first        # slabs that wait for a grace period, linked by Page.next
    cdef uint32_t rcu_last
    cdef readonly uint32_t rcu_pending
    cdef public uint64_t random_state
    cdef public int start_object            # first object of the next shuffled slab; -1: at random
    cdef public uint64_t shuffled_slabs     # slabs whose start was drawn, or told
    cdef readonly uint64_t ram_base         # host address of physical address 0; 0: objects have no bytes
    cdef readonly uint64_t page_offset      # kernel address of physical address 0
    cdef readonly int word_bytes
    cdef readonly bint init_on_alloc
    cdef readonly bint init_on_free
    cdef public object checker              # kmem.mm.slub_check.SlubChecker once there is memory
    cdef public bint pending                # the checker has something to report
    cdef public object page_source          # where frames of slabs come from if not from the allocator
    cdef readonly uint64_t seed
    cdef public dict ctors                  # cache: function that is called for each object of a new slab
    cdef public dict wild                   # slab: what stands at the overwritten end of its freelist
    cdef public uint64_t orig_size          # what the latest kmalloc asked for

    cdef int grow_caches(self) except -1
    cdef bint has_normal_memory(self, int node) except? -1
    cdef uint64_t object_address(self, uint32_t cache, uint32_t slab, uint16_t index) except? 0xFFFFFFFFFFFFFFFD
    cdef uint32_t slab_of(self, uint64_t address) except? 0xFFFFFFFE
    cdef uint32_t locate(self, uint64_t address, uint16_t *index) except? 0xFFFFFFFE
    cdef uint32_t alloc_links(self, uint32_t objects) except? 0xFFFFFFFE
    cdef int free_links(self, uint32_t slots, uint32_t objects) except -1
    cdef uint32_t random_below(self, uint32_t limit) except? 0xFFFFFFFE
    cdef uint64_t hidden(self, uint32_t cache, uint64_t pointer, uint64_t phys)
    cdef uint64_t read_link(self, uint32_t cache, uint64_t address)
    cdef uint64_t link_pointer(self, uint32_t cache, uint32_t slab, uint16_t link) except? 0xFFFFFFFFFFFFFFFD
    cdef int write_link(self, uint32_t cache, uint32_t slab, uint16_t index, uint16_t link) except -1
    cdef uint16_t next_link(self, uint32_t cache, uint32_t slab, uint16_t index) except? 0xFFFC
    cdef uint16_t wild_link(self, uint32_t slab, uint16_t link, uint64_t pointer) except? 0xFFFC
    cdef int zero_bytes(self, uint64_t phys, uint64_t size) except -1
    cdef int init_on_free_bytes(self, uint32_t cache, uint64_t address) except -1
