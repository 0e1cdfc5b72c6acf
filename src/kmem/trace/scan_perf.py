# SPDX-License-Identifier: GPL-2.0-only
"""Scanner of ``perf script`` text.

A line is ``COMM PID[/TID] [CPU] SECONDS: PERIOD SYSTEM:EVENT: FIELDS``; the CPU
and the period may be absent.  Call chains follow their event as indented lines
and are passed over.
"""

import cython
from cython.cimports.kmem.trace.scan_columns import MAX_CPU, MAX_PID
from cython.cimports.kmem.trace.scan_text import (
    LineHeader,
    Text,
    TextScanner,
    parse_decimal,
    parse_time,
    skip_blanks,
    skip_word,
)
from cython.cimports.libc.stdint import uint64_t


@cython.cfunc
@cython.exceptval(check=False)
def read_task(p: Text, end: Text, found: cython.pointer(LineHeader)) -> cython.bint:
    """``COMM PID`` or ``COMM PID/TID``: the thread is what ftrace calls the pid."""
    number: uint64_t
    word: Text
    while end > p and (end - 1)[0] == 32:
        end -= 1
    word = end
    while word > p and (word - 1)[0] >= 48 and (word - 1)[0] <= 57:
        word -= 1
    if not parse_decimal(word, end, cython.address(number)) or number > MAX_PID:
        if end - p < 3 or (end - 1)[0] != 49 or (end - 2)[0] != 45 or (end - 3)[0] != 32:
            return False
        number = 0  # perf's -1: no task known
        word = end - 2
    found.pid = number
    if word > p and (word - 1)[0] == 47:
        word -= 1
        while word > p and (word - 1)[0] >= 48 and (word - 1)[0] <= 57:
            word -= 1
    if word == p or (word - 1)[0] != 32:
        return False
    end = word
    while end > p and (end - 1)[0] == 32:
        end -= 1
    found.comm = skip_blanks(p, end)
    found.comm_size = end - found.comm
    return True


@cython.cfunc
@cython.exceptval(check=False)
def read_cpu(p: Text, end: Text, found: cython.pointer(LineHeader)) -> cython.bint:
    """A word that is ``[CPU]``."""
    number: uint64_t
    if end - p < 3 or p[0] != 91 or (end - 1)[0] != 93:
        return False
    if not parse_decimal(p + 1, end - 1, cython.address(number)) or number > MAX_CPU:
        return False
    found.cpu = number
    return True


@cython.cclass
class PerfScanner(TextScanner):
    """Scanner of ``perf script`` text; see `TextScanner`."""

    @cython.cfunc
    @cython.exceptval(check=False)
    def header(self, p: Text, end: Text, found: cython.pointer(LineHeader)) -> cython.bint:
        """Read ``COMM PID [CPU] TIME:`` of perf script; False if the line has no such head."""
        begin: Text = p
        word: Text
        task_end: Text = p
        period: uint64_t
        found.cpu = 0
        found.flags = 0
        # The first word that is a time stamp; the CPU is the word before it.
        while True:
            word = skip_blanks(p, end)
            if word == end:
                return False
            p = skip_word(word, end)
            if (p - 1)[0] == 58 and word > begin and parse_time(word, p - 1, cython.address(found.time_ns)):
                if read_task(begin, task_end, found):
                    break
            if not read_cpu(word, p, found):
                task_end = p
        word = skip_blanks(p, end)
        p = skip_word(word, end)
        if parse_decimal(word, p, cython.address(period)):
            word = skip_blanks(p, end)
        found.event = word
        return True
