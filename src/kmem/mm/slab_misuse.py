# SPDX-License-Identifier: GPL-2.0-only
"""What the slab functions do about calls that they cannot serve: the kernel's words where it has some.

All of this is off the fast paths.  A kernel notices a part of what is wrong
with a call, and says so; the rest destroys data silently.  Functions here
either print or raise the kernel's report, or refuse the call with a
:class:`~kmem.errors.UsageError` that says what is wrong.

Source: mm/slab_common.c, mm/slub.c, mm/slab.h @6.1.192
Differs: nothing is destroyed, so a report that the caller survives leaves the caches as they were.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from kmem.errors import KernelWarning, UsageError
from kmem.mm.bug import bug, dump_stack, panic, warn, warning
from kmem.mm.fault import page_fault_oops
from kmem.mm.page import KIND_NAMES
from kmem.mm.pgtable import PageFault
from kmem.mm.slab_flags import SLAB_PANIC
from kmem.profile import format_gfp, profile_for

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel
    from kmem.mm.slab_api import KmemCache

_GFP_SLAB_BUG_MASK = 0xF8000006
_GFP_ZERO = 0x100
_GFP_NOWARN = 0x2000
_PGF_HEAD = 2
_PAGE_SHIFT = 12
_PAGE_SIZE = 1 << _PAGE_SHIFT
_VMEMMAP_START = 0xFFFFEA0000000000
_SIZEOF_PAGE = 64
_KINDS = {name: number for number, name in enumerate(KIND_NAMES)}


def warn_once(kernel: Kernel, place: str, function: str, message: str = "") -> None:
    """Report a warning; where reports are only printed, unless this place has spoken before."""
    if kernel.reports == "raise" or not kernel.once.get(place):
        kernel.once[place] = True
        warn(kernel, place, function, message)


# ---------------------------------------------------------------------- arguments


def node_number(kernel: Kernel, node: int) -> int:
    """Return a node that exists, or -1 for none in particular."""
    number = operator.index(node)
    if not -1 <= number < kernel.page_alloc.nr_nodes:
        raise UsageError(f"no node {number}", remedy=f"this machine has nodes 0 to {kernel.page_alloc.nr_nodes - 1}")
    return number


def want_init_on_alloc(kernel: Kernel, gfp: int) -> bool:
    """Whether fresh memory reads as zero.

    Source: include/linux/mm.h:want_init_on_alloc @6.1.192
    """
    return kernel.init_on_alloc or bool(gfp & _GFP_ZERO)


# ---------------------------------------------------------------------- creating and destroying caches


def check_create(kernel: Kernel, size: int, useroffset: int, usersize: int) -> None:
    """Warn of a region for user copies that does not lie within the object.

    Source: mm/slab_common.c:kmem_cache_create_usercopy @6.1.192
    """
    if not usersize and useroffset:
        warn(kernel, "mm/slab_common.c:320", "kmem_cache_create_usercopy")
    elif size < usersize or size - usersize < useroffset:
        warn(kernel, "mm/slab_common.c:321", "kmem_cache_create_usercopy")


def create_failed(kernel: Kernel, name: str | None, flags: int, errno: int) -> None:
    """Panic if the cache was indispensable, else say that there is none.

    Source: mm/slab_common.c:kmem_cache_create_usercopy @6.1.192
    """
    if flags & SLAB_PANIC:
        text = f"kmem_cache_create_usercopy: Failed to create slab '{name or '(null)'}'. Error -{errno}"
        panic(kernel, text)
    lines = [f"kmem_cache_create_usercopy({name or '(null)'}) failed with error -{errno}", *dump_stack(kernel)]
    kernel.printk.printk("\n".join(lines))


def still_has_objects(kernel: Kernel, cache: KmemCache) -> None:
    """Report a cache that was destroyed with objects in use.

    Source: mm/slab_common.c:kmem_cache_destroy @6.1.192
    """
    if kernel.slub.checker is not None:
        return  # the checker has said so, after the list of the objects
    caller = (dump_stack(kernel)[2:] or ["?"])[1 if kernel.arch == "x86_64" else 0].strip()
    text = f"kmem_cache_destroy {cache.name}: Slab cache still has objects when called from {caller}"
    warn(kernel, "mm/slab_common.c:493", "kmem_cache_destroy", text)


# ---------------------------------------------------------------------- allocating


def order_too_large(kernel: Kernel, gfp: int) -> None:
    """Log that somebody asked for more than any block holds; the request fails.

    Source: mm/page_alloc.c:__alloc_pages @6.1.192
    """
    place = "mm/page_alloc.c:5634"
    if not gfp & _GFP_NOWARN and not kernel.once.get(place):
        kernel.once[place] = True
        kernel.printk.printk(warning(kernel, place, "__alloc_pages").text)


def fix_flags(kernel: Kernel, gfp: int) -> None:
    """Report flags that slabs cannot honour; they are left out.

    Source: mm/slab_common.c:kmalloc_fix_flags @6.1.192
    """
    invalid, fixed = gfp & _GFP_SLAB_BUG_MASK, gfp & ~_GFP_SLAB_BUG_MASK
    profile = profile_for("6.1")
    text = (
        f"Unexpected gfp: {invalid:#x} ({format_gfp(invalid, profile)}). "
        f"Fixing up to gfp: {fixed:#x} ({format_gfp(fixed, profile)}). Fix your code!"
    )
    kernel.report(KernelWarning("\n".join([text, *dump_stack(kernel)])))


def new_slab_flags(kernel: Kernel, cache: KmemCache, gfp: int) -> None:
    """Report flags that do not go with a new slab.

    Source: mm/slub.c:new_slab @6.1.192
    """
    if gfp & _GFP_SLAB_BUG_MASK:
        fix_flags(kernel, gfp)
    if cache.ctor is not None and gfp & _GFP_ZERO:
        warn_once(kernel, "mm/slub.c:2001", "___slab_alloc")


# ---------------------------------------------------------------------- freeing


def no_linear_address(kernel: Kernel, addr: int, function: str) -> None:
    """Report the fault that an address outside the linear map ends in.

    The kernel takes it for one of the linear map all the same, and reads the
    ``struct page`` that would belong to it.
    """
    if addr <= kernel.ulong_max and kernel.arch == "x86_64":
        page = _VMEMMAP_START + ((addr - kernel.page_offset) % (1 << 64) >> _PAGE_SHIFT) * _SIZEOF_PAGE + 8
        kernel.report(page_fault_oops(kernel, PageFault(page % (1 << 64), 0)))
    raise UsageError(
        f"{function}({addr:#x}): no address of the linear map", remedy="free what kmalloc() or kmem_cache_alloc() gave"
    )


def wrong_cache(kernel: Kernel, cache: KmemCache, addr: int) -> bool:
    """Report an object of another cache, or no object at all; whether it is to be freed all the same.

    Source: mm/slab.h:cache_from_obj, virt_to_cache @6.1.192
    """
    slab = kernel.slub.slab_of_frame((addr - kernel.page_offset) >> _PAGE_SHIFT)
    if slab is None:
        warn_once(kernel, "mm/slab.h:630", "virt_to_cache", "virt_to_cache: Object is not a Slab page!")
        return False
    if kernel.slub.checker is not None:
        # said when the object is back in its own cache
        kernel.slub.checker.wrong_cache(cache.index, kernel.slub.slab_cache(slab), addr - kernel.page_offset)
        return True
    other = kernel.slub.geometries[kernel.slub.slab_cache(slab)].name
    text = f"cache_from_obj: Wrong slab cache. {cache.name} but object is from {other}"
    warn(kernel, "mm/slab.h:665", "cache_from_obj", text)
    return True


def bad_free(kernel: Kernel, addr: int, function: str, error: Exception) -> None:
    """Report a free that the allocator has refused.

    Source: mm/slub.c:set_freepointer, mm/slab_common.c:free_large_kmalloc @6.1.192
    Differs: a block that was never allocated is not given back.
    """
    phys = addr - kernel.page_offset
    pfn = phys >> _PAGE_SHIFT
    slab = kernel.slub.slab_of_frame(pfn)
    if slab is not None:
        _bad_object(kernel, addr, slab, function)
    frame = kernel.page_alloc.page_info(pfn)
    allocated = frame["kind"] == _KINDS["allocated"]
    if function == "kfree" and frame["kind"] == _KINDS["tail"]:
        raise UsageError(f"kfree({addr:#x}): inside a large allocation that begins at frame {frame['head']:#x}")
    if function == "kfree" and allocated and frame["flags"] & _PGF_HEAD and not phys % _PAGE_SIZE:
        kernel.page_alloc.free_pages(pfn, frame["order"])  # a compound page is as good as a large allocation
        return
    if function == "kfree" and not (allocated and frame["order"]):
        _no_allocation(kernel, addr)
        if allocated:
            kernel.page_alloc.free_pages(pfn, 0)
        return
    state = KIND_NAMES[frame["kind"]]
    raise UsageError(f"{function}({addr:#x}): no object is in use there (frame {pfn:#x}: {state})") from error


def _no_allocation(kernel: Kernel, addr: int) -> None:
    """Report the free of a page that is no large allocation.

    Source: mm/slab_common.c:free_large_kmalloc @6.1.192
    """
    place = "mm/slab_common.c:904"
    if kernel.reports == "raise" or not kernel.once.get(place):
        kernel.once[place] = True
        pointer = f"object pointer: 0x{addr:0{kernel.bits_per_long // 4}x}"
        report = warning(kernel, place, "free_large_kmalloc")
        both = KernelWarning(f"{report.text}\n{pointer}")
        both.message = f"{report.message}, {pointer}"
        kernel.report(both)


def _bad_object(kernel: Kernel, addr: int, slab: int, function: str) -> None:
    """Report a free of an address in a slab at which no object is in use."""
    slub = kernel.slub
    phys = addr - kernel.page_offset
    cache = slub.slab_cache(slab)
    row = slub.caches_array[cache]
    number, offset = divmod(phys - (slab << _PAGE_SHIFT) - int(row["red_left_pad"]), int(row["size"]))
    name = slub.geometries[cache].name
    if offset or not 0 <= number < slub.slab_objects(slab):
        raise UsageError(f"{function}({addr:#x}): not the start of an object of cache {name}")
    cpu = slub.cpus_array[cache * slub.nr_cpus + kernel.page_alloc.cpu]
    head = cpu["freelist"] if cpu["slab"] == slab else kernel.page_alloc.page_info(slab)["freelist"]
    if number == head:
        # a hardened freelist does notice an object that would point to itself
        bug(kernel, "mm/slub.c:419")
    raise UsageError(
        f"{function}({addr:#x}): this object of cache {name} is already free",
        remedy="the kernel's freelist would have become a ring",
    )


def bad_ksize(kernel: Kernel, addr: int, error: Exception) -> int:
    """Report the size of something that is no allocation: 0.

    Source: mm/slab_common.c:__ksize @6.1.192
    """
    if kernel.slub.slab_of_frame((addr - kernel.page_offset) >> _PAGE_SHIFT) is not None:
        raise UsageError(f"ksize({addr:#x}): no object in use begins there") from error
    warn(kernel, "mm/slab_common.c:1014", "__ksize")
    return 0
