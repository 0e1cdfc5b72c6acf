# SPDX-License-Identifier: GPL-2.0-only
"""Compaction against that of a real kernel.

A guest of 256 MiB read two block devices in turns, 64 KiB at a time, and dropped
the pages of one: half of 70 MiB of memory is free in pieces.  Its state was
dumped, then ``/proc/sys/vm/compact_memory`` written (``compact-256M``), or 60
huge pages asked for (``huge-256M``).

The model starts from the dump, with the frames that it shows on LRU lists as
pages of one file.  Not known to it: what the other frames are (compound pages
are skipped at once, others looked at one by one), and which pages cannot be
moved at the moment.  How close it comes:

==================== ======= ====== ================================
compact_memory        guest  model
==================== ======= ====== ================================
free pages looked at   1,632  1,632 the same
pages moved              320    334 4 % more
pages isolated           653    678
pages not moved            1      1 free pages had run out
frames scanned        24,839 26,530 compound pages are not known
free blocks per order                at most 12 of 594 differ
==================== ======= ====== ================================

Of the huge pages the guest gets 38 and the model 35; both move 335 pages for
them.  The guest's kswapd and kcompactd run on the same CPU as the request, but
when is not recorded; the model's take turns at ``cond_resched()``.
"""

from __future__ import annotations

import pytest

from kmem.mm.compaction import CompactControl, fragmentation_index
from kmem.mm.compaction_fast import _FreeList
from kmem.mm.debug_vm import validate_pages
from kmem.mm.hooks import CompactResult, Request
from kmem.mm.reclaim import Reclaim
from tests.mm.machines import one_zone
from tests.pressure.machines import adopt, bare_kernel, recording, start

#: htlb_alloc_mask() | __GFP_THISNODE | __GFP_COMP | __GFP_NOWARN | __GFP_RETRY_MAYFAIL
GFP_HUGE = 0x346CCA
GFP_HIGHUSER_MOVABLE = 0x100CCA


def blocks(reclaim: Reclaim, zone: int) -> list[int]:
    return [int(count) for count in reclaim.zones["nr_free"][zone]]


def test_compact_memory() -> None:
    states, steps = recording("compact-256M")
    reclaim = start(states["fragmented"])
    assert adopt(reclaim, states["fragmented"]) > 9000
    reclaim.validate()
    free = int(reclaim.zones["free_pages"].sum())
    reclaim.compaction.compact_node(0)
    reclaim.validate()
    assert int(reclaim.zones["free_pages"].sum()) <= free

    real = next(step for step in steps if step.get("at") == "compacted")
    ours = reclaim.stat.events
    assert ours["compact_free_scanned"] == real["compact_free_scanned"] == 1632
    assert ours["pgmigrate_fail"] == real["pgmigrate_fail"] == 1
    assert abs(ours["pgmigrate_success"] - real["pgmigrate_success"]) <= 0.05 * real["pgmigrate_success"]
    assert abs(ours["compact_isolated"] - real["compact_isolated"]) <= 0.05 * real["compact_isolated"]
    assert 0 <= ours["compact_migrate_scanned"] - real["compact_migrate_scanned"] <= 0.08 * 24839
    after = start(states["compacted"])
    for zone in (0, 1):
        for theirs, got in zip(blocks(after, zone), blocks(reclaim, zone), strict=True):
            assert abs(theirs - got) <= 12


def test_huge_pages_out_of_fragmented_memory() -> None:
    states, steps = recording("huge-256M")
    reclaim = start(states["fragmented"], sched=True)
    adopt(reclaim, states["fragmented"])
    got = 0
    while got < 60 and reclaim.page_alloc.alloc_pages(GFP_HUGE, 9) >= 0:
        got += 1
    reclaim.kernel.sched.run()
    reclaim.validate()
    theirs = next(step for step in steps if step.get("at") == "huge")
    ours = reclaim.stat.events
    assert abs(got - 38) <= 4  # what the guest's /proc/sys/vm/nr_hugepages said afterwards
    assert ours["pgmigrate_success"] == theirs["pgmigrate_success"] == 335
    assert ours["compact_daemon_wake"] == theirs["compact_daemon_wake"] == 1
    assert abs(ours["compact_isolated"] - theirs["compact_isolated"]) < 100  # of 802
    assert abs(ours["compact_stall"] - theirs["compact_stall"]) <= 3  # of 8
    assert abs(ours["pgsteal_kswapd"] - theirs["pgsteal_kswapd"]) < 300  # of 2446
    assert ours["allocstall_movable"] and theirs["allocstall_movable"]


# Arithmetic and single steps


@pytest.mark.parametrize(
    ("nr_free", "order", "index"),
    [
        ([0] * 11, 3, 0),  # nothing is free at all
        ([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], 3, -1000),  # it would succeed
        ([1000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 3, 874),  # plenty, in small pieces
        ([4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 9, 749),
        ([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], 9, 663),
        ([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 3, -500),  # (1000 + 500) / 1 block
    ],
)
def test_fragmentation_index(nr_free: list[int], order: int, index: int) -> None:
    assert fragmentation_index(nr_free, order) == index


def checkerboard() -> Reclaim:
    """Sixteen page blocks, none whole: movable pages in every second frame, but for the last block of 1024 frames.

    ::

        0                   7168        8192
        |.x.x.x.x.x.x.x.x.x.x|...........|      x a page of a file

    The free one is too large for a target: a block that is free as a whole is what compaction wants to make.
    Even frames are the free ones, since a block without free pages makes the scanner look at every second only.
    """
    allocator = one_zone(8192)
    kernel = bare_kernel(allocator)
    reclaim: Reclaim = kernel.reclaim
    taken = [allocator.alloc_pages(GFP_HIGHUSER_MOVABLE, 0) for _ in range(7168)]
    mapping = reclaim.filemap.open("x", 1 << 30)
    for pfn in sorted(taken):
        if pfn % 2 == 0:
            allocator.free_pages(pfn, 0)
            continue
        folio = reclaim.folios.add(pfn)
        folio.mapping, folio.index = mapping, pfn
        mapping.pages[pfn] = folio
        kernel.ram.view(pfn << 12, 8)[:] = pfn.to_bytes(8, "little")
        reclaim.lru.folio_add_lru(folio)
    reclaim.lru.lru_add_drain()
    allocator.drain_all_pages()
    return reclaim


def test_pages_move_to_the_other_end_with_their_bytes() -> None:
    reclaim = checkerboard()
    zone = reclaim.memmap.zone_id("Normal")
    control = CompactControl(zone, -1, mode=2, whole_zone=True, ignore_skip_hint=True)
    before = blocks(reclaim, zone)
    assert reclaim.compaction.compact_zone(control) == CompactResult.COMPLETE
    reclaim.validate()
    after = blocks(reclaim, zone)
    assert before[0] == 3584 and sum(before[9:]) == 1
    assert after[0] < before[0] // 4 and (after[9] << 9) + (after[10] << 10) >= 1024 + 2048
    assert reclaim.stat.events["pgmigrate_success"] > 1500
    for index, folio in reclaim.filemap.files["x"].pages.items():
        assert int.from_bytes(reclaim.kernel.ram.view(folio.pfn << 12, 8), "little") == index
    assert reclaim.stat.node[0]["nr_isolated_file"] == 0


def test_direct_compaction_stops_when_the_block_is_there() -> None:
    reclaim = checkerboard()
    request = Request(0xCC0, 4, 0, 0, 2, 0)
    assert reclaim.compaction.try_to_compact_pages(request, 1) == CompactResult.SUCCESS
    assert reclaim.stat.events["compact_migrate_scanned"] == 0  # there is such a block
    for _ in range(64):
        assert reclaim.page_alloc.alloc_pages(0xCC0, 4) >= 0  # the large block is used up by this
    reclaim.page_alloc.hooks = None
    assert reclaim.compaction.try_to_compact_pages(request, 1) == CompactResult.SUCCESS
    assert 0 < reclaim.stat.events["compact_migrate_scanned"] <= 2 * 512  # and no more than it takes
    reclaim.validate()


def test_no_compaction_without_io() -> None:
    reclaim = checkerboard()
    request = Request(0xC00, 4, 0, 0, 2, 0)
    assert reclaim.compaction.try_to_compact_pages(request, 1) == CompactResult.SKIPPED


def test_failures_put_compaction_off_ever_longer() -> None:
    reclaim = checkerboard()
    compaction, zone = reclaim.compaction, reclaim.memmap.zone_id("Normal")
    compaction.defer(zone, 4)
    waits = []
    for _ in range(8):
        count = 0
        while compaction.deferred(zone, 4):
            count += 1
        waits.append(count)
        compaction.defer(zone, 4)
    assert waits == [1, 3, 7, 15, 31, 63, 63, 63]
    compaction.defer_reset(zone, 4, alloc_success=True)
    assert not compaction.deferred(zone, 4)
    assert compaction.zones[zone].order_failed == 5


@pytest.mark.parametrize(
    ("result", "order", "priority", "expected"),
    [
        (CompactResult.COMPLETE, 2, 1, (True, 0, 0)),  # once more with full effort
        (CompactResult.COMPLETE, 2, 0, (False, 0, 0)),
        (CompactResult.COMPLETE, 9, 1, (False, 1, 0)),  # a costly order is not worth that
        (CompactResult.DEFERRED, 9, 2, (True, 1, 0)),
        (CompactResult.SUCCESS, 2, 1, (True, 1, 1)),
        (CompactResult.CONTENDED, 2, 0, (False, 0, 0)),
    ],
)
def test_should_compact_retry(
    result: CompactResult, order: int, priority: int, expected: tuple[bool, int, int]
) -> None:
    reclaim = checkerboard()
    request = Request(0xCC0, order, 0, 0, 2, 0)
    assert reclaim.compaction.should_compact_retry(request, result, priority, 0) == expected


def test_costly_orders_give_up_after_a_quarter_of_the_rounds() -> None:
    compaction = checkerboard().compaction
    costly, cheap = Request(0xCC0, 5, 0, 0, 2, 0), Request(0xCC0, 2, 0, 0, 2, 0)
    assert compaction.should_compact_retry(costly, CompactResult.SUCCESS, 1, 3)[0]
    assert not compaction.should_compact_retry(costly, CompactResult.SUCCESS, 1, 4)[0]
    assert compaction.should_compact_retry(cheap, CompactResult.SUCCESS, 1, 15) == (True, 1, 16)
    assert compaction.should_compact_retry(cheap, CompactResult.SUCCESS, 1, 16) == (True, 0, 0)


@pytest.mark.parametrize("place", [0, 3, 9])
def test_searches_turn_the_free_list(place: int) -> None:
    """The next search is to look at other blocks first: what was looked at goes behind the rest, in its order."""
    reclaim = checkerboard()
    zone = reclaim.memmap.zone_id("Normal")
    for turn in ("begin_with", "end_with"):
        order = reclaim.memmap.free_list(zone, 0, 1)
        pfn = order[place]
        getattr(_FreeList(reclaim.compaction, zone, 0), turn)(pfn)
        split = place if turn == "begin_with" else place + 1
        assert reclaim.memmap.free_list(zone, 0, 1) == order[split:] + order[:split]
    validate_pages(reclaim.page_alloc)
