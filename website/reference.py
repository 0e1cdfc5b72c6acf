# SPDX-License-Identifier: GPL-2.0-only
"""Pages of the reference: every command from its help, every module from its docstrings."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import click

import kmem
from kmem.cli import app

#: Packages in the order of the layers, with a title for each.
PACKAGES = {
    "kmem.machine": "Machines",
    "kmem.replay": "Replay",
    "kmem.verify": "Verification",
    "kmem.analysis": "Analysis",
    "kmem.report": "Reports",
    "kmem.trace": "Trace formats",
    "kmem.profile": "Kernel versions",
    "kmem.mm": "The model",
}
#: Modules of their own.
MODULES = ("kmem.errors", "kmem.pytest_plugin")
WIDTH = 100


def commands() -> str:
    """Return the page of the command line: what ``--help`` prints, for the program and each command."""
    parts = [
        "# Commands",
        "Exactly what `--help` prints. Exit status: 0 it held or succeeded, 1 a comparison differed, 2 bad input.",
    ]
    top = click.Context(app.cli, info_name="kmem", terminal_width=WIDTH, max_content_width=WIDTH)
    parts += ["## kmem", block(app.cli.get_help(top))]
    for name in app.cli.list_commands(top):
        command = app.cli.get_command(top, name)
        assert command is not None, f"{name} is listed, but not there"
        context = click.Context(command, info_name=name, parent=top, terminal_width=WIDTH, max_content_width=WIDTH)
        parts += [f"## kmem {name}", block(command.get_help(context))]
    return "\n\n".join(parts) + "\n"


def block(text: str) -> str:
    """Return text as it is to be shown."""
    return f"```text\n{text.rstrip()}\n```"


def module_pages() -> dict[str, str]:
    """Return a page for each package and module, by path: each names what is to be rendered there."""
    found = {f"reference/{name}.md": f"# `{name}`\n\n::: {name}\n" for name in MODULES}
    for package in PACKAGES:
        for name in [package, *submodules(package)]:
            found[f"reference/{name}.md"] = f"# `{name}`\n\n::: {name}\n"
    return found


def submodules(package: str) -> list[str]:
    """Return the names of a package's modules."""
    folder = Path(kmem.__path__[0], *package.split(".")[1:])
    return sorted(f"{package}.{module.name}" for module in pkgutil.iter_modules([str(folder)]))


def navigation() -> list[dict[str, object]]:
    """Return the reference's part of the site's table of contents."""
    entries: list[dict[str, object]] = [{name: f"reference/{name}.md"} for name in MODULES]
    for package, title in PACKAGES.items():
        names = [package, *submodules(package)]
        entries.append({title: [{name: f"reference/{name}.md"} for name in names]})
    return entries
