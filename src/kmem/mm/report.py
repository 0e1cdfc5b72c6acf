# SPDX-License-Identifier: GPL-2.0-only
"""Reports of the kernel that are put together line by line: warnings, bugs, oopses, taint and stack dumps.

A :class:`Report` collects the lines of one report with their log levels, and
is then delivered in one piece; so a report is never cut in two by an exception.

Source: kernel/panic.c, lib/bug.c, lib/dump_stack.c, lib/hexdump.c, arch/x86/kernel/dumpstack.c,
arch/x86/kernel/traps.c, arch/x86/mm/fault.c @6.1.192
Differs: a call trace shows the Python code that called, without offsets; there are no registers and no
code bytes to show; pointers are never hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kmem.mm.callers import stack
from kmem.mm.printk import KERN_ALERT, KERN_ERR, KERN_WARNING

__all__ = [
    "KERN_CRIT",
    "RELEASE",
    "TAINT_BAD_PAGE",
    "TAINT_DIE",
    "TAINT_WARN",
    "Context",
    "Report",
    "hex_dump",
    "print_info",
    "print_tainted",
]

KERN_CRIT = 2
#: What ``uname -r`` prints on the kernel that is followed.
RELEASE = "6.1.192"

# Letters of set and clear flags. Source: kernel/panic.c:taint_flags @6.1.192
_TAINT = (
    *(("P", "G"), ("F", " "), ("S", " "), ("R", " "), ("M", " "), ("B", " "), ("U", " "), ("D", " "), ("A", " ")),
    *(("W", " "), ("C", " "), ("I", " "), ("O", " "), ("E", " "), ("L", " "), ("K", " "), ("X", " "), ("T", " ")),
    ("N", " "),
)
TAINT_BAD_PAGE = 5
TAINT_DIE = 7
TAINT_WARN = 9


def print_tainted(taint: int) -> str:
    """Return what a report says about taint.

    Examples
    --------
    >>> print_tainted(0)
    'Not tainted'
    >>> print_tainted(1 << TAINT_BAD_PAGE | 1 << TAINT_WARN)
    'Tainted: G    B   W         '

    Source: kernel/panic.c:print_tainted @6.1.192
    """
    if not taint:
        return "Not tainted"
    return "Tainted: " + "".join(letters[not taint >> bit & 1] for bit, letters in enumerate(_TAINT))


def print_info(cpu: int, pid: int, comm: str, taint: int, release: str) -> str:
    """Return the line of a report that says where, who and on what kernel.

    Source: lib/dump_stack.c:dump_stack_print_info @6.1.192
    """
    return f"CPU: {cpu} PID: {pid} Comm: {comm[:20]} {print_tainted(taint)} {release}"


class _Tainted(Protocol):
    """What can be tainted: a kernel."""

    taint: int


@dataclass(slots=True)
class _Untainted:
    """Stands for a kernel where there is none."""

    taint: int = 0


def hex_dump(prefix: str, address: int, data: bytes | memoryview, digits: int) -> Iterator[str]:
    """Yield a dump of bytes, 16 a line, with addresses and characters.

    Parameters
    ----------
    prefix : str
        What each line begins with.
    address : int
        Address of the first byte.
    data : bytes
    digits : int
        Hexadecimal digits of an address: 16 or 8.

    Source: lib/hexdump.c:print_hex_dump @6.1.192
    """
    for start in range(0, len(data), 16):
        row = bytes(data[start : start + 16])
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{prefix}{address + start:0{digits}x}: {row.hex(' '):<47}  {characters}"


@dataclass(slots=True)
class Context:
    """Who runs where, as reports say it.

    Attributes
    ----------
    cpu, pid, jiffies : callable
        Return the running CPU, the task's number and the time in ticks.
    comm : callable
        Returns the task's name.
    stack : callable
        Returns the lines of a call trace.
    release : str
        Kernel release and version.
    hardware : str
        Name of the machine; empty if reports do not name it.
    kernel : object
        Whose ``taint`` it is.
    lock_debugging : bool
        Whether the kernel still trusts its lock debugging, which ends with the first damage.
    die_counter : int
        Oopses so far.
    """

    cpu: Callable[[], int] = lambda: 0
    pid: Callable[[], int] = lambda: 1
    comm: Callable[[], str] = lambda: "init"
    jiffies: Callable[[], int] = lambda: 0
    stack: Callable[[], Sequence[str]] = stack
    release: str = f"{RELEASE} #1"
    hardware: str = ""
    kernel: _Tainted = field(default_factory=_Untainted)
    lock_debugging: bool = True
    die_counter: int = 0

    @property
    def taint(self) -> int:
        """Bits of taint."""
        return self.kernel.taint

    @taint.setter
    def taint(self, value: int) -> None:
        self.kernel.taint = value


@dataclass(slots=True)
class Report:
    """The lines of a report while it is being put together.

    Attributes
    ----------
    context : Context
    digits : int
        Hexadecimal digits of an address.
    lines : list of (int, str)
        Log level and text, line by line.
    """

    context: Context
    digits: int = 16
    lines: list[tuple[int, str]] = field(default_factory=list)

    def printk(self, text: str, level: int = KERN_WARNING) -> None:
        """Add lines."""
        self.lines += [(level, line) for line in text.split("\n")]

    def pr_err(self, text: str) -> None:
        """Add lines of an error."""
        self.printk(text, KERN_ERR)

    def pointer(self, address: int) -> str:
        """Return an address as ``%p`` prints it, ``0x`` in front."""
        return f"0x{address:0{self.digits}x}"

    def hex_dump(self, prefix: str, address: int, data: bytes | memoryview, level: int = KERN_ERR) -> None:
        """Add a dump of bytes."""
        for line in hex_dump(prefix, address, data, self.digits):
            self.printk(line, level)

    def add_taint(self, bit: int, *, unreliable: bool) -> None:
        """Taint the kernel; `unreliable` ends lock debugging, which the kernel says once.

        Source: kernel/panic.c:add_taint @6.1.192
        """
        if unreliable and self.context.lock_debugging:
            self.context.lock_debugging = False
            self.printk("Disabling lock debugging due to kernel taint")
        self.context.taint |= 1 << bit

    def print_info(self) -> None:
        """Add the lines that say where, who and on what.

        Source: lib/dump_stack.c:dump_stack_print_info @6.1.192
        """
        context = self.context
        self.printk(print_info(context.cpu(), context.pid(), context.comm(), context.taint, context.release))
        if context.hardware:
            self.printk(f"Hardware name: {context.hardware}")

    def call_trace(self) -> None:
        """Add the call trace."""
        self.printk("Call Trace:")
        if self.digits == 16:
            self.printk(" <TASK>")
        for line in self.context.stack():
            self.printk(f" {line}")
        if self.digits == 16:
            self.printk(" </TASK>")

    def dump_stack(self) -> None:
        """Add who runs, and how the code got here.

        Source: lib/dump_stack.c:dump_stack @6.1.192
        """
        self.print_info()
        self.call_trace()

    def warn(self, file: str, line: int, function: str, message: str = "") -> None:
        """Add a warning.

        Parameters
        ----------
        file, line, function : str, int, str
            Where the condition stands in the kernel.
        message : str
            What ``WARN()`` says besides; nothing for ``WARN_ON()``.

        Source: kernel/panic.c:__warn, warn_slowpath_fmt @6.1.192
        """
        self.printk("------------[ cut here ]------------")
        if message:
            self.printk(message)
        context = self.context
        self.printk(f"WARNING: CPU: {context.cpu()} PID: {context.pid()} at {file}:{line} {function}")
        self.printk("Modules linked in:")
        self.dump_stack()
        self.printk("---[ end trace 0000000000000000 ]---")
        self.add_taint(TAINT_WARN, unreliable=False)

    def bug(self, file: str, line: int) -> None:
        """Add the death by a condition that must not be.

        Source: lib/bug.c:report_bug, arch/x86/kernel/traps.c:handle_invalid_op @6.1.192
        """
        self.printk("------------[ cut here ]------------")
        self.printk(f"kernel BUG at {file}:{line}!", KERN_CRIT)
        self._die("invalid opcode", 0)

    def bad_access(self, address: int, *, write: bool = False) -> None:
        """Add the death by an access of the kernel's to an address where nothing is.

        Source: arch/x86/kernel/traps.c:exc_general_protection, arch/x86/mm/fault.c:show_fault_oops @6.1.192
        Differs: the entries of the page table are not shown.
        """
        if self.digits == 16 and address >> 47 not in (0, 0x1FFFF):
            self._die(f"general protection fault, probably for non-canonical address 0x{address:x}", 0)
            return
        if address < 4096:
            self.printk(f"BUG: kernel NULL pointer dereference, address: {address:0{self.digits}x}", KERN_ALERT)
        else:
            self.printk(f"BUG: unable to handle page fault for address: {address:0{self.digits}x}", KERN_ALERT)
        self.printk(f"#PF: supervisor {'write' if write else 'read'} access in kernel mode", KERN_ALERT)
        code = 2 if write else 0
        self.printk(f"#PF: error_code(0x{code:04x}) - not-present page", KERN_ALERT)
        self._die("Oops", code)

    def _die(self, what: str, code: int) -> None:
        """Add what every oops ends with.

        Source: arch/x86/kernel/dumpstack.c:__die_header, __die_body, oops_end @6.1.192
        """
        self.context.die_counter += 1
        self.printk(f"{what}: {code:04x} [#{self.context.die_counter}] PREEMPT SMP NOPTI")
        self.dump_stack()
        self.printk("Modules linked in:")
        self.printk("---[ end trace 0000000000000000 ]---")
        self.add_taint(TAINT_DIE, unreliable=True)

    def text(self) -> str:
        """Return the report as one text."""
        return "\n".join(line for _, line in self.lines)
