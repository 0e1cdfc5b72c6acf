# SPDX-License-Identifier: GPL-2.0-only
"""``kmem replay``: drive a modelled machine with a recorded trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json, print_sections, progress_bar
from kmem.errors import UsageError

if TYPE_CHECKING:
    from kmem.analysis.lifetimes import Lifetimes
    from kmem.analysis.summary import Analysis
    from kmem.replay.replay import Replay
    from kmem.replay.variant import Variant

__all__ = ["command", "transform_options"]

_PROC = ("buddyinfo", "pagetypeinfo", "slabinfo", "zoneinfo")


def transform_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that change a trace to a command, which gets them as settings: its parameter `changes`."""
    options = [
        click.option("--scale-load", metavar="N", type=click.IntRange(1), help="Make every request N times."),
        click.option("--drop", metavar="SITE", multiple=True, help="Leave out a call site's requests. Repeatable."),
        click.option(
            "--resize",
            metavar="SITE=BYTES",
            multiple=True,
            help="Let a call site's kmallocs ask for so much. Repeatable.",
        ),
        click.option(
            "--atomic-to-kernel",
            metavar="SITE",
            multiple=True,
            help="Make a call site's GFP_ATOMIC requests GFP_KERNEL; * is all. Repeatable.",
        ),
        click.option("--kvmalloc-above", metavar="BYTES", help="Make kmallocs of more bytes kvmallocs."),
        click.option(
            "--mempool",
            metavar="CACHE=N",
            multiple=True,
            help="Put a memory pool of N in front of a cache. Repeatable.",
        ),
    ]

    @functools.wraps(command)
    def collected(
        scale_load: int | None,
        drop: tuple[str, ...],
        resize: tuple[str, ...],
        atomic_to_kernel: tuple[str, ...],
        kvmalloc_above: str | None,
        mempool: tuple[str, ...],
        **others: Any,
    ) -> Any:
        changes = _settings(scale_load, drop, resize, atomic_to_kernel, kvmalloc_above, mempool)
        return command(changes=changes, **others)

    wrapped: Callable[..., Any] = collected
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _settings(
    scale_load: int | None,
    drop: tuple[str, ...],
    resize: tuple[str, ...],
    atomic_to_kernel: tuple[str, ...],
    kvmalloc_above: str | None,
    mempool: tuple[str, ...],
) -> list[str]:
    """Return the options that change a trace as settings of :class:`kmem.replay.variant.Variant`."""
    settings = [f"drop={site}" for site in drop] + [f"atomic_to_kernel={site}" for site in atomic_to_kernel]
    settings += [f"resize.{text}" for text in resize] + [f"mempool.{text}" for text in mempool]
    if scale_load is not None:
        settings.append(f"scale_load={scale_load}")
    if kvmalloc_above is not None:
        settings.append(f"kvmalloc_above={kvmalloc_above}")
    return settings


@click.command(
    "replay",
    cls=Command,
    examples=[
        ("kmem replay boot.trace.txt.gz", "on a machine inferred from the trace"),
        ("kmem replay --machine i386 --ram 512M --cpus 2 trace.txt", "on this machine"),
        ("kmem replay --machine live trace.dat", "on a model of this machine"),
        ("kmem replay --set vm.min_free_kbytes=65536 trace.txt", "with another reserve"),
        ("kmem replay --compare --set slub_max_order=0 trace.txt", "what single-page slabs would change"),
        ("kmem replay --compare --scale-load 2 --mempool bio-0=16 trace.txt", "twice the load, and a mempool"),
        ("kmem replay --proc buddyinfo trace.txt", "the machine's /proc/buddyinfo afterwards"),
        (
            "kmem replay --machine before.dump.jsonl.gz --expect after.dump.jsonl.gz trace.txt.gz",
            "from a recorded state, each answer compared with the recorded one",
        ),
        ("kmem replay --machine t-before/ --running t.trace.dat", "on the machine as it was then"),
        (
            "kmem replay --machine t-before/ --expect t-after/ t.trace.dat",
            "between copies of /proc: free blocks and slabs as they are and as they should be",
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
    help="State dump, or copies of /proc files, after the trace; --machine gives those before it. With dumps, answers "
    "are compared one by one.",
)
@click.option(
    "--running",
    is_flag=True,
    help="Begin in the state that the /proc files of --machine show, not as after boot.",
)
@click.option("--ram", metavar="SIZE", help="Memory of a preset or inferred machine, as in 2G.")
@click.option("--cpus", type=click.IntRange(1), help="CPUs of a preset or inferred machine.")
@click.option(
    "--set",
    "knobs",
    metavar="NAME=VALUE",
    multiple=True,
    help="A vm sysctl, an option of the kernel command line (slub_min_order, slub_debug, movablecore, ...), ram or "
    "cpus. Repeatable.",
)
@transform_options
@click.option("--compare", is_flag=True, help="Replay without --set and the changes, too, and print what differs.")
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
    running: bool,
    ram: str | None,
    cpus: int | None,
    knobs: tuple[str, ...],
    changes: list[str],
    compare: bool,
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
    trace. The report says what became of memory; with --compare, what the settings and changes made
    of it. A machine of copies of /proc files begins as after boot, or, with --running, with as much
    free memory and as many slabs as they show.

    A SITE is a function, or a pattern such as ext4_*.
    """
    from kmem.machine.slabinfo import read_slabinfo

    if as_json and proc:
        raise UsageError("--json and --proc contradict each other", remedy="give one of them")
    dump = machine is not None and ".jsonl" in Path(machine).suffixes
    if expect is not None:
        _check_expect(machine, expect, dump)
    state = _state_folder(machine) if running else None
    if machine is not None and (dump or running or expect is not None):
        if ram is not None or cpus is not None or knobs or changes or compare or slabinfo is not None:
            raise UsageError(
                f"{machine} is a recorded state, which is taken as it is",
                remedy="leave --ram, --cpus, --set, --slabinfo and changes of the trace out",
            )
    if machine is not None and (dump or expect is not None):
        if proc:
            raise UsageError("--proc shows a replay, not a comparison", remedy="leave it out")
        if html is not None or save is not None:
            raise UsageError("--html and --save show a replay, not a comparison", remedy="leave them out")
        if dump:
            return _fidelity(trace, Path(machine), expect, as_json)
        assert expect is not None
        return _running(trace, Path(machine), expect, as_json, seed, kallsyms)
    base = _variant(machine, ram, cpus)
    variant = base.with_settings([*knobs, *changes])
    if compare and not (knobs or changes):
        raise UsageError("--compare has nothing to compare with", remedy="change something with --set or the like")
    film = html is not None or save is not None
    if film:
        from kmem.cli.report import check_files

        if proc:
            raise UsageError("--proc prints one file only", remedy="leave --html and --save out")
        if compare:
            raise UsageError("--html and --save show one replay, not a comparison", remedy="leave --compare out")
        check_files(html, save)
    if compare and (proc or trace == "-"):
        raise UsageError("--compare replays a file twice and prints a table", remedy="give a file, and no --proc")
    rows = read_slabinfo(slabinfo) if slabinfo is not None else None
    prepared = None
    if compare:
        from kmem.replay.prepared import prepare

        with progress_bar(trace, "reading") as progress:
            prepared = prepare(trace, progress=progress, kallsyms=kallsyms)
    options: dict[str, Any] = {"slabinfo": rows, "seed": seed, "kallsyms": kallsyms, "prepared": prepared}

    def replayed(each: Variant, **more: Any) -> Replay:
        with progress_bar(trace) as progress:
            if state is None:
                return each.replay(trace, progress=progress, **options, **more)
            from kmem.replay.running import replay_running

            return replay_running(trace, state, seed=seed, progress=progress, kallsyms=kallsyms, **more)

    if compare:
        _compare(replayed(base), replayed(variant), trace, as_json)
        return 0
    lifetimes: Sequence[Lifetimes] = ()
    if film or as_json:
        from kmem.analysis.lifetimes import LifetimeCounter

        with LifetimeCounter() as counter:
            run = replayed(variant, keep_frames=film, observe=counter)
        lifetimes = counter.rows(run.reader.strings)
    else:
        run = replayed(variant)
    if proc:
        from kmem.report.proc import format_proc

        click.echo(format_proc(proc, run.machine.view()), nl=False)
        return 0
    from kmem.analysis.summary import analyse

    analysis = analyse(run)
    if film:
        from kmem.cli.report import write_files

        write_files(run, analysis, trace, html=html, save=save, lifetimes=lifetimes)
    _report(analysis, trace, as_json, top, lifetimes)
    return 0


def _compare(base: Replay, variant: Replay, trace: str, as_json: bool) -> None:
    from kmem.analysis.compare import compare
    from kmem.analysis.summary import analyse

    before, after = analyse(base), analyse(variant)
    comparison = compare(before, after)
    if as_json:
        from kmem.report.compare import comparison_to_dict

        print_json(comparison_to_dict(comparison, before, after, source=trace))
        return
    from kmem.report.compare import report_comparison

    print_sections(report_comparison(comparison, source=trace))


def _fidelity(trace: str, before: Path, after: Path | None, as_json: bool) -> int:
    from kmem.replay.fidelity import measure_fidelity
    from kmem.report.fidelity import fidelity_lines, fidelity_to_dict

    with progress_bar(trace) as progress:
        measured = measure_fidelity(trace, before, after, progress=progress)
    if as_json:
        print_json({"source": trace, "fidelity": fidelity_to_dict(measured)})
    else:
        for line in fidelity_lines(measured):
            click.echo(line)
    return 0


def _state_folder(machine: str | None) -> Path:
    """The folder whose files show the state to begin in."""
    from kmem.machine.folder import LIVE_FOLDER

    if machine == "live":
        return LIVE_FOLDER
    if machine is None or not Path(machine).is_dir():
        raise UsageError(
            "--running begins in the state that /proc files show",
            remedy="give --machine with a folder of copies, or live",
        )
    return Path(machine)


def _check_expect(machine: str | None, expect: Path, dump: bool) -> None:
    """Refuse an end state that does not go with the machine's."""
    if dump:
        if expect.is_dir():
            raise UsageError(
                f"{machine} is a state dump, {expect} a folder", remedy="give the state dump that was taken afterwards"
            )
        return
    if machine is None or not Path(machine).is_dir():
        raise UsageError(
            "--expect compares with a recorded state, and needs the one before it",
            remedy="give --machine before.dump.jsonl.gz, or the folder of /proc files taken before, too",
        )
    if not expect.is_dir():
        raise UsageError(
            f"{machine} is a folder, {expect} is none", remedy="give the folder of /proc files taken afterwards"
        )


def _running(trace: str, before: Path, after: Path, as_json: bool, seed: int, kallsyms: Path | None) -> int:
    from kmem.replay.running import measure_running
    from kmem.report.fidelity import fidelity_to_dict, running_lines

    with progress_bar(trace) as progress:
        measured = measure_running(trace, before, after, seed=seed, progress=progress, kallsyms=kallsyms)
    if as_json:
        print_json({"source": trace, "fidelity": fidelity_to_dict(measured)})
    else:
        for line in running_lines(measured):
            click.echo(line)
    return 0


def _variant(machine: str | None, ram: str | None, cpus: int | None) -> Variant:
    from kmem.machine.description import PRESETS
    from kmem.replay.variant import Variant

    if machine is not None and machine not in PRESETS and (ram is not None or cpus is not None):
        raise UsageError(
            "--ram and --cpus are for presets and inferred machines", remedy=f"change the description {machine}"
        )
    variant = Variant(machine=machine, ram=ram, cpus=cpus)
    variant.check()
    return variant


def _report(analysis: Analysis, trace: str, as_json: bool, top: int, lifetimes: Sequence[Lifetimes]) -> None:
    source = "standard input" if trace == "-" else trace
    if as_json:
        from kmem.report.replay_json import replay_to_dict

        print_json(replay_to_dict(analysis, source=source, lifetimes=lifetimes))
        return
    from kmem.report.replay import report_replay

    print_sections(report_replay(analysis, source=source, top=top))
