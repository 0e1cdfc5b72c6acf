# SPDX-License-Identifier: GPL-2.0-only
"""``kmem record``, where tracing is permitted; only commands that are started here are recorded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmem.cli import main
from kmem.errors import InputError
from kmem.trace import open_trace
from kmem.trace.record import find_tracefs

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def instances() -> Path:
    """Where trace instances are, if this test may make one."""
    try:
        found = find_tracefs() / "instances"
        (found / "kmem-test").mkdir()
        (found / "kmem-test").rmdir()
    except (InputError, OSError) as error:
        pytest.skip(f"tracing is not permitted here: {error}")
    return found


def test_a_command_is_recorded(instances: Path, tmp_path: Path, capsys: Capture) -> None:
    before = set(instances.iterdir())
    output = tmp_path / "find.trace.dat"
    command = [sys.executable, "-c", "import os; [os.stat(f'/{n}') for n in os.listdir('/')]"]
    assert main(["record", "--no-state", "-o", str(output), "--", *command]) == 0
    assert "bytes of events" in capsys.readouterr().err
    assert set(instances.iterdir()) == before
    assert list(tmp_path.iterdir()) == [output]
    with open_trace(output) as trace:
        events = sum(len(batch) for batch in trace)
        stats = trace.stats
    assert events > 100
    assert stats.damaged_lines == 0 and not any("left out" in note for note in stats.notes)
    assert main(["stat", "--json", str(output)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["slab"]["total"]["hits"] > 50
    assert any("GFP_KERNEL" in row["gfp"] for row in found["page"]["requests"])


def test_trace_cmd_reads_what_is_written(instances: Path, tmp_path: Path) -> None:
    program = shutil.which("trace-cmd")
    if program is None:
        pytest.skip("trace-cmd is not installed")
    output = tmp_path / "true.trace.dat"
    assert main(["record", "--no-state", "-o", str(output), "--", "true"]) == 0
    done = subprocess.run([program, "report", "-t", output], capture_output=True, text=True, timeout=60, check=True)
    text = tmp_path / "report.txt"
    text.write_text(done.stdout)
    tables = []
    for path in (output, text):
        with open_trace(path) as trace:
            tables.append([row for batch in trace for row in batch.to_arrow().to_pylist()])
    assert len(tables[0]) > 50
    assert tables[0] == tables[1]


def test_state_before_and_after(instances: Path, tmp_path: Path) -> None:
    output = tmp_path / "true.trace.dat"
    assert main(["record", "-o", str(output), "--", "true"]) == 0
    for name in ("true-before", "true-after"):
        assert (tmp_path / name / "meminfo").read_text().startswith("MemTotal")
        assert (tmp_path / name / "buddyinfo").stat().st_size > 50


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(number: int, instances: Path, tmp_path: Path) -> None:
    output = tmp_path / "sleep.trace.dat"
    sleeper = subprocess.Popen(["sleep", "60"])
    command = [sys.executable, "-m", "kmem", "record", "--no-state", "-o", str(output), "-p", str(sleeper.pid)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    instance = instances / f"kmem-{process.pid}"
    try:
        wait_for(lambda: (instance / "tracing_on").exists() and (instance / "tracing_on").read_text() == "1\n")
        process.send_signal(number)
        status = process.wait(timeout=60)
        wait_for(lambda: not instance.exists())
    finally:
        sleeper.kill()
        sleeper.wait()
    assert status == (-number if number == signal.SIGKILL else 0)
    assert output.exists() == (number != signal.SIGKILL)


def wait_for(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "not clear what to record"),
        (["-a", "--", "true"], "not clear what to record"),
        (["-o", "/no/such/folder/x", "--", "true"], "no such folder"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, capsys: Capture) -> None:
    assert main(["record", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1


def test_without_tracefs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    monkeypatch.setattr("kmem.trace.record._PLACES", (str(tmp_path / "tracing"),))
    assert main(["record", "--", "true"]) == 2
    assert "tracefs is not mounted; as root: mount" in capsys.readouterr().err


def test_a_command_that_does_not_exist(instances: Path, capsys: Capture) -> None:
    assert main(["record", "--no-state", "--", "no-such-program"]) == 2
    assert "no program 'no-such-program'" in capsys.readouterr().err
    assert not list(instances.glob(f"kmem-{os.getpid()}"))
