# SPDX-License-Identifier: GPL-2.0-only
"""What a modelled machine shows of itself, against the recorded state it was started from."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmem.machine.observe import view_machine
from kmem.machine.proc import parse_buddyinfo, parse_pagetypeinfo, parse_zoneinfo
from kmem.machine.records import read_records
from kmem.machine.statedump import StateDump, load_page_allocator
from kmem.mm.gfp import GFP_KERNEL
from kmem.report.proc import format_proc

DATA = Path(__file__).parent.parent / "data"
RECORDINGS = sorted((DATA / "pages").rglob("*.jsonl.gz"))


def first_dump(path: Path) -> StateDump:
    records = read_records(path)
    for line, record in records:
        if record.get("t") == "dump":
            return StateDump.collect(record, records, path, line)
    raise AssertionError("no dump")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.parent.name)
def test_the_recorded_state_is_what_is_shown(path: Path) -> None:
    dump = first_dump(path)
    view = view_machine(load_page_allocator(dump).memmap)
    zones = {(zone.node, zone.name): zone for zone in view.zones}
    recorded = [record for record in dump.zones if record["present"]]
    assert recorded
    for record in recorded:
        zone = zones[record.get("node", 0), record["name"]]
        assert zone.start_pfn == record["start_pfn"]
        assert (zone.spanned, zone.present, zone.managed) == (record["spanned"], record["present"], record["managed"])
        assert zone.boost == record["boost"]
        assert zone.min == record["wm_min"] + record["boost"]
        assert zone.high == record["wm_high"] + record["boost"]
        assert zone.free_pages == max(record["vm_stat"][0], 0)
        assert list(zone.protection) == record["lowmem_reserve"][: len(zone.protection)]
    for record in dump.of("area"):
        assert zones[record.get("node", 0), record["zone"]].nr_free[record["order"]] == record["nr_free"]
    for record in dump.of("free"):
        shown = zones[record.get("node", 0), record["zone"]].free[record["mt"]][record["order"]]
        assert shown == len(record["pfns"])
    for zone in zones.values():
        if zone.present:
            assert tuple(map(sum, zip(*zone.free, strict=True))) == zone.nr_free
            assert sum(zone.blocks) == -(-zone.spanned >> view.pageblock_order)


def test_printed_files_can_be_read_again() -> None:
    allocator = load_page_allocator(first_dump(RECORDINGS[0]))
    assert allocator.alloc_pages(GFP_KERNEL, 3) > 0
    view = view_machine(allocator.memmap)
    populated = [zone for zone in view.zones if zone.present]
    assert [zone.nr_free for zone in parse_buddyinfo(format_proc("buddyinfo", view))] == [z.nr_free for z in populated]
    typed = parse_pagetypeinfo(format_proc("pagetypeinfo", view))
    assert [zone.free for zone in typed.zones] == [zone.free for zone in populated]
    assert [zone.blocks for zone in typed.zones] == [zone.blocks for zone in populated]
    again = [zone for node in parse_zoneinfo(format_proc("zoneinfo", view)) for zone in node.zones]
    for shown, read in zip(view.zones, again, strict=True):
        for name in ("name", "min", "low", "high", "managed", "protection", "pagesets", "free_pages"):
            assert getattr(shown, name) == getattr(read, name)
