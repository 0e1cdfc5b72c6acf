# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/wait.h>``: wait queues."""

from kmem.mm.wait import *
from kmem.mm.wait import __all__
