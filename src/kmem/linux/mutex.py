# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/mutex.h>``: mutexes."""

from kmem.mm.mutex import *
from kmem.mm.mutex import __all__
