# SPDX-License-Identifier: GPL-2.0-only
"""What notebooks show, and tables as data frames."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kmem.analysis.summary import Analysis, analyse
from kmem.errors import NotSupportedError
from kmem.linux.gfp import GFP_KERNEL
from kmem.machine.machine import Machine
from kmem.machine.table import Table
from kmem.replay.replay import Replay, replay

BOOT = Path(__file__).parent.parent / "data/boot.trace.txt.gz"


@pytest.fixture(scope="module")
def run() -> Replay:
    return replay(str(BOOT))


@pytest.fixture(scope="module")
def analysis(run: Replay) -> Analysis:
    return analyse(run)


def test_tables_hold_what_the_analysis_does(analysis: Analysis) -> None:
    tables = analysis.tables()
    sites = tables["call_sites"].to_arrow()
    assert sites["name"].to_pylist() == [site.name for site in analysis.call_sites]
    assert sites["live_alloc"].to_pylist() == [site.live_alloc for site in analysis.call_sites]
    assert tables["caches"].to_arrow()["slabs"].to_pylist() == [cache.slabs for cache in analysis.caches]
    assert len(tables["failures"]) == 0 and "reason" in tables["failures"].to_arrow().column_names
    assert len(tables["fallbacks"]) == analysis.fallbacks.kept


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_data_frames(library: str, analysis: Analysis) -> None:
    pytest.importorskip(library)
    for name, table in analysis.tables().items():
        frame = getattr(table, f"to_{library}")()
        assert len(frame) == len(table), name
        assert list(frame.columns) == table.to_arrow().column_names


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(NotSupportedError, match=f"this needs {library}; pip install {library}"):
        getattr(Table.of("t", {"a": [1]}), f"to_{library}")()


def test_a_machine_in_a_notebook() -> None:
    with Machine.boot("x86_64", ram="512M", cpus=1) as m:
        m.kmalloc(100, GFP_KERNEL)
        shown = m._repr_html_()
        view = m.view()
    assert len(view.zone_table()) == sum(zone.populated for zone in view.zones)
    assert len(view.cache_table()) == len(view.caches)
    for zone in view.zones:
        assert f"<td>{zone.name}</td>" in shown or not zone.populated
    assert "<td>kmalloc-128</td>" in shown
    assert "shut down" in m._repr_html_()


def test_a_replay_in_a_notebook(run: Replay, analysis: Analysis) -> None:
    assert f'<td>events</td><td style="text-align:right">{run.engine.nr_events:,}</td>' in run._repr_html_()
    assert "<td>inode_cache</td>" in analysis._repr_html_()


def test_names_are_no_markup_and_long_tables_are_cut() -> None:
    shown = Table.of("<t>", {"<c>": ["<script>"] * 100, "n": list(range(100))})._repr_html_()
    assert "<script>" not in shown and "<c>" not in shown and "<t>" not in shown
    assert shown.count("&lt;script&gt;") == 30 and "the first 30 of 100" in shown
