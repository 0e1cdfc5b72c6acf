# SPDX-License-Identifier: GPL-2.0-only
"""Calls that fill memory, and calls that have it freed: files, swap, caches, compaction.

In a kernel these are system calls and files of ``/proc``; here they are
functions that act on the current kernel, and methods of a machine.

Source: fs/read_write.c, mm/swapfile.c, fs/drop_caches.c, mm/compaction.c, drivers/tty/sysrq.c @6.1.192
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.errors import UsageError
from kmem.mm.kernel import current_kernel

if TYPE_CHECKING:
    from kmem.mm.filemap import AddressSpace
    from kmem.mm.reclaim import Reclaim

__all__ = [
    "compact_memory",
    "delete_file",
    "drop_caches",
    "open_file",
    "read_file",
    "show_mem",
    "swapoff",
    "swapon",
    "sync",
    "write_file",
]


def _reclaim() -> Reclaim:
    kernel = current_kernel()
    kernel.might_sleep()
    reclaim: Reclaim = kernel.reclaim
    return reclaim


def open_file(name: str, size: int | None = None, gfp_mask: int | None = None) -> AddressSpace:
    """Return a file, made if there is none of this name: what ``mmap()`` of a process takes.

    Parameters
    ----------
    name : str
    size : int, optional
        Bytes that it has at least; what was never written reads as zeros.
    gfp_mask : int, optional
        How its pages are allocated; movable and from high memory by default.

    Notes
    -----
    Context: may sleep.

    Source: fs/open.c:do_sys_openat2 @6.1.192
    """
    return _reclaim().filemap.open(name, size, gfp_mask)


def read_file(name: str, offset: int = 0, size: int | None = None) -> bytes:
    """Read from a file by way of the page cache; less than asked for at its end, or where memory ran out.

    Notes
    -----
    Context: may sleep.

    Source: mm/filemap.c:filemap_read @6.1.192
    """
    return _reclaim().filemap.read(name, offset, size)


def write_file(name: str, data: bytes | int, offset: int = 0) -> int:
    """Write to a file by way of the page cache; the bytes written, fewer where memory ran out.

    Parameters
    ----------
    name : str
        A file of this name is made if there is none.
    data : bytes or int
        What to write; a number stands for so many zero bytes.
    offset : int
        Where, in bytes.

    Notes
    -----
    Context: may sleep; a writer waits while too much is dirty.

    Source: mm/filemap.c:generic_perform_write @6.1.192
    """
    return _reclaim().filemap.write(name, data, offset)


def delete_file(name: str) -> None:
    """Remove a file, and its pages from memory.

    Notes
    -----
    Context: may sleep.

    Source: mm/truncate.c:truncate_inode_pages_final @6.1.192
    """
    _reclaim().filemap.delete(name)


def sync() -> None:
    """Write everything that is dirty, and wait for it.

    Notes
    -----
    Context: sleeps.

    Source: fs/sync.c:ksys_sync @6.1.192
    """
    _reclaim().filemap.sync()


def drop_caches(what: int = 3) -> int:
    """Free what is cached and clean; the pages of files that were dropped.

    Parameters
    ----------
    what : int
        1 for pages of files, 2 for what shrinkers can free, 3 for both.

    Notes
    -----
    Context: may sleep.

    Source: fs/drop_caches.c:drop_caches_sysctl_handler, mm/vmscan.c:drop_slab @6.1.192
    """
    if what not in (1, 2, 3):
        raise UsageError(f"drop_caches({what!r})", remedy="1 for pages, 2 for shrinkers, 3 for both")
    reclaim = _reclaim()
    dropped = 0
    if what & 1:
        reclaim.stat.count("drop_pagecache")
        dropped = reclaim.filemap.drop_pagecache()
    if what & 2:
        reclaim.stat.count("drop_slab")
        for node in reclaim.online_nodes():
            shift = 0
            while reclaim.vmscan.shrink_slab(0xCC0, node, 0) >> shift > 1:
                shift += 1
    return dropped


def compact_memory() -> None:
    """Compact all zones of all nodes (``/proc/sys/vm/compact_memory``).

    Notes
    -----
    Context: may sleep.

    Source: mm/compaction.c:compact_nodes @6.1.192
    """
    reclaim = _reclaim()
    for node in reclaim.online_nodes():
        reclaim.compaction.compact_node(node)


def swapon(size: int) -> int:
    """Make a swap area of `size` bytes, the first page of which is its header; the usable pages.

    Notes
    -----
    Context: may sleep.

    Source: mm/swapfile.c:SYSCALL_DEFINE2(swapon) @6.1.192
    """
    return _reclaim().swap.swapon(size)


def swapoff() -> None:
    """Give the swap area up; it has to be empty.

    Notes
    -----
    Context: may sleep.

    Source: mm/swapfile.c:SYSCALL_DEFINE1(swapoff) @6.1.192
    Differs: what is in it is not read back.
    """
    _reclaim().swap.swapoff()


def show_mem() -> str:
    """Print the state of memory to the log, as sysrq-m does, and return it.

    Notes
    -----
    Context: any.

    Source: drivers/tty/sysrq.c:sysrq_handle_showmem @6.1.192
    """
    kernel = current_kernel()
    text: str = kernel.reclaim.mem_info()
    kernel.printk.printk("sysrq: Show Memory\n" + text)
    return text
