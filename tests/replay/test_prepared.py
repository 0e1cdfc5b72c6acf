# SPDX-License-Identifier: GPL-2.0-only
"""Prepared traces: a replay of one is the replay of the trace."""

from __future__ import annotations

import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from kmem.analysis.compare import figures
from kmem.analysis.summary import analyse
from kmem.errors import InputError
from kmem.replay.prepared import PreparedTrace, prepare
from kmem.replay.replay import Replay
from kmem.replay.variant import Variant
from kmem.report.replay_json import replay_to_dict

DATA = Path(__file__).parent.parent / "data"
BOOT = str(DATA / "boot.trace.txt.gz")
Usage = namedtuple("Usage", "total used free")
TRACES = [BOOT, *(str(DATA / "traces" / name) for name in ("hashed.trace.txt.gz", "i386.trace.txt.gz", "v7.trace.dat"))]
VARIANTS = {
    "inferred": [],
    "knobs": ["vm.min_free_kbytes=16384", "slub_max_order=0"],
    "load": ["scale_load=3", "drop=getname_flags*"],
    "pool": ["mempool.kmalloc-64=8", "atomic_to_kernel=*"],
    "large": ["kvmalloc_above=4096", "resize.*=5000"],
}


def said(run: Replay) -> dict[str, object]:
    """All that a replay says, and the state that it left."""
    analysis = analyse(run)
    told = replay_to_dict(analysis, source="")
    return {**told, "digest": run.machine.digest(), "all assumed": run.assumed, "figures": figures(analysis)}


@pytest.fixture(scope="module")
def prepared() -> dict[str, PreparedTrace]:
    return {trace: prepare(trace) for trace in TRACES}


@pytest.mark.parametrize("trace", TRACES, ids=lambda name: Path(name).name)
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_replay_is_the_same(trace: str, settings: list[str], prepared: dict[str, PreparedTrace]) -> None:
    variant = Variant().with_settings(settings)
    assert said(variant.replay(trace, prepared=prepared[trace])) == said(variant.replay(trace))


def test_on_a_given_machine_only_the_beginning_is_looked_at(prepared: dict[str, PreparedTrace]) -> None:
    variant = Variant(machine="x86_64", ram="512M")
    assert said(variant.replay(BOOT, prepared=prepared[BOOT])) == said(variant.replay(BOOT))


def test_one_replay_does_not_change_the_next(prepared: dict[str, PreparedTrace]) -> None:
    plain = said(Variant().replay(BOOT, prepared=prepared[BOOT]))
    Variant().with_settings(VARIANTS["pool"]).replay(BOOT, prepared=prepared[BOOT])
    assert said(Variant().replay(BOOT, prepared=prepared[BOOT])) == plain


def test_without_room_the_trace_itself_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = said(Variant().replay(BOOT))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1, 1, 0))
    kept = prepare(BOOT)
    assert kept.decoded is None
    assert not kept.lost
    assert not kept.self_contained
    assert said(Variant().replay(BOOT, prepared=kept)) == plain


def test_a_copy_without_the_file_knows(prepared: dict[str, PreparedTrace]) -> None:
    packed = pickle.dumps(prepare(BOOT))
    copy = pickle.loads(packed)  # the first is gone
    assert copy.lost
    assert not copy.self_contained
    assert copy.whole.survey.events == prepared[BOOT].whole.survey.events
    assert said(Variant().replay(BOOT, prepared=copy)) == said(Variant().replay(BOOT))


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    prepare(BOOT, progress=lambda *numbers: told.append(numbers))
    assert told[-1][0] == told[-1][1] == Path(BOOT).stat().st_size


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        prepare(str(tmp_path / "none"))
    (tmp_path / "text").write_text("no trace\n")
    with pytest.raises(InputError, match="no line of"):
        prepare(str(tmp_path / "text"))
