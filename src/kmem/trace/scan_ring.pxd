# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_ring: pages of ftrace's ring buffer.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kmem.trace.scan_binary cimport BinaryScanner, Bytes

cdef enum:                    # what scan() says, besides the number of a stream that wants more
    SCAN_FULL = -1
    SCAN_DONE = -2

cdef enum:                    # CpuStream.state
    STREAM_NEEDS = 0          # its window is used up
    STREAM_READY = 1          # an event is waiting
    STREAM_ENDED = 2

cdef enum:                    # event types, in the 5 bits of type_len
    RINGBUF_TYPE_DATA_TYPE_LEN_MAX = 28
    RINGBUF_TYPE_PADDING = 29
    RINGBUF_TYPE_TIME_EXTEND = 30
    RINGBUF_TYPE_TIME_STAMP = 31
    TS_SHIFT = 27

cdef struct CpuStream:        # the pages of one CPU's buffer, in order
    Bytes window              # what has been given of them
    Bytes page
    Bytes end
    Bytes at                  # next event
    Bytes page_end            # end of what the page holds
    uint64_t window_offset    # where the window begins in the file, for messages
    uint64_t ts               # clock of the last event
    uint64_t event_ts         # of the waiting event, in nanoseconds
    uint64_t missed           # events lost before it
    Bytes data
    uint32_t size
    int cpu
    uint8_t state
    uint8_t has_missed

cdef class RingScanner(BinaryScanner):
    cdef CpuStream *streams
    cdef readonly int nr_streams
    cdef int room
    cdef list windows
    cdef uint32_t page_bytes, timestamp_at, commit_at, commit_size, data_at
    cdef uint64_t clock_mult, clock_offset
    cdef uint32_t clock_shift
    cdef uint32_t unknown_comm, idle_comm
    cdef readonly uint64_t damaged_pages

    cdef uint64_t clock(self, uint64_t ts) noexcept nogil
    cdef int next_event(self, CpuStream *s) except -1 nogil
    cdef int next_page(self, CpuStream *s) except -1 nogil
    cdef int damage_at(self, CpuStream *s, Bytes place, uint64_t size) except -1 nogil
    cdef int emit(self, CpuStream *s) except -1 nogil
    cdef int fill(self) except -3 nogil
