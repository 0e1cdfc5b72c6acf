# SPDX-License-Identifier: GPL-2.0-only
"""A binary recording and its text drive the model alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmem.analysis.summary import analyse
from kmem.replay.replay import replay
from kmem.report.replay_json import replay_to_dict

DATA = Path(__file__).parent.parent / "data"
TRACES = DATA / "traces"
KALLSYMS = DATA / "kallsyms" / "amd64.txt.gz"


def without_times(value: object) -> object:
    """Figures alone: texts have microseconds, and say less of the machine."""
    if isinstance(value, dict):
        left_out = ("trace", "machine", "time_ns", "first_ns", "last_ns", "bytes", "lines", "notes", "format")
        return {name: without_times(each) for name, each in value.items() if name not in left_out}
    if isinstance(value, list):
        return [without_times(each) for each in value]
    return value


@pytest.mark.parametrize(
    ("binary", "text"),
    [
        ("v6.trace.dat.xz", "v6.trace-cmd-report.txt.gz"),
        ("v7.trace.dat", "v7.trace-cmd-report.txt.gz"),
        ("amd64.perf.data.zst", "amd64.perf-script.txt.gz"),
    ],
)
def test_recording_and_text_are_replayed_alike(binary: str, text: str) -> None:
    options = {"kallsyms": KALLSYMS} if "perf" in binary else {}
    runs = [replay(TRACES / binary, cpus=1, **options), replay(TRACES / text, cpus=1)]
    assert runs[0].machine.digest() == runs[1].machine.digest()
    found = [without_times(replay_to_dict(analyse(run), source="trace")) for run in runs]
    assert found[0] == found[1]
