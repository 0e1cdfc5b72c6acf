# SPDX-License-Identifier: GPL-2.0-only
"""Copying between the kernel and a process: what cannot be copied is counted, never raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelOops, KernelWarning, UsageError
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from kmem.linux.uaccess import (
    access_ok,
    clear_user,
    copy_from_user,
    copy_to_user,
    get_user,
    put_user,
    strncpy_from_user,
    strnlen_user,
)
from kmem.mm.process import Process

PAGE = 4096
EFAULT = 14
RW = PROT_READ | PROT_WRITE
PA = MAP_PRIVATE | MAP_ANONYMOUS


@pytest.fixture(params=["x86_64", "i386"])
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    with Machine.boot(request.param, ram="256M") as m:
        p = m.process("p")
        with p.running():
            yield p
        m.validate()


def two_pages(p: Process) -> int:
    """Two pages with nothing mapped behind them."""
    area = p.mmap(0, 3 * PAGE, RW, PA)
    p.munmap(area + 2 * PAGE, PAGE)
    return area


def test_there_and_back(process: Process) -> None:
    area = two_pages(process)
    assert copy_to_user(area + 4000, b"x" * 200) == 0
    buffer = bytearray(200)
    assert copy_from_user(buffer, area + 4000) == 0
    assert buffer == b"x" * 200 == process.read(area + 4000, 200)


def test_what_is_missing_is_counted_and_zeroed(process: Process) -> None:
    area = two_pages(process)
    end = area + 2 * PAGE
    process.write(end - 10, b"0123456789")
    assert copy_to_user(end - 4, b"abcdefgh") == 4
    assert process.read(end - 4, 4) == b"abcd"
    buffer = bytearray(b"?" * 16)
    assert copy_from_user(buffer, end - 8) == 8
    assert buffer == b"2345abcd" + bytes(8)
    assert copy_from_user(buffer, 0x10) == 16
    assert clear_user(end - 6, 100) == 94
    assert process.read(end - 10, 10) == b"0123" + bytes(6)


def test_rights_hold_for_the_kernel_too(process: Process) -> None:
    area = two_pages(process)
    process.write(area, b"readonly")
    process.mprotect(area, PAGE, PROT_READ)
    assert copy_to_user(area, b"x") == 1
    buffer = bytearray(8)
    assert copy_from_user(buffer, area) == 0
    assert buffer == b"readonly"
    assert process.kernel.printk.lines == [] or "segfault" not in process.kernel.printk.text()


def test_numbers(process: Process) -> None:
    area = two_pages(process)
    for size in (1, 2, 4, 8):
        assert put_user(-2, area, size) == 0
        assert get_user(area, size) == (0, (1 << 8 * size) - 2)
    assert put_user(1, 0x10) == -EFAULT
    assert get_user(0x10) == (-EFAULT, 0)
    with pytest.raises(UsageError):
        put_user(1, area, 3)


def test_strings(process: Process) -> None:
    area = two_pages(process)
    end = area + 2 * PAGE
    process.write(area + PAGE - 3, b"across\0")
    buffer = bytearray(20)
    assert strncpy_from_user(buffer, area + PAGE - 3, 20) == 6
    assert buffer == b"across" + bytes(14)
    assert strncpy_from_user(buffer, area + PAGE - 3, 4) == 4
    assert strnlen_user(area + PAGE - 3, 100) == 7
    assert strnlen_user(area + PAGE - 3, 3) == 4
    process.write(end - 4, b"tail")
    assert strncpy_from_user(buffer, end - 4, 20) == -EFAULT
    assert strnlen_user(end - 4, 20) == 0
    assert strncpy_from_user(buffer, 1 << 47, 4) == -EFAULT


def test_kernel_addresses_are_refused(process: Process) -> None:
    kernel_addr = process.kernel.owner.kmalloc(64, 0xCC0)
    assert not access_ok(kernel_addr, 1)
    assert access_ok(0, 0xC0000000)
    assert not access_ok(0xFFFFFFFF, 1 << 50)
    assert copy_to_user(kernel_addr, b"attack") == 6
    assert copy_from_user(bytearray(6), kernel_addr) == 6


def test_only_as_a_process(process: Process) -> None:
    area = two_pages(process)
    kernel = process.kernel
    mm, kernel.current.mm = kernel.current.mm, None
    try:
        with pytest.raises(UsageError, match="no user memory"):
            copy_to_user(area, b"x")
    finally:
        kernel.current.mm = mm
    with pytest.raises(UsageError):
        copy_to_user(area, b"abc", 4)
    with pytest.raises(UsageError):
        copy_from_user(bytearray(3), area, 4)


@pytest.mark.parametrize("section", ["preempt_disabled", "irqs_disabled"])
def test_what_may_fault_says_so_before_it_looks_at_a_page(process: Process, section: str) -> None:
    """Also for memory that is there already; strnlen_user() alone has no such check."""
    area = two_pages(process)
    process.write(area, b"here\0")
    m = process.kernel.owner
    clear = "arch/x86/lib/usercopy_32.c:64" if m.kernel.arch == "i386" else "arch/x86/include/asm/uaccess_64.h:96"
    calls: list[tuple[str, Callable[[], object]]] = [
        ("lib/usercopy.c:36", lambda: copy_to_user(area, b"zz")),
        ("lib/usercopy.c:14", lambda: copy_from_user(bytearray(2), area)),
        ("lib/strncpy_from_user.c:117", lambda: strncpy_from_user(bytearray(2), area, 2)),
        (clear, lambda: clear_user(area, 2)),
        ("test_uaccess.py:", lambda: get_user(area)),
        ("test_uaccess.py:", lambda: put_user(1, area)),
    ]
    for place, call in calls:
        with getattr(m, section)(), pytest.raises(KernelWarning, match="sleeping function") as caught:
            call()
        assert place in caught.value.lines[0]
    assert process.read(area, 4) == b"here"
    with getattr(m, section)():
        assert strnlen_user(area, 10) == 5
    assert f"pid: {process.pid}, name: p" in m.log.text()
    assert f"PID: {process.pid} Comm: p " in m.log.text()


def test_no_fault_is_answered_with_preemption_off(process: Process) -> None:
    area = two_pages(process)
    kernel = process.kernel
    kernel.reports = "log"
    process.write(area, b"here")
    with kernel.owner.preempt_disabled():
        assert copy_to_user(area, b"HERE") == 0
        assert copy_to_user(area + PAGE, b"not here yet") == 12
        assert strnlen_user(area + PAGE, 3) == 0
    assert copy_to_user(area + PAGE, b"now") == 0


def test_page_faults_disabled(process: Process) -> None:
    """Between kmap_atomic() and kunmap_atomic() user memory may be tried: no report, no fault."""
    area = two_pages(process)
    process.write(area, b"here")
    m = process.kernel.owner
    addr = m.kmap_atomic(m.alloc_pages(GFP_KERNEL, 0))
    assert copy_to_user(area, b"HERE") == 0
    assert copy_to_user(area + PAGE, b"not here yet") == 12
    m.kunmap_atomic(addr)
    assert copy_to_user(area + PAGE, b"now") == 0


def test_kernel_addresses_as_in_c(process: Process) -> None:
    area = two_pages(process)
    m = process.kernel.owner
    buffer = m.kmalloc(64, GFP_KERNEL)
    m.write(buffer, b"from the driver")
    assert copy_to_user(area, buffer, 15) == 0
    assert process.read(area, 15) == b"from the driver"
    assert copy_from_user(buffer + 32, area + 5, 3) == 0
    assert m.read(buffer + 32, 4) == b"the\0"
    m.write(buffer, b"?" * 64)
    assert copy_from_user(buffer, area + 2 * PAGE - 4, 8) == 4
    assert m.read(buffer, 9) == bytes(8) + b"?"
    process.write(area, b"name\0")
    m.write(buffer, b"?" * 64)
    assert strncpy_from_user(buffer, area, 64) == 4
    assert m.read(buffer, 6) == b"name\0?"
    for call in (lambda: copy_to_user(area, buffer), lambda: copy_from_user(buffer, area)):
        with pytest.raises(UsageError, match="does not tell how many"):
            call()
    gone = m.vmalloc(PAGE)
    m.vfree(gone)
    with pytest.raises(KernelOops):
        copy_to_user(area, gone, 8)


def test_the_running_process_is_the_current_task(process: Process) -> None:
    m = process.kernel.owner
    other = m.process("other")
    assert (m.get_current().pid, m.get_current().comm) == (process.pid, "p")
    with other.running():
        assert (m.get_current().pid, m.get_current().comm) == (other.pid, "other")
    assert m.get_current().pid == process.pid
