# SPDX-License-Identifier: GPL-2.0-only
"""What the scheduler keeps: of each task, and of each thing that is going to happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from kmem.errors import UsageError
from kmem.mm.task import TASK_RUNNING, Task

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["Event", "TaskState", "name_of", "state_of"]


class Event:
    """Something that happens at a time, as an interrupt.

    Attributes
    ----------
    time_ns : int
    fn : callable or None
        None after it has happened or was cancelled.
    """

    __slots__ = ("fn", "retry", "seq", "time_ns")

    def __init__(self, time_ns: int, seq: int, fn: Callable[[], object], retry: bool) -> None:
        self.time_ns = time_ns
        self.seq = seq
        self.fn: Callable[[], object] | None = fn
        self.retry = retry

    def __lt__(self, other: Event) -> bool:
        return (self.time_ns, self.seq) < (other.time_ns, other.seq)


class TaskState:
    """What the scheduler keeps of a task (``Task.sched``).

    Attributes
    ----------
    task : Task
    acting : Task
        As whom it runs: itself, or a task that has no stack of its own.
    state : int
        ``TASK_*``.
    daemon : bool
        Whether nobody waits for its end, and its own waiting is no deadlock.
    result, error : object, BaseException or None
        What its function returned or raised.
    done : bool
        Whether it has ended.
    should_stop : bool
        Whether somebody calls ``kthread_stop()``.
    why, since_ns, place, holder
        What it waits for, since when, called from where, and who has it.
    """

    __slots__ = (
        "acting",
        "args",
        "blocks",
        "bounded",
        "cpu",
        "daemon",
        "done",
        "error",
        "fn",
        "greenlet",
        "holder",
        "irqs_disabled",
        "joiners",
        "killed",
        "pending",
        "place",
        "preempt_count",
        "rcu_nesting",
        "result",
        "retry",
        "should_stop",
        "since_ns",
        "started",
        "state",
        "task",
        "task_flags",
        "timed_out",
        "timeout",
        "tried",
        "why",
    )

    def __init__(self, task: Task, fn: Callable[..., object] | None, args: tuple[Any, ...], cpu: int) -> None:
        self.task = task
        self.acting = task
        self.fn = fn
        self.args = args
        self.cpu = cpu
        self.greenlet: greenlet = getcurrent()
        self.blocks: list[Kernel] = []
        self.state = TASK_RUNNING
        self.daemon = self.done = self.started = self.should_stop = self.killed = False
        self.preempt_count = self.rcu_nesting = self.task_flags = 0
        self.irqs_disabled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.pending: BaseException | None = None
        self.joiners: list[Task] = []
        self.why = self.place = ""
        self.since_ns = 0
        self.holder: Task | None = None
        self.timeout: Event | None = None
        self.tried: tuple[str, str, int, int] | None = None
        self.timed_out = self.retry = self.bounded = False

    def describe(self) -> str:
        """Say in a few words what the task waits for."""
        seconds = f"{self.since_ns / 1e9:.6f}"
        holder = ""
        if self.holder is not None:
            ended = " (which has ended)" if self.holder.sched is not None and self.holder.sched.done else ""
            holder = f", held by {self.holder.comm}/{self.holder.pid}{ended},"
        return f"{self.task.comm}/{self.task.pid} waits for {self.why}{holder} since {seconds} s at {self.place}"


def name_of(task: Task) -> str:
    """Return name and number of a task, for messages."""
    return f"{task.comm}/{task.pid}"


def state_of(task: Task) -> TaskState:
    """Return what the scheduler keeps of a task.

    Raises
    ------
    UsageError
        If it is no task of the scheduler's.
    """
    state = getattr(task, "sched", None)
    if not isinstance(state, TaskState):
        raise UsageError(f"{task!r} is no task that runs", remedy="make tasks with m.spawn()")
    return state
