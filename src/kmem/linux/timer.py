# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/timer.h>``: timers, and the tick they go by."""

from kmem.mm.timer import *
from kmem.mm.timer import __all__
