# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a page fault at an address of a process.

The handler finds the area, lets a stack grow, brings the page in, or tells the
process that it may not, with a line in the log.

Source: arch/x86/mm/fault.c @6.1.192
Differs: no instructions are executed, so ``ip`` is 0 and the line with their bytes is left out.
"""

from __future__ import annotations

from errno import ENOMEM
from os import strerror
from typing import TYPE_CHECKING

from kmem.errors import SegmentationFault
from kmem.mm.memory import FaultResult, handle_mm_fault
from kmem.mm.mm_types import PAGE_SIZE, VM_EXEC, VM_WRITE, MmStruct, VmArea
from kmem.mm.mmap import expand_stack
from kmem.mm.pgtable import PF_INSTR, PF_PROT, PF_USER, PF_WRITE, PageFault
from kmem.mm.printk import KERN_INFO, KERN_WARNING

if TYPE_CHECKING:
    from kmem.mm.task import Task
    from kmem.mm.vm import Vm

__all__ = ["BusError", "access", "copy", "do_user_addr_fault", "handle_user_fault", "translate"]


class BusError(SegmentationFault):
    """A process touched an address that is mapped, but has nothing behind it (SIGBUS)."""


def translate(vm: Vm, mm: MmStruct, addr: int, *, write: bool = False, execute: bool = False) -> tuple[int, int]:
    """Translate an address of a process as the processor does.

    Returns
    -------
    tuple of int
        Physical address, and 0; or 0 and the error code of the page fault that it raises.
        The marks of use in the entries are set.

    Notes
    -----
    Complexity: O(levels).
    """
    if addr >= mm.task_size:
        return 0, PF_USER | PF_PROT | (PF_WRITE if write else 0)
    try:
        return vm.kernel.init_mm.of(mm.page_table.pgd).translate(addr, write, True, execute), 0
    except PageFault as fault:
        return 0, fault.error_code | PF_USER


def _find_vma(vm: Vm, mm: MmStruct, addr: int) -> VmArea | None:
    """The area of an address; a stack is grown to it.

    Source: mm/memory.c:lock_mm_and_find_vma @6.1.192
    """
    vma = mm.find_vma(addr)
    if vma is None or vma.vm_start <= addr:
        return vma
    try:
        expand_stack(vm, vma, addr)
    except OSError:
        return None
    return vma


def do_user_addr_fault(vm: Vm, mm: MmStruct, addr: int, code: int) -> FaultResult:
    """Handle a page fault at an address of a process: find out whether it is allowed, and bring the page in.

    Returns
    -------
    FaultResult
        ``SIGSEGV`` if the address or the kind of access is wrong; the caller tells the process.

    Source: arch/x86/mm/fault.c:do_user_addr_fault, access_error @6.1.192
    """
    write = bool(code & PF_WRITE)
    if addr >= mm.task_size:
        return FaultResult.SIGSEGV
    vma = _find_vma(vm, mm, addr)
    if vma is None:
        return FaultResult.SIGSEGV
    if write:
        allowed = bool(vma.vm_flags & VM_WRITE)
    elif code & PF_INSTR:
        allowed = bool(vma.vm_flags & VM_EXEC)
    else:
        allowed = not code & PF_PROT and vma.accessible
    if not allowed:
        return FaultResult.SIGSEGV
    result = handle_mm_fault(vm, vma, addr, write)
    task = mm.owner
    if task is not None and not result & (FaultResult.OOM | FaultResult.SIGBUS):
        vm.count_fault(task, bool(result & FaultResult.MAJOR))
    return result


def handle_user_fault(vm: Vm, task: Task, addr: int, code: int) -> None:
    """Answer a page fault of a process: afterwards the access can be tried again.

    Raises
    ------
    SegmentationFault
        Nothing is mapped there, or the access is not allowed. The log has the kernel's line.
    BusError
        It lies behind the end of a mapped file.
    OSError
        ENOMEM: no memory for the page.

    Source: arch/x86/mm/fault.c:do_user_addr_fault @6.1.192
    """
    mm: MmStruct = task.mm
    result = do_user_addr_fault(vm, mm, addr, code)
    if task.mm is not mm:
        raise SegmentationFault(f"{task.comm}[{task.pid}] was killed while it waited for memory")
    if result & FaultResult.SIGSEGV:
        raise SegmentationFault(_show_signal_msg(vm, task, addr, code))
    if result & FaultResult.SIGBUS:
        raise BusError(f"{task.comm}[{task.pid}]: bus error at {addr:x}")
    if result & FaultResult.OOM:
        if task.pid in vm.killed:
            raise OSError(ENOMEM, strerror(ENOMEM))  # it does not see this: it ends on its way out of the kernel
        vm.printk.printk("Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF", KERN_WARNING)
        raise OSError(ENOMEM, strerror(ENOMEM))


def access(vm: Vm, task: Task, addr: int, *, write: bool = False, execute: bool = False) -> int:
    """Touch one address as a process does, and return the physical address behind it.

    Raises
    ------
    SegmentationFault, OSError
        As :func:`handle_user_fault`.
    """
    while True:
        phys, code = translate(vm, task.mm, addr, write=write, execute=execute)
        if not code:
            return phys
        handle_user_fault(vm, task, addr, code)


def _show_signal_msg(vm: Vm, task: Task, addr: int, code: int) -> str:
    """Print the line about a segmentation fault, and return it.

    Source: arch/x86/mm/fault.c:show_signal_msg, sanitize_error_code @6.1.192
    """
    if addr >= task.mm.task_size:
        code |= PF_PROT
    digits = 16 if vm.layout.entry_size == 8 else 8
    text = (
        f"{task.comm}[{task.pid}]: segfault at {addr:x} ip {0:0{digits}x} sp {task.mm.start_stack:0{digits}x} "
        f"error {code:x} likely on CPU {vm.page_alloc.cpu} (core {vm.page_alloc.cpu}, socket 0)"
    )
    vm.printk.printk(text, KERN_INFO)
    return text


def copy(vm: Vm, task: Task, addr: int, size: int, data: bytes | memoryview | None) -> bytes:
    """Read `size` bytes of a process, or write `data`, page by page as :func:`access` allows.

    Raises
    ------
    SegmentationFault, OSError
        As :func:`access`; what lies before the faulting page has been copied.
    """
    done = bytearray()
    at = 0
    while at < size:
        length = min(size - at, PAGE_SIZE - (addr + at) % PAGE_SIZE)
        phys = access(vm, task, addr + at, write=data is not None)
        view = vm.ram.view(phys, length)
        if data is None:
            done += view
        else:
            view[:] = data[at : at + length]
        at += length
    return bytes(done)
