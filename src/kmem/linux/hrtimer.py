# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/hrtimer.h>``: high-resolution timers."""

from kmem.mm.hrtimer import *
from kmem.mm.hrtimer import __all__
