# SPDX-License-Identifier: GPL-2.0-only
"""``kmem gfp``."""

from __future__ import annotations

import json

import pytest

from kmem.cli import main


def test_decode_and_encode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gfp", "0xcc0", "GFP_ATOMIC|__GFP_NOWARN", "0x140dca(anything)", "3264"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["mask", "Linux", "6.1", "bits"]
    assert lines[1].split()[:2] == ["0xcc0", "GFP_KERNEL"]
    assert lines[2].split()[:2] == ["0x2a20", "GFP_ATOMIC|__GFP_NOWARN"]
    assert lines[3].split()[:2] == ["0x140dca", "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"]
    assert lines[4] == lines[1]
    # The columns are aligned.
    assert len({line.index(line.split()[1]) for line in lines[1:]}) == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gfp", "--json", "--kernel", "4.14.336", "0x14000c0"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "kernel": "4.14",
        "kind": "gfp",
        "flags": [
            {
                "mask": 0x14000C0,
                "hex": "0x14000c0",
                "text": "GFP_KERNEL",
                "bits": ["__GFP_IO", "__GFP_FS", "__GFP_DIRECT_RECLAIM", "__GFP_KSWAPD_RECLAIM"],
            }
        ],
    }


def test_slab_and_page_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gfp", "--slab", "0x40042000"]) == 0
    assert "SLAB_HWCACHE_ALIGN|SLAB_PANIC|__CMPXCHG_DOUBLE" in capsys.readouterr().out
    assert main(["gfp", "--page", "slab|head"]) == 0
    assert "0x10200 " in capsys.readouterr().out


@pytest.mark.parametrize("kind", [[], ["--slab"], ["--page"]])
def test_list(kind: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gfp", "--list", "--json", *kind]) == 0
    flags = json.loads(capsys.readouterr().out)["flags"]
    assert len(flags) >= 20
    assert all(isinstance(mask, int) and mask > 0 for mask in flags.values())
    assert main(["gfp", "--list", *kind]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(flags) + 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no flags given; give 0xcc0"),
        (["GFP_KERNAL"], "did you mean GFP_KERNEL?"),
        (["0x1ffffffff"], "does not fit into 32 bits"),
        (["--kernel", "six", "0x1"], "'six' is not a kernel version"),
        (["--page", "--kernel", "5.10", "0x1"], "page flags of Linux 5.10 are not known"),
        (["--page", "--kernel", "5.10", "--list"], "page flags of Linux 5.10 are not known"),
        (["0" * 100_000 + "x"], "unknown GFP flag"),
    ],
)
def test_refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gfp", *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 400
