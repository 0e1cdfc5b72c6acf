# SPDX-License-Identifier: GPL-2.0-only
"""Taking recorded answers over leaves lists and counters as they must be.

One CPU, one cache of 16 objects a slab::

    CPU slab      C   the objects that come next
    CPU partial   P1 -> P2
    node partial  N
"""

from __future__ import annotations

from kmem.machine.boot import boot_memory
from kmem.machine.description import MachineDescription
from kmem.mm.debug_vm import validate_pages
from kmem.mm.kmem_cache import KmemCaches
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slub import Slub
from kmem.mm.slub_state import dump_cache, evict_slab, leave_cpu_partial, take_object, validate_caches
from kmem.replay.takeover import alloc_from_new_slab, exchange_cpu_slab, move_slab, swap_slab, take_page

GFP_KERNEL = 0xCC0
OBJECTS = 16


class Bench:
    """A cache with a CPU slab, two slabs on the CPU's partial list and one on the node's."""

    def __init__(self) -> None:
        booted = boot_memory(MachineDescription.preset("x86_64", ram="256M"))
        self.allocator = booted.page_alloc
        self.slub: Slub = KmemCaches(Slub(self.allocator), SlabConfig.for_arch("x86_64", cpus=1)).slub
        caches = KmemCaches(self.slub, SlabConfig.for_arch("x86_64", cpus=1))
        caches.create_kmalloc_caches()
        self.cache = caches.kmem_cache_create("bench", 256)
        self.objects = [self.alloc() for _ in range(OBJECTS * 5)]
        # one free object in each of four slabs puts them on the CPU's list; one goes on to the node's
        for slab in range(4):
            self.slub.kfree(self.objects[slab * OBJECTS])
        self.free_pages = self.pages_free()

    def alloc(self) -> int:
        address = self.slub.kmem_cache_alloc(self.cache, GFP_KERNEL)
        assert address is not None
        return address

    def pages_free(self) -> int:
        zones = self.allocator.memmap.zones_array
        pcp = int(self.allocator.memmap.pagesets_array["count"].sum())
        return pcp + sum(int(n) << order for zone in zones for order, n in enumerate(zone["nr_free"]))

    def cpu(self) -> dict[str, object]:
        cpu = dump_cache(self.slub, self.cache)["cpus"][0]
        assert isinstance(cpu, dict)
        return cpu

    def partial(self) -> list[int]:
        return [entry["s"]["pfn"] for entry in self.cpu()["partial"]]  # type: ignore[attr-defined]

    def check(self) -> None:
        validate_caches(self.slub)
        validate_pages(self.allocator)


def test_the_list_counts_what_is_left() -> None:
    bench = Bench()
    before = bench.partial()
    assert len(before) >= 3
    assert take_object(bench.slub, bench.objects[_object_in(bench, before[1])])
    bench.check()  # full now: on no list
    assert bench.partial() == [before[0], *before[2:]]
    assert not leave_cpu_partial(bench.slub, before[1])


def _object_in(bench: Bench, slab: int) -> int:
    """Number of the free object in a slab, by the order of allocation."""
    return next(i for i in range(0, OBJECTS * 4, OBJECTS) if bench.objects[i] >> 12 == slab)


def test_a_partial_slab_becomes_the_cpus() -> None:
    bench = Bench()
    bench.alloc()  # loads a slab with one free object, which is full then
    bench.slub.kfree(bench.alloc())  # the CPU's slab has one again
    slab = bench.partial()[1]
    assert exchange_cpu_slab(bench.slub, bench.cache, slab)
    bench.check()
    assert bench.alloc() >> 12 == slab
    bench.check()


def test_a_new_slab_although_there_are_free_objects() -> None:
    bench = Bench()
    slabs = dump_cache(bench.slub, bench.cache)["nodes"][0]["nr_slabs"]
    address = alloc_from_new_slab(bench.slub, bench.cache, GFP_KERNEL)
    bench.check()
    assert address >> 12 not in {each >> 12 for each in bench.objects}
    assert dump_cache(bench.slub, bench.cache)["nodes"][0]["nr_slabs"] == slabs + 1


def test_an_evicted_slab_gives_its_page_back() -> None:
    for number in range(5):  # on the CPU, on its list, on the node's, full
        bench = Bench()
        slab = bench.objects[number * OBJECTS] >> 12
        evict_slab(bench.slub, slab)
        bench.check()
        assert bench.pages_free() == bench.free_pages + 1
        assert bench.slub.slab_of_frame(slab) is None


def test_a_slab_moves_with_all_its_objects() -> None:
    for number in range(5):
        bench = Bench()
        old = bench.objects[number * OBJECTS] >> 12
        new = bench.allocator.alloc_pages(GFP_KERNEL, 0)
        assert move_slab(bench.slub, old, new)
        bench.check()
        bench.allocator.free_pages(old, 0)
        bench.slub.kfree(bench.objects[number * OBJECTS + 1] + ((new - old) << 12))
        bench.check()


def test_a_slab_changes_places_with_a_free_page() -> None:
    bench = Bench()
    first, second = (bench.allocator.alloc_pages(GFP_KERNEL, 0) for _ in range(2))
    for pfn in (first, second):
        bench.allocator.free_pages(pfn, 0)
    slab = bench.objects[-1] >> 12
    assert swap_slab(bench.slub, slab, first)
    bench.check()
    assert [bench.allocator.alloc_pages(GFP_KERNEL, 0) for _ in range(2)] == [second, slab]
    assert not take_page(bench.allocator, first, 0)
