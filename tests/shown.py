# SPDX-License-Identifier: GPL-2.0-only
"""What pages show: their code blocks, and the commands of these with the output shown under them."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["blocks", "console_runs"]


def blocks(language: str, text: str) -> list[str]:
    """Blocks of one language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def console_runs(pages: Iterable[str]) -> list[tuple[str, str]]:
    """Commands of the console blocks of some pages, each with the output shown under it."""
    runs = []
    for page in pages:
        for block in blocks("console", page):
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                runs.append((command, output))
    return runs
