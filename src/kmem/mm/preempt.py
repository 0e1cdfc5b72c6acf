# SPDX-License-Identifier: GPL-2.0-only
"""``preempt_count``: the number that says in what context code runs.

::

      23..20   19..16     15..8          7..0
     +-------+---------+--------------+----------------+
     |  NMI  | hardirq |   softirq    | preemption off |
     +-------+---------+--------------+----------------+
                         0x100: a softirq runs;  0x200 each: softirqs are off

It is 0 in process context with everything allowed; code may only sleep then
(and with interrupts on, and outside an RCU read-side section).  The number
belongs to the running task: the scheduler saves and restores it.

What begins a section (``preempt_disable()``, ``spin_lock()``, ``rcu_read_lock()``
and so on) has its effect when it is called, and returns a :class:`Section`,
so that both forms do the same::

    preempt_disable()               with preempt_disable():
    ...                                 ...
    preempt_enable()

Source: include/linux/preempt.h @6.1.192
Differs: disabling preemption has no effect on when tasks switch, which they only do where they sleep or call
``cond_resched()``, as under PREEMPT_VOLUNTARY.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

from kmem.errors import KernelReport, KernelWarning
from kmem.mm.dump_stack import dump_stack
from kmem.mm.kernel import Kernel, current_kernel

__all__ = [
    "HARDIRQ_MASK",
    "HARDIRQ_OFFSET",
    "NMI_MASK",
    "PREEMPT_MASK",
    "PREEMPT_OFFSET",
    "SOFTIRQ_DISABLE_OFFSET",
    "SOFTIRQ_MASK",
    "SOFTIRQ_OFFSET",
    "Section",
    "hardirq_count",
    "in_atomic",
    "in_hardirq",
    "in_interrupt",
    "in_irq",
    "in_nmi",
    "in_serving_softirq",
    "in_softirq",
    "in_task",
    "irq_count",
    "preempt_count",
    "preempt_count_add",
    "preempt_count_sub",
    "preempt_disable",
    "preempt_disabled",
    "preempt_enable",
    "preempt_enable_no_resched",
    "preemptible",
    "softirq_count",
]

PREEMPT_OFFSET: Final = 0x1
SOFTIRQ_OFFSET: Final = 0x100
HARDIRQ_OFFSET: Final = 0x10000
PREEMPT_MASK: Final = 0x000000FF
SOFTIRQ_MASK: Final = 0x0000FF00
HARDIRQ_MASK: Final = 0x000F0000
NMI_MASK: Final = 0x00F00000
#: What ``local_bh_disable()`` adds: a running softirq is told from softirqs that are off by this.
SOFTIRQ_DISABLE_OFFSET: Final = 2 * SOFTIRQ_OFFSET

_IRQ_MASK: Final = SOFTIRQ_MASK | HARDIRQ_MASK | NMI_MASK


class Section:
    """A section that has begun: given to ``with``, it ends at the end of the block.

    Parameters
    ----------
    kernel : Kernel
    end : callable
        Ends it.
    what : str
        Named if the section is left with another ``preempt_count`` than it was entered with.
    """

    __slots__ = ("_count", "_end", "_kernel", "_what")

    def __init__(self, kernel: Kernel, end: Callable[[], object], what: str) -> None:
        self._kernel = kernel
        self._end = end
        self._what = what
        self._count = kernel.preempt_count

    def __enter__(self) -> None:
        """Do nothing: the section has begun already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the section, and report if the block has not given back what it took."""
        try:
            leaked = self._kernel.preempt_count
            if leaked != self._count:
                self._kernel.preempt_count = self._count
            self._end()
            if leaked != self._count:
                report_leak(self._kernel, self._what, self._count, leaked)
        except KernelReport:
            # it is in the log; what ended the block is worth more than what followed from it
            if error is None:
                raise


def report_leak(kernel: Kernel, what: str, entered: int, left: int) -> None:
    """Report code that was left with another ``preempt_count`` than it was entered with.

    Source: kernel/time/timer.c:call_timer_fn, kernel/softirq.c:__do_softirq @6.1.192
    """
    text = f"{what} preempt leak: {entered:08x} -> {left:08x}"
    kernel.report(KernelWarning("\n".join([text, *dump_stack(kernel)])))


def preempt_count() -> int:
    """Return the context that the caller runs in, in the layout that the module shows.

    Context: any.

    Source: arch/x86/include/asm/preempt.h:preempt_count @6.1.192
    """
    return current_kernel().preempt_count


def preempt_count_add(val: int) -> None:
    """Add to ``preempt_count``.

    Source: kernel/sched/core.c:preempt_count_add @6.1.192
    """
    current_kernel().preempt_count += val


def preempt_count_sub(val: int) -> None:
    """Subtract from ``preempt_count``; that there is less to subtract from is reported, and nothing is subtracted.

    Source: kernel/sched/core.c:preempt_count_sub @6.1.192
    """
    _sub(current_kernel(), val)


def _sub(kernel: Kernel, val: int) -> None:
    if val > kernel.preempt_count:
        lines = ["DEBUG_LOCKS_WARN_ON(val > preempt_count())", *dump_stack(kernel)]
        kernel.report(KernelWarning("\n".join(lines)))
        return
    kernel.preempt_count -= val


def preempt_disable() -> Section:
    """Forbid the running task to sleep until :func:`preempt_enable`; nests.

    Context: any, does not sleep.

    Source: include/linux/preempt.h:preempt_disable @6.1.192
    """
    kernel = current_kernel()
    kernel.preempt_count += PREEMPT_OFFSET
    return Section(kernel, lambda: _sub(kernel, PREEMPT_OFFSET), "preempt_disable()")


#: As a name for a ``with`` block.
preempt_disabled = preempt_disable


def preempt_enable() -> None:
    """Undo one :func:`preempt_disable`.

    Source: include/linux/preempt.h:preempt_enable @6.1.192
    """
    _sub(current_kernel(), PREEMPT_OFFSET)


def preempt_enable_no_resched() -> None:
    """Undo one :func:`preempt_disable`; here the same as :func:`preempt_enable`.

    Source: include/linux/preempt.h:preempt_enable_no_resched @6.1.192
    """
    _sub(current_kernel(), PREEMPT_OFFSET)


def preemptible() -> bool:
    """Whether preemption and interrupts are both on.

    Source: include/linux/preempt.h:preemptible @6.1.192
    """
    kernel = current_kernel()
    return not kernel.preempt_count and not kernel.irqs_disabled


def in_atomic() -> bool:
    """Whether anything in ``preempt_count`` forbids to sleep; interrupts that are off do not count.

    Source: include/linux/preempt.h:in_atomic @6.1.192
    """
    return current_kernel().preempt_count != 0


def hardirq_count() -> int:
    """Return the hardirq part of ``preempt_count``."""
    return current_kernel().preempt_count & HARDIRQ_MASK


def softirq_count() -> int:
    """Return the softirq part of ``preempt_count``."""
    return current_kernel().preempt_count & SOFTIRQ_MASK


def irq_count() -> int:
    """Return the interrupt parts of ``preempt_count``, softirqs included."""
    return current_kernel().preempt_count & _IRQ_MASK


def in_nmi() -> int:
    """Not 0 in a non-maskable interrupt, which the model does not have."""
    return current_kernel().preempt_count & NMI_MASK


def in_hardirq() -> int:
    """Not 0 in a hardware interrupt.

    Source: include/linux/preempt.h:in_hardirq @6.1.192
    """
    return hardirq_count()


def in_irq() -> int:
    """Return the same as :func:`in_hardirq`, by its old name."""
    return hardirq_count()


def in_serving_softirq() -> int:
    """Not 0 while a softirq runs: a timer's function, a tasklet.

    Source: include/linux/preempt.h:in_serving_softirq @6.1.192
    """
    return softirq_count() & SOFTIRQ_OFFSET


def in_softirq() -> int:
    """Not 0 while a softirq runs, and also while softirqs are off.

    Source: include/linux/preempt.h:in_softirq @6.1.192
    """
    return softirq_count()


def in_interrupt() -> int:
    """Not 0 in an interrupt, a softirq, or with softirqs off.

    Source: include/linux/preempt.h:in_interrupt @6.1.192
    """
    return irq_count()


def in_task() -> bool:
    """Whether a task runs, and no interrupt.

    Source: include/linux/preempt.h:in_task @6.1.192
    """
    return not current_kernel().preempt_count & (NMI_MASK | HARDIRQ_MASK | SOFTIRQ_OFFSET)
