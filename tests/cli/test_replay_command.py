# SPDX-License-Identifier: GPL-2.0-only
"""``kmem replay``: the report, /proc files, machines, and input that is not what it should be."""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
from pathlib import Path

import pytest

from kmem.cli import main
from kmem.cli.output import progress_bar
from kmem.machine.proc import parse_buddyinfo, parse_slabinfo, parse_zoneinfo

DATA = Path(__file__).parent.parent / "data"
BOOT = DATA / "boot.trace.txt.gz"
TRACES = [BOOT, *sorted((DATA / "traces").glob("*.gz"))]


def report(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    assert main(["replay", "--json", *args]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.name)
def test_every_format(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, str(trace))
    assert found["events"] > 100
    assert found["requests"] > 0
    for name in ("allocs", "frees", "live"):
        assert all(cache[name] >= 0 for cache in found["caches"])
    for entry in (*found["caches"], *found["call_sites"], *found["page_orders"]):
        assert entry["allocs"] - entry["frees"] == entry["live"] <= entry["peak"] <= entry["allocs"]
    for entry in (*found["caches"], *found["call_sites"]):
        assert entry["live_req"] <= entry["live_alloc"] <= entry["peak_alloc"] <= entry["bytes_alloc"]
        assert entry["slack_bytes"] == entry["live_alloc"] - entry["live_req"] >= 0
    assert main(["replay", str(trace)]) == 0
    text = capsys.readouterr().out
    assert "Caches by peak" in text
    assert max(map(len, text.splitlines())) < 250


def test_json_keys_are_stable(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, str(BOOT))
    assert set(found) >= {
        *("trace", "machine", "events", "skipped_events", "skipped_by_name", "lost_events", "lost_markers"),
        *("damaged_lines", "damaged_bytes", "first_damage", "operations", "requests", "frees", "failures"),
        *("unknown_frees", "unknown_frees_share", "double_allocations", "double_allocations_share"),
        *("failure_list", "zones", "caches", "call_sites", "page_orders", "fallbacks", "samples"),
    }
    assert found["operations"] == found["requests"] + found["frees"]
    assert found["unknown_frees_share"] == pytest.approx(found["unknown_frees"] / found["operations"])
    assert found["events"] == 5066
    assert found["skipped_by_name"] == {"rss_stat": 353}
    assert found["machine"]["arch"] == "x86_64"
    assert found["machine"]["cpus"] == 1
    names = {cache["name"]: cache for cache in found["caches"]}
    assert names["dentry"]["size_bytes"] == 192
    for zone in found["zones"]:
        by_type = zip(*zone["free"].values(), strict=True)
        assert [sum(counts) for counts in by_type] == zone["nr_free"]
        assert all(0 <= value <= 1000 for value in zone["unusable_free_index"])
    assert found["samples"]["events"][-1] == found["events"]
    assert found["samples"]["events"] == sorted(found["samples"]["events"])


def test_the_same_trace_gives_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(capsys, str(BOOT)) == report(capsys, str(BOOT))


@pytest.mark.parametrize("name", ["buddyinfo", "pagetypeinfo", "slabinfo", "zoneinfo"])
def test_proc_files(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    zones = {zone["name"]: zone for zone in report(capsys, str(BOOT))["zones"]}
    assert main(["replay", "--proc", name, str(BOOT)]) == 0
    text = capsys.readouterr().out
    if name == "buddyinfo":
        assert {zone.name: list(zone.nr_free) for zone in parse_buddyinfo(text)} == {
            name: zone["nr_free"] for name, zone in zones.items()
        }
    elif name == "zoneinfo":
        shown = {zone.name: zone.free_pages for node in parse_zoneinfo(text) for zone in node.zones if zone.present}
        assert shown == {name: zone["free_pages"] for name, zone in zones.items()}
    elif name == "slabinfo":
        assert "dentry" in {cache.name for cache in parse_slabinfo(text)}
    else:
        assert text.startswith("Page block order: 9\n")


def test_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "--machine", "x86_64", "--ram", "2G", "--cpus", "2", str(BOOT))
    assert found["machine"]["cpus"] == 2
    assert found["machine"]["memory_bytes"] > 2**30
    description = tmp_path / "machine.json"
    description.write_text('{"arch": "x86_64", "ram": "1G"}')
    assert report(capsys, "--machine", str(description), str(BOOT))["machine"]["name"] == "x86_64 1 GiB"
    folder = DATA / "proc/amd64-512M"
    found = report(capsys, "--machine", str(folder), str(BOOT))
    assert {zone["name"]: zone["managed"] for zone in found["zones"]} == {"DMA": 3840, "DMA32": 113261}


def test_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    def low(*args: str) -> int:
        return sum(zone["min"] for zone in report(capsys, *args, str(BOOT))["zones"])

    assert low("--set", "vm.min_free_kbytes=16384") == pytest.approx(4096, abs=2)
    assert low("--machine", "x86_64", "--set", "vm.min_free_kbytes=16384") == pytest.approx(4096, abs=2)
    assert low() < 1000


def test_slabinfo_gives_orders(capsys: pytest.CaptureFixture[str]) -> None:
    slabinfo = str(DATA / "proc/amd64-512M/slabinfo")
    with_it = {cache["name"]: cache for cache in report(capsys, "--slabinfo", slabinfo, str(BOOT))["caches"]}
    recorded = {cache.name: cache for cache in parse_slabinfo(Path(slabinfo).read_text())}
    for name in ("dentry", "task_struct", "inode_cache"):
        assert with_it[name]["slab_pages"] == with_it[name]["slabs"] * recorded[name].pagesperslab


def test_requests_that_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More 4 MiB blocks than the machine has."""
    path = tmp_path / "trace.txt"
    path.write_text(
        "".join(
            f"  sh-1  [000] .....  {1 + i / 1e4:.6f}: mm_page_alloc: page=00000000{i:08x} pfn=0x{i * 1024:x} order=10"
            " migratetype=0 gfp_flags=GFP_KERNEL\n"
            for i in range(1, 200)
        )
    )
    found = report(capsys, "--machine", "x86_64", "--ram", "256M", str(path))
    assert found["requests"] == 199
    assert 100 < found["failures"] == len(found["failure_list"]) < 199
    first = found["failure_list"][0]
    assert (first["order"], first["gfp"], first["event"]) == (10, 0xCC0, "mm_page_alloc")
    assert first["reason"] in ("no-block-of-order", "below-watermark")
    assert first["zone"] == "DMA32"
    assert main(["replay", "--machine", "x86_64", "--ram", "256M", str(path)]) == 0
    text = capsys.readouterr().out
    assert "no-block-of-order" in text or "below-watermark" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--machine", "vax"], "no machine 'vax'; give a preset (x86_64, i386)"),
        (["--machine", "x86_64", "--ram", "lots"], "lots"),
        (["--machine", "x86_64", "--ram", "1M"], ""),
        (["--cpus", "0"], "see 'kmem replay --help'"),
        (["--set", "nonsense"], "'nonsense' is no knob"),
        (["--set", "vm.nonsense=1"], "nonsense"),
        (["--set", "vm.min_free_kbytes=-5"], "min_free_kbytes"),
        (["--slabinfo", "/nowhere"], "/nowhere: cannot be read"),
        (["--slabinfo", str(BOOT)], "slabinfo"),
        (["--proc", "kallsyms"], "see 'kmem replay --help'"),
        (["--proc", "buddyinfo", "--json"], "--json and --proc"),
    ],
)
def test_refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *args, str(BOOT)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "internal error" not in captured.err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\nworld\n",
        b"\x7fELF" + bytes(4096),
        random.Random(1).randbytes(100_000),
        gzip.compress(b"# tracer: nop\n")[:-6],
        b"a" * 10_000_000,
    ],
    ids=["empty", "text", "binary", "noise", "cut off", "one long line"],
)
def test_bad_traces(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.txt"
    path.write_bytes(content)
    assert main(["replay", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"kmem: {path}")
    assert captured.err.count("\n") == 1
    assert "internal error" not in captured.err


def test_no_such_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"kmem: {tmp_path}/none: ")


def test_a_damaged_middle_is_skipped_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = gzip.decompress(BOOT.read_bytes())
    lines = text.splitlines(keepends=True)
    middle = len(lines) // 2
    damaged = b"".join(lines[:middle]) + random.Random(2).randbytes(5000) + b"\n" + b"".join(lines[middle:])
    path = tmp_path / "trace.txt"
    path.write_bytes(damaged)
    found = report(capsys, str(path))
    assert found["events"] == 5066
    assert found["damaged_lines"] > 0
    assert found["first_damage"].startswith(str(path))
    assert main(["replay", str(path)]) == 0
    assert found["first_damage"] in capsys.readouterr().out


def test_progress_only_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress_bar("trace") as progress:
        assert progress is None

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("trace") as progress:
        assert progress is not None
        progress(10, 100)
        progress(10, None)
