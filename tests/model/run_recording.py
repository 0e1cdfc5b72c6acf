# SPDX-License-Identifier: GPL-2.0-only
"""Run recordings of page operations through the naive page allocator: `python -m tests.model.run_recording FILE...`"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .naive_page_alloc import NaivePageAllocator
from .recording import Dump, Record, allocator_from_dump, differences, group_dumps, read_records


def check_page_op(allocator: NaivePageAllocator, record: Record, slots: dict[int, tuple[int, int]]) -> str | None:
    """Do what one record did; what came out differently, if anything."""
    cpu = record.get("cpu", 0)
    if record["op"] == "a":
        pfn = allocator.alloc_pages(int(record["gfp"], 16), record["order"], cpu)
        if (-1 if pfn is None else pfn) != record["pfn"]:
            return f"frame {pfn}, expected {record['pfn']}"
        if pfn is None:
            return None
        slots[record["slot"]] = pfn, record["order"]
    else:
        pfn, order = slots.pop(record["slot"])
        allocator.free_pages(pfn, order, cpu)
    zone = allocator.zone_of(pfn)
    pcp = zone.pcp[cpu]
    got = [zone.name, zone.node, zone.free_pages, pcp.free_diff, pcp.count, pcp.free_factor]
    expected = [record["zone"], record.get("node", zone.node), *(record[key] for key in ("nf", "nfd", "pc", "ff"))]
    return None if got == expected else f"zone, node, nf, nfd, pc, ff are {got}, expected {expected}"


def run(path: Path, model: type[NaivePageAllocator] = NaivePageAllocator) -> Iterator[str]:
    """Every difference between the recording and the naive model; the last line is a summary."""
    allocator: NaivePageAllocator | None = None
    slots: dict[int, tuple[int, int]] = {}
    operations = dumps = 0
    seconds = 0.0
    for item in group_dumps(read_records(path)):
        if isinstance(item, Dump):
            if allocator is None:
                allocator = allocator_from_dump(item, model)
            else:
                dumps += 1
                yield from differences(allocator, item)
        elif item.get("op") in ("a", "f") and "pfn" in item:
            assert allocator is not None
            begin = time.perf_counter()
            problem = check_page_op(allocator, item, slots)
            seconds += time.perf_counter() - begin
            if problem:
                yield f"operation {item['i']} {item}: {problem}"
                return
            operations += 1
        elif item.get("op") == "drain" and allocator is not None:
            allocator.drain_local_pages(item.get("cpu", 0))
    yield f"{path}: {operations} operations, {dumps} later dumps, {operations / max(seconds, 1e-9):,.0f} operations/s"


def main() -> int:
    """Exit status 1 if anything differed."""
    differ = False
    for name in sys.argv[1:]:
        *problems, summary = run(Path(name))
        for problem in problems[:10]:
            print(problem)
        print(summary)
        differ |= bool(problems)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
