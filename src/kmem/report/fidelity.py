# SPDX-License-Identifier: GPL-2.0-only
"""How close a replay from a recorded state came: as lines of text, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kmem.replay.fidelity import Fidelity

__all__ = ["fidelity_lines", "fidelity_to_dict", "running_lines"]

_LARGE = 1 << 20
_NEAR_PERCENT = 2
_MOST_CACHES = 30

_CAUSES = {
    "bulk": "bulk request without an event",
    "compaction": "after compaction",
    "interrupt": "interrupt between a request and its event",
    "slab": "slab where the kernel has none, or none where it has one",
    "unknown": "unknown",
}


def fidelity_to_dict(measured: Fidelity) -> dict[str, Any]:
    """Return what ``kmem replay --json`` has under ``fidelity``; see ``docs/replay-json.md``."""
    found = {
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
    if measured.slab_pages:
        found["slab_pages"] = measured.slab_pages
    return found


def running_lines(measured: Fidelity) -> Iterator[str]:
    """Yield for people how a replay between two sets of ``/proc`` files ended."""
    causes = measured.divergences
    for zone in measured.zones:
        free, per_cpu, blocks = (_numbers(zone[key]) for key in ("free_pages", "pcp_pages", "free_blocks"))
        yield (
            f"zone {zone['zone']}: {free['modelled']:,} pages free, really {free['real']:,}"
            f"{_difference(zone['difference_percent'])}"
            + (f"; {per_cpu['modelled']:,} of them per-CPU, really {per_cpu['real']:,}" if per_cpu["real"] else "")
        )
        yield "    order     " + "".join(f"{order:>7}" for order in range(len(blocks["modelled"])))
        for which in ("modelled", "real"):
            yield f"    {which:<10}" + "".join(f"{count:>7,}" for count in blocks[which])
    if measured.caches:
        yield from _cache_lines(measured)
    yield (
        f"inferred: {measured.bulk_pages:,} pages of bulk requests, {causes['compaction']:,} pages moved; "
        f"frees of what the model does not have: {causes['bulk']:,} taken in bulk, {causes['unknown']:,} unknown"
    )
    for note in measured.notes:
        yield note if note.startswith("assumed: ") else f"note: {note}"


def _cache_lines(measured: Fidelity) -> Iterator[str]:
    same = [
        cache for cache in measured.caches if _numbers(cache["slabs"])["modelled"] == _numbers(cache["slabs"])["real"]
    ]
    large = [cache for cache in measured.caches if int(str(cache["bytes"])) >= _LARGE]
    near = [cache for cache in large if abs(float(str(cache["difference_percent"]))) <= _NEAR_PERCENT]
    yield (
        f"caches: {len(same)} of {len(measured.caches)} with the real number of slabs; "
        f"{len(near)} of {len(large)} above 1 MiB within {_NEAR_PERCENT} %"
    )
    shown = sorted(
        (cache for cache in measured.caches if cache in large or cache not in same),
        key=lambda each: (-int(str(each["bytes"])), str(each["cache"])),
    )
    yield f"    {'cache':<24}{'slabs':>9}{'really':>9}{'objects':>10}{'really':>10}"
    for cache in shown[:_MOST_CACHES]:
        held, objects = _numbers(cache["slabs"]), _numbers(cache["objects"])
        yield (
            f"    {str(cache['cache'])[:24]:<24}{held['modelled']:>9,}{held['real']:>9,}"
            f"{objects['modelled']:>10,}{objects['real']:>10,}{_difference(cache['difference_percent'])}"
        )
    if len(shown) > _MOST_CACHES:
        yield f"    and {len(shown) - _MOST_CACHES} smaller ones that differ"
    pages = measured.slab_pages
    yield f"slabs together: {pages['modelled']:,} pages, really {pages['real']:,}"


def _numbers(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def _difference(percent: object) -> str:
    return f" ({percent:+.2f} %)" if isinstance(percent, float) and percent else ""


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
