# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/io.h>``: device memory.

>>> from kmem import Machine
>>> from kmem.linux.io import ioremap, iounmap, readl
>>> with Machine.boot("x86_64", ram="512M"):
...     hpet = ioremap(0xFED00000, 0x400)
...     print(hex(readl(hpet)))
...     iounmap(hpet)
0xffffffff
"""

from kmem.mm.ioremap import *
from kmem.mm.ioremap import __all__
