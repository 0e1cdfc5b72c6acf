# SPDX-License-Identifier: GPL-2.0-only
"""How fast the kernel's calls are, against malloc() and free(), and what debugging aids cost that are off.

usage: bench_api.py [--pairs N] [--rounds N] [--aids]

Three pairs of calls take turns in one process: ``kmalloc(64)`` and ``kfree()``, ``kmem_cache_alloc()`` and
``kmem_cache_free()`` of 64 bytes, and the C library's ``malloc(64)`` and ``free()`` through the thinnest Cython
binding there is, compiled by this script.  CPU time is counted; a ratio is one of neighbours in time, and the median
of all is printed.

With ``--aids`` the package is built a second time, in a temporary folder and from sources without the places where
debugging aids listen: calls of leak detection, of allocation profiles and of fault injection, and the ones of
page_owner and fault injection inside the page allocator.  Processes of both builds then take turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

BINDING = """
# cython: language_level=3
from libc.stdlib cimport free as c_free, malloc as c_malloc

def malloc(size_t size):
    return <size_t>c_malloc(size)

def free(size_t address):
    c_free(<void *>address)
"""

# Where debugging aids listen, and what stands there without them.
PLACES = {
    "slab_api.py": [
        ("        if aids and kernel.should_failslab(s, gfp):\n            return None\n", ""),
        ("    if aids:\n        kernel.tell_slab_alloc(kernel.page_offset + phys, s.object_size, s, gfp)\n", ""),
        ("    if aids:\n        kernel.tell_slab_alloc(kernel.page_offset + phys, size, None, gfp)\n", ""),
        ("    if kernel.watch & WATCH_AIDS:\n        kernel.tell_slab_free(addr)\n", ""),
        (
            "    if kernel.watch & WATCH_AIDS:\n"
            "        for addr in addresses:\n"
            "            kernel.tell_slab_free(addr)\n",
            "",
        ),
    ],
    "gfp_api.py": [
        ("    if aids and tell and pfn != NO_FRAME_U32:\n        kernel.tell_page_alloc(pfn, order, gfp)\n", ""),
        ("    if kernel.watch & WATCH_AIDS:\n        kernel.tell_page_free(pfn, order)\n", ""),
    ],
    "page_alloc.py": [
        (
            "        if self.trace.enabled and self._watch is not None and self._watch.should_fail(gfp, order):\n"
            "            return _NONE\n",
            "",
        ),
        (
            "            if self._watch is not None and pfn != _NONE:\n"
            "                self._watch.allocated(pfn, order, gfp)\n",
            "",
        ),
        ("            if self._watch is not None:\n                self._watch.freed(pfn, order)\n", ""),
    ],
}


def binding(folder: Path) -> tuple[Callable[[int], int], Callable[[int], None]]:
    """malloc and free of the C library, compiled like the package."""
    source = folder / "thin_malloc.pyx"
    source.write_text(BINDING)
    script = (
        "from Cython.Build import cythonize; from setuptools import Extension, setup\n"
        f"module = Extension('thin_malloc', [{str(source)!r}], extra_compile_args=['-O3', '-g0'])\n"
        f"setup(script_args=['-q', 'build_ext', '-b', {str(folder)!r}, '-t', {str(folder)!r}],\n"
        "      ext_modules=cythonize([module], quiet=True))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    sys.path.insert(0, str(folder))
    import thin_malloc

    return thin_malloc.malloc, thin_malloc.free


def workloads(pairs: int) -> dict[str, Callable[[], None]]:
    """Loops of `pairs` pairs of calls on the current machine."""
    from kmem.linux.gfp import GFP_KERNEL, __free_pages, alloc_pages
    from kmem.linux.slab import SLAB_HWCACHE_ALIGN, kfree, kmalloc, kmem_cache_alloc, kmem_cache_create, kmem_cache_free

    cache = kmem_cache_create("bench", 64, 0, SLAB_HWCACHE_ALIGN)
    numbers = range(pairs)

    def objects() -> None:
        for _ in numbers:
            kfree(kmalloc(64, GFP_KERNEL))

    def cached() -> None:
        for _ in numbers:
            kmem_cache_free(cache, kmem_cache_alloc(cache, GFP_KERNEL))

    def pages() -> None:
        for _ in numbers:
            __free_pages(alloc_pages(GFP_KERNEL, 0), 0)

    return {"kmalloc, kfree": objects, "kmem_cache_alloc, kmem_cache_free": cached, "alloc_pages, __free_pages": pages}


def seconds(run: Callable[[], None]) -> float:
    """CPU seconds of one loop."""
    start = time.process_time()
    run()
    return time.process_time() - start


def against_malloc(pairs: int, rounds: int) -> None:
    """Print each pair's time and its ratio to malloc and free."""
    from kmem import Machine

    with tempfile.TemporaryDirectory() as folder, Machine.boot("x86_64", ram="1G") as _:
        malloc, free = binding(Path(folder))
        numbers = range(pairs)

        def plain() -> None:
            for _ in numbers:
                free(malloc(64))

        loops = workloads(pairs)
        times: dict[str, list[float]] = {name: [] for name in loops}
        ratios: dict[str, list[float]] = {name: [] for name in loops}
        thin = []
        for run in (plain, *loops.values()):
            run()
        for _ in range(rounds):
            for name, run in loops.items():
                before = seconds(plain)
                times[name].append(seconds(run))
                after = seconds(plain)
                thin += [before, after]
                ratios[name].append(2 * times[name][-1] / (before + after))
    print(f"{'malloc, free (thin Cython binding)':36} {1e9 * statistics.median(thin) / pairs:6.1f} ns")
    for name in loops:
        nanoseconds = 1e9 * statistics.median(times[name]) / pairs
        print(f"{name:36} {nanoseconds:6.1f} ns  {statistics.median(ratios[name]):.2f} times as long")


# Compiles the modules named on its command line as setup.py would compile them.
COMPILE = """
import runpy, sys
import Cython.Build, setuptools
real_cythonize, real_setup, asked = Cython.Build.cythonize, setuptools.setup, {}
Cython.Build.cythonize = lambda modules, **options: asked.update(options, modules=modules)
setuptools.setup = lambda **_: None
runpy.run_path("setup.py")
names = sys.argv[1:]
modules = [module for module in asked.pop("modules") if module.name in names]
real_setup(script_args=["-q", "build_ext", "--inplace"], ext_modules=real_cythonize(modules, quiet=True, **asked))
"""


def build_without_aids(folder: Path) -> Path:
    """Copy the package, and compile the modules of :data:`PLACES` anew without them; the folder of packages."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name, places in PLACES.items():
        path = folder / "src/kmem/mm" / name
        text = path.read_text()
        for there, instead in places:
            if there not in text:
                raise SystemExit(f"{name} has changed, this script has not: nothing there reads\n{there}")
            text = text.replace(there, instead)
        path.write_text(text)
        for old in (folder / "src/kmem/mm").glob(f"{path.stem}.*.so"):
            old.unlink()
    modules = [f"kmem.mm.{Path(name).stem}" for name in PLACES]
    subprocess.run([sys.executable, "-c", COMPILE, *modules], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return folder / "src"


def against_no_aids(pairs: int, rounds: int) -> None:
    """Print what the aids cost when they are off: the median of the ratios of processes that ran in turns."""
    with tempfile.TemporaryDirectory() as folder:
        without = build_without_aids(Path(folder))

        def process(source: Path) -> dict[str, float]:
            command = [sys.executable, __file__, "--worker", "--pairs", str(pairs)]
            environment = {**os.environ, "PYTHONPATH": str(source)}
            done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
            return {name: float(value) for name, value in (line.split("\t") for line in done.stdout.splitlines())}

        ratios: dict[str, list[float]] = {}
        for number in range(rounds):
            pair = [ROOT / "src", without]
            results = {source: process(source) for source in (pair if number % 2 else reversed(pair))}
            for name, value in results[pair[0]].items():
                ratios.setdefault(name, []).append(value / results[pair[1]][name])
    print("with all aids off, against a build without them:")
    for name, values in ratios.items():
        low, _, high = statistics.quantiles(values, n=4)
        print(f"{name:36} {statistics.median(values):.3f} times as long (middle half {low:.3f} to {high:.3f})")


def worker(pairs: int) -> None:
    """Print the shortest time of each loop, in seconds."""
    from kmem import Machine

    with Machine.boot("x86_64", ram="1G") as _:
        for name, run in workloads(pairs).items():
            print(f"{name}\t{min(seconds(run) for _ in range(15))}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs of calls in a loop")
    parser.add_argument("--rounds", type=int, default=25, help="turns")
    parser.add_argument("--aids", action="store_true", help="measure what debugging aids cost that are off")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.pairs)
    elif options.aids:
        against_no_aids(options.pairs, options.rounds)
    else:
        against_malloc(options.pairs, options.rounds)


if __name__ == "__main__":
    main()
