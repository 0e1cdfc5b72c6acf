# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/workqueue.h>``: work queues."""

from kmem.mm.workqueue import *
from kmem.mm.workqueue import __all__
