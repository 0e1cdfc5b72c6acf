# SPDX-License-Identifier: GPL-2.0-only
"""Logs of real 6.1 kernels on further machines: a movable zone, a small vmalloc area, memory used up to the panic.

The verdicts were checked against dumps of the zones taken just before each request.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kmem.analysis.explain import Explanation, explain
from kmem.trace.dmesg import read_log
from kmem.trace.failures import iter_failures

LOGS = Path(__file__).parents[1] / "data" / "logs-made"
SHORT = {"below-watermark": "short", "no-block-of-order": "broken", "not-eligible": "no", "ok": "ok"}


def explained(name: str) -> list[Explanation]:
    return explain(iter_failures(read_log(LOGS / f"{name}.txt.gz")))


def told(answer: Explanation) -> tuple[str, int | None, str | None, bool | None, str]:
    zones = " ".join(f"{zone.name}:{SHORT[zone.verdict]}" for zone in answer.zones)
    return answer.report.kind, answer.order, answer.reason, answer.model_agrees, zones


FAILURE, SHORTAGE = "page-allocation-failure", "below-watermark"


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        (
            "amd64-512M-movablecore",
            [(FAILURE, order, SHORTAGE, True, "DMA:short DMA32:short Movable:no") for order in (0, 3, 10, 0)],
        ),
        (
            "amd64-160M-until-panic",
            [
                (FAILURE, 0, SHORTAGE, True, "DMA:short DMA32:short"),
                (FAILURE, 0, SHORTAGE, True, "DMA:short DMA32:no"),
                (FAILURE, 0, SHORTAGE, True, "DMA:short DMA32:short"),
                (FAILURE, 0, SHORTAGE, True, "DMA:short DMA32:short"),
                ("oom", 0, "memory-exhausted", True, "DMA:short DMA32:short"),
                (FAILURE, 0, SHORTAGE, True, "DMA:short DMA32:short"),
                ("oom", 1, "memory-exhausted", True, "DMA:short DMA32:short"),
            ],
        ),
        (
            "amd64-192M-sysrq-and-oom",
            [
                ("show-mem", None, "none", True, "DMA:ok DMA32:ok"),
                ("oom", 0, "memory-exhausted", True, "DMA:short DMA32:short"),
                ("oom", None, "none", None, ""),
            ],
        ),
        (
            "i386-960M-vmalloc-64M",
            [
                (FAILURE, 6, "no-block-of-order", True, "DMA:broken Normal:no HighMem:no"),
                ("vmalloc-failure", None, "address-space", True, ""),
                *[("vmalloc-failure", None, "address-space", None, "")] * 11,
                *[(FAILURE, 0, SHORTAGE, True, "DMA:short Normal:short HighMem:no")] * 2,
            ],
        ),
    ],
)
def test_entries(name: str, entries: list[tuple[str, int | None, str | None, bool | None, str]]) -> None:
    assert [told(answer) for answer in explained(name)] == entries


def test_what_is_free_is_in_the_movable_zone() -> None:
    answers = explained("amd64-512M-movablecore")
    words = "Plenty is free, but in a zone that this request may not use."
    assert [words in answer.summary for answer in answers] == [True, True, True, False]
    assert [next(z.free for z in a.zones if z.name == "Movable") for a in answers] == [47673, 47673, 47673, 204]


def test_no_remedy_hands_out_a_reserve() -> None:
    for name in ("amd64-160M-until-panic", "amd64-512M-movablecore"):
        for answer in explained(name):
            # there is nothing to reclaim on these machines
            assert {remedy.kind for remedy in answer.remedies} <= {"mempool"}, answer.report.text


def test_one_failure_in_two_lines() -> None:
    answers = explained("i386-960M-vmalloc-64M")
    assert [answer.size_bytes for answer in answers[1:3]] == [16 << 20, (16 << 20) + 4096]
    assert answers[1].report.comm == "init" and answers[2].report.comm is None
    assert answers[13].report.detail["suppressed"] == 11
