# SPDX-License-Identifier: GPL-2.0-only
"""The bytes of ``/proc`` files, for what is printed of a run; see :mod:`kmem.machine.procfs`."""

from kmem.machine.procfs import (
    PROC_FILES,
    format_buddyinfo,
    format_meminfo,
    format_pagetypeinfo,
    format_proc,
    format_slabinfo,
    format_zoneinfo,
)

__all__ = [
    "PROC_FILES",
    "format_buddyinfo",
    "format_meminfo",
    "format_pagetypeinfo",
    "format_proc",
    "format_slabinfo",
    "format_zoneinfo",
]
