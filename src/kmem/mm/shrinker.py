# SPDX-License-Identifier: GPL-2.0-only
"""Shrinkers: callbacks by which the owners of caches give memory back under pressure.

Whoever keeps objects that could be made again registers a :class:`Shrinker`.
Reclaim asks it how many objects it could free, works out from the urgency how
many it should look at, and has it look at them in batches.  What was too
little for a batch is remembered and asked for next time.

Source: include/linux/shrinker.h, mm/vmscan.c:do_shrink_slab @6.1.192
Differs: no memory cgroups; a shrinker with ``SHRINKER_MEMCG_AWARE`` is called for the root only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmem.errors import StateError, UsageError
from kmem.mm.vmstat import VmStat

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = [
    "DEFAULT_SEEKS",
    "SHRINKER_MEMCG_AWARE",
    "SHRINKER_NONSLAB",
    "SHRINKER_NUMA_AWARE",
    "SHRINKER_REGISTERED",
    "SHRINK_BATCH",
    "SHRINK_EMPTY",
    "SHRINK_STOP",
    "ShrinkControl",
    "Shrinker",
    "do_shrink_slab",
    "register_shrinker",
    "synchronize_shrinkers",
    "unregister_shrinker",
]

#: ``scan_objects`` cannot make progress now. (~0UL of a 64-bit kernel)
SHRINK_STOP = 0xFFFFFFFFFFFFFFFF
#: ``count_objects`` has nothing at all.
SHRINK_EMPTY = 0xFFFFFFFFFFFFFFFE
#: What an object costs to make again, if you do not know better.
DEFAULT_SEEKS = 2
#: Objects that a shrinker looks at in one go, unless it says otherwise.
SHRINK_BATCH = 128

SHRINKER_REGISTERED = 1 << 0
SHRINKER_NUMA_AWARE = 1 << 1
SHRINKER_MEMCG_AWARE = 1 << 2
SHRINKER_NONSLAB = 1 << 3


@dataclass(slots=True)
class ShrinkControl:
    """What a shrinker is told.

    Attributes
    ----------
    gfp_mask : int
        Of the request that needs memory: without ``__GFP_FS`` do not enter a file system.
    nid : int
        Node to free memory of; 0 for a shrinker that does not know about nodes.
    nr_to_scan : int
        How many objects ``scan_objects`` is to look at.
    nr_scanned : int
        How many it did; `nr_to_scan` unless it says otherwise.

    Source: include/linux/shrinker.h:struct shrink_control @6.1.192
    """

    gfp_mask: int
    nid: int = 0
    nr_to_scan: int = 0
    nr_scanned: int = 0


class Shrinker:
    """A cache that can be made smaller.

    Parameters
    ----------
    count_objects : callable
        ``(shrinker, control) -> int``: how many objects could be freed; 0 for "do not ask now",
        ``SHRINK_EMPTY`` for none. Must not sleep.
    scan_objects : callable
        ``(shrinker, control) -> int``: look at ``control.nr_to_scan`` objects, free what can be
        freed, return how many were; ``SHRINK_STOP`` if nothing can be done now.
    batch : int
        Objects to look at in one go, 0 for ``SHRINK_BATCH``.
    seeks : int
        Cost of an object; 0 for one that costs next to nothing.
    flags : int
        ``SHRINKER_NUMA_AWARE`` to be called for each node.

    Attributes
    ----------
    nr_deferred : list of int
        Objects of each node that were to be looked at and were not.

    Source: include/linux/shrinker.h:struct shrinker @6.1.192
    """

    def __init__(
        self,
        count_objects: Callable[[Shrinker, ShrinkControl], int],
        scan_objects: Callable[[Shrinker, ShrinkControl], int],
        batch: int = 0,
        seeks: int = DEFAULT_SEEKS,
        flags: int = 0,
    ) -> None:
        if not callable(count_objects) or not callable(scan_objects):
            raise UsageError("a shrinker needs two functions, count_objects and scan_objects")
        if batch < 0 or seeks < 0:
            raise UsageError(f"batch {batch} and seeks {seeks} of a shrinker are at least 0")
        self.count_objects = count_objects
        self.scan_objects = scan_objects
        self.batch = batch
        self.seeks = seeks
        self.flags = flags
        self.name = ""
        self.nr_deferred: list[int] = []

    def deferred_node(self, nid: int) -> int:
        """Return the node under which work of node `nid` is deferred."""
        return nid if self.flags & SHRINKER_NUMA_AWARE else 0


def _asked(answer: object, what: str, shrinker: Shrinker) -> int:
    if not isinstance(answer, int) or answer < 0:
        raise UsageError(
            f"{what} of shrinker {shrinker.name!r} returned {answer!r}", remedy="return a number of objects"
        )
    return answer


def do_shrink_slab(
    control: ShrinkControl,
    shrinker: Shrinker,
    priority: int,
    stat: VmStat,
    cond_resched: Callable[[], None] = lambda: None,
) -> int:
    """Let one shrinker work as hard as `priority` says.

    Parameters
    ----------
    control : ShrinkControl
        Request and node.
    shrinker : Shrinker
    priority : int
        12 (relaxed) to 0 (desperate): the share of the objects to look at is 1/2**priority,
        doubled for the usual cost.
    stat : VmStat
        Where ``slabs_scanned`` is counted.

    Returns
    -------
    int
        Objects freed, 0 if there was nothing to do, ``SHRINK_EMPTY`` if the shrinker said so.

    Source: mm/vmscan.c:do_shrink_slab @6.1.192
    """
    freed = scanned = 0
    batch_size = shrinker.batch or SHRINK_BATCH
    freeable = _asked(shrinker.count_objects(shrinker, control), "count_objects", shrinker)
    if freeable in (0, SHRINK_EMPTY):
        return freeable
    nid = shrinker.deferred_node(control.nid)
    nr, shrinker.nr_deferred[nid] = shrinker.nr_deferred[nid], 0
    delta = (freeable >> priority) * 4 // shrinker.seeks if shrinker.seeks else freeable // 2
    total_scan = min((nr >> priority) + delta, 2 * freeable)
    while total_scan >= batch_size or total_scan >= freeable:
        control.nr_to_scan = control.nr_scanned = min(batch_size, total_scan)
        answer = _asked(shrinker.scan_objects(shrinker, control), "scan_objects", shrinker)
        if answer == SHRINK_STOP:
            break
        freed += answer
        stat.count("slabs_scanned", control.nr_scanned)
        total_scan -= control.nr_scanned
        scanned += control.nr_scanned
        cond_resched()
        if not control.nr_scanned:
            # The kernel would go round for ever; nothing here would end it.
            break
    shrinker.nr_deferred[nid] += min(max(nr + delta - scanned, 0), 2 * freeable)
    return freed


def _kernel() -> Kernel:
    from kmem.mm.kernel import current_kernel

    return current_kernel()


def register_shrinker(shrinker: Shrinker, fmt: str = "", *args: object) -> int:
    """Have a shrinker called when memory runs short.

    Parameters
    ----------
    shrinker : Shrinker
    fmt : str
        Name, as a format of ``printk()``.
    *args
        What `fmt` asks for.

    Returns
    -------
    int
        0.

    Raises
    ------
    StateError
        If it is registered already.

    Notes
    -----
    Context: may sleep.

    Source: mm/vmscan.c:register_shrinker @6.1.192
    """
    if not isinstance(shrinker, Shrinker):
        raise TypeError(f"{type(shrinker).__name__} is no Shrinker")
    if shrinker.flags & SHRINKER_REGISTERED:
        raise StateError(f"shrinker {shrinker.name!r} is registered already", remedy="unregister_shrinker() first")
    kernel = _kernel()
    kernel.might_sleep()  # kzalloc(GFP_KERNEL) comes before the lock
    reclaim = kernel.reclaim
    shrinker.name = fmt % args if args else fmt
    shrinker.nr_deferred = [0] * len(reclaim.lru.nodes)
    shrinker.flags |= SHRINKER_REGISTERED
    reclaim.shrinkers.append(shrinker)
    return 0


def unregister_shrinker(shrinker: Shrinker) -> None:
    """Have a shrinker called no more. One that is not registered is left alone.

    Notes
    -----
    Context: may sleep. When it returns, no call of the shrinker is under way.

    Source: mm/vmscan.c:unregister_shrinker @6.1.192
    """
    if not isinstance(shrinker, Shrinker):
        raise TypeError(f"{type(shrinker).__name__} is no Shrinker")
    if not shrinker.flags & SHRINKER_REGISTERED:
        return
    from kmem.mm.might_sleep import check_may_sleep  # which needs the kernel

    kernel = _kernel()
    check_may_sleep(kernel, "kernel/locking/rwsem.c", 1572)
    shrinkers = kernel.reclaim.shrinkers
    if shrinker in shrinkers:
        shrinkers.remove(shrinker)
    shrinker.flags &= ~SHRINKER_REGISTERED


def synchronize_shrinkers() -> None:
    """Wait until all running shrinkers have come to an end.

    Notes
    -----
    Context: may sleep. Shrinkers run to their end here before anything else does.

    Source: mm/vmscan.c:synchronize_shrinkers @6.1.192
    """
    _kernel().might_sleep()
