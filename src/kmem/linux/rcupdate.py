# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/rcupdate.h>``: RCU read-side sections."""

from kmem.mm.rcu import *
from kmem.mm.rcu import __all__
