# SPDX-License-Identifier: GPL-2.0-only
"""Replaying a trace through a modelled machine.

:func:`replay` reads a trace, boots a machine if none is given, lets
:class:`~kmem.replay.engine.ReplayEngine` make every request to it, and keeps
what became of memory: usage by call site, cache and page order, failures,
migrate-type fallbacks, and samples of free memory over time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kmem.errors import InputError, UsageError
from kmem.machine.machine import Machine
from kmem.machine.slabinfo import SlabinfoRow
from kmem.machine.table import html_table
from kmem.mm.slab_common import CacheGeometry, geometry_from_sizes, kmem_cache_open
from kmem.mm.slub_debug import SlubDebug
from kmem.replay.engine import UNNAMED, ReplayEngine
from kmem.replay.frames import FrameMoment, most_moments
from kmem.replay.infer import Survey, architecture, infer_description, survey
from kmem.replay.prepared import Look, PreparedTrace
from kmem.replay.refused import (
    MAX_FAILURES,
    MAX_STATES,
    Failure,
    Kind,
    PagesWanted,
    ZoneRecord,
    pages_wanted,
    refused_zones,
    why_refused,
    zone_records,
)
from kmem.replay.transform import Transform, Transformer
from kmem.trace.events import EventBatch
from kmem.trace.reader import TraceReader, TraceStats, open_trace

__all__ = ["Failure", "Prior", "Replay", "Sample", "readable_twice", "replay"]

MAX_SAMPLES = 512  #: samples of free memory; thinned out when there are more
_FIRST_INTERVAL = 64
_MAX_NR_ZONES = 5
_NR_ORDERS = 11
_NR_TYPES = 6
_MOST_FALLBACKS = 1 << 16
_MM_PAGE_ALLOC = 7
_MAY_SLEEP = 0x400  #: __GFP_DIRECT_RECLAIM
_ATOMIC = 0x220  #: __GFP_HIGH, __GFP_ATOMIC

T = TypeVar("T")
Progress = Callable[[int, int | None], None]
Gate = Callable[["Replay", npt.NDArray[np.int64]], int]


class Prior(Protocol):
    """What a replay has to know beside the trace; see :mod:`kmem.replay.running`."""

    def begin(self, engine: ReplayEngine) -> None:
        """Tell the engine what there is already, before the first event."""

    def events_left(self, engine: ReplayEngine) -> int:
        """How many events may be replayed until :meth:`after_events` has something to do; at least 1."""

    def after_events(self, engine: ReplayEngine) -> None:
        """Do what happens after these events."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Free memory at one moment of the replay.

    Attributes
    ----------
    time_ns : int
        Time of the trace.
    events : int
        Events replayed before.
    free_blocks : ndarray of int64, shape (zones, 11, 6)
        Free blocks by zone number, order and migrate type.
    pcp_pages : ndarray of int64, shape (zones,)
        Pages on per-CPU lists.
    slab_pages : int
        Pages of slabs.
    failures, fallbacks : int
        Requests refused before, and those served from another migrate type.
    """

    time_ns: int
    events: int
    free_blocks: npt.NDArray[np.int64]
    pcp_pages: npt.NDArray[np.int64]
    slab_pages: int
    failures: int
    fallbacks: int


@dataclass(slots=True)
class Replay:
    """A replay: the machine as it is now, and all that was counted.

    Attributes
    ----------
    machine : Machine
        The machine in its final state.
    engine : ReplayEngine
        Counters by call site, cache and page order.
    survey : Survey
        What the look through the trace found: through all of it where the
        machine was inferred, else through its beginning.
    assumed : list of str
        What was inferred or assumed, a sentence each.
    notes : list of str
        Where trace and machine do not go together, a sentence each.
    stats : TraceStats
        What the reader saw.
    samples : list of Sample
        At most 512, first and last event included.
    keep_frames : bool
        Whether `moments` are kept.
    moments : list of FrameMoment
        What every page frame is used for, at most 64 times, last event included.
    failures : list of Failure
        The first 1000.
    failure_counts : Counter of (zone, order, reason)
        All of them.
    first_failures : dict of (zone, order, reason) to Failure
        The first of each kind, which need not be among the first 1000.
    failure_states : dict of (zone, order, reason) to (PagesWanted, tuple of ZoneRecord)
        The request for pages and the zones at the first failure of a kind, of the first 16 kinds.
    fallbacks : ndarray
        ``mm_page_alloc_extfrag`` records of the model, the first 65,536; see
        :data:`kmem.mm.tracepoint.TRACE_DTYPE`.
    reader : TraceReader
        For the strings behind the codes.
    atomic_failures : int
        How many of the failures are of GFP_ATOMIC, which may not sleep but
        dip into the reserves. Of the others, most would reclaim memory first.
    transformer : Transformer or None
        What was changed about the trace, and what came of it.
    reserve : callable or None
        Asked when a request is refused whether it is served otherwise.
    nr_reserved : int
        Refused requests that a memory pool has served or would have, or that
        got single pages.
    slab_orders : mapping of str to int
        Orders that the slabs of caches shall have.
    gate : callable or None
        Asked before each stretch of events, as ``gate(run, times_of_the_next_events)``, how many
        of them (one at least) may be replayed now. It may wait, look at the machine, and raise.
    prior : Prior or None
        What there was before the trace, and what happens without an event.
    """

    machine: Machine
    reader: TraceReader
    survey: Survey
    assumed: list[str]
    notes: list[str] = field(default_factory=list)
    engine: ReplayEngine = field(init=False)
    stats: TraceStats = field(init=False)
    samples: list[Sample] = field(default_factory=list)
    keep_frames: bool = False
    moments: list[FrameMoment] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    failure_counts: Counter[Kind] = field(default_factory=Counter)
    first_failures: dict[Kind, Failure] = field(default_factory=dict)
    failure_states: dict[Kind, tuple[PagesWanted, tuple[ZoneRecord, ...]]] = field(default_factory=dict)
    extfrag_before: int = 0
    fallbacks: npt.NDArray[Any] = field(init=False)
    slabinfo: Mapping[str, SlabinfoRow] = field(default_factory=dict)
    first_ns: int = 0
    last_ns: int = 0
    atomic_failures: int = 0
    transformer: Transformer | None = None
    reserve: Callable[[], bool] | None = None
    nr_reserved: int = 0
    slab_orders: Mapping[str, int] = field(default_factory=dict)
    gate: Gate | None = None
    prior: Prior | None = None
    _by_name: dict[str, int] = field(default_factory=dict)
    _by_site: dict[tuple[int, int, int], int] = field(default_factory=dict)
    _by_size: dict[tuple[int, int], int] = field(default_factory=dict)
    _unnamed: set[int] = field(default_factory=set)
    _interval: int = _FIRST_INTERVAL
    _moment_interval: int = _FIRST_INTERVAL

    def _repr_html_(self) -> str:
        """Return what notebooks show: how much was replayed, and the machine afterwards."""
        engine = self.engine
        counts = ("nr_events", "nr_requests", "nr_frees", "nr_failures", "nr_unknown_frees", "nr_unknown_page_frees")
        rows = [(name.removeprefix("nr_").replace("_", " "), getattr(engine, name)) for name in counts]
        return html_table("Replay", ("what", "count"), rows, len(rows)) + self.machine._repr_html_()

    def run(
        self, *, page_offset: int, progress: Progress | None = None, observe: Callable[[EventBatch], None] | None = None
    ) -> None:
        """Replay the whole trace."""
        machine = self.machine
        machine.trace.enable("mm_page_alloc_extfrag")
        taken = [machine.trace.drain()[:0]]
        self.extfrag_before = machine.page_alloc.nr_extfrag
        self.engine = ReplayEngine(machine.page_alloc, machine.slub, self, page_offset)
        for index, geometry in machine.slub.geometries.items():
            self._by_name[geometry.name] = index
        self.engine.reserve(1, 1, 1 + max(machine.slub.geometries, default=0))
        if self.prior is not None:
            self.prior.begin(self.engine)
        with self._batches() as batches:
            for batch in batches:
                if observe is not None:
                    observe(batch)
                for piece in self.transformer.pieces(batch) if self.transformer is not None else (batch,):
                    self._feed(piece)
                if sum(map(len, taken)) < _MOST_FALLBACKS:
                    taken.append(machine.trace.drain())
                if progress is not None:
                    progress(*self.reader.progress)
        self.engine.finish()
        taken.append(machine.trace.drain())
        self.fallbacks = np.concatenate(taken)[:_MOST_FALLBACKS]
        self._sample()
        if self.keep_frames:
            self._take_moment()
        self.stats = self.reader.stats
        if self.transformer is not None:
            self.notes += [
                f"the trace has no requests at {site} that could be changed" for site in self.transformer.unmatched()
            ]

    def _batches(self) -> contextlib.closing[Generator[EventBatch]]:
        """The batches of the trace; a transformer adds names to the reader's, so nobody may read ahead of it."""
        plain = (batch for batch in self.reader)
        return contextlib.closing(self.reader.read_ahead() if self.transformer is None else plain)

    def _feed(self, batch: EventBatch) -> None:
        if not len(batch):
            return
        strings = batch.strings
        self.engine.reserve(len(strings.call_sites) + 1, len(strings.caches) + 1, 0)
        if not self.engine.nr_events and len(batch):
            self.first_ns = int(batch.time_ns[0])
        start = 0
        while start < len(batch):
            if self.engine.nr_events % self._interval == 0:
                self._sample()
                if self.keep_frames and self.engine.nr_events % self._moment_interval == 0:
                    self._take_moment()
            stop = min(len(batch), start + self._interval - self.engine.nr_events % self._interval)
            if self.prior is not None:
                stop = min(stop, start + self.prior.events_left(self.engine))
            if self.gate is not None:
                stop = min(stop, start + self.gate(self, batch.time_ns[start:stop]))
            self.machine.trace.time_ns = max(0, int(batch.time_ns[start]))
            self.engine.feed(batch, start, stop)
            if self.prior is not None:
                self.prior.after_events(self.engine)
            start = stop
        self.last_ns = max(self.last_ns, int(batch.time_ns[-1]))

    def _sample(self) -> None:
        """Take a sample; drop every second one when there are too many."""
        memmap = self.machine.memmap
        zones = memmap.zones_array
        populated = np.flatnonzero(zones["managed"])
        blocks = np.zeros((memmap.nr_zones, _NR_ORDERS, _NR_TYPES), np.int64)
        for zone in populated:
            for order in range(_NR_ORDERS):
                if zones["nr_free"][zone, order]:
                    blocks[zone, order] = memmap.free_list_lengths(int(zone), order)
        pcp = memmap.pagesets_array["count"].reshape(memmap.nr_zones, memmap.nr_cpus).sum(axis=1, dtype=np.int64)
        time_ns = self.engine.time_ns if self.engine.nr_events else self.first_ns
        sample = Sample(
            time_ns=time_ns,
            events=self.engine.nr_events,
            free_blocks=blocks,
            pcp_pages=pcp,
            slab_pages=self._slab_pages(),
            failures=self.engine.nr_failures - self.nr_reserved,
            fallbacks=int(self.machine.page_alloc.nr_extfrag) - self.extfrag_before,
        )
        if self.samples and self.samples[-1].events == sample.events:
            self.samples[-1] = sample
            return
        if len(self.samples) >= MAX_SAMPLES:  # before the new one comes, which may be the last
            del self.samples[1::2]
            self._interval *= 2
        self.samples.append(sample)

    def _take_moment(self) -> None:
        """Keep what every frame is used for; drop every second such picture when there are too many."""
        if self.moments and self.moments[-1].events == self.engine.nr_events:
            self.moments.pop()
        if len(self.moments) >= most_moments(self.machine.memmap.nr_frames):
            del self.moments[1::2]
            self._moment_interval *= 2
        time_ns = self.engine.time_ns if self.engine.nr_events else self.first_ns
        self.moments.append(FrameMoment.take(self.machine.memmap, self.engine, time_ns))

    def _slab_pages(self) -> int:
        slub = self.machine.slub
        slabs = slub.nodes_array["nr_slabs"].reshape(-1, self.machine.memmap.nr_nodes).sum(axis=1)
        return int((slabs << slub.caches_array["order"].astype(np.int64)).sum())

    # What the engine asks when a rare thing happens

    def new_cache(self, engine: ReplayEngine, site: int, bytes_req: int, bytes_alloc: int, name: int) -> int:
        """Index of the cache for a request of which nothing is bound yet."""
        if name != UNNAMED:
            text = self.reader.strings.caches[name]
            return self._named(text, bytes_req, bytes_alloc)
        known = self._by_site.get((site, bytes_req, bytes_alloc))
        if known is not None:
            return known
        learned = self.survey.cache_names.get((self.reader.strings.call_sites[site], bytes_req, bytes_alloc))
        cache = self._by_size.get((bytes_req, bytes_alloc))
        if learned is not None:
            cache = self._named(learned, bytes_req, bytes_alloc)
        elif cache is None:
            cache = self._create(f"size-{bytes_req}", bytes_req, bytes_alloc)
            self._by_size[bytes_req, bytes_alloc] = cache
            self._unnamed.add(cache)
        self._by_site[site, bytes_req, bytes_alloc] = cache
        return cache

    def cache_of(self, site: int, bytes_req: int, bytes_alloc: int, name: int) -> str:
        """Name of the cache that a request would go to by what is known now, empty if by nothing."""
        strings = self.reader.strings
        if name != UNNAMED:
            return strings.caches[name]
        index = self._by_site.get((site, bytes_req, bytes_alloc))
        if index is None:
            learned = self.survey.cache_names.get((strings.call_sites[site], bytes_req, bytes_alloc))
            if learned is not None:
                return learned
            index = self._by_size.get((bytes_req, bytes_alloc))
        return self.machine.caches.geometry(index).name if index is not None else ""

    def name_cache(
        self, engine: ReplayEngine, cache: int, name: int, site: int, bytes_req: int, bytes_alloc: int
    ) -> int:
        """An object of `cache` was freed under a name: the cache of that name, for the site's next requests."""
        text = self.reader.strings.caches[name]
        if text in self._by_name:
            named = self._by_name[text]
        elif cache in self._unnamed and not self._shared(cache, site, bytes_alloc):
            named = cache
            self.machine.caches.geometry(cache).name = text
            self._by_name[text] = cache
            self._unnamed.discard(cache)
            if not _telling(bytes_alloc):
                del self._by_size[bytes_req, bytes_alloc]
        else:
            named = self._named(text, bytes_req, bytes_alloc)
        self._by_site[site, bytes_req, bytes_alloc] = named
        return named

    def _shared(self, cache: int, site: int, bytes_alloc: int) -> bool:
        """Whether the name of one call site's cache need not be that of the others that use `cache`, too."""
        others = (each == cache and key[0] != site for key, each in self._by_site.items())
        return not _telling(bytes_alloc) and any(others)

    def _named(self, name: str, bytes_req: int, bytes_alloc: int) -> int:
        if name not in self._by_name:
            cache = self._by_name[name] = self._create(name, bytes_req, bytes_alloc)
            if _telling(bytes_alloc):
                self._by_size.setdefault((bytes_req, bytes_alloc), cache)
        return self._by_name[name]

    def _create(self, name: str, bytes_req: int, bytes_alloc: int) -> int:
        config = self.machine.caches.list.config
        row = self.slabinfo.get(name)
        order = (row.pagesperslab - 1).bit_length() if row is not None else None
        order = self.slab_orders.get(name, order)
        word = config.word_bytes
        size = max(-(-max(bytes_alloc, 1) // word) * word, word)
        geometry: CacheGeometry
        try:
            if config.slub_debug != SlubDebug():
                # what the options add comes on top of the recorded size
                align = min(size & -size, config.cache_line_bytes)
                geometry = kmem_cache_open(name, min(max(bytes_req, 1), size), align, 0, config)
                if geometry.debug:
                    return self.machine.caches.add(geometry)
            geometry = geometry_from_sizes(name, min(max(bytes_req, 1), size), size, config, order=order)
        except UsageError:
            # larger than any slab: damaged sizes; the largest object that a slab can hold stands for it
            largest = config.page_bytes << 3
            geometry = geometry_from_sizes(name, largest, largest, config)
        return self.machine.caches.add(geometry)

    def failure(self, engine: ReplayEngine, kind: int, order: int, size: int, gfp: int, site: int, cache: int) -> None:
        """Take note of a refused request."""
        if self.reserve is not None and self.reserve():
            self.nr_reserved += 1
            if kind == _MM_PAGE_ALLOC:
                engine.orders_array["failures"][order * 4 + (gfp >> 3 & 3)] -= 1
                return
            engine.sites_array["failures"][site] -= 1
            if cache < len(engine.caches_array):
                engine.caches_array["failures"][cache] -= 1
            return
        self.atomic_failures += bool(gfp & _ATOMIC) and not gfp & _MAY_SLEEP
        slub, allocator = self.machine.slub, self.machine.page_alloc
        event = "mm_page_alloc" if kind == _MM_PAGE_ALLOC else "kmalloc" if kind <= 2 else "kmem_cache_alloc"
        wanted = pages_wanted(
            slub, event=event, size_bytes=size, order=order, gfp=gfp, cache=cache, node=engine.failed_node
        )
        zone, reason = why_refused(allocator, wanted)
        why = zone, wanted.order, reason
        self.failure_counts[why] += 1
        if len(self.failures) >= MAX_FAILURES and why in self.first_failures:
            return
        failure = Failure(
            time_ns=engine.time_ns,
            cpu=allocator.cpu,
            event=event,
            size_bytes=size,
            order=wanted.order,
            gfp=gfp,
            call_site=self.reader.strings.call_sites[site] if site else "",
            cache=slub.geometries[cache].name if event == "kmem_cache_alloc" and cache in slub.geometries else "",
            zone=zone,
            reason=reason,
            zones=refused_zones(allocator, wanted),
        )
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)
        if why not in self.first_failures:
            self.first_failures[why] = failure
            if len(self.failure_states) < MAX_STATES:
                self.failure_states[why] = wanted, zone_records(self.machine.memmap)


def _telling(bytes_alloc: int) -> bool:
    """Whether two call sites that get objects of this size mean the same cache: few do, unless it is a power of two."""
    return bytes_alloc & (bytes_alloc - 1) != 0


def replay(
    path: str,
    machine: Machine | None = None,
    *,
    ram: int | str | None = None,
    cpus: int | None = None,
    knobs: Mapping[str, int | tuple[int, ...]] | None = None,
    slabinfo: Mapping[str, SlabinfoRow] | None = None,
    seed: int = 0,
    cmdline: str = "",
    transform: Transform | None = None,
    slab_orders: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    keep_frames: bool = False,
    prepared: PreparedTrace | None = None,
    observe: Callable[[EventBatch], None] | None = None,
    gate: Gate | None = None,
    **options: Any,
) -> Replay:
    """Replay a trace through a modelled machine.

    Parameters
    ----------
    path : str
        Trace text, packed or plain; see :func:`kmem.trace.reader.open_trace`.
        ``-`` is standard input, which is kept in a temporary file meanwhile.
    machine : Machine, optional
        The machine to drive. Without one, the trace is looked through first
        and a machine booted that fits it.
    ram, cpus : int or str, optional
        Memory and CPUs of an inferred machine, instead of those inferred.
    knobs : mapping, optional
        Sysctls to write on an inferred machine.
    slabinfo : mapping, optional
        Rows of the recorded machine's ``/proc/slabinfo`` by cache name, for
        the slab orders of caches that the trace names.
    seed : int
        Seed of an inferred machine.
    cmdline : str
        Kernel command line of an inferred machine.
    transform : Transform, optional
        What to change about the trace's requests.
    slab_orders : mapping, optional
        Orders that the slabs of caches shall have which the trace names.
    progress : callable, optional
        Called now and then as ``progress(bytes_read, bytes_in_all or None)``;
        where the trace is looked through first, both times count.
    keep_frames : bool
        Keep what every page frame was used for at moments of the replay; costs
        O(frames) for each.
    prepared : PreparedTrace, optional
        The trace, looked through before; its options are used instead of `options`.
    observe : callable, optional
        Called with each batch as it was recorded, before it is replayed.
    gate : callable, optional
        Asked before each stretch of events how many may follow; see :class:`Replay`.
    **options
        For :func:`~kmem.trace.reader.open_trace`.

    Returns
    -------
    Replay

    Raises
    ------
    InputError
        If the trace cannot be read.
    ConfigError
        If no machine can be booted.
    """
    with readable_twice(path) as (path, name):
        if name:
            options["name"] = name
        whole = machine is None or bool(transform)
        two_passes = whole and prepared is None
        assumed: list[str] = []
        notes: list[str] = []
        look = _look(path, whole, progress, options) if prepared is None else prepared.look(whole)
        found, digits, nr_cpus = look.survey, look.pointer_digits, look.nr_cpus
        if machine is None:
            try:
                description, assumed = infer_description(
                    found, pointer_digits=digits, nr_cpus=nr_cpus, ram=ram, cpus=cpus
                )
            except InputError as error:
                raise error.at(file=name or path) from None
            description = dataclasses.replace(description, cmdline=cmdline).with_knobs(knobs or {})
            machine = Machine.boot(description, seed=seed)
        elif ram is not None or cpus is not None or knobs or cmdline:
            raise UsageError(
                "ram, cpus, knobs and cmdline are for an inferred machine", remedy="boot the machine with them"
            )
        arch, why = architecture(found, digits)
        if arch != machine.arch:
            notes.append(f"the trace was recorded on {arch} ({why}), the machine is {machine.arch}")
        seen = max(found.nr_cpus, nr_cpus)
        if seen > machine.description.cpus:
            notes.append(f"the trace has {seen} CPUs, the machine {machine.description.cpus}: they share")
        with open_trace(path, **options) if prepared is None else prepared.open(path) as reader:
            run = Replay(
                machine,
                reader,
                found,
                assumed,
                notes=notes,
                slabinfo=slabinfo or {},
                slab_orders=slab_orders or {},
                keep_frames=keep_frames,
                gate=gate,
            )
            if transform:
                run.transformer = Transformer(transform, run)
            run.run(
                page_offset=found.page_offset,
                progress=_second_half(progress) if two_passes and progress is not None else progress,
                observe=observe,
            )
    return run


def _look(path: str, whole: bool, progress: Progress | None, options: dict[str, Any]) -> Look:
    """Look through a trace, or at its first batch only."""
    with open_trace(path, **options) as reader:
        found = survey(_followed(reader, progress) if whole else itertools.islice(reader, 1))
        return Look.of(found, reader)


@contextlib.contextmanager
def readable_twice(path: str) -> Iterator[tuple[str, str]]:
    """A file with the trace, and what messages shall call it if that is not its own name."""
    if path != "-":
        yield path, ""
        return
    with tempfile.NamedTemporaryFile(prefix="kmem-", suffix=".trace") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield copy.name, "standard input"


def _followed(reader: TraceReader, progress: Progress | None) -> Iterator[EventBatch]:
    """The batches of a reader, the progress of the first of two passes being told."""
    for batch in reader:
        if progress is not None:
            done, whole = reader.progress
            progress(done, 2 * whole if whole is not None else None)
        yield batch


def _second_half(progress: Progress) -> Progress:
    def told(done: int, whole: int | None) -> None:
        progress(done if whole is None else whole + done, None if whole is None else 2 * whole)

    return told
