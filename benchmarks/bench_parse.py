# SPDX-License-Identifier: GPL-2.0-only
"""How fast trace texts are parsed, in events and megabytes per CPU second.

usage: bench_parse.py [TRACE] [--megabytes N] [--runs N]

A recorded trace (the one that the tests use, unless another is named) is
repeated up to the wanted size into a temporary file, plain text, and read from
there through the public reader.  CPU time is counted, reading the file
included; the median of the runs is printed, and the memory that it took.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

from kmem.trace import open_trace
from kmem.trace.source import ByteSource

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "boot.trace.txt.gz"


def grow(trace: Path, size_bytes: int, into: Path) -> None:
    """Write `trace` as plain text, again and again, until there are `size_bytes`."""
    source = ByteSource(trace)
    text = b"".join(source.chunks())
    source.close()
    with into.open("wb") as file:
        for _ in range(max(size_bytes // len(text), 1)):
            file.write(text)


def measure(path: Path) -> tuple[int, int, float]:
    """Events, bytes and CPU seconds of reading `path` once."""
    start = time.process_time()
    with open_trace(path) as trace:
        events = sum(len(batch) for batch in trace)
    return events, trace.stats.bytes, time.process_time() - start


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, default=RECORDED)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.txt"
        grow(options.trace, options.megabytes * 1_000_000, path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        runs = [measure(path) for _ in range(options.runs)]
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    events, size = runs[0][:2]
    seconds = statistics.median(run[2] for run in runs)
    print(f"{options.trace.name}: {events:,} events, {size / 1e6:.0f} MB")
    print(f"{events / seconds / 1e6:.2f} M events/s, {size / seconds / 1e6:.0f} MB/s per CPU second")
    print(f"peak memory {after / 1024:.0f} MiB, of which {before / 1024:.0f} MiB before the first run")


if __name__ == "__main__":
    main()
