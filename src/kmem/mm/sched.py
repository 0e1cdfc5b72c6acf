# SPDX-License-Identifier: GPL-2.0-only
"""What a task asks of the scheduler: sleep, let others run, wake somebody.

Source: include/linux/sched.h, kernel/sched/core.c, kernel/time/timer.c @6.1.192
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem.errors import StateError
from kmem.mm.argument import expect
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.task import TASK_IDLE, TASK_INTERRUPTIBLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE, Task
from kmem.mm.timer import MAX_SCHEDULE_TIMEOUT, Timer

if TYPE_CHECKING:
    from kmem.mm.task import Scheduler

__all__ = [
    "MAX_SCHEDULE_TIMEOUT",
    "TASK_IDLE",
    "TASK_INTERRUPTIBLE",
    "TASK_RUNNING",
    "TASK_UNINTERRUPTIBLE",
    "cond_resched",
    "cpu_relax",
    "get_current",
    "io_schedule",
    "io_schedule_timeout",
    "schedule",
    "schedule_timeout",
    "schedule_timeout_idle",
    "schedule_timeout_interruptible",
    "schedule_timeout_uninterruptible",
    "set_current_state",
    "wake_up_process",
    "yield_",
]


def scheduler(kernel: Kernel) -> Any:
    """Return the scheduler of a kernel.

    Raises
    ------
    StateError
        If it has none.
    """
    sched: Scheduler | None = kernel.sched
    if sched is None:
        raise StateError("this kernel has no scheduler: nothing can wait")
    return sched


def get_current() -> Task:
    """Return the running task; in an interrupt, the one that is interrupted. Context: any.

    Source: arch/x86/include/asm/current.h:get_current @6.1.192
    """
    return current_kernel().current


def set_current_state(state: int) -> None:
    """Say how the running task is going to sleep; a wake-up from now on undoes it. Context: process.

    Source: include/linux/sched.h:set_current_state @6.1.192
    """
    scheduler(current_kernel()).set_current_state(state)


def schedule() -> None:
    """Sleep as :func:`set_current_state` has said, until woken; without it, let others run. Context: may sleep.

    Source: kernel/sched/core.c:schedule @6.1.192
    """
    sched = scheduler(current_kernel())
    if sched.current_state == TASK_RUNNING:
        sched.give_way()
    else:
        sched.sleep("a wake-up (schedule)")
    sched.raise_interrupts()


def io_schedule() -> None:
    """Do as :func:`schedule`, of a task that waits for a device. Context: may sleep.

    Source: kernel/sched/core.c:io_schedule @6.1.192
    """
    schedule()


def schedule_timeout(timeout: int) -> int:
    """Sleep as :func:`set_current_state` has said, until woken or for `timeout` ticks. Context: may sleep.

    Returns
    -------
    int
        Ticks that were left; 0 after the whole time.

    Source: kernel/time/timer.c:schedule_timeout @6.1.192
    """
    kernel = current_kernel()
    left = sleep_ticks(kernel, timeout, "a time (schedule_timeout)")
    scheduler(kernel).raise_interrupts()
    return left


def sleep_ticks(kernel: Kernel, timeout: int, why: str, *, holder: Task | None = None) -> int:
    """Do the work of :func:`schedule_timeout`; `why` is said if everybody waits."""
    sched = scheduler(kernel)
    if timeout == MAX_SCHEDULE_TIMEOUT:
        sched.sleep(why, holder=holder)
        return timeout
    if timeout < 0:
        kernel.printk.printk(f"schedule_timeout: wrong timeout value {timeout & (1 << 64) - 1:x}")
        sched.set_current_state(TASK_RUNNING)
        return 0
    clock = kernel.clock
    expires = clock.jiffies + timeout
    task = kernel.current
    timer = Timer(lambda _: sched.wake_up(task))
    sched.timers.add(timer, expires)
    try:
        sched.sleep(why, holder=holder, bounded=True)
    finally:
        sched.timers.remove(timer)
    return int(max(0, expires - clock.jiffies))


def schedule_timeout_interruptible(timeout: int) -> int:
    """Sleep for `timeout` ticks, or until woken. Context: sleeps.

    Source: kernel/time/timer.c:schedule_timeout_interruptible @6.1.192
    """
    set_current_state(TASK_INTERRUPTIBLE)
    return schedule_timeout(timeout)


def schedule_timeout_uninterruptible(timeout: int) -> int:
    """Sleep for `timeout` ticks, or until woken. Context: sleeps.

    Source: kernel/time/timer.c:schedule_timeout_uninterruptible @6.1.192
    """
    set_current_state(TASK_UNINTERRUPTIBLE)
    return schedule_timeout(timeout)


def schedule_timeout_idle(timeout: int) -> int:
    """Sleep for `timeout` ticks, or until woken. Context: sleeps.

    Source: kernel/time/timer.c:schedule_timeout_idle @6.1.192
    """
    set_current_state(TASK_IDLE)
    return schedule_timeout(timeout)


def io_schedule_timeout(timeout: int) -> int:
    """Do as :func:`schedule_timeout`, of a task that waits for a device. Context: may sleep.

    Source: kernel/sched/core.c:io_schedule_timeout @6.1.192
    """
    return schedule_timeout(timeout)


def cond_resched() -> int:
    """Let others run that can; a microsecond passes. Context: may sleep.

    Source: include/linux/sched.h:cond_resched @6.1.192
    """
    sched = scheduler(current_kernel())
    sched.cond_resched()
    sched.raise_interrupts()
    return 0


def yield_() -> None:
    """Let others run that can (``yield()``, which is a word of Python). Context: may sleep.

    Source: kernel/sched/core.c:yield @6.1.192
    """
    scheduler(current_kernel()).cond_resched()


def cpu_relax() -> None:
    """Spin until the next interrupt has come. Context: any.

    Raises
    ------
    DeadlockError
        No interrupt will come.

    Source: arch/x86/include/asm/vdso/processor.h:cpu_relax @6.1.192
    """
    scheduler(current_kernel()).relax()


def wake_up_process(p: Task) -> int:
    """Make a sleeping task runnable; 1 if it slept. Context: any.

    Source: kernel/sched/core.c:wake_up_process @6.1.192
    """
    return int(scheduler(current_kernel()).wake_up(expect(p, Task, "the task")))
