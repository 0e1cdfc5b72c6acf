# SPDX-License-Identifier: GPL-2.0-only
"""Calls that no kernel could serve: its own report where it has one, else an error; the state stays sound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelBug, KernelOops, KernelPanic, KernelWarning, StateError, UsageError
from kmem.linux.gfp import *
from kmem.linux.slab import *
from kmem.mm.aids import Aid
from kmem.mm.kernel import current_kernel


@pytest.fixture(params=["x86_64", "i386"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="1G", seed=1) as machine:
        yield machine
        machine.validate()


Call = Callable[[], object]

WRONG_TYPES: list[Call] = [
    lambda: kmalloc("64", GFP_KERNEL),  # type: ignore[arg-type]
    lambda: kmalloc(64.0, GFP_KERNEL),  # type: ignore[arg-type]
    lambda: kmalloc(64, None),  # type: ignore[arg-type]
    lambda: kfree("x"),  # type: ignore[arg-type]
    lambda: kfree(object()),  # type: ignore[arg-type]
    lambda: kmem_cache_alloc(3, GFP_KERNEL),  # type: ignore[arg-type]
    lambda: kmem_cache_alloc(None, GFP_KERNEL),  # type: ignore[arg-type]
    lambda: kmem_cache_create(b"bytes", 10),  # type: ignore[arg-type]
    lambda: kmem_cache_create("x", "10"),  # type: ignore[arg-type]
    lambda: kmem_cache_create("x", dict),
    lambda: kmem_cache_create("x", 10, 0, 0, "ctor"),  # type: ignore[arg-type]
    lambda: alloc_pages(GFP_KERNEL, "1"),  # type: ignore[arg-type]
    lambda: free_pages(Page(5), 0),
    lambda: __free_pages("5", 0),  # type: ignore[arg-type]
    lambda: kmem_cache_alloc_bulk(kmem_cache_create("b", 8), GFP_KERNEL, "2", []),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("call", WRONG_TYPES)
def test_wrong_types(m: Machine, call: Call) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value)


WRONG_VALUES: list[Call] = [
    lambda: kmalloc(-1, GFP_KERNEL),
    lambda: kmalloc(1 << 64, GFP_KERNEL),
    lambda: kmalloc(64, -1),
    lambda: kmalloc(64, 1 << 32),
    lambda: kmalloc_node(64, GFP_KERNEL, 7),
    lambda: kmalloc_node(64, GFP_KERNEL, -2),
    lambda: kfree(-5),
    lambda: kfree(1 << 70),
    lambda: kcalloc(-1, 8, GFP_KERNEL),
    lambda: kmem_cache_create("x", 0),
    lambda: kmem_cache_create("x", -8),
    lambda: kmem_cache_create("x", 1 << 40),
    lambda: kmem_cache_create("x", 100, 0, 0, None, lambda addr: None),  # type: ignore[arg-type]
    lambda: kmem_cache_alloc_bulk(kmem_cache_create("b", 8), GFP_KERNEL, -1, []),  # type: ignore[arg-type]
    lambda: kfree_bulk(3, [None]),
    lambda: alloc_pages(GFP_KERNEL, -1),
    lambda: alloc_pages(GFP_KERNEL, 1 << 40),
    lambda: alloc_pages(__GFP_DMA | __GFP_HIGHMEM, 0),
    lambda: alloc_pages(__GFP_DMA | __GFP_DMA32, 0),
    lambda: alloc_pages(__GFP_MOVABLE | __GFP_RECLAIMABLE, 0),
    lambda: alloc_pages_node(9, GFP_KERNEL, 0),
    lambda: alloc_pages_bulk_array(GFP_KERNEL, -1, []),
    lambda: pfn_to_page(1 << 40),
    lambda: virt_to_page(4096),
    lambda: kmem_cache_destroy(current_kernel().owner.cache("kmalloc-64")),
]


@pytest.mark.parametrize("call", WRONG_VALUES)
def test_wrong_values(m: Machine, call: Call) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_more_than_kmalloc_serves(m: Machine) -> None:
    assert kmalloc(KMALLOC_MAX_SIZE + 1, GFP_KERNEL | __GFP_NOWARN) is None
    assert kmalloc(m.kernel.ulong_max, GFP_KERNEL) is None
    assert "WARNING: CPU: 0 PID: 1 at mm/page_alloc.c:5634 __alloc_pages" in m.log.text()


def test_freed_twice(m: Machine) -> None:
    """A hardened freelist notices an object that would point to itself, and only that."""
    one, two = kmalloc(64, GFP_KERNEL), kmalloc(64, GFP_KERNEL)
    kfree(one)
    with pytest.raises(KernelBug, match=r"kernel BUG at mm/slub\.c:419!"):
        kfree(one)
    kfree(two)
    with pytest.raises((UsageError, KernelBug)):
        kfree(one)
    cache = kmem_cache_create("twice", 100, 0, SLAB_NOLEAKTRACE)
    assert cache is not None
    addr = kmem_cache_alloc(cache, GFP_KERNEL)
    kmem_cache_free(cache, addr)
    with pytest.raises(KernelBug, match=r"mm/slub\.c:419"):
        kmem_cache_free(cache, addr)


def test_pages_freed_twice_or_in_another_order(m: Machine) -> None:
    page = alloc_pages(GFP_KERNEL, 3)
    assert page is not None
    with pytest.raises(UsageError, match="order 3, not 2"):
        __free_pages(page, 2)
    with pytest.raises(UsageError, match="not the head"):
        __free_pages(page + 1, 0)
    __free_pages(page, 3)
    with pytest.raises(UsageError, match="freed twice, or never allocated"):
        __free_pages(page, 3)
    with pytest.raises(UsageError, match="no page frame"):
        __free_pages(1 << 30, 0)
    addr = kmalloc(100, GFP_KERNEL)
    assert addr is not None
    with pytest.raises(UsageError, match="belongs to a slab"):
        free_page(addr & -4096)


def test_never_allocated(m: Machine) -> None:
    addr = kmalloc(100, GFP_KERNEL)
    assert addr is not None
    with pytest.raises((UsageError, KernelBug)):
        kfree(addr + 8)
    page = __get_free_page(GFP_KERNEL)
    assert page is not None
    free_page(page)
    with pytest.raises(KernelWarning, match="object pointer: 0x"):
        kfree(page)
    large = kmalloc(20_000, GFP_KERNEL)
    assert large is not None
    with pytest.raises(UsageError, match="inside a large allocation"):
        kfree(large + 4096)
    kfree(large)
    with pytest.raises(KernelWarning):
        kfree(large)
    with pytest.raises(KernelWarning, match=r"mm/slab_common\.c:1014 __ksize"):
        ksize(page)


def test_addresses_outside_the_linear_map(m: Machine) -> None:
    area = m.vmalloc(5000)
    for addr in (4096, area):
        with pytest.raises((KernelOops, UsageError)) as caught:
            kfree(addr)
        if m.arch == "x86_64":
            assert "BUG: unable to handle page fault for address: ffffe" in str(caught.value)
    m.vfree(area)


def test_the_wrong_cache(m: Machine) -> None:
    one = kmem_cache_create("one", 100, 0, SLAB_NOLEAKTRACE)
    two = kmem_cache_create("two", 100, 0, SLAB_NOLEAKTRACE)
    assert one is not None and two is not None and one is not two
    addr = kmem_cache_alloc(one, GFP_KERNEL)
    with pytest.raises(KernelWarning, match="Wrong slab cache. two but object is from one"):
        kmem_cache_free(two, addr)


def test_where_reports_are_only_logged_the_kernel_goes_on() -> None:
    with Machine.boot("x86_64", ram="256M", reports="log") as m:
        one = kmem_cache_create("one", 100, 0, SLAB_NOLEAKTRACE)
        two = kmem_cache_create("two", 100, 0, SLAB_NOLEAKTRACE)
        assert one is not None and two is not None
        addr = kmem_cache_alloc(one, GFP_KERNEL)
        kmem_cache_free(two, addr)  # into its own cache
        assert kmem_cache_alloc(one, GFP_KERNEL) == addr
        kmem_cache_free(one, addr)
        assert "cache_from_obj: Wrong slab cache. two but object is from one" in m.dmesg()
        page = __get_free_page(GFP_KERNEL)
        kfree(page)  # as good as free_page(), after a warning
        assert "object pointer: 0x" in m.dmesg()
        assert __get_free_page(GFP_KERNEL) == page
        assert kmalloc(100, GFP_KERNEL | __GFP_HIGHMEM) is not None
        busy = kmem_cache_alloc(one, GFP_KERNEL)
        kmem_cache_destroy(one)
        assert "Slab cache still has objects" in m.dmesg()
        kmem_cache_free(one, busy)
        m.validate()


def test_flags_that_slabs_cannot_honour(m: Machine) -> None:
    with pytest.raises(KernelWarning, match="Unexpected gfp: 0x2 .* Fixing up to gfp: 0xcc0 .*Fix your code!"):
        kmalloc(20_000, GFP_KERNEL | __GFP_HIGHMEM)
    cache = kmem_cache_create("flags", 3000, 0, SLAB_NOLEAKTRACE)
    assert cache is not None
    with pytest.raises(KernelWarning, match="Unexpected gfp: 0x4"):
        kmem_cache_alloc(cache, GFP_KERNEL | __GFP_DMA32)
    # where no new slab is made, nobody looks
    assert kmem_cache_alloc(cache, GFP_KERNEL | __GFP_DMA32) is not None


def test_caches_that_cannot_be(m: Machine) -> None:
    """What a real kernel answered and printed to the same requests."""
    assert kmem_cache_create("bad", 100, 0, 0x1) is None
    assert kmem_cache_create("huge", KMALLOC_MAX_SIZE + 1) is None
    assert kmem_cache_create(None, 100) is None  # type: ignore[arg-type]
    lines = [line for line in m.log.text().splitlines() if line.startswith("kmem_cache")]
    assert lines == [
        "kmem_cache_create_usercopy(bad) failed with error -22",
        "kmem_cache_create_usercopy(huge) failed with error -22",
        "kmem_cache_create_usercopy((null)) failed with error -12",
    ]
    big = kmem_cache_create("big", KMALLOC_MAX_SIZE)
    assert big is not None and m.geometry(big).order == 10
    with pytest.raises(KernelPanic, match="Failed to create slab 'bad'. Error -22"):
        kmem_cache_create("bad", 100, 0, SLAB_PANIC | 0x1)
    for offset, size, line in ((90, 20, 321), (90, 0, 320)):
        with pytest.raises(KernelWarning, match=rf"mm/slab_common\.c:{line} kmem_cache_create_usercopy"):
            kmem_cache_create_usercopy("region", 100, 0, 0, offset, size)


def test_alignments_are_rounded_up_to_words(m: Machine) -> None:
    word = m.kernel.bits_per_long // 8
    odd = kmem_cache_create("odd", 100, 3, SLAB_NOLEAKTRACE)
    assert odd is not None and odd.align == 8 and word <= 8


def test_a_constructor_and_zeroing_contradict_each_other(m: Machine) -> None:
    cache = kmem_cache_create("ctor", 200, 0, 0, lambda addr: m.write(addr, b"made"))
    assert cache is not None
    with pytest.raises(KernelWarning, match=r"mm/slub\.c:2001 ___slab_alloc"):
        kmem_cache_zalloc(cache, GFP_KERNEL)
    addr = kmem_cache_zalloc(cache, GFP_KERNEL)  # no new slab: nobody looks, and nothing is zeroed
    assert addr is not None and m.read(addr, 4) == b"made"


def test_a_destroyed_cache(m: Machine) -> None:
    cache = kmem_cache_create("gone", 100, 0, SLAB_NOLEAKTRACE)
    assert cache is not None
    kmem_cache_destroy(cache)
    for call in (kmem_cache_destroy, kmem_cache_shrink, kmem_cache_size):
        with pytest.raises(StateError, match="cache gone has been destroyed"):
            call(cache)
    with pytest.raises(StateError, match="cache gone has been destroyed"):
        kmem_cache_alloc(cache, GFP_KERNEL)
    other = kmem_cache_create("other", 200, 0, SLAB_NOLEAKTRACE)  # takes over the number
    assert other is not None and other.index == cache.index
    with pytest.raises(StateError, match="cache gone has been destroyed"):
        kmem_cache_free(cache, kmem_cache_alloc(other, GFP_KERNEL))


def test_bulk_frees_are_checked_before_anything_is_freed(m: Machine) -> None:
    cache = kmem_cache_create("bulk", 100, 0, SLAB_NOLEAKTRACE)
    other = kmem_cache_create("other", 100, 0, SLAB_NOLEAKTRACE)
    assert cache is not None and other is not None
    objects: list[int] = []
    kmem_cache_alloc_bulk(cache, GFP_KERNEL, 5, objects)
    stranger = kmem_cache_alloc(other, GFP_KERNEL)
    digest = m.digest()
    with pytest.raises(UsageError, match="twice"):
        kmem_cache_free_bulk(cache, 3, [objects[0], objects[1], objects[0]])
    with pytest.raises((UsageError, KernelOops)):
        kmem_cache_free_bulk(cache, 2, [objects[0], None])
    with pytest.raises(UsageError):
        kmem_cache_free_bulk(cache, 2, [objects[0], objects[1] + 4])
    assert m.digest() == digest
    with pytest.raises(KernelWarning, match="Wrong slab cache. bulk but object is from other"):
        kmem_cache_free_bulk(cache, 2, [objects[0], stranger])  # they are freed, each into its own cache
    kmem_cache_free_bulk(cache, 4, objects[1:])
    kmem_cache_destroy(cache)
    kmem_cache_destroy(other)


class Flop(Exception):
    """What a constructor raises."""


def test_exceptions_in_constructors(m: Machine) -> None:
    made: list[int] = []

    def construct(addr: int) -> None:
        made.append(addr)
        if len(made) == 3:
            raise Flop("the third")

    cache = kmem_cache_create("flop", 1000, 0, 0, construct)
    assert cache is not None
    with pytest.raises(Flop, match="the third"):
        kmem_cache_alloc(cache, GFP_KERNEL)
    m.validate()
    assert m.slub.nr_slabs(cache.index) == 0
    addr = kmem_cache_alloc(cache, GFP_KERNEL)  # it does not raise a second time
    assert addr is not None
    kmem_cache_free(cache, addr)
    kmem_cache_destroy(cache)


def test_a_bulk_request_that_a_constructor_breaks_keeps_nothing(m: Machine) -> None:
    made: list[int] = []

    def construct(addr: int) -> None:
        made.append(addr)
        if len(made) == per_slab + 2:
            raise Flop("in the second slab")

    cache = kmem_cache_create("flops", 1000, 0, 0, construct)
    assert cache is not None
    per_slab = m.geometry(cache).objects
    objects: list[int] = []
    with pytest.raises(Flop):
        kmem_cache_alloc_bulk(cache, GFP_KERNEL, 2 * per_slab, objects)
    assert objects == []
    assert kmem_cache_shrink(cache) == 0  # nothing is in use
    with pytest.raises(KernelWarning, match="Unexpected gfp"):
        kmem_cache_alloc_bulk(cache, GFP_KERNEL | __GFP_HIGHMEM, 3, objects)
    assert kmem_cache_shrink(cache) == 0
    kmem_cache_destroy(cache)


def test_constructors_that_allocate(m: Machine) -> None:
    refused: list[Exception] = []

    def construct(addr: int) -> None:
        assert kmalloc(10, GFP_KERNEL) is not None
        for call in (lambda: kmem_cache_alloc(cache, GFP_KERNEL), lambda: kmem_cache_create("nested", 333)):
            try:
                call()
            except (StateError, UsageError) as error:
                refused.append(error)

    cache = kmem_cache_create("nest", 2000, 0, 0, construct)
    assert cache is not None
    kmem_cache_alloc(cache, GFP_KERNEL)
    assert len(refused) == 2 * m.geometry(cache).objects


def test_no_machine_and_a_closed_one() -> None:
    with pytest.raises(StateError, match="no machine is running here"):
        kmalloc(64, GFP_KERNEL)
    with pytest.raises(StateError, match="no machine is running here"):
        alloc_pages(GFP_KERNEL, 0)
    with Machine.boot("x86_64", ram="128M") as m:
        addr, bound = kmalloc(64, GFP_KERNEL), m.kmalloc
        cache = kmem_cache_create("closed", 100)
    for call in (lambda: m.kmalloc(64, GFP_KERNEL), lambda: bound(64, GFP_KERNEL), lambda: m.kfree(addr)):
        with pytest.raises(StateError, match="shut down"):
            call()
    with Machine.boot("x86_64", ram="128M"), pytest.raises(UsageError, match="of another machine"):
        kmem_cache_alloc(cache, GFP_KERNEL)


def test_each_thread_has_its_own_machine() -> None:
    errors: list[object] = []

    def other() -> None:
        try:
            kmalloc(64, GFP_KERNEL)
        except StateError as error:
            errors.append(error)
        with Machine.boot("i386", ram="128M") as mine:
            for _ in range(1000):
                addr = kmalloc(64, GFP_KERNEL)
                assert addr is not None and addr < 1 << 32
                kfree(addr)
            errors.append(current_kernel().owner is mine)

    with Machine.boot("x86_64", ram="128M") as m:
        threads = [threading.Thread(target=other) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5000):
            addr = kmalloc(64, GFP_KERNEL)
            assert addr is not None and addr >= 1 << 32
            kfree(addr)
        for thread in threads:
            thread.join()
        assert current_kernel().owner is m
        m.validate()
    assert [str(error)[:21] for error in errors if error is not True] == ["no machine is running"] * 4
    assert errors.count(True) == 4


@pytest.mark.parametrize("how", ["preempt", "irqs"])
def test_sleeping_where_one_must_not(m: Machine, how: str) -> None:
    mine = kmem_cache_create("mine", 100)
    if how == "preempt":
        m.kernel.preempt_count += 1
    else:
        m.kernel.irqs_disabled = True
    cache = m.cache("kmalloc-64")
    might_alloc, mutex, rwsem = "sched/mm.h:274", "locking/mutex.c:283", "percpu-rwsem.h:49"
    for call, place in (
        (lambda: kmalloc(64, GFP_KERNEL), might_alloc),
        (lambda: kmalloc(20_000, GFP_KERNEL), might_alloc),
        (lambda: kmem_cache_alloc(cache, GFP_KERNEL), might_alloc),
        (lambda: alloc_pages(GFP_KERNEL, 0), might_alloc),
        (lambda: kmem_cache_create("atomic", 100), mutex),
        (lambda: kmem_cache_shrink(cache), rwsem),
        (lambda: kmem_cache_destroy(mine), rwsem),
    ):
        with pytest.raises(KernelWarning, match=f"sleeping function called from invalid context at .*{place}"):
            call()
    for call in (lambda: kmalloc(64, GFP_ATOMIC), lambda: alloc_pages(GFP_NOWAIT, 0), lambda: kmalloc(0, GFP_KERNEL)):
        assert call() is not None
    m.kernel.preempt_count = 0
    m.kernel.irqs_disabled = False
    assert kmalloc(64, GFP_KERNEL) is not None


def test_aids_hear_of_calls_and_may_refuse_them(m: Machine) -> None:
    class Listener(Aid):
        def __init__(self) -> None:
            self.heard: list[tuple[object, ...]] = []
            self.refuse = False

        def should_failslab(self, cache: object, gfp: int) -> bool:
            return self.refuse

        def slab_alloc(self, addr: int, size: int, cache: object, gfp: int) -> None:
            self.heard.append(("object", addr, size))

        def slab_free(self, addr: int) -> None:
            self.heard.append(("gone", addr))

        def page_alloc(self, pfn: int, order: int, gfp: int) -> None:
            self.heard.append(("pages", pfn, order))

        def page_free(self, pfn: int, order: int) -> None:
            self.heard.append(("free", pfn, order))

    aid = Listener()
    m.kernel.add_aid(aid)
    small, large = kmalloc(50, GFP_KERNEL), kmalloc(20_000, GFP_KERNEL)
    page = alloc_pages(GFP_KERNEL, 1)
    kfree(small)
    kfree(large)
    __free_pages(page, 1)
    assert aid.heard == [
        ("object", small, 64),
        ("object", large, 20_000),
        ("pages", page, 1),
        ("gone", small),
        ("gone", large),
        ("free", page, 1),
    ]
    aid.refuse = True
    assert kmalloc(50, GFP_KERNEL) is None
    assert kmem_cache_alloc_bulk(m.cache("kmalloc-64"), GFP_KERNEL, 5, []) == 0
    m.kernel.remove_aid(aid)
    assert kmalloc(50, GFP_KERNEL) is not None
    assert len(aid.heard) == 6
    with pytest.raises(UsageError):
        m.kernel.add_aid(object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["faults", "failslab", "fail_page_alloc", "kmemleak", "page_owner", "enable_kmemleak", "enable_page_owner"]
)
def test_the_aids_of_a_machine_that_is_shut_down_are_gone(name):
    m = Machine.boot("x86_64", ram="256M", cmdline="kmemleak=on page_owner=on")
    assert getattr(m, name)
    m.shutdown()
    with pytest.raises(StateError, match="the machine 'x86_64.*' has been shut down"):
        aid = getattr(m, name)
        aid()
