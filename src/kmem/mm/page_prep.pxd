# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.page_prep.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kmem.mm.watermark cimport Watermarks

cdef class PagePrep(Watermarks):
    cdef uint64_t ram_base                        # host address of the bytes of frame 0; 0 if there are no bytes
    cdef bint init_on_alloc
    cdef bint init_on_free
    cdef object touched_array
    cdef uint8_t[::1] touched                     # by frame: whether it ever was handed out, so it may hold something

    cdef int init_pages(self, uint32_t pfn, uint32_t order, uint32_t gfp) except -1
    cdef int clear_pages(self, uint32_t pfn, uint32_t order) except -1
