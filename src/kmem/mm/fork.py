# SPDX-License-Identifier: GPL-2.0-only
"""Processes begin, multiply and end: what of it concerns memory.

Source: kernel/fork.c, mm/memory.c:copy_page_range, mm/mmap.c:exit_mmap, fs/exec.c:setup_arg_pages,
arch/x86/mm/pgtable.c:pgd_alloc @6.1.192
Differs: of a process, only its address space, task_struct and kernel stack are modelled; files, signals and
credentials take no memory. exec() maps a stack, and a program only if it is given a file for it.
"""

from __future__ import annotations

from errno import EAGAIN, ENOMEM
from typing import TYPE_CHECKING

from kmem.mm.folio import Folio
from kmem.mm.gfp import __GFP_ACCOUNT, __GFP_NOWARN, __GFP_ZERO, GFP_KERNEL
from kmem.mm.huge_memory import copy_huge_pmd
from kmem.mm.memory import FaultResult, free_pgtables, handle_mm_fault, zap_range
from kmem.mm.mm_types import (
    MM_SWAPENTS,
    PAGE_SHIFT,
    PAGE_SIZE,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WIPEONFORK,
    MmStruct,
    Rlimits,
    VmArea,
)
from kmem.mm.mmap import TASK_SIZE, VM_DATA_DEFAULT_FLAGS, mmap_base
from kmem.mm.mmu_gather import MmuGather
from kmem.mm.page_alloc import NO_FRAME
from kmem.mm.pgalloc import GFP_PGTABLE_USER, PAGE_ACCESSED, PAGE_DIRTY, PAGE_RW, PAGE_SPECIAL, UserPageTable
from kmem.mm.pgprot import SWP_EXCLUSIVE, pte_present, pte_to_swp_entry
from kmem.mm.rmap import anon_vma_fork, mm_counter, page_add_file_rmap, page_dup_anon_rmap
from kmem.mm.task import PF_MEMALLOC, Task
from kmem.mm.vma import fail, link_file, vm_area_alloc, vm_area_dup, vm_area_free

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = ["copy_process", "create_process", "dup_mm", "exit_mm", "kill_process", "mm_alloc", "release_task"]

_PID_MAX = 32768
_THREADINFO_GFP = GFP_KERNEL | __GFP_ACCOUNT | __GFP_ZERO | __GFP_NOWARN
_ACCOUNT = __GFP_ACCOUNT
_STACK_ORDER_32 = 1
_THREAD_SIZE_64 = 16 << 10
_NR_CACHED_STACKS = 2
#: What execve() adds to the pages that hold the arguments.
_STACK_EXPAND = 131072
#: End of a small program: where the heap begins.
_START_BRK = {"x86_64": 0x555555559000, "i386": 0x00404000}


# Address spaces


def mm_alloc(vm: Vm, rlimits: Rlimits | None = None) -> MmStruct | None:
    """Make an empty address space; None if there is no memory. May sleep.

    Source: kernel/fork.c:mm_alloc, mm_init @6.1.192
    """
    obj = vm.alloc_object("mm_struct")
    if obj is None:
        return None
    pgd = vm.page_alloc.alloc_pages(GFP_PGTABLE_USER, vm.layout.pgd_order)
    if pgd == NO_FRAME:
        vm.free_object("mm_struct", obj)
        return None
    vm.ram.clear(pgd << PAGE_SHIFT, PAGE_SIZE << vm.layout.pgd_order)
    vm.pgd_ctor(pgd)
    limits = Rlimits() if rlimits is None else rlimits
    size = TASK_SIZE[vm.arch]
    mm = MmStruct(size, mmap_base(size, limits.stack, vm.stack_guard_gap), UserPageTable(vm, pgd), rlimits=limits)
    mm.object = obj
    vm.mms.append(mm)
    return mm


def mmdrop(vm: Vm, mm: MmStruct) -> None:
    """Free what is left of an address space that has no areas any more.

    Source: kernel/fork.c:__mmdrop, arch/x86/mm/pgtable.c:pgd_free @6.1.192
    """
    vm.pgd_dtor(mm.page_table.pgd)
    vm.page_alloc.free_pages(mm.page_table.pgd, vm.layout.pgd_order)
    vm.free_object("mm_struct", mm.object)
    vm.mms.remove(mm)


def exit_mmap(vm: Vm, mm: MmStruct) -> None:
    """Unmap everything.

    Source: mm/mmap.c:exit_mmap @6.1.192
    """
    vm.lru_add_drain()
    vmas, accounted = list(mm.vmas), 0
    with MmuGather(vm) as tlb:
        for vma in vmas:
            zap_range(vm, mm, vma, vma.vm_start, vma.vm_end, tlb)
        mm.oom_skip = True
        free_pgtables(vm, mm, vmas, 0, mm.page_table.ceiling, tlb)
    for vma in vmas:
        if vma.vm_flags & VM_ACCOUNT:
            accounted += vma.nr_pages
        mm.remove_vma(vma)
        if vma.vm_file is not None:
            vma.vm_file.put()
        vm_area_free(vm, vma)
    vm.vm_unacct_memory(accounted)


# fork


def dup_mm(vm: Vm, old: MmStruct) -> MmStruct | None:
    """Copy an address space: its areas, and its pages as shared by both until one writes. None: no memory.

    Source: kernel/fork.c:dup_mm, dup_mmap @6.1.192
    """
    mm = mm_alloc(vm, old.rlimits)
    if mm is None:
        return None
    for name in ("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack", "malloc_state"):
        setattr(mm, name, getattr(old, name))
    mm.total_vm, mm.data_vm, mm.exec_vm, mm.stack_vm = old.total_vm, old.data_vm, old.exec_vm, old.stack_vm
    mm.privileged = old.privileged
    if not _dup_mmap(vm, mm, old):
        exit_mmap(vm, mm)
        mmdrop(vm, mm)
        return None
    mm.hiwater_rss, mm.hiwater_vm = mm.rss, mm.total_vm
    return mm


def _dup_mmap(vm: Vm, mm: MmStruct, old: MmStruct) -> bool:
    for vma in list(old.vmas):
        if vma.vm_flags & VM_DONTCOPY:
            mm.vm_stat_account(vma.vm_flags, -vma.nr_pages)
            continue
        copied = _dup_vma(vm, mm, vma)
        if copied is None:
            return False
        mm.insert_vma(copied)
        if not vma.vm_flags & VM_WIPEONFORK and not _copy_page_range(vm, copied, vma):
            return False
    return True


def _dup_vma(vm: Vm, mm: MmStruct, vma: VmArea) -> VmArea | None:
    charged = vma.nr_pages if vma.vm_flags & VM_ACCOUNT else 0
    if charged and not vm.vm_enough_memory(mm, charged, mm.privileged):
        return None
    copied = vm_area_dup(vm, vma)
    if copied is None:
        vm.vm_unacct_memory(charged)
        return None
    copied.vm_mm = mm
    if vma.vm_flags & VM_WIPEONFORK:
        copied.anon_vma = None
    elif not anon_vma_fork(vm, copied, vma):
        vm_area_free(vm, copied)
        vm.vm_unacct_memory(charged)
        return None
    copied.vm_flags &= ~VM_LOCKED
    link_file(copied)
    return copied


def _copy_page_range(vm: Vm, dst: VmArea, src: VmArea) -> bool:
    """Share the pages of an area; False if there is no memory for page tables.

    Areas without anonymous pages are left to faults.

    Source: mm/memory.c:copy_page_range, vma_needs_copy, copy_present_pte @6.1.192
    """
    if src.anon_vma is None:
        return True
    table = dst.vm_mm.page_table
    for addr, level, at, _ in list(src.vm_mm.page_table.entries(src.vm_start, src.vm_end)):
        if level < vm.layout.last:
            if not copy_huge_pmd(vm, src, dst, addr):
                return False
            continue
        dst_at = table.alloc(addr)
        if dst_at is None:
            return False
        entry = table.read(at)  # memory for the table may have been made by taking this page
        copied = _share_page(vm, dst, src, at, entry) if pte_present(entry) else _share_swap(vm, dst, src, at, entry)
        table.write(dst_at, copied)
    return True


def _share_page(vm: Vm, dst: VmArea, src: VmArea, at: int, entry: int) -> int:
    """Count one more mapping of a page, and return the child's entry."""
    table = src.vm_mm.page_table
    if not entry & PAGE_SPECIAL:
        pfn = table.pte_pfn(entry)
        folio: Folio | None = vm.folios.get(pfn)
        assert folio is not None  # the entry holds a reference
        folio.refcount += 1
        if folio.anon:
            page_dup_anon_rmap(folio, pfn)
        else:
            page_add_file_rmap(vm, folio)
        dst.vm_mm.rss_stat[mm_counter(folio)] += 1
    if src.cow and entry & PAGE_RW:
        entry &= ~PAGE_RW
        table.write(at, entry)
    if src.vm_flags & VM_SHARED:
        entry &= ~PAGE_DIRTY
    return entry & ~PAGE_ACCESSED


def _share_swap(vm: Vm, dst: VmArea, src: VmArea, at: int, entry: int) -> int:
    """Source: mm/memory.c:copy_nonpresent_pte @6.1.192."""
    if vm.swap is not None:
        vm.swap.swap_duplicate(pte_to_swp_entry(vm.layout, entry))
    if vm.layout.entry_size == 8 and entry & SWP_EXCLUSIVE:
        entry &= ~SWP_EXCLUSIVE
        src.vm_mm.page_table.write(at, entry)
    dst.vm_mm.rss_stat[MM_SWAPENTS] += 1
    return entry


# Tasks


def _alloc_thread_stack(vm: Vm) -> int | None:
    """Make a kernel stack: in the vmalloc area on x86-64, where two are kept for each CPU; a block of frames on i386.

    Returns an address or a frame; None if there is no memory.

    Source: kernel/fork.c:alloc_thread_stack_node @6.1.192
    """
    if vm.arch == "i386":
        frame = vm.page_alloc.alloc_pages(_THREADINFO_GFP, _STACK_ORDER_32)
        return None if frame == NO_FRAME else frame
    kept = vm.cached_stacks.setdefault(vm.page_alloc.cpu, [])
    if kept:
        return kept.pop()
    gfp = _THREADINFO_GFP & ~_ACCOUNT
    return vm.kernel.vmalloc.vmalloc_node_range(_THREAD_SIZE_64, _THREAD_SIZE_64, gfp, caller="kernel_clone")


def _free_thread_stack(vm: Vm, stack: int) -> None:
    """Source: kernel/fork.c:free_thread_stack, thread_stack_free_rcu @6.1.192."""
    if vm.arch == "i386":
        vm.page_alloc.free_pages(stack, _STACK_ORDER_32)
        return
    kept = vm.cached_stacks.setdefault(vm.page_alloc.cpu, [])
    if len(kept) < _NR_CACHED_STACKS:
        kept.append(stack)
    else:
        vm.kernel.vmalloc.vfree(stack)


def _account_kernel_stack(vm: Vm, stack: int, sign: int) -> None:
    """Source: kernel/fork.c:account_kernel_stack @6.1.192."""
    if vm.arch == "i386":
        vm.mod_node(stack, "nr_kernel_stack", sign * 4 << _STACK_ORDER_32)
        return
    for offset in range(0, _THREAD_SIZE_64, PAGE_SIZE):
        frame = vm.kernel.vmalloc.vmalloc_to_pfn(stack + offset)
        assert frame is not None  # a stack has all its pages
        vm.mod_node(frame, "nr_kernel_stack", sign * 4)


def _alloc_task(vm: Vm, comm: str) -> Task | None:
    """Make a task: its structure and its kernel stack.

    Source: kernel/fork.c:dup_task_struct @6.1.192
    """
    obj = vm.alloc_object("task_struct")
    if obj is None:
        return None
    stack = _alloc_thread_stack(vm)
    if stack is None:
        vm.free_object("task_struct", obj)
        return None
    _account_kernel_stack(vm, stack, 1)
    task = Task(pid=vm.alloc_pid(), comm=comm[:15])
    vm.task_memory[task.pid] = (obj, stack)
    return task


def release_task(vm: Vm, task: Task) -> None:
    """Free the structure and the stack of a task that has ended.

    Source: kernel/exit.c:release_task, kernel/fork.c:free_task @6.1.192
    """
    obj, stack = vm.task_memory.pop(task.pid)
    _account_kernel_stack(vm, stack, -1)
    _free_thread_stack(vm, stack)
    vm.free_object("task_struct", obj)
    vm.tasks.pop(task.pid, None)
    vm.processes.pop(task.pid, None)


def create_process(vm: Vm, comm: str, *, rlimits: Rlimits | None = None, privileged: bool = False) -> Task:
    """Start a process as fork() and execve() of a small program leave it: with a stack, and nothing else.

    Raises
    ------
    OSError
        ENOMEM, with nothing left behind.

    Source: fs/exec.c:bprm_mm_init, setup_arg_pages, fs/binfmt_elf.c:load_elf_binary @6.1.192
    """
    task = _alloc_task(vm, comm)
    if task is None:
        fail(ENOMEM)
    mm = mm_alloc(vm, rlimits)
    if mm is None:
        release_task(vm, task)
        fail(ENOMEM)
    mm.privileged = privileged
    mm.owner = task
    if not _setup_stack(vm, mm, comm):
        exit_mmap(vm, mm)
        mmdrop(vm, mm)
        release_task(vm, task)
        fail(ENOMEM)
    mm.start_brk = mm.brk = _START_BRK[vm.arch]
    task.mm = mm
    vm.tasks[task.pid] = task
    return task


def _setup_stack(vm: Vm, mm: MmStruct, comm: str) -> bool:
    """Map the stack and write the program's name and an empty environment to it."""
    top = mm.task_size
    flags = VM_DATA_DEFAULT_FLAGS | VM_GROWSDOWN | VM_ACCOUNT | VM_SOFTDIRTY
    vma = vm_area_alloc(vm, mm, top - PAGE_SIZE, top, flags, (top - PAGE_SIZE) >> PAGE_SHIFT)
    if vma is None:
        return False
    mm.insert_vma(vma)
    if not vm.vm_enough_memory(mm, 1, mm.privileged):
        vma.vm_flags &= ~VM_ACCOUNT
        return False
    mm.stack_vm = mm.total_vm = 1
    if handle_mm_fault(vm, vma, top - PAGE_SIZE, write=True) & FaultResult.OOM:
        return False
    word = vm.layout.entry_size
    name = comm.encode(errors="replace")[:255] + b"\0"
    at = top - word - len(name)
    mm.start_stack = (at - 8 * word) & -16
    words = [1, at, 0, 0, 0, 0]  # argc, argv[0], end of argv, of envp, of the auxiliary vector
    page = vm.ram.view(mm.page_table.pte_pfn(mm.page_table.get(top - PAGE_SIZE)) << PAGE_SHIFT, PAGE_SIZE)
    page[at % PAGE_SIZE : at % PAGE_SIZE + len(name)] = name
    stack = b"".join(value.to_bytes(word, "little") for value in words)
    page[mm.start_stack % PAGE_SIZE : mm.start_stack % PAGE_SIZE + len(stack)] = stack
    grow = min(_STACK_EXPAND, max(mm.rlimits.stack - PAGE_SIZE, 0)) >> PAGE_SHIFT
    if not vm.vm_enough_memory(mm, grow, mm.privileged):
        return False
    vma.vm_start -= grow << PAGE_SHIFT
    vma.vm_pgoff -= grow
    mm.vm_stat_account(flags, grow)
    return True


def copy_process(vm: Vm, parent: Task) -> Task:
    """Make a child with a copy of its parent's memory.

    Raises
    ------
    OSError
        ENOMEM: no memory, with nothing left behind. EAGAIN: too many processes.

    Source: kernel/fork.c:copy_process, copy_mm @6.1.192
    """
    if len(vm.tasks) >= _PID_MAX - 300:
        fail(EAGAIN)
    task = _alloc_task(vm, parent.comm)
    if task is None:
        fail(ENOMEM)
    mm = dup_mm(vm, parent.mm)
    if mm is None:
        release_task(vm, task)
        fail(ENOMEM)
    mm.owner = task
    task.mm = mm
    task.oom_score_adj = parent.oom_score_adj
    vm.tasks[task.pid] = task
    return task


def exit_mm(vm: Vm, task: Task) -> None:
    """Give the memory of a process back; the task itself stays until :func:`release_task`.

    Source: kernel/exit.c:exit_mm, kernel/fork.c:mmput @6.1.192
    """
    mm: MmStruct | None = task.mm
    if mm is None:
        return
    mm.sync_mm_rss()
    task.mm = None
    mm.mm_users -= 1
    if not mm.mm_users:
        exit_mmap(vm, mm)
        mmdrop(vm, mm)


def kill_process(vm: Vm, task: Task) -> None:
    """Kill a process: at once, or at the end of the system call that it is in.

    Source: kernel/signal.c:do_send_sig_info, mm/oom_kill.c:__oom_kill_process, mark_oom_victim @6.1.192
    Differs: the running task may then use all of the reserves, not half of them, until it has left the kernel.
    """
    task.killed = True
    if vm.busy[task.pid]:
        vm.killed.add(task.pid)
        if vm.kernel.current.mm is task.mm:
            vm.kernel.current.killed = True
            vm.page_alloc.task_flags |= PF_MEMALLOC
        return
    exit_mm(vm, task)
    release_task(vm, task)
