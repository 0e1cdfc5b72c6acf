# SPDX-License-Identifier: GPL-2.0-only
"""vmalloc() and its kin as kernel code calls them: frames, guard pages, contexts, reports.

The maps show a character a page: letters are areas, ``#`` guard pages, ``~`` lazily freed pages, ``.`` free ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelBug, KernelOops, KernelWarning, StateError, UsageError
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.vmalloc import (
    PAGE_KERNEL,
    VM_MAP,
    VM_MAP_PUT_PAGES,
    VM_USERMAP,
    __vmalloc,
    __vmalloc_node,
    find_vm_area,
    vfree,
    vmalloc,
    vmalloc_32,
    vmalloc_to_page,
    vmap,
    vunmap,
)
from kmem.mm.printk import LogLine

PAGE = 4096
MIB = 1 << 20
HARDIRQ = 1 << 16
SOFTIRQ = 1 << 8


@pytest.fixture(params=("x86_64", "i386"))
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="2G") as machine:
        yield machine


def drawn(m: Machine, pages: int) -> str:
    """The first pages of the vmalloc area: letters mapped, # not mapped though busy, ~ lazy, . free."""
    space, init_mm = m.kernel.vmalloc.space, m.kernel.init_mm
    start = space.layout.vmalloc_start
    letters = {va.va_start: chr(ord("a") + n) for n, va in enumerate(space.busy.areas())}
    text = ""
    for addr in range(start, start + pages * PAGE, PAGE):
        va = space.busy.find(addr)
        if va is not None:
            text += letters[va.va_start] if init_mm.walk(addr).pfn is not None else "#"
        else:
            assert init_mm.walk(addr).pfn is None
            text += "~" if space.lazy.find(addr) is not None else "."
    return text


def test_areas_are_mapped_page_by_page_with_a_guard_behind(m: Machine) -> None:
    first, second, third = (vmalloc(n * PAGE) for n in (3, 1, 2))
    assert (first, drawn(m, 12)) == (m.kernel.layout.vmalloc_start, "aaa#b#cc#...")
    assert second is not None
    with pytest.raises(KernelOops, match=f"unable to handle page fault for address: {second + PAGE:x}"):
        m.read(second + PAGE, 1)
    vfree(second)
    assert drawn(m, 12) == "aaa#~~bb#..."
    with pytest.raises(KernelOops):
        m.read(second, 1)
    m.vm_unmap_aliases()
    assert drawn(m, 12) == "aaa#..bb#..."
    assert vmalloc(1) == second
    m.vfree(first)
    m.vfree(third)
    m.validate()


def test_all_memory_comes_back(m: Machine) -> None:
    vfree(vmalloc(64 * PAGE))  # makes the tables, which stay
    m.vm_unmap_aliases()
    free = m.nr_free_pages()
    areas = [vmalloc(n * 1000) for n in range(1, 60)]
    assert all(areas)
    for addr in areas:
        vfree(addr)
    m.kernel.vmalloc.validate()
    assert m.kernel.vmalloc.nr_vmalloc_pages == 0
    zone_cached = int(m.memmap.pagesets_array["count"].sum())
    assert m.nr_free_pages() + zone_cached >= free
    m.validate()


def test_frames_come_from_high_memory_first() -> None:
    with Machine.boot("i386", ram="2G") as m:
        low = m.kernel.max_low_pfn
        high, limited = vmalloc(100 * PAGE), vmalloc_32(100 * PAGE)
        for addr, is_high in ((high, True), (limited, False)):
            area = find_vm_area(addr or 0)
            assert area is not None
            assert {pfn >= low for pfn in area.pages} == {is_high}
        assert "N0=" not in m.vmallocinfo()


def test_vmalloc_32_stays_below_4_gib() -> None:
    with Machine.boot("x86_64", ram="8G") as m:
        plain, limited = vmalloc(PAGE), vmalloc_32(PAGE)
        assert (vmalloc_to_page(plain or 0) or 0) >= 1 << 20
        assert (vmalloc_to_page(limited or 0) or 0) < 1 << 20
        assert m.kernel.vmalloc.nr_vmalloc_pages == 2


def test_fresh_memory_is_zero_even_where_others_wrote(m: Machine) -> None:
    addr = vmalloc(10 * PAGE)
    assert addr is not None
    m.write(addr, b"secret" * 100)
    vfree(addr)
    again = vmalloc(10 * PAGE)
    assert again is not None
    assert not any(m.read(again, 10 * PAGE))


def test_without_init_on_alloc_only_vzalloc_clears() -> None:
    with Machine.boot("x86_64", ram="512M", cmdline="init_on_alloc=0") as m:
        addr = vmalloc(PAGE)
        assert addr is not None
        frame = vmalloc_to_page(addr)
        m.write(addr, b"left over")
        vfree(addr)
        again = vmalloc(PAGE)
        assert again is not None
        assert vmalloc_to_page(again) == frame
        assert m.read(again, 9) == b"left over"
        vfree(again)
        zeroed = m.vzalloc(PAGE)
        assert zeroed is not None
        assert vmalloc_to_page(zeroed) == frame
        assert m.read(zeroed, 9) == bytes(9)


def test_vmap_keeps_the_pages_and_put_pages_gives_them_away(m: Machine) -> None:
    frames = [m.page_alloc.alloc_pages(GFP_KERNEL, 0) for _ in range(3)]
    addr = vmap(frames, 2, VM_MAP, PAGE_KERNEL)
    assert addr is not None
    assert [vmalloc_to_page(addr + n * PAGE) for n in range(3)] == [*frames[:2], None]
    vunmap(addr)
    m.page_alloc.free_pages(frames.pop(), 0)  # still ours
    addr = vmap(frames, 2, VM_MAP | VM_MAP_PUT_PAGES, PAGE_KERNEL)
    vfree(addr)
    m.validate()
    with pytest.raises(ValueError, match="freed twice"):
        m.page_alloc.free_pages(frames[0], 0)
    with pytest.raises(UsageError, match="4 pages are to be mapped, 2 are given"):
        vmap(frames, 4, VM_MAP, PAGE_KERNEL)


def test_small_short_mappings_share_a_block(m: Machine) -> None:
    frames = [m.page_alloc.alloc_pages(GFP_KERNEL, 0) for _ in range(40)]
    one, two = m.vm_map_ram(frames[:1], 1), m.vm_map_ram(frames[1:3], 2)
    assert one is not None
    assert two == one + 2 * PAGE or two == one + PAGE  # of the next power of two of pages
    m.write(one, b"x")
    assert m.read(m.phys_to_virt(frames[0] << 12), 1) == b"x"
    m.vm_unmap_ram(one, 1)
    with pytest.raises(KernelOops):
        m.read(one, 1)
    large = m.vm_map_ram(frames, 40)
    assert large is not None
    assert "vm_map_ram" in m.vmallocinfo()
    m.vm_unmap_ram(large, 40)
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/vmalloc.c:2284!"):
        m.vm_unmap_ram(large + 1, 1)


def test_huge_areas_are_mapped_in_2_mib_pages_on_x86_64(m: Machine) -> None:
    addr = m.vmalloc_huge(4 * MIB, GFP_KERNEL)
    assert addr is not None
    sizes = {step.size for step in m.walk(None, addr) if step.leaf}
    assert sizes == ({2 * MIB} if m.arch == "x86_64" else {PAGE})
    m.write(addr + 3 * MIB, b"far")
    assert bytes(m.memory(addr, 4 * MIB)[3 * MIB : 3 * MIB + 3]) == b"far"
    vfree(addr)
    with pytest.raises(KernelOops):
        m.read(addr, 1)
    m.validate()


def test_alignment_and_flags_of_the_callers(m: Machine) -> None:
    for shift in (12, 13, 16, 20):
        addr = __vmalloc_node(PAGE, 1 << shift, GFP_KERNEL, -1)
        assert addr is not None
        assert addr % (1 << shift) == 0
    user = m.vmalloc_user(100)
    area = find_vm_area(user or 0)
    assert area is not None
    assert area.flags & VM_USERMAP


def test_what_cannot_be_given_is_null_and_said() -> None:
    with Machine.boot("i386", ram="512M", reports="log") as m:
        assert vmalloc(1 << 31) is None
        assert m.log.lines[0].text == (  # as recorded, but for the size
            "init: vmalloc error: size 2147483648, exceeds total pages, mode:0xcc0(GFP_KERNEL), "
            "nodemask=(null),cpuset=/,mems_allowed=0"
        )
        assert "Mem-Info:" in m.log.text()
        assert "HighMem free" not in m.log.text()  # the request could not use it
        assert vmalloc(0) is None
        assert "WARNING: CPU: 0 PID: 1 at mm/vmalloc.c:3227 __vmalloc_node_range" in m.log.text()
        lines = len(m.log.lines)
        assert vmalloc(0) is None
        assert __vmalloc(1 << 31, GFP_KERNEL | 0x2000) is None  # __GFP_NOWARN
        assert len(m.log.lines) == lines


def test_the_address_space_can_run_out() -> None:
    with Machine.boot("i386", ram="4G", reports="log") as m:
        areas = []
        while (addr := vmalloc(8 * MIB)) is not None:
            areas.append(addr)
        assert len(areas) == 14  # 120 MiB, and a guard page each
        last = m.log.text().splitlines()
        assert any(
            line == "vmap allocation for size 8392704 failed: use vmalloc=<size> to increase size" for line in last
        )
        vfree(areas[3])
        assert vmalloc(8 * MIB) == areas[3]


@pytest.mark.parametrize("text", ["bad address", "nonexistent vm area"])
def test_a_bad_vfree_is_a_warning(m: Machine, text: str) -> None:
    addr = vmalloc(PAGE)
    assert addr is not None
    vfree(addr)
    with pytest.raises(KernelWarning, match=rf"Trying to vfree\(\) {text}") as warning:
        vfree(addr + (8 if text == "bad address" else 0))
    assert warning.value.lines[0] == "------------[ cut here ]------------"
    assert any("__vunmap" in line for line in warning.value.lines)
    m.validate()
    m.kernel.vmalloc.validate()


def test_bad_arguments_are_refused(m: Machine) -> None:
    with pytest.raises(TypeError):
        vmalloc("a lot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a size of -1 bytes"):
        vmalloc(-1)
    with pytest.raises(UsageError, match="no page frame"):
        vmap([1 << 40], 1, VM_MAP, PAGE_KERNEL)
    m.kernel.vmalloc.validate()


def test_vfree_in_an_interrupt_is_put_off(m: Machine) -> None:
    addr = vmalloc(PAGE)
    m.kernel.preempt_count += HARDIRQ
    vfree(addr)
    assert find_vm_area(addr or 0) is not None
    m.kernel.preempt_count -= HARDIRQ
    m.msleep(1)  # a worker thread runs meanwhile
    assert find_vm_area(addr or 0) is None
    m.kernel.vmalloc.validate()


def test_vmalloc_in_an_interrupt_is_a_bug(m: Machine) -> None:
    for count in (HARDIRQ, SOFTIRQ):
        m.kernel.preempt_count += count
        with pytest.raises(KernelBug, match=r"kernel BUG at mm/vmalloc.c:2554!"):
            vmalloc(PAGE)
        with pytest.raises(KernelBug, match=r"kernel BUG at mm/vmalloc.c:2878!"):
            vunmap(m.kernel.layout.vmalloc_start)
        m.kernel.preempt_count -= count
    m.kernel.vmalloc.validate()


def test_vmallocinfo_names_the_caller(m: Machine) -> None:
    addr = vmalloc(600 * PAGE)
    io = m.ioremap(0xFED00000, 0x400)
    assert io is not None
    lines = m.vmallocinfo().splitlines()
    digits = m.kernel.bits_per_long // 4
    node = " N0=600" if m.arch == "x86_64" else ""
    name = "test_vmallocinfo_names_the_caller (test_vmalloc_api.py:"
    assert lines[0].startswith(f"0x{addr:0{digits}x}-0x{(addr or 0) + 601 * PAGE:0{digits}x} 2461696 {name}")
    vpages = " vpages" if m.arch == "x86_64" else ""
    assert lines[0].endswith(f") pages=600 vmalloc{vpages}{node}")
    assert any(line.endswith(f"phys=0x{0xFED00000:0{digits}x} ioremap") for line in lines)
    vfree(addr)
    assert m.vmallocinfo().splitlines()[-1].endswith(" unpurged vm_area")


def test_sleeping_where_one_must_not_is_reported(m: Machine) -> None:
    held = vmalloc(PAGE)
    m.kernel.preempt_count += 1
    for call, place in (
        (lambda: vmalloc(PAGE), "include/linux/sched/mm.h:274"),
        (lambda: vfree(held), "mm/vmalloc.c:2858"),
        (lambda: vunmap(held), "mm/vmalloc.c:2879"),
        (lambda: vmap([5], 1, VM_MAP, PAGE_KERNEL), "mm/vmalloc.c:2907"),
        (lambda: m.vm_unmap_aliases(), "mm/vmalloc.c:2214"),
    ):
        with pytest.raises(KernelWarning) as warning:
            call()
        assert warning.value.lines[:2] == [
            f"BUG: sleeping function called from invalid context at {place}",
            "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 1, name: init",
        ]
    m.kernel.preempt_count -= 1
    vfree(held)
    m.kernel.vmalloc.validate()


def test_many_freed_areas_are_purged_by_a_worker(m: Machine) -> None:
    space = m.kernel.vmalloc.space
    limit = space.lazy_max_pages()
    while not space.drain_pending:
        vfree(vmalloc(255 * PAGE))
    assert space.nr_lazy > limit
    for _ in range(100):  # each call lets others run, in an order that the seed decides
        vfree(vmalloc(PAGE))
    assert space.nr_lazy < limit
    assert not space.drain_pending
    space.validate()


def test_contiguous_if_possible(m: Machine) -> None:
    small, large = m.kvmalloc(100, GFP_KERNEL), m.kvzalloc(8 * MIB, GFP_KERNEL)
    assert (m.is_vmalloc_addr(small), m.is_vmalloc_addr(large)) == (False, True)
    assert small is not None
    m.write(small, b"contents" + bytes(92))
    moved = m.kvrealloc(small, 100, 8 * MIB, GFP_KERNEL)
    assert moved is not None
    assert m.read(moved, 8) == b"contents"
    assert m.kvrealloc(moved, 8 * MIB, 100, GFP_KERNEL) == moved
    assert m.kvmalloc(8 * MIB, 0) is None  # must not sleep: no second way
    assert m.kvmalloc_array(1 << 20, 1 << 50, GFP_KERNEL) is None
    array = m.kvcalloc(10, 20, GFP_KERNEL)
    assert array is not None
    assert not any(m.read(array, 200))
    m.kvfree_sensitive(moved, 100)
    for addr in (large, array, None):
        m.kvfree(addr)
    m.validate()
    m.kernel.vmalloc.validate()


def test_validate_sees_page_tables_that_disagree(m: Machine) -> None:
    addr = vmalloc(3 * PAGE)
    assert addr is not None
    m.validate()
    init_mm = m.kernel.init_mm
    entry = init_mm.unmap_page(addr + PAGE)
    with pytest.raises(StateError, match="should show frame"):
        m.validate()
    init_mm.set_pte(addr + PAGE, entry)
    m.validate()
    init_mm.set_pte(addr + 3 * PAGE, entry)  # the guard page
    with pytest.raises(StateError, match="where no area is in use"):
        m.validate()


def test_the_log_has_a_line_for_each_report(m: Machine) -> None:
    addr = vmalloc(PAGE)
    assert addr is not None
    with pytest.raises(KernelOops):
        m.read(addr + PAGE, 1)
    assert all(isinstance(line, LogLine) for line in m.log.lines)
    assert m.log.lines[0].text == f"BUG: unable to handle page fault for address: {addr + PAGE:x}"
