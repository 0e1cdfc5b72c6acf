# SPDX-License-Identifier: GPL-2.0-only
"""The checks of debug caches, and the way of their objects where objects have bytes.

:class:`~kmem.mm.slub.Slub` hands an allocation or a free of a debug cache over
to a :class:`SlubChecker` once the machine has memory.  What stands in memory
decides there, free pointers included; the links that the rest of the model
works on are kept in step, and say ``WILD`` where a pointer leads nowhere.

Source: mm/slub.c @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from kmem.errors import KernelBug, StateError
from kmem.mm.ram import Ram
from kmem.mm.report import TAINT_BAD_PAGE, Context
from kmem.mm.slab_flags import (
    OBJECT_POISON,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)
from kmem.mm.slub_bytes import (
    POISON_END,
    POISON_FREE,
    POISON_INUSE,
    SLUB_RED_ACTIVE,
    SLUB_RED_INACTIVE,
    TRACK_ALLOC,
    TRACK_FREE,
    ObjectLayout,
    SlabMemory,
)
from kmem.mm.slub_report import PageStructs, SlabView, SlubReporter

if TYPE_CHECKING:
    from kmem.mm.slub import Slub

__all__ = ["SlubChecker"]

_PAGE_BYTES: Final = 4096
_NO_OBJECT: Final = 0xFFFF
_IN_USE: Final = 0xFFFE
_WILD: Final = 0xFFFD
_PG_SLAB: Final = 4
_MAX_NR_ZONES: Final = 5
_INIT_ON_FREE: Final = 2
_GFP_NOWARN: Final = 0x2000
# Lines of the conditions behind reports that name them.
_SET_FREEPOINTER: Final = 419
_CACHE_FROM_OBJ: Final = 665
_KMEM_CACHE_DESTROY: Final = 493
_LIST_DEL: Final = 53


class SlubChecker(SlubReporter):
    """Sets up, hands out, takes back and checks the objects of debug caches.

    Parameters
    ----------
    slub : Slub
        Whose objects get bytes.
    ram : Ram
        The bytes; all frames of the machine.
    page_offset : int
        Kernel address of physical address 0.
    word_bytes : int
        Size of a pointer.
    page_structs : PageStructs, optional
        Where ``struct page`` is.
    context : Context, optional
        Who runs where.

    Attributes
    ----------
    freeze_damaged : bool
        Whether a slab that is given up is marked frozen, so that its objects are never freed, either. Updates of
        6.1 up to 6.1.176 at least did not, and could die of it.
    damaged : set of int
        Slabs whose counters and freelist may contradict each other, because their owner wrote over them.
    """

    def __init__(
        self,
        slub: Slub,
        ram: Ram,
        *,
        page_offset: int,
        word_bytes: int = 8,
        page_structs: PageStructs | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(slub, SlabMemory(ram, page_offset, word_bytes), page_structs or PageStructs(), context)
        self.damaged: set[int] = set()
        self.freeze_damaged = True
        self._given_up: set[int] = set()
        self._layouts: dict[int, tuple[object, ObjectLayout]] = {}
        slub.attach_ram(ram.base, checker=self, page_offset=page_offset, word_bytes=word_bytes)

    def layout(self, cache: int) -> ObjectLayout:
        """Return where the parts of a cache's objects are."""
        geometry = self.slub.geometries[cache]
        known = self._layouts.get(cache)
        if known is None or known[0] is not geometry:
            random = int(self.slub.caches_array[cache]["random"])
            known = (geometry, ObjectLayout.of(geometry, random, self.memory.word_bytes))
            self._layouts[cache] = known
        return known[1]

    def _slab(self, cache: int, pfn: int) -> SlabView:
        return SlabView(self.slub, pfn, self.layout(cache))

    # ------------------------------------------------------------------ free pointers

    def get_freepointer(self, s: ObjectLayout, obj: int) -> int:
        """Return an object's free pointer; to read one where no memory is kills the running code."""
        if not self.memory.mapped(obj + s.offset, s.word_bytes):
            self.bad_access(obj + s.offset)
        return self.memory.get_freepointer(s, obj)

    def set_freepointer(self, s: ObjectLayout, obj: int, pointer: int) -> None:
        """Write an object's free pointer; an object that is to follow itself kills the running code."""
        if obj == pointer:
            self.bug(_SET_FREEPOINTER)
        self.memory.set_freepointer(s, obj, pointer)

    def relink(self, slab: SlabView) -> None:
        """Make the links of a slab what its free pointers are, and note whether its counters agree."""
        links = slab.links()
        for number in range(slab.objects):
            links[number] = _IN_USE
        pointer, free = slab.freelist, 0
        before: int | None = None
        while pointer:
            index = slab.index(pointer)
            if index is None or links[index] != _IN_USE:
                if before is not None:
                    links[before] = _WILD
                    self.slub.wild[slab.pfn] = pointer
                break
            if before is not None:
                links[before] = index
            links[index] = _NO_OBJECT
            free += 1
            before, pointer = index, self.memory.get_freepointer(slab.s, pointer)
        if pointer or free + slab.inuse != slab.objects or slab.frozen:
            self.damaged.add(slab.pfn)
        else:
            self.damaged.discard(slab.pfn)

    # ------------------------------------------------------------------ slabs

    def setup_slab(self, cache: int, pfn: int, ctor: Callable[[int], object] | None) -> None:
        """Fill a fresh slab: padding, then object by object in the order of its freelist.

        Source: mm/slub.c:setup_slab_debug, setup_object, setup_object_debug, shuffle_freelist @6.1.192
        """
        slab = self._slab(cache, pfn)
        s, memory, links = slab.s, self.memory, slab.links().tolist()
        if s.flags & SLAB_POISON:
            memory.fill(slab.address, POISON_INUSE, _PAGE_BYTES << slab.order)
        index = slab.index(slab.freelist)
        before = None
        while index is not None:
            obj = slab.object(index)
            if s.flags & (SLAB_STORE_USER | SLAB_RED_ZONE | OBJECT_POISON):
                memory.init_object(s, obj, SLUB_RED_INACTIVE)
                memory.init_tracking(s, obj)
            if ctor is not None:
                ctor(obj - memory.page_offset)
            if before is not None:
                memory.set_freepointer(s, before, obj)
            before, index = obj, None if links[index] == _NO_OBJECT else links[index]
        if before is not None:
            memory.set_freepointer(s, before, 0)

    def adopt_slabs(self) -> None:
        """Give slabs that exist already the bytes that they would have, but for what objects in use hold.

        Linear in their objects. Who used them is forgotten.
        """
        self.damaged.clear()
        self._given_up.clear()
        self.slub.wild.clear()
        for pfn in np.flatnonzero(self.slub.memmap.pages_array["kind"] == _PG_SLAB).tolist():
            cache = int(self.slub.memmap.pages_array[pfn]["cache"])
            self.slub.write_links(pfn)
            if not self.slub.caches_array[cache]["setup"] or self.slub.geometries[cache].ctor:
                continue
            slab = self._slab(cache, pfn)
            s, links = slab.s, slab.links().tolist()
            if s.flags & SLAB_POISON:
                self._fill_padding(slab)
            for index, link in enumerate(links):
                obj = slab.object(index)
                if link != _IN_USE:
                    self.memory.init_object(s, obj, SLUB_RED_INACTIVE)
                elif s.flags & SLAB_RED_ZONE:
                    self.memory.fill(obj - s.red_left_pad, SLUB_RED_ACTIVE, s.red_left_pad)
                    self.memory.fill(obj + s.object_size, SLUB_RED_ACTIVE, s.inuse - s.object_size)
                self.memory.init_tracking(s, obj)
                if s.freeptr_outside_object:
                    self.memory.set_freepointer(s, obj, 0)
            self.slub.write_links(pfn)

    def _fill_padding(self, slab: SlabView) -> None:
        """Write the padding of a slab, around objects that may be in use."""
        s, length = slab.s, _PAGE_BYTES << slab.order
        for index in range(slab.objects):
            obj = slab.object(index)
            if not s.flags & SLAB_RED_ZONE:
                self.memory.fill(obj + s.object_size, POISON_INUSE, s.inuse - s.object_size)
            self.memory.fill(obj + s.padding, POISON_INUSE, s.size_from_object - s.padding)
        self.memory.fill(slab.address + length - length % s.size, POISON_INUSE, length % s.size)

    def free_slab(self, cache: int, pfn: int) -> None:
        """Check a slab before its pages go back.

        Source: mm/slub.c:__free_slab @6.1.192
        """
        self.damaged.discard(pfn)
        self._given_up.discard(pfn)
        slab = self._slab(cache, pfn)
        if slab.s.flags & SLAB_CONSISTENCY_CHECKS:
            self._slab_pad_check(slab)
            for index in range(slab.objects):
                self._check_object(slab, slab.object(index), SLUB_RED_INACTIVE)

    # ------------------------------------------------------------------ allocation

    def alloc_single_from_partial(self, cache: int, pfn: int) -> int:
        """Take one object of a slab on the partial list; NO_OBJECT if the slab is found damaged, and taken off.

        Source: mm/slub.c:alloc_single_from_partial @6.1.192
        """
        slab = self._slab(cache, pfn)
        obj = slab.freelist
        following = self.get_freepointer(slab.s, obj)
        slab.freelist = following
        slab.inuse += 1
        if not self._alloc_debug_processing(slab, obj):
            slab.store()
            self.relink(slab)
            self.slub.relist(cache, pfn, "not-partial")
            return _NO_OBJECT
        index = self._taken(slab, obj)
        if slab.inuse == slab.objects:
            self.slub.relist(cache, pfn, "not-partial")
            self.slub.relist(cache, pfn, "full")
        return index

    def alloc_single_from_new_slab(self, cache: int, pfn: int) -> int:
        """Take one object of a fresh slab, and list the slab; NO_OBJECT if it is damaged already.

        Source: mm/slub.c:alloc_single_from_new_slab @6.1.192
        """
        slab = self._slab(cache, pfn)
        obj = slab.freelist
        slab.freelist = self.get_freepointer(slab.s, obj)
        slab.inuse = 1
        if not self._alloc_debug_processing(slab, obj):
            slab.store()
            self.relink(slab)
            return _NO_OBJECT
        index = self._taken(slab, obj)
        self.slub.relist(cache, pfn, "full" if slab.inuse == slab.objects else "partial-head")
        self.slub.count_in(cache, pfn)
        return index

    def _taken(self, slab: SlabView, obj: int) -> int:
        """Write back a slab that an object was taken from; returns the object's number."""
        index = slab.index(obj)
        if index is None:
            raise StateError(f"{slab.s.name}: object {obj:#x} from a damaged freelist is none of its slab")
        slab.store()
        following = slab.index(slab.freelist) if slab.freelist else _NO_OBJECT
        links = slab.links()
        if links[index] != following or slab.pfn in self.damaged:
            self.relink(slab)
        links[index] = _IN_USE
        return index

    def set_alloc_track(self, cache: int, address: int) -> None:
        """Note who was given the object at a physical address."""
        track = self.make_track()
        self.memory.set_track(self.layout(cache), address + self.memory.page_offset, TRACK_ALLOC, track)

    def _alloc_debug_processing(self, slab: SlabView, obj: int) -> bool:
        """Check an object that is about to be handed out; if something is wrong, give the whole slab up.

        Source: mm/slub.c:alloc_debug_processing @6.1.192
        """
        s = slab.s
        if s.flags & SLAB_CONSISTENCY_CHECKS and not self._alloc_consistency_checks(slab, obj):
            self.slab_fix(s, "Marking all objects used")
            slab.inuse = slab.objects
            slab.freelist = 0
            slab.frozen = int(self.freeze_damaged)
            self._given_up.add(slab.pfn)
            return False
        if s.flags & SLAB_TRACE:
            self.trace(s, slab, obj, alloc=True)
        self.memory.set_orig_size(s, obj, self.slub.orig_size if s.flags & SLAB_KMALLOC else s.object_size)
        self.memory.init_object(s, obj, SLUB_RED_ACTIVE)
        return True

    def _alloc_consistency_checks(self, slab: SlabView, obj: int) -> bool:
        """Source: mm/slub.c:alloc_consistency_checks @6.1.192."""
        if not self._check_slab(slab):
            return False
        if not self._check_valid_pointer(slab, obj):
            self.object_err(slab.s, slab, obj, "Freelist Pointer check fails", valid=False)
            return False
        return self._check_object(slab, obj, SLUB_RED_INACTIVE)

    # ------------------------------------------------------------------ freeing

    def free(self, cache: int, pfn: int, address: int) -> None:
        """Take an object back that lies in a slab of a debug cache.

        Source: mm/slub.c:slab_free_freelist_hook, free_to_partial_list @6.1.192
        """
        slab = self._slab(cache, pfn)
        s, obj = slab.s, address + self.memory.page_offset
        if self.slub.caches_array[cache]["init"] & _INIT_ON_FREE:
            self.memory.fill(obj, 0, s.object_size)
            self.memory.fill(obj + s.inuse, 0, s.size - s.inuse - s.red_left_pad)
        self.set_freepointer(s, obj, 0)
        if s.flags & SLAB_STORE_USER and self.slub.on_track is not None:
            self.slub.on_track(True, _GFP_NOWARN)
        if not self._free_debug_processing(slab, obj):
            slab.store()
            self.relink(slab)
            return
        prior = slab.freelist
        self.set_freepointer(s, obj, prior)
        slab.inuse -= 1
        slab.freelist = obj
        self._given_back(slab, obj, prior)
        node = cache * self.slub.nr_nodes + int(self.slub.memmap.pages_array[pfn]["zone"]) // _MAX_NR_ZONES
        min_partial = int(self.slub.caches_array[cache]["min_partial"])
        empty = slab.inuse == 0 and int(self.slub.nodes_array[node]["nr_partial"]) >= min_partial
        if not prior:
            if pfn in self._given_up:
                self._unlist_again(s, pfn)
            else:
                self.slub.relist(cache, pfn, "not-full")
            if not empty:
                self.slub.relist(cache, pfn, "partial-tail")
        elif empty:
            self.slub.relist(cache, pfn, "not-partial")
        if empty:
            self.slub.drop_slab(cache, pfn)

    def _unlist_again(self, s: ObjectLayout, pfn: int) -> None:
        """Take a slab off the list of full ones that was given up, and is on no list; see `freeze_damaged`.

        Source: mm/slub.c:remove_full, lib/list_debug.c:__list_del_entry_valid @6.1.192
        """
        self._given_up.discard(pfn)
        if s.flags & SLAB_STORE_USER:
            word = self.memory.word_bytes
            entry, poison = self.page_structs.address(pfn) + word, 0xDEAD000000000100 if word == 8 else 0x100
            self.report.pr_err(
                f"list_del corruption, {entry:0{self.digits}x}->next is LIST_POISON1 ({poison:0{self.digits}x})"
            )
            self.report.bug("lib/list_debug.c", _LIST_DEL)
            self.die(KernelBug)

    def _given_back(self, slab: SlabView, obj: int, prior: int) -> None:
        """Write back a slab that got an object back in front of `prior`."""
        slab.store()
        index = slab.index(obj)
        before = slab.index(prior) if prior else _NO_OBJECT
        links = slab.links()
        if index is None or before is None or links[index] != _IN_USE or slab.pfn in self.damaged:
            self.relink(slab)
        else:
            links[index] = before

    def _free_debug_processing(self, slab: SlabView, obj: int) -> bool:
        """Check an object that is freed, and make it a free one; False if it is not to be freed.

        Source: mm/slub.c:free_debug_processing @6.1.192
        """
        s = slab.s
        checked = s.flags & SLAB_CONSISTENCY_CHECKS
        ok = not checked or self._check_slab(slab)
        if ok and slab.inuse < 1:
            self.slab_err(s, slab, f"Slab has {slab.inuse} allocated objects but 1 are to be freed\n")
            ok = False
        if ok and checked:
            ok = self._free_consistency_checks(slab, obj)
        if not ok:
            self.slab_fix(s, f"Object at {self.report.pointer(obj)} not freed")
            return False
        if s.flags & SLAB_STORE_USER:
            self.memory.set_track(s, obj, TRACK_FREE, self.make_track())
        if s.flags & SLAB_TRACE:
            self.trace(s, slab, obj, alloc=False)
        self.memory.init_object(s, obj, SLUB_RED_INACTIVE)
        return True

    def _free_consistency_checks(self, slab: SlabView, obj: int) -> bool:
        """Source: mm/slub.c:free_consistency_checks @6.1.192."""
        if not self._check_valid_pointer(slab, obj):
            self.slab_err(slab.s, slab, f"Invalid object pointer {self.report.pointer(obj)}")
            return False
        if self._on_freelist(slab, obj):
            self.object_err(slab.s, slab, obj, "Object already free")
            return False
        return self._check_object(slab, obj, SLUB_RED_ACTIVE)

    # ------------------------------------------------------------------ the checks themselves

    @staticmethod
    def _check_valid_pointer(slab: SlabView, obj: int) -> bool:
        """Whether an address is NULL or that of an object of the slab.

        Source: mm/slub.c:check_valid_pointer @6.1.192
        """
        return not obj or slab.index(obj) is not None

    def _check_bytes_and_report(self, slab: SlabView, obj: int, what: str, start: int, value: int, size: int) -> bool:
        """Check that bytes have a value; report and restore those that do not.

        Source: mm/slub.c:check_bytes_and_report @6.1.192
        """
        fault = self.memory.memchr_inv(start, value, size)
        if fault is None:
            return True
        first, last = fault
        s, pointer = slab.s, self.report.pointer
        self._note()
        self.slab_bug(s, f"{what} overwritten")
        byte = self.memory.read_word(first, 1)
        self.report.pr_err(
            f"{pointer(first)}-{pointer(last)} @offset={first - slab.address}. "
            f"First byte 0x{byte:x} instead of 0x{value:x}"
        )
        self.print_trailer(s, slab, obj)
        self.report.add_taint(TAINT_BAD_PAGE, unreliable=True)
        self.restore_bytes(s, what, value, first, last)
        return False

    def _slab_pad_check(self, slab: SlabView) -> None:
        """Check the bytes behind the last object of a slab.

        Source: mm/slub.c:slab_pad_check @6.1.192
        """
        s, length = slab.s, _PAGE_BYTES << slab.order
        remainder = length % s.size
        if not s.flags & SLAB_POISON or not remainder:
            return
        pad = slab.address + length - remainder
        fault = self.memory.memchr_inv(pad, POISON_INUSE, remainder)
        if fault is None:
            return
        first, last = fault
        pointer = self.report.pointer
        self.slab_err(s, slab, f"Padding overwritten. {pointer(first)}-{pointer(last)} @offset={first - slab.address}")
        self.print_section("Padding ", pad, remainder)
        self.restore_bytes(s, "slab padding", POISON_INUSE, first, last)

    def _check_object(self, slab: SlabView, obj: int, value: int) -> bool:
        """Check everything around an object, and in it if it is free: red zones, poison, padding, free pointer.

        Source: mm/slub.c:check_object, check_pad_bytes @6.1.192
        """
        s, end = slab.s, obj + slab.s.object_size
        check = self._check_bytes_and_report
        if s.flags & SLAB_RED_ZONE:
            if not check(slab, obj, "Left Redzone", obj - s.red_left_pad, value, s.red_left_pad):
                return False
            if not check(slab, obj, "Right Redzone", end, value, s.inuse - s.object_size):
                return False
        elif s.flags & SLAB_POISON and s.object_size < s.inuse:
            check(slab, obj, "Alignment padding", end, POISON_INUSE, s.inuse - s.object_size)
        if s.flags & SLAB_POISON:
            if value != SLUB_RED_ACTIVE and s.flags & OBJECT_POISON:
                if not check(slab, obj, "Poison", obj, POISON_FREE, s.object_size - 1):
                    return False
                if not check(slab, obj, "End Poison", end - 1, POISON_END, 1):
                    return False
            check(slab, obj, "Object padding", obj + s.padding, POISON_INUSE, s.size_from_object - s.padding)
        if not s.freeptr_outside_object and value == SLUB_RED_ACTIVE:
            return True  # the object lies over its free pointer
        if not self._check_valid_pointer(slab, self.memory.get_freepointer(s, obj)):
            self.object_err(s, slab, obj, "Freepointer corrupt")
            self.set_freepointer(s, obj, 0)
            return False
        return True

    def _check_slab(self, slab: SlabView) -> bool:
        """Check what a slab says about itself.

        Source: mm/slub.c:check_slab @6.1.192
        """
        if slab.inuse > slab.objects:
            self.slab_err(slab.s, slab, f"inuse {slab.inuse} > max {slab.objects}")
            return False
        if slab.frozen:
            self.slab_err(slab.s, slab, "Slab disabled since SLUB metadata consistency check failed")
            return False
        self._slab_pad_check(slab)
        return True

    def _on_freelist(self, slab: SlabView, search: int | None) -> bool:
        """Whether an object is on its slab's freelist; None asks whether the freelist is in order.

        Source: mm/slub.c:on_freelist @6.1.192
        """
        s, nr, obj, fp = slab.s, 0, 0, slab.freelist
        while fp and nr <= slab.objects:
            if fp == search:
                return True
            if not self._check_valid_pointer(slab, fp):
                if obj:
                    self.object_err(s, slab, obj, "Freechain corrupt")
                    self.set_freepointer(s, obj, 0)
                    break
                self.slab_err(s, slab, "Freepointer corrupt")
                slab.freelist = 0
                slab.inuse = slab.objects
                self.slab_fix(s, "Freelist cleared")
                return False
            obj = fp
            fp = self.memory.get_freepointer(s, obj)
            nr += 1
        if slab.inuse != slab.objects - nr:
            self.slab_err(s, slab, f"Wrong object count. Counter is {slab.inuse} but counted were {slab.objects - nr}")
            slab.inuse = slab.objects - nr
            self.slab_fix(s, "Object count adjusted")
        return search is None

    # ------------------------------------------------------------------ whole caches

    def _free_objects(self, slab: SlabView) -> set[int]:
        """Return the numbers of the objects on a slab's freelist.

        Source: mm/slub.c:__fill_map @6.1.192
        """
        free: set[int] = set()
        pointer = slab.freelist
        while pointer:
            index = slab.index(pointer)
            if index is None or index in free:
                break
            free.add(index)
            pointer = self.memory.get_freepointer(slab.s, pointer)
        return free

    def _validate_slab(self, slab: SlabView) -> None:
        """Source: mm/slub.c:validate_slab @6.1.192."""
        if self._check_slab(slab) and self._on_freelist(slab, None):
            free = self._free_objects(slab)
            for index in range(slab.objects):
                value = SLUB_RED_INACTIVE if index in free else SLUB_RED_ACTIVE
                if not self._check_object(slab, slab.object(index), value):
                    break
        slab.store()
        self.relink(slab)

    def validate_slab_cache(self, cache: int) -> int:
        """Check every object of the slabs on a cache's lists; returns how many slabs that were.

        Source: mm/slub.c:validate_slab_cache, validate_slab_node @6.1.192
        """
        count = 0
        s = self.layout(cache)
        for node in range(self.slub.nr_nodes):
            row = self.slub.nodes_array[cache * self.slub.nr_nodes + node]
            seen = 0
            for pfn in self.slub.memmap.list_frames(int(row["partial"])):
                self._validate_slab(self._slab(cache, pfn))
                seen += 1
            if seen != int(row["nr_partial"]):
                self._note()
                self.report.pr_err(f"SLUB {s.name}: {seen} partial slabs counted but counter={int(row['nr_partial'])}")
            if s.flags & SLAB_STORE_USER:
                for pfn in self.slub.memmap.list_frames(int(row["full"])):
                    self._validate_slab(self._slab(cache, pfn))
                    seen += 1
                if seen != int(row["nr_slabs"]):
                    self._note()
                    self.report.pr_err(f"SLUB: {s.name} {seen} slabs counted but counter={int(row['nr_slabs'])}")
            count += seen
        return count

    def list_slab_objects(self, cache: int, node: int) -> None:
        """Report the objects that a cache still has when it is destroyed.

        Source: mm/slub.c:free_partial, list_slab_objects @6.1.192
        """
        row = self.slub.nodes_array[cache * self.slub.nr_nodes + node]
        for pfn in self.slub.memmap.list_frames(int(row["partial"])):
            slab = self._slab(cache, pfn)
            if not slab.inuse:
                continue
            s = slab.s
            self.slab_err(s, slab, f"Objects remaining in {s.name} on __kmem_cache_shutdown()")
            free = self._free_objects(slab)
            for index in range(slab.objects):
                if index not in free:
                    obj = slab.object(index)
                    self.report.pr_err(f"Object {self.report.pointer(obj)} @offset={obj - slab.address}")
                    self.print_tracking(s, obj)

    def still_has_objects(self, cache: int) -> None:
        """Warn that a cache cannot be destroyed.

        Source: mm/slab_common.c:kmem_cache_destroy @6.1.192
        """
        stack = self.context.stack()
        self.warn(
            "mm/slab_common.c",
            _KMEM_CACHE_DESTROY,
            "kmem_cache_destroy",
            f"kmem_cache_destroy {self.layout(cache).name}: Slab cache still has objects when called from "
            f"{stack[0] if stack else '?'}",
        )

    # ------------------------------------------------------------------ what no slab expects

    def wrong_cache(self, cache: int, owner: int, address: int) -> None:
        """Warn of an object that is freed to another cache than its own; it goes back to its own.

        Source: mm/slab.h:cache_from_obj @6.1.192
        """
        s = self.layout(owner)
        name = self.slub.geometries[cache].name
        self.warn(
            "mm/slab.h",
            _CACHE_FROM_OBJ,
            "cache_from_obj",
            f"cache_from_obj: Wrong slab cache. {name} but object is from {s.name}",
        )
        self.print_tracking(s, address + self.memory.page_offset)

    def free_again(self, cache: int) -> None:
        """Die of an object that is freed while it is the first free one.

        Source: mm/slub.c:set_freepointer @6.1.192
        """
        self.bug(_SET_FREEPOINTER)

    def wild_access(self, cache: int, pointer: int) -> None:
        """Die of a free pointer that somebody overwrote, when it is followed.

        Source: mm/slub.c:get_freepointer_safe @6.1.192
        """
        self.bad_access(pointer + self.layout(cache).offset)

    def wild_in_list(self, cache: int, pointer: int) -> None:
        """Report a free pointer that leads nowhere when a slab is taken from its CPU.

        Source: mm/slub.c:deactivate_slab @6.1.192
        Differs: the kernel dies while it holds the slab; here the rest of the freelist is given up, and it is
        said when the call is done.
        """
        self._reported()
        self.report.bad_access((pointer + self.layout(cache).offset) & self.memory.word_mask)
