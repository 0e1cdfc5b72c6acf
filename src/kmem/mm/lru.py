# SPDX-License-Identifier: GPL-2.0-only
"""The lists of pages that reclaim can take: active and inactive, anonymous and file, of each node.

A page comes onto a list by way of a batch of its CPU (15 pages), as in the
kernel: until the batch is full or drained, the page is neither counted nor
seen by reclaim and compaction.  A page on a list carries ``PGF_LRU`` in its
record, which makes it count as movable when a page block changes its type.

Head of a list is where pages are added; reclaim takes from the tail.

Source: mm/swap.c, include/linux/mm_inline.h, mm/workingset.c @6.1.192
Differs: pages are single, there are no large folios; no memory cgroups; the
lists of the multi-generational LRU are not modelled (off by default).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from kmem.errors import StateError
from kmem.mm.mmzone import MemMap
from kmem.mm.vmstat import VmStat

__all__ = [
    "LRU_ACTIVE_ANON",
    "LRU_ACTIVE_FILE",
    "LRU_INACTIVE_ANON",
    "LRU_INACTIVE_FILE",
    "LRU_UNEVICTABLE",
    "NR_LRU_LISTS",
    "PG_ACTIVE",
    "PG_DIRTY",
    "PG_MLOCKED",
    "PG_RECLAIM",
    "PG_REFERENCED",
    "PG_SWAPBACKED",
    "PG_SWAPCACHE",
    "PG_UNEVICTABLE",
    "PG_WORKINGSET",
    "PG_WRITEBACK",
    "Lru",
    "Lruvec",
    "is_file_lru",
]

LRU_INACTIVE_ANON = 0
LRU_ACTIVE_ANON = 1
LRU_INACTIVE_FILE = 2
LRU_ACTIVE_FILE = 3
LRU_UNEVICTABLE = 4
NR_LRU_LISTS = 5

#: Flags of a page in reclaim's hands; the numbers are the model's own.
PG_REFERENCED = 0x001
PG_ACTIVE = 0x002
PG_SWAPBACKED = 0x004
PG_UNEVICTABLE = 0x008
PG_DIRTY = 0x010
PG_WRITEBACK = 0x020
PG_RECLAIM = 0x040
PG_WORKINGSET = 0x080
PG_SWAPCACHE = 0x100
PG_MLOCKED = 0x200
_PG_LRU = 0x400  # on a list

_PGF_LRU = 1
_MAX_NR_ZONES = 5
_PAGEVEC_SIZE = 15
_NODE_NAMES = ("nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file", "nr_unevictable")
_ZONE_NAMES = tuple(name.replace("nr_", "nr_zone_") for name in _NODE_NAMES)


def is_file_lru(lru: int) -> bool:
    """Whether a list holds pages of files.

    Source: include/linux/mmzone.h:is_file_lru @6.1.192
    """
    return lru in (LRU_INACTIVE_FILE, LRU_ACTIVE_FILE)


class Lruvec:
    """The lists of one node, and what reclaim remembers about it.

    Attributes
    ----------
    lists : list of OrderedDict
        Frames of each list, tail first.
    anon_cost, file_cost : int
        What reclaiming either kind has cost lately.
    refaults : list of int
        Activations by refault of anonymous and file pages when reclaim last ended.
    nonresident_age : int
        Evictions and activations so far, the clock of refault distances.

    Source: include/linux/mmzone.h:struct lruvec @6.1.192
    """

    def __init__(self, node: int) -> None:
        self.node = node
        self.lists: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(NR_LRU_LISTS)]
        self.anon_cost = 0
        self.file_cost = 0
        self.refaults = [0, 0]
        self.nonresident_age = 0
        self.congested = False


class Lru:
    """All pages of a machine that reclaim knows.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    stat : VmStat
        Where pages are counted.

    Attributes
    ----------
    nodes : list of Lruvec
    flags : dict
        Frame -> its ``PG_*`` flags. A frame that is not in it is none of reclaim's.

    Notes
    -----
    Context: any; nothing here sleeps. Every call is O(1) unless it says otherwise.
    """

    def __init__(self, memmap: MemMap, stat: VmStat) -> None:
        self._pages = memmap.pages_array
        self._zone_of = memmap.pages_array["zone"]
        self._page_flags = memmap.pages_array["flags"]
        self.stat = stat
        self.nodes = [Lruvec(node) for node in range(memmap.nr_nodes)]
        self.flags: dict[int, int] = {}
        self.cpu = 0
        self._add_batch: list[list[int]] = [[] for _ in range(memmap.nr_cpus)]
        self._activate_batch: list[list[int]] = [[] for _ in range(memmap.nr_cpus)]

    # Where a page is

    def zone_of(self, pfn: int) -> int:
        """Return the number of a page's zone."""
        return int(self._zone_of[pfn])

    def lruvec_of(self, pfn: int) -> Lruvec:
        """Return the lists of a page's node."""
        return self.nodes[int(self._zone_of[pfn]) // _MAX_NR_ZONES]

    @staticmethod
    def lru_of(flags: int) -> int:
        """Return the list that a page with these flags belongs on.

        Source: include/linux/mm_inline.h:folio_lru_list @6.1.192
        """
        if flags & PG_UNEVICTABLE:
            return LRU_UNEVICTABLE
        base = LRU_INACTIVE_ANON if flags & PG_SWAPBACKED else LRU_INACTIVE_FILE
        return base + (flags & PG_ACTIVE != 0)

    def test(self, pfn: int, flag: int) -> bool:
        """Whether a page has any of these flags."""
        return self.flags.get(pfn, 0) & flag != 0

    def set(self, pfn: int, flag: int) -> None:
        """Set flags that do not decide about a page's list."""
        self.flags[pfn] |= flag

    def clear(self, pfn: int, flag: int) -> None:
        """Clear flags that do not decide about a page's list."""
        self.flags[pfn] &= ~flag

    def on_lru(self, pfn: int) -> bool:
        """Whether a page is on a list, and neither in a batch nor isolated.

        Source: include/linux/page-flags.h:PageLRU @6.1.192
        """
        return self.flags.get(pfn, 0) & _PG_LRU != 0

    def size(self, lruvec: Lruvec, lru: int, zone_idx: int = _MAX_NR_ZONES - 1) -> int:
        """Pages of a list in zones up to `zone_idx`.

        Source: mm/vmscan.c:lruvec_lru_size @6.1.192
        """
        if zone_idx >= _MAX_NR_ZONES - 1:
            return len(lruvec.lists[lru])
        first = lruvec.node * _MAX_NR_ZONES
        name = _ZONE_NAMES[lru]
        return sum(self.stat.zone[zone][name] for zone in range(first, first + zone_idx + 1))

    # Onto the lists and off them

    def _link(self, pfn: int, flags: int, *, tail: bool = False) -> None:
        lru = self.lru_of(flags)
        zone = int(self._zone_of[pfn])
        pages = self.nodes[zone // _MAX_NR_ZONES].lists[lru]
        pages[pfn] = None
        if tail:
            pages.move_to_end(pfn, last=False)
        self.flags[pfn] = flags | _PG_LRU
        self._page_flags[pfn] |= _PGF_LRU
        self.stat.node[zone // _MAX_NR_ZONES][_NODE_NAMES[lru]] += 1
        self.stat.zone[zone][_ZONE_NAMES[lru]] += 1

    def _unlink(self, pfn: int, flags: int) -> None:
        lru = self.lru_of(flags)
        zone = int(self._zone_of[pfn])
        del self.nodes[zone // _MAX_NR_ZONES].lists[lru][pfn]
        self.flags[pfn] = flags & ~_PG_LRU
        self._page_flags[pfn] &= ~_PGF_LRU & 0xFF
        self.stat.node[zone // _MAX_NR_ZONES][_NODE_NAMES[lru]] -= 1
        self.stat.zone[zone][_ZONE_NAMES[lru]] -= 1

    def lru_cache_add(self, pfn: int, flags: int = 0) -> None:
        """Hand a page that has just got a user over to reclaim.

        Parameters
        ----------
        pfn : int
            A frame that was allocated as a single page.
        flags : int
            ``PG_SWAPBACKED`` for an anonymous page, 0 for one of a file; ``PG_ACTIVE``
            to put it on the active list, ``PG_UNEVICTABLE`` to keep reclaim off it.

        Raises
        ------
        StateError
            If reclaim knows the page already.

        Source: mm/swap.c:folio_add_lru @6.1.192
        """
        if pfn in self.flags:
            raise StateError(f"frame {pfn} is on an LRU list already")
        self.flags[pfn] = flags
        self._queue(pfn)

    def putback(self, pfn: int) -> None:
        """Give an isolated page back, by way of the batch.

        Source: mm/vmscan.c:folio_putback_lru @6.1.192
        """
        self._queue(pfn)

    def _queue(self, pfn: int) -> None:
        batch = self._add_batch[self.cpu]
        batch.append(pfn)
        if len(batch) >= _PAGEVEC_SIZE:
            self._drain_adds(batch)

    def _drain_adds(self, batch: list[int]) -> None:
        """Source: mm/swap.c:lru_add_fn @6.1.192."""
        pages, batch[:] = batch[:], []
        for pfn in pages:
            flags = self.flags[pfn]
            if flags & PG_UNEVICTABLE:
                flags &= ~PG_ACTIVE
                self.stat.count("unevictable_pgs_culled")
            self._link(pfn, flags)

    def lru_add_drain(self) -> None:
        """Empty the batches of this CPU.

        Source: mm/swap.c:lru_add_drain @6.1.192
        """
        if self._add_batch[self.cpu]:
            self._drain_adds(self._add_batch[self.cpu])
        if self._activate_batch[self.cpu]:
            self._drain_activations(self._activate_batch[self.cpu])

    def lru_add_drain_all(self) -> None:
        """Empty the batches of all CPUs.

        Source: mm/swap.c:lru_add_drain_all @6.1.192
        """
        for batch in self._add_batch:
            self._drain_adds(batch)
        for batch in self._activate_batch:
            self._drain_activations(batch)

    def isolate(self, pfn: int) -> bool:
        """Take a page off its list; False if it is on none.

        Source: mm/vmscan.c:folio_isolate_lru @6.1.192
        """
        flags = self.flags.get(pfn, 0)
        if not flags & _PG_LRU:
            return False
        self._unlink(pfn, flags)
        return True

    def add_to_list(self, pfn: int, *, tail: bool = False) -> None:
        """Put an isolated page straight onto the list that its flags say.

        Source: include/linux/mm_inline.h:lruvec_add_folio @6.1.192
        """
        self._link(pfn, self.flags[pfn], tail=tail)

    def move(self, pfn: int, flags: int, *, tail: bool = False) -> None:
        """Give a page on a list new flags, and put it on the list that these say."""
        self._unlink(pfn, self.flags[pfn])
        self._link(pfn, flags & ~_PG_LRU, tail=tail)

    def release(self, pfn: int) -> int:
        """Forget a page that is about to be freed; its last flags, 0 if reclaim never knew it.

        Notes
        -----
        O(1), and O(batch) for a page that still waits in one.

        Source: mm/swap.c:__page_cache_release @6.1.192
        """
        flags = self.flags.get(pfn)
        if flags is None:
            return 0
        if flags & _PG_LRU:
            self._unlink(pfn, flags)
        else:
            for batch in self._add_batch:
                if pfn in batch:
                    batch.remove(pfn)
        for batch in self._activate_batch:
            if pfn in batch:
                batch.remove(pfn)
        del self.flags[pfn]
        return flags & ~_PG_LRU

    def replace(self, old: int, new: int) -> None:
        """Let an isolated page's place be taken by another frame, flags and all.

        Source: mm/migrate.c:folio_migrate_flags @6.1.192
        """
        self.flags[new] = self.flags.pop(old)

    # Activity

    def mark_accessed(self, pfn: int) -> None:
        """Note that a page was used: first referenced, then active.

        Source: mm/swap.c:folio_mark_accessed @6.1.192
        """
        flags = self.flags.get(pfn)
        if flags is None:
            return
        if not flags & PG_REFERENCED:
            self.flags[pfn] = flags | PG_REFERENCED
        elif not flags & (PG_UNEVICTABLE | PG_ACTIVE):
            if flags & _PG_LRU:
                self._activate(pfn)
            elif pfn in self._add_batch[self.cpu]:
                self.flags[pfn] |= PG_ACTIVE
            self.flags[pfn] &= ~PG_REFERENCED
            self.lruvec_of(pfn).nonresident_age += 1

    def _activate(self, pfn: int) -> None:
        """Source: mm/swap.c:folio_activate @6.1.192."""
        batch = self._activate_batch[self.cpu]
        if pfn in batch:
            return
        batch.append(pfn)
        if len(batch) >= _PAGEVEC_SIZE:
            self._drain_activations(batch)

    def _drain_activations(self, batch: list[int]) -> None:
        """Source: mm/swap.c:folio_activate_fn @6.1.192."""
        pages, batch[:] = batch[:], []
        for pfn in pages:
            flags = self.flags.get(pfn, 0)
            if flags & _PG_LRU and not flags & (PG_ACTIVE | PG_UNEVICTABLE):
                self.move(pfn, flags | PG_ACTIVE)
                self.stat.count("pgactivate")

    def rotate_reclaimable(self, pfn: int) -> None:
        """Move a page whose writing has ended to where reclaim looks first.

        Source: mm/swap.c:folio_rotate_reclaimable @6.1.192
        """
        flags = self.flags.get(pfn, 0)
        if flags & _PG_LRU and not flags & (PG_DIRTY | PG_UNEVICTABLE):
            self.move(pfn, flags & ~PG_ACTIVE, tail=True)
            self.stat.count("pgrotated")

    def note_cost(self, lruvec: Lruvec, file: bool, nr_pages: int) -> None:
        """Remember that reclaiming pages of one kind has cost input or output.

        Source: mm/swap.c:lru_note_cost @6.1.192
        """
        if file:
            lruvec.file_cost += nr_pages
        else:
            lruvec.anon_cost += nr_pages
        size = sum(len(lruvec.lists[lru]) for lru in range(LRU_UNEVICTABLE))
        if lruvec.file_cost + lruvec.anon_cost > size // 4:
            lruvec.file_cost //= 2
            lruvec.anon_cost //= 2

    # Refaults

    def workingset_eviction(self, pfn: int) -> tuple[int, int, bool]:
        """Return the shadow that an evicted page leaves behind: node, age, whether it had been active.

        Source: mm/workingset.c:workingset_eviction @6.1.192
        """
        lruvec = self.lruvec_of(pfn)
        age = lruvec.nonresident_age
        lruvec.nonresident_age += 1
        return lruvec.node, age, self.test(pfn, PG_WORKINGSET)

    def workingset_refault(self, file: bool, shadow: tuple[int, int, bool], *, swap_left: bool) -> int:
        """Flags that a page deserves which comes back after an eviction.

        Parameters
        ----------
        file : bool
            Whether it is a page of a file.
        shadow : tuple
            What :meth:`workingset_eviction` gave.
        swap_left : bool
            Whether there is free swap space.

        Returns
        -------
        int
            ``PG_ACTIVE`` if it was gone for so short a time that it would have stayed on a
            list of the active pages' length, with ``PG_WORKINGSET`` if it had been active; else 0.

        Source: mm/workingset.c:workingset_refault @6.1.192
        """
        node, eviction, workingset = shadow
        lruvec = self.nodes[node]
        counters = self.stat.node[node]
        kind = "file" if file else "anon"
        counters[f"workingset_refault_{kind}"] += 1
        size = len(lruvec.lists[LRU_ACTIVE_FILE])
        if not file:
            size += len(lruvec.lists[LRU_INACTIVE_FILE])
        if swap_left:
            size += len(lruvec.lists[LRU_ACTIVE_ANON])
            if file:
                size += len(lruvec.lists[LRU_INACTIVE_ANON])
        if lruvec.nonresident_age - eviction > size:
            return 0
        lruvec.nonresident_age += 1
        counters[f"workingset_activate_{kind}"] += 1
        if not workingset:
            return PG_ACTIVE
        self.note_cost(lruvec, file, 1)
        counters[f"workingset_restore_{kind}"] += 1
        return PG_ACTIVE | PG_WORKINGSET

    # Looking at it

    def pages_of(self, lru: int) -> Iterator[int]:
        """Frames on one kind of list, node by node, tail first."""
        for lruvec in self.nodes:
            yield from lruvec.lists[lru]

    def validate(self, isolated: Iterable[int] = ()) -> None:
        """Check that lists, flags, page records and counters agree.

        Parameters
        ----------
        isolated : iterable of int
            Frames that somebody holds in hand at the moment.

        Raises
        ------
        StateError
            At the first contradiction.

        Notes
        -----
        O(pages on the lists).
        """
        seen: set[int] = set(isolated)
        zones: dict[tuple[int, int], int] = {}
        for lruvec in self.nodes:
            for lru, pages in enumerate(lruvec.lists):
                for pfn in pages:
                    self._validate_page(pfn, lru, lruvec)
                    key = (int(self._zone_of[pfn]), lru)
                    zones[key] = zones.get(key, 0) + 1
                    seen.add(pfn)
                if self.stat.node[lruvec.node][_NODE_NAMES[lru]] != len(pages):
                    raise StateError(f"node {lruvec.node} miscounts {_NODE_NAMES[lru]}")
        for zone, counters in enumerate(self.stat.zone):
            for lru, name in enumerate(_ZONE_NAMES):
                if counters[name] != zones.get((zone, lru), 0):
                    raise StateError(f"zone {zone} miscounts {name}: {counters[name]}")
        waiting = {pfn for batch in self._add_batch for pfn in batch}
        if seen & waiting or (seen | waiting) != set(self.flags):
            raise StateError("pages that reclaim knows are neither on a list nor in a batch")

    def _validate_page(self, pfn: int, lru: int, lruvec: Lruvec) -> None:
        flags = self.flags.get(pfn, 0)
        if not flags & _PG_LRU or self.lru_of(flags) != lru:
            raise StateError(f"frame {pfn} is on list {lru}, but its flags are {flags:#x}")
        record = self._pages[pfn]
        if record["kind"] != 3 or record["order"] or not record["flags"] & _PGF_LRU:
            raise StateError(f"frame {pfn} is on an LRU list, but is no single page in use")
        if int(self._zone_of[pfn]) // _MAX_NR_ZONES != lruvec.node:
            raise StateError(f"frame {pfn} is on the list of node {lruvec.node}")
