# SPDX-License-Identifier: GPL-2.0-only
"""What a machine is, before it boots: memory, CPUs, nodes, command line and knobs.

A description comes from a preset (``x86_64`` or ``i386`` with any amount of
memory), from a JSON file, or from a folder with copies of a real machine's
``/proc`` files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from kmem.errors import ConfigError, InputError
from kmem.mm.memblock import PAGE_SIZE, MemoryRange
from kmem.mm.mm_init import ArchZones
from kmem.mm.x86 import ARCHITECTURES, GIB, BootOptions, memparse, pc_memory_map

__all__ = ["PRESETS", "Knob", "MachineDescription", "parse_knob"]

#: Presets by name: architecture and memory if none is asked for.
PRESETS = {"x86_64": 4 * GIB, "i386": 1 * GIB}

#: CPUs that a kernel of each architecture is configured for.
MAX_CPUS = {"x86_64": 8192, "i386": 32}
MAX_NODES = 51  #: what the 8 bits of a page record's zone number leave room for
MAX_ADDRESS = 1 << 43  #: frame numbers have 31 bits

Knob = int | tuple[int, ...]


def parse_knob(text: str) -> tuple[str, Knob]:
    """Split ``vm.min_free_kbytes=8192`` into name and value; several numbers may be separated by commas or spaces.

    Raises
    ------
    ConfigError
        If there is no ``=`` or no number.
    """
    name, equals, value = text.partition("=")
    numbers = value.replace(",", " ").split()
    if not equals or not name.strip() or not numbers or not all(re.fullmatch(r"-?\d+", number) for number in numbers):
        raise ConfigError(f"{text!r} is no knob", remedy="write NAME=NUMBER, as in vm.min_free_kbytes=8192")
    values = tuple(int(number) for number in numbers)
    return name.strip(), values[0] if len(values) == 1 else values


@dataclass(frozen=True, slots=True)
class MachineDescription:
    """A machine to boot.

    Attributes
    ----------
    arch : str
        ``"x86_64"`` or ``"i386"``.
    memory : tuple of MemoryRange
        Usable memory as the firmware reports it, in bytes, each range on one
        node.
    cpus : int
        CPUs online.
    cpus_of_node : tuple of int
        How many of them each node has; empty: spread evenly.
    distance : tuple of tuple of int
        Node distances; empty: 10 to itself, 20 to others.
    cmdline : str
        Kernel command line; what concerns memory is obeyed.
    knobs : dict of str to int or tuple of int
        Sysctls to write after boot, in this order.
    initrd_bytes : int
        Size of the initrd; its memory is free once it has been unpacked, but
        was not when the watermarks were computed.
    profile : str
        Kernel version, as :mod:`kmem.profile` names it.
    managed : dict of (int, str) to int
        Pages that the page allocator of a real machine of this kind had, by
        node and zone name; where given, the estimate of what the kernel
        occupies is corrected to it.
    name : str
        For reports.

    Raises
    ------
    ConfigError
        If the description contradicts itself.
    """

    arch: str
    memory: tuple[MemoryRange, ...]
    cpus: int = 1
    cpus_of_node: tuple[int, ...] = ()
    distance: tuple[tuple[int, ...], ...] = ()
    cmdline: str = ""
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    initrd_bytes: int = 0
    profile: str = "6.1"
    managed: Mapping[tuple[int, str], int] = field(default_factory=dict)
    name: str = "machine"

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise ConfigError(f"unknown architecture {self.arch!r}", remedy=f"known: {', '.join(sorted(PRESETS))}")
        object.__setattr__(self, "arch", ARCHITECTURES[self.arch].arch)
        object.__setattr__(self, "memory", tuple(MemoryRange(*piece) for piece in sorted(self.memory)))
        self._check_memory()
        self._check_topology()
        if not 0 <= self.initrd_bytes < self.memory_bytes:
            raise ConfigError(f"an initrd of {self.initrd_bytes} bytes", remedy="give its size, or leave it out")

    def _check_memory(self) -> None:
        if not self.memory:
            raise ConfigError("the machine has no memory", remedy="describe at least one range")
        end = 0
        for piece in self.memory:
            if not 0 <= piece.start < piece.end:
                raise ConfigError(
                    f"memory range {piece.start:#x} to {piece.end:#x} is empty or negative",
                    remedy="a range is [start, end) in bytes",
                )
            if piece.start < end:
                raise ConfigError(f"memory ranges overlap at {piece.start:#x}", remedy="describe each address once")
            end = piece.end
        if end > MAX_ADDRESS:
            raise ConfigError(f"memory up to {end:#x} is more than is modelled", remedy="stay below 8 TiB")

    def _check_topology(self) -> None:
        nodes = self.nodes
        if not 1 <= self.cpus <= MAX_CPUS[self.arch]:
            raise ConfigError(f"{self.cpus} CPUs", remedy=f"an {self.arch} kernel runs on 1 to {MAX_CPUS[self.arch]}")
        if nodes != list(range(len(nodes))) or len(nodes) > MAX_NODES:
            raise ConfigError(
                f"nodes with memory are {', '.join(map(str, nodes))}", remedy=f"number them from 0, {MAX_NODES} at most"
            )
        if len(nodes) > 1 and self.arch == "i386":
            raise ConfigError("an i386 kernel has one node", remedy="use x86_64 for NUMA")
        if self.cpus_of_node and (len(self.cpus_of_node) != len(nodes) or sum(self.cpus_of_node) != self.cpus):
            raise ConfigError(
                f"CPUs of the nodes {self.cpus_of_node} do not make up {self.cpus} CPUs on {len(nodes)} nodes",
                remedy="give one number for each node",
            )
        if self.distance and (len(self.distance) != len(nodes) or any(len(row) != len(nodes) for row in self.distance)):
            raise ConfigError("node distances are no square table", remedy=f"give {len(nodes)} rows of {len(nodes)}")

    @property
    def nodes(self) -> list[int]:
        """Numbers of the nodes that have memory, ascending."""
        return sorted({piece.node for piece in self.memory})

    @property
    def zone_types(self) -> ArchZones:
        """Zone types and page-block order of the architecture."""
        return ARCHITECTURES[self.arch]

    @property
    def options(self) -> BootOptions:
        """The command line, as far as it concerns memory."""
        return BootOptions.parse(self.cmdline)

    @property
    def memory_bytes(self) -> int:
        """Size of the described memory in bytes."""
        return sum(piece.end - piece.start for piece in self.memory)

    @classmethod
    def preset(
        cls,
        name: str = "x86_64",
        *,
        ram: int | str | None = None,
        cpus: int = 1,
        nodes: int = 1,
        cmdline: str = "",
        knobs: Mapping[str, Knob] | None = None,
    ) -> MachineDescription:
        """Return a PC with so much memory.

        Parameters
        ----------
        name : str
            ``"x86_64"`` or ``"i386"`` (3G/1G split, no PAE).
        ram : int or str, optional
            Memory in bytes, or as ``"2G"``.
        cpus, nodes : int
            CPUs, and NUMA nodes that share memory and CPUs evenly.
        cmdline : str
            Kernel command line.
        knobs : mapping, optional
            Sysctls to write after boot.

        Raises
        ------
        ConfigError
            If there is no such preset or it cannot be built like this.
        """
        if name not in ARCHITECTURES:
            raise ConfigError(f"unknown machine {name!r}", remedy=f"presets: {', '.join(PRESETS)}")
        arch = ARCHITECTURES[name].arch
        size = PRESETS[arch] if ram is None else memparse(ram) if isinstance(ram, str) else ram
        if nodes < 1:
            raise ConfigError(f"{nodes} nodes", remedy="a machine has at least one")
        memory = _spread(pc_memory_map(size), nodes) if nodes > 1 else pc_memory_map(size)
        return cls(
            arch, tuple(memory), cpus=cpus, cmdline=cmdline, knobs=dict(knobs or {}), name=f"{arch} {_size(size)}"
        )

    @classmethod
    def load(cls, path: Path) -> MachineDescription:
        """Read a description from a JSON file or a folder of ``/proc`` files.

        The keys of the JSON object are the attributes; ``ram`` with an
        optional ``nodes`` may stand for ``memory``.

        Raises
        ------
        InputError, ConfigError
            If the file cannot be read, is no description, or contradicts itself.
        """
        path = Path(path)
        if path.is_dir():
            return cls.from_proc(path)
        try:
            record = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise InputError(f"no machine description: {error}", file=path, remedy="expected a JSON object") from None
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=path) from None
        if not isinstance(record, dict):
            raise InputError("no machine description", file=path, remedy="expected a JSON object")
        try:
            return cls._from_json(record)
        except ConfigError as error:
            raise error.at(file=path) from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(
                f"no machine description: {error}", file=path, remedy="see to_dict() for the keys"
            ) from None

    @classmethod
    def _from_json(cls, record: dict[str, Any]) -> MachineDescription:
        fields = dict(record)
        arch = fields.pop("arch", "x86_64")
        fields["knobs"] = {
            key: tuple(value) if isinstance(value, list) else int(value)
            for key, value in fields.get("knobs", {}).items()
        }
        if "ram" in fields:
            return cls.preset(arch, **fields)
        fields["memory"] = tuple(MemoryRange(*piece) for piece in fields["memory"])
        fields["cpus_of_node"] = tuple(fields.get("cpus_of_node", ()))
        fields["distance"] = tuple(tuple(row) for row in fields.get("distance", ()))
        fields["managed"] = {
            (int(key.partition("/")[0]), key.partition("/")[2]): int(pages)
            for key, pages in fields.get("managed", {}).items()
        }
        return cls(arch, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON-serialisable keys and values, for :meth:`load`."""
        return {
            "name": self.name,
            "arch": self.arch,
            "memory": [list(piece) for piece in self.memory],
            "cpus": self.cpus,
            "cpus_of_node": list(self.cpus_of_node),
            "distance": [list(row) for row in self.distance],
            "cmdline": self.cmdline,
            "knobs": {key: list(value) if isinstance(value, tuple) else value for key, value in self.knobs.items()},
            "initrd_bytes": self.initrd_bytes,
            "profile": self.profile,
            "managed": {f"{node}/{zone}": pages for (node, zone), pages in self.managed.items()},
        }

    @classmethod
    def from_proc(cls, folder: Path) -> MachineDescription:
        """Describe the machine whose ``/proc/iomem`` and ``/proc/zoneinfo`` are in a folder.

        ``cmdline`` (or ``cmdline.txt``, here or in the folder above) is used if
        it is there. Names may end in ``.txt``.

        Raises
        ------
        InputError
            If one of the two is missing, or says nothing usable (``/proc/iomem``
            shows addresses to root only).
        """
        folder = Path(folder)
        iomem, zoneinfo = _proc_file(folder, "iomem"), _proc_file(folder, "zoneinfo")
        found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", iomem, re.M)
        memory = [MemoryRange(int(start, 16), int(last, 16) + 1) for start, last in found]
        if not memory or memory[-1].end <= PAGE_SIZE:
            raise InputError("no System RAM with addresses", file=folder / "iomem", remedy="copy /proc/iomem as root")
        zones = _zoneinfo(zoneinfo)
        if not zones:
            raise InputError("no zones", file=folder / "zoneinfo", remedy="copy /proc/zoneinfo")
        names = {name for _, name in zones}
        cmdline = next(
            (path.read_text().strip() for place in (folder, folder.parent) for path in place.glob("cmdline*")), ""
        )
        description = cls(
            "x86_64" if "DMA32" in names else "i386",
            tuple(memory),
            cpus=max(cpus for _, cpus in zones.values()) or 1,
            cmdline=cmdline,
            managed={key: managed for key, (managed, _) in zones.items()},
            name=folder.name,
        )
        if len({node for node, _ in zones}) > 1 and "numa=fake=" not in cmdline:
            raise InputError(
                "several nodes, and no file says where each has its memory",
                file=folder / "zoneinfo",
                remedy="describe the machine in a JSON file",
            )
        return description

    def with_knobs(self, knobs: Mapping[str, Knob]) -> MachineDescription:
        """Return the same machine with further sysctls to write after boot."""
        return replace(self, knobs={**self.knobs, **knobs})


def _spread(memory: Sequence[MemoryRange], nodes: int) -> list[MemoryRange]:
    """Give each of `nodes` nodes an equal part of the memory, in ascending order of addresses, by whole megabytes."""
    share = sum(piece.end - piece.start for piece in memory) // nodes >> 20 << 20
    result: list[MemoryRange] = []
    node, room = 0, share
    for piece in memory:
        start = piece.start
        while start < piece.end:
            take = piece.end - start if node == nodes - 1 else min(room, piece.end - start)
            end = start + take
            if end < piece.end:
                end = max(start + PAGE_SIZE, end >> 20 << 20)
            result.append(MemoryRange(start, end, node))
            room -= end - start
            start = end
            if room < 1 << 20 and node < nodes - 1:
                node, room = node + 1, room + share
    return result


def _size(size_bytes: int) -> str:
    """Return a size as people write it."""
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if size_bytes >= 1 << shift and size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift} {unit}"
    return f"{size_bytes} bytes"


def _proc_file(folder: Path, name: str) -> str:
    for path in (folder / name, folder / f"{name}.txt"):
        try:
            return path.read_text(errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    raise InputError(f"no {name} in this folder", file=folder, remedy=f"copy /proc/{name} there")


def _zoneinfo(text: str) -> dict[tuple[int, str], tuple[int, int]]:
    """Return (managed, CPUs shown) of each zone in the text of ``/proc/zoneinfo``."""
    zones: dict[tuple[int, str], tuple[int, int]] = {}
    for part in re.split(r"^(?=Node \d+, zone)", text, flags=re.M):
        head = re.match(r"Node (\d+), zone\s+(\S+)", part)
        managed = re.search(r"^\s+managed\s+(\d+)", part, re.M)
        if head and managed:
            zones[int(head[1]), head[2]] = int(managed[1]), len(re.findall(r"^\s+cpu: \d+", part, re.M))
    return zones
