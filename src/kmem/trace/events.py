# SPDX-License-Identifier: GPL-2.0-only
"""The event table: one columnar schema for every trace format and kernel version.

Inside kmem the events travel as :class:`EventBatch`, plain NumPy columns that a
compiled loop can run over; strings are small integer codes.  To the outside
they are Arrow (:data:`EVENT_SCHEMA`).

==================== ========== =====================================================
Arrow column         type       meaning
==================== ========== =====================================================
time_ns              int64      the trace clock, in nanoseconds (a clock without unit
                                is kept as its count)
cpu                  uint16     CPU on which it happened
pid                  int32      thread (what ftrace calls PID)
comm                 string     name of the thread
event                string     name of the tracepoint, or ``lost`` for a mark that
                                events were dropped here (their number, if it is known,
                                is in `bytes_req`)
ptr                  uint64     object, for slab events; null for page events and where
                                the kernel did not print it
pfn                  uint64     page frame number, for page events
bytes_req            uint64     bytes asked for
bytes_alloc          uint64     bytes given
order                uint8      log2 of the number of pages
migratetype          int8       migrate type, as a number
fallback_order       uint8      mm_page_alloc_extfrag: order of the block that was split
fallback_migratetype int8       mm_page_alloc_extfrag: type of the list it came from
gfp                  uint32     GFP flags, in the bits of the reference kernel
gfp_text             string     GFP flags as the trace spells them
cache                string     slab cache, where the kernel names it
call_site            string     caller as ``function+0xoffset``, or an address
node                 int16      node asked for, null for none
flags                uint16     :class:`EventFlag`
==================== ========== =====================================================

All strings are dictionary-encoded.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["EVENT_NAMES", "EVENT_SCHEMA", "METADATA_KEY", "Event", "EventBatch", "EventFlag", "Strings"]


class Event(enum.IntEnum):
    """Codes of the column ``event``; the scanners' own (``EV_*`` in ``scan_columns.pxd``)."""

    KMALLOC = 1
    KMALLOC_NODE = 2
    KMEM_CACHE_ALLOC = 3
    KMEM_CACHE_ALLOC_NODE = 4
    KFREE = 5
    KMEM_CACHE_FREE = 6
    MM_PAGE_ALLOC = 7
    MM_PAGE_FREE = 8
    MM_PAGE_FREE_BATCHED = 9
    MM_PAGE_ALLOC_ZONE_LOCKED = 10
    MM_PAGE_PCPU_DRAIN = 11
    MM_PAGE_ALLOC_EXTFRAG = 12
    LOST = 13


class EventFlag(enum.IntFlag):
    """Bits of the column ``flags``."""

    ACCOUNTED = 1
    """Charged to a memory cgroup."""
    FAILED = 2
    """The allocation returned nothing."""
    NO_POINTER = 4
    """The kernel could not print the pointer yet (``(____ptrval____)``)."""
    PERCPU_REFILL = 8
    """mm_page_alloc_zone_locked: for a per-CPU list."""
    CHANGE_OWNERSHIP = 16
    """mm_page_alloc_extfrag: the page block changed its type."""
    FRAGMENTING = 32
    """mm_page_alloc_extfrag: the block is smaller than a page block."""
    IRQS_OFF = 256
    """ftrace's own text only: interrupts were off."""
    HARDIRQ = 512
    """ftrace's own text only: in a hard interrupt."""
    SOFTIRQ = 1024
    """ftrace's own text only: in a soft interrupt."""


#: Where the metadata of Parquet and Arrow files keep what no column says about the recording.
METADATA_KEY = b"kmem"

#: Name of each event code, as the tracepoint is called.
EVENT_NAMES: tuple[str, ...] = ("", *(event.name.lower() for event in Event))

if TYPE_CHECKING:
    import pyarrow as pa

    #: The Arrow schema of the event table.
    EVENT_SCHEMA: pa.Schema


@functools.cache
def event_schema() -> pa.Schema:
    """Return the Arrow schema of the event table; what needs no Arrow does not import it."""
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("time_ns", pa.int64()),
            ("cpu", pa.uint16()),
            ("pid", pa.int32()),
            ("comm", text),
            ("event", pa.dictionary(pa.int8(), pa.string())),
            ("ptr", pa.uint64()),
            ("pfn", pa.uint64()),
            ("bytes_req", pa.uint64()),
            ("bytes_alloc", pa.uint64()),
            ("order", pa.uint8()),
            ("migratetype", pa.int8()),
            ("fallback_order", pa.uint8()),
            ("fallback_migratetype", pa.int8()),
            ("gfp", pa.uint32()),
            ("gfp_text", text),
            ("cache", text),
            ("call_site", text),
            ("node", pa.int16()),
            ("flags", pa.uint16()),
        ]
    )


def __getattr__(name: str) -> Any:
    if name == "EVENT_SCHEMA":
        return event_schema()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Table(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, code: int, /) -> str: ...
    def strings(self, start: int = 0) -> list[str]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Strings:
    """The strings behind the codes of a trace's batches; they grow while it is read.

    Attributes
    ----------
    comms, caches, call_sites, gfps : table of str
        ``table[code]`` is the string; code 0 is the empty string, which means
        that the event does not say.
    """

    comms: _Table
    caches: _Table
    call_sites: _Table
    gfps: _Table


@dataclasses.dataclass(frozen=True, slots=True)
class EventBatch:
    """Consecutive events of a trace, column by column.

    Attributes
    ----------
    time_ns : ndarray of int64
    target : ndarray of uint64
        The object's address for slab events, the page frame number for page
        events.
    bytes_req, bytes_alloc : ndarray of uint64
    pid : ndarray of int32
    comm, cache, call_site, gfp_text : ndarray of uint32
        Codes into `strings`.
    gfp : ndarray of uint32
        GFP flags in the bits of the reference kernel.
    cpu, flags : ndarray of uint16
    node : ndarray of int16
        -1 for none.
    event, order, fallback_order : ndarray of uint8
        `event` holds :class:`Event` codes.
    migratetype, fallback_migratetype : ndarray of int8
        -1 where the event has none.
    strings : Strings
        Shared by all batches of a trace.
    stack : ndarray of uint32, or None
        Codes of call chains, if the reader was asked for them; 0 for none.

    Notes
    -----
    All columns have the same length, ``len(batch)``.
    """

    time_ns: npt.NDArray[np.int64]
    target: npt.NDArray[np.uint64]
    bytes_req: npt.NDArray[np.uint64]
    bytes_alloc: npt.NDArray[np.uint64]
    pid: npt.NDArray[np.int32]
    comm: npt.NDArray[np.uint32]
    cache: npt.NDArray[np.uint32]
    call_site: npt.NDArray[np.uint32]
    gfp: npt.NDArray[np.uint32]
    gfp_text: npt.NDArray[np.uint32]
    cpu: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint16]
    node: npt.NDArray[np.int16]
    event: npt.NDArray[np.uint8]
    order: npt.NDArray[np.uint8]
    fallback_order: npt.NDArray[np.uint8]
    migratetype: npt.NDArray[np.int8]
    fallback_migratetype: npt.NDArray[np.int8]
    strings: Strings
    stack: npt.NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.event)

    def to_arrow(self) -> pa.RecordBatch:
        """Return the batch as Arrow data with :data:`EVENT_SCHEMA`.

        The dictionaries are those of the trace up to now.
        """
        return self.with_dictionaries(Dictionaries.of(self.strings))

    def with_dictionaries(self, texts: Dictionaries) -> pa.RecordBatch:
        """Return the batch as Arrow data with dictionaries made once for many batches."""
        import pyarrow as pa

        slab = (self.event > 0) & (self.event <= Event.KMEM_CACHE_FREE)
        pages = (self.event > Event.KMEM_CACHE_FREE) & (self.event < Event.LOST)
        silent = (self.flags & EventFlag.NO_POINTER) != 0
        data: dict[str, Any] = {
            "time_ns": self.time_ns,
            "cpu": self.cpu,
            "pid": self.pid,
            "comm": _encoded(self.comm, texts.comms),
            "event": pa.DictionaryArray.from_arrays(self.event.astype(np.int8), pa.array(EVENT_NAMES)),
            "ptr": pa.array(self.target, mask=~slab | silent),
            "pfn": pa.array(self.target, mask=~pages),
            "bytes_req": self.bytes_req,
            "bytes_alloc": self.bytes_alloc,
            "order": pa.array(self.order, mask=~pages),
            "migratetype": pa.array(self.migratetype, mask=self.migratetype < 0),
            "fallback_order": pa.array(self.fallback_order, mask=self.event != Event.MM_PAGE_ALLOC_EXTFRAG),
            "fallback_migratetype": pa.array(self.fallback_migratetype, mask=self.fallback_migratetype < 0),
            "gfp": pa.array(self.gfp, mask=self.gfp_text == 0),
            "gfp_text": _encoded(self.gfp_text, texts.gfps),
            "cache": _encoded(self.cache, texts.caches),
            "call_site": _encoded(self.call_site, texts.call_sites),
            "node": pa.array(self.node, mask=self.node < 0),
            "flags": self.flags,
        }
        schema = event_schema()
        return pa.record_batch([data[name] for name in schema.names], schema=schema)


@dataclasses.dataclass(frozen=True, slots=True)
class Dictionaries:
    """Arrow dictionaries of a trace's strings."""

    comms: pa.Array
    caches: pa.Array
    call_sites: pa.Array
    gfps: pa.Array

    @classmethod
    def of(cls, strings: Strings) -> Dictionaries:
        """Make the dictionaries of all strings seen up to now."""
        return cls(
            comms=_dictionary(strings.comms.strings()),
            caches=_dictionary(strings.caches.strings()),
            call_sites=_dictionary(strings.call_sites.strings()),
            gfps=_dictionary(strings.gfps.strings()),
        )


def _dictionary(strings: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(strings, type=pa.string())


def _encoded(codes: npt.NDArray[np.uint32], dictionary: pa.Array) -> pa.DictionaryArray:
    """Encode a string column; code 0 ("the event does not say") becomes null."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=codes == 0), dictionary)
