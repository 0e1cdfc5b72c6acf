# SPDX-License-Identifier: GPL-2.0-only
"""Tasks as memory management sees them, and what it asks of a scheduler.

Source: include/linux/sched.h:struct task_struct @6.1.192
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

__all__ = [
    "PF_KSWAPD",
    "PF_KTHREAD",
    "PF_MEMALLOC",
    "TASK_IDLE",
    "TASK_INTERRUPTIBLE",
    "TASK_RUNNING",
    "TASK_UNINTERRUPTIBLE",
    "Scheduler",
    "Task",
]

#: Task flags (include/linux/sched.h).
PF_MEMALLOC = 0x00000800
PF_KSWAPD = 0x00020000
PF_KTHREAD = 0x00200000

#: Task states (include/linux/sched.h).
TASK_RUNNING: Final = 0x0
TASK_INTERRUPTIBLE: Final = 0x1
TASK_UNINTERRUPTIBLE: Final = 0x2
TASK_IDLE: Final = 0x402


@dataclass(eq=False)
class Task:
    """A process or kernel thread.

    Attributes
    ----------
    pid : int
    comm : str
        Name, at most 15 characters as in the kernel.
    flags : int
        ``PF_*``.
    mm : object or None
        Address space (``kmem.mm.mmap.MmStruct``); None for a kernel thread.
    oom_score_adj : int
        -1000 to 1000.
    make_it_fail : bool
        Whether fault injection with a task filter applies to it.
    fail_nth : int
        Requests for memory until one is made to fail; 0 for never.
    killed : bool
        Whether it is being killed (SIGKILL is pending): it ends where it waits.
    """

    pid: int
    comm: str
    flags: int = 0
    mm: Any = None
    oom_score_adj: int = 0
    make_it_fail: bool = False
    fail_nth: int = 0
    killed: bool = False
    #: Sections that the task is in where page faults are not answered (``pagefault_disable()``).
    pagefault_disabled: int = field(default=0, repr=False)
    #: What the scheduler keeps of it.
    sched: Any = field(default=None, repr=False)


class Scheduler(Protocol):
    """What memory management needs of the scheduler; the machine registers one."""

    @property
    def current(self) -> Task:
        """The task that runs."""

    def alloc_pid(self) -> int:
        """Return a process number that no task has had."""

    def kthread_run(self, fn: Callable[[], object], name: str, *, daemon: bool = False) -> Task:
        """Make a kernel thread that runs `fn`, and let it become runnable; nobody waits for the end of a daemon."""

    def wake_up(self, task: Task) -> bool:
        """Make a sleeping task runnable; False if it was not sleeping."""

    def schedule(
        self,
        why: str,
        timeout_ns: int | None = None,
        *,
        state: int = TASK_UNINTERRUPTIBLE,
        retry: bool = False,
        holder: Task | None = None,
    ) -> bool:
        """Sleep until woken: True, or until the timeout is over: False.

        `why` is printed if everybody sleeps, and `holder` named as the task that is waited for. `retry` says that
        the end of the timeout brings nothing but another try: it does not count as a way out of a deadlock.
        """

    def cond_resched(self) -> None:
        """Let others run that can."""
