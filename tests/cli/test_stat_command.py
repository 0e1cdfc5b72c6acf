# SPDX-License-Identifier: GPL-2.0-only
"""``kmem stat`` and ``kmem convert`` as programs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.feather
import pyarrow.parquet
import pytest

from kmem.cli import main
from kmem.trace import read_table

DATA = Path(__file__).parent.parent / "data"
TRACES = DATA / "traces"
DAT = TRACES / "v7.trace.dat"
PERF = TRACES / "callchains.perf.data.zst"
KALLSYMS = DATA / "kallsyms" / "amd64.txt.gz"

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def complaint(capsys: Capture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "internal error" not in captured.err
    return captured.err


@pytest.mark.parametrize("name", ["v6.trace.dat.xz", "v7.trace.dat", "amd64.perf.data.zst", "i386.trace.txt.gz"])
def test_stat_of_every_kind_of_recording(name: str, capsys: Capture) -> None:
    text = run(capsys, "stat", TRACES / name)
    for title in ("Objects by call site", "Objects by cache", "Objects by thread", "Pages in sum"):
        assert title in text
    found = json.loads(run(capsys, "stat", "--json", TRACES / name))
    assert found["events"] > 3000
    total = found["slab"]["total"]
    assert sum(row["bytes_alloc"] for row in found["slab"]["call_sites"]) == total["bytes_alloc"] > 10**6
    assert total["bytes_alloc"] - total["bytes_freed"] >= total["live_bytes"]
    assert {"total", "requests", "orders", "threads", "fallbacks", "fallback_call_sites"} == set(found["page"])


def test_parts_of_it(capsys: Capture) -> None:
    text = run(capsys, "stat", "--slab", "--caller", "--sort", "frag,hits", "-l", 3, "--kallsyms", KALLSYMS, PERF)
    assert text.splitlines()[4].split()[0] == "call"
    assert text.splitlines()[5].startswith("tomoyo_encode2+0x65")
    assert "Objects by cache" not in text and "Pages" not in text
    text = run(capsys, "stat", "--page", DAT)
    assert "Objects" not in text and "GFP_KERNEL_ACCOUNT|__GFP_ZERO" in text
    assert "Objects by address" in run(capsys, "stat", "--alloc", DAT)
    text = run(capsys, "stat", "--live", DAT)
    assert "Live objects at the end" in text and "Live pages at the end" in text


def test_what_is_live_has_an_age_and_a_stable_order(capsys: Capture) -> None:
    found = [json.loads(run(capsys, "stat", "--json", "--live", "-l", 5, DAT)) for _ in range(2)]
    assert found[0] == found[1]
    live = found[0]["slab"]["live"]
    assert sum(row["objects"] for row in live) == found[0]["slab"]["total"]["live"]
    assert all(row["oldest_ns"] >= row["newest_ns"] >= 0 for row in live)
    assert len(found[0]["slab"]["live_objects"]) == 5


def test_folded_call_chains(capsys: Capture) -> None:
    lines = run(capsys, "stat", "--folded", "--kallsyms", KALLSYMS, PERF).splitlines()
    assert all(line.rsplit(" ", 1)[1].isdigit() for line in lines)
    assert any("do_syscall_64;" in line for line in lines)
    assert "no call chains" in complaint(capsys, "stat", "--folded", DAT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sort", "colour"], "cannot sort by 'colour'"),
        (["--time", "7"], "no window of time"),
        (["--filter", "comm"], "cannot read the condition"),
        (["--filter", "colour=red"], "nothing is called 'colour'"),
        (["--folded", "--json"], "contradict"),
        (["--kallsyms", "missing"], "missing: cannot be read"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, capsys: Capture) -> None:
    assert said in complaint(capsys, "stat", *arguments, DAT)


def test_bad_recordings(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "bad.dat"
    path.write_bytes(DAT.read_bytes()[:5000])
    assert f"{path} byte " in complaint(capsys, "stat", path)
    assert f"{path} byte " in complaint(capsys, "replay", path)
    assert f"{path} byte " in complaint(capsys, "convert", path, tmp_path / "out.parquet")
    assert [each.name for each in tmp_path.iterdir()] == ["bad.dat"]


def test_convert_to_parquet_and_arrow(tmp_path: Path, capsys: Capture) -> None:
    table = read_table(DAT)
    assert "3,253 events" in run(capsys, "convert", DAT, tmp_path / "a.parquet")
    run(capsys, "convert", DAT, tmp_path / "a.arrow")
    for found in (pyarrow.parquet.read_table(tmp_path / "a.parquet"), pyarrow.feather.read_table(tmp_path / "a.arrow")):
        assert found.column_names == table.column_names
        assert found.to_pylist() == table.to_pylist()


def test_convert_for_perfetto(tmp_path: Path, capsys: Capture) -> None:
    run(capsys, "convert", DAT, tmp_path / "a.json.gz")
    events = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))["traceEvents"]
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"pages in use since the start", "slab kmalloc"} <= counters
    times = [event["ts"] for event in events if event["name"] == "slab kmalloc"]
    assert times == sorted(times) and len(times) > 1000
    assert "no format is known" in complaint(capsys, "convert", DAT, tmp_path / "a.xyz")
