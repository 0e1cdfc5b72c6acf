# SPDX-License-Identifier: GPL-2.0-only
"""The program as a whole: help, exit status, what becomes of errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import kmem
from kmem.cli import app, main
from kmem.errors import DifferenceError, InputError

DATA = Path(__file__).parent.parent / "data"


def run(*args: str, **kwargs) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kmem", *args], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kmem {kmem.__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    text = capsys.readouterr().out
    for name, (_, meaning) in app.COMMANDS.items():
        assert name in text
        assert meaning in text


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "--help"):
        assert main([name, flag]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: kmem {name}")
        assert "Examples:\n" in text
    command = app.cli.get_command(click.Context(app.cli), name)
    assert isinstance(command, app.Command)
    assert command.examples
    assert command.name == name
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    for line, meaning in command.examples:
        assert "kmem " + name in line
        assert meaning


def test_help_is_fast_because_nothing_big_is_imported() -> None:
    code = "import sys; from kmem.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for name in ("numpy", "pyarrow", "rich", "orjson", "kmem.verify", "kmem.mm.page_alloc"):
        assert f"'{name}'" not in done.stderr


def test_without_arguments_help_is_shown_as_an_error() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: kmem")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "kmem: no such command 'nonsense'; see 'kmem --help'\n"),
        (["gfp", "--nonsense"], "see 'kmem gfp --help'"),
        (["verify"], "see 'kmem verify --help'"),
        (["completion", "tcsh"], "see 'kmem completion --help'"),
    ],
)
def test_usage_errors_are_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("kmem: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            InputError("bad\nline", file="x.gz", line=3, remedy="get another"),
            2,
            "kmem: x.gz:3: bad line; get another\n",
        ),
        (DifferenceError("they differ"), 1, "kmem: they differ\n"),
        (OSError(28, "No space left on device", "out"), 2, "kmem: out: No space left on device\n"),
        (
            ZeroDivisionError("division by zero"),
            2,
            "kmem: internal error: ZeroDivisionError: division by zero; KMEM_DEBUG=1 shows the traceback\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_becomes_of_errors(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.delenv("KMEM_DEBUG", raising=False)
    monkeypatch.setattr(app.cli, "make_context", fail)
    monkeypatch.setattr(app.os, "dup2", lambda *args: None)
    assert main([]) == status
    assert capsys.readouterr().err == line
    if status == 2:
        monkeypatch.setenv("KMEM_DEBUG", "1")
        assert main([]) == 2
        assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "kmem", "gfp", "--list"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kmem", "gfp", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "kmem: No space left on device\n"


def test_interrupt_is_quiet(tmp_path: Path) -> None:
    # A fifo that nobody writes to keeps the program waiting in its own code.
    fifo = tmp_path / "fifo.jsonl"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, "-m", "kmem", "verify", str(fifo)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_KMEM_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_completion_completes() -> None:
    environment = {**os.environ, "_KMEM_COMPLETE": "bash_complete", "COMP_WORDS": "kmem ver", "COMP_CWORD": "1"}
    assert run(env=environment).stdout == "plain,verify\n"
    environment |= {"COMP_WORDS": "kmem gfp --sl", "COMP_CWORD": "2"}
    assert run(env=environment).stdout == "plain,--slab\n"


@pytest.mark.parametrize("args", [["replay", str(DATA / "boot.trace.txt.gz")], ["gfp", "0xcc0"], ["--help"]])
def test_closed_standard_output(args: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "kmem", *args],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "kmem: standard output is closed; send it to a file, a pipe or /dev/null\n"
