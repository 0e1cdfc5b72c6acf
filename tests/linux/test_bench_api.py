# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark of the calls takes the debugging aids out of sources that are as it expects them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = runpy.run_path(str(ROOT / "benchmarks/bench_api.py"))["PLACES"]


@pytest.mark.parametrize("name", PLACES)
def test_every_place_where_aids_listen_is_found_once_or_more(name: str) -> None:
    text = (ROOT / "src/kmem/mm" / name).read_text()
    for there, instead in PLACES[name]:
        assert there in text
        text = text.replace(there, instead)
    compile(text, name, "exec")
