# SPDX-License-Identifier: GPL-2.0-only
"""A machine in the state that copies of ``/proc`` files show.

The files count; they do not say where anything lies.  What they leave open is
made up in one fixed way, and said:

======================= ===============================================================
what there is           what is made of it
======================= ===============================================================
``pagetypeinfo``        that many free blocks of each order and migrate type, and page
                        blocks of each type, laid out by :mod:`kmem.machine.placement`
``buddyinfo`` only      the same; blocks of at least a page block are movable, of smaller
                        ones each type has a third
``zoneinfo`` only       its free pages in the largest blocks that they fill, all movable
``zoneinfo``            watermarks, reserves, page sets; pages of a per-CPU list are
                        single ones, half of them unmovable, half movable
no ``zoneinfo``         per-CPU lists are empty
``slabinfo``            that many slabs of each cache. Free objects that it shows lie on
                        the node's partial list, in slabs that are half full; all other
                        slabs are full, but for what the caller knows better
no ``slabinfo``         caches have no slabs
``kpageflags``          free blocks lie where it shows them; frames on reclaim's lists
                        count as movable when page blocks are stolen
``slab/NAME/``          (also ``sys-kernel-slab``) sizes and limits of the caches
======================= ===============================================================

The caller may know frames and objects that were in use, or slabs that had free
objects; they lie where they really lay.  Everything else in use is somebody's whom
the model does not know: blocks that nobody frees.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kmem.errors import InputError, KmemError
from kmem.machine.kpageflags import KPF_LRU, free_blocks, read_kpageflags
from kmem.machine.machine import Machine
from kmem.machine.placement import Holes
from kmem.machine.proc import read_proc_folder
from kmem.machine.slabinfo import SlabinfoRow, read_slabinfo
from kmem.machine.statedump import link_list
from kmem.machine.views import MachineView, ZoneView
from kmem.mm.page import KIND_NAMES
from kmem.mm.slab_common import CacheGeometry, geometry_from_sizes
from kmem.mm.slub_state import adopt_full_slab, restore_cache

__all__ = ["KnownSlab", "RunningState", "StateFiles", "read_state", "start_running"]

_NR_ORDERS = 11
_NR_TYPES = 6
_MOST_PAGES = (1 << 31) - 1
_MOVABLE = 1
_LRU_FLAG = 1  # kmem.mm.page.PGF_LRU
_BUDDY, _PCP, _ALLOCATED = (KIND_NAMES.index(name) for name in ("buddy", "pcp", "allocated"))
_TYPES = {"Unmovable": 0, "Movable": 1, "Reclaimable": 2, "HighAtomic": 3, "Isolate": 1, "CMA": 1}
_NOT_FOR_SLABS = ("HighMem", "Movable", "Device")
_SLAB_FOLDERS = ("slab", "sys-kernel-slab")

Blocks = dict[tuple[int, int], list[int]]  #: frames by order and migrate type


@dataclass(frozen=True, slots=True)
class StateFiles:
    """What the files of a folder say of a running machine.

    Attributes
    ----------
    folder : Path
    view : MachineView
        Zones, as far as there are files about them.
    caches : dict of str to SlabinfoRow
        Empty without a ``slabinfo``.
    """

    folder: Path
    view: MachineView
    caches: Mapping[str, SlabinfoRow]


@dataclass(frozen=True, slots=True)
class KnownSlab:
    """A slab of which more is known than that it exists.

    Attributes
    ----------
    pfn : int
        Its first frame, -1 if that is not known.
    free : tuple of int
        Numbers of objects that are free.
    cpu : int
        CPU that will allocate from it, -1 if none does.
    """

    pfn: int
    free: tuple[int, ...] = ()
    cpu: int = -1


@dataclass(slots=True)
class RunningState:
    """Where things came to lie.

    Attributes
    ----------
    blocks : dict of int to int
        Frame in the model of each known block.
    slabs : dict of (str, int) to int
        Frame in the model of each known slab, by cache and real frame.
    full : dict of str to list of int
        Frames of the slabs of each cache of which nothing was known, full ones.
    in_use : dict of str to int
        Objects in use of each cache.
    assumed : list of str
        A sentence for everything that no file says.
    """

    blocks: dict[int, int] = field(default_factory=dict)
    slabs: dict[tuple[str, int], int] = field(default_factory=dict)
    full: dict[str, list[int]] = field(default_factory=dict)
    in_use: dict[str, int] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


def read_state(folder: Path) -> StateFiles:
    """Read what a folder with copies of ``/proc`` files says of free memory and caches.

    Raises
    ------
    InputError
        If there is no such folder, a file is damaged, or none says how much memory is free.
    """
    view = read_proc_folder(folder, partial=True)
    if not any(zone.nr_free or zone.free_pages for zone in view.zones):
        raise InputError(
            "no file in this folder says how much memory is free",
            file=folder,
            remedy="copy zoneinfo, buddyinfo and pagetypeinfo of /proc there",
        )
    paths = (folder / name for name in ("slabinfo", "slabinfo.txt"))
    path = next((path for path in paths if path.is_file() and os.access(path, os.R_OK)), None)
    rows = read_slabinfo(path) if path is not None else {}
    return StateFiles(folder, view, {name: _with_slabs(row) for name, row in rows.items()})


def _with_slabs(row: SlabinfoRow) -> SlabinfoRow:
    """The same row with the number of slabs that its objects need, if the line ended before it."""
    if row.num_slabs or not row.num_objs:
        return row
    slabs = -(-row.num_objs // row.objperslab)
    return replace(row, active_slabs=slabs, num_slabs=slabs)


def start_running(
    machine: Machine,
    files: StateFiles,
    *,
    blocks: Mapping[int, int] | None = None,
    slabs: Mapping[str, Sequence[KnownSlab]] | None = None,
) -> RunningState:
    """Give a machine that has just been booted the state that files show.

    Parameters
    ----------
    machine : Machine
        As :meth:`Machine.boot` made it from the same files; nothing has been allocated.
    files : StateFiles
    blocks : mapping of int to int, optional
        Order of blocks that are in use, by first frame.
    slabs : mapping of str to sequence of KnownSlab, optional
        Slabs of which more is known, by cache; those allocated from first come first.

    Raises
    ------
    InputError
        If the files contradict each other: more is free, or in slabs, than there is.

    Notes
    -----
    Complexity: O(frames + slabs + free blocks).
    """
    builder = _Builder(machine, files)
    builder.cut_known(blocks or {}, slabs or {})
    builder.place_free()
    builder.place_blocks(blocks or {})
    builder.place_slabs(slabs or {})
    builder.hold_the_rest()
    return builder.state


class _Zone:
    """One zone while it is laid out."""

    def __init__(self, machine: Machine, zone_id: int, view: ZoneView, types: Sequence[str], known: bool) -> None:
        memmap = machine.memmap
        self.zone_id = zone_id
        self.view = view
        self.name = view.name
        self.managed = int(memmap.zones_array["managed"][zone_id])
        self.boot_blocks = [
            (pfn, order)
            for order in range(_NR_ORDERS)
            for mt in range(_NR_TYPES)
            for pfn in memmap.free_list(zone_id, order, mt)
        ]
        quota = None
        if known and view.blocks:
            quota = dict.fromkeys(range(_NR_TYPES), 0)
            for name, count in zip(types, view.blocks, strict=False):
                quota[_TYPES.get(name, _MOVABLE)] += count
        self.quota = quota
        self.holes = Holes(self.boot_blocks, memmap.pageblock_order, quota)
        self.counts = _free_counts(view, types, memmap.pageblock_order)
        self.free: Blocks = {}
        self.pcp: dict[int, list[int]] = {}
        self.smaller = self.dropped = 0

    @property
    def wanted(self) -> int:
        """Pages on free lists and per-CPU lists."""
        listed = sum(count << order for row in self.counts for order, count in enumerate(row))
        return listed + sum(pageset.count for pageset in self.view.pagesets)

    def place_seen(self, blocks: Mapping[int, list[int]], reclaimable: Mapping[int, int], pageblock_order: int) -> None:
        """Place free blocks where they are known to lie; where most pages are reclaimable, they are movable."""
        for order in reversed(range(_NR_ORDERS)):
            rest = deque(
                sorted(blocks.get(order, ()), key=lambda pfn: (reclaimable.get(pfn >> pageblock_order, 0), pfn))
            )
            for mt in (0, 2, 3, 1):
                while self.counts[mt][order] and rest:
                    pfn = rest.pop() if mt == _MOVABLE else rest.popleft()
                    if self.holes.take_free(pfn, order, mt):
                        self.free.setdefault((order, mt), []).append(pfn)
                        self.counts[mt][order] -= 1

    def place_free(self) -> None:
        for order in reversed(range(_NR_ORDERS)):
            for mt in (0, 2, 3, 1):
                for _ in range(self.counts[mt][order]):
                    self._place(order, mt)

    def _place(self, order: int, mt: int) -> None:
        pfn = self.holes.place_free(order, mt)
        if pfn is not None:
            self.free.setdefault((order, mt), []).append(pfn)
        elif order:
            self.smaller += 1
            self._place(order - 1, mt)
            self._place(order - 1, mt)
        else:
            self.dropped += 1

    def place_pcp(self, nr_cpus: int) -> None:
        for pageset in self.view.pagesets:
            if pageset.cpu < nr_cpus:
                frames = [self.holes.place_held(0) for _ in range(pageset.count)]
                self.pcp[pageset.cpu] = [pfn for pfn in frames if pfn is not None]


class _Builder:
    def __init__(self, machine: Machine, files: StateFiles) -> None:
        self.machine = machine
        self.memmap = machine.memmap
        self.files = files
        self.state = RunningState()
        self.cut: set[tuple[str, int]] = set()
        self.flags = read_kpageflags(files.folder, self.memmap.nr_frames)
        view = files.view
        self.zones: list[_Zone] = []
        for zone in view.zones:
            if not zone.populated and not zone.free_pages:
                continue
            try:
                zone_id = self.memmap.zone_id(zone.name, zone.node)
            except (ValueError, KeyError, IndexError):
                zone_id = -1
            if zone_id < 0 or not self.memmap.zones_array["spanned"][zone_id]:
                raise InputError(f"zone {zone.name} of node {zone.node} is none of this machine's", file=files.folder)
            if any(laid.zone_id == zone_id for laid in self.zones):
                raise InputError(f"zone {zone.name} of node {zone.node} is shown twice", file=files.folder)
            self.zones.append(_Zone(machine, zone_id, zone, view.migrate_types, bool(zone.free)))
        for laid in self.zones:
            if (most := max(_marks(laid.view))) > _MOST_PAGES:
                raise InputError(f"zone {laid.name}: {most} is no number of pages", file=files.folder)
            if len({pageset.cpu for pageset in laid.view.pagesets}) < len(laid.view.pagesets):
                raise InputError(f"zone {laid.name} shows a CPU twice", file=files.folder)
            if laid.wanted > laid.managed and laid.view.managed:
                raise InputError(
                    f"zone {laid.name} manages {laid.managed} pages, but {laid.wanted} are free",
                    file=files.folder,
                    remedy="take all copies at one time, from one machine",
                )
            if laid.wanted > laid.managed:  # its size is an estimate
                _shorten(laid)
        self._say_what_is_missing()

    def _say_what_is_missing(self) -> None:
        say = self.state.assumed.append
        view = self.files.view
        if self.flags is None:
            say("free blocks and slabs lie anywhere: /proc counts them, and does not say where they are")
        else:
            say("free blocks lie where kpageflags shows them, slabs anywhere")
        if not view.migrate_types:
            if any(zone.nr_free for zone in view.zones):
                say("free blocks below a page block are shared out among three migrate types: no pagetypeinfo")
            else:
                say("free memory is in the largest blocks possible: no pagetypeinfo and no buddyinfo")
        if any(zone.pagesets for zone in view.zones):
            say("pages of per-CPU lists are single ones, half unmovable, half movable: /proc counts them only")
        else:
            say("per-CPU lists are empty: no zoneinfo")
        if not self.files.caches:
            say("caches have no slabs: no slabinfo")

    # -- pages --------------------------------------------------------------

    def cut_known(self, blocks: Mapping[int, int], slabs: Mapping[str, Sequence[KnownSlab]]) -> None:
        """Cut what is known to be in use out of the zones before anything else is placed."""
        for pfn, order in sorted(blocks.items()):
            if self._take(pfn, order):
                self.state.blocks[pfn] = pfn
        for name, known in slabs.items():
            row = self.files.caches.get(name)
            for slab in known if row is not None else ():
                if slab.pfn >= 0 and row is not None and self._take(slab.pfn, row.order):
                    self.cut.add((name, slab.pfn))

    def _take(self, pfn: int, order: int) -> bool:
        return any(zone.holes.take(pfn, order) for zone in self.zones)

    def place_free(self) -> None:
        """Lay out free blocks and pages of per-CPU lists, and write them into the machine."""
        for zone in self.zones:
            self._place_seen(zone)
            zone.place_free()
            zone.place_pcp(self.memmap.nr_cpus)
            self._write_zone(zone)
            if zone.smaller:
                self.state.assumed.append(
                    f"zone {zone.name}: {zone.smaller} free blocks found no place of their size and are several smaller"
                    + (f" ones; {zone.dropped} pages found none" if zone.dropped else " ones")
                )

    def _place_seen(self, zone: _Zone) -> None:
        """Place free blocks where ``kpageflags`` shows them."""
        if self.flags is None:
            return
        record = self.memmap.zones_array[zone.zone_id]
        start, end = int(record["start_pfn"]), int(record["start_pfn"]) + int(record["spanned"])
        shift = self.memmap.pageblock_order
        listed = np.flatnonzero(self.flags[start:end] & np.uint64(KPF_LRU)) + start >> shift
        blocks, counts = np.unique(listed, return_counts=True)
        reclaimable = dict(zip(blocks.tolist(), counts.tolist(), strict=True))
        zone.place_seen(free_blocks(self.flags, start, end), reclaimable, shift)

    def _write_zone(self, zone: _Zone) -> None:
        memmap, pages = self.memmap, self.memmap.pages_array
        record = memmap.zones_array[zone.zone_id]
        for pfn, order in zone.boot_blocks:
            pages["kind"][pfn : pfn + (1 << order)] = 0
            pages["flags"][pfn : pfn + (1 << order)] = 0
        heads = np.arange(int(record["lists"]), int(record["lists"]) + _NR_ORDERS * _NR_TYPES, dtype=np.uint32)
        pages["next"][heads] = pages["prev"][heads] = heads
        record["nr_free"] = 0
        free = 0
        for (order, mt), frames in zone.free.items():
            link_list(memmap, int(record["lists"]) + order * _NR_TYPES + mt, sorted(frames), order, _BUDDY)
            record["nr_free"][order] += len(frames)
            free += len(frames) << order
        record["free_pages"] = free
        on_lists = self._write_pagesets(zone)
        record["foreign"] = zone.managed - free - on_lists
        self._write_marks(zone)
        self._write_page_blocks(zone)

    def _write_pagesets(self, zone: _Zone) -> int:
        memmap = self.memmap
        first = int(memmap.zones_array["pageset"][zone.zone_id])
        total = 0
        memmap.pagesets_array["stat_diff"][first : first + memmap.nr_cpus] = 0
        for shown in zone.view.pagesets:
            if shown.cpu >= memmap.nr_cpus:
                continue
            pageset = memmap.pagesets_array[first + shown.cpu]
            frames = zone.pcp.get(shown.cpu, [])
            half = len(frames) // 2
            for mt, part in ((0, frames[:half]), (_MOVABLE, frames[half:])):
                link_list(memmap, int(pageset["lists"]) + mt, part, 0, _PCP)
                memmap.pages_array["migratetype"][part] = mt
            pageset["count"] = len(frames)
            if shown.high and shown.batch:
                pageset["high"], pageset["batch"] = shown.high, shown.batch
            total += len(frames)
        return total

    def _write_marks(self, zone: _Zone) -> None:
        view, record = zone.view, self.memmap.zones_array[zone.zone_id]
        if not view.managed:
            return  # no zoneinfo: as boot computed them
        record["watermark"][:3] = [max(mark - view.boost, 0) for mark in (view.min, view.low, view.high)]
        record["watermark_boost"] = view.boost
        record["lowmem_reserve"][: min(5, len(view.protection))] = view.protection[:5]
        if zone.quota is not None:
            types = self.files.view.migrate_types
            reserved = view.blocks[types.index("HighAtomic")] if "HighAtomic" in types else 0
            record["nr_reserved_highatomic"] = reserved << self.memmap.pageblock_order

    def _write_page_blocks(self, zone: _Zone) -> None:
        memmap = self.memmap
        record = memmap.zones_array[zone.zone_id]
        offset = int(record["block_offset"])
        for block, mt in zone.holes.types.items():
            memmap.pageblocks_array[block + offset] = mt
        left = dict(zone.holes.quota or {})
        if not left:
            return
        first = int(record["start_pfn"]) >> memmap.pageblock_order
        end = (int(record["start_pfn"]) + int(record["spanned"]) - 1 >> memmap.pageblock_order) + 1
        others = [block for block in range(first, end) if block not in zone.holes.types]
        for mt in (0, 2, 3):
            for _ in range(min(left.get(mt, 0), len(others))):
                memmap.pageblocks_array[others.pop(0) + offset] = mt
        for block in others:
            memmap.pageblocks_array[block + offset] = _MOVABLE

    def place_blocks(self, blocks: Mapping[int, int]) -> None:
        """Make known blocks allocated ones; those that could not lie where they lay lie elsewhere."""
        pages = self.memmap.pages_array
        for pfn, order in sorted(blocks.items()):
            at = self.state.blocks.get(pfn)
            if at is None:
                at = self._hold(order, self._zones_for(pfn))
            if at is None:
                continue
            self.state.blocks[pfn] = at
            pages["kind"][at] = _ALLOCATED
            pages["order"][at] = order
            pages["flags"][at] = 0
            self.memmap.zones_array["foreign"][int(pages["zone"][at])] -= 1 << order

    def hold_the_rest(self) -> None:
        """Make everything else in use an allocated block of somebody whom the model does not know."""
        pages = self.memmap.pages_array
        for zone in self.zones:
            for pfn, order in zone.holes.rest():
                pages["kind"][pfn] = _ALLOCATED
                pages["order"][pfn] = order
                pages["flags"][pfn] = 0
                self.memmap.zones_array["foreign"][zone.zone_id] -= 1 << order
                if self.flags is not None:
                    listed = (self.flags[pfn : pfn + (1 << order)] & np.uint64(KPF_LRU)) != 0
                    pages["flags"][pfn : pfn + len(listed)] |= listed.astype(np.uint8) * _LRU_FLAG

    def _zones_for(self, pfn: int) -> list[_Zone]:
        """All zones, that of a frame first, then the highest."""
        own = int(self.memmap.pages_array["zone"][pfn]) if pfn < self.memmap.nr_frames else -1
        return sorted(self.zones, key=lambda zone: (zone.zone_id != own, -zone.zone_id))

    def _hold(self, order: int, zones: Iterable[_Zone]) -> int | None:
        return next((pfn for zone in zones if (pfn := zone.holes.place_held(order)) is not None), None)

    # -- slabs --------------------------------------------------------------

    def place_slabs(self, slabs: Mapping[str, Sequence[KnownSlab]]) -> None:
        """Give each cache its slabs."""
        managed = sum(zone.managed for zone in self.zones)
        pages = sum(row.num_slabs * row.pagesperslab for row in self.files.caches.values())
        if pages > managed:
            raise InputError(
                f"slabinfo counts {pages} pages of slabs, the machine has {managed}",
                file=self.files.folder,
                remedy="take all copies at one time, from one machine",
            )
        lacking = 0
        for row in reversed(list(self.files.caches.values())):  # oldest first, as they were made
            index = self._cache(row)
            if index is not None and row.num_slabs:
                lacking += self._fill(index, row, slabs.get(row.name, ()))
        if lacking:
            self.state.assumed.append(f"{lacking} slabs found no place in memory and are counted only")

    def _cache(self, row: SlabinfoRow) -> int | None:
        """Number of the cache of a row, made if there is none; None if its slabs are not what the model's would be."""
        caches = self.machine.caches
        index = caches.find(row.name)
        try:
            if index is None:
                index = caches.add(self._geometry(row))
        except KmemError as error:
            self.state.assumed.append(f"cache {row.name} is left out: {error.message}")
            return None
        geometry = caches.geometry(index)
        if (geometry.objects, 1 << geometry.order) != (row.objperslab, row.pagesperslab):
            self.state.assumed.append(
                f"cache {row.name} begins empty: {row.objperslab} objects in {row.pagesperslab} pages, "
                f"in the model {geometry.objects} in {1 << geometry.order}"
            )
            return None
        return index

    def _geometry(self, row: SlabinfoRow) -> CacheGeometry:
        config = self.machine.caches.list.config
        values = _sysfs_values(self.files.folder, row.name)
        size = values.get("object_size", row.objsize)
        geometry = geometry_from_sizes(
            row.name, size if 0 < size <= row.objsize else row.objsize, row.objsize, config, order=row.order
        )
        if 0 <= values.get("min_partial", -1) < 1 << 16:
            geometry.min_partial = values["min_partial"]
        return geometry

    def _fill(self, index: int, row: SlabinfoRow, known: Sequence[KnownSlab]) -> int:
        """Make the slabs of one cache; return how many found no place."""
        slub, state = self.machine.slub, self.state
        zones = sorted((zone for zone in self.zones if zone.name not in _NOT_FOR_SLABS), key=lambda zone: -zone.zone_id)
        laid: list[tuple[int, KnownSlab]] = []
        for slab in known[: row.num_slabs]:
            at = slab.pfn if (row.name, slab.pfn) in self.cut else self._hold(row.order, zones)
            if at is None:
                break
            if slab.pfn >= 0:
                state.slabs[row.name, slab.pfn] = at
            laid.append((at, slab))
        nodes = self.memmap.nr_nodes
        others: list[int] = []
        while len(laid) + len(others) < row.num_slabs and (at := self._hold(row.order, zones)) is not None:
            others.append(at)
        counts = [0] * nodes
        for at in (*(at for at, _ in laid), *others):
            counts[int(self.memmap.pages_array["zone"][at]) // 5] += 1
        lists = _SlabLists(self.machine, index, row)
        lists.known(laid)
        full = lists.unknown(others)
        restore_cache(slub, index, lists.dump(counts))
        for at in full:
            adopt_full_slab(slub, index, at, row.objperslab)
        state.in_use[row.name] = (len(laid) + len(others)) * row.objperslab - lists.nr_free
        unknown = set(others)
        state.full[row.name] = [at for at in full if at in unknown]
        for at in (*(at for at, _ in laid), *others):
            self.memmap.zones_array["foreign"][int(self.memmap.pages_array["zone"][at])] -= row.pagesperslab
        return int(row.num_slabs - len(laid) - len(others))


class _SlabLists:
    """Decides which list each slab of a cache is on."""

    def __init__(self, machine: Machine, index: int, row: SlabinfoRow) -> None:
        self.memmap = machine.memmap
        self.row = row
        self.nr_cpus = machine.memmap.nr_cpus
        self.plain = not machine.caches.geometry(index).debug
        self.lists_full = bool(machine.caches.geometry(index).flags & 0x10000)  # SLAB_STORE_USER
        self.cpu: dict[int, tuple[int, KnownSlab]] = {}
        self.cpu_partial: dict[int, list[tuple[int, KnownSlab]]] = {}
        self.partial: list[tuple[int, tuple[int, ...]]] = []
        self.full: list[int] = []
        self.free_left = row.num_objs - row.active_objs

    def known(self, laid: Iterable[tuple[int, KnownSlab]]) -> None:
        """Put slabs on lists: the first that a CPU allocates from is its own; slabinfo counts what nodes have free."""
        for at, slab in laid:
            cpu = slab.cpu % self.nr_cpus if slab.cpu >= 0 else -1
            if not slab.free:
                self.full.append(at)
            elif self.plain and cpu >= 0 and cpu not in self.cpu:
                self.cpu[cpu] = at, slab
            elif len(slab.free) <= self.free_left or not self.plain or cpu < 0:
                self.partial.append((at, slab.free))
                self.free_left -= len(slab.free)
            else:
                self.cpu_partial.setdefault(cpu, []).append((at, slab))

    def unknown(self, frames: Sequence[int]) -> list[int]:
        """Give the free objects that are left to slabs of which nothing is known; return the full ones."""
        half = max(self.row.objperslab // 2, 1)
        rest = list(frames)
        while self.free_left > 0 and rest:
            count = min(half, self.free_left)
            self.partial.append((rest.pop(0), tuple(range(count))))
            self.free_left -= count
        return [*self.full, *rest]

    @property
    def nr_free(self) -> int:
        """Free objects of all lists."""
        held = [*self.cpu.values(), *(each for waiting in self.cpu_partial.values() for each in waiting)]
        return sum(len(slab.free) for _, slab in held) + sum(len(free) for _, free in self.partial)

    def dump(self, counts: Sequence[int]) -> dict[str, object]:
        """Return the lists in the shape of :func:`kmem.mm.slub_state.dump_cache`."""
        cpus = []
        for cpu in sorted({*self.cpu, *self.cpu_partial}):
            own = self.cpu.get(cpu)
            waiting = self.cpu_partial.get(cpu, [])
            cpus.append(
                {
                    "cpu": cpu,
                    "slab": self._slab(own[0], (), frozen=1) if own else None,
                    "freelist": list(own[1].free) if own else [],
                    "partial": [
                        {"slabs": len(waiting) - place, "s": self._slab(at, slab.free, frozen=1)}
                        for place, (at, slab) in enumerate(waiting)
                    ],
                }
            )
        nodes = []
        for node, count in enumerate(counts):
            own_partial = [each for each in self.partial if int(self.memmap.pages_array["zone"][each[0]]) // 5 == node]
            nodes.append(
                {
                    "node": node,
                    "nr_partial": len(own_partial),
                    "nr_slabs": count,
                    "total_objects": count * self.row.objperslab,
                    "partial": [self._slab(at, free, frozen=0) for at, free in own_partial],
                    "full": [],
                }
            )
        return {"cpus": cpus, "nodes": nodes}

    def _slab(self, pfn: int, free: Sequence[int], *, frozen: int) -> dict[str, object]:
        objects = self.row.objperslab
        return {
            "pfn": pfn,
            "inuse": objects - len(free),
            "objects": objects,
            "frozen": frozen,
            "freelist": list(free),
        }


def _free_counts(view: ZoneView, types: Sequence[str], pageblock_order: int) -> list[list[int]]:
    """Free blocks by migrate type and order."""
    counts = [[0] * _NR_ORDERS for _ in range(_NR_TYPES)]
    for name, row in zip(types, view.free, strict=False):
        for order, count in enumerate(row[:_NR_ORDERS]):
            counts[_TYPES.get(name, _MOVABLE)][order] += count
    shown = view.nr_free[:_NR_ORDERS]
    if not shown and not view.free:
        left = view.free_pages
        for order in reversed(range(_NR_ORDERS)):
            counts[_MOVABLE][order], left = left >> order, left & ((1 << order) - 1)
        return counts
    for order, total in enumerate(shown):
        more = total - sum(row[order] for row in counts)
        if view.free:  # the kernel stops counting at 100,000; copies are taken one after the other
            counts[_MOVABLE][order] += max(more, 0) if max(row[order] for row in counts) >= 100_000 else 0
        elif order >= pageblock_order:
            counts[_MOVABLE][order] += more
        else:
            for mt in (0, 1, 2):
                counts[mt][order] += (more + mt) // 3
    return counts


def _marks(view: ZoneView) -> Iterator[int]:
    """Every number of a zone that is taken as it is shown."""
    yield from (view.min, view.low, view.high, view.boost, *view.protection, *view.blocks)
    for pageset in view.pagesets:
        yield from (pageset.high, pageset.batch)


def _shorten(zone: _Zone) -> None:
    """Leave out what an estimated zone has no room for, largest blocks first."""
    surplus = zone.wanted - zone.managed
    for order in reversed(range(_NR_ORDERS)):
        for mt in (_MOVABLE, 0, 2, 3):
            out = min(zone.counts[mt][order], -(-surplus >> order)) if surplus > 0 else 0
            zone.counts[mt][order] -= out
            surplus -= out << order


def _sysfs_values(folder: Path, name: str) -> dict[str, int]:
    """Numbers of a cache's files of ``/sys/kernel/slab``, as far as there are copies."""
    return dict(_numbers(folder, name))


def _numbers(folder: Path, name: str) -> Iterator[tuple[str, int]]:
    if "/" in name or name in (".", ".."):
        return
    for place in _SLAB_FOLDERS:
        for key in ("object_size", "min_partial"):
            path = folder / place / name / key
            try:
                words = path.read_text(encoding="ascii").split()
            except (OSError, UnicodeDecodeError):
                continue
            if words and words[0].isdecimal() and len(words[0]) < 10:
                yield key, int(words[0])
