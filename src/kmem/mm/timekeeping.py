# SPDX-License-Identifier: GPL-2.0-only
"""The machine's clock: virtual time that only moves when somebody lets it.

Source: kernel/time/timekeeping.c, include/linux/jiffies.h @6.1.192
Differs: time stands still while code runs; waiting moves it.
"""

from __future__ import annotations

from kmem.errors import UsageError

__all__ = ["HZ", "Clock"]

#: Timer ticks a second (CONFIG_HZ of the reference kernel).
HZ = 250

_NS_PER_SECOND = 1_000_000_000


class Clock:
    """Virtual time since boot.

    Attributes
    ----------
    time_ns : int
        Nanoseconds since boot.
    """

    def __init__(self, time_ns: int = 0) -> None:
        self.time_ns = time_ns

    @property
    def jiffies(self) -> int:
        """Timer ticks since boot."""
        return self.time_ns * HZ // _NS_PER_SECOND

    def advance(self, ns: int) -> None:
        """Let `ns` nanoseconds pass.

        Raises
        ------
        UsageError
            If `ns` is negative.
        """
        if ns < 0:
            raise UsageError(f"time does not run backwards ({ns} ns)")
        self.time_ns += ns
