# SPDX-License-Identifier: GPL-2.0-only
"""What a trace tells of the machine that it was recorded on."""

from __future__ import annotations

import gzip
import pickle
import re
from pathlib import Path

import pytest

from kmem.machine.machine import Machine
from kmem.replay.infer import PAGE_OFFSETS, infer_description, survey
from kmem.replay.replay import replay
from kmem.trace import open_trace
from tests.replay.batches import GFP_SLAB, batch, cache_alloc, kmalloc, page_alloc

DATA = Path(__file__).parent.parent / "data"
BOOT = DATA / "boot.trace.txt.gz"
KASLR_BASE = 0xFFFF9A3C80000000  # 19 TiB above the usual place


def randomised(path: Path, into: Path) -> Path:
    """The boot trace as a kernel with another direct map would have printed it."""
    text = gzip.decompress(BOOT.read_bytes()).decode()
    moved = re.sub(
        r"ptr=(ffff888[0-9a-f]{9})",
        lambda found: f"ptr={int(found[1], 16) - 0xFFFF888000000000 + KASLR_BASE:016x}",
        text,
    )
    assert moved != text
    into.write_text(moved)
    return into


@pytest.mark.parametrize(
    ("name", "arch", "mib"),
    [
        ("boot.trace.txt.gz", "x86_64", 512),
        ("traces/i386.trace.txt.gz", "i386", 1024),
        ("traces/hashed.trace.txt.gz", "x86_64", 512),
        ("traces/amd64.perf-script.txt.gz", "x86_64", 512),
        ("traces/v6.trace-cmd-report.txt.gz", "x86_64", 512),
    ],
)
def test_recorded_machines_are_recognised(name: str, arch: str, mib: int) -> None:
    with open_trace(DATA / name) as trace:
        found = survey(trace)
        description, assumed = infer_description(found, pointer_digits=trace.pointer_digits, nr_cpus=trace.nr_cpus)
    assert (description.arch, description.cpus) == (arch, 1)
    assert abs(description.memory_bytes - (mib << 20)) < 1 << 20
    assert len(assumed) >= 3
    assert found.hashed == ("hashed" in name)
    assert not found.kaslr


def test_the_direct_map_is_found_wherever_it_is(tmp_path: Path) -> None:
    with open_trace(randomised(BOOT, tmp_path / "trace.txt")) as trace:
        found = survey(trace)
        description, assumed = infer_description(found, pointer_digits=trace.pointer_digits)
    assert found.kaslr and not found.hashed
    assert found.page_offset == KASLR_BASE
    assert abs(description.memory_bytes - (512 << 20)) < 1 << 20
    assert any(f"{KASLR_BASE:#x}" in line for line in assumed)


def test_a_randomised_trace_replays_to_the_same_state(tmp_path: Path) -> None:
    plain = replay(str(BOOT))
    moved = replay(str(randomised(BOOT, tmp_path / "trace.txt")))
    assert moved.machine.digest() == plain.machine.digest()
    assert moved.engine.nr_slab_pages == plain.engine.nr_slab_pages > 20


def test_the_direct_map_of_i386() -> None:
    with open_trace(DATA / "traces" / "i386.trace.txt.gz") as trace:
        assert survey(trace).page_offset == 0xC0000000


def test_without_frames_a_distant_map_is_not_taken_for_memory() -> None:
    rows = [kmalloc(KASLR_BASE + 4096 * i) for i in range(200)]
    found = survey([batch(rows)])
    assert found.kaslr
    assert found.page_offset == 0
    description, _ = infer_description(found)
    assert description.memory_bytes <= 8 << 30


def test_a_single_pair_settles_nothing() -> None:
    rows = [page_alloc(0x500, 1, GFP_SLAB), cache_alloc(KASLR_BASE + (0x500 << 12))]
    found = survey([batch(rows)])
    assert found.page_offset == 0
    pairs = [
        row
        for i in range(4)
        for row in (page_alloc(0x500 + 8 * i, 1, GFP_SLAB), cache_alloc(KASLR_BASE + ((0x501 + 8 * i) << 12)))
    ]
    assert survey([batch(pairs)]).page_offset == KASLR_BASE


def test_a_few_damaged_numbers_do_not_make_the_machine_larger() -> None:
    rows = [page_alloc(0x100 + i, cpu=i % 2) for i in range(400)]
    sound = infer_description(survey([batch(rows)]))[0]
    rows[7] |= {"target": 0x4FAFFDCD}
    rows[9] |= {"target": 0x3B230E}
    rows[90] |= {"cpu": 801}
    found = survey([batch(rows)])
    assert found.nr_cpus == 2
    description, assumed = infer_description(found)
    assert (description.cpus, description.memory_bytes) == (2, sound.memory_bytes)
    assert any("damage" in line for line in assumed)


def test_a_survey_can_be_sent_to_another_process() -> None:
    rows = [page_alloc(0x500 + 8 * i, 1, GFP_SLAB, cpu=i % 3) for i in range(50)]
    rows += [cache_alloc(KASLR_BASE + 4096 * i) for i in range(50)]
    found = survey([batch(rows)])
    copy = pickle.loads(pickle.dumps(found))
    for name in ("events", "first_ns", "last_ns", "cpus", "max_pfn", "frames", "mapped", "pointers", "cache_names"):
        assert getattr(copy, name) == getattr(found, name), name
    assert (copy.hashed, copy.kaslr, copy.page_offset, copy.wide) == (
        found.hashed,
        found.kaslr,
        found.page_offset,
        found.wide,
    )
    assert infer_description(copy) == infer_description(found)
    copy.add(batch(rows))
    assert copy.events == 2 * found.events == 200


def test_memory_and_cpus_that_are_rarely_used_count() -> None:
    rows = [page_alloc(0x100 + i) for i in range(400)] + [page_alloc(0x40000 + i, cpu=3) for i in range(10)]
    found = survey([batch(rows)])
    assert found.nr_cpus == 4
    assert infer_description(found)[0].memory_bytes > 1 << 30


@pytest.mark.parametrize("base", [PAGE_OFFSETS["x86_64"], PAGE_OFFSETS["i386"]])
def test_a_trace_of_one_low_object_gets_a_machine_that_boots(base: int) -> None:
    description, _ = infer_description(survey([batch([cache_alloc(base + (16 << 20))])]))
    with Machine.boot(description) as machine:
        machine.validate()
