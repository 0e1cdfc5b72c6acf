# SPDX-License-Identifier: GPL-2.0-only
"""The result of a replay as one JSON value with all that the page of :mod:`kmem.report.html` draws.

It is what ``kmem replay --json`` prints, with one more key, ``page``; written
by ``kmem replay --save`` and read by ``kmem report``.  The page frames of each
moment are one byte each, packed with zlib: browsers can unpack that themselves.
"""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from kmem.analysis.lifetimes import Lifetimes
from kmem.analysis.summary import Analysis, Fallbacks
from kmem.analysis.timeline import Timeline
from kmem.errors import InputError, KmemError
from kmem.machine.memory_map import memory_map
from kmem.mm.page import KIND_NAMES
from kmem.profile import REFERENCE
from kmem.replay.frames import FIRST_CACHE, OWNERS, FrameMoment
from kmem.replay.replay import Replay
from kmem.report.replay_json import replay_to_dict

__all__ = ["read_result", "replay_result", "write_whole"]

_MOST_MOMENT_BYTES = 5 << 20  # of all moments, packed and in base64
_MOST_CACHES = 32
_MOST_SLABS = 48
_MOST_OBJECTS = 4096  # drawn of a cache
_MOST_SITES = 100  # by each of the measures
_SITE_KEYS = ("peak_alloc", "bytes_alloc", "live_alloc", "slack_bytes", "allocs", "cross_cpu_frees")
_LIFE_KEYS = ("mean_ns", "median_ns", "max_ns", "oldest_ns", "age_mean_ns")
_MOST_BINS = 256
_OTHER = 255
_NAMED = _OTHER - FIRST_CACHE  # caches that have a number of their own among the owners
_SLAB = KIND_NAMES.index("slab")
_OBJECT = 2  # Entry.kind of the engine
_TARGET = np.uint64((1 << 48) - 1)


def replay_result(
    run: Replay, analysis: Analysis, *, source: str, lifetimes: Sequence[Lifetimes] = ()
) -> dict[str, Any]:
    """Return a replay's figures with all that its page draws.

    Parameters
    ----------
    run : Replay
        Made with ``keep_frames``; else there is no map.
    analysis : Analysis
        Of `run`.
    source : str
        What to call the trace.
    lifetimes : sequence of Lifetimes, optional
        How long objects live, by call site.

    Notes
    -----
    Complexity: O(moments * frames + live objects).
    """
    result = replay_to_dict(analysis, source=source, lifetimes=lifetimes)
    _keep_largest(result)
    result["page"] = {
        "samples": _free_memory(analysis.timeline),
        "fallbacks": _fallback_bins(analysis.fallbacks, analysis),
        "map": _map(run),
        "slabs": _slabs(run),
        "address_space": _address_space(run),
    }
    return result


def _keep_largest(result: dict[str, Any]) -> None:
    """Leave out call sites that come first by none of the measures that the page can sort by."""
    sites, lives = result["call_sites"], result["lifetimes"]
    names: set[str] = set()
    for rows, keys in ((sites, _SITE_KEYS), (lives, _LIFE_KEYS)):
        for key in keys:
            names.update(row["name"] for row in sorted(rows, key=lambda row: -row[key])[:_MOST_SITES])
    result["call_sites"] = [row for row in sites if row["name"] in names]
    result["lifetimes"] = [row for row in lives if row["name"] in names]


def _free_memory(times: Timeline) -> dict[str, Any]:
    """Free pages of each zone by order and migrate type, a number for each sample; rows of zeros are left out."""
    pages = np.left_shift(times.free_blocks, np.arange(times.free_blocks.shape[2])[:, None])
    zones = []
    for i, zone in enumerate(times.zones):
        cells = [
            {"order": order, "type": mt, "pages": pages[:, i, order, mt].tolist()}
            for order, mt in np.argwhere(pages[:, i].any(axis=0)).tolist()
        ]
        zones.append({"name": str(zone), "pcp_pages": times.pcp_pages[:, i].tolist(), "free": cells})
    return {
        "time_ns": times.time_ns.tolist(),
        "events": times.events.tolist(),
        "slab_pages": times.slab_pages.tolist(),
        "failures": times.failures.tolist(),
        "fallbacks": times.fallbacks.tolist(),
        "types": [*REFERENCE.migrate_types, "CMA"][: times.free_blocks.shape[3]],
        "zones": zones,
    }


def _fallback_bins(found: Fallbacks, analysis: Analysis) -> list[dict[str, Any]]:
    """Count fallbacks by time and pair of types: at most so many times, whatever there are."""
    names = [*REFERENCE.migrate_types, "CMA"]
    width = max(1, -(-(analysis.last_ns - analysis.first_ns + 1) // _MOST_BINS))
    bins: Counter[tuple[int, int, int]] = Counter()
    for time, wanted, taken in zip(found.time_ns.tolist(), found.wanted.tolist(), found.taken.tolist(), strict=True):
        bins[max(0, time - analysis.first_ns) // width, taken, wanted] += 1
    return [
        {"time_ns": analysis.first_ns + at * width, "from": names[taken], "to": names[wanted], "count": count}
        for (at, taken, wanted), count in sorted(bins.items())
    ]


def _map(run: Replay) -> dict[str, Any] | None:
    """The film of page frames, its owners numbered so that a byte holds one."""
    if not run.moments:
        return None
    memmap = run.machine.memmap
    used = np.zeros(FIRST_CACHE + len(run.engine.caches_array) + (1 << 16), np.int64)
    for moment in run.moments:
        counts = np.bincount(moment.owners)
        used[: len(counts)] = np.maximum(used[: len(counts)], counts)
    by_use = np.argsort(-used[FIRST_CACHE:], kind="stable")[:_NAMED] + FIRST_CACHE
    caches = [each for each in by_use.tolist() if used[each]]
    table = np.full(len(used), _OTHER, np.uint8)
    table[:FIRST_CACHE] = np.arange(FIRST_CACHE)
    table[caches] = FIRST_CACHE + np.arange(len(caches))
    geometries = run.machine.slub.geometries
    names = [geometries[each - FIRST_CACHE].name if each - FIRST_CACHE in geometries else "?" for each in caches]
    return {
        "nr_frames": memmap.nr_frames,
        "page_bytes": 4096,
        "pageblock_order": memmap.pageblock_order,
        "owners": [*OWNERS, *[""] * (FIRST_CACHE - len(OWNERS)), *names],
        "first_cache": FIRST_CACHE,
        "types": [*REFERENCE.migrate_types, "CMA"],
        "zones": [
            {
                "name": memmap.zone_name(index),
                "node": int(memmap.zones_array[index]["node"]),
                "start": int(memmap.zones_array[index]["start_pfn"]),
                "end": int(memmap.zones_array[index]["start_pfn"]) + int(memmap.zones_array[index]["spanned"]),
            }
            for index in np.flatnonzero(memmap.zones_array["managed"]).tolist()
        ],
        "moments": _packed(run.moments, table),
    }


def _packed(moments: Sequence[FrameMoment], table: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Pack moments; leave out every second one until all together are small enough, the last one staying."""
    packed = [
        {
            "time_ns": each.time_ns,
            "events": each.events,
            "frames": base64.b64encode(zlib.compress(table[each.owners].tobytes())).decode(),
            "types": base64.b64encode(zlib.compress(each.types.tobytes())).decode(),
        }
        for each in moments
    ]
    while len(packed) > 1 and sum(len(str(each["frames"])) for each in packed) > _MOST_MOMENT_BYTES:
        packed = packed[::-2][::-1]
    return packed


def _slabs(run: Replay) -> list[dict[str, Any]]:
    """The largest caches, each with its emptiest slabs, and for each object its call site or -1."""
    slub, memmap = run.machine.slub, run.machine.memmap
    pages = memmap.pages_array[: memmap.nr_frames]
    heads = np.flatnonzero(pages["kind"] == _SLAB)
    caches = pages["cache"][heads]
    entries = run.engine.objects.array
    entries = entries[entries["kind"] == _OBJECT]
    addresses = (entries["target"] & _TARGET).astype(np.int64)
    names = run.reader.strings.call_sites
    numbers, counts = np.unique(caches, return_counts=True)
    shown = []
    for cache in numbers[np.argsort(-counts, kind="stable")][:_MOST_CACHES].tolist():
        geometry = slub.geometries[cache]
        mine = heads[caches == cache]
        most = max(1, min(_MOST_SLABS, _MOST_OBJECTS // max(1, geometry.objects)))
        own = np.flatnonzero(entries["cache"] == cache)
        own = own[np.argsort(addresses[own], kind="stable")]
        places, sites = addresses[own], entries["site"][own]
        bounds = np.searchsorted(places, [mine << 12, (mine << 12) + pages["objects"][mine] * np.int64(geometry.size)])
        emptiest = np.argsort(bounds[1] - bounds[0], kind="stable")[:most]
        slabs: list[dict[str, Any]] = []
        for at in np.sort(emptiest).tolist():
            head, inside = int(mine[at]), slice(int(bounds[0, at]), int(bounds[1, at]))
            holders = [-1] * int(pages["objects"][head])
            for place, site in zip(places[inside].tolist(), sites[inside].tolist(), strict=True):
                holders[(place - (head << 12)) // geometry.size] = site
            slabs.append({"pfn": head, "cpu": bool(pages["frozen"][head]), "objects": holders})
        drawn = {site for slab in slabs for site in slab["objects"] if site > 0}
        shown.append(
            {
                "name": geometry.name,
                "size_bytes": geometry.size,
                "order": geometry.order,
                "slabs": len(mine),
                "shown": slabs,
                "sites": {str(site): names[site] for site in sorted(drawn)},
            }
        )
    return shown


def _address_space(run: Replay) -> dict[str, Any] | None:
    """The map of addresses; None for a machine that has none to show. Makes the machine's kernel: comes last."""
    try:
        return memory_map(run.machine).as_dict()
    except KmemError:
        return None


def read_result(path: Path) -> dict[str, Any]:
    """Read what ``kmem replay --save`` or ``kmem replay --json`` wrote.

    Raises
    ------
    InputError
        It cannot be read, or is something else.
    """
    try:
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error}", file=path, remedy="give what kmem replay --save wrote") from None
    needed = {"trace": str, "machine": dict, "call_sites": list, "caches": list, "zones": list, "samples": dict}
    lists = ("failure_list", "failures_by_reason", "lifetimes")
    if (
        not isinstance(value, dict)
        or any(not isinstance(value.get(key), kind) for key, kind in needed.items())
        or any(not isinstance(value.get(key, []), list) for key in lists)
    ):
        raise InputError("is not the result of a replay", file=path, remedy="give what kmem replay --save wrote")
    return value


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when it is complete.

    Raises
    ------
    InputError
        It cannot be written.
    """
    name = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            name = file.name
            file.write(data)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
        os.replace(name, path)
    except BaseException as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        if isinstance(error, OSError):
            raise InputError(f"cannot be written: {error.strerror or error}", file=path) from None
        raise
