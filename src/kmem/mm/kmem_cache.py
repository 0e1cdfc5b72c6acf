# SPDX-License-Identifier: GPL-2.0-only
"""Named caches on a running machine: the kernel's list of caches and its objects, kept in step.

:mod:`kmem.mm.slab_common` decides what a new cache looks like and whether it
shares an old one; :mod:`kmem.mm.slub` hands out objects of caches that it knows
by number.  :class:`KmemCaches` is the pair: it creates, shares and destroys
caches by the kernel's rules and gives each its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kmem.errors import StateError, UsageError
from kmem.mm.kmalloc import KMALLOC_SHIFT_HIGH, KmallocCaches, KmallocType, create_kmalloc_caches
from kmem.mm.slab_common import CacheGeometry, CacheList
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slub import Slub

__all__ = ["KmemCaches"]


class KmemCaches:
    """The slab caches of a machine, by name.

    Parameters
    ----------
    slub : Slub
        Where the objects are; its own methods to create and destroy caches
        are not to be called any more.
    config : SlabConfig
        Machine and boot options.

    Attributes
    ----------
    slub : Slub
        The objects.
    list : CacheList
        The kernel's list of caches, newest first.
    aliases : dict of str to int
        Names under which caches were asked for, those included that were merged into another.
    """

    def __init__(self, slub: Slub, config: SlabConfig) -> None:
        self.slub = slub
        slub.cpu_partial = config.cpu_partial
        slub.set_init_options(config.init_on_alloc, config.init_on_free)
        self.list = CacheList(config)
        self.aliases: dict[str, int] = {}

    def create_kmalloc_caches(self) -> KmallocCaches:
        """Make the kmalloc caches of all types, and enter them in the table that ``kmalloc()`` goes by.

        Types that the kernel lacks, and accounted caches under
        ``cgroup.memory=nokmem``, are the normal ones.

        Returns
        -------
        dict
            Geometries by type and index.

        Source: mm/slab_common.c:create_kmalloc_caches @6.1.192
        """
        old = len(self.list.slab_caches)
        table = create_kmalloc_caches(self.list)
        made = self.list.slab_caches[: len(self.list.slab_caches) - old]
        indexes = {id(cache): self.slub.kmem_cache_create(cache) for cache in reversed(made)}
        for kind in KmallocType:
            for index in range(1, KMALLOC_SHIFT_HIGH + 1):
                cache = table[kind][index]
                assert cache is not None  # only index 0 is empty
                self.slub.set_kmalloc_cache(int(kind), index, indexes[id(cache)])
        return table

    def kmem_cache_create(
        self,
        name: str,
        size: int,
        align: int = 0,
        flags: int = 0,
        *,
        ctor: bool = False,
        useroffset: int = 0,
        usersize: int = 0,
        random_seq: Sequence[int] | None = None,
    ) -> int:
        """Create a cache, or share one.

        Parameters
        ----------
        name, size, align, flags, ctor, useroffset, usersize
            As for :meth:`CacheList.kmem_cache_create`.
        random_seq : sequence of int, optional
            Order of the objects on shuffled freelists of a new cache; drawn if not given.

        Returns
        -------
        int
            Number of the cache, for the methods of :class:`Slub`.

        Raises
        ------
        CacheCreateError
            Where the kernel would return NULL.

        Source: mm/slab_common.c:kmem_cache_create_usercopy @6.1.192
        """
        geometry = self.list.kmem_cache_create(
            name, size, align, flags, ctor=ctor, useroffset=useroffset, usersize=usersize
        )
        index = self.index_of(geometry) if geometry.refcount > 1 else self._set_up(geometry, random_seq)
        self.aliases[name] = index
        return index

    def add(self, geometry: CacheGeometry, random_seq: Sequence[int] | None = None) -> int:
        """List a cache whose geometry is known from elsewhere, and return its number; it shares no other."""
        self.list.slab_caches.insert(0, geometry)
        return self._set_up(geometry, random_seq)

    def _set_up(self, geometry: CacheGeometry, random_seq: Sequence[int] | None) -> int:
        """Give a listed cache its number; if that fails it is not listed either."""
        try:
            return int(self.slub.kmem_cache_create(geometry, random_seq))
        except UsageError:
            del self.list.slab_caches[0]
            raise

    def kmem_cache_destroy(self, cache: int) -> bool:
        """Give up one use of a cache; the last one gives its slabs back.

        Parameters
        ----------
        cache : int
            Number of the cache.

        Returns
        -------
        bool
            False if it was the last use, but objects are still out: the cache
            stays, without users, as in the kernel, which warns.

        Source: mm/slab_common.c:kmem_cache_destroy @6.1.192
        """
        geometry = self.geometry(cache)
        if geometry.refcount != 1:
            geometry.refcount -= 1
            return True
        gone = self.slub.kmem_cache_destroy(cache)
        if gone:
            self.list.kmem_cache_destroy(geometry)
            self.aliases = {name: index for name, index in self.aliases.items() if index != cache}
        else:
            geometry.refcount = 0
        if self.slub.pending and self.slub.checker is not None:
            self.slub.checker.deliver()
        return gone

    def geometry(self, cache: int) -> CacheGeometry:
        """Return the layout and limits of the cache with number `cache`.

        Raises
        ------
        UsageError
            If there is none.
        """
        self.slub.check_cache(cache)
        geometry: CacheGeometry = self.slub.geometries[cache]
        return geometry

    def index_of(self, geometry: CacheGeometry) -> int:
        """Return the number of a listed cache. Linear in the number of caches."""
        for index, known in self.slub.geometries.items():
            if known is geometry:
                return int(index)
        raise StateError(f"cache {geometry.name} is listed, but has no objects")

    def find(self, name: str) -> int | None:
        """Return the number of the newest cache that was asked for as `name`, None if there is none."""
        if name in self.aliases:
            return self.aliases[name]
        for geometry in self.list.slab_caches:
            if geometry.name == name:
                return self.index_of(geometry)
        return None

    def save_state(self) -> list[tuple[int, CacheGeometry]]:
        """Return a copy of the list: numbers and geometries, newest first."""
        return [(self.index_of(geometry), replace(geometry)) for geometry in self.list.slab_caches]

    def load_state(self, state: Sequence[tuple[int, CacheGeometry]]) -> None:
        """Go back to a list that :meth:`save_state` returned, once the objects are back in that state."""
        geometries: dict[int, Any] = {index: replace(geometry) for index, geometry in state}
        if geometries.keys() != self.slub.geometries.keys():
            raise StateError("the list of caches and the caches themselves are of different times")
        self.slub.geometries.update(geometries)
        self.list.slab_caches = list(geometries.values())
        self.aliases = {name: index for name, index in self.aliases.items() if index in geometries}
