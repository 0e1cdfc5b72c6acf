# SPDX-License-Identifier: GPL-2.0-only
"""``vmalloc()`` and its kin as kernel code calls them.

Every function acts on the current kernel.  Addresses are virtual, and None is
NULL.  What the kernel warns of is reported; what it dies of is an oops.

What a worker thread has to do - free what was given up in an interrupt, purge freed areas when there are too many -
is done when the running task sleeps, or at its next call here that may sleep.

Source: mm/vmalloc.c, mm/util.c @6.1.192
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import StateError, UsageError
from kmem.mm import gfp as flag
from kmem.mm import slab_api
from kmem.mm.access import fill, read, write
from kmem.mm.bug import bug, warn, warn_once
from kmem.mm.callers import caller
from kmem.mm.gfp import GFP_DMA32, GFP_KERNEL
from kmem.mm.kernel import current_kernel
from kmem.mm.might_sleep import check_may_sleep, may_sleep
from kmem.mm.pgtable import PAGE_KERNEL
from kmem.mm.struct_page import Page
from kmem.mm.vmalloc import VM_ALLOW_HUGE_VMAP, VM_NO_GUARD, VM_USERMAP, VmStruct
from kmem.mm.vmap import PAGE_SIZE
from kmem.mm.workqueue import Work, queue_work

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = [
    "__vcalloc",
    "__vmalloc",
    "__vmalloc_array",
    "__vmalloc_node",
    "find_vm_area",
    "is_vmalloc_addr",
    "kvcalloc",
    "kvfree",
    "kvfree_sensitive",
    "kvmalloc",
    "kvmalloc_array",
    "kvmalloc_node",
    "kvrealloc",
    "kvzalloc",
    "kvzalloc_node",
    "vcalloc",
    "vfree",
    "vfree_atomic",
    "vm_map_ram",
    "vm_unmap_aliases",
    "vm_unmap_ram",
    "vmalloc",
    "vmalloc_32",
    "vmalloc_32_user",
    "vmalloc_array",
    "vmalloc_huge",
    "vmalloc_node",
    "vmalloc_to_page",
    "vmalloc_to_pfn",
    "vmalloc_user",
    "vmap",
    "vunmap",
    "vzalloc",
    "vzalloc_node",
]

_ZERO: Final = flag.__GFP_ZERO
_NOWARN: Final = flag.__GFP_NOWARN
_NORETRY: Final = flag.__GFP_NORETRY
_NOFAIL: Final = flag.__GFP_NOFAIL
_RETRY_MAYFAIL: Final = flag.__GFP_RETRY_MAYFAIL
_DIRECT_RECLAIM: Final = flag.__GFP_DIRECT_RECLAIM
_GFP_VMALLOC32: Final = GFP_DMA32 | GFP_KERNEL
#: Counts of preempt_count that mean an interrupt, or that they are held off: softirq and hardirq.
_IN_INTERRUPT: Final = 0x000FFF00
_INT_MAX: Final = (1 << 31) - 1
NUMA_NO_NODE: Final = -1


def _size(size: object) -> int:
    """Return a number of bytes.

    Raises
    ------
    TypeError, ValueError
        It is no number, or negative.
    """
    try:
        value = operator.index(size)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"the size is {type(size).__name__}, not an integer") from None
    if value < 0:
        raise ValueError(f"a size of {value} bytes")
    return value


def _gfp(gfp: object) -> int:
    """Return GFP flags.

    Raises
    ------
    TypeError, ValueError
        It is no number, or has more than 32 bits.
    """
    value = operator.index(gfp)  # type: ignore[arg-type]
    if not 0 <= value < 1 << 32:
        raise ValueError(f"gfp {value:#x} is no mask of 32 bits")
    return value


def _address(kernel: Kernel, addr: object) -> int:
    """Return an address.

    Raises
    ------
    TypeError, ValueError
        It is no number, or no address of this machine.
    """
    try:
        value = operator.index(addr)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"the address is {type(addr).__name__}, not an integer or None") from None
    if not 0 <= value <= kernel.ulong_max:
        raise ValueError(f"{value:#x} is no address of {kernel.bits_per_long} bits")
    return value


def _enter(gfp: int) -> Kernel:
    """Return the current kernel, for a call that makes or removes areas: never in an interrupt, and it may sleep.

    Source: mm/vmalloc.c:__get_vm_area_node @6.1.192
    """
    kernel = current_kernel()
    if kernel.preempt_count & _IN_INTERRUPT:
        bug(kernel, "mm/vmalloc.c:2554")
    kernel.might_sleep(gfp)
    _let_workers_run(kernel)
    return kernel


def _may_sleep(kernel: Kernel, line: int) -> None:
    """Report it if the running code must not sleep; `line` of mm/vmalloc.c checks."""
    check_may_sleep(kernel, "mm/vmalloc.c", line)
    _let_workers_run(kernel)


def _let_workers_run(kernel: Kernel) -> None:
    """Let worker threads do what waits for them, if the running code may sleep.

    Source: mm/vmalloc.c:vm_area_alloc_pages, __vunmap @6.1.192, which call cond_resched()
    """
    vmalloc = kernel.vmalloc
    if (vmalloc.has_deferred or vmalloc.space.drain_pending) and may_sleep(kernel) and kernel.sched is not None:
        kernel.sched.cond_resched()


def _free_work(work: Work) -> None:
    """Free what was put aside; a worker thread runs it.

    Source: mm/vmalloc.c:free_work @6.1.192
    """
    current_kernel().vmalloc.free_work()


def _vfree_deferred(kernel: Kernel, addr: int) -> None:
    """Source: mm/vmalloc.c:__vfree_deferred @6.1.192."""
    first = not kernel.vmalloc.has_deferred
    kernel.vmalloc.vfree_atomic(addr)
    if first and kernel.sched is not None:
        queue_work(kernel.sched.workqueues.system, Work(_free_work))


def _alloc(size: int, gfp: int, *, align: int = 1, vm_flags: int = 0, node: int = NUMA_NO_NODE) -> int | None:
    """Source: mm/vmalloc.c:__vmalloc_node_range @6.1.192."""
    size, gfp = _size(size), _gfp(gfp)
    if not size:
        warn_once(current_kernel(), "mm/vmalloc.c:3227", "__vmalloc_node_range")
        return None
    kernel = _enter(gfp)
    addr = kernel.vmalloc.vmalloc_node_range(size, align, gfp, vm_flags, node=node, caller=caller())
    if addr is not None:
        for aid in kernel.aids:
            aid.vmalloc(addr, size, gfp)
    return addr


# Allocation


def vmalloc(size: int) -> int | None:
    """Allocate memory that is contiguous in addresses, not in frames.

    Context: may sleep. Frames come from high memory first where there is any.

    Parameters
    ----------
    size : int
        Bytes; whole pages are allocated.

    Returns
    -------
    int or None
        Address, page-aligned; None if there is no memory or no address space.

    Source: mm/vmalloc.c:vmalloc @6.1.192
    """
    return _alloc(size, GFP_KERNEL)


def vzalloc(size: int) -> int | None:
    """Allocate zeroed memory; otherwise as :func:`vmalloc`.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/vmalloc.c:vzalloc @6.1.192
    """
    return _alloc(size, GFP_KERNEL | _ZERO)


def vmalloc_node(size: int, node: int) -> int | None:
    """Allocate memory on a node; otherwise as :func:`vmalloc`.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/vmalloc.c:vmalloc_node @6.1.192
    """
    return _alloc(size, GFP_KERNEL, node=node)


def vzalloc_node(size: int, node: int) -> int | None:
    """Allocate zeroed memory on a node; otherwise as :func:`vmalloc`.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/vmalloc.c:vzalloc_node @6.1.192
    """
    return _alloc(size, GFP_KERNEL | _ZERO, node=node)


def vmalloc_32(size: int) -> int | None:
    """Allocate memory that 32 bits can address physically; otherwise as :func:`vmalloc`.

    May sleep; process context only. The memory is contiguous in addresses only, frames below 4 GiB.

    Source: mm/vmalloc.c:vmalloc_32 @6.1.192
    """
    return _alloc(size, _GFP_VMALLOC32)


def vmalloc_user(size: int) -> int | None:
    """Allocate zeroed memory that may be mapped into processes; otherwise as :func:`vmalloc`.

    May sleep; process context only. The memory is contiguous in addresses only, may be mapped into processes.

    Source: mm/vmalloc.c:vmalloc_user @6.1.192
    """
    return _alloc(size, GFP_KERNEL | _ZERO, align=PAGE_SIZE, vm_flags=VM_USERMAP)


def vmalloc_32_user(size: int) -> int | None:
    """Allocate as :func:`vmalloc_user` does, from frames that 32 bits can address.

    May sleep; process context only. The memory is contiguous in addresses only, frames below 4 GiB.

    Source: mm/vmalloc.c:vmalloc_32_user @6.1.192
    """
    return _alloc(size, _GFP_VMALLOC32 | _ZERO, align=PAGE_SIZE, vm_flags=VM_USERMAP)


def vmalloc_huge(size: int, gfp_mask: int) -> int | None:
    """Allocate from blocks of 2 MiB, mapped as such, if the machine can and `size` is at least one.

    Context: may sleep.

    Source: mm/vmalloc.c:vmalloc_huge @6.1.192
    """
    return _alloc(size, gfp_mask, vm_flags=VM_ALLOW_HUGE_VMAP)


def __vmalloc(size: int, gfp_mask: int) -> int | None:
    """Allocate with flags of the caller's; otherwise as :func:`vmalloc`.

    Flags that forbid to sleep are of no use: addresses and page tables are allocated in any case.

    Source: mm/vmalloc.c:__vmalloc @6.1.192
    """
    return _alloc(size, gfp_mask)


def __vmalloc_node(size: int, align: int, gfp_mask: int, node: int, caller: object = None) -> int | None:
    """Allocate with alignment, flags and node of the caller's.

    Parameters
    ----------
    size, align : int
        Bytes; `align` is a power of two.
    gfp_mask : int
    node : int
        -1 for any.
    caller : object
        Not used: who called is found out.

    Notes
    -----
    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/vmalloc.c:__vmalloc_node @6.1.192
    """
    return _alloc(size, gfp_mask, align=align, node=node)


def __vmalloc_array(n: int, size: int, flags: int) -> int | None:
    """Allocate `n` elements of `size` bytes; None if the product does not fit into a word.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/util.c:__vmalloc_array @6.1.192
    """
    total = _size(n) * _size(size)
    return None if total > current_kernel().ulong_max else _alloc(total, flags)


def vmalloc_array(n: int, size: int) -> int | None:
    """Allocate `n` elements of `size` bytes.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/util.c:vmalloc_array @6.1.192
    """
    return __vmalloc_array(n, size, GFP_KERNEL)


def __vcalloc(n: int, size: int, flags: int) -> int | None:
    """Allocate `n` zeroed elements of `size` bytes.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/util.c:__vcalloc @6.1.192
    """
    return __vmalloc_array(n, size, flags | _ZERO)


def vcalloc(n: int, size: int) -> int | None:
    """Allocate `n` zeroed elements of `size` bytes.

    May sleep; process context only. The memory is contiguous in addresses only.

    Source: mm/util.c:vcalloc @6.1.192
    """
    return __vmalloc_array(n, size, GFP_KERNEL | _ZERO)


# Freeing


def vfree(addr: int | None) -> None:
    """Free what ``vmalloc()`` and its kin returned; NULL is ignored.

    Context: may sleep, unless called in an interrupt, where the work is put off. The addresses serve nobody until
    the next purge; the frames go back at once.

    Source: mm/vmalloc.c:vfree @6.1.192
    """
    kernel = current_kernel()
    interrupt = bool(kernel.preempt_count & _IN_INTERRUPT)
    if not interrupt:
        _may_sleep(kernel, 2858)
    if addr is None or not _address(kernel, addr):
        return
    if interrupt:
        _note_free(kernel, _address(kernel, addr))
        _vfree_deferred(kernel, addr)
        return
    if _area_ok(kernel, addr):
        _note_free(kernel, addr)
        kernel.vmalloc.vfree(addr)


def vfree_atomic(addr: int | None) -> None:
    """Free later what ``vmalloc()`` returned: for any context.

    Source: mm/vmalloc.c:vfree_atomic @6.1.192
    """
    kernel = current_kernel()
    if addr is not None and _address(kernel, addr):
        _note_free(kernel, addr)
        _vfree_deferred(kernel, addr)


def _note_free(kernel: Kernel, addr: int) -> None:
    for aid in kernel.aids:
        aid.vfree(addr)


def _area_ok(kernel: Kernel, addr: int) -> bool:
    """Whether there is an area to free at an address; if not, the kernel warns.

    Source: mm/vmalloc.c:__vunmap @6.1.192
    """
    digits = kernel.bits_per_long // 4
    if _address(kernel, addr) % PAGE_SIZE:
        warn(kernel, "mm/vmalloc.c:2752", "__vunmap", f"Trying to vfree() bad address ({addr:0{digits}x})")
        return False
    if kernel.vmalloc.find_vm_area(addr) is None:
        warn(kernel, "mm/vmalloc.c:2758", "__vunmap", f"Trying to vfree() nonexistent vm area ({addr:0{digits}x})")
        return False
    return True


# Mapping of given pages


def vmap(pages: Sequence[Page | int], count: int, flags: int, prot: int = PAGE_KERNEL) -> int | None:
    """Map pages of the caller's one behind the other.

    Context: may sleep.

    Parameters
    ----------
    pages : sequence of Page
    count : int
        How many of them.
    flags : int
        ``VM_MAP``; with ``VM_MAP_PUT_PAGES`` the pages belong to the area, and :func:`vfree` frees them.
    prot : int
        Protection, such as ``PAGE_KERNEL``; pages are never executable.

    Returns
    -------
    int or None
        Address; None if there is no address space or no memory for page tables.

    Source: mm/vmalloc.c:vmap @6.1.192
    """
    frames = _frames(pages, count)
    kernel = current_kernel()
    _may_sleep(kernel, 2907)
    if flags & VM_NO_GUARD:
        warn_once(kernel, "mm/vmalloc.c:2913", "vmap")
    return _enter(GFP_KERNEL).vmalloc.vmap(frames, flags, prot, caller=caller())


def _frames(pages: Any, count: int) -> list[int]:
    count = _size(count)
    if not isinstance(pages, Sequence) or isinstance(pages, str):
        raise TypeError(f"the pages are {type(pages).__name__}, not a sequence of Page")
    if count > len(pages):
        raise UsageError(f"{count} pages are to be mapped, {len(pages)} are given")
    nr_frames = current_kernel().page_alloc.memmap.nr_frames
    frames = [operator.index(page) for page in pages[:count]]
    for pfn in frames:
        if not 0 <= pfn < nr_frames:
            raise UsageError(f"no page frame {pfn:#x}")
    return frames


def vunmap(addr: int | None) -> None:
    """Undo :func:`vmap`; the pages stay the caller's.

    Context: may sleep; never in an interrupt.

    Source: mm/vmalloc.c:vunmap @6.1.192
    """
    kernel = current_kernel()
    if kernel.preempt_count & _IN_INTERRUPT:
        bug(kernel, "mm/vmalloc.c:2878")
    _may_sleep(kernel, 2879)
    if addr and _area_ok(kernel, addr):
        kernel.vmalloc.vunmap(addr)


def vm_map_ram(pages: Sequence[Page | int], count: int, node: int = NUMA_NO_NODE) -> int | None:
    """Map pages for a short time; a few of them come cheap, out of a block of addresses.

    Context: may sleep.

    Source: mm/vmalloc.c:vm_map_ram @6.1.192
    """
    frames = _frames(pages, count)
    return _enter(GFP_KERNEL).vmalloc.vm_map_ram(frames) if frames else None


def vm_unmap_ram(mem: int, count: int) -> None:
    """Undo :func:`vm_map_ram` of `count` pages.

    Context: may sleep.

    Source: mm/vmalloc.c:vm_unmap_ram @6.1.192
    """
    kernel = current_kernel()
    mem, count = _address(kernel, mem), _size(count)
    _may_sleep(kernel, 2280)
    layout = kernel.layout
    if not mem:
        bug(kernel, "mm/vmalloc.c:2281")
    elif mem < layout.vmalloc_start:
        bug(kernel, "mm/vmalloc.c:2282")
    elif mem > layout.vmalloc_end:
        bug(kernel, "mm/vmalloc.c:2283")
    elif mem % PAGE_SIZE:
        bug(kernel, "mm/vmalloc.c:2284")
    try:
        kernel.vmalloc.vm_unmap_ram(mem, count)
    except StateError:
        bug(kernel, "mm/vmalloc.c:2295")


def vm_unmap_aliases() -> None:
    """Make sure that nobody sees freed areas any more: all of them can be used again.

    Context: may sleep.

    Source: mm/vmalloc.c:vm_unmap_aliases @6.1.192
    """
    kernel = current_kernel()
    _may_sleep(kernel, 2214)
    kernel.vmalloc.space.vm_unmap_aliases()


# Questions


def is_vmalloc_addr(x: int) -> bool:
    """Whether an address lies in the vmalloc area. Any context.

    Source: include/linux/mm.h:is_vmalloc_addr @6.1.192
    """
    return bool(x) and current_kernel().layout.is_vmalloc_addr(x)


def vmalloc_to_pfn(addr: int) -> int | None:
    """Return the frame behind an address of the vmalloc area, as the page tables say; None if there is none.

    Never sleeps; any context.

    Source: mm/vmalloc.c:vmalloc_to_pfn @6.1.192
    """
    kernel = current_kernel()
    return kernel.vmalloc.vmalloc_to_pfn(_address(kernel, addr))


def vmalloc_to_page(addr: int) -> Page | None:
    """Return the page behind an address of the vmalloc area, as the page tables say; None if there is none.

    Never sleeps; any context.

    Source: mm/vmalloc.c:vmalloc_to_page @6.1.192
    """
    pfn = vmalloc_to_pfn(addr)
    return None if pfn is None else Page(pfn)


def find_vm_area(addr: int) -> VmStruct | None:
    """Return the area that an address lies in.

    Never sleeps; not in interrupts.

    Source: mm/vmalloc.c:find_vm_area @6.1.192
    """
    kernel = current_kernel()
    return kernel.vmalloc.find_vm_area(_address(kernel, addr))


# Contiguous if possible


def kvmalloc_node(size: int, flags: int, node: int) -> int | None:
    """Allocate contiguous memory if it is easily had, otherwise as ``vmalloc()`` does.

    Context: sleeps only if `flags` allow it, but without that there is no second way.

    Parameters
    ----------
    size : int
    flags : int
        GFP flags, GFP_KERNEL at least.
    node : int
        -1 for any.

    Source: mm/util.c:kvmalloc_node @6.1.192
    """
    size, flags = _size(size), _gfp(flags)
    kmalloc_flags = flags
    if size > PAGE_SIZE:
        kmalloc_flags |= _NOWARN
        if not kmalloc_flags & _RETRY_MAYFAIL:
            kmalloc_flags |= _NORETRY
        kmalloc_flags &= ~_NOFAIL
    addr = slab_api.kmalloc_node(size, kmalloc_flags, node)
    if addr or size <= PAGE_SIZE:
        return addr
    if not flags & _DIRECT_RECLAIM:
        return None
    if size > _INT_MAX:
        if not flags & _NOWARN:
            warn_once(current_kernel(), "mm/util.c:597", "kvmalloc_node")
        return None
    return _alloc(size, flags, vm_flags=VM_ALLOW_HUGE_VMAP, node=node)


def kvmalloc(size: int, flags: int) -> int | None:
    """Allocate contiguous memory if it is easily had, otherwise as ``vmalloc()`` does.

    May sleep; process context only. The memory is physically contiguous if possible, else in addresses only.

    Source: include/linux/slab.h:kvmalloc @6.1.192
    """
    return kvmalloc_node(size, flags, NUMA_NO_NODE)


def kvzalloc_node(size: int, flags: int, node: int) -> int | None:
    """Allocate zeroed memory; see :func:`kvmalloc_node`.

    May sleep; process context only. The memory is physically contiguous if possible, else in addresses only.

    Source: include/linux/slab.h:kvzalloc_node @6.1.192
    """
    return kvmalloc_node(size, flags | _ZERO, node)


def kvzalloc(size: int, flags: int) -> int | None:
    """Allocate zeroed memory; see :func:`kvmalloc`.

    May sleep; process context only. The memory is physically contiguous if possible, else in addresses only.

    Source: include/linux/slab.h:kvzalloc @6.1.192
    """
    return kvmalloc(size, flags | _ZERO)


def kvmalloc_array(n: int, size: int, flags: int) -> int | None:
    """Allocate `n` elements of `size` bytes; None if the product does not fit into a word.

    May sleep; process context only. The memory is physically contiguous if possible, else in addresses only.

    Source: include/linux/slab.h:kvmalloc_array @6.1.192
    """
    total = _size(n) * _size(size)
    return None if total > current_kernel().ulong_max else kvmalloc(total, flags)


def kvcalloc(n: int, size: int, flags: int) -> int | None:
    """Allocate `n` zeroed elements of `size` bytes.

    May sleep; process context only. The memory is physically contiguous if possible, else in addresses only.

    Source: include/linux/slab.h:kvcalloc @6.1.192
    """
    return kvmalloc_array(n, size, flags | _ZERO)


def kvfree(addr: int | None) -> None:
    """Free what ``kmalloc()``, ``vmalloc()`` or ``kvmalloc()`` returned.

    Context: task context, or an interrupt, where the work is put off if it is vmalloc's.

    Source: mm/util.c:kvfree @6.1.192
    """
    if addr is not None and _address(current_kernel(), addr) and is_vmalloc_addr(addr):
        vfree(addr)
    else:
        slab_api.kfree(addr)


def kvfree_sensitive(addr: int | None, len: int) -> None:
    """Overwrite `len` bytes with zeros, then free them as :func:`kvfree` does.

    May sleep if the memory is vmalloc()'s, but not in interrupts; any context but NMIs.

    Source: mm/util.c:kvfree_sensitive @6.1.192
    """
    kernel = current_kernel()
    if addr is not None and _address(kernel, addr) > PAGE_SIZE:
        fill(kernel, addr, 0, _size(len))
        kvfree(addr)


def kvrealloc(p: int | None, oldsize: int, newsize: int, flags: int) -> int | None:
    """Return at least `newsize` bytes that begin with the old contents; the old memory is freed if it moves.

    May sleep; process context only. The memory is physically contiguous if possible, else in addresses only.

    Source: mm/util.c:kvrealloc @6.1.192
    """
    if _size(oldsize) >= _size(newsize):
        return p
    new = kvmalloc(newsize, flags)
    if new is None:
        return None
    if p:
        kernel = current_kernel()
        write(kernel, new, read(kernel, p, oldsize))
    kvfree(p)
    return new
