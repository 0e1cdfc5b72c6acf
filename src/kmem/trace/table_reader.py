# SPDX-License-Identifier: GPL-2.0-only
"""Reading the event table back: Parquet and Arrow IPC files, as ``kmem convert`` writes them.

Other programs may have been at such a file: columns may be missing, of other
types or in another order, rows may be gone.  What can be turned into the
table's own types without loss is; a value that no kernel can have makes its row
a damaged one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kmem.errors import InputError
from kmem.profile import Profile
from kmem.trace.events import EVENT_NAMES, METADATA_KEY, Event, EventBatch, EventFlag, Strings, event_schema
from kmem.trace.mapped_file import MappedFile
from kmem.trace.reader import TraceReader
from kmem.trace.scan_strings import StringTable

__all__ = ["TableReader"]

_NEEDED = ("time_ns", "event")
_LARGEST_ROW_GROUP = 1 << 24  # rows; they are read in batches, but their pages are not cut
_REMEDY = "write it with `kmem convert RECORDING FILE`"

#: Smallest and largest value of the columns, as the scanners have it (``scan_columns.pxd``).
_RANGES = {
    "pid": (0, (1 << 31) - 1),
    "bytes_req": (0, (1 << 62) - 1),
    "bytes_alloc": (0, (1 << 62) - 1),
    "order": (0, 18),
    "fallback_order": (0, 18),
    "migratetype": (-1, 15),
    "fallback_migratetype": (-1, 15),
    "node": (-1, 1023),
}
_MOST_PFN = (1 << 52) - 1
_NUMBERS = ("time_ns", "cpu", "flags", "gfp", *_RANGES)
_TEXTS = {"comm": "comms", "cache": "caches", "call_site": "call_sites", "gfp_text": "gfps"}
_ABSENT = {"migratetype": -1, "fallback_migratetype": -1, "node": -1}


class _Counts:
    """What a scanner would count."""

    def __init__(self) -> None:
        self.comms, self.caches = StringTable(text=True), StringTable(text=True)
        self.call_sites, self.gfps = StringTable(), StringTable()
        self.nr_lines = self.nr_bytes = self.nr_events = 0
        self.lost_events = self.lost_markers = 0
        self.damaged_lines = self.damaged_bytes = self.first_damaged_line = 0
        self.pointer_digits = 0
        self.comments: tuple[str, ...] = ()
        self.unknown: Counter[str] = Counter()

    def unknown_events(self) -> dict[str, int]:
        return dict(self.unknown)


class TableReader(TraceReader):
    """Reader of the event table itself.

    Parameters
    ----------
    file : MappedFile
        Closed with this.
    kind : str
        ``parquet`` or ``arrow``.
    profile : Profile
    batch_events : int
    note : str

    Raises
    ------
    InputError
        The file is damaged, or holds another table.
    """

    def __init__(self, file: MappedFile, kind: str, profile: Profile, batch_events: int, note: str = "") -> None:
        self._file = file
        self.format = kind
        self._note = note
        self._batch_events = batch_events
        self._counts = counts = _Counts()
        self._scanner = counts
        self.path = file.name
        self._profile = profile
        self._unknown_gfp: dict[str, None] = {}
        self.strings = Strings(counts.comms, counts.caches, counts.call_sites, counts.gfps)
        self._codes: dict[str, dict[str | None, int]] = {name: {None: 0} for name in _TEXTS}
        with self._refusing():
            self._open(pa.BufferReader(pa.py_buffer(file.view)))
            self._names: list[str] = self._schema.names
        missing = [name for name in _NEEDED if name not in self._names]
        if missing:
            raise InputError(
                f"is a table, but not of kmem events: it has no column {missing[0]}", file=self.path, remedy=_REMEDY
            )
        self._facts = self._read_facts(self._schema.metadata or {})
        counts.pointer_digits = self._fact("pointer_digits", (8, 16))

    def _open(self, source: Any) -> None:
        """Read the file's own description."""
        wanted = event_schema().names
        self._pieces: Callable[[], Iterator[pa.RecordBatch]]
        if self.format == "parquet":
            from pyarrow.parquet import ParquetFile

            parquet = ParquetFile(source)
            self._schema = parquet.schema_arrow
            self._rows = parquet.metadata.num_rows
            for number in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(number).num_rows
                if not 0 <= rows <= _LARGEST_ROW_GROUP:
                    raise InputError(
                        f"row group {number} is of {rows} rows, more than {_LARGEST_ROW_GROUP}",
                        file=self.path,
                        remedy="write it with smaller row groups",
                    )
            columns = [name for name in wanted if name in self._schema.names]
            self._pieces = lambda: parquet.iter_batches(batch_size=self._batch_events, columns=columns)
        else:
            table = pa.ipc.open_file(source)
            self._schema = table.schema
            self._rows = 0
            self._pieces = lambda: map(table.get_batch, range(table.num_record_batches))

    def _refusing(self) -> _Refusing:
        return _Refusing(self.path, self.format)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- what the recording said about itself

    def _read_facts(self, metadata: dict[bytes, bytes]) -> dict[str, Any]:
        try:
            facts = json.loads(metadata.get(METADATA_KEY, b"{}")[:65536])
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def _fact(self, name: str, allowed: range | tuple[int, ...]) -> int:
        value = self._facts.get(name)
        return value if type(value) is int and value in allowed else 0

    @property
    def nr_cpus(self) -> int:
        """CPUs of the recorded machine, 0 if that is not known."""
        return self._fact("nr_cpus", range(8193))

    @property
    def progress(self) -> tuple[int, int | None]:
        """Bytes of the file read so far, about, and of how many."""
        if not self._rows:
            return self._counts.nr_bytes, self._file.size
        return self._file.size * min(self._counts.nr_lines, self._rows) // self._rows, self._file.size

    def _first_damage(self) -> str:
        return f"{self.path} row {self._counts.first_damaged_line}"

    def _overwritten(self) -> int:
        return self._fact("overwritten_events", range(1 << 62))

    def _notes(self) -> Iterator[str]:
        if self._note:
            yield f"{self.path}: {self._note}"
        absent = [name for name in event_schema().names if name not in self._names]
        if absent:
            yield f"{self.path}: the table has no columns {', '.join(absent)}"
        yield from super()._notes()

    # --- rows

    def __iter__(self) -> Iterator[EventBatch]:
        pieces = self._pieces()
        while True:
            with self._refusing():
                piece = next(pieces, None)
                if piece is not None:
                    piece.validate(full=True)
            if piece is None:
                break
            self._counts.nr_bytes = min(self._counts.nr_bytes + piece.nbytes, self._file.size)
            for start in range(0, piece.num_rows, self._batch_events):
                with self._refusing():
                    batch = self._convert(piece.slice(start, self._batch_events))
                if len(batch):
                    yield batch
        if not self._counts.nr_events:
            raise self._no_events()

    def _column(self, piece: pa.RecordBatch, name: str) -> pa.Array | None:
        """A column in the table's own type; dictionaries are taken apart."""
        if name not in piece.schema.names:
            return None
        column = piece.column(piece.schema.names.index(name))
        wanted = event_schema().field(name).type
        if pa.types.is_dictionary(wanted):
            wanted = pa.string()
        if wanted == pa.string() and pa.types.is_dictionary(column.type):
            return column
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            return column.cast(wanted)
        except pa.ArrowException as error:
            raise InputError(
                f"column {name} of type {column.type} does not fit {wanted}: {_line(error)}",
                file=self.path,
                remedy=_REMEDY,
            ) from None

    def _numbers(self, piece: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
        """A column of numbers, with what stands for null."""
        dtype = event_schema().field(name).type.to_pandas_dtype()
        column = self._column(piece, name)
        if column is None:
            return np.full(piece.num_rows, _ABSENT.get(name, 0), dtype)
        if column.null_count:
            column = pc.fill_null(column, pa.scalar(_ABSENT.get(name, 0), column.type))
        found: npt.NDArray[Any] = np.array(column.to_numpy(zero_copy_only=False), dtype)
        return found

    def _encoded(self, piece: pa.RecordBatch, name: str) -> tuple[npt.NDArray[np.int64], list[str | None]]:
        """A column of texts as places in a list of texts, and the list, whose last is null."""
        column = self._column(piece, name)
        if column is None:
            return np.zeros(piece.num_rows, np.int64), [None]
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        values = [None if value is None else str(value) for value in column.dictionary.to_pylist()]
        indices = pc.fill_null(column.indices.cast(pa.int64()), len(values))
        return np.array(indices.to_numpy(zero_copy_only=False), np.int64), [*values, None]

    def _texts(self, piece: pa.RecordBatch, name: str) -> npt.NDArray[np.uint32]:
        """A column of texts, as codes of the reader's strings."""
        places, values = self._encoded(piece, name)
        known = self._codes[name]
        table: StringTable = getattr(self._counts, _TEXTS[name])
        codes = np.zeros(len(values), np.uint32)
        for place in np.unique(places).tolist():
            value = values[place]
            code = known.get(value)
            if code is None:
                code = _intern(table, value or "")
                if len(known) < len(table) + 1:
                    known[value] = code
            codes[place] = code
        found: npt.NDArray[np.uint32] = codes[places]
        return found

    def _events(self, piece: pa.RecordBatch) -> npt.NDArray[np.uint8]:
        """The column of events as codes, 0 for those that the table has no place for."""
        places, values = self._encoded(piece, "event")
        known = np.array([_EVENT_CODES.get(value or "", 0) for value in values], np.uint8)
        for place, count in zip(*(each.tolist() for each in np.unique(places, return_counts=True)), strict=True):
            if not known[place] and (len(self._counts.unknown) < 4096 or values[place] in self._counts.unknown):
                self._counts.unknown[str(values[place] or "(none)")[:100]] += count
        found: npt.NDArray[np.uint8] = known[places]
        return found

    def _convert(self, piece: pa.RecordBatch) -> EventBatch:
        """Make a batch of some rows."""
        counts = self._counts
        event = self._events(piece)
        columns: dict[str, npt.NDArray[Any]] = {name: self._numbers(piece, name) for name in _NUMBERS}
        texts: dict[str, Any] = {name: self._texts(piece, name) for name in _TEXTS}
        slab = (event > 0) & (event <= Event.KMEM_CACHE_FREE)
        pages = (event > Event.KMEM_CACHE_FREE) & (event < Event.LOST)
        target = np.where(slab, self._numbers(piece, "ptr"), np.where(pages, self._numbers(piece, "pfn"), np.uint64(0)))
        sound = ~(pages & (target > _MOST_PFN))
        for name, (least, most) in _RANGES.items():
            sound &= (columns[name] >= least) & (columns[name] <= most)
        known = event > 0
        bad = known & ~sound
        if bad.any():
            if not counts.damaged_lines:
                counts.first_damaged_line = counts.nr_lines + int(np.flatnonzero(bad)[0]) + 1
            counts.damaged_lines += int(np.count_nonzero(bad))
        counts.nr_lines += piece.num_rows
        keep = known & sound
        lost = keep & (event == Event.LOST)
        counts.lost_markers += int(np.count_nonzero(lost))
        counts.lost_events += int(columns["bytes_req"][lost].sum(dtype=np.uint64))
        counts.nr_events += int(np.count_nonzero(keep & ~lost))
        columns["flags"] &= _FLAGS
        if not keep.all():
            columns = {name: column[keep] for name, column in columns.items()}
            texts = {name: codes[keep] for name, codes in texts.items()}
            event, target = event[keep], target[keep]
        return EventBatch(**columns, **texts, event=event, target=target, strings=self.strings)


_EVENT_CODES = {name: code for code, name in enumerate(EVENT_NAMES) if name}
_FLAGS = np.uint16(sum(EventFlag))


class _Refusing:
    """Turns what pyarrow raises about a damaged file into an error that names it."""

    def __init__(self, path: str, kind: str) -> None:
        self._path, self._kind = path, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError)):
            raise InputError(
                f"is damaged, or no {self._kind} file: {_line(error)}", file=self._path, remedy="write it again"
            ) from None


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _intern(table: StringTable, text: str) -> int:
    """The code of a text; one that cannot stand in a trace is spelled out."""
    try:
        return table.code(text)
    except ValueError:
        return table.code(ascii(text).replace(" ", "_")[:100])
