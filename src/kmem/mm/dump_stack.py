# SPDX-License-Identifier: GPL-2.0-only
"""The lines that end most reports: which task on which CPU, and who called.

Source: lib/dump_stack.c, arch/x86/kernel/dumpstack.c:show_trace_log_lvl @6.1.192
Differs: the trace names Python functions, files and lines; there is no line about hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kmem.mm.callers import stack
from kmem.mm.report import TAINT_WARN, print_info

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["KERNEL_RELEASE", "KERNEL_VERSION", "add_taint", "call_trace", "dump_stack"]

#: What ``uname -r`` of the reference kernel says, by architecture.
KERNEL_RELEASE: Final = {"x86_64": "6.1.0-56-amd64", "i386": "6.1.0-50-686"}

#: What reports print behind that: number of the build, and package.
KERNEL_VERSION: Final = {"x86_64": "#1  Debian 6.1.192-2", "i386": "#1  Debian 6.1.176-1"}

_IN_INTERRUPT: Final = 0x00FFFF00 & ~0x0200


def call_trace(kernel: Kernel) -> list[str]:
    """Return the lines of a call trace; code that runs in an interrupt is marked as such.

    Source: arch/x86/kernel/dumpstack.c:show_trace_log_lvl @6.1.192
    """
    places = [f" {place}" for place in stack()]
    interrupt = bool(kernel.preempt_count & _IN_INTERRUPT)
    if kernel.arch == "i386" and not interrupt:
        return ["Call Trace:", *places]  # 32-bit kernels have no name for a task's own stack
    mark = "IRQ" if interrupt else "TASK"
    return ["Call Trace:", f" <{mark}>", *places, f" </{mark}>"]


def add_taint(kernel: Kernel, bit: int = TAINT_WARN) -> None:
    """Have later reports say that something has happened before; by default a warning.

    Source: kernel/panic.c:add_taint @6.1.192
    """
    kernel.taint |= 1 << bit


def dump_stack(kernel: Kernel) -> list[str]:
    """Return the line about CPU and task, and the call trace.

    Source: lib/dump_stack.c:dump_stack_print_info, dump_stack_lvl @6.1.192
    """
    task = kernel.current
    release = f"{KERNEL_RELEASE[kernel.arch]} {KERNEL_VERSION[kernel.arch]}"
    return [
        print_info(kernel.page_alloc.cpu, task.pid, task.comm, kernel.taint, release),
        *call_trace(kernel),
    ]
