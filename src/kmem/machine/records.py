# SPDX-License-Identifier: GPL-2.0-only
"""Reading recordings: JSON objects, one a line, plain or compressed."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import zstandard

from kmem.errors import InputError

__all__ = ["UNREADABLE", "Record", "number", "open_recording", "read_records", "text"]

Record = dict[str, Any]
"""One line of a recording."""

#: What reading an open recording may raise: it cannot be read, is cut off, or its packing is damaged.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_REMEDY = "recordings hold one JSON object a line"


def open_recording(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed by what it begins with (gzip, zstd, xz or plain).

    Raises
    ------
    OSError
        If there is no such file or it may not be read.
    """
    with path.open("rb") as probe:
        magic = probe.read(6)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(path))
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        # zstandard's own reader does not read line by line.
        return io.BufferedReader(cast(io.RawIOBase, zstandard.open(path, "rb")), 1 << 17)
    if magic == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.open(path))
    return path.open("rb")


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield the records of a recording with their line numbers, from 1.

    Parameters
    ----------
    path : Path
        A JSON Lines file, plain or compressed.

    Yields
    ------
    line : int
        Line number.
    record : dict
        The JSON object on the line. Empty lines are passed over.

    Raises
    ------
    InputError
        If the file cannot be read, is cut off, or a line is no JSON object.
    """
    line = 0
    try:
        with open_recording(path) as stream:
            for line, raw in enumerate(stream, 1):
                if raw.isspace():
                    continue
                try:
                    record = orjson.loads(raw)
                except orjson.JSONDecodeError as error:
                    raise InputError(f"not JSON: {error}", file=path, line=line, remedy=_REMEDY) from None
                if not isinstance(record, dict):
                    raise InputError("not a JSON object", file=path, line=line, remedy=_REMEDY)
                yield line, record
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read to its end: {reason}", file=path, line=line or None) from None


def number(record: Record, key: str) -> int:
    """Return an integer field; hexadecimal strings (``"0xcc0"``) are read too.

    Raises
    ------
    InputError
        If the field is missing or no integer. The caller adds file and line.
    """
    value = record.get(key)
    if isinstance(value, str):
        try:
            return int(value, 16)
        except ValueError:
            pass
    elif isinstance(value, int):
        return int(value)
    raise InputError(f"field {key!r} is {'missing' if key not in record else f'no number: {value!r}'}")


def text(record: Record, key: str) -> str:
    """Return a string field.

    Raises
    ------
    InputError
        If the field is missing or no string. The caller adds file and line.
    """
    value = record.get(key)
    if isinstance(value, str):
        return value
    raise InputError(f"field {key!r} is {'missing' if key not in record else f'no text: {value!r}'}")
