# SPDX-License-Identifier: GPL-2.0-only
"""Debugging aids and views as parts of a machine.

All are off until they are asked for, by a call here or on the kernel's command
line (``kmemleak=on``, ``page_owner=on``, ``sysctl.vm.mem_profiling=1``,
``failslab=``, ``fail_page_alloc=``): then they join the aids of the machine's
kernel.  The files that they fill in a real system are under
:meth:`MachineAids.proc` and :meth:`MachineAids.sys`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kmem.errors import StateError, UsageError

if TYPE_CHECKING:
    from kmem.machine.description import MachineDescription
    from kmem.mm.alloc_tag import AllocTags
    from kmem.mm.fault_inject import FailPageAlloc, Failslab, FaultInjection
    from kmem.mm.kernel import Kernel
    from kmem.mm.kmem_cache import KmemCaches
    from kmem.mm.kmemleak import Kmemleak
    from kmem.mm.page_owner import PageOwner
    from kmem.mm.page_watch import PageWatch

__all__ = ["MachineAids", "read_memory", "start_aids"]

_PAGE_SHIFT: Final = 12
_PAGE_SIZE: Final = 1 << _PAGE_SHIFT


def read_memory(kernel: Kernel, addr: int, size: int) -> bytes:
    """Return the bytes at a kernel address of the linear map or the vmalloc area.

    Raises
    ------
    UsageError
        Nothing is mapped there.
    """
    if kernel.virt_addr_valid(addr):
        return bytes(kernel.ram.view(kernel.virt_to_phys(addr), size))
    parts = []
    while size > 0:
        pfn = kernel.vmalloc.vmalloc_to_pfn(addr)
        if pfn is None:
            raise UsageError(f"nothing is mapped at {addr:#x}", remedy="give an address of the kernel's memory")
        offset = addr & _PAGE_SIZE - 1
        count = min(size, _PAGE_SIZE - offset)
        parts.append(bytes(kernel.ram.view((pfn << _PAGE_SHIFT) + offset, count)))
        addr += count
        size -= count
    return b"".join(parts)


class MachineAids:
    """The debugging aids of a machine, and its views; their modules are imported when they are asked for."""

    caches: KmemCaches
    description: MachineDescription
    seed: int

    @property
    def kernel(self) -> Kernel:
        """The machine's running kernel."""
        raise NotImplementedError

    def _running_kernel(self) -> Kernel:
        """Return the kernel; a machine that has been shut down has no aids any more.

        Raises
        ------
        StateError
            After shutdown.
        """
        kernel = self.kernel
        if kernel.closed:
            raise StateError(f"the machine {self.description.name!r} has been shut down", remedy="boot another one")
        return kernel

    # Fault injection

    @property
    def faults(self) -> FaultInjection:
        """Fault injection; asking for it switches it on, though nothing fails by default."""
        kernel = self._running_kernel()
        if kernel.faults is None:
            from kmem.mm.fault_inject import FaultInjection

            kernel.faults = FaultInjection(kernel, self.seed, self.description.cmdline)
            kernel.add_aid(kernel.faults)
            self._page_watch().faults = kernel.faults
        faults: FaultInjection = kernel.faults
        return faults

    def disable_faults(self) -> None:
        """Switch fault injection off: nothing fails, and no request is asked any more. What was set is lost."""
        kernel = self._running_kernel()
        if kernel.faults is None:
            return
        kernel.remove_aid(kernel.faults)
        kernel.faults = None
        self._page_watch().faults = None
        self._unwatch()

    @property
    def failslab(self) -> Failslab:
        """Which requests for objects fail: ``m.failslab.probability = 10``."""
        return self.faults.failslab

    @property
    def fail_page_alloc(self) -> FailPageAlloc:
        """Which requests for pages fail."""
        return self.faults.fail_page_alloc

    # Leaks, owners, profiles

    def enable_kmemleak(self) -> Kmemleak:
        """Switch leak detection on: allocations from now on are on record. Returns it."""
        kernel = self._running_kernel()
        if kernel.leaks is None:
            from kmem.mm.kmemleak import Kmemleak

            kernel.leaks = Kmemleak(kernel, lambda addr, size: read_memory(kernel, addr, size))
            kernel.add_aid(kernel.leaks)
        return self.kmemleak

    def disable_kmemleak(self) -> None:
        """Switch leak detection off, and forget what is on record."""
        kernel = self._running_kernel()
        if kernel.leaks is not None:
            kernel.remove_aid(kernel.leaks)
            kernel.leaks = None

    @property
    def kmemleak(self) -> Kmemleak:
        """Leak detection.

        Raises
        ------
        StateError
            If it is off.
        """
        leaks: Kmemleak | None = self._running_kernel().leaks
        if leaks is None:
            raise StateError("kmemleak is off", remedy="call enable_kmemleak(), or boot with kmemleak=on")
        return leaks

    def _page_watch(self) -> PageWatch:
        """Return who hears of every block of pages; there is one from the first time on."""
        allocator = self._running_kernel().page_alloc
        if allocator.watch is None:
            from kmem.mm.page_watch import PageWatch

            allocator.watch = PageWatch()
        return allocator.watch

    def _unwatch(self) -> None:
        """Let nobody hear of pages if nobody wants to."""
        watch = self.kernel.page_alloc.watch
        if watch is not None and watch.faults is None and watch.owner is None:
            self.kernel.page_alloc.watch = None

    def disable_page_owner(self) -> None:
        """Record no more owners of pages, and forget those on record."""
        self._page_watch().owner = None
        self._unwatch()

    def enable_page_owner(self) -> PageOwner:
        """Put the owner of each block of pages on record from now on. Returns the records."""
        watch = self._page_watch()
        if watch.owner is None:
            from kmem.mm.page_owner import PageOwner

            watch.owner = PageOwner(self.kernel)
        return self.page_owner

    @property
    def page_owner(self) -> PageOwner:
        """Owners of pages.

        Raises
        ------
        StateError
            If they are not recorded.
        """
        from kmem.mm.page_owner import PageOwner

        watch = self._running_kernel().page_alloc.watch
        if watch is None or not isinstance(watch.owner, PageOwner):
            raise StateError("page_owner is off", remedy="call enable_page_owner(), or boot with page_owner=on")
        return watch.owner

    def enable_mem_profiling(self) -> AllocTags:
        """Count bytes and calls by call site from now on. Returns the counters."""
        from kmem.mm.alloc_tag import AllocTags

        for aid in self.kernel.aids:
            if isinstance(aid, AllocTags):
                return aid
        tags = AllocTags()
        self.kernel.add_aid(tags)
        return tags

    def disable_mem_profiling(self) -> None:
        """Count no more, and forget what is counted."""
        from kmem.mm.alloc_tag import AllocTags

        for aid in self.kernel.aids:
            if isinstance(aid, AllocTags):
                self.kernel.remove_aid(aid)

    @property
    def alloc_tags(self) -> AllocTags:
        """Allocation profiling.

        Raises
        ------
        StateError
            If it is off.
        """
        from kmem.mm.alloc_tag import AllocTags

        for aid in self.kernel.aids:
            if isinstance(aid, AllocTags):
                return aid
        raise StateError(
            "allocation profiling is off", remedy="call enable_mem_profiling(), or boot with sysctl.vm.mem_profiling=1"
        )

    # Files

    def proc(self, name: str, value: str | int | None = None) -> str:
        """Return what a file of ``/proc`` shows; write to it first if a value is given.

        Parameters
        ----------
        name : str
            Such as ``"slabinfo"``, ``"buddyinfo"``, ``"zoneinfo"``, ``"pagetypeinfo"``,
            ``"vmallocinfo"``, ``"allocinfo"`` or ``"self/fail-nth"``; ``/proc/`` may stand in front.
        value : str or int, optional
            What to write.

        Raises
        ------
        UsageError
            There is no such file, or the kernel refuses the value.
        """
        from kmem.machine.filesystem import read_proc, write_proc

        if value is not None:
            write_proc(self, name, str(value))
        return read_proc(self, name)

    def sys(self, path: str, value: str | int | None = None) -> str:
        """Return what a file of ``/sys`` shows; write to it first if a value is given.

        Parameters
        ----------
        path : str
            Such as ``"kernel/slab/kmalloc-64/objects"`` or ``"kernel/debug/kmemleak"``; ``/sys/``
            may stand in front. A directory shows its names, one a line.
        value : str or int, optional
            What to write.

        Raises
        ------
        UsageError
            There is no such file, or the kernel refuses the value.
        """
        from kmem.machine.filesystem import read_sys, write_sys

        if value is not None:
            write_sys(self, path, str(value))
        return read_sys(self, path)


def start_aids(machine: MachineAids) -> None:
    """Switch on what the kernel command line asks for."""
    for word in machine.description.cmdline.split():
        option, _, value = word.partition("=")
        if option in ("failslab", "fail_page_alloc"):
            _ = machine.faults
        elif word == "kmemleak=on":
            machine.enable_kmemleak()
        elif option == "page_owner" and value in ("on", "1", "y", "Y"):
            machine.enable_page_owner()
        elif option in ("sysctl.vm.mem_profiling", "vm.mem_profiling") and value in ("1", "1,compressed"):
            machine.enable_mem_profiling()
