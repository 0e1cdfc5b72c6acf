# SPDX-License-Identifier: GPL-2.0-only
"""Device memory: ``ioremap()`` and the ways to read and write registers.

Devices answer at physical addresses where there is no memory.  ``ioremap()``
maps such a range uncached into the vmalloc area, aligned to its own size; the
area shows in ``/proc/vmallocinfo`` with its physical address.  Device memory
is not memory: it is read and written by ``readl()``, ``writel()`` and their
kin, not by a view.

Source: arch/x86/mm/ioremap.c, arch/x86/include/asm/io.h, include/asm-generic/io.h @6.1.192
Differs: there are no devices. Behind the end of memory nobody answers: reads give all ones, and writes are lost.
In holes below it bytes read back as they were written.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final

from kmem.mm.access import fill, read, write
from kmem.mm.bug import warn_once
from kmem.mm.callers import caller, stack
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.kernel import current_kernel
from kmem.mm.pgtable import _PAGE_PCD, _PAGE_PSE, _PAGE_PWT, PAGE_KERNEL
from kmem.mm.printk import KERN_ERR
from kmem.mm.vmalloc_api import _enter, _size
from kmem.mm.vmap import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = [
    "ioremap",
    "ioremap_cache",
    "ioremap_uc",
    "ioremap_wc",
    "ioremap_wt",
    "iounmap",
    "memcpy_fromio",
    "memcpy_toio",
    "memset_io",
    "readb",
    "readl",
    "readq",
    "readw",
    "writeb",
    "writel",
    "writeq",
    "writew",
]

# Memory types as bits of an entry, with the page attribute table that Linux sets up: WB WC UC- UC WB WP UC- WT.
# Bit 7 is PAT in the last level. Source: arch/x86/mm/pat/memtype.c @6.1.192
_WC: Final = _PAGE_PWT
_UC_MINUS: Final = _PAGE_PCD
_UC: Final = _PAGE_PCD | _PAGE_PWT
_WT: Final = _PAGE_PSE | _PAGE_PCD | _PAGE_PWT
_WB: Final = 0
#: Physical address bits of the reference processors.
_PHYS_BITS: Final = {"x86_64": 40, "i386": 32}


def ioremap(phys_addr: int, size: int) -> int | None:
    """Map device memory uncached.

    Context: may sleep; not in interrupts.

    Parameters
    ----------
    phys_addr, size : int
        Physical address and bytes; neither need be whole pages.

    Returns
    -------
    int or None
        Address for ``readl()`` and its kin; None if the range is ordinary memory or no address at all, or if there
        is no address space.

    Source: arch/x86/mm/ioremap.c:ioremap @6.1.192
    """
    return _ioremap(phys_addr, size, _UC_MINUS)


def ioremap_uc(phys_addr: int, size: int) -> int | None:
    """Map device memory strongly uncached; otherwise as :func:`ioremap`.

    Source: arch/x86/mm/ioremap.c:ioremap_uc @6.1.192
    """
    return _ioremap(phys_addr, size, _UC)


def ioremap_wc(phys_addr: int, size: int) -> int | None:
    """Map device memory so that writes are combined; otherwise as :func:`ioremap`.

    Source: arch/x86/mm/ioremap.c:ioremap_wc @6.1.192
    """
    return _ioremap(phys_addr, size, _WC)


def ioremap_wt(phys_addr: int, size: int) -> int | None:
    """Map device memory so that writes go through the cache; otherwise as :func:`ioremap`.

    Source: arch/x86/mm/ioremap.c:ioremap_wt @6.1.192
    """
    return _ioremap(phys_addr, size, _WT)


def ioremap_cache(phys_addr: int, size: int) -> int | None:
    """Map device memory cached; otherwise as :func:`ioremap`.

    Source: arch/x86/mm/ioremap.c:ioremap_cache @6.1.192
    """
    return _ioremap(phys_addr, size, _WB)


def _ioremap(phys_addr: int, size: int, memory_type: int) -> int | None:
    """Source: arch/x86/mm/ioremap.c:__ioremap_caller @6.1.192."""
    phys_addr, size = _size(phys_addr), _size(size)
    kernel = current_kernel()
    last = phys_addr + size - 1
    if not size or last > kernel.ulong_max:
        return None
    if phys_addr >> _PHYS_BITS[kernel.arch]:
        kernel.printk.printk(f"ioremap: invalid physical address {phys_addr:x}")
        warn_once(kernel, "arch/x86/mm/ioremap.c:202", "__ioremap_caller")
        return None
    if _is_ram(kernel, phys_addr, last):
        digits = kernel.bits_per_long // 4
        text = f"ioremap on RAM at 0x{phys_addr:0{digits}x} - 0x{last:0{digits}x}"
        warn_once(kernel, "arch/x86/mm/ioremap.c:211", "__ioremap_caller", text)
        return None
    _enter(GFP_KERNEL)
    return kernel.vmalloc.ioremap(phys_addr, size, PAGE_KERNEL | memory_type, caller=caller())


def _is_ram(kernel: Kernel, first: int, last: int) -> bool:
    """Whether a range touches memory that the kernel manages.

    Source: arch/x86/mm/ioremap.c:__ioremap_check_ram @6.1.192
    """
    return any(
        start <= last >> PAGE_SHIFT and first >> PAGE_SHIFT < end for start, end in kernel.init_mm.managed_ranges
    )


def iounmap(addr: int | None) -> None:
    """Undo :func:`ioremap`; addresses of the linear map are ignored.

    Context: may sleep.

    Source: arch/x86/mm/ioremap.c:iounmap @6.1.192
    """
    kernel = current_kernel()
    if not addr or addr <= kernel.layout.high_memory:
        return
    kernel.might_sleep()
    addr &= -PAGE_SIZE
    if kernel.vmalloc.find_vm_area(addr) is None:
        kernel.printk.printk(f"iounmap: bad address {addr:0{kernel.bits_per_long // 4}x}", KERN_ERR)
        for line in stack():
            kernel.printk.printk(f" {line}")
        return
    kernel.vmalloc.remove_vm_area(addr)


# Registers


def _in(addr: int, size: int) -> int:
    return int.from_bytes(read(current_kernel(), addr, size), "little")


def _out(value: int, addr: int, size: int) -> None:
    write(current_kernel(), addr, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))


def readb(addr: int) -> int:
    """Read 8 bits. Any context.

    Source: arch/x86/include/asm/io.h:readb @6.1.192
    """
    return _in(addr, 1)


def readw(addr: int) -> int:
    """Read 16 bits. Any context.

    Source: arch/x86/include/asm/io.h:readw @6.1.192
    """
    return _in(addr, 2)


def readl(addr: int) -> int:
    """Read 32 bits. Any context.

    Source: arch/x86/include/asm/io.h:readl @6.1.192
    """
    return _in(addr, 4)


def readq(addr: int) -> int:
    """Read 64 bits. Any context.

    Source: arch/x86/include/asm/io.h:readq @6.1.192
    """
    return _in(addr, 8)


def writeb(value: int, addr: int) -> None:
    """Write 8 bits. Any context.

    Source: arch/x86/include/asm/io.h:writeb @6.1.192
    """
    _out(value, addr, 1)


def writew(value: int, addr: int) -> None:
    """Write 16 bits. Any context.

    Source: arch/x86/include/asm/io.h:writew @6.1.192
    """
    _out(value, addr, 2)


def writel(value: int, addr: int) -> None:
    """Write 32 bits. Any context.

    Source: arch/x86/include/asm/io.h:writel @6.1.192
    """
    _out(value, addr, 4)


def writeq(value: int, addr: int) -> None:
    """Write 64 bits. Any context.

    Source: arch/x86/include/asm/io.h:writeq @6.1.192
    """
    _out(value, addr, 8)


def memcpy_fromio(src: int, count: int) -> bytes:
    """Return `count` bytes of device memory. Any context.

    Source: arch/x86/lib/iomem.c:memcpy_fromio @6.1.192
    Differs: the bytes are returned, since there is no pointer to put them at.
    """
    return read(current_kernel(), src, _size(count))


def memcpy_toio(dst: int, data: bytes) -> None:
    """Write bytes to device memory. Any context.

    Source: arch/x86/lib/iomem.c:memcpy_toio @6.1.192
    """
    write(current_kernel(), dst, data)


def memset_io(addr: int, value: int, count: int) -> None:
    """Fill device memory with a byte. Any context.

    Source: arch/x86/lib/iomem.c:memset_io @6.1.192
    """
    fill(current_kernel(), addr, operator.index(value), _size(count))
