# SPDX-License-Identifier: GPL-2.0-only
"""Slab recordings: what the real kernel did, and what the model must refuse."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from kmem.errors import InputError
from kmem.machine.records import read_records
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.machine.statedump_slab import cache_lists, load_slub
from kmem.verify.slab import verify_slab

DATA = Path(__file__).parent.parent / "data" / "slab"
RECORDINGS = sorted(DATA.glob("*/*.jsonl.zst"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name.split('.')[0]}"


def lines_of(path: Path) -> list[dict]:
    return [record for _, record in read_records(path)]


def write(path: Path, records: list[dict]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    return path


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) == 5


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_recording_is_identical(path: Path) -> None:
    result = verify_slab(path)
    assert result.operations > 8000
    assert result.identical == result.operations
    assert result.end_state is True
    assert not result.differences
    assert result.held
    assert result.kind == ("mixed" if "mixed" in path.name else "slab")
    assert result.name == name_of(path)


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_restored_caches_are_valid_and_dump_as_recorded(path: Path) -> None:
    records = read_records(path)
    line, head = next((line, record) for line, record in records if record.get("t") == "dump")
    dump = StateDump.collect(head, records, path, line)
    caches = load_slub(dump, load_page_allocator(dump))
    caches.slub.validate()
    shown = [*dump.of("cache"), *dump.of("mycache")]
    assert shown
    for record in shown:
        assert caches.slub.dump(caches.by_ptr[record["ptr"]]) == cache_lists(record)


@pytest.fixture(scope="module")
def shrink() -> list[dict]:
    return lines_of(DATA / "amd64-shrink" / "slab-01.jsonl.zst")


@pytest.fixture(scope="module")
def mixed() -> list[dict]:
    return lines_of(DATA / "amd64-nomerge" / "mixed-00.jsonl.zst")


@pytest.fixture(scope="module")
def full() -> list[dict]:
    return lines_of(DATA / "amd64-128M-full" / "slab-01.jsonl.zst")


@pytest.mark.parametrize("op", ["k", "K"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("slab", 1),
        ("idx", 1),
        ("inuse", 1),
        ("frozen", 1),
        ("cpuslab", -1),
        ("npart", 1),
        ("nslabs", -1),
        ("objs", 1),
        ("cache", "other"),
    ],
)
def test_one_altered_number_is_refused_at_its_operation(
    shrink: list[dict], tmp_path: Path, op: str, field: str, change: int | str
) -> None:
    # Not the first object of a new slab: that one tells where the slab's random freelist starts.
    new_slab = [False] + [b.get("nslabs", 0) != a.get("nslabs", 0) for a, b in pairwise(shrink)]
    altered = [dict(record) for record in shrink]
    victim = next(
        i for i, r in enumerate(altered) if r.get("op") == op and r.get("slab") and i > 1500 and not new_slab[i]
    )
    altered[victim][field] = change if isinstance(change, str) else altered[victim][field] + change
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered), stop_at_first=True)
    assert not result.held
    assert result.identical == result.operations - 1
    difference = result.differences[0]
    assert difference.op == altered[victim]["i"]
    assert field in difference.where
    assert ("kmem_cache_alloc(" if op == "k" else "kmem_cache_free(") in difference.message


def first_of_new_slab(records: list[dict]) -> int:
    """Return the place of an allocation that made a shuffled slab of several objects."""
    seen = {record["slab"] for record in records[:1500] if "slab" in record}
    return next(
        i
        for i, r in enumerate(records)
        if i > 1500 and r.get("op") == "k" and r.get("slab") and r["slab"] not in seen and r["cache"] == "w700"
    )


def test_a_wrong_start_of_a_random_freelist_shows_in_what_follows(shrink: list[dict], tmp_path: Path) -> None:
    altered = [dict(record) for record in shrink]
    victim = first_of_new_slab(altered)
    before = altered[victim]["idx"]
    altered[victim]["idx"] = (before + 1) % altered[victim]["objs"]
    size = next(r["size"] for r in altered if r.get("t") == "mycache" and r["name"] == "w700")
    altered[victim]["addr"] = hex(int(altered[victim]["addr"], 16) + (altered[victim]["idx"] - before) * size)
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered))
    assert not result.held
    assert result.differences[0].op > altered[victim]["i"]


@pytest.mark.parametrize(("op", "by"), [("k", 8), ("k", 4096), ("k", 1 << 36), ("K", 8)])
def test_an_altered_address_is_refused_at_its_operation(shrink: list[dict], tmp_path: Path, op: str, by: int) -> None:
    altered = [dict(record) for record in shrink]
    victim = next(r for r in altered[1500:] if r.get("op") == op and r.get("slab"))
    victim["addr"] = hex(int(victim["addr"], 16) + by)
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == victim["i"]
    assert result.differences[0].where == "addr"
    assert not result.held


@pytest.mark.parametrize("op", ["m", "M"])
@pytest.mark.parametrize("large", [False, True])
def test_an_altered_address_of_kmalloc_is_refused(mixed: list[dict], tmp_path: Path, op: str, large: bool) -> None:
    altered = [dict(record) for record in mixed]
    victim = next(r for r in altered if r.get("op") == op and "addr" in r and (r["slab"] is None) == large)
    victim["addr"] = hex(int(victim["addr"], 16) ^ 0x40)
    result = verify_slab(write(tmp_path / "mixed-00.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == victim["i"]
    assert result.differences[0].where == "addr"


def test_without_page_offset_the_low_bits_are_compared(shrink: list[dict], tmp_path: Path) -> None:
    altered = [{k: v for k, v in record.items() if k != "PAGE_OFFSET"} for record in shrink]
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered))
    assert result.held
    assert any("no PAGE_OFFSET" in note for note in result.notes)
    victim = next(r for r in altered[1500:] if r.get("op") == "k" and r.get("slab"))
    victim["addr"] = hex(int(victim["addr"], 16) + 8)
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].where == "addr"


def test_numbers_of_a_cache_that_gave_up_its_red_zone(shrink: list[dict], tmp_path: Path) -> None:
    # The recorder takes off the pad that such a cache keeps in its fields; the addresses are right.
    name = "w700"
    altered = orjson.loads(orjson.dumps(shrink))
    altered = altered[: next(i for i, r in enumerate(altered) if r.get("t") == "dump" and r["name"] != "before")]
    for record in altered:
        if record.get("t") == "mycache" and record["name"] == name:
            assert record["red_left_pad"] == 0
            assert not record["nodes"][0]["nr_slabs"]
            record["red_left_pad"] = 8
        if "op" in record and record.get("cache") == name:
            record["idx"] = max(record["idx"] - 1, 0)
    assert sum(record.get("cache") == name for record in altered) > 100
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered))
    assert [difference.describe() for difference in result.differences] == []
    assert result.identical == result.operations


@pytest.mark.parametrize("what", ["k", "m"])
def test_an_allocation_without_its_slab_is_named(
    shrink: list[dict], mixed: list[dict], tmp_path: Path, what: str
) -> None:
    altered = [dict(record) for record in (shrink if what == "k" else mixed)]
    victim = next(r for r in altered if r.get("op") == what and r.get("slab"))
    del victim["slab"]
    path = write(tmp_path / "x.jsonl.gz", altered)
    with pytest.raises(InputError, match="without 'slab'"):
        verify_slab(path)
    victim["addr"] = "0x10"
    if what == "k":
        with pytest.raises(InputError, match="without 'slab'"):
            verify_slab(write(path, altered))
        return
    result = verify_slab(write(path, altered), stop_at_first=True)
    assert result.differences[0].op == victim["i"]
    assert result.differences[0].expected == "object ZERO_SIZE_PTR"


def test_no_bytes_are_zero_size_ptr(mixed: list[dict], tmp_path: Path) -> None:
    first = next(i for i, r in enumerate(mixed) if r.get("op") == "m")
    zero = {"i": 1, "op": "m", "slot": 99999, "size": 0, "gfp": "0x28c0", "addr": "0x10"}
    result = verify_slab(write(tmp_path / "x.jsonl.gz", [*mixed[:first], zero, *mixed[first:]]))
    assert result.held
    wrong = dict(next(r for r in mixed if r.get("op") == "m" and r.get("slab"))) | {"slot": 99999, "size": 0}
    altered = [*mixed[:first], wrong, *mixed[first:]]
    result = verify_slab(write(tmp_path / "x.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].got == "object ZERO_SIZE_PTR"


def later_dump(records: list[dict], what: str) -> int:
    """Return where the last dump that shows these parts begins."""
    return max(i for i, r in enumerate(records) if r.get("t") == "dump" and r["what"] == what)


@pytest.mark.parametrize(
    ("what", "kind", "all_of_them"),
    [
        ("c", "mycache", False),
        *(
            (("zc", kind, every))
            for kind in ("mycache", "zone", "area", "pcp", "pageblocks")
            for every in (False, True)
        ),
    ],
)
def test_a_later_dump_that_shows_less_is_refused(
    shrink: list[dict], tmp_path: Path, what: str, kind: str, all_of_them: bool
) -> None:
    start = later_dump(shrink, what)
    end = next(i for i in range(start, len(shrink)) if shrink[i].get("t") == "enddump")
    victims = [i for i in range(start, end) if shrink[i].get("t") == kind][: None if all_of_them else 1]
    assert victims
    result = verify_slab(write(tmp_path / "x.jsonl.gz", [r for i, r in enumerate(shrink) if i not in victims]))
    assert result.identical == result.operations
    assert result.end_state is False
    assert result.differences[0].got in ("none", "no record")


def test_a_later_dump_without_a_kernel_cache_is_refused(mixed: list[dict], tmp_path: Path) -> None:
    start = later_dump(mixed, "za")
    victim = next(i for i in range(start, len(mixed)) if mixed[i].get("t") == "cache")
    result = verify_slab(write(tmp_path / "x.jsonl.gz", mixed[:victim] + mixed[victim + 1 :]))
    assert result.end_state is False
    assert mixed[victim]["name"] in result.differences[0].where


@pytest.mark.parametrize(
    ("alter", "expected"),
    [(lambda r: r.update(ptr="0x1234"), "a cache at 0x1234"), (lambda r: r.pop("nodes"), "lists as in the first dump")],
)
def test_a_later_cache_that_cannot_be_compared_is_refused(
    shrink: list[dict], tmp_path: Path, alter, expected: str
) -> None:
    altered = orjson.loads(orjson.dumps(shrink))
    alter(next(r for r in altered[later_dump(altered, "zc") :] if r.get("t") == "mycache"))
    result = verify_slab(write(tmp_path / "x.jsonl.gz", altered))
    assert result.end_state is False
    assert any(difference.expected == expected for difference in result.differences)


@pytest.mark.parametrize("what", ["c", "zc"])
def test_an_emptied_dump_is_named(shrink: list[dict], tmp_path: Path, what: str) -> None:
    start = later_dump(shrink, what)
    end = next(i for i in range(start, len(shrink)) if shrink[i].get("t") == "enddump")
    with pytest.raises(InputError, match="shows nothing"):
        verify_slab(write(tmp_path / "x.jsonl.gz", shrink[: start + 1] + shrink[end:]))


def test_without_a_later_dump_no_end_state_is_claimed(shrink: list[dict], tmp_path: Path) -> None:
    first = next(i for i, r in enumerate(shrink) if r.get("t") == "enddump")
    left = shrink[: first + 1] + [r for r in shrink[first + 1 :] if "t" not in r]
    result = verify_slab(write(tmp_path / "x.jsonl.gz", left))
    assert result.identical == result.operations
    assert result.end_state is None
    assert "end state" not in result.summary()


def test_an_object_that_no_slab_has_is_refused_at_once(shrink: list[dict], tmp_path: Path) -> None:
    altered = [dict(record) for record in shrink]
    victim = first_of_new_slab(altered)
    altered[victim]["idx"] = altered[victim]["objs"]
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == altered[victim]["i"]


def test_a_success_where_the_kernel_failed_is_refused(full: list[dict], tmp_path: Path) -> None:
    altered = [dict(record) for record in full]
    victim = next(i for i, r in enumerate(altered) if r.get("op") == "k" and int(r["addr"], 16) == 0)
    donor = next(r for r in altered if r.get("op") == "k" and r.get("slab"))
    altered[victim] = donor | {name: altered[victim][name] for name in ("i", "slot", "cid", "gfp")}
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == altered[victim]["i"]
    assert result.differences[0].got == "object None"


def test_a_failure_where_the_kernel_succeeded_is_refused(mixed: list[dict], tmp_path: Path) -> None:
    altered = [dict(record) for record in mixed]
    victim = next(i for i, r in enumerate(altered) if r.get("op") == "m" and i > 3000)
    altered[victim] = {name: altered[victim][name] for name in ("i", "op", "slot", "size", "gfp")} | {"addr": "0x0"}
    result = verify_slab(write(tmp_path / "mixed-00.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == altered[victim]["i"]


@pytest.mark.parametrize(
    ("kind", "field"), [("m", "ksize"), ("m", "pfn"), ("m", "pgorder"), ("a", "pfn"), ("a", "nf"), ("f", "pc")]
)
def test_altered_large_and_page_operations_are_refused(
    mixed: list[dict], tmp_path: Path, kind: str, field: str
) -> None:
    altered = [dict(record) for record in mixed]
    victim = next(i for i, r in enumerate(altered) if r.get("op") == kind and field in r and i > 3000)
    altered[victim][field] += 1
    result = verify_slab(write(tmp_path / "mixed-00.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == altered[victim]["i"]
    assert field in result.differences[0].where


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (lambda r: r["cpu"]["freelist"].reverse(), "freelist"),
        (lambda r: r["cpu"]["partial"].reverse(), "partial"),
        (lambda r: r["nodes"][0]["partial"].reverse(), "partial"),
        (lambda r: r["nodes"][0].update(nr_slabs=r["nodes"][0]["nr_slabs"] + 1), "nr_slabs"),
        (lambda r: r["nodes"][0].update(total_objects=0), "total_objects"),
    ],
)
def test_an_altered_dump_is_refused(shrink: list[dict], tmp_path: Path, alter, where: str) -> None:
    altered = orjson.loads(orjson.dumps(shrink))
    start = next(i for i, r in enumerate(altered) if r.get("t") == "dump" and r["name"] == "mid")
    victims = [r for r in altered[start:] if r.get("t") == "mycache"]
    victim = next(
        r
        for r in victims
        if len(r["cpu"]["freelist"]) > 1 and len(r["cpu"]["partial"]) > 1 and len(r["nodes"][0]["partial"]) > 1
    )
    alter(victim)
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered))
    assert result.end_state is False
    assert not result.held
    assert result.identical == result.operations
    assert f"cache {victim['name']}" in result.differences[0].where
    assert where in result.differences[0].where


def test_an_altered_shrink_result_is_refused(shrink: list[dict], tmp_path: Path) -> None:
    altered = [dict(record) for record in shrink]
    victim = next(record for record in altered if record.get("op") == "s")
    victim["ret"] ^= 1
    result = verify_slab(write(tmp_path / "slab-01.jsonl.gz", altered), stop_at_first=True)
    assert result.differences[0].op == victim["i"]


def test_a_full_list_of_a_tracking_cache_is_compared(tmp_path: Path) -> None:
    altered = lines_of(DATA / "i386-nomerge" / "slab-04.jsonl.zst")
    victim = next(r for r in altered if r.get("t") == "mycache" and len(r["nodes"][0]["full"]) > 1)
    victim["nodes"][0]["full"].reverse()
    result = verify_slab(write(tmp_path / "slab-04.jsonl.gz", altered))
    assert result.end_state is False
    assert "full" in result.differences[0].where


def test_what_was_taken_from_the_recording_is_said() -> None:
    notes = verify_slab(DATA / "i386-nomerge" / "slab-04.jsonl.zst").notes
    assert "1 of 3 assumed stack depot states tried; the empty one holds" in notes
    assert any("shuffled freelists start at the first object recorded" in note for note in notes)


def test_a_difference_says_how_many_depot_states_were_tried(tmp_path: Path) -> None:
    altered = lines_of(DATA / "i386-nomerge" / "slab-04.jsonl.zst")
    victim = next(r for r in altered[1000:] if r.get("op") == "K" and r.get("slab"))
    victim["inuse"] += 1
    result = verify_slab(write(tmp_path / "slab-04.jsonl.gz", altered))
    assert result.identical == result.operations - 1
    assert any(note.startswith("3 of 3 assumed stack depot states tried; ") for note in result.notes)
    assert any(note.endswith(" comes closest") for note in result.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:0], "no state dump"),
        (lambda r: [x for x in r if x.get("t") != "mycache"], "no slab caches"),
        (lambda r: [{"op": "v", "i": 1}, *r], "does not belong"),
        (lambda r: [x for x in r if x.get("t") != "zone"], "before the first state dump"),
        (lambda r: [{k: v for k, v in x.items() if k != "idx"} for x in r], "without 'idx'"),
        (lambda r: [{k: v for k, v in x.items() if k != "nodes"} for x in r], "no lists of slabs"),
        (lambda r: [x | {"order": "x"} if x.get("t") == "mycache" else x for x in r], "order of cache"),
        (lambda r: [x | {"size": 0} if x.get("t") == "mycache" else x for x in r], "objects of 0 bytes"),
        (lambda r: [x | {"random_seq": [0, 0]} if x.get("t") == "mycache" else x for x in r], "not a permutation"),
    ],
)
def test_a_damaged_recording_is_refused_in_one_line(shrink: list[dict], tmp_path: Path, change, message: str) -> None:
    path = write(tmp_path / "slab-01.jsonl.gz", change(shrink))
    with pytest.raises(InputError) as error:
        verify_slab(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["cpu"]["slab"].update(inuse=0), "in use"),
        (lambda c: c["cpu"]["freelist"].append(c["cpu"]["freelist"][0]), "twice"),
        (lambda c: c["cpu"]["slab"].update(pfn=1 << 30), "beyond the end"),
        (lambda c: c["cpu"]["slab"].update(pfn=512), "is free, or in another slab"),
        (lambda c: c["cpu"]["slab"].update(objects=3), "objects, the cache has"),
        (lambda c: c["nodes"][0].update(nr_partial=999), "nr_partial"),
        (lambda c: c["nodes"][0].update(nr_slabs=0), "nr_slabs"),
        (lambda c: c["nodes"][0].update(node=7), "node 7"),
    ],
)
def test_a_start_state_that_contradicts_itself_is_refused(
    mixed: list[dict], tmp_path: Path, change, message: str
) -> None:
    records = orjson.loads(orjson.dumps(mixed[:1000]))
    victim = next(r for r in records if r.get("t") == "cache" and len(r["cpu"]["freelist"]) > 1)
    change(victim)
    with pytest.raises(InputError, match=message):
        verify_slab(write(tmp_path / "mixed-00.jsonl.gz", records))
