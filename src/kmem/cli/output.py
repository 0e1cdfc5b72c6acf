# SPDX-License-Identifier: GPL-2.0-only
"""Printing: tables for people, JSON for programs."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmem.report.section import Section

__all__ = ["on_terminal", "print_json", "print_sections", "print_table", "progress_bar"]


Progress = Callable[[int, int | None], None]

_NUMBER = re.compile(r"-?[\d,]+(\.\d+)?( ?%)?|-")


def on_terminal() -> bool:
    """Whether standard output is read by a person."""
    try:
        return sys.stdout.isatty()
    except ValueError:
        return False


def print_json(value: Any) -> None:
    """Print a value as indented JSON, keys in their order, with a newline at the end."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps(value, option=options)
    sys.stdout.write(text.decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table: boxed on a terminal, plain aligned text when piped.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequences
        Cells; columns of numbers stand to the right, integers get thousands
        separators.
    title : str, optional
        A line above the table.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [bool(rows) and all(_NUMBER.fullmatch(row[i]) for row in cells) for i in range(len(columns))]
    if on_terminal():
        _rich_table(columns, cells, right, title)
        return
    lines = [title] if title else []
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), *cells]:
        parts = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    sys.stdout.write("\n".join(lines) + "\n")


def print_sections(sections: Iterable[Section]) -> None:
    """Print a report: its paragraphs and tables, with an empty line between them."""
    for number, section in enumerate(sections):
        if number:
            sys.stdout.write("\n")
        if section.columns:
            print_table(section.columns, section.rows, title=section.title)
        else:
            sys.stdout.write(section.title + "\n")
        for line in section.lines:
            sys.stdout.write((line if section.columns else f"  {line}") + "\n")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return str(value)


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name, is_number in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


@contextlib.contextmanager
def progress_bar(trace: str, doing: str = "replaying") -> Iterator[Progress | None]:
    """Show a progress bar on standard error while a trace is read or replayed, if a person is watching.

    Yields
    ------
    callable or None
        What to call with bytes read, and bytes in all or None; None if nobody is watching.
    """
    try:
        watched = sys.stderr.isatty()
    except ValueError:
        watched = False
    if not watched:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing if trace != "-" else f"{doing} standard input", total=None)

        def told(done: int, whole: int | None) -> None:
            bar.update(task, completed=done, total=whole)

        yield told
