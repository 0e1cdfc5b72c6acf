# SPDX-License-Identifier: GPL-2.0-only
"""The page of a replay: what is in it, what may not be in it, and what a browser makes of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.browser import CHROMIUM, Browser

from kmem.analysis.lifetimes import LifetimeCounter
from kmem.analysis.summary import analyse
from kmem.cli import main
from kmem.replay.frames import FIRST_CACHE, OWNERS
from kmem.replay.replay import Replay, replay
from kmem.report.html import page, require_plotly
from kmem.report.result import replay_result

pytest.importorskip("plotly", reason="the page needs plotly")

BOOT = Path(__file__).parent.parent / "data/boot.trace.txt.gz"
EVIL = "</script><img/src=x/onerror=document.title='owned'>"
SITE = "<script>document.title='owned'<b>&lt;"


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


@pytest.mark.parametrize("most", range(8, 90, 3))
def test_samples_begin_and_end_with_the_trace_whatever_their_number(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmem.replay.replay.MAX_SAMPLES", most)
    monkeypatch.setattr("kmem.replay.replay.most_moments", lambda frames: most)
    run = replay(str(BOOT), keep_frames=True)
    for kept in (run.samples, run.moments):
        assert kept[0].events == 0
        assert kept[-1].events == run.engine.nr_events
        assert len(kept) <= most


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


def test_of_many_slabs_the_emptiest_are_drawn(
    run: Replay, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmem.report.result._MOST_SLABS", 2)
    whole = {cache["name"]: cache for cache in result["page"]["slabs"]}
    found = replay_result(run, analyse(run), source="boot.trace.txt.gz")["page"]["slabs"]
    assert any(cache["slabs"] > 2 for cache in found)
    for cache in found:
        used = sorted(sum(site >= 0 for site in slab["objects"]) for slab in whole[cache["name"]]["shown"])
        assert sorted(sum(site >= 0 for site in slab["objects"]) for slab in cache["shown"]) == used[:2]
        assert all(slab in whole[cache["name"]]["shown"] for slab in cache["shown"])


def test_page_is_one_file_that_asks_nobody(result: dict[str, Any]) -> None:
    text = page(result).decode()
    own = text.replace(text[text.index("<script>") : text.index("</script>", text.index("<script>"))], "")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src 'none'" in policy[1]
    for script in re.findall(r"<script(?: id=\"page\")?>(.*?)</script>", text, re.DOTALL):
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


def test_many_failures_do_not_make_the_page_large(result: dict[str, Any]) -> None:
    zone = {"node": 0, "name": "DMA32", "eligible": True, "verdict": "below-watermark", "free": 1, "unusable": 0}
    zone |= {"watermark": 7, "lowmem_reserve": 0, "nr_free": [1] * 11}
    one = {"event": "kmalloc", "size_bytes": 8, "order": 0, "cache": "", "reason": "below-watermark"}
    failed = [{"time_ns": i, **one, "zones": [zone] * 10, "explanation": ["Because."]} for i in range(1000)]
    text = page({**result, "failures": 5000, "failure_list": failed}).decode()
    shown = block(text)["failure_list"]
    assert shown[:100] == failed[:100]
    assert len(shown) <= 300 and shown[-1]["time_ns"] > 980 and "zones" not in shown[-1]
    assert len(text) < len(page(result)) + 400_000


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


def test_without_plotly_nothing_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_plotly.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["replay", "--html", str(tmp_path / "a.html"), str(BOOT)]) == 2
    assert capsys.readouterr().err == "kmem: the page needs plotly; pip install 'kmem[html]'\n"
    assert list(tmp_path.iterdir()) == []


# --- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def written(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(page(result))
    return path


def owners_shown(browser: Browser) -> dict[str, int]:
    rows = browser.value(
        "[...document.querySelectorAll('#owners tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return {name: int(count.replace(",", "")) for name, count, _ in rows}


def picture(browser: Browser) -> str:
    shown = browser.value("document.getElementById('frames').toDataURL()")
    assert isinstance(shown, str)
    return shown


def text_of(browser: Browser, name: str) -> str:
    return str(browser.value(f"document.getElementById('{name}').textContent"))


def test_browser_opens_it_without_a_complaint(browser: Browser, written: Path) -> None:
    browser.open(written)
    assert browser.errors == []
    assert (
        browser.value("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    )
    for chart in ("free-chart", "fallback-chart", "cache-chart", "site-chart"):
        assert browser.value(f"document.querySelectorAll('#{chart} .main-svg').length") > 0, chart
    assert browser.value("document.querySelectorAll('#slab-drawing .object.used').length") > 0
    assert browser.value("document.querySelectorAll('#space-body .region').length") > 4


def test_browser_shows_the_moment_of_the_slider(browser: Browser, written: Path, result: dict[str, Any]) -> None:
    film = result["page"]["map"]
    last = len(film["moments"]) - 1
    browser.open(written)
    browser.value("document.getElementById('moment').focus()")
    pictures = set()
    for key, code, moment in (("End", 35, last), ("ArrowLeft", 37, last - 1), ("Home", 36, 0)):
        browser.press(key, code)
        browser.wait(f"document.getElementById('frames').dataset.moment === '{moment}'")
        assert f"{moment + 1} of {last + 1}" in text_of(browser, "moment-text")
        counts = np.bincount(unpacked(film["moments"][moment]), minlength=256)
        found = owners_shown(browser)
        assert found["free"] == counts[1]
        assert found.get("slab of inode_cache", 0) == counts[film["owners"].index("inode_cache")]
        pictures.add(picture(browser))
    assert len(pictures) >= 2, "the map never changed"


def test_browser_says_what_is_free_at_the_moment(browser: Browser, written: Path, result: dict[str, Any]) -> None:
    samples, last = result["page"]["samples"], len(result["page"]["map"]["moments"]) - 1
    for moment, sample in ((0, 0), (last, -1)):
        browser.open(written, f"#moment={moment}")
        free = sum(cell["pages"][sample] for zone in samples["zones"] for cell in zone["free"])
        shown = text_of(browser, "free-text")
        assert f"s: {free / 256:.1f} MiB free (" in shown
        assert f"{samples['fallbacks'][sample]:,} fallbacks until then." in shown


def test_browser_lists_every_cache(browser: Browser, written: Path, result: dict[str, Any]) -> None:
    browser.open(written)
    rows = browser.value(
        "[...document.querySelectorAll('#cache-table tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    shown = {row[0]: row for row in rows}
    for cache in sorted(result["caches"], key=lambda each: -each["slab_pages"])[:20]:
        assert shown[cache["name"]][2:4] == [f"{cache['live']:,}", f"{cache['slab_objects']:,}"]


def test_browser_opens_at_a_moment(browser: Browser, written: Path) -> None:
    browser.open(written, "#moment=3")
    assert text_of(browser, "moment-text").startswith("4 of ")


def test_browser_moves_and_zooms_by_keyboard(browser: Browser, written: Path, result: dict[str, Any]) -> None:
    film = result["page"]["map"]
    frames = unpacked(film["moments"][-1])
    slab = int(np.flatnonzero(frames == film["owners"].index("inode_cache"))[0])
    browser.open(written, "#moment=9999")
    browser.value("document.getElementById('frames').focus()")
    for _ in range(slab >> 9):
        browser.press("ArrowRight", 39)
    assert f"Page frames {slab >> 9 << 9:#x} to" in text_of(browser, "frame-text")
    wide = picture(browser)
    for _ in range(9):
        browser.press("+", 187)
    assert text_of(browser, "zoom-text") == "a cell is one page frame"
    assert picture(browser) != wide
    for _ in range(slab & 511):
        browser.press("ArrowRight", 39)
    shown = text_of(browser, "frame-text")
    assert shown.startswith(f"Page frame {slab:#x}, physical address {slab << 12:#x}, zone ")
    assert shown.endswith("slab of inode_cache.")


def test_browser_says_what_is_at_the_pointer(browser: Browser, written: Path) -> None:
    browser.open(written)
    browser.value("document.getElementById('frames').scrollIntoView()")
    box = browser.value("(b => [b.left, b.top, b.width])(document.getElementById('frames').getBoundingClientRect())")
    before = text_of(browser, "frame-text")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] / 2, y=box[1] + 5)
    assert text_of(browser, "frame-text") != before


def test_browser_moves_the_map_fast(browser: Browser, written: Path) -> None:
    browser.open(written)
    worst = browser.value(
        """(async () => {
            const slider = document.getElementById("moment"), canvas = document.getElementById("frames");
            let worst = 0;
            for (const moment of [0, 20, 5, 30, 10]) {
                const start = performance.now();
                slider.value = moment;
                slider.dispatchEvent(new Event("input"));
                while (canvas.dataset.moment !== String(moment)) await new Promise(done => setTimeout(done, 0));
                worst = Math.max(worst, performance.now() - start);
            }
            return worst;
        })()"""
    )
    assert 0 < worst < 1000


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A replay that refuses requests, counted with lifetimes, and its page."""
    with LifetimeCounter() as counter:
        run = replay(str(BOOT), ram="96M", knobs={"vm.min_free_kbytes": 49000}, keep_frames=True, observe=counter)
    lifetimes = counter.rows(run.reader.strings)
    result = replay_result(run, analyse(run), source="boot.trace.txt.gz", lifetimes=lifetimes)
    path = tmp_path_factory.mktemp("failing") / "page.html"
    path.write_bytes(page(result))
    return result, path


def test_browser_explains_failures(browser: Browser, failing: tuple[dict[str, Any], Path]) -> None:
    result, path = failing
    browser.open(path)
    assert browser.errors == []
    shown = text_of(browser, "failure-body")
    for kind in result["failures_by_reason"]:
        assert f"{kind['count']:,} of order {kind['order']} in zone {kind['zone']}: {kind['reason']}" in shown
        for sentence in kind["first"]["explanation"]:
            assert sentence in shown
        for zone in kind["first"]["zones"]:
            if zone["eligible"]:
                sign = "\u2264" if zone["verdict"] == "below-watermark" else ">"
                numbers = (zone["free"], zone["unusable"], zone["watermark"], zone["lowmem_reserve"])
                free, unusable, mark, reserve = (f"{number:,}" for number in numbers)
                text = f"{free} free \u2212 {unusable} unusable {sign} {mark} watermark + {reserve} reserve"
                assert text in shown
        for remedy in kind["remedies"]:
            assert remedy["text"] in shown
    rows = "document.querySelectorAll('#failure-body > .scroll > table > tr').length"
    assert browser.value(rows) == 1 + min(100, len(result["failure_list"]))
    # each of the list has its own explanation, when it is asked for
    opened = browser.value(
        """(async () => {
            const found = document.querySelector('#failure-body > .scroll details');
            found.open = true;
            await new Promise(done => setTimeout(done, 50));
            return found.textContent;
        })()"""
    )
    assert result["failure_list"][0]["explanation"][0] in opened


def test_browser_shows_how_long_objects_live(browser: Browser, failing: tuple[dict[str, Any], Path]) -> None:
    result, path = failing
    browser.open(path)
    freed, live = (sum(row[key] for row in result["lifetimes"]) for key in ("freed", "live"))
    assert text_of(browser, "life-text") == f"{freed:,} objects were allocated and freed; {live:,} live at the end."
    assert browser.value("document.querySelectorAll('#life-chart .bars path').length") > 4
    row = max(result["lifetimes"], key=lambda each: (each["freed"], each["live"]))
    choose = """(([id, value]) => {
        const found = document.getElementById(id);
        found.value = value;
        found.dispatchEvent(new Event("change"));
    })"""
    browser.value(f"{choose}({json.dumps(['life-site', '=' + row['name']])})")
    assert text_of(browser, "life-text").startswith(f"{row['freed']:,} objects were allocated and freed, after ")
    for key, measure in (("longest", "max_ns"), ("age", "oldest_ns")):
        browser.value(f"{choose}({json.dumps(['site-key', key])})")
        first = browser.value("document.querySelector('#site-table tr:nth-child(2) td').textContent")
        longest = max(result["lifetimes"], key=lambda each: each[measure])
        assert first == longest["name"]


def test_browser_goes_to_the_moment_of_the_chart(browser: Browser, failing: tuple[dict[str, Any], Path]) -> None:
    result, path = failing
    browser.open(path)
    moments = result["page"]["map"]["moments"]
    middle = len(moments) // 2
    seconds = (moments[middle]["time_ns"] - result["first_ns"]) / 1e9
    at = browser.value(
        f"""(() => {{
            const chart = document.getElementById("free-chart"), axis = chart._fullLayout.xaxis;
            chart.scrollIntoView();
            const box = chart.getBoundingClientRect();
            return [box.left + axis._offset + axis.d2p({seconds}), box.top + box.height / 2];
        }})()"""
    )
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)
        browser.value("new Promise(done => setTimeout(done, 100))")
    browser.wait("document.getElementById('frames').dataset.moment !== undefined")
    shown = int(browser.value("document.getElementById('frames').dataset.moment"))
    assert abs(shown - middle) <= 2


def test_browser_on_a_narrow_screen(browser: Browser, written: Path) -> None:
    browser.open(written, width=360, height=700)
    assert browser.value("document.documentElement.scrollWidth") <= 360


def test_browser_draws_in_light_and_dark(browser: Browser, written: Path) -> None:
    """Screenshots have many colours, and the two backgrounds."""
    corners = []
    for dark in (False, True):
        browser.open(written, dark=dark)
        shot = base64.b64encode(browser.screenshot()).decode()
        colours, corner = browser.value(
            f"""(async () => {{
                const image = new Image();
                image.src = "data:image/png;base64,{shot}";
                await image.decode();
                const canvas = document.createElement("canvas");
                const pen = canvas.getContext("2d", {{willReadFrequently: true}});
                [canvas.width, canvas.height] = [image.width, image.height];
                pen.drawImage(image, 0, 0);
                const pixels = new Uint32Array(pen.getImageData(0, 0, image.width, image.height).data.buffer);
                return [new Set(pixels).size, [...pen.getImageData(0, 0, 1, 1).data]];
            }})()"""
        )
        assert colours > 30
        corners.append(sum(corner[:3]))
    assert corners[0] > 600 and corners[1] < 150


def test_browser_takes_hostile_names_as_text(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, out = evil_trace(tmp_path / "evil.txt"), tmp_path / "out.html"
    assert main(["replay", "--html", str(out), str(trace)]) == 0
    capsys.readouterr()
    browser.open(out)
    assert browser.errors == []
    assert browser.value("document.title").startswith("kmem replay: ")
    assert browser.value("document.querySelectorAll('main img, main script, main b b').length") == 0
    shown = browser.value("document.body.innerText + document.querySelector('#cache-chart').textContent")
    assert SITE in shown and "<img/src=x" in shown


def test_browser_keeps_long_names_inside(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Call sites, caches and file names of any length leave a narrow page narrow."""
    text = gzip.decompress(BOOT.read_bytes()).decode()
    trace, out = tmp_path / f"{'t' * 120}.txt", tmp_path / "out.html"
    trace.write_text(
        text.replace("call_site=alloc_inode+0x59", f"call_site={'f' * 200}+0x59").replace(
            "call_site=copy_process", f"call_site={'c' * 200}"
        )
    )
    knobs = ["--ram", "96M", "--set", "vm.min_free_kbytes=49000"]
    assert main(["replay", "--html", str(out), *knobs, str(trace)]) == 0
    capsys.readouterr()
    browser.open(out, width=360, height=700)
    assert browser.errors == []
    assert browser.value("document.documentElement.scrollWidth") <= 360
    assert "c" * 200 in text_of(browser, "failure-body")


def test_browser_shows_watermarks_of_a_zone(browser: Browser, failing: tuple[dict[str, Any], Path]) -> None:
    result, path = failing
    browser.open(path)
    names = "document.getElementById('free-chart').data.map(each => [each.name, each.y[0]])"
    assert "min watermark" not in dict(browser.value(names))
    browser.value("document.getElementById('zone').value = '1'")
    browser.value("document.getElementById('zone').dispatchEvent(new Event('change'))")
    shown = dict(browser.value(names))
    for mark in ("min", "low", "high"):
        assert shown[f"{mark} watermark"] * 256 == result["zones"][1][mark]
    assert "refused" in shown


def test_browser_marks_every_failure_on_the_chart(browser: Browser, failing: tuple[dict[str, Any], Path]) -> None:
    """More than are kept one by one: how many there were from one sample to the next."""
    result, path = failing
    assert result["failures"] > len(result["failure_list"])
    browser.open(path)
    shown = browser.value("document.getElementById('free-chart').data.filter(each => each.name === 'refused')[0].text")
    assert sum(int(text.split()[0].replace(",", "")) for text in shown) == result["failures"]


def test_browser_goes_to_the_moment_of_a_failure(browser: Browser, failing: tuple[dict[str, Any], Path]) -> None:
    result, path = failing
    browser.open(path)
    last = len(result["page"]["map"]["moments"]) - 1
    assert browser.value("document.getElementById('frames').dataset.moment") == str(last)
    browser.value("document.querySelector('#failure-body > .scroll a').click()")
    first = result["failure_list"][0]["time_ns"]
    times = [abs(moment["time_ns"] - first) for moment in result["page"]["map"]["moments"]]
    browser.wait(f"document.getElementById('frames').dataset.moment === '{times.index(min(times))}'")


def test_browser_shows_a_result_without_a_film(browser: Browser, result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(page({key: value for key, value in result.items() if key != "page"}))
    browser.open(path)
    assert browser.errors == []
    assert "The result has no map of page frames" in text_of(browser, "map")
