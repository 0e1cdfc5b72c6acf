# SPDX-License-Identifier: GPL-2.0-only
"""Replay between copies of ``/proc`` taken before and after a trace."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from kmem.cli import main
from kmem.machine.slabinfo import SlabinfoRow
from kmem.mm.slab_config import SlabConfig
from kmem.replay.before import PriorState
from kmem.replay.fidelity import Fidelity
from kmem.replay.running import RunningMachine, measure_running, replay_running
from tests.replay.batches import (
    GFP_KERNEL,
    GFP_SLAB,
    PAGE_OFFSET,
    Bench,
    Row,
    batch,
    cache_alloc,
    cache_free,
    kfree,
    kmalloc,
    page_alloc,
    page_free,
    strings,
)

DATA = Path(__file__).parents[1] / "data"
TRACES = {
    "amd64": DATA / "boot.trace.txt.gz",
    "i386": DATA / "traces/i386.trace.txt.gz",
    "hashed": DATA / "traces/hashed.trace.txt.gz",
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states")
    with tarfile.open(DATA / "running/states.tar.xz") as tar:
        tar.extractall(path, filter="data")
    return path


def measured(name: str, states: Path) -> Fidelity:
    return measure_running(str(TRACES[name]), states / f"{name}-before", states / f"{name}-after")


def number(value: object, key: str) -> int:
    assert isinstance(value, dict)
    return int(value[key])


# Recordings


@pytest.mark.parametrize("name", list(TRACES))
def test_free_memory_and_large_caches(name: str, states: Path) -> None:
    """Free pages of each zone within 0.5 %, slabs of each cache above 1 MiB within 2 %."""
    result = measured(name, states)
    assert len(result.zones) == (3 if name == "i386" else 2)
    for zone in result.zones:
        assert abs(float(str(zone["difference_percent"]))) <= 0.5, zone
    large = [cache for cache in result.caches if number(cache, "bytes") >= MIB]
    assert len(large) >= 2
    for cache in large:
        assert abs(float(str(cache["difference_percent"]))) <= 2, cache
    assert result.frames == result.objects == 0
    assert any("not compared" in note for note in result.notes)


@pytest.mark.parametrize("name", list(TRACES))
def test_the_machine_holds_together_afterwards(name: str, states: Path) -> None:
    run = replay_running(str(TRACES[name]), states / f"{name}-before")
    run.machine.validate()
    assert isinstance(run.prior, RunningMachine)
    if name != "hashed":  # what is left was taken in bulk
        assert run.engine.nr_unknown_frees - run.prior.known.hidden_objects.total() <= 5


def test_what_was_there_before_is_freed(states: Path) -> None:
    """Without the state, frees of what the trace did not allocate go nowhere."""
    from kmem.replay.replay import replay

    plain = replay(str(TRACES["amd64"]))
    running = replay_running(str(TRACES["amd64"]), states / "amd64-before")
    assert isinstance(running.prior, RunningMachine)
    bulk = running.prior.known.hidden_objects.total()
    assert plain.engine.nr_unknown_frees - bulk > 30 > 5 * (running.engine.nr_unknown_frees - bulk)
    assert plain.engine.nr_unknown_page_frees > running.engine.nr_unknown_page_frees


def test_the_same_answer_twice(states: Path) -> None:
    assert measured("amd64", states) == measured("amd64", states)


def test_the_end_is_compared_with_the_files(states: Path, tmp_path: Path) -> None:
    """Other numbers in the files taken afterwards make another difference."""
    shutil.copytree(states / "amd64-after", tmp_path / "after")
    (tmp_path / "after/zoneinfo").unlink()
    text = (tmp_path / "after/buddyinfo").read_text()
    (tmp_path / "after/buddyinfo").write_text(text.replace("     95", "     85", 1))
    result = measure_running(str(TRACES["amd64"]), states / "amd64-before", tmp_path / "after")
    zone = next(zone for zone in result.zones if zone["zone"] == "DMA32")
    assert 10 < float(str(zone["difference_percent"])) < 13
    assert zone["pcp_pages"]["real"] is None  # type: ignore[index]


def test_files_of_another_run_are_told(states: Path) -> None:
    """A binary recording, and files that were not taken with it: slabs that it saw were not there."""
    trace = str(DATA / "traces/amd64.perf.data.zst")
    result = measure_running(trace, states / "amd64-before", states / "amd64-after")
    assert any("in more slabs than slabinfo counts" in note for note in result.notes)


# The command line


def test_json_and_report(states: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--machine", str(states / "i386-before"), "--expect", str(states / "i386-after"), str(TRACES["i386"])]
    assert main(["replay", "--json", *options]) == 0
    fidelity = json.loads(capsys.readouterr().out)["fidelity"]
    assert [zone["zone"] for zone in fidelity["zones"]] == ["DMA", "Normal", "HighMem"]
    assert {"cache", "slabs", "objects", "difference_percent", "bytes"} == set(fidelity["caches"][0])
    assert set(fidelity["slab_pages"]) == {"modelled", "real"}
    assert fidelity["frames"] == fidelity["objects"] == 0
    assert main(["replay", *options]) == 0
    out = capsys.readouterr().out
    assert "zone HighMem" in out and "modelled" in out and "assumed: " in out and "inode_cache" in out


def test_running_from_the_state_of_a_folder(states: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report, the files and the page of a replay that began with as much free memory as there was."""
    options = ["--machine", str(states / "amd64-before"), str(TRACES["amd64"])]
    assert main(["replay", "--json", *options]) == 0
    booted = json.loads(capsys.readouterr().out)
    assert main(["replay", "--running", "--json", *options]) == 0
    running = json.loads(capsys.readouterr().out)
    assert running["memory"]["free_at_start"] == 3808 + 100531 + 149 < booted["memory"]["free_at_start"]
    assert running["unknown_frees"] < booted["unknown_frees"]
    assert any("/proc counts them" in text for text in running["machine"]["assumed"])
    inode_cache = next(cache for cache in running["caches"] if cache["name"] == "inode_cache")
    assert inode_cache["slabs"] == 922 and 0.98 < inode_cache["utilisation"] <= 1
    kernfs = next(cache for cache in running["caches"] if cache["name"] == "kernfs_node_cache")
    assert kernfs["live"] == kernfs["slab_objects"] == 11456 and kernfs["allocs"] == 0
    assert main(["replay", "--running", "--proc", "slabinfo", *options]) == 0
    assert re.search(r"^kernfs_node_cache +11456 +11456 ", capsys.readouterr().out, re.M)
    assert main(["replay", "--running", "--html", str(tmp_path / "page.html"), *options]) == 0
    assert "in use since before the trace" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("missing", ["zoneinfo", "buddyinfo", "pagetypeinfo", "slabinfo", "iomem", "meminfo"])
def test_any_file_may_be_missing(
    missing: str, states: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("before", "after"):
        shutil.copytree(states / f"amd64-{name}", tmp_path / name)
        (tmp_path / name / missing).unlink()
    options = ["--machine", str(tmp_path / "before"), "--expect", str(tmp_path / "after"), str(TRACES["amd64"])]
    assert main(["replay", *options]) == 0
    out = capsys.readouterr().out
    if missing in ("zoneinfo", "pagetypeinfo", "slabinfo"):
        assert f"no {missing}" in out


def test_bad_input(states: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = str(TRACES["amd64"])
    before, after = str(states / "amd64-before"), str(states / "amd64-after")
    dump = str(DATA / "exact/amd64/before.dump.jsonl.gz")
    damaged = tmp_path / "damaged"
    shutil.copytree(states / "amd64-after", damaged)
    (damaged / "slabinfo").write_text("slabinfo - version: 2.1\nfilp 1 2\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    for args, said in (
        (["--expect", after, trace], "--machine"),
        (["--machine", "x86_64", "--expect", after, trace], "--machine"),
        (["--machine", before, "--expect", dump, trace], "folder"),
        (["--machine", dump, "--expect", after, trace], "folder"),
        (["--machine", before, "--expect", str(damaged), trace], "slabinfo:2"),
        (["--machine", str(damaged), "--expect", after, trace], "slabinfo:2"),
        (["--machine", before, "--expect", str(empty), trace], "how much memory is free"),
        (["--machine", str(empty), "--expect", after, trace], "how much memory is free"),
        (["--machine", before, "--expect", after, "--set", "vm.min_free_kbytes=4096", trace], "--set"),
        (["--machine", before, "--expect", after, "--html", str(tmp_path / "x.html"), trace], "--html"),
        (["--machine", before, "--expect", after, str(tmp_path / "no.trace")], "no.trace"),
        (["--machine", before, "--expect", after, "--proc", "buddyinfo", trace], "--proc"),
        (["--running", trace], "--machine"),
        (["--running", "--machine", "i386", trace], "--machine"),
        (["--running", "--machine", before, "--set", "vm.min_free_kbytes=4096", trace], "--set"),
        (["--running", "--machine", str(empty), trace], "how much memory is free"),
    ):
        assert main(["replay", *args]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1 and said in shown.err


# What a trace tells of the time before it

ROWS = {
    "kmalloc-64": SlabinfoRow("kmalloc-64", 640, 640, 64, 64, 1, 10, 10),
    "dentry": SlabinfoRow("dentry", 210, 210, 192, 21, 1, 10, 10),
    "inode_cache": SlabinfoRow("inode_cache", 120, 120, 584, 14, 2, 10, 10),
}


def at(pfn: int, offset: int = 0) -> int:
    return PAGE_OFFSET + (pfn << 12) + offset


def told(*rows: Row) -> PriorState:
    texts = strings()
    codes = {"dentry": texts.caches.code("dentry"), "inode_cache": texts.caches.code("inode_cache")}  # type: ignore[attr-defined]
    sites = {name: texts.call_sites.code(name) for name in ("__vmalloc_node_range+0x1", "__vunmap+0x2", "d_alloc")}  # type: ignore[attr-defined]
    for row in rows:
        row["cache"] = codes.get(row.get("cache", ""), 0)
        row["call_site"] = sites.get(row.get("call_site", ""), 0)
    known = PriorState(PAGE_OFFSET, SlabConfig())
    known.add(batch(list(rows), texts))
    known.resolve(ROWS)
    return known


def test_pages_freed_first_were_in_use() -> None:
    known = told(page_free(100, 1), page_alloc(200), page_free(200), page_alloc(100), page_free(100))
    assert known.blocks == {100: 1}
    assert known.hidden_frees == 0


def test_a_second_free_is_of_a_page_taken_without_an_event() -> None:
    known = told(page_alloc(100), page_free(100), page_free(100))
    assert known.blocks == {} and known.hidden_frees == 1


def test_slabs_that_were_there_and_what_was_free_in_them() -> None:
    known = told(
        cache_free(at(50), cache="dentry"),
        cache_alloc(at(50, 192), cpu=1),
        cache_free(at(50, 192), cache="dentry"),
        page_alloc(60, gfp=GFP_SLAB),
        cache_alloc(at(60)),
        cache_free(at(60), cache="dentry"),
        page_free(50),
        page_free(60),
    )
    (slab,) = known.slabs(ROWS)["dentry"]
    assert (slab.pfn, slab.free, slab.cpu) == (50, (1,), 1)
    assert known.objects(ROWS) == {at(50): "dentry"}
    assert known.slab_frees == {50} and known.blocks == {}


def test_slabs_of_several_pages() -> None:
    known = told(cache_free(at(50), cache="inode_cache"), cache_free(at(51, 584 * 8 - 4096), cache="inode_cache"))
    (slab,) = known.slabs(ROWS)["inode_cache"]
    assert slab.pfn == 50
    assert len(known.objects(ROWS)) == 2


def test_kmalloc_tells_the_cache_of_what_is_freed_beside_it() -> None:
    known = told(kfree(at(70)), kmalloc(at(70, 64)), kfree(at(80)))
    assert known.objects(ROWS) == {at(70): "kmalloc-64"}  # of the other nothing is known


def test_a_large_kmalloc_is_no_slab() -> None:
    known = told(kfree(at(64)), page_free(64, 3))
    assert known.blocks == {64: 3} and not known.slab_frees


def test_call_sites_are_named_by_their_neighbours() -> None:
    known = told(
        page_alloc(60, gfp=GFP_SLAB),
        cache_alloc(at(60), call_site="d_alloc"),
        cache_alloc(at(60, 192)),
        cache_free(at(60, 192), cache="dentry"),
    )
    assert known.resolve(ROWS)["d_alloc", 192, 192] == "dentry"


def test_bulk_pages_are_those_that_vunmap_frees() -> None:
    known = told(
        page_alloc(300),
        page_free(300),
        kmalloc(at(70), 32, call_site="__vmalloc_node_range+0x1", gfp=GFP_KERNEL),
        page_free(900),
        *(page_free(pfn) for pfn in (400, 401, 300, 402)),
        kfree(at(70), call_site="__vunmap+0x2"),
    )
    (request,) = known.bulk
    assert (request.after, request.count) == (2, 4)
    assert sorted(request.frames) == [300, 400, 401, 402]
    assert known.blocks == {900: 0} and known.hidden_frees == 0


def moved(*rows: Row) -> PriorState:
    texts = strings()
    mover = texts.comms.code("kcompactd0")  # type: ignore[attr-defined]
    known = PriorState(PAGE_OFFSET, SlabConfig())
    known.add(batch([row | ({"comm": mover} if row.get("pid") == 28 else {}) for row in rows], texts))
    return known


def test_pages_that_compaction_moved() -> None:
    """Two pages move, the first is freed where it came to be; one that was only taken for that is given back."""
    known = moved(
        page_alloc(100),
        page_alloc(700),
        page_free(700),
        page_free(100, pid=28),
        page_free(200, pid=28),
        page_free(700, pid=28),
        page_free(700),
    )
    first, second = known.moves
    assert (first.at, first.source, first.freed, first.target) == (3, 100, 6, 700)
    assert (second.at, second.source, second.freed, second.target) == (4, 200, -1, -1)
    assert known.blocks == {200: 0}  # in use before the trace


def test_a_page_of_vmalloc_is_no_moved_one() -> None:
    texts = strings()
    site = texts.call_sites.code("__vmalloc_node_range+0x1")  # type: ignore[attr-defined]
    freeing = texts.call_sites.code("__vunmap+0x2")  # type: ignore[attr-defined]
    mover = texts.comms.code("kcompactd0")  # type: ignore[attr-defined]
    known = PriorState(PAGE_OFFSET, SlabConfig())
    rows = [
        page_alloc(300),
        page_free(300),
        page_alloc(100),
        page_free(100, comm=mover),
        kmalloc(at(70), 8, call_site=site),
        page_free(300),
        kfree(at(70), call_site=freeing),
    ]
    known.add(batch(rows, texts))
    (request,) = known.bulk
    (move,) = known.moves
    assert request.frames == [300] and move.target == -1


def test_a_moved_page_stays_in_use_until_it_is_freed() -> None:
    bench = Bench()
    free = bench.free_pages()
    engine = bench.feed(page_alloc(100), page_alloc(101), finish=False)
    assert engine.rename_block(100, 1 << 44)
    assert not engine.rename_block(100, 5)
    bench.feed(page_free(100))
    assert bench.free_pages() == free - 2 and engine.nr_unknown_page_frees == 1
    assert engine.rename_block(1 << 44, 700)
    bench.feed(page_free(700), page_free(101))
    assert bench.free_pages() == free and engine.nr_unknown_page_frees == 1


def test_functions_are_called_after_their_cache() -> None:
    texts = strings()
    site = texts.call_sites.code("alloc_vmap_area+0x9d")  # type: ignore[attr-defined]
    known = PriorState(PAGE_OFFSET, SlabConfig())
    known.add(batch([page_alloc(60, gfp=GFP_SLAB), cache_alloc(at(60), 64, call_site=site)], texts))
    rows = ROWS | {"vmap_area": SlabinfoRow("vmap_area", 64, 64, 64, 64, 1, 1, 1)}
    assert known.resolve(rows) == {("alloc_vmap_area+0x9d", 64, 64): "vmap_area"}


def test_hashed_pointers() -> None:
    known = PriorState(0, SlabConfig())
    texts = strings()
    dentry = texts.caches.code("dentry")  # type: ignore[attr-defined]
    known.add(
        batch([cache_free(0x1234, cache=dentry), cache_free(0x1234), kfree(0x99), kmalloc(0x99), kmalloc(0x77)], texts)
    )
    known.resolve(ROWS)
    assert known.objects(ROWS) == {0x1234: "dentry", 0x99: "kmalloc-64"}
    assert known.slabs(ROWS) == {}
