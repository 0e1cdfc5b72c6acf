# SPDX-License-Identifier: GPL-2.0-only
"""Event batches made by hand, and small machines to replay them on."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmem.machine.machine import Machine
from kmem.replay.engine import ReplayEngine
from kmem.trace import Event, EventBatch, Strings
from kmem.trace.scan_columns import COLUMNS
from kmem.trace.scan_strings import StringTable

GFP_KERNEL = 0xCC0
GFP_SLAB = 0xD2CC0  # what SLUB asks with first: GFP_KERNEL|NOWARN|NORETRY|COMP
GFP_USER_PAGE = 0x100CCA
PAGE_OFFSET = 0xFFFF888000000000

Row = dict[str, Any]


def strings() -> Strings:
    return Strings(StringTable(True), StringTable(True), StringTable(), StringTable())


def batch(rows: list[Row], texts: Strings | None = None) -> EventBatch:
    """A batch of events; what a row leaves out is 0, or -1 for `node` and `migratetype`."""
    columns = {name: np.zeros(len(rows), dtype) for name, dtype in COLUMNS.items()}
    columns["gfp_text"] = np.zeros(len(rows), np.uint32)
    columns["node"][:] = -1
    columns["migratetype"][:] = -1
    columns["time_ns"] = np.arange(len(rows), dtype=np.int64) * 1000
    for i, row in enumerate(rows):
        for name, value in row.items():
            columns[name][i] = value
    return EventBatch(**columns, strings=texts or strings())


def kmalloc(ptr: int, size: int = 64, **more: Any) -> Row:
    base = {"event": Event.KMALLOC, "target": ptr, "bytes_req": size, "bytes_alloc": size, "gfp": GFP_KERNEL}
    return base | more


def cache_alloc(ptr: int, size: int = 192, **more: Any) -> Row:
    return kmalloc(ptr, size, event=Event.KMEM_CACHE_ALLOC) | more


def kfree(ptr: int, **more: Any) -> Row:
    return {"event": Event.KFREE, "target": ptr} | more


def cache_free(ptr: int, **more: Any) -> Row:
    return {"event": Event.KMEM_CACHE_FREE, "target": ptr} | more


def page_alloc(pfn: int, order: int = 0, gfp: int = GFP_USER_PAGE, **more: Any) -> Row:
    return {"event": Event.MM_PAGE_ALLOC, "target": pfn, "order": order, "gfp": gfp} | more


def page_free(pfn: int, order: int = 0, **more: Any) -> Row:
    return {"event": Event.MM_PAGE_FREE, "target": pfn, "order": order} | more


class Cold:
    """Answers what the engine asks rarely: one cache for each size, failures in a list."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.failures: list[tuple[int, ...]] = []
        self.named: list[tuple[int, int]] = []

    def new_cache(self, engine: ReplayEngine, site: int, bytes_req: int, bytes_alloc: int, name: int) -> int:
        return int(self.machine.caches.kmem_cache_create(f"c{name}-{bytes_req}", bytes_alloc, flags=0x800))

    def name_cache(
        self, engine: ReplayEngine, cache: int, name: int, site: int, bytes_req: int, bytes_alloc: int
    ) -> int:
        self.named.append((cache, name))
        return cache

    def failure(self, engine: ReplayEngine, *what: int) -> None:
        self.failures.append(what)


class Bench:
    """A machine, an engine on it, and what is fed to it."""

    def __init__(self, page_offset: int = PAGE_OFFSET, ram: str = "128M", cpus: int = 1) -> None:
        self.machine = Machine.boot("x86_64", ram=ram, cpus=cpus)
        self.cold = Cold(self.machine)
        self.engine = ReplayEngine(self.machine.page_alloc, self.machine.slub, self.cold, page_offset)
        self.engine.reserve(64, 64, 1 + max(self.machine.slub.geometries))

    def feed(self, *rows: Row, finish: bool = True) -> ReplayEngine:
        events = batch(list(rows))
        self.engine.feed(events, 0, len(events))
        if finish:
            self.engine.finish()
        self.machine.validate()
        return self.engine

    def free_pages(self) -> int:
        """Free pages, those on per-CPU lists among them."""
        return int(self.machine.nr_free_pages()) + int(self.machine.memmap.pagesets_array["count"].sum())
