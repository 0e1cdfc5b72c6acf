# SPDX-License-Identifier: GPL-2.0-only
"""Copying between the kernel and the memory of the running process.

Each function answers as the kernel's: with the number of bytes that could not
be copied, or with ``-EFAULT``.  Memory that the process has mapped, but not
touched, is brought in on the way, so all of them may sleep, and say so before
they look at any page.  Where a fault cannot be handled, with preemption off,
such memory counts as missing.

Source: include/linux/uaccess.h, lib/usercopy.c, lib/strncpy_from_user.c, lib/strnlen_user.c,
arch/x86/lib/copy_user_64.S, mm/usercopy.c @6.1.192
Differs: a copy stops at the first byte that cannot be had, where the kernel may stop up to seven before it. A bad
address on the kernel's side is an oops at once; the kernel counts what it could not read as not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EFAULT
from typing import Final

from kmem.errors import UsageError
from kmem.mm import access
from kmem.mm.callers import caller_site
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.memory import FaultResult
from kmem.mm.might_sleep import check_may_sleep, may_sleep, might_sleep_report
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

#: Where a page fault says that it may sleep (mm/memory.c:get_mmap_lock_carefully).
_FAULT_LINE: Final = 5322
#: The most that one copy takes (include/linux/thread_info.h:check_copy_size).
_INT_MAX: Final = (1 << 31) - 1


def _current(kernel: Kernel) -> tuple[Vm, MmStruct]:
    vm, mm = kernel.vm, kernel.current.mm
    if vm is None or mm is None:
        raise UsageError(
            f"{kernel.current.comm} has no user memory", remedy="call it as a process: with process.running(): ..."
        )
    return vm, mm


def _might_fault(kernel: Kernel, file: str, line: int) -> None:
    """Say that user memory is about to be used, which may have to be brought in: reported where one must not sleep.

    Source: mm/memory.c:__might_fault @6.1.192
    """
    if not kernel.current.pagefault_disabled:
        check_may_sleep(kernel, file, line)


def _might_fault_here(kernel: Kernel) -> None:
    """Do as :func:`_might_fault` for a macro, which checks where it is used."""
    if not may_sleep(kernel) and not kernel.current.pagefault_disabled:
        site = caller_site()
        might_sleep_report(kernel, site.file, site.line)


def _faulthandler_disabled(kernel: Kernel) -> bool:
    """Whether page faults are not answered now.

    Source: include/linux/uaccess.h:faulthandler_disabled @6.1.192
    """
    return bool(kernel.preempt_count or kernel.current.pagefault_disabled)


def _pages(addr: int, size: int, *, write: bool) -> Iterator[memoryview]:
    """Yield the memory behind a range of user addresses, piece by piece, until a page cannot be had."""
    kernel = current_kernel()
    vm, mm = _current(kernel)
    end = addr + size
    while addr < end:
        length = min(end - addr, PAGE_SIZE - addr % PAGE_SIZE)
        phys, code = translate(vm, mm, addr, write=write)
        if code:
            if _faulthandler_disabled(kernel):
                return
            check_may_sleep(kernel, "mm/memory.c", _FAULT_LINE)
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


def _size(what: int | bytes | bytearray | memoryview | None, n: int | None) -> int:
    """Return how many bytes to copy from or to something of the kernel's.

    Raises
    ------
    UsageError
        There are not as many, or only the caller can know.
    """
    if what is None or isinstance(what, int):
        if n is None:
            raise UsageError("an address does not tell how many bytes to copy", remedy="give n")
        if not 0 <= n <= _INT_MAX:
            raise UsageError(f"{n} bytes", remedy="a number from 0 to 2147483647, as check_copy_size() allows")
        return n
    length = memoryview(what).nbytes
    size = length if n is None else n
    if not 0 <= size <= length:
        raise UsageError(f"{size} bytes of {length}", remedy="copy no more than there are, or than there is room for")
    return size


def _store(kernel: Kernel, to: int | bytearray | memoryview | None, offset: int, data: bytes) -> None:
    """Write to the kernel's side of a copy: an address, or a buffer."""
    if to is None or isinstance(to, int):
        access.write(kernel, (to or 0) + offset, data)
    else:
        memoryview(to).cast("B")[offset : offset + len(data)] = data


def _read_user(from_: int, size: int) -> bytes:
    """Return what can be read of a range of user addresses."""
    return b"".join(bytes(view) for view in _pages(from_, size, write=False)) if access_ok(from_, size) else b""


def _write_user(to: int, data: bytes | memoryview) -> int:
    """Write to user addresses as far as it goes; return how far."""
    done = 0
    for view in _pages(to, len(data), write=True):
        view[:] = data[done : done + len(view)]
        done += len(view)
    return done


def copy_to_user(to: int, from_: int | bytes | bytearray | memoryview | None, n: int | None = None) -> int:
    """Copy bytes of the kernel to the running process.

    Parameters
    ----------
    to : int
        User address.
    from_ : int or bytes-like
        What to copy: a kernel address as in C, or the bytes themselves.
    n : int, optional
        How many bytes; of a bytes-like object, all by default.

    Returns
    -------
    int
        Bytes that could not be copied: 0 is success.

    Raises
    ------
    KernelOops
        `from_` is a kernel address with nothing behind it.

    Notes
    -----
    Context: process, may sleep.

    Source: lib/usercopy.c:_copy_to_user @6.1.192
    """
    kernel = current_kernel()
    size = _size(from_, n)
    _might_fault(kernel, "lib/usercopy.c", 36)
    if not access_ok(to, size):
        return size
    if from_ is None or isinstance(from_, int):
        return size - _write_user(to, access.read(kernel, from_ or 0, size))
    return size - _write_user(to, memoryview(from_).cast("B")[:size])


def copy_from_user(to: int | bytearray | memoryview | None, from_: int, n: int | None = None) -> int:
    """Copy bytes of the running process to the kernel.

    Parameters
    ----------
    to : int or bytearray or memoryview
        Where to: a kernel address as in C, or a buffer; what could not be copied becomes zero.
    from_ : int
        User address.
    n : int, optional
        How many bytes; into a buffer, as many as fit by default.

    Returns
    -------
    int
        Bytes that could not be copied: 0 is success.

    Raises
    ------
    KernelOops
        `to` is a kernel address with nothing behind it.

    Notes
    -----
    Context: process, may sleep.

    Source: lib/usercopy.c:_copy_from_user @6.1.192
    """
    kernel = current_kernel()
    size = _size(to, n)
    _might_fault(kernel, "lib/usercopy.c", 14)
    data = _read_user(from_, size)
    _store(kernel, to, 0, data + bytes(size - len(data)))
    return size - len(data)


def clear_user(to: int, n: int) -> int:
    """Zero memory of the running process; the bytes that could not be are returned.

    Notes
    -----
    Context: process, may sleep.

    Source: arch/x86/lib/usercopy_64.c:clear_user @6.1.192
    """
    kernel = current_kernel()
    if kernel.arch == "i386":
        _might_fault(kernel, "arch/x86/lib/usercopy_32.c", 64)
    if not access_ok(to, n):
        return n
    if kernel.arch != "i386":
        _might_fault(kernel, "arch/x86/include/asm/uaccess_64.h", 96)
    return n - _write_user(to, bytes(n))


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
    _might_fault_here(current_kernel())
    return 0 if access_ok(ptr, size) and _write_user(ptr, data) == size else -EFAULT


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
    _might_fault_here(current_kernel())
    data = _read_user(ptr, size)
    return (0, int.from_bytes(data, "little")) if len(data) == size else (-EFAULT, 0)


def strncpy_from_user(dst: int | bytearray | memoryview | None, src: int, count: int) -> int:
    """Copy a string of the running process.

    Parameters
    ----------
    dst : int or bytearray or memoryview
        Where to, a kernel address or a buffer; ends with a zero byte if there was room for it.
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
    kernel = current_kernel()
    _might_fault(kernel, "lib/strncpy_from_user.c", 117)
    if count <= 0:
        return 0
    if not access_ok(src, 1):
        return -EFAULT
    _size(dst, count)
    done = 0
    for view in _pages(src, count, write=False):
        piece = bytes(view)
        end = piece.find(0)
        if end >= 0:
            _store(kernel, dst, done, piece[: end + 1])
            return done + end
        _store(kernel, dst, done, piece)
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
    Context: process, may sleep; alone of its kin, it is not reported where it must not: there it
    answers 0 for memory that is not there yet.

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
