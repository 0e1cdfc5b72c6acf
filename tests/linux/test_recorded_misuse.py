# SPDX-License-Identifier: GPL-2.0-only
"""Requests that make no sense, made to a real kernel and to the model: both say the same in the same order.

``misuse.ops`` is the script that a Debian 6.1.192 amd64 kernel carried out (its operations are described where they
are carried out below), ``misuse.amd64.dmesg.txt`` what it printed: marks, and of each report the line that says what
it is about. Compared are these lines without time, CPU, task, code offsets and addresses, and which requests failed.
"""

from __future__ import annotations

import re
from pathlib import Path

from kmem import Machine
from kmem.linux.gfp import *
from kmem.linux.slab import *

DATA = Path(__file__).parents[1] / "data/linux"
SAYS = ("ORACLE-MARK", "kmem_cache_create_usercopy(", "WARNING: CPU", "Unexpected gfp", "object pointer")
# The fields of a cache and of its objects were recorded, too; these requests answered NULL.
FAILED = {"c 2", "c 3", "m 3", "m 4"}


def what_it_says(log: str) -> list[str]:
    lines = [re.sub(r"^\[ *[\d.]+\] ", "", line) for line in log.splitlines()]
    lines = [re.sub(r"CPU: \d+ PID: \d+ at|\+0x[0-9a-f]+/0x[0-9a-f]+|0x[0-9a-f]{16}$", "", line) for line in lines]
    # Text of a WARN() is a line of its own; the mark of the place is enough of the rest.
    return [" ".join(line.split()) for line in lines if line.startswith(SAYS)]


def carry_out(m: Machine, words: list[str], caches: dict[str, KmemCache | None], held: dict[str, int | None]) -> bool:
    """One operation; whether it got what it asked for."""
    op, slot = words[0], words[1]
    if op == "c":  # create a cache: name, size, align, flags, whether it has a constructor, user region
        size, align, flags, ctor = int(words[3]), int(words[4]), int(words[5], 16), words[6] == "1"
        region = [int(word) for word in words[7:]] or [0, 0]
        caches[slot] = kmem_cache_create_usercopy(
            words[2], size, align, flags, *region, (lambda addr: None) if ctor else None
        )
        return caches[slot] is not None
    if op == "k":  # an object of a cache
        held[slot] = kmem_cache_alloc(caches[words[2]], int(words[3], 16))  # type: ignore[arg-type]
    elif op == "m":
        held[slot] = kmalloc(int(words[2]), int(words[3], 16))
    elif op in ("M", "M!"):
        kfree(held[slot])
        return True
    elif op == "a":
        held[slot] = alloc_pages(int(words[2], 16), int(words[3]))
    elif op == "f":
        __free_pages(held[slot], 0)  # type: ignore[arg-type]
        return True
    return held[slot] is not None


def test_the_model_says_what_the_kernel_said() -> None:
    recorded = (DATA / "misuse.amd64.dmesg.txt").read_text()
    caches: dict[str, KmemCache | None] = {}
    held: dict[str, int | None] = {}
    with Machine.boot("x86_64", ram="512M", reports="log") as m:
        for line in (DATA / "misuse.ops").read_text().splitlines():
            words = line.split()
            if words[0] == "!":
                m.log.printk(f"ORACLE-MARK {' '.join(words[1:])}")
            elif words[0] != "f!":  # a page freed twice: the kernel says nothing, and its count of users is wrong
                assert carry_out(m, words, caches, held) is (" ".join(words[:2]) not in FAILED), line
        assert what_it_says(m.log.text()) == what_it_says(recorded)
        m.validate()
