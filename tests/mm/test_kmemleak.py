# SPDX-License-Identifier: GPL-2.0-only
"""kmemleak on a toy memory: what refers to what, who is an orphan, and the text of the reports.

The memory of most tests::

    0x1000 a ---> 0x2000 b ---> 0x3000 c        0x4000 d ---> 0x5000 e ---> 0x4000 d
    ^ a root, or not                            a ring that nobody outside refers to
"""

from __future__ import annotations

import ctypes
import zlib
from types import SimpleNamespace

import pytest

from kmem.mm.kmemleak import Kmemleak
from kmem.mm.printk import Printk
from kmem.mm.task import Task
from kmem.mm.timekeeping import Clock

CACHE = SimpleNamespace(name="things", object_size=64, size=72, flags=0)
SECOND = 1_000_000_000
HELD: list[int] = []


class Toy:
    """A flat memory with kmemleak over it."""

    def __init__(self) -> None:
        self.memory = bytearray(0x8000)
        self.clock = Clock()
        self.host = SimpleNamespace(
            current=Task(7, "insmod"),
            preempt_count=0,
            printk=Printk(self.clock),
            clock=self.clock,
            bits_per_long=64,
        )
        self.leaks = Kmemleak(self.host, self.read)
        self.leaks.python_roots = False

    def read(self, addr: int, size: int) -> bytes:
        assert 0 <= addr <= addr + size <= len(self.memory)
        return bytes(self.memory[addr : addr + size])

    def new(self, addr: int) -> int:
        self.leaks.slab_alloc(addr, 60, CACHE, 0xCC0)
        return addr

    def point(self, addr: int, to: int) -> None:
        self.memory[addr : addr + 8] = to.to_bytes(8, "little")

    def scan(self) -> list[int]:
        """Two scans, as far apart as it takes, and the orphans."""
        for _ in range(2):
            self.clock.advance(6 * SECOND)
            self.leaks.scan()
        return [object.pointer for object in self.leaks.orphans()]


@pytest.fixture
def toy() -> Toy:
    toy = Toy()
    for addr in (0x1000, 0x2000, 0x3000, 0x4000, 0x5000):
        toy.new(addr)
    toy.point(0x1000, 0x2000)
    toy.point(0x2008, 0x3000)
    toy.point(0x4000, 0x5000)
    toy.point(0x5000, 0x4000)
    return toy


def test_without_roots_only_what_others_refer_to_is_found(toy):
    # b and c are found by nobody either: their referrers are orphans themselves.
    assert toy.scan() == [0x1000, 0x2000, 0x3000, 0x4000, 0x5000]


def test_a_root_leads_to_everything_behind_it(toy):
    toy.point(0x100, 0x1000)
    toy.leaks.add_root(0x100, 16)
    assert toy.scan() == [0x4000, 0x5000]
    toy.leaks.remove_root(0x100)
    assert len(toy.scan()) == 5


def test_a_pointer_into_the_middle_counts_one_behind_the_end_does_not(toy):
    toy.leaks.add_root(0x100, 16)
    toy.point(0x100, 0x1000 + 63)
    assert 0x1000 not in toy.scan()
    toy.point(0x100, 0x1000 + 64)
    assert 0x1000 in toy.scan()


def test_only_aligned_words_are_addresses(toy):
    toy.leaks.add_root(0x100, 32)
    toy.point(0x101, 0x1000)
    assert 0x1000 in toy.scan()


def test_an_object_that_refers_to_itself_is_still_an_orphan():
    toy = Toy()
    toy.new(0x1000)
    toy.point(0x1000, 0x1000)
    assert toy.scan() == [0x1000]


def test_a_gray_object_is_no_leak_and_neither_is_what_it_refers_to(toy):
    toy.leaks.not_leak(0x4000)
    assert toy.scan() == [0x1000, 0x2000, 0x3000]


def test_a_black_object_is_no_leak_but_what_it_refers_to_is(toy):
    toy.leaks.ignore(0x1000)
    assert toy.scan() == [0x2000, 0x3000, 0x4000, 0x5000]


def test_an_object_that_is_not_scanned(toy):
    toy.leaks.not_leak(0x1000)
    toy.leaks.no_scan(0x1000)
    assert toy.scan() == [0x2000, 0x3000, 0x4000, 0x5000]


def test_only_the_named_areas_are_searched(toy):
    toy.leaks.not_leak(0x1000)
    toy.leaks.scan_area(0x1008, 8)
    assert 0x2000 in toy.scan()
    toy.point(0x1008, 0x2000)
    assert 0x2000 not in toy.scan()


def test_unknown_objects_are_said_to_be_unknown(toy):
    toy.leaks.not_leak(0x6000)
    toy.leaks.ignore(0x1008)
    toy.leaks.no_scan(0x6000)
    toy.leaks.scan_area(0x6000, 8)
    toy.leaks.scan_area(0x1030, 64)
    assert toy.host.printk.text().splitlines() == [
        "kmemleak: Trying to color unknown object at 0x00006000 as Grey",
        "kmemleak: Trying to color unknown object at 0x00001008 as Black",
        "kmemleak: Not scanning unknown object at 0x00006000",
        "kmemleak: Adding scan area to unknown object at 0x00006000",
        "kmemleak: Scan area larger than object 0x00001030",
    ]


def test_what_is_freed_is_forgotten(toy):
    toy.leaks.slab_free(0x4000)
    assert toy.scan() == [0x1000, 0x2000, 0x3000, 0x5000]


def test_young_objects_are_not_reported(toy):
    toy.clock.advance(4 * SECOND)
    assert toy.leaks.scan() == toy.leaks.scan() == 0
    toy.clock.advance(2 * SECOND)
    assert toy.leaks.scan() == 5


def test_objects_in_motion_are_not_reported(toy):
    toy.clock.advance(6 * SECOND)
    # Every checksum is new, but that of c: it is all zeros, as a record begins. But b, in motion, refers to it.
    assert toy.leaks.scan() == 0
    toy.memory[0x1020] = 1
    assert toy.leaks.scan() == 2
    assert [object.pointer for object in toy.leaks.orphans()] == [0x4000, 0x5000]
    assert toy.leaks.scan() == 3
    assert [object.pointer for object in toy.leaks.orphans()] == [0x1000, 0x2000, 0x3000, 0x4000, 0x5000]


def test_the_checksum_is_the_kernels_crc32(toy):
    """crc32_le() with seed 0 and no inversion: of one byte 1, the first entry of its table."""
    toy.leaks.alloc(0x7000, 1)
    toy.memory[0x7000] = 1
    toy.scan()
    assert toy.leaks._objects[0x7000].checksum == 0x77073096
    assert zlib.crc32(b"\0" * 9, 0xFFFFFFFF) ^ 0xFFFFFFFF == 0


def test_an_orphan_is_reported_once_and_can_be_cleared(toy):
    assert len(toy.scan()) == 5
    assert "kmemleak: 5 new suspected memory leaks (see /sys/kernel/debug/kmemleak)" in toy.host.printk.text()
    before = len(toy.host.printk.lines)
    assert toy.leaks.scan() == 0
    assert len(toy.host.printk.lines) == before
    toy.leaks.clear()
    assert toy.leaks.read() == ""
    toy.new(0x6000)
    assert toy.scan() == [0x6000]


def test_a_reported_orphan_that_is_found_again_is_not_shown(toy):
    assert 0x1000 in toy.scan()
    toy.point(0x100, 0x1000)
    toy.leaks.add_root(0x100, 8)
    toy.leaks.scan()
    assert [object.pointer for object in toy.leaks.orphans()] == [0x4000, 0x5000]


def test_the_text_of_a_report():
    toy = Toy()
    toy.clock.advance(SECOND)
    toy.leaks.slab_alloc(0x1000, 60, CACHE, 0xCC0)
    toy.memory[0x1000:0x1008] = b"kmemleak"
    toy.leaks.alloc(0x2000, 20)
    toy.scan()
    text = toy.leaks.read()
    first, second = text.split("unreferenced object ")[1:]
    assert first.splitlines()[:-1] == [
        "0x00001000 (size 64):",
        '  comm "insmod", pid 7, jiffies 250',
        "  hex dump (first 32 bytes):",
        "    6b 6d 65 6d 6c 65 61 6b 00 00 00 00 00 00 00 00  kmemleak........",
        "    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................",
        "  backtrace:",
    ]
    assert first.splitlines()[-1].startswith("    test_the_text_of_a_report (test_kmemleak.py:")
    assert "  hex dump (first 20 bytes):\n" in second
    assert "    00 00 00 00                                      ....\n" in second


def test_who_asked(toy):
    toy.host.preempt_count = 0x10000
    toy.new(0x6000)
    toy.host.preempt_count = 0x100
    toy.new(0x6100)
    toy.host.preempt_count = 0
    objects = {object.pointer: (object.comm, object.pid) for object in toy.leaks.unfreed()}
    assert objects[0x6000] == ("hardirq", 0)
    assert objects[0x6100] == ("softirq", 0)
    assert objects[0x5000] == ("insmod", 7)


def test_variables_of_running_code_are_roots():
    class Holder:
        def __init__(self, addr: int) -> None:
            self.inner = {"at": [addr]}

    class Pair(ctypes.Structure):
        _fields_ = [("number", ctypes.c_uint32), ("next", ctypes.c_uint64)]

    toy = Toy()
    toy.leaks.python_roots = True
    for n in range(1, 7):
        toy.leaks.slab_alloc(n << 12, 60, CACHE, 0xCC0)
    local = int("1000", 16)
    holder = Holder(int("2000", 16))
    pair = Pair(1, int("3000", 16))
    HELD.append(int("4000", 16))
    try:
        assert toy.scan() == [0x5000, 0x6000]
    finally:
        HELD.clear()
    assert (local, holder.inner["at"], pair.next) == (1 << 12, [2 << 12], 3 << 12)
    toy.leaks.write("stack=off")
    assert [o >> 12 for o in toy.scan()] == [1, 2, 3, 4, 5, 6]


def test_caches_without_leak_tracing():
    toy = Toy()
    toy.leaks.slab_alloc(0x1000, 60, SimpleNamespace(name="x", object_size=64, size=64, flags=0x800000), 0)
    assert toy.leaks.unfreed() == []


def test_unfreed_since_a_mark_by_call_site(toy):
    mark = toy.leaks.mark()
    for n in range(3):
        toy.new(0x6000 + 64 * n)
    toy.leaks.page_alloc(9, 1, 0xCC0)
    toy.leaks.vmalloc(0x7000, 4096, 0xCC0)
    toy.leaks.slab_free(0x6040)
    found = toy.leaks.unfreed(mark)
    assert [object.kind for object in found] == ["slab", "slab", "pages", "vmalloc"]
    groups = toy.leaks.by_site(mark)
    assert [(group.count, group.size_bytes) for group in groups] == [(1, 8192), (1, 4096), (2, 128)]
    assert str(groups[-1]).startswith("2 objects, 128 bytes, from Toy.new (test_kmemleak.py:")
    assert str(found[0]).startswith("things object 0x6000 (64 bytes) from Toy.new")
    toy.leaks.page_free(9, 1)
    toy.leaks.vfree(0x7000)
    toy.leaks.not_leak(0x6000)
    assert [object.pointer for object in toy.leaks.unfreed(mark)] == [0x6080]


def test_a_split_block_is_given_back_page_by_page():
    toy = Toy()
    toy.leaks.page_alloc(16, 2, 0xCC0)
    toy.leaks.page_free(18, 0)
    assert [(object.pointer >> 12, object.size) for object in toy.leaks.unfreed()] == [
        (16, 4096),
        (17, 4096),
        (19, 4096),
    ]
    for pfn in (16, 19, 17):
        toy.leaks.page_free(pfn, 0)
    assert toy.leaks.unfreed() == []


def test_commands(toy):
    toy.leaks.write("scan\n")
    toy.leaks.write("dump=0x1000")
    assert "kmemleak: Object 0x00001000 (size 64):" in toy.host.printk.text()
    assert "kmemleak:   min_count = 1" in toy.host.printk.text()
    with pytest.raises(ValueError, match="no object at 0x6000"):
        toy.leaks.write("dump=0x6000")
    with pytest.raises(ValueError, match="does not know 'off'"):
        toy.leaks.write("off")
