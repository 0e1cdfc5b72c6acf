# SPDX-License-Identifier: GPL-2.0-only
"""Verification of slab recordings: ``kmem_cache_alloc``, ``kmalloc`` and pages together.

The model starts from the recording's first state dump, repeats each operation
and must name the recorded slab, object and address, and the state of slab and
cache after it; at each later dump the CPU slabs, freelists and partial lists
must be the recorded ones in order, and the page allocator's state likewise.  A
later dump has to show all parts that it names, each as full as the first one.

What a recording tells and nothing could predict: the addresses and random
sequences of the caches, and where in its sequence the freelist of a new slab
starts.  That start is taken as the position of the one object recorded for the
operation that made the slab.  Whether the stack depot holds pages already when
the recording begins is not recorded either: an empty depot is assumed first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kmem.errors import InputError, StateError
from kmem.machine.records import Record, number, read_records
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.machine.statedump_slab import SlabCaches, cache_lists, load_slub
from kmem.mm.slab_flags import SLAB_RED_ZONE, SLAB_STORE_USER
from kmem.mm.slub import ZERO_SIZE_OBJECT, Slub
from kmem.mm.slub_state import dump_cache, slab_state
from kmem.mm.stackdepot import StackDepot
from kmem.profile import format_gfp
from kmem.verify.pages import compare_page_state, missing_page_state, unproven_end
from kmem.verify.result import Difference, Result

__all__ = ["SLAB_OPERATIONS", "verify_slab"]

SLAB_OPERATIONS: Final = frozenset(
    {"c", "cf", "x", "s", "r", "k", "K", "m", "M", "z", "a", "f", "L", "U", "drain", "skip", "note"}
)
"""Operations that a slab recording is made of."""

MAX_DIFFERENCES: Final = 20
_ANSWERS: Final = frozenset({"k", "K", "m", "M", "z", "a", "f", "s"})
_STATE_FIELDS: Final = ("inuse", "frozen", "cpuslab", "npart", "nslabs")
_PAGE_BYTES: Final = 4096
_ZERO_SIZE_PTR: Final = 0x10
_DEPOT_STATES: Final = (0, 2, 1)
_DIRECT_MAP_ALIGN: Final = 1 << 28
"""What every start of the kernel's direct mapping is a multiple of, whichever way memory is split."""


def verify_slab(path: Path, *, stop_at_first: bool = False) -> Result:
    """Check one slab or mixed recording against the model.

    Parameters
    ----------
    path : pathlib.Path
        A ``*.jsonl.gz`` file with state dumps and ``k``/``K`` or ``m``/``M`` operations.
    stop_at_first : bool, optional
        Give up at the first difference.

    Returns
    -------
    Result
        One operation counted for each allocation, free and shrink.

    Raises
    ------
    InputError
        If the file is damaged, or holds what a slab recording cannot hold.
    """
    best: _Checker | None = None
    tried = 0
    for depot_blocks in _DEPOT_STATES:
        checker = _Checker(path, stop_at_first, depot_blocks)
        checker.run()
        tried += 1
        if best is None or checker.result.held or checker.result.identical > best.result.identical:
            best = checker
        if best.result.held or not best.tracked:
            break
    assert best is not None
    return best.finish(tried)


class _Checker:
    """One pass through a recording."""

    def __init__(self, path: Path, stop_at_first: bool, depot_blocks: int) -> None:
        self.path = path
        self.stop_at_first = stop_at_first
        self.depot_blocks = depot_blocks
        self.result = Result(f"{path.parent.name}/{path.name.partition('.jsonl')[0]}", "slab")
        self.caches: SlabCaches | None = None
        self.first: StateDump | None = None
        self.page_offset: int | None = None
        self.operations_at_dump = 0
        self.objects: dict[int, int | None] = {}
        self.pages: dict[int, int] = {}
        self.tracked = False
        self.interrupts_on = False
        self.op = ""
        self.cpu = 0

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        records = read_records(self.path)
        for line, record in records:
            try:
                self.step(record, records, line)
            except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
                what = f"a record without {error}" if isinstance(error, KeyError) else f"an unusable record: {error}"
                raise InputError(what, file=self.path, line=line) from None
            if self.stop_at_first and self.result.differences:
                return
        if self.caches is None:
            raise InputError("no state dump with slab caches to start from", file=self.path)

    def finish(self, tried: int) -> Result:
        """Add the notes, and return the verdict; so many states of the stack depot were `tried`."""
        unproven_end(self.result, self.operations_at_dump)
        if self.page_offset is None:
            self.result.notes.append(
                f"no PAGE_OFFSET in the first state dump: addresses compared modulo {_DIRECT_MAP_ALIGN:#x}"
            )
        if self.caches is not None and self.caches.slub.shuffled_slabs:
            self.result.notes.append(
                f"{self.caches.slub.shuffled_slabs} shuffled freelists start at the first object recorded of their slab"
            )
        if self.tracked:
            state = (
                "the empty one",
                "the one with room for 1 block",
                "the one with room for 2 blocks",
            )[self.depot_blocks]
            verdict = "holds" if self.result.held else "comes closest"
            self.result.notes.append(
                f"{tried} of {len(_DEPOT_STATES)} assumed stack depot states tried; {state} {verdict}"
            )
        return self.result

    def step(self, record: Record, records: Iterator[tuple[int, Record]], line: int) -> None:
        if record.get("t") == "dump":
            self.dump(StateDump.collect(record, records, self.path, line))
            return
        op = record.get("op")
        if op is None:
            return
        if op not in SLAB_OPERATIONS:
            raise InputError(f"operation {op!r} does not belong in a slab recording", file=self.path, line=line)
        if op in _ANSWERS and op != "s":
            if self.caches is None:
                raise InputError("an operation before the first state dump", file=self.path, line=line)
            if op in "kmz":
                self.check_answer(record, line)
            self.operation(self.caches, record)
        else:
            self.control(str(op), record)

    def check_answer(self, record: Record, line: int) -> None:
        """Refuse an allocation without its object; only a failed one and one of no bytes have none."""
        address = int(record["addr"], 16)
        if address == 0 or "slab" in record:
            return
        if address != _ZERO_SIZE_PTR or record["op"] == "k":
            raise InputError(f"object {record['addr']} without 'slab'", file=self.path, line=line)

    def control(self, op: str, record: Record) -> None:
        """Carry out an operation that has no object for an answer."""
        if self.caches is None:
            return  # what a script did before is in the state that the model starts from
        slub = self.caches.slub
        if op == "U":
            self.interrupts_on = True
            slub.rcu_barrier()
        elif op == "drain":
            slub.allocator.drain_pages(record.get("cpu", self.cpu))
        elif op in ("c", "cf"):
            self.caches.add(record)
        elif op in ("r", "s", "x"):
            index = self.caches.by_cid[record["cid"]]
            if op == "r":
                slub.drop_random_seq(index)
            elif op == "s":
                self.shrink(self.caches, index, record)
            else:
                del self.caches.by_cid[record["cid"]]
                if index not in self.caches.shared:
                    slub.kmem_cache_destroy(index)
                    self.caches.by_ptr = {ptr: at for ptr, at in self.caches.by_ptr.items() if at != index}

    def shrink(self, caches: SlabCaches, index: int, record: Record) -> None:
        if index in caches.shared and self.interrupts_on:
            return  # the kernel uses this cache as well, and runs again
        self.result.operations += 1
        got = int(caches.slub.kmem_cache_shrink(index))
        if got == record["ret"]:
            self.result.identical += 1
        else:
            self.note([Difference(record.get("i"), "kmem_cache_shrink: slabs left", record["ret"], got, "")])

    def note(self, differences: list[Difference]) -> None:
        room = MAX_DIFFERENCES - len(self.result.differences)
        self.result.differences.extend(differences[:room])

    # ------------------------------------------------------------ operations

    def operation(self, caches: SlabCaches, record: Record) -> None:
        """Repeat one allocation or free and compare what it did."""
        slub = caches.slub
        self.result.operations += 1
        self.op = record["op"]
        cpu = int(record.get("cpu", self.cpu))
        slub.allocator.cpu = cpu
        if self.op in "kmz":
            slub.start_object = self.recorded_object(caches, record)
        try:
            if self.op in "af":
                wanted, got = self.page_operation(slub, record)
            elif self.op == "z":
                wanted, got = self.reallocation(slub, record)
            elif self.op in "km":
                wanted, got = self.allocation(caches, record)
            else:
                wanted, got = self.free(slub, record)
        except (StateError, ValueError) as error:
            wanted, got = {"operation": "done"}, {"operation": str(error)}
        slub.start_object = -1
        wrong = [name for name, value in wanted.items() if got.get(name) != value]
        if not wrong:
            self.result.identical += 1
            return
        self.note(
            [
                Difference(
                    record.get("i"),
                    ", ".join(wrong),
                    ", ".join(f"{name} {wanted[name]}" for name in wrong),
                    ", ".join(f"{name} {got.get(name)}" for name in wrong),
                    self.describe(caches, record),
                )
            ]
        )

    def allocation(self, caches: SlabCaches, record: Record) -> tuple[Record, Record]:
        slub, gfp = caches.slub, int(record["gfp"], 16)
        if self.op == "k":
            got = slub.kmem_cache_alloc(caches.by_cid[record["cid"]], gfp)
        else:
            self.result.kind = "mixed"
            got = slub.kmalloc(record["size"], gfp)
        self.objects[record["slot"]] = got
        return self.answer(slub, record, got)

    def answer(self, slub: Slub, record: Record, got: int | None) -> tuple[Record, Record]:
        """Return what was recorded of an allocation, and what the model has."""
        address = int(record["addr"], 16)
        if address == 0 or got is None:
            return {"object": "an object" if address else None}, {"object": got if got is None else "an object"}
        if address == _ZERO_SIZE_PTR or got == ZERO_SIZE_OBJECT:
            names = {True: "ZERO_SIZE_PTR", False: "an object"}
            return {"object": names[address == _ZERO_SIZE_PTR]}, {"object": names[got == ZERO_SIZE_OBJECT]}
        wanted: Record = {name: record[name] for name in ("slab", "ksize") if name in record}
        model: Record = {"ksize": slub.ksize(got)} if "ksize" in record else {}
        self.add_address(record, got, wanted, model)
        if record["slab"] is None:
            wanted |= {"pfn": record["pfn"], "pgorder": record["pgorder"]}
            model |= {"slab": None, "pfn": got // _PAGE_BYTES, "pgorder": slub.large_order(got)}
            if slub.large_order(got) < 0:
                model["slab"] = slub.where(got)[0]
            return wanted, model
        return self.slab_answer(slub, record, got, wanted, model)

    def slab_answer(
        self, slub: Slub, record: Record, address: int, wanted: Record, model: Record
    ) -> tuple[Record, Record]:
        """Add object, slab and cache after the operation to both sides."""
        wanted |= {name: record[name] for name in ("slab", "idx", "cache", "objs", *_STATE_FIELDS)}
        if slub.large_order(address) >= 0:
            return wanted, model | {"slab": None}
        slab = slub.where(address)[0]
        model["idx"] = self.recorder_number(slub, slab, address)
        model |= zip(_STATE_FIELDS, slab_state(slub, slab, slub.allocator.cpu), strict=True)
        model |= {"slab": slab, "objs": slub.slab_objects(slab), "cache": slub.geometries[slub.slab_cache(slab)].name}
        return wanted, model

    def add_address(self, record: Record, physical: int, wanted: Record, model: Record) -> None:
        """Add the object's address to both sides, its low bits where the direct mapping's start is not known."""
        address = int(record["addr"], 16)
        if self.page_offset is None:
            address, got = address % _DIRECT_MAP_ALIGN, physical % _DIRECT_MAP_ALIGN
        else:
            got = self.page_offset + physical
        wanted["addr"], model["addr"] = hex(address), hex(got)

    @staticmethod
    def recorder_number(slub: Slub, slab: int, address: int) -> int:
        """Return the number that a recorder gives to an object.

        It takes the pad of a red zone off the address, which a cache keeps
        whose red zone was given up (``slub_debug=O``): such numbers are one
        too low, except for the first, while the address is right.
        """
        geometry = slub.geometries[slub.slab_cache(slab)]
        offset = address - slab * _PAGE_BYTES - geometry.red_left_pad
        return max(offset, 0) // geometry.size

    def recorded_object(self, caches: SlabCaches, record: Record) -> int:
        """Return the number of the object recorded, -1 if there is none.

        The recorded address tells two objects apart that :meth:`recorder_number` gives the same number.
        """
        number = int(record.get("idx", -1))
        if number < 0 or record["op"] != "k":
            return number
        geometry = caches.slub.geometries[caches.by_cid[record["cid"]]]
        if not geometry.red_left_pad or geometry.flags & SLAB_RED_ZONE:
            return number
        offset = (int(record["addr"], 16) - record["slab"] * _PAGE_BYTES) % _DIRECT_MAP_ALIGN
        exact, rest = divmod(offset, geometry.size)
        return exact if not rest and max(exact - 1, 0) == number else number

    def free(self, slub: Slub, record: Record) -> tuple[Record, Record]:
        address = self.objects.pop(record["slot"], None)
        if address is None:
            return {"operation": "freed"}, {"operation": f"nothing in slot {record['slot']}"}
        slub.kfree(address)
        wanted: Record
        model: Record
        if record["slab"] is None:
            gone = slub.slab_of_frame(address // _PAGE_BYTES)
            wanted = {"slab": None, "pfn": record["pfn"]}
            model = {"slab": gone, "pfn": address // _PAGE_BYTES}
        elif slub.slab_of_frame(address // _PAGE_BYTES) is None:
            wanted, model = {"slab": record["slab"]}, {"slab": None}
        else:
            wanted, model = self.slab_answer(slub, record, address, {}, {})
        self.add_address(record, address, wanted, model)
        return wanted, model

    def reallocation(self, slub: Slub, record: Record) -> tuple[Record, Record]:
        self.result.kind = "mixed"
        old = self.objects.get(record["slot"])
        got = slub.krealloc(old, record["size"], int(record["gfp"], 16))
        if got is not None:
            self.objects[record["slot"]] = got
        return self.answer(slub, record, got)

    def page_operation(self, slub: Slub, record: Record) -> tuple[Record, Record]:
        allocator, order = slub.allocator, int(record["order"])
        if self.op == "a":
            got = allocator.alloc_pages(int(record["gfp"], 16), order)
            self.pages[record["slot"]] = got
        else:
            got = self.pages.pop(record["slot"], -1)
            allocator.free_pages(got, order)
        wanted: Record = {"pfn": record["pfn"]}
        model: Record = {"pfn": got}
        if got >= 0 and record["pfn"] >= 0:
            memmap = allocator.memmap
            zone_id = int(memmap.pages_array["zone"][got])
            pageset = memmap.pagesets_array[zone_id * memmap.nr_cpus + allocator.cpu]
            wanted |= {name: record[name] for name in ("zone", "nf", "nfd", "pc", "ff")}
            model |= {"zone": memmap.zone_name(zone_id), "nf": int(memmap.zones_array[zone_id]["free_pages"])}
            model |= {"nfd": int(pageset["stat_diff"]), "pc": int(pageset["count"]), "ff": int(pageset["free_factor"])}
        return wanted, model

    def describe(self, caches: SlabCaches, record: Record) -> str:
        """Return the operation and the state of its cache, in words."""
        op, slub = self.op, caches.slub
        gfp = int(record["gfp"], 16) if "gfp" in record else 0
        mask = f"{format_gfp(gfp)} = {gfp:#x}"
        text = {
            "k": f"kmem_cache_alloc({mask})",
            "K": f"kmem_cache_free(slot {record['slot']})",
            "m": f"kmalloc({record.get('size')}, {mask})",
            "M": f"kfree(slot {record['slot']})",
            "z": f"krealloc(slot {record['slot']}, {record.get('size')}, {mask})",
            "a": f"alloc_pages({mask}, order {record.get('order')})",
            "f": f"__free_pages(slot {record['slot']}, order {record.get('order')})",
        }[op] + f" on CPU {slub.allocator.cpu}"
        names = {slub.geometries[index].name: index for index in slub.geometries}
        index = caches.by_cid.get(record.get("cid", -1), names.get(record.get("cache", "")))
        if index is None or index not in slub.geometries:
            return text
        return f"{text}\n{describe_cache(slub, index)}"

    # ------------------------------------------------------------ dumps

    def dump(self, dump: StateDump) -> None:
        if self.caches is None:
            self.start(dump)
            return
        if dump.empty and (dump.what != "c" or self.caches.by_cid):
            raise InputError(f"state dump {dump.name!r} shows nothing", file=self.path, line=dump.line)
        if self.first is None:
            raise InputError("a later state dump before the first one", file=self.path, line=dump.line)
        compared, differences = self.compare_caches(self.caches, dump)
        if not self.interrupts_on and (dump.zones or "z" in (dump.what or "z")):
            differences += missing_page_state(self.first, dump)
            differences += compare_page_state(self.caches.slub.memmap, dump)
            compared += 1
        self.note(differences)
        if compared or differences:
            self.result.end_state = self.result.end_state is not False and not differences
            self.operations_at_dump = self.result.operations

    def start(self, dump: StateDump) -> None:
        """Start the model from the first dump that shows zones."""
        if not dump.zones:
            return
        if not (dump.of("mycache") or dump.of("cache")):
            raise InputError("the first state dump shows no slab caches", file=self.path, line=dump.line)
        allocator = load_page_allocator(dump)
        self.caches = load_slub(dump, allocator)
        self.first = dump
        self.cpu = dump.cpu
        if "PAGE_OFFSET" in dump.globals:
            self.page_offset = number(dump.globals, "PAGE_OFFSET")
        word_bytes = 8 if "DMA32" in allocator.memmap.zone_names else 4
        depot = StackDepot(allocator, self.depot_blocks, word_bytes=word_bytes)

        def on_track(freeing: bool, gfp: int) -> None:
            # A script's requests all come down the same path, one for each kind of operation.
            depot.save(self.op, gfp)

        slub = self.caches.slub
        slub.on_track = on_track
        self.tracked = any(geometry.flags & SLAB_STORE_USER for geometry in slub.geometries.values())

    def compare_caches(self, caches: SlabCaches, dump: StateDump) -> tuple[int, list[Difference]]:
        """Compare the lists of all caches of a dump; (how many were compared, what differs or is left out)."""
        found = self.missing_caches(caches, dump)
        compared = 0
        several = self.first is not None and any("cpus" in record for record in self.caches_of(self.first))
        for record in self.caches_of(dump):
            where = f"state dump {dump.name!r}: cache {record['name']}"
            index = caches.by_ptr.get(record["ptr"])
            if index is None:
                # With interrupts on, the kernel may have made a cache of its own.
                if record["t"] == "mycache" or not self.interrupts_on:
                    found.append(Difference(None, where, f"a cache at {record['ptr']}", "no such cache", ""))
                continue
            if self.interrupts_on and index in caches.shared:
                continue
            compared += 1
            if "nodes" not in record or (several and "cpus" not in record):
                found.append(Difference(None, where, "lists as in the first dump", "not all of them", ""))
                continue
            expected, got = cache_lists(record, self.cpu), dump_cache(caches.slub, index)
            if "cpus" not in record:
                got["cpus"] = [got["cpus"][self.cpu]]
            if expected != got:
                found.append(_first_difference(where, expected, got))
        return compared, found

    @staticmethod
    def caches_of(dump: StateDump) -> list[Record]:
        """Return the records of all caches that a dump shows."""
        return [*dump.of("cache"), *dump.of("mycache")]

    def missing_caches(self, caches: SlabCaches, dump: StateDump) -> list[Difference]:
        """Return a difference for each cache that a dump of this kind has to show and does not."""
        wanted: dict[object, str] = {}
        names = {index: geometry.name for index, geometry in caches.slub.geometries.items()}
        what = dump.what or "ca"
        if "c" in what:
            wanted |= {("mycache", cid): names[index] for cid, index in caches.by_cid.items()}
        if "a" in what and self.first is not None and not self.interrupts_on:
            ptrs = (record["ptr"] for record in self.first.of("cache"))
            wanted |= {("cache", ptr): names[caches.by_ptr[ptr]] for ptr in ptrs if ptr in caches.by_ptr}
        shown = {("mycache", record.get("cid")) for record in dump.of("mycache")}
        shown |= {("cache", record["ptr"]) for record in dump.of("cache")}
        return [
            Difference(None, f"state dump {dump.name!r}: cache {name}", "a record", "none", "")
            for key, name in wanted.items()
            if key not in shown
        ]


def _first_difference(where: str, expected: Any, got: Any) -> Difference:
    """Return the first place at which two nests of dicts and lists differ."""
    while True:
        if isinstance(expected, dict) and isinstance(got, dict):
            key = next(name for name in expected if expected[name] != got.get(name))
            where, expected, got = f"{where}, {key}", expected[key], got.get(key)
        elif isinstance(expected, list) and isinstance(got, list):
            both = zip(expected, got, strict=False)
            place = next((i for i, (a, b) in enumerate(both) if a != b), min(len(expected), len(got)))
            sizes = f"{len(expected)} entries recorded, {len(got)} in the model"
            if place == len(expected) or place == len(got):
                ends = [_brief(side[place]) if place < len(side) else "end of list" for side in (expected, got)]
                return Difference(None, f"{where} {place}", ends[0], ends[1], sizes)
            where, expected, got = f"{where} {place}", expected[place], got[place]
        else:
            return Difference(None, where, _brief(expected), _brief(got), "")


def _brief(value: Any) -> Any:
    """Return a value for a report; of a slab, its frame."""
    if isinstance(value, dict):
        return f"slab {value['s']['pfn']}" if "s" in value else f"slab {value.get('pfn')}"
    return value


def describe_cache(slub: Slub, index: int) -> str:
    """Return the lists of a cache in a few lines of words."""
    geometry, state = slub.geometries[index], dump_cache(slub, index)
    lines = [
        f"  cache {geometry.name}: size {geometry.size}, order {geometry.order} ({geometry.objects} objects), "
        f"min_partial {geometry.min_partial}, cpu_partial_slabs {geometry.cpu_partial_slabs}"
    ]
    for cpu in state["cpus"]:
        slab = cpu["slab"]
        current = "no slab" if slab is None else f"slab {slab['pfn']}, own freelist {cpu['freelist'][:8]}"
        if slab is not None:
            current += f", freed by others {slab['freelist'][:8]}"
        partial = ", ".join(f"{entry['s']['pfn']} ({entry['s']['inuse']} in use)" for entry in cpu["partial"][:8])
        lines.append(f"    CPU {cpu['cpu']}: {current}; partial: {partial or 'none'}")
    for node in state["nodes"]:
        partial = ", ".join(f"{slab['pfn']} ({slab['inuse']} in use)" for slab in node["partial"][:8])
        lines.append(
            f"    node {node['node']}: {node['nr_slabs']} slabs, {node['nr_partial']} partial: {partial or 'none'}"
        )
    return "\n".join(lines)
