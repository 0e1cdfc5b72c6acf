# SPDX-License-Identifier: GPL-2.0-only
"""What many replays of one trace share: the look through it, and its events decoded.

A replay that infers its machine reads the trace twice, once to see what machine
it needs.  :func:`prepare` does that once, and keeps the events where the next
replay reads them from; what a replay gives does not depend on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from kmem.replay.infer import Survey
from kmem.trace.decoded import DecodedTrace, DecodedTraceWriter
from kmem.trace.reader import TraceReader, open_trace

__all__ = ["Look", "PreparedTrace", "prepare"]

Progress = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What a look through a trace found.

    Attributes
    ----------
    survey : Survey
    pointer_digits, nr_cpus : int
        See :class:`~kmem.trace.reader.TraceReader`.
    """

    survey: Survey
    pointer_digits: int
    nr_cpus: int

    @classmethod
    def of(cls, survey: Survey, reader: TraceReader) -> Look:
        """Take what the reader knows by now."""
        return cls(survey, reader.pointer_digits, reader.nr_cpus)


@dataclasses.dataclass(slots=True)
class PreparedTrace:
    """A trace that has been looked through.

    Attributes
    ----------
    whole, beginning : Look
        Of all events, and of the first batch alone.
    decoded : DecodedTrace or None
        Its events; None where there was no room for them.
    options : dict
        With which it was opened.
    """

    whole: Look
    beginning: Look
    decoded: DecodedTrace | None
    options: dict[str, Any]

    @property
    def lost(self) -> bool:
        """Whether the events were decoded, but where this process cannot reach them."""
        return self.decoded is not None and not self.decoded.usable

    @property
    def self_contained(self) -> bool:
        """Whether it can be replayed without the trace itself."""
        return self.decoded is not None and self.decoded.usable

    def look(self, whole: bool) -> Look:
        """What was found: in all of it, or in its beginning."""
        return self.whole if whole else self.beginning

    def open(self, path: str) -> TraceReader:
        """Open it for one replay: the decoded events, or the trace at `path` if there are none."""
        if self.decoded is not None and self.decoded.usable:
            return self.decoded.open()
        return open_trace(path, **self.options)


def prepare(path: str, *, progress: Progress | None = None, **options: Any) -> PreparedTrace:
    """Look through a trace and keep its events, for several replays.

    Parameters
    ----------
    path : str
        A file; standard input can be read only once.
    progress : callable, optional
        Called now and then as ``progress(bytes_read, bytes_in_all or None)``.
    **options
        For :func:`~kmem.trace.reader.open_trace`.

    Returns
    -------
    PreparedTrace
        For :func:`kmem.replay.replay.replay`.

    Raises
    ------
    InputError
        If the trace cannot be read.

    Notes
    -----
    Complexity: O(events); the temporary file has 56 bytes for each, and its
    space is given back with the object.
    """
    survey = Survey()
    beginning: Look | None = None
    with open_trace(path, **options) as reader, DecodedTraceWriter() as writer:
        for batch in reader:
            if beginning is None:
                first = Survey()
                first.add(batch)
                beginning = Look.of(first, reader)
            survey.add(batch)
            writer.add(batch)
            if progress is not None:
                progress(*reader.progress)
        whole = Look.of(survey, reader)
        return PreparedTrace(whole, beginning or whole, writer.finish(reader), options)
