# SPDX-License-Identifier: GPL-2.0-only
"""Mutexes: locks whose waiters sleep, and whose owner may.

Source: kernel/locking/mutex.c, include/linux/mutex.h @6.1.192
Differs: what CONFIG_DEBUG_MUTEXES checks is always checked.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kmem.errors import DeadlockError, KernelWarning
from kmem.mm.argument import expect
from kmem.mm.callers import caller
from kmem.mm.dump_stack import add_taint, dump_stack
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.preempt import HARDIRQ_MASK, NMI_MASK, SOFTIRQ_MASK, Section
from kmem.mm.sched import scheduler
from kmem.mm.task import Task

__all__ = [
    "DEFINE_MUTEX",
    "Mutex",
    "mutex_destroy",
    "mutex_init",
    "mutex_is_locked",
    "mutex_lock",
    "mutex_lock_interruptible",
    "mutex_trylock",
    "mutex_unlock",
]

_FILE: Final = "kernel/locking/mutex.c"
_MIGHT_SLEEP_LINE: Final = 283


class Mutex:
    """A lock that one task holds.

    Parameters
    ----------
    name : str, optional
        Said if everybody waits.

    Attributes
    ----------
    owner : Task or None
    waiters : deque of Task
        The one first that gets it next.

    Source: include/linux/mutex.h:struct mutex @6.1.192
    """

    __slots__ = ("name", "owner", "waiters")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.owner: Task | None = None
        self.waiters: deque[Task] = deque()


def DEFINE_MUTEX(name: str = "") -> Mutex:
    """Return a new mutex.

    Source: include/linux/mutex.h:DEFINE_MUTEX @6.1.192
    """
    return Mutex(name)


def mutex_init(lock: Mutex) -> None:
    """Make a mutex free. Context: any; nobody may hold it.

    Source: include/linux/mutex.h:mutex_init @6.1.192
    """
    expect(lock, Mutex, "the lock")
    lock.owner = None
    lock.waiters.clear()


def _warn(kernel: Kernel, condition: str) -> None:
    lines = [f"DEBUG_LOCKS_WARN_ON({condition})", *dump_stack(kernel)]
    add_taint(kernel)
    kernel.report(KernelWarning("\n".join(lines)))


def mutex_destroy(lock: Mutex) -> None:
    """Say that a mutex is not used any more; one that is held is reported. Context: any.

    Source: kernel/locking/mutex-debug.c:mutex_destroy @6.1.192
    """
    expect(lock, Mutex, "the lock")
    if lock.owner is not None:
        _warn(current_kernel(), "mutex_is_locked(lock)")


def mutex_is_locked(lock: Mutex) -> bool:
    """Whether anybody holds a mutex. Context: any.

    Source: kernel/locking/mutex.c:mutex_is_locked @6.1.192
    """
    expect(lock, Mutex, "the lock")
    return lock.owner is not None


def mutex_lock(lock: Mutex) -> Section:
    """Take a mutex; sleep until it is free. Context: sleeps.

    Raises
    ------
    DeadlockError
        The running task holds it itself.

    Source: kernel/locking/mutex.c:mutex_lock @6.1.192
    """
    expect(lock, Mutex, "the lock")
    kernel = current_kernel()
    check_may_sleep(kernel, _FILE, _MIGHT_SLEEP_LINE)
    me = kernel.current
    what = f"mutex {lock.name}".rstrip()
    if lock.owner is me:
        raise DeadlockError(f"{me.comm}/{me.pid} waits at {caller()} for {what}, which it holds itself")
    if lock.owner is not None:
        sched = scheduler(kernel)
        lock.waiters.append(me)
        try:
            while lock.owner is not None and lock.owner is not me:
                sched.schedule(what, holder=lock.owner)
        except BaseException:
            if me in lock.waiters:
                lock.waiters.remove(me)
            elif lock.owner is me:
                _unlock(kernel, lock)
            raise
    lock.owner = me
    return Section(kernel, lambda: _unlock(kernel, lock), what)


def mutex_lock_interruptible(lock: Mutex) -> int:
    """Do the same; returns 0, as there are no signals. Context: sleeps.

    Source: kernel/locking/mutex.c:mutex_lock_interruptible @6.1.192
    """
    mutex_lock(lock)
    return 0


def mutex_trylock(lock: Mutex) -> int:
    """Take a mutex if it is free; 1 if so, else 0. Context: process, does not sleep.

    Source: kernel/locking/mutex.c:mutex_trylock @6.1.192
    """
    expect(lock, Mutex, "the lock")
    kernel = current_kernel()
    if kernel.preempt_count & (HARDIRQ_MASK | NMI_MASK | SOFTIRQ_MASK):
        _warn(kernel, "in_interrupt()")
    if lock.owner is not None:
        return 0
    lock.owner = kernel.current
    return 1


def mutex_unlock(lock: Mutex) -> None:
    """Give a mutex back; the task gets it that has waited longest. Context: process.

    Source: kernel/locking/mutex.c:mutex_unlock @6.1.192
    """
    expect(lock, Mutex, "the lock")
    _unlock(current_kernel(), lock)


def _unlock(kernel: Kernel, lock: Mutex) -> None:
    if lock.owner is not kernel.current:
        _warn(kernel, "__owner_task(owner) != current")
        if lock.owner is None:
            return
    lock.owner = None
    if lock.waiters:
        # handed over: nobody else can take it before the waiter has run
        lock.owner = lock.waiters.popleft()
        scheduler(kernel).wake_up(lock.owner)
