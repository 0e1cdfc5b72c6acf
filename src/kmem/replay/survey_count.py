# SPDX-License-Identifier: GPL-2.0-only
"""One look through a trace, event by event, for what tells of the recorded machine.

What the numbers mean, and what follows from them, is said in
:mod:`kmem.replay.infer`; here they are counted, without the interpreter's lock.
"""

import cython
import numpy as np
from cython.cimports.kmem.trace.scan_columns import (
    EF_FAILED,
    EF_NO_POINTER,
    EV_KMEM_CACHE_ALLOC,
    EV_KMEM_CACHE_ALLOC_NODE,
    EV_KMEM_CACHE_FREE,
    EV_LOST,
    EV_MM_PAGE_ALLOC,
    EV_MM_PAGE_FREE,
    spread,
)
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset

PAGE_OFFSET_64 = cython.declare(uint64_t, 0xFFFF888000000000)
PAGE_OFFSET_32 = cython.declare(uint64_t, 0xC0000000)
KERNEL_64 = cython.declare(uint64_t, 0xFFFF800000000000)
LOWMEM_END = cython.declare(uint64_t, 0xF8000000)
PAGE_SHIFT = cython.declare(uint32_t, 12)
PIECE_SHIFT = cython.declare(uint32_t, 15)
BASE_SHIFT = cython.declare(uint32_t, 30)
BASE_MASK = cython.declare(uint64_t, (1 << 30) - 1)
LARGEST_ORDER = cython.declare(uint32_t, 10)
MOST_LESSONS = cython.declare(uint64_t, 1 << 18)
MOST_KEYS = 1 << 18


@cython.cclass
class Tally:
    """How often each number came, and the highest of a second one that came with it.

    Attributes
    ----------
    found : dict of int to (int, int)
        Complete when :meth:`settle` has been called.  At most 262,144 numbers
        are kept: a machine has no more, damage may.
    """

    def __cinit__(self):
        self.found = {}
        self.used = 0
        memset(cython.address(self.slots[0]), 0, TALLY_SLOTS * cython.sizeof(Count))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def add(self, key: uint64_t, top: int64_t) -> cython.int:
        """Count a number."""
        at: uint64_t = spread(key) & (TALLY_SLOTS - 1)
        while self.slots[at].count:
            if self.slots[at].key == key:
                self.slots[at].count += 1
                if top > self.slots[at].top:
                    self.slots[at].top = top
                return 0
            at = (at + 1) & (TALLY_SLOTS - 1)
        if self.used >= TALLY_SLOTS // 2:
            with cython.gil:
                self.settle()
            at = spread(key) & (TALLY_SLOTS - 1)
        self.slots[at].key = key
        self.slots[at].count = 1
        self.slots[at].top = top
        self.used += 1
        return 0

    def settle(self) -> None:
        """Hand the counts over to `found`."""
        i: cython.int
        if not self.used:
            return
        for i in range(TALLY_SLOTS):
            if self.slots[i].count:
                key = self.slots[i].key
                if key in self.found or len(self.found) < MOST_KEYS:
                    count, top = self.found.get(key, (0, -1))
                    self.found[key] = (count + self.slots[i].count, max(top, self.slots[i].top))
                self.slots[i].count = 0
        self.used = 0


@cython.cclass
class SurveyCounter:
    """Counts of a whole trace.

    Attributes
    ----------
    frames, mapped : Tally
        Page events, and object addresses in the usual direct map of 64 bits,
        by 128 MiB of memory, each with its highest frame.
    bases : Tally
        Where the direct map would begin for a page allocation and an object in
        its pages soon after, in GiB.
    events, first_ns, last_ns, max_pfn, named_allocations
        As in :class:`~kmem.replay.infer.Survey`.
    pointers, aligned, wide, kernel_32, kernel_64 : int
        Object addresses; those that are multiples of 8, have more than 32
        bits, lie above 3 GiB, in the kernel's half of 64 bits.
    max_low : int
        Highest object address below the i386 kernel's end of lowmem.

    Notes
    -----
    Time is O(1) per event; memory does not grow.
    """

    def __cinit__(self):
        self.frames = Tally()
        self.mapped = Tally()
        self.bases = Tally()
        self.by_cpu = np.zeros(MOST_CPUS, np.uint64)
        self.last_row = np.zeros(0, np.uint32)
        self.max_pfn = -1
        self.lesson_mask = 1023
        self.lessons = cython.cast(cython.pointer(Lesson), calloc(1024, cython.sizeof(Lesson)))
        if self.lessons is cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.lessons)

    def __reduce__(self):
        """Pickle what has been counted; which requests are known is forgotten, and told again."""
        numbers = (self.events, self.first_ns, self.last_ns, self.max_pfn, self.pointers, self.aligned)
        numbers += (self.wide, self.kernel_32, self.kernel_64, self.max_low, self.named_allocations)
        found = tuple(tally.found for tally in (self.frames, self.mapped, self.bases))
        return restored, (numbers, self.cpus(), found)

    def restore(self, numbers, cpus, found) -> None:
        """Take over what was pickled."""
        self.events, self.first_ns, self.last_ns, self.max_pfn, self.pointers, self.aligned = numbers[:6]
        self.wide, self.kernel_32, self.kernel_64, self.max_low, self.named_allocations = numbers[6:]
        for cpu, (count, _) in cpus.items():
            self.by_cpu[cpu] = count
        for tally, counts in zip((self.frames, self.mapped, self.bases), found, strict=True):
            tally.found.update(counts)

    def cpus(self) -> dict:
        """Return how many events each CPU has, and its number, by its number."""
        counts = np.asarray(self.by_cpu)
        return {cpu: (int(counts[cpu]), cpu) for cpu in np.flatnonzero(counts).tolist()}

    def add(self, batch) -> list:
        """Count the events of a batch.

        Returns
        -------
        list of (int, int)
            Rows of the batch, an allocation and the free of its object, that
            tell the cache of requests of which it was not known; none once
            allocations themselves name their cache.
        """
        n: cython.Py_ssize_t = len(batch)
        if n == 0:
            return []
        event: uint8_t[::1] = batch.event
        time_ns: int64_t[::1] = batch.time_ns
        target: uint64_t[::1] = batch.target
        bytes_req: uint64_t[::1] = batch.bytes_req
        bytes_alloc: uint64_t[::1] = batch.bytes_alloc
        cache: uint32_t[::1] = batch.cache
        call_site: uint32_t[::1] = batch.call_site
        cpu: uint16_t[::1] = batch.cpu
        flags: uint16_t[::1] = batch.flags
        order: uint8_t[::1] = batch.order
        room: uint64_t = 1024
        while room < cython.cast(uint64_t, 2 * n):
            room *= 2
        if cython.cast(uint64_t, self.last_row.shape[0]) < room:
            self.last_row = np.empty(room, np.uint32)
        pairs_array = np.empty(2 * n, np.uint32)
        pairs: uint32_t[::1] = pairs_array
        nr_pairs: cython.Py_ssize_t = 0
        i: cython.Py_ssize_t
        j: cython.Py_ssize_t
        e: cython.int
        at: uint64_t
        before: uint32_t
        p: uint64_t
        size: uint64_t
        top: int64_t
        is_alloc: cython.bint
        if self.events == 0:
            self.first_ns = time_ns[0]
        with cython.nogil:
            for i in range(n):
                e = event[i]
                self.by_cpu[cpu[i]] += 1
                if time_ns[i] > self.last_ns:
                    self.last_ns = time_ns[i]
                if e == EV_LOST:
                    continue
                self.events += 1
                if flags[i] & (EF_FAILED | EF_NO_POINTER):
                    continue
                p = target[i]
                if e == EV_MM_PAGE_ALLOC or e == EV_MM_PAGE_FREE:
                    top = cython.cast(int64_t, p) + (cython.cast(int64_t, 1) << min(order[i], LARGEST_ORDER)) - 1
                    if top > self.max_pfn:
                        self.max_pfn = top
                    self.frames.add(cython.cast(uint64_t, top) >> PIECE_SHIFT, top)
                    if e == EV_MM_PAGE_ALLOC:
                        size = cython.cast(uint64_t, 1) << (PAGE_SHIFT + (order[i] & 31))
                        for j in range(i + 1, min(i + 1 + LOOKAHEAD, n)):
                            if (
                                event[j] <= EV_KMEM_CACHE_ALLOC_NODE
                                and event[j]
                                and not flags[j] & (EF_FAILED | EF_NO_POINTER)
                                and target[j] >> PAGE_SHIFT >= p
                                and (target[j] - (p << PAGE_SHIFT)) & BASE_MASK < size
                            ):
                                self.bases.add((target[j] - (p << PAGE_SHIFT)) >> BASE_SHIFT, 0)
                elif e and e <= EV_KMEM_CACHE_FREE and p:
                    self.pointers += 1
                    self.wide += p >> 32 != 0
                    self.aligned += p & 7 == 0
                    self.kernel_32 += p >= PAGE_OFFSET_32
                    self.kernel_64 += p >= KERNEL_64
                    if p < LOWMEM_END and p > self.max_low:
                        self.max_low = p
                    if p >= PAGE_OFFSET_64:
                        top = cython.cast(int64_t, (p - PAGE_OFFSET_64) >> PAGE_SHIFT)
                        self.mapped.add(cython.cast(uint64_t, top) >> PIECE_SHIFT, top)
                    if cache[i] and e >= EV_KMEM_CACHE_ALLOC and e <= EV_KMEM_CACHE_ALLOC_NODE:
                        self.named_allocations = True
            if not self.named_allocations:
                memset(cython.address(self.last_row[0]), 0, room * 4)
                for i in range(n):
                    e = event[i]
                    is_alloc = e >= EV_KMEM_CACHE_ALLOC and e <= EV_KMEM_CACHE_ALLOC_NODE
                    p = target[i]
                    if is_alloc:
                        if p == 0 or flags[i] & (EF_FAILED | EF_NO_POINTER):
                            continue
                    elif e != EV_KMEM_CACHE_FREE:
                        continue
                    at = spread(p) & (room - 1)
                    while self.last_row[at] and target[self.last_row[at] - 1] != p:
                        at = (at + 1) & (room - 1)
                    before = self.last_row[at]
                    self.last_row[at] = cython.cast(uint32_t, i + 1)
                    if before == 0 or is_alloc or cache[i] == 0 or event[before - 1] == EV_KMEM_CACHE_FREE:
                        continue
                    before -= 1
                    if self.is_new(call_site[before], cache[i], bytes_req[before], bytes_alloc[before]):
                        pairs[nr_pairs] = before
                        pairs[nr_pairs + 1] = cython.cast(uint32_t, i)
                        nr_pairs += 2
        self.frames.settle()
        self.mapped.settle()
        self.bases.settle()
        return list(map(tuple, pairs_array[:nr_pairs].reshape(-1, 2).tolist()))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def is_new(self, site: uint32_t, cache: uint32_t, bytes_req: uint64_t, bytes_alloc: uint64_t) -> cython.bint:
        """Whether requests of this sort have not been seen to go to this cache; they have been, afterwards."""
        at: uint64_t = lesson_hash(site, cache, bytes_req, bytes_alloc) & self.lesson_mask
        lesson: cython.pointer(Lesson) = cython.address(self.lessons[at])
        while lesson.cache:
            if (
                lesson.site == site
                and lesson.cache == cache
                and lesson.bytes_req == bytes_req
                and lesson.bytes_alloc == bytes_alloc
            ):
                return False
            at = (at + 1) & self.lesson_mask
            lesson = cython.address(self.lessons[at])
        if self.nr_lessons >= MOST_LESSONS:
            return False
        lesson.site = site
        lesson.cache = cache
        lesson.bytes_req = bytes_req
        lesson.bytes_alloc = bytes_alloc
        self.nr_lessons += 1
        if self.nr_lessons * 2 > self.lesson_mask:
            self.grow()
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def grow(self) -> cython.int:
        """Double the table of what has been seen."""
        old: cython.pointer(Lesson) = self.lessons
        room: uint64_t = self.lesson_mask + 1
        lessons: cython.pointer(Lesson) = cython.cast(cython.pointer(Lesson), calloc(room * 2, cython.sizeof(Lesson)))
        i: uint64_t
        at: uint64_t
        if lessons is cython.NULL:
            with cython.gil:
                raise MemoryError
        self.lessons = lessons
        self.lesson_mask = room * 2 - 1
        for i in range(room):
            if old[i].cache:
                at = lesson_hash(old[i].site, old[i].cache, old[i].bytes_req, old[i].bytes_alloc) & self.lesson_mask
                while lessons[at].cache:
                    at = (at + 1) & self.lesson_mask
                lessons[at] = old[i]
        free(old)
        return 0


def restored(numbers, cpus, found):
    """Unpickle a counter."""
    counter = SurveyCounter()
    counter.restore(numbers, cpus, found)
    return counter


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # bits that are shifted out are not needed
def lesson_hash(site: uint64_t, cache: uint64_t, bytes_req: uint64_t, bytes_alloc: uint64_t) -> uint64_t:
    """A hash of what has been learned."""
    return spread(spread(site ^ (cache << 32)) ^ (bytes_req << 24) ^ bytes_alloc)
