# SPDX-License-Identifier: GPL-2.0-only
"""Requests of the maple tree that a trace does not show.

The tree of a process's mappings takes its nodes one by one, with an event, and
in bulk, without.  ``mas_alloc_nodes()`` takes one node with an event, the list
head, and the rest of what it was asked for in bulk; ``mas_destroy()`` gives
what was not used back: first, in bulk, all but the oldest of the rest, then the
head and that oldest one, with an event each.

Nodes that are taken and given back in bulk come back in the order in which they
lay, so they need not be followed.  Those that are used show themselves when the
trace frees an object that, by what it has shown, nobody has.

Source: lib/maple_tree.c:mas_alloc_nodes, mas_destroy @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kmem.errors import KmemError
from kmem.mm.slub import Slub
from kmem.mm.slub_state import next_objects, take_object

__all__ = ["MapleNodes"]

_GFP_KERNEL = 0xCC0
_MOST = 40  # nodes of one request


@dataclass(slots=True)
class MapleNodes:
    """Bulk requests of the cache ``maple_node``.

    Parameters
    ----------
    slub : Slub
    cache : int
        Index of the cache.
    in_use : callable
        ``in_use(address, event)``: whether an object must be in use after an
        event, for the trace frees it before it allocates it.
    settle : callable
        ``settle(address, event)``: see to it that slabs just made lie where they
        did, and return where the object is then.
    """

    slub: Slub
    cache: int
    in_use: Callable[[int, int], bool]
    settle: Callable[[int, int], int]
    nr_inferred: int = 0

    def allocated(self, event: int) -> None:
        """Take what must have been taken in bulk right after the node that has an event."""
        for address in next_objects(self.slub, self.cache, 1):
            if self.in_use(address, event):
                self.slub.kmem_cache_alloc(self.cache, _GFP_KERNEL)
                self.nr_inferred += 1

    def overflow(self, event: int, made: Callable[[], bool]) -> None:
        """Take nodes until a new slab is made, which the trace shows, and give them back as `mas_destroy()` would."""
        taken: list[int] = []
        while len(taken) < _MOST and not made():
            node = self._take(event)
            if node is None:
                break
            taken.append(node)
        self._give_back(taken, event)

    def _take(self, event: int) -> int | None:
        """One more node, where it really lies."""
        node = self.slub.kmem_cache_alloc(self.cache, _GFP_KERNEL)
        return None if node is None else self.settle(node, event)

    def _give_back(self, nodes: list[int], event: int, *, all_of_them: bool = False) -> None:
        """Free nodes, last first, but for those that somebody must have."""
        for address in reversed(nodes):
            if not all_of_them and self.in_use(address, event):
                self.nr_inferred += 1
            else:
                self.slub.kfree(address)

    def freed(self, address: int) -> bool:
        """Whether a node that is freed must have been taken in bulk; it is in use then."""
        if not take_object(self.slub, address):
            return False
        self.nr_inferred += 1
        return True

    def skip_to(self, event: int, got: int, wanted: int) -> bool:
        """Hand out the recorded node instead of the one that the model gave; False if it is not to be had.

        Those before it on the freelist are in use if the trace frees them; the others keep their place.
        """
        before = [got]
        for _ in range(_MOST):
            node = self._take(event)
            if node is None or node == wanted:
                break
            before.append(node)
        else:
            node = None
        self._give_back(before, event, all_of_them=node != wanted)
        return node == wanted or self.freed(wanted) or self._live(wanted)

    def _live(self, address: int) -> bool:
        """Whether the model has the node in use: then it was given back in bulk, and whoever had it has it no more."""
        try:
            self.slub.kfree(address)
        except KmemError:
            return False
        return take_object(self.slub, address)
