# SPDX-License-Identifier: GPL-2.0-only
"""The answer to a sizing question, as a table and as JSON-serialisable values."""

from __future__ import annotations

import dataclasses
from typing import Any

from kmem.analysis.size import QUESTIONS, Sizing
from kmem.report.section import Section

__all__ = ["report_size", "size_to_dict"]

_SHOWN = ("failures", "atomic_failures", "peak_used_pages", "peak_slab_bytes")
_UNITS = {"min_free_kbytes": " kB", "mempool": " elements", "ram": " MiB", "order": "", "slab-order": ""}


def report_size(found: Sizing, *, source: str) -> list[Section]:
    """Return the answer, and the table of what was tried for it."""
    answer = ["none within the limits" if found.answer is None else f"{found.answer:,}{_UNITS[found.question]}"]
    if found.answer is not None and not found.steady:
        answer.append("not all larger values that were tried do: take more, and look at the table")
    if found.lucky and found.setting and found.question != "slab-order":
        answer.append(f"{found.lucky[0]:,} does, too, but by luck: larger values do not")
    rows = tuple(
        (trial.value, trial.holds, *(trial.figures.get(name) for name in _SHOWN), trial.reason)
        for trial in found.trials
    )
    return [
        Section(f"{source}: {QUESTIONS[found.question]}", lines=tuple(answer)),
        Section("Tried", (found.setting or "order", "does", *_SHOWN, "why not"), rows),
    ]


def size_to_dict(found: Sizing, *, source: str) -> dict[str, Any]:
    """Return the answer under the keys of ``docs/sweep.md``."""
    meaning = QUESTIONS[found.question]
    return {"trace": source, "meaning": meaning, **dataclasses.asdict(found), "steady": found.steady}
