# SPDX-License-Identifier: GPL-2.0-only
"""``kmem replay --compare``: base against variant, and only what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmem.cli import main

BOOT = str(Path(__file__).parent.parent / "data/boot.trace.txt.gz")


def test_only_what_differs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--compare", "--set", "slub_max_order=0", BOOT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = {row["figure"] for row in found["differences"]}
    for figure, base in found["base"]["figures"].items():
        assert (found["variant"]["figures"][figure] != base) == (figure in told)
    assert all(row["change"] == row["variant"] - row["base"] != 0 for row in found["differences"])
    caches = {row["cache"]: row for row in found["caches"]}
    assert (caches["task_struct"]["base_order"], caches["task_struct"]["variant_order"]) == (3, 1)
    assert main(["replay", "--compare", "--set", "slub_max_order=0", BOOT]) == 0
    text = capsys.readouterr().out
    assert "most bytes of slabs" in text
    assert "requests refused" not in text  # none are, in either


def test_nothing_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--compare", "--kvmalloc-above", "1M", BOOT]) == 0
    assert "base and variant do not differ" in capsys.readouterr().out


def test_zones_with_other_limits(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["replay", "--compare", "--set", "vm.watermark_scale_factor=500", BOOT]
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == []
    assert [zone["zone"] for zone in found["zones"]] == ["DMA", "DMA32"]
    for zone in found["zones"]:
        base, variant = zone["base"], zone["variant"]
        assert variant["min"] == base["min"]
        # mm/page_alloc.c:__setup_per_zone_wmarks: the gap is 5 % of the zone instead of 0.1 %
        assert variant["high"] - variant["low"] == variant["low"] - variant["min"] == variant["managed"] * 500 // 10000
    assert main(args) == 0
    assert "the figures do not differ" in capsys.readouterr().out
    assert main(["replay", "--compare", "--set", "movablecore=64M", BOOT]) == 0
    assert "Movable" in capsys.readouterr().out


def test_all_changes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--scale-load", "2", "--drop", "getname_flags.*", "--resize", "security_task_alloc=1024"]
    args += ["--atomic-to-kernel", "*", "--kvmalloc-above", "8K", "--mempool", "kmalloc-64=4", "--set", "ram=256M"]
    assert main(["replay", "--json", *args, BOOT]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    pool = {"cache": "kmalloc-64", "min_nr": 4, "lowest": 4, "served": 0, "slept": 0, "refused": 0}
    assert changes == {"scale_load": 2, "dropped": 275, "kvmalloc_fallbacks": 0, "mempools": [pool]}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--compare", BOOT], "nothing to compare"),
        (["--compare", "--scale-load", "2", "-"], "give a file"),
        (["--compare", "--scale-load", "2", "--proc", "buddyinfo", BOOT], "no --proc"),
        (["--scale-load", "0", BOOT], "0"),
        (["--scale-load", "1000", BOOT], "a load scaled by 1000"),
        (["--mempool", "dentry", BOOT], "dentry"),
        (["--mempool", "dentry=many", BOOT], "whole number"),
        (["--resize", "alloc_bprm=0", BOOT], "resized to 0 bytes"),
        (["--kvmalloc-above", "much", BOOT], "no size"),
    ],
)
def test_changes_that_are_none(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1
