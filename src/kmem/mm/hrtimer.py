# SPDX-License-Identifier: GPL-2.0-only
"""High-resolution timers: functions that run in a hardware interrupt, at a nanosecond.

Source: kernel/time/hrtimer.c, include/linux/hrtimer.h @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kmem.errors import UsageError
from kmem.mm.argument import expect
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.sched import scheduler

__all__ = [
    "CLOCK_MONOTONIC",
    "HRTIMER_MODE_ABS",
    "HRTIMER_MODE_REL",
    "HRTIMER_NORESTART",
    "HRTIMER_RESTART",
    "Hrtimer",
    "hrtimer_active",
    "hrtimer_cancel",
    "hrtimer_forward_now",
    "hrtimer_init",
    "hrtimer_start",
    "ktime_get",
]

CLOCK_MONOTONIC: Final = 1
HRTIMER_MODE_ABS: Final = 0
HRTIMER_MODE_REL: Final = 1
HRTIMER_NORESTART: Final = 0
HRTIMER_RESTART: Final = 1


class Hrtimer:
    """A high-resolution timer (``struct hrtimer``).

    Attributes
    ----------
    function : callable or None
        Called with the timer, in hardirq context; returns ``HRTIMER_RESTART`` to be called again at ``expires_ns``.
    expires_ns : int
        Machine time.

    Source: include/linux/hrtimer.h:struct hrtimer @6.1.192
    """

    def __init__(self) -> None:
        self.function: Callable[[Any], int | None] | None = None
        self.expires_ns = 0
        self._event: Any = None


def ktime_get() -> int:
    """Return the machine time in nanoseconds. Context: any.

    Source: kernel/time/timekeeping.c:ktime_get @6.1.192
    """
    return current_kernel().clock.time_ns


def hrtimer_init(timer: Hrtimer, clock_id: int, mode: int) -> None:
    """Prepare a timer; its ``function`` is then to be set. Context: any.

    Source: kernel/time/hrtimer.c:hrtimer_init @6.1.192
    """
    expect(timer, Hrtimer, "the timer")
    if clock_id != CLOCK_MONOTONIC:
        raise UsageError(f"clock {clock_id}", remedy="there is only CLOCK_MONOTONIC")
    timer.__init__()  # type: ignore[misc]


def hrtimer_start(timer: Hrtimer, tim: int, mode: int) -> None:
    """Have a timer fire at `tim` nanoseconds, or after them with ``HRTIMER_MODE_REL``. Context: any.

    Source: include/linux/hrtimer.h:hrtimer_start @6.1.192
    """
    expect(timer, Hrtimer, "the timer")
    if timer.function is None:
        raise UsageError("the timer has no function", remedy="set timer.function")
    kernel = current_kernel()
    hrtimer_cancel(timer)
    timer.expires_ns = tim + (kernel.clock.time_ns if mode & HRTIMER_MODE_REL else 0)
    _arm(kernel, timer)


def _arm(kernel: Kernel, timer: Hrtimer) -> None:
    timer._event = scheduler(kernel).add_event(timer.expires_ns, lambda: _fire(kernel, timer))


def _fire(kernel: Kernel, timer: Hrtimer) -> None:
    """Call the timer's function, and start the timer again if it says so.

    Source: kernel/time/hrtimer.c:__run_hrtimer @6.1.192
    """
    timer._event = None
    if timer.function is None:
        return
    if timer.function(timer) == HRTIMER_RESTART and timer._event is None:
        if timer.expires_ns <= kernel.clock.time_ns:
            raise UsageError("the timer restarts at a time that is over", remedy="call hrtimer_forward_now()")
        _arm(kernel, timer)


def hrtimer_cancel(timer: Hrtimer) -> int:
    """Take a timer back; 1 if it was going to fire. Context: any.

    Source: kernel/time/hrtimer.c:hrtimer_cancel @6.1.192
    """
    expect(timer, Hrtimer, "the timer")
    event, timer._event = timer._event, None
    if event is None:
        return 0
    scheduler(current_kernel()).cancel_event(event)
    return 1


def hrtimer_active(timer: Hrtimer) -> bool:
    """Whether a timer is going to fire. Context: any.

    Source: kernel/time/hrtimer.c:hrtimer_active @6.1.192
    """
    expect(timer, Hrtimer, "the timer")
    return timer._event is not None


def hrtimer_forward_now(timer: Hrtimer, interval: int) -> int:
    """Move a timer's time on by whole intervals until it lies ahead; return how many. Context: any.

    Source: include/linux/hrtimer.h:hrtimer_forward_now @6.1.192
    """
    expect(timer, Hrtimer, "the timer")
    if interval <= 0:
        raise UsageError(f"an interval of {interval} ns")
    late_ns = current_kernel().clock.time_ns - timer.expires_ns
    if late_ns < 0:
        return 0
    overruns = late_ns // interval + 1
    timer.expires_ns += overruns * interval
    return overruns
