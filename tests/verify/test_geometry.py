# SPDX-License-Identifier: GPL-2.0-only
"""Geometry recordings of real kernels hold, and an altered one is refused at the altered place."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from kmem.errors import InputError, NotSupportedError
from kmem.verify.geometry import verify_geometry

DATA = Path(__file__).parents[1] / "data" / "geometry"
CONTEXT = ("cmdline.txt", "dmesg-boot.txt", "uname.txt")
RECORDINGS = {
    "amd64-merge/geometry-merge.jsonl.gz": (320, True),
    "amd64-nokmem/kmalloc-random.jsonl.gz": (None, None),
    "amd64-nomerge-smp4/geometry-nomerge.jsonl.gz": (295, None),
    "amd64-nomerge/geometry-nomerge.jsonl.gz": (443, None),
    "amd64-nomerge/kmalloc.csv": (580, None),
    "amd64-nomerge/krealloc.jsonl.gz": (152, None),
    "amd64-orders/geometry-unusual.jsonl.gz": (38, True),
    "amd64-slub_debug-F/geometry-unusual.jsonl.gz": (38, True),
    "amd64-slub_debug-O/geometry-unusual.jsonl.gz": (38, True),
    "amd64-slub_debug-blocks/geometry-unusual.jsonl.gz": (38, True),
    "amd64-slub_debug-blocks/kmalloc-random.jsonl.gz": (None, None),
    "amd64-slub_debug-merge/geometry-merge.jsonl.gz": (320, True),
    "i386-nomerge/geometry-nomerge.jsonl.gz": (354, None),
    "i386-nomerge/kmalloc-dma_account.jsonl.gz": (244, None),
    "i386-nomerge/krealloc.jsonl.gz": (152, None),
    "i386-smp8/geometry-grid.jsonl.gz": (89, None),
}


def test_every_recording_is_listed() -> None:
    found = {str(path.relative_to(DATA)) for path in DATA.rglob("*") if path.suffix in (".gz", ".csv")}
    assert found == set(RECORDINGS)


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording_is_identical(name: str) -> None:
    operations, end_state = RECORDINGS[name]
    result = verify_geometry(DATA / name)
    assert result.held, [difference.describe() for difference in result.differences]
    assert result.end_state is end_state
    assert result.operations == operations if operations else result.operations > 500
    assert result.kind == "geometry"


def records_of(name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in gzip.open(DATA / name)]


def rewritten(name: str, records: list[dict[str, Any]], folder: Path) -> Path:
    """Write `records` beside the context files of recording `name`."""
    for context in CONTEXT:
        shutil.copy(DATA / Path(name).parent / context, folder / context)
    path = folder / Path(name).name
    path.write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, records)) + b"\n", 1))
    return path


def altered(value: object) -> object:
    """Return another value of the same kind."""
    if isinstance(value, str):
        return hex(int(value, 16) ^ 0x10) if value.startswith("0x") else value + "x"
    assert isinstance(value, int)
    return 1 - value if value in (0, 1) else value + 1


FIELDS = (
    *("name", "object_size", "size", "align", "inuse", "offset", "red_left_pad", "flags", "order", "objects"),
    *("min_order", "min_objects", "min_partial", "cpu_partial", "cpu_partial_slabs", "useroffset", "usersize"),
    *("refcount", "ctor", "allocflags", "remote_ratio", "has_random_seq"),
)


@pytest.mark.parametrize("field", FIELDS)
def test_one_altered_field_is_refused_at_its_operation(field: str, tmp_path: Path) -> None:
    name = "i386-nomerge/geometry-nomerge.jsonl.gz"
    records = records_of(name)
    creations = [record for record in records if record.get("op") == "c" and record["ok"]]
    victim = creations[len(creations) // 2]
    victim[field] = altered(victim[field])
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert not result.held
    assert result.identical == result.operations - 1
    [difference] = result.differences
    assert difference.op == victim["i"]
    assert difference.where.endswith(f": {field}")
    assert "kmem_cache_create" in difference.message


def test_a_refused_cache_that_was_created_is_a_difference(tmp_path: Path) -> None:
    name = "amd64-slub_debug-F/geometry-unusual.jsonl.gz"
    records = records_of(name)
    victim = next(record for record in records if record.get("asked") == "big2")
    assert victim["ok"] == 0
    victim["asked_size"] -= 1
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert next((d.op, d.expected, d.got) for d in result.differences) == (victim["i"], "NULL", "a cache")


def test_stop_at_first_ends_there(tmp_path: Path) -> None:
    name = "i386-nomerge/geometry-nomerge.jsonl.gz"
    records = records_of(name)
    creations = [record for record in records if record.get("op") == "c" and record["ok"]]
    for victim in creations[10:20]:
        victim["order"] += 1
    result = verify_geometry(rewritten(name, records, tmp_path), stop_at_first=True)
    assert (result.operations, result.identical, len(result.differences)) == (11, 10, 1)


@pytest.mark.parametrize("dump", ["post", "end"])
def test_an_altered_end_state_is_a_difference(dump: str, tmp_path: Path) -> None:
    name = "amd64-merge/geometry-merge.jsonl.gz"
    records = records_of(name)
    start = next(i for i, record in enumerate(records) if record.get("t") == "dump" and record["name"] == dump)
    records[start + 7]["refcount"] += 1
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert result.end_state is False
    assert result.identical == result.operations
    assert [d.where for d in result.differences] == [
        f"dump {dump}: cache {records[start + 7]['name']}, number 6 of the list: refcount"
    ]


def test_a_cache_missing_at_the_end_is_a_difference(tmp_path: Path) -> None:
    name = "amd64-merge/geometry-merge.jsonl.gz"
    records = records_of(name)
    start = next(i for i, record in enumerate(records) if record.get("t") == "dump" and record["name"] == "end")
    end = next(i for i, record in enumerate(records) if record.get("t") == "enddump" and i > start)
    del records[end - 1]
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert result.end_state is False
    assert [d.where for d in result.differences] == ["dump end: number of caches"]


@pytest.mark.parametrize(("cache", "field"), [("kmalloc-rcl-2k", "refcount"), ("radix_tree_node", "cpu_partial")])
def test_an_impossible_start_state_is_a_difference(cache: str, field: str, tmp_path: Path) -> None:
    name = "amd64-merge/geometry-merge.jsonl.gz"
    records = records_of(name)
    victim = next(record for record in records if record.get("name") == cache)
    victim[field] += 1
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert result.differences[0].where == f"start state: cache {cache}: {field}"


def test_an_altered_kmalloc_table_is_a_difference(tmp_path: Path) -> None:
    name = "i386-nomerge/geometry-nomerge.jsonl.gz"
    records = records_of(name)
    victim = next(r for r in records if r.get("t") == "kmalloc_cache" and r.get("name") == "kmalloc-cg-96")
    victim["object_size"] = 100
    [difference] = verify_geometry(rewritten(name, records, tmp_path)).differences
    assert difference.where == "kmalloc_caches[1][1]"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("i386-nomerge/kmalloc-dma_account.jsonl.gz", "ksize"),
        ("i386-nomerge/kmalloc-dma_account.jsonl.gz", "cache"),
        ("amd64-slub_debug-blocks/kmalloc-random.jsonl.gz", "ksize"),
    ],
)
def test_one_altered_kmalloc_is_refused_at_its_operation(name: str, field: str, tmp_path: Path) -> None:
    records = records_of(name)
    calls = [record for record in records if record.get("op") == "m" and "cache" in record]
    victim = calls[len(calls) // 3]
    victim[field] = altered(victim[field])
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert result.differences[0].op == victim["i"]
    assert not result.held


@pytest.mark.parametrize("field", ["old_ksize", "ksize", "addr"])
def test_one_altered_krealloc_is_refused_at_its_operation(field: str, tmp_path: Path) -> None:
    name = "amd64-nomerge/krealloc.jsonl.gz"
    records = records_of(name)
    victim = [record for record in records if record.get("op") == "z" and record["addr"] == record["old"]][9]
    victim[field] = altered(victim[field])
    result = verify_geometry(rewritten(name, records, tmp_path))
    assert result.differences[0].op == victim["i"]
    assert result.identical < result.operations


def test_one_altered_number_in_the_table_is_refused_at_its_line(tmp_path: Path) -> None:
    for context in CONTEXT:
        shutil.copy(DATA / "amd64-nomerge" / context, tmp_path / context)
    lines = (DATA / "amd64-nomerge" / "kmalloc.csv").read_text().splitlines()
    row = next(i for i, line in enumerate(lines) if line.endswith(",96,kmalloc-rcl-96,"))
    lines[row] = lines[row].replace(",96,", ",97,")
    (tmp_path / "kmalloc.csv").write_text("\n".join(lines))
    result = verify_geometry(tmp_path / "kmalloc.csv")
    assert [difference.op for difference in result.differences] == [row + 1]
    assert (result.operations, result.identical) == (580, 579)


def test_context_decides(tmp_path: Path) -> None:
    """The same recording under another boot option or CPU count does not hold."""
    name = "amd64-nomerge-smp4/geometry-nomerge.jsonl.gz"
    path = rewritten(name, records_of(name), tmp_path)
    assert verify_geometry(path).held
    dmesg = tmp_path / "dmesg-boot.txt"
    text = dmesg.read_text()
    dmesg.write_text(text.replace("CPUs=4", "CPUs=1").replace("Allowing 4 CPUs", "Allowing 1 CPUs"))
    assert not verify_geometry(path).held
    dmesg.write_text(text)
    (tmp_path / "cmdline.txt").write_text("slub_nomerge slub_max_order=2\n")
    assert not verify_geometry(path).held


def test_without_context_the_defaults_are_assumed_and_said(tmp_path: Path) -> None:
    records = [r for r in records_of("i386-nomerge/geometry-nomerge.jsonl.gz") if r.get("op") == "c"]
    path = tmp_path / "geometry.jsonl"
    records[0]["ptr"] = "0xc2e0ea80"
    path.write_bytes(b"\n".join(map(orjson.dumps, records)))
    result = verify_geometry(path)
    assert result.held
    assert any("i386 assumed from the width of an address" in note for note in result.notes)
    assert any("no caches merge" in note for note in result.notes)
    assert any("1 CPU" in note for note in result.notes)


def test_merging_without_a_list_of_caches_is_bad_input(tmp_path: Path) -> None:
    name = "amd64-merge/geometry-merge.jsonl.gz"
    path = rewritten(name, [r for r in records_of(name) if r.get("op") == "c"], tmp_path)
    with pytest.raises(InputError, match=r"geometry-merge.jsonl.gz:1: caches may merge .*; record with a dump"):
        verify_geometry(path)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        (b"{", InputError, ":2: not JSON"),
        (b"[1]", InputError, ":2: not a JSON object"),
        (b'{"i":1,"op":"a","slot":0}', NotSupportedError, ":2: operation 'a' does not occur in geometry recordings"),
        (b'{"i":1,"op":"m","slot":0}', InputError, ":2: field 'size' is missing"),
        (b'{"i":1,"op":"m","slot":0,"size":"many","gfp":"0x1"}', InputError, ":2: field 'size' is no number"),
        (b'{"i":1,"op":"m","slot":0,"size":-9,"gfp":"0xcc0"}', InputError, ":2: field 'addr' is missing"),
    ],
)
def test_bad_lines_name_the_line(line: bytes, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "geometry.jsonl"
    path.write_bytes(b'{"t":"note"}\n' + line + b"\n")
    with pytest.raises(error, match=message):
        verify_geometry(path)


def test_damaged_compression_is_bad_input(tmp_path: Path) -> None:
    whole = (DATA / "amd64-merge" / "geometry-merge.jsonl.gz").read_bytes()
    path = tmp_path / "geometry.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read to its end"):
        verify_geometry(path)
    path.write_bytes(whole[:2000] + b"\0" * 50 + whole[2050:])
    with pytest.raises(InputError):
        verify_geometry(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: not a table of kmalloc sizes"),
        ("a,b\n1,2\n", ":1: not a table of kmalloc sizes"),
        ("type,gfp,size_from,size_to,ksize,cache,pgorder\nkernel,0xcc0,1\n", ":2: a row without 7 columns"),
        ("type,gfp,size_from,size_to,ksize,cache,pgorder\nkernel,0xcc0,8,1,8,kmalloc-8,\n", ":2: sizes from 8 to 1"),
        ("type,gfp,size_from,size_to,ksize,cache,pgorder\nkernel,x,1,8,8,kmalloc-8,\n", ":2: a row without gfp"),
    ],
)
def test_bad_tables_name_the_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "kmalloc.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        verify_geometry(path)
