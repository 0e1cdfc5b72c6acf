# SPDX-License-Identifier: GPL-2.0-only
"""Interrupts off and on again on the running CPU.

While they are off no timer runs, and nothing may sleep.  What became due
meanwhile runs when they are on again.

Source: include/linux/irqflags.h @6.1.192
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

from kmem.mm.kernel import Kernel, current_kernel

__all__ = [
    "IrqsDisabled",
    "irqs_disabled",
    "irqs_disabled_flags",
    "local_irq_disable",
    "local_irq_enable",
    "local_irq_restore",
    "local_irq_save",
    "local_save_flags",
]

#: The bit of the flags register that says that interrupts are on.
X86_EFLAGS_IF: Final = 0x200


def set_irqs_disabled(kernel: Kernel, disabled: bool) -> None:
    """Switch interrupts; those that are due come at once when they are switched on."""
    kernel.irqs_disabled = disabled
    if not disabled and kernel.sched is not None:
        kernel.sched.poll()


class IrqsDisabled:
    """The answer of :func:`irqs_disabled`: true or false; given to ``with``, interrupts are off in the block.

    Parameters
    ----------
    kernel : Kernel
    """

    __slots__ = ("_before", "_kernel", "_now")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._now = kernel.irqs_disabled
        self._before: list[bool] = []

    def __bool__(self) -> bool:
        return self._now

    def __enter__(self) -> None:
        """Switch interrupts off."""
        self._before.append(self._kernel.irqs_disabled)
        self._kernel.irqs_disabled = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Switch them as they were before the block."""
        set_irqs_disabled(self._kernel, self._before.pop())


def irqs_disabled() -> IrqsDisabled:
    """Whether interrupts are off; ``with irqs_disabled():`` switches them off for a block.

    Context: any.

    Source: include/linux/irqflags.h:irqs_disabled @6.1.192
    """
    return IrqsDisabled(current_kernel())


def local_irq_disable() -> None:
    """Switch interrupts off. Context: any.

    Source: include/linux/irqflags.h:local_irq_disable @6.1.192
    """
    current_kernel().irqs_disabled = True


def local_irq_enable() -> None:
    """Switch interrupts on; those that are due come at once. Context: any.

    Source: include/linux/irqflags.h:local_irq_enable @6.1.192
    """
    set_irqs_disabled(current_kernel(), False)


def local_save_flags() -> int:
    """Return the flags register, of which :data:`X86_EFLAGS_IF` says whether interrupts are on. Context: any.

    Source: include/linux/irqflags.h:local_save_flags @6.1.192
    Differs: the flags are returned, the macro assigns to its argument.
    """
    return 0 if current_kernel().irqs_disabled else X86_EFLAGS_IF


def local_irq_save() -> int:
    """Switch interrupts off; return the flags of before, for :func:`local_irq_restore`. Context: any.

    Source: include/linux/irqflags.h:local_irq_save @6.1.192
    Differs: the flags are returned, the macro assigns to its argument.
    """
    flags = local_save_flags()
    current_kernel().irqs_disabled = True
    return flags


def local_irq_restore(flags: int) -> None:
    """Switch interrupts as they were when `flags` were saved. Context: any.

    Source: include/linux/irqflags.h:local_irq_restore @6.1.192
    """
    set_irqs_disabled(current_kernel(), irqs_disabled_flags(flags))


def irqs_disabled_flags(flags: int) -> bool:
    """Whether interrupts were off when `flags` were saved.

    Source: arch/x86/include/asm/irqflags.h:arch_irqs_disabled_flags @6.1.192
    """
    return not flags & X86_EFLAGS_IF
