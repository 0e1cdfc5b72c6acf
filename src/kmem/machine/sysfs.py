# SPDX-License-Identifier: GPL-2.0-only
"""``/sys/kernel/slab`` of a live machine: one directory for each cache.

Files are printed, and where the kernel lets one write to them obeyed, as the
functions of the kernel's own do it; what they show is read from the model's
state at that moment.  A cache that others may share stands under a name made
of its flags and its size (``:0000064``), and every name that shares it is a
symbolic link to that; all others stand under their own name.

Source: mm/slub.c:slab_attrs, sysfs_slab_add, sysfs_slab_alias @6.1.192
Differs: a constructor is shown by its Python name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kmem.errors import UsageError
from kmem.mm.slab_common import CacheGeometry
from kmem.mm.slab_flags import (
    DEBUG_METADATA_FLAGS,
    SLAB_CACHE_DMA,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
    SLAB_TYPESAFE_BY_RCU,
)
from kmem.profile.flags import slab_unique_id

if TYPE_CHECKING:
    from kmem.machine.machine import Machine

__all__ = ["SlabDirectory", "SlabSysfs"]

_NONE: Final = 0xFFFFFFFF
_ZONES_A_NODE: Final = 5
_UINT_MAX: Final = (1 << 32) - 1


def _number(text: str, highest: int) -> int:
    """Read a decimal number as ``kstrtoul(buf, 10, ...)`` does: nothing around it but one line break."""
    text = text.removesuffix("\n").removeprefix("+")
    if not text.isascii() or not text.isdigit() or int(text) > highest:
        raise UsageError(f"{text!r} is no number that this file takes", remedy=f"write a number from 0 to {highest}")
    return int(text)


class SlabDirectory:
    """The files of one cache.

    Parameters
    ----------
    machine : Machine
    cache : int
        Number of the cache.
    """

    def __init__(self, machine: Machine, cache: int) -> None:
        self._machine = machine
        self._slub = machine.slub
        self.cache = cache

    @property
    def _geometry(self) -> CacheGeometry:
        return self._machine.geometry(self.cache)

    @property
    def _numa(self) -> bool:
        return self._machine.caches.list.config.numa

    def files(self) -> tuple[str, ...]:
        """Return the names of the files, in the kernel's order."""
        return tuple(name for name in _SHOW if name != "remote_node_defrag_ratio" or self._numa)

    def read(self, name: str) -> str:
        """Return the content of a file.

        Raises
        ------
        UsageError
            There is no such file.
        """
        if name not in self.files():
            raise UsageError(f"a slab cache has no file {name!r}", remedy=f"there are {', '.join(self.files())}")
        return _SHOW[name](self)

    def write(self, name: str, text: str) -> None:
        """Write to a file.

        Raises
        ------
        UsageError
            There is no such file, it cannot be written to, or the kernel refuses the value.
        """
        self.read(name)
        store = _STORE.get(name)
        if store is None:
            raise UsageError(f"{name} is read-only", remedy=f"{', '.join(_STORE)} can be written to")
        store(self, text)

    # Numbers of slabs and objects

    def _partial_pages(self, node: int) -> Any:
        memmap = self._slub.memmap
        head = int(self._slub.nodes_array[self.cache * self._slub.nr_nodes + node]["partial"])
        return memmap.pages_array[memmap.list_frames(head)]

    def _emit(self, by_node: Mapping[int, int]) -> str:
        """Print a total, and on kernels with NUMA what each node has of it.

        Source: mm/slub.c:show_slab_objects @6.1.192
        """
        text = str(sum(by_node.values()))
        if self._numa:
            text += "".join(f" N{node}={count}" for node, count in sorted(by_node.items()) if count)
        return text + "\n"

    def _all(self, count: Callable[[Any, Any], int]) -> str:
        """Count something on every node: `count` is given the node's record and its partial slabs."""
        slub = self._slub
        return self._emit(
            {
                node: count(slub.nodes_array[self.cache * slub.nr_nodes + node], self._partial_pages(node))
                for node in range(slub.nr_nodes)
            }
        )

    def slabs(self) -> str:
        """All slabs."""
        return self._all(lambda node, partial: int(node["nr_slabs"]))

    def total_objects(self) -> str:
        """Objects of all slabs."""
        return self._all(lambda node, partial: int(node["total_objects"]))

    def objects(self) -> str:
        """Objects in use; those on the CPUs' slabs all count."""
        return self._all(lambda node, partial: int(node["total_objects"]) - _sum(partial["objects"] - partial["inuse"]))

    def partial(self) -> str:
        """Slabs on the nodes' partial lists."""
        return self._all(lambda node, partial: int(node["nr_partial"]))

    def objects_partial(self) -> str:
        """Objects in use on these."""
        return self._all(lambda node, partial: _sum(partial["inuse"]))

    def _cpu_lists(self) -> Iterator[tuple[int, int, int]]:
        """Yield each CPU's number, current slab and first partial slab."""
        slub = self._slub
        for cpu in range(slub.nr_cpus):
            record = slub.cpus_array[self.cache * slub.nr_cpus + cpu]
            yield cpu, int(record["slab"]), int(record["partial"])

    def cpu_slabs(self) -> str:
        """Slabs that CPUs own; the partial list of a CPU without a current slab is not looked at."""
        pages = self._slub.memmap.pages_array
        by_node: dict[int, int] = {}
        for _, slab, partial in self._cpu_lists():
            if slab == _NONE:
                continue
            for frame, count in ((slab, 1), (partial, 0 if partial == _NONE else int(pages[partial]["slabs"]))):
                if count:
                    node = int(pages[frame]["zone"]) // _ZONES_A_NODE
                    by_node[node] = by_node.get(node, 0) + count
        return self._emit(by_node)

    def slabs_cpu_partial(self) -> str:
        """Slabs on the CPUs' partial lists, and the objects in them, taken to be half of what fits.

        Source: mm/slub.c:slabs_cpu_partial_show @6.1.192
        """
        pages = self._slub.memmap.pages_array
        slabs = {cpu: int(pages[partial]["slabs"]) for cpu, _, partial in self._cpu_lists() if partial != _NONE}
        objects = self._geometry.objects
        total = sum(slabs.values())
        text = f"{total * objects // 2}({total})"
        return text + "".join(f" C{cpu}={count * objects // 2}({count})" for cpu, count in slabs.items()) + "\n"

    def ctor(self) -> str:
        """The constructor's name; nothing without one."""
        if not self._geometry.ctor:
            return ""
        known = self._machine.kernel.kmem_caches.get(self.cache)
        function = getattr(known, "ctor", None)
        return f"{getattr(function, '__qualname__', 'ctor')}\n"

    # Writing

    def _set(self, field: str, value: int) -> None:
        self._slub.caches_array[field][self.cache] = value

    def store_min_partial(self, text: str) -> None:
        """Set how many partial slabs a node keeps even if they are empty.

        Source: mm/slub.c:min_partial_store @6.1.192
        """
        value = _number(text, _UINT_MAX)
        self._set("min_partial", value)
        self._geometry.min_partial = value

    def store_cpu_partial(self, text: str) -> None:
        """Set the limit of the CPUs' partial lists in objects, and take all slabs from the CPUs.

        Source: mm/slub.c:cpu_partial_store @6.1.192
        """
        value = _number(text, _UINT_MAX)
        geometry = self._geometry
        if value and (geometry.debug or not self._machine.caches.list.config.cpu_partial):
            raise UsageError(f"cache {geometry.name} has no per-CPU partial lists", remedy="write 0")
        geometry.cpu_partial = value
        geometry.cpu_partial_slabs = -(-value * 2 // geometry.objects)
        self._set("cpu_partial_slabs", geometry.cpu_partial_slabs)
        self._slub.flush_all(self.cache)

    def store_remote_ratio(self, text: str) -> None:
        """Set how readily other nodes' slabs are used, in percent.

        Source: mm/slub.c:remote_node_defrag_ratio_store @6.1.192
        """
        value = _number(text, 100)
        self._set("remote_ratio", value * 10)
        self._geometry.remote_ratio = value * 10

    def store_shrink(self, text: str) -> None:
        """Write 1 to give empty slabs back.

        Source: mm/slub.c:shrink_store @6.1.192
        """
        if not text.startswith("1"):
            raise UsageError(f"shrink does not take {text!r}", remedy="write 1")
        self._slub.kmem_cache_shrink(self.cache)

    def store_validate(self, text: str) -> None:
        """Write 1 to check all objects of a debug cache; what is wrong is reported in the log.

        Source: mm/slub.c:validate_store @6.1.192
        """
        if not text.startswith("1") or not self._geometry.debug:
            raise UsageError(f"validate does not take {text!r} here", remedy="write 1, to a cache with debug flags")
        _ = self._machine.kernel  # objects have bytes from its making on
        self._slub.validate_slab_cache(self.cache)


def _sum(numbers: Any) -> int:
    return int(numbers.astype(np.int64).sum())


def _flag(mask: int) -> Callable[[SlabDirectory], str]:
    return lambda directory: f"{int(bool(directory._geometry.flags & mask))}\n"


def _field(name: str) -> Callable[[SlabDirectory], str]:
    return lambda directory: f"{getattr(directory._geometry, name)}\n"


#: The files of a directory: what each shows, in the kernel's order.
_SHOW: Final[Mapping[str, Callable[[SlabDirectory], str]]] = {
    "slab_size": _field("size"),
    "object_size": _field("object_size"),
    "objs_per_slab": _field("objects"),
    "order": _field("order"),
    "min_partial": _field("min_partial"),
    "cpu_partial": _field("cpu_partial"),
    "objects": SlabDirectory.objects,
    "objects_partial": SlabDirectory.objects_partial,
    "partial": SlabDirectory.partial,
    "cpu_slabs": SlabDirectory.cpu_slabs,
    "ctor": SlabDirectory.ctor,
    "aliases": lambda directory: f"{max(directory._geometry.refcount - 1, 0)}\n",
    "align": _field("align"),
    "hwcache_align": _flag(SLAB_HWCACHE_ALIGN),
    "reclaim_account": _flag(SLAB_RECLAIM_ACCOUNT),
    "destroy_by_rcu": _flag(SLAB_TYPESAFE_BY_RCU),
    "shrink": lambda directory: "",
    "slabs_cpu_partial": SlabDirectory.slabs_cpu_partial,
    "total_objects": SlabDirectory.total_objects,
    "slabs": SlabDirectory.slabs,
    "sanity_checks": _flag(SLAB_CONSISTENCY_CHECKS),
    "trace": _flag(SLAB_TRACE),
    "red_zone": _flag(SLAB_RED_ZONE),
    "poison": _flag(SLAB_POISON),
    "store_user": _flag(SLAB_STORE_USER),
    "validate": lambda directory: "",
    "cache_dma": _flag(SLAB_CACHE_DMA),
    "remote_node_defrag_ratio": lambda directory: f"{directory._geometry.remote_ratio // 10}\n",
    "usersize": _field("usersize"),
}

_STORE: Final[Mapping[str, Callable[[SlabDirectory, str], None]]] = {
    "min_partial": SlabDirectory.store_min_partial,
    "cpu_partial": SlabDirectory.store_cpu_partial,
    "shrink": SlabDirectory.store_shrink,
    "validate": SlabDirectory.store_validate,
    "remote_node_defrag_ratio": SlabDirectory.store_remote_ratio,
}


class SlabSysfs:
    """``/sys/kernel/slab`` of one machine.

    Parameters
    ----------
    machine : Machine
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def _directory_name(self, geometry: CacheGeometry) -> str:
        """Return the name that a cache stands under.

        Source: mm/slub.c:sysfs_slab_add, create_unique_id @6.1.192
        """
        caches = self._machine.caches.list
        debug = caches.config.slub_debug
        if caches.slab_unmergeable(geometry) or (debug.disable_higher_order and debug.flags & DEBUG_METADATA_FLAGS):
            return geometry.name
        return slab_unique_id(geometry.flags, geometry.size)

    def directories(self) -> dict[str, int]:
        """Return the directories: names and numbers of the caches, oldest first."""
        names: dict[str, int] = {}
        for geometry in reversed(self._machine.caches.list.slab_caches):
            names.setdefault(self._directory_name(geometry), self._machine.caches.index_of(geometry))
        return names

    def links(self) -> dict[str, str]:
        """Return the symbolic links: names of caches, and the directories that they lead to."""
        directories = {index: name for name, index in self.directories().items()}
        links = {}
        for geometry in reversed(self._machine.caches.list.slab_caches):
            name = directories.get(self._machine.caches.index_of(geometry))
            if name is not None and name != geometry.name:
                links[geometry.name] = name
        for alias, index in self._machine.cache_names().items():
            name = directories.get(index)
            if name is not None and name != alias:
                links[alias] = name
        return links

    def listdir(self) -> list[str]:
        """Return all names, directories and links, sorted."""
        return sorted({*self.directories(), *self.links()})

    def directory(self, name: str) -> SlabDirectory:
        """Return a directory by its name or by that of a link.

        Raises
        ------
        UsageError
            There is no such cache.
        """
        directories = self.directories()
        index = directories.get(self.links().get(name, name))
        if index is None:
            raise UsageError(f"no /sys/kernel/slab/{name}", remedy="see m.sys('kernel/slab') for the names")
        return SlabDirectory(self._machine, index)
