# SPDX-License-Identifier: GPL-2.0-only
"""A machine's memory by its addresses: look at it, read it, write it, and see how it is mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem.errors import StateError
from kmem.mm import access

if TYPE_CHECKING:
    from kmem.machine.memory_map import MemoryMap
    from kmem.mm.kernel import Kernel
    from kmem.mm.pgtable import Walk

__all__ = ["MemoryAccess"]


class MemoryAccess:
    """Access to memory by virtual addresses; part of :class:`kmem.machine.machine.Machine`."""

    @property
    def kernel(self) -> Kernel:
        """The machine's running kernel."""
        raise NotImplementedError

    def memory(self, addr: int, size: int, process: Any = None) -> memoryview:
        """Return `size` bytes at an address as a writable view; nothing is copied.

        Parameters
        ----------
        addr, size : int
            An address of the kernel, or of a process.
        process : optional
            The process whose address it is, and which makes the access; otherwise the kernel does.

        Returns
        -------
        memoryview
            For NumPy, ctypes and everything else that takes buffers. It is contiguous even where frames are not, and
            follows the frames: it stays valid, as a pointer in C would not, when the address is unmapped.

        Raises
        ------
        KernelOops, SegmentationFault
            At the first address that cannot be touched.
        NotSupportedError
            The frames are scattered into more pieces than the host maps (``vm.max_map_count``, some 60,000 pieces in
            all), or it is device memory: use :meth:`read` and :meth:`write`.

        Notes
        -----
        A first view of scattered frames takes some microseconds for each run of them; that of a vmalloc area is kept
        until the area is freed.
        """
        return access.memory(self.kernel, addr, size, process)

    def read(self, addr: int, size: int, process: Any = None) -> bytes:
        """Return a copy of `size` bytes at an address; see :meth:`memory`."""
        return access.read(self.kernel, addr, size, process)

    def write(self, addr: int, data: Any, process: Any = None) -> None:
        """Copy bytes, or any buffer, to an address; see :meth:`memory`. All of it is written, or nothing."""
        access.write(self.kernel, addr, data, process)

    def walk(self, process: Any, addr: int) -> Walk:
        """Return the page table entries that an address leads through, top level first.

        Parameters
        ----------
        process
            A process, or None for the kernel's own tables.
        addr : int
        """
        return access.walk(self.kernel, process, addr)

    def vmallocinfo(self) -> str:
        """Return what ``/proc/vmallocinfo`` shows to root."""
        kernel = self.kernel
        if kernel.closed:
            raise StateError("the machine has been shut down", remedy="boot another one")
        return kernel.vmalloc.vmallocinfo()

    def map(self) -> MemoryMap:
        """Return the memory map as it is now: it prints itself, and draws itself in notebooks."""
        from kmem.machine.machine import Machine
        from kmem.machine.memory_map import memory_map

        assert isinstance(self, Machine)
        return memory_map(self)
