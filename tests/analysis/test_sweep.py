# SPDX-License-Identifier: GPL-2.0-only
"""Sweeps: the grid, results on disk, lost workers, and a sweep that was killed and goes on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.replay.made_traces import exhausted

from kmem.analysis.compare import FIGURES
from kmem.analysis.sweep import (
    GOALS,
    Cell,
    _packed,
    find_traces,
    make_grid,
    pareto,
    prepare_trace,
    run_cell,
    sweep,
    unpacked,
)
from kmem.cli import main
from kmem.errors import KmemError

pytest.importorskip("distributed")

DATA = Path(__file__).parent.parent / "data"
BOOT = str(DATA / "boot.trace.txt.gz")
# 24 settings
VARY = ("vm.min_free_kbytes=1024,4096,8192", "slub_max_order=0,1,3", "scale_load=1,2")
GRID = (*VARY, "cpus=1,2")


def in_folder(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("cells/*.parquet")}


def test_the_grid_has_every_combination_once() -> None:
    axes, cells = make_grid([BOOT], ["RAM=1G,2G,1G", "slub-max-order=0,3", "min_free_kbytes=4096"])
    assert axes == (("ram", ("1G", "2G")), ("slub_max_order", ("0", "3")), ("vm.min_free_kbytes", ("4096",)))
    assert len(cells) == len({cell.key for cell in cells}) == 4
    assert cells[1].variant.cmdline == "slub_max_order=3"
    (again, *_) = make_grid([BOOT], ["RAM=1G,2G,1G", "slub-max-order=0,3", "min_free_kbytes=4096"])[1]
    assert again.key == cells[0].key


def test_another_content_of_a_trace_is_another_cell(tmp_path: Path) -> None:
    trace = exhausted(tmp_path / "t.txt", pages=10, burst=1)
    before = make_grid([str(trace)], ["cpus=1"])[1][0].key
    exhausted(trace, pages=10, burst=2)
    assert make_grid([str(trace)], ["cpus=1"])[1][0].key != before


def test_a_worker_killed_midway_costs_no_cell(tmp_path: Path) -> None:
    from distributed import LocalCluster

    traces = [BOOT, str(DATA / "traces/hashed.trace.txt.gz")]
    axes, cells = make_grid(traces, GRID)
    assert len(cells) == 2 * 36
    cells = [cell for cell in cells if ("slub_max_order", "1") not in cell.settings]
    assert len(cells) == 2 * 24
    killed: list[int] = []
    with (
        warnings.catch_warnings(),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
    ):
        warnings.simplefilter("ignore")

        def told(finished: int, kept: int, whole: int) -> None:
            if finished == 10 and not killed:
                killed.append(cluster.workers[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        done = sweep(axes, cells, output=tmp_path / "out", scheduler=cluster.scheduler_address, told=told)
    assert killed
    assert (done.computed, done.kept) == (48, 0)
    assert in_folder(tmp_path / "out") == {cell.key for cell in cells}
    assert [row["error"] for row in done.rows] == [""] * 48
    # what came over the cluster is what a replay here gives
    for cell, row in list(zip(cells, done.rows, strict=True))[::17]:
        assert {**run_cell(cell), "pareto": row["pareto"]} == row
    table = pq.read_table(tmp_path / "out/results.parquet")
    assert table.num_rows == 48
    assert set(FIGURES) < set(table.column_names)


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return sorted(found)


def test_a_lost_worker_is_replaced_and_only_what_is_missing_computed(tmp_path: Path) -> None:
    """24 settings over two traces: a worker is killed, then the sweep given up, then started again."""
    axes, cells = make_grid([BOOT, str(DATA / "traces/hashed.trace.txt.gz")], (*VARY, "cpus=1,2"))
    cells = [cell for cell in cells if ("slub_max_order", "1") not in cell.settings]
    assert len(cells) == 2 * 24
    killed: list[int] = []

    def told(finished: int, kept: int, whole: int) -> None:
        if finished == 10 and not killed:
            server: Any = forkserver._forkserver  # type: ignore[attr-defined]
            killed.append(children(server._forkserver_pid)[0])
            os.kill(killed[0], signal.SIGKILL)
        if finished == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(axes, cells, output=tmp_path, told=told)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.parquet")}
    assert len(before) == 30
    assert not Path(f"/proc/{killed[0]}").exists()
    done = sweep(axes, cells, output=tmp_path)
    assert (done.computed, done.kept) == (18, 30)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [row["error"] for row in done.rows] == [""] * 48


def test_two_sweeps_do_not_write_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_workers(monkeypatch)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/.part-1-x.parquet").write_bytes(b"PAR1")  # of one that was killed
    axes, cells = make_grid([BOOT], ["cpus=1,2"])

    def told(finished: int, kept: int, whole: int) -> None:
        with pytest.raises(KmemError, match="another sweep is writing there"):
            sweep(axes, cells, output=tmp_path)

    assert sweep(axes, cells, output=tmp_path, told=told).computed == 2
    assert sweep(axes, cells, output=tmp_path).kept == 2
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".part")] == []
    # others may read results, if the user lets them
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.parquet")} == {0o666 & ~mask}


@pytest.mark.parametrize("wait", [0.0, 3.0])
def test_an_interrupted_sweep_ends_with_all_its_processes(wait: float, tmp_path: Path) -> None:
    vary = ("--vary", "scale_load=32,40,48,56,64", "--vary", "slub_max_order=0,1,2,3", "--vary", "cpus=1,2,3,4")
    process = subprocess.Popen(
        [sys.executable, "-m", "kmem", "sweep", BOOT, *vary, "-o", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while wait and not in_folder(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    while not wait and not children(process.pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert not wait or b"the same command goes on from there" in said
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("processes are left")


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    args = ["sweep", BOOT, *(part for text in VARY for part in ("--vary", text)), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "kmem", *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(in_folder(out)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {key: (out / f"cells/{key}.parquet").stat().st_mtime_ns for key in in_folder(out)}
    assert len(before) >= 3
    for path in out.glob("cells/*.parquet"):  # none half-written
        assert pq.read_table(path).num_rows == 1
    (out / "results.parquet").unlink(missing_ok=True)
    one = sorted(before)[0]
    (out / f"cells/{one}.parquet").write_bytes(b"PAR1 damaged")  # is computed again
    assert main([*args, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["computed"], done["kept"]) == (18 - len(before) + 1, len(before) - 1)
    after = {key: (out / f"cells/{key}.parquet").stat().st_mtime_ns for key in in_folder(out)}
    assert len(after) == 18
    assert all(after[key] == stamp for key, stamp in before.items() if key != one)
    # once more: nothing to do, and no workers are started for it
    assert main(args) == 0
    text = capsys.readouterr().out
    assert "18 cells: 0 computed, 18 kept from before" in text
    assert "no other setting is as good" in text


def test_a_machine_that_cannot_boot_is_a_row() -> None:
    (cell,) = make_grid([BOOT], ["ram=20M"])[1]
    row = run_cell(cell)
    assert "needs 76 MiB" in row["error"]
    assert row["failures"] is None
    assert pareto([row]) == [False]


def test_the_front_is_what_nothing_else_beats() -> None:
    def row(failures: int, pages: int, trace: str = "a", load: str = "1") -> dict[str, object]:
        figures = {"failures": failures, "peak_used_pages": pages, "peak_slab_bytes": 0, "fallbacks": 0}
        return {"trace": trace, "scale_load": load, "error": "", **figures}

    rows = [row(0, 9), row(5, 5), row(5, 6), row(9, 1), row(9, 9), row(9, 9, "b"), row(9, 9, "a", "2")]
    assert pareto(rows) == [True, True, False, True, False, True, True]
    # less memory is worth something, too
    sized = [{**row(0, 9), "ram": "2G"}, {**row(0, 9), "ram": "1G"}, {**row(1, 9), "ram": "512M"}]
    assert pareto(sized) == [False, True, True]


def test_the_front_of_many_cells_is_found_soon() -> None:
    rows = [
        {"trace": "a", "error": "", **dict(zip(GOALS, (n % 977, -(n * 7919) % 983, n % 5, 0), strict=True))}
        for n in range(20_000)
    ]
    best = pareto(rows)
    front = [tuple(row[goal] for goal in GOALS) for row, is_best in zip(rows, best, strict=True) if is_best]
    assert 0 < len(front) < 100
    for row in rows[::101]:
        point = tuple(row[goal] for goal in GOALS)
        beaten = any(all(a <= b for a, b in zip(other, point, strict=True)) and other != point for other in front)
        assert beaten != (point in front)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([BOOT], "the grid is empty"),
        ([BOOT, "--vary", "cpus="], "no values"),
        ([BOOT, "--vary", "cpus"], "no values"),
        ([BOOT, "--vary", "cpus=1,,2"], "no values"),
        ([BOOT, "--vary", "vm.swappines=1,2"], "unknown sysctl"),
        ([BOOT, "--vary", "frobnicate=1,2"], "unknown setting 'frobnicate'"),
        ([BOOT, "--vary", "cpus=1,x"], "whole number"),
        ([BOOT, "--vary", "ram=1G,2G", "--set", "RAM=4G"], "both set and varied"),
        ([BOOT, "--vary", "cpus=1", "--vary", "cpus=2"], "twice"),
        ([BOOT, "--vary", "vm.min_free_kbytes=" + ",".join(map(str, range(100_001)))], "a grid of 100,001 cells"),
        (["no/such/*.gz", "--vary", "cpus=1,2"], "no such trace"),
        (["-", "--vary", "cpus=1,2"], "give a file"),
        (["nope://bucket/x", "--vary", "cpus=1,2"], "cannot be read"),
        ([BOOT, "--machine", "sparc", "--vary", "cpus=1,2"], "no machine 'sparc'"),
        ([BOOT, "--vary", "cpus=1,2", "--scheduler", "nonsense:::"], "no scheduler answers"),
        ([BOOT, "--vary", "cpus=1,2", "--scheduler", "tcp://127.0.0.1:1"], "no scheduler answers"),
    ],
)
def test_sweeps_that_cannot_be(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmem.analysis.sweep._CONNECT_TIMEOUT", "300ms")
    assert main(["sweep", *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_no_result_at_all_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_workers(monkeypatch)
    (tmp_path / "text").write_text("no trace\n")
    assert main(["sweep", str(tmp_path / "text"), "--vary", "cpus=1,2"]) == 2
    assert "no line of an ftrace" in capsys.readouterr().out
    assert main(["sweep", str(tmp_path / "text"), BOOT, "--vary", "cpus=1,2"]) == 0


def test_workers_take_only_the_cells_of_their_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _packed(BOOT)
    assert unpacked(packed) == BOOT
    monkeypatch.setattr("kmem.analysis.sweep.__version__", "9.9")
    with pytest.raises(ImportError, match="a worker has kmem 9.9"):
        unpacked(packed)


def test_no_distributed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["sweep", BOOT, "--vary", "cpus=1,2"]) == 2
    assert "pip install 'kmem[sweep]'" in capsys.readouterr().err


def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cells run here, one after the other."""

    def results(client: object, missing: dict[str, Cell]) -> object:
        return ((key, run_cell(cell)) for key, cell in missing.items())

    monkeypatch.setattr("kmem.analysis.sweep._client", lambda *how: contextlib.nullcontext())
    monkeypatch.setattr("kmem.analysis.sweep._results", results)


def test_cells_without_a_result_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_workers(monkeypatch)
    axes, cells = make_grid([BOOT], ["ram=20M,256M"])
    told: list[tuple[int, int, int]] = []
    first = sweep(axes, cells, output=tmp_path, told=lambda *numbers: told.append(numbers))
    assert [bool(row["error"]) for row in first.rows] == [True, False]
    assert told == [(0, 0, 2), (1, 0, 2), (2, 0, 2)]
    again = sweep(axes, cells, output=tmp_path)
    assert (again.computed, again.kept) == (1, 1)
    assert again.rows == first.rows
    assert pq.read_table(tmp_path / "results.parquet").to_pylist() == first.rows


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'kmem'"), "workers cannot run kmem"),
        (concurrent.futures.CancelledError("kmem-1"), "the cluster was lost"),
        (ConnectionError("gone"), "the cluster was lost"),
    ],
)
def test_a_cluster_that_lets_one_down(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failed:
        def result(self) -> None:
            raise error

    class Client:
        def submit(self, *args: object, **options: object) -> Failed:
            return Failed()

    axes, cells = make_grid([BOOT], ["ram=256M"])
    monkeypatch.setattr("kmem.analysis.sweep._client", lambda *how: contextlib.nullcontext(Client()))
    monkeypatch.setattr("distributed.as_completed", iter)
    with pytest.raises(KmemError, match=said):
        sweep(axes, cells, output=tmp_path)


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes, cells = make_grid([BOOT], ["cpus=1,2,3,4"])
    written: list[Path] = []
    real = os.replace

    def replace(source: str, target: Path) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)
        written.append(Path(target))

    without_workers(monkeypatch)
    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KmemError, match=r"No space left on device; finished cells are kept"):
        sweep(axes, cells, output=tmp_path, workers=1)
    assert sorted(tmp_path.rglob("*.parquet")) == sorted(written)
    assert [path for path in tmp_path.rglob("*") if path.name.startswith(".part")] == []


def test_a_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert main(["sweep", BOOT, "--vary", "cpus=1", "-o", str(tmp_path / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_traces_by_pattern_and_url(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        exhausted(tmp_path / name, pages=10, burst=1)
    assert find_traces([f"{tmp_path}/*.txt", f"{tmp_path}/a.txt"]) == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
    pytest.importorskip("fsspec")
    urls = find_traces([f"file://{tmp_path}/*.txt"])
    assert len(urls) == 2
    (cell,) = make_grid(urls[:1], ["ram=128M"])[1]
    here = make_grid([f"{tmp_path}/a.txt"], ["ram=128M"])[1][0]
    assert {**run_cell(cell), "trace": ""} == {**run_cell(here), "trace": ""}


def test_traces_of_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("a.txt", "b.txt"):
        memory.pipe(f"/fleet/{name}", exhausted(tmp_path / name, pages=10, burst=1).read_bytes())
    memory.pipe("/fleet/c.log", b"no trace\n")
    assert find_traces(["memory://fleet/*.txt"]) == ["memory:///fleet/a.txt", "memory:///fleet/b.txt"]
    axes, cells = make_grid(find_traces(["memory://fleet/*"]), ["ram=128M,256M"])
    without_workers(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = sweep(axes, cells)
    assert [bool(row["error"]) for row in done.rows] == [False] * 4 + [True] * 2
    assert done.rows[4]["error"].startswith("memory:///fleet/c.log:1: no line of")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]  # copies are gone
    # from a prepared trace, which is read once, and when it is gone
    shared = prepare_trace(cells[0].trace)
    memory.rm("/fleet/a.txt")
    assert {**run_cell(cells[0], shared), "pareto": done.rows[0]["pareto"]} == done.rows[0]
    assert "cannot be read" in run_cell(cells[0])["error"]
    assert "cannot be read" in str(prepare_trace(cells[0].trace))


def test_a_storage_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(KmemError, match=r"s3://fleet/\*\.gz cannot be read: Install s3fs"):
        find_traces(["s3://fleet/*.gz"])


def test_a_worker_that_cannot_reach_the_decoded_events_decodes_them_itself() -> None:
    cell = make_grid([BOOT], ["ram=256M"])[1][0]
    copy = pickle.loads(pickle.dumps(prepare_trace(BOOT)))  # the first is gone
    assert copy.lost
    assert run_cell(cell, copy) == run_cell(cell)
    assert copy.self_contained
