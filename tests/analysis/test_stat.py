# SPDX-License-Identifier: GPL-2.0-only
"""The figures of ``kmem stat``: against a plain model of them, and against ``perf kmem`` where it is installed."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import zstandard
from tests.trace.writers import Fields, Kernel

from kmem.analysis.stat import Stat, collect, sort_rows
from kmem.analysis.stat_filter import parse_filter, parse_window
from kmem.errors import UsageError
from kmem.trace import open_trace

DATA = Path(__file__).parent.parent / "data"
KALLSYMS = DATA / "kallsyms" / "amd64.txt.gz"
TRACES = [
    "boot.trace.txt.gz",
    "traces/v6.trace.dat.xz",
    "traces/v7.trace.dat",
    "traces/amd64.perf.data.zst",
    "traces/i386.trace.txt.gz",
]
ALLOCATIONS = ("kmalloc", "kmalloc_node", "kmem_cache_alloc", "kmem_cache_alloc_node")


def stat_of(path: Path, **options) -> Stat:
    with open_trace(path, stacks=True, **options.pop("reader", {})) as reader:
        return collect(reader, **options)


def rows_of(path: Path) -> list[dict]:
    with open_trace(path) as trace:
        return [row for batch in trace for row in batch.to_arrow().to_pylist()]


class Plain:
    """The same counts in the plainest way: dictionaries, an event at a time."""

    def __init__(self, rows: list[dict]) -> None:
        self.sites: dict[str, Counter[str]] = defaultdict(Counter)
        self.threads: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        self.live: dict[int, dict] = {}
        self.pages: dict[int, dict] = {}
        self.count: Counter[str] = Counter()
        for row in rows:
            self.add(row)

    def add(self, row: dict) -> None:
        failed = bool(row["flags"] & 2)
        if row["event"] in ALLOCATIONS:
            for counter in (self.sites[row["call_site"]], self.threads[row["comm"], row["pid"]]):
                counter["failed" if failed else "hits"] += 1
                if not failed:
                    counter["bytes_alloc"] += row["bytes_alloc"]
                    counter["bytes_req"] += row["bytes_req"]
            if not failed:
                self.count["lost_frees"] += row["ptr"] in self.live
                self.live[row["ptr"]] = row
        elif row["event"] in ("kfree", "kmem_cache_free"):
            old = self.live.pop(row["ptr"], None)
            if row["ptr"] == 0:
                self.count["null_frees"] += 1
            elif old is None:
                self.count["unknown_frees"] += 1
            else:
                site = self.sites[old["call_site"]]
                site["frees"] += 1
                site["bytes_freed"] += old["bytes_alloc"]
                site["pingpong"] += old["cpu"] != row["cpu"]
        elif row["event"] == "mm_page_alloc":
            self.count["page_failed" if failed else "page_hits"] += 1
            if not failed:
                self.count["lost_page_frees"] += row["pfn"] in self.pages
                self.pages[row["pfn"]] = row
        elif row["event"] == "mm_page_free":
            self.count["page_frees"] += 1
            self.count["page_matched"] += self.pages.pop(row["pfn"], None) is not None


def recordings(tmp_path: Path) -> list[Path]:
    kernel = Kernel()
    made = tmp_path / "made.perf.data"
    made.write_bytes(kernel.perf_file(samples(kernel, traffic(4000, 3))))
    return [*(DATA / name for name in TRACES), made]


def traffic(count: int, cpus: int, *, failures: bool = True) -> list[Fields]:
    """Objects and pages that come and go, at addresses that are used again."""
    rng = random.Random(count)
    events: list[Fields] = []
    live: list[int] = []
    pages: list[int] = []
    for number in range(count):
        event: Fields = {"time": 1000 + number * 700, "cpu": rng.randrange(cpus), "pid": rng.randrange(5)}
        kind = rng.random()
        if kind < 0.35:
            ptr = rng.choice([0xFFFF888000000000 + 64 * n for n in range(400)])
            if failures and kind < 0.01:
                ptr = 0
            elif not failures and ptr in live:
                continue
            size = rng.choice([8, 64, 104])
            event |= {"event": rng.choice(["kmalloc", "kmem_cache_alloc"]), "ptr": ptr, "bytes_alloc": size}
            event |= {"bytes_req": size - rng.randrange(8), "gfp_flags": rng.choice([0xCC0, 0x400CC0]), "node": -1}
            event["call_site"] = 0xFFFFFFFF81000000 + 16 * rng.randrange(30)
            live.append(ptr)
        elif kind < 0.65:
            if not live:
                continue
            ptr = live.pop(rng.randrange(len(live))) if not failures or rng.random() < 0.9 else rng.choice(live)
            event |= {"event": rng.choice(["kfree", "kmem_cache_free"]), "ptr": ptr, "name": "filp", "call_site": 1}
        elif kind < 0.85:
            pfn = rng.randrange(300) if failures else number
            event |= {
                "event": "mm_page_alloc",
                "pfn": -1 if failures and kind < 0.66 else pfn,
                "order": rng.randrange(3),
            }
            event |= {"gfp_flags": rng.choice([0xCC0, 0xA20]), "migratetype": rng.randrange(3)}
            pages.append(number)
        else:
            event |= {"event": "mm_page_free", "pfn": rng.choice(pages or [1]), "order": rng.randrange(3)}
            if event["pfn"] in pages:
                pages.remove(event["pfn"])
        events.append(event)
    return events


def samples(kernel: Kernel, events: list[Fields]) -> bytes:
    return kernel.kernel_map(0xFFFFFFFF81000000) + b"".join(map(kernel.sample, events)) + kernel.round()


def test_counts_are_those_of_the_plain_model(tmp_path: Path) -> None:
    for path in recordings(tmp_path):
        stat, plain = stat_of(path), Plain(rows_of(path))
        total, pages = stat.slab_totals(), stat.page_totals()
        sites = {row.name: row for row in stat.call_sites()}
        assert set(sites) == {site or "(no call site)" for site in plain.sites}
        for name, counts in plain.sites.items():
            row = sites[name or "(no call site)"]
            for column in ("hits", "failed", "bytes_req", "bytes_alloc", "frees", "bytes_freed", "pingpong"):
                assert getattr(row, column) == counts[column], (path, name, column)
        threads = {(row.name, row.pid): row for row in stat.processes()}
        for key, counts in plain.threads.items():
            assert (threads[key].hits, threads[key].bytes_alloc) == (counts["hits"], counts["bytes_alloc"])
        assert total.live == len(plain.live)
        assert total.live_bytes == sum(row["bytes_alloc"] for row in plain.live.values())
        assert (total.lost_frees, total.unknown_frees) == (plain.count["lost_frees"], plain.count["unknown_frees"])
        assert total.null_frees == plain.count["null_frees"]
        assert pages["requests"] == plain.count["page_hits"] + plain.count["page_failed"]
        assert (pages["frees"], pages["matched"]) == (plain.count["page_frees"], plain.count["page_matched"])
        assert (pages["live"], pages["lost_frees"]) == (len(plain.pages), plain.count["lost_page_frees"])
        assert sum(row.bytes_alloc for row in stat.caches()) == sum(row.bytes_alloc for row in stat.sizes())
        assert sum(sum(steps) for steps in stat.rates()[1].values()) == total.bytes_alloc
        assert sum(row.bytes_alloc for row in stat.live_sites()) == total.live_bytes
        live = stat.live_objects(10**6)
        assert [each["address"] for each in live] == [
            row["ptr"] for row in sorted(plain.live.values(), key=lambda row: (row["time_ns"], row["ptr"]))
        ]


def test_a_recording_and_its_text_give_the_same_figures() -> None:
    for binary, text in (
        ("v7.trace.dat", "v7.trace-cmd-report.txt.gz"),
        ("amd64.perf.data.zst", "amd64.perf-script.txt.gz"),
    ):
        options = {"kallsyms": KALLSYMS} if "perf" in binary else {}
        first = stat_of(DATA / "traces" / binary, reader=options)
        second = stat_of(DATA / "traces" / text)
        assert first.slab_totals().bytes_freed == second.slab_totals().bytes_freed > 0
        for rows in (Stat.call_sites, Stat.caches, Stat.processes, Stat.page_rows):
            assert sort_rows(rows(first), ["name"]) == sort_rows(rows(second), ["name"])
        assert first.page_totals() == second.page_totals()
        assert first.fallbacks() == second.fallbacks()
        assert first.polluters() == second.polluters()


def test_caches_are_named_by_the_frees_and_by_kmalloc_sizes() -> None:
    names = {row.name for row in stat_of(DATA / "traces" / "v7.trace.dat").caches()}
    assert {"kmalloc-4k", "kmalloc-cg-1k", "names_cache", "vm_area_struct", "filp"} <= names


# perf kmem


def perf_kmem(path: Path, *arguments: str) -> str:
    perf = shutil.which("perf")
    if perf is None:
        pytest.skip("perf is not installed")
    command = [perf, "kmem", "-i", str(path), "-l", "100000", *arguments, "stat"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def unpacked(name: str, tmp_path: Path) -> Path:
    path = tmp_path / name
    packed = (DATA / "traces" / f"{name}.zst").read_bytes()
    path.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    return path


def clean(tmp_path: Path) -> Path:
    """A recording without what perf counts wrongly: failed requests, and frees whose allocation has no event."""
    kernel = Kernel()
    path = tmp_path / "clean.perf.data"
    objects = [event for event in traffic(9000, 4, failures=False) if "page" not in event["event"]]
    path.write_bytes(kernel.perf_file(samples(kernel, objects)))
    return path


def perf_totals(text: str) -> dict[str, int]:
    return {name.strip(): int(number) for name, number in re.findall(r"^(Total bytes [a-z ]+): +(\d+)$", text, re.M)}


def test_call_sites_are_those_of_perf(tmp_path: Path) -> None:
    for path in (unpacked("amd64.perf.data", tmp_path), clean(tmp_path)):
        text = perf_kmem(path, "--slab", "--caller")
        found: Counter[tuple[int, ...]] = Counter()
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) == 6 and "/" in cells[1] and cells[3].isdigit():
                found[int(cells[1].split("/")[0]), int(cells[2].split("/")[0]), int(cells[3])] += 1
        stat = stat_of(path)
        assert found == Counter((row.bytes_alloc, row.bytes_req, row.hits) for row in stat.call_sites())
        assert len(found) > 15
        total, perf = stat.slab_totals(), perf_totals(text)
        assert total.bytes_req == perf["Total bytes requested"]
        assert total.bytes_alloc == perf["Total bytes allocated"]
        percent = re.search(r"Internal fragmentation: ([\d.]+)%", text)
        assert percent and f"{total.slack_percent:.6f}" == percent[1]


def test_frees_and_cpus_are_those_of_perf_where_every_allocation_was_recorded(tmp_path: Path) -> None:
    path = clean(tmp_path)
    text = perf_kmem(path, "--slab", "--caller")
    stat = stat_of(path)
    total = stat.slab_totals()
    assert total.bytes_freed == perf_totals(text)["Total bytes freed"] > 0
    pingpong = [
        int(cells[4])
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) == 6 and "/" in cells[1] and "Per" not in cells[1]
    ]
    assert sum(pingpong) == total.pingpong > 100


def test_perf_counts_a_free_again_when_its_allocation_has_no_event(tmp_path: Path) -> None:
    """What perf makes of frees: it forgets nothing, so a second free of the same address counts the last size again."""
    path = unpacked("amd64.perf.data", tmp_path)
    sizes: dict[int, int] = {}
    freed = 0
    for row in rows_of(path):
        if row["event"] in ALLOCATIONS:
            sizes[row["ptr"]] = row["bytes_alloc"]
        elif row["event"] in ("kfree", "kmem_cache_free"):
            freed += sizes.get(row["ptr"], 0)
    assert freed == perf_totals(perf_kmem(path, "--slab"))["Total bytes freed"]
    assert stat_of(path).slab_totals().bytes_freed < freed


def test_addresses_are_those_of_perf(tmp_path: Path) -> None:
    path = clean(tmp_path)
    text = perf_kmem(path, "--slab", "--alloc")
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[0].startswith("0x"):
            found[int(cells[0], 16)] = tuple(int(cell.split("/")[0]) for cell in cells[1:5])
    rows = stat_of(path, addresses=True).addresses()
    assert found == {row.address: (row.bytes_alloc, row.bytes_req, row.hits, row.pingpong) for row in rows}
    assert len(found) > 100


def test_pages_are_those_of_perf(tmp_path: Path) -> None:
    for path in (unpacked("amd64.perf.data", tmp_path), unpacked("callchains.perf.data", tmp_path)):
        text = perf_kmem(path, "--page")
        numbers = {
            name.strip(): (int(count), int(size))
            for name, count, size in re.findall(r"^Total ([a-z+ -]+?) *: *(\d+) *\[ *(\d+) KB \]$", text, re.M)
        }
        pages = stat_of(path).page_totals()
        for name, key in (
            ("allocation requests", "request"),
            ("free requests", "free"),
            ("alloc+freed requests", "matched"),
            ("alloc-only requests", "live"),
            ("free-only requests", "unmatched"),
            ("allocation failures", "failed"),
        ):
            count = pages.get(f"{key}s", pages.get(key, -1))
            if name in ("alloc-only requests",):
                count += pages["lost_frees"]
                assert numbers[name][0] == count
            else:
                assert numbers[name] == (count, pages[f"{key}_bytes"] >> 10), name
        check_orders(text, stat_of(path))


def check_orders(text: str, stat: Stat) -> None:
    """perf's table of orders has its second and third heading swapped: migrate type 1 is Movable."""
    table = text[text.index("\nOrder ") :]
    assert re.search(r"Unmovable +Reclaimable +Movable", table)
    found = {}
    for line in table.splitlines():
        cells = line.split()
        if len(cells) == 6 and cells[0].isdigit():
            counts = [0 if cell == "." else int(cell) for cell in cells[1:]]
            if any(counts):
                found[int(cells[0])] = dict(zip(("Unmovable", "Movable", "Reclaimable"), counts, strict=False))
    ours = {
        order: {name: by_type.get(name, 0) for name in ("Unmovable", "Movable", "Reclaimable")}
        for order, by_type in stat.orders().items()
    }
    assert ours == found


# Windows, filters, order


def test_a_window_of_time() -> None:
    path = DATA / "traces" / "v7.trace.dat"
    rows = rows_of(path)
    first, last = rows[500]["time_ns"], rows[1500]["time_ns"]
    stat = stat_of(path, window=(first, last))
    inside = [row for row in rows if first <= row["time_ns"] <= last]
    assert stat.counter.events == len(inside)
    assert stat.slab_totals().hits == sum(row["event"] in ALLOCATIONS and not row["flags"] & 2 for row in inside)


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("comm=busybox", lambda row: row["comm"] == "busybox"),
        ("comm!=busybox", lambda row: row["comm"] != "busybox"),
        ("call_site=security_*", lambda row: (row["call_site"] or "").startswith("security_")),
        ("call_site~alloc", lambda row: "alloc" in (row["call_site"] or "")),
        ("call_site!~alloc", lambda row: "alloc" not in (row["call_site"] or "")),
        ("bytes_req>=1k,bytes_alloc<8k", lambda row: row["bytes_req"] >= 1024 and row["bytes_alloc"] < 8192),
        ("gfp=__GFP_ACCOUNT", lambda row: (row["gfp"] or 0) & 0x400000),
        ("gfp!=__GFP_ACCOUNT", lambda row: not (row["gfp"] or 0) & 0x400000),
        ("event=kmalloc", lambda row: row["event"] == "kmalloc"),
        ("pid>500,cpu=0", lambda row: row["pid"] > 500 and row["cpu"] == 0),
    ],
)
def test_a_filter_counts_allocations_and_their_frees(text: str, keep) -> None:
    path = DATA / "traces" / "v7.trace.dat"
    stat = stat_of(path, wanted=parse_filter(text))
    live: dict[int, int] = {}
    hits = freed = 0
    for row in rows_of(path):
        if row["event"] in ALLOCATIONS and not row["flags"] & 2 and keep(row):
            hits += 1
            live[row["ptr"]] = row["bytes_alloc"]
        elif row["event"] in ("kfree", "kmem_cache_free"):
            freed += live.pop(row["ptr"], 0)
    total = stat.slab_totals()
    assert (total.hits, total.bytes_freed) == (hits, freed)
    assert hits > 0


@pytest.mark.parametrize(
    "text",
    [
        "comm",
        "comm=",
        "colour=red",
        "comm>find",
        "pid~1",
        "pid=many",
        "gfp=GFP_PURPLE",
        "gfp>1",
        "event=kfre",
        "comm~[",
    ],
)
def test_conditions_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_filter(text)


def test_windows_that_are_none() -> None:
    assert parse_window("1,") == (10**9, (1 << 63) - 1)
    assert parse_window(",0.5") == (0, 5 * 10**8)
    for text in ("", "1", "2,1", "a,b", "1,2,3", "-1,2"):
        with pytest.raises(UsageError):
            parse_window(text)


def test_rows_in_any_order() -> None:
    rows = stat_of(DATA / "traces" / "v7.trace.dat").call_sites()
    by_bytes = sort_rows(rows, ["bytes", "hits"])
    assert [row.bytes_alloc for row in by_bytes] == sorted((row.bytes_alloc for row in rows), reverse=True)
    assert [row.name for row in sort_rows(rows, ["callsite"])] == sorted(row.name for row in rows)
    by_frag = sort_rows(rows, ["frag", "hit", "bytes"])
    assert [row.slack_percent for row in by_frag] == sorted((row.slack_percent for row in rows), reverse=True)


# Who is to blame


def test_folded_stacks_hold_all_bytes() -> None:
    stat = stat_of(DATA / "traces" / "callchains.perf.data.zst", stacks=True, reader={"kallsyms": KALLSYMS})
    lines = stat.folded()
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == stat.slab_totals().bytes_alloc
    assert any(";getname_flags.part.0;kmem_cache_alloc " in line for line in lines)
    live = stat.folded(live=True)
    assert sum(int(line.rsplit(" ", 1)[1]) for line in live) == stat.slab_totals().live_bytes


def test_a_fallback_is_put_down_to_the_object_it_was_for(tmp_path: Path) -> None:
    head = "            find-10      [000] .....     1.{:06d}: "
    lines = [
        "mm_page_alloc_extfrag: page=1 pfn=0x200 alloc_order=1 fallback_order=4 pageblock_order=9 "
        "alloc_migratetype=0 fallback_migratetype=1 fragmenting=1 change_ownership=0",
        "mm_page_alloc: page=1 pfn=0x200 order=1 migratetype=0 gfp_flags=GFP_KERNEL",
        "kmem_cache_alloc: call_site=ext4_alloc_inode+0x1/0x2 ptr=00000000aaaa0001 bytes_req=8 bytes_alloc=8 "
        "gfp_flags=GFP_KERNEL node=-1 accounted=false",
        "mm_page_alloc_extfrag: page=1 pfn=0x300 alloc_order=0 fallback_order=9 pageblock_order=9 "
        "alloc_migratetype=2 fallback_migratetype=1 fragmenting=0 change_ownership=1",
        "mm_page_alloc: page=1 pfn=0x300 order=0 migratetype=2 gfp_flags=GFP_KERNEL",
        "mm_page_alloc: page=1 pfn=0x301 order=0 migratetype=2 gfp_flags=GFP_KERNEL",
    ]
    path = tmp_path / "trace.txt"
    path.write_text("".join(f"{head.format(n)}{line}\n" for n, line in enumerate(lines)))
    stat = stat_of(path)
    assert [(row["call_site"], row["comm"], row["migratetype"], row["count"]) for row in stat.polluters()] == [
        ("", "find", "Reclaimable", 1),
        ("ext4_alloc_inode+0x1", "find", "Unmovable", 1),
    ]
    assert {(row["order"], row["fallback_order"], row["block_changed"]) for row in stat.fallbacks()} == {
        (1, 4, False),
        (0, 9, True),
    }
