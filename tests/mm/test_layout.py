# SPDX-License-Identifier: GPL-2.0-only
"""The map of virtual addresses, against what recorded kernels say of themselves."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

from kmem import Machine
from kmem.errors import UsageError
from kmem.mm.layout import Layout

DATA = Path(__file__).parent.parent / "data"


def _recorded() -> list[tuple[str, str, dict[str, str | int]]]:
    lines = gzip.decompress((DATA / "layout" / "globals.json-lines.gz").read_bytes()).decode().splitlines()
    records = [json.loads(line) for line in lines]
    return [(record["machine"], record["cmdline"], record["globals"]) for record in records]


RECORDED = _recorded()


def _machine(name: str, cmdline: str) -> Machine:
    arch, ram = name.split("-")[:2]
    return Machine.boot("x86_64" if arch == "amd64" else "i386", ram=ram, cmdline=cmdline)


@pytest.mark.parametrize(("name", "cmdline", "limits"), RECORDED, ids=[f"{name} {line}" for name, line, _ in RECORDED])
def test_every_boundary_is_the_recorded_one(name: str, cmdline: str, limits: dict[str, str]) -> None:
    with _machine(name, cmdline) as m:
        layout = m.kernel.layout
        got = {
            "PAGE_OFFSET": layout.page_offset,
            "high_memory": layout.high_memory,
            "VMALLOC_START": layout.vmalloc_start,
            "VMALLOC_END": layout.vmalloc_end,
            "PKMAP_BASE": layout.pkmap_base,
            "FIXADDR_START": layout.fixaddr_start,
        }
        recorded = {key: int(value, 0) for key, value in limits.items()}
        assert {key: got[key] for key in recorded} == recorded


def test_there_is_a_hole_of_8_mib_between_low_memory_and_vmalloc() -> None:
    #  c0000000          f6bfe000  f73fe000        febfe000 fec00000
    #  | low memory      | 8 MiB   | vmalloc       | 8 KiB  | kmap ...
    layout = Layout.i386(0x36BFE, 0x7FFDD)
    assert layout.vmalloc_start - layout.high_memory == 8 << 20
    assert layout.pkmap_base == layout.vmalloc_end + 0x2000
    assert layout.region(layout.high_memory) is None
    assert layout.region(layout.high_memory - 1).name == "lowmem"  # type: ignore[union-attr]


@pytest.mark.parametrize("layout", [Layout.i386(0x36BFE, 0x7FFDD), Layout.x86_64(0x80000)], ids=["i386", "x86_64"])
def test_regions_do_not_overlap_and_ascend(layout: Layout) -> None:
    regions = layout.regions()
    for below, above in itertools.pairwise(regions):
        assert below.end <= above.start, (below, above)
    assert regions[0].start == 0


def test_the_linear_map_is_a_fixed_offset() -> None:
    layout = Layout.i386(0x36BFE, 0x7FFDD)
    assert layout.phys_to_virt(0x1234) == 0xC0001234
    assert layout.virt_to_phys(0xC0001234) == 0x1234
    assert layout.lowmem_address(0x36BFD) == 0xF6BFD000
    assert layout.lowmem_address(0x36BFE) is None
    with pytest.raises(UsageError, match="linear map"):
        layout.phys_to_virt(0x36BFE000)
    with pytest.raises(UsageError, match="vmalloc"):
        layout.virt_to_phys(layout.vmalloc_start)


def test_the_kernel_image_has_two_addresses_on_x86_64() -> None:
    layout = Layout.x86_64(0x80000)
    assert layout.virt_to_phys(0xFFFFFFFF81000000) == layout.virt_to_phys(0xFFFF888001000000) == 0x1000000


def test_a_larger_vmalloc_area_leaves_less_low_memory() -> None:
    with Machine.boot("i386", ram="2G") as plain, Machine.boot("i386", ram="2G", cmdline="vmalloc=256M") as large:
        ends = plain.kernel.layout, large.kernel.layout
    assert ends[0].vmalloc_end == ends[1].vmalloc_end
    # 128 MiB are the default; the hole of 8 MiB counts extra when a size is given.
    assert ends[0].vmalloc_start - ends[1].vmalloc_start == (128 + 8) << 20
