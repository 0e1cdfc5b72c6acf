# SPDX-License-Identifier: GPL-2.0-only
"""Processes as their programs see them: pages with rights and contents, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096
READ, WRITE = 1, 2


@dataclass
class NaivePage:
    """One page: its rights, and its bytes, which shared pages have in common."""

    prot: int
    data: bytearray
    shared: bool


@dataclass
class NaiveProcess:
    """Pages by number. Addresses are found by trying one after the other."""

    base: int
    brk_start: int
    brk: int
    pages: dict[int, NaivePage] = field(default_factory=dict)

    def find(self, count: int) -> int:
        """Number of the first of `count` free pages, as high as possible below the base."""
        first = self.base - count
        while any(first + i in self.pages for i in range(count)):
            first -= 1
        return first

    def mmap(self, count: int, prot: int, shared: bool, at: int | None = None) -> int:
        first = self.find(count) if at is None else at
        for i in range(count):
            self.pages[first + i] = NaivePage(prot, bytearray(PAGE), shared)
        return first

    def munmap(self, first: int, count: int) -> None:
        for i in range(count):
            self.pages.pop(first + i, None)

    def mprotect(self, first: int, count: int, prot: int) -> bool:
        """Change rights up to the first hole; whether there was none."""
        for i in range(count):
            if first + i not in self.pages:
                return False
            self.pages[first + i].prot = prot
        return True

    def drop(self, first: int, count: int) -> None:
        """Private pages read as zero again."""
        for i in range(count):
            page = self.pages[first + i]
            if not page.shared:
                page.data = bytearray(PAGE)

    def set_brk(self, brk: int) -> int:
        old, new = -(-self.brk // PAGE), -(-brk // PAGE)
        if brk < self.brk_start or any(number in self.pages for number in range(old, new + 1)):
            return self.brk
        if new < old and not any(number in self.pages for number in range(new, old)):
            return self.brk  # somebody has unmapped the heap
        for number in range(new, old):
            self.pages.pop(number, None)
        for number in range(old, new):
            self.pages[number] = NaivePage(READ | WRITE, bytearray(PAGE), False)
        self.brk = brk
        return brk

    def move(self, first: int, old: int, new: int) -> int:
        """Give the first pages of a stretch another place and size."""
        target = self.find(new)
        for i in range(min(old, new)):
            self.pages[target + i] = self.pages.pop(first + i)
        prot = self.pages[target].prot
        for i in range(old, new):
            self.pages[target + i] = NaivePage(prot, bytearray(PAGE), False)
        for i in range(new, old):
            self.pages.pop(first + i)
        return target

    def fork(self) -> NaiveProcess:
        pages = {
            number: page if page.shared else NaivePage(page.prot, bytearray(page.data), False)
            for number, page in self.pages.items()
        }
        # rights are each process's own, even of pages that are shared
        for number, page in pages.items():
            if page.shared:
                pages[number] = NaivePage(page.prot, page.data, True)
        return NaiveProcess(self.base, self.brk_start, self.brk, pages)

    def allowed(self, addr: int, size: int, right: int) -> int:
        """How many of the bytes may be accessed before the first that may not."""
        done = 0
        while done < size:
            page = self.pages.get((addr + done) // PAGE)
            if page is None or not page.prot & right:
                return done
            done += PAGE - (addr + done) % PAGE
        return size

    def read(self, addr: int, size: int) -> bytes:
        return bytes(self.pages[at // PAGE].data[at % PAGE] for at in range(addr, addr + size))

    def write(self, addr: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            self.pages[(addr + i) // PAGE].data[(addr + i) % PAGE] = byte
