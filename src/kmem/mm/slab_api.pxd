# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.slab_api.
cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kmem.mm.kernel cimport (
    GFP_BAD_FOR_SLABS,
    WATCH_AIDS,
    WATCH_CLOSED,
    WATCH_CTOR,
    Kernel,
    as_addr,
    as_gfp,
    as_size,
    bad_number,
    running_kernel as running,
)

cdef enum:
    KMALLOC_MAX_CACHE_BYTES = 8192

@cython.final
cdef class KmemCache:
    cdef readonly Kernel kernel
    cdef readonly uint32_t index
    cdef readonly str name
    cdef readonly object type
    cdef readonly object ctor
    cdef readonly bint live
    cdef bint plain                 # live, and its objects need no constructor: the fast path will do
    cdef bint constructing

cdef object alloc_object(KmemCache s, uint32_t gfp, int node)
cdef object alloc_object_slow(Kernel kernel, KmemCache s, uint32_t gfp, int node, uint64_t size=*)
cdef object kmalloc_bytes(Kernel kernel, uint64_t size, uint32_t gfp, int node)
cdef object kmalloc_slow(Kernel kernel, uint64_t size, uint32_t gfp, int node)
cdef object kmalloc_large(Kernel kernel, uint64_t size, uint32_t gfp, int node)
cdef int usable(Kernel kernel, KmemCache s) except -1
cdef bint free_to_cpu(Kernel kernel, uint64_t addr, uint32_t cache) except? -1
cdef int free_object(Kernel kernel, KmemCache s, uint64_t addr) except -1
cdef int free_address(Kernel kernel, uint64_t addr) except -1
cdef uint64_t low_phys(Kernel kernel, uint64_t addr) except? 0xFFFFFFFFFFFFFFFF
cdef int check_bulk(Kernel kernel, KmemCache s, list addresses) except -1
