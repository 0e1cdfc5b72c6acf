# SPDX-License-Identifier: GPL-2.0-only
"""Processes: areas and their merging, page faults, copy on write, stacks, rights, moving, limits, ends.

The maps show one character a page: ``.`` nothing mapped, a letter for each area, upper case where a page is in memory.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KmemError, ProcessKilled, SegmentationFault, StateError, UsageError
from kmem.linux.mman import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from kmem.mm.mm_types import MM_ANONPAGES, MM_SHMEMPAGES, Rlimits
from kmem.mm.process import Process
from kmem.mm.user_fault import BusError

PAGE = 4096
RW = PROT_READ | PROT_WRITE
PA = MAP_PRIVATE | MAP_ANONYMOUS


@pytest.fixture(params=["x86_64", "i386"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="256M", reports="log") as m:
        yield m
        m.validate()


def frames_in_use(m: Machine) -> int:
    """Frames that are neither on free lists nor on per-CPU lists."""
    kinds = m.memmap.pages_array["kind"][: m.memmap.nr_frames]
    orders = m.memmap.pages_array["order"][: m.memmap.nr_frames]
    return int(sum(1 << int(order) for order in orders[(kinds == 3) | (kinds == 4) | (kinds == 5)]))


def resident(p: Process) -> int:
    """Pages in memory, those included that the task has not told of yet."""
    p.mm.sync_mm_rss()
    return p.mm.rss


def drawn(p: Process, start: int, pages: int) -> str:
    """The map of a range of pages; see the module."""
    text = []
    letters: dict[int, str] = {}
    for i in range(pages):
        vma = p.mm.vma_lookup(start + i * PAGE)
        if vma is None:
            text.append(".")
            continue
        letter = letters.setdefault(vma.vm_start, "abcdefghij"[len(letters)])
        text.append(letter.upper() if p.mm.page_table.get(start + i * PAGE) else letter)
    return "".join(text)


def failed(error: pytest.ExceptionInfo[OSError]) -> str:
    assert error.value.errno is not None
    return errno.errorcode[error.value.errno]


# Areas


def test_mappings_grow_downward_and_become_one_area(machine: Machine) -> None:
    p = machine.process("p")
    first = p.mmap(0, 4 * PAGE, RW, PA)
    second = p.mmap(0, 2 * PAGE, RW, PA)
    assert first + 4 * PAGE == p.mm.mmap_base
    assert second == first - 2 * PAGE
    assert drawn(p, second - PAGE, 8) == ".aaaaaa."
    other = p.mmap(0, PAGE, PROT_READ, PA)
    assert drawn(p, other - PAGE, 4) == ".abb"


def test_unmapping_the_middle_cuts_and_frees(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 6 * PAGE, RW, PA)
    p.touch(a, 6 * PAGE)
    assert drawn(p, a, 6) == "AAAAAA"
    before = resident(p)
    p.munmap(a + 2 * PAGE, 2 * PAGE)
    assert drawn(p, a, 6) == "AA..BB"
    assert resident(p) == before - 2
    assert p.mmap(0, 2 * PAGE, RW, PA) == a + 2 * PAGE, "the hole is the highest that fits"
    assert drawn(p, a, 6) == "AAaaAA", "and what fills it joins both sides"


def test_protection_cuts_and_joins_areas(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 6 * PAGE, RW, PA)
    p.write(a + 2 * PAGE, b"x")
    p.mprotect(a + 2 * PAGE, 2 * PAGE, PROT_READ)
    assert drawn(p, a, 6) == "aaBbcc"
    with pytest.raises(SegmentationFault) as fault:
        p.write(a + 2 * PAGE, b"y")
    assert "error 7" in str(fault.value)
    assert p.read(a + 2 * PAGE, 1) == b"x"
    p.mprotect(a + 2 * PAGE, 2 * PAGE, RW)
    assert drawn(p, a, 6) == "aaAaaa"
    faults = p.min_flt
    p.write(a + 2 * PAGE, b"y")
    assert p.min_flt == faults, "a page that is the process's own becomes writable at once"


def test_rights_shift_the_boundary_between_areas(machine: Machine) -> None:
    """Cases 4 and 5 of vma_merge(): the neighbour takes a part of the area over."""
    p = machine.process("p")
    a = p.mmap(0, 6 * PAGE, RW, PA)
    p.mprotect(a, 3 * PAGE, PROT_READ)
    assert drawn(p, a, 6) == "aaabbb"
    p.mprotect(a + 3 * PAGE, PAGE, PROT_READ)
    assert drawn(p, a, 6) == "aaaabb"
    p.mprotect(a + 2 * PAGE, 2 * PAGE, RW)
    assert drawn(p, a, 6) == "aabbbb"
    p.mprotect(a, 2 * PAGE, RW)
    assert drawn(p, a, 6) == "aaaaaa"


def test_no_access_keeps_the_page(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, PAGE, RW, PA)
    p.write(a, b"secret")
    p.mprotect(a, PAGE, PROT_NONE)
    for attempt in (lambda: p.read(a, 1), lambda: p.write(a, b"x")):
        with pytest.raises(SegmentationFault):
            attempt()
    assert resident(p) == p.mm.rss_stat[MM_ANONPAGES] == 2
    machine.validate()
    p.mprotect(a, PAGE, PROT_READ)
    assert p.read(a, 6) == b"secret"


def test_fixed_mappings_replace(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 4 * PAGE, RW, PA)
    p.touch(a, 4 * PAGE)
    with pytest.raises(OSError) as error:
        p.mmap(a + PAGE, PAGE, RW, PA | MAP_FIXED_NOREPLACE)
    assert failed(error) == "EEXIST"
    assert p.mmap(a + PAGE, PAGE, PROT_READ, PA | MAP_FIXED) == a + PAGE
    assert drawn(p, a, 4) == "AbCC"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 0, RW, PA), "EINVAL"),
        ((0, PAGE, RW, MAP_ANONYMOUS), "EINVAL"),
        ((0x100001, PAGE, RW, PA | MAP_FIXED), "EINVAL"),
        ((0x1000, PAGE, RW, PA | MAP_FIXED), "EPERM"),
        ((0, 1 << 62, RW, PA), "ENOMEM"),
        ((0, PAGE, RW, MAP_PRIVATE), "EBADF"),
        ((0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN), "EINVAL"),
    ],
)
def test_mmap_refuses(machine: Machine, arguments: tuple[int, int, int, int], expected: str) -> None:
    p = machine.process("p")
    maps = p.maps()
    with pytest.raises(OSError) as error:
        p.mmap(*arguments)
    assert failed(error) == expected
    assert p.maps() == maps


def test_heap_grows_and_shrinks(machine: Machine) -> None:
    p = machine.process("p")
    start = p.brk()
    assert p.brk(start + 5000) == start + 5000
    p.write(start + 4990, b"0123456789")
    assert "[heap]" in p.maps()
    assert p.mm.vma_lookup(start).nr_pages == 2  # type: ignore[union-attr]
    assert p.brk(start - 1) == start + 5000, "below its start the heap does not go"
    assert p.brk(start + 100) == start + 100
    with pytest.raises(SegmentationFault):
        p.read(start + PAGE, 1)
    assert p.sbrk(PAGE) == start + 100
    assert p.sbrk() == start + 100 + PAGE
    p.brk(start)
    assert "[heap]" not in p.maps()


def test_heap_stops_at_the_next_mapping(machine: Machine) -> None:
    p = machine.process("p")
    start = p.brk()
    p.mmap(start + 4 * PAGE, PAGE, RW, PA | MAP_FIXED)
    assert p.brk(start + 4 * PAGE) == start, "a page has to stay free in between"
    assert p.brk(start + 3 * PAGE) == start + 3 * PAGE


# Faults


def test_reads_of_untouched_memory_map_the_page_of_zeros(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 4 * PAGE, RW, PA)
    rss, used = resident(p), frames_in_use(machine)
    assert p.read(a, 4 * PAGE) == bytes(4 * PAGE)
    zero = machine.kernel.vm.zero_pfn
    assert [machine.walk(p, a + i * PAGE).pfn for i in range(4)] == [zero] * 4
    assert resident(p) == rss
    assert frames_in_use(machine) <= used + 3, "page tables at most"
    p.write(a, b"x")
    assert machine.walk(p, a).pfn != zero
    assert p.read(a, 2) == b"x\0"


def test_two_processes_share_the_kernel_and_nothing_else(machine: Machine) -> None:
    """The page tables say so: same kernel entries and bytes, different frames behind the same user address."""
    p, q = machine.process("p"), machine.process("q")
    a, b = (process.mmap(0, 64 * PAGE, RW, PA) for process in (p, q))
    assert a == b
    for process, text in ((p, b"pppp"), (q, b"qqqq")):
        process.touch(a, 64 * PAGE)
        process.write(a, text)
    assert (p.read(a, 4), q.read(a, 4)) == (b"pppp", b"qqqq")
    own = [{machine.walk(process, a + i * PAGE).pfn for i in range(64)} for process in (p, q)]
    assert len(own[0]) == len(own[1]) == 64
    assert not own[0] & own[1]
    tables = [{step.table_pfn for step in machine.walk(process, a)} for process in (p, q)]
    assert not tables[0] & tables[1]

    kernel_addr = machine.kmalloc(64, 0xCC0)
    machine.write(kernel_addr, b"the kernel's")
    ways = [machine.walk(process, kernel_addr) for process in (p, q)]
    assert ways[0].phys == ways[1].phys == machine.virt_to_phys(kernel_addr)
    assert [step.table_pfn for step in ways[0]][1:] == [step.table_pfn for step in ways[1]][1:]
    with pytest.raises(SegmentationFault):
        p.read(kernel_addr, 1)
    with p.running():
        assert machine.read(kernel_addr, 12) == b"the kernel's"


def test_kernel_mappings_made_later_are_in_every_process(machine: Machine) -> None:
    p = machine.process("p")
    area = machine.vmalloc(3 * PAGE)
    q = machine.process("q")
    frames = [machine.walk(process, area).pfn for process in (p, q, None)]
    assert frames[0] is not None
    assert len(set(frames)) == 1


def test_fork_shares_pages_until_one_writes(machine: Machine) -> None:
    parent = machine.process("parent")
    a = parent.mmap(0, 3 * PAGE, RW, PA)
    parent.write(a, b"one")
    parent.write(a + PAGE, b"two")
    child = parent.fork()
    assert child.pid > parent.pid
    assert child.maps() == parent.maps()
    frame = machine.walk(parent, a).pfn
    assert machine.walk(child, a).pfn == frame
    assert machine.kernel.vm.rmap.page_mapcount(frame) == 2
    child.write(a, b"ONE")
    assert machine.walk(parent, a).pfn == frame
    assert machine.walk(child, a).pfn != frame
    assert (parent.read(a, 3), child.read(a, 3)) == (b"one", b"ONE")
    reuses = machine.kernel.vm.stat.events["pgreuse"]
    parent.write(a, b"1ne")
    assert machine.walk(parent, a).pfn == frame, "nobody else is left: no copy"
    assert machine.kernel.vm.stat.events["pgreuse"] == reuses + 1
    child.exit()
    parent.write(a + PAGE, b"2")
    assert parent.read(a + PAGE, 3) == b"2wo"
    machine.validate()


def test_fork_leaves_shared_memory_shared(machine: Machine) -> None:
    p = machine.process("p")
    s = p.mmap(0, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS)
    p.write(s, b"before")
    child = p.fork()
    child.write(s + PAGE, b"from the child")
    p.write(s, b"parent")
    assert p.read(s + PAGE, 14) == b"from the child"
    assert child.read(s, 6) == b"parent"
    p.mm.sync_mm_rss()
    assert p.mm.rss_stat[MM_SHMEMPAGES] == 2
    machine.validate()
    p.exit()
    assert child.read(s, 6) == b"parent"
    child.exit()
    assert machine.kernel.vm.stat.global_node_page_state("nr_shmem") == 0


def test_behind_the_end_of_shared_memory_is_a_bus_error(machine: Machine) -> None:
    p = machine.process("p")
    s = p.mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS)
    s = p.mremap(s, PAGE, 2 * PAGE, MREMAP_MAYMOVE)
    p.write(s, b"x")
    with pytest.raises(BusError):
        p.read(s + PAGE, 1)


def test_stack_grows_to_its_limit(machine: Machine) -> None:
    p = machine.process("p")
    top = p.mm.task_size
    assert p.mm.vma_lookup(p.mm.start_stack).vm_start == top - 33 * PAGE  # type: ignore[union-attr]
    p.write(top - (4 << 20), b"deep")
    assert p.read(top - (4 << 20), 4) == b"deep"
    p.write(top - (8 << 20), b"deepest")
    with pytest.raises(SegmentationFault):
        p.write(top - (8 << 20) - 1, b"too deep")
    assert p.mm.stack_vm == 2048


def test_stack_keeps_its_distance(machine: Machine) -> None:
    """Between a stack and what lies below it 256 pages stay free."""
    p = machine.process("p")
    stack = p.mm.vmas[-1]
    below = p.mmap(stack.vm_start - 300 * PAGE, PAGE, RW, PA | MAP_FIXED)
    p.write(below + 257 * PAGE, b"x")
    with pytest.raises(SegmentationFault):
        p.write(below + 256 * PAGE, b"x")


def test_a_segmentation_fault_is_in_the_log(machine: Machine) -> None:
    p = machine.process("a-rather-long-name")
    with pytest.raises(SegmentationFault):
        p.read(0x10, 1)
    line = machine.log.lines[-1].text
    digits = 16 if machine.arch == "x86_64" else 8
    assert line.startswith(f"a-rather-long-n[{p.pid}]: segfault at 10 ip {0:0{digits}x} sp ")
    assert " error 4 likely on CPU 0 (core 0, socket 0)" in line


def test_addresses_above_user_space_are_nobodys(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, PAGE, RW, PA | MAP_POPULATE)
    for addr in (p.mm.task_size, (1 << 47) + a, (1 << 48) + a, (1 << 64) - 8, (1 << 64) + a):
        with pytest.raises(SegmentationFault, match="error 5"):
            p.read(addr, 1)
        with pytest.raises(SegmentationFault, match="error 7"):
            p.write(addr, b"x")


def test_a_partial_write_stays(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, PAGE, RW, PA)
    with pytest.raises(SegmentationFault):
        p.write(a + PAGE - 4, b"12345678")
    assert p.read(a + PAGE - 4, 4) == b"1234"


def test_populate_brings_all_pages_in(machine: Machine) -> None:
    p = machine.process("p")
    rss = resident(p)
    a = p.mmap(0, 5 * PAGE, RW, PA | MAP_POPULATE)
    assert drawn(p, a, 5) == "AAAAA"
    assert resident(p) == rss + 5


def test_madvise_drops_pages(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 4 * PAGE, RW, PA)
    p.touch(a, 4 * PAGE)
    p.write(a, b"gone")
    p.madvise(a, 2 * PAGE, MADV_DONTNEED)
    assert drawn(p, a, 4) == "aaAA"
    assert p.read(a, 4) == bytes(4)


# Moving


def test_mremap_moves_pages_without_copying(machine: Machine) -> None:
    p = machine.process("p")
    p.mmap(0, PAGE, PROT_READ, PA)
    a = p.mmap(0, 3 * PAGE, RW, PA)
    p.write(a + PAGE, b"moves")
    frame = machine.walk(p, a + PAGE).pfn
    with pytest.raises(OSError) as error:
        p.mremap(a, 3 * PAGE, 8 * PAGE)
    assert failed(error) == "ENOMEM"
    b = p.mremap(a, 3 * PAGE, 8 * PAGE, MREMAP_MAYMOVE)
    assert b != a
    assert machine.walk(p, b + PAGE).pfn == frame
    assert p.read(b + PAGE, 5) == b"moves"
    assert drawn(p, a, 3) == "..."
    p.mremap(b, 8 * PAGE, 2 * PAGE)
    assert drawn(p, b, 8) == "aA......"
    c = p.mremap(b, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b + 16 * PAGE)
    assert c == b + 16 * PAGE
    assert p.read(c + PAGE, 5) == b"moves"


def test_a_moved_page_is_found_by_rmap_after_fork(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 4 * PAGE, RW, PA)
    p.write(a + 2 * PAGE, b"x")
    child = p.fork()
    b = p.mremap(a, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a - 64 * PAGE)
    frame = machine.walk(child, a + 2 * PAGE).pfn
    found = {(vma.vm_mm.owner.pid, addr) for vma, addr, _, _ in machine.kernel.vm.rmap.page_mappings(frame)}
    assert found == {(p.pid, b + 2 * PAGE), (child.pid, a + 2 * PAGE)}
    machine.validate()


# Limits and promises


def test_promises(machine: Machine) -> None:
    vm = machine.kernel.vm or machine.process("first")._vm
    p = machine.process("p")
    total = vm.totalram_pages
    before = vm.committed_as
    with pytest.raises(OSError) as error:
        p.mmap(0, (total + 1) * PAGE, RW, PA)
    assert failed(error) == "ENOMEM"
    assert "not enough memory" not in machine.dmesg()
    assert "__vm_enough_memory: pid: " in machine.dmesg()
    p.mmap(0, (total + 1) * PAGE, RW, PA | MAP_NORESERVE)
    p.mmap(0, (total + 1) * PAGE, PROT_READ, PA)
    assert vm.committed_as == before
    a = p.mmap(0, 10 * PAGE, RW, PA)
    assert vm.committed_as == before + 10
    p.munmap(a, 4 * PAGE)
    assert vm.committed_as == before + 6
    vm.sysctls.overcommit_memory = 2
    vm.sysctls.overcommit_kbytes = (before + 100) * 4
    with pytest.raises(OSError):
        p.mmap(0, 200 * PAGE, RW, PA)
    vm.sysctls.overcommit_memory = 1
    p.mmap(0, (total + 1) * PAGE, RW, PA)


def test_resource_limits(machine: Machine) -> None:
    limits = Rlimits(stack=1 << 20, data=1 << 20, address_space=4 << 20)
    p = machine.process("p", rlimits=limits)
    with pytest.raises(OSError):
        p.mmap(0, 2 << 20, RW, PA)
    p.mmap(0, 2 << 20, PROT_READ, PA)
    with pytest.raises(OSError):
        p.mmap(0, 3 << 20, PROT_READ, PA)
    assert p.brk(p.brk() + (2 << 20)) == p.mm.start_brk
    with pytest.raises(SegmentationFault):
        p.write(p.mm.task_size - (1 << 20) - 1, b"x")


def test_too_many_areas(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 64 * PAGE, RW, PA)
    machine.kernel.vm.sysctls.max_map_count = p.mm.map_count + 3
    p.mprotect(a + PAGE, PAGE, PROT_READ)
    with pytest.raises(OSError) as error:
        for i in range(4, 60, 2):
            p.mprotect(a + i * PAGE, PAGE, PROT_READ)
    assert failed(error) == "ENOMEM"
    machine.validate()


# Counters and ends


def test_counters_of_proc(machine: Machine) -> None:
    p = machine.process("p")
    p.mmap(0, 4 * PAGE, PROT_READ | PROT_EXEC, PA)
    a = p.mmap(0, 10 * PAGE, RW, PA)
    p.touch(a, 3 * PAGE)
    assert p.statm() == f"47 1 0 0 0 {33 + 10} 0\n", "what the task has not told of yet is not seen"
    p.mm.sync_mm_rss()
    status = dict(line.split(":\t") for line in p.status().splitlines())
    assert status["VmSize"] == f"{(33 + 4 + 10) * 4:8} kB"
    assert status["VmRSS"] == status["RssAnon"] == f"{(1 + 3) * 4:8} kB"
    assert status["VmData"] == f"{40:8} kB"
    assert status["VmStk"] == f"{132:8} kB"
    assert status["VmPTE"] == f"{p.mm.page_table.nr_tables * 4:8} kB"
    assert p.statm() == f"47 4 0 0 0 {33 + 10} 0\n"
    p.munmap(a, 10 * PAGE)
    status = dict(line.split(":\t") for line in p.status().splitlines())
    assert status["VmHWM"] == f"{16:8} kB"
    assert status["VmPeak"] == f"{(33 + 4 + 10) * 4:8} kB"


#: The lines of an area in /proc/PID/smaps of the reference kernels.
SMAPS = (
    "Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean Private_Dirty "
    "Referenced Anonymous LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb "
    "Swap SwapPss Locked"
)


def test_smaps(machine: Machine) -> None:
    p = machine.process("p")
    a = p.mmap(0, 10 * PAGE, RW, PA)
    p.touch(a, 4 * PAGE)
    child = p.fork()
    child.write(a, b"x")
    p.read(a + 8 * PAGE, 1)
    area = p.smaps().split(" rw-p ")[1].splitlines()
    assert [line.split(":")[0] for line in area[1:22]] == SMAPS.split()
    assert area[1] == "Size:                 40 kB"
    values = {line.split(":")[0]: int(line.split()[1]) for line in area[1:22]}
    assert (values["Rss"], values["Pss"], values["Anonymous"]) == (16, 4 + 12 // 2, 16)
    assert (values["Private_Dirty"], values["Shared_Dirty"]) == (4, 12)
    assert area[22] == "THPeligible:    0"
    assert area[23] == "VmFlags: rd wr mr mw me ac sd "
    child.exit()


def test_system_calls_sleep(machine: Machine) -> None:
    p = machine.process("p")
    with machine.hardirq():
        p.mmap(0, PAGE, RW, PA)
    assert "BUG: sleeping function called from invalid context" in machine.dmesg()


def test_everything_goes_back(machine: Machine) -> None:
    machine.process("first").exit()  # the page of zeros and the first slabs stay
    slabs = {cache: machine.slub.geometries[cache].name for cache in machine.slub.geometries}
    assert "vm_area_struct" in slabs.values()
    before = frames_in_use(machine)
    for _ in range(2):
        p = machine.process("p")
        a = p.mmap(0, 100 * PAGE, RW, PA)
        p.touch(a, 100 * PAGE)
        children = [p.fork() for _ in range(3)]
        for child in children:
            child.touch(a, 50 * PAGE)
        p.exit()
        for child in children:
            child.exit()
    machine.kernel.reclaim.lru.lru_add_drain_all()
    assert len(machine.kernel.vm.folios) == 0
    assert machine.kernel.vm.committed_as == 0
    assert machine.kernel.vm.anon_vmas == {}
    machine.page_alloc.drain_all() if hasattr(machine.page_alloc, "drain_all") else None
    slack = sum(1 << int(order) for order in machine.slub.caches_array["order"][list(slabs)]) * 2
    assert frames_in_use(machine) <= before + slack, "what is more are slabs that caches keep"


def test_an_ended_process_says_so(machine: Machine) -> None:
    p = machine.process("p")
    p.exit()
    assert not p.alive
    for call in (p.exit, p.fork, lambda: p.mmap(0, PAGE, RW, PA), lambda: p.read(0, 1), p.maps):
        with pytest.raises(StateError, match="has ended"):
            call()


def test_a_machine_that_is_gone_says_so() -> None:
    with Machine.boot("x86_64", ram="256M") as m:
        p = m.process("p")
        a = p.mmap(0, PAGE, RW, PA | MAP_POPULATE)
    for call in (p.exit, p.fork, p.maps, lambda: p.read(a, 1), lambda: p.write(a, b"x"), lambda: p.malloc(1)):
        with pytest.raises(StateError, match="shut down"):
            call()


def test_the_machines_view_of_a_process(machine: Machine) -> None:
    """m.read(), m.write() and m.memory() of a process's address fault as its own accesses do."""
    p = machine.process("p")
    a = p.mmap(0, 3 * PAGE, RW, PA)
    machine.write(a + PAGE - 3, b"across", p)
    assert p.read(a + PAGE - 3, 6) == machine.read(a + PAGE - 3, 6, p) == b"across"
    view = machine.memory(a, 3 * PAGE, p)
    view[2 * PAGE :] = b"v" * PAGE
    assert p.read(a + 2 * PAGE, PAGE) == b"v" * PAGE
    child = p.fork()
    child.write(a, b"c")
    assert bytes(view[:1]) == b"\0"
    with pytest.raises(SegmentationFault):
        machine.read(a + 64 * PAGE, 1, p)
    machine.kernel.init_mm.validate()


def test_bad_arguments(machine: Machine) -> None:
    p = machine.process("p")
    for call in (
        lambda: p.mmap(0, -1, RW, PA),
        lambda: p.munmap(0, -4096),
        lambda: p.read(0, -1),
        lambda: p.brk(-1),
        lambda: machine.process(""),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(TypeError):
        p.write(p.mm.start_stack, "text")  # type: ignore[arg-type]
    with pytest.raises(KmemError):
        machine.fork()


def test_a_killed_process_frees_its_memory(machine: Machine) -> None:
    p, q = machine.process("p"), machine.process("q")
    a = p.mmap(0, 100 * PAGE, RW, PA | MAP_POPULATE)
    assert a
    p.kill()
    assert not p.alive
    assert q.alive
    machine.validate()


# Memory runs short


def test_pages_come_back_from_swap() -> None:
    """More than fits: pages leave and come back, shared ones and copies of them, too."""
    nr_pages = 160 << 8
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        m.kernel.reclaim.swap.swapon(256 << 20)
        p = m.process("p")
        a = p.mmap(0, nr_pages * PAGE, RW, PA | MAP_NORESERVE)
        for i in range(nr_pages):
            p.write(a + i * PAGE, i.to_bytes(4, "little"))
        child = p.fork()
        for i in range(0, nr_pages, 11):
            child.write(a + i * PAGE + 8, b"child")
        m.validate()
        for i in range(0, nr_pages, 13):
            number = i.to_bytes(4, "little")
            assert p.read(a + i * PAGE, 16) == number + bytes(12)
            assert child.read(a + i * PAGE, 16) == number + (bytes(4) + b"child\0\0\0" if i % 11 == 0 else bytes(12))
        assert m.kernel.vm.stat.events["pswpin"] > 1000
        assert p.maj_flt + child.maj_flt > 1000
        m.validate()
        p.exit()
        child.exit()
        m.kernel.reclaim.lru.lru_add_drain_all()
        m.kernel.reclaim.swap.validate()
        assert len(m.kernel.vm.folios) == 0
        assert m.kernel.vm.stat.swap_free_pages == m.kernel.vm.stat.swap_pages


def test_out_of_memory_kills_the_largest() -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        large, small = m.process("large"), m.process("small")
        b = small.mmap(0, 1 << 20, RW, PA | MAP_POPULATE)
        a = large.mmap(0, 300 << 20, RW, PA | MAP_NORESERVE)
        with pytest.raises(ProcessKilled):
            large.touch(a, 300 << 20)
        assert not large.alive
        assert small.read(b, 4) == bytes(4)
        assert f"Out of memory: Killed process {large.pid} (large)" in m.dmesg()
        assert "page allocation failure" not in m.dmesg(), "the victim may use the reserves"
        assert m.page_alloc.task_flags == 0
        m.validate()


def test_a_process_is_killed_by_another_ones_need() -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        large, other = m.process("large"), m.process("other")
        a = large.mmap(0, 55 << 20, RW, PA)
        large.touch(a, 55 << 20)
        b = other.mmap(0, 40 << 20, RW, PA)
        other.touch(b, 40 << 20)
        assert other.alive
        assert not large.alive
        m.validate()


# Huge pages


@pytest.fixture(params=[("x86_64", 2 << 20), ("i386", 4 << 20)], ids=["x86_64", "i386"])
def huge(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, Process, int, int]]:
    """A machine with huge pages, a process, the address of an area of three huge pages, their size."""
    arch, size = request.param
    with Machine.boot(arch, ram="1G", reports="log") as m:
        p = m.process("p")
        a = p.mmap(0, 4 * size, RW, PA)
        yield m, p, (a + size - 1) // size * size, size
        m.validate()
        p.exit()
        m.validate()
        m.kernel.reclaim.lru.lru_add_drain_all()
        assert len(m.kernel.vm.folios) == 0


def huge_kb(p: Process) -> int:
    return sum(int(line.split()[1]) for line in p.smaps().splitlines() if line.startswith("AnonHugePages:"))


def test_a_write_takes_a_huge_page(huge: tuple[Machine, Process, int, int]) -> None:
    m, p, a, size = huge
    faults = p.min_flt
    p.write(a + 12345, b"x")
    assert p.read(a, size) == bytes(12345) + b"x" + bytes(size - 12346)
    assert p.min_flt == faults + 1
    assert huge_kb(p) == size >> 10
    step = m.walk(p, a)[-1]
    assert step.size == size
    assert "PSE" in step.flags
    folio = m.kernel.vm.folios.get(m.walk(p, a + size - 1).pfn)
    assert folio.nr_pages == size // PAGE
    assert m.kernel.vm.stat.events["thp_fault_alloc"] == 1


def test_a_part_of_a_huge_page_goes(huge: tuple[Machine, Process, int, int]) -> None:
    """The entry is split; the frames stay one block until the last of them is unmapped."""
    m, p, a, size = huge
    p.write(a, b"first")
    p.write(a + size - 4, b"last")
    pages = resident(p)
    p.munmap(a + 8 * PAGE, 4 * PAGE)
    assert resident(p) == pages - 4
    assert huge_kb(p) == 0
    assert m.walk(p, a)[-1].size == PAGE
    assert (p.read(a, 5), p.read(a + size - 4, 4)) == (b"first", b"last")
    assert m.kernel.vm.folios.get(m.walk(p, a).pfn).nr_pages == size // PAGE
    m.validate()


def test_fork_shares_huge_pages(huge: tuple[Machine, Process, int, int]) -> None:
    m, p, a, size = huge
    p.write(a, b"parent")
    frame = m.walk(p, a).pfn
    child = p.fork()
    assert huge_kb(child) == size >> 10
    child.write(a + PAGE, b"child")
    m.validate()
    assert (p.read(a + PAGE, 5), child.read(a, 6)) == (bytes(5), b"parent")
    assert m.walk(child, a).pfn == frame, "only the page that was written to is copied"
    assert m.walk(child, a + PAGE).pfn != frame + 1
    child.exit()
    p.write(a, b"alone")
    assert m.walk(p, a).pfn == frame
    assert huge_kb(p) == size >> 10


def test_rights_and_moves_of_huge_pages(huge: tuple[Machine, Process, int, int]) -> None:
    m, p, a, size = huge
    p.write(a + 5 * PAGE, b"here")
    p.mprotect(a, size, PROT_READ)
    assert huge_kb(p) == size >> 10
    with pytest.raises(SegmentationFault):
        p.write(a, b"x")
    p.mprotect(a, size, RW)
    p.write(a, b"x")
    m.validate()
    p.mprotect(a + PAGE, PAGE, PROT_NONE)
    assert huge_kb(p) == 0
    p.mprotect(a + PAGE, PAGE, RW)
    b = p.mremap(a, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, 0x10000000)
    assert p.read(b + 5 * PAGE, 4) == b"here"
    p.munmap(b, size)


@pytest.mark.parametrize(("ram", "cmdline"), [("256M", ""), ("1G", "transparent_hugepage=never")])
def test_no_huge_pages(ram: str, cmdline: str) -> None:
    with Machine.boot("x86_64", ram=ram, cmdline=cmdline) as m:
        p = m.process("p")
        a = p.mmap(0, 8 << 20, RW, PA)
        p.write(a + (4 << 20), b"x")
        assert huge_kb(p) == 0


# Files


def test_private_and_shared_mappings_of_a_file(machine: Machine) -> None:
    files = machine.kernel.reclaim.filemap
    file = files.open("/data", 100_000)
    files.write("/data", b"hello file" * 1000)
    p = machine.process("p")
    private = p.mmap(0, 100_000, RW, MAP_PRIVATE, file)
    shared = p.mmap(0, 100_000, RW, MAP_SHARED, file)
    assert p.read(private, 10) == p.read(shared, 10) == b"hello file"
    frame = machine.walk(p, shared).pfn
    assert machine.walk(p, private).pfn == frame, "both map the page of the page cache"
    assert machine.walk(p, private + 2 * PAGE).pfn is not None, "and pages around it that are in memory"
    p.write(private, b"mine")
    assert p.read(shared, 5) == b"hello"
    p.write(shared + 5, b"-OURS")
    assert files.read("/data", 0, 10) == b"hello-OURS"
    assert machine.walk(p, shared).pfn == frame
    assert p.read(private, 10) == b"mineo file"
    major = p.maj_flt
    p.read(shared + 90_000, 1)
    assert p.maj_flt == major + 1
    child = p.fork()
    child.write(shared, b"child")
    assert p.read(shared, 5) == b"child"
    assert "/data" in p.maps()
    machine.validate()
    with pytest.raises(BusError):
        p.read(p.mmap(0, 200_000, PROT_READ, MAP_SHARED, file) + 102_400, 1)


def test_mapped_files_leave_under_pressure() -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        file = m.kernel.reclaim.filemap.open("/big", 160 << 20)
        p = m.process("p")
        a = p.mmap(0, 160 << 20, PROT_READ, MAP_SHARED, file)
        p.touch(a, 160 << 20, write=False)
        assert p.alive
        assert resident(p) * PAGE < 128 << 20
        m.validate()


def test_kernel_stacks(machine: Machine) -> None:
    """Each process has one: 16 KiB in the vmalloc area on x86-64, two of which are kept, 8 KiB of frames on i386."""
    stat = machine.process("first")._vm.stat
    kept = stat.global_node_page_state("nr_kernel_stack")
    p = machine.process("p")
    each = 16 if machine.arch == "x86_64" else 8
    assert stat.global_node_page_state("nr_kernel_stack") == kept + each
    assert machine.vmallocinfo().count("kernel_clone") == (2 if machine.arch == "x86_64" else 0)
    p.exit()
    assert stat.global_node_page_state("nr_kernel_stack") == kept


def test_huge_pages_are_split_and_swapped() -> None:
    with Machine.boot("x86_64", ram="600M", reports="log") as m:
        m.kernel.reclaim.swap.swapon(600 << 20)
        p = m.process("p")
        nr_pages = 700 << 8
        a = p.mmap(0, nr_pages * PAGE, RW, PA | MAP_NORESERVE)
        p.write(a + (2 << 20), b"x")
        child = p.fork()
        for i in range(0, nr_pages, 3):
            p.write(a + i * PAGE, i.to_bytes(4, "little"))
        events = m.kernel.vm.stat.events
        assert events["thp_fault_alloc"] > 200
        assert events["thp_split_page"] > 20
        assert events["pswpout"] > 5000
        m.validate()
        for i in range(0, nr_pages, 33):
            assert p.read(a + i * PAGE, 8) == i.to_bytes(8, "little")
        assert child.read(a + (2 << 20), 1) == b"x"
        m.validate()
        p.exit()
        child.exit()
        m.kernel.reclaim.lru.lru_add_drain_all()
        m.kernel.reclaim.swap.validate()
        m.kernel.reclaim.lru.validate()
        assert len(m.kernel.vm.folios) == 0
        m.validate()
