# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/uaccess.h>``: copying between the kernel and the running process."""

from kmem.mm.uaccess import *
from kmem.mm.uaccess import __all__
