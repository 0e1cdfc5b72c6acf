# SPDX-License-Identifier: GPL-2.0-only
"""``kmem sweep``: traces replayed under a grid of settings."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from kmem.cli.app import EXIT_BAD_INPUT, Command
from kmem.cli.output import print_json, print_sections
from kmem.errors import UsageError

__all__ = ["command"]


@click.command(
    "sweep",
    cls=Command,
    examples=[
        ("kmem sweep trace.txt --vary vm.min_free_kbytes=4096,16384,65536", "three settings"),
        ("kmem sweep 'traces/*.gz' --vary RAM=1G,2G --vary slub_max_order=0,1,3 -o out", "a grid, resumable"),
        ("kmem sweep s3://fleet/*.zst --vary scale_load=1,2,4 --scheduler tcp://head:8786", "on your own cluster"),
    ],
)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "--vary", metavar="NAME=A,B,C", multiple=True, help="A setting and its values. Repeatable: all combinations."
)
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="A setting of all cells. Repeatable.")
@click.option("--machine", metavar="PRESET|FILE|DIR", help="The machine; without it, inferred from each trace.")
@click.option("--scheduler", metavar="ADDRESS", help="Dask cluster to run on, as in tcp://host:8786.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes to start without one.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for results; cells in it are kept.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of everything random.  [default: 0]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    traces: tuple[str, ...],
    vary: tuple[str, ...],
    settings: tuple[str, ...],
    machine: str | None,
    scheduler: str | None,
    workers: int,
    output: Path | None,
    seed: int,
    as_json: bool,
) -> int:
    """Replay traces under all combinations of settings, on Dask.

    TRACE is a file, a pattern or a URL. NAME is what 'kmem replay --set' takes, or a change of the
    trace: scale_load, kvmalloc_above, drop, atomic_to_kernel, mempool.CACHE, resize.SITE,
    slab_order.CACHE. With -o, a sweep that was killed goes on where it was.
    """
    if scheduler is None:
        from kmem.analysis import processes

        processes.get_ready()  # while what follows is being imported
    from kmem.analysis.sweep import find_traces, make_grid, sweep
    from kmem.replay.variant import LISTS, Variant, canonical
    from kmem.report.sweep import report_sweep, sweep_to_dict

    base = Variant(machine=machine).with_settings(settings)
    axes, cells = make_grid(find_traces(traces), vary, base=base, seed=seed)
    fixed = {canonical(text.partition("=")[0]) for text in settings} - set(LISTS)
    both = next((name for name, _ in axes if name in fixed), None)
    if both is not None:
        raise UsageError(f"{both} is both set and varied", remedy=f"leave --set {both} out")
    try:
        with _progress() as told:
            done = sweep(axes, cells, output=output, workers=workers, scheduler=scheduler, told=told, said=_said)
    except KeyboardInterrupt:
        if output is not None:
            _said(f"interrupted: finished cells are in {output}, and the same command goes on from there")
        raise
    if as_json:
        print_json(sweep_to_dict(done))
    else:
        print_sections(report_sweep(done))
    return 0 if any(not row["error"] for row in done.rows) else EXIT_BAD_INPUT


def _said(text: str) -> None:
    click.echo(f"kmem: {text}", err=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int, int], None] | None]:
    """A bar with the time left, if a person is watching."""
    try:
        watched = sys.stderr.isatty()
    except ValueError:
        watched = False
    if not watched:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sweeping", total=None)

        def told(finished: int, kept: int, whole: int) -> None:
            # what was there took no time: it must not make the rest look fast
            bar.update(task, completed=finished - kept, total=whole - kept)

        yield told
