# SPDX-License-Identifier: GPL-2.0-only
"""Replay between two recorded states, against the recorded frames and addresses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import zstandard

from kmem.cli import main
from kmem.errors import InputError
from kmem.replay.fidelity import Fidelity, measure_fidelity

EXACT = Path(__file__).parents[1] / "data" / "exact"


def measured(machine: str) -> Fidelity:
    folder = EXACT / machine
    return measure_fidelity(
        str(folder / "trace.txt.zst"), folder / "before.dump.jsonl.gz", folder / "after.dump.jsonl.gz"
    )


@pytest.mark.parametrize("machine", ["amd64", "i386"])
def test_every_frame_and_nearly_every_object(machine: str) -> None:
    result = measured(machine)
    assert result.frames > 2000 and result.frames_identical == result.frames
    assert result.objects > 8000 and result.objects_identical >= 0.99 * result.objects
    assert result.divergences["unknown"] == result.divergences["slab"] == result.divergences["compaction"] == 0
    assert sum(result.divergences.values()) == result.objects - result.objects_identical


@pytest.mark.parametrize("machine", ["amd64", "i386"])
def test_end_state(machine: str) -> None:
    result = measured(machine)
    assert result.zones
    for zone in result.zones:
        for numbers in (zone["free_pages"], zone["free_blocks"]):
            assert isinstance(numbers, dict) and numbers["modelled"] == numbers["real"]
    assert len(result.caches) > 100
    for cache in result.caches:
        assert cache["slabs"]["modelled"] == cache["slabs"]["real"], cache["cache"]  # type: ignore[index]


def test_the_same_answer_twice() -> None:
    assert measured("i386") == measured("i386")


def changed_trace(tmp_path: Path, old: str, new: str) -> Path:
    with zstandard.open(EXACT / "amd64" / "trace.txt.zst", "rt") as stream:
        text = stream.read()
    assert text.count(old) >= 1
    path = tmp_path / "trace.txt"
    path.write_text(text.replace(old, new, 1))
    return path


def test_a_changed_frame_is_no_hit(tmp_path: Path) -> None:
    """The comparison compares: one recorded frame altered is one divergence more at least."""
    trace = changed_trace(tmp_path, "pfn=0x1fe08 order=1", "pfn=0x1fe0a order=1")
    result = measure_fidelity(str(trace), EXACT / "amd64" / "before.dump.jsonl.gz")
    assert result.frames_identical < result.frames
    wrong = result.frames - result.frames_identical + result.objects - result.objects_identical
    assert sum(result.divergences.values()) >= wrong > 0


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    folder = EXACT / "i386"
    options = ["--machine", str(folder / "before.dump.jsonl.gz"), "--expect", str(folder / "after.dump.jsonl.gz")]
    assert main(["replay", *options, "--json", str(folder / "trace.txt.zst")]) == 0
    fidelity = json.loads(capsys.readouterr().out)["fidelity"]
    assert fidelity["frames_identical"] == fidelity["frames"] > 2000
    assert set(fidelity["divergences"]) == {"bulk", "compaction", "interrupt", "slab", "unknown"}
    assert main(["replay", *options, str(folder / "trace.txt.zst")]) == 0
    out = capsys.readouterr().out
    assert "(100.00%)" in out and "free blocks of each order identical" in out


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = EXACT / "i386"
    before = str(folder / "before.dump.jsonl.gz")
    trace = str(folder / "trace.txt.zst")
    assert main(["replay", "--expect", before, trace]) == 2
    assert main(["replay", "--machine", before, "--ram", "1G", trace]) == 2
    cut = tmp_path / "cut.jsonl.gz"
    shutil.copy(before, cut)
    cut.write_bytes(cut.read_bytes()[:20000])
    assert main(["replay", "--machine", str(cut), trace]) == 2
    empty = tmp_path / "empty.jsonl"
    empty.write_text("{}\n")
    with pytest.raises(InputError, match="no state dump"):
        measure_fidelity(trace, empty)
    assert capsys.readouterr().err.count("\n") == 3


def test_slabs_that_are_made_in_bulk_and_between_interrupts() -> None:
    """Many short-lived processes: nodes of their trees come and go in bulk, slabs with them, and RCU in between."""
    result = measure_fidelity(str(EXACT / "forks" / "trace.txt.xz"), EXACT / "forks" / "before.dump.jsonl.gz")
    assert result.frames > 1000 and result.frames_identical == result.frames
    assert result.objects > 2000 and result.objects_identical >= 0.99 * result.objects
    assert {cause for cause, count in result.divergences.items() if count} == {"bulk"}


def test_a_dump_of_fewer_cpus_is_said(tmp_path: Path) -> None:
    trace = changed_trace(
        tmp_path, "[000] .....     6.274564: kmem_cache_free", "[001] .....     6.274564: kmem_cache_free"
    )
    result = measure_fidelity(str(trace), EXACT / "amd64" / "before.dump.jsonl.gz")
    assert any("does not show the lists of CPU 1:" in note for note in result.notes)
