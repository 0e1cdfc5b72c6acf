# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/sched.h>``: sleeping, waking, letting others run."""

from kmem.mm import sched
from kmem.mm.might_sleep import might_sleep, might_sleep_if
from kmem.mm.sched import *

__all__ = [*sched.__all__, "might_sleep", "might_sleep_if"]
