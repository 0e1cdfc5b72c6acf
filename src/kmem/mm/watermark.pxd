# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.watermark.
from libc.stdint cimport int64_t, uint32_t

from kmem.mm.mmzone cimport Zone
from kmem.mm.pcp cimport PcpLists

cdef class Watermarks(PcpLists):
    cdef readonly bint cma                        # CONFIG_CMA

    cdef int64_t unusable_free(self, Zone *z, uint32_t order, uint32_t alloc_flags) except? -1
    cdef int64_t reduced_mark(self, int64_t mark, uint32_t alloc_flags) except? -1
    cdef bint watermark_ok(self, Zone *z, uint32_t order, int64_t mark, uint32_t highest_zoneidx, uint32_t alloc_flags, int64_t free_pages) except? -1
