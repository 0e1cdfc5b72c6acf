# SPDX-License-Identifier: GPL-2.0-only
"""The running kernel against the model: geometry of its slab caches, watermarks of its zones.

Inputs, not answers: of a cache its object size, the alignment it has (from
which the one that was asked for is not told apart), its flags and whether it
has a constructor; of a zone its managed pages; CPUs, command line, sysctls.
Where a cache of objects that outlive their free (TYPESAFE_BY_RCU) keeps the free
pointer is up to its creator since 6.12, and shown nowhere: its slab size tells.

Predicted: slab size, order, objects per slab, alignment, ``min_partial``,
``cpu_partial``; watermarks, ``protection``, batch sizes.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kmem.errors import InputError, KmemError
from kmem.machine.proc import parse_zoneinfo
from kmem.machine.views import ZoneView
from kmem.mm.slab_common import CacheGeometry, calculate_alignment, kmem_cache_open
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slab_flags import (
    SLAB_CACHE_DMA,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.mm.x86 import I386, X86_64, machine_zones, pc_memory_map
from kmem.verify.result import Difference, Result

__all__ = ["verify_live"]

_FLAGS = {
    "hwcache_align": SLAB_HWCACHE_ALIGN,
    "cache_dma": SLAB_CACHE_DMA,
    "reclaim_account": SLAB_RECLAIM_ACCOUNT,
    "destroy_by_rcu": SLAB_TYPESAFE_BY_RCU,
    "sanity_checks": SLAB_CONSISTENCY_CHECKS,
    "poison": SLAB_POISON,
    "red_zone": SLAB_RED_ZONE,
    "store_user": SLAB_STORE_USER,
}
_PREDICTED = ("slab_size", "order", "objs_per_slab", "align", "min_partial", "cpu_partial")
_MACHINES = {"x86_64": ("amd64", X86_64), "i686": ("i386", I386), "i386": ("i386", I386)}
_SYSCTLS = ("min_free_kbytes", "watermark_scale_factor", "percpu_pagelist_high_fraction", "lowmem_reserve_ratio")


def verify_live(root: Path = Path("/"), *, kernel: str | None = None, machine: str | None = None) -> list[Result]:
    """Compare the model with the running kernel, whatever its version.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are; a folder with copies will do.
    kernel, machine : str, optional
        Release and machine as ``uname`` prints them; those of this machine by default.

    Returns
    -------
    list of Result
        One for the caches, one for the zones; what cannot be read is left out.

    Raises
    ------
    InputError
        If neither can be read, or a file is not what the kernel prints.
    """
    names = os.uname()
    release, machine = kernel or names.release, machine or names.machine
    version = re.match(r"(\d+)\.(\d+)", release)
    if machine not in _MACHINES or version is None:
        raise InputError(f"a {machine} with Linux {release}", remedy="x86_64 and i386 can be compared")
    live = _Live(root, release, (int(version[1]), int(version[2])), machine)
    results = [result for result in (live.caches(), live.zones()) if result is not None]
    if not results:
        raise InputError(
            "neither sys/kernel/slab nor proc/zoneinfo can be read here", file=root, remedy="run it as root"
        )
    return results


class _Live:
    def __init__(self, root: Path, release: str, version: tuple[int, int], machine: str) -> None:
        self.root = root
        self.release = release
        self.version = version
        self.arch, self.limits = _MACHINES[machine]
        self.cmdline = (self.read("proc/cmdline") or "").strip()

    def read(self, path: str) -> str | None:
        try:
            return (self.root / path).read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def cpus(self, which: str) -> int:
        """CPUs of a list such as ``0-3,8``."""
        text = (self.read(f"sys/devices/system/cpu/{which}") or "0").strip()
        ends = [part.split("-") for part in text.split(",")]
        return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)

    # -- caches -------------------------------------------------------------

    def caches(self) -> Result | None:
        folder = self.root / "sys/kernel/slab"
        try:
            names = sorted(path.name for path in folder.iterdir())
        except OSError:
            return None
        config = SlabConfig.for_arch(
            self.arch, cpus=self.cpus("present"), nr_cpu_ids=self.cpus("possible"), cmdline=self.cmdline
        )
        config = _of_version(config, self.version)
        result = Result(f"caches of Linux {self.release}", "live")
        seen: set[Path] = set()
        unread: list[str] = []
        for name in names:
            real = (folder / name).resolve()
            if real in seen:
                continue  # another name of a merged cache
            seen.add(real)
            try:
                fields = {path.name: path.read_text() for path in _readable(real)}
                self.cache(name, fields, config, result)
            except (OSError, KeyError, ValueError):
                unread.append(name)
        if unread:
            result.notes.append(f"not readable: {', '.join(unread)}")
        return result if result.operations else None

    def cache(self, name: str, fields: dict[str, str], config: SlabConfig, result: Result) -> None:
        """Compare one cache."""
        real = {key: int(fields[key].split()[0]) for key in (*_PREDICTED, "object_size")}
        flags = sum(bit for key, bit in _FLAGS.items() if fields.get(key, "0").strip() == "1")
        align = calculate_alignment(flags, real["align"], real["object_size"], config)
        result.operations += 1
        try:
            model = kmem_cache_open(
                name, real["object_size"], align, flags, config, ctor=bool(fields.get("ctor", "").strip())
            )
        except KmemError as error:
            result.differences.append(Difference(None, f"cache {name}", real, None, str(error)))
            return
        if self.version >= (6, 12) and flags & SLAB_TYPESAFE_BY_RCU and model.size != real["slab_size"]:
            inside = kmem_cache_open(name, real["object_size"], align, flags & ~SLAB_TYPESAFE_BY_RCU, config)
            if inside.size == real["slab_size"]:
                model = inside
                result.notes.append(f"cache {name} keeps its free pointer inside the object: its slab size tells")
        got = _numbers(model)
        wrong = [key for key in _PREDICTED if got[key] != real[key]]
        result.identical += not wrong
        for key in wrong:
            asked = f"object size {real['object_size']}, alignment {real['align']}, flags {flags:#x}"
            result.differences.append(Difference(None, f"cache {name}: {key}", real[key], got[key], asked))

    # -- zones --------------------------------------------------------------

    def zones(self) -> Result | None:
        text = self.read("proc/zoneinfo")
        if text is None:
            return None
        nodes = parse_zoneinfo(text)
        zones = [zone for node in nodes for zone in node.zones if zone.managed]
        result = Result(f"zones of Linux {self.release}", "live")
        if len(nodes) > 1:
            result.notes.append("several nodes: only watermarks and protection of each are compared")
        predicted = dict(self.model_zones(zones, result))
        for zone in zones:
            result.operations += 1
            got = predicted.get((zone.node, zone.name), {})
            real = {"min": zone.min, "low": zone.low, "high": zone.high, "protection": list(zone.protection)}
            if zone.pagesets:
                real["batch"] = zone.pagesets[0].batch
            wrong = [key for key in real if got.get(key) != real[key]]
            result.identical += not wrong
            for key in wrong:
                where = f"zone {zone.name}, node {zone.node}: {key}"
                result.differences.append(Difference(None, where, real[key], got.get(key), f"managed {zone.managed}"))
        return result if result.operations else None

    def model_zones(self, zones: list[ZoneView], result: Result) -> Iterator[tuple[tuple[int, str], dict[str, object]]]:
        """Watermarks and reserves as the model computes them from managed pages and sysctls."""
        end = max(zone.start_pfn + zone.spanned for zone in zones) << 12
        nodes = sorted({zone.node for zone in zones})
        _, system = machine_zones(self.limits, pc_memory_map(end), nr_cpus=self.cpus("online"))
        by_name = {zone.name: zone for zone in system.zones}
        for node in nodes:  # a node's reserves depend on its own zones; shares of min on all
            for zone in system.zones:
                zone.managed = sum(z.managed for z in zones if z.name == zone.name and z.node == node)
            system.init_per_zone_wmark_min()
            total = sum(z.managed for z in zones if z.name != "HighMem" and z.name != "Movable")
            own = sum(z.managed for z in zones if z.node == node and z.name != "HighMem" and z.name != "Movable")
            for key in _SYSCTLS:
                value = self.read(f"proc/sys/vm/{key}")
                if value is None:
                    if node == nodes[0] and key != "percpu_pagelist_high_fraction":
                        result.notes.append(f"vm.{key} is not readable: the default is assumed")
                    continue
                numbers = [int(word) for word in value.split()]
                if key == "min_free_kbytes" and own != total:
                    numbers = [numbers[0] * own // total]
                system.sysctl(key, numbers[0] if len(numbers) == 1 else numbers)
            for view in zones:
                if view.node == node and view.name in by_name:
                    model = by_name[view.name]
                    marks = dict(zip(("min", "low", "high"), model.watermark, strict=False))
                    reserve = list(model.lowmem_reserve)[: len(view.protection)]
                    reserve += [reserve[-1] if reserve else 0] * (len(view.protection) - len(reserve))
                    yield (node, view.name), {**marks, "protection": reserve, "batch": model.pageset_batch}


def _of_version(config: SlabConfig, version: tuple[int, int]) -> SlabConfig:
    return dataclasses.replace(config, version=version)


def _readable(folder: Path) -> Iterator[Path]:
    for key in (*_PREDICTED, *_FLAGS, "object_size", "ctor"):
        if (folder / key).exists():
            yield folder / key


def _numbers(s: CacheGeometry) -> dict[str, int]:
    return {
        "slab_size": s.size,
        "order": s.order,
        "objs_per_slab": s.objects,
        "align": s.align,
        "min_partial": s.min_partial,
        "cpu_partial": s.cpu_partial,
    }
