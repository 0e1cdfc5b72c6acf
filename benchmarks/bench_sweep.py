# SPDX-License-Identifier: GPL-2.0-only
"""How much sooner two workers finish a sweep than one.

usage: bench_sweep.py [TRACE ...] [--events N] [--runs N]

A sweep of 24 settings over each trace is run as a whole program, start-up
included, with one worker and with two in turns.  Without a TRACE, two of
`--events` events are made (see mix.py) and packed with gzip.  Printed are wall
time and CPU time of program and workers together, how many cores the rest of
the machine took meanwhile, and at the end medians and the ratio.  A sweep of
two cells of a small trace, in turns with the others, tells how long start and
end alone take.  What the machine allows is told by the same replays in plain
processes, without a cluster: one process for all traces, and one for each
half of them at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import gc
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mix import CACHE_ALLOC, CACHE_FREE, KFREE, KMALLOC, KMALLOC_SIZES, NAMED_CACHES, PAGES_ALLOC, generate

ROOT = Path(__file__).parent.parent
SMALL = ROOT / "tests" / "data" / "boot.trace.txt.gz"
#: 24 settings.
GRID = ("vm.min_free_kbytes=4096,16384,65536", "slub_max_order=0,1,2,3", "vm.watermark_scale_factor=10,100")
FEW = ("slub_max_order=0,3",)
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Run:
    """One sweep: seconds on the clock, CPU seconds of it and its workers, cores that others used."""

    wall: float
    cpu: float
    others: float


def write_mix(path: Path, events: int, seed: int) -> None:
    """Write a mix as ftrace prints it."""
    mix = generate(events, seed=seed)
    names = [name for name, _, _ in NAMED_CACHES]
    sizes = [size for _, size, _ in NAMED_CACHES]
    cache_of: dict[int, int] = {}
    with gzip.open(path, "wt", compresslevel=6) as file:
        file.write("# tracer: nop\n")
        columns = (mix.op, mix.slot, mix.ptr, mix.size, mix.gfp)
        for number, (op, slot, ptr, size, gfp) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            flags = "GFP_HIGHUSER_MOVABLE" if gfp == 0xCCA else "GFP_KERNEL"
            tail = f"gfp_flags={flags} node=-1 accounted=false"
            if op == CACHE_ALLOC:
                cache_of[slot] = cache = size - len(KMALLOC_SIZES)
                site = f"alloc_{names[cache]}+0x1c/0x90 ptr={ptr:016x} bytes_req={sizes[cache]}"
                event = f"kmem_cache_alloc: call_site={site} bytes_alloc={sizes[cache]} {tail}"
            elif op == CACHE_FREE:
                event = f"kmem_cache_free: call_site=put+0x1c/0x90 ptr={ptr:016x} name={names[cache_of[slot]]}"
            elif op == KMALLOC:
                given = next((fit for fit in KMALLOC_SIZES if fit >= size), 1 << (size - 1).bit_length())
                event = f"kmalloc: call_site=get+0x1c/0x90 ptr={ptr:016x} bytes_req={size} bytes_alloc={given} {tail}"
            elif op == KFREE:
                event = f"kfree: call_site=put+0x2c/0x90 ptr={ptr:016x}"
            elif op == PAGES_ALLOC:
                event = f"mm_page_alloc: page=0x1 pfn=0x{slot:x} order={size} migratetype=0 gfp_flags={flags}"
            else:
                event = f"mm_page_free: page=0x1 pfn=0x{slot:x} order={size}"
            file.write(f"   task-{100 + slot % 40}    [000] ..... {1 + number / 1e6:.6f}: {event}\n")


def _busy() -> float:
    """CPU seconds that the machine has worked since it was started."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / _TICKS


def run(traces: list[Path], grid: tuple[str, ...], workers: int) -> Run:
    """Run one sweep as a program, and wait for it."""
    vary = [part for text in grid for part in ("--vary", text)]
    args = [sys.executable, "-m", "kmem", "sweep", *map(str, traces), *vary, "--workers", str(workers), "--json"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    busy, start = _busy(), time.monotonic()
    process = subprocess.Popen([*args, "--set", "ram=4G"], stdout=subprocess.DEVNULL, env=environ)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the sweep ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    with contextlib.suppress(ChildProcessError):  # its helpers end after it, and become ours
        while True:
            usage = os.wait4(-1, 0)[2]
            cpu += usage.ru_utime + usage.ru_stime
    return Run(wall, cpu, max(0.0, _busy() - busy - cpu) / wall)


def plain(traces: list[Path], processes: int) -> float:
    """Seconds that so many processes take which share the traces, and know nothing of each other."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    start = time.monotonic()
    each = [
        subprocess.Popen([sys.executable, __file__, "--plain", *map(str, traces[n::processes])], env=environ)
        for n in range(processes)
    ]
    if sum(process.wait() != 0 for process in each):
        raise SystemExit("a replay failed")
    return time.monotonic() - start


def replay_all(traces: list[Path]) -> None:
    """Replay all cells here, one after the other."""
    from kmem.analysis.sweep import make_grid, prepare_trace, run_cell
    from kmem.replay.variant import Variant

    gc.collect()
    gc.freeze()
    for trace in traces:
        prepared = prepare_trace(str(trace))
        for cell in make_grid([str(trace)], GRID, base=Variant(ram="4G"))[1]:
            if run_cell(cell, prepared)["error"]:
                raise SystemExit("a cell failed")


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        return replay_all(options.traces)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as folder:
        traces = options.traces
        if not traces:
            traces = [Path(folder) / f"mix-{seed}.txt.gz" for seed in (1, 2)]
            for seed, trace in enumerate(traces, 1):
                write_mix(trace, options.events, seed)
        cells = 24 * len(traces)
        long: dict[int, list[Run]] = {1: [], 2: []}
        short: dict[int, list[Run]] = {1: [], 2: []}
        bare: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.runs):
            for workers in (1, 2):
                short[workers].append(run([SMALL], FEW, workers))
                bare[workers].append(plain(traces, workers))
                long[workers].append(last := run(traces, GRID, workers))
                print(
                    f"{workers} worker{'s' * (workers > 1)}: {last.wall:.2f} s, {last.cpu:.2f} CPU s, "
                    f"{1000 * last.cpu / cells:.0f} CPU ms a cell; others used {last.others:.2f} cores; "
                    f"without a cluster {bare[workers][-1]:.2f} s",
                    flush=True,
                )
    walls = {workers: statistics.median(each.wall for each in runs) for workers, runs in long.items()}
    ends = {workers: statistics.median(each.wall for each in runs) for workers, runs in short.items()}
    pairs = sorted(one.wall / two.wall for one, two in zip(long[1], long[2], strict=True))
    print(f"{cells} cells, {os.cpu_count()} cores; medians of {options.runs} runs, in turns")
    print(f"one worker {walls[1]:.2f} s, two {walls[2]:.2f} s: {walls[1] / walls[2]:.2f} times as fast")
    print(f"pairs {', '.join(f'{pair:.2f}' for pair in pairs)}")
    without = [statistics.median(bare[workers]) for workers in (1, 2)]
    print(f"without a cluster {without[0]:.2f} s, {without[1]:.2f} s: {without[0] / without[1]:.2f} times as fast")
    print(f"a sweep of two small cells: one worker {ends[1]:.2f} s, two {ends[2]:.2f} s")
    used = {workers: statistics.median(each.cpu for each in runs) for workers, runs in long.items()}
    fixed = statistics.median(each.cpu for each in short[2])
    alone = used[1] / (fixed + (used[2] - fixed) / 2)
    print(f"{used[1]:.2f} and {used[2]:.2f} CPU s, {fixed:.2f} of them once: on idle cores {alone:.2f} times as fast")
    inner = (walls[1] - ends[1]) / (walls[2] - ends[2])
    print(f"without that, {inner:.2f} times as fast")


if __name__ == "__main__":
    main()
