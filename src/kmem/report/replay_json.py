# SPDX-License-Identifier: GPL-2.0-only
"""The report of a replay as JSON-serialisable values.

The keys are documented in ``docs/replay-json.md`` and stay what they are:
later versions may add keys, never change the meaning of one.  Whatever is
counted is an integer; shares are floats from 0 to 1; indexes are integers in
thousandths, as the kernel computes them.

The counters ``events``, ``skipped_events``, ``lost_events``, ``requests``,
``failures``, ``unknown_frees`` and ``double_allocations`` stand at the top;
``zones``, ``caches`` and ``call_sites`` are lists of objects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kmem.analysis.failures import FailureKind, explain_failure, explain_kinds
from kmem.analysis.lifetimes import Lifetimes
from kmem.analysis.summary import Analysis, ZoneState
from kmem.analysis.timeline import Timeline
from kmem.analysis.usage import CacheUsage, PageUsage, Usage
from kmem.profile import REFERENCE, format_gfp
from kmem.replay.refused import Failure

__all__ = ["replay_to_dict"]

_MOST_SAMPLES = 64  #: of the at most 512 that a replay keeps
_MOST_REMEDIED = 4  #: kinds of failures for which remedies are tried


def replay_to_dict(analysis: Analysis, *, source: str, lifetimes: Sequence[Lifetimes] = ()) -> dict[str, Any]:
    """Return a replay's figures under the keys of ``docs/replay-json.md``.

    Parameters
    ----------
    analysis : Analysis
    source : str
        What to call the trace.
    lifetimes : sequence of Lifetimes, optional
        How long objects live, by call site; of :mod:`kmem.analysis.lifetimes`.
    """
    a = analysis
    r, t = a.requests, a.trace
    return {
        "trace": source,
        "machine": {
            "name": a.machine,
            "arch": a.arch,
            "cpus": a.cpus,
            "memory_bytes": a.memory_bytes,
            "assumed": list(a.assumed),
        },
        "notes": list(a.notes),
        "first_ns": a.first_ns,
        "last_ns": a.last_ns,
        "events": t.events,
        "skipped_events": sum(t.skipped_events.values()),
        "skipped_by_name": dict(sorted(t.skipped_events.items())),
        "lost_events": t.lost_events,
        "lost_markers": t.lost_markers,
        "overwritten_events": t.overwritten_events,
        "damaged_lines": t.damaged_lines,
        "damaged_bytes": t.damaged_bytes,
        "first_damage": t.first_damage,
        "operations": r.operations,
        "requests": r.requests,
        "frees": r.frees,
        "failures": r.failures,
        "atomic_failures": r.atomic_failures,
        "failed_in_trace": r.failed_in_trace,
        "unknown_frees": r.unknown_frees,
        "unknown_object_frees": r.unknown_object_frees,
        "unknown_page_frees": r.unknown_page_frees,
        "unknown_frees_share": r.share(r.unknown_frees),
        "double_allocations": r.double_allocations,
        "double_allocations_share": r.share(r.double_allocations),
        "slab_allocations": r.slab_allocations,
        "failures_by_reason": [_kind(kind) for kind in explain_kinds(a, remedied=_MOST_REMEDIED)],
        "failure_list": [_failure(failure) for failure in a.failures],
        "memory": dataclasses.asdict(a.memory),
        "slab": dataclasses.asdict(a.slab),
        "zones": [_zone(zone) for zone in a.zones],
        "caches": [_cache(cache) for cache in a.caches],
        "call_sites": [_usage(site) for site in a.call_sites],
        "page_orders": [_pages(usage) for usage in a.page_orders],
        "fallbacks": _fallbacks(a),
        "changes": dataclasses.asdict(a.changes),
        "samples": _samples(a.timeline.thinned(_MOST_SAMPLES)),
        "lifetimes": [_lifetimes(row) for row in lifetimes],
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "time_ns": failure.time_ns,
        "cpu": failure.cpu,
        "event": failure.event,
        "size_bytes": failure.size_bytes,
        "order": failure.order,
        "gfp": failure.gfp,
        "gfp_text": format_gfp(failure.gfp),
        "call_site": failure.call_site,
        "cache": failure.cache,
        "zone": failure.zone,
        "reason": failure.reason,
        "zones": [
            {
                "node": zone.node,
                "name": zone.name,
                "eligible": zone.verdict != "not-eligible",
                "verdict": zone.verdict,
                "free": zone.free,
                "unusable": zone.unusable,
                "watermark": zone.mark,
                "lowmem_reserve": zone.reserve,
                "nr_free": list(zone.nr_free),
            }
            for zone in failure.zones
        ],
        "explanation": explain_failure(failure),
    }


def _kind(kind: FailureKind) -> dict[str, Any]:
    zone, order, reason = kind.first.kind
    return {
        "zone": zone,
        "order": order,
        "reason": reason,
        "count": kind.count,
        "first": _failure(kind.first),
        "remedies": [
            {"kind": each.kind, "change": each.change, "text": each.text, "succeeded": each.succeeded}
            for each in kind.remedies or ()
        ],
        "remedies_tried": kind.remedies is not None,
    }


def _lifetimes(row: Lifetimes) -> dict[str, Any]:
    found = dataclasses.asdict(row)
    for key in ("freed_log2", "live_log2"):
        found[key] = {str(power): count for power, count in found[key].items()}
    return found


def _zone(zone: ZoneState) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(zone).items()}


def _usage(usage: Usage) -> dict[str, Any]:
    return {**dataclasses.asdict(usage), "slack_bytes": usage.slack_bytes}


def _cache(cache: CacheUsage) -> dict[str, Any]:
    row = _usage(cache)
    del row["cross_cpu_frees"]  # is counted for call sites only
    return {**row, "utilisation": cache.utilisation, "wasted_bytes": cache.wasted_bytes}


def _pages(usage: PageUsage) -> dict[str, Any]:
    keys = ("order", "migratetype", "allocs", "frees", "failures", "live", "peak")
    return {key: getattr(usage, key) for key in keys}


def _fallbacks(a: Analysis) -> dict[str, Any]:
    f = a.fallbacks
    return {
        "count": f.count,
        "kept": f.kept,
        "by_type": [
            {"from": taken, "to": wanted, "count": count, "by_order": {str(k): v for k, v in orders.items()}}
            for taken, wanted, count, orders in f.by_type()
        ],
    }


def _samples(times: Timeline) -> dict[str, Any]:
    """Columns, one number for each sample."""
    orders = np.arange(times.free_blocks.shape[2])
    by_type = np.left_shift(times.free_blocks, orders[:, None]).sum(axis=2)
    return {
        "time_ns": times.time_ns.tolist(),
        "events": times.events.tolist(),
        "slab_pages": times.slab_pages.tolist(),
        "failures": times.failures.tolist(),
        "fallbacks": times.fallbacks.tolist(),
        "zones": [
            {
                "node": zone.node,
                "name": zone.name,
                "free_pages": times.free_pages[:, i].tolist(),
                "pcp_pages": times.pcp_pages[:, i].tolist(),
                "nr_free": {str(order): times.nr_free[:, i, order].tolist() for order in orders},
                "free_pages_by_type": {
                    name: by_type[:, i, mt].tolist() for mt, name in enumerate(REFERENCE.migrate_types)
                },
            }
            for i, zone in enumerate(times.zones)
        ],
    }
