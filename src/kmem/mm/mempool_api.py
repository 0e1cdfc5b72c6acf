# SPDX-License-Identifier: GPL-2.0-only
"""Memory pools as kernel code uses them: on the current kernel, with addresses, asleep when they must.

:mod:`kmem.mm.mempool` decides where an element comes from; this module gives
it the kernel's own allocators, takes the memory of the pool itself from the
machine, and lets a request that has to wait sleep until an element is freed,
for 5 seconds at most, before it tries again.

Source: mm/mempool.c, include/linux/mempool.h @6.1.192
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import KernelWarning, StateError, UsageError
from kmem.mm import gfp as flag
from kmem.mm import mempool as core
from kmem.mm.argument import expect
from kmem.mm.bug import bug
from kmem.mm.dump_stack import dump_stack
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.gfp_api import __free_pages as free_pages_of
from kmem.mm.gfp_api import alloc_pages
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.mempool import AllocFn, FreeFn, Mempool
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.sched import scheduler
from kmem.mm.slab_api import (
    NUMA_NO_NODE,
    KmemCache,
    kfree,
    kmalloc,
    kmalloc_node,
    kmem_cache_alloc,
    kmem_cache_free,
    ksize,
    kzalloc_node,
)
from kmem.mm.task import TASK_UNINTERRUPTIBLE
from kmem.mm.timekeeping import HZ
from kmem.mm.timer import TICK_NS
from kmem.mm.wait import WaitQueueEntry, WaitQueueHead, finish_wait, prepare_to_wait, wake

if TYPE_CHECKING:
    from kmem.mm.struct_page import Page

__all__ = [
    "KernelMempool",
    "mempool_alloc",
    "mempool_alloc_pages",
    "mempool_alloc_slab",
    "mempool_create",
    "mempool_create_kmalloc_pool",
    "mempool_create_node",
    "mempool_create_page_pool",
    "mempool_create_slab_pool",
    "mempool_destroy",
    "mempool_exit",
    "mempool_free",
    "mempool_free_pages",
    "mempool_free_slab",
    "mempool_init",
    "mempool_init_kmalloc_pool",
    "mempool_init_node",
    "mempool_init_page_pool",
    "mempool_init_slab_pool",
    "mempool_initialized",
    "mempool_kfree",
    "mempool_kmalloc",
    "mempool_resize",
]

#: ``sizeof(mempool_t)``, by the bits of a long.
_SIZEOF_POOL: Final = {64: 72, 32: 40}
#: What bytes of a reserve element are, where they are checked (include/linux/poison.h).
POISON_INUSE: Final = 0x5A
POISON_FREE: Final = 0x6B
POISON_END: Final = 0xA5

_MAY_SLEEP: Final = flag.__GFP_DIRECT_RECLAIM
_PAGE_SHIFT: Final = 12


class KernelMempool(Mempool):
    """A memory pool of the running kernel (``mempool_t``).

    Made by ``mempool_create()`` and its relatives, or empty, to be given to ``mempool_init()``.

    Attributes
    ----------
    address : int or None
        Where the structure lies, if ``mempool_create()`` has allocated it.
    array : int or None
        Where the array of elements lies; None before ``mempool_init()`` and after ``mempool_exit()``.
    waiters : WaitQueueHead
        Tasks that wait for an element.
    poison : bool
        Whether elements of the reserve are filled with a pattern, which is checked when they leave it: what a
        kernel with CONFIG_SLUB_DEBUG_ON does.  The reference kernel is none, so this is off unless it is set.

    Source: include/linux/mempool.h:struct mempool_s @6.1.192
    """

    __slots__ = ("address", "array", "kernel", "poison", "waiters")

    def __init__(self, *, poison: bool = False) -> None:
        super().__init__(0, _no_alloc, _no_free, None, _sleep)
        self.kernel: Kernel | None = None
        self.address: int | None = None
        self.array: int | None = None
        self.waiters = WaitQueueHead("mempool")
        self.poison = poison
        self.destroyed = True

    def _check(self) -> None:
        if self.destroyed:
            what = "has been destroyed" if self.kernel is not None else "has not been initialised"
            raise StateError(f"the memory pool {what}")
        if self.kernel is not current_kernel():
            raise UsageError("the memory pool is of another machine", remedy="use it on the machine that made it")

    def add_element(self, element: Any) -> None:
        """Put an element into the reserve, poisoned if that is asked for.

        Source: mm/mempool.c:add_element, poison_element @6.1.192
        """
        if self.poison:
            for view in self._views(element):
                view[:] = bytes([POISON_FREE]) * (len(view) - 1) + bytes([POISON_END])
        super().add_element(element)

    def remove_element(self) -> Any:
        """Take the last element out of the reserve, and check its bytes if it is poisoned.

        Source: mm/mempool.c:remove_element, check_element @6.1.192
        """
        element = super().remove_element()
        if self.poison:
            for view in self._views(element):
                self._check_element(element, view)
        return element

    def _views(self, element: Any) -> list[memoryview]:
        """Return the bytes of an element: none if it is of an allocator that only its user knows."""
        kernel = self.kernel
        if kernel is None or kernel.ram is None:
            return []
        if self.free is mempool_free_slab or self.free is mempool_kfree:
            return [kernel.ram.view(kernel.virt_to_phys(element), ksize(element))]
        if self.free is not mempool_free_pages:
            return []
        if kernel.bits_per_long == 32:
            # CONFIG_HIGHMEM: page by page
            pages = range(int(element), int(element) + (1 << self.pool_data))
            return [kernel.ram.view(pfn << _PAGE_SHIFT, 1 << _PAGE_SHIFT) for pfn in pages]
        return [kernel.ram.view(int(element) << _PAGE_SHIFT, 1 << (_PAGE_SHIFT + self.pool_data))]

    def _check_element(self, element: Any, view: memoryview) -> None:
        """Look for the first byte that is not as it was left; fill the element with the pattern of one in use.

        Source: mm/mempool.c:__check_element @6.1.192
        """
        expected = bytes([POISON_FREE]) * (len(view) - 1) + bytes([POISON_END])
        if view == expected:
            view[:] = bytes([POISON_INUSE]) * len(view)
            return
        byte = next(place for place, value in enumerate(view) if value != expected[place])
        self._poison_error(element, view, byte)

    def _poison_error(self, element: Any, view: memoryview, byte: int) -> None:
        """Report it.

        Source: mm/mempool.c:poison_error @6.1.192
        """
        kernel = self.kernel
        assert kernel is not None
        size, longs = len(view), kernel.bits_per_long // 8
        start, end = max(byte - longs, 0), min(byte + longs, size)
        address = element if self.free is not mempool_free_pages else kernel.page_offset + (int(element) << _PAGE_SHIFT)
        shown = "".join(f"{value:x} " for value in view[start:end])
        lines = [
            "BUG: mempool element poison mismatch",
            f"Mempool {self.address or 0:x} size {size}",
            f" nr={self.curr_nr} @ {address:x}: {'... ' if start else ''}0x{shown}{'...' if end < size else ''}",
            *dump_stack(kernel),
        ]
        kernel.report(KernelWarning("\n".join(lines)))

    def grow(self, new_min_nr: int) -> bool:
        """Take a larger array from the machine; False if there is no memory for it."""
        kernel = self.kernel
        assert kernel is not None
        array = kmalloc(new_min_nr * (kernel.bits_per_long // 8), GFP_KERNEL)
        if array is None:
            return False
        if new_min_nr <= self.min_nr:  # another task has resized the pool meanwhile
            kfree(array)
            return True
        kfree(self.array)
        self.array = array
        return super().grow(new_min_nr)


def _no_alloc(gfp: int, pool_data: Any) -> Any:
    raise StateError("the memory pool has not been initialised")


def _no_free(element: Any, pool_data: Any) -> None:
    raise StateError("the memory pool has not been initialised")


def _sleep(pool: Mempool) -> None:
    """Wait until an element is freed, for 5 seconds at most.

    Source: mm/mempool.c:mempool_alloc @6.1.192
    """
    assert isinstance(pool, KernelMempool)
    kernel = pool.kernel
    assert kernel is not None
    sched = scheduler(kernel)
    entry = WaitQueueEntry()
    try:
        prepare_to_wait(pool.waiters, entry, TASK_UNINTERRUPTIBLE)
        tick, _ = sched.timers.place_of(kernel.clock.jiffies + 5 * HZ)
        name = (
            f"an element of the empty mempool {pool.address:#x}" if pool.address else "an element of an empty mempool"
        )
        sched.sleep(name, tick * TICK_NS - kernel.clock.time_ns, retry=True)
    finally:
        finish_wait(pool.waiters, entry)


def mempool_init_node(
    pool: KernelMempool,
    min_nr: int,
    alloc_fn: AllocFn,
    free_fn: FreeFn,
    pool_data: Any,
    gfp_mask: int,
    node_id: int,
) -> int:
    """Initialise a pool that the caller has made, with memory of a node.

    Parameters
    ----------
    pool : KernelMempool
    min_nr : int
        Elements to hold back.
    alloc_fn, free_fn : callable
        The allocator: ``alloc_fn(gfp, pool_data)`` returns an element or None, ``free_fn(element, pool_data)``
        takes one back.
    pool_data : object
    gfp_mask : int
        For the reserve.
    node_id : int
        For the pool's own array; the allocator decides for the elements.

    Returns
    -------
    int
        0, or ``-ENOMEM``.

    Notes
    -----
    Context: may sleep, if `gfp_mask` allow it.

    Source: mm/mempool.c:mempool_init_node @6.1.192
    """
    expect(pool, KernelMempool, "the memory pool")
    kernel = current_kernel()
    min_nr = operator.index(min_nr)
    if min_nr < 0:
        raise ValueError(f"a memory pool cannot hold back {min_nr} elements")
    for function, what in ((alloc_fn, "alloc_fn"), (free_fn, "free_fn")):
        if not callable(function):
            raise TypeError(f"{what} is {type(function).__name__}, not a function")
    if not pool.destroyed:
        raise StateError("the memory pool is in use", remedy="call mempool_exit() first")
    array = kmalloc_node(min_nr * (kernel.bits_per_long // 8), gfp_mask, node_id)
    if array is None:
        return -core.ENOMEM
    pool.kernel, pool.array, pool.destroyed = kernel, array, False
    pool.min_nr, pool.alloc, pool.free, pool.pool_data = min_nr, alloc_fn, free_fn, pool_data
    try:
        while pool.curr_nr < min_nr:
            element = alloc_fn(gfp_mask, pool_data)
            if element is None:
                mempool_exit(pool)
                return -core.ENOMEM
            pool.add_element(element)
    except BaseException:
        mempool_exit(pool)
        raise
    return 0


def mempool_init(pool: KernelMempool, min_nr: int, alloc_fn: AllocFn, free_fn: FreeFn, pool_data: Any) -> int:
    """Initialise a pool that the caller has made; 0 or ``-ENOMEM``. Context: may sleep.

    Source: mm/mempool.c:mempool_init @6.1.192
    """
    return mempool_init_node(pool, min_nr, alloc_fn, free_fn, pool_data, GFP_KERNEL, NUMA_NO_NODE)


def mempool_init_slab_pool(pool: KernelMempool, min_nr: int, kc: KmemCache) -> int:
    """Initialise a pool of objects of a slab cache; 0 or ``-ENOMEM``. Context: may sleep.

    Source: include/linux/mempool.h:mempool_init_slab_pool @6.1.192
    """
    _check_cache(kc)
    return mempool_init(pool, min_nr, mempool_alloc_slab, mempool_free_slab, kc)


def mempool_init_kmalloc_pool(pool: KernelMempool, min_nr: int, size: int) -> int:
    """Initialise a pool of kmalloc'ed memory; 0 or ``-ENOMEM``. Context: may sleep.

    Source: include/linux/mempool.h:mempool_init_kmalloc_pool @6.1.192
    """
    return mempool_init(pool, min_nr, mempool_kmalloc, mempool_kfree, size)


def mempool_init_page_pool(pool: KernelMempool, min_nr: int, order: int) -> int:
    """Initialise a pool of blocks of pages; 0 or ``-ENOMEM``. Context: may sleep.

    Source: include/linux/mempool.h:mempool_init_page_pool @6.1.192
    """
    return mempool_init(pool, min_nr, mempool_alloc_pages, mempool_free_pages, order)


def mempool_create_node(
    min_nr: int,
    alloc_fn: AllocFn,
    free_fn: FreeFn,
    pool_data: Any,
    gfp_mask: int,
    nid: int,
) -> KernelMempool | None:
    """Create a pool, with memory of a node; parameters as for :func:`mempool_init_node`. Context: may sleep.

    Returns
    -------
    KernelMempool or None
        None without memory; what had been allocated is free again.

    Source: mm/mempool.c:mempool_create_node @6.1.192
    """
    kernel = current_kernel()
    address = kzalloc_node(_SIZEOF_POOL[kernel.bits_per_long], gfp_mask, nid)
    if address is None:
        return None
    pool = KernelMempool()
    try:
        failed = mempool_init_node(pool, min_nr, alloc_fn, free_fn, pool_data, gfp_mask, nid)
    except BaseException:
        kfree(address)
        raise
    if failed:
        kfree(address)
        return None
    pool.address = address
    return pool


def mempool_create(min_nr: int, alloc_fn: AllocFn, free_fn: FreeFn, pool_data: Any) -> KernelMempool | None:
    """Create a pool over an allocator, and fill its reserve. Context: sleeps.

    Parameters
    ----------
    min_nr : int
        Elements to hold back; 0 is allowed.
    alloc_fn, free_fn : callable
        The allocator: ``alloc_fn(gfp, pool_data)`` returns an element or None, ``free_fn(element, pool_data)``
        takes one back.
    pool_data : object
        Handed to both.

    Returns
    -------
    KernelMempool or None
        None without memory; what had been allocated is free again.

    Source: mm/mempool.c:mempool_create @6.1.192
    """
    return mempool_create_node(min_nr, alloc_fn, free_fn, pool_data, GFP_KERNEL, NUMA_NO_NODE)


def mempool_create_slab_pool(min_nr: int, kc: KmemCache) -> KernelMempool | None:
    """Create a pool of objects of a slab cache, which must not have a constructor. Context: sleeps.

    Source: include/linux/mempool.h:mempool_create_slab_pool @6.1.192
    """
    _check_cache(kc)
    return mempool_create(min_nr, mempool_alloc_slab, mempool_free_slab, kc)


def mempool_create_kmalloc_pool(min_nr: int, size: int) -> KernelMempool | None:
    """Create a pool of kmalloc'ed pieces of `size` bytes. Context: sleeps.

    Source: include/linux/mempool.h:mempool_create_kmalloc_pool @6.1.192
    """
    return mempool_create(min_nr, mempool_kmalloc, mempool_kfree, size)


def mempool_create_page_pool(min_nr: int, order: int) -> KernelMempool | None:
    """Create a pool of blocks of 2**`order` pages; elements are pages. Context: sleeps.

    Source: include/linux/mempool.h:mempool_create_page_pool @6.1.192
    """
    return mempool_create(min_nr, mempool_alloc_pages, mempool_free_pages, order)


def _check_cache(kc: Any) -> None:
    if not isinstance(kc, KmemCache):
        raise TypeError(f"a slab pool is made of a KmemCache, not of {type(kc).__name__}")


def mempool_initialized(pool: KernelMempool) -> bool:
    """Whether a pool has been initialised, and not been ended. Context: any.

    Source: include/linux/mempool.h:mempool_initialized @6.1.192
    """
    expect(pool, KernelMempool, "the memory pool")
    return pool.array is not None


def mempool_alloc(pool: KernelMempool, gfp_mask: int) -> Any:
    """Return an element: of the allocator if it has one without waiting, else of the reserve.

    If both have none, the allocator is asked with all that `gfp_mask` allow; after that a request that may sleep
    does so until an element is freed, for 5 seconds at most, and begins again.

    Parameters
    ----------
    pool : KernelMempool
    gfp_mask : int
        Without ``__GFP_ZERO``: what comes from the reserve is not zeroed.

    Returns
    -------
    int, Page, object or None
        The element; None only if `gfp_mask` lack ``__GFP_DIRECT_RECLAIM``.

    Raises
    ------
    DeadlockError
        In the main task: nobody is left who could free an element.

    Notes
    -----
    Context: any, without ``__GFP_DIRECT_RECLAIM``; with it, may sleep.

    Source: mm/mempool.c:mempool_alloc @6.1.192
    """
    expect(pool, KernelMempool, "the memory pool")
    kernel = current_kernel()
    if gfp_mask & _MAY_SLEEP:
        kernel.might_sleep(gfp_mask)
    element = core.mempool_alloc(pool, gfp_mask)
    if kernel.sched is not None and gfp_mask & _MAY_SLEEP:
        kernel.sched.progress()
    return element


def mempool_free(element: Any, pool: KernelMempool) -> None:
    """Give an element back: to the reserve if that is not full, else to the allocator; wakes who waits for one.

    Parameters
    ----------
    element : object or None
        None is ignored.
    pool : KernelMempool

    Notes
    -----
    Context: any, if the pool's ``free_fn`` does not sleep.

    Source: mm/mempool.c:mempool_free @6.1.192
    """
    expect(pool, KernelMempool, "the memory pool")
    if element is None or (pool.free in _ADDRESS_FREES and element == 0):
        return
    refilled = pool.curr_nr < pool.min_nr
    core.mempool_free(element, pool)
    if refilled:
        wake(current_kernel(), pool.waiters, 1)


def mempool_resize(pool: KernelMempool, new_min_nr: int) -> int:
    """Change how many elements are held back. Context: sleeps.

    A smaller reserve gives its last elements back at once. A larger one is filled as far as the allocator can; what
    is missing comes from later frees.

    Returns
    -------
    int
        0, or ``-ENOMEM`` if there is no memory for a larger array.

    Raises
    ------
    KernelBug
        `new_min_nr` is not positive.

    Source: mm/mempool.c:mempool_resize @6.1.192
    """
    expect(pool, KernelMempool, "the memory pool")
    kernel = current_kernel()
    if operator.index(new_min_nr) <= 0:
        bug(kernel, "mm/mempool.c:324")
    check_may_sleep(kernel, "mm/mempool.c", 325)
    return core.mempool_resize(pool, new_min_nr)


def mempool_exit(pool: KernelMempool) -> None:
    """Give the whole reserve of a pool back, and its array; nothing if it was never initialised. Context: any.

    Source: mm/mempool.c:mempool_exit @6.1.192
    """
    expect(pool, KernelMempool, "the memory pool")
    if pool.destroyed:
        return
    try:
        core.mempool_destroy(pool)
    finally:
        array, pool.array = pool.array, None
        kfree(array)


def mempool_destroy(pool: KernelMempool | None) -> None:
    """End a pool that ``mempool_create()`` made: give its reserve and itself back; None is ignored. Context: any.

    Elements that are still in use are not the pool's business any more, and must not be freed to it.

    Raises
    ------
    StateError
        The pool has been destroyed already.

    Source: mm/mempool.c:mempool_destroy @6.1.192
    """
    if pool is None:
        return
    expect(pool, KernelMempool, "the pool")._check()
    try:
        mempool_exit(pool)
    finally:
        address, pool.address = pool.address, None
        kfree(address)


def mempool_alloc_slab(gfp_mask: int, pool_data: Any) -> int | None:
    """Allocate an element of a slab pool: the allocator of ``mempool_create_slab_pool()``.

    The cache should not have a constructor: it is not run again for an element that comes from the reserve.

    Source: mm/mempool.c:mempool_alloc_slab @6.1.192
    """
    return kmem_cache_alloc(pool_data, gfp_mask)


def mempool_free_slab(element: Any, pool_data: Any) -> None:
    """Free an element of a slab pool.

    Source: mm/mempool.c:mempool_free_slab @6.1.192
    """
    kmem_cache_free(pool_data, element)


def mempool_kmalloc(gfp_mask: int, pool_data: Any) -> int | None:
    """Allocate an element of a kmalloc pool; `pool_data` is its size.

    Source: mm/mempool.c:mempool_kmalloc @6.1.192
    """
    return kmalloc(pool_data, gfp_mask)


def mempool_kfree(element: Any, pool_data: Any) -> None:
    """Free an element of a kmalloc pool.

    Source: mm/mempool.c:mempool_kfree @6.1.192
    """
    kfree(element)


def mempool_alloc_pages(gfp_mask: int, pool_data: Any) -> Page | None:
    """Allocate an element of a page pool; `pool_data` is its order.

    Source: mm/mempool.c:mempool_alloc_pages @6.1.192
    """
    return alloc_pages(gfp_mask, pool_data)


def mempool_free_pages(element: Any, pool_data: Any) -> None:
    """Free an element of a page pool.

    Source: mm/mempool.c:mempool_free_pages @6.1.192
    """
    free_pages_of(element, pool_data)


_ADDRESS_FREES: Final = (mempool_free_slab, mempool_kfree)
