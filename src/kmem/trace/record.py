# SPDX-License-Identifier: GPL-2.0-only
"""Recording ``kmem:*`` events of the running kernel through tracefs.

A recording has a trace instance of its own: its buffers, events and filters
are nobody else's, and the tracing that goes on beside it is not touched.  A
guard process waits for the recorder to end, in whatever way, and then removes
the instance.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from kmem import __version__
from kmem.errors import InputError, UsageError
from kmem.trace.dat_writer import DatContents, write_dat

__all__ = ["Recorder", "copy_state", "find_tracefs"]

_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_PROC = ("buddyinfo", "pagetypeinfo", "zoneinfo", "slabinfo", "vmallocinfo", "meminfo", "iomem", "vmstat", "cmdline")
_SLAB = (
    "object_size",
    "slab_size",
    "order",
    "objs_per_slab",
    "align",
    "min_partial",
    "cpu_partial",
    "objects",
    "slabs",
)
_PAUSE_S = 0.02


def find_tracefs() -> Path:
    """Return where tracefs is mounted.

    Raises
    ------
    InputError
        It is not, or this user may not use it.
    """
    for place in _PLACES:
        path = Path(place)
        try:
            if (path / "instances").is_dir():
                return path
        except PermissionError:
            break
    else:
        raise InputError(
            "tracefs is not mounted", file=_PLACES[0], remedy=f"as root: mount -t tracefs nodev {_PLACES[0]}"
        )
    raise InputError("this user may not trace", file=_PLACES[0], remedy="run it as root")


def copy_state(into: Path) -> int:
    """Copy what ``/proc`` and ``/sys/kernel/slab`` show of memory.

    Parameters
    ----------
    into : Path
        Folder, made if it is not there.

    Returns
    -------
    int
        Files copied; those that cannot be read are left out.
    """
    into.mkdir(parents=True, exist_ok=True)
    copied = 0
    for name in _PROC:
        with contextlib.suppress(OSError):
            (into / name).write_bytes((Path("/proc") / name).read_bytes())
            copied += 1
    caches = Path("/sys/kernel/slab")
    for cache in sorted(caches.iterdir()) if caches.is_dir() else ():
        for name in _SLAB:
            with contextlib.suppress(OSError):
                text = (cache / name).read_bytes()
                (into / "slab" / cache.name).mkdir(parents=True, exist_ok=True)
                (into / "slab" / cache.name / name).write_bytes(text)
                copied += 1
    return copied


class Recorder:
    """A recording; use it with ``with``.

    Parameters
    ----------
    tracefs : Path
    buffer_kib : int
        Size of each CPU's buffer.

    Attributes
    ----------
    nr_cpus : int
        CPUs with a buffer.
    bytes : int
        Pages read, in bytes.

    Raises
    ------
    InputError
        The kernel does not allow it.
    """

    def __init__(self, tracefs: Path, buffer_kib: int = 8192) -> None:
        self.tracefs = tracefs
        self.instance = tracefs / "instances" / f"kmem-{os.getpid()}"
        self.buffer_kib = buffer_kib
        self.bytes = 0
        self.nr_cpus = 0
        self._stopping = False
        self._guard = -1
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._pipes: list[int] = []
        self._files: list[int] = []
        header = self._read(tracefs / "events" / "header_page")
        found = re.search(rb"data;\s*offset:(\d+);\s*size:(\d+);", header)
        self.page_bytes = int(found[1]) + int(found[2]) if found else 4096

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", file=path, remedy="run it as root") from None

    def _write(self, name: str, text: str) -> None:
        path = self.instance / name
        try:
            path.write_text(text)
        except OSError as error:
            raise InputError(f"cannot be set to {text!r}: {error.strerror or error}", file=path) from None

    def __enter__(self) -> Recorder:
        try:
            self.instance.mkdir()
        except OSError as error:
            raise InputError(
                f"cannot be made: {error.strerror or error}", file=self.instance, remedy="run it as root"
            ) from None
        self._guard = self._start_guard()
        try:
            self._write("tracing_on", "0")
            self._write("buffer_size_kb", str(self.buffer_kib))
            self._folder = tempfile.TemporaryDirectory(prefix="kmem-")
            cpus = sorted((self.instance / "per_cpu").glob("cpu*"), key=lambda path: int(path.name[3:]))
            self.nr_cpus = len(cpus)
            for cpu in cpus:
                self._pipes.append(os.open(cpu / "trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK))
                self._files.append(os.open(Path(self._folder.name) / cpu.name, os.O_CREAT | os.O_WRONLY, 0o600))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_guard(self) -> int:
        """Start the process that removes the instance when this one is gone; returns what holds it back."""
        reading, writing = os.pipe()
        child = os.fork()
        if child:
            os.close(reading)
            self._guard_pid = child
            return writing
        try:
            os.close(writing)
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.read(reading, 1)
            for _ in range(100):
                try:
                    (self.instance / "events" / "enable").write_text("0")
                    self.instance.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)  # its files are still open
        finally:
            os._exit(0)

    def __exit__(self, *unused: object) -> None:
        for number in self._pipes + self._files:
            os.close(number)
        self._pipes, self._files = [], []
        if self._guard >= 0:
            os.close(self._guard)
            os.waitpid(self._guard_pid, 0)
            self._guard = -1
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _begin(self, pid: int | None) -> None:
        if pid is not None:
            self._write("options/event-fork", "1")
            self._write("set_event_pid", str(pid))
        self._write("events/kmem/enable", "1")
        self._write("tracing_on", "1")

    def run(self, command: Sequence[str]) -> int:
        """Run a command and record it and its children until it ends; returns its exit status."""
        if shutil.which(command[0]) is None:
            raise UsageError(f"no program {command[0]!r}")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            # wait until recording has begun
            os.close(writing)
            os.read(reading, 1)
            try:
                os.execvp(command[0], list(command))
            finally:
                os._exit(127)
        os.close(reading)
        status = 0

        def ended() -> bool:
            nonlocal status
            done, found = os.waitpid(child, os.WNOHANG)
            status = found if done else status
            return bool(done)

        try:
            self._begin(child)
            os.close(writing)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        with self._until_told():
            self._loop(ended)
        return os.waitstatus_to_exitcode(status)

    def watch(self, pid: int | None) -> None:
        """Record a process and its future children, or everything, until a signal or the end of the process."""
        if pid is not None and not Path(f"/proc/{pid}").exists():
            raise UsageError(f"no process {pid}")
        self._begin(pid)
        with self._until_told():
            self._loop(lambda: self._stopping or (pid is not None and not Path(f"/proc/{pid}").exists()))

    @contextlib.contextmanager
    def _until_told(self) -> Iterator[None]:
        """While recording, signals end the recording and not the program."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stopping = True

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _loop(self, ended: Callable[[], bool]) -> None:
        """Read the buffers until `ended` says so, then stop and read what is left."""
        while not ended():
            if not self._drain():
                time.sleep(_PAUSE_S)
        self._write("tracing_on", "0")
        self._drain()

    def _drain(self) -> int:
        """Read what is there; returns how many bytes."""
        total = 0
        for pipe, file in zip(self._pipes, self._files, strict=True):
            for _ in range(4096):
                try:
                    page = os.read(pipe, self.page_bytes)
                except BlockingIOError:
                    break
                if not page:
                    break
                os.write(file, page.ljust(self.page_bytes, b"\0"))
                total += self.page_bytes
        self.bytes += total
        return total

    def save(self, path: Path) -> None:
        """Write everything recorded as a trace.dat; the file appears when it is complete."""
        assert self._folder is not None
        events = self.tracefs / "events"
        contents = DatContents(
            self._read(events / "header_page"),
            self._read(events / "header_event"),
            [self._read(each) for each in sorted((events / "ftrace").glob("*/format"))],
            {"kmem": [self._read(each) for each in sorted((events / "kmem").glob("*/format"))]},
            kallsyms=_optional(Path("/proc/kallsyms")),
            saved_cmdlines=_optional(self.tracefs / "saved_cmdlines"),
            printk_formats=_optional(self.tracefs / "printk_formats"),
            cpu_stats=[
                f"CPU: {cpu}\n".encode() + _optional(self.instance / "per_cpu" / f"cpu{cpu}" / "stats")
                for cpu in range(self.nr_cpus)
            ],
            version=f"kmem {__version__}",
        )
        cpus = sorted(Path(self._folder.name).iterdir(), key=lambda each: int(each.name[3:]))
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                try:
                    write_dat(file, contents, cpus, self.page_bytes)
                    file.flush()
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", file=path) from None


def _optional(path: Path) -> bytes:
    """A file's content, nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
