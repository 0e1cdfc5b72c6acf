# SPDX-License-Identifier: GPL-2.0-only
from kmem.mm.slab_pages import SlabPages

class PartialSlabs(SlabPages):
    cpu_partial: bool
