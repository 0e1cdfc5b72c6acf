# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/highmem.h>``: addresses for pages that have none.

>>> from kmem import Machine
>>> from kmem.linux.highmem import kmap_local_page, kunmap_local
>>> with Machine.boot("i386", ram="2G") as m:
...     last = m.pfn_to_page(m.memmap.nr_frames - 100)
...     print(m.page_address(last), hex(kmap_local_page(last)))
None 0xfffbb000
"""

from kmem.mm.highmem import *
from kmem.mm.highmem import __all__

__all__ = [name for name in __all__ if name != "Highmem"]
