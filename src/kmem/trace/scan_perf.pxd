# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_perf.
from kmem.trace.scan_text cimport LineHeader, Text, TextScanner

cdef class PerfScanner(TextScanner):
    cdef bint header(self, Text p, Text end, LineHeader *found) noexcept
