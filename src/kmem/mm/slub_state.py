# SPDX-License-Identifier: GPL-2.0-only
"""The state of slab caches as plain data: dump, restore, snapshot and consistency check.

A dump has the shape that recordings of real kernels use, so that the two can be
compared field by field::

    {"cpus": [{"cpu": 0, "slab": SLAB or None, "freelist": [5, 3], "partial": [{"slabs": 2, "s": SLAB}, ...]}],
     "nodes": [{"node": 0, "nr_partial": 1, "nr_slabs": 7, "total_objects": 448, "partial": [SLAB], "full": [4711]}]}

where SLAB is ``{"pfn": 4711, "inuse": 62, "objects": 64, "frozen": 0, "freelist": [9, 4]}``; freelists are
object numbers, first object first, and lists of slabs are in list order.
"""

import cython
import numpy as np
from cython.cimports.kmem.mm.page import (
    MAX_NR_ZONES,
    NO_OBJECT,
    PG_RESERVED,
    PG_SLAB,
    PG_TAIL,
    PGF_HEAD,
    Page,
    list_add_tail,
)
from cython.cimports.kmem.mm.slab import IN_USE, NO_SLAB, WILD, CacheCpu, CacheNode
from cython.cimports.kmem.mm.slub import Slub

from kmem.errors import InputError, StateError

_SLAB_STORE_USER = cython.declare(cython.uint, 0x10000)

# Where validate() met a slab.
_ON_CPU = cython.declare(cython.uchar, 1)
_ON_CPU_PARTIAL = cython.declare(cython.uchar, 2)
_ON_PARTIAL = cython.declare(cython.uchar, 3)
_ON_FULL = cython.declare(cython.uchar, 4)
_IN_GRACE = cython.declare(cython.uchar, 5)


# ---------------------------------------------------------------------- dump


def dump_cache(slub: Slub, cache: cython.uint) -> dict:
    """Return the lists of one cache as plain data; see the module for the shape.

    Linear in the objects of the slabs on the lists.
    """
    slub.check_cache(cache)
    return {
        "cpus": [_dump_cpu(slub, cache, cpu) for cpu in range(slub.nr_cpus)],
        "nodes": [_dump_node(slub, cache, node) for node in range(slub.nr_nodes)],
    }


def dump_slab(slub: Slub, slab: cython.uint) -> dict:
    """Return one slab as plain data."""
    if slab >= slub.memmap.nr_frames or slub.pages[slab].kind != PG_SLAB:
        raise StateError(f"frame {slab} is not the head of a slab")
    return {
        "pfn": slab,
        "inuse": slub.pages[slab].inuse,
        "objects": slub.pages[slab].objects,
        "frozen": slub.pages[slab].frozen,
        "freelist": _freelist(slub, slab, slub.pages[slab].freelist),
    }


def slab_state(slub: Slub, slab: cython.uint, cpu: cython.uint) -> tuple:
    """Return what a recording notes of a slab after an operation on `cpu`.

    Returns
    -------
    tuple of int
        inuse, frozen, CPU slab of `cpu` (-1: none), nr_partial and nr_slabs of the slab's node.
        A frame that is no slab any more gives an empty tuple.
    """
    cache: cython.uint
    node: cython.uint
    if slub.pages[slab].kind != PG_SLAB:
        return ()
    cache = slub.pages[slab].cache
    node = cache * slub.nr_nodes + slub.pages[slab].zone // MAX_NR_ZONES
    current: cython.uint = slub.cpus[cache * slub.nr_cpus + cpu].slab
    return (
        slub.pages[slab].inuse,
        slub.pages[slab].frozen,
        -1 if current == NO_SLAB else current,
        slub.nodes[node].nr_partial,
        slub.nodes[node].nr_slabs,
    )


@cython.cfunc
def _freelist(slub: Slub, slab: cython.uint, first: cython.ushort) -> list:
    """Return the numbers of linked objects; stops after as many as the slab has."""
    index: cython.ushort = first
    slots: cython.uint = slub.pages[slab].slots
    objects: cython.uint = slub.pages[slab].objects
    numbers: list = []
    while index < objects and len(numbers) <= objects:
        numbers.append(index)
        index = slub.links[slots + index]
    return numbers


@cython.cfunc
def _dump_cpu(slub: Slub, cache: cython.uint, cpu: cython.uint) -> dict:
    c: cython.pointer(CacheCpu) = cython.address(slub.cpus[cache * slub.nr_cpus + cpu])
    partial: list = []
    slab: cython.uint = c.partial
    while slab != NO_SLAB:
        partial.append({"slabs": slub.pages[slab].slabs, "s": dump_slab(slub, slab)})
        slab = slub.pages[slab].next
    if c.slab == NO_SLAB:
        return {"cpu": cpu, "slab": None, "freelist": [], "partial": partial}
    return {
        "cpu": cpu,
        "slab": dump_slab(slub, c.slab),
        "freelist": _freelist(slub, c.slab, c.freelist),
        "partial": partial,
    }


@cython.cfunc
def _dump_node(slub: Slub, cache: cython.uint, node: cython.uint) -> dict:
    n: cython.pointer(CacheNode) = cython.address(slub.nodes[cache * slub.nr_nodes + node])
    return {
        "node": node,
        "nr_partial": n.nr_partial,
        "nr_slabs": n.nr_slabs,
        "total_objects": n.total_objects,
        "partial": [dump_slab(slub, slab) for slab in slub.memmap.list_frames(n.partial)],
        "full": slub.memmap.list_frames(n.full),
    }


# ---------------------------------------------------------------------- restore


def restore_cache(slub: Slub, cache: cython.uint, state: dict) -> None:
    """Give a fresh cache the lists that a dump describes.

    Full slabs are on no list, so a dump counts them without showing them; the
    model knows as much: they exist, their objects cannot be freed.

    Parameters
    ----------
    slub : Slub
        The caches; the frames of the slabs must not be free.
    cache : int
        A cache without slabs.
    state : dict
        As :func:`dump_cache` returns it.

    Raises
    ------
    InputError
        If the dump contradicts itself or the machine.
    """
    slub.check_cache(cache)
    name = slub.geometries[cache].name
    known = [0] * slub.nr_nodes
    cpu: cython.uint
    slab: cython.uint
    count: cython.uint
    node: cython.uint
    c: cython.pointer(CacheCpu)
    n: cython.pointer(CacheNode)
    for record in state["cpus"]:
        cpu = record["cpu"]
        if cpu >= cython.cast(cython.uint, slub.nr_cpus):
            raise InputError(f"cache {name}: CPU {cpu} of a machine with {slub.nr_cpus}")
        c = cython.address(slub.cpus[cache * slub.nr_cpus + cpu])
        if record["slab"] is not None:
            slab = _adopt(slub, cache, record["slab"], known)
            _link(slub, cache, slab, record["freelist"])
            c.slab = slab
            c.slots = slub.pages[slab].slots
            c.freelist = record["freelist"][0] if record["freelist"] else NO_OBJECT
        for entry in reversed(record["partial"]):
            slab = _adopt(slub, cache, entry["s"], known)
            slub.pages[slab].slabs = entry["slabs"]
            slub.pages[slab].next = c.partial
            c.partial = slab
    for record in state["nodes"]:
        node = record["node"]
        if node >= cython.cast(cython.uint, slub.nr_nodes):
            raise InputError(f"cache {name}: node {node} of a machine with {slub.nr_nodes}")
        n = cython.address(slub.nodes[cache * slub.nr_nodes + node])
        for entry in record["partial"]:
            slab = _adopt(slub, cache, entry, known)
            list_add_tail(slub.pages, n.partial, slab)
        for pfn in record["full"]:
            objects = slub.geometries[cache].objects
            full = {"pfn": pfn, "inuse": objects, "objects": objects, "frozen": 0, "freelist": []}
            slab = _adopt(slub, cache, full, known)
            list_add_tail(slub.pages, n.full, slab)
        n.nr_partial = record["nr_partial"]
        n.nr_slabs = record["nr_slabs"]
        n.total_objects = record["total_objects"]
        if n.nr_partial != cython.cast(cython.uint, len(record["partial"])):
            raise InputError(
                f"cache {name}, node {node}: {len(record['partial'])} partial slabs, nr_partial {n.nr_partial}"
            )
    for record in state["nodes"]:
        node = record["node"]
        count = known[node]
        if record["nr_slabs"] < count:
            raise InputError(f"cache {name}, node {node}: {count} slabs shown, nr_slabs {record['nr_slabs']}")
        slub.nodes[cache * slub.nr_nodes + node].unseen = record["nr_slabs"] - count


def adopt_full_slab(slub: Slub, cache: cython.uint, pfn: cython.uint, objects: cython.uint) -> None:
    """Make frames that a dump counts a full slab of a cache, on no list, its objects free to be freed.

    Raises
    ------
    InputError
        If the frames are in use already, or the cache has no slab left that is not shown.
    """
    known = [0] * slub.nr_nodes
    node: cython.uint = slub.pages[pfn].zone // MAX_NR_ZONES
    n: cython.pointer(CacheNode) = cython.address(slub.nodes[cache * slub.nr_nodes + node])
    if n.unseen == 0:
        raise InputError(f"cache {slub.geometries[cache].name}: slab {pfn} is more than nr_slabs")
    _adopt(slub, cache, {"pfn": pfn, "inuse": objects, "objects": objects, "frozen": 0, "freelist": []}, known)
    n.unseen -= 1


def next_objects(slub: Slub, cache: cython.uint, count: cython.uint) -> list:
    """Addresses of the objects that the current CPU's freelist hands out next, `count` at most."""
    c: cython.pointer(CacheCpu) = cython.address(slub.cpus[cache * slub.nr_cpus + slub.allocator.cpu])
    index: cython.ushort = c.freelist
    addresses = []
    while index != NO_OBJECT and len(addresses) < count:
        addresses.append(slub.object_address(cache, c.slab, index))
        index = slub.links[c.slots + index]
    return addresses


def take_object(slub: Slub, address: cython.ulonglong) -> bool:
    """Hand out one certain free object, wherever its slab is; False if it is not a free object of a slab.

    For a replay that takes a recorded answer over. Other objects keep their order.
    """
    slab: cython.uint = slub.slab_of(address)
    if slab == NO_SLAB:
        return False
    page: cython.pointer(Page) = cython.address(slub.pages[slab])
    cache: cython.uint = page.cache
    index: cython.ushort = slub.where(address)[1]
    c: cython.pointer(CacheCpu)
    cpu: cython.uint
    if index >= page.objects or slub.object_address(cache, slab, index) != address:
        return False
    if slub.links[page.slots + index] == IN_USE:
        return False
    for cpu in range(slub.nr_cpus):
        c = cython.address(slub.cpus[cache * slub.nr_cpus + cpu])
        if c.slab == slab and _unlink(slub, slab, cython.address(c.freelist), index):
            return True
    if not _unlink(slub, slab, cython.address(page.freelist), index):
        return False
    page.inuse += 1
    if page.freelist == NO_OBJECT and (not page.frozen or leave_cpu_partial(slub, slab)):
        if not page.frozen:
            slub.remove_partial(cache, slab)
        page.frozen = 0
        slub.add_full(cache, slab)
    return True


def leave_cpu_partial(slub: Slub, slab: cython.uint) -> bool:
    """Take a slab off the per-CPU partial list that it is on, still frozen; False if it is on none."""
    c: cython.pointer(CacheCpu)
    cpu: cython.uint
    entry: cython.uint
    before: cython.uint
    for cpu in range(slub.nr_cpus):
        c = cython.address(slub.cpus[slub.pages[slab].cache * slub.nr_cpus + cpu])
        before = NO_SLAB
        entry = c.partial
        while entry != NO_SLAB and entry != slab:
            before = entry
            entry = slub.pages[entry].next
        if entry == NO_SLAB:
            continue
        entry = c.partial
        while entry != slab:  # each says how many there are from it on
            slub.pages[entry].slabs -= 1
            entry = slub.pages[entry].next
        if before == NO_SLAB:
            c.partial = slub.pages[slab].next
        else:
            slub.pages[before].next = slub.pages[slab].next
        return True
    return False


def evict_slab(slub: Slub, slab: cython.uint) -> None:
    """Free the objects of a slab that are in use, and give its pages back, whoever has it.

    For a replay that takes a recorded answer over. The pages of a SLAB_TYPESAFE_BY_RCU cache still wait.
    """
    cache: cython.uint = slub.pages[slab].cache
    index: cython.ushort
    cpu: cython.int
    for index in range(slub.pages[slab].objects):
        if slub.links[slub.pages[slab].slots + index] == IN_USE:
            slub.slab_free(slub.object_address(cache, slab, index))
            if _gone(slub, slab):
                return
    for cpu in range(slub.nr_cpus):
        if slub.cpus[cache * slub.nr_cpus + cpu].slab == slab:
            slub.flush_slab(cache, cpu)
            if _gone(slub, slab):
                return
    if slub.pages[slab].frozen:
        leave_cpu_partial(slub, slab)
    else:
        slub.remove_partial(cache, slab)
    slub.discard_slab(cache, slab)


def waits(slub: Slub, slab: cython.uint) -> bool:
    """Whether a slab waits for a grace period."""
    waiting: cython.uint = slub.rcu_first
    while waiting != NO_SLAB and waiting != slab:
        waiting = slub.pages[waiting].next
    return waiting == slab


def _gone(slub: Slub, slab: cython.uint) -> bool:
    """Whether a slab has been given back, or waits for that."""
    return slub.pages[slab].kind != PG_SLAB or waits(slub, slab)


@cython.cfunc
@cython.exceptval(-1, check=True)
def _unlink(slub: Slub, slab: cython.uint, head: cython.pointer(cython.ushort), index: cython.ushort) -> cython.bint:
    """Take an object out of a freelist, if it is in it."""
    slots: cython.uint = slub.pages[slab].slots
    at: cython.ushort = head[0]
    if at == index:
        head[0] = slub.links[slots + index]
        slub.links[slots + index] = IN_USE
        return True
    while at != NO_OBJECT:
        if slub.links[slots + at] == index:
            slub.links[slots + at] = slub.links[slots + index]
            slub.links[slots + index] = IN_USE
            return True
        at = slub.links[slots + at]
    return False


@cython.cfunc
def _adopt(slub: Slub, cache: cython.uint, record: dict, known: list) -> cython.uint:
    """Make frames a slab of a cache, as `record` says."""
    geometry = slub.geometries[cache]
    where = f"cache {geometry.name}, slab {record['pfn']}"
    objects = record["objects"]
    if objects != geometry.objects and objects != geometry.min_objects:
        raise InputError(f"{where}: {objects} objects, the cache has {geometry.objects} or {geometry.min_objects}")
    order: cython.uint = geometry.order if objects == geometry.objects else geometry.min_order
    if record["inuse"] + len(record["freelist"]) != objects:
        raise InputError(f"{where}: {record['inuse']} of {objects} in use, but {len(record['freelist'])} free")
    if not 0 <= record["pfn"] <= slub.memmap.nr_frames - (1 << order):
        raise InputError(f"{where}: beyond the end of memory")
    slab: cython.uint = record["pfn"]
    tail: cython.uint
    for tail in range(slab, slab + (cython.cast(cython.uint, 1) << order)):
        if slub.pages[tail].kind != PG_RESERVED:
            raise InputError(f"{where}: frame {tail} is free, or in another slab")
    slub.pages[slab].kind = PG_SLAB
    slub.pages[slab].order = order
    slub.pages[slab].flags = PGF_HEAD if order else 0
    for tail in range(slab + 1, slab + (cython.cast(cython.uint, 1) << order)):
        slub.pages[tail].kind = PG_TAIL
        slub.pages[tail].head = slab
    slub.pages[slab].cache = cache
    slub.pages[slab].objects = objects
    slub.pages[slab].inuse = record["inuse"]
    slub.pages[slab].frozen = record["frozen"]
    slub.pages[slab].slots = slub.alloc_links(objects)
    n: cython.uint
    for n in range(slub.pages[slab].objects):
        slub.links[slub.pages[slab].slots + n] = IN_USE
    _link(slub, cache, slab, record["freelist"])
    slub.pages[slab].freelist = record["freelist"][0] if record["freelist"] else NO_OBJECT
    known[slub.pages[slab].zone // MAX_NR_ZONES] += 1
    return slab


@cython.cfunc
def _link(slub: Slub, cache: cython.uint, slab: cython.uint, numbers: list) -> cython.int:
    """Link objects that are in use so far into a freelist."""
    slots: cython.uint = slub.pages[slab].slots
    after: cython.uint = NO_OBJECT
    for number in reversed(numbers):
        if not 0 <= number < slub.pages[slab].objects or slub.links[slots + number] != IN_USE:
            raise InputError(
                f"cache {slub.geometries[cache].name}, slab {slab}: freelist names object {number} twice or has no such"
            )
        slub.links[slots + number] = after
        after = number
    return 0


# ---------------------------------------------------------------------- snapshot


def save_state(slub: Slub) -> dict:
    """Return a copy of all state of the caches but the page array: arrays and numbers by name."""
    return {
        "caches": slub.caches_array.copy(),
        "nodes": slub.nodes_array.copy(),
        "cpus": slub.cpus_array.copy(),
        "links": slub.links_array.copy(),
        "chunks": slub.chunks_array.copy(),
        "sequences": slub.sequences_array.copy(),
        "kmalloc": slub.kmalloc_array.copy(),
        "geometries": dict(slub.geometries),
        "free_indexes": list(slub.free_indexes),
        "numbers": (
            slub.nr_caches,
            slub.links_end,
            slub.sequences_end,
            slub.rcu_first,
            slub.rcu_last,
            slub.rcu_pending,
            slub.random_state,
            slub.start_object,
            slub.shuffled_slabs,
        ),
    }


def load_state(slub: Slub, state: dict) -> None:
    """Go back to a state that :func:`save_state` returned. The page array is the caller's to restore, beforehand.

    Bytes are not part of a state: what objects in use hold stays, free pointers and debugging bytes around
    them are written anew.
    """
    slub.caches_array = state["caches"].copy()
    slub.nodes_array = state["nodes"].copy()
    slub.cpus_array = state["cpus"].copy()
    slub.links_array = state["links"].copy()
    slub.chunks_array = state["chunks"].copy()
    slub.sequences_array = state["sequences"].copy()
    slub.kmalloc_array[:] = state["kmalloc"]
    slub.geometries = dict(state["geometries"])
    slub.free_indexes = list(state["free_indexes"])
    (
        slub.nr_caches,
        slub.links_end,
        slub.sequences_end,
        slub.rcu_first,
        slub.rcu_last,
        slub.rcu_pending,
        slub.random_state,
        slub.start_object,
        slub.shuffled_slabs,
    ) = state["numbers"]
    slub.reattach()
    if slub.checker is not None:
        slub.checker.adopt_slabs()


# ---------------------------------------------------------------------- validate


def validate_caches(slub: Slub) -> None:
    """Check every slab and list of every cache. Linear in frames and objects.

    Raises
    ------
    StateError
        Naming cache, slab and what contradicts what.
    """
    place_array = np.zeros(slub.memmap.nr_frames, np.uint8)
    place: cython.uchar[::1] = place_array
    counted = np.zeros(max(1, slub.nr_caches * slub.nr_nodes), np.int64)
    objects = np.zeros_like(counted)
    cache: cython.uint
    cpu: cython.uint
    node: cython.uint
    for cache in range(slub.nr_caches):
        if not slub.caches[cache].live:
            continue
        for cpu in range(slub.nr_cpus):
            _check_cpu(slub, cache, cpu, place)
        for node in range(slub.nr_nodes):
            _check_node(slub, cache, node, place)
    slab: cython.uint = slub.rcu_first
    while slab != NO_SLAB:
        _meet(slub, slab, _IN_GRACE, place)
        slab = slub.pages[slab].next
    _check_frames(slub, place, counted, objects)
    for cache in range(slub.nr_caches):
        if slub.caches[cache].live:
            for node in range(slub.nr_nodes):
                _check_counts(slub, cache, node, counted, objects)


@cython.cfunc
def _fail(slub: Slub, slab: cython.uint, message: str) -> cython.int:
    cache = slub.pages[slab].cache
    geometry = slub.geometries.get(cache)
    raise StateError(f"cache {geometry.name if geometry else cache}, slab {slab}: {message}")


@cython.cfunc
def _meet(slub: Slub, slab: cython.uint, where: cython.uchar, place: cython.uchar[::1]) -> cython.int:
    """Note where a slab is; it can be in one place only, and must be consistent in itself."""
    if slub.pages[slab].kind != PG_SLAB:
        raise StateError(f"frame {slab}: on a list of slabs, but not a slab")
    if place[slab]:
        _fail(slub, slab, "on two lists")
    place[slab] = where
    return 0


@cython.cfunc
def _count_free(slub: Slub, slab: cython.uint, first: cython.ushort) -> cython.uint:
    """Count the objects of a freelist; an impossible one raises."""
    slots: cython.uint = slub.pages[slab].slots
    objects: cython.uint = slub.pages[slab].objects
    index: cython.ushort = first
    count: cython.uint = 0
    while index < WILD:
        if index >= objects or count == objects:
            _fail(slub, slab, f"freelist goes astray at object {index}")
        count += 1
        index = slub.links[slots + index]
    return count


@cython.cfunc
def _check_slab(slub: Slub, slab: cython.uint, cpu_objects: cython.uint, frozen: cython.bint) -> cython.int:
    """Check one slab: free and used objects add up, and it is frozen exactly if it should be."""
    if slub.checker is not None and slab in slub.checker.damaged:
        return 0  # its owner overwrote what the counts are about
    free: cython.uint = _count_free(slub, slab, slub.pages[slab].freelist)
    used: cython.uint = 0
    n: cython.uint
    objects: cython.uint = slub.pages[slab].objects
    for n in range(objects):
        used += slub.links[slub.pages[slab].slots + n] == IN_USE
    if slub.pages[slab].inuse + free != objects:
        _fail(slub, slab, f"{slub.pages[slab].inuse} of {objects} objects in use, but {free} on the freelist")
    if used + cpu_objects != slub.pages[slab].inuse:
        _fail(slub, slab, f"{used} objects handed out and {cpu_objects} with the CPU, inuse {slub.pages[slab].inuse}")
    if slub.pages[slab].frozen != frozen:
        _fail(slub, slab, "frozen, but of no CPU" if slub.pages[slab].frozen else "of a CPU, but not frozen")
    return 0


@cython.cfunc
def _check_cpu(slub: Slub, cache: cython.uint, cpu: cython.uint, place: cython.uchar[::1]) -> cython.int:
    c: cython.pointer(CacheCpu) = cython.address(slub.cpus[cache * slub.nr_cpus + cpu])
    slab: cython.uint = c.slab
    rest: cython.uint
    if slab == NO_SLAB and c.freelist != NO_OBJECT:
        raise StateError(f"cache {slub.geometries[cache].name}, CPU {cpu}: a freelist without a slab")
    if slab != NO_SLAB:
        _meet(slub, slab, _ON_CPU, place)
        if slub.pages[slab].cache != cache or slub.pages[slab].slots != c.slots or slub.caches[cache].debug:
            _fail(slub, slab, f"not a slab that CPU {cpu} can own")
        _check_slab(slub, slab, _count_free(slub, slab, c.freelist), True)
    slab = c.partial
    while slab != NO_SLAB:
        _meet(slub, slab, _ON_CPU_PARTIAL, place)
        _check_slab(slub, slab, 0, True)
        rest = slub.pages[slab].slabs
        if slub.pages[slab].cache != cache or slub.pages[slab].freelist == NO_OBJECT:
            _fail(slub, slab, f"full or foreign, on the partial list of CPU {cpu}")
        slab = slub.pages[slab].next
        if rest != (0 if slab == NO_SLAB else cython.cast(cython.uint, slub.pages[slab].slabs)) + 1:
            raise StateError(f"cache {slub.geometries[cache].name}, CPU {cpu}: partial list miscounted ({rest})")
    return 0


@cython.cfunc
def _check_node(slub: Slub, cache: cython.uint, node: cython.uint, place: cython.uchar[::1]) -> cython.int:
    n: cython.pointer(CacheNode) = cython.address(slub.nodes[cache * slub.nr_nodes + node])
    slab: cython.uint
    count: cython.uint = 0
    for entry in slub.memmap.list_frames(n.partial):
        slab = entry
        _meet(slub, slab, _ON_PARTIAL, place)
        _check_slab(slub, slab, 0, False)
        if slub.pages[slab].freelist == NO_OBJECT and (slub.checker is None or slab not in slub.checker.damaged):
            _fail(slub, slab, "full, on the partial list")
        if slub.pages[slab].cache != cache or slub.pages[slab].zone // MAX_NR_ZONES != node:
            _fail(slub, slab, f"on the partial list of another cache or node ({node})")
        count += 1
    if count != n.nr_partial:
        raise StateError(f"cache {slub.geometries[cache].name}, node {node}: nr_partial {n.nr_partial}, listed {count}")
    for entry in slub.memmap.list_frames(n.full):
        slab = entry
        _meet(slub, slab, _ON_FULL, place)
        _check_slab(slub, slab, 0, False)
        if slub.pages[slab].freelist != NO_OBJECT or not slub.caches[cache].flags & _SLAB_STORE_USER:
            _fail(slub, slab, "not a full slab of a cache that lists them")
    return 0


@cython.cfunc
def _check_frames(slub: Slub, place: cython.uchar[::1], counted: object, objects: object) -> cython.int:
    """Count the slabs by a look at every frame; one that is on no list must be full."""
    slab: cython.uint
    cache: cython.uint
    at: cython.uint
    tail: cython.uint
    totals: cython.long[::1] = counted
    sums: cython.long[::1] = objects
    for slab in range(slub.memmap.nr_frames):
        if slub.pages[slab].kind != PG_SLAB:
            continue
        cache = slub.pages[slab].cache
        if cache >= slub.nr_caches or not slub.caches[cache].live:
            raise StateError(f"frame {slab}: a slab of cache {cache}, which does not exist")
        for tail in range(slab + 1, slab + (cython.cast(cython.uint, 1) << slub.pages[slab].order)):
            if slub.pages[tail].kind != PG_TAIL or slub.pages[tail].head != slab:
                _fail(slub, slab, f"frame {tail} should be its tail")
        if place[slab] == _IN_GRACE:
            continue
        if not place[slab]:
            _check_slab(slub, slab, 0, False)
            if slub.checker is not None and slab in slub.checker.damaged:
                pass  # taken off its list for good
            elif slub.pages[slab].freelist != NO_OBJECT or slub.caches[cache].flags & _SLAB_STORE_USER:
                _fail(slub, slab, "on no list, and should be on one")
        at = cache * slub.nr_nodes + slub.pages[slab].zone // MAX_NR_ZONES
        totals[at] += 1
        sums[at] += slub.pages[slab].objects
    return 0


@cython.cfunc
def _check_counts(slub: Slub, cache: cython.uint, node: cython.uint, counted: object, objects: object) -> cython.int:
    n: cython.pointer(CacheNode) = cython.address(slub.nodes[cache * slub.nr_nodes + node])
    where = f"cache {slub.geometries[cache].name}, node {node}"
    seen = int(counted[cache * slub.nr_nodes + node])
    if n.nr_slabs != seen + n.unseen:
        raise StateError(f"{where}: nr_slabs {n.nr_slabs}, but {seen} slabs in memory and {n.unseen} unseen")
    if not n.unseen and n.total_objects != int(objects[cache * slub.nr_nodes + node]):
        raise StateError(
            f"{where}: total_objects {n.total_objects}, but the slabs have {objects[cache * slub.nr_nodes + node]}"
        )
    return 0
