# SPDX-License-Identifier: GPL-2.0-only
"""Scanner of ftrace's ring buffer, page by page, all CPUs merged by time.

A page begins with a time stamp and a word that says how much of it is filled
and whether events were lost before it.  Events follow: a word of 5 bits of type
or length and 27 bits of time since the event before, then the event.  Long
times have an event of their own, relative or absolute.

The scanner is given the pages of each CPU in windows of whole pages, whenever
:meth:`RingScanner.scan` asks for them, and merges: the earliest event next, and
of two at the same time the one of the stream that was added first.

Source: include/linux/ring_buffer.h, kernel/trace/ring_buffer.c:rb_update_read_stamp @6.1.192
"""

import cython
from cython.cimports.kmem.trace.scan_binary import NO_ID, load
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, realloc

FULL = SCAN_FULL
DONE = SCAN_DONE

COMMIT_MASK = cython.declare(uint64_t, (1 << 27) - 1)
MISSED_EVENTS = cython.declare(uint64_t, 1 << 31)
MISSED_STORED = cython.declare(uint64_t, 1 << 30)
TOP_BITS = cython.declare(uint64_t, 0x1F)
TOP_SHIFT = cython.declare(uint32_t, 59)
NEVER = cython.declare(uint64_t, 0)
NEVER = ~NEVER


@cython.cclass
class RingScanner(BinaryScanner):
    """Scanner of ring-buffer pages; see :class:`~kmem.trace.scan_binary.BinaryScanner`.

    Attributes
    ----------
    damaged_pages : int
        Pages of which a part was skipped.

    Notes
    -----
    Time is O(events x streams) in the worst case; runs of events of one CPU
    cost O(1) each.
    """

    def __cinit__(self, capacity: cython.Py_ssize_t = 65536):
        self.streams = cython.NULL
        self.nr_streams = 0
        self.room = 0
        self.windows = []
        self.page_bytes = 4096
        self.timestamp_at = 0
        self.commit_at = 8
        self.commit_size = 8
        self.data_at = 16
        self.unknown_comm = self.comms.code("<...>")
        self.idle_comm = self.comms.code("<idle>")

    def __dealloc__(self):
        free(self.streams)

    def set_page(self, *, page_bytes: int, timestamp_at: int, commit_at: int, commit_size: int, data_at: int) -> None:
        """Say how a page is laid out, as ``header_page`` has it; all in bytes."""
        if not data_at < page_bytes or max(timestamp_at + 8, commit_at + commit_size) > data_at:
            raise ValueError("fields of the page header do not lie before its data")
        self.page_bytes = page_bytes
        self.timestamp_at = timestamp_at
        self.commit_at = commit_at
        self.commit_size = commit_size
        self.data_at = data_at

    def set_clock(self, *, mult: int = 0, shift: int = 0, offset: int = 0) -> None:
        """Say how time stamps become nanoseconds: ``(stamp * mult >> shift) + offset``, without `mult` as they are."""
        self.clock_mult = mult
        self.clock_shift = shift
        self.clock_offset = offset & 0xFFFFFFFFFFFFFFFF

    def add_stream(self, cpu: int) -> int:
        """Add a buffer of a CPU; returns its number."""
        streams: cython.pointer(CpuStream)
        if self.nr_streams == self.room:
            room: cython.int = max(16, self.room * 2)
            streams = cython.cast(cython.pointer(CpuStream), realloc(self.streams, room * cython.sizeof(CpuStream)))
            if streams is cython.NULL:
                raise MemoryError
            self.streams = streams
            self.room = room
        s: cython.pointer(CpuStream) = cython.address(self.streams[self.nr_streams])
        s.window = s.page = s.end = s.at = s.page_end = cython.NULL
        s.window_offset = 0
        s.ts = s.event_ts = s.missed = 0
        s.data = cython.NULL
        s.size = 0
        s.cpu = cpu
        s.state = STREAM_NEEDS
        s.has_missed = 0
        self.windows.append(None)
        self.nr_streams += 1
        return self.nr_streams - 1

    def give(self, stream: int, data: cython.const[cython.uchar][::1], file_offset: int) -> None:
        """Give a stream its next pages.

        Parameters
        ----------
        stream : int
        data : bytes-like
            Whole pages; only the last of a stream may be short.
        file_offset : int
            Where in the file they begin, for messages.
        """
        if not 0 <= stream < self.nr_streams or data.shape[0] == 0:
            raise ValueError("no such stream, or no data")
        s: cython.pointer(CpuStream) = cython.address(self.streams[stream])
        self.windows[stream] = data
        self.nr_bytes += data.shape[0]
        s.window = s.page = cython.address(data[0])
        s.end = s.window + data.shape[0]
        s.window_offset = file_offset
        s.at = s.page_end = cython.NULL
        s.state = STREAM_NEEDS
        if self.next_page(s):
            self.next_event(s)

    def end_stream(self, stream: int) -> None:
        """Say that a stream has no more pages."""
        if not 0 <= stream < self.nr_streams:
            raise ValueError("no such stream")
        self.windows[stream] = None
        self.streams[stream].state = STREAM_ENDED

    def scan(self) -> int:
        """Fill the batch.

        Returns
        -------
        int
            The number of a stream whose next pages are wanted, `FULL` when the
            batch is, `DONE` when all streams have ended.

        Notes
        -----
        Other threads run meanwhile: only what is new asks for the interpreter.
        """
        found: cython.int
        with cython.nogil:
            found = self.fill()
        return found

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-3, check=False)
    def fill(self) -> cython.int:
        """Merge events into the batch; what :meth:`scan` answers."""
        best: cython.int
        i: cython.int
        best_ts: uint64_t
        other_ts: uint64_t
        other: cython.int
        s: cython.pointer(CpuStream)
        while True:
            best = other = -1
            best_ts = other_ts = NEVER
            for i in range(self.nr_streams):
                s = cython.address(self.streams[i])
                if s.state == STREAM_NEEDS:
                    return i
                if s.state == STREAM_READY:
                    if best < 0 or s.event_ts < best_ts:
                        other, other_ts = best, best_ts
                        best, best_ts = i, s.event_ts
                    elif other < 0 or s.event_ts < other_ts:
                        other, other_ts = i, s.event_ts
            if best < 0:
                return SCAN_DONE
            s = cython.address(self.streams[best])
            while s.state == STREAM_READY:
                if other >= 0 and (s.event_ts > other_ts or (s.event_ts == other_ts and other < best)):
                    break
                if self.count + 2 > self.capacity:
                    return SCAN_FULL
                self.emit(s)
                self.next_event(s)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def emit(self, s: cython.pointer(CpuStream)) -> cython.int:
        """Write the waiting event of a stream, and the mark of those lost before it."""
        if s.has_missed:
            self.store_lost(s.missed, s.cpu)
            s.has_missed = 0
        self.nr_lines += 1
        pid: cython.int = self.pid_of(s.data, s.size)
        comm: uint32_t = self.idle_comm
        if pid:
            comm = self.comm_by_pid.find(pid)
            if comm == NO_ID:
                comm = self.unknown_comm
        if self.decode(s.data, s.size, cython.cast(int64_t, s.event_ts), s.cpu, pid, comm) == 0:
            self.damage_at(s, s.data, s.size)
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def damage_at(self, s: cython.pointer(CpuStream), place: Bytes, size: uint64_t) -> cython.int:
        """Count damage, and keep the place of the first."""
        before: uint64_t = self.nr_bytes
        self.nr_bytes = s.window_offset + (place - s.window)
        self.damaged(size)
        self.nr_bytes = before
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    @cython.overflowcheck(False)  # an offset may be negative
    def clock(self, ts: uint64_t) -> uint64_t:
        """A time stamp in nanoseconds."""
        if self.clock_mult:
            low: uint64_t = (cython.cast(uint64_t, cython.cast(uint32_t, ts)) * self.clock_mult) >> self.clock_shift
            high: uint64_t = (ts >> 32) * self.clock_mult
            if self.clock_shift <= 32:
                high <<= 32 - self.clock_shift
            else:
                high >>= self.clock_shift - 32
            ts = low + high
        return ts + self.clock_offset

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def next_page(self, s: cython.pointer(CpuStream)) -> cython.int:
        """Begin the page at ``s.page``; 0 if the window is used up. A page that cannot be right is skipped."""
        size: uint64_t
        room: uint64_t
        commit: uint64_t
        while cython.cast(uint64_t, s.end - s.page) >= self.data_at:
            room = min(cython.cast(uint64_t, s.end - s.page), self.page_bytes)
            commit = load(s.page + self.commit_at, self.commit_size, self.swap)
            size = commit & COMMIT_MASK
            if size <= room - self.data_at:
                s.ts = load(s.page + self.timestamp_at, 8, self.swap)
                s.at = s.page + self.data_at
                s.page_end = s.at + size
                if commit & MISSED_EVENTS:
                    s.has_missed = 1
                    s.missed = 0
                    if commit & MISSED_STORED and size + self.commit_size <= room - self.data_at:
                        s.missed = load(s.page_end, self.commit_size, self.swap)
                return 1
            self.damaged_pages += 1
            self.damage_at(s, s.page, room)
            s.page += room
        if s.end > s.page:
            self.damage_at(s, s.page, s.end - s.page)
        s.state = STREAM_NEEDS
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    @cython.overflowcheck(False)  # hostile deltas may wrap the clock
    def next_event(self, s: cython.pointer(CpuStream)) -> cython.int:
        """Find the next event with data; the stream is then ready, or wants more pages."""
        head: uint32_t
        kind: uint32_t
        delta: uint64_t
        length: uint64_t
        left: uint64_t
        while True:
            left = s.page_end - s.at
            if left < 4:
                length = s.end - s.page
                s.page += min(length, self.page_bytes)
                if not self.next_page(s):
                    return 0
                continue
            head = load(s.at, 4, self.swap)
            if self.big_endian:
                kind = head >> TS_SHIFT
                delta = head & ((1 << TS_SHIFT) - 1)
            else:
                kind = head & 31
                delta = head >> 5
            if kind >= 1 and kind <= RINGBUF_TYPE_DATA_TYPE_LEN_MAX:
                length = kind * 4
                if length <= left - 4:
                    s.ts += delta
                    s.data = s.at + 4
                    s.size = length
                    s.at += 4 + length
                    break
                length = left + 1
            elif kind == RINGBUF_TYPE_PADDING and delta == 0:
                s.at = s.page_end
                continue
            elif left < 8:
                length = left + 1
            elif kind == RINGBUF_TYPE_TIME_EXTEND:
                s.ts += (load(s.at + 4, 4, self.swap) << TS_SHIFT) + delta
                s.at += 8
                continue
            elif kind == RINGBUF_TYPE_TIME_STAMP:
                # 59 bits; the ones above are those of the clock so far
                length = (load(s.at + 4, 4, self.swap) << TS_SHIFT) + delta
                if s.ts >> TOP_SHIFT & TOP_BITS:
                    length |= (s.ts >> TOP_SHIFT) << TOP_SHIFT
                    if length < s.ts:
                        length += cython.cast(uint64_t, 1) << TOP_SHIFT
                s.ts = length
                s.at += 8
                continue
            else:
                length = load(s.at + 4, 4, self.swap)
                if kind == RINGBUF_TYPE_PADDING:
                    if length <= left - 4:
                        s.ts += delta
                        s.at += 4 + length
                        continue
                elif length >= 4 and ((length + 3) & ~cython.cast(uint64_t, 3)) <= left - 4:
                    s.ts += delta
                    s.data = s.at + 8
                    s.size = length - 4
                    s.at += 4 + ((length + 3) & ~cython.cast(uint64_t, 3))
                    break
                length = left + 1
            self.damaged_pages += 1
            self.damage_at(s, s.at, left)
            s.at = s.page_end
        s.event_ts = self.clock(s.ts)
        s.state = STREAM_READY
        return 1
