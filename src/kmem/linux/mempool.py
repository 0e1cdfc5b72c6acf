# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/mempool.h>``: memory pools."""

from kmem.mm.mempool_api import *
from kmem.mm.mempool_api import __all__
