# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz targets: what is read, and what must come of it.

A target takes any bytes.  What must come out is a result or one
:class:`~kmem.errors.KmemError` of one line; whoever drives the target bounds
time and memory.  Inputs of targets that read several files begin with a byte
that says which of them the rest replaces.
"""

from __future__ import annotations

import functools
import gzip
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from kmem.analysis.explain import as_dict, explain, nothing_found
from kmem.analysis.stat import collect
from kmem.errors import KmemError
from kmem.machine.description import MachineDescription
from kmem.machine.folder import describe_folder
from kmem.machine.proc import parse_buddyinfo, parse_iomem, parse_meminfo, parse_pagetypeinfo, parse_zoneinfo
from kmem.machine.proc import parse_slabinfo as parse_slabinfo_view
from kmem.machine.slabinfo import parse_slabinfo
from kmem.machine.statedump import load_page_allocator
from kmem.replay.fidelity import read_dump
from kmem.report.explain import explanation_lines
from kmem.report.export import convert
from kmem.report.result import read_result
from kmem.report.stat import StatView, report_stat, stat_to_dict
from kmem.trace import open_trace
from kmem.trace.dmesg import log_lines
from kmem.trace.failures import find_failures
from kmem.trace.symbols import read_kallsyms
from kmem.verify import verify
from tests.trace.test_binary_made import COMMS, by_cpu, records, stream
from tests.trace.writers import Kernel

__all__ = ["TARGETS", "Target", "outcome"]

DATA = Path(__file__).parent.parent / "data"
MOST_TEXT = 6000
NR_EVENTS = 120


@dataclass(frozen=True, slots=True)
class Target:
    """One reader.

    Attributes
    ----------
    seeds : callable
        Yields sound inputs, small ones.
    run : callable
        Reads an input; the folder is for the files that it needs, and is
        reused.
    json_lines : bool
        Whether inputs are JSON objects, one a line.
    """

    seeds: Callable[[], Iterator[bytes]]
    run: Callable[[bytes, Path], object]
    json_lines: bool = False


def outcome(target: Target, content: bytes, folder: Path) -> bool:
    """Run a target; whether the input was read, False if it was refused.

    Raises
    ------
    BaseException
        Anything but a KmemError: the reader is at fault.
    """
    try:
        target.run(content, folder)
    except KmemError as error:
        text = str(error)
        assert text and "\n" not in text, repr(text)
        assert error.exit_code == 2
        return False
    return True


# --- recordings of events


def read_recording(content: bytes, folder: Path) -> None:
    """Read a recording to its end."""
    path = folder / "recording"
    path.write_bytes(content)
    count(path)


def count(path: Path) -> None:
    """Count the events of a recording and print what was counted."""
    with open_trace(path, stacks=True, batch_events=64) as trace:
        stat = collect(trace, stacks=True, addresses=True)
        assert trace.stats.events >= 0
    view = StatView(True, True, True, True, True, ("bytes", "hits"), 5)
    report_stat(stat, view, source="recording")
    stat_to_dict(stat, view, source="recording")
    if stat.has_stacks:
        stat.folded()


def kernels() -> Iterator[Kernel]:
    """Machines of both byte orders and word sizes."""
    for big in (False, True):
        for size in (4, 8):
            yield Kernel(big, size)


def perf_seeds() -> Iterator[bytes]:
    """perf.data: a file, a pipe, compressed, with call chains."""
    for kernel in kernels():
        events = stream(kernel, NR_EVENTS, 2)
        data = records(kernel, events, 2, per_round=40)
        packed = kernel.compressed(data, zstandard.ZstdCompressor(1).compressobj(), 3000)
        chains = b"".join(kernel.sample(event, [(1 << 64) - 128, 1, 2]) for event in events)
        yield kernel.perf_file(data)
        yield kernel.perf_pipe(data)
        yield kernel.perf_file(packed)
        yield kernel.perf_file(chains, sample_type=Kernel.SAMPLE_TYPE | 1 << 5)


def dat_seeds(version: int) -> Iterator[bytes]:
    """trace.dat of a version, with pages of two CPUs and of a further buffer."""
    for kernel in kernels():
        pages = [kernel.pages(each) for each in by_cpu(stream(kernel, NR_EVENTS, 2), 2)]
        if version == 6:
            yield kernel.dat_6(pages, COMMS, buffers={"other": pages})
        else:
            for kind in ("none", "zstd", "zlib"):
                yield kernel.dat_7(pages, COMMS, kind=kind)


def raw_files(kernel: Kernel) -> dict[str, bytes]:
    """The files of a folder copied from tracefs."""
    headers = kernel.headers()
    size = int.from_bytes(headers[12:20], "big" if kernel.big_endian else "little")
    files = {"events/header_page": headers[20 : 20 + size]}
    for event in ("kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free", "mm_page_alloc", "mm_page_free"):
        files[f"events/kmem/{event}/format"] = kernel.format(event)
    for cpu, events in enumerate(by_cpu(stream(kernel, NR_EVENTS, 2), 2)):
        files[f"per_cpu/cpu{cpu}/trace_pipe_raw"] = kernel.pages(events)
    files["saved_cmdlines"] = "".join(f"{pid} {comm}\n" for pid, comm in COMMS.items()).encode()
    files["trace_clock"] = b"[local] global counter\n"
    files["per_cpu/cpu0/stats"] = b"entries: 10\noverrun: 3\n"
    files["kallsyms"] = b"ffffffff81000000 T _text\nffffffff81000100 t other\n"
    return files


@functools.cache
def raw_base() -> list[tuple[str, bytes]]:
    """The files of the folder that the target changes one of."""
    return list(raw_files(Kernel()).items())


def raw_seeds() -> Iterator[bytes]:
    """Each file of a folder, by its number."""
    for number, (_, content) in enumerate(raw_base()):
        yield bytes([number]) + content


def read_raw(content: bytes, folder: Path) -> None:
    """Read a folder one file of which is the input."""
    files = raw_base()
    tracing = folder / "tracing"
    if not tracing.is_dir():
        for name, whole in files:
            path = tracing / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(whole)
    name, whole = files[content[0] % len(files) if content else 0]
    (tracing / name).write_bytes(content[1:])
    try:
        count(tracing)
    finally:
        (tracing / name).write_bytes(whole)


def text_seeds(*names: str) -> Iterator[bytes]:
    """The beginnings of texts, cut at a line, and a piece from their middle."""
    for name in names:
        whole = gzip.decompress((DATA / name).read_bytes())
        yield whole[: whole.find(b"\n", MOST_TEXT) + 1]
        middle = whole.find(b"\n", len(whole) // 2) + 1
        yield whole[middle : whole.find(b"\n", middle + MOST_TEXT) + 1]


def packed_seeds() -> Iterator[bytes]:
    """A text packed in each way."""
    text = next(text_seeds("boot.trace.txt.gz"))
    yield gzip.compress(text)
    yield lzma.compress(text)
    yield zstandard.ZstdCompressor().compress(text)
    yield gzip.compress(text[:1000]) + gzip.compress(text[1000:])
    yield zstandard.ZstdCompressor().compress(next(perf_seeds()))


def table_seeds() -> Iterator[bytes]:
    """The event table as Parquet and as Arrow IPC."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        path.write_bytes(next(perf_seeds()))
        for ending, kind in ((".parquet", "parquet"), (".arrow", "arrow")):
            with open_trace(path) as trace:
                convert(trace, path.with_suffix(ending), kind)
            yield path.with_suffix(ending).read_bytes()


# --- other files


_PROC: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("buddyinfo", parse_buddyinfo),
    ("pagetypeinfo", parse_pagetypeinfo),
    ("zoneinfo", parse_zoneinfo),
    ("slabinfo", lambda text: (parse_slabinfo(text), parse_slabinfo_view(text))),
    ("iomem", parse_iomem),
    ("meminfo", parse_meminfo),
)


def proc_seeds() -> Iterator[bytes]:
    """Files of /proc, by their number."""
    for machine in ("amd64-512M", "i386-1024M"):
        for number, (name, _) in enumerate(_PROC):
            yield bytes([number]) + (DATA / "proc" / machine / name).read_bytes()


def read_proc(content: bytes, folder: Path) -> None:
    """Read a file of /proc, and the machine that it describes."""
    name, parse = _PROC[content[0] % len(_PROC) if content else 0]
    text = content[1:]
    refused = None
    try:
        parse(text.decode("latin-1"))
    except KmemError as error:
        refused = error
    if name in ("zoneinfo", "iomem", "meminfo"):
        proc = folder / "proc"
        proc.mkdir(exist_ok=True)
        (proc / name).write_bytes(text)
        try:
            describe_folder(proc)
        finally:
            (proc / name).unlink()
    if refused is not None:
        raise refused


def log_seeds() -> Iterator[bytes]:
    """Kernel logs with failed allocations."""
    for path in sorted((DATA / "logs").glob("*.txt.gz"))[::3]:
        yield gzip.decompress(path.read_bytes())


def read_log(content: bytes, folder: Path) -> None:
    """Explain the failures in a log."""
    answers = explain(find_failures(log_lines(content.decode("utf-8", "replace").splitlines())))
    if not answers:
        raise nothing_found("log")
    for answer in answers:
        as_dict(answer)
        list(explanation_lines(answer, "log"))


_RECORDINGS = (
    "geometry/amd64-nomerge/krealloc.jsonl.gz",
    "geometry/i386-nomerge/kmalloc-dma_account.jsonl.gz",
    "misc/amd64/mempool-tour.jsonl.zst",
    "misc/amd64/pool-waits.jsonl.zst",
    "object-bytes/crash-freelist-corrupt/log.jsonl.zst",
)
_MOST_RECORDING = 200_000


def recording_seeds() -> Iterator[bytes]:
    """Recordings for kmem verify, small ones of all kinds."""
    for name in _RECORDINGS:
        packed = (DATA / name).read_bytes()
        if name.endswith(".gz"):
            whole = gzip.decompress(packed)
        else:
            whole = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        yield whole[: whole.rfind(b"\n", 0, _MOST_RECORDING) + 1]


def verify_recording(content: bytes, folder: Path) -> None:
    """Compare the model with a recording."""
    path = folder / "recording.jsonl"
    path.write_bytes(content)
    verify(path).to_dict()


def dump_seeds() -> Iterator[bytes]:
    """State dumps, which rebuild a page allocator."""
    for path in sorted((DATA / "logs").glob("*.dump.jsonl.gz"))[::2]:
        yield gzip.decompress(path.read_bytes())


def read_state(content: bytes, folder: Path) -> None:
    """Make a page allocator of a state dump."""
    path = folder / "dump.jsonl"
    path.write_bytes(content)
    load_page_allocator(read_dump(path))


def symbol_seeds() -> Iterator[bytes]:
    """A kallsyms, plain and packed."""
    packed = (DATA / "kallsyms" / "amd64.txt.gz").read_bytes()
    yield packed
    yield gzip.decompress(packed)[:MOST_TEXT]


def read_symbols(content: bytes, folder: Path) -> None:
    """Look addresses up in a kallsyms."""
    path = folder / "kallsyms"
    path.write_bytes(content)
    symbols = read_kallsyms(path)
    for address in (0, 1, 0xFFFFFFFF81000000, 0xFFFFFFFF81234567, (1 << 64) - 1):
        symbols.describe(address)
    symbols.address_of("_text")


def description_seeds() -> Iterator[bytes]:
    """Descriptions of machines, and a saved result."""
    yield b'\0{"arch": "x86_64", "cpus": 2, "ram": "512M", "cmdline": "slub_max_order=0"}'
    yield b'\0{"arch": "i386", "memory": [[0, 654336], [1048576, 536870912]], "cpus": 1}'
    yield b'\1{"source": "trace", "events": 10, "call_sites": [], "page": {"map": null}}'


def read_description(content: bytes, folder: Path) -> None:
    """Read a machine's description, or a replay's saved result."""
    path = folder / "file.json"
    path.write_bytes(content[1:])
    if content[:1] and content[0] % 2:
        read_result(path)
    else:
        MachineDescription.load(path)


TARGETS: dict[str, Target] = {
    "perf-data": Target(perf_seeds, read_recording),
    "trace-dat-6": Target(functools.partial(dat_seeds, 6), read_recording),
    "trace-dat-7": Target(functools.partial(dat_seeds, 7), read_recording),
    "trace-pipe-raw": Target(raw_seeds, read_raw),
    "ftrace-text": Target(
        functools.partial(
            text_seeds, "boot.trace.txt.gz", "traces/hashed.trace.txt.gz", "traces/v6.trace-cmd-report.txt.gz"
        ),
        read_recording,
    ),
    "perf-script": Target(
        functools.partial(text_seeds, "traces/amd64.perf-script.txt.gz", "traces/callchains.perf-script.txt.gz"),
        read_recording,
    ),
    "packed": Target(packed_seeds, read_recording),
    "event-table": Target(table_seeds, read_recording),
    "recording": Target(recording_seeds, verify_recording, json_lines=True),
    "state-dump": Target(dump_seeds, read_state, json_lines=True),
    "proc": Target(proc_seeds, read_proc),
    "kernel-log": Target(log_seeds, read_log),
    "kallsyms": Target(symbol_seeds, read_symbols),
    "description": Target(description_seeds, read_description),
}
