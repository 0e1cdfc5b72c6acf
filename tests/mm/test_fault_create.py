# SPDX-License-Identifier: GPL-2.0-only
"""Faults injected into what the kernel allocates for itself."""

from __future__ import annotations

import pytest

from kmem import Machine
from kmem.errors import KernelPanic
from kmem.linux.slab import SLAB_PANIC, kmem_cache_create
from kmem.linux.workqueue import alloc_workqueue


@pytest.fixture(params=["x86_64", "i386"])
def m(request):
    with Machine.boot(request.param, ram="256M") as machine:
        machine.faults.everything()
        machine.failslab.verbose = 0
        yield machine
        machine.validate()


@pytest.mark.parametrize(("nth", "reason"), [(1, -12), (2, -12), (3, -22)])
def test_each_request_that_a_cache_takes_can_fail(m, nth, reason):
    before = m.digest()
    m.faults.fail_nth = nth
    assert kmem_cache_create("victim", 1000, 0, 0x800) is None
    assert f"kmem_cache_create_usercopy(victim) failed with error {reason}\n" in m.dmesg()
    assert m.digest() == before
    assert kmem_cache_create("victim", 1000, 0, 0x800).name == "victim"


def test_a_cache_that_must_be_there(m):
    m.faults.fail_nth = 2
    with pytest.raises(KernelPanic, match="Failed to create slab 'victim'. Error -12"):
        kmem_cache_create("victim", 1000, 0, 0x800 | SLAB_PANIC)


def test_sharing_a_cache_takes_nothing(m):
    first = kmem_cache_create("first", 1000)
    m.failslab.configure(probability=100, times=-1)
    assert kmem_cache_create("second", 1000) is first
    assert m.faults.failures == 0


def test_only_the_caches_that_are_meant(m):
    m.failslab.configure(probability=100, times=-1, cache_filter=True)
    m.failslab.caches = {"kmem_cache_node"}
    assert kmem_cache_create("victim", 1000, 0, 0x800) is None
    m.failslab.caches = {"kmalloc-64"}
    assert kmem_cache_create("victim", 1000, 0, 0x800) is not None


def test_a_work_queue(m):
    m.faults.fail_nth = 1
    assert alloc_workqueue("w", 0, 0) is None
    assert alloc_workqueue("w", 0, 0).name == "w"
