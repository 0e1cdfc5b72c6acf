# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel says when an address cannot be translated.

A process that touches what it may not gets a signal; the kernel itself stops
with an *oops*: the address, what was tried, why it failed, and the page table
entries on the way.

Source: arch/x86/mm/fault.c, arch/x86/kernel/dumpstack.c, arch/x86/kernel/traps.c @6.1.192
Differs: registers, code bytes and modules are not printed, since there are none; the call trace names Python code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.errors import KernelOops
from kmem.mm.dump_stack import add_taint, dump_stack
from kmem.mm.pgtable import (
    PF_INSTR,
    PF_PROT,
    PF_USER,
    PF_WRITE,
    PageFault,
    PageTable,
)
from kmem.mm.report import TAINT_DIE
from kmem.mm.vmap import PAGE_SIZE

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["die_header", "dump_pagetable", "fault_text", "non_canonical", "page_fault_oops"]


def dump_pagetable(table: PageTable, addr: int) -> str:
    """Return the line that shows the entries of an address.

    Source: arch/x86/mm/fault.c:dump_pagetable @6.1.192
    """
    walk = table.walk(addr)
    if table.layout.arch == "i386":
        text = f"*pde = {walk[0].value:08x} "
        if len(walk) > 1 and walk[0].value >> 12 < table.layout.max_low_pfn:
            text += f"*pte = {walk[1].value:08x} "
        return text
    text = f"PGD {walk[0].value:x} P4D {walk[0].value:x} "  # folded: the same entry
    for step in walk[1:]:
        text += f"{step.name} {step.value:x}" + ("" if step.name == "PTE" else " ")
    return text


def fault_text(kernel: Kernel, addr: int, error_code: int, table: PageTable) -> str:
    """Return what is printed of a fault in the kernel, without the oops that follows.

    Source: arch/x86/mm/fault.c:show_fault_oops @6.1.192
    """
    digits = kernel.bits_per_long // 4
    what = "kernel NULL pointer dereference," if addr < PAGE_SIZE else "unable to handle page fault for"
    done = "instruction fetch" if error_code & PF_INSTR else "write access" if error_code & PF_WRITE else "read access"
    why = "permissions violation" if error_code & PF_PROT else "not-present page"
    return "\n".join(
        [
            f"BUG: {what} address: {addr:0{digits}x}",
            f"#PF: {'user' if error_code & PF_USER else 'supervisor'} {done} in kernel mode",
            f"#PF: error_code(0x{error_code:04x}) - {why}",
            dump_pagetable(table, addr),
        ]
    )


def die_header(kernel: Kernel, what: str, error_code: int) -> str:
    """Return the lines that every oops has: which one it is, who ran, and who called.

    Source: arch/x86/kernel/dumpstack.c:__die_header, lib/dump_stack.c:dump_stack_print_info @6.1.192
    """
    kernel.init_mm.die_counter += 1
    isolation = "" if kernel.arch == "i386" else " NOPTI"
    head = f"{what}: {error_code:04x} [#{kernel.init_mm.die_counter}] PREEMPT SMP{isolation}"
    text = "\n".join([head, *dump_stack(kernel)])
    add_taint(kernel, TAINT_DIE)
    return text


def page_fault_oops(kernel: Kernel, fault: PageFault, table: PageTable | None = None) -> KernelOops:
    """Return the oops that a fault in the kernel ends in.

    Parameters
    ----------
    kernel : Kernel
    fault : PageFault
    table : PageTable, optional
        The tables that were in use, the kernel's by default.

    Source: arch/x86/mm/fault.c:page_fault_oops @6.1.192
    """
    text = fault_text(kernel, fault.addr, fault.error_code, table or kernel.init_mm)
    return KernelOops(f"{text}\n{die_header(kernel, 'Oops', fault.error_code)}\nCR2: {fault.addr:016x}")


def non_canonical(kernel: Kernel, addr: int) -> KernelOops:
    """Return the oops for an address that the processor does not know: no page fault, but a protection fault.

    Source: arch/x86/kernel/traps.c:exc_general_protection @6.1.192
    """
    what = f"general protection fault, probably for non-canonical address 0x{addr:x}"
    return KernelOops(die_header(kernel, what, 0))
