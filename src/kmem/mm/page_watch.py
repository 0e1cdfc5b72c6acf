# SPDX-License-Identifier: GPL-2.0-only
"""Who hears of every block of pages, the allocators' own ones included.

What kernel code asks for reaches the debugging aids as calls
(:mod:`kmem.mm.aids`).  Fault injection and page_owner sit deeper in the
kernel: inside the page allocator, where pages of slabs, of page tables and of
``vmalloc()`` pass as well.  The allocator has one place for them,
``PageAllocator.watch``, which is None as long as neither is on.

Source: mm/page_alloc.c:prepare_alloc_pages, post_alloc_hook, free_pages_prepare @6.1.192
"""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

__all__ = ["PageFaults", "PageRecorder", "PageWatch", "block_of"]

_MAX_ORDER = 11


def block_of(blocks: Container[int], pfn: int) -> int | None:
    """Return the head of the recorded block that could hold a frame; None if there is none.

    Blocks are aligned to their size, so there are few places to look at. The
    caller checks whether the block reaches as far as the frame.
    """
    for order in range(_MAX_ORDER):
        head = pfn & -(1 << order)
        if head in blocks:
            return head
    return None


class PageFaults(Protocol):
    """One who may refuse a request."""

    def should_fail_page(self, gfp: int, order: int) -> bool:
        """Whether a request is to fail."""


class PageRecorder(Protocol):
    """One who takes note."""

    def allocated(self, pfn: int, order: int, gfp: int) -> None:
        """Take note of a block that was handed out."""

    def freed(self, pfn: int, order: int) -> None:
        """Take note of a block that is given back."""

    def migrated(self, old: int, new: int, reason: str) -> None:
        """Take note that what is in one frame is in another now."""


class PageWatch:
    """Fault injection and page_owner of one page allocator.

    Attributes
    ----------
    faults : PageFaults or None
    owner : PageRecorder or None
    """

    def __init__(self) -> None:
        self.faults: PageFaults | None = None
        self.owner: PageRecorder | None = None

    def should_fail(self, gfp: int, order: int) -> bool:
        """Tell the allocator whether a request is to fail.

        Source: mm/page_alloc.c:should_fail_alloc_page @6.1.192
        """
        return self.faults is not None and self.faults.should_fail_page(gfp, order)

    def allocated(self, pfn: int, order: int, gfp: int) -> None:
        """Hear of a block that was handed out.

        Source: mm/page_alloc.c:post_alloc_hook @6.1.192
        """
        if self.owner is not None:
            self.owner.allocated(pfn, order, gfp)

    def freed(self, pfn: int, order: int) -> None:
        """Hear of a block that is given back.

        Source: mm/page_alloc.c:free_pages_prepare @6.1.192
        """
        if self.owner is not None:
            self.owner.freed(pfn, order)

    def migrated(self, old: int, new: int, reason: str) -> None:
        """Hear that a page has moved to another frame, before the old one is given back.

        Parameters
        ----------
        old, new : int
            Frames.
        reason : str
            As the kernel names it: ``"compaction"``.

        Source: mm/page_owner.c:__folio_copy_owner, __set_page_owner_migrate_reason @6.1.192
        """
        if self.owner is not None:
            self.owner.migrated(old, new, reason)
