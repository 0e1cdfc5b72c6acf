# SPDX-License-Identifier: GPL-2.0-only
"""What a frame holds, and what becomes of its record apart from being handed out.

Frames have bytes on a running machine only; replaying a trace needs none.
Fresh and freed pages are zeroed as the command line says.  A frame that nobody
had before is zero by itself: the host gives out nothing else.  So memory that
is not touched costs nothing, however often it is asked for to be zero.

Source: mm/page_alloc.c:post_alloc_hook, split_page @6.1.192
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.page import PG_ALLOCATED, PGF_HEAD
from cython.cimports.kmem.mm.watermark import Watermarks
from cython.cimports.libc.string import memset

_GFP_ZERO = cython.declare(cython.uint, 0x100)


@cython.cclass
class PagePrep(Watermarks):
    """The bytes behind the frames of a machine, and the records of blocks that are split.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    cma : bool
        Whether the kernel has CMA areas configured.
    """

    def __init__(self, memmap, cma):
        Watermarks.__init__(self, memmap, cma)
        self.ram_base = 0
        self.init_on_free = False

    def attach_ram(self, base: int, init_on_alloc: bool, init_on_free: bool) -> None:
        """Let frames have bytes, which are zeroed as the kernel would.

        Parameters
        ----------
        base : int
            Host address of the bytes of frame 0. All of them are zero now.
        init_on_alloc, init_on_free : bool
            Whether every fresh, and every freed, page is zeroed.
        """
        self.touched_array = np.zeros(self.memmap.nr_frames, np.uint8)
        self.touched = self.touched_array
        self.init_on_alloc = init_on_alloc
        self.init_on_free = init_on_free
        self.ram_base = base

    def detach_ram(self) -> None:
        """Let frames have no bytes any more."""
        self.ram_base = 0

    def init_pages(self, pfn, order, gfp):
        """Zero fresh pages if they are to be zero; those that nobody had before are.

        Source: mm/page_alloc.c:post_alloc_hook, kernel_init_pages @6.1.192
        """
        frame: cython.uint
        zero: cython.bint = self.init_on_alloc or gfp & _GFP_ZERO != 0
        for frame in range(pfn, pfn + (cython.cast(cython.uint, 1) << order)):
            if not self.touched[frame]:
                self.touched[frame] = 1
            elif zero:
                memset(
                    cython.cast(cython.p_char, self.ram_base + (cython.cast(cython.ulonglong, frame) << 12)), 0, 4096
                )
        return 0

    def clear_pages(self, pfn, order):
        """Zero pages that go back.

        Source: mm/page_alloc.c:free_pages_prepare, want_init_on_free @6.1.192
        """
        frame: cython.uint
        for frame in range(pfn, pfn + (cython.cast(cython.uint, 1) << order)):
            memset(cython.cast(cython.p_char, self.ram_base + (cython.cast(cython.ulonglong, frame) << 12)), 0, 4096)
            self.touched[frame] = 0
        return 0

    def split_page(self, pfn, order):
        """Make an allocated block 2**`order` single pages, each to be freed alone.

        Source: mm/page_alloc.c:split_page @6.1.192
        """
        i: cython.uint
        first: cython.uint = pfn
        if self.pages[first].kind != PG_ALLOCATED or self.pages[first].order != order:
            raise ValueError(f"frame {pfn} is not an allocated block of order {order}")
        if self.pages[first].flags & PGF_HEAD:
            raise ValueError(f"frame {pfn} heads a compound page, which cannot be split")
        self.pages[first].order = 0
        for i in range(first + 1, first + (1 << order)):
            self.pages[i].kind = PG_ALLOCATED
            self.pages[i].order = 0
            self.pages[i].flags = 0

    def page_info(self, pfn):
        """What frame `pfn` is, as a dict with the fields of its record."""
        if not 0 <= pfn < self.memmap.nr_frames:
            raise ValueError(f"no frame {pfn}")
        record = self.memmap.pages_array[pfn]
        return {name: int(record[name]) for name in record.dtype.names}
