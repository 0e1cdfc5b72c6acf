# SPDX-License-Identifier: GPL-2.0-only
"""Scanner of ftrace text: the ``trace`` and ``trace_pipe`` files and ``trace-cmd report``.

A line is ``COMM-PID (TGID) [CPU] FLAGS SECONDS: EVENT: FIELDS``.  The thread
group and the flags may be absent; the command may hold blanks, dashes and
brackets, so the CPU is the first bracketed number that a time stamp follows.
"""

import cython
from cython.cimports.kmem.trace.scan_columns import EF_HARDIRQ, EF_IRQS_OFF, EF_SOFTIRQ, MAX_CPU, MAX_PID
from cython.cimports.kmem.trace.scan_text import (
    LineHeader,
    Text,
    TextScanner,
    parse_decimal,
    parse_time,
    skip_blanks,
    skip_word,
)
from cython.cimports.libc.stdint import uint16_t, uint64_t
from cython.cimports.libc.string import memchr


@cython.cfunc
@cython.exceptval(check=False)
def context_flags(p: Text, end: Text) -> uint16_t:
    """Interrupt state from the kernel's latency letters, such as ``d.s1.``."""
    flags: uint16_t = 0
    if end - p < 3:
        return 0
    if p[0] == 100 or p[0] == 68:  # d, D
        flags |= EF_IRQS_OFF
    if p[2] == 104 or p[2] == 72 or p[2] == 122 or p[2] == 90:  # h, H, z, Z
        flags |= EF_HARDIRQ
    if p[2] == 115 or p[2] == 72:  # s, and H: a hard interrupt during a soft one
        flags |= EF_SOFTIRQ
    return flags


@cython.cfunc
@cython.exceptval(check=False)
def read_task(p: Text, end: Text, found: cython.pointer(LineHeader)) -> cython.bint:
    """``COMM-PID`` with an optional ``(TGID)`` behind it."""
    number: uint64_t
    while end > p and (end - 1)[0] == 32:
        end -= 1
    if end > p and (end - 1)[0] == 41:
        while end > p and (end - 1)[0] != 40:
            end -= 1
        if end == p:
            return False
        end -= 1
        while end > p and (end - 1)[0] == 32:
            end -= 1
    digits: Text = end
    while digits > p and (digits - 1)[0] >= 48 and (digits - 1)[0] <= 57:
        digits -= 1
    if digits == p or (digits - 1)[0] != 45:
        return False
    if not parse_decimal(digits, end, cython.address(number)) or number > MAX_PID:
        return False
    found.pid = number
    found.comm = skip_blanks(p, digits - 1)
    found.comm_size = digits - 1 - found.comm
    return True


@cython.cclass
class FtraceScanner(TextScanner):
    """Scanner of ftrace's own text and of ``trace-cmd report``; see `TextScanner`."""

    @cython.cfunc
    @cython.exceptval(check=False)
    def header(self, p: Text, end: Text, found: cython.pointer(LineHeader)) -> cython.bint:
        """Read ``COMM-PID [CPU] FLAGS TIME:`` of ftrace; False if the line has no such head."""
        begin: Text = p
        bracket: Text
        word: Text
        cpu: uint64_t
        while True:
            bracket = cython.cast(Text, memchr(p, 91, end - p))
            if bracket is cython.NULL:
                return False
            p = bracket + 1
            word = p
            while p < end and p[0] >= 48 and p[0] <= 57:
                p += 1
            if p == end or p[0] != 93 or p == word or bracket == begin or (bracket - 1)[0] != 32:
                continue
            if not parse_decimal(word, p, cython.address(cpu)) or cpu > MAX_CPU:
                continue
            found.cpu = cpu
            found.flags = 0
            word = skip_blanks(p + 1, end)
            if word < end and (word[0] < 48 or word[0] > 57):
                p = skip_word(word, end)
                found.flags = context_flags(word, p)
                word = skip_blanks(p, end)
            p = skip_word(word, end)
            if (
                p > word
                and (p - 1)[0] == 58
                and parse_time(word, p - 1, cython.address(found.time_ns))
                and read_task(begin, bracket, found)
            ):
                break
            p = bracket + 1
        found.event = skip_blanks(p, end)
        return True
