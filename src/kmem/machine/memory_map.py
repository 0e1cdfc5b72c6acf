# SPDX-License-Identifier: GPL-2.0-only
"""The live memory map of a machine: which addresses serve what, and who has mapped what there.

:func:`memory_map` takes it; the result prints itself as text, draws itself in
notebooks, and is plain data for programs (:meth:`MemoryMap.as_dict`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kmem.machine.address_space import KERNEL_SECTIONS
from kmem.mm.layout import Region
from kmem.mm.task_mmu import vma_name
from kmem.mm.vmalloc import VM_ALLOC, VM_IOREMAP, VM_MAP, VmStruct
from kmem.mm.vmap import PAGE_SHIFT

if TYPE_CHECKING:
    from kmem.machine.machine import Machine
    from kmem.mm.kernel import Kernel

__all__ = ["MapEntry", "MapRegion", "MemoryMap", "memory_map"]

_MAX_NR_ZONES: Final = 5
_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_COLOURS: Final = {
    "user": "#8fbcbb",
    "lowmem": "#a3be8c",
    "direct map": "#a3be8c",
    "vmalloc": "#ebcb8b",
    "modules": "#ebcb8b",
    "pkmap": "#d08770",
    "fixmap": "#d08770",
    "high memory": "#b48ead",
}
_GREY: Final = "#d8dee9"


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            text = f"{size / unit:.1f}"
            return f"{text.removesuffix('.0')} {name}"
    return f"{size} B"


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A range of addresses with one use.

    Attributes
    ----------
    start, end : int
        First address, and the one behind the last.
    what : str
        What it is.
    who : str
        Who made it, if that is known.
    frames : int
        Frames that are mapped there.
    """

    start: int
    end: int
    what: str
    who: str = ""
    frames: int = 0


@dataclass(frozen=True, slots=True)
class MapRegion:
    """A part of the address space, and what is in it.

    Attributes
    ----------
    name : str
    start, end : int
    note : str
    entries : list of MapEntry
        What is mapped in it, lowest first.
    used_bytes : int
        Bytes that are in use.
    """

    name: str
    start: int
    end: int
    note: str
    entries: list[MapEntry] = field(default_factory=list)
    used_bytes: int = 0

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The map of a machine at one moment.

    Attributes
    ----------
    name : str
        The machine's.
    digits : int
        Hexadecimal digits of an address.
    regions : list of MapRegion
        Parts of the virtual address space, lowest first.
    high_memory : MapRegion or None
        Frames without an address of their own, by physical addresses.
    """

    name: str
    digits: int
    regions: list[MapRegion]
    high_memory: MapRegion | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the map as plain data; addresses are hexadecimal text."""

        def plain(region: MapRegion) -> dict[str, Any]:
            return {
                "name": region.name,
                "start": f"0x{region.start:0{self.digits}x}",
                "end": f"0x{region.end:0{self.digits}x}",
                "size_bytes": region.size,
                "used_bytes": region.used_bytes,
                "note": region.note,
                "entries": [
                    {
                        "start": f"0x{entry.start:0{self.digits}x}",
                        "end": f"0x{entry.end:0{self.digits}x}",
                        "what": entry.what,
                        "who": entry.who,
                        "frames": entry.frames,
                    }
                    for entry in region.entries
                ],
            }

        return {
            "machine": self.name,
            "regions": [plain(region) for region in self.regions],
            "high_memory": None if self.high_memory is None else plain(self.high_memory),
        }

    def rows(self) -> Iterator[tuple[int, str, str, str, str]]:
        """Yield (depth, addresses, size, what, remark) of everything, regions at depth 0, what is in them at 1."""
        for region in [*self.regions, *([self.high_memory] if self.high_memory else [])]:
            used = f"{_size(region.used_bytes)} in use" if region.used_bytes else ""
            remark = ", ".join(word for word in (region.note, used) if word)
            yield 0, self._range(region.start, region.end), _size(region.size), region.name, remark
            for entry in region.entries:
                frames = f"{entry.frames} frame{'s' * (entry.frames > 1)}" if entry.frames else ""
                remark = ", ".join(word for word in (entry.who, frames) if word)
                yield 1, self._range(entry.start, entry.end), _size(entry.end - entry.start), entry.what, remark

    def _range(self, start: int, end: int) -> str:
        return f"{start:0{self.digits}x}-{end:0{self.digits}x}"

    def __str__(self) -> str:
        lines = [self.name]
        for depth, place, size, what, remark in self.rows():
            indent = "  " * depth
            lines.append(f"{indent + place:{2 * self.digits + 5}}{size:>10}  {indent + what:15} {remark}".rstrip())
        return "\n".join(lines)

    def _repr_svg_(self) -> str:
        """Return the map as a drawing, as notebooks ask for it; addresses grow upwards."""
        rows = list(self.rows())
        row_height, width = 22, 900
        height = (len(rows) + 1) * row_height + 10
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="12">',
            f'<text x="10" y="16" font-weight="bold">{escape(self.name)}</text>',
        ]
        regions = [*self.regions, *([self.high_memory] if self.high_memory else [])]
        number = -1
        drawn = []
        for depth, place, size, what, remark in rows:
            number += depth == 0
            drawn.append((depth, place, size, what, remark, regions[number].name))
        for line, (depth, place, size, what, remark, region) in enumerate(_upwards(drawn)):
            y = (line + 1) * row_height
            colour = _COLOURS.get(region, _GREY)
            x = 10 + 20 * depth
            opacity = 0.45 if depth else 0.9
            parts.append(
                f'<rect x="{x}" y="{y}" width="{width - x - 10}" height="{row_height - 2}" rx="3" '
                f'fill="{colour}" fill-opacity="{opacity}"><title>{escape(f"{place} {remark}")}</title></rect>'
            )
            text = f"{place}  {size:>10}  {what}" + (f"  {remark}" if remark else "")
            parts.append(f'<text x="{x + 6}" y="{y + 14}" xml:space="preserve">{escape(text)}</text>')
        parts.append("</svg>")
        return "\n".join(parts)


def _upwards(rows: list[tuple[int, str, str, str, str, str]]) -> list[tuple[int, str, str, str, str, str]]:
    """Return rows with the highest addresses first, what is in a region still below its heading."""
    groups: list[list[tuple[int, str, str, str, str, str]]] = []
    for row in rows:
        if row[0] == 0:
            groups.append([row])
        else:
            groups[-1].insert(1, row)
    return [row for group in reversed(groups) for row in group]


def memory_map(machine: Machine) -> MemoryMap:
    """Return the memory map of a machine as it is now.

    Notes
    -----
    Complexity: O(frames + areas).
    """
    kernel = machine.kernel
    layout = kernel.layout
    regions = []
    for part in layout.regions():
        if part.name in ("lowmem", "direct map"):
            regions.append(_linear(machine, part))
        elif part.name in ("vmalloc", "modules"):
            regions.append(_vmalloc(kernel, part))
        elif part.name == "user":
            regions.append(_user(kernel, part))
        elif part.name in ("pkmap", "fixmap"):
            regions.append(_mapped_pages(kernel, part))
        elif part.name == "kernel":
            regions.append(_kernel_image(part))
        else:
            regions.append(MapRegion(part.name, part.start, part.end, part.note))
    high = None
    if layout.highmem:
        start, end = layout.max_low_pfn << PAGE_SHIFT, layout.max_pfn << PAGE_SHIFT
        used = _used_frames(machine, layout.max_low_pfn, layout.max_pfn)
        zones = list(_zones(machine, 0, layout.max_low_pfn, layout.max_pfn))
        high = MapRegion("high memory", start, end, "physical; no address of its own", zones, used << PAGE_SHIFT)
    return MemoryMap(machine.description.name, layout.bits_per_long // 4, regions, high)


def _kernel_image(part: Region) -> MapRegion:
    """Return the mapping of the kernel image with its sections."""
    entries = [
        MapEntry(
            part.start + section.start,
            part.start + section.end,
            section.name,
            "read and write" if section.writable else "execute" if section.executable else "read only",
            (section.end - section.start) >> PAGE_SHIFT,
        )
        for section in KERNEL_SECTIONS
    ]
    used = sum(entry.end - entry.start for entry in entries)
    return MapRegion(part.name, part.start, part.end, part.note, entries, used)


def _linear(machine: Machine, part: Region) -> MapRegion:
    layout = machine.kernel.layout
    used = _used_frames(machine, 0, layout.max_low_pfn)
    entries = list(_zones(machine, layout.page_offset, 0, layout.max_low_pfn))
    return MapRegion(part.name, part.start, part.end, part.note, entries, used << PAGE_SHIFT)


def _zones(machine: Machine, offset: int, first: int, end: int) -> Iterator[MapEntry]:
    """Yield the zones whose frames lie in a range."""
    memmap = machine.memmap
    for zone in machine.zones.populated_zones():
        start, stop = max(zone.start_pfn, first), min(zone.end_pfn, end)
        if start < stop:
            record = memmap.zones_array[zone.node * _MAX_NR_ZONES + zone.index]
            name = machine.zones.arch.zone_names[zone.index]
            node = f" node {zone.node}" if machine.nr_nodes > 1 else ""
            free = max(0, int(record["free_pages"])) << PAGE_SHIFT
            yield MapEntry(
                offset + (start << PAGE_SHIFT),
                offset + (stop << PAGE_SHIFT),
                f"zone {name}{node}",
                f"{_size(free)} free",
            )


def _used_frames(machine: Machine, first: int, end: int) -> int:
    """Return how many frames of a range of zones are handed out."""
    used = 0
    for zone in machine.zones.populated_zones():
        if first <= zone.start_pfn < end:
            record = machine.memmap.zones_array[zone.node * _MAX_NR_ZONES + zone.index]
            number = zone.node * _MAX_NR_ZONES + zone.index
            nr_cpus = machine.memmap.nr_cpus
            pagesets = machine.memmap.pagesets_array[number * nr_cpus : (number + 1) * nr_cpus]
            cached = int(np.sum(pagesets["count"]))
            used += int(record["managed"]) - int(record["free_pages"]) - cached
    return max(0, used)


def _vmalloc(kernel: Kernel, part: Region) -> MapRegion:
    """Return the vmalloc area, or that of modules, with its areas."""
    entries = []
    used = 0
    for va in kernel.vmalloc.vm_areas():
        if not part.start <= va.va_start < part.end:
            continue
        area = va.vm
        if isinstance(area, VmStruct):
            kinds = ((VM_IOREMAP, "ioremap"), (VM_ALLOC, "vmalloc"), (VM_MAP, "vmap"))
            what = next((name for bit, name in kinds if area.flags & bit), "area")
            entries.append(MapEntry(va.va_start, va.va_end, what, area.caller, area.nr_pages))
        else:
            entries.append(MapEntry(va.va_start, va.va_end, "vm_map_ram"))
        used += va.size
    entries += [
        MapEntry(va.va_start, va.va_end, "lazily freed")
        for va in kernel.vmalloc.space.lazy.areas()
        if part.start <= va.va_start < part.end
    ]
    entries.sort(key=lambda entry: entry.start)
    return MapRegion(part.name, part.start, part.end, part.note, entries, used)


def _mapped_pages(kernel: Kernel, part: Region) -> MapRegion:
    """Return a window in which single pages are mapped, such as that of kmap."""
    entries = []
    counts = kernel.highmem.pkmap_count
    for addr, pfn in kernel.init_mm.mapped_frames(part.start, part.end):
        who = ""
        if part.name == "pkmap":
            users = counts[(addr - part.start) >> PAGE_SHIFT] - 1
            who = f"{users} users" if users != 1 else "1 user"
        entries.append(MapEntry(addr, addr + (1 << PAGE_SHIFT), f"frame {pfn:#x}", who, 1))
    return MapRegion(part.name, part.start, part.end, part.note, entries, len(entries) << PAGE_SHIFT)


def _user(kernel: Kernel, part: Region) -> MapRegion:
    """Return user space with the areas of all processes."""
    entries: list[MapEntry] = []
    used = 0
    tasks: dict[int, Any] = {} if kernel.vm is None else kernel.vm.tasks
    for pid, task in sorted(tasks.items()):
        if task.mm is None:
            continue
        table = kernel.init_mm.of(task.mm.page_table.pgd)
        for vma in task.mm.vmas:
            frames = len(list(table.mapped_frames(vma.vm_start, vma.vm_end)))
            what = vma_name(task.mm, vma) or "anonymous"
            entries.append(MapEntry(vma.vm_start, vma.vm_end, what, f"{task.comm}[{pid}]", frames))
            used += frames << PAGE_SHIFT
    return MapRegion(part.name, part.start, part.end, part.note, entries, used)
