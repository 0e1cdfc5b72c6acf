# SPDX-License-Identifier: GPL-2.0-only
"""Processes against a naive model: random system calls and accesses, answers, rights and contents compared.

With fault injection on, requests for memory fail at random; what fails is tried again, and has to find everything as
if it had never been tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from errno import ENOMEM
from typing import TypeVar

import pytest

from kmem import Machine
from kmem.errors import SegmentationFault
from kmem.linux.mman import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_MAYMOVE,
    PROT_READ,
    PROT_WRITE,
)
from kmem.machine.process import Process
from kmem.mm.mm_types import VM_SHARED
from tests.model.naive_process import PAGE, READ, WRITE, NaiveProcess

STEPS = 350
MAX_PROCESSES = 5
MAX_PAGES = 160
T = TypeVar("T")


class World:
    """A machine's processes, each with its naive twin, and what is done to both."""

    def __init__(self, m: Machine, seed: int, failing: bool) -> None:
        self.m = m
        self.random = random.Random(seed)
        self.failing = failing
        self.nr_failed = 0
        if failing:
            m.faults.everything()
        self.twins: list[tuple[Process, NaiveProcess]] = []
        self.start()

    def start(self) -> None:
        if len(self.twins) < MAX_PROCESSES:
            p = self.call(lambda: self.m.process(f"p{len(self.twins)}"))
            mm = p.mm
            self.twins.append((p, NaiveProcess(mm.mmap_base // PAGE, mm.start_brk, mm.brk)))

    def call(self, function: Callable[[], T]) -> T:
        """Call it with a request for memory failing now and then; then again, without."""
        if self.failing and self.random.random() < 0.6:
            self.m.faults.countdown = self.random.randint(1, 4)
            try:
                return function()
            except OSError as error:
                if error.errno != ENOMEM or self.m.faults.countdown:
                    raise
                self.nr_failed += 1
                self.m.validate()
            finally:
                self.m.faults.countdown = 0
        return function()

    def step(self) -> None:
        actions = (self.mmap, self.munmap, self.mprotect, self.brk, self.write, self.read, self.fork, self.exit)
        more = (self.start, self.fixed, self.drop, self.mremap)
        weights = (6, 4, 5, 4, 14, 10, 2, 1, 1, 2, 2, 3)
        self.random.choices((*actions, *more), weights)[0]()

    def any(self) -> tuple[Process, NaiveProcess]:
        return self.random.choice(self.twins)

    def stretch(self, naive: NaiveProcess) -> tuple[int, int]:
        """Some pages near those that are mapped."""
        if not naive.pages:
            return naive.base - 20, 3
        first = self.random.choice(sorted(naive.pages)) + self.random.choice((-2, -1, 0, 0, 0, 0))
        return max(first, 16), self.random.choice((1, 1, 2, 3, 8, 20))

    def prot(self) -> int:
        return self.random.choice((0, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE))

    # What is done

    def mmap(self) -> None:
        p, naive = self.any()
        count, prot, shared = self.random.choice((1, 2, 5, 16)), self.prot(), self.random.random() < 0.2
        if len(naive.pages) + count > MAX_PAGES:
            return
        flags = MAP_ANONYMOUS | (MAP_SHARED if shared else MAP_PRIVATE)
        assert self.call(lambda: p.mmap(0, count * PAGE, prot, flags)) == naive.mmap(count, prot, shared) * PAGE

    def fixed(self) -> None:
        p, naive = self.any()
        (first, count), prot = self.stretch(naive), self.prot()
        if first + count > naive.base or first * PAGE < naive.brk + 100 * PAGE:
            return
        flags = MAP_ANONYMOUS | MAP_PRIVATE | MAP_FIXED
        assert self.call(lambda: p.mmap(first * PAGE, count * PAGE, prot, flags)) == first * PAGE
        naive.mmap(count, prot, False, first)

    def munmap(self) -> None:
        p, naive = self.any()
        first, count = self.stretch(naive)
        self.call(lambda: p.munmap(first * PAGE, count * PAGE))
        naive.munmap(first, count)

    def mprotect(self) -> None:
        p, naive = self.any()
        (first, count), prot = self.stretch(naive), self.prot()
        try:
            self.call(lambda: p.mprotect(first * PAGE, count * PAGE, prot))
            holes = False
        except OSError as error:
            assert error.errno == ENOMEM
            holes = True
        assert naive.mprotect(first, count, prot) is not holes

    def drop(self) -> None:
        p, naive = self.any()
        first, count = self.stretch(naive)
        if all(first + i in naive.pages for i in range(count)):
            p.madvise(first * PAGE, count * PAGE, MADV_DONTNEED)
            naive.drop(first, count)

    def brk(self) -> None:
        p, naive = self.any()
        brk = naive.brk + self.random.randint(-3 * PAGE, 4 * PAGE)
        if len(naive.pages) + 4 > MAX_PAGES:
            brk = naive.brk_start
        want = naive.set_brk(brk)
        if self.call(lambda: self.brk_or_fail(p, brk, want)) != want:
            raise AssertionError(f"brk({brk:#x})")

    @staticmethod
    def brk_or_fail(p: Process, brk: int, want: int) -> int:
        """The system call answers with the old end where others fail."""
        got = p.brk(brk)
        if got != want:
            raise OSError(ENOMEM, "brk")
        return got

    def mremap(self) -> None:
        """Whole areas of private memory: cut at the end, or moved, since the next page is taken."""
        p, naive = self.any()
        areas = [vma for vma in p.mm.vmas[:-1] if not vma.vm_flags & VM_SHARED and vma.vm_start > p.mm.brk + PAGE]
        if not areas:
            return
        vma = self.random.choice(areas)
        first, old = vma.vm_start // PAGE, vma.nr_pages
        new = old + self.random.choice((-2, -1, 1, 3, 8))
        blocked = first + old in naive.pages or first + old == naive.base
        if new <= 0 or (new > old and not blocked) or len(naive.pages) + 8 > MAX_PAGES:
            return
        if first + old == naive.base and new > old:
            return  # above the base is room, where nothing else is put
        got = self.call(lambda: p.mremap(first * PAGE, old * PAGE, new * PAGE, MREMAP_MAYMOVE))
        if new < old:
            naive.munmap(first + new, old - new)
            assert got == first * PAGE
        else:
            assert got == naive.move(first, old, new) * PAGE
            if self.failing:
                # without memory to cut an area the old place stays mapped, and nobody is told: as in the kernel
                p.munmap(first * PAGE, old * PAGE)

    def access(self) -> tuple[Process, NaiveProcess, int, int]:
        p, naive = self.any()
        first, _ = self.stretch(naive)
        return p, naive, first * PAGE + self.random.randrange(PAGE), self.random.choice((1, 4, 100, 5000, 9000))

    def write(self) -> None:
        p, naive, addr, size = self.access()
        data = self.random.randbytes(size)
        allowed = naive.allowed(addr, size, WRITE)
        if allowed == size:
            self.call(lambda: p.write(addr, data))
        else:
            with pytest.raises(SegmentationFault):
                self.call(lambda: p.write(addr, data))
            # up to the page that may not be written to, all has been
            allowed -= (addr + allowed) % PAGE if allowed else 0
        naive.write(addr, data[:allowed])

    def read(self) -> None:
        p, naive, addr, size = self.access()
        if naive.allowed(addr, size, READ) == size:
            assert self.call(lambda: p.read(addr, size)) == naive.read(addr, size)
        else:
            with pytest.raises(SegmentationFault):
                self.call(lambda: p.read(addr, size))

    def fork(self) -> None:
        if len(self.twins) < MAX_PROCESSES:
            p, naive = self.any()
            self.twins.append((self.call(p.fork), naive.fork()))

    def exit(self) -> None:
        if len(self.twins) > 1:
            p, _ = self.twins.pop(self.random.randrange(len(self.twins)))
            p.exit()

    # What has to hold

    def check(self) -> None:
        self.m.validate()
        for p, naive in self.twins:
            mapped = {number for vma in p.mm.vmas[:-1] for number in range(vma.vm_start // PAGE, vma.vm_end // PAGE)}
            assert mapped == set(naive.pages)
            for number, page in naive.pages.items():
                if page.prot & READ:
                    assert p.read(number * PAGE, PAGE) == page.data
        for one, other in zip(self.twins, self.twins[1:], strict=False):
            self.check_apart(one, other)

    def check_apart(self, one: tuple[Process, NaiveProcess], other: tuple[Process, NaiveProcess]) -> None:
        """Frames that a process may write to are its own, unless the memory is shared."""
        writable: list[set[int | None]] = []
        for p, naive in (one, other):
            private = [n for n, page in naive.pages.items() if not page.shared and page.prot & WRITE]
            steps = [self.m.walk(p, number * PAGE)[-1] for number in private]
            writable.append({step.value >> 12 & 0xFFFFFFFFF for step in steps if step.leaf and step.value & 2})
        assert not writable[0] & writable[1]


@pytest.mark.parametrize("failing", [False, True], ids=["", "failing"])
@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("seed", range(4))
def test_processes_do_as_the_naive_model(arch: str, seed: int, failing: bool) -> None:
    print(f"seed {seed}")
    with Machine.boot(arch, ram="256M", seed=seed, reports="log") as m:
        world = World(m, seed, failing)
        for step in range(STEPS):
            world.step()
            if step % 35 == 0:
                world.check()
        world.check()
        if failing:
            assert world.nr_failed > 15
        for p, _ in world.twins:
            p.exit()
        m.kernel.reclaim.lru.lru_add_drain_all()
        vm = m.kernel.vm
        assert (len(vm.folios), vm.committed_as, len(vm.anon_vmas), len(vm.mms)) == (0, 0, 0, 0)
        assert vm.stat.global_node_page_state("nr_page_table_pages") == 0
        assert vm.stat.global_node_page_state("nr_anon_pages") == 0
        assert vm.stat.global_node_page_state("nr_shmem") == 0
        m.validate()
