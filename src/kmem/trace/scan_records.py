# SPDX-License-Identifier: GPL-2.0-only
"""Scanner of the records of a perf.data: samples, put into the order of time.

perf writes the buffers of the CPUs one after the other, round by round.  What
comes in one round may belong before what came in the round before, but not
before what was the latest when that one began; so at the mark of a finished
round everything up to the latest time of the round before can go out.  Records
wait as pointers into the recording, are sorted (they come as a few runs that
are in order) and decoded straight into the batch.

The rules about what lies where in a record are worked out by
:mod:`kmem.trace.perf_file` from the event's attributes.

Source: tools/perf/util/ordered-events.c:ordered_events__flush @6.1.192
"""

import cython
import numpy as np
from cython.cimports.kmem.trace.scan_binary import NO_ID, IdMap, load
from cython.cimports.libc.stdint import int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, realloc
from cython.cimports.libc.string import memchr, memcpy

END = SCAN_END
FULL = SCAN_FULL
SPECIAL = SCAN_SPECIAL
CUT = SCAN_CUT
DAMAGED = SCAN_DAMAGED

NEVER = cython.declare(uint64_t, 0)
NEVER = ~NEVER
MIX = cython.declare(uint64_t, 0x2545F4914F6CDD1D)
MOST_STACKS = cython.declare(uint64_t, 1 << 18)
MOST_TIDS = cython.declare(uint64_t, 1 << 22)
AHEAD = cython.declare(uint64_t, 6)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # the checks know no difference of pointers to structs
def merge(
    into: cython.pointer(Entry),
    a: cython.pointer(Entry),
    a_end: cython.pointer(Entry),
    b: cython.pointer(Entry),
    b_end: cython.pointer(Entry),
) -> cython.void:
    """Merge two runs in order; of two at the same time the one of the first run comes first."""
    while a < a_end and b < b_end:
        if b.time < a.time:
            into[0] = b[0]
            b += 1
        else:
            into[0] = a[0]
            a += 1
        into += 1
    memcpy(into, a, (a_end - a) * cython.sizeof(Entry))
    into += a_end - a
    memcpy(into, b, (b_end - b) * cython.sizeof(Entry))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def run_end(p: cython.pointer(Entry), end: cython.pointer(Entry)) -> cython.pointer(Entry):
    """End of the run that begins at `p`."""
    while p + 1 < end and (p + 1).time >= p.time:
        p += 1
    return p + 1 if p < end else end


@cython.final
@cython.cclass
class RecordScanner(BinaryScanner):
    """Scanner of perf.data records; see :class:`~kmem.trace.scan_binary.BinaryScanner`.

    Attributes
    ----------
    max_time : int
        The latest time seen.
    late_events : int
        Events that came after later ones had gone out already.
    rounds : int
        Marks of finished rounds seen.
    kernel_map : tuple of (str, int), or None
        Name and address of the first mapping of the kernel.
    when_mapped : callable or None
        Called when `kernel_map` is known.
    keeps_stacks : bool
        Whether the column ``stack`` is filled.

    Notes
    -----
    What is given to :meth:`scan` must stay where it is until two more rounds
    have ended, or the scanner has finished.
    """

    def __cinit__(self, capacity: cython.Py_ssize_t = 65536):
        self.nr_sample_layouts = 0
        self.by_id = False
        self.layout_by_id = IdMap()
        self.layout_names = []
        self.unsampled = np.zeros(MOST_SAMPLE_LAYOUTS, np.uint64)
        self.queue = cython.NULL
        self.spare = cython.NULL
        self.queue_room = self.queued = self.drained = self.drain_end = 0
        self.sorted = True
        self.kernel_map = None
        self.swapper = self.comms.code("swapper")
        self.stacks_list = [()]
        self.stack_by_hash = IdMap()

    def __dealloc__(self):
        free(self.queue)
        free(self.spare)

    def keep_stacks(self) -> None:
        """Fill the column ``stack`` with codes of call chains, from the next batch on."""
        self.keeps_stacks = True
        self.new_batch()

    def new_batch(self) -> None:
        """Begin a batch in fresh arrays; those of the batch before stay as they are."""
        super().new_batch()
        if self.keeps_stacks:
            self.columns["stack"] = np.zeros(self.capacity, np.uint32)
            self.stack = self.columns["stack"]

    def stacks(self) -> list:
        """Return the call chains by code, innermost address first; code 0 is none."""
        return self.stacks_list

    def add_layout(self, layout, name: str, ids) -> None:
        """Learn what the records of one event look like.

        Parameters
        ----------
        layout : mapping of str to int
            See `SampleLayout`.
        name : str
            Name of the event, for counting those that have no raw data.
        ids : sequence of int
            Numbers that its records carry.
        """
        if self.nr_sample_layouts >= MOST_SAMPLE_LAYOUTS:
            raise ValueError("too many events")
        number: cython.int = self.nr_sample_layouts
        into: cython.pointer(SampleLayout) = cython.address(self.sample_layouts[number])
        into.tid = layout["tid"]
        into.time = layout["time"]
        into.cpu = layout["cpu"]
        into.fixed_end = layout["fixed_end"]
        into.back_tid = layout["back_tid"]
        into.back_time = layout["back_time"]
        into.back_cpu = layout["back_cpu"]
        into.has_read = layout["has_read"]
        into.has_callchain = layout["has_callchain"]
        into.has_raw = layout["has_raw"]
        into.read_format = layout["read_format"]
        into.name = number
        self.layout_names.append(name)
        self.nr_sample_layouts += 1
        for each in ids:
            self.layout_by_id.put(each, number)

    def find_layout_by(self, id_at: int, id_back: int) -> None:
        """Tell events apart by the number at byte `id_at` of a sample, and `id_back` from the end of other records."""
        self.by_id = True
        self.id_at = id_at
        self.id_back = id_back

    def unknown_events(self) -> dict:
        """Return how often each event came that is not in the table."""
        found = super().unknown_events()
        for name, count in zip(self.layout_names, np.asarray(self.unsampled).tolist(), strict=False):
            if count:
                found[name] = found.get(name, 0) + count
        return found

    def scan(
        self,
        data: cython.const[cython.uchar][::1],
        start: cython.Py_ssize_t,
        end: cython.Py_ssize_t,
        file_offset: int,
    ) -> tuple:
        """Take records in until the batch is full or a record wants the caller's attention.

        Parameters
        ----------
        data : bytes-like
            A piece of the recording.
        start, end : int
            The part of it to go through.
        file_offset : int
            Where `data` begins in the file, for messages.

        Returns
        -------
        what : int
            `END`, `FULL`, `SPECIAL`, `CUT` or `DAMAGED`.
        at : int
            Where the next call has to go on; for `SPECIAL` and what is wrong,
            where that record begins.

        Notes
        -----
        Other threads run meanwhile: only what is new asks for the interpreter.
        """
        if not 0 <= start <= end <= data.shape[0]:
            raise ValueError("no such part")
        if start == end:
            return SCAN_END, start
        begin: Bytes = cython.address(data[0])
        stop: Bytes = begin + end
        what: cython.int
        self.base = begin
        self.base_end = begin + data.shape[0]
        self.base_offset = file_offset
        self.at = begin + start
        with cython.nogil:
            what = self.run(stop)
        return what, self.at - begin

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def run(self, stop: Bytes) -> cython.int:
        """Take in the records from `at` on, which follows; what :meth:`scan` answers."""
        p: Bytes = self.at
        kind: uint32_t
        size: uint32_t
        what: cython.int = SCAN_END
        if self.draining and not self.drain():
            return SCAN_FULL
        while p < stop:
            if stop - p < 8:
                what = SCAN_CUT
                break
            kind = load(p, 4, self.swap)
            size = load(p + 6, 2, self.swap)
            if size < 8:
                what = SCAN_DAMAGED
                break
            if size > stop - p:
                what = SCAN_CUT
                break
            if self.count + 2 > self.capacity:
                what = SCAN_FULL
                break
            if kind < PERF_RECORD_USER_TYPE_START:
                self.take(p, kind, size)
                p += size
                if self.queued >= MOST_QUEUED:
                    self.start_drain(self.queue[0].time + (self.max_time - self.queue[0].time) // 2)
                    if not self.drain():
                        what = SCAN_FULL
                        break
            elif kind == PERF_RECORD_FINISHED_ROUND:
                p += size
                self.end_round()
                if not self.drain():
                    what = SCAN_FULL
                    break
            else:
                what = SCAN_SPECIAL
                break
        self.at = p
        return what

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def end_round(self) -> cython.int:
        """Let go what the end of a round makes final."""
        self.rounds += 1
        self.start_drain(self.next_flush)
        self.next_flush = self.max_time
        return 0

    def finish(self) -> bool:
        """Let go everything that waits; False if the batch is full before it is done."""
        done: cython.bint
        with cython.nogil:
            done = self.flush()
        return done

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def flush(self) -> cython.int:
        """What :meth:`finish` does."""
        if self.draining and not self.drain():
            return 0
        self.start_drain(NEVER)
        return self.drain() and self.queued == 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def layout_for(self, record: Bytes, size: uint32_t, sample: cython.bint) -> cython.pointer(SampleLayout):
        """How the event is laid out that a record belongs to; NULL if it belongs to none."""
        code: uint32_t
        if not self.by_id:
            return cython.address(self.sample_layouts[0]) if self.nr_sample_layouts else cython.NULL
        if sample:
            if self.id_at < 0 or cython.cast(uint32_t, self.id_at + 8) > size:
                return cython.NULL
            code = self.layout_by_id.find(load(record + self.id_at, 8, self.swap))
        else:
            if self.id_back <= 0 or cython.cast(uint32_t, self.id_back) > size - 8:
                return cython.NULL
            code = self.layout_by_id.find(load(record + size - self.id_back, 8, self.swap))
            if code == NO_ID:
                code = 0  # made up by perf itself, before recording began
        return cython.NULL if code == NO_ID else cython.address(self.sample_layouts[code])

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def take(self, record: Bytes, kind: uint32_t, size: uint32_t) -> cython.int:
        """Queue a record by its time, or process it at once if it has none."""
        layout: cython.pointer(SampleLayout)
        time: uint64_t = 0
        self.nr_lines += 1
        if kind == PERF_RECORD_SAMPLE:
            layout = self.layout_for(record, size, True)
            if layout is cython.NULL or cython.cast(uint32_t, layout.fixed_end) > size:
                return self.damage_at(record, size)
            if layout.time > 0:
                time = load(record + layout.time, 8, self.swap)
            if time == 0 or time == NEVER:
                return self.process(record, layout)
            return self.push(time, record, layout)
        if (
            kind == PERF_RECORD_COMM
            or kind == PERF_RECORD_FORK
            or kind == PERF_RECORD_LOST
            or kind == PERF_RECORD_LOST_SAMPLES
        ):
            layout = self.layout_for(record, size, False)
            if (
                layout is not cython.NULL
                and layout.back_time > 0
                and size >= 8 + cython.cast(uint32_t, layout.back_time)
            ):
                time = load(record + size - layout.back_time, 8, self.swap)
        elif kind == PERF_RECORD_MMAP:
            with cython.gil:
                return self.process_mmap(record, size)
        else:
            return 0
        if time == 0 or time == NEVER:
            return self.process(record, cython.NULL)
        return self.push(time, record, cython.NULL)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def push(self, time: uint64_t, record: Bytes, layout: cython.pointer(SampleLayout)) -> cython.int:
        """Queue a record."""
        if self.queued == self.queue_room:
            self.grow()
        if self.queued and time < self.queue[self.queued - 1].time:
            self.sorted = False
        if time > self.max_time:
            self.max_time = time
        if time < self.last_flush:
            self.late_events += 1
        self.queue[self.queued].time = time
        self.queue[self.queued].record = record
        self.queue[self.queued].layout = layout
        self.queued += 1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def grow(self) -> cython.int:
        """Make room for twice as many records in the queue."""
        room: uint64_t = max(4096, self.queue_room * 2)
        size: cython.size_t = room * cython.sizeof(Entry)
        queue: cython.pointer(Entry) = cython.cast(cython.pointer(Entry), realloc(self.queue, size))
        if queue is not cython.NULL:
            self.queue = queue
            queue = cython.cast(cython.pointer(Entry), realloc(self.spare, size))
        if queue is cython.NULL:
            with cython.gil:
                raise MemoryError
        self.spare = queue
        self.queue_room = room
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    @cython.overflowcheck(False)  # the checks know no difference of pointers to structs
    def start_drain(self, limit: uint64_t) -> cython.int:
        """Put the queue in order, and let go all records up to a time."""
        end: cython.pointer(Entry) = self.queue + self.queued
        a: cython.pointer(Entry)
        a_end: cython.pointer(Entry)
        b_end: cython.pointer(Entry)
        into: cython.pointer(Entry)
        low: uint64_t
        high: uint64_t
        middle: uint64_t
        while not self.sorted:
            # a merge sort over the runs that are there
            a = self.queue
            into = self.spare
            self.sorted = True
            while a < end:
                a_end = run_end(a, end)
                b_end = run_end(a_end, end)
                merge(into, a, a_end, a_end, b_end)
                if b_end < end:
                    self.sorted = False
                into += b_end - a
                a = b_end
            a = self.queue
            self.queue = self.spare
            self.spare = a
            end = self.queue + self.queued
        low = 0
        high = self.queued
        while low < high:
            middle = (low + high) // 2
            if self.queue[middle].time <= limit:
                low = middle + 1
            else:
                high = middle
        self.drained = 0
        self.drain_end = low
        if low and self.queue[low - 1].time > self.last_flush:
            self.last_flush = self.queue[low - 1].time
        self.draining = True
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def drain(self) -> cython.int:
        """Process what may go out; 0 if the batch is full before that is done."""
        while self.drained < self.drain_end:
            if self.count + 2 > self.capacity:
                return 0
            if self.drained + AHEAD < self.drain_end:
                # a record was seen a round ago: ask for its lines early
                __builtin_prefetch(self.queue[self.drained + AHEAD].record)
                __builtin_prefetch(self.queue[self.drained + AHEAD].record + 64)
            self.process(self.queue[self.drained].record, self.queue[self.drained].layout)
            self.drained += 1
        self.queued -= self.drained
        if self.drained and self.queued:
            memcpy(self.spare, self.queue + self.drained, self.queued * cython.sizeof(Entry))
            self.queue, self.spare = self.spare, self.queue
        self.drained = self.drain_end = 0
        self.draining = False
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def damage_at(self, place: Bytes, size: uint64_t) -> cython.int:
        """Count damage, and keep the place of the first."""
        before: uint64_t = self.nr_bytes
        if place >= self.base and place < self.base_end:
            self.nr_bytes = self.base_offset + (place - self.base)
        self.damaged(size)
        self.nr_bytes = before
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def process(self, record: Bytes, layout: cython.pointer(SampleLayout)) -> cython.int:
        """Process a record whose turn it is."""
        kind: uint32_t = load(record, 4, self.swap)
        size: uint32_t = load(record + 6, 2, self.swap)
        self.nr_bytes += size
        if kind == PERF_RECORD_SAMPLE:
            return self.process_sample(record, size, layout)
        if kind == PERF_RECORD_COMM:
            return self.process_comm(record, size)
        if kind == PERF_RECORD_FORK:
            return self.process_fork(record, size)
        if kind == PERF_RECORD_LOST:
            return self.process_lost(record, size, 16)
        return self.process_lost(record, size, 8)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def skip_read(self, p: Bytes, end: Bytes, read_format: uint32_t) -> Bytes:
        """The end of a sample's counter values; NULL if they do not lie in it."""
        words: uint64_t = 1
        each: uint64_t = 1
        number: uint64_t = 1
        if read_format & PERF_FORMAT_TOTAL_TIME_ENABLED:
            words += 1
        if read_format & PERF_FORMAT_TOTAL_TIME_RUNNING:
            words += 1
        if read_format & PERF_FORMAT_ID:
            each += 1
        if read_format & PERF_FORMAT_LOST:
            each += 1
        if read_format & PERF_FORMAT_GROUP:
            if end - p < 8:
                return cython.NULL
            number = load(p, 8, self.swap)
            if number > 65536:
                return cython.NULL
            words += number * each
        else:
            words += each - 1
        if words * 8 > cython.cast(uint64_t, end - p):
            return cython.NULL
        return p + words * 8

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def process_sample(self, record: Bytes, size: uint32_t, layout: cython.pointer(SampleLayout)) -> cython.int:
        """Decode the trace event in a sample."""
        p: Bytes = record + layout.fixed_end
        end: Bytes = record + size
        chain: Bytes = cython.NULL
        frames: uint64_t = 0
        if not layout.has_raw:
            self.unsampled[layout.name] += 1
            self.nr_unknown += 1
            return 0
        if layout.has_read:
            p = self.skip_read(p, end, layout.read_format)
            if p is cython.NULL:
                return self.damage_at(record, size)
        if layout.has_callchain:
            if end - p < 8:
                return self.damage_at(record, size)
            frames = load(p, 8, self.swap)
            p += 8
            if frames > cython.cast(uint64_t, end - p) // 8:
                return self.damage_at(record, size)
            chain = p
            p += frames * 8
        if end - p < 4:
            return self.damage_at(record, size)
        raw: uint32_t = load(p, 4, self.swap)
        p += 4
        if raw > end - p:
            return self.damage_at(record, size)
        tid: cython.int = 0
        cpu: cython.int = 0
        time: uint64_t = 0
        if layout.tid > 0:
            tid = cython.cast(cython.int, load(record + layout.tid + 4, 4, self.swap) & 0x7FFFFFFF)
            if tid == 0x7FFFFFFF:
                tid = 0  # no task known
        if layout.cpu > 0:
            cpu = cython.cast(uint16_t, load(record + layout.cpu, 4, self.swap))
        if layout.time > 0:
            time = load(record + layout.time, 8, self.swap)
        i: cython.Py_ssize_t = self.count
        done: cython.int = self.decode(p, raw, cython.cast(int64_t, time), cpu, tid, self.comm_of(tid))
        if done == 0:
            return self.damage_at(record, size)
        if done == 1 and self.keeps_stacks:
            self.stack[i] = self.stack_code(chain, frames) if frames else 0
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    @cython.overflowcheck(False)  # the multiplication is meant to wrap
    def stack_code(self, p: Bytes, frames: uint64_t) -> uint32_t:
        """The code of a call chain: its kernel part, innermost first."""
        i: uint64_t
        key: uint64_t = frames
        if frames > MOST_FRAMES:
            frames = MOST_FRAMES
        for i in range(frames):
            key = (key ^ load(p + i * 8, 8, self.swap)) * MIX
            key ^= key >> 29
        code: uint32_t = self.stack_by_hash.find(key)
        if code != NO_ID:
            return code
        if self.stack_by_hash.count >= MOST_STACKS:
            return 0
        with cython.gil:
            code = self.new_stack(p, frames)
        self.stack_by_hash.put(key, code)
        return code

    @cython.cfunc
    @cython.exceptval(0xFFFFFFFE, check=True)
    @cython.overflowcheck(False)
    def new_stack(self, p: Bytes, frames: uint64_t) -> uint32_t:
        """The code of a call chain that has not been seen, 0 if it has no frame of the kernel."""
        # addresses above -4096 say whose the frames behind them are: the kernel's, the user's, a guest's
        address: uint64_t
        i: uint64_t
        found = []
        kernel = True
        for i in range(frames):
            address = load(p + i * 8, 8, self.swap)
            if address >= NEVER - 4094:
                kernel = address == NEVER - 127
            elif kernel:
                found.append(address)
        if not found:
            return 0
        self.stacks_list.append(tuple(found))
        return len(self.stacks_list) - 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def comm_of(self, tid: cython.int) -> uint32_t:
        """The code of a thread's command name."""
        if tid == 0:
            return self.swapper
        if tid == self.last_tid:
            return self.last_comm
        code: uint32_t = self.comm_by_pid.find(tid)
        if code == NO_ID or code == 0:
            with cython.gil:
                code = self.comms.code(f":{tid}")
            if self.comm_by_pid.count < MOST_TIDS:
                self.comm_by_pid.put(tid, code)
        self.last_tid = tid
        self.last_comm = code
        return code

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def process_lost(self, record: Bytes, size: uint32_t, at: cython.int) -> cython.int:
        """A mark of lost events."""
        if size < cython.cast(uint32_t, at) + 8:
            return self.damage_at(record, size)
        layout: cython.pointer(SampleLayout) = self.layout_for(record, size, False)
        cpu: cython.int = 0
        if layout is not cython.NULL:
            if layout.back_cpu > 0 and size >= 8 + cython.cast(uint32_t, layout.back_cpu):
                cpu = cython.cast(uint16_t, load(record + size - layout.back_cpu, 4, self.swap))
            if layout.back_time > 0 and size >= 8 + cython.cast(uint32_t, layout.back_time):
                time: uint64_t = load(record + size - layout.back_time, 8, self.swap)
                if time:
                    self.last_time_ns = cython.cast(int64_t, time)
        return self.store_lost(load(record + at, 8, self.swap), cpu)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def process_comm(self, record: Bytes, size: uint32_t) -> cython.int:
        """A thread has got a name."""
        self.last_tid = 0
        if size < 24:
            return self.damage_at(record, size)
        tid: uint64_t = load(record + 12, 4, self.swap)
        room: cython.size_t = size - 16
        end: Bytes = cython.cast(Bytes, memchr(record + 16, 0, room))
        if end is not cython.NULL:
            room = end - (record + 16)
        code: uint32_t = self.comms.intern(record + 16, min(room, 64))
        if code != NO_ID and self.comm_by_pid.count < MOST_TIDS:
            self.comm_by_pid.put(tid, code)
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def process_fork(self, record: Bytes, size: uint32_t) -> cython.int:
        """A thread begins with its parent's name."""
        self.last_tid = 0
        if size < 32:
            return self.damage_at(record, size)
        tid: uint64_t = load(record + 16, 4, self.swap)
        parent: uint64_t = load(record + 20, 4, self.swap)
        code: uint32_t = self.comm_by_pid.find(parent)
        if tid != parent and self.comm_by_pid.count < MOST_TIDS:
            self.comm_by_pid.put(tid, 0 if code == NO_ID else code)
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def process_mmap(self, record: Bytes, size: uint32_t) -> cython.int:
        """The mapping of the kernel says where it was loaded."""
        if self.kernel_map is not None or size < 48 or load(record + 8, 4, self.swap) != 0xFFFFFFFF:
            return 0
        room: cython.size_t = size - 40
        end: Bytes = cython.cast(Bytes, memchr(record + 40, 0, room))
        if end is not cython.NULL:
            room = end - (record + 40)
        text: bytes = (record + 40)[:room]
        if text.startswith((b"[kernel.kallsyms]", b"[guest.kernel.kallsyms")):
            self.kernel_map = (text.decode("latin-1"), int(load(record + 32, 8, self.swap)))
            if self.when_mapped is not None:
                self.when_mapped()
        return 0
