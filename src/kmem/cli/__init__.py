# SPDX-License-Identifier: GPL-2.0-only
"""The command line: one module per command.

The entry point is :func:`main`.  Commands are imported when they are called,
so that ``kmem --help`` and completion stay fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main", "program"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    args : sequence of str, optional
        Arguments without the program's name; those of the process if omitted.

    Returns
    -------
    int
        0 it held or succeeded, 1 a comparison differed, 2 bad input or usage,
        130 interrupted, 141 the reader of the output went away.
    """
    import gc
    import os

    # what is imported stays: looking through it for garbage again and again takes a tenth of the start
    gc.set_threshold(20_000, 20, 20)

    # NumPy's linear algebra is not used here: starting its threads would take longer than many a command
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from kmem.cli.app import run

    return run(args)


def program() -> NoReturn:
    """Run the command line as a process of its own, and end it.

    Once everything is written and what was registered for the end is done, the
    process ends at once: taking the interpreter and its modules apart takes
    longer than many a command's work.
    """
    import atexit
    import contextlib
    import os
    import sys
    import threading

    status = main()
    if any(not each.daemon for each in threading.enumerate() if each is not threading.main_thread()):
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # None or closed: what a shell's >&- leaves
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
