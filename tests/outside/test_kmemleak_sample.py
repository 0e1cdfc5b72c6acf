# SPDX-License-Identifier: GPL-2.0-only
"""Leaks made on purpose: the case of ``samples/kmemleak/kmemleak-test.c``, told anew.

Follows Linux 6.1.  The sample makes orphans of several sizes by ``kmalloc()``,
``kmem_cache_alloc()`` and ``vmalloc()``; ten elements on a list whose head is
in the module's data; and one object for each CPU, referred to by a per-CPU
variable.  While the module is loaded only the first are leaks.  When it goes,
its data goes with it without freeing anything, and all are.

What differs: the module's data are a Python object and a dict; a reference is
what a variable holds, or a word in an object that one leads to.  The sample's
two objects of ``files_cachep`` come from a cache made here.
"""

from __future__ import annotations

import pytest

from kmem import Machine
from kmem.linux.gfp import *
from kmem.linux.slab import *
from kmem.linux.vmalloc import vfree, vmalloc

WORD = 8
ELEMENT = 64  # a list head, a number, padding


class Module:
    """The sample: its data live as long as it is loaded."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.test_list: int | None = None
        self.pointers: dict[int, int] = {}

    def init(self) -> None:
        files_cachep = kmem_cache_create("files", 704, 64, 0, None)
        for size in (32, 1024, 2048, 4096):
            for _ in range(2):
                kmalloc(size, GFP_KERNEL)
        for _ in range(2):
            kmem_cache_alloc(files_cachep, GFP_KERNEL)
        for _ in range(5):
            vmalloc(64)
        for number in range(10):
            element = kzalloc(ELEMENT, GFP_KERNEL)
            self.m.write(element, (self.test_list or 0).to_bytes(WORD, "little"))
            self.m.write(element + 2 * WORD, number.to_bytes(4, "little"))
            self.test_list = element
        for cpu in range(2):
            self.pointers[cpu] = kmalloc(129, GFP_KERNEL)


def scan(m: Machine) -> None:
    for _ in range(2):
        m.kernel.clock.advance(6_000_000_000)
        m.sys("kernel/debug/kmemleak", "scan")


@pytest.fixture
def m():
    with Machine.boot("x86_64", ram="256M", cpus=2, cmdline="kmemleak=on") as machine:
        yield machine


def test_the_sample(m):
    module = Module(m)
    module.init()
    scan(m)
    leaks = m.kmemleak.orphans()
    assert [(leak.kind, leak.size) for leak in leaks] == [
        *(("slab", size) for size in (32, 32, 1024, 1024, 2048, 2048, 4096, 4096)),
        *[("slab", 704)] * 2,
        *[("vmalloc", 4096)] * 5,
    ]
    assert {leak.site.function for leak in leaks} == {"Module.init"}
    report = m.sys("kernel/debug/kmemleak")
    assert report.count("unreferenced object 0x") == 15
    assert report.count("    Module.init (test_kmemleak_sample.py:") == 15

    elements = module.test_list
    del module
    assert elements is not None
    del elements
    scan(m)
    sizes = [leak.size for leak in m.kmemleak.orphans()]
    assert sizes[15:] == [64] * 10 + [192] * 2
    m.sys("kernel/debug/kmemleak", "clear")
    assert m.sys("kernel/debug/kmemleak") == ""


def test_freed_memory_is_no_leak(m):
    addresses = [kmalloc(100, GFP_KERNEL) for _ in range(10)]
    area = vmalloc(10_000)
    large = kmalloc(100_000, GFP_KERNEL)
    for addr in addresses:
        kfree(addr)
    vfree(area)
    kfree(large)
    del addresses, area, large
    scan(m)
    assert m.sys("kernel/debug/kmemleak") == ""
    assert m.kmemleak.unfreed() == []


def test_a_reference_in_vmalloc_memory(m):
    area = vmalloc(3 * 4096)
    inner = kmalloc(64, GFP_KERNEL)
    m.write(area + 2 * 4096 + 16, inner.to_bytes(WORD, "little"))
    addr, inner = hex(inner), None
    scan(m)
    assert m.kmemleak.orphans() == []
    m.write(area + 2 * 4096 + 16, bytes(WORD))
    scan(m)
    assert [hex(leak.pointer) for leak in m.kmemleak.orphans()] == [addr]
