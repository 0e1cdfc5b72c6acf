# SPDX-License-Identifier: GPL-2.0-only
"""Build of the compiled core.

The modules listed in ``COMPILED`` are ordinary Python files in Cython's pure
mode: the file that is read is the file that is compiled.  ``KMEM_BUILD=test``
turns every runtime check on (bounds, overflow, initialised buffers); the
default, ``release``, turns them off.  ``trace`` is ``test`` with line tracing,
which is slow, for measuring coverage.  A failed compilation fails the
installation: there is no fallback to interpreted modules.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

COMPILED = [
    "kmem.mm.page",
    "kmem.mm.mmzone",
    "kmem.mm.tracepoint",
    "kmem.mm.buddy",
    "kmem.mm.pcp",
    "kmem.mm.watermark",
    "kmem.mm.page_prep",
    "kmem.mm.page_alloc",
    "kmem.mm.debug_vm",
    "kmem.mm.refusal",
    "kmem.mm.slab",
    "kmem.mm.slab_pages",
    "kmem.mm.slub_partial",
    "kmem.mm.slub",
    "kmem.mm.slub_state",
    "kmem.mm.kernel",
    "kmem.mm.slab_api",
    "kmem.mm.gfp_api",
    "kmem.trace.scan_strings",
    "kmem.trace.scan_columns",
    "kmem.trace.scan_symbols",
    "kmem.trace.scan_text",
    "kmem.trace.scan_ftrace",
    "kmem.trace.scan_perf",
    "kmem.trace.scan_binary",
    "kmem.trace.scan_ring",
    "kmem.trace.scan_records",
    "kmem.replay.survey_count",
    "kmem.replay.engine",
    "kmem.replay.takeover",
    "kmem.analysis.stat_count",
]

KINDS = {
    "release": {
        "boundscheck": False,
        "wraparound": False,
        "overflowcheck": False,
        "initializedcheck": False,
        "cdivision": True,
    },
    "test": {
        "boundscheck": True,
        "wraparound": False,
        "overflowcheck": True,
        "initializedcheck": True,
        "cdivision": False,
    },
}
KINDS["trace"] = {**KINDS["test"], "profile": True, "linetrace": True}


def extensions() -> list[Extension]:
    """Return one extension per compiled module, named after its source."""
    kind = os.environ.get("KMEM_BUILD") or "release"
    if kind not in KINDS:
        raise SystemExit(f"KMEM_BUILD={kind!r}: expected one of {', '.join(sorted(KINDS))}")
    # a test build is compiled again and again and not measured; debug symbols would double the time of either
    flags = ["-O2" if kind == "release" else "-O1", "-g0", "-Wno-sign-compare"]
    macros: list[tuple[str, str | None]] = [("CYTHON_TRACE", "1")] if kind == "trace" else []
    modules = [
        Extension(name, ["src/" + name.replace(".", "/") + ".py"], extra_compile_args=flags, define_macros=list(macros))
        for name in COMPILED
    ]
    return cythonize(
        modules,
        build_dir=f"build/cython-{kind}",
        compiler_directives={"language_level": 3, "embedsignature": True, **KINDS[kind]},
        nthreads=os.cpu_count() or 1,
        show_all_warnings=False,
    )


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
