# SPDX-License-Identifier: GPL-2.0-only
"""The random sequences of caches whose record does not show them, from the objects that it shows.

Free objects that were never handed out keep the order in which their slab was
made, since everything freed goes in front of them.  So the objects that a slab
hands out for the first time, and those that a free pointer names before, come
in the order of the cache's random sequence; several slabs show several parts of
it.  What nobody saw stays open, and cannot matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from kmem.machine.records import Record
from kmem.mm.slab_flags import SLAB_RED_ZONE
from kmem.verify.messages import Section

__all__ = ["infer_sequences", "sequence_of"]

_POINTER: Final = re.compile(r"\bfp=0x([0-9a-f]+)")
_BYTES_BEFORE: Final = re.compile(r"Bytes b4 ([0-9a-f]+): ((?:[0-9a-f]{2} )+)")


class _Chains:
    """What is known of the order of one cache's objects: a list of object numbers for each of its slabs."""

    def __init__(self, record: Record, page_offset: int, word_bytes: int) -> None:
        self.record = record
        self.page_offset = page_offset
        self.word_bytes = word_bytes
        self.live: dict[int, list[int]] = {}
        self.done: list[list[int]] = []
        self.inuse: dict[int, int] = {}

    def saw(self, slab: int, index: int) -> None:
        """An object of a slab was handed out, or named by a free pointer, and never before."""
        chain = self.live.setdefault(slab, [])
        if index not in chain:
            chain.append(index)

    def pointer(self, address: int) -> None:
        """A free pointer names an address."""
        for slab in self.live:
            index = self._index(slab, address)
            if index is not None:
                self.saw(slab, index)

    def dump(self, record: Record) -> None:
        """The bytes of an object show its free pointer."""
        word = self.word_bytes
        start = record["red_left_pad"] + record["offset"]
        data = bytes.fromhex(record["hex"])[start : start + word]
        self.pointer(self._hidden(int(record["addr"], 16) + record["offset"], data))

    def bytes_before(self, address: int, data: bytes) -> None:
        """The bytes in front of an object show the free pointer of the object before it."""
        record, word = self.record, self.word_bytes
        pad = record["red_left_pad"] if int(record["flags"], 16) & SLAB_RED_ZONE else 0
        for slab in self.live:
            start = self.page_offset + slab * 4096 + pad
            if not start <= address < start + record["objects"] * record["size"]:
                continue
            obj = start + (address - start) // record["size"] * record["size"]
            skipped = obj + record["offset"] - address
            if 0 <= skipped <= len(data) - word:
                pointer = self._hidden(obj + record["offset"], data[skipped : skipped + word])
                before, index = (obj - start) // record["size"], self._index(slab, pointer)
                if before in self.live[slab]:
                    self.pointer(pointer)
                elif pointer == 0 and self.live[slab]:
                    self.done.append([before, self.live[slab][0]])  # the last one: the circle closes
                elif index is not None:
                    self.done.append([before, index])  # neither was handed out: the order in which they were made
                return

    def _hidden(self, at: int, data: bytes) -> int:
        """Return the address that a free pointer names as it stands in memory."""
        word = self.word_bytes
        mask = int.from_bytes(at.to_bytes(8, "little")[:word], "big") ^ int(self.record["random"], 16)
        return (int.from_bytes(data, "little") ^ mask) & ((1 << 8 * word) - 1)

    def _index(self, slab: int, address: int) -> int | None:
        """Return the number of the object of a slab at an address."""
        record = self.record
        pad = record["red_left_pad"] if int(record["flags"], 16) & SLAB_RED_ZONE else 0
        index, rest = divmod(address - self.page_offset - slab * 4096 - pad, record["size"])
        return index if not rest and 0 <= index < record["objects"] else None

    def shrink(self) -> None:
        """Empty slabs are given back."""
        for slab in list(self.live):
            if self.inuse.get(slab) == 0:
                self.gone(slab)

    def gone(self, slab: int) -> None:
        """A slab was given back."""
        self.done.append(self.live.pop(slab, []))


def infer_sequences(
    records: Iterable[Record], sections: Sequence[Section], page_offset: int, word_bytes: int
) -> dict[int | str, list[int]]:
    """Return the random sequences of the caches that a recording uses without showing theirs.

    Parameters
    ----------
    records : iterable of dict
        The recording.
    sections : sequence of Section
        Reports that belong to it; a ``note`` record with a section's title begins it.
    page_offset : int
        Kernel address of physical address 0.
    word_bytes : int
        Size of a pointer.

    Returns
    -------
    dict of int or str to list of int
        By the number of the operation that created the cache; that of a kmalloc cache by its name.
    """
    titles = {section.title: section for section in sections}
    caches: dict[int, _Chains] = {}
    every: list[_Chains] = []
    open_section: Section | None = None
    kmalloc: dict[str, tuple[int, dict[int, list[int]]]] = {}

    def close(section: Section | None) -> None:
        for _, line in section.lines if section is not None else ():
            for match in _POINTER.finditer(line):
                for chains in caches.values():
                    chains.pointer(int(match[1], 16))
            if before := _BYTES_BEFORE.match(line):
                for chains in caches.values():
                    chains.bytes_before(int(before[1], 16), bytes.fromhex(before[2]))

    for record in records:
        op = record.get("op")
        if "note" in record and record["note"] in titles:
            close(open_section)
            open_section = titles[record["note"]]
        elif op in ("c", "cf") and record.get("ok") and "random_seq" not in record and record.get("has_random_seq"):
            caches[record["cid"]] = chains = _Chains(record, page_offset, word_bytes)
            every.append(chains)
        elif op == "k" and record.get("slab") is not None and record["cid"] in caches:
            if record["objs"] == caches[record["cid"]].record["objects"]:
                caches[record["cid"]].saw(record["slab"], record["idx"])
            caches[record["cid"]].inuse[record["slab"]] = record["inuse"]
        elif op == "s" and record["cid"] in caches:
            caches[record["cid"]].shrink()
        elif op == "m" and record.get("slab") is not None:
            count, parts = kmalloc.setdefault(record["cache"], (record["objs"], {}))
            objects = parts.setdefault(record["slab"], [])
            if record["objs"] == count and record["idx"] not in objects:
                objects.append(record["idx"])
        elif op == "K" and record.get("slab") is None and "pfn" in record and record.get("cid") in caches:
            for slab in list(caches[record["cid"]].live):
                if slab <= record["pfn"] < slab + (1 << caches[record["cid"]].record["order"]):
                    caches[record["cid"]].gone(slab)
        elif op == "K" and record.get("cid") in caches:
            caches[record["cid"]].inuse[record["slab"]] = record["inuse"]
        elif op == "h":
            for chains in caches.values():
                if chains.record["name"] == record["cache"]:
                    chains.dump(record)
    for section in [open_section] if open_section is not None else sections:
        close(section)
    found: dict[int | str, list[int]] = {
        name: sequence_of(count, parts.values()) for name, (count, parts) in kmalloc.items()
    }
    return found | {
        chains.record["i"]: sequence_of(chains.record["objects"], [*chains.done, *chains.live.values()])
        for chains in every
    }


def sequence_of(count: int, chains: Iterable[Sequence[int]]) -> list[int]:
    """Return an order of ``range(count)`` in which the chains are parts of a circle; the rest fills it up.

    A part that contradicts an earlier one is left out.

    Examples
    --------
    >>> sequence_of(6, [[4, 1, 0], [0, 5]])
    [2, 3, 4, 1, 0, 5]
    """
    after: dict[int, int] = {}
    before: dict[int, int] = {}
    for chain in chains:
        for left, right in pairwise(chain):
            if left in after or right in before or not (0 <= left < count and 0 <= right < count):
                continue
            end = right
            while end in after:
                end = after[end]
            if end != left:  # else the circle would be closed too early
                after[left] = right
                before[right] = left
    order: list[int] = []
    for start in range(count):
        if start not in before:
            order.append(start)
            while order[-1] in after:
                order.append(after[order[-1]])
    return order
