# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's API as methods of a machine.

Every function of :mod:`kmem.linux` acts on the current kernel.  Here the same
functions become methods that act on their own machine, whichever is current:
``m.kmalloc(64, GFP_KERNEL)``.  One line each, one docstring each: signature,
documentation and type are the function's.

Names that begin with two underscores cannot stand in a class as they are
(Python would rename them): they are added below the class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from kmem.mm import struct_page
from kmem.mm.kernel import BoundCall

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = ["ApiCall", "KernelCalls"]

P = ParamSpec("P")
R = TypeVar("R")


class ApiCall(Generic[P, R]):
    """A function of the kernel's API as a method; see the module.

    Parameters
    ----------
    function : callable
        Acts on the current kernel.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, machine: None, owner: type) -> Callable[P, R]: ...

    @overload
    def __get__(self, machine: KernelCalls, owner: type) -> Callable[P, R]: ...

    def __get__(self, machine: KernelCalls | None, owner: type) -> Callable[P, R]:
        """Return the function, bound to the machine's kernel if there is one."""
        if machine is None:
            return self.function
        return cast("Callable[P, R]", BoundCall(machine.kernel, self.function))


class KernelCalls:
    """The calls that a machine offers as methods."""

    @property
    def kernel(self) -> Kernel:
        """The machine's running kernel."""
        raise NotImplementedError

    # struct page and the linear map

    page_to_pfn = ApiCall(struct_page.page_to_pfn)
    pfn_to_page = ApiCall(struct_page.pfn_to_page)
    page_address = ApiCall(struct_page.page_address)
    page_to_virt = ApiCall(struct_page.page_to_virt)
    page_to_phys = ApiCall(struct_page.page_to_phys)
    phys_to_page = ApiCall(struct_page.phys_to_page)
    virt_to_page = ApiCall(struct_page.virt_to_page)
    phys_to_virt = ApiCall(struct_page.phys_to_virt)
    virt_to_phys = ApiCall(struct_page.virt_to_phys)
    virt_addr_valid = ApiCall(struct_page.virt_addr_valid)


# Functions whose names begin with two underscores.
_DUNDER: tuple[Callable[..., Any], ...] = ()

for _function in _DUNDER:
    setattr(KernelCalls, _function.__name__, ApiCall(_function))
