# SPDX-License-Identifier: GPL-2.0-only
"""The event table written to a file and read back, as it was and as other programs change it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zstandard

from kmem.cli import main
from kmem.errors import InputError
from kmem.replay.replay import replay
from kmem.report.export import convert
from kmem.trace import open_trace, read_table
from tests.trace.test_binary import DATA, plain

BOOT = DATA.parent / "boot.trace.txt.gz"
RECORDINGS = [BOOT, DATA / "hashed.trace.txt.gz", DATA / "i386.trace.txt.gz", DATA / "v7.trace.dat"]
ENDINGS = [(".parquet", "parquet"), (".arrow", "arrow")]


def written(recording: Path, folder: Path, ending: str, kind: str) -> Path:
    """The event table of a recording as a file."""
    path = folder / f"events{ending}"
    with open_trace(recording) as trace:
        convert(trace, path, kind)
    return path


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
@pytest.mark.parametrize(("ending", "kind"), ENDINGS)
def test_what_was_written_is_read_back(recording: Path, ending: str, kind: str, tmp_path: Path) -> None:
    path = written(recording, tmp_path, ending, kind)
    assert plain(read_table(path)).equals(plain(read_table(recording)))
    with open_trace(recording) as one, open_trace(path, batch_events=1000) as other:
        assert sum(map(len, one)) == sum(map(len, other)) > 1000
        assert (other.format, other.stats.damaged_lines, other.stats.notes) == (kind, 0, ())
        assert (one.nr_cpus, one.pointer_digits) == (other.nr_cpus, other.pointer_digits)
        for name in ("events", "lost_events", "lost_markers", "overwritten_events"):
            assert getattr(one.stats, name) == getattr(other.stats, name)
        assert other.progress == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize(("ending", "kind"), ENDINGS)
def test_a_replay_from_a_table_is_that_of_the_recording(ending: str, kind: str, tmp_path: Path) -> None:
    plain_run = replay(str(BOOT))
    run = replay(str(written(BOOT, tmp_path, ending, kind)))
    assert run.machine.digest() == plain_run.machine.digest()
    assert run.assumed == plain_run.assumed
    assert run.engine.nr_frees == plain_run.engine.nr_frees > 1000


def test_commands_take_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "events.parquet.zst"
    packed.write_bytes(zstandard.ZstdCompressor().compress(written(BOOT, tmp_path, ".parquet", "parquet").read_bytes()))
    found = {}
    for path in (BOOT, tmp_path / "events.parquet", packed):
        assert main(["stat", "--json", str(path)]) == 0
        found[path] = json.loads(capsys.readouterr().out)
        assert found[path]["slab"]["total"]["hits"] > 1000
        del found[path]["source"], found[path]["skipped_events"]  # what the table has no place for is not in it
    first, *others = found.values()
    assert others == [first, first]
    assert main(["convert", str(tmp_path / "events.parquet"), str(tmp_path / "again.arrow")]) == 0
    assert plain(read_table(tmp_path / "again.arrow")).equals(plain(read_table(BOOT)))


def test_a_part_of_the_rows_with_plain_strings_in_other_types(tmp_path: Path) -> None:
    """As a data frame library writes a table that was filtered."""
    whole = plain(read_table(BOOT))
    part = whole.filter(pc.field("event") == "kfree")
    for name, kind in (("cpu", pa.int64()), ("pid", pa.int64()), ("order", pa.float64()), ("comm", pa.large_string())):
        at = part.schema.names.index(name)
        part = part.set_column(at, name, part[name].cast(kind))
    pq.write_table(part.select(sorted(part.schema.names)), tmp_path / "part.parquet")
    assert plain(read_table(tmp_path / "part.parquet")).equals(whole.filter(pc.field("event") == "kfree"))


def test_columns_that_are_missing_are_noted(tmp_path: Path) -> None:
    pq.write_table(plain(read_table(BOOT)).drop_columns(["gfp_text", "node"]), tmp_path / "part.parquet")
    with open_trace(tmp_path / "part.parquet") as trace:
        batches = list(trace)
        assert [note for note in trace.stats.notes if "no columns gfp_text, node" in note]
    assert all((batch.node == -1).all() and not batch.gfp_text.any() for batch in batches)


def test_rows_that_no_kernel_has_are_damage(tmp_path: Path) -> None:
    table = plain(read_table(BOOT)).slice(0, 10)
    orders = [200 if row == 3 else 0 for row in range(10)]
    names = ["mm_page_alloc"] * 8 + ["sched_switch", None]
    table = table.set_column(table.schema.names.index("order"), "order", pa.array(orders, pa.uint8()))
    table = table.set_column(table.schema.names.index("event"), "event", pa.array(names))
    pq.write_table(table, tmp_path / "damaged.parquet")
    with open_trace(tmp_path / "damaged.parquet") as trace:
        assert sum(map(len, trace)) == 7
        stats = trace.stats
    assert (stats.damaged_lines, stats.first_damage) == (1, f"{tmp_path / 'damaged.parquet'} row 4")
    assert stats.skipped_events == {"sched_switch": 1, "(none)": 1}


@pytest.mark.parametrize(("ending", "kind"), ENDINGS)
def test_files_that_are_no_event_table(ending: str, kind: str, tmp_path: Path) -> None:
    path = written(BOOT, tmp_path, ending, kind)
    whole = path.read_bytes()
    for content, said in (
        (whole[:2000], "is damaged, or no"),
        (whole[:8], "is damaged, or no"),
        (whole[:-8] + b"\xff" * 8, "is damaged, or no"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said) as error:
            read_table(path)
        assert error.value.file == str(path)
    other = pa.table({"name": ["x"]})
    if kind == "parquet":
        pq.write_table(other, path)
    else:
        with pa.ipc.new_file(path, other.schema) as writer:
            writer.write_table(other)
    with pytest.raises(InputError, match="no column time_ns"):
        read_table(path)


def test_a_name_of_a_column_that_is_no_text(tmp_path: Path) -> None:
    path = written(BOOT, tmp_path, ".arrow", "arrow")
    content = path.read_bytes()
    assert content.count(b"bytes_alloc") >= 2
    path.write_bytes(content.replace(b"bytes_alloc", b"bytes_\xec\xff\xfe\xfd\xfc"))
    with pytest.raises(InputError, match="is damaged, or no arrow file"):
        read_table(path)


def test_a_column_of_a_type_that_does_not_fit(tmp_path: Path) -> None:
    table = plain(read_table(BOOT)).slice(0, 10)
    table = table.set_column(0, "time_ns", pa.array(["now"] * 10))
    pq.write_table(table, tmp_path / "odd.parquet")
    with pytest.raises(InputError, match="column time_ns of type string does not fit int64"):
        read_table(tmp_path / "odd.parquet")
