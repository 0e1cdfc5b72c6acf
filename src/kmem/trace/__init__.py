# SPDX-License-Identifier: GPL-2.0-only
"""Recorded traces of ``kmem:*`` events, read into one event table.

>>> from kmem.trace import open_trace
>>> with open_trace("tests/data/boot.trace.txt.gz") as trace:  # doctest: +SKIP
...     requests = sum(len(batch) for batch in trace)
"""

from typing import TYPE_CHECKING, Any

from kmem.trace.events import EVENT_NAMES, Event, EventBatch, EventFlag, Strings
from kmem.trace.reader import TraceReader, TraceStats, open_trace, read_table

__all__ = [
    "EVENT_NAMES",
    "EVENT_SCHEMA",
    "Event",
    "EventBatch",
    "EventFlag",
    "Strings",
    "TraceReader",
    "TraceStats",
    "open_trace",
    "read_table",
]

if TYPE_CHECKING:
    from kmem.trace.events import EVENT_SCHEMA


def __getattr__(name: str) -> Any:
    if name == "EVENT_SCHEMA":  # made when it is asked for
        from kmem.trace.events import event_schema

        return event_schema()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
