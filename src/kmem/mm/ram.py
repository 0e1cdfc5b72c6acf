# SPDX-License-Identifier: GPL-2.0-only
"""The machine's physical memory: bytes that are there once they are touched.

The whole physical address space is one sparse file in memory, mapped once.
A page of it costs nothing before its first write, so a machine of any size
starts at once.  The same file can be mapped a second time elsewhere, which is
how memory that is scattered in frames becomes contiguous to its user
(:meth:`Ram.map_frames`)::

    file     | 0 | 1 | 2 | 3 | 4 | ...          physical memory, frame by frame
    base     | 0 | 1 | 2 | 3 | 4 | ...          mapped once, in order
    view     | 3 | 1 | 2 |                      frames 3, 1, 2 mapped again: the same bytes

Where the host has no such files the memory is anonymous: everything works but ``map_frames``.

Source: arch/x86/mm/init_64.c:init_memory_mapping @6.1.192
Differs: the bytes of the whole physical address space are there, holes and device memory included.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kmem.errors import NotSupportedError, UsageError

__all__ = ["Ram", "runs_of"]

_MAP_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)
_MAP_FIXED: Final = 0x10
_PROT_NONE: Final = 0
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
#: fallocate: give the pages of a range back, without changing the file's size.
_FALLOC_FL_PUNCH_HOLE_KEEP_SIZE: Final = 0x03
#: From so many bytes on memory is cleared by giving it back to the host.
_PUNCH_BYTES: Final = 64 << 10
#: Mappings that are left to everything else in this process.
_SPARE_MAPS: Final = 4096
_DEFAULT_MAX_MAP_COUNT: Final = 65530

# Mappings of this process that were made here: the host counts them all together.
_nr_maps = 0


def runs_of(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Return frames, in their order, as runs (first frame, count) of adjacent ones."""
    runs: list[tuple[int, int]] = []
    for pfn in frames:
        if runs and runs[-1][0] + runs[-1][1] == pfn:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((pfn, 1))
    return runs


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
        The file behind it; offsets are physical addresses. -1 if there is none.
    base : int
        Address, in this process, of physical address 0.
    u32, u64 : memoryview
        All of it as 32-bit and 64-bit numbers: the index is the physical address divided by 4 or 8.
    """

    def __init__(self, size_bytes: int) -> None:
        if size_bytes <= 0 or size_bytes % mmap.PAGESIZE:
            raise UsageError(f"{size_bytes} bytes of memory are not a whole number of pages")
        self.size_bytes = size_bytes
        self.fd = _memory_file(size_bytes)
        try:
            if self.fd >= 0:
                self._map = mmap.mmap(self.fd, size_bytes, flags=mmap.MAP_SHARED | _MAP_NORESERVE)
            else:
                self._map = mmap.mmap(-1, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except (OSError, ValueError, OverflowError) as error:
            self.close()
            raise UsageError(
                f"the host does not map {size_bytes} bytes: {error}", remedy="boot a smaller machine"
            ) from error
        self._view = memoryview(self._map)
        self.u32 = self._view.cast("I")
        self.u64 = self._view.cast("Q")
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def __contains__(self, phys: object) -> bool:
        return isinstance(phys, int) and 0 <= phys < self.size_bytes

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
        """Zero `size` bytes; large pieces are given back to the host, and cost nothing until they are touched."""
        view = self.view(phys, size)
        if size >= _PUNCH_BYTES and self.fd >= 0 and not (phys | size) % mmap.PAGESIZE and _punch(self.fd, phys, size):
            return
        ctypes.memset(self.base + phys, 0, len(view))

    def resident_bytes(self) -> int:
        """Return how much of the host's memory is in use: what has been touched."""
        return os.fstat(self.fd).st_blocks * 512 if self.fd >= 0 else self.size_bytes

    def map_frames(self, frames: Sequence[int]) -> memoryview:
        """Map frames a second time, one behind the other, and return all of it as one writable view.

        The mapping lives as long as the view, or anything made of it.

        Raises
        ------
        NotSupportedError
            If the host cannot do it: it has no files in memory, or allows no more mappings.

        Notes
        -----
        One system call for each run of adjacent frames.
        """
        return memoryview(self.map_runs(runs_of(frames))).cast("B")

    def map_runs(self, runs: Sequence[tuple[int, int]]) -> ctypes.Array[ctypes.c_char]:
        """Map runs (first frame, count); see :meth:`map_frames`."""
        if self.fd < 0:
            raise NotSupportedError("the host has no files in memory to map twice", remedy="use read() and write()")
        if _nr_maps + len(runs) + 1 > _max_maps():
            raise NotSupportedError(
                f"{len(runs)} scattered pieces exceed what the host allows to map (vm.max_map_count)",
                remedy="use read() and write(), or raise the limit",
            )
        size = sum(count for _, count in runs) * mmap.PAGESIZE
        libc = _libc()
        start = libc.mmap(None, size, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
        if start in (None, _MAP_FAILED):
            raise NotSupportedError(f"the host has no {size} bytes of addresses", remedy="use read() and write()")
        _count_maps(len(runs) + 1)
        offset = 0
        for pfn, count in runs:
            length = count * mmap.PAGESIZE
            self.view(pfn * mmap.PAGESIZE, length)  # inside?
            flags = mmap.MAP_SHARED | _MAP_FIXED | _MAP_NORESERVE
            prot = mmap.PROT_READ | mmap.PROT_WRITE
            got = libc.mmap(start + offset, length, prot, flags, self.fd, pfn * mmap.PAGESIZE)
            if got == _MAP_FAILED:
                code = ctypes.get_errno()
                _unmap(start, size, len(runs) + 1)
                raise NotSupportedError(
                    f"the host refuses to map frames ({errno.errorcode.get(code, code)})",
                    remedy="use read() and write()",
                )
            offset += length
        array = (ctypes.c_char * size).from_address(start)
        weakref.finalize(array, _unmap, start, size, len(runs) + 1)
        return array

    def close(self) -> None:
        """Give the host's memory back: at once, or when the last view that somebody holds is gone."""
        if self.fd < 0 and self._map.closed:
            return
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(BufferError):
            for view in (self.u32, self.u64, self._view):
                view.release()
            self._map.close()


def _memory_file(size_bytes: int) -> int:
    """Return a sparse file in memory; -1 where the host has none."""
    try:
        fd = os.memfd_create("kmem-ram", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return -1
    try:
        os.ftruncate(fd, size_bytes)
    except OSError as error:
        os.close(fd)
        raise UsageError(
            f"the host has no file of {size_bytes} bytes in memory: {error}", remedy="boot a smaller machine"
        ) from error
    return fd


_libc_handle: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _libc_handle
    if _libc_handle is None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
        ]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        _libc_handle = libc
    return _libc_handle


def _punch(fd: int, offset: int, size: int) -> bool:
    return bool(_libc().fallocate(fd, _FALLOC_FL_PUNCH_HOLE_KEEP_SIZE, offset, size) == 0)


def _count_maps(count: int) -> None:
    global _nr_maps
    _nr_maps += count


def _unmap(start: int, size: int, nr_maps: int) -> None:
    _libc().munmap(start, size)
    _count_maps(-nr_maps)


def _max_maps() -> int:
    """Return how many mappings may be made here."""
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        limit = _DEFAULT_MAX_MAP_COUNT
    return limit - _SPARE_MAPS
