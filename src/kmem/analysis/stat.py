# SPDX-License-Identifier: GPL-2.0-only
"""Who allocates, who wastes, who leaks, what fragments: the figures of ``kmem stat``.

:func:`collect` runs a trace through the counter; :class:`Stat` turns the
counts into rows.  No machine is modelled: everything here was recorded.

Which cache an object is from is often not recorded: Linux 6.1 names it only
when the object is freed.  Allocations are therefore grouped by call site and
size, and a group is of the cache that a free of one of its objects named.
Objects of kmalloc are of the cache that their size and flags lead to.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kmem.analysis.stat_count import STEPS, StatCounter
from kmem.profile import REFERENCE
from kmem.trace.events import EventBatch
from kmem.trace.reader import TraceReader, TraceStats
from kmem.trace.symbols import Symbols

if TYPE_CHECKING:
    from kmem.analysis.stat_filter import EventFilter

__all__ = ["AddressRow", "Feeder", "LiveRow", "PageRow", "SlabRow", "SlabTotals", "Stat", "collect", "sort_rows"]

_KMALLOC = 1
_KMALLOC_PREFIX = ("kmalloc-", "dma-kmalloc-", "kmalloc-rcl-", "kmalloc-cg-")
_KMALLOC_SIZES = {size: str(size) for size in (8, 16, 32, 64, 96, 128, 192, 256, 512)} | {
    1024: "1k",
    2048: "2k",
    4096: "4k",
    8192: "8k",
}
_PAGE_BYTES = 4096
#: Functions that hand out pages or objects for others: not who is to blame.
_ALLOCATORS = frozenset(
    [
        "kmalloc_trace",
        "__kmalloc",
        "__kmalloc_node",
        "__kmalloc_node_track_caller",
        "kmalloc_large",
        "kmalloc_large_node",
        "__kmalloc_large_node",
        "kmem_cache_alloc",
        "kmem_cache_alloc_lru",
        "kmem_cache_alloc_node",
        "kmem_cache_alloc_bulk",
        "__kmem_cache_alloc_node",
        "__kmem_cache_alloc_lru",
        "__slab_alloc",
        "___slab_alloc",
        "new_slab",
        "allocate_slab",
        "alloc_slab_page",
        "alloc_pages",
        "__alloc_pages",
        "__alloc_pages_bulk",
        "get_page_from_freelist",
        "__get_free_pages",
        "get_zeroed_page",
        "alloc_pages_vma",
        "vma_alloc_folio",
        "folio_alloc",
        "__folio_alloc",
        "rmqueue",
        "rmqueue_bulk",
        "__rmqueue_pcplist",
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class SlabRow:
    """Objects of one call site, cache, process or size.

    Attributes
    ----------
    name : str
    hits, failed : int
        Objects given out, and requests that got nothing.
    bytes_req, bytes_alloc : int
        Bytes asked for and given, of `hits`.
    frees, bytes_freed : int
        Of these objects, those given back.
    pingpong : int
        Those given back on another CPU than they were given out on.
    cross_node : int
        Those asked for on another node than the CPU's own.
    pid : int or None
        Of processes.
    """

    name: str
    hits: int
    failed: int
    bytes_req: int
    bytes_alloc: int
    frees: int
    bytes_freed: int
    pingpong: int
    cross_node: int
    pid: int | None = None

    @property
    def slack_bytes(self) -> int:
        """Bytes given beyond those asked for."""
        return self.bytes_alloc - self.bytes_req

    @property
    def slack_percent(self) -> float:
        """What part of the bytes given was not asked for."""
        return 100.0 * self.slack_bytes / self.bytes_alloc if self.bytes_alloc else 0.0

    @property
    def live(self) -> int:
        """Objects not given back."""
        return self.hits - self.frees

    @property
    def live_bytes(self) -> int:
        """Bytes not given back."""
        return self.bytes_alloc - self.bytes_freed


@dataclasses.dataclass(frozen=True, slots=True)
class AddressRow:
    """Objects at one address.

    Attributes
    ----------
    address : int
    hits, bytes_req, bytes_alloc, pingpong : int
    call_site : str
        The last one that got an object there.
    """

    address: int
    hits: int
    bytes_req: int
    bytes_alloc: int
    pingpong: int
    call_site: str


@dataclasses.dataclass(frozen=True, slots=True)
class PageRow:
    """Page requests of one order, migrate type and set of flags.

    Attributes
    ----------
    order, migratetype : int
    type_name : str
        The migrate type by its name.
    gfp : str
        The flags as the trace spells them.
    hits, failed, frees : int
    """

    order: int
    migratetype: int
    type_name: str
    gfp: str
    hits: int
    failed: int
    frees: int

    @property
    def bytes_alloc(self) -> int:
        """Bytes given out."""
        return self.hits * _PAGE_BYTES << self.order

    @property
    def live(self) -> int:
        """Blocks not given back."""
        return self.hits - self.frees


@dataclasses.dataclass(frozen=True, slots=True)
class LiveRow:
    """What is live at the end, of one user.

    Attributes
    ----------
    name : str
        Call site, or migrate type, order and flags of pages.
    detail : str
        Its cache; of pages, the name of the thread.
    objects, bytes_alloc : int
    oldest_ns, newest_ns : int
        Ages, by the time of the last event.
    """

    name: str
    detail: str
    objects: int
    bytes_alloc: int
    oldest_ns: int
    newest_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class SlabTotals:
    """All objects together; the attributes are those of :class:`SlabRow` and the counts of odd frees.

    Attributes
    ----------
    hits, failed, bytes_req, bytes_alloc, frees, bytes_freed, pingpong : int
    cross_node : int or None
        None where the recording does not say which CPU is on which node.
    unknown_frees, null_frees, lost_frees : int
        Frees of objects from before the recording or of allocations that
        have no event, frees of NULL, objects whose free was not recorded.
    live, live_bytes : int
    """

    hits: int
    failed: int
    bytes_req: int
    bytes_alloc: int
    frees: int
    bytes_freed: int
    pingpong: int
    cross_node: int | None
    unknown_frees: int
    null_frees: int
    lost_frees: int
    live: int
    live_bytes: int

    @property
    def slack_percent(self) -> float:
        """What part of the bytes given was not asked for."""
        return 100.0 * (self.bytes_alloc - self.bytes_req) / self.bytes_alloc if self.bytes_alloc else 0.0


class Stat:
    """The figures of a trace, once it has been read.

    Attributes
    ----------
    counter : StatCounter
    stats : TraceStats
        What the reader says about the trace.
    seconds : float
        From the first event to the last.
    """

    def __init__(self, counter: StatCounter, reader: TraceReader) -> None:
        self.counter = counter
        self.stats: TraceStats = reader.stats
        self.strings = reader.strings
        self.symbols: Symbols | None = getattr(reader, "symbols", None)
        self._stacks: Sequence[tuple[int, ...]] = reader.stacks() if hasattr(reader, "stacks") else ()
        self.groups = counter.group_rows()
        self.tasks = counter.task_rows()
        self.page_groups = counter.page_group_rows()
        self._caches = [self._cache(row) for row in self.groups]
        self.seconds = max(counter.last_ns - counter.first_ns, 0) / 1e9

    def _cache(self, row: Any) -> str:
        """Name of the cache that a group's objects are from."""
        if row["cache"]:
            return self.strings.caches[int(row["cache"])]
        size = int(row["size"])
        if row["kind"] == _KMALLOC:
            if size in _KMALLOC_SIZES:
                return _KMALLOC_PREFIX[int(row["flavour"])] + _KMALLOC_SIZES[size]
            return "kmalloc pages" if size > 8192 else f"kmalloc of {size} bytes"
        if row["named"]:
            return self.strings.caches[int(row["named"])]
        return f"not named, {size} bytes"

    @functools.cached_property
    def _live_objects(self) -> npt.NDArray[Any]:
        return self.counter.objects.rows()

    @functools.cached_property
    def _live_blocks(self) -> npt.NDArray[Any]:
        return self.counter.pages.rows()

    def _site(self, code: int) -> str:
        return self.strings.call_sites[code] or "(no call site)"

    @property
    def has_slab(self) -> bool:
        """Whether the trace has events of objects."""
        return bool(len(self.groups)) or bool(self.counter.unknown_frees)

    @property
    def has_pages(self) -> bool:
        """Whether the trace has events of pages."""
        return bool(len(self.page_groups)) or bool(self.counter.page_frees)

    # --- objects

    def slab_totals(self) -> SlabTotals:
        """Return all objects together."""
        counter = self.counter
        sums = {name: int(self.groups[name].sum()) for name in _SUMMED}
        return SlabTotals(
            **{name: sums[name] for name in _SUMMED if name != "cross_node"},
            cross_node=sums["cross_node"] if counter.nodes_known else None,
            unknown_frees=counter.unknown_frees,
            null_frees=counter.null_frees,
            lost_frees=counter.lost_frees,
            live=counter.objects.count,
            live_bytes=counter.live_bytes,
        )

    def call_sites(self) -> list[SlabRow]:
        """Return objects by call site."""
        return self._by([self._site(int(code)) for code in self.groups["site"]])

    def caches(self) -> list[SlabRow]:
        """Return objects by cache."""
        return self._by(self._caches)

    def sizes(self) -> list[SlabRow]:
        """Return objects by the bytes given for each."""
        return self._by([str(size) for size in self.groups["size"].tolist()])

    def _by(self, names: Sequence[str]) -> list[SlabRow]:
        sums: dict[str, list[int]] = {}
        for name, *values in zip(names, *(self.groups[column].tolist() for column in _SUMMED), strict=True):
            row = sums.setdefault(name, [0] * len(_SUMMED))
            for i, value in enumerate(values):
                row[i] += value
        return [SlabRow(name, **dict(zip(_SUMMED, row, strict=True))) for name, row in sums.items()]

    def processes(self) -> list[SlabRow]:
        """Return objects by thread and its name."""
        return [
            SlabRow(
                self.strings.comms[int(row["comm"])],
                int(row["hits"]),
                int(row["failed"]),
                int(row["bytes_req"]),
                int(row["bytes_alloc"]),
                int(row["frees"]),
                int(row["bytes_freed"]),
                0,
                0,
                pid=int(row["pid"]),
            )
            for row in self.tasks
            if row["hits"] or row["failed"]
        ]

    def addresses(self) -> list[AddressRow]:
        """Return objects by their address, if that was asked for."""
        return [
            AddressRow(
                int(row["key"]),
                int(row["hits"]),
                int(row["bytes_req"]),
                int(row["bytes_alloc"]),
                int(row["pingpong"]),
                self._site(int(row["site"])),
            )
            for row in self.counter.address_rows()
        ]

    def live_sites(self) -> list[LiveRow]:
        """Return the objects that are live at the end, by call site and cache, most bytes first."""
        live = self._live_objects
        names = [(self._site(int(row["site"])), cache) for row, cache in zip(self.groups, self._caches, strict=True)]
        return self._live(live, live["group"].astype(np.int64), names.__getitem__, self.groups["size"][live["group"]])

    def live_objects(self, top: int) -> list[dict[str, object]]:
        """Return the live objects one by one, the oldest first, at most `top` of them."""
        found: list[dict[str, object]] = []
        for row in self._live_objects[:top]:
            group = int(row["group"])
            task = self.tasks[int(row["task"])]
            found.append(
                {
                    "address": int(row["key"]),
                    "bytes_req": int(row["bytes_req"]),
                    "bytes_alloc": int(self.groups["size"][group]),
                    "age_ns": max(self.counter.last_ns - int(row["time_ns"]), 0),
                    "call_site": self._site(int(self.groups["site"][group])),
                    "cache": self._caches[group],
                    "comm": self.strings.comms[int(task["comm"])],
                    "pid": int(task["pid"]),
                }
            )
        return found

    def _live(
        self,
        live: npt.NDArray[Any],
        codes: npt.NDArray[np.int64],
        name: Callable[[int], tuple[str, str]],
        sizes: npt.NDArray[np.uint64],
    ) -> list[LiveRow]:
        """Put what is live together by a code for each entry, and then by name."""
        ages = np.maximum(self.counter.last_ns - live["time_ns"], 0)
        distinct, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        total = np.zeros(len(distinct), np.uint64)
        np.add.at(total, inverse, sizes)
        oldest = np.zeros(len(distinct), np.int64)
        np.maximum.at(oldest, inverse, ages)
        newest = np.full(len(distinct), np.iinfo(np.int64).max)
        np.minimum.at(newest, inverse, ages)
        found: dict[tuple[str, str], list[int]] = {}
        for code, count, size, old, new in zip(
            distinct.tolist(), counts.tolist(), total.tolist(), oldest.tolist(), newest.tolist(), strict=True
        ):
            entry = found.setdefault(name(code), [0, 0, old, new])
            entry[0] += count
            entry[1] += size
            entry[2] = max(entry[2], old)
            entry[3] = min(entry[3], new)
        rows = [LiveRow(*key, *values) for key, values in found.items()]
        return sorted(rows, key=lambda row: (-row.bytes_alloc, row.name, row.detail))

    def rates(self) -> tuple[int, dict[str, list[int]]]:
        """Return how many bytes each cache gave out over time.

        Returns
        -------
        step_ns : int
            Length of a step; the first begins with the trace.
        bytes_alloc : dict of str to list of int
            Bytes by step, up to the last event.
        """
        counter = self.counter
        steps = min((counter.last_ns - counter.origin_ns) // counter.bucket_ns + 1, STEPS) if self.groups.size else 0
        found: dict[str, npt.NDArray[np.uint64]] = {}
        for name, row in zip(self._caches, counter.timeline(), strict=True):
            found[name] = found[name] + row if name in found else row.copy()
        return counter.bucket_ns, {name: row[:steps].tolist() for name, row in found.items()}

    # --- pages

    def page_rows(self) -> list[PageRow]:
        """Return page requests by order, migrate type and flags."""
        return [
            PageRow(
                int(row["order"]),
                int(row["migratetype"]),
                _type_name(int(row["migratetype"])),
                self.strings.gfps[int(row["gfp_text"])],
                int(row["hits"]),
                int(row["failed"]),
                int(row["frees"]),
            )
            for row in self.page_groups
        ]

    def page_totals(self) -> dict[str, int]:
        """Return requests and frees of pages, each with its bytes.

        ``matched`` are frees of pages whose allocation was recorded,
        ``live`` pages that were not freed, ``unmatched`` frees of others.
        """
        rows = self.page_rows()
        counter = self.counter
        hits = sum(row.hits for row in rows)
        failed = sum(row.failed for row in rows)
        given = sum(row.bytes_alloc for row in rows)
        failed_bytes = sum(row.failed * _PAGE_BYTES << row.order for row in rows)
        live = self._live_blocks
        return {
            "requests": hits + failed,
            "request_bytes": given + failed_bytes,
            "frees": counter.page_frees,
            "free_bytes": counter.page_bytes_freed,
            "matched": counter.freed_pages,
            "matched_bytes": counter.freed_page_bytes,
            "live": len(live),
            "live_bytes": int(live["bytes_req"].sum()),
            "unmatched": counter.unknown_page_frees,
            "unmatched_bytes": counter.unknown_page_bytes,
            "lost_frees": counter.lost_page_frees,
            "failed": failed,
            "failed_bytes": failed_bytes,
        }

    def orders(self) -> dict[int, dict[str, int]]:
        """Return pages given out by order and name of migrate type."""
        found: dict[int, dict[str, int]] = {}
        for row in self.page_rows():
            by_type = found.setdefault(row.order, {})
            by_type[row.type_name] = by_type.get(row.type_name, 0) + row.hits
        return dict(sorted(found.items()))

    def page_processes(self) -> list[tuple[str, int, int, int, int]]:
        """Return (name, pid, requests, bytes, frees) of threads that got pages, most bytes first."""
        rows = [
            (
                self.strings.comms[int(row["comm"])],
                int(row["pid"]),
                int(row["page_hits"]),
                int(row["page_bytes"]),
                int(row["page_frees"]),
            )
            for row in self.tasks
            if row["page_hits"]
        ]
        return sorted(rows, key=lambda row: (-row[3], row[0], row[1]))

    def live_pages(self) -> list[LiveRow]:
        """Return the pages that are live at the end, by order, migrate type and flags, most bytes first."""
        groups = self.page_rows()
        names = [f"order {row.order} {row.type_name} {row.gfp}" for row in groups]
        comms = self.strings.comms
        live = self._live_blocks
        codes = live["group"].astype(np.int64) << 32 | self.tasks["comm"][live["task"]]
        return self._live(live, codes, lambda code: (names[code >> 32], comms[code & 0xFFFFFFFF]), live["bytes_req"])

    def fallbacks(self) -> list[dict[str, object]]:
        """Return how often a block of another migrate type had to be taken, most often first."""
        rows: list[dict[str, object]] = [
            {
                "order": order,
                "fallback_order": fallback_order,
                "migratetype": _type_name(migratetype),
                "fallback_migratetype": _type_name(fallback),
                "block_changed": bool(changed),
                "count": count,
            }
            for (order, fallback_order, migratetype, fallback, changed), count in sorted(self.counter.fallbacks.items())
        ]
        return sorted(rows, key=lambda row: -int(str(row["count"])))

    def polluters(self) -> list[dict[str, object]]:
        """Return who put pages into blocks of another migrate type, most often first.

        The call site is the caller outside the allocator, by the call chain;
        without call chains, that of the object for which the page was taken,
        or empty for pages that were taken for themselves.
        """
        found: dict[tuple[str, str, str, str], int] = {}
        for (site, task, migratetype, fallback, stack), count in self.counter.blame.items():
            name = self._caller(stack) if stack else self.strings.call_sites[site]
            comm = self.strings.comms[int(self.tasks[task]["comm"])]
            key = (name, comm, _type_name(migratetype), _type_name(fallback))
            found[key] = found.get(key, 0) + count
        return [
            {"call_site": key[0], "comm": key[1], "migratetype": key[2], "fallback_migratetype": key[3], "count": count}
            for key, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        ]

    # --- call chains

    def _describe(self, address: int) -> str:
        return self.symbols.describe(address) if self.symbols is not None else f"{address:#x}"

    def _caller(self, stack: int) -> str:
        frames = [self._describe(address) for address in self._stacks[stack]]
        for frame in frames:
            if frame.partition("+")[0] not in _ALLOCATORS:
                return frame
        return frames[-1] if frames else ""

    @property
    def has_stacks(self) -> bool:
        """Whether the recording has call chains, and they were kept."""
        return len(self._stacks) > 1

    def folded(self, *, live: bool = False) -> list[str]:
        """Return ``outer;...;inner BYTES`` lines, as flame graphs are made of, in order of the text.

        Parameters
        ----------
        live : bool
            Bytes that are live at the end, instead of all that were given.
        """
        totals: npt.NDArray[np.uint64] = self.counter.stack_totals()[1]
        if live:
            rows = self._live_objects
            totals = np.zeros(len(totals), np.uint64)
            np.add.at(totals, rows["stack"], self.groups["size"][rows["group"]])
        found: dict[str, int] = {}
        for code, frames in enumerate(self._stacks):
            if code < len(totals) and totals[code]:
                line = ";".join(self._describe(address).partition("+")[0] for address in reversed(frames))
                found[line or "(no call chain)"] = found.get(line or "(no call chain)", 0) + int(totals[code])
        return [f"{line} {count}" for line, count in sorted(found.items())]


_SUMMED = ("hits", "failed", "bytes_req", "bytes_alloc", "frees", "bytes_freed", "pingpong", "cross_node")


def _type_name(migratetype: int) -> str:
    names = REFERENCE.migrate_types
    return names[migratetype] if 0 <= migratetype < len(names) else f"type {migratetype}"


#: What rows can be sorted by, with perf's names for some: the key, and whether the largest comes first.
_SORTS: dict[str, tuple[str, bool]] = {
    "bytes": ("bytes_alloc", True),
    "alloc": ("bytes_alloc", True),
    "req": ("bytes_req", True),
    "hits": ("hits", True),
    "hit": ("hits", True),
    "failed": ("failed", True),
    "frees": ("frees", True),
    "frag": ("slack_percent", True),
    "slack": ("slack_bytes", True),
    "pingpong": ("pingpong", True),
    "cross_node": ("cross_node", True),
    "live": ("live_bytes", True),
    "name": ("name", False),
    "callsite": ("name", False),
    "ptr": ("address", False),
    "pid": ("pid", False),
    "order": ("order", False),
    "migtype": ("migratetype", False),
    "gfp": ("gfp", False),
}


def sort_names() -> tuple[str, ...]:
    """Return what rows can be sorted by."""
    return tuple(_SORTS)


def sort_rows(rows: Iterable[Any], keys: Sequence[str]) -> list[Any]:
    """Sort rows by several keys; what a row does not have does not count, names decide in the end."""
    result = sorted(rows, key=lambda row: str(getattr(row, "name", getattr(row, "gfp", ""))))
    for key in reversed(keys):
        attribute, largest = _SORTS[key]
        if result and hasattr(result[0], attribute):
            result.sort(key=lambda row: getattr(row, attribute) or 0, reverse=largest)
    return result


def collect(
    reader: TraceReader,
    *,
    window: tuple[int, int] | None = None,
    wanted: EventFilter | None = None,
    addresses: bool = False,
    stacks: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Stat:
    """Read a trace to its end and count.

    Parameters
    ----------
    reader : TraceReader
    window : tuple of (int, int), optional
        First and last nanosecond of the trace clock to look at.
    wanted : EventFilter, optional
        Which allocations to count.
    addresses : bool
        Whether to count by address, too.
    stacks : bool
        Whether to count by call chain; the reader must have been asked for them.
    progress : callable, optional
        Told how many bytes of how many have been read.

    Raises
    ------
    InputError
        The trace is damaged beyond reading, or holds no kmem event.
    """
    counter = StatCounter(node_of_cpu=_nodes(reader), addresses=addresses, stacks=stacks)
    feeder = Feeder(counter)
    try:
        for batch in reader:
            if window is not None:
                batch = _within(batch, *window)
            if len(batch):
                feeder.feed(batch, wanted.wanted(batch) if wanted is not None else None)
            if progress is not None:
                progress(*reader.progress)
    finally:
        feeder.close()
    return Stat(counter, reader)


class Feeder:
    """Counts one batch in a second thread, without the interpreter's lock, while the next one is being read."""

    def __init__(self, counter: StatCounter) -> None:
        self._counter = counter
        self._work: SimpleQueue[tuple[EventBatch, npt.NDArray[np.bool_] | None] | None] = SimpleQueue()
        self._begun = Semaphore(0)
        self._done = Semaphore(1)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                # the reader takes the lock again as soon as the counter lets go of it
                self._begun.release()
                self._counter.feed(*work)
            except BaseException as error:
                self._error = error
            del work
            self._done.release()

    def feed(self, batch: EventBatch, wanted: npt.NDArray[np.bool_] | None = None) -> None:
        """Have a batch counted; returns when that has begun."""
        self._done.acquire()
        if self._error is not None:
            self._done.release()
            return
        self._work.put((batch, wanted))
        self._begun.acquire()

    def close(self) -> None:
        """Wait for the last batch, and raise what went wrong."""
        self._done.acquire()
        self._work.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error


def _nodes(reader: TraceReader) -> dict[int, int]:
    nodes: dict[int, int] = getattr(reader, "node_of_cpu", {})
    return nodes


def _within(batch: EventBatch, first: int, last: int) -> EventBatch:
    """Return the events of a batch that lie in a window of time."""
    inside = (batch.time_ns >= first) & (batch.time_ns <= last)
    if inside.all():
        return batch
    columns: dict[str, Any] = {}
    for column in dataclasses.fields(batch):
        value = getattr(batch, column.name)
        columns[column.name] = value[inside] if isinstance(value, np.ndarray) else value
    return EventBatch(**columns)
