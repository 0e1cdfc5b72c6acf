# SPDX-License-Identifier: GPL-2.0-only
"""The memory system calls of the running process, as functions of the C library.

The process is the current one (``with process.running():``) unless it is
given.  They fail with :class:`OSError`; the methods of
:class:`kmem.mm.process.Process` are the same calls.

Source: mm/mmap.c, mm/mprotect.c, mm/mremap.c, mm/madvise.c, kernel/fork.c @6.1.192
Differs: fork() returns the child itself; nothing can return twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.mm.argument import expect
from kmem.mm.kernel import current_kernel
from kmem.mm.process import Process, current_process

if TYPE_CHECKING:
    from kmem.mm.mm_types import Mapping

__all__ = ["brk", "exit", "fork", "madvise", "mmap", "mprotect", "mremap", "munmap", "sbrk"]


def _process(process: Process | None) -> Process:
    return current_process(current_kernel()) if process is None else expect(process, Process, "the process")


def fork(process: Process | None = None) -> Process:
    """Make a child with a copy of the process's memory; pages are copied when one of the two writes.

    Parameters
    ----------
    process : Process, optional
        Who calls; the current process by default, here and below.

    Returns
    -------
    Process
        The child.

    Raises
    ------
    OSError
        ENOMEM, with nothing left behind; EAGAIN: too many processes.

    Notes
    -----
    Sleeps.

    Source: kernel/fork.c:SYSCALL_DEFINE0(fork) @6.1.192
    """
    return _process(process).fork()


def exit(process: Process | None = None) -> None:
    """End the process and give its memory back.

    Notes
    -----
    Sleeps.

    Source: kernel/exit.c:SYSCALL_DEFINE1(exit) @6.1.192
    """
    _process(process).exit()


def mmap(
    addr: int,
    length: int,
    prot: int,
    flags: int,
    file: Mapping | None = None,
    offset: int = 0,
    *,
    process: Process | None = None,
) -> int:
    """Map memory, or a file; return its address.

    Parameters
    ----------
    addr : int
        Where it would be welcome; 0: anywhere; with ``MAP_FIXED``: where it has to be.
    length : int
        Bytes, rounded up to whole pages.
    prot, flags : int
        ``PROT_*``, ``MAP_*``.
    file : Mapping, optional
        Unless ``MAP_ANONYMOUS`` is given.
    offset : int
        Bytes into the file, whole pages.
    process : Process, optional

    Raises
    ------
    OSError
        EINVAL, ENOMEM, EEXIST, EPERM, EACCES, EAGAIN, EBADF, EOVERFLOW, as in the kernel.

    Notes
    -----
    Sleeps. No page is taken before it is touched, unless ``MAP_POPULATE`` or ``MAP_LOCKED`` says so.

    Source: mm/mmap.c:ksys_mmap_pgoff @6.1.192
    """
    return _process(process).mmap(addr, length, prot, flags, file, offset)


def munmap(addr: int, length: int, *, process: Process | None = None) -> None:
    """Unmap a range of pages; what is not mapped is skipped, what sticks out stays.

    Raises
    ------
    OSError
        EINVAL; ENOMEM if an area would have to be cut and there is no memory for it.

    Notes
    -----
    Sleeps.

    Source: mm/mmap.c:SYSCALL_DEFINE2(munmap) @6.1.192
    """
    _process(process).munmap(addr, length)


def mprotect(addr: int, length: int, prot: int, *, process: Process | None = None) -> None:
    """Change the rights of a range of pages.

    Raises
    ------
    OSError
        EINVAL, EACCES; ENOMEM also if something in the range is not mapped: what lies before it is changed then.

    Notes
    -----
    Sleeps.

    Source: mm/mprotect.c:SYSCALL_DEFINE3(mprotect) @6.1.192
    """
    _process(process).mprotect(addr, length, prot)


def mremap(
    old_addr: int, old_size: int, new_size: int, flags: int = 0, new_addr: int = 0, *, process: Process | None = None
) -> int:
    """Change the size of a mapping, where it is or (``MREMAP_MAYMOVE``) elsewhere; return its address.

    Raises
    ------
    OSError
        EINVAL, EFAULT, ENOMEM, EAGAIN.

    Notes
    -----
    Sleeps. Pages move by their page table entries; no byte is copied.

    Source: mm/mremap.c:SYSCALL_DEFINE5(mremap) @6.1.192
    """
    return _process(process).mremap(old_addr, old_size, new_size, flags, new_addr)


def madvise(addr: int, length: int, advice: int, *, process: Process | None = None) -> None:
    """Give advice about a range: ``MADV_DONTNEED`` drops its pages, others are about huge pages.

    Raises
    ------
    OSError
        EINVAL; ENOMEM if something in the range is not mapped.

    Notes
    -----
    Sleeps.

    Source: mm/madvise.c:SYSCALL_DEFINE3(madvise) @6.1.192
    """
    _process(process).madvise(addr, length, advice)


def brk(addr: int = 0, *, process: Process | None = None) -> int:
    """Set the end of the heap; return the end that it has then, the old one if it could not be set.

    Notes
    -----
    Sleeps. Never fails with an exception, as the system call.

    Source: mm/mmap.c:SYSCALL_DEFINE1(brk) @6.1.192
    """
    return _process(process).brk(addr)


def sbrk(increment: int = 0, *, process: Process | None = None) -> int:
    """Move the end of the heap; return where it was.

    Raises
    ------
    OSError
        ENOMEM.

    Notes
    -----
    Sleeps. A function of the C library, on top of brk().

    Source: mm/mmap.c:SYSCALL_DEFINE1(brk) @6.1.192
    """
    return _process(process).sbrk(increment)
