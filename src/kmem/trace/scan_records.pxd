# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_records: the records of a perf.data.
cimport cython
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t

from kmem.trace.scan_binary cimport BinaryScanner, Bytes, IdMap

cdef enum:                    # what scan() says
    SCAN_END = 0              # the piece is used up
    SCAN_FULL = 1             # the batch is full
    SCAN_SPECIAL = 2          # a record that is not an event of the kernel
    SCAN_CUT = 3              # the piece ends within a record
    SCAN_DAMAGED = 4          # a record's length cannot be right

cdef enum:
    MOST_QUEUED = 4194304     # records; without a mark of a finished round, the older half goes out
    MOST_SAMPLE_LAYOUTS = 4096
    MOST_FRAMES = 1024        # of a call chain

cdef enum:                    # perf_event_header.type
    PERF_RECORD_MMAP = 1
    PERF_RECORD_LOST = 2
    PERF_RECORD_COMM = 3
    PERF_RECORD_FORK = 7
    PERF_RECORD_SAMPLE = 9
    PERF_RECORD_LOST_SAMPLES = 13
    PERF_RECORD_USER_TYPE_START = 64
    PERF_RECORD_FINISHED_ROUND = 68

cdef enum:                    # perf_event_attr.read_format
    PERF_FORMAT_TOTAL_TIME_ENABLED = 1
    PERF_FORMAT_TOTAL_TIME_RUNNING = 2
    PERF_FORMAT_ID = 4
    PERF_FORMAT_GROUP = 8
    PERF_FORMAT_LOST = 16

cdef struct SampleLayout:     # where an event's samples hold what; -1 = not there
    int16_t tid, time, cpu    # from the beginning of the record
    int16_t fixed_end         # where the parts of variable length begin
    int16_t back_tid, back_time, back_cpu   # from the end of the other records
    uint8_t has_read, has_callchain, has_raw
    uint32_t read_format
    uint32_t name             # of the event, for those without raw data

cdef struct Entry:            # a record waiting for those before it in time
    uint64_t time
    Bytes record
    SampleLayout *layout      # of a sample

cdef extern from *:
    void __builtin_prefetch(const void *) nogil

@cython.final
cdef class RecordScanner(BinaryScanner):
    cdef SampleLayout sample_layouts[MOST_SAMPLE_LAYOUTS]
    cdef int nr_sample_layouts
    cdef bint by_id
    cdef int id_at, id_back
    cdef IdMap layout_by_id
    cdef list layout_names
    cdef uint64_t[::1] unsampled
    cdef Entry *queue
    cdef Entry *spare
    cdef uint64_t queue_room, queued, drained, drain_end
    cdef bint sorted, draining
    cdef readonly uint64_t max_time, next_flush, last_flush
    cdef readonly uint64_t late_events, rounds
    cdef readonly object kernel_map           # (name, address) of the first mapping of the kernel, or None
    cdef public object when_mapped            # called when that is known
    cdef Bytes base, at
    cdef uint64_t base_offset
    cdef Bytes base_end
    cdef uint32_t swapper
    cdef int last_tid
    cdef uint32_t last_comm
    cdef readonly bint keeps_stacks
    cdef uint32_t[::1] stack
    cdef IdMap stack_by_hash
    cdef list stacks_list

    cdef int run(self, Bytes stop) except -1 nogil
    cdef int end_round(self) except -1 nogil
    cdef int flush(self) except -1 nogil
    cdef int grow(self) except -1 nogil
    cdef int push(self, uint64_t time, Bytes record, SampleLayout *layout) except -1 nogil
    cdef SampleLayout *layout_for(self, Bytes record, uint32_t size, bint sample) noexcept nogil
    cdef int take(self, Bytes record, uint32_t kind, uint32_t size) except -1 nogil
    cdef int start_drain(self, uint64_t limit) except -1 nogil
    cdef int drain(self) except -1 nogil
    cdef int process(self, Bytes record, SampleLayout *layout) except -1 nogil
    cdef int process_sample(self, Bytes record, uint32_t size, SampleLayout *layout) except -1 nogil
    cdef int process_lost(self, Bytes record, uint32_t size, int at) except -1 nogil
    cdef int process_comm(self, Bytes record, uint32_t size) except -1 nogil
    cdef int process_fork(self, Bytes record, uint32_t size) except -1 nogil
    cdef int process_mmap(self, Bytes record, uint32_t size) except -1
    cdef Bytes skip_read(self, Bytes p, Bytes end, uint32_t read_format) noexcept nogil
    cdef uint32_t new_stack(self, Bytes p, uint64_t frames) except? 0xFFFFFFFE
    cdef uint32_t stack_code(self, Bytes p, uint64_t frames) except? 0xFFFFFFFE nogil
    cdef uint32_t comm_of(self, int tid) except? 0xFFFFFFFE nogil
    cdef int damage_at(self, Bytes place, uint64_t size) except -1 nogil
