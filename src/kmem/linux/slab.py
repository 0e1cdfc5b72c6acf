# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/slab.h>``: the flags of a slab cache, under the kernel's names.

>>> from kmem.linux.slab import SLAB_HWCACHE_ALIGN, SLAB_PANIC
>>> hex(SLAB_HWCACHE_ALIGN | SLAB_PANIC)
'0x42000'
"""

from kmem.mm.slab_flags import *
from kmem.mm.slab_flags import __all__
