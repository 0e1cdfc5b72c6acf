# SPDX-License-Identifier: GPL-2.0-only
"""Memory pools: an allocator with a reserve behind it.

A pool holds back ``min_nr`` elements.  A request goes to the pool's allocator
first, in a way that neither waits nor touches the machine's own reserves; only
if that fails is an element of the reserve used, the one put there last.  An
element that is freed refills the reserve before anything goes back to the
allocator.  Where the reserve is empty, a request that may sleep waits until
somebody frees an element, so it never fails::

    allocator fails:   | e0 | e1 | e2 |  ->  | e0 | e1 |       the caller gets e2
    e9 is freed:       | e0 | e1 |       ->  | e0 | e1 | e9 |

Source: mm/mempool.c @6.1.192
Differs: the pool and its array of elements take no memory of the modelled machine.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from kmem.errors import StateError
from kmem.mm import gfp as flag
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.page_alloc import NO_FRAME, PageAllocator
from kmem.mm.slub import Slub

__all__ = [
    "AllocFn",
    "FreeFn",
    "Mempool",
    "WaitFn",
    "mempool_alloc",
    "mempool_create",
    "mempool_create_kmalloc_pool",
    "mempool_create_page_pool",
    "mempool_create_slab_pool",
    "mempool_destroy",
    "mempool_free",
    "mempool_resize",
]

AllocFn = Callable[[int, Any], Any]
"""Allocates an element: called with GFP flags and the pool's data, returns an element or None."""

FreeFn = Callable[[Any, Any], object]
"""Frees an element: called with the element and the pool's data."""

WaitFn = Callable[["Mempool"], object]
"""Called where a request sleeps until an element may have been freed; afterwards the request tries again."""

ENOMEM: Final = 12

_QUIET: Final = flag.__GFP_NOMEMALLOC | flag.__GFP_NORETRY | flag.__GFP_NOWARN
_FIRST_ROUND_WITHOUT: Final = flag.__GFP_DIRECT_RECLAIM | flag.__GFP_IO
_MAY_SLEEP: Final = flag.__GFP_DIRECT_RECLAIM


def _nobody_else(pool: Mempool) -> None:
    raise StateError("the memory pool is empty and its allocator fails: the kernel would sleep here")


class Mempool:
    """A memory pool; :func:`mempool_create` makes one.

    Attributes
    ----------
    min_nr : int
        Elements that the reserve is meant to hold.
    elements : list
        The reserve; the last one is used first.
    alloc, free : callable
        The pool's allocator.
    pool_data : object
        Handed to both.
    wait : callable
        What a request does that has to sleep. By default it raises StateError: without other tasks nobody would ever
        wake it.

    Source: include/linux/mempool.h:struct mempool_s @6.1.192
    """

    __slots__ = ("alloc", "destroyed", "elements", "free", "min_nr", "pool_data", "wait")

    def __init__(self, min_nr: int, alloc: AllocFn, free: FreeFn, pool_data: Any, wait: WaitFn | None) -> None:
        self.min_nr = min_nr
        self.elements: list[Any] = []
        self.alloc = alloc
        self.free = free
        self.pool_data = pool_data
        self.wait = wait or _nobody_else
        self.destroyed = False

    @property
    def curr_nr(self) -> int:
        """Elements that the reserve holds now."""
        return len(self.elements)

    def validate(self) -> None:
        """Check the reserve.

        Raises
        ------
        StateError
            It holds more than it should, nothing, or an element twice.  O(n**2) comparisons of elements.
        """
        if self.curr_nr > self.min_nr:
            raise StateError(f"the memory pool holds {self.curr_nr} elements, {self.min_nr} at most")
        for place, element in enumerate(self.elements):
            if element is None or element in self.elements[:place]:
                raise StateError(f"element {place} of the memory pool is {element!r}: nothing, or there twice")

    def _check(self) -> None:
        if self.destroyed:
            raise StateError("the memory pool has been destroyed")

    def add_element(self, element: Any) -> None:
        """Put an element into the reserve.

        Source: mm/mempool.c:add_element @6.1.192
        """
        self.elements.append(element)

    def remove_element(self) -> Any:
        """Take the element out of the reserve that was put there last.

        Source: mm/mempool.c:remove_element @6.1.192
        """
        return self.elements.pop()

    def grow(self, new_min_nr: int) -> bool:
        """Make room for a larger reserve; False if there is no memory for it."""
        self.min_nr = new_min_nr
        return True


def mempool_create(
    min_nr: int,
    alloc_fn: AllocFn,
    free_fn: FreeFn,
    pool_data: Any = None,
    *,
    gfp: int = GFP_KERNEL,
    wait: WaitFn | None = None,
) -> Mempool | None:
    """Create a pool and fill its reserve.

    Parameters
    ----------
    min_nr : int
        Elements to hold back; 0 is allowed.
    alloc_fn, free_fn : callable
        The allocator, called as ``alloc_fn(gfp, pool_data)`` and ``free_fn(element, pool_data)``. Anything but None
        is an element.
    pool_data : object
        Handed to both.
    gfp : int
        Flags for the first elements (``mempool_create_node``).
    wait : callable, optional
        See :class:`Mempool`.

    Returns
    -------
    Mempool or None
        None if the allocator fails; the elements that it gave are back with it then.

    Raises
    ------
    ValueError
        `min_nr` is negative.

    Notes
    -----
    Context: may sleep.

    Source: mm/mempool.c:mempool_init_node @6.1.192
    """
    min_nr = operator.index(min_nr)
    if min_nr < 0:
        raise ValueError(f"a memory pool cannot hold back {min_nr} elements")
    pool = Mempool(min_nr, alloc_fn, free_fn, pool_data, wait)
    try:
        while pool.curr_nr < min_nr:
            element = alloc_fn(gfp, pool_data)
            if element is None:
                mempool_destroy(pool)
                return None
            pool.add_element(element)
    except BaseException:
        mempool_destroy(pool)
        raise
    return pool


def mempool_create_slab_pool(min_nr: int, slub: Slub, cache: int, *, wait: WaitFn | None = None) -> Mempool | None:
    """Create a pool of objects of a slab cache; elements are addresses.

    Source: mm/mempool.c:mempool_alloc_slab @6.1.192
    """
    return mempool_create(
        min_nr,
        lambda gfp, data: slub.kmem_cache_alloc(data, gfp),
        lambda element, data: slub.kmem_cache_free(data, element),
        cache,
        wait=wait,
    )


def mempool_create_kmalloc_pool(
    min_nr: int, slub: Slub, size_bytes: int, *, wait: WaitFn | None = None
) -> Mempool | None:
    """Create a pool of kmalloc'ed pieces of memory; elements are addresses.

    Raises
    ------
    ValueError
        `size_bytes` is not positive.

    Source: mm/mempool.c:mempool_kmalloc @6.1.192
    Differs: the kernel makes pools of pieces of no size, all of which are one.
    """
    if operator.index(size_bytes) <= 0:
        raise ValueError(f"a memory pool of pieces of {size_bytes} bytes")
    return mempool_create(
        min_nr,
        lambda gfp, data: slub.kmalloc(data, gfp),
        lambda element, data: slub.kfree(element),
        size_bytes,
        wait=wait,
    )


def mempool_create_page_pool(
    min_nr: int, page_alloc: PageAllocator, order: int, *, wait: WaitFn | None = None
) -> Mempool | None:
    """Create a pool of blocks of pages; elements are frame numbers.

    Source: mm/mempool.c:mempool_alloc_pages @6.1.192
    """

    def alloc(gfp: int, data: int) -> int | None:
        pfn = page_alloc.alloc_pages(gfp, data)
        return None if pfn == NO_FRAME else pfn

    return mempool_create(min_nr, alloc, lambda pfn, data: page_alloc.free_pages(pfn, data), order, wait=wait)


def mempool_alloc(pool: Mempool, gfp: int) -> Any:
    """Return an element of a pool.

    The allocator is asked without direct reclaim and I/O; then the reserve is used; then the allocator is asked with
    all flags given; then, if `gfp` allow it, the request waits and begins with the last step again.

    Parameters
    ----------
    pool : Mempool
        The pool.
    gfp : int
        Flags. ``__GFP_ZERO`` is not supported: what comes from the reserve is not zeroed.

    Returns
    -------
    object or None
        The element; None only if `gfp` do not allow to sleep.

    Raises
    ------
    StateError
        The pool has been destroyed, or the request must wait and ``pool.wait`` knows nobody to wait for.

    Notes
    -----
    Context: any, if `gfp` lack ``__GFP_DIRECT_RECLAIM``; else may sleep.

    Source: mm/mempool.c:mempool_alloc @6.1.192
    """
    pool._check()
    gfp |= _QUIET
    gfp_now = gfp & ~_FIRST_ROUND_WITHOUT
    while True:
        element = pool.alloc(gfp_now, pool.pool_data)
        if element is not None:
            return element
        if pool.elements:
            return pool.remove_element()
        if gfp_now != gfp:
            gfp_now = gfp
            continue
        if not gfp & _MAY_SLEEP:
            return None
        pool.wait(pool)
        pool._check()


def mempool_free(element: Any, pool: Mempool) -> None:
    """Give an element back: to the reserve if that lacks one, else to the allocator.

    Parameters
    ----------
    element : object or None
        The element; None is ignored.
    pool : Mempool
        Where it came from.

    Raises
    ------
    StateError
        The pool has been destroyed, or its reserve holds the element already.

    Notes
    -----
    Context: any, if the pool's ``free`` does not sleep.

    Source: mm/mempool.c:mempool_free @6.1.192
    Differs: the kernel does not notice that an element is in the reserve already.
    """
    if element is None:
        return
    pool._check()
    if element in pool.elements:
        raise StateError(f"element {element!r} is freed twice: the memory pool holds it already")
    if pool.curr_nr < pool.min_nr:
        pool.add_element(element)
    else:
        pool.free(element, pool.pool_data)


def mempool_resize(pool: Mempool, new_min_nr: int) -> int:
    """Change how many elements are held back.

    A smaller reserve gives its last elements back to the allocator at once. A larger one is filled as far as the
    allocator can; what is missing then comes from later frees.

    Returns
    -------
    int
        0, also if the reserve could not be filled; ``-ENOMEM`` if there is no memory for a larger one's array.

    Raises
    ------
    StateError
        The pool has been destroyed, or `new_min_nr` is not positive (a BUG in the kernel).

    Notes
    -----
    Context: may sleep.

    Source: mm/mempool.c:mempool_resize @6.1.192
    """
    pool._check()
    new_min_nr = operator.index(new_min_nr)
    if new_min_nr <= 0:
        raise StateError(f"kernel BUG at mm/mempool.c: mempool_resize to {new_min_nr} elements")
    if new_min_nr <= pool.min_nr:
        while new_min_nr < pool.curr_nr:
            pool.free(pool.remove_element(), pool.pool_data)
        pool.min_nr = new_min_nr
        return 0
    if not pool.grow(new_min_nr):
        return -ENOMEM
    while pool.curr_nr < pool.min_nr:
        element = pool.alloc(GFP_KERNEL, pool.pool_data)
        if element is None:
            break
        if pool.curr_nr >= pool.min_nr:
            # The allocator itself has freed into the pool meanwhile.
            pool.free(element, pool.pool_data)
            break
        pool.add_element(element)
    return 0


def mempool_destroy(pool: Mempool | None) -> None:
    """Give the whole reserve back to the allocator, the last element first; None is ignored.

    Raises
    ------
    StateError
        The pool has been destroyed already.

    Source: mm/mempool.c:mempool_destroy @6.1.192
    """
    if pool is None:
        return
    pool._check()
    pool.destroyed = True
    failure: BaseException | None = None
    while pool.elements:
        try:
            pool.free(pool.remove_element(), pool.pool_data)
        except Exception as error:
            # the rest of the reserve is given back all the same
            failure = failure or error
    if failure is not None:
        raise failure
