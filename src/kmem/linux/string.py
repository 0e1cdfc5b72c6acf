# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/string.h>``: copies of memory and strings, in memory of their own.

>>> from kmem import Machine
>>> from kmem.linux.gfp import GFP_KERNEL
>>> from kmem.linux.slab import kfree, ksize
>>> from kmem.linux.string import kstrdup
>>> with Machine.boot("x86_64", ram="1G"):
...     name = kstrdup("a name", GFP_KERNEL)
...     print(ksize(name))
...     kfree(name)
8
"""

from kmem.mm.util import kmemdup, kstrdup, kstrndup

__all__ = ["kmemdup", "kstrdup", "kstrndup"]
