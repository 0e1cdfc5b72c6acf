# SPDX-License-Identifier: GPL-2.0-only
"""A trace decoded once, for many replays: its columns in a file that is mapped.

Unpacking and scanning a trace takes several times as long as replaying it.  Who
replays it again and again writes the columns that a replay looks at to a
temporary file, 56 bytes an event, and maps that.

The file has no name.  It lasts as long as a process has it open, so there is
nothing to clean up, whatever is killed.  Another process of the same user on
the same machine opens it through ``/proc/PID/fd``; that is what a pickled
:class:`DecodedTrace` names.  Where that does not lead to the file (another
machine, the process is gone), the copy has no file, and says so.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from kmem.trace.events import EventBatch, Strings
from kmem.trace.reader import TraceReader, TraceStats
from kmem.trace.scan_columns import COLUMNS

__all__ = ["DecodedTrace", "DecodedTraceWriter"]

#: What is kept, the widest first, so that each is aligned; the rest of a batch says "not known".
_KEPT = (
    *("time_ns", "target", "bytes_req", "bytes_alloc"),
    *("pid", "cache", "call_site", "gfp"),
    *("cpu", "flags", "node"),
    *("event", "order"),
)
_UNKNOWN = {"migratetype": -1, "fallback_migratetype": -1}
_ALIGN = 64
_TOKEN_BYTES = 16
_MOST_MAPPED = 1 << 28  #: larger files are not kept in the process's own memory, which somebody may limit
_SHARE_OF_DISK = 4  #: at most a quarter of what is free


class _Names:
    """The strings behind codes, complete from the beginning."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, code: int, /) -> str:
        return self._names[code]

    def strings(self, start: int = 0) -> list[str]:
        """Return the strings from code `start` on."""
        return self._names[start:]

    def code(self, string: str) -> int:
        """Return the code of a string, a new one if there is none."""
        if not self._codes:
            for code, name in enumerate(self._names):
                self._codes.setdefault(name, code)
        if string not in self._codes:
            self._codes[string] = len(self._names)
            self._names.append(string)
        return self._codes[string]


@dataclasses.dataclass(frozen=True, slots=True)
class _About:
    """What a reader says of its trace, beside the events."""

    path: str
    format: str
    batches: tuple[int, ...]
    caches: tuple[str, ...]
    call_sites: tuple[str, ...]
    pointer_digits: int
    nr_cpus: int
    comments: tuple[str, ...]
    stats: TraceStats


class DecodedTraceWriter:
    """Writes the batches of a reader to a file while they are read.

    Parameters
    ----------
    folder : str, optional
        Where the file lies; by default where temporary files do (``TMPDIR``).

    Notes
    -----
    A file that would take more than a quarter of the free disk, or that cannot
    be written, is given up: :meth:`finish` returns None then.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._batches: list[int] = []
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        self._file: Any = None
        self._room = 0
        try:
            folder = folder if folder is not None else tempfile.gettempdir()
            self._room = shutil.disk_usage(folder).free // _SHARE_OF_DISK
            self._file = tempfile.TemporaryFile(prefix="kmem-", dir=folder)  # noqa: SIM115  closed by finish()
            self._file.write(self._token.ljust(_ALIGN, b"\0"))
        except OSError:
            self.close()

    def __enter__(self) -> DecodedTraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up, unless it is finished."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, batch: EventBatch) -> None:
        """Append a batch. O(events)."""
        if self._file is None or not len(batch):
            return
        self._batches.append(len(batch))
        size = _batch_bytes(len(batch))
        self._room -= size
        try:
            if self._room < 0:
                self.close()
                return
            for name in _KEPT:
                self._file.write(np.ascontiguousarray(getattr(batch, name)).data)
            self._file.write(bytes(size - len(batch) * _EVENT_BYTES))
        except OSError:
            self.close()

    def finish(self, reader: TraceReader) -> DecodedTrace | None:
        """Return the trace; None if there was no room for it.

        Parameters
        ----------
        reader : TraceReader
            Where the batches came from, read to its end.
        """
        if self._file is None or not self._batches:
            return None
        try:
            self._file.flush()
            descriptor = os.dup(self._file.fileno())
        except OSError:
            return None
        finally:
            self.close()
        about = _About(
            path=reader.path,
            format=reader.format,
            batches=tuple(self._batches),
            caches=tuple(reader.strings.caches.strings()),
            call_sites=tuple(reader.strings.call_sites.strings()),
            pointer_digits=reader.pointer_digits,
            nr_cpus=reader.nr_cpus,
            comments=reader.comments,
            stats=reader.stats,
        )
        return DecodedTrace(descriptor, self._token, about)


_EVENT_BYTES = sum(np.dtype(COLUMNS[name]).itemsize for name in _KEPT)


def _batch_bytes(nr_events: int) -> int:
    return -(-nr_events * _EVENT_BYTES // _ALIGN) * _ALIGN


class DecodedTrace:
    """The events of a trace, decoded.

    Made by :class:`DecodedTraceWriter`; may be pickled, and each copy keeps the
    file open.

    Attributes
    ----------
    usable : bool
        Whether the file is there.
    """

    def __init__(self, descriptor: int | None, token: bytes, about: _About) -> None:
        self._token = token
        self._about = about
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)
            # copy on write: compiled code takes its arrays writable, and writes nothing
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (f"/proc/{os.getpid()}/fd/{self._descriptor}", self._token, self._about)

    @property
    def usable(self) -> bool:
        """Whether the file is there."""
        return self._map is not None

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return _ALIGN + sum(map(_batch_bytes, self._about.batches))

    def open(self) -> TraceReader:
        """Return a reader of the events, as :func:`kmem.trace.reader.open_trace` does for the trace itself."""
        assert self._map is not None
        return _DecodedReader(self._about, self._map)


def _reopened(path: str, token: bytes, about: _About) -> DecodedTrace:
    """Unpickle: open the file where another process has it, if that can be."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return DecodedTrace(None, token, about)
    try:
        mine = os.pread(descriptor, len(token), 0) == token
    except OSError:
        mine = False
    if not mine:  # the number now means something else
        os.close(descriptor)
        return DecodedTrace(None, token, about)
    return DecodedTrace(descriptor, token, about)


class _DecodedReader(TraceReader):
    """Hands out the batches of a file of columns."""

    def __init__(self, about: _About, data: mmap.mmap) -> None:
        self.path = about.path
        self.format = about.format
        self._about = about
        self._data = data
        self._done = 0
        self._empty: dict[str, npt.NDArray[Any]] = {
            name: np.array(_UNKNOWN.get(name, 0), dtype) for name, dtype in COLUMNS.items() if name not in _KEPT
        }
        self._empty["gfp_text"] = np.zeros((), np.uint32)
        # a replay may add names of its own: each has its own tables
        nothing = _Names([""])
        self.strings = Strings(
            comms=nothing, caches=_Names(about.caches), call_sites=_Names(about.call_sites), gfps=nothing
        )

    def close(self) -> None:
        """Do nothing: the file belongs to the decoded trace."""

    def __iter__(self) -> Iterator[EventBatch]:
        at = _ALIGN
        for count in self._about.batches:
            columns: dict[str, Any] = {name: np.broadcast_to(value, (count,)) for name, value in self._empty.items()}
            place = at
            for name in _KEPT:
                dtype = np.dtype(COLUMNS[name])
                columns[name] = np.frombuffer(self._data, dtype, count, place)
                place += count * dtype.itemsize
            self._done = at + _batch_bytes(count)
            yield EventBatch(**columns, strings=self.strings)
            if len(self._data) > _MOST_MAPPED:
                self._release(at, self._done)
            at = self._done

    def _release(self, start: int, stop: int) -> None:
        """Let the system take back what has been read; it comes back from the file if it is read again."""
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = stop // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start:
            self._data.madvise(mmap.MADV_DONTNEED, start, stop - start)

    @property
    def progress(self) -> tuple[int, int | None]:
        """Bytes read so far, and of how many."""
        return self._done, len(self._data)

    @property
    def pointer_digits(self) -> int:
        """Digits of the pointers that the kernel itself printed."""
        return self._about.pointer_digits

    @property
    def comments(self) -> tuple[str, ...]:
        """First comment lines of the trace."""
        return self._about.comments

    @property
    def nr_cpus(self) -> int:
        """CPUs of the recorded machine by the trace's own header, 0 if it does not say."""
        return self._about.nr_cpus

    @property
    def stats(self) -> TraceStats:
        """Counts of the whole trace."""
        return self._about.stats
