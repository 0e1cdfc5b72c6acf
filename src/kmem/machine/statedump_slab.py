# SPDX-License-Identifier: GPL-2.0-only
"""Slab caches from a recorded state dump.

``mycache`` records describe the caches that a recording made itself, ``cache``
records all caches of the kernel; both carry the fields of ``struct kmem_cache``
and, in full dumps, the lists of each CPU and node.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from kmem.errors import InputError, KmemError
from kmem.machine.records import Record
from kmem.machine.statedump import StateDump
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.slab_common import CacheGeometry
from kmem.mm.slub import Slub
from kmem.mm.slub_state import restore_cache

__all__ = ["SlabCaches", "cache_lists", "geometry_of", "load_slub"]

_FLAG_FIELDS = ("flags", "allocflags")
_BOOL_FIELDS = ("ctor", "has_random_seq")
_SLAB_KMALLOC = 0x1000


def geometry_of(record: Record) -> CacheGeometry:
    """Return the geometry that a cache record describes.

    Raises
    ------
    KeyError, ValueError, TypeError
        If a field is missing or no number.
    """
    values: dict[str, Any] = {}
    for field in fields(CacheGeometry):
        value = record[field.name]
        if field.name in _FLAG_FIELDS:
            value = int(value, 16)
        elif field.name in _BOOL_FIELDS:
            value = bool(value)
        elif field.name != "name" and not isinstance(value, int):
            raise ValueError(f"{field.name} of cache {record['name']} is {value!r}")
        values[field.name] = value
    return CacheGeometry(**values)


def cache_lists(record: Record, cpu: int = 0) -> dict[str, Any]:
    """Return the lists of a full cache record in the shape of :func:`kmem.mm.slub_state.dump_cache`.

    A record that shows one CPU only shows the one that the dump was taken on, `cpu`.
    """
    cpus = record.get("cpus")
    if cpus is None:
        cpus = [{"cpu": cpu, **record["cpu"]}]
    return {"cpus": cpus, "nodes": record["nodes"]}


class SlabCaches:
    """The caches of a recorded machine, by the names that recordings use.

    Attributes
    ----------
    slub : Slub
        The model.
    cpu : int
        The CPU that the recorded state was dumped on.
    by_ptr : dict of str to int
        Index of the cache at a recorded address of ``struct kmem_cache``.
    by_cid : dict of int to int
        Index of the cache that a recording calls by this number.
    shared : set of int
        Caches that the recorded kernel uses too.
    """

    def __init__(self, slub: Slub, cpu: int = 0) -> None:
        self.slub = slub
        self.cpu = cpu
        self.by_ptr: dict[str, int] = {}
        self.by_cid: dict[int, int] = {}
        self.shared: set[int] = set()

    def add(self, record: Record) -> int:
        """Make the cache of a full record, unless another record of this address made it; return its index.

        Raises
        ------
        InputError
            If the record contradicts itself or the machine.
        """
        ptr = record["ptr"]
        index = self.by_ptr.get(ptr)
        if index is None:
            if "nodes" not in record:
                raise InputError(f"cache {record['name']}: no lists of slabs in its record")
            index = self.slub.kmem_cache_create(geometry_of(record), record.get("random_seq"))
            self.by_ptr[ptr] = index
            restore_cache(self.slub, index, cache_lists(record, self.cpu))
        if "cid" in record:
            self.by_cid[record["cid"]] = index
        if (
            record.get("t") == "cache"
            or record["name"] != record.get("asked", record["name"])
            or record["refcount"] > 1
        ):
            self.shared.add(index)
        return index


def load_slub(dump: StateDump, allocator: PageAllocator) -> SlabCaches:
    """Start the slab caches of a recorded state on its page allocator.

    Parameters
    ----------
    dump : StateDump
        With full cache records.
    allocator : PageAllocator
        As :func:`kmem.machine.statedump.load_page_allocator` made it from the same dump.

    Raises
    ------
    InputError
        If a record contradicts itself or the machine.
    """
    caches = SlabCaches(Slub(allocator), dump.cpu)
    try:
        # The kernel lists its caches newest first; here the oldest comes first.
        for record in (*reversed(list(dump.of("cache"))), *dump.of("mycache")):
            caches.add(record)
        kmalloc = {
            str(record["name"]): caches.by_ptr[record["ptr"]]
            for record in dump.of("cache")
            if int(record["flags"], 16) & _SLAB_KMALLOC
        }
        for record in dump.of("kmalloc_cache"):
            if record["name"] is None:
                continue
            if record["name"] not in kmalloc:
                raise ValueError(f"no cache record for the kmalloc cache {record['name']}")
            caches.slub.set_kmalloc_cache(record["type"], record["index"], kmalloc[record["name"]])
    except KmemError as error:
        raise error.at(file=dump.file, line=dump.line) from None
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"caches of state dump {dump.name!r}: {what}", file=dump.file, line=dump.line) from None
    return caches
