# SPDX-License-Identifier: GPL-2.0-only
"""Where the recorded kernel mapped its physical memory, by the trace itself.

With KASLR the direct map begins at another address at each boot.  A slab's
pages are allocated just before the first object in them is handed out, so the
frame of a page allocation and the pointer of an object soon after it often
belong together.  Their difference is the base of the map, which is a multiple
of 1 GiB: chance alone makes one in hundreds of thousands of pairs look so.

Source: arch/x86/mm/kaslr.c:kernel_randomize_memory @6.1.192
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["direct_map_base"]

_BASE_SHIFT = 30  # the map begins at a multiple of 1 GiB (PUD_SIZE)
_FEWEST = 2


def direct_map_base(votes: Mapping[int, tuple[int, int]]) -> int | None:
    """Return the address of frame 0, None if too few pairs agree on one.

    Parameters
    ----------
    votes : mapping of int to (int, int)
        How many pairs speak for a base, by the base in GiB; see
        :class:`~kmem.replay.survey_count.SurveyCounter`.
    """
    ranked = sorted(((count, base) for base, (count, _) in votes.items()), reverse=True)[:2]
    if not ranked or ranked[0][0] < _FEWEST or (len(ranked) > 1 and ranked[1][0] * 2 > ranked[0][0]):
        return None
    return ranked[0][1] << _BASE_SHIFT
