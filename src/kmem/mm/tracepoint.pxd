# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.tracepoint.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:                        # TraceRecord.event, and the bits of Tracepoints.enabled
    TP_KMALLOC = 0
    TP_KMEM_CACHE_ALLOC = 1
    TP_KFREE = 2
    TP_KMEM_CACHE_FREE = 3
    TP_MM_PAGE_ALLOC = 4
    TP_MM_PAGE_FREE = 5
    TP_MM_PAGE_ALLOC_ZONE_LOCKED = 6
    TP_MM_PAGE_PCPU_DRAIN = 7
    TP_MM_PAGE_ALLOC_EXTFRAG = 8
    TP_WATCH = 31                     # no event: the page allocator is being watched

cdef struct TraceRecord:
    uint64_t time_ns
    uint64_t ptr                  # address of an object, or frame number
    uint64_t bytes_req            # extfrag: order of the block that was broken up
    uint64_t bytes_alloc          # extfrag: its migrate type
    uint32_t gfp
    uint32_t call_site
    uint32_t pid
    uint16_t cpu
    uint16_t cache                # index of the cache, 0xFFFF if none
    uint8_t event
    uint8_t order
    uint8_t migratetype
    uint8_t zone

cdef class Tracepoints:
    cdef public uint32_t enabled          # bit per event; 0 costs one test
    cdef public uint64_t time_ns          # what the records are stamped with
    cdef public uint32_t pid
    cdef public uint32_t call_site
    cdef public uint16_t cpu
    cdef readonly uint64_t lost           # records that found no room
    cdef readonly uint64_t limit
    cdef object array
    cdef TraceRecord[::1] records
    cdef readonly uint64_t count
    cdef TraceRecord *emit(self, uint32_t event) except NULL
    cdef int page_event(self, uint32_t event, uint32_t pfn, uint32_t order, uint32_t gfp, uint32_t migratetype, uint32_t zone) except -1
    cdef int object_event(self, uint32_t event, uint64_t ptr, uint64_t bytes_req, uint64_t bytes_alloc, uint32_t gfp, uint32_t cache) except -1
