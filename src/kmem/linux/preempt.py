# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/preempt.h>``: the context that code runs in, and preemption."""

from kmem.mm.preempt import *
from kmem.mm.preempt import __all__
