# SPDX-License-Identifier: GPL-2.0-only
"""Decoding of binary trace events into the event table.

What the ring buffer of ftrace and the samples of perf hold is the same: the
tracepoint's record, whose layout its format file describes.  A scanner is given
these formats; they become small C structs that say where each field lies, how
wide it is and whether it has a sign.  The common path touches no Python object:
call sites, GFP words and threads are looked up in small hash tables, and only
one that is new asks Python for its name.

Nothing is read beyond the end of an event, whatever its own fields claim, and a
value that no kernel can have makes the event a damaged one, as in a text.
"""

import sys

import cython
import numpy as np
from cython.cimports.kmem.trace.scan_columns import (
    EF_ACCOUNTED,
    EF_CHANGE_OWNERSHIP,
    EF_FAILED,
    EF_FRAGMENTING,
    EF_PERCPU_REFILL,
    EV_KMEM_CACHE_ALLOC_NODE,
    EV_KMEM_CACHE_FREE,
    EV_MM_PAGE_ALLOC_EXTFRAG,
    MAX_BYTES,
    MAX_EVENT_ORDER,
    MAX_MIGRATETYPE,
    MAX_NODE,
    MAX_PFN,
    EventColumns,
)
from cython.cimports.kmem.trace.scan_strings import NOT_A_STRING
from cython.cimports.libc.stdint import int16_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memchr, memset

from kmem.trace.event_format import event_plan, flags_of

SPREAD = cython.declare(uint64_t, 0x1E3779B97F4A7C15)
MOST_IDS = cython.declare(uint64_t, 1 << 20)
ACCOUNTED_BIT = cython.declare(uint32_t, 0x40000000)
ALL_ONES = cython.declare(uint64_t, 0)
ALL_ONES = ~ALL_ONES


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # bits are meant to be shifted out
def load_field(data: Bytes, field: cython.pointer(FieldAt), swap: cython.bint) -> uint64_t:
    """Read a field, its sign extended to 64 bits."""
    value: uint64_t = load(data + field.offset, field.size, swap)
    if field.is_signed and field.size < 8:
        if value >> (field.size * 8 - 1):
            value |= ALL_ONES << (field.size * 8)
    return value


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # the multiplication is meant to wrap
def spread(key: uint64_t) -> uint64_t:
    """A hash of a number."""
    key *= SPREAD
    return key ^ (key >> 29)


@cython.final
@cython.cclass
class IdMap:
    """Numbers of 64 bits to codes of 32 bits: an open-addressing table, for compiled callers only."""

    def __cinit__(self):
        self.mask = 255
        self.count = 0
        self.keys = cython.cast(cython.pointer(uint64_t), calloc(256, 8))
        self.values = cython.cast(cython.pointer(uint32_t), malloc(256 * 4))
        if self.keys is cython.NULL or self.values is cython.NULL:
            raise MemoryError
        memset(self.values, 0xFF, 256 * 4)

    def __dealloc__(self):
        free(self.keys)
        free(self.values)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def find(self, key: uint64_t) -> uint32_t:
        """The code of a number, `NO_ID` if it has none."""
        at: uint64_t = spread(key) & self.mask
        while self.values[at] != NO_ID:
            if self.keys[at] == key:
                return self.values[at]
            at = (at + 1) & self.mask
        return NO_ID

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def put(self, key: uint64_t, value: uint32_t) -> cython.int:
        """Give a number a code, a new one if it has one already."""
        at: uint64_t = spread(key) & self.mask
        i: uint64_t
        while self.values[at] != NO_ID:
            if self.keys[at] == key:
                self.values[at] = value
                return 0
            at = (at + 1) & self.mask
        if self.count * 2 <= self.mask:
            self.keys[at] = key
            self.values[at] = value
            self.count += 1
            return 0
        old_keys: cython.pointer(uint64_t) = self.keys
        old_values: cython.pointer(uint32_t) = self.values
        room: uint64_t = self.mask + 1
        keys: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), calloc(room * 2, 8))
        values: cython.pointer(uint32_t) = cython.cast(cython.pointer(uint32_t), malloc(room * 2 * 4))
        if keys is cython.NULL or values is cython.NULL:
            free(keys)
            free(values)
            with cython.gil:
                raise MemoryError
        memset(values, 0xFF, room * 2 * 4)
        self.keys = keys
        self.values = values
        self.mask = room * 2 - 1
        for i in range(room):
            if old_values[i] != NO_ID:
                at = spread(old_keys[i]) & self.mask
                while values[at] != NO_ID:
                    at = (at + 1) & self.mask
                keys[at] = old_keys[i]
                values[at] = old_values[i]
        free(old_keys)
        free(old_values)
        return self.put(key, value)


@cython.cfunc
@cython.exceptval(check=False)
def place(fields: dict, name: str, layout: cython.pointer(EventLayout), into: cython.pointer(FieldAt)) -> cython.int:
    """Take over where a field lies, and make the event at least that long."""
    found = fields.get(name)
    into.offset = 0
    into.size = 0
    into.is_signed = 0
    if found is None:
        return 0
    offset: cython.long = found[0]
    size: cython.long = found[1]
    if offset > 0xFFFF or size > 0xFFFF:
        return 0
    into.offset = offset
    into.size = min(size, 8)
    into.is_signed = found[2]
    if layout.min_size < offset + size:
        layout.min_size = offset + size
    return 0


@cython.cclass
class BinaryScanner(EventColumns):
    """Base of the binary scanners.

    Attributes
    ----------
    symbols : Symbols or None
        Kernel symbols for call sites; without them, call sites are addresses.
    names : dict of int to str
        Names of events by number, for those that the table has no place for.
    """

    def __cinit__(self, capacity: cython.Py_ssize_t = 65536):
        self.symbols = None
        self.names = {}
        self.formats = []
        self.gfp_tables = {}
        self.nr_layouts = 0
        self.layout_of = np.zeros(65536, np.uint8)
        self.unknown_by_number = np.zeros(65536, np.uint64)
        self.sites = IdMap()
        self.flags_by_gfp = IdMap()
        self.comm_by_pid = IdMap()
        self.last_site = ALL_ONES
        self.last_site_code = 0
        self.last_gfp = ALL_ONES
        self.last_gfp_code = NO_ID

    def describe(self, *, big_endian: bool, long_bytes: int) -> None:
        """Say what machine the recording is from.

        Parameters
        ----------
        big_endian : bool
        long_bytes : int
            4 or 8.
        """
        self.big_endian = big_endian
        self.swap = big_endian != (sys.byteorder == "big")
        self.pointer_digits = 2 * long_bytes

    def use_symbols(self, symbols) -> None:
        """Give the table of kernel symbols."""
        self.symbols = symbols

    def add_format(self, format) -> bool:
        """Learn how an event of the table is laid out.

        Parameters
        ----------
        format : EventFormat

        Returns
        -------
        bool
            False if it lacks a field that the table needs: such events are
            counted as unknown ones.
        """
        plan = event_plan(format)
        if plan["missing"] or self.nr_layouts >= MOST_LAYOUTS:
            return False
        layout: cython.pointer(EventLayout) = cython.address(self.layouts[self.nr_layouts])
        fields = plan["fields"]
        layout.number = self.nr_layouts
        layout.event = plan["event"]
        layout.min_size = 2
        layout.name_kind = plan["name_kind"]
        layout.name_size = fields["name"][1] if "name" in fields else 0
        layout.fragmenting_below = plan["fragmenting_below"]
        layout.refill_orders = plan["refill_orders"]
        layout.failing_pfn = plan["failing_pfn"]
        place(fields, "ptr", layout, cython.address(layout.ptr))
        place(fields, "pfn", layout, cython.address(layout.pfn))
        place(fields, "call_site", layout, cython.address(layout.call_site))
        place(fields, "bytes_req", layout, cython.address(layout.bytes_req))
        place(fields, "bytes_alloc", layout, cython.address(layout.bytes_alloc))
        place(fields, "gfp_flags", layout, cython.address(layout.gfp_flags))
        place(fields, "node", layout, cython.address(layout.node))
        place(fields, "order", layout, cython.address(layout.order))
        place(fields, "migratetype", layout, cython.address(layout.migratetype))
        place(fields, "fallback_order", layout, cython.address(layout.fallback_order))
        place(fields, "fallback_migratetype", layout, cython.address(layout.fallback_migratetype))
        place(fields, "change_ownership", layout, cython.address(layout.change_ownership))
        place(fields, "percpu_refill", layout, cython.address(layout.percpu_refill))
        place(fields, "accounted", layout, cython.address(layout.accounted))
        place(fields, "name", layout, cython.address(layout.name))
        place(fields, "pid", layout, cython.address(layout.pid))
        printed = format.print_format.keys
        table = (printed.get("gfp_flags"), printed.get("accounted"), "accounted" in format.fields)
        layout.gfp_table = self.gfp_tables.setdefault(table, len(self.gfp_tables))
        self.formats.append(format)
        self.nr_layouts += 1
        number: cython.Py_ssize_t = format.id
        self.layout_of[number] = self.nr_layouts
        return True

    def add_name(self, number: int, name: str) -> None:
        """Name the events of a number, for counting those that the table has no place for."""
        self.names[number] = name

    def name_thread(self, pid: int, comm: str) -> None:
        """Give the command name of a thread."""
        code: uint32_t
        try:
            code = self.comms.code(comm)
        except ValueError:
            code = self.comms.code(repr(comm)[:80])
        if self.comm_by_pid.count < MOST_IDS * 4:
            self.comm_by_pid.put(pid, code)

    def unknown_events(self) -> dict:
        """Return how often each event came that is not in the table."""
        counts = np.asarray(self.unknown_by_number)
        found = super().unknown_events()
        for number in np.flatnonzero(counts).tolist():
            name = self.names.get(number, f"event-{number}")
            found[name] = found.get(name, 0) + int(counts[number])
        return found

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def pid_of(self, data: Bytes, size: cython.size_t) -> cython.int:
        """The thread that an event's own header names; 0 if the event is too short or unknown."""
        if size < 8:
            return 0
        index: cython.int = self.layout_of[load(data, 2, self.swap)]
        if index == 0:
            return 0
        layout: cython.pointer(EventLayout) = cython.address(self.layouts[index - 1])
        if layout.pid.size == 0 or size < layout.min_size:
            return 0
        return cython.cast(cython.int, load_field(data, cython.address(layout.pid), self.swap) & 0x7FFFFFFF)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def decode(
        self, data: Bytes, size: cython.size_t, time_ns: int64_t, cpu: cython.int, pid: cython.int, comm: uint32_t
    ) -> cython.int:
        """Write an event into the next row; 1 if it is there, 0 if it is damaged, 2 if it has no place in the table."""
        if size < 2:
            return 0
        number: cython.uint = load(data, 2, self.swap)
        index: cython.int = self.layout_of[number]
        if index == 0:
            self.unknown_by_number[number] += 1
            self.nr_unknown += 1
            return 2
        layout: cython.pointer(EventLayout) = cython.address(self.layouts[index - 1])
        if size < layout.min_size:
            return 0
        i: cython.Py_ssize_t = self.count
        self.flags[i] = 0
        self.order[i] = 0
        self.fallback_order[i] = 0
        self.migratetype[i] = -1
        self.fallback_migratetype[i] = -1
        self.node[i] = -1
        self.bytes_req[i] = 0
        self.bytes_alloc[i] = 0
        self.cache[i] = 0
        self.call_site[i] = 0
        self.gfp[i] = 0
        if layout.event <= EV_KMEM_CACHE_FREE:
            if not self.decode_slab(layout, data, size):
                return 0
        elif not self.decode_page(layout, data):
            return 0
        self.time_ns[i] = time_ns
        self.pid[i] = pid
        self.comm[i] = comm
        self.cpu[i] = cpu
        self.event[i] = layout.event
        self.count = i + 1
        self.nr_events += 1
        self.last_time_ns = time_ns
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def decode_slab(self, layout: cython.pointer(EventLayout), data: Bytes, size: cython.size_t) -> cython.int:
        """Fields of the events of objects; 0 if a value cannot be right."""
        i: cython.Py_ssize_t = self.count
        ptr: uint64_t = load_field(data, cython.address(layout.ptr), self.swap)
        value: uint64_t
        node: int64_t
        self.target[i] = ptr
        if layout.call_site.size:
            value = load_field(data, cython.address(layout.call_site), self.swap)
            self.call_site[i] = self.site_code(value)
        if layout.name_kind and not self.decode_name(layout, data, size):
            return 0
        if layout.event > EV_KMEM_CACHE_ALLOC_NODE:
            return 1
        value = load_field(data, cython.address(layout.bytes_req), self.swap)
        if value >= MAX_BYTES:
            return 0
        self.bytes_req[i] = value
        value = load_field(data, cython.address(layout.bytes_alloc), self.swap)
        if value >= MAX_BYTES:
            return 0
        self.bytes_alloc[i] = value
        if layout.node.size:
            node = cython.cast(int64_t, load_field(data, cython.address(layout.node), self.swap))
            if node < -1 or node > MAX_NODE:
                return 0
            self.node[i] = cython.cast(int16_t, node)
        if not self.decode_gfp(layout, data):
            return 0
        if layout.accounted.size and load_field(data, cython.address(layout.accounted), self.swap):
            self.flags[i] |= EF_ACCOUNTED
        if ptr == 0:
            self.flags[i] |= EF_FAILED
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def decode_page(self, layout: cython.pointer(EventLayout), data: Bytes) -> cython.int:
        """Fields of the events of pages; 0 if a value cannot be right."""
        i: cython.Py_ssize_t = self.count
        value: uint64_t = load_field(data, cython.address(layout.pfn), self.swap)
        order: uint64_t = 0
        if layout.failing_pfn and value == ALL_ONES >> (64 - 8 * layout.pfn.size):
            value = 0
            self.flags[i] |= EF_FAILED
        if value >= MAX_PFN:
            return 0
        self.target[i] = value
        if layout.order.size:
            order = load_field(data, cython.address(layout.order), self.swap)
            if order > MAX_EVENT_ORDER:
                return 0
            self.order[i] = order
        if layout.migratetype.size:
            value = load_field(data, cython.address(layout.migratetype), self.swap)
            if value > MAX_MIGRATETYPE:
                return 0
            self.migratetype[i] = value
        if layout.gfp_flags.size and not self.decode_gfp(layout, data):
            return 0
        if layout.percpu_refill.size:
            if load_field(data, cython.address(layout.percpu_refill), self.swap):
                self.flags[i] |= EF_PERCPU_REFILL
        elif (layout.refill_orders >> order) & 1:
            self.flags[i] |= EF_PERCPU_REFILL
        if layout.event != EV_MM_PAGE_ALLOC_EXTFRAG:
            return 1
        value = load_field(data, cython.address(layout.fallback_order), self.swap)
        if value > MAX_EVENT_ORDER:
            return 0
        self.fallback_order[i] = value
        if cython.cast(cython.int, value) < layout.fragmenting_below:
            self.flags[i] |= EF_FRAGMENTING
        if layout.fallback_migratetype.size:
            value = load_field(data, cython.address(layout.fallback_migratetype), self.swap)
            if value > MAX_MIGRATETYPE:
                return 0
            self.fallback_migratetype[i] = value
        if layout.change_ownership.size and load_field(data, cython.address(layout.change_ownership), self.swap):
            self.flags[i] |= EF_CHANGE_OWNERSHIP
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def decode_name(self, layout: cython.pointer(EventLayout), data: Bytes, size: cython.size_t) -> cython.int:
        """The cache's name; 0 if it does not lie in the event."""
        begin: cython.size_t = layout.name.offset
        room: cython.size_t = layout.name_size
        where: uint64_t
        if layout.name_kind != NAME_ARRAY:
            where = load(data + begin, 4, self.swap)
            room = where >> 16
            begin = (begin + 4 if layout.name_kind == NAME_REL_LOC else 0) + (where & 0xFFFF)
        if begin > size or room > size - begin:
            return 0
        end: Bytes = cython.cast(Bytes, memchr(data + begin, 0, room)) if room else data + begin
        if end is not cython.NULL:
            room = end - (data + begin)
        code: uint32_t = self.caches.intern(data + begin, room)
        if code == NOT_A_STRING:
            return 0
        self.cache[self.count] = code
        return 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def decode_gfp(self, layout: cython.pointer(EventLayout), data: Bytes) -> cython.int:
        """The GFP flags, as the code of their text; 0 if they cannot be right."""
        value: uint64_t = load_field(data, cython.address(layout.gfp_flags), self.swap)
        if value >> 32:
            if layout.gfp_flags.size == 8:
                return 0
            value = cython.cast(uint32_t, value)
        key: uint64_t = value | (cython.cast(uint64_t, layout.gfp_table) << 32)
        code: uint32_t = self.last_gfp_code if key == self.last_gfp else self.flags_by_gfp.find(key)
        if code == NO_ID:
            with cython.gil:
                code = self.new_gfp(layout.number, value)
            if self.flags_by_gfp.count < MOST_IDS:
                self.flags_by_gfp.put(key, code)
        self.last_gfp = key
        self.last_gfp_code = code
        if code & ACCOUNTED_BIT:
            self.flags[self.count] |= EF_ACCOUNTED
        self.gfp[self.count] = code & (ACCOUNTED_BIT - 1)
        return 1

    @cython.cfunc
    @cython.exceptval(0xFFFFFFFE, check=True)
    def new_gfp(self, number: cython.int, value: uint64_t) -> uint32_t:
        """The code of GFP flags that have not been seen, with a bit for what they say about accounting."""
        text, accounted = flags_of(self.formats[number], value)
        try:
            code: uint32_t = self.gfps.code(text)
        except ValueError:
            code = self.gfps.code(f"{value:#x}")
        return code | ACCOUNTED_BIT if accounted else code

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def site_code(self, address: uint64_t) -> uint32_t:
        """The code of a call site."""
        if address == self.last_site:
            return self.last_site_code
        code: uint32_t = self.sites.find(address)
        if code == NO_ID:
            with cython.gil:
                code = self.new_site(address)
            if self.sites.count < MOST_IDS:
                self.sites.put(address, code)
        self.last_site = address
        self.last_site_code = code
        return code

    @cython.cfunc
    @cython.exceptval(0xFFFFFFFE, check=True)
    def new_site(self, address: uint64_t) -> uint32_t:
        """The code of a call site that has not been seen."""
        text = f"{address:#x}" if self.symbols is None else self.symbols.describe(address)
        try:
            return self.call_sites.code(text)
        except ValueError:
            return self.call_sites.code(f"{address:#x}")
