# SPDX-License-Identifier: GPL-2.0-only
"""The page cache: pages of files, read in and written back.

A file is a name, a size and what has been written to it; what was never
written reads as zeros.  Its pages come into memory when they are read, written
or mapped, and leave it when reclaim takes them or the file goes.

The device behind all files is one that writes a page in a fixed time, one
after the other, on the machine's clock; reading takes no time.

Source: mm/filemap.c, mm/page-writeback.c, mm/readahead.c, mm/truncate.c @6.1.192
Differs: reading ahead goes no further than the request; dirty pages are
written in the order in which they became dirty; one device, without congestion.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from kmem.errors import UsageError
from kmem.mm.folio import PG_DIRTY, PG_RECLAIM, PG_UPTODATE, PG_WRITEBACK, Folio
from kmem.mm.lru import LRU_ACTIVE_FILE, LRU_INACTIVE_FILE, Shadow

if TYPE_CHECKING:
    from kmem.mm.mm_types import MmStruct, VmArea
    from kmem.mm.reclaim import Reclaim

__all__ = ["AddressSpace", "Filemap"]

_PAGE_SHIFT = 12
_PAGE_SIZE = 1 << _PAGE_SHIFT
_GFP_HIGHUSER_MOVABLE = 0x100CCA
_GFP_WRITE = 0x1000
_GFP_READAHEAD = 0x12000  # __GFP_NORETRY | __GFP_NOWARN
_READAHEAD_PAGES = 32
#: Time in which the device writes a page: 100 MiB/s.
_WRITE_NS = 40_000


class AddressSpace:
    """The pages of one file (struct address_space).

    Attributes
    ----------
    name : str
        Name of the file.
    size_bytes : int
        Its length.
    shmem : bool
        False: it has a device behind it.
    i_mmap : list of VmArea
        Areas of processes that map it.
    pages : dict
        Page offset -> folio, of what is in memory.
    shadows : dict
        Page offset -> what an evicted page left behind.
    gfp_mask : int
        How its pages are allocated: movable and from high memory as those of most files, or
        ``GFP_USER`` as those of block devices.
    """

    shmem = False

    def __init__(self, filemap: Filemap, name: str, size_bytes: int) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.i_mmap: list[VmArea] = []
        self.pages: dict[int, Folio] = {}
        self.shadows: dict[int, Shadow] = {}
        self.stored: dict[int, bytes] = {}
        self.gfp_mask = _GFP_HIGHUSER_MOVABLE
        self._filemap = filemap
        self._references = 0

    @property
    def nr_pages(self) -> int:
        """Pages of the file, in memory or not."""
        return -(-self.size_bytes // _PAGE_SIZE)

    def fault(self, pgoff: int, gfp: int) -> Folio | None:
        """Return the folio at a page offset with a reference for the caller, None if there is no memory.

        Raises
        ------
        IndexError
            If the offset lies behind the end of the file.

        Notes
        -----
        Context: may sleep.

        Source: mm/filemap.c:filemap_fault @6.1.192
        """
        if not 0 <= pgoff < self.nr_pages:
            raise IndexError(f"page {pgoff} lies behind the end of {self.name}")
        folio = self.pages.get(pgoff)
        if folio is None:
            self._filemap.reclaim.stat.count("pgmajfault")
            folio = self._filemap.read_page(self, pgoff, gfp)
        if folio is not None:
            folio.refcount += 1
        return folio

    def find(self, pgoff: int) -> Folio | None:
        """Return the folio at a page offset if it is in memory, with a reference for the caller.

        Source: mm/filemap.c:next_uptodate_page @6.1.192
        """
        folio = self.pages.get(pgoff)
        if folio is not None:
            folio.refcount += 1
        return folio

    def charge(self, mm: MmStruct, flags: int) -> bool:
        """Mapping a file promises no memory."""
        return True

    def set_page_dirty(self, folio: Folio) -> None:
        """Note that a folio differs from what the file holds."""
        self._filemap.mark_dirty(folio)

    def get(self) -> None:
        """Take a reference."""
        self._references += 1

    def put(self) -> None:
        """Drop a reference; the file stays, since it has a device behind it."""
        self._references -= 1

    def __repr__(self) -> str:
        return f"<AddressSpace {self.name} {self.size_bytes} bytes, {len(self.pages)} pages in memory>"


class Filemap:
    """The page cache of a machine.

    Parameters
    ----------
    reclaim : Reclaim
        Lists, folios and counters.

    Attributes
    ----------
    files : dict
        Name -> AddressSpace.
    dirty_background_ratio, dirty_ratio : int
        The sysctls: percent of the available memory from which dirty pages are written,
        and at which writers have to wait.
    """

    def __init__(self, reclaim: Reclaim) -> None:
        self.reclaim = reclaim
        self.stat = reclaim.stat
        self.files: dict[str, AddressSpace] = {}
        self.dirty_background_ratio = 10
        self.dirty_ratio = 20
        self._dirty: OrderedDict[Folio, None] = OrderedDict()
        self._under_writeback: deque[tuple[int, Folio]] = deque()
        self._device_free_ns = 0

    # Files

    def open(self, name: str, size_bytes: int | None = None, gfp_mask: int | None = None) -> AddressSpace:
        """Return a file, made if there is none of this name.

        Parameters
        ----------
        name : str
        size_bytes : int, optional
            Length; an existing file keeps its own if it is longer.
        gfp_mask : int, optional
            How its pages are allocated from now on.
        """
        if not name:
            raise UsageError("a file needs a name")
        if size_bytes is not None and size_bytes < 0:
            raise UsageError(f"a file of {size_bytes} bytes")
        mapping = self.files.get(name)
        if mapping is None:
            mapping = self.files[name] = AddressSpace(self, name, size_bytes or 0)
        elif size_bytes is not None:
            mapping.size_bytes = max(mapping.size_bytes, size_bytes)
        if gfp_mask is not None:
            mapping.gfp_mask = gfp_mask
        return mapping

    def delete(self, name: str) -> None:
        """Remove a file, and its pages from memory.

        Raises
        ------
        UsageError
            If there is none of this name, or a process maps it.

        Source: mm/truncate.c:truncate_inode_pages_range @6.1.192
        """
        mapping = self.files.get(name)
        if mapping is None:
            raise UsageError(f"no file {name!r}")
        if mapping.i_mmap:
            raise UsageError(f"{name} is mapped by a process", remedy="unmap it first")
        self.reclaim.lru.lru_add_drain()
        for folio in list(mapping.pages.values()):
            self._wait_on_writeback(folio)
            self._clean(folio)
            self._remove(folio)
            self.reclaim.folios.put(folio)
        del self.files[name]

    # Pages in

    def _add(self, mapping: AddressSpace, pgoff: int, gfp: int) -> Folio | None:
        """Allocate a page of a file and put it into the cache and on the LRU lists.

        Source: mm/filemap.c:filemap_add_folio @6.1.192
        """
        folio = self.reclaim.folios.alloc(gfp)
        if folio is None:
            return None
        if pgoff in mapping.pages:  # somebody else read it while this one waited for memory
            self.reclaim.folios.put(folio)
            return mapping.pages[pgoff]
        folio.mapping, folio.index = mapping, pgoff
        mapping.pages[pgoff] = folio
        self._count(folio, "nr_file_pages", 1)
        shadow = mapping.shadows.pop(pgoff, None)
        if shadow is not None and not gfp & _GFP_WRITE:
            self.reclaim.lru.workingset_refault(folio, shadow)
        self.reclaim.lru.folio_add_lru(folio)
        data = mapping.stored.get(pgoff)
        if data is not None:
            self._bytes(folio)[:] = data
        folio.flags |= PG_UPTODATE
        self.stat.count("pgpgin", 4)
        return folio

    def read_page(self, mapping: AddressSpace, pgoff: int, gfp: int | None = None) -> Folio | None:
        """Return a page of a file, read in if it is not in memory; None if there is no memory.

        Notes
        -----
        Context: may sleep.

        Source: mm/filemap.c:filemap_create_folio @6.1.192
        """
        folio = mapping.pages.get(pgoff)
        return folio if folio is not None else self._add(mapping, pgoff, mapping.gfp_mask if gfp is None else gfp)

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read from a file, by way of the page cache.

        Parameters
        ----------
        name : str
        offset, size : int
            Bytes; to the end of the file by default.

        Returns
        -------
        bytes
            Less than asked for at the end of the file, or where memory ran out.

        Notes
        -----
        Context: may sleep.

        Source: mm/filemap.c:filemap_read @6.1.192
        """
        mapping = self.files.get(name)
        if mapping is None:
            raise UsageError(f"no file {name!r}", remedy="write it first, or open it with a size")
        if offset < 0 or (size is not None and size < 0):
            raise UsageError(f"{size} bytes at {offset} of {name}")
        end = mapping.size_bytes if size is None else min(offset + size, mapping.size_bytes)
        chunks = []
        for pgoff in range(offset >> _PAGE_SHIFT, -(-end // _PAGE_SIZE)):
            folio = mapping.pages.get(pgoff)
            if folio is None:
                self._read_ahead(mapping, pgoff, -(-end // _PAGE_SIZE))
                folio = self.read_page(mapping, pgoff)
            if folio is None:
                break
            self.reclaim.lru.mark_page_accessed(folio)
            first = max(offset - (pgoff << _PAGE_SHIFT), 0)
            chunks.append(bytes(self._bytes(folio)[first : min(end - (pgoff << _PAGE_SHIFT), _PAGE_SIZE)]))
        return b"".join(chunks)

    def _read_ahead(self, mapping: AddressSpace, pgoff: int, end: int) -> None:
        """Source: mm/readahead.c:page_cache_ra_unbounded @6.1.192."""
        for each in range(pgoff, min(end, pgoff + _READAHEAD_PAGES)):
            if each not in mapping.pages and self._add(mapping, each, mapping.gfp_mask | _GFP_READAHEAD) is None:
                return

    def _bytes(self, folio: Folio) -> memoryview:
        return self.reclaim.kernel.ram.view(folio.pfn << _PAGE_SHIFT, _PAGE_SIZE)

    # Writing

    def write(self, name: str, data: bytes | int, offset: int = 0) -> int:
        """Write to a file, by way of the page cache; the bytes written, fewer where memory ran out.

        Parameters
        ----------
        name : str
            A file of this name is made if there is none.
        data : bytes or int
            What to write; a number stands for so many zero bytes.
        offset : int
            Where, in bytes.

        Notes
        -----
        Context: may sleep; a writer waits while too much is dirty.

        Source: mm/filemap.c:generic_perform_write @6.1.192
        """
        size = data if isinstance(data, int) else len(data)
        if offset < 0 or size < 0:
            raise UsageError(f"{size} bytes at {offset} of {name}")
        mapping = self.open(name)
        done = 0
        while done < size:
            pgoff, first = divmod(offset + done, _PAGE_SIZE)
            count = min(_PAGE_SIZE - first, size - done)
            folio = self.read_page(mapping, pgoff, mapping.gfp_mask | _GFP_WRITE)
            if folio is None:
                break
            page = self._bytes(folio)
            page[first : first + count] = bytes(count) if isinstance(data, int) else data[done : done + count]
            done += count
            mapping.size_bytes = max(mapping.size_bytes, offset + done)
            self.mark_dirty(folio)
            self.balance_dirty_pages()
        return done

    def _count(self, folio: Folio, name: str, delta: int) -> None:
        self.stat.node[self.reclaim.lru.lruvec_of(folio).node][name] += delta * folio.nr_pages

    def _pending(self, folio: Folio, delta: int) -> None:
        self.stat.zone[self.reclaim.lru.zone_of(folio)]["nr_zone_write_pending"] += delta * folio.nr_pages

    def mark_dirty(self, folio: Folio) -> None:
        """Note that a page differs from what the device holds.

        Source: mm/page-writeback.c:filemap_dirty_folio @6.1.192
        """
        if folio.flags & PG_DIRTY and folio in self._dirty:
            return
        folio.flags |= PG_DIRTY
        self._dirty[folio] = None
        self._count(folio, "nr_dirty", 1)
        self._count(folio, "nr_dirtied", 1)
        self._pending(folio, 1)

    def _clean(self, folio: Folio) -> None:
        if folio in self._dirty:
            del self._dirty[folio]
            self._count(folio, "nr_dirty", -1)
            self._pending(folio, -1)
        folio.flags &= ~PG_DIRTY

    def writepage(self, folio: Folio) -> None:
        """Begin to write a dirty page; it is clean, and under writeback until the device is done.

        Source: mm/page-writeback.c:folio_clear_dirty_for_io, __folio_start_writeback @6.1.192
        """
        self._clean(folio)
        mapping: AddressSpace = folio.mapping
        mapping.stored[folio.index] = bytes(self._bytes(folio))
        folio.flags |= PG_WRITEBACK
        self._count(folio, "nr_writeback", 1)
        self._pending(folio, 1)
        self._device_free_ns = max(self._device_free_ns, self.reclaim.kernel.clock.time_ns) + _WRITE_NS
        self._under_writeback.append((self._device_free_ns, folio))

    def wakeup_flusher_threads(self) -> None:
        """Begin to write every dirty page.

        Source: fs/fs-writeback.c:wakeup_flusher_threads @6.1.192
        """
        for folio in list(self._dirty):
            if not folio.flags & PG_WRITEBACK:
                self.writepage(folio)

    def complete_writes(self) -> None:
        """End the writing of all pages that the device is done with by now.

        Source: mm/filemap.c:folio_end_writeback @6.1.192
        """
        now = self.reclaim.kernel.clock.time_ns
        while self._under_writeback and self._under_writeback[0][0] <= now:
            _, folio = self._under_writeback.popleft()
            if folio.flags & PG_RECLAIM:
                folio.flags &= ~PG_RECLAIM
                self.reclaim.lru.rotate_reclaimable(folio)
            folio.flags &= ~PG_WRITEBACK
            self._count(folio, "nr_writeback", -1)
            self._count(folio, "nr_written", 1)
            self._pending(folio, -1)
            self.stat.count("pgpgout", 4)

    def _wait_on_writeback(self, folio: Folio) -> None:
        while folio.flags & PG_WRITEBACK:
            self.reclaim.sleep("writeback", max(self._under_writeback[0][0] - self.reclaim.kernel.clock.time_ns, 0))
            self.complete_writes()

    def sync(self) -> None:
        """Write everything that is dirty, and wait until it is written.

        Notes
        -----
        Context: sleeps.
        """
        self.wakeup_flusher_threads()
        while self._under_writeback:
            self._wait_on_writeback(self._under_writeback[-1][1])

    def balance_dirty_pages(self) -> None:
        """Have dirty pages written once there are many, and wait if there are too many.

        Source: mm/page-writeback.c:balance_dirty_pages, domain_dirty_limits @6.1.192
        Differs: a writer waits for single pages, not for a time worked out from its rate.
        """
        self.complete_writes()
        background, limit = self.dirty_limits()
        if len(self._dirty) > background:
            self.wakeup_flusher_threads()
        while self._under_writeback and len(self._dirty) + len(self._under_writeback) > (background + limit) // 2:
            self._wait_on_writeback(self._under_writeback[0][1])

    def dirty_limits(self) -> tuple[int, int]:
        """Return the dirty pages from which they are written, and at which writers have to wait.

        Source: mm/page-writeback.c:domain_dirty_limits @6.1.192
        """
        available = self._dirtyable_memory()
        limit = available * self.dirty_ratio // 100
        background = available * self.dirty_background_ratio // 100
        return (background if background < limit else limit // 2), limit

    def _dirtyable_memory(self) -> int:
        """Source: mm/page-writeback.c:global_dirtyable_memory @6.1.192."""
        free = max(int(self.reclaim.zones["free_pages"].sum()), 0)
        lists = (LRU_INACTIVE_FILE, LRU_ACTIVE_FILE)
        files = sum(lruvec.pages[lru] for lruvec in self.reclaim.lru.nodes for lru in lists)
        return max(free - min(free, self.reclaim.totalreserve_pages), 0) + files + 1

    # Pages out

    def _remove(self, folio: Folio) -> None:
        """Take a page out of the cache; the caller drops the cache's reference."""
        mapping: AddressSpace = folio.mapping
        del mapping.pages[folio.index]
        folio.mapping = None
        self._count(folio, "nr_file_pages", -1)

    def remove_mapping(self, folio: Folio) -> bool:
        """Take a page that reclaim holds out of its file, unless somebody else uses it.

        Source: mm/vmscan.c:__remove_mapping @6.1.192
        """
        if folio.refcount != 2 or folio.flags & (PG_DIRTY | PG_WRITEBACK):
            return False
        mapping: AddressSpace = folio.mapping
        mapping.shadows[folio.index] = self.reclaim.lru.workingset_eviction(folio)
        self._remove(folio)
        folio.refcount -= 1
        return True

    def drop_pagecache(self) -> int:
        """Drop every page that is clean and in nobody's use; how many.

        Source: fs/drop_caches.c:drop_pagecache_sb, mm/truncate.c:invalidate_mapping_pages @6.1.192
        """
        self.reclaim.lru.lru_add_drain_all()
        self.complete_writes()
        dropped = 0
        for mapping in self.files.values():
            for folio in list(mapping.pages.values()):
                if folio.refcount == 1 and not folio.flags & (PG_DIRTY | PG_WRITEBACK):
                    self._remove(folio)
                    self.reclaim.folios.put(folio)
                    dropped += 1
        return dropped
