# SPDX-License-Identifier: GPL-2.0-only
"""What would have let a failed request succeed, each tried on the model.

Every candidate is one change to the request or to the machine, made to a fresh
copy of the printed state; it is a remedy only if the request then succeeds.
Nothing is proposed that merely hands out a reserve.
"""

from __future__ import annotations

import itertools
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
    __GFP_NOMEMALLOC,
    __GFP_NORETRY,
    __GFP_THISNODE,
    GFP_KERNEL,
)
from kmem.mm.hooks import Hooks, Request
from kmem.mm.mempool import mempool_alloc, mempool_create
from kmem.mm.page_alloc import NO_FRAME, PageAllocator
from kmem.profile import format_gfp
from kmem.trace.mem_info import MemInfo, ZoneInfo

__all__ = ["PageRequest", "Remedy", "Scene", "falling_mark_refuses", "find_remedies", "run"]

_CLUSTER = 32  # SWAP_CLUSTER_MAX: what one round of direct reclaim frees
_FACTORS = (1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_SCALES = (20, 50, 100, 200, 300, 500, 1000)
_SCALE_FACTOR_SINCE = (4, 6)
_KVMALLOC_SINCE = (4, 12)
_PROACTIVE_SINCE = (5, 9)
_ENOUGH = 64  # requests that a moved reserve has to serve
_HALF = 0.5  # of a zone's memory: more than this is never set aside as watermark
_BARRED = 1 << 40  # a watermark that nothing is above
_ATOMIC = 0x200  # __GFP_ATOMIC


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
class Scene:
    """Where a request failed.

    Attributes
    ----------
    info : MemInfo
        A complete one.
    nodes : frozenset of int or None
        The only nodes that the request may use.
    falling_mark : bool
        Whether the kernel is older than 4.4: for a request of some order it wants
        free pages above half of the watermark among those in blocks of order 1
        and larger, above a quarter among those in blocks of order 2 and larger ...
    in_interrupt : bool
        Whether nobody there may wait.
    slab_order : int or None
        For a slab: the order that objects of this size need without debugging
        data; None if the request is for no slab.
    oom : bool
        Whether a process was killed for it: then memory is used up, not just out of reach.
    version : (int, int) or None
        Of the kernel: what it does not have yet is no remedy.
    """

    info: MemInfo
    nodes: frozenset[int] | None = None
    falling_mark: bool = False
    in_interrupt: bool = False
    slab_order: int | None = None
    oom: bool = False
    version: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change after which the request succeeded in the model.

    Attributes
    ----------
    kind : str
        ``smaller-order``, ``kvmalloc``, ``flags``, ``min_free_kbytes``,
        ``watermark_scale_factor``, ``lowmem_reserve_ratio``, ``mempool``,
        ``compaction``, ``slub_debug`` or ``swap``.
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

    def balance(self, high_before: dict[int, int]) -> None:
        """Do what kswapd does when it is woken: free pages until each zone is at its high watermark.

        Parameters
        ----------
        high_before : dict of int to int
            The high watermarks that kswapd went by: what had been taken since it
            last reached them is taken this time, too.
        """
        zones = self.allocator.memmap.zones_array
        for zone in self.lru:
            high = int(zones["watermark"][zone][2] + zones["watermark_boost"][zone])
            lacking = high - max(int(zones["free_pages"][zone]), high_before[zone])
            if lacking > 0:
                self.free_some(zone, lacking)
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


def run(scene: Scene, request: PageRequest, times: int = 1) -> bool:
    """Make the request on the printed state, with reclaim and compaction that find nothing; whether it succeeds.

    Parameters
    ----------
    scene : Scene
    request : PageRequest
    times : int
        How many such requests have to succeed, one after the other.
    """
    return _succeeds(scene, _Trial(request, attempts=times))


def _succeeds(scene: Scene, trial: _Trial) -> bool:
    rebuilt = rebuild(scene.info, nodes=scene.nodes, swap_pages=trial.swap_pages, together=trial.together)
    reclaim = Reclaim(rebuilt)
    if trial.prepare is not None:
        trial.prepare(rebuilt, reclaim)
    if trial.reclaim:
        rebuilt.allocator.hooks = reclaim
    try:
        return _served(scene, trial, rebuilt)
    finally:
        rebuilt.allocator.hooks = Hooks()  # each knows the other: the frames would stay until somebody collects garbage


def _served(scene: Scene, trial: _Trial, rebuilt: Rebuilt) -> bool:
    request = trial.request
    gfp = request.gfp & ~__GFP_NOFAIL
    node = request.node if request.node < rebuilt.allocator.nr_nodes else 0
    for _ in range(trial.attempts):
        if scene.falling_mark and request.order:
            _bar_zones(rebuilt, gfp, request.order)
        if rebuilt.allocator.alloc_pages(gfp, request.order, node) == NO_FRAME:
            return False
    return True


def falling_mark_refuses(rebuilt: Rebuilt, zone: int, gfp: int, order: int) -> bool:
    """Whether a zone with enough free pages refuses a request in kernels before 4.4 for how few are in large blocks.

    Source: mm/page_alloc.c:__zone_watermark_ok @3.10
    """
    record = rebuilt.allocator.memmap.zones_array[zone]
    mark = int(record["watermark"][0])
    if gfp & __GFP_HIGH:
        mark -= mark // 2
    if not gfp & (__GFP_DIRECT_RECLAIM | __GFP_NOMEMALLOC):
        mark -= mark // 4
    free = int(record["free_pages"]) - (1 << order) + 1
    for smaller in range(order):
        free -= int(record["nr_free"][smaller]) << smaller
        mark >>= 1
        if free <= mark:
            return True
    return False


def _bar_zones(rebuilt: Rebuilt, gfp: int, order: int) -> None:
    for zone in rebuilt.zones.values():
        if falling_mark_refuses(rebuilt, zone, gfp, order):
            rebuilt.allocator.memmap.zones_array["watermark"][zone] = _BARRED


def find_remedies(scene: Scene, request: PageRequest) -> list[Remedy]:
    """Try what could help, smallest change first, and return what did.

    Parameters
    ----------
    scene : Scene
    request : PageRequest

    Notes
    -----
    Complexity: some 40 runs of the model at most, each O(free blocks).
    """
    found: list[Remedy] = []
    # what root can set, what the caller can ask otherwise, what has to be written
    if _reclaim_helps(scene, request):
        found += itertools.islice(_scale_factor(scene, request), 1)
        found += itertools.islice(_min_free(scene, request), 1)
    for maker in (_reserve_ratio, _compaction, _slub_debug):
        found += itertools.islice(maker(scene, request), 1)
    found += _flags(scene, request)
    if scene.slab_order is None:  # a slab's order is not the caller's to choose
        found += itertools.islice(_order(scene, request), 1)
        found += _kvmalloc(scene, request)
    found += _mempool(scene, request)
    found += _swap(scene, request)
    return found


def _size(order: int, page_kb: int) -> str:
    kib = page_kb << order
    return f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB"


def _order(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    for order in range(request.order - 1, -1, -1):
        if _succeeds(scene, _Trial(PageRequest(request.gfp, order, request.node))):
            yield Remedy(
                "smaller-order",
                {"order": order, "from": request.order},
                f"ask for order {order} ({_size(order, scene.info.page_kb)}) at most: "
                "the largest that this state can serve",
            )


def _slub_debug(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    order = scene.slab_order
    if order is None or order >= request.order:
        return
    if _succeeds(scene, _Trial(PageRequest(request.gfp, order, request.node))):
        yield Remedy(
            "slub_debug",
            {"slub_debug": "O", "order": order, "from": request.order},
            f"slub_debug=O on the command line (slab_debug=O from 6.9 on), or no debugging of this cache: without "
            f"debugging data its slabs can be of order {order} instead of {request.order}",
        )


def _kvmalloc(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    # vmalloc sleeps, maps, and takes its pages one by one from wherever they are; a user's page is none of kmalloc's
    if not request.order or not request.may_sleep or request.gfp & (__GFP_DMA | __GFP_DMA32 | __GFP_MOVABLE):
        return
    gfp = (request.gfp & ~__GFP_NORETRY) | __GFP_HIGHMEM
    if _succeeds(scene, _Trial(PageRequest(gfp, 0, request.node), attempts=1 << request.order)):
        call = "kvmalloc" if scene.version is None or scene.version >= _KVMALLOC_SINCE else "vmalloc"
        yield Remedy(
            "kvmalloc",
            {"call": call, "pages": 1 << request.order},
            f"{call}() instead: {1 << request.order} single pages are there, mapped side by side; "
            "not for memory that a device addresses as one piece",
        )


def _flags(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    gfp = request.gfp
    candidates = []
    if gfp & __GFP_THISNODE:
        candidates.append((gfp & ~__GFP_THISNODE, "memory of another node is slower, but is there"))
    if gfp & (__GFP_DMA | __GFP_DMA32):
        candidates.append((gfp & ~(__GFP_DMA | __GFP_DMA32), "if the device can address all memory"))
    if not gfp & (__GFP_HIGHMEM | __GFP_DMA | __GFP_DMA32) and scene.slab_order is None:
        candidates.append((gfp | __GFP_HIGHMEM, "if the pages are mapped before use (kmap, vmalloc)"))
    if request.may_sleep:
        candidates.append((gfp & ~__GFP_NORETRY, "reclaim is tried more than once then"))
    elif not scene.in_interrupt:
        sleeping = (gfp & ~(__GFP_HIGH | _ATOMIC)) | GFP_KERNEL
        candidates.append((sleeping, "only where the caller may sleep: not in an interrupt or under a spinlock"))
    for wanted, condition in candidates:
        # who could wait has waited: what reclaim finds then was not found before
        more = bool(wanted & __GFP_DIRECT_RECLAIM) and (not request.may_sleep or wanted == gfp & ~__GFP_NORETRY)
        if wanted == gfp or (request.may_sleep and more and _succeeds(scene, _Trial(request, reclaim=True))):
            continue
        if request.may_sleep and more and _succeeds(scene, _Trial(PageRequest(wanted, request.order, request.node))):
            continue  # with nothing reclaimed: it was handed out of a reserve
        if _succeeds(scene, _Trial(PageRequest(wanted, request.order, request.node), reclaim=more)):
            yield Remedy(
                "flags",
                {"gfp": f"{wanted:#x}", "gfp_names": format_gfp(wanted), "from": format_gfp(gfp)},
                f"{format_gfp(wanted)} instead of {format_gfp(gfp)}: {condition}",
            )


def _raise_marks(rebuilt: Rebuilt, factor: float, scale: int | None) -> bool:
    """Multiply min, or set the distance of low and high; False where that would take half of a zone.

    Source: mm/page_alloc.c:__setup_per_zone_wmarks @6.1.192
    """
    zones = rebuilt.allocator.memmap.zones_array
    for (_node, name), zone in rebuilt.zones.items():
        marks = zones["watermark"][zone].astype("i8")
        managed = int(zones["managed"][zone])
        distance = int(marks[1] - marks[0])
        minimum = int(marks[0])
        if scale:
            distance = max(minimum >> 2, managed * scale // 10000)
        elif name in ("HighMem", "Movable"):  # min_free_kbytes moves only low and high
            distance = int(distance * factor)
        else:
            minimum = int(minimum * factor)
            distance = max(distance, minimum >> 2)
        if minimum + 2 * distance > managed * _HALF:
            return False
        zones["watermark"][zone] = [minimum, minimum + distance, minimum + 2 * distance, minimum + 3 * distance]
    return True


def _knob(scene: Scene, request: PageRequest, factor: float, scale: int | None) -> bool:
    fits = True

    def prepare(rebuilt: Rebuilt, reclaim: Reclaim) -> None:
        nonlocal fits
        zones = rebuilt.allocator.memmap.zones_array
        high = {zone: int(zones["watermark"][zone][2] + zones["watermark_boost"][zone]) for zone in reclaim.lru}
        fits = _raise_marks(rebuilt, factor, scale)
        if fits:
            reclaim.balance(high)  # kswapd would have kept this much free beforehand

    return _succeeds(scene, _Trial(request, prepare)) and fits


def _reclaim_helps(scene: Scene, request: PageRequest) -> bool:
    """Whether the request would succeed with all freed that can be, so that it is worth trying how much is needed."""

    def prepare(rebuilt: Rebuilt, reclaim: Reclaim) -> None:
        for zone, frames in reclaim.lru.items():
            reclaim.free_some(zone, len(frames))
        rebuilt.allocator.drain_all_pages()

    return _succeeds(scene, _Trial(request, prepare))


def _scale_factor(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    if scene.version is not None and scene.version < _SCALE_FACTOR_SINCE:
        return
    for scale in _SCALES:
        if _knob(scene, request, 1, scale):
            yield Remedy(
                "watermark_scale_factor",
                {"vm.watermark_scale_factor": scale},
                f"vm.watermark_scale_factor = {scale}: kswapd starts earlier and leaves more free "
                "(tested with the page cache that the log shows)",
            )


def _min_free(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    total = _min_free_kbytes(scene.info)
    for factor in _FACTORS:
        if _knob(scene, request, factor, None):
            value = None if total is None else -(-int(total * factor) // 4) * 4
            setting = (
                f"{factor:g} times as high" if value is None else f"= {value} ({factor:g} times the {total} of now)"
            )
            yield Remedy(
                "min_free_kbytes",
                {"vm.min_free_kbytes": f"x{factor:g}" if value is None else value, "from": total},
                f"vm.min_free_kbytes {setting}: a larger reserve, kept by kswapd beforehand (tested with the page "
                "cache that the log shows)",
            )


def _min_free_kbytes(info: MemInfo) -> int | None:
    """``vm.min_free_kbytes`` of the machine, None if the log does not tell.

    Each zone below high memory has its share of it, by the pages that it manages.
    High memory has a mark of its own.  Zones that were not printed have to be
    counted, too.
    """
    low = [zone for zone in info.zones if zone.name not in ("HighMem", "Movable", "Device")]
    marks = sum(zone.counters.get("min", 0) - zone.counters.get("boost", 0) for zone in low)
    managed = sum(_managed_kb(zone) for zone in low)
    if info.pages_ram is None or not managed:
        return None
    left_out = info.pages_ram - (info.pages_reserved or 0) - (info.pages_highmem or 0)
    return round(marks * max(left_out * info.page_kb / managed, 1.0))


def _managed_kb(zone: ZoneInfo) -> int:
    return zone.counters.get("managed", zone.counters.get("present", 0))


def _reserve_ratio(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    if not any(zone.lowmem_reserve and any(zone.lowmem_reserve) for zone in scene.info.zones):
        return
    for divisor in (2, 4, 16):

        def prepare(rebuilt: Rebuilt, reclaim: Reclaim, divisor: int = divisor) -> None:
            zones = rebuilt.allocator.memmap.zones_array
            for (_node, name), zone in rebuilt.zones.items():
                if name != "DMA":  # what devices depend on is not for others
                    zones["lowmem_reserve"][zone] //= divisor

        # one page more would only be the last of the reserve
        if _succeeds(scene, _Trial(request, prepare, attempts=_ENOUGH)):
            yield Remedy(
                "lowmem_reserve_ratio",
                {"vm.lowmem_reserve_ratio": f"x{divisor}"},
                f"vm.lowmem_reserve_ratio {divisor} times as high: lower zones are held back less from requests "
                "that could use higher ones; what only they can serve gets scarcer",
            )


def _compaction(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    nr_pages = 1 << request.order
    if not request.order or request.may_sleep or not _mostly_movable(scene.info):
        return  # nothing to bring together, tried already, or most of what is in the way cannot be moved

    def prepare(rebuilt: Rebuilt, reclaim: Reclaim) -> None:
        allocator = rebuilt.allocator
        for zone, frames in rebuilt.lru.items():
            start = next((pfn for pfn in frames if pfn % nr_pages == 0 and pfn + nr_pages - 1 <= frames[-1]), None)
            if start is None or allocator.memmap.zones_array["free_pages"][zone] < 2 * nr_pages:
                continue
            _migrate(allocator, zone, start, nr_pages)

    if _succeeds(scene, _Trial(request, prepare, together=True)):
        old = scene.version is not None and scene.version < _PROACTIVE_SINCE
        proactive = "" if old else ", or vm.compaction_proactiveness"
        yield Remedy(
            "compaction",
            {"compact_memory": 1},
            f"compaction (echo 1 > /proc/sys/vm/compact_memory{proactive}): enough page cache and anonymous memory can "
            "be moved out of the way, if it lies together",
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


def _swap(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    info = scene.info
    anon = sum(zone.counters.get("active_anon", 0) + zone.counters.get("inactive_anon", 0) for zone in info.zones)
    if not request.may_sleep or (info.swap_free_kb or 0) > 0 or anon < 1 << 16:
        return
    if _succeeds(scene, _Trial(request, reclaim=True)):
        return  # the page cache would have done
    pages = anon // info.page_kb // 2
    if _succeeds(scene, _Trial(request, reclaim=True, swap_pages=pages)):
        yield Remedy(
            "swap",
            {"swap_kb": pages * info.page_kb},
            f"{pages * info.page_kb >> 10} MiB of swap: half of the anonymous memory could be written out",
        )


def _mempool(scene: Scene, request: PageRequest) -> Iterator[Remedy]:
    if scene.oom or request.gfp & (__GFP_HARDWALL | __GFP_MOVABLE):
        return  # a user's page: nobody returns it to a pool
    rebuilt = rebuild(scene.info, nodes=scene.nodes)
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
            "is there" + ("" if request.may_sleep else ", it never sends an interrupt away empty-handed"),
        )
