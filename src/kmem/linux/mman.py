# SPDX-License-Identifier: GPL-2.0-only
"""``<sys/mman.h>`` and ``<linux/mman.h>``: mapping memory, and the constants for it."""

from kmem.mm.mman import *
from kmem.mm.mman import __all__ as _constants
from kmem.mm.syscalls import madvise, mmap, mprotect, mremap, munmap

__all__ = [*_constants, "madvise", "mmap", "mprotect", "mremap", "munmap"]
