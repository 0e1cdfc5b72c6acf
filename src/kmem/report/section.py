# SPDX-License-Identifier: GPL-2.0-only
"""The piece that reports are made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Section"]


@dataclass(frozen=True, slots=True)
class Section:
    """A paragraph or a table of a report.

    Attributes
    ----------
    title : str
    columns : tuple of str
        Headings; empty for a paragraph.
    rows : tuple of tuple
        Cells: str, int, float or None.
    lines : tuple of str
        What stands under the table, or the paragraph.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()
    lines: tuple[str, ...] = ()
