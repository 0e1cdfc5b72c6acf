# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that start from a recorded state, with nothing in them but what reclaim needs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kmem.machine.pressure import Pressure
from kmem.machine.records import open_recording
from kmem.machine.sched import Sched
from kmem.machine.statedump import StateDump
from kmem.mm.kernel import Kernel
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.printk import Printk
from kmem.mm.ram import Ram
from kmem.mm.reclaim import Reclaim
from kmem.mm.slub import Slub
from kmem.mm.task import Task
from kmem.mm.timekeeping import Clock
from tests.mm.mem_info import dumps, load_page_allocator

DATA = Path(__file__).parents[1] / "data/pressure"


def bare_kernel(allocator: PageAllocator, *, sched: bool = False) -> Kernel:
    """A kernel around a page allocator: no slab caches, no processes, and a scheduler only if asked for."""
    memmap = allocator.memmap
    kernel = Kernel(
        allocator,
        Slub(allocator, 0),
        None,
        arch="i386" if "HighMem" in memmap.zone_names else "x86_64",
        page_offset=0xFFFF888000000000,
        max_low_pfn=memmap.nr_frames,
        reports="log",
    )
    kernel.clock = Clock()
    kernel.printk = Printk(kernel.clock)
    kernel.ram = Ram(memmap.nr_frames << 12)
    kernel.current = Task(1, "init")
    kernel.highmem = SimpleNamespace(kmap_ctrl={})
    kernel.sched = Sched(kernel, 0) if sched else None
    kernel.reclaim = Reclaim(kernel)
    allocator.hooks = Pressure(kernel.reclaim)
    return kernel


def start(dump: StateDump, *, sched: bool = False) -> Reclaim:
    """Reclaim on the recorded state; pages in use there stay where they are."""
    reclaim: Reclaim = bare_kernel(load_page_allocator(dump), sched=sched).reclaim
    return reclaim


def adopt(reclaim: Reclaim, dump: StateDump) -> int:
    """Make the pages that a dump shows on LRU lists pages of one file, inactive, lowest first; how many there are.

    The dump says which frames they are, not whose and in which order.
    """
    mapping = reclaim.filemap.open("adopted", 1 << 40)
    pages = reclaim.memmap.pages_array
    adopted = 0
    for record in dump.of("lru"):
        for first, length in record["ranges"]:
            for pfn in range(first, first + length):
                reclaim.zones["foreign"][int(pages["zone"][pfn])] -= 1
                pages["kind"][pfn], pages["order"][pfn], pages["flags"][pfn] = 3, 0, 0
                folio = reclaim.folios.add(pfn)
                folio.mapping, folio.index = mapping, adopted
                mapping.pages[adopted] = folio
                reclaim.stat.node[reclaim.lru.lruvec_of(folio).node]["nr_file_pages"] += 1
                reclaim.lru.folio_add_lru(folio)
                adopted += 1
    reclaim.lru.lru_add_drain_all()
    return adopted


def recording(name: str) -> tuple[dict[str, StateDump], list[dict[str, Any]]]:
    """The dumps of a run by their names, and what its script printed step by step."""
    with open_recording(DATA / f"{name}.steps.json-lines.gz") as file:
        steps = [json.loads(line) for line in file]
    return {dump.name: dump for dump in dumps(DATA / f"{name}.dump.jsonl.gz")}, steps
