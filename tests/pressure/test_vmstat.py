# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/vmstat`` of a live machine, beside that of two real kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmem import Machine
from kmem.linux.gfp import GFP_KERNEL
from kmem.machine.vmstat import format_vmstat

DATA = Path(__file__).parents[1] / "data/pressure"


def counters(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_names_and_their_order_are_the_kernels(arch: str) -> None:
    text = (DATA / f"vmstat-{arch}.txt").read_text()
    real = counters(text)
    assert format_vmstat(real) == text
    with Machine.boot(arch, ram="256M") as m:
        assert list(counters(m.proc("vmstat"))) == list(real)


def test_counters_follow_what_happens() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        m.open_file("f", 100 << 20)
        m.read_file("f")
        m.write_file("g", b"x")
        m.page_alloc.alloc_pages(GFP_KERNEL, 3)
        now = counters(m.proc("/proc/vmstat"))
        assert now["nr_free_pages"] == m.nr_free_pages()
        assert now["nr_file_pages"] == now["nr_inactive_file"] + now["nr_active_file"] + _waiting(m)
        assert now["nr_dirty"] == 1
        assert now["pgsteal_file"] == now["pgsteal_kswapd"] + now["pgsteal_direct"] > 1000
        assert now["pgscan_file"] >= now["pgsteal_file"]
        assert now["nr_dirty_background_threshold"] * 2 <= now["nr_dirty_threshold"] + 1
        unknown = set(m.kernel.reclaim.stat.events) - set(now)
        assert not unknown


def _waiting(m: Machine) -> int:
    """Pages that are not on a list yet."""
    before = m.kernel.reclaim.lru.nodes[0].pages[2]
    m.kernel.reclaim.lru.lru_add_drain_all()
    return m.kernel.reclaim.lru.nodes[0].pages[2] - before
