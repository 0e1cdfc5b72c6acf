# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel prints about its memory when a request fails.

:func:`show_mem` is the ``Mem-Info`` block, which also sysrq-m and the OOM
killer print; :func:`warn_alloc` the report of a failed page request around
it; :func:`slab_out_of_memory` that of a slab cache.  All return text: whoever
prints it decides where it goes.

Source: lib/show_mem.c, mm/page_alloc.c:__show_free_areas, mm/page_alloc.c:warn_alloc @6.1.192
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kmem.mm.mmzone import MemMap
from kmem.mm.vmstat import VmStat
from kmem.profile import format_gfp

__all__ = [
    "HugePages",
    "SlabNode",
    "nodelist",
    "show_mem",
    "slab_out_of_memory",
    "warn_alloc",
    "warn_alloc_nodes",
]

_MAX_NR_ZONES = 5
_NR_ORDERS = 11
_KSWAPD_GIVES_UP = 16  # MAX_RECLAIM_RETRIES
_GFP_DIRECT_RECLAIM = 0x400
_GFP_NOMEMALLOC = 0x80000
#: Letters of the migrate types, in the kernel's order of the types, with the model's number of each.
_TYPE_LETTERS = ((0, "U"), (1, "M"), (2, "E"), (3, "H"), (5, "C"), (4, "I"))


def _kb(pages: int) -> int:
    return int(pages) << 2


@dataclass(frozen=True, slots=True)
class HugePages:
    """The pool of huge pages of one size on one node.

    Attributes
    ----------
    size_kb : int
        Size of one page.
    total, free, surplus : int
        Pages in the pool.
    """

    size_kb: int
    total: int = 0
    free: int = 0
    surplus: int = 0


@dataclass(frozen=True, slots=True)
class SlabNode:
    """Slabs of one cache on one node, as the out-of-memory report counts them.

    Attributes
    ----------
    node : int
    slabs, objs : int
        Slabs, and objects in them, used or not.
    free : int
        Unused objects on the slabs of the node's partial list.
    """

    node: int
    slabs: int
    objs: int
    free: int


@dataclass
class _Shown:
    """What one report shows: the machine, and the nodes and zones that are not filtered out."""

    memmap: MemMap
    stat: VmStat
    max_zone_idx: int
    nodes: Collection[int] | None
    cpu: int
    kswapd_failures: Sequence[int]
    zones: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        memmap = self.memmap
        self.zones = [
            zone
            for zone in range(memmap.nr_zones)
            if memmap.zones_array[zone]["present"]
            and zone % _MAX_NR_ZONES <= self.max_zone_idx
            and self.node_shown(zone // _MAX_NR_ZONES)
        ]

    def node_shown(self, node: int) -> bool:
        return self.nodes is None or node in self.nodes

    def online_nodes(self) -> Iterator[int]:
        per_node = self.memmap.zones_array["present"].reshape(self.memmap.nr_nodes, _MAX_NR_ZONES).sum(axis=1)
        return (node for node in range(self.memmap.nr_nodes) if per_node[node])

    def free_pcp(self, zone: int) -> int:
        memmap = self.memmap
        return int(memmap.pagesets_array["count"][zone * memmap.nr_cpus : (zone + 1) * memmap.nr_cpus].sum())

    def zone_head(self, zone: int) -> str:
        """Name of a zone, with its node where the kernel is built for several."""
        name = self.memmap.zone_name(zone)
        return f"Node {zone // _MAX_NR_ZONES} {name}" if "DMA32" in self.memmap.zone_names else name


def show_mem(
    memmap: MemMap,
    stat: VmStat,
    *,
    max_zone_idx: int = _MAX_NR_ZONES - 1,
    nodes: Collection[int] | None = None,
    cpu: int = 0,
    kswapd_failures: Sequence[int] = (),
    hugepages: Sequence[HugePages] | None = None,
    hwpoisoned: int | None = 0,
) -> str:
    """Return the ``Mem-Info`` block.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    stat : VmStat
        Counters of what is not the page allocator's own.
    max_zone_idx : int
        Highest zone index that is shown: that of the request.
    nodes : collection of int, optional
        Nodes that are shown; all by default.
    cpu : int
        CPU that the report is made on (``local_pcp``).
    kswapd_failures : sequence of int
        Runs of each node's kswapd in a row that freed nothing.
    hugepages : sequence of HugePages, optional
        Pools of each node; by default one empty pool of the size of a page block.
    hwpoisoned : int or None
        Frames taken out of use; None for a kernel that does not know of such.

    Returns
    -------
    str
        Lines without time stamps, each with a line break.

    Notes
    -----
    Context: any; it is printed in the middle of allocations.

    Source: lib/show_mem.c:__show_mem @6.1.192
    """
    shown = _Shown(memmap, stat, max_zone_idx, nodes, cpu, kswapd_failures)
    if hugepages is None:
        hugepages = (HugePages(size_kb=4 << memmap.pageblock_order),)
    lines = ["Mem-Info:", *_totals(shown)]
    lines += [_node_line(shown, node) for node in shown.online_nodes() if _has_managed(shown, node)]
    for zone in shown.zones:
        lines += _zone_lines(shown, zone)
    lines += [_free_area_line(shown, zone) for zone in shown.zones]
    for node in shown.online_nodes():
        if shown.node_shown(node):
            lines += [_hugepage_line(node, pool) for pool in hugepages]
    lines += [
        f"{stat.global_node_page_state('nr_file_pages')} total pagecache pages",
        f"{stat.global_node_page_state('nr_swapcached')} pages in swap cache",
        f"Free swap  = {_kb(stat.swap_free_pages)}kB",
        f"Total swap = {_kb(stat.swap_pages)}kB",
        *_ram_lines(memmap),
    ]
    if hwpoisoned is not None:
        lines.append(f"{hwpoisoned} pages hwpoisoned")
    return "".join(f"{line}\n" for line in lines)


def _totals(shown: _Shown) -> list[str]:
    """Counters of the whole machine.

    Source: mm/page_alloc.c:__show_free_areas @6.1.192
    """
    total = shown.stat.global_node_page_state
    zones = shown.memmap.zones_array
    free = max(int(zones["free_pages"].sum()), 0)
    free_cma = max(int(zones["free_cma_pages"].sum()), 0)
    free_pcp = sum(shown.free_pcp(zone) for zone in shown.zones)
    bounce = max(sum(counters["nr_bounce"] for counters in shown.stat.zone), 0)
    return [
        f"active_anon:{total('nr_active_anon')} inactive_anon:{total('nr_inactive_anon')} "
        f"isolated_anon:{total('nr_isolated_anon')}",
        f" active_file:{total('nr_active_file')} inactive_file:{total('nr_inactive_file')} "
        f"isolated_file:{total('nr_isolated_file')}",
        f" unevictable:{total('nr_unevictable')} dirty:{total('nr_dirty')} writeback:{total('nr_writeback')}",
        f" slab_reclaimable:{total('nr_slab_reclaimable')} slab_unreclaimable:{total('nr_slab_unreclaimable')}",
        f" mapped:{total('nr_mapped')} shmem:{total('nr_shmem')} pagetables:{total('nr_page_table_pages')}",
        f" sec_pagetables:{total('nr_sec_page_table_pages')} bounce:{bounce}",
        f" kernel_misc_reclaimable:{total('nr_kernel_misc_reclaimable')}",
        f" free:{free} free_pcp:{free_pcp} free_cma:{free_cma}",
    ]


def _has_managed(shown: _Shown, node: int) -> bool:
    """Whether a node is shown: it has managed memory in a zone of the request.

    Source: mm/page_alloc.c:node_has_managed_zones @6.1.192
    """
    first = node * _MAX_NR_ZONES
    managed = shown.memmap.zones_array["managed"][first : first + min(shown.max_zone_idx + 1, _MAX_NR_ZONES)]
    return shown.node_shown(node) and bool(managed.any())


def _node_line(shown: _Shown, node: int) -> str:
    """Counters of one node, in kB.

    Source: mm/page_alloc.c:__show_free_areas @6.1.192
    """
    state = shown.stat.node_page_state
    failures = shown.kswapd_failures[node] if node < len(shown.kswapd_failures) else 0
    counters = (
        ("active_anon:", "nr_active_anon"),
        ("inactive_anon:", "nr_inactive_anon"),
        ("active_file:", "nr_active_file"),
        ("inactive_file:", "nr_inactive_file"),
        ("unevictable:", "nr_unevictable"),
        ("isolated(anon):", "nr_isolated_anon"),
        ("isolated(file):", "nr_isolated_file"),
        ("mapped:", "nr_mapped"),
        ("dirty:", "nr_dirty"),
        ("writeback:", "nr_writeback"),
        ("shmem:", "nr_shmem"),
        ("shmem_thp: ", "nr_shmem_hugepages"),
        ("shmem_pmdmapped: ", "nr_shmem_pmdmapped"),
        ("anon_thp: ", "nr_anon_transparent_hugepages"),
        ("writeback_tmp:", "nr_writeback_temp"),
    )
    shown_kb = " ".join(f"{label}{_kb(state(node, name))}kB" for label, name in counters)
    return (
        f"Node {node} {shown_kb} kernel_stack:{state(node, 'nr_kernel_stack')}kB"
        f" pagetables:{_kb(state(node, 'nr_page_table_pages'))}kB"
        f" sec_pagetables:{_kb(state(node, 'nr_sec_page_table_pages'))}kB"
        f" all_unreclaimable? {'yes' if failures >= _KSWAPD_GIVES_UP else 'no'}"
    )


def _zone_lines(shown: _Shown, zone: int) -> list[str]:
    """Watermarks and counters of one zone, and its reserves.

    Source: mm/page_alloc.c:__show_free_areas @6.1.192
    """
    z = shown.memmap.zones_array[zone]
    boost = int(z["watermark_boost"])
    low, mid, high = (int(mark) + boost for mark in z["watermark"][:3])
    state = shown.stat.zone_page_state
    local = int(shown.memmap.pagesets_array[zone * shown.memmap.nr_cpus + shown.cpu]["count"])
    reserves = "".join(f" {int(pages)}" for pages in z["lowmem_reserve"][: len(shown.memmap.zone_names)])
    return [
        f"{shown.zone_head(zone)} free:{_kb(max(int(z['free_pages']), 0))}kB boost:{_kb(boost)}kB"
        f" min:{_kb(low)}kB low:{_kb(mid)}kB high:{_kb(high)}kB"
        f" reserved_highatomic:{_kb(z['nr_reserved_highatomic'])}KB"
        f" active_anon:{_kb(state(zone, 'nr_zone_active_anon'))}kB"
        f" inactive_anon:{_kb(state(zone, 'nr_zone_inactive_anon'))}kB"
        f" active_file:{_kb(state(zone, 'nr_zone_active_file'))}kB"
        f" inactive_file:{_kb(state(zone, 'nr_zone_inactive_file'))}kB"
        f" unevictable:{_kb(state(zone, 'nr_zone_unevictable'))}kB"
        f" writepending:{_kb(state(zone, 'nr_zone_write_pending'))}kB"
        f" present:{_kb(z['present'])}kB managed:{_kb(z['managed'])}kB"
        f" mlocked:{_kb(state(zone, 'nr_mlock'))}kB bounce:{_kb(state(zone, 'nr_bounce'))}kB"
        f" free_pcp:{_kb(shown.free_pcp(zone))}kB local_pcp:{_kb(local)}kB"
        f" free_cma:{_kb(max(int(z['free_cma_pages']), 0))}kB",
        f"lowmem_reserve[]:{reserves}",
    ]


def _free_area_line(shown: _Shown, zone: int) -> str:
    """Free blocks of one zone by order, with the letters of the lists that have any.

    Source: mm/page_alloc.c:show_migration_types @6.1.192
    """
    memmap = shown.memmap
    counts = [int(count) for count in memmap.zones_array[zone]["nr_free"]]
    heads = int(memmap.zones_array[zone]["lists"])
    following = memmap.pages_array["next"]
    parts = []
    for order in range(_NR_ORDERS):
        part = f"{counts[order]}*{_kb(1 << order)}kB "
        if counts[order]:
            first = heads + order * 6
            letters = "".join(letter for mt, letter in _TYPE_LETTERS if following[first + mt] != first + mt)
            part += f"({letters}) "
        parts.append(part)
    total = sum(count << order for order, count in enumerate(counts))
    return f"{shown.zone_head(zone)}: {''.join(parts)}= {_kb(total)}kB"


def _hugepage_line(node: int, pool: HugePages) -> str:
    """Source: mm/hugetlb.c:hugetlb_show_meminfo_node @6.1.192."""
    return (
        f"Node {node} hugepages_total={pool.total} hugepages_free={pool.free}"
        f" hugepages_surp={pool.surplus} hugepages_size={pool.size_kb}kB"
    )


def _ram_lines(memmap: MemMap) -> list[str]:
    """Memory in all, that above the direct mapping, and what the allocator never had.

    Source: lib/show_mem.c:__show_mem @6.1.192
    """
    zones = memmap.zones_array
    names = memmap.zone_names
    high = ("HighMem", "Movable") if "HighMem" in names else ()
    is_high = np.array([i % _MAX_NR_ZONES < len(names) and memmap.zone_name(i) in high for i in range(len(zones))])
    present = int(zones["present"].sum())
    return [
        f"{present} pages RAM",
        f"{int(zones['present'][is_high].sum())} pages HighMem/MovableOnly",
        f"{present - int(zones['managed'].sum())} pages reserved",
    ]


def nodelist(nodes: Collection[int]) -> str:
    """Return node numbers as the kernel prints a mask: ``0-2,5``.

    Source: lib/vsprintf.c:bitmap_list_string @6.1.192
    """
    ordered = sorted(nodes)
    ranges: list[list[int]] = []
    for node in ordered:
        if ranges and node == ranges[-1][1] + 1:
            ranges[-1][1] = node
        else:
            ranges.append([node, node])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def warn_alloc_nodes(
    gfp: int, allowed: Collection[int], *, may_use_reserves: bool = False, in_task: bool = True
) -> Collection[int] | None:
    """Return the nodes that the report about a failed request shows; None for all.

    Parameters
    ----------
    gfp : int
        GFP mask of the request.
    allowed : collection of int
        Nodes that the task's cpuset allows.
    may_use_reserves : bool
        Whether the task frees memory itself, is about to exit, or is being killed for memory.
    in_task : bool
        Whether it is a task that asked, and no interrupt.

    Source: mm/page_alloc.c:warn_alloc_show_mem @6.1.192
    """
    everything = (may_use_reserves and not gfp & _GFP_NOMEMALLOC) or not in_task or not gfp & _GFP_DIRECT_RECLAIM
    return None if everything else allowed


def warn_alloc(
    comm: str,
    order: int,
    gfp: int,
    *,
    allowed: Collection[int] = (0,),
    stack: str = "",
    mem_info: str = "",
    what: str = "",
) -> str:
    """Return the report of a failed page request.

    Parameters
    ----------
    comm : str
        Name of the task.
    order, gfp : int
        What it asked for.
    allowed : collection of int
        Nodes that its cpuset allows.
    stack : str
        What ``dump_stack()`` prints.
    mem_info : str
        What :func:`show_mem` gives.
    what : str
        What failed, if it is something else than the request itself.

    Source: mm/page_alloc.c:warn_alloc, kernel/cgroup/cpuset.c:cpuset_print_current_mems_allowed @6.1.192
    """
    head = (
        f"{comm}: {what or f'page allocation failure: order:{order}'}, mode:{gfp:#x}({format_gfp(gfp)}), "
        f"nodemask=(null),cpuset=/,mems_allowed={nodelist(allowed)}\n"
    )
    return head + stack + mem_info


def slab_out_of_memory(
    name: str,
    *,
    node: int,
    gfp: int,
    object_size: int,
    size: int,
    default_order: int,
    min_order: int,
    nodes: Sequence[SlabNode],
) -> str:
    """Return the report of a slab cache that got no page for a new slab.

    Parameters
    ----------
    name : str
        Name of the cache.
    node : int
        Node that was asked for; -1 for any.
    gfp : int
        GFP mask of the request for an object.
    object_size, size : int
        Bytes that a user of the cache sees, and bytes from one object to the next.
    default_order, min_order : int
        Orders of a slab: the preferred one and the least.
    nodes : sequence of SlabNode
        What the cache has.

    Source: mm/slub.c:slab_out_of_memory @6.1.192
    """
    lines = [
        f"SLUB: Unable to allocate memory on node {node}, gfp={gfp:#x}({format_gfp(gfp)})",
        f"  cache: {name}, object size: {object_size}, buffer size: {size}, "
        f"default order: {default_order}, min order: {min_order}",
    ]
    needed = max(0, (-(-object_size // 4096) - 1).bit_length()) if object_size else 0
    if min_order > needed:
        lines.append(f"  {name} debugging increased min order, use slub_debug=O to disable.")
    lines += [f"  node {each.node}: slabs: {each.slabs}, objs: {each.objs}, free: {each.free}" for each in nodes]
    return "".join(f"{line}\n" for line in lines)
