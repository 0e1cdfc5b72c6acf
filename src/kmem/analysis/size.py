# SPDX-License-Identifier: GPL-2.0-only
"""Sizing: the smallest or best setting with which a trace does what is asked, found by replaying it.

Every answer is one that a replay has given.  More of a setting is not always
better: where memory is short, what is refused depends on how it is fragmented,
and a few kilobytes more may turn ten refusals into a hundred.  So there can be a
value that does by luck, with neighbours that do not.  The search halves until
the answer does and the next smaller does not, and then tries larger values, at
growing distances up to twice the answer; where one does not, it goes on from
there.  Values between those that were tried are not known.  All trials are told.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

from kmem.analysis.compare import figures
from kmem.analysis.summary import Analysis, analyse
from kmem.errors import ConfigError, UsageError
from kmem.machine.description import PRESETS
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.refusal import refusal
from kmem.replay.prepared import prepare
from kmem.replay.replay import Replay
from kmem.replay.variant import Variant

__all__ = ["QUESTIONS", "Sizing", "Trial", "size"]

#: What can be asked, and what each question means.
QUESTIONS = {
    "min_free_kbytes": "smallest vm.min_free_kbytes with which no GFP_ATOMIC request is refused",
    "mempool": "smallest memory pool in front of a cache that no request sleeps for or is refused by",
    "ram": "smallest memory, in MiB, with which no request is refused",
    "order": "largest order that a GFP_KERNEL request still gets after the trace",
    "slab-order": "order of a cache's slabs with the fewest requests refused, and then the fewest pages of slabs",
}

_MIB = 1 << 20
_MAX_POOL = 1 << 16
_MAX_TRIALS = 300
_COARSE = 1 << 10  #: beyond it a search goes on in steps of an eighth, not of as much again
_MAX_RAM_MIB = 1 << 16
_MORE_RAM = 16  #: times the memory of the machine, at the most
_MAX_SLAB_ORDER = 5
_MAX_ORDER = 11
_MAX_MIN_FREE_KB = 262144  #: what the kernel itself would choose at the most


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One replay of a search.

    Attributes
    ----------
    value : int
        The setting.
    holds : bool
        Whether it does what is asked.
    figures : dict of str to int
        See :data:`kmem.analysis.compare.FIGURES`; empty if the machine could not be had.
    reason : str
        Why it does not, empty if it does.
    """

    value: int
    holds: bool
    figures: dict[str, int]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Sizing:
    """The answer to a sizing question.

    Attributes
    ----------
    question : str
        A key of :data:`QUESTIONS`.
    setting : str
        What was varied, as ``kmem replay --set`` takes it; empty for ``order``.
    answer : int or None
        None: nothing within the limits does.
    trials : tuple of Trial
        What was tried, ascending.
    """

    question: str
    setting: str
    answer: int | None
    trials: tuple[Trial, ...]

    @property
    def steady(self) -> bool:
        """Whether all values that were tried from the answer on, up to twice of it, do."""
        if self.answer is None:
            return False
        return all(trial.holds for trial in self.trials if self.answer <= trial.value <= 2 * self.answer)

    @property
    def lucky(self) -> tuple[int, ...]:
        """Smaller values that do, while a value between them and the answer does not."""
        if self.answer is None:
            return ()
        return tuple(trial.value for trial in self.trials if trial.holds and trial.value < self.answer)


def size(
    trace: str,
    question: str,
    *,
    base: Variant | None = None,
    cache: str | None = None,
    seed: int = 0,
    told: Callable[[Trial], None] | None = None,
) -> Sizing:
    """Answer a sizing question by replays of a trace.

    Parameters
    ----------
    trace : str
        Path of the trace.
    question : str
        A key of :data:`QUESTIONS`.
    base : Variant, optional
        What all replays have in common.
    cache : str, optional
        The cache, for ``mempool`` and ``slab-order``.
    seed : int
        Seed of every replay.
    told : callable, optional
        Called with each trial.

    Raises
    ------
    UsageError
        If there is no such question, or it needs or has no cache.
    InputError, ConfigError
        If the trace cannot be read, or the machine not be booted at all.

    Notes
    -----
    Complexity: O(log of the range) replays.
    """
    if question not in QUESTIONS:
        raise UsageError(f"no question {question!r}", remedy=f"known: {', '.join(QUESTIONS)}")
    if (cache is not None) != (question in ("mempool", "slab-order")):
        wants = "needs a cache" if cache is None else "is about no cache"
        raise UsageError(f"the question {question} {wants}", remedy="give --cache for mempool and slab-order")
    if trace == "-":
        raise UsageError("a search replays its trace many times", remedy="give a file")
    if question == "ram" and base is not None and base.machine is not None and base.machine not in PRESETS:
        raise UsageError("the memory of a machine described in full", remedy="give a preset, or no --machine")
    search = _Search(trace, base if base is not None else Variant(), seed, told)
    if question == "order":
        return _largest_order(search)
    if question == "slab-order":
        return _slab_order(search, str(cache))
    first = search.run([])
    managed_kb = analyse(first).memory.managed * 4
    if question == "min_free_kbytes":
        # below 128 the kernel does not go, and with half of memory kept back nothing else would run
        limits = 128, max(128, min(_MAX_MIN_FREE_KB, managed_kb // 2))
        return search.smallest(question, "vm.min_free_kbytes", *limits, _no_atomic_failure)
    if question == "mempool":
        return search.smallest(question, f"mempool.{cache}", 0, _MAX_POOL, _pool_suffices)
    top = max(1, first.machine.description.memory_bytes + _MIB - 1 >> 20)
    limit = min(_MORE_RAM * top, max(top, _MAX_RAM_MIB))
    while top < limit and not search.trial("ram", top, _no_failure, unit="M").holds:
        top = min(2 * top, limit)
    return search.smallest(question, "ram", 1, top, _no_failure, unit="M")


def _no_atomic_failure(analysis: Analysis) -> str:
    count = analysis.requests.atomic_failures
    return f"{count:,} GFP_ATOMIC requests refused" if count else ""


def _no_failure(analysis: Analysis) -> str:
    count = analysis.requests.failures
    return f"{count:,} requests refused" if count else ""


def _pool_suffices(analysis: Analysis) -> str:
    slept = sum(pool.slept for pool in analysis.changes.mempools)
    refused = sum(pool.refused for pool in analysis.changes.mempools)
    return f"{slept:,} requests would sleep, {refused:,} refused" if slept or refused else ""


class _Search:
    """Replays of one trace with one setting varied, each value once."""

    def __init__(self, trace: str, base: Variant, seed: int, told: Callable[[Trial], None] | None) -> None:
        self.trace, self.base, self.seed, self.told = trace, base, seed, told
        self.prepared = prepare(trace)
        self.trials: dict[int, Trial] = {}

    def run(self, settings: list[str]) -> Replay:
        return self.base.with_settings(settings).replay(self.trace, seed=self.seed, prepared=self.prepared)

    def trial(self, setting: str, value: int, fault: Callable[[Analysis], str], unit: str = "") -> Trial:
        if value not in self.trials:
            try:
                gc.collect()  # a machine is full of cycles; the next one takes its memory
                analysis = analyse(self.run([f"{setting}={value}{unit}"]))
            except ConfigError as error:  # no such machine boots: too small, or without memory for the pool
                if not value:  # but it is not for want of memory that a pool of nothing cannot be had
                    raise
                found = Trial(value, False, {}, str(error))
            else:
                reason = fault(analysis)
                found = Trial(value, not reason, figures(analysis), reason)
            self.trials[value] = found
            if self.told is not None:
                self.told(found)
        return self.trials[value]

    def smallest(
        self, question: str, setting: str, low: int, high: int, fault: Callable[[Analysis], str], unit: str = ""
    ) -> Sizing:
        """Search `low` to `high` for the smallest value that does, as all do that are tried up to twice of it."""

        def does(value: int) -> bool:
            return self.trial(setting, value, fault, unit).holds

        answer: int | None = low if does(low) else self._next(low, high, does)
        while answer is not None and len(self.trials) < _MAX_TRIALS:
            above = [answer + (1 << bit) for bit in range(answer.bit_length())]
            failing = [value for value in above if value <= min(2 * answer, high) and not does(value)]
            if not failing:
                break
            answer = self._next(failing[-1], high, does)
        return self.result(question, setting, answer)

    def _next(self, low: int, high: int, does: Callable[[int], bool]) -> int | None:
        """Halve from `low`, which does not, to what does above it; that is come to in growing steps."""
        step = max(1, low) if low < _COARSE else low // 8
        while low < high and not does(min(low + step, high)):
            low, step = min(low + step, high), 2 * step
        if low >= high:
            return None
        found = min(low + step, high)
        while found - low > 1:
            middle = (low + found) // 2
            if does(middle):
                found = middle
            else:
                low = middle
        return found

    def result(self, question: str, setting: str, answer: int | None) -> Sizing:
        trials = tuple(self.trials[value] for value in sorted(self.trials))
        return Sizing(question, setting, answer, trials)


def _largest_order(search: _Search) -> Sizing:
    """Ask for blocks of all orders, the largest first: what is asked for and given back leaves a larger one whole."""
    run = search.run([])
    numbers = figures(analyse(run))
    allocator = run.machine.page_alloc
    for order in reversed(range(_MAX_ORDER)):
        reason = refusal(allocator, GFP_KERNEL, order)[1]
        pfn = allocator.alloc_pages(GFP_KERNEL, order)
        if pfn >= 0:
            allocator.free_pages(pfn, order)
        search.trials[order] = Trial(order, pfn >= 0, numbers, "" if pfn >= 0 else reason)
    return search.result("order", "", max((n for n, trial in search.trials.items() if trial.holds), default=None))


def _slab_order(search: _Search, cache: str) -> Sizing:
    base = analyse(search.run([]))
    usage = {each.name: each for each in base.caches}
    if cache not in usage or cache.startswith(("kmalloc-", "dma-kmalloc-")):
        raise ConfigError(
            f"the order of {cache!r} cannot be tried",
            remedy="name a cache of the trace; those of kmalloc follow slub_min_order and slub_max_order",
        )
    smallest = max(0, (usage[cache].size_bytes - 1).bit_length() - 12)
    setting = f"slab_order.{cache}"
    tried = [search.trial(setting, order, lambda _: "") for order in range(smallest, _MAX_SLAB_ORDER + 1)]
    best = min((trial for trial in tried if trial.holds), key=_slab_cost, default=None)
    return search.result("slab-order", setting, best.value if best is not None else None)


def _slab_cost(trial: Trial) -> tuple[Any, ...]:
    return trial.figures["failures"], trial.figures["peak_slab_bytes"], trial.value
