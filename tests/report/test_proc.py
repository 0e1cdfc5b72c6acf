# SPDX-License-Identifier: GPL-2.0-only
"""Files of /proc: read into views and printed again to the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kmem.errors import InputError, UsageError
from kmem.machine.proc import (
    parse_buddyinfo,
    parse_iomem,
    parse_meminfo,
    parse_pagetypeinfo,
    parse_slabinfo,
    parse_zoneinfo,
    read_proc_folder,
)
from kmem.machine.views import MachineView, NodeView, ZoneView
from kmem.report.proc import PROC_FILES, format_buddyinfo, format_pagetypeinfo, format_proc, format_slabinfo

PROC = Path(__file__).parent.parent / "data/proc"
FOLDERS = sorted(folder.name for folder in PROC.iterdir())


def proc_file(folder: str, name: str) -> Path:
    path = PROC / folder / name
    return path if path.exists() else path.with_name(name + ".txt")


CASES = [(folder, name) for folder in FOLDERS for name in PROC_FILES if proc_file(folder, name).exists()]


def test_there_are_samples_of_each_kind() -> None:
    assert len(CASES) >= 10
    assert {name for _, name in CASES} == set(PROC_FILES)


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_the_same_bytes(folder: str, name: str) -> None:
    view = read_proc_folder(PROC / folder)
    assert format_proc(name, view).encode() == proc_file(folder, name).read_bytes()


def test_what_a_folder_says() -> None:
    view = read_proc_folder(PROC / "amd64-512M")
    assert [zone.name for zone in view.zones] == ["DMA", "DMA32", "Normal", "Movable", "Device"]
    dma32 = view.zones[1]
    assert (dma32.start_pfn, dma32.spanned, dma32.managed) == (4096, 126941, 113261)
    assert (dma32.min, dma32.low, dma32.high) == (654, 817, 980)
    assert dma32.protection == (0, 0, 0, 0, 0)
    assert dma32.pagesets[0].batch == 31
    assert sum(count << order for order, count in enumerate(dma32.nr_free)) <= dma32.free_pages
    assert tuple(map(sum, zip(*dma32.free, strict=True))) == dma32.nr_free
    assert view.pageblock_order == 9
    assert view.migrate_types == ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")
    assert view.nodes[0].stats["nr_slab_reclaimable"] == 2429
    assert view.caches[0].name == "ext4_groupinfo_4k"
    assert view.caches[0].size_bytes == 184
    assert any(entry.name == "System RAM" for entry in view.iomem)
    assert view.meminfo_kb["MemTotal"] == (113261 + 3840) * 4


def test_two_nodes() -> None:
    view = read_proc_folder(PROC / "amd64-1024M-numa2")
    assert [node.node for node in view.nodes] == [0, 1]
    assert len({(zone.node, zone.name) for zone in view.zones}) == len(view.zones) == 10


def test_counts_that_the_kernel_cuts_off() -> None:
    text = proc_file("amd64-512M", "pagetypeinfo").read_text()
    old = "type    Unmovable      0      0      0      0      0      1"
    assert old in text
    text = text.replace(old, old.replace("      0", " >100000", 1))
    view = parse_pagetypeinfo(text)
    assert view.zones[0].free[0][0] == 100_000
    full = replace(view.zones[0], nr_free=(0,) * 11, free=((2_000_000,) + (0,) * 10,) * 5)
    printed = format_pagetypeinfo(replace(view, nodes=(NodeView(0, (full,)),)))
    assert "type    Unmovable >100000      0 " in printed
    assert "type      Isolate >100000      0 " in printed


def test_names_wider_than_their_column() -> None:
    cache = replace(
        parse_slabinfo(proc_file("amd64-512M", "slabinfo").read_text())[0], name="x" * 30, num_objs=12345678
    )
    assert format_slabinfo([cache]).splitlines()[2].startswith("x" * 30 + "     22 12345678    184")
    assert format_buddyinfo([NodeView(0, (ZoneView(0, "Normal", nr_free=(1234567, 0), present=1),))]) == (
        "Node 0, zone   Normal 1234567      0 \n"
    )


def test_an_empty_zone_is_in_zoneinfo_only() -> None:
    view = read_proc_folder(PROC / "amd64-512M")
    assert "Movable" in format_proc("zoneinfo", view)
    assert "Movable" not in format_proc("buddyinfo", view)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_buddyinfo, "", "no zone"),
        (parse_buddyinfo, "Node 0, zone DMA 1 2 x\n", "line 1: expected numbers"),
        (parse_buddyinfo, "Node 0, zone DMA\n", "0 orders"),
        (parse_buddyinfo, "\x00\x01", "line 1: not a line"),
        (parse_pagetypeinfo, "Page block order: 9\n", "cut off"),
        (parse_pagetypeinfo, "hello", "line 1"),
        (parse_zoneinfo, "Node 0, zone DMA\n  pages free 1\n?\n", "line 3: not a line of zoneinfo"),
        (parse_zoneinfo, "  pages free 1\n", "line 1"),
        (parse_zoneinfo, "Node 0, zone DMA\n  pages free " + "9" * 40, "line 2"),
        (parse_slabinfo, "slabinfo - version: 1.1\n", "line 1: not a slabinfo"),
        (parse_slabinfo, "slabinfo - version: 2.1\nfoo 1 2 3\n", "line 2: not a line of slabinfo"),
        (parse_iomem, "00000000-00000000 : System RAM\n", "as root"),
        (parse_iomem, "2000-1000 : System RAM\n", "ends before"),
        (parse_iomem, "System RAM\n", "line 1"),
        (parse_meminfo, "MemTotal: lots\n", "line 1"),
    ],
)
def test_bad_input(parse, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_proc_folder(tmp_path / "none")
    with pytest.raises(InputError, match="no zoneinfo"):
        read_proc_folder(tmp_path)
    (tmp_path / "zoneinfo").write_bytes(proc_file("amd64-512M", "zoneinfo").read_bytes())
    assert read_proc_folder(tmp_path).zones[1].nr_free == ()
    (tmp_path / "slabinfo").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="slabinfo byte 0: not a text file"):
        read_proc_folder(tmp_path)
    (tmp_path / "slabinfo").write_text("slabinfo - version: 2.1\nx\n")
    with pytest.raises(InputError, match="slabinfo:2: not a line"):
        read_proc_folder(tmp_path)


def test_unknown_file() -> None:
    with pytest.raises(UsageError, match="is not one of buddyinfo"):
        format_proc("kallsyms", MachineView())
    with pytest.raises(UsageError, match="order of page blocks"):
        format_proc("pagetypeinfo", MachineView())
