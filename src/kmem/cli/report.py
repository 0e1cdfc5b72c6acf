# SPDX-License-Identifier: GPL-2.0-only
"""``kmem report``: the page of a replay's saved result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json
from kmem.errors import InputError, UsageError

if TYPE_CHECKING:
    from kmem.analysis.lifetimes import Lifetimes
    from kmem.analysis.summary import Analysis
    from kmem.replay.replay import Replay

__all__ = ["check_files", "command", "write_files"]


@click.command(
    "report",
    cls=Command,
    examples=[
        ("kmem report result.json", "result.html, of what kmem replay --save result.json wrote"),
        ("kmem report result.json -o page.html", "another name"),
    ],
)
@click.argument("result", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The page.  [default: RESULT with .html at its end]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the name of the page and its size as JSON.")
def command(result: Path, output: Path | None, as_json: bool) -> int:
    """Make the page of a replay: one HTML file for the browser, which needs nothing else.

    RESULT is what kmem replay --save wrote. What kmem replay --json printed will do, too, but has no
    map of page frames and no slabs.
    """
    from kmem.report.html import page
    from kmem.report.result import read_result, write_whole

    path = output if output is not None else result.with_suffix(".html")
    if path == result:
        raise UsageError(f"the page would replace {result}", remedy="name it with -o")
    data = page(read_result(result))
    write_whole(path, data)
    if as_json:
        print_json({"page": str(path), "bytes": len(data)})
    else:
        click.echo(f"{path}: {len(data) / 1e6:.1f} MB")
    return 0


def check_files(html: Path | None, save: Path | None) -> None:
    """Complain before a long replay about what would be found out only after it."""
    if html is not None and html == save:
        raise UsageError("--html and --save name the same file", remedy="give two names")
    for path in (html, save):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise InputError("cannot be written: no such directory, or a directory itself", file=path)
    if html is not None:
        from kmem.report.html import require_plotly

        require_plotly()


def write_files(
    run: Replay,
    analysis: Analysis,
    trace: str,
    *,
    html: Path | None,
    save: Path | None,
    lifetimes: Sequence[Lifetimes] = (),
) -> None:
    """Write the page of a replay, its result, or both."""
    import orjson

    from kmem.report.html import page
    from kmem.report.result import replay_result, write_whole

    source = "standard input" if trace == "-" else trace
    result = replay_result(run, analysis, source=source, lifetimes=lifetimes)
    if save is not None:
        write_whole(save, orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
    if html is not None:
        write_whole(html, page(result))
