# SPDX-License-Identifier: GPL-2.0-only
"""Wait queues: sleeping until somebody says that a condition may have come true.

The macros of C take the condition as an expression that they evaluate again
and again; here it is a function::

    wait_event(queue, lambda: len(ready) > 0)

Source: include/linux/wait.h, kernel/sched/wait.c @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable

from kmem.mm.argument import expect
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.sched import scheduler, sleep_ticks
from kmem.mm.task import TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, Task

__all__ = [
    "DECLARE_WAIT_QUEUE_HEAD",
    "WaitQueueEntry",
    "WaitQueueHead",
    "finish_wait",
    "init_waitqueue_head",
    "prepare_to_wait",
    "prepare_to_wait_exclusive",
    "wait_event",
    "wait_event_interruptible",
    "wait_event_timeout",
    "waitqueue_active",
    "wake_up",
    "wake_up_all",
    "wake_up_interruptible",
    "wake_up_nr",
]

_FILE = "include/linux/wait.h"


class WaitQueueEntry:
    """A task on a wait queue.

    Source: include/linux/wait.h:struct wait_queue_entry @6.1.192
    """

    __slots__ = ("exclusive", "task")

    def __init__(self, task: Task | None = None) -> None:
        self.task = task
        self.exclusive = False


class WaitQueueHead:
    """Tasks that wait for something, those first that are woken first.

    Parameters
    ----------
    name : str, optional
        Said if everybody waits.

    Source: include/linux/wait.h:struct wait_queue_head @6.1.192
    """

    __slots__ = ("entries", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.entries: list[WaitQueueEntry] = []


def init_waitqueue_head(wq_head: WaitQueueHead) -> None:
    """Make a wait queue empty.

    Source: include/linux/wait.h:init_waitqueue_head @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    wq_head.entries.clear()


def DECLARE_WAIT_QUEUE_HEAD(name: str = "") -> WaitQueueHead:
    """Return a new wait queue.

    Source: include/linux/wait.h:DECLARE_WAIT_QUEUE_HEAD @6.1.192
    """
    return WaitQueueHead(name)


def waitqueue_active(wq_head: WaitQueueHead) -> bool:
    """Whether anybody waits. Context: any.

    Source: include/linux/wait.h:waitqueue_active @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    return bool(wq_head.entries)


def prepare_to_wait(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry, state: int) -> None:
    """Put the running task on a wait queue, in front, and set its state; it sleeps only with ``schedule()``.

    Context: process.

    Source: kernel/sched/wait.c:prepare_to_wait @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    kernel = current_kernel()
    wq_entry.task = kernel.current
    wq_entry.exclusive = False
    if wq_entry not in wq_head.entries:
        wq_head.entries.insert(0, wq_entry)
    scheduler(kernel).set_current_state(state)


def prepare_to_wait_exclusive(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry, state: int) -> bool:
    """Put the running task at the end of a wait queue; one call of ``wake_up()`` wakes one such task.

    Returns
    -------
    bool
        Whether it is the first.

    Source: kernel/sched/wait.c:prepare_to_wait_exclusive @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    kernel = current_kernel()
    was_empty = not wq_head.entries
    wq_entry.task = kernel.current
    wq_entry.exclusive = True
    if wq_entry not in wq_head.entries:
        wq_head.entries.append(wq_entry)
    scheduler(kernel).set_current_state(state)
    return was_empty


def finish_wait(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    """Take the running task off a wait queue. Context: process.

    Source: kernel/sched/wait.c:finish_wait @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    scheduler(current_kernel()).set_current_state(0)
    if wq_entry in wq_head.entries:
        wq_head.entries.remove(wq_entry)


def wake(kernel: Kernel, wq_head: WaitQueueHead, nr_exclusive: int) -> int:
    """Wake all tasks that are not exclusive, and so many that are (0: all); return how many were woken.

    A task takes itself off the queue, except that who was woken is not woken again in its place.

    Source: kernel/sched/wait.c:__wake_up_common @6.1.192
    """
    woken = 0
    if not wq_head.entries:
        return 0
    sched = scheduler(kernel)
    for entry in list(wq_head.entries):
        if entry.task is None or not sched.wake_up(entry.task):
            continue
        # autoremove_wake_function()
        if entry in wq_head.entries:
            wq_head.entries.remove(entry)
        woken += 1
        if entry.exclusive:
            nr_exclusive -= 1
            if not nr_exclusive:
                break
    return woken


def wake_up(wq_head: WaitQueueHead) -> int:
    """Wake all who wait, but one at most of those who wait exclusively. Context: any.

    Source: include/linux/wait.h:wake_up @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    return wake(current_kernel(), wq_head, 1)


def wake_up_nr(wq_head: WaitQueueHead, nr: int) -> int:
    """Wake all who wait, but `nr` at most of those who wait exclusively. Context: any.

    Source: include/linux/wait.h:wake_up_nr @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    return wake(current_kernel(), wq_head, nr)


def wake_up_all(wq_head: WaitQueueHead) -> int:
    """Wake all who wait. Context: any.

    Source: include/linux/wait.h:wake_up_all @6.1.192
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    return wake(current_kernel(), wq_head, 0)


def wake_up_interruptible(wq_head: WaitQueueHead) -> int:
    """Wake those who wait interruptibly, but one at most of those who wait exclusively. Context: any.

    Source: include/linux/wait.h:wake_up_interruptible @6.1.192
    Differs: wakes all who wait, whatever their state.
    """
    expect(wq_head, WaitQueueHead, "the wait queue")
    return wake(current_kernel(), wq_head, 1)


def _wait(wq_head: WaitQueueHead, condition: Callable[[], object], state: int, timeout: int | None, line: int) -> int:
    """Wait until `condition` is true; return the ticks left (1 at least), 0 if it was not within `timeout`."""
    expect(wq_head, WaitQueueHead, "the wait queue")
    kernel = current_kernel()
    check_may_sleep(kernel, _FILE, line)
    left = timeout
    if condition():
        return left or 1
    what = f"wait queue {wq_head.name}".rstrip()
    entry = WaitQueueEntry()
    try:
        while True:
            prepare_to_wait(wq_head, entry, state)
            if condition():
                return left or 1
            if left == 0:
                return 0
            if left is None:
                scheduler(kernel).sleep(what)
            else:
                left = sleep_ticks(kernel, left, what)
    finally:
        finish_wait(wq_head, entry)


def wait_event(wq_head: WaitQueueHead, condition: Callable[[], object]) -> None:
    """Sleep until ``condition()`` is true; it is looked at after each wake-up of the queue. Context: sleeps.

    Source: include/linux/wait.h:wait_event @6.1.192
    """
    _wait(wq_head, condition, TASK_UNINTERRUPTIBLE, None, 343)


def wait_event_interruptible(wq_head: WaitQueueHead, condition: Callable[[], object]) -> int:
    """Do the same; returns 0, as there are no signals. Context: sleeps.

    Source: include/linux/wait.h:wait_event_interruptible @6.1.192
    """
    _wait(wq_head, condition, TASK_INTERRUPTIBLE, None, 500)
    return 0


def wait_event_timeout(wq_head: WaitQueueHead, condition: Callable[[], object], timeout: int) -> int:
    """Sleep until ``condition()`` is true, for `timeout` ticks at most. Context: sleeps.

    Returns
    -------
    int
        0 if it is still false; else the ticks that were left, 1 at least.

    Source: include/linux/wait.h:wait_event_timeout @6.1.192
    """
    return _wait(wq_head, condition, TASK_UNINTERRUPTIBLE, timeout, 416)
