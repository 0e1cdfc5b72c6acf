# SPDX-License-Identifier: GPL-2.0-only
"""How fast binary recordings are read, and ``kmem stat`` beside ``perf kmem`` on the same file.

usage: bench_binary.py [--events N ...] [--runs N] [--others] [--start-up]

A perf.data and a trace.dat are synthesised in the shape of real ones: two CPUs,
rounds as perf writes them, objects of 48 caches and 400 call sites, most of
them freed soon.  Whole programs are timed from outside, start-up included, run
alternately; the median of each is printed, and the most memory that it took.
The readers alone are timed inside the process, in CPU time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "src"))

from tests.trace.writers import Kernel  # noqa: E402

from kmem.trace import open_trace  # noqa: E402

SITES, CACHES, THREADS, LAG = 400, 48, 64, 40_000
PER_ROUND = 12_000  # groups of four events
BASE, TEXT = 0xFFFF888000000000, 0xFFFFFFFF81000000
SIZES = np.array([8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096], np.uint64)

_HEAD = [("type", "<u4"), ("misc", "<u2"), ("size", "<u2"), ("id", "<u8"), ("ip", "<u8"), ("pid", "<u4")]
_HEAD += [("tid", "<u4"), ("time", "<u8"), ("cpu", "<u4"), ("res", "<u4"), ("period", "<u8"), ("raw", "<u4")]
_COMMON = [("common_type", "<u2"), ("common_flags", "u1"), ("common_preempt", "u1"), ("common_pid", "<i4")]
_SITE = [("call_site", "<u8"), ("ptr", "<u8")]
_ALLOC = [("bytes_req", "<u8"), ("bytes_alloc", "<u8"), ("gfp_flags", "<u8"), ("node", "<i4"), ("accounted", "<u4")]
_NAME = [("name", "<u4"), ("text", "S16")]
RAW = {
    "kmem_cache_alloc": np.dtype(_COMMON + _SITE + _ALLOC),
    "kmem_cache_free": np.dtype(_COMMON + _SITE + _NAME),
    "kmalloc": np.dtype(_COMMON + _SITE + _ALLOC),
    "kfree": np.dtype(_COMMON + _SITE),
}
NUMBERS = {"kmem_cache_alloc": 553, "kmem_cache_free": 550, "kmalloc": 552, "kfree": 551}


def _sample(raw: np.dtype) -> np.dtype:
    head = np.dtype(_HEAD).itemsize
    size = -(-(head + raw.itemsize) // 8) * 8
    return np.dtype([*_HEAD, ("event", raw), ("pad", f"V{size - head - raw.itemsize}")])


def _fill(events: np.ndarray, name: str, first: int, rng: np.random.Generator) -> None:
    """Fill the raw part of one kind of event; objects are freed `LAG` groups after their allocation."""
    count = len(events)
    number = np.arange(first, first + count, dtype=np.uint64) + np.uint64(2 * LAG)
    object_number = number if "alloc" in name else number - np.uint64(LAG)
    which = (object_number * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(SITES)
    kind = 0 if "cache" in name else 1
    events["common_type"] = NUMBERS[name]
    events["call_site"] = np.uint64(TEXT + (0 if "alloc" in name else 32)) + which * np.uint64(64)
    events["ptr"] = np.uint64(BASE + kind * 4096) + object_number % np.uint64(2 * LAG) * np.uint64(8192)
    if "alloc" in name:
        events["bytes_alloc"] = SIZES[which % np.uint64(len(SIZES))]
        events["bytes_req"] = events["bytes_alloc"] - which % np.uint64(8)
        events["gfp_flags"] = np.where(which % np.uint64(3), 0xCC0, 0x400DC0)
        events["node"] = -1
        events["accounted"] = which % np.uint64(3) == 0
    if name == "kmem_cache_free":
        events["name"] = RAW[name].fields["text"][1] | 12 << 16
        events["text"] = np.array([f"cache_{n:05d}".encode() for n in range(CACHES)])[which % np.uint64(CACHES)]


def perf_data(path: Path, nr_events: int) -> None:
    """Write a perf.data of about `nr_events` events."""
    kernel = Kernel()
    rng = np.random.default_rng(1)
    samples = {name: _sample(raw) for name, raw in RAW.items()}
    group = np.dtype(list(samples.items()))
    empty = kernel.perf_file(b"")
    tracing = empty[empty.rindex(b"\x17\x08\x44tracing") :]
    head = bytearray(kernel.perf_file(b"", tracing=b""))[:-16]
    with path.open("wb") as file:
        file.write(head)
        start = file.tell()
        for thread in range(THREADS):
            file.write(kernel.comm({"pid": 100 + thread, "time": 0}, f"thread-{thread}"))
        clock = 10**12
        for first in range(0, nr_events // 4, PER_ROUND):
            count = min(PER_ROUND, nr_events // 4 - first)
            groups = np.zeros(count, group)
            times = clock + np.arange(count * 4, dtype=np.int64).reshape(count, 4) * 600
            clock += count * 2400
            pids = 100 + rng.integers(0, THREADS, (count + 63) // 64).repeat(64)[:count]
            for place, name in enumerate(RAW):
                events = groups[name]
                events["type"], events["size"] = 9, samples[name].itemsize
                events["id"] = NUMBERS[name] - 500
                events["pid"] = events["tid"] = pids
                events["time"] = times[:, place]
                events["raw"] = samples[name].itemsize - 60
                _fill(events["event"], name, first, rng)
                events["event"]["common_pid"] = pids
            # the buffers of the two CPUs: threads keep to one
            for cpu in range(2):
                mine = groups[pids % 2 == cpu]
                for name in RAW:
                    mine[name]["cpu"] = cpu
                file.write(mine.tobytes())
            file.write(kernel.round())
        size = file.tell() - start
        place = file.tell()
        file.write(kernel.pack("QQ", place + 16, len(tracing)) + tracing)
        file.seek(48)
        file.write(kernel.pack("Q", size))


def trace_dat(path: Path, nr_events: int) -> None:
    """Write a trace.dat (version 6) of about `nr_events` events on two CPUs."""
    kernel = Kernel()
    group = np.dtype(
        [(f"{name}_{part}", kind) for name in RAW for part, kind in (("head", "<u4"), ("event", RAW[name]))]
    )
    room = (4096 - 24) // group.itemsize
    rng = np.random.default_rng(1)
    cpus = []
    for cpu in range(2):
        count = nr_events // 8 // room * room
        groups = np.zeros(count, group)
        pids = (100 + 2 * rng.integers(0, THREADS // 2, (count + 63) // 64).repeat(64) + cpu)[:count]
        for name, raw in RAW.items():
            groups[f"{name}_head"] = (1200 << 5) | raw.itemsize // 4
            _fill(groups[f"{name}_event"], name, cpu * 4 * LAG, rng)
            groups[f"{name}_event"]["common_pid"] = pids
        pages = np.zeros((count // room, 4096), np.uint8)
        head = pages[:, :16].view("<u8")
        head[:, 0] = 10**12 + cpu * 600 + np.arange(len(pages), dtype=np.uint64) * np.uint64(room * 4 * 1200)
        head[:, 1] = room * group.itemsize
        pages[:, 16 : 16 + room * group.itemsize] = (
            groups.reshape(len(pages), room).view(np.uint8).reshape(len(pages), -1)
        )
        cpus.append(pages.tobytes())
    path.write_bytes(kernel.dat_6(cpus, {100 + thread: f"thread-{thread}" for thread in range(THREADS)}))


def program(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and most MiB of a whole program."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PAGER": "cat"}
    begin = time.perf_counter()
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)}: status {status}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def reader(kind: str, path: Path, runs: int) -> None:
    """Print events per CPU second of reading a recording."""
    seconds = []
    for _ in range(runs):
        begin = time.process_time()
        with open_trace(path) as trace:
            events = sum(len(batch) for batch in trace)
        seconds.append(time.process_time() - begin)
    speed = f"{events / statistics.median(seconds) / 1e6:.1f} M events/s"
    print(f"{kind}, {path.stat().st_size / 1e6:.0f} MB: {events:,} events, {speed}", flush=True)


def compare(path: Path, runs: int) -> None:
    """``kmem stat --slab`` beside ``perf kmem --slab stat``, alternately."""
    programs = {"kmem": [sys.executable, "-m", "kmem", "stat", "--slab", str(path)]}
    perf = shutil.which("perf")
    if perf:
        programs["perf"] = [perf, "kmem", "-i", str(path), "--slab", "stat"]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, arguments in programs.items():
            found[name].append(program(arguments))
    medians = {name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in found.items()}
    for name, (seconds, cpu, _) in medians.items():
        memory = max(run[2] for run in found[name])
        print(f"  {name:5} {seconds:7.2f} s  {cpu:7.2f} s of CPU  {memory:6.0f} MiB", flush=True)
    if perf:
        pairs = list(zip(found["perf"], found["kmem"], strict=True))
        for column, what in ((0, "perf / kmem"), (1, "the same in CPU time")):
            ratios = sorted(one[column] / other[column] for one, other in pairs)
            print(
                f"  {what}: median {statistics.median(ratios):.2f}, pairs {ratios[0]:.2f} to {ratios[-1]:.2f}",
                flush=True,
            )


def others(path: Path, nr_events: int, runs: int) -> None:
    """Export and replay end to end, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        programs = {
            "Parquet": ["convert", str(path), f"{folder}/out.parquet"],
            "Arrow IPC": ["convert", str(path), f"{folder}/out.arrow"],
            "Perfetto": ["convert", str(path), f"{folder}/out.json"],
            "replay": ["replay", str(path)],
        }
        for name, arguments in programs.items():
            found = [program([sys.executable, "-m", "kmem", *arguments]) for _ in range(runs)]
            seconds, cpu, memory = (statistics.median(column) for column in zip(*found, strict=True))
            speed = f"{nr_events / seconds / 1e6:.2f} M events/s, {nr_events / cpu / 1e6:.2f} in CPU time"
            print(f"  {name:9} {seconds:7.2f} s  {speed}  {memory:6.0f} MiB", flush=True)


def start_up(folder: Path, runs: int) -> None:
    """How long programs take that have next to nothing to do, beside Python alone and with NumPy."""
    recording = folder / "small.perf.data"
    apart(perf_data, recording, 2000)
    programs = {
        "python": ["-c", "pass"],
        "NumPy": ["-c", "import numpy"],
        "--help": ["-m", "kmem", "--help"],
        "stat": ["-m", "kmem", "stat", "--slab", str(recording)],
        "replay": ["-m", "kmem", "replay", str(recording)],
    }
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as kmem sets it
    for _ in range(2):  # the first time modules may have to be compiled
        found = {name: [program([sys.executable, *each]) for _ in range(runs)] for name, each in programs.items()}
    print("start-up", flush=True)
    for name, each in found.items():
        seconds, cpu, _ = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"  {name:9} {seconds * 1e3:5.0f} ms  {cpu * 1e3:5.0f} ms of CPU", flush=True)


def apart(work: Callable[..., None], *arguments: object) -> None:
    """Do something in a process of its own: the memory of this one counts as that of the programs it starts."""
    child = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--others", action="store_true", help="measure export and replay of the trace.dat, too")
    parser.add_argument("--start-up", action="store_true", help="measure programs that have nothing to do, too")
    parser.add_argument("--keep", type=Path, help="folder to keep the recordings in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        if options.start_up:
            start_up(folder, max(options.runs, 5))
        path = folder / "synthetic.trace.dat"
        apart(trace_dat, path, options.events[0])
        apart(reader, "trace.dat", path, options.runs)
        if options.others:
            others(path, options.events[0], options.runs)
        for count in options.events:
            path = folder / f"synthetic-{count}.perf.data"
            apart(perf_data, path, count)
            apart(reader, "perf.data", path, options.runs)
            compare(path, options.runs)
            if not options.keep:
                path.unlink()


if __name__ == "__main__":
    main()
