# SPDX-License-Identifier: GPL-2.0-only
"""The same system calls and memory accesses as a program made on real kernels: same answers, maps and sizes.

``tests/data/processes`` holds what small static programs printed that map, unmap, protect, move, touch and fork, by a
plan or at random, and read their own ``/proc/self/maps`` and ``status`` in between (Linux 6.1, amd64 and i386,
norandmaps, huge pages "always"). Compared are every answer, every area that is not the program's own file, and the
growth of sizes and resident pages since the program's start.
"""

from __future__ import annotations

import errno
import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmem import Machine
from kmem.linux.mman import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE
from kmem.linux.uaccess import clear_user
from kmem.mm.mm_types import VM_IO, VM_MAYREAD, VM_PFNMAP, VM_READ
from kmem.mm.process import Process
from kmem.mm.shmem import ShmemMapping

DATA = Path(__file__).parents[1] / "data/processes"
#: Sizes whose growth has to agree, in kB.
SIZES = ("VmPeak", "VmSize", "VmHWM", "VmRSS", "VmData", "VmStk", "RssAnon", "RssFile", "RssShmem", "VmPTE")
PAGE = 4096


@dataclass
class Area:
    start: int
    end: int
    perms: str
    name: str


def areas_of(text: str) -> list[Area]:
    areas = []
    for line in text.splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)$", line)
        assert match is not None, line
        areas.append(Area(int(match[1], 16), int(match[2], 16), match[3], match[4]))
    return areas


def sizes_of(text: str) -> dict[str, int]:
    return {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s*(\d+) kB", text, re.M)}


class Twin:
    """A modelled process that repeats what the recorded one did."""

    def __init__(self, machine: Machine, areas: list[Area], brk: int, sizes: dict[str, int]) -> None:
        self.process = machine.process("t.bin", privileged=True)
        mm = self.process.mm
        self.own = [area for area in areas if area.name != "[stack]"]
        for area in self.own:
            prot = sum(bit for bit, letter in ((1, "r"), (2, "w"), (4, "x")) if letter in area.perms)
            size, flags = area.end - area.start, MAP_PRIVATE | MAP_FIXED
            if area.name.endswith("t.bin"):  # the guest's files are in memory
                self.process.mmap(area.start, size, prot, flags, ShmemMapping(machine.kernel.vm, size, area.name))
            else:
                self.process.mmap(area.start, size, prot, flags | MAP_ANONYMOUS)
            if area.name.startswith("[v"):  # the kernel's own, which nobody calls and nothing joins
                vma = mm.vma_lookup(area.start)
                assert vma is not None
                vma.name = area.name
                if area.name == "[vvar]":
                    vma.vm_flags = VM_READ | VM_MAYREAD | VM_IO | VM_PFNMAP
            else:
                self.process.read(area.start, 1)
            if "w" in area.perms:  # its buffer, two pages of which it has used
                self.process.touch(area.start, 2 * PAGE)
        mm.start_brk = mm.brk = brk
        self.real_start = sizes
        self.start = sizes_of(self.process.status())

    def call(self, process: Process, words: list[str]) -> int:
        """One recorded operation; the system call's answer, errors negative."""
        name, (a, b, c, d, e) = words[0], (int(word, 16) for word in words[1:6])
        try:
            if name == "write":
                for page in range(a, a + b, PAGE):
                    process.write(page, b"\1")
            elif name == "read":
                for page in range(a, a + b, PAGE):
                    process.read(page, 1)
            elif name == "mmap":
                return process.mmap(a, b, c, d)
            elif name == "munmap":
                process.munmap(a, b)
            elif name == "mprotect":
                process.mprotect(a, b, c)
            elif name == "mremap":
                return process.mremap(a, b, c, d, e)
            elif name == "madvise":
                process.madvise(a, b, c)
            elif name == "brk":
                return process.brk(a)
            elif name == "zero":
                return self.zero(process, a, b)
            elif name == "fork":
                self.fork(process)
            else:
                raise AssertionError(name)
        except OSError as error:
            assert error.errno is not None
            return -error.errno
        return 0

    def zero(self, process: Process, addr: int, size: int) -> int:
        """Read from /dev/zero: the kernel clears the process's memory as far as it can."""
        with process.running():
            done = size - clear_user(addr, size)
        return done or -errno.EFAULT

    def fork(self, process: Process) -> None:
        """A child that ends at once. Both had to copy the program's own pages, or to find that they need not."""
        child = process.fork()
        process.write(process.mm.start_stack, b"\1")
        child.exit()
        for area in self.own:
            if "w" in area.perms:
                process.write(area.start, b"\1")
                process.write(area.start + PAGE, b"\1")

    def compare(self, process: Process, maps: str, status: str, where: str) -> None:
        """Areas and sizes of now; the areas of the program's file stand for themselves on both sides."""
        start_of_own = {area.start for area in self.own}
        recorded = [area for area in areas_of(maps) if area.start not in start_of_own]
        modelled = [area for area in areas_of(process.maps()) if area.start not in start_of_own]
        assert modelled == recorded, where
        real, ours = sizes_of(status), sizes_of(process.status())
        grown = {name: real[name] - self.real_start[name] for name in SIZES}
        assert {name: ours[name] - self.start[name] for name in SIZES} == grown, where


def value(text: str, bits: int) -> int:
    number = int(text, 16)
    return number - (1 << bits) if number >= (1 << bits) - PAGE else number


@pytest.mark.parametrize("path", sorted(DATA.glob("*.txt.gz")), ids=lambda path: path.name.removesuffix(".txt.gz"))
def test_a_program_does_the_same_as_on_a_real_kernel(path: Path) -> None:
    preset, ram, bits = ("x86_64", "1G", 64) if path.name.startswith("amd64") else ("i386", "2G", 32)
    with gzip.open(path, "rt") as file:
        text = file.read()
    parts = re.findall(
        r"^(?:MAPS\n((?:[0-9a-f]+-.*\n)+)STATUS\n((?:\w+:.*\n)+)END|OP (.*)|(CHILD|PARENT))$",
        text,
        re.M,
    )
    snapshots = [part for part in parts if part[0]]
    calls = [part[2] for part in parts if part[2]]
    assert len(snapshots) > 25
    assert len(calls) > 55
    brk = int(calls[0].split(" = ")[1], 16)
    with Machine.boot(preset, ram=ram) as m:
        twin = Twin(m, areas_of(snapshots[1][0]), brk, sizes_of(snapshots[1][1]))
        process = parent = twin.process
        last = "the start"
        for maps, status, op, mark in parts[parts.index(snapshots[1]) :]:
            if mark == "CHILD":
                process = parent.fork()
            elif mark == "PARENT":
                process.exit()
                process = parent
            elif op:
                request, answer = op.split(" = ")
                real = value(answer, bits)
                ours = twin.call(process, request.split())
                assert ours == real, f"{op}: {errno.errorcode.get(-ours, hex(ours))}"
                last = op
            elif status:
                twin.compare(process, maps, status, f"after {last}")
        m.validate()
        parent.exit()
        m.validate()
