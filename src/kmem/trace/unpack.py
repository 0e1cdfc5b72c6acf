# SPDX-License-Identifier: GPL-2.0-only
"""Unpacking of compressed pieces of a recording, never to more than they claim."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from kmem.errors import InputError, NotSupportedError

__all__ = ["unpacker"]

Unpack = Callable[[bytes | memoryview, int], bytes]


class _Failed(Exception):
    """The data cannot be unpacked."""


def _zlib(data: bytes | memoryview, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise _Failed(str(error)) from None


def _zstd(data: bytes | memoryview, size: int) -> bytes:
    import zstandard  # only compressed recordings need it

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(bytes(data)) as reader:
            return reader.read(size + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise _Failed(str(error)) from None


_KINDS: dict[str, Unpack] = {"zlib": _zlib, "zstd": _zstd}


def unpacker(kind: str, name: str, byte: int) -> Unpack:
    """Return the function that unpacks one piece.

    Parameters
    ----------
    kind : str
        ``zlib`` or ``zstd``.
    name : str
        The file, for messages.
    byte : int
        Where in it the kind is named.

    Returns
    -------
    callable
        Takes the packed bytes and the size that they must unpack to; raises
        InputError if they do not.
    """
    unpack = _KINDS.get(kind)
    if unpack is None:
        raise NotSupportedError(
            f"compressed with {kind[:20]!r}, which is not known",
            file=name,
            byte=byte,
            remedy="convert it with `trace-cmd convert --compression none`",
        )

    def exactly(data: bytes | memoryview, size: int) -> bytes:
        try:
            found = unpack(data, size)
        except _Failed as error:
            raise InputError(f"{kind} data cannot be unpacked: {error}", file=name) from None
        if len(found) != size:
            claims = f"more than {size}" if len(found) > size else str(len(found))
            raise InputError(f"{kind} data unpacks to {claims} bytes where {size} are announced", file=name)
        return found

    return exactly
