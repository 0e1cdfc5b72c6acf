# SPDX-License-Identifier: GPL-2.0-only
"""kmem: the Linux kernel's memory, in Python."""

__version__ = "0.1.0"
