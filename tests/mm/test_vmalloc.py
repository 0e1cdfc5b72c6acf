# SPDX-License-Identifier: GPL-2.0-only
"""The vmalloc area: what is handed out where, freed, purged and merged.

The maps show one character a page of a small vmalloc area: ``.`` free, ``~``
lazily freed, ``#`` a guard page, letters the areas in the order in which they
were made.
"""

from __future__ import annotations

import gzip
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kmem.errors import StateError
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.rbtree import LEFT, RIGHT, RbNode, RbTree
from kmem.mm.vmalloc import (
    VM_ALLOC,
    VM_FLUSH_RESET_PERMS,
    VM_IOREMAP,
    VM_MAP,
    VM_MAP_PUT_PAGES,
    VM_NO_GUARD,
    VM_USERMAP,
    Vmalloc,
    VmStruct,
)
from kmem.mm.vmap import PAGE_SIZE, VmapArea, VmapLayout, VmapSpace
from tests.mm.machines import normal_lists, one_zone

GFP_NOWARN, GFP_NOFAIL = 0x2000, 0x8000
START = 0xF0000000


def area_of(pages: int, *, online_cpus: int = 1, page_alloc: PageAllocator | None = None) -> Vmalloc:
    """A 32-bit machine whose vmalloc area has so many pages."""
    space = VmapSpace(VmapLayout(START, START + pages * PAGE_SIZE, 32, 32), online_cpus=online_cpus)
    return Vmalloc(space, page_alloc, totalram_pages=1 << 20)


def drawn(vm: Vmalloc) -> str:
    """The map of a small vmalloc area."""
    layout = vm.space.layout
    text = ["?"] * ((layout.vmalloc_end - layout.vmalloc_start) // PAGE_SIZE)
    letters = itertools.cycle("abcdefghijklmnopqrstuvwxyz")
    for areas, sign in ((vm.space.free, "."), (vm.space.lazy, "~"), (vm.space.busy, None)):
        for va in areas.areas():
            letter = sign or next(letters)
            pages = [
                (addr - layout.vmalloc_start) // PAGE_SIZE
                for addr in range(max(va.va_start, START), min(va.va_end, layout.vmalloc_end), PAGE_SIZE)
            ]
            for page in pages:
                text[page] = letter
            if isinstance(va.vm, VmStruct) and not va.vm.flags & VM_NO_GUARD:
                text[pages[-1]] = "#"
    return "".join(text)


def pages(count: int) -> int:
    return count * PAGE_SIZE


def test_the_lowest_range_that_fits_is_taken_and_a_guard_page_follows() -> None:
    vm = area_of(16)
    first = vm.vmalloc(pages(3))
    assert (first, drawn(vm)) == (START, "aaa#............")
    vm.vmalloc(1)
    assert drawn(vm) == "aaa#b#.........."
    vm.vmalloc(pages(1) + 1)
    assert drawn(vm) == "aaa#b#cc#......."
    vm.validate()


def test_what_is_freed_is_lazy_and_serves_nobody_until_a_purge() -> None:
    vm = area_of(16)
    held = [vm.vmalloc(pages(n)) for n in (3, 1, 2)]
    assert drawn(vm) == "aaa#b#cc#......."
    vm.vfree(held[1])
    assert drawn(vm) == "aaa#~~bb#......."
    assert vm.space.nr_lazy == 2
    vm.vmalloc(pages(1))
    assert drawn(vm) == "aaa#~~bb#c#....."
    vm.space.vm_unmap_aliases()
    assert drawn(vm) == "aaa#..bb#c#....."
    assert vm.vmalloc(pages(1)) == held[1]
    assert drawn(vm) == "aaa#b#cc#d#....."
    vm.validate()


def test_neighbours_merge_when_lazy_and_when_free() -> None:
    vm = area_of(16)
    held = [vm.vmalloc(pages(1)) for _ in range(6)]
    assert drawn(vm) == "a#b#c#d#e#f#...."
    for place in (1, 3):
        vm.vfree(held[place])
    assert drawn(vm) == "a#~~b#~~c#d#...."
    assert len(vm.space.lazy) == 2
    vm.vfree(held[2])  # touches both: one area is left
    assert drawn(vm) == "a#~~~~~~b#c#...."
    assert vm.space.lazy.ranges() == [(START + pages(2), START + pages(8))]
    vm.space.vm_unmap_aliases()
    vm.vfree(held[5])
    vm.vfree(held[4])
    assert drawn(vm) == "a#......~~~~...."
    vm.space.vm_unmap_aliases()
    assert drawn(vm) == "a#.............."
    # Below the vmalloc area, behind the one that is busy, and nothing else.
    assert [start for start, _ in vm.space.free.ranges()] == [1, START + pages(2)]
    vm.validate()


def test_a_full_area_purges_before_it_fails() -> None:
    vm = area_of(8)
    warnings: list[str] = []
    vm.warn = warnings.append
    held = [vm.vmalloc(pages(1)) for _ in range(4)]
    assert drawn(vm) == "a#b#c#d#"
    for place in (1, 2):
        vm.vfree(held[place])
    assert drawn(vm) == "a#~~~~b#"
    assert vm.vmalloc(pages(3)) == held[1]
    assert drawn(vm) == "a#bbb#c#"
    assert warnings == []
    assert vm.vmalloc(pages(1)) is None
    assert warnings == [
        "vmap allocation for size 8192 failed: use vmalloc=<size> to increase size",
        "vmalloc error: size 4096, vm_struct allocation failed",
    ]
    assert vm.vmalloc_gfp(pages(1), GFP_KERNEL | GFP_NOWARN) is None
    assert len(warnings) == 2
    with pytest.raises(StateError, match="must not fail would wait"):
        vm.vmalloc_gfp(pages(1), GFP_KERNEL | GFP_NOFAIL)
    assert drawn(vm) == "a#bbb#c#"
    vm.validate()


def test_those_who_hold_address_space_are_asked_to_give_some_up() -> None:
    vm = area_of(8)
    held = [vm.vmalloc(pages(1)) for _ in range(4)]

    def give_up() -> int:
        if not held:
            return 0
        vm.vfree(held.pop())
        return 2

    vm.space.purge_notifiers.append(give_up)
    assert vm.vmalloc(pages(3)) == START + pages(4)
    assert drawn(vm) == "a#b#ccc#"
    assert len(held) == 2


@pytest.mark.parametrize(("cpus", "limit"), [(1, 8192), (2, 16384), (3, 16384), (4, 24576), (64, 57344)])
def test_a_purge_is_scheduled_above_the_limit(cpus: int, limit: int) -> None:
    vm = area_of(60000, online_cpus=cpus)
    scheduled: list[Callable[[], None]] = []
    vm.space.schedule_work = scheduled.append
    assert vm.space.lazy_max_pages() == limit
    held = [vm.vmalloc(pages(1023)) for _ in range(limit // 1024)]
    for addr in held:
        vm.vfree(addr)
    assert (vm.space.nr_lazy, scheduled) == (limit, [])
    held = [vm.vmalloc(pages(1)) for _ in range(2)]
    for addr in held:
        vm.vfree(addr)
    assert len(scheduled) == 1  # once, as long as the worker has not run
    assert vm.space.nr_lazy == limit + 4
    scheduled[0]()
    assert (vm.space.nr_lazy, vm.space.drain_pending) == (0, False)
    vm.validate()


def test_without_a_worker_the_purge_is_done_at_once() -> None:
    vm = area_of(30000)
    for _ in range(40):
        vm.vfree(vm.vmalloc(pages(1023)))
    # Every ninth free is one page too many.
    assert vm.space.nr_lazy == 1024 * (40 % 9)


def test_an_area_without_a_guard_page() -> None:
    vm = area_of(8)
    area = vm.get_vm_area(pages(2), VM_MAP | VM_NO_GUARD)
    assert area is not None and (area.size, area.usable_size) == (pages(2), pages(2))
    vm.vmalloc(pages(1))
    assert drawn(vm) == "aab#...."
    # vmap() does not let its caller do without: the guard page protects the next area as well.
    vm.vmap([5, 6], VM_MAP | VM_NO_GUARD)
    assert drawn(vm) == "aab#cc#."


@pytest.mark.parametrize(
    ("size", "align"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (100, 128), (128, 128), (129, 128), (500, 128)]
)
def test_ioremap_areas_are_aligned_to_their_size_up_to_128_pages(size: int, align: int) -> None:
    vm = area_of(2048)
    vm.vmalloc(pages(1))
    area = vm.get_vm_area(pages(size), VM_IOREMAP)
    assert area is not None
    assert area.addr == START + pages(max(align, 2))
    assert area.size == pages(size + 1)
    vm.validate()


def test_a_hole_that_only_just_fits_an_alignment_is_found_on_the_way_only() -> None:
    # Three holes of two pages, each at a multiple of four. With a page more for the worst case no subtree promises
    # room enough, so that only the root is tried: the middle hole first, then what takes its place.
    layout = VmapLayout(START, START + pages(16), 32, 32)
    holes = [(START + pages(n), START + pages(n + 2)) for n in (0, 4, 8)]
    between = [(1, START), *[(start + pages(2), start + pages(4)) for start, _ in holes[:2]], (holes[2][1], 0xFFFFFFFF)]
    space = VmapSpace(layout, [VmapArea(*ends) for ends in between], [VmapArea(*ends) for ends in holes])
    vm = Vmalloc(space, totalram_pages=100)
    assert drawn(vm) == "..bb..cc..dddddd"
    got = [space.alloc_vmap_area(pages(2), pages(4), START, START + pages(16)) for _ in range(4)]
    assert [va and (va.va_start - START) // PAGE_SIZE for va in got] == [4, 8, 0, None]
    space.validate()


def test_a_request_for_exactly_its_limits_asks_for_nothing_more() -> None:
    vm = area_of(16)
    vm.vmalloc(pages(7))
    assert vm.space.alloc_vmap_area(pages(4), pages(4), START + pages(4), START + pages(8)) is None
    found = vm.space.alloc_vmap_area(pages(4), pages(4), START + pages(8), START + pages(12))
    assert found is not None and found.va_start == START + pages(8)
    vm.validate()


def test_a_search_from_the_middle_turns_back_in_the_tree() -> None:
    vm = area_of(64)
    held = [vm.vmalloc(pages(1)) for _ in range(32)]
    for place in range(0, 32, 2):
        vm.vfree(held[place])
    vm.space.vm_unmap_aliases()
    for start in range(64):
        wanted = START + pages(-(-start // 4) * 4)
        found = vm.space.alloc_vmap_area(pages(2), 1, START + pages(start), START + pages(64))
        if wanted >= START + pages(64):
            assert found is None
            continue
        assert found is not None and found.va_start == wanted
        vm.space.free_vmap_area_noflush(found)
        vm.space.vm_unmap_aliases()
    vm.validate()


def test_flags_and_fields_of_an_area() -> None:
    vm = area_of(64)
    addr = vm.vmalloc_user(pages(2) + 5)
    assert addr is not None
    area = vm.find_vm_area(addr + 4097)
    assert area is not None
    assert (area.addr, area.size, area.flags, area.nr_pages) == (START, pages(4), VM_ALLOC | VM_USERMAP, 3)
    assert vm.find_vm_area(START + pages(4)) is None
    assert vm.is_vmalloc_addr(addr) and not vm.is_vmalloc_addr(START - 1)


def test_an_array_of_page_pointers_above_a_page_is_an_area_itself() -> None:
    vm = area_of(4096)
    assert vm.vmalloc(pages(1024)) == START  # 4096 bytes of pointers on a 32-bit machine
    assert len(vm.space.busy) == 1
    addr = vm.vmalloc(pages(1025))
    assert addr is not None
    assert vm.space.busy.ranges()[1:] == [
        (addr, addr + pages(1026)),
        (addr + pages(1026), addr + pages(1026 + 3)),
    ]
    assert vm.nr_vmalloc_pages == 1024 + 1025 + 2
    vm.vfree(addr)
    assert len(vm.space.busy) == 1
    assert vm.space.nr_lazy == 1026 + 3
    assert vm.nr_vmalloc_pages == 1024


def test_requests_that_cannot_be_served() -> None:
    vm = area_of(64)
    assert vm.vmalloc(0) is None
    vm.totalram_pages = 10
    assert vm.vmalloc(pages(11)) is None
    assert vm.vmalloc(pages(10)) is not None
    assert vm.vmap(range(11)) is None
    for size in (-1, 1 << 32):
        with pytest.raises(ValueError, match="does not fit"):
            vm.vmalloc(size)
    with pytest.raises(TypeError):
        vm.vmalloc(2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="powers of two"):
        vm.space.alloc_vmap_area(pages(1), 3, START, START + pages(64))
    vm.validate()


def test_freeing_what_was_not_allocated_is_the_kernels_warning() -> None:
    vm = area_of(16)
    addr = vm.vmalloc(pages(2))
    assert addr is not None
    vm.vfree(None)
    with pytest.raises(StateError, match=r"Trying to vfree\(\) bad address \(0xf0000001\)"):
        vm.vfree(addr + 1)
    with pytest.raises(StateError, match=r"Trying to vfree\(\) nonexistent vm area \(0xf0003000\)"):
        vm.vfree(addr + pages(3))
    vm.vfree(addr)
    with pytest.raises(StateError, match="nonexistent vm area"):
        vm.vfree(addr)
    assert drawn(vm) == "~~~............."
    vm.validate()


def test_atomic_frees_are_done_later_the_last_one_first() -> None:
    allocator = one_zone()
    vm = area_of(16, page_alloc=allocator)
    held = [vm.vmalloc(pages(1)) for _ in range(3)]
    frames = [vm.vmalloc_to_pfn(addr) for addr in held if addr is not None]
    for addr in held:
        vm.vfree_atomic(addr)
    assert drawn(vm) == "a#b#c#.........."
    freed: list[int] = []
    vm.page_alloc = Spy(allocator, freed)  # type: ignore[assignment]
    vm.free_work()
    assert freed == frames[::-1]
    assert drawn(vm) == "~~~~~~.........."


class Spy:
    """A page allocator that notes what is freed, in its order."""

    def __init__(self, allocator: PageAllocator, freed: list[int]) -> None:
        self.allocator = allocator
        self.freed = freed

    def free_pages(self, pfn: int, order: int) -> None:
        self.freed.append(pfn)
        self.allocator.free_pages(pfn, order)


# ------------------------------------------------------------ frames


def free_frames(allocator: PageAllocator) -> int:
    return sum(len(frames) << order for (order, _), frames in normal_lists(allocator).items())


def test_frames_come_from_the_page_allocator_and_go_back() -> None:
    allocator = one_zone()
    before = free_frames(allocator)
    vm = area_of(4096, page_alloc=allocator)
    addr = vm.vmalloc(pages(250))  # more than two calls of the bulk allocator
    assert addr is not None
    frames = [vm.vmalloc_to_pfn(addr + pages(n)) for n in range(250)]
    assert None not in frames and len(set(frames)) == 250
    assert vm.vmalloc_to_pfn(addr + pages(250)) is None  # the guard page
    assert free_frames(allocator) == before - 250
    vm.validate()
    vm.vfree(addr)
    assert free_frames(allocator) == before
    vm.validate()


def test_too_few_frames_leave_nothing_behind() -> None:
    allocator = one_zone(1024)
    vm = area_of(4096, page_alloc=allocator)
    assert vm.vmalloc(pages(1025)) is None
    assert free_frames(allocator) == 1024
    assert (len(vm.space.busy), vm.nr_vmalloc_pages) == (0, 0)
    assert vm.space.nr_lazy == 1026 + 3  # the area, and that of its page pointers
    vm.validate()


def huge(allocator: PageAllocator) -> Vmalloc:
    return Vmalloc(VmapSpace(VmapLayout.x86_64()), allocator, totalram_pages=1 << 20)


def test_huge_allocations_take_blocks_and_fall_back_on_pages() -> None:
    allocator = one_zone(4096)
    vm = huge(allocator)
    vm.vmalloc(1)
    addr = vm.vmalloc_huge((3 << 20) + 1)
    assert addr == 0xFFFFC90000200000
    area = vm.find_vm_area(addr)
    assert area is not None
    assert (area.page_order, area.nr_pages, area.size) == (9, 1024, (4 << 20) + PAGE_SIZE)
    assert all(area.pages[n] == area.pages[n - n % 512] + n % 512 for n in range(1024))
    assert vm.vmalloc_huge((2 << 20) - 1) == addr + (4 << 20) + PAGE_SIZE  # too small for a block
    vm.vfree(addr)
    # Every second frame is taken: no block of order 9 is left, but pages are.
    every = [allocator.alloc_pages(GFP_KERNEL, 0) for _ in range(free_frames(allocator))]
    for pfn in every:
        if pfn % 2:
            allocator.free_pages(pfn, 0)
    addr = vm.vmalloc_huge(2 << 20)
    assert addr is not None
    area = vm.find_vm_area(addr)
    assert area is not None and (area.page_order, area.nr_pages, area.size) == (0, 512, (2 << 20) + PAGE_SIZE)
    vm.validate()


def test_a_32_bit_machine_has_no_huge_areas() -> None:
    vm = area_of(4096)
    addr = vm.vmalloc_huge(4 << 20)
    assert addr is not None
    area = vm.find_vm_area(addr)
    assert area is not None and area.page_order == 0


def test_vmap_maps_frames_of_the_callers() -> None:
    allocator = one_zone()
    frames = [allocator.alloc_pages(GFP_KERNEL, 0) for _ in range(3)]
    before = free_frames(allocator)
    vm = area_of(16, page_alloc=allocator)
    addr = vm.vmap(frames)
    assert drawn(vm) == "aaa#............"
    vm.vunmap(addr)
    assert (drawn(vm), free_frames(allocator)) == ("~~~~............", before)
    addr = vm.vmap(frames, VM_MAP | VM_MAP_PUT_PAGES)
    vm.vfree(addr)
    assert free_frames(allocator) == before + 3
    assert vm.nr_vmalloc_pages == 0
    vm.validate()


def test_areas_whose_permissions_were_changed_are_purged_when_freed() -> None:
    vm = area_of(16)
    first = vm.vmalloc(pages(1))
    module = vm.vmalloc_node_range(pages(2), 1, GFP_KERNEL, VM_FLUSH_RESET_PERMS)
    vm.vfree(first)
    assert drawn(vm) == "~~aa#..........."
    vm.vfree(module)
    assert (drawn(vm), vm.space.nr_lazy) == ("................", 0)


# ------------------------------------------------------------ blocks


@pytest.mark.parametrize(
    ("layout", "bits", "largest"), [(VmapLayout.x86_64(), 256, 64), (VmapLayout.i386(), 64, 32)], ids=["64", "32"]
)
def test_small_mappings_share_a_block(layout: VmapLayout, bits: int, largest: int) -> None:
    vm = Vmalloc(VmapSpace(layout), totalram_pages=1 << 20)
    assert (layout.vmap_bbmap_bits, layout.vmap_max_alloc) == (bits, largest)
    block = vm.vm_map_ram([1, 2, 3])
    assert block is not None and block % pages(bits) == 0
    assert vm.vm_map_ram([4]) == block + pages(4)  # three pages take four
    assert vm.space.busy.ranges() == [(block, block + pages(bits))]
    assert vm.vm_map_ram(range(largest + 1)) is not None
    assert len(vm.space.busy) == 2  # too many for a block: an area without a guard page
    vm.validate()


def test_a_block_goes_when_all_of_it_was_used_or_nothing_of_it_is() -> None:
    vm = Vmalloc(VmapSpace(VmapLayout.i386()), totalram_pages=1 << 20)
    first, second = vm.vm_map_ram(range(32)), vm.vm_map_ram(range(32))
    assert first is not None and second == first + pages(32)
    third = vm.vm_map_ram([1])
    assert third == first + pages(64)  # the first block is used up
    vm.vm_unmap_ram(first, 32)
    assert vm.space.nr_lazy == 0
    vm.vm_unmap_ram(second, 32)
    assert vm.space.nr_lazy == 64
    vm.space.vm_unmap_aliases()
    assert len(vm.space.busy) == 1  # one page of it is mapped
    vm.vm_unmap_ram(third, 1)
    vm.validate()
    vm.space.vm_unmap_aliases()
    assert (len(vm.space.busy), vm.space.nr_lazy) == (0, 0)
    with pytest.raises(StateError, match="was made by vm_map_ram"):
        vm.vm_unmap_ram(third, 1)
    with pytest.raises(StateError, match="was made by vm_map_ram"):
        vm.vm_unmap_ram(third, 40)
    fourth = vm.vm_map_ram([1])
    assert fourth is not None
    with pytest.raises(StateError, match="no mapping of 0 pages"):
        vm.vm_unmap_ram(fourth, 0)
    with pytest.raises(ValueError, match="not mapped through a block"):
        vm.vm_map_ram([])
    vm.validate()


# ------------------------------------------------------------ limits of real machines


def test_limits_of_the_two_machines() -> None:
    assert VmapLayout.x86_64() == VmapLayout(0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF, 64, 8192, huge=True)
    assert VmapLayout.i386() == VmapLayout(0xF73FE000, 0xFEBFE000, 32, 32)
    # 512 MiB of memory, all of it low: a hole of 8 MiB behind it.
    assert VmapLayout.i386(0x20000).vmalloc_start == 0xC0000000 + (512 << 20) + (8 << 20)


# ------------------------------------------------------------ the tree, and random use


class Number(RbNode):
    __slots__ = ("key", "weight")

    def __init__(self, key: int, weight: int) -> None:
        super().__init__()
        self.key, self.weight = key, weight

    @property
    def size(self) -> int:
        return self.weight


def place(tree: RbTree[Number], key: int) -> tuple[Number | None, int]:
    parent, node, side = None, tree.root, LEFT
    while node is not None:
        parent, side = node, LEFT if key < node.key else RIGHT
        node = node.child[side]
    return parent, side


def in_order(node: Number | None) -> list[int]:
    return [] if node is None else [*in_order(node.child[LEFT]), node.key, *in_order(node.child[RIGHT])]


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_stays_balanced_sorted_and_knows_its_sizes(seed: int) -> None:
    rng = random.Random(seed)
    tree: RbTree[Number] = RbTree()
    held: dict[int, Number] = {}
    for _ in range(400):
        key = rng.randrange(120)
        if key in held:
            tree.erase(held.pop(key))
        else:
            held[key] = Number(key, rng.randrange(1, 50))
            tree.insert(held[key], *place(tree, key))
            tree.propagate(held[key])
        assert tree.validate() == len(held)
        assert in_order(tree.root) == sorted(held)
        if held:
            assert tree.root is not None
            assert tree.root.subtree_max_size == max(node.weight for node in held.values())


def test_a_damaged_tree_and_a_damaged_space_are_noticed() -> None:
    vm = area_of(64)
    for _ in range(8):
        vm.vmalloc(pages(1))
    for va in vm.space.busy.areas()[::2]:
        vm.vfree(va.va_start)
    vm.space.vm_unmap_aliases()
    vm.validate()
    vm.space.free.areas()[1].subtree_max_size += 1
    with pytest.raises(StateError, match="largest size"):
        vm.validate()
    vm.space.free.areas()[1].subtree_max_size -= 1
    vm.space.nr_lazy += 1
    with pytest.raises(StateError, match="counted as lazy"):
        vm.validate()
    vm.space.nr_lazy -= 1
    vm.space.busy.areas()[0].va_end += PAGE_SIZE
    with pytest.raises(StateError, match="belongs to no area or to two"):
        vm.validate()
    with pytest.raises(StateError, match="vmalloc bug: .* overlaps with"):
        VmapSpace(vm.space.layout, [VmapArea(START, START + 8192), VmapArea(START + 4096, START + 12288)])


def first_fit(taken: list[bool], count: int) -> int | None:
    """The lowest run of `count` free pages, looked for page by page."""
    for start in range(len(taken) - count + 1):
        if not any(taken[start : start + count]):
            return start
    return None


@pytest.mark.parametrize("seed", range(12))
def test_random_use_agrees_with_first_fit_page_by_page(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice([64, 200, 500])
    vm = area_of(size)
    taken, lazy = [False] * size, [False] * size
    held: dict[int, int] = {}
    for _ in range(250):
        step = rng.random()
        if step < 0.05:
            vm.space.vm_unmap_aliases()
            taken = [used and not freed for used, freed in zip(taken, lazy, strict=True)]
            lazy = [False] * size
        elif step < 0.5 and held:
            addr = rng.choice(list(held))
            count = held.pop(addr)
            vm.vfree(addr)
            for page in range((addr - START) // PAGE_SIZE, (addr - START) // PAGE_SIZE + count):
                lazy[page] = True
        else:
            wanted = rng.randrange(1, rng.choice([4, 12, 40]))
            start = first_fit(taken, wanted + 1)
            if start is None:  # everything lazy is purged first
                taken = [used and not freed for used, freed in zip(taken, lazy, strict=True)]
                lazy = [False] * size
                start = first_fit(taken, wanted + 1)
            got = vm.vmalloc(pages(wanted) - rng.randrange(PAGE_SIZE))
            assert got == (None if start is None else START + pages(start))
            if start is not None and got is not None:
                held[got] = wanted + 1
                taken[start : start + wanted + 1] = [True] * (wanted + 1)
        assert drawn(vm).count("~") == sum(lazy)
        assert drawn(vm).count(".") == size - sum(taken)
        vm.validate()


def recorded_areas(text: str) -> list[VmapArea]:
    """The areas that a recorded /proc/vmallocinfo describes."""
    flags = {"ioremap": VM_IOREMAP, "vmalloc": VM_ALLOC, "vmap": VM_MAP, "user": VM_USERMAP}
    areas = []
    for line in text.splitlines():
        limits, size, *words = line.split()
        start, end = (int(limit, 0) for limit in limits.split("-"))
        if words == ["unpurged", "vm_area"]:
            continue
        area = VmapArea(start, end)
        areas.append(area)
        if words == ["vm_map_ram"]:
            continue
        caller = " ".join(itertools.takewhile(lambda word: word not in flags and "=" not in word, words))
        values = dict(word.split("=") for word in words if "=" in word)
        area.vm = VmStruct(
            start,
            int(size),
            sum(flags.get(word, 0) for word in words),
            int(values.get("pages", 0)),
            caller=caller,
            phys_addr=int(values.get("phys", "0"), 0),
            pages_array=0 if "vpages" in words else None,
        )
    return areas


@pytest.mark.parametrize("name", ["amd64-1536M", "i386-1024M"])
def test_vmallocinfo_is_written_as_recorded(name: str) -> None:
    path = Path(__file__).parent.parent / "data" / "vmallocinfo" / f"{name}.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    areas = recorded_areas(text)
    assert len(areas) > 20
    lazy = [VmapArea(*(int(limit, 0) for limit in line.split()[0].split("-"))) for line in text.splitlines()
            if line.endswith(" unpurged vm_area")]  # fmt: skip
    layout = VmapLayout.x86_64() if name.startswith("amd64") else VmapLayout.i386()
    vm = Vmalloc(VmapSpace(layout, areas, lazy=lazy), totalram_pages=1 << 18)
    # Which node a frame is on is not recorded frame by frame.
    assert vm.vmallocinfo() == re.sub(r" N0=\d+", "", text)
