# SPDX-License-Identifier: GPL-2.0-only
"""``kmem completion``: completion scripts for shells."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from kmem.cli.app import Command, cli

__all__ = ["command"]

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    "completion",
    cls=Command,
    examples=[
        ('eval "$(kmem completion bash)"', "completion in this shell; in ~/.bashrc, in every one"),
        ("kmem completion fish > ~/.config/fish/completions/kmem.fish", "completion in fish"),
    ],
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def command(shell: str) -> None:
    """Print the completion script of a shell."""
    # Without the check of the running bash's version that click makes: the script may be for another machine.
    completer = _SHELLS[shell](cli, {}, "kmem", "_KMEM_COMPLETE")
    click.echo(completer.source_template % completer.source_vars())
