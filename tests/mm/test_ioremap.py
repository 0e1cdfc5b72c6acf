# SPDX-License-Identifier: GPL-2.0-only
"""Device memory: areas of their own, uncached, and nobody who answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelOops, KernelWarning, NotSupportedError
from kmem.linux.io import (
    ioremap,
    ioremap_cache,
    ioremap_uc,
    ioremap_wc,
    iounmap,
    memcpy_fromio,
    readb,
    readl,
    readq,
    readw,
    writel,
)
from kmem.linux.vmalloc import find_vm_area

PAGE = 4096
HPET = 0xFED00000


@pytest.fixture(params=("x86_64", "i386"))
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="512M") as machine:
        yield machine


def test_a_register_keeps_its_offset_in_the_page(m: Machine) -> None:
    addr = ioremap(HPET + 0x10, 4)
    assert addr is not None
    assert addr % PAGE == 0x10
    assert m.walk(None, addr).phys == HPET + 0x10
    area = find_vm_area(addr)
    assert area is not None
    assert (area.size, area.phys_addr) == (2 * PAGE, HPET)
    iounmap(addr)
    assert find_vm_area(addr) is None
    with pytest.raises(KernelOops):
        readl(addr)


def test_areas_are_aligned_to_their_size(m: Machine) -> None:
    for pages in (1, 2, 5, 64, 300):
        addr = ioremap(0xE0000000, pages * PAGE)
        assert addr is not None
        # of the size and the guard page? of the size alone, up to 512 KiB
        align = min(1 << (pages * PAGE - 1).bit_length(), 512 << 10)
        assert addr % align == 0


@pytest.mark.parametrize(
    ("function", "flags"),
    [(ioremap, {"PCD"}), (ioremap_uc, {"PCD", "PWT"}), (ioremap_wc, {"PWT"}), (ioremap_cache, set())],
)
def test_memory_types_are_bits_of_the_entry(m: Machine, function: object, flags: set[str]) -> None:
    addr = function(HPET, PAGE)  # type: ignore[operator]
    assert set(m.walk(None, addr)[-1].flags) & {"PCD", "PWT"} == flags


def test_large_pages_are_used_where_both_sides_are_aligned() -> None:
    with Machine.boot("x86_64", ram="512M") as m:
        addr = ioremap(0xE0000000, 4 << 20)
        assert addr is not None
        leaf = m.walk(None, addr)[-1]
        # Areas of ioremap are aligned to 512 KiB at most: a 2 MiB page needs luck, or the first place of the area.
        assert leaf.size == (2 << 20 if addr % (2 << 20) == 0 else PAGE)


def test_nobody_answers_behind_the_end_of_memory(m: Machine) -> None:
    addr = ioremap(HPET, PAGE)
    assert addr is not None
    assert (readb(addr), readw(addr), readl(addr), readq(addr)) == (0xFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
    writel(0, addr)
    assert memcpy_fromio(addr, 6) == b"\xff" * 6
    with pytest.raises(NotSupportedError, match="device memory"):
        m.memory(addr, 4)


def test_ordinary_memory_is_not_mapped_as_device_memory(m: Machine) -> None:
    with pytest.raises(KernelWarning, match="ioremap on RAM at 0x"):
        ioremap(0x8000000, PAGE)
    assert ioremap(0x8000000, PAGE) is None  # said once
    assert ioremap(HPET, 0) is None
    assert ioremap((1 << (8 * m.kernel.bits_per_long // 8)) - 1, 2) is None


def test_reserved_frames_and_holes_can_be_mapped(m: Machine) -> None:
    bios = ioremap(0xF0000, 0x10000)
    assert bios is not None
    writel(0x12345678, bios)
    assert m.read(m.phys_to_virt(0xF0000), 4) == b"\x78\x56\x34\x12"
    iounmap(m.phys_to_virt(0xF0000))  # of the linear map: ignored
    iounmap(bios)
    with pytest.raises(KernelOops):
        readl(bios)
    iounmap(bios)
    assert f"iounmap: bad address {bios:x}" in m.log.text()
