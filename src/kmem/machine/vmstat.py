# SPDX-License-Identifier: GPL-2.0-only
"""What ``/proc/vmstat`` shows of a live machine.

Source: mm/vmstat.c:vmstat_text, vmstat_show, mm/page-writeback.c:global_dirty_limits @6.1.192
Differs: pages that the allocator hands out and takes back are not counted as
events (``pgalloc_*``, ``pgfree``), nor are NUMA hits, splits of huge pages and
of the direct map; these read 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kmem.mm.vmstat import NODE_COUNTERS, ZONE_COUNTERS

if TYPE_CHECKING:
    from kmem.machine.machine import Machine

__all__ = ["format_vmstat", "view_vmstat"]

_ZONES: Final = {
    "x86_64": ("dma", "dma32", "normal", "movable", "device"),
    "i386": ("dma", "normal", "high", "movable"),
}
_NUMA: Final = ("numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other")
_PROMOTE: Final = ("pgpromote_success", "pgpromote_candidate")
_EVENTS: Final = (
    *("pgpgin", "pgpgout", "pswpin", "pswpout", "pgalloc_*", "allocstall_*", "pgskip_*", "pgfree", "pgactivate"),
    *("pgdeactivate", "pglazyfree", "pgfault", "pgmajfault", "pglazyfreed", "pgrefill", "pgreuse", "pgsteal_kswapd"),
    *("pgsteal_direct", "pgdemote_kswapd", "pgdemote_direct", "pgscan_kswapd", "pgscan_direct"),
    *("pgscan_direct_throttle", "pgscan_anon", "pgscan_file", "pgsteal_anon", "pgsteal_file"),
    *("zone_reclaim_failed?", "pginodesteal", "slabs_scanned", "kswapd_inodesteal", "kswapd_low_wmark_hit_quickly"),
    *("kswapd_high_wmark_hit_quickly", "pageoutrun", "pgrotated", "drop_pagecache", "drop_slab", "oom_kill"),
    *("numa_pte_updates?", "numa_huge_pte_updates?", "numa_hint_faults?", "numa_hint_faults_local?"),
    *("numa_pages_migrated?", "pgmigrate_success", "pgmigrate_fail", "thp_migration_success", "thp_migration_fail"),
    *("thp_migration_split", "compact_migrate_scanned", "compact_free_scanned", "compact_isolated", "compact_stall"),
    *("compact_fail", "compact_success", "compact_daemon_wake", "compact_daemon_migrate_scanned"),
    *("compact_daemon_free_scanned", "htlb_buddy_alloc_success", "htlb_buddy_alloc_fail", "unevictable_pgs_culled"),
    *("unevictable_pgs_scanned", "unevictable_pgs_rescued", "unevictable_pgs_mlocked", "unevictable_pgs_munlocked"),
    *("unevictable_pgs_cleared", "unevictable_pgs_stranded", "thp_fault_alloc", "thp_fault_fallback"),
    *("thp_fault_fallback_charge", "thp_collapse_alloc", "thp_collapse_alloc_failed", "thp_file_alloc"),
    *("thp_file_fallback", "thp_file_fallback_charge", "thp_file_mapped", "thp_split_page", "thp_split_page_failed"),
    *("thp_deferred_split_page", "thp_split_pmd", "thp_scan_exceed_none_pte", "thp_scan_exceed_swap_pte"),
    *("thp_scan_exceed_share_pte", "thp_split_pud?", "thp_zero_page_alloc", "thp_zero_page_alloc_failed"),
    *("thp_swpout", "thp_swpout_fallback", "balloon_inflate", "balloon_deflate", "balloon_migrate", "swap_ra"),
    *("swap_ra_hit", "ksm_swpin_copy", "cow_ksm", "zswpin", "zswpout", "direct_map_level2_splits"),
    "direct_map_level3_splits",
)


def _names(arch: str) -> list[str]:
    """Names of events in the kernel's order: ``*`` stands for each zone, ``?`` for kernels built for several nodes."""
    names = []
    for name in _EVENTS:
        if name.endswith("*"):
            names += [name[:-1] + zone for zone in _ZONES[arch]]
        elif not name.endswith("?"):
            names.append(name)
        elif arch == "x86_64":
            names.append(name[:-1])
    return names


def view_vmstat(machine: Machine) -> dict[str, int]:
    """Return the counters of ``/proc/vmstat`` in the kernel's order.

    Notes
    -----
    Complexity: O(frames), for the pages of slabs.
    """
    reclaim, numa = machine.kernel.reclaim, machine.arch == "x86_64"
    reclaim.update_slab_counters()
    stat = reclaim.stat
    zones = machine.memmap.zones_array
    view = {"nr_free_pages": max(int(zones["free_pages"].sum()), 0)}
    view |= {name: max(sum(zone[name] for zone in stat.zone), 0) for name in ZONE_COUNTERS}
    view |= {"nr_zspages": 0, "nr_free_cma": max(int(zones["free_cma_pages"].sum()), 0)}
    if numa:
        view |= dict.fromkeys(_NUMA, 0)
    for name in NODE_COUNTERS:
        if name == "nr_kernel_stack":
            view |= {"nr_foll_pin_acquired": 0, "nr_foll_pin_released": 0}
        view[name] = stat.global_node_page_state(name)
    if numa:
        view |= dict.fromkeys(_PROMOTE, 0)
    background, limit = reclaim.filemap.dirty_limits()
    view |= {"nr_dirty_threshold": limit, "nr_dirty_background_threshold": background}
    view |= {name: stat.events[name] for name in _names(machine.arch)}
    view["nr_unstable"] = 0
    return view


def format_vmstat(counters: dict[str, int]) -> str:
    """Return ``/proc/vmstat``: a line for each counter, in the order given.

    Source: mm/vmstat.c:vmstat_show @6.1.192
    """
    return "".join(f"{name} {value}\n" for name, value in counters.items())
