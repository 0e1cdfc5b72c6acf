# SPDX-License-Identifier: GPL-2.0-only
"""Everything at once: files, processes, page requests, swap and compaction in random order, bytes and lists checked."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import KernelPanic, ProcessKilled
from kmem.linux.gfp import (
    __GFP_NORETRY,
    __GFP_RETRY_MAYFAIL,
    GFP_ATOMIC,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOWAIT,
    __free_pages,
    alloc_pages,
)
from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE

MIB = 1 << 20
RW, PRIVATE = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
_free = __free_pages
FLAGS = (
    GFP_KERNEL,
    GFP_ATOMIC,
    GFP_NOWAIT,
    GFP_HIGHUSER_MOVABLE,
    GFP_NOFS,
    GFP_KERNEL | __GFP_NORETRY,
    GFP_KERNEL | __GFP_RETRY_MAYFAIL,
)


class Storm:
    """Random use of one machine; what was written is remembered."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.m = machine
        self.rng = random.Random(seed)
        self.processes: dict[Any, list[tuple[int, int, bytes]]] = {}
        self.blocks: list[tuple[Any, int]] = []
        self.written: dict[int, bytes] = {}
        self.m.open_file("log", 40 * MIB)
        self.m.open_file("video", 200 * MIB)

    def step(self) -> None:
        actions = (
            self.read,
            self.write,
            self.process,
            self.process,
            self.allocate,
            self.allocate,
            self.free,
            self.rare,
        )
        with contextlib.suppress(ProcessKilled, OSError):
            self.rng.choice(actions)()
        self.processes = {process: areas for process, areas in self.processes.items() if process.alive}

    def read(self) -> None:
        self.m.read_file("video", self.rng.randrange(190) * MIB, self.rng.choice((1, 2, 8)) * MIB)

    def write(self) -> None:
        offset, data = self.rng.randrange(40) * MIB, self.rng.randbytes(64)
        if self.m.write_file("log", data, offset) == len(data):
            self.written[offset] = data
        self.m.write_file("log", self.rng.randrange(MIB // 2), offset + 4096)

    def process(self) -> None:
        if len(self.processes) < 4 and (not self.processes or self.rng.random() < 0.3):
            self.processes[self.m.process("p")] = []
        process = self.rng.choice(list(self.processes))
        areas = self.processes[process]
        what = self.rng.random()
        if what < 0.6:
            size, mark = self.rng.choice((1, 2, 4, 8)) * MIB, self.rng.randbytes(8)
            area = process.mmap(0, size, RW, PRIVATE)
            for offset in range(0, size, 4096):
                process.write(area + offset, mark)
            areas.append((area, size, mark))
        elif what < 0.7 and areas:
            process.munmap(*areas.pop()[:2])
        elif what < 0.8 and len(self.processes) < 4:
            self.processes[process.fork()] = list(areas)
        elif what < 0.9:
            area = process.mmap(0, 2 * MIB, RW, MAP_SHARED, self.m.open_file("video"), 0)
            for offset in range(0, 2 * MIB, 3 * 4096):
                process.read(area + offset, 1)
            process.write(area + 5 * 4096, b"zz")
        else:
            process.exit()

    def allocate(self) -> None:
        order, gfp = self.rng.choice((0, 0, 0, 1, 2, 3, 4, 9)), self.rng.choice(FLAGS)
        for _ in range(self.rng.choice((1, 10, 50))):
            page = alloc_pages(gfp, order)
            if page is None:
                break
            self.blocks.append((page, order))

    def free(self) -> None:
        self.rng.shuffle(self.blocks)
        for _ in range(len(self.blocks) // self.rng.choice((1, 2, 4))):
            _free(*self.blocks.pop())

    def rare(self) -> None:
        self.rng.choice((self.m.compact_memory, self.m.drop_caches, self.m.sync, self.m.sched.run))()

    def check(self) -> None:
        """Every byte that was written is still there, in memory, in swap or in a file."""
        for process, areas in self.processes.items():
            for area, size, mark in areas:
                for offset in range(0, size, 4096):
                    assert process.read(area + offset, 8) == mark
        for offset, data in self.written.items():
            assert self.m.read_file("log", offset, 64) == data


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("arch", "options", "swap"),
    [
        ("x86_64", {"ram": "128M", "cmdline": "transparent_hugepage=never"}, 0),
        ("x86_64", {"ram": "160M"}, 64 * MIB),
        ("x86_64", {"ram": "512M", "nodes": 2}, 32 * MIB),
        ("i386", {"ram": "128M"}, 16 * MIB),
    ],
    ids=["plain", "swap", "nodes", "i386"],
)
def test_storm(arch: str, options: dict[str, Any], swap: int, seed: int) -> None:
    with Machine.boot(arch, seed=seed, reports="log", **options) as m:
        if swap:
            m.swapon(swap)
        storm = Storm(m, seed)
        try:
            for step in range(80):
                storm.step()
                if step % 40 == 39:
                    m.validate()
        except KernelPanic as error:
            assert "deadlocked on memory" in str(error) and not storm.processes
        storm.free()
        m.validate()
        try:
            storm.check()
        except (ProcessKilled, OSError):
            assert m.kernel.reclaim.oom.killed  # reading swapped memory takes memory, too
        for process in storm.processes:
            if process.alive:
                process.exit()
        while storm.blocks:
            _free(*storm.blocks.pop())
        m.sync()
        for name in ("log", "video"):
            m.delete_file(name)
        m.validate()
        reclaim = m.kernel.reclaim
        assert reclaim.stat.swap_free_pages == reclaim.stat.swap_pages
        assert sum(sum(lruvec.pages) for lruvec in reclaim.lru.nodes) == 0
        assert reclaim.stat.global_node_page_state("nr_file_pages") == 0
        assert reclaim.stat.global_node_page_state("nr_isolated_anon") == 0
        assert reclaim.stat.global_node_page_state("nr_isolated_file") == 0


def test_mapped_pages_move_and_stay_mapped() -> None:
    with Machine.boot("x86_64", ram="128M", cmdline="transparent_hugepage=never") as m:
        process = m.process("p")
        areas = [process.mmap(0, MIB, RW, PRIVATE) for _ in range(40)]
        for number, area in enumerate(areas):
            for offset in range(0, MIB, 4096):
                process.write(area + offset, (number << 20 | offset).to_bytes(8, "little"))
        child = process.fork()
        for area in areas[::2]:
            child.munmap(area, MIB)
            process.munmap(area, MIB)
        m.compact_memory()
        assert m.kernel.reclaim.stat.events["pgmigrate_success"] > 500
        m.validate()
        for number in range(1, 40, 2):
            for offset in range(0, MIB, 4096):
                expected = (number << 20 | offset).to_bytes(8, "little")
                assert process.read(areas[number] + offset, 8) == expected
                assert child.read(areas[number] + offset, 8) == expected
        child.write(areas[1], b"mine....")
        assert process.read(areas[1], 8) == (1 << 20).to_bytes(8, "little")
