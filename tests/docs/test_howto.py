# SPDX-License-Identifier: GPL-2.0-only
"""What the how-to pages show of programs is what the programs do."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tests.shown import blocks, console_runs

import kmem
from kmem.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ERROR_PATHS = (DOCS / "howto/test-error-paths.md").read_text()
PAGES = sorted([*(DOCS / "howto").glob("*.md"), *(DOCS / "tutorial").glob("*.md")])


@pytest.mark.parametrize(("command", "output"), console_runs(path.read_text() for path in PAGES))
def test_shown_output_is_real(
    command: str, output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    assert words[0] == "kmem"
    assert main(words[1:]) == 0
    assert capsys.readouterr().out == output


def pytest_in(folder: Path, driver: str, test: str) -> tuple[int, str]:
    """Write a driver and its test, and run pytest on them."""
    (folder / "driver.py").write_text(driver)
    (folder / "test_driver.py").write_text(test)
    # Where the package is installed, pytest finds the plugin itself.
    there = any(point.value == "kmem.pytest_plugin" for point in entry_points(group="pytest11"))
    plugin = [] if there else ["-p", "kmem.pytest_plugin"]
    paths = [str(Path(kmem.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *plugin],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, paths)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_driver_with_a_mistake_fails_as_shown(tmp_path: Path) -> None:
    driver, test, _ = blocks("python", ERROR_PATHS)
    status, out = pytest_in(tmp_path, driver, test)
    assert status == 1
    (shown,) = blocks("text", ERROR_PATHS)
    missing = [line for line in shown.splitlines() if line.strip() and line.strip() not in out]
    assert not missing, out


def test_the_mended_driver_passes(tmp_path: Path) -> None:
    _, test, mended = blocks("python", ERROR_PATHS)
    status, out = pytest_in(tmp_path, mended, test)
    assert status == 0, out
