# SPDX-License-Identifier: GPL-2.0-only
"""kswapd against a real one.

A guest of 256 MiB without swap read 240 MiB of a block device, a MiB at a time, and
printed its counters after each (``kswapd-256M``).  The model starts from the
free lists that were dumped before the first read, and reads the same.

What else ran in the guest (the shell, ``dd``) is not in the model.  So no
number is the same at every step; what is compared, and how close it comes:

- free pages, while there are plenty: within 160 of about 38,000;
- when unmovable pages spread into movable page blocks, the watermark is
  boosted, and kswapd frees that much: in the guest from the read of MiB 123 on,
  in the model from 124 on; 532 pages at first (the guest: 442);
- the 335 pages that kcompactd moves after the first boost: the same number;
- pages that kswapd frees in all: 23,717 against 24,420 (2.9 % less);
- nobody ever has to reclaim directly, in neither;
- in the end, free pages stay between the sums of the min and of the high
  watermarks and reserves, in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kmem.mm.reclaim import Reclaim
from tests.pressure.machines import recording, start

GFP_USER = 0x100CC0  # how pages of a block device are allocated
MIB = 1 << 20


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Reclaim, list[dict[str, Any]], list[dict[str, int]]]]:
    """Reclaim after the run; the guest's counters and the model's after each MiB."""
    states, steps = recording("kswapd-256M")
    reclaim = start(states["fresh"])
    reclaim.filemap.open("ram0", 240 * MIB, GFP_USER)
    real = [step for step in steps if step.get("at", "").startswith("read")]
    model = []
    for i in range(len(real)):
        reclaim.filemap.read("ram0", i * MIB, MIB)
        free = int(reclaim.zones["free_pages"].sum())
        model.append({"nr_free_pages": free, **reclaim.stat.node[0], **reclaim.stat.events})
    reclaim.validate()
    yield reclaim, real, model


def test_the_cache_fills_at_the_same_pace(run: Any) -> None:
    _, real, model = run
    for theirs, ours in list(zip(real, model, strict=True))[:120]:
        assert abs(theirs["nr_free_pages"] - ours["nr_free_pages"]) < 160
        assert abs(theirs["nr_inactive_file"] - ours["nr_inactive_file"]) < 64


def test_boosted_watermarks_wake_kswapd_at_the_same_time(run: Any) -> None:
    _, real, model = run
    first = [next(i for i, step in enumerate(steps) if step.get("pgsteal_kswapd")) for steps in (real, model)]
    assert abs(first[0] - first[1]) <= 1
    assert abs(real[first[0]]["pgsteal_kswapd"] - model[first[1]]["pgsteal_kswapd"]) < 100
    assert real[-1]["pgmigrate_success"] == model[-1]["pgmigrate_success"] == 335


def test_kswapd_frees_as_much(run: Any) -> None:
    _, real, model = run
    theirs, ours = real[-1]["pgsteal_kswapd"], model[-1]["pgsteal_kswapd"]
    assert abs(theirs - ours) / theirs < 0.03


def test_nobody_reclaims_directly(run: Any) -> None:
    _, real, model = run
    assert not any(step.get("pgscan_direct") for step in real)
    assert not any(step.get("pgscan_direct") for step in model)


def test_free_memory_settles_between_the_watermarks(run: Any) -> None:
    reclaim, real, model = run
    zones = reclaim.zones
    low = int(zones["watermark"][:, 0].sum())
    high = int(zones["watermark"][:, 2].sum() + zones["lowmem_reserve"].max(axis=1).sum()) + 1024  # and two boosts
    for steps in (real, model):
        assert all(low < step["nr_free_pages"] < high for step in steps[180:])


def test_kswapd_stops_above_the_high_watermark(run: Any) -> None:
    """Awake, it works until one zone that the waker could use has its high watermark free."""
    reclaim, _, _ = run
    pgdat = reclaim.pgdats[0]
    reclaim.filemap.open("more", 8 * MIB, GFP_USER)
    before = reclaim.stat.events["pageoutrun"]
    reclaim.filemap.read("more")
    assert reclaim.stat.events["pageoutrun"] > before
    reclaim.kswapd.balance_pgdat(pgdat, 0, 2)
    assert reclaim.kswapd.pgdat_balanced(pgdat, 0, 2)
    assert pgdat.kswapd_failures == 0
