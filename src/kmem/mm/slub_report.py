# SPDX-License-Identifier: GPL-2.0-only
"""What SLUB prints about a damaged slab.

:class:`SlubReporter` puts the reports together, line by line as the kernel
does; :mod:`kmem.mm.slub_check` finds what there is to report.  The lines of one
call are delivered together when the call is done, so that state is whole
whatever the receiver does.

Source: mm/slub.c @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kmem.errors import KernelBug, KernelOops, KernelReport, KernelWarning
from kmem.mm.printk import KERN_INFO
from kmem.mm.report import TAINT_BAD_PAGE, Context, Report, print_tainted
from kmem.mm.slab_flags import SLAB_RED_ZONE, SLAB_STORE_USER
from kmem.mm.slub_bytes import TRACK_ALLOC, TRACK_FREE, ObjectLayout, SlabMemory, Track

if TYPE_CHECKING:
    from kmem.mm.slub import Slub

__all__ = ["PageStructs", "SlabView", "SlubReporter"]

_PAGE_BYTES: Final = 4096
_NO_OBJECT: Final = 0xFFFF
_WILD: Final = 0xFFFD
_MAX_NR_ZONES: Final = 5
_LINE: Final = "=" * 77
_DASHES: Final = "-" * 77
# Source: include/linux/page-flags.h @6.1.192
_PG_SLAB: Final = 1 << 9
_PG_HEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class PageStructs:
    """Where the kernel keeps its ``struct page``.

    Attributes
    ----------
    base : int
        Address of that of frame 0.
    size_bytes : int
        64, or 40 on i386.
    """

    base: int = 0xFFFFEA0000000000
    size_bytes: int = 64

    def address(self, pfn: int) -> int:
        """Return the address of a frame's ``struct page``."""
        return self.base + pfn * self.size_bytes


class SlabView:
    """``struct slab`` while the checker works on it: counters, and the freelist as an address.

    Attributes
    ----------
    pfn : int
        First frame.
    address : int
        Kernel address of its first byte.
    objects, inuse, frozen : int
    freelist : int
        Kernel address of the first free object, or whatever else stands there; 0 for none.
    order : int
    cache : int
        Index of the cache that it is of.
    """

    __slots__ = ("_row", "_slub", "address", "cache", "freelist", "frozen", "inuse", "objects", "order", "pfn", "s")

    def __init__(self, slub: Slub, pfn: int, s: ObjectLayout) -> None:
        self._slub = slub
        self._row = row = slub.memmap.pages_array[pfn]
        self.pfn = pfn
        self.s = s
        self.address = slub.page_offset + pfn * _PAGE_BYTES
        self.cache = int(row["cache"])
        self.order = int(row["order"])
        self.objects = int(row["objects"])
        self.inuse = int(row["inuse"])
        self.frozen = int(row["frozen"])
        index = int(row["freelist"])
        if index == _NO_OBJECT:
            self.freelist = 0
        elif index == _WILD:
            self.freelist = slub.wild[pfn]
        else:
            self.freelist = self.object(index)

    def object(self, index: int) -> int:
        """Return the address of an object."""
        return self.address + self.s.red_left_pad + index * self.s.size

    def index(self, address: int) -> int | None:
        """Return the number of the object at an address, None if none begins there."""
        index, rest = divmod(address - self.address - self.s.red_left_pad, self.s.size)
        return index if not rest and 0 <= index < self.objects else None

    def links(self) -> memoryview:
        """Return the links between the objects, which mirror the free pointers."""
        slots = int(self._row["slots"])
        return self._slub.links_array.data[slots : slots + self.objects]

    def store(self) -> None:
        """Write counters and freelist back."""
        row = self._row
        row["inuse"] = self.inuse
        row["frozen"] = self.frozen
        if self._slub.wild:
            self._slub.wild.pop(self.pfn, None)
        index = self.index(self.freelist) if self.freelist else _NO_OBJECT
        if index is None:
            self._slub.wild[self.pfn] = self.freelist
            index = _WILD
        row["freelist"] = index


class SlubReporter:
    """Reports about slabs.

    Parameters
    ----------
    slub : Slub
    memory : SlabMemory
        The bytes of its slabs.
    page_structs : PageStructs
        Where ``struct page`` is; ``struct slab`` lies over it.
    context : Context, optional
        Who runs where.

    Attributes
    ----------
    errors : int
        What a ``slab_errors`` counter of the kernel's own tests would have counted: each report, and each repair.
    on_report : callable
        Receives a report: the exception that it could be raised as, and the lines with their levels. By default
        it is raised.
    on_log : callable
        Receives lines that are no reports (SLAB_TRACE).
    muted : bool
        Whether what is reported goes nowhere.
    """

    def __init__(
        self, slub: Slub, memory: SlabMemory, page_structs: PageStructs, context: Context | None = None
    ) -> None:
        self.slub = slub
        self.memory = memory
        self.page_structs = page_structs
        self.context = context or Context()
        self.digits = 2 * memory.word_bytes
        self.errors = 0
        self.muted = False
        self.on_report: Callable[[KernelReport, list[tuple[int, str]]], None] = _raise
        self.on_log: Callable[[list[tuple[int, str]]], None] = lambda lines: None
        self.report = Report(self.context, self.digits)
        self._serious = False
        self._sites: dict[str, int] = {}
        self._symbols: dict[int, str] = {}
        self._stacks: list[tuple[str, ...]] = []
        self._handles: dict[tuple[str, ...], int] = {}

    # ------------------------------------------------------------------ delivery

    def deliver(self) -> None:
        """Hand over what was reported during a call."""
        lines, serious = self.report.lines, self._serious
        self._forget()
        if not lines or self.muted:
            return
        if serious:
            self.on_report(KernelWarning(_text(lines)), lines)
        else:
            self.on_log(lines)

    def die(self, kind: type[KernelOops]) -> None:
        """Hand over a report that the running code does not survive."""
        lines = self.report.lines
        self._forget()
        error = kind(_text(lines))
        self.on_report(error, lines)
        raise error

    def _forget(self) -> None:
        self.report = Report(self.context, self.digits)
        self._serious = False
        self.slub.pending = False

    def _note(self) -> None:
        """Count an error; it is delivered when the call is done."""
        self.errors += 1
        self._reported()

    def _reported(self) -> None:
        self._serious = True
        self.slub.pending = True

    # ------------------------------------------------------------------ tracks

    def make_track(self) -> Track:
        """Return who calls now, its stack stored.

        Source: mm/slub.c:set_track_prepare, set_track_update @6.1.192
        Differs: code has no addresses here; each place that calls is given one in the module area.
        """
        stack = tuple(self.context.stack())
        handle = self._handles.get(stack)
        if handle is None:
            self._stacks.append(stack)
            handle = self._handles[stack] = len(self._stacks)
        site = stack[0] if stack else "?"
        addr = self._sites.get(site)
        if addr is None:
            base = 0xFFFFFFFFC0000000 if self.digits == 16 else 0xF8000000
            addr = self._sites[site] = base + 16 * (len(self._sites) + 1)
            self._symbols[addr] = site
        return Track(addr, handle, self.context.cpu(), self.context.pid(), self.context.jiffies())

    def place(self, addr: int) -> str:
        """Return the name of a place that calls, as a track has it; an unknown one is its number."""
        return self._symbols.get(addr, f"0x{addr:x}")

    def stack_of(self, handle: int) -> tuple[str, ...]:
        """Return the call stack that a track refers to; empty if there is none."""
        return self._stacks[handle - 1] if 0 < handle <= len(self._stacks) else ()

    def _print_track(self, what: str, track: Track) -> None:
        """Source: mm/slub.c:print_track @6.1.192."""
        if not track.addr:
            return
        site = self._symbols.get(track.addr, f"0x{track.addr:x}")
        age = (self.context.jiffies() - track.when) & self.memory.word_mask
        pid = track.pid - (1 << 32) if track.pid >> 31 else track.pid
        self.report.pr_err(f"{what} in {site} age={age} cpu={track.cpu} pid={pid}")
        if 0 < track.handle <= len(self._stacks):
            for line in self._stacks[track.handle - 1]:
                self.report.printk(f" {line}")
        else:
            self.report.pr_err("object allocation/free stack trace missing")

    def print_tracking(self, s: ObjectLayout, obj: int) -> None:
        """Say who allocated and who freed an object.

        Source: mm/slub.c:print_tracking @6.1.192
        """
        if s.flags & SLAB_STORE_USER:
            self._print_track("Allocated", self.memory.get_track(s, obj, TRACK_ALLOC))
            self._print_track("Freed", self.memory.get_track(s, obj, TRACK_FREE))

    # ------------------------------------------------------------------ the parts of a report

    def _page_flags(self, slab: SlabView) -> str:
        """Return the page flags of a slab's first page, by number and by name.

        Source: lib/vsprintf.c:format_page_flags @6.1.192
        """
        zone_id = int(self.slub.memmap.pages_array[slab.pfn]["zone"])
        node, zone = divmod(zone_id, _MAX_NR_ZONES)
        names = ["slab"] + (["head"] if slab.order else [])
        bits = _PG_SLAB | (_PG_HEAD if slab.order else 0)
        if self.digits == 16:
            bits |= node << 54 | zone << 51 | 0x1FFFFF << 30
            names += [f"node={node}", f"zone={zone}", "lastcpupid=0x1fffff"]
        else:
            bits |= zone << 30
            names += [f"zone={zone}"]
        return f"0x{bits:x}({'|'.join(names)})"

    def print_slab_info(self, slab: SlabView) -> None:
        """Print counters and freelist of a slab.

        Source: mm/slub.c:print_slab_info @6.1.192
        """
        pointer = self.report.pointer
        self.report.pr_err(
            f"Slab {pointer(self.page_structs.address(slab.pfn))} objects={slab.objects} used={slab.inuse} "
            f"fp={pointer(slab.freelist)} flags={self._page_flags(slab)}"
        )

    def slab_bug(self, s: ObjectLayout, text: str) -> None:
        """Begin a report.

        Source: mm/slub.c:slab_bug @6.1.192
        """
        self.report.pr_err(_LINE)
        self.report.pr_err(f"BUG {s.name} ({print_tainted(self.context.taint)}): {text}")
        self.report.pr_err(f"{_DASHES}\n")

    def slab_fix(self, s: ObjectLayout, text: str) -> None:
        """Say what is done about it.

        Source: mm/slub.c:slab_fix @6.1.192
        """
        self._note()
        self.report.pr_err(f"FIX {s.name}: {text}")

    def print_trailer(self, s: ObjectLayout, slab: SlabView, obj: int) -> None:
        """Print all there is about an object: users, slab, bytes, and how the code got here.

        Source: mm/slub.c:print_trailer @6.1.192
        """
        report, memory = self.report, self.memory
        self.print_tracking(s, obj)
        self.print_slab_info(slab)
        fp = report.pointer(memory.get_freepointer(s, obj))
        report.pr_err(f"Object {report.pointer(obj)} @offset={obj - slab.address} fp={fp}\n")
        if s.flags & SLAB_RED_ZONE:
            self.print_section("Redzone  ", obj - s.red_left_pad, s.red_left_pad)
        elif obj > slab.address + 16:
            self.print_section("Bytes b4 ", obj - 16, 16)
        self.print_section("Object   ", obj, min(s.object_size, _PAGE_BYTES))
        if s.flags & SLAB_RED_ZONE:
            self.print_section("Redzone  ", obj + s.object_size, s.inuse - s.object_size)
        if s.padding != s.size_from_object:
            self.print_section("Padding  ", obj + s.padding, s.size_from_object - s.padding)
        report.dump_stack()

    def print_section(self, text: str, address: int, length: int) -> None:
        """Print bytes.

        Source: mm/slub.c:print_section @6.1.192
        """
        self.report.hex_dump(text, address, self.memory.view(address, length))

    def object_err(self, s: ObjectLayout, slab: SlabView, obj: int, reason: str, *, valid: bool = True) -> None:
        """Report something about an object; `valid` says whether it can be one of the slab's.

        Source: mm/slub.c:object_err @6.1.192
        """
        self._note()
        self.slab_bug(s, reason)
        if not obj or not valid:
            self.print_slab_info(slab)
            self.report.pr_err(f"Invalid pointer {self.report.pointer(obj)}")
        else:
            self.print_trailer(s, slab, obj)
        self.report.add_taint(TAINT_BAD_PAGE, unreliable=True)

    def slab_err(self, s: ObjectLayout, slab: SlabView, text: str) -> None:
        """Report something about a slab as a whole. The kernel cuts `text` at 99 characters.

        Source: mm/slub.c:slab_err @6.1.192
        """
        self._note()
        self.slab_bug(s, text[:99])
        self.print_slab_info(slab)
        self.report.dump_stack()
        self.report.add_taint(TAINT_BAD_PAGE, unreliable=True)

    def restore_bytes(self, s: ObjectLayout, what: str, value: int, first: int, last: int) -> None:
        """Write the bytes that should have been there.

        Source: mm/slub.c:restore_bytes @6.1.192
        """
        pointer = self.report.pointer
        self.slab_fix(s, f"Restoring {what} {pointer(first)}-{pointer(last)}=0x{value:x}")
        self.memory.fill(first, value, last - first + 1)

    def trace(self, s: ObjectLayout, slab: SlabView, obj: int, *, alloc: bool) -> None:
        """Log an allocation or a free of a SLAB_TRACE cache.

        Source: mm/slub.c:trace @6.1.192
        """
        report = self.report
        self.slub.pending = True
        report.printk(
            f"TRACE {s.name} {'alloc' if alloc else 'free'} {report.pointer(obj)} inuse={slab.inuse} "
            f"fp={report.pointer(slab.freelist)}",
            KERN_INFO,
        )
        if not alloc:
            report.hex_dump("Object ", obj, self.memory.view(obj, s.object_size), KERN_INFO)
        report.dump_stack()

    # ------------------------------------------------------------------ warnings and deaths

    def warn(self, file: str, line: int, function: str, message: str = "") -> None:
        """Warn, besides of what else is reported in this call."""
        self._reported()
        self.report.warn(file, line, function, message)

    def bug(self, line: int) -> None:
        """Die of a condition in ``mm/slub.c`` that must not be."""
        self.report.bug("mm/slub.c", line)
        self.die(KernelBug)

    def bad_access(self, address: int, *, write: bool = False) -> None:
        """Die of an access to an address where nothing is."""
        self.report.bad_access(address & self.memory.word_mask, write=write)
        self.die(KernelOops)


def _text(lines: list[tuple[int, str]]) -> str:
    return "\n".join(line for _, line in lines)


def _raise(error: KernelReport, lines: list[tuple[int, str]]) -> None:
    raise error
