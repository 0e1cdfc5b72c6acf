# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz the readers of binary recordings, by hand and for as long as wanted.

usage: python tests/fuzz/fuzz_readers.py [--seconds N] [--seed N] [KIND ...]

Made recordings of both byte orders are damaged at random (bytes, numbers that
lie, pieces that move), read and counted by ``kmem stat``'s counter.  What must
come out is a table or one line of error; anything else ends the run and leaves
the recording behind.  With a build that has -fsanitize=address,undefined
(CFLAGS, LDFLAGS and LD_PRELOAD) it finds what a table does not show.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zstandard

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from kmem.analysis.stat import collect  # noqa: E402
from kmem.errors import KmemError  # noqa: E402
from kmem.trace import open_trace  # noqa: E402
from tests.trace.test_binary_made import COMMS, by_cpu, records, stream  # noqa: E402
from tests.trace.writers import Kernel  # noqa: E402

NUMBERS = [0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0xFFF, 0x1000, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40]
NUMBERS += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8]
MOST_MEMORY = 600 << 20


def seeds(big: bool, size: int) -> dict[str, bytes]:
    """One recording of each kind."""
    kernel = Kernel(big, size)
    events = stream(kernel, 200, 2)
    pages = [kernel.pages(each) for each in by_cpu(events, 2)]
    data = records(kernel, events, 2, per_round=40)
    packed = kernel.compressed(data, zstandard.ZstdCompressor(1).compressobj(), 3000)
    return {
        "dat-6": kernel.dat_6(pages, COMMS, buffers={"other": pages}),
        "dat-7": kernel.dat_7(pages, COMMS, kind="none"),
        "dat-7-zstd": kernel.dat_7(pages, COMMS),
        "dat-7-zlib": kernel.dat_7(pages, COMMS, kind="zlib"),
        "perf": kernel.perf_file(data),
        "perf-pipe": kernel.perf_pipe(data),
        "perf-compressed": kernel.perf_file(packed),
        "perf-chains": kernel.perf_file(
            b"".join(kernel.sample(event, [(1 << 64) - 128, 1, 2]) for event in events),
            sample_type=Kernel.SAMPLE_TYPE | 1 << 5,
        ),
    }


def damage(content: bytearray, rng: random.Random) -> None:
    """Change a few places."""
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(content))
        if rng.random() < 0.3:
            at = rng.randrange(min(len(content), 4096))
        kind = rng.randrange(6)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice([1, 2, 4, 8])
            value = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            content[at : at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
        elif kind == 2:
            content[at : at + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
        elif kind == 3:
            source = rng.randrange(len(content))
            piece = content[source : source + rng.randrange(256)]
            content[at : at + len(piece)] = piece
        elif kind == 4:
            del content[at : at + rng.randrange(1, 64)]
        else:
            del content[at + 1 :]
        if not content:
            content += b"\0"


def once(path: Path, content: bytes) -> bool:
    """Read a recording to its end; False if it is refused."""
    path.write_bytes(content)
    try:
        with open_trace(path, stacks=True, batch_events=64) as trace:
            stat = collect(trace, stacks=True, addresses=True)
        stat.slab_totals(), stat.page_totals(), stat.live_sites(), stat.polluters()
        if stat.has_stacks:
            stat.folded()
    except KmemError as error:
        assert "\n" not in str(error)
        return False
    return True


def main() -> None:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    corpus = [
        (f"{kind} {'big' if big else 'little'}-{size * 8}", content)
        for big in (False, True)
        for size in (4, 8)
        for kind, content in seeds(big, size).items()
        if not options.kinds or kind in options.kinds
    ]
    end = time.monotonic() + options.seconds
    runs = refused = 0
    longest = 0.0
    clock: Callable[[], float] = time.process_time
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        while time.monotonic() < end:
            name, whole = rng.choice(corpus)
            content = bytearray(whole)
            damage(content, rng)
            begin = clock()
            try:
                refused += not once(path, bytes(content))
            except BaseException:
                kept = Path(f"crash-{runs}-{name.replace(' ', '-')}")
                kept.write_bytes(content)
                print(f"{kept}: run {runs} of seed {options.seed}", file=sys.stderr)
                raise
            longest = max(longest, clock() - begin)
            runs += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{runs:,} recordings, {refused:,} refused, the longest took {longest:.2f} s, {memory} MiB at the peak")
    assert memory << 20 < MOST_MEMORY or "asan" in sys.argv[0]


if __name__ == "__main__":
    main()
