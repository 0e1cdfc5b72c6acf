# SPDX-License-Identifier: GPL-2.0-only
"""The page record: what the model keeps for each page frame.

One :c:struct:`Page` of 32 bytes per frame, in one array indexed by the page
frame number.  The heads of all lists (free lists, per-CPU lists, partial
lists of slabs) are records of the same array behind the last frame, so that a
list is linked by plain indexes and never by pointers: the whole state is a
few flat arrays, which makes snapshot, restore and digest plain copies.

Source: include/linux/mm_types.h:struct page, struct slab @6.1.192
Differs: links are 32-bit indexes, and every field has a place of its own
where the kernel overlays them in unions; ``kind`` says outright what the
kernel infers from flags, refcount and ``page_type``.
"""

import numpy as np

#: No frame. pfn 0 is a frame like any other, never "none".
NO_PAGE = 0xFFFFFFFF

#: The layout of a page record, as NumPy sees it; checked against the compiled
#: structure whenever an array is attached to the core.
PAGE_DTYPE = np.dtype(
    [
        ("next", "u4"),
        ("prev", "u4"),
        ("kind", "u1"),
        ("order", "u1"),
        ("migratetype", "u1"),
        ("zone", "u1"),
        ("flags", "u1"),
        ("frozen", "u1"),
        ("cache", "u2"),
        ("inuse", "u2"),
        ("objects", "u2"),
        ("freelist", "u2"),
        ("slabs", "u2"),
        ("head", "u4"),
        ("slots", "u4"),
    ],
    align=True,
)

#: Names of ``Page.kind``, by value.
KIND_NAMES = ("reserved", "buddy", "pcp", "allocated", "slab", "large", "tail", "free")
