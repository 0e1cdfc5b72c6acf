# SPDX-License-Identifier: GPL-2.0-only
"""Verification of mempool recordings.

The model starts with no pools, repeats each operation and must name the
element that was returned, and hold the recorded reserve, in its order, after
it.  For pools whose allocator was recorded (kind 3) it must make the recorded
calls, with the recorded flags, in their order.

What a recording tells and nothing could predict: what the pool's allocator
answered, and when another task freed an element that a request slept for.  For
pools of the kernel's own allocators, whose calls are not recorded, the answers
are what the operation shows: an element that is not in the reserve came from
the allocator, one that is means that the allocator failed.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Final

from kmem.errors import InputError, StateError
from kmem.machine.records import Record, number, read_records
from kmem.mm import gfp as flag
from kmem.mm.mempool import (
    Mempool,
    mempool_alloc,
    mempool_create,
    mempool_destroy,
    mempool_free,
    mempool_resize,
)
from kmem.profile import format_gfp
from kmem.verify.result import Difference, Result

__all__ = ["verify_mempool"]

MAX_DIFFERENCES = 20
_RECORDED: Final = 3
_MAY_SLEEP: Final = flag.__GFP_DIRECT_RECLAIM
_CALLS = frozenset({"mp_alloc_fn", "mp_free_fn", "mp_delayed_free"})
_IGNORED = frozenset({"c", "cf", "x", "e", "skip", "L", "U", "Z"})
_NULL = "0x0"


def verify_mempool(path: Path, *, stop_at_first: bool = False) -> Result:
    """Check one mempool recording against the model.

    Parameters
    ----------
    path : pathlib.Path
        A recording with ``p``, ``q``, ``Q``, ``R`` and ``y`` operations.
    stop_at_first : bool, optional
        Give up at the first difference.

    Returns
    -------
    Result
        One operation counted for each of the five kinds above; there is no end state beside theirs.

    Raises
    ------
    InputError
        If the file is damaged, or holds what a mempool recording cannot hold.
    """
    checker = _Checker(path)
    records = deque(read_records(path))
    calls: list[Record] = []
    while records and not (stop_at_first and checker.result.differences):
        line, record = records.popleft()
        try:
            if record.get("t") in _CALLS:
                calls.append(record)
            elif "op" in record:
                if record["op"] == "y":
                    # The reserve is given back after the line has been written.
                    calls += _calls_of_destroy(records, record["pool"])
                checker.step(record, calls)
                calls = []
        except (KeyError, TypeError, ValueError, InputError) as error:
            if isinstance(error, InputError):
                raise error.at(file=path, line=line) from None
            what = f"a record without {error}" if isinstance(error, KeyError) else f"an unusable record: {error}"
            raise InputError(what, file=path, line=line) from None
    return checker.result


def _calls_of_destroy(records: deque[tuple[int, Record]], pool: Any) -> list[Record]:
    calls = []
    while records and records[0][1].get("t") == "mp_free_fn" and records[0][1].get("pool") == pool:
        calls.append(records.popleft()[1])
    return calls


class _Checker:
    """The pools of a recording, and what is held of them."""

    def __init__(self, path: Path) -> None:
        self.result = Result(f"{path.parent.name}/{path.name.removesuffix('.gz').removesuffix('.jsonl')}", "mempool")
        self.pools: dict[int, Mempool] = {}
        self.kinds: dict[int, int] = {}
        self.held: dict[int, tuple[int, str]] = {}
        self.calls: deque[Record] = deque()
        self.answers: deque[str | None] = deque()
        self.strayed = ""

    def step(self, record: Record, calls: list[Record]) -> None:
        """Repeat one operation, and compare what it did."""
        op = record["op"]
        if op not in ("p", "q", "Q", "R", "y"):
            if op not in _IGNORED:
                raise InputError(f"operation {op!r} does not belong in a mempool recording")
            return
        pool_id = number(record, "pool")
        if op != "p" and pool_id not in self.pools:
            raise InputError(f"operation {op!r} on pool {pool_id}, which the recording does not create")
        self.calls = deque(calls)
        self.strayed = ""
        self.result.operations += 1
        try:
            got = self._operation(op, pool_id, record)
        except StateError as error:
            got = {"operation": str(error)}
        if self.calls and not self.strayed:
            self.strayed = f"no further call, where the kernel had {_call(self.calls[0])}"
        self._compare(record, pool_id, got)

    def _operation(self, op: str, pool_id: int, record: Record) -> Record:
        """Carry out an operation; return the fields of the model's answer."""
        if op == "p":
            return self._create(pool_id, record)
        pool = self.pools[pool_id]
        got: Record = {}
        if op == "q":
            got["elem"] = self._alloc(pool_id, pool, record)
        elif op == "Q":
            slot = number(record, "slot")
            if slot not in self.held:
                raise StateError(f"nothing in slot {slot}")
            owner, element = self.held.pop(slot)
            got |= {"elem": element, "pool": owner}
            mempool_free(element, self.pools[owner])
        elif op == "R":
            self._expect(pool_id, record["elements"][pool.curr_nr :], number(record, "min_nr") - pool.curr_nr)
            got["ret"] = mempool_resize(pool, number(record, "new_min"))
        got |= {"min_nr": pool.min_nr, "curr_nr": pool.curr_nr, "elements": list(pool.elements)}
        if op == "y":
            mempool_destroy(self.pools.pop(pool_id))
        return got

    def _create(self, pool_id: int, record: Record) -> Record:
        if pool_id in self.pools:
            raise InputError(f"pool {pool_id} is created twice")
        kind = self.kinds[pool_id] = number(record, "kind")
        min_nr = number(record, "asked_min")
        self._expect(pool_id, record.get("elements", ()), min_nr)
        pool = mempool_create(min_nr, self._alloc_fn, self._free_fn, pool_id, wait=self._wait)
        if pool is None:
            return {"ok": 0, "kind": kind}
        self.pools[pool_id] = pool
        return {"ok": 1, "min_nr": pool.min_nr, "curr_nr": pool.curr_nr, "elements": list(pool.elements)}

    def _alloc(self, pool_id: int, pool: Mempool, record: Record) -> str:
        gfp, wanted = number(record, "gfp"), record["elem"]
        if not isinstance(wanted, str):
            raise InputError(f"field 'elem' is no address: {wanted!r}")
        self._expect(pool_id, () if wanted == _NULL or wanted in pool.elements else (wanted,), 1)
        element = mempool_alloc(pool, gfp)
        self._late_free()
        if element is None:
            return _NULL
        if any(element == other for _, other in self.held.values()) or element in pool.elements:
            raise InputError(f"the allocator of pool {pool_id} returns {element}, which is in use")
        self.held[number(record, "slot")] = (pool_id, element)
        return str(element)

    # ------------------------------------------------------------ the pools' allocators

    def _expect(self, pool_id: int, given: Any, wanted: int) -> None:
        """Note what an allocator without recorded calls answers: the elements given, then None."""
        if self.kinds[pool_id] != _RECORDED:
            self.answers = deque([*given][: max(wanted, 0)])

    def _alloc_fn(self, gfp: int, pool_id: int) -> str | None:
        if self.kinds[pool_id] != _RECORDED:
            return self.answers.popleft() if self.answers else None
        call = self._next_call({"t": "mp_alloc_fn", "pool": pool_id, "gfp": f"{gfp:#x}"})
        answer = call.get("ret", _NULL)
        return None if answer == _NULL else str(answer)

    def _free_fn(self, element: str, pool_id: int) -> None:
        if self.kinds[pool_id] == _RECORDED:
            self._next_call({"t": "mp_free_fn", "pool": pool_id, "elem": element})

    def _next_call(self, got: Record) -> Record:
        """Compare a call that the model makes with the next recorded one, which is returned."""
        if self.strayed:
            return {}
        if not self.calls:
            self.strayed = f"{_call(got)}, where the kernel made no call"
            return {}
        call = self.calls.popleft()
        if any(call.get(name) != value for name, value in got.items()):
            self.strayed = f"{_call(got)}, where the kernel had {_call(call)}"
        return call

    def _wait(self, pool: Mempool) -> None:
        """Sleep: what woke the kernel's request is recorded, a time-out is not."""
        if self.strayed or not self.calls:
            raise StateError("the request would sleep, and nothing is recorded that wakes it")
        if self.calls[0].get("t") == "mp_delayed_free":
            self._free_of_another_task()

    def _late_free(self) -> None:
        """Do what another task did after the request had been answered."""
        if self.calls and self.calls[0].get("t") == "mp_delayed_free":
            self._free_of_another_task()

    def _free_of_another_task(self) -> None:
        call = self.calls.popleft()
        owner, element = self.held.pop(number(call, "slot"), (-1, ""))
        if element != call.get("elem"):
            raise InputError(f"another task frees {call.get('elem')} of slot {call.get('slot')}, which is not there")
        mempool_free(element, self.pools[owner])

    # ------------------------------------------------------------ comparison

    def _compare(self, record: Record, pool_id: int, got: Record) -> None:
        wrong: dict[str, tuple[Any, Any]]
        if "operation" in got:
            wrong = {"operation": ("done", got["operation"])}
        else:
            wrong = {name: (record.get(name), value) for name, value in got.items() if record.get(name) != value}
        if self.strayed:
            wrong["calls of the allocator"] = ("the recorded ones", self.strayed)
        if not wrong:
            self.result.identical += 1
        elif len(self.result.differences) < MAX_DIFFERENCES:
            self.result.differences.append(
                Difference(
                    record.get("i"),
                    ", ".join(wrong),
                    ", ".join(f"{name} {pair[0]}" for name, pair in wrong.items()),
                    ", ".join(f"{name} {pair[1]}" for name, pair in wrong.items()),
                    self._describe(record, pool_id),
                )
            )

    def _describe(self, record: Record, pool_id: int) -> str:
        op = record["op"]
        gfp = number(record, "gfp") if op == "q" else 0
        text = {
            "p": f"mempool_create({record.get('asked_min')}, kind {record.get('kind')})",
            "q": f"mempool_alloc({format_gfp(gfp)} = {gfp:#x}), which may{'' if gfp & _MAY_SLEEP else ' not'} sleep",
            "Q": f"mempool_free({record.get('elem')})",
            "R": f"mempool_resize({record.get('new_min')})",
            "y": "mempool_destroy()",
        }[op]
        pool = self.pools.get(pool_id)
        if pool is None:
            return f"{text} of pool {pool_id}"
        return f"{text} of pool {pool_id}, which holds {pool.curr_nr} of {pool.min_nr}: {' '.join(pool.elements)}"


def _call(call: Record) -> str:
    """Return a call of a pool's allocator in words."""
    arguments = ", ".join(f"{name} {call[name]}" for name in ("pool", "slot", "gfp", "elem") if name in call)
    return f"{call.get('t')}({arguments})"
