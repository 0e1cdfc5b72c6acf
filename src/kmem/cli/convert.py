# SPDX-License-Identifier: GPL-2.0-only
"""``kmem convert``: the event table of a recording for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from kmem.cli.app import Command

__all__ = ["command"]


@click.command(
    "convert",
    cls=Command,
    examples=[
        ("kmem convert perf.data events.parquet", "for DuckDB, pandas, Polars"),
        ("kmem convert trace.dat events.arrow", "Arrow IPC"),
        ("kmem convert trace.dat memory.json.gz", "to open in ui.perfetto.dev"),
    ],
)
@click.argument("trace", metavar="TRACE")
@click.argument("output", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--kallsyms", type=click.Path(path_type=Path), help="/proc/kallsyms of the recorded machine, for a perf.data."
)
def command(trace: str, output: Path, kallsyms: Path | None) -> int:
    """Write the events of a recording as Parquet, Arrow IPC or for Perfetto.

    TRACE is anything that kmem reads; what FILE becomes is told by its name: .parquet, .arrow or
    .feather, .json or .json.gz.
    """
    from kmem.report.export import convert, format_of
    from kmem.trace.reader import open_trace

    kind = format_of(output)
    with open_trace(trace, kallsyms=kallsyms) as reader:
        events = convert(reader, output, kind)
    click.echo(f"{output}: {events:,} events")
    return 0
