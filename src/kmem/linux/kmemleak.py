# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/kmemleak.h>``: what code tells the leak detector.

All calls do nothing while kmemleak is off, as in a kernel that is built without it.
"""

from kmem.mm.kmemleak_api import *
from kmem.mm.kmemleak_api import __all__
