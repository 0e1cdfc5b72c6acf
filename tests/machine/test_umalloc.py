# SPDX-License-Identifier: GPL-2.0-only
"""malloc of a process: addresses, reuse, growth by brk and mmap, damage found, and the way down to the frame.

Addresses, sizes and messages are what programs see that are linked with glibc 2.36.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import UsageError
from kmem.machine.process import Process
from kmem.machine.umalloc import HeapCorruption

PAGE = 4096


@pytest.fixture(params=["x86_64", "i386"])
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    with Machine.boot(request.param, ram="256M", reports="log") as m:
        p = m.process("p")
        yield p
        if p.alive:
            p.exit()
        m.validate()
        m.kernel.reclaim.lru.lru_add_drain_all()
        assert len(m.kernel.vm.folios) == 0


def heap_pages(p: Process) -> int:
    return sum(vma.nr_pages for vma in p.mm.vmas if vma.vm_start == p.mm.start_brk)


def test_the_first_addresses(process: Process) -> None:
    """In front of the first chunk lies the thread's cache: 0x290 bytes (0x190 on i386, which begins 8 bytes later)."""
    p = process
    first = p.mm.start_brk + (0x2A0 if p.kernel.arch == "x86_64" else 0x1A0)
    assert [p.malloc(size) for size in (24, 1, 100)] == [
        first,
        first + 0x20,
        first + (0x40 if p.heap._word == 8 else 0x30),
    ]
    assert heap_pages(p) == (0x21000 if p.kernel.arch == "x86_64" else 0x22000) // PAGE


def test_last_freed_first_reused(process: Process) -> None:
    p = process
    a, b, c = (p.malloc(40) for _ in range(3))
    for addr in (a, c, b):
        p.free(addr)
    assert [p.malloc(40) for _ in range(3)] == [b, c, a]


def test_seven_in_the_cache_then_fast_bins(process: Process) -> None:
    p = process
    held = [p.malloc(40) for _ in range(10)]
    p.malloc(40)
    for addr in held:
        p.free(addr)
    states = {chunk.mem: chunk.state for chunk in p.heap.chunks()}
    assert [states[addr] for addr in held] == ["cached"] * 7 + ["fast"] * 3
    assert [p.malloc(40) for _ in range(7)] == held[6::-1]
    assert p.malloc(40) == held[9]
    assert {chunk.mem: chunk.state for chunk in p.heap.chunks()}[held[7]] == "cached", "what is left is moved there"


def test_neighbours_join(process: Process) -> None:
    p = process
    a, b, c, guard = (p.malloc(2000) for _ in range(4))
    assert None not in (a, b, c, guard)
    for addr in (a, c, b):
        p.free(addr)
    p.heap.validate()
    free = [chunk for chunk in p.heap.chunks() if chunk.state == "free"]
    assert [(chunk.mem, chunk.size) for chunk in free] == [(a, 3 * 2016)] if p.heap._word == 8 else len(free) == 1
    assert p.malloc(5000) == a, "and one large request fits"


def test_large_requests_are_mapped(process: Process) -> None:
    p = process
    p.malloc(10)
    assert p.follow(p.malloc(128 << 10)).chunk.state == "in use", "this fits into what the first brk has left"
    areas = p.mm.total_vm
    addr = p.malloc(200_000)
    assert addr is not None
    assert addr % PAGE == 16
    assert p.mm.total_vm == areas + 49
    assert p.follow(addr).chunk.state == "mapped"
    p.free(addr)
    assert p.mm.total_vm == areas
    assert p.mm.vma_lookup(addr) is None or p.kernel.arch == "i386"
    again = p.malloc(200_000)
    assert p.follow(again).chunk.state == "in use", "the limit has become what was freed"


def test_the_top_is_given_back(process: Process) -> None:
    p = process
    blocks = [p.malloc(100_000) for _ in range(5)]
    grown = heap_pages(p)
    for addr in blocks:
        p.free(addr)
    assert heap_pages(p) < grown - 90
    p.heap.validate()


def test_calloc_does_not_touch_what_is_zero(process: Process) -> None:
    p = process
    p.malloc(1)
    rss = p.mm.rss_stat[1] + p.mm.rss_cached[1]
    addr = p.calloc(10, 12_000)
    assert p.mm.rss_stat[1] + p.mm.rss_cached[1] <= rss + 35
    assert p.read(addr, 120_000) == bytes(120_000)
    dirty = p.malloc(500)
    p.write(dirty, b"x" * 500)
    p.malloc(1)
    for _ in range(8):
        p.free(p.malloc(600))
    p.free(dirty)
    clean = p.calloc(1, 500)
    assert p.read(clean, 500) == bytes(500)


def test_realloc(process: Process) -> None:
    p = process
    a = p.malloc(100)
    p.write(a, b"0123456789")
    assert p.realloc(a, 3000) == a, "before the top it grows in place"
    p.malloc(10)
    b = p.realloc(a, 50_000)
    assert b != a
    assert p.read(b, 10) == b"0123456789"
    assert p.realloc(b, 40) == b
    c = p.realloc(b, 300_000)
    assert p.read(c, 10) == b"0123456789"
    d = p.realloc(c, 900_000)
    assert p.read(d, 10) == b"0123456789"
    assert p.follow(d).chunk.state == "mapped"
    assert p.realloc(d, 0) is None
    assert p.realloc(None, 24) is not None
    p.heap.validate()


def test_a_child_goes_on_with_a_copy(process: Process) -> None:
    p = process
    a = p.malloc(100)
    p.write(a, b"parent")
    child = p.fork()
    child.free(a)
    assert child.malloc(100) == a
    child.write(a, b"child!")
    assert p.read(a, 6) == b"parent"
    assert p.malloc(100) != a
    child.exit()


def damage_header(p: Process, addr: int) -> None:
    p.write(addr + 40, b"\xff" * 16)


@pytest.mark.parametrize(
    ("sizes", "frees", "message"),
    [
        ((40,), (0, 0), "free(): double free detected in tcache 2"),
        ((40,) * 9, (0, 1, 2, 3, 4, 5, 6, 7, 7), "double free or corruption (fasttop)"),
        ((3000, 10), (0, 0), "double free or corruption (!prev)"),
        ((3000,), (0, 0), "double free or corruption (top)"),
    ],
)
def test_double_free_is_found(process: Process, sizes: tuple[int, ...], frees: tuple[int, ...], message: str) -> None:
    p = process
    held = [p.malloc(size) for size in sizes]
    with pytest.raises(HeapCorruption) as error:
        for number in frees:
            p.free(held[number])
    if message.endswith("(top)") and p.kernel.arch == "i386":
        message = "free(): invalid size"  # the heap begins 8 bytes into a page, and the top is no multiple of 16
    assert str(error.value) == message


def test_damage_is_found(process: Process) -> None:
    p = process
    a, b = p.malloc(3000), p.malloc(3000)
    p.malloc(10)
    with pytest.raises(HeapCorruption, match=r"free\(\): invalid pointer"):
        p.free(a + 8)
    p.write(a, b"\xff" * (p.malloc_usable_size(a) + p.heap._word))
    with pytest.raises(HeapCorruption, match="invalid|double free|corrupt|mmap"):
        p.free(b)


def test_no_memory(process: Process) -> None:
    p = process
    assert p.malloc(1 << 62) is None
    assert p.calloc(1 << 33, 1 << 33) is None
    assert p.malloc(p.kernel.vm.totalram_pages * 2 * PAGE) is None
    with pytest.raises(UsageError):
        p.malloc(-1)
    p.free(None)
    assert p.malloc(10) is not None


@pytest.mark.parametrize("seed", range(3))
def test_random_requests(process: Process, seed: int) -> None:
    p, chance = process, random.Random(seed)
    live: dict[int, tuple[int, bytes]] = {}
    for step in range(600):
        kind = chance.random()
        if kind < 0.5 or not live:
            size = chance.choice((chance.randrange(200), chance.randrange(3000), chance.randrange(200_000)))
            addr = p.malloc(size) if chance.random() < 0.8 else p.calloc(1, size)
            assert addr is not None
            assert addr % 16 == 0
            assert p.malloc_usable_size(addr) >= size
            assert all(addr + size <= other or other + live[other][0] <= addr for other in live), "nothing overlaps"
            data = chance.randbytes(min(size, 20))
            p.write(addr, data)
            live[addr] = size, data
        else:
            addr = chance.choice(sorted(live))
            size, data = live.pop(addr)
            assert p.read(addr, len(data)) == data
            if kind < 0.85:
                p.free(addr)
            else:
                size = chance.randrange(1, 60_000)
                addr = p.realloc(addr, size)
                assert addr is not None
                assert p.read(addr, min(len(data), size)) == data[:size]
                live[addr] = size, data[:size]
        if step % 100 == 0:
            p.heap.validate()
    for addr in live:
        p.free(addr)
    p.heap.validate()


def test_a_users_malloc_followed_down_to_its_frames(process: Process) -> None:
    """malloc -> heap chunk -> area -> page tables -> frame -> zone -> the byte as the kernel sees it."""
    p, kernel = process, process.kernel
    m = kernel.owner
    addr = p.malloc(3 * PAGE)
    p.write(addr, b"".join(bytes([65 + i]) * PAGE for i in range(3)))
    frames = []
    for i in range(3):
        step = p.follow(addr + i * PAGE)
        assert step.chunk.mem == addr
        assert step.chunk.size >= 3 * PAGE
        assert step.vma.vm_start == p.mm.start_brk
        assert [entry.name for entry in step.walk] == (
            ["PGD", "PUD", "PMD", "PTE"] if m.arch == "x86_64" else ["PGD", "PTE"]
        )
        assert step.walk[0].table_pfn == p.mm.page_table.pgd
        assert {"Present", "RW", "User"} <= set(step.walk[-1].flags)
        assert step.mapcount == 1
        assert step.zone == m.memmap.zone_name(int(m.memmap.pages_array["zone"][step.pfn]))
        assert bytes(kernel.ram.view(step.phys, 1)) == bytes([65 + i])
        if step.kernel_addr is not None:
            assert m.read(step.kernel_addr, 1) == bytes([65 + i])
        assert f"frame    {step.pfn:#x}, zone {step.zone}" in repr(step)
        frames.append(step.pfn)
    assert len(set(frames)) == 3
    child = p.fork()
    assert child.follow(addr).pfn == frames[0]
    assert child.follow(addr).mapcount == 2
    child.write(addr, b"z")
    assert child.follow(addr).pfn != frames[0]
    nothing = p.follow(0x10000)
    assert (nothing.vma, nothing.pfn, nothing.chunk) == (None, None, None)
    assert "nothing is mapped here" in repr(nothing)
    child.exit()
