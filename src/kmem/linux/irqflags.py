# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/irqflags.h>``: interrupts off and on."""

from kmem.mm.irqflags import *
from kmem.mm.irqflags import __all__
