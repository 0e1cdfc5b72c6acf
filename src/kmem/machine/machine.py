# SPDX-License-Identifier: GPL-2.0-only
"""A modelled machine: boot it, use its memory, look at it.

>>> from kmem.machine.machine import Machine
>>> from kmem.mm.gfp import GFP_KERNEL
>>> with Machine.boot("x86_64", ram="1G", cpus=2) as m:
...     page = m.alloc_pages(GFP_KERNEL, 2)
...     m.__free_pages(page, 2)
...     m.validate()
"""

from __future__ import annotations

import copy
import ctypes
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from kmem.errors import ConfigError, StateError, UsageError
from kmem.machine.aids import MachineAids
from kmem.machine.boot import BootedMemory, boot_memory, write_sysctl
from kmem.machine.description import Knob, MachineDescription
from kmem.machine.memory_access import MemoryAccess
from kmem.machine.task_calls import TaskCalls
from kmem.machine.views import MachineView
from kmem.mm.argument import expect
from kmem.mm.hooks import Hooks
from kmem.mm.kernel import Kernel, current_kernel, enter_kernel, leave_kernel
from kmem.mm.kmem_cache import KmemCaches
from kmem.mm.mm_init import SystemZones
from kmem.mm.mmzone import MemMap
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.slab_api import KmemCache, cache_object, forget_caches
from kmem.mm.slab_common import CacheGeometry
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slub import Slub
from kmem.mm.slub_state import load_state, save_state
from kmem.mm.tracepoint import Tracepoints
from kmem.mm.x86 import ARCHITECTURES

if TYPE_CHECKING:
    from _ctypes import _CData

    from kmem.machine.process import Process
    from kmem.machine.sched import Sched
    from kmem.mm.mm_types import Rlimits
    from kmem.mm.printk import Printk
    from kmem.mm.task import Task

T = TypeVar("T", bound="_CData")

__all__ = ["Machine", "MachineState", "current_machine"]


def current_machine() -> Machine:
    """Return the machine of the innermost ``with Machine.boot(...)`` around the caller.

    Raises
    ------
    StateError
        If there is none.
    """
    machine: Machine = current_kernel().owner
    return machine


@dataclass(frozen=True, slots=True)
class MachineState:
    """All state of a machine at one moment; see :meth:`Machine.snapshot`.

    The arrays are copies and belong to the snapshot alone.
    """

    description: MachineDescription
    pages: npt.NDArray[Any]
    zones: npt.NDArray[Any]
    pagesets: npt.NDArray[Any]
    pageblocks: npt.NDArray[np.uint8]
    slub: Mapping[str, Any]
    caches: Sequence[tuple[int, CacheGeometry]]
    aliases: Mapping[str, int]
    system: tuple[Any, ...]
    numbers: tuple[int, ...]
    #: Page tables of the kernel (-1: as after boot), addresses of areas in use, processes.
    mapped: tuple[int, tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]] = (-1, (), (), ())


class Machine(TaskCalls, MemoryAccess, MachineAids):
    """One machine with its page allocator and slab caches.

    Made by :meth:`boot`. As a context manager it is the current machine
    (:func:`current_machine`) of the block, and is shut down at its end (of
    blocks in each other, at that of the outermost).

    The calls of the kernel's API (:mod:`kmem.linux`) are methods, too, which
    act on this machine whichever is current; see :mod:`kmem.machine.calls`.

    Attributes
    ----------
    description : MachineDescription
        What was booted.
    zones : SystemZones
        Zone limits, watermarks and the sysctls behind them.
    memmap : MemMap
        The arrays that hold all state of the page allocator.
    page_alloc : PageAllocator
        The page allocator itself, without checks of the machine's state.
    slub : Slub
        The slab caches; objects are named by physical addresses.
    caches : KmemCaches
        The list of caches, which decides about merging, and their numbers.
    trace : Tracepoints
        Trace events that the model emits; none is enabled at first.
    notes : list of str
        What the kernel would have warned of at boot.
    """

    description: MachineDescription
    zones: SystemZones
    memmap: MemMap
    page_alloc: PageAllocator
    slub: Slub
    caches: KmemCaches
    trace: Tracepoints
    notes: list[str]

    def __init__(self, booted: BootedMemory, seed: int = 0, *, reports: Literal["raise", "log"] = "raise") -> None:
        self._booted = booted
        self._kernel: Kernel | None = None
        self._depth = 0  # of ``with`` blocks
        self._reports = reports
        self.description = booted.description
        self.zones = booted.system
        self.memmap = booted.memmap
        self.page_alloc = booted.page_alloc
        self.trace = booted.page_alloc.trace
        self.notes = list(booted.notes)
        self.seed = seed
        config = SlabConfig.for_arch(
            self.description.arch, cpus=self.description.cpus, cmdline=self.description.cmdline
        )
        self.slub = Slub(self.page_alloc, seed)
        self.caches = KmemCaches(self.slub, config)
        self.caches.create_kmalloc_caches()
        self.cpu = 0

    @classmethod
    def boot(
        cls,
        machine: str | Path | MachineDescription = "x86_64",
        *,
        ram: int | str | None = None,
        cpus: int | None = None,
        nodes: int | None = None,
        cmdline: str | None = None,
        knobs: Mapping[str, Knob] | None = None,
        seed: int = 0,
        reports: Literal["raise", "log"] = "raise",
    ) -> Machine:
        """Boot a machine.

        Parameters
        ----------
        machine : str, Path or MachineDescription
            A preset (``"x86_64"``, ``"i386"``), the path of a JSON
            description or of a folder with copies of ``/proc`` files, or a
            description.
        ram : int or str, optional
            Memory of a preset, in bytes or as ``"2G"``.
        cpus, nodes : int, optional
            CPUs and NUMA nodes of a preset; 1 by default.
        cmdline : str, optional
            Kernel command line of a preset.
        knobs : mapping, optional
            Sysctls to write after boot, such as ``{"vm.min_free_kbytes": 8192}``.
        seed : int
            Seed of everything random: same seed and inputs, same results.
        reports : {"raise", "log"}
            Whether what the kernel warns of is raised as a :class:`kmem.errors.KernelWarning`
            besides being printed to its log. Oopses and panics are always raised.
            What an allocator prints while it fails a request, to answer None as the kernel
            answers NULL, is in the log only, with either setting: "page allocation failure", the
            WARNING of an order above 10 (``alloc_pages``, ``kmalloc`` of more than 4 MiB), "vmalloc
            error", "SLUB: Unable to allocate memory", ``kmem_cache_create()`` that failed, injected
            faults, and what the OOM killer says. Raised are the reports of a caller's fault that do
            not end in None: sleeping in atomic context, wrong GFP flags for slabs, an object freed to
            the wrong cache or twice, a slab found damaged, a cache destroyed with objects in use,
            a bad ``vfree()``, a region for user copies outside the object.

        Raises
        ------
        ConfigError
            If the machine contradicts itself or is too small, or `ram`,
            `cpus`, `nodes` or `cmdline` are given for something else than a preset.
        InputError
            If a file cannot be read.
        """
        _check_boot(ram=(ram, (int, str)), cpus=(cpus, int), nodes=(nodes, int), cmdline=(cmdline, str))
        description = _describe(machine, ram=ram, cpus=cpus, nodes=nodes, cmdline=cmdline)
        if knobs:
            description = description.with_knobs(knobs)
        if reports not in ("raise", "log"):
            raise ConfigError(f"reports={reports!r}", remedy="'raise' or 'log'")
        return cls(boot_memory(description), seed, reports=reports)

    # Life

    @property
    def kernel(self) -> Kernel:
        """The machine's kernel as the code sees that runs in it; made when it is first asked for."""
        if self._kernel is None:
            # replay and verification never ask: what only running code needs is imported here
            from kmem.machine.aids import start_aids
            from kmem.machine.kernel import make_kernel

            self._check_running()
            self._kernel = make_kernel(self, self._reports)
            start_aids(self)
        return self._kernel

    @property
    def booted(self) -> BootedMemory:
        """Memory as boot left it: what is reserved, and where the zones lie."""
        self._check_running()
        return self._booted

    @property
    def log(self) -> Printk:
        """The kernel's log."""
        return self.kernel.printk

    @property
    def sched(self) -> Sched:
        """The scheduler of the machine's tasks."""
        sched: Sched = self.kernel.sched
        return sched

    def spawn(
        self, fn: Callable[..., object], *args: Any, name: str | None = None, kthread: bool = True, daemon: bool = False
    ) -> Task:
        """Make a task that calls ``fn(*args)``; see :meth:`kmem.machine.sched.Sched.spawn`."""
        return self.sched.spawn(fn, *args, name=name, kthread=kthread, daemon=daemon)

    def run(self, until: int | Task | None = None) -> None:
        """Let tasks run until all have ended; see :meth:`kmem.machine.sched.Sched.run`."""
        self.sched.run(until)

    def join(self, task: Task) -> Any:
        """Wait for the end of a task, and return its result; see :meth:`kmem.machine.sched.Sched.join`."""
        return self.sched.join(task)

    def process(self, name: str = "a.out", *, rlimits: Rlimits | None = None, privileged: bool = False) -> Process:
        """Start a process: with a stack, and nothing else in its memory.

        Parameters
        ----------
        name : str
            Its name; the kernel keeps 15 characters.
        rlimits : Rlimits, optional
            Resource limits; a stack of 8 MiB, and no limit of memory, by default.
        privileged : bool
            Whether root runs it.

        Raises
        ------
        OSError
            ENOMEM.
        """
        from kmem.machine.process import Process

        return Process(self.kernel, name, rlimits=rlimits, privileged=privileged)

    def dmesg(self) -> str:
        """Return the kernel's log as ``dmesg`` prints it, after the machine has been shut down, too."""
        return (self._kernel or self.kernel).printk.dmesg()

    def __enter__(self) -> Machine:
        self._check_running()
        enter_kernel(self.kernel)
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:  # an outer block goes on with the machine
            leave_kernel(self.kernel)
            return
        try:
            if error is None and not isinstance(self._booted, _ShutDown):
                self.sched.finish()
        finally:
            leave_kernel(self.kernel)
            self.shutdown()

    def shutdown(self) -> None:
        """Give the machine's own memory back; using it afterwards is a StateError."""
        if self._kernel is not None:
            self._kernel.sched.close()
            self._kernel.close()
        gone: Any = _ShutDown(self.description.name)
        self.page_alloc = self.slub = self.memmap = self.trace = self.zones = self.caches = gone
        self._booted = gone

    def _check_running(self) -> None:
        if isinstance(self._booted, _ShutDown):
            raise StateError(f"the machine {self.description.name!r} has been shut down", remedy="boot another one")

    def __repr__(self) -> str:
        state = " (shut down)" if isinstance(self._booted, _ShutDown) else ""
        return f"<Machine {self.description.name}, {self.description.cpus} CPUs{state}>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: zones and caches as they are now."""
        head = f"<p><b>{escape(repr(self))}</b></p>"
        return head if isinstance(self._booted, _ShutDown) else head + self.view()._repr_html_()

    # Where calls run

    @property
    def cpu(self) -> int:
        """The CPU that calls run on; setting it moves the caller there, and to the CPU's node."""
        return self.page_alloc.cpu

    @cpu.setter
    def cpu(self, cpu: int) -> None:
        try:
            cpu = operator.index(cpu)
        except TypeError:
            raise TypeError(f"the CPU is {type(cpu).__name__}, not a number") from None
        if not 0 <= cpu < self.description.cpus:
            raise UsageError(f"no CPU {cpu}", remedy=f"this machine has CPUs 0 to {self.description.cpus - 1}")
        self.page_alloc.cpu = cpu
        self.page_alloc.node = self._booted.node_of_cpu[cpu]
        self.trace.cpu = cpu

    @property
    def nr_nodes(self) -> int:
        """Memory nodes, pretended ones included."""
        return self.memmap.nr_nodes

    @property
    def arch(self) -> str:
        """``"x86_64"`` or ``"i386"``."""
        return self.description.arch

    @property
    def page_offset(self) -> int:
        """Kernel address of physical address 0."""
        from kmem.machine.kernel import PAGE_OFFSET

        return PAGE_OFFSET[self.arch]

    # Hooks

    @property
    def hooks(self) -> Hooks:
        """Reclaim, compaction and OOM as the page allocator calls them; assign to register others."""
        return self.page_alloc.hooks

    @hooks.setter
    def hooks(self, hooks: Hooks) -> None:
        if not isinstance(hooks, Hooks):
            raise UsageError(f"{type(hooks).__name__} are no hooks", remedy="derive them from kmem.mm.hooks.Hooks")
        self.page_alloc.hooks = hooks

    # Slab caches by name, and objects by type

    def cache(self, name: str) -> KmemCache:
        """Return a cache by its name, or by that of a cache merged into it.

        Raises
        ------
        UsageError
            If there is none of this name.
        """
        index = self.caches.find(name)
        if index is None:
            raise UsageError(f"no slab cache {name!r}", remedy="create it with kmem_cache_create()")
        return cache_object(self.kernel, index)

    def cache_names(self) -> dict[str, int]:
        """Return the names under which caches were created, and their indexes; shared caches have several."""
        return dict(self.caches.aliases)

    def geometry(self, cache: KmemCache | int) -> CacheGeometry:
        """Return the layout and limits of a cache."""
        return self.caches.geometry(operator.index(cache))

    def struct(self, addr: int, kind: type[T]) -> T:
        """Return the object at a kernel address as a ``ctypes`` structure, which reads and writes it in place.

        Parameters
        ----------
        addr : int
            Kernel address, of the linear map or the vmalloc area.
        kind : type
            A ``ctypes.Structure``, ``Union``, array or simple type. Its layout is that of the host:
            ``c_long`` and pointers are eight bytes there even if the machine is an i386.

        Raises
        ------
        UsageError
            If nothing is mapped there.
        """
        if not isinstance(kind, type) or not hasattr(kind, "from_buffer"):
            raise TypeError(f"{kind!r} has no layout: give a ctypes.Structure, Union, array or simple type")
        layout: Any = kind
        instance: T = layout.from_buffer(self.memory(addr, ctypes.sizeof(kind)))
        return instance

    # Sysctls

    def sysctl(self, name: str, value: int | Sequence[int] | None = None) -> int | list[int]:
        """Read a sysctl, or write it first; return its value.

        Parameters
        ----------
        name : str
            ``vm.min_free_kbytes``, ``vm.watermark_scale_factor``,
            ``vm.watermark_boost_factor``, ``vm.percpu_pagelist_high_fraction``
            or ``vm.lowmem_reserve_ratio``; those of reclaim are listed at
            :func:`kmem.machine.pressure.pressure_sysctl`. ``vm.`` may be left out.
        value : int or sequence of int, optional
            What to write. Watermarks, reserves and list sizes follow as in
            the kernel; reading ``lowmem_reserve_ratio`` recomputes the reserves, too.

        Raises
        ------
        ConfigError
            If there is no such sysctl or the kernel would refuse the value.
        """
        from kmem.machine.pressure import PRESSURE_SYSCTLS, pressure_sysctl

        self._check_running()
        key = name.removeprefix("vm.")
        if key in PRESSURE_SYSCTLS:
            return pressure_sysctl(self.kernel.reclaim, key, value)
        if value is None and key == "lowmem_reserve_ratio":
            value = list(self.zones.tunables.lowmem_reserve_ratio)
        if value is not None:
            write_sysctl(self._booted, key, value if isinstance(value, int) else tuple(value))
        current = getattr(self.zones.tunables, key, None) if key != "user_min_free_kbytes" else None
        if current is None:
            raise ConfigError(f"unknown sysctl {name!r}", remedy="see the documentation of Machine.sysctl()")
        return list(current) if isinstance(current, list) else int(current)

    # Looking at it

    def validate(self) -> None:
        """Check every structure of the machine.

        Raises
        ------
        StateError
            At the first contradiction, naming zone and frame, or cache and slab.

        Notes
        -----
        Complexity: O(frames + objects + areas).
        """
        from kmem.mm.debug_vm import validate_pages

        self._check_running()
        validate_pages(self.page_alloc)
        if self._kernel is not None:
            self._kernel.vmalloc.validate()
            self._kernel.init_mm.validate()
            self._kernel.highmem.validate()
            self._kernel.reclaim.validate()
            if self._kernel.vm is not None:
                from kmem.mm.process_check import validate_processes

                validate_processes(self._kernel.vm)
        self.slub.validate()

    def digest(self) -> str:
        """Return a hexadecimal digest of the whole state: equal states have equal digests.

        Notes
        -----
        Complexity: O(frames).
        """
        import hashlib

        self._check_running()
        state = self.snapshot_arrays()
        digest = hashlib.blake2b(digest_size=16)
        for array in state:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        slub = save_state(self.slub)
        for key in ("caches", "nodes", "cpus", "links", "sequences", "kmalloc"):
            digest.update(np.ascontiguousarray(slub[key]).view(np.uint8).data)
        named = [(index, geometry.name, geometry.refcount) for index, geometry in sorted(self.slub.geometries.items())]
        digest.update(repr((slub["numbers"], named, sorted(self.caches.aliases.items()), self._numbers())).encode())
        digest.update(repr((self.zones.tunables, sorted(self.zones.totalreserve.items()))).encode())
        return digest.hexdigest()

    def snapshot_arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """Return the arrays of the page allocator: pages, zones, page sets, page blocks. They are not copies."""
        memmap = self.memmap
        return memmap.pages_array, memmap.zones_array, memmap.pagesets_array, memmap.pageblocks_array

    def _numbers(self) -> tuple[int, ...]:
        allocator = self.page_alloc
        return (
            allocator.cpu,
            allocator.node,
            allocator.watermark_boost_factor,
            int(allocator.page_group_by_mobility_disabled),
            allocator.task_flags,
            allocator.nr_failed,
            allocator.nr_extfrag,
            self.memmap.next_head,
        )

    def snapshot(self) -> MachineState:
        """Return a copy of the whole state, to go back to with :meth:`restore`.

        Trace records, registered hooks, tasks and timers are not part of it, nor are the bytes in memory, the log and
        the time.

        Notes
        -----
        Complexity: O(frames), 32 bytes each.
        """
        self._check_running()
        pages, zones, pagesets, pageblocks = (array.copy() for array in self.snapshot_arrays())
        system = (self.zones.zones, self.zones.tunables, self.zones.totalreserve)
        return MachineState(
            description=self.description,
            pages=pages,
            zones=zones,
            pagesets=pagesets,
            pageblocks=pageblocks,
            slub=save_state(self.slub),
            caches=self.caches.save_state(),
            aliases=dict(self.caches.aliases),
            system=copy.deepcopy(system),
            numbers=self._numbers(),
            mapped=self._mapped(),
        )

    def _mapped(self) -> tuple[int, tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]]:
        """What is mapped, as far as a snapshot can tell: it holds no bytes, and so no page tables."""
        kernel = self._kernel
        if kernel is None:
            return -1, (), (), ()
        processes = () if kernel.vm is None else tuple(sorted(kernel.vm.tasks))
        folios = tuple(sorted(folio.pfn for folio in kernel.reclaim.folios))
        return kernel.init_mm.nr_tables, tuple(kernel.vmalloc.space.busy.ranges()), processes, folios

    def restore(self, state: MachineState) -> None:
        """Go back to a state of this machine.

        Raises
        ------
        UsageError
            If the snapshot is that of another machine.
        StateError
            If vmalloc areas, processes or cached pages have come or gone since: what they hold is bytes in memory.
        """
        self._check_running()
        expect(state, MachineState, "the snapshot")
        if state.description != self.description or len(state.pages) != self.memmap.nr_records:
            raise UsageError("the snapshot is of another machine", remedy="restore it where it was taken")
        _, *areas_and_processes = self._mapped()
        if areas_and_processes != list(state.mapped[1:]):
            raise StateError(
                "vmalloc areas, pages of files or processes have come or gone since the snapshot",
                remedy="undo that first, or boot another machine",
            )
        if self._kernel is not None:
            init_mm = self._kernel.init_mm
            init_mm.forget_tables(init_mm.boot_tables if state.mapped[0] < 0 else state.mapped[0])
        for array, saved in zip(
            self.snapshot_arrays(), (state.pages, state.zones, state.pagesets, state.pageblocks), strict=True
        ):
            array[:] = saved
        load_state(self.slub, dict(state.slub))
        self.caches.load_state(state.caches)
        self.caches.aliases = dict(state.aliases)
        if self._kernel is not None:
            forget_caches(self._kernel)
            self._kernel.reclaim.lru.mark_frames()
        self.zones.zones, self.zones.tunables, self.zones.totalreserve = copy.deepcopy(state.system)
        self._restore_numbers(state.numbers)

    def _restore_numbers(self, numbers: tuple[int, ...]) -> None:
        allocator = self.page_alloc
        cpu, _node, allocator.watermark_boost_factor, grouping, allocator.task_flags, failed, extfrag, heads = numbers
        allocator.page_group_by_mobility_disabled = bool(grouping)
        allocator.nr_failed, allocator.nr_extfrag = failed, extfrag
        self.memmap.next_head = heads
        self.cpu = cpu

    def view(self) -> MachineView:
        """Return what ``/proc`` would show of this machine now."""
        from kmem.machine.observe import view_machine

        self._check_running()
        return view_machine(self.memmap, self.slub, None if self._kernel is None else self._kernel.reclaim)

    def nr_free_pages(self) -> int:
        """Return the free pages of all zones, those on per-CPU lists left out."""
        return int(np.maximum(self.memmap.zones_array["free_pages"], 0).sum())


class _ShutDown:
    """Stands where the parts of a machine were; whatever is asked of it is an error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise StateError(f"the machine {self._name!r} has been shut down", remedy="boot another one")


def _check_boot(**given: tuple[object, type | tuple[type, ...]]) -> None:
    """Refuse arguments of :meth:`Machine.boot` that are of another type than they can be."""
    for name, (value, kind) in given.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if value is not None and not isinstance(value, kinds) and not (int in kinds and hasattr(value, "__index__")):
            wanted = " or ".join(one.__name__ for one in kinds)
            raise TypeError(f"{name}={value!r} is {type(value).__name__}, not {wanted}")


def _describe(
    machine: str | Path | MachineDescription,
    *,
    ram: int | str | None,
    cpus: int | None,
    nodes: int | None,
    cmdline: str | None,
) -> MachineDescription:
    """Return the description that the arguments of :meth:`Machine.boot` stand for."""
    if isinstance(machine, str) and machine in ARCHITECTURES:
        return MachineDescription.preset(
            machine,
            ram=ram,
            cpus=1 if cpus is None else cpus,
            nodes=1 if nodes is None else nodes,
            cmdline=cmdline or "",
        )
    given = {"ram": ram, "cpus": cpus, "nodes": nodes, "cmdline": cmdline}
    surplus = [name for name, value in given.items() if value is not None]
    if surplus:
        raise ConfigError(
            f"{', '.join(surplus)} given for a machine that is described in full",
            remedy="give them for a preset (x86_64, i386), or change the description",
        )
    if isinstance(machine, MachineDescription):
        return machine
    path = Path(machine)
    if not path.exists():
        raise ConfigError(
            f"no machine {str(machine)!r}", remedy="give a preset (x86_64, i386), or the path of a description"
        )
    return MachineDescription.load(path)
