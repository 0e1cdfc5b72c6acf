# SPDX-License-Identifier: GPL-2.0-only
"""Equalities that drgn's slab helpers are tested by (``tests/linux_kernel/helpers/test_slab.py``), told anew.

Follows drgn 0.0.30, whose helpers read Linux 6.1 among others:

- ``slab_cache_objects_per_slab()`` and ``slab_cache_pages_per_slab()`` are the
  numbers of ``/proc/slabinfo``;
- ``slab_cache_usage()`` adds up to its totals;
- ``slab_cache_for_each_allocated_object()`` yields exactly the objects that
  are out; ``slab_object_info()`` and ``find_containing_slab_cache()`` know for
  an address inside an object its cache, its start and whether it is out;
- ``slab_cache_is_merged()`` and ``get_slab_cache_aliases()`` agree with the
  links in ``/sys/kernel/slab``.

What does not apply: red-black trees of SLOB, SLAB's own structures, and
hardened freelist pointers, which the model does not keep in objects unless a
debug option puts them there.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from kmem import Machine
from kmem.linux.gfp import *
from kmem.linux.slab import *
from kmem.mm.page import KIND_NAMES

SIZES = (24, 64, 200, 704, 1500, 5000)


@pytest.fixture(params=["", "slub_debug=FZPU"], ids=["plain", "debug"])
def m(request):
    with Machine.boot("x86_64", ram="256M", cpus=2, cmdline=f"slub_nomerge {request.param}") as machine:
        yield machine
        machine.validate()


@pytest.fixture
def caches(m):
    return {size: kmem_cache_create(f"drgn_{size}", size, 0, 0, None) for size in SIZES}


def slabinfo(m: Machine) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in m.proc("slabinfo").splitlines()[2:]}


def slabs_of(m: Machine, index: int) -> list[int]:
    """Frames of all slabs of a cache, by a walk over all page records."""
    pages = m.memmap.pages_array[: m.memmap.nr_frames]
    return [int(pfn) for pfn in np.flatnonzero((pages["kind"] == KIND_NAMES.index("slab")) & (pages["cache"] == index))]


def allocated(m: Machine, index: int) -> set[int]:
    """Addresses of the objects that are out: all of the slabs, less those on any freelist."""
    geometry, pages = m.geometry(index), m.memmap.pages_array
    pad = geometry.red_left_pad if geometry.flags & SLAB_RED_ZONE else 0
    every = {
        m.page_offset + (pfn << 12) + pad + number * geometry.size
        for pfn in slabs_of(m, index)
        for number in range(int(pages[pfn]["objects"]))
    }
    free = set()
    dump = m.slub.dump(index)
    lists = [(cpu["slab"]["pfn"], cpu["freelist"]) for cpu in dump["cpus"] if cpu["slab"]]
    for slab in [s for cpu in dump["cpus"] for s in (cpu["slab"], *(entry["s"] for entry in cpu["partial"])) if s]:
        lists.append((slab["pfn"], slab["freelist"]))
    for node in dump["nodes"]:
        lists += [(slab["pfn"], slab["freelist"]) for slab in node["partial"]]
    for pfn, numbers in lists:
        free |= {m.page_offset + (pfn << 12) + pad + number * geometry.size for number in numbers}
    return every - free


def churn(caches: dict[int, KmemCache], seed: int) -> dict[int, set[int]]:
    """Allocate and free at random; what is out afterwards."""
    rng = random.Random(seed)
    out: dict[int, set[int]] = {size: set() for size in caches}
    for _ in range(3000):
        size = rng.choice(SIZES)
        if out[size] and rng.random() < 0.45:
            addr = rng.choice(sorted(out[size]))
            out[size].remove(addr)
            kmem_cache_free(caches[size], addr)
        else:
            out[size].add(kmem_cache_alloc(caches[size], GFP_KERNEL))
    return out


def test_objects_and_pages_of_a_slab(m, caches):
    churn(caches, 1)
    rows = slabinfo(m)
    for size, cache in caches.items():
        row, geometry = rows[f"drgn_{size}"], m.geometry(cache.index)
        assert (int(row[4]), int(row[5])) == (geometry.objects, 1 << geometry.order)
        for pfn in slabs_of(m, cache.index):
            record = m.memmap.pages_array[pfn]
            assert (int(record["objects"]), int(record["order"])) == (geometry.objects, geometry.order)


def test_totals_are_those_of_slabinfo(m, caches):
    out = churn(caches, 2)
    rows = slabinfo(m)
    for size, cache in caches.items():
        slabs = slabs_of(m, cache.index)
        objects = sum(int(m.memmap.pages_array[pfn]["objects"]) for pfn in slabs)
        row = [int(word) for word in rows[f"drgn_{size}"][1:4]]
        assert row[1] == objects
        assert int(rows[f"drgn_{size}"][14]) == int(rows[f"drgn_{size}"][13]) == len(slabs)
        # slabinfo counts what lies ready on a CPU as in use, the walk does not.
        assert len(out[size]) <= row[0] <= objects
        m.slub.flush_all(cache.index)
        assert int(slabinfo(m)[f"drgn_{size}"][1]) == len(out[size])


def test_the_allocated_objects_are_those_that_are_out(m, caches):
    out = churn(caches, 3)
    for size, cache in caches.items():
        assert allocated(m, cache.index) == out[size]


def test_an_address_leads_to_its_object(m, caches):
    out = churn(caches, 4)
    for size, cache in caches.items():
        for addr in sorted(out[size])[:50]:
            pfn = m.slub.slab_of_frame((addr - m.page_offset) >> 12)
            assert pfn is not None
            assert m.slub.slab_cache(pfn) == cache.index
            assert ksize(addr) >= size
    assert m.slub.slab_of_frame(page_to_pfn(alloc_pages(GFP_KERNEL, 0))) is None


def test_merged_caches_and_their_names():
    with Machine.boot("x86_64", ram="256M") as m:
        first = kmem_cache_create("drgn_first", 200, 0, 0, None)
        second = kmem_cache_create("drgn_second", 200, 0, 0, None)
        alone = kmem_cache_create("drgn_alone", 200, 0, SLAB_TYPESAFE_BY_RCU, None)
        assert first.index == second.index != alone.index
        aliases = {name for name in m.sys("kernel/slab").split() if name.startswith("drgn")}
        assert aliases == {"drgn_first", "drgn_second", "drgn_alone"}
        assert m.sys("kernel/slab/drgn_first/aliases") == "1\n"
        assert m.sys("kernel/slab/drgn_alone/aliases") == "0\n"
