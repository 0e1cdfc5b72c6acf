# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernel versions: flag layouts, their names, list constants.

A :class:`Profile` describes one long-term kernel, and :func:`profile_for`
finds the one nearest to any version.  The functions here turn flag words into
the kernel's own notation and back:

>>> from kmem.profile import format_gfp, parse_gfp, profile_for
>>> format_gfp(0xCC0)
'GFP_KERNEL'
>>> hex(parse_gfp("GFP_KERNEL|__GFP_ZERO"))
'0xdc0'
>>> hex(parse_gfp("GFP_KERNEL", profile_for("4.14")))
'0x14000c0'
"""

from kmem.profile.flags import (
    format_flags,
    format_gfp,
    format_page_flags,
    format_slab_flags,
    gfp_bit_names,
    parse_flags,
    parse_gfp,
    parse_page_flags,
    parse_slab_flags,
    slab_unique_id,
)
from kmem.profile.kernels import PROFILES, REFERENCE, Profile, profile_for

__all__ = [
    "PROFILES",
    "REFERENCE",
    "Profile",
    "format_flags",
    "format_gfp",
    "format_page_flags",
    "format_slab_flags",
    "gfp_bit_names",
    "parse_flags",
    "parse_gfp",
    "parse_page_flags",
    "parse_slab_flags",
    "profile_for",
    "slab_unique_id",
]
