# SPDX-License-Identifier: GPL-2.0-only
"""A process as a user of the model holds it: system calls, and memory to read and write.

System calls fail with :class:`OSError` and the kernel's ``errno``.  Reading and
writing touch memory as the processor would: pages come into being, stacks
grow, and what is not allowed is a :class:`~kmem.errors.SegmentationFault`.
The exception is the signal: who catches it goes on, as a handler would.

Source: mm/mmap.c, kernel/fork.c, arch/x86/mm/fault.c @6.1.192
Differs: a process has one thread, and runs no program; what it does is what its owner calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kmem.errors import ProcessKilled, StateError, UsageError
from kmem.mm import task_mmu
from kmem.mm.fork import copy_process, create_process, exit_mm, kill_process, release_task
from kmem.mm.kernel import Kernel
from kmem.mm.mm_types import PAGE_MASK, PAGE_SIZE, Mapping, MmStruct, Rlimits
from kmem.mm.mman import MAP_ANONYMOUS
from kmem.mm.mmap import do_brk, do_mmap, do_munmap
from kmem.mm.mprotect import do_madvise, do_mprotect
from kmem.mm.mremap import do_mremap
from kmem.mm.task import Task
from kmem.mm.user_fault import copy, translate
from kmem.mm.vm import Vm
from kmem.mm.vma import fail

__all__ = ["Process", "current_process", "vm_of"]

_Self = TypeVar("_Self", bound="Process")


def vm_of(kernel: Kernel) -> Vm:
    """Return the virtual memory of a kernel; set up with the first process.

    Notes
    -----
    Setting it up creates the caches of the kernel's structures.
    """
    if kernel.vm is None:
        machine = kernel.owner
        kernel.vm = Vm(kernel, totalram_pages=machine.zones.totalram_pages(), cmdline=machine.description.cmdline)
        if kernel.reclaim is not None:
            kernel.reclaim.attach(kernel.vm)
    vm: Vm = kernel.vm
    return vm


def current_process(kernel: Kernel) -> Process:
    """Return the process that runs.

    Raises
    ------
    UsageError
        If a kernel thread runs, or the kernel itself.
    """
    mm = kernel.current.mm
    process: Process | None = None
    if kernel.vm is not None and mm is not None:
        process = kernel.vm.processes.get(mm.owner.pid)
    if process is None:
        raise UsageError(f"{kernel.current.comm} is no process", remedy="use 'with process.running(): ...'")
    return process


class Process:
    """A process.

    Parameters
    ----------
    kernel : Kernel
    comm : str
        Its name; the kernel keeps 15 characters.
    rlimits : Rlimits, optional
        Resource limits; the usual ones by default.
    privileged : bool
        Whether root runs it.

    Attributes
    ----------
    kernel : Kernel
    task : Task

    Raises
    ------
    OSError
        ENOMEM, with nothing left behind.

    Examples
    --------
    >>> from kmem import Machine
    >>> from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
    >>> with Machine.boot("x86_64", ram="1G") as m:
    ...     p = m.process("demo")
    ...     a = p.mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
    ...     p.write(a, b"hello")
    ...     child = p.fork()
    ...     child.write(a, b"HELLO")
    ...     p.read(a, 5), child.read(a, 5)
    (b'hello', b'HELLO')
    """

    def __init__(
        self, kernel: Kernel, comm: str = "a.out", *, rlimits: Rlimits | None = None, privileged: bool = False
    ) -> None:
        if not comm or "\0" in comm:
            raise UsageError(f"a process called {comm!r}", remedy="give it a name")
        vm = vm_of(kernel)
        self._attach(kernel, create_process(vm, comm, rlimits=rlimits, privileged=privileged))

    def _attach(self, kernel: Kernel, task: Task) -> None:
        self.kernel = kernel
        self.task = task
        self._vm: Vm = kernel.vm
        self._pid = task.pid
        self._killed = False
        self._vm.processes[task.pid] = self

    # What it is

    @property
    def pid(self) -> int:
        """Its number."""
        return self._pid

    @property
    def comm(self) -> str:
        """Its name."""
        return self.task.comm

    @property
    def alive(self) -> bool:
        """Whether it still has memory."""
        return self.task.mm is not None

    @property
    def mm(self) -> MmStruct:
        """Its address space.

        Raises
        ------
        StateError
            If it has ended, or its machine has been shut down.
        """
        if self.kernel.closed:
            raise StateError("the machine has been shut down", remedy="boot another one")
        mm: MmStruct | None = self.task.mm
        if mm is None:
            raise StateError(f"process {self._pid} ({self.comm}) has ended", remedy="start another one")
        return mm

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.comm}[{self._pid}]{'' if self.alive else ' (ended)'}>"

    @contextmanager
    def running(self: _Self) -> Iterator[_Self]:
        """Let the running task be this process for the block: kernel code in it can copy from and to its memory.

        Raises
        ------
        ProcessKilled
            At the end, if it was killed meanwhile.

        Source: kernel/kthread.c:kthread_use_mm @6.1.192
        """
        self._check()
        vm, current = self._vm, self.kernel.current
        before = current.mm, current.comm, current.pid
        current.mm, current.comm, current.pid = self.task.mm, self.task.comm, self.task.pid
        vm.busy[self._pid] += 1
        try:
            yield self
        except Exception as error:
            if self._pid in vm.killed and vm.busy[self._pid] == 1:
                raise ProcessKilled(f"{self.comm}[{self._pid}] was killed") from error
            raise
        finally:
            current.mm, current.comm, current.pid = before
            vm.busy[self._pid] -= 1
            if not vm.busy[self._pid]:
                del vm.busy[self._pid]
                self._end_if_killed(current)
        if not self.alive and self._pid not in vm.busy and self._killed:
            raise ProcessKilled(f"{self.comm}[{self._pid}] was killed")

    def _end_if_killed(self, current: Task) -> None:
        """Let a process that was killed while it was in the kernel end on its way out."""
        if self._pid in self._vm.killed:
            self._vm.killed.remove(self._pid)
            self._killed = True
            current.killed = False
            self._vm.page_alloc.task_flags = current.flags
            kill_process(self._vm, self.task)

    def kill(self) -> None:
        """End the process from outside; if it is in a system call, at the end of that.

        Source: kernel/signal.c:do_send_sig_info @6.1.192, with SIGKILL
        """
        self._check()
        kill_process(self._vm, self.task)

    # System calls

    @contextmanager
    def _system_call(self) -> Iterator[None]:
        """Enter the kernel as this process; it may sleep there, so it must be allowed to."""
        self.kernel.might_sleep()
        with self.running():
            yield

    def mmap(self, addr: int, length: int, prot: int, flags: int, file: Mapping | None = None, offset: int = 0) -> int:
        """Map memory, or a file; return the address.

        Parameters
        ----------
        addr : int
            Where it would be welcome, 0 for anywhere; with ``MAP_FIXED`` where it has to be.
        length : int
            Bytes, rounded up to whole pages.
        prot, flags : int
            ``PROT_*``, ``MAP_*``.
        file : Mapping, optional
            Unless ``MAP_ANONYMOUS`` is given.
        offset : int
            In the file, whole pages.

        Source: arch/x86/kernel/sys_x86_64.c:SYSCALL_DEFINE6(mmap), mm/mmap.c:ksys_mmap_pgoff @6.1.192
        """
        if length < 0 or addr < 0 or offset < 0:
            raise UsageError(f"mmap({addr}, {length}, ..., {offset})", remedy="numbers are not negative")
        with self._system_call():
            if offset & ~PAGE_MASK:
                fail(22)
            if flags & MAP_ANONYMOUS:
                file = None
            elif file is None:
                fail(9)
            return do_mmap(self._vm, self.mm, file, addr, length, prot, flags, offset >> 12)

    def munmap(self, addr: int, length: int) -> None:
        """Unmap a range of pages.

        Source: mm/mmap.c:SYSCALL_DEFINE2(munmap) @6.1.192
        """
        with self._system_call():
            do_munmap(self._vm, self.mm, addr, _checked(length))

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """Change the rights of a range of pages.

        Source: mm/mprotect.c:SYSCALL_DEFINE3(mprotect) @6.1.192
        """
        with self._system_call():
            do_mprotect(self._vm, self.mm, addr, _checked(length), prot)

    def mremap(self, old_addr: int, old_size: int, new_size: int, flags: int = 0, new_addr: int = 0) -> int:
        """Change the size of a mapping, moving it if need be; return its address.

        Source: mm/mremap.c:SYSCALL_DEFINE5(mremap) @6.1.192
        """
        with self._system_call():
            return do_mremap(
                self._vm, self.mm, old_addr, _checked(old_size), _checked(new_size), flags, _checked(new_addr)
            )

    def madvise(self, addr: int, length: int, advice: int) -> None:
        """Tell how a range is going to be used, or that its pages are not needed any more.

        Source: mm/madvise.c:SYSCALL_DEFINE3(madvise) @6.1.192
        """
        with self._system_call():
            do_madvise(self._vm, self.mm, addr, _checked(length), advice)

    def brk(self, addr: int = 0) -> int:
        """Set the end of the heap, and return the end that it has then: the old one if it could not be set.

        Source: mm/mmap.c:SYSCALL_DEFINE1(brk) @6.1.192
        """
        with self._system_call():
            return do_brk(self._vm, self.mm, _checked(addr))

    def sbrk(self, increment: int = 0) -> int:
        """Move the end of the heap, and return where it was, as the C library does.

        Raises
        ------
        OSError
            ENOMEM.
        """
        old = self.brk(0)
        if increment and self.brk(old + increment) != old + increment:
            fail(12)
        return old

    def fork(self: _Self) -> _Self:
        """Make a child with a copy of this process's memory, and return it.

        Source: kernel/fork.c:SYSCALL_DEFINE0(fork) @6.1.192
        """
        with self._system_call():
            task = copy_process(self._vm, self.task)
        child = type(self).__new__(type(self))
        child._attach(self.kernel, task)
        return child

    def exit(self) -> None:
        """End the process: all its memory goes back, its parent does not keep it waiting.

        Source: kernel/exit.c:do_exit @6.1.192
        """
        with self._system_call():
            exit_mm(self._vm, self.task)
        release_task(self._vm, self.task)

    def _check(self) -> None:
        _ = self.mm

    # Memory

    def read(self, addr: int, size: int) -> bytes:
        """Read bytes.

        Raises
        ------
        SegmentationFault
            If they are not all there to be read.
        """
        if 0 < size <= PAGE_SIZE - addr % PAGE_SIZE:
            phys, code = translate(self._vm, self.mm, addr)
            if not code:
                return bytes(self._vm.ram.view(phys, size))
        with self.running():
            return copy(self._vm, self.task, addr, _checked(size), None)

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes.

        Raises
        ------
        SegmentationFault
            If they may not all be written; what lies before has been.
        """
        view = memoryview(data).cast("B")
        if 0 < len(view) <= PAGE_SIZE - addr % PAGE_SIZE:
            phys, code = translate(self._vm, self.mm, addr, write=True)
            if not code:
                self._vm.ram.view(phys, len(view))[:] = view
                return
        with self.running():
            copy(self._vm, self.task, addr, len(view), view)

    def touch(self, addr: int, length: int, *, write: bool = True) -> None:
        """Touch each page of a range."""
        self._check()
        for page in range(addr & PAGE_MASK, addr + length, PAGE_SIZE):
            if write:
                self.write(page, self.read(page, 1))
            else:
                self.read(page, 1)

    # /proc/PID

    def status(self) -> str:
        """Return the lines of ``/proc/PID/status`` that tell of memory."""
        return task_mmu.status(self._vm, self.mm)

    def statm(self) -> str:
        """Return the text of ``/proc/PID/statm``."""
        return task_mmu.statm(self._vm, self.mm)

    def maps(self) -> str:
        """Return the text of ``/proc/PID/maps``."""
        return task_mmu.maps(self._vm, self.mm)

    def smaps(self) -> str:
        """Return the text of ``/proc/PID/smaps``."""
        return task_mmu.smaps(self._vm, self.mm)

    @property
    def min_flt(self) -> int:
        """Page faults that had not to wait for a disk."""
        return self._vm.faults[self._pid, False]

    @property
    def maj_flt(self) -> int:
        """Page faults that had to wait for a disk."""
        return self._vm.faults[self._pid, True]

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.alive and not self.kernel.closed:
            self.exit()


def _checked(number: int) -> int:
    if number < 0:
        raise UsageError(f"{number} is negative", remedy="addresses and sizes are not")
    return number
