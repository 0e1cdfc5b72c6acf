# SPDX-License-Identifier: GPL-2.0-only
"""Page recordings: what the real kernel did, and what the model must refuse."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest

from kmem.errors import InputError
from kmem.machine.records import read_records
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.mm.debug_vm import validate_pages
from kmem.verify.pages import verify_pages

DATA = Path(__file__).parent.parent / "data" / "pages"
RECORDINGS = sorted(DATA.glob("*/*.jsonl.gz"))


def lines_of(path: Path) -> list[dict]:
    return [record for _, record in read_records(path)]


def write(path: Path, records: list[dict]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    return path


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) == 5


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: f"{p.parent.name}/{p.name.split('.')[0]}")
def test_recording_is_identical(path: Path) -> None:
    result = verify_pages(path)
    assert result.operations > 20000
    assert result.identical == result.operations
    assert result.end_state is True
    assert not result.differences
    assert result.held


@pytest.fixture(scope="module")
def recording() -> list[dict]:
    return lines_of(DATA / "amd64-512M" / "pages-00.jsonl.gz")


@pytest.mark.parametrize(
    ("field", "change"), [("pfn", 1), ("nf", 1), ("nfd", -1), ("pc", 1), ("ff", 1), ("zone", None)]
)
def test_one_altered_number_is_refused_at_its_operation(
    recording: list[dict], tmp_path: Path, field: str, change: int | None
) -> None:
    altered = [dict(record) for record in recording]
    victim = next(i for i, record in enumerate(altered) if record.get("op") == "a" and i > 2000)
    altered[victim][field] = "DMA" if change is None else altered[victim][field] + change
    result = verify_pages(write(tmp_path / "pages-00.jsonl.gz", altered), stop_at_first=True)
    assert not result.held
    assert result.differences[0].op == altered[victim]["i"]
    assert "alloc_pages(" in result.differences[0].message
    assert "zone DMA32" in result.differences[0].message


@pytest.mark.parametrize(
    ("kind", "alter", "where"),
    [
        ("free", lambda r: r["pfns"].append(r["pfns"].pop(0)), "free list of order"),
        ("pcp", lambda r: r.__setitem__("free_factor", 5), "free_factor"),
        ("pageblocks", lambda r: r.__setitem__("types", "2" + r["types"][1:]), "page block of frame"),
        ("zone", lambda r: r.__setitem__("boost", 7), "boost"),
        ("area", lambda r: r.__setitem__("nr_free", r["nr_free"] + 1), "nr_free of order"),
    ],
)
def test_an_altered_end_state_is_refused(recording: list[dict], tmp_path: Path, kind, alter, where: str) -> None:
    altered = [orjson.loads(orjson.dumps(record)) for record in recording]
    last = max(i for i, record in enumerate(altered) if record.get("t") == "dump")
    candidates = [i for i in range(last, len(altered)) if altered[i].get("t") == kind]
    victim = next(i for i in candidates if kind != "free" or len(altered[i]["pfns"]) > 1)
    alter(altered[victim])
    result = verify_pages(write(tmp_path / "x.jsonl.gz", altered))
    assert result.identical == result.operations
    assert result.end_state is False
    assert any(where in difference.where for difference in result.differences)


def last_dump(records: list[dict]) -> int:
    return max(i for i, record in enumerate(records) if record.get("t") == "dump")


@pytest.mark.parametrize("kind", ["zone", "area", "pcp", "pageblocks"])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_later_dump_that_shows_less_is_refused(
    recording: list[dict], tmp_path: Path, kind: str, all_of_them: bool
) -> None:
    last = last_dump(recording)
    victims = [i for i in range(last, len(recording)) if recording[i].get("t") == kind][: None if all_of_them else 1]
    left = [record for i, record in enumerate(recording) if i not in victims]
    result = verify_pages(write(tmp_path / "x.jsonl.gz", left))
    assert result.identical == result.operations
    assert result.end_state is False
    assert len([d for d in result.differences if f"{kind} record of zone" in d.where]) == min(len(victims), 20)
    assert result.differences[0].got == "no record"


@pytest.mark.parametrize(
    ("kind", "alter", "message"),
    [
        ("zone", lambda r: r.pop("vm_stat_diff"), "no vm_stat_diff"),
        ("pcp", lambda r: r["lists"].pop(), "13 lists, the first dump has 14"),
        ("pageblocks", lambda r: r.update(types=r["types"][:-1]), "types, the first dump has"),
        ("pageblocks", lambda r: r.update(types="x" * len(r["types"])), "a page block of unknown type"),
    ],
)
def test_a_later_record_that_shows_less_is_refused(
    recording: list[dict], tmp_path: Path, kind: str, alter, message: str
) -> None:
    altered = orjson.loads(orjson.dumps(recording))
    alter(next(record for record in altered[last_dump(altered) :] if record.get("t") == kind))
    result = verify_pages(write(tmp_path / "x.jsonl.gz", altered))
    assert result.end_state is False
    assert message in result.differences[0].got


@pytest.mark.parametrize(("kept", "missing"), [(["zone"], "area"), (["node"], "zone")])
def test_a_dump_of_few_records_is_refused(recording: list[dict], tmp_path: Path, kept: list[str], missing: str) -> None:
    kinds = ["dump", "enddump", *kept]
    last = last_dump(recording)
    left = recording[:last] + [r for r in recording[last:] if r.get("t") in kinds]
    result = verify_pages(write(tmp_path / "x.jsonl.gz", left))
    assert result.end_state is False
    assert f"{missing} record" in result.differences[0].where


def test_a_zone_said_to_manage_nothing_is_refused(recording: list[dict], tmp_path: Path) -> None:
    altered = orjson.loads(orjson.dumps(recording))
    zone = next(r for r in altered[last_dump(altered) :] if r.get("t") == "zone" and r["managed"])
    zone["managed"] = 0
    result = verify_pages(write(tmp_path / "x.jsonl.gz", altered))
    assert result.end_state is False
    assert "managed" in result.differences[0].where


def test_an_emptied_dump_is_named(recording: list[dict], tmp_path: Path) -> None:
    last = last_dump(recording)
    left = recording[:last] + [r for r in recording[last:] if r.get("t") in ("dump", "enddump")]
    with pytest.raises(InputError, match="state dump 'after' shows nothing"):
        verify_pages(write(tmp_path / "x.jsonl.gz", left))


@pytest.mark.parametrize(("dumps", "note"), [(1, "no state dump after the first one"), (2, "after the last 1612 oper")])
def test_without_a_last_dump_no_end_state_is_claimed(
    recording: list[dict], tmp_path: Path, dumps: int, note: str
) -> None:
    left, seen = [], 0
    for record in recording:
        seen += record.get("t") == "dump"
        if "t" not in record or seen <= dumps:
            left.append(record)
    result = verify_pages(write(tmp_path / "x.jsonl.gz", left))
    assert result.identical == result.operations
    assert result.end_state is None
    assert "end state" not in result.summary()
    assert any(note in text for text in result.notes)


def test_start_state_is_valid() -> None:
    for path in RECORDINGS:
        records = read_records(path)
        for line, record in records:
            if record.get("t") == "dump":
                validate_pages(load_page_allocator(StateDump.collect(record, records, path, line)))
                break


def cut(records: list[dict]) -> list[dict]:
    return records[:40]


def unknown_op(records: list[dict]) -> list[dict]:
    return [*records, {"i": 1, "op": "teleport"}]


def without_field(records: list[dict]) -> list[dict]:
    first = next(i for i, record in enumerate(records) if record.get("op") == "a")
    return [*records[:first], {k: v for k, v in records[first].items() if k != "order"}]


def twice_listed(records: list[dict]) -> list[dict]:
    copies = [orjson.loads(orjson.dumps(record)) for record in records[:200]]
    lists = [record for record in copies if record.get("t") == "free"]
    lists[1]["pfns"] += lists[0]["pfns"]
    return copies


def absurd_frame(records: list[dict]) -> list[dict]:
    copies = [orjson.loads(orjson.dumps(record)) for record in records[:200]]
    next(record for record in copies if record.get("t") == "free")["pfns"][0] = 1 << 50
    return copies


def no_dump(records: list[dict]) -> list[dict]:
    return [record for record in records if "op" in record]


@pytest.mark.parametrize("damage", [cut, unknown_op, without_field, twice_listed, absurd_frame, no_dump])
def test_damaged_recordings_are_named(recording: list[dict], tmp_path: Path, damage) -> None:
    path = write(tmp_path / "broken.jsonl.gz", damage(recording))
    with pytest.raises(InputError) as caught:
        verify_pages(path)
    message = str(caught.value)
    assert "broken.jsonl.gz" in message
    assert "\n" not in message
