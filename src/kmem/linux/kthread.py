# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/kthread.h>``: kernel threads."""

from kmem.mm.kthread import *
from kmem.mm.kthread import __all__
