# SPDX-License-Identifier: GPL-2.0-only
"""``kmem top``: its text, its JSON, its errors, and the terminal that it leaves behind."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import kmem
from kmem.analysis.top import CACHE_KEYS
from kmem.cli import main

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"
PROC = DATA / "proc/amd64-512M"
BOOT = str(DATA / "boot.trace.txt.gz")

#: What slabtop of procps-ng 4.0.2 prints of the file, blanks at the ends of lines aside.
SLABTOP = """\
 Active / Total Objects (% used)    : 68713 / 69200 (99.3%)
 Active / Total Slabs (% used)      : 2470 / 2470 (100.0%)
 Active / Total Caches (% used)     : 93 / 157 (59.2%)
 Active / Total Size (% used)       : 14722.09K / 14745.70K (99.8%)
 Minimum / Average / Maximum Object : 0.01K / 0.21K / 8.00K

  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME
 11456  11456 100%    0.12K    358       32      1432K kernfs_node_cache
 11392  11392 100%    0.03K     89      128       356K lsm_inode_cache
 11340  11340 100%    0.19K    540       21      2160K dentry
 10896  10896 100%    0.62K    908       12      7264K inode_cache
  5824   5824 100%    0.06K     91       64       364K kmalloc-64
  3796   3796 100%    0.05K     52       73       208K ftrace_event_field
  1536   1536 100%    0.02K      6      256        24K kmalloc-16
"""

needs_textual = pytest.mark.skipif(importlib.util.find_spec("textual") is None, reason="the screen needs textual")


def out(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> str:
    assert main(["top", *args]) == status
    captured = capsys.readouterr()
    assert captured.err == "" or status or "--view" not in args
    return captured.out


def error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["top", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kmem: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_caches_as_slabtop_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "--once", "--view", "caches", "--rows", "7", str(PROC)) == SLABTOP
    assert out(capsys, "-o", "--view", "caches", str(PROC)).startswith(SLABTOP)
    assert out(capsys, "--view", "caches", str(PROC)).startswith(SLABTOP)  # output is no terminal


def _may_mount() -> bool:
    if (
        os.geteuid()
        or not all(map(shutil.which, ("slabtop", "unshare", "mount")))
        or not Path("/proc/slabinfo").exists()
    ):
        return False
    version = subprocess.run(["slabtop", "--version"], capture_output=True, text=True, check=False).stdout
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return done.returncode == 0 and "procps-ng 4." in version


@pytest.mark.parametrize("key", CACHE_KEYS)
@pytest.mark.parametrize("name", ["amd64-512M", "i386-1024M"])
def test_the_same_as_slabtop_itself(key: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """slabtop reads nothing but /proc/slabinfo: it gets another one, in a mount namespace of its own."""
    if not _may_mount():
        pytest.skip("needs slabtop, and root who may mount")
    script = 'mount --bind "$1" /proc/slabinfo && exec slabtop -o -s "$2"'
    words = ["unshare", "-m", "sh", "-c", script, "sh", str(DATA / "proc" / name / "slabinfo"), key]
    environment = {**os.environ, "LC_ALL": "C", "TERM": "dumb"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=60)
    if done.returncode or not done.stdout:
        pytest.skip(f"slabtop did not run: {done.stderr.strip()}")
    expected = [line.rstrip() for line in done.stdout.rstrip("\n").split("\n")]
    mine = out(capsys, "--once", "--view", "caches", "--sort", key, str(DATA / "proc" / name)).splitlines()
    mine = mine[: len(expected)]
    # caches that are equal in what is sorted by may stand in any order
    assert mine[:7] == expected[:7]
    columns = {"a": 1, "b": 5, "c": 6, "l": 4, "n": 7, "o": 0, "s": 3, "u": 2}
    if key in columns:
        place = columns[key]
        assert [line.split()[place] for line in mine[7:]] == [line.split()[place] for line in expected[7:]]
    whole = out(capsys, "--once", "--view", "caches", str(DATA / "proc" / name)).splitlines()
    assert set(expected[7:]) <= set(whole[7:])


def test_text_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", str(PROC)]) == 0
    captured = capsys.readouterr()
    caches, rows, zones = captured.out.split("\n\n")
    assert "Active / Total" in caches
    assert rows.startswith("  OBJS")
    assert [line.split()[:2] for line in zones.splitlines()] == [["NODE", "ZONE"], ["0", "DMA"], ["0", "DMA32"]]
    assert captured.err == f"kmem: {PROC / 'vmallocinfo'}: no such file\n"


def test_zones(capsys: pytest.CaptureFixture[str]) -> None:
    head, dma, dma32 = out(capsys, "--view", "zones", str(PROC)).splitlines()
    assert head.split() == ["NODE", "ZONE", "FREE", "MANAGED", "MIN", "LOW", "HIGH", "PCP", *map(str, range(11))]
    buddy = [line.split()[4:] for line in (PROC / "buddyinfo").read_text().splitlines()]
    assert dma.split()[8:] == buddy[0]
    assert dma32.split()[8:] == buddy[1]


def test_vmalloc_areas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vmallocinfo").write_bytes((DATA / "vmallocinfo/i386-1024M.txt.gz").read_bytes())
    lines = out(capsys, "--view", "sites", str(tmp_path)).splitlines()
    assert lines[0].split() == ["SIZE", "AREAS", "PAGES", "KIND", "CALLER"]
    sizes = [int(line.split()[0].removesuffix("K")) for line in lines[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert any(line.endswith("vmalloc     load_module+0xae0/0x1d20") for line in lines)
    by_name = out(capsys, "--view", "sites", "-s", "n", str(tmp_path)).splitlines()[1:]
    assert sorted(by_name) == sorted(lines[1:])
    assert "caches" not in error(capsys, "--view", "caches", str(tmp_path))


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(out(capsys, "--json", "--once", "-s", "c", str(PROC)))
    assert list(value) == ["source", "replay", "totals", "caches", "zones", "sites_are", "sites", "missing"]
    assert value["replay"] is None
    assert value["totals"]["num_objs"] == 69200
    sizes = [cache["cache_bytes"] for cache in value["caches"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 157
    assert value["zones"][1]["name"] == "DMA32"
    assert value["missing"] == [f"{PROC / 'vmallocinfo'}: no such file"]
    assert len(json.loads(out(capsys, "--json", "--rows", "3", str(PROC)))["caches"]) == 3


def test_a_replay(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, BOOT)
    assert text.startswith(f"{BOOT}: ended, ")
    assert "5,066 events, 2,391 requests, 0 refused\n" in text
    assert " Active / Total Objects" in text
    assert "NODE ZONE" in text
    assert "ALLOCS FAILED CALL SITE" in text
    value = json.loads(out(capsys, "--json", "--seed", "3", BOOT))
    assert value["replay"]["state"] == "ended"
    assert value["replay"]["events"] == 5066
    assert value["sites_are"] == "call sites"
    assert value["sites"][0]["bytes"] >= value["sites"][-1]["bytes"]
    assert main(["replay", "--seed", "3", "--proc", "slabinfo", BOOT]) == 0
    listed = {line.split()[0]: int(line.split()[2]) for line in capsys.readouterr().out.splitlines()[2:]}
    assert {cache["name"]: cache["num_objs"] for cache in value["caches"]} == listed


def test_a_replay_on_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(out(capsys, "--json", "--machine", "x86_64", "--set", "ram=1G", "--set", "cpus=2", BOOT))
    assert sum(zone["managed"] for zone in value["zones"]) > 200_000


def test_a_replay_from_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with open(BOOT, "rb") as trace:
        done = subprocess.run(
            [sys.executable, "-m", "kmem", "top", "-"],
            stdin=trace,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("standard input: ended, ")


def test_names_are_printed_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slabinfo").write_text(
        "slabinfo - version: 2.1\n[bold]\x1b[2Jx 1 1 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\n"
    )
    text = out(capsys, "--view", "caches", str(tmp_path))
    assert text.endswith(" [bold]\\x1b[2Jx\n")
    assert "\x1b" not in text


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (PROC / "slabinfo").read_text()
    (tmp_path / "slabinfo").write_text(text[: text.index("dentry") + 12])
    line = text[: text.index("dentry")].count("\n") + 1
    message = error(capsys, str(tmp_path))
    assert f"{tmp_path / 'slabinfo'}:{line}: not the line of a slab cache; the file may be cut off\n" in message
    assert "nowhere: cannot be opened: No such file" in error(capsys, str(tmp_path / "nowhere"))
    assert "slabinfo is a file of /proc, and no trace; name its folder" in error(capsys, str(tmp_path / "slabinfo"))
    (tmp_path / "slabinfo").unlink()
    assert "name a folder with copies of these files" in error(capsys, str(tmp_path))
    assert "--machine is for replays; name a trace" in error(capsys, "--machine", "x86_64")
    assert "--speed is for replays" in error(capsys, "--speed", "2", str(PROC))
    assert "are for the screen" in error(capsys, "--speed", "2", BOOT)
    assert "are for the screen" in error(capsys, "--paused", "--once", BOOT)
    assert "see 'kmem top --help'" in error(capsys, "-s", "x")
    assert "see 'kmem top --help'" in error(capsys, "-d", "0")
    assert "no machine 'nothing'" in error(capsys, "--machine", "nothing", BOOT)
    assert "unknown setting" in error(capsys, "--set", "nothing=1", BOOT)
    (tmp_path / "empty").write_text("")
    error(capsys, str(tmp_path / "empty"))


def test_what_only_root_may_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = Path.open

    def refuse(self: Path, *args, **kwargs):
        if self.name in ("slabinfo", "vmallocinfo"):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("kmem.cli.top._PROC", PROC)
    assert main(["top", "--once"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("NODE ZONE")
    assert f"kmem: {PROC / 'slabinfo'}: only root may read it; run sudo " in captured.err
    assert "only root may read it; run sudo" in error(capsys, "--once", "--view", "caches")


def test_without_textual(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("kmem.cli.top._interactive", lambda: True)
    monkeypatch.delitem(sys.modules, "kmem.report.top", raising=False)
    for name in [name for name in sys.modules if name == "textual" or name.startswith("textual.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    expected = "kmem: the screen of kmem top needs textual; pip install 'kmem[top]', or print text with --once\n"
    for source in (str(PROC), BOOT):
        assert error(capsys, source) == expected
    assert out(capsys, "--once", "--view", "zones", str(PROC)).startswith("NODE ZONE")


def test_the_screen_takes_no_trace_from_its_keyboard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kmem.cli.top._interactive", lambda: True)
    assert "name a file, or give --once" in error(capsys, "-")


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *args: str, env: dict[str, str] | None = None) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        path = str(Path(kmem.__file__).parents[1])  # what is tested, built or installed
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": path, **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kmem", "top", *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        self.text = b""

    def read_until(self, wanted: bytes, seconds: float = 60) -> None:
        """Read what the program writes, until it has written this."""
        end = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} does not come: {self.text[-400:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self, seconds: float = 30) -> int:
        """Read the rest; return the exit status."""
        until = time.monotonic() + seconds
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            if time.monotonic() > until:
                self.process.kill()
                raise AssertionError(f"does not end: {self.text[-400:]!r}")
            if select.select([self.master], [], [], 0.05)[0]:
                self.text += os.read(self.master, 65536)
        status = self.process.wait()
        self.after = termios.tcgetattr(self.slave)
        os.close(self.master)
        os.close(self.slave)
        return status

    def restored(self) -> bool:
        """Whether modes, cursor and screen are those of before."""
        leaves, shows = self.text.rfind(b"\x1b[?1049l"), self.text.rfind(b"\x1b[?25h")
        inside, hides = self.text.rfind(b"\x1b[?1049h"), self.text.rfind(b"\x1b[?25l")
        return self.after == self.before and leaves > inside >= 0 and shows > hides


@needs_textual
@pytest.mark.parametrize(("keys", "status"), [(b"q", 0), (b"\x03", 130)])
@pytest.mark.parametrize("source", [str(PROC), BOOT])
def test_keys_leave_the_terminal_as_it_was(source: str, keys: bytes, status: int) -> None:
    terminal = Terminal(source)
    terminal.read_until(b"dentry" if source == str(PROC) else b"ended")
    terminal.press(keys)
    assert terminal.end() == status
    assert terminal.restored()
    assert b"Traceback" not in terminal.text


@needs_textual
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_the_terminal_as_it_was(number: signal.Signals) -> None:
    terminal = Terminal("--speed", "0.001", BOOT)
    terminal.read_until(b"replaying")
    terminal.process.send_signal(number)
    assert terminal.end() == 130
    assert terminal.restored()
    assert b"Traceback" not in terminal.text


@needs_textual
def test_errors_come_after_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("# tracer: nop\n")
    terminal = Terminal(str(path))
    assert terminal.end() == 2
    assert terminal.restored()
    assert b"kmem: " in terminal.text.rpartition(b"\x1b[?1049l")[2]
    (tmp_path / "slabinfo").write_text("nonsense")
    terminal = Terminal(str(tmp_path))  # known before any screen
    assert terminal.end() == 2
    assert b"\x1b[?1049h" not in terminal.text
    assert b"slabinfo:1: not a slabinfo of version 2" in terminal.text


def test_terminals_that_cannot_move_their_cursor_get_text() -> None:
    terminal = Terminal("--view", "zones", str(PROC), env={"TERM": "dumb"})
    assert terminal.end() == 0
    assert terminal.text.startswith(b"NODE ZONE")
