# SPDX-License-Identifier: GPL-2.0-only
"""What a recording's boot messages say about the memory of the machine that it was made on.

A recording is accompanied by ``dmesg-boot.txt``, ``cmdline.txt``,
``iomem.txt`` and ``sysctl-defaults.txt``.  They are read here, field by field;
each of them may be missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from kmem.errors import InputError
from kmem.mm.memblock import PAGE_SHIFT, MemoryRange

__all__ = ["BootMemory", "FreedMemory"]

#: Where the x86 kernel image begins unless KASLR moved it.
DEFAULT_KERNEL_START = 0x1000000
LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20


@dataclass(frozen=True, slots=True)
class FreedMemory:
    """Memory given to the page allocator late in boot: ``Freeing WHAT memory: nK``."""

    what: str
    pages: int
    pfn: int


@dataclass(slots=True)
class BootMemory:
    """Memory map, CPUs and sysctls of a recorded machine, as far as its context files tell.

    Attributes
    ----------
    cmdline : str
        Kernel command line; empty if unknown.
    boot_known : bool
        Whether there are boot messages at all.
    e820 : list of MemoryRange
        Usable memory as the firmware reported it, with nodes from the SRAT;
        empty if unknown.
    nr_cpus : int
        CPUs online; 1 if unknown.
    cpus_of_node : list of int
        CPUs on each node of the SRAT; empty without one.
    freed : list of FreedMemory
        What was freed after zone watermarks had been set for the first time.
    available_pages : int or None
        Free memory when the page allocator took over.
    sysctl_defaults : dict of str to list of int
        ``sysctl-defaults.txt``; empty if it is missing.
    notes : list of str
        What is assumed because a file is missing.
    """

    cmdline: str = ""
    boot_known: bool = False
    e820: list[MemoryRange] = field(default_factory=list)
    nr_cpus: int = 1
    cpus_of_node: list[int] = field(default_factory=list)
    freed: list[FreedMemory] = field(default_factory=list)
    available_pages: int | None = None
    sysctl_defaults: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> BootMemory:
        """Read the context files of a recording's folder.

        Raises
        ------
        InputError
            If a file is there but is no text, or says something impossible.
        """
        context = cls()
        dmesg, cmdline = _text(folder / "dmesg-boot.txt"), _text(folder / "cmdline.txt")
        if dmesg is None:
            context.notes.append(
                "no dmesg-boot.txt: 1 CPU assumed; zone limits and the first dump, computed during boot, not compared"
            )
        else:
            context.boot_known = True
            context._read_dmesg(dmesg, _kernel_start(folder))
        if cmdline is not None:
            context.cmdline = cmdline.strip()
        elif dmesg is not None and (found := re.search(r"Command line: (.*)", dmesg)):
            context.cmdline = found[1].strip()
        else:
            context.notes.append("no cmdline.txt: default boot options assumed")
        context._read_sysctls(folder / "sysctl-defaults.txt")
        return context

    @property
    def distance(self) -> list[list[int]] | None:
        """Node distances of the SRAT's nodes: the kernel's defaults, as no boot message shows an SLIT."""
        nodes = range(len(self.cpus_of_node))
        return [[LOCAL_DISTANCE if a == b else REMOTE_DISTANCE for b in nodes] for a in nodes] or None

    def _read_dmesg(self, dmesg: str, kernel_start: int) -> None:
        usable = re.findall(r"BIOS-e820: \[mem (0x[0-9a-f]+)-(0x[0-9a-f]+)\] usable", dmesg)
        self.e820 = [MemoryRange(int(start, 16), int(last, 16) + 1) for start, last in usable]
        if found := re.search(r"smp: Brought up \d+ nodes?, (\d+) CPUs?", dmesg):
            self.nr_cpus = int(found[1])
        if found := re.search(r"Memory: (\d+)K/\d+K available", dmesg):
            self.available_pages = int(found[1]) >> (PAGE_SHIFT - 10)
        self._read_srat(dmesg)
        initrd = re.search(r"Allocated new RAMDISK: \[mem (0x[0-9a-f]+)-", dmesg) or re.search(
            r"RAMDISK: \[mem (0x[0-9a-f]+)-", dmesg
        )
        # What is freed before the other CPUs come up precedes the first computation of watermarks.
        late = dmesg[found.end() :] if (found := re.search(r"smp: Brought up .*", dmesg)) else dmesg
        for what, kbytes in re.findall(r"Freeing (.+) memory: (\d+)K", late):
            start = int(initrd[1], 16) if initrd and what == "initrd" else kernel_start
            self.freed.append(FreedMemory(what, int(kbytes) >> (PAGE_SHIFT - 10), start >> PAGE_SHIFT))

    def _read_srat(self, dmesg: str) -> None:
        memory = re.findall(r"SRAT: Node (\d+) PXM \d+ \[mem (0x[0-9a-f]+)-(0x[0-9a-f]+)\]", dmesg)
        cpus = [int(node) for node in re.findall(r"SRAT: PXM \d+ -> APIC 0x[0-9a-f]+ -> Node (\d+)", dmesg)]
        if not memory:
            return
        self.cpus_of_node = [cpus.count(node) for node in range(max(int(node) for node, _, _ in memory) + 1)]
        pieces: list[MemoryRange] = []
        for piece in self.e820:
            for node, start, last in memory:
                low, high = max(piece.start, int(start, 16)), min(piece.end, int(last, 16) + 1)
                if low < high:
                    pieces.append(MemoryRange(low, high, int(node)))
        self.e820 = pieces

    def _read_sysctls(self, path: Path) -> None:
        text = _text(path)
        if text is None:
            self.notes.append("no sysctl-defaults.txt: the reserves are taken as not recomputed before the first dump")
            return
        for number, line in enumerate(text.splitlines(), 1):
            name, *values = line.split() or [""]
            if not name:
                continue
            try:
                self.sysctl_defaults[name] = [int(value) for value in values]
            except ValueError:
                raise InputError(f"{line.strip()!r} is no sysctl and its value", file=path, line=number) from None


def _text(path: Path) -> str | None:
    """Return the text of a file, None if there is no such file."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error


def _kernel_start(folder: Path) -> int:
    """Return the address at which the kernel image begins, from ``iomem.txt`` if it is there."""
    found = re.search(r"([0-9a-f]+)-[0-9a-f]+ : Kernel code", _text(folder / "iomem.txt") or "")
    return int(found[1], 16) if found else DEFAULT_KERNEL_START
