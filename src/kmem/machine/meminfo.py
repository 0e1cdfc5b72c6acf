# SPDX-License-Identifier: GPL-2.0-only
"""What ``/proc/meminfo`` shows of a live machine.

Source: fs/proc/meminfo.c:meminfo_proc_show, mm/page_alloc.c:si_mem_available,
arch/x86/mm/pat/set_memory.c:arch_report_meminfo @6.1.192
Differs: no zswap, no reserved huge pages; per-CPU memory is what boot set
aside for it; the direct map counts as large what the model maps so.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from kmem.machine.boot import KERNEL_IMAGES
from kmem.machine.observe import view_nodes

if TYPE_CHECKING:
    from kmem.machine.machine import Machine

__all__ = ["view_meminfo"]

_KB_A_PAGE: Final = 4
_WMARK_LOW: Final = 1
_BYTES_AS_KB: Final = 10


def view_meminfo(machine: Machine) -> dict[str, int]:
    """Return the lines of ``/proc/meminfo`` as numbers, in the kernel's order: KiB, huge pages as they are.

    Notes
    -----
    Complexity: O(frames), for the pages of slabs.
    """
    kernel = machine.kernel
    pages = _pages(machine)
    meminfo = {name: count * _KB_A_PAGE for name, count in pages.items()}
    meminfo["KernelStack"] = pages["KernelStack"]  # counted in KiB
    layout = kernel.vmalloc.space.layout
    # The kernel's VMALLOC_END of x86-64 is the last address of the area, that of i386 the first behind it.
    meminfo["VmallocTotal"] = (layout.vmalloc_end - layout.vmalloc_start) >> _BYTES_AS_KB
    large = "DirectMap4M" if machine.arch == "i386" else "DirectMap2M"
    lowmem = kernel.max_low_pfn << 12
    small = sum(1 for _ in kernel.init_mm.entries(kernel.page_offset, kernel.page_offset + lowmem))
    meminfo["Hugepagesize"] = 4096 if machine.arch == "i386" else 2048
    meminfo["DirectMap4k"] = small * _KB_A_PAGE
    meminfo[large] = (lowmem >> _BYTES_AS_KB) - meminfo["DirectMap4k"]
    shown = [name for name in _ORDER if machine.arch == "i386" or name not in _HIGHMEM]
    return {name: meminfo[name] for name in (*shown, large)}


_HIGHMEM: Final = ("HighTotal", "HighFree", "LowTotal", "LowFree")
_ORDER: Final = (
    *("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive"),
    *("Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked", *_HIGHMEM),
    *("SwapTotal", "SwapFree", "Zswap", "Zswapped", "Dirty", "Writeback", "AnonPages", "Mapped", "Shmem"),
    *("KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "SecPageTables"),
    *("NFS_Unstable", "Bounce", "WritebackTmp", "CommitLimit", "Committed_AS", "VmallocTotal", "VmallocUsed"),
    *("VmallocChunk", "Percpu", "HardwareCorrupted", "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped"),
    *("FileHugePages", "FilePmdMapped", "HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"),
    *("Hugepagesize", "Hugetlb", "DirectMap4k"),
)


def _pages(machine: Machine) -> dict[str, int]:
    """Return what is counted in pages."""
    kernel, stat = machine.kernel, machine.kernel.reclaim.stat
    node: Counter[str] = Counter()
    zone: Counter[str] = Counter()
    for view in view_nodes(machine.memmap, machine.slub, kernel.reclaim):
        node.update(view.stats)
        for each in view.zones:
            zone.update(each.stats)
    total, vm = machine.zones.totalram_pages(), kernel.vm
    counts = dict.fromkeys(_ORDER, 0)
    counts |= {
        "MemTotal": total,
        "MemFree": machine.nr_free_pages(),
        "Cached": max(node["nr_file_pages"] - node["nr_swapcached"], 0),
        "SwapCached": node["nr_swapcached"],
        "Active": node["nr_active_anon"] + node["nr_active_file"],
        "Inactive": node["nr_inactive_anon"] + node["nr_inactive_file"],
        "Active(anon)": node["nr_active_anon"],
        "Inactive(anon)": node["nr_inactive_anon"],
        "Active(file)": node["nr_active_file"],
        "Inactive(file)": node["nr_inactive_file"],
        "Unevictable": node["nr_unevictable"],
        "Mlocked": zone["nr_mlock"],
        "SwapTotal": stat.swap_pages,
        "SwapFree": stat.swap_free_pages,
        "Dirty": node["nr_dirty"],
        "Writeback": node["nr_writeback"],
        "AnonPages": node["nr_anon_pages"],
        "Mapped": node["nr_mapped"],
        "Shmem": node["nr_shmem"],
        "KReclaimable": node["nr_slab_reclaimable"] + node["nr_kernel_misc_reclaimable"],
        "Slab": node["nr_slab_reclaimable"] + node["nr_slab_unreclaimable"],
        "SReclaimable": node["nr_slab_reclaimable"],
        "SUnreclaim": node["nr_slab_unreclaimable"],
        "KernelStack": node["nr_kernel_stack"],
        "PageTables": node["nr_page_table_pages"],
        "SecPageTables": node["nr_sec_page_table_pages"],
        "Bounce": zone["nr_bounce"],
        "WritebackTmp": node["nr_writeback_temp"],
        "CommitLimit": total // 2 + stat.swap_pages if vm is None else vm.commit_limit,
        "Committed_AS": 0 if vm is None else vm.committed_as,
        "VmallocUsed": kernel.vmalloc.nr_vmalloc_pages,
        "Percpu": KERNEL_IMAGES[machine.arch].percpu_pages * machine.description.cpus,
        "AnonHugePages": node["nr_anon_transparent_hugepages"],
    }
    counts["MemAvailable"] = _available(machine, node, counts["MemFree"])
    return counts | _highmem(machine, counts)


def _available(machine: Machine, node: Counter[str], free: int) -> int:
    """Estimate what user space could have without swapping.

    Source: mm/page_alloc.c:si_mem_available @6.1.192
    """
    zones = machine.memmap.zones_array
    low = int((zones["watermark"][:, _WMARK_LOW] + zones["watermark_boost"]).sum())
    available = free - sum(machine.zones.totalreserve.values())
    pagecache = node["nr_active_file"] + node["nr_inactive_file"]
    available += pagecache - min(pagecache // 2, low)
    reclaimable = node["nr_slab_reclaimable"] + node["nr_kernel_misc_reclaimable"]
    return max(available + reclaimable - min(reclaimable // 2, low), 0)


def _highmem(machine: Machine, counts: dict[str, int]) -> dict[str, int]:
    """Return the lines that only kernels with high memory have; an empty dict for others."""
    if machine.arch != "i386":
        return {}
    high = [zone for zone in machine.zones.populated_zones() if machine.zones.is_highmem(zone)]
    total = sum(zone.managed for zone in high)
    zones, memmap = machine.memmap.zones_array, machine.memmap
    free = sum(int(zones[memmap.zone_id(zone.name, zone.node)]["free_pages"]) for zone in high)
    return {
        "HighTotal": total,
        "HighFree": free,
        "LowTotal": counts["MemTotal"] - total,
        "LowFree": counts["MemFree"] - free,
    }
