# SPDX-License-Identifier: GPL-2.0-only
"""Kernel messages of a recording: which of them are reports, and what of a report can be compared.

Reports stand between the marks that a recording's script wrote to the log.
:func:`masked` takes out of them what no model can know, or what differs with
every build and boot:

- time stamps; CPU, process number and name; how long ago a track is; the name of the host's hardware;
- registers and code bytes, call traces, addresses of code (``function+0x12/0x34``), list of modules;
- taint, and what the kernel says because of it; page flags;
- the state of memory (``Mem-Info`` and what follows it), which is not recorded with these;
- line numbers in the kernel's source, where the recording is of another update than the one that is followed.

Lines, their order, their log levels, and all else in them stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kmem.errors import InputError
from kmem.machine.records import UNREADABLE, open_recording

__all__ = ["Line", "Section", "masked", "messages_beside", "read_messages", "read_sections"]

Line = tuple[int, str]
"""Log level and text."""

_MARK: Final = "ORACLE-MARK "
_LINE: Final = re.compile(r"(?:<(\d)>)?\[ *\d+\.\d+\] ?(.*)")
_DEFAULT_LEVEL: Final = 4
# Notices and what is below them are no reports, except for what SLAB_TRACE prints.
_LAST_LEVEL: Final = 4
_TRACE: Final = ("TRACE ", "Object ")

_REGISTERS: Final = re.compile(r"(?:[RE][A-Z][A-Z]|R\d\d|R8|Code|[CDEFGS]S|CR\d|PKRU): ?")
_TABLES: Final = re.compile(r"(?:PGD [0-9a-f]+|\*pdp?t? = |\*pde = )")
_SUBSTITUTES: Final = (
    (re.compile(r"^CPU: \d+ PID: \d+ Comm: .*"), "CPU: *"),
    (re.compile(r"^WARNING: CPU: \d+ PID: \d+ at (\S+) .*"), r"WARNING: at \1"),
    (re.compile(r"^(Allocated|Freed) in .* age=\d+ cpu=\d+ pid=-?\d+$"), r"\1 in *"),
    (re.compile(r"^(BUG .*) \((?:Not tainted|Tainted: [^)]*)\): "), r"\1 (*): "),
    (re.compile(r" flags=0x[0-9a-f]+\([^)]*\)$"), " flags=*"),
    (re.compile(r" when called from .*$"), " when called from *"),
    (re.compile(r"^Modules linked in:.*"), "Modules linked in: *"),
    (re.compile(r" \[#(\d+)\] .*$"), r" [#\1]"),
    (re.compile(r"^\S+: (vmalloc error: .*),cpuset=.*"), r"*: \1"),
    (re.compile(r"\[ end trace [0-9a-f]+ \]"), "[ end trace * ]"),
)
_SOURCE_LINE: Final = re.compile(r"\b((?:mm|include|kernel|lib)/[\w./-]+):\d+")


@dataclass(slots=True)
class Section:
    """The lines of one report, or of several that a script caused under one title.

    Attributes
    ----------
    title : str
        What the mark says.
    lines : list of (int, str)
        Log level and text, time stamps taken off.
    """

    title: str
    lines: list[Line] = field(default_factory=list)


def messages_beside(path: Path) -> Path | None:
    """Return the file that holds the kernel messages of a recording, None if there is none.

    That is ``NAME.dmesg.txt`` beside ``NAME.jsonl.gz``, and ``report.dmesg.txt`` beside ``log.jsonl``, also
    compressed (``.gz``, ``.zst``).
    """
    name = path.name.partition(".jsonl")[0]
    for stem in (f"{name}.dmesg.txt", *(["report.dmesg.txt"] if name == "log" else [])):
        for suffix in ("", ".gz", ".zst"):
            if (path.parent / (stem + suffix)).is_file():
                return path.parent / (stem + suffix)
    return None


def read_messages(path: Path) -> str:
    """Read a file of kernel messages, plain or compressed.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        with open_recording(path) as stream:
            return stream.read().decode("utf-8", "replace")
    except UNREADABLE as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=path) from None


def read_sections(path: Path) -> list[Section]:
    """Read the reports of a file of kernel messages, section by section.

    Parameters
    ----------
    path : Path
        Lines as ``dmesg -r`` prints them, ``<3>[    4.147077] text``.

    Returns
    -------
    list of Section
        What stands between ``BEGIN`` and ``END`` marks; a mark of another kind begins a section, too.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    text = read_messages(path)
    sections: list[Section] = []
    current: Section | None = None
    for raw in text.splitlines():
        match = _LINE.fullmatch(raw)
        if match is None:
            continue
        level = int(match[1]) if match[1] else _DEFAULT_LEVEL
        line = match[2]
        if line.startswith(_MARK):
            what, _, title = line.removeprefix(_MARK).partition(" ")
            if what == "END":
                current = None
                continue
            current = Section(title if what == "BEGIN" else f"{what} {title}".strip())
            sections.append(current)
        elif current is not None and (level <= _LAST_LEVEL or line.startswith(_TRACE)):
            current.lines.append((level, line))
    return sections


def masked(lines: Iterable[Line], *, source_lines: bool = True) -> list[Line]:
    """Return what can be compared of the lines of a report.

    Parameters
    ----------
    lines : iterable of (int, str)
    source_lines : bool
        Whether line numbers in the kernel's source can be compared.
    """
    kept: list[Line] = []
    in_memory_state = False
    for level, text in lines:
        if text.startswith("Mem-Info:"):
            in_memory_state = True
            kept.append((level, "Mem-Info: *"))
        if in_memory_state:
            in_memory_state = "pages hwpoisoned" not in text
            continue
        if text.startswith((" ", "Hardware name:", "Disabling lock debugging")):
            continue
        if _REGISTERS.match(text) or _TABLES.match(text):
            continue
        for pattern, substitute in _SUBSTITUTES:
            text = pattern.sub(substitute, text)
        if not source_lines:
            text = _SOURCE_LINE.sub(r"\1:*", text)
        kept.append((level, text))
    return kept
