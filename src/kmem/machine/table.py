# SPDX-License-Identifier: GPL-2.0-only
"""Tables for notebooks and data frames: what a machine or a replay has many of, a row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any

from kmem.errors import NotSupportedError

__all__ = ["Table", "html_table"]

_MOST_ROWS = 30  # shown by a notebook


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length, by name.

    Attributes
    ----------
    name : str
        What the rows are.
    data : pyarrow.Table
    """

    name: str
    data: Any

    @classmethod
    def of(cls, name: str, columns: Mapping[str, Sequence[Any]]) -> Table:
        """Return a table of these columns."""
        return cls(name, import_module("pyarrow").table(dict(columns)))

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def to_arrow(self) -> Any:
        """Return the ``pyarrow.Table``."""
        return self.data

    def to_polars(self) -> Any:
        """Return a Polars data frame.

        Raises
        ------
        NotSupportedError
            Polars is not installed.
        """
        try:
            polars = import_module("polars")
        except ImportError:
            raise NotSupportedError("this needs polars", remedy="pip install polars") from None
        return polars.from_arrow(self.data)

    def to_pandas(self) -> Any:
        """Return a pandas data frame.

        Raises
        ------
        NotSupportedError
            pandas is not installed.
        """
        try:
            import_module("pandas")
        except ImportError:
            raise NotSupportedError("this needs pandas", remedy="pip install pandas") from None
        return self.data.to_pandas()

    def _repr_html_(self) -> str:
        """Return the first rows as notebooks show them."""
        rows = [list(row.values()) for row in self.data.slice(0, _MOST_ROWS).to_pylist()]
        return html_table(self.name, self.data.column_names, rows, len(self))


def html_table(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], count: int) -> str:
    """Return rows as an HTML table, all texts escaped; `count` says how many there are in all."""

    def cell(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return f'<td style="text-align:right">{value:,}</td>'
        return f"<td>{escape(str(value))}</td>"

    more = f" (the first {len(rows)} of {count:,})" if count > len(rows) else ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><caption>{escape(name)}{more}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
