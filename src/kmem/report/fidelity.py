# SPDX-License-Identifier: GPL-2.0-only
"""How close a replay from a recorded state came: as lines of text, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kmem.replay.fidelity import Fidelity

__all__ = ["fidelity_lines", "fidelity_to_dict"]

_CAUSES = {
    "bulk": "bulk request without an event",
    "compaction": "after compaction",
    "interrupt": "interrupt between a request and its event",
    "slab": "slab where the kernel has none, or none where it has one",
    "unknown": "unknown",
}


def fidelity_to_dict(measured: Fidelity) -> dict[str, Any]:
    """Return what ``kmem replay --json`` has under ``fidelity``; see ``docs/replay-json.md``."""
    return {
        "frames": measured.frames,
        "frames_identical": measured.frames_identical,
        "objects": measured.objects,
        "objects_identical": measured.objects_identical,
        "divergences": dict(measured.divergences),
        "named_by_pointer": measured.named_by_pointer,
        "starts_by_pointer": measured.starts_by_pointer,
        "bulk_pages_inferred": measured.bulk_pages,
        "bulk_objects_inferred": measured.bulk_objects,
        "zones": measured.zones,
        "caches": measured.caches,
        "notes": measured.notes,
    }


def fidelity_lines(measured: Fidelity) -> Iterator[str]:
    """Yield the same for people."""
    yield _share("page allocations", "frame", measured.frames_identical, measured.frames)
    yield _share("objects", "address", measured.objects_identical, measured.objects)
    answers = measured.frames + measured.objects
    for cause, count in measured.divergences.items():
        if count:
            yield f"    {count:>8,}  {_CAUSES[cause]}" + (f" ({count / answers:.3%})" if answers else "")
    yield (
        f"taken from recorded pointers: {measured.named_by_pointer:,} cache names, "
        f"{measured.starts_by_pointer:,} random starts; inferred: {measured.bulk_pages:,} pages and "
        f"{measured.bulk_objects:,} objects of bulk requests"
    )
    for zone in measured.zones:
        free = zone["free_pages"]
        assert isinstance(free, dict)
        same = zone["free_blocks"]["modelled"] == zone["free_blocks"]["real"]  # type: ignore[index]
        yield (
            f"zone {zone['zone']}: {free['modelled']:,} pages free, really {free['real']:,}; "
            f"free blocks of each order {'identical' if same else 'differ'}"
        )
    if measured.caches:
        differ = [cache for cache in measured.caches if cache["slabs"]["modelled"] != cache["slabs"]["real"]]  # type: ignore[index]
        yield f"caches: {len(measured.caches) - len(differ)} of {len(measured.caches)} with the real number of slabs"
        for cache in sorted(differ, key=lambda each: -int(str(each["bytes"])))[:10]:
            slabs = cache["slabs"]
            assert isinstance(slabs, dict)
            yield f"    {cache['cache']}: {slabs['modelled']:,} slabs, really {slabs['real']:,}"
    for note in measured.notes:
        yield f"note: {note}"


def _share(what: str, which: str, same: int, total: int) -> str:
    share = f" ({same / total:.2%})" if total else ""
    return f"{what}: {same:,} of {total:,} with the recorded {which}{share}"
