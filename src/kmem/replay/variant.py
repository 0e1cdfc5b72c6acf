# SPDX-License-Identifier: GPL-2.0-only
"""What-if settings: which machine, with which options, is given which variant of a trace.

A setting is a text ``NAME=VALUE``, the same on all command lines:

==================================== ==================================================
``ram``, ``cpus``, ``nodes``         the machine
``vm.min_free_kbytes``, ...          a sysctl, written after boot; ``vm.`` may be left out
``slub_min_order``, ``movablecore``  an option of the kernel command line
``scale_load``, ``kvmalloc_above``   a change of the trace
``drop``, ``atomic_to_kernel``       the same, its value being a call site
``mempool.CACHE``, ``resize.SITE``   the same for one cache or call site
``slab_order.CACHE``                 the order of a cache's slabs
==================================== ==================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kmem.errors import ConfigError
from kmem.machine.description import PRESETS, MachineDescription, parse_knob
from kmem.machine.folder import describe_folder, describe_live
from kmem.machine.machine import Machine
from kmem.machine.slabinfo import SlabinfoRow
from kmem.mm.slab_config import SlabConfig
from kmem.mm.x86 import BootOptions, memparse
from kmem.replay.prepared import PreparedTrace
from kmem.replay.replay import Progress, Replay, replay
from kmem.replay.transform import Transform

__all__ = ["BOOT_OPTIONS", "LISTS", "SYSCTLS", "Variant"]

#: Options of the kernel command line that change a replay; the second ones stand alone, too.
BOOT_OPTIONS = (
    *("slub_min_order", "slub_max_order", "slub_min_objects", "mem", "kernelcore", "movablecore"),
    *("vmalloc", "highmem", "numa"),
    *("slab_nomerge", "slub_debug"),
)
_ALONE = ("slab_nomerge", "slub_debug")

SYSCTLS = (
    *("min_free_kbytes", "watermark_scale_factor", "watermark_boost_factor"),
    *("lowmem_reserve_ratio", "percpu_pagelist_high_fraction"),
)
_NUMBERS = ("scale_load", "kvmalloc_above")
_PER_NAME = ("mempool", "resize", "slab_order")
#: Settings that may be given several times; each adds to those before.
LISTS = ("drop", "atomic_to_kernel")
_MACHINE = ("ram", "cpus", "nodes")
_PROFILE = "6.1"
_LIVE = "live"

Knob = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """A replay to be: everything but the trace.

    Attributes
    ----------
    machine : str or None
        Preset, description, folder or ``live`` (this machine); None: inferred from the trace.
    ram : str or None
    cpus, nodes : int or None
    knobs : dict of str to int or tuple of int
        Sysctls, in the order in which they are written.
    options : tuple of str
        Words of the kernel command line.
    transform : Transform
    slab_orders : dict of str to int
    """

    machine: str | None = None
    ram: str | None = None
    cpus: int | None = None
    nodes: int | None = None
    knobs: Mapping[str, Knob] = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()
    transform: Transform = dataclasses.field(default_factory=Transform)
    slab_orders: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def with_settings(self, settings: Iterable[str]) -> Variant:
        """Return the variant with further settings; later ones of a name replace what the variant has.

        Raises
        ------
        ConfigError
            If a setting is unknown, malformed, or given twice with two values.
        """
        seen: dict[str, str] = {}
        variant = self
        for text in settings:
            name, _, value = text.partition("=")
            key = canonical(name)
            if key in LISTS:
                key = f"{key} {value}"
            if seen.setdefault(key, value) != value:
                raise ConfigError(f"--set gives {key} two values", remedy="give one of them")
            variant = variant._with(text)
        variant.check()
        return variant

    def _with(self, text: str) -> Variant:
        name, equals, value = text.partition("=")
        key = canonical(name)
        first, _, rest = key.partition(".")
        if key == "slab_nomerge" and value in ("0", "1"):  # for sweeps over it
            word = "slab_nomerge" if value == "1" else "slab_merge"
            return dataclasses.replace(self, options=(*_without(self.options, "slab_nomerge", "slab_merge"), word))
        if key in BOOT_OPTIONS:
            if not value and not (key in _ALONE and not equals):
                raise ConfigError(f"{text!r} has no value", remedy=f"write {key}=VALUE")
            word = f"{key}={value}" if equals else key
            return dataclasses.replace(self, options=(*_without(self.options, key), word))
        if not equals or not value:
            raise ConfigError(f"{text!r} is no knob", remedy="write NAME=NUMBER, as in vm.min_free_kbytes=8192")
        if first == "vm":
            _, number = parse_knob(text)
            return dataclasses.replace(self, knobs={**self.knobs, key: number})
        if key == "ram":
            memparse(value)
            return dataclasses.replace(self, ram=value)
        if key == "cpus":
            return dataclasses.replace(self, cpus=_whole(key, value, 1))
        if key == "nodes":
            return dataclasses.replace(self, nodes=_whole(key, value, 1))
        if key == "profile":
            if value != _PROFILE:
                raise ConfigError(f"kernel profile {value!r}", remedy=f"modelled is {_PROFILE}")
            return self
        if key in _NUMBERS:
            number = memparse(value) if key == "kvmalloc_above" else _whole(key, value, 1)
            return self._transformed(**{key: number})
        if key in LISTS:
            return self._transformed(**{key: tuple(dict.fromkeys((*getattr(self.transform, key), value)))})
        if first in _PER_NAME and rest:
            return self._per_name(first, rest, _whole(key, value, 0))
        raise ConfigError(f"unknown setting {name!r}", remedy=f"known: {', '.join(known_settings())}")

    def _per_name(self, first: str, name: str, number: int) -> Variant:
        if first == "slab_order":
            if number > 10:
                raise ConfigError(f"slabs of order {number}", remedy="the largest order is 10")
            return dataclasses.replace(self, slab_orders={**self.slab_orders, name: number})
        field = "mempools" if first == "mempool" else first
        pairs = {**dict(getattr(self.transform, field)), name: number}
        return self._transformed(**{field: tuple(pairs.items())})

    def _transformed(self, **changes: Any) -> Variant:
        return dataclasses.replace(self, transform=dataclasses.replace(self.transform, **changes))

    @property
    def cmdline(self) -> str:
        """The kernel command line that the settings ask for."""
        return " ".join(self.options)

    def check(self) -> None:
        """Refuse what no kernel would take, as far as that can be said without a machine.

        Raises
        ------
        ConfigError
        """
        BootOptions.parse(self.cmdline)
        SlabConfig.for_arch(cmdline=self.cmdline)
        for name in self.knobs:
            if name.removeprefix("vm.") not in SYSCTLS:
                raise ConfigError(f"unknown sysctl {name!r}", remedy=f"known here: {', '.join(SYSCTLS)}")
        presets = (*PRESETS, _LIVE)
        if self.machine is not None and self.machine not in presets and not Path(self.machine).exists():
            raise ConfigError(
                f"no machine {self.machine!r}", remedy="give a preset (x86_64, i386), or the path of a description"
            )

    def boot(self, *, seed: int = 0) -> tuple[Machine | None, list[str]]:
        """Boot the machine, None if it is to be inferred; what was assumed about it, a sentence each.

        Raises
        ------
        ConfigError, InputError
            If it cannot be booted or read.
        """
        if self.machine is None:
            if self.nodes is not None:
                raise ConfigError("nodes of an inferred machine", remedy="give --machine x86_64, too")
            return None, []
        assumed: list[str] = []
        if self.machine in PRESETS:
            if self.ram is None:
                assumed.append(f"memory {PRESETS[self.machine] >> 20} MiB: --ram not given")
            if self.cpus is None:
                assumed.append("1 CPU: --cpus not given")
            description = MachineDescription.preset(
                self.machine, ram=self.ram, cpus=self.cpus or 1, nodes=self.nodes or 1
            )
        elif self.ram is not None or self.cpus is not None or self.nodes is not None:
            raise ConfigError(
                "memory, CPUs and nodes can be given for presets and inferred machines",
                remedy=f"change the description {self.machine}",
            )
        elif self.machine == _LIVE:
            description, assumed = describe_live()
        elif Path(self.machine).is_dir():
            description, assumed = describe_folder(Path(self.machine))
        else:
            description = MachineDescription.load(Path(self.machine))
        line = f"{description.cmdline} {self.cmdline}".strip()
        return Machine.boot(dataclasses.replace(description, cmdline=line), knobs=self.knobs, seed=seed), assumed

    def replay(
        self,
        trace: str,
        *,
        slabinfo: Mapping[str, SlabinfoRow] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        prepared: PreparedTrace | None = None,
        **options: Any,
    ) -> Replay:
        """Replay a trace so; further options are those of :func:`kmem.replay.replay.replay`.

        Raises
        ------
        ConfigError, InputError
            If the machine cannot be booted, or the trace not be read.
        """
        machine, assumed = self.boot(seed=seed)
        common: dict[str, Any] = {
            "slabinfo": slabinfo,
            "transform": self.transform,
            "slab_orders": self.slab_orders,
            "progress": progress,
            "prepared": prepared,
            **options,
        }
        if machine is not None:
            run = replay(trace, machine, **common)
            run.assumed[:0] = assumed
            return run
        ram = memparse(self.ram) if self.ram is not None else None
        return replay(trace, ram=ram, cpus=self.cpus, knobs=self.knobs, cmdline=self.cmdline, seed=seed, **common)


def canonical(name: str) -> str:
    """Return the one way to write a setting's name."""
    name = name.strip()
    first, dot, rest = name.partition(".")
    key = first.lower().replace("-", "_")
    if not dot and key in SYSCTLS:
        return f"vm.{key}"
    return f"{key}{dot}{rest}"


def known_settings() -> list[str]:
    """Return the names of all settings."""
    return [
        *_MACHINE,
        *(f"vm.{name}" for name in SYSCTLS),
        *BOOT_OPTIONS,
        *_NUMBERS,
        *LISTS,
        "mempool.CACHE",
        "resize.SITE",
        "slab_order.CACHE",
    ]


def _without(words: tuple[str, ...], *names: str) -> tuple[str, ...]:
    return tuple(word for word in words if word.partition("=")[0] not in names)


def _whole(name: str, value: str, least: int) -> int:
    if not value.isascii() or not value.isdecimal() or int(value) < least:
        raise ConfigError(f"{name}={value}", remedy=f"give a whole number from {least} on")
    return int(value)
