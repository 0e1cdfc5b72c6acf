# SPDX-License-Identifier: GPL-2.0-only
"""Nodes of a zonelist that a dump names without its nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kmem.machine.records import read_records
from kmem.machine.statedump import StateDump, load_page_allocator

NUMA = Path(__file__).parent.parent / "data" / "pages" / "amd64-1024M-numa2"


def first_dump() -> StateDump:
    path = next(NUMA.glob("*.jsonl.gz"))
    records = read_records(path)
    line, head = next((line, record) for line, record in records if record.get("t") == "dump")
    return StateDump.collect(head, records, path, line)


def test_nodes_of_a_zonelist_follow_one_another() -> None:
    told, untold = first_dump(), first_dump()
    for node in untold.nodes:
        del node["zonelist_nodes"]
        node.pop("thisnode_zonelist")
    expected = load_page_allocator(told).zonelists_array
    assert len(set(expected[0][expected[0] != 255] // 5)) == 2
    assert np.array_equal(load_page_allocator(untold).zonelists_array, expected)
