# SPDX-License-Identifier: GPL-2.0-only
"""Kernel logs: their lines without the frills of whoever stored them.

A line comes from dmesg, the console, journald or syslog, with or without time
stamps, perhaps wrapped on its way through a mail or a narrow terminal.
:func:`read_log` yields what the kernel printed.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from kmem.errors import InputError
from kmem.trace.source import ByteSource

__all__ = ["LogLine", "log_lines", "read_log"]

_MAX_LINE = 1 << 16
_LEARNED_LINES = 5000
_EXPORT_FIELD = re.compile(r"[A-Z_][A-Z_0-9]*=")
_KMSG = re.compile(r"(\d+),\d+,(\d+),[^;]*;(.*)", re.DOTALL)
_LEVEL = re.compile(r"<\d{1,3}>")
_STAMP = re.compile(r"\[ *(\d+)\.(\d{6})\](?:\[ *[TC]\d+\])? ?")
_WALL_STAMP = re.compile(r"\[\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\] ")
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.,\d]*(?:[+-]\d\d:?\d\d|Z)? ")
_SYSLOG = re.compile(
    r"(?:\w{3} +\d+ \d\d:\d\d:\d\d(?:\.\d+)?|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.,\d]*(?:[+-]\d\d:?\d\d|Z)?)"
    r" \S+ kernel(?:\[\d+\])?: "
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that the kernel printed.

    Attributes
    ----------
    number : int
        Line of the file, from 1.
    text : str
        Without time stamp and prefix.
    time_us : int or None
        Microseconds since boot, where the log says.
    stamped : bool
        Whether the line had any prefix, so that it is the beginning of a line.
    """

    number: int
    text: str
    time_us: int | None
    stamped: bool


def _bare(raw: str) -> tuple[str, int | None, bool]:
    """Take the prefixes off a raw line: text, time, and whether there were any."""
    stamped = False
    kmsg = _KMSG.fullmatch(raw)
    if kmsg:
        return kmsg[3], int(kmsg[2]), True
    time_us: int | None = None
    text = raw
    for pattern in (_SYSLOG, _ISO, _LEVEL, _WALL_STAMP):
        match = pattern.match(text)
        if match:
            text, stamped = text[match.end() :], True
    match = _STAMP.match(text)
    if match:
        time_us, text, stamped = int(match[1]) * 1_000_000 + int(match[2]), text[match.end() :], True
    return text, time_us, stamped


def _journal(raw: str) -> str | None:
    """The message of a line of ``journalctl -o json``, None if it is not one."""
    if not (raw.startswith("{") and '"MESSAGE"' in raw):
        return None
    try:
        entry = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    message = entry.get("MESSAGE") if isinstance(entry, dict) else None
    if isinstance(message, list):  # bytes that are no UTF-8
        message = bytes(b for b in message if isinstance(b, int) and 0 <= b < 256).decode("utf-8", "replace")
    return message if isinstance(message, str) else None


def log_lines(raw_lines: Iterable[str]) -> Iterator[LogLine]:
    """Yield the kernel's lines of a log, wrapped ones put together again.

    Parameters
    ----------
    raw_lines : iterable of str
        Lines without their line breaks.

    Notes
    -----
    A line without a prefix, in a log whose lines have one, goes on with the
    line before it.  If lines that are gone on with are all equally long, the
    log was cut at that width, perhaps within words; else it was cut at spaces.
    """
    raw = iter(raw_lines)
    ahead = list(itertools.islice(raw, _LEARNED_LINES))
    width = _cut_width(ahead)
    held: LogLine | None = None
    held_raw = ""
    prefixes = False
    export = False
    for number, line in enumerate(itertools.chain(ahead, raw), 1):
        message = _journal(line)
        if message is None and line.startswith("MESSAGE="):
            message, export = line[8:], True
        if message is None and export and (not line or _EXPORT_FIELD.match(line)):
            continue
        if message is not None:
            for part in message.split("\n"):
                if held is not None:
                    yield held
                text, time_us, _ = _bare(part)
                held, prefixes, held_raw = LogLine(number, text, time_us, True), True, line
            continue
        text, time_us, stamped = _bare(line)
        prefixes = prefixes or stamped
        if not stamped and prefixes and held is not None and text.strip() and len(held.text) + len(text) < _MAX_LINE:
            glue = "" if len(held_raw) == width or held.text.endswith(" ") or text.startswith(" ") else " "
            held = LogLine(held.number, held.text + glue + text, held.time_us, True)
            held_raw = line
            continue
        if held is not None:
            yield held
        held, held_raw = LogLine(number, text, time_us, stamped), line
    if held is not None:
        yield held


def _cut_width(lines: list[str]) -> int:
    """The width that a log was cut at, within words if it came to that; 0 if it was not."""
    stamped = [_bare(line)[2] for line in lines]
    widths = [len(lines[i - 1]) for i in range(1, len(lines)) if not stamped[i] and lines[i].strip()]
    if not widths or not any(stamped):
        return 0
    width = max(widths)
    return width if widths.count(width) >= 0.9 * len(widths) else 0


def read_log(path: str | Path) -> Iterator[LogLine]:
    """Yield the kernel's lines of a log file.

    Parameters
    ----------
    path : str or Path
        Text, plain or compressed; ``-`` is standard input. Lines of other
        programs are yielded, too: nothing tells them apart for certain.

    Raises
    ------
    InputError
        If the file cannot be read, is empty or is binary.
    """
    yield from log_lines(_raw_lines(path))


def _raw_lines(path: str | Path) -> Iterator[str]:
    rest = b""
    line = 0
    try:
        source = ByteSource(str(path))
    except InputError as error:
        message = error.message.removesuffix(", not a trace text")
        raise InputError(message, file=error.file, byte=error.byte, remedy="give the output of dmesg") from None
    with contextlib.closing(source):
        for chunk in source.chunks():
            parts = (rest + chunk).split(b"\n")
            rest = parts.pop()[: _MAX_LINE * 16]  # the rest of a longer line is of no use
            for part in parts:
                line += 1
                if b"\0" in part and line <= 4:
                    raise InputError("not a text", file=source.name, line=line, remedy="give the output of dmesg")
                yield part[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r")
