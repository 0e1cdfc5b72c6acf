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

from kmem.mm import (
    gfp_api,
    highmem,
    pressure_api,
    shrinker,
    slab_api,
    slub_validate,
    struct_page,
    syscalls,
    uaccess,
    util,
    vmalloc_api,
)
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

    # processes: copying from and to them, and their system calls

    access_ok = ApiCall(uaccess.access_ok)
    clear_user = ApiCall(uaccess.clear_user)
    copy_from_user = ApiCall(uaccess.copy_from_user)
    copy_to_user = ApiCall(uaccess.copy_to_user)
    get_user = ApiCall(uaccess.get_user)
    put_user = ApiCall(uaccess.put_user)
    strncpy_from_user = ApiCall(uaccess.strncpy_from_user)
    strnlen_user = ApiCall(uaccess.strnlen_user)
    brk = ApiCall(syscalls.brk)
    exit = ApiCall(syscalls.exit)
    fork = ApiCall(syscalls.fork)
    madvise = ApiCall(syscalls.madvise)
    mmap = ApiCall(syscalls.mmap)
    mprotect = ApiCall(syscalls.mprotect)
    mremap = ApiCall(syscalls.mremap)
    munmap = ApiCall(syscalls.munmap)
    sbrk = ApiCall(syscalls.sbrk)

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

    # files, swap, and what frees memory

    compact_memory = ApiCall(pressure_api.compact_memory)
    delete_file = ApiCall(pressure_api.delete_file)
    drop_caches = ApiCall(pressure_api.drop_caches)
    open_file = ApiCall(pressure_api.open_file)
    read_file = ApiCall(pressure_api.read_file)
    register_shrinker = ApiCall(shrinker.register_shrinker)
    show_mem = ApiCall(pressure_api.show_mem)
    swapoff = ApiCall(pressure_api.swapoff)
    swapon = ApiCall(pressure_api.swapon)
    sync = ApiCall(pressure_api.sync)
    synchronize_shrinkers = ApiCall(shrinker.synchronize_shrinkers)
    unregister_shrinker = ApiCall(shrinker.unregister_shrinker)
    write_file = ApiCall(pressure_api.write_file)

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

    # linux/gfp.h

    alloc_pages = ApiCall(gfp_api.alloc_pages)
    alloc_page = ApiCall(gfp_api.alloc_page)
    alloc_pages_node = ApiCall(gfp_api.alloc_pages_node)
    split_page = ApiCall(gfp_api.split_page)
    get_zeroed_page = ApiCall(gfp_api.get_zeroed_page)
    free_pages = ApiCall(gfp_api.free_pages)
    free_page = ApiCall(gfp_api.free_page)
    alloc_pages_exact = ApiCall(gfp_api.alloc_pages_exact)
    alloc_pages_exact_nid = ApiCall(gfp_api.alloc_pages_exact_nid)
    free_pages_exact = ApiCall(gfp_api.free_pages_exact)
    alloc_pages_bulk_array = ApiCall(gfp_api.alloc_pages_bulk_array)
    alloc_pages_bulk_array_node = ApiCall(gfp_api.alloc_pages_bulk_array_node)
    alloc_pages_bulk_list = ApiCall(gfp_api.alloc_pages_bulk_list)
    get_order = ApiCall(gfp_api.get_order)
    gfp_has_io_fs = ApiCall(gfp_api.gfp_has_io_fs)
    gfp_migratetype = ApiCall(gfp_api.gfp_migratetype)
    gfpflags_allow_blocking = ApiCall(gfp_api.gfpflags_allow_blocking)

    # linux/slab.h, linux/string.h

    kmem_cache_create = ApiCall(slab_api.kmem_cache_create)
    kmem_cache_create_usercopy = ApiCall(slab_api.kmem_cache_create_usercopy)
    kmem_cache_destroy = ApiCall(slab_api.kmem_cache_destroy)
    kmem_cache_shrink = ApiCall(slab_api.kmem_cache_shrink)
    validate_slab_cache = ApiCall(slub_validate.validate_slab_cache)
    slab_errors = ApiCall(slub_validate.slab_errors)
    kmem_cache_size = ApiCall(slab_api.kmem_cache_size)
    kmem_cache_alloc = ApiCall(slab_api.kmem_cache_alloc)
    kmem_cache_alloc_node = ApiCall(slab_api.kmem_cache_alloc_node)
    kmem_cache_zalloc = ApiCall(slab_api.kmem_cache_zalloc)
    kmem_cache_free = ApiCall(slab_api.kmem_cache_free)
    kmem_cache_alloc_bulk = ApiCall(slab_api.kmem_cache_alloc_bulk)
    kmem_cache_free_bulk = ApiCall(slab_api.kmem_cache_free_bulk)
    kfree_bulk = ApiCall(slab_api.kfree_bulk)
    kmalloc = ApiCall(slab_api.kmalloc)
    kmalloc_node = ApiCall(slab_api.kmalloc_node)
    kzalloc = ApiCall(slab_api.kzalloc)
    kzalloc_node = ApiCall(slab_api.kzalloc_node)
    kmalloc_array = ApiCall(slab_api.kmalloc_array)
    kcalloc = ApiCall(slab_api.kcalloc)
    kfree = ApiCall(slab_api.kfree)
    kfree_sensitive = ApiCall(slab_api.kfree_sensitive)
    ksize = ApiCall(slab_api.ksize)
    krealloc = ApiCall(slab_api.krealloc)
    krealloc_array = ApiCall(slab_api.krealloc_array)
    kmemdup = ApiCall(util.kmemdup)
    kstrdup = ApiCall(util.kstrdup)
    kstrndup = ApiCall(util.kstrndup)

    if TYPE_CHECKING:
        # see below
        __free_pages = ApiCall(gfp_api.__free_pages)
        __free_page = ApiCall(gfp_api.__free_page)
        __get_free_pages = ApiCall(gfp_api.__get_free_pages)
        __get_free_page = ApiCall(gfp_api.__get_free_page)
        __get_dma_pages = ApiCall(gfp_api.__get_dma_pages)


# Functions whose names begin with two underscores.
_DUNDER: tuple[Callable[..., Any], ...] = (
    vmalloc_api.__vcalloc,
    vmalloc_api.__vmalloc,
    vmalloc_api.__vmalloc_array,
    vmalloc_api.__vmalloc_node,
    gfp_api.__free_pages,
    gfp_api.__free_page,
    gfp_api.__get_free_pages,
    gfp_api.__get_free_page,
    gfp_api.__get_dma_pages,
)

for _function in _DUNDER:
    setattr(KernelCalls, _function.__name__, ApiCall(_function))
