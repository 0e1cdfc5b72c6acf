# SPDX-License-Identifier: GPL-2.0-only
"""A memory pool in the fewest words: what it must answer, given what its allocator answered.

The allocator's calls are replayed from a list: each is (flags, answer), and the
naive pool must make just these calls, in this order.
"""

from __future__ import annotations

from collections import deque
from typing import Any

GFP_KERNEL = 0xCC0
QUIET = 0x80000 | 0x10000 | 0x2000  # no reserves of the machine, no retry, no warning
DIRECT_RECLAIM, IO = 0x400, 0x40


class NaiveMempool:
    """The reserve as a list, the allocator as a list of answers."""

    def __init__(self, min_nr: int) -> None:
        self.min_nr = min_nr
        self.reserve: list[Any] = []
        self.calls: deque[tuple[int, Any]] = deque()
        self.given_back: list[Any] = []

    def ask(self, gfp: int) -> Any:
        expected, answer = self.calls.popleft()
        assert gfp == expected, f"the allocator was called with {expected:#x}, not {gfp:#x}"
        return answer

    def fill(self) -> bool:
        while len(self.reserve) < self.min_nr:
            element = self.ask(GFP_KERNEL)
            if element is None:
                return False
            self.reserve.append(element)
        return True

    def alloc(self, gfp: int) -> Any:
        """Return an element, or None where the caller has to wait or do without."""
        first = (gfp | QUIET) & ~(DIRECT_RECLAIM | IO)
        for flags in dict.fromkeys((first, gfp | QUIET)):
            element = self.ask(flags)
            if element is not None:
                return element
            if self.reserve:
                return self.reserve.pop()
        return None

    def free(self, element: Any) -> None:
        if len(self.reserve) < self.min_nr:
            self.reserve.append(element)
        else:
            self.given_back.append(element)

    def resize(self, min_nr: int) -> None:
        grows = min_nr > self.min_nr
        while not grows and len(self.reserve) > min_nr:
            self.given_back.append(self.reserve.pop())
        self.min_nr = min_nr
        if grows:
            self.fill()

    def destroy(self) -> None:
        while self.reserve:
            self.given_back.append(self.reserve.pop())
