# SPDX-License-Identifier: GPL-2.0-only
"""vmalloc against a naive model: random programs, addresses, contents and frames compared after every step."""

from __future__ import annotations

import random

import pytest

from kmem import Machine
from kmem.errors import KernelOops
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.vmalloc import PAGE_KERNEL, VM_MAP
from tests.model.naive_vmalloc import PAGE, NaiveVmalloc

STEPS = 400


class Pair:
    """A machine and the naive model, doing the same."""

    def __init__(self, m: Machine, seed: int) -> None:
        self.m = m
        self.random = random.Random(seed)
        layout = m.kernel.layout
        # As on i386 where the area is small: 200 pages are left, the rest is one busy area.
        self.nr_pages = 200
        rest = layout.vmalloc_end - layout.vmalloc_start - self.nr_pages * PAGE
        filler = m.kernel.vmalloc.get_vm_area(
            rest // PAGE * PAGE - PAGE, 0, start=layout.vmalloc_start + self.nr_pages * PAGE
        )
        assert filler is not None
        self.naive = NaiveVmalloc(layout.vmalloc_start, self.nr_pages, m.kernel.vmalloc.space.lazy_max_pages())
        self.held: list[int] = []
        self.faults = False
        self.nr_failed = 0
        self.own: list[int] = [m.page_alloc.alloc_pages(GFP_KERNEL, 0) for _ in range(8)]
        self.frame_content = {pfn: bytes(PAGE) for pfn in self.own}
        for pfn in self.own:
            m.kernel.ram.clear(pfn << 12, PAGE)

    def step(self) -> None:
        """One random call on both sides."""
        action = self.random.choices((self.alloc, self.vmap, self.free, self.write, self.purge), (8, 3, 7, 10, 1))[0]
        action()

    def alloc(self) -> None:
        size = self.random.choice((1, PAGE, 3 * PAGE, 10 * PAGE, 40 * PAGE, 40_000))
        self.compare(self.m.vmalloc(size), self.naive.alloc(size))

    def compare(self, got: int | None, wanted: int | None) -> None:
        """Note an area that both have; one that lacked frames was there for a moment, and is lazy now."""
        if got is None and wanted is not None and self.faults:
            self.naive.free(wanted)
            self.nr_failed += 1
            return
        assert got == wanted
        if got is not None:
            self.held.append(got)

    def vmap(self) -> None:
        frames = self.random.sample(self.own, self.random.randint(1, len(self.own)))
        got = self.m.vmap(frames, len(frames), VM_MAP, PAGE_KERNEL)
        self.compare(got, self.naive.alloc(len(frames) * PAGE, frames))

    def free(self) -> None:
        if self.held:
            addr = self.held.pop(self.random.randrange(len(self.held)))
            area = self.naive.free(addr)
            (self.m.vfree if area.frames is None else self.m.vunmap)(addr)
            with pytest.raises(KernelOops):
                self.m.read(addr, 1)

    def write(self) -> None:
        if not self.held:
            return
        addr = self.random.choice(self.held)
        area = self.naive.areas[addr]
        offset = self.random.randrange(area.pages * PAGE - 4)
        length = self.random.randint(1, min(6000, area.pages * PAGE - offset))
        data = self.random.randbytes(length)
        if self.random.random() < 0.5:
            self.m.write(addr + offset, data)
        else:
            self.m.memory(addr + offset, length)[:] = data
        if area.frames is None:
            area.content[offset : offset + length] = data
            return
        whole = bytearray(b"".join(self.frame_content[pfn] for pfn in area.frames))
        whole[offset : offset + length] = data
        for place, pfn in enumerate(area.frames):
            self.frame_content[pfn] = bytes(whole[place * PAGE : (place + 1) * PAGE])

    def purge(self) -> None:
        self.m.vm_unmap_aliases()
        self.naive.purge()

    def check(self) -> None:
        """Everything that both sides know."""
        vmalloc = self.m.kernel.vmalloc
        for addr in self.held:
            area = self.naive.areas[addr]
            content = area.content
            if area.frames is not None:
                content = bytearray(b"".join(self.frame_content[pfn] for pfn in area.frames))
                assert [vmalloc.vmalloc_to_pfn(addr + n * PAGE) for n in range(area.pages)] == area.frames
            assert self.m.read(addr, area.pages * PAGE) == bytes(content)
            assert vmalloc.vmalloc_to_pfn(addr + area.pages * PAGE) is None  # the guard page
        start = self.naive.start
        lazy = {
            (addr - start) // PAGE for va in vmalloc.space.lazy.areas() for addr in range(va.va_start, va.va_end, PAGE)
        }
        assert lazy == self.naive.lazy
        vmalloc.validate()


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("seed", range(4))
def test_random_programs(arch: str, seed: int) -> None:
    with Machine.boot(arch, ram="512M") as m:
        pair = Pair(m, seed)
        for number in range(STEPS):
            pair.step()
            if number % 20 == 0:
                pair.check()
        pair.check()
        m.validate()


def test_a_program_in_which_requests_fail_changes_nothing_else() -> None:
    with Machine.boot("i386", ram="512M", reports="log") as m:
        pair = Pair(m, 99)
        for _ in range(150):
            pair.step()
        before = pair.m.vmallocinfo().count("\n")
        assert pair.m.vmalloc(201 * PAGE) is pair.naive.alloc(201 * PAGE) is None
        pair.check()
        assert pair.m.vmallocinfo().count("\n") <= before


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("seed", range(3))
def test_random_programs_with_failing_page_requests(arch: str, seed: int) -> None:
    with Machine.boot(arch, ram="512M", seed=seed, reports="log") as m:
        pair = Pair(m, seed)
        pair.faults = True
        m.fail_page_alloc.configure(
            probability=20, times=-1, verbose=0, min_order=0, ignore_gfp_wait=False, ignore_gfp_highmem=False
        )
        for number in range(STEPS):
            pair.step()
            if number % 20 == 0:
                pair.check()
        pair.check()
        assert pair.nr_failed > 5
        m.fail_page_alloc.probability = 0
        for addr in pair.held:
            (m.vfree if pair.naive.areas[addr].frames is None else m.vunmap)(addr)
        assert m.kernel.vmalloc.nr_vmalloc_pages == 0
        m.validate()
