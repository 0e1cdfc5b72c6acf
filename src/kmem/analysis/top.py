# SPDX-License-Identifier: GPL-2.0-only
"""What ``kmem top`` shows: slab caches, zones and users of memory at one moment, sorted as ``slabtop`` sorts.

A look is a plain value, whether it comes from ``/proc`` or from a machine in
the middle of a replay (:mod:`kmem.analysis.top_source`), and whoever shows it
asks nobody else.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kmem.errors import UsageError

__all__ = [
    "CACHE_KEYS",
    "CALL_SITES",
    "SITE_KEYS",
    "VMALLOC_CALLERS",
    "CacheRow",
    "CacheTotals",
    "Look",
    "SiteRow",
    "SortKey",
    "TraceClock",
    "ZoneRow",
    "printable",
    "sort_caches",
    "sort_sites",
    "total",
    "with_changes",
]

#: What the rows of :attr:`Look.sites` are: call sites of a trace, or those who made vmalloc areas.
CALL_SITES = "call sites"
VMALLOC_CALLERS = "vmalloc callers"


@dataclass(frozen=True, slots=True)
class CacheRow:
    """A slab cache.

    Attributes
    ----------
    name : str
    active_objs, num_objs : int
        Objects in use and in all.
    objsize : int
        Bytes from one object to the next.
    objperslab, pagesperslab : int
        Objects and pages of a slab.
    active_slabs, num_slabs : int
    page_bytes : int
        Size of a page.
    change : int or None
        How many more objects are in use than at the look before.
    """

    name: str
    active_objs: int
    num_objs: int
    objsize: int
    objperslab: int
    pagesperslab: int
    active_slabs: int
    num_slabs: int
    page_bytes: int = 4096
    change: int | None = None

    @property
    def cache_bytes(self) -> int:
        """Bytes of all its slabs."""
        return self.num_slabs * self.pagesperslab * self.page_bytes

    @property
    def use_percent(self) -> int:
        """Objects in use of all, in whole per cent."""
        return 100 * self.active_objs // self.num_objs if self.num_objs else 0


@dataclass(frozen=True, slots=True)
class ZoneRow:
    """A zone with memory, in pages; None is what the files do not say.

    Attributes
    ----------
    node : int
    name : str
    free : int
        Pages on the buddy lists.
    nr_free : tuple of int
        Free blocks by order.
    managed, min, low, high, pcp : int or None
        Pages of the zone, its watermarks, and pages on per-CPU lists.
    """

    node: int
    name: str
    free: int
    nr_free: tuple[int, ...]
    managed: int | None = None
    min: int | None = None
    low: int | None = None
    high: int | None = None
    pcp: int | None = None

    @property
    def largest_order(self) -> int | None:
        """Order of the largest free block, None if nothing is free."""
        return max((order for order, count in enumerate(self.nr_free) if count), default=None)


@dataclass(frozen=True, slots=True)
class SiteRow:
    """Who uses memory: a call site of a trace, or one who makes vmalloc areas.

    Attributes
    ----------
    name : str
        Empty if it is not known.
    bytes : int
        What it holds now.
    count : int
        In how many objects or areas.
    allocs, failures : int or None
        Requests granted and refused since the trace began; None of vmalloc callers.
    asked : int or None
        Bytes that were asked for, of those held; None of vmalloc callers.
    peak : int or None
        The most bytes held at one time.
    pages : int or None
        Frames that its areas hold; None of call sites.
    kind : str
        Of areas: ``vmalloc``, ``ioremap`` and the like.
    change : int or None
        How many more bytes it holds than at the look before.
    """

    name: str
    bytes: int
    count: int
    allocs: int | None = None
    failures: int | None = None
    asked: int | None = None
    peak: int | None = None
    pages: int | None = None
    kind: str = ""
    change: int | None = None

    @property
    def use_percent(self) -> int:
        """Bytes asked for of those held, in whole per cent; 100 where there is nothing to compare."""
        return 100 * self.asked // self.bytes if self.asked is not None and self.bytes else 100

    @property
    def mean_bytes(self) -> int:
        """Bytes of an object or area on average."""
        return self.bytes // self.count if self.count else 0


@dataclass(frozen=True, slots=True)
class TraceClock:
    """How far a replay has come.

    Attributes
    ----------
    state : str
        ``reading`` (the trace is looked through for the machine it needs), ``replaying``, ``paused`` or ``ended``.
    events, requests, failures : int
        Replayed so far; requests made and refused.
    time_ns : int
        Time of the trace since its first event.
    done : float or None
        Part of the file read, 0 to 1; None if its size is not known.
    speed : float or None
        How many times as fast as it was recorded; None is as fast as possible.
    """

    state: str
    events: int = 0
    requests: int = 0
    failures: int = 0
    time_ns: int = 0
    done: float | None = None
    speed: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that is shown at one moment.

    Attributes
    ----------
    source : str
        What is looked at: ``/proc``, a folder or a trace.
    caches : tuple of CacheRow
        In the kernel's order.
    zones : tuple of ZoneRow
        Lowest first.
    sites : tuple of SiteRow
        Those with most bytes first.
    sites_are : str
        :data:`CALL_SITES` or :data:`VMALLOC_CALLERS`.
    missing : tuple of str
        What could not be read and what to do about it, a line each.
    clock : TraceClock or None
        None unless it is a replay.
    """

    source: str
    caches: tuple[CacheRow, ...] = ()
    zones: tuple[ZoneRow, ...] = ()
    sites: tuple[SiteRow, ...] = ()
    sites_are: str = VMALLOC_CALLERS
    missing: tuple[str, ...] = ()
    clock: TraceClock | None = None


@dataclass(frozen=True, slots=True)
class SortKey:
    """One of the ways to sort: what it is called, and the attribute it looks at."""

    title: str
    attribute: str

    @property
    def descending(self) -> bool:
        """Whether the largest come first: all but names."""
        return self.attribute != "name"


#: Keys for caches: the letters of ``slabtop``.
CACHE_KEYS: Mapping[str, SortKey] = {
    "a": SortKey("active objects", "active_objs"),
    "b": SortKey("objects per slab", "objperslab"),
    "c": SortKey("cache size", "cache_bytes"),
    "l": SortKey("slabs", "num_slabs"),
    "v": SortKey("active slabs", "active_slabs"),
    "n": SortKey("name", "name"),
    "o": SortKey("objects", "num_objs"),
    "p": SortKey("pages per slab", "pagesperslab"),
    "s": SortKey("object size", "objsize"),
    "u": SortKey("utilisation", "use_percent"),
}

#: The same letters for users of memory, as far as they mean something there.
SITE_KEYS: Mapping[str, SortKey] = {
    "a": SortKey("live objects", "count"),
    "c": SortKey("bytes", "bytes"),
    "n": SortKey("name", "name"),
    "o": SortKey("requests", "allocs"),
    "p": SortKey("pages", "pages"),
    "s": SortKey("mean size", "mean_bytes"),
    "u": SortKey("utilisation", "use_percent"),
}

_Row = TypeVar("_Row", CacheRow, SiteRow)


def sort_caches(rows: Iterable[CacheRow], key: str = "o") -> list[CacheRow]:
    """Return caches sorted by a letter of :data:`CACHE_KEYS`; equal ones stay in their order.

    Raises
    ------
    UsageError
        There is no such key.
    """
    return _sorted(rows, key, CACHE_KEYS)


def sort_sites(rows: Iterable[SiteRow], key: str = "c") -> list[SiteRow]:
    """Return users of memory sorted by a letter of :data:`SITE_KEYS`; equal ones stay in their order.

    Raises
    ------
    UsageError
        There is no such key.
    """
    return _sorted(rows, key, SITE_KEYS)


def _sorted(rows: Iterable[_Row], key: str, keys: Mapping[str, SortKey]) -> list[_Row]:
    if key not in keys:
        raise UsageError(
            f"no sort key {key!r}", remedy=f"give one of {', '.join(f'{k} ({s.title})' for k, s in keys.items())}"
        )
    attribute = keys[key].attribute
    if not keys[key].descending:
        return sorted(rows, key=lambda row: str(getattr(row, attribute)))
    return sorted(rows, key=lambda row: getattr(row, attribute) or 0, reverse=True)


@dataclass(frozen=True, slots=True)
class CacheTotals:
    """Sums over all caches, those in the head of ``slabtop``.

    Attributes
    ----------
    active_objs, num_objs, active_slabs, num_slabs : int
    active_caches, num_caches : int
        Caches that have objects, and all.
    active_bytes, num_bytes : int
        Bytes of objects in use, and of all objects.
    smallest, mean, largest : int
        Sizes of objects; the mean is over objects, not over caches.
    """

    active_objs: int
    num_objs: int
    active_slabs: int
    num_slabs: int
    active_caches: int
    num_caches: int
    active_bytes: int
    num_bytes: int
    smallest: int
    mean: int
    largest: int


def total(rows: Sequence[CacheRow]) -> CacheTotals:
    """Return the sums over caches."""
    num_objs = sum(row.num_objs for row in rows)
    num_bytes = sum(row.num_objs * row.objsize for row in rows)
    return CacheTotals(
        active_objs=sum(row.active_objs for row in rows),
        num_objs=num_objs,
        active_slabs=sum(row.active_slabs for row in rows),
        num_slabs=sum(row.num_slabs for row in rows),
        active_caches=sum(row.num_objs > 0 for row in rows),
        num_caches=len(rows),
        active_bytes=sum(row.active_objs * row.objsize for row in rows),
        num_bytes=num_bytes,
        smallest=min((row.objsize for row in rows), default=0),
        mean=num_bytes // num_objs if num_objs else 0,
        largest=max((row.objsize for row in rows), default=0),
    )


def with_changes(look: Look, before: Look | None) -> Look:
    """Return a look with what has changed since another of the same source; None: nothing is known of before."""
    if before is None:
        return look
    objects = {key: row.active_objs for key, row in _numbered(before.caches)}
    held = {key: row.bytes for key, row in _numbered(before.sites)}
    return dataclasses.replace(
        look,
        caches=tuple(
            dataclasses.replace(row, change=row.active_objs - objects.get(key, 0))
            for key, row in _numbered(look.caches)
        ),
        sites=tuple(
            dataclasses.replace(row, change=row.bytes - held.get(key, 0)) for key, row in _numbered(look.sites)
        ),
    )


def _numbered(rows: Iterable[_Row]) -> Iterable[tuple[tuple[str, int], _Row]]:
    """Rows by name; of several with one name, by their number, too."""
    seen: Counter[str] = Counter()
    for row in rows:
        yield (row.name, seen[row.name]), row
        seen[row.name] += 1


def printable(name: str) -> str:
    r"""Return a name with everything that could move a terminal's cursor written as an escape.

    Examples
    --------
    >>> print(printable("dentry\x1b[2J"))
    dentry\x1b[2J
    """
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
