# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/io.h>``: device memory, and physical addresses of the linear map.

>>> from kmem import Machine
>>> from kmem.linux.io import ioremap, iounmap, readl
>>> with Machine.boot("x86_64", ram="512M"):
...     hpet = ioremap(0xFED00000, 0x400)
...     print(hex(readl(hpet)))
...     iounmap(hpet)
0xffffffff
"""

from kmem.mm.ioremap import *
from kmem.mm.ioremap import __all__ as _calls
from kmem.mm.struct_page import phys_to_virt, virt_to_phys

__all__ = ["phys_to_virt", "virt_to_phys", *_calls]
