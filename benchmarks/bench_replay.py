# SPDX-License-Identifier: GPL-2.0-only
"""How fast the replay loop is, against a plain C core on the same mix.

usage: bench_replay.py [--events N] [--runs N] [--mix FILE]

Both sides start from an empty 4 GiB machine and carry out the same requests
(see mix.py), in turns, in one process; CPU time is counted.  Both get them in
batches that were written a moment before, as a trace's reader does it.  The C core
(yardstick.c, compiled with gcc -O2) knows far fewer rules than Linux 6.1 and
keeps no statistics, so a ratio of 1 is not to be expected.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from mix import KMALLOC_SIZES, NAMED_CACHES, Mix, generate

from kmem.machine.boot import boot_memory
from kmem.machine.description import MachineDescription
from kmem.mm.kmem_cache import KmemCaches
from kmem.mm.slab_config import SlabConfig
from kmem.mm.slub import Slub
from kmem.replay.engine import ReplayEngine
from kmem.trace import EventBatch, Strings
from kmem.trace.scan_strings import StringTable

HERE = Path(__file__).parent
TABLE_SLOTS = 1 << 21
BATCH_EVENTS = 65536


class Yardstick:
    """The C core."""

    def __init__(self, folder: Path) -> None:
        library = folder / "yardstick.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "yardstick.c"], check=True)
        self.core = ctypes.CDLL(str(library))
        self.core.machine_new.restype = ctypes.c_void_p
        self.core.replay.restype = ctypes.c_long
        self.sizes = np.array([*KMALLOC_SIZES, *(size for _, size, _ in NAMED_CACHES)], np.int32)
        self.orders = np.array([0 if s <= 256 else 1 if s <= 512 else 2 if s <= 1064 else 3 for s in self.sizes])
        self.orders = self.orders.astype(np.int32)
        self.objects = ((4096 << self.orders) // self.sizes).astype(np.int32)
        fits = [next(n for n, size in enumerate(KMALLOC_SIZES) if size >= 8 * i) for i in range(1025)]
        self.index = np.array(fits, np.uint8)

    def run(self, mix: Mix) -> float:
        """CPU seconds for the whole mix on a new machine."""
        machine = ctypes.c_void_p(
            self.core.machine_new(*(_pointer(a) for a in (self.sizes, self.orders, self.objects, self.index)))
        )
        keys, values = np.zeros(TABLE_SLOTS, np.uint64), np.full(TABLE_SLOTS, -1, np.int64)
        out = np.zeros(len(mix.op), np.int64)
        seconds, refused = 0.0, 0
        for at in range(0, len(mix.op), BATCH_EVENTS):
            batch = [a[at : at + BATCH_EVENTS].copy() for a in (mix.op, mix.ptr, mix.size, mix.gfp)]
            start = time.process_time()
            refused += self.core.replay(
                machine,
                ctypes.c_long(len(batch[0])),
                *(_pointer(a) for a in (*batch, keys, values)),
                ctypes.c_uint64(TABLE_SLOTS - 1),
                _pointer(out[at:]),
            )
            seconds += time.process_time() - start
        self.core.machine_delete(machine)
        if refused:
            raise SystemExit(f"the yardstick refused {refused} frees")
        return seconds


class Model:
    """The replay loop of kmem."""

    def __init__(self, mix: Mix) -> None:
        self.columns = mix.columns()
        self.strings = Strings(StringTable(True), StringTable(True), StringTable(), StringTable())
        self.events = len(mix.op)

    def batch(self, at: int) -> EventBatch:
        """A batch as the reader hands it out: just written."""
        columns = {name: column[at : at + BATCH_EVENTS].copy() for name, column in self.columns.items()}
        return EventBatch(**columns, gfp_text=columns["gfp"], strings=self.strings)

    def run(self) -> float:
        """CPU seconds for the whole mix on a new machine."""
        booted = boot_memory(MachineDescription.preset("x86_64", ram="4G"))
        caches = KmemCaches(Slub(booted.page_alloc), SlabConfig.for_arch("x86_64", cpus=1))
        caches.create_kmalloc_caches()
        engine = ReplayEngine(booted.page_alloc, caches.slub, None)
        indexes = [caches.kmem_cache_create(name, size) for name, size, _ in NAMED_CACHES]
        engine.reserve(1, len(indexes) + 1, max(indexes) + 1)
        for code, index in enumerate(indexes, 1):
            engine.name_caches_array[code] = index
            engine.cache_names_array[index] = code
        seconds = 0.0
        for at in range(0, self.events, BATCH_EVENTS):
            batch = self.batch(at)
            start = time.process_time()
            engine.feed(batch, 0, len(batch))
            seconds += time.process_time() - start
        odd = engine.nr_failures + engine.nr_unknown_frees + engine.nr_unknown_page_frees
        if odd + engine.nr_double_allocations:
            raise SystemExit(f"{odd} requests of the mix went wrong")
        return seconds


def load(file: Path, events: int) -> Mix:
    """The mix, from `file` if it was made before (making it takes longer than running it)."""
    if not file.exists():
        mix = generate(events)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npz", delete=False) as part:
            np.savez(part, op=mix.op, slot=mix.slot, ptr=mix.ptr, size=mix.size, gfp=mix.gfp)
        Path(part.name).replace(file)
    with np.load(file) as arrays:
        return Mix(**{name: arrays[name] for name in ("op", "slot", "ptr", "size", "gfp")})


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mix", type=Path, help="where to keep the mix (default: the temporary folder)")
    options = parser.parse_args()
    file = options.mix or Path(tempfile.gettempdir()) / f"kmem-mix-{options.events}.npz"
    mix = load(file, options.events)
    model = Model(mix)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        yardstick = Yardstick(Path(folder))
        for _ in range(options.runs):
            theirs.append(yardstick.run(mix))
            ours.append(model.run())
            print(f"yardstick {_rate(mix, theirs[-1])}, kmem {_rate(mix, ours[-1])} M events/s", flush=True)
    for name, pick in (("median", statistics.median), ("best", min)):
        y, k = pick(theirs), pick(ours)
        print(
            f"{len(mix.op):,} events, {name} of {options.runs}, M events per CPU second: "
            f"yardstick {_rate(mix, y)}, kmem {_rate(mix, k)}, ratio {y / k:.2f}"
        )


def _rate(mix: Mix, seconds: float) -> str:
    return f"{len(mix.op) / seconds / 1e6:.2f}"


def _pointer(array: np.ndarray) -> ctypes.c_void_p:  # type: ignore[type-arg]
    return ctypes.c_void_p(array.ctypes.data)


if __name__ == "__main__":
    main()
