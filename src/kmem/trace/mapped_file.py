# SPDX-License-Identifier: GPL-2.0-only
"""A binary recording as bytes that are addressed by their offset.

The file is mapped, so that a section costs nothing until it is looked at, and
what has been read is given back to the system while reading goes on.  Every
access names what it is for: an offset or a length that lies is an error that
tells the place, and nothing is allocated for a length that has not been
compared with the file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable
from typing import IO

from kmem.errors import InputError, NotSupportedError

__all__ = ["Cursor", "MappedFile"]

_MOST_SPOOLED = 1 << 32
_MOST_RATIO = 256
_MOST_STRING = 4096


class MappedFile:
    """The bytes of a binary recording.

    Parameters
    ----------
    file : file object
        An ordinary file, opened for reading in binary mode; closed with this.
    name : str
        What messages call it.

    Attributes
    ----------
    name : str
    size : int
        Bytes in it.
    data : mmap.mmap
        The bytes.

    Raises
    ------
    InputError
        The file cannot be mapped.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self._file = file
        try:
            self.size = os.fstat(file.fileno()).st_size
            self.data = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be mapped: {error}", file=name) from None
        self.view = memoryview(self.data)

    @classmethod
    def spooled(cls, chunks: Iterable[bytes], name: str, stored_bytes: int | None) -> MappedFile:
        """Make one of a stream, through a temporary file.

        Parameters
        ----------
        chunks : iterable of bytes
            The stream.
        name : str
            What messages call it.
        stored_bytes : int or None
            Size of the packed file that the stream comes from: what unpacks to
            more than 256 times as much (and more than 4 GiB) is refused.
        """
        import tempfile  # only what is packed or piped needs it

        most = max(_MOST_SPOOLED, _MOST_RATIO * stored_bytes) if stored_bytes is not None else None
        file = tempfile.TemporaryFile(prefix="kmem-")  # noqa: SIM115  closed by close()
        try:
            size = 0
            for chunk in chunks:
                size += len(chunk)
                if most is not None and size > most:
                    raise InputError(f"unpacks to more than {most} bytes", file=name, remedy="unpack it yourself")
                file.write(chunk)
            file.flush()
            return cls(file, name)
        except OSError as error:
            file.close()
            raise InputError(
                f"cannot be unpacked: {error.strerror or error}", file=name, remedy="set TMPDIR to where there is room"
            ) from None
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Unmap and close the file, as far as nothing refers to its bytes any more."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self.data.close()
        self._file.close()

    def release(self, start: int, stop: int) -> None:
        """Tell the system that a range has been read; it can still be read again."""
        page = mmap.ALLOCATIONGRANULARITY
        start = start // page * page
        if stop > start:
            self.data.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def at(self, offset: int, size: int, what: str) -> memoryview:
        """Return `size` bytes from `offset` on.

        Raises
        ------
        InputError
            They do not lie in the file; `what` says what they were to be.
        """
        if offset < 0 or size < 0 or offset > self.size or size > self.size - offset:
            raise InputError(
                f"{what} should be {size} bytes, but the file ends at byte {self.size}",
                file=self.name,
                byte=offset,
                remedy="the file is damaged or cut off; copy or record it again",
            )
        return self.view[offset : offset + size]


class Cursor:
    """Reads numbers and strings one after the other out of a part of a file.

    Parameters
    ----------
    data : memoryview or bytes
        The part.
    name : str
        Name of the file.
    base : int
        Offset in the file where the part (or its packed form) begins, for messages.
    big_endian : bool
        Byte order of the recorded machine.
    """

    def __init__(self, data: memoryview | bytes, name: str, base: int = 0, *, big_endian: bool = False) -> None:
        self.data = memoryview(data)
        self.name = name
        self.base = base
        self.at = 0
        self.order = ">" if big_endian else "<"

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self.data) - self.at

    def error(self, message: str) -> InputError:
        """Make an error that names the place."""
        return InputError(message, file=self.name, byte=self.base + self.at)

    def take(self, size: int, what: str) -> memoryview:
        """Return the next `size` bytes."""
        if size < 0 or size > self.left:
            raise InputError(
                f"{what} should be {size} bytes, but only {self.left} are left",
                file=self.name,
                byte=self.base + self.at,
                remedy="the file is damaged or cut off; copy or record it again",
            )
        piece = self.data[self.at : self.at + size]
        self.at += size
        return piece

    def number(self, size: int, what: str) -> int:
        """Return the next unsigned number of 1, 2, 4 or 8 bytes."""
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
        value: int = struct.unpack(self.order + code, self.take(size, what))[0]
        return value

    def string(self, what: str, most: int = _MOST_STRING) -> str:
        """Return the text up to the next zero byte, at most `most` bytes away."""
        piece = bytes(self.data[self.at : self.at + most])
        end = piece.find(b"\0")
        if end < 0:
            raise self.error(f"{what} has no end")
        self.at += end + 1
        return piece[:end].decode("utf-8", "replace")


def unsupported(message: str, file: MappedFile, byte: int, remedy: str | None = None) -> NotSupportedError:
    """Make the error for what is sound but beyond this reader."""
    return NotSupportedError(message, file=file.name, byte=byte, remedy=remedy)
