# SPDX-License-Identifier: GPL-2.0-only
"""What debugging aids cost: kmalloc and kfree of 64 bytes, and a page, with each of them on, and with all off again.

``python benchmarks/bench_aids.py`` prints nanoseconds for a pair of calls and
the ratio to a machine that never had any.  Machines take turns, round by
round, and the fastest round of each counts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from kmem import Machine
from kmem.linux.gfp import GFP_KERNEL, __free_pages, alloc_pages
from kmem.linux.slab import kfree, kmalloc
from kmem.mm.kernel import leave_kernel

CALLS = 20_000
ROUNDS = 30


def _off_again(m: Machine) -> None:
    m.enable_kmemleak()
    m.enable_mem_profiling()
    m.enable_page_owner()
    _ = m.faults
    m.disable_kmemleak()
    m.disable_mem_profiling()
    m.disable_page_owner()
    m.disable_faults()


VARIANTS: dict[str, Callable[[Machine], object]] = {
    "never on": lambda m: None,
    "off again": _off_again,
    "fault injection": lambda m: m.faults,
    "page_owner": lambda m: m.enable_page_owner(),
    "profiling": lambda m: m.enable_mem_profiling(),
    "kmemleak": lambda m: m.enable_kmemleak(),
}


def _kmalloc_pair(calls: int) -> None:
    for _ in range(calls):
        kfree(kmalloc(64, GFP_KERNEL))


def _page_pair(calls: int) -> None:
    for _ in range(calls):
        __free_pages(alloc_pages(GFP_KERNEL, 0), 0)


def measure(pair: Callable[[int], None]) -> dict[str, float]:
    """Return nanoseconds for a pair of calls, by variant."""
    machines = {name: Machine.boot("x86_64", ram="512M") for name in VARIANTS}
    for name, m in machines.items():
        VARIANTS[name](m)
    best = dict.fromkeys(VARIANTS, float("inf"))
    gc.disable()
    for _ in range(ROUNDS):
        for name, m in machines.items():
            calls = CALLS if name in ("never on", "off again") else CALLS // 10
            m.__enter__()
            try:
                start = time.perf_counter_ns()
                pair(calls)
                best[name] = min(best[name], (time.perf_counter_ns() - start) / calls)
            finally:
                leave_kernel(m.kernel)
    gc.enable()
    return best


def main() -> None:
    """Print a table."""
    for what, pair in (("kmalloc + kfree", _kmalloc_pair), ("alloc_pages + __free_pages", _page_pair)):
        best = measure(pair)
        print(what)
        for name, ns in best.items():
            print(f"  {name:16} {ns:8.1f} ns  {ns / best['never on']:6.3f}")


if __name__ == "__main__":
    main()
