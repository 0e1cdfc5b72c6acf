# SPDX-License-Identifier: GPL-2.0-only
"""The machine that a trace was recorded on, as far as the trace tells.

Architecture from the kernel addresses, memory from the highest page frame,
CPUs from the highest CPU number.  What cannot be seen is assumed and said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from kmem.errors import InputError
from kmem.machine.description import MAX_ADDRESS, MAX_CPUS, MachineDescription
from kmem.replay.direct_map import direct_map_base
from kmem.replay.survey_count import SurveyCounter
from kmem.trace.events import EventBatch

__all__ = ["PAGE_OFFSETS", "Survey", "architecture", "infer_description", "survey"]

#: Where the direct map begins without KASLR, by architecture.
PAGE_OFFSETS = {"x86_64": 0xFFFF888000000000, "i386": 0xC0000000}

_PAGE_SHIFT = 12
_MIB = 1 << 20
_GIB = 1 << 30
_USUAL_FRAMES = 1 << 28  #: addresses of 1 TiB of memory are believed without a page event
_LEAST_RAM = 128 * _MIB  #: a short trace may name low frames only; with much less no kernel boots
_PIECE_SHIFT = 15  #: frames of 128 MiB, as a power of two
_PCI_HOLE = (0xC0000, 0x100000)  #: frames of a PC below 4 GiB that are never memory


@dataclass(slots=True)
class Survey:
    """What one pass over a trace found.

    Attributes
    ----------
    cache_names : dict of (str, int, int) to str
        Name of the cache by call site, bytes asked for and bytes given, where
        an object is freed by name soon after its allocation.
    """

    cache_names: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _counter: SurveyCounter = field(default_factory=SurveyCounter, repr=False)

    def add(self, batch: EventBatch) -> None:
        """Take the events of one batch into account."""
        # what a call site's objects are freed as: the first name counts
        for request, free in self._counter.add(batch):
            site = batch.strings.call_sites[int(batch.call_site[request])]
            key = (site, int(batch.bytes_req[request]), int(batch.bytes_alloc[request]))
            self.cache_names.setdefault(key, batch.strings.caches[int(batch.cache[free])])

    @property
    def events(self) -> int:
        """Events in the table."""
        return self._counter.events

    @property
    def first_ns(self) -> int:
        """Time of the first event, 0 if there is none."""
        return self._counter.first_ns

    @property
    def last_ns(self) -> int:
        """Latest time of an event, 0 if there is none."""
        return self._counter.last_ns

    @property
    def cpus(self) -> dict[int, tuple[int, int]]:
        """How many events each CPU has, and its number."""
        return self._counter.cpus()

    @property
    def max_pfn(self) -> int:
        """Highest frame of a page event, with its whole block; -1 if there is none."""
        return self._counter.max_pfn

    @property
    def frames(self) -> dict[int, tuple[int, int]]:
        """How many page events lie in each 128 MiB of memory, and the highest frame of them."""
        return self._counter.frames.found

    @property
    def mapped(self) -> dict[int, tuple[int, int]]:
        """The same for object addresses in the usual direct map of 64 bits."""
        return self._counter.mapped.found

    @property
    def named_allocations(self) -> bool:
        """Whether allocations name their cache (kernels from 6.6 on)."""
        return self._counter.named_allocations

    @property
    def nr_cpus(self) -> int:
        """CPUs by the highest CPU number, damaged numbers apart; at least 1."""
        return _plausible_top(self.cpus) + 1 or 1

    @property
    def wide(self) -> bool:
        """Whether most object addresses have more than 32 bits."""
        return self._counter.wide * 2 > self.pointers

    @property
    def pointers(self) -> int:
        """Object addresses seen."""
        return self._counter.pointers

    @property
    def direct_map(self) -> int:
        """Address of frame 0 in the direct map as the trace itself shows it, 0 if it does not."""
        return direct_map_base(self._counter.bases.found) or 0

    @property
    def hashed(self) -> bool:
        """Whether the pointers are hashes and say nothing about addresses.

        A hash has 32 random bits: on 64 bits it is no kernel address, and on
        32 bits most hashes are not aligned.
        """
        counter, pointers = self._counter, self.pointers
        if not pointers or self.direct_map or counter.kernel_64 * 2 > pointers:
            return False
        real = counter.kernel_32 >= 0.95 * pointers and counter.aligned >= 0.95 * pointers
        return self.wide or not real

    @property
    def kaslr(self) -> bool:
        """Whether 64-bit addresses do not fit a direct map at its usual place."""
        if self.direct_map:
            return self.wide and self.direct_map != PAGE_OFFSETS["x86_64"]
        if not self._counter.kernel_64 * 2 > self.pointers:
            return False
        most = max(4 * (_plausible_top(self.frames) + 1), _GIB >> _PAGE_SHIFT) if self.frames else _USUAL_FRAMES
        fitting = sum(count for piece, (count, _) in self.mapped.items() if piece << _PIECE_SHIFT < most)
        return fitting < 0.95 * self.pointers

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
        if not offset or not self.pointers:
            return top
        if arch == "x86_64":
            shift = offset - PAGE_OFFSETS[arch] >> _PAGE_SHIFT
            shifted = {
                piece - (shift >> _PIECE_SHIFT): (count, highest - shift)
                for piece, (count, highest) in self.mapped.items()
                if highest >= shift
            }
            return max(top, _plausible_top(shifted))
        if self._counter.max_low >= offset:
            top = max(top, (self._counter.max_low - offset) >> _PAGE_SHIFT)
        return top


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
        ram = max(_ram_for(top, arch), _LEAST_RAM)
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
