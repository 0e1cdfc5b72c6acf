# SPDX-License-Identifier: GPL-2.0-only
from kmem.mm.page_alloc import PageAllocator

def validate_pages(allocator: PageAllocator) -> None: ...
