# SPDX-License-Identifier: GPL-2.0-only
"""Verification of geometry recordings: what a kernel made of cache requests, kmalloc sizes and krealloc.

Three shapes of recording, told apart by what they hold:

- ``kmem_cache_create`` and ``kmem_cache_destroy`` (``c``, ``x``), with or
  without dumps of the kernel's list of caches.  Every field of ``struct
  kmem_cache`` is an answer, except its address and its random numbers.  A
  first dump is the start state; what of it follows from sizes and flags is
  checked as well, kmalloc caches down to the last field.
- ``kmalloc``, ``kfree`` and ``krealloc`` (``m``, ``M``, ``z``): ``ksize`` and
  the cache (or page order), and whether krealloc moved the object.
- ``kmalloc.csv``: ranges of sizes with ``ksize`` and cache.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final

from kmem.errors import InputError, KmemError, NotSupportedError
from kmem.machine.records import UNREADABLE, Record, number, open_recording, read_records, text
from kmem.machine.statedump_slab import geometry_of
from kmem.mm.kmalloc import (
    KMALLOC_INDEX_SIZES,
    KMALLOC_MAX_CACHE_SIZE,
    KMALLOC_MAX_SIZE,
    ZERO_SIZE_PTR,
    KmallocCaches,
    KmallocType,
    create_kmalloc_caches,
    kmalloc_index,
    kmalloc_large_order,
    kmalloc_type,
    kmalloc_types,
    krealloc_in_place,
)
from kmem.mm.slab_common import CacheCreateError, CacheGeometry, CacheList, SlabConfig, kmem_cache_open
from kmem.mm.slab_flags import CMPXCHG_DOUBLE, OBJECT_POISON, SLAB_KMALLOC, SLAB_NEVER_MERGE
from kmem.profile.flags import format_slab_flags
from kmem.verify.result import Difference, Result
from kmem.verify.slab_context import SlabContext, read_slab_context

__all__ = ["GEOMETRY_OPERATIONS", "verify_geometry"]

GEOMETRY_OPERATIONS: Final = frozenset({"c", "cf", "x", "s", "r", "m", "M", "z", "skip", "note", "L", "U", "D", "Z"})
"""Operations that a geometry recording is made of."""

_FIELDS: Final = tuple(f.name for f in fields(CacheGeometry))
_U32: Final = 0xFFFFFFFF
_MAX_DIFFERENCES: Final = 20
_TYPE_NAMES: Final = {
    KmallocType.NORMAL: "normal",
    KmallocType.CGROUP: "cgroup",
    KmallocType.RECLAIM: "reclaim",
    KmallocType.DMA: "dma",
}


class _Stop(Exception):
    """Enough differences were seen."""


def _cache_of(record: Record) -> CacheGeometry:
    """Return the recorded ``struct kmem_cache``."""
    try:
        return geometry_of(record)
    except KeyError as error:
        raise InputError(f"a cache without {error}") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"a damaged cache: {error}") from None


def _shown(name: str, value: object) -> object:
    """Return a field's value as it is reported: flags in hexadecimal."""
    return hex(value) if name in ("flags", "allocflags") and isinstance(value, int) else value


@dataclass(frozen=True, slots=True)
class _Allocation:
    """What a kmalloc request comes to: a cache's object, pages, the zero pointer, or failure for its size."""

    cache: str | None = None
    ksize: int = 0
    pgorder: int | None = None
    too_large: bool = False

    def describe(self) -> str:
        if self.too_large:
            return f"NULL (above {KMALLOC_MAX_SIZE} bytes)"
        if self.cache is not None:
            return f"ksize {self.ksize} from {self.cache}"
        return "ZERO_SIZE_PTR" if self.pgorder is None else f"ksize {self.ksize}, pages of order {self.pgorder}"


def _predict_kmalloc(size: int, gfp: int, table: KmallocCaches, config: SlabConfig) -> _Allocation:
    """Return what the model makes of ``kmalloc(size, gfp)``; a negative size is a huge size_t."""
    size &= (1 << 8 * config.word_bytes) - 1
    if size > KMALLOC_MAX_SIZE:
        return _Allocation(too_large=True)
    if size > KMALLOC_MAX_CACHE_SIZE:
        order = kmalloc_large_order(size)
        return _Allocation(ksize=config.page_bytes << order, pgorder=order)
    cache = table[kmalloc_type(gfp, config)][kmalloc_index(size)]
    return _Allocation() if cache is None else _Allocation(cache.name, cache.ksize)


@dataclass(slots=True)
class _Checker:
    """The run through one recording."""

    config: SlabConfig
    result: Result
    stop_at_first: bool
    merge_unknown: bool
    """The boot options are not known, and so not whether caches merge."""
    caches: CacheList = field(init=False)
    table: KmallocCaches = field(init=False)
    kmalloc_list: dict[str, CacheGeometry] = field(init=False)
    by_cid: dict[int, CacheGeometry] = field(default_factory=dict)
    slots: dict[int, _Allocation] = field(default_factory=dict)
    dumped: list[CacheGeometry] | None = None
    dump_name: str = ""
    started: bool = False
    start_caches: int = 0
    no_memory: int = 0
    foreign_objects: int = 0
    foreign_caches: int = 0
    """Caches made before the recording began that it destroyed: which ones, it does not say."""

    def __post_init__(self) -> None:
        kmalloc = CacheList(self.config)
        self.table = create_kmalloc_caches(kmalloc)
        self.kmalloc_list = {cache.name: cache for cache in kmalloc.slab_caches}
        self.caches = CacheList(self.config)

    # -- reporting ------------------------------------------------------------------

    def differ(self, op: int | None, where: str, expected: object, got: object, message: str = "") -> None:
        """Note a difference; the run ends when it was the one too many."""
        self.result.differences.append(Difference(op, where, expected, got, message))
        if self.stop_at_first or len(self.result.differences) >= _MAX_DIFFERENCES:
            raise _Stop

    def count(self, identical: bool) -> None:
        """Count an operation; to be called before its differences are reported."""
        self.result.operations += 1
        self.result.identical += identical

    def compare_cache(
        self,
        op: int | None,
        where: str,
        recorded: CacheGeometry,
        model: CacheGeometry,
        message: str,
        skip: Iterable[str],
    ) -> bool:
        """Compare all fields but those in `skip`; report the first that differs. True if none does."""
        for name in _FIELDS:
            want, have = getattr(recorded, name), getattr(model, name)
            if want != have and name not in skip:
                self.differ(op, f"{where}: {name}", _shown(name, want), _shown(name, have), message)
                return False
        return True

    # -- caches ---------------------------------------------------------------------

    def create(self, op: int, record: Record) -> None:
        """``c``: kmem_cache_create, shared or new."""
        cid = number(record, "cid")
        if cid in self.by_cid:
            # Recordings cut down to their ``c`` lines reuse a number without the ``x`` between.
            self.caches.kmem_cache_destroy(self.by_cid.pop(cid))
        name, size, align = text(record, "asked"), number(record, "asked_size"), number(record, "asked_align")
        flags, ctor = number(record, "asked_flags"), bool(number(record, "asked_ctor"))
        useroffset, usersize = number(record, "asked_useroff"), number(record, "asked_usersize")
        call = (
            f'kmem_cache_create("{name}", size {size}, align {align}, flags {format_slab_flags(flags)}'
            f"{', with constructor' if ctor else ''}"
            f"{f', user copies {useroffset}+{usersize}' if useroffset or usersize else ''})"
        )
        self.need_list()
        model: CacheGeometry | None = None
        try:
            model = self.caches.kmem_cache_create(
                name,
                size & _U32,
                align & _U32,
                flags & _U32,
                ctor=ctor,
                useroffset=useroffset & _U32,
                usersize=usersize & _U32,
            )
        except CacheCreateError:
            pass
        else:
            self.by_cid[cid] = model
        recorded = _cache_of(record) if number(record, "ok") else None
        self.count(recorded == model)
        if recorded is None or model is None:
            if recorded is not model:
                answer = ["a cache" if cache else "NULL" for cache in (recorded, model)]
                self.differ(op, f"cache {name}", answer[0], answer[1], call)
            return
        self.compare_cache(op, f"cache {name}", recorded, model, self.explain(call, recorded, model), ())

    def explain(self, call: str, recorded: CacheGeometry, model: CacheGeometry) -> str:
        """Return the request, and which cache the kernel and the model took for it."""
        if recorded == model:
            return call
        lines = [call]
        for who, cache in (("kernel", recorded), ("model", model)):
            lines.append(
                f"{who}: {cache.name} object_size {cache.object_size} size {cache.size} align {cache.align} "
                f"inuse {cache.inuse} offset {cache.offset} order {cache.order} objects {cache.objects} "
                f"refcount {cache.refcount} flags {format_slab_flags(cache.flags)}"
            )
        return "\n".join(lines)

    def need_list(self) -> None:
        """Make sure that the caches a new one could share are known."""
        if self.started or self.config.slab_nomerge:
            return
        if not self.merge_unknown:
            raise InputError(
                "caches may merge on this machine, but the recording does not begin with a list of them",
                remedy="record with a dump of all caches first (D pre b), or boot with slub_nomerge",
            )
        self.config = replace(self.config, slab_nomerge=True)
        self.caches.config = self.config
        self.result.notes.append("no list of caches and no boot options: assumed that no caches merge")

    def destroy(self, record: Record) -> None:
        """``x``: kmem_cache_destroy."""
        cache = self.by_cid.pop(number(record, "cid"), None)
        if cache is None:
            self.foreign_caches += 1
        else:
            self.caches.kmem_cache_destroy(cache)

    # -- kmalloc --------------------------------------------------------------------

    def matches(self, record: Record, model: _Allocation) -> bool:
        """Whether the recorded outcome is the predicted one."""
        addr = number(record, "addr")
        if model.too_large:
            return addr == 0
        if model.cache is None and model.pgorder is None:
            return addr == ZERO_SIZE_PTR
        if addr in (0, ZERO_SIZE_PTR) or number(record, "ksize") != model.ksize:
            return False
        if model.cache is None:
            return record.get("slab") is None and number(record, "pgorder") == model.pgorder
        return record.get("cache") == model.cache

    @staticmethod
    def outcome(record: Record) -> str:
        """Return the recorded outcome in words."""
        addr = number(record, "addr")
        if addr in (0, ZERO_SIZE_PTR):
            return "ZERO_SIZE_PTR" if addr else "NULL"
        if record.get("slab") is None:
            return f"ksize {record.get('ksize')}, pages of order {record.get('pgorder')}"
        return f"ksize {record.get('ksize')} from {record.get('cache')}"

    def kmalloc(self, op: int, record: Record) -> None:
        """``m``: kmalloc."""
        size, gfp = number(record, "size"), number(record, "gfp")
        model = _predict_kmalloc(size, gfp, self.table, self.config)
        if number(record, "addr") == 0 and model.ksize:
            self.no_memory += 1  # a matter of free memory, which these recordings do not hold
            return
        if model.ksize:
            self.slots[number(record, "slot")] = model
        same = self.matches(record, model)
        self.count(same)
        if not same:
            self.differ(op, "kmalloc", self.outcome(record), model.describe(), f"kmalloc({size}, {gfp:#x})")

    def krealloc(self, op: int, record: Record) -> None:
        """``z``: krealloc of an object that ``m`` made."""
        slot, size, gfp = number(record, "slot"), number(record, "size"), number(record, "gfp")
        old = self.slots.get(slot)
        if old is None:
            self.foreign(slot, record)
            return
        call = f"krealloc(object of {old.describe()}, {size}, {gfp:#x})"
        stays = krealloc_in_place(old.ksize, size)
        model = old if stays else _predict_kmalloc(size, gfp, self.table, self.config)
        addr = number(record, "addr")
        if addr == 0 and not stays and model.ksize:
            self.no_memory += 1
            return
        if size == 0:
            del self.slots[slot]
        elif not model.too_large:
            self.slots[slot] = model
        old_ksize = number(record, "old_ksize")
        moved = addr != number(record, "old")
        same = old_ksize == old.ksize and self.matches(record, model) and moved != stays
        self.count(same)
        if same:
            return
        if old_ksize != old.ksize:
            self.differ(op, "krealloc: ksize of the old object", old_ksize, old.ksize, call)
        elif moved == stays:
            words = ("the object moves", "the object stays")
            self.differ(op, "krealloc", words[not moved], words[stays], call)
        else:
            self.differ(op, "krealloc", self.outcome(record), model.describe(), call)

    def foreign(self, slot: int, record: Record) -> None:
        """krealloc of an object made before the recording began: take what became of it as it is."""
        self.foreign_objects += 1
        if number(record, "addr") in (0, ZERO_SIZE_PTR):
            return
        large = record.get("slab") is None
        self.slots[slot] = _Allocation(
            cache=None if large else text(record, "cache"),
            ksize=number(record, "ksize"),
            pgorder=number(record, "pgorder") if large else None,
        )

    # -- dumps ----------------------------------------------------------------------

    def state(self, line: int, record: Record) -> None:
        """A record that is no operation."""
        kind = record["t"]
        if kind == "dump":
            self.dumped, self.dump_name = None, text(record, "name")
        elif kind == "cache":
            if self.dumped is None:
                self.dumped = []
            cache = _cache_of(record)
            if not self.started:
                self.start_cache(line, cache)
            self.dumped.append(cache)
        elif kind == "mycache":
            cid = number(record, "cid")
            model = self.by_cid.get(cid)
            where = f"dump {self.dump_name}: cache number {cid}"
            if model is None:
                self.end_differs(line, where, text(record, "name"), None)
            else:
                self.end_same(self.compare_cache(line, where, _cache_of(record), model, "", ()))
        elif kind == "kmalloc_cache":
            self.kmalloc_entry(line, record)
        elif kind == "enddump" and self.dumped is not None:
            self.end_of_list(line)

    def end_same(self, same: bool) -> None:
        """Fold one comparison into the verdict on the later dumps."""
        self.result.end_state = same and self.result.end_state is not False

    def end_differs(self, line: int | None, where: str, expected: object, got: object, message: str = "") -> None:
        """A later dump differs."""
        self.result.end_state = False
        self.differ(line, where, expected, got, message)

    def start_cache(self, line: int, recorded: CacheGeometry) -> None:
        """Check what follows from a start cache's own sizes and flags.

        Inputs are its name, sizes, alignment, flags, users and whether its
        random sequence is still there; of a cache that others may have
        joined also the place of the free pointer, which the first user's size decided.
        """
        where = f"start state: cache {recorded.name}"
        self.start_caches += 1
        model = self.kmalloc_list.get(recorded.name)
        if model is not None and recorded.flags & SLAB_KMALLOC:
            self.compare_cache(line, where, recorded, model, "a kmalloc cache", ("has_random_seq",))
            return
        try:
            model = kmem_cache_open(
                recorded.name,
                recorded.object_size,
                recorded.align,
                recorded.flags & ~(CMPXCHG_DOUBLE | OBJECT_POISON),
                self.config,
                ctor=recorded.ctor,
                useroffset=recorded.useroffset,
                usersize=recorded.usersize,
            )
        except CacheCreateError as error:
            self.differ(line, where, "a cache", "none", str(error))
            return
        skip = ["refcount", "has_random_seq"]
        shareable = not (self.config.slab_nomerge or recorded.ctor or recorded.usersize)
        if shareable and not recorded.flags & SLAB_NEVER_MERGE:
            skip.append("offset")
        self.compare_cache(line, where, recorded, model, self.explain("its own sizes", recorded, model), skip)

    def kmalloc_entry(self, line: int, record: Record) -> None:
        """A line of the kernel's table of kmalloc caches."""
        kinds, index = kmalloc_types(self.config), number(record, "index")
        place = number(record, "type")
        where = f"kmalloc_caches[{place}][{index}]"
        if not 0 <= place < len(kinds) or not 0 <= index < len(KMALLOC_INDEX_SIZES):
            self.differ(line, where, record.get("name"), None, "the kernel has no such entry")
            return
        model = self.table[kinds[place]][index]
        recorded: tuple[object, ...] = (record.get("name"),)
        predicted: tuple[object, ...] = (None if model is None else model.name,)
        if model is not None and record.get("name") is not None:
            recorded += (record.get("tname"), number(record, "object_size"), number(record, "size"))
            predicted += (_TYPE_NAMES[kinds[place]], model.object_size, model.size)
        if recorded != predicted:
            self.differ(line, where, list(recorded), list(predicted))

    def end_of_list(self, line: int) -> None:
        """The list of caches is complete: take it for the start, or compare it with the model's."""
        assert self.dumped is not None
        dumped, self.dumped = self.dumped, None
        if not self.started or self.foreign_caches:
            self.caches.adopt(dumped)
            self.started = True
            by_name = {cache.name: cache for cache in dumped}
            self.by_cid = {cid: by_name.get(cache.name, cache) for cid, cache in self.by_cid.items()}
            return
        model = self.caches.slab_caches
        where = f"dump {self.dump_name}"
        for place, (recorded, mine) in enumerate(zip(dumped, model, strict=False)):
            if recorded != mine:
                self.result.end_state = False
                self.compare_cache(
                    None,
                    f"{where}: cache {recorded.name}, number {place} of the list",
                    recorded,
                    mine,
                    self.explain("", recorded, mine).lstrip(),
                    (),
                )
        if len(dumped) != len(model):
            self.end_differs(None, f"{where}: number of caches", len(dumped), len(model))
        self.end_same(dumped == model)

    # -- the run --------------------------------------------------------------------

    def operation(self, record: Record) -> None:
        """Carry out one operation and compare its answer."""
        kind = text(record, "op")
        op = number(record, "i")
        if kind in ("c", "cf"):
            self.create(op, record)
        elif kind == "x":
            self.destroy(record)
        elif kind == "m":
            self.kmalloc(op, record)
        elif kind == "z":
            self.krealloc(op, record)
        elif kind == "M":
            self.slots.pop(number(record, "slot"), None)
        elif kind == "r":
            cache = self.by_cid.get(number(record, "cid"))
            if cache is not None:
                cache.has_random_seq = False
        elif kind not in GEOMETRY_OPERATIONS:
            raise NotSupportedError(
                f"operation {kind!r} does not occur in geometry recordings",
                remedy="geometry recordings create caches (c, x) or call kmalloc and krealloc (m, M, z)",
            )


def _arch_of(records: Iterable[tuple[int, Record]]) -> str | None:
    """Guess the architecture from the first address in a recording."""
    for _, record in records:
        for key in ("ptr", "addr", "old"):
            value = record.get(key)
            if isinstance(value, str) and value not in ("0x0", "0x10"):
                return "amd64" if len(value) > 10 else "i386"
    return None


def _start(path: Path, result: Result, guess: Callable[[], str | None]) -> tuple[SlabContext, SlabConfig]:
    """Read the folder's context and say what had to be assumed."""
    context = read_slab_context(path.parent)
    result.notes.extend(context.notes)
    arch = context.arch
    if arch is None:
        arch = guess()
        seen = "from the width of an address" if arch else "for want of uname.txt"
        arch = arch or "amd64"
        result.notes.append(f"architecture {arch} assumed {seen}")
    return context, context.slab_config(arch)


def _verify_records(path: Path, result: Result, stop_at_first: bool) -> None:
    """Verify a ``.jsonl`` recording."""
    context, config = _start(path, result, lambda: _arch_of(read_records(path)))
    checker = _Checker(config, result, stop_at_first, merge_unknown=context.cmdline is None)
    line = 0
    try:
        for line, record in read_records(path):
            if "op" in record:
                checker.operation(record)
            elif "t" in record:
                checker.state(line, record)
    except _Stop:
        result.notes.append("stopped at the first difference" if stop_at_first else "further differences not shown")
    except KmemError as error:
        raise error.at(file=path, line=line or None) from None
    if checker.start_caches:
        result.notes.append(f"start state: {checker.start_caches} caches follow from their own sizes and flags")
    if checker.foreign_caches:
        result.notes.append(
            f"{checker.foreign_caches} caches made before the recording were destroyed: later dumps taken as they are"
        )
    if checker.foreign_objects:
        result.notes.append(
            f"{checker.foreign_objects} krealloc calls on objects made before the recording not compared"
        )
    if checker.no_memory:
        result.notes.append(f"{checker.no_memory} requests failed for want of memory and were not compared")


_CSV_COLUMNS: Final = ("type", "gfp", "size_from", "size_to", "ksize", "cache", "pgorder")


def _csv_answer(row: dict[str, str]) -> str:
    """Return a row's answer in the words of :meth:`_Allocation.describe`."""
    if row["ksize"] == "ZERO_SIZE_PTR":
        return "ZERO_SIZE_PTR"
    if row["cache"]:
        return f"ksize {row['ksize']} from {row['cache']}"
    return f"ksize {row['ksize']}, pages of order {row['pgorder']}"


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line numbers and rows of a ``kmalloc.csv``."""
    line = 1
    try:
        with open_recording(path) as stream:
            reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""))
            if tuple(reader.fieldnames or ()) != _CSV_COLUMNS:
                raise InputError(
                    "not a table of kmalloc sizes", file=path, line=1, remedy=f"expected {','.join(_CSV_COLUMNS)}"
                )
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise InputError(f"a row without {len(_CSV_COLUMNS)} columns", file=path, line=line)
                yield line, row
    except (*UNREADABLE, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read to its end: {reason}", file=path, line=line) from None


def _verify_csv(path: Path, result: Result, stop_at_first: bool) -> None:
    """Verify ``kmalloc.csv``: every size of each range up to 8192, the ends of ranges above."""
    _, config = _start(path, result, lambda: None)
    table = create_kmalloc_caches(CacheList(config))
    for line, row in _csv_rows(path):
        try:
            gfp, first, last = int(row["gfp"], 16), int(row["size_from"]), int(row["size_to"])
        except ValueError:
            raise InputError("a row without gfp and sizes", file=path, line=line) from None
        if not 0 <= first <= last <= KMALLOC_MAX_SIZE:
            raise InputError(f"sizes from {first} to {last}", file=path, line=line)
        expected = _csv_answer(row)
        sizes = range(first, last + 1) if last <= KMALLOC_MAX_CACHE_SIZE else (first, last)
        answers = ((size, _predict_kmalloc(size, gfp, table, config).describe()) for size in sizes)
        wrong = next(((size, got) for size, got in answers if got != expected), None)
        result.operations += 1
        if wrong is None:
            result.identical += 1
            continue
        call = f"kmalloc({wrong[0]}, {gfp:#x}), {row['type']}"
        result.differences.append(Difference(line, f"line {line}", expected, wrong[1], call))
        if stop_at_first or len(result.differences) >= _MAX_DIFFERENCES:
            return


def verify_geometry(path: Path, *, stop_at_first: bool = False) -> Result:
    """Verify one geometry recording.

    Parameters
    ----------
    path : Path
        ``kmalloc.csv``, or a recording of cache creations, kmalloc or
        krealloc; its folder's ``uname.txt``, ``cmdline.txt`` and
        ``dmesg-boot.txt`` tell what machine it was.
    stop_at_first : bool
        End at the first difference.

    Returns
    -------
    Result
        Operations are cache creations, kmalloc and krealloc calls, or rows of
        the table. ``end_state`` tells of the dumps after the first.

    Raises
    ------
    InputError
        If a file is damaged or a line makes no sense.
    NotSupportedError
        If the recording holds operations of another kind.
    """
    result = Result(f"{path.parent.name}/{path.name.removesuffix('.gz').removesuffix('.jsonl')}", "geometry")
    if path.name.endswith(".csv"):
        _verify_csv(path, result, stop_at_first)
    else:
        _verify_records(path, result, stop_at_first)
    return result
