# SPDX-License-Identifier: GPL-2.0-only
"""What kswapd does while it is at work, read from a recording's other events."""

from __future__ import annotations

import gzip
from pathlib import Path

from kmem.machine.machine import Machine
from kmem.replay.fidelity import measure_fidelity
from kmem.replay.kswapd_rounds import KswapdRounds, find_rounds
from kmem.trace.marks import Mark, find_marks

EXACT = Path(__file__).parents[1] / "data" / "exact"
RECLAIM_ACTIVE = 2

LINES = """\
# tracer: nop
              sh-107     [000] .....     1.000001: kfree: call_site=f+0x1/0x2 ptr=ffff888001000000
         kswapd0-38      [000] .....     1.000010: mm_vmscan_kswapd_wake: nid=0 order=0
         kswapd0-38      [000] .....     1.000012: mm_page_free: page=ffffea0000000000 pfn=0x100 order=0
              sh-107     [000] .....     1.000013: kfree: call_site=f+0x1/0x2 ptr=ffff888001000040
         kswapd0-38      [000] .....     1.000020: mm_vmscan_lru_shrink_inactive: nid=0 nr_scanned=5
         kswapd0-38      [000] .....     1.000030: mm_compaction_suitable: node=0 zone=DMA      order=9 ret=skipped
              sh-107     [000] .....     1.000040: mm_vmscan_lru_shrink_inactive: nid=0 nr_scanned=5
         kswapd0-38      [000] .....     1.000050: mm_vmscan_kswapd_wake: nid=0 order=0
         kswapd0-38      [000] .....     1.000055: mm_page_free: page=ffffea0000000000 pfn=0x101 order=0
              sh-107     [000] .....     1.000060: kfree: call_site=mm_vmscan_kswapd_wake: ptr=ffff888001000080
         kswapd0-38      [000] .....     1.000070: mm_vmscan_kswapd_sleep: nid=0
"""
TIMES = [1_000_001_000, 1_000_012_000, 1_000_013_000, 1_000_055_000, 1_000_060_000]
PIDS = [107, 38, 107, 38, 107]


def test_marks(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    assert find_marks(path, ["mm_vmscan_kswapd_"]) == [
        Mark(1_000_010_000, 38, "mm_vmscan_kswapd_wake"),
        Mark(1_000_050_000, 38, "mm_vmscan_kswapd_wake"),
        Mark(1_000_070_000, 38, "mm_vmscan_kswapd_sleep"),
    ]
    assert find_marks(path, ["oom_"]) == []
    assert find_marks(tmp_path, ["mm_"]) == []


def test_marks_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(LINES * 3000)  # more than two chunks
    assert path.stat().st_size > 2 << 20
    assert len(find_marks(path, ["mm_vmscan_kswapd_wake"])) == 6000


def test_binary_recordings_have_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(b"\x17\x08\x44tracing6\0" + LINES.encode())
    assert find_marks(path, ["mm_vmscan_"]) == []


def test_rounds_end_with_compaction_or_with_the_last_of_kswapd(tmp_path: Path) -> None:
    """Two rounds::

    event of the table   0      1      2        3      4
                         sh  kswapd   sh     kswapd   sh
    kswapd                 wake----------|  wake----|
                                     compaction   sleeps later
    """
    path = tmp_path / "trace.txt"
    path.write_text(LINES)
    assert find_rounds(str(path), TIMES, PIDS) == [(1, 3), (3, 4)]


def test_zones_while_kswapd_is_at_work() -> None:
    machine = Machine.boot("x86_64", ram="128M")
    zones = machine.memmap.zones_array
    populated = zones["managed"] > 0
    zones["watermark_boost"][populated] = 100
    rounds = KswapdRounds(machine.page_alloc, [(2, 5)])
    assert rounds.due == 2
    rounds.advance(2)
    assert (zones["flags"][populated] & RECLAIM_ACTIVE).all() and rounds.due == 5
    zones["watermark_boost"][populated] = 130  # boosted further meanwhile: that stays
    rounds.advance(7)
    assert not (zones["flags"] & RECLAIM_ACTIVE).any() and rounds.due > 1 << 40
    assert (zones["watermark_boost"][populated] == 30).all()


def test_a_recording_under_pressure() -> None:
    """Reclaim and fallbacks between two dumps: every frame, and the end state to the last block and slab."""
    folder = EXACT / "amd64-pressure"
    result = measure_fidelity(
        str(folder / "trace.txt.xz"), folder / "before.dump.jsonl.gz", folder / "after.dump.jsonl.gz"
    )
    assert result.frames == result.frames_identical > 50_000
    assert result.objects > 100_000 and result.objects_identical >= 0.998 * result.objects
    assert {cause for cause, count in result.divergences.items() if count} == {"bulk"}
    for zone in result.zones:
        assert zone["free_blocks"]["modelled"] == zone["free_blocks"]["real"]  # type: ignore[index]
    for cache in result.caches:
        assert cache["slabs"]["modelled"] == cache["slabs"]["real"], cache["cache"]  # type: ignore[index]
