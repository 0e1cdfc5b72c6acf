# SPDX-License-Identifier: GPL-2.0-only
"""Timers: functions that run in a softirq at a tick of the clock.

Timers hang in a wheel of levels that get coarser the farther away a timer is:
one that is due in more than 63 ticks is rounded up to 8, beyond 504 ticks to
64, and so on.  Even the nearest fire a tick after the one they name, never
before.  Timers of the same tick run those of coarse levels first, and within
a slot the one first that was put there last::

    level 0   |  1 tick each      up to   63 ticks away
    level 1   |  8 ticks each     up to  504
    level 2   | 64 ticks each     up to 4032
    ...

Source: kernel/time/timer.c, include/linux/jiffies.h @6.1.192
Differs: ticks are counted from 0 at boot, the kernel begins five minutes before a wrap.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import KernelBug, StateError, UsageError
from kmem.mm.argument import expect
from kmem.mm.dump_stack import dump_stack
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.softirq import TIMER_SOFTIRQ, call_in_interrupt
from kmem.mm.timekeeping import HZ

if TYPE_CHECKING:
    from typing import Protocol

    class _Sched(Protocol):
        softirqs: Any

        def add_event(self, time_ns: int, fn: Callable[[], object]) -> Any: ...
        def cancel_event(self, event: Any) -> None: ...


__all__ = [
    "DEFINE_TIMER",
    "HZ",
    "TIMER_DEFERRABLE",
    "TIMER_IRQSAFE",
    "TIMER_PINNED",
    "Timer",
    "add_timer",
    "del_timer",
    "del_timer_sync",
    "jiffies",
    "jiffies_to_msecs",
    "jiffies_to_usecs",
    "mod_timer",
    "mod_timer_pending",
    "msecs_to_jiffies",
    "timer_delete",
    "timer_delete_sync",
    "timer_pending",
    "timer_setup",
    "timer_shutdown",
    "timer_shutdown_sync",
    "usecs_to_jiffies",
]

TIMER_DEFERRABLE: Final = 0x00080000
TIMER_PINNED: Final = 0x00100000
TIMER_IRQSAFE: Final = 0x00200000

#: Nanoseconds of a tick.
TICK_NS: Final = 1_000_000_000 // HZ
#: "For ever", of functions that take a number of ticks.
MAX_SCHEDULE_TIMEOUT: Final = (1 << 63) - 1
#: Largest number of ticks that milliseconds are turned into.
MAX_JIFFY_OFFSET: Final = (MAX_SCHEDULE_TIMEOUT >> 1) - 1

_LEVEL_SHIFT: Final = 3
_LEVEL_SLOTS: Final = 64
_LEVELS: Final = 9
#: Ticks from which on a timer is one of level n + 1.
_LEVEL_END: Final = tuple((_LEVEL_SLOTS - 1) << (_LEVEL_SHIFT * level) for level in range(_LEVELS))
_WHEEL_MAX: Final = _LEVEL_END[-1] - (1 << (_LEVEL_SHIFT * (_LEVELS - 1)))


class Timer:
    """A timer (``struct timer_list``).

    Parameters
    ----------
    function : callable, optional
        Called with the timer, in softirq context.
    flags : int, optional
        ``TIMER_IRQSAFE``: called with interrupts off. Others have no effect.

    Attributes
    ----------
    expires : int
        The tick that it names.

    Notes
    -----
    Other attributes may be set at will: where C finds the structure around a timer, Python keeps what it needs on it.

    Source: include/linux/timer.h:struct timer_list @6.1.192
    """

    def __init__(self, function: Callable[[Timer], object] | None = None, flags: int = 0) -> None:
        self.function = function
        self.flags = flags
        self.expires = 0
        self._slot: list[Timer] | None = None
        self._place: tuple[int, int] | None = None
        self._prepared = function is not None


class Timers:
    """The timer wheel of one machine."""

    def __init__(self, kernel: Kernel, sched: _Sched) -> None:
        self._kernel = kernel
        self._sched = sched
        self._slots: dict[tuple[int, int], list[Timer]] = {}
        self._ticks: dict[int, Any] = {}
        self.running: Timer | None = None
        #: Timers of ``call_rcu()``.
        self.rcu_callbacks: list[Timer] = []
        sched.softirqs.handlers[TIMER_SOFTIRQ] = self._run_timers

    def place_of(self, expires: int) -> tuple[int, int]:
        """Return the tick at which a timer would fire, and its level.

        Source: kernel/time/timer.c:calc_wheel_index @6.1.192
        """
        now = self._kernel.clock.jiffies
        delta = expires - now
        if delta < 0:
            return now, 0
        level = bisect_right(_LEVEL_END, delta)
        if level == _LEVELS:
            level = _LEVELS - 1
            expires = now + _WHEEL_MAX
        shift = _LEVEL_SHIFT * level
        return ((expires >> shift) + 1) << shift, level

    def add(self, timer: Timer, expires: int) -> None:
        """Put a timer that is not pending into the wheel.

        Source: kernel/time/timer.c:enqueue_timer @6.1.192
        """
        timer.expires = expires
        timer._place = place = self.place_of(expires)
        slot = self._slots.setdefault(place, [])
        slot.insert(0, timer)
        timer._slot = slot
        tick = place[0]
        if tick not in self._ticks:
            # one that should have fired already does so at the next tick
            now = self._kernel.clock.jiffies
            when_ns = tick * TICK_NS if tick > now else (now + 1) * TICK_NS
            self._ticks[tick] = self._sched.add_event(when_ns, lambda: self._tick(tick))

    def remove(self, timer: Timer) -> bool:
        """Take a timer out of the wheel; False if it is in none.

        Source: kernel/time/timer.c:detach_if_pending @6.1.192
        """
        slot, timer._slot = timer._slot, None
        if slot is None:
            return False
        slot.remove(timer)
        place, timer._place = timer._place, None
        if not slot and place is not None and self._slots.get(place) is slot:
            del self._slots[place]
            tick = place[0]
            if not any((tick, level) in self._slots for level in range(_LEVELS)):
                self._sched.cancel_event(self._ticks.pop(tick))
        return True

    def _tick(self, tick: int) -> None:
        """In the interrupt of a tick: leave the timers to the softirq.

        Source: kernel/time/timer.c:run_local_timers @6.1.192
        """
        self._ticks.pop(tick, None)
        if any(place[0] <= tick for place in self._slots):
            self._sched.softirqs.raise_softirq(TIMER_SOFTIRQ)

    def _run_timers(self) -> None:
        """Run the timers that are due, tick by tick, coarse levels first.

        Source: kernel/time/timer.c:__run_timers, expire_timers @6.1.192
        """
        now = self._kernel.clock.jiffies
        while due := [place for place in self._slots if place[0] <= now]:
            tick = min(place[0] for place in due)
            slots = [self._slots.pop(place) for place in sorted(due, reverse=True) if place[0] == tick]
            for slot in slots:
                while slot:
                    timer = slot.pop(0)
                    timer._slot = timer._place = None
                    self._call(timer)

    def _call(self, timer: Timer) -> None:
        """Call a timer's function.

        Source: kernel/time/timer.c:call_timer_fn @6.1.192
        """
        kernel = self._kernel
        function = timer.function
        if function is None:  # shut down meanwhile
            return
        irqs = kernel.irqs_disabled
        if timer.flags & TIMER_IRQSAFE:
            kernel.irqs_disabled = True
        self.running = timer
        try:
            name = getattr(function, "__qualname__", repr(type(function).__name__))
            call_in_interrupt(kernel, f"timer {name}", function, timer)
        finally:
            self.running = None
            kernel.irqs_disabled = irqs


def _timers() -> Timers:
    kernel = current_kernel()
    if kernel.sched is None:
        raise StateError("this kernel has no scheduler, and so no timers")
    timers: Timers = kernel.sched.timers
    return timers


def jiffies() -> int:
    """Return the number of timer ticks since boot.

    Source: include/linux/jiffies.h:jiffies @6.1.192
    Differs: a function; in C it is a variable.
    """
    return current_kernel().clock.jiffies


def msecs_to_jiffies(m: int) -> int:
    """Return so many milliseconds in ticks, rounded up; a negative number is for ever.

    Source: include/linux/jiffies.h:_msecs_to_jiffies @6.1.192
    """
    if m & 0x80000000 or m < 0:
        return MAX_JIFFY_OFFSET
    return -(-m * HZ // 1000)


def usecs_to_jiffies(u: int) -> int:
    """Return so many microseconds in ticks, rounded up.

    Source: include/linux/jiffies.h:_usecs_to_jiffies @6.1.192
    """
    return -(-u * HZ // 1_000_000)


def jiffies_to_msecs(j: int) -> int:
    """Return so many ticks in milliseconds.

    Source: kernel/time/time.c:jiffies_to_msecs @6.1.192
    """
    return j * 1000 // HZ


def jiffies_to_usecs(j: int) -> int:
    """Return so many ticks in microseconds.

    Source: kernel/time/time.c:jiffies_to_usecs @6.1.192
    """
    return j * 1_000_000 // HZ


def timer_setup(timer: Timer, callback: Callable[[Timer], object], flags: int = 0) -> None:
    """Prepare a timer for use.

    Parameters
    ----------
    timer : Timer
    callback : callable
        Called with the timer, in softirq context: it must not sleep.
    flags : int
        ``TIMER_*``.

    Source: include/linux/timer.h:timer_setup @6.1.192
    """
    expect(timer, Timer, "the timer")
    if not callable(callback):
        raise UsageError(f"{callback!r} is no function that a timer could call")
    timer.function = callback
    timer.flags = flags
    timer._slot = timer._place = None
    timer._prepared = True


def DEFINE_TIMER(function: Callable[[Timer], object]) -> Timer:
    """Return a new timer.

    Source: include/linux/timer.h:DEFINE_TIMER @6.1.192
    """
    return Timer(function)


def timer_pending(timer: Timer) -> bool:
    """Whether a timer is going to fire. Context: any.

    Source: include/linux/timer.h:timer_pending @6.1.192
    """
    expect(timer, Timer, "the timer")
    return timer._slot is not None


def mod_timer(timer: Timer, expires: int) -> int:
    """Have a timer fire after tick `expires`, whether or not it is pending. Context: any.

    Returns
    -------
    int
        1 if it was pending, else 0.

    Source: kernel/time/timer.c:mod_timer @6.1.192
    """
    expect(timer, Timer, "the timer")
    expires = operator.index(expires)
    if not timer._prepared:
        raise UsageError("the timer has not been prepared", remedy="call timer_setup() first")
    if timer.function is None:
        return 0  # shut down for good
    timers = _timers()
    if timer._slot is not None:
        if timer.expires == expires or timers.place_of(expires) == timer._place:
            # the same slot, and the same place in it
            timer.expires = expires
            return 1
        timers.remove(timer)
        timers.add(timer, expires)
        return 1
    timers.add(timer, expires)
    return 0


def mod_timer_pending(timer: Timer, expires: int) -> int:
    """Change the time of a timer if it is pending; 1 if it was. Context: any.

    Source: kernel/time/timer.c:mod_timer_pending @6.1.192
    """
    return mod_timer(timer, expires) if timer_pending(timer) else 0


def add_timer(timer: Timer) -> None:
    """Have a timer fire after ``timer.expires``; it must not be pending. Context: any.

    Raises
    ------
    KernelBug
        It is pending.

    Source: kernel/time/timer.c:add_timer @6.1.192
    """
    expect(timer, Timer, "the timer")
    kernel = current_kernel()
    if timer_pending(timer):
        kernel.report(KernelBug("\n".join(["kernel BUG at kernel/time/timer.c!", *dump_stack(kernel)])))
    mod_timer(timer, timer.expires)


def timer_delete(timer: Timer) -> int:
    """Take a timer back; 1 if it was pending. Context: any.

    Source: kernel/time/timer.c:timer_delete @6.1.192
    """
    expect(timer, Timer, "the timer")
    return int(_timers().remove(timer))


def timer_delete_sync(timer: Timer) -> int:
    """Take a timer back, and be sure that its function does not run; 1 if it was pending.

    Context: not inside the timer's own function, nor in a hardware interrupt.

    Raises
    ------
    KernelBug
        Called by the timer's own function: it would wait for itself.

    Source: kernel/time/timer.c:timer_delete_sync @6.1.192
    Differs: functions of timers never run while somebody else does, so there is nothing to wait for.
    """
    expect(timer, Timer, "the timer")
    kernel = current_kernel()
    if _timers().running is timer:
        text = f"timer: {getattr(timer.function, '__qualname__', 'fn')} waits for its own end"
        kernel.report(KernelBug("\n".join([text, *dump_stack(kernel)])))
    return timer_delete(timer)


def timer_shutdown(timer: Timer) -> int:
    """Take a timer back for good: it can not be started again without ``timer_setup()``. Context: any.

    Source: kernel/time/timer.c:timer_shutdown @6.1.192
    """
    was_pending = timer_delete(timer)
    timer.function = None
    return was_pending


def timer_shutdown_sync(timer: Timer) -> int:
    """Do the same, and be sure that the function does not run.

    Source: kernel/time/timer.c:timer_shutdown_sync @6.1.192
    """
    was_pending = timer_delete_sync(timer)
    timer.function = None
    return was_pending


#: The older names.
del_timer = timer_delete
del_timer_sync = timer_delete_sync
