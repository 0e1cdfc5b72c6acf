# SPDX-License-Identifier: GPL-2.0-only
"""Traces written by hand, for questions that no recorded one answers."""

from __future__ import annotations

from pathlib import Path

_EVENT = "   sh-1   [000] .....  {time:.6f}: {event}\n"


def exhausted(path: Path, *, pages: int = 13000, burst: int = 1200) -> Path:
    """Write a trace that fills a machine of 96 MiB, and then asks for pages that may not wait.

    ::

        GFP_KERNEL pages ............ until the min watermark | GFP_ATOMIC kmallocs of a page: from the reserve
    """
    lines = ["# tracer: nop\n"]
    for number in range(pages):
        event = f"mm_page_alloc: page=0x1 pfn=0x{number + 4096:x} order=0 migratetype=0 gfp_flags=GFP_KERNEL"
        lines.append(_EVENT.format(time=1 + number / 1e6, event=event))
    for number in range(burst):
        event = (
            f"kmalloc: call_site=rx_refill+0x1c/0x90 ptr=0x{0xFFFF888000001000 + 4096 * number:x} "
            "bytes_req=4096 bytes_alloc=4096 gfp_flags=GFP_ATOMIC node=-1 accounted=false"
        )
        lines.append(_EVENT.format(time=2 + number / 1e6, event=event))
    path.write_text("".join(lines))
    return path
