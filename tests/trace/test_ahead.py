# SPDX-License-Identifier: GPL-2.0-only
"""Reading ahead in a second thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from kmem.replay.replay import replay
from kmem.trace import open_trace
from kmem.trace.ahead import read_ahead
from tests.trace.test_binary import DATA


def readers() -> list[threading.Thread]:
    """The threads that read at present."""
    return [each for each in threading.enumerate() if each.name == "reader"]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_order_and_end(depth: int) -> None:
    assert list(read_ahead(iter(range(1000)), depth)) == list(range(1000))
    assert list(read_ahead([], depth)) == []
    assert not readers()


def test_errors_come_where_the_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("gone")

    found = []
    with pytest.raises(KeyError, match="gone"):
        found.extend(read_ahead(items()))
    assert found == [1, 2]
    assert not readers()


def test_no_more_is_made_than_may_wait() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert len(made) <= 4
    assert not readers()


def test_batches_are_those_of_the_plain_reader() -> None:
    path = DATA / "v7.trace.dat"
    with open_trace(path, batch_events=500) as one, open_trace(path, batch_events=500) as other:
        plain, ahead = list(one), list(other.read_ahead())
        assert one.stats == other.stats
    assert len(plain) == len(ahead) > 5
    for left, right in zip(plain, ahead, strict=True):
        for name in ("time_ns", "target", "call_site", "cache", "gfp", "comm"):
            assert np.array_equal(getattr(left, name), getattr(right, name)), name


def test_a_replay_that_fails_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmem.replay.replay.Replay._feed", lambda run, batch: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        replay(str(DATA / "v7.trace.dat"), batch_events=100)
    assert not readers()
