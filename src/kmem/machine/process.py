# SPDX-License-Identifier: GPL-2.0-only
"""Processes of a machine: system calls, ``malloc()``, and a way to follow an address down to its frame."""

from __future__ import annotations

from dataclasses import dataclass

from kmem.machine.umalloc import Chunk, UserMalloc
from kmem.mm import process as base
from kmem.mm.mm_types import PAGE_MASK, VmArea
from kmem.mm.pgtable import Walk
from kmem.mm.rmap import page_mapcount
from kmem.mm.task_mmu import vma_name

__all__ = ["Followed", "Process"]


@dataclass(frozen=True)
class Followed:
    """What is behind an address of a process, from the program down to the memory module.

    Attributes
    ----------
    addr : int
    process : Process
    chunk : Chunk or None
        The piece of the C library's heap that it lies in.
    vma : VmArea or None
        The area; None if nothing is mapped there.
    walk : Walk
        The page table entries on the way.
    pfn : int or None
        The frame; None if the page was not touched yet, or is in swap.
    zone : str or None
        Zone of the frame.
    mapcount : int
        Page table entries that map the frame, in all processes.
    kernel_addr : int or None
        Where the kernel sees the same byte; None for high memory.
    """

    addr: int
    process: Process
    chunk: Chunk | None
    vma: VmArea | None
    walk: Walk
    pfn: int | None
    zone: str | None
    mapcount: int
    kernel_addr: int | None

    @property
    def phys(self) -> int | None:
        """Physical address."""
        return self.walk.phys

    def __repr__(self) -> str:
        lines = [f"{self.addr:#x} of {self.process.comm}[{self.process.pid}]"]
        if self.chunk is not None:
            lines.append(f"  malloc   {self.chunk!r}")
        if self.vma is None:
            lines.append("  area     none: nothing is mapped here")
        else:
            name = vma_name(self.process.mm, self.vma) or "anonymous"
            lines.append(f"  area     {self.vma.vm_start:#x}-{self.vma.vm_end:#x} {self.vma.perms()} {name}")
        for step in self.walk:
            flags = " ".join(step.flags) if step.value else "empty"
            lines.append(f"  {step.name:8} entry {step.index} of frame {step.table_pfn:#x}: {step.value:#x} {flags}")
        if self.pfn is None:
            lines.append("  frame    none yet")
        else:
            users = "page of zeros" if not self.mapcount else f"mapped {self.mapcount} times"
            lines.append(f"  frame    {self.pfn:#x}, zone {self.zone}, physical {self.phys:#x}, {users}")
            seen = f"{self.kernel_addr:#x}" if self.kernel_addr is not None else "not in the linear map (high memory)"
            lines.append(f"  kernel   {seen}")
        return "\n".join(lines)


class Process(base.Process):
    """A process of a machine, with the C library's allocator; made by ``m.process(name)``."""

    @property
    def heap(self) -> UserMalloc:
        """The C library's allocator, whose state lies in the memory of the process."""
        return UserMalloc(self)

    def malloc(self, size: int) -> int | None:
        """Allocate `size` bytes; None if there is no memory."""
        return self.heap.malloc(size)

    def calloc(self, nmemb: int, size: int) -> int | None:
        """Allocate `nmemb` times `size` bytes of zeros; None if there is no memory."""
        return self.heap.calloc(nmemb, size)

    def realloc(self, addr: int | None, size: int) -> int | None:
        """Change the size of an allocation; None, and the old one left alone, if there is no memory."""
        return self.heap.realloc(addr, size)

    def free(self, addr: int | None) -> None:
        """Give an allocation back; None is fine."""
        self.heap.free(addr)

    def malloc_usable_size(self, addr: int | None) -> int:
        """Return how many bytes of an allocation may be used."""
        return self.heap.malloc_usable_size(addr)

    def follow(self, addr: int) -> Followed:
        """Return what is behind an address: piece of the heap, area, page table entries, frame, zone."""
        kernel = self.kernel
        walk = kernel.init_mm.of(self.mm.page_table.pgd).walk(addr)
        pfn = walk.pfn
        zone = kernel_addr = None
        if pfn is not None:
            memmap = kernel.page_alloc.memmap
            zone = memmap.zone_name(int(memmap.pages_array["zone"][pfn]))
            if pfn < kernel.max_low_pfn and walk.phys is not None:
                kernel_addr = kernel.phys_to_virt(walk.phys)
        return Followed(
            addr=addr,
            process=self,
            chunk=self.heap.chunk_of(addr) if self.mm.vma_lookup(addr & PAGE_MASK) is not None else None,
            vma=self.mm.vma_lookup(addr),
            walk=walk,
            pfn=pfn,
            zone=zone,
            mapcount=0 if pfn is None else page_mapcount(kernel.vm, pfn),
            kernel_addr=kernel_addr,
        )
