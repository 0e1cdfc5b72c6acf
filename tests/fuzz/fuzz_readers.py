# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz all readers by blind damage, for as long as wanted; needs nothing but kmem.

usage: python tests/fuzz/fuzz_readers.py [--seconds N] [--seed N] [TARGET ...]

Sound inputs are damaged at random (bytes, numbers that lie, pieces that move,
values of other types) and read.  What must come out is a result or one line of
error; anything else ends the run and leaves the input behind.  With a build
that has -fsanitize=address,undefined (CFLAGS, LDFLAGS and LD_PRELOAD) it finds
what a result does not show.  ``fuzz_atheris.py`` does the same guided by
coverage.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
if importlib.util.find_spec("kmem") is None:
    sys.path.insert(0, str(ROOT / "src"))

from tests.fuzz.mutate import damage  # noqa: E402
from tests.fuzz.targets import TARGETS, outcome  # noqa: E402

MOST_MEMORY = 700 << 20
MOST_SECONDS = 20.0


def main() -> None:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all, if none is named")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}")
    rng = random.Random(options.seed)
    corpus = {name: list(TARGETS[name].seeds()) for name in options.targets or TARGETS}
    end = time.monotonic() + options.seconds
    runs = refused = 0
    longest = (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            name = rng.choice(list(corpus))
            content = bytearray(rng.choice(corpus[name]))
            damage(content, rng, json_lines=TARGETS[name].json_lines)
            begin = time.process_time()
            try:
                refused += not outcome(TARGETS[name], bytes(content), Path(folder))
                assert time.process_time() - begin < MOST_SECONDS, "took too long"
            except BaseException:
                kept = Path(f"crash-{name}-{runs}")
                kept.write_bytes(content)
                print(f"{kept}: run {runs} of seed {options.seed}", file=sys.stderr)
                raise
            longest = max(longest, (time.process_time() - begin, name))
            runs += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{runs:,} inputs, {refused:,} refused, the longest took {longest[0]:.2f} s ({longest[1]}), "
        f"{memory} MiB at the peak"
    )
    sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")  # its shadow memory counts
    assert memory << 20 < MOST_MEMORY or sanitized


if __name__ == "__main__":
    main()
