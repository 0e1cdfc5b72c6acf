# SPDX-License-Identifier: GPL-2.0-only
"""Errors that a user can cause, and can do something about.

Everything that kmem refuses is a :class:`KmemError`: one line that names the
place (file, line, byte) and the remedy.  The command line prints that line and
exits with ``exit_code``; a library user catches the class.  Anything else that
is raised is a defect of kmem.
"""

from __future__ import annotations

import os

__all__ = [
    "ConfigError",
    "DeadlockError",
    "DifferenceError",
    "InputError",
    "KernelBug",
    "KernelOops",
    "KernelPanic",
    "KernelReport",
    "KernelWarning",
    "KmemError",
    "NotSupportedError",
    "ProcessKilled",
    "SegmentationFault",
    "StateError",
    "UsageError",
]


class KmemError(Exception):
    """Base of every error that kmem raises on purpose.

    Parameters
    ----------
    message : str
        What is wrong, in one line (line breaks are folded into spaces).
    file : str or os.PathLike, optional
        The file that the fault is in.
    line : int, optional
        Line number in `file`, counted from 1.
    byte : int, optional
        Byte offset in `file` (of the uncompressed text), counted from 0.
    remedy : str, optional
        What the user can do about it.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line for this class of error.

    Notes
    -----
    ``str(error)`` is ``FILE:LINE: MESSAGE; REMEDY``, and always one line.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        byte: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else os.fspath(file)
        self.line = line
        self.byte = byte
        self.remedy = remedy

    @property
    def place(self) -> str:
        """Where it is: ``FILE:LINE``, ``FILE byte N``, ``line N`` or an empty string."""
        parts = self.file or ""
        if self.line is not None:
            parts = f"{parts}:{self.line}" if parts else f"line {self.line}"
        if self.byte is not None:
            parts = f"{parts} byte {self.byte}".lstrip()
        return parts

    def at(
        self,
        *,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        byte: int | None = None,
    ) -> KmemError:
        """Fill in what is not yet known about the place, and return the error itself.

        Meant for re-raising on the way up: ``raise error.at(file=path)``.
        """
        if self.file is None and file is not None:
            self.file = os.fspath(file)
        if self.line is None:
            self.line = line
        if self.byte is None:
            self.byte = byte
        return self

    def __str__(self) -> str:
        text = self.message
        if self.place:
            text = f"{self.place}: {text}"
        if self.remedy:
            text = f"{text}; {self.remedy}"
        return " ".join(text.split())


class InputError(KmemError):
    """A file or stream is damaged, of the wrong kind, or says something absurd."""


class UsageError(KmemError, ValueError):
    """An argument or option is not one that kmem can act on."""


class ConfigError(UsageError):
    """A machine description, preset or knob is unknown, absurd or contradicts another."""


class NotSupportedError(KmemError):
    """The input is sound, but of a kind that this version does not handle."""


class StateError(KmemError, RuntimeError, ValueError):
    """The modelled machine is not in a state in which the call makes sense.

    It is a ValueError, too: what was passed (a destroyed cache or pool, a machine
    that is closed, an address that is free) is no value that the call can take.

    Raised for a double free, for a frame that was never handed out, for a
    closed machine, and by ``validate()`` when a structure contradicts itself.
    """


class DifferenceError(KmemError):
    """The model and the recording, or two states, differ (exit status 1)."""

    exit_code = 1


class KernelReport(KmemError):
    """What a kernel would print about a fault of the code that runs in it.

    Parameters
    ----------
    text : str
        The kernel's own text, one or more lines, without time stamps.

    Attributes
    ----------
    text : str
        As given. The first line that says something is the message of the error.
    """

    exit_code = 1

    def __init__(self, text: str) -> None:
        # lines of dashes and equals signs only frame the report
        lines = [line for line in text.splitlines() if line.strip("-=[] ") and "cut here" not in line]
        super().__init__(lines[0] if lines else "(empty report)")
        self.text = text

    @property
    def lines(self) -> list[str]:
        """The lines of the report."""
        return self.text.splitlines()


class KernelWarning(KernelReport):
    """A report after which the kernel goes on: a WARNING, a slab found damaged, sleeping in atomic context."""


class KernelOops(KernelReport):
    """The kernel touched an address that nothing is mapped at, or that it may not touch."""


class KernelBug(KernelOops):
    """A condition that the kernel holds to be impossible (BUG)."""


class KernelPanic(KernelReport):
    """The kernel stops for good."""


class SegmentationFault(KmemError):
    """A process touched an address that it has not mapped, or may not touch in this way (SIGSEGV)."""

    exit_code = 1


class ProcessKilled(KmemError):
    """A process was killed while it was in the kernel: by the OOM killer, or on request (SIGKILL)."""

    exit_code = 1


class DeadlockError(KmemError):
    """All tasks wait, and nobody is left to wake them."""

    exit_code = 1
