# SPDX-License-Identifier: GPL-2.0-only
"""What ``/proc`` would show of a modelled machine.

The functions read the core's arrays and change nothing.  Page cache and
anonymous memory are counted by reclaim; without it, and for what the model
does not have (NUMA event counts), the counters read 0.

Source: mm/vmstat.c, mm/slub.c:get_slabinfo @6.1.192
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kmem.machine.views import CacheView, MachineView, NodeView, PagesetView, ZoneView
from kmem.mm.mmzone import MemMap
from kmem.mm.page import KIND_NAMES
from kmem.mm.slab_flags import SLAB_RECLAIM_ACCOUNT
from kmem.mm.slub import Slub
from kmem.profile import REFERENCE

if TYPE_CHECKING:
    from kmem.mm.reclaim import Reclaim

__all__ = ["view_caches", "view_machine", "view_nodes"]

_SLAB = KIND_NAMES.index("slab")
_LARGE = KIND_NAMES.index("large")
_CMA = 5  # has no list of its own on the kernels that are printed
_SECTION_SHIFT = 15  # frames of a memory section of x86-64, as a power of two

#: Counters of a node, in the kernel's order (SWAP, NUMA_BALANCING on).
NODE_STATS = (
    *("nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file", "nr_unevictable"),
    *("nr_slab_reclaimable", "nr_slab_unreclaimable", "nr_isolated_anon", "nr_isolated_file"),
    *("workingset_nodes", "workingset_refault_anon", "workingset_refault_file", "workingset_activate_anon"),
    *("workingset_activate_file", "workingset_restore_anon", "workingset_restore_file", "workingset_nodereclaim"),
    *("nr_anon_pages", "nr_mapped", "nr_file_pages", "nr_dirty", "nr_writeback", "nr_writeback_temp", "nr_shmem"),
    *("nr_shmem_hugepages", "nr_shmem_pmdmapped", "nr_file_hugepages", "nr_file_pmdmapped"),
    *("nr_anon_transparent_hugepages", "nr_vmscan_write", "nr_vmscan_immediate_reclaim", "nr_dirtied"),
    *("nr_written", "nr_throttled_written", "nr_kernel_misc_reclaimable", "nr_foll_pin_acquired"),
    *("nr_foll_pin_released", "nr_kernel_stack", "nr_page_table_pages", "nr_sec_page_table_pages"),
    *("nr_swapcached", "pgpromote_success", "pgpromote_candidate"),
)
#: Node counters that a kernel without NUMA balancing does not have.
NUMA_NODE_STATS = ("pgpromote_success", "pgpromote_candidate")
#: Counters of a zone.
ZONE_STATS = (
    *("nr_free_pages", "nr_zone_inactive_anon", "nr_zone_active_anon", "nr_zone_inactive_file"),
    *("nr_zone_active_file", "nr_zone_unevictable", "nr_zone_write_pending", "nr_mlock", "nr_bounce"),
    *("nr_zspages", "nr_free_cma"),
)
#: NUMA events of a zone, on kernels with NUMA.
NUMA_EVENTS = ("numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other")


def view_machine(memmap: MemMap, slub: Slub | None = None, reclaim: Reclaim | None = None) -> MachineView:
    """Return what ``/proc`` would show.

    Parameters
    ----------
    memmap : MemMap
        The machine's memory.
    slub : Slub, optional
        Its slab caches.
    reclaim : Reclaim, optional
        Who counts its page cache, anonymous memory and reclaim.

    Returns
    -------
    MachineView
        A copy; O(frames) for the slab counters, else O(free blocks).
    """
    return MachineView(
        nodes=view_nodes(memmap, slub, reclaim),
        caches=view_caches(slub) if slub is not None else (),
        pageblock_order=memmap.pageblock_order,
        migrate_types=REFERENCE.migrate_types,
    )


def view_nodes(memmap: MemMap, slub: Slub | None = None, reclaim: Reclaim | None = None) -> tuple[NodeView, ...]:
    """Return nodes and zones of a machine, all zones of each node, populated or not."""
    numa = "Device" in memmap.zone_names
    per_node = len(memmap.zone_names)
    slabs = slab_pages(memmap, slub)
    names = [name for name in NODE_STATS if numa or name not in NUMA_NODE_STATS]
    nodes = []
    for node in range(memmap.nr_nodes):
        zones = tuple(_view_zone(memmap, memmap.zone_id(memmap.zone_names[i], node), numa) for i in range(per_node))
        if any(zone.present for zone in zones):
            stats = dict.fromkeys(names, 0)
            if reclaim is not None:
                zones = tuple(_with_counters(zone, memmap, reclaim) for zone in zones)
                stats.update(
                    (name, reclaim.stat.node_page_state(node, name))
                    for name in stats
                    if name in reclaim.stat.node[node]
                )
            stats["nr_slab_reclaimable"], stats["nr_slab_unreclaimable"] = slabs[node]
            nodes.append(NodeView(node, zones, stats))
    return tuple(nodes)


def _with_counters(zone: ZoneView, memmap: MemMap, reclaim: Reclaim) -> ZoneView:
    """Fill in what reclaim counts in a zone."""
    if not zone.present:
        return zone
    zone_id = memmap.zone_id(zone.name, zone.node)
    counted = reclaim.stat.zone[zone_id]
    stats = {
        name: reclaim.stat.zone_page_state(zone_id, name) if name in counted else value
        for name, value in zone.stats.items()
    }
    # MAX_RECLAIM_RETRIES rounds without progress: kswapd has given the node up.
    return replace(zone, stats=stats, unreclaimable=reclaim.pgdats[zone.node].kswapd_failures >= 16)


def _view_zone(memmap: MemMap, zone_id: int, numa: bool) -> ZoneView:
    zone = memmap.zones_array[zone_id]
    name, node = memmap.zone_name(zone_id), int(zone["node"])
    protection = tuple(int(pages) for pages in zone["lowmem_reserve"][: len(memmap.zone_names)])
    boost = int(zone["watermark_boost"])
    marks = [int(mark) + boost for mark in zone["watermark"][:3]]
    if not zone["present"]:
        # Without memory, but not without watermarks: HighMem and Movable never have less than 32.
        return ZoneView(
            node,
            name,
            boost=boost,
            min=marks[0],
            low=marks[1],
            high=marks[2],
            protection=protection,
            start_pfn=int(zone["start_pfn"]),
        )
    # What a CPU has not folded in yet can leave the global count below zero; it is shown as 0.
    free_pages = max(int(zone["free_pages"]), 0)
    stats = dict.fromkeys((*ZONE_STATS, *(NUMA_EVENTS if numa else ())), 0)
    stats["nr_free_pages"] = free_pages
    return ZoneView(
        node=node,
        name=name,
        nr_free=tuple(int(count) for count in zone["nr_free"]),
        free=_free_counts(memmap, zone_id),
        blocks=_block_counts(memmap, zone_id),
        free_pages=free_pages,
        boost=boost,
        min=marks[0],
        low=marks[1],
        high=marks[2],
        spanned=int(zone["spanned"]),
        present=int(zone["present"]),
        managed=int(zone["managed"]),
        protection=protection,
        stats=stats,
        pagesets=tuple(_view_pageset(memmap, zone_id, cpu) for cpu in range(memmap.nr_cpus)),
        start_pfn=int(zone["start_pfn"]),
    )


def _view_pageset(memmap: MemMap, zone_id: int, cpu: int) -> PagesetView:
    pageset = memmap.pagesets_array[zone_id * memmap.nr_cpus + cpu]
    threshold = int(memmap.zones_array[zone_id]["stat_threshold"])
    return PagesetView(cpu, int(pageset["count"]), int(pageset["high"]), int(pageset["batch"]), threshold)


def _free_counts(memmap: MemMap, zone_id: int) -> tuple[tuple[int, ...], ...]:
    orders = range(len(memmap.zones_array[zone_id]["nr_free"]))
    return tuple(
        tuple(len(memmap.free_list(zone_id, order, mt)) for order in orders)
        for mt in range(len(REFERENCE.migrate_types))
    )


def _block_counts(memmap: MemMap, zone_id: int) -> tuple[int, ...]:
    """Page blocks of a zone by type, counted where the kernel looks: from the zone's first frame on."""
    zone = memmap.zones_array[zone_id]
    start, end = int(zone["start_pfn"]), int(zone["start_pfn"]) + int(zone["spanned"])
    pfns = np.arange(start, min(end, memmap.nr_frames), 1 << memmap.pageblock_order, dtype=np.int64)
    if memmap.pageblock_order and pfns.size:
        pfns = pfns[_online(memmap, pfns)]
    types = memmap.pageblocks_array[(pfns >> memmap.pageblock_order) + int(zone["block_offset"])]
    counts = np.bincount(types, minlength=_CMA + 1)
    return tuple(int(count) for count in counts[: len(REFERENCE.migrate_types)])


def _online(memmap: MemMap, pfns: Any) -> Any:
    """Which frames lie in a memory section that has any memory; on FLATMEM all do."""
    if "HighMem" in memmap.zone_names:
        return np.ones(pfns.size, bool)
    online = np.zeros((memmap.nr_frames >> _SECTION_SHIFT) + 1, bool)
    used = np.flatnonzero(memmap.pages_array["kind"][: memmap.nr_frames])
    online[used >> _SECTION_SHIFT] = True
    return online[pfns >> _SECTION_SHIFT]


def slab_pages(memmap: MemMap, slub: Slub | None) -> list[tuple[int, int]]:
    """Pages of slabs of each node: in caches that can be reclaimed, and in others (large kmallocs among them)."""
    counts = np.zeros((memmap.nr_nodes, 2), np.int64)
    if slub is not None:
        pages = memmap.pages_array[: memmap.nr_frames]
        heads = pages[pages["kind"] == _SLAB]
        flags = slub.caches_array["flags"][heads["cache"]]
        unreclaimable = (flags & SLAB_RECLAIM_ACCOUNT == 0).astype(np.int64)
        node = heads["zone"] // 5
        np.add.at(counts, (node, unreclaimable), 1 << heads["order"].astype(np.int64))
        large = pages[pages["kind"] == _LARGE]
        np.add.at(counts, (large["zone"] // 5, 1), 1 << large["order"].astype(np.int64))
        # Full slabs that a recorded state counted without naming their frames.
        for index, geometry in slub.geometries.items():
            for each in range(memmap.nr_nodes):
                unseen = int(slub.nodes_array[index * memmap.nr_nodes + each]["unseen"])
                counts[each, int(not geometry.flags & SLAB_RECLAIM_ACCOUNT)] += unseen << geometry.order
    return [(int(row[0]), int(row[1])) for row in counts]


def view_caches(slub: Slub) -> tuple[CacheView, ...]:
    """Return the slab caches as ``/proc/slabinfo`` would list them, newest first.

    Objects on the CPUs' slabs and partial lists count as in use, as they do in
    the kernel: only the nodes' partial lists are searched for free ones.
    """
    memmap = slub.memmap
    pages = memmap.pages_array
    views = []
    for index, geometry in reversed(slub.geometries.items()):
        nr_slabs = nr_objs = nr_free = 0
        for node in range(memmap.nr_nodes):
            entry = slub.nodes_array[index * memmap.nr_nodes + node]
            nr_slabs += int(entry["nr_slabs"])
            nr_objs += int(entry["total_objects"])
            partial = pages[memmap.list_frames(int(entry["partial"]))]
            nr_free += int(partial["objects"].astype(np.int64).sum() - partial["inuse"].astype(np.int64).sum())
        views.append(
            CacheView(
                name=geometry.name,
                active_objs=nr_objs - nr_free,
                num_objs=nr_objs,
                size_bytes=geometry.size,
                objperslab=geometry.objects,
                pagesperslab=1 << geometry.order,
                active_slabs=nr_slabs,
                num_slabs=nr_slabs,
            )
        )
    return tuple(views)
