# SPDX-License-Identifier: GPL-2.0-only
"""Verification of vmalloc recordings.

The model starts from the areas of the recording's first state dump, repeats
each allocation, free and purge, and must name the recorded address, size,
guard page and flags; at each later dump its busy, free and lazily freed areas
must be the recorded ones.

What is not compared: which frames an area got (the state of caches and page
tables, which take frames too, is not recorded).  A dump that does not show the
free areas (i386) lets the model start from what is not busy; nothing may be
lazy then, which is so after a forced purge.

A recording during which the kernel's purge worker ran is refused, or skipped in a folder: when a
worker thread gets the CPU is not recorded, and the addresses that follow
depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from kmem.errors import InputError, NotSupportedError, StateError
from kmem.machine.records import Record, number, read_records
from kmem.machine.statedump import StateDump
from kmem.mm.vmalloc import Vmalloc, VmStruct
from kmem.mm.vmap import PAGE_SHIFT, VmapArea, VmapLayout, VmapSpace
from kmem.verify.result import BehaviourOnlyError, Difference, Result

__all__ = ["load_vmalloc", "verify_vmalloc"]

MAX_DIFFERENCES = 20
_IGNORED: Final = frozenset({"skip", "t", "L", "U", "Z"})
_FUNCTIONS: Final = {0: "vmalloc", 1: "vzalloc", 2: "vmalloc_32"}
_VMALLOC_32: Final = 2

# How kernels of either word size are configured; the sizes of vmap blocks follow from it.
_CONFIG_NR_CPUS: Final = {64: 8192, 32: 32}


def verify_vmalloc(path: Path, *, stop_at_first: bool = False) -> Result:
    """Check one vmalloc recording against the model.

    Parameters
    ----------
    path : pathlib.Path
        A recording with state dumps and ``v``, ``V`` and ``B`` operations.
    stop_at_first : bool, optional
        Report the first difference only. The recording is read to its end in any case.

    Returns
    -------
    Result
        One operation counted for each allocation, free and purge.

    Raises
    ------
    InputError
        If the file is damaged, or holds what a vmalloc recording cannot hold.
    NotSupportedError
        If so much was freed lazily that the kernel's purge worker ran.
    """
    checker = _Checker(path)
    records = read_records(path)
    for line, record in records:
        try:
            if record.get("t") == "dump":
                checker.dump(StateDump.collect(record, records, path, line))
            elif "op" in record:
                checker.step(record)
        except (InputError, NotSupportedError) as error:
            raise error.at(file=path, line=line) from None
        except (KeyError, TypeError, ValueError) as error:
            what = f"a record without {error}" if isinstance(error, KeyError) else f"an unusable record: {error}"
            raise InputError(what, file=path, line=line) from None
    if checker.vmalloc is None:
        raise InputError("no state dump with areas of the address space to start from", file=path)
    if stop_at_first:
        del checker.result.differences[1:]
    return checker.result


def load_vmalloc(dump: StateDump, schedule_work: Callable[[Callable[[], None]], None] | None = None) -> Vmalloc:
    """Start vmalloc from the areas that a state dump shows; frames are not handed out.

    Parameters
    ----------
    dump : StateDump
        With ``vmap`` records, and ``globals`` that tell the limits.
    schedule_work : callable, optional
        See :class:`~kmem.mm.vmap.VmapSpace`.

    Raises
    ------
    InputError
        The areas do not make up the address space.
    """
    limits = dump.globals
    start, end = number(limits, "VMALLOC_START"), number(limits, "VMALLOC_END")
    bits = 64 if end >> 32 else 32
    busy = []
    for record in dump.of("vmap"):
        area = VmapArea(number(record, "start"), number(record, "end"))
        if "vmsize" in record:
            nr_pages, caller = number(record, "nr_pages"), str(record.get("caller", ""))
            area.vm = VmStruct(
                area.va_start, number(record, "vmsize"), number(record, "flags"), nr_pages, caller=caller
            )
        busy.append(area)
    try:
        space = VmapSpace(
            VmapLayout(start, end, bits, _CONFIG_NR_CPUS[bits], huge=bits == 64),
            busy,
            _areas(dump.of("vfree")) if dump.of("vfree") else None,
            _areas(dump.of("vpurge")),
            online_cpus=dump.nr_cpus,
            schedule_work=schedule_work,
        )
        vmalloc = Vmalloc(space, totalram_pages=number(limits, "totalram"))
        vmalloc.validate()
    except StateError as error:
        raise InputError(f"state dump {dump.name!r} is unusable: {error}", line=dump.line) from None
    return vmalloc


def _areas(records: Iterable[Record]) -> list[VmapArea]:
    return [VmapArea(number(record, "start"), number(record, "end")) for record in records]


class _Checker:
    def __init__(self, path: Path) -> None:
        self.result = Result(f"{path.parent.name}/{path.name.removesuffix('.gz').removesuffix('.jsonl')}", "vmalloc")
        self.vmalloc: Vmalloc | None = None
        self.slots: dict[int, int] = {}
        self.purged = False

    # ------------------------------------------------------------ operations

    def step(self, record: Record) -> None:
        """Repeat one operation, and compare what it did."""
        op = record["op"]
        if op in _IGNORED:
            return
        if op not in ("v", "V", "B"):
            raise InputError(f"operation {op!r} does not belong in a vmalloc recording")
        if self.vmalloc is None:
            if op != "B":
                raise InputError("an operation before the first state dump")
            self.purged = True
            return
        message = self.describe(self.vmalloc, record)
        self.result.operations += 1
        try:
            if op == "v":
                got = self.allocate(self.vmalloc, record)
            else:
                got = self.release(self.vmalloc, record)
        except StateError as error:
            got = {"operation": str(error)}
        wanted = {name: record.get(name, "done" if name == "operation" else None) for name in got}
        wrong = [name for name in got if got[name] != wanted[name]]
        if not wrong:
            self.result.identical += 1
            return
        self.note(
            record.get("i"),
            ", ".join(wrong),
            ", ".join(f"{name} {wanted[name]}" for name in wrong),
            ", ".join(f"{name} {got[name]}" for name in wrong),
            message,
        )

    def allocate(self, vmalloc: Vmalloc, record: Record) -> Record:
        """Allocate; return the model's answer, in the fields that the recording has."""
        kind, slot = number(record, "kind"), number(record, "slot")
        size = _size(vmalloc, record)
        if kind in _FUNCTIONS:
            addr = getattr(vmalloc, _FUNCTIONS[kind])(size)
        else:
            addr = vmalloc.vmalloc_gfp(size, number(record, "gfp"))
        if addr is None:
            return {"addr": "0x0"}
        self.slots[slot] = addr
        va = vmalloc.space.busy.find(addr)
        assert va is not None and isinstance(va.vm, VmStruct)
        got: Record = {
            "addr": f"{addr:#x}",
            "va_start": f"{va.va_start:#x}",
            "va_end": f"{va.va_end:#x}",
            "vmsize": va.vm.size,
            "flags": f"{va.vm.flags:#x}",
            "nr_pages": va.vm.nr_pages,
            "pages_array": "kmalloc" if va.vm.pages_array is None else "vmalloc",
        }
        if "page_order" in record:
            got["page_order"] = va.vm.page_order
        if kind == _VMALLOC_32:
            got["highmem_pages"] = 0
        return got

    def release(self, vmalloc: Vmalloc, record: Record) -> Record:
        """Free an area, or purge what is lazy; return the model's answer."""
        got: Record = {}
        if record["op"] == "V":
            slot = number(record, "slot")
            if slot not in self.slots:
                raise StateError(f"nothing in slot {slot}")
            addr = self.slots.pop(slot)
            got["addr"] = f"{addr:#x}"
            vmalloc.vfree(addr)
        else:
            vmalloc.space.vm_unmap_aliases()
        if "lazy_pages" in record:
            got["lazy_pages"] = vmalloc.space.nr_lazy
        return got

    def describe(self, vmalloc: Vmalloc, record: Record) -> str:
        """Return an operation in words, and what the model has at the recorded address before it."""
        op = record["op"]
        if op == "B":
            return f"vm_unmap_aliases() with {vmalloc.space.nr_lazy} lazy pages"
        addr = number(record, "addr")
        if op == "V":
            return f"vfree({addr:#x}), slot {record.get('slot')}\n  {_around(vmalloc.space, addr)}"
        size = _size(vmalloc, record)
        function = _FUNCTIONS.get(number(record, "kind"), "__vmalloc")
        pages = -(-size >> PAGE_SHIFT)
        text = f"{function}({size}): {pages} pages and a guard page"
        return f"{text}\n  {_around(vmalloc.space, addr)}" if addr else text

    def note(self, op: int | None, where: str, expected: Any, got: Any, message: str = "") -> None:
        if len(self.result.differences) < MAX_DIFFERENCES:
            self.result.differences.append(Difference(op, where, expected, got, message))

    # ------------------------------------------------------------ dumps

    def dump(self, dump: StateDump) -> None:
        """Start from a dump, or compare with one."""
        if not dump.of("vmap"):
            return
        if self.vmalloc is None:
            self.vmalloc = load_vmalloc(dump, _refuse_worker)
            if not dump.of("vfree") and not self.purged:
                self.result.notes.append("nothing taken to be lazily freed at the start: the dump does not show it")
            return
        space = self.vmalloc.space
        busy = [_busy_record(va) for va in space.busy.areas()]
        same = self.compare(dump, "busy areas", [_recorded_area(record) for record in dump.of("vmap")], busy)
        if dump.of("vfree"):
            same &= self.compare(dump, "free areas", _ranges(dump.of("vfree")), _hex(space.free.ranges()))
            same &= self.compare(dump, "lazily freed areas", _ranges(dump.of("vpurge")), _hex(space.lazy.ranges()))
        for record in dump.of("vlazy"):
            same &= self.compare(dump, "lazy pages", [record.get("pages")], [space.nr_lazy])
        self.result.end_state = self.result.end_state is not False and same

    def compare(self, dump: StateDump, what: str, expected: list[Any], got: list[Any]) -> bool:
        """Compare two lists; their first difference is noted."""
        if expected == got:
            return True
        both = zip(expected, got, strict=False)
        place = next((i for i, (one, other) in enumerate(both) if one != other), min(len(expected), len(got)))
        sides = [side[place] if place < len(side) else "nothing" for side in (expected, got)]
        counts = f"{len(expected)} recorded, {len(got)} in the model"
        self.note(None, f"state dump {dump.name!r}: {what}, number {place}", sides[0], sides[1], counts)
        return False


def _refuse_worker(work: Callable[[], None]) -> None:
    raise BehaviourOnlyError(
        "more is freed lazily than the kernel keeps: its purge worker ran, at a moment that is not recorded",
        remedy="recordings with forced purges (operation B) can be verified",
    )


def _size(vmalloc: Vmalloc, record: Record) -> int:
    """Return the size asked for: recorders print an ``unsigned long`` as a ``long``."""
    size, largest = number(record, "size"), vmalloc.space.layout.ulong_max
    return size & largest if size >= -largest // 2 - 1 else size


def _around(space: VmapSpace, addr: int) -> str:
    for name, areas in (("busy", space.busy), ("lazily freed", space.lazy), ("free", space.free)):
        va = areas.find(addr)
        if va is not None:
            return f"{addr:#x} lies in the {name} area {va.va_start:#x}-{va.va_end:#x}, {va.nr_pages} pages"
    return f"{addr:#x} lies in no area"


def _busy_record(va: VmapArea) -> Record:
    answer: Record = {"start": f"{va.va_start:#x}", "end": f"{va.va_end:#x}"}
    if isinstance(va.vm, VmStruct):
        answer |= {"vmsize": va.vm.size, "flags": f"{va.vm.flags:#x}", "nr_pages": va.vm.nr_pages}
    return answer


def _recorded_area(record: Record) -> Record:
    return {name: record[name] for name in ("start", "end", "vmsize", "flags", "nr_pages") if name in record}


def _ranges(records: Iterable[Record]) -> list[str]:
    return [f"{record['start']}-{record['end']}" for record in records]


def _hex(ranges: Iterable[tuple[int, int]]) -> list[str]:
    return [f"{start:#x}-{end:#x}" for start, end in ranges]
