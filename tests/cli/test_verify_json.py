# SPDX-License-Identifier: GPL-2.0-only
"""``kmem verify --json`` prints what ``docs/verify-json.md`` says, no key more or less."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kmem.cli import main
from kmem.verify import Difference

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/verify-json.md").read_text()
RECORDING = "tests/data/pages/amd64-512M/pages-00.jsonl.gz"


def documented(section: str) -> set[str]:
    """Keys in the first column of a section's table."""
    text = re.split(rf"^## {section}$", DOCUMENT, flags=re.M)[1]
    rows = re.findall(r"^\| (`[^|]*) \|", re.split(r"^## ", text, flags=re.M)[0], re.M)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """One recording that holds and one that is refused."""
    monkeypatch.chdir(ROOT)
    damaged = tmp_path / "pages-00.jsonl"
    damaged.write_text("{\n")
    assert main(["verify", "--json", RECORDING, str(damaged)]) == 2
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_keys_are_the_documented_ones(printed: dict[str, Any]) -> None:
    assert set(printed) == documented("Top level")
    assert set(printed["totals"]) == documented("`totals`")
    assert [set(row) for row in printed["recordings"]] == [documented("`recordings`")]
    assert [set(row) for row in printed["refused"]] == [documented("`refused`")]
    assert printed["skipped"] == []
    assert set(Difference(1, "frame", 2, 3).to_dict()) == documented("`differences`")
    assert printed["held"] is False


def test_the_example_is_real(printed: dict[str, Any]) -> None:
    example = json.loads(re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.M | re.S)[0])
    assert {**example, "recordings": 2, "refused": 1} == printed["totals"]
    assert printed["recordings"][0]["path"] == RECORDING
