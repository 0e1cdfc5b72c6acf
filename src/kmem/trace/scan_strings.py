# SPDX-License-Identifier: GPL-2.0-only
"""Interning of byte slices into small integer codes, for the trace scanners.

A trace repeats a few thousand strings (commands, cache names, call sites, GFP
texts) millions of times.  :class:`StringTable` turns a slice of the input
buffer into a code without making a Python object: hash eight bytes at a time,
look in an open-addressing table, compare.  The strings are decoded only when
somebody asks for them.
"""

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc, realloc
from cython.cimports.libc.string import memcmp, memcpy

# As C variables: literals of this size would be Python objects.
SEED = cython.declare(uint64_t, 0x1E3779B97F4A7C15)
MIX = cython.declare(uint64_t, 0x2545F4914F6CDD1D)
FINISH = cython.declare(uint64_t, 0x4CF5AD432745937F)
NOT_A_STRING = cython.declare(uint32_t, 0xFFFFFFFF)
LIMIT = 1 << 18


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
@cython.overflowcheck(False)  # the multiplication is meant to wrap
def hash_bytes(text: cython.pointer(cython.const[cython.uchar]), size: cython.size_t) -> uint64_t:
    """A 64-bit hash of a byte slice."""
    h: uint64_t = SEED ^ size
    word: uint64_t = 0
    i: cython.size_t = 0
    while i + 8 <= size:
        memcpy(cython.address(word), text + i, 8)
        h = (h ^ word) * MIX
        h ^= h >> 29
        i += 8
    word = 0
    while i < size:
        word = (word << 8) | text[i]
        i += 1
    h = (h ^ word) * FINISH
    return h ^ (h >> 32)


@cython.cclass
class StringTable:
    """Strings by code, in the order in which they were first seen.

    Code 0 is the empty string, which stands for "the line does not say".  At
    most `limit` strings are kept, so that damaged or hostile input cannot
    grow the table without bound; later ones all get the code of ``<other>``.

    Parameters
    ----------
    text : bool
        True if blanks and bytes above 0x7f are part of such strings
        (commands); False for symbols, cache names and flags.
    limit : int
        Number of strings kept, at least 2.

    Raises
    ------
    MemoryError
        The tables cannot be allocated.

    Notes
    -----
    ``intern`` is O(length) and allocates only for a new string.  Codes never
    change, whatever the chunking of the input.
    """

    def __cinit__(self, text: bool = False, limit: int = LIMIT):
        self.kind = KEEP_TEXT if text else KEEP_NAMES
        self.limit = max(limit, 2)
        self.room = 256
        self.arena_room = 8192
        self.mask = 1023
        self.arena = cython.cast(cython.p_uchar, malloc(self.arena_room))
        self.offsets = cython.cast(cython.pointer(uint64_t), malloc((self.room + 1) * 8))
        self.hashes = cython.cast(cython.pointer(uint64_t), malloc(self.room * 8))
        self.slots = cython.cast(cython.pointer(uint32_t), calloc(self.mask + 1, 4))
        if self.arena is cython.NULL or self.offsets is cython.NULL:
            raise MemoryError
        if self.hashes is cython.NULL or self.slots is cython.NULL:
            raise MemoryError
        self.arena_size = 0
        self.count = 0
        self.offsets[0] = 0
        self.intern(cython.NULL, 0)

    def __dealloc__(self):
        free(self.arena)
        free(self.offsets)
        free(self.hashes)
        free(self.slots)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, code: int) -> str:
        if not 0 <= code < self.count:
            raise IndexError(code)
        start: cython.size_t = self.offsets[code]
        size: cython.size_t = self.offsets[code + 1] - start
        raw: bytes = (self.arena + start)[:size]
        return raw.decode("utf-8", "backslashreplace")

    def strings(self, start: int = 0) -> list[str]:
        """Return the strings from code `start` on, in code order."""
        return [self[code] for code in range(start, len(self))]

    def code(self, string: str) -> int:
        """Return the code of `string`, interning it if it is new.

        Raises
        ------
        ValueError
            The string has characters that a trace of this kind cannot hold.
        """
        raw: bytes = string.encode()
        result: uint32_t = self.intern(raw, len(raw))
        if result == NOT_A_STRING:
            raise ValueError(f"{string!r} cannot stand in a trace")
        return result

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def intern(self, text: cython.pointer(cython.const[cython.uchar]), size: cython.size_t) -> uint32_t:
        """The code of a string, new if it has not been seen; cleaned by the table's kind."""
        if size > LONGEST:
            return NOT_A_STRING
        value: uint64_t = hash_bytes(text, size)
        at: uint64_t = value & self.mask
        code: uint32_t
        start: uint64_t
        while self.slots[at] != 0:
            code = self.slots[at] - 1
            if self.hashes[code] == value:
                start = self.offsets[code]
                if self.offsets[code + 1] - start == size and (
                    size == 0 or memcmp(self.arena + start, text, size) == 0
                ):
                    return code
            at = (at + 1) & self.mask
        return self.add(text, size, value)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(0xFFFFFFFE, check=True)
    def add(self, text: cython.pointer(cython.const[cython.uchar]), size: cython.size_t, value: uint64_t) -> uint32_t:
        """Append a new string of known hash and return its code."""
        i: cython.size_t
        lowest: cython.uchar = 0x20 if self.kind == KEEP_TEXT else 0x21
        for i in range(size):
            if text[i] < lowest or text[i] == 0x7F or (text[i] > 0x7F and self.kind == KEEP_NAMES):
                return NOT_A_STRING
        if self.count >= self.limit - 1 and not (size == 7 and memcmp(text, b"<other>", 7) == 0):
            return self.intern(b"<other>", 7)
        if self.count == self.room or self.arena_size + size > self.arena_room:
            with cython.gil:
                self.grow()
        code: uint32_t = self.count
        if size:
            memcpy(self.arena + self.arena_size, text, size)
        self.arena_size += size
        self.offsets[code + 1] = self.arena_size
        self.hashes[code] = value
        self.count += 1
        at: uint64_t = value & self.mask
        while self.slots[at] != 0:
            at = (at + 1) & self.mask
        self.slots[at] = code + 1
        return code

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def grow(self) -> cython.int:
        """Double the tables; the slots stay at most a quarter full."""
        room: uint32_t = self.room * 2
        arena: cython.p_uchar = cython.cast(cython.p_uchar, realloc(self.arena, self.arena_room * 2 + LONGEST))
        if arena is cython.NULL:
            raise MemoryError
        self.arena = arena
        self.arena_room = self.arena_room * 2 + LONGEST
        if self.count < self.room:
            return 0
        words: cython.pointer(uint64_t)
        words = cython.cast(cython.pointer(uint64_t), realloc(self.offsets, (cython.cast(cython.size_t, room) + 1) * 8))
        if words is cython.NULL:
            raise MemoryError
        self.offsets = words
        words = cython.cast(cython.pointer(uint64_t), realloc(self.hashes, cython.cast(cython.size_t, room) * 8))
        if words is cython.NULL:
            raise MemoryError
        self.hashes = words
        slots: cython.pointer(uint32_t) = cython.cast(cython.pointer(uint32_t), calloc((self.mask + 1) * 2, 4))
        if slots is cython.NULL:
            raise MemoryError
        free(self.slots)
        self.slots = slots
        self.room = room
        self.mask = self.mask * 2 + 1
        code: uint32_t
        at: uint64_t
        for code in range(self.count):
            at = self.hashes[code] & self.mask
            while self.slots[at] != 0:
                at = (at + 1) & self.mask
            self.slots[at] = code + 1
        return 0
