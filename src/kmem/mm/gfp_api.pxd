# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.gfp_api.
cimport cython
from libc.stdint cimport uint32_t, uint64_t

from kmem.mm.kernel cimport WATCH_AIDS, WATCH_CLOSED, Kernel, as_addr, as_gfp, as_size, bad_number, running

cdef enum:
    NO_FRAME_U32 = 0xFFFFFFFF

# Frame of a fresh block of the caller's, or NO_FRAME_U32.  `tell` whether the debugging aids are told.
cdef uint32_t alloc_block(Kernel kernel, uint32_t gfp, uint64_t order, int node, bint tell=*) except? 0xFFFFFFFE
cdef int free_block(Kernel kernel, uint64_t pfn, uint64_t order, str function) except -1
cdef uint64_t as_order(object value) except? 0xFFFFFFFFFFFFFFFF
