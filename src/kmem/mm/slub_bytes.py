# SPDX-License-Identifier: GPL-2.0-only
"""What SLUB keeps in the bytes of a slab: objects, free pointers, red zones, poison, tracks, padding.

One slot of a cache with every debugging flag, left to right::

    red zone | object          | red zone     | free    | allocated | freed    | asked | padding
    in front | poisoned if free| up to a word | pointer | by (track)| by(track)| size  | 0x5a
    bb or cc | 6b ... 6b a5    | bb or cc     | hidden  |           |          |       |

Red zones are 0xbb around free objects and 0xcc around those in use.  Without
poisoning, a constructor and RCU the free pointer lies in the middle of the
object itself; the size asked for is kept by kmalloc caches only.

:class:`ObjectLayout` says where everything is, :class:`SlabMemory` reads and
writes it, by kernel addresses.

Source: mm/slub.c, include/linux/poison.h @6.1.192
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kmem.mm.ram import Ram
from kmem.mm.slab_common import CacheGeometry
from kmem.mm.slab_flags import OBJECT_POISON, SLAB_KMALLOC, SLAB_RED_ZONE, SLAB_STORE_USER

__all__ = [
    "POISON_END",
    "POISON_FREE",
    "POISON_INUSE",
    "SLUB_RED_ACTIVE",
    "SLUB_RED_INACTIVE",
    "TRACK_ALLOC",
    "TRACK_FREE",
    "ObjectLayout",
    "SlabMemory",
    "Track",
]

# Source: include/linux/poison.h @6.1.192
SLUB_RED_INACTIVE: Final = 0xBB
SLUB_RED_ACTIVE: Final = 0xCC
POISON_INUSE: Final = 0x5A
POISON_FREE: Final = 0x6B
POISON_END: Final = 0xA5

TRACK_ALLOC: Final = 0
TRACK_FREE: Final = 1


@dataclass(frozen=True, slots=True)
class Track:
    """Who used an object last: ``struct track``.

    Attributes
    ----------
    addr : int
        Address that called.
    handle : int
        Where the stack depot has the call stack.
    cpu, pid : int
    when : int
        Ticks since boot.
    """

    addr: int
    handle: int
    cpu: int
    pid: int
    when: int


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """Where the parts of an object are. Offsets are from the start of the object, in bytes.

    Attributes
    ----------
    name : str
        Of the cache.
    flags : int
        ``SLAB_*``.
    object_size, size, inuse, offset : int
        As in ``struct kmem_cache``.
    red_left_pad : int
        Bytes of the red zone in front of the object; 0 without SLAB_RED_ZONE.
    random : int
        What free pointers are hidden with.
    word_bytes : int
    """

    name: str
    flags: int
    object_size: int
    size: int
    inuse: int
    offset: int
    red_left_pad: int
    random: int
    word_bytes: int

    @classmethod
    def of(cls, geometry: CacheGeometry, random: int, word_bytes: int) -> ObjectLayout:
        """Return the layout of a cache."""
        return cls(
            geometry.name,
            geometry.flags,
            geometry.object_size,
            geometry.size,
            geometry.inuse,
            geometry.offset,
            geometry.red_left_pad if geometry.flags & SLAB_RED_ZONE else 0,
            random & ((1 << 8 * word_bytes) - 1),
            word_bytes,
        )

    @property
    def freeptr_outside_object(self) -> bool:
        """Whether the free pointer has a place of its own.

        Source: mm/slub.c:freeptr_outside_object @6.1.192
        """
        return self.offset >= self.inuse

    @property
    def info_end(self) -> int:
        """Where the tracks begin.

        Source: mm/slub.c:get_info_end @6.1.192
        """
        return self.inuse + self.word_bytes if self.freeptr_outside_object else self.inuse

    @property
    def track_bytes(self) -> int:
        """Size of a track: 32 bytes, or 20 with 32-bit words."""
        return 32 if self.word_bytes == 8 else 20

    @property
    def tracks_end(self) -> int:
        """Where the tracks end; where they would begin if there are none."""
        return self.info_end + (2 * self.track_bytes if self.flags & SLAB_STORE_USER else 0)

    @property
    def has_orig_size(self) -> bool:
        """Whether the size that kmalloc was asked for is kept.

        Source: mm/slub.c:slub_debug_orig_size @6.1.192
        """
        return bool(self.flags & SLAB_STORE_USER and self.flags & SLAB_KMALLOC)

    @property
    def padding(self) -> int:
        """Where the padding begins."""
        return self.tracks_end + (4 if self.has_orig_size else 0)

    @property
    def size_from_object(self) -> int:
        """Where the padding ends: at the red zone in front of the next object.

        Source: mm/slub.c:size_from_object @6.1.192
        """
        return self.size - self.red_left_pad


class SlabMemory:
    """The bytes of slabs, by kernel address.

    Parameters
    ----------
    ram : Ram
        Physical memory.
    page_offset : int
        Kernel address of physical address 0.
    word_bytes : int
        Size of a pointer.
    """

    def __init__(self, ram: Ram, page_offset: int, word_bytes: int) -> None:
        self.ram = ram
        self.page_offset = page_offset
        self.word_bytes = word_bytes
        self.word_mask = (1 << 8 * word_bytes) - 1

    def mapped(self, address: int, size: int) -> bool:
        """Whether there is memory behind `size` bytes at an address of the linear map."""
        return 0 <= address - self.page_offset <= self.ram.size_bytes - size

    def view(self, address: int, size: int) -> memoryview:
        """Return bytes without copying."""
        return self.ram.view(address - self.page_offset, size)

    def fill(self, address: int, value: int, size: int) -> None:
        """Set bytes."""
        if size > 0:
            self.view(address, size)[:] = bytes((value,)) * size

    def read_word(self, address: int, size: int) -> int:
        """Read a little-endian number."""
        return int.from_bytes(self.view(address, size), "little")

    def write_word(self, address: int, size: int, value: int) -> None:
        """Write a little-endian number."""
        self.view(address, size)[:] = value.to_bytes(size, "little")

    def _hidden(self, s: ObjectLayout, pointer: int, at: int) -> int:
        """Return a free pointer as it stands at `at`, or what one that stands there says.

        Source: mm/slub.c:freelist_ptr @6.1.192 (CONFIG_SLAB_FREELIST_HARDENED)
        """
        at &= self.word_mask
        swapped = int.from_bytes(at.to_bytes(self.word_bytes, "little"), "big")
        return (pointer ^ s.random ^ swapped) & self.word_mask

    def get_freepointer(self, s: ObjectLayout, obj: int) -> int:
        """Return the address that an object's free pointer holds; 0 is NULL.

        Source: mm/slub.c:get_freepointer @6.1.192
        """
        at = obj + s.offset
        return self._hidden(s, self.read_word(at, self.word_bytes), at)

    def set_freepointer(self, s: ObjectLayout, obj: int, pointer: int) -> None:
        """Write the free pointer of an object.

        Source: mm/slub.c:set_freepointer @6.1.192
        """
        at = obj + s.offset
        self.write_word(at, self.word_bytes, self._hidden(s, pointer, at))

    def init_object(self, s: ObjectLayout, obj: int, value: int) -> None:
        """Write red zones of the kind `value` around an object, and poison into it where that is allowed.

        Source: mm/slub.c:init_object @6.1.192
        """
        if s.flags & SLAB_RED_ZONE:
            self.fill(obj - s.red_left_pad, value, s.red_left_pad)
        if s.flags & OBJECT_POISON:
            self.fill(obj, POISON_FREE, s.object_size - 1)
            self.fill(obj + s.object_size - 1, POISON_END, 1)
        if s.flags & SLAB_RED_ZONE:
            self.fill(obj + s.object_size, value, s.inuse - s.object_size)

    def init_tracking(self, s: ObjectLayout, obj: int) -> None:
        """Forget who used an object.

        Source: mm/slub.c:init_tracking @6.1.192
        """
        if s.flags & SLAB_STORE_USER:
            self.fill(obj + s.info_end, 0, 2 * s.track_bytes)

    def set_track(self, s: ObjectLayout, obj: int, which: int, track: Track) -> None:
        """Note who uses an object.

        Source: mm/slub.c:set_track_update @6.1.192
        """
        at = obj + s.info_end + which * s.track_bytes
        word = self.word_bytes
        self.write_word(at, word, track.addr)
        self.write_word(at + word, 4, track.handle)
        self.write_word(at + word + 4, 4, track.cpu)
        self.write_word(at + word + 8, 4, track.pid)
        self.write_word(at + s.track_bytes - word, word, track.when & self.word_mask)

    def get_track(self, s: ObjectLayout, obj: int, which: int) -> Track:
        """Return who used an object, as memory has it.

        Source: mm/slub.c:get_track @6.1.192
        """
        at = obj + s.info_end + which * s.track_bytes
        word = self.word_bytes
        return Track(
            self.read_word(at, word),
            self.read_word(at + word, 4),
            self.read_word(at + word + 4, 4),
            self.read_word(at + word + 8, 4),
            self.read_word(at + s.track_bytes - word, word),
        )

    def set_orig_size(self, s: ObjectLayout, obj: int, size: int) -> None:
        """Note how many bytes kmalloc was asked for.

        Source: mm/slub.c:set_orig_size @6.1.192
        """
        if s.has_orig_size:
            self.write_word(obj + s.tracks_end, 4, size & 0xFFFFFFFF)

    def memchr_inv(self, address: int, value: int, size: int) -> tuple[int, int] | None:
        """Return first and last address of bytes that are not `value`; None if all are.

        Source: lib/string.c:memchr_inv @6.1.192
        """
        if size <= 0:
            return None
        data = bytes(self.view(address, size))
        left = data.lstrip(bytes((value,)))
        if not left:
            return None
        return address + size - len(left), address + len(data.rstrip(bytes((value,)))) - 1
