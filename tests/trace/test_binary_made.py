# SPDX-License-Identifier: GPL-2.0-only
"""Binary recordings made for the test: both byte orders, both word sizes, several CPUs, every odd record.

Two CPUs' buffers as perf writes them, a round at a time::

    file:  | CPU 0: 1 4 6 | CPU 1: 2 3 5 | ROUND | CPU 0: 9 | CPU 1: 7 8 | ROUND | ...
    table:   1 2 3 4 5 6 7 8 9
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from kmem.errors import InputError, KmemError
from kmem.trace import open_trace, perf_file
from tests.trace.writers import GFP_NAMES, Fields, Kernel

KINDS = [(False, 8), (False, 4), (True, 8), (True, 4)]
KIND_NAMES = ["little-64", "little-32", "big-64", "big-32"]
COMMS = {10: "bash", 11: "find", 12: "a b-c"}


def gfp_text(gfp: int) -> str:
    words = []
    for bits, name in GFP_NAMES:
        if gfp & bits == bits:
            words.append(name)
            gfp &= ~bits
    return "|".join(words + ([f"{gfp:#x}"] if gfp else [])) or "none"


def stream(kernel: Kernel, count: int, cpus: int, seed: int = 1, step: int = 900) -> list[Fields]:
    """Events in order of time, no two at the same."""
    rng = random.Random(seed)
    base = 0xFFFF888000000000 if kernel.long_bytes == 8 else 0xC0000000
    text = 0xFFFFFFFF81000000 if kernel.long_bytes == 8 else 0xC1000000
    time = 1_000_000_000
    live: list[int] = []
    events: list[Fields] = []
    for number in range(count):
        time += rng.randrange(1, step) if rng.random() < 0.99 else rng.randrange(1 << 28)
        event: Fields = {"time": time, "cpu": rng.randrange(cpus), "pid": rng.choice([0, 10, 11, 12])}
        kind = rng.choice(["kmalloc", "kmem_cache_alloc", "kfree", "kmem_cache_free", "mm_page_alloc", "mm_page_free"])
        event["event"] = kind
        if number % 97 == 0:
            event["event"] = "rss_stat"
        elif "alloc" in kind and "page" not in kind:
            size = rng.choice([8, 64, 192, 1024])
            ptr = 0 if rng.random() < 0.02 else base + 8 * number
            event |= {"ptr": ptr, "bytes_req": size - 1, "bytes_alloc": size, "node": rng.choice([-1, 0])}
            event |= {"call_site": text + rng.randrange(50) * 16, "gfp_flags": rng.choice([0xCC0, 0xA20, 0x400DC0, 0])}
            event["accounted"] = rng.randrange(2)
            live.append(ptr)
        elif "page" in kind:
            event |= {
                "pfn": -1 if kind == "mm_page_alloc" and rng.random() < 0.05 else number,
                "order": rng.randrange(4),
            }
            if kind == "mm_page_alloc":
                event |= {"gfp_flags": 0x1000CC0, "migratetype": rng.randrange(3)}
        else:
            event |= {"ptr": rng.choice(live or [base]), "call_site": text + 5, "name": rng.choice(["filp", "dentry"])}
        events.append(event)
    return events


def expected(kernel: Kernel, events: list[Fields], names: dict[int, str]) -> list[dict[str, object]]:
    """The rows of the table, worked out the slow way."""
    rows = []
    for event in events:
        kind = event["event"]
        if kind == "rss_stat":
            continue
        row: dict[str, object] = {"time_ns": event["time"], "cpu": event["cpu"], "pid": event["pid"], "event": kind}
        row["comm"] = names[event["pid"]]
        if "ptr" in event:
            row |= {"ptr": event["ptr"], "call_site": f"{event['call_site']:#x}"}
        if kind == "kmem_cache_free":
            row["cache"] = event["name"]
        if "gfp_flags" in event:
            row["gfp_text"] = gfp_text(event["gfp_flags"])
        if "bytes_req" in event:
            row |= {"bytes_req": event["bytes_req"], "bytes_alloc": event["bytes_alloc"]}
            row["node"] = None if event["node"] < 0 else event["node"]
            accounted = event["gfp_flags"] & 0x400000 if kind == "kmalloc" else event["accounted"]
            row["flags"] = (1 if accounted else 0) | (0 if event["ptr"] else 2)
        if "pfn" in event:
            row |= {"pfn": max(event["pfn"], 0), "order": event["order"], "flags": 2 if event["pfn"] < 0 else 0}
        if "migratetype" in event:
            row["migratetype"] = event["migratetype"]
        rows.append(row)
    return rows


def by_cpu(events: list[Fields], cpus: int) -> list[list[Fields]]:
    return [[event for event in events if event["cpu"] == cpu] for cpu in range(cpus)]


def read(path: Path, content: bytes, **options):
    path.write_bytes(content)
    with open_trace(path, **options) as trace:
        rows = [row for batch in trace for row in batch.to_arrow().to_pylist()]
        return rows, trace


def check(rows: list[dict[str, object]], wanted: list[dict[str, object]]) -> None:
    assert len(rows) == len(wanted)
    for row, want in zip(rows, wanted, strict=True):
        assert {name: row[name] for name in want} == want


@pytest.mark.parametrize(("big", "size"), KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize("version", ["6", "7-none", "7-zstd", "7-zlib"])
def test_trace_dat_of_any_kind(big: bool, size: int, version: str, tmp_path: Path) -> None:
    kernel = Kernel(big, size)
    events = stream(kernel, 3000, 3)
    pages = [kernel.pages(each) for each in by_cpu(events, 3)]
    content = (
        kernel.dat_6(pages, COMMS) if version == "6" else kernel.dat_7(pages, COMMS, kind=version.partition("-")[2])
    )
    rows, trace = read(tmp_path / "trace.dat", content)
    check(rows, expected(kernel, events, {0: "<idle>", **COMMS}))
    stats = trace.stats
    assert (stats.damaged_lines, stats.notes, stats.skipped_events) == (0, (), {"rss_stat": 31})
    assert (trace.nr_cpus, trace.pointer_digits) == (3, 2 * size)


@pytest.mark.parametrize("page_bytes", [1024, 4096, 65536])
def test_pages_of_any_size(page_bytes: int, tmp_path: Path) -> None:
    kernel = Kernel(page_bytes=page_bytes)
    events = stream(kernel, 2000, 2)
    pages = [kernel.pages(each) for each in by_cpu(events, 2)]
    check(read(tmp_path / "trace.dat", kernel.dat_7(pages, COMMS))[0], expected(kernel, events, {0: "<idle>", **COMMS}))


def test_a_thread_without_a_name(tmp_path: Path) -> None:
    kernel = Kernel()
    events = stream(kernel, 50, 1)
    rows, _ = read(tmp_path / "trace.dat", kernel.dat_6([kernel.pages(events)]))
    assert {row["comm"] for row in rows} == {"<idle>", "<...>"}


def test_buffers_of_several_instances_are_merged(tmp_path: Path) -> None:
    kernel = Kernel()
    main, other = stream(kernel, 300, 2, seed=1), stream(kernel, 300, 2, seed=2)
    content = kernel.dat_6(
        [kernel.pages(each) for each in by_cpu(main, 2)],
        COMMS,
        buffers={"instance": [kernel.pages(each) for each in by_cpu(other, 2)]},
    )
    wanted = expected(kernel, main, {0: "<idle>", **COMMS}) + expected(kernel, other, {0: "<idle>", **COMMS})
    rows, _ = read(tmp_path / "trace.dat", content)
    assert [row["time_ns"] for row in rows] == sorted(row["time_ns"] for row in wanted)
    assert len(rows) == len(wanted)


@pytest.mark.parametrize(("big", "size"), KINDS, ids=KIND_NAMES)
def test_time_stamps_padding_and_lost_events(big: bool, size: int, tmp_path: Path) -> None:
    kernel = Kernel(big, size)
    event = {"event": "kfree", "pid": 10, "cpu": 0, "ptr": 64, "call_site": 16}
    record = kernel.record(event)
    first = (
        kernel.ring_event(5, record)
        + kernel.padding(3, 12)  # thrown away, but time went on
        + kernel.ring_event(1 << 30, record)
        + kernel.stamp(7_000_000_000)
        + kernel.ring_event(1, record)
    )
    pages = kernel.page(100, first) + kernel.page(8_000_000_000, kernel.ring_event(0, record), missed=12)
    pages += kernel.page(9_000_000_000, kernel.ring_event(0, record), missed=0)
    rows, trace = read(tmp_path / "trace.dat", kernel.dat_6([pages], COMMS))
    times = [105, 108 + (1 << 30), 7_000_000_001, 7_000_000_001, 8_000_000_000, 8_000_000_000, 9_000_000_000]
    assert [row["time_ns"] for row in rows] == times
    assert [row["event"] for row in rows] == ["kfree"] * 3 + ["lost", "kfree", "lost", "kfree"]
    assert [row["bytes_req"] for row in rows if row["event"] == "lost"] == [12, 0]
    assert (trace.stats.lost_events, trace.stats.lost_markers) == (12, 2)


def test_absolute_stamps_keep_the_top_bits(tmp_path: Path) -> None:
    kernel = Kernel()
    record = kernel.record({"event": "kfree", "pid": 10, "ptr": 64, "call_site": 16})
    base = 5 << 59
    low = (1 << 58) + 77
    page = kernel.page(base + 3, kernel.stamp(low) + kernel.ring_event(0, record))
    rows, _ = read(tmp_path / "trace.dat", kernel.dat_6([page], COMMS))
    assert rows[0]["time_ns"] % (1 << 64) == base + low


def test_clock_options(tmp_path: Path) -> None:
    kernel = Kernel()
    record = kernel.record({"event": "kfree", "pid": 10, "ptr": 64, "call_site": 16})
    page = kernel.page(10_000_000_000, kernel.ring_event(0, record))
    for option, time in (
        ((7, b"-5000000000\0"), 5_000_000_000),
        ((14, kernel.pack("IIQ", 3 << 10, 11, 0)), 15_000_000_000),
        ((1, b"0x10\0"), 10_000_016_000),
    ):
        rows, _ = read(tmp_path / "trace.dat", kernel.dat_6([page], COMMS, options=[option]))
        assert rows[0]["time_ns"] == time
    rows, trace = read(tmp_path / "trace.dat", kernel.dat_6([page], COMMS, options=[(4, b"local [counter] tai\0")]))
    assert rows[0]["time_ns"] == 10_000_000_000
    assert any("no unit" in note for note in trace.stats.notes)


def test_what_the_kernel_counted_as_overwritten(tmp_path: Path) -> None:
    kernel = Kernel()
    page = kernel.page(1, kernel.ring_event(0, kernel.record({"event": "kfree", "pid": 1, "ptr": 64})))
    stats = b"CPU: 0\nentries: 1\noverrun: 31\ncommit overrun: 0\n\0"
    _, trace = read(tmp_path / "trace.dat", kernel.dat_6([page], COMMS, options=[(2, stats)]))
    assert trace.stats.overwritten_events == 31


# perf.data


def records(kernel: Kernel, events: list[Fields], cpus: int, per_round: int = 200) -> bytes:
    """Samples as perf writes them: a round has some of each CPU's buffer, and may end anywhere."""
    out = [kernel.comm({"pid": pid, "time": 0}, comm) for pid, comm in COMMS.items()]
    for start in range(0, len(events), per_round):
        part = events[start : start + per_round]
        for each in by_cpu(part, cpus):
            out += [kernel.sample(event) for event in each]
        out.append(kernel.round())
    return b"".join(out)


@pytest.mark.parametrize(("big", "size"), KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize("mode", ["file", "pipe", "compressed", "compressed-pipe"])
def test_perf_data_of_any_kind(big: bool, size: int, mode: str, tmp_path: Path) -> None:
    kernel = Kernel(big, size)
    events = stream(kernel, 3000, 3)
    data = records(kernel, events, 3)
    if "compressed" in mode:
        data = kernel.compressed(data, zstandard.ZstdCompressor(1).compressobj())
    content = kernel.perf_pipe(data) if "pipe" in mode else kernel.perf_file(data)
    rows, trace = read(tmp_path / "perf.data", content)
    check(rows, expected(kernel, events, {0: "swapper", **COMMS}))
    stats = trace.stats
    assert (stats.damaged_lines, stats.notes, stats.skipped_events) == (0, (), {"rss_stat": 31})
    assert trace.pointer_digits == 2 * size


def test_a_round_may_hold_what_belongs_before_the_round_before(tmp_path: Path) -> None:
    """Up to the latest of the round before that, nothing may go out: CPU 1's events come a round late."""
    kernel = Kernel()
    events = [event for event in stream(kernel, 2000, 2, seed=7) if event["event"] != "rss_stat"]
    out = [kernel.comm({"pid": pid, "time": 0}, comm) for pid, comm in COMMS.items()]
    late: list[Fields] = []
    for start in range(0, len(events), 100):
        part = events[start : start + 100]
        early, held = by_cpu(part, 2)
        out += [kernel.sample(event) for event in early + late]
        late = held
        out.append(kernel.round())
    out += [kernel.sample(event) for event in late]
    rows, trace = read(tmp_path / "perf.data", kernel.perf_file(b"".join(out)))
    check(rows, expected(kernel, events, {0: "swapper", **COMMS}))
    assert trace.stats.notes == ()


def test_events_that_are_too_late_are_counted(tmp_path: Path) -> None:
    kernel = Kernel()
    event = {"event": "kfree", "pid": 10, "cpu": 0, "ptr": 64, "call_site": 16}
    out = b""
    for time in (100, 200, 300, 400, 150):
        out += kernel.sample({**event, "time": time}) + kernel.round()
    rows, trace = read(tmp_path / "perf.data", kernel.perf_file(out))
    assert [row["time_ns"] for row in rows] == [100, 200, 300, 150, 400]
    assert "1 events came too late" in trace.stats.notes[0]


def test_names_of_threads_change_with_time(tmp_path: Path) -> None:
    kernel = Kernel()
    event = {"event": "kfree", "cpu": 0, "ptr": 64, "call_site": 16}

    def at(time: int, pid: int) -> Fields:
        return {**event, "time": time, "pid": pid}

    out = [
        kernel.sample(at(10, 5)),
        kernel.comm(at(20, 5), "shell"),
        kernel.sample(at(30, 5)),
        kernel.fork(at(40, 6), 5),
        kernel.sample(at(50, 6)),
        kernel.comm(at(60, 6), "child"),
        kernel.sample(at(70, 6)),
        kernel.sample(at(80, 5)),
        kernel.fork(at(90, 7), 99),
        kernel.sample(at(95, 7)),
        kernel.sample(at(99, 0)),
    ]
    rows, _ = read(tmp_path / "perf.data", kernel.perf_file(b"".join(out)))
    assert [row["comm"] for row in rows] == [":5", "shell", "shell", "child", "shell", ":7", "swapper"]


def test_lost_records_stand_where_they_happened(tmp_path: Path) -> None:
    kernel = Kernel()
    event = {"event": "kfree", "pid": 10, "cpu": 1, "ptr": 64, "call_site": 16}
    out = b"".join(
        [
            kernel.sample({**event, "time": 10}),
            kernel.lost({**event, "time": 20}, 41),
            kernel.sample({**event, "time": 30}),
        ]
    )
    rows, trace = read(tmp_path / "perf.data", kernel.perf_file(out))
    assert [(row["event"], row["time_ns"], row["cpu"]) for row in rows] == [
        ("kfree", 10, 1),
        ("lost", 20, 1),
        ("kfree", 30, 1),
    ]
    assert (trace.stats.lost_events, trace.stats.lost_markers, rows[1]["bytes_req"]) == (41, 1, 41)


@pytest.mark.parametrize(("big", "size"), KINDS, ids=KIND_NAMES)
def test_call_chains_of_any_kind(big: bool, size: int, tmp_path: Path) -> None:
    kernel = Kernel(big, size)
    event = {"event": "kfree", "pid": 10, "cpu": 1, "ptr": 64, "call_site": 16, "time": 10}
    kernel_mark, user_mark = (1 << 64) - 128, (1 << 64) - 512
    chains = [[kernel_mark, 0x1000, 0x2000, user_mark, 0x3000], [], [kernel_mark, 0x1000, 0x2000], [user_mark, 1]]
    out = b"".join(kernel.sample(event, chain) for chain in chains)
    path = tmp_path / "perf.data"
    path.write_bytes(kernel.perf_file(out, sample_type=Kernel.SAMPLE_TYPE | 1 << 5))
    with open_trace(path, stacks=True) as trace:
        codes = [int(code) for batch in trace for code in batch.stack]
        stacks = trace.stacks()  # type: ignore[attr-defined]
    assert [stacks[code] for code in codes] == [(0x1000, 0x2000), (), (0x1000, 0x2000), ()]


def test_symbols_move_with_the_kernel(tmp_path: Path) -> None:
    """The symbols are from another boot: their kernel lay elsewhere."""
    kernel = Kernel()
    (tmp_path / "kallsyms").write_text("ffffffff81000000 T _text\nffffffff81000100 T f\nffffffff81000200 t g\n")
    event = {"event": "kfree", "pid": 10, "cpu": 1, "ptr": 64, "call_site": 0xFFFFFFFF91000204, "time": 10}
    data = kernel.kernel_map(0xFFFFFFFF91000000) + kernel.sample(event) + kernel.sample({**event, "call_site": 8})
    for content in (kernel.perf_file(data), kernel.perf_pipe(data)):
        rows, _ = read(tmp_path / "perf.data", content, kallsyms=tmp_path / "kallsyms")
        assert [row["call_site"] for row in rows] == ["g+0x4", "0x8"]


# Against the tools themselves


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_perf_puts_the_same_into_the_same_order(kind: str, tmp_path: Path) -> None:
    perf = tool("perf")
    kernel = Kernel()
    events = stream(kernel, 2000, 4, seed=3)
    data = records(kernel, events, 4)
    path = tmp_path / "perf.data"
    path.write_bytes(kernel.perf_file(data) if kind == "file" else kernel.perf_pipe(data))
    done = subprocess.run([perf, "script", "--ns", "-i", path], capture_output=True, text=True, timeout=60, check=False)
    text = tmp_path / "script.txt"
    text.write_text(done.stdout)
    compare(path, text)


@pytest.mark.parametrize("version", ["6", "7"])
def test_trace_cmd_puts_the_same_into_the_same_order(version: str, tmp_path: Path) -> None:
    report = tool("trace-cmd")
    kernel = Kernel()
    events = stream(kernel, 2000, 4, seed=4)
    pages = [kernel.pages(each) for each in by_cpu(events, 4)]
    path = tmp_path / "trace.dat"
    path.write_bytes(kernel.dat_6(pages, COMMS) if version == "6" else kernel.dat_7(pages, COMMS))
    done = subprocess.run([report, "report", "-t", path], capture_output=True, text=True, timeout=60, check=False)
    text = tmp_path / "report.txt"
    text.write_text(done.stdout)
    compare(path, text)


def compare(binary: Path, text: Path) -> None:
    """The tables of a recording and of what a tool printed of it, but for call sites, which differ without symbols."""
    names = ["time_ns", "cpu", "pid", "comm", "event", "ptr", "pfn", "bytes_req", "bytes_alloc", "order", "migratetype"]
    names += ["gfp_text", "cache", "node", "flags"]
    tables = []
    for path in (binary, text):
        with open_trace(path) as trace:
            tables.append(
                [{name: row[name] for name in names} for batch in trace for row in batch.to_arrow().to_pylist()]
            )
    assert len(tables[0]) > 1500
    assert tables[0] == tables[1]


# Damage


@pytest.mark.parametrize(
    ("at", "value", "place", "said"),
    [
        (10, b"9", 10, "version 9"),
        (12, b"\7", 12, "byte order 7"),
        (13, b"\5", 12, "a long of 5 bytes"),
        (14, b"\0\0\0\0", 14, "a page of 0 bytes"),
        (18, b"x", 18, "no header_page"),
        (30, b"\xff" * 8, 38, "header_page should be"),
    ],
)
def test_trace_dat_damage_names_the_place(at: int, value: bytes, place: int, said: str, tmp_path: Path) -> None:
    kernel = Kernel()
    content = bytearray(kernel.dat_6([kernel.pages(stream(kernel, 50, 1))], COMMS))
    content[at : at + len(value)] = value
    with pytest.raises(KmemError, match=said) as error:
        read(tmp_path / "trace.dat", bytes(content))
    assert f" byte {place}: " in str(error.value)


def test_options_in_a_circle(tmp_path: Path) -> None:
    kernel = Kernel()
    content = bytearray(kernel.dat_7([kernel.pages(stream(kernel, 50, 1))], COMMS, kind="none"))
    hole = 18 + len(b"none\0" + b"1\0")
    place = content[hole : hole + 8]
    content[-8:] = place  # the last option says where more options are
    with pytest.raises(InputError, match="circle"):
        read(tmp_path / "trace.dat", bytes(content))


def test_a_chunk_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    kernel = Kernel()
    pages = kernel.pages(stream(kernel, 500, 1))
    content = bytearray(kernel.dat_7([pages], COMMS))
    at = content.rindex(kernel.pack("I", 2 * kernel.page_bytes) + b"\x28\xb5\x2f\xfd")
    content[at : at + 4] = kernel.pack("I", kernel.page_bytes)
    with pytest.raises(InputError, match=r"byte \d+: zstd data unpacks to more than 4096"):
        read(tmp_path / "trace.dat", bytes(content))


def test_chunks_of_many_cpus_are_bounded_together(tmp_path: Path) -> None:
    """Of each CPU a chunk is unpacked at any time: few bytes must not stand for gigabytes in all."""
    kernel = Kernel()
    page = kernel.pages(stream(kernel, 20, 1))
    large = kernel.dat_7([page + bytes(4096) * 300] * 300, COMMS, chunk_pages=400)
    assert len(large) < 300_000
    with pytest.raises(InputError, match=r"byte \d+: 1232896 unpacked bytes cannot be right"):
        read(tmp_path / "trace.dat", large)
    rows, _ = read(tmp_path / "trace.dat", kernel.dat_7([page] * 300, COMMS, chunk_pages=10))
    assert len(rows) > 300 * 10


def test_compressed_records_without_rounds_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    events = stream(kernel, 2000, 1)
    data = b"".join(kernel.comm({"pid": pid, "time": 0}, comm) for pid, comm in COMMS.items())
    data += b"".join(kernel.sample(event) for event in events)
    content = kernel.perf_file(kernel.compressed(data, zstandard.ZstdCompressor(1).compressobj(), 3000))
    most = 0

    def kept(file: perf_file.PerfFile, packed: memoryview, at: int) -> Iterator[None]:
        nonlocal most
        yield from compressed(file, packed, at)
        most = max(most, sum(len(data) for each in file._kept for data in each))

    compressed = perf_file.PerfFile._compressed
    monkeypatch.setattr(perf_file.PerfFile, "_compressed", kept)
    for limit in (1 << 27, 20_000):
        monkeypatch.setattr(perf_file, "_MOST_KEPT", limit)
        most = 0
        rows, trace = read(tmp_path / "perf.data", content)
        check(rows, expected(kernel, events, {0: "swapper", **COMMS}))
        assert trace.stats.notes == ()
        assert (most > 100_000) if limit > 100_000 else (most < 30_000)


def test_a_damaged_page_is_skipped_and_counted(tmp_path: Path) -> None:
    kernel = Kernel()
    events = [event for event in stream(kernel, 2000, 1) if event["event"] != "rss_stat"]
    pages = bytearray(kernel.pages(events))
    assert len(pages) > 5 * 4096
    pages[2 * 4096 + 8 : 2 * 4096 + 12] = b"\xff\xff\xff\x07"  # holds more than a page
    rows, trace = read(tmp_path / "trace.dat", kernel.dat_6([bytes(pages)], COMMS))
    stats = trace.stats
    assert (stats.damaged_lines, stats.damaged_bytes) == (1, 4096)
    assert stats.first_damage.endswith(f"byte {(tmp_path / 'trace.dat').stat().st_size - len(pages) + 2 * 4096}")
    assert len(events) - 100 < len(rows) < len(events)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (8, 60, "a header of 60 bytes"),
        (16, 7, "attributes of 7 bytes"),
        (24, 1 << 40, "the attributes should be"),
        (32, (1 << 64) - 8, "cannot be right"),
        (40, 1 << 50, "the records should be"),
        (48, 0, "holds no record"),
        (48, (1 << 63) + 5, "the records should be"),
    ],
)
def test_perf_data_damage_names_the_place(at: int, value: int, said: str, tmp_path: Path) -> None:
    kernel = Kernel()
    content = bytearray(kernel.perf_file(records(kernel, stream(kernel, 50, 1), 1)))
    content[at : at + 8] = kernel.pack("Q", value)
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path / "perf.data", bytes(content))
    assert " byte " in str(error.value)


@pytest.mark.parametrize("size", [0, 7, 65535])
def test_a_record_whose_length_lies(size: int, tmp_path: Path) -> None:
    kernel = Kernel()
    data = records(kernel, stream(kernel, 20, 1), 1)
    content = kernel.perf_file(data + kernel.pack("IHH", 9, 0, size))
    with pytest.raises(InputError, match=rf"byte \d+: a record of {size} bytes"):
        read(tmp_path / "perf.data", content)


def test_no_kmem_events(tmp_path: Path) -> None:
    kernel = Kernel()
    nothing = [event | {"event": "rss_stat"} for event in stream(kernel, 20, 1)]
    for content in (kernel.dat_6([kernel.pages(nothing)]), kernel.perf_file(records(kernel, nothing, 1))):
        with pytest.raises(InputError, match="no kmem events, only rss_stat"):
            read(tmp_path / "recording", content)
    tracing = kernel.tracing_data(["rss_stat"], version=b"0.6") + bytes(8)
    with pytest.raises(InputError, match="describes no kmem event"):
        read(tmp_path / "recording", kernel.perf_file(records(kernel, nothing, 1), tracing=tracing))
    with pytest.raises(InputError, match="no raw trace data"):
        read(tmp_path / "recording", kernel.perf_file(records(kernel, nothing, 1), sample_type=1 | 2 | 4))


@pytest.mark.parametrize("kind", ["dat-6", "dat-7", "perf", "perf-pipe", "perf-compressed"])
def test_random_damage_never_crashes(kind: str, tmp_path: Path) -> None:
    """A few bytes changed anywhere: a table, with its damage counted, or one line; never anything else."""
    kernel = Kernel()
    events = stream(kernel, 300, 2)
    pages = [kernel.pages(each) for each in by_cpu(events, 2)]
    data = records(kernel, events, 2, per_round=50)
    whole = {
        "dat-6": lambda: kernel.dat_6(pages, COMMS),
        "dat-7": lambda: kernel.dat_7(pages, COMMS),
        "perf": lambda: kernel.perf_file(data),
        "perf-pipe": lambda: kernel.perf_pipe(data),
        "perf-compressed": lambda: kernel.perf_file(
            kernel.compressed(data, zstandard.ZstdCompressor(1).compressobj(), 4000)
        ),
    }[kind]()
    rng = random.Random(kind)
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(content)) if rng.random() < 0.6 else rng.randrange(min(len(content), 3000))
            piece = rng.choice([bytes(1), b"\xff", bytes(4), b"\xff" * 4, b"\xff" * 8, rng.randbytes(4)])
            content[at : at + len(piece)] = piece
        try:
            rows, _ = read(tmp_path / "damaged", bytes(content))
            assert len(rows) < 1000
        except KmemError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 0 < refused < 400
