# SPDX-License-Identifier: GPL-2.0-only
"""Who uses the objects of a cache: ``/sys/kernel/debug/slab/NAME/alloc_traces`` and ``free_traces``.

Caches with SLAB_STORE_USER keep, behind each object, who allocated it and who
freed it last.  The files count the objects that are out by these tracks, most
frequent first.

Source: mm/slub.c:slab_debug_trace_open, add_location, slab_debugfs_show @6.1.192
Differs: places with equal counts stand in the order of their tracks, where the
kernel's heap sort leaves them in any; places are Python's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kmem.mm.slab_flags import SLAB_STORE_USER
from kmem.mm.slub_bytes import TRACK_ALLOC, TRACK_FREE, Track
from kmem.mm.slub_report import SlabView

if TYPE_CHECKING:
    from kmem.machine.machine import Machine
    from kmem.mm.slub_check import SlubChecker

__all__ = ["TRACE_FILES", "slab_traces", "traced_caches"]

#: Files, and which track each counts.
TRACE_FILES: Final = {"alloc_traces": TRACK_ALLOC, "free_traces": TRACK_FREE}


@dataclass(slots=True)
class _Location:
    """Objects with one track in common (``struct location``)."""

    count: int = 0
    ages: list[int] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    cpus: set[int] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)


def _checker(machine: Machine) -> SlubChecker:
    """Return who keeps the tracks; a machine without a kernel gets one."""
    _ = machine.kernel
    checker = machine.slub.checker
    assert checker is not None  # the kernel's making has set it
    return checker


def traced_caches(machine: Machine) -> dict[str, int]:
    """Return names and numbers of the caches that keep tracks."""
    return {
        geometry.name: machine.caches.index_of(geometry)
        for geometry in machine.caches.list.slab_caches
        if geometry.flags & SLAB_STORE_USER
    }


def _objects(machine: Machine, cache: int) -> Iterator[tuple[SlabView, int]]:
    """Yield the objects that are out, with their slabs, in the order of the nodes' lists."""
    slub = machine.slub
    layout = _checker(machine).layout(cache)
    for node in slub.dump(cache)["nodes"]:
        for pfn, free in [*((slab["pfn"], set(slab["freelist"])) for slab in node["partial"]), *_full(node)]:
            view = SlabView(slub, pfn, layout)
            for index in range(view.objects):
                if index not in free:
                    yield view, view.object(index)


def _full(node: dict[str, list[int]]) -> list[tuple[int, set[int]]]:
    return [(pfn, set()) for pfn in node["full"]]


def slab_traces(machine: Machine, cache: int, which: int) -> str:
    """Return the text of one of :data:`TRACE_FILES`.

    Parameters
    ----------
    machine : Machine
    cache : int
        Number of a cache with SLAB_STORE_USER.
    which : int
        TRACK_ALLOC or TRACK_FREE.

    Notes
    -----
    Linear in the objects of the cache.
    """
    kernel = machine.kernel
    memory = _checker(machine).memory
    found: dict[tuple[int, int, int], _Location] = {}
    for view, address in _objects(machine, cache):
        track: Track = memory.get_track(view.s, address, which)
        waste = 0
        if which == TRACK_ALLOC and view.s.has_orig_size:
            waste = view.s.object_size - memory.read_word(address + view.s.tracks_end, 4)
        location = found.setdefault((track.addr, track.handle, waste), _Location())
        if track.when or not location.count:
            location.ages.append((kernel.clock.jiffies - track.when) & memory.word_mask)
            location.pids.add(track.pid)
            location.cpus.add(track.cpu)
        location.count += 1
        location.nodes.add(int(machine.memmap.pages_array[view.pfn]["zone"]) // 5)
    if not found:
        return "No data\n"
    ordered = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
    return "".join(_line(machine, *key, location) for key, location in ordered)


def _range(numbers: set[int]) -> str:
    """Print a set of numbers as ``%*pbl`` does."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _line(machine: Machine, addr: int, handle: int, waste: int, location: _Location) -> str:
    """Print one location.

    Source: mm/slub.c:slab_debugfs_show @6.1.192
    """
    checker = _checker(machine)
    text = f"{location.count:7d} {checker.place(addr) if addr else '<not-available>'}"
    if waste:
        text += f" waste={location.count * waste}/{waste}"
    ages = location.ages
    if sum(ages) != min(ages):
        text += f" age={min(ages)}/{sum(ages) // location.count}/{max(ages)}"
    else:
        text += f" age={min(ages)}"
    low, high = min(location.pids), max(location.pids)
    text += f" pid={low}" if low == high else f" pid={low}-{high}"
    if machine.description.cpus > 1:
        text += f" cpus={_range(location.cpus)}"
    if machine.nr_nodes > 1:
        text += f" nodes={_range(location.nodes)}"
    stack = checker.stack_of(handle)
    if stack:
        text += "\n" + "".join(f"        {place}\n" for place in stack)
    return text + "\n"
