# SPDX-License-Identifier: GPL-2.0-only
from typing import Any

from kmem.mm.page_alloc import PageAllocator

def refusal(allocator: PageAllocator, gfp: int, order: int, node: int = -1) -> tuple[str, str]: ...
def zone_verdict(allocator: PageAllocator, zone: int, gfp: int, order: int, node: int = -1) -> dict[str, Any]: ...
