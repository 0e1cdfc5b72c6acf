# SPDX-License-Identifier: GPL-2.0-only
"""Refused requests: the numbers of each zone at that moment, against those of a machine that is asked itself.

The machines, not to scale; every test fills what its requests may use:

    x86_64, 96 MiB      | DMA 16 MiB |            DMA32             |
    i386, 1200 MiB      | DMA |      Normal      |     HighMem      |
    x86_64, two nodes   | DMA |  DMA32, node 0   |  DMA32, node 1   |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kmem.analysis.failures import explain_failure, explain_kinds, mem_info
from kmem.analysis.rebuild import rebuild
from kmem.analysis.summary import analyse
from kmem.machine.machine import Machine
from kmem.mm.gfp import GFP_ATOMIC
from kmem.replay.refused import MAX_FAILURES, Failure
from kmem.replay.replay import Replay, replay

Line = Callable[[int], str]


def pages(order: int, gfp: str = "GFP_KERNEL") -> Line:
    """Requests for pages, at frames that do not overlap."""

    def line(i: int) -> str:
        return f"mm_page_alloc: page=00000000{i:08x} pfn=0x{i << order:x} order={order} migratetype=0 gfp_flags={gfp}"

    return line


def objects(size: int, gfp: str = "GFP_KERNEL", node: int = -1) -> Line:
    """kmallocs of one size."""

    def line(i: int) -> str:
        return (
            f"kmalloc: call_site=filler+0x10/0x40 ptr=00000000{i:08x} bytes_req={size} bytes_alloc={size} "
            f"gfp_flags={gfp} node={node} accounted=false"
        )

    return line


def written(path: Path, *parts: tuple[Line, int], cpu: int = 0) -> str:
    number, lines = 0, []
    for line, count in parts:
        for _ in range(count):
            number += 1
            lines.append(f"  sh-1  [{cpu:03}] .....  {1 + number / 1e6:.6f}: {line(number)}\n")
    path.write_text("".join(lines))
    return str(path)


def agree(run: Replay) -> None:
    """What every failure's numbers have to obey, whatever the machine."""
    assert run.failures
    for failure in run.failures:
        assert len(failure.zones) == sum(run.machine.memmap.zones_array["managed"] > 0)
        for zone in failure.zones:
            listed = sum(count << order for order, count in enumerate(zone.nr_free))
            assert listed >= zone.free  # the counter of free pages lags behind the lists, by pages in hand
            short = zone.free - zone.unusable <= zone.mark + zone.reserve
            if zone.verdict == "below-watermark":
                assert short
            elif zone.verdict != "not-eligible":
                assert not short
            if zone.verdict == "no-block-of-order":
                assert not any(zone.nr_free[failure.order :])
        if failure.reason != "none":
            assert failure.reason in {zone.verdict for zone in failure.zones if zone.name == failure.zone}


def verdicts(failure: Failure) -> dict[tuple[int, str], str]:
    return {(zone.node, zone.name): zone.verdict for zone in failure.zones}


def test_too_few_pages(tmp_path: Path) -> None:
    run = replay(written(tmp_path / "t", (pages(0), 20_000)), Machine.boot("x86_64", ram="96M"))
    agree(run)
    first = run.failures[0]
    assert verdicts(first) == {(0, "DMA"): "below-watermark", (0, "DMA32"): "below-watermark"}
    zone = first.zones[1]
    record = run.machine.memmap.zones_array[1]
    assert zone.mark == int(record["watermark"][0] + record["watermark_boost"])
    assert (zone.unusable, zone.reserve) == (0, 0)
    assert zone.mark - 64 < zone.free <= zone.mark  # filled to the brim, up to a per-CPU list's batch
    assert explain_failure(first)[0] == (
        "Each zone that the request may use (DMA, DMA32) has too few free pages left for it."
    )


def test_single_pages_are_no_block(tmp_path: Path) -> None:
    """Every second page goes back: half the memory is free, in single pages."""
    count = 9_000
    frees = [f"mm_page_free: page=00000000{i:08x} pfn=0x{i:x} order=0" for i in range(2, count, 2)]
    path = written(
        tmp_path / "t", (pages(0), count), (lambda i: frees[i - count - 1], len(frees)), (pages(3, "GFP_ATOMIC"), 900)
    )
    run = replay(path, Machine.boot("x86_64", ram="96M"))
    agree(run)
    last = run.failures[-1]
    assert (last.order, last.reason) == (3, "no-block-of-order")
    dma32 = last.zones[1]
    assert dma32.free > 8 * dma32.mark
    words = explain_failure(last)
    assert words[0] == "Enough pages are free in DMA, DMA32, but not 8 side by side."
    assert "No block of order 3 (32 kB) is free: " in words[1] and words[1].endswith("but mostly in single pages.")
    assert words[-2] == "The caller may not wait: nothing could be reclaimed or compacted for it."
    assert words[-1].startswith("It may use a part of the reserve: memory down to three eighths of the min watermark")
    kinds = explain_kinds(analyse(run), remedied=4)
    remedies = {remedy.kind: remedy.change for kind in kinds for remedy in kind.remedies or ()}
    assert remedies["smaller-order"]["order"] < 3


def test_plenty_elsewhere(tmp_path: Path) -> None:
    """The kernel's own requests cannot use high memory."""
    run = replay(written(tmp_path / "t", (pages(4), 16_000)), Machine.boot("i386", ram="1200M"))
    agree(run)
    first = run.failures[0]
    assert verdicts(first)[0, "HighMem"] == "not-eligible"
    assert explain_failure(first)[0] == "Plenty is free, but in a zone that this request may not use."
    kinds = explain_kinds(analyse(run), remedied=1)
    flags = [remedy for remedy in kinds[0].remedies or () if remedy.kind == "flags"]
    assert flags and "__GFP_HIGHMEM" in flags[0].change["gfp_names"]


@pytest.mark.parametrize(("gfp", "eligible"), [("GFP_KERNEL|__GFP_THISNODE", {1}), ("GFP_KERNEL", {0, 1})])
def test_the_node_that_was_asked_for(gfp: str, eligible: set[int], tmp_path: Path) -> None:
    machine = Machine.boot("x86_64", ram="128M", cpus=2, nodes=2)
    run = replay(written(tmp_path / "t", (objects(65536, gfp, node=1), 2_100)), machine)
    agree(run)
    first = run.failures[0]
    assert {zone.node for zone in first.zones} == {0, 1}
    assert {zone.node for zone in first.zones if zone.verdict != "not-eligible"} == eligible
    assert all(zone.verdict != "ok" for zone in first.zones)


def test_a_slab_needs_its_smallest_order(tmp_path: Path) -> None:
    """kmalloc-8k: two pages at least, whatever the size says."""
    run = replay(written(tmp_path / "t", (objects(8192), 9_000)), Machine.boot("x86_64", ram="96M"))
    agree(run)
    assert {failure.order for failure in run.failures} == {1}
    assert {failure.reason for failure in run.failures} <= {"no-block-of-order", "below-watermark"}


def test_no_zone_has_such_a_block(tmp_path: Path) -> None:
    run = replay(written(tmp_path / "t", (objects(8 << 20), 3)), Machine.boot("x86_64", ram="96M"))
    assert [(failure.order, failure.reason, failure.zones) for failure in run.failures] == [
        (11, "order-too-large", ())
    ] * 3
    assert explain_failure(run.failures[0]) == ["No zone ever has a block of order 11: 10 (4 MiB) is the largest."]


def test_the_first_of_a_kind_is_kept_however_late(tmp_path: Path) -> None:
    path = written(tmp_path / "t", (pages(10), MAX_FAILURES + 40), (objects(8 << 20), 1))
    run = replay(path, Machine.boot("x86_64", ram="96M"))
    assert len(run.failures) == MAX_FAILURES
    assert sum(run.failure_counts.values()) == run.engine.nr_failures > MAX_FAILURES
    late = run.first_failures["", 11, "order-too-large"]
    assert late not in run.failures
    assert set(run.first_failures) == set(run.failure_counts)
    assert late.kind in {kind.first.kind for kind in explain_kinds(analyse(run))}


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_the_state_can_be_rebuilt(arch: str, tmp_path: Path) -> None:
    """The same request is refused by the rebuilt zones, and these say the same numbers."""
    run = replay(written(tmp_path / "t", (pages(2, "GFP_ATOMIC"), 9_000)), Machine.boot(arch, ram="96M"))
    for kind, (wanted, zones) in run.failure_states.items():
        rebuilt = rebuild(mem_info(zones, run.machine.memmap.pageblock_order))
        assert (wanted.gfp, wanted.order) == (GFP_ATOMIC, 2)
        for zone in run.first_failures[kind].zones:
            number = rebuilt.zones[zone.node, zone.name]
            record = rebuilt.allocator.memmap.zones_array[number]
            assert int(record["free_pages"]) == zone.free
            assert tuple(record["nr_free"].tolist()) == zone.nr_free
        assert rebuilt.allocator.alloc_pages(wanted.gfp, wanted.order) < 0 or kind[2] == "none"
