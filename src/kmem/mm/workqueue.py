# SPDX-License-Identifier: GPL-2.0-only
"""Work queues: functions that a kernel thread calls later, where they may sleep.

Works of all queues are done by the same threads, ``kworker/0:1`` and so on.
One thread does them one after another; while a work sleeps, another thread
goes on with the next.  How many works of one queue may be under way at once is
the queue's ``max_active``, 1 for an ordered one.

Source: kernel/workqueue.c, include/linux/workqueue.h @6.1.192
Differs: queues bound to a CPU and unbound ones share the threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import KernelReport, KernelWarning, StateError, UsageError
from kmem.mm.argument import expect
from kmem.mm.dump_stack import dump_stack
from kmem.mm.fault_create import kmalloc_fails
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.task import TASK_IDLE, Task
from kmem.mm.timer import Timer, jiffies, mod_timer, timer_delete, timer_pending

if TYPE_CHECKING:
    from typing import Protocol

    class _Sched(Protocol):
        def spawn(self, fn: Callable[..., object], *args: Any, name: str, daemon: bool) -> Task: ...
        def wake_up(self, task: Task) -> bool: ...
        def schedule(self, why: str, *, state: int = ..., holder: Task | None = ...) -> bool: ...
        def failed(self, what: str, error: BaseException) -> None: ...


__all__ = [
    "INIT_DELAYED_WORK",
    "INIT_WORK",
    "DelayedWork",
    "Work",
    "Workqueue",
    "alloc_ordered_workqueue",
    "alloc_workqueue",
    "cancel_delayed_work",
    "cancel_delayed_work_sync",
    "cancel_work_sync",
    "create_singlethread_workqueue",
    "destroy_workqueue",
    "flush_delayed_work",
    "flush_work",
    "flush_workqueue",
    "mod_delayed_work",
    "queue_delayed_work",
    "queue_work",
    "schedule_delayed_work",
    "schedule_work",
    "work_pending",
]

#: Works of one queue that may be under way at once, if nothing else is asked for.
WQ_DFL_ACTIVE: Final = 256
#: What a queue takes from kmalloc, by bits of a word.
_WORKQUEUE_BYTES: Final = {64: 512, 32: 256}
_FILE: Final = "kernel/workqueue.c"
_MIGHT_SLEEP_LINE: Final = 3017


class Work:
    """A function to be called by a kernel thread (``struct work_struct``).

    Parameters
    ----------
    func : callable, optional
        Called with the work.

    Attributes
    ----------
    pending : bool
        Whether it is going to be called.

    Source: include/linux/workqueue.h:struct work_struct @6.1.192
    """

    def __init__(self, func: Callable[[Any], object] | None = None) -> None:
        self.func = func
        self.pending = False
        self.runner: Task | None = None
        self.waiters: list[Task] = []
        self.queue: Workqueue | None = None


class DelayedWork(Work):
    """A work that is queued after a time (``struct delayed_work``).

    Source: include/linux/workqueue.h:struct delayed_work @6.1.192
    """

    def __init__(self, func: Callable[[Any], object] | None = None) -> None:
        super().__init__(func)
        self.timer = Timer(self._queue)

    def _queue(self, timer: Timer) -> None:
        queue = self.queue
        if queue is not None:
            queue.workqueues.insert(queue, self)


class Workqueue:
    """A queue of works; ``alloc_workqueue()`` makes one.

    Source: kernel/workqueue.c:struct workqueue_struct @6.1.192
    """

    def __init__(self, workqueues: Workqueues, name: str, max_active: int) -> None:
        self.workqueues = workqueues
        self.name = name
        self.max_active = max_active
        self.active = 0
        self.works: deque[Work] = deque()
        self.running: list[Work] = []
        self.destroyed = False


class Workqueues:
    """All work queues of one machine, and the threads that do their works."""

    def __init__(self, kernel: Kernel, sched: _Sched) -> None:
        self._kernel = kernel
        self._sched = sched
        self.system = Workqueue(self, "events", WQ_DFL_ACTIVE)
        self.queues: list[Workqueue] = [self.system]
        self._idle: list[Task] = []
        self._nr_workers = 0

    def insert(self, queue: Workqueue, work: Work) -> None:
        """Append a work that is marked as pending already, and see that somebody does it.

        Source: kernel/workqueue.c:insert_work, wake_up_worker @6.1.192
        """
        queue.works.append(work)
        self._wake_worker()

    def _wake_worker(self) -> None:
        if self._idle:
            self._sched.wake_up(self._idle.pop())
        else:
            self._nr_workers += 1
            self._sched.spawn(self._worker, name=f"kworker/0:{self._nr_workers}", daemon=True)

    def _next(self) -> tuple[Workqueue, Work] | None:
        for queue in self.queues:
            if queue.works and queue.active < queue.max_active:
                return queue, queue.works.popleft()
        return None

    def _worker(self) -> None:
        """Do works until there is none; then wait for more.

        Source: kernel/workqueue.c:worker_thread @6.1.192
        """
        me = self._kernel.current
        while True:
            found = self._next()
            if found is None:
                self._idle.append(me)
                self._sched.schedule("works to do", state=TASK_IDLE)
                if me in self._idle:
                    self._idle.remove(me)
                continue
            self._do(me, *found)

    def _do(self, me: Task, queue: Workqueue, work: Work) -> None:
        """Call the function of one work.

        Source: kernel/workqueue.c:process_one_work @6.1.192
        """
        work.pending = False
        work.runner = me
        me.sched.daemon = False  # the end of a work is waited for
        queue.active += 1
        queue.running.append(work)
        if self._next_waits():
            # this work may sleep, and the next one should not have to wait for it
            self._wake_worker()
        try:
            if work.func is not None:
                work.func(work)
        except Exception as error:
            self._sched.failed(f"work {getattr(work.func, '__qualname__', work.func)!s}", error)
        finally:
            self._check_balance(me, work)
            me.sched.daemon = True
            work.runner = None
            queue.active -= 1
            queue.running.remove(work)
        waiters, work.waiters = work.waiters, []
        for task in waiters:
            self._sched.wake_up(task)

    def _next_waits(self) -> bool:
        return any(queue.works and queue.active < queue.max_active for queue in self.queues)

    def _check_balance(self, me: Task, work: Work) -> None:
        """Report a work that has left the thread where it cannot sleep.

        Source: kernel/workqueue.c:process_one_work @6.1.192
        """
        kernel = self._kernel
        if not kernel.preempt_count and not kernel.rcu_nesting and not kernel.irqs_disabled:
            return
        lines = [
            f"BUG: workqueue leaked lock or atomic: {me.comm}/0x{kernel.preempt_count:08x}/{me.pid}",
            f"     last function: {getattr(work.func, '__qualname__', work.func)}",
            *dump_stack(kernel),
        ]
        kernel.preempt_count, kernel.rcu_nesting, kernel.irqs_disabled = 0, 0, False
        try:
            kernel.report(KernelWarning("\n".join(lines)))
        except KernelReport as error:
            self._sched.failed("work", error)


def _workqueues() -> Workqueues:
    kernel = current_kernel()
    if kernel.sched is None:
        raise StateError("this kernel has no scheduler, and so no work queues")
    workqueues: Workqueues = kernel.sched.workqueues
    return workqueues


def INIT_WORK(work: Work, func: Callable[[Any], object]) -> None:
    """Prepare a work. Context: any; it must not be pending.

    Source: include/linux/workqueue.h:INIT_WORK @6.1.192
    """
    expect(work, Work, "the work")
    if not callable(func):
        raise UsageError(f"{func!r} is no function that a work could call")
    work.func = func
    work.pending = False


def INIT_DELAYED_WORK(work: DelayedWork, func: Callable[[Any], object]) -> None:
    """Prepare a delayed work. Context: any; it must not be pending.

    Source: include/linux/workqueue.h:INIT_DELAYED_WORK @6.1.192
    """
    INIT_WORK(work, func)


def alloc_workqueue(fmt: str, flags: int, max_active: int, *args: object) -> Workqueue | None:
    """Return a new work queue, None if a fault is injected. Context: may sleep.

    Parameters
    ----------
    fmt : str
        Name, with ``%`` directives for `args`.
    flags : int
        ``WQ_*``; they have no effect here.
    max_active : int
        How many of its works may be under way at once; 0 for the default.

    Source: kernel/workqueue.c:alloc_workqueue @6.1.192
    """
    if max_active < 0:
        raise UsageError(f"max_active={max_active}")
    workqueues = _workqueues()
    kernel = current_kernel()
    kernel.might_sleep()  # kzalloc(GFP_KERNEL) is the first that it does
    if kmalloc_fails(kernel, _WORKQUEUE_BYTES[kernel.bits_per_long]):
        return None
    queue = Workqueue(workqueues, fmt % args if args else fmt, max_active or WQ_DFL_ACTIVE)
    workqueues.queues.append(queue)
    return queue


def alloc_ordered_workqueue(fmt: str, flags: int, *args: object) -> Workqueue | None:
    """Return a new work queue whose works are done one after another. Context: may sleep.

    Source: include/linux/workqueue.h:alloc_ordered_workqueue @6.1.192
    """
    return alloc_workqueue(fmt, flags, 1, *args)


def create_singlethread_workqueue(name: str) -> Workqueue | None:
    """Return a new work queue whose works are done one after another. Context: may sleep.

    Source: include/linux/workqueue.h:create_singlethread_workqueue @6.1.192
    """
    return alloc_workqueue(name, 0, 1)


def work_pending(work: Work) -> bool:
    """Whether a work is going to be done and not yet begun. Context: any.

    Source: include/linux/workqueue.h:work_pending @6.1.192
    """
    expect(work, Work, "the work")
    return work.pending


def queue_work(wq: Workqueue, work: Work) -> bool:
    """Have a work done by a thread of a queue; False if it is pending already. Context: any.

    Source: include/linux/workqueue.h:queue_work @6.1.192
    """
    expect(work, Work, "the work")
    expect(wq, Workqueue, "the work queue")
    if wq.destroyed:
        raise StateError(f"work queue {wq.name} has been destroyed")
    if work.func is None:
        raise UsageError("the work has no function", remedy="call INIT_WORK() first")
    if work.pending:
        return False
    work.pending = True
    work.queue = wq
    wq.workqueues.insert(wq, work)
    return True


def schedule_work(work: Work) -> bool:
    """Have a work done by a thread of the kernel's own queue; False if it is pending already. Context: any.

    Source: include/linux/workqueue.h:schedule_work @6.1.192
    """
    return queue_work(_workqueues().system, work)


def queue_delayed_work(wq: Workqueue, dwork: DelayedWork, delay: int) -> bool:
    """Queue a work after `delay` ticks; False if it is pending already. Context: any.

    Source: include/linux/workqueue.h:queue_delayed_work @6.1.192
    """
    expect(wq, Workqueue, "the work queue")
    expect(dwork, DelayedWork, "the work")
    if not delay:
        return queue_work(wq, dwork)
    if wq.destroyed:
        raise StateError(f"work queue {wq.name} has been destroyed")
    if dwork.pending:
        return False
    dwork.pending = True
    dwork.queue = wq
    mod_timer(dwork.timer, jiffies() + delay)
    return True


def schedule_delayed_work(dwork: DelayedWork, delay: int) -> bool:
    """Queue a work on the kernel's own queue after `delay` ticks; False if it is pending already. Context: any.

    Source: include/linux/workqueue.h:schedule_delayed_work @6.1.192
    """
    return queue_delayed_work(_workqueues().system, dwork, delay)


def mod_delayed_work(wq: Workqueue, dwork: DelayedWork, delay: int) -> bool:
    """Queue a work after `delay` ticks, counted from now, pending or not; whether it was. Context: any.

    Source: include/linux/workqueue.h:mod_delayed_work @6.1.192
    """
    was_pending = cancel_delayed_work(dwork)
    queue_delayed_work(wq, dwork, delay)
    return was_pending


def _steal(work: Work) -> bool:
    """Take a pending work back; whether it was pending.

    Source: kernel/workqueue.c:try_to_grab_pending @6.1.192
    """
    expect(work, Work, "the work")
    if not work.pending:
        return False
    if isinstance(work, DelayedWork) and timer_pending(work.timer):
        timer_delete(work.timer)
    elif work.queue is not None and work in work.queue.works:
        work.queue.works.remove(work)
    work.pending = False
    return True


def _wait_for(work: Work) -> bool:
    """Wait until a work has been done that is pending or under way; whether there was anything to wait for."""
    expect(work, Work, "the work")
    kernel = current_kernel()
    check_may_sleep(kernel, _FILE, _MIGHT_SLEEP_LINE)
    waited = False
    while work.pending or work.runner is not None:
        if work.runner is kernel.current:
            raise StateError("a work cannot wait for its own end")
        waited = True
        work.waiters.append(kernel.current)
        kernel.sched.schedule(f"work {getattr(work.func, '__qualname__', work.func)!s}", holder=work.runner)
    return waited


def flush_work(work: Work) -> bool:
    """Wait until a work has been done, if it is pending or under way; False if it is neither. Context: sleeps.

    Source: kernel/workqueue.c:flush_work @6.1.192
    """
    return _wait_for(work)


def flush_delayed_work(dwork: DelayedWork) -> bool:
    """Queue a delayed work at once if its time has not come, and wait for its end. Context: sleeps.

    Source: kernel/workqueue.c:flush_delayed_work @6.1.192
    """
    expect(dwork, DelayedWork, "the work")
    if timer_delete(dwork.timer) and dwork.queue is not None:
        dwork.queue.workqueues.insert(dwork.queue, dwork)
    return _wait_for(dwork)


def cancel_work_sync(work: Work) -> bool:
    """Take a work back; if it is under way, wait for its end. Whether it was pending. Context: sleeps.

    Source: kernel/workqueue.c:cancel_work_sync @6.1.192
    """
    was_pending = _steal(work)
    _wait_for(work)
    return was_pending


def cancel_delayed_work(dwork: DelayedWork) -> bool:
    """Take a delayed work back; whether it was pending. Context: any.

    Source: kernel/workqueue.c:cancel_delayed_work @6.1.192
    """
    return _steal(dwork)


def cancel_delayed_work_sync(dwork: DelayedWork) -> bool:
    """Take a delayed work back; if it is under way, wait for its end. Whether it was pending. Context: sleeps.

    Source: kernel/workqueue.c:cancel_delayed_work_sync @6.1.192
    """
    return cancel_work_sync(dwork)


def flush_workqueue(wq: Workqueue) -> None:
    """Wait until all works have been done that are on a queue now. Context: sleeps.

    Source: kernel/workqueue.c:__flush_workqueue @6.1.192
    """
    expect(wq, Workqueue, "the work queue")
    check_may_sleep(current_kernel(), "kernel/locking/mutex.c", 283)
    for work in [*wq.running, *wq.works]:
        _wait_for(work)


def destroy_workqueue(wq: Workqueue) -> None:
    """Do what is on a queue, and end it. Context: sleeps.

    Source: kernel/workqueue.c:destroy_workqueue @6.1.192
    """
    expect(wq, Workqueue, "the work queue")
    if wq.destroyed:
        raise StateError(f"work queue {wq.name} has been destroyed already")
    while wq.running or wq.works:
        flush_workqueue(wq)
    wq.destroyed = True
    wq.workqueues.queues.remove(wq)
