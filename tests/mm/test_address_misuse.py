# SPDX-License-Identifier: GPL-2.0-only
"""Arguments that make no sense: a clear sentence or the kernel's own report, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import KernelBug, KernelOops, KernelWarning, StateError, UsageError
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.highmem import kmap, kmap_atomic, kmap_local_page, memcpy_from_page, memcpy_to_page
from kmem.linux.io import ioremap
from kmem.linux.vmalloc import (
    PAGE_KERNEL,
    VM_MAP,
    VM_NO_GUARD,
    __vmalloc,
    __vmalloc_node,
    find_vm_area,
    vfree,
    vm_unmap_ram,
    vmalloc,
    vmalloc_node,
    vmalloc_to_page,
    vmap,
)

PAGE = 4096


@pytest.fixture(params=("x86_64", "i386"))
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine.boot(request.param, ram="512M") as machine:
        yield machine


CASES: dict[str, tuple[Callable[[Machine, int], Any], type[BaseException], str]] = {
    "negative size of a view": (lambda m, a: m.memory(a, -1), UsageError, "-1 bytes"),
    "negative address": (lambda m, a: m.memory(-5, 4), UsageError, "-0x5 is no address of"),
    "address of too many bits": (lambda m, a: m.read(1 << 70, 4), UsageError, "is no address of"),
    "text as an address": (lambda m, a: m.read("x", 1), TypeError, "integer"),
    "half a byte": (lambda m, a: m.read(a, 1.5), TypeError, "integer"),
    "more bytes than are there": (lambda m, a: m.read(a, 1 << 50), KernelOops, "page fault"),
    "NULL": (lambda m, a: m.memory(None, 8), KernelOops, "NULL pointer dereference"),
    "text to write": (lambda m, a: m.write(a, "text"), TypeError, "bytes-like"),
    "no process": (lambda m, a: m.read(a, 1, 5), UsageError, "5 has no address space"),
    "no process to walk": (lambda m, a: m.walk("init", a), UsageError, "has no address space"),
    "negative size": (lambda m, a: vmalloc(-1), ValueError, "a size of -1 bytes"),
    "size of too many bits": (lambda m, a: vmalloc(1 << 64), ValueError, "does not fit into"),
    "alignment of 3": (lambda m, a: __vmalloc_node(PAGE, 3, GFP_KERNEL, -1), ValueError, "aligned to 3"),
    "alignment of 0": (lambda m, a: __vmalloc_node(PAGE, 0, GFP_KERNEL, -1), ValueError, "aligned to 0"),
    "no such node": (lambda m, a: vmalloc_node(PAGE, 7), ValueError, "no node 7"),
    "negative flags": (lambda m, a: __vmalloc(PAGE, -1), ValueError, "no mask of 32 bits"),
    "text as flags": (lambda m, a: __vmalloc(PAGE, "GFP_KERNEL"), TypeError, "integer"),
    "freeing a negative address": (lambda m, a: vfree(-PAGE), ValueError, "no address of"),
    "freeing what kmalloc gave": (lambda m, a: vfree(m.kmalloc(64, GFP_KERNEL)), KernelWarning, "bad address"),
    "a page that is none": (lambda m, a: vmap([None], 1, VM_MAP, PAGE_KERNEL), TypeError, "integer"),
    "a page that does not exist": (lambda m, a: vmap([1 << 40], 1, VM_MAP, PAGE_KERNEL), UsageError, "no page frame"),
    "fewer pages than said": (lambda m, a: vmap([5], 2, VM_MAP, PAGE_KERNEL), UsageError, "2 pages are to be mapped"),
    "no guard": (lambda m, a: vmap([5], 1, VM_MAP | VM_NO_GUARD, PAGE_KERNEL), KernelWarning, "mm/vmalloc.c:2913"),
    "unmapping what was allocated": (lambda m, a: vm_unmap_ram(a, 1), KernelBug, "mm/vmalloc.c:2295"),
    "NULL as an area's address": (lambda m, a: vmalloc_to_page(None), TypeError, "integer"),
    "an area at no address": (lambda m, a: find_vm_area(-1), ValueError, "no address of"),
    "kmap of no page": (lambda m, a: kmap(None), TypeError, "integer"),
    "kmap of a page that does not exist": (lambda m, a: kmap(1 << 40), UsageError, "no page frame"),
    "kmap_local_page of frame -1": (lambda m, a: kmap_local_page(-1), UsageError, "no page frame"),
    "kmap_atomic of frame -1": (lambda m, a: kmap_atomic(-1), UsageError, "no page frame"),
    "more than a page holds": (lambda m, a: memcpy_to_page(5, 4090, b"x" * 20), UsageError, "not all in one page"),
    "reading past a page": (lambda m, a: memcpy_from_page(5, 4090, 20), UsageError, "not all in one page"),
    "device at a negative address": (lambda m, a: ioremap(-1, 4), ValueError, "-1"),
}


@pytest.mark.parametrize("case", CASES)
def test_misuse_is_said_and_leaves_nothing_behind(m: Machine, case: str) -> None:
    call, error, words = CASES[case]
    addr = vmalloc(2 * PAGE)
    assert addr is not None
    areas = len(m.kernel.vmalloc.vm_areas())
    with pytest.raises(error) as raised:
        call(m, addr)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(m.kernel.vmalloc.vm_areas()) == areas
    assert m.kernel.vmalloc.nr_vmalloc_pages == 2
    assert m.kernel.preempt_count == 0
    m.kernel.vmalloc.validate()
    m.kernel.init_mm.validate()
    m.validate()
    vfree(addr)


def test_a_machine_that_was_shut_down_says_so() -> None:
    with Machine.boot("i386", ram="256M") as m:
        addr = m.vmalloc(PAGE)
        view = m.memory(addr, 4) if addr else None
    assert view is not None
    view[:2] = b"ok"  # a view that is still held stays valid
    for call in (
        lambda: m.vmalloc(5),
        lambda: m.read(addr, 1),
        lambda: m.write(addr, b"x"),
        lambda: m.memory(addr, 1),
        lambda: m.walk(None, addr),
        lambda: m.map(),
        lambda: m.vmallocinfo(),
    ):
        with pytest.raises(StateError, match="has been shut down"):
            call()


def test_without_a_machine_there_is_nothing_to_call() -> None:
    with pytest.raises(StateError, match="no machine is running"):
        vmalloc(PAGE)
