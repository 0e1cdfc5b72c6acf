# SPDX-License-Identifier: GPL-2.0-only
"""Format files of tracepoints: where each field lies in a binary event.

A recording carries the ``format`` file of every event that it may hold.  What
the scanners take out of an event is looked up there by the field's name, so
that it does not matter which kernel wrote it, on how many bits and in which
order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kmem.trace.events import Event
from kmem.trace.print_format import PrintFormat, Unknown

__all__ = ["KMEM_EVENTS", "EventFormat", "FieldFormat", "event_plan", "parse_event_format", "parse_fields"]

_FIELD = re.compile(r"^\s*field:(.*?);\s*offset:(\d+);\s*size:(\d+);(?:\s*signed:(\d+);)?", re.MULTILINE)
_LARGEST_FIELD = 65536

#: The events of the table by the name of their tracepoint.
KMEM_EVENTS: dict[str, Event] = {event.name.lower(): event for event in Event if event is not Event.LOST}


@dataclass(frozen=True, slots=True)
class FieldFormat:
    """A field of a binary record.

    Attributes
    ----------
    name, type : str
        ``type`` is the C declaration without the name.
    offset, size : int
        Bytes; `size` is 0 for arrays of no fixed length.
    signed : bool
    """

    name: str
    type: str
    offset: int
    size: int
    signed: bool


@dataclass(frozen=True, slots=True)
class EventFormat:
    """The format of a tracepoint.

    Attributes
    ----------
    name, system : str
        As in ``kmem:kmalloc``: name ``kmalloc``, system ``kmem``.
    id : int
        The number that stands in each event's ``common_type``.
    fields : dict of str to FieldFormat
    print_format : PrintFormat
    """

    name: str
    system: str
    id: int
    fields: dict[str, FieldFormat] = field(repr=False)
    print_format: PrintFormat = field(repr=False)

    @property
    def full_name(self) -> str:
        """``system:name``, or the name alone for the kmem system, as texts have it."""
        return self.name if self.system in ("", "kmem") else f"{self.system}:{self.name}"


def parse_fields(text: str, most_bytes: int = _LARGEST_FIELD) -> dict[str, FieldFormat]:
    """Read the ``field:`` lines of a format, header_page or header_event file; longer fields are left out."""
    fields: dict[str, FieldFormat] = {}
    for declaration, offset, size, signed in _FIELD.findall(text):
        declared = re.match(r"(.*?)\s*\**([A-Za-z_]\w*)\s*(\[[^\]]*\])?\s*$", declaration.strip())
        if not declared or len(offset) > 6 or len(size) > 8 or int(size) > most_bytes:
            continue
        name = declared[2]
        kind = declaration.strip()[: declared.start(2)].strip() + (declared[3] or "")
        fields[name] = FieldFormat(name, kind, int(offset), int(size), signed == "1")
    return fields


def parse_event_format(text: str, system: str = "") -> EventFormat | None:
    """Read the format file of an event.

    Parameters
    ----------
    text : str
        The file.
    system : str
        The group that the event belongs to.

    Returns
    -------
    EventFormat or None
        None if it has no name or no usable number.
    """
    name = re.search(r"^name: (\S+)", text, re.MULTILINE)
    number = re.search(r"^ID: (\d{1,5})\s*$", text, re.MULTILINE)
    if not name or not number or int(number[1]) > 0xFFFF:
        return None
    printed = re.search(r"^print fmt: (.*)", text, re.MULTILINE | re.DOTALL)
    return EventFormat(
        name[1], system, int(number[1]), parse_fields(text), PrintFormat(printed[1].strip() if printed else "")
    )


_FIELDS_OF: dict[str, tuple[str, ...]] = {
    # what the table holds, and the names that kernels have given it
    "ptr": ("ptr",),
    "pfn": ("pfn",),
    "call_site": ("call_site",),
    "bytes_req": ("bytes_req",),
    "bytes_alloc": ("bytes_alloc",),
    "gfp_flags": ("gfp_flags",),
    "node": ("node",),
    "order": ("order", "alloc_order"),
    "migratetype": ("migratetype", "alloc_migratetype"),
    "fallback_order": ("fallback_order",),
    "fallback_migratetype": ("fallback_migratetype",),
    "change_ownership": ("change_ownership",),
    "percpu_refill": ("percpu_refill",),
    "accounted": ("accounted",),
    "name": ("name",),
    "pid": ("common_pid",),
}
_REQUIRED: dict[Event, tuple[str, ...]] = {
    **dict.fromkeys(
        (Event.KMALLOC, Event.KMALLOC_NODE, Event.KMEM_CACHE_ALLOC, Event.KMEM_CACHE_ALLOC_NODE),
        ("ptr", "bytes_req", "bytes_alloc", "gfp_flags"),
    ),
    Event.KFREE: ("ptr",),
    Event.KMEM_CACHE_FREE: ("ptr",),
    Event.MM_PAGE_ALLOC: ("pfn", "order", "migratetype", "gfp_flags"),
    Event.MM_PAGE_FREE: ("pfn", "order"),
    Event.MM_PAGE_FREE_BATCHED: ("pfn",),
    Event.MM_PAGE_ALLOC_ZONE_LOCKED: ("pfn", "order", "migratetype"),
    Event.MM_PAGE_PCPU_DRAIN: ("pfn", "order", "migratetype"),
    Event.MM_PAGE_ALLOC_EXTFRAG: ("pfn", "order", "migratetype", "fallback_order"),
}
_SCALARS = (1, 2, 4, 8)
_NAME_KINDS = {"data_loc": 1, "rel_loc": 2, "array": 3}


def event_plan(format: EventFormat) -> dict[str, object]:
    """Work out what a scanner needs to know to decode an event of the kmem system.

    Returns
    -------
    dict
        ``event`` (code), ``fields`` (name -> (offset, size, signed)),
        ``name_kind`` and the two facts that only the print format knows:
        ``fragmenting_below`` (the order under which a fallback counts as
        fragmenting; 0 if unknown) and ``refill_orders`` (bit per order for
        which ``percpu_refill`` is printed as true, where it is no field).
        ``missing`` names the fields without which the event cannot be used.
    """
    event = KMEM_EVENTS[format.name]
    fields: dict[str, tuple[int, int, bool]] = {}
    name_kind = 0
    for column, names in _FIELDS_OF.items():
        found = next((format.fields[name] for name in names if name in format.fields), None)
        if found is None:
            continue
        if column == "name":
            name_kind = _name_kind(found)
            if name_kind:
                fields[column] = (found.offset, found.size, False)
        elif found.size in _SCALARS:
            fields[column] = (found.offset, found.size, found.signed)
    missing = tuple(name for name in _REQUIRED[event] if name not in fields)
    return {
        "event": int(event),
        "fields": fields,
        "name_kind": name_kind,
        "missing": missing,
        "fragmenting_below": _fragmenting_below(format) if event is Event.MM_PAGE_ALLOC_EXTFRAG else 0,
        "refill_orders": 0 if "percpu_refill" in fields else _orders(format, "percpu_refill"),
        "failing_pfn": "pfn" in fields and _prints_null_page(format),
    }


def _name_kind(found: FieldFormat) -> int:
    if found.type.startswith("__data_loc") and found.size == 4:
        return _NAME_KINDS["data_loc"]
    if found.type.startswith("__rel_loc") and found.size == 4:
        return _NAME_KINDS["rel_loc"]
    if "char" in found.type and found.type.endswith("]"):
        return _NAME_KINDS["array"]
    return 0


def _orders(format: EventFormat, key: str) -> int:
    """Orders, as a bit mask, for which `key` is printed as true."""
    mask = 0
    for order in range(19):
        try:
            mask |= bool(format.print_format.compute(key, {"order": order})) << order
        except Unknown:
            return 0
    return mask


def _fragmenting_below(format: EventFormat) -> int:
    """The lowest fallback order that is not fragmenting; 0 if the format does not tell."""
    for order in range(20):
        try:
            if not format.print_format.compute("fragmenting", {"fallback_order": order}):
                return order
        except Unknown:
            return 0
    return 0


def _prints_null_page(format: EventFormat) -> bool:
    """Whether a pfn of all ones stands for no page."""
    try:
        return format.print_format.compute("pfn", {"pfn": (1 << 64) - 1}) == 0
    except Unknown:
        return False


def flags_of(format: EventFormat, gfp: int) -> tuple[str, bool]:
    """Text of an event's GFP flags and whether they make it accounted, by its print format.

    Parameters
    ----------
    format : EventFormat
    gfp : int
        The recorded ``gfp_flags``.
    """
    values: Mapping[str, int] = {"gfp_flags": gfp}
    try:
        text = str(format.print_format.compute("gfp_flags", values))
    except Unknown:
        text = f"{gfp:#x}" if gfp else "none"
    accounted = False
    if "accounted" not in format.fields:
        try:
            accounted = format.print_format.compute("accounted", values) == "true"
        except Unknown:
            accounted = False
    return text, accounted
