# SPDX-License-Identifier: GPL-2.0-only
"""The report of a replay, as paragraphs and tables.

What is a table on a terminal and what is plain text is decided where it is
printed; here are only words and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kmem.analysis.fragmentation import unusable_free_index
from kmem.analysis.summary import Analysis
from kmem.analysis.usage import Usage
from kmem.profile import format_gfp
from kmem.report.section import Section

__all__ = ["Section", "report_replay"]

_FIRST_FAILURES = 5
_MOST_REMEDIED = 4
_MOMENTS = 8
_UNNAMED = "(not named)"


def report_replay(analysis: Analysis, *, source: str, top: int = 10) -> Iterator[Section]:
    """Yield the report of a replay, what was assumed first.

    Parameters
    ----------
    analysis : Analysis
    source : str
        What to call the trace.
    top : int
        How many caches, call sites and failures to list.
    """
    yield _machine(analysis)
    yield _trace(analysis, source)
    yield _requests(analysis)
    yield from _failures(analysis, top)
    yield _zones(analysis)
    yield _slabs(analysis)
    yield from _caches(analysis, top)
    yield from _call_sites(analysis, top)
    yield from _page_orders(analysis)
    yield _free_blocks(analysis)
    yield _indexes(analysis)
    yield _timeline(analysis)
    yield _fallbacks(analysis)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _size(size_bytes: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes >= 1 << shift:
            text = f"{size_bytes / (1 << shift):.1f}".removesuffix(".0")
            return f"{text} {unit}"
    return _plural(size_bytes, "byte")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _machine(a: Analysis) -> Section:
    lines = [f"{a.machine} ({a.arch}): {_size(a.memory_bytes)} by the firmware's map, {_plural(a.cpus, 'CPU')}"]
    lines += [f"assumed: {text}" for text in a.assumed]
    return Section("Machine", lines=tuple(lines))


def _trace(a: Analysis, source: str) -> Section:
    t = a.trace
    lines = [f"{source}: {_plural(t.events, 'event')} in {(a.last_ns - a.first_ns) / 1e9:.3f} s"]
    if t.skipped_events:
        names = ", ".join(f"{name} {count:,}" for name, count in sorted(t.skipped_events.items())[:6])
        more = f", {len(t.skipped_events) - 6} other kinds" if len(t.skipped_events) > 6 else ""
        total = sum(t.skipped_events.values())
        lines.append(f"skipped: {_plural(total, 'event')} of kinds that do not concern memory requests: {names}{more}")
    if t.lost_events or t.lost_markers:
        lines.append(f"lost while recording: {_plural(t.lost_events, 'event')}, in {_plural(t.lost_markers, 'place')}")
    if t.overwritten_events:
        lines.append(f"overwritten before the trace begins: {_plural(t.overwritten_events, 'event')}")
    if t.damaged_lines:
        lines.append(
            f"damaged: {_plural(t.damaged_lines, 'line')} ({_plural(t.damaged_bytes, 'byte')}) skipped, "
            f"the first at {t.first_damage}"
        )
    lines += [f"note: {text}" for text in a.notes]
    return Section("Trace", lines=tuple(lines))


def _requests(a: Analysis) -> Section:
    r = a.requests
    counts: list[tuple[str, int]] = [
        ("requests", r.requests),
        ("frees", r.frees),
        ("failures", r.failures),
        ("failed on the recorded kernel", r.failed_in_trace),
        ("frees of objects allocated before", r.unknown_object_frees),
        ("frees of pages allocated before", r.unknown_page_frees),
        ("double allocations (lost frees)", r.double_allocations),
    ]
    rows = tuple((name, count, _percent(count, r.operations)) for name, count in counts)
    line = (
        f"{_plural(r.slab_allocations, 'page allocation')} of the trace belonged to slabs or large kmallocs "
        "and are the model's own business"
    )
    return Section("Requests", ("", "count", "of operations"), rows, (line,))


def _failures(a: Analysis, top: int) -> Iterator[Section]:
    if not a.requests.failures:
        return
    rows = [(zone or "-", order, reason, count) for (zone, order, reason), count in a.failure_counts.items()]
    shown = rows[: max(top, 1)]
    yield Section("Failures", ("zone", "order", "reason", "count"), tuple(shown), _more(len(rows), len(shown)))
    first = a.failures[: min(_FIRST_FAILURES, max(top, 1))]
    yield Section(
        "First failures",
        ("time", "CPU", "event", "bytes", "order", "gfp", "zone", "reason", "cache or call site"),
        tuple(
            (
                f"{failure.time_ns / 1e9:.6f}",
                failure.cpu,
                failure.event,
                failure.size_bytes,
                failure.order,
                format_gfp(failure.gfp),
                failure.zone or "-",
                failure.reason,
                failure.cache or failure.call_site or "-",
            )
            for failure in first
        ),
    )
    yield _explanations(a, top)


def _explanations(a: Analysis, top: int) -> Section:
    """Why the first request of each kind was refused, and what would have helped it."""
    from kmem.analysis.failures import explain_kinds, zone_verdicts  # most replays refuse nothing
    from kmem.report.explain import remedy_lines, wrapped, zone_lines

    lines: list[str] = []
    for kind in explain_kinds(a, remedied=_MOST_REMEDIED)[: min(_MOST_REMEDIED, max(top, 1))]:
        failure = kind.first
        what = f"{_plural(failure.size_bytes, 'byte')}" if failure.event != "mm_page_alloc" else "pages"
        who = f" at {failure.call_site}" if failure.call_site else ""
        lines += wrapped(
            "",
            f"{failure.zone or 'no zone'}, order {failure.order}, {failure.reason}, {kind.count:,} times; first at "
            f"{(failure.time_ns - a.first_ns) / 1e9:.6f} s: {what} with {format_gfp(failure.gfp)}{who}",
        )
        for sentence in kind.sentences:
            lines += wrapped("  ", sentence)
        lines += zone_lines(zone_verdicts(failure))
        lines += remedy_lines(kind.remedies or ())
    lines.append("kmem replay --compare --set NAME=VALUE shows what a setting makes of the whole trace")
    return Section("Why the first of each kind was refused", lines=tuple(lines))


def _more(count: int, shown: int) -> tuple[str, ...]:
    return (f"and {count - shown:,} more (--top {count} lists all)",) if count > shown else ()


def _zones(a: Analysis) -> Section:
    rows = tuple(
        (
            str(zone),
            state.managed,
            state.free_pages,
            state.lowest_free_pages,
            state.pcp_pages,
            state.min,
            state.low,
            state.high,
        )
        for zone, state in zip(a.timeline.zones, a.zones, strict=True)
    )
    m = a.memory
    line = (
        f"free in all: {m.free_at_start:,} pages at the start, {m.lowest_free:,} at the lowest, "
        f"{m.free_at_end:,} at the end; {_plural(m.page_requests, 'page')} asked for directly and not given back"
    )
    columns = ("zone", "managed", "free", "lowest", "per CPU", "min", "low", "high")
    return Section("Zones, in pages", columns, rows, (line,))


def _slabs(a: Analysis) -> Section:
    s = a.slab
    lines = [
        f"pages of slabs: {s.slab_pages:,} at the end, {s.peak_slab_pages:,} at the peak; "
        f"of large kmallocs: {s.large_pages:,}",
        f"slabs: {s.slabs:,}, of them {s.partial_slabs:,} partly used on node lists and {s.cpu_slabs:,} kept by CPUs",
        f"objects in use: {s.objects_in_use:,} of {s.objects:,} ({_percent(s.objects_in_use, s.objects)})",
        f"slack: {_size(s.live_alloc - s.live_req)} of {_size(s.live_alloc)} in use "
        f"({_percent(s.live_alloc - s.live_req, s.live_alloc)}), "
        f"{_size(s.total_alloc - s.total_req)} of {_size(s.total_alloc)} over all requests "
        f"({_percent(s.total_alloc - s.total_req, s.total_alloc)})",
    ]
    return Section("Slab memory", lines=tuple(lines))


def _caches(a: Analysis, top: int) -> Iterator[Section]:
    if not a.caches:
        return
    rows = tuple(
        (
            cache.name,
            cache.size_bytes,
            cache.peak_alloc,
            cache.live_alloc,
            cache.slack_bytes,
            cache.allocs,
            cache.frees,
            cache.live,
            cache.slabs,
            cache.slab_pages,
            f"{100 * cache.utilisation:.0f} %",
        )
        for cache in a.caches[:top]
    )
    columns = ("cache", "size", "peak bytes", "bytes", "slack", "allocs", "frees", "live", "slabs", "pages", "in use")
    yield Section("Caches by peak", columns, rows, _more(len(a.caches), len(rows)))


def _usage_row(usage: Usage) -> tuple[object, ...]:
    return (
        usage.peak_alloc,
        usage.live_alloc,
        usage.slack_bytes,
        usage.allocs,
        usage.frees,
        usage.live,
        usage.failures,
        usage.name or _UNNAMED,
    )


def _call_sites(a: Analysis, top: int) -> Iterator[Section]:
    if not a.call_sites:
        return
    rows = tuple(_usage_row(site) for site in a.call_sites[:top])
    columns = ("peak bytes", "bytes", "slack", "allocs", "frees", "live", "failures", "call site")
    yield Section("Call sites by peak", columns, rows, _more(len(a.call_sites), len(rows)))


def _page_orders(a: Analysis) -> Iterator[Section]:
    if not a.page_orders:
        return
    rows = tuple(
        (
            usage.order,
            usage.migratetype,
            usage.peak << usage.order,
            usage.live << usage.order,
            usage.allocs,
            usage.frees,
            usage.failures,
        )
        for usage in a.page_orders
    )
    columns = ("order", "type", "peak pages", "pages", "allocs", "frees", "failures")
    yield Section("Pages by order and migrate type, without slabs", columns, rows)


def _orders(a: Analysis) -> tuple[str, ...]:
    return tuple(str(order) for order in range(a.timeline.free_blocks.shape[2]))


def _free_blocks(a: Analysis) -> Section:
    rows = tuple(
        (str(zone), name, *counts)
        for zone, state in zip(a.timeline.zones, a.zones, strict=True)
        for name, counts in state.free.items()
        if any(counts)
    )
    return Section("Free blocks by order at the end", ("zone", "type", *_orders(a)), rows)


def _indexes(a: Analysis) -> Section:
    rows: list[tuple[object, ...]] = []
    for zone, state in zip(a.timeline.zones, a.zones, strict=True):
        rows.append((str(zone), "unusable", *_thousandths(state.unusable_free_index)))
        rows.append((str(zone), "extfrag", *_thousandths(state.fragmentation_index)))
    lines = (
        "unusable: part of free memory that a request of this order cannot use; extfrag: why it would fail, "
        "0 for want of memory to 1 for fragmentation, -1 it would not",
    )
    return Section("Fragmentation by order at the end", ("zone", "index", *_orders(a)), tuple(rows), lines)


def _thousandths(values: Sequence[int]) -> tuple[str, ...]:
    return tuple("-1" if value == -1000 else f"{value / 1000:.3f}" for value in values)


def _timeline(a: Analysis) -> Section:
    times = a.timeline.thinned(_MOMENTS)
    free, nr_free = times.free_pages, times.nr_free.sum(axis=1)
    block = min(a.view.pageblock_order or 9, nr_free.shape[1] - 1)
    unusable = unusable_free_index(nr_free, block)
    by_type = np.left_shift(times.free_blocks.sum(axis=1), np.arange(nr_free.shape[1])[:, None]).sum(axis=1)
    types = a.view.migrate_types[:3]
    rows = tuple(
        (
            f"{(int(times.time_ns[i]) - a.first_ns) / 1e9:.3f}",
            int(times.events[i]),
            int(times.slab_pages[i]),
            *(int(pages) for pages in free[i]),
            *(int(pages) for pages in by_type[i][: len(types)]),
            f"{int(unusable[i]) / 1000:.3f}",
        )
        for i in range(len(times))
    )
    columns = (
        *("s", "events", "slab pages"),
        *(f"free {zone}" for zone in times.zones),
        *(f"free {name}" for name in types),
        f"unusable {block}",
    )
    return Section("Free pages over time", columns, rows)


def _fallbacks(a: Analysis) -> Section:
    f = a.fallbacks
    title = "Migrate-type fallbacks"
    if not f.count:
        return Section(title, lines=("none",))
    rows = tuple(
        (taken, wanted, count, ", ".join(f"{order}: {number:,}" for order, number in orders.items()))
        for taken, wanted, count, orders in f.by_type()
    )
    lines = (f"the first {f.kept:,} of {f.count:,}",) if f.kept < f.count else ()
    return Section(title, ("from", "to", "count", "by order of the block"), rows, lines)
