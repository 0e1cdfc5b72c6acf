# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.pcp.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kmem.mm.buddy cimport Buddy
from kmem.mm.mmzone cimport PerCpuPages

cdef class PcpLists(Buddy):
    cdef readonly bint pcp_thp                    # CONFIG_TRANSPARENT_HUGEPAGE

    cdef uint32_t rmqueue_pcplist(self, uint32_t zone, uint32_t order, uint32_t alloc_flags, uint32_t migratetype, bint decay) except? 0xFFFFFFFE
    cdef int free_unref_page(self, uint32_t pfn, uint32_t order) except -1
    cdef int free_pcppages_bulk(self, uint32_t zone, int count, PerCpuPages *pcp, int pindex) except -1
    cdef int nr_pcp_free(self, PerCpuPages *pcp, int high, bint free_high) except -1
