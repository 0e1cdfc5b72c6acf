# SPDX-License-Identifier: GPL-2.0-only
"""Tasks: whose turn it is, what time it is, and what happens when nobody can go on."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import DeadlockError, KernelPanic, KernelWarning, StateError, UsageError
from kmem.linux.completion import (
    Completion,
    complete,
    complete_all,
    completion_done,
    reinit_completion,
    try_wait_for_completion,
    wait_for_completion,
    wait_for_completion_timeout,
)
from kmem.linux.delay import fsleep, msleep, ssleep, usleep_range
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.kthread import kthread_create, kthread_run, kthread_should_stop, kthread_stop
from kmem.linux.mutex import Mutex, mutex_lock, mutex_unlock
from kmem.linux.preempt import preempt_count, preempt_disable, preempt_enable
from kmem.linux.sched import (
    TASK_INTERRUPTIBLE,
    cond_resched,
    cpu_relax,
    get_current,
    schedule,
    schedule_timeout,
    set_current_state,
    wake_up_process,
)
from kmem.linux.slab import kfree, kmalloc
from kmem.linux.timer import Timer, jiffies, mod_timer, timer_delete
from kmem.linux.wait import WaitQueueHead, wait_event, wait_event_timeout, wake_up, wake_up_all
from kmem.linux.workqueue import (
    DelayedWork,
    Work,
    alloc_ordered_workqueue,
    alloc_workqueue,
    cancel_delayed_work,
    cancel_work_sync,
    destroy_workqueue,
    flush_delayed_work,
    flush_work,
    flush_workqueue,
    mod_delayed_work,
    queue_work,
    schedule_delayed_work,
    schedule_work,
)


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine.boot("x86_64", ram="128M", seed=1) as machine:
        yield machine


def turns(seed: int) -> str:
    """Let three tasks write their letters, and return what they wrote."""
    written: list[str] = []

    def write(letter: str) -> None:
        for _ in range(4):
            written.append(letter)
            cond_resched()

    with Machine.boot("x86_64", ram="128M", seed=seed) as m:
        for letter in "abc":
            m.spawn(write, letter, name=letter)
        m.run()
    return "".join(written)


def test_the_seed_gives_the_order() -> None:
    orders = {turns(seed) for seed in range(8)}
    assert len(orders) > 4
    assert all(sorted(order) == sorted("aaaabbbbcccc") for order in orders)
    assert turns(5) == turns(5)


def test_results_and_names(m: Machine) -> None:
    def double(number: int) -> int:
        msleep(10)
        return 2 * number

    task = m.spawn(double, 21)
    named = m.spawn(double, 4, name="a-name-that-is-too-long", kthread=False)
    assert (task.comm, task.flags) == ("double", 0x200000)
    assert (named.comm, named.flags) == ("a-name-that-is-", 0)
    assert task.pid != named.pid
    assert m.join(task) == 42
    assert m.join(task) == 42
    m.run()
    assert m.join(named) == 8
    with pytest.raises(UsageError, match="no function"):
        m.spawn(7)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no task"):
        m.join("worker")  # type: ignore[arg-type]


def test_tasks_run_only_while_others_wait(m: Machine) -> None:
    seen: list[str] = []
    m.spawn(lambda: seen.append(get_current().comm), name="other")
    kfree(kmalloc(64, GFP_KERNEL))
    assert seen == []
    msleep(1)
    assert seen == ["other"]


def test_each_task_has_its_own_context(m: Machine) -> None:
    flags: list[tuple[str, int, int]] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("main")

    def task(name: str) -> None:
        assert variable.get() == "main"
        variable.set(name)
        m.page_alloc.task_flags = 0x800 if name == "a" else 0
        for _ in range(3):
            cond_resched()
            flags.append((name, m.page_alloc.task_flags, preempt_count()))
            assert variable.get() == name and get_current().comm == name
            assert kmalloc(8, GFP_KERNEL) is not None

    for name in "ab":
        m.spawn(task, name, name=name)
    m.run()
    assert set(flags) == {("a", 0x800, 0), ("b", 0, 0)}
    assert variable.get() == "main" and m.page_alloc.task_flags == 0


def test_the_current_machine_is_the_tasks_own() -> None:
    seen: list[bool] = []

    def look(machine: Machine) -> None:
        for _ in range(3):
            address = kmalloc(64, GFP_KERNEL)
            assert address is not None
            seen.append((address >= 0xFFFF888000000000) == (machine.arch == "x86_64"))
            msleep(4)

    with Machine.boot("x86_64", ram="128M") as outer:
        outer.spawn(look, outer)
        with Machine.boot("i386", ram="128M") as inner:
            inner.spawn(look, inner)
            outer.run()
            inner.run()
            assert (kmalloc(64, GFP_KERNEL) or 0) < 1 << 32
    assert seen == [True] * 6


def test_tasks_have_cpus() -> None:
    seen: list[tuple[int, int]] = []
    with Machine.boot("x86_64", ram="256M", cpus=2) as m:

        def work(cpu: int) -> None:
            for _ in range(2):
                seen.append((cpu, m.cpu))
                cond_resched()

        for cpu in (0, 1):
            m.sched.spawn(work, cpu, cpu=cpu)
        m.run()
        assert m.cpu == 0
    assert sorted(seen) == [(0, 0), (0, 0), (1, 1), (1, 1)]


# Time


def test_sleeping_takes_virtual_time(m: Machine) -> None:
    clock = m.kernel.clock
    msleep(20)  # 5 ticks, one more as msleep() does, and one as the timer wheel does
    assert clock.time_ns == 28_000_000
    usleep_range(100, 250)
    assert clock.time_ns == 28_250_000
    fsleep(5)
    assert clock.time_ns == 28_255_000
    ssleep(1000)
    assert 1000 <= clock.time_ns / 1e9 < 1130
    assert schedule_timeout(5) == 5  # nobody said that it should sleep
    set_current_state(TASK_INTERRUPTIBLE)
    assert schedule_timeout(5) == 0


def test_run_until_a_time(m: Machine) -> None:
    ticks: list[int] = []

    def again(timer: Timer) -> None:
        ticks.append(jiffies())
        mod_timer(timer, jiffies() + 24)

    mod_timer(Timer(again), jiffies() + 24)
    m.run(until=1_000_000_000)
    assert m.kernel.clock.time_ns == 1_000_000_000
    assert ticks == list(range(25, 251, 25))


def test_run_until_a_task_has_ended(m: Machine) -> None:
    first, second = m.spawn(msleep, 10), m.spawn(msleep, 50)
    m.run(until=first)
    assert first.sched.done and not second.sched.done
    m.run()
    assert second.sched.done


def test_whoever_polls_lets_time_pass(m: Machine) -> None:
    done: list[int] = []
    mod_timer(Timer(lambda _: done.append(1)), jiffies() + 60)
    while not done:
        cond_resched()
    done.clear()
    mod_timer(Timer(lambda _: done.append(1)), jiffies() + 60)
    while not done:
        cpu_relax()
    with pytest.raises(DeadlockError, match="spins at .*test_sched"):
        cpu_relax()
    assert "watchdog: BUG: soft lockup - CPU#0 stuck" in m.dmesg()


# Waiting for each other


def test_wait_queues(m: Machine) -> None:
    queue, ready = WaitQueueHead("ready"), []

    def consumer() -> Any:
        wait_event(queue, lambda: ready)
        return ready.pop()

    tasks = [m.spawn(consumer) for _ in range(3)]
    msleep(1)
    for item in range(3):
        ready.append(item)
        wake_up(queue)
        msleep(1)
    assert sorted(m.join(task) for task in tasks) == [0, 1, 2]
    assert wait_event_timeout(queue, lambda: False, 10) == 0
    assert wait_event_timeout(queue, lambda: True, 10) == 10
    assert not queue.entries
    timer = Timer(lambda _: (ready.append(1), wake_up_all(queue)))
    mod_timer(timer, jiffies() + 4)
    assert wait_event_timeout(queue, lambda: ready, 10) == 5


def test_completions(m: Machine) -> None:
    done = Completion("done")
    assert not try_wait_for_completion(done) and wait_for_completion_timeout(done, 3) == 0
    order: list[int] = []

    def waiter(number: int) -> None:
        wait_for_completion(done)
        order.append(number)

    for number in range(3):
        m.spawn(waiter, number)
    msleep(1)
    complete(done)
    msleep(1)
    assert len(order) == 1 and not completion_done(done)
    complete_all(done)
    m.run()
    assert sorted(order) == [0, 1, 2] and completion_done(done)
    wait_for_completion(done)
    reinit_completion(done)
    assert not completion_done(done)


def test_a_mutex_goes_to_who_has_waited_longest(m: Machine) -> None:
    lock, order = Mutex("one"), []

    def user(number: int) -> None:
        with mutex_lock(lock):
            order.append(number)
            msleep(10)

    mutex_lock(lock)
    for number in range(4):
        m.spawn(user, number)
        msleep(1)
    mutex_unlock(lock)
    m.run()
    assert order == [0, 1, 2, 3] and lock.owner is None


def test_kernel_threads_are_stopped(m: Machine) -> None:
    def thread(data: list[int]) -> int:
        while not kthread_should_stop():
            data.append(jiffies())
            set_current_state(TASK_INTERRUPTIBLE)
            schedule_timeout(10)
        return len(data)

    data: list[int] = []
    task = kthread_run(thread, data, "thread/%d", 3)
    assert task.comm == "thread/3"
    msleep(100)
    assert kthread_stop(task) == len(data) > 1
    never = kthread_create(thread, data, "never")
    assert kthread_stop(never) == -4
    slow = kthread_create(thread, [], "slow")
    msleep(10)
    assert wake_up_process(slow) == 1
    assert kthread_stop(slow) == -4  # it was ready to run, and had not run yet
    with pytest.raises(StateError, match="its own end"):
        kthread_stop(get_current())


# Work queues


def test_works(m: Machine) -> None:
    done: list[tuple[str, str]] = []

    def work_of(name: str) -> Work:
        return Work(lambda work: (msleep(10), done.append((name, get_current().comm))))

    first, second = work_of("first"), work_of("second")
    assert schedule_work(first) and schedule_work(second) and not schedule_work(second)
    assert flush_work(first) and not flush_work(first)
    m.run()
    assert {name for name, _ in done} == {"first", "second"}
    assert {comm for _, comm in done} == {"kworker/0:1", "kworker/0:2"}
    assert schedule_work(first)
    assert cancel_work_sync(first) and not cancel_work_sync(first)
    delayed = DelayedWork(lambda work: done.append(("delayed", str(jiffies()))))
    start = jiffies()
    assert schedule_delayed_work(delayed, 20) and not schedule_delayed_work(delayed, 5)
    assert flush_work(delayed)
    assert done[-1] == ("delayed", str(start + 21))
    assert schedule_delayed_work(delayed, 1000) and flush_delayed_work(delayed)
    assert schedule_delayed_work(delayed, 1000) and cancel_delayed_work(delayed) and not cancel_delayed_work(delayed)


def test_an_ordered_queue_does_one_work_after_another(m: Machine) -> None:
    under_way, most, order = 0, 0, []

    def body(number: int) -> Callable[[Any], None]:
        def run(work: Any) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            msleep(5)
            order.append(number)
            under_way -= 1

        return run

    ordered = alloc_ordered_workqueue("ordered", 0)
    for number in range(4):
        queue_work(ordered, Work(body(number)))
    flush_workqueue(ordered)
    assert (order, most) == ([0, 1, 2, 3], 1)
    wide = alloc_workqueue("wide/%d", 0, 3, 7)
    assert wide.name == "wide/7"
    for number in range(6):
        queue_work(wide, Work(body(number)))
    destroy_workqueue(wide)
    assert most == 3 and len(order) == 10
    with pytest.raises(StateError, match="destroyed"):
        queue_work(wide, Work(body(0)))
    mod_delayed_work(ordered, DelayedWork(body(9)), 3)
    msleep(100)
    assert order[-1] == 9


def test_a_work_that_leaks_or_fails(m: Machine) -> None:
    def fail(work: Any) -> None:
        raise ZeroDivisionError

    schedule_work(Work(lambda work: preempt_disable()))
    schedule_work(Work(fail))
    with pytest.raises(ExceptionGroup) as caught:
        m.run()
    assert {type(error) for error in caught.value.exceptions} == {KernelWarning, ZeroDivisionError}
    assert "BUG: workqueue leaked lock or atomic: kworker/0:1/0x00000001/" in m.dmesg()
    work = Work(lambda work: None)
    schedule_work(work)
    assert flush_work(work)


# Failures


def test_what_a_task_raises_is_raised_once(m: Machine) -> None:
    def fail() -> None:
        msleep(10)
        raise LookupError("lost")

    task = m.spawn(fail, name="finder")
    other = m.spawn(msleep, 100)
    with pytest.raises(LookupError, match="lost"):
        m.run()
    assert other.sched.done
    assert f"finder[{task.pid}] died: LookupError: lost" in m.dmesg()
    m.run()
    with pytest.raises(LookupError):
        m.join(task)
    m.spawn(fail)
    m.spawn(fail)
    with pytest.raises(ExceptionGroup, match="2 tasks failed"):
        m.run()
    m.validate()


def test_a_failure_that_nobody_looked_at_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError), Machine.boot("x86_64", ram="128M") as m:
        m.spawn(fail)
        msleep(1)
    with pytest.raises(ZeroDivisionError), Machine.boot("x86_64", ram="128M") as m:
        m.spawn(fail)
        msleep(1)
        raise ZeroDivisionError


def test_a_panic_ends_the_program_at_once(m: Machine) -> None:
    def panic() -> None:
        raise KernelPanic("Kernel panic - not syncing: because")

    m.spawn(panic)
    with pytest.raises(KernelPanic, match="because"):
        ssleep(100)
    assert m.kernel.clock.time_ns < 1_000_000_000


def test_a_task_that_ends_where_it_could_not_sleep(m: Machine) -> None:
    m.spawn(preempt_disable, name="careless")
    with pytest.raises(KernelWarning, match=r"note: careless\[\d+\] exited with preempt_count 1"):
        m.run()
    assert preempt_count() == 0


def test_tasks_that_have_not_ended_are_ended_with_the_machine() -> None:
    ended: list[str] = []

    def wait(name: str) -> None:
        try:
            address = kmalloc(64, GFP_KERNEL)
            msleep(1000)
        finally:
            kfree(address)
            ended.append(name)

    with Machine.boot("x86_64", ram="128M") as m:
        m.spawn(wait, "first")
        m.spawn(wait, "second")
        msleep(1)
        m.spawn(wait, "never begun")
    assert sorted(ended) == ["first", "second"]
    with pytest.raises(StateError, match="shut down"):
        m.run()


# Deadlock


def test_a_deadlock_says_who_waits_for_what(m: Machine) -> None:
    first, second = Mutex("first"), Mutex("second")

    def take(one: Mutex, other: Mutex) -> None:
        mutex_lock(one)
        msleep(5)
        mutex_lock(other)

    one = m.spawn(take, first, second, name="one")
    two = m.spawn(take, second, first, name="two")
    with pytest.raises(DeadlockError) as caught:
        m.run()
    text = str(caught.value)
    assert "\n" not in text and text.startswith("all tasks wait, and nobody is left to wake them: ")
    assert f"one/{one.pid} waits for mutex second, held by two/{two.pid}, since 0.0" in text
    assert f"two/{two.pid} waits for mutex first, held by one/{one.pid}, since 0.0" in text
    assert "at test_a_deadlock_says_who_waits_for_what.<locals>.take (test_sched.py:" in text
    assert "task:one             state:D" in m.dmesg()
    with pytest.raises(DeadlockError):
        m.run()
    m.validate()


def test_the_main_task_can_wait_in_vain_too(m: Machine) -> None:
    done = Completion("never")
    with pytest.raises(DeadlockError, match="init/1 waits for completion never"):
        wait_for_completion(done)
    assert not done.wait.entries
    m.spawn(complete, done)
    wait_for_completion(done)


def test_a_failed_task_is_the_cause_of_a_deadlock(m: Machine) -> None:
    done = Completion("done")

    def fail() -> None:
        raise LookupError("lost")

    m.spawn(fail)
    m.spawn(wait_for_completion, done)
    with pytest.raises(DeadlockError) as caught:
        m.run()
    assert isinstance(caught.value.__cause__, LookupError)


def test_daemons_may_wait_for_ever(m: Machine) -> None:
    done = Completion()
    m.spawn(wait_for_completion, done, daemon=True)
    m.run()
    with pytest.raises(DeadlockError, match="init/1 waits"):
        wait_for_completion(Completion())


def test_timers_that_help_nobody_do_not_hide_a_deadlock(m: Machine) -> None:
    def again(timer: Timer) -> None:
        mod_timer(timer, jiffies() + 5)

    timer = Timer(again)
    mod_timer(timer, jiffies())
    done = Completion("never")
    m.spawn(wait_for_completion, done, name="patient")
    with pytest.raises(DeadlockError, match="patient/.* waits for completion never"):
        m.run()
    assert "INFO: task patient:" in m.dmesg() and " blocked for more than " in m.dmesg()
    timer_delete(timer)
    complete(done)
    m.run()


def test_long_sleeps_are_no_deadlock(m: Machine) -> None:
    def again(timer: Timer) -> None:
        mod_timer(timer, jiffies() + 1)

    mod_timer(Timer(again), jiffies())
    ssleep(400)
    assert m.kernel.clock.time_ns > 400_000_000_000


# What is refused


def test_run_and_shutdown_belong_to_the_main_task(m: Machine) -> None:
    refused: list[str] = []

    def task() -> None:
        for call in (m.run, m.shutdown):
            with pytest.raises(StateError) as caught:
                call()
            refused.append(str(caught.value))

    m.spawn(task)
    m.run()
    assert "join()" in refused[0] and "shut its own machine down" in refused[1]


def test_other_threads_cannot_sleep_for_a_task(m: Machine) -> None:
    caught: list[Exception] = []

    def elsewhere() -> None:
        try:
            m.msleep(1)
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert isinstance(caught[0], StateError) and "m.spawn()" in str(caught[0])
    msleep(1)


def test_preempt_state_survives_a_wrong_sleep() -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:

        def other() -> None:
            assert preempt_count() == 0
            preempt_disable()
            msleep(4)
            assert preempt_count() == 1
            preempt_enable()

        m.spawn(other)
        with m.preempt_disabled():
            msleep(8)
            assert preempt_count() == 1
        m.run()
        assert m.dmesg().count("scheduling while atomic") == 2


def test_schedule_without_a_reason_lets_others_run(m: Machine) -> None:
    seen: list[int] = []
    m.spawn(seen.append, 1)
    for _ in range(20):
        schedule()
    assert seen == [1]


def test_the_log_of_switches(m: Machine) -> None:
    m.spawn(msleep, 10, name="sleeper")
    m.run()
    text = m.sched.text()
    assert "[    0.000000] sched_process_fork: comm=init pid=1 child=sleeper/" in text
    assert "sched_switch: prev_comm=init prev_pid=1 prev_state=D ==> next_comm=sleeper" in text
    assert "[    0.020000] sched_wakeup: comm=sleeper" in text
    assert "sched_process_exit: comm=sleeper" in text
