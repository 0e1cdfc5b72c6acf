# SPDX-License-Identifier: GPL-2.0-only
"""What the scanners of trace texts share: chunks, lines, fields, columns.

A scanner is fed chunks of bytes, cut anywhere, and fills one batch of columns
at a time.  A format's own part is :meth:`TextScanner.header`, which reads what
stands before the event's name (command, pid, CPU, time).  From there on all
formats and kernel versions are alike: ``name: key=value key=value ...``, where
the fields are found by name, because kernels added, moved and dropped some.

Raw pointers are used for the text, since a memoryview cannot be handed down
without copying it; every loop is bounded by the ``end`` of its line.  The
columns are typed memoryviews.

Pure text damage never raises.  A line that cannot be right (no header, a
required field missing, a number out of range, longer than ``LONGEST_LINE``) is
counted in ``damaged_lines`` and ``damaged_bytes`` and skipped.
"""

import cython
import numpy as np
from cython.cimports.kmem.trace.scan_columns import (
    EF_ACCOUNTED,
    EF_CHANGE_OWNERSHIP,
    EF_FAILED,
    EF_FRAGMENTING,
    EF_NO_POINTER,
    EF_PERCPU_REFILL,
    EV_KFREE,
    EV_KMALLOC,
    EV_KMALLOC_NODE,
    EV_KMEM_CACHE_ALLOC,
    EV_KMEM_CACHE_ALLOC_NODE,
    EV_KMEM_CACHE_FREE,
    EV_MM_PAGE_ALLOC,
    EV_MM_PAGE_ALLOC_EXTFRAG,
    EV_MM_PAGE_ALLOC_ZONE_LOCKED,
    EV_MM_PAGE_FREE,
    EV_MM_PAGE_FREE_BATCHED,
    EV_MM_PAGE_PCPU_DRAIN,
    EV_UNKNOWN,
    MAX_BYTES,
    MAX_EVENT_ORDER,
    MAX_MIGRATETYPE,
    MAX_NODE,
    MAX_PFN,
    MAX_TIME_S,
    EventColumns,
)
from cython.cimports.kmem.trace.scan_strings import NOT_A_STRING
from cython.cimports.libc.stdint import int8_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memchr, memcmp, memcpy, strlen


@cython.cfunc
@cython.exceptval(check=False)
def parse_decimal(p: Text, end: Text, value: cython.pointer(uint64_t)) -> cython.bint:
    """Whole slice as a decimal number of at most 19 digits (so that it cannot wrap)."""
    n: uint64_t = 0
    if p >= end or end - p > 19:
        return False
    while p < end:
        if p[0] < 48 or p[0] > 57:
            return False
        n = n * 10 + (p[0] - 48)
        p += 1
    value[0] = n
    return True


@cython.cfunc
@cython.exceptval(check=False)
def parse_hex(p: Text, end: Text, value: cython.pointer(uint64_t)) -> cython.bint:
    """Whole slice as a hexadecimal number of at most 16 digits, without prefix."""
    n: uint64_t = 0
    c: cython.uint
    if p >= end or end - p > 16:
        return False
    while p < end:
        c = p[0]
        if c >= 48 and c <= 57:
            c -= 48
        elif c >= 97 and c <= 102:
            c -= 87
        elif c >= 65 and c <= 70:
            c -= 55
        else:
            return False
        n = (n << 4) | c
        p += 1
    value[0] = n
    return True


@cython.cfunc
@cython.exceptval(check=False)
def parse_time(p: Text, end: Text, time_ns: cython.pointer(int64_t)) -> cython.bint:
    """Whole slice as ``seconds.fraction`` or, for clocks without unit, as a plain count."""
    dot: Text = p
    whole: uint64_t
    fraction: uint64_t
    while dot < end and dot[0] != 46:
        dot += 1
    if not parse_decimal(p, dot, cython.address(whole)):
        return False
    if dot == end:
        if whole >= MAX_BYTES:
            return False
        time_ns[0] = whole
        return True
    digits: cython.Py_ssize_t = end - dot - 1
    if digits > 9 or whole > MAX_TIME_S or not parse_decimal(dot + 1, end, cython.address(fraction)):
        return False
    while digits < 9:
        fraction *= 10
        digits += 1
    time_ns[0] = whole * 1000000000 + fraction
    return True


@cython.cfunc
@cython.exceptval(check=False)
def skip_blanks(p: Text, end: Text) -> Text:
    """The first byte from `p` on that is neither blank nor tab."""
    while p < end and (p[0] == 32 or p[0] == 9):
        p += 1
    return p


@cython.cfunc
@cython.exceptval(check=False)
def skip_word(p: Text, end: Text) -> Text:
    """The first blank, tab or end from `p` on."""
    while p < end and p[0] != 32 and p[0] != 9:
        p += 1
    return p


@cython.cfunc
@cython.exceptval(check=False)
def contains(p: Text, end: Text, word: cython.p_const_char) -> cython.bint:
    """Whether a slice contains a word."""
    size: cython.Py_ssize_t = strlen(word)
    while end - p >= size:
        if p[0] == cython.cast(cython.uchar, word[0]) and memcmp(p, word, size) == 0:
            return True
        p += 1
    return False


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def same(p: Text, word: cython.p_const_char, size: cython.size_t) -> cython.bint:
    """Whether a slice of known size is the word."""
    return memcmp(p, word, size) == 0


@cython.cfunc
@cython.exceptval(check=False)
def event_code(p: Text, size: cython.size_t) -> cython.int:
    """Code of an event's name, given without its subsystem."""
    if size == 5 and same(p, b"kfree", 5):
        return EV_KFREE
    if size == 7 and same(p, b"kmalloc", 7):
        return EV_KMALLOC
    if size == 12 and same(p, b"kmalloc_node", 12):
        return EV_KMALLOC_NODE
    if size == 12 and same(p, b"mm_page_free", 12):
        return EV_MM_PAGE_FREE
    if size == 13 and same(p, b"mm_page_alloc", 13):
        return EV_MM_PAGE_ALLOC
    if size == 15 and same(p, b"kmem_cache_free", 15):
        return EV_KMEM_CACHE_FREE
    if size == 16 and same(p, b"kmem_cache_alloc", 16):
        return EV_KMEM_CACHE_ALLOC
    if size == 18 and same(p, b"mm_page_pcpu_drain", 18):
        return EV_MM_PAGE_PCPU_DRAIN
    if size == 20 and same(p, b"mm_page_free_batched", 20):
        return EV_MM_PAGE_FREE_BATCHED
    if size == 21 and same(p, b"kmem_cache_alloc_node", 21):
        return EV_KMEM_CACHE_ALLOC_NODE
    if size == 21 and same(p, b"mm_page_alloc_extfrag", 21):
        return EV_MM_PAGE_ALLOC_EXTFRAG
    if size == 25 and same(p, b"mm_page_alloc_zone_locked", 25):
        return EV_MM_PAGE_ALLOC_ZONE_LOCKED
    return EV_UNKNOWN


@cython.cfunc
@cython.exceptval(check=False)
def required_fields(event: cython.int) -> uint32_t:
    """Fields without which a line of this event is damaged, in every kernel since 4.0."""
    if event <= EV_KMEM_CACHE_ALLOC_NODE:
        return F_PTR | F_BYTES_REQ | F_BYTES_ALLOC | F_GFP
    if event <= EV_KMEM_CACHE_FREE:
        return F_PTR
    if event == EV_MM_PAGE_ALLOC:
        return F_PFN | F_ORDER | F_MIGRATETYPE | F_GFP
    if event <= EV_MM_PAGE_FREE_BATCHED:
        return F_PFN | F_ORDER
    if event == EV_MM_PAGE_ALLOC_EXTFRAG:
        return F_PFN | F_ORDER | F_MIGRATETYPE | F_FALLBACK
    return F_PFN | F_ORDER | F_MIGRATETYPE


@cython.cfunc
@cython.exceptval(check=False)
def is_event_name(p: Text, size: cython.size_t) -> cython.bint:
    """Whether the slice can be the name of a tracepoint, probe or system:event."""
    i: cython.size_t
    c: cython.uchar
    if size == 0 or size > 128 or (p[0] >= 48 and p[0] <= 57):
        return False
    for i in range(size):
        c = p[i]
        if not (
            (c >= 97 and c <= 122) or (c >= 65 and c <= 90) or (c >= 48 and c <= 58) or c == 95 or c == 45 or c == 46
        ):
            return False
    return True


@cython.cclass
class TextScanner(EventColumns):
    """Base of the text scanners; see :mod:`kmem.trace.reader` for their use.

    Parameters
    ----------
    capacity : int
        Events per batch, at least 1.

    Attributes
    ----------
    comments : list of str
        First lines that begin with ``#``.

    Notes
    -----
    The result does not depend on how the input is cut into chunks.  Time is
    O(bytes); memory is one batch, one line and the distinct strings.
    """

    def __cinit__(self, capacity: cython.Py_ssize_t = 65536):
        self.carry = np.zeros(LONGEST_LINE, np.uint8)
        self.comments = []

    def feed(self, data: cython.const[cython.uchar][::1], start: cython.Py_ssize_t = 0) -> int:
        """Scan `data` from byte `start` until it ends or the batch is full.

        Parameters
        ----------
        data : bytes-like
            A chunk of the text.
        start : int
            Where to go on in it.

        Returns
        -------
        int
            Where the next call has to go on; ``len(data)`` when the chunk is
            used up.  A line that the chunk cuts is kept for the next chunk.
        """
        size: cython.Py_ssize_t = data.shape[0]
        if start >= size or start < 0 or self.count >= self.capacity:
            return start
        base: Text = cython.address(data[0])
        p: Text = base + start
        end: Text = base + size
        newline: Text
        if self.carry_size or self.oversize:
            newline = cython.cast(Text, memchr(p, 10, end - p))
            self.append_carry(p, end if newline is cython.NULL else newline)
            if newline is cython.NULL:
                return size
            self.end_carry()
            p = newline + 1
        while p < end and self.count < self.capacity:
            newline = cython.cast(Text, memchr(p, 10, end - p))
            if newline is cython.NULL:
                self.append_carry(p, end)
                return size
            self.scan_line(p, newline)
            self.nr_bytes += newline - p + 1
            p = newline + 1
        return p - base

    def finish(self, truncated: bool = False) -> None:
        """Take the last line, which has no line end; a truncated file's last line is damage."""
        if self.carry_size or self.oversize:
            if truncated:
                self.nr_lines += 1
                self.damaged(self.carry_size + self.oversize)
                self.nr_bytes += self.carry_size + self.oversize
                self.carry_size = 0
                self.oversize = 0
            else:
                self.end_carry()

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def append_carry(self, p: Text, end: Text) -> cython.int:
        """Keep part of a line whose end has not come yet; all of it is dropped when it is too long."""
        size: cython.Py_ssize_t = end - p
        if self.oversize or self.carry_size + size > LONGEST_LINE:
            self.oversize += self.carry_size + size
            self.carry_size = 0
        elif size:
            memcpy(cython.address(self.carry[self.carry_size]), p, size)
            self.carry_size += size
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def end_carry(self) -> cython.int:
        """Scan the line that began in an earlier chunk and ends here."""
        size: cython.Py_ssize_t = self.carry_size
        if self.oversize:
            self.nr_lines += 1
            self.damaged(self.oversize)
            self.nr_bytes += self.oversize + 1
            self.oversize = 0
        else:
            self.scan_line(cython.address(self.carry[0]), cython.address(self.carry[0]) + size)
            self.nr_bytes += size + 1
        self.carry_size = 0
        return 0

    def try_line(self, line: bytes) -> bool:
        """Return whether `line` begins as a line of this format does, for detecting it."""
        head: LineHeader
        size: cython.Py_ssize_t = len(line)
        if size == 0 or size > LONGEST_LINE:
            return False
        text: Text = line
        if not self.header(text, text + size, cython.address(head)):
            return False
        return is_event_name(head.event, 1)

    @cython.cfunc
    @cython.exceptval(check=False)
    def header(self, p: Text, end: Text, found: cython.pointer(LineHeader)) -> cython.bint:
        """Read what stands before the event's name; False if the line has none."""
        return False

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def scan_line(self, p: Text, end: Text) -> cython.int:
        """Scan one whole line: comment, lost events, an event, or damage."""
        head: LineHeader
        self.nr_lines += 1
        if end - p > LONGEST_LINE:
            return self.damaged(end - p)
        if end > p and (end - 1)[0] == 13:
            end -= 1
        if p == end:
            return 0
        if p[0] == 35:
            if len(self.comments) < MOST_COMMENTS:
                self.comments.append(cython.cast(cython.p_char, p)[: min(end - p, 256)].decode("utf-8", "replace"))
            return 0
        if not self.header(p, end, cython.address(head)):
            return self.scan_other(p, end)
        if self.scan_event(head.event, end, cython.address(head)) == 0:
            return self.damaged(end - p)
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def scan_event(self, p: Text, end: Text, head: cython.pointer(LineHeader)) -> cython.int:
        """Take the event at `p`; 0 if it is damaged, 1 otherwise."""
        name_end: Text = skip_word(p, end)
        size: cython.size_t = name_end - p
        fields: Fields
        lost: uint64_t = 0
        if size >= 16 and same(p, b"PERF_RECORD_LOST", 16):
            p = skip_blanks(name_end, end)
            if end - p > 5 and same(p, b"lost ", 5):
                parse_decimal(skip_blanks(p + 5, end), skip_word(skip_blanks(p + 5, end), end), cython.address(lost))
            self.last_time_ns = head.time_ns
            self.store_lost(lost, head.cpu)
            return 1
        if size > 12 and same(p, b"PERF_RECORD_", 12):
            self.count_unknown(p, size)
            return 1
        if size < 2 or (name_end - 1)[0] != 58:
            # The function tracer and stack dumps have no `name:`.
            if contains(p, end, b" <-") or (size and p[0] == 60):
                self.count_unknown(b"(function)", 10)
                return 1
            return 0
        size -= 1
        if size > 5 and same(p, b"kmem:", 5):
            p += 5
            size -= 5
        event: cython.int = event_code(p, size)
        if event == EV_UNKNOWN:
            if not is_event_name(p, size):
                return 0
            self.count_unknown(p, size)
            return 1
        if not self.scan_fields(name_end, end, cython.address(fields)):
            return 0
        need: uint32_t = required_fields(event)
        if fields.present & need != need:
            return 0
        return self.store(event, head, cython.address(fields))

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def scan_other(self, p: Text, end: Text) -> cython.int:
        """A line without header: a lost-event mark, a stack entry, a preamble, or damage."""
        word: Text = skip_blanks(p, end)
        number: uint64_t = 0
        size: cython.size_t = end - word
        begin: Text
        if size == 0:
            return 0
        if size > 4 and same(word, b"CPU:", 4) and (contains(word, end, b"LOST") or contains(word, end, b"DROPPED")):
            begin = word + 4
            cpu: uint64_t = 0
            parse_decimal(begin, skip_word(begin, end), cython.address(cpu))
            while begin < end and begin[0] != 91:
                begin += 1
            begin += 1
            if end - begin > 5 and same(begin, b"LOST ", 5):
                begin += 5
            if begin < end:
                parse_decimal(begin, skip_word(begin, end), cython.address(number))
            return self.store_lost(number, cpu & 0xFFFF)
        if contains(word, end, b"LOST ") and contains(word, end, b" events"):
            begin = word
            while begin < end and not (end - begin > 5 and same(begin, b"LOST ", 5)):
                begin += 1
            begin += 5
            if begin < end:
                parse_decimal(begin, skip_word(begin, end), cython.address(number))
            return self.store_lost(number, 0)
        if word > p and size > 2 and same(word, b"=>", 2):
            return 0
        if word > p and parse_hex(word, skip_word(word, end), cython.address(number)) and skip_word(word, end) < end:
            return 0  # perf's call chains: address symbol (object)
        if size > 5 and same(word, b"cpus=", 5) and parse_decimal(word + 5, end, cython.address(number)):
            self.comments.append(f"cpus={number}")
            return 0
        if size > 4 and (same(word, b"CPU ", 4) and contains(word, end, b" is empty")):
            return 0
        if size > 10 and same(word, b"version = ", 10):
            return 0
        return self.damaged(end - p)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def scan_fields(self, p: Text, end: Text, into: cython.pointer(Fields)) -> cython.int:
        """Read ``key=value`` words up to `end`; 0 if a value cannot be right."""
        key: Text
        value: Text
        size: cython.size_t
        into.present = 0
        into.flags = 0
        into.order = 0
        into.fallback_order = 0
        into.migratetype = -1
        into.fallback_migratetype = -1
        into.node = -1
        into.ptr = 0
        into.pfn = 0
        into.bytes_req = 0
        into.bytes_alloc = 0
        into.gfp = 0
        into.cache = 0
        into.call_site = 0
        while p < end:
            if p[0] == 32 or p[0] == 9:
                p += 1
                continue
            key = p
            while p < end and p[0] != 61 and p[0] != 32:
                p += 1
            if p == end or p[0] == 32:
                continue  # a word of its own, such as the module of a call site
            size = p - key
            value = p + 1
            p = skip_word(value, end)
            if p == value and p < end and contains(p, end, b"(n"):
                value = skip_blanks(p, end)  # old kernels pad: ptr=          (null)
                p = skip_word(value, end)
            elif size == 4 and same(key, b"name", 4):
                p = name_end(p, end)
            if not self.scan_field(key, size, value, p, into):
                return 0
        if into.present & F_NULL_PAGE:
            into.flags |= EF_FAILED
        return 1

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def scan_field(
        self, key: Text, size: cython.size_t, p: Text, end: Text, into: cython.pointer(Fields)
    ) -> cython.int:
        """Store one field; 0 if its value cannot be right, 1 otherwise (unknown fields too)."""
        n: uint64_t
        if size == 3 and same(key, b"ptr", 3):
            into.present |= F_PTR
            return self.scan_pointer(p, end, into)
        if size == 3 and same(key, b"pfn", 3):
            if not parse_number(p, end, cython.address(n)) or n >= MAX_PFN:
                return 0
            into.pfn = n
            into.present |= F_PFN
            return 1
        if size == 4 and same(key, b"page", 4):
            if is_null(p, end):
                into.present |= F_NULL_PAGE
            return 1
        if size == 4 and same(key, b"name", 4):
            into.cache = self.caches.intern(p, end - p)
            return into.cache != NOT_A_STRING
        if size == 4 and same(key, b"node", 4):
            if end - p == 2 and p[0] == 45 and p[1] == 49:
                return 1
            if not parse_decimal(p, end, cython.address(n)) or n > MAX_NODE:
                return 0
            into.node = n
            return 1
        if size == 5 and same(key, b"order", 5):
            return store_order(p, end, cython.address(into.order), into, F_ORDER)
        if size == 9 and same(key, b"bytes_req", 9):
            into.present |= F_BYTES_REQ
            return parse_decimal(p, end, cython.address(into.bytes_req)) and into.bytes_req < MAX_BYTES
        if size == 9 and same(key, b"gfp_flags", 9):
            into.present |= F_GFP
            into.gfp = self.gfps.intern(p, end - p)
            return into.gfp != NOT_A_STRING and end > p
        if size == 9 and same(key, b"call_site", 9):
            into.call_site = self.call_sites.intern(p, symbol_end(p, end) - p)
            return into.call_site != NOT_A_STRING
        if size == 9 and same(key, b"accounted", 9):
            if end - p == 4 and same(p, b"true", 4):
                into.flags |= EF_ACCOUNTED
            return 1
        if size == 11 and same(key, b"bytes_alloc", 11):
            into.present |= F_BYTES_ALLOC
            return parse_decimal(p, end, cython.address(into.bytes_alloc)) and into.bytes_alloc < MAX_BYTES
        if size == 11 and same(key, b"migratetype", 11):
            return store_migratetype(p, end, cython.address(into.migratetype), into)
        if size >= 11:
            return scan_rare_field(key, size, p, end, into)
        return 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def scan_pointer(self, p: Text, end: Text, into: cython.pointer(Fields)) -> cython.bint:
        """``0x`` and digits, 8 or 16 bare digits, or a word in parentheses."""
        size: cython.Py_ssize_t = end - p
        if size > 2 and p[0] == 48 and p[1] == 120:
            return parse_hex(p + 2, end, cython.address(into.ptr))
        if size == 16 or size == 8:
            if parse_hex(p, end, cython.address(into.ptr)):
                if size > self.pointer_digits:
                    self.pointer_digits = size
                return True
        if size < 3 or p[0] != 40 or (end - 1)[0] != 41:
            return False
        if not is_null(p, end):
            into.flags |= EF_NO_POINTER
        return True

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def store(self, event: cython.int, head: cython.pointer(LineHeader), fields: cython.pointer(Fields)) -> cython.int:
        """Write an event into the next row of the batch."""
        i: cython.Py_ssize_t = self.count
        comm: uint32_t = self.comms.intern(head.comm, head.comm_size)
        if comm == NOT_A_STRING:
            return 0
        target: uint64_t
        if event <= EV_KMEM_CACHE_FREE:
            target = fields.ptr
            if event <= EV_KMEM_CACHE_ALLOC_NODE and target == 0 and not fields.flags & EF_NO_POINTER:
                fields.flags |= EF_FAILED
        else:
            target = fields.pfn
        self.time_ns[i] = head.time_ns
        self.target[i] = target
        self.bytes_req[i] = fields.bytes_req
        self.bytes_alloc[i] = fields.bytes_alloc
        self.pid[i] = head.pid
        self.comm[i] = comm
        self.cache[i] = fields.cache
        self.call_site[i] = fields.call_site
        self.gfp[i] = fields.gfp
        self.cpu[i] = head.cpu
        self.flags[i] = fields.flags | head.flags
        self.node[i] = fields.node
        self.event[i] = event
        self.order[i] = fields.order
        self.fallback_order[i] = fields.fallback_order
        self.migratetype[i] = fields.migratetype
        self.fallback_migratetype[i] = fields.fallback_migratetype
        self.count = i + 1
        self.nr_events += 1
        self.last_time_ns = head.time_ns
        return 1


@cython.cfunc
@cython.exceptval(check=False)
def parse_number(p: Text, end: Text, value: cython.pointer(uint64_t)) -> cython.bint:
    """``0x`` and hexadecimal digits, or decimal digits."""
    if end - p > 2 and p[0] == 48 and p[1] == 120:
        return parse_hex(p + 2, end, value)
    return parse_decimal(p, end, value)


@cython.cfunc
@cython.exceptval(check=False)
def is_null(p: Text, end: Text) -> cython.bint:
    """A pointer that is nothing: ``(nil)``, ``(null)`` or zeros."""
    n: uint64_t
    if (end - p == 5 and same(p, b"(nil)", 5)) or (end - p == 6 and same(p, b"(null)", 6)):
        return True
    if end - p > 2 and p[0] == 48 and p[1] == 120:
        p += 2
    return parse_hex(p, end, cython.address(n)) and n == 0


@cython.cfunc
@cython.exceptval(check=False)
def store_order(
    p: Text, end: Text, into: cython.pointer(uint8_t), fields: cython.pointer(Fields), mark: uint32_t
) -> cython.bint:
    """Take an order, if a kernel can have it."""
    n: uint64_t
    if not parse_decimal(p, end, cython.address(n)) or n > MAX_EVENT_ORDER:
        return False
    into[0] = n
    fields.present |= mark
    return True


@cython.cfunc
@cython.exceptval(check=False)
def store_migratetype(p: Text, end: Text, into: cython.pointer(int8_t), fields: cython.pointer(Fields)) -> cython.bint:
    """Take a migrate type, if a kernel can have it."""
    n: uint64_t
    if not parse_decimal(p, end, cython.address(n)) or n > MAX_MIGRATETYPE:
        return False
    into[0] = n
    fields.present |= F_MIGRATETYPE
    return True


@cython.cfunc
@cython.exceptval(check=False)
def scan_rare_field(key: Text, size: cython.size_t, p: Text, end: Text, into: cython.pointer(Fields)) -> cython.bint:
    """Fields of mm_page_alloc_extfrag and mm_page_alloc_zone_locked."""
    on: cython.bint = end - p == 1 and p[0] == 49
    if size == 13 and same(key, b"percpu_refill", 13):
        if on:
            into.flags |= EF_PERCPU_REFILL
    elif size == 11 and same(key, b"alloc_order", 11):
        return store_order(p, end, cython.address(into.order), into, F_ORDER)
    elif size == 14 and same(key, b"fallback_order", 14):
        return store_order(p, end, cython.address(into.fallback_order), into, F_FALLBACK)
    elif size == 17 and same(key, b"alloc_migratetype", 17):
        return store_migratetype(p, end, cython.address(into.migratetype), into)
    elif size == 20 and same(key, b"fallback_migratetype", 20):
        return store_migratetype(p, end, cython.address(into.fallback_migratetype), into)
    elif size == 11 and same(key, b"fragmenting", 11):
        if on:
            into.flags |= EF_FRAGMENTING
    elif size == 16 and same(key, b"change_ownership", 16):
        if on:
            into.flags |= EF_CHANGE_OWNERSHIP
    return True


@cython.cfunc
@cython.exceptval(check=False)
def name_end(p: Text, end: Text) -> Text:
    """End of a cache's name, which may have blanks: the next ``key=`` or the line's end."""
    word: Text
    while p < end:
        word = skip_blanks(p, end)
        if word == end:
            break
        while word < end and word[0] != 32 and word[0] != 61:
            word += 1
        if word < end and word[0] == 61:
            break
        p = word
    return p


@cython.cfunc
@cython.exceptval(check=False)
def symbol_end(p: Text, end: Text) -> Text:
    """End of ``function+0xoffset``: the function's size, which not every format prints, is left out."""
    while p < end and p[0] != 47:
        p += 1
    return p
