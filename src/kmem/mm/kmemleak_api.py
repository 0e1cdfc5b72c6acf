# SPDX-License-Identifier: GPL-2.0-only
"""What kernel code tells kmemleak: ``kmemleak_not_leak()`` and its kin.

All act on the current kernel, may be called in any context, and do nothing
while kmemleak is off.

Source: include/linux/kmemleak.h, mm/kmemleak.c @6.1.192
"""

from __future__ import annotations

from kmem.mm.kernel import current_kernel
from kmem.mm.kmemleak import Kmemleak

__all__ = [
    "kmemleak_alloc",
    "kmemleak_free",
    "kmemleak_ignore",
    "kmemleak_no_scan",
    "kmemleak_not_leak",
    "kmemleak_scan_area",
    "kmemleak_update_trace",
]


def _kmemleak(ptr: int | None) -> Kmemleak | None:
    """Return kmemleak if it is on and the pointer is one."""
    leaks = current_kernel().leaks
    return leaks if ptr and isinstance(leaks, Kmemleak) else None


def kmemleak_alloc(ptr: int | None, size: int, min_count: int, gfp: int) -> None:
    """Register memory that no allocator reports.

    Parameters
    ----------
    ptr : int or None
        Its address; None does nothing.
    size : int
        Bytes.
    min_count : int
        References that make it no leak; 0 if it never is one, -1 if it is not to be searched either.
    gfp : int
        Flags of the record that the kernel makes; the model needs none.

    Source: mm/kmemleak.c:kmemleak_alloc @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.alloc(ptr, size, min_count)


def kmemleak_free(ptr: int | None) -> None:
    """Forget memory that :func:`kmemleak_alloc` registered.

    Source: mm/kmemleak.c:kmemleak_free @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.free(ptr)


def kmemleak_not_leak(ptr: int | None) -> None:
    """Say that an object is no leak; it is searched, and what it refers to is none either.

    Source: mm/kmemleak.c:kmemleak_not_leak @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.not_leak(ptr)


def kmemleak_ignore(ptr: int | None) -> None:
    """Say that an object is no leak, and holds no addresses.

    Source: mm/kmemleak.c:kmemleak_ignore @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.ignore(ptr)


def kmemleak_no_scan(ptr: int | None) -> None:
    """Say that an object holds no addresses.

    Source: mm/kmemleak.c:kmemleak_no_scan @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.no_scan(ptr)


def kmemleak_scan_area(ptr: int | None, size: int, gfp: int) -> None:
    """Let only this part of an object be searched, and other parts named so.

    Source: mm/kmemleak.c:kmemleak_scan_area @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.scan_area(ptr, size)


def kmemleak_update_trace(ptr: int | None) -> None:
    """Let an object be the caller's: reports name the caller from now on.

    Source: mm/kmemleak.c:kmemleak_update_trace @6.1.192
    """
    leaks = _kmemleak(ptr)
    if leaks is not None and ptr is not None:
        leaks.update_trace(ptr)
