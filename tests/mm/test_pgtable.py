# SPDX-License-Identifier: GPL-2.0-only
"""Page tables: entries in memory, what the processor makes of them, and that processes share the kernel's part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from kmem import Machine
from kmem.errors import KernelOops, SegmentationFault, StateError
from kmem.linux.vmalloc import VM_MAP
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from kmem.mm.pgalloc import LAYOUTS, UserPageTable
from kmem.mm.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_NX,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_USER,
    PAGE_KERNEL,
    PAGE_KERNEL_RO,
    PF_INSTR,
    PF_PROT,
    PF_USER,
    PF_WRITE,
    PageFault,
    PageTable,
    entry_flags,
)
from kmem.mm.process import vm_of

ARCHES = ("x86_64", "i386")
USER = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER
PAGE = 4096


@pytest.fixture(params=ARCHES)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="1G") as machine:
        yield machine


class Space:
    """As much of a process as its page tables need: entries are written by hand."""

    def __init__(self, m: Machine) -> None:
        kernel = m.kernel
        layout = LAYOUTS[m.arch]
        pgd = m.page_alloc.alloc_pages(GFP_KERNEL, layout.pgd_order)
        kernel.ram.clear(pgd << 12, PAGE << layout.pgd_order)
        kernel.init_mm.pgd_ctor(pgd)
        self.page_table = UserPageTable(vm_of(kernel), pgd)

    def map(self, addr: int, pfn: int, prot: int = USER) -> None:
        at = self.page_table.alloc(addr)
        assert at is not None
        self.page_table.write(at, self.page_table.pfn_pte(pfn, prot))


def total_large_and_small(m: Machine) -> tuple[int, int]:
    """Kilobytes of the linear map in large pages and in small ones."""
    init_mm, layout = m.kernel.init_mm, m.kernel.layout
    small = sum(1 for _ in init_mm.entries(layout.page_offset, layout.high_memory)) * 4
    large = 0
    span = 1 << layout.levels[-2].shift
    for addr in range(layout.page_offset, layout.high_memory, span):
        step = init_mm.walk(addr)[-1]
        if step.leaf and step.size == span:
            large += span >> 10
    return large, small


@pytest.mark.parametrize(
    ("arch", "ram", "large", "small"),
    [
        # DirectMap2M (4M) and DirectMap4k of /proc/meminfo of the recorded machines
        ("x86_64", "512M", 497664, 26484),
        ("x86_64", "512M", 495616, 28532),
        ("x86_64", "1536M", 1546240, 26484),
        ("x86_64", "256M", 227328, 34676),
        ("x86_64", "320M", 294912, 32628),
        ("i386", "1024M", 884736, 12280),
    ],
)
def test_the_linear_map_is_as_large_as_recorded_and_only_split_afterwards(
    arch: str, ram: str, large: int, small: int
) -> None:
    with Machine.boot(arch, ram=ram) as m:
        got_large, got_small = total_large_and_small(m)
        page = 1 << (m.kernel.layout.levels[-2].shift - 10)
    assert got_large + got_small == large + small
    # Protecting the kernel's text and loading modules splits large pages later: up to some 15 on these machines.
    splits, rest = divmod(got_large - large, page)
    assert rest == 0
    assert 0 <= splits <= 15


def test_the_linear_map_translates_by_its_offset(m: Machine) -> None:
    init_mm, layout = m.kernel.init_mm, m.kernel.layout
    for phys in (0, 0x1234, 0x100000, 0x1234567, (layout.max_low_pfn << 12) - 1):
        assert init_mm.translate(layout.page_offset + phys) == phys
    with pytest.raises(PageFault):
        init_mm.translate(layout.high_memory)


def test_making_the_tables_takes_nothing_from_the_allocator() -> None:
    for arch in ARCHES:
        m = Machine.boot(arch, ram="1G")
        free, digest = m.nr_free_pages(), m.digest()
        assert m.kernel.init_mm.nr_tables > 0
        assert (m.nr_free_pages(), m.digest()) == (free, digest)
        m.validate()
        m.shutdown()


def test_tables_of_64_gib_are_made_at_once() -> None:
    with Machine.boot("x86_64", ram="64G") as m:
        assert m.kernel.init_mm.translate(m.phys_to_virt((64 << 30) - 1)) == (64 << 30) - 1
        assert m.kernel.ram.resident_bytes() < 2 << 20


def test_a_walk_shows_each_level_and_its_flags(m: Machine) -> None:
    addr = m.vmalloc(PAGE)
    assert addr is not None
    walk = m.walk(None, addr + 0x123)
    names = ["PGD", "PUD", "PMD", "PTE"] if m.arch == "x86_64" else ["PGD", "PTE"]
    assert [step.name for step in walk] == names
    page = m.vmalloc_to_page(addr)
    assert page is not None
    assert walk.pfn == page.pfn
    assert walk.phys == (page.pfn << 12) + 0x123
    nx = ("NX",) if m.arch == "x86_64" else ()
    assert walk[-1].flags == ("Present", "RW", "Accessed", "Dirty", "Global", *nx)
    for step in walk[:-1]:
        assert step.flags == ("Present", "RW", "User", "Accessed", "Dirty")
        assert m.kernel.ram.view(step.phys, 4)  # the entry is bytes in memory
    assert f"frame {page.pfn:#x}" in repr(walk)
    assert "not mapped" in repr(m.walk(None, addr + PAGE))


def test_entries_are_bytes_in_memory(m: Machine) -> None:
    addr = m.vmalloc(PAGE)
    assert addr is not None
    step = m.walk(None, addr)[-1]
    size = m.kernel.bits_per_long // 8
    entry = int.from_bytes(m.kernel.ram.view(step.phys, size), "little")
    assert entry == step.value
    m.kernel.ram.view(step.phys, size)[:] = bytes(size)
    with pytest.raises(KernelOops):
        m.read(addr, 1)


def test_two_processes_see_one_kernel_and_their_own_frames(m: Machine) -> None:
    #   process 1   | 0x400000 -> frame a |  ...  | kernel |
    #   process 2   | 0x400000 -> frame b |  ...  | kernel |     the same entries, the same tables
    init_mm = m.kernel.init_mm
    first, second = Space(m), Space(m)
    frames = [m.page_alloc.alloc_pages(GFP_KERNEL, 0) for _ in range(2)]
    for space, pfn in zip((first, second), frames, strict=True):
        space.map(0x400000, pfn)
    assert [m.walk(space, 0x400000).pfn for space in (first, second)] == frames
    m.write(0x400000, b"one", first)
    m.write(0x400000, b"two", second)
    assert m.read(0x400000, 3, first) == b"one"
    assert m.read(m.phys_to_virt(frames[1] << 12), 3) == b"two"
    area = m.vmalloc(10 * PAGE)
    assert area is not None
    for addr in (m.phys_to_virt(0x5000), area, area + 9 * PAGE):
        reached = {PageTable(init_mm, space.page_table.pgd).translate(addr) for space in (first, second)}
        assert reached == {init_mm.translate(addr)}
    init_mm.validate()


def test_an_entry_added_to_the_kernels_top_table_reaches_every_process() -> None:
    with Machine.boot("i386", ram="1G") as m:
        space = Space(m)
        # An area behind the first 4 MiB of the vmalloc area needs a new entry of the top table.
        areas = [m.vmalloc(3 << 20) for _ in range(4)]
        for addr in areas:
            assert addr is not None
            assert m.walk(space, addr).pfn == m.vmalloc_to_pfn(addr)
        m.kernel.init_mm.validate()
        m.kernel.ram.view((space.page_table.pgd << 12) + 0xC00, 4)[:] = bytes(4)
        with pytest.raises(StateError, match="share"):
            m.kernel.init_mm.validate()


def test_pages_of_a_process_may_lie_in_one_frame(m: Machine) -> None:
    first, second = Space(m), Space(m)
    pfn = m.page_alloc.alloc_pages(GFP_KERNEL, 0)
    first.map(0x10000, pfn)
    second.map(0x7000000, pfn)
    m.write(0x10010, b"shared", first)
    assert m.read(0x7000010, 6, second) == b"shared"


def test_two_real_processes_see_one_kernel_and_their_own_frames(m: Machine) -> None:
    prot, flags = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    parent = m.process("parent")
    addr = parent.mmap(0, 2 * PAGE, prot, flags)
    parent.write(addr, b"before")
    child = parent.fork()
    both = m.walk(parent, addr).pfn, m.walk(child, addr).pfn
    assert both[0] == both[1]  # shared until one of them writes
    m.write(addr, b"child!", child)
    assert m.read(addr, 6, parent) == b"before"
    view = m.memory(addr, 2 * PAGE, parent)
    view[:6] = b"parent"
    assert parent.read(addr, 6) == b"parent"
    assert child.read(addr, 6) == b"child!"
    assert m.walk(parent, addr).pfn != m.walk(child, addr).pfn
    area = m.vmalloc(PAGE)
    assert area is not None
    for kernel_addr in (m.phys_to_virt(0x100000), area):
        walks = [m.walk(process, kernel_addr) for process in (parent, child, None)]
        assert len({walk.phys for walk in walks}) == 1
        assert len({tuple(step.table_pfn for step in walk[1:]) for walk in walks}) == 1  # the same tables
        assert len({walk[0].table_pfn for walk in walks}) == 3  # but for the top one
    with pytest.raises(SegmentationFault):
        m.read(area, 1, parent)
    m.kernel.init_mm.validate()
    child.exit()
    parent.exit()
    assert m.kernel.init_mm.pgd_list == []


def test_a_page_shared_by_two_processes(m: Machine) -> None:
    prot, flags = PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS
    parent = m.process("parent")
    addr = parent.mmap(0, PAGE, prot, flags)
    child = parent.fork()
    m.memory(addr, PAGE, child)[:5] = b"hello"
    assert m.read(addr, 5, parent) == b"hello"
    pfn = m.walk(parent, addr).pfn
    assert pfn == m.walk(child, addr).pfn
    assert pfn is not None
    window = m.vmap([pfn], 1, VM_MAP, PAGE_KERNEL)
    assert window is not None
    m.write(window, b"HELLO")
    assert child.read(addr, 5) == b"HELLO"
    assert m.read(m.kmap(m.pfn_to_page(pfn)), 5) == b"HELLO"


@pytest.mark.parametrize(
    ("prot", "write", "user", "execute", "code"),
    [
        (0, False, False, False, 0),
        (0, True, False, False, PF_WRITE),
        (0, True, True, False, PF_WRITE | PF_USER),
        (_PAGE_PRESENT, False, True, False, PF_USER | PF_PROT),
        (_PAGE_PRESENT | _PAGE_USER, True, True, False, PF_USER | PF_WRITE | PF_PROT),
        (_PAGE_PRESENT | _PAGE_RW, False, True, False, PF_USER | PF_PROT),
        (USER | _PAGE_NX, False, True, True, PF_USER | PF_INSTR | PF_PROT),
        (PAGE_KERNEL_RO, True, False, False, PF_WRITE | PF_PROT),
    ],
)
def test_what_is_not_allowed_faults(prot: int, write: bool, user: bool, execute: bool, code: int) -> None:
    with Machine.boot("x86_64", ram="512M") as m:
        space = Space(m)
        space.map(0x10000, 0x5000, prot)
        with pytest.raises(PageFault) as fault:
            PageTable(m.kernel.init_mm, space.page_table.pgd).translate(0x10000, write, user, execute)
        assert (fault.value.addr, fault.value.error_code) == (0x10000, code)


def test_the_processor_marks_what_it_has_used(m: Machine) -> None:
    space = Space(m)
    space.map(0x10000, 0x3000, USER)
    table = PageTable(m.kernel.init_mm, space.page_table.pgd)
    assert table.get_pte(0x10000) & (_PAGE_ACCESSED | _PAGE_DIRTY) == 0
    table.translate(0x10000)
    assert table.get_pte(0x10000) & (_PAGE_ACCESSED | _PAGE_DIRTY) == _PAGE_ACCESSED
    table.translate(0x10000, write=True)
    assert table.get_pte(0x10000) & (_PAGE_ACCESSED | _PAGE_DIRTY) == _PAGE_ACCESSED | _PAGE_DIRTY


def test_ranges_are_mapped_and_unmapped_across_tables(m: Machine) -> None:
    init_mm = m.kernel.init_mm
    start = m.kernel.layout.vmalloc_start + 0x3FE000 + (-m.kernel.layout.vmalloc_start) % 0x400000
    frames = [7, 3, 90, 91, 92]
    assert init_mm.map_pages(start, frames, PAGE_KERNEL)
    assert [pfn for _, pfn in init_mm.mapped_frames(start, start + 5 * PAGE)] == frames
    init_mm.unmap_range(start + PAGE, start + 4 * PAGE)
    assert [pfn for _, pfn in init_mm.mapped_frames(start, start + 5 * PAGE)] == [7, 92]


def test_the_kernels_image_is_protected_on_x86_64() -> None:
    with Machine.boot("x86_64", ram="512M") as m:
        text, data = 0xFFFFFFFF81000000, 0xFFFFFFFF82A00000
        m.read(text, 16)
        with pytest.raises(KernelOops, match="unable to handle page fault") as oops:
            m.write(text, b"\x90")
        assert "#PF: error_code(0x0003) - permissions violation" in oops.value.lines
        m.write(data, b"\x90")
        assert m.read(m.phys_to_virt(0x2A00000), 1) == b"\x90"


def test_a_snapshot_is_not_gone_back_to_over_areas_and_processes(m: Machine) -> None:
    state = m.snapshot()
    digest = m.digest()
    addr = m.vmalloc(PAGE)  # makes a table, too
    with pytest.raises(StateError, match="since the snapshot"):
        m.restore(state)
    m.vfree(addr)
    m.restore(state)
    assert m.digest() == digest
    assert m.kernel.init_mm.nr_tables == m.kernel.init_mm.boot_tables
    m.validate()
    pages = m.vmalloc(3 * PAGE)
    assert pages is not None
    m.write(pages, b"again")
    m.validate()
    process = m.process("p")
    with pytest.raises(StateError, match="processes have come or gone"):
        m.restore(state)
    process.exit()


def test_flags_have_names() -> None:
    assert entry_flags(0x8000000000000163) == ("Present", "RW", "Accessed", "Dirty", "Global", "NX")
    assert entry_flags(0) == ()


def test_an_oops_says_what_the_kernel_says() -> None:
    with Machine.boot("x86_64", ram="512M") as m:
        addr = m.vmalloc(PAGE)
        assert addr is not None
        guard = addr + PAGE
        with pytest.raises(KernelOops) as oops:
            m.read(guard, 1)
        walk = m.walk(None, guard)
        assert oops.value.lines[:5] == [
            f"BUG: unable to handle page fault for address: {guard:016x}",
            "#PF: supervisor read access in kernel mode",
            "#PF: error_code(0x0000) - not-present page",
            f"PGD {walk[0].value:x} P4D {walk[0].value:x} PUD {walk[1].value:x} PMD {walk[2].value:x} PTE 0",
            "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        ]
        assert oops.value.lines[-1] == f"CR2: {guard:016x}"
        assert oops.value.text in m.log.text()
        with pytest.raises(KernelOops) as oops:
            m.write(0x10, b"x")
        assert oops.value.lines[0] == "BUG: kernel NULL pointer dereference, address: 0000000000000010"
        assert oops.value.lines[4] == "Oops: 0002 [#2] PREEMPT SMP NOPTI"
        with pytest.raises(KernelOops, match="probably for non-canonical address 0xdead000000000000"):
            m.read(0xDEAD000000000000, 1)


def test_an_oops_is_the_recorded_one() -> None:
    # A real kernel of 512 MiB wrote behind the linear map; the frames of its first tables are the model's.
    with Machine.boot("x86_64", ram="512M") as m, pytest.raises(KernelOops) as oops:
        m.write(0xFFFF888026318200, b"A")
    assert oops.value.lines[:5] == [
        "BUG: unable to handle page fault for address: ffff888026318200",
        "#PF: supervisor write access in kernel mode",
        "#PF: error_code(0x0002) - not-present page",
        "PGD 4401067 P4D 4401067 PUD 4402067 PMD 0 ",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
    ]
    assert oops.value.lines[-1] == "CR2: ffff888026318200"


def test_an_oops_on_i386() -> None:
    # Recorded on a machine of 2 GiB, in a part of the vmalloc area that had never been used.
    with Machine.boot("i386", ram="2G") as m, pytest.raises(KernelOops) as oops:
        m.write(0xFAE38200, b"A")
    assert oops.value.lines[:5] == [
        "BUG: unable to handle page fault for address: fae38200",
        "#PF: supervisor write access in kernel mode",
        "#PF: error_code(0x0002) - not-present page",
        "*pde = 00000000 ",
        "Oops: 0002 [#1] PREEMPT SMP",
    ]
    assert oops.value.lines[-1] == "CR2: 00000000fae38200"


def test_numbers_of_memory_are_one_with_its_bytes(m: Machine) -> None:
    ram = m.kernel.ram
    ram.view(0x1000, 8)[:] = np.arange(8, dtype=np.uint8).tobytes()
    assert ram.u64[0x1000 >> 3] == 0x0706050403020100
    assert ram.u32[0x1004 >> 2] == 0x07060504
