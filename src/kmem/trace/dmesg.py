# SPDX-License-Identifier: GPL-2.0-only
"""Kernel logs: their lines without the frills of whoever stored them.

A line comes from dmesg, the console, journald, syslog, logcat or a container's
log, with or without time stamps and colours, perhaps wrapped on its way through
a mail or a narrow terminal.  :func:`read_log` yields what the kernel printed.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import html
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kmem.errors import InputError
from kmem.trace.source import ByteSource

__all__ = ["LogLine", "log_lines", "read_log"]

_MAX_LINE = 1 << 16
_LEARNED_LINES = 5000
_MOST_PREFIXES = 6
_MARGIN = " \t>|"
_WRAP_WIDTHS = range(40, 161)
_EXPORT_FIELD = re.compile(r"[A-Z_][A-Z_0-9]*=")
_DMESG_JSON = re.compile(r'\s*"msg": (".*"),?\s*')
_KMSG = re.compile(r"\d+,\d+,(?P<us>\d+),(?P<flags>[^;]*);(?P<text>.*)", re.DOTALL)
_KMSG_CALLER = re.compile(r"caller=([TC]\d+)")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\([A-B]")
# "[   12.345678][  T107] ", with the step since the line before (dmesg -d) or the
# CPU and task that vendors' kernels put there
_STAMP = re.compile(
    r"\[ *(\d{1,12})\.(\d{3,9})(?:,\d+)?(?: +<[ \d.+-]+>)?\] ?"
    r"(?:\[ *([TC]\d+)\] ?|\(\d+\)\[[^\]]{1,40}\]:? ?|\[c\d +[^\]]{1,40}\] ?)?"
)
_ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*(?: ?(?:[+-]\d\d:?\d\d|Z|[A-Z]{3,4})\b)?"
_DATE = (
    rf"(?:{_ISO}|\w{{2,4}} {_ISO}|[^\s\[\]]{{1,6}} {{1,2}}\d{{1,2}} (?:\d{{4}} )?\d\d:\d\d:\d\d(?:\.\d+)?"
    r"|\w{3} \w{3} {1,2}\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)? \d{4}|\d{10}\.\d{6})"
)
_KERNEL = re.compile(
    rf"(?:<\d{{1,3}}>1? ?)?(?:{_DATE} (?:(?!kern\.)(?P<host>\S*[^\s:]) )?(?:\S*[^\s:] )?)?kernel(?:\[\d+\])?: "
)
_RFC_5424 = re.compile(rf"<\d{{1,3}}>1 {_ISO} \S+ (?P<program>\S+) \S+ \S+ (?:-|\[[^\]]*\]) ")
_PROGRAM = re.compile(rf"{_DATE} (?:\S+ ){{1,2}}[\w./@()+-]+(?:\[\d+\])?: ")
# what looks like a program's line: dmesg --time-format iso, a container's log, a remote console
_NO_PROGRAM = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{6}[+-]\d\d:\d\d "
    rf"|{_ISO} (?:stdout|stderr) [FP] |{_DATE} \S+ (?=\[ *\d+\.\d{{6}}\])"
)
_LOGCAT = re.compile(
    r"(?:(?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d\.\d{3,9} +)?"
    r"(?:(?:\w+ +)?\d+ +\d+ +[VDIWEF] (?P<tag>[^:]{0,40}?) *: |[VDIWEF]/(?P<brief>[^(:]{0,40}?) *\( *\d+\): )"
)
_OTHERS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_ISO} ",
        r"<\d{1,3}>",  # the level, as in a raw kernel log
        r"(?:kern|user|daemon|syslog) *:\w+ *: ",  # dmesg -x
        r"\[[^\[\]]{0,30}\d\d:\d\d:\d\d[^\[\]]{0,20}\] ?",  # dmesg -T in any language, a console server
        r"\[ *\+\d+\.\d+\] |\[\w{3} ?\d\d \d\d:\d\d\] |\[< *\d+\.\d+>\] ",  # dmesg -H, --reltime, delta
        r"[\w./-]*(?:log|messages|dmesg)[\w.-]*:|\d{1,9}[:-](?=\[|<\d|\w{3} [ \d]\d |\d{4}-)",  # grep, grep -n
        r"\S+ kernel: ",  # journalctl -o short-monotonic, after its stamp
    )
)
#: How lines of a report begin, where only the first of several lines has a prefix.
_OWN_LINE = re.compile(
    r"\[<[0-9a-f]{8}|Call [Tt]race:|Mem-[Ii]nfo:|lowmem_reserve\[|Node \d|CPU: \d|Hardware name|[a-z_]+_anon:|"
    r"(?:DMA|DMA32|Normal|HighMem|Movable)(?: free:|: ?\d)|\d+ (?:total )?page|(?:Free|Total) swap"
)
#: What some line of a report has in it, without its spaces, which may have become line breaks.
_WORTH_READING = (
    *(b"pageallocation", b"oom-killer", b"oom_kill", b"vmapallocation", b"vmalloc", b"Unabletoallocate"),
    *(b"page_alloc.c", b"em-Info", b"em-info", b"illprocess", b"illedprocess", b"lowmem_reserve"),
    *(b"Linuxversion", b"--Boot", b"--Reboot", b"-Reboot"),
)
_BREAKS = b" \n\r"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that the kernel printed.

    Attributes
    ----------
    number : int
        Line of the file, from 1.
    text : str
        Without time stamp and prefix.
    time_us : int or None
        Microseconds since boot, where the log says.
    stamped : bool
        Whether the line had any prefix, so that it is the beginning of a line.
    caller : str
        Task (``T107``) or CPU (``C1``) that printed it, empty if the log does not say.
    foreign : bool
        Whether another program than the kernel wrote it.
    host : str
        The machine, where syslog names it.
    """

    number: int
    text: str
    time_us: int | None
    stamped: bool
    caller: str = ""
    foreign: bool = False
    host: str = ""


@dataclass(slots=True)
class _Bare:
    """A raw line taken apart."""

    text: str
    time_us: int | None = None
    stamped: bool = False
    caller: str = ""
    foreign: bool = False
    host: str = ""

    def line(self, number: int) -> LogLine:
        return LogLine(number, self.text, self.time_us, self.stamped, self.caller, self.foreign, self.host)

    def take(self, match: re.Match[str], *, foreign: bool = False) -> bool:
        """Cut a prefix off; whether there was one."""
        self.text, self.stamped = self.text[match.end() :], True
        self.foreign = foreign
        return match.end() > 0

    def stamp(self) -> bool:
        """Cut the kernel's own time stamp off: what follows is its own line, whoever passed it on."""
        match = _STAMP.match(self.text)
        if match is None:
            return False
        self.time_us = int(match[1]) * 1_000_000 + int(match[2].ljust(6, "0")[:6])
        self.caller = match[3] or ""
        return self.take(match)

    def stored(self) -> bool:
        """Cut off what a logging program put in front."""
        text = self.text
        if match := _KERNEL.match(text):
            self.host = match["host"] or self.host
            return self.take(match)
        if match := _RFC_5424.match(text):
            return self.take(match, foreign=match["program"] != "kernel")
        if match := _LOGCAT.match(text):
            return self.take(match, foreign=(match["tag"] or match["brief"] or "").strip() != "kernel")
        if match := _NO_PROGRAM.match(text):
            return self.take(match)
        if match := _PROGRAM.match(text):
            return self.take(match, foreign=True)
        return any((match := pattern.match(text)) and self.take(match) for pattern in _OTHERS)


def _bare(raw: str) -> _Bare:
    """Take the prefixes off a raw line."""
    if "\x1b" in raw:
        raw = _ANSI.sub("", raw)
    if "&" in raw and ("&lt;" in raw or "&gt;" in raw):
        raw = html.unescape(raw)
    bare = _Bare(raw)
    first = raw[:1]
    if first.isdigit() and (kmsg := _KMSG.fullmatch(raw)):
        caller = _KMSG_CALLER.search(kmsg["flags"])
        return _Bare(kmsg["text"], int(kmsg["us"]), True, caller[1] if caller else "")
    if first == "[" and bare.stamp() and not bare.text.startswith(("[", "<")) and "kernel: " not in bare.text[:80]:
        return bare
    if not first:
        return bare
    if first in _MARGIN:  # quoted in a mail, or set off in a page; or the rest of a message
        inner = _bare(raw.lstrip(_MARGIN))
        return inner if inner.stamped else bare
    for _ in range(_MOST_PREFIXES):
        if bare.foreign and not bare.stamp():
            break
        if not (bare.time_us is None and bare.stamp()) and not (bare.text[:1] not in " \t" and bare.stored()):
            break
    return bare


def _nested(entry: dict[str, Any], names: tuple[str, ...]) -> tuple[str, object] | None:
    for name in names:
        value = entry.get(name)
        if isinstance(value, dict):
            return _nested(value, names)
        if value is not None:
            return name, value
    return None


def _json_message(raw: str) -> tuple[str, bool] | None:
    """The message of a line of JSON, and whether it is another program's; None if it is none.

    ``journalctl -o json``, the log of a container, ``dmesg --json`` and what
    collectors make of them.
    """
    if '"msg":' in raw and (match := _DMESG_JSON.fullmatch(raw)):
        entry: Any = {"msg": None}
        with contextlib.suppress(orjson.JSONDecodeError):
            entry["msg"] = orjson.loads(match[1])
    elif raw.startswith("{") and '"' in raw:
        try:
            entry = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
    else:
        return None
    found = _nested(entry, ("MESSAGE", "log", "msg", "message", "jsonPayload")) if isinstance(entry, dict) else None
    message = found[1] if found else None
    if isinstance(message, list):  # bytes that are no UTF-8
        message = bytes(b for b in message if isinstance(b, int) and 0 <= b < 256).decode("utf-8", "replace")
    if not isinstance(message, str):
        return None
    return message.rstrip("\n"), entry.get("_TRANSPORT", "kernel") != "kernel"


class _Joiner:
    """Puts wrapped lines together again, one raw line after the other."""

    def __init__(self, width: int, whole: bool) -> None:
        self.width = width
        self.whole = whole  # whether lines of just this width go on, in a log without prefixes
        self.held: LogLine | None = None
        self.held_raw = ""
        self.last = 0
        self.prefixes = False
        self.export = False
        self.counted = False

    def feed(self, number: int, raw: str) -> Iterator[LogLine]:
        """Take a raw line; yield the lines that are complete by now."""
        counted, self.counted = self.counted, raw == "MESSAGE"
        if self.counted:
            self.export = True
            return
        if counted:  # journalctl -o export: the length in 8 bytes, then a text with line breaks
            raw = "MESSAGE=" + raw[8:]
        if "\0" in raw:
            raw = raw.replace("\0", "")
        found = _json_message(raw)
        if found is None:
            stripped = raw.lstrip() if self.export or raw.startswith(("MESSAGE=", " ")) else raw
            if stripped.startswith("MESSAGE="):
                found, self.export = (stripped[8:], False), True
            elif self.export and (not stripped or _EXPORT_FIELD.match(stripped)):
                return
        if found is not None:
            message, foreign = found
            for part in message.split("\n"):
                yield from self.flush()
                bare = _bare(part)
                bare.foreign = bare.foreign or (foreign and bare.time_us is None)
                bare.stamped = self.prefixes = True
                self.hold(bare.line(number), raw)
            return
        bare = _bare(raw)
        self.prefixes = self.prefixes or bare.stamped
        held = self.held
        if held is not None and not bare.stamped and self.goes_on(number, bare.text):
            glue = "" if len(self.held_raw) == self.width or held.text.endswith(" ") or bare.text[:1] == " " else " "
            text = held.text + glue + bare.text
            self.hold(dataclasses.replace(held, text=text), raw)
            self.last = number
            return
        yield from self.flush()
        self.hold(bare.line(number), raw)

    def hold(self, line: LogLine, raw: str) -> None:
        self.held, self.held_raw, self.last = line, raw, line.number

    def goes_on(self, number: int, text: str) -> bool:
        """Whether a line without a prefix belongs to the one before it."""
        assert self.held is not None
        if number != self.last + 1 or not text.strip() or len(self.held.text) + len(text) >= _MAX_LINE:
            return False
        if text.startswith("-- ") or (len(self.held_raw) != self.width and _OWN_LINE.match(text)):
            return False
        return self.prefixes or (self.whole and len(self.held_raw) == self.width)

    def flush(self) -> Iterator[LogLine]:
        """Yield the line that was held back."""
        if self.held is not None:
            yield self.held
        self.held = None


def log_lines(raw_lines: Iterable[str]) -> Iterator[LogLine]:
    """Yield the kernel's lines of a log, wrapped ones put together again.

    Parameters
    ----------
    raw_lines : iterable of str
        Lines without their line breaks.

    Notes
    -----
    A line without a prefix, in a log whose lines have one, goes on with the
    line before it.  If lines that are gone on with are all equally long, the
    log was cut at that width, perhaps within words; else it was cut at spaces.
    """
    yield from _numbered_lines(enumerate(raw_lines, 1))


def _numbered_lines(numbered: Iterable[tuple[int, str]]) -> Iterator[LogLine]:
    raw = iter(numbered)
    ahead = list(itertools.islice(raw, _LEARNED_LINES))
    joiner = _Joiner(*_cut_width([line for _, line in ahead]))
    for number, line in itertools.chain(ahead, raw):
        yield from joiner.feed(number, line)
    yield from joiner.flush()


def _cut_width(lines: list[str]) -> tuple[int, bool]:
    """The width that a log was cut at, within words if it came to that, and whether it has no prefixes; 0 if not."""
    stamped = [_bare(line).stamped or _json_message(line) is not None for line in lines]
    if not any(stamped):
        width = max(map(len, lines), default=0)
        # a whole report has lines far longer than any terminal is wide
        return (width, True) if width in _WRAP_WIDTHS and sum(len(line) == width for line in lines) >= 3 else (0, False)
    widths = [len(lines[i - 1]) for i in range(1, len(lines)) if not stamped[i] and lines[i].strip()]
    if not widths:
        return 0, False
    width = max(widths)
    return (width if widths.count(width) >= 0.9 * len(widths) else 0), False


def read_log(path: str | Path) -> Iterator[LogLine]:
    """Yield the kernel's lines of a log file.

    Parameters
    ----------
    path : str or Path
        Text, plain or compressed; ``-`` is standard input. Stretches in which
        no report can be are left out. Lines of other programs are yielded
        where they cannot be told apart, or marked.

    Raises
    ------
    InputError
        If the file cannot be read, is empty or is binary.

    Notes
    -----
    Memory does not grow with the log.
    """
    yield from _numbered_lines(_raw_lines(path))


def _raw_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without the stretches that hold nothing of a report."""
    try:
        source = ByteSource(str(path))
    except InputError as error:
        message = error.message.removesuffix(", not a trace text")
        raise InputError(message, file=error.file, byte=error.byte, remedy="give the output of dmesg") from None
    with contextlib.closing(source):
        number = 1
        active = True  # the beginning is read in any case, to learn what the lines look like
        before = b""
        for block in _blocks(_as_utf8(source)):
            if number == 1:
                _check_text(block, source.name)
            dense = (before + block).translate(None, _BREAKS)
            worth = any(word in dense for word in _WORTH_READING)
            if worth or active:
                for line in block.removesuffix(b"\n").split(b"\n"):
                    yield number, line[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r")
                    number += 1
            else:
                number += block.count(b"\n")
            active, before = worth, block[-4096:]


def _as_utf8(source: ByteSource) -> Iterator[bytes]:
    """The bytes of a log; those of a PowerShell redirection, which are UTF-16, as UTF-8."""
    chunks = source.chunks()
    first = next(chunks, b"")
    codec = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(first[:2])
    if codec is None:
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(codec)("replace")
    for chunk in itertools.chain([first[2:]], chunks):
        yield decoder.decode(chunk).encode("utf-8", "replace")


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Bytes cut at ends of lines."""
    rest: list[bytes] = []
    size = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, chunk[:end]])
            rest, size = [], 0
        if end < len(chunk) and size < _MAX_LINE * 16:  # the rest of a longer line is of no use
            rest.append(chunk[end:])
            size += len(chunk) - end
    if size:
        yield b"".join(rest)


def _check_text(block: bytes, name: str) -> None:
    head = block[:4096]
    odd = sum(byte < 32 and byte not in b"\t\n\r\x1b\x0c\b" for byte in head.lstrip(b"\0"))
    if odd > len(head) // 16 or not head.strip(b"\0"):
        raise InputError("not a text", file=name, line=1, remedy="give the output of dmesg")
