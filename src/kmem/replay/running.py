# SPDX-License-Identifier: GPL-2.0-only
"""Replay on a machine that was running already: from ``/proc`` before to ``/proc`` after.

Copies of ``/proc`` files, taken before a trace, say how much was free and how many
slabs there were.  The model is given that state (:mod:`kmem.machine.running`),
completed by what the trace tells of it (:mod:`kmem.replay.before`), and then gets
the requests of the trace.  What is freed without having been allocated in the trace is
freed from what was there before.  :func:`measure_running` compares the end with copies
that were taken after the trace.

Neither frames nor addresses can be compared: where things lay is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kmem.machine.folder import LIVE_FOLDER, describe_folder, describe_live
from kmem.machine.machine import Machine
from kmem.machine.running import RunningState, StateFiles, read_state, start_running
from kmem.machine.slabinfo import SlabinfoRow
from kmem.machine.views import ZoneView
from kmem.mm.hooks import Hooks
from kmem.mm.page_alloc import PF_MEMALLOC
from kmem.replay.before import BulkRequest, PriorState
from kmem.replay.engine import ReplayEngine
from kmem.replay.fidelity import Fidelity
from kmem.replay.infer import Survey, architecture, survey
from kmem.replay.replay import Progress, Replay, readable_twice
from kmem.trace.events import EventBatch
from kmem.trace.reader import open_trace

__all__ = ["RunningMachine", "measure_running", "replay_running"]

_PAGE_SHIFT = 12
_MANY = 1 << 62
_NO_FRAME = 1 << 44


class _RecordedReclaim(Hooks):
    """Reclaim that is in the trace: what it freed stands there, before the request that waited for it.

    kswapd's rounds end at once, so that no zone keeps its watermark boost.
    """

    def __init__(self, machine: Machine) -> None:
        self.zones = machine.memmap.zones_array
        # whoever has reclaimed needs no watermark: in the trace the request was granted
        machine.page_alloc.task_flags = PF_MEMALLOC

    def wakeup_kswapd(self, zone: int, gfp: int, order: int, highest_zoneidx: int) -> None:
        """Take the boost back, as kswapd does when its round ends."""
        self.zones["watermark_boost"][:] = 0


class RunningMachine:
    """What there was before a trace, and what happens without an event, for a :class:`~kmem.replay.replay.Replay`.

    Attributes
    ----------
    state : RunningState
        Where things lie in the model.
    known : PriorState
        What the trace tells.
    bulk_pages, moved : int
        Pages taken for requests without an event, and changes of names of moved pages.
    unplaced : int
        Objects in use before that the model has no place for.
    """

    def __init__(self, machine: Machine, files: StateFiles, known: PriorState) -> None:
        self.machine = machine
        self.known = known
        self.rows = files.caches
        self.names = known.resolve(files.caches)
        self.state: RunningState = start_running(machine, files, blocks=known.blocks, slabs=known.slabs(files.caches))
        machine.hooks = _RecordedReclaim(machine)
        self.bulk_pages = 0
        self.unplaced = 0
        self.moved = 0
        self._timeline = _timeline(known)
        self._next = 0

    def begin(self, engine: ReplayEngine) -> None:
        """Tell the engine of blocks, slabs and objects that were there before the trace."""
        for pfn, order in self.known.blocks.items():
            if pfn in self.state.blocks:
                engine.adopt_block(pfn, self.state.blocks[pfn], order)
        for pfn in sorted(self.known.slab_frees):
            engine.adopt_slab(pfn, 0)
        spare = {name: self._spare_objects(name) for name in self.state.full}
        for pointer, name in self.known.objects(self.rows).items():
            index = self.machine.caches.find(name)
            address = self._address(pointer, name) if self.known.page_offset else next(spare.get(name, iter(())), None)
            if index is None or address is None:
                self.unplaced += 1
            else:
                engine.adopt_object(pointer, address, index, self.rows[name].objsize)
        self._count_the_rest(engine)
        self.after_events(engine)

    def _count_the_rest(self, engine: ReplayEngine) -> None:
        """Count objects in use that the trace does not mention."""
        for name, in_use in self.state.in_use.items():
            index = self.machine.caches.find(name)
            assert index is not None
            engine.reserve(0, 0, index + 1)
            usage = engine.caches_array[index : index + 1]
            rest = max(in_use - int(usage["live"][0]), 0)
            size = self.rows[name].objsize
            for key, unit in (("live", 1), ("live_req", size), ("live_alloc", size)):
                usage[key] += rest * unit
            usage["peak"], usage["peak_alloc"] = usage["live"], usage["live_alloc"]

    def _address(self, pointer: int, name: str) -> int | None:
        """Physical address in the model of an object that was in use before."""
        row = self.rows[name]
        frame = (pointer - self.known.page_offset) >> _PAGE_SHIFT
        head = frame >> row.order << row.order
        at = self.state.slabs.get((name, head))
        offset = pointer - self.known.page_offset - (head << _PAGE_SHIFT)
        if at is None or offset % row.objsize or offset // row.objsize >= row.objperslab:
            return None
        return (at << _PAGE_SHIFT) + offset

    def _spare_objects(self, name: str) -> Any:
        row = self.rows[name]
        for frame in self.state.full[name]:
            for number in range(row.objperslab):
                yield (frame << _PAGE_SHIFT) + number * row.objsize

    def events_left(self, engine: ReplayEngine) -> int:
        """Events until something happens that has none."""
        if self._next == len(self._timeline):
            return _MANY
        return max(1, self._timeline[self._next][0] - engine.nr_events)

    def after_events(self, engine: ReplayEngine) -> None:
        """Do what happens before the next event: bulk requests, and pages that move."""
        while self._next < len(self._timeline) and self._timeline[self._next][0] <= engine.nr_events:
            what = self._timeline[self._next][1]
            self._next += 1
            if isinstance(what, BulkRequest):
                count = min(what.count, engine.allocator.memmap.nr_frames)
                pages = engine.allocator.alloc_pages_bulk(what.gfp, count)
                self.bulk_pages += len(pages)
                for frame, pfn in zip(what.frames, pages, strict=False):
                    engine.adopt_block(frame, pfn, 0)
            else:
                self.moved += engine.rename_block(*what)


def _timeline(known: PriorState) -> list[tuple[int, BulkRequest | tuple[int, int]]]:
    """What happens without an event, each before the event of a number: bulk requests, and frames that change names.

    Between its two frames a moved page has a name that no frame has.
    """
    found: list[tuple[int, BulkRequest | tuple[int, int]]] = [(each.after + 1, each) for each in known.bulk]
    for number, move in enumerate(known.moves):
        found.append((move.at, (move.source, _NO_FRAME + number)))
        if move.freed >= 0:
            found.append((move.freed, (_NO_FRAME + number, move.target)))
    return sorted(found, key=lambda each: each[0])


def replay_running(
    trace: str,
    folder: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    keep_frames: bool = False,
    observe: Callable[[EventBatch], None] | None = None,
    **options: Any,
) -> Replay:
    """Replay a trace on the machine whose ``/proc`` files a folder holds, from the state that they show.

    Parameters
    ----------
    trace : str
        As for :func:`kmem.replay.replay.replay`.
    folder : Path
        Copies of ``/proc`` files; see :mod:`kmem.machine.running`.
    seed : int
        Seed of everything random.
    progress : callable, optional
        Called with bytes read and in all.
    keep_frames, observe
        As for :func:`kmem.replay.replay.replay`.
    **options
        For :func:`~kmem.trace.reader.open_trace`.

    Returns
    -------
    Replay
        Its `prior` is a :class:`RunningMachine`.

    Raises
    ------
    InputError, ConfigError
        If a file is damaged, says too little, or contradicts another.

    Notes
    -----
    The trace is read three times. Complexity: O(events + frames).
    """
    files = read_state(folder)
    description, assumed = describe_live() if folder == LIVE_FOLDER else describe_folder(folder)
    with readable_twice(trace) as (path, name):
        if name:
            options["name"] = name
        with open_trace(path, **options) as reader:
            found = survey(reader)
            digits, nr_cpus = reader.pointer_digits, reader.nr_cpus
        machine = Machine.boot(description, seed=seed)
        known = PriorState(found.page_offset, machine.caches.list.config, machine.memmap.nr_frames)
        with open_trace(path, **options) as reader:
            for batch in reader:
                known.add(batch)
        prior = RunningMachine(machine, files, known)
        for (site, requested, given), cache in prior.names.items():
            found.cache_names.setdefault((site, requested, given), cache)
        with open_trace(path, **options) as reader:
            run = Replay(
                machine,
                reader,
                found,
                [*assumed, *prior.state.assumed],
                notes=_notes(machine, found, digits, nr_cpus),
                slabinfo=files.caches,
                keep_frames=keep_frames,
                prior=prior,
            )
            run.run(page_offset=found.page_offset, progress=progress, observe=observe)
    return run


def _notes(machine: Machine, found: Survey, digits: int, nr_cpus: int) -> list[str]:
    """Where trace and machine do not go together."""
    notes = []
    arch, why = architecture(found, digits)
    if arch != machine.arch:
        notes.append(f"the trace was recorded on {arch} ({why}), the machine is {machine.arch}")
    seen = max(found.nr_cpus, nr_cpus)
    if seen > machine.description.cpus:
        notes.append(f"the trace has {seen} CPUs, the machine {machine.description.cpus}: they share")
    if not found.page_offset:
        notes.append("pointers are hashed or their place is not known: slabs that objects were freed from are guessed")
    return notes


def measure_running(
    trace: str, before: Path, after: Path, *, seed: int = 0, progress: Progress | None = None, **options: Any
) -> Fidelity:
    """Replay a trace between two sets of ``/proc`` files, and compare the ends.

    Parameters
    ----------
    trace : str
    before, after : Path
        Folders with copies of ``/proc`` files, taken before and after the trace.
    seed, progress, options
        As for :func:`replay_running`.

    Returns
    -------
    Fidelity
        Without frames and objects; `divergences` are moved pages, and frees of what the model does not have.

    Raises
    ------
    InputError, ConfigError
        As :func:`replay_running`.
    """
    real = read_state(after)
    run = replay_running(trace, before, seed=seed, progress=progress, **options)
    assert isinstance(run.prior, RunningMachine)
    out = Fidelity()
    out.notes += [f"assumed: {text}" for text in run.assumed]
    out.notes += run.notes
    out.notes.append("frames and addresses are not compared: /proc does not say where anything lies")
    _count(run, run.prior, out)
    _compare_zones(run.machine, real, out)
    _compare_caches(run.machine, real.caches, out)
    return out


def _count(run: Replay, prior: RunningMachine, out: Fidelity) -> None:
    """Count what was inferred, and frees of what the model does not have."""
    engine = run.engine
    # a moved page is freed twice, where it was and where it came to be
    moved = min(sum(move.target >= 0 for move in prior.known.moves), prior.known.hidden_frees)
    unknown_pages = max(engine.nr_unknown_page_frees - len(prior.known.moves), 0)
    pages = min(prior.known.hidden_frees - moved, unknown_pages)
    objects = min(prior.known.hidden_objects.total(), engine.nr_unknown_frees)
    out.divergences["bulk"] = pages + objects
    out.divergences["compaction"] = len(prior.known.moves)
    out.divergences["unknown"] = unknown_pages - pages + engine.nr_unknown_frees - objects
    if prior.unplaced:
        out.notes.append(
            f"{prior.unplaced} objects freed were in use before, and lay in more slabs than slabinfo counts: not freed"
        )
    out.bulk_pages = prior.bulk_pages
    out.named_by_pointer = len(prior.names)


def _compare_zones(machine: Machine, real: StateFiles, out: Fidelity) -> None:
    modelled = {(zone.node, zone.name): zone for zone in machine.view().zones}
    for zone in real.view.zones:
        model = modelled.get((zone.node, zone.name))
        if model is None or not model.managed:
            if zone.nr_free or zone.free_pages:
                out.notes.append(f"zone {zone.name} of node {zone.node} is only in the files taken afterwards")
            continue
        if not (zone.nr_free or zone.present):
            continue
        listed = [_listed(each) for each in (model, zone)]
        per_cpu = [sum(pageset.count for pageset in each.pagesets) for each in (model, zone)]
        free = [listed[0] + per_cpu[0], listed[1] + per_cpu[1]]
        if not zone.pagesets:  # no zoneinfo: free lists only
            free = listed
        row: dict[str, object] = {
            "zone": zone.name,
            "node": zone.node,
            "free_pages": _pair(free[0], free[1]),
            "difference_percent": _percent(free[0], free[1]),
            "pcp_pages": _pair(per_cpu[0], per_cpu[1] if zone.pagesets else None),
            "free_blocks": {"modelled": list(model.nr_free), "real": list(zone.nr_free)},
        }
        out.zones.append(row)


def _compare_caches(machine: Machine, rows: Mapping[str, SlabinfoRow], out: Fidelity) -> None:
    if not rows:
        out.notes.append("caches are not compared: no slabinfo among the files taken afterwards")
        return
    view = {cache.name: cache for cache in reversed(machine.view().caches)}
    model_pages = real_pages = 0
    for name, row in sorted(rows.items()):
        real_pages += row.num_slabs * row.pagesperslab
        model = view.get(name)
        if model is None:
            continue
        out.caches.append(
            {
                "cache": name,
                "slabs": _pair(model.num_slabs, row.num_slabs),
                "objects": _pair(model.active_objs, row.active_objs),
                "difference_percent": _percent(model.num_slabs, row.num_slabs),
                "bytes": row.num_slabs * row.pagesperslab << _PAGE_SHIFT,
            }
        )
    extra = [cache for name, cache in view.items() if name not in rows and cache.num_slabs]
    model_pages = sum(cache.num_slabs * cache.pagesperslab for cache in view.values())
    out.slab_pages = {"modelled": model_pages, "real": real_pages}
    if extra:
        pages = sum(cache.num_slabs * cache.pagesperslab for cache in extra)
        out.notes.append(f"{len(extra)} caches of unknown name, with {pages} pages, are not in slabinfo")


def _listed(zone: ZoneView) -> int:
    return sum(count << order for order, count in enumerate(zone.nr_free)) or zone.free_pages


def _pair(modelled: int, real: int | None) -> dict[str, int | None]:
    return {"modelled": modelled, "real": real}


def _percent(modelled: int, real: int) -> float | None:
    """Difference in percent of the real number; None if that is 0."""
    return round(100 * (modelled - real) / real, 3) if real else None
