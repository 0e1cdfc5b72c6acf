# SPDX-License-Identifier: GPL-2.0-only
"""Contexts, locks, waiting and memory pools as methods of a machine; see :mod:`kmem.machine.calls`."""

from __future__ import annotations

from kmem.machine.calls import ApiCall, KernelCalls
from kmem.mm import (
    completion,
    delay,
    hrtimer,
    irqflags,
    kthread,
    mempool_api,
    mutex,
    preempt,
    rcu,
    sched,
    spinlock,
    timer,
    wait,
    workqueue,
)
from kmem.mm import might_sleep as checks
from kmem.mm import softirq as softirqs

__all__ = ["TaskCalls"]


class TaskCalls(KernelCalls):
    """The calls that a machine offers for contexts and tasks."""

    # completions

    DECLARE_COMPLETION = ApiCall(completion.DECLARE_COMPLETION)
    complete = ApiCall(completion.complete)
    complete_all = ApiCall(completion.complete_all)
    completion_done = ApiCall(completion.completion_done)
    init_completion = ApiCall(completion.init_completion)
    reinit_completion = ApiCall(completion.reinit_completion)
    try_wait_for_completion = ApiCall(completion.try_wait_for_completion)
    wait_for_completion = ApiCall(completion.wait_for_completion)
    wait_for_completion_timeout = ApiCall(completion.wait_for_completion_timeout)

    # waiting for a time

    fsleep = ApiCall(delay.fsleep)
    mdelay = ApiCall(delay.mdelay)
    msleep = ApiCall(delay.msleep)
    msleep_interruptible = ApiCall(delay.msleep_interruptible)
    ndelay = ApiCall(delay.ndelay)
    ssleep = ApiCall(delay.ssleep)
    udelay = ApiCall(delay.udelay)
    usleep_idle_range = ApiCall(delay.usleep_idle_range)
    usleep_range = ApiCall(delay.usleep_range)

    # high-resolution timers

    hrtimer_active = ApiCall(hrtimer.hrtimer_active)
    hrtimer_cancel = ApiCall(hrtimer.hrtimer_cancel)
    hrtimer_forward_now = ApiCall(hrtimer.hrtimer_forward_now)
    hrtimer_init = ApiCall(hrtimer.hrtimer_init)
    hrtimer_start = ApiCall(hrtimer.hrtimer_start)
    ktime_get = ApiCall(hrtimer.ktime_get)

    # interrupts off and on

    irqs_disabled = ApiCall(irqflags.irqs_disabled)
    irqs_disabled_flags = ApiCall(irqflags.irqs_disabled_flags)
    local_irq_disable = ApiCall(irqflags.local_irq_disable)
    local_irq_enable = ApiCall(irqflags.local_irq_enable)
    local_irq_restore = ApiCall(irqflags.local_irq_restore)
    local_irq_save = ApiCall(irqflags.local_irq_save)
    local_save_flags = ApiCall(irqflags.local_save_flags)

    # kernel threads

    kthread_create = ApiCall(kthread.kthread_create)
    kthread_run = ApiCall(kthread.kthread_run)
    kthread_should_stop = ApiCall(kthread.kthread_should_stop)
    kthread_stop = ApiCall(kthread.kthread_stop)

    # memory pools

    mempool_alloc = ApiCall(mempool_api.mempool_alloc)
    mempool_alloc_pages = ApiCall(mempool_api.mempool_alloc_pages)
    mempool_alloc_slab = ApiCall(mempool_api.mempool_alloc_slab)
    mempool_create = ApiCall(mempool_api.mempool_create)
    mempool_create_kmalloc_pool = ApiCall(mempool_api.mempool_create_kmalloc_pool)
    mempool_create_node = ApiCall(mempool_api.mempool_create_node)
    mempool_create_page_pool = ApiCall(mempool_api.mempool_create_page_pool)
    mempool_create_slab_pool = ApiCall(mempool_api.mempool_create_slab_pool)
    mempool_destroy = ApiCall(mempool_api.mempool_destroy)
    mempool_exit = ApiCall(mempool_api.mempool_exit)
    mempool_free = ApiCall(mempool_api.mempool_free)
    mempool_free_pages = ApiCall(mempool_api.mempool_free_pages)
    mempool_free_slab = ApiCall(mempool_api.mempool_free_slab)
    mempool_init = ApiCall(mempool_api.mempool_init)
    mempool_init_kmalloc_pool = ApiCall(mempool_api.mempool_init_kmalloc_pool)
    mempool_init_node = ApiCall(mempool_api.mempool_init_node)
    mempool_init_page_pool = ApiCall(mempool_api.mempool_init_page_pool)
    mempool_init_slab_pool = ApiCall(mempool_api.mempool_init_slab_pool)
    mempool_initialized = ApiCall(mempool_api.mempool_initialized)
    mempool_kfree = ApiCall(mempool_api.mempool_kfree)
    mempool_kmalloc = ApiCall(mempool_api.mempool_kmalloc)
    mempool_resize = ApiCall(mempool_api.mempool_resize)

    # saying that one may sleep

    might_sleep = ApiCall(checks.might_sleep)
    might_sleep_if = ApiCall(checks.might_sleep_if)

    # mutexes

    DEFINE_MUTEX = ApiCall(mutex.DEFINE_MUTEX)
    mutex_destroy = ApiCall(mutex.mutex_destroy)
    mutex_init = ApiCall(mutex.mutex_init)
    mutex_is_locked = ApiCall(mutex.mutex_is_locked)
    mutex_lock = ApiCall(mutex.mutex_lock)
    mutex_lock_interruptible = ApiCall(mutex.mutex_lock_interruptible)
    mutex_trylock = ApiCall(mutex.mutex_trylock)
    mutex_unlock = ApiCall(mutex.mutex_unlock)

    # preemption, and the context code runs in

    hardirq_count = ApiCall(preempt.hardirq_count)
    in_atomic = ApiCall(preempt.in_atomic)
    in_hardirq = ApiCall(preempt.in_hardirq)
    in_interrupt = ApiCall(preempt.in_interrupt)
    in_irq = ApiCall(preempt.in_irq)
    in_nmi = ApiCall(preempt.in_nmi)
    in_serving_softirq = ApiCall(preempt.in_serving_softirq)
    in_softirq = ApiCall(preempt.in_softirq)
    in_task = ApiCall(preempt.in_task)
    irq_count = ApiCall(preempt.irq_count)
    preempt_count = ApiCall(preempt.preempt_count)
    preempt_count_add = ApiCall(preempt.preempt_count_add)
    preempt_count_sub = ApiCall(preempt.preempt_count_sub)
    preempt_disable = ApiCall(preempt.preempt_disable)
    preempt_disabled = ApiCall(preempt.preempt_disabled)
    preempt_enable = ApiCall(preempt.preempt_enable)
    preempt_enable_no_resched = ApiCall(preempt.preempt_enable_no_resched)
    preemptible = ApiCall(preempt.preemptible)
    softirq_count = ApiCall(preempt.softirq_count)

    # RCU

    call_rcu = ApiCall(rcu.call_rcu)
    rcu_barrier = ApiCall(rcu.rcu_barrier)
    rcu_read_lock = ApiCall(rcu.rcu_read_lock)
    rcu_read_lock_held = ApiCall(rcu.rcu_read_lock_held)
    rcu_read_unlock = ApiCall(rcu.rcu_read_unlock)
    synchronize_rcu = ApiCall(rcu.synchronize_rcu)

    # sleeping and waking

    cond_resched = ApiCall(sched.cond_resched)
    cpu_relax = ApiCall(sched.cpu_relax)
    get_current = ApiCall(sched.get_current)
    io_schedule = ApiCall(sched.io_schedule)
    io_schedule_timeout = ApiCall(sched.io_schedule_timeout)
    schedule = ApiCall(sched.schedule)
    schedule_timeout = ApiCall(sched.schedule_timeout)
    schedule_timeout_idle = ApiCall(sched.schedule_timeout_idle)
    schedule_timeout_interruptible = ApiCall(sched.schedule_timeout_interruptible)
    schedule_timeout_uninterruptible = ApiCall(sched.schedule_timeout_uninterruptible)
    set_current_state = ApiCall(sched.set_current_state)
    wake_up_process = ApiCall(sched.wake_up_process)
    yield_ = ApiCall(sched.yield_)

    # interrupt context, softirqs, tasklets

    DECLARE_TASKLET = ApiCall(softirqs.DECLARE_TASKLET)
    hardirq = ApiCall(softirqs.hardirq)
    local_bh_disable = ApiCall(softirqs.local_bh_disable)
    local_bh_enable = ApiCall(softirqs.local_bh_enable)
    softirq = ApiCall(softirqs.softirq)
    tasklet_disable = ApiCall(softirqs.tasklet_disable)
    tasklet_enable = ApiCall(softirqs.tasklet_enable)
    tasklet_hi_schedule = ApiCall(softirqs.tasklet_hi_schedule)
    tasklet_init = ApiCall(softirqs.tasklet_init)
    tasklet_kill = ApiCall(softirqs.tasklet_kill)
    tasklet_schedule = ApiCall(softirqs.tasklet_schedule)
    tasklet_setup = ApiCall(softirqs.tasklet_setup)

    # spinlocks

    DEFINE_SPINLOCK = ApiCall(spinlock.DEFINE_SPINLOCK)
    spin_is_locked = ApiCall(spinlock.spin_is_locked)
    spin_lock = ApiCall(spinlock.spin_lock)
    spin_lock_bh = ApiCall(spinlock.spin_lock_bh)
    spin_lock_init = ApiCall(spinlock.spin_lock_init)
    spin_lock_irq = ApiCall(spinlock.spin_lock_irq)
    spin_lock_irqsave = ApiCall(spinlock.spin_lock_irqsave)
    spin_trylock = ApiCall(spinlock.spin_trylock)
    spin_unlock = ApiCall(spinlock.spin_unlock)
    spin_unlock_bh = ApiCall(spinlock.spin_unlock_bh)
    spin_unlock_irq = ApiCall(spinlock.spin_unlock_irq)
    spin_unlock_irqrestore = ApiCall(spinlock.spin_unlock_irqrestore)

    # timers

    DEFINE_TIMER = ApiCall(timer.DEFINE_TIMER)
    add_timer = ApiCall(timer.add_timer)
    del_timer = ApiCall(timer.del_timer)
    del_timer_sync = ApiCall(timer.del_timer_sync)
    jiffies = ApiCall(timer.jiffies)
    jiffies_to_msecs = ApiCall(timer.jiffies_to_msecs)
    jiffies_to_usecs = ApiCall(timer.jiffies_to_usecs)
    mod_timer = ApiCall(timer.mod_timer)
    mod_timer_pending = ApiCall(timer.mod_timer_pending)
    msecs_to_jiffies = ApiCall(timer.msecs_to_jiffies)
    timer_delete = ApiCall(timer.timer_delete)
    timer_delete_sync = ApiCall(timer.timer_delete_sync)
    timer_pending = ApiCall(timer.timer_pending)
    timer_setup = ApiCall(timer.timer_setup)
    timer_shutdown = ApiCall(timer.timer_shutdown)
    timer_shutdown_sync = ApiCall(timer.timer_shutdown_sync)
    usecs_to_jiffies = ApiCall(timer.usecs_to_jiffies)

    # wait queues

    DECLARE_WAIT_QUEUE_HEAD = ApiCall(wait.DECLARE_WAIT_QUEUE_HEAD)
    finish_wait = ApiCall(wait.finish_wait)
    init_waitqueue_head = ApiCall(wait.init_waitqueue_head)
    prepare_to_wait = ApiCall(wait.prepare_to_wait)
    prepare_to_wait_exclusive = ApiCall(wait.prepare_to_wait_exclusive)
    wait_event = ApiCall(wait.wait_event)
    wait_event_interruptible = ApiCall(wait.wait_event_interruptible)
    wait_event_timeout = ApiCall(wait.wait_event_timeout)
    waitqueue_active = ApiCall(wait.waitqueue_active)
    wake_up = ApiCall(wait.wake_up)
    wake_up_all = ApiCall(wait.wake_up_all)
    wake_up_interruptible = ApiCall(wait.wake_up_interruptible)
    wake_up_nr = ApiCall(wait.wake_up_nr)

    # work queues

    INIT_DELAYED_WORK = ApiCall(workqueue.INIT_DELAYED_WORK)
    INIT_WORK = ApiCall(workqueue.INIT_WORK)
    alloc_ordered_workqueue = ApiCall(workqueue.alloc_ordered_workqueue)
    alloc_workqueue = ApiCall(workqueue.alloc_workqueue)
    cancel_delayed_work = ApiCall(workqueue.cancel_delayed_work)
    cancel_delayed_work_sync = ApiCall(workqueue.cancel_delayed_work_sync)
    cancel_work_sync = ApiCall(workqueue.cancel_work_sync)
    create_singlethread_workqueue = ApiCall(workqueue.create_singlethread_workqueue)
    destroy_workqueue = ApiCall(workqueue.destroy_workqueue)
    flush_delayed_work = ApiCall(workqueue.flush_delayed_work)
    flush_work = ApiCall(workqueue.flush_work)
    flush_workqueue = ApiCall(workqueue.flush_workqueue)
    mod_delayed_work = ApiCall(workqueue.mod_delayed_work)
    queue_delayed_work = ApiCall(workqueue.queue_delayed_work)
    queue_work = ApiCall(workqueue.queue_work)
    schedule_delayed_work = ApiCall(workqueue.schedule_delayed_work)
    schedule_work = ApiCall(workqueue.schedule_work)
    work_pending = ApiCall(workqueue.work_pending)
