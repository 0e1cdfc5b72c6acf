# SPDX-License-Identifier: GPL-2.0-only
"""The screen of ``kmem top``, driven by keys as a user drives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual", reason="the screen needs textual")

from textual.pilot import Pilot
from textual.widgets import DataTable, HelpPanel, Static, TabbedContent

from kmem.analysis.top import CACHE_KEYS, sort_caches
from kmem.analysis.top_source import ProcSource, ReplaySource
from kmem.errors import InputError
from kmem.replay.variant import Variant
from kmem.report.top import TopApp

DATA = Path(__file__).parent.parent / "data"
PROC = DATA / "proc/amd64-512M"
BOOT = str(DATA / "boot.trace.txt.gz")

Play = Callable[[TopApp, Pilot[None]], Awaitable[None]]


def play(app: TopApp, script: Play, size: tuple[int, int] = (120, 30)) -> None:
    """Run the screen without a terminal, and a script of keys on it."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await settle(app, pilot)
            await script(app, pilot)

    asyncio.run(run())


async def settle(app: TopApp, pilot: Pilot[None]) -> None:
    """Wait until what was asked for is on the screen."""
    await pilot.pause()
    await app.workers.wait_for_complete()
    await pilot.pause()


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await pilot.pause(0.02)


def table(app: TopApp, view: str = "caches") -> DataTable[Any]:
    return app.query_one(f"#{view}-table", DataTable)


def column(app: TopApp, place: int = 0, view: str = "caches") -> list[str]:
    return [table(app, view).get_row_at(row)[place].plain for row in range(table(app, view).row_count)]


def headings(app: TopApp, view: str = "caches") -> list[str]:
    return [str(each.label) for each in table(app, view).columns.values()]


def text(app: TopApp, part: str) -> str:
    return str(app.query_one(part, Static).content)


def screen(app: TopApp) -> str:
    """All characters of the screen."""
    lines = app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in lines)


def copied(tmp_path: Path, **texts: str) -> ProcSource:
    for name, each in texts.items():
        (tmp_path / name).write_text(each)
    return ProcSource(tmp_path)


def slabinfo(*rows: str) -> str:
    tail = " : tunables 0 0 0 : slabdata"
    return "slabinfo - version: 2.1\n# name\n" + "".join(f"{row}{tail} 1 1 0\n" for row in rows)


def test_every_key_of_slabtop_sorts() -> None:
    source = ProcSource(PROC)
    look = source.look()

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert column(app) == [row.name for row in sort_caches(look.caches, "o")]
        for key in CACHE_KEYS:
            await pilot.press(key)
            await pilot.pause()
            assert column(app) == [row.name for row in sort_caches(look.caches, key)], key
            assert f"sorted by {CACHE_KEYS[key].title}" in text(app, "#head")
            assert sum("▼" in each or "▲" in each for each in headings(app)) == 1

    play(TopApp(source), script)


def test_the_head_has_the_sums() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        head = text(app, "#head")
        assert "objects 68,713 of 69,200 (99.3%)" in head
        assert "slabs 2,470" in head
        assert "caches 93 of 157" in head
        assert str(PROC) in head
        assert "68,713" in screen(app)

    play(TopApp(ProcSource(PROC)), script)


def test_views_change_by_number_tab_and_back() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        active = lambda: app.query_one(TabbedContent).active  # noqa: E731
        assert active() == "caches"
        for key, view in (
            ("2", "zones"),
            ("3", "sites"),
            ("1", "caches"),
            ("tab", "zones"),
            ("tab", "sites"),
            ("tab", "caches"),
            ("shift+tab", "sites"),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert active() == view
            assert app.focused is table(app, view)
        await pilot.press("2")
        await pilot.pause()
        assert column(app, view="zones") == ["0 DMA", "0 DMA32"]
        assert "sorted by address" in text(app, "#head")
        await pilot.press("a")  # there is nothing to sort by
        await pilot.pause()
        assert column(app, view="zones") == ["0 DMA", "0 DMA32"]
        await pilot.press("3")
        await pilot.pause()
        assert text(app, "#message") == f"{PROC / 'vmallocinfo'}: no such file"
        assert app.query_one("#message").has_class("shown")
        await pilot.press("1")
        await pilot.pause()
        assert not app.query_one("#message").has_class("shown")

    play(TopApp(ProcSource(PROC)), script)


def test_a_view_and_a_key_to_begin_with() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert app.query_one(TabbedContent).active == "zones"
        assert column(app, view="zones") == ["0 DMA", "0 DMA32"]
        await pilot.press("1")
        await pilot.pause()
        assert column(app)[0] == sort_caches(ProcSource(PROC).look().caches, "n")[0].name

    play(TopApp(ProcSource(PROC), cache_key="n", view="zones"), script)


def test_callers_of_vmalloc(tmp_path: Path) -> None:
    (tmp_path / "vmallocinfo").write_bytes((DATA / "vmallocinfo/amd64-1536M.txt.gz").read_bytes())

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert headings(app, "sites")[0] == "CALLER"
        sizes = [row.bytes for row in app.look.sites]
        assert sizes == sorted(sizes, reverse=True)
        await pilot.press("n")
        await pilot.pause()
        names = column(app, view="sites")
        assert names == sorted(names)
        await pilot.press("b")  # areas have no slabs
        await pilot.pause()
        assert column(app, view="sites") == names

    play(TopApp(ProcSource(tmp_path), view="sites"), script)


@pytest.mark.parametrize("key", ["space", "enter"])
def test_looking_again_shows_what_has_changed(tmp_path: Path, key: str) -> None:
    source = copied(tmp_path, slabinfo=slabinfo("dentry 10 21 192 21 1", "inode 3 12 600 6 1", "gone 1 1 64 64 1"))

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert column(app) == ["dentry", "inode", "gone"]
        assert column(app, 3) == ["", "", ""]
        copied(tmp_path, slabinfo=slabinfo("dentry 12 21 192 21 1", "inode 2 30 600 6 1"))
        await pilot.press(key)
        await settle(app, pilot)
        assert column(app) == ["inode", "dentry"]
        assert column(app, 1) == ["30", "21"]
        assert column(app, 3) == ["-1", "+2"]

    play(TopApp(source, delay_s=3600), script)


def test_files_are_read_again_by_themselves(tmp_path: Path) -> None:
    source = copied(tmp_path, slabinfo=slabinfo("dentry 10 21 192 21 1"))

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        copied(tmp_path, slabinfo=slabinfo("dentry 15 21 192 21 1"))
        await until(pilot, lambda: column(app, 2) == ["15"])

    play(TopApp(source, delay_s=0.1), script)


def test_a_file_damaged_meanwhile_is_waited_for(tmp_path: Path) -> None:
    source = copied(tmp_path, slabinfo=slabinfo("dentry 10 21 192 21 1"))

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        copied(tmp_path, slabinfo="slabinfo - version: 2.1\ndentry 10")
        await pilot.press("space")
        await settle(app, pilot)
        assert "slabinfo:2: not the line of a slab cache" in text(app, "#message")
        assert column(app) == ["dentry"]
        copied(tmp_path, slabinfo=slabinfo("dentry 11 21 192 21 1"))
        await pilot.press("space")
        await settle(app, pilot)
        assert text(app, "#message") == ""
        assert column(app, 2) == ["11"]

    play(TopApp(source, delay_s=3600), script)


def test_files_that_never_were_sound_end_the_screen(tmp_path: Path) -> None:
    app = TopApp(copied(tmp_path, slabinfo="slabinfo - version: 2.1\ndentry 10"))

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.failure is not None)

    play(app, script)
    assert isinstance(app.failure, InputError)
    assert app.failure.line == 2
    assert app.return_code == 2


def test_names_are_no_markup(tmp_path: Path) -> None:
    names = ["[bold]x[/bold]", "[/]", "[@click=app.quit]y[/]", "a\x1b[31mb", "[red"]
    source = copied(
        tmp_path,
        slabinfo=slabinfo(*(f"{name} 1 {9 - i} 64 64 1" for i, name in enumerate(names))),
        vmallocinfo="0x0000000000001000-0x0000000000002000    4096 [bold]f+0x1/0x2 pages=1 vmalloc\n",
    )

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert column(app) == [*names[:3], "a\\x1b[31mb", "[red"]
        for name in ("[bold]x[/bold]", "[/]", "[@click=app.quit]y[/]", "a\\x1b[31mb"):
            assert name in screen(app)
        await pilot.press("3")
        await pilot.pause()
        assert "[bold]f+0x1/0x2" in screen(app)

    play(TopApp(source), script)


def test_a_folder_named_in_markup(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]"
    folder.mkdir()
    source = copied(folder, buddyinfo="Node 0, zone   Normal      1      2\n")

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert "[bold]" in text(app, "#head")
        assert "no such file" in text(app, "#message")
        assert "[bold]/slabinfo" in text(app, "#message")

    play(TopApp(source), script)


def test_a_narrow_terminal_keeps_the_names() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        first = "kernfs_node_cache"
        assert first in screen(app)
        assert "11,456" in screen(app)
        assert all(len(line) <= 60 for line in screen(app).split("\n"))
        assert all(len(name) <= 22 for name in column(app))
        assert any(name.endswith("…") for name in column(app))
        for _ in range(60):
            await pilot.press("right")
        await pilot.pause(0.5)
        assert first in screen(app)  # while the figures move
        assert "PAGES/SLAB" in screen(app)
        assert "OBJS" not in screen(app)

    play(TopApp(ProcSource(PROC)), script, size=(60, 24))


def test_resizing_gives_names_more_room() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        assert any(name.endswith("…") for name in column(app))
        await pilot.resize_terminal(140, 40)
        await pilot.pause(0.2)
        assert not any(name.endswith("…") for name in column(app))
        await pilot.resize_terminal(20, 5)
        await pilot.pause(0.2)
        await pilot.press("n")
        await pilot.resize_terminal(100, 30)
        await pilot.pause(0.2)
        assert column(app) == sorted(column(app))

    play(TopApp(ProcSource(PROC)), script, size=(60, 24))


def test_a_click_on_a_heading_sorts() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.click(table(app), offset=(3, 0))
        await pilot.pause()
        assert app.keys["caches"] == "n"
        assert column(app) == sorted(column(app))

    play(TopApp(ProcSource(PROC)), script)


def test_help_comes_and_goes() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await pilot.pause()
        assert app.screen.query(HelpPanel)
        await pilot.press("question_mark")
        await pilot.pause()
        assert not app.screen.query(HelpPanel)

    play(TopApp(ProcSource(PROC)), script)


@pytest.mark.parametrize(("key", "status", "interrupted"), [("q", 0, False), ("ctrl+c", 130, True)])
def test_ending(key: str, status: int, interrupted: bool) -> None:
    app = TopApp(ProcSource(PROC))

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press(key)
        await pilot.pause()

    play(app, script)
    assert (app.return_code or 0, app.interrupted, app.failure) == (status, interrupted, None)


def test_keys_of_replays_do_nothing_elsewhere() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        before = column(app)
        await pilot.press("z", "full_stop", "plus", "minus")
        await pilot.pause()
        assert column(app) == before

    play(TopApp(ProcSource(PROC)), script)


# ------------------------------------------------------------ replays


def clock(app: TopApp) -> tuple[str, int]:
    assert app.failure is None
    assert app.look is not None and app.look.clock is not None
    return app.look.clock.state, app.look.clock.events


def test_a_replay_runs_to_its_end_and_stays() -> None:
    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: clock(app)[0] == "ended")
        assert "5,066 events" in text(app, "#head")
        assert column(app)
        await pilot.press("3")
        await pilot.pause()
        assert headings(app, "sites")[0] == "CALL SITE"
        sizes = [row.bytes for row in app.look.sites]
        assert sizes == sorted(sizes, reverse=True)
        for key in "acnosu":
            await pilot.press(key)
        await pilot.press("2")
        await pilot.pause()
        assert table(app, "zones").row_count == 2
        assert app.is_running

    play(TopApp(ReplaySource(BOOT, Variant(), delay_s=0.05)), script)


def test_a_replay_step_by_step() -> None:
    source = ReplaySource(BOOT, Variant(), paused=True)

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: clock(app) == ("paused", 0))
        await pilot.press("full_stop")
        await until(pilot, lambda: clock(app) == ("paused", 250))
        await pilot.press("full_stop", "full_stop")
        await until(pilot, lambda: clock(app) == ("paused", 750))
        assert "750 events" in text(app, "#head")
        assert any(row.change for row in app.look.caches)
        await pilot.press("z")
        await until(pilot, lambda: clock(app)[0] == "ended")

    play(TopApp(source, step=250), script)
    assert source.join(0)


def test_a_replay_at_a_speed_can_be_paused_and_left() -> None:
    source = ReplaySource(BOOT, Variant(), speed=1e-6, delay_s=0.01)

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: clock(app)[0] == "replaying")
        await pilot.press("plus")
        await until(pilot, lambda: "speed 2e-06" in text(app, "#head"))
        await pilot.press("minus", "minus")
        await until(pilot, lambda: "speed 9.53674e-07" in text(app, "#head"))  # the slowest
        await pilot.press("z")
        await until(pilot, lambda: clock(app)[0] == "paused")
        await pilot.press("q")

    play(TopApp(source), script)
    assert source.join(0), "the replay goes on without a screen"
    assert source.error is None


def test_call_sites_of_a_trace_are_no_markup(tmp_path: Path) -> None:
    line = (
        "  [red]-1  [000] .....  1.000000: kmem_cache_alloc: call_site=[bold]f+0x1/0x2 ptr=0xffff888001000000 "
        "name=[blink]c bytes_req=64 bytes_alloc=64 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
    )
    path = tmp_path / "one.txt"
    path.write_text("# tracer: nop\n#\n" + line)

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: clock(app)[0] == "ended")
        assert "[blink]c" in column(app)
        assert "[blink]c" in screen(app)
        await pilot.press("3")
        await pilot.pause()
        assert column(app, view="sites") == ["[bold]f+0x1"]
        assert "[bold]f+0x1" in screen(app)

    play(TopApp(ReplaySource(str(path), Variant())), script)


@pytest.mark.parametrize("content", ["", "nonsense\n", "# tracer: nop\n#\n"])
def test_traces_with_nothing_in_them_end_with_their_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    source = ReplaySource(str(path), Variant())
    app = TopApp(source)

    async def script(app: TopApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.failure is not None or not app.is_running)

    play(app, script)
    assert isinstance(app.failure, InputError)
    assert app.failure is source.error
    assert app.return_code == 2
