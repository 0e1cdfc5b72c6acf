# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_columns: the batch that all scanners fill.
cimport cython
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
    MOST_UNKNOWN = 4096       # names of events that the table has no place for
    MAX_TIME_S = 9000000000
    MAX_BYTES = 0x4000000000000000
    MAX_PFN = 0x10000000000000
    MAX_PID = 4194304
    MAX_CPU = 8191
    MAX_EVENT_ORDER = 18      # CONFIG_ARCH_FORCE_MAX_ORDER and all
    MAX_MIGRATETYPE = 15
    MAX_NODE = 1023

cdef class EventColumns:
    cdef readonly StringTable comms, caches, call_sites, gfps, unknown_names
    cdef readonly dict columns                # of the batch being filled
    cdef readonly Py_ssize_t capacity, count
    cdef readonly uint64_t nr_lines, nr_bytes, nr_events, nr_unknown
    cdef readonly uint64_t lost_events, lost_markers
    cdef readonly uint64_t damaged_lines, damaged_bytes, first_damaged_line, first_damaged_byte
    cdef readonly int pointer_digits
    cdef uint64_t[::1] unknown_counts
    cdef int64_t last_time_ns

    cdef int64_t[::1] time_ns
    cdef uint64_t[::1] target, bytes_req, bytes_alloc
    cdef int32_t[::1] pid
    cdef uint32_t[::1] comm, cache, call_site, gfp
    cdef uint16_t[::1] cpu, flags
    cdef int16_t[::1] node
    cdef uint8_t[::1] event, order, fallback_order
    cdef int8_t[::1] migratetype, fallback_migratetype

    cdef int store_lost(self, uint64_t events, int cpu) except -1 nogil
    cdef int count_unknown(self, const unsigned char *name, size_t size) except -1
    cdef int damaged(self, uint64_t size) except -1 nogil

@cython.overflowcheck(False)      # the multiplication is meant to wrap
cdef inline uint64_t spread(uint64_t key) noexcept nogil:
    """A hash of a number, for the tables of those who count."""
    key = (key ^ (key >> 31)) * <uint64_t>0x1E3779B97F4A7C15
    return key ^ (key >> 27)
