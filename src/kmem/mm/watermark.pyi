# SPDX-License-Identifier: GPL-2.0-only
from kmem.mm.mmzone import MemMap
from kmem.mm.pcp import PcpLists

class Watermarks(PcpLists):
    @property
    def cma(self) -> bool: ...
    def __init__(self, memmap: MemMap, cma: bool) -> None: ...
