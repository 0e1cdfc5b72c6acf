# SPDX-License-Identifier: GPL-2.0-only
"""Kernel threads: tasks from plain functions, and stopping them.

Source: kernel/kthread.c, include/linux/kthread.h @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kmem.errors import StateError
from kmem.mm.argument import expect
from kmem.mm.kernel import current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.sched import scheduler
from kmem.mm.task import Task

__all__ = ["EINTR", "kthread_create", "kthread_run", "kthread_should_stop", "kthread_stop"]

EINTR: Final = 4


def kthread_create(threadfn: Callable[[Any], object], data: Any, namefmt: str, *args: object) -> Task:
    """Make a kernel thread that calls ``threadfn(data)`` once ``wake_up_process()`` has been called. Context: sleeps.

    Parameters
    ----------
    threadfn : callable
    data : object
    namefmt : str
        Name, with ``%`` directives for `args`.

    Source: include/linux/kthread.h:kthread_create @6.1.192
    """
    return _create(threadfn, data, namefmt % args if args else namefmt, wake=False)


def kthread_run(threadfn: Callable[[Any], object], data: Any, namefmt: str, *args: object) -> Task:
    """Make a kernel thread that calls ``threadfn(data)``, and let it run. Context: sleeps.

    Source: include/linux/kthread.h:kthread_run @6.1.192
    """
    return _create(threadfn, data, namefmt % args if args else namefmt, wake=True)


def _create(threadfn: Callable[[Any], object], data: Any, name: str, *, wake: bool) -> Task:
    kernel = current_kernel()
    check_may_sleep(kernel, "kernel/sched/completion.c", 101)
    task: Task = scheduler(kernel).spawn(threadfn, data, name=name, wake=wake)
    return task


def kthread_should_stop() -> bool:
    """Whether somebody has called :func:`kthread_stop` for the running thread. Context: process.

    Source: kernel/kthread.c:kthread_should_stop @6.1.192
    """
    state = current_kernel().current.sched
    return state is not None and bool(state.should_stop)


def kthread_stop(k: Task) -> Any:
    """Ask a thread to end, wake it, and wait for its end. Context: sleeps.

    Returns
    -------
    object
        What its function has returned; ``-EINTR`` if it had not begun.

    Raises
    ------
    Exception
        What its function has raised.

    Source: kernel/kthread.c:kthread_stop @6.1.192
    """
    expect(k, Task, "the thread")
    kernel = current_kernel()
    sched = scheduler(kernel)
    if k is kernel.current:
        raise StateError(f"thread {k.comm}/{k.pid} cannot wait for its own end")
    check_may_sleep(kernel, "kernel/sched/completion.c", 101)
    if not k.sched.done:
        k.sched.should_stop = True
        sched.wake_up(k)
    return sched.join(k)
