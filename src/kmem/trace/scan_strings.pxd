# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_strings.
from libc.stdint cimport uint32_t, uint64_t

cdef uint32_t NOT_A_STRING
cdef enum:
    LONGEST = 512             # bytes; no symbol, command, cache or flag text comes near
    KEEP_NAMES = 0            # printable ASCII without blanks
    KEEP_TEXT = 1             # blanks and bytes above 0x7f too (a task may call itself anything)

cdef class StringTable:
    cdef unsigned char *arena             # all strings, end to end
    cdef uint64_t arena_size, arena_room
    cdef uint64_t *offsets                # where string `code` begins; [code + 1] is its end
    cdef uint64_t *hashes
    cdef uint32_t *slots                  # open addressing: code + 1, 0 = empty
    cdef uint64_t mask                    # slots - 1
    cdef uint32_t count, room, limit
    cdef int kind
    cdef uint32_t intern(self, const unsigned char *text, size_t size) except? 0xFFFFFFFE nogil
    cdef uint32_t add(self, const unsigned char *text, size_t size, uint64_t value) except? 0xFFFFFFFE nogil
    cdef int grow(self) except -1
