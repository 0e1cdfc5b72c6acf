# SPDX-License-Identifier: GPL-2.0-only
"""Verification of the bytes of objects, and of SLUB's reports: kinds poison, reports and reports-oops.

These recordings begin without a state dump: their script makes caches of its
own, takes and frees objects, writes where it should not, and looks at the
bytes.  The model repeats each operation on memory of its own.  It has to name
the recorded cache layout, object number, slab and counters, show the recorded
bytes, and print the recorded report, line by line (see
:mod:`kmem.verify.messages` for what of a line is compared).

What a recording tells and nothing could predict: the frames of new slabs and
where the caches' structures lie; ``random`` and the random sequence of a cache,
where its record does not show it taken from the objects as they turn up; the
position in it where a slab starts; the bytes of tracks; the state of a kmalloc
cache and of page lists before the script, taken from the first answer about
them.  A kernel that died did not record the operation that killed it; every
operation that the script could have done next, and that calls the function that
died, is tried, and at least one has to give the recorded report.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kmem.errors import InputError, KernelOops, KernelReport, KmemError, NotSupportedError, StateError
from kmem.machine.records import Record, read_records
from kmem.machine.statedump_slab import cache_lists, geometry_of
from kmem.mm.kmalloc import create_kmalloc_caches
from kmem.mm.mmzone import ZONE_NAMES_32, ZONE_NAMES_64, MemMap
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.ram import Ram
from kmem.mm.report import RELEASE, Context
from kmem.mm.slab_common import CacheGeometry, CacheList
from kmem.mm.slab_flags import SLAB_STORE_USER
from kmem.mm.slub import Slub
from kmem.mm.slub_bytes import ObjectLayout
from kmem.mm.slub_check import SlubChecker
from kmem.mm.slub_report import PageStructs
from kmem.mm.slub_state import dump_cache, slab_state
from kmem.verify.messages import Line, Section, masked, messages_beside, read_sections
from kmem.verify.random_sequence import infer_sequences
from kmem.verify.result import Difference, Result
from kmem.verify.slab_context import read_slab_context

__all__ = ["verify_object_bytes"]

MAX_DIFFERENCES: Final = 20
_PAGE_BYTES: Final = 4096
_STATE_FIELDS: Final = ("inuse", "frozen", "cpuslab", "npart", "nslabs")
_IGNORED: Final = frozenset({"L", "U", "skip", "Z", "drain", "t", "B"})
_CTOR_VALUE: Final = 0xC0DEC0DE
_DIRECT_MAP_ALIGN: Final = 1 << 28
_MAX_ORDER: Final = 11
_GFP_NOWARN: Final = 0x2000
# Links of a freelist, see kmem.mm.slab.
_NO_OBJECT: Final = 0xFFFF
_IN_USE: Final = 0xFFFE
_WILD: Final = 0xFFFD
_GFP_ZERO: Final = 0x100
_BYTES_BEFORE: Final = re.compile(r"Bytes b4 ([0-9a-f]+): ((?:[0-9a-f]{2} )+) .*")
_KIND_OF_CALL: Final = {"kmem_cache_free": "K", "kmem_cache_alloc": "k", "kfree": "M", "__kmem_cache_free": "M"}
# Lines of the conditions behind warnings of other allocators.
_ALLOC_PAGES_LINE: Final = 5634
_VMALLOC_LINE: Final = 3227
_NEW_SLAB_LINE: Final = 2001
# Last update of which is known that it leaves slabs unfrozen that it gives up.
_LAST_WITHOUT_FREEZING: Final = 176
# What two passes take unknown memory to hold; no two hexadecimal digits nor characters in common.
_JUNK: Final = (0x5F, 0x26)
_MOST_WRITTEN: Final = 1 << 22  # bytes, at once
_MOST_FRAMES: Final = 1 << 23  # 32 GiB; their records take 32 bytes each


def verify_object_bytes(path: Path, kind: str, *, stop_at_first: bool = False) -> Result:
    """Check one recording of object bytes or reports against the model.

    Parameters
    ----------
    path : pathlib.Path
        The operations; the kernel's messages are looked for beside it.
    kind : {"poison", "reports", "reports-oops"}
    stop_at_first : bool, optional
        Give up at the first difference.

    Returns
    -------
    Result
        One operation counted for each that has an answer: a result, bytes, or a report.

    Raises
    ------
    InputError
        If the file is damaged, or holds what such a recording cannot hold.
    NotSupportedError
        If a cache of the script is shared with the kernel.
    """
    records = [record for _, record in read_records(path)]
    messages = messages_beside(path)
    sections = read_sections(messages) if messages is not None else []
    try:
        checker = _Checker(path, kind, records, sections, stop_at_first)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        what = f"a record without {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"unusable: {what}", file=path) from None
    if messages is None and kind != "poison":
        raise InputError(
            "no kernel messages beside it", file=path, remedy="NAME.dmesg.txt belongs beside NAME.jsonl.gz"
        )
    checker.run()
    if kind == "reports-oops" and not any("t" in record and record["t"] == "end" for record in records):
        checker.find_fatal_operation()
    return checker.finish()


class _Machine:
    """Memory, caches and reports of one pass through a recording."""

    def __init__(self, arch: str, nr_frames: int, page_offset: int, config: Any) -> None:
        names, word_bytes, order = (ZONE_NAMES_64, 8, 9) if arch == "amd64" else (ZONE_NAMES_32, 4, 10)
        memmap = MemMap(nr_frames, 1, config.cpus, order, names, spare_heads=1024)
        normal = memmap.zone_id("Normal")
        memmap.pages_array["zone"][:nr_frames] = normal
        self.slub = Slub(PageAllocator(memmap, {(0, False): [normal], (0, True): [normal]}))
        self.slub.cpu_partial = config.cpu_partial
        self.slub.set_init_options(config.init_on_alloc, config.init_on_free)
        self.ram = Ram(memmap.nr_frames * _PAGE_BYTES)
        self.page_offset = page_offset
        self.config = config
        structs = PageStructs() if arch == "amd64" else PageStructs(0, 40)
        context = Context(stack=lambda: ("caller",))
        self.checker = SlubChecker(
            self.slub,
            self.ram,
            page_offset=page_offset,
            word_bytes=word_bytes,
            page_structs=structs,
            context=context,
        )
        self.lines: list[Line] = []
        self.checker.on_report = self._report
        self.checker.on_log = self.lines.extend
        self.warned: set[str] = set()

    def _report(self, error: KernelReport, lines: list[Line]) -> None:
        self.lines += lines

    def take_lines(self) -> list[Line]:
        """Return what the model printed since the last call."""
        lines, self.lines[:] = list(self.lines), []
        return lines

    def warn_once(self, file: str, line: int, function: str) -> None:
        """Print a warning of another allocator, the first time only."""
        if function not in self.warned:
            self.warned.add(function)
            self.checker.warn(file, line, function)
            self.checker.deliver()


class _Checker:
    """One pass through a recording."""

    def __init__(
        self,
        path: Path,
        kind: str,
        records: list[Record],
        sections: list[Section],
        stop_at_first: bool,
        junk: int = _JUNK[0],
    ) -> None:
        self.path, self.kind, self.records, self.sections = path, kind, records, sections
        self.stop_at_first = stop_at_first
        self.result = Result(path.name, kind)
        self.context = read_slab_context(path.parent)
        self.result.notes += self.context.notes
        wide = max((int(record["addr"], 16) for record in records if "addr" in record), default=0) >> 32
        self.arch = self.context.arch or ("amd64" if wide else "i386")
        if self.context.arch is None:
            self.result.notes.append(f"no uname.txt: taken for {self.arch} by its addresses")
        self.config = replace(self.context.slab_config(self.arch), slab_nomerge=True)
        self.word_bytes = self.config.word_bytes
        self.page_offset = self._find_page_offset()
        self.source_lines = self._same_update()
        self.sequences = infer_sequences(records, sections, self.page_offset, self.word_bytes)
        frames = [record[key] for record in records for key in ("slab", "pfn") if isinstance(record.get(key), int)]
        self.nr_frames = max(frames, default=0) + (1 << _MAX_ORDER)
        if not 0 < self.nr_frames <= _MOST_FRAMES:
            raise ValueError(f"page frame {max(frames):#x} lies beyond any recorded machine")
        self.machine = self._new_machine()
        self.machine.checker.freeze_damaged = self.freezes
        self.reset()
        # Where fresh memory is not zeroed, nobody knows what it holds: what depends on it differs between two passes.
        self.junk = None if self.config.init_on_alloc or self.config.init_on_free else junk
        self.last: tuple[dict[str, Any], list[Line]] = ({}, [])
        self.twin: _Checker | None = None
        self.nr_open = 0
        if self.junk == _JUNK[0]:
            self.twin = _Checker(path, kind, records, sections, stop_at_first, _JUNK[1])

    def _new_machine(self) -> _Machine:
        return _Machine(self.arch, self.nr_frames, self.page_offset, self.config)

    def reset(self) -> None:
        """Start from the beginning."""
        self.caches: dict[int, int] = {}
        self.objects: dict[int, tuple[int, int | None]] = {}
        self.kmalloc: dict[str, int] = {}
        self.pages = _PageLists()
        self.current: Record = {}
        self.pending: list[Line] = []
        self.section: Section | None = None
        self.titles = {section.title: section for section in self.sections}
        titled = any(record.get("note") in self.titles for record in self.records)
        self.pending = [] if titled else [line for section in self.sections for line in self.expected(section)]
        self.titled = titled
        self.seen: set[str] = set()
        self.taken = {"frames": 0, "starts": 0}
        self.page_structs_known = self.arch == "amd64"
        self.layouts: dict[int, tuple[int, ObjectLayout]] = {}
        self.machine.slub.page_source = self.page_source

    def _find_page_offset(self) -> int:
        """Return the start of the direct mapping, from the first object."""
        for record in self.records:
            if record.get("op") in ("k", "m") and isinstance(record.get("slab"), int):
                start = int(record["addr"], 16) - int(record["slab"]) * _PAGE_BYTES
                return start - start % _DIRECT_MAP_ALIGN
        return 0xFFFF888000000000 if self.word_bytes == 8 else 0xC0000000

    def _same_update(self) -> bool:
        """Whether the recorded kernel is the update whose source is followed."""
        try:
            uname = (self.path.parent / "uname.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            uname = ""
        updates = [int(update) for update in re.findall(r"\b6\.1\.(\d+)-\d", uname)]
        self.freezes = not updates or max(updates) > _LAST_WITHOUT_FREEZING
        if RELEASE in uname:
            return True
        self.result.notes.append(f"not {RELEASE}: numbers of source lines not compared")
        return False

    def expected(self, section: Section) -> list[Line]:
        """Return the lines of a section as they are compared."""
        return masked(section.lines, source_lines=self.source_lines)

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        for record in self.records:
            self.guarded(record)
            if self.stop_at_first and self.result.differences:
                return

    def guarded(self, record: Record) -> None:
        try:
            self.step(record)
        except KernelOops as error:
            self.died(record, error)
        except KmemError as error:
            raise error.at(file=self.path) from None
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            what = f"a record without {error}" if isinstance(error, KeyError) else f"an unusable record: {error}"
            raise InputError(f"operation {record.get('i')}: {what}", file=self.path) from None

    def step(self, record: Record) -> None:
        if "note" in record:
            self.begin_section(str(record["note"]))
            return
        if record.get("t") == "mycache":
            self.compare_lists(record)
            return
        op = record.get("op")
        if op is None or op in _IGNORED:
            return
        self.current = record
        method = getattr(self, f"op_{ {'K!': 'K', 'cf': 'c', 'a': 'page', 'f': 'page'}.get(op, op) }", None)
        if method is None:
            raise InputError(f"operation {op!r} does not belong in a recording of kind {self.kind}")
        wanted, model = method(record)
        self.compare(record, wanted, model)

    def died(self, record: Record, error: KernelOops) -> None:
        """The model's kernel died at an operation that the recorded one survived."""
        self.result.operations += 1
        self.machine.take_lines()
        self.differ(record.get("i"), f"{record['op']}", "an answer", f"the kernel dies: {error.message}", "")

    def begin_section(self, title: str) -> None:
        """Compare what is left of the last section, and go to the one that has this title."""
        if title not in self.titles or title in self.seen:
            return
        self.leftover()
        self.seen.add(title)
        self.section = self.titles[title]
        self.pending = self.expected(self.section)

    def leftover(self) -> None:
        """Note recorded lines that the model did not print."""
        if self.pending and self.kind != "reports-oops":
            title = self.section.title if self.section is not None else "messages"
            level, text = self.pending[0]
            self.differ(None, f"{title}: line after the model's last", f"<{level}>{text}", "no more lines", "")
        if self.kind != "reports-oops":
            self.pending = []

    def compare(self, record: Record, wanted: dict[str, Any], model: dict[str, Any]) -> None:
        """Compare an answer and the lines printed meanwhile."""
        lines = masked(self.machine.take_lines(), source_lines=self.source_lines)
        self.last = model, lines
        if self.junk == _JUNK[1]:
            return
        if self.twin is not None:
            model, lines = self.without_junk(record, wanted, model, lines)
        self.learn_page_structs(lines)
        held = True
        for key, value in wanted.items():
            if model.get(key) != value:
                held = False
                self.differ(record.get("i"), f"{record['op']}, {key}", value, model.get(key), self.describe(record))
        if lines and self.sections:
            held &= self.compare_lines(record, lines)
        if wanted or lines:
            self.result.operations += 1
            self.result.identical += held

    def without_junk(
        self, record: Record, wanted: dict[str, Any], model: dict[str, Any], lines: list[Line]
    ) -> tuple[dict[str, Any], list[Line]]:
        """Return answer and lines with the recorded characters where the model's depend on unknown memory."""
        assert self.twin is not None
        self.twin.machine.checker.page_structs = self.machine.checker.page_structs
        self.twin.guarded(record)
        others, other_lines = self.twin.last
        if "bytes" in model:
            model = model | {"bytes": self.merge(wanted["bytes"], model["bytes"], others["bytes"])}
        if len(lines) == len(other_lines):
            recorded = [*self.pending[: len(lines)], *lines[len(self.pending) :]]
            triples = zip(recorded, lines, other_lines, strict=True)
            lines = [(a[0], self.merge(r[1], a[1], b[1])) for r, a, b in triples]
        return model, lines

    def merge(self, recorded: str, model: str, other: str) -> str:
        """Return the model's text with the recorded characters where two passes of the model differ."""
        if not len(recorded) == len(model) == len(other) or model == other:
            return model
        self.nr_open += 1
        return "".join(r if a != b else a for r, a, b in zip(recorded, model, other, strict=True))

    def compare_lines(self, record: Record, lines: list[Line]) -> bool:
        """Compare the lines of one operation with the next recorded ones."""
        expected, self.pending = self.pending[: len(lines)], self.pending[len(lines) :]
        for at, line in enumerate(lines):
            if at >= len(expected) or self.without_tracks(expected[at]) != self.without_tracks(line):
                wanted = f"<{expected[at][0]}>{expected[at][1]}" if at < len(expected) else "no more lines"
                self.differ(
                    record.get("i"), f"{record['op']}, line {at + 1} of its report", wanted, f"<{line[0]}>{line[1]}", ""
                )
                if self.titled:
                    self.pending = []  # the next section says where to go on
                return False
        return True

    def without_tracks(self, line: Line) -> Line:
        """Return a line of a dump in front of an object without the bytes of the tracks of the object before it."""
        level, text = line
        match = _BYTES_BEFORE.fullmatch(text)
        if match is None:
            return line
        start = int(match[1], 16)
        slab, s = self.layouts.get((start - self.page_offset) // _PAGE_BYTES, (0, None))
        if s is None or not s.flags & SLAB_STORE_USER:
            return line
        first = self.page_offset + slab * _PAGE_BYTES + s.red_left_pad
        shown = [
            "**" if s.info_end <= (start + n - first) % s.size < s.tracks_end else byte
            for n, byte in enumerate(match[2].split())
        ]
        return level, f"Bytes b4 {match[1]}: {' '.join(shown)}"

    def cache(self, record: Record, key: str = "cid") -> int:
        """Return the model's number of the cache that a record names."""
        if record[key] not in self.caches:
            raise InputError(f"operation {record['i']}: cache {record[key]} was not made in this recording")
        return self.caches[record[key]]

    def differ(self, op: int | None, where: str, expected: Any, got: Any, message: str) -> None:
        if len(self.result.differences) < MAX_DIFFERENCES:
            self.result.differences.append(Difference(op, where, expected, got, message))

    def describe(self, record: Record) -> str:
        keys = ("slot", "cid", "size", "off", "len", "byte", "label", "order")
        return ", ".join(f"{key} {record[key]}" for key in keys if key in record)

    def learn_page_structs(self, lines: list[Line]) -> None:
        """Take where ``struct page`` begins from the first slab that a report names, where that is not fixed."""
        if self.page_structs_known or not lines:
            return
        size = self.machine.checker.page_structs.size_bytes
        model = next((text for _, text in lines if text.startswith("Slab 0x")), None)
        recorded = next((text for _, text in self.pending if text.startswith("Slab 0x")), None)
        if model is None or recorded is None:
            return
        base = int(recorded.split()[1], 16) - int(model.split()[1], 16)
        self.machine.checker.page_structs = PageStructs(base, size)
        self.page_structs_known = True
        lines[:] = [
            (level, text.replace(model.split()[1], recorded.split()[1]) if text.startswith("Slab 0x") else text)
            for level, text in lines
        ]

    # ------------------------------------------------------------ inputs

    def page_source(self, cache: int, order: int) -> int | None:
        """Return the recorded frame of a new slab; None if the recording shows none."""
        record, slub = self.current, self.machine.slub
        slab = record.get("slab")
        if not isinstance(slab, int):
            return None
        if slub.rcu_pending and slub.slab_of_frame(slab) is not None:
            slub.rcu_barrier()  # its frames are free again, so the grace period is over
        if slub.slab_of_frame(slab) is not None:
            return None
        geometry = slub.geometries[cache]
        if record["objs"] != (geometry.objects if order == geometry.order else geometry.min_objects):
            return None
        self.taken["frames"] += 1
        if geometry.has_random_seq:
            self.taken["starts"] += 1
        for frame in range(slab, slab + (1 << order)):
            self.layouts[frame] = slab, self.machine.checker.layout(cache)
        if self.junk is not None:
            self.machine.ram.view(slab * _PAGE_BYTES, _PAGE_BYTES << order)[:] = bytes((self.junk,)) * (
                _PAGE_BYTES << order
            )
        return slab

    # ------------------------------------------------------------ operations

    def op_c(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        if not record["ok"]:
            return {"ok": 0}, {"ok": int(self.predict_geometry(record) is not None)}
        if record["name"] != record["asked"] or record["refcount"] > 1:
            raise NotSupportedError(
                f"operation {record['i']}: cache {record['asked']} is shared with {record['name']}, of which "
                "nothing is recorded",
                remedy="record with slub_nomerge",
            )
        slub, recorded = self.machine.slub, geometry_of(record)
        predicted = self.predict_geometry(record)
        geometry = recorded if predicted is None else predicted
        sequence = record.get("random_seq", self.sequences.get(record["i"]))
        index = slub.kmem_cache_create(geometry, sequence, int(record["random"], 16))
        self.caches[record["cid"]] = index
        if geometry.ctor:
            slub.set_ctor(index, self.constructor)
        names = list(recorded.__dataclass_fields__)
        wanted = {name: getattr(recorded, name) for name in names}
        return wanted, {} if predicted is None else {name: getattr(predicted, name) for name in names}

    def constructor(self, address: int) -> None:
        """What the recording's constructor writes."""
        self.machine.ram.write_u32(address, _CTOR_VALUE)

    def predict_geometry(self, record: Record) -> CacheGeometry | None:
        try:
            return CacheList(self.config).kmem_cache_create(
                record["asked"],
                record["asked_size"],
                record["asked_align"],
                int(record["asked_flags"], 16),
                ctor=bool(record["asked_ctor"]),
                useroffset=record["asked_useroff"],
                usersize=record["asked_usersize"],
            )
        except KmemError:
            return None

    def op_x(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        self.machine.slub.kmem_cache_destroy(self.cache(record))
        del self.caches[record["cid"]]
        self.machine.checker.deliver()
        return {}, {}

    def op_r(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        self.machine.slub.drop_random_seq(self.cache(record))
        return {}, {}

    def op_s(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        left = self.machine.slub.kmem_cache_shrink(self.cache(record))
        return {"ret": record.get("ret", int(left))}, {"ret": int(left)}

    def op_k(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        slub = self.machine.slub
        cache, gfp = self.cache(record), int(record["gfp"], 16)
        slub.start_object = record.get("idx", -1)
        slabs = int(slub.caches_array[cache]["new_slabs"])
        got = slub.kmem_cache_alloc(cache, gfp)
        if gfp & _GFP_ZERO and slub.geometries[cache].ctor and slabs != int(slub.caches_array[cache]["new_slabs"]):
            self.machine.warn_once("mm/slub.c", _NEW_SLAB_LINE, "new_slab")
        address = int(record["addr"], 16)
        if address:
            self.objects[record["slot"]] = (address, record["cid"])
        return self.answer(record, got)

    def op_m(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        slub = self.machine.slub
        if record["size"] > _PAGE_BYTES << (_MAX_ORDER - 1):
            if not int(record["gfp"], 16) & _GFP_NOWARN:
                self.machine.warn_once("mm/page_alloc.c", _ALLOC_PAGES_LINE, "__alloc_pages")
            return {"addr": record["addr"]}, {"addr": "0x0"}
        if record.get("slab") is None:
            raise NotSupportedError(f"operation {record['i']}: a kmalloc of pages, whose state is not recorded")
        cache = self.kmalloc_cache(record)
        slub.start_object = record["idx"]
        known = slub.slab_of_frame(record["slab"]) is not None
        if not known:
            self.exhaust(cache)
        got = slub.kmem_cache_alloc(cache, int(record["gfp"], 16))
        self.objects[record["slot"]] = (int(record["addr"], 16), None)
        self.kmalloc[record["cache"]] = cache
        if known:
            return self.answer(record, got)
        # A slab that the cache had before: how it comes to the CPU, and what else there is, is told by the answer.
        node = slub.nodes_array[cache * slub.nr_nodes]
        before = record["nslabs"] - int(node["nr_slabs"])
        node["nr_slabs"] += before
        node["unseen"] = max(0, int(node["unseen"]) + before)
        node["nr_partial"] = record["npart"]
        return {}, {}

    def exhaust(self, cache: int) -> None:
        """Take what the model has free in the CPU's slab for used: the recorded kernel had to go to another slab."""
        slub = self.machine.slub
        cpu = slub.cpus_array[cache * slub.nr_cpus + slub.allocator.cpu]
        index = int(cpu["freelist"])
        while index < _WILD:
            at = int(cpu["slots"]) + index
            index, slub.links_array[at] = int(slub.links_array[at]), _IN_USE
        cpu["freelist"] = _NO_OBJECT

    def kmalloc_cache(self, record: Record) -> int:
        """Return the kmalloc cache that a record names, made when it is first used."""
        name = record["cache"]
        if name not in self.kmalloc:
            caches = CacheList(self.config)
            create_kmalloc_caches(caches)
            for geometry in caches.slab_caches:
                if geometry.name == name:
                    return self.machine.slub.kmem_cache_create(geometry, self.sequences.get(name))
            raise InputError(f"operation {record['i']}: no kmalloc cache {name}")
        return self.kmalloc[name]

    def answer(self, record: Record, got: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what was recorded of an allocation, and what the model has."""
        wanted: dict[str, Any] = {"addr": record["addr"]}
        model: dict[str, Any] = {"addr": "0x0" if got is None else hex(got + self.page_offset)}
        if got is None or "slab" not in record:
            return wanted, model
        return self.slab_answer(record, got, wanted, model)

    def slab_answer(
        self, record: Record, address: int, wanted: dict[str, Any], model: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add slab, object and counters to both sides."""
        slub = self.machine.slub
        if record["slab"] is None:
            return wanted | {"slab": None}, model | {"slab": slub.slab_of_frame(address // _PAGE_BYTES)}
        wanted |= {name: record[name] for name in ("slab", "idx", "cache", "objs", *_STATE_FIELDS)}
        if slub.slab_of_frame(address // _PAGE_BYTES) is None:
            return wanted, model | {"slab": None}
        slab, _ = slub.where(address)
        geometry = slub.geometries[slub.slab_cache(slab)]
        offset = address - slab * _PAGE_BYTES - geometry.red_left_pad
        model |= {"slab": slab, "idx": max(offset, 0) // geometry.size, "objs": slub.slab_objects(slab)}
        model |= {"cache": geometry.name}
        return wanted, model | dict(zip(_STATE_FIELDS, slab_state(slub, slab, slub.allocator.cpu), strict=True))

    def op_K(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        address, cid = self.objects[record["slot"]]
        slub = self.machine.slub
        if cid is None or cid not in self.caches:
            raise InputError(f"operation {record['i']}: no cache for slot {record['slot']}")
        wanted, freed = {"addr": record["addr"]}, int(record["addr"], 16)
        if record["op"] == "K":
            freed = address  # else the script says where in the object
        slub.kmem_cache_free(self.caches[cid], freed - self.page_offset)
        return self.slab_answer(record, address - self.page_offset, wanted, {"addr": hex(freed)})

    def op_KX(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        self.machine.slub.kmem_cache_free(self.cache(record, "wrong_cid"), int(record["addr"], 16) - self.page_offset)
        return {}, {}

    def op_M(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        address, _ = self.objects[record["slot"]]
        self.machine.slub.kfree(address - self.page_offset)
        return self.slab_answer(record, address - self.page_offset, {"addr": record["addr"]}, {"addr": hex(address)})

    def op_w(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        address, _ = self.objects[record["slot"]]
        if not 0 <= record["len"] <= _MOST_WRITTEN:
            raise ValueError(f"{record['len']} bytes written")
        self.machine.checker.memory.fill(address + record["off"], int(record["byte"], 16) & 0xFF, record["len"])
        return {}, {}

    def op_h(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compare the bytes of a slot; those of the tracks are masked."""
        checker = self.machine.checker
        _, cid = self.objects[record["slot"]]
        if cid is None or cid not in self.caches:
            raise InputError(f"operation {record['i']}: no cache for slot {record['slot']}")
        s = checker.layout(self.caches[cid])
        base = int(record["base"], 16)
        recorded = bytearray.fromhex(record["hex"])
        model = bytearray(checker.memory.view(base, record["size"]))
        if s.flags & SLAB_STORE_USER:
            pad = int(record["addr"], 16) - base
            tracks = slice(pad + s.info_end, min(pad + s.tracks_end, len(recorded)))
            model[tracks] = recorded[tracks]
        wanted = {"bytes": recorded.hex(), "red_left_pad": record["red_left_pad"], "offset": record["offset"]}
        geometry = self.machine.slub.geometries[self.caches[cid]]
        return wanted, {"bytes": model.hex(), "red_left_pad": geometry.red_left_pad, "offset": s.offset}

    def op_v(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        """A vmalloc that cannot be: of no bytes, or of more than there is."""
        if int(record["addr"], 16):
            raise NotSupportedError(f"operation {record['i']}: vmalloc areas are not recorded with reports")
        machine, size = self.machine, record["size"]
        report = machine.checker.report
        if size == 0:
            machine.warn_once("mm/vmalloc.c", _VMALLOC_LINE, "__vmalloc_node_range")
        elif not int(record["gfp"], 16) & _GFP_NOWARN:
            if self.word_bytes == 8:
                reason = "exceeds total pages"
            else:
                guarded = -(-size // _PAGE_BYTES) * _PAGE_BYTES + _PAGE_BYTES
                report.printk(f"vmap allocation for size {guarded} failed: use vmalloc=<size> to increase size")
                reason = "vm_struct allocation failed"
            report.printk(
                f"sh: vmalloc error: size {size}, {reason}, mode:{record['gfp']}(GFP_KERNEL), nodemask=(null),cpuset=/"
            )
            report.dump_stack()
            report.printk("Mem-Info:")
            report.printk("0 pages hwpoisoned")
            machine.lines += report.lines
            report.lines = []
        return {"addr": record["addr"]}, {"addr": "0x0"}

    def op_page(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        if record["op"] == "a":
            return self.pages.alloc(record)
        return self.pages.free(record)

    # ------------------------------------------------------------ dumps, the end

    def compare_lists(self, record: Record) -> None:
        """Compare the lists of a cache in a state dump."""
        index = self.caches.get(record["cid"])
        if index is None or "nodes" not in record:
            return
        slub = self.machine.slub
        expected, got = cache_lists(record), dump_cache(slub, index)
        if "cpus" not in record:
            got["cpus"] = got["cpus"][:1]
        held = expected == got
        self.result.end_state = self.result.end_state is not False and held
        if not held:
            self.differ(None, f"state dump: cache {record['name']}", expected, got, "")

    def find_fatal_operation(self) -> None:
        """Find an operation that gives the report which the recording ends with."""
        expected = self.pending
        raw = [text for section in self.sections for _, text in section.lines]
        if not raw:
            return
        if any("do_exit" in text for text in raw if text.startswith(" ")):
            self.result.notes.append("the task was exiting when it died, as its call trace says")
        call = next((text for text in raw if text.startswith(("RIP: ", "EIP: "))), "")
        kind = _KIND_OF_CALL.get(call.rpartition(":")[2].strip().partition("+")[0], "")
        tried, fitting = 0, []
        best: list[Line] = []
        for candidate in self.candidates(kind):
            tried += 1
            lines = self.try_operation(candidate)
            if any("do_exit" in text for text in raw if text.startswith(" ")) and lines:
                lines.append((1, "Fixing recursive fault but reboot is needed!"))
            if lines == expected:
                fitting.append(candidate)
            elif len(lines) > len(best):
                best = lines
        self.result.operations += 1
        self.pending = []
        if fitting:
            self.result.identical += 1
            what = ", ".join(f"{c['op']} {c.get('slot', c.get('cid'))}" for c in fitting)
            self.result.notes.append(
                f"the operation that killed the kernel is not recorded: of {tried} that it could be, "
                f"{len(fitting)} give{'s' if len(fitting) == 1 else ''} the recorded report ({what})"
            )
            return
        at = next((n for n, (a, b) in enumerate(zip(expected, best, strict=False)) if a != b), len(best))
        self.differ(
            None,
            f"line {at + 1} of the fatal report",
            f"<{expected[at][0]}>{expected[at][1]}" if at < len(expected) else "no more lines",
            f"<{best[at][0]}>{best[at][1]}" if at < len(best) else "no more lines",
            f"none of {tried} operations that it could be gives this report",
        )

    def candidates(self, kind: str) -> list[Record]:
        """Return the operations that the script could have gone on with."""
        found: list[Record] = []
        for slot, (address, cid) in self.objects.items():
            if cid is not None and kind in ("", "K") and cid in self.caches:
                found.append({"op": "K!", "slot": slot, "cid": cid, "addr": hex(address), "slab": None, "i": None})
            elif cid is None and kind in ("", "M"):
                found.append({"op": "M", "slot": slot, "addr": hex(address), "slab": None, "i": None})
        if kind in ("", "k"):
            for cid in self.caches:
                found.append({"op": "k", "slot": -1, "cid": cid, "gfp": "0xcc0", "addr": "0x0", "i": None})
        return found

    def try_operation(self, candidate: Record) -> list[Line]:
        """Return the lines of one more operation after all recorded ones, on a machine of its own."""
        other = _Checker(self.path, self.kind, self.records, self.sections, False)
        for record in self.records:
            other.guarded(record)
        other.machine.take_lines()
        try:
            other.step(candidate)
        except KernelOops:
            return masked(other.machine.take_lines(), source_lines=self.source_lines)
        except StateError:
            pass
        return []

    def finish(self) -> Result:
        """Add what was taken from the recording, and return the verdict."""
        self.leftover()
        if self.taken["frames"]:
            self.result.notes.append(
                f"frames of {self.taken['frames']} new slabs, and where {self.taken['starts']} shuffled ones start, "
                "taken from the recording"
            )
        if self.nr_open:
            self.result.notes.append(
                f"fresh memory is not zeroed here: what nobody wrote was not compared, in {self.nr_open} places"
            )
        if self.sequences:
            self.result.notes.append(
                f"random_seq of {len(self.sequences)} caches not recorded: taken from their objects as they turn up"
            )
        return self.result


class _PageLists:
    """What can be known of page operations without the state of the lists: what was freed last comes first."""

    def __init__(self) -> None:
        self.count: int | None = None
        self.free_pages: int | None = None
        self.stacks: dict[int, list[int]] = {}
        self.live: dict[int, int] = {}

    def _result(self, record: Record, pfn: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
        wanted = {name: record[name] for name in ("pc", "nf")}
        model: dict[str, Any] = {"pc": self.count, "nf": self.free_pages}
        if pfn is not None:
            wanted["pfn"], model["pfn"] = record["pfn"], pfn
        return wanted, model

    def alloc(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compare an allocation: what was freed to this CPU's list last is what it gets."""
        order, stack = record["order"], self.stacks.setdefault(record["order"], [])
        self.live[record["slot"]] = record["pfn"]
        if self.count is None or not (stack or record["nf"] == self.free_pages):
            # Nothing is known of the lists yet, or they were refilled.
            self.count, self.free_pages = record["pc"], record["nf"]
            return {}, {}
        self.count -= 1 << order
        return self._result(record, stack.pop() if stack else None)

    def free(self, record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compare a free; of a block that is free already the kernel frees the pages behind the first.

        Source: mm/page_alloc.c:__free_pages @6.1.192
        """
        order, pfn = record["order"], record["pfn"]
        if self.count is None:
            self.count, self.free_pages = record["pc"], record["nf"]
            return {}, {}
        if self.live.pop(record["slot"], None) is not None:
            self.count += 1 << order
            self.stacks.setdefault(order, []).append(pfn)
        else:
            for part in range(order - 1, -1, -1):
                self.count += 1 << part
                self.stacks.setdefault(part, []).append(pfn + (1 << part))
        return self._result(record, pfn)
