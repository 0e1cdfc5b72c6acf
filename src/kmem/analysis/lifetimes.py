# SPDX-License-Identifier: GPL-2.0-only
"""How long objects live, by the call site that allocated them.

Two different things: the *lifetime* of objects that were freed, and the *age*,
at the end of the trace, of those that were not.  Both are the trace's own, and
no machine is modelled for them.  Lifetimes are counted in classes, four to a
power of two, so a median is known to within an eighth; ages are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kmem.analysis.stat import Feeder
from kmem.analysis.stat_count import LIFE_CLASSES, StatCounter
from kmem.trace.events import EventBatch, Strings

__all__ = ["LifetimeCounter", "Lifetimes", "lifetimes"]


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Lifetimes and ages of the objects of one call site; all times in nanoseconds.

    Attributes
    ----------
    name : str
        Call site; empty if the trace does not say.
    freed : int
        Objects that were allocated and freed within the trace.
    mean_ns, median_ns, max_ns : int
        How long these lived; 0 if there are none.
    freed_log2 : dict of int to int
        How many of them lived for 2**k to 2**(k+1) nanoseconds, by k; for less than two, k is 0.
    live : int
        Objects that were not freed.
    age_mean_ns, age_median_ns, oldest_ns, newest_ns : int
        How old these are at the end; 0 if there are none.
    live_log2 : dict of int to int
        The same by age.
    """

    name: str
    freed: int
    mean_ns: int
    median_ns: int
    max_ns: int
    freed_log2: dict[int, int]
    live: int
    age_mean_ns: int
    age_median_ns: int
    oldest_ns: int
    newest_ns: int
    live_log2: dict[int, int]


class LifetimeCounter:
    """Counts lifetimes of the batches of a trace that somebody else reads, in a thread of its own.

    A context manager; an instance is called with each batch.
    """

    def __init__(self) -> None:
        self._counter = StatCounter(lifetimes=True)
        self._feeder = Feeder(self._counter)
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __call__(self, batch: EventBatch) -> None:
        """Count a batch; returns when that has begun."""
        if len(batch):
            self._feeder.feed(batch)

    def close(self) -> None:
        """Wait for the last batch; a second time does nothing."""
        if self._open:
            self._open = False
            self._feeder.close()

    def rows(self, strings: Strings) -> list[Lifetimes]:
        """Return what was counted, once it is closed; `strings` are the reader's."""
        return lifetimes(self._counter, strings)


def lifetimes(counter: StatCounter, strings: Strings) -> list[Lifetimes]:
    """Return the lifetimes that a counter has seen, the call site with most objects first.

    Parameters
    ----------
    counter : StatCounter
        Made with ``lifetimes``.
    strings : Strings
        Of the trace's reader.

    Notes
    -----
    Complexity: O(n log n) for n live objects.
    """
    lives, groups, live = counter.life_rows(), counter.group_rows(), counter.objects.rows()
    ages = np.maximum(counter.last_ns - live["time_ns"], 0)
    sites = groups["site"][live["group"]].astype(np.int64)
    order = np.lexsort((ages, sites))
    sites, ages = sites[order], ages[order]
    known = {*sites.tolist(), *np.flatnonzero(lives["classes"].any(axis=1)).tolist()}
    found = []
    for site in sorted(known):
        first, end = np.searchsorted(sites, (site, site + 1)).tolist()
        found.append(_row(strings.call_sites[site], lives[site] if site < len(lives) else None, ages[first:end]))
    return sorted(found, key=lambda row: (-row.freed - row.live, row.name))


def _row(name: str, life: Any, ages: npt.NDArray[np.int64]) -> Lifetimes:
    """Put the figures of a call site together; `ages` are sorted."""
    classes = life["classes"].astype(np.int64) if life is not None else np.zeros(LIFE_CLASSES, np.int64)
    freed = int(classes.sum())
    longest = int(life["max_ns"]) if life is not None else 0
    return Lifetimes(
        name=name,
        freed=freed,
        mean_ns=int(life["total_ns"]) // freed if freed else 0,
        median_ns=min(_median(classes), longest),
        max_ns=longest,
        freed_log2=_by_power(classes),
        live=len(ages),
        age_mean_ns=int(ages.sum()) // len(ages) if len(ages) else 0,
        age_median_ns=int(ages[(len(ages) - 1) // 2]) if len(ages) else 0,
        oldest_ns=int(ages[-1]) if len(ages) else 0,
        newest_ns=int(ages[0]) if len(ages) else 0,
        live_log2=_ages_by_power(ages),
    )


def _least(number: int) -> int:
    """The shortest lifetime of a class."""
    return number if number < 4 else (4 + number % 4) << (number // 4 - 1)


def _median(classes: npt.NDArray[np.int64]) -> int:
    """The middle of the class in which the median lies."""
    total = int(classes.sum())
    if not total:
        return 0
    number = int(np.searchsorted(np.cumsum(classes), (total - 1) // 2, side="right"))
    return (_least(number) + _least(number + 1) - (number < 4)) // 2


def _by_power(classes: npt.NDArray[np.int64]) -> dict[int, int]:
    """Count by powers of two."""
    found: dict[int, int] = {}
    for number in np.flatnonzero(classes).tolist():
        power = number // 2 if number < 4 else number // 4 + 1
        found[power] = found.get(power, 0) + int(classes[number])
    return found


def _ages_by_power(ages: npt.NDArray[np.int64]) -> dict[int, int]:
    bounds = np.searchsorted(ages, [1 << power for power in range(1, 64)], side="left").tolist()
    counts = np.diff([0, *bounds]).tolist()
    return {power: count for power, count in enumerate(counts) if count}
