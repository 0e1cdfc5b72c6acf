# SPDX-License-Identifier: GPL-2.0-only
"""Zone arithmetic: what the kernel's own comments and configurations say, and what holds for any machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmem.errors import ConfigError
from kmem.mm.memblock import MemBlock, MemoryRange, free_blocks
from kmem.mm.mm_init import KernelCore, SystemZones
from kmem.mm.x86 import I386, X86_64, BootOptions, I386Layout, machine_zones, memparse, pc_memory_map

MIB, GIB = 1 << 20, 1 << 30


def x86_64(ram: int, cmdline: str = "", **kwargs: int) -> SystemZones:
    return machine_zones(X86_64, pc_memory_map(ram), BootOptions.parse(cmdline), **kwargs)[1]


def i386(ram: int, cmdline: str = "") -> SystemZones:
    return machine_zones(I386, pc_memory_map(ram), BootOptions.parse(cmdline))[1]


def limits(system: SystemZones) -> dict[str, tuple[int, int]]:
    return {zone.name: (zone.start_pfn, zone.end_pfn) for zone in system.populated_zones()}


# Limits


def test_x86_64_zones_end_at_16_mib_and_4_gib() -> None:
    assert limits(x86_64(1 * GIB)) == {"DMA": (1, 4096), "DMA32": (4096, 0x3FFDD)}
    assert limits(x86_64(6 * GIB)) == {
        "DMA": (1, 4096),
        "DMA32": (4096, 1 << 20),
        "Normal": (1 << 20, (1 << 20) + (3 << 18)),
    }


def test_i386_low_memory_ends_below_876_mib() -> None:
    layout = I386Layout()
    assert hex(layout.pkmap_base) == "0xfec00000"
    assert hex(layout.vmalloc_end) == "0xfebfe000"
    assert layout.maxmem_pfn == 0x36BFE
    assert limits(i386(2 * GIB)) == {"DMA": (1, 4096), "Normal": (4096, 0x36BFE), "HighMem": (0x36BFE, 0x7FFDD)}
    assert limits(i386(512 * MIB)) == {"DMA": (1, 4096), "Normal": (4096, 0x1FFDD)}


def test_vmalloc_moves_the_border_and_more_cpus_do_too() -> None:
    # vmalloc= counts 8 MiB for the hole in front of the area.
    assert limits(i386(2 * GIB, "vmalloc=256M"))["HighMem"][0] == 0x36BFE - (136 * MIB >> 12)
    assert I386Layout(nr_cpus=64).maxmem_pfn < I386Layout(nr_cpus=32).maxmem_pfn
    with pytest.raises(ConfigError, match="no low memory"):
        i386(2 * GIB, "vmalloc=1G")


def test_highmem_option() -> None:
    assert limits(i386(2 * GIB, "highmem=256M"))["HighMem"] == (0x36BFE, 0x36BFE + (256 * MIB >> 12))
    assert limits(i386(512 * MIB, "highmem=128M"))["HighMem"] == (0x1FFDD - (128 * MIB >> 12), 0x1FFDD)
    assert "HighMem" not in limits(i386(512 * MIB, "highmem=480M"))  # low memory would fall below 64 MiB


def test_mem_cuts_and_a_range_at_the_end_of_32_bits_is_lost() -> None:
    assert limits(x86_64(2 * GIB, "mem=100M"))["DMA32"] == (4096, 25600)
    _, system = machine_zones(I386, [MemoryRange(0, 64 * MIB), MemoryRange(3 * GIB, 4 * GIB)])
    assert sum(zone.present for zone in system.zones) == (64 * MIB >> 12) - 1 - 96
    _, system = machine_zones(I386, [MemoryRange(0, 64 * MIB), MemoryRange(3 * GIB, 4 * GIB - 4096)])
    assert limits(system)["HighMem"][1] == (1 << 20) - 1


@pytest.mark.parametrize(
    ("cmdline", "start"),
    [
        ("movablecore=256M", 0x30000),
        ("kernelcore=400M", 0x19400),
        ("movablecore=25%", 0x30000),
        ("kernelcore=768M movablecore=512M", 0x30400),
    ],
)
def test_movable_zone_starts_at_a_whole_block(cmdline: str, start: int) -> None:
    movable = limits(x86_64(1 * GIB, cmdline))["Movable"]
    assert movable == (start, 0x3FFDD)


def test_movable_memory_is_highmem_only_where_there_is_highmem() -> None:
    system = i386(2 * GIB, "movablecore=512M")
    assert {zone.name for zone in system.zones if system.is_highmem(zone)} == {"HighMem", "Movable"}
    assert not any(map(x86_64(1 * GIB, "movablecore=256M").is_highmem, x86_64(1 * GIB).zones))


def test_kernelcore_spreads_over_nodes_and_passes_on_what_a_small_node_lacks() -> None:
    ranges = [MemoryRange(0x1000, 64 * MIB, 0), MemoryRange(64 * MIB, 1 * GIB, 1)]
    _, system = machine_zones(X86_64, ranges, BootOptions(core=KernelCore(kernelcore=600 * MIB >> 12)))
    kernel = sum(zone.present for zone in system.zones if zone.name != "Movable")
    assert abs(kernel - (600 * MIB >> 12)) < 1024
    assert not system.zone(0, X86_64.movable).present


def test_numa_fake_nodes_and_their_fallback_order() -> None:
    system = x86_64(2300 * MIB, "numa=fake=3", nr_cpus=2)
    assert [system.node_zones(node)[1].end_pfn << 12 >> 20 for node in system.nodes] == [768, 1536, 2299]
    assert [system.node_order(node) for node in system.nodes] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert [(zone.node, zone.name) for zone in system.zonelist(1)] == [
        *((1, "DMA32"), (2, "DMA32"), (0, "DMA32"), (0, "DMA")),
    ]
    assert [zone.node for zone in system.zonelist(2, thisnode=True)] == [2]
    with pytest.raises(ConfigError, match="not enough memory"):
        x86_64(512 * MIB, "numa=fake=64")


def test_nodes_at_a_distance_take_turns() -> None:
    far = [[10, 20, 20], [20, 10, 20], [20, 20, 10]]
    ranges = [MemoryRange(node << 30, (node + 1) << 30, node) for node in range(3)]
    _, system = machine_zones(X86_64, ranges, nr_cpus=3, cpus_of_node=[1, 1, 1], distance=far)
    assert [system.node_order(node) for node in range(3)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    near = [[10, 30, 20], [30, 10, 20], [20, 20, 10]]
    _, system = machine_zones(X86_64, ranges, nr_cpus=3, cpus_of_node=[1, 1, 1], distance=near)
    assert system.node_order(0) == [0, 2, 1]


# What follows from sizes


def lowmem(managed_kib: int) -> SystemZones:
    """A machine whose low memory is one zone with so much managed."""
    system = SystemZones(X86_64)
    zone = system.zone(0, X86_64.normal)
    zone.managed = zone.present = zone.spanned = managed_kib >> 2
    return system


@pytest.mark.parametrize(
    ("mib", "kib"),
    [(16, 512), (32, 724), (64, 1024), (128, 1448), (256, 2048), (512, 2896), (1024, 4096), (2048, 5792), (4096, 8192)],
)
def test_min_free_kbytes_as_the_kernel_tabulates_it(mib: int, kib: int) -> None:
    system = lowmem(mib << 10)
    system.calculate_min_free_kbytes()
    assert system.tunables.min_free_kbytes == kib


def test_min_free_kbytes_is_bounded_and_a_users_choice_stays() -> None:
    system = lowmem(1 << 34)
    system.calculate_min_free_kbytes()
    assert system.tunables.min_free_kbytes == 262144
    system = lowmem(1 << 20)
    system.sysctl("vm.min_free_kbytes", 9000)
    system.set_recommended_min_free_kbytes(enabled=False)
    assert system.tunables.min_free_kbytes == 9000


@pytest.mark.parametrize(
    ("gib", "cpus", "threshold"),
    [
        (0.95, 1, 8),
        (0.95, 2, 16),
        (1.5, 2, 20),
        (3, 2, 24),
        (6, 2, 28),
        (12, 2, 32),
        (0.1, 2, 4),
        (1.5, 4, 30),
        (12, 512, 125),
    ],
)
def test_stat_threshold_as_the_kernel_tabulates_it(gib: float, cpus: int, threshold: int) -> None:
    system = lowmem(int(gib * (1 << 20)))
    system.nr_cpus = cpus
    assert system.calculate_normal_threshold(system.zone(0, X86_64.normal)) == threshold


def test_pressure_threshold_keeps_all_cpus_above_min() -> None:
    system = lowmem(1 << 20)
    system.setup_per_zone_wmarks()
    zone = system.zone(0, X86_64.normal)
    system.nr_cpus = 100
    assert system.calculate_pressure_threshold(zone) == (zone.wmark(1) - zone.wmark(0)) // 100
    system.nr_cpus = 1 << 20
    assert system.calculate_pressure_threshold(zone) == 1


def test_batch_is_a_power_of_two_less_one_and_high_at_least_four_batches() -> None:
    for managed_mib, batch in ((1, 0), (15, 0), (64, 3), (512, 31), (1024, 63), (65536, 63)):
        system = lowmem(managed_mib << 10)
        system.setup_per_zone_wmarks()
        zone = system.zone(0, X86_64.normal)
        assert system.zone_batchsize(zone) == batch
        assert zone.pageset_batch == max(1, batch)
        assert zone.pageset_high >= 4 * zone.pageset_batch


def test_high_is_shared_by_the_cpus_of_a_node_or_by_all_if_it_has_none() -> None:
    ranges = [MemoryRange(node << 30, (node + 1) << 30, node) for node in range(2)]
    _, system = machine_zones(X86_64, ranges, nr_cpus=4, cpus_of_node=[4, 0])
    system.init_per_zone_wmark_min()
    for node in range(2):
        zone = system.zone(node, 1)
        assert zone.pageset_high == max(zone.wmark(1) // 4, 4 * zone.pageset_batch)
    system.cpus_of_node = [3, 1]
    system.sysctl("percpu_pagelist_high_fraction", 8)
    assert [system.zone(node, 1).pageset_high for node in range(2)] == [
        system.zone(0, 1).managed // 8 // 3,
        system.zone(1, 1).managed // 8,
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vm.min_free_kbytes", -1),
        ("vm.watermark_scale_factor", 0),
        ("vm.watermark_scale_factor", 3001),
        ("vm.percpu_pagelist_high_fraction", 7),
        ("vm.percpu_pagelist_high_fraction", -8),
        ("vm.swappiness", 60),
        ("vm.min_free_kbytes", [1, 2]),
    ],
)
def test_sysctls_that_the_kernel_refuses_change_nothing(name: str, value: int | list[int]) -> None:
    system = x86_64(1 * GIB)
    system.init_per_zone_wmark_min()
    before = [list(zone.watermark) for zone in system.zones], repr(system.tunables)
    with pytest.raises(ConfigError):
        system.sysctl(name, value)
    assert ([list(zone.watermark) for zone in system.zones], repr(system.tunables)) == before


def test_reserve_ratios_below_one_mean_none() -> None:
    system = x86_64(6 * GIB)
    system.init_per_zone_wmark_min()
    system.sysctl("vm.lowmem_reserve_ratio", [-5, 0])
    assert system.tunables.lowmem_reserve_ratio == [0, 0, 32, 0, 0]
    assert all(sum(zone.lowmem_reserve) == 0 for zone in system.zones)


@given(st.integers(96, 20_000), st.integers(0, 200_000), st.integers(1, 3000), st.integers(1, 64))
def test_what_holds_for_any_machine(ram_mib: int, min_free: int, scale: int, cpus: int) -> None:
    system = x86_64(ram_mib * MIB, nr_cpus=cpus)
    system.init_per_zone_wmark_min()
    system.hugepage_init()
    system.sysctl("min_free_kbytes", min_free)
    system.sysctl("watermark_scale_factor", scale)
    pages_min = min_free >> 2
    assert 0 <= pages_min - sum(zone.watermark[0] for zone in system.zones) < 3
    for zone in system.populated_zones():
        steps = {zone.watermark[i + 1] - zone.watermark[i] for i in range(3)}
        assert len(steps) == 1 and steps.pop() >= zone.watermark[0] // 4
        assert zone.lowmem_reserve[: zone.index + 1] == [0] * (zone.index + 1)
        assert zone.lowmem_reserve == sorted(zone.lowmem_reserve)
    total = sum(zone.managed for zone in system.zones)
    assert 0 <= system.totalreserve[0] <= total


# Boot-time memory map


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 14))
def test_free_blocks_cover_a_range_once_and_are_aligned(start: int, length: int) -> None:
    position = start
    for pfn, order in free_blocks(start, start + length):
        assert pfn == position and pfn % (1 << order) == 0 and 0 <= order <= 10
        position += 1 << order
    assert position == start + length


ranges = st.lists(st.tuples(st.integers(0, 255), st.integers(1, 64)), min_size=1, max_size=12)


@given(ranges, ranges)
def test_memblock_against_sets_of_frames(memory: list[tuple[int, int]], reserved: list[tuple[int, int]]) -> None:
    memblock = MemBlock()
    frames: set[int] = set()
    taken: set[int] = set()
    for start, pages in memory:
        memblock.add(start << 12, pages << 12)
        frames |= set(range(start, start + pages))
    for start, pages in reserved:
        memblock.reserve((start << 12) + 1, (pages << 12) - 1)
        taken |= set(range(start, start + pages))
    assert {pfn for piece in memblock.pfn_ranges() for pfn in range(piece.start, piece.end)} == frames
    free = [pfn for piece in memblock.free_ranges() for pfn in range(piece.start, piece.end)]
    assert free == sorted(frames - taken)
    assert memblock.reserved_in(0, 512) == len(frames & taken)
    memblock.remove(100 << 12, 150 << 12)
    assert memblock.absent_pages(0, 512) == 512 - len(frames - set(range(100, 150)))


def test_memblock_allocates_from_the_top_and_splits_nodes() -> None:
    memblock = MemBlock()
    memblock.add(0, 64 << 12)
    memblock.set_node(32 << 12, 64 << 12, 1)
    assert memblock.alloc(3 << 12, align=1 << 14) == 60 << 12
    assert memblock.alloc(4 << 12, node=0) == 28 << 12
    assert memblock.alloc(1 << 12, limit=20 << 12) == 19 << 12
    with pytest.raises(ConfigError, match="no room"):
        memblock.alloc(64 << 12)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("512M", 512 * MIB), ("0x10k", 16384), ("1g", GIB), ("010", 8), ("0", 0)]
)
def test_memparse(text: str, size: int) -> None:
    assert memparse(text) == size


@pytest.mark.parametrize("text", ["", "M", "12x", "-1", "1.5G", "0x", "09", "1 G"])
def test_memparse_refuses(text: str) -> None:
    with pytest.raises(ConfigError):
        memparse(text)


def test_boot_options_last_one_wins_and_others_are_passed_over() -> None:
    options = BootOptions.parse("quiet mem=1G root=/dev/vda mem=2G movablecore=10% kernelcore=64M numa=fake=2")
    assert options.mem_bytes == 2 * GIB
    assert options.core == KernelCore(kernelcore=16384, movablecore_percent=10)
    assert options.numa_fake == "2"
    for bad in ("mem=lots", "movablecore=101%", "kernelcore=mirror", "vmalloc="):
        with pytest.raises(ConfigError):
            BootOptions.parse(bad)
