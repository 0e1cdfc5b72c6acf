# SPDX-License-Identifier: GPL-2.0-only
"""Random slab operations through the naive SLUB and the compiled one; see `driver`.

Where a shuffled free list starts is chance, so an operation carries it: `start` names the object that a new slab hands
out first (modulo the objects of the smallest slab), and both models are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from kmem.errors import StateError
from kmem.mm.slab_common import CacheGeometry
from kmem.mm.slub import Slub
from kmem.mm.slub_state import slab_state

from .driver import Difference, Op, Pair, special
from .naive_slub import KMALLOC_MAX_CACHE_SIZE, Cache, NaiveSlub, Object
from .recording import shown_state

PAGE_SIZE = 4096
CACHES_EVERY = 500  # operations between comparisons of all caches' lists

SLAB_CONSISTENCY_CHECKS, SLAB_RED_ZONE, SLAB_POISON, SLAB_STORE_USER = 0x100, 0x400, 0x800, 0x10000
SLAB_CACHE_DMA, SLAB_RECLAIM_ACCOUNT, SLAB_TYPESAFE_BY_RCU = 0x4000, 0x20000, 0x80000

# (object size, preferred order, flags, mask added to slab allocations)
KINDS: tuple[tuple[int, int, int, int], ...] = (
    (64, 0, 0, 0),
    (256, 0, 0, 0),
    (320, 1, 0, 0),
    (1024, 2, 0, 0),
    (2048, 3, 0, 0),
    (4096, 3, 0, 0),
    (8192, 3, 0, 0),
    (512, 1, SLAB_RECLAIM_ACCOUNT, 0x10),
    (192, 0, SLAB_CACHE_DMA, 0x1),
    (704, 2, SLAB_TYPESAFE_BY_RCU, 0),
    (136, 0, SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER, 0),
    (512, 1, SLAB_CONSISTENCY_CHECKS, 0),
    (1280, 3, SLAB_POISON | SLAB_STORE_USER, 0),
)
ALL = range(len(KINDS))
LARGE = [number for number, kind in enumerate(KINDS) if kind[0] >= 700]  # few objects in a slab: many slabs
MASKS = (0xCC0, 0x8C0, 0x8C0, 0xA20, 0xA20, 0x800, 0x208C0, 0x10CC0, 0x2008C0, 0x80A20, 0x4CC0)
KMALLOC_MASKS = (0xCC0, 0x8C0, 0xA20, 0x8C1, 0x8D0, 0x4008C0, 0x4008D1, 0x208C0)
KMALLOC_SIZES = {1: 96, 2: 192} | {index: 1 << index for index in range(3, 14)}
KMALLOC_ALLOCFLAGS = (0, 0, 0x10, 0x1)  # normal, cgroup, reclaimable, DMA


def geometry(name: str, rng: Random, size: int, order: int, flags: int, allocflags: int) -> CacheGeometry:
    """A cache's record; the limits are drawn."""
    min_order = ((size - 1) // PAGE_SIZE).bit_length()
    order = max(order, min_order)
    debug = flags & (SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER | SLAB_CONSISTENCY_CHECKS)
    objects = (PAGE_SIZE << order) // size
    slabs = 0 if debug else rng.choice((1, 1, 2, 4, 7))
    return CacheGeometry(
        name=name,
        object_size=size,
        size=size,
        align=8,
        inuse=size,
        offset=0,
        red_left_pad=0,
        flags=flags | 0x40000000,
        order=order,
        objects=objects,
        min_order=min_order,
        min_objects=(PAGE_SIZE << min_order) // size,
        min_partial=rng.choice((0, 1, 2, 5)),
        cpu_partial=slabs * objects // 2,
        cpu_partial_slabs=slabs,
        useroffset=0,
        usersize=0,
        refcount=1,
        ctor=False,
        allocflags=allocflags | (0x40000 if order else 0),
        remote_ratio=1000,
        has_random_seq=rng.random() < 0.6,
    )


@dataclass
class SlubPair(Pair):
    """Both SLUBs over both page allocators, with the same caches."""

    slub_model: type[NaiveSlub] = NaiveSlub
    objects: dict[int, list[Object]] = field(default_factory=dict)
    kind: ClassVar[str] = "slub"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.start = 0
        self.naive_slub = self.slub_model(self.naive, nr_nodes=self.shape.nr_nodes, random_start=self.random_start)
        self.slub = Slub(self.compiled)
        self.caches: list[Cache] = []
        self.indexes: list[int] = []
        rng = Random(f"caches {self.shape.name} {self.seed}")
        for number, (size, order, flags, allocflags) in enumerate(KINDS):
            self.add_cache(rng, geometry(f"cache{number}", rng, size, order, flags, allocflags))
        self.add_kmalloc_caches(rng)

    def add_cache(self, rng: Random, shape: CacheGeometry) -> None:
        sequence = rng.sample(range(shape.objects), shape.objects) if shape.has_random_seq else None
        self.indexes.append(self.slub.kmem_cache_create(shape, sequence))
        names = ("name", "size", "order", "objects", "min_order", "min_objects", "min_partial", "cpu_partial_slabs")
        fields = {name: getattr(shape, name) for name in (*names, "flags", "allocflags")}
        self.caches.append(self.naive_slub.new_cache(**fields, random_seq=sequence))

    def add_kmalloc_caches(self, rng: Random) -> None:
        self.naive_slub.kmalloc_caches = [[None] * 14 for _ in KMALLOC_ALLOCFLAGS]
        for kind, allocflags in enumerate(KMALLOC_ALLOCFLAGS):
            for index, size in KMALLOC_SIZES.items():
                order = rng.choice((0, 1, 3)) if size >= 256 else 0
                self.add_cache(rng, geometry(f"kmalloc-{kind}-{size}", rng, size, order, 0, allocflags))
                self.naive_slub.kmalloc_caches[kind][index] = self.caches[-1]
                self.slub.set_kmalloc_cache(kind, index, self.indexes[-1])

    def random_start(self, cache: Cache) -> int:
        assert cache.random_seq is not None
        return cache.random_seq.index(self.start % cache.min_objects)

    # ---- operations

    def compiled_object(self, address: int | None) -> Object | None:
        return None if address is None else self.slub.where(address)

    def kmalloc_object(self, address: int | None) -> Object | None:
        """The same for kmalloc, where it may be pages of its own."""
        if address is not None and self.slub.large_order(address) >= 0:
            return address // PAGE_SIZE, -1
        return self.compiled_object(address)

    def is_kmalloc(self, one: Object) -> bool:
        pfn, number = one
        return number < 0 or self.naive_slub.slabs[pfn].cache.name.startswith("kmalloc")

    def smallest(self, size: int, gfp: int) -> int:
        """Objects in the smallest slab of the cache that kmalloc takes."""
        if size > KMALLOC_MAX_CACHE_SIZE:
            return 1
        cache = self.naive_slub.kmalloc_caches[self.naive_slub.kmalloc_type(gfp)][self.naive_slub.kmalloc_index(size)]
        assert cache is not None
        return cache.min_objects

    def address(self, one: Object) -> int:
        pfn, number = one
        size = self.naive_slub.slabs[pfn].cache.size
        return pfn * PAGE_SIZE + number * size

    def op_k(self, slot: int, cache: int, gfp: int, cpu: int, node: int | None, start: int) -> bool:
        """kmem_cache_alloc."""
        if slot in self.objects:
            return False
        self.on(cpu)
        self.start = start
        self.slub.start_object = start % self.caches[cache].min_objects
        naive = self.naive_slub.kmem_cache_alloc(self.caches[cache], gfp, cpu, node)
        address = self.slub.kmem_cache_alloc(self.indexes[cache], gfp, -1 if node is None else node)
        self.same(("k", slot, cache, hex(gfp), cpu, node, start), naive, self.compiled_object(address))
        if naive is not None:
            self.objects[slot] = [naive]
            self.compare_slab(naive[0], cpu)
        return True

    def op_K(self, slot: int, cpu: int) -> bool:
        """kmem_cache_free, or kfree, of what the slot holds, one after the other."""
        if slot not in self.objects:
            return False
        self.on(cpu)
        for pfn, number in self.objects.pop(slot):
            if number < 0:
                self.naive_slub.kfree(pfn, number, cpu)
                self.slub.kfree(pfn * PAGE_SIZE)
                continue
            address = self.address((pfn, number))
            cache = self.caches.index(self.naive_slub.slabs[pfn].cache)
            self.naive_slub.kmem_cache_free(pfn, number, cpu)
            self.slub.kmem_cache_free(self.indexes[cache], address)
            self.compare_slab(pfn, cpu)
        return True

    def op_kb(self, slot: int, cache: int, gfp: int, count: int, cpu: int, start: int) -> bool:
        """kmem_cache_alloc_bulk."""
        if slot in self.objects:
            return False
        self.on(cpu)
        self.start = start
        self.slub.start_object = start % self.caches[cache].min_objects
        naive = self.naive_slub.kmem_cache_alloc_bulk(self.caches[cache], gfp, count, cpu)
        addresses = self.slub.kmem_cache_alloc_bulk(self.indexes[cache], gfp, count)
        self.same(
            ("kb", slot, cache, hex(gfp), count, cpu, start), naive, [self.slub.where(address) for address in addresses]
        )
        if naive:
            self.objects[slot] = naive
        return True

    def op_Kb(self, slots: tuple[int, ...], cpu: int) -> bool:
        """kmem_cache_free_bulk of all objects of several slots."""
        taken = [slot for slot in slots if slot in self.objects and self.objects[slot][0][1] >= 0]
        if not taken:
            return False
        self.on(cpu)
        objects = [one for slot in taken for one in self.objects.pop(slot)]
        addresses = [self.address(one) for one in objects]
        self.naive_slub.kmem_cache_free_bulk(objects, cpu)
        self.slub.kmem_cache_free_bulk(addresses)
        return True

    def op_m(self, slot: int, size: int, gfp: int, cpu: int, start: int) -> bool:
        """kmalloc."""
        if slot in self.objects:
            return False
        self.on(cpu)
        self.start = start
        self.slub.start_object = start % self.smallest(size, gfp)
        naive = self.naive_slub.kmalloc(size, gfp, cpu)
        self.same(("m", slot, size, hex(gfp), cpu, start), naive, self.kmalloc_object(self.slub.kmalloc(size, gfp)))
        if naive is not None:
            self.objects[slot] = [naive]
        return True

    def op_z(self, slot: int, size: int, gfp: int, cpu: int, start: int) -> bool:
        """krealloc, of what `m` gave."""
        held = self.objects.get(slot)
        if held is None or len(held) != 1 or not self.is_kmalloc(held[0]):
            return False
        self.on(cpu)
        self.start = start
        self.slub.start_object = start % self.smallest(size, gfp)
        pfn, number = held[0]
        old = pfn * PAGE_SIZE if number < 0 else self.address(held[0])
        self.same(("ksize", slot), self.naive_slub.ksize(held[0]), self.slub.ksize(old))
        naive = self.naive_slub.krealloc(held[0], size, gfp, cpu)
        self.same(
            ("z", slot, size, hex(gfp), cpu, start), naive, self.kmalloc_object(self.slub.krealloc(old, size, gfp))
        )
        if naive is not None:
            self.objects[slot] = [naive]
        return True

    def op_destroy(self, cache: int, cpu: int) -> bool:
        """kmem_cache_destroy; if it can be done, the same cache is made again."""
        self.on(cpu)
        made = self.slub.geometries[self.indexes[cache]]
        old = self.caches[cache]
        naive = self.naive_slub.kmem_cache_destroy(old, cpu)
        self.same(("destroy", cache, cpu), naive, self.slub.kmem_cache_destroy(self.indexes[cache]))
        if naive:
            self.indexes[cache] = self.slub.kmem_cache_create(made, old.random_seq)
        return True

    def op_shrink(self, cache: int, cpu: int) -> bool:
        """kmem_cache_shrink."""
        self.on(cpu)
        naive = self.naive_slub.kmem_cache_shrink(self.caches[cache], cpu)
        compiled = self.slub.kmem_cache_shrink(self.indexes[cache])
        self.same(("shrink", cache, cpu), naive, bool(compiled))
        return True

    def op_rcu(self, cpu: int) -> bool:
        """rcu_barrier."""
        self.on(cpu)
        self.naive_slub.rcu_barrier(cpu)
        self.slub.rcu_barrier()
        return True

    # ---- comparisons

    def apply(self, op: Op) -> None:
        super().apply(op)
        if self.count % CACHES_EVERY == 0:
            self.compare_caches()

    def check_sound(self, op: Op) -> None:
        super().check_sound(op)
        try:
            self.slub.validate()
        except StateError as error:
            raise Difference(f"{op}: {error}") from error

    def compare_slab(self, pfn: int, cpu: int) -> None:
        """What a recording tells of a slab after an operation."""
        slab = self.naive_slub.slabs.get(pfn)
        if slab is None:
            return
        c, node = slab.cache.cpus[cpu], slab.cache.nodes[slab.node]
        current = -1 if c.slab is None else c.slab.pfn
        naive = (slab.inuse, int(slab.frozen), current, len(node.partial), node.nr_slabs)
        compiled = slab_state(self.slub, pfn, cpu)
        if naive != compiled:
            what = "inuse, frozen, CPU slab, nr_partial, nr_slabs"
            raise Difference(f"slab {pfn} of {slab.cache.name}: {what}: naive {naive}, compiled {compiled}")

    def compare_caches(self) -> None:
        """All lists of all caches."""
        for cache, index in zip(self.caches, self.indexes, strict=True):
            theirs = dict(shown_state({"name": cache.name, **self.slub.dump(index)}))
            for where, value in self.naive_slub.state(cache):
                if value != theirs[where]:
                    raise Difference(f"{where}: naive {value!r:.300}, compiled {theirs[where]!r:.300}")

    def compare_state(self) -> None:
        super().compare_state()
        self.compare_caches()

    # ---- operations at random

    def free_everything(self) -> Iterator[Op]:
        yield from super().free_everything()
        for slot in list(self.objects):
            yield ("K", slot, 0)
        for cache in range(len(self.caches)):
            yield ("shrink", cache, 0)
        yield ("rcu", 0)

    def operations(self, rng: Random, count: int) -> Iterator[Op]:
        """Objects of a few caches at a time, with pages taken beside them so that slabs become hard to get."""
        live: list[int] = []
        pages: list[int] = []
        slot = 0
        nodes: list[int | None] = [None, *range(self.shape.nr_nodes)] if self.shape.nr_nodes > 1 else [None]
        while count > 0:
            phase = rng.choice(("mixed", "fill", "empty", "one", "kmalloc", "starve", "sawtooth"))
            share = {"fill": 0.8, "empty": 0.1, "starve": 0.85}.get(phase, 0.5)
            caches = [rng.choice(LARGE if phase == "starve" else ALL) for _ in range(1 if phase == "one" else 4)]
            if phase == "starve":
                order = 10
                while order >= 0 and count > 0:  # all that ordinary requests may have
                    count -= 1
                    slot += 1
                    yield ("a", slot, rng.choice((0x8C0, 0x1008CA)), order, rng.randrange(self.shape.nr_cpus), None)
                    if slot in self.slots:
                        pages.append(slot)
                    else:
                        order -= 1
                for page in rng.sample(pages, min(len(pages), rng.choice((0, 2, 6)))):
                    count -= 2
                    yield ("split", page)
                    yield ("thin", page, rng.randrange(self.shape.nr_cpus))
            elif phase == "empty":
                while pages and count > 0:
                    count -= 1
                    yield ("f", pages.pop(rng.randrange(len(pages))), rng.randrange(self.shape.nr_cpus))
            for step in range(min(count, rng.choice((100, 400, 1200)))):
                count -= 1
                slot += 1
                cpu = rng.randrange(self.shape.nr_cpus)
                if phase == "sawtooth" and step % 100 == 0:
                    share = 1.0 - share if share != 0.5 else 0.8
                op = self.one_operation(rng, phase, share, caches, cpu, slot, live, pages, nodes)
                yield op
                if op[0] in ("k", "kb", "m") and slot in self.objects:
                    live.append(slot)
                elif op[0] == "a" and slot in self.slots:
                    pages.append(slot)

    def one_operation(
        self,
        rng: Random,
        phase: str,
        share: float,
        caches: list[int],
        cpu: int,
        slot: int,
        live: list[int],
        pages: list[int],
        nodes: list[int | None],
    ) -> Op:
        draw = rng.random()
        start = rng.randrange(1 << 16)
        if draw < 0.02:
            return self.rare_operation(rng, caches, cpu, slot, live, start)
        if draw < 0.05:
            if pages and rng.random() < (0.4 if phase == "starve" else 0.7):
                return ("f", pages.pop(rng.randrange(len(pages))), cpu)
            return ("a", slot, rng.choice((0x8C0, 0x1008CA, 0x8D0)), rng.choice((0, 0, 1, 3, 6)), cpu, None)
        if rng.random() < share or not live:
            if phase == "kmalloc" or rng.random() < 0.15:
                size = rng.choice((8, 33, 96, 100, 192, 200, 512, 1000, 2048, 4000, 8192, 9000, 33_000))
                return ("m", slot, rng.randrange(1, size + 1), rng.choice(KMALLOC_MASKS), cpu, start)
            node = rng.choice(nodes) if rng.random() < 0.3 else None
            return ("k", slot, rng.choice(caches), rng.choice(MASKS), cpu, node, start)
        at = rng.randrange(len(live)) if rng.random() < 0.8 else len(live) - 1
        live[at], live[-1] = live[-1], live[at]
        return ("K", live.pop(), cpu)

    def rare_operation(self, rng: Random, caches: list[int], cpu: int, slot: int, live: list[int], start: int) -> Op:
        kind = rng.choice(("kb", "kb", "Kb", "Kb", "z", "z", "shrink", "destroy", "rcu", "page"))
        if kind == "kb":
            return ("kb", slot, rng.choice(caches), rng.choice(MASKS), rng.choice((1, 3, 17, 60)), cpu, start)
        if kind == "Kb" and live:
            slots = tuple(live.pop(rng.randrange(len(live))) for _ in range(min(len(live), rng.choice((1, 4, 20)))))
            large = [one for one in slots if self.objects[one][0][1] < 0]
            live += large
            return ("Kb", tuple(one for one in slots if one not in large), cpu)
        if kind == "z" and live:
            return (
                "z",
                rng.choice(live),
                rng.choice((1, 40, 100, 700, 5000, 20_000)),
                rng.choice(KMALLOC_MASKS),
                cpu,
                start,
            )
        if kind in ("shrink", "destroy"):
            return (kind, rng.choice(caches), cpu)
        if kind == "page":
            op = special(self, rng, cpu, [], slot, None)
            return op if op[0] in ("drain", "drain_all", "kswapd") else ("drain", cpu)
        return ("rcu", cpu)
