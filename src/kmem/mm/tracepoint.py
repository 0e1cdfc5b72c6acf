# SPDX-License-Identifier: GPL-2.0-only
"""The trace events that the model itself emits, as a kernel would.

One :class:`Tracepoints` per machine.  The allocators write a record for each
event that is enabled; :meth:`Tracepoints.drain` hands them over as a NumPy
array.  With nothing enabled an event costs one test.

Source: include/trace/events/kmem.h @6.1.192
Differs: ``mm_page_alloc_extfrag`` keeps the order and migrate type of the
block that was broken up in ``bytes_req`` and ``bytes_alloc``.
"""

import cython
import numpy as np

#: Event names by number, in the order of the bits of ``enabled``.
EVENT_NAMES = (
    "kmalloc",
    "kmem_cache_alloc",
    "kfree",
    "kmem_cache_free",
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
)

TRACE_DTYPE = np.dtype(
    [
        ("time_ns", "u8"),
        ("ptr", "u8"),
        ("bytes_req", "u8"),
        ("bytes_alloc", "u8"),
        ("gfp", "u4"),
        ("call_site", "u4"),
        ("pid", "u4"),
        ("cpu", "u2"),
        ("cache", "u2"),
        ("event", "u1"),
        ("order", "u1"),
        ("migratetype", "u1"),
        ("zone", "u1"),
    ],
    align=True,
)


@cython.cclass
class Tracepoints:
    """A buffer of trace records.

    Parameters
    ----------
    limit : int, optional
        Most records held between two calls of :meth:`drain`; further ones are
        counted in `lost`. At 56 bytes each.
    """

    def __init__(self, limit=1 << 20):
        if limit < 1:
            raise ValueError(f"a trace buffer of {limit} records holds nothing")
        self.limit = limit
        self.enabled = 0
        self.lost = 0
        self._reset(min(limit, 1024))

    def _reset(self, size):
        self.array = np.zeros(size, TRACE_DTYPE)
        self.records = self.array
        self.count = 0

    def enable(self, *names):
        """Enable these events (all if none is named); ValueError for an unknown name."""
        for name in names or EVENT_NAMES:
            if name not in EVENT_NAMES:
                raise ValueError(f"no event {name!r}: there are {', '.join(EVENT_NAMES)}")
            self.enabled |= 1 << EVENT_NAMES.index(name)

    def disable(self):
        """Disable all events."""
        self.enabled &= cython.cast(cython.uint, 1) << TP_WATCH

    def drain(self):
        """Hand over the records so far, dtype :data:`TRACE_DTYPE`, and start anew."""
        taken = self.array[: self.count].copy()
        self.count = 0
        return taken

    def emit(self, event):
        """A record to fill; the last one again where there is no room left."""
        record: cython.pointer(TraceRecord)
        if self.count == self.records.shape[0]:
            if self.count < self.limit:
                array = np.zeros(min(self.limit, 2 * self.count), TRACE_DTYPE)
                array[: self.count] = self.array
                self.array = array
                self.records = array
            else:
                self.lost += 1
                self.count -= 1
        record = cython.address(self.records[self.count])
        self.count += 1
        record.event = event
        record.time_ns = self.time_ns
        record.pid = self.pid
        record.call_site = self.call_site
        record.cpu = self.cpu
        return record

    def page_event(self, event, pfn, order, gfp, migratetype, zone):
        """Write an event about a block of pages, if it is enabled."""
        record: cython.pointer(TraceRecord)
        if not self.enabled >> event & 1:
            return 0
        record = self.emit(event)
        record.ptr = pfn
        record.order = order
        record.gfp = gfp
        record.migratetype = migratetype
        record.zone = zone
        record.cache = 0xFFFF
        record.bytes_req = 0
        record.bytes_alloc = 0
        return 0

    def object_event(self, event, ptr, bytes_req, bytes_alloc, gfp, cache):
        """Write an event about an object, if it is enabled."""
        record: cython.pointer(TraceRecord)
        if not self.enabled >> event & 1:
            return 0
        record = self.emit(event)
        record.ptr = ptr
        record.bytes_req = bytes_req
        record.bytes_alloc = bytes_alloc
        record.gfp = gfp
        record.cache = cache
        record.order = 0
        record.migratetype = 0
        record.zone = 0
        return 0
