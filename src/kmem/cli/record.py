# SPDX-License-Identifier: GPL-2.0-only
"""``kmem record``: kmem events of the running kernel, through tracefs."""

from __future__ import annotations

from pathlib import Path

import click

from kmem.cli.app import Command
from kmem.errors import InputError, UsageError

__all__ = ["command"]


@click.command(
    "record",
    cls=Command,
    context_settings={"ignore_unknown_options": True},
    examples=[
        ("kmem record -- find /usr/share -type f", "a command and its children"),
        ("kmem record -p 1234 -o server.trace.dat", "a process, until Ctrl-C"),
        ("kmem record -a", "everything, until Ctrl-C"),
    ],
)
@click.argument("arguments", metavar="[-- COMMAND ...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("kmem.trace.dat"),
    show_default=True,
    help="trace.dat to write.",
)
@click.option("-p", "--pid", type=click.IntRange(1), help="Record this process and its future children.")
@click.option("-a", "--all", "everything", is_flag=True, help="Record all processes.")
@click.option(
    "-m", "--buffer", type=click.IntRange(16), default=8192, show_default=True, help="KiB of buffer for each CPU."
)
@click.option("--no-state", is_flag=True, help="Do not copy /proc and /sys/kernel/slab before and after.")
def command(
    arguments: tuple[str, ...], output: Path, pid: int | None, everything: bool, buffer: int, no_state: bool
) -> int:
    """Record kmem events of the running kernel.

    It takes a trace instance of its own, so that other tracing is not disturbed, and root. What /proc
    and /sys/kernel/slab show before and after goes into FILE-before and FILE-after.
    """
    from kmem.trace.record import Recorder, copy_state, find_tracefs

    if (pid is not None) + everything + bool(arguments) != 1:
        raise UsageError("it is not clear what to record", remedy="give one of -p PID, -a and a command")
    if not output.parent.is_dir():
        raise InputError("no such folder", file=output.parent)
    name = output.name.removesuffix(".trace.dat").removesuffix(".dat")
    status = 0
    with Recorder(find_tracefs(), buffer) as recorder:
        if not no_state:
            copy_state(output.parent / f"{name}-before")
        if arguments:
            status = recorder.run(arguments)
        else:
            recorder.watch(pid)
        if not no_state:
            copy_state(output.parent / f"{name}-after")
        recorder.save(output)
    click.echo(f"{output}: {recorder.bytes:,} bytes of events from {recorder.nr_cpus} CPUs", err=True)
    if status:
        click.echo(f"{arguments[0]} ended with status {status}", err=True)
    return 0
