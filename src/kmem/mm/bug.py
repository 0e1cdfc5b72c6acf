# SPDX-License-Identifier: GPL-2.0-only
"""WARN, BUG and panic: conditions that the kernel finds wrong, or impossible.

Source: include/asm-generic/bug.h, lib/bug.c, lib/dump_stack.c, kernel/panic.c:__warn @6.1.192
Differs: registers and modules are not printed, since there are none; the call trace names Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.errors import KernelBug, KernelPanic, KernelWarning
from kmem.mm.dump_stack import add_taint, dump_stack
from kmem.mm.fault import die_header

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["bug", "dump_stack", "panic", "warn", "warn_once", "warning"]

_CUT_HERE = "------------[ cut here ]------------"
_END_TRACE = "---[ end trace 0000000000000000 ]---"


def warning(kernel: Kernel, place: str, function: str, message: str = "") -> KernelWarning:
    """Return the report of a condition that should not be.

    Parameters
    ----------
    kernel : Kernel
    place : str
        ``file:line`` in the kernel's source.
    function : str
        The kernel's function.
    message : str
        What is wrong, in the kernel's words, if it has any.

    Source: kernel/panic.c:__warn @6.1.192
    """
    where = f"WARNING: CPU: {kernel.page_alloc.cpu} PID: {kernel.current.pid} at {place} {function}"
    lines = [_CUT_HERE, *message.splitlines(), where, *dump_stack(kernel), _END_TRACE]
    add_taint(kernel)
    error = KernelWarning("\n".join(lines))
    error.message = lines[1]
    return error


def warn(kernel: Kernel, place: str, function: str, message: str = "") -> None:
    """Report a condition that should not be; the kernel goes on.

    Parameters
    ----------
    kernel, place, function, message
        As for :func:`warning`.

    Raises
    ------
    KernelWarning
        If the machine's warnings are exceptions.

    Source: kernel/panic.c:__warn @6.1.192
    """
    kernel.report(warning(kernel, place, function, message))


def warn_once(kernel: Kernel, place: str, function: str, message: str = "") -> None:
    """Report a condition the first time only; see :func:`warn`."""
    if place not in kernel.once:
        kernel.once[place] = True
        warn(kernel, place, function, message)


def bug(kernel: Kernel, place: str) -> None:
    """Stop the kernel at a condition that it holds to be impossible.

    Raises
    ------
    KernelBug
        Always.

    Source: lib/bug.c:report_bug @6.1.192
    """
    first = f"kernel BUG at {place}!"
    error = KernelBug(f"{_CUT_HERE}\n{first}\n{die_header(kernel, 'invalid opcode', 0)}")
    error.message = first
    kernel.report(error)


def panic(kernel: Kernel, message: str) -> None:
    """Stop the kernel for good.

    Raises
    ------
    KernelPanic
        Always.

    Source: kernel/panic.c:panic @6.1.192
    """
    first = f"Kernel panic - not syncing: {message}"
    error = KernelPanic("\n".join([first, *dump_stack(kernel), f"---[ end {first} ]---"]))
    error.message = first
    kernel.report(error)
