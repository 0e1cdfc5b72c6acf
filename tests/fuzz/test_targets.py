# SPDX-License-Identifier: GPL-2.0-only
"""Every fuzz target: its seeds are read, and damage is refused or read, never anything else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kmem.errors import KmemError
from tests.fuzz.mutate import damage
from tests.fuzz.targets import TARGETS, outcome

DAMAGED = 60
#: Cut off from what they need, some seeds are refused: a piece of a recording, one of the files of a folder.
REFUSED = {"recording", "description", "proc"}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_sound(name: str, tmp_path: Path) -> None:
    seeds = list(TARGETS[name].seeds())
    assert seeds
    found = [outcome(TARGETS[name], content, tmp_path) for content in seeds]
    assert any(found) if name in REFUSED else all(found)


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_refused_or_read(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    rng = random.Random(name)
    for _ in range(DAMAGED):
        content = bytearray(rng.choice(seeds))
        damage(content, rng, json_lines=target.json_lines)
        outcome(target, bytes(content), tmp_path)


def test_what_is_no_error_of_the_input_comes_through(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    def run(content: bytes, folder: Path) -> None:
        raise Broken if content else KmemError("refused")

    target = type(TARGETS["proc"])(lambda: iter(()), run)
    assert not outcome(target, b"", tmp_path)
    with pytest.raises(Broken):
        outcome(target, b"x", tmp_path)
