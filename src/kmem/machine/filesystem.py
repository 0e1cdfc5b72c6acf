# SPDX-License-Identifier: GPL-2.0-only
"""The files of ``/proc`` and ``/sys`` that a live machine shows.

A path is looked up among the few directories that concern memory; what a file
prints is computed when it is read.  Everything is text, byte for byte as the
reference kernel prints it; debugging aids that are off have no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import UsageError
from kmem.machine.meminfo import view_meminfo
from kmem.machine.procfs import PROC_FILES, format_meminfo, format_proc
from kmem.machine.slab_traces import TRACE_FILES, slab_traces, traced_caches
from kmem.machine.sysfs import SlabSysfs
from kmem.machine.vmstat import format_vmstat, view_vmstat
from kmem.mm.alloc_tag import AllocTags
from kmem.mm.fault_inject import FaultAttr
from kmem.mm.page_owner import PageOwner

if TYPE_CHECKING:
    from kmem.machine.machine import Machine

__all__ = ["read_proc", "read_sys", "write_proc", "write_sys"]

_SLAB: Final = "kernel/slab"
_DEBUG: Final = "kernel/debug"
#: Files of a fault's directory, in the kernel's order, and the attributes behind them.
_FAULT_FILES: Final = {
    "probability": "probability",
    "interval": "interval",
    "times": "times",
    "space": "space",
    "verbose": "verbose",
    "task-filter": "task_filter",
    "ignore-gfp-wait": "ignore_gfp_wait",
    "cache-filter": "cache_filter",
    "ignore-gfp-highmem": "ignore_gfp_highmem",
    "min-order": "min_order",
}


def _clean(path: str, root: str) -> str:
    if not isinstance(path, str):
        raise UsageError(f"{path!r} is no path", remedy=f"give a text such as {root}slabinfo")
    return path.removeprefix(root).strip("/")


# /proc


def _self_files(machine: Machine) -> dict[str, tuple[Callable[[], str], Callable[[str], None]]]:
    task = machine.kernel.current
    return {
        "self/fail-nth": (lambda: f"{task.fail_nth}\n", lambda text: setattr(machine.faults, "fail_nth", _int(text))),
        "self/make-it-fail": (
            lambda: f"{int(task.make_it_fail)}\n",
            lambda text: setattr(task, "make_it_fail", _bit(text)),
        ),
    }


def _int(text: str) -> int:
    try:
        return int(text.strip(), 0)
    except ValueError:
        raise UsageError(f"{text!r} is no number", remedy="write a decimal number") from None


def _bit(text: str) -> bool:
    value = _int(text)
    if value not in (0, 1):
        raise UsageError(f"{value} is neither 0 nor 1")
    return bool(value)


def read_proc(machine: Any, name: str) -> str:
    """Return what a file of ``/proc`` shows.

    Raises
    ------
    UsageError
        There is no such file.
    """
    name = _clean(name, "/proc/")
    if name in PROC_FILES:
        return format_proc(name, machine.view())
    if name == "meminfo":
        return format_meminfo(view_meminfo(machine))
    if name == "vmallocinfo":
        return str(machine.vmallocinfo())
    if name == "vmstat":
        return format_vmstat(view_vmstat(machine))
    own = _self_files(machine)
    if name in own:
        return own[name][0]()
    tags = next((aid for aid in machine.kernel.aids if isinstance(aid, AllocTags)), None)
    if name == "allocinfo" and tags is not None:
        return tags.allocinfo()
    names = [*PROC_FILES, "meminfo", "vmallocinfo", "vmstat", *own, *(["allocinfo"] if tags else [])]
    raise UsageError(f"no /proc/{name}", remedy=f"there are {', '.join(sorted(names))}")


def write_proc(machine: Any, name: str, text: str) -> None:
    """Write to a file of ``/proc``.

    Raises
    ------
    UsageError
        There is no such file, it cannot be written to, or the kernel refuses the value.
    """
    name = _clean(name, "/proc/")
    own = _self_files(machine)
    if name not in own:
        read_proc(machine, name)
        raise UsageError(f"/proc/{name} is read-only")
    own[name][1](text)


# /sys


def _fault_files(attr: FaultAttr) -> Mapping[str, str]:
    return {file: name for file, name in _FAULT_FILES.items() if name in attr.limits}


def _debug_directories(machine: Any) -> dict[str, FaultAttr]:
    faults = machine.kernel.faults
    return {} if faults is None else {"failslab": faults.failslab, "fail_page_alloc": faults.fail_page_alloc}


def _debug_files(machine: Any) -> dict[str, Callable[[], str]]:
    files: dict[str, Callable[[], str]] = {}
    if machine.kernel.leaks is not None:
        files["kmemleak"] = machine.kernel.leaks.read
    watch = machine.kernel.page_alloc.watch
    if watch is not None and isinstance(watch.owner, PageOwner):
        files["page_owner"] = watch.owner.read
    return files


def _listing(names: Any) -> str:
    return "".join(f"{name}\n" for name in sorted(names))


def _read_fault(attr: FaultAttr, file: str) -> str:
    value = getattr(attr, _fault_files(attr)[file])
    return ("Y\n" if value else "N\n") if isinstance(value, bool) else f"{value}\n"


def _read_debug(machine: Any, path: str) -> str:
    """Read below ``/sys/kernel/debug``.

    Source: lib/fault-inject.c:fault_create_debugfs_attr @6.1.192
    """
    directories, files = _debug_directories(machine), _debug_files(machine)
    traced = traced_caches(machine)
    name, _, file = path.partition("/")
    if not name:
        return _listing([*directories, *files, *(["slab"] if traced else [])])
    if name == "slab" and traced:
        return _read_traces(machine, traced, file)
    if name in files and not file:
        return files[name]()
    if name in directories:
        if not file:
            return _listing(_fault_files(directories[name]))
        if file in _fault_files(directories[name]):
            return _read_fault(directories[name], file)
    there = (
        ", ".join(sorted([*directories, *files, *(["slab"] if traced else [])]))
        or "nothing: all debugging aids are off"
    )
    raise UsageError(f"no /sys/{_DEBUG}/{path}", remedy=f"there is {there}")


def _read_traces(machine: Any, traced: Mapping[str, int], path: str) -> str:
    """Read below ``/sys/kernel/debug/slab``."""
    if not path:
        return _listing(traced)
    cache, _, file = path.partition("/")
    if cache in traced and not file:
        return _listing(TRACE_FILES)
    if cache in traced and file in TRACE_FILES:
        return slab_traces(machine, traced[cache], TRACE_FILES[file])
    raise UsageError(f"no /sys/{_DEBUG}/slab/{path}", remedy="it has the caches with SLAB_STORE_USER (slub_debug=U)")


def _write_debug(machine: Any, path: str, text: str) -> None:
    name, _, file = path.partition("/")
    if name == "kmemleak" and machine.kernel.leaks is not None:
        try:
            machine.kernel.leaks.write(text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        return
    _read_debug(machine, path)
    attr = _debug_directories(machine).get(name)
    if attr is None or file not in _fault_files(attr):
        raise UsageError(f"/sys/{_DEBUG}/{path} is read-only")
    field = _fault_files(attr)[file]
    if isinstance(getattr(attr, field), bool):
        if text.strip()[:1] not in tuple("yYtT1nNfF0"):
            raise UsageError(f"{text!r} is neither yes nor no", remedy="write Y or N")
        setattr(attr, field, text.strip()[:1] in tuple("yYtT1"))
    else:
        setattr(attr, field, _int(text))


def read_sys(machine: Any, path: str) -> str:
    """Return what a file of ``/sys`` shows, or the names in a directory.

    Raises
    ------
    UsageError
        There is no such file.
    """
    path = _clean(path, "/sys/")
    if path in ("", "kernel"):
        return "kernel\n" if not path else "debug\nslab\n"
    if path == _SLAB:
        return _listing(SlabSysfs(machine).listdir())
    if path.startswith(_SLAB + "/"):
        cache, _, file = path.removeprefix(_SLAB + "/").partition("/")
        directory = SlabSysfs(machine).directory(cache)
        return directory.read(file) if file else _listing(directory.files())
    if path == _DEBUG or path.startswith(_DEBUG + "/"):
        return _read_debug(machine, path.removeprefix(_DEBUG).strip("/"))
    raise UsageError(f"no /sys/{path}", remedy=f"there are {_SLAB} and {_DEBUG}")


def write_sys(machine: Any, path: str, text: str) -> None:
    """Write to a file of ``/sys``.

    Raises
    ------
    UsageError
        There is no such file, it cannot be written to, or the kernel refuses the value.
    """
    path = _clean(path, "/sys/")
    if path.startswith(_SLAB + "/"):
        cache, _, file = path.removeprefix(_SLAB + "/").partition("/")
        SlabSysfs(machine).directory(cache).write(file, text)
    elif path.startswith(_DEBUG + "/"):
        _write_debug(machine, path.removeprefix(_DEBUG + "/"), text)
    else:
        read_sys(machine, path)
        raise UsageError(f"/sys/{path} is read-only")
