# SPDX-License-Identifier: GPL-2.0-only
"""Checking all objects of a cache at once, as writing to ``/sys/kernel/slab/NAME/validate`` does.

Source: mm/slub.c:validate_slab_cache @6.1.192
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem.errors import StateError
from kmem.mm.argument import expect
from kmem.mm.kernel import current_kernel
from kmem.mm.slab_api import KmemCache

if TYPE_CHECKING:
    from kmem.mm.slub_check import SlubChecker

__all__ = ["slab_errors", "validate_slab_cache"]


def _checker() -> SlubChecker:
    checker = current_kernel().slub.checker
    if checker is None:
        raise StateError("this machine's objects have no bytes to check")
    return checker


def validate_slab_cache(s: KmemCache) -> int:
    """Check red zones, poison, padding and free pointers of every object of a cache, and report what is wrong.

    Only slabs on the nodes' lists can be checked: of a cache without SLAB_STORE_USER, full ones are on none.
    What is found is reported as by the check of a single object, repaired, and counted by :func:`slab_errors`.

    Parameters
    ----------
    s : KmemCache

    Returns
    -------
    int
        How many slabs were looked at.

    Raises
    ------
    KernelWarning
        If something is wrong, and the machine's reports are exceptions.

    Notes
    -----
    May sleep. O(objects).

    Source: mm/slub.c:validate_slab_cache @6.1.192
    """
    expect(s, KmemCache, "the cache")
    checker = _checker()
    current_kernel().might_sleep()
    return checker.slub.validate_slab_cache(s.index)


def slab_errors() -> int:
    """Return how many errors SLUB has found since the machine's kernel began: each report, and each repair.

    The kernel counts so in its own tests.

    Source: mm/slub.c:slab_add_kunit_errors @6.1.192
    """
    return _checker().errors
