# SPDX-License-Identifier: GPL-2.0-only
"""Reading recordings: JSON objects, one a line, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import zstandard

from kmem.errors import InputError

__all__ = ["Record", "number", "open_recording", "read_records", "text"]

Record = dict[str, Any]
"""One line of a recording."""


def open_recording(path: Path) -> BinaryIO:
    """Open a recording for reading, whatever it is compressed with (gzip, zstd, nothing).

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if magic == b"\x28\xb5\x2f\xfd":
        return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(raw, closefd=True))
    return raw


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers and lines; damage to the compression is an InputError at the line where it shows."""
    line = 0
    with open_recording(path) as stream:
        pending = b""
        while True:
            try:
                chunk = stream.read(1 << 20)
            except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
                raise InputError(
                    f"compressed data is damaged or cut off ({error})",
                    file=path,
                    line=line + 1,
                    remedy="fetch the recording again",
                ) from None
            if not chunk:
                break
            parts = (pending + chunk).split(b"\n")
            pending = parts.pop()
            for part in parts:
                line += 1
                yield line, part
        if pending:
            yield line + 1, pending


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield the records of a recording with their line numbers, from 1.

    Parameters
    ----------
    path : Path
        A ``.jsonl`` file, plain or compressed.

    Yields
    ------
    line : int
        Line number.
    record : dict
        The JSON object on the line. Empty lines are passed over.

    Raises
    ------
    InputError
        If the file is damaged, or a line is no JSON object.
    """
    for line, raw in _lines(path):
        if not raw.strip():
            continue
        try:
            record = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise InputError(
                f"no JSON: {error}", file=path, line=line, remedy="recordings hold one JSON object a line"
            ) from None
        if not isinstance(record, dict):
            raise InputError("not a JSON object", file=path, line=line, remedy="recordings hold one JSON object a line")
        yield line, record


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
