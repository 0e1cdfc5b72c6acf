# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_text: what the scanners of all text formats share.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.trace.scan_columns cimport EventColumns

cdef enum:
    LONGEST_LINE = 65536      # bytes
    MOST_COMMENTS = 64

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

cdef class TextScanner(EventColumns):
    cdef readonly list comments               # first lines that begin with '#', and "cpus=N"
    cdef uint8_t[::1] carry                   # the beginning of a line that its chunk cut
    cdef Py_ssize_t carry_size
    cdef uint64_t oversize                    # bytes of an endless line dropped so far

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
