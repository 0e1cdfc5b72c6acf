# SPDX-License-Identifier: GPL-2.0-only
"""``kmem explain``: why an allocation failed, and what would have let it succeed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

import click

from kmem.cli.app import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem.analysis.explain import Explanation

__all__ = ["command"]

_IN_MEMORY = 1 << 24


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
    from kmem.analysis.explain import iter_explanations, nothing_found
    from kmem.report.explain import explanation_lines
    from kmem.trace.dmesg import read_log
    from kmem.trace.failures import iter_failures

    name = "standard input" if log == "-" else log
    answers = iter_explanations(iter_failures(read_log(log)))
    if as_json:
        if not _print_list(answers):
            raise nothing_found(name)
        return 0
    number = 0
    for number, answer in enumerate(answers, 1):
        if number > 1:
            click.echo()
        for line in explanation_lines(answer, name):
            click.echo(line)
    if not number:
        raise nothing_found(name)
    return 0


def _print_list(answers: Iterable[Explanation]) -> int:
    """Print a JSON list when all of it is there, however long it is; how many entries."""
    import orjson

    from kmem.analysis.explain import as_dict

    with tempfile.SpooledTemporaryFile(_IN_MEMORY, mode="w+", encoding="utf-8") as text:
        count = 0
        for count, answer in enumerate(answers, 1):
            entry = orjson.dumps(as_dict(answer), option=orjson.OPT_INDENT_2).decode()
            text.write(("[\n  " if count == 1 else ",\n  ") + entry.replace("\n", "\n  "))
        if count:
            text.write("\n]\n")
            text.seek(0)
            shutil.copyfileobj(text, sys.stdout)
        return count
