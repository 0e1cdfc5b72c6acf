# SPDX-License-Identifier: GPL-2.0-only
"""Looks: what is read from /proc files and from a replay under way, and how it is sorted."""

from __future__ import annotations

import gzip
import io
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kmem.analysis.top import (
    CACHE_KEYS,
    CALL_SITES,
    SITE_KEYS,
    VMALLOC_CALLERS,
    CacheRow,
    Look,
    SiteRow,
    ZoneRow,
    printable,
    sort_caches,
    sort_sites,
    total,
    with_changes,
)
from kmem.analysis.top_source import ProcSource, ReplaySource, look_at_replay
from kmem.errors import InputError, UsageError
from kmem.linux.gfp import GFP_KERNEL
from kmem.machine.machine import Machine
from kmem.machine.proc import parse_vmallocinfo
from kmem.machine.slabinfo import parse_slabinfo, slabinfo_rows
from kmem.replay.variant import Variant

DATA = Path(__file__).parent.parent / "data"
PROC = DATA / "proc/amd64-512M"
BOOT = str(DATA / "boot.trace.txt.gz")
HEAD = "slabinfo - version: 2.1\n# name <active_objs> ...\n"
ROW = "dentry 100 200 192 21 1 : tunables 0 0 0 : slabdata 10 10 0\n"


def cache(name: str, active: int, objs: int, size: int = 64, per_slab: int = 64, pages: int = 1) -> CacheRow:
    slabs = -(-objs // per_slab)
    return CacheRow(name, active, objs, size, per_slab, pages, slabs, slabs)


# ------------------------------------------------------------ /proc/vmallocinfo


@pytest.mark.parametrize("name", ["amd64-1536M", "i386-1024M"])
def test_recorded_vmallocinfo(name: str) -> None:
    text = gzip.decompress((DATA / f"vmallocinfo/{name}.txt.gz").read_bytes()).decode()
    areas = parse_vmallocinfo(text)
    assert len(areas) == len(text.splitlines())
    assert all(area.end - area.start == area.size_bytes > 0 for area in areas)
    assert all(area.caller for area in areas if area.kind in ("vmalloc", "ioremap", "vmap"))
    kinds = Counter(area.kind for area in areas)
    assert set(kinds) <= {"vmalloc", "ioremap", "vmap", "unpurged vm_area", "vm_map_ram", "user"}
    assert sum(area.pages for area in areas) == sum(
        int(word.removeprefix("pages=")) for word in text.split() if word.startswith("pages=")
    )


def test_lines_of_vmallocinfo() -> None:
    text = (
        "0x00000000fa112003-0x00000000bd1f0a11   20480 kernel_clone+0xbf/0x430 pages=4 vmalloc N0=3 N1=1\n"
        "0x(____ptrval____)-0x(____ptrval____)    8192 map_it+0x1/0x2 [virtio] phys=0x00000000febf8000 ioremap\n"
        "0xffffc90000000000-0xffffc90000003000   12288 pages=2 vmalloc vpages\n"
        "0xffffc90000003000-0xffffc90000006000   12288 unpurged vm_area\n"
        "0xffffc90000006000-0xffffc90000009000   12288 vm_map_ram\n"
    )
    first, second, third, fourth, fifth = parse_vmallocinfo(text)
    assert (first.caller, first.pages, first.kind) == ("kernel_clone+0xbf/0x430", 4, "vmalloc")
    assert (second.start, second.caller, second.kind) == (0, "map_it+0x1/0x2 [virtio]", "ioremap")
    assert (third.caller, third.pages, third.kind) == ("", 2, "vmalloc")
    assert (fourth.caller, fourth.kind) == ("", "unpurged vm_area")
    assert fifth.kind == "vm_map_ram"
    assert parse_vmallocinfo("") == ()


def test_what_the_model_shows_is_read_back() -> None:
    with Machine.boot("x86_64", ram="256M", cpus=1) as m:
        m.vmalloc(3 * 4096)
        m.kmalloc(64, GFP_KERNEL)
        areas = parse_vmallocinfo(m.vmallocinfo())
    mine = [area for area in areas if "test_top.py" in area.caller]
    assert [(area.size_bytes, area.pages, area.kind) for area in mine] == [(16384, 3, "vmalloc")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0xffff-", "not a line of vmallocinfo"),
        ("garbage", "not a line of vmallocinfo"),
        ("0xffffc90000000000-0xffffc90000005000   20480 f+0x1/0x2 pages=x vmalloc", "not a number of pages"),
        ("0xffffc90000000000-0xffffc90000005000   " + "9" * 40 + " f", "not a line of vmallocinfo"),
    ],
)
def test_damaged_vmallocinfo(row: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_vmallocinfo(f"0xffffc90000000000-0xffffc90000003000   12288 vm_map_ram\n{row}\n")
    assert caught.value.line == 2


# ------------------------------------------------------------ sorting, sums, changes


def test_all_letters_of_slabtop() -> None:
    assert "".join(sorted(CACHE_KEYS)) == "abclnopsuv"
    rows = [cache("b", 5, 10, 32, 128), cache("a", 9, 10, 512, 8, 4), cache("c", 1, 300, 8, 512)]
    by = {key: "".join(row.name for row in sort_caches(rows, key)) for key in CACHE_KEYS}
    assert by["o"] == "cba"  # equal ones in their order
    assert by["a"] == "abc"
    assert by["n"] == "abc"
    assert by["s"] == "abc"
    assert by["u"] == "abc"
    assert by["b"] == "cba"
    assert by["p"] == by["c"] == "abc"
    assert by["l"] == by["v"] == "abc"
    with pytest.raises(UsageError, match="no sort key 'x'"):
        sort_caches(rows, "x")


def test_sorting_call_sites_where_figures_are_missing() -> None:
    rows = [SiteRow("b", 10, 1, allocs=None), SiteRow("a", 5, 5, allocs=3)]
    assert set(SITE_KEYS) < set(CACHE_KEYS)
    assert [row.name for row in sort_sites(rows)] == ["b", "a"]
    assert [row.name for row in sort_sites(rows, "o")] == ["a", "b"]
    assert [row.name for row in sort_sites(rows, "n")] == ["a", "b"]
    assert [row.name for row in sort_sites(rows, "s")] == ["b", "a"]
    with pytest.raises(UsageError):
        sort_sites(rows, "b")


def test_totals() -> None:
    sums = total([cache("a", 10, 100, 64), cache("b", 0, 0, 8), cache("c", 50, 100, 128)])
    assert (sums.active_objs, sums.num_objs) == (60, 200)
    assert (sums.active_caches, sums.num_caches) == (2, 3)
    assert (sums.active_bytes, sums.num_bytes) == (10 * 64 + 50 * 128, 100 * 64 + 100 * 128)
    assert (sums.smallest, sums.mean, sums.largest) == (8, 96, 128)
    nothing = total([])
    assert (nothing.num_objs, nothing.mean, nothing.smallest) == (0, 0, 0)


def test_changes_keep_caches_of_one_name_apart() -> None:
    before = Look("x", (cache("a", 1, 9), cache("a", 5, 9)), sites=(SiteRow("f", 100, 1),))
    after = Look("x", (cache("a", 3, 9), cache("a", 4, 9), cache("new", 2, 9)), sites=(SiteRow("f", 40, 1),))
    assert with_changes(after, None) is after
    changed = with_changes(after, before)
    assert [row.change for row in changed.caches] == [2, -1, 2]
    assert [row.change for row in changed.sites] == [-60]


def test_names_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[31m\r\n\u202eb") == "a\\x1b[31m\\r\\n\\u202eb"
    assert printable("[bold]größe") == "[bold]größe"


# ------------------------------------------------------------ /proc and its copies


def test_a_copied_folder() -> None:
    look = ProcSource(PROC).look()
    rows = parse_slabinfo((PROC / "slabinfo").read_text())
    assert [row.name for row in look.caches] == list(rows)
    dentry = next(row for row in look.caches if row.name == "dentry")
    assert (dentry.num_objs, dentry.cache_bytes) == (11340, 540 * 4096)
    assert [(zone.node, zone.name) for zone in look.zones] == [(0, "DMA"), (0, "DMA32")]
    for zone in look.zones:
        assert zone.free == sum(count << order for order, count in enumerate(zone.nr_free))
        assert zone.managed is not None and zone.managed > zone.free
        assert zone.min is not None and zone.pcp is not None
    assert look.sites == ()
    assert look.missing == (f"{PROC / 'vmallocinfo'}: no such file",)


def test_two_nodes_and_packed_files(tmp_path: Path) -> None:
    (tmp_path / "vmallocinfo").write_bytes((DATA / "vmallocinfo/amd64-1536M.txt.gz").read_bytes())
    (tmp_path / "slabinfo.txt").write_bytes((DATA / "slabinfo/amd64.txt.gz").read_bytes())
    look = ProcSource(tmp_path).look()
    assert look.sites_are == VMALLOC_CALLERS
    assert [row.bytes for row in look.sites] == sorted((row.bytes for row in look.sites), reverse=True)
    areas = parse_vmallocinfo(gzip.decompress((tmp_path / "vmallocinfo").read_bytes()).decode())
    assert sum(row.count for row in look.sites) == len(areas)
    assert sum(row.bytes for row in look.sites) == sum(area.size_bytes for area in areas)
    assert "(unpurged vm_area)" in [row.name for row in look.sites]
    assert look.zones == ()
    nodes = ProcSource(DATA / "proc/amd64-1024M-numa2").look().zones
    assert {zone.node for zone in nodes} == {0, 1}


def test_buddyinfo_alone(tmp_path: Path) -> None:
    (tmp_path / "buddyinfo").write_text("Node 0, zone   Normal      1      2      0      1 \n")
    (zone,) = ProcSource(tmp_path).look().zones
    assert zone == ZoneRow(0, "Normal", 13, (1, 2, 0, 1))
    assert zone.largest_order == 3
    (tmp_path / "buddyinfo").write_text("Node 0, zone   Normal      0      0      0      0 \n")
    assert ProcSource(tmp_path).look().zones[0].largest_order is None


def test_caches_of_one_name_are_all_counted(tmp_path: Path) -> None:
    (tmp_path / "slabinfo").write_text(HEAD + ROW + ROW)
    assert len(ProcSource(tmp_path).look().caches) == 2
    assert len(slabinfo_rows(HEAD + ROW + ROW)) == 2
    assert len(parse_slabinfo(HEAD + ROW + ROW)) == 1


@pytest.mark.parametrize(
    ("name", "text", "line", "remedy"),
    [
        ("slabinfo", HEAD + ROW + "dentry 100 2", 4, "may be cut off"),
        ("slabinfo", HEAD + "dentry 300 200 192 21 1 : tunables 0 0 0 : slabdata 10 10 0", 3, "damaged"),
        ("slabinfo", "", 1, "take a copy of /proc/slabinfo"),
        ("buddyinfo", "Node 0, zone   Normal      1      x", 1, "copy /proc/buddyinfo again"),
        ("zoneinfo", "nonsense", 1, "copy /proc/zoneinfo again"),
        ("vmallocinfo", "nonsense", 1, "may be cut off"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str, line: int, remedy: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        ProcSource(tmp_path).look()
    assert caught.value.line == line
    assert caught.value.file == str(tmp_path / name)
    assert remedy in str(caught.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "slabinfo").write_bytes(b"slabinfo \xff\xfe")
    with pytest.raises(InputError, match="byte 9: not text; copy /proc/slabinfo there"):
        ProcSource(tmp_path).look()
    (tmp_path / "slabinfo").write_bytes(gzip.compress(b"x" * 100)[:-12])
    with pytest.raises(InputError, match="cannot be read: .*; copy it again"):
        ProcSource(tmp_path).look()


def test_folders_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ProcSource(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no slabinfo, buddyinfo, zoneinfo or vmallocinfo"):
        ProcSource(tmp_path).look()


def test_what_only_root_may_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("slabinfo", "buddyinfo", "zoneinfo"):
        (tmp_path / name).write_bytes((PROC / name).read_bytes())
    real = Path.open

    def refuse(self: Path, *args, **kwargs):
        if self.name == "slabinfo":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    look = ProcSource(tmp_path, live=True).look()
    assert look.caches == ()
    assert len(look.zones) == 2
    assert look.missing[0].startswith(f"{tmp_path / 'slabinfo'}: only root may read it; run sudo ")
    assert "does not show it" in look.missing[1]


def test_a_kernel_that_contradicts_itself_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = HEAD + "dentry 18446744073709551615 200 192 21 1 : tunables 0 0 0 : slabdata 10 10 0\n"
    answers = [wrong, wrong, HEAD + ROW, wrong, wrong, wrong]
    (tmp_path / "slabinfo").write_text(HEAD)
    monkeypatch.setattr("kmem.analysis.top_source.open_recording", lambda path: io.BytesIO(answers.pop(0).encode()))
    source = ProcSource(tmp_path, live=True)
    assert source.look().caches[0].active_objs == 100
    with pytest.raises(InputError, match="18446744073709551615 objects in use of 200"):
        source.look()
    assert not answers


def test_zoneinfo_of_another_kernel_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "buddyinfo").write_bytes((PROC / "buddyinfo").read_bytes())
    (tmp_path / "zoneinfo").write_text("Node 0, zone DMA\n  of a kernel: from the future\n")
    zones = ProcSource(tmp_path, live=True).look().zones
    assert [zone.managed for zone in zones] == [None, None]
    with pytest.raises(InputError):
        ProcSource(tmp_path).look()


@pytest.mark.skipif(not os.access("/proc/buddyinfo", os.R_OK), reason="no /proc/buddyinfo here")
def test_this_machine() -> None:
    look = ProcSource(Path("/proc"), live=True, page_bytes=os.sysconf("SC_PAGE_SIZE")).look()
    assert look.zones
    assert bool(look.caches) != any("/slabinfo" in line for line in look.missing)


# ------------------------------------------------------------ replays


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def state(source: ReplaySource) -> tuple[str, int]:
    clock = source.latest.clock
    assert clock is not None
    return clock.state, clock.events


@pytest.mark.parametrize(
    ("trace", "settings"),
    [
        (BOOT, []),
        (BOOT, ["scale_load=3", "mempool.dentry=4"]),
        (BOOT, ["kvmalloc_above=4096"]),
        (str(DATA / "traces/v7.trace.dat"), ["ram=256M"]),
        (str(DATA / "traces/amd64.perf.data.zst"), []),
        (str(DATA / "traces/i386.trace.txt.gz"), []),
    ],
)
def test_a_watched_replay_ends_as_one_that_nobody_watches(trace: str, settings: list[str]) -> None:
    variant = Variant().with_settings(settings)
    quiet = variant.replay(trace)
    source = ReplaySource(trace, variant, delay_s=0.001)
    source.start()
    assert source.join(120)
    assert source.error is None
    assert source.run is not None
    assert source.run.machine.digest() == quiet.machine.digest()
    assert len(source.run.samples) == len(quiet.samples)
    expected = look_at_replay(quiet, trace)
    assert (source.latest.caches, source.latest.sites) == (expected.caches, expected.sites)
    assert source.latest.zones == expected.zones
    assert source.latest.sites_are == CALL_SITES
    assert source.latest.clock is not None and source.latest.clock.state == "ended"
    assert source.latest.clock.events == quiet.engine.nr_events
    shown = {row.name: row.num_objs for row in expected.caches}
    assert shown == {view.name: view.num_objs for view in quiet.machine.view().caches}
    assert [row.bytes for row in expected.sites] == sorted((row.bytes for row in expected.sites), reverse=True)
    for row, zone in zip(expected.zones, (z for z in quiet.machine.view().zones if z.managed), strict=True):
        assert (row.node, row.name, row.nr_free) == (zone.node, zone.name, zone.nr_free)
        assert (row.managed, row.min, row.low, row.high) == (zone.managed, zone.min, zone.low, zone.high)
        assert row.pcp == sum(pageset.count for pageset in zone.pagesets)


def test_pausing_and_stepping() -> None:
    source = ReplaySource(BOOT, Variant(), paused=True)
    source.start()
    try:
        wait_for(lambda: state(source)[0] == "paused")
        assert state(source) == ("paused", 0)
        source.step(10)
        wait_for(lambda: state(source)[1] == 10)
        source.step(1)
        source.step(9)  # two at once are both made
        wait_for(lambda: state(source)[1] == 20)
        assert source.paused
        source.step(3000)  # more than is replayed at a time
        wait_for(lambda: state(source) == ("paused", 3020))
        assert source.latest.clock is not None
        assert source.latest.clock.done == pytest.approx(3020 / 5066)
        source.pause(False)
        assert source.join(120)
        assert state(source)[0] == "ended"
        source.step(5)
        source.want()  # nobody is there any more, and nothing breaks
    finally:
        source.stop()


def test_speed_is_that_of_the_trace(tmp_path: Path) -> None:
    lines = [
        f"  cat-1  [000] .....  {10 + i * 0.1:.6f}: kmalloc: call_site=f+0x1/0x2 ptr={0xFFFF888001000000 + i * 64:x} "
        "bytes_req=64 bytes_alloc=64 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
        for i in range(6)
    ]
    (tmp_path / "t.txt").write_text("# tracer: nop\n#\n" + "".join(lines))
    begun = time.monotonic()
    source = ReplaySource(str(tmp_path / "t.txt"), Variant(machine="x86_64"), delay_s=0.01, speed=2.0)
    source.start()
    assert source.join(60)
    assert source.error is None
    assert time.monotonic() - begun >= 0.5 / 2.0
    assert state(source) == ("ended", 6)
    slow = ReplaySource(str(tmp_path / "t.txt"), Variant(machine="x86_64"), delay_s=0.01, speed=1e-3)
    slow.start()
    wait_for(lambda: state(slow) == ("replaying", 1))
    slow.set_speed(None)
    assert slow.join(60)
    assert state(slow) == ("ended", 6)


@pytest.mark.parametrize("trace", [BOOT, str(DATA / "traces/v7.trace.dat"), str(DATA / "traces/amd64.perf.data.zst")])
def test_a_replay_can_be_stopped_anywhere(trace: str) -> None:
    before = threading.active_count()
    source = ReplaySource(trace, Variant(), paused=True)
    source.start()
    source.stop()
    assert source.join(0)
    assert source.error is None
    source = ReplaySource(trace, Variant(), paused=True)
    source.start()
    wait_for(lambda: state(source)[0] == "paused")
    source.step(777)
    wait_for(lambda: state(source) == ("paused", 777))
    source.stop()
    assert source.join(0)
    assert threading.active_count() == before  # those that read ahead have ended, too
    source = ReplaySource(trace, Variant(), speed=1e-6)
    source.start()
    wait_for(lambda: state(source)[0] == "replaying")
    source.stop()
    assert source.join(0)
    assert state(source)[0] == "replaying"


def test_what_is_wrong_with_a_trace_is_kept(tmp_path: Path) -> None:
    source = ReplaySource(str(tmp_path / "nowhere"), Variant())
    source.start()
    assert source.join(60)
    assert isinstance(source.error, InputError)
