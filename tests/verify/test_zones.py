# SPDX-License-Identifier: GPL-2.0-only
"""Zone set-up against recorded kernels, and recordings that must be refused."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmem.errors import InputError, KmemError
from kmem.verify.zones import verify_zones

DATA = Path(__file__).parent.parent / "data" / "zones"
FOLDERS = sorted(folder.name for folder in DATA.iterdir())

Record = dict[str, Any]


def rewritten(folder: Path, target: Path, change: Callable[[int, Record], Record | None]) -> Path:
    """Copy a recording's folder with each record passed through `change`; None drops the record."""
    shutil.copytree(folder, target)
    lines = gzip.decompress((folder / "zones.jsonl.gz").read_bytes()).splitlines()
    changed = [change(number, json.loads(line)) for number, line in enumerate(lines, 1)]
    text = "\n".join(json.dumps(record) for record in changed if record is not None)
    (target / "zones.jsonl.gz").write_bytes(gzip.compress(text.encode() + b"\n"))
    return target


def compared_lines(folder: Path) -> int:
    """Count the records that a verification has to answer for."""
    lines = gzip.decompress((folder / "zones.jsonl.gz").read_bytes()).splitlines()
    return sum(json.loads(line).get("t") in ("node", "zone", "pcp", "globals") for line in lines)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_record_is_identical(name: str) -> None:
    folder = DATA / name
    result = verify_zones(folder)
    assert [difference.describe() for difference in result.differences] == []
    defaults = folder / "sysctl-defaults.txt"
    sysctls = len(defaults.read_text().splitlines()) if defaults.exists() else 0
    assert result.operations == result.identical == compared_lines(folder) + sysctls
    assert result.end_state is True
    assert result.held


@pytest.mark.parametrize(
    ("kind", "field", "by"),
    [
        ("zone", "wm_min", 1),
        ("zone", "wm_promo", -1),
        ("zone", "pageset_high", 1),
        ("zone", "pageset_batch", 2),
        ("zone", "present", 1),
        ("zone", "stat_threshold", 2),
        ("node", "totalreserve", 1),
        ("pcp", "high", 1),
        ("globals", "totalram", 1),
    ],
)
def test_one_altered_number_is_refused_where_it_stands(tmp_path: Path, kind: str, field: str, by: int) -> None:
    altered: list[int] = []

    def change(number: int, record: Record) -> Record:
        if number > 400 and not altered and record.get("t") == kind and record.get(field):
            altered.append(number)
            record[field] += by
        return record

    result = verify_zones(rewritten(DATA / "amd64-512M", tmp_path / "altered", change))
    assert [(difference.op, difference.where.rpartition(": ")[2]) for difference in result.differences] == [
        (altered[0], field)
    ]
    assert result.identical == result.operations - 1
    assert not result.held
    (difference,) = result.differences
    assert difference.expected - difference.got == by
    assert "watermark_scale_factor" in difference.message


def test_an_altered_reserve_in_the_last_dump_is_a_different_end_state(tmp_path: Path) -> None:
    restored: list[bool] = []

    def change(_number: int, record: Record) -> Record:
        if record.get("t") == "dump" and record["name"] == "restored":
            restored.append(True)
        if restored and record.get("t") == "zone" and record["name"] == "DMA":
            record["lowmem_reserve"][1] += 1
        return record

    result = verify_zones(rewritten(DATA / "i386-64M", tmp_path / "altered", change))
    assert result.end_state is False
    assert [difference.where for difference in result.differences] == ["zone DMA, node 0: lowmem_reserve"]


def test_an_altered_managed_shows_in_the_sum_and_what_follows_from_it(tmp_path: Path) -> None:
    def change(_number: int, record: Record) -> Record:
        if record.get("t") == "zone" and record["name"] == "DMA32":
            record["managed"] -= 1024
        return record

    result = verify_zones(rewritten(DATA / "amd64-512M", tmp_path / "altered", change))
    assert not result.held
    assert any(difference.where == "globals: totalram" for difference in result.differences)


def test_without_its_context_a_recording_is_verified_as_far_as_it_goes(tmp_path: Path) -> None:
    shutil.copy(DATA / "amd64-512M" / "zones.jsonl.gz", tmp_path)
    result = verify_zones(tmp_path / "zones.jsonl.gz")
    assert any("no dmesg-boot.txt" in note for note in result.notes)
    assert any("no cmdline.txt" in note for note in result.notes)
    assert any("min_free_kbytes" in note and "no boot messages" in note for note in result.notes)
    assert result.held
    assert result.operations > 150


def inputs_of(folder: Path) -> str:
    """Return the note that names what a verification took from the recording."""
    return next(note for note in verify_zones(folder).notes if note.startswith("input: "))


def test_what_was_taken_from_the_recording_is_said(tmp_path: Path) -> None:
    def change(number: int, record: Record) -> Record:
        if number < 75 and record.get("boost"):
            record["boost"] += 1
        return record

    plain, boosted = inputs_of(DATA / "amd64-512M"), inputs_of(DATA / "i386-64M")
    assert plain == "input: managed pages of each zone; free lists and page blocks are not compared"
    assert "managed pages of each zone, boost 1024 of zone Normal, node 0;" in boosted
    assert "boost 1025 of zone Normal" in inputs_of(rewritten(DATA / "i386-64M", tmp_path / "altered", change))


def test_without_context_the_boot_alone_cannot_be_verified(tmp_path: Path) -> None:
    folder = rewritten(DATA / "amd64-512M", tmp_path / "first", lambda number, record: record if number < 40 else None)
    (folder / "dmesg-boot.txt").unlink()
    (folder / "sysctl-defaults.txt").unlink()
    with pytest.raises(InputError):
        verify_zones(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no dump with zones"),
        (b"not a record\n", "not JSON"),
        (b"[1, 2]\n", "not a JSON object"),
        (b'{"t":"dump","name":"default"}\n', "no end"),
        (b'{"t":"dump"}\n', "without 'name'"),
        (b'{"t":"dump","name":"x"}\n{"t":"zone","node":0,"idx":0,"name":"Odd"}\n{"t":"enddump"}\n', "no known config"),
        (b'{"t":"dump","name":"x"}\n{"i":0,"op":"a"}\n{"t":"enddump"}\n', "an operation"),
    ],
)
def test_bad_recordings_are_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "zones.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(InputError) as caught:
        verify_zones(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_off_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zones.jsonl.gz"
    path.write_bytes((DATA / "amd64-512M" / "zones.jsonl.gz").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"zones.jsonl.gz:\d+: cannot be read to its end"):
        verify_zones(path)


def test_an_unknown_sysctl_and_a_value_the_kernel_refuses(tmp_path: Path) -> None:
    def rename(name: str) -> Callable[[int, Record], Record]:
        def change(_number: int, record: Record) -> Record:
            if record.get("name") == "min_free_kbytes=128":
                record["name"] = name
            return record

        return change

    for number, name in enumerate(["swappiness=60", "watermark_scale_factor=3001", "min_free_kbytes=many"]):
        folder = rewritten(DATA / "i386-64M", tmp_path / str(number), rename(name))
        with pytest.raises(KmemError) as caught:
            verify_zones(folder)
        assert name in str(caught.value)


def test_a_folder_without_a_recording(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no zones.jsonl.gz"):
        verify_zones(tmp_path)


@pytest.mark.parametrize(
    ("kind", "gone"),
    [("zone", None), ("node", None), ("zone", "wm_low"), ("zone", "managed"), ("node", "totalreserve")],
)
def test_a_record_or_an_answer_left_out_is_refused(tmp_path: Path, kind: str, gone: str | None) -> None:
    found: list[int] = []

    def change(number: int, record: Record) -> Record | None:
        if number > 300 and not found and record.get("t") == kind:
            found.append(number)
            if gone is None:
                return None
            del record[gone]
        return record

    with pytest.raises(InputError, match="zones.jsonl.gz:\\d+: "):
        verify_zones(rewritten(DATA / "i386-64M", tmp_path / "altered", change))
