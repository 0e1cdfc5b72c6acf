# SPDX-License-Identifier: GPL-2.0-only
"""Copying between the kernel and the memory of the running process.

Each function answers as the kernel's: with the number of bytes that could not
be copied, or with ``-EFAULT``.  Memory that the process has mapped, but not
touched, is brought in on the way, so all of them may sleep.

Source: include/linux/uaccess.h, lib/usercopy.c, lib/strncpy_from_user.c, lib/strnlen_user.c,
arch/x86/lib/copy_user_64.S, mm/usercopy.c @6.1.192
Differs: a copy stops at the first byte that cannot be had, where the kernel may stop up to seven before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EFAULT

from kmem.errors import UsageError
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.memory import FaultResult
from kmem.mm.mm_types import PAGE_SIZE, MmStruct
from kmem.mm.user_fault import do_user_addr_fault, translate
from kmem.mm.vm import Vm

__all__ = [
    "access_ok",
    "clear_user",
    "copy_from_user",
    "copy_to_user",
    "get_user",
    "put_user",
    "strncpy_from_user",
    "strnlen_user",
]


def _current(kernel: Kernel) -> tuple[Vm, MmStruct]:
    vm, mm = kernel.vm, kernel.current.mm
    if vm is None or mm is None:
        raise UsageError(
            f"{kernel.current.comm} has no user memory", remedy="call it as a process: with process.running(): ..."
        )
    return vm, mm


def _pages(addr: int, size: int, *, write: bool) -> Iterator[memoryview]:
    """Yield the memory behind a range of user addresses, piece by piece, until a page cannot be had."""
    kernel = current_kernel()
    vm, mm = _current(kernel)
    end = addr + size
    while addr < end:
        length = min(end - addr, PAGE_SIZE - addr % PAGE_SIZE)
        phys, code = translate(vm, mm, addr, write=write)
        if code:
            kernel.might_sleep()
            result = do_user_addr_fault(vm, mm, addr, code)
            if result & (FaultResult.SIGSEGV | FaultResult.SIGBUS | FaultResult.OOM) or kernel.current.mm is not mm:
                return
            continue
        yield vm.ram.view(phys, length)
        addr += length


def access_ok(addr: int, size: int) -> bool:
    """Whether a range lies in user space, mapped or not.

    Parameters
    ----------
    addr : int
        User address.
    size : int
        Bytes.

    Notes
    -----
    Context: any; does not sleep.

    Source: include/asm-generic/access_ok.h:__access_ok @6.1.192
    """
    limit = 0xC0000000 if current_kernel().arch == "i386" else (1 << 47) - PAGE_SIZE
    return 0 <= size <= limit and 0 <= addr <= limit - size


def copy_to_user(to: int, from_: bytes | bytearray | memoryview, n: int | None = None) -> int:
    """Copy bytes to the running process.

    Parameters
    ----------
    to : int
        User address.
    from_ : bytes-like
        What to copy.
    n : int, optional
        How many bytes; all by default.

    Returns
    -------
    int
        Bytes that could not be copied: 0 is success.

    Notes
    -----
    Context: process, may sleep.

    Source: include/linux/uaccess.h:copy_to_user @6.1.192
    """
    data = memoryview(from_).cast("B")
    size = len(data) if n is None else n
    if not 0 <= size <= len(data):
        raise UsageError(f"{size} bytes of {len(data)}", remedy="copy no more than there are")
    if not access_ok(to, size):
        return size
    done = 0
    for view in _pages(to, size, write=True):
        view[:] = data[done : done + len(view)]
        done += len(view)
    return size - done


def copy_from_user(to: bytearray | memoryview, from_: int, n: int | None = None) -> int:
    """Copy bytes of the running process to the kernel.

    Parameters
    ----------
    to : bytearray or memoryview
        Where to; what could not be copied becomes zero.
    from_ : int
        User address.
    n : int, optional
        How many bytes; by default as many as fit.

    Returns
    -------
    int
        Bytes that could not be copied: 0 is success.

    Notes
    -----
    Context: process, may sleep.

    Source: lib/usercopy.c:_copy_from_user @6.1.192
    """
    buffer = memoryview(to).cast("B")
    size = len(buffer) if n is None else n
    if not 0 <= size <= len(buffer):
        raise UsageError(f"{size} bytes into {len(buffer)}", remedy="copy no more than there is room for")
    done = 0
    if access_ok(from_, size):
        for view in _pages(from_, size, write=False):
            buffer[done : done + len(view)] = view
            done += len(view)
    buffer[done:size] = bytes(size - done)
    return size - done


def clear_user(to: int, n: int) -> int:
    """Zero memory of the running process; the bytes that could not be are returned.

    Notes
    -----
    Context: process, may sleep.

    Source: arch/x86/lib/usercopy_64.c:clear_user @6.1.192
    """
    if not access_ok(to, n):
        return n
    done = 0
    for view in _pages(to, n, write=True):
        view[:] = bytes(len(view))
        done += len(view)
    return n - done


def _check_word(size: int) -> None:
    if size not in (1, 2, 4, 8):
        raise UsageError(f"a word of {size} bytes", remedy="1, 2, 4 or 8")


def put_user(x: int, ptr: int, size: int = 4) -> int:
    """Write one number to the running process.

    Parameters
    ----------
    x : int
        The number; bits that do not fit are lost.
    ptr : int
        User address.
    size : int
        Bytes: 1, 2, 4 or 8; C knows it from the pointer's type.

    Returns
    -------
    int
        0, or ``-EFAULT``.

    Notes
    -----
    Context: process, may sleep.

    Source: arch/x86/include/asm/uaccess.h:put_user @6.1.192
    """
    _check_word(size)
    data = (x & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return -EFAULT if copy_to_user(ptr, data) else 0


def get_user(ptr: int, size: int = 4) -> tuple[int, int]:
    """Read one number of the running process.

    Parameters
    ----------
    ptr : int
        User address.
    size : int
        Bytes: 1, 2, 4 or 8; C knows it from the pointer's type.

    Returns
    -------
    tuple of int
        0 or ``-EFAULT``, and the number, which is 0 on failure. C returns the first and stores the second.

    Notes
    -----
    Context: process, may sleep.

    Source: arch/x86/include/asm/uaccess.h:get_user @6.1.192
    """
    _check_word(size)
    buffer = bytearray(size)
    if copy_from_user(buffer, ptr):
        return -EFAULT, 0
    return 0, int.from_bytes(buffer, "little")


def strncpy_from_user(dst: bytearray | memoryview, src: int, count: int) -> int:
    """Copy a string of the running process.

    Parameters
    ----------
    dst : bytearray or memoryview
        Where to; ends with a zero byte if there was room for it.
    src : int
        User address.
    count : int
        At most so many bytes, the zero included.

    Returns
    -------
    int
        Length without the zero; `count` if none was found; ``-EFAULT``.

    Notes
    -----
    Context: process, may sleep.

    Source: lib/strncpy_from_user.c:strncpy_from_user @6.1.192
    """
    if count <= 0:
        return 0
    if not access_ok(src, 1):
        return -EFAULT
    buffer = memoryview(dst).cast("B")
    if count > len(buffer):
        raise UsageError(f"{count} bytes into {len(buffer)}", remedy="copy no more than there is room for")
    done = 0
    for view in _pages(src, count, write=False):
        piece = bytes(view)
        end = piece.find(0)
        if end >= 0:
            buffer[done : done + end + 1] = piece[: end + 1]
            return done + end
        buffer[done : done + len(piece)] = piece
        done += len(piece)
    return count if done == count else -EFAULT


def strnlen_user(str_: int, count: int) -> int:
    """Return the length of a string of the running process, its zero byte included.

    Parameters
    ----------
    str_ : int
        User address.
    count : int
        How far to look.

    Returns
    -------
    int
        Length; more than `count` if there is no zero byte by then; 0 if memory could not be read.

    Notes
    -----
    Context: process, may sleep.

    Source: lib/strnlen_user.c:strnlen_user @6.1.192
    """
    if count <= 0 or not access_ok(str_, 1):
        return 0
    done = 0
    for view in _pages(str_, count, write=False):
        end = bytes(view).find(0)
        if end >= 0:
            return done + end + 1
        done += len(view)
    return count + 1 if done == count else 0
