# SPDX-License-Identifier: GPL-2.0-only
"""Copies of memory and strings in memory of their own, from ``kmalloc()``.

What is copied is named by a kernel address, or given as Python's own bytes.

Source: mm/util.c @6.1.192
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from kmem.errors import UsageError
from kmem.mm import access
from kmem.mm.kernel import current_kernel
from kmem.mm.slab_api import kmalloc

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["kmemdup", "kstrdup", "kstrndup"]

_PAGE_SIZE = 4096


def kmemdup(src: int | bytes | bytearray | memoryview, len: int, gfp: int) -> int | None:
    """Copy `len` bytes into memory of their own: its address, None if there is none.

    Parameters
    ----------
    src : int or bytes-like
        A kernel address, or the bytes themselves.
    len : int
        Bytes.
    gfp : int
        GFP mask.

    Notes
    -----
    Physically contiguous. May sleep if `gfp` has __GFP_DIRECT_RECLAIM.

    Source: mm/util.c:kmemdup @6.1.192
    """
    kernel = current_kernel()
    data = _bytes_at(kernel, src, _size(len))
    addr = kmalloc(len, gfp)
    if addr is not None and data:
        access.write(kernel, addr, data)
    return addr


def kstrdup(s: int | str | bytes | None, gfp: int) -> int | None:
    """Copy a string into memory of its own, with a zero byte behind it; None for None.

    Parameters
    ----------
    s : int, str, bytes or None
        A kernel address, or the string itself (a ``str`` is encoded as UTF-8). It ends at its first zero byte.
    gfp : int
        GFP mask.

    Notes
    -----
    Physically contiguous. May sleep if `gfp` has __GFP_DIRECT_RECLAIM.

    Source: mm/util.c:kstrdup @6.1.192
    """
    if s is None or s == 0:
        return None
    text = _string_at(current_kernel(), s, None) + b"\0"
    return kmemdup(text, len(text), gfp)


def kstrndup(s: int | str | bytes | None, max: int, gfp: int) -> int | None:
    """Copy at most `max` bytes of a string, with a zero byte behind them. Otherwise as :func:`kstrdup`.

    May sleep if the flags have __GFP_DIRECT_RECLAIM, then process context only; else any context but NMIs. The
    memory is physically contiguous.

    Source: mm/util.c:kstrndup @6.1.192
    """
    if s is None or s == 0:
        return None
    text = _string_at(current_kernel(), s, _size(max)) + b"\0"
    return kmemdup(text, len(text), gfp)


def _size(value: int) -> int:
    """Return a number of bytes."""
    size = operator.index(value)
    if size < 0:
        raise UsageError(f"{size} bytes")
    return size


def _bytes_at(kernel: Kernel, src: Any, size: int) -> bytes:
    """Return `size` bytes at a kernel address, or of a bytes-like object."""
    if isinstance(src, int):
        return access.read(kernel, src, size)
    data = bytes(memoryview(src))
    if len(data) < size:
        raise UsageError(f"{size} bytes of an object that has {len(data)}")
    return data[:size]


def _string_at(kernel: Kernel, text: Any, limit: int | None) -> bytes:
    """Return a string up to its zero byte, at most `limit` bytes of it."""
    if not isinstance(text, int):
        data = text.encode() if isinstance(text, str) else bytes(memoryview(text))
        return data.partition(b"\0")[0][:limit]
    found = bytearray()
    while limit is None or len(found) < limit:
        # up to the end of the page: the next one need not be there
        address = text + len(found)
        chunk, zero, _rest = access.read(kernel, address, _PAGE_SIZE - address % _PAGE_SIZE).partition(b"\0")
        found += chunk
        if zero:
            break
    return bytes(found if limit is None else found[:limit])
