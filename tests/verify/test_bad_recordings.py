# SPDX-License-Identifier: GPL-2.0-only
"""Recordings and state dumps that are damaged in ways that fuzzing has found: one line of error, and no memory."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kmem.errors import InputError
from kmem.machine.statedump import load_page_allocator
from kmem.replay.fidelity import read_dump
from kmem.verify import verify

DATA = Path(__file__).parent.parent / "data"
BYTES = DATA / "object-bytes" / "crash-freelist-corrupt" / "log.jsonl.zst"
DUMP = DATA / "logs" / "amd64-384M-order0-atomic.dump.jsonl.gz"

Change = Callable[[dict[str, Any]], None]


def changed(whole: bytes, change: Change) -> bytes:
    """A recording with each of its records changed."""
    records = [json.loads(line) for line in whole.splitlines() if line.strip()]
    for record in records:
        change(record)
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def setting(key: str, value: Any) -> Change:
    """Give a key another value wherever it is."""

    def change(record: dict[str, Any]) -> None:
        if key in record:
            record[key] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("addr", "0xfvff888006614780", "unusable: invalid literal"),
        ("addr", 17, "unusable"),
        ("slab", 1 << 45, "beyond any recorded machine"),
        ("slab", -(1 << 45), "beyond any recorded machine"),
    ],
)
def test_records_of_objects_with_odd_values(key: str, value: Any, said: str, tmp_path: Path) -> None:
    whole = zstandard.ZstdDecompressor().decompressobj().decompress(BYTES.read_bytes())
    path = tmp_path / "log.jsonl"
    path.write_bytes(changed(whole, setting(key, value)))
    with pytest.raises(InputError, match=said) as error:
        verify(path)
    assert error.value.file == str(path)


def test_a_damaged_xz_recording(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(b'{"op": "k"}\n' * 1000))
    packed[40:60] = bytes(20)
    path = tmp_path / "log.jsonl"
    path.write_bytes(packed)
    with pytest.raises(InputError, match="damaged or cut off"):
        verify(path)


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("pageblocks", "types", 17, "no text: 17"),
        ("zone", "spanned", 1 << 30, "page blocks hold far less"),
        ("zone", "start_pfn", 1 << 30, "page blocks hold far less"),
    ],
)
def test_state_dumps_with_odd_values(kind: str, key: str, value: Any, said: str, tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        if record.get("t") == kind and key in record:
            record[key] = value

    path = tmp_path / "before.dump.jsonl"
    path.write_bytes(changed(gzip.decompress(DUMP.read_bytes()), change))
    with pytest.raises(InputError, match=said):
        load_page_allocator(read_dump(path))
