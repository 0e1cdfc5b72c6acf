# SPDX-License-Identifier: GPL-2.0-only
"""``kmem replay``: drive a modelled machine with a recorded trace."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json, print_sections
from kmem.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from kmem.analysis.summary import Analysis
    from kmem.machine.machine import Machine
    from kmem.replay.replay import Replay

__all__ = ["command"]

_PROC = ("buddyinfo", "pagetypeinfo", "slabinfo", "zoneinfo")

Progress = Callable[[int, int | None], None]


@click.command(
    "replay",
    cls=Command,
    examples=[
        ("kmem replay boot.trace.txt.gz", "on a machine inferred from the trace"),
        ("kmem replay --machine i386 --ram 512M --cpus 2 trace.txt", "on this machine"),
        ("kmem replay --machine live trace.dat", "on a model of this machine"),
        ("kmem replay --set vm.min_free_kbytes=65536 trace.txt", "with another reserve"),
        ("kmem replay --proc buddyinfo trace.txt", "the machine's /proc/buddyinfo afterwards"),
        (
            "kmem replay --machine before.dump.jsonl.gz --expect after.dump.jsonl.gz trace.txt.gz",
            "from a recorded state, each answer compared with the recorded one",
        ),
        ("kmem replay --html out.html trace.txt", "a page for the browser, all in one file"),
        ("perf script | kmem replay --json -", "from a pipe, for programs"),
    ],
)
@click.argument("trace", metavar="TRACE")
@click.option(
    "--machine",
    metavar="PRESET|FILE|DIR|live",
    help="x86_64, i386, a JSON description, copies of /proc files, a recorded state (.jsonl.gz), or live (this one).",
)
@click.option(
    "--expect",
    type=click.Path(path_type=Path),
    help="State dump after the trace; --machine gives the one before it. Answers are compared one by one.",
)
@click.option("--ram", metavar="SIZE", help="Memory of a preset or inferred machine, as in 2G.")
@click.option("--cpus", type=click.IntRange(1), help="CPUs of a preset or inferred machine.")
@click.option("--set", "knobs", metavar="KNOB=VALUE", multiple=True, help="Write a vm sysctl after boot. Repeatable.")
@click.option(
    "--slabinfo",
    type=click.Path(path_type=Path),
    help="/proc/slabinfo of the recorded machine: layout of caches that the trace only names.",
)
@click.option(
    "--kallsyms", type=click.Path(path_type=Path), help="/proc/kallsyms of the recorded machine, for a perf.data."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with all figures, for a browser.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the result for kmem report.")
@click.option("--proc", type=click.Choice(_PROC), help="Print only this /proc file of the machine's final state.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Caches and call sites to list.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of everything random.  [default: 0]")
def command(
    trace: str,
    machine: str | None,
    expect: Path | None,
    ram: str | None,
    cpus: int | None,
    knobs: tuple[str, ...],
    slabinfo: Path | None,
    kallsyms: Path | None,
    as_json: bool,
    html: Path | None,
    save: Path | None,
    proc: str | None,
    top: int,
    seed: int,
) -> int:
    """Drive a modelled machine with the requests of a recorded trace.

    TRACE is a perf.data, a trace.dat or the text of ftrace, trace-cmd report or perf script with
    kmem events, plain or packed with gzip, zstd or xz; - is standard input. Every request is made to
    the model, which answers as Linux 6.1 would. Without --machine the machine is inferred from the
    trace. The report says what became of memory.
    """
    if as_json and proc:
        raise UsageError("--json and --proc contradict each other", remedy="give one of them")
    dump = machine is not None and ".jsonl" in Path(machine).suffixes
    if expect is not None and not dump:
        raise UsageError(
            "--expect compares with a state dump, and needs the one before it",
            remedy="give --machine before.dump.jsonl.gz, too",
        )
    if machine is not None and dump:
        if ram is not None or cpus is not None or knobs or slabinfo is not None or proc:
            raise UsageError(
                f"{machine} is a recorded state, which is taken as it is",
                remedy="leave --ram, --cpus, --set, --slabinfo and --proc out",
            )
        if html is not None or save is not None:
            raise UsageError("--html and --save show a replay, not a comparison", remedy="leave them out")
        return _fidelity(trace, Path(machine), expect, as_json)
    film = html is not None or save is not None
    if film:
        from kmem.cli.report import check_files

        if proc:
            raise UsageError("--proc prints one file only", remedy="leave --html and --save out")
        check_files(html, save)
    run, assumed = _replay(
        trace,
        machine,
        keep_frames=film,
        ram=ram,
        cpus=cpus,
        knobs=knobs,
        slabinfo=slabinfo,
        kallsyms=kallsyms,
        seed=seed,
    )
    if proc:
        from kmem.report.proc import format_proc

        click.echo(format_proc(proc, run.machine.view()), nl=False)
        return 0
    run.assumed[:0] = assumed
    from kmem.analysis.summary import analyse

    analysis = analyse(run)
    if film:
        from kmem.cli.report import write_files

        write_files(run, analysis, trace, html=html, save=save, kallsyms=kallsyms)
    _report(analysis, trace, as_json, top)
    return 0


def _fidelity(trace: str, before: Path, after: Path | None, as_json: bool) -> int:
    from kmem.replay.fidelity import measure_fidelity
    from kmem.report.fidelity import fidelity_lines, fidelity_to_dict

    with _progress(trace) as progress:
        measured = measure_fidelity(trace, before, after, progress=progress)
    if as_json:
        print_json({"source": trace, "fidelity": fidelity_to_dict(measured)})
    else:
        for line in fidelity_lines(measured):
            click.echo(line)
    return 0


def _replay(
    trace: str,
    machine: str | None,
    *,
    keep_frames: bool,
    ram: str | None,
    cpus: int | None,
    knobs: tuple[str, ...],
    slabinfo: Path | None,
    kallsyms: Path | None,
    seed: int,
) -> tuple[Replay, list[str]]:
    from kmem.machine.slabinfo import read_slabinfo
    from kmem.replay.replay import replay

    settings = _knobs(knobs)
    rows = read_slabinfo(slabinfo) if slabinfo is not None else None
    if machine is None:
        size = _ram(ram)
        with _progress(trace) as progress:
            run = replay(
                trace,
                ram=size,
                cpus=cpus,
                knobs=settings,
                slabinfo=rows,
                seed=seed,
                progress=progress,
                kallsyms=kallsyms,
                keep_frames=keep_frames,
            )
        return run, []
    booted, assumed = _boot(machine, ram=ram, cpus=cpus, knobs=settings, seed=seed)
    with _progress(trace) as progress:
        run = replay(trace, booted, slabinfo=rows, progress=progress, kallsyms=kallsyms, keep_frames=keep_frames)
    return run, assumed


def _knobs(texts: tuple[str, ...]) -> dict[str, int | tuple[int, ...]]:
    """The knobs by name; the same one twice with two values is a contradiction."""
    from kmem.machine.description import parse_knob

    knobs: dict[str, int | tuple[int, ...]] = {}
    for text in texts:
        name, value = parse_knob(text)
        key = f"vm.{name.removeprefix('vm.')}"
        if knobs.setdefault(key, value) != value:
            raise ConfigError(f"--set gives {key} two values", remedy="give one of them")
    return knobs


def _ram(text: str | None) -> int | None:
    from kmem.mm.x86 import memparse

    return None if text is None else memparse(text)


def _boot(
    machine: str, *, ram: str | None, cpus: int | None, knobs: dict[str, int | tuple[int, ...]], seed: int
) -> tuple[Machine, list[str]]:
    from kmem.machine.description import PRESETS
    from kmem.machine.folder import describe_folder
    from kmem.machine.machine import Machine

    assumed: list[str] = []
    if machine in PRESETS:
        if ram is None:
            assumed.append(f"memory {PRESETS[machine] >> 20} MiB: --ram not given")
        if cpus is None:
            assumed.append("1 CPU: --cpus not given")
    elif ram is not None or cpus is not None:
        raise UsageError(
            "--ram and --cpus are for presets and inferred machines", remedy=f"change the description {machine}"
        )
    elif machine == "live":
        description, assumed = describe_folder(Path("/proc"))
        description = dataclasses.replace(description, name="live")
        release = os.uname().release
        if not release.startswith("6.1."):
            assumed.append(f"the rules of Linux 6.1: this machine runs {release}")
        return Machine.boot(description, knobs=knobs, seed=seed), assumed
    elif Path(machine).is_dir():
        description, assumed = describe_folder(Path(machine))
        return Machine.boot(description, knobs=knobs, seed=seed), assumed
    return Machine.boot(machine, ram=_ram(ram), cpus=cpus, knobs=knobs, seed=seed), assumed


def _report(analysis: Analysis, trace: str, as_json: bool, top: int) -> None:
    source = "standard input" if trace == "-" else trace
    if as_json:
        from kmem.report.replay_json import replay_to_dict

        print_json(replay_to_dict(analysis, source=source))
        return
    from kmem.report.replay import report_replay

    print_sections(report_replay(analysis, source=source, top=top))


@contextlib.contextmanager
def _progress(trace: str) -> Iterator[Progress | None]:
    """A progress bar on standard error while something takes long, if a person is watching."""
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
        task = bar.add_task("replaying" if trace != "-" else "replaying standard input", total=None)

        def told(done: int, whole: int | None) -> None:
            bar.update(task, completed=done, total=whole)

        yield told
