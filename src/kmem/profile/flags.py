# SPDX-License-Identifier: GPL-2.0-only
"""Flag words to the kernel's notation and back.

The kernel prints a flag word as names joined by ``|``: it walks a table of
masks, prints each name whose bits are all still there, takes those bits away,
and prints what is left as one hexadecimal number.

Source: kernel/trace/trace_output.c:trace_print_flags_seq,
lib/vsprintf.c:format_flags @6.1.192
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kmem.errors import UsageError
from kmem.profile.kernels import REFERENCE, Profile

__all__ = [
    "format_flags",
    "format_gfp",
    "format_page_flags",
    "format_slab_flags",
    "gfp_bit_names",
    "parse_flags",
    "parse_gfp",
    "parse_page_flags",
    "parse_slab_flags",
    "slab_unique_id",
]


def format_flags(mask: int, names: Iterable[tuple[int, str]]) -> str:
    """Print a flag word with a table of masks and names, the kernel's way.

    Parameters
    ----------
    mask : int
        The flag word; not negative.
    names : iterable of (int, str)
        Masks and names in the order in which they are tried.

    Returns
    -------
    str
        Names and, last, what no name covers, joined by ``|``; ``"none"`` for 0.

    Raises
    ------
    UsageError
        The flag word is negative.
    """
    if mask < 0:
        raise UsageError(f"a flag word cannot be negative: {mask}")
    if mask == 0:
        return "none"
    words = []
    for bits, name in names:
        if bits and mask & bits == bits:
            words.append(name)
            mask &= ~bits
            if not mask:
                break
    if mask:
        words.append(f"{mask:#x}")
    return "|".join(words)


def parse_flags(text: str, names: Mapping[str, int], what: str, *, bits: int = 32) -> int:
    """Read a flag word as the kernel prints it.

    Parameters
    ----------
    text : str
        Names and numbers (decimal or ``0x``) joined by ``|``, or ``"none"``.
    names : mapping of str to int
        The names that may occur.
    what : str
        What kind of flag it is, for the error message.
    bits : int
        Width of the flag word.

    Raises
    ------
    UsageError
        A word is neither a name nor a number, or does not fit the width.
    """
    if text.strip() == "none":
        return 0
    mask = 0
    for word in text.split("|"):
        word = word.strip()
        if word in names:
            mask |= names[word]
        else:
            mask |= _number(word, names, what, bits)
    return mask


def _number(word: str, names: Mapping[str, int], what: str, bits: int) -> int:
    try:
        number = int(word, 0)
    except ValueError:
        import difflib  # only for mistakes

        near = difflib.get_close_matches(word, names, n=1)
        remedy = f"did you mean {near[0]}?" if near else "give flag names joined by |, or a number such as 0xcc0"
        raise UsageError(f"unknown {what} {word[:60]!r}", remedy=remedy) from None
    if not 0 <= number < 1 << bits:
        raise UsageError(f"{what} {word[:60]} does not fit into {bits} bits")
    return number


def format_gfp(mask: int, profile: Profile = REFERENCE) -> str:
    """Print GFP flags as the trace events of a kernel print them.

    Examples
    --------
    >>> format_gfp(0x140CCA)
    'GFP_HIGHUSER_MOVABLE|__GFP_COMP'
    >>> format_gfp(0x10000CC0)
    'GFP_KERNEL|0x10000000'
    """
    return format_flags(mask, profile.gfp_names)


def parse_gfp(text: str, profile: Profile = REFERENCE) -> int:
    """Read GFP flags: names of a kernel, numbers, or both, joined by ``|``.

    Raises
    ------
    UsageError
        The kernel has no such flag, or the number does not fit 32 bits.

    Examples
    --------
    >>> hex(parse_gfp("GFP_ATOMIC|__GFP_NOWARN"))
    '0x2a20'
    """
    return parse_flags(text, _gfp_table(profile), f"GFP flag of Linux {profile.name}:")


def _gfp_table(profile: Profile) -> Mapping[str, int]:
    table = _GFP_TABLES.get(profile.name)
    if table is None:
        table = {**profile.gfp_aliases, **{name: mask for mask, name in profile.gfp_names}, **profile.gfp_bits}
        _GFP_TABLES[profile.name] = table
    return table


# Traces hold the same few names millions of times: the merged tables are kept.
_GFP_TABLES: dict[str, dict[str, int]] = {}


def gfp_bit_names(mask: int, profile: Profile = REFERENCE) -> list[str]:
    """Return the single flags of a GFP word, lowest bit first, without compounds.

    Examples
    --------
    >>> gfp_bit_names(0xCC0)
    ['__GFP_IO', '__GFP_FS', '__GFP_DIRECT_RECLAIM', '__GFP_KSWAPD_RECLAIM']
    """
    text = format_flags(mask, ((bit, name) for name, bit in profile.gfp_bits.items()))
    return [] if text == "none" else text.split("|")


def format_slab_flags(mask: int, profile: Profile = REFERENCE) -> str:
    """Print the flags of a slab cache (``struct kmem_cache``), lowest bit first.

    Examples
    --------
    >>> format_slab_flags(0x40042000)
    'SLAB_HWCACHE_ALIGN|SLAB_PANIC|__CMPXCHG_DOUBLE'
    """
    return format_flags(mask, ((bit, name) for name, bit in profile.slab_bits.items()))


def parse_slab_flags(text: str, profile: Profile = REFERENCE) -> int:
    """Read slab flags: names of a kernel, numbers, or both, joined by ``|``.

    Raises
    ------
    UsageError
        The kernel has no such flag, or the number does not fit 32 bits.
    """
    return parse_flags(text, profile.slab_bits, f"slab flag of Linux {profile.name}:")


def format_page_flags(mask: int, profile: Profile = REFERENCE) -> str:
    """Print the flag part of ``page->flags`` (without zone, node and section).

    Raises
    ------
    UsageError
        The profile does not know the page flags of its kernel.
    """
    return format_flags(mask, _page_names(profile))


def parse_page_flags(text: str, profile: Profile = REFERENCE) -> int:
    """Read page flags as :func:`format_page_flags` prints them.

    Raises
    ------
    UsageError
        Unknown flag, or the profile does not know the page flags of its kernel.
    """
    _page_names(profile)
    return parse_flags(text, profile.page_bits, f"page flag of Linux {profile.name}:", bits=64)


def _page_names(profile: Profile) -> tuple[tuple[int, str], ...]:
    if not profile.page_names:
        raise UsageError(
            f"the page flags of Linux {profile.name} are not known", remedy=f"use the profile {REFERENCE.name}"
        )
    return profile.page_names


_ID_LETTERS = (
    ("SLAB_CACHE_DMA", "d"),
    ("SLAB_CACHE_DMA32", "D"),
    ("SLAB_RECLAIM_ACCOUNT", "a"),
    ("SLAB_CONSISTENCY_CHECKS", "F"),
    ("SLAB_ACCOUNT", "A"),
)


def slab_unique_id(flags: int, size: int, profile: Profile = REFERENCE) -> str:
    """Return the name under which ``/sys/kernel/slab`` lists a mergeable cache.

    Parameters
    ----------
    flags : int
        Flags of the cache.
    size : int
        Its object size with all metadata, in bytes.

    Notes
    -----
    Source: mm/slub.c:create_unique_id @6.1.192

    Examples
    --------
    >>> slab_unique_id(0x20000, 192)
    ':a-0000192'
    """
    letters = "".join(letter for name, letter in _ID_LETTERS if flags & profile.slab_bits.get(name, 0))
    return f":{letters}-{size:07d}" if letters else f":{size:07d}"
