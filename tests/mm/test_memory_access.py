# SPDX-License-Identifier: GPL-2.0-only
"""Memory is real: bytes written through one mapping are read through every other."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import numpy as np
import pytest

from kmem import Machine
from kmem.errors import KernelOops, NotSupportedError, SegmentationFault
from kmem.linux.gfp import GFP_HIGHUSER, GFP_KERNEL
from kmem.linux.vmalloc import VM_MAP
from kmem.mm import ram as ram_module
from kmem.mm.pgtable import PAGE_KERNEL, PAGE_KERNEL_RO
from kmem.mm.ram import Ram, runs_of
from tests.mm.test_pgtable import Space

PAGE = 4096


@pytest.fixture(params=("x86_64", "i386"))
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="1G") as machine:
        yield machine


def scattered(m: Machine, count: int) -> list[int]:
    """Frames of which no two lie side by side, the highest first."""
    frames = [m.page_alloc.alloc_pages(GFP_KERNEL, 0) for _ in range(2 * count)]
    chosen = sorted(frames)[::2]
    for pfn in set(frames) - set(chosen):
        m.page_alloc.free_pages(pfn, 0)
    return chosen[::-1]


def test_one_frame_through_every_mapping(m: Machine) -> None:
    #   frame 5 ── linear map, vmap, a second vmap, vm_map_ram, kmap, two processes
    frames = scattered(m, 3)
    kernel = m.kernel
    maps = [m.vmap(frames, 3, VM_MAP, PAGE_KERNEL) for _ in range(2)]
    maps.append(m.vm_map_ram(frames, 3))
    spaces = [Space(m), Space(m)]
    for space in spaces:
        for place, pfn in enumerate(frames):
            space.map(0x400000 + place * PAGE, pfn)
    page = m.pfn_to_page(frames[1])
    kmapped = m.kmap(page)
    linear = m.page_address(page)
    assert linear is not None
    readers = [
        lambda: m.read(linear, 8),
        *(lambda addr=addr: m.read(addr + PAGE, 8) for addr in maps),
        *(lambda addr=addr: bytes(m.memory(addr, 3 * PAGE)[PAGE : PAGE + 8]) for addr in maps),
        lambda: m.read(kmapped, 8),
        *(lambda space=space: m.read(0x401000, 8, space) for space in spaces),
        *(lambda space=space: bytes(m.memory(0x401000, 8, space)) for space in spaces),
        lambda: bytes(kernel.ram.view(frames[1] << 12, 8)),
    ]
    assert maps[0] is not None
    m.write(linear, b"linear!!")
    assert [read() for read in readers] == [b"linear!!"] * len(readers)
    m.memory(maps[0], 3 * PAGE)[PAGE : PAGE + 8] = b"a view!!"
    assert [read() for read in readers] == [b"a view!!"] * len(readers)
    m.write(0x401000, b"process!", spaces[1])
    assert [read() for read in readers] == [b"process!"] * len(readers)


def test_a_vmalloc_area_is_contiguous_to_numpy_and_ctypes(m: Machine) -> None:
    frames = scattered(m, 40)
    for pfn in frames:
        m.page_alloc.free_pages(pfn, 0)
    addr = m.vmalloc(40 * PAGE)
    assert addr is not None
    numbers = np.frombuffer(m.memory(addr, 40 * PAGE), np.uint32)
    assert not numbers.any()
    numbers[:] = np.arange(len(numbers))
    for page in (0, 1, 17, 39):
        backing = m.vmalloc_to_page(addr + page * PAGE)
        assert backing is not None
        stored = np.frombuffer(m.kernel.ram.view(backing.pfn << 12, PAGE), np.uint32)
        assert stored[0] == page * PAGE // 4

    class Unit(ctypes.Structure):
        _fields_ = (("id", ctypes.c_uint32), ("name", ctypes.c_char * (2 * PAGE)))

    unit = Unit.from_buffer(m.memory(addr + PAGE, ctypes.sizeof(Unit)))
    unit.id = 7
    unit.name = b"x" * (2 * PAGE)
    assert m.read(addr + PAGE, 5) == b"\x07\0\0\0x"
    assert m.read(addr + 3 * PAGE, 4) == b"xxxx"


def test_a_view_of_an_area_is_made_once_and_outlives_it(m: Machine) -> None:
    frames = scattered(m, 6)
    addr = m.vmap(frames, 6, VM_MAP, PAGE_KERNEL)
    assert addr is not None
    area = m.vmalloc(6 * PAGE)
    assert area is not None
    gc.collect()
    before = ram_module._nr_maps
    window = [m.memory(addr, 6 * PAGE) for _ in range(3)]
    assert ram_module._nr_maps - before == 7  # six frames and the place they are put: once, not three times
    window[0][5 * PAGE] = 9
    assert window[2][5 * PAGE] == 9
    m.vunmap(addr)
    window.clear()
    gc.collect()
    assert ram_module._nr_maps == before
    views = [m.memory(area + PAGE, 4 * PAGE) for _ in range(3)]
    mapped = ram_module._nr_maps - before
    views[0][:3] = b"abc"
    assert bytes(views[2][:3]) == b"abc"
    m.vfree(area)
    views[1][:3] = b"xyz"  # as through a stale pointer: the frames are still there, whoever owns them now
    assert ram_module._nr_maps - before == mapped
    views.clear()
    gc.collect()
    assert ram_module._nr_maps == before


def test_a_view_is_refused_where_nothing_is_mapped(m: Machine) -> None:
    addr = m.vmalloc(2 * PAGE)
    assert addr is not None
    with pytest.raises(KernelOops, match="unable to handle page fault"):
        m.memory(addr, 2 * PAGE + 1)
    with pytest.raises(KernelOops):
        m.read(addr + PAGE, PAGE + 1)
    m.vfree(addr)
    for touch in (m.memory, m.read):
        with pytest.raises(KernelOops):
            touch(addr, 1)
    space = Space(m)
    with pytest.raises(SegmentationFault, match="segfault at"):
        m.read(m.page_offset + 0x1000, 1, space)


def test_nothing_is_written_unless_all_of_it_can_be(m: Machine) -> None:
    addr = m.vmalloc(PAGE)
    assert addr is not None
    with pytest.raises(KernelOops):
        m.write(addr + PAGE - 2, b"abcd")
    assert m.read(addr + PAGE - 2, 2) == b"\0\0"


def test_read_only_mappings_cannot_be_written(m: Machine) -> None:
    frames = scattered(m, 2)
    addr = m.vmap(frames, 2, VM_MAP, PAGE_KERNEL_RO)
    assert addr is not None
    m.read(addr, 2 * PAGE)
    with pytest.raises(KernelOops, match="unable to handle page fault") as oops:
        m.write(addr, b"x")
    assert "#PF: error_code(0x0003) - permissions violation" in oops.value.lines


def test_beyond_the_limit_of_the_host_bytes_are_copied(m: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = scattered(m, 10)
    addr = m.vmap(frames, 10, VM_MAP, PAGE_KERNEL)
    assert addr is not None
    monkeypatch.setattr(ram_module, "_max_maps", lambda: ram_module._nr_maps + 5)
    with pytest.raises(NotSupportedError, match="max_map_count"):
        m.memory(addr, 10 * PAGE)
    m.write(addr + PAGE - 3, b"across a border")
    assert m.read(addr + PAGE - 3, 15) == b"across a border"


def test_without_files_in_memory_only_scattered_views_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ram_module, "_memory_file", lambda size: -1)
    with Machine.boot("i386", ram="256M") as m:
        addr = m.vmap(scattered(m, 2), 2, VM_MAP, PAGE_KERNEL)
        assert addr is not None
        m.write(addr + PAGE - 2, b"abcd")
        assert m.read(addr + PAGE - 2, 4) == b"abcd"
        assert bytes(m.memory(addr, PAGE)[-2:]) == b"ab"
        with pytest.raises(NotSupportedError, match="no files in memory"):
            m.memory(addr, 2 * PAGE)


def test_high_memory_is_read_through_vmalloc_and_kmap() -> None:
    with Machine.boot("i386", ram="2G") as m:
        pages = [m.pfn_to_page(m.page_alloc.alloc_pages(GFP_HIGHUSER, 0)) for _ in range(3)]
        assert all(m.page_address(page) is None for page in pages)
        addr = m.vmap(pages, 3, VM_MAP, PAGE_KERNEL)
        assert addr is not None
        m.write(addr + PAGE, b"high")
        assert m.read(m.kmap_local_page(pages[1]), 4) == b"high"


def test_memory_costs_what_is_touched() -> None:
    with Machine.boot("x86_64", ram="64G") as m:
        addr = m.vmalloc(1 << 30)
        assert addr is not None
        before = m.kernel.ram.resident_bytes()
        assert before < 8 << 20  # tables alone
        m.write(addr + (512 << 20), b"x")
        assert m.kernel.ram.resident_bytes() - before <= PAGE


def test_runs_of_adjacent_frames_are_mapped_in_one_call() -> None:
    assert runs_of([]) == []
    assert runs_of([3, 4, 5, 9, 1, 2]) == [(3, 3), (9, 1), (1, 2)]
    ram = Ram(16 * PAGE)
    gc.collect()
    before = ram_module._nr_maps
    view = ram.map_frames([3, 4, 5, 9])
    assert ram_module._nr_maps - before == 3
    view[0], view[3 * PAGE] = 1, 2
    assert (ram.view(3 * PAGE, 1)[0], ram.view(9 * PAGE, 1)[0]) == (1, 2)
    del view
    gc.collect()
    assert ram_module._nr_maps == before


def test_clearing_gives_memory_back_to_the_host() -> None:
    ram = Ram(64 << 20)
    ram.view(0, 8 << 20)[:] = b"x" * (8 << 20)
    assert ram.resident_bytes() >= 8 << 20
    ram.clear(0, 8 << 20)
    assert ram.resident_bytes() < 1 << 20
    assert bytes(ram.view(4 << 20, 8)) == bytes(8)
    ram.view(100, 10)[:] = b"0123456789"
    ram.clear(102, 3)
    assert bytes(ram.view(100, 10)) == b"01\0\0\x0056789"
