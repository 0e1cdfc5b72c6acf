# SPDX-License-Identifier: GPL-2.0-only
"""Failure reports against those of real kernels.

Each log in ``tests/data/logs`` comes with the state that a probe dumped at the
moment of the report.  The state is loaded into the model, the report is
printed from it, and every line of the Mem-Info block has to be the kernel's,
byte for byte.  Of the log itself only counters of what is not the page
allocator's are taken: LRU lists, slabs, page tables (:mod:`tests.mm.mem_info`).

Over the whole set of logs that these are taken from, 735 of 744 lines are
equal.  The other nine are in four logs, in which pages moved between the dump
and the print: two printed on request (sysrq-m), with interrupts on, and two
where one block of two pages was freed in between.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmem.mm.show_mem import HugePages, SlabNode, nodelist, show_mem, slab_out_of_memory, warn_alloc, warn_alloc_nodes
from kmem.mm.vmstat import VmStat
from kmem.profile import parse_gfp
from tests.mm.machines import one_zone
from tests.mm.mem_info import blocks, counters, dumps, load_page_allocator, log_lines

DATA = Path(__file__).parents[1] / "data/logs"
LOGS = sorted(DATA.glob("*.txt"))
ZONE_LINE = re.compile(r"(?:Node \d+ )?(DMA32|DMA|Normal|HighMem|Movable) free:")


def shown_zones(block: list[str]) -> list[str]:
    return [found[1] for found in map(ZONE_LINE.match, block) if found]


def printed(path: Path) -> tuple[list[str], list[str]]:
    """The block of a log, and the model's for the dump that was taken last."""
    (block,) = blocks(log_lines(path))
    dump = dumps(path.with_suffix(".dump.jsonl.gz"))[-1]
    allocator = load_page_allocator(dump)
    memmap = allocator.memmap
    nodes = {int(line.split()[1]) for line in block if re.match(r"Node \d+ active_anon", line)}
    hopeless = [any(re.match(f"Node {node} .*unreclaimable.*yes", line) for line in block) for node in range(8)]
    text = show_mem(
        memmap,
        counters(block, memmap),
        max_zone_idx=max(memmap.zone_names.index(name) for name in shown_zones(block)),
        nodes=nodes,
        cpu=dump.cpu,
        kswapd_failures=[16 * failed for failed in hopeless],
    )
    return block, text.splitlines()


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_mem_info_is_the_kernels(path: Path) -> None:
    real, model = printed(path)
    assert len(real) >= 22
    assert model == real


def test_the_logs_cover_both_machines_two_nodes_and_filtered_zones() -> None:
    zones = {path.stem: shown_zones(blocks(log_lines(path))[0]) for path in LOGS}
    assert any("HighMem" in names for names in zones.values())
    assert any(names.count("Normal") + names.count("DMA32") > 1 for names in zones.values())
    assert ["DMA"] in zones.values()


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_first_line_of_a_failed_request(path: Path) -> None:
    lines = log_lines(path)
    heads = [line for line in lines if "page allocation failure" in line]
    for head in heads:
        found = re.match(r"(.+): page allocation failure: order:(\d+), mode:(0x\w+)\((.*)\), .*mems_allowed=(.*)", head)
        assert found
        gfp = int(found[3], 16)
        assert parse_gfp(found[4]) == gfp
        allowed = {"0": (0,), "0-1": (0, 1)}[found[5]]
        assert warn_alloc(found[1], int(found[2]), gfp, allowed=allowed).splitlines() == [head]
    assert heads or "invoked oom-killer" in lines[0]


@pytest.mark.parametrize("path", [path for path in LOGS if "slub" in path.stem], ids=lambda path: path.stem)
def test_report_of_a_slab_cache(path: Path) -> None:
    lines = log_lines(path)
    first = next(i for i, line in enumerate(lines) if line.startswith("SLUB: Unable"))
    real = [line for line in lines[first:] if line.startswith(("SLUB", "  cache:", "  node "))]
    head = re.match(r"SLUB: .* on node (-?\d+), gfp=(0x\w+)", real[0])
    cache = re.match(
        r"  cache: (\S+), object size: (\d+), buffer size: (\d+), default order: (\d+), min order: (\d+)", real[1]
    )
    assert head and cache
    text = slab_out_of_memory(
        cache[1],
        node=int(head[1]),
        gfp=int(head[2], 16),
        object_size=int(cache[2]),
        size=int(cache[3]),
        default_order=int(cache[4]),
        min_order=int(cache[5]),
        nodes=[SlabNode(*map(int, re.findall(r"\d+", line))) for line in real[2:]],
    )
    assert text.splitlines() == real


def test_debugging_that_needs_a_larger_order_is_said() -> None:
    text = slab_out_of_memory(
        "c", node=0, gfp=0xCC0, object_size=4096, size=4400, default_order=3, min_order=1, nodes=()
    )
    assert "  c debugging increased min order, use slub_debug=O to disable.\n" in text


def test_nodelist() -> None:
    assert [nodelist(nodes) for nodes in ([0], [0, 1, 2], [5, 0, 1], ())] == ["0", "0-2", "0-1,5", ""]


@pytest.mark.parametrize(
    ("gfp", "reserves", "in_task", "filtered"),
    [
        (0xCC0, False, True, True),  # a sleeping request: only its own nodes
        (0xA20, False, True, False),  # cannot reclaim
        (0xCC0, False, False, False),  # an interrupt
        (0xCC0, True, True, False),  # frees memory itself
        (0xCC0 | 0x80000, True, True, True),  # but may not touch the reserves
    ],
)
def test_which_nodes_a_report_shows(gfp: int, reserves: bool, in_task: bool, filtered: bool) -> None:
    nodes = warn_alloc_nodes(gfp, (0,), may_use_reserves=reserves, in_task=in_task)
    assert nodes == ((0,) if filtered else None)


def test_negative_counts_and_several_pools_of_huge_pages() -> None:
    allocator = one_zone(1024, free=[(0, 9)])
    memmap = allocator.memmap
    memmap.zones_array["free_pages"] = -3
    stat = VmStat(memmap.nr_nodes, memmap.nr_zones)
    stat.node[0]["nr_mapped"] = -1
    text = show_mem(memmap, stat, hugepages=(HugePages(2048, 4, 3, 1), HugePages(1048576)), hwpoisoned=None)
    assert " free:0 free_pcp:0" in text
    assert "mapped:0 " in text
    assert "Node 0 hugepages_total=4 hugepages_free=3 hugepages_surp=1 hugepages_size=2048kB\n" in text
    assert "hugepages_size=1048576kB\n" in text
    assert "hwpoisoned" not in text
