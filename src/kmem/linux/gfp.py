# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/gfp.h>``: the GFP flags, under the kernel's names.

>>> from kmem.linux.gfp import GFP_KERNEL, __GFP_ZERO
>>> hex(GFP_KERNEL | __GFP_ZERO)
'0xdc0'
"""

from kmem.mm.gfp import *
from kmem.mm.gfp import __all__
