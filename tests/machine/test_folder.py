# SPDX-License-Identifier: GPL-2.0-only
"""Machines from copies of /proc files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmem.errors import InputError
from kmem.machine.folder import describe_folder


@pytest.mark.parametrize("kib", [1 << 33, 1 << 43, 1 << 63])
def test_memory_that_no_machine_has_is_refused_at_once(kib: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal:       {kib + 1} kB\n")
    with pytest.raises(InputError, match=f"MemTotal of {kib + 1} KiB cannot be right") as error:
        describe_folder(tmp_path)
    assert error.value.file == str(tmp_path / "meminfo")


def test_the_most_memory_that_can_be(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal:       {7 << 30} kB\n")
    description, _ = describe_folder(tmp_path)
    assert 7 << 40 < description.memory_bytes < 8 << 40
