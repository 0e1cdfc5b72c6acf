# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/gfp.h>``: pages and the flags of every request, under the kernel's names.

>>> from kmem import Machine
>>> from kmem.linux.gfp import *
>>> hex(GFP_KERNEL | __GFP_ZERO)
'0xdc0'
>>> with Machine.boot("x86_64", ram="1G"):
...     page = alloc_pages(GFP_KERNEL, 2)
...     __free_pages(page, 2)
"""

from kmem.linux.types import NULL
from kmem.mm import gfp
from kmem.mm.gfp import *
from kmem.mm.gfp_api import (
    __free_page,
    __free_pages,
    __get_dma_pages,
    __get_free_page,
    __get_free_pages,
    alloc_page,
    alloc_pages,
    alloc_pages_bulk_array,
    alloc_pages_bulk_array_node,
    alloc_pages_bulk_list,
    alloc_pages_exact,
    alloc_pages_exact_nid,
    alloc_pages_node,
    free_page,
    free_pages,
    free_pages_exact,
    get_order,
    get_zeroed_page,
    gfp_has_io_fs,
    gfp_migratetype,
    gfpflags_allow_blocking,
    split_page,
)
from kmem.mm.struct_page import Page, page_address, page_to_pfn, pfn_to_page, virt_to_page

__all__ = [
    *gfp.__all__,
    "NULL",
    "Page",
    "__free_page",
    "__free_pages",
    "__get_dma_pages",
    "__get_free_page",
    "__get_free_pages",
    "alloc_page",
    "alloc_pages",
    "alloc_pages_bulk_array",
    "alloc_pages_bulk_array_node",
    "alloc_pages_bulk_list",
    "alloc_pages_exact",
    "alloc_pages_exact_nid",
    "alloc_pages_node",
    "free_page",
    "free_pages",
    "free_pages_exact",
    "get_order",
    "get_zeroed_page",
    "gfp_has_io_fs",
    "gfp_migratetype",
    "gfpflags_allow_blocking",
    "page_address",
    "page_to_pfn",
    "pfn_to_page",
    "split_page",
    "virt_to_page",
]
