# SPDX-License-Identifier: GPL-2.0-only
"""Scanner of ``/proc/kallsyms``: ``ADDRESS TYPE NAME [MODULE]`` lines."""

import cython
import numpy as np
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memchr


def scan_kallsyms(data: cython.const[cython.uchar][::1]):
    """Read the symbols of a kallsyms text.

    Symbols of per-CPU variables, which have no address, and the marks that ARM
    puts between code and data are left out, lines that are none of this sort too.

    Returns
    -------
    addresses : ndarray of uint64
        In the order of the text.
    offsets : ndarray of uint32
        Where in the text each name begins.
    """
    size: cython.Py_ssize_t = data.shape[0]
    # a line has at least 8 digits, two blanks, a type and a name
    room: cython.Py_ssize_t = size // 12 + 1
    addresses = np.empty(room, np.uint64)
    offsets = np.empty(room, np.uint32)
    if size == 0 or size > 0xFFFFFFFF:
        return addresses[:0], offsets[:0]
    into: uint64_t[::1] = addresses
    names: uint32_t[::1] = offsets
    begin: cython.pointer(cython.const[cython.uchar]) = cython.address(data[0])
    p: cython.pointer(cython.const[cython.uchar]) = begin
    end: cython.pointer(cython.const[cython.uchar]) = begin + size
    line_end: cython.pointer(cython.const[cython.uchar])
    count: cython.Py_ssize_t = 0
    value: uint64_t
    digits: cython.int
    c: cython.uint
    while p < end:
        line_end = cython.cast(cython.pointer(cython.const[cython.uchar]), memchr(p, 10, end - p))
        if line_end is cython.NULL:
            line_end = end
        value = 0
        digits = 0
        while p < line_end and digits < 16:
            c = p[0]
            if c >= 48 and c <= 57:
                c -= 48
            elif c >= 97 and c <= 102:
                c -= 87
            else:
                break
            value = (value << 4) | c
            digits += 1
            p += 1
        if digits >= 8 and line_end - p > 3 and p[0] == 32 and p[2] == 32:
            if p[1] != 65 and p[1] != 97 and p[3] != 36 and count < room:
                into[count] = value
                names[count] = cython.cast(uint32_t, p + 3 - begin)
                count += 1
        p = line_end + 1
    return addresses[:count].copy(), offsets[:count].copy()
