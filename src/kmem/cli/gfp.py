# SPDX-License-Identifier: GPL-2.0-only
"""``kmem gfp``: flag words to the kernel's notation and back."""

from __future__ import annotations

import re

import click

from kmem.cli.app import Command
from kmem.cli.output import print_json, print_table
from kmem.errors import UsageError
from kmem.profile import (
    PROFILES,
    REFERENCE,
    Profile,
    format_flags,
    format_gfp,
    format_page_flags,
    format_slab_flags,
    parse_gfp,
    parse_page_flags,
    parse_slab_flags,
    profile_for,
)

__all__ = ["command"]

_KINDS = {
    "gfp": (parse_gfp, format_gfp),
    "slab": (parse_slab_flags, format_slab_flags),
    "page": (parse_page_flags, format_page_flags),
}


def _bits(kind: str, profile: Profile) -> dict[str, int]:
    return dict({"gfp": profile.gfp_bits, "slab": profile.slab_bits, "page": profile.page_bits}[kind])


@click.command(
    "gfp",
    cls=Command,
    examples=[
        ("kmem gfp 0xcc0", "prints GFP_KERNEL and its bits"),
        ("kmem gfp 'GFP_ATOMIC|__GFP_NOWARN'", "prints 0x2a20"),
        ("kmem gfp --kernel 4.14 0x14000c0", "the layout of another kernel"),
        ("kmem gfp --slab 0x40042000", "flags of a slab cache"),
        ("kmem gfp --list --kernel 6.12", "every flag of a kernel"),
    ],
)
@click.argument("flags", nargs=-1, metavar="[FLAGS]...")
@click.option("--slab", "kind", flag_value="slab", help="The flags are those of a slab cache (SLAB_*).")
@click.option("--page", "kind", flag_value="page", help="The flags are those of a page (page->flags).")
@click.option(
    "-k",
    "--kernel",
    default=REFERENCE.name,
    show_default=True,
    metavar="VERSION",
    help=f"Kernel version, as uname -r prints it; the nearest known is taken ({', '.join(PROFILES)}).",
)
@click.option("--list", "list_all", is_flag=True, help="List all flags of the kernel.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(flags: tuple[str, ...], kind: str | None, kernel: str, list_all: bool, as_json: bool) -> None:
    """Decode and encode GFP, slab and page flags.

    Each of FLAGS is a number (0xcc0; decimal too) or names joined by |, as trace events and
    allocation failure reports print them.
    """
    profile = profile_for(kernel)
    kind = kind or "gfp"
    if list_all:
        _list(kind, profile, as_json)
        return
    if not flags:
        raise UsageError("no flags given", remedy="give 0xcc0, 'GFP_KERNEL|__GFP_ZERO', or --list")
    parse, show = _KINDS[kind]
    found = []
    for text in flags:
        # "0xcc0(GFP_KERNEL)" is how failure reports print both; the number is what counts.
        match = re.fullmatch(r"(0x[0-9a-fA-F]+)\(.*\)", text)
        mask = parse(match[1] if match else text, profile)
        bits = format_flags(mask, ((bit, name) for name, bit in _bits(kind, profile).items()))
        found.append({"mask": mask, "hex": f"{mask:#x}", "text": show(mask, profile), "bits": bits.split("|")})
    if as_json:
        print_json({"kernel": profile.name, "kind": kind, "flags": found})
        return
    rows = [(entry["hex"], entry["text"], "|".join(entry["bits"])) for entry in found]  # type: ignore[arg-type]
    print_table(("mask", f"Linux {profile.name}", "bits"), rows)


def _list(kind: str, profile: Profile, as_json: bool) -> None:
    bits = _bits(kind, profile)
    names = {**{n: m for m, n in profile.gfp_names}, **bits} if kind == "gfp" else bits
    if not names:
        raise UsageError(f"the {kind} flags of Linux {profile.name} are not known")
    ordered = sorted(names.items(), key=lambda item: (item[1].bit_count() > 1, item[1]))
    if as_json:
        print_json({"kernel": profile.name, "kind": kind, "flags": dict(ordered)})
        return
    rows = [(f"{mask:#x}", name, "" if mask.bit_count() == 1 else "compound") for name, mask in ordered]
    print_table(("mask", f"Linux {profile.name}", "kind"), rows)
