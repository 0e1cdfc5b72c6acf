# SPDX-License-Identifier: GPL-2.0-only
"""Who is told of each allocation and each free: kmemleak, allocation profiling.

The kernel calls its debugging aids one by one from its allocators.  Here the
running kernel calls one object, :class:`AllocHooks`, and only if somebody is
registered; the object hands the call on.  What is reported are the calls that
code makes, not what the allocators take for themselves (pages of slabs, page
tables), which :mod:`kmem.mm.page_owner` sees.

Source: mm/slab.h:slab_post_alloc_hook, mm/slub.c:slab_free_hook @6.1.192
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["KMALLOC_LARGE", "PAGES", "SLAB", "VMALLOC", "AllocHooks", "AllocListener"]

#: Kinds of allocations.
SLAB: Final = "slab"
KMALLOC_LARGE: Final = "kmalloc"
VMALLOC: Final = "vmalloc"
PAGES: Final = "pages"


class AllocListener:
    """One who wants to know. The methods may be called in any context, and must not allocate."""

    def allocated(self, kind: str, addr: int, size: int, gfp: int, cache: Any) -> None:
        """Memory was handed out.

        Parameters
        ----------
        kind : str
            SLAB, KMALLOC_LARGE, VMALLOC or PAGES.
        addr : int
            Its kernel address; for PAGES the physical address, since high memory has no other.
        size : int
            Bytes: of a slab object without metadata, of pages and vmalloc areas (without guard) in full.
        gfp : int
            Flags of the request.
        cache : KmemCache or None
            The cache of a slab object.
        """

    def freed(self, kind: str, addr: int, size: int = 0) -> None:
        """Memory is about to be given back.

        Parameters
        ----------
        kind : str
            As above. SLAB and KMALLOC_LARGE need not be told apart.
        addr : int
            As above.
        size : int, optional
            For PAGES the bytes given back, which may be a part of what was allocated.
        """


class AllocHooks(AllocListener):
    """The listeners of one machine, called in the order of registration.

    Attributes
    ----------
    listeners : tuple of AllocListener
    """

    def __init__(self) -> None:
        self.listeners: tuple[AllocListener, ...] = ()

    def register(self, listener: AllocListener) -> None:
        """Tell `listener` from now on; registering it again changes nothing."""
        if listener not in self.listeners:
            self.listeners += (listener,)

    def unregister(self, listener: AllocListener) -> None:
        """Tell `listener` nothing any more."""
        self.listeners = tuple(other for other in self.listeners if other is not listener)

    def allocated(self, kind: str, addr: int, size: int, gfp: int, cache: Any) -> None:
        """Hand the news on."""
        for listener in self.listeners:
            listener.allocated(kind, addr, size, gfp, cache)

    def freed(self, kind: str, addr: int, size: int = 0) -> None:
        """Hand the news on."""
        for listener in self.listeners:
            listener.freed(kind, addr, size)
