# SPDX-License-Identifier: GPL-2.0-only
"""Requests that slept in a real kernel, made again by tasks of the model: the same calls, the same waiting.

The recording has two: one whose allocator works again when it has slept, and one that is woken by a delayed work
that frees an element after 200 ms::

    wait of 5 s     mempool_alloc() looks again after 5*HZ = 1250 ticks, which the timer wheel rounds up to a
                    multiple of 64 ticks, so that it depends on when it began: 5004 to 5256 ms. Recorded: 5192.
    wait of 200 ms  a work delayed by 50 ticks is queued by a timer, which fires a tick later: 204 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmem import Machine
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.mempool import mempool_alloc, mempool_create, mempool_free, mempool_kfree, mempool_kmalloc
from kmem.linux.timer import jiffies, jiffies_to_msecs
from kmem.linux.workqueue import DelayedWork, schedule_delayed_work
from kmem.machine.records import read_records

RECORDING = Path(__file__).parent.parent / "data/misc/amd64/pool-waits.jsonl.zst"
RECORDS = [record for _, record in read_records(RECORDING)]


class Allocator:
    """``kmalloc()`` that fails when it is told to; each call's flags, and whether it failed, are written down."""

    def __init__(self) -> None:
        self.fail = 0
        self.calls: list[tuple[str, bool]] = []

    def alloc(self, gfp: int, size: int) -> int | None:
        failed = self.fail != 0
        self.fail -= self.fail > 0
        self.calls.append((f"{gfp:#x}", failed))
        return None if failed else mempool_kmalloc(gfp, size)


def run(start_tick: int) -> tuple[list[tuple[str, bool]], list[int]]:
    """Do what the recording did; return the calls of the allocator, and how long each request waited, in ms."""
    waits: list[int] = []
    slots: dict[int, Any] = {}
    allocator = Allocator()
    with Machine.boot("x86_64", ram="128M") as m:
        m.kernel.clock.advance(start_tick * 4_000_000)
        pool: Any = None
        for record in RECORDS:
            match record.get("op"):
                case "p":
                    pool = mempool_create(record["min_nr"], allocator.alloc, mempool_kfree, record["param"])
                case "e":
                    allocator.fail = record["fail"]
                case "Q":
                    mempool_free(slots.pop(record["slot"]), pool)
                case "q":
                    freed = next((r for r in delayed(RECORDS, record)), None)
                    if freed is not None:
                        work = DelayedWork(lambda _, slot=freed["slot"], pool=pool: mempool_free(slots.pop(slot), pool))
                        schedule_delayed_work(work, 50)
                    begin = jiffies()
                    slots[record["slot"]] = mempool_alloc(pool, GFP_KERNEL)
                    waits.append(jiffies_to_msecs(jiffies() - begin))
                    assert [len(pool.elements), pool.min_nr] == [record["curr_nr"], record["min_nr"]]
    return allocator.calls, waits


def delayed(records: list[Any], request: Any) -> list[Any]:
    """The elements that the recording's worker freed while a request waited."""
    end = records.index(request)
    begin = max((place for place in range(end) if "op" in records[place]), default=0)
    return [record for record in records[begin:end] if record.get("t") == "mp_delayed_free"]


def test_the_same_calls_and_the_same_waiting() -> None:
    recorded_calls = [(r["gfp"], r["ret"] == "0x0") for r in RECORDS if r.get("t") == "mp_alloc_fn"]
    recorded_waits = [r["waited_ms"] for r in RECORDS if r.get("op") == "q"]
    assert recorded_waits == [0, 5192, 0, 204]
    calls, waits = run(46)  # the tick, modulo 64, at which the wait began is not recorded; this is the one that fits
    assert calls == recorded_calls
    assert waits == recorded_waits


@pytest.mark.parametrize("start_tick", [0, 13, 29, 45, 63])
def test_the_wheel_decides_how_long_five_seconds_are(start_tick: int) -> None:
    _, (_, five_seconds, _, short) = run(start_tick)
    assert 5004 <= five_seconds <= 5256
    assert (start_tick + five_seconds // 4) % 64 == 0
    assert short == 204
