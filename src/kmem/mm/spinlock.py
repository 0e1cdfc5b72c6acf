# SPDX-License-Identifier: GPL-2.0-only
"""Spinlocks: locks that are waited for busily, and held with preemption off.

On the one CPU that runs, nobody else can hold a lock that is held by the rules:
its owner does not sleep.  So whoever finds it taken would spin for ever,
because it has taken it itself, because it interrupts the owner, or because the
owner has gone to sleep with it; all three are reported.

Source: kernel/locking/spinlock.c, kernel/locking/spinlock_debug.c, include/linux/spinlock.h @6.1.192
Differs: what CONFIG_DEBUG_SPINLOCK checks is always checked.
"""

from __future__ import annotations

from typing import Final

from kmem.errors import KernelBug, KernelWarning
from kmem.mm.argument import expect
from kmem.mm.dump_stack import dump_stack
from kmem.mm.irqflags import X86_EFLAGS_IF, local_irq_restore, set_irqs_disabled
from kmem.mm.kernel import Kernel, current_kernel
from kmem.mm.preempt import PREEMPT_OFFSET, SOFTIRQ_DISABLE_OFFSET, Section, _sub
from kmem.mm.softirq import bh_enable
from kmem.mm.task import Task

__all__ = [
    "DEFINE_SPINLOCK",
    "Spinlock",
    "spin_is_locked",
    "spin_lock",
    "spin_lock_bh",
    "spin_lock_init",
    "spin_lock_irq",
    "spin_lock_irqsave",
    "spin_trylock",
    "spin_unlock",
    "spin_unlock_bh",
    "spin_unlock_irq",
    "spin_unlock_irqrestore",
]

SPINLOCK_MAGIC: Final = 0xDEAD4EAD


class Spinlock:
    """A spinlock (``spinlock_t``).

    Parameters
    ----------
    name : str, optional
        Said in reports.

    Attributes
    ----------
    locked : bool
    owner : Task or None
        Who holds it.
    owner_cpu : int
        Where; -1 if it is free.

    Source: include/linux/spinlock_types_raw.h:struct raw_spinlock @6.1.192
    """

    __slots__ = ("locked", "magic", "name", "owner", "owner_cpu")

    def __init__(self, name: str = "lock") -> None:
        self.name = name
        self.magic = SPINLOCK_MAGIC
        self.locked = False
        self.owner: Task | None = None
        self.owner_cpu = -1


def DEFINE_SPINLOCK(name: str = "lock") -> Spinlock:
    """Return a new spinlock.

    Source: include/linux/spinlock_types.h:DEFINE_SPINLOCK @6.1.192
    """
    return Spinlock(name)


def spin_lock_init(lock: Spinlock) -> None:
    """Make a spinlock free. Context: any; nobody may hold it.

    Source: include/linux/spinlock.h:spin_lock_init @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    lock.locked, lock.owner, lock.owner_cpu = False, None, -1


def _bug_text(kernel: Kernel, lock: Spinlock, what: str) -> str:
    """Return the report of a spinlock that is misused.

    Source: kernel/locking/spinlock_debug.c:spin_dump @6.1.192
    """
    task, owner = kernel.current, lock.owner
    held = f"{owner.comm}/{owner.pid}" if owner is not None else "<none>/-1"
    lines = [
        f"BUG: spinlock {what} on CPU#{kernel.page_alloc.cpu}, {task.comm}/{task.pid}",
        f" lock: {lock.name}, .magic: {lock.magic:08x}, .owner: {held}, .owner_cpu: {lock.owner_cpu}",
        *dump_stack(kernel),
    ]
    return "\n".join(lines)


def _take(kernel: Kernel, lock: Spinlock) -> None:
    """Take a lock, with preemption off already; nothing is taken if that would spin for ever.

    Source: kernel/locking/spinlock_debug.c:do_raw_spin_lock @6.1.192
    """
    if lock.locked:
        if lock.owner is kernel.current:
            what = "recursion"
        elif lock.owner_cpu == kernel.page_alloc.cpu:
            what = "cpu recursion"
        else:
            what = "lockup suspected"
        kernel.report(KernelBug(_bug_text(kernel, lock, what)))
    lock.locked = True
    lock.owner = kernel.current
    lock.owner_cpu = kernel.page_alloc.cpu


def _release(kernel: Kernel, lock: Spinlock) -> None:
    """Release a lock; one that is not held, or by somebody else, is reported.

    Source: kernel/locking/spinlock_debug.c:debug_spin_unlock @6.1.192
    """
    text = ""
    if not lock.locked:
        text = _bug_text(kernel, lock, "already unlocked")
    elif lock.owner is not kernel.current:
        text = _bug_text(kernel, lock, "wrong owner")
    elif lock.owner_cpu != kernel.page_alloc.cpu:
        text = _bug_text(kernel, lock, "wrong CPU")
    lock.locked, lock.owner, lock.owner_cpu = False, None, -1
    if text:
        kernel.report(KernelWarning(text))


def spin_lock(lock: Spinlock) -> Section:
    """Take a spinlock. Context: any; nothing may sleep until it is released.

    Raises
    ------
    KernelBug
        It is held already: the CPU would spin for ever.

    Source: include/linux/spinlock.h:spin_lock @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    kernel = current_kernel()
    kernel.preempt_count += PREEMPT_OFFSET
    try:
        _take(kernel, lock)
    except BaseException:
        kernel.preempt_count -= PREEMPT_OFFSET
        raise
    return Section(kernel, lambda: _unlock(kernel, lock), f"spinlock {lock.name}")


def _unlock(kernel: Kernel, lock: Spinlock) -> None:
    try:
        _release(kernel, lock)
    finally:
        _sub(kernel, PREEMPT_OFFSET)


def spin_unlock(lock: Spinlock) -> None:
    """Release a spinlock. Context: any.

    Source: include/linux/spinlock.h:spin_unlock @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    _unlock(current_kernel(), lock)


def spin_trylock(lock: Spinlock) -> int:
    """Take a spinlock if it is free; 1 if so, else 0. Context: any.

    Source: include/linux/spinlock.h:spin_trylock @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    if lock.locked:
        return 0
    spin_lock(lock)
    return 1


def spin_is_locked(lock: Spinlock) -> bool:
    """Whether anybody holds a spinlock. Context: any.

    Source: include/linux/spinlock.h:spin_is_locked @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    return lock.locked


def spin_lock_irq(lock: Spinlock) -> Section:
    """Switch interrupts off and take a spinlock. Context: any, with interrupts on.

    Source: include/linux/spinlock.h:spin_lock_irq @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    kernel = current_kernel()
    irqs = kernel.irqs_disabled
    kernel.irqs_disabled = True
    try:
        spin_lock(lock)
    except BaseException:
        kernel.irqs_disabled = irqs
        raise
    return Section(kernel, lambda: _unlock_irq(kernel, lock, False), f"spinlock {lock.name}")


def _unlock_irq(kernel: Kernel, lock: Spinlock, disabled: bool) -> None:
    try:
        _unlock(kernel, lock)
    finally:
        set_irqs_disabled(kernel, disabled)


def spin_unlock_irq(lock: Spinlock) -> None:
    """Release a spinlock and switch interrupts on. Context: any.

    Source: include/linux/spinlock.h:spin_unlock_irq @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    _unlock_irq(current_kernel(), lock, False)


def spin_lock_irqsave(lock: Spinlock) -> int:
    """Switch interrupts off and take a spinlock; return the flags for :func:`spin_unlock_irqrestore`. Context: any.

    Source: include/linux/spinlock.h:spin_lock_irqsave @6.1.192
    Differs: the flags are returned, the macro assigns to its second argument.
    """
    expect(lock, Spinlock, "the lock")
    kernel = current_kernel()
    flags = 0 if kernel.irqs_disabled else X86_EFLAGS_IF
    kernel.irqs_disabled = True
    try:
        spin_lock(lock)
    except BaseException:
        local_irq_restore(flags)
        raise
    return flags


def spin_unlock_irqrestore(lock: Spinlock, flags: int) -> None:
    """Release a spinlock and switch interrupts as they were. Context: any.

    Source: include/linux/spinlock.h:spin_unlock_irqrestore @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    _unlock_irq(current_kernel(), lock, not flags & X86_EFLAGS_IF)


def spin_lock_bh(lock: Spinlock) -> Section:
    """Hold softirqs off and take a spinlock. Context: process or softirq.

    Source: include/linux/spinlock.h:spin_lock_bh @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    kernel = current_kernel()
    kernel.preempt_count += SOFTIRQ_DISABLE_OFFSET
    try:
        spin_lock(lock)
    except BaseException:
        kernel.preempt_count -= SOFTIRQ_DISABLE_OFFSET
        raise
    return Section(kernel, lambda: _unlock_bh(kernel, lock), f"spinlock {lock.name}")


def _unlock_bh(kernel: Kernel, lock: Spinlock) -> None:
    try:
        _unlock(kernel, lock)
    finally:
        bh_enable(kernel)


def spin_unlock_bh(lock: Spinlock) -> None:
    """Release a spinlock and let softirqs run again. Context: process or softirq.

    Source: include/linux/spinlock.h:spin_unlock_bh @6.1.192
    """
    expect(lock, Spinlock, "the lock")
    _unlock_bh(current_kernel(), lock)
