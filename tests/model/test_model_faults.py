# SPDX-License-Identifier: GPL-2.0-only
"""Random programs with requests failing: whatever fails, what was handed out is whole, apart, and given back in full.

The naive side is a dict from address to the bytes that were written there.
Each program ends by freeing everything; then as many frames must be free as
before, and no record may be left.
"""

from __future__ import annotations

import random

import pytest

from kmem import Machine
from kmem.linux.gfp import (
    __GFP_NORETRY,
    __GFP_NOWARN,
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOWAIT,
    free_pages,
)
from kmem.linux.gfp import __get_free_pages as get_free_pages
from kmem.linux.slab import (
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RED_ZONE,
    kfree,
    kmalloc,
    kmem_cache_alloc,
    kmem_cache_alloc_bulk,
    kmem_cache_create,
    kmem_cache_destroy,
    kmem_cache_free,
    krealloc,
)
from kmem.linux.vmalloc import vfree, vmalloc
from kmem.mm.slab_api import KmemCache

STEPS = 400
SIZES = (8, 24, 64, 100, 192, 500, 1024, 3000, 8192, 9000, 40_000)
QUIET = __GFP_NOWARN | __GFP_NORETRY


class Program:
    """One machine, what it has handed out, and the bytes that should be there."""

    def __init__(self, m: Machine, seed: int) -> None:
        self.m = m
        self.rng = random.Random(seed)
        self.live: dict[int, tuple[str, int, bytes]] = {}
        self.failed = 0
        self.caches = [
            self.cache("plain", 120, 0),
            self.cache("aligned", 40, SLAB_HWCACHE_ALIGN),
            self.cache("checked", 72, SLAB_POISON | SLAB_RED_ZONE),
        ]

    def cache(self, name: str, size: int, flags: int) -> KmemCache:
        """A new cache; making one may fail, too, and is tried again then."""
        while (cache := kmem_cache_create(name, size, 0, flags, None)) is None:
            self.failed += 1
            self.m.validate()
        return cache

    def gfp(self) -> int:
        return self.rng.choice((GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT)) | QUIET

    def take(self, kind: str, addr: int | None, size: int) -> None:
        """Note an answer, and write to what was given."""
        if addr is None:
            self.failed += 1
            return
        for other, (_, length, _) in self.live.items():
            assert addr + size <= other or other + length <= addr, f"{addr:#x} overlaps {other:#x}"
        data = self.rng.randbytes(min(size, 64))
        self.m.write(addr, data)
        self.live[addr] = (kind, size, data)

    def give_back(self, addr: int) -> None:
        kind, size, data = self.live.pop(addr)
        assert self.m.read(addr, len(data)) == data
        if kind == "kmalloc":
            kfree(addr)
        elif kind == "vmalloc":
            vfree(addr)
        elif kind == "pages":
            free_pages(addr, (size >> 12).bit_length() - 1)
        else:
            kmem_cache_free(self.caches[int(kind)], addr)

    def step(self) -> None:
        choice = self.rng.random()
        if self.live and choice < 0.35:
            return self.give_back(self.rng.choice(list(self.live)))
        if choice < 0.6:
            size = self.rng.choice(SIZES)
            return self.take("kmalloc", kmalloc(size, self.gfp()), size)
        if choice < 0.7:
            size = self.rng.randrange(1, 50_000)
            return self.take("vmalloc", vmalloc(size), size)
        if choice < 0.78:
            order = self.rng.randrange(4)
            return self.take("pages", get_free_pages(self.gfp(), order), 4096 << order)
        number = self.rng.randrange(len(self.caches))
        if choice < 0.84:
            objects: list[int] = []
            count = kmem_cache_alloc_bulk(self.caches[number], self.gfp(), 7, objects)
            assert count in (0, 7)
            self.failed += not count
            for addr in objects[:count]:
                self.take(str(number), addr, self.caches[number].object_size)
            return None
        if choice < 0.92:
            return self.resize()
        return self.take(
            str(number), kmem_cache_alloc(self.caches[number], self.gfp()), self.caches[number].object_size
        )

    def resize(self) -> None:
        """krealloc(): the old object stays if the new one cannot be had, else its bytes move along."""
        own = [addr for addr, (kind, _, _) in self.live.items() if kind == "kmalloc"]
        if not own:
            return
        addr, size = self.rng.choice(own), self.rng.choice(SIZES)
        _, before, data = self.live[addr]
        new = krealloc(addr, size, self.gfp())
        if new is None:
            self.failed += 1
            assert self.m.read(addr, len(data)) == data
            return
        kept = data[: min(size, before)]
        assert self.m.read(new, len(kept)) == kept
        del self.live[addr]
        self.take("kmalloc", new, size)


def settle(m: Machine, program: Program) -> int:
    """Give everything back, and count what is free then."""
    for cache in program.caches:
        kmem_cache_destroy(cache)
    for index in list(m.slub.geometries):
        m.slub.kmem_cache_shrink(index)
    m.vm_unmap_aliases()
    return m.nr_free_pages() + int(m.memmap.pagesets_array["count"].sum())


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("seed", range(4))
def test_random_programs_with_faults(arch, seed):
    with Machine.boot(arch, ram="256M", seed=seed) as m:
        # The page tables of the vmalloc area stay: have them made before the count.
        warm = Program(m, seed)
        for _ in range(STEPS):
            warm.step()
        for addr in list(warm.live):
            warm.give_back(addr)
        before = settle(m, warm)
        leaks = m.enable_kmemleak()
        m.failslab.configure(probability=20, times=-1, verbose=0, ignore_gfp_wait=False)
        m.fail_page_alloc.configure(
            probability=20, times=-1, verbose=0, ignore_gfp_wait=False, ignore_gfp_highmem=False, min_order=0
        )
        program = Program(m, seed)
        for step in range(STEPS):
            program.step()
            if step % 100 == 0:
                m.validate()
        assert program.failed > 20
        assert m.failslab.failures > 10
        assert m.fail_page_alloc.failures > 10
        assert len(leaks.unfreed()) == len(program.live)
        for addr in list(program.live):
            program.give_back(addr)
        assert leaks.unfreed() == []
        assert settle(m, program) >= before
        m.validate()
        assert "BUG" not in m.log.text()


def test_one_seed_one_program():
    def run() -> tuple[str, int]:
        with Machine.boot("x86_64", ram="256M", seed=9) as m:
            m.failslab.configure(probability=30, times=-1, verbose=0, ignore_gfp_wait=False)
            program = Program(m, 9)
            for _ in range(STEPS):
                program.step()
            return m.digest(), program.failed

    assert run() == run()
