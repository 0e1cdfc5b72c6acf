# SPDX-License-Identifier: GPL-2.0-only
# C-level types of kmem.mm.page: the page record and the list operations on it.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MAX_ORDER = 11            # orders 0 to 10
    MAX_NR_ZONES = 5
    MIGRATE_UNMOVABLE = 0
    MIGRATE_MOVABLE = 1
    MIGRATE_RECLAIMABLE = 2
    MIGRATE_PCPTYPES = 3
    MIGRATE_HIGHATOMIC = 3
    MIGRATE_ISOLATE = 4
    MIGRATE_CMA = 5           # last, where the kernel puts it before ISOLATE
    MIGRATE_TYPES = 6
    NR_LOWORDER_PCP_LISTS = 12
    NR_PCP_LISTS = 14
    PAGE_ALLOC_COSTLY_ORDER = 3

cdef enum:                    # what a frame is used for: Page.kind
    PG_RESERVED = 0           # no memory, or memory the allocator never had
    PG_BUDDY = 1              # head of a free block on a buddy list
    PG_PCP = 2                # head of a block on a per-CPU list
    PG_ALLOCATED = 3          # head of an allocated block
    PG_SLAB = 4               # head of a slab
    PG_LARGE = 5              # head of a large kmalloc
    PG_TAIL = 6               # in a compound page; Page.head is its head
    PG_FREE = 7               # in a free block, not its head

cdef enum:                    # Page.flags
    PGF_LRU = 1               # counted as movable when a block is stolen
    PGF_HEAD = 2              # head of a compound page
    PGF_PFMEMALLOC = 4        # taken from the reserves without watermarks

cdef struct Page:
    uint32_t next             # list links: indexes into the page array, where
    uint32_t prev             # the list heads follow the frames
    uint8_t kind
    uint8_t order             # of the block that this frame heads
    uint8_t migratetype       # page->index while on, or fresh from, a per-CPU list
    uint8_t zone              # node * MAX_NR_ZONES + zone index
    uint8_t flags
    uint8_t frozen            # slab: owned by a CPU
    uint16_t cache            # slab: index of its cache
    uint16_t inuse            # slab
    uint16_t objects          # slab
    uint16_t freelist         # slab: first free object, NO_OBJECT if none
    uint16_t slabs            # slab on a per-CPU partial list: how many from here on
    uint32_t head             # tail of a compound page: its head
    uint32_t slots            # slab: where its freelist links begin

cdef enum:
    NO_OBJECT = 0xFFFF

# A list is circular, as in the kernel.  A record that is on no list may hold any links.
cdef inline int list_init(Page[::1] pages, uint32_t head) except -1:
    pages[head].next = head
    pages[head].prev = head
    return 0

cdef inline int list_add(Page[::1] pages, uint32_t head, uint32_t entry) except -1:
    cdef uint32_t after = pages[head].next
    pages[entry].next = after
    pages[entry].prev = head
    pages[after].prev = entry
    pages[head].next = entry
    return 0

cdef inline int list_add_tail(Page[::1] pages, uint32_t head, uint32_t entry) except -1:
    cdef uint32_t before = pages[head].prev
    pages[entry].prev = before
    pages[entry].next = head
    pages[before].next = entry
    pages[head].prev = entry
    return 0

cdef inline int list_del(Page[::1] pages, uint32_t entry) except -1:
    cdef uint32_t after = pages[entry].next
    cdef uint32_t before = pages[entry].prev
    pages[before].next = after
    pages[after].prev = before
    return 0
