# SPDX-License-Identifier: GPL-2.0-only
"""The running kernel: what a call of the kernel's API finds around it.

Kernel code does not say which machine it runs on.  The functions of the API
(``kmalloc()``, ``alloc_pages()`` and all others of :mod:`kmem.linux`) act on
the *current* kernel: that of the innermost ``with machine:`` block of the
thread.  :class:`Kernel` holds its parts, and the context that the code runs
in: which task, and whether it may sleep.

A fast path makes one test of :attr:`Kernel.watch`, which is 0 as long as the
machine runs, sleeping is allowed and no debugging aid listens.  Everything
else is behind that test.

Source: include/linux/preempt.h, include/linux/sched/mm.h:might_alloc @6.1.192
Differs: one kernel at a time runs in a thread, and only one CPU of it.
"""

import operator
import threading

import cython
from cython.cimports.kmem.mm.page_alloc import GFP_DIRECT_RECLAIM_BIT

from kmem.errors import KernelWarning, StateError, UsageError
from kmem.mm.aids import Aid

#: What parts of ``preempt_count`` mean. Source: include/linux/preempt.h @6.1.192
PREEMPT_MASK = 0x000000FF
SOFTIRQ_MASK = 0x0000FF00
HARDIRQ_MASK = 0x000F0000

_PAGE_SHIFT = cython.declare(cython.uint, 12)


@cython.final
@cython.cclass
class Kernel:
    """The kernel of one machine, as code that runs in it sees it.

    Parameters
    ----------
    page_alloc : kmem.mm.page_alloc.PageAllocator
        Frames.
    slub : kmem.mm.slub.Slub
        Objects, named by physical addresses.
    caches : kmem.mm.kmem_cache.KmemCaches
        The list of slab caches.
    arch : str
        ``"x86_64"`` or ``"i386"``.
    page_offset : int
        Kernel address of physical address 0.
    max_low_pfn : int
        First frame behind the linear map of memory.
    reports : {"raise", "log"}
        Whether a warning of the kernel's is an exception, too; oopses and panics always are.

    Attributes
    ----------
    vmalloc, ram, layout, init_mm, highmem, printk, clock, current, sched, faults, leaks : object
        Parts that the machine puts in: vmalloc area, bytes of memory, address space layout, the kernel's page
        table, places for pages of high memory, log, clock, running task, scheduler, fault injection and leak
        detection. None where there is none.
    owner : object
        The machine.
    reclaim : kmem.mm.reclaim.Reclaim or None
        LRU lists, page cache, swap, and who frees memory when it runs short.
    vm : kmem.mm.vm.Vm or None
        Virtual memory of processes; None until the first process is made.
    preempt_count : int
        In the kernel's layout: disabled preemption, softirq and hardirq counts.
    irqs_disabled : bool
        Whether interrupts are off.
    rcu_nesting : int
        RCU read-side sections that the running task is in.
    init_on_alloc, init_on_free : bool
        Whether fresh, and freed, memory is zeroed (``init_on_alloc=``, ``init_on_free=``).
    taint : int
        Bits of taint: what reports say after ``Tainted:``.
    kmem_caches : dict
        Index of a slab cache -> the KmemCache that names it.
    page_address_map : dict
        Frame of high memory -> its address while it is mapped.
    """

    def __init__(self, page_alloc, slub, caches, *, arch, page_offset, max_low_pfn, reports="raise"):
        if reports not in ("raise", "log"):
            raise UsageError(f"reports={reports!r}", remedy="'raise' or 'log'")
        self.page_alloc = page_alloc
        self.slub = slub
        self.caches = caches
        self.arch = arch
        self.bits_per_long = 32 if arch == "i386" else 64
        self.ulong_max = 0xFFFFFFFF if arch == "i386" else 0xFFFFFFFFFFFFFFFF
        self.page_offset = page_offset
        self.max_low_pfn = max_low_pfn
        self.lowmem_bytes = self.max_low_pfn << _PAGE_SHIFT
        self.reports = reports
        self.kmem_caches = {}
        self.page_address_map = {}
        self.once = {}
        self.taint = 0
        self._aids = ()
        self.watch = 0
        self._preempt_count = 0
        self._irqs_disabled = False
        self._rcu_nesting = 0

    # ------------------------------------------------------------------ context

    @property
    def preempt_count(self):
        """Why the running code must not sleep, in the kernel's layout; 0 if it may."""
        return self._preempt_count

    @preempt_count.setter
    def preempt_count(self, value):
        if not 0 <= value < 1 << 32:
            raise UsageError(f"preempt_count {value}", remedy="more was enabled than had been disabled")
        self._preempt_count = value
        self._watch_context()

    @property
    def irqs_disabled(self):
        """Whether interrupts are off."""
        return self._irqs_disabled

    @irqs_disabled.setter
    def irqs_disabled(self, value):
        self._irqs_disabled = value
        self._watch_context()

    @property
    def rcu_nesting(self):
        """How many RCU read-side sections the running task is in."""
        return self._rcu_nesting

    @rcu_nesting.setter
    def rcu_nesting(self, value):
        self._rcu_nesting = value
        self._watch_context()

    def _watch_context(self):
        if self._preempt_count or self._irqs_disabled or self._rcu_nesting:
            self.watch |= WATCH_ATOMIC
        else:
            self.watch &= ~cython.cast(cython.uint, WATCH_ATOMIC)
        return 0

    def watched(self, gfp):
        """Do what a call has to do first that found `watch` set.

        Source: include/linux/sched/mm.h:might_alloc @6.1.192
        """
        if self.watch & WATCH_CLOSED:
            raise _shut_down()
        if self.watch & WATCH_ATOMIC and gfp & GFP_DIRECT_RECLAIM_BIT:
            from kmem.mm.might_sleep import might_sleep_report

            might_sleep_report(self, "include/linux/sched/mm.h", 274)
        return self.watch & WATCH_AIDS

    def might_sleep(self, gfp=0x400):
        """Report it if a call with these flags may sleep, and the running code must not.

        Source: include/linux/sched/mm.h:might_alloc @6.1.192
        """
        if self.watch:
            self.watched(gfp)

    # ------------------------------------------------------------------ debugging aids

    @property
    def aids(self):
        """The debugging aids that listen, in the order in which they were added."""
        return self._aids

    def add_aid(self, aid):
        """Let a debugging aid hear of every call from now on."""
        if not isinstance(aid, Aid):
            raise UsageError(f"{type(aid).__name__} is no debugging aid", remedy="derive it from kmem.mm.aids.Aid")
        self._aids = (*[known for known in self._aids if known is not aid], aid)
        self.watch |= WATCH_AIDS

    def remove_aid(self, aid):
        """Let a debugging aid hear nothing any more."""
        self._aids = tuple([known for known in self._aids if known is not aid])
        if not self._aids:
            self.watch &= ~cython.cast(cython.uint, WATCH_AIDS)

    def should_failslab(self, cache, gfp):
        """Ask the aids whether a request for an object is to fail."""
        return any(aid.should_failslab(cache, gfp) for aid in self._aids)

    def tell_slab_alloc(self, addr, size, cache, gfp):
        """Tell the aids of an object."""
        for aid in self._aids:
            aid.slab_alloc(addr, size, cache, gfp)

    def tell_slab_free(self, addr):
        """Tell the aids of an object that goes back."""
        for aid in self._aids:
            aid.slab_free(addr)

    def tell_page_alloc(self, pfn, order, gfp):
        """Tell the aids of a block of pages."""
        for aid in self._aids:
            aid.page_alloc(pfn, order, gfp)

    def tell_page_free(self, pfn, order):
        """Tell the aids of a block of pages that goes back."""
        for aid in self._aids:
            aid.page_free(pfn, order)

    # ------------------------------------------------------------------ memory

    @property
    def ram(self):
        """The bytes of physical memory."""
        return self._ram

    @ram.setter
    def ram(self, ram):
        self._ram = ram
        self.ram_base = 0 if ram is None else ram.base

    # ------------------------------------------------------------------ reports

    def report(self, error):
        """Print a report to the log, and raise it if it is fatal or ``reports == "raise"``."""
        self.printk.printk(error.text)
        self.nr_reports += 1
        if self.reports == "raise" or not isinstance(error, KernelWarning):
            raise error

    def close(self):
        """End this kernel: every later call is refused."""
        self.watch |= WATCH_CLOSED
        while self in _blocks():
            leave_kernel(self)
        for cache in self.kmem_caches.values():
            cache.forget()
        ram = self._ram
        self.ram = None
        self.page_alloc.detach_ram()
        self.slub.ram_base = 0  # whoever still holds the caches finds objects without bytes
        if ram is not None:
            ram.close()

    @property
    def closed(self):
        """Whether the machine has been shut down."""
        return (self.watch & WATCH_CLOSED) != 0

    # ------------------------------------------------------------------ the linear map

    def phys_to_virt(self, phys):
        """Return the kernel address of a physical address in low memory.

        Source: arch/x86/include/asm/io.h:phys_to_virt @6.1.192
        """
        if not 0 <= phys < self.lowmem_bytes:
            raise UsageError(f"physical address {phys:#x} is not in low memory", remedy="map it with kmap() or vmap()")
        return self.page_offset + phys

    def virt_to_phys(self, addr):
        """Return the physical address behind a kernel address of the linear map.

        Source: arch/x86/include/asm/io.h:virt_to_phys @6.1.192
        """
        if not self.virt_addr_valid(addr):
            raise UsageError(f"{addr:#x} is no address of the linear map", remedy="use a kernel address of low memory")
        return addr - self.page_offset

    def virt_addr_valid(self, addr):
        """Whether an address lies in the linear map.

        Source: arch/x86/mm/physaddr.c:__virt_addr_valid @6.1.192
        """
        return self.page_offset <= addr and addr - self.page_offset < self.lowmem_bytes

    def __repr__(self):
        return f"<Kernel {self.arch}{' (shut down)' if self.watch & WATCH_CLOSED else ''}>"


def _shut_down():
    return StateError("the machine has been shut down", remedy="boot another one")


# _kernel and _thread, in the .pxd: the kernel that was asked for last, and the thread that asked.
_kernel = None
_thread = 0
_threads = threading.local()


@cython.cfunc
def _blocks():
    """The kernels whose blocks this thread is in, outermost first."""
    try:
        return _threads.kernels
    except AttributeError:
        _threads.kernels = []
        return _threads.kernels


@cython.cfunc
def _refresh():
    """Make the innermost kernel of this thread the one that is found at once."""
    global _kernel, _thread
    blocks = _blocks()
    _kernel = blocks[len(blocks) - 1] if blocks else None
    _thread = PyThread_get_thread_ident()


def bad_number(value, what, largest):
    """Refuse a number that no word of the kernel holds; return it if it is one after all."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is {type(value).__name__}, not an integer") from None
    if not 0 <= number <= largest:
        raise UsageError(f"{what} {number:#x} does not fit: it is a number from 0 to {largest:#x}")
    return number


def running():
    """Return the kernel of the innermost block of this thread."""
    if _thread != PyThread_get_thread_ident():
        _refresh()
    if _kernel is None:
        raise StateError("no machine is running here", remedy="use 'with Machine.boot(...)'")
    return _kernel


def current_kernel():
    """Return the kernel of the innermost ``with machine:`` block around the caller, in this thread.

    Raises
    ------
    StateError
        If there is none.
    """
    return running()


def swap_blocks(blocks: list):
    """Put the blocks of another task in place of those that this thread is in, and return the latter.

    Parameters
    ----------
    blocks : list of Kernel
        Outermost first.
    """
    before = _blocks()
    _threads.kernels = blocks
    _refresh()
    return before


def enter_kernel(kernel: Kernel):
    """Make a kernel the current one of this thread."""
    _blocks().append(kernel)
    _refresh()


def leave_kernel(kernel: Kernel):
    """Undo the latest :func:`enter_kernel` of this kernel in this thread."""
    blocks = _blocks()
    for place in range(len(blocks) - 1, -1, -1):
        if blocks[place] is kernel:
            del blocks[place]
            break
    _refresh()


@cython.final
@cython.cclass
class BoundCall:
    """A function of the API together with the kernel that it acts on: ``m.kmalloc``.

    Parameters
    ----------
    kernel : Kernel
    function : callable
        A function that acts on the current kernel.
    """

    def __init__(self, kernel: Kernel, function):
        self.kernel = kernel
        self.function = function

    def __call__(self, *args, **kwargs):
        if self.kernel.watch & WATCH_CLOSED:
            raise _shut_down()
        enter_kernel(self.kernel)
        try:
            return self.function(*args, **kwargs)
        finally:
            leave_kernel(self.kernel)

    def __getattr__(self, name: str):
        """Name, signature and module are the function's."""
        if name == "__wrapped__":
            return self.function
        return getattr(self.function, name)

    def __repr__(self):
        return f"<{self.function.__name__} of {self.kernel.owner!r}>"
