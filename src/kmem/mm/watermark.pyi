# SPDX-License-Identifier: GPL-2.0-only
from kmem.mm.mmzone import MemMap
from kmem.mm.pcp import PcpLists

class Watermarks(PcpLists):
    @property
    def cma(self) -> bool: ...
    def __init__(self, memmap: MemMap, cma: bool) -> None: ...
    def zone_watermark_ok(
        self,
        zone: int,
        order: int,
        mark: int,
        highest_zoneidx: int,
        alloc_flags: int = 0,
        free_pages: int | None = None,
    ) -> bool: ...
