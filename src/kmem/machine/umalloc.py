# SPDX-License-Identifier: GPL-2.0-only
"""``malloc()`` of a process, as glibc 2.36 has it: what a program's requests become before the kernel sees them.

Memory comes from the kernel by ``brk`` (the heap) or, from 128 KiB on, by
``mmap`` of its own.  In the heap lie chunks side by side; the last one, *top*,
is what is left::

    heap | tcache | chunk | free chunk | chunk | ... | top                     | brk
                    ^ size and flags, then the user's bytes

Freed chunks wait, smallest first, in the thread's cache (seven of a size), in
fast bins, or, joined with free neighbours, in the unsorted list, from where a
later request sorts them into bins.  All of it, lists included, lies in the
process's own memory, so that a child of fork() goes on with a copy, and a
stray write damages it as it would in life.

Source: glibc 2.36 malloc/malloc.c, for the order of things and the sizes; the kernel's part is brk, mmap and
mremap of 6.1 (Source: mm/mmap.c @6.1.192)
Differs: one arena, one thread. All large chunks are in one sorted list, not in 63 bins. Where brk fails, every request
becomes a mapping of its own. The cache's key follows from the process number, not from chance. The arena's
state takes a mapped page of its own, in place of the C library's data segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NoReturn

from kmem.errors import KmemError, UsageError
from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, MREMAP_MAYMOVE, PROT_READ, PROT_WRITE

if TYPE_CHECKING:
    from kmem.machine.process import Process

__all__ = ["Chunk", "HeapCorruption", "UserMalloc"]

PREV_INUSE: Final = 1
IS_MMAPPED: Final = 2
_FLAGS: Final = 7
_ALIGN: Final = 16
_PAGE: Final = 4096
_TOP_PAD: Final = 128 << 10
_MMAP_THRESHOLD: Final = 128 << 10
_TCACHE_BINS: Final = 64
_TCACHE_COUNT: Final = 7
_NFASTBINS: Final = 10
_CONSOLIDATION_THRESHOLD: Final = 65536
_NSMALLBINS: Final = 64

# Words of the arena's state, then fast bins, then pairs of links: the unsorted list, small bins, the large chunks.
_TOP, _LAST_REMAINDER, _MMAP_LIMIT, _TRIM_LIMIT, _N_MMAPS, _TCACHE, _KEY, _HAVE_FAST, _SYSTEM_MEM = range(9)
_FASTBINS: Final = 16
_BINS: Final = _FASTBINS + _NFASTBINS
_UNSORTED, _LARGE = 0, 1


class HeapCorruption(KmemError):
    """The C library found its lists damaged, or a pointer that it never gave out, and aborts the process."""

    exit_code = 1


def _abort(text: str) -> NoReturn:
    raise HeapCorruption(text)


@dataclass(frozen=True)
class Chunk:
    """A piece of the heap.

    Attributes
    ----------
    addr : int
        Where it begins, with its header.
    mem : int
        What ``malloc()`` returned for it.
    size : int
        Bytes, header included.
    state : str
        ``in use``, ``free``, ``cached`` (in the thread's cache), ``fast`` (in a fast bin), ``top`` or ``mapped``.
    """

    addr: int
    mem: int
    size: int
    state: str

    def __repr__(self) -> str:
        return f"<Chunk {self.mem:#x}, {self.size} bytes at {self.addr:#x}, {self.state}>"


class UserMalloc:
    """The allocator of one process; it has no state but what lies in the process's memory.

    Parameters
    ----------
    process : Process
    """

    def __init__(self, process: Process) -> None:
        self._p = process
        self._word = 8 if process.kernel.arch == "x86_64" else 4
        self._header = 2 * self._word
        self._minsize = 32 if self._word == 8 else 16
        self._max_fast = 128 if self._word == 8 else 64
        self._min_large = _NSMALLBINS * 16
        self._mmap_threshold_max = 32 << 20 if self._word == 8 else 512 << 10

    # Words

    def _get(self, addr: int) -> int:
        return int.from_bytes(self._p.read(addr, self._word), "little")

    def _set(self, addr: int, value: int) -> None:
        self._p.write(addr, value.to_bytes(self._word, "little"))

    def _state(self, index: int) -> int:
        return self._get(self._p.mm.malloc_state + index * self._word)

    def _set_state(self, index: int, value: int) -> None:
        self._set(self._p.mm.malloc_state + index * self._word, value)

    # Chunks

    def _size(self, chunk: int) -> int:
        return self._get(chunk + self._word) & ~_FLAGS

    def _flags(self, chunk: int) -> int:
        return self._get(chunk + self._word) & _FLAGS

    def _set_head(self, chunk: int, head: int) -> None:
        self._set(chunk + self._word, head)

    def _set_foot(self, chunk: int, size: int) -> None:
        self._set(chunk + size, size)

    def _inuse(self, chunk: int) -> bool:
        return bool(self._flags(chunk + self._size(chunk)) & PREV_INUSE)

    def _set_prev_inuse(self, chunk: int, inuse: bool) -> None:
        head = self._get(chunk + self._word)
        self._set_head(chunk, head | PREV_INUSE if inuse else head & ~PREV_INUSE)

    def _request2size(self, request: int) -> int:
        return max((request + self._word + _ALIGN - 1) & -_ALIGN, self._minsize)

    # Lists: a bin is the address of a chunk that is not there, whose links are the list's ends

    def _bin(self, number: int) -> int:
        return self._p.mm.malloc_state + (_BINS + 2 * number) * self._word - 2 * self._word

    def _small_bin(self, size: int) -> int:
        return self._bin(2 + size // 16)

    def _fd(self, chunk: int) -> int:
        return self._get(chunk + 2 * self._word)

    def _bk(self, chunk: int) -> int:
        return self._get(chunk + 3 * self._word)

    def _insert_after(self, place: int, chunk: int) -> None:
        following = self._fd(place)
        self._set(chunk + 2 * self._word, following)
        self._set(chunk + 3 * self._word, place)
        self._set(place + 2 * self._word, chunk)
        self._set(following + 3 * self._word, chunk)

    def _unlink(self, chunk: int) -> None:
        size = self._size(chunk)
        if self._get(chunk + size) != size:
            _abort("corrupted size vs. prev_size")
        fd, bk = self._fd(chunk), self._bk(chunk)
        if self._bk(fd) != chunk or self._fd(bk) != chunk:
            _abort("corrupted double-linked list")
        self._set(fd + 3 * self._word, bk)
        self._set(bk + 2 * self._word, fd)

    # The thread's cache, and fast bins: single links, masked with the place where they lie

    def _mask(self, place: int, link: int) -> int:
        return (place >> 12) ^ link

    def _tcache_index(self, size: int) -> int:
        return (size - self._minsize + _ALIGN - 1) // _ALIGN

    def _tcache_slots(self, index: int) -> tuple[int, int]:
        tcache = self._state(_TCACHE)
        return tcache + 2 * index, tcache + 2 * _TCACHE_BINS + index * self._word

    def _tcache_count(self, index: int) -> int:
        if index >= _TCACHE_BINS or not self._state(_TCACHE):
            return _TCACHE_COUNT
        return int.from_bytes(self._p.read(self._tcache_slots(index)[0], 2), "little")

    def _tcache_put(self, chunk: int, index: int) -> None:
        count_at, entry_at = self._tcache_slots(index)
        mem = chunk + self._header
        self._set(mem + self._word, self._state(_KEY))
        self._set(mem, self._mask(mem, self._get(entry_at)))
        self._set(entry_at, mem)
        self._p.write(count_at, (self._tcache_count(index) + 1).to_bytes(2, "little"))

    def _tcache_get(self, index: int) -> int:
        count_at, entry_at = self._tcache_slots(index)
        mem = self._get(entry_at)
        if mem % _ALIGN:
            _abort("malloc(): unaligned tcache chunk detected")
        self._set(entry_at, self._mask(mem, self._get(mem)))
        self._p.write(count_at, (self._tcache_count(index) - 1).to_bytes(2, "little"))
        self._set(mem + self._word, 0)
        return mem

    def _fast_head(self, size: int) -> int:
        index = size // 16 - 2 if self._word == 8 else size // 16 - 1
        return self._p.mm.malloc_state + (_FASTBINS + index) * self._word

    def _fast_pop(self, head: int) -> int:
        chunk = self._get(head)
        if chunk:
            if (chunk + self._header) % _ALIGN:
                _abort("malloc(): unaligned fastbin chunk detected")
            link = chunk + self._header
            self._set(head, self._mask(link, self._get(link)))
        return chunk

    # Start

    def _init(self) -> bool:
        """Set the arena up before the first request: its state, and the thread's cache, the first chunk of the heap."""
        if self._p.mm.malloc_state:
            return True
        try:
            state = self._p.mmap(0, _PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        except OSError:
            return False
        self._p.mm.malloc_state = state
        for number in range(2 + _NSMALLBINS):
            head = self._bin(number)
            self._set(head + 2 * self._word, head)
            self._set(head + 3 * self._word, head)
        self._set_state(_MMAP_LIMIT, _MMAP_THRESHOLD)
        self._set_state(_TRIM_LIMIT, _MMAP_THRESHOLD)
        self._set_state(_KEY, (self._p.pid * 0x9E3779B97F4A7C15 + 1) & ((1 << 8 * self._word) - 1))
        size = 2 * _TCACHE_BINS + _TCACHE_BINS * self._word
        mem = self._int_malloc(self._request2size(size))
        if mem is None:
            return False
        self._p.write(mem, bytes(size))
        self._set_state(_TCACHE, mem)
        return True

    # malloc

    def malloc(self, size: int) -> int | None:
        """Allocate `size` bytes, aligned to 16; None if there is no memory.

        Raises
        ------
        HeapCorruption
            The lists are damaged.
        """
        if size < 0:
            raise UsageError(f"malloc({size})", remedy="sizes are not negative")
        if size >= 1 << 8 * self._word - 1:
            return None
        if not self._init():
            return None
        nb = self._request2size(size)
        index = self._tcache_index(nb)
        if index < _TCACHE_BINS and self._tcache_has(index):
            return self._tcache_get(index)
        return self._int_malloc(nb)

    def _tcache_has(self, index: int) -> bool:
        return bool(self._state(_TCACHE)) and self._tcache_count(index) > 0

    def _int_malloc(self, nb: int) -> int | None:
        """Look in fast bins, small bins, the unsorted list, larger bins and at the top, in this order."""
        chunk = self._from_fast(nb) or self._from_small(nb)
        if chunk:
            return chunk + self._header
        if nb >= self._min_large and self._state(_HAVE_FAST):
            self._consolidate()
        while True:
            chunk = self._from_unsorted(nb) or self._from_bins(nb)
            if chunk:
                return chunk + self._header
            chunk = self._from_top(nb)
            if chunk:
                return chunk + self._header
            if not self._state(_HAVE_FAST):
                return self._sysmalloc(nb)
            self._consolidate()

    def _from_fast(self, nb: int) -> int:
        if nb > self._max_fast:
            return 0
        head = self._fast_head(nb)
        chunk = self._fast_pop(head)
        index = self._tcache_index(nb)
        while chunk and self._tcache_count(index) < _TCACHE_COUNT and self._get(head):
            self._tcache_put(self._fast_pop(head), index)
        return chunk

    def _from_small(self, nb: int) -> int:
        if nb >= self._min_large:
            return 0
        head = self._small_bin(nb)
        index = self._tcache_index(nb)
        found = 0
        while self._bk(head) != head and (not found or self._tcache_count(index) < _TCACHE_COUNT):
            chunk = self._bk(head)
            self._set_prev_inuse(chunk + nb, True)
            self._set(head + 3 * self._word, self._bk(chunk))
            self._set(self._bk(chunk) + 2 * self._word, head)
            if found:
                self._tcache_put(chunk, index)
            else:
                found = chunk
        return found

    def _from_unsorted(self, nb: int) -> int:
        """Sort the unsorted list into bins, oldest first, unless one of its chunks is just right."""
        head, index = self._bin(_UNSORTED), self._tcache_index(nb)
        cached = False
        while True:
            chunk = self._bk(head)
            if chunk == head:
                break
            size, following = self._size(chunk), self._bk(chunk)
            if nb < self._min_large and following == head and chunk == self._state(_LAST_REMAINDER):
                if size > nb + self._minsize:
                    self._set(head + 2 * self._word, head)
                    self._set(head + 3 * self._word, head)
                    return self._split(chunk, size, nb)
            self._set(head + 3 * self._word, following)
            self._set(following + 2 * self._word, head)
            if size == nb:
                self._set_prev_inuse(chunk + size, True)
                if index < _TCACHE_BINS and self._tcache_count(index) < _TCACHE_COUNT:
                    self._tcache_put(chunk, index)
                    cached = True
                    continue
                return chunk
            self._to_bin(chunk, size)
        return self._tcache_get(index) - self._header if cached else 0

    def _to_bin(self, chunk: int, size: int) -> None:
        """Put a chunk into the bin of its size; large ones are sorted, the largest first."""
        if size < self._min_large:
            self._insert_after(self._small_bin(size), chunk)
            return
        head = self._bin(_LARGE)
        place = head
        while self._fd(place) != head and self._size(self._fd(place)) >= size:
            place = self._fd(place)
        self._insert_after(place, chunk)

    def _from_bins(self, nb: int) -> int:
        """Cut the request off the smallest free chunk that is large enough."""
        if nb < self._min_large:
            for size in range(nb, self._min_large, 16):
                head = self._small_bin(size)
                if self._bk(head) != head:
                    return self._take(self._bk(head), nb)
        head = self._bin(_LARGE)
        chunk = self._bk(head)
        while chunk != head:
            if self._size(chunk) >= nb:
                return self._take(chunk, nb)
            chunk = self._bk(chunk)
        return 0

    def _take(self, chunk: int, nb: int) -> int:
        self._unlink(chunk)
        size = self._size(chunk)
        if size - nb < self._minsize:
            self._set_prev_inuse(chunk + size, True)
            return chunk
        return self._split(chunk, size, nb)

    def _split(self, chunk: int, size: int, nb: int) -> int:
        """Use the lower part of a free chunk; the rest becomes the newest of the unsorted list."""
        rest = chunk + nb
        self._set_head(chunk, nb | PREV_INUSE)
        self._set_head(rest, (size - nb) | PREV_INUSE)
        self._set_foot(rest, size - nb)
        self._insert_after(self._bin(_UNSORTED), rest)
        if nb < self._min_large:
            self._set_state(_LAST_REMAINDER, rest)
        return chunk

    def _from_top(self, nb: int) -> int:
        top = self._state(_TOP)
        size = self._size(top) if top else 0
        if size > self._state(_SYSTEM_MEM):
            _abort("malloc(): corrupted top size")
        if size < nb + self._minsize:
            return 0
        self._set_head(top, nb | PREV_INUSE)
        self._set_head(top + nb, (size - nb) | PREV_INUSE)
        self._set_state(_TOP, top + nb)
        return top

    # More memory from the kernel

    def _sysmalloc(self, nb: int) -> int | None:
        if nb >= self._state(_MMAP_LIMIT):
            mem = self._sysmalloc_mmap(nb)
            if mem is not None:
                return mem
        top = self._state(_TOP)
        old_size = self._size(top) if top else 0
        size = (nb + _TOP_PAD + self._minsize - old_size + _PAGE - 1) & -_PAGE
        try:
            brk = self._p.sbrk(size)
        except OSError:
            return self._sysmalloc_mmap(nb)
        self._set_state(_SYSTEM_MEM, self._state(_SYSTEM_MEM) + size)
        if top and brk == top + old_size:
            self._set_head(top, (size + old_size) | PREV_INUSE)
        else:
            self._new_top(brk, size, top, old_size)
        chunk = self._from_top(nb)
        return chunk + self._header if chunk else None

    def _new_top(self, brk: int, size: int, old_top: int, old_size: int) -> None:
        """Begin the heap, or go on behind memory that somebody else took by sbrk()."""
        correction = -(brk + self._header) % _ALIGN
        end = brk + size + correction
        correction += -end % _PAGE
        try:
            self._p.sbrk(correction)
        except OSError:
            correction = 0
        start = brk + (-(brk + self._header) % _ALIGN)
        self._set_state(_SYSTEM_MEM, self._state(_SYSTEM_MEM) + correction)
        self._set_state(_TOP, start)
        self._set_head(start, (brk + size + correction - start) | PREV_INUSE)
        if old_size:
            # two small chunks that are never free keep what lies behind from being joined with the old top
            rest = (old_size - 4 * self._word) & -_ALIGN
            prev_inuse = self._flags(old_top) & PREV_INUSE
            self._set_head(old_top, rest | prev_inuse)
            self._set_head(old_top + rest, self._header | PREV_INUSE)
            self._set_head(old_top + rest + self._header, self._header | PREV_INUSE)
            if rest >= self._minsize:
                self._int_free(old_top, cache=False)

    def _sysmalloc_mmap(self, nb: int) -> int | None:
        size = (nb + self._word + (0 if self._word == 8 else _ALIGN - 1) + _PAGE - 1) & -_PAGE
        try:
            addr = self._p.mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        except OSError:
            return None
        shift = -(addr + self._header) % _ALIGN
        self._set(addr + shift, shift)
        self._set_head(addr + shift, (size - shift) | IS_MMAPPED)
        self._set_state(_N_MMAPS, self._state(_N_MMAPS) + 1)
        return addr + shift + self._header

    # free

    def free(self, addr: int | None) -> None:
        """Give an allocation back; None is fine.

        Raises
        ------
        HeapCorruption
            It is none, or was freed already, or something wrote over its ends.
        """
        if not addr:
            return
        chunk = addr - self._header
        if not self._p.mm.malloc_state or addr % _ALIGN:
            _abort("free(): invalid pointer")
        if self._flags(chunk) & IS_MMAPPED:
            self._munmap_chunk(chunk)
        else:
            self._int_free(chunk)

    def _munmap_chunk(self, chunk: int) -> None:
        size, shift = self._size(chunk), self._get(chunk)
        if (chunk - shift) % _PAGE or (size + shift) % _PAGE:
            _abort("munmap_chunk(): invalid pointer")
        if self._state(_MMAP_LIMIT) < size <= self._mmap_threshold_max:
            self._set_state(_MMAP_LIMIT, size)
            self._set_state(_TRIM_LIMIT, 2 * size)
        self._set_state(_N_MMAPS, self._state(_N_MMAPS) - 1)
        self._p.munmap(chunk - shift, size + shift)

    def _int_free(self, chunk: int, cache: bool = True) -> None:
        size = self._size(chunk)
        if size < self._minsize or size % _ALIGN or chunk + size >= 1 << 8 * self._word:
            _abort("free(): invalid size")
        index = self._tcache_index(size)
        if cache and index < _TCACHE_BINS and self._to_tcache(chunk, index):
            return
        following = chunk + size
        if cache and size <= self._max_fast:
            if not 2 * self._word < self._size(following) < self._state(_SYSTEM_MEM):
                _abort("free(): invalid next size (fast)")
            head = self._fast_head(size)
            old = self._get(head)
            if old == chunk:
                _abort("double free or corruption (fasttop)")
            link = chunk + self._header
            self._set(link, self._mask(link, old))
            self._set(head, chunk)
            self._set_state(_HAVE_FAST, 1)
            return
        self._check_free(chunk, size)
        size = self._join(chunk, size)
        if size >= _CONSOLIDATION_THRESHOLD:
            if self._state(_HAVE_FAST):
                self._consolidate()
            if self._size(self._state(_TOP)) >= self._state(_TRIM_LIMIT):
                self._trim()

    def _to_tcache(self, chunk: int, index: int) -> bool:
        mem = chunk + self._header
        if self._get(mem + self._word) == self._state(_KEY):
            entry = self._get(self._tcache_slots(index)[1])
            for _ in range(self._tcache_count(index)):
                if entry == mem:
                    _abort("free(): double free detected in tcache 2")
                entry = self._mask(entry, self._get(entry))
        if self._tcache_count(index) >= _TCACHE_COUNT:
            return False
        self._tcache_put(chunk, index)
        return True

    def _check_free(self, chunk: int, size: int) -> None:
        top = self._state(_TOP)
        if chunk == top:
            _abort("double free or corruption (top)")
        if chunk + size >= top + self._size(top):
            _abort("double free or corruption (out)")
        if not self._inuse(chunk):
            _abort("double free or corruption (!prev)")
        if not 2 * self._word < self._size(chunk + size) < self._state(_SYSTEM_MEM):
            _abort("free(): invalid next size (normal)")

    def _join(self, chunk: int, size: int) -> int:
        """Free a chunk for good: with free neighbours it becomes one, or part of the top. Return the size then."""
        following = chunk + size
        if not self._flags(chunk) & PREV_INUSE:
            before = self._get(chunk)
            if self._size(chunk - before) != before:
                _abort("corrupted size vs. prev_size while consolidating")
            chunk -= before
            size += before
            self._unlink(chunk)
        if following == self._state(_TOP):
            size += self._size(following)
            self._set_head(chunk, size | PREV_INUSE)
            self._set_state(_TOP, chunk)
            return size
        if self._inuse(following):
            self._set_prev_inuse(following, False)
        else:
            size += self._size(following)
            self._unlink(following)
        self._insert_after(self._bin(_UNSORTED), chunk)
        self._set_head(chunk, size | PREV_INUSE)
        self._set_foot(chunk, size)
        return size

    def _consolidate(self) -> None:
        """Free all chunks in fast bins for good."""
        self._set_state(_HAVE_FAST, 0)
        for number in range(_NFASTBINS):
            head = self._p.mm.malloc_state + (_FASTBINS + number) * self._word
            while self._get(head):
                chunk = self._fast_pop(head)
                self._join(chunk, self._size(chunk))

    def _trim(self) -> None:
        """Give the end of the top back to the kernel, all but some 128 KiB."""
        top = self._state(_TOP)
        size = self._size(top)
        spare = size - self._minsize - 1
        extra = (spare - _TOP_PAD) & -_PAGE
        if spare <= _TOP_PAD or extra <= 0 or self._p.sbrk(0) != top + size:
            return
        self._p.sbrk(-extra)
        self._set_state(_SYSTEM_MEM, self._state(_SYSTEM_MEM) - extra)
        self._set_head(top, (size - extra) | PREV_INUSE)

    # calloc, realloc

    def calloc(self, nmemb: int, size: int) -> int | None:
        """Allocate zeroed memory; None if there is none, or the product overflows. Never from the thread's cache."""
        total = nmemb * size
        if total >= 1 << 8 * self._word - 1 or not self._init():
            return None
        top = self._state(_TOP)
        top_size = self._size(top)
        mem = self._int_malloc(self._request2size(total))
        if mem is None:
            return None
        chunk = mem - self._header
        if self._flags(chunk) & IS_MMAPPED:
            return mem
        dirty = self._size(chunk) - self._word
        if chunk == top and self._size(chunk) > top_size:
            dirty = top_size - self._word  # what brk has just given is zero already
        self._p.write(mem, bytes(dirty))
        return mem

    def realloc(self, addr: int | None, size: int) -> int | None:
        """Change the size of an allocation; size 0 frees it. None, and the old one stays, if there is no memory."""
        if not addr:
            return self.malloc(size)
        if size == 0:
            self.free(addr)
            return None
        if size >= 1 << 8 * self._word - 1:
            return None
        chunk, nb = addr - self._header, self._request2size(size)
        if addr % _ALIGN or not self._p.mm.malloc_state:
            _abort("realloc(): invalid pointer")
        if self._flags(chunk) & IS_MMAPPED:
            return self._realloc_mapped(chunk, nb, size)
        return self._int_realloc(chunk, nb, size)

    def _move(self, chunk: int, size: int, usable: int) -> int | None:
        mem = self.malloc(size)
        if mem is not None:
            self._p.write(mem, self._p.read(chunk + self._header, min(size, usable)))
            self.free(chunk + self._header)
        return mem

    def _realloc_mapped(self, chunk: int, nb: int, size: int) -> int | None:
        shift, old = self._get(chunk), self._size(chunk)
        new = (nb + shift + self._word + _PAGE - 1) & -_PAGE
        if old + shift == new:
            return chunk + self._header
        try:
            addr = self._p.mremap(chunk - shift, old + shift, new, MREMAP_MAYMOVE)
        except OSError:
            if old - self._word >= nb:
                return chunk + self._header
            return self._move(chunk, size, old - self._header)
        self._set_head(addr + shift, (new - shift) | IS_MMAPPED)
        return addr + shift + self._header

    def _int_realloc(self, chunk: int, nb: int, size: int) -> int | None:
        old, following = self._size(chunk), chunk + self._size(chunk)
        if old < self._minsize or following > self._state(_TOP) + self._size(self._state(_TOP)):
            _abort("realloc(): invalid old size")
        if old < nb:
            behind = self._size(following)
            if following == self._state(_TOP) and old + behind >= nb + self._minsize:
                self._set_head(chunk, nb | self._flags(chunk))
                self._set_state(_TOP, chunk + nb)
                self._set_head(chunk + nb, (old + behind - nb) | PREV_INUSE)
                return chunk + self._header
            if following == self._state(_TOP) or self._inuse(following) or old + behind < nb:
                return self._move(chunk, size, old - self._word)
            self._unlink(following)
            old += behind
        if old - nb < self._minsize:
            self._set_head(chunk, old | self._flags(chunk))
            self._set_prev_inuse(chunk + old, True)
        else:
            self._set_head(chunk, nb | self._flags(chunk))
            self._set_head(chunk + nb, (old - nb) | PREV_INUSE)
            self._set_prev_inuse(chunk + old, True)
            self._int_free(chunk + nb)
        return chunk + self._header

    # Looking at it

    def malloc_usable_size(self, addr: int | None) -> int:
        """Return how many bytes of an allocation may be used; 0 for None."""
        if not addr:
            return 0
        chunk = addr - self._header
        size = self._size(chunk)
        return size - (self._header if self._flags(chunk) & IS_MMAPPED else self._word)

    def chunks(self) -> list[Chunk]:
        """Return all chunks of the heap, lowest first.

        Notes
        -----
        Complexity: O(chunks + lists). Chunks of the heap before memory that others took by sbrk() are left out.
        """
        mm = self._p.mm
        if not mm.malloc_state or not self._state(_TOP):
            return []
        waiting = self._waiting()
        top = self._state(_TOP)
        chunk = mm.start_brk + (-(mm.start_brk + self._header) % _ALIGN)
        found = []
        while chunk < top:
            size = self._size(chunk)
            if size < self._header:
                break
            state = waiting.get(chunk) or ("in use" if self._inuse(chunk) else "free")
            found.append(Chunk(chunk, chunk + self._header, size, state))
            chunk += size
        found.append(Chunk(top, top + self._header, self._size(top), "top"))
        return found

    def _waiting(self) -> dict[int, str]:
        """Chunks that look as if they were in use, but wait in the thread's cache or a fast bin."""
        waiting = {}
        for index in range(_TCACHE_BINS if self._state(_TCACHE) else 0):
            entry = self._get(self._tcache_slots(index)[1])
            while entry:
                waiting[entry - self._header] = "cached"
                entry = self._mask(entry, self._get(entry))
        for number in range(_NFASTBINS):
            chunk = self._get(self._p.mm.malloc_state + (_FASTBINS + number) * self._word)
            while chunk:
                waiting[chunk] = "fast"
                chunk = self._mask(chunk + self._header, self._get(chunk + self._header))
        return waiting

    def chunk_of(self, addr: int) -> Chunk | None:
        """Return the chunk that an address lies in; None if it is not the allocator's."""
        mm = self._p.mm
        if not mm.malloc_state:
            return None
        for chunk in self.chunks():
            if chunk.addr + self._word <= addr < chunk.addr + self._word + chunk.size:
                return chunk
        return self._mapped_chunk(addr)

    def _mapped_chunk(self, addr: int) -> Chunk | None:
        """A chunk with a mapping of its own: its header says so, and fits the area.

        Neighbouring mappings are one area: they are gone through from its start.
        """
        vma = self._p.mm.vma_lookup(addr)
        if vma is None or vma.vm_file is not None or not vma.vm_flags & 1:
            return None
        start = vma.vm_start
        while start <= addr:
            shift = -(start + self._header) % _ALIGN
            chunk = start + shift
            head = self._peek(chunk + self._word)
            size = head & ~_FLAGS
            whole = bool(size) and (size + shift) % _PAGE == 0 and chunk + size <= vma.vm_end
            if not head & IS_MMAPPED or not whole:
                start += _PAGE
            elif addr < chunk + size:
                return Chunk(chunk, chunk + self._header, size, "mapped")
            else:
                start = chunk + size
        return None

    def _peek(self, addr: int) -> int:
        """A word that is in memory, without touching it; 0 if it is not."""
        kernel = self._p.kernel
        phys = kernel.init_mm.of(self._p.mm.page_table.pgd).walk(addr).phys
        return 0 if phys is None else int.from_bytes(kernel.ram.view(phys, self._word), "little")

    def validate(self) -> None:
        """Check that the chunks of the heap join without gaps, and that every free chunk is in exactly one list.

        Raises
        ------
        HeapCorruption
            They do not.

        Notes
        -----
        Complexity: O(chunks).
        """
        chunks = self.chunks()
        free = {chunk.addr for chunk in chunks if chunk.state == "free"}
        listed = []
        for number in range(2 + _NSMALLBINS if chunks else 0):
            head = self._bin(number)
            entry = self._fd(head)
            while entry != head:
                listed.append(entry)
                entry = self._fd(entry)
        for one, other in pairwise(chunks):
            if one.addr + one.size != other.addr:
                _abort(f"chunk at {one.addr:#x} does not end where the next begins")
            if one.state == other.state == "free":
                _abort(f"free chunks at {one.addr:#x} and {other.addr:#x} were not joined")
        if len(listed) != len(set(listed)) or set(listed) != free:
            _abort("free chunks and the lists of free chunks differ")
