# SPDX-License-Identifier: GPL-2.0-only
"""Fault injection against a second, plainer reading of ``should_fail_ex()``, and its edges one by one."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmem.errors import UsageError
from kmem.mm.fault_inject import FailingAllocator, FaultInjection, fail_mempool, setup_fault_attr
from kmem.mm.gfp import __GFP_NOFAIL, __GFP_NOWARN, GFP_ATOMIC, GFP_HIGHUSER, GFP_KERNEL, GFP_NOWAIT
from kmem.mm.printk import Printk
from kmem.mm.task import Task
from kmem.mm.timekeeping import Clock

CACHE = SimpleNamespace(name="things", object_size=96)
OTHER = SimpleNamespace(name="other", object_size=32)


def host() -> SimpleNamespace:
    return SimpleNamespace(
        current=Task(1, "init"),
        preempt_count=0,
        taint=0,
        printk=Printk(Clock()),
        arch="x86_64",
        page_alloc=SimpleNamespace(cpu=0),
    )


def faults(cmdline: str = "", seed: int = 1) -> FaultInjection:
    return FaultInjection(host(), seed, cmdline)


def naive(attr: dict, size: int, rng: random.Random) -> bool:
    """The checks of lib/fault-inject.c, line by line, on a dict."""
    if attr["probability"] == 0:
        return False
    if attr["times"] == 0:
        return False
    if attr["space"] > size:
        attr["space"] -= size
        return False
    if attr["interval"] > 1:
        attr["count"] += 1
        if attr["count"] % attr["interval"] != 0:
            return False
    if attr["probability"] <= (rng.getrandbits(32) * 100) >> 32:
        return False
    if attr["times"] != -1:
        attr["times"] = max(attr["times"] - 1, 0) if attr["times"] > 0 else attr["times"]
    return True


@given(
    probability=st.integers(0, 120),
    interval=st.integers(0, 5),
    times=st.integers(-1, 6),
    space=st.integers(-10, 600),
    sizes=st.lists(st.integers(1, 200), max_size=60),
    seed=st.integers(0, 1000),
)
def test_same_answers_as_the_plain_reading(probability, interval, times, space, sizes, seed):
    subject = faults(seed=seed).failslab
    subject.configure(probability=probability, interval=interval, times=times, space=space, verbose=0)
    plain = {"probability": probability, "interval": interval, "times": times, "space": space, "count": 0}
    rng = random.Random(f"fault injection {seed}")
    for size in sizes:
        assert subject.should_fail(size) == naive(plain, size, rng)
        assert (subject.space, subject.times, subject.count) == (plain["space"], plain["times"], plain["count"])


def test_nothing_fails_by_default():
    subject = faults()
    assert not any(subject.should_failslab(CACHE, GFP_ATOMIC) for _ in range(200))
    assert subject.failures == 0


def test_everything_fails_when_told_so_but_only_once():
    subject = faults().failslab
    subject.probability = 100
    assert [subject.should_failslab(CACHE, GFP_ATOMIC) for _ in range(3)] == [True, False, False]
    assert subject.times == 0


def test_space_lets_bytes_through_and_keeps_the_rest():
    """100 bytes of room, objects of 30: three pass, the fourth finds 10 left, which is not more than 30."""
    subject = faults().failslab
    subject.configure(probability=100, times=-1, space=100)
    assert [subject.should_fail(30) for _ in range(5)] == [False, False, False, True, True]
    assert subject.space == 10


def test_interval_counts_only_what_gets_so_far():
    subject = faults().failslab
    subject.configure(probability=100, times=-1, interval=3, space=64)
    assert [subject.should_fail(32) for _ in range(7)] == [False, False, False, True, False, False, True]


def test_requests_that_may_sleep_or_must_not_fail_are_spared():
    subject = faults()
    subject.failslab.configure(probability=100, times=-1)
    assert not subject.should_failslab(CACHE, GFP_KERNEL)
    assert not subject.should_failslab(CACHE, GFP_ATOMIC | __GFP_NOFAIL)
    subject.failslab.ignore_gfp_wait = False
    assert subject.should_failslab(CACHE, GFP_KERNEL)
    assert not subject.should_failslab(CACHE, GFP_KERNEL | __GFP_NOFAIL)


def test_a_filter_by_cache():
    subject = faults()
    subject.failslab.configure(probability=100, times=-1, cache_filter=True)
    assert not subject.should_failslab(CACHE, GFP_ATOMIC)
    subject.failslab.caches.add("things")
    assert subject.should_failslab(CACHE, GFP_ATOMIC)
    assert not subject.should_failslab(OTHER, GFP_ATOMIC)


def test_a_filter_by_task_spares_interrupts_too():
    subject = faults()
    subject.failslab.configure(probability=100, times=-1, task_filter=True)
    assert not subject.should_failslab(CACHE, GFP_ATOMIC)
    subject._host.current.make_it_fail = True
    assert subject.should_failslab(CACHE, GFP_ATOMIC)
    subject._host.preempt_count = 0x10000
    assert not subject.should_failslab(CACHE, GFP_ATOMIC)


def test_pages_fail_from_order_1_and_below_high_memory():
    subject = faults()
    subject.fail_page_alloc.configure(probability=100, times=-1)
    assert not subject.should_fail_page(GFP_NOWAIT, 0)
    assert subject.should_fail_page(GFP_NOWAIT, 1)
    subject.fail_page_alloc.configure(min_order=0, ignore_gfp_wait=False)
    assert subject.should_fail_page(GFP_NOWAIT, 0)
    assert not subject.should_fail_page(GFP_HIGHUSER, 0)
    subject.fail_page_alloc.ignore_gfp_highmem = False
    assert subject.should_fail_page(GFP_HIGHUSER, 0)


def test_space_of_pages_is_counted_in_pages():
    subject = faults()
    subject.fail_page_alloc.configure(probability=100, times=-1, space=5)
    assert [subject.should_fail_page(GFP_NOWAIT, 1) for _ in range(4)] == [False, False, True, True]
    assert subject.fail_page_alloc.space == 1


def test_the_nth_request_of_a_task_whatever_the_attributes():
    subject = faults()
    subject.fail_nth = 3
    answers = [subject.should_failslab(CACHE, GFP_ATOMIC) for _ in range(5)]
    assert answers == [False, False, True, False, False]
    assert subject.fail_nth == 0
    subject.fail_nth = 1
    assert not subject.should_failslab(CACHE, GFP_KERNEL), "never gets as far as being counted"
    assert subject.fail_nth == 1
    subject._host.preempt_count = 0x100
    assert not subject.should_failslab(CACHE, GFP_ATOMIC), "softirqs belong to no task"
    assert subject.fail_nth == 1


def test_a_countdown_counts_whatever_may_fail():
    subject = faults()
    subject.countdown = 3
    assert not subject.should_failslab(CACHE, GFP_KERNEL)
    assert not subject.should_failslab(CACHE, GFP_KERNEL | __GFP_NOFAIL)
    assert not subject.should_fail_page(GFP_KERNEL, 0)
    assert subject.should_fail_page(GFP_KERNEL, 0)
    assert subject.counted_down is subject.fail_page_alloc
    assert not subject.should_failslab(CACHE, GFP_KERNEL)


def test_what_the_kernel_says():
    subject = faults("failslab=2,100,0,-1 quiet")
    subject.failslab.verbose = 1
    assert not subject.should_failslab(CACHE, GFP_ATOMIC)
    assert subject.should_failslab(CACHE, GFP_ATOMIC)
    assert subject._host.printk.text() == (
        "FAULT_INJECTION: forcing a failure.\nname failslab, interval 2, probability 100, space 0, times -1\n"
    )
    assert subject._host.printk.lines[0].level == 5
    assert not subject.should_failslab(CACHE, GFP_ATOMIC | __GFP_NOWARN)
    assert subject.should_failslab(CACHE, GFP_ATOMIC | __GFP_NOWARN)
    assert len(subject._host.printk.lines) == 2, "a request that wants no warnings gets none"


def test_the_stack_is_shown_at_verbose_2():
    subject = faults()
    subject.failslab.configure(probability=100)
    assert subject.should_failslab(CACHE, GFP_ATOMIC)
    lines = subject._host.printk.text().splitlines()
    assert lines[2:5] == [
        "CPU: 0 PID: 1 Comm: init Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2",
        "Call Trace:",
        " <TASK>",
    ]
    assert lines[5].startswith(" test_the_stack_is_shown_at_verbose_2 (test_fault_inject.py:")
    assert lines[-1] == " </TASK>"


@pytest.mark.parametrize("text", ["", "1", "1,100,0", "x,1,2,3", "1;2;3;4"])
def test_a_boot_option_that_makes_no_sense(text):
    subject = faults(f"failslab={text}")
    assert subject.failslab.probability == 0
    assert subject._host.printk.text() == "FAULT_INJECTION: failed to parse arguments\n"
    assert not setup_fault_attr(subject.failslab, text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("probability", -1), ("times", 1 << 31), ("verbose", "loud"), ("task_filter", 2), ("probability", 1.5)],
)
def test_values_that_the_kernel_does_not_take(name, value):
    subject = faults().failslab
    before = repr(subject)
    with pytest.raises(UsageError, match=name):
        setattr(subject, name, value)
    with pytest.raises(UsageError, match=name):
        subject.configure(interval=7, **{name: value})
    assert repr(subject) == before


def test_attributes_that_do_not_exist():
    with pytest.raises(UsageError, match="no attribute 'propability'"):
        faults().failslab.configure(propability=100)
    with pytest.raises(AttributeError):
        faults().failslab.propability = 100
    with pytest.raises(UsageError, match="fail-nth"):
        faults().fail_nth = -1


def test_one_seed_one_result():
    def run(seed: int) -> list[bool]:
        subject = faults(seed=seed)
        subject.failslab.configure(probability=30, times=-1, verbose=0)
        return [subject.should_failslab(CACHE, GFP_ATOMIC) for _ in range(100)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert 10 < sum(run(7)) < 50


def test_a_failing_allocator():
    alloc = FailingAllocator(lambda gfp, data: (gfp, data), times=2)
    assert [alloc(1, "a"), alloc(1, "a"), alloc(1, "a")] == [None, None, (1, "a")]
    alloc.times = -1
    assert [alloc(1, "a") for _ in range(3)] == [None] * 3
    assert alloc.times == -1


def test_a_pool_whose_allocator_fails():
    pool = SimpleNamespace(alloc=lambda gfp, data: "fresh")
    alloc = fail_mempool(pool, 2)
    assert [pool.alloc(0, 0) for _ in range(3)] == [None, None, "fresh"]
    assert fail_mempool(pool) is alloc is pool.alloc
    assert pool.alloc(0, 0) is None
    fail_mempool(pool, 0)
    assert pool.alloc(0, 0) == "fresh"
    with pytest.raises(UsageError, match="-2 calls"):
        fail_mempool(pool, -2)
