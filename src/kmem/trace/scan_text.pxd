# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_text: what the scanners of all text formats share.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.trace.scan_strings cimport StringTable

cdef enum:                    # EventBatch.event; the names are in kmem.trace.events
    EV_UNKNOWN = 0            # counted by name, not in the table
    EV_KMALLOC = 1
    EV_KMALLOC_NODE = 2
    EV_KMEM_CACHE_ALLOC = 3
    EV_KMEM_CACHE_ALLOC_NODE = 4
    EV_KFREE = 5
    EV_KMEM_CACHE_FREE = 6
    EV_MM_PAGE_ALLOC = 7
    EV_MM_PAGE_FREE = 8
    EV_MM_PAGE_FREE_BATCHED = 9
    EV_MM_PAGE_ALLOC_ZONE_LOCKED = 10
    EV_MM_PAGE_PCPU_DRAIN = 11
    EV_MM_PAGE_ALLOC_EXTFRAG = 12
    EV_LOST = 13
    NR_EVENTS = 14

cdef enum:                    # EventBatch.flags
    EF_ACCOUNTED = 1
    EF_FAILED = 2             # the allocation returned nothing
    EF_NO_POINTER = 4         # the kernel did not print the pointer
    EF_PERCPU_REFILL = 8
    EF_CHANGE_OWNERSHIP = 16
    EF_FRAGMENTING = 32
    EF_IRQS_OFF = 256
    EF_HARDIRQ = 512
    EF_SOFTIRQ = 1024

cdef enum:                    # bounds of what a kernel can say; anything beyond is damage
    LONGEST_LINE = 65536      # bytes
    MOST_COMMENTS = 64
    MOST_UNKNOWN = 4096       # names of events that the table has no place for
    MAX_TIME_S = 9000000000
    MAX_BYTES = 0x4000000000000000
    MAX_PFN = 0x10000000000000
    MAX_PID = 4194304
    MAX_CPU = 8191
    MAX_EVENT_ORDER = 18      # CONFIG_ARCH_FORCE_MAX_ORDER and all
    MAX_MIGRATETYPE = 15
    MAX_NODE = 1023

cdef enum:                    # Fields.present
    F_PTR = 1
    F_PFN = 2
    F_BYTES_REQ = 4
    F_BYTES_ALLOC = 8
    F_GFP = 16
    F_ORDER = 32
    F_MIGRATETYPE = 64
    F_NULL_PAGE = 128
    F_FALLBACK = 256

ctypedef const unsigned char *Text

cdef struct LineHeader:       # what stands before the event's own fields
    int64_t time_ns
    int32_t pid
    uint16_t cpu
    uint16_t flags
    Text comm
    size_t comm_size
    Text event                # where the event's name begins

cdef struct Fields:           # what an event may say about itself
    uint32_t present          # F_* of the fields that were found
    uint16_t flags
    uint8_t order
    uint8_t fallback_order
    int8_t migratetype
    int8_t fallback_migratetype
    int16_t node
    uint64_t ptr
    uint64_t pfn
    uint64_t bytes_req
    uint64_t bytes_alloc
    uint32_t gfp
    uint32_t cache
    uint32_t call_site

cdef bint parse_decimal(Text p, Text end, uint64_t *value) noexcept
cdef bint parse_hex(Text p, Text end, uint64_t *value) noexcept
cdef bint parse_time(Text p, Text end, int64_t *time_ns) noexcept
cdef Text skip_blanks(Text p, Text end) noexcept
cdef Text skip_word(Text p, Text end) noexcept
cdef bint contains(Text p, Text end, const char *word) noexcept

cdef class TextScanner:
    cdef readonly StringTable comms, caches, call_sites, gfps, unknown_names
    cdef readonly list comments               # first lines that begin with '#', and "cpus=N"
    cdef readonly dict columns                # of the batch being filled
    cdef readonly Py_ssize_t capacity, count
    cdef readonly uint64_t nr_lines, nr_bytes, nr_events, nr_unknown
    cdef readonly uint64_t lost_events, lost_markers
    cdef readonly uint64_t damaged_lines, damaged_bytes, first_damaged_line, first_damaged_byte
    cdef readonly int pointer_digits
    cdef uint64_t[::1] unknown_counts
    cdef uint8_t[::1] carry                   # the beginning of a line that its chunk cut
    cdef Py_ssize_t carry_size
    cdef uint64_t oversize                    # bytes of an endless line dropped so far
    cdef int64_t last_time_ns

    cdef int64_t[::1] time_ns
    cdef uint64_t[::1] target, bytes_req, bytes_alloc
    cdef int32_t[::1] pid
    cdef uint32_t[::1] comm, cache, call_site, gfp
    cdef uint16_t[::1] cpu, flags
    cdef int16_t[::1] node
    cdef uint8_t[::1] event, order, fallback_order
    cdef int8_t[::1] migratetype, fallback_migratetype

    cdef int append_carry(self, Text p, Text end) except -1
    cdef int end_carry(self) except -1
    cdef bint header(self, Text p, Text end, LineHeader *found) noexcept
    cdef int scan_line(self, Text p, Text end) except -1
    cdef int scan_event(self, Text p, Text end, LineHeader *head) except -1
    cdef int scan_other(self, Text p, Text end) except -1
    cdef int scan_fields(self, Text p, Text end, Fields *into) except -1
    cdef int scan_field(self, Text key, size_t size, Text p, Text end, Fields *into) except -1
    cdef bint scan_pointer(self, Text p, Text end, Fields *into) noexcept
    cdef int store(self, int event, LineHeader *head, Fields *fields) except -1
    cdef int store_lost(self, uint64_t events, int cpu) except -1
    cdef int count_unknown(self, Text name, size_t size) except -1
    cdef int damaged(self, uint64_t size) except -1
