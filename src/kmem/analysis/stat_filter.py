# SPDX-License-Identifier: GPL-2.0-only
"""Which allocations of a trace are wanted: ``comm=find,bytes_req>=4096``.

A filter is a list of conditions that must all hold.  Texts compare with
wildcards (``ext4_*``), with ``~`` as a regular expression that must occur;
``gfp=GFP_ATOMIC`` wants all bits of the flag.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kmem.errors import UsageError
from kmem.profile import parse_gfp
from kmem.trace.events import EVENT_NAMES, EventBatch

__all__ = ["EventFilter", "parse_filter", "parse_window"]

_TEXTS = {"comm": "comm", "cache": "cache", "call_site": "call_site", "site": "call_site"}
_NUMBERS = {
    "pid": "pid",
    "cpu": "cpu",
    "node": "node",
    "bytes_req": "bytes_req",
    "bytes_alloc": "bytes_alloc",
    "order": "order",
    "migratetype": "migratetype",
}
_TABLES = {"comm": "comms", "cache": "caches", "call_site": "call_sites"}
_CONDITION = re.compile(r"\s*([a-z_]+)\s*(!=|<=|>=|==|=|<|>|!~|~)\s*(.*?)\s*$")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(slots=True)
class _Condition:
    """One condition; strings that have been compared are remembered by their code."""

    name: str
    sign: str
    number: int = 0
    text: re.Pattern[str] | None = None
    seen: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def holds(self, batch: EventBatch) -> npt.NDArray[np.bool_]:
        if self.text is not None:
            return self._text_holds(batch)
        if self.name == "gfp":
            found = (batch.gfp & np.uint32(self.number)) == np.uint32(self.number)
            return np.asarray(~found if self.sign == "!=" else found)
        column = getattr(batch, "event" if self.name == "event" else _NUMBERS[self.name])
        result: npt.NDArray[np.bool_] = _COMPARE[self.sign](column.astype(np.int64), self.number)
        return result

    def _text_holds(self, batch: EventBatch) -> npt.NDArray[np.bool_]:
        assert self.text is not None
        table = getattr(batch.strings, _TABLES[self.name])
        if len(table) > len(self.seen):
            new = [self.text.search(text) is not None for text in table.strings(len(self.seen))]
            if self.sign.startswith("!"):
                new = [not found for found in new]
            self.seen = np.concatenate([self.seen, np.array(new, np.bool_)])
        return np.asarray(self.seen[getattr(batch, self.name)])


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Conditions that must all hold; made by :func:`parse_filter`."""

    conditions: tuple[_Condition, ...]

    def wanted(self, batch: EventBatch) -> npt.NDArray[np.bool_]:
        """Return which events of a batch fulfil all conditions."""
        result = np.ones(len(batch), np.bool_)
        for condition in self.conditions:
            result &= condition.holds(batch)
        return result


def parse_filter(text: str) -> EventFilter:
    """Read a filter.

    Parameters
    ----------
    text : str
        Conditions joined by commas: a name, a sign, a value.  Names are
        ``comm``, ``cache``, ``call_site``, ``event`` (texts), ``gfp``,
        ``pid``, ``cpu``, ``node``, ``bytes_req``, ``bytes_alloc``, ``order``
        and ``migratetype`` (numbers, with ``k``, ``M`` or ``G``).

    Raises
    ------
    UsageError
        A condition is not one of these.

    Examples
    --------
    >>> len(parse_filter("comm=find,bytes_req>=4k").conditions)
    2
    """
    return EventFilter(tuple(_condition(part) for part in text.split(",") if part.strip()))


def _condition(part: str) -> _Condition:
    found = _CONDITION.match(part)
    if not found or not found[3]:
        raise UsageError(f"cannot read the condition {part!r}", remedy="write it as NAME=VALUE, as in comm=find")
    name, sign, value = found[1], found[2].replace("==", "="), found[3]
    if name in _TEXTS:
        if sign in ("<", "<=", ">", ">="):
            raise UsageError(f"{name} is a text and cannot be compared with {sign}", remedy="use =, !=, ~ or !~")
        try:
            pattern = re.compile(value if "~" in sign else fnmatch.translate(value))
        except re.error as error:
            raise UsageError(f"{value!r} is no regular expression: {error}") from None
        return _Condition(_TEXTS[name], sign, text=pattern)
    if "~" in sign:
        raise UsageError(f"{name} is no text and cannot be compared with {sign}", remedy="use =, !=, < or >")
    if name == "event":
        if value not in EVENT_NAMES[1:]:
            raise UsageError(f"no event {value!r}", remedy=f"one of {', '.join(EVENT_NAMES[1:])}")
        return _Condition(name, sign, EVENT_NAMES.index(value))
    if name == "gfp":
        if sign not in ("=", "!="):
            raise UsageError(f"gfp cannot be compared with {sign}", remedy="use = or !=")
        return _Condition(name, sign, parse_gfp(value))
    if name not in _NUMBERS:
        names = ", ".join(sorted({*_TEXTS, *_NUMBERS, "event", "gfp"}))
        raise UsageError(f"nothing is called {name!r}", remedy=f"one of {names}")
    number = re.fullmatch(r"(-?\d{1,18})([kmg]?)", value.lower())
    if not number:
        raise UsageError(f"{value!r} is no number", remedy="as in 4096 or 4k")
    return _Condition(name, sign, int(number[1]) * _SIZES[number[2]])


def parse_window(text: str) -> tuple[int, int]:
    """Read a window of time: ``START,STOP`` in seconds of the trace clock, either of which may be missing.

    Returns
    -------
    start_ns, stop_ns : int
        Both belong to the window.

    Raises
    ------
    UsageError
        It is none, or ends before it begins.

    Examples
    --------
    >>> parse_window("1.5,2")
    (1500000000, 2000000000)
    """
    start, comma, stop = text.partition(",")
    limits = []
    for part, default in ((start, 0), (stop, (1 << 63) - 1)):
        found = re.fullmatch(r"\s*(\d{1,9})(?:\.(\d{1,9}))?\s*", part)
        if part.strip() and not found:
            raise UsageError(f"{text!r} is no window of time", remedy="give START,STOP in seconds, as in 12.5,13")
        limits.append(int(found[1]) * 10**9 + int((found[2] or "0").ljust(9, "0")) if found else default)
    if limits[1] < limits[0] or not comma:
        raise UsageError(f"{text!r} is no window of time", remedy="give START,STOP in seconds, as in 12.5,13")
    return limits[0], limits[1]
