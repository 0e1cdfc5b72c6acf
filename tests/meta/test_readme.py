# SPDX-License-Identifier: GPL-2.0-only
"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.shown import blocks, console_runs

from kmem.cli import app, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLE = (ROOT / "docs/replay-example.md").read_text()
SWEEP = (ROOT / "docs/sweep.md").read_text()


@pytest.mark.parametrize(("command", "output"), console_runs([README, EXAMPLE, SWEEP]))
def test_shown_output_is_real(
    command: str, output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    assert words[0] == "kmem"
    assert main(words[1:]) == 0
    # A line of three dots stands for whatever is left out there.
    pattern = r"(?:.*\n)*?".join(re.escape(part) for part in re.split(r"^\.\.\.\n", output, flags=re.MULTILINE))
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_the_whole_example_leaves_nothing_out() -> None:
    (block,) = blocks("console", EXAMPLE)
    assert block.startswith("$ kmem replay tests/data/boot.trace.txt.gz\n")
    assert not re.search(r"^\.\.\.$", block, re.MULTILINE)


def test_python_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = blocks("python", README)
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert re.match(r"order 2, GFP_KERNEL: frame 0x[0-9a-f]+\n", out)
    assert "operations identical, end state identical" in out


def test_the_two_commands_to_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one line; the first ends in a run of the program, which is run here without building anew."""
    commands = blocks("sh", README)
    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)
    first, second = commands
    build, program = first.strip().rsplit(" && ", 1)
    assert build == "python3 -m venv .venv && .venv/bin/pip install -q ."
    words = shlex.split(program)
    assert words[0] == ".venv/bin/kmem"
    monkeypatch.chdir(ROOT)
    assert main(words[1:]) == 0
    assert capsys.readouterr().out
    assert second.strip() == "./run-tests"
    script = ROOT / "run-tests"
    assert script.stat().st_mode & 0o111


def test_files_and_commands_that_are_named_exist() -> None:
    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`kmem (\w+)", README):
        assert name in app.COMMANDS
