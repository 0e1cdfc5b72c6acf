# SPDX-License-Identifier: GPL-2.0-only
"""Decoded traces: the same events again, in a file that lasts as long as somebody needs it."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from kmem.trace import open_trace
from kmem.trace.decoded import DecodedTrace, DecodedTraceWriter

DATA = Path(__file__).parent.parent / "data"
TRACES = [
    "boot.trace.txt.gz",
    "traces/hashed.trace.txt.gz",
    "traces/i386.trace.txt.gz",
    "traces/amd64.perf-script.txt.gz",
    "traces/amd64.perf.data.zst",
    "traces/v6.trace.dat.xz",
    "traces/v7.trace.dat",
]
REPLAYED = [
    "time_ns",
    "target",
    "bytes_req",
    "bytes_alloc",
    "pid",
    "cache",
    "call_site",
    "gfp",
    "cpu",
    "flags",
    "node",
    "event",
    "order",
]
Usage = namedtuple("Usage", "total used free")


def decode(name: str, batch_events: int = 65536) -> DecodedTrace:
    with open_trace(DATA / name, batch_events=batch_events) as reader, DecodedTraceWriter() as writer:
        for batch in reader:
            writer.add(batch)
        decoded = writer.finish(reader)
    assert decoded is not None
    return decoded


@pytest.mark.parametrize("name", TRACES)
def test_the_events_are_those_of_the_trace(name: str) -> None:
    decoded = decode(name, 1000)
    with open_trace(DATA / name, batch_events=1000) as reader, decoded.open() as again:
        for batch, copy in zip(reader, again, strict=True):
            assert len(batch) == len(copy)
            for column in REPLAYED:
                assert np.array_equal(getattr(batch, column), getattr(copy, column)), column
            assert set(copy.migratetype) == {-1}
            assert set(copy.comm) == {0}
        for table in ("caches", "call_sites"):
            assert getattr(reader.strings, table).strings() == getattr(again.strings, table).strings()
        assert reader.stats == again.stats
        assert reader.comments == again.comments
        assert (reader.path, reader.format) == (again.path, again.format)
        assert (reader.pointer_digits, reader.nr_cpus) == (again.pointer_digits, again.nr_cpus)
        assert again.progress == (decoded.size_bytes, decoded.size_bytes)


def test_it_can_be_read_many_times_and_names_added() -> None:
    decoded = decode("boot.trace.txt.gz")
    names = decoded.open().strings.caches
    before = names.strings()
    assert names.code(before[2]) == 2  # type: ignore[attr-defined]
    assert names.code("a cache of its own") == len(before)  # type: ignore[attr-defined]
    assert decoded.open().strings.caches.strings() == before
    assert sum(map(len, decoded.open())) == sum(map(len, decoded.open())) > 5000


def test_what_was_read_of_a_large_file_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmem.trace.decoded._MOST_MAPPED", 1000)
    decoded = decode("boot.trace.txt.gz", 700)
    sums = [[int(batch.target.sum(dtype="u8")) for batch in decoded.open()] for _ in range(2)]
    with open_trace(DATA / "boot.trace.txt.gz", batch_events=700) as reader:
        assert sums == [[int(batch.target.sum(dtype="u8")) for batch in reader]] * 2


def test_a_copy_in_another_process_reads_the_same_file() -> None:
    decoded = decode("boot.trace.txt.gz", 500)
    program = (
        "import pickle, sys; copy = pickle.load(sys.stdin.buffer); "
        "print(copy.usable, sum(int(batch.target.sum(dtype='u8')) for batch in copy.open()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(decoded), capture_output=True, check=True
    ).stdout.split()
    assert said == [b"True", b"%d" % sum(int(batch.target.sum(dtype="u8")) for batch in decoded.open())]


def test_a_copy_outlives_the_first_and_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    decoded = decode("boot.trace.txt.gz")
    assert list(tmp_path.iterdir()) == []
    copy = pickle.loads(pickle.dumps(decoded))
    again = pickle.dumps(copy)
    events = sum(map(len, decoded.open()))
    del decoded
    gc.collect()
    assert sum(map(len, copy.open())) == events
    assert pickle.loads(again).usable
    del copy
    gc.collect()
    assert not pickle.loads(again).usable


def test_another_file_under_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    decoded = decode("boot.trace.txt.gz")
    packed = pickle.dumps(decoded)
    number = decoded.__reduce__()[1][0].rpartition("/")[2]
    assert pickle.loads(packed).usable
    (tmp_path / "other").write_bytes(bytes(4096))
    other = os.open(tmp_path / "other", os.O_RDONLY)
    try:
        os.dup2(other, int(number))
        assert not pickle.loads(packed).usable
    finally:
        os.close(other)


@pytest.mark.parametrize("free", [0, 1000, 400_000])
def test_without_room_there_is_none(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - free, free))
    with open_trace(DATA / "boot.trace.txt.gz", batch_events=1000) as reader, DecodedTraceWriter() as writer:
        for batch in reader:
            writer.add(batch)
        assert writer.finish(reader) is None


def test_a_disk_that_is_full_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self) -> None:
            self.left = 3

        def write(self, data: bytes) -> None:
            self.left -= 1
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: Full())
    with open_trace(DATA / "boot.trace.txt.gz") as reader, DecodedTraceWriter() as writer:
        for batch in reader:
            writer.add(batch)
        assert writer.finish(reader) is None


def test_no_folder_for_temporary_files() -> None:
    with open_trace(DATA / "boot.trace.txt.gz") as reader, DecodedTraceWriter("no/such/folder") as writer:
        for batch in reader:
            writer.add(batch)
        assert writer.finish(reader) is None
