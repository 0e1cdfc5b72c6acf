# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for a time: asleep, or busy.

Source: include/linux/delay.h, kernel/time/timer.c @6.1.192
"""

from __future__ import annotations

import operator

from kmem.errors import UsageError
from kmem.mm.kernel import current_kernel
from kmem.mm.sched import scheduler, sleep_ticks
from kmem.mm.task import TASK_IDLE, TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE
from kmem.mm.timer import jiffies_to_msecs, msecs_to_jiffies

__all__ = [
    "fsleep",
    "mdelay",
    "msleep",
    "msleep_interruptible",
    "ndelay",
    "ssleep",
    "udelay",
    "usleep_idle_range",
    "usleep_range",
]


def _not_negative(number: int, what: str) -> int:
    if operator.index(number) < 0:
        raise UsageError(f"{number} {what} cannot be waited for")
    return number


def msleep(msecs: int) -> None:
    """Sleep for at least `msecs` milliseconds, up to two timer ticks longer. Context: sleeps.

    Source: kernel/time/timer.c:msleep @6.1.192
    """
    kernel = current_kernel()
    timeout = msecs_to_jiffies(_not_negative(msecs, "ms")) + 1
    while timeout:
        scheduler(kernel).set_current_state(TASK_UNINTERRUPTIBLE)
        timeout = sleep_ticks(kernel, timeout, f"msleep({msecs})")
    scheduler(kernel).raise_interrupts()


def msleep_interruptible(msecs: int) -> int:
    """Sleep for `msecs` milliseconds or until woken; return the milliseconds left. Context: sleeps.

    Source: kernel/time/timer.c:msleep_interruptible @6.1.192
    Differs: there are no signals; any wake-up ends the sleep.
    """
    kernel = current_kernel()
    scheduler(kernel).set_current_state(TASK_INTERRUPTIBLE)
    left = sleep_ticks(kernel, msecs_to_jiffies(_not_negative(msecs, "ms")) + 1, f"msleep_interruptible({msecs})")
    scheduler(kernel).raise_interrupts()
    return jiffies_to_msecs(left)


def ssleep(seconds: int) -> None:
    """Sleep for at least `seconds` seconds. Context: sleeps.

    Source: include/linux/delay.h:ssleep @6.1.192
    """
    msleep(seconds * 1000)


def _usleep(min_us: int, max_us: int, state: int) -> None:
    if not 0 <= operator.index(min_us) <= operator.index(max_us):
        raise UsageError(f"no time between {min_us} and {max_us} us")
    kernel = current_kernel()
    # nothing else wakes the CPU, so the sleep ends as late as it may
    scheduler(kernel).schedule(f"usleep_range({min_us}, {max_us})", max_us * 1000, state=state)
    scheduler(kernel).raise_interrupts()


def usleep_range(min: int, max: int) -> None:
    """Sleep for `min` to `max` microseconds. Context: sleeps.

    Source: kernel/time/timer.c:usleep_range_state @6.1.192
    """
    _usleep(min, max, TASK_UNINTERRUPTIBLE)


def usleep_idle_range(min: int, max: int) -> None:
    """Sleep for `min` to `max` microseconds. Context: sleeps.

    Source: include/linux/delay.h:usleep_idle_range @6.1.192
    """
    _usleep(min, max, TASK_IDLE)


def fsleep(usecs: int) -> None:
    """Wait for `usecs` microseconds in the way that fits: up to 10 busy, then asleep. Context: sleeps.

    Source: include/linux/delay.h:fsleep @6.1.192
    """
    if usecs <= 10:
        udelay(usecs)
    elif usecs <= 20000:
        usleep_range(usecs, 2 * usecs)
    else:
        msleep(-(-usecs // 1000))


def _delay(time_ns: int) -> None:
    sched = scheduler(current_kernel())
    sched.delay(time_ns)
    sched.raise_interrupts()


def ndelay(nsecs: int) -> None:
    """Keep the CPU busy for `nsecs` nanoseconds; interrupts come if they are on. Context: any.

    Source: include/asm-generic/delay.h:ndelay @6.1.192
    """
    _delay(_not_negative(nsecs, "ns"))


def udelay(usecs: int) -> None:
    """Keep the CPU busy for `usecs` microseconds; interrupts come if they are on. Context: any.

    Source: include/asm-generic/delay.h:udelay @6.1.192
    """
    _delay(_not_negative(usecs, "us") * 1000)


def mdelay(msecs: int) -> None:
    """Keep the CPU busy for `msecs` milliseconds; interrupts come if they are on. Context: any.

    Source: include/linux/delay.h:mdelay @6.1.192
    """
    _delay(_not_negative(msecs, "ms") * 1_000_000)
