# SPDX-License-Identifier: GPL-2.0-only
"""``kmem replay``: machines, knobs, output, exit status, and input that is not what it should be."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kmem.cli import main
from kmem.machine.machine import Machine
from kmem.machine.proc import parse_buddyinfo, parse_pagetypeinfo, parse_slabinfo, parse_zoneinfo
from kmem.report.proc import format_proc

DATA = Path(__file__).parent.parent / "data"
BOOT = DATA / "boot.trace.txt.gz"
PROC = DATA / "proc/amd64-512M"
PROC_I386 = DATA / "proc/i386-1024M"
TEXT = gzip.decompress(BOOT.read_bytes())
LINES = TEXT.split(b"\n")
PAGE_LINE = next(line for line in LINES if b"mm_page_alloc:" in line)
OBJECT_LINE = next(line for line in LINES if b"kmalloc:" in line)

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *args: str | Path, status: int = 0) -> str:
    assert main(["replay", *map(str, args)]) == status
    return capsys.readouterr().out


def complaint(capsys: Capture, *args: str | Path) -> str:
    """The one line about bad input; nothing else is printed."""
    assert main(["replay", *map(str, args)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("kmem: ")
    assert shown.err.count("\n") == 1
    assert "internal error" not in shown.err
    return shown.err


def counters(capsys: Capture, *args: str | Path) -> dict[str, object]:
    found = json.loads(run(capsys, "--json", *args))
    assert isinstance(found, dict)
    return found


def with_line(path: Path, *new: bytes) -> Path:
    path.write_bytes(b"\n".join([*LINES[:1000], *new, *LINES[1000:]]))
    return path


# What is printed


def test_the_report(capsys: Capture) -> None:
    out = run(capsys, BOOT)
    lines = out.splitlines()
    assert lines[0] == "Machine"
    assert any(line.startswith("  assumed: architecture x86_64") for line in lines[:6])
    for title in ("Trace", "Requests", "Zones, in pages", "Caches by peak", "Call sites by peak"):
        assert title in lines
    assert "5,066 events" in out and "rss_stat 353" in out
    assert "\x1b" not in out
    assert all(len(line) < 200 for line in lines)
    assert run(capsys, BOOT) == out


def test_json_and_report_agree(capsys: Capture) -> None:
    found = counters(capsys, BOOT)
    assert found["events"] == 5066
    assert found["skipped_events"] == 353
    out = run(capsys, BOOT)
    assert re.search(rf"^requests +{found['requests']:,} ", out, re.M)
    assert re.search(rf"^frees +{found['frees']:,} ", out, re.M)


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("buddyinfo", parse_buddyinfo),
        ("pagetypeinfo", parse_pagetypeinfo),
        ("slabinfo", parse_slabinfo),
        ("zoneinfo", parse_zoneinfo),
    ],
)
def test_proc_files(name: str, parse: Callable[[str], object], capsys: Capture) -> None:
    out = run(capsys, "--proc", name, BOOT)
    assert parse(out)
    assert out == run(capsys, "--proc", name, BOOT)
    with Machine.boot("x86_64", ram="512M") as fresh:
        assert out != format_proc(name, fresh.view())


def test_top(capsys: Capture) -> None:
    short, long = run(capsys, "--top", "2", BOOT), run(capsys, "--top", "30", BOOT)
    assert len(short.splitlines()) < len(long.splitlines())
    assert "(--top" in short


# The machine


def test_presets(capsys: Capture) -> None:
    out = run(capsys, "--machine", "i386", "--ram", "512M", "--cpus", "2", BOOT)
    assert "i386 512 MiB" in out and "2 CPUs" in out
    assert "recorded on x86_64" in out
    assert "assumed: memory 4096 MiB" in run(capsys, "--machine", "x86_64", BOOT)


def test_memory_and_cpus_of_an_inferred_machine(capsys: Capture) -> None:
    found = counters(capsys, "--ram", "1G", "--cpus", "4", BOOT)
    machine = found["machine"]
    assert isinstance(machine, dict)
    assert (machine["name"], machine["cpus"]) == ("x86_64 1 GiB", 4)
    assert not any("memory" in text or "CPU" in text for text in machine["assumed"])


def test_a_description(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "machine.json"
    path.write_text('{"arch": "x86_64", "ram": "256M", "cpus": 2}')
    assert "x86_64 256 MiB" in run(capsys, "--machine", path, BOOT)
    assert "presets" in complaint(capsys, "--machine", path, "--ram", "1G", BOOT)


@pytest.mark.parametrize("folder", [PROC, PROC_I386], ids=["amd64", "i386"])
def test_copies_of_proc_files(folder: Path, capsys: Capture) -> None:
    """Zones lie where the real machine's do and have as many pages."""
    out = run(capsys, "--machine", folder, "--proc", "zoneinfo", BOOT)
    real = parse_zoneinfo((folder / "zoneinfo").read_text())
    modelled = parse_zoneinfo(out)
    for mine, theirs in zip(modelled[0].zones, real[0].zones, strict=True):
        for name in ("name", "managed", "present", "spanned"):
            assert getattr(mine, name) == getattr(theirs, name), name


@pytest.mark.parametrize("name", ["zoneinfo", "iomem", "meminfo"])
def test_an_incomplete_folder_is_completed_and_that_is_said(name: str, tmp_path: Path, capsys: Capture) -> None:
    shutil.copy(PROC / name, tmp_path)
    found = counters(capsys, "--machine", tmp_path, BOOT)
    machine = found["machine"]
    assert isinstance(machine, dict)
    assert machine["arch"] == "x86_64"
    assert abs(machine["memory_bytes"] - (512 << 20)) < 1 << 20
    assert machine["assumed"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--machine", "sparc"], "x86_64, i386"),
        (["--machine", str(DATA / "zones/amd64-512M/zones.jsonl.gz")], "state dump"),
        (["--machine", str(BOOT)], "no machine description"),
        (["--machine", "x86_64", "--ram", "much"], "no size"),
        (["--machine", "x86_64", "--ram", "1M"], "too few"),
        (["--ram", "40M"], "needs"),
        (["--cpus", "100000"], "100000 CPUs"),
        (["--set", "vm.swappiness=60"], "unknown sysctl"),
        (["--set", "min_free_kbytes"], "NAME=NUMBER"),
        (["--set", "vm.min_free_kbytes=100000000"], "keeps all memory back"),
        (["--set", "vm.min_free_kbytes=1000", "--set", "min_free_kbytes=2000"], "two values"),
        (["--machine", "x86_64", "--set", "vm.watermark_scale_factor=0"], "refused"),
        (["--slabinfo", str(BOOT)], "slabinfo"),
        (["--slabinfo", "missing"], "missing"),
        (["--json", "--proc", "buddyinfo"], "contradict"),
        (["--proc", "meminfo"], "buddyinfo"),
    ],
)
def test_machines_and_knobs_that_cannot_be(args: list[str], said: str, capsys: Capture) -> None:
    assert said in complaint(capsys, *args, BOOT)


def test_a_folder_without_memory(tmp_path: Path, capsys: Capture) -> None:
    assert str(tmp_path) in complaint(capsys, "--machine", tmp_path, BOOT)
    (tmp_path / "zoneinfo").write_text("nonsense\n")
    assert "zoneinfo:1" in complaint(capsys, "--machine", tmp_path, BOOT)


def test_knobs_reach_the_machine(capsys: Capture) -> None:
    out = run(capsys, "--set", "vm.min_free_kbytes=65536", "--proc", "zoneinfo", BOOT)
    plain = run(capsys, "--proc", "zoneinfo", BOOT)
    assert sum(zone.min for zone in parse_zoneinfo(out)[0].zones if zone.managed) in (16382, 16383, 16384)
    assert sum(zone.min for zone in parse_zoneinfo(plain)[0].zones if zone.managed) < 1000


def test_slabinfo_gives_orders(tmp_path: Path, capsys: Capture) -> None:
    text = (PROC / "slabinfo").read_text()
    rows = {cache.name: cache for cache in parse_slabinfo(text)}
    used = {cache.name: cache for cache in parse_slabinfo(run(capsys, "--proc", "slabinfo", BOOT))}
    name = next(name for name in used if name in rows and rows[name].pagesperslab == 1 and "kmalloc" not in name)
    wanted = rows[name]
    line = next(line for line in text.splitlines() if line.split()[0] == name)
    fields = line.split()
    fields[4], fields[5] = str(4 * 4096 // wanted.size_bytes), "4"
    (tmp_path / "slabinfo").write_text(text.replace(line, " ".join(fields)))
    out = run(capsys, "--slabinfo", tmp_path / "slabinfo", "--proc", "slabinfo", BOOT)
    found = {cache.name: cache for cache in parse_slabinfo(out)}
    assert (used[name].pagesperslab, found[name].pagesperslab) == (1, 4)


def test_failures_are_reported(capsys: Capture) -> None:
    args = ["--ram", "96M", "--set", "vm.min_free_kbytes=49000"]
    found = counters(capsys, *args, BOOT)
    assert isinstance(found["failures"], int) and found["failures"] > 100
    out = run(capsys, *args, BOOT)
    assert re.search(r"^DMA32 +0 +below-watermark +[\d,]+$", out, re.M)
    # what was refused is freed later all the same; that is no free of something from before the trace
    assert found["unknown_frees"] == counters(capsys, BOOT)["unknown_frees"]


# Standard input and pipes


def test_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(BOOT.read_bytes())

    monkeypatch.setattr(sys, "stdin", Input())
    piped = counters(capsys, "-")
    assert piped["trace"] == "standard input"
    plain = counters(capsys, BOOT)
    assert {**piped, "trace": ""} == {**plain, "trace": ""}


def process(*args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "kmem", "replay", *map(str, args)],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_as_a_process(tmp_path: Path) -> None:
    done = process("-", stdin=BOOT.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"standard input: 5,066 events" in done.stdout
    (tmp_path / "empty").touch()
    for bad in (process(tmp_path / "empty"), process("-"), process(tmp_path), process(tmp_path / "missing")):
        assert (bad.returncode, bad.stdout) == (2, b"")
        assert bad.stderr.startswith(b"kmem: ") and bad.stderr.count(b"\n") == 1
        assert b"Traceback" not in bad.stderr


# Damage


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (random.Random(1).randbytes(100_000), "binary"),
        (b'{"a": 1}\n' * 1000, "no line of an ftrace"),
        (b"x" * (10 << 20), "no line of an ftrace"),
        (BOOT.read_bytes()[:5], "cut off"),
        (b"\x17\x08\x44tracing" + bytes(100), "byte 10: strange version"),
        (b"PERFILE2" + bytes(100), "byte 8: a header of 0 bytes"),
        (b"\n".join(line for line in LINES if b"rss_stat" in line), "no kmem events"),
    ],
    ids=["empty", "empty-gz", "binary", "json", "long-line", "gzip-head", "trace.dat", "perf.data", "no-kmem"],
)
def test_no_trace_at_all(content: bytes, said: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    text = complaint(capsys, path)
    assert str(path) in text and said in text


def test_damage_in_the_middle_is_replayed_around(tmp_path: Path, capsys: Capture) -> None:
    half = len(TEXT) // 2
    path = tmp_path / "trace.txt"
    path.write_bytes(TEXT[:half] + random.Random(2).randbytes(50_000) + TEXT[half + 30_000 :])
    found = counters(capsys, path)
    assert isinstance(found["events"], int) and 4500 < found["events"] < 5066
    assert isinstance(found["damaged_bytes"], int) and 49_000 < found["damaged_bytes"] < 52_000
    assert isinstance(found["damaged_lines"], int) and found["damaged_lines"] > 50
    out = run(capsys, path)
    assert re.search(r"damaged: [\d,]+ lines \([\d,]+ bytes\) skipped, the first at \S+:\d+ byte \d+", out)


def test_a_damaged_gzip_gives_what_is_readable(tmp_path: Path, capsys: Capture) -> None:
    whole = BOOT.read_bytes()
    path = tmp_path / "trace.gz"
    path.write_bytes(whole[: len(whole) // 2])
    found = counters(capsys, path)
    assert isinstance(found["events"], int) and 1000 < found["events"] < 5066
    notes = found["notes"]
    assert isinstance(notes, list) and any("cut off" in note for note in notes)
    damaged = bytearray(whole)
    for i in range(len(whole) // 2, len(whole) // 2 + 40):
        damaged[i] ^= 0x5A
    path.write_bytes(damaged)
    found = counters(capsys, path)
    assert isinstance(found["events"], int) and 1000 < found["events"] < 5066
    notes = found["notes"]
    assert isinstance(notes, list) and any("damaged" in note for note in notes)


@pytest.mark.parametrize(
    "line",
    [
        re.sub(rb"order=\d+", b"order=99", PAGE_LINE),
        re.sub(rb"bytes_req=\d+", b"bytes_req=9223372036854775808", OBJECT_LINE),
        re.sub(rb" +(\d+\.\d+):", rb" -5.000001:", OBJECT_LINE),
        re.sub(rb" +(\d+\.\d+):", rb" 99999999999999999999.000001:", OBJECT_LINE),
        re.sub(rb"pfn=\S+", b"pfn=0xffffffffffffff", PAGE_LINE),
        re.sub(rb"\[\d+\]", b"[60000]", PAGE_LINE),
        b"x" * (10 << 20),
    ],
    ids=["order", "size", "negative-time", "huge-time", "pfn", "cpu", "long-line"],
)
def test_absurd_lines_are_skipped_and_counted(line: bytes, tmp_path: Path, capsys: Capture) -> None:
    found = counters(capsys, with_line(tmp_path / "trace.txt", line))
    plain = counters(capsys, BOOT)
    assert (found["events"], found["damaged_lines"], found["damaged_bytes"]) == (5066, 1, len(line))
    assert str(found["first_damage"]).endswith(f"trace.txt:1001 byte {len(b''.join(LINES[:1000])) + 1000}")
    assert {key: found[key] for key in ("requests", "zones", "caches")} == {
        key: plain[key] for key in ("requests", "zones", "caches")
    }


def test_readable_absurd_numbers_do_not_decide_about_the_machine(tmp_path: Path, capsys: Capture) -> None:
    path = with_line(
        tmp_path / "trace.txt",
        re.sub(rb"pfn=\S+", b"pfn=0x7fffffff", PAGE_LINE),
        re.sub(rb"ptr=\S+", b"ptr=0000000000000001", OBJECT_LINE),
    )
    found, plain = counters(capsys, path), counters(capsys, BOOT)
    machine, usual = found["machine"], plain["machine"]
    assert isinstance(machine, dict) and isinstance(usual, dict)
    assert machine["memory_bytes"] == usual["memory_bytes"]
    assert any("0x80000000" in text for text in machine["assumed"])


def test_huge_objects_stay_balanced(tmp_path: Path, capsys: Capture) -> None:
    """Sizes that no kernel gives, but a line can hold: what is added at an allocation is taken off at the free."""
    path = tmp_path / "trace.txt"
    path.write_bytes(re.sub(rb"bytes_req=\d+ bytes_alloc=\d+", b"bytes_req=4294967296 bytes_alloc=4294967296", TEXT))
    found = counters(capsys, path)
    caches = found["caches"]
    assert isinstance(caches, list) and caches
    for cache in caches:
        assert cache["live_alloc"] == cache["live"] * 0xFFFFFFFF


def test_unknown_gfp_flags_are_named(tmp_path: Path, capsys: Capture) -> None:
    path = with_line(tmp_path / "trace.txt", re.sub(rb"gfp_flags=\S+", b"gfp_flags=GFP_KERNEL|__GFP_WHAT", OBJECT_LINE))
    assert "__GFP_WHAT" in run(capsys, path)


def test_lost_events_are_told(tmp_path: Path, capsys: Capture) -> None:
    path = with_line(tmp_path / "trace.txt", b"CPU:0 [LOST 34 EVENTS]")
    found = counters(capsys, path)
    assert (found["lost_events"], found["lost_markers"]) == (34, 1)
    assert "lost while recording: 34 events, in 1 place" in run(capsys, path)


def test_a_description_that_is_a_list(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "machine.json"
    path.write_text("[1]")
    assert "expected a JSON object" in complaint(capsys, "--machine", path, BOOT)


def test_memory_out_of_reach_of_an_i386_is_noted(capsys: Capture) -> None:
    found = counters(capsys, "--machine", "i386", "--ram", "64G", BOOT)
    notes = found["notes"]
    assert isinstance(notes, list)
    assert any("not used: a kernel without PAE reaches 4 GiB" in note for note in notes)


def test_a_damaged_middle_says_how_far_it_came(tmp_path: Path, capsys: Capture) -> None:
    packed = bytearray(BOOT.read_bytes())
    packed[-8] ^= 0xFF  # of the checksum
    path = tmp_path / "damaged.trace.txt.gz"
    path.write_bytes(packed)
    text_bytes = len(gzip.decompress(BOOT.read_bytes()))
    notes = counters(capsys, path)["notes"]
    assert isinstance(notes, list)
    (note,) = [note for note in notes if "damaged" in note]
    assert "the gzip data is damaged somewhere before byte " in note
    assert "Error" not in note and "incorrect" not in note
    said = int(note.split("of the file; ")[1].split()[0])
    assert text_bytes - (1 << 16) <= said <= text_bytes
