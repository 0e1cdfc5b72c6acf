# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/delay.h>``: waiting for a time."""

from kmem.mm.delay import *
from kmem.mm.delay import __all__
