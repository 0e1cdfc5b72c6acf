# SPDX-License-Identifier: GPL-2.0-only
"""Text traces: every spelling of a line, damage, chunk boundaries, formats."""

from __future__ import annotations

import gzip
import lzma
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from kmem.errors import InputError
from kmem.trace import EVENT_SCHEMA, Event, EventFlag, open_trace, read_table

DATA = Path(__file__).parent.parent / "data"
BOOT = DATA / "boot.trace.txt.gz"
TRACES = [BOOT, *sorted((DATA / "traces").glob("*.txt.gz"))]

HEAD = "              sh-107     [000] ..s1.     6.605101: "
PERF = "            perf   730 [000]    45.082830: "
KMALLOC = (
    "kmalloc: call_site=f+0x1/0x2 ptr=ffff8880072b6e40 bytes_req=60 bytes_alloc=64 "
    "gfp_flags=GFP_KERNEL node=-1 accounted=false"
)


def scan(tmp_path: Path, text: str | bytes, **options):
    """Rows and counts of a trace made of `text`."""
    path = tmp_path / "trace.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with open_trace(path, **options) as trace:
        batches = list(trace)
        return pa.Table.from_batches([b.to_arrow() for b in batches]).to_pylist(), trace.stats


def one(tmp_path: Path, event: str, head: str = HEAD) -> dict:
    rows, stats = scan(tmp_path, head + event + "\n")
    assert stats.damaged_lines == 0
    assert len(rows) == 1
    return rows[0]


def expected_counts(path: Path) -> dict[str, int]:
    """Events of a trace by a plain regular expression, an independent count."""
    counts: dict[str, int] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        found = re.search(r"^[^\t#].* \d+\.\d{6,9}: +(?:kmem:)?([a-z_]+): ", line)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
    return counts


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name)
def test_every_event_of_a_recorded_trace_is_read(path: Path) -> None:
    counts = expected_counts(path)
    with open_trace(path) as trace:
        table = pa.Table.from_batches([batch.to_arrow() for batch in trace])
    stats = trace.stats
    assert table.schema == EVENT_SCHEMA
    found = {row["values"]: row["counts"] for row in table["event"].unify_dictionaries().value_counts().to_pylist()}
    assert found | stats.skipped_events == counts
    assert stats.events == table.num_rows > 300
    assert stats.damaged_lines == 0
    assert not stats.notes and not stats.unknown_gfp
    assert stats.lines == len(gzip.decompress(path.read_bytes()).splitlines())
    assert stats.bytes == len(gzip.decompress(path.read_bytes()))


def test_formats_are_told_apart() -> None:
    formats = {}
    for path in TRACES:
        with open_trace(path) as trace:
            formats[path.name] = trace.format
    assert {name for name, format in formats.items() if format == "perf script"} == {
        "amd64.perf-script.txt.gz",
        "callchains.perf-script.txt.gz",
    }


def test_a_slab_event_field_by_field(tmp_path: Path) -> None:
    assert one(tmp_path, KMALLOC.replace("false", "true")) == {
        "time_ns": 6_605_101_000,
        "cpu": 0,
        "pid": 107,
        "comm": "sh",
        "event": "kmalloc",
        "ptr": 0xFFFF8880072B6E40,
        "pfn": None,
        "bytes_req": 60,
        "bytes_alloc": 64,
        "order": None,
        "migratetype": None,
        "fallback_order": None,
        "fallback_migratetype": None,
        "gfp": 0xCC0,
        "gfp_text": "GFP_KERNEL",
        "cache": None,
        "call_site": "f+0x1",
        "node": None,
        "flags": EventFlag.ACCOUNTED | EventFlag.SOFTIRQ,
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [  # kernels 4.x to 6.x, oldest first
        (
            "kmalloc: call_site=ffffffff811f8d5e ptr=ffff88003d0f1b40 bytes_req=32 bytes_alloc=32 gfp_flags=GFP_KERNEL",
            {"event": "kmalloc", "call_site": "ffffffff811f8d5e", "gfp": 0xCC0},
        ),
        (
            "kmalloc_node: call_site=ffffffff811f8d5e ptr=ffff88003d0f1b40 bytes_req=32 bytes_alloc=32 "
            "gfp_flags=GFP_KERNEL|__GFP_NOWARN node=1",
            {"event": "kmalloc_node", "node": 1, "gfp": 0x2CC0},
        ),
        (
            "kmem_cache_alloc_node: call_site=ffffffff81 ptr=ffff88003d0f1b40 bytes_req=5 bytes_alloc=8 "
            "gfp_flags=GFP_ATOMIC node=-1",
            {"event": "kmem_cache_alloc_node", "node": None},
        ),
        ("kmem_cache_free: call_site=ffffffff811f8d5e ptr=ffff88003d0f1b40", {"cache": None}),
        ("kfree: call_site=ffffffff811f8d5e ptr=          (null)", {"ptr": 0}),
        ("kfree: call_site=f+0x1/0x2 [ext4] ptr=0000000000000000", {"ptr": 0, "call_site": "f+0x1"}),
        ("kfree: call_site=f+0x12 ptr=(nil)", {"ptr": 0}),
        ("kfree: call_site=f+0x12 ptr=(____ptrval____)", {"ptr": None}),
        ("kfree: call_site=f+0x12 ptr=0xffff888004a9a000", {"ptr": 0xFFFF888004A9A000}),
        ("kmem_cache_free: call_site=f+0x1/0x2 ptr=00000000c9cc8405 name=filp", {"cache": "filp", "ptr": 0xC9CC8405}),
        (
            "kmem_cache_free: call_site=f+0x1/0x2 name=filp ptr=00000000c9cc8405",
            {"cache": "filp", "ptr": 0xC9CC8405},
        ),
        ("kmem_cache_free: call_site=f ptr=c2dc6110 name=my own cache", {"cache": "my own cache"}),
        (
            "kmem_cache_alloc: call_site=f+0x1/0x2 ptr=ffff8880072b6e40 name=my own cache bytes_req=60 bytes_alloc=64 "
            "gfp_flags=GFP_KERNEL node=-1 accounted=false",
            {"cache": "my own cache", "bytes_req": 60},
        ),
        (
            "kmem_cache_alloc: call_site=f+0x1/0x2 ptr=(null) bytes_req=60 bytes_alloc=64 gfp_flags=0x400cc0 node=-1",
            {"ptr": 0, "gfp": 0x400CC0, "flags": EventFlag.FAILED | EventFlag.SOFTIRQ},
        ),
        (
            "mm_page_alloc: page=ffffea00000785c0 pfn=7703 order=0 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE",
            {"pfn": 7703, "order": 0, "migratetype": 1, "ptr": None, "bytes_req": 0},
        ),
        (
            "mm_page_alloc: page=00000000c9cc8405 pfn=0x1e17 order=3 migratetype=0 gfp_flags=GFP_KERNEL|__GFP_COMP",
            {"pfn": 0x1E17, "order": 3, "gfp": 0x40CC0},
        ),
        (
            "mm_page_alloc: page=          (null) pfn=0 order=9 migratetype=1 gfp_flags=GFP_TRANSHUGE",
            {"pfn": 0, "order": 9, "flags": EventFlag.FAILED | EventFlag.SOFTIRQ},
        ),
        ("mm_page_free: page=ffffea00000785c0 pfn=7703 order=2", {"event": "mm_page_free", "order": 2}),
        ("mm_page_free_batched: page=ffffea0000108100 pfn=0x4204 order=0", {"event": "mm_page_free_batched"}),
        (
            "mm_page_alloc_zone_locked: page=ffffea0000108100 pfn=0x4204 order=0 migratetype=2 percpu_refill=1",
            {"migratetype": 2, "flags": EventFlag.PERCPU_REFILL | EventFlag.SOFTIRQ},
        ),
        (
            "mm_page_pcpu_drain: page=ffffea0000108100 pfn=0x4204 order=0 migratetype=1",
            {"event": "mm_page_pcpu_drain", "pfn": 0x4204},
        ),
        (
            "mm_page_alloc_extfrag: page=ffffea0000370000 pfn=0xdc00 alloc_order=1 fallback_order=10 pageblock_order=9 "
            "alloc_migratetype=2 fallback_migratetype=1 fragmenting=0 change_ownership=1",
            {
                "order": 1,
                "migratetype": 2,
                "fallback_order": 10,
                "fallback_migratetype": 1,
                "flags": EventFlag.CHANGE_OWNERSHIP | EventFlag.SOFTIRQ,
            },
        ),
    ],
)
def test_lines_of_many_kernels(tmp_path: Path, line: str, expected: dict) -> None:
    row = one(tmp_path, line)
    assert {key: row[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("          <idle>-0     [001] dNh2.   123.000000001: ", ("<idle>", 0, 1, 123_000_000_001)),
        ("     kworker/0:1-12    [003] .....     6.605101: ", ("kworker/0:1", 12, 3, 6_605_101_000)),
        ("  Web [000] 1.5: -9     (    9) [002] d..1.     6.5: ", ("Web [000] 1.5: ", 9, 2, 6_500_000_000)),
        ("            sh-107   (-----) [000] ....     6.605101: ", ("sh", 107, 0, 6_605_101_000)),
        ("         busybox-517   [000]    24.202142: ", ("busybox", 517, 0, 24_202_142_000)),
        ("             a b-c-4194304 [000] .....  6605101: ", ("a b-c", 4194304, 0, 6605101)),
        ("            perf   730 [000]    45.082830: ", ("perf", 730, 0, 45_082_830_000)),
        ("my prog 7   730/731 [012]    45.082830:          1 kmem:", ("my prog 7", 731, 12, 45_082_830_000)),
        ("perf   730    45.082830: ", ("perf", 730, 0, 45_082_830_000)),
    ],
)
def test_what_stands_before_the_event(tmp_path: Path, head: str, expected: tuple) -> None:
    row = one(tmp_path, "kfree: call_site=f ptr=0xffff888004a9a000", head)
    assert (row["comm"], row["pid"], row["cpu"], row["time_ns"]) == expected


def test_lines_end_as_windows_ends_them(tmp_path: Path) -> None:
    rows, stats = scan(tmp_path, f"{HEAD}{KMALLOC}\r\n{HEAD}kmem_cache_free: call_site=f ptr=c2dc6110 name=filp\r\n")
    assert [row["cache"] for row in rows] == [None, "filp"]
    assert stats.damaged_lines == 0


@pytest.mark.parametrize(
    "line",
    [
        KMALLOC.replace("bytes_req=60", "bytes_req=9223372036854775808"),
        KMALLOC.replace("bytes_req=60", "bytes_req=99999999999999999999999"),
        KMALLOC.replace("bytes_req=60", "bytes_req=-1"),
        KMALLOC.replace("bytes_alloc=64 ", ""),
        KMALLOC.replace("ptr=ffff8880072b6e40", "ptr=ffff8880072b6e4"),
        KMALLOC.replace("ptr=ffff8880072b6e40", "ptr=ffff8880072b6e4g"),
        KMALLOC.replace("node=-1", "node=4096"),
        KMALLOC.replace("GFP_KERNEL", "GFP_\0ERNEL"),
        KMALLOC.replace("f+0x1", "f\x01+0x1"),
        KMALLOC[:60],
        "mm_page_free: page=ffffea00000785c0 pfn=0x1e17 order=99",
        "mm_page_free: page=ffffea00000785c0 pfn=0x1e17 order=-1",
        "mm_page_free: page=ffffea00000785c0 pfn=0x1e17",
        "mm_page_free: page=ffffea00000785c0 pfn=0xffffffffffffffff order=0",
        "mm_page_alloc: page=ffffea00000785c0 pfn=0x1e17 order=0 migratetype=77 gfp_flags=GFP_KERNEL",
        "kmal",
        "\x7f\x45\x4c\x46",
    ],
)
def test_a_line_that_cannot_be_right_is_skipped_and_counted(tmp_path: Path, line: str) -> None:
    good = f"{HEAD}{KMALLOC}\n"
    rows, stats = scan(tmp_path, f"{good}{HEAD}{line}\n{good}")
    assert len(rows) == 2
    assert stats.damaged_lines == 1
    assert stats.damaged_bytes == len(HEAD + line)
    assert stats.first_damage == f"{tmp_path / 'trace.txt'}:2 byte {len(good)}"


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace("6.605101", "-6.605101"),
        HEAD.replace("6.605101", "99999999999.605101"),
        HEAD.replace("[000]", "[9000]"),
        HEAD.replace("107", "99999999"),
        "garbage ",
        "\0\0\0\0",
    ],
)
def test_a_header_that_cannot_be_right(tmp_path: Path, head: str) -> None:
    rows, stats = scan(tmp_path, f"{HEAD}{KMALLOC}\n{head}{KMALLOC}\n{HEAD}{KMALLOC}\n")
    assert (len(rows), stats.damaged_lines) == (2, 1)


def test_an_endless_line_is_one_damaged_line(tmp_path: Path) -> None:
    good = f"{HEAD}{KMALLOC}\n".encode()
    text = good + b"x" * 10_000_000 + b"\n" + good
    for chunk_bytes in (1 << 20, 4096, len(good) + 5_000_000):
        rows, stats = scan(tmp_path, text, chunk_bytes=chunk_bytes)
        assert (len(rows), stats.damaged_lines, stats.damaged_bytes) == (2, 1, 10_000_000)
        assert stats.bytes == len(text)


def test_lost_events_are_honoured(tmp_path: Path) -> None:
    marks = "CPU:0 [LOST 123 EVENTS]\nCPU:1 [LOST EVENTS]\nCPU:2 [45 EVENTS DROPPED]\nCPU:3 [EVENTS DROPPED]\n"
    rows, stats = scan(tmp_path, f"{HEAD}{KMALLOC}\n{marks}{HEAD}{KMALLOC}\n")
    assert (stats.events, stats.lost_events, stats.lost_markers, stats.damaged_lines) == (2, 168, 4, 0)
    assert [(row["event"], row["cpu"], row["bytes_req"]) for row in rows[1:5]] == [
        ("lost", 0, 123),
        ("lost", 1, 0),
        ("lost", 2, 45),
        ("lost", 3, 0),
    ]
    assert rows[1]["time_ns"] == rows[0]["time_ns"]


def test_lost_events_of_perf(tmp_path: Path) -> None:
    lost = f"{PERF}PERF_RECORD_LOST lost 7\nLOST 9 events!\n{PERF}PERF_RECORD_COMM exec: sh:1/1\n"
    rows, stats = scan(tmp_path, f"{PERF}kmem:{KMALLOC}\n{lost}")
    assert (stats.events, stats.lost_events, stats.lost_markers, stats.damaged_lines) == (1, 16, 2, 0)
    assert [row["event"] for row in rows] == ["kmalloc", "lost", "lost"]
    assert stats.skipped_events == {"PERF_RECORD_COMM": 1}


def test_overwritten_events_are_read_from_the_header(tmp_path: Path) -> None:
    text = f"# tracer: nop\n#\n# entries-in-buffer/entries-written: 100/350   #P:4\n{HEAD}{KMALLOC}\n"
    _, stats = scan(tmp_path, text)
    assert stats.overwritten_events == 250


def test_unknown_events_and_stacks_are_not_damage(tmp_path: Path) -> None:
    text = (
        f"{HEAD}rss_stat: mm_id=1 curr=1 member=1 size=4096B\n"
        f"{HEAD}my_probe: (do_fork+0x0/0x40) arg1=3\n"
        f"{HEAD}<stack trace>\n => kmem_cache_alloc\n => do_fork\n"
        f"{HEAD}schedule <-worker_thread\n"
        f"##### CPU 1 buffer started ####\n\n{HEAD}{KMALLOC}\n"
    )
    _, stats = scan(tmp_path, text)
    assert stats.skipped_events == {"rss_stat": 1, "my_probe": 1, "(function)": 2}
    assert (stats.events, stats.damaged_lines) == (1, 0)


def test_unknown_gfp_names_are_reported_and_left_out(tmp_path: Path) -> None:
    rows, stats = scan(tmp_path, f"{HEAD}{KMALLOC.replace('GFP_KERNEL', 'GFP_KERNEL|__GFP_FUTURE')}\n")
    assert rows[0]["gfp"] == 0xCC0
    assert rows[0]["gfp_text"] == "GFP_KERNEL|__GFP_FUTURE"
    assert stats.unknown_gfp == ("__GFP_FUTURE",)
    assert "__GFP_FUTURE" in stats.notes[0]


def test_the_result_does_not_depend_on_chunks_or_batches(tmp_path: Path) -> None:
    lines = gzip.decompress(BOOT.read_bytes()).splitlines(keepends=True)[:600]
    chance = random.Random(5)
    for _ in range(30):  # damage of every kind
        at = chance.randrange(20, len(lines))
        line = bytearray(lines[at])
        kind = chance.randrange(4)
        if kind == 0:
            line[chance.randrange(len(line))] = chance.randrange(256)
        elif kind == 1:
            del line[chance.randrange(len(line)) :]
        elif kind == 2:
            line = bytearray(chance.randbytes(200)) + b"\n"
        else:
            line = bytearray(b"CPU:0 [LOST 12 EVENTS]\n")
        lines[at] = bytes(line)
    path = tmp_path / "trace.txt"
    path.write_bytes(b"".join(lines))
    with open_trace(path) as whole:
        expected = [row for batch in whole for row in batch.to_arrow().to_pylist()]
    assert whole.stats.damaged_lines > 5
    for chunk_bytes in (1, 7, 64, 151, 1000, *(chance.randrange(1, 9000) for _ in range(10))):
        with open_trace(path, chunk_bytes=chunk_bytes, batch_events=chance.choice([1, 3, 100, 65536])) as trace:
            assert [row for batch in trace for row in batch.to_arrow().to_pylist()] == expected
        assert trace.stats == whole.stats


def as_perf(line: str) -> str:
    """The same event as perf script prints it."""
    found = re.match(r" *(.*)-(\d+) +(\[\d+\]) \S+ +([\d.]+): (\w+): (.*)", line)
    assert found
    comm, pid, cpu, time, event, rest = found.groups()
    rest = re.sub(r"(call_site=[^ ]*)/0x[0-9a-f]+", r"\1", rest)
    rest = re.sub(r"(ptr|page)=0*([0-9a-f]+)", lambda m: f"{m[1]}=0x{m[2]}" if m[2] != "0" else f"{m[1]}=(nil)", rest)
    return f"{comm:>16} {pid:>5} {cpu} {time:>12}: {'kmem:' + event:>30}: {rest}\n"


def as_trace_cmd(line: str) -> str:
    """The same event as trace-cmd report prints it."""
    return re.sub(r"(\[\d+\]) \S+ ( +[\d.]+): (\w+): ", lambda m: f"{m[1]} {m[2]}: {m[3] + ':':<21} ", line)


@pytest.mark.parametrize("convert", [as_perf, as_trace_cmd])
def test_one_run_in_two_text_forms_is_one_table(tmp_path: Path, convert) -> None:
    text = gzip.decompress(BOOT.read_bytes()).decode()
    lines = [convert(line) for line in text.splitlines(keepends=True) if not line.startswith("#")]
    (tmp_path / "other.txt").write_text("".join(lines))
    ours = read_table(BOOT)
    other = read_table(tmp_path / "other.txt")
    context = int(EventFlag.IRQS_OFF | EventFlag.HARDIRQ | EventFlag.SOFTIRQ)
    for name in EVENT_SCHEMA.names:
        if name == "flags":  # perf and trace-cmd do not print the interrupt state
            assert ((np.asarray(ours[name]) & (0xFFFF - context)) == np.asarray(other[name])).all()
        else:
            assert ours[name].to_pylist() == other[name].to_pylist(), name


PACKERS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_traces_whatever_their_name(tmp_path: Path, kind: str) -> None:
    text = gzip.decompress(BOOT.read_bytes())
    path = tmp_path / "trace.log"
    half = text.index(b"\n", len(text) // 2) + 1
    path.write_bytes(PACKERS[kind](text[:half]) + PACKERS[kind](text[half:]))
    assert read_table(path).equals(read_table(BOOT))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_cut_packed_trace_gives_what_is_readable(tmp_path: Path, kind: str) -> None:
    packed = PACKERS[kind](gzip.decompress(BOOT.read_bytes()) * 4)
    path = tmp_path / "trace"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    with open_trace(path) as trace:
        events = sum(len(batch) for batch in trace)
    assert 1000 < events < 4 * 5066
    assert "cut off at byte" in trace.stats.notes[0]
    assert trace.stats.damaged_lines <= 1


def test_a_damaged_packed_trace_gives_what_is_readable(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(gzip.decompress(BOOT.read_bytes())))
    packed[len(packed) * 2 // 3 : len(packed) * 2 // 3 + 40] = bytes(40)
    (tmp_path / "trace.gz").write_bytes(packed)
    with open_trace(tmp_path / "trace.gz") as trace:
        assert sum(len(batch) for batch in trace) > 1000
    assert "damaged" in trace.stats.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"\x1f\x8b\x08\x00garbage", "nothing readable"),
        (bytes(range(256)) * 100, "binary"),
        (b"\x17\x08\x44tracing6\0\0\0", "byte 14: size of a page"),
        (b"PERFILE2\0\0\0", "byte 8: size of the header"),
        (b"BZh91AY", "bunzip2"),
        (b"hello\nworld\n", "no line of an ftrace"),
        (b"# tracer: nop\n#\n", "no events"),
        ((HEAD + "rss_stat: size=1\n").encode(), "only rss_stat"),
    ],
)
def test_a_file_that_is_no_trace_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "no.trace.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as error, open_trace(path) as trace:
        list(trace)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match=r"cannot be opened|cannot be read"):
            open_trace(path)


def test_event_codes_are_the_scanners_own() -> None:
    pxd = (Path(__file__).parents[2] / "src/kmem/trace/scan_columns.pxd").read_text()
    codes = {name: int(code) for name, code in re.findall(r"EV_(\w+) = (\d+)", pxd) if name != "UNKNOWN"}
    assert codes == {event.name: event.value for event in Event}
    flags = {name: int(bit) for name, bit in re.findall(r"EF_(\w+) = (\d+)", pxd)}
    assert flags == {flag.name: flag.value for flag in EventFlag}
