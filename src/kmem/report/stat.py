# SPDX-License-Identifier: GPL-2.0-only
"""The report of ``kmem stat``: tables for people, a dictionary for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from kmem.analysis.stat import SlabRow, Stat, sort_rows
from kmem.report.section import Section

__all__ = ["StatView", "report_stat", "stat_to_dict"]

_MOST_STEPS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class StatView:
    """What of the figures is to be shown.

    Attributes
    ----------
    slab, page : bool
        Objects, pages.
    caller, alloc, live : bool
        Call sites, addresses, what is live at the end; without any of them
        the tables by call site, cache and thread.
    sort : tuple of str
        By what, the most important first.
    top : int
        Rows of a table.
    """

    slab: bool = True
    page: bool = True
    caller: bool = False
    alloc: bool = False
    live: bool = False
    sort: tuple[str, ...] = ("bytes", "hits")
    top: int = 20


def _age(age_ns: int) -> str:
    return f"{age_ns / 1e9:.6f}"


def report_stat(stat: Stat, view: StatView, *, source: str) -> Iterator[Section]:
    """Yield the report: the trace, then tables, then sums.

    Parameters
    ----------
    stat : Stat
    view : StatView
    source : str
        What to call the trace.
    """
    yield _trace(stat, source)
    if view.slab and stat.has_slab:
        yield from _slab(stat, view)
    if view.page and stat.has_pages:
        yield from _page(stat, view)


def _trace(stat: Stat, source: str) -> Section:
    stats = stat.stats
    lines = [f"{stats.events:,} events in {stat.seconds:.6f} s"]
    if stats.skipped_events:
        names = ", ".join(f"{count:,} {name}" for name, count in sorted(stats.skipped_events.items())[:6])
        lines.append(f"not counted: {names}")
    if stats.lost_markers or stats.overwritten_events:
        lines.append(
            f"lost while recording: {stats.lost_events:,} events in {stats.lost_markers:,} places, "
            f"{stats.overwritten_events:,} overwritten; what was allocated or freed there is not known"
        )
    if stats.damaged_lines:
        lines.append(
            f"damaged: {stats.damaged_lines:,} lines or records ({stats.damaged_bytes:,} bytes) skipped, "
            f"the first at {stats.first_damage}"
        )
    return Section(source, lines=(*lines, *stats.notes))


def _slab(stat: Stat, view: StatView) -> Iterator[Section]:
    chosen = view.caller or view.alloc or view.live
    if view.caller or not chosen:
        yield _slab_table("Objects by call site", "call site", stat.call_sites(), view)
    if view.alloc:
        yield _address_table(stat, view)
    if not chosen:
        yield _slab_table("Objects by cache", "cache", stat.caches(), view)
        yield _slab_table("Objects by thread", "thread", stat.processes(), view, with_pid=True)
    if view.live:
        rows = stat.live_sites()
        yield Section(
            "Live objects at the end, by call site",
            ("call site", "cache", "objects", "bytes", "oldest (s)", "newest (s)"),
            tuple(
                (row.name, row.detail, row.objects, row.bytes_alloc, _age(row.oldest_ns), _age(row.newest_ns))
                for row in rows[: view.top]
            ),
            _more(len(rows), view.top),
        )
    yield _slab_summary(stat)


def _more(count: int, top: int) -> tuple[str, ...]:
    return (f"and {count - top:,} more",) if count > top else ()


def _slab_table(title: str, heading: str, rows: list[SlabRow], view: StatView, *, with_pid: bool = False) -> Section:
    ordered = sort_rows(rows, view.sort)
    counts = ("bytes", "requested", "hits", "failed", "freed", "live", "slack %")
    columns = (heading, "pid", *counts) if with_pid else (heading, *counts, "ping-pong", "other node")
    cells = []
    for row in ordered[: view.top]:
        numbers = (
            row.bytes_alloc,
            row.bytes_req,
            row.hits,
            row.failed,
            row.frees,
            row.live,
            f"{row.slack_percent:.3f}",
        )
        cells.append((row.name, row.pid, *numbers) if with_pid else (row.name, *numbers, row.pingpong, row.cross_node))
    return Section(title, columns, tuple(cells), _more(len(rows), view.top))


def _address_table(stat: Stat, view: StatView) -> Section:
    rows = sort_rows(stat.addresses(), view.sort)
    return Section(
        "Objects by address",
        ("address", "bytes", "requested", "hits", "ping-pong", "last call site"),
        tuple(
            (f"{row.address:#x}", row.bytes_alloc, row.bytes_req, row.hits, row.pingpong, row.call_site)
            for row in rows[: view.top]
        ),
        _more(len(rows), view.top),
    )


def _slab_summary(stat: Stat) -> Section:
    total = stat.slab_totals()
    slack = total.bytes_alloc - total.bytes_req
    lines = [
        f"given out: {total.bytes_alloc:,} bytes for {total.bytes_req:,} requested, in {total.hits:,} objects",
        f"slack: {slack:,} bytes, {total.slack_percent:.6f} %",
        f"freed: {total.bytes_freed:,} bytes in {total.frees:,} objects, {total.pingpong:,} of them on another CPU",
        f"live at the end: {total.live_bytes:,} bytes in {total.live:,} objects",
    ]
    if total.cross_node is not None:
        lines.append(f"asked for on another node than the CPU's: {total.cross_node:,}")
    if total.failed:
        lines.append(f"failed: {total.failed:,} requests")
    if total.unknown_frees or total.lost_frees:
        lines.append(
            f"frees of objects whose allocation was not recorded: {total.unknown_frees:,}; "
            f"objects whose free was not recorded: {total.lost_frees:,}"
        )
    return Section("Objects in sum", lines=tuple(lines))


def _page(stat: Stat, view: StatView) -> Iterator[Section]:
    if view.live:
        rows = stat.live_pages()
        yield Section(
            "Live pages at the end",
            ("pages", "thread", "blocks", "bytes", "oldest (s)", "newest (s)"),
            tuple(
                (row.name, row.detail, row.objects, row.bytes_alloc, _age(row.oldest_ns), _age(row.newest_ns))
                for row in rows[: view.top]
            ),
            _more(len(rows), view.top),
        )
    else:
        pages = sort_rows(stat.page_rows(), view.sort)
        yield Section(
            "Pages by order, migrate type and flags",
            ("bytes", "hits", "failed", "freed", "order", "migrate type", "GFP flags"),
            tuple(
                (row.bytes_alloc, row.hits, row.failed, row.frees, row.order, row.type_name, row.gfp)
                for row in pages[: view.top]
            ),
            _more(len(pages), view.top),
        )
        threads = stat.page_processes()
        yield Section(
            "Pages by thread",
            ("thread", "pid", "hits", "bytes", "freed"),
            tuple((name, pid, hits, size, frees) for name, pid, hits, size, frees in threads[: view.top]),
            _more(len(threads), view.top),
        )
    yield from _fallbacks(stat, view)
    yield _page_summary(stat)
    yield _orders(stat)


def _fallbacks(stat: Stat, view: StatView) -> Iterator[Section]:
    rows = stat.fallbacks()
    if not rows:
        return
    yield Section(
        "Fallbacks: pages taken from blocks of another migrate type",
        ("count", "wanted", "taken from", "order", "block's order", "block changed"),
        tuple(
            (
                row["count"],
                row["migratetype"],
                row["fallback_migratetype"],
                row["order"],
                row["fallback_order"],
                row["block_changed"],
            )
            for row in rows[: view.top]
        ),
        _more(len(rows), view.top),
    )
    blamed = stat.polluters()
    yield Section(
        "Fallbacks: on whose behalf",
        ("count", "wanted", "taken from", "thread", "call site"),
        tuple(
            (row["count"], row["migratetype"], row["fallback_migratetype"], row["comm"], row["call_site"] or "-")
            for row in blamed[: view.top]
        ),
        _more(len(blamed), view.top),
    )


def _page_summary(stat: Stat) -> Section:
    total = stat.page_totals()

    def line(text: str, count: str) -> str:
        return f"{text}: {total[count]:,} ({total[_BYTES_OF[count]] >> 10:,} KiB)"

    lines = [
        line("requests", "requests"),
        line("frees", "frees"),
        line("of pages whose allocation was recorded", "matched"),
        line("of others", "unmatched"),
        line("live at the end", "live"),
        line("failed", "failed"),
    ]
    if total["lost_frees"]:
        lines.append(f"pages whose free was not recorded: {total['lost_frees']:,}")
    return Section("Pages in sum", lines=tuple(lines))


_BYTES_OF = {
    "requests": "request_bytes",
    "frees": "free_bytes",
    "matched": "matched_bytes",
    "unmatched": "unmatched_bytes",
    "live": "live_bytes",
    "failed": "failed_bytes",
}


def _orders(stat: Stat) -> Section:
    orders = stat.orders()
    names = sorted({name for by_type in orders.values() for name in by_type})
    return Section(
        "Pages given out by order and migrate type",
        ("order", *names),
        tuple((order, *(by_type.get(name, 0) for name in names)) for order, by_type in orders.items()),
    )


def stat_to_dict(stat: Stat, view: StatView, *, source: str) -> dict[str, Any]:
    """Return the figures as plain values, complete where the tables are cut.

    Parameters
    ----------
    stat : Stat
    view : StatView
        `top` limits only the list of single live objects.
    source : str
        What to call the trace.
    """
    stats = stat.stats
    result: dict[str, Any] = {
        "source": source,
        "events": stats.events,
        "seconds": stat.seconds,
        "first_ns": stat.counter.first_ns,
        "last_ns": stat.counter.last_ns,
        "skipped_events": dict(sorted(stats.skipped_events.items())),
        "lost_events": stats.lost_events,
        "lost_markers": stats.lost_markers,
        "overwritten_events": stats.overwritten_events,
        "damaged_records": stats.damaged_lines,
        "damaged_bytes": stats.damaged_bytes,
        "notes": list(stats.notes),
    }
    if view.slab and stat.has_slab:
        result["slab"] = _slab_dict(stat, view)
    if view.page and stat.has_pages:
        result["page"] = _page_dict(stat, view)
    return result


def _slab_dict(stat: Stat, view: StatView) -> dict[str, Any]:
    total = stat.slab_totals()
    step_ns, rates = stat.rates()
    found: dict[str, Any] = {
        "total": dataclasses.asdict(total) | {"slack_percent": total.slack_percent},
        "call_sites": _slab_rows(stat.call_sites(), view.sort),
        "caches": _slab_rows(stat.caches(), view.sort),
        "sizes": _slab_rows(stat.sizes(), view.sort),
        "threads": _slab_rows(stat.processes(), view.sort),
        "rate": {"step_ns": step_ns, "bytes_alloc": dict(sorted(rates.items()))},
    }
    if view.alloc:
        found["addresses"] = [dataclasses.asdict(row) for row in sort_rows(stat.addresses(), view.sort)]
    if view.live:
        found["live"] = [dataclasses.asdict(row) for row in stat.live_sites()]
        found["live_objects"] = stat.live_objects(view.top)
    return found


def _slab_rows(rows: list[SlabRow], sort: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for row in sort_rows(rows, sort):
        values = dataclasses.asdict(row) | {
            "slack_bytes": row.slack_bytes,
            "slack_percent": row.slack_percent,
            "live": row.live,
            "live_bytes": row.live_bytes,
        }
        if row.pid is None:
            del values["pid"]
        else:
            del values["pingpong"], values["cross_node"]
        found.append(values)
    return found


def _page_dict(stat: Stat, view: StatView) -> dict[str, Any]:
    found: dict[str, Any] = {
        "total": stat.page_totals(),
        "requests": [
            dataclasses.asdict(row) | {"bytes_alloc": row.bytes_alloc, "live": row.live}
            for row in sort_rows(stat.page_rows(), view.sort)
        ],
        "orders": {str(order): by_type for order, by_type in stat.orders().items()},
        "threads": [
            {"name": name, "pid": pid, "hits": hits, "bytes_alloc": size, "frees": frees}
            for name, pid, hits, size, frees in stat.page_processes()
        ],
        "fallbacks": stat.fallbacks(),
        "fallback_call_sites": stat.polluters(),
    }
    if view.live:
        found["live"] = [dataclasses.asdict(row) for row in stat.live_pages()]
    return found
