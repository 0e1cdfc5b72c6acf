# SPDX-License-Identifier: GPL-2.0-only
"""Debugging aids on a live machine: who is told what, and that nothing changes for those who do not ask."""

from __future__ import annotations

import re

import pytest

from kmem import Machine
from kmem.errors import StateError, UsageError
from kmem.linux.gfp import (
    __GFP_COMP,
    GFP_ATOMIC,
    GFP_HIGHUSER,
    GFP_KERNEL,
    GFP_NOWAIT,
    __free_pages,
    __get_free_pages,
    alloc_pages,
    alloc_pages_bulk_array,
    alloc_pages_exact,
    free_pages_exact,
    page_to_pfn,
)
from kmem.linux.slab import (
    kfree,
    kmalloc,
    kmem_cache_alloc,
    kmem_cache_alloc_bulk,
    kmem_cache_create,
    kmem_cache_free_bulk,
    krealloc,
)
from kmem.linux.vmalloc import vfree, vmalloc
from kmem.mm.page import KIND_NAMES


@pytest.fixture
def m():
    with Machine.boot("x86_64", ram="256M", seed=3) as machine:
        yield machine
        machine.validate()


def program(m: Machine) -> str:
    """A bit of everything, all of it given back; the digest afterwards."""
    cache = kmem_cache_create("things", 120, 0, 0, None)
    objects: list[int] = []
    assert kmem_cache_alloc_bulk(cache, GFP_KERNEL, 20, objects) == 20
    small = [kmalloc(size, GFP_KERNEL) for size in (10, 100, 1000, 9000, 50_000)]
    small[0] = krealloc(small[0], 200, GFP_KERNEL)
    page, area, exact = alloc_pages(GFP_KERNEL, 2), vmalloc(30_000), alloc_pages_exact(20_000, GFP_KERNEL)
    bulk: list = []
    alloc_pages_bulk_array(GFP_KERNEL, 7, bulk)
    for one in bulk:
        __free_pages(one, 0)
    free_pages_exact(exact, 20_000)
    vfree(area)
    __free_pages(page, 2)
    for address in small:
        kfree(address)
    kmem_cache_free_bulk(cache, 20, objects)
    return m.digest()


def test_aids_do_not_change_what_is_handed_out():
    digests = set()
    for enable in (
        lambda m: None,
        lambda m: m.enable_kmemleak(),
        lambda m: m.enable_mem_profiling(),
        lambda m: m.enable_page_owner(),
        lambda m: m.faults.everything(),
    ):
        with Machine.boot("x86_64", ram="256M", seed=3) as m:
            enable(m)
            digests.add(program(m))
    assert len(digests) == 1


def test_what_is_given_back_is_on_no_record(m):
    leaks, tags = m.enable_kmemleak(), m.enable_mem_profiling()
    program(m)
    assert leaks.unfreed() == []
    assert {(tag.size_bytes, tag.calls) for tag in tags.tags} == {(0, 0)}
    assert {tag.site.function for tag in tags.tags} >= {"program"}


def test_every_kind_of_allocation_is_on_record(m):
    leaks = m.enable_kmemleak()
    kmalloc(100, GFP_KERNEL)
    kmalloc(20_000, GFP_KERNEL)
    vmalloc(5000)
    alloc_pages(GFP_KERNEL, 1)
    __get_free_pages(GFP_KERNEL, 0)
    kmem_cache_alloc(kmem_cache_create("things", 120, 0, 0, None), GFP_KERNEL)
    kmem_cache_alloc_bulk(kmem_cache_create("others", 48, 0, 0, None), GFP_KERNEL, 2, [])
    found = [(leak.kind, leak.cache, leak.size) for leak in leaks.unfreed()]
    assert found == [
        ("slab", "kmalloc-128", 128),
        ("kmalloc", "", 20_000),
        ("vmalloc", "", 8192),
        ("pages", "", 8192),
        ("pages", "", 4096),
        ("slab", "things", 120),
        ("slab", "others", 48),
        ("slab", "others", 48),
    ]
    assert all(leak.site.function == "test_every_kind_of_allocation_is_on_record" for leak in leaks.unfreed())


def test_allocinfo(m):
    tags = m.enable_mem_profiling()

    def a():
        return kmalloc(100, GFP_KERNEL)

    def b():
        return alloc_pages(GFP_KERNEL, 3)

    kept = [a() for _ in range(3)]
    b()
    kmalloc(9000, GFP_KERNEL)
    kfree(kept.pop())
    lines = m.proc("allocinfo").splitlines()
    assert lines[:2] == ["allocinfo - version: 1.0", "#     <size>  <calls> <tag info>"]
    name = "test_allocinfo"
    assert [re.sub(r":\d+ ", ":0 ", line) for line in lines[2:]] == [
        f"         256        2 test_aids.py:0 func:{name}.<locals>.a ",
        f"       32768        1 test_aids.py:0 func:{name}.<locals>.b ",
        f"       16384        1 test_aids.py:0 func:{name} ",
    ]
    assert sum(tag.calls for tag in tags.tags) == 4


def test_page_owner_knows_every_block(m):
    before = m.nr_free_pages()
    owner = m.enable_page_owner()
    m.kernel.clock.advance(5_000)
    page = alloc_pages(GFP_KERNEL | __GFP_COMP, 1)
    address = kmalloc(64, GFP_KERNEL)
    vmalloc(3 * 4096)
    records = list(owner.records())
    pcp = int(m.memmap.pagesets_array["count"].sum())
    assert sum(1 << record.order for record in records) <= before + pcp
    slab = owner.owner((address - m.page_offset) >> 12)
    assert slab is not None
    assert slab.gfp == 0x12CC0
    assert slab.trace[0].function == "test_page_owner_knows_every_block"
    record = owner.owner(page_to_pfn(page))
    assert (record.order, record.gfp, record.pid, record.comm, record.time_ns) == (1, 0x40CC0, 1, "init", 5000)
    text = owner.format(record)
    pfn = page_to_pfn(page)
    assert text.splitlines()[:2] == [
        "Page allocated via order 1, mask 0x40cc0(GFP_KERNEL|__GFP_COMP), pid 1, tgid 1 (init),"
        " ts 5000 ns, free_ts 0 ns",
        f"PFN {pfn} type Unmovable Block {pfn >> 9} type Unmovable"
        " Flags 0xfffffc0010000(head|node=0|zone=1|lastcpupid=0x1fffff)",
    ]
    assert text.endswith("\n\n")
    m.kernel.clock.advance(1_000)
    __free_pages(page, 1)
    assert owner.owner(pfn) is None
    again = alloc_pages(GFP_KERNEL | __GFP_COMP, 1)
    assert (page_to_pfn(again), owner.owner(pfn).free_time_ns) == (pfn, 6000)
    assert m.sys("kernel/debug/page_owner").count("Page allocated via order") == len(list(owner.records()))


def test_page_owner_of_i386():
    with Machine.boot("i386", ram="1G") as m:
        owner = m.enable_page_owner()
        record = owner.owner(page_to_pfn(alloc_pages(GFP_HIGHUSER, 0)))
        assert "Flags 0x80000000(zone=2)\n" in owner.format(record)
        assert "mask 0x100cc2(GFP_HIGHUSER)" in owner.format(record)


def test_a_split_block_belongs_to_its_owner_page_by_page(m):
    owner = m.enable_page_owner()
    address = alloc_pages_exact(3 * 4096, GFP_KERNEL)
    pfn = (address - m.page_offset) >> 12
    # An order 2 block: three pages are kept, the fourth goes back at once.
    orders = {record.pfn: record.order for record in owner.records()}
    assert pfn + 3 not in orders
    free_pages_exact(address, 3 * 4096)
    assert owner.read() == ""


def test_a_slab_that_gets_no_pages(m):
    m.fail_page_alloc.configure(probability=100, times=-1, min_order=0, verbose=0)
    assert kmalloc(64, GFP_ATOMIC) is None
    assert alloc_pages(GFP_NOWAIT, 0) is None
    assert kmalloc(64, GFP_KERNEL) is not None, "requests that may sleep are spared"
    assert kmalloc(64, GFP_ATOMIC) is not None, "the slab is there now"
    m.fail_page_alloc.ignore_gfp_wait = False
    assert alloc_pages(GFP_KERNEL, 0) is None
    bulk: list = []
    assert alloc_pages_bulk_array(GFP_KERNEL, 4, bulk) == 0
    assert kmalloc(50_000, GFP_KERNEL) is None
    m.fail_page_alloc.probability = 0
    assert alloc_pages(GFP_KERNEL, 0) is not None


def test_objects_that_fail(m):
    cache = kmem_cache_create("things", 120, 0, 0, None)
    m.failslab.configure(probability=100, times=-1, verbose=0, cache_filter=True)
    m.failslab.caches.add("things")
    assert kmem_cache_alloc(cache, GFP_ATOMIC) is None
    assert kmem_cache_alloc_bulk(cache, GFP_ATOMIC, 5, []) == 0
    assert kmalloc(64, GFP_ATOMIC) is not None
    m.failslab.probability = 0
    assert kmem_cache_alloc(cache, GFP_ATOMIC) is not None


def test_each_failure_point_of_a_program_once():
    """Every request fails once; the program notices, and the machine stays sound."""

    def careful(m: Machine) -> bool:
        got = []
        for size in (64, 300, 9000):
            got.append(kmalloc(size, GFP_KERNEL))
        area = vmalloc(20_000)
        for address in got:
            kfree(address)
        vfree(area)
        return None not in (*got, area)

    outcomes = []
    for nth in range(1, 100):
        with Machine.boot("x86_64", ram="256M") as m:
            leaks = m.enable_kmemleak()
            m.failslab.verbose = m.fail_page_alloc.verbose = 0
            m.faults.countdown = nth
            outcomes.append(careful(m))
            assert leaks.unfreed() == []
            m.validate()
            if m.faults.counted_down is None:
                break
    assert len(outcomes) > 6
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_after_shutdown(m):
    with Machine.boot("x86_64", ram="256M") as other:
        leaks = other.enable_kmemleak()
        kmalloc(64, GFP_KERNEL)
    with pytest.raises(StateError, match="shut down"):
        other.proc("slabinfo")
    assert len(leaks.unfreed()) == 1, "records outlive the machine"


def test_page_owner_follows_pages_that_move():
    """Every second page of the page cache goes; compaction gathers what is left."""
    with Machine.boot("x86_64", ram="128M") as m:
        owner = m.enable_page_owner()
        files = m.kernel.reclaim.filemap
        files.open("keep", 20 << 20)
        files.open("drop", 20 << 20)
        for page in range(20 << 8):
            files.read("keep", page << 12, 1)
            files.read("drop", page << 12, 1)
        files.delete("drop")
        m.compact_memory()
        moved = [record for record in owner.records() if record.migrate_reason]
        assert len(moved) == m.kernel.reclaim.stat.events["pgmigrate_success"] > 0
        assert owner.format(moved[0]).endswith("Page has been migrated, last migrate reason: compaction\n\n")
        kinds = m.memmap.pages_array["kind"]
        in_use = [KIND_NAMES.index(name) for name in ("allocated", "slab", "large")]
        assert all(int(kinds[record.pfn]) in in_use for record in owner.records())
        m.validate()


def test_faults_of_one_task_only(m):
    m.failslab.configure(probability=100, times=-1, verbose=0, task_filter=True)
    answers: dict[str, bool] = {}

    def work(name: str) -> None:
        answers[name] = kmalloc(64, GFP_ATOMIC) is None

    tasks = [m.spawn(lambda name=name: work(name)) for name in ("marked", "other")]
    tasks[0].make_it_fail = True
    for task in tasks:
        m.join(task)
    assert answers == {"marked": True, "other": False}
    assert kmalloc(64, GFP_ATOMIC) is not None


def test_memory_that_is_not_there(m):
    leaks = m.enable_kmemleak()
    for call in (leaks.add_root, leaks.alloc):
        with pytest.raises(UsageError, match="nothing is mapped at 0x1000"):
            call(0x1000, 8)
        with pytest.raises(UsageError, match="hold no references"):
            call(m.page_offset, 0)
    assert leaks.unfreed() == []
    assert leaks.scan() == 0
