# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.mm.kernel: the running kernel, and which one runs in this thread.
cimport cython
from libc.stdint cimport uint32_t, uint64_t

from kmem.mm.page_alloc cimport PageAllocator
from kmem.mm.slub cimport Slub

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept nogil
    bint PyLong_CheckExact(object) noexcept
    size_t PyLong_AsSize_t(object) noexcept
    void *PyErr_Occurred() noexcept
    void PyErr_Clear() noexcept

cdef enum:                                # Kernel.watch: why a call has to leave the fast path
    WATCH_ATOMIC = 1                      # the running code must not sleep
    WATCH_AIDS = 2                        # a debugging aid listens
    WATCH_CLOSED = 4                      # the machine is shut down
    WATCH_CTOR = 8                        # a constructor runs

cdef enum:
    ALL_ONES = 0xFFFFFFFFFFFFFFFF         # what a conversion that fails answers

cdef enum:
    GFP_BAD_FOR_SLABS = 0xF8000006        # GFP_SLAB_BUG_MASK

@cython.final
cdef class Kernel:
    cdef readonly PageAllocator page_alloc
    cdef readonly Slub slub
    cdef readonly object caches           # kmem.mm.kmem_cache.KmemCaches
    cdef public object vmalloc, layout, init_mm, printk, clock, current, sched, leaks, owner, reclaim, vm
    cdef public object faults, highmem
    cdef object _ram
    cdef tuple _aids
    cdef uint64_t ram_base                # host address of physical address 0; 0 if there are no bytes
    cdef public bint init_on_alloc        # fresh memory reads as zero
    cdef public bint init_on_free         # freed memory is zeroed
    cdef public uint64_t nr_reports       # how often report() was called
    cdef public uint64_t taint            # bits that add_taint() has set: what the kernel holds against itself
    cdef public str reports
    cdef public dict kmem_caches          # index of a cache: its KmemCache
    cdef public dict page_address_map     # frame of high memory: where kmap() has mapped it
    cdef public dict once                 # places of WARN_ON_ONCE() that have spoken
    cdef readonly str arch
    cdef readonly uint64_t page_offset    # kernel address of physical address 0
    cdef readonly uint64_t max_low_pfn    # first frame behind the linear map
    cdef uint64_t lowmem_bytes            # its physical address
    cdef readonly int bits_per_long
    cdef readonly uint64_t ulong_max
    cdef uint32_t watch                   # WATCH_*: 0 in process context with nothing switched on
    cdef uint32_t _preempt_count
    cdef bint _irqs_disabled
    cdef uint32_t _rcu_nesting

    cdef int _watch_context(self) except -1
    # What a call is to do that found `watch` set: refuse a dead machine, report sleeping.
    # Returns WATCH_AIDS if aids listen.
    cdef int watched(self, uint32_t gfp) except -1

# The kernel of the innermost block of this thread.  Raises StateError if there is none.
cdef Kernel running()

# The kernel that was asked for last, and the thread that asked; other threads look into lists of their own.
cdef Kernel _kernel
cdef unsigned long _thread

cdef inline Kernel running_kernel():
    if _thread == PyThread_get_thread_ident() and _kernel is not None:
        return _kernel
    return running()

# A number that was no small int, checked and converted; TypeError or UsageError.
cdef uint64_t bad_number(object value, str what, uint64_t largest) except? 0xFFFFFFFFFFFFFFFF

cdef inline uint64_t as_size(object value) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t number
    if PyLong_CheckExact(value):
        number = PyLong_AsSize_t(value)
        if number != ALL_ONES or PyErr_Occurred() == NULL:
            return number
        PyErr_Clear()
    return bad_number(value, "size", 0xFFFFFFFFFFFFFFFF)

cdef inline uint64_t as_addr(object value) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t number
    if PyLong_CheckExact(value):
        number = PyLong_AsSize_t(value)
        if number != ALL_ONES or PyErr_Occurred() == NULL:
            return number
        PyErr_Clear()
    return bad_number(value, "address", 0xFFFFFFFFFFFFFFFF)

cdef inline uint32_t as_gfp(object value) except? 0xFFFFFFFF:
    cdef uint64_t number
    if PyLong_CheckExact(value):
        number = PyLong_AsSize_t(value)
        if number <= 0xFFFFFFFF:
            return <uint32_t>number
        if PyErr_Occurred() != NULL:
            PyErr_Clear()
    return <uint32_t>bad_number(value, "gfp mask", 0xFFFFFFFF)

@cython.final
cdef class BoundCall:
    cdef readonly Kernel kernel
    cdef readonly object function
