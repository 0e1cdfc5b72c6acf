# SPDX-License-Identifier: GPL-2.0-only
"""The page of a replay: what is in it, what may not be in it, and what a browser makes of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmem.analysis.summary import analyse
from kmem.cli import main
from kmem.replay.frames import FIRST_CACHE, OWNERS
from kmem.replay.replay import Replay, replay
from kmem.report.html import page
from kmem.report.result import replay_result

pytest.importorskip("plotly", reason="the page needs plotly")

BOOT = Path(__file__).parent.parent / "data/boot.trace.txt.gz"
EVIL = "</script><img/src=x/onerror=document.title='owned'>"
SITE = "<script>document.title='owned'<b>&lt;"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run() -> Replay:
    return replay(str(BOOT), keep_frames=True)


@pytest.fixture(scope="module")
def result(run: Replay) -> dict[str, Any]:
    return replay_result(run, analyse(run), source="boot.trace.txt.gz")


def unpacked(moment: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(moment["frames"])), np.uint8)


def block(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_frame_is_what_the_machine_says(run: Replay) -> None:
    last = run.moments[-1]
    memmap = run.machine.memmap
    assert last.events == run.engine.nr_events
    owners = last.owners
    zones = memmap.zones_array
    assert np.count_nonzero(owners == OWNERS.index("free")) == zones["free_pages"].sum()
    assert np.count_nonzero(owners == 2) == memmap.pagesets_array["count"].sum()
    assert np.count_nonzero(owners >= FIRST_CACHE) == run.samples[-1].slab_pages
    assert sum(1 << int(e["order"]) for e in run.engine.blocks.live() if e["kind"] == 3) == np.count_nonzero(
        (owners >= 4) & (owners < 8)
    )


def test_moments_are_bounded_and_begin_and_end_with_the_trace(run: Replay) -> None:
    events = [moment.events for moment in run.moments]
    assert events[0] == 0
    assert events == sorted(set(events))
    assert 32 <= len(events) <= 64


def test_a_replay_without_them_has_no_moments() -> None:
    assert replay(str(BOOT)).moments == []


def test_result_holds_the_film(run: Replay, result: dict[str, Any]) -> None:
    film = result["page"]["map"]
    assert len(film["moments"]) == len(run.moments)
    frames = unpacked(film["moments"][-1])
    assert len(frames) == film["nr_frames"]
    for name in ("inode_cache", "dentry"):
        cache = next(i for i, g in run.machine.slub.geometries.items() if g.name == name)
        assert np.array_equal(frames == film["owners"].index(name), run.moments[-1].owners == FIRST_CACHE + cache)


def test_slabs_hold_the_objects_that_live(result: dict[str, Any]) -> None:
    live = {row["name"]: row["live"] for row in result["caches"]}
    for cache in result["page"]["slabs"]:
        assert len(cache["shown"]) == cache["slabs"]
        used = sum(site >= 0 for slab in cache["shown"] for site in slab["objects"])
        assert used == live[cache["name"]], cache["name"]


def test_page_is_one_file_that_asks_nobody(result: dict[str, Any]) -> None:
    text = page(result).decode()
    own = text.replace(text[text.index("<script>") : text.index("</script>", text.index("<script>"))], "")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src 'none'" in policy[1]
    for script in re.findall(r"<script>(.*?)</script>", text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert block(text)["events"] == result["events"]


def evil_trace(path: Path) -> Path:
    """The boot trace with a call site and a cache that would be markup if they were let."""
    text = gzip.decompress(BOOT.read_bytes()).decode()
    assert "call_site=alloc_inode+0x59" in text and "name=dentry" in text
    path.write_text(
        text.replace("call_site=alloc_inode+0x59", f"call_site={SITE}").replace("name=dentry", f"name={EVIL}")
    )
    return path


def test_texts_of_a_trace_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = evil_trace(tmp_path / "evil.txt"), tmp_path / "out.html"
    assert main(["replay", "--html", str(out), str(trace)]) == 0
    capsys.readouterr()
    text = out.read_text()
    assert "<img" not in text[text.index('id="data"') : text.index("<script>")]
    assert SITE in {row["name"] for row in block(text)["call_sites"]}
    assert EVIL in {row["name"] for row in block(text)["caches"]}


def test_a_name_of_a_trace_is_no_markup(result: dict[str, Any]) -> None:
    text = page({**result, "trace": EVIL}).decode()
    assert "<img" not in text[: text.index("<script>")]


def test_saved_results_make_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, saved = tmp_path / "a.html", tmp_path / "a.json"
    assert main(["replay", "--html", str(html), "--save", str(saved), str(BOOT)]) == 0
    assert main(["report", str(saved), "-o", str(tmp_path / "b.html")]) == 0
    assert (tmp_path / "b.html").read_bytes() == html.read_bytes()
    assert html.stat().st_size < 15_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "b.html"]
    capsys.readouterr()


def test_the_report_is_the_same_with_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(BOOT)]) == 0
    plain = capsys.readouterr().out
    assert main(["replay", "--html", str(tmp_path / "a.html"), str(BOOT)]) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    "args",
    [
        ["replay", "--html", "{tmp}/none/a.html", str(BOOT)],
        ["replay", "--html", "{tmp}", str(BOOT)],
        ["replay", "--html", "{tmp}/a", "--save", "{tmp}/a", str(BOOT)],
        ["replay", "--html", "{tmp}/a", "--proc", "buddyinfo", str(BOOT)],
        ["report", "{tmp}/missing.json"],
        ["report", "{tmp}/list.json"],
        ["report", "{tmp}/broken.json"],
        ["report", "{tmp}/part.json"],
        ["report", "{tmp}/list.html"],
    ],
)
def test_what_cannot_be_done_is_one_line(args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("list.json", "[]"), ("broken.json", "{"), ("part.json", '{"trace": "x"}'), ("list.html", "[]")):
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.iterdir())
    assert main([arg.replace("{tmp}", str(tmp_path)) for arg in args]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "internal error" not in shown.err
    assert sorted(tmp_path.iterdir()) == before


# --- in a browser


def browse(path: Path, tmp_path: Path, *args: str, fragment: str = "") -> subprocess.CompletedProcess[str]:
    assert CHROMIUM
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=20000",
            *args,
            path.as_uri() + fragment,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def owners_shown(dom: str) -> dict[str, int]:
    table = re.search(r'<table id="owners">(.*?)</table>', dom, re.DOTALL)
    assert table
    rows = re.findall(r'</span>([^<]*)</td><td class="n">([\d,]+)</td>', table[1])
    return {name: int(count.replace(",", "")) for name, count in rows}


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


@needs_browser
def test_browser_shows_the_moment_of_the_slider(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(page(result))
    film = result["page"]["map"]
    shown = []
    for moment in (0, len(film["moments"]) - 1):
        done = browse(path, tmp_path, "--dump-dom", fragment=f"#moment={moment}")
        assert "CONSOLE" not in done.stderr, done.stderr
        assert 'data-ready="yes"' in done.stdout
        assert f"{moment + 1} of {len(film['moments'])}" in done.stdout
        counts = np.bincount(unpacked(film["moments"][moment]), minlength=256)
        found = owners_shown(done.stdout)
        assert found["free"] == counts[1]
        assert found.get("slab of inode_cache", 0) == counts[film["owners"].index("inode_cache")]
        shown.append(found)
    assert shown[0] != shown[1]


@needs_browser
def test_browser_takes_hostile_names_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = evil_trace(tmp_path / "evil.txt"), tmp_path / "out.html"
    assert main(["replay", "--html", str(out), str(trace)]) == 0
    capsys.readouterr()
    done = browse(out, tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-ready="yes"' in done.stdout
    assert "<title>owned" not in done.stdout
    body = done.stdout[: done.stdout.index('id="data"')]
    assert "<img" not in body
    assert "&lt;img/src=x" in body
    assert "<td>&lt;script&gt;document.title='owned'&lt;b&gt;&amp;lt;</td>" in body


@needs_browser
def test_browser_shows_a_result_without_a_film(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(page({key: value for key, value in result.items() if key != "page"}))
    done = browse(path, tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-ready="yes"' in done.stdout
    assert "The result has no map of page frames" in done.stdout


@needs_browser
def test_browser_draws(result: dict[str, Any], tmp_path: Path) -> None:
    """Pictures in light and dark: each has many colours, and the two have different backgrounds."""
    path = tmp_path / "page.html"
    path.write_bytes(page(result))
    corners = []
    for scheme in (1, 0):
        picture = tmp_path / f"{scheme}.png"
        browse(
            path,
            tmp_path,
            "--window-size=500,700",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={picture}",
        )
        rows = pixels(picture)
        assert len({tuple(pixel) for pixel in rows.reshape(-1, rows.shape[2])[::7].tolist()}) > 30
        corners.append(rows[0, 0, :3].astype(int).sum())
    assert corners[0] > 600 and corners[1] < 150


def pixels(path: Path) -> np.ndarray:
    """The pixels of a PNG of 8 bits a channel that is not interlaced."""
    raw = path.read_bytes()
    at, data, width, height, channels = 8, b"", 0, 0, 0
    while at < len(raw):
        size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        body = raw[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
            assert body[8] == 8 and body[12] == 0
            channels = {2: 3, 6: 4}[body[9]]
        elif kind == b"IDAT":
            data += body
        at += 12 + size
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    out = np.zeros((height + 1, width + 1, channels), np.int64)
    for y, line in enumerate(lines, 1):
        rest = line[1:].reshape(width, channels).astype(np.int64)
        if line[0] == 0:
            out[y, 1:] = rest
        elif line[0] == 1:
            out[y, 1:] = np.cumsum(rest, axis=0) & 255
        elif line[0] == 2:
            out[y, 1:] = (rest + out[y - 1, 1:]) & 255
        else:
            for x in range(1, width + 1):
                left, up, corner = out[y, x - 1], out[y - 1, x], out[y - 1, x - 1]
                guess = (left + up) // 2
                if line[0] == 4:
                    a, b, c = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                    guess = np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
                out[y, x] = (rest[x - 1] + guess) & 255
    return out[1:, 1:].astype(np.uint8)
