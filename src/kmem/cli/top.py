# SPDX-License-Identifier: GPL-2.0-only
"""``kmem top``: caches, zones and users of memory in the terminal, of this machine or of a replay."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmem.cli.app import Command
from kmem.cli.output import on_terminal, print_json, progress_bar
from kmem.errors import NotSupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem.analysis.top import Look
    from kmem.analysis.top_source import ProcSource, ReplaySource
    from kmem.machine.slabinfo import SlabinfoRow
    from kmem.replay.variant import Variant

__all__ = ["command"]

_PROC = Path("/proc")
_FILES = ("slabinfo", "buddyinfo", "zoneinfo", "vmallocinfo")
_KEYS = tuple("abclvnopsu")
_VIEWS = ("all", "caches", "zones", "sites")
_LIVE_DELAY_S = 3.0
_REPLAY_DELAY_S = 1.0


@click.command(
    "top",
    cls=Command,
    examples=[
        ("kmem top", "this machine; as root, slab caches and vmalloc areas, too"),
        ("kmem top trace.dat", "the model while it replays the trace"),
        ("kmem top --speed 1 --set vm.min_free_kbytes=65536 trace.dat", "as fast as it was recorded, another reserve"),
        ("kmem top --paused trace.txt.gz", "step by step: . makes a step, z lets it run"),
        ("kmem top before/", "copies of /proc files, as kmem record leaves them"),
        ("kmem top --once --view caches --sort c", "text, as slabtop --once prints it"),
        ("kmem top --json trace.txt.gz", "the model after the trace, for programs"),
    ],
)
@click.argument("source", metavar="[TRACE|DIR]", required=False)
@click.option("--machine", metavar="PRESET|FILE|DIR|live", help="The machine of a replay; inferred without it.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="As for kmem replay. Repeatable.")
@click.option(
    "--speed",
    metavar="X",
    type=click.FloatRange(0, min_open=True),
    help="Replay X times as fast as it was recorded.  [default: as fast as possible]",
)
@click.option("--paused", is_flag=True, help="Stop before the first event of a trace.")
@click.option(
    "--step", metavar="N", type=click.IntRange(1), default=1000, show_default=True, help="Events of a step (key .)."
)
@click.option(
    "-s",
    "--sort",
    "sort",
    type=click.Choice(_KEYS),
    default="o",
    show_default=True,
    help="Sort caches by active objects, objects per slab (b), cache size, slabs (l), active slabs (v), name, objects, "
    "pages per slab, size of objects or utilisation: the same key on the screen.",
)
@click.option(
    "-d",
    "--delay",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 86400),
    help="Time between two looks.  [default: 3; 1 for a replay]",
)
@click.option("-o", "--once", is_flag=True, help="Print text once, of a replay after its end, and no screen.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.option(
    "--view", type=click.Choice(_VIEWS), default="all", show_default=True, help="What to print or show first."
)
@click.option("--rows", metavar="N", type=click.IntRange(1), help="Rows of caches and sites to print.  [default: all]")
@click.option(
    "--slabinfo",
    type=click.Path(path_type=Path),
    help="/proc/slabinfo of the recorded machine: layout of caches that the trace only names.",
)
@click.option(
    "--kallsyms", type=click.Path(path_type=Path), help="/proc/kallsyms of the recorded machine, for a perf.data."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of everything random.  [default: 0]")
def command(
    source: str | None,
    machine: str | None,
    settings: tuple[str, ...],
    speed: float | None,
    paused: bool,
    step: int,
    sort: str,
    delay: float | None,
    once: bool,
    as_json: bool,
    view: str,
    rows: int | None,
    slabinfo: Path | None,
    kallsyms: Path | None,
    seed: int,
) -> int:
    """Show slab caches, zones and who uses memory, in the terminal.

    Without an argument it is this machine: /proc/slabinfo, buddyinfo, zoneinfo and vmallocinfo, again
    and again. DIR is a folder with copies of these files. With a TRACE it is the model while it replays
    it, with call sites instead of vmalloc areas, as fast as possible, at a speed, or step by step.

    Keys: those of --sort; 1, 2, 3 or Tab for caches, zones and sites; space or Enter for a look now;
    q to quit. Of a replay, z pauses it and lets it go on, . makes a step, + and - change the speed. ?
    shows all keys. Where output is no terminal, text is printed as with --once.
    """
    text = once or as_json or not _interactive()
    if not _is_trace(source):
        of_traces = {
            "--machine": machine,
            "--set": settings,
            "--speed": speed,
            "--paused": paused,
            "--slabinfo": slabinfo,
            "--kallsyms": kallsyms,
        }
        given = [name for name, value in of_traces.items() if value]
        if given:
            raise UsageError(f"{given[0]} is for replays", remedy="name a trace, too")
        return _proc(source, text, as_json, sort, view, rows, delay)
    assert source is not None
    if Path(source).name.removesuffix(".txt") in _FILES:
        raise UsageError(f"{source} is a file of /proc, and no trace", remedy="name its folder")
    from kmem.machine.slabinfo import read_slabinfo
    from kmem.replay.variant import Variant

    variant = Variant(machine=machine).with_settings(settings)
    cache_rows = read_slabinfo(slabinfo) if slabinfo is not None else None
    if text:
        if speed is not None or paused:
            raise UsageError(
                "--speed and --paused are for the screen", remedy="leave them out, or call kmem top in a terminal"
            )
        look = _replayed(source, variant, cache_rows, kallsyms, seed)
        _print(look, as_json, sort, view, rows)
        return 0
    if source == "-":
        raise UsageError("the screen needs standard input for its keys", remedy="name a file, or give --once")
    return _replay_screen(source, variant, cache_rows, kallsyms, seed, speed, paused, step, sort, view, delay)


def _is_trace(source: str | None) -> bool:
    """Whether the argument is a trace; a folder is one if it was copied from tracefs."""
    return source is not None and not (Path(source).is_dir() and not (Path(source) / "per_cpu").is_dir())


def _interactive() -> bool:
    """Whether a screen can be drawn and keys be read."""
    try:
        return on_terminal() and sys.stdin.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except (ValueError, AttributeError):  # closed
        return False


def _proc(
    folder: str | None, text: bool, as_json: bool, sort: str, view: str, rows: int | None, delay: float | None
) -> int:
    from kmem.analysis.top_source import ProcSource

    page_bytes = os.sysconf("SC_PAGE_SIZE") if folder is None else 4096
    source = ProcSource(_PROC if folder is None else Path(folder), live=folder is None, page_bytes=page_bytes)
    if text:
        _print(source.look(), as_json, sort, view, rows)
        return 0
    source.look()  # what is wrong is said before the screen comes
    return _show(source, sort, view, delay if delay is not None else _LIVE_DELAY_S, 1)


def _replayed(
    trace: str,
    variant: Variant,
    slabinfo: Mapping[str, SlabinfoRow] | None,
    kallsyms: Path | None,
    seed: int,
) -> Look:
    from kmem.analysis.top_source import look_at_replay

    with progress_bar(trace) as progress:
        run = variant.replay(trace, slabinfo=slabinfo, seed=seed, progress=progress, kallsyms=kallsyms)
    return look_at_replay(run, "standard input" if trace == "-" else trace)


def _replay_screen(
    trace: str,
    variant: Variant,
    slabinfo: Mapping[str, SlabinfoRow] | None,
    kallsyms: Path | None,
    seed: int,
    speed: float | None,
    paused: bool,
    step: int,
    sort: str,
    view: str,
    delay: float | None,
) -> int:
    from kmem.analysis.top_source import ReplaySource

    seconds = delay if delay is not None else _REPLAY_DELAY_S
    source = ReplaySource(
        trace,
        variant,
        delay_s=seconds,
        speed=speed,
        paused=paused,
        slabinfo=slabinfo,
        seed=seed,
        kallsyms=kallsyms,
    )
    return _show(source, sort, view, seconds, step)


def _print(look: Look, as_json: bool, sort: str, view: str, rows: int | None) -> None:
    from kmem.analysis.top import SITE_KEYS
    from kmem.report.top_text import look_to_dict, top_text

    site_key = sort if sort != "o" and sort in SITE_KEYS else "c"
    if as_json:
        print_json(look_to_dict(look, cache_key=sort, site_key=site_key, most=rows))
    else:
        text = top_text(look, view=view, cache_key=sort, site_key=site_key, most=rows)
        sys.stdout.write(text)
        sys.stdout.flush()
        if view == "all":
            for line in look.missing:
                click.echo(f"kmem: {line}", err=True)


def _show(source: ProcSource | ReplaySource, sort: str, view: str, delay_s: float, step: int) -> int:
    """Run the screen; what ended it becomes the command's end."""
    try:
        from kmem.report.top import TopApp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise NotSupportedError(
            "the screen of kmem top needs textual", remedy="pip install 'kmem[top]', or print text with --once"
        ) from None
    app = TopApp(source, cache_key=sort, view=view if view != "all" else "caches", delay_s=delay_s, step=step)
    app.run(mouse=True)
    if app.failure is not None:
        raise app.failure
    if app.interrupted:
        raise KeyboardInterrupt
    return app.return_code or 0
