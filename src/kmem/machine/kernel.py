# SPDX-License-Identifier: GPL-2.0-only
"""The kernel of a machine is put together: every part in the order of what it needs.

A machine makes its kernel when the first call of the API is made, or when it
is used in a ``with``; replaying a trace or checking a recording needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kmem.machine.address_space import make_init_mm, make_layout
from kmem.machine.pressure import Pressure, make_reclaim
from kmem.machine.sched import Sched
from kmem.mm.dump_stack import KERNEL_RELEASE, KERNEL_VERSION
from kmem.mm.highmem import Highmem
from kmem.mm.kernel import Kernel
from kmem.mm.printk import Printk
from kmem.mm.ram import Ram
from kmem.mm.report import Context
from kmem.mm.slub_check import SlubChecker
from kmem.mm.slub_report import PageStructs
from kmem.mm.struct_page import PAGE_SHIFT
from kmem.mm.task import Task
from kmem.mm.timekeeping import Clock
from kmem.mm.vmalloc import Vmalloc
from kmem.mm.vmap import VmapSpace
from kmem.mm.workqueue import Work, queue_work

if TYPE_CHECKING:
    from kmem.machine.machine import Machine

__all__ = ["PAGE_OFFSET", "make_kernel"]

#: Where the direct mapping of physical memory begins.
PAGE_OFFSET = {"x86_64": 0xFFFF888000000000, "i386": 0xC0000000}


def make_kernel(machine: Machine, reports: Literal["raise", "log"]) -> Kernel:
    """Return the kernel of a machine, with all its parts in place.

    Parameters
    ----------
    machine : Machine
    reports : {"raise", "log"}
        See :class:`kmem.mm.kernel.Kernel`.
    """
    zones = machine.zones
    low_zones = [zone for zone in zones.populated_zones() if not zones.is_highmem(zone)]
    kernel = Kernel(
        machine.page_alloc,
        machine.slub,
        machine.caches,
        arch=machine.arch,
        page_offset=PAGE_OFFSET[machine.arch],
        max_low_pfn=max(zone.end_pfn for zone in low_zones),
        reports=reports,
    )
    kernel.owner = machine
    kernel.clock = Clock()
    kernel.printk = Printk(kernel.clock)
    kernel.current = Task(pid=1, comm="init")
    options = machine.description.cmdline
    kernel.init_on_alloc = _switch(options, "init_on_alloc", default=True)
    kernel.init_on_free = _switch(options, "init_on_free", default=False)
    kernel.ram = Ram(machine.memmap.nr_frames << PAGE_SHIFT)
    machine.page_alloc.attach_ram(kernel.ram.base, kernel.init_on_alloc, kernel.init_on_free)
    kernel.layout = make_layout(machine.booted)
    kernel.init_mm = make_init_mm(machine.booted, kernel.layout, kernel.ram, machine.page_alloc)
    kernel.highmem = Highmem(kernel)
    _make_vmalloc(kernel, machine)
    kernel.sched = Sched(kernel, machine.seed)
    kernel.reclaim = make_reclaim(kernel)
    hooks = kernel.page_alloc.hooks
    if isinstance(hooks, Pressure):
        kernel.vmalloc.warn_alloc = hooks.vmalloc_error
    system = kernel.sched.workqueues.system
    kernel.vmalloc.space.schedule_work = lambda purge: queue_work(system, Work(lambda work: purge()))
    _make_slab_bytes(kernel, machine)
    return kernel


def _make_slab_bytes(kernel: Kernel, machine: Machine) -> None:
    """Give slab objects their bytes, and the kernel's log what is found wrong with them."""
    checker = SlubChecker(
        machine.slub,
        kernel.ram,
        page_offset=kernel.page_offset,
        word_bytes=kernel.bits_per_long // 8,
        page_structs=_page_structs(kernel, machine),
        context=Context(
            cpu=lambda: kernel.page_alloc.cpu,
            pid=lambda: kernel.current.pid,
            comm=lambda: kernel.current.comm,
            jiffies=lambda: kernel.clock.jiffies,
            release=f"{KERNEL_RELEASE[kernel.arch]} {KERNEL_VERSION[kernel.arch]}",
            kernel=kernel,
        ),
    )

    def log(lines: list[tuple[int, str]]) -> None:
        for level, text in lines:
            kernel.printk.printk(text, level)

    checker.on_report = lambda error, lines: kernel.report(error)
    checker.on_log = log


def _page_structs(kernel: Kernel, machine: Machine) -> PageStructs:
    """Return where the kernel keeps its ``struct page``.

    Source: mm/page_alloc.c:alloc_node_mem_map @6.1.192
    Differs: on i386 the array is taken to lie at the very end of low memory, where memblock looks first.
    """
    if kernel.bits_per_long == 64:
        return PageStructs()
    size_bytes = 40 * machine.memmap.nr_frames
    return PageStructs(kernel.page_offset + (kernel.max_low_pfn << PAGE_SHIFT) - -(-size_bytes // 4096) * 4096, 40)


def _switch(cmdline: str, name: str, *, default: bool) -> bool:
    """Return the last setting of a yes-or-no option of the command line.

    Source: lib/kstrtox.c:kstrtobool @6.1.192
    """
    for word in cmdline.split():
        option, equals, value = word.partition("=")
        if equals and option.replace("-", "_") == name:
            head = value[:2].lower()
            if head[:1] in ("y", "t", "1") or head == "on":
                default = True
            elif head[:1] in ("n", "f", "0") or head == "of":
                default = False
    return default


def _make_vmalloc(kernel: Kernel, machine: Machine) -> None:
    """Give the kernel its vmalloc area."""
    kernel.vmalloc = Vmalloc(
        VmapSpace(kernel.layout.vmap, online_cpus=machine.description.cpus),
        machine.page_alloc,
        totalram_pages=machine.zones.totalram_pages(),
        warn=kernel.printk.printk,
        init_mm=kernel.init_mm,
    )
