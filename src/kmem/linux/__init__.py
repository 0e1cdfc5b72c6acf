# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own names, sorted as its headers sort them.

``kmem.linux.gfp`` is what ``<linux/gfp.h>`` is to a driver, and so on; the
modules here only gather names from :mod:`kmem.mm`.
"""
