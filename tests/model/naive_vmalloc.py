# SPDX-License-Identifier: GPL-2.0-only
"""vmalloc as one would write it down without thinking of speed: a list of ranges, and first fit.

Every page of the area is free, busy or lazy; an allocation takes the lowest
run of free pages that is long enough, its guard page included; a freed area is
lazy until a purge makes all lazy pages free.  Contents are bytes by area.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096


@dataclass
class NaiveArea:
    """An area in use: its pages without the guard, and what is in them."""

    pages: int
    content: bytearray
    frames: list[int] | None = None  # of vmap: the caller's


@dataclass
class NaiveVmalloc:
    """The vmalloc area of a machine, page by page."""

    start: int
    nr_pages: int
    lazy_max: int
    areas: dict[int, NaiveArea] = field(default_factory=dict)
    lazy: set[int] = field(default_factory=set)  # page numbers

    def _taken(self) -> set[int]:
        pages = set(self.lazy)
        for addr, area in self.areas.items():
            first = (addr - self.start) // PAGE
            pages.update(range(first, first + area.pages + 1))
        return pages

    def _first_fit(self, pages: int) -> int | None:
        taken = self._taken()
        run = 0
        for page in range(self.nr_pages):
            run = 0 if page in taken else run + 1
            if run == pages:
                return self.start + (page - pages + 1) * PAGE
        return None

    def alloc(self, size: int, frames: list[int] | None = None) -> int | None:
        """Take an area of `size` bytes; None if there is no room, even after a purge."""
        pages = -(-size // PAGE)
        addr = self._first_fit(pages + 1)
        if addr is None:
            self.purge()
            addr = self._first_fit(pages + 1)
        if addr is not None:
            self.areas[addr] = NaiveArea(pages, bytearray(pages * PAGE), frames)
        return addr

    def free(self, addr: int) -> NaiveArea:
        """Give an area up."""
        area = self.areas.pop(addr)
        first = (addr - self.start) // PAGE
        self.lazy.update(range(first, first + area.pages + 1))
        if len(self.lazy) > self.lazy_max:
            self.purge()
        return area

    def purge(self) -> None:
        """Make everything lazy free."""
        self.lazy.clear()
