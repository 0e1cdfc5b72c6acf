# SPDX-License-Identifier: GPL-2.0-only
"""``kmem verify``: compare the model with recordings of a real kernel."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json
from kmem.errors import KmemError
from kmem.verify import BehaviourOnlyError, Result, find_recordings, name_of, verify

__all__ = ["command"]

_SHOWN = 3

_Results = list[tuple[Path, Result]]
_Errors = list[tuple[Path, KmemError]]


@click.command(
    "verify",
    cls=Command,
    examples=[
        ("kmem verify tests/data", "every recording below a folder"),
        ("kmem verify --stop-at-first pages-00.jsonl.gz", "up to the first difference, which is described"),
        ("kmem verify --json tests/data", "the verdicts as JSON"),
        ("kmem verify --live", "slab caches and zones of the running kernel, whatever its version"),
    ],
)
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path, exists=False))
@click.option("--live", is_flag=True, help="Compare with the running kernel instead: its slab caches and zones.")
@click.option("--stop-at-first", is_flag=True, help="Stop at the first difference.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(paths: tuple[Path, ...], live: bool, stop_at_first: bool, as_json: bool) -> int:
    """Compare the model with recordings of a real kernel.

    The model starts from the recorded state, repeats each recorded operation, and has to give
    the recorded page frames and objects; later state dumps have to be identical, list orders
    included. PATH is a recording or a folder that is searched for recordings; cmdline.txt and
    dmesg-boot.txt beside a recording tell the machine's CPUs and boot options, NAME.dmesg.txt
    what the kernel reported meanwhile, which has to be the model's report. A recording in a
    folder that shows what depends on something not recorded is skipped; named by itself, it is refused.
    """
    if live and paths:
        raise click.UsageError("--live compares with the running kernel, and takes no PATH")
    if live:
        return _live(as_json)
    if not paths:
        raise click.UsageError("missing PATH: name a recording or a folder, or give --live")
    results: list[tuple[Path, Result]] = []
    refused: list[tuple[Path, KmemError]] = []
    skipped: list[tuple[Path, KmemError]] = []
    for path in find_recordings(paths):
        try:
            result = verify(path, stop_at_first=stop_at_first)
        except KmemError as error:
            if isinstance(error, BehaviourOnlyError) and path not in paths:
                skipped.append((path, error))
                if not as_json:
                    _print_skipped(path, error)
                continue
            refused.append((path, error))
            if not as_json:
                _print_refused(error)
            continue
        results.append((path, result))
        if not as_json:
            _print_result(result)
        if stop_at_first and not result.held:
            break
    if as_json:
        print_json(_summary(results, refused, skipped))
    else:
        _print_totals(results, refused, skipped)
    if any(not result.held for _, result in results):
        return 1
    return 2 if refused or not results else 0


def _live(as_json: bool) -> int:
    from kmem.verify.live import verify_live

    results = [(Path(result.name), result) for result in verify_live()]
    if as_json:
        print_json(_summary(results, [], []))
    else:
        for _, result in results:
            _print_result(result)
        _print_totals(results, [], [])
    return 0 if all(result.held for _, result in results) else 1


def _print_result(result: Result) -> None:
    lines = [result.summary()]
    lines += [f"    note: {note}" for note in result.notes]
    for difference in result.differences[:_SHOWN]:
        lines.append(textwrap.indent(difference.describe(), "    "))
    left = len(result.differences) - _SHOWN
    if left > 0:
        lines.append(f"    and {left} more difference{'s' if left > 1 else ''} (--json lists them)")
    click.echo("\n".join(lines))
    sys.stdout.flush()


def _print_refused(error: KmemError) -> None:
    sys.stdout.flush()
    click.echo(f"kmem: {error}", err=True)


def _print_skipped(path: Path, error: KmemError) -> None:
    click.echo(f"{name_of(path)}: skipped\n    note: {error.message}")


def _counts(results: _Results, refused: _Errors, skipped: _Errors) -> dict[str, int]:
    return {
        "recordings": len(results) + len(refused) + len(skipped),
        "identical": sum(result.held for _, result in results),
        "different": sum(not result.held for _, result in results),
        "refused": len(refused),
        "skipped": len(skipped),
        "operations": sum(result.operations for _, result in results),
        "operations_identical": sum(result.identical for _, result in results),
    }


def _print_totals(results: _Results, refused: _Errors, skipped: _Errors) -> None:
    if not results:
        left = [f"{len(refused)} recording{'s' if len(refused) != 1 else ''} refused"] if refused else []
        left += [f"{len(skipped)} recording{'s' if len(skipped) != 1 else ''} skipped"] if skipped else []
        click.echo(f"total: nothing compared; {', '.join(left)}")
        return
    counts = _counts(results, refused, skipped)
    parts = [f"{counts['identical']} identical"]
    if counts["different"]:
        parts.append(f"{counts['different']} DIFFERENT")
    if counts["refused"]:
        parts.append(f"{counts['refused']} refused")
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped")
    click.echo(
        f"total: {counts['operations_identical']}/{counts['operations']} operations identical; "
        f"{counts['recordings']} recording{'s' if counts['recordings'] != 1 else ''}: {', '.join(parts)}"
    )


def _summary(results: _Results, refused: _Errors, skipped: _Errors) -> dict[str, Any]:
    return {
        "held": bool(results) and not refused and all(result.held for _, result in results),
        "recordings": [{"path": str(path), **result.to_dict()} for path, result in results],
        "refused": [{"path": str(path), "name": name_of(path), "error": str(error)} for path, error in refused],
        "skipped": [{"path": str(path), "name": name_of(path), "reason": error.message} for path, error in skipped],
        "totals": _counts(results, refused, skipped),
    }
