# SPDX-License-Identifier: GPL-2.0-only
"""Reading and writing memory by its address, as code of the kernel or of a process does.

Every access goes through the page tables.  What cannot be translated is a
fault: a process gets its memory now (demand paging, copy on write) or a
:class:`~kmem.errors.SegmentationFault`; the kernel stops with a
:class:`~kmem.errors.KernelOops`.

:func:`read` and :func:`write` copy, page by page, and work for any address.
:func:`memory` copies nothing: it is a view of the bytes themselves, for NumPy,
ctypes and everything else that takes buffers.  Memory that is contiguous in
frames is a piece of the one mapping of all memory.  Otherwise the host's own
memory management puts the frames together a second time::

    addresses   | page 0  | page 1  | page 2  |     contiguous to the caller
    frames      | 7       | 3       | 90      |     mapped there once more: the same bytes

A view follows its frames, not its address: as a pointer in C, it outlives the
mapping that it was made of, and then shows what has become of the frames.

Source: arch/x86/mm/fault.c, mm/maccess.c @6.1.192
Differs: bytes behind the end of memory read as 0xff and forget what is written, as on a bus where nobody answers.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Protocol

from kmem.errors import NotSupportedError, SegmentationFault, StateError, UsageError
from kmem.mm.fault import non_canonical, page_fault_oops
from kmem.mm.pgtable import _PAGE_PRESENT, _PAGE_RW, PF_PROT, PageFault, PageTable, Walk
from kmem.mm.ram import runs_of
from kmem.mm.vmalloc import VM_IOREMAP
from kmem.mm.vmap import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["AddressSpace", "fill", "memory", "memory_view", "read", "translate", "walk", "write"]

_FAULTS_PER_ACCESS = 8
_FILL_BYTES = 1 << 20


class AddressSpace(Protocol):
    """What an access needs of a process: its tables, and somebody who answers its faults (``struct mm_struct``)."""

    page_table: Any

    def handle_mm_fault(self, addr: int, error_code: int) -> None:
        """Make the address usable, or raise SegmentationFault."""


def _space(kernel: Kernel, process: Any) -> Any:
    """Return the address space of a process: of the running one if none is given."""
    if process is None:
        return kernel.current.mm
    mm = getattr(process, "mm", process)
    if mm is None or not hasattr(mm, "page_table"):
        raise UsageError(f"{process!r} has no address space", remedy="give a process, or None for the kernel")
    return mm


def _address(kernel: Kernel, addr: int | None) -> int:
    """Return an address as a number; NULL is 0.

    Raises
    ------
    TypeError, UsageError
        It is no number, or none that an address register holds.
    """
    if kernel.closed:
        raise StateError("the machine has been shut down", remedy="boot another one")
    try:
        value = 0 if addr is None else operator.index(addr)
    except TypeError:
        raise TypeError(f"the address is {type(addr).__name__}, not an integer") from None
    if not 0 <= value <= kernel.ulong_max:
        raise UsageError(f"{value:#x} is no address of {kernel.bits_per_long} bits")
    return value


def _size(size: int) -> int:
    """Return a number of bytes that can be asked for."""
    try:
        number = operator.index(size)
    except TypeError:
        raise TypeError(f"the size is {type(size).__name__}, not an integer") from None
    if number < 0:
        raise UsageError(f"{number} bytes cannot be accessed")
    return number


def _tables(kernel: Kernel, mm: Any) -> PageTable:
    """Return the page tables of an address space, None standing for the kernel's own."""
    return kernel.init_mm if mm is None else kernel.init_mm.of(mm.page_table.pgd)


def translate(kernel: Kernel, addr: int, write: bool = False, process: Any = None) -> int:
    """Return the physical address behind an address, letting the kernel answer faults.

    Parameters
    ----------
    kernel : Kernel
    addr : int
    write : bool
        Whether it is going to be written.
    process : optional
        A task or its address space: its code makes the access. Otherwise the kernel does, in the address space of
        the running task.

    Raises
    ------
    SegmentationFault
        A process may not touch the address.
    KernelOops
        The kernel cannot.

    Source: arch/x86/mm/fault.c:exc_page_fault @6.1.192
    """
    layout = kernel.layout
    mm = _space(kernel, process)
    table = _tables(kernel, mm)
    user = process is not None
    if not layout.is_canonical(addr):
        if user:
            raise SegmentationFault(f"segfault at {addr:x}: no address of this processor")
        kernel.report(non_canonical(kernel, addr))
    for _ in range(_FAULTS_PER_ACCESS):
        try:
            return table.translate(addr, write, user)
        except PageFault as error:
            fault = error
        if mm is not None and layout.is_user_addr(addr):
            mm.handle_mm_fault(addr, fault.error_code)
        elif user:
            # The processor says that it is a matter of rights: whether something is there is nobody's business.
            raise SegmentationFault(f"segfault at {addr:x} error {fault.error_code | PF_PROT:x}")
        else:
            kernel.report(page_fault_oops(kernel, fault, table))
    raise SegmentationFault(f"segfault at {addr:x}: the fault was answered, but the page does not stay")


def _pieces(kernel: Kernel, addr: int | None, size: int, write: bool, process: Any) -> list[tuple[int, int]]:
    """Return (physical address, bytes) of a range, pages that lie side by side joined."""
    addr, size = _address(kernel, addr), _size(size)
    pieces: list[tuple[int, int]] = []
    end = addr + size
    while addr < end:
        length = min(PAGE_SIZE - addr % PAGE_SIZE, end - addr)
        phys = translate(kernel, addr, write, process)
        if pieces and sum(pieces[-1]) == phys:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + length)
        else:
            pieces.append((phys, length))
        addr += length
    return pieces


def read(kernel: Kernel, addr: int | None, size: int, process: Any = None) -> bytes:
    """Return a copy of `size` bytes at an address; see :func:`translate` for who does it, and what can go wrong.

    Notes
    -----
    Faults may sleep. Nothing is returned unless all of it can be read.
    """
    parts = []
    pieces = _pieces(kernel, addr, size, False, process)
    ram = kernel.ram
    for phys, length in pieces:
        inside = max(0, min(length, ram.size_bytes - phys))
        parts.append(bytes(ram.view(phys, inside)) if inside else b"")
        parts.append(b"\xff" * (length - inside))
    return b"".join(parts)


def write(kernel: Kernel, addr: int | None, data: Any, process: Any = None) -> None:
    """Copy bytes, or anything that is a buffer, to an address; see :func:`translate`.

    Notes
    -----
    Faults may sleep. Nothing is written unless all of it can be.
    """
    source = memory_view(data)
    place = 0
    for phys, length in _pieces(kernel, addr, len(source), True, process):
        inside = max(0, min(length, kernel.ram.size_bytes - phys))
        if inside:
            kernel.ram.view(phys, inside)[:] = source[place : place + inside]
        place += length


def fill(kernel: Kernel, addr: int | None, value: int, size: int) -> None:
    """Set `size` bytes at an address to `value`, piece by piece: as far as can be written.

    Raises
    ------
    SegmentationFault, KernelOops, UsageError
        As for :func:`translate`, with the first address that cannot be used.
    """
    start, size = _address(kernel, addr), _size(size)
    piece = bytes([value & 0xFF]) * min(size, _FILL_BYTES)
    for offset in range(0, size, _FILL_BYTES):
        write(kernel, start + offset, piece[: size - offset])


def memory_view(data: Any) -> memoryview:
    """Return anything that is a buffer as bytes.

    Raises
    ------
    TypeError
        It is none.
    """
    view = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.c_contiguous:
        return view
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def memory(kernel: Kernel, addr: int | None, size: int, process: Any = None) -> memoryview:
    """Return `size` bytes at an address as a writable view; nothing is copied.

    Parameters
    ----------
    kernel : Kernel
    addr, size : int
    process : optional
        See :func:`translate`. All pages of a process are brought in, and made its own, first.

    Raises
    ------
    SegmentationFault, KernelOops
        As for :func:`translate`, with the first address that cannot be used.
    NotSupportedError
        The frames are scattered, and the host does not map so many pieces; use :func:`read` and :func:`write`. Also
        for device memory.
    """
    addr, size = _address(kernel, addr), _size(size)
    ram = kernel.ram
    area = _area_view(kernel, addr, size) if size > PAGE_SIZE else None
    if area is not None:
        return area
    pieces = _pieces(kernel, addr, size, True, process)
    if any(phys + length > ram.size_bytes for phys, length in pieces):
        raise NotSupportedError(f"{addr:#x} is device memory, which has no bytes to look at", remedy="use read()")
    if not pieces:
        return memoryview(bytearray())
    if len(pieces) == 1:
        return ram.view(*pieces[0])
    runs = []
    for phys, length in pieces:
        first, last = phys >> PAGE_SHIFT, (phys + length - 1) >> PAGE_SHIFT
        runs.append((first, last - first + 1))
    view = memoryview(ram.map_runs(runs)).cast("B")
    offset = addr % PAGE_SIZE
    return view[offset : offset + size]


def _area_view(kernel: Kernel, addr: int, size: int) -> memoryview | None:
    """Return a piece of a vmalloc or vmap area's view, which is made once for the area; None for other addresses."""
    area = kernel.vmalloc.find_vm_area(addr) if kernel.layout.is_vmalloc_addr(addr) else None
    if area is None or area.flags & VM_IOREMAP or addr + size > area.addr + area.usable_size:
        return None
    if area.host is None:
        frames = area.pages if area.mapped else _writable_frames(kernel, area.addr, area.usable_size)
        if len(frames) << PAGE_SHIFT != area.usable_size:
            return None
        area.host = kernel.ram.map_runs(runs_of(frames))
    view = memoryview(area.host).cast("B")
    return view[addr - area.addr : addr - area.addr + size]


def _writable_frames(kernel: Kernel, addr: int, size: int) -> list[int]:
    """Return the frames of a range that the kernel may write to."""
    init_mm = kernel.init_mm
    wanted = _PAGE_PRESENT | _PAGE_RW
    return [init_mm.pte_pfn(entry) for _, entry in init_mm.entries(addr, addr + size) if entry & wanted == wanted]


def walk(kernel: Kernel, process: Any, addr: int) -> Walk:
    """Return the page table entries of an address, top level first.

    Parameters
    ----------
    process
        A task or its address space; None for the kernel's own tables.
    addr : int
    """
    addr = _address(kernel, addr)
    return _tables(kernel, None if process is None else _space(kernel, process)).walk(addr)
