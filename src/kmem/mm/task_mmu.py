# SPDX-License-Identifier: GPL-2.0-only
"""What ``/proc/PID`` shows of a process's memory.

Source: fs/proc/task_mmu.c, fs/proc/array.c @6.1.192
Differs: ``status`` has the lines about memory only; inode numbers are the model's own.
"""

from __future__ import annotations

from kmem.mm.mm_types import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_IO,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WIPEONFORK,
    VM_WRITE,
    MmStruct,
    VmArea,
    page_align,
)
from kmem.mm.pgalloc import PAGE_ACCESSED, PAGE_DIRTY, PAGE_SPECIAL
from kmem.mm.pgprot import pte_present
from kmem.mm.rmap import page_mapcount
from kmem.mm.vm import Vm

__all__ = ["maps", "smaps", "statm", "status"]

_FLAG_NAMES = (
    (VM_READ, "rd"),
    (VM_WRITE, "wr"),
    (VM_EXEC, "ex"),
    (VM_SHARED, "sh"),
    (VM_MAYREAD, "mr"),
    (VM_MAYWRITE, "mw"),
    (VM_MAYEXEC, "me"),
    (VM_MAYSHARE, "ms"),
    (VM_GROWSDOWN, "gd"),
    (VM_PFNMAP, "pf"),
    (VM_LOCKED, "lo"),
    (VM_IO, "io"),
    (VM_DONTCOPY, "dc"),
    (VM_DONTEXPAND, "de"),
    (VM_ACCOUNT, "ac"),
    (VM_NORESERVE, "nr"),
    (VM_WIPEONFORK, "wf"),
    (VM_SOFTDIRTY, "sd"),
    (VM_HUGEPAGE, "hg"),
    (VM_NOHUGEPAGE, "nh"),
)
_PSS_SHIFT = 12


def vma_name(mm: MmStruct, vma: VmArea) -> str | None:
    """Return what ``/proc/PID/maps`` calls an area; None for nothing.

    Source: fs/proc/task_mmu.c:show_map_vma @6.1.192
    """
    if vma.vm_file is not None:
        return vma.vm_file.name
    if vma.name is not None:
        return vma.name
    if vma.vm_start <= mm.brk and vma.vm_end >= mm.start_brk:
        return "[heap]"
    if vma.vm_start <= mm.start_stack <= vma.vm_end:
        return "[stack]"
    return None


def _map_line(mm: MmStruct, vma: VmArea, word: int) -> str:
    offset, major, minor, inode = 0, 0, 0, 0
    if vma.vm_file is not None:
        offset = vma.vm_pgoff << PAGE_SHIFT
        major, minor = getattr(vma.vm_file, "dev", (0, 1))
        inode = getattr(vma.vm_file, "ino", 0)
    line = f"{vma.vm_start:08x}-{vma.vm_end:08x} {vma.perms()} {offset:08x} {major:02x}:{minor:02x} {inode} "
    name = vma_name(mm, vma)
    return line if name is None else f"{line:<{25 + word * 6 - 1}} {name}"


def maps(vm: Vm, mm: MmStruct) -> str:
    """Return the text of ``/proc/PID/maps``."""
    word = vm.layout.entry_size
    return "".join(f"{_map_line(mm, vma, word)}\n" for vma in mm.vmas)


def status(vm: Vm, mm: MmStruct) -> str:
    """Return the lines of ``/proc/PID/status`` that tell of memory.

    Source: fs/proc/task_mmu.c:task_mem @6.1.192
    """
    anon, file, shmem = (max(mm.rss_stat[kind], 0) for kind in (MM_ANONPAGES, MM_FILEPAGES, MM_SHMEMPAGES))
    exec_bytes = mm.exec_vm << PAGE_SHIFT
    text = min(page_align(mm.end_code) - (mm.start_code & PAGE_MASK), exec_bytes)
    pages = {
        "VmPeak": max(mm.hiwater_vm, mm.total_vm),
        "VmSize": mm.total_vm,
        "VmLck": mm.locked_vm,
        "VmPin": mm.pinned_vm,
        "VmHWM": max(mm.hiwater_rss, anon + file + shmem),
        "VmRSS": anon + file + shmem,
        "RssAnon": anon,
        "RssFile": file,
        "RssShmem": shmem,
        "VmData": mm.data_vm,
        "VmStk": mm.stack_vm,
    }
    kilobytes = {name: count << PAGE_SHIFT - 10 for name, count in pages.items()}
    kilobytes["VmExe"] = text >> 10
    kilobytes["VmLib"] = (exec_bytes - text) >> 10
    kilobytes["VmPTE"] = mm.pgtables_bytes >> 10
    kilobytes["VmSwap"] = max(mm.rss_stat[MM_SWAPENTS], 0) << PAGE_SHIFT - 10
    kilobytes["HugetlbPages"] = 0
    return "".join(f"{name}:\t{value:8} kB\n" for name, value in kilobytes.items())


def statm(vm: Vm, mm: MmStruct) -> str:
    """Return the text of ``/proc/PID/statm``.

    Source: fs/proc/task_mmu.c:task_statm @6.1.192
    """
    shared = max(mm.rss_stat[MM_FILEPAGES], 0) + max(mm.rss_stat[MM_SHMEMPAGES], 0)
    text = (page_align(mm.end_code) - (mm.start_code & PAGE_MASK)) >> PAGE_SHIFT
    resident = shared + max(mm.rss_stat[MM_ANONPAGES], 0)
    return f"{mm.total_vm} {resident} {shared} {text} 0 {mm.data_vm + mm.stack_vm} 0\n"


class _Sizes:
    """What smaps adds up for one area, in bytes; ``pss`` in 4096ths of one."""

    def __init__(self) -> None:
        self.rss = self.pss = self.pss_dirty = self.swap = self.swap_pss = 0
        self.shared_clean = self.shared_dirty = self.private_clean = self.private_dirty = 0
        self.referenced = self.anonymous = self.huge = 0

    def page(self, size: int, mapcount: int, *, anon: bool, young: bool, dirty: bool) -> None:
        """Source: fs/proc/task_mmu.c:smaps_account, smaps_page_accumulate @6.1.192."""
        pss = (size << _PSS_SHIFT) // mapcount
        self.rss += size
        self.pss += pss
        self.anonymous += size if anon else 0
        self.referenced += size if young else 0
        self.pss_dirty += pss if dirty else 0
        kind = ("private", "shared")[mapcount > 1] + ("_clean", "_dirty")[dirty]
        setattr(self, kind, getattr(self, kind) + size)


def _sizes(vm: Vm, mm: MmStruct, vma: VmArea) -> _Sizes:
    sizes = _Sizes()
    for _, level, _, entry in mm.page_table.entries(vma.vm_start, vma.vm_end):
        if not pte_present(entry):
            sizes.swap += PAGE_SIZE
            sizes.swap_pss += PAGE_SIZE << _PSS_SHIFT
            continue
        pfn = mm.page_table.pte_pfn(entry)
        folio = vm.folios.get(pfn)
        if entry & PAGE_SPECIAL or folio is None:
            continue
        size = PAGE_SIZE if level == vm.layout.last else vm.layout.pmd_size
        if size > PAGE_SIZE:
            sizes.huge += size
        sizes.page(
            size,
            max(page_mapcount(vm, pfn), 1),
            anon=folio.anon,
            young=bool(entry & PAGE_ACCESSED),
            dirty=bool(entry & PAGE_DIRTY or folio.flags & 0x8),
        )
    return sizes


def smaps(vm: Vm, mm: MmStruct) -> str:
    """Return the text of ``/proc/PID/smaps``.

    Notes
    -----
    Complexity: O(pages).

    Source: fs/proc/task_mmu.c:show_smap, __show_smap @6.1.192
    """
    text = []
    for vma in mm.vmas:
        sizes = _sizes(vm, mm, vma)
        rows = {
            "Size": vma.vm_end - vma.vm_start,
            "KernelPageSize": PAGE_SIZE,
            "MMUPageSize": PAGE_SIZE,
            "Rss": sizes.rss,
            "Pss": sizes.pss >> _PSS_SHIFT,
            "Pss_Dirty": sizes.pss_dirty >> _PSS_SHIFT,
            "Shared_Clean": sizes.shared_clean,
            "Shared_Dirty": sizes.shared_dirty,
            "Private_Clean": sizes.private_clean,
            "Private_Dirty": sizes.private_dirty,
            "Referenced": sizes.referenced,
            "Anonymous": sizes.anonymous,
            "LazyFree": 0,
            "AnonHugePages": sizes.huge,
            "ShmemPmdMapped": 0,
            "FilePmdMapped": 0,
            "Shared_Hugetlb": 0,
            "Private_Hugetlb": 0,
            "Swap": sizes.swap,
            "SwapPss": sizes.swap_pss >> _PSS_SHIFT,
            "Locked": (sizes.pss >> _PSS_SHIFT) if vma.vm_flags & VM_LOCKED else 0,
        }
        text.append(f"{_map_line(mm, vma, vm.layout.entry_size)}\n")
        text += [f"{name + ':':<16}{value >> 10:8} kB\n" for name, value in rows.items()]
        text.append(f"THPeligible:    {int(_thp_eligible(vm, vma))}\n")
        names = [name for flag, name in _FLAG_NAMES if vma.vm_flags & flag]
        text.append("VmFlags: " + "".join(f"{name} " for name in names) + "\n")
    return "".join(text)


def _thp_eligible(vm: Vm, vma: VmArea) -> bool:
    """Source: mm/huge_memory.c:hugepage_vma_check @6.1.192."""
    if vm.thp == "never" or (vm.thp == "madvise" and not vma.vm_flags & VM_HUGEPAGE):
        return False
    if not vma.anonymous or vma.vm_flags & VM_NOHUGEPAGE:
        return False
    size = vm.layout.pmd_size
    return (vma.vm_end & -size) - size >= vma.vm_start
