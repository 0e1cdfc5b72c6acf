# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's indexes of fragmentation, against the kernel's arithmetic written out for one zone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmem.analysis.fragmentation import extfrag_for_order, fragmentation_index, unusable_free_index

ZONES = st.lists(st.integers(0, 10_000), min_size=11, max_size=11)
ORDERS = st.integers(0, 10)


def counted(nr_free: list[int], order: int) -> tuple[int, int, int]:
    pages = sum(count << each for each, count in enumerate(nr_free))
    suitable = sum(count << (each - order) for each, count in enumerate(nr_free) if each >= order)
    return pages, sum(nr_free), suitable


@given(ZONES, ORDERS)
def test_unusable_free_index(nr_free: list[int], order: int) -> None:
    pages, _, suitable = counted(nr_free, order)
    expected = (pages - (suitable << order)) * 1000 // pages if pages else 1000
    assert int(unusable_free_index(nr_free, order)) == expected
    assert 0 <= expected <= 1000


@given(st.integers(0, 10), ZONES, ORDERS)
def test_fragmentation_index(first_empty: int, nr_free: list[int], order: int) -> None:
    nr_free = [count if each < first_empty else 0 for each, count in enumerate(nr_free)]
    pages, total, suitable = counted(nr_free, order)
    if not total:
        expected = 0
    elif suitable:
        expected = -1000
    else:
        expected = 1000 - (1000 + pages * 1000 // (1 << order)) // total
    assert int(fragmentation_index(nr_free, order)) == expected


@given(ZONES, ORDERS)
def test_extfrag_for_order(nr_free: list[int], order: int) -> None:
    pages, _, suitable = counted(nr_free, order)
    expected = (pages - (suitable << order)) * 100 // pages if pages else 0
    assert int(extfrag_for_order(nr_free, order)) == expected


def test_many_zones_at_once() -> None:
    blocks = np.arange(2 * 3 * 11).reshape(2, 3, 11)
    together = unusable_free_index(blocks, 4)
    assert together.shape == (2, 3)
    assert all(together[i, j] == unusable_free_index(blocks[i, j], 4) for i in range(2) for j in range(3))


def test_shattered_and_exhausted_memory() -> None:
    assert int(unusable_free_index([1024] + 10 * [0], 9)) == 1000
    assert int(fragmentation_index([1024] + 10 * [0], 3)) == 875
    # little memory, in one block just too small: nearly all of the blame is want of memory
    assert int(fragmentation_index([0, 0, 1] + 8 * [0], 10)) == -3
    assert int(fragmentation_index(11 * [0], 3)) == 0


@pytest.mark.parametrize("order", [-1, 11])
def test_orders_that_do_not_exist(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order}"):
        unusable_free_index(11 * [1], order)
