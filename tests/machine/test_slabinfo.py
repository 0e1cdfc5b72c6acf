# SPDX-License-Identifier: GPL-2.0-only
"""Reading ``/proc/slabinfo``."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kmem.errors import InputError
from kmem.machine.slabinfo import SlabinfoRow, geometry_from_slabinfo, parse_slabinfo, read_slabinfo
from kmem.mm.kmalloc import create_kmalloc_caches
from kmem.mm.slab_common import CacheList, SlabConfig, calculate_order

DATA = Path(__file__).parents[1] / "data" / "slabinfo"
HEADER = "slabinfo - version: 2.1\n# name <active_objs> ...\n"
LINE = "dentry 12642 12642 192 21 1 : tunables 0 0 0 : slabdata 602 602 0\n"


@pytest.mark.parametrize(
    ("name", "arch", "cpus"),
    [("amd64.txt.gz", "amd64", 1), ("amd64-smp4.txt.gz", "amd64", 4), ("i386.txt.gz", "i386", 1)],
)
def test_slabinfo_of_a_kernel(name: str, arch: str, cpus: int) -> None:
    """The orders that the listed kernel chose are those that the model chooses."""
    rows = read_slabinfo(DATA / name)
    config = SlabConfig.for_arch(arch, cpus=cpus)
    caches = geometry_from_slabinfo(rows, config)
    assert len(caches) == len(rows) > 200
    for cache in caches.values():
        assert (cache.size, cache.objects) == (rows[cache.name].objsize, rows[cache.name].objperslab)
        assert cache.order == calculate_order(cache.size, config)
    kmalloc = CacheList(config)
    create_kmalloc_caches(kmalloc)
    for made in kmalloc.slab_caches:
        listed = caches[made.name]
        assert (listed.size, listed.order, listed.objects, listed.cpu_partial_slabs) == (
            *(made.size, made.order, made.objects),
            made.cpu_partial_slabs,
        )


def test_a_row() -> None:
    rows = parse_slabinfo(HEADER + LINE)
    assert rows == {"dentry": SlabinfoRow("dentry", 12642, 12642, 192, 21, 1, 602, 602)}
    assert rows["dentry"].order == 0


def test_names_with_spaces_and_short_lines() -> None:
    rows = parse_slabinfo(HEADER + "my own cache 1 2 64 64 1\n")
    assert rows["my own cache"] == SlabinfoRow("my own cache", 1, 2, 64, 64, 1)


def test_of_two_caches_with_one_name_the_newest_counts() -> None:
    rows = parse_slabinfo(HEADER + LINE + LINE.replace("192 21", "96 42"))
    assert rows["dentry"].objsize == 192


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: not a slabinfo of version 2"),
        ("nonsense\n", ":1: not a slabinfo of version 2"),
        ("slabinfo - version: 1.1\n", ":1: not a slabinfo of version 2"),
        (HEADER, "lists no slab caches"),
        (HEADER + LINE[:20], ":3: not the line of a slab cache"),
        (HEADER + LINE.replace("21 1 :", "21 3 :"), ":3: cache dentry: slabs of 3 pages"),
        (HEADER + LINE.replace("21 1 :", "21 0 :"), ":3: cache dentry: slabs of 0 pages"),
        (HEADER + LINE.replace(" 192 ", " 0 "), ":3: cache dentry: objects of 0 bytes"),
        (HEADER + LINE.replace(" 192 ", " 99999999999999999999 "), ":3: cache dentry: objects of 9999"),
        (HEADER + LINE.replace("21 1 :", "22 1 :"), ":3: cache dentry: 22 objects of 192 bytes"),
        (HEADER + LINE.replace("12642 12642", "12643 12642"), ":3: cache dentry: 12643 objects in use of 12642"),
    ],
)
def test_bad_text_names_the_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "slabinfo"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_slabinfo(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_slabinfo(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"slabinfo\xff\xfe")
    with pytest.raises(InputError, match="byte 8: not text"):
        read_slabinfo(tmp_path / "binary")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(HEADER.encode() * 99)[:40])
    with pytest.raises(InputError, match="cannot be read"):
        read_slabinfo(tmp_path / "cut.gz")


def test_another_machine_is_refused() -> None:
    rows = parse_slabinfo(HEADER + LINE.replace(" 192 21 1 ", " 196 20 1 "))
    with pytest.raises(InputError, match="check the architecture"):
        geometry_from_slabinfo(rows, SlabConfig.for_arch("amd64"))
    assert geometry_from_slabinfo(rows, SlabConfig.for_arch("i386"))["dentry"].size == 196
