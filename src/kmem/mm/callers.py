# SPDX-License-Identifier: GPL-2.0-only
"""Who called: the Python frames above a call into the model.

The kernel's debugging aids name the code that asked for memory by return
addresses.  Here that code is Python, so a place is a function, a file and a
line, and a stack is what of Python's own stack lies outside this package.
Compiled functions have no Python frame and never show.

A stack is cut at :data:`STACK_DEPTH` places, as the kernel's tracks are, and
where the code was itself started by a module or by a test runner: what lies
below is the same for all code, and is nobody's allocation site.

Source: mm/slub.c:set_track_prepare, kernel/stacktrace.c:stack_trace_save @6.1.192
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Final, NamedTuple

__all__ = ["NOWHERE", "STACK_DEPTH", "Site", "caller", "caller_site", "stack", "stack_sites"]

#: How many places a stack holds at most (TRACK_ADDRS_COUNT).
STACK_DEPTH: Final = 16

_PACKAGE: Final = __name__.partition(".")[0]
_PREFIX: Final = _PACKAGE + "."
#: Packages that start other people's code; a stack ends above them.
_RUNNERS: Final = frozenset({"IPython", "_pytest", "code", "doctest", "importlib", "pluggy", "runpy", "threading"})


class Site(NamedTuple):
    """One place in Python code.

    Attributes
    ----------
    function : str
        Qualified name of the function, ``<module>`` for code of a module.
    file : str
        Name of the file, without folders.
    line : int
        Line number, counted from 1.
    """

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


#: The place of a call that no Python code made.
NOWHERE: Final = Site("kmem", "-", 0)

# Frames repeat; their descriptions need not be made again. Code objects are kept alive by the key.
_known: dict[tuple[CodeType, int], Site] = {}
_KNOWN_MAX: Final = 1 << 16


def _site(frame: FrameType) -> Site:
    key = (frame.f_code, frame.f_lineno)
    site = _known.get(key)
    if site is None:
        code = frame.f_code
        site = Site(code.co_qualname, code.co_filename.rpartition("/")[2], frame.f_lineno)
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        _known[key] = site
    return site


def _outside(frame: FrameType | None) -> FrameType | None:
    """Return the first frame, from `frame` on, that does not belong to this package."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != _PACKAGE and not name.startswith(_PREFIX):
            return frame
        frame = frame.f_back
    return None


def caller_site() -> Site:
    """Return the place of the call that entered this package; :data:`NOWHERE` if there is none.

    May be called in any context. Linear in the frames inside the package, which are few.
    """
    frame = _outside(sys._getframe(1))
    return NOWHERE if frame is None else _site(frame)


def caller() -> str:
    """Return the place of the call that entered this package as ``fn (file.py:LINE)``."""
    return str(caller_site())


def stack_sites(depth: int = STACK_DEPTH) -> tuple[Site, ...]:
    """Return the places above the call, innermost first, without those inside this package.

    Parameters
    ----------
    depth : int, optional
        How many at most.

    Returns
    -------
    tuple of Site
        Hashable, so that equal stacks can be counted; empty if no Python code called.
    """
    sites: list[Site] = []
    frame = _outside(sys._getframe(1))
    while frame is not None and len(sites) < depth:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _RUNNERS:
            break
        site = _site(frame)
        sites.append(site)
        if site.function == "<module>":
            break
        frame = _outside(frame.f_back)
    return tuple(sites)


def stack(depth: int = STACK_DEPTH) -> list[str]:
    """Return the places above the call as lines ``fn (file.py:LINE)``, innermost first."""
    return [str(site) for site in stack_sites(depth)]
