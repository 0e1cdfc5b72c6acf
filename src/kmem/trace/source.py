# SPDX-License-Identifier: GPL-2.0-only
"""Files as streams of bytes: plain, gzip, zstd or xz, told apart by their first bytes.

A compressed file that ends early or is damaged further on gives everything up
to there, and a note.  Memory is bounded whatever a file claims to hold.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import IO, Any

from kmem.errors import InputError

__all__ = ["BINARY_MAGIC", "CHUNK_BYTES", "TABLE_MAGIC", "ByteSource"]

CHUNK_BYTES = 1 << 20
# A few bytes of zstd can stand for a block of 128 KiB: small steps bound what one step returns.
_PIECE_BYTES = 1 << 16
_COMPRESSED_STEP = {"gzip": 1 << 16, "xz": 1 << 14, "zstd": 1 << 11}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
_OTHER_MAGIC = {
    b"BZh": ("a bzip2 file", "decompress it with bunzip2 first"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x7fELF": ("an ELF file", "give a trace as text"),
}


#: How binary recordings begin, which are mapped and not read as a stream.
BINARY_MAGIC = (b"\x17\x08\x44tracing", b"PERFILE2", b"2ELIFREP")

#: How files with the event table itself begin, and what they are called.
TABLE_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow"}


def _unpacker(kind: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """An object that unpacks, and its errors; what a file does not need is not imported."""
    if kind == "gzip":
        import zlib

        return zlib.decompressobj(wbits=31), (zlib.error, EOFError)
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError, EOFError)
    import lzma

    return lzma.LZMADecompressor(memlimit=1 << 28), (lzma.LZMAError, EOFError)


class ByteSource:
    """The uncompressed bytes of a file, in chunks.

    Parameters
    ----------
    path : str or os.PathLike
        File to read; ``-`` is standard input.
    chunk_bytes : int
        Size of the chunks of a plain file.
    name : str, optional
        What messages call the file, if not by its path.

    Attributes
    ----------
    name : str
        What messages call the file.
    compression : str
        ``gzip``, ``zstd``, ``xz`` or empty.
    size_bytes : int or None
        Size of the file as stored, None if it cannot be known.
    consumed_bytes : int
        Bytes of the file read so far, for showing progress.
    note : str
        Why the data ended early, empty if it did not.

    Raises
    ------
    InputError
        The file cannot be opened, is empty, or is of a kind that is certainly
        not a trace text.
    """

    def __init__(self, path: str | os.PathLike[str], chunk_bytes: int = CHUNK_BYTES, name: str = "") -> None:
        self.name = name or ("standard input" if os.fspath(path) == "-" else os.fspath(path))
        self.chunk_bytes = chunk_bytes
        self.consumed_bytes = 0
        self.note = ""
        self.size_bytes: int | None = None
        self._file = self._open(path)
        try:
            self._head = self._file.read(max(chunk_bytes, 16) if chunk_bytes < CHUNK_BYTES else CHUNK_BYTES)
            self._check_head()
        except OSError as error:
            self.close()
            raise InputError(f"cannot be read: {error.strerror or error}", file=self.name) from None
        except BaseException:
            self.close()
            raise
        self.compression = next((kind for magic, kind in _MAGIC.items() if self._head.startswith(magic)), "")

    def _open(self, path: str | os.PathLike[str]) -> IO[bytes]:
        if os.fspath(path) == "-":
            return sys.stdin.buffer
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115  closed by close()
            self.size_bytes = os.fstat(file.fileno()).st_size or None
        except OSError as error:
            remedy = "name a trace file inside it" if isinstance(error, IsADirectoryError) else None
            raise InputError(f"cannot be opened: {error.strerror or error}", file=self.name, remedy=remedy) from None
        return file

    def _check_head(self) -> None:
        if not self._head:
            raise InputError(
                "the file is empty", file=self.name, remedy="record with tracing_on=1 and events/kmem/enable=1"
            )
        for magic, (kind, remedy) in _OTHER_MAGIC.items():
            if self._head.startswith(magic):
                raise InputError(f"is {kind}, not a trace text", file=self.name, byte=0, remedy=remedy)

    def close(self) -> None:
        """Close the file (standard input stays open)."""
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def mapped(self) -> IO[bytes] | None:
        """Return the file opened anew if its bytes can be mapped as they are, None if they have to be copied."""
        if self.compression or not self.size_bytes or self._file is sys.stdin.buffer:
            return None
        return os.fdopen(os.dup(self._file.fileno()), "rb")

    def _raw(self) -> Iterator[bytes]:
        data = self._head
        self._head = b""
        while data:
            self.consumed_bytes += len(data)
            yield data
            try:
                data = self._file.read(self.chunk_bytes)
            except OSError as error:
                self.note = f"reading stopped at byte {self.consumed_bytes}: {error.strerror or error}"
                return

    def chunks(self) -> Iterator[bytes]:
        """Yield the uncompressed data once, from the beginning."""
        if not self.compression:
            yield from self._raw()
            return
        unpack, errors = _unpacker(self.compression)
        offset = text_bytes = 0
        started = True
        step = _COMPRESSED_STEP[self.compression]
        for raw in self._raw():
            for start in range(0, len(raw), step):
                data = raw[start : start + step]
                while data:
                    if not started and not data.startswith(tuple(_MAGIC)):
                        self.note = f"trailing bytes after the {self.compression} data at byte {offset} are ignored"
                        return
                    started = True
                    try:
                        for piece in _pieces(self.compression, unpack, data):
                            text_bytes += len(piece)
                            yield piece
                    except errors:
                        # A checksum stands at the end: the damage may lie anywhere before the place where it shows.
                        end = offset + len(data)
                        self.note = (
                            f"the {self.compression} data is damaged somewhere before byte {end} of the file; "
                            f"{text_bytes} bytes of text came before that was noticed"
                        )
                        return
                    rest = unpack.unused_data if unpack.eof else b""
                    offset += len(data) - len(rest)
                    data = rest
                    if unpack.eof:
                        unpack, errors = _unpacker(self.compression)
                        started = False
        if started and not self.note:
            self.note = f"the {self.compression} data is cut off at byte {offset}"


def _pieces(kind: str, unpack: Any, data: bytes) -> Iterator[bytes]:
    """Decompress one step, handing out what comes before an error."""
    if kind == "xz":
        while True:
            piece = unpack.decompress(data, CHUNK_BYTES)
            if piece:
                yield piece
            if unpack.eof or unpack.needs_input:
                break
            data = b""
    elif kind == "gzip":
        while data and not unpack.eof:
            piece = unpack.decompress(data, _PIECE_BYTES)
            data = unpack.unconsumed_tail
            if piece:
                yield piece
    else:
        piece = unpack.decompress(data)
        if piece:
            yield piece
