# SPDX-License-Identifier: GPL-2.0-only
"""Counters of zones, nodes and events, by the names that ``/proc/vmstat`` prints.

What the page allocator counts itself (free pages, pages of the per-CPU lists)
stays in its own arrays; here is what reclaim, the page cache, processes and
compaction count.  Counters are in pages unless the name says otherwise.

Source: mm/vmstat.c:vmstat_text, include/linux/vmstat.h @6.1.192
Differs: changes are visible at once, there are no per-CPU parts to be folded in.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["NODE_COUNTERS", "ZONE_COUNTERS", "VmStat"]

#: What a node counts, in the order of ``/proc/vmstat``.
NODE_COUNTERS = (
    "nr_inactive_anon",
    "nr_active_anon",
    "nr_inactive_file",
    "nr_active_file",
    "nr_unevictable",
    "nr_slab_reclaimable",
    "nr_slab_unreclaimable",
    "nr_isolated_anon",
    "nr_isolated_file",
    "workingset_nodes",
    "workingset_refault_anon",
    "workingset_refault_file",
    "workingset_activate_anon",
    "workingset_activate_file",
    "workingset_restore_anon",
    "workingset_restore_file",
    "workingset_nodereclaim",
    "nr_anon_pages",
    "nr_mapped",
    "nr_file_pages",
    "nr_dirty",
    "nr_writeback",
    "nr_writeback_temp",
    "nr_shmem",
    "nr_shmem_hugepages",
    "nr_shmem_pmdmapped",
    "nr_file_hugepages",
    "nr_file_pmdmapped",
    "nr_anon_transparent_hugepages",
    "nr_vmscan_write",
    "nr_vmscan_immediate_reclaim",
    "nr_dirtied",
    "nr_written",
    "nr_throttled_written",
    "nr_kernel_misc_reclaimable",
    "nr_kernel_stack",
    "nr_page_table_pages",
    "nr_sec_page_table_pages",
    "nr_swapcached",
)

#: What a zone counts besides its free pages, in the order of ``/proc/vmstat``.
ZONE_COUNTERS = (
    "nr_zone_inactive_anon",
    "nr_zone_active_anon",
    "nr_zone_inactive_file",
    "nr_zone_active_file",
    "nr_zone_unevictable",
    "nr_zone_write_pending",
    "nr_mlock",
    "nr_bounce",
)


class VmStat:
    """The counters of one machine.

    Parameters
    ----------
    nr_nodes, nr_zones : int
        Nodes and zones (``MemMap.nr_zones``) of the machine.

    Attributes
    ----------
    node, zone : list of dict
        Counters of each node and of each zone, by name.
    events : collections.Counter
        Events since boot: ``pgscan_kswapd``, ``compact_stall`` and so on.
    swap_pages, swap_free_pages : int
        Swap space in all, and what of it is not in use.
    """

    def __init__(self, nr_nodes: int, nr_zones: int) -> None:
        self.node: list[dict[str, int]] = [dict.fromkeys(NODE_COUNTERS, 0) for _ in range(nr_nodes)]
        self.zone: list[dict[str, int]] = [dict.fromkeys(ZONE_COUNTERS, 0) for _ in range(nr_zones)]
        self.events: Counter[str] = Counter()
        self.swap_pages = 0
        self.swap_free_pages = 0

    def node_page_state(self, node: int, name: str) -> int:
        """Return a counter of one node; what is below zero for a moment reads as 0.

        Source: mm/vmstat.c:node_page_state @6.1.192
        """
        return max(self.node[node][name], 0)

    def global_node_page_state(self, name: str) -> int:
        """Return a counter of all nodes together.

        Source: include/linux/vmstat.h:global_node_page_state @6.1.192
        """
        return max(sum(counters[name] for counters in self.node), 0)

    def zone_page_state(self, zone: int, name: str) -> int:
        """Return a counter of one zone.

        Source: include/linux/vmstat.h:zone_page_state @6.1.192
        """
        return max(self.zone[zone][name], 0)

    def count(self, event: str, delta: int = 1) -> None:
        """Count an event.

        Source: include/linux/vmstat.h:count_vm_events @6.1.192
        """
        self.events[event] += delta
