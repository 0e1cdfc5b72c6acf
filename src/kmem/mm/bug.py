# SPDX-License-Identifier: GPL-2.0-only
"""WARN and BUG: conditions that the kernel finds wrong, or impossible.

Source: include/asm-generic/bug.h, lib/bug.c, kernel/panic.c:__warn @6.1.192
Differs: registers and modules are not printed, since there are none; the call trace names Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.errors import KernelBug, KernelWarning
from kmem.mm.callers import stack
from kmem.mm.fault import die_header

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["bug", "warn", "warn_once"]

_CUT_HERE = "------------[ cut here ]------------"


def warn(kernel: Kernel, place: str, function: str, message: str = "") -> None:
    """Report a condition that should not be; the kernel goes on.

    Parameters
    ----------
    kernel : Kernel
    place : str
        ``file:line`` in the kernel's source.
    function : str
        The kernel's function.
    message : str
        What is wrong, in the kernel's words, if it has any.

    Raises
    ------
    KernelWarning
        If the machine's warnings are exceptions.

    Source: kernel/panic.c:__warn @6.1.192
    """
    task = kernel.current
    lines = [_CUT_HERE]
    if message:
        lines.append(message)
    lines += [
        f"WARNING: CPU: {kernel.page_alloc.cpu} PID: {task.pid} at {place} {function}",
        f"CPU: {kernel.page_alloc.cpu} PID: {task.pid} Comm: {task.comm:.20} Not tainted",
        "Call Trace:",
        " <TASK>",
        *(f" {line}" for line in stack()),
        " </TASK>",
        "---[ end trace 0000000000000000 ]---",
    ]
    error = KernelWarning("\n".join(lines))
    error.message = message or lines[1]
    kernel.report(error)


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
