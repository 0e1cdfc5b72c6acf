# SPDX-License-Identifier: GPL-2.0-only
"""``kmem size``: how much of something a trace needs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json, print_sections
from kmem.cli.replay import transform_options

if TYPE_CHECKING:
    from kmem.analysis.size import Trial

__all__ = ["command"]

_QUESTIONS = ("min_free_kbytes", "mempool", "ram", "order", "slab-order")


@click.command(
    "size",
    cls=Command,
    examples=[
        ("kmem size trace.txt --for min_free_kbytes", "smallest reserve with which no GFP_ATOMIC request fails"),
        ("kmem size trace.txt --for mempool --cache bio-0 --set ram=512M", "smallest pool that no request sleeps for"),
        ("kmem size trace.txt --for ram --scale-load 2", "smallest memory that carries twice the load"),
        ("kmem size trace.txt --for slab-order --cache dentry", "order of its slabs"),
    ],
)
@click.argument("trace", metavar="TRACE")
@click.option("--for", "question", type=click.Choice(_QUESTIONS), required=True, help="What to find.")
@click.option("--cache", metavar="NAME", help="The cache that mempool and slab-order are about.")
@click.option("--machine", metavar="PRESET|FILE|DIR", help="The machine; without it, inferred from the trace.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="A setting of all replays. Repeatable.")
@transform_options
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of everything random.  [default: 0]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    trace: str,
    question: str,
    cache: str | None,
    machine: str | None,
    settings: tuple[str, ...],
    changes: list[str],
    seed: int,
    as_json: bool,
) -> int:
    """Find the smallest setting with which a trace is carried, by replaying it.

    min_free_kbytes: no GFP_ATOMIC request is refused. mempool: no request sleeps for the pool. ram:
    no request is refused. order: the largest that is still to be had after the trace. slab-order:
    that of a cache which takes the fewest pages. Everything that was tried is listed.
    """
    from kmem.analysis.size import size
    from kmem.replay.variant import Variant
    from kmem.report.size import report_size, size_to_dict

    base = Variant(machine=machine).with_settings([*settings, *changes])
    found = size(trace, question, base=base, cache=cache, seed=seed, told=_told if _watched() else None)
    if as_json:
        print_json(size_to_dict(found, source=trace))
    else:
        print_sections(report_size(found, source=trace))
    return 0


def _watched() -> bool:
    try:
        return sys.stderr.isatty()
    except ValueError:
        return False


def _told(trial: Trial) -> None:
    sys.stderr.write(f"{trial.value:,}: {trial.reason or 'does'}\n")
