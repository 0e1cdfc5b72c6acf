# SPDX-License-Identifier: GPL-2.0-only
"""Completions: waiting until something has been done.

Source: kernel/sched/completion.c, include/linux/completion.h @6.1.192
"""

from __future__ import annotations

from typing import Final

from kmem.mm.argument import expect
from kmem.mm.kernel import current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.sched import sleep_ticks
from kmem.mm.task import TASK_UNINTERRUPTIBLE
from kmem.mm.timer import MAX_SCHEDULE_TIMEOUT
from kmem.mm.wait import WaitQueueEntry, WaitQueueHead, finish_wait, prepare_to_wait_exclusive, wake

__all__ = [
    "DECLARE_COMPLETION",
    "Completion",
    "complete",
    "complete_all",
    "completion_done",
    "init_completion",
    "reinit_completion",
    "try_wait_for_completion",
    "wait_for_completion",
    "wait_for_completion_timeout",
]

_ALL: Final = 0xFFFFFFFF
_FILE: Final = "kernel/sched/completion.c"


class Completion:
    """Counts what has been done and not been waited for.

    Parameters
    ----------
    name : str, optional
        Said if everybody waits.

    Source: include/linux/completion.h:struct completion @6.1.192
    """

    __slots__ = ("done", "wait")

    def __init__(self, name: str = "") -> None:
        self.done = 0
        self.wait = WaitQueueHead(name)


def DECLARE_COMPLETION(name: str = "") -> Completion:
    """Return a new completion.

    Source: include/linux/completion.h:DECLARE_COMPLETION @6.1.192
    """
    return Completion(name)


def init_completion(x: Completion) -> None:
    """Make a completion one for which nothing has been done, and nobody waits. Context: any.

    Source: include/linux/completion.h:init_completion @6.1.192
    """
    expect(x, Completion, "the completion")
    x.done = 0
    x.wait.entries.clear()


def reinit_completion(x: Completion) -> None:
    """Make a completion usable again; those who wait go on waiting. Context: any.

    Source: include/linux/completion.h:reinit_completion @6.1.192
    """
    expect(x, Completion, "the completion")
    x.done = 0


def complete(x: Completion) -> None:
    """Let one task go on that waits, or the next one to come. Context: any.

    Source: kernel/sched/completion.c:complete @6.1.192
    """
    expect(x, Completion, "the completion")
    if x.done != _ALL:
        x.done += 1
    wake(current_kernel(), x.wait, 1)


def complete_all(x: Completion) -> None:
    """Let all go on that wait or will wait. Context: any.

    Source: kernel/sched/completion.c:complete_all @6.1.192
    """
    expect(x, Completion, "the completion")
    x.done = _ALL
    wake(current_kernel(), x.wait, 0)


def completion_done(x: Completion) -> bool:
    """Whether a task that comes now would not have to wait. Context: any.

    Source: kernel/sched/completion.c:completion_done @6.1.192
    """
    expect(x, Completion, "the completion")
    return x.done != 0


def try_wait_for_completion(x: Completion) -> bool:
    """Take one of what has been done, without waiting; False if there is none. Context: any.

    Source: kernel/sched/completion.c:try_wait_for_completion @6.1.192
    """
    expect(x, Completion, "the completion")
    if not x.done:
        return False
    if x.done != _ALL:
        x.done -= 1
    return True


def wait_for_completion(x: Completion) -> None:
    """Sleep until something has been done. Context: sleeps.

    Source: kernel/sched/completion.c:wait_for_completion @6.1.192
    """
    wait_for_completion_timeout(x, MAX_SCHEDULE_TIMEOUT)


def wait_for_completion_timeout(x: Completion, timeout: int) -> int:
    """Sleep until something has been done, `timeout` ticks at most. Context: sleeps.

    Returns
    -------
    int
        0 if nothing has been done; else the ticks that were left, 1 at least.

    Source: kernel/sched/completion.c:wait_for_completion_timeout @6.1.192
    """
    expect(x, Completion, "the completion")
    kernel = current_kernel()
    check_may_sleep(kernel, _FILE, 101)
    what = f"completion {x.wait.name}".rstrip()
    entry = WaitQueueEntry()
    left = timeout
    try:
        while not x.done and left:
            prepare_to_wait_exclusive(x.wait, entry, TASK_UNINTERRUPTIBLE)
            left = sleep_ticks(kernel, left, what)
    finally:
        finish_wait(x.wait, entry)
    return (left or 1) if try_wait_for_completion(x) else 0
