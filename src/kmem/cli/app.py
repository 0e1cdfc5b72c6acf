# SPDX-License-Identifier: GPL-2.0-only
"""The ``kmem`` program: its commands, and what becomes of errors.

A user never sees a traceback.  What went wrong is one line on standard error,
and the exit status says which sort of thing it was.  ``KMEM_DEBUG=1`` shows
the traceback instead.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from kmem import __version__
from kmem.errors import KmemError

__all__ = ["COMMANDS", "Command", "cli", "run"]

#: Commands: the module that holds each, and what it does in half a line.
COMMANDS = {
    "replay": ("kmem.cli.replay", "Drive a modelled machine with a recorded trace."),
    "report": ("kmem.cli.report", "Make the page of a replay's saved result."),
    "sweep": ("kmem.cli.sweep", "Replay traces under a grid of settings."),
    "size": ("kmem.cli.size", "Find the smallest reserve, memory or pool that does."),
    "top": ("kmem.cli.top", "Watch caches, zones and call sites, live or in a replay."),
    "record": ("kmem.cli.record", "Record kmem events of the running kernel."),
    "convert": ("kmem.cli.convert", "Write a recording as Parquet, Arrow or for Perfetto."),
    "stat": ("kmem.cli.stat", "Who allocates, wastes, leaks and fragments."),
    "verify": ("kmem.cli.verify", "Compare the model with recordings of a real kernel."),
    "map": ("kmem.cli.map", "Draw the memory map of a machine."),
    "explain": ("kmem.cli.explain", "Explain the failed allocations in a kernel log."),
    "gfp": ("kmem.cli.gfp", "Decode and encode GFP, slab and page flags."),
    "completion": ("kmem.cli.completion", "Print the completion script of a shell."),
}

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Command(click.Command):
    """A command whose help ends with examples.

    Parameters
    ----------
    examples : sequence of (str, str)
        Command lines, each with what it does.
    """

    def __init__(self, *args: object, examples: Sequence[tuple[str, str]] = (), **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one command line and one explanation each."""
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"  {line}\n      {meaning}\n")
        super().format_epilog(ctx, formatter)


class LazyGroup(click.Group):
    """A group that imports a command when it is called for, and lists it without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, meaning) for name, (_, meaning) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 it held or succeeded, 1 a comparison differed, 2 bad input or usage. "
    "KMEM_DEBUG=1 in the environment shows the traceback of an internal error.",
)
@click.version_option(__version__, "--version", message="kmem %(version)s")
def cli() -> None:
    """The Linux kernel's memory management, in Python: a model of the page allocator and SLUB of
    Linux 6.1. Started from the recorded state of a real kernel, it returns that kernel's page
    frames and object addresses; started from a trace or a description, it does what such a
    kernel would.
    """


def _complain(text: str) -> None:
    # AttributeError: standard error was closed before the program started
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write("kmem: " + " ".join(text.split()) + "\n")
        sys.stderr.flush()


def _print_traceback() -> None:
    import traceback  # rarely wanted, and slow to import

    traceback.print_exc()


def _usage(error: click.ClickException) -> str:
    text = error.format_message()
    context = getattr(error, "ctx", None)
    name = context.command_path if context is not None else "kmem"
    text = text.removesuffix(".")
    return f"{text[:1].lower()}{text[1:]}; see '{name} --help'"


def _broken_pipe() -> int:
    # The interpreter flushes standard output once more on its way out; that must find a place to go.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def _invoke(args: list[str]) -> int:
    # Not cli.main(): it has its own ideas of what becomes of a broken pipe and an interrupt.
    instruction = os.environ.get("_KMEM_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "kmem", "_KMEM_COMPLETE", instruction)
    with cli.make_context("kmem", args) as context:
        return int(cli.invoke(context) or 0)


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status instead of raising.

    Parameters
    ----------
    args : sequence of str, optional
        Arguments without the program's name; those of the process if omitted.
    """
    debug = os.environ.get("KMEM_DEBUG", "") not in ("", "0")
    if sys.stdout is None:  # what a shell's >&- leaves
        _complain("standard output is closed; send it to a file, a pipe or /dev/null")
        return EXIT_BAD_INPUT
    try:
        status = _invoke(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _broken_pipe()
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message().rstrip() + "\n")
        return EXIT_BAD_INPUT
    except click.ClickException as error:
        _complain(_usage(error))
        return EXIT_BAD_INPUT
    except KmemError as error:
        if debug:
            _print_traceback()
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        if debug:
            _print_traceback()
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}")
        return EXIT_BAD_INPUT
    except Exception as error:
        if debug:
            _print_traceback()
        _complain(f"internal error: {type(error).__name__}: {error}; KMEM_DEBUG=1 shows the traceback")
        return EXIT_BAD_INPUT
