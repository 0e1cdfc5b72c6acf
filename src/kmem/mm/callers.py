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

import ctypes
import sys
from collections.abc import Iterable, Mapping
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, NamedTuple

__all__ = ["NOWHERE", "STACK_DEPTH", "Site", "caller", "caller_site", "python_values", "stack", "stack_sites"]

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


#: How deep, and how many, the values are followed that variables hold.
_VALUE_DEPTH: Final = 6
_VALUES_MAX: Final = 1 << 20


def python_values(frame: FrameType | None, word_bytes: int) -> set[int]:
    """Return all numbers that the Python code around `frame` holds on to: what could be addresses.

    The variables of the functions that run, and of the modules that they are
    from, are to Python code what stack and data section are to the kernel's.
    Containers, attributes of objects and the bytes of ctypes structures are
    followed; what belongs to this package or to a test runner is not.

    Parameters
    ----------
    frame : FrameType or None
        The innermost frame.
    word_bytes : int
        Size of an address; the bytes of a structure are cut into words of that size.

    Returns
    -------
    set of int

    Notes
    -----
    Linear in what the variables hold.
    """
    found: set[int] = set()
    seen: dict[int, Any] = {}
    frame = _outside(frame)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _RUNNERS:
            break
        _collect(frame.f_locals, found, seen, word_bytes)
        if frame.f_globals is not frame.f_locals:
            _collect(frame.f_globals, found, seen, word_bytes)
        frame = _outside(frame.f_back)
    return found


def _collect(start: Mapping[str, Any], found: set[int], seen: dict[int, Any], word_bytes: int) -> None:
    """Add the numbers that variables lead to."""
    level: list[Any] = [value for name, value in start.items() if not name.startswith("__")]
    for _ in range(_VALUE_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, int):
                found.add(int(value))
            elif id(value) not in seen and len(seen) < _VALUES_MAX:
                seen[id(value)] = value  # held, so that its id stays its own
                deeper.extend(_parts(value, found, word_bytes))
        level = deeper


def _parts(value: Any, found: set[int], word_bytes: int) -> Iterable[Any]:
    """Return what a value consists of; the words of raw bytes go to `found` at once."""
    if isinstance(value, (ctypes.Structure, ctypes.Union, ctypes.Array)):
        raw = bytes(value)
        found.update(int.from_bytes(raw[at : at + word_bytes], "little") for at in range(0, len(raw), word_bytes))
        return ()
    if isinstance(value, Mapping):
        return (*value.keys(), *value.values()) if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(value)
    if isinstance(value, (type, ModuleType)):
        return ()
    package = type(value).__module__.partition(".")[0]
    if package == _PACKAGE or package in _RUNNERS or package == "builtins":
        return ()
    attributes = getattr(value, "__dict__", None)
    return tuple(attributes.values()) if isinstance(attributes, dict) else ()
