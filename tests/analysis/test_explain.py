# SPDX-License-Identifier: GPL-2.0-only
"""Failure logs of real kernels: what is read from them, why each zone refused, and what would have helped."""

from __future__ import annotations

import dataclasses
import gzip
import json
import textwrap
from pathlib import Path

import pytest

from kmem.analysis.explain import Explanation, as_dict, explain
from kmem.analysis.rebuild import rebuild
from kmem.mm.debug_vm import validate_pages
from kmem.trace.dmesg import log_lines
from kmem.trace.failures import find_failures

LOGS = Path(__file__).parents[1] / "data" / "logs"
NAMES = sorted(path.name.removesuffix(".json") for path in LOGS.glob("*.json"))

#: The state printed after the last attempt would serve these two: memory had come free meanwhile.
CHANGED = {"amd64-384M-order4-kernel-noretry-fragmented", "i386-1024M-order1-nowait-kworker"}


def lines_of(name: str) -> list[str]:
    return gzip.decompress((LOGS / f"{name}.txt.gz").read_bytes()).decode().splitlines()


def facts_of(name: str) -> dict[str, object]:
    return json.loads((LOGS / f"{name}.json").read_text())


def explained(lines: list[str]) -> list[Explanation]:
    return explain(find_failures(log_lines(lines)))


def expected_reason(prose: str) -> str:
    for words, reason in (
        ("no failure", "none"),
        ("cgroup limit", "cgroup-limit"),
        ("vmalloc size larger", "size-too-large"),
        ("memory exhausted", "memory-exhausted"),
        ("MAX_ORDER", "order-too-large"),
        ("no free block", "no-block-of-order"),
        ("below", "below-watermark"),
        ("no page on any node", "below-watermark"),
    ):
        if words in prose:
            return reason
    raise AssertionError(prose)


def expected_kind(name: str) -> str:
    for part, kind in (
        ("memcg", "memcg-oom"),
        ("oom", "oom"),
        ("slub", "slub-unable"),
        ("sysrq", "show-mem"),
        ("vmalloc", "vmalloc-failure"),
        ("too-large", "order-warning"),
    ):
        if part in name:
            return kind
    return "page-allocation-failure"


def test_there_are_logs() -> None:
    assert len(NAMES) == 33


@pytest.mark.parametrize("name", NAMES)
def test_kind_reason_and_model(name: str) -> None:
    facts = facts_of(name)
    answers = explained(lines_of(name))
    last = answers[-1]
    assert last.report.kind == expected_kind(name)
    assert last.reason == expected_reason(str(facts["expected_reason"]))
    for answer in answers:
        if answer.report.meminfo is None and answer.report.kind != "slub-unable":
            assert answer.model_agrees is None
        elif answer.report.kind == "show-mem":
            assert answer.model_agrees is True and answer.report.order is None
        else:
            assert answer.model_agrees is (name not in CHANGED)
            assert answer.cause == ("state-changed" if name in CHANGED else None)


@pytest.mark.parametrize("name", NAMES)
def test_the_request_is_read(name: str) -> None:
    request = facts_of(name)["request"]
    assert isinstance(request, dict)
    answer = explained(lines_of(name))[-1]
    if answer.report.kind == "page-allocation-failure":
        assert answer.order == request["order"]
        assert as_dict(answer)["gfp"] == request["gfp"]
        assert answer.size_bytes == 4096 << request["order"]
    elif answer.report.kind == "slub-unable":
        assert answer.report.detail["cache"] == request["cache"]
        assert answer.size_bytes == request["object_size"]
        assert as_dict(answer)["gfp"] == request["gfp"]
    elif answer.report.kind == "vmalloc-failure":
        assert answer.size_bytes == request["vmalloc_size"]


def verdicts(name: str) -> dict[tuple[int, str], str]:
    return {(zone.node, zone.name): zone.verdict for zone in explained(lines_of(name))[-1].zones}


def test_verdicts_of_zones() -> None:
    assert verdicts("i386-1024M-order0-atomic-lowmem-full-highmem-free") == {
        (0, "DMA"): "below-watermark",
        (0, "Normal"): "below-watermark",
        (0, "HighMem"): "not-eligible",
    }
    assert verdicts("amd64-1024M-numa2-order0-thisnode-node0-full") == {
        (0, "DMA"): "below-watermark",
        (0, "DMA32"): "below-watermark",
        (1, "DMA32"): "not-eligible",
    }
    assert verdicts("amd64-384M-order4-dma-kernel-noretry") == {
        (0, "DMA"): "no-block-of-order",
        (0, "DMA32"): "not-eligible",
    }


def test_the_comparison_is_the_kernels() -> None:
    # GFP_ATOMIC may take half of min (264 of 529), and then a quarter less
    zone = next(z for z in explained(lines_of("amd64-384M-order0-atomic"))[0].zones if z.name == "DMA32")
    assert (zone.free, zone.unusable, zone.mark, zone.reserve) == (190, 0, 199, 0)
    assert zone.comparison() == "free 190 - 0 unusable <= 199 watermark + 0 lowmem_reserve"


def test_words_for_free_memory_in_the_wrong_place() -> None:
    words = "Plenty is free, but in a zone that this request may not use."
    for name in NAMES:
        wrong_zone = any(part in name for part in ("highmem-free", "normal-free", "thisnode", "order0-dma-atomic"))
        said = any(words in answer.summary for answer in explained(lines_of(name)))
        assert said == wrong_zone, name


def test_words_for_fragmented_memory() -> None:
    said = " ".join(explained(lines_of("amd64-384M-order2-atomic-fragmented"))[0].summary)
    assert "half the memory is free, but in single pages" in said


@pytest.mark.parametrize("name", NAMES)
def test_state_is_rebuilt_as_printed(name: str) -> None:
    for answer in explained(lines_of(name)):
        info = answer.report.meminfo
        if info is None:
            continue
        rebuilt = rebuild(info)
        validate_pages(rebuilt.allocator)
        zones = rebuilt.allocator.memmap.zones_array
        for zone in info.zones:
            record = zones[rebuilt.zones[zone.node, zone.name]]
            assert record["free_pages"] * 4 == zone.counters["free"]
            assert (record["watermark"][0] + record["watermark_boost"]) * 4 == zone.counters["min"]
            assert [int(n) for n in record["nr_free"]] == [count for count, _ in zone.blocks or []]


# The same log on its way through journald, a mail, a terminal, a pager.


def as_journald(lines: list[str]) -> list[str]:
    return ["Nov 22 23:00:01 host kernel: " + line.split("] ", 1)[1] for line in lines]


def as_syslog_with_stamps(lines: list[str]) -> list[str]:
    return ["2026-11-22T23:00:01.123456+01:00 host kernel: " + line for line in lines]


def as_json_export(lines: list[str]) -> list[str]:
    return [json.dumps({"MESSAGE": line.split("] ", 1)[1], "_TRANSPORT": "kernel"}) for line in lines]


def as_export(lines: list[str]) -> list[str]:
    return [part for line in lines for part in ("PRIORITY=4", "MESSAGE=" + line.split("] ", 1)[1], "")]


def as_kmsg(lines: list[str]) -> list[str]:
    return [f"4,{n},{7000000 + n},-;" + line.split("] ", 1)[1] for n, line in enumerate(lines)]


def with_levels(lines: list[str]) -> list[str]:
    return ["<4>" + line for line in lines]


def with_callers(lines: list[str]) -> list[str]:
    return [line.replace("] ", "][  T107] ", 1) for line in lines]


def cut_at_80(lines: list[str]) -> list[str]:
    return [line[at : at + 80] for line in lines for at in range(0, max(len(line), 1), 80)]


def wrapped_at_72(lines: list[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, 72) or [""]]


def with_windows_ends(lines: list[str]) -> list[str]:
    return [line + "   " for line in lines]


@pytest.mark.parametrize(
    "change",
    [
        as_journald,
        as_syslog_with_stamps,
        as_json_export,
        as_export,
        as_kmsg,
        with_levels,
        with_callers,
        cut_at_80,
        wrapped_at_72,
        with_windows_ends,
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_stored_in_another_way(name: str, change: object) -> None:
    assert callable(change)
    plain, other = (find_failures(log_lines(lines)) for lines in (lines_of(name), change(lines_of(name))))
    same = {"line": 0, "time_us": None, "text": ""}
    assert [dataclasses.replace(report, **same) for report in other] == [
        dataclasses.replace(report, **same) for report in plain
    ]


@pytest.mark.parametrize("name", NAMES)
def test_cut_in_the_middle(name: str) -> None:
    lines = lines_of(name)
    for end in range(3, len(lines), 11):
        for answer in explained(lines[:end]):
            info = answer.report.meminfo
            if info is None or not info.complete:
                # slab reports borrow the state of the page request before them
                assert answer.model_agrees is None or answer.report.kind in ("slub-unable", "vmalloc-failure")
                assert not answer.remedies or answer.report.kind == "slub-unable"


def test_two_boots_are_kept_apart() -> None:
    first, second = lines_of("amd64-384M-order0-atomic"), lines_of("i386-1024M-order0-dma-atomic")
    cut = next(n for n, line in enumerate(first) if "lowmem_reserve" in line)
    both = explained([*first[:cut], "[    0.000000] Linux version 6.1.0-50-686 (x) #1", *second])
    assert [answer.report.kernel for answer in both] == ["6.1.0-56-amd64", "6.1.0-50-686"]
    assert both[0].model_agrees is None and both[1].model_agrees is True


# Older kernels, which print numbers only, and other public shapes of a report.

OLD = """\
[ 1234.567890] swapper/0: page allocation failure: order:{order}, mode:{mode}
[ 1234.567891] CPU: 0 PID: 0 Comm: swapper/0 Not tainted 3.10.0 #1
[ 1234.567892] Call Trace:
[ 1234.567893]  [<c0108af8>] dump_stack+0x10/0x20
[ 1234.567894]  [<c0150af8>] warn_alloc_failed+0x100/0x140
[ 1234.567895]  [<c0152af8>] __alloc_pages_nodemask+0x500/0x640
[ 1234.567896]  [<c0352af8>] eth_rx_refill+0x50/0x64
[ 1234.567897] Mem-Info:
[ 1234.567898] active_anon:100 inactive_anon:10 isolated_anon:0
[ 1234.567898]  active_file:2000 inactive_file:{cache} isolated_file:0
[ 1234.567898]  free:{free} slab_reclaimable:1200 slab_unreclaimable:2400
[ 1234.567899] Normal free:{free_kb}kB min:2028kB low:2532kB high:3040kB active_anon:400kB inactive_anon:40kB \
active_file:8000kB inactive_file:{cache_kb}kB unevictable:0kB isolated(anon):0kB isolated(file):0kB present:260096kB \
managed:252812kB mlocked:0kB dirty:0kB writeback:0kB mapped:900kB
[ 1234.567900] lowmem_reserve[]: 0 0 0
[ 1234.567901] Normal: {blocks}= {free_kb}kB
[ 1234.567902] 65024 pages of RAM
"""


def old(order: int, mode: str, singles: int, cache: int) -> list[str]:
    blocks = f"{singles}*4kB " + " ".join(f"0*{4 << n}kB" for n in range(1, 11)) + " "
    numbers = {"free": singles, "free_kb": 4 * singles, "cache": cache, "cache_kb": 4 * cache}
    return OLD.format(order=order, mode=mode, blocks=blocks, **numbers).splitlines()


def test_atomic_request_beside_a_large_page_cache() -> None:
    (answer,) = explained(old(0, "0x20", 150, 20000))
    assert answer.gfp_names == "GFP_ATOMIC" and answer.caller == "eth_rx_refill"
    assert answer.reason == "below-watermark" and answer.model_agrees is True
    # kswapd can reclaim page cache earlier; watermark_scale_factor came with 4.6, and the idle task cannot wait
    assert [remedy.kind for remedy in answer.remedies] == ["min_free_kbytes", "mempool"]
    lines = [line.replace("swapper/0", "java").replace("PID: 0", "PID: 7") for line in old(0, "0x20", 150, 20000)]
    assert [remedy.kind for remedy in explained(lines)[0].remedies] == ["min_free_kbytes", "flags", "mempool"]
    lines = [line.replace("3.10.0", "4.9.0").replace("0x20", "0x2080020(GFP_ATOMIC)") for line in lines]
    kinds = [remedy.kind for remedy in explained(lines)[0].remedies]
    assert kinds == ["watermark_scale_factor", "min_free_kbytes", "flags", "mempool"]


def test_earlier_reclaim_is_no_remedy_where_there_is_nothing_to_reclaim() -> None:
    kinds = {remedy.kind for remedy in explained(old(0, "0x20", 150, 0))[0].remedies}
    assert "min_free_kbytes" in kinds  # 2,000 pages of active page cache are left
    lines = [line.replace("active_file:8000kB", "active_file:0kB") for line in old(0, "0x20", 150, 0)]
    kinds = {remedy.kind for remedy in explained(lines)[0].remedies}
    assert kinds == {"mempool"}


def test_order_5_with_hexadecimal_flags_only() -> None:
    (answer,) = explained(old(5, "0xd0", 30000, 0))
    assert answer.gfp_names == "GFP_KERNEL" and answer.size_bytes == 131072
    assert answer.reason == "no-block-of-order" and answer.model_agrees is True
    assert {remedy.kind for remedy in answer.remedies} >= {"smaller-order", "kvmalloc"}


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        (
            "vmap allocation for size 135168 failed: use vmalloc=<size> to increase size.",
            "vmalloc-failure",
            "address-space",
        ),
        (
            "insmod: vmalloc: allocation failure: 16777216 bytes, mode:0xcc2(GFP_KERNEL|__GFP_HIGHMEM)",
            "vmalloc-failure",
            None,
        ),
        (
            "insmod: vmalloc: allocation failure, allocated 12288 of 16777216 bytes, mode:0x6000c2(GFP_KERNEL)",
            "vmalloc-failure",
            "memory-exhausted",
        ),
        (
            "allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.",
            "vmalloc-failure",
            "address-space",
        ),
        ("Out of memory: Kill process 1234 (java) score 900 or sacrifice child", "oom", "memory-exhausted"),
        ("Memory cgroup out of memory: Killed process 77 (python3) total-vm:1kB", "memcg-oom", "cgroup-limit"),
        ("SLUB: Unable to allocate memory on node -1 (gfp=0x20)", "slub-unable", None),
        ("WARNING: CPU: 3 PID: 1 at mm/page_alloc.c:4729 __alloc_pages+0x1/0x2", "order-warning", "order-too-large"),
    ],
)
def test_single_lines(line: str, kind: str, reason: str | None) -> None:
    (answer,) = explained([line])
    assert (answer.report.kind, answer.reason, answer.model_agrees) == (kind, reason, None)
