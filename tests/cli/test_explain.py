# SPDX-License-Identifier: GPL-2.0-only
"""``kmem explain`` from the command line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from kmem.cli import main

LOGS = Path(__file__).parents[1] / "data" / "logs"
NAME = "i386-1024M-order0-atomic-lowmem-full-highmem-free"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json", str(LOGS / f"{NAME}.txt.gz")]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["kind"] == "page-allocation-failure" and entry["reason"] == "below-watermark"
    assert entry["model_agrees"] is True and entry["bytes"] == 4096 and entry["gfp"] == "0xa20"
    assert [(zone["name"], zone["eligible"]) for zone in entry["zones"]] == [
        ("DMA", True),
        ("Normal", True),
        ("HighMem", False),
    ]
    assert all(remedy["succeeded"] for remedy in entry["remedies"])


def test_bare_state_of_memory_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json", str(LOGS / "amd64-384M-sysrq-m.txt.gz")]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["kind"], entry["reason"], entry["order"]) == ("show-mem", "none", None)


def test_a_log_without_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "dmesg.txt"
    log.write_text("[    0.000000] Linux version 6.1.0\n[    1.000000] 内存充足\n")
    assert main(["explain", str(log)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(log) in error and "no failed allocation" in error


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x02" * 100, b"\x7fELF" + bytes(64)])
def test_no_log_at_all(tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(data)
    assert main(["explain", str(log)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = b"[    1.0] x\n[    2.000000] vmap allocation for size 8192 failed: use vmalloc=<size> to increase size.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["explain"]) == 0
    assert "vmalloc failure" in capsys.readouterr().out
