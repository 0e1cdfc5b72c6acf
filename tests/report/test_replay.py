# SPDX-License-Identifier: GPL-2.0-only
"""The report of a replay: its JSON as documented, its paragraphs and tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from kmem.analysis.lifetimes import LifetimeCounter
from kmem.analysis.summary import Analysis, analyse
from kmem.replay.replay import replay
from kmem.report.replay import report_replay
from kmem.report.replay_json import replay_to_dict

ROOT = Path(__file__).parents[2]
BOOT = "tests/data/boot.trace.txt.gz"
DOCUMENT = (ROOT / "docs/replay-json.md").read_text()


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(replay(str(ROOT / BOOT)))


@pytest.fixture(scope="module")
def scarce() -> Analysis:
    """The same on a machine of which most is kept back."""
    return analyse(replay(str(ROOT / BOOT), ram="96M", knobs={"vm.min_free_kbytes": 49000}))


@pytest.fixture(scope="module")
def printed(analysis: Analysis) -> dict[str, Any]:
    found = json.loads(orjson.dumps(replay_to_dict(analysis, source=BOOT)))
    assert isinstance(found, dict)
    return found


def documented(section: str) -> set[str]:
    """Keys in the first column of a section's table."""
    text = re.split(rf"^## {section}$", DOCUMENT, flags=re.M)[1]
    rows = re.findall(r"^\| (`[^|]*) \|", re.split(r"^## ", text, flags=re.M)[0], re.M)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_the_example_is_real(printed: dict[str, Any]) -> None:
    example = json.loads(re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.M | re.S)[0])
    assert len(example) > 10
    assert {key: printed[key] for key in example} == example


@pytest.mark.parametrize("section", ["machine", "memory", "slab", "fallbacks", "samples"])
def test_objects_have_the_documented_keys(section: str, printed: dict[str, Any]) -> None:
    assert set(printed[section]) == documented(f"`{section}`")


def test_top_level_and_lists_have_the_documented_keys(printed: dict[str, Any]) -> None:
    assert set(printed) == documented("Top level")
    sites = documented("`call_sites`")
    for section, keys in (
        ("zones", documented("`zones`")),
        ("call_sites", sites),
        ("caches", sites - {"cross_cpu_frees"} | documented("`caches`") - {"call_sites"}),
        ("page_orders", documented("`page_orders`")),
    ):
        assert printed[section], section
        for row in printed[section]:
            assert set(row) == keys, section


def test_failures_have_the_documented_keys(scarce: Analysis) -> None:
    printed = replay_to_dict(scarce, source=BOOT)
    assert printed["failures"] > 0
    assert sum(row["count"] for row in printed["failures_by_reason"]) == printed["failures"]
    assert len(printed["failure_list"]) == min(printed["failures"], 1000)
    for section in ("failures_by_reason", "failure_list"):
        for row in printed[section]:
            assert set(row) == documented(f"`{section}`")
    for kind in printed["failures_by_reason"]:
        assert set(kind["first"]) == documented("`failure_list`")
        assert [kind["first"][key] for key in ("zone", "order", "reason")] == [
            kind["zone"],
            kind["order"],
            kind["reason"],
        ]


def test_the_report_says_why(scarce: Analysis) -> None:
    (section,) = [each for each in report_replay(scarce, source=BOOT) if each.title.startswith("Why the first")]
    text = "\n".join(section.lines)
    zone, order, reason = next(iter(scarce.failure_counts))
    assert f"{zone}, order {order}, {reason}, " in text
    assert "too few pages" in text and "lowmem_reserve" in text


def test_lifetimes_have_the_documented_keys() -> None:
    with LifetimeCounter() as counter:
        run = replay(str(ROOT / BOOT), observe=counter)
    printed = replay_to_dict(analyse(run), source=BOOT, lifetimes=counter.rows(run.reader.strings))
    assert {row["name"] for row in printed["lifetimes"]} <= {row["name"] for row in printed["call_sites"]}
    assert sum(row["live"] for row in printed["lifetimes"]) == sum(row["live"] for row in printed["call_sites"])
    for row in printed["lifetimes"]:
        assert set(row) == documented("`lifetimes`")
        assert sum(row["freed_log2"].values()) == row["freed"]
        assert sum(row["live_log2"].values()) == row["live"]


def test_counts_are_integers_and_shares_floats(printed: dict[str, Any]) -> None:
    floats = {"unknown_frees_share", "double_allocations_share", "utilisation"}

    def visit(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, each in value.items():
                visit(each, name)
        elif isinstance(value, list):
            for each in value:
                visit(each, key)
        elif isinstance(value, float):
            assert key in floats
        else:
            assert key not in floats
            assert isinstance(value, str | int)

    visit(printed, "")


def test_the_machine_is_said_first_and_every_table_is_rectangular(analysis: Analysis) -> None:
    sections = list(report_replay(analysis, source=BOOT))
    assert sections[0].title == "Machine"
    assert all(any(text in line for line in sections[0].lines) for text in analysis.assumed)
    for section in sections:
        assert section.rows or section.lines
        assert all(len(row) == len(section.columns) for row in section.rows)


def test_top_limits_caches_and_call_sites(analysis: Analysis) -> None:
    for top in (1, 3, 1000):
        sections = {section.title: section for section in report_replay(analysis, source=BOOT, top=top)}
        caches, sites = sections["Caches by peak"], sections["Call sites by peak"]
        assert len(caches.rows) == min(top, len(analysis.caches))
        assert len(sites.rows) == min(top, len(analysis.call_sites))
        assert bool(caches.lines) == (top < len(analysis.caches))


def test_failures_are_reported_with_zone_order_and_reason(scarce: Analysis) -> None:
    sections = {section.title: section for section in report_replay(scarce, source=BOOT)}
    rows = sections["Failures"].rows
    assert sum(int(str(row[3])) for row in rows) == scarce.requests.failures
    assert {row[2] for row in rows} <= {"below-watermark", "no-block-of-order", "order-too-large", "none"}
    assert len(sections["First failures"].rows) == 5
