# SPDX-License-Identifier: GPL-2.0-only
"""Real reports with the state behind them: the counters that a log prints, and the state dumped beside it."""

from __future__ import annotations

import re
from pathlib import Path

from kmem.machine.statedump import StateDump, load_page_allocator, read_records
from kmem.mm.mmzone import MemMap
from kmem.mm.vmstat import VmStat

_NODE = {
    "active_anon": "nr_active_anon",
    "inactive_anon": "nr_inactive_anon",
    "active_file": "nr_active_file",
    "inactive_file": "nr_inactive_file",
    "unevictable": "nr_unevictable",
    "isolated(anon)": "nr_isolated_anon",
    "isolated(file)": "nr_isolated_file",
    "mapped": "nr_mapped",
    "dirty": "nr_dirty",
    "writeback": "nr_writeback",
    "shmem": "nr_shmem",
    "anon_thp": "nr_anon_transparent_hugepages",
    "pagetables": "nr_page_table_pages",
}
_ZONE = {
    "active_anon": "nr_zone_active_anon",
    "inactive_anon": "nr_zone_inactive_anon",
    "active_file": "nr_zone_active_file",
    "inactive_file": "nr_zone_inactive_file",
    "unevictable": "nr_zone_unevictable",
    "writepending": "nr_zone_write_pending",
    "mlocked": "nr_mlock",
}
_STAMP = re.compile(r"\[ *\d+\.\d+\] ")


def log_lines(path: Path) -> list[str]:
    """Lines of a log without time stamps."""
    return [_STAMP.sub("", line, count=1) for line in path.read_text().splitlines()]


def blocks(lines: list[str]) -> list[list[str]]:
    """The Mem-Info blocks of a log."""
    found = []
    for first, line in enumerate(lines):
        if line == "Mem-Info:":
            last = next(i for i in range(first, len(lines)) if lines[i].endswith("pages hwpoisoned"))
            found.append(lines[first : last + 1])
    return found


def dumps(path: Path) -> list[StateDump]:
    """The state dumps of a recording, in their order."""
    found = []
    records = iter(read_records(path))
    for line, record in records:
        if record.get("t") == "dump":
            found.append(StateDump.collect(record, records, path, line))
    return found


def counters(block: list[str], memmap: MemMap) -> VmStat:
    """What a block says of pages that are not the page allocator's own: the input of a comparison."""
    stat = VmStat(memmap.nr_nodes, memmap.nr_zones)
    totals = " ".join(block[1:9])
    for node in range(memmap.nr_nodes):
        line = next((each for each in block if re.match(rf"Node {node} active_anon:", each)), "")
        _fill(stat.node[node], line, _NODE, 4)
        stack = re.search(r"kernel_stack:(\d+)kB", line)
        stat.node[node]["nr_kernel_stack"] = int(stack[1]) if stack else 0
    for name in ("slab_reclaimable", "slab_unreclaimable", "kernel_misc_reclaimable"):
        # no line tells nodes apart here: the first one takes all
        stat.node[0][f"nr_{name}"] = int(re.search(rf"\b{name}:(\d+)", totals)[1])
    stat.node[0]["nr_file_pages"] = int(next(each for each in block if each.endswith("pagecache pages")).split()[0])
    for zone in range(memmap.nr_zones):
        name = memmap.zone_name(zone) if zone % 5 < len(memmap.zone_names) else "-"
        head = rf"(Node {zone // 5} )?{name} free:"
        _fill(stat.zone[zone], next((each for each in block if re.match(head, each)), ""), _ZONE, 4)
    # Zones and nodes that the request may not use are not printed, but count in the totals.
    for name in ("active_anon", "inactive_anon", "active_file", "inactive_file", "unevictable", "mapped", "shmem"):
        shown = sum(node[_NODE[name]] for node in stat.node)
        missing = int(re.search(rf"(?<![a-z_]){name}:(\d+)", totals)[1]) - shown
        stat.node[-1][_NODE[name]] += missing
    return stat


def _fill(into: dict[str, int], line: str, names: dict[str, str], unit: int) -> None:
    for label, name in names.items():
        found = re.search(rf"(?<![a-z_]){re.escape(label)}: ?(\d+)kB", line)
        if found:
            into[name] = int(found[1]) // unit


__all__ = ["blocks", "counters", "dumps", "load_page_allocator", "log_lines"]
