# SPDX-License-Identifier: GPL-2.0-only
"""Arguments that C's compiler would refuse: something else than the structure that a function takes.

Source: include/linux/typecheck.h:typecheck @6.1.192
Differs: checked when the call is made, not when it is compiled.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["expect"]

T = TypeVar("T")


def expect(value: Any, kind: type[T], what: str) -> T:
    """Return `value` if it is a `kind`.

    Raises
    ------
    TypeError
        It is something else; `what` names it.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what} is {type(value).__name__}, not a {kind.__name__}")
    return value
