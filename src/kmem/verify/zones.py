# SPDX-License-Identifier: GPL-2.0-only
"""Recordings of zone set-up: one state dump for each sysctl setting.

The model is booted on paper from the recorded machine's memory map and from
what each zone was given to manage; every limit, watermark, reserve and list
size that the kernel derived is then predicted and compared, dump by dump.

What is input: the firmware's memory map, the command line, the number of CPUs,
``managed`` of each zone, a watermark boost in the first dump,
``min_free_kbytes`` where there are no boot messages to derive it from, and the
sysctl that names the dump; notes of the result say what was taken from the
recording.  The first dump shows what the kernel computed before it freed its
own boot-time memory, so the ``Freeing ...`` lines of the boot messages are
taken off ``managed`` for it.  Reading ``lowmem_reserve_ratio`` recomputes the
reserves: if ``sysctl-defaults.txt`` is there, that had happened by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmem.errors import ConfigError, InputError, KmemError
from kmem.machine.records import Record, number, read_records
from kmem.mm.memblock import PAGE_SHIFT
from kmem.mm.mm_init import ArchZones, SystemZones, ZoneSetup
from kmem.mm.x86 import I386, X86_64, BootOptions, I386Layout, machine_zones
from kmem.verify.boot_memory import BootMemory
from kmem.verify.result import Difference, Result

__all__ = ["verify_zones"]

#: How many differences are described; all are counted.
MAX_DIFFERENCES = 100

_WATERMARKS = ("wm_min", "wm_low", "wm_high", "wm_promo")
_ZONE_ANSWERS = (*_WATERMARKS, "lowmem_reserve", "pageset_high", "pageset_batch")
_SYSCTLS = (
    "min_free_kbytes",
    "user_min_free_kbytes",
    "watermark_boost_factor",
    "watermark_scale_factor",
    "percpu_pagelist_high_fraction",
    "lowmem_reserve_ratio",
)
_X86_64_DIRECT_MAP = 0xFFFF888000000000


@dataclass(slots=True)
class _Dump:
    """One state dump: its name and the records that are compared, each with its line number."""

    name: str
    line: int
    nodes: list[tuple[int, Record]] = field(default_factory=list)
    zones: list[tuple[int, Record]] = field(default_factory=list)
    pcps: list[tuple[int, Record]] = field(default_factory=list)
    globals: list[tuple[int, Record]] = field(default_factory=list)


def verify_zones(path: Path) -> Result:
    """Compare a recording of zone set-up with the model.

    Parameters
    ----------
    path : Path
        ``zones.jsonl.gz`` (or uncompressed), or the folder that holds it. The
        context files are looked for beside it.

    Returns
    -------
    Result
        An operation is one record of a dump (node, zone, per-CPU list,
        globals) or one line of ``sysctl-defaults.txt``; `op` of a difference
        is the line number in the recording.

    Raises
    ------
    InputError
        If the recording is damaged, is not of this kind, or names a sysctl
        that is not modelled.
    """
    path = Path(path)
    if path.is_dir():
        found = [name for name in ("zones.jsonl.gz", "zones.jsonl") if (path / name).is_file()]
        if not found:
            raise InputError("no zones.jsonl.gz in this folder", file=path, remedy="name the recording itself")
        path = path / found[0]
    context = BootMemory.read(path.parent)
    dumps = list(_read_dumps(path))
    if not dumps or not dumps[0].zones:
        raise InputError("no dump with zones", file=path, remedy="a zones recording begins with a dump of kind z")
    try:
        return _Checker(path, context, dumps).run()
    except ConfigError as error:
        raise error.at(file=path) from None


def _read_dumps(path: Path) -> Iterator[_Dump]:
    """Yield the dumps of a recording.

    Raises
    ------
    InputError
        With the line at which the file is damaged or ends too early.
    """
    dump: _Dump | None = None
    for line, record in read_records(path):
        kind = record.get("t")
        try:
            if kind == "dump":
                dump = _Dump(str(record["name"]), line)
            elif kind == "enddump" and dump is not None:
                yield dump
                dump = None
            elif dump is not None and kind in ("node", "zone", "pcp", "globals"):
                {"node": dump.nodes, "zone": dump.zones, "pcp": dump.pcps, "globals": dump.globals}[kind].append(
                    (line, record)
                )
            elif "op" in record:
                raise InputError("an operation in a recording of zone set-up", file=path, line=line)
        except KeyError as error:
            raise InputError(f"record without {error}", file=path, line=line) from None
    if dump is not None:
        raise InputError(f"the dump {dump.name!r} has no end", file=path, line=dump.line, remedy="the file is cut off")


class _Checker:
    """The comparison of one recording, in the order in which its kernel computed things."""

    def __init__(self, path: Path, context: BootMemory, dumps: list[_Dump]) -> None:
        self.path = path
        self.context = context
        self.dumps = dumps
        self.arch = _arch_of(dumps[0], path)
        self.options = BootOptions.parse(context.cmdline)
        self.result = Result(path.parent.name or path.name, "zones", notes=list(context.notes))
        self.limits_known = bool(context.e820)
        self.drift_known = True
        self.inputs = ["managed pages of each zone"]
        self.system = self._machine()
        self.setting = "boot"

    # Setting up

    def _machine(self) -> SystemZones:
        """Return the machine with its zone limits, from the memory map if there is one."""
        if self.limits_known:
            return machine_zones(
                self.arch,
                self.context.e820,
                self.options,
                nr_cpus=self.context.nr_cpus,
                cpus_of_node=self.context.cpus_of_node or None,
                distance=self.context.distance,
            )[1]
        nodes = sorted({record["node"] for _, record in self.dumps[0].zones})
        system = SystemZones(self.arch, nodes, nr_cpus=self.context.nr_cpus)
        for line, record in self.dumps[0].zones:
            zone = self._zone_of(system, record, line)
            try:
                zone.start_pfn, zone.spanned, zone.present = (
                    number(record, key) for key in ("start_pfn", "spanned", "present")
                )
            except InputError as error:
                raise error.at(file=self.path, line=line) from None
        indexes = [zone.index for zone in system.populated_zones() if zone.index != self.arch.movable]
        system.movable_zone = max(indexes, default=self.arch.normal)
        return system

    def _zone_of(self, system: SystemZones, record: Record, line: int) -> ZoneSetup:
        node, index = record.get("node"), record.get("idx")
        if node not in system.nodes or not isinstance(index, int) or not 0 <= index < self.arch.nr_zones:
            raise InputError(
                f"zone {index} of node {node}, which this machine does not have", file=self.path, line=line
            )
        return system.zone(node, index)

    def _take_inputs(self, dump: _Dump) -> None:
        """Take over what a dump states and the model does not derive: ``managed``."""
        for line, record in dump.zones:
            managed = record.get("managed")
            if not isinstance(managed, int) or managed < 0:
                raise InputError("zone record without 'managed'", file=self.path, line=line)
            self._zone_of(self.system, record, line).managed = managed

    def _boot(self, first: _Dump) -> None:
        """Compute what the kernel computed at boot, then what had changed by the first dump."""
        system = self.system
        self._take_inputs(first)
        for freed in self.context.freed:
            zone = system.zone_of_pfn(freed.pfn)
            if zone is None or zone.managed < freed.pages:
                raise InputError(
                    f"'Freeing {freed.what} memory' at frame {freed.pfn}: no zone has so much there",
                    file=self.path.parent / "dmesg-boot.txt",
                )
            zone.managed -= freed.pages
        self._boot_cpus()
        system.init_per_zone_wmark_min()
        system.hugepage_init(enabled=self.options.transparent_hugepage != "never")
        self._take_inputs(first)
        if self.context.sysctl_defaults:
            self._take_boosts(first)
            system.setup_per_zone_lowmem_reserve()
        if not self.context.boot_known:
            self._take_min_free_kbytes(first)

    def _take_min_free_kbytes(self, first: _Dump) -> None:
        """Take the default of ``min_free_kbytes`` from the recording: without boot messages it cannot be predicted."""
        recorded = self.context.sysctl_defaults.get("min_free_kbytes") or [
            record["min_free_kbytes"] for _, record in first.globals if isinstance(record.get("min_free_kbytes"), int)
        ]
        if not recorded or len(self.dumps) == 1:
            raise InputError(
                "what the kernel computed at boot cannot be predicted",
                file=self.path,
                remedy="put dmesg-boot.txt and sysctl-defaults.txt of the recorded machine beside the recording",
            )
        self.drift_known = False
        self.inputs.append(f"min_free_kbytes {recorded[0]} (no boot messages)")
        self.system.tunables.min_free_kbytes = recorded[0]
        self.system.setup_per_zone_wmarks()
        self.system.setup_per_zone_lowmem_reserve()

    def _boot_cpus(self) -> None:
        """Let the other CPUs come up, while the last zone has only a part of its memory."""
        system = self.system
        if system.nr_cpus == 1:
            return
        if self.context.available_pages is None or len(system.nodes) > 1:
            self.drift_known = False
            self.result.notes.append("drift marks not checked: free memory at CPU start is not known for each node")
            return
        zones = [zone for zone in system.zones if zone.managed]
        last, full = zones[-1], zones[-1].managed
        last.managed = max(0, self.context.available_pages - sum(zone.managed for zone in zones[:-1]))
        system.vmstat_cpus_online()
        last.managed = full

    def _take_boosts(self, dump: _Dump) -> None:
        for line, record in dump.zones:
            zone = self._zone_of(self.system, record, line)
            zone.watermark_boost = int(record.get("boost", 0))
            if zone.watermark_boost:
                self.inputs.append(f"boost {zone.watermark_boost} of zone {zone.name}, node {zone.node}")

    # Comparing

    def run(self) -> Result:
        """Compare all dumps and return the result."""
        self._boot(self.dumps[0])
        defaults = self._defaults()
        self._check_defaults(defaults)
        previous: str | None = None
        for position, dump in enumerate(self.dumps):
            before = self.result.operations - self.result.identical
            if position:
                self._take_inputs(dump)
                if previous is not None:
                    self.system.sysctl(previous, defaults[previous])
                previous = self._apply(dump)
            if position or self.context.boot_known:
                self._check_dump(dump)
            if position == len(self.dumps) - 1:
                self.result.end_state = self.result.operations - self.result.identical == before
        self.result.notes.append(f"input: {', '.join(self.inputs)}; free lists and page blocks are not compared")
        return self.result

    def _defaults(self) -> dict[str, int | list[int]]:
        tunables = self.system.tunables
        return {
            "min_free_kbytes": tunables.min_free_kbytes,
            "watermark_scale_factor": tunables.watermark_scale_factor,
            "watermark_boost_factor": tunables.watermark_boost_factor,
            "percpu_pagelist_high_fraction": tunables.percpu_pagelist_high_fraction,
            "lowmem_reserve_ratio": list(tunables.lowmem_reserve_ratio),
        }

    def _apply(self, dump: _Dump) -> str | None:
        """Write the sysctl that a dump is named after; return its name, None if the name is none."""
        name, equals, text = dump.name.partition("=")
        self.setting = f"vm.{dump.name}" if equals else dump.name
        if not equals:
            return None
        try:
            values = [int(value) for value in text.replace(",", " ").split()]
            self.system.sysctl(name, values if name == "lowmem_reserve_ratio" else values[0])
        except (ValueError, IndexError):
            raise InputError(f"dump {dump.name!r}: {text!r} is no value", file=self.path, line=dump.line) from None
        except KmemError as error:
            raise InputError(f"dump {dump.name!r}: {error.message}", file=self.path, line=dump.line) from error
        return name

    def _check_defaults(self, defaults: dict[str, int | list[int]]) -> None:
        """Compare ``sysctl-defaults.txt`` with what the model has after boot."""
        for name, values in self.context.sysctl_defaults.items():
            if name in defaults:
                got = defaults[name]
                self._compare(
                    None, f"sysctl vm.{name} after boot", {name: values}, {name: [got] if isinstance(got, int) else got}
                )

    def _check_complete(self, dump: _Dump) -> None:
        """Refuse a dump that leaves out a node, a zone or one of the answers that this kind is about."""
        shown = {(record.get("node"), record.get("idx")) for _, record in dump.zones}
        missing = [zone for zone in self.system.zones if (zone.node, zone.index) not in shown]
        if missing:
            raise InputError(
                f"dump {dump.name!r} shows no zone {missing[0].name} of node {missing[0].node}",
                file=self.path,
                line=dump.line,
            )
        if {record.get("node") for _, record in dump.nodes} != set(self.system.nodes):
            raise InputError(f"dump {dump.name!r} does not show every node", file=self.path, line=dump.line)
        required = ((dump.nodes, ("totalreserve", "zonelist")), (dump.zones, _ZONE_ANSWERS))
        for records, keys in required:
            for line, record in records:
                for key in keys:
                    if key not in record:
                        raise InputError(f"{record['t']} record without {key!r}", file=self.path, line=line)

    def _check_dump(self, dump: _Dump) -> None:
        self._check_complete(dump)
        for line, record in dump.nodes:
            self._compare(line, f"node {record.get('node')}", record, self._node_answers(record, line))
        for line, record in dump.zones:
            zone = self._zone_of(self.system, record, line)
            self._compare(line, f"zone {zone.name}, node {zone.node}", record, self._zone_answers(zone), zone)
        for line, record in dump.pcps:
            index = self._zone_index(record, line)
            zone = self.system.zone(record["node"], index)
            answers = {"high": zone.pageset_high, "batch": zone.pageset_batch}
            where = f"per-CPU list of zone {zone.name}, node {zone.node}, CPU {record.get('cpu')}"
            self._compare(line, where, record, answers, zone)
        for line, record in dump.globals:
            self._compare(line, "globals", record, self._global_answers())

    def _zone_index(self, record: Record, line: int) -> int:
        if record.get("zone") not in self.arch.zone_names or record.get("node") not in self.system.nodes:
            raise InputError(f"per-CPU list of an unknown zone {record.get('zone')!r}", file=self.path, line=line)
        return self.arch.zone_names.index(record["zone"])

    def _node_answers(self, record: Record, line: int) -> dict[str, Any]:
        node = record.get("node")
        if node not in self.system.nodes:
            raise InputError(f"node {node!r}, which this machine does not have", file=self.path, line=line)
        zonelist = self.system.zonelist(node)
        populated = [zone for zone in self.system.node_zones(node) if zone.present]
        start = min((zone.start_pfn for zone in populated), default=0)
        return {
            "start_pfn": start,
            "present": sum(zone.present for zone in populated),
            "spanned": max((zone.end_pfn for zone in populated), default=0) - start,
            "nr_zones": max((zone.index for zone in populated), default=-1) + 1,
            "totalreserve": self.system.totalreserve[node],
            "zonelist": [zone.name for zone in zonelist],
            "zonelist_nodes": [zone.node for zone in zonelist],
            "thisnode_zonelist": [[zone.name, zone.node] for zone in self.system.zonelist(node, thisnode=True)],
        }

    def _zone_answers(self, zone: ZoneSetup) -> dict[str, Any]:
        answers: dict[str, Any] = {
            "name": zone.name,
            **dict(zip(_WATERMARKS, zone.watermark, strict=True)),
            "lowmem_reserve": zone.lowmem_reserve,
            "pageset_high": zone.pageset_high,
            "pageset_batch": zone.pageset_batch,
        }
        if zone.present:
            answers["stat_threshold"] = zone.stat_threshold
        if self.drift_known:
            answers["drift_mark"] = zone.percpu_drift_mark
        if self.limits_known:
            answers |= {"start_pfn": zone.start_pfn, "spanned": zone.spanned, "present": zone.present}
        return answers

    def _global_answers(self) -> dict[str, Any]:
        system = self.system
        answers: dict[str, Any] = {name: getattr(system.tunables, name) for name in _SYSCTLS}
        answers["totalram"] = system.totalram_pages()
        answers["totalreserve_pages"] = sum(system.totalreserve.values())
        answers["num_physpages"] = sum(zone.present for zone in system.zones)
        answers["movable_zone"] = system.movable_zone
        low_end = max(zone.end_pfn for zone in system.populated_zones() if not system.is_highmem(zone))
        if self.arch.highmem is None:
            answers["high_memory"] = hex(_X86_64_DIRECT_MAP + (low_end << PAGE_SHIFT))
            return answers
        layout = I386Layout.of(self.options)
        high_memory = layout.page_offset + (low_end << PAGE_SHIFT)
        answers["high_memory"] = hex(high_memory)
        answers["PAGE_OFFSET"] = hex(layout.page_offset)
        answers["VMALLOC_START"] = hex(high_memory + layout.VMALLOC_OFFSET)
        answers["VMALLOC_END"] = hex(layout.vmalloc_end)
        answers["PKMAP_BASE"] = hex(layout.pkmap_base)
        return answers

    def _compare(
        self,
        line: int | None,
        where: str,
        record: Record,
        answers: dict[str, Any],
        zone: ZoneSetup | None = None,
    ) -> None:
        """Count one record; each of its fields that the model predicted otherwise is a difference."""
        self.result.operations += 1
        wrong = [key for key, got in answers.items() if key in record and record[key] != got]
        if not wrong:
            self.result.identical += 1
            return
        for key in wrong:
            if len(self.result.differences) < MAX_DIFFERENCES:
                message = f"setting: {self.setting}; {self._state(zone)}"
                self.result.differences.append(Difference(line, f"{where}: {key}", record[key], answers[key], message))

    def _state(self, zone: ZoneSetup | None) -> str:
        """Say what the differing number was computed from."""
        tunables = self.system.tunables
        lowmem = sum(each.managed for each in self.system.zones if not self.system.is_highmem(each))
        text = (
            f"min_free_kbytes {tunables.min_free_kbytes}, watermark_scale_factor {tunables.watermark_scale_factor}, "
            f"high fraction {tunables.percpu_pagelist_high_fraction}, "
            f"reserve ratios {' '.join(str(ratio) for ratio in tunables.lowmem_reserve_ratio)}; "
            f"low memory {lowmem} pages managed, {self.system.nr_cpus} CPUs"
        )
        if zone is not None:
            text += (
                f"; zone {zone.name}: managed {zone.managed}, "
                f"watermarks {' '.join(str(mark) for mark in zone.watermark)}, "
                f"boost {zone.watermark_boost}, reserves {' '.join(str(pages) for pages in zone.lowmem_reserve)}"
            )
        return text


def _arch_of(dump: _Dump, path: Path) -> ArchZones:
    """Return the configuration whose zone types a dump shows."""
    names = [str(record.get("name")) for _, record in dump.zones if record.get("node") == dump.zones[0][1].get("node")]
    for arch in (X86_64, I386):
        if names == list(arch.zone_names):
            return arch
    raise InputError(
        f"zones {', '.join(names)} are of no known configuration",
        file=path,
        line=dump.line,
        remedy=f"known: {'/'.join(X86_64.zone_names)} and {'/'.join(I386.zone_names)}",
    )
