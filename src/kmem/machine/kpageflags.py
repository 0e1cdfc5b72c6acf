# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/kpageflags``: what every page frame is used for, 64 bits each.

Source: fs/proc/page.c:stable_page_flags, include/uapi/linux/kernel-page-flags.h @6.1.192
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kmem.errors import InputError

__all__ = ["KPF_BUDDY", "KPF_LRU", "free_blocks", "read_kpageflags"]

KPF_LRU = 1 << 5  #: on one of reclaim's lists
KPF_BUDDY = 1 << 10  #: in a free block, at its head or not

_BYTES = 8
_NR_ORDERS = 11
_NAMES = ("kpageflags", "kpageflags.bin")


def read_kpageflags(folder: Path, nr_frames: int) -> npt.NDArray[np.uint64] | None:
    """Read a copy of ``kpageflags``, or the running kernel's.

    Parameters
    ----------
    folder : Path
        Copies of ``/proc`` files, or ``/proc``.
    nr_frames : int
        Frames of the machine; no more are read.

    Returns
    -------
    ndarray of uint64 or None
        At most `nr_frames` words; None if there is no such file, or this user may not read it.

    Raises
    ------
    InputError
        If the file cannot be read, or ends within a word.
    """
    path = next((path for name in _NAMES if (path := folder / name).is_file()), None)
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            data = stream.read(nr_frames * _BYTES)
    except PermissionError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if len(data) % _BYTES:
        raise InputError(
            "the file ends within a word", file=path, byte=len(data), remedy="copy /proc/kpageflags, 8 bytes a frame"
        )
    return np.frombuffer(data, "<u8")


def free_blocks(flags: npt.NDArray[np.uint64], start: int, end: int) -> dict[int, list[int]]:
    """Find the free blocks between two frames.

    Parameters
    ----------
    flags : ndarray of uint64
        As :func:`read_kpageflags` returned them.
    start, end : int
        First frame, and the one behind the last.

    Returns
    -------
    dict of int to list of int
        Frames by order. What is free and could be one block is taken to be one.

    Notes
    -----
    Complexity: O(frames).
    """
    first = start >> (_NR_ORDERS - 1) << (_NR_ORDERS - 1)
    length = -(-(end - first) // (1 << (_NR_ORDERS - 1))) << (_NR_ORDERS - 1)
    free = np.zeros(length, bool)
    shown = flags[start:end]
    free[start - first : start - first + len(shown)] = (shown & np.uint64(KPF_BUDDY)) != 0
    levels = [free]
    while len(levels) < _NR_ORDERS:
        levels.append(levels[-1][0::2] & levels[-1][1::2])
    found: dict[int, list[int]] = {}
    for order, level in enumerate(levels):
        alone = level & ~np.repeat(levels[order + 1], 2) if order + 1 < _NR_ORDERS else level
        found[order] = ((np.flatnonzero(alone) << order) + first).tolist()
    return found
