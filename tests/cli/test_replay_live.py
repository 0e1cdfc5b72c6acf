# SPDX-License-Identifier: GPL-2.0-only
"""``kmem replay --machine live``: on a model of the machine that the test runs on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmem.cli import main

TRACE = Path(__file__).parents[1] / "data" / "boot.trace.txt.gz"


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["replay", "--machine", "live", "--json", str(TRACE)])
    out = capsys.readouterr()
    if status == 2:  # nothing readable, or several nodes without iomem: said in one line
        assert out.err.count("\n") == 1 and "/proc" in out.err
        pytest.skip(out.err.strip())
    result = json.loads(out.out)
    meminfo = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    managed = sum(zone["managed"] for zone in result["zones"]) * 4
    assert abs(managed - meminfo["MemTotal"]) < 0.02 * meminfo["MemTotal"]
