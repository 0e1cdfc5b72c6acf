# SPDX-License-Identifier: GPL-2.0-only
"""Machines in the state that ``/proc`` files show: what is shown comes out again, and the rest holds together."""

from __future__ import annotations

import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kmem.errors import InputError
from kmem.machine.folder import describe_folder
from kmem.machine.kpageflags import free_blocks
from kmem.machine.machine import Machine
from kmem.machine.placement import Holes
from kmem.machine.running import KnownSlab, RunningState, read_state, start_running
from kmem.mm.gfp import GFP_KERNEL
from kmem.report.proc import format_proc

STATES = Path(__file__).parents[1] / "data/running/states.tar.xz"


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states")
    with tarfile.open(STATES) as tar:
        tar.extractall(path, filter="data")
    return path


@pytest.fixture
def folder(states: Path, tmp_path: Path) -> Path:
    shutil.copytree(states / "amd64-before", tmp_path / "before")
    return tmp_path / "before"


def started(folder: Path, **known: object) -> tuple[Machine, RunningState]:
    machine = Machine.boot(describe_folder(folder)[0])
    return machine, start_running(machine, read_state(folder), **known)  # type: ignore[arg-type]


# Where blocks may lie


def overlaps(blocks: list[tuple[int, int]]) -> bool:
    frames = [frame for pfn, order in blocks for frame in range(pfn, pfn + (1 << order))]
    return len(frames) != len(set(frames))


def merging(blocks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(pfn, order) for pfn, order in blocks if order < 10 and (pfn ^ (1 << order), order) in blocks]


def test_two_blocks_of_one_order_do_not_merge() -> None:
    """Of four order-1 places, two are given away, each with a neighbour that is not::

    | order 3                       |
    | free  |  hole | free  |  hole |
    0       2       4       6       8
    """
    holes = Holes([(0, 3)], 9)
    assert [holes.place_free(1, 0) for _ in range(2)] == [0, 4]
    assert holes.place_free(1, 0) is None
    assert holes.pages == 4


def test_the_rest_of_a_split_block_is_used_again() -> None:
    holes = Holes([(0, 4)], 9)
    assert holes.place_free(3, 1) == 0
    assert holes.place_free(2, 1) == 8
    assert holes.place_free(1, 1) == 12
    assert holes.place_free(0, 1) == 14
    assert [holes.place_held(0), holes.place_held(0)] == [15, None]


@pytest.mark.parametrize("seed", range(20))
def test_no_two_blocks_overlap_or_merge(seed: int) -> None:
    rng = random.Random(seed)
    boot = [(start << 10, 10) for start in range(8)] + [(8 << 10, 9), ((8 << 10) + 512 + 256, 8)]
    holes = Holes(boot, 9, {0: 3, 1: 8, 2: 3})
    taken = []
    for _ in range(30):
        order = rng.randrange(4)
        pfn = rng.randrange(9 << 10) >> order << order
        if holes.take(pfn, order):
            taken.append((pfn, order))
    free = []
    for order in sorted((rng.randrange(11) for _ in range(60)), reverse=True):
        pfn = holes.place_free(order, rng.randrange(3))
        if pfn is not None:
            assert pfn % (1 << order) == 0
            free.append((pfn, order))
    held = [(pfn, 1) for _ in range(50) if (pfn := holes.place_held(1)) is not None]
    everything = taken + free + held
    assert free and held and not overlaps(everything) and not merging(free)
    inside = {frame for pfn, order in boot for frame in range(pfn, pfn + (1 << order))}
    assert all(pfn in inside for pfn, _ in everything)
    assert holes.pages == len(inside) - sum(1 << order for _, order in everything)


def test_what_is_not_there_cannot_be_taken() -> None:
    holes = Holes([(0, 3)], 9)
    assert holes.take(2, 1)
    assert not holes.take(2, 0)
    assert not holes.take(0, 2)
    assert not holes.take(1, 1)
    assert not holes.take(8, 0)


# Whole machines


@pytest.mark.parametrize("name", ["amd64-before", "amd64-after", "i386-before", "i386-after", "hashed-after"])
def test_what_the_files_show_is_what_the_machine_shows(name: str, states: Path) -> None:
    machine, _ = started(states / name)
    machine.validate()
    files = read_state(states / name)
    shown = {zone.name: zone for zone in machine.view().zones}
    for zone in files.view.zones:
        if not zone.populated:
            continue
        model = shown[zone.name]
        assert (model.nr_free, model.free) == (zone.nr_free, zone.free)
        assert (model.free_pages, model.managed) == (zone.free_pages, zone.managed)
        assert (model.min, model.low, model.high, model.protection) == (zone.min, zone.low, zone.high, zone.protection)
        assert [(each.count, each.high, each.batch) for each in model.pagesets] == [
            (each.count, each.high, each.batch) for each in zone.pagesets
        ]
    caches = {cache.name: cache for cache in machine.view().caches}
    assert len(files.caches) > 100
    for cache, row in files.caches.items():
        assert (caches[cache].num_slabs, caches[cache].active_objs) == (row.num_slabs, row.active_objs), cache


def test_page_blocks_have_the_types_that_are_shown(states: Path) -> None:
    machine, _ = started(states / "amd64-before")
    for real in read_state(states / "amd64-before").view.zones:
        if real.populated:
            model = next(zone for zone in machine.view().zones if zone.name == real.name)
            assert all(abs(a - b) <= 1 for a, b in zip(model.blocks, real.blocks, strict=True)), real.name


def test_the_machine_works(states: Path) -> None:
    machine, _ = started(states / "i386-before")
    before = machine.nr_free_pages() + int(machine.memmap.pagesets_array["count"].sum())
    pages = [machine.page_alloc.alloc_pages(GFP_KERNEL, order % 4) for order in range(400)]
    objects = [machine.slub.kmalloc(64, GFP_KERNEL) for _ in range(1000)]
    machine.validate()
    for order, pfn in enumerate(pages):
        machine.page_alloc.free_pages(pfn, order % 4)
    for address in objects:
        machine.slub.kfree(address)
    machine.validate()
    after = machine.nr_free_pages() + int(machine.memmap.pagesets_array["count"].sum())
    assert before - 100 < after <= before


def test_twice_the_same(states: Path) -> None:
    assert started(states / "amd64-before")[0].digest() == started(states / "amd64-before")[0].digest()


def test_known_things_lie_where_they_lay(states: Path) -> None:
    known = {"inode_cache": [KnownSlab(0x5E84, free=(3, 5), cpu=0), KnownSlab(0x5E90)]}
    machine, state = started(states / "amd64-before", blocks={0x6000: 2, 0x1: 0, 0x7001: 0}, slabs=known)
    machine.validate()
    assert state.blocks[0x6000] == 0x6000 and state.blocks[0x7001] == 0x7001
    assert state.blocks[0x1] != 0x1  # the firmware's: it lies elsewhere
    assert state.slabs == {("inode_cache", 0x5E84): 0x5E84, ("inode_cache", 0x5E90): 0x5E90}
    cache = machine.caches.find("inode_cache")
    assert cache is not None
    taken = [machine.slub.kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(2)]
    size = machine.caches.geometry(cache).size
    assert sorted(address or 0 for address in taken) == [0x5E84 * 4096 + number * size for number in (3, 5)]
    machine.slub.kfree(0x5E90 * 4096)
    for pfn, order in ((0x6000, 2), (0x7001, 0), (state.blocks[1], 0)):
        machine.page_alloc.free_pages(pfn, order)
    machine.validate()


# kpageflags


def kpageflags(machine: Machine, lru: range) -> bytes:
    """What ``/proc/kpageflags`` would show of free blocks, and of frames on reclaim's lists."""
    memmap = machine.memmap
    flags = np.zeros(memmap.nr_frames, "<u8")
    flags[lru.start : lru.stop] |= 1 << 5
    for zone in np.flatnonzero(memmap.zones_array["managed"]):
        for order in range(11):
            for mt in range(6):
                for pfn in memmap.free_list(int(zone), order, mt):
                    flags[pfn : pfn + (1 << order)] = 1 << 10
    return flags.tobytes()


def free_lists(machine: Machine) -> list[tuple[int, int]]:
    memmap = machine.memmap
    zones = np.flatnonzero(memmap.zones_array["managed"]).tolist()
    return sorted((p, o) for z in zones for o in range(11) for mt in range(6) for p in memmap.free_list(z, o, mt))


def scattered(states: Path) -> Machine:
    """A machine whose free blocks lie elsewhere than they would be laid out."""
    machine, _ = started(states / "amd64-before")
    rng = random.Random(1)
    held = [machine.page_alloc.alloc_pages(GFP_KERNEL, rng.randrange(8)) for _ in range(300)]
    orders = {pfn: int(machine.memmap.pages_array["order"][pfn]) for pfn in held}
    for pfn in rng.sample(held, 200):
        machine.page_alloc.free_pages(pfn, orders[pfn])
    return machine


def test_free_blocks_lie_where_kpageflags_shows_them(states: Path, folder: Path) -> None:
    real = scattered(states)
    for name in ("buddyinfo", "pagetypeinfo", "zoneinfo"):
        (folder / name).write_text(format_proc(name, real.view()))
    elsewhere, _ = started(folder)
    (folder / "kpageflags").write_bytes(kpageflags(real, range(0x1000, 0x1F000)))
    machine, state = started(folder)
    machine.validate()
    assert free_lists(machine) == free_lists(real) != free_lists(elsewhere)
    assert any("kpageflags" in text for text in state.assumed)
    view = {zone.name: zone.free for zone in real.view().zones}
    assert {zone.name: zone.free for zone in machine.view().zones} == view
    marked = np.flatnonzero(machine.memmap.pages_array["flags"][: machine.memmap.nr_frames] & 1)
    free = {frame for pfn, order in free_lists(real) for frame in range(pfn, pfn + (1 << order))}
    assert len(marked) > 100 and not free & set(marked.tolist())


def test_kpageflags_that_contradict_the_counts(states: Path, folder: Path) -> None:
    """The counts hold; what is shown free and is not counted is in use."""
    flags = np.full(1 << 17, 1 << 10, "<u8")
    (folder / "kpageflags").write_bytes(flags.tobytes())
    machine, _ = started(folder)
    machine.validate()
    assert machine.nr_free_pages() == 3808 + 100531
    (folder / "kpageflags").write_bytes(flags.tobytes()[:-3])
    with pytest.raises(InputError, match="within a word"):
        started(folder)
    (folder / "kpageflags").write_bytes(flags.tobytes()[: 8 * 5000])
    machine, _ = started(folder)
    machine.validate()


@pytest.mark.parametrize("seed", range(5))
def test_free_blocks_of_flags(seed: int) -> None:
    """A look at each frame finds the same blocks."""
    rng = np.random.default_rng(seed)
    free = np.repeat(rng.random(160) < 0.7, 64) & (rng.random(160 * 64) < 0.999)
    start, end = 300, 9000
    expected: dict[int, list[int]] = {order: [] for order in range(11)}
    inside = free.copy()
    inside[:start] = inside[end:] = False
    pfn = 0
    while pfn < len(free):
        order = next((o for o in range(10, -1, -1) if pfn % (1 << o) == 0 and inside[pfn : pfn + (1 << o)].all()), -1)
        if order >= 0 and pfn + (1 << order) <= len(free):
            expected[order].append(pfn)
        pfn += 1 << max(order, 0)
    assert free_blocks(np.where(free, 1 << 10, 0).astype("<u8"), start, end) == expected


# Files that are missing, and files that are damaged


def kept(folder: Path, *names: str) -> Path:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
    return folder


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("zoneinfo", "buddyinfo", "iomem"), "no pagetypeinfo"),
        (("zoneinfo", "iomem"), "no pagetypeinfo and no buddyinfo"),
        (("zoneinfo",), "no pagetypeinfo and no buddyinfo"),
        (("iomem", "buddyinfo"), "no zoneinfo"),
        (("meminfo", "pagetypeinfo"), "no zoneinfo"),
        (("zoneinfo", "pagetypeinfo"), "no slabinfo"),
    ],
)
def test_what_is_missing_is_completed_and_said(names: tuple[str, ...], said: str, folder: Path) -> None:
    machine, state = started(kept(folder, *names))
    machine.validate()
    assert any(said in text for text in state.assumed)
    free = machine.nr_free_pages()
    assert abs(free - (3808 + 100531)) <= (0 if "zoneinfo" in names else 4000)


def test_names_may_end_in_txt(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name + ".txt"))
    machine, state = started(folder)
    assert len(machine.view().caches) > 100 and not any("no " in text[:3] for text in state.assumed)


def test_sizes_from_sysfs(folder: Path) -> None:
    for name, text in (("object_size", "222\n"), ("min_partial", "7\n")):
        path = folder / "sys-kernel-slab/filp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    machine, _ = started(folder)
    filp = machine.caches.find("filp")
    assert filp is not None
    assert (machine.caches.geometry(filp).object_size, machine.caches.geometry(filp).min_partial) == (222, 7)


def broken() -> Iterator[tuple[str, str, str, str]]:
    yield "slabinfo", "11456  11456", "11456  1145", "objects in use"
    yield "slabinfo", "11456  11456", "11456 many", "line"
    yield "slabinfo", "slabdata    358    358", "slabdata 9999999 9999999", "pages of slabs"
    yield "buddyinfo", "zone", "zine", "buddyinfo"
    yield "pagetypeinfo", "Page block order: 9", "Page block: 9", "pagetypeinfo"
    yield "pagetypeinfo", "     95 ", "    950 ", "are free"
    yield "pagetypeinfo", "     95 ", " 99999999999999 ", "are free"
    yield "zoneinfo", "    cpu: 0\n", "    cpu: 0\n    cpu: 0\n", "a CPU twice"
    yield "zoneinfo", "high:  817", "high:  81700000000", "no number of pages"
    yield "zoneinfo", "count: 149", "count: 999999999", "are free"
    yield "buddyinfo", "DMA32", "Normal", "none of this machine"


def test_a_zone_that_is_shown_twice(folder: Path) -> None:
    kept(folder, "meminfo", "buddyinfo")
    text = (folder / "buddyinfo").read_text()
    (folder / "buddyinfo").write_text(text + text)
    with pytest.raises(InputError, match="twice"):
        started(folder)


@pytest.mark.parametrize(("name", "old", "new", "said"), list(broken()))
def test_damage_is_told(name: str, old: str, new: str, said: str, folder: Path) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    if name == "buddyinfo" and new == "Normal":
        kept(folder, "iomem", "buddyinfo")
    with pytest.raises(InputError, match=said):
        started(folder)


def test_a_folder_that_says_nothing(folder: Path) -> None:
    with pytest.raises(InputError, match="how much memory is free"):
        read_state(kept(folder, "meminfo", "slabinfo"))
    with pytest.raises(InputError, match="no such folder"):
        read_state(folder / "nowhere")
