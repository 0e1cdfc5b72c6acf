# SPDX-License-Identifier: GPL-2.0-only
"""The machine's physical memory: bytes that are there once they are touched.

The whole physical address space is one sparse file in memory, mapped once.
A page of it costs nothing before its first write, so a machine of any size
starts at once.  The same file can be mapped a second time elsewhere, which is
how memory that is scattered in frames becomes contiguous to its user.

Source: arch/x86/mm/init_64.c:init_memory_mapping @6.1.192
Differs: the bytes of the whole physical address space are there, holes and device memory included.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from kmem.errors import UsageError

__all__ = ["Ram"]


class Ram:
    """Physical memory from address 0 up.

    Parameters
    ----------
    size_bytes : int
        End of the highest memory range; a multiple of the page size.

    Attributes
    ----------
    size_bytes : int
    fd : int
        The file behind it; offsets are physical addresses.
    base : int
        Address, in this process, of physical address 0.
    """

    def __init__(self, size_bytes: int) -> None:
        if size_bytes <= 0 or size_bytes % mmap.PAGESIZE:
            raise UsageError(f"{size_bytes} bytes of memory are not a whole number of pages")
        self.size_bytes = size_bytes
        self.fd = os.memfd_create("kmem-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size_bytes)
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_NORESERVE", 0x4000)
            self._map = mmap.mmap(self.fd, size_bytes, flags=flags)
        except (OSError, ValueError, OverflowError) as error:
            os.close(self.fd)
            raise UsageError(
                f"the host does not map {size_bytes} bytes: {error}", remedy="boot a smaller machine"
            ) from error
        self._view = memoryview(self._map)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def view(self, phys: int, size: int) -> memoryview:
        """Return `size` bytes at a physical address as a writable view, without copying.

        Raises
        ------
        UsageError
            If they lie outside physical memory.
        """
        if not 0 <= phys <= phys + size <= self.size_bytes:
            raise UsageError(f"physical addresses {phys:#x} to {phys + size:#x} lie outside {self.size_bytes:#x} bytes")
        return self._view[phys : phys + size]

    def read_u32(self, phys: int) -> int:
        """Read a little-endian 32-bit number."""
        return int.from_bytes(self.view(phys, 4), "little")

    def write_u32(self, phys: int, value: int) -> None:
        """Write a little-endian 32-bit number."""
        self.view(phys, 4)[:] = (value & 0xFFFFFFFF).to_bytes(4, "little")

    def read_u64(self, phys: int) -> int:
        """Read a little-endian 64-bit number."""
        return int.from_bytes(self.view(phys, 8), "little")

    def write_u64(self, phys: int, value: int) -> None:
        """Write a little-endian 64-bit number."""
        self.view(phys, 8)[:] = (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")

    def clear(self, phys: int, size: int) -> None:
        """Zero `size` bytes."""
        ctypes.memset(self.base + phys, 0, len(self.view(phys, size)))

    def close(self) -> None:
        """Give the host's memory back; views that are still held keep the mapping alive."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
