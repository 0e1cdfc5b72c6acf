# SPDX-License-Identifier: GPL-2.0-only
"""The boot option ``slub_debug``: which debug flags a cache gets by its name.

``slub_debug`` alone switches everything on for all caches; ``slub_debug=FZ``
some of it; ``slub_debug=P,dentry`` only for the caches listed; blocks are
separated by ``;``.  A name in a list may end in ``*``.

Source: mm/slub.c:parse_slub_debug_flags, setup_slub_debug, kmem_cache_flags @6.1.192
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmem.mm.slab_flags import (
    DEBUG_DEFAULT_FLAGS,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_FAILSLAB,
    SLAB_NO_USER_FLAGS,
    SLAB_NOLEAKTRACE,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)

__all__ = ["SlubDebug", "kmem_cache_flags", "setup_slub_debug"]

_LETTERS: Final[dict[str, int]] = {
    "f": SLAB_CONSISTENCY_CHECKS,
    "z": SLAB_RED_ZONE,
    "p": SLAB_POISON,
    "u": SLAB_STORE_USER,
    "t": SLAB_TRACE,
    "a": SLAB_FAILSLAB,
}


@dataclass(frozen=True, slots=True)
class SlubDebug:
    """What the ``slub_debug`` options of a boot left behind.

    Attributes
    ----------
    flags : int
        Flags for every cache that no block names (the kernel's ``slub_debug``).
    blocks : str
        The option's text if a block of it lists caches, else an empty string
        (the kernel's ``slub_debug_string``).
    disable_higher_order : bool
        The letter ``O``: metadata is left out where it would raise a cache's minimum order.
    """

    flags: int = 0
    blocks: str = ""
    disable_higher_order: bool = False


@dataclass(frozen=True, slots=True)
class _Block:
    flags: int
    caches: int
    """Where the list of caches starts in the text, or -1."""
    end: int
    """Where the next block starts, or -1."""
    higher_order_disable: bool


def _parse_block(text: str, at: int) -> _Block:
    """Parse the block that starts at `at`; what follows the last block is -1, as a NULL there."""
    length = len(text)
    while at < length and text[at] == ";":
        at += 1
    flags, higher_order_disable = 0, False
    if at < length and text[at] == ",":
        flags = DEBUG_DEFAULT_FLAGS
    else:
        while at < length and text[at] not in ",;":
            letter = text[at].lower()
            if letter == "-":
                flags = 0
            elif letter == "o":
                higher_order_disable = True
            else:
                flags |= _LETTERS.get(letter, 0)
            at += 1
    caches = -1
    if at < length and text[at] == ",":
        at += 1
        caches = at
    while at < length and text[at] != ";":
        at += 1
    while at < length and text[at] == ";":
        at += 1
    return _Block(flags, caches, at if at < length else -1, higher_order_disable)


def setup_slub_debug(value: str, before: SlubDebug | None = None) -> SlubDebug:
    """Apply one ``slub_debug`` option of the kernel command line.

    Parameters
    ----------
    value : str
        What follows the word ``slub_debug``: ``""``, ``"=FZ"``, ``"=P,dentry;-,vm_area*"`` ...
    before : SlubDebug, optional
        What earlier options left; the last option decides, but what it does not say stays.

    Returns
    -------
    SlubDebug
        The state after the option. Letters that the kernel does not know are skipped, as it does.

    Notes
    -----
    Source: mm/slub.c:setup_slub_debug @6.1.192
    """
    before = before or SlubDebug()
    if not value.startswith("=") or len(value) == 1:
        return SlubDebug(DEBUG_DEFAULT_FLAGS, before.blocks, before.disable_higher_order)
    text = value[1:]
    global_flags: int | None = None
    listed, disable_higher_order = False, before.disable_higher_order
    at = 0
    while at >= 0:
        block = _parse_block(text, at)
        if block.caches < 0:
            global_flags = block.flags
        else:
            listed = True
        disable_higher_order |= block.higher_order_disable
        at = block.end
    if not listed:
        # One block at least was parsed, so without a list it was a global one.
        return SlubDebug(global_flags or 0, before.blocks, disable_higher_order)
    return SlubDebug(before.flags if global_flags is None else global_flags, text, disable_higher_order)


def _listed(text: str, block: _Block, name: str) -> bool:
    """Whether the cache list of `block` covers `name`, with the kernel's arithmetic of ends.

    The kernel compares against the running text rather than against a cut-out
    pattern, which is the same except before ``;;`` and before a ``;`` at the very
    end: there the separator counts as part of the last pattern.
    """
    at = block.caches
    while at < len(text):
        comma = text.find(",", at)
        end = comma if comma >= 0 else len(text)
        if 0 <= block.end < end:
            end = block.end - 1
        glob = text.find("*", at, end)
        if glob >= 0:
            if name.startswith(text[at:glob]):
                return True
        elif name == text[at : at + max(len(name), end - at)]:
            return True
        if end >= len(text) or text[end] == ";":
            return False
        at = end + 1
    return False


def kmem_cache_flags(flags: int, name: str, debug: SlubDebug) -> int:
    """Return the flags of a cache with the debug options added that apply to its name.

    Parameters
    ----------
    flags : int
        ``SLAB_*`` asked for.
    name : str
        Name of the cache.
    debug : SlubDebug
        The boot's debug options.

    Returns
    -------
    int
        `flags`, with the flags of the first block that lists the cache, or else the global ones.

    Notes
    -----
    Source: mm/slub.c:kmem_cache_flags @6.1.192
    """
    if flags & SLAB_NO_USER_FLAGS:
        return flags
    at = 0 if debug.blocks else -1
    while at >= 0:
        block = _parse_block(debug.blocks, at)
        if block.caches >= 0 and _listed(debug.blocks, block, name):
            return flags | block.flags
        at = block.end
    # A debugging aid's own cache records no owners unless a block names it.
    return flags | (debug.flags & ~SLAB_STORE_USER if flags & SLAB_NOLEAKTRACE else debug.flags)
