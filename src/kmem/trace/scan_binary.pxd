# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_binary: binary trace events by their recorded formats.
cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from libc.string cimport memcpy

from kmem.trace.scan_columns cimport EventColumns

cdef extern from *:
    uint16_t __builtin_bswap16(uint16_t) nogil
    uint32_t __builtin_bswap32(uint32_t) nogil
    uint64_t __builtin_bswap64(uint64_t) nogil

ctypedef const unsigned char *Bytes

cdef enum:
    NO_ID = 0xFFFFFFFF
    MOST_LAYOUTS = 64
    NAME_DATA_LOC = 1         # 16 bits of offset in the event, 16 bits of length
    NAME_REL_LOC = 2          # the same, counted from the end of the field
    NAME_ARRAY = 3

cdef struct FieldAt:          # where a field lies in an event
    uint16_t offset
    uint8_t size              # 1, 2, 4 or 8; 0 = the event does not have it
    uint8_t is_signed

cdef struct EventLayout:      # what is known of one event by its format
    int number                # which it is of the layouts
    int event                 # EV_*
    uint32_t min_size
    int gfp_table             # which table of GFP names it prints with
    int name_kind
    uint32_t name_size        # of a NAME_ARRAY
    int fragmenting_below     # orders
    uint32_t refill_orders    # bit per order
    bint failing_pfn          # a pfn of all ones is no page
    FieldAt ptr, pfn, call_site, bytes_req, bytes_alloc, gfp_flags, node, order, migratetype
    FieldAt fallback_order, fallback_migratetype, change_ownership, percpu_refill, accounted, name, pid

@cython.final
cdef class IdMap:
    cdef uint64_t *keys
    cdef uint32_t *values
    cdef uint64_t mask
    cdef readonly uint64_t count
    cdef uint32_t find(self, uint64_t key) noexcept nogil
    cdef int put(self, uint64_t key, uint32_t value) except -1 nogil

cdef inline uint64_t load(Bytes p, unsigned int size, bint swap) noexcept nogil:
    # read an unsigned number of 1, 2, 4 or 8 bytes, in the byte order of the recording; here, to be inlined
    cdef uint64_t v8
    cdef uint32_t v4
    cdef uint16_t v2
    if size == 8:
        memcpy(&v8, p, 8)
        return __builtin_bswap64(v8) if swap else v8
    if size == 4:
        memcpy(&v4, p, 4)
        return __builtin_bswap32(v4) if swap else v4
    if size == 2:
        memcpy(&v2, p, 2)
        return __builtin_bswap16(v2) if swap else v2
    return p[0]

cdef uint64_t load_field(Bytes data, FieldAt *field, bint swap) noexcept nogil

cdef class BinaryScanner(EventColumns):
    cdef readonly object symbols              # kernel symbols, or None
    cdef readonly dict names                  # of events, by their number
    cdef bint swap, big_endian
    cdef EventLayout layouts[MOST_LAYOUTS]
    cdef int nr_layouts
    cdef list formats                         # behind the layouts
    cdef dict gfp_tables
    cdef uint8_t[::1] layout_of               # by event number: layout + 1
    cdef uint64_t[::1] unknown_by_number
    cdef IdMap sites, flags_by_gfp, comm_by_pid
    cdef uint64_t last_site, last_gfp
    cdef uint32_t last_site_code, last_gfp_code

    cdef int decode(self, Bytes data, size_t size, int64_t time_ns, int cpu, int pid, uint32_t comm) except -1 nogil
    cdef int decode_slab(self, EventLayout *layout, Bytes data, size_t size) except -1 nogil
    cdef int decode_page(self, EventLayout *layout, Bytes data) except -1 nogil
    cdef int decode_name(self, EventLayout *layout, Bytes data, size_t size) except -1 nogil
    cdef int decode_gfp(self, EventLayout *layout, Bytes data) except -1 nogil
    cdef uint32_t site_code(self, uint64_t address) except? 0xFFFFFFFE nogil
    cdef int pid_of(self, Bytes data, size_t size) noexcept nogil
    cdef uint32_t new_gfp(self, int number, uint64_t value) except? 0xFFFFFFFE
    cdef uint32_t new_site(self, uint64_t address) except? 0xFFFFFFFE
