# SPDX-License-Identifier: GPL-2.0-only
"""A sweep's cells and its Pareto front, as tables and as JSON-serialisable values."""

from __future__ import annotations

from typing import Any

from kmem.analysis.sweep import GOALS, Sweep
from kmem.report.section import Section

__all__ = ["report_sweep", "sweep_to_dict"]

_SHOWN = ("failures", "atomic_failures", "peak_used_pages", "peak_slab_bytes", "fallbacks", "largest_free_order")
_MOST_ROWS = 60
_PLOT = (56, 14)  #: columns and lines


def report_sweep(done: Sweep) -> list[Section]:
    """Return the table of all cells, the Pareto front of each trace, and its plot."""
    names = [name for name, _ in done.axes]
    head = f"{len(done.rows)} cells: {done.computed} computed, {done.kept} kept from before"
    sections = [Section(head, ("trace", *names, *_SHOWN, "best"), _cells(done, names), _left(done))]
    errors = [row for row in done.rows if row["error"]]
    if errors:
        lines = tuple(f"{_said(row, names)}: {row['error']}" for row in errors[:_MOST_ROWS])
        sections.append(Section("Cells without a result", lines=lines))
    for trace in dict.fromkeys(row["trace"] for row in done.rows):
        rows = [row for row in done.rows if row["trace"] == trace and not row["error"]]
        front = sorted((row for row in rows if row["pareto"]), key=lambda row: [row[goal] for goal in GOALS])
        if front:
            table = tuple((*(row[name] for name in names), *(row[goal] for goal in GOALS)) for row in front)
            goals = ", ".join((*GOALS, "ram") if "ram" in names else GOALS)
            title = f"{trace}: no other setting is as good in all of {goals}, and better in one"
            sections.append(Section(title, (*names, *GOALS), table))
            sections.append(Section("most pages in use, against requests refused (# on the front)", lines=_plot(rows)))
    return sections


def _cells(done: Sweep, names: list[str]) -> tuple[tuple[object, ...], ...]:
    return tuple(
        (row["trace"], *(row[name] for name in names), *(row[name] for name in _SHOWN), "*" if row["pareto"] else "")
        for row in done.rows[:_MOST_ROWS]
    )


def _left(done: Sweep) -> tuple[str, ...]:
    left = len(done.rows) - _MOST_ROWS
    return (f"and {left} more cells; -o and --json keep all",) if left > 0 else ()


def _said(row: dict[str, Any], names: list[str]) -> str:
    return f"{row['trace']}, {', '.join(f'{name}={row[name]}' for name in names)}"


def _plot(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Points of the cells: failures upwards, pages in use to the right; those of the front on top."""
    width, height = _PLOT
    across = [row["peak_used_pages"] for row in rows]
    upward = [row["failures"] for row in rows]
    canvas = [[" "] * width for _ in range(height)]
    for row, x, y in sorted(zip(rows, across, upward, strict=True), key=lambda point: point[0]["pareto"]):
        column = (x - min(across)) * (width - 1) // max(1, max(across) - min(across))
        line = (y - min(upward)) * (height - 1) // max(1, max(upward) - min(upward))
        canvas[height - 1 - line][column] = "#" if row["pareto"] else "o"
    label = max(len(f"{number:,}") for number in (min(upward), max(upward)))
    lines = []
    for number, line in enumerate(canvas):
        said = max(upward) if number == 0 else min(upward) if number == height - 1 else None
        lines.append(f"{'' if said is None else f'{said:,}':>{label}} |{''.join(line)}".rstrip())
    lines.append(f"{'':>{label}} +{'-' * width}")
    left, right = f"{min(across):,}", f"{max(across):,}"
    lines.append(f"{'':>{label}}  {left}{right:>{width - len(left)}}")
    return tuple(lines)


def sweep_to_dict(done: Sweep) -> dict[str, Any]:
    """Return a sweep under the keys of ``docs/sweep.md``."""
    return {
        "axes": {name: list(values) for name, values in done.axes},
        "goals": list(GOALS),
        "computed": done.computed,
        "kept": done.kept,
        "cells": done.rows,
    }
