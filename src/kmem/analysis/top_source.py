# SPDX-License-Identifier: GPL-2.0-only
"""Where ``kmem top`` gets its looks from: ``/proc``, a folder with copies of it, or a replay that goes on meanwhile.

:class:`ReplaySource` replays in a thread of its own.  The replay asks it
before each stretch of events how many may follow; there it waits while the
replay is paused, and there the looks are taken, so that nobody ever sees the
machine in the middle of a request.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from lzma import LZMAError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from zstandard import ZstdError

from kmem.analysis.top import CALL_SITES, VMALLOC_CALLERS, CacheRow, Look, SiteRow, TraceClock, ZoneRow
from kmem.errors import InputError
from kmem.machine.observe import view_caches
from kmem.machine.proc import parse_buddyinfo, parse_vmallocinfo, parse_zoneinfo
from kmem.machine.records import open_recording
from kmem.machine.slabinfo import SlabinfoRow, slabinfo_rows
from kmem.machine.views import CacheView, VmallocView, ZoneView

if TYPE_CHECKING:
    from kmem.mm.mmzone import MemMap
    from kmem.replay.replay import Replay
    from kmem.replay.variant import Variant

__all__ = ["ProcSource", "ReplaySource", "look_at_replay"]

_T = TypeVar("_T")

_MAX_BYTES = 1 << 28
_STRETCH = 8192  #: events between two questions whether the replay may go on: a few milliseconds
_BATCH = 16384  #: events read at a time, for the same reason
_SHARE = 4  #: looks take no more than a fifth of the time
_TRIES = 3  #: to read a file of a kernel at work
_HIDDEN = "this kernel, or the container that this runs in, does not show it"
_ROOT = 'only root may read it; run sudo "$(command -v kmem)" top'


class ProcSource:
    """The files ``slabinfo``, ``buddyinfo``, ``zoneinfo`` and ``vmallocinfo`` of a folder.

    Parameters
    ----------
    folder : Path
        Holds any of the files, plain or packed; names may end in ``.txt``.
    live : bool
        Whether it is this machine's ``/proc``: what only root may read is left
        out then, and said.
    page_bytes : int
        Size of a page.

    Raises
    ------
    InputError
        There is no such folder.
    """

    def __init__(self, folder: Path, *, live: bool = False, page_bytes: int = 4096) -> None:
        if not folder.is_dir():
            raise InputError("no such folder", file=folder)
        self.folder = folder
        self.live = live
        self.page_bytes = page_bytes

    def look(self) -> Look:
        """Read the files.

        Returns
        -------
        Look
            Without what there is no file for; `Look.missing` says so.

        Raises
        ------
        InputError
            None of the files can be read, or one is damaged.
        """
        missing: list[str] = []
        caches = self._file("slabinfo", lambda text: slabinfo_rows(text, page_bytes=self.page_bytes), missing)
        buddy = self._file("buddyinfo", parse_buddyinfo, missing)
        zones: tuple[ZoneView, ...] | None
        try:
            nodes = self._file("zoneinfo", parse_zoneinfo, [])
        except InputError:
            if not self.live:
                raise
            nodes = None  # of a kernel with other lines; buddyinfo will do
        zones = tuple(zone for node in nodes for zone in node.zones if zone.populated) if nodes else None
        areas = self._file("vmallocinfo", parse_vmallocinfo, missing)
        if caches is None and buddy is None and zones is None and areas is None:
            raise InputError(
                "no slabinfo, buddyinfo, zoneinfo or vmallocinfo that can be read",
                file=self.folder,
                remedy="name a folder with copies of these files of /proc",
            )
        return Look(
            source=str(self.folder),
            caches=tuple(self._cache(row) for row in caches or ()),
            zones=_zones(zones, buddy),
            sites=_callers(areas or ()),
            sites_are=VMALLOC_CALLERS,
            missing=tuple(missing),
        )

    def _file(self, name: str, parse: Callable[[str], _T], missing: list[str]) -> _T | None:
        """Parse a file; a kernel that counts while memory is at work may contradict itself: it is asked again."""
        for _ in range(_TRIES - 1 if self.live else 0):
            with contextlib.suppress(InputError):
                return self._file_once(name, parse, missing)
        return self._file_once(name, parse, missing)

    def _file_once(self, name: str, parse: Callable[[str], _T], missing: list[str]) -> _T | None:
        """Parse a file; None if there is none, or none that may be read, with a line in `missing`."""
        path = self.folder / name
        if not path.is_file():
            path = self.folder / f"{name}.txt"
        if not path.is_file():
            missing.append(f"{self.folder / name}: {_HIDDEN if self.live else 'no such file'}")
            return None
        try:
            with open_recording(path) as stream:
                data = stream.read(_MAX_BYTES + 1)
        except PermissionError:
            missing.append(f"{path}: {_ROOT if self.live else 'may not be read'}")
            return None
        except (OSError, EOFError, zlib.error, LZMAError, ZstdError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot be read: {reason}", file=path, remedy="copy it again") from None
        if len(data) > _MAX_BYTES:
            raise InputError(f"more than {_MAX_BYTES >> 20} MiB", file=path, remedy=f"copy /proc/{name} there")
        try:
            return parse(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError("not text", file=path, byte=error.start, remedy=f"copy /proc/{name} there") from None
        except InputError as error:
            if error.remedy is None:
                error.remedy = f"copy /proc/{name} again"
            raise error.at(file=path) from None

    def _cache(self, row: SlabinfoRow) -> CacheRow:
        return CacheRow(
            row.name,
            row.active_objs,
            row.num_objs,
            row.objsize,
            row.objperslab,
            row.pagesperslab,
            row.active_slabs,
            row.num_slabs,
            self.page_bytes,
        )


def _zones(zones: tuple[ZoneView, ...] | None, buddy: tuple[ZoneView, ...] | None) -> tuple[ZoneRow, ...]:
    """Zones of zoneinfo, with the free blocks of buddyinfo; of one of the two if the other is missing."""
    blocks = {(zone.node, zone.name): zone.nr_free for zone in buddy or ()}
    if zones is None:
        return tuple(
            ZoneRow(zone.node, zone.name, sum(count << order for order, count in enumerate(zone.nr_free)), zone.nr_free)
            for zone in buddy or ()
        )
    return tuple(
        ZoneRow(
            zone.node,
            zone.name,
            zone.free_pages,
            blocks.get((zone.node, zone.name), ()),
            zone.managed,
            zone.min,
            zone.low,
            zone.high,
            sum(pageset.count for pageset in zone.pagesets),
        )
        for zone in zones
    )


def _callers(areas: tuple[VmallocView, ...]) -> tuple[SiteRow, ...]:
    """Areas put together by who made them and what they are, those with most bytes first."""
    sums: dict[tuple[str, str], list[int]] = {}
    for area in areas:
        who = (area.caller, area.kind) if area.caller else (f"({area.kind or 'unknown'})", "")
        entry = sums.setdefault(who, [0, 0, 0])
        entry[0] += area.size_bytes
        entry[1] += 1
        entry[2] += area.pages
    rows = [SiteRow(name, entry[0], entry[1], pages=entry[2], kind=kind) for (name, kind), entry in sums.items()]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.name, row.kind)))


def look_at_replay(run: Replay, source: str, clock: TraceClock | None = None) -> Look:
    """Look at the machine of a replay, between two of its events.

    Parameters
    ----------
    run : Replay
        Under way, or at its end.
    source : str
        What to call it.
    clock : TraceClock, optional
        How far it has come; the end, if omitted.

    Returns
    -------
    Look
        Caches are those that ``/proc/slabinfo`` of the machine would list.
        O(zones, caches, call sites, slabs on partial lists).
    """
    from kmem.analysis.usage import site_usage

    engine, machine = run.engine, run.machine
    if clock is None:
        clock = TraceClock(
            "ended",
            engine.nr_events,
            engine.nr_requests,
            engine.nr_failures,
            max(0, run.last_ns - run.first_ns),
            1.0,
        )
    sites = [
        SiteRow(
            usage.name or "(not named)",
            usage.live_alloc,
            usage.live,
            allocs=usage.allocs,
            failures=usage.failures,
            asked=usage.live_req,
            peak=usage.peak_alloc,
        )
        for usage in site_usage(run)
    ]
    return Look(
        source=source,
        caches=tuple(_modelled(view) for view in view_caches(machine.slub)),
        zones=_modelled_zones(machine.memmap),
        sites=tuple(sorted(sites, key=lambda row: -row.bytes)),
        sites_are=CALL_SITES,
        clock=clock,
    )


def _modelled(view: CacheView) -> CacheRow:
    return CacheRow(
        view.name,
        view.active_objs,
        view.num_objs,
        view.size_bytes,
        view.objperslab,
        view.pagesperslab,
        view.active_slabs,
        view.num_slabs,
    )


def _modelled_zones(memmap: MemMap) -> tuple[ZoneRow, ...]:
    """Zones of a machine at work: what costs no walk through lists or frames."""
    zones = memmap.zones_array
    pcp = memmap.pagesets_array["count"].reshape(memmap.nr_zones, memmap.nr_cpus).sum(axis=1, dtype=np.int64)
    rows = []
    for index in map(int, np.flatnonzero(zones["managed"])):
        zone = zones[index]
        boost = int(zone["watermark_boost"])
        least, low, high = (int(mark) + boost for mark in zone["watermark"][:3])
        nr_free = tuple(int(count) for count in zone["nr_free"])
        rows.append(
            ZoneRow(
                int(zone["node"]),
                memmap.zone_name(index),
                sum(count << order for order, count in enumerate(nr_free)),
                nr_free,
                int(zone["managed"]),
                least,
                low,
                high,
                int(pcp[index]),
            )
        )
    return tuple(rows)


class _Stopped(Exception):
    """The replay shall not go on."""


class ReplaySource:
    """A replay under way, and the latest look at it.

    Parameters
    ----------
    trace : str
        The trace.
    variant : Variant
        Machine and settings.
    delay_s : float
        Seconds between two looks while it runs.
    speed : float, optional
        How many times as fast as recorded; as fast as possible if omitted.
    paused : bool
        Stop before the first event.
    slabinfo : mapping of str to SlabinfoRow, optional
    seed : int
    **options
        For :func:`kmem.trace.reader.open_trace`.

    Attributes
    ----------
    latest : Look
        The latest look; replaced as a whole, so it can be read from any thread.
    error : Exception or None
        What ended the replay before its time.
    run : Replay or None
        The replay itself. Only for the thread that replays, until it has ended.
    """

    def __init__(
        self,
        trace: str,
        variant: Variant,
        *,
        delay_s: float = 1.0,
        speed: float | None = None,
        paused: bool = False,
        slabinfo: Mapping[str, SlabinfoRow] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.trace = trace
        self.variant = variant
        self.delay_s = delay_s
        self.options: dict[str, Any] = {"slabinfo": slabinfo, "seed": seed, "batch_events": _BATCH, **options}
        self.latest = Look(trace, sites_are=CALL_SITES, clock=TraceClock("reading", speed=speed))
        self.error: Exception | None = None
        self.run: Replay | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._paused = paused
        self._here = 0
        self._until = 0  # a step goes on up to this number of events
        self._wanted = False
        self._stopped = False
        self._speed = speed
        self._anchor: tuple[float, int] | None = None  # seconds of the clock, and the time of the trace then
        self._due_s = 0.0
        self._way_until_s = 0.0
        self._two_passes = variant.machine is None or bool(variant.transform)
        self._done: float | None = None

    # What the screen asks, in its own thread

    def start(self) -> None:
        """Begin the replay in a thread of its own."""
        self._thread = threading.Thread(target=self._replay, name="kmem-top-replay", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the replay where it is, and wait for its thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False if it has not come in time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    @property
    def paused(self) -> bool:
        """Whether the replay waits, or will before its next stretch of events."""
        return self._paused

    @property
    def speed(self) -> float | None:
        """How many times as fast as recorded; None is as fast as possible."""
        return self._speed

    def set_speed(self, speed: float | None) -> None:
        """Go on at another speed."""
        with self._changed:
            self._speed, self._anchor = speed, None
            self._changed.notify_all()

    def pause(self, paused: bool = True) -> None:
        """Let the replay wait, or go on."""
        with self._changed:
            self._paused, self._anchor, self._until = paused, None, 0
            self._changed.notify_all()

    def step(self, events: int) -> None:
        """Replay so many events, and wait again."""
        with self._changed:
            self._until = max(self._until if self._paused else 0, self._here) + events
            self._paused, self._anchor = True, None
            self._changed.notify_all()

    def want(self) -> None:
        """Ask for a look as soon as possible."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def give_way(self, seconds: float) -> None:
        """Leave the processor to the screen for so long: it draws in many small steps, each of which would wait."""
        self._way_until_s = time.monotonic() + seconds

    # What happens in the thread that replays

    def _replay(self) -> None:
        try:
            run = self.variant.replay(self.trace, progress=self._progress, gate=self._gate, **self.options)
            self.run, self._done = run, 1.0
            self._take(run, "ended")
        except _Stopped:
            pass
        except Exception as error:
            self.error = error

    def _progress(self, done: int, whole: int | None) -> None:
        self._done = min(1.0, done / whole) if whole else None
        if self._done is not None and self._two_passes:  # of which this is the first or the second half
            self._done = min(1.0, 2 * self._done) if self.run is None else max(0.0, 2 * self._done - 1)
        if self._stopped:
            raise _Stopped
        time.sleep(max(0.0, self._way_until_s - time.monotonic()))
        if self.run is None:
            self.latest = Look(
                self.trace, sites_are=CALL_SITES, clock=TraceClock("reading", done=self._done, speed=self._speed)
            )

    def _gate(self, run: Replay, time_ns: npt.NDArray[np.int64]) -> int:
        """How many of the next events may be replayed now; waits while none may.

        Parameters
        ----------
        run : Replay
        time_ns : ndarray of int64
            Times of the next events, one at least.
        """
        self.run = run
        here = run.engine.nr_events
        with self._changed:
            self._here = here
            while True:
                if self._stopped:
                    raise _Stopped
                now_s = time.monotonic()
                waits = self._paused and here >= self._until
                if self._wanted or now_s >= self._due_s or (waits and self._stale(here)):
                    self._take(run, "paused" if self._paused else "replaying")
                if waits:
                    self._changed.wait()
                elif now_s < self._way_until_s:
                    self._changed.wait(self._way_until_s - now_s)
                elif self._paused:
                    return min(self._until - here, _STRETCH)
                elif self._speed is None:
                    return _STRETCH
                else:
                    ready, wait_s = self._ready(time_ns[:_STRETCH])
                    if ready:
                        return ready
                    self._changed.wait(max(0.001, min(wait_s, self._due_s - time.monotonic())))

    def _stale(self, events: int) -> bool:
        clock = self.latest.clock
        return clock is None or clock.state != "paused" or clock.events != events

    def _ready(self, time_ns: npt.NDArray[np.int64]) -> tuple[int, float]:
        """How many events are due by the clock, and how long it is until the next one is."""
        assert self._speed is not None
        now_s = time.monotonic()
        if self._anchor is None:
            self._anchor = now_s, int(time_ns[0])
        begun_s, begun_ns = self._anchor
        due_ns = begun_ns + (now_s - begun_s) * 1e9 * self._speed
        late = np.flatnonzero(time_ns > due_ns)
        if not len(late):
            return len(time_ns), 0.0
        return int(late[0]), float(time_ns[0] - due_ns) / 1e9 / self._speed

    def _take(self, run: Replay, state: str) -> None:
        """Take a look, and decide when the next one is due."""
        begun_s = time.monotonic()
        engine = run.engine
        if self._two_passes and not self.variant.transform and run.survey.events and state != "ended":
            self._done = min(1.0, engine.nr_events / run.survey.events)  # the file is read further than that
        clock = TraceClock(
            state,
            engine.nr_events,
            engine.nr_requests,
            engine.nr_failures,
            max(0, engine.time_ns - run.first_ns) if engine.nr_events else 0,
            self._done,
            self._speed,
        )
        self.latest = look_at_replay(run, self.trace, clock)
        self._wanted = False
        now_s = time.monotonic()
        self._due_s = now_s + max(self.delay_s, _SHARE * (now_s - begun_s))
