# SPDX-License-Identifier: GPL-2.0-only
"""Folders with raw ring-buffer pages, made of recordings that are in the tests' data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

from kmem.cli import main
from kmem.errors import InputError
from kmem.trace import open_trace, read_table
from kmem.trace import tracing_data as module
from kmem.trace.dat_file import DatFile
from kmem.trace.mapped_file import MappedFile
from tests.trace.test_binary import DATA, plain, raw_bytes
from tests.trace.test_binary_made import COMMS, by_cpu, stream
from tests.trace.writers import Kernel


def unpacked(recording: Path, folder: Path) -> Path:
    """Lay a trace.dat out as tracefs had it.

    folder/
        events/header_page
        events/GROUP/EVENT/format
        per_cpu/cpuN/trace_pipe_raw      the pages, as the trace.dat has them
        saved_cmdlines, kallsyms
    """
    formats: list[tuple[str, bytes]] = []
    headers: list[str] = []
    symbols: list[bytes] = []
    add, parse = module.TracingData.add_format, module.parse_fields

    def add_format(data: module.TracingData, text: bytes, system: str) -> None:
        formats.append((system, text))
        add(data, text, system)

    def parse_fields(text: str, most_bytes: int) -> dict[str, module.FieldFormat]:
        headers.append(text)
        return parse(text, most_bytes)

    with (
        mock.patch.object(module.TracingData, "add_format", add_format),
        mock.patch.object(module, "parse_fields", parse_fields),
        mock.patch.object(module, "Symbols", lambda text: symbols.append(text)),
    ):
        file = MappedFile(recording.open("rb"), str(recording))
        dat = DatFile(file)
    write(folder / "events" / "header_page", headers[0].encode("latin-1"))
    for number, (system, text) in enumerate(formats):
        name = text.split()[1].decode() if text.startswith(b"name:") else f"odd{number}"
        write(folder / "events" / system / name / "format", text)
    for cpu in range(max(dat.nr_cpus, 1)):
        write(folder / "per_cpu" / f"cpu{cpu}" / "trace_pipe_raw", b"")
    for each in dat.streams:
        if not each.buffer:
            pages = b"".join(bytes(window) for window, _ in dat.windows(each))
            write(folder / "per_cpu" / f"cpu{each.cpu}" / "trace_pipe_raw", pages)
    write(folder / "saved_cmdlines", "".join(f"{pid} {comm}\n" for pid, comm in dat.data.comms.items()).encode())
    if symbols:
        write(folder / "kallsyms", symbols[0])
    if dat.clock:
        write(folder / "trace_clock", f"global [{dat.clock}] counter\n".encode())
    file.close()
    return folder


def write(path: Path, content: bytes) -> None:
    """Write a file and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def v7(tmp_path: Path) -> Path:
    """The recording of version 7 as a folder."""
    return unpacked(DATA / "v7.trace.dat", tmp_path / "tracing")


@pytest.mark.parametrize("name", ["v6.trace.dat", "v7.trace.dat"])
def test_folder_and_trace_dat_give_the_same_table(name: str, tmp_path: Path) -> None:
    recording = tmp_path / name
    recording.write_bytes(raw_bytes(name))
    folder = unpacked(recording, tmp_path / "tracing")
    expected = plain(read_table(recording))
    found = plain(read_table(folder))
    assert found.num_rows == expected.num_rows > 3000
    for column in expected.column_names:
        assert found[column].equals(expected[column]), column
    with open_trace(recording) as one, open_trace(folder) as other:
        assert (list(map(len, one)), one.nr_cpus, one.pointer_digits) == (
            list(map(len, other)),
            other.nr_cpus,
            other.pointer_digits,
        )
        assert other.format == "trace_pipe_raw"
        assert one.stats.skipped_events == other.stats.skipped_events
        assert one.stats.events == other.stats.events
        assert other.progress[0] == other.progress[1]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("long_bytes", [4, 8])
def test_any_byte_order_and_word_size(big: bool, long_bytes: int, tmp_path: Path) -> None:
    kernel = Kernel(big, long_bytes)
    pages = [kernel.pages(each) for each in by_cpu(stream(kernel, 400, 3), 3)]
    recording = tmp_path / "trace.dat"
    recording.write_bytes(kernel.dat_6(pages, COMMS))
    expected = plain(read_table(recording))
    assert expected.num_rows > 300
    assert plain(read_table(unpacked(recording, tmp_path / "tracing"))).equals(expected)


def test_only_the_kmem_formats_are_needed(v7: Path, tmp_path: Path) -> None:
    expected = plain(read_table(v7))
    for each in list((v7 / "events").iterdir()):
        if each.is_dir() and each.name != "kmem":
            shutil.rmtree(each)
    for name in ("saved_cmdlines", "kallsyms", "trace_clock"):
        (v7 / name).unlink(missing_ok=True)
    found = plain(read_table(v7))
    kept = [name for name in expected.column_names if name not in ("comm", "call_site")]
    assert found.select(kept).equals(expected.select(kept))
    assert set(found["comm"].to_pylist()) <= {"<...>", "<idle>"}
    assert plain(read_table(v7 / "per_cpu")).equals(found)


def test_commands_take_a_folder(v7: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for source in (str(v7), str(DATA / "v7.trace.dat")):
        assert main(["stat", "--json", source]) == 0
        found[source] = json.loads(capsys.readouterr().out)
        del found[source]["source"]
        assert main(["replay", "--json", source]) == 0
        report = json.loads(capsys.readouterr().out)
        found[source]["replay"] = report["events"]
        assert main(["convert", source, str(tmp_path / "out.parquet")]) == 0
        found[source]["convert"] = capsys.readouterr().out
    one, other = found.values()
    assert one == other


def test_overwritten_events_are_counted(v7: Path) -> None:
    write(v7 / "per_cpu" / "cpu0" / "stats", b"entries: 10\noverrun: 17\ncommit overrun: 0\n")
    with open_trace(v7) as trace:
        list(trace)
        assert trace.stats.overwritten_events == 17


def test_damage_names_the_file_of_the_cpu(tmp_path: Path) -> None:
    kernel = Kernel()
    pages = [kernel.pages(each) for each in by_cpu(stream(kernel, 800, 2), 2)]
    (tmp_path / "trace.dat").write_bytes(kernel.dat_6(pages, COMMS))
    folder = unpacked(tmp_path / "trace.dat", tmp_path / "tracing")
    path = folder / "per_cpu" / "cpu1" / "trace_pipe_raw"
    content = bytearray(path.read_bytes())
    content[4096 + 8 : 4096 + 16] = b"\xff" * 8
    path.write_bytes(content)
    with open_trace(folder) as trace:
        rows = sum(map(len, trace))
        assert trace.stats.damaged_lines == 1
        assert trace.stats.first_damage == f"{path} byte 4096"
    assert 0 < rows < read_table(tmp_path / "trace.dat").num_rows


def damage(folder: Path, how: str) -> str:
    """Damage a folder; returns what the message is about."""
    raw = folder / "per_cpu" / "cpu0" / "trace_pipe_raw"
    header = folder / "events" / "header_page"
    if how == "no pages":
        shutil.rmtree(folder / "per_cpu")
        return "cannot be opened: a folder without per_cpu/cpuN/trace_pipe_raw"
    if how == "empty pages":
        raw.write_bytes(b"")
        return "trace_pipe_raw are empty"
    if how == "no header":
        header.unlink()
        return "header_page.*copy events/header_page"
    if how == "odd header":
        header.write_text("\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n")
        return "header_page.*no field 'data'"
    if how == "huge page":
        header.write_text(header.read_text().replace("size:4080", "size:16777216"))
        return "header_page.*a page of 16777232 bytes"
    if how == "no kmem":
        shutil.rmtree(folder / "events" / "kmem")
        return "describes no kmem event"
    if how == "huge format":
        next((folder / "events" / "kmem").glob("*/format")).write_bytes(b"x" * (2 << 20))
        return "format.*more than 1048576 bytes"
    if how == "noise":
        raw.write_bytes(b"\xa5" * 40960)
        return "trace_pipe_raw byte 8: no page with a fill level"
    raw.unlink()
    os.mkfifo(raw)
    return "trace_pipe_raw.*not an ordinary file"


@pytest.mark.parametrize(
    "how",
    [
        "no pages",
        "empty pages",
        "no header",
        "odd header",
        "huge page",
        "no kmem",
        "huge format",
        "noise",
        "pipe",
    ],
)
def test_what_cannot_be_right_is_one_line(how: str, v7: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = damage(v7, how)
    with pytest.raises(InputError, match=message) as error:
        open_trace(v7)
    assert str(error.value).startswith(str(v7))
    assert "\n" not in str(error.value)
    assert main(["stat", str(v7)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
