# SPDX-License-Identifier: GPL-2.0-only
"""``kmem stat``: who allocates, who wastes, who leaks, what fragments."""

from __future__ import annotations

from pathlib import Path

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json, print_sections
from kmem.errors import UsageError

__all__ = ["command"]

_BATCH_EVENTS = 32768  # few enough that two batches stay in the processor's cache


@click.command(
    "stat",
    cls=Command,
    examples=[
        ("kmem stat perf.data", "objects and pages by call site, cache, thread, order"),
        ("kmem stat --slab --caller --sort frag,hits trace.dat", "which call sites waste most"),
        ("kmem stat --live --kallsyms kallsyms perf.data", "what was not freed, and how old it is"),
        ("kmem stat --filter 'comm=find,bytes_req>=1k' --time 12.5,13 trace.dat", "a part of it"),
        ("kmem stat --folded perf.data | flamegraph.pl > out.svg", "bytes by call chain"),
        ("perf script | kmem stat --json -", "from a pipe, for programs"),
    ],
)
@click.argument("trace", metavar="TRACE")
@click.option("--slab", is_flag=True, help="Only objects.")
@click.option("--page", is_flag=True, help="Only pages.")
@click.option("--caller", is_flag=True, help="Objects by call site.")
@click.option("--alloc", is_flag=True, help="Objects by address.")
@click.option("--live", is_flag=True, help="What is live at the end, and its age.")
@click.option(
    "-s", "--sort", metavar="KEY,...", default="bytes,hits", show_default=True, help="By what the tables are sorted."
)
@click.option("--time", "window", metavar="START,STOP", help="Only these seconds of the trace clock.")
@click.option("--filter", "condition", metavar="NAME=VALUE,...", help="Only these allocations, and their frees.")
@click.option("-l", "--top", type=click.IntRange(1), default=20, show_default=True, help="Rows of each table.")
@click.option(
    "--kallsyms", type=click.Path(path_type=Path), help="/proc/kallsyms of the recorded machine, for a perf.data."
)
@click.option(
    "--folded", is_flag=True, help="Print only folded call chains with the bytes they got (with --live: kept)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    trace: str,
    slab: bool,
    page: bool,
    caller: bool,
    alloc: bool,
    live: bool,
    sort: str,
    window: str | None,
    condition: str | None,
    top: int,
    kallsyms: Path | None,
    folded: bool,
    as_json: bool,
) -> int:
    """Say who allocates, who wastes, who leaks and what fragments, by what was recorded.

    TRACE is a perf.data, a trace.dat, or the text of ftrace, trace-cmd report or perf script with
    kmem events, plain or packed with gzip, zstd or xz; - is standard input. It may be a folder
    copied from tracefs, with per_cpu/cpuN/trace_pipe_raw and the formats of the events.
    """
    from kmem.analysis.stat import collect, sort_names
    from kmem.report.stat import StatView, report_stat, stat_to_dict
    from kmem.trace.reader import open_trace

    keys = tuple(key.strip() for key in sort.split(",") if key.strip())
    for key in keys:
        if key not in sort_names():
            raise UsageError(f"cannot sort by {key!r}", remedy=f"one of {', '.join(sort_names())}")
    if folded and as_json:
        raise UsageError("--folded and --json contradict each other", remedy="give one of them")
    limits = wanted = None
    if window is not None or condition is not None:
        from kmem.analysis.stat_filter import parse_filter, parse_window

        limits = parse_window(window) if window is not None else None
        wanted = parse_filter(condition) if condition is not None else None
    with open_trace(trace, kallsyms=kallsyms, stacks=True, batch_events=_BATCH_EVENTS) as reader:
        stat = collect(reader, window=limits, wanted=wanted, addresses=alloc, stacks=True)
    if folded:
        if not stat.has_stacks:
            raise UsageError("the recording has no call chains", remedy="record with perf record -g")
        click.echo("".join(f"{line}\n" for line in stat.folded(live=live)), nl=False)
        return 0
    view = StatView(slab or not page, page or not slab, caller, alloc, live, keys, top)
    source = "standard input" if trace == "-" else trace
    if as_json:
        print_json(stat_to_dict(stat, view, source=source))
    else:
        print_sections(report_stat(stat, view, source=source))
    return 0
