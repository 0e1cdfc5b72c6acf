# SPDX-License-Identifier: GPL-2.0-only
"""How broken up free memory is: the kernel's own indexes.

Both indexes are in thousandths, as the kernel computes them; debugfs shows
them divided by 1000 (``/sys/kernel/debug/extfrag``).  All functions take free
blocks by order in the last axis, so that one call serves one zone, all zones,
or all moments of a run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["extfrag_for_order", "fragmentation_index", "unusable_free_index"]

Blocks = npt.NDArray[np.int64]


def _contig_page_info(nr_free: npt.ArrayLike, order: int) -> tuple[Blocks, Blocks, Blocks]:
    """Return free pages, free blocks, and blocks of `order` that could be had.

    Source: mm/vmstat.c:fill_contig_page_info @6.1.192
    """
    blocks = np.asarray(nr_free, np.int64)
    orders = np.arange(blocks.shape[-1])
    if not 0 <= order < len(orders):
        raise ValueError(f"order {order} is not one of 0 to {len(orders) - 1}")
    pages = (blocks << orders).sum(axis=-1)
    suitable = (blocks[..., order:] << orders[: len(orders) - order]).sum(axis=-1)
    return pages, blocks.sum(axis=-1), suitable


def unusable_free_index(nr_free: npt.ArrayLike, order: int) -> Blocks:
    """Return the part of free memory that a request of `order` could not use, in thousandths.

    Parameters
    ----------
    nr_free : array_like of int, shape (..., orders)
        Free blocks by order.
    order : int
        Order of the request.

    Returns
    -------
    ndarray of int64, shape (...)
        0 to 1000; 1000 where nothing is free.

    Raises
    ------
    ValueError
        If there is no such order.

    Source: mm/vmstat.c:unusable_free_index @6.1.192

    Examples
    --------
    >>> int(unusable_free_index([10, 0, 0, 5], 3))
    200
    """
    pages, _, suitable = _contig_page_info(nr_free, order)
    return np.where(pages == 0, 1000, (pages - (suitable << order)) * 1000 // np.maximum(pages, 1))


def fragmentation_index(nr_free: npt.ArrayLike, order: int) -> Blocks:
    """Return why a request of `order` would fail, in thousandths.

    Parameters
    ----------
    nr_free : array_like of int, shape (..., orders)
        Free blocks by order.
    order : int
        Order of the request.

    Returns
    -------
    ndarray of int64, shape (...)
        Towards 0: for want of memory. Towards 1000: because memory is broken
        up. -1000: it would not fail. 0 where nothing is free.

    Raises
    ------
    ValueError
        If there is no such order.

    Source: mm/vmstat.c:__fragmentation_index @6.1.192

    Examples
    --------
    >>> int(fragmentation_index([64, 0, 0, 0], 3))
    860
    """
    pages, total, suitable = _contig_page_info(nr_free, order)
    index = 1000 - (1000 + (pages * 1000 >> order)) // np.maximum(total, 1)
    return np.where(total == 0, 0, np.where(suitable > 0, -1000, index))


def extfrag_for_order(nr_free: npt.ArrayLike, order: int) -> Blocks:
    """Return the percentage of free pages in blocks too small for `order`, 0 to 100; 0 where nothing is free.

    Source: mm/vmstat.c:extfrag_for_order @6.1.192
    """
    pages, _, suitable = _contig_page_info(nr_free, order)
    return (pages - (suitable << order)) * 100 // np.maximum(pages, 1)
