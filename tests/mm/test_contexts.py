# SPDX-License-Identifier: GPL-2.0-only
"""Where code runs and whether it may sleep: preempt_count, interrupts, locks, RCU, and the reports about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from kmem import Machine
from kmem.errors import DeadlockError, KernelBug, KernelOops, KernelWarning, StateError
from kmem.linux.delay import mdelay, msleep, udelay
from kmem.linux.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOWAIT, alloc_pages
from kmem.linux.interrupt import (
    DECLARE_TASKLET,
    Tasklet,
    hardirq,
    local_bh_disable,
    local_bh_enable,
    softirq,
    tasklet_disable,
    tasklet_enable,
    tasklet_hi_schedule,
    tasklet_init,
    tasklet_kill,
    tasklet_schedule,
)
from kmem.linux.irqflags import (
    irqs_disabled,
    irqs_disabled_flags,
    local_irq_disable,
    local_irq_enable,
    local_irq_restore,
    local_irq_save,
)
from kmem.linux.mutex import Mutex, mutex_destroy, mutex_is_locked, mutex_lock, mutex_trylock, mutex_unlock
from kmem.linux.preempt import (
    in_atomic,
    in_hardirq,
    in_interrupt,
    in_serving_softirq,
    in_softirq,
    in_task,
    preempt_count,
    preempt_disable,
    preempt_disabled,
    preempt_enable,
    preemptible,
)
from kmem.linux.rcupdate import call_rcu, rcu_barrier, rcu_read_lock, rcu_read_unlock, synchronize_rcu
from kmem.linux.sched import (
    cond_resched,
    get_current,
    might_sleep,
    might_sleep_if,
    schedule,
    schedule_timeout_uninterruptible,
)
from kmem.linux.shrinker import Shrinker, register_shrinker, unregister_shrinker
from kmem.linux.slab import (
    SLAB_CONSISTENCY_CHECKS,
    SLAB_RED_ZONE,
    kfree,
    kmalloc,
    kmem_cache_alloc,
    kmem_cache_create,
    kmem_cache_destroy,
    kmem_cache_free,
    kmem_cache_shrink,
)
from kmem.linux.spinlock import (
    Spinlock,
    spin_is_locked,
    spin_lock,
    spin_lock_bh,
    spin_lock_irq,
    spin_lock_irqsave,
    spin_trylock,
    spin_unlock,
    spin_unlock_bh,
    spin_unlock_irqrestore,
)
from kmem.linux.timer import Timer, jiffies, mod_timer
from kmem.linux.workqueue import alloc_workqueue, flush_workqueue


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine.boot("x86_64", ram="128M") as machine:
        yield machine


def test_process_context(m: Machine) -> None:
    assert preempt_count() == 0 and in_task() and preemptible()
    assert not (in_atomic() or in_interrupt() or in_hardirq() or in_softirq() or irqs_disabled())
    might_sleep()


#   bits      19..16    15..8           7..0
#             hardirq   softirq         preemption off
def test_the_bits_are_the_kernels(m: Machine) -> None:
    with preempt_disable(), preempt_disabled():
        assert preempt_count() == 0x2 and in_atomic() and in_task() and not preemptible()
    with hardirq():
        assert preempt_count() == 0x10000 and in_hardirq() and in_interrupt() and not in_task()
        assert irqs_disabled()
        assert get_current() is m.kernel.current and get_current().comm == "init"
    with softirq():
        assert preempt_count() == 0x100 and in_serving_softirq() and in_softirq() and not in_task()
        assert not irqs_disabled()
    with local_bh_disable():
        assert preempt_count() == 0x200 and in_softirq() and not in_serving_softirq() and in_task()
    with spin_lock_bh(Spinlock()):
        assert preempt_count() == 0x201
    with softirq(), hardirq(), preempt_disable():
        assert preempt_count() == 0x10101
    assert preempt_count() == 0 and not irqs_disabled()


def test_calls_and_blocks_do_the_same(m: Machine) -> None:
    preempt_disable()
    preempt_disable()
    preempt_enable()
    assert preempt_count() == 1
    preempt_enable()
    rcu_read_lock()
    with pytest.raises(KernelWarning):
        might_sleep()
    rcu_read_unlock()
    might_sleep()
    flags = local_irq_save()
    assert irqs_disabled() and not irqs_disabled_flags(flags)
    inner = local_irq_save()
    assert irqs_disabled_flags(inner)
    local_irq_restore(inner)
    assert irqs_disabled()
    local_irq_restore(flags)
    assert not irqs_disabled()
    with m.irqs_disabled():
        assert irqs_disabled()
    assert not irqs_disabled()


SECTIONS: dict[str, tuple[Callable[[], object], str]] = {
    "hardirq": (hardirq, "in_atomic(): 1, irqs_disabled(): 1"),
    "softirq": (softirq, "in_atomic(): 1, irqs_disabled(): 0"),
    "preemption": (preempt_disable, "in_atomic(): 1, irqs_disabled(): 0"),
    "irqs": (irqs_disabled, "in_atomic(): 0, irqs_disabled(): 1"),
    "spinlock": (lambda: spin_lock(Spinlock()), "in_atomic(): 1, irqs_disabled(): 0"),
    "bh": (local_bh_disable, "in_atomic(): 1, irqs_disabled(): 0"),
    "rcu": (rcu_read_lock, "in_atomic(): 0, irqs_disabled(): 0"),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_allocations_that_may_sleep_are_reported(m: Machine, section: str) -> None:
    begin, said = SECTIONS[section]
    with begin():  # type: ignore[attr-defined]
        address = kmalloc(64, GFP_ATOMIC)
        kfree(address)
        kfree(kmalloc(64, GFP_NOWAIT))
        with pytest.raises(KernelWarning) as caught:
            kmalloc(64, GFP_KERNEL)
    lines = caught.value.lines
    assert lines[0] == "BUG: sleeping function called from invalid context at include/linux/sched/mm.h:274"
    assert lines[1] == f"{said}, non_block: 0, pid: 1, name: init"
    assert re.fullmatch(r"preempt_count: [0-9a-f]+, expected: 0", lines[2])
    assert lines[3] == f"RCU nest depth: {int(section == 'rcu')}, expected: 0"
    assert lines[4].startswith("CPU: 0 PID: 1 Comm: init Not tainted")
    assert any("test_allocations_that_may_sleep_are_reported (test_contexts.py:" in line for line in lines)
    assert caught.value.text in m.log.text()
    kfree(kmalloc(64, GFP_KERNEL))


def test_reports_may_be_logged_instead() -> None:
    with Machine.boot("i386", ram="128M", reports="log") as m:
        with m.preempt_disabled():
            address = m.kmalloc(64, GFP_KERNEL)
        m.kfree(address)
        assert "preempt_count: 1, expected: 0" in m.dmesg()
        with m.preempt_disabled():
            msleep(1)
        assert "BUG: scheduling while atomic: init/1/0x00000002" in m.dmesg()
        assert jiffies() == 3
        assert preempt_count() == 0


def test_the_place_of_a_check_is_that_of_its_call(m: Machine) -> None:
    with preempt_disable():
        with pytest.raises(KernelWarning, match=r"invalid context at test_contexts\.py:\d+"):
            might_sleep()
        with pytest.raises(KernelWarning, match=r"invalid context at test_contexts\.py:\d+"):
            might_sleep_if(True)
        might_sleep_if(False)
        with pytest.raises(KernelWarning, match=r"invalid context at test_contexts\.py:\d+"):
            cond_resched()
        with pytest.raises(KernelWarning, match=r"invalid context at kernel/locking/mutex\.c:283"):
            mutex_lock(Mutex())


def test_calls_are_checked_where_the_kernel_checks_them(m: Machine) -> None:
    """Creating a cache takes a mutex, destroying and shrinking one first holds CPU hotplug off."""
    cache = kmem_cache_create("units", 64, 0, 0, None)
    queue = alloc_workqueue("queue", 0, 0)
    fresh, registered = (Shrinker(lambda sc: 0, lambda sc: 0) for _ in range(2))
    register_shrinker(registered)
    mutex, hotplug, alloc = (
        "kernel/locking/mutex.c:283",
        "include/linux/percpu-rwsem.h:49",
        "include/linux/sched/mm.h:274",
    )
    calls: list[tuple[str, Callable[[], object]]] = [
        (mutex, lambda: kmem_cache_create("others", 64, 0, 0, None)),
        (hotplug, lambda: kmem_cache_shrink(cache)),
        (hotplug, lambda: kmem_cache_destroy(cache)),
        (alloc, lambda: kmem_cache_alloc(cache, GFP_KERNEL)),
        (alloc, lambda: alloc_pages(GFP_KERNEL, 3)),
        (alloc, lambda: alloc_workqueue("queue", 0, 0)),
        (mutex, lambda: flush_workqueue(queue)),
        (alloc, lambda: register_shrinker(fresh)),
        ("kernel/locking/rwsem.c:1572", lambda: unregister_shrinker(registered)),
    ]
    for place, call in calls:
        with m.preempt_disabled(), pytest.raises(KernelWarning, match=f"invalid context at {re.escape(place)}"):
            call()
    kmem_cache_destroy(cache)


def test_sleeping_in_an_interrupt_ends_it(m: Machine) -> None:
    with pytest.raises(KernelBug, match="BUG: scheduling while atomic: init/1/0x00010001"), hardirq():
        msleep(1)
    with pytest.raises(KernelWarning, match="BUG: scheduling while atomic: init/1/0x00000002"), preempt_disable():
        msleep(1)
    with pytest.raises(KernelWarning, match="Voluntary context switch within RCU"), rcu_read_lock():
        msleep(1)
    msleep(1)


def test_schedule_in_atomic_context(m: Machine) -> None:
    """The scheduler itself finds it, whether the task is going to sleep or only gives way."""
    with pytest.raises(KernelBug, match="BUG: scheduling while atomic: init/1/0x00010001"), hardirq():
        schedule()
    with pytest.raises(KernelWarning, match="BUG: scheduling while atomic: init/1/0x00000002"), preempt_disable():
        schedule()
    with pytest.raises(KernelWarning, match="Voluntary context switch within RCU"), rcu_read_lock():
        schedule()
    schedule()
    m.kernel.reports = "log"
    lines = len(m.log.lines)
    process = m.process("driver")
    with process.running(), preempt_disable():
        schedule()
    text = m.log.text().splitlines()[lines:]
    assert text[0] == f"BUG: scheduling while atomic: driver/{process.pid}/0x00000002"
    assert sum(line.startswith("BUG:") for line in text) == 1


def test_reports_say_what_has_been_reported_before(m: Machine) -> None:
    """Flags in the order and the columns of the kernel's; an oops adds D."""
    m.kernel.reports = "log"

    def line() -> str:
        first = len(m.log.lines)
        with preempt_disable():
            might_sleep()
        return next(entry.text for entry in m.log.lines[first:] if entry.text.startswith("CPU: "))

    assert line() == "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2"
    assert line() == "CPU: 0 PID: 1 Comm: init Tainted: G        W          6.1.0-56-amd64 #1  Debian 6.1.192-2"
    cache = kmem_cache_create("red", 64, 0, SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE, None)
    obj = kmem_cache_alloc(cache, GFP_KERNEL)
    m.write(obj + 64, b"x")
    kmem_cache_free(cache, obj)
    assert "BUG red (Tainted: G        W         ): Right Redzone overwritten" in m.log.text()
    assert line() == "CPU: 0 PID: 1 Comm: init Tainted: G    B   W          6.1.0-56-amd64 #1  Debian 6.1.192-2"
    with pytest.raises(KernelOops):
        m.read(0, 1)
    assert line() == "CPU: 0 PID: 1 Comm: init Tainted: G    B D W          6.1.0-56-amd64 #1  Debian 6.1.192-2"


@pytest.mark.parametrize(
    "wait",
    [
        lambda: msleep(20),
        lambda: mdelay(20),
        lambda: schedule_timeout_uninterruptible(20),
        lambda: [cond_resched() for _ in range(30_000)],
    ],
)
def test_what_a_timer_raises_comes_from_the_call_that_let_it_run(m: Machine, wait: Callable[[], object]) -> None:
    for _ in range(2):
        timer = Timer(lambda timer: kmalloc(64, GFP_KERNEL))
        mod_timer(timer, jiffies() + 1)
        with pytest.raises(KernelWarning, match="sleeping function"):
            wait()
    wait()
    m.run()


def test_a_timer_that_runs_while_others_do_fails_where_the_program_goes_on(m: Machine) -> None:
    """The task that keeps the CPU busy has nothing to do with the timer; several failures come together."""
    task = m.spawn(mdelay, 20)
    for delay in (1, 2):
        mod_timer(Timer(lambda timer: kmalloc(64, GFP_KERNEL)), jiffies() + delay)
    with pytest.raises(ExceptionGroup) as caught:
        msleep(100)
    assert [type(error) for error in caught.value.exceptions] == [KernelWarning, KernelWarning]
    m.join(task)


def test_sections_that_are_left_otherwise_than_entered_are_reported(m: Machine) -> None:
    with pytest.raises(KernelWarning, match=r"preempt leak: 00000001 -> 00000002"), preempt_disable():
        preempt_disable()
    assert preempt_count() == 0
    with (
        pytest.raises(KernelWarning, match="huh, entered softirq with preempt_count 00000100, exited with 00000101"),
        softirq(),
    ):
        preempt_disable()
    with pytest.raises(KernelWarning, match="hardirq preempt leak: 00010000 -> 00010001"), hardirq():
        preempt_disable()
    with pytest.raises(KernelWarning, match="enabled interrupts"), hardirq():
        local_irq_enable()
    with pytest.raises(KernelWarning, match=r"DEBUG_LOCKS_WARN_ON\(val > preempt_count\(\)\)"):
        preempt_enable()
    with pytest.raises(KernelWarning, match=r"DEBUG_LOCKS_WARN_ON\(val > preempt_count\(\)\)"):
        local_bh_enable()
    with pytest.raises(KernelWarning, match="bad unlock balance"):
        rcu_read_unlock()
    assert preempt_count() == 0 and not irqs_disabled()


def test_an_exception_that_ends_a_block_is_not_hidden(m: Machine) -> None:
    with pytest.raises(ZeroDivisionError), preempt_disable():
        preempt_disable()
        raise ZeroDivisionError
    assert preempt_count() == 0
    assert "preempt leak" in m.dmesg()


def test_a_program_that_ends_in_a_section_is_reported() -> None:
    with (
        pytest.raises(KernelWarning, match=r"note: init\[1\] exited with preempt_count 1"),
        Machine.boot("x86_64", ram="128M"),
    ):
        preempt_disable()


# Spinlocks


def test_spinlocks(m: Machine) -> None:
    lock = Spinlock("mine")
    spin_lock(lock)
    assert spin_is_locked(lock) and preempt_count() == 1 and not spin_trylock(lock)
    spin_unlock(lock)
    assert spin_trylock(lock)
    spin_unlock(lock)
    flags = spin_lock_irqsave(lock)
    assert irqs_disabled() and preempt_count() == 1
    spin_unlock_irqrestore(lock, flags)
    with spin_lock_irq(lock):
        assert irqs_disabled()
    spin_lock_bh(lock)
    spin_unlock_bh(lock)
    assert not irqs_disabled() and preempt_count() == 0 and not spin_is_locked(lock)


def test_a_spinlock_that_waits_for_itself_is_reported(m: Machine) -> None:
    lock = Spinlock("mine")
    with spin_lock(lock):
        with pytest.raises(KernelBug) as caught:
            spin_lock(lock)
        assert caught.value.lines[0] == "BUG: spinlock recursion on CPU#0, init/1"
        assert caught.value.lines[1] == " lock: mine, .magic: dead4ead, .owner: init/1, .owner_cpu: 0"
        with pytest.raises(KernelBug, match="recursion"), hardirq():
            spin_lock(lock)  # an interrupt runs on top of its owner
        with pytest.raises(KernelBug, match="recursion"):
            spin_lock_irqsave(lock)
        assert preempt_count() == 1 and not irqs_disabled()
    assert not spin_is_locked(lock)


def test_unlocking_what_is_not_locked_is_reported(m: Machine) -> None:
    lock = Spinlock()
    preempt_disable()
    with pytest.raises(KernelWarning, match="BUG: spinlock already unlocked on CPU#0, init/1"):
        spin_unlock(lock)
    assert preempt_count() == 0


def test_a_timer_finds_the_lock_of_the_task_that_it_interrupts() -> None:
    lock = Spinlock("shared")
    with (
        pytest.raises(KernelBug, match="BUG: spinlock recursion on CPU#0, init/1"),
        Machine.boot("x86_64", ram="128M"),
    ):
        timer = Timer(lambda _: spin_lock(lock))
        mod_timer(timer, jiffies())
        with spin_lock(lock):
            mdelay(20)


def test_a_lock_that_keeps_interrupts_off_is_safe_from_timers(m: Machine) -> None:
    lock = Spinlock("shared")
    seen: list[int] = []

    def fire(timer: Timer) -> None:
        with spin_lock(lock):
            seen.append(preempt_count())

    mod_timer(Timer(fire), jiffies())
    with spin_lock_irq(lock):
        mdelay(20)
        assert seen == []
    assert seen == [0x101]  # it came when interrupts were on again


# Mutexes


def test_mutexes(m: Machine) -> None:
    lock = Mutex("mine")
    with mutex_lock(lock):
        assert mutex_is_locked(lock) and lock.owner is get_current() and not mutex_trylock(lock)
        with pytest.raises(DeadlockError, match="init/1 waits at .*for mutex mine, which it holds itself"):
            mutex_lock(lock)
        with pytest.raises(KernelWarning, match="mutex_is_locked"):
            mutex_destroy(lock)
    assert not mutex_is_locked(lock)
    with pytest.raises(KernelWarning, match="DEBUG_LOCKS_WARN_ON"):
        mutex_unlock(lock)
    assert mutex_trylock(lock)
    mutex_unlock(lock)


# Softirqs


def test_tasklets_run_at_the_end_of_the_interrupt(m: Machine) -> None:
    order: list[tuple[str, int, str]] = []

    def note(name: str) -> Callable[[Tasklet], None]:
        return lambda _: order.append((name, preempt_count(), get_current().comm))

    low, high = DECLARE_TASKLET(note("low")), DECLARE_TASKLET(note("high"))
    with hardirq():
        tasklet_schedule(low)
        tasklet_schedule(low)
        tasklet_hi_schedule(high)
        assert order == []
    assert order == [("high", 0x100, "init"), ("low", 0x100, "init")]


def test_tasklets_outside_interrupts_are_left_to_ksoftirqd(m: Machine) -> None:
    seen: list[tuple[object, str]] = []
    tasklet = Tasklet()
    tasklet_init(tasklet, lambda data: seen.append((data, get_current().comm)), 7)
    tasklet_schedule(tasklet)
    assert seen == []
    tasklet_kill(tasklet)
    assert seen == [(7, "ksoftirqd/0")]


def test_softirqs_wait_until_they_are_on(m: Machine) -> None:
    seen: list[int] = []
    tasklet = DECLARE_TASKLET(lambda _: seen.append(preempt_count()))
    with local_bh_disable():
        with hardirq():
            tasklet_schedule(tasklet)
        assert seen == []
    assert seen == [0x100]
    tasklet_disable(tasklet)
    with hardirq():
        tasklet_schedule(tasklet)
    m.run()
    assert seen == [0x100]
    tasklet_enable(tasklet)
    m.run()
    assert len(seen) == 2
    with pytest.raises(StateError, match="not disabled"):
        tasklet_enable(tasklet)


def test_what_a_softirq_raises_or_leaks_stops_nothing(m: Machine) -> None:
    seen: list[str] = []

    def leak(_: Tasklet) -> None:
        preempt_disable()

    def fail(_: Tasklet) -> None:
        raise ZeroDivisionError("in a tasklet")

    with hardirq():
        for tasklet in (leak, fail, lambda _: seen.append("third")):
            tasklet_schedule(DECLARE_TASKLET(tasklet))
    assert seen == ["third"] and preempt_count() == 0
    with pytest.raises(ExceptionGroup) as caught:
        m.run()
    kinds = {type(error) for error in caught.value.exceptions}
    assert kinds == {KernelWarning, ZeroDivisionError}
    m.run()


def test_interrupts_come_while_the_cpu_is_kept_busy(m: Machine) -> None:
    seen: list[tuple[int, str]] = []
    mod_timer(Timer(lambda _: seen.append((jiffies(), get_current().comm))), jiffies() + 1)
    udelay(7999)
    assert seen == []
    udelay(1)
    assert seen == [(2, "init")]
    local_irq_disable()
    mod_timer(Timer(lambda _: seen.append((jiffies(), get_current().comm))), jiffies())
    mdelay(40)
    assert len(seen) == 1
    local_irq_enable()
    assert seen[1] == (12, "init")


def test_rcu(m: Machine) -> None:
    seen: list[object] = []
    call_rcu("head", seen.append)
    synchronize_rcu()
    rcu_barrier()
    assert seen == ["head"]
    with rcu_read_lock(), pytest.raises(KernelWarning, match="completion.c:101"):
        synchronize_rcu()
