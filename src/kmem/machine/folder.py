# SPDX-License-Identifier: GPL-2.0-only
"""A machine from copies of ``/proc`` files, complete or not.

Of a folder with ``iomem`` and ``zoneinfo`` everything is known.  With less,
the rest is completed in the way of a usual PC, and said:

============================ ============================================================
what there is                what is made of it
============================ ============================================================
``iomem``, ``zoneinfo``      the machine itself
``zoneinfo``                 a PC with memory up to the end of the highest zone; managed
                             pages of each zone, CPUs and architecture as in the file
``iomem``                    its memory; x86_64 with one CPU
``meminfo``                  a PC with the next multiple of 64 MiB that leaves ``MemTotal``
                             to the page allocator; i386 if there is ``HighTotal``; one CPU
============================ ============================================================

``cpuinfo`` gives the CPUs where ``zoneinfo`` is missing, and ``cmdline`` (also
in the folder above) the kernel command line.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from kmem.errors import InputError
from kmem.machine.description import MAX_ADDRESS, MachineDescription
from kmem.machine.proc import parse_iomem, parse_meminfo, parse_zoneinfo
from kmem.machine.views import ZoneView
from kmem.mm.memblock import MemoryRange
from kmem.mm.x86 import GIB, pc_memory_map

__all__ = ["LIVE_FOLDER", "describe_folder", "describe_live"]

#: Where the running kernel shows itself.
LIVE_FOLDER = Path("/proc")

_PROFILE = "6.1"
_PAGE_SHIFT = 12
_MIB = 1 << 20
_STEP = 64 * _MIB
_HOLE = GIB


def describe_folder(folder: Path) -> tuple[MachineDescription, list[str]]:
    """Describe the machine whose ``/proc`` files a folder holds.

    Parameters
    ----------
    folder : Path
        Holds at least one of ``iomem``, ``zoneinfo`` and ``meminfo``; names
        may end in ``.txt``.

    Returns
    -------
    description : MachineDescription
    assumed : list of str
        A sentence for each thing that no file says.

    Raises
    ------
    InputError
        If no file says how much memory there is, or one is damaged.
    ConfigError
        If what they say is no machine.
    """
    folder = Path(folder)
    iomem, zoneinfo, meminfo = (_find(folder, name) for name in ("iomem", "zoneinfo", "meminfo"))
    if iomem is not None and zoneinfo is not None:
        return MachineDescription.from_proc(folder), []
    if zoneinfo is not None:
        description, assumed = _from_zoneinfo(zoneinfo)
    elif iomem is not None:
        description, assumed = _from_iomem(iomem)
    elif meminfo is not None:
        description, assumed = _from_meminfo(meminfo)
    else:
        raise InputError(
            "no zoneinfo, iomem or meminfo in this folder", file=folder, remedy="copy these files of /proc there"
        )
    cpuinfo = _find(folder, "cpuinfo")
    if zoneinfo is None and cpuinfo is not None:
        cpus = len(re.findall(r"^processor\s*:", _text(cpuinfo), re.M))
        description = dataclasses.replace(description, cpus=max(cpus, 1))
    elif zoneinfo is None:
        assumed.append("1 CPU: no zoneinfo and no cpuinfo")
    cmdline = next((file for place in (folder, folder.parent) if (file := _find(place, "cmdline"))), None)
    if cmdline is not None:
        description = dataclasses.replace(description, cmdline=_text(cmdline).strip())
    return dataclasses.replace(description, name=folder.name), assumed


def describe_live() -> tuple[MachineDescription, list[str]]:
    """Describe the machine that this runs on.

    Raises
    ------
    InputError, ConfigError
        As :func:`describe_folder`.
    """
    description, assumed = describe_folder(LIVE_FOLDER)
    release = os.uname().release
    if not release.startswith(f"{_PROFILE}."):
        assumed.append(f"the rules of Linux {_PROFILE}: this machine runs {release}")
    return dataclasses.replace(description, name="live"), assumed


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.txt") if path.is_file()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise InputError("not a text file", file=path, byte=error.start) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def _from_zoneinfo(path: Path) -> tuple[MachineDescription, list[str]]:
    try:
        nodes = parse_zoneinfo(_text(path))
    except InputError as error:
        raise error.at(file=path) from None
    zones: list[ZoneView] = [zone for node in nodes for zone in node.zones]
    present = [zone for zone in zones if zone.present]
    if len(nodes) > 1 or not present:
        raise InputError(
            "several nodes, and no file says where each has its memory" if present else "no zone has memory",
            file=path,
            remedy="describe the machine in a JSON file",
        )
    end = max(zone.start_pfn + zone.spanned for zone in present) << _PAGE_SHIFT
    ram = -(-(end - _HOLE if end > 4 * GIB else end) // _MIB) * _MIB
    arch = "x86_64" if any(zone.name == "DMA32" for zone in zones) else "i386"
    description = MachineDescription(
        arch,
        tuple(pc_memory_map(ram)),
        cpus=max(len(zone.pagesets) for zone in present) or 1,
        managed={(zone.node, zone.name): zone.managed for zone in zones if zone.managed},
    )
    return description, [f"memory {ram // _MIB} MiB with the map of a usual PC: no iomem, zones end at {end:#x}"]


def _from_iomem(path: Path) -> tuple[MachineDescription, list[str]]:
    try:
        ranges = parse_iomem(_text(path))
    except InputError as error:
        raise error.at(file=path) from None
    memory = tuple(MemoryRange(each.start, each.end + 1) for each in ranges if each.name == "System RAM")
    if not memory:
        raise InputError("no System RAM", file=path, remedy="copy /proc/iomem as root")
    return MachineDescription("x86_64", memory), ["architecture x86_64: no zoneinfo"]


def _from_meminfo(path: Path) -> tuple[MachineDescription, list[str]]:
    try:
        values = parse_meminfo(_text(path))
    except InputError as error:
        raise error.at(file=path) from None
    total = values.get("MemTotal", 0) << 10
    if not total:
        raise InputError("no MemTotal", file=path, remedy="copy /proc/meminfo")
    if total > MAX_ADDRESS:
        raise InputError(f"MemTotal of {total >> 10} KiB cannot be right", file=path, remedy="copy /proc/meminfo")
    arch = "i386" if values.get("HighTotal") else "x86_64"
    # the least that the kernel keeps for itself: its image, and page structures of 32 or 64 bytes
    ram = max(total // _STEP, 1) * _STEP
    while ram - ram // (128 if arch == "i386" else 64) - 16 * _MIB < total:
        ram += _STEP
    assumed = [
        f"memory {ram // _MIB} MiB with the map of a usual PC: MemTotal is {total >> 10} KiB",
        f"architecture {arch}: {'there is high memory' if arch == 'i386' else 'no high memory'}",
    ]
    return MachineDescription(arch, tuple(pc_memory_map(ram))), assumed
