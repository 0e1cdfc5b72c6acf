# SPDX-License-Identifier: GPL-2.0-only
"""Flag words and their notation, against what real kernels print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmem.errors import UsageError
from kmem.mm import slab_flags
from kmem.profile import (
    PROFILES,
    REFERENCE,
    format_gfp,
    format_page_flags,
    format_slab_flags,
    gfp_bit_names,
    parse_gfp,
    parse_page_flags,
    parse_slab_flags,
    profile_for,
    slab_unique_id,
)

DATA = Path(__file__).parent.parent / "data"

profiles = st.sampled_from(list(PROFILES.values()))
words = st.integers(0, 2**32 - 1)


def kernel_table(text: str) -> list[tuple[int, str]]:
    """The masks and names of an event's ``print fmt``, as that kernel computed them."""
    body = text[text.index("__print_flags") : text.index(') : "none"')]
    body = body.replace("( unsigned long)", "").replace("( gfp_t)", "")
    entries = re.findall(r'\{([^{}]+), "(\w+)"\}', body)
    table = []
    for expression, name in entries:
        expression = re.sub(r"(0x[0-9a-f]+|\d+)u\b", r"\1", expression)
        assert re.fullmatch(r"[0-9a-fx|&~() ]+", expression), expression
        table.append((eval(expression), name))
    return table


@pytest.mark.parametrize("arch", ["amd64", "i386"])
def test_the_reference_names_are_those_of_the_running_kernel(arch: str) -> None:
    table = kernel_table((DATA / f"formats/kmalloc-6.1-{arch}.txt").read_text())
    assert len(table) == 36
    assert list(REFERENCE.gfp_names) == table


# What kernels printed as "mode:" or "gfp_mask=" in allocation failure reports.
PRINTED_BY_6_1 = {
    0x140DCA: "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO",
    0xCC0: "GFP_KERNEL",
    0x10CC0: "GFP_KERNEL|__GFP_NORETRY",
    0x10CC1: "GFP_KERNEL|GFP_DMA|__GFP_NORETRY",
    0x110CC2: "GFP_HIGHUSER|__GFP_NORETRY",
    0x1400CA: "__GFP_HIGHMEM|__GFP_IO|__GFP_FS|__GFP_COMP|__GFP_HARDWALL|__GFP_MOVABLE",
    0x200A20: "GFP_ATOMIC|__GFP_THISNODE",
    0x40800: "GFP_NOWAIT|__GFP_COMP",
    0x40A20: "GFP_ATOMIC|__GFP_COMP",
    0x4CC0: "GFP_KERNEL|__GFP_RETRY_MAYFAIL",
    0x50DC0: "GFP_KERNEL|__GFP_NORETRY|__GFP_COMP|__GFP_ZERO",
    0xA21: "GFP_ATOMIC|GFP_DMA",
    0xA24: "GFP_ATOMIC|GFP_DMA32",
}


@pytest.mark.parametrize(("mask", "text"), PRINTED_BY_6_1.items())
def test_masks_of_failure_reports(mask: int, text: str) -> None:
    assert format_gfp(mask) == text
    assert parse_gfp(text) == mask


# GFP_KERNEL and GFP_HIGHUSER_MOVABLE moved with the layout; these values stand in reports of those kernels.
@pytest.mark.parametrize(
    ("version", "kernel", "highuser_movable", "atomic"),
    [
        ("4.9", 0x24000C0, 0x24200CA, 0x2080020),
        ("4.14", 0x14000C0, 0x14200CA, 0x1080020),
        ("4.19", 0x6000C0, 0x6200CA, 0x480020),
        ("5.4", 0xCC0, 0x100CCA, 0xA20),
        ("5.10", 0xCC0, 0x100CCA, 0xA20),
        ("5.15", 0xCC0, 0x1100CCA, 0xA20),
        ("6.1", 0xCC0, 0x100CCA, 0xA20),
        ("6.6", 0xCC0, 0x100CCA, 0x820),
        ("6.12", 0xCC0, 0x100CCA, 0x820),
        ("6.18", 0xCC0, 0x100CCA, 0x820),
    ],
)
def test_layout_of_each_version(version: str, kernel: int, highuser_movable: int, atomic: int) -> None:
    profile = PROFILES[version]
    assert parse_gfp("GFP_KERNEL", profile) == kernel
    assert parse_gfp("GFP_HIGHUSER_MOVABLE", profile) == highuser_movable
    assert parse_gfp("GFP_ATOMIC", profile) == atomic
    for mask, name in ((kernel, "GFP_KERNEL"), (highuser_movable, "GFP_HIGHUSER_MOVABLE"), (atomic, "GFP_ATOMIC")):
        assert format_gfp(mask, profile) == name


def test_flags_that_came_and_went() -> None:
    assert format_gfp(0x800, PROFILES["6.6"]) == "GFP_NOWAIT"
    assert format_gfp(0x800, PROFILES["6.12"]) == "__GFP_KSWAPD_RECLAIM"
    assert format_gfp(0x2800, PROFILES["6.12"]) == "GFP_NOWAIT"
    assert format_gfp(0x1000CC0, PROFILES["6.12"]) == "GFP_KERNEL|0x1000000"
    assert format_gfp(0x1000CC0, PROFILES["6.18"]) == "GFP_KERNEL|__GFP_NO_OBJ_EXT"
    # 6.18 names single flags in ascending order of their bits.
    assert format_gfp(0x110, PROFILES["6.12"]) == "__GFP_ZERO|__GFP_RECLAIMABLE"
    assert format_gfp(0x110, PROFILES["6.18"]) == "__GFP_RECLAIMABLE|__GFP_ZERO"
    assert format_gfp(0x24000D0, PROFILES["4.9"]) == "GFP_TEMPORARY"
    assert parse_gfp("GFP_KERNEL|GFP_ZERO", PROFILES["4.9"]) == 0x24080C0
    with pytest.raises(UsageError, match="__GFP_ATOMIC"):
        parse_gfp("__GFP_ATOMIC", PROFILES["6.6"])


@given(profiles, words)
def test_gfp_both_ways(profile, mask) -> None:
    text = format_gfp(mask, profile)
    assert parse_gfp(text, profile) == mask
    assert parse_gfp("|".join(gfp_bit_names(mask, profile)) or "none", profile) == mask
    assert format_gfp(parse_gfp(text, profile), profile) == text


@given(profiles, words)
def test_slab_flags_both_ways(profile, mask) -> None:
    assert parse_slab_flags(format_slab_flags(mask, profile), profile) == mask


@given(st.integers(0, 2**64 - 1))
def test_page_flags_both_ways(mask) -> None:
    assert parse_page_flags(format_page_flags(mask)) == mask


def test_page_flags_as_reports_print_them() -> None:
    assert format_page_flags(0x200) == "slab"
    with pytest.raises(UsageError, match=r"page flags of Linux 5\.10"):
        format_page_flags(1, PROFILES["5.10"])


def test_slab_flags_of_the_core_are_the_reference_profile() -> None:
    for name, bit in REFERENCE.slab_bits.items():
        if name.startswith("SLAB_") and bit:
            core = getattr(slab_flags, name, None)
            assert core in (None, 0, bit), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GFP_KERNAL", "did you mean GFP_KERNEL"),
        ("", "unknown"),
        ("GFP_KERNEL|", "unknown"),
        ("0x1ffffffff", "does not fit into 32 bits"),
        ("-1", "does not fit"),
        ("GFP KERNEL", "unknown"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_gfp(text)
    assert "\n" not in str(error.value)


def test_negative_word_is_refused() -> None:
    with pytest.raises(UsageError, match="negative"):
        format_gfp(-1)


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("6.1.0-56-amd64", "6.1"),
        ("v6.1.192", "6.1"),
        ("6.2", "6.1"),
        ("5.13.4", "5.10"),
        ("4.4", "4.9"),
        ("7.0", "6.18"),
        ("6.18-rc1", "6.18"),
    ],
)
def test_nearest_profile(version: str, name: str) -> None:
    assert profile_for(version).name == name


@pytest.mark.parametrize("version", ["", "six", "6", "61", "Linux"])
def test_no_version(version: str) -> None:
    with pytest.raises(UsageError, match="not a kernel version"):
        profile_for(version)


def test_unique_id_of_sysfs() -> None:
    assert slab_unique_id(0x4000, 64) == ":d-0000064"
    assert slab_unique_id(0x4000 | 0x20000 | 0x4000000, 8192) == ":daA-0008192"
    assert slab_unique_id(0, 192) == ":0000192"


def test_unknown_name_of_profile() -> None:
    assert REFERENCE.gfp("GFP_KERNEL") == 0xCC0
    with pytest.raises(UsageError, match="no GFP flag"):
        REFERENCE.gfp("__GFP_COLD")
