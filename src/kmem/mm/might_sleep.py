# SPDX-License-Identifier: GPL-2.0-only
"""Sleeping where one must not: the check, and the kernel's report of it.

A function that may sleep says so at its beginning, whether or not it sleeps
this time.  If the caller runs in an interrupt, with preemption or interrupts
off, under a spinlock or in an RCU read-side section, that is reported with the
place of the check, as the kernel's source has it::

    BUG: sleeping function called from invalid context at include/linux/sched/mm.h:274
    in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 1, name: init
    preempt_count: 1, expected: 0
    RCU nest depth: 0, expected: 0

The report is a warning: an exception where ``kernel.reports`` is ``"raise"``,
else a text in the log, after which the call goes on.

Source: kernel/sched/core.c:__might_resched, __might_sleep, __schedule_bug @6.1.192
Differs: each report is printed, the kernel prints one a second at most.
"""

from __future__ import annotations

from typing import Final

from kmem.errors import KernelBug, KernelWarning
from kmem.mm.callers import caller_site
from kmem.mm.dump_stack import add_taint, dump_stack
from kmem.mm.kernel import Kernel, current_kernel

__all__ = [
    "MIGHT_ALLOC",
    "check_may_sleep",
    "might_sleep",
    "might_sleep_if",
    "might_sleep_report",
    "scheduling_while_atomic",
]

#: File and line of the check behind every allocation with ``__GFP_DIRECT_RECLAIM``.
MIGHT_ALLOC: Final = ("include/linux/sched/mm.h", 274)


def may_sleep(kernel: Kernel) -> bool:
    """Whether the running code may sleep.

    Source: kernel/sched/core.c:resched_offsets_ok @6.1.192
    """
    return not (kernel.preempt_count or kernel.irqs_disabled or kernel.rcu_nesting)


def might_sleep_report(kernel: Kernel, file: str, line: int) -> None:
    """Report that code which may sleep was called where it must not.

    Parameters
    ----------
    kernel : Kernel
    file, line : str, int
        Where the kernel's source checks.

    Raises
    ------
    KernelWarning
        If reports are exceptions.

    Source: kernel/sched/core.c:__might_resched @6.1.192
    """
    task = kernel.current
    count = kernel.preempt_count
    lines = [
        f"BUG: sleeping function called from invalid context at {file}:{line}",
        f"in_atomic(): {int(count != 0)}, irqs_disabled(): {int(kernel.irqs_disabled)}, non_block: 0, "
        f"pid: {task.pid}, name: {task.comm}",
        f"preempt_count: {count:x}, expected: 0",
        f"RCU nest depth: {kernel.rcu_nesting}, expected: 0",
        *dump_stack(kernel),
    ]
    add_taint(kernel)
    kernel.report(KernelWarning("\n".join(lines)))


def check_may_sleep(kernel: Kernel, file: str, line: int) -> None:
    """Report if the running code must not sleep; `file` and `line` as for :func:`might_sleep_report`."""
    if not may_sleep(kernel):
        might_sleep_report(kernel, file, line)


def might_sleep() -> None:
    """Say that the caller may sleep: reported at once where it must not.

    The report names the Python file and line of the call.

    Raises
    ------
    KernelWarning
        In an interrupt, with preemption or interrupts off, under a spinlock or in an RCU read-side section.

    Source: include/linux/kernel.h:might_sleep @6.1.192
    """
    kernel = current_kernel()
    if not may_sleep(kernel):
        site = caller_site()
        might_sleep_report(kernel, site.file, site.line)


def might_sleep_if(cond: object) -> None:
    """Call :func:`might_sleep` if `cond` is true.

    Source: include/linux/kernel.h:might_sleep_if @6.1.192
    """
    if cond:
        kernel = current_kernel()
        if not may_sleep(kernel):
            site = caller_site()
            might_sleep_report(kernel, site.file, site.line)


def scheduling_while_atomic(kernel: Kernel, *, fatal: bool) -> None:
    """Report that a task is about to sleep with preemption off.

    Parameters
    ----------
    kernel : Kernel
    fatal : bool
        Whether it cannot go on: an interrupt has no task of its own that could sleep.

    Source: kernel/sched/core.c:__schedule_bug @6.1.192
    """
    task = kernel.current
    # schedule() has disabled preemption itself when it looks
    lines = [f"BUG: scheduling while atomic: {task.comm}/{task.pid}/0x{kernel.preempt_count + 1:08x}"]
    lines += dump_stack(kernel)
    add_taint(kernel)
    text = "\n".join(lines)
    kernel.report(KernelBug(text) if fatal else KernelWarning(text))
