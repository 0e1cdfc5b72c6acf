# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.replay.survey_count: one look through a trace, event by event.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    TALLY_SLOTS = 1024        # a power of two
    MOST_CPUS = 65536         # that the column can name
    LOOKAHEAD = 3             # events between a slab's pages and its first object

cdef struct Count:
    uint64_t key
    uint64_t count            # 0: the slot is free
    int64_t top

cdef struct Lesson:           # a request, and the cache that the free of its object named
    uint64_t bytes_req, bytes_alloc
    uint32_t site
    uint32_t cache            # 0: the slot is free

cdef class Tally:
    cdef readonly dict found
    cdef Count slots[TALLY_SLOTS]
    cdef int used
    cdef int add(self, uint64_t key, int64_t top) except -1 nogil

cdef class SurveyCounter:
    cdef readonly Tally frames, mapped, bases
    cdef uint64_t[::1] by_cpu
    cdef readonly uint64_t events, pointers, aligned, wide, kernel_32, kernel_64, max_low
    cdef readonly int64_t first_ns, last_ns, max_pfn
    cdef readonly bint named_allocations
    cdef uint32_t[::1] last_row               # by pointer: the row of a batch that was the last there, + 1
    cdef Lesson *lessons
    cdef uint64_t lesson_mask, nr_lessons

    cdef bint is_new(self, uint32_t site, uint32_t cache, uint64_t bytes_req, uint64_t bytes_alloc) except -1 nogil
    cdef int grow(self) except -1 nogil
