# SPDX-License-Identifier: GPL-2.0-only
"""How often a message may be printed.

Source: lib/ratelimit.c, include/linux/ratelimit_types.h @6.1.192
"""

from __future__ import annotations

from kmem.mm.timekeeping import Clock

__all__ = ["DEFAULT_RATELIMIT_BURST", "DEFAULT_RATELIMIT_INTERVAL_NS", "Ratelimit"]

DEFAULT_RATELIMIT_INTERVAL_NS = 5_000_000_000
DEFAULT_RATELIMIT_BURST = 10


class Ratelimit:
    """At most `burst` messages in `interval_ns` of machine time.

    Attributes
    ----------
    missed : int
        Messages held back since the interval began.
    """

    def __init__(self, interval_ns: int = DEFAULT_RATELIMIT_INTERVAL_NS, burst: int = DEFAULT_RATELIMIT_BURST) -> None:
        self.interval_ns = interval_ns
        self.burst = burst
        self.missed = 0
        self._printed = 0
        self._begin_ns: int | None = None

    def allow(self, clock: Clock) -> bool:
        """Whether a message may be printed now; it counts as printed then.

        Source: lib/ratelimit.c:___ratelimit @6.1.192
        Differs: what was held back is only counted; no line says so afterwards.
        """
        now = clock.time_ns
        if self._begin_ns is None or now > self._begin_ns + self.interval_ns:
            self._begin_ns = now
            self._printed = 0
            self.missed = 0
        if self._printed < self.burst:
            self._printed += 1
            return True
        self.missed += 1
        return False
