# SPDX-License-Identifier: GPL-2.0-only
"""Write the documents' console blocks anew from real runs: ``python tests/meta/refresh_readme.py``.

The commands are those that the documents show; of a long report only the
sections named in ``KEPT`` are shown, and three dots stand for the others.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = {
    "kmem replay --top 4 tests/data/boot.trace.txt.gz": (
        "Machine",
        "Requests",
        "Zones, in pages",
        "Caches by peak",
        "Fragmentation by order at the end",
    )
}


def run(command: str) -> str:
    """Run a command of the program from the project's folder."""
    words = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def shorten(text: str, kept: tuple[str, ...]) -> str:
    """Leave out the sections that are not to be shown."""
    parts: list[str] = []
    for section in text.rstrip("\n").split("\n\n"):
        part = section if section.split("\n", 1)[0] in kept else "..."
        if part != "..." or parts[-1:] != ["..."]:
            parts.append(part)
    return "\n\n".join(parts) + "\n"


def refresh(block: re.Match[str]) -> str:
    """Return a console block with the output of today."""
    text = ""
    for command in re.findall(r"^\$ (.*)$", block[1], re.MULTILINE):
        output = run(command)
        text += f"$ {command}\n{shorten(output, KEPT[command]) if command in KEPT else output}"
    return f"```console\n{text}```"


if __name__ == "__main__":
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = document.read_text()
        document.write_text(re.sub(r"^```console\n(.*?)^```$", refresh, text, flags=re.MULTILINE | re.DOTALL))
