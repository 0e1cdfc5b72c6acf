# SPDX-License-Identifier: GPL-2.0-only
"""The bytes of ``/proc`` files, for what is printed of a run; see :mod:`kmem.machine.procfs`."""

from kmem.machine.procfs import *
