# SPDX-License-Identifier: GPL-2.0-only
"""The kernel versions that kmem knows, as data.

Each table below holds what one source file of one kernel says.  A profile is
put together from tables, so that a layout shared by several kernels is written
once.  The bits depend on the kernel's configuration too; the profiles take the
usual one of distributions: MEMCG and KFENCE on; LOCKDEP, KASAN, DEBUG_OBJECTS,
FAILSLAB and CMA off.

Source: include/linux/gfp_types.h, include/linux/slab.h, include/linux/page-flags.h,
include/trace/events/mmflags.h @6.1.192; the same files (gfp.h before 6.0) of the
kernels named at each table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kmem.errors import UsageError

__all__ = ["PROFILES", "REFERENCE", "Profile", "profile_for"]

FlagNames = tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """What is particular to one kernel version.

    Parameters
    ----------
    name : str
        ``"6.1"``; how the profile is chosen on the command line.
    version : tuple of int
        ``(major, minor)``.
    gfp_bits : mapping of str to int
        ``"__GFP_ZERO"`` to its bit, in ascending order of the bits.
    gfp_names : tuple of (int, str)
        Masks and the names that trace events print for them, in the order in
        which the kernel tries them: the longest compounds first.
    gfp_aliases : mapping of str to int
        Further names that are understood but never printed.
    slab_bits : mapping of str to int
        ``"SLAB_PANIC"`` to its bit, in ascending order of the bits.
    page_bits : mapping of str to int
        ``"PG_locked"`` without its prefix, to its bit.
    page_names : tuple of (int, str)
        Page flags in the order in which the kernel prints them.
    migrate_types : tuple of str
        Names of the migrate types as ``/proc/pagetypeinfo`` prints them, by
        number (without CMA).
    nr_page_orders : int
        How many orders the buddy lists have (11: orders 0 to 10).
    nr_pcp_lists : int
        How many lists a per-CPU page set has: 3 where only single pages are
        kept, 14 with orders 0 to 3 and two lists of huge pages.
    """

    name: str
    version: tuple[int, int]
    gfp_bits: Mapping[str, int]
    gfp_names: FlagNames
    gfp_aliases: Mapping[str, int]
    slab_bits: Mapping[str, int]
    page_bits: Mapping[str, int]
    page_names: FlagNames
    migrate_types: tuple[str, ...]
    nr_page_orders: int
    nr_pcp_lists: int

    def gfp(self, name: str) -> int:
        """Return the mask of a GFP name of this kernel, compound or single.

        Raises
        ------
        UsageError
            This kernel has no such flag.
        """
        for table in (self.gfp_bits, {n: m for m, n in self.gfp_names}, self.gfp_aliases):
            if name in table:
                return table[name]
        raise UsageError(f"Linux {self.name} has no GFP flag {name!r}")


# The bits, lowest first; None is a bit without a name.
_GFP_LOW = ("DMA", "HIGHMEM", "DMA32", "MOVABLE", "RECLAIMABLE", "HIGH", "IO", "FS")

# 4.5 to 4.10
_GFP_BITS_4_9 = (
    *_GFP_LOW,
    *("COLD", "NOWARN", "REPEAT", "NOFAIL", "NORETRY", "MEMALLOC", "COMP", "ZERO"),
    *("NOMEMALLOC", "HARDWALL", "THISNODE", "ATOMIC", "ACCOUNT", "NOTRACK", "DIRECT_RECLAIM", "OTHER_NODE"),
    *("WRITE", "KSWAPD_RECLAIM"),
)
# 4.11 to 4.18 (REPEAT until 4.12; COLD and NOTRACK until 4.14)
_GFP_BITS_4_14 = (
    *_GFP_LOW,
    *("COLD", "NOWARN", "RETRY_MAYFAIL", "NOFAIL", "NORETRY", "MEMALLOC", "COMP", "ZERO"),
    *("NOMEMALLOC", "HARDWALL", "THISNODE", "ATOMIC", "ACCOUNT", "NOTRACK", "DIRECT_RECLAIM", "WRITE"),
    "KSWAPD_RECLAIM",
)
# 4.19 and 4.20
_GFP_BITS_4_19 = (
    *_GFP_LOW,
    *("WRITE", "NOWARN", "RETRY_MAYFAIL", "NOFAIL", "NORETRY", "MEMALLOC", "COMP", "ZERO"),
    *("NOMEMALLOC", "HARDWALL", "THISNODE", "ATOMIC", "ACCOUNT", "DIRECT_RECLAIM", "KSWAPD_RECLAIM"),
)
# 5.0 on
_GFP_BITS_5_4 = (
    *_GFP_LOW,
    *("ZERO", "ATOMIC", "DIRECT_RECLAIM", "KSWAPD_RECLAIM", "WRITE", "NOWARN", "RETRY_MAYFAIL", "NOFAIL"),
    *("NORETRY", "MEMALLOC", "COMP", "NOMEMALLOC", "HARDWALL", "THISNODE", "ACCOUNT"),
)
_GFP_BITS_5_15 = (*_GFP_BITS_5_4, "ZEROTAGS", "SKIP_KASAN_POISON")  # 5.14 on
_GFP_BITS_6_1 = (*_GFP_BITS_5_4, "ZEROTAGS")
_GFP_BITS_6_6 = tuple(None if name == "ATOMIC" else name for name in _GFP_BITS_6_1)  # 6.3 on
_GFP_BITS_6_12 = (*_GFP_BITS_6_6, "NO_OBJ_EXT")  # 6.10 on

# Names in the order in which trace events try them.
_COMPOUNDS = (
    *("GFP_TRANSHUGE", "GFP_TRANSHUGE_LIGHT", "GFP_HIGHUSER_MOVABLE", "GFP_HIGHUSER", "GFP_USER"),
    *("GFP_KERNEL_ACCOUNT", "GFP_KERNEL", "GFP_NOFS", "GFP_ATOMIC", "GFP_NOIO", "GFP_NOWAIT"),
)
_TAIL = (
    *("__GFP_NOFAIL", "__GFP_NORETRY", "__GFP_COMP", "__GFP_ZERO", "__GFP_NOMEMALLOC", "__GFP_MEMALLOC"),
    *("__GFP_HARDWALL", "__GFP_THISNODE", "__GFP_RECLAIMABLE", "__GFP_MOVABLE", "__GFP_ACCOUNT"),
)
_RECLAIM = ("__GFP_RECLAIM", "__GFP_DIRECT_RECLAIM", "__GFP_KSWAPD_RECLAIM")
_HEAD = ("GFP_DMA", "__GFP_HIGHMEM", "GFP_DMA32", "__GFP_HIGH", "__GFP_ATOMIC", "__GFP_IO", "__GFP_FS")

_GFP_NAMES_4_9 = (
    *_COMPOUNDS[:5],
    "GFP_TEMPORARY",
    *_COMPOUNDS[5:],
    *_HEAD,
    *("__GFP_COLD", "__GFP_NOWARN", "__GFP_REPEAT", *_TAIL, "__GFP_NOTRACK", "__GFP_WRITE", *_RECLAIM),
    "__GFP_OTHER_NODE",
)
_GFP_NAMES_4_14 = (
    *(*_COMPOUNDS, *_HEAD, "__GFP_COLD", "__GFP_NOWARN", "__GFP_RETRY_MAYFAIL", *_TAIL),
    *("__GFP_NOTRACK", "__GFP_WRITE", *_RECLAIM),
)
_GFP_NAMES_4_19 = (*_COMPOUNDS, *_HEAD, "__GFP_NOWARN", "__GFP_RETRY_MAYFAIL", *_TAIL, "__GFP_WRITE", *_RECLAIM)
_GFP_NAMES_5_15 = (*_GFP_NAMES_4_19, "__GFP_ZEROTAGS", "__GFP_SKIP_KASAN_POISON")
_GFP_NAMES_6_1 = (*_GFP_NAMES_4_19, "__GFP_ZEROTAGS")
_GFP_NAMES_6_6 = tuple(name for name in _GFP_NAMES_6_1 if name != "__GFP_ATOMIC")
# 6.15 on: after the compounds, the bits themselves in ascending order.
_GFP_NAMES_6_18 = (
    *(*_COMPOUNDS, "GFP_DMA", "GFP_DMA32", "__GFP_RECLAIM"),
    *(f"__GFP_{name}" for name in _GFP_BITS_6_12 if name),
)

# Kernels before 4.6 printed single flags without the underscores.
_OLD_SINGLE_NAMES = (
    *("HIGH", "IO", "FS", "COLD", "NOWARN", "REPEAT", "NOFAIL", "NORETRY", "COMP", "ZERO", "NOMEMALLOC"),
    *("MEMALLOC", "HARDWALL", "THISNODE", "RECLAIMABLE", "MOVABLE", "NOTRACK", "WRITE", "DIRECT_RECLAIM"),
    *("KSWAPD_RECLAIM", "OTHER_NODE"),
)


def _bits(names: Sequence[str | None], prefix: str) -> dict[str, int]:
    return {prefix + name: 1 << bit for bit, name in enumerate(names) if name}


def _gfp_compounds(bits: Mapping[str, int], version: tuple[int, int]) -> dict[str, int]:
    """The useful combinations, by their definition in each kernel."""
    kswapd = bits["__GFP_KSWAPD_RECLAIM"]
    reclaim = bits["__GFP_DIRECT_RECLAIM"] | kswapd
    kernel = reclaim | bits["__GFP_IO"] | bits["__GFP_FS"]
    user = kernel | bits["__GFP_HARDWALL"]
    highuser = user | bits["__GFP_HIGHMEM"]
    movable = highuser | bits["__GFP_MOVABLE"] | bits.get("__GFP_SKIP_KASAN_POISON", 0)
    light = movable | bits["__GFP_COMP"] | bits["__GFP_NOMEMALLOC"] | bits["__GFP_NOWARN"]
    light &= ~reclaim
    return {
        "__GFP_RECLAIM": reclaim,
        "GFP_ATOMIC": bits["__GFP_HIGH"] | bits.get("__GFP_ATOMIC", 0) | kswapd,
        "GFP_KERNEL": kernel,
        "GFP_KERNEL_ACCOUNT": kernel | bits["__GFP_ACCOUNT"],
        "GFP_NOWAIT": kswapd | (bits["__GFP_NOWARN"] if version >= (6, 7) else 0),
        "GFP_NOIO": reclaim,
        "GFP_NOFS": reclaim | bits["__GFP_IO"],
        "GFP_USER": user,
        "GFP_DMA": bits["__GFP_DMA"],
        "GFP_DMA32": bits["__GFP_DMA32"],
        "GFP_HIGHUSER": highuser,
        "GFP_HIGHUSER_MOVABLE": movable,
        "GFP_TRANSHUGE_LIGHT": light,
        "GFP_TRANSHUGE": light | bits["__GFP_DIRECT_RECLAIM"],
        "GFP_TEMPORARY": kernel | bits["__GFP_RECLAIMABLE"],
    }


# Slab flags with fixed bits, 4.6 to 6.8.
_SLAB_4_9 = {
    "SLAB_CONSISTENCY_CHECKS": 0x100,
    "SLAB_RED_ZONE": 0x400,
    "SLAB_POISON": 0x800,
    "SLAB_HWCACHE_ALIGN": 0x2000,
    "SLAB_CACHE_DMA": 0x4000,
    "SLAB_STORE_USER": 0x10000,
    "SLAB_RECLAIM_ACCOUNT": 0x20000,
    "SLAB_PANIC": 0x40000,
    "SLAB_DESTROY_BY_RCU": 0x80000,
    "SLAB_MEM_SPREAD": 0x100000,
    "SLAB_TRACE": 0x200000,
    "SLAB_DEBUG_OBJECTS": 0x400000,
    "SLAB_NOLEAKTRACE": 0x800000,
    "SLAB_NOTRACK": 0x1000000,
    "SLAB_FAILSLAB": 0x2000000,
    "SLAB_ACCOUNT": 0x4000000,
    "SLAB_KASAN": 0x8000000,
    "__CMPXCHG_DOUBLE": 0x40000000,
    "__OBJECT_POISON": 0x80000000,
}
_SLAB_4_14 = {("SLAB_TYPESAFE_BY_RCU" if n == "SLAB_DESTROY_BY_RCU" else n): b for n, b in _SLAB_4_9.items()}
_SLAB_4_19 = {n: b for n, b in _SLAB_4_14.items() if n != "SLAB_NOTRACK"}
_SLAB_5_4 = {**_SLAB_4_19, "SLAB_CACHE_DMA32": 0x8000, "SLAB_DEACTIVATED": 0x10000000}
_SLAB_6_1 = {
    **_SLAB_4_19,
    "SLAB_KMALLOC": 0x1000,
    "SLAB_CACHE_DMA32": 0x8000,
    "SLAB_NO_USER_FLAGS": 0x10000000,
    "SLAB_SKIP_KFENCE": 0x20000000,
}
_SLAB_6_6 = {**_SLAB_6_1, "SLAB_NO_MERGE": 0x1000000}
# 6.9 on: numbered through, as far as configured.
_SLAB_6_12 = _bits(
    (
        *("SLAB_CONSISTENCY_CHECKS", "SLAB_RED_ZONE", "SLAB_POISON", "SLAB_KMALLOC", "SLAB_HWCACHE_ALIGN"),
        *("SLAB_CACHE_DMA", "SLAB_CACHE_DMA32", "SLAB_STORE_USER", "SLAB_PANIC", "SLAB_TYPESAFE_BY_RCU"),
        *("SLAB_TRACE", "SLAB_NOLEAKTRACE", "SLAB_NO_MERGE", "SLAB_ACCOUNT", "SLAB_NO_USER_FLAGS"),
        *("SLAB_SKIP_KFENCE", "SLAB_RECLAIM_ACCOUNT", "__OBJECT_POISON", "__CMPXCHG_DOUBLE", "SLAB_NO_OBJ_EXT"),
    ),
    "",
)

# Page flags of x86-64; known for the reference kernel only.
_PAGE_BITS_6_1 = (
    *("locked", "referenced", "uptodate", "dirty", "lru", "active", "workingset", "waiters", "error", "slab"),
    *("owner_priv_1", "arch_1", "reserved", "private", "private_2", "writeback", "head", "mappedtodisk"),
    *("reclaim", "swapbacked", "unevictable", "mlocked", "uncached", "hwpoison", "young", "idle", "arch_2"),
)
_PAGE_NAMES_6_1 = (
    *("locked", "waiters", "error", "referenced", "uptodate", "dirty", "lru", "active", "workingset", "slab"),
    *_PAGE_BITS_6_1[10:],
)


def _profile(
    name: str,
    bits: Sequence[str | None],
    names: Sequence[str],
    slab: Mapping[str, int],
    *,
    nr_pcp_lists: int,
    page: bool = False,
) -> Profile:
    major, minor = name.split(".")
    version = (int(major), int(minor))
    gfp_bits = _bits(bits, "__GFP_")
    compounds = _gfp_compounds(gfp_bits, version)
    masks = {**gfp_bits, **compounds}
    aliases = {n: m for n, m in masks.items() if n not in names and n not in gfp_bits}
    if major == "4":
        aliases.update({f"GFP_{n}": gfp_bits[f"__GFP_{n}"] for n in _OLD_SINGLE_NAMES if f"__GFP_{n}" in gfp_bits})
    page_bits = _bits(_PAGE_BITS_6_1, "") if page else {}
    return Profile(
        name=name,
        version=version,
        gfp_bits=MappingProxyType(gfp_bits),
        gfp_names=tuple((masks[n], n) for n in names),
        gfp_aliases=MappingProxyType(aliases),
        slab_bits=MappingProxyType(dict(sorted(slab.items(), key=lambda item: item[1]))),
        page_bits=MappingProxyType(page_bits),
        page_names=tuple((page_bits[n], n) for n in _PAGE_NAMES_6_1) if page else (),
        migrate_types=("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate"),
        nr_page_orders=11,
        nr_pcp_lists=nr_pcp_lists,
    )


#: All profiles by name, oldest first.
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _profile("4.9", _GFP_BITS_4_9, _GFP_NAMES_4_9, _SLAB_4_9, nr_pcp_lists=3),
            _profile("4.14", _GFP_BITS_4_14, _GFP_NAMES_4_14, _SLAB_4_14, nr_pcp_lists=3),
            _profile("4.19", _GFP_BITS_4_19, _GFP_NAMES_4_19, _SLAB_4_19, nr_pcp_lists=3),
            _profile("5.4", _GFP_BITS_5_4, _GFP_NAMES_4_19, _SLAB_5_4, nr_pcp_lists=3),
            _profile("5.10", _GFP_BITS_5_4, _GFP_NAMES_4_19, _SLAB_5_4, nr_pcp_lists=3),
            _profile("5.15", _GFP_BITS_5_15, _GFP_NAMES_5_15, _SLAB_5_4, nr_pcp_lists=13),
            _profile("6.1", _GFP_BITS_6_1, _GFP_NAMES_6_1, _SLAB_6_1, nr_pcp_lists=14, page=True),
            _profile("6.6", _GFP_BITS_6_6, _GFP_NAMES_6_6, _SLAB_6_6, nr_pcp_lists=14),
            _profile("6.12", _GFP_BITS_6_12, _GFP_NAMES_6_6, _SLAB_6_12, nr_pcp_lists=14),
            _profile("6.18", _GFP_BITS_6_12, _GFP_NAMES_6_18, _SLAB_6_12, nr_pcp_lists=14),
        )
    }
)

#: The kernel that the model follows line by line.
REFERENCE = PROFILES["6.1"]

_VERSION = re.compile(r"v?(\d{1,3})\.(\d{1,5})(?![\d])")


def profile_for(version: str | tuple[int, int]) -> Profile:
    """Return the profile of a kernel version: the newest that is not newer than it.

    Versions older than the oldest profile get the oldest.

    Parameters
    ----------
    version : str or (int, int)
        ``"6.1"``, ``"5.13.4"``, ``"6.1.0-56-amd64"`` (as ``uname -r`` prints
        it), or major and minor number.

    Raises
    ------
    UsageError
        The text does not begin with a kernel version.

    Examples
    --------
    >>> profile_for("6.1.0-56-amd64").name
    '6.1'
    >>> profile_for("5.8").name
    '5.4'
    """
    if isinstance(version, str):
        match = _VERSION.match(version.strip())
        if match is None:
            raise UsageError(
                f"{version!r} is not a kernel version",
                remedy="give major and minor number, as in 6.1; known: " + ", ".join(PROFILES),
            )
        version = (int(match[1]), int(match[2]))
    found = next(iter(PROFILES.values()))
    for profile in PROFILES.values():
        if profile.version <= version:
            found = profile
    return found
