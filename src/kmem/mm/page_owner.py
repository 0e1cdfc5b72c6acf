# SPDX-License-Identifier: GPL-2.0-only
"""page_owner: who has asked for each block of pages.

Every block that is handed out is on record with its flags, task, time and call
stack, until it is given back.  :meth:`PageOwner.read` is what
``/sys/kernel/debug/page_owner`` shows.

Source: mm/page_owner.c @6.1.192
Differs: places are Python's; blocks that were handed out before it was
switched on have no owner, where the kernel counts them as early allocations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from kmem.mm.callers import Site, stack_sites
from kmem.mm.page_alloc import PageAllocator
from kmem.mm.page_watch import block_of
from kmem.mm.task import Task
from kmem.mm.timekeeping import Clock
from kmem.profile import REFERENCE
from kmem.profile.flags import format_gfp, format_page_flags

__all__ = ["PageOwner", "PageOwnerHost", "PageRecord", "format_page_flags_word", "page_flags_word"]

_SLAB: Final = REFERENCE.page_bits["slab"]
_HEAD: Final = REFERENCE.page_bits["head"]
_KIND_SLAB: Final = 4
_PGF_HEAD: Final = 2
_ZONES_A_NODE: Final = 5
# Where the fields above the flags of ``page->flags`` begin, and how wide they are: name, shift, bits.
_FIELDS_X86_64: Final = (("node", 54, 10), ("zone", 51, 3), ("lastcpupid", 30, 21))
_FIELDS_I386: Final = (("zone", 30, 2),)


class PageOwnerHost(Protocol):
    """What page_owner needs of the running kernel."""

    @property
    def page_alloc(self) -> PageAllocator:
        """Frames."""

    @property
    def current(self) -> Task:
        """The task that runs."""

    @property
    def clock(self) -> Clock:
        """Virtual time."""

    @property
    def arch(self) -> str:
        """``"x86_64"`` or ``"i386"``."""


def page_flags_word(memmap: Any, pfn: int, arch: str) -> int:
    """Return ``page->flags`` of a frame, as far as the model knows them.

    Parameters
    ----------
    memmap : MemMap
    pfn : int
    arch : str
        ``"x86_64"`` or ``"i386"``, which lay the word out differently.

    Source: include/linux/page-flags-layout.h, include/linux/page-flags.h @6.1.192
    """
    page = memmap.pages_array[pfn]
    node, zone = divmod(int(page["zone"]), _ZONES_A_NODE)
    word = (_SLAB if page["kind"] == _KIND_SLAB else 0) | (_HEAD if int(page["flags"]) & _PGF_HEAD else 0)
    if arch == "i386":
        return word | zone << 30
    return word | node << 54 | zone << 51 | 0x1FFFFF << 30


def format_page_flags_word(word: int, arch: str) -> str:
    """Print ``page->flags`` as the kernel's ``%pGp`` does.

    Source: lib/vsprintf.c:format_page_flags @6.1.192
    """
    fields = _FIELDS_I386 if arch == "i386" else _FIELDS_X86_64
    main = word & (1 << min(shift for _, shift, _ in fields)) - 1
    parts = [format_page_flags(main)] if main else []
    for name, shift, bits in fields:
        value = word >> shift & (1 << bits) - 1
        parts.append(f"{name}={value:#x}" if name == "lastcpupid" else f"{name}={value}")
    return f"{word:#x}({'|'.join(parts)})"


@dataclass(slots=True)
class PageRecord:
    """Who has one block of pages.

    Attributes
    ----------
    pfn, order : int
    gfp : int
        Flags of the request.
    pid, tgid, comm : int, int, str
        Task that asked.
    time_ns, free_time_ns : int
        When it was handed out, and when its first frame was last given back before.
    trace : tuple of Site
        Places that asked, innermost first.
    migrate_reason : str
        Why the page was last moved here from another frame; empty if it was not.

    Source: mm/page_owner.c:struct page_owner @6.1.192
    """

    pfn: int
    order: int
    gfp: int
    pid: int
    tgid: int
    comm: str
    time_ns: int
    free_time_ns: int
    trace: tuple[Site, ...]
    migrate_reason: str = ""


class PageOwner:
    """Owners of all blocks of one machine, those of slabs and page tables among them.

    The page allocator tells it (:mod:`kmem.mm.page_watch`).

    Parameters
    ----------
    host : PageOwnerHost
        The running kernel.
    """

    def __init__(self, host: PageOwnerHost) -> None:
        self._host = host
        self._records: dict[int, PageRecord] = {}
        self._freed_ns: dict[int, int] = {}

    def allocated(self, pfn: int, order: int, gfp: int) -> None:
        """Put a block on record.

        Source: mm/page_owner.c:__set_page_owner @6.1.192
        """
        task, now = self._host.current, self._host.clock.time_ns
        freed = self._freed_ns.get(pfn, 0)
        self._records[pfn] = PageRecord(pfn, order, gfp, task.pid, task.pid, task.comm, now, freed, stack_sites())

    def freed(self, pfn: int, order: int) -> None:
        """Take a block, or a part of one that was split, off record.

        Source: mm/page_owner.c:__reset_page_owner @6.1.192
        """
        now = self._host.clock.time_ns
        if now:
            for frame in range(pfn, pfn + (1 << order)):
                self._freed_ns[frame] = now
        head = block_of(self._records, pfn)
        record = None if head is None else self._records[head]
        if record is None or record.pfn + (1 << record.order) <= pfn:
            return
        if record.order > order:
            self._split(record)
        for frame in range(pfn, pfn + (1 << order)):
            self._records.pop(frame, None)

    def migrated(self, old: int, new: int, reason: str) -> None:
        """Let a frame's record be that of the frame whose page it holds now.

        Source: mm/page_owner.c:__folio_copy_owner, __set_page_owner_migrate_reason @6.1.192
        """
        record = self._records.get(old)
        if record is not None:
            # Its time of allocation as that of the free before: so does the kernel.
            self._records[new] = replace(record, pfn=new, free_time_ns=record.time_ns, migrate_reason=reason)

    def _split(self, record: PageRecord) -> None:
        """Put every page of a block on record by itself.

        Source: mm/page_owner.c:__split_page_owner @6.1.192
        """
        for pfn in range(record.pfn, record.pfn + (1 << record.order)):
            self._records[pfn] = replace(record, pfn=pfn, order=0)

    def owner(self, pfn: int) -> PageRecord | None:
        """Return the record of the block that begins at a frame; None if it has none."""
        return self._records.get(pfn)

    def records(self) -> Iterator[PageRecord]:
        """Return all records by frame number."""
        return (self._records[pfn] for pfn in sorted(self._records))

    def read(self) -> str:
        """Return ``/sys/kernel/debug/page_owner``: all blocks that are out, by frame number.

        Source: mm/page_owner.c:read_page_owner @6.1.192
        """
        return "".join(self.format(record) for record in self.records())

    def format(self, record: PageRecord) -> str:
        """Return the paragraph on one block.

        Source: mm/page_owner.c:print_page_owner @6.1.192
        """
        allocator = self._host.page_alloc
        memmap, pfn = allocator.memmap, record.pfn
        names = REFERENCE.migrate_types
        grouped = not allocator.page_group_by_mobility_disabled
        zone = memmap.zones_array[int(memmap.pages_array[pfn]["zone"])]
        block = int(memmap.pageblocks_array[(pfn >> memmap.pageblock_order) + int(zone["block_offset"])])
        places = "".join(f" {site}\n" for site in record.trace)
        if record.migrate_reason:
            places += f"Page has been migrated, last migrate reason: {record.migrate_reason}\n"
        return (
            f"Page allocated via order {record.order}, mask {record.gfp:#x}({format_gfp(record.gfp)}),"
            f" pid {record.pid}, tgid {record.tgid} ({record.comm}),"
            f" ts {record.time_ns} ns, free_ts {record.free_time_ns} ns\n"
            f"PFN {pfn} type {names[record.gfp >> 3 & 3 if grouped else 0]}"
            f" Block {pfn >> memmap.pageblock_order} type {names[block]}"
            f" Flags {format_page_flags_word(page_flags_word(memmap, pfn, self._host.arch), self._host.arch)}\n"
            f"{places}\n"
        )
