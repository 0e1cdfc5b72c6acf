# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Callable
from typing import Any, Literal

from kmem.errors import KernelReport
from kmem.mm.aids import Aid
from kmem.mm.highmem import Highmem
from kmem.mm.kmem_cache import KmemCaches
from kmem.mm.layout import Layout
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.pgtable import PageTable
from kmem.mm.printk import Printk
from kmem.mm.ram import Ram
from kmem.mm.slub import Slub
from kmem.mm.task import Task
from kmem.mm.timekeeping import Clock
from kmem.mm.vmalloc import Vmalloc

PREEMPT_MASK: int
SOFTIRQ_MASK: int
HARDIRQ_MASK: int

class Kernel:
    vmalloc: Vmalloc
    ram: Ram
    layout: Layout
    init_mm: PageTable
    highmem: Highmem
    printk: Printk
    clock: Clock
    current: Task
    sched: Any
    faults: Any
    leaks: Any
    reclaim: Any
    owner: Any
    reports: str
    kmem_caches: dict[int, Any]
    page_address_map: dict[int, int]
    once: dict[str, bool]
    preempt_count: int
    irqs_disabled: bool
    rcu_nesting: int
    @property
    def page_alloc(self) -> PageAllocator: ...
    @property
    def slub(self) -> Slub: ...
    @property
    def caches(self) -> KmemCaches: ...
    @property
    def arch(self) -> str: ...
    @property
    def page_offset(self) -> int: ...
    @property
    def max_low_pfn(self) -> int: ...
    @property
    def bits_per_long(self) -> int: ...
    @property
    def ulong_max(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def aids(self) -> tuple[Aid, ...]: ...
    def __init__(
        self,
        page_alloc: PageAllocator,
        slub: Slub,
        caches: KmemCaches,
        *,
        arch: str,
        page_offset: int,
        max_low_pfn: int,
        reports: Literal["raise", "log"] = "raise",
    ) -> None: ...
    def might_sleep(self, gfp: int = 0x400) -> None: ...
    def add_aid(self, aid: Aid) -> None: ...
    def remove_aid(self, aid: Aid) -> None: ...
    def report(self, error: KernelReport) -> None: ...
    def close(self) -> None: ...
    def phys_to_virt(self, phys: int) -> int: ...
    def virt_to_phys(self, addr: int) -> int: ...
    def virt_addr_valid(self, addr: int) -> bool: ...

class BoundCall:
    __name__: str
    @property
    def kernel(self) -> Kernel: ...
    @property
    def function(self) -> Callable[..., Any]: ...
    @property
    def __wrapped__(self) -> Callable[..., Any]: ...
    def __init__(self, kernel: Kernel, function: Callable[..., Any]) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

def current_kernel() -> Kernel: ...
def swap_blocks(blocks: list[Kernel]) -> list[Kernel]: ...
def enter_kernel(kernel: Kernel) -> None: ...
def leave_kernel(kernel: Kernel) -> None: ...
