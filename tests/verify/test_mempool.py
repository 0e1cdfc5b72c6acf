# SPDX-License-Identifier: GPL-2.0-only
"""Mempool recordings: what the real kernel did, and what the model must refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from kmem.errors import InputError, KmemError
from kmem.machine.records import Record, read_records
from kmem.verify import kind_of, verify
from kmem.verify.mempool import verify_mempool

DATA = Path(__file__).parent.parent / "data" / "misc"
RECORDINGS = sorted(DATA.glob("*/mempool-*.jsonl.zst"))
COMPARED = frozenset("pqQRy")

NONSENSE: tuple[Any, ...] = (None, -1, 1 << 62, "x", [], {}, [[]])


def lines_of(path: Path) -> list[Record]:
    return [record for _, record in read_records(path)]


def write(path: Path, records: list[Record]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    return path


@pytest.fixture
def tour() -> list[Record]:
    return lines_of(DATA / "amd64" / "mempool-tour.jsonl.zst")


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) == 4


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def test_recording_is_identical(path: Path) -> None:
    assert kind_of(path) == "mempool"
    result = verify(path)
    assert [difference.describe() for difference in result.differences] == []
    counts = Counter(record["op"] for record in lines_of(path) if record.get("op") in COMPARED)
    assert result.operations == result.identical == counts.total()
    assert set(counts) == COMPARED
    assert result.held and result.end_state is None


def first(records: list[Record], **wanted: Any) -> int:
    return next(
        place
        for place, record in enumerate(records)
        if all(record.get(name) == value for name, value in wanted.items())
    )


def altered_address(address: str) -> str:
    return f"{int(address, 16) ^ 0x40:#x}"


# Which operation (by its number in the recording) says what, and how the model must object.
@pytest.mark.parametrize(
    ("op", "field", "value", "where"),
    [
        (37, "min_nr", 5, "min_nr"),
        (37, "curr_nr", 3, "curr_nr"),
        (41, "curr_nr", 4, "curr_nr"),
        (44, "curr_nr", 1, "curr_nr"),
        (53, "curr_nr", 5, "curr_nr"),
        (53, "min_nr", 3, "min_nr"),
        (90, "ret", -12, "ret"),
        (90, "min_nr", 7, "min_nr"),
        (91, "curr_nr", 3, "curr_nr"),
        (95, "curr_nr", 4, "curr_nr"),
        (98, "ok", 1, "ok"),
        (101, "ok", 0, "ok"),
    ],
)
def test_one_altered_number_is_refused_at_its_operation(
    tour: list[Record], tmp_path: Path, op: int, field: str, value: int, where: str
) -> None:
    place = first(tour, i=op)
    assert tour[place][field] != value
    tour[place][field] = value
    result = verify_mempool(write(tmp_path / "mempool.jsonl", tour))
    assert [(difference.op, difference.where) for difference in result.differences][:1] == [(op, where)]
    assert result.identical == result.operations - 1
    assert not result.held
    assert "of pool" in result.differences[0].message


@pytest.mark.parametrize("op", [41, 45, 48, 53, 72])
def test_another_element_is_refused(tour: list[Record], tmp_path: Path, op: int) -> None:
    record = tour[first(tour, i=op)]
    record["elem"] = altered_address(record["elem"])
    result = verify_mempool(write(tmp_path / "mempool.jsonl", tour), stop_at_first=True)
    assert [(difference.op, difference.where) for difference in result.differences] == [(op, "elem")]


@pytest.mark.parametrize("op", [38, 47, 52, 90, 91, 95])
def test_another_order_of_the_reserve_is_refused(tour: list[Record], tmp_path: Path, op: int) -> None:
    record = tour[first(tour, i=op)]
    record["elements"][:2] = reversed(record["elements"][:2])
    if len(record["elements"]) == 1:
        record["elements"][0] = altered_address(record["elements"][0])
    result = verify_mempool(write(tmp_path / "mempool.jsonl", tour), stop_at_first=True)
    assert [(difference.op, difference.where) for difference in result.differences] == [(op, "elements")]


@pytest.mark.parametrize(
    ("op", "back", "field", "value", "message"),
    [
        (38, 1, "gfp", "0xcc0", "mp_alloc_fn(pool 3, gfp 0x92880)"),
        (46, 1, "gfp", "0x92c00", "mp_alloc_fn(pool 3, gfp 0x92800)"),
        (72, 1, "gfp", "0x92880", "mp_alloc_fn(pool 3, gfp 0x92cc0)"),
        (53, 1, "elem", "0xffff888000000000", "mp_free_fn(pool 3, elem "),
        (91, 6, "elem", "0xffff888000000000", "mp_free_fn(pool 3, elem "),
        (53, 1, "pool", 4, "mp_free_fn(pool 3, elem "),
    ],
)
def test_another_call_of_the_allocator_is_refused(
    tour: list[Record], tmp_path: Path, op: int, back: int, field: str, value: Any, message: str
) -> None:
    place = first(tour, i=op) - back
    assert tour[place][field] != value
    tour[place][field] = value
    result = verify_mempool(write(tmp_path / "mempool.jsonl", tour), stop_at_first=True)
    (difference,) = result.differences
    assert (difference.op, difference.where.rpartition(", ")[2]) == (op, "calls of the allocator")
    assert message in str(difference.got)


@pytest.mark.parametrize(
    ("op", "offset", "got"),
    [
        (38, -1, "where the kernel made no call"),
        (53, -1, "where the kernel made no call"),
        (91, -3, "where the kernel had mp_free_fn"),
        (95, 2, "where the kernel had mp_free_fn"),
        (72, -2, "nothing is recorded that wakes it"),
    ],
)
def test_a_missing_call_is_refused(tour: list[Record], tmp_path: Path, op: int, offset: int, got: str) -> None:
    place = first(tour, i=op)
    if op == 72:
        place += 1  # the last call is left out too, so that nothing follows the sleep
        del tour[place - 2]
        place -= 1
    del tour[place + offset]
    result = verify_mempool(write(tmp_path / "mempool.jsonl", tour), stop_at_first=True)
    (difference,) = result.differences
    assert difference.op == op
    assert got in str(difference.got)


def test_a_call_too_many_is_refused(tour: list[Record], tmp_path: Path) -> None:
    place = first(tour, i=41)
    tour.insert(place, dict(tour[place - 1]))
    (difference,) = verify_mempool(write(tmp_path / "mempool.jsonl", tour)).differences
    assert (difference.op, difference.where) == (41, "calls of the allocator")
    assert "no further call, where the kernel had mp_alloc_fn" in str(difference.got)


def test_an_element_of_an_unrecorded_allocator_has_to_come_back(tour: list[Record], tmp_path: Path) -> None:
    # The pool of kmalloc: what its allocator returned is taken from the operation, and must be what is freed.
    record = tour[first(tour, op="q", slot=2)]
    record["elem"] = altered_address(record["elem"])
    result = verify_mempool(write(tmp_path / "mempool.jsonl", tour), stop_at_first=True)
    assert [(difference.op, difference.where) for difference in result.differences] == [(9, "elem")]
    assert "mempool_free(" in result.differences[0].message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.insert(3, {"i": 99, "op": "k"}), "operation 'k' does not belong"),
        (lambda rows: rows.pop(first(rows, i=2)), "operation 'q' on pool 0, which the recording does not create"),
        (lambda rows: rows.insert(first(rows, i=3), dict(rows[first(rows, i=2)])), "pool 0 is created twice"),
        (lambda rows: rows[first(rows, i=3)].pop("gfp"), "field 'gfp' is missing"),
        (lambda rows: rows[first(rows, i=3)].update(gfp="much"), "field 'gfp' is no number"),
        (lambda rows: rows[first(rows, i=3)].update(elem=5), "field 'elem' is no address"),
        (lambda rows: rows[first(rows, i=3)].pop("elem"), "a record without 'elem'"),
        (lambda rows: rows[first(rows, i=90)].pop("elements"), "a record without 'elements'"),
        (lambda rows: rows[first(rows, i=2)].update(asked_min=-1), "cannot hold back -1 elements"),
        (
            lambda rows: rows[first(rows, i=4)].update(elem=rows[first(rows, i=3)]["elem"]),
            "which is in use",
        ),
        (lambda rows: rows[first(rows, t="mp_delayed_free")].update(slot=7), "which is not there"),
    ],
)
def test_damaged_recordings_name_the_line(tour: list[Record], tmp_path: Path, change: Any, message: str) -> None:
    change(tour)
    with pytest.raises(InputError, match=rf"mempool\.jsonl:\d+: .*{message}"):
        verify(write(tmp_path / "mempool.jsonl", tour))


def test_every_field_of_every_operation_may_be_nonsense(tour: list[Record], tmp_path: Path) -> None:
    """Whatever stands in a field: a difference or a line that says what is wrong, and never a defect."""
    seen = set()
    for place, record in enumerate(tour):
        kind = record.get("op", record.get("t"))
        for field in record:
            if (kind, field) in seen or field in ("op", "t") or record.get("op") not in COMPARED | {None}:
                continue
            seen.add((kind, field))
            for value in NONSENSE:
                altered = [*tour[:place], record | {field: value}, *tour[place + 1 :]]
                try:
                    verify_mempool(write(tmp_path / "mempool.jsonl", altered), stop_at_first=True)
                except KmemError as error:
                    assert error.line is not None
    assert len(seen) > 40
