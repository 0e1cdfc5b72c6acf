# SPDX-License-Identifier: GPL-2.0-only
"""``kmem explain``: why an allocation failed, and what would have let it succeed."""

from __future__ import annotations

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json

__all__ = ["command"]


@click.command(
    "explain",
    cls=Command,
    examples=[
        ("kmem explain dmesg.txt", "every failed allocation in a log"),
        ("dmesg | kmem explain", "the log of this machine"),
        ("journalctl -k -b -1 | kmem explain --json", "the boot before this one, as JSON"),
    ],
)
@click.argument("log", default="-", metavar="[LOG]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one entry per report.")
def command(log: str, as_json: bool) -> int:
    """Explain the failed allocations in a kernel log.

    LOG is what dmesg or journalctl prints, plain or compressed; standard input if it is left
    out. Each report is told in words: the request, the comparison at which each zone refused
    it, whether the model refuses it in the printed state too, and what would have let it
    succeed, tried on the model one by one. What the log does not say is said to be unknown.
    """
    from kmem.analysis.explain import as_dict, check, explain
    from kmem.report.explain import explanation_lines
    from kmem.trace.dmesg import read_log
    from kmem.trace.failures import find_failures

    name = "standard input" if log == "-" else log
    answers = explain(find_failures(read_log(log)))
    check(answers, name)
    if as_json:
        print_json([as_dict(answer) for answer in answers])
        return 0
    for number, answer in enumerate(answers):
        if number:
            click.echo()
        for line in explanation_lines(answer, name):
            click.echo(line)
    return 0
