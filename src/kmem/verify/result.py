# SPDX-License-Identifier: GPL-2.0-only
"""What a comparison of the model with a recording came to.

Every kind of recording has its own checker in this package; all of them
answer with one :class:`Result` per recording file, so that the command line,
the JSON output and the tests need to know only this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kmem.errors import NotSupportedError

__all__ = ["BehaviourOnlyError", "Difference", "Result"]


class BehaviourOnlyError(NotSupportedError):
    """A recording that shows how a kernel behaves, and by its nature cannot be repeated operation by operation.

    What happened in it depends on something that is not in the recording, such
    as the moment at which another thread ran. Named by itself it is refused; among
    the recordings of a folder it is skipped, with its reason.
    """


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where model and recording disagree.

    Parameters
    ----------
    op : int or None
        Number of the operation as the recording counts it (``i``), or the
        number of the line for records that are no operation; None for a
        state dump as a whole.
    where : str
        What was compared, from the outside in: ``"zone Normal, node 0: wm_min"``.
    expected : object
        What the recorded kernel said. JSON-serialisable.
    got : object
        What the model said. JSON-serialisable.
    message : str
        The difference in words a kernel engineer can act on: arguments of
        the operation, and the state around it.
    """

    op: int | None
    where: str
    expected: Any
    got: Any
    message: str = ""

    def describe(self) -> str:
        """Return the difference as one paragraph of text, without a trailing newline."""
        place = self.where if self.op is None else f"operation {self.op}: {self.where}"
        text = f"{place}: expected {self.expected}, got {self.got}"
        return f"{text}\n{self.message}" if self.message else text

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON-serialisable keys and values."""
        return {
            "op": self.op,
            "where": self.where,
            "expected": self.expected,
            "got": self.got,
            "message": self.message,
        }


@dataclass(slots=True)
class Result:
    """The verdict on one recording.

    Parameters
    ----------
    name : str
        How the recording is called on the line that reports it.
    kind : str
        ``"pages"``, ``"slab"``, ``"mixed"``, ``"geometry"``, ``"zones"`` ...
    operations : int
        How many operations, or recorded answers, were compared.
    identical : int
        How many of them the model predicted exactly.
    end_state : bool or None
        Whether every state dump after the first was identical, list orders
        included; None where the recording has no such dump.
    differences : list of Difference
        The first differences in the order they were met. A checker may stop
        collecting, but never counts a differing operation as identical.
    notes : list of str
        What a reader should know: assumptions made for want of context
        files, inputs taken from the recording.
    """

    name: str
    kind: str
    operations: int = 0
    identical: int = 0
    end_state: bool | None = None
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether everything compared was identical; a recording without any answer does not hold."""
        return (
            self.operations > 0
            and self.identical == self.operations
            and self.end_state is not False
            and not self.differences
        )

    def summary(self) -> str:
        """Return the one-line verdict, ``NAME: 20000/20000 operations identical, end state identical``."""
        line = f"{self.name}: {self.identical}/{self.operations} operations identical"
        if self.end_state is None:
            return line
        return f"{line}, end state {'identical' if self.end_state else 'DIFFERS'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON-serialisable keys and values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "operations": self.operations,
            "identical": self.identical,
            "end_state": self.end_state,
            "held": self.held,
            "differences": [difference.to_dict() for difference in self.differences],
            "notes": list(self.notes),
        }
