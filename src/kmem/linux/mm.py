# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/mm.h>``, as far as processes go: they begin, multiply, grow and end."""

from kmem.mm.mm_types import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from kmem.mm.syscalls import *
from kmem.mm.syscalls import __all__ as _calls

__all__ = [
    "MM_ANONPAGES",
    "MM_FILEPAGES",
    "MM_SHMEMPAGES",
    "MM_SWAPENTS",
    "VM_ACCOUNT",
    "VM_EXEC",
    "VM_GROWSDOWN",
    "VM_HUGEPAGE",
    "VM_LOCKED",
    "VM_NOHUGEPAGE",
    "VM_NORESERVE",
    "VM_READ",
    "VM_SHARED",
    "VM_WRITE",
    *_calls,
]
