# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's API as methods of a machine.

Every function of :mod:`kmem.linux` acts on the current kernel.  Here the same
functions become methods that act on their own machine, whichever is current:
``m.kmalloc(64, GFP_KERNEL)``.  One line each, one docstring each: signature,
documentation and type are the function's.

Names that begin with two underscores cannot stand in a class as they are
(Python would rename them): they are added below the class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from kmem.mm import highmem, struct_page, vmalloc_api
from kmem.mm import ioremap as io
from kmem.mm.kernel import BoundCall

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["ApiCall", "KernelCalls"]

P = ParamSpec("P")
R = TypeVar("R")


class ApiCall(Generic[P, R]):
    """A function of the kernel's API as a method; see the module.

    Parameters
    ----------
    function : callable
        Acts on the current kernel.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, machine: None, owner: type) -> Callable[P, R]: ...

    @overload
    def __get__(self, machine: KernelCalls, owner: type) -> Callable[P, R]: ...

    def __get__(self, machine: KernelCalls | None, owner: type) -> Callable[P, R]:
        """Return the function, bound to the machine's kernel if there is one."""
        if machine is None:
            return self.function
        return cast("Callable[P, R]", BoundCall(machine.kernel, self.function))


class KernelCalls:
    """The calls that a machine offers as methods."""

    @property
    def kernel(self) -> Kernel:
        """The machine's running kernel."""
        raise NotImplementedError

    # struct page and the linear map

    page_to_pfn = ApiCall(struct_page.page_to_pfn)
    pfn_to_page = ApiCall(struct_page.pfn_to_page)
    page_address = ApiCall(struct_page.page_address)
    page_to_virt = ApiCall(struct_page.page_to_virt)
    page_to_phys = ApiCall(struct_page.page_to_phys)
    phys_to_page = ApiCall(struct_page.phys_to_page)
    virt_to_page = ApiCall(struct_page.virt_to_page)
    phys_to_virt = ApiCall(struct_page.phys_to_virt)
    virt_to_phys = ApiCall(struct_page.virt_to_phys)
    virt_addr_valid = ApiCall(struct_page.virt_addr_valid)

    # vmalloc

    find_vm_area = ApiCall(vmalloc_api.find_vm_area)
    is_vmalloc_addr = ApiCall(vmalloc_api.is_vmalloc_addr)
    kvcalloc = ApiCall(vmalloc_api.kvcalloc)
    kvfree = ApiCall(vmalloc_api.kvfree)
    kvfree_sensitive = ApiCall(vmalloc_api.kvfree_sensitive)
    kvmalloc = ApiCall(vmalloc_api.kvmalloc)
    kvmalloc_array = ApiCall(vmalloc_api.kvmalloc_array)
    kvmalloc_node = ApiCall(vmalloc_api.kvmalloc_node)
    kvrealloc = ApiCall(vmalloc_api.kvrealloc)
    kvzalloc = ApiCall(vmalloc_api.kvzalloc)
    kvzalloc_node = ApiCall(vmalloc_api.kvzalloc_node)
    vcalloc = ApiCall(vmalloc_api.vcalloc)
    vfree = ApiCall(vmalloc_api.vfree)
    vfree_atomic = ApiCall(vmalloc_api.vfree_atomic)
    vm_map_ram = ApiCall(vmalloc_api.vm_map_ram)
    vm_unmap_aliases = ApiCall(vmalloc_api.vm_unmap_aliases)
    vm_unmap_ram = ApiCall(vmalloc_api.vm_unmap_ram)
    vmalloc = ApiCall(vmalloc_api.vmalloc)
    vmalloc_32 = ApiCall(vmalloc_api.vmalloc_32)
    vmalloc_32_user = ApiCall(vmalloc_api.vmalloc_32_user)
    vmalloc_array = ApiCall(vmalloc_api.vmalloc_array)
    vmalloc_huge = ApiCall(vmalloc_api.vmalloc_huge)
    vmalloc_node = ApiCall(vmalloc_api.vmalloc_node)
    vmalloc_to_page = ApiCall(vmalloc_api.vmalloc_to_page)
    vmalloc_to_pfn = ApiCall(vmalloc_api.vmalloc_to_pfn)
    vmalloc_user = ApiCall(vmalloc_api.vmalloc_user)
    vmap = ApiCall(vmalloc_api.vmap)
    vunmap = ApiCall(vmalloc_api.vunmap)
    vzalloc = ApiCall(vmalloc_api.vzalloc)
    vzalloc_node = ApiCall(vmalloc_api.vzalloc_node)

    # device memory

    ioremap = ApiCall(io.ioremap)
    ioremap_cache = ApiCall(io.ioremap_cache)
    ioremap_uc = ApiCall(io.ioremap_uc)
    ioremap_wc = ApiCall(io.ioremap_wc)
    ioremap_wt = ApiCall(io.ioremap_wt)
    iounmap = ApiCall(io.iounmap)
    memcpy_fromio = ApiCall(io.memcpy_fromio)
    memcpy_toio = ApiCall(io.memcpy_toio)
    memset_io = ApiCall(io.memset_io)
    readb = ApiCall(io.readb)
    readl = ApiCall(io.readl)
    readq = ApiCall(io.readq)
    readw = ApiCall(io.readw)
    writeb = ApiCall(io.writeb)
    writel = ApiCall(io.writel)
    writeq = ApiCall(io.writeq)
    writew = ApiCall(io.writew)

    # high memory

    PageHighMem = ApiCall(highmem.PageHighMem)
    clear_highpage = ApiCall(highmem.clear_highpage)
    copy_highpage = ApiCall(highmem.copy_highpage)
    kmap = ApiCall(highmem.kmap)
    kmap_atomic = ApiCall(highmem.kmap_atomic)
    kmap_flush_unused = ApiCall(highmem.kmap_flush_unused)
    kmap_local_page = ApiCall(highmem.kmap_local_page)
    kmap_to_page = ApiCall(highmem.kmap_to_page)
    kunmap = ApiCall(highmem.kunmap)
    kunmap_atomic = ApiCall(highmem.kunmap_atomic)
    kunmap_local = ApiCall(highmem.kunmap_local)
    memcpy_from_page = ApiCall(highmem.memcpy_from_page)
    memcpy_to_page = ApiCall(highmem.memcpy_to_page)
    nr_free_highpages = ApiCall(highmem.nr_free_highpages)
    totalhigh_pages = ApiCall(highmem.totalhigh_pages)
    zero_user = ApiCall(highmem.zero_user)


# Functions whose names begin with two underscores.
_DUNDER: tuple[Callable[..., Any], ...] = (
    vmalloc_api.__vcalloc,
    vmalloc_api.__vmalloc,
    vmalloc_api.__vmalloc_array,
    vmalloc_api.__vmalloc_node,
)

for _function in _DUNDER:
    setattr(KernelCalls, _function.__name__, ApiCall(_function))
