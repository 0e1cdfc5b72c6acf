# SPDX-License-Identifier: GPL-2.0-only
"""What would have let a failed request succeed, each tried on the model.

Every candidate is one change to the request or to the machine, made to a fresh
copy of the printed state; it is a remedy only if the request then succeeds.
Nothing is proposed that merely hands out a reserve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kmem.analysis.rebuild import Rebuilt, rebuild
from kmem.mm.gfp import (
    __GFP_DIRECT_RECLAIM,
    __GFP_DMA,
    __GFP_DMA32,
    __GFP_HARDWALL,
    __GFP_HIGH,
    __GFP_HIGHMEM,
    __GFP_MOVABLE,
    __GFP_NOFAIL,
    __GFP_NORETRY,
    __GFP_THISNODE,
    GFP_KERNEL,
)
from kmem.mm.hooks import Hooks, Request
from kmem.mm.mempool import mempool_alloc, mempool_create
from kmem.mm.page_alloc import NO_FRAME, PageAllocator
from kmem.profile import format_gfp
from kmem.trace.failures import MemInfo

__all__ = ["PageRequest", "Remedy", "find_remedies", "run"]

_CLUSTER = 32  # SWAP_CLUSTER_MAX: what one round of direct reclaim frees
_FACTORS = (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_SCALES = (20, 50, 100, 200, 300, 500, 1000)
_ENOUGH = 64  # requests that a moved reserve has to serve
_HALF = 0.5  # of a zone's memory: more than this is never set aside as watermark


def _may_sleep(gfp: int) -> bool:
    return bool(gfp & __GFP_DIRECT_RECLAIM)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for pages: flags of the reference kernel, order, preferred node, may it wait where it was made."""

    gfp: int
    order: int
    node: int = 0

    @property
    def may_sleep(self) -> bool:
        """Whether the caller allowed the allocator to wait."""
        return _may_sleep(self.gfp)


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change after which the request succeeded in the model.

    Attributes
    ----------
    kind : str
        ``smaller-order``, ``kvmalloc``, ``flags``, ``min_free_kbytes``,
        ``watermark_scale_factor``, ``lowmem_reserve_ratio``, ``mempool``,
        ``compaction`` or ``swap``.
    change : dict
        What was changed, and to what.
    text : str
        The same in words, with what it needs and costs.
    succeeded : bool
        Always true: what failed is not listed.
    """

    kind: str
    change: dict[str, Any]
    text: str
    succeeded: bool = True


class Reclaim(Hooks):
    """Reclaim of the pages that the log's LRU counts promise, and nothing else."""

    def __init__(self, rebuilt: Rebuilt) -> None:
        self.allocator = rebuilt.allocator
        self.lru = {zone: list(frames) for zone, frames in rebuilt.lru.items()}

    def free_some(self, zone: int, nr_pages: int) -> int:
        """Free up to `nr_pages` of a zone's pages; how many."""
        frames = self.lru.get(zone, [])
        taken = [frames.pop() for _ in range(min(nr_pages, len(frames)))]
        for pfn in taken:
            self.allocator.free_pages(pfn, 0)
        return len(taken)

    def direct_reclaim(self, request: Request) -> int:
        """Free one cluster, from the zones that the request may use."""
        freed = 0
        indexes = self.allocator.memmap.zones_array["index"]
        for zone in sorted(self.lru, reverse=True):
            if indexes[zone] <= request.highest_zoneidx:
                freed += self.free_some(zone, _CLUSTER - freed)
        if freed:
            self.allocator.drain_all_pages()
        return freed

    def zone_reclaimable_pages(self, zone: int) -> int:
        """Pages that are left."""
        return len(self.lru.get(zone, ()))

    def balance(self) -> None:
        """Do what kswapd does when it is woken: free pages until each zone is at its high watermark."""
        zones = self.allocator.memmap.zones_array
        for zone in self.lru:
            lacking = int(zones["watermark"][zone][2] + zones["watermark_boost"][zone] - zones["free_pages"][zone])
            if lacking > 0:
                self.free_some(zone, lacking + _CLUSTER)
        self.allocator.drain_all_pages()


@dataclass(slots=True)
class _Trial:
    """A change to the rebuilt machine before the request is made again."""

    request: PageRequest
    prepare: Callable[[Rebuilt, Reclaim], None] | None = None
    reclaim: bool = False
    swap_pages: int = 0
    together: bool = False
    attempts: int = 1


def run(info: MemInfo, request: PageRequest) -> bool:
    """Make the request on the printed state, with reclaim and compaction that find nothing; whether it succeeds."""
    return _succeeds(info, _Trial(request))


def _succeeds(info: MemInfo, trial: _Trial) -> bool:
    rebuilt = rebuild(info, swap_pages=trial.swap_pages, together=trial.together)
    reclaim = Reclaim(rebuilt)
    if trial.prepare is not None:
        trial.prepare(rebuilt, reclaim)
    if trial.reclaim:
        rebuilt.allocator.hooks = reclaim
    gfp = trial.request.gfp & ~__GFP_NOFAIL
    node = trial.request.node if trial.request.node < rebuilt.allocator.nr_nodes else 0
    return all(rebuilt.allocator.alloc_pages(gfp, trial.request.order, node) != NO_FRAME for _ in range(trial.attempts))


def find_remedies(info: MemInfo, request: PageRequest, *, slab: bool = False) -> list[Remedy]:
    """Try what could help, smallest change first, and return what did.

    Parameters
    ----------
    info : MemInfo
        A complete one.
    request : PageRequest
    slab : bool
        Whether the pages were for a slab: its order is not the caller's to choose.

    Notes
    -----
    Complexity: some 40 runs of the model at most, each O(free blocks).
    """
    found: list[Remedy] = []
    # what root can set, what the caller can ask otherwise, what has to be written
    for maker in (_scale_factor, _min_free, _reserve_ratio, _compaction, _flags, _order, _kvmalloc, _mempool, _swap):
        if slab and maker in (_order, _kvmalloc):
            continue
        remedy = next(maker(info, request), None)
        if remedy is not None:
            found.append(remedy)
    return found


def _order(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    for order in range(request.order - 1, -1, -1):
        if _succeeds(info, _Trial(PageRequest(request.gfp, order, request.node))):
            size = f"{4 << order} KiB" if order < 8 else f"{(4 << order) >> 10} MiB"
            yield Remedy(
                "smaller-order",
                {"order": order, "from": request.order},
                f"ask for order {order} ({size}) at most: the largest that this state can serve",
            )


def _kvmalloc(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    # vmalloc sleeps, maps, and takes its pages one by one from wherever they are
    if not request.order or not request.may_sleep or request.gfp & (__GFP_DMA | __GFP_DMA32):
        return
    gfp = (request.gfp & ~__GFP_NORETRY) | __GFP_HIGHMEM
    if _succeeds(info, _Trial(PageRequest(gfp, 0, request.node), attempts=1 << request.order)):
        yield Remedy(
            "kvmalloc",
            {"call": "kvmalloc", "pages": 1 << request.order},
            f"kvmalloc() instead: {1 << request.order} single pages are there, mapped side by side; "
            "not for memory that a device addresses as one piece",
        )


def _flags(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    candidates = []
    if not request.may_sleep:
        sleeping = (request.gfp & ~(__GFP_HIGH | 0x200)) | GFP_KERNEL
        candidates.append((sleeping, "only where the caller may sleep: not in an interrupt or under a spinlock"))
    else:
        candidates.append((request.gfp & ~__GFP_NORETRY, "reclaim is tried more than once then"))
    if request.gfp & __GFP_THISNODE:
        candidates.append((request.gfp & ~__GFP_THISNODE, "memory of another node is slower, but is there"))
    if request.gfp & (__GFP_DMA | __GFP_DMA32):
        candidates.append((request.gfp & ~(__GFP_DMA | __GFP_DMA32), "if the device can address all memory"))
    if not request.gfp & (__GFP_HIGHMEM | __GFP_DMA | __GFP_DMA32):
        candidates.append((request.gfp | __GFP_HIGHMEM, "if the pages are mapped before use (kmap, vmalloc)"))
    for gfp, condition in candidates:
        if gfp == request.gfp:
            continue
        wanted = PageRequest(gfp, request.order, request.node)
        if _succeeds(info, _Trial(wanted, reclaim=bool(gfp & __GFP_DIRECT_RECLAIM))):
            yield Remedy(
                "flags",
                {"gfp": f"{gfp:#x}", "gfp_names": format_gfp(gfp), "from": format_gfp(request.gfp)},
                f"{format_gfp(gfp)} instead of {format_gfp(request.gfp)}: {condition}",
            )


def _raise_marks(rebuilt: Rebuilt, factor: float, scale: int | None) -> bool:
    """Multiply min, or set the distance of low and high; False where that would take half of a zone."""
    zones = rebuilt.allocator.memmap.zones_array
    for zone in rebuilt.zones.values():
        marks = zones["watermark"][zone].astype("i8")
        managed = int(zones["managed"][zone])
        distance = int(marks[1] - marks[0])
        minimum = int(marks[0] * factor)
        distance = max(minimum >> 2, managed * scale // 10000) if scale else max(distance, minimum >> 2)
        if minimum + 2 * distance > managed * _HALF:
            return False
        zones["watermark"][zone] = [minimum, minimum + distance, minimum + 2 * distance, minimum + 3 * distance]
    return True


def _knob(info: MemInfo, request: PageRequest, factor: float, scale: int | None) -> bool:
    fits = True

    def prepare(rebuilt: Rebuilt, reclaim: Reclaim) -> None:
        nonlocal fits
        fits = _raise_marks(rebuilt, factor, scale)
        if fits:
            reclaim.balance()  # kswapd would have kept this much free beforehand

    return _succeeds(info, _Trial(request, prepare)) and fits


def _scale_factor(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    for scale in _SCALES:
        if _knob(info, request, 1, scale):
            yield Remedy(
                "watermark_scale_factor",
                {"vm.watermark_scale_factor": scale},
                f"vm.watermark_scale_factor = {scale}: kswapd starts earlier and leaves more free "
                "(tested with the page cache that the log shows)",
            )


def _min_free(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    # high memory has a mark of its own, that min_free_kbytes does not count
    total = sum(
        zone.counters.get("min", 0) - zone.counters.get("boost", 0) for zone in info.zones if zone.name != "HighMem"
    )
    for factor in _FACTORS:
        if _knob(info, request, factor, None):
            yield Remedy(
                "min_free_kbytes",
                {"vm.min_free_kbytes": int(total * factor), "from": total},
                f"vm.min_free_kbytes = {int(total * factor)} ({factor:g} times the printed zones' {total}): a larger "
                "reserve, kept by kswapd beforehand (tested with the page cache that the log shows)",
            )


def _reserve_ratio(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    if not any(zone.lowmem_reserve and any(zone.lowmem_reserve) for zone in info.zones):
        return
    for divisor in (2, 4, 16):

        def prepare(rebuilt: Rebuilt, reclaim: Reclaim, divisor: int = divisor) -> None:
            zones = rebuilt.allocator.memmap.zones_array
            for (_node, name), zone in rebuilt.zones.items():
                if name != "DMA":  # what devices depend on is not for others
                    zones["lowmem_reserve"][zone] //= divisor

        # one page more would only be the last of the reserve
        if _succeeds(info, _Trial(request, prepare, attempts=_ENOUGH)):
            yield Remedy(
                "lowmem_reserve_ratio",
                {"vm.lowmem_reserve_ratio": f"x{divisor}"},
                f"vm.lowmem_reserve_ratio {divisor} times as high: lower zones are held back less from requests "
                "that could use higher ones; what only they can serve gets scarcer",
            )


def _compaction(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    nr_pages = 1 << request.order
    if not request.order or request.may_sleep or not _mostly_movable(info):
        return  # nothing to bring together, tried already, or most of what is in the way cannot be moved

    def prepare(rebuilt: Rebuilt, reclaim: Reclaim) -> None:
        allocator = rebuilt.allocator
        for zone, frames in rebuilt.lru.items():
            start = next((pfn for pfn in frames if pfn % nr_pages == 0 and pfn + nr_pages - 1 <= frames[-1]), None)
            if start is None or allocator.memmap.zones_array["free_pages"][zone] < 2 * nr_pages:
                continue
            _migrate(allocator, zone, start, nr_pages)

    if _succeeds(info, _Trial(request, prepare, together=True)):
        yield Remedy(
            "compaction",
            {"compact_memory": 1},
            "compaction (echo 1 > /proc/sys/vm/compact_memory, or vm.compaction_proactiveness): enough page cache "
            "and anonymous memory can be moved out of the way, if it lies together",
        )


def _mostly_movable(info: MemInfo) -> bool:
    """Whether at least half of what is in use in some zone is page cache or anonymous memory."""
    for zone in info.zones:
        kb = zone.counters
        used = kb.get("managed", kb.get("present", 0)) - kb.get("free", 0)
        lru = sum(kb.get(f"{state}_{kind}", 0) for state in ("active", "inactive") for kind in ("anon", "file"))
        if used > 0 and 2 * lru >= used:
            return True
    return False


def _migrate(allocator: PageAllocator, zone: int, start: int, nr_pages: int) -> None:
    """Move `nr_pages` pages to free pages elsewhere in their zone, and free the block that they leave."""
    zones = allocator.memmap.zones_array
    marks = zones["watermark"][zone].copy()
    zones["watermark"][zone] = 0  # migration takes free pages whatever the watermarks say
    for _ in range(nr_pages):
        allocator.alloc_pages(__GFP_HIGHMEM | __GFP_MOVABLE, 0, int(zones["node"][zone]))
    zones["watermark"][zone] = marks
    for pfn in range(start, start + nr_pages):
        allocator.free_pages(pfn, 0)
    allocator.drain_all_pages()


def _swap(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    anon = sum(zone.counters.get("active_anon", 0) + zone.counters.get("inactive_anon", 0) for zone in info.zones)
    if not request.may_sleep or (info.swap_free_kb or 0) > 0 or anon < 1 << 16:
        return
    pages = anon // info.page_kb // 2
    if _succeeds(info, _Trial(request, reclaim=True, swap_pages=pages)):
        yield Remedy(
            "swap",
            {"swap_kb": pages * info.page_kb},
            f"{pages * info.page_kb >> 10} MiB of swap: half of the anonymous memory could be written out",
        )


def _mempool(info: MemInfo, request: PageRequest) -> Iterator[Remedy]:
    if request.gfp & (__GFP_HARDWALL | __GFP_MOVABLE):
        return  # a user's page: nobody returns it to a pool
    rebuilt = rebuild(info)
    failing = {"on": False}
    spare = iter(rebuilt.lru.values())

    def alloc(gfp: int, data: Any) -> int | None:
        if not failing["on"]:
            return next((frames[0] for frames in spare if frames), 0)  # filled before memory was short
        pfn = rebuilt.allocator.alloc_pages(gfp, request.order, min(request.node, rebuilt.allocator.nr_nodes - 1))
        return None if pfn == NO_FRAME else pfn

    pool = mempool_create(1, alloc, lambda element, data: None, None)
    failing["on"] = True
    if pool is not None and mempool_alloc(pool, request.gfp & ~(__GFP_DIRECT_RECLAIM | __GFP_NOFAIL)) is not None:
        yield Remedy(
            "mempool",
            {"mempool": 1, "order": request.order},
            "a mempool with as many elements as are in use at one time (1 served this request): filled while memory "
            "is there, it never sends an interrupt away empty-handed",
        )
