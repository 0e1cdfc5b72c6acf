# SPDX-License-Identifier: GPL-2.0-only
"""The constants of the core are those of the reference profile."""

from kmem.linux import gfp as linux_gfp
from kmem.linux import slab as linux_slab
from kmem.mm import gfp, slab_flags
from kmem.profile import REFERENCE


def test_gfp_constants() -> None:
    known = {**REFERENCE.gfp_bits, **{name: mask for mask, name in REFERENCE.gfp_names}}
    assert len(known) > 30
    for name, mask in known.items():
        assert getattr(gfp, name) == mask, name
    assert gfp.GFP_ZONEMASK == 0xF
    assert gfp.GFP_MOVABLE_MASK == 0x18
    assert max(REFERENCE.gfp_bits.values()) < 1 << gfp.GFP_BITS_SHIFT


def test_headers_only_gather_names() -> None:
    for header, module in ((linux_gfp, gfp), (linux_slab, slab_flags)):
        assert set(module.__all__) <= set(header.__all__)
        for name in module.__all__:
            assert getattr(header, name) is getattr(module, name)
