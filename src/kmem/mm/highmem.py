# SPDX-License-Identifier: GPL-2.0-only
"""Pages of high memory get an address for as long as they are needed.

Low memory always has an address.  A page of high memory gets one from

- ``kmap()``: one of 1,024 places (4 MiB) that all of the kernel shares. A page is mapped once, however often it is
  asked for. A place that is free again stays mapped until the window has been gone through; then all such places are
  unmapped at once, for the price of one flush of translations. When all are in use, ``kmap()`` sleeps::

      count    0      1      2      3        places are handed out upwards, round and round
      page     .    idle     A      B        a count of 1 is a place that nobody uses, but that is still mapped

- ``kmap_local_page()``: one of 16 places of the CPU, a stack: the last one mapped is unmapped first. It never sleeps.

x86-64 has no high memory: there all of these return the address in the linear map.

Source: mm/highmem.c, include/linux/highmem-internal.h @6.1.192
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import StateError, UsageError
from kmem.mm.access import memory
from kmem.mm.bug import bug, warn_once
from kmem.mm.kernel import current_kernel
from kmem.mm.layout import KM_MAX_IDX, LAST_PKMAP
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.pgtable import PAGE_KERNEL
from kmem.mm.struct_page import Page, page_address, virt_to_page
from kmem.mm.vmap import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = [
    "Highmem",
    "PageHighMem",
    "clear_highpage",
    "copy_highpage",
    "kmap",
    "kmap_atomic",
    "kmap_flush_unused",
    "kmap_local_page",
    "kmap_to_page",
    "kunmap",
    "kunmap_atomic",
    "kunmap_local",
    "memcpy_from_page",
    "memcpy_to_page",
    "nr_free_highpages",
    "totalhigh_pages",
    "zero_user",
]

_PREEMPT_OFFSET: Final = 1


class Highmem:
    """The places that pages of high memory are mapped at, on one machine.

    Parameters
    ----------
    kernel : Kernel

    Attributes
    ----------
    pkmap_count : list of int
        Of each place of the kmap window: 0 empty, 1 mapped but unused, more: users plus one.
    last_pkmap_nr : int
        The place handed out last.
    kmap_ctrl : dict
        What each task has mapped with kmap_local_page, first mapped first: page table entries.

    Source: mm/highmem.c:pkmap_count, include/linux/sched.h:struct kmap_ctrl @6.1.192
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.pkmap_count = [0] * LAST_PKMAP
        self.last_pkmap_nr = 0
        self.kmap_ctrl: dict[Any, list[int]] = {}
        self.waiters: list[Any] = []

    def address(self, place: int) -> int:
        """Return the address of a place of the kmap window.

        Source: arch/x86/include/asm/highmem.h:PKMAP_ADDR @6.1.192
        """
        base = self._kernel.layout.pkmap_base
        assert base is not None
        return base + (place << PAGE_SHIFT)

    def place(self, addr: int) -> int:
        """Return the place of an address in the kmap window.

        Source: arch/x86/include/asm/highmem.h:PKMAP_NR @6.1.192
        """
        return (addr - self.address(0)) >> PAGE_SHIFT

    def kmap_high(self, pfn: int) -> int:
        """Return the address of a page of high memory, mapping it if it is not; may sleep.

        Source: mm/highmem.c:kmap_high @6.1.192
        """
        addr = self._kernel.page_address_map.get(pfn)
        if addr is None:
            addr = self._map_new_virtual(pfn)
        place = self.place(addr)
        self.pkmap_count[place] += 1
        if self.pkmap_count[place] < 2:
            bug(self._kernel, "mm/highmem.c:308")
        return addr

    def _map_new_virtual(self, pfn: int) -> int:
        """Source: mm/highmem.c:map_new_virtual @6.1.192."""
        left = LAST_PKMAP
        while True:
            self.last_pkmap_nr = (self.last_pkmap_nr + 1) % LAST_PKMAP
            if self.last_pkmap_nr == 0:
                self.flush_all_zero_pkmaps()
                left = LAST_PKMAP
            if not self.pkmap_count[self.last_pkmap_nr]:
                break
            left -= 1
            if left:
                continue
            self._sleep()
            addr = self._kernel.page_address_map.get(pfn)
            if addr is not None:
                return addr
            left = LAST_PKMAP
        addr = self.address(self.last_pkmap_nr)
        self._kernel.init_mm.set_pte(addr, self._kernel.init_mm.mk_pte(pfn, PAGE_KERNEL))
        self.pkmap_count[self.last_pkmap_nr] = 1
        self._kernel.page_address_map[pfn] = addr
        return addr

    def _sleep(self) -> None:
        """Wait until somebody gives a place up."""
        sched = self._kernel.sched
        self.waiters.append(sched.current)
        sched.schedule("a free place of kmap()")

    def flush_all_zero_pkmaps(self) -> None:
        """Unmap every place that nobody uses.

        Source: mm/highmem.c:flush_all_zero_pkmaps @6.1.192
        """
        init_mm = self._kernel.init_mm
        for place, count in enumerate(self.pkmap_count):
            if count != 1:
                continue
            self.pkmap_count[place] = 0
            entry = init_mm.unmap_page(self.address(place))
            if not entry:
                bug(self._kernel, "mm/highmem.c:207")
            del self._kernel.page_address_map[init_mm.pte_pfn(entry)]

    def kunmap_high(self, pfn: int) -> None:
        """Give up one use of a page's place.

        Source: mm/highmem.c:kunmap_high @6.1.192
        """
        addr = self._kernel.page_address_map.get(pfn)
        if addr is None:
            bug(self._kernel, "mm/highmem.c:358")
            return
        place = self.place(addr)
        self.pkmap_count[place] -= 1
        if self.pkmap_count[place] == 0:
            self.pkmap_count[place] = 1  # the model stays sound after the report
            bug(self._kernel, "mm/highmem.c:368")
        if self.pkmap_count[place] == 1 and self.waiters:
            waiters, self.waiters = self.waiters, []
            for task in waiters:
                self._kernel.sched.wake_up(task)

    # kmap_local_page

    def _local(self) -> list[int]:
        return self.kmap_ctrl.setdefault(self._kernel.current, [])

    def _local_address(self, index: int) -> int:
        """Source: arch/x86/include/asm/highmem.h, mm/highmem.c:kmap_local_calc_idx @6.1.192."""
        return self._kernel.layout.kmap_local_address(index + KM_MAX_IDX * self._kernel.page_alloc.cpu)

    def kmap_local_pfn(self, pfn: int, prot: int = PAGE_KERNEL) -> int:
        """Map a page at the next place of the CPU.

        Source: mm/highmem.c:__kmap_local_pfn_prot @6.1.192
        """
        stack = self._local()
        if len(stack) + 1 >= KM_MAX_IDX:
            bug(self._kernel, "mm/highmem.c:467")
        init_mm = self._kernel.init_mm
        addr = self._local_address(len(stack))
        if init_mm.get_pte(addr):
            bug(self._kernel, "mm/highmem.c:552")
        entry = init_mm.mk_pte(pfn, prot)
        init_mm.set_pte(addr, entry)
        stack.append(entry)
        return addr

    def kunmap_local(self, addr: int) -> None:
        """Unmap what was mapped last.

        Source: mm/highmem.c:kunmap_local_indexed @6.1.192
        """
        kernel, layout = self._kernel, self._kernel.layout
        addr &= -PAGE_SIZE
        if layout.fixed is None or not (
            layout.kmap_local_address(KM_MAX_IDX * layout.fixed.nr_cpus - 1) <= addr <= layout.kmap_local_address(0)
        ):
            if addr < layout.page_offset:
                warn_once(kernel, "mm/highmem.c:604", "kunmap_local_indexed")
            return
        stack = self._local()
        if not stack:
            bug(kernel, "mm/highmem.c:479")
        if addr != self._local_address(len(stack) - 1):
            warn_once(kernel, "mm/highmem.c:610", "kunmap_local_indexed")
        kernel.init_mm.unmap_page(addr)
        stack.pop()
        if not stack:
            del self.kmap_ctrl[kernel.current]

    def sched_out(self, task: Any) -> None:
        """Clear the places of a task that stops running; to be called with it as the current one.

        Source: mm/highmem.c:__kmap_local_sched_out @6.1.192
        """
        for index in range(len(self.kmap_ctrl.get(task, ()))):
            self._kernel.init_mm.unmap_page(self._local_address(index))

    def sched_in(self, task: Any) -> None:
        """Fill the places of a task that runs again.

        Source: mm/highmem.c:__kmap_local_sched_in @6.1.192
        """
        for index, entry in enumerate(self.kmap_ctrl.get(task, ())):
            self._kernel.init_mm.set_pte(self._local_address(index), entry)

    def validate(self) -> None:
        """Check that page table, counts and addresses of pages agree.

        Raises
        ------
        StateError
            They do not.
        """
        init_mm = self._kernel.init_mm
        mapped = {}
        for place, count in enumerate(self.pkmap_count):
            entry = init_mm.get_pte(self.address(place)) if self._kernel.layout.fixed else 0
            if bool(entry) != bool(count):
                raise StateError(f"place {place} of the kmap window has count {count} and entry {entry:#x}")
            if entry:
                mapped[init_mm.pte_pfn(entry)] = self.address(place)
        if mapped != self._kernel.page_address_map:
            raise StateError("the addresses of pages of high memory are not those that kmap() has mapped")


def _high(kernel: Kernel, page: Page | int) -> bool:
    """Whether a page lies in high memory.

    Raises
    ------
    TypeError, UsageError
        It is no page of this machine.
    """
    pfn = operator.index(page)
    if not 0 <= pfn < kernel.page_alloc.memmap.nr_frames:
        raise UsageError(f"no page frame {pfn:#x}", remedy="give a page, as alloc_pages() returns it")
    return pfn >= kernel.max_low_pfn


def PageHighMem(page: Page | int) -> bool:
    """Whether a page has no address in the linear map. Any context.

    Source: include/linux/page-flags.h:PageHighMem @6.1.192
    """
    return _high(current_kernel(), page)


def kmap(page: Page | int) -> int:
    """Return an address of a page, for as long as one likes; of high memory, map it.

    Context: may sleep.

    Source: include/linux/highmem-internal.h:kmap @6.1.192
    """
    kernel = current_kernel()
    check_may_sleep(kernel, "include/linux/highmem-internal.h", 44 if kernel.arch == "i386" else 166)
    if _high(kernel, page):
        return kernel.highmem.kmap_high(int(page))
    return _lowmem(page)


def _lowmem(page: Page | int) -> int:
    addr = page_address(page)
    assert addr is not None
    return addr


def kunmap(page: Page | int) -> None:
    """Give up an address that :func:`kmap` gave.

    Context: may sleep on i386, which has high memory; any on x86-64.

    Source: include/linux/highmem-internal.h:kunmap @6.1.192
    """
    kernel = current_kernel()
    if kernel.arch == "i386":
        check_may_sleep(kernel, "include/linux/highmem-internal.h", 55)
    if _high(kernel, page):
        kernel.highmem.kunmap_high(int(page))


def kmap_local_page(page: Page | int) -> int:
    """Return an address of a page that is good for this task only, until :func:`kunmap_local`; last in, first out.

    Context: any.

    Source: mm/highmem.c:__kmap_local_page_prot @6.1.192
    """
    kernel = current_kernel()
    if _high(kernel, page):
        return kernel.highmem.kmap_local_pfn(int(page))
    return _lowmem(page)


def kunmap_local(vaddr: int) -> None:
    """Give up what :func:`kmap_local_page` gave; any address in the page will do.

    Context: any.

    Source: include/linux/highmem-internal.h:kunmap_local @6.1.192
    """
    current_kernel().highmem.kunmap_local(vaddr)


def kmap_atomic(page: Page | int) -> int:
    """Map as :func:`kmap_local_page` does, and disable preemption until :func:`kunmap_atomic`: no sleeping.

    Context: any.

    Source: include/linux/highmem-internal.h:kmap_atomic @6.1.192
    """
    kernel = current_kernel()
    _high(kernel, page)  # a page at all?
    kernel.preempt_count += _PREEMPT_OFFSET
    kernel.current.pagefault_disabled += 1
    return kmap_local_page(page)


def kunmap_atomic(addr: int) -> None:
    """Give up what :func:`kmap_atomic` gave.

    Context: any.

    Source: include/linux/highmem-internal.h:kunmap_atomic @6.1.192
    """
    kernel = current_kernel()
    kernel.highmem.kunmap_local(addr)
    kernel.current.pagefault_disabled = max(0, kernel.current.pagefault_disabled - 1)
    kernel.preempt_count -= _PREEMPT_OFFSET


def kmap_to_page(addr: int) -> Page:
    """Return the page behind an address that one of these functions gave, or of the linear map. Any context.

    Source: mm/highmem.c:__kmap_to_page @6.1.192
    """
    kernel = current_kernel()
    pfn = None if kernel.virt_addr_valid(addr) else kernel.init_mm.walk(addr).pfn
    return virt_to_page(addr) if pfn is None else Page(pfn)


def kmap_flush_unused() -> None:
    """Unmap all places of :func:`kmap` that nobody uses.

    Source: include/linux/highmem-internal.h:kmap_flush_unused @6.1.192
    """
    kernel = current_kernel()
    if kernel.layout.fixed is not None:
        kernel.highmem.flush_all_zero_pkmaps()


def nr_free_highpages() -> int:
    """Return how many frames of high memory are free.

    Source: mm/highmem.c:__nr_free_highpages @6.1.192
    """
    memmap = current_kernel().page_alloc.memmap
    return sum(max(0, int(memmap.zones_array["free_pages"][zone])) for zone in _high_zones())


def totalhigh_pages() -> int:
    """Return how many frames of high memory the kernel manages.

    Source: include/linux/highmem-internal.h:totalhigh_pages @6.1.192
    """
    memmap = current_kernel().page_alloc.memmap
    return sum(int(memmap.zones_array["managed"][zone]) for zone in _high_zones())


def _high_zones() -> list[int]:
    kernel = current_kernel()
    memmap = kernel.page_alloc.memmap
    return [
        zone
        for zone in range(memmap.nr_zones)
        if memmap.zones_array["present"][zone] and memmap.zones_array["start_pfn"][zone] >= kernel.max_low_pfn
    ]


def _with_page(page: Page | int, use: Callable[[memoryview], None]) -> None:
    """Map a page for a moment and hand its bytes over."""
    addr = kmap_local_page(page)
    try:
        use(memory(current_kernel(), addr, PAGE_SIZE))
    finally:
        kunmap_local(addr)


def _inside(offset: int, size: int) -> None:
    if not 0 <= offset <= offset + size <= PAGE_SIZE:
        raise UsageError(f"{size} bytes at {offset} are not all in one page", remedy="copy each page's part")


def clear_highpage(page: Page | int) -> None:
    """Zero a page, wherever it lies. Any context.

    Source: include/linux/highmem.h:clear_highpage @6.1.192
    """
    zero_user(page, 0, PAGE_SIZE)


def zero_user(page: Page | int, start: int, size: int) -> None:
    """Zero a part of a page, wherever it lies. Any context.

    Source: include/linux/highmem.h:zero_user @6.1.192
    """
    if not 0 <= start <= start + size <= PAGE_SIZE:
        bug(current_kernel(), "mm/highmem.c:396")

    def use(view: memoryview) -> None:
        view[start : start + size] = bytes(size)

    _with_page(page, use)


def copy_highpage(to: Page | int, from_: Page | int) -> None:
    """Copy a page, wherever both lie. Any context.

    Source: include/linux/highmem.h:copy_highpage @6.1.192
    """
    content = memcpy_from_page(from_, 0, PAGE_SIZE)
    memcpy_to_page(to, 0, content)


def memcpy_from_page(page: Page | int, offset: int, len: int) -> bytes:
    """Return bytes of a page, wherever it lies. Any context.

    Source: include/linux/highmem.h:memcpy_from_page @6.1.192
    Differs: the bytes are returned.
    """
    _inside(offset, len)
    parts: list[bytes] = []
    _with_page(page, lambda view: parts.append(bytes(view[offset : offset + len])))
    return parts[0]


def memcpy_to_page(page: Page | int, offset: int, data: bytes) -> None:
    """Write bytes to a page, wherever it lies. Any context.

    Source: include/linux/highmem.h:memcpy_to_page @6.1.192
    """
    _inside(offset, len(data))

    def use(view: memoryview) -> None:
        view[offset : offset + len(data)] = data

    _with_page(page, use)
