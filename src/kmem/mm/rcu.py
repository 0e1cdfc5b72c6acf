# SPDX-License-Identifier: GPL-2.0-only
"""RCU as far as it is a context: read-side sections, in which nothing may sleep.

Source: include/linux/rcupdate.h, kernel/rcu/tree_plugin.h @6.1.192
Differs: tasks switch only where they sleep, and no reader sleeps, so every moment between tasks is a grace period.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kmem.errors import KernelWarning
from kmem.mm.dump_stack import dump_stack
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.preempt import Section

__all__ = ["call_rcu", "rcu_barrier", "rcu_read_lock", "rcu_read_lock_held", "rcu_read_unlock", "synchronize_rcu"]

#: How long a grace period takes at least, in timer ticks.
GRACE_TICKS = 2


def rcu_read_lock() -> Section:
    """Begin a read-side section; nests. Context: any; inside, nothing may sleep.

    Source: include/linux/rcupdate.h:rcu_read_lock @6.1.192
    """
    kernel = current_kernel()
    kernel.rcu_nesting += 1
    return Section(kernel, lambda: _unlock(kernel), "rcu_read_lock()")


def rcu_read_unlock() -> None:
    """End a read-side section. Context: any.

    Source: include/linux/rcupdate.h:rcu_read_unlock @6.1.192
    """
    _unlock(current_kernel())


def _unlock(kernel: Kernel) -> None:
    if not kernel.rcu_nesting:
        # PROVE_LOCKING would say so; without it the count goes below zero and nothing good follows
        lines = ["WARNING: bad unlock balance detected!", *dump_stack(kernel)]
        kernel.report(KernelWarning("\n".join(lines)))
        return
    kernel.rcu_nesting -= 1


def rcu_read_lock_held() -> bool:
    """Whether the running task is in a read-side section."""
    return current_kernel().rcu_nesting > 0


def synchronize_rcu() -> None:
    """Wait until all read-side sections of now have ended. Context: sleeps.

    Source: kernel/rcu/tree.c:synchronize_rcu @6.1.192
    """
    kernel = current_kernel()
    check_may_sleep(kernel, "kernel/sched/completion.c", 101)
    from kmem.mm.sched import schedule_timeout_uninterruptible

    schedule_timeout_uninterruptible(GRACE_TICKS)


def call_rcu(head: Any, func: Callable[[Any], object]) -> None:
    """Call ``func(head)`` in a softirq when all read-side sections of now have ended. Context: any.

    Source: kernel/rcu/tree.c:call_rcu @6.1.192
    """
    from kmem.mm.timer import Timer, jiffies, mod_timer

    def run(timer: Timer) -> None:
        pending.remove(timer)
        func(head)

    pending: list[Timer] = current_kernel().sched.timers.rcu_callbacks
    timer = Timer(run)
    pending.append(timer)
    mod_timer(timer, jiffies() + GRACE_TICKS)


def rcu_barrier() -> None:
    """Wait until all functions given to :func:`call_rcu` have run. Context: sleeps.

    Source: kernel/rcu/tree.c:rcu_barrier @6.1.192
    """
    kernel = current_kernel()
    check_may_sleep(kernel, "kernel/locking/mutex.c", 283)
    from kmem.mm.sched import schedule_timeout_uninterruptible

    while kernel.sched.timers.rcu_callbacks:
        schedule_timeout_uninterruptible(GRACE_TICKS)
