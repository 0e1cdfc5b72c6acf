# SPDX-License-Identifier: GPL-2.0-only
"""Figures of a replay agree with each other, with the model's state and with the trace."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from kmem.analysis.summary import Analysis, analyse, failures_to_arrow
from kmem.analysis.usage import CacheUsage, to_arrow
from kmem.replay.replay import Replay, replay

DATA = Path(__file__).parent.parent / "data"
TRACES = [
    "boot.trace.txt.gz",
    "traces/i386.trace.txt.gz",
    "traces/hashed.trace.txt.gz",
    "traces/amd64.perf-script.txt.gz",
]


@pytest.fixture(scope="module", params=TRACES)
def run(request: pytest.FixtureRequest) -> Replay:
    return replay(str(DATA / request.param))


@pytest.fixture(scope="module")
def analysis(run: Replay) -> Analysis:
    return analyse(run)


def test_pages_add_up(run: Replay, analysis: Analysis) -> None:
    memory, slab = analysis.memory, analysis.slab
    used = memory.free_at_start - memory.free_at_end
    assert used == slab.slab_pages + slab.large_pages + memory.page_requests
    assert memory.free_at_start == memory.managed
    assert memory.lowest_free <= min(memory.free_at_start, memory.free_at_end)
    assert sum(zone.free_pages + zone.pcp_pages for zone in analysis.zones) == memory.free_at_end
    for zone in analysis.zones:
        assert sum(count << order for order, count in enumerate(zone.nr_free)) == zone.free_pages
        assert [sum(column) for column in zip(*zone.free.values(), strict=True)] == list(zone.nr_free)
        assert zone.lowest_free_pages <= zone.free_pages


def test_slabs_are_those_of_slabinfo(analysis: Analysis) -> None:
    shown = {cache.name: cache for cache in analysis.view.caches}
    for cache in analysis.caches:
        row = shown[cache.name]
        assert (cache.slabs, cache.slab_objects) == (row.num_slabs, row.num_objs)
        assert cache.live <= row.active_objs <= row.num_objs
        assert cache.partial_slabs + cache.cpu_slabs <= cache.slabs
        assert 0 <= cache.utilisation <= 1
        assert cache.live_req <= cache.live_alloc <= cache.slab_pages << 12
        assert cache.wasted_bytes >= 0
    slabs = sum(node.stats["nr_slab_reclaimable"] + node.stats["nr_slab_unreclaimable"] for node in analysis.view.nodes)
    assert slabs == analysis.slab.slab_pages + analysis.slab.large_pages


def test_live_objects_are_the_engines(run: Replay, analysis: Analysis) -> None:
    live = run.engine.objects.live()
    assert sum(site.live for site in analysis.call_sites) == len(live)
    assert sum(site.live_req for site in analysis.call_sites) == int(live["bytes_req"].sum(dtype=np.int64))
    for usage in (*analysis.call_sites, *analysis.caches, *analysis.page_orders):
        assert usage.allocs - usage.frees == usage.live <= usage.peak
        assert usage.live_alloc <= usage.peak_alloc


def test_tables_are_sorted_by_peak(analysis: Analysis) -> None:
    for rows in (analysis.call_sites, analysis.caches):
        peaks = [row.peak_alloc for row in rows]
        assert peaks == sorted(peaks, reverse=True)


def test_sites_and_bytes_are_the_traces() -> None:
    """Totals by call site, counted from the text independently."""
    text = gzip.decompress((DATA / "boot.trace.txt.gz").read_bytes()).decode()
    expected: dict[str, list[int]] = {}
    for site, req, alloc in re.findall(
        r" k\w+: call_site=(\S+?)(?:/0x[0-9a-f]+)? ptr=\S+ .*?bytes_req=(\d+) bytes_alloc=(\d+)", text
    ):
        row = expected.setdefault(site, [0, 0, 0])
        row[0] += 1
        row[1] += int(req)
        row[2] += int(alloc)
    found = analyse(replay(str(DATA / "boot.trace.txt.gz"))).call_sites
    assert len(expected) > 20
    assert {site.name: [site.allocs, site.bytes_req, site.bytes_alloc] for site in found} == expected


def test_a_machine_too_small_refuses_and_says_why() -> None:
    found = analyse(replay(str(DATA / "boot.trace.txt.gz"), ram="96M", knobs={"vm.min_free_kbytes": 49000}))
    assert found.requests.failures > 0
    assert sum(found.failure_counts.values()) == found.requests.failures
    assert {zone for zone, _, _ in found.failure_counts} <= {"DMA", "DMA32"}
    refused = sum(usage.failures for usage in (*found.call_sites, *found.page_orders))
    assert refused == found.requests.failures
    table = failures_to_arrow(found.failures)
    assert table.num_rows == min(found.requests.failures, 1000)
    assert table["zone"].to_pylist() == [failure.zone for failure in found.failures]


def test_arrow_tables_say_the_same(analysis: Analysis) -> None:
    caches = to_arrow(analysis.caches)
    assert caches["name"].to_pylist() == [cache.name for cache in analysis.caches]
    assert pc.sum(caches["slab_pages"]).as_py() == analysis.slab.slab_pages
    assert to_arrow([], CacheUsage).column_names == caches.column_names
    blocks = analysis.timeline.to_arrow()
    last = blocks.filter(pc.equal(blocks["events"], analysis.timeline.events[-1]))
    pages = sum(row["blocks"] << row["order"] for row in last.to_pylist())
    assert pages == sum(zone.free_pages for zone in analysis.zones)
    indexes = analysis.timeline.fragmentation_to_arrow()
    assert indexes.num_rows == len(analysis.timeline) * len(analysis.zones) * 11
    tail = indexes.slice(indexes.num_rows - 11)["unusable_free_index"].to_pylist()
    assert tuple(tail) == analysis.zones[-1].unusable_free_index


def test_the_timeline(analysis: Analysis) -> None:
    times = analysis.timeline
    assert times.events[0] == 0
    assert times.events[-1] == analysis.trace.events
    assert (np.diff(times.events) > 0).all()
    assert (np.diff(times.time_ns) >= 0).all()
    assert times.time_ns[0] == analysis.first_ns
    assert (np.diff(times.failures) >= 0).all() and (np.diff(times.fallbacks) >= 0).all()
    assert times.failures[-1] == analysis.requests.failures
    assert times.fallbacks[-1] == analysis.fallbacks.count
    few = times.thinned(5)
    assert len(few) == 5
    assert (few.events[0], few.events[-1]) == (times.events[0], times.events[-1])
    assert times.thinned(len(times)) is times


def test_fallbacks(analysis: Analysis) -> None:
    """Booted machines have all memory in movable blocks: kernel pages have to take some."""
    found = analysis.fallbacks
    assert found.count == found.kept > 0
    assert sum(count for _, _, count, _ in found.by_type()) == found.count
    assert all(taken == "Movable" and wanted != "Movable" for taken, wanted, _, _ in found.by_type())
    assert found.to_arrow()["taken"].to_pylist() == ["Movable"] * found.count
    assert (found.block_order >= found.order).all()
