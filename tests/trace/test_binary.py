# SPDX-License-Identifier: GPL-2.0-only
"""Binary recordings: the same event table as the text that the recorder's own tool makes of them."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import zstandard

from kmem.errors import InputError, KmemError
from kmem.trace import open_trace, read_table
from kmem.trace.reader import TraceStats
from kmem.trace.symbols import read_kallsyms

DATA = Path(__file__).parent.parent / "data" / "traces"
KALLSYMS = DATA.parent / "kallsyms" / "amd64.txt.gz"

# recording, its text, what the tool that wrote the text did with nanoseconds
TWINS = [
    ("v6.trace.dat.xz", "v6.trace-cmd-report.txt.gz", "rounded"),
    ("v7.trace.dat", "v7.trace-cmd-report.txt.gz", "rounded"),
    ("amd64.perf.data.zst", "amd64.perf-script.txt.gz", "cut"),
]


def table_and_stats(path: Path, **options: object) -> tuple[pa.Table, TraceStats]:
    with open_trace(path, **options) as trace:
        table = pa.Table.from_batches([batch.to_arrow() for batch in trace])
        return table, trace.stats


def plain(table: pa.Table) -> pa.Table:
    """The table without dictionaries, which need not be numbered alike."""
    columns = []
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        columns.append(column.combine_chunks())
    return pa.table(columns, names=table.column_names)


def microseconds(table: pa.Table, how: str) -> pa.Table:
    """The table with the times that a text of six digits has."""
    time = table["time_ns"]
    if how == "rounded":
        time = pc.add(time, 500)
    at = table.column_names.index("time_ns")
    return table.set_column(at, "time_ns", pc.multiply(pc.divide(time, 1000), 1000))


@pytest.mark.parametrize(("binary", "text", "times"), TWINS, ids=[twin[0] for twin in TWINS])
def test_recording_and_text_give_the_same_table(binary: str, text: str, times: str) -> None:
    options = {"kallsyms": KALLSYMS} if "perf" in binary else {}
    found, stats = table_and_stats(DATA / binary, **options)
    expected, text_stats = table_and_stats(DATA / text)
    assert stats.skipped_events == text_stats.skipped_events
    assert stats.events == text_stats.events == found.num_rows > 3000
    assert (stats.damaged_lines, stats.lost_events, stats.notes) == (0, 0, ())
    found, expected = plain(microseconds(found, times)), plain(expected)
    for name in expected.column_names:
        assert found[name].equals(expected[name]), name


def test_call_chains_do_not_disturb_the_table() -> None:
    """The text of this one is cut short, so only its beginning can be compared."""
    found = plain(microseconds(read_table(DATA / "callchains.perf.data.zst", kallsyms=KALLSYMS), "cut"))
    expected = plain(read_table(DATA / "callchains.perf-script.txt.gz"))
    assert found.num_rows > expected.num_rows > 300
    for name in expected.column_names:
        assert found[name].slice(0, expected.num_rows).combine_chunks().equals(expected[name].combine_chunks()), name


def test_call_chains_are_kept_when_asked_for() -> None:
    with open_trace(DATA / "callchains.perf.data.zst", stacks=True, kallsyms=KALLSYMS) as trace:
        batches = list(trace)
        stacks = trace.stacks()  # type: ignore[attr-defined]
        symbols = trace.symbols  # type: ignore[attr-defined]
    codes = {int(code) for batch in batches for code in batch.stack}
    assert 100 < len(codes) <= len(stacks)
    first = [symbols.describe(address) for address in stacks[int(batches[0].stack[0])]]
    assert first[:3] == ["kmem_cache_free+0x254", "rcu_do_batch+0x19a", "rcu_core+0x1b5"]


@pytest.mark.parametrize("events", [2, 3, 1000])
def test_batches_of_any_size_give_the_same(events: int) -> None:
    for binary in ("v7.trace.dat", "amd64.perf.data.zst"):
        whole = plain(read_table(DATA / binary))
        with open_trace(DATA / binary, batch_events=events) as trace:
            batches = [batch.to_arrow() for batch in trace]
        assert max(batch.num_rows for batch in batches) <= events
        assert plain(pa.Table.from_batches(batches).unify_dictionaries()).equals(whole)


def test_packed_or_not_makes_no_difference(tmp_path: Path) -> None:
    raw = zstandard.ZstdDecompressor().decompressobj().decompress((DATA / "amd64.perf.data.zst").read_bytes())
    whole = plain(read_table(DATA / "amd64.perf.data.zst"))
    for name, content in (
        ("perf.data", raw),
        ("perf.data.gz", gzip.compress(raw, 1)),
        ("perf.data.xz", lzma.compress(raw, preset=0)),
    ):
        (tmp_path / name).write_bytes(content)
        assert plain(read_table(tmp_path / name)).equals(whole)


def test_without_symbols_call_sites_are_addresses() -> None:
    sites = plain(read_table(DATA / "amd64.perf.data.zst"))["call_site"].drop_null()
    assert len(sites) > 3000
    assert all(site.startswith("0xffffffff") for site in sites.to_pylist())


def test_facts_of_the_machine() -> None:
    with open_trace(DATA / "amd64.perf.data.zst") as trace:
        assert trace.nr_cpus == 1
        assert trace.pointer_digits == 16
        assert trace.facts["osrelease"] == "6.1.0-56-amd64"  # type: ignore[attr-defined]
        assert trace.facts["arch"] == "x86_64"  # type: ignore[attr-defined]
        assert "perf record" in trace.facts["cmdline"]  # type: ignore[attr-defined]
        assert trace.node_of_cpu == {0: 0}  # type: ignore[attr-defined]
    for name in ("v6.trace.dat.xz", "v7.trace.dat"):
        with open_trace(DATA / name) as trace:
            assert (trace.format, trace.nr_cpus) == ("trace.dat", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no line of /proc/kallsyms"), ("0000000000000000 T f\n" * 9, "all its addresses are zero")],
)
def test_useless_symbols_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "kallsyms").write_text(text)
    with pytest.raises(InputError, match=message):
        open_trace(DATA / "amd64.perf.data.zst", kallsyms=tmp_path / "kallsyms")


@pytest.mark.parametrize("binary", ["v6.trace.dat", "v7.trace.dat", "amd64.perf.data", "callchains.perf.data"])
def test_cut_off_anywhere_is_one_line(binary: str, tmp_path: Path) -> None:
    content = raw_bytes(binary)
    path = tmp_path / "cut"
    for part in range(1, 40):
        path.write_bytes(content[: max(len(content) * part // 40, 11)])
        with pytest.raises(KmemError, match=r"byte \d+") as error, open_trace(path) as trace:
            list(trace)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)


def raw_bytes(name: str) -> bytes:
    """A recording, unpacked."""
    found = next(path for path in sorted(DATA.glob(f"{name}*")))
    content = found.read_bytes()
    if found.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return lzma.decompress(content) if found.suffix == ".xz" else content


def test_addresses_of_more_digits_than_there_are_bits(tmp_path: Path) -> None:
    """Such a line names nothing; the others stay."""
    path = tmp_path / "kallsyms"
    lines = ["ffffffff81000000 T _text", "fffffffff81000000 T long", "f" * 400 + " T longer", "ffffffff81000100 t near"]
    path.write_text("\n".join(lines) + "\n")
    symbols = read_kallsyms(path)
    assert len(symbols) == 2
    assert [symbols.describe(0xFFFFFFFF81000000 + at) for at in (0x10, 0x110)] == ["_text+0x10", "near+0x10"]
