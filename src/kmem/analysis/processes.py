# SPDX-License-Identifier: GPL-2.0-only
"""The worker processes of sweeps on this machine: forked off a server that has imported what they need.

Half of what a worker takes to start is importing.  The server does that once,
while this process imports the same, and a worker that is lost is replaced within
milliseconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker

__all__ = ["METHOD", "get_ready"]

#: Of starting processes, as multiprocessing calls it.
METHOD = "forkserver"
_PRELOADED = ["kmem.analysis.sweep_worker"]
_ENVIRON = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  #: a worker has one thread


def get_ready() -> None:
    """Start the server, unless it runs; it gets ready on its own."""
    before = {name: os.environ.get(name) for name in _ENVIRON}
    multiprocessing.get_context(METHOD).set_forkserver_preload(_PRELOADED)
    try:
        os.environ.update(_ENVIRON)
        with _deaf():
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let a process that is started now, and all that it forks, not hear the interrupt key: it is for this one.

    Blocked, not ignored: what is pressed meanwhile is heard afterwards.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
