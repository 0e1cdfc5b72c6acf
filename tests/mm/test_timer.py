# SPDX-License-Identifier: GPL-2.0-only
"""Timers: at which tick they fire, in what order, in which context."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmem import Machine
from kmem.errors import KernelBug, KernelWarning, UsageError
from kmem.linux.delay import mdelay, msleep
from kmem.linux.gfp import GFP_KERNEL
from kmem.linux.hrtimer import (
    CLOCK_MONOTONIC,
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HRTIMER_RESTART,
    Hrtimer,
    hrtimer_active,
    hrtimer_cancel,
    hrtimer_forward_now,
    hrtimer_init,
    hrtimer_start,
    ktime_get,
)
from kmem.linux.preempt import in_hardirq, in_serving_softirq, preempt_disable
from kmem.linux.sched import get_current
from kmem.linux.slab import kmalloc
from kmem.linux.timer import (
    DEFINE_TIMER,
    TIMER_IRQSAFE,
    Timer,
    add_timer,
    del_timer,
    del_timer_sync,
    jiffies,
    jiffies_to_msecs,
    mod_timer,
    mod_timer_pending,
    msecs_to_jiffies,
    timer_pending,
    timer_setup,
    timer_shutdown,
    usecs_to_jiffies,
)


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine.boot("x86_64", ram="128M") as machine:
        yield machine


#   away   slot of the wheel     granularity
#   0-62   level 0                1 tick
#   63-503 level 1                8
#   504-   level 2               64
#   4032-  level 3              512
@pytest.mark.parametrize(
    ("away", "fires"),
    [(0, 1), (1, 2), (62, 63), (63, 64), (64, 72), (100, 104), (503, 504), (504, 512), (1250, 1280), (4032, 4096)],
)
def test_the_wheel_rounds_up(m: Machine, away: int, fires: int) -> None:
    fired: list[int] = []
    mod_timer(DEFINE_TIMER(lambda _: fired.append(jiffies())), away)
    m.run(until=(fires + 600) * 4_000_000)
    assert fired == [fires]


def test_a_timer_of_the_past_fires_at_the_next_tick(m: Machine) -> None:
    msleep(100)
    now, fired = jiffies(), []
    mod_timer(Timer(lambda _: fired.append(jiffies())), 3)
    mdelay(10)
    assert fired == [now + 1]


def test_coarse_slots_come_first_and_the_newest_of_a_slot(m: Machine) -> None:
    order: list[str] = []

    def timer(name: str) -> Timer:
        return Timer(lambda _: order.append(name))

    mod_timer(timer("far, first"), 100)  # 104
    mod_timer(timer("far, second"), 97)  # 104 too
    m.run(until=80 * 4_000_000)
    mod_timer(timer("near, first"), 103)
    mod_timer(timer("near, second"), 103)
    m.run(until=200 * 4_000_000)
    assert order == ["far, second", "far, first", "near, second", "near, first"]


def test_context_of_a_timer(m: Machine) -> None:
    seen: list[tuple[int, str, bool]] = []

    def look(_: Timer) -> None:
        seen.append((in_serving_softirq(), get_current().comm, m.kernel.irqs_disabled))

    timer = Timer()
    timer_setup(timer, look, 0)
    mod_timer(timer, jiffies())
    mdelay(8)
    mod_timer(timer, jiffies())
    msleep(8)
    timer_setup(timer, look, TIMER_IRQSAFE)
    mod_timer(timer, jiffies())
    mdelay(8)
    assert seen == [(0x100, "init", False), (0x100, "swapper/0", False), (0x100, "init", True)]


def test_a_timer_must_not_sleep() -> None:
    with pytest.raises(KernelWarning) as caught, Machine.boot("x86_64", ram="128M"):
        mod_timer(Timer(lambda _: kmalloc(64, GFP_KERNEL)), jiffies())
        msleep(50)
    assert caught.value.lines[1:3] == [
        "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 0, name: swapper/0",
        "preempt_count: 101, expected: 0",
    ]


def test_moving_and_deleting(m: Machine) -> None:
    fired: list[int] = []
    timer = Timer(lambda _: fired.append(jiffies()))
    assert mod_timer_pending(timer, 5) == 0 and not timer_pending(timer)
    assert mod_timer(timer, 5) == 0 and timer_pending(timer)
    assert mod_timer(timer, 9) == 1 and mod_timer(timer, 9) == 1 and mod_timer_pending(timer, 7) == 1
    m.run(until=100_000_000)
    assert fired == [8] and not timer_pending(timer)
    mod_timer(timer, 50)
    assert del_timer(timer) == 1 and del_timer(timer) == 0 and del_timer_sync(timer) == 0
    timer.expires = 60
    add_timer(timer)
    with pytest.raises(KernelBug, match=r"kernel BUG at kernel/time/timer\.c"):
        add_timer(timer)
    assert timer_shutdown(timer) == 1
    assert mod_timer(timer, 70) == 0 and not timer_pending(timer)
    m.run(until=400_000_000)
    assert fired == [8]


def test_deleted_timers_do_not_let_time_pass(m: Machine) -> None:
    timer = Timer(lambda _: None)
    mod_timer(timer, 5000)
    del_timer(timer)
    m.spawn(msleep, 1)
    m.run()
    assert jiffies() == 3


def test_a_timer_cannot_wait_for_its_own_end() -> None:
    with pytest.raises(KernelBug, match="waits for its own end"), Machine.boot("x86_64", ram="128M"):
        mod_timer(Timer(del_timer_sync), jiffies())
        msleep(20)


def test_a_timer_that_leaks_is_reported() -> None:
    with (
        pytest.raises(KernelWarning, match="timer .*preempt leak: 00000101 -> 00000102"),
        Machine.boot("x86_64", ram="128M"),
    ):
        mod_timer(Timer(lambda _: preempt_disable()), jiffies())
        msleep(20)


def test_units(m: Machine) -> None:
    assert [msecs_to_jiffies(ms) for ms in (0, 1, 4, 5, 1000)] == [0, 1, 1, 2, 250]
    assert msecs_to_jiffies(-1) == (1 << 62) - 2
    assert usecs_to_jiffies(4001) == 2 and jiffies_to_msecs(3) == 12


def test_what_is_refused(m: Machine) -> None:
    with pytest.raises(UsageError, match="timer_setup"):
        mod_timer(Timer(), 5)
    with pytest.raises(UsageError, match="no function"):
        timer_setup(Timer(), "f", 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot be waited for"):
        msleep(-1)


def test_high_resolution_timers(m: Machine) -> None:
    fired: list[tuple[int, bool]] = []

    def fire(timer: Hrtimer) -> int:
        fired.append((ktime_get(), bool(in_hardirq())))
        return HRTIMER_RESTART if hrtimer_forward_now(timer, 1000) and len(fired) < 3 else 0

    timer = Hrtimer()
    hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
    timer.function = fire
    hrtimer_start(timer, 1500, HRTIMER_MODE_REL)
    assert hrtimer_active(timer)
    mdelay(1)
    assert fired == [(1500, True), (2500, True), (3500, True)] and not hrtimer_active(timer)
    hrtimer_start(timer, 2_000_000, HRTIMER_MODE_ABS)
    assert hrtimer_cancel(timer) == 1 and hrtimer_cancel(timer) == 0
    with pytest.raises(UsageError, match="clock"):
        hrtimer_init(timer, 7, HRTIMER_MODE_REL)
