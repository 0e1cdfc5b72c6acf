# SPDX-License-Identifier: GPL-2.0-only
"""Allocation profiling: bytes and calls that each call site has out.

What kernels from 6.10 on show in ``/proc/allocinfo``.  Every place that
allocates has a counter; a free takes off what the allocation put on.

Source: lib/alloc_tag.c, lib/codetag.c, include/linux/alloc_tag.h @6.10
Differs: the kernel knows all places from the start and lists them in the order
of the image; here a place appears with its first call.  Pages that the
allocators take for themselves (slabs, page tables) are not on any place's account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kmem.mm.aids import Aid
from kmem.mm.callers import Site, caller_site
from kmem.mm.page_watch import block_of

__all__ = ["AllocTag", "AllocTags"]

_PAGE_SHIFT: Final = 12


@dataclass(slots=True)
class AllocTag:
    """The counter of one call site.

    Attributes
    ----------
    site : Site
    size_bytes, calls : int
        What is out: bytes (with the allocator's rounding) and allocations.
    """

    site: Site
    size_bytes: int = 0
    calls: int = 0


class AllocTags(Aid):
    """Allocation profiling of one machine; a debugging aid of its kernel."""

    def __init__(self) -> None:
        self._tags: dict[Site, AllocTag] = {}
        self._out: dict[int, tuple[AllocTag, int]] = {}
        self._pages: dict[int, tuple[AllocTag, int]] = {}

    def _add(self, size: int) -> tuple[AllocTag, int]:
        """Charge the caller.

        Source: include/linux/alloc_tag.h:alloc_tag_add @6.10
        """
        site = caller_site()
        tag = self._tags.get(site)
        if tag is None:
            tag = self._tags[site] = AllocTag(site)
        tag.size_bytes += size
        tag.calls += 1
        return tag, size

    @staticmethod
    def _sub(charge: tuple[AllocTag, int] | None) -> None:
        if charge is not None:
            tag, size = charge
            tag.size_bytes -= size
            tag.calls -= 1

    def slab_alloc(self, addr: int, size: int, cache: Any, gfp: int) -> None:
        """Charge an object with all that it takes of its slab, a large one with its pages.

        Source: mm/slub.c:alloc_tagging_slab_alloc_hook @6.10
        """
        if cache is not None:
            size = cache.size
        else:
            size = 1 << max(_PAGE_SHIFT, (size - 1).bit_length())
        self._out[addr] = self._add(size)

    def slab_free(self, addr: int) -> None:
        """Take an object off its account."""
        self._sub(self._out.pop(addr, None))

    def vmalloc(self, addr: int, size: int, gfp: int) -> None:
        """Charge an area."""
        self._out[addr] = self._add(-(-size >> _PAGE_SHIFT) << _PAGE_SHIFT)

    def vfree(self, addr: int) -> None:
        """Take an area off its account."""
        self._sub(self._out.pop(addr, None))

    def page_alloc(self, pfn: int, order: int, gfp: int) -> None:
        """Charge a block of pages.

        Source: include/linux/pgalloc_tag.h:pgalloc_tag_add @6.10
        """
        self._pages[pfn] = self._add(1 << (_PAGE_SHIFT + order))

    def page_free(self, pfn: int, order: int) -> None:
        """Take a block off its account; one that its owner has split goes page by page."""
        head = block_of(self._pages, pfn)
        if head is None or head + (self._pages[head][1] >> _PAGE_SHIFT) <= pfn:
            return
        tag, size = self._pages[head]
        if size > 1 << (_PAGE_SHIFT + order):
            tag.calls += (size >> _PAGE_SHIFT) - 1
            for frame in range(head, head + (size >> _PAGE_SHIFT)):
                self._pages[frame] = (tag, 1 << _PAGE_SHIFT)
        for frame in range(pfn, pfn + (1 << order)):
            self._sub(self._pages.pop(frame, None))

    @property
    def tags(self) -> list[AllocTag]:
        """All call sites, in the order of their first calls."""
        return list(self._tags.values())

    def allocinfo(self) -> str:
        """Return ``/proc/allocinfo``.

        Source: lib/alloc_tag.c:allocinfo_show, alloc_tag_to_text, lib/codetag.c:codetag_to_text @6.10
        """
        lines = ["allocinfo - version: 1.0\n#     <size>  <calls> <tag info>\n"]
        for tag in self._tags.values():
            site = tag.site
            lines.append(f"{tag.size_bytes:12d} {tag.calls:8d} {site.file}:{site.line} func:{site.function} \n")
        return "".join(lines)
