# SPDX-License-Identifier: GPL-2.0-only
"""Kernel logs as they are stored: the same report is read from each form of the same log."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kmem.errors import InputError
from kmem.trace.dmesg import LogLine, log_lines, read_log
from kmem.trace.failures import FailureReport, find_failures

LOGS = Path(__file__).parents[1] / "data" / "logs"
NAMES = (
    "amd64-1024M-numa2-slub-both-nodes-full",
    "amd64-256M-oom-memcg",
    "amd64-256M-oom-tail-dev-zero",
    "amd64-384M-sysrq-m",
    "i386-1024M-order4-highuser-fragmented",
    "i386-1024M-vmalloc-exceeds-total",
)


def lines_of(name: str) -> list[str]:
    return gzip.decompress((LOGS / f"{name}.txt.gz").read_bytes()).decode().splitlines()


def bare(line: str) -> str:
    return line.split("] ", 1)[1]


def each(change: Callable[[str, str], str]) -> Callable[[list[str]], list[str]]:
    return lambda lines: [change(line.split("] ", 1)[0] + "]", bare(line)) for line in lines]


def with_others_between(lines: list[str]) -> list[str]:
    out = []
    for n, line in enumerate(lines):
        out.append("Nov 23 01:02:03 host kernel: " + line)
        if n % 7 == 3:
            out.append("Nov 23 01:02:03 host systemd[1]: Started 内存 service, free: 12kB.")
            out.append("Nov 23 01:02:03 host earlyoom[361]: mem avail:  3056 of  3836 MiB (79.66%)")
    return out


STORED: dict[str, Callable[[list[str]], list[str]]] = {
    "coloured": each(lambda stamp, text: f"\x1b[32m{stamp} \x1b[0m\x1b[33m{text[:6]}\x1b[0m{text[6:]}"),
    "dmesg -T": each(lambda stamp, text: f"[Mon Nov 23 01:02:03 2026] {text}"),
    "dmesg -T, elsewhere": each(lambda stamp, text: f"[пн ноя 23 01:02:03 2026] {text}"),
    "dmesg --time-format iso": each(lambda stamp, text: f"2026-11-23T01:02:03,123456+00:00 {text}"),
    "dmesg -x": each(lambda stamp, text: f"kern  :warn  : {stamp} {text}"),
    "dmesg -d": each(lambda stamp, text: f"{stamp[:-1]} <    0.000012>] {text}"),
    "dmesg -H": each(lambda stamp, text: f"[  +0.000012] {text}"),
    "dmesg --json": each(lambda stamp, text: f'         "msg": {json.dumps(text)}'),
    "short-monotonic": each(lambda stamp, text: f"{stamp} myhost kernel: {text}"),
    "no host": each(lambda stamp, text: f"{stamp} kernel: {text}"),
    "short-full": each(lambda stamp, text: f"Mon 2026-11-23 01:02:03 UTC myhost kernel: {text}"),
    "short-unix": each(lambda stamp, text: f"1795395723.123456 myhost kernel: {text}"),
    "syslog, another language": each(lambda stamp, text: f"11月 23 01:02:03 host kernel: {stamp} {text}"),
    "syslog without host": each(lambda stamp, text: f"Dec 20 14:02:50 kernel: {text}"),
    "busybox": each(lambda stamp, text: f"Nov 23 01:02:03 host kern.warn kernel: {stamp} {text}"),
    "logread": each(lambda stamp, text: f"Mon Nov 23 01:02:03 2026 kern.warn kernel: {stamp} {text}"),
    "rfc5424": each(lambda stamp, text: f"<4>1 2026-11-23T01:02:03.123Z host kernel - - - {stamp} {text}"),
    "kmsg of a vendor": each(lambda stamp, text: f"<4>{stamp[:-1]},1] {text}"),
    "with the task": each(lambda stamp, text: f"<4>{stamp} (0)[107:sh]{text}"),
    "logcat": each(lambda stamp, text: f"11-23 01:02:03.123     0     0 W kernel  : {text}"),
    "logcat, time": each(lambda stamp, text: f"11-23 01:02:03.123 W/kernel  (    0): {stamp} {text}"),
    "docker": each(lambda stamp, text: json.dumps({"log": f"{stamp} {text}\n", "stream": "stderr", "time": "x"})),
    "collector": each(lambda stamp, text: json.dumps({"jsonPayload": {"MESSAGE": text}, "severity": "INFO"})),
    "cri": each(lambda stamp, text: f"2026-11-23T01:02:03.123456789Z stderr F {stamp} {text}"),
    "console server": each(lambda stamp, text: f"[2026-11-23 01:02:03.123] {stamp} {text}"),
    "milliseconds": each(lambda stamp, text: f"{stamp[:-4]}] {text}"),
    "quoted": each(lambda stamp, text: f"> > {stamp} {text}"),
    "indented": each(lambda stamp, text: f"    {stamp} {text}"),
    "grep": each(lambda stamp, text: f"/var/log/kern.log.1:Nov 23 01:02:03 host kernel: {stamp} {text}"),
    "grep -n": each(lambda stamp, text: f"12:{stamp} {text}"),
    "web page": each(lambda stamp, text: f"{stamp} {text}".replace("<", "&lt;").replace(">", "&gt;")),
    "other programs between": with_others_between,
}


def same(reports: list[FailureReport]) -> list[FailureReport]:
    return [dataclasses.replace(report, line=0, time_us=None, text="") for report in reports]


@pytest.mark.parametrize("how", STORED)
def test_stored_in_another_way(how: str) -> None:
    for name in NAMES:
        lines = lines_of(name)
        assert same(find_failures(log_lines(STORED[how](lines)))) == same(find_failures(log_lines(lines))), name


def test_journal_export_of_messages_with_line_breaks() -> None:
    """Journald exports them as a length of 8 bytes and the text."""
    for name in NAMES:
        lines = lines_of(name)
        messages = "\0".join(map(bare, lines)).replace("\0 active_file", "\n active_file").split("\0")
        assert len(messages) == len(lines) - sum(bare(line).startswith(" active_file") for line in lines)
        stored: list[str] = []
        for message in messages:
            field = f"MESSAGE={message}"
            if "\n" in message:
                field = f"MESSAGE\n{len(message).to_bytes(8, 'little').decode('latin-1')}{message}"
            stored += ["__CURSOR=s=1;i=2", "PRIORITY=4", *field.split("\n"), "_TRANSPORT=kernel", ""]
        assert same(find_failures(log_lines(stored))) == same(find_failures(log_lines(lines))), name


def test_without_prefixes_cut_at_the_edge_of_a_terminal() -> None:
    for name in NAMES:
        lines = [bare(line) for line in lines_of(name)]
        cut = [line[at : at + 80] for line in lines for at in range(0, max(len(line), 1), 80)]
        assert same(find_failures(log_lines(cut))) == same(find_failures(log_lines(lines))), name


def test_only_the_first_line_of_a_message_has_a_prefix() -> None:
    lines = [
        "[    1.000000] a",
        "Call Trace:",
        "[<802f63f2>] dump_stack+0x1e/0x3c",
        "lowmem_reserve[]: 0 0",
        "wrapped here",
    ]
    assert [line.text for line in log_lines(lines)] == [
        "a",
        "Call Trace:",
        "[<802f63f2>] dump_stack+0x1e/0x3c",
        "lowmem_reserve[]: 0 0 wrapped here",
    ]


def test_callers_and_foreign_lines() -> None:
    raw = [
        "[    1.000000][  T107] one",
        "[    1.000001] [    C1] two",
        "4,12,1000002,-,caller=T7;three",
        "Nov 23 01:02:03 host sshd[77]: kernel: four",
        "Nov 23 01:02:03 host dmesg[78]: [    1.000003] five",
    ]
    read = [(line.text, line.caller, line.foreign) for line in log_lines(raw)]
    assert read[:3] == [("one", "T107", False), ("two", "C1", False), ("three", "T7", False)]
    assert [line[2] for line in read[3:]] == [True, False]
    assert read[4][0] == "five"


# -- files --------------------------------------------------------------------

FAILURE = "[    9.000000] a: page allocation failure: order:1, mode:0x20"


def texts(path: Path) -> list[LogLine]:
    return [line for line in read_log(path) if "page allocation" in line.text]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    log = tmp_path / "log"
    log.write_bytes(end.join(["[    1.000000] x", FAILURE, "[    9.000001] y"]).encode())
    assert [(line.number, line.text) for line in texts(log)] == [(2, FAILURE.split("] ")[1])]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_what_windows_makes_of_text(tmp_path: Path, codec: str) -> None:
    log = tmp_path / "log"
    mark = b"\xfe\xff" if codec == "utf-16-be" else b""
    log.write_bytes(mark + f"[    1.000000] ünïcode\r\n{FAILURE}\r\n".encode(codec))
    assert len(texts(log)) == 1


def test_bytes_that_are_no_text_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\0" * 4000 + b"\n[    1.000000] caf\xe9 \xff\xfe\n" + FAILURE.encode() + b" \x80\n")
    assert len(texts(log)) == 1


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, b"\0" * 5000, b"\1\2\3\4" * 999])
def test_no_text(tmp_path: Path, data: bytes) -> None:
    log = tmp_path / "log"
    log.write_bytes(data)
    with pytest.raises(InputError, match="not a text"):
        list(read_log(log))


def test_long_stretches_without_a_report_are_left_out_and_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    filler = "[    2.000000] usb 1-1: new high-speed USB device number 7 using ehci\n" * 40_000
    log.write_text(filler + FAILURE + "\n" + filler + FAILURE.replace("failure", "fai\nlure") + "\n")
    lines = list(read_log(log))
    found = [line for line in lines if "page allocation failure" in line.text or "page allocation fai" in line.text]
    assert [line.number for line in found] == [40_001, 80_002]
    assert len(lines) < 80_000
