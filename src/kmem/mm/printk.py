# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log.

Source: kernel/printk/printk.c @6.1.192
Differs: the log has no size limit, and no console rate limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kmem.mm.timekeeping import Clock

__all__ = ["KERN_ALERT", "KERN_DEBUG", "KERN_ERR", "KERN_INFO", "KERN_WARNING", "LogLine", "Printk"]

#: Log levels, as in include/linux/kern_levels.h.
KERN_ALERT = 1
KERN_ERR = 3
KERN_WARNING = 4
KERN_INFO = 6
KERN_DEBUG = 7


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log.

    Attributes
    ----------
    time_ns : int
        Machine time.
    level : int
        0 (emergency) to 7 (debug).
    text : str
        The line, without time stamp or line break.
    """

    time_ns: int
    level: int
    text: str

    def __str__(self) -> str:
        """Return the line as dmesg prints it, time in seconds first."""
        return f"[{self.time_ns // 1_000_000_000:5d}.{self.time_ns // 1000 % 1_000_000:06d}] {self.text}"


class Printk:
    """The log of one machine.

    Attributes
    ----------
    lines : list of LogLine
        Everything that was printed, oldest first.
    console : callable or None
        Called with each new line.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lines: list[LogLine] = []
        self.console: Callable[[LogLine], None] | None = None

    def printk(self, text: str, level: int = KERN_WARNING) -> None:
        """Print one or more lines. May be called in any context."""
        for line in text.splitlines() or [""]:
            entry = LogLine(self._clock.time_ns, level, line)
            self.lines.append(entry)
            if self.console is not None:
                self.console(entry)

    def dmesg(self) -> str:
        """Return the whole log as dmesg prints it."""
        return "".join(f"{line}\n" for line in self.lines)

    def text(self) -> str:
        """Return the whole log without time stamps."""
        return "".join(f"{line.text}\n" for line in self.lines)
