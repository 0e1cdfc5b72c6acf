# SPDX-License-Identifier: GPL-2.0-only
"""The batch that all scanners fill: one column per field of the event table.

A scanner of texts or of binary records appends one row after the other, and
hands the batch out when it is full.  Strings stand in it as codes of a
:class:`~kmem.trace.scan_strings.StringTable`.
"""

import cython
import numpy as np
from cython.cimports.kmem.trace.scan_strings import StringTable
from cython.cimports.libc.stdint import uint32_t, uint64_t

COLUMNS = {
    "time_ns": "i8",
    "target": "u8",
    "bytes_req": "u8",
    "bytes_alloc": "u8",
    "pid": "i4",
    "comm": "u4",
    "cache": "u4",
    "call_site": "u4",
    "gfp": "u4",
    "cpu": "u2",
    "flags": "u2",
    "node": "i2",
    "event": "u1",
    "order": "u1",
    "fallback_order": "u1",
    "migratetype": "i1",
    "fallback_migratetype": "i1",
}


@cython.cclass
class EventColumns:
    """Base of all scanners; see :mod:`kmem.trace.reader` for their use.

    Parameters
    ----------
    capacity : int
        Events per batch, at least 1.

    Attributes
    ----------
    columns : dict of str to numpy.ndarray
        The batch being filled; the first `count` rows are valid.  The string
        columns hold codes into `comms`, `caches`, `call_sites` and `gfps`
        (``gfp`` holds the code of the GFP text: its bits depend on the
        kernel's version, which is not the scanner's business).
    nr_lines, nr_bytes, nr_events : int
        Lines or records and bytes read so far; `nr_events` counts the rows of
        all batches but for the lost-event marks.
    nr_unknown : int
        Events that the table has no place for; see :meth:`unknown_events`.
    lost_events, lost_markers : int
        Events that the recorder said it dropped, and the marks that said so
        (a mark may not say how many).
    damaged_lines, damaged_bytes, first_damaged_line, first_damaged_byte : int
        Lines or records that were skipped, and where it began (line from 1; 0
        if none).
    pointer_digits : int
        8 or 16 if pointers are those of a kernel of 32 or 64 bits, 0 if that
        is not known.
    """

    def __cinit__(self, capacity: cython.Py_ssize_t = 65536):
        self.capacity = max(capacity, 1)
        self.comms = StringTable(text=True)
        self.caches = StringTable(text=True)
        self.call_sites = StringTable()
        self.gfps = StringTable()
        self.unknown_names = StringTable(limit=MOST_UNKNOWN)
        self.unknown_counts = np.zeros(MOST_UNKNOWN + 1, np.uint64)
        self.new_batch()

    def new_batch(self) -> None:
        """Begin a batch in fresh arrays; those of the batch before stay as they are."""
        columns = {name: np.empty(self.capacity, dtype) for name, dtype in COLUMNS.items()}
        self.columns = columns
        self.count = 0
        self.time_ns = columns["time_ns"]
        self.target = columns["target"]
        self.bytes_req = columns["bytes_req"]
        self.bytes_alloc = columns["bytes_alloc"]
        self.pid = columns["pid"]
        self.comm = columns["comm"]
        self.cache = columns["cache"]
        self.call_site = columns["call_site"]
        self.gfp = columns["gfp"]
        self.cpu = columns["cpu"]
        self.flags = columns["flags"]
        self.node = columns["node"]
        self.event = columns["event"]
        self.order = columns["order"]
        self.fallback_order = columns["fallback_order"]
        self.migratetype = columns["migratetype"]
        self.fallback_migratetype = columns["fallback_migratetype"]

    def unknown_events(self) -> dict[str, int]:
        """Return how often each event came that is not in the table."""
        counts = np.asarray(self.unknown_counts)
        return {name: int(counts[code]) for code, name in enumerate(self.unknown_names.strings()) if counts[code]}

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def store_lost(self, events: uint64_t, cpu: cython.int) -> cython.int:
        """A row for the mark itself, at the time of the event before it."""
        i: cython.Py_ssize_t = self.count
        self.lost_markers += 1
        if events < MAX_BYTES and self.lost_events < MAX_BYTES:
            self.lost_events += events
        with cython.gil:
            for name, column in self.columns.items():
                column[i] = -1 if name in ("node", "migratetype", "fallback_migratetype") else 0
        self.time_ns[i] = self.last_time_ns
        self.bytes_req[i] = events
        self.cpu[i] = cpu
        self.event[i] = EV_LOST
        self.count = i + 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def count_unknown(self, name: cython.pointer(cython.const[cython.uchar]), size: cython.size_t) -> cython.int:
        """Count an event that the table has no place for, by name."""
        code: uint32_t = self.unknown_names.intern(name, size)
        self.nr_unknown += 1
        if code < MOST_UNKNOWN:
            self.unknown_counts[code] += 1
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-1, check=False)
    def damaged(self, size: uint64_t) -> cython.int:
        """Count a line or record that cannot be right."""
        if self.damaged_lines == 0:
            self.first_damaged_line = self.nr_lines
            self.first_damaged_byte = self.nr_bytes
        self.damaged_lines += 1
        self.damaged_bytes += size
        return 0
