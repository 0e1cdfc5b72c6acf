# SPDX-License-Identifier: GPL-2.0-only
"""Something else than the structure or number that a function takes is a TypeError that says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmem import Machine

STRUCTURES = {
    "mempool_alloc": (0xCC0,),
    "mempool_resize": (3,),
    "mempool_exit": (),
    "mempool_initialized": (),
    "spin_lock": (),
    "spin_unlock": (),
    "spin_lock_irqsave": (),
    "spin_lock_bh": (),
    "mutex_lock": (),
    "mutex_unlock": (),
    "mod_timer": (5,),
    "del_timer": (),
    "timer_pending": (),
    "wake_up": (),
    "wait_event": (lambda: True,),
    "waitqueue_active": (),
    "complete": (),
    "wait_for_completion": (),
    "tasklet_schedule": (),
    "tasklet_kill": (),
    "schedule_work": (),
    "flush_work": (),
    "cancel_work_sync": (),
    "schedule_delayed_work": (5,),
    "flush_workqueue": (),
    "hrtimer_start": (5, 1),
}


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine.boot("x86_64", ram="128M") as machine:
        yield machine
        assert machine.preempt_count() == 0 and not machine.irqs_disabled()
        machine.msleep(1)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("value", [None, 7, "x", object()], ids=["None", "int", "str", "object"])
def test_a_wrong_structure(m: Machine, name: str, value: object) -> None:
    with pytest.raises(TypeError, match=r"^the [a-z ]+ is \w+, not a [A-Z]\w+$"):
        getattr(m, name)(value, *STRUCTURES[name])


@pytest.mark.parametrize("name", ["msleep", "udelay", "mdelay", "ssleep"])
def test_a_wrong_number(m: Machine, name: str) -> None:
    for value in (None, "x", 1.5):
        with pytest.raises(TypeError):
            getattr(m, name)(value)
    with pytest.raises(ValueError, match="cannot be waited for"):
        getattr(m, name)(-1)
