# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz all readers with atheris, guided by coverage.

usage: python tests/fuzz/fuzz_atheris.py [--seconds N] [--seed N] [--jobs N] [--keep DIR] [TARGET ...]

Each target runs in a process of its own for N seconds: an input may take 20 s
and the process 700 MiB.  Mutations are libFuzzer's and those of ``mutate.py``.
Coverage is that of the Python modules that read; what the compiled scanners
saw (rows, damage, its place) counts as coverage, too.  A crash leaves its input
in DIR (``build/fuzz``), where the inputs that reached something new are kept
for the next run.  Without atheris nothing is run, which is said; the exit
status is 1 if an input was a crash.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_MIB = 700
MOST_SECONDS = 20
INSTRUMENTED = [
    "kmem.analysis.explain",
    "kmem.analysis.rebuild",
    "kmem.machine.description",
    "kmem.machine.folder",
    "kmem.machine.proc",
    "kmem.machine.records",
    "kmem.machine.slabinfo",
    "kmem.machine.statedump",
    "kmem.machine.statedump_slab",
    "kmem.report.result",
    "kmem.trace",
    "kmem.verify",
]


def fuzz(name: str, folder: Path, arguments: list[str]) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from kmem.trace.reader import TraceReader
        from tests.fuzz import targets
        from tests.fuzz.mutate import damage

    target = targets.TARGETS[name]
    work = folder / "work" / name
    work.mkdir(parents=True, exist_ok=True)
    saw = atheris.instrument_func(branches())
    leave = TraceReader.__exit__

    def notice(reader: TraceReader, *error: object) -> None:
        """Tell the fuzzer what the compiled scanner of a reader counted."""
        stats = reader.stats
        counts = (stats.events, stats.lines, stats.lost_markers, stats.damaged_lines, stats.damaged_bytes)
        places = (len(stats.skipped_events), len(stats.notes), int(re.sub(r"\D", "", stats.first_damage)[-6:] or 0))
        for sort, number in enumerate((*counts, *places)):
            saw(sort * 32 + min(number.bit_length(), 31))
        leave(reader, *error)

    TraceReader.__exit__ = notice

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        content = bytearray(data)
        damage(content, rng, json_lines=target.json_lines)
        return bytes(content[:most])

    def one(data: bytes) -> None:
        targets.outcome(target, data, work)

    atheris.Setup([sys.argv[0], *arguments], one, custom_mutator=mutate)
    atheris.Fuzz()


def branches() -> Callable[[int], int]:
    """Make a function with a branch for each of 256 numbers, so that each is covered by itself."""
    lines = ["def saw(number):"]
    for number in range(256):
        lines += [f"    if number == {number}:", f"        return {number}"]
    space: dict[str, Callable[[int], int]] = {}
    exec("\n".join(lines), space)
    return space["saw"]


def run(name: str, seconds: int, folder: Path, seed: int) -> tuple[int, int, str]:
    """Fuzz a target in a process of its own; returns executions, crashes and what is to be printed."""
    corpus = folder / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--child", name, "--keep", str(folder), "--"]
    command += [str(corpus), f"-max_total_time={seconds}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MIB}"]
    command += [f"-seed={seed}"] if seed else []
    command += ["-print_final_stats=1", "-max_len=262144", "-len_control=0", f"-artifact_prefix={folder}/{name}-"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, check=False)
    said = done.stdout + done.stderr

    def number(pattern: str) -> int:
        found = re.findall(pattern, said)
        return int(found[-1]) if found else 0

    executions = number(r"stat::number_of_executed_units:\s*(\d+)") or number(r"#(\d+)\s")
    edges, kept, memory = number(r"cov: (\d+)"), number(r"corp: (\d+)"), number(r"stat::peak_rss_mb:\s*(\d+)")
    summary = f"{executions:,} executions, {edges} edges, {kept} inputs kept, {memory} MiB at the peak"
    if not done.returncode:
        return executions, 0, summary
    # what was raised, or else what libFuzzer says (too slow, too much memory)
    raised = said.partition("Uncaught Python exception")[2].partition("libFuzzer")[0] or said[-3000:]
    inputs = re.findall(r"Test unit written to (\S+)", said)
    tail = "\n".join(f"    {line}" for line in [*raised.strip(" =:\n").splitlines()[-30:], *inputs])
    return executions, 1, f"{summary}, CRASH (status {done.returncode})\n{tail}"


def main() -> int:
    """Fuzz the targets one after the other."""
    sys.path.insert(0, str(ROOT))
    if importlib.util.find_spec("kmem") is None:
        sys.path.insert(0, str(ROOT / "src"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=10, help="of each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz", metavar="DIR")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("SKIPPED: atheris is not installed (pip install 'kmem[fuzz]')")
        return 0
    if options.child:
        fuzz(options.child, options.keep, options.targets)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    names = list(options.targets or TARGETS)
    for name in names:
        corpus = options.keep / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(TARGETS[name].seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
    total = crashes = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        done = pool.map(lambda name: run(name, options.seconds, options.keep, options.seed), names)
        for name, (executions, crashed, summary) in zip(names, done, strict=True):
            print(f"{name}: {summary}", flush=True)
            total += executions
            crashes += crashed
    print(f"{total:,} executions, {crashes} crash{'es' if crashes != 1 else ''}")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
