# SPDX-License-Identifier: GPL-2.0-only
"""Damage of the sorts that recordings suffer, and that somebody would do to them on purpose."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["damage", "damage_bytes", "damage_json_lines"]

NUMBERS = [0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0xFFF, 0x1000, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40]
NUMBERS += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8]
VALUES: list[Any] = [None, True, -1, 1.5, "", "0xffffffffffffffff", [], {}, [[]], *NUMBERS]


def damage_bytes(content: bytearray, rng: random.Random) -> None:
    """Change a few places: bits, numbers that lie, pieces that move or go, an early end."""
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not content:
            content += b"\0"
        at = rng.randrange(len(content))
        if rng.random() < 0.3:
            at = rng.randrange(min(len(content), 4096))
        kind = rng.randrange(7)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice([1, 2, 4, 8])
            value = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            content[at : at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
        elif kind == 2:
            content[at : at + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
        elif kind == 3:
            source = rng.randrange(len(content))
            piece = content[source : source + rng.randrange(256)]
            content[at : at + len(piece)] = piece
        elif kind == 4:
            del content[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            _number(content, at, rng)
        else:
            del content[at + 1 :]


def _number(content: bytearray, at: int, rng: random.Random) -> None:
    """Replace the digits at a place by another number, as texts spell it."""
    digits = b"0123456789abcdef"
    while at < len(content) and content[at] not in digits:
        at += 1
    end = at
    while end < len(content) and content[end] in digits:
        end += 1
    if end > at:
        number = rng.choice(NUMBERS)
        content[at:end] = rng.choice([f"{number}", f"{number:x}", f"-{number}"]).encode()


def damage_json_lines(content: bytearray, rng: random.Random) -> None:
    """Change records of a file with a JSON object a line: values, keys, whole lines."""
    lines = content.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            line = bytearray(lines[at])
            damage_bytes(line, rng)
            lines[at] = line
        else:
            lines[at] = bytearray(_other_value(bytes(lines[at]), rng))
        lines = lines or [bytearray()]
    content[:] = b"\n".join(lines)


def _other_value(line: bytes, rng: random.Random) -> bytes:
    """Change one value, anywhere in a JSON value."""
    try:
        whole = json.loads(line)
    except (ValueError, RecursionError):
        return line
    places: list[tuple[Any, Any]] = []
    todo = [whole]
    while todo:
        node = todo.pop()
        if isinstance(node, (dict, list)):
            for key, value in list(node.items() if isinstance(node, dict) else enumerate(node))[:200]:
                places.append((node, key))
                todo.append(value)
    if not places:
        return line
    node, key = rng.choice(places)
    if isinstance(node, dict) and rng.random() < 0.15:
        del node[key]
    elif isinstance(node[key], int) and rng.random() < 0.5:
        node[key] += rng.choice([-1, 1, 4096, 1 << 12, 1 << 20, 1 << 32])
    else:
        node[key] = rng.choice(VALUES)
    return json.dumps(whole).encode()


def damage(content: bytearray, rng: random.Random, *, json_lines: bool = False) -> None:
    """Damage a recording; `json_lines` says that it is made of records and not of bytes."""
    if json_lines and rng.random() < 0.8:
        damage_json_lines(content, rng)
    else:
        damage_bytes(content, rng)
