# SPDX-License-Identifier: GPL-2.0-only
"""Finding recordings, and telling what kind each is.

A recording is told by what is in it, not by its name: the operations that
occur say what was recorded.  The only thing that a name decides is which files
of a folder are looked at: ``*.jsonl.gz`` (also ``.jsonl`` and ``.jsonl.zst``)
and ``kmalloc.csv``; all others are context of the recordings beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kmem.errors import InputError, NotSupportedError
from kmem.machine.records import UNREADABLE, open_recording
from kmem.verify.messages import messages_beside, read_messages
from kmem.verify.result import BehaviourOnlyError

__all__ = ["SUPPORTED", "find_recordings", "kind_of"]

#: The kinds that can be verified.
SUPPORTED = ("pages", "slab", "geometry", "zones", "vmalloc", "mempool", "poison", "reports", "reports-oops")

_CSV_HEADER = b"type,gfp,size_from,size_to,ksize"
_TAGS = re.compile(rb'"(op|t)":\s*"([^"\n]{1,40})"')
_DUMP_NAME = re.compile(rb'"t":\s*"dump",\s*"name":\s*"([^"\n]*)"')
_CHUNK = 1 << 20
_OVERLAP = 256

# Operations that give a kind away, rarest first: the first row that applies decides.
_MARKS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"K!", "KX"}), "reports"),
    (frozenset({"P", "Pf", "Px", "E", "Ex"}), "logs"),
    (frozenset({"p", "q", "Q", "R", "y"}), "mempool"),
    (frozenset({"v", "V", "B"}), "vmalloc"),
    (frozenset({"h", "w"}), "poison"),
    (frozenset({"z"}), "geometry"),
    (frozenset({"k", "K"}), "slab"),
)
# States around a trace or a failure: what happened in between is not in the file.
_STATES = frozenset({"logs", "traces-exact"})
_IGNORED = frozenset({"L", "U", "skip", "drain", "r", "s"})
# What a script that provoked reports looks like, if it did not free wrongly.
_WITH_REPORTS = ("reports", "poison", "slab", "geometry", "pages")
_REPORT = re.compile(
    r"ORACLE-MARK.*?^(?:<\d>)?\[ *[\d.]+\] (?:BUG |WARNING: |kernel BUG |Oops|general prot)", re.MULTILINE | re.DOTALL
)
_ZONE_RECORDS = frozenset({"dump", "node", "zone", "pcp", "globals"})
# Dumps that a probe took while the kernel was reporting a failure.
_FAILURE_DUMPS = frozenset({"before_request", "warn_alloc", "slab_out_of_memory", "oom_kill_process", "out_of_memory"})


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """Return the recordings among files and below folders, in a stable order.

    Parameters
    ----------
    paths : iterable of Path
        Files are taken as they are; folders are searched.

    Raises
    ------
    InputError
        A path does not exist, or a folder holds no recording.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _is_candidate(file))
            if not inside:
                raise InputError("no recording in this folder", file=path, remedy="recordings are *.jsonl.gz files")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError("no such file or folder", file=path)
    return list(dict.fromkeys(found))


def _is_candidate(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")) or path.name == "kmalloc.csv"


def _chunks(path: Path) -> Iterator[bytes]:
    with open_recording(path) as stream:
        try:
            while chunk := stream.read(_CHUNK):
                yield chunk
        except UNREADABLE as error:
            raise InputError(
                f"compressed data is damaged or cut off ({error})", file=path, remedy="fetch the recording again"
            ) from None


def _tags(path: Path) -> tuple[set[str], set[str], set[str], bytes]:
    """Operations, record types, names of the dumps, and the first bytes of a recording."""
    operations: set[str] = set()
    types: set[str] = set()
    dumps: set[str] = set()
    head = tail = b""
    for chunk in _chunks(path):
        head = head or chunk[:4096]
        text = tail + chunk
        for key, value in set(_TAGS.findall(text)):
            (operations if key == b"op" else types).add(value.decode("ascii", "replace"))
        dumps |= {name.decode("ascii", "replace") for name in _DUMP_NAME.findall(text)}
        tail = text[-_OVERLAP:]
    return operations, types, dumps, head


def kind_of(path: Path) -> str:
    """Tell what kind of recording a file is, from its content.

    Parameters
    ----------
    path : Path
        The file, plain or compressed with gzip or zstd.

    Returns
    -------
    str
        One of :data:`SUPPORTED`.

    Raises
    ------
    InputError
        The file is damaged, empty, or no recording of a known kind.
    NotSupportedError
        It is a recording of a kind that cannot be verified yet.
    """
    operations, types, dumps, head = _tags(path)
    if head.startswith(_CSV_HEADER):
        return "geometry"
    if not head:
        raise InputError("the file is empty", file=path)
    if not head.lstrip().startswith(b"{"):
        if b"ORACLE-MARK" in head or re.search(rb"^\[ *\d+\.\d+\]", head, re.MULTILINE):
            raise NotSupportedError(
                "kernel messages cannot be verified by themselves",
                file=path,
                remedy="give the recording that they belong to (NAME.jsonl.gz beside NAME.dmesg.txt)",
            )
        raise InputError("not a recording", file=path, line=1, remedy="recordings hold one JSON object a line")
    kind = _kind(operations, types, dumps)
    if kind in _WITH_REPORTS and not {"zone", "cache"} & types:
        kind = _kind_by_messages(path, kind, types)
    if kind is None and not operations - _IGNORED and "dump" in types:
        raise BehaviourOnlyError(
            "a state dump without operations: there is nothing to repeat",
            file=path,
            remedy="kmem replay --machine starts from one",
        )
    if kind is None:
        seen = ", ".join(sorted(operations | types)[:8]) or "none"
        raise InputError(
            f"unknown kind of recording (operations and records: {seen})",
            file=path,
            remedy="known are " + ", ".join(SUPPORTED),
        )
    if kind in _STATES:
        raise BehaviourOnlyError(f"{kind} recordings are not supported", file=path)
    if kind not in SUPPORTED:
        raise NotSupportedError(f"{kind} recordings are not supported", file=path)
    return kind


def _kind_by_messages(path: Path, kind: str, types: set[str]) -> str:
    """Tell recordings of reports by the kernel's messages beside them; a kernel that died wrote no end."""
    messages = messages_beside(path)
    if messages is None:
        return kind
    if messages.name.startswith("report.dmesg.txt"):
        return "reports-oops"
    if not _REPORT.search(read_messages(messages)):
        return kind
    return "reports" if "end" in types else "reports-oops"


def _kind(operations: set[str], types: set[str], dumps: set[str]) -> str | None:
    if dumps & _FAILURE_DUMPS:
        return "logs"
    for marks, kind in _MARKS:
        if operations & marks:
            return kind
    if types & {"vmap", "vpurge"}:
        # Areas of the address space beside zones and caches: the full state around a trace, or vmalloc alone.
        return "traces-exact" if "cache" in types else "vmalloc"
    rest = operations - _IGNORED
    if rest & {"m", "M"}:
        return "slab" if "dump" in types else "geometry"
    if rest & {"a", "f"}:
        return "pages"
    if rest and rest <= {"c", "x"}:
        return "geometry"
    if not rest and _ZONE_RECORDS <= types and all(name in ("default", "restored") or "=" in name for name in dumps):
        return "zones"
    return None
