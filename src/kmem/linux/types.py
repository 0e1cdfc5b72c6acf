# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/types.h>``: what C code takes for granted.

>>> from kmem.linux.types import NULL
>>> print(NULL)
None
"""

__all__ = ["NULL"]

#: What a request that fails answers. 0 is accepted for it wherever an address is asked for.
NULL = None
