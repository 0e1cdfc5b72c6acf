# SPDX-License-Identifier: GPL-2.0-only
"""What-if changes of a trace: its requests are made otherwise than they were recorded.

A :class:`Transform` says what is changed; a :class:`Transformer` does it to the
batches of one replay, before the engine sees them.  Two rules keep the replay
honest:

*A page allocation that was a slab's stays one.*  The engine tells it by the
object that lies in it.  A request that is taken away therefore leaves a
``kmalloc(0)`` behind, which claims the pages and allocates nothing.

*A free follows its allocation.*  Where an allocation is taken away, doubled or
replaced, so is the free at its pointer.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kmem.errors import ConfigError
from kmem.mm import gfp as flag
from kmem.trace.events import Event, EventBatch, EventFlag

if TYPE_CHECKING:
    from kmem.replay.replay import Replay

__all__ = ["MAX_LOAD", "Transform", "Transformer"]

MAX_LOAD = 64  #: times that a load can be multiplied
MAX_POOL = 1 << 20  #: elements of a memory pool
_CHUNK = 512
_QUIET_ROWS = 16  #: without a page allocation that may be a slab's, before a chunk ends
_PAGE_SHIFT = 12
_ZERO_SIZE_PTR = 16
# within a class the names with two underscores would be mangled
_COMP = flag.__GFP_COMP
_DIRECT_RECLAIM = flag.__GFP_DIRECT_RECLAIM
_HIGHMEM = flag.__GFP_HIGHMEM
_NORETRY = flag.__GFP_NORETRY
_NOWARN = flag.__GFP_NOWARN
_RETRY_MAYFAIL = flag.__GFP_RETRY_MAYFAIL
_SLAB_LIKE = flag.__GFP_NOWARN | flag.__GFP_NORETRY
_ATOMIC_BITS = flag.__GFP_HIGH | flag.__GFP_ATOMIC
_POOL_QUIET = flag.__GFP_NOMEMALLOC | flag.__GFP_NORETRY | flag.__GFP_NOWARN
_POOL_WITHOUT = flag.__GFP_DIRECT_RECLAIM | flag.__GFP_IO
_OWN_KEYS = 1 << 62  #: pointers of the transformer's own objects lie above; no kernel has any there
_OWN_PFNS = 1 << 50

Columns = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Transform:
    """Changes of a trace.

    Attributes
    ----------
    scale_load : int
        Every request is made so many times, as if so many of the recorded
        load ran at once.
    drop : tuple of str
        Call sites whose requests for objects are not made.
    resize : tuple of (str, int)
        Call sites whose kmallocs ask for another number of bytes.
    atomic_to_kernel : tuple of str
        Call sites whose atomic requests become GFP_KERNEL.
    kvmalloc_above : int or None
        kmallocs of more bytes become kvmallocs: where the model has no block
        they get single pages.
    mempools : tuple of (str, int)
        Caches, and the elements of a memory pool in front of each.

    Notes
    -----
    A call site is a function (``__alloc_skb``), the whole text
    (``__alloc_skb+0x8d``) or a pattern (``ext4_*``; ``*`` is everything).

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    scale_load: int = 1
    drop: tuple[str, ...] = ()
    resize: tuple[tuple[str, int], ...] = ()
    atomic_to_kernel: tuple[str, ...] = ()
    kvmalloc_above: int | None = None
    mempools: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.scale_load <= MAX_LOAD:
            raise ConfigError(f"a load scaled by {self.scale_load}", remedy=f"give a whole number from 1 to {MAX_LOAD}")
        if self.kvmalloc_above is not None and not 0 <= self.kvmalloc_above < 1 << 32:
            raise ConfigError(f"kvmalloc above {self.kvmalloc_above} bytes", remedy="give a size below 4G")
        for site, size in self.resize:
            if not 0 < size <= 1 << 22:
                raise ConfigError(f"kmallocs of {site} resized to {size} bytes", remedy="give 1 byte to 4 MiB")
        for cache, elements in self.mempools:
            if not 0 <= elements <= MAX_POOL:
                raise ConfigError(f"a mempool of {elements} {cache}", remedy=f"give 0 to {MAX_POOL} elements")
        if len({cache for cache, _ in self.mempools}) < len(self.mempools):
            raise ConfigError("a cache has two mempools", remedy="give one number of elements for each cache")

    def __bool__(self) -> bool:
        return self != Transform()


@dataclasses.dataclass(slots=True)
class Pool:
    """A memory pool in front of a cache, during a replay.

    Attributes
    ----------
    cache : str
    min_nr, elements, lowest : int
        Elements that it is meant to hold, holds, and held at the least.
    served : int
        Requests that an element was given to.
    slept : int
        Requests that found the pool empty, and would have slept.
    refused : int
        Requests that found it empty, and may not sleep.
    """

    cache: str
    min_nr: int
    elements: int = 0
    lowest: int = 0
    served: int = 0
    slept: int = 0
    refused: int = 0
    size: tuple[int, int] = (0, 0)
    live: set[int] = dataclasses.field(default_factory=set)
    out: set[int] = dataclasses.field(default_factory=set)


class Transformer:
    """Applies a transform to the batches of one replay.

    Parameters
    ----------
    transform : Transform
    run : Replay
        The replay; its survey has to be of the whole trace.

    Attributes
    ----------
    pools : list of Pool
    dropped : int
        Requests taken away.
    kvmalloc_fallbacks : int
        Requests that got single pages instead of a block.

    Raises
    ------
    ConfigError
        If a mempool's cache does not occur in the trace.
    """

    def __init__(self, transform: Transform, run: Replay) -> None:
        self.transform = transform
        self.run = run
        self.dropped = 0
        self.kvmalloc_fallbacks = 0
        self.pools = [Pool(cache, elements) for cache, elements in transform.mempools]
        for pool in self.pools:
            pool.size = self._element_size(pool.cache)
        self._dropped_keys: set[int] = set()
        self._vmalloced: dict[int, list[int]] = {}
        self._sites: dict[str, npt.NDArray[np.bool_]] = {}
        self._matched: set[str] = set()
        self._next_own = 0
        self._filled = not self.pools
        self._shift = self._copy_shift()

    def unmatched(self) -> list[str]:
        """Return the call sites of the transform that the trace did not have, as it said them."""
        t = self.transform
        asked = [*t.drop, *(site for site, _ in t.resize), *t.atomic_to_kernel]
        return [site for site in dict.fromkeys(asked) if site not in self._matched and site != "*"]

    def pieces(self, batch: EventBatch) -> Iterator[EventBatch]:
        """Yield what to replay instead of a batch.

        Each piece has to be replayed before the next is asked for: what
        kvmalloc and memory pools do depends on the memory that is left.
        """
        batch = self._atomic(batch)
        batch = self._drop(batch)
        for resized in self._resize(batch):
            for copy in self._copies(resized):
                yield from self._stateful(copy)

    # Columns alone

    def _match(self, batch: EventBatch, pattern: str) -> npt.NDArray[np.bool_]:
        """The rows whose call site fits a pattern."""
        known = self._sites.get(pattern)
        sites = batch.strings.call_sites
        if known is None or len(known) < len(sites):
            have = 0 if known is None else len(known)
            new = np.array([_fits(text, pattern) for text in sites.strings(have)], np.bool_)
            known = new if known is None else np.concatenate([known, new])
            self._sites[pattern] = known
        rows: npt.NDArray[np.bool_] = known[batch.call_site]
        return rows

    def _rows_of(self, batch: EventBatch, pattern: str, last: Event) -> npt.NDArray[np.bool_]:
        """The rows that allocate at a call site, by events up to `last`."""
        rows = self._match(batch, pattern) & (batch.event >= Event.KMALLOC) & (batch.event <= last)
        if rows.any():
            self._matched.add(pattern)
        return rows

    def _atomic(self, batch: EventBatch) -> EventBatch:
        chosen = np.zeros(len(batch), np.bool_)
        for pattern in self.transform.atomic_to_kernel:
            chosen |= self._rows_of(batch, pattern, Event.KMEM_CACHE_ALLOC_NODE)
            if pattern == "*":
                chosen |= batch.event == Event.MM_PAGE_ALLOC
        chosen &= (batch.gfp & np.uint32(_ATOMIC_BITS)) != 0
        if not chosen.any():
            return batch
        kernel = (batch.gfp & np.uint32(~_ATOMIC_BITS & 0xFFFFFFFF)) | np.uint32(flag.GFP_KERNEL)
        return dataclasses.replace(batch, gfp=np.where(chosen, kernel, batch.gfp))

    def _drop(self, batch: EventBatch) -> EventBatch:
        if not self.transform.drop:
            return batch
        gone = np.zeros(len(batch), np.bool_)
        for pattern in self.transform.drop:
            gone |= self._rows_of(batch, pattern, Event.KMEM_CACHE_ALLOC_NODE)
        self.dropped += int(np.count_nonzero(gone))
        involved = np.unique(np.concatenate([_array(self._dropped_keys), batch.target[gone]]))
        objects = (batch.event >= Event.KMALLOC) & (batch.event <= Event.KMEM_CACHE_FREE)
        keep = np.ones(len(batch), np.bool_)
        keys = self._dropped_keys
        for row in np.flatnonzero(objects & np.isin(batch.target, involved)).tolist():
            key = int(batch.target[row])
            if gone[row]:
                keys.add(key)
            elif key in keys:
                keys.discard(key)
                keep[row] = batch.event[row] < Event.KFREE
        changed = _claims(batch, gone)
        return changed if keep.all() else _taken(changed, keep)

    def _resize(self, batch: EventBatch) -> Iterator[EventBatch]:
        if not self.transform.resize:
            yield batch
            return
        changed = np.zeros(len(batch), np.bool_)
        size = batch.bytes_req.copy()
        for pattern, size_bytes in self.transform.resize:
            rows = self._rows_of(batch, pattern, Event.KMALLOC_NODE)
            size[rows] = size_bytes
            changed |= rows
        given = batch.bytes_alloc.copy()
        given[changed] = [_kmalloc_size(int(size_bytes)) for size_bytes in size[changed]]
        # each is preceded by what claims the recorded request's own pages
        order = np.sort(np.concatenate([np.arange(len(batch)), np.flatnonzero(changed)]))
        first = np.zeros(len(order), np.bool_)
        first[:-1] = order[:-1] == order[1:]
        claiming = _taken(_claims(batch, changed), order)
        asking = _taken(dataclasses.replace(batch, bytes_req=size, bytes_alloc=given), order)
        yield dataclasses.replace(
            asking,
            **{
                name: np.where(first, getattr(claiming, name), getattr(asking, name))
                for name in ("event", "bytes_req", "bytes_alloc", "cache")
            },
        )

    # The load

    def _copy_shift(self) -> int:
        """Address bits of one copy of the machine: copies of a pointer lie that far apart."""
        if self.transform.scale_load == 1:
            return 0
        run = self.run
        frames = max(run.survey.top_frame(run.machine.arch), run.machine.memmap.nr_frames)
        shift = (max(frames, 1) << _PAGE_SHIFT).bit_length() + 1
        if run.survey.page_offset + (self.transform.scale_load << shift) > 1 << 64:
            raise ConfigError("the load cannot be scaled so far on so large a machine", remedy="scale it by less")
        return shift

    def _copies(self, batch: EventBatch) -> Iterator[EventBatch]:
        """The batch in chunks, each followed by its copies at other pointers."""
        times = self.transform.scale_load
        if times == 1:
            yield batch
            return
        pages = (batch.event > Event.KMEM_CACHE_FREE) & (batch.event < Event.LOST)
        named = batch.target > _ZERO_SIZE_PTR
        waiting = (batch.event == Event.MM_PAGE_ALLOC) & (
            ((batch.gfp & np.uint32(_SLAB_LIKE)) == _SLAB_LIKE) | (batch.gfp & np.uint32(_COMP) != 0)
        )
        start = 0
        while start < len(batch):
            stop = _quiet_end(waiting, start + _CHUNK)
            chunk = _taken(batch, slice(start, stop))
            yield chunk
            for copy in range(1, times):
                step = np.where(
                    pages[start:stop],
                    np.uint64(copy << (self._shift - _PAGE_SHIFT)),
                    np.where(named[start:stop], np.uint64(copy << self._shift), np.uint64(0)),
                )
                yield dataclasses.replace(chunk, target=chunk.target + step)
            start = stop

    # What depends on the machine

    def _stateful(self, batch: EventBatch) -> Iterator[EventBatch]:
        if not self._filled:
            self._filled = True
            for pool in self.pools:
                yield from self._fill(batch, pool)
        large = self._large_requests(batch)
        pools = [self._pool_requests(batch, pool) for pool in self.pools]
        if not large.any() and not self._vmalloced and not pools:
            yield batch
            return
        special = large | np.logical_or.reduce(pools) if pools else large
        involved = np.concatenate([_array(set(self._vmalloced)), batch.target[large]])
        for pool in self.pools:
            involved = np.concatenate([involved, _array(pool.live)])
        if pools:
            involved = np.concatenate([involved, batch.target[np.logical_or.reduce(pools)]])
        frees = np.isin(batch.event, (Event.KFREE, Event.KMEM_CACHE_FREE)) & np.isin(batch.target, involved)
        start = 0
        for row in np.flatnonzero(special | frees).tolist():
            if row > start:
                yield _taken(batch, slice(start, row))
            start = row + 1
            pool_of_row = next((p for p, rows in zip(self.pools, pools, strict=True) if rows[row]), None)
            one = _taken(batch, slice(row, row + 1))
            if frees[row]:
                yield from self._free(one)
            elif pool_of_row is not None and self._is_for(one, pool_of_row):
                yield from self._pool_alloc(one, pool_of_row)
            elif large[row]:
                yield from self._kvmalloc(one)
            else:
                yield one
        if start < len(batch):
            yield _taken(batch, slice(start, len(batch)))

    def _large_requests(self, batch: EventBatch) -> npt.NDArray[np.bool_]:
        above = self.transform.kvmalloc_above
        if above is None:
            return np.zeros(len(batch), np.bool_)
        rows: npt.NDArray[np.bool_] = (
            np.isin(batch.event, (Event.KMALLOC, Event.KMALLOC_NODE))
            & (batch.bytes_req > max(above, 1 << _PAGE_SHIFT))
            & ((batch.flags & np.uint16(EventFlag.FAILED | EventFlag.NO_POINTER)) == 0)
        )
        return rows

    def _kvmalloc(self, one: EventBatch) -> Iterator[EventBatch]:
        """A kmalloc that may become one of single pages.

        Source: mm/util.c:kvmalloc_node @6.1.192
        """
        gfp, size, key = int(one.gfp[0]), int(one.bytes_req[0]), int(one.target[0])
        quiet = gfp | _NOWARN | (0 if gfp & _RETRY_MAYFAIL else _NORETRY)
        self._vmalloced.pop(key, None)
        if not gfp & _DIRECT_RECLAIM:
            yield _with(one, gfp=quiet)
            return
        missed: list[int] = []

        def instead() -> bool:
            missed.append(key)
            return True

        self.run.reserve = instead
        yield _with(one, gfp=quiet)
        self.run.reserve = None
        if missed:
            yield from self._vmalloc(one, key, size, gfp)

    def _vmalloc(self, one: EventBatch, key: int, size: int, gfp: int) -> Iterator[EventBatch]:
        """Single pages instead of a block; where one is refused all are given back, and one request has failed.

        Source: mm/vmalloc.c:__vmalloc_area_node @6.1.192
        Differs: pages behind the refused one are asked for, too, before all are given back.
        """
        refused: list[int] = []

        def once() -> bool:
            refused.append(key)
            return len(refused) > 1

        nr_pages = (size + (1 << _PAGE_SHIFT) - 1) >> _PAGE_SHIFT
        pfns = [_OWN_PFNS + self._own() for _ in range(nr_pages)]
        self.run.reserve = once
        # without __GFP_NORETRY they are no slab's, and are asked for at once
        yield _page_rows(one, Event.MM_PAGE_ALLOC, pfns, (gfp | _HIGHMEM | _NOWARN) & ~_NORETRY)
        self.run.reserve = None
        if refused:
            yield _page_rows(one, Event.MM_PAGE_FREE, pfns, 0)
        else:
            self._vmalloced[key] = pfns
            self.kvmalloc_fallbacks += 1

    def _free(self, one: EventBatch) -> Iterator[EventBatch]:
        key = int(one.target[0])
        pfns = self._vmalloced.pop(key, None)
        if pfns is not None:
            yield _page_rows(one, Event.MM_PAGE_FREE, pfns, 0)
        yield one
        for pool in self.pools:
            if key in pool.live:
                pool.live.discard(key)
                if key in pool.out:
                    pool.out.discard(key)
                    pool.elements += 1
                elif pool.elements < pool.min_nr:
                    yield from self._refill(one, pool)

    def _own(self) -> int:
        self._next_own += 1
        return self._next_own

    # Memory pools

    def _element_size(self, cache: str) -> tuple[int, int]:
        """Bytes asked for and given for an object of a cache, by the trace."""
        kmalloc = cache.removeprefix("kmalloc-")
        if kmalloc != cache:
            digits = kmalloc.removesuffix("k")
            size = int(digits) << (10 if kmalloc.endswith("k") else 0) if digits.isdecimal() else 0
            if size and _kmalloc_size(size) == size <= 8192:
                return size, size
        for (_, bytes_req, bytes_alloc), name in self.run.survey.cache_names.items():
            if name == cache:
                return bytes_req, bytes_alloc
        raise ConfigError(
            f"the trace has no cache {cache!r} for a mempool", remedy="name one that its report lists, or kmalloc-SIZE"
        )

    def _pool_requests(self, batch: EventBatch, pool: Pool) -> npt.NDArray[np.bool_]:
        """The rows that may ask a pool's cache for an object."""
        usable = (batch.flags & np.uint16(EventFlag.FAILED | EventFlag.NO_POINTER)) == 0
        if pool.cache.startswith("kmalloc-") and pool.size[0] == pool.size[1]:
            kind = np.isin(batch.event, (Event.KMALLOC, Event.KMALLOC_NODE)) & (batch.bytes_req > 0)
            rows: npt.NDArray[np.bool_] = usable & kind & (batch.bytes_alloc == pool.size[1])
            return rows
        kind = np.isin(batch.event, (Event.KMEM_CACHE_ALLOC, Event.KMEM_CACHE_ALLOC_NODE)) & usable
        asked: npt.NDArray[np.bool_] = kind & (batch.bytes_req == pool.size[0]) & (batch.bytes_alloc == pool.size[1])
        return asked

    def _is_for(self, one: EventBatch, pool: Pool) -> bool:
        """Whether a request that has the size of a pool's elements goes to the pool's cache."""
        if one.event[0] <= Event.KMALLOC_NODE:
            return True
        code, site = int(one.cache[0]), int(one.call_site[0])
        return self.run.cache_of(site, *pool.size, code) == pool.cache

    def _element(self, one: EventBatch, pool: Pool) -> EventBatch:
        """A request for one more element of a pool, of the pool's own."""
        kmalloc = pool.cache.startswith("kmalloc-") and pool.size[0] == pool.size[1]
        code = 0
        if not kmalloc:
            caches: Any = one.strings.caches
            code = caches.code(pool.cache)
        return _with(
            one,
            event=Event.KMALLOC if kmalloc else Event.KMEM_CACHE_ALLOC,
            target=_OWN_KEYS + (self._own() << 4),
            bytes_req=pool.size[0],
            bytes_alloc=pool.size[1],
            gfp=flag.GFP_KERNEL,
            call_site=0,
            cache=code,
            order=0,
            node=-1,
            flags=0,
        )

    def _fill(self, batch: EventBatch, pool: Pool) -> Iterator[EventBatch]:
        """Allocate a pool's elements.

        Source: mm/mempool.c:mempool_init_node @6.1.192
        """
        for _ in range(pool.min_nr):
            before = self.run.engine.nr_failures
            yield self._element(_taken(batch, slice(0, 1)), pool)
            if self.run.engine.nr_failures > before:
                raise ConfigError(
                    f"no memory for a mempool of {pool.min_nr} {pool.cache}", remedy="give it fewer elements"
                )
            pool.elements += 1
        pool.lowest = pool.elements

    def _pool_alloc(self, one: EventBatch, pool: Pool) -> Iterator[EventBatch]:
        """A request to a pool: the cache first, then the reserve.

        Source: mm/mempool.c:mempool_alloc @6.1.192
        Differs: a request that would sleep is counted, and gets nothing.
        """
        gfp, key = int(one.gfp[0]), int(one.target[0])

        def reserve() -> bool:
            if pool.elements:
                pool.elements -= 1
                pool.lowest = min(pool.lowest, pool.elements)
                pool.served += 1
                pool.out.add(key)
            elif gfp & _DIRECT_RECLAIM:
                pool.slept += 1
                pool.live.discard(key)
            else:
                pool.refused += 1
                pool.live.discard(key)
                return False
            return True

        pool.live.add(key)
        pool.out.discard(key)
        self.run.reserve = reserve
        yield _with(one, gfp=(gfp | _POOL_QUIET) & ~_POOL_WITHOUT)
        self.run.reserve = None

    def _refill(self, one: EventBatch, pool: Pool) -> Iterator[EventBatch]:
        """Keep an object that has just been freed: SLUB hands it out again to who asks next.

        Source: mm/mempool.c:mempool_free @6.1.192
        """
        before = self.run.engine.nr_failures
        yield self._element(one, pool)
        if self.run.engine.nr_failures == before:
            pool.elements += 1


def _fits(site: str, pattern: str) -> bool:
    function = site.partition("+")[0]
    return pattern in (site, function) or (
        any(sign in pattern for sign in "*?[")
        and (fnmatch.fnmatchcase(function, pattern) or fnmatch.fnmatchcase(site, pattern))
    )


def _kmalloc_size(size_bytes: int) -> int:
    """Bytes that kmalloc gives for so many."""
    if size_bytes > 8192:
        return 1 << max(_PAGE_SHIFT, (size_bytes - 1).bit_length())
    fitting = [size for size in (96, 192) if size_bytes <= size]
    return min([1 << max(3, (size_bytes - 1).bit_length()), *fitting])


def _array(keys: set[int]) -> npt.NDArray[np.uint64]:
    return np.fromiter(keys, np.uint64, len(keys))


def _quiet_end(waiting: npt.NDArray[np.bool_], stop: int) -> int:
    """The first row from `stop` on before which nothing waits for its object."""
    end = len(waiting)
    last = min(stop + 8 * _QUIET_ROWS, end)
    while stop < last and waiting[max(0, stop - _QUIET_ROWS) : stop].any():
        stop += 1
    return min(stop, end)


_NAMES = tuple(field.name for field in dataclasses.fields(EventBatch) if field.name not in ("strings", "stack"))


def _taken(batch: EventBatch, rows: Any) -> EventBatch:
    """The chosen rows of a batch; a slice of them is not copied."""
    columns: Columns = {name: getattr(batch, name)[rows] for name in _NAMES}
    if batch.stack is not None:
        columns["stack"] = batch.stack[rows]
    return EventBatch(**columns, strings=batch.strings)


def _with(batch: EventBatch, **values: int) -> EventBatch:
    """The batch with columns that are the same in all rows."""
    columns: Columns = {name: np.full(len(batch), value, getattr(batch, name).dtype) for name, value in values.items()}
    return dataclasses.replace(batch, **columns)


def _claims(batch: EventBatch, rows: npt.NDArray[np.bool_]) -> EventBatch:
    """The batch with some requests turned into kmallocs of nothing."""
    return dataclasses.replace(
        batch,
        event=np.where(rows, np.uint8(Event.KMALLOC), batch.event),
        bytes_req=np.where(rows, np.uint64(0), batch.bytes_req),
        cache=np.where(rows, np.uint32(0), batch.cache),
    )


def _page_rows(one: EventBatch, event: Event, pfns: list[int], gfp: int) -> EventBatch:
    rows = _with(_taken(one, np.zeros(len(pfns), np.intp)), event=event, order=0, gfp=gfp, cache=0, migratetype=0)
    return dataclasses.replace(rows, target=np.array(pfns, np.uint64))
