# SPDX-License-Identifier: GPL-2.0-only
"""The lists of pages that reclaim can take: active and inactive, anonymous and file, of each node.

A page comes onto a list by way of a batch of its CPU (15 pages), as in the
kernel: until the batch is full or drained, the page is neither counted nor
seen by reclaim and compaction, and the batch holds a reference to it.  The
frames of a page on a list carry ``PGF_LRU`` in their records, which makes them
count as movable when a page block changes its type.

Head of a list is where pages are added; reclaim takes from the tail.

Source: mm/swap.c, include/linux/mm_inline.h, mm/workingset.c @6.1.192
Differs: no memory cgroups, and no batches for deactivation; the
multi-generational LRU is not modelled (off by default).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from kmem.errors import StateError
from kmem.mm.folio import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_REFERENCED,
    PG_SWAPBACKED,
    PG_UNEVICTABLE,
    PG_WORKINGSET,
    Folio,
    Folios,
)
from kmem.mm.mmzone import MemMap
from kmem.mm.vmstat import VmStat

__all__ = [
    "LRU_ACTIVE_ANON",
    "LRU_ACTIVE_FILE",
    "LRU_INACTIVE_ANON",
    "LRU_INACTIVE_FILE",
    "LRU_UNEVICTABLE",
    "NR_LRU_LISTS",
    "Lru",
    "Lruvec",
    "Shadow",
    "folio_is_file_lru",
    "is_file_lru",
]

LRU_INACTIVE_ANON = 0
LRU_ACTIVE_ANON = 1
LRU_INACTIVE_FILE = 2
LRU_ACTIVE_FILE = 3
LRU_UNEVICTABLE = 4
NR_LRU_LISTS = 5

#: What an evicted page leaves behind: its node, that node's age, whether the page had been active.
Shadow = tuple[int, int, bool]

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


def folio_is_file_lru(folio: Folio) -> bool:
    """Whether a page belongs on the lists of files: it has a place to go to other than swap.

    Source: include/linux/mm_inline.h:folio_is_file_lru @6.1.192
    """
    return not folio.flags & PG_SWAPBACKED


def folio_lru_list(folio: Folio) -> int:
    """Return the list that a page belongs on by its flags.

    Source: include/linux/mm_inline.h:folio_lru_list @6.1.192
    """
    flags = folio.flags
    if flags & PG_UNEVICTABLE:
        return LRU_UNEVICTABLE
    base = LRU_INACTIVE_ANON if flags & PG_SWAPBACKED else LRU_INACTIVE_FILE
    return base + (flags & PG_ACTIVE != 0)


class Lruvec:
    """The lists of one node, and what reclaim remembers about it.

    Attributes
    ----------
    lists : list of OrderedDict
        Folios of each list, tail first.
    pages : list of int
        Pages of each list.
    anon_cost, file_cost : int
        What reclaiming either kind has cost lately.
    refaults : list of int
        Activations by refault of anonymous and file pages when reclaim last ended.
    nonresident_age : int
        Evictions and activations so far, the clock of refault distances.
    congested : bool
        Whether all dirty pages at the tail wait for being written.

    Source: include/linux/mmzone.h:struct lruvec @6.1.192
    """

    def __init__(self, node: int) -> None:
        self.node = node
        self.lists: list[OrderedDict[Folio, None]] = [OrderedDict() for _ in range(NR_LRU_LISTS)]
        self.pages = [0] * NR_LRU_LISTS
        self.anon_cost = 0
        self.file_cost = 0
        self.refaults = [0, 0]
        self.nonresident_age = 0
        self.congested = False


class Lru:
    """The lists of a machine; its methods are what :class:`kmem.mm.folio.LruLists` asks for, and more.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    folios : Folios
        Its folios.
    stat : VmStat
        Where pages are counted.

    Attributes
    ----------
    nodes : list of Lruvec
    cpu : int
        CPU that the calls run on.

    Notes
    -----
    Context: any; nothing here sleeps. Every call is O(1) unless it says otherwise.
    """

    def __init__(self, memmap: MemMap, folios: Folios, stat: VmStat) -> None:
        self._pages = memmap.pages_array
        self._zone_of = memmap.pages_array["zone"]
        self._page_flags = memmap.pages_array["flags"]
        self._folios = folios
        self.stat = stat
        self.nodes = [Lruvec(node) for node in range(memmap.nr_nodes)]
        self.cpu = 0
        self._add_batch: list[list[Folio]] = [[] for _ in range(memmap.nr_cpus)]
        self._activate_batch: list[list[Folio]] = [[] for _ in range(memmap.nr_cpus)]

    # Where a page is

    def zone_of(self, folio: Folio) -> int:
        """Return the number of a page's zone."""
        return int(self._zone_of[folio.pfn])

    def lruvec_of(self, folio: Folio) -> Lruvec:
        """Return the lists of a page's node."""
        return self.nodes[int(self._zone_of[folio.pfn]) // _MAX_NR_ZONES]

    def size(self, lruvec: Lruvec, lru: int, zone_idx: int = _MAX_NR_ZONES - 1) -> int:
        """Pages of a list in zones up to `zone_idx`.

        Source: mm/vmscan.c:lruvec_lru_size @6.1.192
        """
        if zone_idx >= _MAX_NR_ZONES - 1:
            return lruvec.pages[lru]
        first = lruvec.node * _MAX_NR_ZONES
        name = _ZONE_NAMES[lru]
        return sum(self.stat.zone[zone][name] for zone in range(first, first + zone_idx + 1))

    # Onto the lists and off them

    def _account(self, folio: Folio, lru: int, sign: int) -> Lruvec:
        zone = int(self._zone_of[folio.pfn])
        node = zone // _MAX_NR_ZONES
        nr_pages = sign << folio.order
        self.nodes[node].pages[lru] += nr_pages
        self.stat.node[node][_NODE_NAMES[lru]] += nr_pages
        self.stat.zone[zone][_ZONE_NAMES[lru]] += nr_pages
        return self.nodes[node]

    def _mark(self, folio: Folio, *, on_lru: bool) -> None:
        frames = slice(folio.pfn, folio.pfn + folio.nr_pages) if folio.order else folio.pfn
        if on_lru:
            self._page_flags[frames] |= _PGF_LRU
        else:
            self._page_flags[frames] &= 0xFF & ~_PGF_LRU

    def mark_frames(self) -> None:
        """Mark the frames of all pages on lists in their records, and no others. O(frames)."""
        self._page_flags[:] &= 0xFF & ~_PGF_LRU
        for lru in range(NR_LRU_LISTS):
            for folio in self.folios_of(lru):
                self._mark(folio, on_lru=True)

    def add_to_list(self, folio: Folio, *, tail: bool = False) -> None:
        """Put a page that is on no list onto the one that its flags say.

        Source: include/linux/mm_inline.h:lruvec_add_folio @6.1.192
        """
        lru = folio_lru_list(folio)
        pages = self._account(folio, lru, 1).lists[lru]
        pages[folio] = None
        if tail:
            pages.move_to_end(folio, last=False)
        folio.flags |= PG_LRU
        self._mark(folio, on_lru=True)

    def _unlink(self, folio: Folio) -> None:
        """Source: include/linux/mm_inline.h:lruvec_del_folio @6.1.192."""
        lru = folio_lru_list(folio)
        del self._account(folio, lru, -1).lists[lru][folio]
        folio.flags &= ~PG_LRU
        self._mark(folio, on_lru=False)

    def folio_add_lru(self, folio: Folio) -> None:
        """Hand a page over to reclaim, by way of this CPU's batch; flags say which list it belongs on.

        Raises
        ------
        StateError
            If it is on a list already.

        Source: mm/swap.c:folio_add_lru @6.1.192
        """
        if folio.flags & PG_LRU:
            raise StateError(f"{folio!r} is on an LRU list already")
        folio.refcount += 1
        batch = self._add_batch[self.cpu]
        batch.append(folio)
        if len(batch) >= _PAGEVEC_SIZE or folio.order:
            self._drain_adds(batch)

    def putback(self, folio: Folio) -> None:
        """Give an isolated page back by way of the batch, and drop the reference that isolating it took.

        Source: mm/vmscan.c:folio_putback_lru @6.1.192
        """
        self.folio_add_lru(folio)
        self._folios.put(folio)

    def _drain_adds(self, batch: list[Folio]) -> None:
        """Source: mm/swap.c:lru_add_fn, folio_batch_move_lru @6.1.192."""
        folios, batch[:] = batch[:], []
        for folio in folios:
            if folio.flags & PG_UNEVICTABLE:
                folio.flags &= ~PG_ACTIVE
                self.stat.count("unevictable_pgs_culled", folio.nr_pages)
            self.add_to_list(folio)
        self._folios.release_pages(folios)

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

    def isolate(self, folio: Folio) -> bool:
        """Take a page off its list, with a reference; False if it is on none.

        Source: mm/vmscan.c:folio_isolate_lru @6.1.192
        """
        if not folio.flags & PG_LRU:
            return False
        folio.refcount += 1
        self._unlink(folio)
        return True

    def folio_del_lru(self, folio: Folio) -> None:
        """Take a page that is about to be freed off its list.

        Source: mm/swap.c:__page_cache_release @6.1.192
        """
        if folio.flags & PG_LRU:
            self._unlink(folio)
            folio.flags &= ~(PG_ACTIVE | PG_UNEVICTABLE)

    # Activity

    def mark_page_accessed(self, folio: Folio) -> None:
        """Note that a page was used: first referenced, then active.

        Source: mm/swap.c:folio_mark_accessed @6.1.192
        """
        flags = folio.flags
        if not flags & PG_REFERENCED:
            folio.flags = flags | PG_REFERENCED
        elif not flags & (PG_UNEVICTABLE | PG_ACTIVE):
            if flags & PG_LRU:
                self._activate(folio)
            elif folio in self._add_batch[self.cpu]:
                folio.flags |= PG_ACTIVE
            folio.flags &= ~PG_REFERENCED
            self.lruvec_of(folio).nonresident_age += folio.nr_pages

    def _activate(self, folio: Folio) -> None:
        """Source: mm/swap.c:folio_activate @6.1.192."""
        folio.refcount += 1
        batch = self._activate_batch[self.cpu]
        batch.append(folio)
        if len(batch) >= _PAGEVEC_SIZE or folio.order:
            self._drain_activations(batch)

    def _drain_activations(self, batch: list[Folio]) -> None:
        """Source: mm/swap.c:folio_activate_fn @6.1.192."""
        folios, batch[:] = batch[:], []
        for folio in folios:
            if folio.flags & PG_LRU and not folio.flags & (PG_ACTIVE | PG_UNEVICTABLE):
                self._unlink(folio)
                folio.flags |= PG_ACTIVE
                self.add_to_list(folio)
                self.stat.count("pgactivate", folio.nr_pages)
        self._folios.release_pages(folios)

    def rotate_reclaimable(self, folio: Folio) -> None:
        """Move a page whose writing has ended to where reclaim looks first.

        Source: mm/swap.c:folio_rotate_reclaimable @6.1.192
        Differs: at once, without a batch.
        """
        if folio.flags & PG_LRU and not folio.flags & (PG_LOCKED | PG_DIRTY | PG_UNEVICTABLE):
            self._unlink(folio)
            folio.flags &= ~PG_ACTIVE
            self.add_to_list(folio, tail=True)
            self.stat.count("pgrotated", folio.nr_pages)

    def note_cost(self, lruvec: Lruvec, file: bool, nr_pages: int) -> None:
        """Remember that reclaiming pages of one kind has cost input or output.

        Source: mm/swap.c:lru_note_cost @6.1.192
        """
        if file:
            lruvec.file_cost += nr_pages
        else:
            lruvec.anon_cost += nr_pages
        size = sum(lruvec.pages[:LRU_UNEVICTABLE])
        if lruvec.file_cost + lruvec.anon_cost > size // 4:
            lruvec.file_cost //= 2
            lruvec.anon_cost //= 2

    # Refaults

    def workingset_eviction(self, folio: Folio) -> Shadow:
        """Return what an evicted page leaves behind.

        Source: mm/workingset.c:workingset_eviction @6.1.192
        """
        lruvec = self.lruvec_of(folio)
        age = lruvec.nonresident_age
        lruvec.nonresident_age += folio.nr_pages
        return lruvec.node, age, bool(folio.flags & PG_WORKINGSET)

    def workingset_refault(self, folio: Folio, shadow: Shadow) -> None:
        """Make a page active that comes back so soon that it would have stayed on a list as long as the active one.

        Source: mm/workingset.c:workingset_refault @6.1.192
        """
        file = folio_is_file_lru(folio)
        node, eviction, workingset = shadow
        lruvec = self.nodes[node]
        counters = self.stat.node[self.lruvec_of(folio).node]
        kind = "file" if file else "anon"
        counters[f"workingset_refault_{kind}"] += folio.nr_pages
        size = lruvec.pages[LRU_ACTIVE_FILE]
        if not file:
            size += lruvec.pages[LRU_INACTIVE_FILE]
        if self.stat.swap_free_pages > 0:
            size += lruvec.pages[LRU_ACTIVE_ANON]
            if file:
                size += lruvec.pages[LRU_INACTIVE_ANON]
        if lruvec.nonresident_age - eviction > size:
            return
        folio.flags |= PG_ACTIVE
        self.lruvec_of(folio).nonresident_age += folio.nr_pages
        counters[f"workingset_activate_{kind}"] += folio.nr_pages
        if workingset:
            folio.flags |= PG_WORKINGSET
            self.note_cost(self.lruvec_of(folio), file, folio.nr_pages)
            counters[f"workingset_restore_{kind}"] += folio.nr_pages

    # Looking at it

    def folios_of(self, lru: int) -> Iterator[Folio]:
        """Folios on one kind of list, node by node, tail first."""
        for lruvec in self.nodes:
            yield from lruvec.lists[lru]

    def validate(self) -> None:
        """Check that lists, flags, page records and counters agree.

        Raises
        ------
        StateError
            At the first contradiction.

        Notes
        -----
        O(folios on the lists).
        """
        zones: dict[tuple[int, int], int] = {}
        for lruvec in self.nodes:
            for lru, folios in enumerate(lruvec.lists):
                for folio in folios:
                    self._validate_folio(folio, lru, lruvec)
                    key = (int(self._zone_of[folio.pfn]), lru)
                    zones[key] = zones.get(key, 0) + folio.nr_pages
                total = sum(folio.nr_pages for folio in folios)
                if not total == lruvec.pages[lru] == self.stat.node[lruvec.node][_NODE_NAMES[lru]]:
                    raise StateError(f"node {lruvec.node} miscounts {_NODE_NAMES[lru]}")
        for zone, counters in enumerate(self.stat.zone):
            for lru, name in enumerate(_ZONE_NAMES):
                if counters[name] != zones.get((zone, lru), 0):
                    raise StateError(f"zone {zone} miscounts {name}: {counters[name]}")
        self._validate_batches((*self._add_batch, *self._activate_batch))

    def _validate_folio(self, folio: Folio, lru: int, lruvec: Lruvec) -> None:
        if not folio.flags & PG_LRU or folio_lru_list(folio) != lru:
            raise StateError(f"{folio!r} is on list {lru}")
        if self._folios.get(folio.pfn) is not folio or self._pages[folio.pfn]["order"] != folio.order:
            raise StateError(f"{folio!r} is on an LRU list, but not in use")
        if not self._page_flags[folio.pfn : folio.pfn + folio.nr_pages].all():
            raise StateError(f"{folio!r} is on an LRU list, but its frames do not say so")
        if int(self._zone_of[folio.pfn]) // _MAX_NR_ZONES != lruvec.node:
            raise StateError(f"{folio!r} is on the list of node {lruvec.node}")

    def _validate_batches(self, batches: Iterable[list[Folio]]) -> None:
        for batch in batches:
            for folio in batch:
                if self._folios.get(folio.pfn) is not folio or folio.refcount < 1:
                    raise StateError(f"{folio!r} waits in a batch, but is not in use")
