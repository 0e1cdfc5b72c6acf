# SPDX-License-Identifier: GPL-2.0-only
"""kmemleak: memory that was handed out, and that nobody can find any more.

Every object of a slab cache, large ``kmalloc()`` and ``vmalloc()`` area is on
record with the place that asked for it.  There are two ways to look for leaks:

- :meth:`Kmemleak.scan`, the kernel's: memory is searched for values that are
  addresses.  An object that no root and no object in use refers to is
  *white*, an orphan; one that enough references lead to is *gray*; a *black*
  one is ignored.  Roots are what has been registered, and the variables of the
  Python code that runs: they stand for the kernel's stacks and data sections.
- :meth:`Kmemleak.unfreed`: whatever was handed out since a mark and is still
  out, pages included, whether or not anybody knows of it.  That is what the
  end of a test wants to know.

As in the kernel a scan reports an orphan only once it is five seconds old and
has not changed since the scan before.

Source: mm/kmemleak.c @6.1.192
Differs: roots are those named above, the kernel has its data sections, struct
pages and task stacks; the areas of ``vmalloc()`` have no struct in memory that
would point to them, so one reference is enough for them, too; places are
Python's, without return addresses.
"""

from __future__ import annotations

import bisect
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np

from kmem.errors import UsageError
from kmem.mm.aids import Aid
from kmem.mm.callers import NOWHERE, Site, python_values, stack_sites
from kmem.mm.page_watch import block_of
from kmem.mm.printk import KERN_INFO, KERN_WARNING
from kmem.mm.slab_flags import SLAB_NOLEAKTRACE
from kmem.mm.task import Task
from kmem.mm.timekeeping import HZ, Clock

__all__ = ["Kmemleak", "KmemleakHost", "KmemleakObject", "LeakGroup"]

#: Age of an orphan before it is reported, in jiffies (MSECS_MIN_AGE).
MIN_AGE: Final = 5 * HZ
_BLACK: Final = -1
_GREY: Final = 0
_SOFTIRQ_OFFSET: Final = 0x100
_HARDIRQ_MASK: Final = 0xF0000
_HEX_ROW: Final = 16
_HEX_MAX: Final = 2 * _HEX_ROW
_PAGE_SHIFT: Final = 12


class KmemleakHost(Protocol):
    """What kmemleak needs of the running kernel."""

    @property
    def current(self) -> Task:
        """The task that runs."""

    @property
    def preempt_count(self) -> int:
        """In the kernel's bit layout."""

    @property
    def printk(self) -> Any:
        """The log."""

    @property
    def clock(self) -> Clock:
        """Virtual time."""

    @property
    def bits_per_long(self) -> int:
        """Size of a pointer, in bits."""


@dataclass(eq=False, slots=True)
class KmemleakObject:
    """One allocation on record.

    Attributes
    ----------
    pointer : int
        Kernel address; of pages the physical address.
    size : int
        Bytes.
    kind : str
        ``"slab"``, ``"kmalloc"`` (large), ``"vmalloc"``, ``"pages"`` or ``"other"`` (registered by hand).
    cache : str
        Name of the cache of a slab object, else empty.
    min_count : int
        References that make it no orphan; 0 gray (no leak), -1 black (ignored).
    count : int
        References that the last scan found.
    jiffies : int
        When it was handed out.
    comm, pid : str, int
        Task that asked for it.
    trace : tuple of Site
        Places that asked for it, innermost first.
    serial : int
        Number of the allocation since kmemleak was switched on.
    checksum : int
        Of its bytes at the last look.
    reported, no_scan : bool
        Whether a scan has reported it; whether its bytes are not searched.
    areas : list of (int, int)
        Parts of it that are searched, as address and size; empty for all of it.

    Source: mm/kmemleak.c:struct kmemleak_object @6.1.192
    """

    pointer: int
    size: int
    kind: str
    cache: str
    min_count: int
    jiffies: int
    comm: str
    pid: int
    trace: tuple[Site, ...]
    serial: int
    count: int = 0
    checksum: int = 0
    reported: bool = False
    no_scan: bool = False
    areas: list[tuple[int, int]] = field(default_factory=list)

    @property
    def white(self) -> bool:
        """Whether too few references lead to it."""
        return self.count != _BLACK and self.count < self.min_count

    @property
    def gray(self) -> bool:
        """Whether enough references lead to it, or none are needed."""
        return self.min_count != _BLACK and self.count >= self.min_count

    @property
    def site(self) -> Site:
        """The place that asked for it."""
        return self.trace[0] if self.trace else NOWHERE

    def __str__(self) -> str:
        what = f"{self.cache} object" if self.cache else self.kind
        return f"{what} {self.pointer:#x} ({self.size} bytes) from {self.site}"


@dataclass(frozen=True, slots=True)
class LeakGroup:
    """Allocations with one call site in common.

    Attributes
    ----------
    site : Site
    count, size_bytes : int
    objects : tuple of KmemleakObject
        Oldest first.
    """

    site: Site
    count: int
    size_bytes: int
    objects: tuple[KmemleakObject, ...]

    def __str__(self) -> str:
        objects = "object" if self.count == 1 else "objects"
        return f"{self.count} {objects}, {self.size_bytes} bytes, from {self.site}"


class Kmemleak(Aid):
    """The leak detector of one machine; a debugging aid of its kernel.

    Parameters
    ----------
    host : KmemleakHost
        The running kernel.
    read : callable
        Returns `size` bytes at a kernel address: ``read(addr, size)``; raises if there are none.

    Attributes
    ----------
    min_age : int
        Jiffies before an orphan is reported; 5 seconds.
    python_roots : bool
        Whether a scan takes the variables of running Python code as roots (``stack=on``).
    verbose : bool
        Whether a scan prints each orphan to the log.
    """

    def __init__(self, host: KmemleakHost, read: Callable[[int, int], bytes]) -> None:
        self._host = host
        self._read = read
        self._word = host.bits_per_long // 8
        self._objects: dict[int, KmemleakObject] = {}
        self._pages: dict[int, KmemleakObject] = {}
        self._caches: dict[int, list[KmemleakObject]] = {}
        self._roots: list[tuple[int, int]] = []
        self._serial = 0
        self._last_scan = 0
        self.min_age = MIN_AGE
        self.python_roots = True
        self.verbose = False

    # What the kernel tells it

    def slab_alloc(self, addr: int, size: int, cache: Any, gfp: int) -> None:
        """Note an object; those of caches without leak tracing are not noted.

        Source: mm/slab.h:kmemleak_alloc_recursive @6.1.192
        """
        if cache is None:
            self._create(addr, size, "kmalloc", "", 1)
        elif not cache.flags & SLAB_NOLEAKTRACE:
            self._create(addr, cache.object_size, "slab", cache.name, 1)

    def slab_free(self, addr: int) -> None:
        """Forget an object."""
        self._objects.pop(addr, None)

    def vmalloc(self, addr: int, size: int, gfp: int) -> None:
        """Note an area, in whole pages.

        Source: mm/kmemleak.c:kmemleak_vmalloc, mm/vmalloc.c:__vmalloc_node_range @6.1.192
        """
        self._create(addr, -(-size >> _PAGE_SHIFT) << _PAGE_SHIFT, "vmalloc", "", 1)

    def vfree(self, addr: int) -> None:
        """Forget an area."""
        self._objects.pop(addr, None)

    def cache_create(self, index: int, name: str, object_size: int) -> None:
        """Note one use of a slab cache, for :meth:`unfreed_caches`."""
        self._caches.setdefault(index, []).append(self._new(index, object_size, "cache", name, 1))

    def cache_destroy(self, index: int) -> None:
        """Forget the latest use of a slab cache: which of those that share it ends cannot be told."""
        uses = self._caches.get(index)
        if uses:
            uses.pop()

    def page_alloc(self, pfn: int, order: int, gfp: int) -> None:
        """Note a block of pages, for :meth:`unfreed` only; the kernel's kmemleak does not look at pages."""
        self._pages[pfn] = self._new(pfn << _PAGE_SHIFT, 1 << (_PAGE_SHIFT + order), "pages", "", 1)

    def page_free(self, pfn: int, order: int) -> None:
        """Forget a block of pages; of one that its owner has split, keep the rest page by page."""
        head = block_of(self._pages, pfn)
        block = None if head is None else self._pages[head]
        if block is None or block.pointer + block.size <= pfn << _PAGE_SHIFT:
            return
        if block.size > 1 << (_PAGE_SHIFT + order):
            first = block.pointer >> _PAGE_SHIFT
            for frame in range(first, first + (block.size >> _PAGE_SHIFT)):
                self._pages[frame] = replace(block, pointer=frame << _PAGE_SHIFT, size=1 << _PAGE_SHIFT)
        for frame in range(pfn, pfn + (1 << order)):
            self._pages.pop(frame, None)

    def _new(self, addr: int, size: int, kind: str, cache: str, min_count: int) -> KmemleakObject:
        """Describe an allocation.

        Source: mm/kmemleak.c:__create_object @6.1.192
        """
        host = self._host
        count = host.preempt_count
        comm, pid = host.current.comm, host.current.pid
        if count & _HARDIRQ_MASK:
            comm, pid = "hardirq", 0
        elif count & _SOFTIRQ_OFFSET:
            comm, pid = "softirq", 0
        self._serial += 1
        return KmemleakObject(
            addr, size, kind, cache, min_count, host.clock.jiffies, comm, pid, stack_sites(), self._serial
        )

    def _create(self, addr: int, size: int, kind: str, cache: str, min_count: int) -> None:
        self._objects[addr] = self._new(addr, size, kind, cache, min_count)

    # What code tells it: include/linux/kmemleak.h

    def alloc(self, addr: int, size: int, min_count: int = 1) -> None:
        """Register memory that no allocator has reported.

        Raises
        ------
        UsageError
            Nothing is mapped there.

        Source: mm/kmemleak.c:kmemleak_alloc @6.1.192
        """
        self._check_size(size)
        self._read(addr, size)
        self._create(addr, size, "other", "", min_count)

    def free(self, addr: int) -> None:
        """Forget memory that :meth:`alloc` registered.

        Source: mm/kmemleak.c:kmemleak_free @6.1.192
        """
        self._objects.pop(addr, None)

    def not_leak(self, addr: int) -> None:
        """Paint an object gray: it is no leak, and what it refers to is none either.

        Source: mm/kmemleak.c:kmemleak_not_leak @6.1.192
        """
        self._paint(addr, _GREY, "Grey")

    def ignore(self, addr: int) -> None:
        """Paint an object black: it is no leak, and not searched.

        Source: mm/kmemleak.c:kmemleak_ignore @6.1.192
        """
        self._paint(addr, _BLACK, "Black")

    def _paint(self, addr: int, color: int, name: str) -> None:
        object = self._objects.get(addr)
        if object is None:
            self._warn(f"Trying to color unknown object at 0x{addr:08x} as {name}")
            return
        object.min_count = color
        if color == _BLACK:
            object.no_scan = True

    def no_scan(self, addr: int) -> None:
        """Do not search the bytes of an object: it holds no addresses.

        Source: mm/kmemleak.c:kmemleak_no_scan @6.1.192
        """
        object = self._objects.get(addr)
        if object is None:
            self._warn(f"Not scanning unknown object at 0x{addr:08x}")
            return
        object.no_scan = True

    def scan_area(self, addr: int, size: int) -> None:
        """Search only this part of the object that it lies in (and other parts named so).

        Source: mm/kmemleak.c:kmemleak_scan_area, add_scan_area @6.1.192
        """
        object = self._lookup(addr, sorted(self._objects))
        if object is None:
            self._warn(f"Adding scan area to unknown object at 0x{addr:08x}")
        elif addr + size > object.pointer + object.size:
            self._warn(f"Scan area larger than object 0x{addr:08x}")
        else:
            object.areas.append((addr, size))

    def update_trace(self, addr: int) -> None:
        """Let an object be the caller's: its stack replaces the one on record.

        Source: mm/kmemleak.c:kmemleak_update_trace @6.1.192
        """
        object = self._objects.get(addr)
        if object is not None:
            object.trace = stack_sites()

    def add_root(self, addr: int, size: int) -> None:
        """Search this memory first: what it refers to is in use. It stands for a data section.

        Raises
        ------
        UsageError
            Nothing is mapped there.
        """
        self._check_size(size)
        self._read(addr, size)
        self._roots.append((addr, size))

    @staticmethod
    def _check_size(size: int) -> None:
        if size <= 0:
            raise UsageError(f"{size} bytes of memory hold no references", remedy="give a size above 0")

    def remove_root(self, addr: int) -> None:
        """Take back :meth:`add_root`."""
        self._roots = [root for root in self._roots if root[0] != addr]

    def _warn(self, text: str) -> None:
        self._host.printk.printk(f"kmemleak: {text}", KERN_WARNING)

    # Scanning

    def _lookup(self, addr: int, pointers: list[int]) -> KmemleakObject | None:
        """Return the object that an address lies in; `pointers` are those of all objects, sorted."""
        place = bisect.bisect_right(pointers, addr) - 1
        if place < 0:
            return None
        object = self._objects[pointers[place]]
        return object if addr < object.pointer + object.size else None

    def _words(self, addr: int, size: int) -> Iterable[int]:
        """Return what could be addresses in a piece of memory: its aligned words."""
        start = -(-addr // self._word) * self._word
        usable = (addr + size - start) // self._word * self._word
        if usable <= 0:
            return ()
        words = np.frombuffer(self._read(start, usable), f"<u{self._word}")
        return [int(word) for word in words[words != 0]]

    def _refer(self, words: Iterable[int], source: KmemleakObject | None, scan: _Scan) -> None:
        """Count what `words` refer to; objects that are no orphans any more are to be searched, too.

        Source: mm/kmemleak.c:scan_block, update_refs @6.1.192
        """
        for word in words:
            if not scan.lowest <= word < scan.end:
                continue
            object = self._lookup(word, scan.pointers)
            if object is None or object is source or not object.white:
                continue
            object.count += 1
            if object.gray:
                scan.gray.append(object)

    def _scan_gray(self, scan: _Scan) -> None:
        """Search the gray objects, which makes more of them gray.

        Source: mm/kmemleak.c:scan_gray_list, scan_object @6.1.192
        """
        while scan.gray:
            object = scan.gray.pop()
            if object.no_scan:
                continue
            for addr, size in object.areas or [(object.pointer, object.size)]:
                self._refer(self._words(addr, size), object, scan)

    def _changed(self, object: KmemleakObject) -> bool:
        """Whether an object's bytes have changed since the last look.

        Source: mm/kmemleak.c:update_checksum @6.1.192
        """
        before = object.checksum
        object.checksum = zlib.crc32(self._read(object.pointer, object.size), 0xFFFFFFFF) ^ 0xFFFFFFFF
        return object.checksum != before

    def scan(self) -> int:
        """Search memory for references, and report the orphans that are new.

        Returns
        -------
        int
            How many orphans are reported for the first time. The kernel's log says the same.

        Notes
        -----
        Context: may sleep. Linear in the bytes of the objects that are found.

        Source: mm/kmemleak.c:kmemleak_scan @6.1.192
        """
        self._last_scan = self._host.clock.jiffies
        objects = list(self._objects.values())
        scan = _Scan(sorted(self._objects), max((o.pointer + o.size for o in objects), default=0))
        for object in objects:
            object.count = 0
            if object.gray:
                scan.gray.append(object)
        for addr, size in self._roots:
            self._refer(self._words(addr, size), None, scan)
        if self.python_roots:
            self._refer(python_values(sys._getframe(1), self._word), None, scan)
        self._scan_gray(scan)
        for object in objects:
            if object.white and self._changed(object):
                # In motion: look at it again at the next scan.
                object.count = object.min_count
                scan.gray.append(object)
        self._scan_gray(scan)
        return self._report(objects)

    def _report(self, objects: Iterable[KmemleakObject]) -> int:
        new = 0
        for object in objects:
            if self._unreferenced(object) and not object.reported:
                object.reported = True
                new += 1
                if self.verbose:
                    for line in self._text(object):
                        self._warn(line)
        if new:
            self._host.printk.printk(
                f"kmemleak: {new} new suspected memory leaks (see /sys/kernel/debug/kmemleak)", KERN_INFO
            )
        return new

    def _unreferenced(self, object: KmemleakObject) -> bool:
        """Whether an object is an orphan, and old enough.

        Source: mm/kmemleak.c:unreferenced_object @6.1.192
        """
        return object.white and object.jiffies + self.min_age <= self._last_scan

    def orphans(self) -> list[KmemleakObject]:
        """Return what scans have reported and is still an orphan, oldest first."""
        return [object for object in self._objects.values() if object.reported and self._unreferenced(object)]

    def clear(self) -> None:
        """Paint all reported orphans gray, so that they are not reported again.

        Source: mm/kmemleak.c:kmemleak_clear @6.1.192
        """
        for object in self.orphans():
            object.min_count = _GREY

    # Reports

    def _text(self, object: KmemleakObject) -> Iterator[str]:
        """Lines of the report on one orphan.

        Source: mm/kmemleak.c:print_unreferenced, hex_dump_object @6.1.192
        """
        yield f"unreferenced object 0x{object.pointer:08x} (size {object.size}):"
        yield f'  comm "{object.comm}", pid {object.pid}, jiffies {object.jiffies}'
        data = self._read(object.pointer, min(object.size, _HEX_MAX))
        yield f"  hex dump (first {len(data)} bytes):"
        for at in range(0, len(data), _HEX_ROW):
            row = data[at : at + _HEX_ROW]
            shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
            yield f"    {' '.join(f'{byte:02x}' for byte in row):<{3 * _HEX_ROW - 1}}  {shown}"
        yield "  backtrace:"
        for site in object.trace:
            yield f"    {site}"

    def read(self) -> str:
        """Return what ``/sys/kernel/debug/kmemleak`` shows: the reported orphans, oldest first."""
        return "".join(f"{line}\n" for object in self.orphans() for line in self._text(object))

    def write(self, command: str) -> None:
        """Do what writing to ``/sys/kernel/debug/kmemleak`` does: scan, clear, stack=on|off, dump=ADDR.

        Raises
        ------
        ValueError
            The kernel would answer EINVAL.

        Source: mm/kmemleak.c:kmemleak_write @6.1.192
        Differs: there is no scanning thread to start or stop.
        """
        command = command.rstrip("\n")
        if command == "clear":
            self.clear()
        elif command in ("stack=on", "stack=off"):
            self.python_roots = command == "stack=on"
        elif command == "scan":
            self.scan()
        elif command.startswith("dump="):
            self._dump(command.removeprefix("dump="))
        else:
            raise ValueError(f"kmemleak does not know {command!r}: scan, clear, stack=on, stack=off and dump=ADDRESS")

    def _dump(self, text: str) -> None:
        addr = int(text, 0)
        object = self._objects.get(addr)
        if object is None:
            self._host.printk.printk(f"kmemleak: Unknown object at 0x{addr:08x}", KERN_INFO)
            raise ValueError(f"no object at {addr:#x}")
        lines = [
            f"Object 0x{object.pointer:08x} (size {object.size}):",
            f'  comm "{object.comm}", pid {object.pid}, jiffies {object.jiffies}',
            f"  min_count = {object.min_count}",
            f"  count = {object.count}",
            f"  flags = {1 | object.reported << 1 | object.no_scan << 2:#x}",
            f"  checksum = {object.checksum}",
            "  backtrace:",
            *(f" {site}" for site in object.trace),
        ]
        for line in lines:
            self._host.printk.printk(f"kmemleak: {line}", 5)

    # Everything that is still out

    def mark(self) -> int:
        """Return a mark for :meth:`unfreed`: now."""
        return self._serial

    def unfreed(self, since: int = 0) -> list[KmemleakObject]:
        """Return all allocations after a mark that have not been freed, oldest first.

        Objects that code has declared to be no leaks (:meth:`not_leak`, :meth:`ignore`) are left out.
        """
        everything = (*self._objects.values(), *self._pages.values())
        found = [object for object in everything if object.serial > since and object.min_count > 0]
        return sorted(found, key=lambda object: object.serial)

    def unfreed_caches(self, since: int = 0) -> list[KmemleakObject]:
        """Return the slab caches created after a mark and not destroyed, oldest first.

        `pointer` is the number of the cache, `cache` the name it was created under, `size` that of its objects.
        Of several users of one shared cache, the earliest are the ones that count as still there.
        """
        found = [use for uses in self._caches.values() for use in uses if use.serial > since]
        return sorted(found, key=lambda use: use.serial)

    def by_site(self, since: int = 0) -> list[LeakGroup]:
        """Return :meth:`unfreed` grouped by call site, most bytes first."""
        groups: dict[Site, list[KmemleakObject]] = {}
        for object in self.unfreed(since):
            groups.setdefault(object.site, []).append(object)
        listed = [LeakGroup(site, len(own), sum(o.size for o in own), tuple(own)) for site, own in groups.items()]
        return sorted(listed, key=lambda group: (-group.size_bytes, group.site))


@dataclass(slots=True)
class _Scan:
    """A scan under way."""

    pointers: list[int]
    end: int
    gray: list[KmemleakObject] = field(default_factory=list)

    @property
    def lowest(self) -> int:
        return self.pointers[0] if self.pointers else 0
