# SPDX-License-Identifier: GPL-2.0-only
"""``kmem map``: the memory map of a machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kmem.cli.app import Command
from kmem.cli.output import on_terminal, print_json
from kmem.machine.machine import Machine
from kmem.machine.memory_map import MemoryMap

__all__ = ["command"]


@click.command(
    "map",
    cls=Command,
    examples=[
        ("kmem map --machine i386 --ram 2G", "3 GiB for processes, low memory, vmalloc, kmap, high memory"),
        ("kmem map --machine i386 --ram 2G --cmdline vmalloc=256M", "a larger vmalloc area leaves less low memory"),
        ("kmem map --json", "the map of an x86-64 machine as data"),
        ("kmem map --svg > map.svg", "a drawing"),
    ],
)
@click.option(
    "-m",
    "--machine",
    default="x86_64",
    show_default=True,
    metavar="MACHINE",
    help="x86_64, i386, a machine description (JSON) or a folder with copies of /proc files.",
)
@click.option("--ram", metavar="SIZE", help="Memory of a preset, as 2G or 512M.")
@click.option("--cpus", type=int, metavar="N", help="CPUs of a preset.")
@click.option("--cmdline", metavar="TEXT", help="Kernel command line of a preset, such as vmalloc=256M.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--svg", "as_svg", is_flag=True, help="Print an SVG drawing.")
def command(machine: str, ram: str | None, cpus: int | None, cmdline: str | None, as_json: bool, as_svg: bool) -> None:
    """Draw the memory map of a machine: user space, the linear map, vmalloc, kmap, high memory.

    Addresses are virtual, high memory's physical. In a program, Machine.map() shows a machine at work:
    who has mapped what, and how much is in use.
    """
    source: str | Path = machine if machine in ("x86_64", "i386") else Path(machine)
    with Machine.boot(source, ram=ram, cpus=cpus, cmdline=cmdline) as booted:
        taken = booted.map()
    if as_json:
        print_json(taken.as_dict())
    elif as_svg:
        sys.stdout.write(taken._repr_svg_() + "\n")
    elif on_terminal():
        _rich(taken)
    else:
        sys.stdout.write(f"{taken}\n")


def _rich(taken: MemoryMap) -> None:
    """Print the map in colours."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=taken.name, title_justify="left", header_style="bold", box=None)
    for name, justify in (("addresses", "left"), ("size", "right"), ("what", "left"), ("", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for depth, place, size, what, remark in taken.rows():
        style = "bold" if depth == 0 else "dim"
        indent = "  " * depth
        table.add_row(*(Text(text, style) for text in (indent + place, size, indent + what, remark)))
    Console().print(table)
