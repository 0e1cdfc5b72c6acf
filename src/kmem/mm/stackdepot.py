# SPDX-License-Identifier: GPL-2.0-only
"""The stack depot: where the kernel keeps the call stacks that debugging asks for.

Equal stacks are stored once, in blocks of pages taken from the page allocator
ahead of need.  Caches with SLAB_STORE_USER save a stack at each allocation and
each free, so their use shows up in the page allocator.

Source: lib/stackdepot.c @6.1.192
Differs: a stack is any hashable name, and all are taken to be of one length.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from kmem.mm.page_alloc import PageAllocator

__all__ = ["STACK_ALLOC_ORDER", "StackDepot"]

STACK_ALLOC_ORDER: Final = 2
"""Order of a block of stacks."""
_BLOCK_BYTES: Final = 1 << (12 + STACK_ALLOC_ORDER)
_HEADER_BYTES: Final = 24
_GFP_NOWARN: Final = 0x2000
# (GFP_ATOMIC | GFP_KERNEL) without zone modifiers.
_GFP_KEPT: Final = 0x0EE0


class StackDepot:
    """Stored stacks, and the pages that they take.

    Parameters
    ----------
    allocator : PageAllocator
        Where blocks come from.
    blocks : int, optional
        Blocks that the depot holds already, none of them used: 0 at boot, and
        2 once it has been in use (the current and the next).
    frames_a_stack : int, optional
        Length of a stack, in return addresses.
    word_bytes : int, optional
        Size of a return address.
    """

    def __init__(
        self, allocator: PageAllocator, blocks: int = 0, frames_a_stack: int = 16, word_bytes: int = 8
    ) -> None:
        self.allocator = allocator
        self.blocks = blocks
        self.current = 0
        self.offset = 0
        self.next_inited = blocks >= 2
        self.stacks: set[Hashable] = set()
        self.stack_bytes = -(-(_HEADER_BYTES + frames_a_stack * word_bytes) // 16) * 16

    def save(self, stack: Hashable, gfp: int) -> bool:
        """Store a stack unless it is known; take a block if the next one is not there yet.

        Parameters
        ----------
        stack : hashable
            What tells this stack from others.
        gfp : int
            GFP mask of the caller.

        Returns
        -------
        bool
            Whether the stack is in the depot now.

        Source: lib/stackdepot.c:__stack_depot_save @6.1.192
        """
        if stack in self.stacks:
            return True
        block = -1
        if not self.next_inited:
            block = self.allocator.alloc_pages(gfp & _GFP_KEPT | _GFP_NOWARN, STACK_ALLOC_ORDER)
        if self.offset + self.stack_bytes > _BLOCK_BYTES:
            self.current += 1
            self.offset = 0
            self.next_inited = False
        if block >= 0 and self.next_inited:
            self.allocator.free_pages(block, STACK_ALLOC_ORDER)
        elif block >= 0:
            # The first block is for now, every other one for later.
            self.next_inited = self.blocks > self.current
            self.blocks += 1
        if self.blocks <= self.current:
            return False
        self.offset += self.stack_bytes
        self.stacks.add(stack)
        return True
