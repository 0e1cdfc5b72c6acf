# SPDX-License-Identifier: GPL-2.0-only
"""Verification of page-allocator recordings.

The model starts from the recording's first state dump, repeats each
``alloc_pages`` and ``__free_pages`` and must give the recorded frame and the
zone's counters after it; at each later dump its free lists, per-CPU lists and
page blocks must be the recorded ones, in their order.  A later dump has to show
all that the first one showed: what is left out of it has not been compared, and
is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kmem.errors import InputError
from kmem.machine.records import Record, read_records
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.mm.mmzone import MemMap
from kmem.mm.page_alloc import PageAllocator
from kmem.profile import format_gfp
from kmem.verify.result import Difference, Result

__all__ = ["compare_page_state", "missing_page_state", "unproven_end", "verify_pages"]

MAX_DIFFERENCES = 20
_COUNTERS = (("nf", "NR_FREE_PAGES"), ("nfd", "vm_stat_diff"), ("pc", "pcp count"), ("ff", "free_factor"))


def verify_pages(path: Path, *, stop_at_first: bool = False) -> Result:
    """Check one page recording against the model.

    Parameters
    ----------
    path : pathlib.Path
        A ``*.jsonl.gz`` file with state dumps and ``a``/``f`` operations.
    stop_at_first : bool, optional
        Give up at the first difference.

    Returns
    -------
    Result
        One operation counted for each allocation and free.

    Raises
    ------
    InputError
        If the file is damaged, or holds what a page recording cannot hold.
    """
    checker = _Checker(path, stop_at_first)
    checker.run()
    return checker.result


class _Checker:
    def __init__(self, path: Path, stop_at_first: bool) -> None:
        self.path = path
        self.stop_at_first = stop_at_first
        self.result = Result(f"{path.parent.name}/{path.name.removesuffix('.gz').removesuffix('.jsonl')}", "pages")
        self.allocator: PageAllocator | None = None
        self.first: StateDump | None = None
        self.operations_at_dump = 0
        self.cpu = 0
        self.taken: dict[int, int] = {}

    def run(self) -> None:
        records = read_records(self.path)
        for line, record in records:
            try:
                self.step(record, records, line)
            except KeyError as error:
                raise InputError(f"a record without {error}", file=self.path, line=line) from None
            except (TypeError, ValueError, OverflowError, IndexError) as error:
                raise InputError(f"a record that makes no sense: {error}", file=self.path, line=line) from error
            if self.stop_at_first and self.result.differences:
                return
        if self.allocator is None:
            raise InputError("no state dump to start from", file=self.path)
        unproven_end(self.result, self.operations_at_dump)

    def step(self, record: Record, records: Iterator[tuple[int, Record]], line: int) -> None:
        op = record.get("op")
        if record.get("t") == "dump":
            self.dump(StateDump.collect(record, records, self.path, line))
        elif op in ("a", "f"):
            if self.allocator is None:
                raise InputError("an operation before the first state dump", file=self.path, line=line)
            self.operation(self.allocator, record)
        elif op == "drain":
            if self.allocator is not None:
                self.allocator.drain_pages(record.get("cpu", self.cpu))
        elif op is not None and op not in ("L", "U", "skip", "note"):
            raise InputError(f"operation {op!r} does not belong in a page recording", file=self.path, line=line)

    def dump(self, dump: StateDump) -> None:
        if self.allocator is None or self.first is None:
            self.allocator = load_page_allocator(dump)
            self.first = dump
            self.cpu = dump.cpu
            return
        if dump.empty:
            raise InputError(f"state dump {dump.name!r} shows nothing", file=self.path, line=dump.line)
        self.operations_at_dump = self.result.operations
        differences = missing_page_state(self.first, dump) + compare_page_state(self.allocator.memmap, dump)
        self.result.end_state = self.result.end_state is not False and not differences
        self.note(differences)

    def note(self, differences: list[Difference]) -> None:
        room = MAX_DIFFERENCES - len(self.result.differences)
        self.result.differences.extend(differences[:room])

    def operation(self, allocator: PageAllocator, record: Record) -> None:
        self.result.operations += 1
        allocator.cpu = int(record.get("cpu", self.cpu))
        order, expected = int(record["order"]), int(record["pfn"])
        failure: str | None = None
        if record["op"] == "a":
            got = allocator.alloc_pages(int(record["gfp"], 16), order)
            if got != expected:
                failure = f"frame {got}" if got >= 0 else "no frame"
            if got >= 0:
                self.taken[int(record["slot"])] = got
        else:
            got = self.taken.pop(int(record["slot"]), -1)
            try:
                allocator.free_pages(got, order)
            except ValueError as error:
                failure = str(error)
            if got != expected:
                failure = f"frame {got}"
        where = "frame"
        if failure is None and expected >= 0:
            where, failure, wanted = self.counters(allocator, record)
        else:
            wanted = f"frame {expected}" if expected >= 0 else "no frame"
        if failure is None:
            self.result.identical += 1
            return
        self.note([Difference(record.get("i"), where, wanted, failure, _describe(allocator, record))])

    def counters(self, allocator: PageAllocator, record: Record) -> tuple[str, str | None, Any]:
        """Compare the zone's counters; (what, the model's answer or None, the kernel's)."""
        memmap = allocator.memmap
        zone_id = int(memmap.pages_array["zone"][record["pfn"]])
        zone = memmap.zones_array[zone_id]
        name, node = memmap.zone_name(zone_id), int(zone["node"])
        if (name, node) != (record["zone"], record.get("node", node)):
            return "zone", f"{name}, node {node}", f"{record['zone']}, node {record.get('node', node)}"
        pageset = memmap.pagesets_array[zone_id * memmap.nr_cpus + allocator.cpu]
        got = (zone["free_pages"], pageset["stat_diff"], pageset["count"], pageset["free_factor"])
        for (key, what), value in zip(_COUNTERS, got, strict=True):
            if int(value) != record[key]:
                return f"zone {name}: {what}", str(int(value)), record[key]
        return "", None, None


def _describe(allocator: PageAllocator, record: Record) -> str:
    """The operation and the state around it, in words."""
    memmap = allocator.memmap
    if record["op"] == "a":
        gfp = int(record["gfp"], 16)
        text = f"alloc_pages({format_gfp(gfp)} = {gfp:#x}, order {record['order']})"
    else:
        text = f"__free_pages(frame {record['pfn']}, order {record['order']})"
    text += f" on CPU {allocator.cpu}"
    for zone_id in range(memmap.nr_zones):
        zone = memmap.zones_array[zone_id]
        if not zone["managed"]:
            continue
        pageset = memmap.pagesets_array[zone_id * memmap.nr_cpus + allocator.cpu]
        text += (
            f"\n  zone {memmap.zone_name(zone_id)}, node {zone['node']}: free {zone['free_pages']}"
            f" (this CPU {pageset['stat_diff']:+d}),"
            f" min/low/high {'/'.join(str(int(w)) for w in zone['watermark'][:3])}"
            f", boost {zone['watermark_boost']}, free blocks by order {' '.join(str(int(n)) for n in zone['nr_free'])}"
            f", pcp {pageset['count']} of {pageset['high']}"
            f" (batch {pageset['batch']}, free_factor {pageset['free_factor']})"
        )
    return text


def unproven_end(result: Result, operations_at_dump: int) -> None:
    """Take back an identical end state if operations follow the last state dump that was compared.

    Parameters
    ----------
    result : Result
        Of the whole recording; gets a note.
    operations_at_dump : int
        Operations before the last dump compared.
    """
    if result.end_state is None:
        result.notes.append("no state dump after the first one: no end state to compare")
    elif result.end_state and result.operations > operations_at_dump:
        result.end_state = None
        left = result.operations - operations_at_dump
        result.notes.append(f"no state dump after the last {left} operations: no end state to compare")


_PLACE_OF: dict[str, Callable[[Record], tuple[Any, ...]]] = {
    "zone": lambda r: (r["name"], r.get("node", 0)),
    "area": lambda r: (r["zone"], r.get("node", 0), "order", r["order"]),
    "pcp": lambda r: (r["zone"], r.get("node", 0), "CPU", r.get("cpu", 0)),
    "zstat": lambda r: (r["zone"], r.get("node", 0), "CPU", r["cpu"]),
    "pcp_mt": lambda r: (r["zone"], r.get("node", 0), "CPU", r.get("cpu", 0)),
    "pageblocks": lambda r: (r["zone"], r.get("node", 0), "first frame", r["first_pfn"]),
}


def missing_page_state(first: StateDump, dump: StateDump) -> list[Difference]:
    """Say what a later state dump leaves out that the first one showed.

    Parameters
    ----------
    first : StateDump
        The dump that the model started from.
    dump : StateDump
        A later one.

    Returns
    -------
    list of Difference
        One for each zone, count of free blocks, per-CPU list or run of page
        blocks without a record, or with a record that shows less.
    """
    found: list[Difference] = []
    for kind, place_of in _PLACE_OF.items():
        shown, wanted = (
            {place_of(record): record for record in (side.zones if kind == "zone" else side.of(kind))}
            for side in (dump, first)
        )
        for place, record in wanted.items():
            absent = _less_than(record, shown.get(place))
            if absent is None:
                continue
            zone, node, *rest = place
            where = ", ".join([f"zone {zone}", f"node {node}", *([" ".join(map(str, rest))] if rest else [])])
            where = f"state dump {dump.name!r}: {kind} record of {where}"
            found.append(Difference(None, where, "as much as in the first dump", absent, ""))
    return found


def _less_than(first: Record, later: Record | None) -> str | None:
    """Return what the later record of a place leaves out, None if nothing."""
    if later is None:
        return "no record"
    if absent := sorted(first.keys() - later.keys()):
        return f"no {', '.join(absent)}"
    for name in ("lists", "types"):
        if name in first and len(later[name]) != len(first[name]):
            return f"{len(later[name])} {name}, the first dump has {len(first[name])}"
    if any(new == "x" != old for new, old in zip(later.get("types", ""), first.get("types", ""), strict=True)):
        return "a page block of unknown type"
    return None


def compare_page_state(memmap: MemMap, dump: StateDump) -> list[Difference]:
    """Compare the page allocator's state with a recorded dump.

    Returns
    -------
    list of Difference
        Zone counters, every free list and per-CPU list in order, and page
        block types; empty if all is identical.
    """
    found: list[Difference] = []

    def check(where: str, expected: Any, got: Any) -> None:
        if expected != got:
            found.append(Difference(None, f"state dump {dump.name!r}: {where}", expected, got, ""))

    def check_list(where: str, expected: list[int], got: list[int]) -> None:
        if expected == got:
            return
        first = next(
            (i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got))
        )
        found.append(
            Difference(
                None,
                f"state dump {dump.name!r}: {where}, entry {first}",
                expected[first] if first < len(expected) else "end of list",
                got[first] if first < len(got) else "end of list",
                f"{len(expected)} entries recorded, {len(got)} in the model",
            )
        )

    free = {(r.get("node", 0), r["zone"], r["order"], r["mt"]): r["pfns"] for r in dump.of("free")}
    _compare_zones(memmap, dump, free, check, check_list)
    for (node, name, order, migratetype), frames in free.items():
        check_list(f"zone {name}, node {node}: free list of order {order}, type {migratetype}", frames, [])
    for record in dump.of("area"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        got = int(memmap.zones_array[zone_id]["nr_free"][record["order"]])
        check(f"zone {record['zone']}: nr_free of order {record['order']}", record["nr_free"], got)
    for record in dump.of("zstat"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        diff = memmap.pagesets_array[zone_id * memmap.nr_cpus + record["cpu"]]["stat_diff"]
        check(f"zone {record['zone']}: vm_stat_diff of CPU {record['cpu']}", record["vm_stat_diff"][0], int(diff))
    _compare_pagesets(memmap, dump, check, check_list)
    return found


def _compare_zones(
    memmap: MemMap, dump: StateDump, free: dict[tuple[Any, ...], list[int]], check: Any, check_list: Any
) -> None:
    """Compare counters and free lists of each zone shown; free lists that were compared are taken out of `free`."""
    for record in dump.zones:
        node, name = record.get("node", 0), record["name"]
        zone_id = memmap.zone_id(name, node)
        zone = memmap.zones_array[zone_id]
        where = f"zone {name}, node {node}"
        check(f"{where}: managed", record["managed"], int(zone["managed"]))
        check(f"{where}: NR_FREE_PAGES", record["vm_stat"][0], int(zone["free_pages"]))
        check(f"{where}: boost", record["boost"], int(zone["watermark_boost"]))
        check(f"{where}: nr_highatomic", record["nr_highatomic"], int(zone["nr_reserved_highatomic"]))
        marks = [record["wm_min"], record["wm_low"], record["wm_high"], record["wm_promo"]]
        check(f"{where}: watermarks", marks, [int(mark) for mark in zone["watermark"]])
        if "vm_stat_diff" in record:
            diff = memmap.pagesets_array[zone_id * memmap.nr_cpus + dump.cpu]["stat_diff"]
            check(f"{where}: vm_stat_diff", record["vm_stat_diff"][0], int(diff))
        for order in range(11 if zone["managed"] else 0):
            for migratetype in range(6):
                check_list(
                    f"{where}: free list of order {order}, type {migratetype}",
                    free.pop((node, name, order, migratetype), []),
                    memmap.free_list(zone_id, order, migratetype),
                )


def _compare_pagesets(memmap: MemMap, dump: StateDump, check: Any, check_list: Any) -> None:
    for record in dump.of("pcp"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        cpu = record.get("cpu", 0)
        pageset = memmap.pagesets_array[zone_id * memmap.nr_cpus + cpu]
        where = f"zone {record['zone']}, node {record.get('node', 0)}, CPU {cpu}"
        for name in ("count", "high", "batch", "free_factor"):
            check(f"{where}: pcp {name}", record[name], int(pageset[name]))
        for pindex, frames in enumerate(record["lists"]):
            check_list(f"{where}: pcp list {pindex}", frames, memmap.pcp_list(zone_id, cpu, pindex))
    listed: dict[int, int] = {}
    for record in dump.of("pcp_mt"):
        listed.update(dict(record["differs"]))
    for record in dump.of("pcp"):
        for pindex, frames in enumerate(record["lists"]):
            for pfn in frames:
                expected = listed.get(pfn, pindex % 3)
                check(
                    f"frame {pfn} on pcp list {pindex}: migrate type",
                    expected,
                    int(memmap.pages_array["migratetype"][pfn]),
                )
    for record in dump.of("pageblocks"):
        zone_id = memmap.zone_id(record["zone"], record.get("node", 0))
        blocks = memmap.pageblock_slice(zone_id, record["first_pfn"], len(record["types"])).tolist()
        for i, (digit, got) in enumerate(zip(record["types"], blocks, strict=True)):
            if digit != "x":
                pfn = record["first_pfn"] + (i << memmap.pageblock_order)
                check(f"page block of frame {pfn}: migrate type", int(digit), got)
