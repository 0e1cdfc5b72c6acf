# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/spinlock.h>``: spinlocks."""

from kmem.mm import irqflags, spinlock
from kmem.mm.irqflags import *
from kmem.mm.spinlock import *

__all__ = [*spinlock.__all__, *irqflags.__all__]
