# SPDX-License-Identifier: GPL-2.0-only
"""The known differences between model and kernel, collected from the docstrings: ``python -m website.differences``.

Whoever writes code that knowingly does something else than the kernel's says
so in the docstring, after ``Differs:``. This page is all of them.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
#: A note reaches to the next empty line or label.
NOTE = re.compile(r"^Differs:[ \n](.*?)(?=\n\s*\n|\n[A-Z]\w+:\s|\Z)", re.MULTILINE | re.DOTALL)
ORIGIN = re.compile(r"^Source: (.*?)(?=\n\s*\n|\n[A-Z]\w+:\s|\Z)", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":\w+:`~?([^`]+)`")


@dataclass(frozen=True)
class Difference:
    """One note: where it stands, what the kernel's source is, what differs."""

    module: str
    name: str
    source: str
    text: str


def plain(text: str) -> str:
    """Return a docstring's paragraph as one line of Markdown."""
    return ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")


def sentence(text: str) -> str:
    """Return a text that begins with a capital."""
    return text[:1].upper() + text[1:]


def named_docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Qualified name and text of each docstring of a module; the module's own has an empty name."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                text = ast.get_docstring(child)
                if text:
                    yield name, text
                yield from visit(child, f"{name}.")

    yield "", ast.get_docstring(tree) or ""
    yield from visit(tree, "")


def differences_of(module: str, code: str) -> Iterator[Difference]:
    """Yield the notes of one module."""
    for name, text in named_docstrings(ast.parse(code)):
        text = inspect.cleandoc(text)
        origin = ORIGIN.search(text)
        for note in NOTE.finditer(text):
            yield Difference(module, name, plain(origin[1]) if origin else "", sentence(plain(note[1])))


def differences(source: Path = SOURCE) -> list[Difference]:
    """Return all notes of the package, by module and place."""
    found: list[Difference] = []
    for path in sorted(source.rglob("*.py")):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        found.extend(differences_of(module, path.read_text()))
    return found


def page(found: list[Difference]) -> str:
    """Return the notes as a page, a table for each module."""
    lines = [
        "# Known differences",
        "",
        f"What the model knowingly does otherwise than Linux 6.1: {len(found)} notes in "
        f"{len({note.module for note in found})} modules. They are collected from the docstrings, where each stands "
        "beside the code that it is about.",
    ]
    module = ""
    for note in found:
        if note.module != module:
            module = note.module
            lines += ["", f"## {module}", "", "| where | kernel source | differs |", "|---|---|---|"]
        cells = (f"`{note.name}`" if note.name else "the module", note.source, note.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(differences()), end="")
