# SPDX-License-Identifier: GPL-2.0-only
"""Address spaces change: mmap, munmap, brk, and a stack that grows.

Free addresses are looked for from ``mmap_base`` down, as x86 does.  Where
randomisation would move ``mmap_base``, stack and heap, it is off
(``norandmaps``), so that addresses are those that a debugger shows.

Source: mm/mmap.c, arch/x86/mm/mmap.c, arch/x86/kernel/sys_x86_64.c @6.1.192
Differs: looking for free addresses takes time in proportion to the areas above them; no huge TLB pages.
"""

from __future__ import annotations

from bisect import bisect_right
from errno import EACCES, EAGAIN, EEXIST, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import TYPE_CHECKING

from kmem.mm.huge_memory import split_huge_pmd_address
from kmem.mm.memory import FaultResult, handle_mm_fault, unmap_region
from kmem.mm.mm_types import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_WRITE,
    Mapping,
    MmStruct,
    VmArea,
    page_align,
)
from kmem.mm.mman import (
    MAP_32BIT,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from kmem.mm.mmu_gather import MmuGather
from kmem.mm.rmap import anon_vma_prepare
from kmem.mm.shmem import ShmemMapping
from kmem.mm.vm import OVERCOMMIT_NEVER
from kmem.mm.vma import (
    can_vma_merge_after,
    can_vma_merge_before,
    fail,
    link_file,
    split_vma,
    vm_area_alloc,
    vm_area_free,
    vma_expand,
)

if TYPE_CHECKING:
    from kmem.mm.vm import Vm

__all__ = [
    "TASK_SIZE",
    "VM_DATA_DEFAULT_FLAGS",
    "do_brk",
    "do_mmap",
    "do_munmap",
    "expand_stack",
    "get_unmapped_area",
    "mm_populate",
    "mmap_base",
]

#: End of user addresses.
TASK_SIZE = {"x86_64": (1 << 47) - PAGE_SIZE, "i386": 0xC0000000}
#: Flags of heap and stack.
VM_DATA_DEFAULT_FLAGS = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC

_SIZE_128M = 128 << 20
#: What MAP_SHARED keeps of the flags of a mapping of a file.
_LEGACY_MAP_MASK = 0x407F973
_VM_SPECIAL_PROT = ((PROT_READ, VM_READ), (PROT_WRITE, VM_WRITE), (PROT_EXEC, VM_EXEC))


def mmap_base(task_size: int, stack_limit: int, stack_guard_gap: int) -> int:
    """Return where mappings start, below the room that the stack may need.

    Source: arch/x86/mm/mmap.c:mmap_base @6.1.192
    """
    gap = min(max(stack_limit + stack_guard_gap, _SIZE_128M), task_size // 6 * 5)
    return page_align(task_size - gap)


def calc_vm_prot_bits(prot: int) -> int:
    """Return the ``VM_*`` flags of ``PROT_*``.

    Source: include/linux/mman.h:calc_vm_prot_bits @6.1.192
    """
    return sum(flag for bit, flag in _VM_SPECIAL_PROT if prot & bit)


# Free addresses


def vm_start_gap(vm: Vm, vma: VmArea) -> int:
    """Return where an area begins, with the gap below a stack.

    Source: include/linux/mm.h:vm_start_gap @6.1.192
    """
    if vma.vm_flags & VM_GROWSDOWN:
        return max(vma.vm_start - vm.stack_guard_gap, 0)
    return vma.vm_start


def _unmapped_area_topdown(vm: Vm, mm: MmStruct, length: int, low: int, high: int) -> int | None:
    """Highest free stretch between two limits, by its first address.

    Source: mm/mmap.c:unmapped_area_topdown @6.1.192
    """
    above = bisect_right(mm.vmas, high, key=lambda vma: vma.vm_end)
    end = high
    for i in range(above, -1, -1):
        if i < len(mm.vmas):
            end = min(end, vm_start_gap(vm, mm.vmas[i]))
        below = mm.vmas[i - 1].vm_end if i else 0
        if end - max(below, low) >= length:
            return end - length
    return None


def _unmapped_area(vm: Vm, mm: MmStruct, length: int, low: int, high: int) -> int | None:
    """Lowest free stretch between two limits, by its first address.

    Source: mm/mmap.c:unmapped_area @6.1.192
    """
    start = low
    for vma in mm.vmas:
        if vma.vm_end <= start:
            continue
        if min(vm_start_gap(vm, vma), high) - start >= length:
            break
        start = max(start, vma.vm_end)
    return start if high - start >= length else None


def _hint_is_free(vm: Vm, mm: MmStruct, addr: int, length: int) -> bool:
    """Whether the address that the caller would like will do.

    Source: arch/x86/kernel/sys_x86_64.c:arch_get_unmapped_area_topdown,
    mm/mmap.c:generic_get_unmapped_area_topdown @6.1.192
    """
    if addr > mm.task_size - length or (vm.arch == "i386" and addr < vm.sysctls.mmap_min_addr):
        return False
    vma = mm.find_vma(addr)
    return vma is None or addr + length <= vm_start_gap(vm, vma)


def get_unmapped_area(vm: Vm, mm: MmStruct, addr: int, length: int, flags: int) -> int:
    """Return an address where `length` bytes can be mapped.

    Parameters
    ----------
    vm, mm : Vm, MmStruct
    addr : int
        The caller's wish, 0 for none; with ``MAP_FIXED`` an order.
    length : int
        Bytes, whole pages.
    flags : int
        ``MAP_*``.

    Raises
    ------
    OSError
        ENOMEM: nothing is free. EINVAL, EPERM: the fixed address is not one to map at.

    Source: mm/mmap.c:get_unmapped_area @6.1.192
    """
    if length > mm.task_size:
        fail(ENOMEM)
    found: int | None = addr
    if not flags & MAP_FIXED:
        found = _search(vm, mm, addr, length, flags)
    if found is None or found > mm.task_size - length:
        fail(ENOMEM)
    if found & ~PAGE_MASK:
        fail(EINVAL)
    if found < vm.sysctls.mmap_min_addr and not mm.privileged:
        fail(EPERM)
    return found


def _search(vm: Vm, mm: MmStruct, addr: int, length: int, flags: int) -> int | None:
    bottom = page_align(mm.task_size // 3)
    if vm.arch == "x86_64" and flags & MAP_32BIT:
        return _unmapped_area(vm, mm, length, 0x40000000, 0x80000000)
    if addr:
        addr = addr & PAGE_MASK if vm.arch == "x86_64" else page_align(addr)
        if _hint_is_free(vm, mm, addr, length):
            return addr
    low = PAGE_SIZE if vm.arch == "x86_64" else max(PAGE_SIZE, vm.sysctls.mmap_min_addr)
    found = _unmapped_area_topdown(vm, mm, length, low, mm.mmap_base)
    return found if found is not None else _unmapped_area(vm, mm, length, bottom, mm.task_size)


# mmap


def do_mmap(
    vm: Vm, mm: MmStruct, file: Mapping | None, addr: int, length: int, prot: int, flags: int, pgoff: int = 0
) -> int:
    """Map memory, or a file.

    Parameters
    ----------
    vm, mm : Vm, MmStruct
    file : Mapping or None
        None for ``MAP_ANONYMOUS``.
    addr, length, prot, flags
        As for the system call.
    pgoff : int
        Page offset in the file.

    Returns
    -------
    int
        The address.

    Raises
    ------
    OSError
        As the system call fails.

    Source: mm/mmap.c:do_mmap, vm_mmap_pgoff @6.1.192
    """
    if not length:
        fail(EINVAL)
    if flags & MAP_HUGETLB:
        fail(ENOMEM)
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    if not flags & MAP_FIXED:
        addr &= PAGE_MASK
        if addr and addr < vm.sysctls.mmap_min_addr:
            addr = page_align(vm.sysctls.mmap_min_addr)
    length = page_align(length)
    limit = 1 << (64 if vm.arch == "x86_64" else 32)
    if length >= limit:
        fail(ENOMEM)
    if pgoff + (length >> PAGE_SHIFT) >= limit:
        fail(EOVERFLOW)
    if mm.map_count > vm.sysctls.max_map_count:
        fail(ENOMEM)
    addr = get_unmapped_area(vm, mm, addr, length, flags)
    if flags & MAP_FIXED_NOREPLACE and mm.find_vma_intersection(addr, addr + length):
        fail(EEXIST)
    vm_flags = _mmap_flags(vm, mm, file, length, prot, flags)
    if file is None:
        pgoff = 0 if vm_flags & VM_MAYSHARE else addr >> PAGE_SHIFT
    addr = mmap_region(vm, mm, file, addr, length, vm_flags, pgoff)
    if vm_flags & VM_LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE:
        mm_populate(vm, mm, addr, length)
    return addr


def _mmap_flags(vm: Vm, mm: MmStruct, file: Mapping | None, length: int, prot: int, flags: int) -> int:
    """Flags of the new area, or the error that they are."""
    vm_flags = calc_vm_prot_bits(prot) | mm.def_flags | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if not mlock_future_check(mm, vm_flags, length):
        fail(EAGAIN)
    kind = flags & MAP_TYPE
    if kind not in (MAP_SHARED, MAP_PRIVATE) and not (file is not None and kind == MAP_SHARED_VALIDATE):
        fail(EINVAL)
    if kind == MAP_SHARED_VALIDATE and flags & ~_LEGACY_MAP_MASK:
        fail(EOPNOTSUPP)
    if (kind != MAP_PRIVATE or file is not None) and vm_flags & VM_GROWSDOWN:
        fail(EINVAL)
    if kind != MAP_PRIVATE:
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if file is not None and not getattr(file, "writable", True):
            if prot & PROT_WRITE:
                fail(EACCES)
            vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
    if flags & MAP_NORESERVE and vm.sysctls.overcommit_memory != OVERCOMMIT_NEVER:
        vm_flags |= VM_NORESERVE
    return vm_flags


def mlock_future_check(mm: MmStruct, flags: int, length: int) -> bool:
    """Whether so much more may be locked into memory.

    Source: mm/mmap.c:mlock_future_check @6.1.192
    """
    if not flags & VM_LOCKED or mm.privileged:
        return True
    return mm.locked_vm + (length >> PAGE_SHIFT) <= mm.rlimits.memlock >> PAGE_SHIFT


def mmap_region(vm: Vm, mm: MmStruct, file: Mapping | None, addr: int, length: int, vm_flags: int, pgoff: int) -> int:
    """Map a range, in place of what is mapped there; neighbours that are alike become one area.

    Source: mm/mmap.c:__mmap_region @6.1.192
    """
    end, nr_pages = addr + length, length >> PAGE_SHIFT
    if not mm.may_expand_vm(vm_flags, nr_pages):
        replaced = sum(min(end, vma.vm_end) - max(addr, vma.vm_start) for vma in mm.vma_range(addr, end))
        if not mm.may_expand_vm(vm_flags, nr_pages - (replaced >> PAGE_SHIFT)):
            fail(ENOMEM)
    do_munmap(vm, mm, addr, length)
    charged = 0
    if vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE:
        charged = nr_pages
        if not vm.vm_enough_memory(mm, charged, mm.privileged):
            fail(ENOMEM)
        vm_flags |= VM_ACCOUNT
    vma = None
    if not vm_flags & VM_SPECIAL and not (file is None and vm_flags & VM_SHARED):
        vma = _expand_neighbour(vm, mm, addr, end, vm_flags, file, pgoff)
    if vma is None:
        vma = _new_area(vm, mm, addr, end, vm_flags, file, pgoff)
        if vma is None:
            vm.vm_unacct_memory(charged)
            fail(ENOMEM)
    mm.vm_stat_account(vm_flags, nr_pages)
    if vm_flags & VM_LOCKED:
        mm.locked_vm += nr_pages
    vma.vm_flags |= VM_SOFTDIRTY
    return addr


def _expand_neighbour(
    vm: Vm, mm: MmStruct, addr: int, end: int, flags: int, file: Mapping | None, pgoff: int
) -> VmArea | None:
    """Let a neighbour grow over a free range if it may."""
    following, prev = mm.find_vma_prev(addr)
    vma, start, stop, start_pgoff = None, addr, end, pgoff
    after = pgoff + ((end - addr) >> PAGE_SHIFT)
    if (
        following is not None
        and following.vm_start == end
        and can_vma_merge_before(following, flags, None, file, after)
    ):
        vma, stop, start_pgoff = following, following.vm_end, following.vm_pgoff - ((end - addr) >> PAGE_SHIFT)
    if prev is not None and prev.vm_end == addr:
        anon_vma = vma.anon_vma if vma is not None else None
        if can_vma_merge_after(prev, flags, anon_vma, file, pgoff):
            vma, start, start_pgoff = prev, prev.vm_start, prev.vm_pgoff
    if vma is None or not vma_expand(vm, mm, vma, start, stop, start_pgoff, following):
        return None
    return vma


def _new_area(vm: Vm, mm: MmStruct, addr: int, end: int, flags: int, file: Mapping | None, pgoff: int) -> VmArea | None:
    vma = vm_area_alloc(vm, mm, addr, end, flags, pgoff)
    if vma is None:
        return None
    vma.vm_file = ShmemMapping(vm, end - addr) if file is None and flags & VM_SHARED else file
    if vma.vm_file is not None and not vma.vm_file.charge(mm, flags):
        vm_area_free(vm, vma)
        return None
    link_file(vma)
    mm.insert_vma(vma)
    return vma


def mm_populate(vm: Vm, mm: MmStruct, addr: int, length: int) -> None:
    """Bring the pages of a range in; what cannot be had is left out silently.

    Source: mm/gup.c:__mm_populate, populate_vma_page_range @6.1.192
    """
    for vma in list(mm.vma_range(addr, addr + length)):
        if not vma.accessible:
            continue
        write = vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE
        for page in range(max(addr, vma.vm_start), min(addr + length, vma.vm_end), PAGE_SIZE):
            entry = mm.page_table.get(page) or mm.page_table.huge(page)
            if entry & 1 and (not write or entry & 2):
                continue
            if handle_mm_fault(vm, vma, page, write) & (FaultResult.OOM | FaultResult.SIGBUS):
                return


# munmap


def do_munmap(vm: Vm, mm: MmStruct, start: int, length: int) -> None:
    """Unmap a range; areas that stick out are cut.

    Raises
    ------
    OSError
        EINVAL: no range of user addresses. ENOMEM: no memory to cut an area, or too many areas.

    Source: mm/mmap.c:do_mas_munmap, do_mas_align_munmap @6.1.192
    """
    if start & ~PAGE_MASK or start > mm.task_size or length > mm.task_size - start:
        fail(EINVAL)
    end = start + page_align(length)
    if end == start:
        fail(EINVAL)
    vma = mm.find_vma_intersection(start, end)
    if vma is None:
        return
    if start > vma.vm_start:
        if end < vma.vm_end and mm.map_count >= vm.sysctls.max_map_count:
            fail(ENOMEM)
        split_vma(vm, mm, vma, start, new_below=False, limit=False)
    last = mm.find_vma(end - 1)
    if last is not None and last.vm_start < end < last.vm_end:
        split_vma(vm, mm, last, end, new_below=True, limit=False)
    gone = list(mm.vma_range(start, end))
    for vma in gone:
        mm.remove_vma(vma)
        if vma.vm_flags & VM_LOCKED:
            mm.locked_vm -= vma.nr_pages
    following, prev = mm.find_vma_prev(start)
    floor = prev.vm_end if prev is not None else 0
    ceiling = following.vm_start if following is not None else mm.page_table.ceiling
    with MmuGather(vm) as tlb:
        unmap_region(vm, mm, gone, start, end, floor, ceiling, tlb)
    remove_vmas(vm, mm, gone)


def remove_vmas(vm: Vm, mm: MmStruct, gone: list[VmArea]) -> None:
    """Settle the accounts of areas that are gone, and free their structures.

    Source: mm/mmap.c:remove_mt @6.1.192
    """
    mm.update_hiwater_vm()
    accounted = 0
    for vma in gone:
        if vma.vm_flags & VM_ACCOUNT:
            accounted += vma.nr_pages
        mm.vm_stat_account(vma.vm_flags, -vma.nr_pages)
        if vma.vm_file is not None:
            vma.vm_file.put()
        vm_area_free(vm, vma)
    vm.vm_unacct_memory(accounted)


# The heap


def do_brk(vm: Vm, mm: MmStruct, brk: int) -> int:
    """Set the end of the heap; the end that it has afterwards is returned, the old one if it could not be set.

    Source: mm/mmap.c:SYSCALL_DEFINE1(brk) @6.1.192
    """
    if brk < mm.start_brk:
        return mm.brk
    limit = mm.rlimits.data
    if limit is not None and brk - mm.start_brk + mm.end_data - mm.start_data > limit:
        return mm.brk
    new, old = page_align(brk), page_align(mm.brk)
    try:
        if new < old:
            _shrink_brk(vm, mm, new, old)
        elif new > old:
            _grow_brk(vm, mm, new, old)
    except OSError:
        return mm.brk
    mm.brk = brk
    if new > old and mm.def_flags & VM_LOCKED:
        mm_populate(vm, mm, old, new - old)
    return brk


def _shrink_brk(vm: Vm, mm: MmStruct, new: int, old: int) -> None:
    if mm.find_vma_intersection(new, old) is None:
        fail(EINVAL)
    do_munmap(vm, mm, new, old - new)


def _grow_brk(vm: Vm, mm: MmStruct, new: int, old: int) -> None:
    """Source: mm/mmap.c:do_brk_flags @6.1.192."""
    get_unmapped_area(vm, mm, old, new - old, MAP_FIXED)
    if not mlock_future_check(mm, mm.def_flags, new - old):
        fail(EAGAIN)
    following = mm.find_vma(old)
    if following is not None and new + PAGE_SIZE > vm_start_gap(vm, following):
        fail(ENOMEM)
    flags, nr_pages = VM_DATA_DEFAULT_FLAGS | VM_ACCOUNT | mm.def_flags, (new - old) >> PAGE_SHIFT
    if not mm.may_expand_vm(flags, nr_pages) or mm.map_count > vm.sysctls.max_map_count:
        fail(ENOMEM)
    if not vm.vm_enough_memory(mm, nr_pages, mm.privileged):
        fail(ENOMEM)
    prev = mm.find_vma_prev(old)[1]
    if (
        prev is not None
        and prev.vm_end == old
        and prev.vm_end > mm.start_brk
        and can_vma_merge_after(prev, flags, None, None, old >> PAGE_SHIFT)
    ):
        prev.vm_end = new
        prev.vm_flags |= VM_SOFTDIRTY
    else:
        vma = vm_area_alloc(vm, mm, old, new, flags | VM_SOFTDIRTY, old >> PAGE_SHIFT)
        if vma is None:
            vm.vm_unacct_memory(nr_pages)
            fail(ENOMEM)
        mm.insert_vma(vma)
    mm.total_vm += nr_pages
    mm.data_vm += nr_pages
    if flags & VM_LOCKED:
        mm.locked_vm += nr_pages


# The stack


def expand_stack(vm: Vm, vma: VmArea, address: int) -> None:
    """Let a stack grow down to an address.

    Raises
    ------
    OSError
        EFAULT: it does not grow. EPERM: too low. ENOMEM: another mapping is too near, a limit, or no memory.

    Source: mm/mmap.c:expand_downwards, acct_stack_growth @6.1.192
    """
    mm = vma.vm_mm
    if not vma.vm_flags & VM_GROWSDOWN:
        fail(EFAULT)
    address &= PAGE_MASK
    if address < vm.sysctls.mmap_min_addr:
        fail(EPERM)
    prev = mm.prev_next(vma)[0]
    if prev is not None and not prev.vm_flags & VM_GROWSDOWN and prev.accessible:
        if address - prev.vm_end < vm.stack_guard_gap:
            fail(ENOMEM)
    if not anon_vma_prepare(vm, vma):
        fail(ENOMEM)
    size, grow = vma.vm_end - address, (vma.vm_start - address) >> PAGE_SHIFT
    if grow > vma.vm_pgoff or not mm.may_expand_vm(vma.vm_flags, grow) or size > mm.rlimits.stack:
        fail(ENOMEM)
    if not mlock_future_check(mm, vma.vm_flags, grow << PAGE_SHIFT):
        fail(ENOMEM)
    if not vm.vm_enough_memory(mm, grow, mm.privileged):
        fail(ENOMEM)
    if vma.vm_flags & VM_LOCKED:
        mm.locked_vm += grow
    mm.vm_stat_account(vma.vm_flags, grow)
    split_huge_pmd_address(vm, mm, vma.vm_start)
    vma.vm_start = address
    vma.vm_pgoff -= grow
