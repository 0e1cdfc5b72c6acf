# SPDX-License-Identifier: GPL-2.0-only
"""Kernel symbols: addresses to ``function+0xoffset``.

The table is what ``/proc/kallsyms`` prints.  Of several symbols at one address
the first counts, as for the kernel's own ``%pS``.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from kmem.errors import InputError
from kmem.trace.scan_symbols import scan_kallsyms

__all__ = ["Symbols", "read_kallsyms"]

_LARGEST_FILE = 1 << 28
_LARGEST_OFFSET = 1 << 24


class Symbols:
    """A table of kernel symbols.

    Parameters
    ----------
    text : bytes
        As ``/proc/kallsyms`` has it.

    Attributes
    ----------
    shift : int
        What is taken off an address before it is looked up: how much further
        up the recorded kernel was loaded than the table's.

    Notes
    -----
    The text is read at the first lookup, in O(size); a lookup is O(log symbols).
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._addresses: npt.NDArray[np.uint64] | None = None
        self._offsets: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self.shift = 0

    def _load(self) -> npt.NDArray[np.uint64]:
        if self._addresses is None:
            addresses, offsets = scan_kallsyms(self._text)
            if len(addresses) > 1 and bool((addresses[1:] < addresses[:-1]).any()):
                order = np.argsort(addresses, kind="stable")
                addresses, offsets = addresses[order], offsets[order]
            self._addresses, self._offsets = addresses, offsets
        return self._addresses

    def __len__(self) -> int:
        return len(self._load())

    @property
    def usable(self) -> bool:
        """Whether the table has addresses at all: a restricted kernel prints zeros."""
        addresses = self._load()
        return bool(len(addresses)) and int(addresses[-1]) != 0

    def _name(self, index: int) -> str:
        start = int(self._offsets[index])
        piece = self._text[start : start + 512]
        for end, byte in enumerate(piece):
            if byte in b"\t\n\r ":
                return piece[:end].decode("latin-1")
        return piece.decode("latin-1")

    def find(self, address: int) -> tuple[str, int] | None:
        """Return the symbol that an address lies behind, and how far; None if there is none."""
        addresses = self._load()
        address -= self.shift
        if address < 0 or address >> 64 or not len(addresses):
            return None
        at = int(np.searchsorted(addresses, np.uint64(address), side="right"))
        if at == 0:
            return None
        start = addresses[at - 1]
        at = int(np.searchsorted(addresses, start, side="left"))
        if address - int(start) > _LARGEST_OFFSET:
            return None
        return self._name(at), address - int(start)

    def describe(self, address: int) -> str:
        """Return ``function+0xoffset``, or the address where no symbol fits."""
        found = self.find(address)
        return f"{found[0]}+{found[1]:#x}" if found else f"{address:#x}"

    def address_of(self, name: str) -> int | None:
        """Return the address of a symbol by its name."""
        at = self._text.find(f" {name}\n".encode())
        if at < 0:
            return None
        begin = self._text.rfind(b"\n", 0, at) + 1
        try:
            return int(self._text[begin:at].split()[0], 16)
        except (ValueError, IndexError):
            return None


def read_kallsyms(path: str | os.PathLike[str]) -> Symbols:
    """Read a copy of ``/proc/kallsyms``, plain or packed with gzip, zstd or xz.

    Raises
    ------
    InputError
        It cannot be read, or holds no symbol or only zero addresses.
    """
    import gzip
    import lzma
    import zlib

    import zstandard

    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        elif data.startswith(b"\x28\xb5\x2f\xfd"):
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        elif data.startswith(b"\xfd7zXZ"):
            data = lzma.decompress(data)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=name) from None
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise InputError(f"cannot be unpacked: {error}", file=name) from None
    symbols = Symbols(data[:_LARGEST_FILE])
    if not len(symbols):
        raise InputError(
            "no line of /proc/kallsyms in it", file=name, line=1, remedy="copy the recorded machine's file"
        )
    if not symbols.usable:
        raise InputError(
            "all its addresses are zero",
            file=name,
            remedy="copy /proc/kallsyms as root, with kernel.kptr_restrict below 2",
        )
    return symbols
