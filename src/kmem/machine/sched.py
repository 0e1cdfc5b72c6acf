# SPDX-License-Identifier: GPL-2.0-only
"""Tasks that take turns, on virtual time, in an order that the seed gives.

A task is a plain Python function on a stack of its own (a greenlet).  One
runs until it has to wait: for an element of an empty pool, a lock, a page, a
time.  Then the scheduler picks one of those that can run, by the machine's
seed.  If none can, time jumps to the next timer; if there is none either, all
wait for each other, which is a :class:`~kmem.errors.DeadlockError`.  Nothing
depends on the host's clock or threads: the same program with the same seed
does the same, to the line of its log.

The code that made the machine is a task, too: pid 1, ``init``.  Others run
while it waits, in :meth:`Sched.run` or in any call that has to.

::

     spawn()         picked              schedule()
    --------> ready --------> running --------------> waiting
               ^  ^---------------'                      |
               |    cond_resched()                       |
               '-----------------------------------------'
                          wake_up(), timeout

Tasks switch nowhere else: not where memory is merely allocated, and never
inside the allocators.  Timers and other interrupts run where time passes,
that is while all tasks wait or one of them busy-waits (``udelay()``), on top
of the task that they interrupt.

Source: kernel/sched/core.c, kernel/hung_task.c @6.1.192
Differs: the order is not that of a fair scheduler; one CPU runs at a time; time passes only while code waits, and a
little at each ``cond_resched()``.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from greenlet import GreenletExit, getcurrent, greenlet

from kmem.errors import DeadlockError, KernelPanic, KernelReport, KernelWarning, StateError, UsageError
from kmem.machine.task_state import Event, TaskState, name_of, state_of
from kmem.mm.callers import caller, caller_site
from kmem.mm.dump_stack import dump_stack
from kmem.mm.kernel import swap_blocks
from kmem.mm.might_sleep import may_sleep, might_sleep_report, scheduling_while_atomic
from kmem.mm.preempt import HARDIRQ_MASK, HARDIRQ_OFFSET, NMI_MASK, SOFTIRQ_OFFSET
from kmem.mm.printk import KERN_ALERT, KERN_ERR, KERN_INFO, LogLine
from kmem.mm.softirq import Softirqs, call_in_interrupt
from kmem.mm.task import (
    PF_KTHREAD,
    TASK_IDLE,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
    Task,
)
from kmem.mm.timer import Timers
from kmem.mm.workqueue import Workqueues

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["Sched"]

#: Virtual time that one call of ``cond_resched()`` takes.
RESCHED_NS: Final = 1000
#: So many calls of ``cond_resched()`` in vain, and time jumps to the next timer.
PATIENCE: Final = 1000
#: So many tries of each waiting task have failed, with nothing else going to happen: they would fail for ever.
HUNG_TRIES: Final = 100
#: A task without progress for so long counts as hung (kernel.hung_task_timeout_secs),
HUNG_TASK_NS: Final = 120_000_000_000
#: if so many timers have run meanwhile, none of which helped.
HUNG_EVENTS: Final = 10_000
#: Entries of the schedule log that are kept.
LOG_ENTRIES: Final = 1 << 18

_LETTERS: Final = {TASK_RUNNING: "R", TASK_INTERRUPTIBLE: "S", TASK_UNINTERRUPTIBLE: "D", TASK_IDLE: "I"}
_IN_INTERRUPT: Final = NMI_MASK | HARDIRQ_MASK | SOFTIRQ_OFFSET


class Sched:
    """The scheduler of one machine: ``m.sched``.

    Parameters
    ----------
    kernel : Kernel
        Whose ``current`` task becomes the main task.
    seed : int
        Gives the order in which tasks run that could run at the same time.

    Attributes
    ----------
    log : deque of LogLine
        What was switched, woken, started and ended, and when; the newest :data:`LOG_ENTRIES` entries.
    softirqs, timers, workqueues : object
        The parts of the kernel that run code later.
    """

    def __init__(self, kernel: Kernel, seed: int = 0) -> None:
        self._kernel = kernel
        self._clock = kernel.clock
        self._random = random.Random(f"sched {seed}")
        self._queue: list[TaskState] = []
        self._events: list[Event] = []
        self._seq = 0
        self._last_pid = 2  # kthreadd's
        self._tasks: dict[int, TaskState] = {}
        self._failed: list[tuple[str, BaseException]] = []
        self._failed_interrupts: list[Exception] = []  # those of them that no task has raised
        self.log: deque[LogLine] = deque(maxlen=LOG_ENTRIES)
        self._main = TaskState(kernel.current, None, (), kernel.page_alloc.cpu)
        self._main.started = True
        kernel.current.sched = self._main
        self._idle_task = Task(pid=0, comm="swapper/0", flags=PF_KTHREAD)
        self._running = self._main
        self._until: int | Task | None = None
        self._in_run = False
        self._closed = False
        self._in_vain = 0
        self._progress_ns = 0
        self._events_in_vain = self._tries_in_vain = self._tries = 0
        self.softirqs = Softirqs(kernel, self)
        self.timers = Timers(kernel, self)
        self.workqueues = Workqueues(kernel, self)

    # ---------------------------------------------------------------- tasks

    @property
    def current(self) -> Task:
        """The task that runs, or that the running interrupt has interrupted."""
        return self._kernel.current

    @property
    def tasks(self) -> list[Task]:
        """All tasks that have not ended, the main task first, daemons included."""
        return [self._main.task, *(state.task for state in self._tasks.values())]

    def alloc_pid(self) -> int:
        """Return a process number that no task has had."""
        self._last_pid += 1
        return self._last_pid

    def spawn(
        self,
        fn: Callable[..., object],
        *args: Any,
        name: str | None = None,
        kthread: bool = True,
        daemon: bool = False,
        cpu: int | None = None,
        task: Task | None = None,
        wake: bool = True,
    ) -> Task:
        """Make a task that calls ``fn(*args)``; it runs when somebody else waits.

        Parameters
        ----------
        fn : callable
            A plain function. What it returns and raises is for :meth:`join` and :meth:`run`.
        *args
            Its arguments.
        name : str, optional
            At most 15 characters count; by default the function's name.
        kthread : bool, optional
            Whether it is a kernel thread rather than a process.
        daemon : bool, optional
            Whether it may wait for ever: nobody waits for its end, and it is no part of a deadlock.
        cpu : int, optional
            Where it runs; by default where its maker does.
        task : Task, optional
            The task to run it as; by default a new one.
        wake : bool, optional
            Whether it can run at once, rather than after ``wake_up_process()``.

        Returns
        -------
        Task
        """
        self._check_open()
        if not callable(fn):
            raise UsageError(f"{fn!r} is no function that a task could run")
        if task is None:
            comm = (name if name is not None else getattr(fn, "__name__", type(fn).__name__))[:15]
            task = Task(pid=self.alloc_pid(), comm=comm, flags=PF_KTHREAD if kthread else 0)
        elif task.sched is not None:
            raise UsageError(f"task {task.comm}/{task.pid} runs already")
        state = TaskState(task, fn, args, self._running.cpu if cpu is None else cpu)
        state.daemon = daemon
        state.blocks = [self._kernel]
        state.greenlet = greenlet(lambda *_: self._body(state), parent=self._main.greenlet)
        state.greenlet.gr_context = copy_context()
        task.sched = state
        self._tasks[task.pid] = state
        self._note(f"sched_process_fork: comm={self.current.comm} pid={self.current.pid} child={name_of(task)}")
        if wake:
            self._queue.append(state)
        else:
            state.state = TASK_UNINTERRUPTIBLE
            self._waits_for(state, "its first wake_up_process()", None, False, None)
        return task

    def kthread_run(self, fn: Callable[[], object], name: str, *, daemon: bool = False) -> Task:
        """Make a kernel thread that runs `fn`."""
        return self.spawn(fn, name=name, daemon=daemon)

    def wake_up(self, task: Task) -> bool:
        """Make a task that sleeps, or is about to, runnable; False if it was not sleeping. Context: any.

        Source: kernel/sched/core.c:try_to_wake_up @6.1.192
        """
        state = self._sleeper(task)
        if state.done or state.state == TASK_RUNNING:
            return False
        self._progress(state)
        self._ready(state)
        return True

    def _sleeper(self, task: Task) -> TaskState:
        """Return the state of who runs as `task`, which has none of its own if another lends it its stack."""
        if task.sched is None:
            for state in (self._running, self._main, *self._tasks.values()):
                if (self._kernel.current if state is self._running else state.acting) is task:
                    return state
        return state_of(task)

    def join(self, task: Task) -> Any:
        """Wait for the end of a task; return what its function returned, or raise what it raised.

        Context: may sleep.
        """
        state = state_of(task)
        while not state.done:
            state.joiners.append(self._running.task)
            self.schedule(f"the end of {name_of(task)}", holder=task)
        if state.error is not None:
            self._failed = [entry for entry in self._failed if entry[1] is not state.error]
            raise state.error
        return state.result

    def run(self, until: int | Task | None = None) -> None:
        """Let tasks run until all have ended, daemons aside.

        Parameters
        ----------
        until : int or Task, optional
            Run until this machine time in nanoseconds, or until this task has ended, instead.

        Raises
        ------
        DeadlockError
            If all wait and nobody is left to wake them.
        Exception
            What a task or an interrupt has raised, once; an ExceptionGroup if there are several.

        Notes
        -----
        Context: the main task only.
        """
        self._check_open()
        main = self._main
        if self._running is not main:
            raise StateError("run() is for the code that made the machine", remedy="wait for tasks with join()")
        self._until = until
        deadline = self.add_event(until, lambda: self._ready(main)) if isinstance(until, int) else None
        try:
            self._in_run = True
            while not self._run_is_over():
                self.schedule("all tasks to end")
        except DeadlockError as error:
            failed, self._failed = self._failed, []
            raise error from (failed[0][1] if failed else None)
        finally:
            self._in_run = False
            if deadline is not None:
                self.cancel_event(deadline)
        self.raise_failures()

    def _run_is_over(self) -> bool:
        if isinstance(self._until, int):
            return self._clock.time_ns >= self._until
        if self._until is not None:
            return bool(state_of(self._until).done)
        return not self._queue and all(state.daemon for state in self._tasks.values())

    def raise_failures(self) -> None:
        """Raise what tasks and interrupts have raised and nobody has seen yet."""
        failed, self._failed = self._failed, []
        self._failed_interrupts.clear()
        if len(failed) == 1:
            raise failed[0][1]
        if failed:
            errors = [error for _, error in failed if isinstance(error, Exception)]
            raise ExceptionGroup(f"{len(errors)} tasks failed", errors)

    def failed(self, what: str, error: BaseException) -> None:
        """Take note of what a task or an interrupt has raised; ends the program at once if nothing can go on."""
        if not isinstance(error, KernelReport):  # those are in the log already
            text = "".join(f"{type(error).__name__}: {error}".splitlines()[:1])
            self._kernel.printk.printk(f"{what} died: {text}", KERN_ALERT)
        if isinstance(error, KernelPanic) or not isinstance(error, Exception):
            self._main.pending = error
            self._ready(self._main)
            return
        self._failed.append((what, error))
        if self._kernel.preempt_count & _IN_INTERRUPT:
            self._failed_interrupts.append(error)

    def raise_interrupts(self) -> None:
        """Raise what interrupts have raised, timers among them, in the main task's call that let them run."""
        errors = self._failed_interrupts
        if not errors or self._running is not self._main or self._kernel.preempt_count & _IN_INTERRUPT:
            return
        self._failed_interrupts = []
        self._failed = [entry for entry in self._failed if not any(entry[1] is error for error in errors)]
        if len(errors) == 1:
            raise errors[0]
        raise ExceptionGroup(f"{len(errors)} interrupts failed", errors)

    # ---------------------------------------------------------------- giving up the CPU

    @property
    def current_state(self) -> int:
        """``TASK_*`` of the running task."""
        return self._running.state

    def set_current_state(self, state: int) -> None:
        """Say in which state the running task is going to sleep; a wake-up from now on undoes it."""
        self._running.state = state

    def schedule(
        self,
        why: str,
        timeout_ns: int | None = None,
        *,
        state: int = TASK_UNINTERRUPTIBLE,
        retry: bool = False,
        holder: Task | None = None,
    ) -> bool:
        """Sleep until woken: True, or until the timeout is over: False. See :class:`kmem.mm.task.Scheduler`.

        Context: may sleep.

        Source: kernel/sched/core.c:schedule @6.1.192
        """
        self._running.state = state
        return self.sleep(why, timeout_ns, retry=retry, holder=holder)

    def sleep(
        self,
        why: str,
        timeout_ns: int | None = None,
        *,
        retry: bool = False,
        holder: Task | None = None,
        bounded: bool = False,
    ) -> bool:
        """Sleep in the state that :meth:`set_current_state` has set; at once True if a wake-up has undone it.

        `bounded` says that a timer of the caller's own will end the sleep.
        """
        self._check_open()
        state = self._running
        kernel = self._kernel
        if getcurrent() is not state.greenlet:
            raise StateError("the task that sleeps is not the one that runs", remedy="use m.spawn() for all tasks")
        self._schedule_debug(state)
        if state.state == TASK_RUNNING:
            return True
        if kernel.rcu_nesting:
            self._report_rcu(state)
        self._waits_for(state, why, timeout_ns, retry, holder)
        state.bounded = bounded or (timeout_ns is not None and not retry)
        try:
            self._switch()
        finally:
            self._waits_no_more(state)
        return not state.timed_out

    def _schedule_debug(self, state: TaskState) -> None:
        """Report a task that calls the scheduler with preemption off.

        Source: kernel/sched/core.c:schedule_debug @6.1.192
        """
        kernel = self._kernel
        if kernel.preempt_count:
            try:
                scheduling_while_atomic(kernel, fatal=bool(kernel.preempt_count & _IN_INTERRUPT))
            except BaseException:
                state.state = TASK_RUNNING
                raise

    def _report_rcu(self, state: TaskState) -> None:
        """Report a task that sleeps in an RCU read-side section.

        Source: kernel/rcu/tree_plugin.h:rcu_note_context_switch @6.1.192
        """
        text = "Voluntary context switch within RCU read-side critical section!"
        try:
            self._kernel.report(KernelWarning("\n".join([text, *dump_stack(self._kernel)])))
        except KernelWarning:
            state.state = TASK_RUNNING
            raise

    def _waits_for(self, state: TaskState, why: str, timeout_ns: int | None, retry: bool, holder: Task | None) -> None:
        state.why, state.holder, state.retry = why, holder, retry
        state.place = caller()
        state.since_ns = self._clock.time_ns
        if not retry:
            state.tried = None
        else:
            self._tries_again(state)
        state.timed_out = False
        if timeout_ns is not None:
            when = self._clock.time_ns + max(timeout_ns, 0)
            state.timeout = self.add_event(when, lambda: self._timed_out(state), retry=retry)

    def _tries_again(self, state: TaskState) -> None:
        """Take note of a wait for another try: the same wait goes on, unless memory has moved since it began."""
        nr_free = self._kernel.owner.nr_free_pages()
        tried = state.tried
        if tried is not None and tried[:2] == (state.why, state.place):
            state.since_ns = tried[2]
            if tried[3] != nr_free:  # not in vain
                self._tries_in_vain = 0
                self._progress_ns = self._clock.time_ns
        state.tried = (state.why, state.place, state.since_ns, nr_free)

    def _waits_no_more(self, state: TaskState) -> None:
        state.state = TASK_RUNNING
        state.why, state.holder = "", None
        if state.timeout is not None:
            self.cancel_event(state.timeout)
            state.timeout = None

    def _timed_out(self, state: TaskState) -> None:
        if state.state != TASK_RUNNING:
            state.timed_out = True
            if not state.retry:
                self._progress(state)
            elif not state.daemon:
                self._tries_in_vain += 1
                self._tries += 1
            self._ready(state)

    def cond_resched(self) -> None:
        """Let others run that can; a little time passes.

        Context: may sleep.

        Source: kernel/sched/core.c:__cond_resched @6.1.192
        """
        kernel = self._kernel
        if not may_sleep(kernel):
            site = caller_site()
            might_sleep_report(kernel, site.file, site.line)
            return
        self._yield()

    def give_way(self) -> None:
        """Call the scheduler without going to sleep: others run that can; a little time passes.

        Context: may sleep.

        Source: kernel/sched/core.c:schedule @6.1.192
        """
        self._schedule_debug(self._running)
        if self._kernel.rcu_nesting:
            self._report_rcu(self._running)
        self._yield()

    def _yield(self) -> None:
        self._check_open()
        self._clock.advance(RESCHED_NS)
        if not self._queue:
            self._in_vain += 1
            next_ns = self._next_ns()
            if self._in_vain > PATIENCE and next_ns is not None:
                # whoever polls for something waits for time to pass
                self._clock.advance(max(0, next_ns - self._clock.time_ns))
        self.poll()
        if self._queue:
            self._queue.append(self._running)
            self._switch()

    def relax(self) -> None:
        """Let time pass up to the next interrupt while the running code spins (``cpu_relax()``).

        Raises
        ------
        DeadlockError
            If no interrupt will come: the CPU would spin for ever.
        """
        next_ns = self._next_ns()
        kernel = self._kernel
        if next_ns is None or kernel.irqs_disabled or kernel.preempt_count & HARDIRQ_MASK:
            task = self.current
            kernel.printk.printk(
                f"watchdog: BUG: soft lockup - CPU#{kernel.page_alloc.cpu} stuck for 26s! "
                f"[{task.comm}:{task.pid}]\n" + "\n".join(dump_stack(kernel))
            )
            raise DeadlockError(f"{name_of(task)} spins at {caller()} and no interrupt can end that")
        self.delay(max(0, next_ns - self._clock.time_ns))

    def delay(self, ns: int) -> None:
        """Let time pass while the running code keeps the CPU; interrupts come if they can.

        Context: any.
        """
        self._check_open()
        end_ns = self._clock.time_ns + ns
        while not self._masked():
            next_ns = self._next_ns()
            if next_ns is None or next_ns > end_ns:
                break
            self._clock.advance(max(0, next_ns - self._clock.time_ns))
            self._interrupt()
        self._clock.advance(max(0, end_ns - self._clock.time_ns))

    # ---------------------------------------------------------------- interrupts

    def add_event(self, time_ns: int, fn: Callable[[], object], *, retry: bool = False) -> Event:
        """Call `fn` in hardirq context when the time has come."""
        self._seq += 1
        event = Event(time_ns, self._seq, fn, retry)
        heappush(self._events, event)
        return event

    def cancel_event(self, event: Event) -> None:
        """Do not call it."""
        event.fn = None

    def _next_ns(self) -> int | None:
        events = self._events
        while events and events[0].fn is None:
            heappop(events)
        return events[0].time_ns if events else None

    def _masked(self) -> bool:
        return bool(self._kernel.irqs_disabled or self._kernel.preempt_count & HARDIRQ_MASK)

    def poll(self) -> None:
        """Take the interrupts that are due, if they are on."""
        next_ns = self._next_ns()
        if next_ns is not None and next_ns <= self._clock.time_ns and not self._masked():
            self._interrupt()

    def _interrupt(self) -> None:
        """Interrupt whatever runs: all that is due at this time, then the softirqs that it has raised.

        Source: kernel/softirq.c:irq_enter, irq_exit @6.1.192
        """
        kernel = self._kernel
        count, irqs_disabled = kernel.preempt_count, kernel.irqs_disabled
        kernel.preempt_count = count + HARDIRQ_OFFSET
        kernel.irqs_disabled = True
        try:
            while (next_ns := self._next_ns()) is not None and next_ns <= self._clock.time_ns:
                event = heappop(self._events)
                fn, event.fn = event.fn, None
                if not event.retry:
                    self._events_in_vain += 1
                if fn is not None:
                    call_in_interrupt(kernel, "interrupt", fn)
        finally:
            kernel.preempt_count = count
            kernel.irqs_disabled = irqs_disabled
        self.softirqs.irq_exit()

    # ---------------------------------------------------------------- switching

    def _ready(self, state: TaskState) -> None:
        """Make a task runnable that is not."""
        if state.state == TASK_RUNNING:
            return
        state.state = TASK_RUNNING
        if state is self._running and not state.why:
            return  # it has not gone to sleep yet
        self._note(f"sched_wakeup: comm={state.task.comm} pid={state.task.pid}")
        self._queue.append(state)

    def _switch(self) -> None:
        """Let the next task run; return when this one runs again."""
        previous = self._running
        following = self._pick(previous)
        if following is not previous:
            self._save(previous)
            self._switch_to(previous, following)
        self._resumed(previous)

    def _pick(self, previous: TaskState) -> TaskState:
        """Take the task that is to run next from the queue; if there is none, let time pass until there is."""
        kernel = self._kernel
        if not self._queue:
            self._save(previous)
            kernel.current = self._idle_task
            kernel.preempt_count, kernel.irqs_disabled, kernel.rcu_nesting = 1, False, 0
            try:
                while not self._queue:
                    self._idle()
            finally:
                self._restore(previous)
        place = self._random.randrange(len(self._queue)) if len(self._queue) > 1 else 0
        self._in_vain = 0
        return self._queue.pop(place)

    def _idle(self) -> None:
        """Nobody can run: let time pass up to the next event."""
        if self._in_run and self._run_is_over():
            self._ready(self._main)
            return
        next_ns = self._next_ns()
        if next_ns is None or self._stalled(next_ns):
            self._deadlock()
            return
        self._clock.advance(max(0, next_ns - self._clock.time_ns))
        self._interrupt()

    def _switch_to(self, previous: TaskState, following: TaskState) -> None:
        self._enter(previous, following)
        following.greenlet.switch()

    def _enter(self, previous: TaskState, following: TaskState) -> None:
        """Make `following` the running task, but for its stack."""
        state = "X" if previous.done else _LETTERS[previous.state] if previous.why else "R"
        self._note(
            f"sched_switch: prev_comm={previous.task.comm} prev_pid={previous.task.pid} prev_state={state} ==> "
            f"next_comm={following.task.comm} next_pid={following.task.pid}"
        )
        highmem = self._kernel.highmem
        if highmem.kmap_ctrl:
            highmem.sched_out(previous.task)
        self._running = following
        previous.blocks = swap_blocks(following.blocks)
        self._restore(following)
        if highmem.kmap_ctrl:
            highmem.sched_in(following.task)

    def _resumed(self, state: TaskState) -> None:
        """Begin to run again: end if the machine ends, raise what somebody has left for this task."""
        if state.killed:
            raise GreenletExit
        if state.pending is not None:
            error, state.pending = state.pending, None
            raise error

    def _save(self, state: TaskState) -> None:
        kernel = self._kernel
        state.acting = kernel.current
        state.preempt_count, state.irqs_disabled = kernel.preempt_count, kernel.irqs_disabled
        state.rcu_nesting, state.task_flags = kernel.rcu_nesting, kernel.page_alloc.task_flags
        state.cpu = kernel.page_alloc.cpu

    def _restore(self, state: TaskState) -> None:
        kernel = self._kernel
        kernel.current = state.acting
        kernel.preempt_count, kernel.irqs_disabled = state.preempt_count, state.irqs_disabled
        kernel.rcu_nesting, kernel.page_alloc.task_flags = state.rcu_nesting, state.task_flags
        if kernel.page_alloc.cpu != state.cpu:
            kernel.owner.cpu = state.cpu

    def _body(self, state: TaskState) -> None:
        """What a task's stack begins with. Its end continues the next task."""
        state.started = True
        self._waits_no_more(state)
        try:
            if not state.should_stop:
                assert state.fn is not None
                state.result = state.fn(*state.args)
            else:
                state.result = -4  # EINTR: kthread_stop() came before it ran
            self._check_balance(state)
        except GreenletExit:
            if state.killed:
                return
            state.error = StateError(f"task {name_of(state.task)} was ended from outside")
        except BaseException as error:
            state.error = error
        if state.killed:  # whatever its cleaning up has raised
            return
        self._exit(state)
        while True:
            try:
                following = self._pick(state)
                break
            except BaseException as error:  # no stack is left here that could take it
                self._main.pending = error
                self._ready(self._main)
        self._enter(state, following)
        getcurrent().parent = following.greenlet

    def _check_balance(self, state: TaskState) -> None:
        """Report a task that ends where it could not sleep.

        Source: kernel/exit.c:make_task_dead @6.1.192
        """
        kernel = self._kernel
        lines = []
        if kernel.irqs_disabled:
            lines.append(f"note: {state.task.comm}[{state.task.pid}] exited with irqs disabled")
        if kernel.preempt_count:
            count = kernel.preempt_count
            lines.append(f"note: {state.task.comm}[{state.task.pid}] exited with preempt_count {count}")
        if kernel.rcu_nesting:
            lines.append(f"note: {state.task.comm}[{state.task.pid}] exited in an RCU read-side section")
        if lines:
            kernel.report(KernelWarning("\n".join(lines)))

    def _exit(self, state: TaskState) -> None:
        """Take a task off the list; tell those who wait for its end.

        Source: kernel/exit.c:do_exit @6.1.192
        """
        kernel = self._kernel
        kernel.preempt_count, kernel.irqs_disabled, kernel.rcu_nesting = 0, False, 0
        state.done = True
        del self._tasks[state.task.pid]
        self._note(f"sched_process_exit: comm={state.task.comm} pid={state.task.pid}")
        self._progress(state)
        if state.error is not None:
            self.failed(f"{state.task.comm}[{state.task.pid}]", state.error)
        for task in state.joiners:
            self.wake_up(task)
        if self._in_run and self._until is state.task:
            self._ready(self._main)

    # ---------------------------------------------------------------- deadlock

    def progress(self) -> None:
        """Say that the running task has got what it waited for with ``retry``."""
        self._running.tried = None
        self._progress(self._running)

    def _progress(self, state: TaskState) -> None:
        if not state.daemon:
            self._progress_ns = self._clock.time_ns
            self._events_in_vain = self._tries_in_vain = self._tries = 0

    def _waiting(self) -> list[TaskState]:
        """Tasks that wait and should not wait for ever."""
        return [state for state in (self._main, *self._tasks.values()) if state.why and not state.daemon]

    def _stalled(self, next_ns: int) -> bool:
        """Whether nothing that is going to happen will help anybody.

        Timeouts that only bring another try do not count, nor timers of which thousands have helped nobody.

        Source: kernel/hung_task.c:check_hung_uninterruptible_tasks @6.1.192
        """
        hung = next_ns - self._progress_ns >= HUNG_TASK_NS
        waiting = self._waiting()
        if self._tries > HUNG_EVENTS * len(waiting):
            return True
        if not hung and self._tries_in_vain <= HUNG_TRIES * len(waiting):
            return False
        if any(state.bounded for state in waiting) or (self._in_run and isinstance(self._until, int)):
            return False
        others = any(event.fn is not None and not event.retry for event in self._events)
        return not others or (hung and self._events_in_vain > HUNG_EVENTS)

    def _deadlock(self) -> None:
        """All wait: tell the log, and the main task."""
        waiting = [state for state in self._waiting() if not (self._in_run and state is self._main)]
        now_ns = self._clock.time_ns
        lines = []
        for state in waiting:
            task = state.task
            seconds = (now_ns - state.since_ns) // 1_000_000_000
            if seconds >= HUNG_TASK_NS // 1_000_000_000:
                lines.append(f"INFO: task {task.comm}:{task.pid} blocked for more than {seconds} seconds.")
            lines.append(
                f"task:{task.comm:<15.15} state:{_LETTERS[state.state]} stack:0     pid:{task.pid:<5d} ppid:2      "
                f"flags:0x{task.flags:08x}"
            )
            lines += ["Call Trace:", " <TASK>", f" {state.place}", " </TASK>"]
        self._kernel.printk.printk("\n".join(lines), KERN_ERR)
        what = "; ".join(state.describe() for state in waiting)
        error = DeadlockError(f"all tasks wait, and nobody is left to wake them: {what}")
        self._main.pending = error
        self._progress(self._main)
        self._ready(self._main)

    # ---------------------------------------------------------------- the end

    def finish(self) -> None:
        """Look back at the end of the program: raise what nobody has seen, report a section that is still open."""
        self.raise_failures()
        kernel = self._kernel
        if kernel.preempt_count or kernel.irqs_disabled or kernel.rcu_nesting:
            self._check_balance(self._main)

    def close(self) -> None:
        """End all tasks where they are; what they hold is not given back."""
        if self._closed:
            return
        if self._running is not self._main:
            raise StateError("a task cannot shut its own machine down", remedy="do it in the code that made it")
        for state in list(self._tasks.values()):
            state.killed = True
            if state.started and not state.done:
                self._running = state
                state.greenlet.parent = getcurrent()
                blocks = swap_blocks([self._kernel])
                try:
                    state.greenlet.throw(GreenletExit)
                except Exception as error:
                    self._note(f"{name_of(state.task)} did not end quietly: {type(error).__name__}")
                finally:
                    swap_blocks(blocks)
                    self._running = self._main
            state.done = True
        self._tasks.clear()
        self._queue.clear()
        self._events.clear()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("the machine has been shut down", remedy="boot another one")
        if self._running.killed:
            raise GreenletExit

    def _note(self, text: str) -> None:
        self.log.append(LogLine(self._clock.time_ns, KERN_INFO, text))

    def text(self) -> str:
        """Return the schedule log, a line for each entry."""
        return "".join(f"{line}\n" for line in self.log)
