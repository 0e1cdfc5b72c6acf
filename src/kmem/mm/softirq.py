# SPDX-License-Identifier: GPL-2.0-only
"""Interrupts as a context to run in, softirqs and tasklets.

A softirq is work that an interrupt leaves for the moment when it is over:
timers and tasklets run in one.  It runs on top of whatever was interrupted,
must not sleep, and can be held off with ``local_bh_disable()``.  One that is
raised outside interrupts is left to the thread ``ksoftirqd``.

Source: kernel/softirq.c, include/linux/interrupt.h @6.1.192
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from kmem.errors import KernelReport, KernelWarning, StateError
from kmem.mm.argument import expect
from kmem.mm.dump_stack import dump_stack
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.might_sleep import check_may_sleep
from kmem.mm.preempt import (
    HARDIRQ_MASK,
    HARDIRQ_OFFSET,
    NMI_MASK,
    SOFTIRQ_DISABLE_OFFSET,
    SOFTIRQ_MASK,
    SOFTIRQ_OFFSET,
    Section,
    report_leak,
)
from kmem.mm.task import TASK_INTERRUPTIBLE, Task

if TYPE_CHECKING:
    from typing import Protocol

    class _Sched(Protocol):
        def spawn(self, fn: Callable[..., object], *, name: str, daemon: bool) -> Task: ...
        def wake_up(self, task: Task) -> bool: ...
        def schedule(self, why: str, *, state: int) -> bool: ...
        def failed(self, what: str, error: BaseException) -> None: ...
        def cond_resched(self) -> None: ...


__all__ = [
    "DECLARE_TASKLET",
    "HI_SOFTIRQ",
    "TASKLET_SOFTIRQ",
    "TIMER_SOFTIRQ",
    "Tasklet",
    "hardirq",
    "local_bh_disable",
    "local_bh_enable",
    "softirq",
    "tasklet_disable",
    "tasklet_enable",
    "tasklet_hi_schedule",
    "tasklet_init",
    "tasklet_kill",
    "tasklet_schedule",
    "tasklet_setup",
]

HI_SOFTIRQ: Final = 0
TIMER_SOFTIRQ: Final = 1
TASKLET_SOFTIRQ: Final = 6

_NAMES: Final = (
    "HI",
    "TIMER",
    "NET_TX",
    "NET_RX",
    "BLOCK",
    "IRQ_POLL",
    "TASKLET",
    "SCHED",
    "HRTIMER",
    "RCU",
)
#: Rounds of newly raised softirqs before the rest is left to ksoftirqd.
MAX_SOFTIRQ_RESTART: Final = 10


def call_in_interrupt(kernel: Kernel, what: str, fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function of an interrupt or softirq; what it raises or leaks is noted, and does not stop the others."""
    count = kernel.preempt_count
    result = None
    try:
        result = fn(*args)
    except Exception as error:
        kernel.sched.failed(what, error)
    leaked = kernel.preempt_count
    if leaked != count:
        # as the kernel does: it gives a chance to survive, and to see more
        kernel.preempt_count = count
        try:
            report_leak(kernel, f"{what}: {getattr(fn, '__qualname__', fn)!s}", count, leaked)
        except KernelReport as error:
            kernel.sched.failed(what, error)
    return result


class Softirqs:
    """The softirqs of one machine.

    Attributes
    ----------
    pending : int
        Bit n: softirq n has been raised.
    handlers : dict
        What runs for which.
    """

    def __init__(self, kernel: Kernel, sched: _Sched) -> None:
        self._kernel = kernel
        self._sched = sched
        self.pending = 0
        self.tasklets: dict[int, deque[Tasklet]] = {HI_SOFTIRQ: deque(), TASKLET_SOFTIRQ: deque()}
        self.handlers: dict[int, Callable[[], object]] = {
            HI_SOFTIRQ: lambda: self._run_tasklets(HI_SOFTIRQ),
            TASKLET_SOFTIRQ: lambda: self._run_tasklets(TASKLET_SOFTIRQ),
        }
        self._ksoftirqd: Task | None = None

    def in_interrupt(self) -> bool:
        """Whether softirqs have to wait."""
        return bool(self._kernel.preempt_count & (SOFTIRQ_MASK | HARDIRQ_MASK | NMI_MASK))

    def raise_softirq(self, nr: int) -> None:
        """Have a softirq run: at the end of the running interrupt, or by ksoftirqd if there is none.

        Source: kernel/softirq.c:raise_softirq_irqoff @6.1.192
        """
        self.pending |= 1 << nr
        if not self.in_interrupt():
            self._wake_ksoftirqd()

    def irq_exit(self) -> None:
        """Run what is pending if no interrupt or softirq runs that will do it.

        Source: kernel/softirq.c:__irq_exit_rcu @6.1.192
        """
        if self.pending and not self.in_interrupt():
            self.do_softirq()

    def do_softirq(self) -> None:
        """Run pending softirqs, the lowest number first, and those that they raise.

        Source: kernel/softirq.c:__do_softirq @6.1.192
        """
        kernel = self._kernel
        count = kernel.preempt_count
        irqs_disabled = kernel.irqs_disabled
        kernel.preempt_count = count + SOFTIRQ_OFFSET
        kernel.irqs_disabled = False
        try:
            for _ in range(MAX_SOFTIRQ_RESTART):
                pending, self.pending = self.pending, 0
                for nr in range(pending.bit_length()):
                    if pending >> nr & 1 and nr in self.handlers:
                        call_in_interrupt(kernel, f"softirq {nr} {_NAMES[nr]}", self.handlers[nr])
                if not self.pending:
                    break
        finally:
            kernel.preempt_count = count
            kernel.irqs_disabled = irqs_disabled
        if self.pending:
            self._wake_ksoftirqd()

    def _wake_ksoftirqd(self) -> None:
        if self._ksoftirqd is None:
            self._ksoftirqd = self._sched.spawn(self._run_ksoftirqd, name="ksoftirqd/0", daemon=True)
        else:
            self._sched.wake_up(self._ksoftirqd)

    def _run_ksoftirqd(self) -> None:
        """Run softirqs that nobody else runs.

        Source: kernel/softirq.c:run_ksoftirqd @6.1.192
        """
        while True:
            if self.pending:
                self.do_softirq()
                self._sched.cond_resched()
            else:
                self._sched.schedule("softirqs", state=TASK_INTERRUPTIBLE)

    def _run_tasklets(self, nr: int) -> None:
        """Run the scheduled tasklets; those that are disabled stay scheduled.

        Source: kernel/softirq.c:tasklet_action_common @6.1.192
        Differs: a disabled tasklet waits to be enabled; the kernel looks at it again and again.
        """
        todo = self.tasklets[nr]
        self.tasklets[nr] = deque()
        while todo:
            tasklet = todo.popleft()
            if tasklet.count:
                self.tasklets[nr].append(tasklet)
                continue
            tasklet.scheduled = False
            call_in_interrupt(self._kernel, "tasklet", tasklet.run)
            for task in tasklet.killers:
                self._sched.wake_up(task)
            tasklet.killers.clear()


def hardirq() -> AbstractContextManager[None]:
    """Run a block as the handler of a hardware interrupt: interrupts off, softirqs held off.

    The running task is the one that is interrupted.  Softirqs that the block raises run at its end.

    Source: kernel/softirq.c:irq_enter, irq_exit @6.1.192
    """
    return _hardirq(current_kernel())


@contextmanager
def _hardirq(kernel: Kernel) -> Iterator[None]:
    softirqs = _softirqs(kernel)
    count, irqs = kernel.preempt_count, kernel.irqs_disabled
    kernel.preempt_count = count + HARDIRQ_OFFSET
    kernel.irqs_disabled = True
    try:
        yield
        enabled = not kernel.irqs_disabled
    finally:
        leaked = kernel.preempt_count
        kernel.preempt_count, kernel.irqs_disabled = count, irqs
    softirqs.irq_exit()
    if leaked != count + HARDIRQ_OFFSET:
        report_leak(kernel, "hardirq", count + HARDIRQ_OFFSET, leaked)
    if enabled:
        lines = ["irq 0 handler enabled interrupts", *dump_stack(kernel)]
        kernel.report(KernelWarning("\n".join(lines)))


def softirq() -> AbstractContextManager[None]:
    """Run a block as a softirq.

    Source: kernel/softirq.c:__do_softirq @6.1.192
    """
    return _softirq(current_kernel())


@contextmanager
def _softirq(kernel: Kernel) -> Iterator[None]:
    softirqs = _softirqs(kernel)
    count = kernel.preempt_count
    kernel.preempt_count = count + SOFTIRQ_OFFSET
    try:
        yield
    finally:
        leaked = kernel.preempt_count
        kernel.preempt_count = count
    softirqs.irq_exit()
    if leaked != count + SOFTIRQ_OFFSET:
        entered = count + SOFTIRQ_OFFSET
        text = f"huh, entered softirq with preempt_count {entered:08x}, exited with {leaked:08x}?"
        kernel.report(KernelWarning("\n".join([text, *dump_stack(kernel)])))


def _softirqs(kernel: Kernel) -> Softirqs:
    if kernel.sched is None:
        raise StateError("this kernel has no scheduler, and so no softirqs")
    softirqs: Softirqs = kernel.sched.softirqs
    return softirqs


def local_bh_disable() -> Section:
    """Hold softirqs off until :func:`local_bh_enable`; nests. Context: any.

    Source: include/linux/bottom_half.h:local_bh_disable @6.1.192
    """
    kernel = current_kernel()
    kernel.preempt_count += SOFTIRQ_DISABLE_OFFSET
    return Section(kernel, lambda: bh_enable(kernel), "local_bh_disable()")


def local_bh_enable() -> None:
    """Undo one :func:`local_bh_disable`; softirqs that are pending run at once after the last.

    Context: not in a hardware interrupt, nor with interrupts off.

    Source: kernel/softirq.c:__local_bh_enable_ip @6.1.192
    """
    bh_enable(current_kernel())


def bh_enable(kernel: Kernel) -> None:
    """Do the work of :func:`local_bh_enable` for one kernel."""
    if kernel.preempt_count & SOFTIRQ_MASK < SOFTIRQ_DISABLE_OFFSET:
        lines = ["DEBUG_LOCKS_WARN_ON(val > preempt_count())", *dump_stack(kernel)]
        kernel.report(KernelWarning("\n".join(lines)))
        return
    in_hardirq = kernel.preempt_count & HARDIRQ_MASK
    kernel.preempt_count -= SOFTIRQ_DISABLE_OFFSET
    if in_hardirq:
        lines = ["WARN_ON_ONCE(in_hardirq())", *dump_stack(kernel)]
        kernel.report(KernelWarning("\n".join(lines)))
        return
    if kernel.sched is not None and not kernel.irqs_disabled:
        kernel.sched.softirqs.irq_exit()


class Tasklet:
    """A function to be run in a softirq, once for each time it was scheduled and had not run yet.

    Parameters
    ----------
    callback : callable, optional
        Called with the tasklet.

    Attributes
    ----------
    count : int
        How often it is disabled.
    scheduled : bool
        Whether it is going to run.

    Source: include/linux/interrupt.h:struct tasklet_struct @6.1.192
    """

    __slots__ = ("__dict__", "callback", "count", "data", "func", "killers", "scheduled")

    def __init__(self, callback: Callable[[Tasklet], object] | None = None) -> None:
        self.callback = callback
        self.func: Callable[[Any], object] | None = None
        self.data: Any = None
        self.count = 0
        self.scheduled = False
        self.killers: list[Task] = []

    def run(self) -> None:
        """Call the function."""
        if self.callback is not None:
            self.callback(self)
        elif self.func is not None:
            self.func(self.data)


def DECLARE_TASKLET(callback: Callable[[Tasklet], object]) -> Tasklet:
    """Return a new tasklet.

    Source: include/linux/interrupt.h:DECLARE_TASKLET @6.1.192
    """
    return Tasklet(callback)


def tasklet_setup(t: Tasklet, callback: Callable[[Tasklet], object]) -> None:
    """Prepare a tasklet whose function is called with the tasklet. Context: any.

    Source: kernel/softirq.c:tasklet_setup @6.1.192
    """
    expect(t, Tasklet, "the tasklet")
    t.callback, t.func, t.data = callback, None, None
    t.count, t.scheduled = 0, False


def tasklet_init(t: Tasklet, func: Callable[[Any], object], data: Any = 0) -> None:
    """Prepare a tasklet whose function is called with `data`. Context: any.

    Source: kernel/softirq.c:tasklet_init @6.1.192
    """
    expect(t, Tasklet, "the tasklet")
    t.callback, t.func, t.data = None, func, data
    t.count, t.scheduled = 0, False


def _schedule(t: Tasklet, nr: int) -> None:
    expect(t, Tasklet, "the tasklet")
    if t.scheduled:
        return
    t.scheduled = True
    softirqs = _softirqs(current_kernel())
    softirqs.tasklets[nr].append(t)
    softirqs.raise_softirq(nr)


def tasklet_schedule(t: Tasklet) -> None:
    """Have a tasklet run soon, in a softirq; nothing if it is scheduled already. Context: any.

    Source: include/linux/interrupt.h:tasklet_schedule @6.1.192
    """
    _schedule(t, TASKLET_SOFTIRQ)


def tasklet_hi_schedule(t: Tasklet) -> None:
    """Have a tasklet run before timers and ordinary tasklets. Context: any.

    Source: include/linux/interrupt.h:tasklet_hi_schedule @6.1.192
    """
    _schedule(t, HI_SOFTIRQ)


def tasklet_disable(t: Tasklet) -> None:
    """Keep a tasklet from running until :func:`tasklet_enable`; nests. Context: may sleep.

    Source: include/linux/interrupt.h:tasklet_disable @6.1.192
    """
    expect(t, Tasklet, "the tasklet")
    t.count += 1


def tasklet_enable(t: Tasklet) -> None:
    """Undo one :func:`tasklet_disable`. Context: any.

    Source: include/linux/interrupt.h:tasklet_enable @6.1.192
    """
    expect(t, Tasklet, "the tasklet")
    if not t.count:
        raise StateError("the tasklet is not disabled")
    t.count -= 1
    if t.scheduled and not t.count:
        softirqs = _softirqs(current_kernel())
        for nr, tasklets in softirqs.tasklets.items():
            if t in tasklets:
                softirqs.raise_softirq(nr)


def tasklet_kill(t: Tasklet) -> None:
    """Wait until a scheduled tasklet has run. Context: may sleep.

    Source: kernel/softirq.c:tasklet_kill @6.1.192
    """
    expect(t, Tasklet, "the tasklet")
    kernel = current_kernel()
    check_may_sleep(kernel, "include/linux/wait_bit.h", 275)
    while t.scheduled:
        t.killers.append(kernel.current)
        kernel.sched.schedule("a scheduled tasklet to run")
