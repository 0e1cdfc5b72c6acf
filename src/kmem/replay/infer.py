# SPDX-License-Identifier: GPL-2.0-only
"""The machine that a trace was recorded on, as far as the trace tells.

Architecture from the kernel addresses, memory from the highest page frame,
CPUs from the highest CPU number.  What cannot be seen is assumed and said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kmem.errors import InputError
from kmem.machine.description import MAX_ADDRESS, MAX_CPUS, MachineDescription
from kmem.replay.direct_map import DirectMapVotes
from kmem.trace.events import Event, EventBatch, EventFlag

__all__ = ["PAGE_OFFSETS", "Survey", "architecture", "infer_description", "survey"]

#: Where the direct map begins without KASLR, by architecture.
PAGE_OFFSETS = {"x86_64": 0xFFFF888000000000, "i386": 0xC0000000}

_PAGE_SHIFT = 12
_MIB = 1 << 20
_GIB = 1 << 30
_USUAL_FRAMES = 1 << 28  #: addresses of 1 TiB of memory are believed without a page event
_PIECE_SHIFT = 15  #: frames of 128 MiB, as a power of two
_KERNEL_64 = 0xFFFF800000000000
_LOWMEM_END = 0xF8000000  #: of 32 bits; vmalloc and fixed mappings lie above
_MIX = 0x9E3779B97F4A7C15
_PCI_HOLE = (0xC0000, 0x100000)  #: frames of a PC below 4 GiB that are never memory


@dataclass(slots=True)
class Survey:
    """What one pass over a trace found.

    Attributes
    ----------
    events : int
        Events in the table.
    first_ns, last_ns : int
        Times of the first and the last event; 0 if there is none.
    cpus : dict of int to (int, int)
        How many events each CPU has, and its number.
    max_pfn : int
        Highest frame of a page event, with its whole block; -1 if there is none.
    frames : dict of int to (int, int)
        How many page events lie in each 128 MiB of memory, and the highest
        frame of them.
    mapped : dict of int to (int, int)
        The same for object addresses in the usual direct map of 64 bits.
    named_allocations : bool
        Whether allocations name their cache (kernels from 6.6 on).
    cache_names : dict of (str, int, int) to str
        Name of the cache by call site, bytes asked for and bytes given, where
        an object is freed by name soon after its allocation.
    """

    events: int = 0
    first_ns: int = 0
    last_ns: int = 0
    cpus: dict[int, tuple[int, int]] = field(default_factory=dict)
    max_pfn: int = -1
    frames: dict[int, tuple[int, int]] = field(default_factory=dict)
    mapped: dict[int, tuple[int, int]] = field(default_factory=dict)
    named_allocations: bool = False
    cache_names: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _direct_map: DirectMapVotes = field(default_factory=DirectMapVotes, repr=False)
    _pointers: int = field(default=0, repr=False)
    _aligned: int = field(default=0, repr=False)
    _wide: int = field(default=0, repr=False)
    _kernel_32: int = field(default=0, repr=False)
    _kernel_64: int = field(default=0, repr=False)
    _max_low: int = field(default=0, repr=False)

    def add(self, batch: EventBatch) -> None:
        """Take the events of one batch into account."""
        if not len(batch):
            return
        if not self.events:
            self.first_ns = int(batch.time_ns[0])
        self.last_ns = max(self.last_ns, int(batch.time_ns.max()))
        self.events += int(np.count_nonzero(batch.event != Event.LOST))
        for cpu, count in enumerate(np.bincount(batch.cpu).tolist()):
            if count:
                self.cpus[cpu] = self.cpus.get(cpu, (0, 0))[0] + count, cpu
        usable = (batch.flags & (EventFlag.FAILED | EventFlag.NO_POINTER)) == 0
        pages = usable & np.isin(batch.event, (Event.MM_PAGE_ALLOC, Event.MM_PAGE_FREE))
        if pages.any():
            last = batch.target[pages].astype(np.int64) + (1 << np.minimum(batch.order[pages], 10).astype(np.int64)) - 1
            self.max_pfn = max(self.max_pfn, int(last.max()))
            _count_frames(self.frames, last)
        self._direct_map.add(batch)
        objects = usable & (batch.event > 0) & (batch.event <= Event.KMEM_CACHE_FREE) & (batch.target != 0)
        if objects.any():
            pointers = batch.target[objects]
            self._pointers += len(pointers)
            self._wide += int(np.count_nonzero(pointers >> np.uint64(32)))
            self._kernel_32 += int(np.count_nonzero(pointers >= PAGE_OFFSETS["i386"]))
            self._kernel_64 += int(np.count_nonzero(pointers >= _KERNEL_64))
            self._max_low = max(self._max_low, int(pointers[pointers < _LOWMEM_END].max(initial=0)))
            direct = pointers[pointers >= PAGE_OFFSETS["x86_64"]] - np.uint64(PAGE_OFFSETS["x86_64"])
            _count_frames(self.mapped, (direct >> np.uint64(_PAGE_SHIFT)).astype(np.int64))
            self._aligned += int(np.count_nonzero((pointers & np.uint64(7)) == 0))
            allocations = (
                objects & (batch.event >= Event.KMEM_CACHE_ALLOC) & (batch.event <= Event.KMEM_CACHE_ALLOC_NODE)
            )
            self.named_allocations |= bool((batch.cache[allocations] != 0).any())
            if not self.named_allocations:
                self._learn_names(batch, allocations)

    def _learn_names(self, batch: EventBatch, allocations: npt.NDArray[np.bool_]) -> None:
        """Find allocations whose next event at the same pointer is a free that names the cache."""
        rows = np.flatnonzero(allocations | (batch.event == Event.KMEM_CACHE_FREE))
        rows = rows[np.argsort(batch.target[rows], kind="stable")]
        before, after = rows[:-1], rows[1:]
        paired = (
            allocations[before]
            & (batch.cache[after] != 0)
            & ~allocations[after]
            & (batch.target[before] == batch.target[after])
        )
        before, after = before[paired], after[paired]
        columns = (batch.call_site[before], batch.bytes_req[before], batch.bytes_alloc[before], batch.cache[after])
        # Sorting one number is much faster than sorting rows of four; that two rows get the same is out of the way.
        mixed = np.zeros(len(before), np.uint64)
        for column in columns:
            mixed = mixed * np.uint64(_MIX) + column.astype(np.uint64)
        _, first = np.unique(mixed, return_index=True)
        for site, bytes_req, bytes_alloc, cache in zip(*(column[first].tolist() for column in columns), strict=True):
            key = (batch.strings.call_sites[site], bytes_req, bytes_alloc)
            self.cache_names.setdefault(key, batch.strings.caches[cache])

    @property
    def nr_cpus(self) -> int:
        """CPUs by the highest CPU number, damaged numbers apart; at least 1."""
        return _plausible_top(self.cpus) + 1 or 1

    @property
    def wide(self) -> bool:
        """Whether most object addresses have more than 32 bits."""
        return self._wide * 2 > self._pointers

    @property
    def pointers(self) -> int:
        """Object addresses seen."""
        return self._pointers

    @property
    def direct_map(self) -> int:
        """Address of frame 0 in the direct map as the trace itself shows it, 0 if it does not."""
        return self._direct_map.base or 0

    @property
    def hashed(self) -> bool:
        """Whether the pointers are hashes and say nothing about addresses.

        A hash has 32 random bits: on 64 bits it is no kernel address, and on
        32 bits most hashes are not aligned.
        """
        if not self._pointers or self.direct_map or self._kernel_64 * 2 > self._pointers:
            return False
        real = self._kernel_32 >= 0.95 * self._pointers and self._aligned >= 0.95 * self._pointers
        return self.wide or not real

    @property
    def kaslr(self) -> bool:
        """Whether 64-bit addresses do not fit a direct map at its usual place."""
        if self.direct_map:
            return self.wide and self.direct_map != PAGE_OFFSETS["x86_64"]
        if not self._kernel_64 * 2 > self._pointers:
            return False
        most = max(4 * (_plausible_top(self.frames) + 1), _GIB >> _PAGE_SHIFT) if self.frames else _USUAL_FRAMES
        fitting = sum(count for piece, (count, _) in self.mapped.items() if piece << _PIECE_SHIFT < most)
        return fitting < 0.95 * self._pointers

    @property
    def page_offset(self) -> int:
        """Address of frame 0 in the direct map; 0 if it is not known, so that addresses say nothing about frames."""
        if self.direct_map:
            return self.direct_map
        return 0 if self.hashed or self.kaslr else PAGE_OFFSETS[architecture(self)[0]]

    def top_frame(self, arch: str) -> int:
        """Highest frame of memory by page events and object addresses, damaged numbers apart; -1 if none is seen."""
        top = _plausible_top(self.frames)
        offset = self.page_offset
        if not offset or not self._pointers:
            return top
        if arch == "x86_64":
            shift = offset - PAGE_OFFSETS[arch] >> _PAGE_SHIFT
            shifted = {
                piece - (shift >> _PIECE_SHIFT): (count, highest - shift)
                for piece, (count, highest) in self.mapped.items()
                if highest >= shift
            }
            return max(top, _plausible_top(shifted))
        if self._max_low >= offset:
            top = max(top, (self._max_low - offset) >> _PAGE_SHIFT)
        return top


def _count_frames(counts: dict[int, tuple[int, int]], pfns: npt.NDArray[np.int64]) -> None:
    """Add frames to the counts by 128 MiB."""
    pieces, inverse, numbers = np.unique(pfns >> _PIECE_SHIFT, return_inverse=True, return_counts=True)
    highest = np.zeros(len(pieces), np.int64)
    np.maximum.at(highest, inverse, pfns)
    for piece, number, top in zip(pieces.tolist(), numbers.tolist(), highest.tolist(), strict=True):
        count, before = counts.get(piece, (0, -1))
        counts[piece] = count + number, max(before, top)


def _plausible_top(counts: dict[int, tuple[int, int]]) -> int:
    """The highest number, but for a few far above all others, which damage to the trace has left readable.

    One in 200 may be such, and up to three if there are few in all.
    """
    total = sum(count for count, _ in counts.values())
    spare = max(total // 200, min(3, total // 50))
    pieces = sorted(counts, reverse=True)
    top = 0
    for place, (piece, below) in enumerate(itertools.pairwise(pieces), 1):
        spare -= counts[piece][0]
        if spare < 0:
            break
        if piece >= 4 * (below + 1):
            top = place
    return counts[pieces[top]][1] if pieces else -1


def survey(batches: Iterable[EventBatch]) -> Survey:
    """Look through a trace once.

    Notes
    -----
    Complexity: O(events); memory does not grow.
    """
    found = Survey()
    for batch in batches:
        found.add(batch)
    return found


def infer_description(
    found: Survey,
    *,
    pointer_digits: int = 0,
    nr_cpus: int = 0,
    ram: int | str | None = None,
    cpus: int | None = None,
) -> tuple[MachineDescription, list[str]]:
    """Describe the machine behind a trace.

    Parameters
    ----------
    found : Survey
    pointer_digits : int
        16 or 8 if the kernel printed the pointers, 0 if that is not known.
    nr_cpus : int
        CPUs by the trace's own header, 0 if it does not say.
    ram, cpus : int or str, optional
        What is known of the machine and shall not be inferred.

    Returns
    -------
    description : MachineDescription
    assumed : list of str
        A sentence for each thing inferred.

    Raises
    ------
    InputError
        If the trace's frames lie beyond any machine.
    """
    arch, why = architecture(found, pointer_digits)
    assumed = [f"architecture {arch}: {why}"]
    top = found.top_frame(arch)
    if found.max_pfn > top:
        assumed.append(f"page frames far above the others, up to {found.max_pfn:#x}, are damage and no memory")
    if cpus is None:
        # CPU numbers may have gaps, but not many; more than a kernel runs on are damage.
        seen = nr_cpus if nr_cpus and found.nr_cpus > 4 * nr_cpus else max(found.nr_cpus, nr_cpus)
        cpus = min(seen, MAX_CPUS[arch])
        source = "the trace says so" if nr_cpus else "highest CPU number"
        assumed.append(f"{cpus} CPU{'s' if cpus > 1 else ''}: {source}")
    if ram is not None:
        pass
    elif top < 0:
        ram = 4 << 30 if arch == "x86_64" else 1 << 30
        assumed.append(f"memory {ram >> 30} GiB: no frame numbers in the trace")
    else:
        ram = _ram_for(top, arch)
        assumed.append(f"memory {ram // _MIB} MiB: highest page frame {top:#x}")
    if found.hashed:
        assumed.append("pointers are hashed: pages of slabs are told by their GFP flags and the order of events")
    if found.kaslr:
        offset = found.page_offset
        where = f"physical memory mapped at {offset:#x}" if offset else "pages of slabs are told by their flags"
        assumed.append(f"addresses are randomised (KASLR): {where}")
    return MachineDescription.preset(arch, ram=ram, cpus=cpus), assumed


def architecture(found: Survey, pointer_digits: int = 0) -> tuple[str, str]:
    """Return the architecture that a trace was recorded on, and how that can be told."""
    if found.wide:
        return "x86_64", "64-bit object addresses"
    if pointer_digits == 16:
        return "x86_64", "pointers of 16 digits"
    if pointer_digits == 8:
        return "i386", "pointers of 8 digits"
    if found.pointers and not found.hashed:
        return "i386", "object addresses above 3 GiB"
    if found.max_pfn >= 1 << 20:
        return "x86_64", "page frames above 4 GiB"
    return "x86_64", "nothing in the trace says otherwise"


def _ram_for(top: int, arch: str) -> int:
    """The smallest usual amount of memory whose map reaches frame `top`."""
    if top >= _PCI_HOLE[1]:
        top -= _PCI_HOLE[1] - _PCI_HOLE[0]
    needed = (top + 1) << _PAGE_SHIFT
    if needed > MAX_ADDRESS - (1 << 30) or (arch == "i386" and needed > 4 << 30):
        raise InputError(
            f"page frame {top:#x} lies beyond any {arch} machine",
            remedy="give its memory (--ram) or describe it (--machine)",
        )
    step = 64 * _MIB
    if needed > 1 << 30:
        step = 256 * _MIB
    if needed > 16 << 30:
        step = 1 << 30
    # the topmost pages of a machine are the firmware's: a trace that reaches them has seen almost all
    return -(-needed // step) * step
