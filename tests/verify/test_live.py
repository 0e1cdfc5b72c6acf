# SPDX-License-Identifier: GPL-2.0-only
"""A running kernel's caches and zones against the model: a recorded 6.18, and the machine that the test runs on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kmem.cli import main
from kmem.errors import InputError
from kmem.verify.live import verify_live

SNAPSHOT = Path(__file__).parents[1] / "data" / "live" / "x86_64-6.18.json.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with the files of a machine with Linux 6.18, two CPUs and 24 GiB."""
    snapshot = json.loads(gzip.decompress(SNAPSHOT.read_bytes()))
    for name, text in snapshot["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in snapshot["links"].items():
        (tmp_path / "sys/kernel/slab" / name).symlink_to(target)
    return tmp_path


def test_recorded_machine(root: Path) -> None:
    caches, zones = verify_live(root, kernel="6.18.44", machine="x86_64")
    assert caches.held and caches.operations == 235
    assert zones.held and zones.operations == 3


def test_rules_of_another_version_do_not_fit(root: Path) -> None:
    caches, _ = verify_live(root, kernel="5.10.0", machine="x86_64")
    assert not caches.held
    assert {difference.where.rpartition(": ")[2] for difference in caches.differences} == {
        "align",
        "cpu_partial",
        "objs_per_slab",
        "order",
        "slab_size",
    } - {"align", "order"}


@pytest.mark.parametrize(
    ("file", "text", "where"),
    [
        ("sys/kernel/slab/task_struct/order", "2\n", "cache task_struct: order"),
        ("sys/kernel/slab/dentry/slab_size", "200\n", "cache dentry: slab_size"),
        ("sys/kernel/slab/kmalloc-64/min_partial", "6\n", "cache kmalloc-64: min_partial"),
        ("proc/sys/vm/min_free_kbytes", "70000\n", "zone DMA32, node 0: min"),
    ],
)
def test_one_changed_number_is_found(root: Path, file: str, text: str, where: str) -> None:
    (root / file).write_text(text)
    places = [d.where for result in verify_live(root, kernel="6.18.44", machine="x86_64") for d in result.differences]
    assert where in places


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run it as root"):
        verify_live(tmp_path, kernel="6.1.0", machine="x86_64")
    with pytest.raises(InputError, match="can be compared"):
        verify_live(tmp_path, kernel="6.1.0", machine="riscv64")


def test_command_line_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/sys/kernel/slab").is_dir() and not Path("/proc/zoneinfo").is_file():
        pytest.skip("this machine shows neither /sys/kernel/slab nor /proc/zoneinfo")
    status = main(["verify", "--live"])
    out = capsys.readouterr()
    assert status in (0, 1), out.err
    assert "operations identical" in out.out


def test_live_takes_no_recordings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--live", "x.jsonl.gz"]) == 2
    assert main(["verify"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
