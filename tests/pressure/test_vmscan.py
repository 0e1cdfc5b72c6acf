# SPDX-License-Identifier: GPL-2.0-only
"""Reclaim's arithmetic, its lists, and what it does to pages of files and processes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import StateError
from kmem.mm.folio import PG_ACTIVE, PG_DIRTY, PG_LRU, PG_REFERENCED, PG_SWAPBACKED, PG_UNEVICTABLE
from kmem.mm.gfp import __GFP_NORETRY, __GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL
from kmem.mm.lru import LRU_ACTIVE_FILE, LRU_INACTIVE_ANON, LRU_INACTIVE_FILE, LRU_UNEVICTABLE
from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from kmem.mm.reclaim import Reclaim
from kmem.mm.vmscan import ScanControl, inactive_is_low, scan_targets
from tests.mm.machines import one_zone
from tests.pressure.machines import bare_kernel

RW, PRIVATE = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
NORETRY_NOWARN = __GFP_NORETRY | __GFP_NOWARN
MIB = 1 << 20


def control(priority: int = 12, **fields: Any) -> ScanControl:
    sc = ScanControl(32, GFP_KERNEL, 0, 4, priority)
    for name, value in fields.items():
        setattr(sc, name, value)
    return sc


# get_scan_count()


@pytest.mark.parametrize(
    ("fields", "swappiness", "swap", "expected"),
    [
        # no swap: anonymous pages are left alone, whatever else
        ({"priority": 2}, 60, False, [0, 0, 256, 128]),
        ({"priority": 2, "may_swap": False}, 60, True, [0, 0, 256, 128]),
        # desperate: everything, unless swappiness is 0
        ({"priority": 0}, 60, True, [4096, 2048, 1024, 512]),
        ({"priority": 0}, 0, True, [0, 0, 1024, 512]),
        ({"priority": 2, "file_is_tiny": True}, 60, True, [1024, 512, 0, 0]),
        ({"priority": 2, "cache_trim_mode": True}, 60, True, [0, 0, 256, 128]),
        # equal costs: 60 of 200 for anonymous pages, 140 for files
        ({"priority": 2}, 60, True, [307, 153, 179, 89]),
        ({"priority": 2}, 100, True, [512, 256, 128, 64]),
        ({"priority": 2}, 200, True, [1024, 512, 0, 0]),
        # anonymous pages came back lately: half as attractive
        ({"priority": 2, "anon_cost": 100}, 100, True, [341, 170, 170, 85]),
    ],
)
def test_scan_targets(fields: dict[str, Any], swappiness: int, swap: bool, expected: list[int]) -> None:
    sizes = (4096, 2048, 1024, 512)
    assert scan_targets(sizes, control(**fields), swappiness=swappiness, can_reclaim_anon=swap) == expected


@pytest.mark.parametrize(
    ("inactive", "active", "low"),
    [
        (0, 0, False),
        (10, 10, False),
        (10, 11, True),  # below 1 GiB: as many inactive as active ones
        (1 << 18, 3 << 18, False),  # 4 GiB: a sixth will do
        ((1 << 18) // 6 - 1, 1 << 20, True),
    ],
)
def test_inactive_is_low(inactive: int, active: int, low: bool) -> None:
    assert inactive_is_low(inactive, active) is low


# Lists against a naive model


class Naive:
    """Four lists of numbers, head first, and batches of 15."""

    def __init__(self) -> None:
        self.lists: dict[int, list[int]] = {lru: [] for lru in range(5)}
        self.batch: list[tuple[int, int]] = []
        self.activate: list[int] = []
        self.referenced: set[int] = set()

    def place(self, page: int) -> int | None:
        return next((lru for lru, pages in self.lists.items() if page in pages), None)

    def add(self, page: int, lru: int) -> None:
        self.batch.append((page, lru))
        if len(self.batch) == 15:
            self.drain_adds()

    def drain_adds(self) -> None:
        for page, lru in self.batch:
            self.lists[lru].insert(0, page)
        self.batch = []

    def drain_activations(self) -> None:
        for page in self.activate:
            lru = self.place(page)
            if lru in (0, 2):
                self.lists[lru].remove(page)
                self.lists[lru + 1].insert(0, page)
        self.activate = []

    def drain(self) -> None:
        self.drain_adds()
        self.drain_activations()

    def accessed(self, page: int) -> None:
        if page not in self.referenced:
            self.referenced.add(page)
            return
        lru = self.place(page)
        waiting = [i for i, (each, _) in enumerate(self.batch) if each == page]
        if lru in (0, 2):
            self.activate.append(page)
            self.referenced.discard(page)
            if len(self.activate) == 15:
                self.drain_activations()
        elif lru is None and waiting and self.batch[waiting[0]][1] in (0, 2):
            self.batch[waiting[0]] = (page, self.batch[waiting[0]][1] + 1)
            self.referenced.discard(page)

    def free(self, page: int) -> None:
        # the batches hold references: such a page is freed when they are drained
        self.drain()
        lru = self.place(page)
        if lru is not None:
            self.lists[lru].remove(page)
        self.referenced.discard(page)


@pytest.mark.parametrize("seed", range(4))
def test_lists_against_the_naive_model(seed: int) -> None:
    rng = random.Random(seed)
    allocator = one_zone(2048)
    reclaim: Reclaim = bare_kernel(allocator).reclaim
    lru, naive = reclaim.lru, Naive()
    pages: list[int] = []
    for step in range(3000):
        what = rng.random()
        if what < 0.4 and len(pages) < 1500:
            folio = reclaim.folios.alloc(0x100CCA)
            assert folio is not None
            kind = rng.choice((0, PG_SWAPBACKED, PG_UNEVICTABLE, PG_SWAPBACKED | PG_ACTIVE))
            folio.flags |= kind
            lists = {0: 2, PG_SWAPBACKED: 0, PG_UNEVICTABLE: 4, PG_SWAPBACKED | PG_ACTIVE: 1}
            lru.folio_add_lru(folio)
            naive.add(folio.pfn, lists[kind])
            pages.append(folio.pfn)
        elif what < 0.8 and pages:
            page = rng.choice(pages)
            lru.mark_page_accessed(reclaim.folios.get(page))
            naive.accessed(page)
        elif what < 0.95 and pages:
            page = pages.pop(rng.randrange(len(pages)))
            lru.lru_add_drain()
            reclaim.folios.put(reclaim.folios.get(page))
            naive.free(page)
        else:
            lru.lru_add_drain()
            naive.drain()
        if step % 250 == 0:
            lru.validate()
    lru.lru_add_drain()
    naive.drain()
    lru.validate()
    for which, theirs in naive.lists.items():
        assert [folio.pfn for folio in lru.folios_of(which)] == theirs[::-1]
    for page in pages:
        folio = reclaim.folios.get(page)
        assert bool(folio.flags & PG_REFERENCED) == (page in naive.referenced)
        assert bool(reclaim.memmap.pages_array["flags"][page] & 1) == bool(folio.flags & PG_LRU)


def test_validate_finds_what_does_not_fit() -> None:
    reclaim: Reclaim = bare_kernel(one_zone(1024)).reclaim
    reclaim.filemap.write("f", 8 * 4096)
    reclaim.lru.lru_add_drain()
    reclaim.validate()
    reclaim.stat.node[0]["nr_inactive_file"] += 1
    with pytest.raises(StateError, match="miscounts nr_inactive_file"):
        reclaim.validate()
    reclaim.stat.node[0]["nr_inactive_file"] -= 1
    folio = next(reclaim.lru.folios_of(LRU_INACTIVE_FILE))
    folio.flags |= PG_ACTIVE
    with pytest.raises(StateError, match="is on list 2"):
        reclaim.validate()


def test_a_page_on_a_list_cannot_be_added_again() -> None:
    reclaim: Reclaim = bare_kernel(one_zone(1024)).reclaim
    reclaim.filemap.write("f", 4096)
    reclaim.lru.lru_add_drain()
    with pytest.raises(StateError, match="already"):
        reclaim.lru.folio_add_lru(reclaim.filemap.files["f"].pages[0])


# Pages of files


def small_machine(**options: Any) -> Machine:
    return Machine.boot("x86_64", ram="128M", cmdline="transparent_hugepage=never", **options)


def test_what_is_read_twice_stays_and_what_is_read_once_goes() -> None:
    with small_machine() as m:
        reclaim = m.kernel.reclaim
        reclaim.filemap.open("often", 4 * MIB)
        reclaim.filemap.open("once", 200 * MIB)
        for _ in range(3):
            reclaim.filemap.read("often")
        reclaim.filemap.read("once")
        reclaim.validate()
        m.validate()
        assert len(reclaim.filemap.files["often"].pages) >= 1000  # of 1024
        assert len(reclaim.filemap.files["once"].pages) < 20000  # of 51200
        assert reclaim.stat.events["pgsteal_file"] > 30000
        assert reclaim.stat.node[0]["nr_active_file"] >= 1000


def test_what_comes_back_soon_becomes_active() -> None:
    with small_machine() as m:
        reclaim = m.kernel.reclaim
        reclaim.filemap.open("f", 120 * MIB)
        reclaim.filemap.read("f")
        reclaim.filemap.read("f", 0, 8 * MIB)
        node = reclaim.stat.node[0]
        assert node["workingset_refault_file"] >= 2000
        assert node["workingset_activate_file"] == 0  # gone for longer than the active list is long
        reclaim.validate()


def test_written_bytes_survive_reclaim() -> None:
    with small_machine() as m:
        reclaim = m.kernel.reclaim
        data = random.Random(1).randbytes(MIB)
        assert reclaim.filemap.write("precious", data) == MIB
        assert reclaim.stat.node[0]["nr_dirty"] == 256
        reclaim.filemap.open("once", 200 * MIB)
        reclaim.filemap.read("once")
        reclaim.filemap.sync()
        reclaim.filemap.read("once")
        assert len(reclaim.filemap.files["precious"].pages) == 0
        assert reclaim.filemap.read("precious") == data
        assert reclaim.stat.node[0]["nr_dirty"] == reclaim.stat.node[0]["nr_writeback"] == 0
        reclaim.validate()


def test_a_writer_waits_when_too_much_is_dirty() -> None:
    with small_machine() as m:
        reclaim = m.kernel.reclaim
        before = m.kernel.clock.time_ns
        reclaim.filemap.write("log", 60 * MIB)
        assert m.kernel.clock.time_ns > before
        assert reclaim.stat.node[0]["nr_dirty"] + reclaim.stat.node[0]["nr_writeback"] < 0.2 * 20000
        reclaim.filemap.sync()
        assert reclaim.stat.node[0]["nr_written"] == 60 * 256
        reclaim.filemap.delete("log")
        reclaim.validate()
        m.validate()


def test_drop_caches() -> None:
    with small_machine() as m:
        filemap = m.kernel.reclaim.filemap
        filemap.open("clean", 4 * MIB)
        filemap.read("clean")
        filemap.write("dirty", MIB)
        free = m.nr_free_pages()
        assert filemap.drop_pagecache() == 1024
        assert len(filemap.files["dirty"].pages) == 256
        m.page_alloc.drain_all_pages()
        assert m.nr_free_pages() >= free + 1024 - 32  # per-CPU counts are not folded in yet
        m.kernel.reclaim.validate()


# Requests under pressure


def fill(m: Machine) -> None:
    """Leave nothing free that a sleeping request could take, and nothing that could be reclaimed."""
    while m.page_alloc.alloc_pages(GFP_KERNEL | NORETRY_NOWARN, 0) >= 0:
        pass


def test_atomic_requests_dip_into_the_reserves_and_then_fail_at_once() -> None:
    with small_machine() as m:
        fill(m)
        assert m.page_alloc.alloc_pages(GFP_KERNEL | NORETRY_NOWARN, 0) < 0
        taken = 0
        before = m.kernel.clock.time_ns
        while m.page_alloc.alloc_pages(GFP_ATOMIC, 0) >= 0:
            taken += 1
        assert taken > 50
        assert m.kernel.clock.time_ns == before
        log = m.log.text()
        assert log.count("page allocation failure") == 1
        assert "init: page allocation failure: order:0, mode:0xa20(GFP_ATOMIC), nodemask=(null),cpuset=/" in log
        assert "test_vmscan.py" in log  # the Python caller
        m.validate()


def test_reports_come_once_in_ten_seconds() -> None:
    with small_machine() as m:
        fill(m)
        while m.page_alloc.alloc_pages(GFP_ATOMIC, 0) >= 0:
            pass
        m.page_alloc.alloc_pages(GFP_ATOMIC, 0)
        assert m.log.text().count("page allocation failure") == 1
        m.kernel.clock.advance(11_000_000_000)
        m.page_alloc.alloc_pages(GFP_ATOMIC, 0)
        assert m.log.text().count("page allocation failure") == 2
        m.page_alloc.alloc_pages(GFP_ATOMIC | __GFP_NOWARN, 0)
        assert m.log.text().count("page allocation failure") == 2


def test_direct_reclaim_makes_room_for_large_blocks() -> None:
    with small_machine() as m:
        filemap = m.kernel.reclaim.filemap
        filemap.open("f", 120 * MIB)
        filemap.read("f")
        got = [m.page_alloc.alloc_pages(GFP_KERNEL, 3) for _ in range(600)]
        assert min(got) >= 0
        m.kernel.reclaim.validate()
        m.validate()
        assert m.kernel.reclaim.stat.events["pgsteal_direct"] + m.kernel.reclaim.stat.events["pgsteal_kswapd"] > 4000


def test_the_same_seed_the_same_log_and_state() -> None:
    def once() -> tuple[str, str]:
        with small_machine(seed=7) as m:
            filemap = m.kernel.reclaim.filemap
            filemap.open("f", 100 * MIB)
            filemap.read("f")
            filemap.write("g", 10 * MIB)
            while m.page_alloc.alloc_pages(GFP_ATOMIC, 2) >= 0:
                pass
            return m.log.text(), m.digest()

    assert once() == once()


# Swap


def test_anonymous_pages_go_to_swap_and_come_back_unharmed() -> None:
    with small_machine() as m:
        reclaim = m.kernel.reclaim
        assert reclaim.swap.swapon(64 * MIB) == 16383
        p = m.process("big")
        area = p.mmap(0, 90 * MIB, RW, PRIVATE)
        for page in range(90 * 256):
            p.write(area + page * 4096, page.to_bytes(4, "little"))
        assert reclaim.stat.events["pswpout"] > 2000
        assert p.mm.rss_stat[2] > 2000  # swap entries
        child = p.fork()
        child.write(area, b"mine")
        for page in random.Random(0).sample(range(1, 90 * 256), 2000):
            assert p.read(area + page * 4096, 4) == page.to_bytes(4, "little")
        assert child.read(area, 4) == b"mine" and p.read(area, 4) == bytes(4)
        reclaim.validate()
        m.validate()
        child.exit()
        p.exit()
        reclaim.validate()
        assert reclaim.stat.swap_free_pages == 16383


def test_dirty_and_unevictable_pages_are_not_freed() -> None:
    reclaim: Reclaim = bare_kernel(one_zone(1024)).reclaim
    reclaim.filemap.write("f", 64 * 4096)
    reclaim.lru.lru_add_drain()
    sc = control(0, may_writepage=False)
    kept_dirty = list(reclaim.filemap.files["f"].pages.values())
    lruvec = reclaim.lru.nodes[0]
    assert reclaim.vmscan.shrink_inactive_list(64, lruvec, sc, LRU_INACTIVE_FILE) == 0
    assert all(folio.flags & PG_DIRTY or folio.flags & PG_ACTIVE for folio in kept_dirty)
    assert lruvec.pages[LRU_ACTIVE_FILE] == 64  # moved out of the way until they are written
    assert lruvec.pages[LRU_INACTIVE_ANON] == lruvec.pages[LRU_UNEVICTABLE] == 0
    reclaim.validate()


def test_snapshots_and_cached_pages() -> None:
    with small_machine() as m:
        m.open_file("f", MIB)
        m.read_file("f")
        state, digest = m.snapshot(), m.digest()
        m.kernel.reclaim.lru.lru_add_drain_all()
        pages = [m.page_alloc.alloc_pages(GFP_KERNEL, 2) for _ in range(50)]
        assert min(pages) >= 0 and m.digest() != digest
        m.restore(state)  # the same pages are cached
        m.validate()
        m.write_file("g", b"x")
        with pytest.raises(StateError, match="pages of files or processes have come"):
            m.restore(state)
        m.validate()
