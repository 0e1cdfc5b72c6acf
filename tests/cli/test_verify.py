# SPDX-License-Identifier: GPL-2.0-only
"""``kmem verify``: verdicts, totals, exit status, and input that is not what it should be."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import orjson
import pytest

from kmem.cli import main
from kmem.errors import InputError, NotSupportedError
from kmem.verify import SUPPORTED, find_recordings, kind_of

DATA = Path(__file__).parent.parent / "data"
KREALLOC = DATA / "geometry/i386-nomerge/krealloc.jsonl.gz"
PAGES = DATA / "pages/amd64-512M/pages-00.jsonl.gz"


def records(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_bytes(gzip.compress(b"\n".join(orjson.dumps(row) for row in rows) + b"\n", 1))
    return path


def copy_with_context(recording: Path, folder: Path) -> Path:
    for file in recording.parent.glob("*.txt"):
        shutil.copy(file, folder)
    return Path(shutil.copy(recording, folder))


def altered(recording: Path, folder: Path, operation: str, key: str) -> tuple[Path, int]:
    """A copy in which one number of one operation, somewhere in the middle, is off by one."""
    path = copy_with_context(recording, folder)
    rows = records(path)
    places = [i for i, row in enumerate(rows) if row.get("op") == operation and isinstance(row.get(key), int)]
    row = rows[places[len(places) // 2]]
    row[key] += 1
    write(path, rows)
    return path, row["i"]


def test_identical(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(KREALLOC)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "i386-nomerge/krealloc: 152/152 operations identical"
    assert lines[-1] == "total: 152/152 operations identical; 1 recording: 1 identical"


def test_a_folder_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    folder = DATA / "geometry/i386-nomerge"
    assert main(["verify", "--json", str(folder), str(KREALLOC)]) == 0
    answer = json.loads(capsys.readouterr().out)
    names = [entry["name"] for entry in answer["recordings"]]
    assert names == [f"i386-nomerge/{name}" for name in ("geometry-nomerge", "kmalloc-dma_account", "krealloc")]
    assert answer["held"] is True
    assert answer["refused"] == []
    assert answer["totals"]["identical"] == answer["totals"]["recordings"] == 3
    assert answer["totals"]["operations"] == answer["totals"]["operations_identical"] > 500
    for entry in answer["recordings"]:
        assert set(entry) >= {"path", "name", "kind", "operations", "identical", "end_state", "differences", "notes"}


def test_one_altered_number_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, operation = altered(KREALLOC, tmp_path, "z", "ksize")
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert "151/152 operations identical" in out
    assert f"operation {operation}:" in out
    assert "1 DIFFERENT" in out


def test_stop_at_the_first_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, operation = altered(PAGES, tmp_path, "a", "pfn")
    assert main(["verify", "--stop-at-first", str(path), str(KREALLOC)]) == 1
    out = capsys.readouterr().out
    assert f"operation {operation}:" in out
    assert out.count("expected") == 1
    assert "krealloc" not in out
    assert main(["verify", "--stop-at-first", "--json", str(path)]) == 1
    (entry,) = json.loads(capsys.readouterr().out)["recordings"]
    assert [difference["op"] for difference in entry["differences"]] == [operation]
    assert entry["identical"] < entry["operations"]


def test_a_difference_in_the_end_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_with_context(PAGES, tmp_path)
    rows = records(path)
    last = max(i for i, row in enumerate(rows) if row.get("t") == "dump")
    place = next(i for i in range(last, len(rows)) if rows[i].get("t") == "free" and len(rows[i]["pfns"]) > 1)
    rows[place]["pfns"][:2] = reversed(rows[place]["pfns"][:2])
    write(path, rows)
    assert main(["verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert "25612/25612 operations identical, end state DIFFERS" in out
    assert "1 DIFFERENT" in out


KINDS = {
    "logs": [{"t": "dump", "name": "before_request"}, {"t": "enddump"}],
    "traces-exact": [{"t": "dump", "name": "before"}, {"t": "cache"}, {"t": "vmap"}, {"t": "enddump"}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_are_not_supported_are_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "recording.jsonl.gz", KINDS[kind])
    with pytest.raises(NotSupportedError):
        kind_of(path)
    assert main(["verify", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"kmem: {path}: {kind} recordings are not supported\n"
    assert captured.out == "total: nothing compared; 1 recording refused\n"
    # One that can be verified beside it is verified, and the exit status still says that something was left out.
    assert main(["verify", str(path), str(KREALLOC)]) == 2
    assert "1 identical, 1 refused" in capsys.readouterr().out


def test_kernel_messages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "reports.dmesg.txt"
    path.write_text("[    1.234567] ORACLE-MARK 1\n[    1.234568] BUG kmalloc-64: Redzone overwritten\n")
    with pytest.raises(NotSupportedError, match="the recording that they belong to"):
        kind_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello\n", "line|not a recording"),
        (b"\x7fELF\x02\x01\x01" + bytes(5000), "not a recording"),
        (b"[1, 2, 3]\n", "not a recording"),
        (b'{"a": 1}\n', "unknown kind of recording (operations and records: none)"),
        (b'{"i": 1, "op": "warp"}\n', "unknown kind of recording (operations and records: warp)"),
        (b'{"i": 1, "op": "a"\n', "JSON"),
        (gzip.compress(b'{"i": 1, "op": "a"}\n', mtime=0)[:-9], "damaged or cut off"),
        (b"\x1f\x8b" + random.Random(1).randbytes(500), "damaged or cut off"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
    ],
)
def test_bad_input(content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recording.jsonl.gz"
    path.write_bytes(content)
    assert main(["verify", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kmem: {path}")
    assert any(part in error for part in message.split("|")), error
    assert error.count("\n") == 1
    assert "internal error" not in error


def test_a_damaged_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kmalloc.csv"
    path.write_bytes(b"type,gfp,size_from,size_to,ksize,cache,pgorder\nnormal,what\n")
    assert main(["verify", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"kmem: {path}:2: ")


@pytest.mark.parametrize("cut", [0.01, 0.3, 0.7, 0.999])
def test_a_recording_that_is_cut_off(cut: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_with_context(PAGES, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    assert main(["verify", str(path)]) == 2
    assert "damaged or cut off" in capsys.readouterr().err


@pytest.mark.parametrize("value", [99, -5, 2**63, 1e300, "x", None, [], {}])
@pytest.mark.parametrize("key", ["order", "gfp"])
def test_absurd_values(key: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy_with_context(PAGES, tmp_path)
    rows = records(path)
    place = next(i for i, row in enumerate(rows) if row.get("op") == "a")
    rows[place][key] = value
    write(path, rows[: place + 200])
    status = main(["verify", "--stop-at-first", str(path)])
    captured = capsys.readouterr()
    assert "internal error" not in captured.err
    assert status in (1, 2)
    assert (status == 2) == captured.err.startswith(f"kmem: {path}")


def test_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"kmem: {tmp_path}/none: no such file or folder\n"
    assert main(["verify", str(tmp_path)]) == 2
    assert "no recording in this folder" in capsys.readouterr().err


def test_which_files_of_a_folder_are_recordings(tmp_path: Path) -> None:
    for name in ("b.jsonl.gz", "a.jsonl", "c.jsonl.zst", "kmalloc.csv", "cmdline.txt", "trace.txt.gz", "x.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/d.jsonl.gz").write_bytes(b"")
    found = find_recordings([tmp_path, tmp_path / "b.jsonl.gz"])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a.jsonl",
        "b.jsonl.gz",
        "c.jsonl.zst",
        "deep/d.jsonl.gz",
        "kmalloc.csv",
    ]
    with pytest.raises(InputError, match="empty"):
        kind_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("kind", [kind for kind in SUPPORTED if (DATA / kind).is_dir()])
def test_kinds_are_told_by_content(kind: str, tmp_path: Path) -> None:
    for path in find_recordings([DATA / kind]):
        assert kind_of(path) == kind
        assert kind_of(Path(shutil.copy(path, tmp_path / "renamed"))) == kind
