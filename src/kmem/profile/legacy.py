# SPDX-License-Identifier: GPL-2.0-only
"""GFP flags of kernels that print numbers only, in the layout of the reference kernel.

Source: include/linux/gfp.h @3.10, @4.4
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kmem.errors import UsageError
from kmem.profile.flags import format_gfp, gfp_bit_names, parse_gfp
from kmem.profile.kernels import REFERENCE, Profile

__all__ = ["gfp_in_reference", "gfp_names_in_reference", "legacy_gfp_names"]

# names of the reference kernel by bit number; "" has no counterpart there and decides nothing
_COMMON = ("__GFP_DMA", "__GFP_HIGHMEM", "__GFP_DMA32", "__GFP_MOVABLE")
_MIDDLE = ("__GFP_HIGH", "__GFP_IO", "__GFP_FS", "", "__GFP_NOWARN", "__GFP_RETRY_MAYFAIL", "__GFP_NOFAIL")
_UPPER = ("__GFP_NORETRY", "__GFP_MEMALLOC", "__GFP_COMP", "__GFP_ZERO", "__GFP_NOMEMALLOC", "__GFP_HARDWALL")
_BITS_3 = (*_COMMON, "__GFP_DIRECT_RECLAIM", *_MIDDLE, *_UPPER, "__GFP_THISNODE", "__GFP_RECLAIMABLE", "__GFP_ACCOUNT")
_BITS_4_4 = (
    *(*_COMMON, "__GFP_RECLAIMABLE", *_MIDDLE, *_UPPER, "__GFP_THISNODE", "__GFP_ATOMIC", "__GFP_ACCOUNT", ""),
    *("__GFP_DIRECT_RECLAIM", "", "__GFP_WRITE", "__GFP_KSWAPD_RECLAIM"),
)
_WAIT = 1 << 4
_NO_KSWAPD = 1 << 22  # before 4.4: an optimistic request, that leaves kswapd asleep
#: Bits that have no counterpart in the reference kernel, or not always had one.
_OWN_3 = {8: "__GFP_COLD", 20: "__GFP_KMEMCG", 21: "__GFP_NOTRACK", 22: "__GFP_NO_KSWAPD", 23: "__GFP_OTHER_NODE"}
_OWN_3 |= {24: "__GFP_WRITE"}
_OWN_4_4 = {8: "__GFP_COLD", 21: "__GFP_NOTRACK", 23: "__GFP_OTHER_NODE"}

#: Names that have gone, and what stands for them now.
_GONE: Mapping[str, str] = MappingProxyType(
    {
        "__GFP_WAIT": "__GFP_DIRECT_RECLAIM",
        "__GFP_REPEAT": "__GFP_RETRY_MAYFAIL",
        "GFP_TEMPORARY": "GFP_KERNEL|__GFP_RECLAIMABLE",
        "__GFP_RECLAIM": "__GFP_DIRECT_RECLAIM|__GFP_KSWAPD_RECLAIM",
        "__GFP_COLD": "",
        "__GFP_NOTRACK": "",
        "__GFP_NOTRACK_FALSE_POSITIVE": "",
        "__GFP_NOLOCKDEP": "",
        "__GFP_OTHER_NODE": "",
        "__GFP_NO_OBJ_EXT": "",
        "__GFP_SKIP_ZERO": "",
        "__GFP_SKIP_KASAN": "",
        "__GFP_SKIP_KASAN_POISON": "",
        "__GFP_SKIP_KASAN_UNPOISON": "",
    }
)


def _from_bits(mask: int, names: tuple[str, ...]) -> int:
    bits = REFERENCE.gfp_bits
    return sum(bits[name] for n, name in enumerate(names) if name and mask >> n & 1)


def gfp_in_reference(mask: int, version: tuple[int, int] | None, profile: Profile) -> int:
    """Return a printed mask in the layout of the reference kernel.

    Parameters
    ----------
    mask : int
        As the log prints it.
    version : (int, int) or None
        Of the kernel that printed it; None if the log does not say, and no
        names are printed with the mask: then it is older than 4.6, and the
        number itself tells which of the old layouts it is in.
    profile : Profile
        Of that kernel, for those that are not so old.

    Examples
    --------
    >>> from kmem.profile import format_gfp, profile_for
    >>> format_gfp(gfp_in_reference(0xD0, (3, 10), profile_for("3.10")))
    'GFP_KERNEL'
    """
    bits = REFERENCE.gfp_bits
    if version is not None and version >= (4, 6):
        gfp = sum(bits.get(name, 0) for name in gfp_bit_names(mask, profile))
        return gfp if version < (6, 3) else _atomic(gfp)
    if _has_reclaim_bits(mask, version):
        return _from_bits(mask, _BITS_4_4)
    gfp = _from_bits(mask & 0x1FFFFF, _BITS_3)
    if not mask & _NO_KSWAPD:
        gfp |= bits["__GFP_KSWAPD_RECLAIM"]
    return _atomic(gfp)


def _atomic(gfp: int) -> int:
    """Where a kernel has no bit for it: a request of high priority that does not wait is an atomic one."""
    bits = REFERENCE.gfp_bits
    return gfp | bits["__GFP_ATOMIC"] if gfp & bits["__GFP_HIGH"] and not gfp & bits["__GFP_DIRECT_RECLAIM"] else gfp


def _has_reclaim_bits(mask: int, version: tuple[int, int] | None) -> bool:
    """Whether a mask is in the layout of 4.4 and 4.5, with a bit for each kind of reclaim."""
    if version is not None:
        return version >= (4, 4)
    # bit 22 alone was __GFP_NO_KSWAPD, on requests that wait; bit 25 is new
    return bool(mask & 1 << 25) or bool(mask & _NO_KSWAPD and not mask & _WAIT)


def legacy_gfp_names(mask: int, version: tuple[int, int] | None, profile: Profile) -> str:
    """Return the names that a mask printed without names has in the kernel that printed it.

    Examples
    --------
    >>> from kmem.profile import profile_for
    >>> legacy_gfp_names(0x201DA, (3, 10), profile_for("3.10"))
    'GFP_HIGHUSER_MOVABLE|__GFP_COLD'
    """
    if version is not None and version >= (4, 6):
        return format_gfp(mask, profile)
    own = _OWN_4_4 if _has_reclaim_bits(mask, version) else _OWN_3
    known = gfp_in_reference(mask & ~sum(1 << bit for bit in own), version, profile)
    names = [] if not known and mask else [format_gfp(known).replace("__GFP_RETRY_MAYFAIL", "__GFP_REPEAT")]
    return "|".join(names + [name for bit, name in own.items() if mask >> bit & 1])


def gfp_names_in_reference(names: str) -> tuple[int, list[str]]:
    """Return the mask that names of any kernel stand for, and the names nobody knows.

    Bits that the kernel printed as a number, for want of a name, count as such
    names: they may mean anything here.

    Examples
    --------
    >>> hex(gfp_names_in_reference("GFP_KERNEL|__GFP_COLD")[0])
    '0xcc0'
    """
    mask = 0
    unknown = []
    for name in names.replace(" ", "").split("|"):
        name = _GONE.get(name, name)
        if name[:1].isdigit():
            unknown.append(name)
            continue
        try:
            mask |= parse_gfp(name) if name else 0
        except UsageError:
            unknown.append(name)
    return mask, unknown
