# SPDX-License-Identifier: GPL-2.0-only
"""Bytes of objects and SLUB's reports against recorded kernels; an altered byte or line is found where it stands."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zstandard

from kmem.cli import main
from kmem.errors import InputError, NotSupportedError
from kmem.machine.records import Record, read_records
from kmem.mm.report import hex_dump
from kmem.verify import kind_of, verify
from kmem.verify.messages import masked, messages_beside, read_sections
from kmem.verify.object_bytes import verify_object_bytes
from kmem.verify.random_sequence import sequence_of
from kmem.verify.result import Result

DATA = Path(__file__).parent.parent / "data" / "object-bytes"
RECORDINGS = sorted(DATA.glob("*/*.jsonl.zst"))
# What the recorder notes of a cache that follows from the request.
GEOMETRY = ("object_size", "size", "inuse", "offset", "red_left_pad", "objects", "min_partial", "cpu_partial_slabs")


def records_of(path: Path) -> list[Record]:
    return [record for _, record in read_records(path)]


def kind_from_name(path: Path) -> str:
    if path.name.startswith("log") or (path.parent.name == "misuse-i386" and "5" in path.name):
        return "reports-oops"
    return "poison" if path.name.startswith("poison") else "reports"


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.name.split('.')[0]}")
def test_recording_is_identical(path: Path) -> None:
    assert kind_of(path) == kind_from_name(path)
    result = verify(path)
    assert [difference.describe() for difference in result.differences] == []
    assert result.held and result.operations == result.identical
    answers = [record for record in records_of(path) if record.get("op") in ("k", "K", "K!", "h", "c", "cf")]
    assert result.operations >= len(answers)


class Copy:
    """A recording with its context, to be altered."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder / source.parent.name
        shutil.copytree(source.parent, self.folder)
        for file in self.folder.iterdir():
            file.chmod(0o644)
        self.path = self.folder / source.name
        self.records = records_of(self.path)
        messages = messages_beside(self.path)
        assert messages is not None
        self.messages = messages
        self.lines = zstandard.decompress(messages.read_bytes()).decode().splitlines()

    def verify(self) -> Result:
        kind = kind_of(self.path)
        lines = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in self.records)
        self.path.write_bytes(zstandard.compress(lines))
        self.messages.write_bytes(zstandard.compress("\n".join(self.lines).encode() + b"\n"))
        return verify_object_bytes(self.path, kind)

    def find(self, condition: Callable[[Record], object]) -> Record:
        return next(record for record in self.records if condition(record))


@pytest.fixture
def poison(tmp_path: Path) -> Copy:
    return Copy(DATA / "misc-amd64" / "poison.jsonl.zst", tmp_path)


@pytest.fixture
def reports(tmp_path: Path) -> Copy:
    return Copy(DATA / "misc-amd64" / "reports.jsonl.zst", tmp_path)


# ---------------------------------------------------------------------- altered recordings


@pytest.mark.parametrize("field", GEOMETRY)
def test_an_altered_layout_is_found(poison: Copy, field: str) -> None:
    record = poison.find(lambda r: r.get("op") == "cf" or r.get("op") == "c")
    record[field] += 8 if field in ("size", "inuse", "offset") else 1
    try:
        result = poison.verify()
    except InputError:
        return  # no slab can be like that
    assert any(field in difference.where for difference in result.differences)


@pytest.mark.parametrize("label", ["fresh", "fresh_zero", "written", "neighbour", "freed1", "freed2"])
@pytest.mark.parametrize("place", [0, 8, 20, 33, 40, 47, 116])
def test_one_altered_byte_is_found(poison: Copy, label: str, place: int) -> None:
    """Red zone, object, end of it, right red zone, free pointer, its last byte, padding; tracks are 48 to 111."""
    record = poison.find(lambda r: r.get("op") == "h" and r["label"] == label and r["size"] == 120)
    data = bytearray.fromhex(record["hex"])
    data[place] ^= 0x10
    record["hex"] = data.hex()
    (difference,) = poison.verify().differences
    assert difference.op == record["i"] and difference.where == "h, bytes"


def test_memory_that_nobody_wrote_is_not_compared_and_all_else_is(tmp_path: Path) -> None:
    copy = Copy(DATA / "init-on-alloc-off" / "poison.jsonl.zst", tmp_path)
    assert any("what nobody wrote was not compared" in note for note in copy.verify().notes)
    written = copy.find(lambda r: r.get("op") == "h" and r["label"] == "written" and r["red_left_pad"] == 0)
    data = bytearray.fromhex(written["hex"])
    data[3] ^= 1
    written["hex"] = data.hex()
    (difference,) = copy.verify().differences
    assert difference.op == written["i"]


def test_bytes_of_tracks_are_not_compared(poison: Copy) -> None:
    record = poison.find(lambda r: r.get("op") == "h" and r["size"] == 120)
    data = bytearray.fromhex(record["hex"])
    data[48:112] = bytes(64)
    record["hex"] = data.hex()
    assert poison.verify().held


def test_another_random_number_moves_every_free_pointer(poison: Copy) -> None:
    record = poison.find(lambda r: r.get("op") in ("c", "cf"))
    record["random"] = hex(int(record["random"], 16) ^ 1)
    wrong = poison.verify().differences
    assert wrong and all(difference.where == "h, bytes" for difference in wrong)


@pytest.mark.parametrize("field", ["inuse", "frozen", "cpuslab", "npart", "nslabs", "idx", "addr"])
@pytest.mark.parametrize("op", ["k", "K"])
def test_an_altered_answer_is_found(poison: Copy, op: str, field: str) -> None:
    record = [r for r in poison.records if r.get("op") == op][1]
    record[field] = hex(int(record[field], 16) + 8) if field == "addr" else record[field] + 1
    try:
        result = poison.verify()
    except InputError:
        return
    assert result.differences and result.differences[0].op == record["i"]


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r"First byte 0x41 instead of 0xcc", "First byte 0x41 instead of 0xbb"),
        (r"@offset=876", "@offset=877"),
        (r"used=3 fp", "used=4 fp"),
        (r"Object   ffff888005fb3368: 6b 6b 6b a5", "Object   ffff888005fb3368: 6b 6b 6b a4"),
        (r"Restoring Right Redzone", "Restoring Left Redzone"),
        (r"FIX rep_right: Object at 0xffff888005fb3308 not freed", "FIX rep_right: Object at 0xffff888005fb3300"),
        (r"Freed in", "Allocated in"),
        (r"Objects remaining in rep_destroy on", "Objects remaining in rep_right on"),
        (r"at mm/slab_common.c:493", "at mm/slab_common.c:494"),
        (r"<3>(\[.*\]) FIX", r"<4>\1 FIX"),
    ],
)
def test_one_altered_line_is_found(reports: Copy, pattern: str, new: str) -> None:
    place = next(n for n, line in enumerate(reports.lines) if re.search(pattern, line))
    reports.lines[place] = re.sub(pattern, new, reports.lines[place])
    result = reports.verify()
    assert not result.held
    assert "line" in result.differences[0].where


@pytest.mark.parametrize("pattern", ["Call Trace:", "Redzone  ffff888005fb3300", "=====", "Marking all objects used"])
def test_a_line_left_out_or_said_twice_is_found(reports: Copy, pattern: str) -> None:
    place = next(n for n, line in enumerate(reports.lines) if pattern in line)
    line = reports.lines.pop(place)
    assert not reports.verify().held
    reports.lines[place:place] = [line, line]
    assert not reports.verify().held


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r"^<3>\[ +\d+\.\d+\]", "<3>[   99.000000]"),
        (r"age=\d+ cpu=\d+ pid=\d+", "age=77 cpu=3 pid=4242"),
        (r"PID: \d+ Comm: sh", "PID: 1 Comm: other"),
        (r"Tainted: G    B", "Tainted: P    B"),
        (r"run_line\+0x[0-9a-f]+", "main+0x1"),
        (r"flags=0x[0-9a-f]+", "flags=0x0"),
        (r"RAX: [0-9a-f]+", "RAX: 0123456789abcdef"),
        (r"^<4>(\[.*\])  \? .*", r"<4>\1  ? something_else+0x1/0x2"),
    ],
)
def test_what_is_masked_may_differ(reports: Copy, pattern: str, new: str) -> None:
    before = list(reports.lines)
    reports.lines = [re.sub(pattern, new, line) for line in reports.lines]
    assert reports.lines != before
    assert reports.verify().held


def test_reports_without_messages_are_refused(reports: Copy) -> None:
    reports.messages.unlink()
    with pytest.raises(InputError, match=r"no kernel messages beside it.*dmesg\.txt"):
        verify(reports.path)


def test_a_shared_cache_is_refused(reports: Copy) -> None:
    record = reports.find(lambda r: r.get("op") == "c")
    record["name"] = "kmalloc-128"
    with pytest.raises(NotSupportedError, match="shared with kmalloc-128.*slub_nomerge"):
        reports.verify()


def test_a_cache_of_another_recording_is_named(reports: Copy) -> None:
    reports.find(lambda r: r.get("op") == "k")["cid"] = 99
    with pytest.raises(InputError, match="operation 3: cache 99 was not made in this recording"):
        reports.verify()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("crash-double-free-plain", "kernel BUG at mm/slub.c:419!", "kernel BUG at mm/slub.c:420!"),
        ("crash-freelist-corrupt", "non-canonical address 0xb133", "non-canonical address 0xb134"),
        ("crash-kfree-invalid", "invalid opcode", "invalid operand"),
    ],
)
def test_another_death_is_found(tmp_path: Path, name: str, old: str, new: str) -> None:
    copy = Copy(DATA / name / "log.jsonl.zst", tmp_path)
    copy.lines = [line.replace(old, new) for line in copy.lines]
    (difference,) = copy.verify().differences
    assert "none of" in difference.message and new in str(difference.expected)


def test_the_page_that_is_freed_twice(tmp_path: Path) -> None:
    copy = Copy(DATA / "crash-page-double-free-order3" / "log.jsonl.zst", tmp_path)
    copy.records[2]["pc"] += 1
    (difference,) = copy.verify().differences
    assert (difference.op, difference.where, difference.expected, difference.got) == (3, "f, pc", 96, 95)


# ---------------------------------------------------------------------- parts


def test_sections_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "x.dmesg.txt"
    path.write_text(
        "<6>[    0.1] before\n<4>[    0.2] ORACLE-MARK BEGIN one\n<3>[    0.3] BUG a (Not tainted): b\n"
        "<6>[    0.4] a notice\n<4>[    0.5] ORACLE-MARK END one\n<3>[    0.6] between\n"
    )
    (section,) = read_sections(path)
    assert (section.title, section.lines) == ("one", [(3, "BUG a (Not tainted): b")])
    assert masked(section.lines) == [(3, "BUG a (*): b")]


def test_masking_keeps_what_can_be_compared() -> None:
    lines = [
        (4, "WARNING: CPU: 0 PID: 107 at mm/slab.h:665 cache_from_obj+0xa1/0x120"),
        (4, "CPU: 0 PID: 107 Comm: sh Not tainted 6.1"),
        (4, "RIP: 0010:cache_from_obj+0xa1/0x120"),
        (4, "EAX: 00000001 EBX: 0000000b"),
        (4, " close_pdeo+0xa3/0x130"),
        (4, "Disabling lock debugging due to kernel taint"),
        (4, "Mem-Info:"),
        (4, "active_anon:1"),
        (4, "0 pages hwpoisoned"),
        (3, "FIX x: y"),
    ]
    assert masked(lines) == [
        (4, "WARNING: at mm/slab.h:665"),
        (4, "CPU: *"),
        (4, "Mem-Info: *"),
        (3, "FIX x: y"),
    ]
    assert masked(lines, source_lines=False)[0] == (4, "WARNING: at mm/slab.h:*")


def test_hex_dump_of_a_short_last_line() -> None:
    assert list(hex_dump("Object   ", 0xC2E6A288, b"AB\x00" + bytes(14), 8)) == [
        "Object   c2e6a288: 41 42 00 00 00 00 00 00 00 00 00 00 00 00 00 00  AB..............",
        "Object   c2e6a298: 00                                               .",
    ]


@pytest.mark.parametrize(
    ("count", "chains", "order"),
    [
        (3, [], [0, 1, 2]),
        (4, [[2, 0], [3, 2]], [1, 3, 2, 0]),
        (3, [[0, 1, 2], [2, 0]], [0, 1, 2]),  # it would close the circle, which says nothing new
        (4, [[0, 1], [0, 2]], [0, 1, 2, 3]),  # what contradicts is left out
        (2, [[5, 0]], [0, 1]),
    ],
)
def test_sequence_from_what_was_seen(count: int, chains: list[list[int]], order: list[int]) -> None:
    assert sequence_of(count, chains) == order


def test_a_folder_skips_what_no_recording_of_its_nature_could_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(__file__).parent.parent / "data" / "misc" / "amd64" / "vmalloc-exact.jsonl.zst"
    records = [record for record in records_of(source) if record.get("op") != "B" or record["i"] < 2]
    path = tmp_path / "vmalloc.jsonl"
    path.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    assert main(["verify", str(tmp_path)]) == 2
    assert "nothing compared; 1 recording skipped" in capsys.readouterr().out
    shutil.copytree(DATA / "misc-amd64", tmp_path / "misc")
    assert main(["verify", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "vmalloc: skipped\n    note: more is freed lazily" in out
    assert "2 identical, 1 skipped" in out
    assert main(["verify", "--json", str(tmp_path)]) == 0
    answer = orjson.loads(capsys.readouterr().out)
    assert answer["held"] and answer["totals"]["skipped"] == 1
    assert "purge worker" in answer["skipped"][0]["reason"]
    assert main(["verify", str(path), str(tmp_path / "misc")]) == 2
    assert "2 identical, 1 refused" in capsys.readouterr().out
