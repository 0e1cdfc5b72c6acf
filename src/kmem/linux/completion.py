# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/completion.h>``: completions."""

from kmem.mm.completion import *
from kmem.mm.completion import __all__
