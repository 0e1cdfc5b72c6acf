# SPDX-License-Identifier: GPL-2.0-only
"""``/sys/kernel/slab`` against what real kernels show, and as a live view.

``tests/data/sysfs`` holds all files of the directory on two kernels, right
after boot: lines ``F CACHE/FILE CONTENT`` and ``L NAME TARGET`` for the links.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from pathlib import Path

import pytest

from kmem.errors import UsageError
from kmem.machine.machine import Machine
from kmem.machine.proc import parse_meminfo
from kmem.machine.procfs import format_meminfo
from kmem.machine.sysfs import SlabSysfs
from kmem.mm.gfp import GFP_KERNEL
from kmem.mm.slab_flags import (
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_TYPESAFE_BY_RCU,
)

DATA = Path(__file__).parents[1] / "data" / "sysfs"
PRESETS = {"amd64": ("x86_64", "512M"), "i386": ("i386", "2G")}
#: Files that follow from how a cache was created.
FIXED = (
    *("slab_size", "object_size", "objs_per_slab", "order", "min_partial", "cpu_partial", "align", "hwcache_align"),
    *("reclaim_account", "destroy_by_rcu", "sanity_checks", "trace", "red_zone", "poison", "store_user", "cache_dma"),
    *("remote_node_defrag_ratio", "usersize"),
)
FLAGS = {
    "hwcache_align": SLAB_HWCACHE_ALIGN,
    "reclaim_account": SLAB_RECLAIM_ACCOUNT,
    "destroy_by_rcu": SLAB_TYPESAFE_BY_RCU,
    "cache_dma": SLAB_CACHE_DMA,
}


def recorded(name: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Files of each directory, and links."""
    caches: dict[str, dict[str, str]] = defaultdict(dict)
    links = {}
    for line in gzip.decompress((DATA / f"{name}.txt.gz").read_bytes()).decode().splitlines():
        kind, what, *rest = line.rstrip("\n").split(" ", 2)
        if kind == "L":
            links[what] = rest[0]
        elif kind == "F":
            cache, _, file = what.rpartition("/")
            caches[cache][file] = rest[0] if rest else ""
    return dict(caches), links


def flags_of(directory: str, files: dict[str, str]) -> int:
    flags = sum(flag for file, flag in FLAGS.items() if files.get(file) == "1")
    return flags | (SLAB_ACCOUNT if re.match(r":[a-zD]*A", directory) else 0)


def boot(name: str, **more) -> Machine:
    preset, ram = PRESETS[name]
    return Machine.boot(preset, ram=ram, **more)


@pytest.mark.parametrize("name", PRESETS)
def test_files_of_every_cache_of_a_real_kernel(name):
    caches, _ = recorded(name)
    with boot(name, cmdline="slub_nomerge") as m:
        known = set(m.sys("kernel/slab").split())
        for place, (directory, files) in enumerate(caches.items()):
            cache = directory
            if directory not in known:
                cache = f"cache{place}"
                m.kmem_cache_create_usercopy(
                    cache,
                    int(files["object_size"]),
                    int(files["align"]),
                    flags_of(directory, files),
                    0,
                    int(files["usersize"]),
                    (lambda address: None) if files["ctor"] else None,
                )
            shown = {file: m.sys(f"kernel/slab/{cache}/{file}") for file in FIXED if file in files}
            assert shown == {file: f"{files[file]}\n" for file in FIXED if file in files}, directory
    assert len(caches) > 80


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_files_and_the_same_form(name):
    caches, _ = recorded(name)
    with boot(name) as m:
        # What is only there because of KFENCE or failslab is not there in the reference kernels either.
        assert {*m.sys("kernel/slab/kmalloc-64").split()} - {"validate", "shrink"} == set(caches["kmalloc-64"])
        m.kmalloc(64, GFP_KERNEL)
        for file, content in caches["kmalloc-64"].items():
            form = re.sub(r"\d+", "0", content)
            mine = re.sub(r"\d+", "0", m.sys(f"kernel/slab/kmalloc-64/{file}").rstrip("\n"))
            # per node and CPU only what is not zero
            assert set(mine.split()) <= {*form.split(), "N0=0", "C0=0(0)"}, file
            assert mine.split()[:1] == form.split()[:1], file


@pytest.mark.parametrize("name", PRESETS)
def test_names_of_shared_caches(name):
    caches, links = recorded(name)
    shared = {directory: files for directory, files in caches.items() if directory.startswith(":")}
    with boot(name) as m:
        for directory, files in shared.items():
            alias = next(link for link, target in links.items() if target == directory)
            m.kmem_cache_create(alias, int(files["slab_size"]), int(files["align"]), flags_of(directory, files))
            assert SlabSysfs(m).links()[alias] == directory
    assert len(shared) > 20
    for directory, files in shared.items():
        assert int(files["aliases"]) + 1 == sum(target == directory for target in links.values())


@pytest.fixture
def m():
    with Machine.boot("x86_64", ram="256M", cpus=2) as machine:
        yield machine


def files(m: Machine, cache: str, *names: str) -> list[str]:
    return [m.sys(f"/sys/kernel/slab/{cache}/{name}").rstrip("\n") for name in names]


def test_slabs_and_objects_as_they_come_and_go(m):
    """Slabs of 16 objects of 256 bytes; 40 objects: two full slabs and one of the CPU's with 8 left."""
    cache = m.kmem_cache_create_usercopy("box", 256, 0, 0, 0, 8).index
    slub = m.slub
    objects = [slub.kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(40)]
    assert files(m, "box", "slabs", "total_objects", "objects", "cpu_slabs", "partial") == [
        "3 N0=3",
        "48 N0=48",
        "48 N0=48",
        "1 N0=1",
        "0",
    ]
    for address in objects[::4]:
        slub.kmem_cache_free(cache, address)
    # The two full slabs have moved to the CPU's partial list.
    assert files(m, "box", "cpu_slabs", "slabs_cpu_partial", "partial") == ["3 N0=3", "16(2) C0=16(2)", "0"]
    slub.flush_all(cache)
    slabs, objs, partial, inuse = files(m, "box", "slabs", "objects", "partial", "objects_partial")
    assert (slabs, partial) == ("3 N0=3", "3 N0=3")
    assert objs == inuse == "30 N0=30"
    m.validate()


def test_views_agree_with_slabinfo(m):
    for size in (24, 100, 600, 3000):
        for _ in range(50):
            m.slub.kmalloc(size, GFP_KERNEL)
    rows = {line.split()[0]: line.split() for line in m.proc("slabinfo").splitlines()[2:]}
    for cache in ("kmalloc-32", "kmalloc-128", "kmalloc-1k", "kmalloc-4k"):
        objects, total, size, per_slab, order, slabs = (
            int(m.sys(f"kernel/slab/{cache}/{name}").split()[0])
            for name in ("objects", "total_objects", "slab_size", "objs_per_slab", "order", "slabs")
        )
        row = rows[cache]
        assert [int(word) for word in row[1:6]] == [objects, total, size, per_slab, 1 << order]
        assert int(row[14]) == slabs > 0


def test_shared_caches_and_their_links(m):

    def make(address: int) -> None:
        pass

    m.kmem_cache_create("first", 200)
    m.kmem_cache_create("second", 194)
    m.kmem_cache_create("alone", 200, ctor=make)
    sysfs = SlabSysfs(m)
    assert sysfs.links() == {"first": ":0000200", "second": ":0000200"}
    assert set(sysfs.listdir()) >= {":0000200", "first", "second", "alone", "kmalloc-64"}
    assert files(m, "second", "aliases", "object_size") == ["1", "200"]
    assert files(m, "alone", "aliases", "ctor") == ["0", "test_shared_caches_and_their_links.<locals>.make"]


def test_debug_flags_show():
    with Machine.boot("x86_64", ram="256M", cmdline="slub_debug=PZ") as m:
        m.kmem_cache_create("dbg", 64)
        flags = ("poison", "red_zone", "store_user", "sanity_checks", "trace", "cpu_partial")
        assert files(m, "dbg", *flags) == ["1", "1", "0", "0", "0", "0"]
        with pytest.raises(UsageError, match="no per-CPU partial lists"):
            m.sys("kernel/slab/dbg/cpu_partial", 30)
        m.sys("kernel/slab/dbg/cpu_partial", 0)
        assert m.geometry(m.cache("dbg")).flags & (SLAB_POISON | SLAB_RED_ZONE)


def test_what_can_be_written(m):
    cache = m.kmem_cache_create_usercopy("box", 256, 0, 0, 0, 8).index
    m.sys("kernel/slab/box/cpu_partial", "60\n")
    assert m.slub.caches_array[cache]["cpu_partial_slabs"] == -(-60 * 2 // 16)
    m.sys("kernel/slab/box/min_partial", "0")
    assert m.slub.caches_array[cache]["min_partial"] == 0
    m.sys("kernel/slab/box/remote_node_defrag_ratio", 20)
    assert files(m, "box", "cpu_partial", "min_partial", "remote_node_defrag_ratio") == ["60", "0", "20"]
    objects = [m.slub.kmem_cache_alloc(cache, GFP_KERNEL) for _ in range(32)]
    for address in objects:
        m.slub.kmem_cache_free(cache, address)
    m.sys("kernel/slab/box/shrink", 1)
    assert files(m, "box", "slabs") == ["0"]
    m.validate()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("kernel/slab/nothing/objects", None, "no /sys/kernel/slab/nothing"),
        ("kernel/slab/kmalloc-64/colour", None, "no file 'colour'"),
        ("kernel/slab/kmalloc-64/objects", 1, "read-only"),
        ("kernel/slab/kmalloc-64/min_partial", "-1", "no number"),
        ("kernel/slab/kmalloc-64/min_partial", "0x10", "no number"),
        ("kernel/slab/kmalloc-64/min_partial", "", "no number"),
        ("kernel/slab/kmalloc-64/min_partial", "99999999999", "no number"),
        ("kernel/slab/kmalloc-64/remote_node_defrag_ratio", "101", "from 0 to 100"),
        ("kernel/slab/kmalloc-64/shrink", "0", "does not take '0'"),
        ("kernel/slab/kmalloc-64/validate", "1", "does not take '1' here"),
        ("kernel/slab", "x", "read-only"),
        ("block/sda", None, "there are kernel/slab and kernel/debug"),
        ("kernel/debug/kmemleak", None, "all debugging aids are off"),
        ("kernel/debug/kmemleak", "scan", "all debugging aids are off"),
    ],
)
def test_what_the_kernel_refuses(m, path, value, message):
    before = m.digest()
    with pytest.raises(UsageError, match=message):
        m.sys(path, value)
    assert m.digest() == before


def test_proc(m):
    assert m.proc("/proc/buddyinfo") == m.proc("buddyinfo")
    assert m.proc("buddyinfo").startswith("Node 0, zone      DMA ")
    with pytest.raises(UsageError, match="there are buddyinfo, "):
        m.proc("allocinfo")
    with pytest.raises(UsageError, match="read-only"):
        m.proc("buddyinfo", 1)
    assert m.proc("self/make-it-fail", 1) == "1\n"
    assert m.kernel.current.make_it_fail is True
    with pytest.raises(UsageError, match="neither 0 nor 1"):
        m.proc("self/make-it-fail", 2)
    assert m.proc("self/fail-nth", "7\n") == "7\n"
    with pytest.raises(UsageError, match="no number"):
        m.proc("self/fail-nth", "seven")


def test_fault_directories(m):
    m.failslab.interval = 5
    assert m.sys("kernel/debug").split() == ["fail_page_alloc", "failslab"]
    assert "cache-filter" in m.sys("kernel/debug/failslab").split()
    assert m.sys("kernel/debug/failslab/interval") == "5\n"
    assert m.sys("kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N") == "N\n"
    assert m.fail_page_alloc.ignore_gfp_highmem is False
    assert m.sys("kernel/debug/fail_page_alloc/min-order", 3) == "3\n"
    with pytest.raises(UsageError, match="neither yes nor no"):
        m.sys("kernel/debug/failslab/task-filter", "maybe")
    with pytest.raises(UsageError, match="probability cannot be -5"):
        m.sys("kernel/debug/failslab/probability", -5)
    with pytest.raises(UsageError, match="read-only"):
        m.sys("kernel/debug/failslab", 1)


def test_aids_of_the_command_line():
    cmdline = "kmemleak=on page_owner=on sysctl.vm.mem_profiling=1 failslab=1,50,0,-1"
    with Machine.boot("x86_64", ram="256M", cmdline=cmdline) as m:
        assert m.kmemleak.read() == ""
        assert m.sys("kernel/debug").split() == ["fail_page_alloc", "failslab", "kmemleak", "page_owner"]
        assert m.proc("allocinfo").startswith("allocinfo - version: 1.0\n")
        assert m.failslab.probability == 50
    with Machine.boot("x86_64", ram="256M") as m:
        assert m.kernel.aids == ()
        for name in ("kmemleak", "page_owner", "alloc_tags"):
            with pytest.raises(RuntimeError, match="is off"):
                getattr(m, name)
        m.enable_kmemleak()
        m.enable_page_owner()
        m.enable_mem_profiling()
        _ = m.faults
        assert len(m.kernel.aids) == 3
        assert m.page_alloc.watch is not None
        m.disable_kmemleak()
        m.disable_page_owner()
        m.disable_mem_profiling()
        m.disable_faults()
        assert m.kernel.aids == ()
        assert m.page_alloc.watch is None
        assert m.trace.enabled == 0


def test_zoneinfo_counts_the_page_cache(m):
    def counter(name: str) -> int:
        return int(re.search(rf"\n +{name} +(\d+)", m.proc("zoneinfo"))[1])

    assert counter("nr_file_pages") == 0
    files = m.kernel.reclaim.filemap
    files.open("log", 40 << 10)
    files.read("log")
    assert counter("nr_file_pages") == 10
    assert counter("nr_inactive_file") == sum(
        int(count) for count in re.findall(r"nr_zone_inactive_file +(\d+)", m.proc("zoneinfo"))
    )


def test_vmallocinfo(m):
    m.vmalloc(10_000)
    assert re.fullmatch(
        r"0xffffc90000000000-0xffffc90000004000   16384 test_vmallocinfo \(test_sysfs.py:\d+\) pages=3 vmalloc N0=3\n",
        m.proc("vmallocinfo"),
    )


def test_who_uses_the_objects():
    with Machine.boot("x86_64", ram="256M", cpus=2, cmdline="slub_debug=U,kmalloc-128") as m:

        def one():
            return m.kmalloc(100, GFP_KERNEL)

        def two():
            return m.kmalloc(128, GFP_KERNEL)

        assert m.sys("kernel/debug").split() == ["slab"]
        assert m.sys("kernel/debug/slab").split() == ["kmalloc-128"]
        assert m.sys("kernel/debug/slab/kmalloc-128").split() == ["alloc_traces", "free_traces"]
        assert m.sys("kernel/debug/slab/kmalloc-128/alloc_traces") == "No data\n"
        kept = [two()]
        m.kernel.clock.advance(40_000_000)
        for _ in range(40):
            kept.append(one())
            m.kernel.clock.advance(4_000_000)
        for address in kept[1:6]:
            m.kfree(address)
        text = m.sys("kernel/debug/slab/kmalloc-128/alloc_traces")
        name = "test_who_uses_the_objects"
        first, second = re.sub(r"py:\d+", "py:0", text).split("\n\n")[:2]
        assert first.splitlines() == [
            f"     35 {name}.<locals>.one (test_sysfs.py:0) waste=980/28 age=1/18/35 pid=1 cpus=0",
            f"        {name}.<locals>.one (test_sysfs.py:0)",
            f"        {name} (test_sysfs.py:0)",
        ]
        assert second.splitlines()[0] == f"      1 {name}.<locals>.two (test_sysfs.py:0) age=50 pid=1 cpus=0"
        text = m.sys("kernel/debug/slab/kmalloc-128/free_traces")
        assert text == "     36 <not-available> age=50 pid=0 cpus=0\n"
        for address in (kept[0], *kept[6:]):
            m.kfree(address)
        one()
        lines = m.sys("kernel/debug/slab/kmalloc-128/free_traces").splitlines()
        assert re.fullmatch(rf"      1 {name} \(test_sysfs.py:\d+\) age=0 pid=1 cpus=0", lines[0])
        with pytest.raises(UsageError, match="caches with SLAB_STORE_USER"):
            m.sys("kernel/debug/slab/kmalloc-64/alloc_traces")


def test_validate_finds_damage():
    with Machine.boot("x86_64", ram="256M", cmdline="slub_debug=FZPU", reports="log") as m:
        address = m.kmalloc(64, GFP_KERNEL)
        m.sys("kernel/slab/kmalloc-64/validate", 1)
        assert "BUG" not in m.log.text()
        m.write(address + 64, b"x")
        m.sys("kernel/slab/kmalloc-64/validate", 1)
        assert "BUG kmalloc-64 (Not tainted): Right Redzone overwritten" in m.log.text()


@pytest.mark.parametrize("folder", ["amd64-512M", "i386-1024M"])
def test_meminfo_of_real_kernels(folder):
    text = (DATA.parent / "proc" / folder / "meminfo").read_text()
    assert format_meminfo(parse_meminfo(text)) == text
    arch = folder.split("-")[0]
    with Machine.boot(PRESETS[arch][0], ram=folder.split("-")[1]) as m:
        real, mine = parse_meminfo(text), parse_meminfo(m.proc("meminfo"))
        assert list(mine) == list(real)
        for fixed in ("SwapTotal", "VmallocTotal", "VmallocChunk", "Hugepagesize", "HugePages_Total", "Zswap"):
            assert mine[fixed] == real[fixed], fixed
        assert abs(mine["MemTotal"] - real["MemTotal"]) < real["MemTotal"] // 200
        direct = [name for name in real if name.startswith("DirectMap")]
        assert abs(sum(mine[name] for name in direct) - sum(real[name] for name in direct)) <= 4096


def test_meminfo_moves_with_the_machine(m):
    def now() -> dict[str, int]:
        return parse_meminfo(m.proc("meminfo"))

    before = now()
    m.vmalloc(100 << 12)
    m.kernel.reclaim.filemap.open("log", 200 << 10)
    m.kernel.reclaim.filemap.read("log")
    for _ in range(40):
        m.kmalloc(4096, GFP_KERNEL)
    after = now()
    assert after["VmallocUsed"] - before["VmallocUsed"] == 400
    assert after["Cached"] - before["Cached"] == 200
    assert after["SUnreclaim"] - before["SUnreclaim"] >= 160
    assert after["MemTotal"] == before["MemTotal"]
    assert before["MemFree"] - after["MemFree"] >= 760
    assert after["MemAvailable"] < after["MemFree"]


#: A paragraph of alloc_traces: who, how many, what is wasted, ages, tasks; then the stack, and an empty line.
TRACES = re.compile(
    r" *\d+ \S.*?(?: waste=\d+/\d+)? age=\d+(?:/\d+/\d+)? pid=\d+(?:-\d+)?(?: cpus=[\d,-]+)?(?: nodes=[\d,-]+)?\n"
    r"(?:(?: {8}\S.*\n)+\n)?"
)


def test_traces_have_the_form_of_a_real_kernel():
    real = gzip.decompress((DATA / "alloc_traces-amd64.txt.gz").read_bytes()).decode()
    counts = [int(match[0].split()[0]) for match in TRACES.finditer(real)]
    assert TRACES.sub("", real.rpartition("\n\n")[0] + "\n\n") == ""
    assert counts == sorted(counts, reverse=True)
    with Machine.boot("x86_64", ram="256M", cmdline="slub_debug=U,kmalloc-96") as m:
        for number in range(20):
            m.kmalloc(65 + number % 3, GFP_KERNEL)
            m.kernel.clock.advance(10_000_000)
        mine = m.sys("kernel/debug/slab/kmalloc-96/alloc_traces")
    assert TRACES.sub("", mine) == ""
    assert len(TRACES.findall(mine)) == 3, "a location for each size that was asked for"
