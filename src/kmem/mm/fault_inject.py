# SPDX-License-Identifier: GPL-2.0-only
"""Fault injection: requests that fail because they are told to.

Code that asks for memory must live with getting none, yet on a healthy machine
it always gets some.  ``failslab`` refuses objects of slab caches,
``fail_page_alloc`` blocks of pages; both ask a :class:`FaultAttr` whether this
request is the one.  A task can also be told to fail exactly its n-th request,
whatever the attributes say (``/proc/self/fail-nth``).

The questions are asked in the kernel's order, because each has an effect on
what the next request finds: `space` is used up by requests that pass, the
interval counter runs only behind it, chance is drawn last.

Source: lib/fault-inject.c, mm/failslab.c, mm/page_alloc.c:__should_fail_alloc_page @6.1.192
Differs: no stack-trace filter, no rate limit on the messages (the kernel's is
off by default); chance comes from a seeded generator.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from kmem.errors import UsageError
from kmem.mm.aids import Aid
from kmem.mm.callers import Site, stack_sites
from kmem.mm.dump_stack import dump_stack
from kmem.mm.gfp import __GFP_DIRECT_RECLAIM, __GFP_HIGHMEM, __GFP_NOFAIL, __GFP_NOWARN

if TYPE_CHECKING:
    from kmem.mm.kernel import Kernel

__all__ = [
    "FailPageAlloc",
    "FailingAllocator",
    "Failslab",
    "FaultAttr",
    "FaultCache",
    "FaultInjection",
    "fail_mempool",
    "setup_fault_attr",
]

_KERN_NOTICE: Final = 5
_KERN_WARNING: Final = 4
# Bits of preempt_count that say: not in a task (serving a softirq, in a hardirq or NMI).
_SOFTIRQ_OFFSET: Final = 0x100
_HARDIRQ_NMI_MASK: Final = 0xFF0000
_LONG_MAX: Final = (1 << 63) - 1
_INT_MIN: Final = -(1 << 31)
_INT_MAX: Final = (1 << 31) - 1
_ARGUMENTS: Final = re.compile(r"\s*(\d+),\s*(\d+),\s*([+-]?\d+),\s*([+-]?\d+)")
# Without underscores in front, which a class would take as its own names.
_DIRECT_RECLAIM: Final = __GFP_DIRECT_RECLAIM
_HIGHMEM: Final = __GFP_HIGHMEM
_NOFAIL: Final = __GFP_NOFAIL
_NOWARN: Final = __GFP_NOWARN


class FaultCache(Protocol):
    """What fault injection needs to know of a cache."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def object_size(self) -> int:
        """Bytes of an object, without metadata."""


class FaultAttr:
    """When to fail: ``struct fault_attr``, the files of one debugfs directory.

    Parameters
    ----------
    name : str
        Name of the directory (``failslab``).
    host : Kernel
        The running kernel.
    rng : random.Random
        Where chance comes from.

    Attributes
    ----------
    probability : int
        Percent of the requests that fail, of those that get as far as being drawn; 0 switches off.
    interval : int
        Of the requests that get as far, only every `interval`-th is drawn; 0 and 1: all.
    times : int
        Failures left; -1 for no limit.
    space : int
        Bytes (pages for ``fail_page_alloc``) that pass before anything fails.
    verbose : int
        0 silent, 1 a message for each failure, 2 the stack too.
    task_filter : bool
        Whether only tasks fail that have ``make_it_fail`` set.
    count : int
        Requests that the interval has counted.
    failures : int
        Requests that were made to fail; not in the kernel.
    failed_at : tuple of Site
        Places of the last of them, innermost first; not in the kernel.

    Source: include/linux/fault-inject.h:struct fault_attr @6.1.192
    """

    __slots__ = (
        "_host",
        "_rng",
        "count",
        "failed_at",
        "failures",
        "interval",
        "name",
        "probability",
        "space",
        "task_filter",
        "times",
        "verbose",
    )

    def __init__(self, name: str, host: Kernel, rng: random.Random) -> None:
        self._host = host
        self._rng = rng
        self.name = name
        self.probability = 0
        self.interval = 1
        self.times = 1
        self.space = 0
        self.verbose = 2
        self.task_filter = False
        self.count = 0
        self.failures = 0
        self.failed_at: tuple[Site, ...] = ()

    def should_fail(self, size: int, *, nowarn: bool = False) -> bool:
        """Tell whether a request fails. Constant time; may be called in any context.

        Parameters
        ----------
        size : int
            What the request takes of `space`: bytes, or pages.
        nowarn : bool, optional
            Whether to say nothing about it (the request has ``__GFP_NOWARN``).

        Source: lib/fault-inject.c:should_fail_ex @6.1.192
        """
        in_task = not self._host.preempt_count & (_HARDIRQ_NMI_MASK | _SOFTIRQ_OFFSET)
        task = self._host.current
        if in_task and task.fail_nth:
            task.fail_nth -= 1
            return task.fail_nth == 0 and self.fail(nowarn=nowarn)
        if self.probability == 0:
            return False
        if self.task_filter and not (in_task and task.make_it_fail):
            return False
        if self.times == 0:
            return False
        if self.space > size:
            self.space -= size
            return False
        if self.interval > 1:
            self.count += 1
            if self.count % self.interval:
                return False
        # prandom_u32_max(100): no modulo, the upper half of a product
        if self.probability <= self._rng.getrandbits(32) * 100 >> 32:
            return False
        return self.fail(nowarn=nowarn)

    def fail(self, *, nowarn: bool = False) -> bool:
        """Make a request fail, whatever the attributes say: note it, say so, and return True."""
        self.failed_at = stack_sites()
        if not nowarn:
            self._dump()
        if self.times > 0:
            self.times -= 1
        self.failures += 1
        return True

    def _dump(self) -> None:
        """Say that a failure is on its way.

        Source: lib/fault-inject.c:fail_dump @6.1.192
        """
        if self.verbose <= 0:
            return
        printk = self._host.printk.printk
        printk(
            "FAULT_INJECTION: forcing a failure.\n"
            f"name {self.name}, interval {self.interval}, probability {self.probability},"
            f" space {self.space}, times {self.times}",
            _KERN_NOTICE,
        )
        if self.verbose > 1:
            printk("\n".join(dump_stack(self._host)), _KERN_WARNING)

    def configure(self, **attributes: int | bool) -> None:
        """Set several attributes at once, by the names of the debugfs files with ``_`` for ``-``.

        Raises
        ------
        UsageError
            If there is no such attribute, or the kernel would not take the value. Nothing is set then.
        """
        for name, value in attributes.items():
            self._check(name, value)
        for name, value in attributes.items():
            setattr(self, name, value)

    #: Attributes that can be set, with the least and the greatest value that the kernel takes.
    limits: ClassVar[Mapping[str, tuple[int, int]]] = {
        "probability": (0, _LONG_MAX),
        "interval": (0, _LONG_MAX),
        "times": (_INT_MIN, _INT_MAX),
        "space": (_INT_MIN, _INT_MAX),
        "verbose": (0, _LONG_MAX),
        "task_filter": (0, 1),
    }

    def _check(self, name: str, value: object) -> None:
        if name not in self.limits:
            raise UsageError(f"{self.name} has no attribute {name!r}", remedy=f"there are {', '.join(self.limits)}")
        low, high = self.limits[name]
        if not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{self.name}: {name} cannot be {value!r}", remedy=f"give a number from {low} to {high}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.limits:
            self._check(name, value)
            value = bool(value) if self.limits[name][1] == 1 else int(value)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in self.limits)
        return f"<{self.name}: {shown}>"


def setup_fault_attr(attr: FaultAttr, text: str) -> bool:
    """Set an attribute from its boot option: ``interval,probability,space,times``.

    Returns
    -------
    bool
        Whether the text was understood; if not, the kernel says so and goes on.

    Source: lib/fault-inject.c:setup_fault_attr @6.1.192
    """
    match = _ARGUMENTS.match(text)
    if match is None:
        attr._host.printk.printk("FAULT_INJECTION: failed to parse arguments", _KERN_WARNING)
        return False
    attr.interval, attr.probability, attr.space, attr.times = (int(word) for word in match.groups())
    return True


class Failslab(FaultAttr):
    """Failing requests for objects of slab caches, kmalloc's up to 8 KiB among them.

    Attributes
    ----------
    ignore_gfp_wait : bool
        Whether requests that may sleep never fail (the default).
    cache_filter : bool
        Whether only requests to `caches` fail.
    caches : set of str
        Names of caches.

    Source: mm/failslab.c @6.1.192
    Differs: the kernel marks caches with SLAB_FAILSLAB, a flag that only kernels built with this feature have.
    """

    __slots__ = ("cache_filter", "caches", "ignore_gfp_wait")

    def __init__(self, host: Kernel, rng: random.Random) -> None:
        super().__init__("failslab", host, rng)
        self.ignore_gfp_wait = True
        self.cache_filter = False
        self.caches: set[str] = set()

    limits = {**FaultAttr.limits, "ignore_gfp_wait": (0, 1), "cache_filter": (0, 1)}  # noqa: RUF012

    def should_failslab(self, cache: FaultCache, gfp: int) -> bool:
        """Tell whether a request for an object of `cache` fails.

        Source: mm/failslab.c:__should_failslab @6.1.192
        """
        if gfp & _NOFAIL:
            return False
        if self.ignore_gfp_wait and gfp & _DIRECT_RECLAIM:
            return False
        if self.cache_filter and cache.name not in self.caches:
            return False
        return self.should_fail(cache.object_size, nowarn=bool(gfp & _NOWARN))


class FailPageAlloc(FaultAttr):
    """Failing requests for blocks of pages.

    Attributes
    ----------
    ignore_gfp_wait : bool
        Whether requests that may sleep never fail (the default).
    ignore_gfp_highmem : bool
        Whether requests that take high memory never fail (the default).
    min_order : int
        Smallest order that fails; 1 by default.

    Source: mm/page_alloc.c:fail_page_alloc @6.1.192
    """

    __slots__ = ("ignore_gfp_highmem", "ignore_gfp_wait", "min_order")

    def __init__(self, host: Kernel, rng: random.Random) -> None:
        super().__init__("fail_page_alloc", host, rng)
        self.ignore_gfp_wait = True
        self.ignore_gfp_highmem = True
        self.min_order = 1

    limits = {  # noqa: RUF012
        **FaultAttr.limits,
        "ignore_gfp_wait": (0, 1),
        "ignore_gfp_highmem": (0, 1),
        "min_order": (0, 0xFFFFFFFF),
    }

    def should_fail_alloc_page(self, gfp: int, order: int) -> bool:
        """Tell whether a request for 2**`order` pages fails.

        Source: mm/page_alloc.c:__should_fail_alloc_page @6.1.192
        """
        if order < self.min_order:
            return False
        if gfp & _NOFAIL:
            return False
        if self.ignore_gfp_highmem and gfp & _HIGHMEM:
            return False
        if self.ignore_gfp_wait and gfp & _DIRECT_RECLAIM:
            return False
        return self.should_fail(1 << order, nowarn=bool(gfp & _NOWARN))


class FaultInjection(Aid):
    """Everything of one machine that can be made to fail.

    Objects are refused as a debugging aid of the kernel, pages inside the page allocator
    (:mod:`kmem.mm.page_watch`), so that slabs and ``vmalloc()`` fail for want of pages, too.

    Parameters
    ----------
    host : Kernel
        The running kernel.
    seed : int
        Seed of chance.
    cmdline : str, optional
        Kernel command line; ``failslab=`` and ``fail_page_alloc=`` count.

    Attributes
    ----------
    failslab : Failslab
    fail_page_alloc : FailPageAlloc
    countdown : int
        Requests of any kind and of all tasks until one is made to fail; 0: none is. Unlike the
        kernel's :attr:`fail_nth` it counts whatever may fail, and asks for no other attribute.
    counted_down : FaultAttr or None
        What the request was of that the last countdown made fail.
    """

    def __init__(self, host: Kernel, seed: int = 0, cmdline: str = "") -> None:
        self._host = host
        self.countdown = 0
        self.counted_down: FaultAttr | None = None
        rng = random.Random(f"fault injection {seed}")
        self.failslab = Failslab(host, rng)
        self.fail_page_alloc = FailPageAlloc(host, rng)
        for word in cmdline.split():
            option, _, value = word.partition("=")
            if option in ("failslab", "fail_page_alloc"):
                setup_fault_attr(getattr(self, option), value)

    @property
    def failures(self) -> int:
        """Requests that were made to fail so far."""
        return self.failslab.failures + self.fail_page_alloc.failures

    def _counted_down(self, gfp: int) -> bool:
        """Count a request that may fail; whether it is the one."""
        if not self.countdown or gfp & _NOFAIL:
            return False
        self.countdown -= 1
        return self.countdown == 0

    def should_failslab(self, cache: FaultCache, gfp: int) -> bool:
        """Tell whether a request for an object fails; see :meth:`Failslab.should_failslab`."""
        if self._counted_down(gfp):
            self.counted_down = self.failslab
            return self.failslab.fail(nowarn=bool(gfp & _NOWARN))
        return self.failslab.should_failslab(cache, gfp)

    def should_fail_page(self, gfp: int, order: int) -> bool:
        """Tell whether a request for pages fails; see :meth:`FailPageAlloc.should_fail_alloc_page`."""
        if self._counted_down(gfp):
            self.counted_down = self.fail_page_alloc
            return self.fail_page_alloc.fail(nowarn=bool(gfp & _NOWARN))
        return self.fail_page_alloc.should_fail_alloc_page(gfp, order)

    @property
    def fail_nth(self) -> int:
        """Requests of the current task until one is made to fail, that one included; 0: none is.

        Writing n makes the n-th request from now on fail. It counts those
        requests that reach the question (so not those that may sleep, unless
        ``ignore_gfp_wait`` is off); after the failure it reads 0.

        Source: fs/proc/base.c:proc_fail_nth_write @6.1.192
        """
        nth: int = self._host.current.fail_nth
        return nth

    @fail_nth.setter
    def fail_nth(self, nth: int) -> None:
        if not isinstance(nth, int) or not 0 <= nth <= _INT_MAX:
            raise UsageError(f"fail-nth cannot be {nth!r}", remedy="give a number from 0 to 2147483647")
        self._host.current.fail_nth = nth

    def everything(self) -> None:
        """Let requests of every kind and size fail: those that may sleep, high memory, single pages."""
        self.failslab.ignore_gfp_wait = False
        self.fail_page_alloc.configure(ignore_gfp_wait=False, ignore_gfp_highmem=False, min_order=0)


class FailingAllocator:
    """An allocator whose next calls fail; meant for a mempool's ``alloc``.

    It shows whether code lives on the pool's reserve alone.

    Parameters
    ----------
    alloc : callable
        What allocates otherwise.
    times : int, optional
        How many calls return None; -1 for all.

    Attributes
    ----------
    times : int
        How many more will; can be set.
    """

    def __init__(self, alloc: Callable[..., Any], times: int = -1) -> None:
        self._alloc = alloc
        self.times = times

    def __call__(self, *args: Any) -> Any:
        """Return None while calls are to fail, else what the allocator returns."""
        if self.times:
            self.times -= self.times > 0
            return None
        return self._alloc(*args)


class _Pool(Protocol):
    alloc: Callable[..., Any]


def fail_mempool(pool: _Pool, times: int = -1) -> FailingAllocator:
    """Make the next `times` calls of a memory pool's allocator fail, so that the pool lives on its reserve.

    Parameters
    ----------
    pool : Mempool
    times : int, optional
        How many calls; -1 for all, 0 for none any more.

    Returns
    -------
    FailingAllocator
        Stands in front of the pool's allocator from now on.

    Raises
    ------
    UsageError
        `times` is less than -1.
    """
    if times < -1:
        raise UsageError(f"{times} calls cannot fail", remedy="give a number of calls, or -1 for all")
    alloc = pool.alloc
    if not isinstance(alloc, FailingAllocator):
        alloc = FailingAllocator(alloc, 0)
        pool.alloc = alloc
    alloc.times = times
    return alloc
