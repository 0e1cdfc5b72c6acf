# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/buddyinfo``, ``pagetypeinfo``, ``zoneinfo``, ``slabinfo`` and ``meminfo``, byte for byte.

Each function prints a view as the reference kernel prints its machine, with
the kernel's columns, padding and trailing blanks.

Source: mm/vmstat.c:frag_show_print, pagetypeinfo_show, zoneinfo_show_print,
mm/slab_common.c:print_slabinfo_header, cache_show @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kmem.errors import UsageError
from kmem.machine.views import CacheView, MachineView, NodeView, ZoneView

__all__ = [
    "PROC_FILES",
    "format_buddyinfo",
    "format_meminfo",
    "format_pagetypeinfo",
    "format_proc",
    "format_slabinfo",
    "format_zoneinfo",
]

# The kernel walks a free list no further, so as not to hold the zone's lock too long.
_COUNT_LIMIT = 100_000

_SLABINFO_HEADER = (
    "slabinfo - version: 2.1\n"
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor>"
    " : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
)


def format_buddyinfo(nodes: Iterable[NodeView]) -> str:
    """Return ``/proc/buddyinfo``: free blocks per order of each populated zone."""
    lines = []
    for zone in _populated(nodes):
        counts = "".join(f"{count:6d} " for count in zone.nr_free)
        lines.append(f"Node {zone.node}, zone {zone.name:>8} {counts}\n")
    return "".join(lines)


def format_pagetypeinfo(view: MachineView) -> str:
    """Return ``/proc/pagetypeinfo``: free blocks and page blocks per migrate type.

    Raises
    ------
    UsageError
        The view does not say how large a page block is.
    """
    if view.pageblock_order is None or not view.migrate_types:
        raise UsageError("pagetypeinfo: the order of page blocks is not known")
    parts = []
    for node in view.nodes:
        zones = list(_populated([node]))
        if not zones:
            continue
        orders = "".join(f"{order:6d} " for order in range(len(zones[0].nr_free)))
        parts.append(f"Page block order: {view.pageblock_order}\n")
        parts.append(f"Pages per block:  {1 << view.pageblock_order}\n\n")
        parts.append(f"{'Free pages count per migrate type at order':<43} {orders}\n")
        parts += [_free_of_type(zone, mt, name) for zone in zones for mt, name in enumerate(view.migrate_types)]
        names = "".join(f"{name:>12} " for name in view.migrate_types)
        parts.append(f"\n{'Number of blocks type ':<23}{names}\n")
        for zone in zones:
            counts = "".join(f"{count:12d} " for count in zone.blocks)
            parts.append(f"Node {zone.node}, zone {zone.name:>8} {counts}\n")
    return "".join(parts)


def _free_of_type(zone: ZoneView, mt: int, name: str) -> str:
    counts = "".join(f"{'>' if count >= _COUNT_LIMIT else ''}{min(count, _COUNT_LIMIT):6d} " for count in zone.free[mt])
    return f"Node {zone.node:4d}, zone {zone.name:>8}, type {name:>12} {counts}\n"


def format_zoneinfo(nodes: Iterable[NodeView]) -> str:
    """Return ``/proc/zoneinfo``: every zone, populated or not, with counters, marks and page sets."""
    parts = []
    for node in nodes:
        first = next((zone for zone in node.zones if zone.present), None)
        for zone in node.zones:
            parts.append(f"Node {zone.node}, zone {zone.name:>8}")
            if zone is first:
                parts.append("\n  per-node stats" + _stats(node.stats))
            parts.append(_zone_limits(zone))
            if zone.present:
                parts.append(_zone_details(zone))
            parts.append("\n")
    return "".join(parts)


def _stats(stats: Mapping[str, int]) -> str:
    return "".join(f"\n      {name:<12} {value}" for name, value in stats.items())


def _zone_limits(zone: ZoneView) -> str:
    protection = ", ".join(str(pages) for pages in zone.protection)
    return (
        f"\n  pages free     {zone.free_pages}"
        f"\n        boost    {zone.boost}"
        f"\n        min      {zone.min}"
        f"\n        low      {zone.low}"
        f"\n        high     {zone.high}"
        f"\n        spanned  {zone.spanned}"
        f"\n        present  {zone.present}"
        f"\n        managed  {zone.managed}"
        f"\n        cma      {zone.cma}"
        f"\n        protection: ({protection})"
    )


def _zone_details(zone: ZoneView) -> str:
    text = _stats(zone.stats) + "\n  pagesets"
    for pageset in zone.pagesets:
        text += (
            f"\n    cpu: {pageset.cpu}"
            f"\n              count: {pageset.count}"
            f"\n              high:  {pageset.high}"
            f"\n              batch: {pageset.batch}"
        )
        if pageset.stat_threshold is not None:
            text += f"\n  vm stats threshold: {pageset.stat_threshold}"
    text += f"\n  node_unreclaimable:  {int(zone.unreclaimable)}"
    return text + f"\n  start_pfn:           {zone.start_pfn}"


def format_slabinfo(caches: Iterable[CacheView]) -> str:
    """Return ``/proc/slabinfo``: one line for each cache, in the order given."""
    lines = [_SLABINFO_HEADER]
    for cache in caches:
        lines.append(
            f"{cache.name:<17} {cache.active_objs:6d} {cache.num_objs:6d} {cache.size_bytes:6d}"
            f" {cache.objperslab:4d} {cache.pagesperslab:4d}"
            f" : tunables {cache.limit:4d} {cache.batchcount:4d} {cache.shared:4d}"
            f" : slabdata {cache.active_slabs:6d} {cache.num_slabs:6d} {cache.sharedavail:6d}\n"
        )
    return "".join(lines)


def format_meminfo(meminfo_kb: Mapping[str, int]) -> str:
    """Return ``/proc/meminfo``: a line for each entry, in the order given.

    Names are padded to 16 columns and numbers to 8; a longer name takes its columns from the number.

    Source: fs/proc/meminfo.c:show_val_kb, mm/hugetlb.c:hugetlb_report_meminfo @6.1.192
    """
    lines = []
    for name, value in meminfo_kb.items():
        label = f"{name}:".ljust(16)
        unit = "" if name.startswith("HugePages_") else " kB"
        lines.append(f"{label}{value:{24 - len(label)}d}{unit}\n")
    return "".join(lines)


def _populated(nodes: Iterable[NodeView]) -> Iterable[ZoneView]:
    return (zone for node in nodes for zone in node.zones if zone.populated)


#: The files that can be printed, and how.
PROC_FILES: Mapping[str, Callable[[MachineView], str]] = {
    "buddyinfo": lambda view: format_buddyinfo(view.nodes),
    "pagetypeinfo": format_pagetypeinfo,
    "slabinfo": lambda view: format_slabinfo(view.caches),
    "zoneinfo": lambda view: format_zoneinfo(view.nodes),
}


def format_proc(name: str, view: MachineView) -> str:
    """Return the text of one of :data:`PROC_FILES`.

    Raises
    ------
    UsageError
        There is no such file.
    """
    if name not in PROC_FILES:
        raise UsageError(f"/proc/{name} is not one of {', '.join(PROC_FILES)}")
    return PROC_FILES[name](view)
