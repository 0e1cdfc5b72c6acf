# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/interrupt.h>``: interrupt context, softirqs, tasklets."""

from kmem.mm.softirq import *
from kmem.mm.softirq import __all__
