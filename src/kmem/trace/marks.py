# SPDX-License-Identifier: GPL-2.0-only
"""Lines of ftrace text that are no memory requests, but tell when something happened.

The event table holds requests and what concerns them; other events of a recording
are only counted by its reader.  :func:`find_marks` finds some of them again, with their times.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kmem.trace.source import BINARY_MAGIC, CHUNK_BYTES, ByteSource

__all__ = ["Mark", "find_marks"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One event.

    Attributes
    ----------
    time_ns : int
        By the trace's clock.
    pid : int
        Thread that it happened in.
    event : str
    """

    time_ns: int
    pid: int
    event: str


def find_marks(path: str | os.PathLike[str], events: Sequence[str]) -> list[Mark]:
    """Find events by name in a text of ftrace.

    Parameters
    ----------
    path : str or os.PathLike
        Text, packed or plain. In binary recordings and folders nothing is found.
    events : sequence of str
        Beginnings of names.

    Returns
    -------
    list of Mark
        In the order of the text.

    Raises
    ------
    InputError
        If the file cannot be read.

    Notes
    -----
    Complexity: O(bytes).
    """
    if os.path.isdir(path):
        return []
    names = b"|".join(re.escape(name.encode()) for name in events)
    line = re.compile(
        rb"^ *[^\n]{1,16}-(\d{1,7}) [^\n]{0,40}? (\d{1,10})\.(\d{6,9}): ((?:" + names + rb")\w*):", re.MULTILINE
    )
    return [
        Mark(
            int(match[2]) * 1_000_000_000 + int(match[3].ljust(9, b"0")),
            int(match[1]),
            match[4].decode(),
        )
        for text in _whole_lines(path)
        for match in line.finditer(text)
    ]


def _whole_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The text in pieces that end with a line."""
    source = ByteSource(path, CHUNK_BYTES)
    try:
        rest = b""
        for chunk in source.chunks():
            if not rest and chunk.startswith(BINARY_MAGIC):
                return
            text = rest + chunk
            end = text.rfind(b"\n") + 1
            rest = text[end : end + CHUNK_BYTES]
            yield text[:end]
        yield rest
    finally:
        source.close()
