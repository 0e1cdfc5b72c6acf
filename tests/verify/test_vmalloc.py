# SPDX-License-Identifier: GPL-2.0-only
"""Vmalloc recordings: what the real kernel did, and what the model must refuse."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import orjson
import pytest

from kmem.errors import InputError, KmemError, NotSupportedError
from kmem.machine.records import Record, read_records
from kmem.verify import kind_of, verify
from kmem.verify.vmalloc import verify_vmalloc

DATA = Path(__file__).parent.parent / "data" / "misc"
RECORDINGS = sorted(DATA.glob("*/vmalloc-*.jsonl.zst"))
EXACT = DATA / "amd64" / "vmalloc-exact.jsonl.zst"
PAGE = 4096

NONSENSE: tuple[Any, ...] = (None, -1, 1 << 62, "x", [], {}, [[]])


def lines_of(path: Path) -> list[Record]:
    return [record for _, record in read_records(path)]


def write(path: Path, records: list[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    return path


@pytest.fixture
def exact() -> list[Record]:
    return lines_of(EXACT)


@pytest.fixture
def short(exact: list[Record]) -> list[Record]:
    """The recording up to its second dump."""
    ends = [place for place, record in enumerate(exact) if record.get("t") == "enddump"]
    return exact[: ends[1] + 1]


def first(records: list[Record], **wanted: Any) -> int:
    return next(
        place
        for place, record in enumerate(records)
        if all(record.get(name) == value for name, value in wanted.items())
    )


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) == 4


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def test_recording_is_identical(path: Path) -> None:
    assert kind_of(path) == "vmalloc"
    result = verify(path)
    assert [difference.describe() for difference in result.differences] == []
    rows = lines_of(path)
    start = first(rows, t="dump")
    assert result.operations == result.identical == sum(row.get("op") in ("v", "V", "B") for row in rows[start:])
    assert result.end_state is True and result.held
    assert result.notes == []


def test_the_recordings_hold_what_is_rare() -> None:
    for machine, words in (("amd64", 8), ("i386", 4)):
        rows = lines_of(DATA / machine / "vmalloc-large.jsonl.zst")
        asked = [row for row in rows if row.get("op") == "v"]
        assert any(row["size"] == 0 and row["addr"] == "0x0" for row in asked)
        assert any(row.get("pages_array") == "vmalloc" for row in asked)
        assert all(
            (row["nr_pages"] * words > PAGE) == (row["pages_array"] == "vmalloc") for row in asked if "flags" in row
        )
    assert sum(row["addr"] == "0x0" and 0 < row["size"] < 1 << 30 for row in asked) > 20  # i386: no addresses left


def shifted(record: Record, field: str) -> None:
    """Alter one number, whatever it is written as."""
    value = record[field]
    if field in ("addr", "va_start", "va_end", "start", "end"):
        record[field] = f"{int(value, 16) + PAGE:#x}"
    elif isinstance(value, str):
        record[field] = f"{int(value, 16) ^ 4:#x}" if value.startswith("0x") else "vmalloc"
    else:
        record[field] = value + 1


@pytest.mark.parametrize(
    "field", ["addr", "va_start", "va_end", "vmsize", "flags", "nr_pages", "page_order", "pages_array"]
)
def test_one_altered_number_of_an_allocation_is_refused_there(exact: list[Record], tmp_path: Path, field: str) -> None:
    victim = [record for record in exact if record.get("op") == "v"][700]
    shifted(victim, field)
    result = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", exact))
    assert [(difference.op, difference.where) for difference in result.differences] == [(victim["i"], field)]
    assert result.identical == result.operations - 1
    assert result.end_state is True
    assert not result.held
    assert "pages and a guard page" in result.differences[0].message


@pytest.mark.parametrize(("op", "field"), [("V", "addr"), ("V", "lazy_pages"), ("B", "lazy_pages")])
def test_one_altered_number_of_a_free_or_purge_is_refused_there(
    exact: list[Record], tmp_path: Path, op: str, field: str
) -> None:
    victim = [record for record in exact if record.get("op") == op][5]
    shifted(victim, field)
    result = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", exact))
    assert [(difference.op, difference.where) for difference in result.differences] == [(victim["i"], field)]


def test_another_size_moves_everything_that_follows(exact: list[Record], tmp_path: Path) -> None:
    victim = [record for record in exact if record.get("op") == "v"][700]
    victim["size"] += PAGE
    result = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", exact), stop_at_first=True)
    (difference,) = result.differences
    assert difference.op == victim["i"]
    assert "va_end" in difference.where and "nr_pages" in difference.where
    assert result.identical < result.operations - 1


def test_memory_for_32_bits_is_never_high_memory(tmp_path: Path) -> None:
    rows = lines_of(DATA / "i386" / "vmalloc-exact.jsonl.zst")
    victim = next(record for record in rows if record.get("op") == "v" and record["kind"] == 2)
    victim["highmem_pages"] = 1
    (difference,) = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", rows)).differences
    assert (difference.op, difference.where) == (victim["i"], "highmem_pages")


@pytest.mark.parametrize(
    ("kind", "field", "where"),
    [
        ("vmap", "start", "busy areas"),
        ("vmap", "end", "busy areas"),
        ("vmap", "vmsize", "busy areas"),
        ("vmap", "flags", "busy areas"),
        ("vmap", "nr_pages", "busy areas"),
        ("vfree", "start", "free areas"),
        ("vfree", "end", "free areas"),
        ("vpurge", "start", "lazily freed areas"),
        ("vlazy", "pages", "lazy pages"),
    ],
)
def test_an_altered_area_of_a_later_dump_is_refused(
    exact: list[Record], tmp_path: Path, kind: str, field: str, where: str
) -> None:
    start = first(exact, t="dump", name="mid1")
    shifted(next(record for record in exact[start:] if record.get("t") == kind), field)
    result = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", exact))
    assert [difference.where for difference in result.differences] == [f"state dump 'mid1': {where}, number 0"]
    assert result.identical == result.operations
    assert result.end_state is False
    assert not result.held


@pytest.mark.parametrize("kind", ["vmap", "vfree", "vpurge"])
def test_a_missing_area_of_a_later_dump_is_refused(exact: list[Record], tmp_path: Path, kind: str) -> None:
    start = first(exact, t="dump", name="mid1")
    last = max(
        place for place, row in enumerate(exact[: first(exact, t="enddump", name="mid1")]) if row.get("t") == kind
    )
    assert last > start
    del exact[last]
    (difference,) = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", exact)).differences
    assert difference.expected == "nothing"


def test_a_recording_in_which_the_worker_ran_is_refused(exact: list[Record], tmp_path: Path) -> None:
    rows = [record for record in exact if record.get("op") != "B" or record["i"] < 2]
    path = write(tmp_path / "vmalloc.jsonl", rows)
    pages_of = {row["slot"]: row["vmsize"] // PAGE for row in rows if row.get("op") == "v"}
    lazy = itertools.accumulate(pages_of[row["slot"]] if row.get("op") == "V" else 0 for row in rows)
    line = next(line for line, pages in enumerate(lazy, 1) if pages > 8192)
    with pytest.raises(NotSupportedError, match=rf"vmalloc\.jsonl:{line}: .*purge worker ran.*operation B"):
        verify(path)


def test_what_was_lazy_at_the_start_is_unknown_without_a_purge(tmp_path: Path) -> None:
    rows = [row for row in lines_of(DATA / "i386" / "vmalloc-exact.jsonl.zst") if row.get("i") != 1]
    result = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", rows))
    assert result.notes == ["nothing taken to be lazily freed at the start: the dump does not show it"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.insert(len(rows), {"i": 9, "op": "k"}), "operation 'k' does not belong"),
        (lambda rows: rows.insert(0, rows[first(rows, op="v")]), "an operation before the first state dump"),
        (lambda rows: rows.pop(first(rows, t="globals")), "field 'VMALLOC_START' is missing"),
        (lambda rows: rows.pop(first(rows, t="vmap")), "belongs to no area or to two"),
        (lambda rows: rows.pop(first(rows, t="vfree")), "belongs to no area or to two"),
        (lambda rows: shifted(rows[first(rows, t="vmap")], "end"), "overlaps with"),
        (lambda rows: rows[first(rows, t="vmap")].update(vmsize=PAGE), "is described as"),
        (lambda rows: rows[first(rows, t="vmap")].pop("end"), "field 'end' is missing"),
        (lambda rows: rows[first(rows, op="v")].pop("size"), "field 'size' is missing"),
        (lambda rows: rows[first(rows, op="v")].update(addr="high"), "field 'addr' is no number"),
        (lambda rows: rows[first(rows, op="V")].pop("slot"), "field 'slot' is missing"),
        (lambda rows: rows.pop(), "ends inside the state dump"),
    ],
)
def test_damaged_recordings_name_the_line(short: list[Record], tmp_path: Path, change: Any, message: str) -> None:
    change(short)
    with pytest.raises(InputError, match=rf"vmalloc\.jsonl:\d+: .*({message})"):
        verify(write(tmp_path / "vmalloc.jsonl", short))


def test_operations_without_a_dump(short: list[Record], tmp_path: Path) -> None:
    rows: list[Record] = [{"i": 0, "op": "B", "lazy_pages": 0}]
    with pytest.raises(InputError, match="no state dump with areas of the address space"):
        verify(write(tmp_path / "vmalloc.jsonl", rows))


def test_a_free_of_an_empty_slot_is_a_difference(short: list[Record], tmp_path: Path) -> None:
    victim = short[first(short, op="V")]
    victim["slot"] = 60000
    result = verify_vmalloc(write(tmp_path / "vmalloc.jsonl", short), stop_at_first=True)
    assert [(difference.op, difference.got) for difference in result.differences] == [
        (victim["i"], "operation nothing in slot 60000")
    ]


def test_every_field_may_be_nonsense(short: list[Record], tmp_path: Path) -> None:
    """Whatever stands in a field: a difference or a line that says what is wrong, and never a defect."""
    short = short[: first(short, op="V") + 1] + [{"i": 900, "op": "B", "lazy_pages": 0}]
    seen = set()
    for place, record in enumerate(short):
        kind = record.get("op", record.get("t"))
        for field in record:
            if (kind, field) in seen or field in ("op", "t"):
                continue
            seen.add((kind, field))
            for value in NONSENSE:
                altered = [*short[:place], record | {field: value}, *short[place + 1 :]]
                try:
                    verify_vmalloc(write(tmp_path / "vmalloc.jsonl", altered), stop_at_first=True)
                except KmemError as error:
                    assert error.line is not None or "no state dump" in str(error)
    assert len(seen) > 40
