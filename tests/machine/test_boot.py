# SPDX-License-Identifier: GPL-2.0-only
"""Booted machines against recorded ones, and machines that cannot be."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kmem.errors import ConfigError, InputError
from kmem.machine.boot import boot_memory, write_sysctl
from kmem.machine.description import MachineDescription, parse_knob
from kmem.mm.debug_vm import validate_pages
from kmem.mm.memblock import MemoryRange
from kmem.verify.boot_memory import BootMemory

DATA = Path(__file__).parent.parent / "data" / "zones"
GIB, MIB = 1 << 30, 1 << 20


def recorded(name: str) -> tuple[MachineDescription, list[dict[str, Any]]]:
    """The machine of a recording, and what its kernel had to say of each populated zone at boot."""
    context = BootMemory.read(DATA / name)
    initrd = next(freed.pages for freed in context.freed if freed.what == "initrd") << 12
    description = MachineDescription(
        "x86_64" if name.startswith("amd64") else "i386",
        tuple(context.e820),
        cpus=context.nr_cpus,
        cmdline=context.cmdline,
        initrd_bytes=initrd,
    )
    zones = []
    for line in gzip.decompress((DATA / name / "zones.jsonl.gz").read_bytes()).splitlines():
        record = json.loads(line)
        if record["t"] == "zone" and record["present"]:
            zones.append(record)
        if record["t"] == "enddump":
            break
    return description, zones


@pytest.mark.parametrize("name", sorted(folder.name for folder in DATA.iterdir()))
def test_what_the_kernel_keeps_is_estimated_to_a_few_pages(name: str) -> None:
    description, zones = recorded(name)
    booted = boot_memory(description)
    validate_pages(booted.page_alloc)
    assert zones
    for record in zones:
        zone = booted.system.zone(record["node"], record["idx"])
        assert (zone.start_pfn, zone.spanned, zone.present) == tuple(
            record[key] for key in ("start_pfn", "spanned", "present")
        )
        assert abs(zone.managed - record["managed"]) <= 4
        assert abs(zone.watermark[0] - record["wm_min"]) <= 6
        number = booted.memmap.zone_id(zone.name, zone.node)
        row = booted.memmap.zones_array[number]
        assert int(row["managed"]) == zone.managed == int(row["free_pages"])
        assert [int(mark) for mark in row["watermark"]] == zone.watermark


def test_with_the_real_managed_the_estimate_is_corrected_to_it() -> None:
    description, zones = recorded("amd64-1024M-numafake2")
    managed = {(record["node"], record["name"]): record["managed"] for record in zones}
    managed[1, "DMA32"] -= 3000
    fields = {name: getattr(description, name) for name in ("memory", "cmdline", "initrd_bytes")}
    booted = boot_memory(MachineDescription("x86_64", managed=managed, **fields))
    assert {(zone.node, zone.name): zone.managed for zone in booted.system.populated_zones()} == managed
    validate_pages(booted.page_alloc)


def test_low_memory_is_listed_from_low_to_high_and_high_memory_the_other_way() -> None:
    memmap = boot_memory(MachineDescription.preset("i386", ram="1G")).memmap
    normal = memmap.free_list(memmap.zone_id("Normal"), 10, 1)
    highmem = memmap.free_list(memmap.zone_id("HighMem"), 10, 1)
    assert len(normal) > 100 and normal == sorted(normal)
    assert len(highmem) > 30 and highmem == sorted(highmem, reverse=True)
    memmap = boot_memory(MachineDescription.preset("x86_64", ram="6G")).memmap
    assert memmap.free_list(memmap.zone_id("DMA"), 10, 1) == [1024, 2048, 3072]
    dma32 = memmap.free_list(memmap.zone_id("DMA32"), 10, 1)
    assert dma32 == sorted(dma32) and not any(0xBFFDD <= pfn < 1 << 20 for pfn in dma32)


def test_free_frames_are_memory_and_never_reserved() -> None:
    booted = boot_memory(MachineDescription.preset("x86_64", ram="512M", nodes=2, cpus=2))
    memmap = booted.memmap
    listed = {
        frame
        for zone in booted.system.zones
        for order in range(11)
        for pfn in memmap.free_list(memmap.zone_id(zone.name, zone.node), order, 1)
        for frame in range(pfn, pfn + (1 << order))
    }
    free = {pfn for piece in booted.memblock.free_ranges() for pfn in range(piece.start, piece.end)}
    assert listed == free
    assert len(free) == booted.system.totalram_pages()
    assert booted.node_of_cpu == [0, 1]


def test_a_64_gib_machine_costs_at_most_48_bytes_a_page() -> None:
    booted = boot_memory(MachineDescription.preset("x86_64", ram="64G"))
    memmap = booted.memmap
    arrays = (memmap.pages_array, memmap.zones_array, memmap.pagesets_array, memmap.pageblocks_array)
    assert sum(array.nbytes for array in arrays) <= 48 * (64 * GIB >> 12)
    assert booted.system.totalram_pages() > 60 * GIB >> 12


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ram": "16M"}, "where the kernel lies"),
    ({"ram": "70M"}, "too small to boot"),
    ({"name": "i386", "ram": "20M"}, "where the kernel lies"),
    ({"ram": "1M"}, "too few for a PC"),
    ({"ram": -5}, "too few for a PC"),
    ({"ram": "9E"}, "more than is modelled"),
    ({"ram": "12x"}, "is no size"),
    ({"name": "sparc"}, "presets: x86_64, i386"),
    ({"cpus": 0}, "0 CPUs"),
    ({"name": "i386", "cpus": 33}, "33 CPUs"),
    ({"nodes": 0}, "0 nodes"),
    ({"name": "i386", "nodes": 2}, "one node"),
    ({"cmdline": "mem=0"}, "mem=0"),
    ({"cmdline": "mem=-5"}, "is no size"),
    ({"cmdline": "mem=40M"}, "where the kernel lies"),
    ({"ram": "2G", "cmdline": "movablecore=2G"}, "more than"),
    ({"ram": "2G", "cmdline": "kernelcore=1G movablecore=1500M"}, "together exceed"),
    ({"cmdline": "movablecore=150%"}, "is no size"),
    ({"cmdline": "vmalloc=256M"}, "options of i386"),
    ({"name": "i386", "cmdline": "vmalloc=2G"}, "no low memory"),
    ({"name": "i386", "cmdline": "numa=fake=2"}, "no NUMA"),
    ({"ram": "2G", "nodes": 2, "cmdline": "numa=fake=2"}, "one of the two"),
    ({"ram": "2G", "cmdline": "numa=fake=100"}, "not enough memory"),
    ({"knobs": {"vm.min_free_kbytes": 10**8}}, "keeps all memory back"),
    ({"knobs": {"vm.min_free_kbytes": -1}}, "refused by the kernel"),
    ({"knobs": {"vm.overcommit": 1}}, "unknown sysctl"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[str(arguments) for arguments, _ in REFUSED])
def test_machines_that_cannot_be_are_refused_in_one_line(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        boot_memory(MachineDescription.preset(**arguments))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ([], "no memory"),
        ([(0, 64 * MIB), (32 * MIB, GIB)], "overlap"),
        ([(5, 5)], "empty"),
        ([(-4096, GIB)], "negative"),
        ([(0, GIB, 0), (GIB, 2 * GIB, 2)], "number them from 0"),
        ([(1 << 42, 1 << 44)], "more than is modelled"),
    ],
)
def test_descriptions_that_contradict_themselves(memory: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        MachineDescription("x86_64", tuple(MemoryRange(*piece) for piece in memory))


def test_unused_memory_is_said() -> None:
    booted = boot_memory(MachineDescription.preset("i386", ram="6G"))
    assert len(booted.notes) == 1 and "3072 MiB are not used" in booted.notes[0]
    assert boot_memory(MachineDescription.preset("i386", ram="2G")).notes == []


def test_a_written_sysctl_reaches_the_core_and_ends_a_boost() -> None:
    booted = boot_memory(MachineDescription.preset("x86_64", ram="1G", cpus=2))
    row = booted.memmap.zones_array[booted.memmap.zone_id("DMA32")]
    row["watermark_boost"] = 500
    write_sysctl(booted, "vm.percpu_pagelist_high_fraction", 8)
    assert int(row["watermark_boost"]) == 500
    write_sysctl(booted, "min_free_kbytes", 8192)
    zone = booted.system.zone(0, 1)
    assert int(row["watermark_boost"]) == 0
    assert [int(mark) for mark in row["watermark"]] == zone.watermark
    pagesets = booted.memmap.pagesets_array[int(row["pageset"]) : int(row["pageset"]) + 2]
    assert list(pagesets["high"]) == [zone.managed // 8 // 2] * 2


def test_knobs_are_parsed() -> None:
    assert parse_knob("vm.min_free_kbytes=8192") == ("vm.min_free_kbytes", 8192)
    assert parse_knob("lowmem_reserve_ratio=256,32 0") == ("lowmem_reserve_ratio", (256, 32, 0))
    for bad in ("", "vm.x", "=5", "vm.x=", "vm.x=lots", "vm.x=1.5"):
        with pytest.raises(ConfigError, match="is no knob"):
            parse_knob(bad)


def test_descriptions_survive_json(tmp_path: Path) -> None:
    description = MachineDescription.preset(
        "x86_64", ram="1G", cpus=3, nodes=2, cmdline="quiet", knobs={"vm.lowmem_reserve_ratio": (9, 9)}
    )
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(description.to_dict()))
    assert MachineDescription.load(path) == description
    path.write_text('{"arch": "i386", "ram": "512M", "cpus": 2}')
    assert MachineDescription.load(path) == MachineDescription.preset("i386", ram="512M", cpus=2)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"arch": "x86_64"}', '{"ram": "1G", "colour": 1}', '{"memory": [[1]]}', '{"ram": [1]}']
)
def test_files_that_are_no_description(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises((InputError, ConfigError)) as caught:
        MachineDescription.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_machine_from_its_proc_files(tmp_path: Path) -> None:
    (tmp_path / "iomem").write_text(
        "00001000-0009fbff : System RAM\n000f0000-000fffff : System ROM\n00100000-1ffdcfff : System RAM\n"
        "  01000000-01e01d31 : Kernel code\n"
    )
    zone = (
        "Node 0, zone {name:>8}\n  pages free     1\n        managed  {managed}\n  pagesets\n    cpu: 0\n    cpu: 1\n"
    )
    (tmp_path / "zoneinfo").write_text(
        zone.format(name="DMA", managed=3840) + zone.format(name="DMA32", managed=113000)
    )
    (tmp_path / "cmdline").write_text("quiet mem=500M\n")
    description = MachineDescription.load(tmp_path)
    assert (description.arch, description.cpus, description.options.mem_bytes) == ("x86_64", 2, 500 * MIB)
    booted = boot_memory(description)
    assert [zone.managed for zone in booted.system.populated_zones()] == [3840, 113000]
    (tmp_path / "iomem").write_text("00000000-00000000 : System RAM\n")
    with pytest.raises(InputError, match="as root"):
        MachineDescription.load(tmp_path)
    (tmp_path / "iomem").unlink()
    with pytest.raises(InputError, match="no iomem"):
        MachineDescription.load(tmp_path)
