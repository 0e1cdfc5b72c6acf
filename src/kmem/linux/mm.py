# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/mm.h>``: pages and their addresses, and processes, which begin, multiply, grow and end."""

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
from kmem.mm.struct_page import page_address, page_to_pfn, pfn_to_page, phys_to_virt, virt_to_page, virt_to_phys
from kmem.mm.syscalls import *
from kmem.mm.syscalls import __all__ as _calls
from kmem.mm.uaccess import copy_from_user, copy_to_user

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
    "copy_from_user",
    "copy_to_user",
    "page_address",
    "page_to_pfn",
    "pfn_to_page",
    "phys_to_virt",
    "virt_to_page",
    "virt_to_phys",
]
