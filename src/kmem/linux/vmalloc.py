# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/vmalloc.h>``: memory that is contiguous in addresses, not in frames.

>>> from kmem import Machine
>>> from kmem.linux.vmalloc import vfree, vmalloc
>>> with Machine.boot("i386", ram="1G"):
...     area = vmalloc(100_000)
...     print(hex(area))
...     vfree(area)
0xf73fe000
"""

from kmem.mm import vmalloc_api
from kmem.mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_RO, PAGE_KERNEL_ROX
from kmem.mm.vmalloc import (
    VM_ALLOC,
    VM_ALLOW_HUGE_VMAP,
    VM_DMA_COHERENT,
    VM_FLUSH_RESET_PERMS,
    VM_IOREMAP,
    VM_MAP,
    VM_MAP_PUT_PAGES,
    VM_NO_GUARD,
    VM_USERMAP,
)
from kmem.mm.vmalloc_api import *

__all__ = [
    *vmalloc_api.__all__,
    "PAGE_KERNEL",
    "PAGE_KERNEL_EXEC",
    "PAGE_KERNEL_RO",
    "PAGE_KERNEL_ROX",
    "VM_ALLOC",
    "VM_ALLOW_HUGE_VMAP",
    "VM_DMA_COHERENT",
    "VM_FLUSH_RESET_PERMS",
    "VM_IOREMAP",
    "VM_MAP",
    "VM_MAP_PUT_PAGES",
    "VM_NO_GUARD",
    "VM_USERMAP",
]
