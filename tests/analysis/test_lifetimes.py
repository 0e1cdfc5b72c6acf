# SPDX-License-Identifier: GPL-2.0-only
"""How long objects live: against a plain model of it."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from kmem.analysis.lifetimes import LifetimeCounter, Lifetimes
from kmem.analysis.stat_count import LIFE_CLASSES, life_class
from kmem.trace import open_trace

DATA = Path(__file__).parent.parent / "data"
TRACES = [
    "boot.trace.txt.gz",
    "traces/v6.trace.dat.xz",
    "traces/v7.trace.dat",
    "traces/amd64.perf.data.zst",
    "traces/i386.trace.txt.gz",
]
FAILED = 2


def counted(path: Path) -> list[Lifetimes]:
    with open_trace(path) as reader, LifetimeCounter() as counter:
        for batch in reader:
            counter(batch)
        counter.close()  # what is counted is complete then
        return counter.rows(reader.strings)


def plain(path: Path) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Lifetimes and ages by call site, an event at a time."""
    live: dict[int, tuple[str, int]] = {}
    freed: dict[str, list[int]] = defaultdict(list)
    ages: dict[str, list[int]] = defaultdict(list)
    now = 0
    with open_trace(path) as reader:
        for batch in reader:
            for row in batch.to_arrow().to_pylist():
                now = max(now, row["time_ns"])
                if row["event"] in ("kfree", "kmem_cache_free") and row["ptr"]:
                    site, since = live.pop(row["ptr"], ("", -1))
                    if since >= 0:
                        freed[site].append(max(0, row["time_ns"] - since))
                elif row["event"].startswith(("kmalloc", "kmem_cache_alloc")) and not row["flags"] & FAILED:
                    if row["ptr"]:
                        live[row["ptr"]] = row["call_site"], row["time_ns"]
    for site, since in live.values():
        ages[site].append(now - since)
    return freed, ages


@pytest.mark.parametrize("name", TRACES)
def test_every_site_as_counted_plainly(name: str) -> None:
    freed, ages = plain(DATA / name)
    found = {row.name: row for row in counted(DATA / name)}
    assert set(found) == {*freed, *ages}
    assert sum(map(len, freed.values())) > 10
    for site, row in found.items():
        times, old = sorted(freed.get(site, [])), sorted(ages.get(site, []))
        assert (row.freed, row.live) == (len(times), len(old))
        assert row.freed_log2 == Counter(max(0, time.bit_length() - 1) for time in times)
        assert row.live_log2 == Counter(max(0, age.bit_length() - 1) for age in old)
        if times:
            assert (row.mean_ns, row.max_ns) == (sum(times) // len(times), times[-1])
            assert abs(row.median_ns - statistics.median_low(times)) <= statistics.median_low(times) / 8
        if old:
            assert (row.age_mean_ns, row.age_median_ns) == (sum(old) // len(old), statistics.median_low(old))
            assert (row.oldest_ns, row.newest_ns) == (old[-1], old[0])


def test_most_objects_first() -> None:
    rows = counted(DATA / TRACES[0])
    sizes = [row.freed + row.live for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_classes_are_a_quarter_of_a_power_of_two() -> None:
    random.seed(1)
    for ns in [*range(64), *(random.randrange(1 << random.randrange(1, 62)) for _ in range(2000))]:
        number = life_class(ns)
        assert 0 <= number < LIFE_CLASSES
        assert life_class(ns + 1) - number in (0, 1)
        if 4 <= ns < 1 << 47:
            power = ns.bit_length() - 1
            assert number == (power - 1) * 4 + (ns >> (power - 2)) % 4
    assert [life_class(ns) for ns in (-5, 0, 1, 2, 3, 4, 8, 1 << 62)] == [0, 0, 1, 2, 3, 4, 8, LIFE_CLASSES - 1]
